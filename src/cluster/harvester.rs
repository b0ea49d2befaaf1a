//! The objects of Harvester's add-on for devices.

use super::kind::{Kind, Provider};
use super::object::{Fields, Object};

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
#[derive(Debug)]
pub(crate) struct HostDevice {
    name: String,
    /// PCI devices only.
    address: String,
    vendor_id: String,
    /// The API calls the device id of a USB device its product id.
    device_id: String,
    /// PCI devices only.
    class_id: String,
    node: String,
    resource: String,
    iommu_group: String,
    /// USB devices only.
    is_enabled: bool,
}

impl Object for HostDevice {
    fn read(fields: Fields<'_>) -> Self {
        let status = fields.at("status");
        let either = |pci: &str, usb: &str| match status.at(pci).text() {
            empty if empty.is_empty() => status.at(usb).text(),
            text => text,
        };
        Self {
            name: fields.at("metadata").at("name").text(),
            address: status.at("address").text(),
            vendor_id: either("vendorId", "vendorID"),
            device_id: either("deviceId", "productID"),
            class_id: status.at("classId").text(),
            node: status.at("nodeName").text(),
            resource: status.at("resourceName").text(),
            iommu_group: status.at("iommuGroup").text(),
            is_enabled: status.at("enabled").is_true() && status.at("status").text() != "orphaned",
        }
    }
}

impl HostDevice {
    /// The object's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The PCI address. `None` for a USB device.
    pub(crate) fn address(&self) -> Option<&str> {
        Some(self.address.as_str()).filter(|address| !address.is_empty())
    }

    /// The vendor and device (or product) ids, such as `8086:3e91`.
    pub(crate) fn ids(&self) -> String {
        format!("{}:{}", self.vendor_id, self.device_id)
    }

    /// Whether these are the device's ids, as [`HostDevice::ids`] has them.
    pub(crate) fn has_ids(&self, ids: &str) -> bool {
        ids.strip_prefix(&self.vendor_id).and_then(|rest| rest.strip_prefix(':')) == Some(&self.device_id)
    }

    /// Whether this is a PCI device that draws a picture: its class is `0300`, `0302` or `0380`.
    pub(crate) fn is_display(&self) -> bool {
        self.class_id.starts_with("03")
    }

    /// The node that the device is on.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The extended resource. PCI devices of the same type share one; each USB device has its own.
    pub(crate) fn resource(&self) -> &str {
        &self.resource
    }

    /// The node and the IOMMU group, if the device has one: the devices of a group can only be passed through together.
    pub(crate) fn iommu_group(&self) -> Option<(&str, &str)> {
        let group = self.iommu_group.as_str();
        (!group.is_empty()).then(|| (self.node(), group))
    }

    /// Whether this is a USB device that is plugged in and enabled for passthrough. For a PCI device, its claim says so.
    pub(crate) fn is_enabled_usb_device(&self) -> bool {
        self.is_enabled
    }
}

/// A claim, which enables passthrough for the device of the same name.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    user: String,
    /// Whether a PCI device is passed through. For a USB device, the device itself says so.
    pub(crate) is_enabled: bool,
}

impl Object for Claim {
    fn read(fields: Fields<'_>) -> Self {
        Self {
            name: fields.at("metadata").at("name").text(),
            user: fields.at("spec").at("userName").text(),
            is_enabled: fields.at("status").at("passthroughEnabled").is_true(),
        }
    }
}

impl Claim {
    /// The object's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name of the user who claimed the device, if the claim says so.
    pub(crate) fn user(&self) -> Option<&str> {
        Some(self.user.as_str()).filter(|user| !user.is_empty())
    }
}
