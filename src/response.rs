//! From a verdict to the bytes that the Kubewarden host reads. Knows nothing of how the verdict came about.

use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use serde::Serialize;

use crate::policy::{Decision, Verdict};
use crate::settings::SettingsError;
use crate::text::warning;

/// Kubewarden's `ValidationResponse` without `mutated_object`, which the SDK's own takes as a tree.
#[derive(Serialize)]
struct ValidationResponse {
    accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "AuditAnnotations::is_empty")]
    audit_annotations: AuditAnnotations,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// For the API server's audit log: the names of the features that are in place, and of those that failed.
#[derive(Serialize)]
struct AuditAnnotations {
    #[serde(skip_serializing_if = "String::is_empty")]
    applied: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    failed: String,
}

impl AuditAnnotations {
    fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.failed.is_empty()
    }
}

/// The answer to a request that does not concern the policy.
pub(crate) fn accepted() -> Vec<u8> {
    br#"{"accepted":true}"#.to_vec()
}

/// The answer to `validate`; `payload` is the payload's length, which tells how long a mutated object will be.
pub(crate) fn to_bytes(verdict: &Verdict<'_>, payload: usize) -> Vec<u8> {
    let mut response = ValidationResponse {
        accepted: true,
        message: None,
        code: None,
        audit_annotations: AuditAnnotations {
            applied: verdict.applied.join(","),
            failed: verdict.failed.join(","),
        },
        warnings: verdict.warnings.iter().map(|message| warning(message)).collect(),
    };
    if let Decision::Denied(denial) = &verdict.decision {
        response.accepted = false;
        response.message = Some(denial.to_string());
        response.code = Some(denial.code());
    }
    let mut text = write(&response);
    if let Decision::Mutated(vm) = &verdict.decision {
        text.reserve(payload);
        // Before the closing brace: the members that are there are never none.
        text.pop();
        text.push_str(r#","mutated_object":"#);
        vm.write(&mut text);
        text.push('}');
    }
    text.into_bytes()
}

/// The answer to `validate_settings`.
pub(crate) fn settings_to_bytes(result: Result<(), SettingsError>) -> Vec<u8> {
    let response = SettingsValidationResponse {
        valid: result.is_ok(),
        message: result.err().map(|error| error.to_string()),
    };
    write(&response).into_bytes()
}

/// Writing to memory fails only where a type is at fault; the answer then is a denial that says so, not a trap.
fn write(response: &impl Serialize) -> String {
    serde_json::to_string(response).unwrap_or_else(|_| {
        r#"{"accepted":false,"valid":false,"code":500,"message":"the answer cannot be written"}"#
            .to_owned()
    })
}
