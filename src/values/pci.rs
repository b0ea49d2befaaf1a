//! Addresses of PCI devices.

use std::fmt;
use std::str::FromStr;

use super::hex;
use super::usb::UsbIds;

/// How many devices a guest's PCI bus numbers allow.
pub(crate) const MAX_DEVICES: usize = 256;

/// The address of a PCI function, `DDDD:BB:DD.F`: domain, bus, device and function, in lower-case hexadecimal digits.
/// The domain of a device behind a controller such as Intel's VMD has more than four digits.
///
/// The text to parse may be in any case, and may omit the domain, which is then `0000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PciAddress {
    domain: u32,
    bus: u32,
    device: u32,
    function: u32,
}

/// What a text such as `0000:00:02.0` means: a PCI function, or one of several that Kubernetes chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PciSelector {
    /// `0000:00:02.0`: the function at this address.
    Function(PciAddress),
    /// `0000:0e:00.*`: all functions of the device at this address. The address is that of its function 0.
    AllFunctions(PciAddress),
    /// `10de:27b8`: any function of this vendor and device.
    Ids(UsbIds),
}

/// Why a text is not a PCI address.
///
/// Cause: a typing mistake
/// Cure: `lspci -D` on the node, or the PCI devices in Harvester
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PciAddressError {
    #[error("it does not have the form DDDD:BB:DD.F, BB:DD.F or VVVV:DDDD (* in place of F means all functions)")]
    Form,
    #[error("its domain must be four to eight hexadecimal digits")]
    Domain,
    #[error("its bus must be two hexadecimal digits")]
    Bus,
    // A PCI bus has 32 devices.
    #[error("its device must be two hexadecimal digits from 00 to 1f")]
    Device,
    #[error("its function must be a digit from 0 to 7")]
    Function,
}

impl PciAddress {
    /// Only the digits, as in the name of Harvester's PCIDevice: `000000020`.
    pub(crate) fn compact(self) -> String {
        self.to_string().replace([':', '.'], "")
    }

    /// Reads an address that consists only of digits.
    fn from_compact(digits: &str) -> Option<Self> {
        let (domain, rest) = digits.split_at_checked(digits.len().checked_sub(5)?)?;
        let (bus, rest) = rest.split_at_checked(2)?;
        let (device, function) = rest.split_at_checked(2)?;
        format!("{domain}:{bus}:{device}.{function}").parse().ok()
    }

    /// The node and the address in the name of Harvester's PCIDevice: `node1-000000020` is `0000:00:02.0` on `node1`.
    pub(crate) fn of_pci_device(name: &str) -> Option<(&str, Self)> {
        let (node, compact) = name.rsplit_once('-')?;
        Some((node, Self::from_compact(compact)?))
    }

    /// Reads the address from a name that [`PciAddress::device_name`] makes.
    pub(crate) fn of_device_name(name: &str) -> Option<Self> {
        Self::from_compact(&name.strip_prefix("pci_")?.replace('_', "")).filter(|address| address.device_name() == name)
    }

    /// Whether both are functions of the same device.
    pub(crate) fn is_of_same_device_as(self, other: Self) -> bool {
        Self { function: 0, ..self } == Self { function: 0, ..other }
    }

    /// A name made of the address only, `pci_DDDD_BB_DD_F`, which is also what libvirt calls the node device.
    pub(crate) fn device_name(self) -> String {
        format!("pci_{}", self.to_string().replace([':', '.'], "_"))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Wrong separators are named before parts that are right: in 0000:05.00.0, the bus does have two digits.
        let separators: String = text.chars().filter(|c| !c.is_ascii_alphanumeric()).collect();
        if !matches!(separators.as_str(), "::." | ":.") {
            return Err(PciAddressError::Form);
        }
        let (rest, function) = text.rsplit_once('.').ok_or(PciAddressError::Form)?;
        let (rest, device) = rest.rsplit_once(':').ok_or(PciAddressError::Form)?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
        Ok(Self {
            domain: hex(domain, 4..=8, u32::MAX).ok_or(PciAddressError::Domain)?,
            bus: hex(bus, 2..=2, 0xff).ok_or(PciAddressError::Bus)?,
            device: hex(device, 2..=2, 0x1f).ok_or(PciAddressError::Device)?,
            function: hex(function, 1..=1, 7).ok_or(PciAddressError::Function)?,
        })
    }
}

impl fmt::Display for PciSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(address) => write!(f, "{address}"),
            Self::AllFunctions(first) => write!(f, "{}*", first.to_string().trim_end_matches('0')),
            Self::Ids(ids) => write!(f, "{ids}"),
        }
    }
}

