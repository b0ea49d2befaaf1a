//! The policy's answer. Knows nothing of how the verdict comes about, or of the bytes that it becomes.

use crate::request::Unreadable;
use crate::settings::SettingsError;
use crate::vm::{ShapeError, VirtualMachine};

/// The policy's answer.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) decision: Decision,
    /// Warnings, true also if the host drops the mutation.
    pub(crate) warnings: Vec<String>,
    /// The features that are in place.
    pub(crate) applied: Vec<&'static str>,
    /// The features that could not be applied, whatever their error mode.
    pub(crate) failed: Vec<&'static str>,
}

/// The decision about the request.
#[derive(Debug, Default)]
pub(crate) enum Decision {
    #[default]
    Unchanged,
    Mutated(VirtualMachine),
    Denied(Denial),
}

/// Why a request is denied, in the words that the user reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denial {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    /// Cause: the settings changed behind policy-server's back
    /// Cure: the administrator corrects what follows
    #[error("the policy's settings are invalid, so no feature can be applied: {0}")]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Shape(#[from] ShapeError),
    #[error("{}", .0.join("\n"))]
    Failures(Vec<String>),
}

impl Denial {
    /// The HTTP status code: 400 if the user can mend it, 500 if only the administrator can.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Denial::Unreadable(_) | Denial::Shape(_) | Denial::Failures(_) => 400,
            Denial::Settings(_) => 500,
        }
    }
}
