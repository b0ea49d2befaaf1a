//! What the policy needs with its settings: which features are on, which kinds they look up, and with which permissions.

use serde_json::Value;
use vm_feature_manager_policy::Settings;
use vm_feature_manager_policy::cluster::Kind;
use vm_feature_manager_policy::cluster::access::{Condition, Verbs};
use vm_feature_manager_policy::reference;
use vm_feature_manager_policy::settings::{Content, Description};

/// A kind that the policy looks up.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// The kind.
    pub kind: &'static Kind,
    /// What policy-server must be allowed to do.
    pub verbs: Verbs,
}

/// The value of a setting, such as `pciPassthrough.enabled`; its default if it is not set.
pub fn setting(settings: &Value, name: &str) -> Value {
    let pointer = format!("/{}", name.replace('.', "/"));
    let is_set = |value: &&Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    };
    match settings.pointer(&pointer).filter(is_set) {
        Some(value) => value.clone(),
        None => default(&Settings::description(), name).unwrap_or_default(),
    }
}

fn default(section: &Description, name: &str) -> Option<Value> {
    let (key, rest) = name.split_once('.').unwrap_or((name, ""));
    let Content::Section(settings) = &section.content else { return None };
    let setting = settings.iter().find(|setting| setting.key == key)?;
    match &setting.content {
        Content::Value { default, .. } => Some(default.clone()),
        Content::Section(_) => default(setting, rest),
    }
}

/// The names of the features that are on.
pub fn enabled(settings: &Value) -> Vec<&'static str> {
    let features = reference::features().into_iter();
    let is_on = |key: &str| setting(settings, &format!("{key}.enabled")) == true;
    features.filter(|(_, reference)| is_on(reference.settings)).map(|(name, _)| name).collect()
}

/// The kinds that some features look up with these settings, each once, and the permissions that this needs. The
/// permission to ask for permissions is among them, and that to read Secrets if user data in Secrets is read.
pub fn needs(settings: &Value, features: &[&str]) -> Vec<Need> {
    let known = reference::features();
    let of_features =
        known.iter().filter(|(name, _)| features.contains(name)).flat_map(|(_, feature)| feature.looks_up);
    let general = reference::general();
    let mut needs: Vec<Need> = Vec::new();
    for access in of_features.chain(&general) {
        if !access.needed.iter().all(|condition| holds(*condition, settings)) {
            continue;
        }
        for kind in access.kinds {
            match needs.iter_mut().find(|need| need.kind == *kind) {
                Some(need) => need.verbs = need.verbs.max(access.verbs),
                None => needs.push(Need { kind, verbs: access.verbs }),
            }
        }
    }
    let reads_secrets = ["userData.enabled", "userData.readSecrets"].iter().all(|name| setting(settings, name) == true);
    needs.retain(|need| need.kind.name != "Secret" || reads_secrets);
    needs
}

fn holds(condition: Condition, settings: &Value) -> bool {
    let value = setting(settings, condition.setting());
    match condition {
        Condition::On(_) => value == true,
        Condition::Is(_, word) => value == word,
        Condition::IsNot(_, word) => value != word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds(settings: Value, features: &[&str]) -> Vec<&'static str> {
        needs(&settings, features).iter().map(|need| need.kind.name).collect()
    }

    #[test]
    fn a_setting_has_its_default() {
        assert_eq!(setting(&json!({}), "kubevirt.namespace"), "harvester-system");
        assert_eq!(setting(&json!({"kubevirt": {"namespace": ""}}), "kubevirt.namespace"), "harvester-system");
        assert_eq!(setting(&json!({"kubevirt": {"namespace": "kubevirt"}}), "kubevirt.namespace"), "kubevirt");
        assert_eq!(setting(&json!({"numa": {"enabled": false}}), "numa.enabled"), false);
        assert_eq!(setting(&json!({}), "no.such"), Value::Null);
    }

    #[test]
    fn features_need_what_they_look_up() {
        assert_eq!(kinds(json!({}), &["numa"]), ["KubeVirt", "SubjectAccessReview"]);
        let of_pci = ["PCIDevice", "PCIDeviceClaim", "KubeVirt", "Node", "SubjectAccessReview"];
        assert_eq!(kinds(json!({}), &["pci-passthrough"]), of_pci);
        let by_address = json!({"pciPassthrough": {"deviceNames": "address"}});
        assert_eq!(kinds(by_address, &["pci-passthrough"]), of_pci[2..]);
        let user_data = json!({"userData": {"enabled": true, "readSecrets": true}});
        assert_eq!(kinds(user_data, &[]), ["Secret", "SubjectAccessReview"]);
        let all = needs(&json!({}), &enabled(&json!({})));
        assert!(all.iter().any(|need| need.kind.name == "Node" && need.verbs == Verbs::List));
        assert_eq!(enabled(&json!({"numa": {"enabled": false}})).len(), enabled(&json!({})).len() - 1);
    }
}
