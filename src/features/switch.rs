//! The value of a directive that switches a feature on or off.

use std::str::FromStr;

/// Whether a feature is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    On,
    Off,
}

/// The error for a value that means neither.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SwitchError {
    /// Cause: another value
    /// Cure: `enabled`, `true`, `yes`, `1`; `disabled`, `false`, `no`, `0`
    #[error("neither on nor off; write enabled or disabled")]
    Neither,
}

impl Switch {
    /// The accepted words, for the reference.
    pub(super) const TAKES: &str = "`enabled`, `true`, `yes`, `1`; off: `disabled`, `false`, `no`, `0` or nothing";
}

impl FromStr for Switch {
    type Err = SwitchError;

    fn from_str(text: &str) -> Result<Self, SwitchError> {
        match text.to_ascii_lowercase().as_str() {
            "enabled" | "true" | "yes" | "1" => Ok(Self::On),
            "disabled" | "false" | "no" | "0" | "" => Ok(Self::Off),
            _ => Err(SwitchError::Neither),
        }
    }
}
