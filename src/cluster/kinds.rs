//! The kinds of objects that the policy may look up: where they are served, and what is read of them.

use crate::json::Shape;

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
    /// `v1`, `ConfigMap`.
    ConfigMap,
    /// `v1`, `Secret`.
    Secret,
    /// `authorization.k8s.io/v1`, `SubjectAccessReview`: asked for only to be refused, as the refusal names who asks.
    SubjectAccessReview,
}

/// What there is to know of a kind.
pub(super) struct KindFacts {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    /// The fields that the policy reads, beside the metadata, which the host never cuts.
    pub(super) fields: &'static [&'static str],
    /// What is read of an object.
    pub(super) object: &'static Shape,
    /// What is read of a list.
    pub(super) list: &'static Shape,
}

const METADATA: (&str, Shape) =
    ("metadata", Shape::OnlyMembers(&[("name", Shape::Whole), ("labels", Shape::Whole)]));

static NODE: KindFacts = KindFacts {
    api_version: "v1",
    kind: "Node",
    group: "",
    resource: "nodes",
    // Labels are all that is read; a mask must name something.
    fields: &["status.phase"],
    object: &Shape::OnlyMembers(&[METADATA]),
    list: &Shape::OnlyMembers(&[("items", Shape::Each(&Shape::OnlyMembers(&[METADATA])))]),
};

static KUBEVIRT: KindFacts = KindFacts {
    api_version: "kubevirt.io/v1",
    kind: "KubeVirt",
    group: "kubevirt.io",
    resource: "kubevirts",
    fields: &[
        "spec.configuration.developerConfiguration.featureGates",
        "spec.configuration.permittedHostDevices",
        "status.observedKubeVirtVersion",
    ],
    object: &Shape::OnlyMembers(&[
        ("status", Shape::OnlyMembers(&[("observedKubeVirtVersion", Shape::Whole)])),
        ("spec", Shape::OnlyMembers(&[("configuration", CONFIGURATION)])),
    ]),
    list: &Shape::Raw,
};

const CONFIGURATION: Shape = Shape::OnlyMembers(&[
    ("developerConfiguration", Shape::OnlyMembers(&[("featureGates", Shape::Whole)])),
    ("permittedHostDevices", Shape::Whole),
]);

const PCI_OBJECT: Shape = Shape::OnlyMembers(&[METADATA, ("status", Shape::Whole)]);

static PCI_DEVICE: KindFacts = KindFacts {
    api_version: "devices.harvesterhci.io/v1beta1",
    kind: "PCIDevice",
    group: "devices.harvesterhci.io",
    resource: "pcidevices",
    fields: &["status"],
    object: &PCI_OBJECT,
    list: &Shape::OnlyMembers(&[("items", Shape::Each(&PCI_OBJECT))]),
};

static PCI_DEVICE_CLAIM: KindFacts = KindFacts {
    kind: "PCIDeviceClaim",
    resource: "pcideviceclaims",
    fields: &["status.passthroughEnabled"],
    ..PCI_DEVICE
};

static CONFIG_MAP: KindFacts = KindFacts {
    api_version: "v1",
    kind: "ConfigMap",
    group: "",
    resource: "configmaps",
    fields: &["binaryData", "data"],
    object: &Shape::OnlyMembers(&[
        ("binaryData", Shape::Members(&[("rom", Shape::Whole)])),
        ("data", Shape::Members(&[])),
    ]),
    list: &Shape::Raw,
};

static SECRET: KindFacts = KindFacts {
    kind: "Secret",
    resource: "secrets",
    // The rest of the Secret stays with the host.
    fields: &["data.userdata", "data.userData", "data.user-data"],
    object: &Shape::OnlyMembers(&[(
        "data",
        Shape::OnlyMembers(&[
            ("userdata", Shape::Whole),
            ("userData", Shape::Whole),
            ("user-data", Shape::Whole),
        ]),
    )]),
    ..CONFIG_MAP
};

static SUBJECT_ACCESS_REVIEW: KindFacts = KindFacts {
    api_version: "authorization.k8s.io/v1",
    kind: "SubjectAccessReview",
    group: "authorization.k8s.io",
    resource: "subjectaccessreviews",
    fields: &["status"],
    object: &Shape::OnlyMembers(&[]),
    list: &Shape::Raw,
};

impl Kind {
    /// The API version and the name, as a manifest has them.
    pub fn api_version_and_kind(self) -> (&'static str, &'static str) {
        (self.facts().api_version, self.facts().kind)
    }

    /// The API group and the plural, as RBAC has them.
    pub fn group_and_resource(self) -> (&'static str, &'static str) {
        (self.facts().group, self.facts().resource)
    }

    /// The plural with its group, as `kubectl` takes it.
    pub(super) fn full_resource(self) -> String {
        let (group, resource) = self.group_and_resource();
        if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
    }

    /// Whether users' namespaces hold the objects, so that a right for a single namespace is enough.
    pub(super) fn is_of_users(self) -> bool {
        matches!(self, Kind::ConfigMap | Kind::Secret)
    }

    /// Who serves the kind.
    pub(super) fn provider(self) -> &'static str {
        match self {
            Kind::PciDevice | Kind::PciDeviceClaim => "Harvester's add-on pcidevices-controller",
            Kind::KubeVirt => "KubeVirt",
            Kind::Node | Kind::ConfigMap | Kind::Secret | Kind::SubjectAccessReview => "Kubernetes",
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
            Kind::ConfigMap => &CONFIG_MAP,
            Kind::Secret => &SECRET,
            Kind::SubjectAccessReview => &SUBJECT_ACCESS_REVIEW,
        }
    }
}
