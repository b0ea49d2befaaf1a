//! The keys of the policy's own annotations and labels.

use std::fmt;

/// The start of every key of the policy's.
pub(crate) const PREFIX: &str = "vm-feature-manager.io/";

const APPLIED: &str = "-applied";
const ERROR: &str = "-error";
const ADDED: &str = "-added";

/// The endings of the keys that the policy writes itself.
pub(crate) const RECORDS: [&str; 3] = [APPLIED, ERROR, ADDED];

/// A key about a feature or an option.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    name: &'static str,
    suffix: &'static str,
}

impl Key {
    /// The key under which a user asks for a feature, or sets an option: `vm-feature-manager.io/<name>`.
    pub(crate) const fn directive(name: &'static str) -> Self {
        Self { name, suffix: "" }
    }

    /// The annotation that says, for people, what a feature was made from.
    pub(crate) const fn applied(feature: &'static str) -> Self {
        Self { name: feature, suffix: APPLIED }
    }

    /// The annotation that says why a feature failed under `allow-and-log`.
    pub(crate) const fn error(feature: &'static str) -> Self {
        Self { name: feature, suffix: ERROR }
    }

    /// The annotation that lists the entries that a feature added.
    pub(crate) const fn record(feature: &'static str) -> Self {
        Self { name: feature, suffix: ADDED }
    }

    /// Whether a text is the key.
    pub(crate) fn is(&self, key: &str) -> bool {
        // The length tells most keys apart.
        key.len() == PREFIX.len() + self.name.len() + self.suffix.len()
            && key.strip_prefix(PREFIX).and_then(|name| name.strip_prefix(self.name)) == Some(self.suffix)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}{}", self.name, self.suffix)
    }
}
