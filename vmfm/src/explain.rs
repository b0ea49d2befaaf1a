//! Explains an answer: the directives that were found, what was looked up, and what was decided. Everything comes from
//! what the host sees: the request, the module's calls in order, and its answer. Only the features' names come from the
//! policy's code.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vm_feature_manager_policy::reference::{self, Reference};
use vm_feature_manager_policy::{ListedDirective, list_directives};

use crate::host::{Evaluation, Event};
use crate::paint::{Paint, Part};
use crate::visible;

/// The annotation of the template that says what the policy added.
pub const RECORD: &str = "vm-feature-manager.io/record";

/// The explanation of an answer.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The directives and options.
    pub directives: Vec<ListedDirective>,
    /// What was looked up, with the log lines in between.
    pub steps: Vec<Step>,
    /// What happened to each feature that the VirtualMachine asks for, or had.
    pub decisions: Vec<Decision>,
}

/// A call to the host.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// An object or a permission was looked up.
    Lookup {
        /// What was asked.
        question: String,
        /// A summary of the answer.
        answer: String,
    },
    /// The policy logged a line.
    Log(String),
}

/// What happened to a feature.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The feature.
    pub feature: &'static str,
    /// What was decided.
    pub outcome: Outcome,
    /// The details: what was added or removed, why it failed, warnings.
    pub because: Vec<String>,
}

/// What was decided about a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is applied.
    Applied,
    /// It cannot be applied, and the request is denied.
    Refused,
    /// It cannot be applied, but the request is allowed.
    NotApplied,
    /// It fails as before the update, so it stays as it is.
    StillFails,
    /// What it had added is removed.
    Removed,
    /// It would be applied, but the request is denied because of others.
    WouldBeApplied,
    /// Nothing was done about it.
    Nothing,
}

impl Explanation {
    /// Explains the answer to a request.
    pub fn new(request: &Value, settings: &Value, evaluation: &Evaluation) -> Self {
        let directives = list_directives(&request["object"], settings);
        let decisions = Decision::all(request, settings, evaluation, &directives);
        let steps = evaluation.activity.events.iter().map(step).collect();
        Self { directives, steps, decisions }
    }

    /// The explanation as text for people.
    pub fn text(&self, paint: Paint) -> String {
        let mut text = format!("{}\n", paint.paint(Part::Heading, "directives:"));
        let visible = visible::text;
        for ListedDirective { name, value, place, note, .. } in &self.directives {
            let _ = writeln!(text, "  {}: {}", visible(name), visible(value));
            let _ = writeln!(text, "    found in {}", paint.paint(Part::Place, place));
            if let Some(note) = note {
                let _ = writeln!(text, "    {}", paint.paint(Part::Warning, note));
            }
        }
        if self.directives.is_empty() {
            text.push_str("  none\n");
        }
        let _ = writeln!(text, "\n{}", paint.paint(Part::Heading, "steps:"));
        for (number, step) in self.steps.iter().enumerate() {
            let _ = match step {
                Step::Lookup { question, answer } => {
                    let (question, answer) = (visible(question), paint.paint(Part::Place, answer));
                    writeln!(text, "  {}. {question}: {answer}", number + 1)
                }
                Step::Log(line) => writeln!(text, "  {}. log line: {}", number + 1, visible(line)),
            };
        }
        if self.steps.is_empty() {
            text.push_str("  none\n");
        }
        let _ = writeln!(text, "\n{}", paint.paint(Part::Heading, "decisions:"));
        for Decision { feature, outcome, because } in &self.decisions {
            let (part, words) = match outcome {
                Outcome::Applied => (Part::Good, "applied"),
                Outcome::Refused => (Part::Bad, "refused"),
                Outcome::NotApplied => (Part::Warning, "not applied"),
                Outcome::StillFails => (Part::Warning, "fails as before"),
                Outcome::Removed => (Part::Good, "removed"),
                Outcome::WouldBeApplied => (Part::Good, "would be applied"),
                Outcome::Nothing => (Part::Place, "nothing to do"),
            };
            let _ = writeln!(text, "  {feature}: {}", paint.paint(part, words));
            because.iter().for_each(|reason| text.push_str(&format!("    {}\n", visible(reason))));
        }
        if self.decisions.is_empty() {
            text.push_str("  none: no feature is asked for\n");
        }
        text
    }
}

impl Decision {
    /// What was decided about each feature in the answer to a request. `directives` are those of the VirtualMachine.
    pub fn all(
        request: &Value,
        settings: &Value,
        evaluation: &Evaluation,
        directives: &[ListedDirective],
    ) -> Vec<Self> {
        let facts = Facts { request, settings, evaluation, directives };
        let features = reference::features().into_iter();
        features.filter_map(|(name, reference)| facts.decision(name, &reference)).collect()
    }
}

