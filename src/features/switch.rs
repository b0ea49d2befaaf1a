//! The value of a directive that switches a feature on or off.

use crate::directives::Directive;

/// The words that [`parse_switch`] accepts, for the reference.
pub(super) const WORDS: &str =
    "`enabled`, `true`, `yes`, `on`, `1`; off: `disabled`, `false`, `no`, `off`, `0` or nothing";

/// The error for a value that is only a word for on or off, or should be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SwitchError {
    /// Cause: another value
    /// Cure: `enabled`, `true`, `yes`, `on`, `1`; `disabled`, `false`, `no`, `off`, `0`
    #[error("must be enabled or disabled")]
    Neither,
    /// Cause: a word such as `enabled`, but the directive names something: "which devices", "which resource", "which ConfigMap has the
    /// ROM"
    /// Cure: write the value that the message asks for
    #[error("it does not say {what}; write for example {example}")]
    NoValue { what: &'static str, example: &'static str },
}

/// Whether the value switches a feature on.
///
/// # Errors
/// The value is not a word for on or off.
pub(crate) fn parse_switch(value: &str) -> Result<bool, SwitchError> {
    match value.to_ascii_lowercase().as_str() {
        "enabled" | "true" | "yes" | "on" | "1" => Ok(true),
        "disabled" | "false" | "no" | "off" | "0" | "" => Ok(false),
        _ => Err(SwitchError::Neither),
    }
}

/// Whether the value of a directive switches its feature off. The words are the same for every feature.
pub(crate) fn is_off(directive: &Directive<'_>) -> bool {
    directive.text().is_ok_and(switches_off)
}

/// Whether a value switches a feature off.
pub(crate) fn switches_off(value: &str) -> bool {
    parse_switch(value) == Ok(false)
}

/// Checks that the value is more than a word for on. A directive that names something has no such word as its value, so
/// no ConfigMap called `yes` can be named. `what` is what is missing, and `example` how to write it in YAML.
pub(super) fn reject_bare_switch(value: &str, what: &'static str, example: &'static str) -> Result<(), SwitchError> {
    if parse_switch(value) == Ok(true) { Err(SwitchError::NoValue { what, example }) } else { Ok(()) }
}
