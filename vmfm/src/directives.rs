//! Where a VirtualMachine has directives and options, for people: annotations, labels, user data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use vm_feature_manager_policy::reference;

use crate::yaml;

/// The start of every key of the policy's.
pub const PREFIX: &str = "vm-feature-manager.io/";

/// The key of cloud-init user data under which directives stand.
const SECTION: &str = "x_kubevirt_features";

/// The endings of the keys that the policy writes itself.
const RECORDS: [&str; 3] = ["-applied", "-error", "-added"];

/// A directive or an option.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Directive {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where it stands.
    pub place: String,
    /// Why it is not read there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Finds the directives and options of a VirtualMachine, and says which of them the settings have the policy read.
pub fn find(object: &Value, settings: &Value) -> Vec<Directive> {
    let reads_labels = settings["configSource"] == "labels";
    let mut found = Vec::new();
    for (list, word, is_read) in [("annotations", "annotation", !reads_labels), ("labels", "label", reads_labels)] {
        let is_read_option = |name: &str| word == "annotation" && is_option(name);
        for (key, value) in object["metadata"][list].as_object().into_iter().flatten() {
            let Some(name) = key.strip_prefix(PREFIX).filter(|n| !RECORDS.iter().any(|end| n.ends_with(end))) else {
                continue;
            };
            let note = (!is_read && !is_read_option(name)).then(|| {
                let source = if reads_labels { "labels" } else { "annotations" };
                format!("not read: the setting configSource is {source}")
            });
            found.push(Directive {
                name: name.to_owned(),
                value: plain(value),
                place: format!("the {word} {key}"),
                note,
            });
        }
    }
    for volume in object["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten() {
        found.extend(in_user_data(volume, settings));
    }
    // Annotations and labels win over user data, and the first volume over the others.
    for index in 1..found.len() {
        let (before, rest) = found.split_at_mut(index);
        if let [this, ..] = rest {
            let first = before.iter().find(|other| other.name == this.name && other.note.is_none());
            if let (Some(first), None) = (first, &this.note) {
                this.note = Some(format!("not read: {} comes first", first.place));
            }
        }
    }
    found
}

/// Whether a name is one of an option, which is an annotation also where directives are labels.
fn is_option(name: &str) -> bool {
    let features = reference::features();
    features.iter().any(|(_, reference)| reference.options.iter().any(|option| option.name == name))
}

/// The directives in the user data that a volume holds itself.
fn in_user_data(volume: &Value, settings: &Value) -> Vec<Directive> {
    let is_read = settings["userData"]["enabled"] == true;
    let mut found = Vec::new();
    for source in ["cloudInitNoCloud", "cloudInitConfigDrive"].map(|kind| &volume[kind]) {
        let base64 = source["userDataBase64"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let decoded = base64.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = source["userData"].as_str().map(str::to_owned).or(decoded).unwrap_or_default();
        let documents = if text.starts_with("#cloud-config") { yaml::parse(&text).ok() } else { None };
        let section = documents.and_then(|documents| documents.first()?.get(SECTION)?.as_object().cloned());
        for (key, value) in section.into_iter().flatten() {
            let name = volume["name"].as_str().unwrap_or_default();
            found.push(Directive {
                name: key.replace('_', "-"),
                value: plain(&value),
                place: format!("the user data of the volume {name}, {SECTION}.{key}"),
                note: (!is_read).then(|| "not read: the setting userData.enabled is false".to_owned()),
            });
        }
    }
    found
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