/// What looks like a directive, but is not read, and what the policy does not warn of: its key is nearly one of a directive, or
/// it is in user data while the settings switch user data off.
pub fn not_read(directives: &[ListedDirective]) -> Vec<String> {
    let is_silent = |note: &str| !note.contains("configSource") && !note.ends_with("comes first");
    let notes = directives.iter().filter_map(|directive| Some((directive, directive.note.as_deref()?)));
    let notes = notes.filter(|(_, note)| is_silent(note));
    notes.map(|(directive, note)| format!("{}: {note}", directive.place)).collect()
}

/// What the decisions can be determined from.
struct Facts<'f> {
    request: &'f Value,
    settings: &'f Value,
    evaluation: &'f Evaluation,
    directives: &'f [ListedDirective],
}

impl Facts<'_> {
    fn decision(&self, feature: &'static str, reference: &Reference) -> Option<Decision> {
        let directive = self.directives.iter().find(|found| found.name == feature && found.note.is_none());
        let (before, after) = (self.record_before(feature), self.record_after(feature));
        let mut because = Vec::new();
        let outcome = if self.is_listed("applied", feature) {
            let kept = after.iter().filter(|entry| before.contains(entry)).map(|entry| format!("kept {entry}"));
            let added = after.iter().filter(|entry| !before.contains(entry)).map(|entry| format!("added {entry}"));
            because.extend(kept.chain(added));
            if because.is_empty() {
                because.push("all that it needs was there already".to_owned());
            }
            Outcome::Applied
        } else if let Some(line) = self.logged("feature refused", feature) {
            because.push(error(line));
            Outcome::Refused
        } else if let Some(line) = self.logged("feature not applied", feature) {
            because.push(error(line));
            Outcome::NotApplied
        } else if let Some(line) = self.logged("directive removed", feature) {
            because.extend([error(line), "errorHandling is strip-label, so the directive is removed".to_owned()]);
            Outcome::NotApplied
        } else if let Some(line) = self.logged("feature still fails", feature) {
            because.push(error(line));
            Outcome::StillFails
        } else if self.logged("feature removed", feature).is_some() {
            Outcome::Removed
        } else if let Some(directive) = directive.filter(|directive| self.would_be_applied(directive, reference)) {
            let refused = self.refused_features().filter(|name| *name != directive.name);
            let refused: Vec<_> = refused.collect();
            because.push(format!("the request is denied because of {}", refused.join(", ")));
            Outcome::WouldBeApplied
        } else if let Some(directive) = directive {
            because.push(self.why_nothing(directive, reference));
            Outcome::Nothing
        } else {
            return None;
        };
        if outcome != Outcome::Refused {
            let gone = before.iter().filter(|entry| !after.contains(entry));
            if outcome != Outcome::Nothing {
                because.extend(gone.map(|entry| format!("removed {entry}")));
            }
        }
        let of_feature = format!("{feature}: ");
        let warnings = self.evaluation.response.warnings.iter().filter_map(|warning| warning.strip_prefix(&of_feature));
        because.extend(warnings.map(|warning| format!("warning: {warning}")));
        Some(Decision { feature, outcome, because })
    }

    /// Whether a feature without a log line of its own was planned in a request that is denied because of others.
    fn would_be_applied(&self, directive: &ListedDirective, reference: &Reference) -> bool {
        let is_enabled = self.settings[reference.settings]["enabled"] != false;
        is_enabled && !directive.is_off && self.refused_features().next().is_some()
    }

    /// The features because of which the request is denied.
    fn refused_features(&self) -> impl Iterator<Item = &str> {
        let lines = self.evaluation.activity.logs().into_iter().filter(|line| line["message"] == "feature refused");
        lines.filter_map(|line| line["feature"].as_str())
    }

    fn why_nothing(&self, directive: &ListedDirective, reference: &Reference) -> String {
        let response = &self.evaluation.response;
        if self.settings[reference.settings]["enabled"] == false {
            return format!("the setting {}.enabled is false", reference.settings);
        }
        if directive.is_off {
            return format!("{} switches it off", in_words(&directive.value));
        }
        if !response.allowed {
            return "the request is denied for another reason".to_owned();
        }
        if response.patch.is_none() && self.request["operation"] == "UPDATE" {
            return "nothing has changed that matters to the policy".to_owned();
        }
        "the policy left it as it is".to_owned()
    }

    /// Whether the audit annotation lists the feature.
    fn is_listed(&self, key: &str, feature: &str) -> bool {
        let list = self.evaluation.response.audit_annotations.get(key);
        list.is_some_and(|list| list.split(',').any(|name| name == feature))
    }

    /// The log line with this message about the feature.
    fn logged(&self, message: &str, feature: &str) -> Option<&Value> {
        let mut lines = self.evaluation.activity.logs().into_iter();
        lines.find(|line| line["message"] == message && line["feature"] == feature)
    }

    fn record_before(&self, feature: &str) -> Vec<String> {
        let of_old = record(&self.request["oldObject"], feature);
        if of_old.is_empty() { record(&self.request["object"], feature) } else { of_old }
    }

    fn record_after(&self, feature: &str) -> Vec<String> {
        let object = &self.request["object"];
        self.evaluation.response.patched(object).map_or_else(|_| Vec::new(), |after| record(&after, feature))
    }
}

