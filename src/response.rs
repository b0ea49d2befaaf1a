//! From a verdict to the bytes that the Kubewarden host reads. Knows nothing of how the verdict came about.

use crate::json::{Json, member};
use crate::settings::SettingsError;
use crate::text;
use crate::verdict::{Decision, Verdict};

/// The answer to a request that does not concern the policy.
pub(crate) fn accepted() -> Vec<u8> {
    br#"{"accepted":true}"#.to_vec()
}

/// The answer to `validate`: Kubewarden's `ValidationResponse`. `payload` is the payload's length, which tells how long a
/// mutated object will be.
pub(crate) fn to_bytes(verdict: &Verdict<'_>, payload: usize) -> Vec<u8> {
    let mut response = vec![];
    match &verdict.decision {
        Decision::Denied(denial) => response.extend([
            member("accepted", Json::Bool(false)),
            member("message", denial.to_string()),
            member("code", Json::Number(denial.code().into())),
        ]),
        Decision::Unchanged | Decision::Mutated(_) => {
            response.push(member("accepted", Json::Bool(true)));
        }
    }
    // For the API server's audit log: the features that are in place, and those that failed.
    let audit = [("applied", &verdict.applied), ("failed", &verdict.failed)];
    let audit = audit.into_iter().filter(|(_, features)| !features.is_empty());
    let audit: Vec<_> = audit.map(|(key, features)| member(key, features.join(","))).collect();
    if !audit.is_empty() {
        response.push(member("audit_annotations", Json::Object(audit)));
    }
    if !verdict.warnings.is_empty() {
        let warnings = verdict.warnings.iter().flat_map(|message| text::warnings(message)).map(Json::from).collect();
        response.push(member("warnings", Json::Array(warnings)));
    }
    let mut text = Json::Object(response).to_text();
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

/// The answer to `validate_settings`: Kubewarden's `SettingsValidationResponse`.
pub(crate) fn settings_to_bytes(result: Result<(), SettingsError>) -> Vec<u8> {
    let mut response = vec![member("valid", Json::Bool(result.is_ok()))];
    response.extend(result.err().map(|error| member("message", error.to_string())));
    Json::Object(response).to_text().into_bytes()
}
