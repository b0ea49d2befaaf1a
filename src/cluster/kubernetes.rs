//! Kubernetes' own objects.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::kind::{Kind, Provider};

/// `v1`, `Node`.
pub static NODE: Kind = Kind {
    api_version: "v1",
    name: "Node",
    plural: "nodes",
    fields: &["status.allocatable"],
    provider: Provider::Kubernetes,
    is_of_users: false,
};

/// `v1`, `ConfigMap`.
pub static CONFIG_MAP: Kind = Kind {
    api_version: "v1",
    name: "ConfigMap",
    plural: "configmaps",
    fields: &["binaryData", "data"],
    provider: Provider::Kubernetes,
    is_of_users: true,
};

/// `v1`, `Secret`. The host removes everything except the user data.
pub static SECRET: Kind = Kind {
    api_version: "v1",
    name: "Secret",
    plural: "secrets",
    fields: &["data.userdata", "data.userData", "data.user-data"],
    provider: Provider::Kubernetes,
    is_of_users: true,
};

/// `authorization.k8s.io/v1`, `SubjectAccessReview`. The policy tries to get one only to be refused, because the
/// refusal names the account that policy-server runs as.
pub static SUBJECT_ACCESS_REVIEW: Kind = Kind {
    api_version: "authorization.k8s.io/v1",
    name: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    fields: &["status"],
    provider: Provider::Kubernetes,
    is_of_users: false,
};

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
    labels: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    allocatable: HashMap<String, String>,
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
