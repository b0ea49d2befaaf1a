//! What the policy makes of a VirtualMachine that is in a cluster.

use json_patch::PatchOperation;
use serde::Serialize;
use serde_json::{Value, json};
use vm_feature_manager_policy::{ListedDirective, list_directives};

use super::needs::enabled;
use crate::admission::{self, AdmissionResponse};
use crate::explain::{Decision, Outcome, RECORD, not_read};
use crate::host::Host;

/// What became of a VirtualMachine's directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All are applied, and the policy would change nothing.
    Applied,
    /// They were evaluated, and the policy would change something now.
    WouldChange,
    /// One cannot be applied.
    Failed,
    /// One was never evaluated, because the policy was not there or could not be called.
    NeverEvaluated,
    /// There are none, or the policy does not see the VirtualMachine.
    Nothing,
}

impl State {
    /// All states, in the order of the summary.
    pub const ALL: [Self; 5] = [Self::Applied, Self::WouldChange, Self::Failed, Self::NeverEvaluated, Self::Nothing];

    /// The state in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::WouldChange => "would change",
            Self::Failed => "failed",
            Self::NeverEvaluated => "never evaluated",
            Self::Nothing => "nothing",
        }
    }
}

/// A VirtualMachine, and what the policy makes of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its directives and options, also those that are not read.
    pub directives: Vec<ListedDirective>,
    /// What became of them.
    pub state: State,
    /// What would change, why it failed, or why there is nothing.
    pub messages: Vec<String>,
    /// The policy's warnings, and keys that are nearly those of directives.
    pub warnings: Vec<String>,
    /// The VirtualMachine as the policy would make it, if it would change something.
    #[serde(skip)]
    pub changed: Option<Value>,
}

/// The names of the features that a VirtualMachine asks for, and those that it has a record of.
pub fn features(vm: &Value, settings: &Value) -> Vec<String> {
    let directives = list_directives(vm, settings).into_iter().filter(|directive| directive.note.is_none());
    let mut names: Vec<String> = directives.map(|directive| directive.name).collect();
    names.extend(record(vm).as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    names
}

/// Evaluates a VirtualMachine as if somebody changed it now, but neither its directives nor anything that they need.
pub fn judge(vm: &Value, settings: &Value, host: &Host) -> Judged {
    let text = |key: &str| vm["metadata"][key].as_str().unwrap_or_default().to_owned();
    let directives = list_directives(vm, settings);
    let mut judged = Judged {
        namespace: text("namespace"),
        name: text("name"),
        state: State::Nothing,
        messages: Vec::new(),
        warnings: not_read(&directives),
        changed: None,
        directives,
    };
    if vm["metadata"]["deletionTimestamp"].is_string() {
        judged.messages.push("it is being deleted".to_owned());
        return judged;
    }
    let request = match admission::request(vm.clone(), Some(before(vm))) {
        Ok(request) => request,
        Err(error) => {
            judged.state = State::Failed;
            judged.messages.push(error.to_string());
            return judged;
        }
    };
    let evaluation = host.validate(settings, &request);
    let decisions = Decision::all(&request, settings, &evaluation, &judged.directives);
    let response = &evaluation.response;
    let on = enabled(settings);
    let is_asked = |directive: &&ListedDirective| {
        directive.note.is_none() && !directive.is_off && on.contains(&directive.name.as_str())
    };
    let asked: Vec<&str> = judged.directives.iter().filter(is_asked).map(|directive| directive.name.as_str()).collect();
    let missed: Vec<&str> = asked.iter().copied().filter(|feature| !is_evaluated(vm, feature)).collect();
    let fails =
        |decision: &&Decision| matches!(decision.outcome, Outcome::Refused | Outcome::NotApplied | Outcome::StillFails);
    (judged.state, judged.messages) = if !response.allowed {
        let message = response.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        (State::Failed, message.lines().map(str::to_owned).collect())
    } else if !missed.is_empty() {
        let decisions = decisions.iter().filter(|decision| missed.contains(&decision.feature));
        let messages = decisions.map(|decision| match fails(&decision) {
            true => format!("{} would fail: {}", decision.feature, first(decision)),
            false => format!("{} would be applied: {}", decision.feature, changes(decision)),
        });
        (State::NeverEvaluated, messages.collect())
    } else if decisions.iter().any(|decision| fails(&decision)) {
        let failed = decisions.iter().filter(fails);
        (State::Failed, failed.map(|decision| format!("{}: {}", decision.feature, first(decision))).collect())
    } else if response.patch.is_some() {
        (State::WouldChange, what_changes(&decisions, response))
    } else if !asked.is_empty() {
        (State::Applied, Vec::new())
    } else {
        let idle = decisions.iter().filter(|decision| decision.outcome == Outcome::Nothing);
        (State::Nothing, idle.map(|decision| format!("{}: {}", decision.feature, first(decision))).collect())
    };
    judged.changed = response.patch.as_ref().and_then(|_| response.patched(vm).ok());
    judged.warnings.extend(response.warnings.iter().cloned());
    judged
}

/// The VirtualMachine before a change that has nothing to do with the policy. Without a change, the policy would not
/// evaluate the directives that it evaluated before.
fn before(vm: &Value) -> Value {
    let mut before = vm.clone();
    if let Some(spec) = before.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) {
        let seconds = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
        spec.insert("terminationGracePeriodSeconds".to_owned(), json!(seconds + 1));
    }
    before
}

/// Whether the policy evaluated a directive: there is a record of it, or an annotation that says that it was applied or
/// failed.
fn is_evaluated(vm: &Value, feature: &str) -> bool {
    let annotations = &vm["metadata"]["annotations"];
    let is_marked = ["applied", "error"]
        .iter()
        .any(|end| annotations[format!("vm-feature-manager.io/{feature}-{end}")].is_string());
    is_marked || record(vm)[feature].is_object()
}

/// The record of what the policy added.
fn record(vm: &Value) -> Value {
    let text = vm["spec"]["template"]["metadata"]["annotations"][RECORD].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

fn first(decision: &Decision) -> &str {
    decision.because.first().map(String::as_str).unwrap_or("for an unknown reason")
}

/// What is added and removed for a feature.
fn changes(decision: &Decision) -> String {
    let is_change = |line: &&String| !line.starts_with("kept ") && !line.starts_with("warning: ");
    let lines: Vec<&str> = decision.because.iter().filter(is_change).map(String::as_str).collect();
    lines.join("; ")
}

/// What the policy would change: for each feature, or the places if no feature has entries that change.
fn what_changes(decisions: &[Decision], response: &AdmissionResponse) -> Vec<String> {
    let is_change = |line: &String| line.starts_with("added ") || line.starts_with("removed ");
    let changing = decisions.iter().filter(|decision| decision.because.iter().any(is_change));
    let messages: Vec<String> =
        changing.map(|decision| format!("{}: {}", decision.feature, changes(decision))).collect();
    if !messages.is_empty() {
        return messages;
    }
    // What is added again is in the record already.
    let operations = response.patch_operations();
    operations.iter().map(operation).collect()
}

/// An operation of a JSON patch, in words.
fn operation(operation: &PatchOperation) -> String {
    let verb = match operation {
        PatchOperation::Add(_) => "adds",
        PatchOperation::Remove(_) => "removes",
        _ => "changes",
    };
    let path = operation.path().to_string();
    let names = path.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~"));
    format!("{verb} {}", names.collect::<Vec<_>>().join("."))
}
