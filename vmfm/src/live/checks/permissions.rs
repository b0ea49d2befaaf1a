//! What the policy declares that it looks up, and what its account may look up.

use vm_feature_manager_policy::cluster::words::{account, lookup};
use vm_feature_manager_policy::cluster::{ClusterError, Kind};

use super::{Facts, Finding, Grade};
use crate::live::lookups::namespace_of;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = declared(facts);
    findings.extend(granted(facts));
    findings
}

fn declared(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "declared kinds";
    let declared = facts.policy.0["spec"]["contextAwareResources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_declared = |kind: &Kind| {
        declared.iter().any(|entry| entry["apiVersion"] == kind.api_version && entry["kind"] == kind.name)
    };
    let missing = facts.needs.iter().filter(|need| !is_declared(need.kind) && facts.may_be_read(need.kind));
    let findings: Vec<Finding> = missing
        .map(|need| {
            let (why, remedy) = lookup(ClusterError::NotDeclared, need.kind, "get", None);
            Finding::problem(CHECK, why, remedy)
        })
        .collect();
    if !findings.is_empty() {
        return findings;
    }
    vec![Finding::ok(CHECK, "spec.contextAwareResources has all kinds that the enabled features look up")]
}

fn granted(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "permissions";
    let mut findings: Vec<Finding> = Vec::new();
    for need in &facts.needs {
        let missing =
            facts.permissions.iter().filter(|permission| permission.kind == need.kind && !permission.is_granted);
        let verbs: Vec<&str> = missing.map(|permission| permission.verb).collect();
        if verbs.is_empty() {
            continue;
        }
        let namespace = namespace_of(need.kind, &facts.settings);
        let cause = ClusterError::Forbidden(account(&facts.account));
        let (why, remedy) = lookup(cause, need.kind, in_words(&verbs), namespace.as_deref());
        // Permission in the namespaces that have such VirtualMachines is enough.
        let finding = match need.kind.is_of_users {
            true => Finding {
                grade: Grade::Warning,
                ..Finding::problem(
                    CHECK,
                    format!("{why} in every namespace"),
                    format!("{remedy}; or grant it in the namespaces that need it"),
                )
            },
            false => Finding::problem(CHECK, why, remedy),
        };
        findings.push(finding);
    }
    if findings.is_empty() {
        let count = facts.permissions.len();
        findings.push(Finding::ok(CHECK, format!("{} has the {count} permissions that it needs", facts.account)));
    }
    findings
}

/// The verbs as they read in a sentence.
fn in_words(verbs: &[&str]) -> &'static str {
    match verbs {
        ["get", "list", "watch"] => "get, list and watch",
        ["get", "list"] => "get and list",
        ["get", "watch"] => "get and watch",
        ["list", "watch"] => "list and watch",
        ["list"] => "list",
        ["watch"] => "watch",
        ["create"] => "create",
        _ => "get",
    }
}

impl Facts {
    /// Whether the cluster may have objects of the kind.
    fn may_be_read(&self, kind: &'static Kind) -> bool {
        !self.objects.iter().any(|(known, objects)| *known == kind && objects.is_none())
    }
}
