//! The kinds of objects that the policy may look up: where they are served, and what is read of them.

use super::harvester::{PCI_DEVICE, PCI_DEVICE_CLAIM, USB_DEVICE, USB_DEVICE_CLAIM};
use super::kubernetes::{CONFIG_MAP, NODE, SECRET, SUBJECT_ACCESS_REVIEW};
use super::kubevirt::KUBEVIRT;
use crate::json::{Json, Shape};

/// A kind of object that the policy may look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `v1`, `Node`.
    Node,
    /// `kubevirt.io/v1`, `KubeVirt`.
    KubeVirt,
    /// `devices.harvesterhci.io/v1beta1`, `PCIDevice`.
    PciDevice,
    /// `devices.harvesterhci.io/v1beta1`, `PCIDeviceClaim`.
    PciDeviceClaim,
    /// `devices.harvesterhci.io/v1beta1`, `USBDevice`.
    UsbDevice,
    /// `devices.harvesterhci.io/v1beta1`, `USBDeviceClaim`.
    UsbDeviceClaim,
    /// `v1`, `ConfigMap`.
    ConfigMap,
    /// `v1`, `Secret`.
    Secret,
    /// `authorization.k8s.io/v1`, `SubjectAccessReview`: asked for only to be refused, as the refusal names who asks.
    SubjectAccessReview,
}

/// The facts about a kind.
pub(super) struct KindFacts {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) resource: &'static str,
    /// The fields that the policy reads, beside the metadata, which the host never cuts.
    pub(super) fields: &'static [&'static str],
    /// The parts of an object that are read.
    pub(super) object: &'static Shape,
}

/// An object that the policy looks up, as the slim type that it needs.
pub(crate) trait Object: Sized {
    /// The object, read as far as its kind says; what it lacks is empty.
    fn read(json: &Json<'_>) -> Self;
}

impl Kind {
    /// All kinds, for `cargo xtask generate`.
    #[cfg(feature = "describe")]
    pub const ALL: [Self; 9] = [
        Self::Node,
        Self::KubeVirt,
        Self::PciDevice,
        Self::PciDeviceClaim,
        Self::UsbDevice,
        Self::UsbDeviceClaim,
        Self::ConfigMap,
        Self::Secret,
        Self::SubjectAccessReview,
    ];

    /// The API version and the name, as a manifest has them.
    pub fn api_version_and_kind(self) -> (&'static str, &'static str) {
        (self.facts().api_version, self.facts().kind)
    }

    /// The API group and the plural, as RBAC has them.
    pub fn group_and_resource(self) -> (&'static str, &'static str) {
        let KindFacts { api_version, resource, .. } = self.facts();
        let group = api_version.split_once('/').map(|(group, _)| group);
        (group.unwrap_or_default(), resource)
    }

    /// The plural with its group, as `kubectl` takes it.
    pub(super) fn full_resource(self) -> String {
        let (group, resource) = self.group_and_resource();
        if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
    }

    /// Whether users' namespaces hold the objects, so that a right for a single namespace is enough.
    pub fn is_of_users(self) -> bool {
        matches!(self, Kind::ConfigMap | Kind::Secret)
    }

    /// Who serves the kind.
    pub(super) fn provider(self) -> &'static str {
        match self {
            Kind::KubeVirt => "KubeVirt",
            Kind::Node | Kind::ConfigMap | Kind::Secret | Kind::SubjectAccessReview => "Kubernetes",
            Kind::PciDevice | Kind::PciDeviceClaim | Kind::UsbDevice | Kind::UsbDeviceClaim => {
                "Harvester's add-on pcidevices-controller"
            }
        }
    }

    /// Whether every cluster serves the kind.
    pub(super) fn is_built_in(self) -> bool {
        self.provider() == "Kubernetes"
    }

    pub(super) fn facts(self) -> &'static KindFacts {
        match self {
            Kind::Node => &NODE,
            Kind::KubeVirt => &KUBEVIRT,
            Kind::PciDevice => &PCI_DEVICE,
            Kind::PciDeviceClaim => &PCI_DEVICE_CLAIM,
            Kind::UsbDevice => &USB_DEVICE,
            Kind::UsbDeviceClaim => &USB_DEVICE_CLAIM,
            Kind::ConfigMap => &CONFIG_MAP,
            Kind::Secret => &SECRET,
            Kind::SubjectAccessReview => &SUBJECT_ACCESS_REVIEW,
        }
    }
}

/// The text at the path; empty where there is none.
pub(super) fn text(json: &Json<'_>, path: &[&str]) -> String {
    json.at(path).and_then(Json::as_str).unwrap_or_default().to_owned()
}
