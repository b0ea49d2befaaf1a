//! KubeVirt, its feature gates, and what the nodes offer to it.

use serde_json::Value;
use vm_feature_manager_policy::cluster::{KUBEVIRT, NODE};

use super::{Facts, Finding, some};

/// The feature gates of KubeVirt: which features need one, and from which minor version of KubeVirt 1 on it is not needed.
const GATES: [(&str, &[&str], Option<u32>); 4] = [
    ("HostDevices", &["pci-passthrough", "usb-passthrough", "gpu-device-plugin"], None),
    ("Sidecar", &["vbios-injection"], None),
    ("CPUManager", &["cpu-pinning"], None),
    ("NUMA", &["numa"], Some(4)),
];

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![object(facts)];
    findings.extend(gates(facts));
    findings.extend(nodes(facts));
    findings
}

fn object(facts: &Facts) -> Finding {
    const CHECK: &str = "KubeVirt";
    let (namespace, wanted) = (facts.text("kubevirt.namespace"), facts.text("kubevirt.name"));
    if let Some(kubevirt) = facts.kubevirt() {
        let version = kubevirt.version().unwrap_or_else(|| "of an unknown version".to_owned());
        return Finding::ok(CHECK, format!("KubeVirt {version} in {namespace}"));
    }
    let place = |kubevirt: &Value| {
        let text = |key: &str| kubevirt["metadata"][key].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("namespace"), text("name"))
    };
    let others: Vec<String> = facts.of(&KUBEVIRT).unwrap_or_default().iter().map(place).collect();
    let found = format!("there is no KubeVirt object {namespace}/{wanted}, which the settings name");
    match others.is_empty() {
        true => Finding::problem(CHECK, format!("{found}, and no other"), "install KubeVirt"),
        false => Finding::problem(
            CHECK,
            format!("{found}, but {}", some(&others)),
            "correct the settings kubevirt.namespace and kubevirt.name",
        ),
    }
}

fn gates(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "feature gates";
    let Some(kubevirt) = facts.kubevirt() else { return Vec::new() };
    let mut findings = Vec::new();
    let mut on = Vec::new();
    for (gate, features, until) in GATES {
        if !facts.is_on(features) || until.is_some_and(|minor| !kubevirt.is_before(minor)) {
            continue;
        }
        match kubevirt.gate(gate) {
            Ok(None) => on.push(gate.to_owned()),
            Ok(Some(warning)) => findings.push(Finding::warning(CHECK, warning, "see whether such a VM starts")),
            Err(message) => {
                let (found, cure) = message.split_once("; ").unwrap_or((&message, ""));
                let found = format!("{found} ({})", features.join(", "));
                findings.push(Finding::by_use(facts.is_used(features), CHECK, found, cure));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{} are on", some(&on))));
    }
    findings
}

/// What a node needs for a feature, so that a VirtualMachine with it can be scheduled.
fn nodes(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "nodes";
    let nodes = facts.of(&NODE).unwrap_or_default();
    let has_label = |labels: &[&str]| {
        nodes.iter().any(|node| labels.iter().any(|label| node["metadata"]["labels"][label] == "true"))
    };
    let has_hugepages = nodes.iter().any(|node| {
        let resources = node["status"]["allocatable"].as_object().into_iter().flatten();
        resources.into_iter().any(|(name, amount)| name.starts_with("hugepages-") && amount != "0")
    });
    let checks = [
        (
            "cpu-pinning",
            has_label(&["kubevirt.io/cpumanager", "cpumanager"]),
            "no node has the label kubevirt.io/cpumanager=true, so none pins CPUs",
            "switch on the CPU manager of a node's kubelet (on Harvester: Enable CPU Manager in the menu of the host)",
        ),
        (
            "hugepages",
            has_hugepages,
            "no node has hugepages (status.allocatable)",
            "reserve hugepages on a node, and restart its kubelet",
        ),
        (
            "nested-virt",
            has_label(&["cpu-feature.node.kubevirt.io/vmx", "cpu-feature.node.kubevirt.io/svm"]),
            "no node has the label cpu-feature.node.kubevirt.io/vmx=true or .../svm=true, so no guest gets nested virtualization",
            "switch on nested virtualization in the nodes' kvm_intel or kvm_amd module, and virtualization in their firmware",
        ),
    ];
    let mut findings = Vec::new();
    let on = checks.into_iter().filter(|(feature, ..)| facts.is_on(&[feature]));
    for (feature, is_there, found, cure) in on {
        if !is_there {
            let found = format!("{found} ({feature})");
            findings.push(Finding::by_use(facts.is_used(&[feature]), CHECK, found, cure));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "each enabled feature has a node that offers what it needs"));
    }
    findings
}
