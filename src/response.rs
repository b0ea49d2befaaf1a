//! Turns a verdict into the bytes that the Kubewarden host reads. This module does not know how the verdict was reached.

use kubewarden_policy_sdk::response::ValidationResponse;
use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use serde::Serialize;

use crate::settings::SettingsError;
use crate::text;
use crate::verdict::{Decision, Verdict};

/// The answer to `validate`.
pub(crate) fn to_bytes(verdict: Verdict) -> Vec<u8> {
    // For the API server's audit log: the features that are applied, and those that failed.
    let audit = [("applied", verdict.applied), ("failed", verdict.failed)].into_iter();
    let audit = audit.filter(|(_, features)| !features.is_empty());
    let audit: std::collections::HashMap<_, _> =
        audit.map(|(key, features)| (key.to_owned(), features.join(","))).collect();
    let warnings: Vec<String> = verdict.warnings.iter().flat_map(|message| text::warnings(message)).collect();
    let mut response = ValidationResponse {
        accepted: true,
        message: None,
        code: None,
        mutated_object: None,
        audit_annotations: Some(audit).filter(|audit| !audit.is_empty()),
        warnings: Some(warnings).filter(|warnings| !warnings.is_empty()),
    };
    match verdict.decision {
        Decision::Unchanged => {}
        Decision::Mutated(object) => response.mutated_object = Some(object),
        Decision::Denied(denial) => {
            response.accepted = false;
            // Each failure has its own line.
            let lines: Vec<String> = denial.to_string().split('\n').map(|line| text::visible(line).collect()).collect();
            response.message = Some(lines.join("\n"));
            response.code = Some(denial.code());
        }
    }
    serialize(&response)
}

/// The answer to `validate_settings`.
pub(crate) fn settings_to_bytes(result: Result<(), SettingsError>) -> Vec<u8> {
    let message = result.err().map(|error| text::visible(&error.to_string()).collect());
    serialize(&SettingsValidationResponse { valid: message.is_none(), message })
}

/// The bytes of an answer. All its keys are strings and all its numbers are integers or finite, so this cannot fail.
fn serialize(response: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(response).unwrap_or_default()
}
