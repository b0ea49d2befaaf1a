//! Kubernetes' own objects: nodes, ConfigMaps and Secrets.

use super::kinds::{KindFacts, METADATA, Object};
use crate::json::{Json, Shape};

pub(super) static NODE: KindFacts = KindFacts {
    api_version: "v1",
    kind: "Node",
    resource: "nodes",
    fields: &["status.allocatable"],
    object: &NODE_OBJECT,
    list: &Shape::OnlyMembers(&[("items", Shape::Each(&NODE_OBJECT))]),
};

const NODE_OBJECT: Shape =
    Shape::OnlyMembers(&[METADATA, ("status", Shape::OnlyMembers(&[("allocatable", Shape::Whole)]))]);

pub(super) static CONFIG_MAP: KindFacts = KindFacts {
    api_version: "v1",
    kind: "ConfigMap",
    resource: "configmaps",
    fields: &["binaryData", "data"],
    object: &Shape::OnlyMembers(&[
        ("binaryData", Shape::Members(&[("rom", Shape::Whole)])),
        ("data", Shape::Members(&[])),
    ]),
    list: &Shape::Raw,
};

pub(super) static SECRET: KindFacts = KindFacts {
    kind: "Secret",
    resource: "secrets",
    // The rest of the Secret stays with the host.
    fields: &["data.userdata", "data.userData", "data.user-data"],
    object: &Shape::OnlyMembers(&[(
        "data",
        Shape::OnlyMembers(&[("userdata", Shape::Whole), ("userData", Shape::Whole), ("user-data", Shape::Whole)]),
    )]),
    ..CONFIG_MAP
};

pub(super) static SUBJECT_ACCESS_REVIEW: KindFacts = KindFacts {
    api_version: "authorization.k8s.io/v1",
    kind: "SubjectAccessReview",
    resource: "subjectaccessreviews",
    fields: &["status"],
    object: &Shape::OnlyMembers(&[]),
    list: &Shape::Raw,
};

/// A Kubernetes node.
#[derive(Debug)]
pub(crate) struct Node {
    labels: Vec<(String, String)>,
    allocatable: Vec<(String, String)>,
}

impl Node {
    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        find(&self.labels, key)
    }

    /// How much of a resource pods may have of it, as it is written.
    pub(crate) fn allocatable(&self, resource: &str) -> Option<&str> {
        find(&self.allocatable, resource)
    }
}

impl Object for Node {
    fn read(json: &Json<'_>) -> Self {
        Self { labels: texts(json, &["metadata", "labels"]), allocatable: texts(json, &["status", "allocatable"]) }
    }
}

/// The members of the object at the path that are texts.
fn texts(json: &Json<'_>, path: &[&str]) -> Vec<(String, String)> {
    let members = json.at(path).map(Json::members).unwrap_or_default();
    members.iter().filter_map(|(key, value)| Some((key.as_ref().to_owned(), value.as_str()?.to_owned()))).collect()
}

fn find<'t>(texts: &'t [(String, String)], key: &str) -> Option<&'t str> {
    texts.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// A ConfigMap that should hold a ROM.
#[derive(Debug)]
pub(crate) struct ConfigMap {
    /// `binaryData.rom`, in base64.
    pub(crate) rom: Option<String>,
    /// Whether there is a `data.rom`, which cannot be one.
    pub(crate) has_text_rom: bool,
    /// Another key under `binaryData`.
    pub(crate) other_key: Option<String>,
}

impl Object for ConfigMap {
    fn read(json: &Json<'_>) -> Self {
        let keys = json.get("binaryData").map(Json::members).unwrap_or_default();
        Self {
            rom: json.at(&["binaryData", "rom"]).and_then(Json::as_str).map(str::to_owned),
            has_text_rom: json.at(&["data", "rom"]).is_some(),
            other_key: keys.first().map(|(key, _)| key.as_ref().to_owned()),
        }
    }
}

/// The user data in a Secret, in base64, under the first of the keys that KubeVirt and cloud-init know; `None` where it has none.
#[derive(Debug)]
pub(crate) struct UserDataSecret(pub(crate) Option<String>);

impl Object for UserDataSecret {
    fn read(json: &Json<'_>) -> Self {
        let keys = ["userdata", "userData", "user-data"];
        let mut texts = keys.into_iter().filter_map(|key| json.at(&["data", key])?.as_str());
        Self(texts.find(|text| !text.is_empty()).map(str::to_owned))
    }
}
