//! The features, from the policy's own reference. A test that needs all features takes them from here, so it also covers
//! features that are added later.

use serde_json::{Value, json};
use vm_feature_manager_policy::reference;

/// The names of the features, in the order in which they are applied.
pub fn names() -> Vec<&'static str> {
    reference::features().into_iter().map(|(name, _)| name).collect()
}

/// The features' sections of the settings.
pub fn sections() -> Vec<&'static str> {
    reference::features().into_iter().map(|(_, reference)| reference.settings).collect()
}

/// The options, each with the feature that it belongs to.
pub fn options() -> Vec<(&'static str, &'static str)> {
    let features = reference::features().into_iter();
    features.flat_map(|(name, reference)| reference.options.iter().map(move |option| (option.name, name))).collect()
}

/// A directive for each feature, with the example in the reference as its value.
pub fn directives() -> Vec<(&'static str, &'static str)> {
    // The examples are YAML, so JSON in them is quoted.
    reference::features().into_iter().map(|(name, reference)| (name, reference.example.trim_matches('\''))).collect()
}

/// Like [`directives`], but with other values for some features.
///
/// # Panics
/// If there is no feature for one of the values.
pub fn directives_but(others: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut directives = directives();
    for other in others {
        let found = directives.iter_mut().find(|(name, _)| *name == other.0);
        *found.unwrap_or_else(|| panic!("no feature has the name {}", other.0)) = *other;
    }
    directives
}

/// The settings with this key in the section of every feature.
pub fn in_every_section(mut settings: Value, key: &str, value: &str) -> Value {
    for section in sections() {
        settings[section][key] = json!(value);
    }
    settings
}
