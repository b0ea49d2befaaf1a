//! The keys of the policy's own annotations and labels.

/// The prefix of the policy's keys.
pub(crate) const PREFIX: &str = "vm-feature-manager.io/";

/// The annotation that tells people which directive a feature was applied from.
pub(crate) const APPLIED: &str = "-applied";
/// The annotation that says why a feature failed under `allow-and-log`.
pub(crate) const ERROR: &str = "-error";
/// The suffixes of the keys of annotations that the policy writes itself.
pub(crate) const WRITTEN: [&str; 2] = [APPLIED, ERROR];

/// The annotation of the template that says what each feature was applied from, and which entries it added.
pub(crate) const RECORD: &str = "vm-feature-manager.io/record";

/// The key with which a user asks for a feature, or sets an option.
pub(crate) fn directive(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The key of an annotation about a feature, with one of the suffixes.
pub(crate) fn about(feature: &str, suffix: &str) -> String {
    format!("{PREFIX}{feature}{suffix}")
}
