//! The objects of Harvester's add-on pcidevices-controller.

use super::kinds::{KindFacts, Object, text};
use crate::json::{Json, Shape};

const NAME: (&str, Shape) = ("metadata", Shape::OnlyMembers(&[("name", Shape::Whole)]));
const STATUS: Shape = Shape::OnlyMembers(&[
    ("address", Shape::Whole),
    ("deviceId", Shape::Whole),
    ("iommuGroup", Shape::Whole),
    ("nodeName", Shape::Whole),
    ("resourceName", Shape::Whole),
    ("vendorId", Shape::Whole),
]);

pub(super) static PCI_DEVICE: KindFacts = KindFacts {
    api_version: "devices.harvesterhci.io/v1beta1",
    kind: "PCIDevice",
    resource: "pcidevices",
    fields: &["status"],
    object: &Shape::OnlyMembers(&[NAME, ("status", STATUS)]),
};

pub(super) static PCI_DEVICE_CLAIM: KindFacts = KindFacts {
    kind: "PCIDeviceClaim",
    resource: "pcideviceclaims",
    object: &Shape::OnlyMembers(&[
        NAME,
        ("spec", Shape::OnlyMembers(&[("userName", Shape::Whole)])),
        ("status", Shape::OnlyMembers(&[("passthroughEnabled", Shape::Whole)])),
    ]),
    fields: &["spec.userName", "status.passthroughEnabled"],
    ..PCI_DEVICE
};

pub(super) static USB_DEVICE: KindFacts = KindFacts {
    kind: "USBDevice",
    resource: "usbdevices",
    object: &Shape::OnlyMembers(&[
        NAME,
        (
            "status",
            Shape::OnlyMembers(&[
                ("enabled", Shape::Whole),
                ("nodeName", Shape::Whole),
                ("productID", Shape::Whole),
                ("resourceName", Shape::Whole),
                ("status", Shape::Whole),
                ("vendorID", Shape::Whole),
            ]),
        ),
    ]),
    ..PCI_DEVICE
};

pub(super) static USB_DEVICE_CLAIM: KindFacts =
    KindFacts { kind: "USBDeviceClaim", resource: "usbdeviceclaims", fields: &["spec.userName"], ..PCI_DEVICE_CLAIM };

/// A device of a node that can be passed through, PCI or USB, as Harvester's add-on finds it.
#[derive(Debug, Clone)]
pub(crate) struct HostDevice {
    /// Its name, made of the node's name and what the device is; its claim has the same.
    pub(crate) name: String,
    /// The PCI address; empty for a USB device.
    pub(crate) address: String,
    /// Vendor and product, as `8086:3e91`.
    pub(crate) ids: String,
    pub(crate) node: String,
    /// The extended resource that stands for PCI devices of its kind, or for this USB device alone.
    pub(crate) resource_name: String,
    /// The PCI devices of a node that can only be passed through together; empty if there are no others.
    pub(crate) iommu_group: String,
    /// Whether a USB device is there and enabled for passthrough. Whether a PCI device is, its claim says.
    pub(crate) is_enabled: bool,
}

impl Object for HostDevice {
    fn read(json: &Json<'_>) -> Self {
        let status = |key: &str| text(json, &["status", key]);
        let address = status("address");
        let (vendor, product) = if address.is_empty() { ("vendorID", "productID") } else { ("vendorId", "deviceId") };
        let is_enabled = matches!(json.at(&["status", "enabled"]), Some(Json::Bool(true)));
        Self {
            name: text(json, &["metadata", "name"]),
            address,
            ids: format!("{}:{}", status(vendor), status(product)),
            node: status("nodeName"),
            resource_name: status("resourceName"),
            iommu_group: status("iommuGroup"),
            is_enabled: is_enabled && status("status") != "orphaned",
        }
    }
}

/// A claim of a device for passthrough; it has the device's name.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) name: String,
    /// Whether the PCI device is passed through. Whether a USB device is, the device says.
    pub(crate) is_on: bool,
    /// The name of who claimed it.
    pub(crate) user: String,
}

impl Object for Claim {
    fn read(json: &Json<'_>) -> Self {
        let is_on = matches!(json.at(&["status", "passthroughEnabled"]), Some(Json::Bool(true)));
        Self { name: text(json, &["metadata", "name"]), is_on, user: text(json, &["spec", "userName"]) }
    }
}