impl FromStr for PciSelector {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ids) = text.parse() {
            return Ok(Self::Ids(ids));
        }
        match text.strip_suffix('*') {
            Some(device) => format!("{device}0").parse().map(Self::AllFunctions),
            None => text.parse().map(Self::Function),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::whole("0000:00:02.0", "0000:00:02.0", "pci_0000_00_02_0")]
    #[case::without_domain("65:00.1", "0000:65:00.1", "pci_0000_65_00_1")]
    // As `lspci -D` prints a disk behind Intel's VMD.
    #[case::long_domain("10000:e1:00.0", "10000:e1:00.0", "pci_10000_e1_00_0")]
    #[case::upper_case("00AB:CD:1F.7", "00ab:cd:1f.7", "pci_00ab_cd_1f_7")]
    fn valid(#[case] text: &str, #[case] normalized: &str, #[case] device_name: &str) {
        let address: PciAddress = text.parse().unwrap();
        assert_eq!(address.to_string(), normalized);
        assert_eq!(address.device_name(), device_name);
        assert_eq!(PciAddress::of_device_name(device_name), Some(address));
        let name = format!("node-1.example-{}", address.compact());
        assert_eq!(PciAddress::of_pci_device(&name), Some(("node-1.example", address)));
        assert_eq!(normalized.parse(), Ok(address));
        assert_eq!(PciAddress::from_compact(&address.compact()), Some(address));
    }

    #[rstest]
    #[case::empty("", PciAddressError::Form)]
    #[case::words("the iGPU", PciAddressError::Form)]
    #[case::no_function("0000:00:02", PciAddressError::Form)]
    #[case::no_bus("02.0", PciAddressError::Form)]
    #[case::too_many_parts("0:0000:00:02.0", PciAddressError::Form)]
    #[case::short_domain("000:00:02.0", PciAddressError::Domain)]
    #[case::long_domain("100000000:e1:00.0", PciAddressError::Domain)]
    #[case::sign("+000:00:02.0", PciAddressError::Form)]
    #[case::point_for_colon("0000:05.00.0", PciAddressError::Form)]
    #[case::colon_for_point("0000:05:00:0", PciAddressError::Form)]
    #[case::dashes("0000-05-00.0", PciAddressError::Form)]
    #[case::node_behind("0000:05:00.0@node2", PciAddressError::Form)]
    #[case::bus("0000:0g:02.0", PciAddressError::Bus)]
    #[case::long_bus("0000:000:02.0", PciAddressError::Bus)]
    #[case::device("0000:00:20.0", PciAddressError::Device)]
    #[case::function_8("0000:00:02.8", PciAddressError::Function)]
    #[case::function_empty("0000:00:02.", PciAddressError::Function)]
    #[case::space("0000:00:02.0 ", PciAddressError::Form)]
    #[case::not_ascii("0000:00:02.\u{666}", PciAddressError::Form)]
    fn invalid(#[case] text: &str, #[case] error: PciAddressError) {
        assert_eq!(text.parse::<PciAddress>(), Err(error));
    }

    #[rstest]
    #[case::function("0E:00.1", "0000:0e:00.1")]
    #[case::all_functions("0E:00.*", "0000:0e:00.*")]
    #[case::all_functions_of_device_10("0000:0e:10.*", "0000:0e:10.*")]
    #[case::ids("10DE:27b8", "10de:27b8")]
    fn selectors(#[case] text: &str, #[case] normalized: &str) {
        let selector: PciSelector = text.parse().unwrap();
        assert_eq!(selector.to_string(), normalized);
        assert_eq!(normalized.parse(), Ok(selector));
    }

    #[rstest]
    fn not_a_selector(#[values("0e:*", "*", "0e:00.1*", "0e:00.**", "10de:*")] text: &str) {
        assert!(text.parse::<PciSelector>().is_err());
    }

    #[rstest]
    #[case::short("00000020")]
    #[case::long("00000000000200")]
    #[case::not_hexadecimal("00000002g")]
    #[case::function_8("000000028")]
    #[case::not_ascii("0000000\u{e9}")]
    fn not_compact(#[case] digits: &str) {
        assert_eq!(PciAddress::from_compact(digits), None);
        assert_eq!(PciAddress::of_pci_device(&format!("node-{digits}")), None);
        assert_eq!(PciAddress::of_device_name(&format!("pci_{digits}")), None);
    }
}
