//! The policy's answer. This module does not know how the verdict is reached, or which bytes it becomes.

use serde_json::Value;

use crate::request::Unreadable;
use crate::settings::SettingsError;
use crate::vm::ShapeError;

/// The policy's answer.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) decision: Decision,
    /// Warnings. They must be true even if the host discards the mutation.
    pub(crate) warnings: Vec<String>,
    /// The features that are applied.
    pub(crate) applied: Vec<&'static str>,
    /// The features that failed, whatever their error mode.
    pub(crate) failed: Vec<&'static str>,
}

/// What happens to the request.
#[derive(Debug, Default)]
pub(crate) enum Decision {
    #[default]
    Unchanged,
    /// The VirtualMachine as it shall be.
    Mutated(Value),
    Denied(Denial),
}

/// Why a request is denied, in words for the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denial {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    /// Cause: the settings changed without a check by policy-server
    /// Cure: an administrator corrects what the message lists
    #[error("the policy's settings are invalid, so no feature can be applied: {0}")]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Shape(#[from] ShapeError),
    #[error("{}", .0.join("\n"))]
    Failures(Vec<String>),
}

impl Denial {
    /// The HTTP status code: 400 if the user can fix it, 500 if only an administrator can.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Denial::Unreadable(_) | Denial::Shape(_) | Denial::Failures(_) => 400,
            Denial::Settings(_) => 500,
        }
    }
}
