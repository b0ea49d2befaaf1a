//! The value of a directive that is on or off.

use std::str::FromStr;

/// Whether a feature is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    On,
    Off,
}

/// A value that is neither.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SwitchError {
    /// Cause: another value
    /// Cure: `enabled`, `true`, `yes`, `1`; `disabled`, `false`, `no`, `0`
    #[error("neither on nor off; write enabled or disabled")]
    Neither,
}

impl Switch {
    /// The words for the reference.
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