/// The entries in the object's record of a feature.
fn record(object: &Value, feature: &str) -> Vec<String> {
    let text = object["spec"]["template"]["metadata"]["annotations"][RECORD].as_str().unwrap_or_default();
    let record: Value = serde_json::from_str(text).unwrap_or_default();
    let entries = Vec::<BTreeMap<String, Value>>::deserialize(&record[feature]["added"]).unwrap_or_default();
    let member = |(key, value): (&String, &Value)| match value {
        Value::Bool(true) => key.clone(),
        Value::String(text) => format!("{key} {text}"),
        other => format!("{key} {other}"),
    };
    let write = |entry: &BTreeMap<String, Value>| {
        let members = entry.iter().filter(|(key, _)| *key != "beside");
        members.map(member).collect::<Vec<_>>().join(", ")
    };
    entries.iter().map(write).collect()
}

/// The value of a directive, or a word for none.
fn in_words(value: &str) -> &str {
    if value.trim().is_empty() { "an empty value" } else { value }
}

fn error(line: &Value) -> String {
    line["error"].as_str().unwrap_or_default().to_owned()
}

fn step(event: &Event) -> Step {
    match event {
        Event::Lookup { operation, request, answer } => {
            Step::Lookup { question: question(operation, request), answer: in_short(operation, answer) }
        }
        Event::Log(line) => {
            let details = ["feature", "features", "error", "reason"].into_iter().filter_map(|key| line[key].as_str());
            let message = line["message"].as_str().unwrap_or_default();
            Step::Log([message].into_iter().chain(details).collect::<Vec<_>>().join(": "))
        }
    }
}

fn question(operation: &str, request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = |namespace: &Value| namespace.as_str().map_or_else(String::new, |n| format!(" in the namespace {n}"));
    let kind = text(&request["kind"]);
    match operation {
        "get_resource" => format!("get {kind} {}{}", text(&request["name"]), place(&request["namespace"])),
        "list_resources_all" | "list_resources_by_namespace" => {
            format!("list {kind}{}", place(&request["namespace"]))
        }
        "can_i" => {
            let review = &request["subject_access_review"];
            let attributes = &review["resource_attributes"];
            let [verb, group, resource, name] = ["verb", "group", "resource", "name"].map(|key| text(&attributes[key]));
            let group = if group.is_empty() { group } else { format!(".{group}") };
            let name = if name.is_empty() { name } else { format!(" {name}") };
            let namespace = place(&attributes["namespace"]);
            format!("may {} {verb} {resource}{group}{name}{namespace}?", text(&review["user"]))
        }
        other => format!("{other} {request}"),
    }
}

fn in_short(operation: &str, answer: &Result<Vec<u8>, String>) -> String {
    let answer = answer.as_ref().map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_default());
    match answer {
        Ok(answer) if operation == "can_i" => if answer["allowed"] == true { "yes" } else { "no" }.to_owned(),
        Ok(answer) => match answer["items"].as_array().map(Vec::len) {
            Some(1) => "1 item".to_owned(),
            Some(count) => format!("{count} items"),
            None => "found".to_owned(),
        },
        Err(error) => {
            let short = [
                ("Cannot find", "not found"),
                ("is forbidden", "forbidden"),
                ("404 page not found", "the cluster has no such kind"),
                ("access to Kubernetes", "not among the kinds that the policy's metadata grants"),
                ("host capability", "not among the capabilities that the policy's metadata grants"),
                ("client error (Connect)", "no answer"),
                ("unknown operation", "unknown to this version of Kubewarden"),
            ];
            let known = short.iter().find(|(part, _)| error.contains(part));
            known.map_or_else(|| error.lines().next().unwrap_or_default(), |(_, short)| short).to_owned()
        }
    }
}
