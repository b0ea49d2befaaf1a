//! The keys of the policy's own annotations and labels.

/// The prefix of the policy's keys.
pub(crate) const PREFIX: &str = "vm-feature-manager.io/";

const APPLIED: &str = "-applied";
const ERROR: &str = "-error";
const ADDED: &str = "-added";

/// The suffixes of the keys that the policy writes itself.
pub(crate) const RECORDS: [&str; 3] = [APPLIED, ERROR, ADDED];

/// The key with which a user asks for a feature, or sets an option.
pub(crate) fn directive(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The annotation that tells people which directive a feature was applied from.
pub(crate) fn applied(feature: &str) -> String {
    format!("{PREFIX}{feature}{APPLIED}")
}

/// The annotation that says why a feature failed under `allow-and-log`.
pub(crate) fn error(feature: &str) -> String {
    format!("{PREFIX}{feature}{ERROR}")
}

/// The annotation that lists the entries that a feature added.
pub(crate) fn record(feature: &str) -> String {
    format!("{PREFIX}{feature}{ADDED}")
}
