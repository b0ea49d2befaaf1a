//! Kubernetes' own objects.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::kind::{Kind, Provider};

/// `v1`, `Node`.
pub static NODE: Kind = Kind::of(Provider::Kubernetes, "v1", "Node", "nodes", &["status.allocatable"]);

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

/// A Kubernetes node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    metadata: NodeMetadata,
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeMetadata {
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    allocatable: BTreeMap<String, String>,
}

impl Node {
    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.get(key).map(String::as_str)
    }

    /// How much of a resource the node has for pods, as the API has it.
    pub(crate) fn allocatable(&self, resource: &str) -> Option<&str> {
        self.status.allocatable.get(resource).map(String::as_str)
    }
}

/// A ConfigMap that should contain a ROM.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ConfigMap {
    pub(crate) data: BTreeMap<String, String>,
    /// Bytes, encoded in base64.
    pub(crate) binary_data: BTreeMap<String, String>,
}

/// A Secret with user data.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UserDataSecret {
    data: BTreeMap<String, String>,
}

impl UserDataSecret {
    /// The user data in base64, from the first of the keys that KubeVirt and cloud-init know.
    pub(crate) fn user_data(&self) -> Option<&str> {
        let texts = ["userdata", "userData", "user-data"].into_iter().filter_map(|key| self.data.get(key));
        texts.map(String::as_str).find(|text| !text.is_empty())
    }
}
