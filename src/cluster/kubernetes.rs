//! Kubernetes' own objects.

use super::kind::{Kind, Provider};
use super::object::{Fields, Object, Texts};

/// `v1`, `Node`.
pub static NODE: Kind =
    Kind::of(Provider::Kubernetes, "v1", "Node", "nodes", &["spec.taints", "spec.unschedulable", "status.allocatable"]);

/// `v1`, `ConfigMap`.
pub static CONFIG_MAP: Kind =
    Kind::of(Provider::Kubernetes, "v1", "ConfigMap", "configmaps", &["binaryData", "data"]).of_users();

/// `v1`, `Secret`. The host removes everything except the user data.
pub static SECRET: Kind =
    Kind::of(Provider::Kubernetes, "v1", "Secret", "secrets", &["data.userdata", "data.userData", "data.user-data"])
        .of_users();

/// `authorization.k8s.io/v1`, `SubjectAccessReview`. The policy tries to get one only to be refused, because the
/// refusal names the account that policy-server runs as.
pub static SUBJECT_ACCESS_REVIEW: Kind = Kind::of(
    Provider::Kubernetes,
    "authorization.k8s.io/v1",
    "SubjectAccessReview",
    "subjectaccessreviews",
    &["status"],
);

/// The label that a VirtualMachine selects a node by. Its value is not always the node's name.
pub(crate) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// The label with a node's architecture, which the kubelet sets.
pub(crate) const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";

/// The value of that label on nodes with CPUs by AMD or Intel.
pub(crate) const AMD64: &str = "amd64";

/// The label of nodes on which KubeVirt starts VirtualMachines at the moment. Source: `kubevirt.io/kubevirt`,
/// `pkg/virt-controller/services/nodeselectorrenderer.go`.
const SCHEDULABLE_LABEL: &str = "kubevirt.io/schedulable";

/// A Kubernetes node.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    labels: Texts,
    taints: Vec<Taint>,
    is_cordoned: bool,
    allocatable: Texts,
}

/// A taint, which keeps pods that do not tolerate it away from a node.
#[derive(Debug)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

impl Object for Node {
    fn read(fields: Fields<'_>) -> Self {
        let taint = |taint: Fields<'_>| Taint {
            key: taint.at("key").text(),
            value: taint.at("value").text(),
            effect: taint.at("effect").text(),
        };
        let (metadata, spec) = (fields.at("metadata"), fields.at("spec"));
        Self {
            name: metadata.at("name").text(),
            labels: metadata.at("labels").texts(),
            taints: spec.at("taints").items(taint),
            is_cordoned: spec.at("unschedulable").is_true(),
            allocatable: fields.at("status").at("allocatable").texts(),
        }
    }
}

impl Node {
    /// The object's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)
    }

    /// How much of a resource the node has for pods, as the API has it.
    pub(crate) fn allocatable(&self, resource: &str) -> Option<&str> {
        self.allocatable.get(resource)
    }

    /// The value of the label that selects the node; its name if it has no such label.
    pub(crate) fn hostname(&self) -> &str {
        self.label(HOSTNAME_LABEL).unwrap_or(self.name())
    }

    /// The taints that keep pods away, except those of a state that passes. Kubernetes and KubeVirt set these while the
    /// node is not ready, under pressure, or drained.
    pub(crate) fn lasting_taints(&self) -> impl Iterator<Item = &Taint> {
        self.taints().filter(|taint| !taint.is_of_a_state())
    }

    fn taints(&self) -> impl Iterator<Item = &Taint> {
        self.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
    }

    /// Whether the node takes new VirtualMachines at the moment: it is not cordoned or drained, and KubeVirt runs on it.
    pub(crate) fn is_ready(&self) -> bool {
        let is_schedulable = self.label(SCHEDULABLE_LABEL) == Some("true");
        is_schedulable && !self.is_cordoned && !self.taints().any(Taint::is_of_a_state)
    }
}

impl Taint {
    fn is_of_a_state(&self) -> bool {
        let prefixes = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/", "kubevirt.io/drain"];
        prefixes.iter().any(|prefix| self.key.starts_with(prefix))
    }
}

/// A ConfigMap that should contain a ROM.
#[derive(Debug)]
pub(crate) struct ConfigMap {
    pub(crate) data: Texts,
    /// Bytes, encoded in base64.
    pub(crate) binary_data: Texts,
}

impl Object for ConfigMap {
    fn read(fields: Fields<'_>) -> Self {
        Self { data: fields.at("data").texts(), binary_data: fields.at("binaryData").texts() }
    }
}

/// A Secret with user data.
#[derive(Debug)]
pub(crate) struct UserDataSecret {
    data: Texts,
}

impl Object for UserDataSecret {
    fn read(fields: Fields<'_>) -> Self {
        Self { data: fields.at("data").texts() }
    }
}

impl UserDataSecret {
    /// The user data in base64, from the first of the keys that KubeVirt and cloud-init know.
    pub(crate) fn user_data(&self) -> Option<&str> {
        let mut texts = ["userdata", "userData", "user-data"].into_iter().filter_map(|key| self.data.get(key));
        texts.find(|text| !text.is_empty())
    }
}
