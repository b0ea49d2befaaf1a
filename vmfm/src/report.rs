//! Shows the user the result of an evaluation.

use std::fmt::Write;

use serde_json::{Value, json};
use similar::TextDiff;

use crate::explain::Explanation;
use crate::host::Evaluation;
use crate::paint::{Paint, Part};
use crate::{visible, yaml};

/// A request that was evaluated.
#[derive(Debug)]
pub struct Evaluated {
    /// The file that the request was made from.
    pub file: String,
    /// The request.
    pub request: Value,
    /// The result.
    pub evaluation: Evaluation,
    /// The explanation, if the user asked for one.
    pub explanation: Option<Explanation>,
    /// What looks like a directive, but is not read.
    pub not_read: Vec<String>,
}

impl Evaluated {
    /// The object before and after as a unified diff of YAML, then the warnings and the audit annotations.
    pub fn diff(&self, paint: Paint) -> String {
        let response = &self.evaluation.response;
        let mut text = String::new();
        let _ = writeln!(text, "{}: {}", paint.paint(Part::Heading, &self.name()), self.verdict(paint));
        if let Some(status) = &response.status {
            let message = status.message.as_deref().unwrap_or("(no message)");
            let _ = writeln!(text, "\n{}", visible::text(message));
            if let Some(code) = status.code {
                let _ = writeln!(text, "(code {code})");
            }
        }
        if let Some(explanation) = &self.explanation {
            let _ = write!(text, "\n{}", explanation.text(paint));
        }
        if response.patch.is_some() {
            let before = yaml::shown(&self.request["object"]);
            let after = yaml::shown(&self.after());
            let diff = TextDiff::from_lines(&before, &after).unified_diff().header("before", "after").to_string();
            text.push('\n');
            diff.lines().for_each(|line| text.push_str(&(paint.paint_line(line) + "\n")));
        }
        let warnings = response.warnings.iter().map(|w| format!("- {}", paint.paint(Part::Warning, w)));
        section(&mut text, paint, "warnings", warnings);
        let not_read = self.not_read.iter().map(|line| format!("- {}", paint.paint(Part::Warning, line)));
        section(&mut text, paint, "not read", not_read);
        let audit = response.audit_annotations.iter().map(|(key, value)| visible::text(&format!("{key}: {value}")));
        section(&mut text, paint, "audit annotations", audit);
        text
    }

    /// One line: the file, the object, the verdict, and the features that were applied and that failed.
    pub fn summary(&self, paint: Paint) -> String {
        let response = &self.evaluation.response;
        let mut notes = Vec::new();
        for key in ["applied", "failed"] {
            if let Some(features) = response.audit_annotations.get(key).filter(|features| !features.is_empty()) {
                notes.push(visible::text(&format!("{key} {}", features.replace(',', ", "))));
            }
        }
        if notes.is_empty() && !response.allowed {
            let message = response.status.as_ref().and_then(|status| status.message.as_deref());
            notes.extend(message.and_then(|message| message.lines().next()).map(visible::text));
        }
        if !response.warnings.is_empty() {
            let plural = if response.warnings.len() == 1 { "" } else { "s" };
            notes.push(paint.paint(Part::Warning, &format!("{} warning{plural}", response.warnings.len())));
        }
        if !self.not_read.is_empty() {
            notes.push(paint.paint(Part::Warning, &format!("not read: {}", self.not_read.len())));
        }
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        format!("{}: {}: {}{notes}", visible::text(&self.file), self.name(), self.verdict(paint))
    }

    /// Everything in one object: the verdict, the patch, and the object after it.
    pub fn value(&self) -> Value {
        let response = &self.evaluation.response;
        let mut value = json!({
            "file": self.file,
            "allowed": response.allowed,
            "status": response.status,
            "patch": response.patch_operations(),
            "object": self.after(),
            "warnings": response.warnings,
            "notRead": self.not_read,
            "auditAnnotations": response.audit_annotations,
        });
        if let Some(explanation) = &self.explanation {
            value["explanation"] = json!(explanation);
        }
        value
    }

    /// Whether there is something to look at, although the request is allowed.
    pub fn is_warned_of(&self) -> bool {
        !self.evaluation.response.warnings.is_empty() || !self.not_read.is_empty()
    }

    /// The object after the patch.
    pub fn after(&self) -> Value {
        let object = &self.request["object"];
        self.evaluation.response.patched(object).unwrap_or_else(|_| object.clone())
    }

    /// The kind, namespace and name, on one line.
    fn name(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().escape_debug().to_string();
        let kind = self.request["kind"]["kind"].as_str().unwrap_or("?");
        visible::text(&format!("{kind} {}/{}", text(&self.request["namespace"]), text(&self.request["name"])))
    }

    fn verdict(&self, paint: Paint) -> String {
        let response = &self.evaluation.response;
        match (response.allowed, &response.patch) {
            (false, _) => paint.paint(Part::Bad, "denied"),
            (true, None) => paint.paint(Part::Good, "allowed, unchanged"),
            (true, Some(_)) => paint.paint(Part::Good, "allowed, mutated"),
        }
    }
}

impl Paint {
    /// A line of a unified diff.
    fn paint_line(self, line: &str) -> String {
        let part = match line.as_bytes() {
            [b'+', b'+', b'+', b' ', ..] | [b'-', b'-', b'-', b' ', ..] => Part::Heading,
            [b'+', ..] => Part::Good,
            [b'-', ..] => Part::Bad,
            [b'@', ..] => Part::Place,
            _ => return line.to_owned(),
        };
        self.paint(part, line)
    }
}

fn section(text: &mut String, paint: Paint, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        let _ = writeln!(text, "\n{}\n  {}", paint.paint(Part::Heading, &format!("{title}:")), lines.join("\n  "));
    }
}
