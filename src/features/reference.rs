//! A feature as the reference and the manifests describe it, for `cargo xtask generate`.

use super::{FEATURES, REFERENCES};
use crate::cluster::access::{Access, REVIEW};
use crate::directives;

/// What users and administrators need to know of a feature.
#[derive(Debug, Clone, Copy)]
pub struct Reference {
    /// The key of its section in the settings.
    pub settings: &'static str,
    /// An example of its directive's value, as YAML.
    pub example: &'static str,
    /// What the guest gets from it, in a few words.
    pub gives: &'static str,
    /// The page under `docs` that describes it.
    pub page: &'static str,
    /// The values that its directive accepts, in Markdown.
    pub takes: &'static str,
    /// What it changes in the template of the VirtualMachine, in Markdown.
    pub effect: &'static str,
    /// Its options.
    pub options: &'static [OptionReference],
    /// What it looks up.
    pub looks_up: &'static [Access],
}

/// What users need to know of an option.
#[derive(Debug, Clone, Copy)]
pub struct OptionReference {
    /// Its name, as in the key of the annotation.
    pub name: &'static str,
    /// The values that it accepts, in Markdown.
    pub takes: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// The features by their names, in the order in which they are applied.
pub fn features() -> Vec<(&'static str, Reference)> {
    FEATURES.iter().map(|feature| feature.name).zip(REFERENCES.iter().map(|reference| **reference)).collect()
}

/// The lookups that belong to no feature.
pub fn general() -> [Access; 2] {
    [directives::SECRETS, REVIEW]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_described() {
        for (feature, reference) in FEATURES.iter().zip(REFERENCES) {
            let described: Vec<_> = reference.options.iter().map(|option| option.name).collect();
            assert_eq!(feature.options, described, "{}", feature.name);
        }
    }

    #[test]
    fn every_lookup_is_described() {
        let of_features = REFERENCES.iter().flat_map(|reference| reference.looks_up);
        for access in of_features.chain(&general()) {
            assert!(!access.what.is_empty() && !access.without.is_empty(), "{access:?}");
        }
    }
}
