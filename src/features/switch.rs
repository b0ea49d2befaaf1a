//! The value of a directive that switches a feature on or off.

use crate::directives::Directive;

/// The words that [`is_on`] accepts, for the reference.
pub(super) const WORDS: &str =
    "`enabled`, `true`, `yes`, `on`, `1`; off: `disabled`, `false`, `no`, `off`, `0` or nothing";

/// The error for a value that means neither.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SwitchError {
    /// Cause: another value
    /// Cure: `enabled`, `true`, `yes`, `on`, `1`; `disabled`, `false`, `no`, `off`, `0`
    #[error("neither on nor off; write enabled or disabled")]
    Neither,
}

/// Whether the value switches a feature on.
pub(super) fn is_on(value: &str) -> Result<bool, SwitchError> {
    match value.to_ascii_lowercase().as_str() {
        "enabled" | "true" | "yes" | "on" | "1" => Ok(true),
        "disabled" | "false" | "no" | "off" | "0" | "" => Ok(false),
        _ => Err(SwitchError::Neither),
    }
}

/// Whether the value of a directive switches its feature off. The words are the same for every feature.
pub(crate) fn is_off(directive: &Directive<'_>) -> bool {
    directive.text().is_ok_and(|value| is_on(value) == Ok(false))
}
