//! Kubewarden, its policy-server, and the ClusterAdmissionPolicy.

use serde_json::Value;

use super::{Facts, Finding};

/// The first minor version of Kubewarden 1 that offers all lookups, and the first one that reads `timeoutEvalSeconds`.
const OLDEST: u32 = 27;
const OLDEST_WITH_TIMEOUT: u32 = 29;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let policy = &facts.policy.0["spec"];
    let mut findings = vec![version(facts), server(facts), active(facts), rules(policy)];
    findings.extend([failure_policy(policy), conditions(facts)]);
    findings
}

/// The version is the tag of policy-server's image.
fn version(facts: &Facts) -> Finding {
    const CHECK: &str = "Kubewarden";
    let Some(server) = &facts.server else {
        return Finding::problem(
            CHECK,
            format!("there is no PolicyServer {}, which the policy names", facts.server_name),
            "correct spec.policyServer of the ClusterAdmissionPolicy, or create that PolicyServer",
        );
    };
    let namespace = facts.deployments.first().and_then(|deployment| deployment["metadata"]["namespace"].as_str());
    let place = namespace.map(|namespace| format!(" in the namespace {namespace}")).unwrap_or_default();
    let image = server["spec"]["image"].as_str().unwrap_or_default();
    let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map_or("", |(_, tag)| tag);
    let minor: Option<u32> =
        tag.trim_start_matches('v').strip_prefix("1.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let has_timeout = !facts.policy.0["spec"]["timeoutEvalSeconds"].is_null();
    match minor {
        Some(minor) if minor < OLDEST => {
            let found = format!("policy-server is {tag}, and the policy needs Kubewarden 1.{OLDEST} or later");
            Finding::problem(CHECK, found, "upgrade Kubewarden")
        }
        Some(minor) if has_timeout && minor < OLDEST_WITH_TIMEOUT => Finding::warning(
            CHECK,
            format!("policy-server is {tag}, which does not read timeoutEvalSeconds"),
            format!("upgrade Kubewarden to 1.{OLDEST_WITH_TIMEOUT} or later"),
        ),
        Some(_) => Finding::ok(CHECK, format!("policy-server {tag}{place}")),
        None => Finding::ok(CHECK, format!("policy-server{place}; its image {image} names no version that is known")),
    }
}

fn server(facts: &Facts) -> Finding {
    const CHECK: &str = "policy-server";
    let name = format!("policy-server-{}", facts.server_name);
    let [deployment] = &facts.deployments[..] else {
        let count = facts.deployments.len();
        let cure = "make sure that Kubewarden's controller runs";
        return Finding::problem(CHECK, format!("there are {count} Deployments {name}, and there should be one"), cure);
    };
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let (wanted, ready) = (number(&deployment["spec"]["replicas"]), number(&deployment["status"]["readyReplicas"]));
    let namespace = deployment["metadata"]["namespace"].as_str().unwrap_or_default();
    let logs = format!("look at: kubectl get pods -n {namespace} -l kubewarden/policy-server={}", facts.server_name);
    if ready == 0 {
        let found = format!("none of the {wanted} pods of {name} is ready, so the policy is not called");
        Finding::problem(CHECK, found, logs)
    } else if ready < wanted {
        Finding::warning(CHECK, format!("{ready} of {wanted} pods of {name} are ready"), logs)
    } else if wanted == 1 {
        Finding::warning(
            CHECK,
            format!("{name} has a single pod; whenever that restarts, VMs are stored without the policy"),
            format!(
                "run two: kubectl patch policyservers {} --type=merge -p '{{\"spec\":{{\"replicas\":2}}}}'",
                facts.server_name
            ),
        )
    } else {
        Finding::ok(CHECK, format!("{ready} of {wanted} pods of {name} are ready"))
    }
}

fn active(facts: &Facts) -> Finding {
    const CHECK: &str = "policy";
    let (policy, name) = (&facts.policy.0, facts.policy.name());
    let status = policy["status"]["policyStatus"].as_str().unwrap_or("unknown");
    let mode = policy["spec"]["mode"].as_str().unwrap_or("protect");
    if status != "active" {
        let conditions = policy["status"]["conditions"].as_array().into_iter().flatten();
        let is_bad = |condition: &&Value| condition["status"] == "False";
        let why = conditions.clone().find(is_bad).and_then(|condition| condition["message"].as_str());
        let why = why.filter(|why| !why.is_empty()).map(|why| format!(": {why}")).unwrap_or_default();
        return Finding::problem(
            CHECK,
            format!("{name} is not active; its status is {status}{why}"),
            format!("look at: kubectl describe clusteradmissionpolicies {name}"),
        );
    }
    if mode != "protect" {
        return Finding::problem(
            CHECK,
            format!("{name} is in mode {mode}, which changes nothing"),
            "set spec.mode to protect",
        );
    }
    Finding::ok(CHECK, format!("{name} is active, in mode {mode}"))
}

/// Whether the API server sends all writes of VirtualMachines, and lets the policy change them.
fn rules(policy: &Value) -> Finding {
    const CHECK: &str = "rules";
    let has = |list: &Value, word: &str| {
        list.as_array().is_some_and(|list| list.iter().any(|item| item == word || item == "*"))
    };
    let is_for_vms =
        |rule: &&Value| has(&rule["apiGroups"], "kubevirt.io") && has(&rule["resources"], "virtualmachines");
    let rules = policy["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    let missing = ["CREATE", "UPDATE"]
        .into_iter()
        .find(|operation| !rules.iter().filter(is_for_vms).any(|rule| has(&rule["operations"], operation)));
    if policy["mutating"] != true {
        return Finding::problem(
            CHECK,
            "spec.mutating is not true, so the policy can change nothing",
            "set spec.mutating to true",
        );
    }
    match missing {
        Some(operation) => Finding::problem(
            CHECK,
            format!("spec.rules do not name {operation} of virtualmachines in the group kubevirt.io"),
            "set spec.rules as in deploy/base/policy.yaml",
        ),
        None => Finding::ok(CHECK, "the policy gets and may change virtual machines that are created and updated"),
    }
}

fn failure_policy(policy: &Value) -> Finding {
    const CHECK: &str = "failurePolicy";
    match policy["failurePolicy"].as_str().unwrap_or("Fail") {
        "Ignore" => Finding::ok(CHECK, "Ignore: while policy-server is down, VMs are stored without the policy"),
        other => Finding::warning(
            CHECK,
            format!("{other}: while policy-server is down, every write of a VM that has a directive is rejected"),
            "set spec.failurePolicy to Ignore, unless you want that",
        ),
    }
}

/// Whether the conditions let through all VirtualMachines that the settings are about.
fn conditions(facts: &Facts) -> Finding {
    const CHECK: &str = "matchConditions";
    let conditions = facts.policy.0["spec"]["matchConditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let expressions = conditions.iter().filter_map(|condition| condition["expression"].as_str());
    // The condition about deletion fits all settings.
    let expressions: Vec<&str> = expressions.filter(|expression| expression.contains("annotations")).collect();
    let lacks = |word: &str| expressions.iter().any(|expression| !expression.contains(word));
    let cure = "set matchConditions as the chart does with these settings";
    let has_defaults = facts.setting("defaultDirectives").as_object().is_some_and(|defaults| !defaults.is_empty());
    if has_defaults && !expressions.is_empty() {
        let found = "with the setting defaultDirectives, VMs without a directive must reach the policy, and matchConditions keep them back";
        Finding::problem(CHECK, found, "remove the matchConditions about annotations")
    } else if facts.setting("configSource") == "labels" && lacks("o.metadata.labels") {
        Finding::problem(CHECK, "the setting configSource is labels, and matchConditions do not name labels", cure)
    } else if facts.setting("userData.enabled") == true && lacks("cloudInit") {
        Finding::problem(
            CHECK,
            "the setting userData.enabled is true, and matchConditions do not name cloud-init",
            cure,
        )
    } else {
        Finding::ok(CHECK, "they fit the settings")
    }
}
