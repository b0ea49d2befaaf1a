//! The objects of Harvester's add-on for devices.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::kind::{Kind, Object, Provider};

const API_VERSION: &str = "devices.harvesterhci.io/v1beta1";

/// `devices.harvesterhci.io/v1beta1`, `PCIDevice`.
pub static PCI_DEVICE: Kind = Kind::of(Provider::PciDevices, API_VERSION, "PCIDevice", "pcidevices", &["status"]);

/// `devices.harvesterhci.io/v1beta1`, `PCIDeviceClaim`.
pub static PCI_DEVICE_CLAIM: Kind = Kind::of(
    Provider::PciDevices,
    API_VERSION,
    "PCIDeviceClaim",
    "pcideviceclaims",
    &["spec.userName", "status.passthroughEnabled"],
);

/// `devices.harvesterhci.io/v1beta1`, `USBDevice`.
pub static USB_DEVICE: Kind = Kind::of(Provider::PciDevices, API_VERSION, "USBDevice", "usbdevices", &["status"]);

/// `devices.harvesterhci.io/v1beta1`, `USBDeviceClaim`.
pub static USB_DEVICE_CLAIM: Kind =
    Kind::of(Provider::PciDevices, API_VERSION, "USBDeviceClaim", "usbdeviceclaims", &["spec.userName"]);

/// A device on a node that can be passed through: a PCIDevice or a USBDevice. Its name is made of the node's name and
/// the device, and its claim has the same name.
pub(crate) type HostDevice = Object<IgnoredAny, HostDeviceStatus>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HostDeviceStatus {
    /// PCI devices only.
    address: Option<String>,
    #[serde(alias = "vendorID")]
    vendor_id: String,
    /// The API calls the device id of a USB device its product id.
    #[serde(alias = "productID")]
    device_id: String,
    /// PCI devices only.
    class_id: String,
    node_name: String,
    resource_name: String,
    iommu_group: String,
    /// USB devices only; so is the next field.
    enabled: bool,
    status: String,
}

impl HostDevice {
    /// The PCI address. `None` for a USB device.
    pub(crate) fn address(&self) -> Option<&str> {
        self.status.address.as_deref().filter(|address| !address.is_empty())
    }

    /// The vendor and device (or product) ids, such as `8086:3e91`.
    pub(crate) fn ids(&self) -> String {
        format!("{}:{}", self.status.vendor_id, self.status.device_id)
    }

    /// Whether this is a PCI device that draws a picture: its class is `0300`, `0302` or `0380`.
    pub(crate) fn is_display(&self) -> bool {
        self.status.class_id.starts_with("03")
    }

    /// The node that the device is on.
    pub(crate) fn node(&self) -> &str {
        &self.status.node_name
    }

    /// The extended resource. PCI devices of the same type share one; each USB device has its own.
    pub(crate) fn resource(&self) -> &str {
        &self.status.resource_name
    }

    /// The node and the IOMMU group, if the device has one: the devices of a group can only be passed through together.
    pub(crate) fn iommu_group(&self) -> Option<(&str, &str)> {
        let group = self.status.iommu_group.as_str();
        (!group.is_empty()).then(|| (self.node(), group))
    }

    /// Whether this is a USB device that is plugged in and enabled for passthrough. For a PCI device, its claim says so.
    pub(crate) fn is_enabled_usb_device(&self) -> bool {
        self.status.enabled && self.status.status != "orphaned"
    }
}

/// A claim, which enables passthrough for the device of the same name.
pub(crate) type Claim = Object<ClaimSpec, ClaimStatus>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClaimSpec {
    user_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClaimStatus {
    /// Whether a PCI device is passed through. For a USB device, the device itself says so.
    pub(crate) passthrough_enabled: bool,
}

impl Claim {
    /// The name of the user who claimed the device, if the claim says so.
    pub(crate) fn user(&self) -> Option<&str> {
        Some(self.spec.user_name.as_str()).filter(|user| !user.is_empty())
    }
}
