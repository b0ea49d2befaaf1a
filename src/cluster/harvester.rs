//! The objects of Harvester's add-on pcidevices-controller.

use super::kinds::{Kind, KindFacts, Object, text};
use crate::json::{Json, Shape};
use crate::kinds::pci::PciAddress;

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

/// A PCI device of a node, as Harvester's add-on finds it.
#[derive(Debug, Clone)]
pub(crate) struct PciDevice {
    /// Its name, made of the node's name and the address; its claim has the same.
    pub(crate) name: String,
    pub(crate) address: Option<PciAddress>,
    pub(crate) node: String,
    /// The extended resource that stands for devices of its kind.
    pub(crate) resource_name: String,
    /// The devices of a node that can only be passed through together; empty if there are no others.
    pub(crate) iommu_group: String,
    /// Vendor and device id, as `8086:3e91`.
    pub(crate) ids: String,
}

impl Object for PciDevice {
    const KIND: Kind = Kind::PciDevice;

    fn read(json: &Json<'_>) -> Self {
        let status = |key: &str| text(json, &["status", key]);
        Self {
            name: text(json, &["metadata", "name"]),
            address: status("address").parse().ok(),
            node: status("nodeName"),
            resource_name: status("resourceName"),
            iommu_group: status("iommuGroup"),
            ids: format!("{}:{}", status("vendorId"), status("deviceId")),
        }
    }
}

/// A claim of a PCI device for passthrough; it has the device's name.
#[derive(Debug)]
pub(crate) struct PciDeviceClaim {
    pub(crate) name: String,
    pub(crate) is_on: bool,
    /// The name of who claimed it.
    pub(crate) user: String,
}

impl Object for PciDeviceClaim {
    const KIND: Kind = Kind::PciDeviceClaim;

    fn read(json: &Json<'_>) -> Self {
        let is_on = matches!(json.at(&["status", "passthroughEnabled"]), Some(Json::Bool(true)));
        Self { name: text(json, &["metadata", "name"]), is_on, user: text(json, &["spec", "userName"]) }
    }
}
