//! Kubernetes' own objects: nodes, ConfigMaps and Secrets.

use super::kinds::{KindFacts, Object};
use crate::json::{Json, Shape, may_have};
use crate::text::position;

pub(super) static NODE: KindFacts = KindFacts {
    api_version: "v1",
    kind: "Node",
    resource: "nodes",
    fields: &["status.allocatable"],
    object: &Shape::OnlyMembers(&[
        ("metadata", Shape::OnlyMembers(&[("labels", Shape::Raw)])),
        ("status", Shape::OnlyMembers(&[("allocatable", Shape::Raw)])),
    ]),
};

pub(super) static CONFIG_MAP: KindFacts = KindFacts {
    api_version: "v1",
    kind: "ConfigMap",
    resource: "configmaps",
    fields: &["binaryData", "data"],
    object: &Shape::OnlyMembers(&[
        ("binaryData", Shape::Members(&[("rom", Shape::Whole)])),
        ("data", Shape::Members(&[])),
    ]),
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
};

/// A Kubernetes node: the texts of its labels and of what it can give to pods. Of hundreds of labels, few are looked at.
#[derive(Debug)]
pub(crate) struct Node {
    labels: String,
    allocatable: String,
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
        Self {
            labels: compact(json.at(&["metadata", "labels"])),
            allocatable: compact(json.at(&["status", "allocatable"])),
        }
    }
}

/// The text of an object without spaces and escapes, as the host writes it.
fn compact(object: Option<&Json<'_>>) -> String {
    let text = object.map(Json::to_text).unwrap_or_default();
    if !may_have(&text, &["\": ".to_owned()]) {
        return text;
    }
    Json::parse(&text, &Shape::Whole).map(|json| json.to_text()).unwrap_or_default()
}

/// The value of a member of an object, where it is a text.
fn find<'t>(object: &'t str, key: &str) -> Option<&'t str> {
    let key = format!("\"{key}\":\"");
    let start = position(object.as_bytes(), key.as_bytes())? + key.len();
    object.get(start..)?.split('"').next()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_however_they_are_written() {
        let texts = [
            r#"{"metadata":{"labels":{"zone":"a","b":"zone","x.io/zone":"c"}},"status":{"allocatable":{"cpu":"8"}}}"#,
            r#"{"metadata":{"labels":{"zone": "a", "b": "zone", "x.io/zone": "c"}},"status":{"allocatable":{"cpu": "8"}}}"#,
            r#"{"metadata":{"labels":{"zo\u006ee":"a","b":"zone","x.io\/zone":"c"}},"status":{"allocatable":{"cpu":"8"}}}"#,
        ];
        for text in texts {
            let node = Node::read(&Json::parse(text, NODE.object).unwrap());
            let labels = ["zone", "b", "x.io/zone", "x.io", "a"].map(|key| node.label(key));
            assert_eq!(labels, [Some("a"), Some("zone"), Some("c"), None, None], "{text}");
            assert_eq!(node.allocatable("cpu"), Some("8"));
        }
        let empty = Node::read(&Json::parse("{}", NODE.object).unwrap());
        assert_eq!(empty.label("zone"), None);
    }
}
