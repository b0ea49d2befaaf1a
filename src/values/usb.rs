//! Vendor and product ids of USB devices.

use std::fmt;
use std::str::FromStr;

use super::hex;

/// The vendor and product ids of a USB device, `VVVV:PPPP`, in lower-case hexadecimal digits.
///
/// The text to parse may be in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsbIds {
    vendor: u32,
    product: u32,
}

/// Why a text does not identify a USB device.
///
/// Cause: a typing mistake
/// Cure: `lsusb` on the node, or the USB devices in Harvester
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsbIdsError {
    #[error("it has neither the form VVVV:PPPP nor that of a Harvester USBDevice's name")]
    Form,
}

impl UsbIds {
    /// The node, vendor and product in the name of Harvester's USBDevice: `node1-046d-c52b-001002` is `046d:c52b` on
    /// `node1`, currently device 2 on bus 1. Source: `harvester/pcidevices`,
    /// `pkg/controller/usbdevice/usbdevice_controller.go`, `usbDeviceName`.
    pub(crate) fn of_usb_device(name: &str) -> Option<(&str, Self)> {
        let (rest, place) = name.rsplit_once('-')?;
        let (rest, product) = rest.rsplit_once('-')?;
        let (node, vendor) = rest.rsplit_once('-')?;
        let is_place = place.len() == 6 && place.bytes().all(|b| b.is_ascii_digit());
        Some((node, Self::of_parts(vendor, product)?)).filter(|_| is_place)
    }

    /// The device with this vendor and product, as KubeVirt reads them: up to four hexadecimal digits each.
    pub(crate) fn of_parts(vendor: &str, product: &str) -> Option<Self> {
        let read = |text: &str| hex(text, 1..=4, 0xffff);
        Some(Self { vendor: read(vendor)?, product: read(product)? })
    }
}

impl fmt::Display for UsbIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vendor, product } = self;
        write!(f, "{vendor:04x}:{product:04x}")
    }
}

impl FromStr for UsbIds {
    type Err = UsbIdsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (vendor, product) = text.split_once(':').ok_or(UsbIdsError::Form)?;
        let read = |text: &str| hex(text, 4..=4, 0xffff).ok_or(UsbIdsError::Form);
        Ok(Self { vendor: read(vendor)?, product: read(product)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::lower_case("046d:c52b", "046d:c52b")]
    #[case::upper_case("046D:C52B", "046d:c52b")]
    fn valid(#[case] text: &str, #[case] normalized: &str) {
        let ids: UsbIds = text.parse().unwrap();
        assert_eq!(ids.to_string(), normalized);
    }

    #[rstest]
    #[case::empty("")]
    #[case::words("a receiver")]
    #[case::vendor_alone("046d")]
    #[case::short("46d:c52b")]
    #[case::long("0046d:c52b")]
    #[case::third_part("046d:c52b:1")]
    #[case::not_hexadecimal("046d:c52g")]
    #[case::sign("+46d:c52b")]
    #[case::space("046d: c52b")]
    fn invalid(#[case] text: &str) {
        assert_eq!(text.parse::<UsbIds>(), Err(UsbIdsError::Form));
    }

    #[rstest]
    #[case::simple("node1-046d-c52b-001002", Some("node1"))]
    #[case::node_with_dashes_and_dots("node-1.example-046d-c52b-001002", Some("node-1.example"))]
    #[case::pci_device("node1-000000020", None)]
    #[case::like_a_pci_device("a-046d-c52b-000000020", None)]
    #[case::letters_in_the_place("node1-046d-c52b-00100a", None)]
    #[case::no_node("046d-c52b-001002", None)]
    #[case::no_vendor("node1-xyz-c52b-001002", None)]
    fn names_of_usb_devices(#[case] name: &str, #[case] node: Option<&str>) {
        let ids = "046d:c52b".parse().unwrap();
        assert_eq!(UsbIds::of_usb_device(name), node.map(|node| (node, ids)));
    }

    #[rstest]
    #[case::as_harvester_writes_them("046d", "c52b", true)]
    #[case::without_zeros("46d", "C52B", true)]
    #[case::empty("", "c52b", false)]
    #[case::long("0046d", "c52b", false)]
    fn parts(#[case] vendor: &str, #[case] product: &str, #[case] is_one: bool) {
        assert_eq!(UsbIds::of_parts(vendor, product), is_one.then(|| "046d:c52b".parse().unwrap()));
    }
}
