//! What a user sees of an evaluation.

use std::fmt::Write;

use serde_json::{Value, json};
use similar::TextDiff;

use crate::host::Evaluation;
use crate::yaml;

/// The object before and after as a unified diff of YAML, then the warnings and the audit annotations.
pub fn diff(request: &Value, evaluation: &Evaluation) -> String {
    let response = &evaluation.response;
    let mut text = String::new();
    let verdict = match (response.allowed, &response.patch) {
        (false, _) => "denied",
        (true, None) => "allowed, unchanged",
        (true, Some(_)) => "allowed, mutated",
    };
    let _ = writeln!(
        text,
        "{} {}/{}: {verdict}",
        request["kind"]["kind"].as_str().unwrap_or("?"),
        request["namespace"].as_str().unwrap_or_default(),
        request["name"].as_str().unwrap_or_default(),
    );
    if let Some(status) = &response.status {
        let message = status.message.as_deref().unwrap_or("(no message)");
        let _ = writeln!(text, "\n{message}");
        if let Some(code) = status.code {
            let _ = writeln!(text, "(code {code})");
        }
    }
    if response.patch.is_some() {
        let before = yaml::write(&request["object"]);
        let after = yaml::write(&after(request, evaluation));
        let diff = TextDiff::from_lines(&before, &after);
        let _ = write!(text, "\n{}", diff.unified_diff().header("before", "after"));
    }
    section(&mut text, "warnings", response.warnings.iter().map(|w| format!("- {w}")));
    let audit = response.audit_annotations.iter().map(|(key, value)| format!("{key}: {value}"));
    section(&mut text, "audit annotations", audit);
    text
}

/// Everything in one object: the verdict, the patch, and the object after it.
pub fn value(request: &Value, evaluation: &Evaluation) -> Value {
    let response = &evaluation.response;
    json!({
        "allowed": response.allowed,
        "status": response.status,
        "patch": response.patch_operations(),
        "object": after(request, evaluation),
        "warnings": response.warnings,
        "auditAnnotations": response.audit_annotations,
    })
}

/// The object as the patch leaves it.
pub fn after(request: &Value, evaluation: &Evaluation) -> Value {
    let object = &request["object"];
    evaluation.response.patched(object).unwrap_or_else(|_| object.clone())
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        let _ = writeln!(text, "\n{title}:\n  {}", lines.join("\n  "));
    }
}
