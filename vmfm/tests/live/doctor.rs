//! `vmfm doctor`

use rstest::rstest;
use serde_json::{Value, json};

use crate::world::World;

const PCI: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#);

/// A cluster that lacks nothing.
fn healthy() -> World {
    let mut world = World::harvester();
    let gates = json!(["HostDevices", "Sidecar", "CPUManager"]);
    world.first("KubeVirt")["spec"]["configuration"]["developerConfiguration"]["featureGates"] = gates;
    world.first("Node")["metadata"]["labels"]["cpumanager"] = json!("true");
    world.first("Node")["status"]["allocatable"]["hugepages-2Mi"] = json!("1Gi");
    for claim in world.objects.iter_mut().filter(|object| object["kind"] == "PCIDeviceClaim") {
        claim["status"]["passthroughEnabled"] = json!(true);
    }
    world.applied_vm("default", "done", &[PCI]);
    world
}

#[test]
fn a_cluster_that_lacks_nothing_has_no_problem() {
    let world = healthy();
    let printed = world.run(&["doctor"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""), "{}", printed.stdout);
    assert!(printed.stdout.ends_with("\n0 problems, 0 warnings\n"), "{}", printed.stdout);
    for check in [
        "Kubewarden",
        "policy-server",
        "policy",
        "rules",
        "failurePolicy",
        "matchConditions",
        "declared kinds",
        "permissions",
        "KubeVirt",
        "feature gates",
        "nodes",
        "Harvester",
        "claims",
        "permittedHostDevices",
        "settings",
        "missed VMs",
        "failed VMs",
    ] {
        assert!(
            printed.stdout.lines().any(|line| line.starts_with(&format!("ok        {check} "))),
            "{check}: {}",
            printed.stdout
        );
    }
}

const POLICY: &str = "ClusterAdmissionPolicy";
const PERMITTED: &str = "/spec/configuration/permittedHostDevices";
const GATES: &str = "/spec/configuration/developerConfiguration/featureGates";

/// Sets one value of an object, and says which finding is not ok, by its start and a part of it.
#[rstest]
#[case::old("PolicyServer", "/spec/image", json!("r/policy-server:v1.26.0"), "problem Kubewarden", "needs Kubewarden 1.27 or later; upgrade")]
#[case::without_timeout(
    "PolicyServer", "/spec/image", json!("r:5000/policy-server:v1.28.1"), "warning Kubewarden", "does not read timeoutEvalSeconds; upgrade"
)]
#[case::other_server("PolicyServer", "/metadata/name", json!("x"), "problem Kubewarden", "there is no PolicyServer default")]
#[case::no_deployment("Deployment", "/metadata/name", json!("x"), "problem policy-server", "there are 0 Deployments policy-server-default")]
#[case::no_pod("Deployment", "/status", json!({}), "problem policy-server", "none of the 2 pods of policy-server-default is ready")]
#[case::a_pod_too_few("Deployment", "/status/readyReplicas", json!(1), "warning policy-server", "1 of 2 pods")]
#[case::one_pod("Deployment", "/spec/replicas", json!(1), "warning policy-server", "a single pod; whenever that restarts")]
#[case::not_active(
    POLICY,
    "/status",
    json!({"policyStatus": "pending", "conditions": [{"status": "False", "message": "no pod"}]}),
    "problem policy",
    "is not active; its status is pending: no pod; look at: kubectl describe"
)]
#[case::monitor(POLICY, "/spec/mode", json!("monitor"), "problem policy", "in mode monitor, which changes nothing; set spec.mode")]
#[case::not_mutating(POLICY, "/spec/mutating", json!(false), "problem rules", "set spec.mutating to true")]
#[case::no_updates(POLICY, "/spec/rules/0/operations", json!(["CREATE"]), "problem rules", "spec.rules do not name UPDATE")]
#[case::fails_closed(POLICY, "/spec/failurePolicy", json!("Fail"), "warning failurePolicy", "every write of a VM that has a directive")]
#[case::labels(POLICY, "/spec/settings", json!({"configSource": "labels"}), "problem matchConditions", "do not name labels")]
#[case::user_data(POLICY, "/spec/settings", json!({"userData": {"enabled": true}}), "problem matchConditions", "do not name cloud-init")]
#[case::defaults(
    POLICY, "/spec/settings", json!({"defaultDirectives": {"x": "numa=off"}}), "problem matchConditions", "remove the matchConditions"
)]
#[case::settings(POLICY, "/spec/settings", json!({"numa": {"enabled": 1}}), "problem settings", "setting numa.enabled")]
#[case::undeclared(
    POLICY,
    "/spec/contextAwareResources/6/kind",
    json!("Pod"),
    "problem declared kinds",
    "does not list v1 ConfigMap under spec.contextAwareResources; have an administrator add {apiVersion: v1, kind: ConfigMap}"
)]
#[case::kubevirt_elsewhere(
    "KubeVirt", "/metadata/namespace", json!("kubevirt"), "problem KubeVirt", "but kubevirt/kubevirt; correct the settings kubevirt.namespace"
)]
#[case::gate("KubeVirt", GATES, json!(["Sidecar", "CPUManager"]), "problem feature gates", "feature gate HostDevices is off")]
#[case::gate_of_nobody("KubeVirt", GATES, json!(["HostDevices", "CPUManager"]), "warning feature gates", "feature gate Sidecar is off")]
#[case::cpu_manager("Node", "/metadata/labels/cpumanager", json!("false"), "warning nodes", "no node has the label kubevirt.io/cpumanager=true")]
#[case::hugepages("Node", "/status/allocatable/hugepages-2Mi", json!("0"), "warning nodes", "no node has hugepages")]
#[case::claim_waits("PCIDeviceClaim", "/status/passthroughEnabled", json!(false), "warning claims", "claimed, but not enabled: node")]
#[case::device_is_gone("PCIDeviceClaim", "/metadata/name", json!("x"), "warning claims", "claims without a device: x")]
#[case::not_permitted("KubeVirt", PERMITTED, json!({}), "problem permittedHostDevices", "does not list amd.com/CEZANNE")]
#[case::no_kubevirt("KubeVirt", "/kind", json!("Other"), "problem KubeVirt", "there is no KubeVirt object harvester-system/kubevirt, which the settings name, and no other")]
fn what_is_broken_is_named(
    #[case] kind: &str,
    #[case] pointer: &str,
    #[case] value: Value,
    #[case] check: &str,
    #[case] part: &str,
) {
    let mut world = healthy();
    let mut place = world.first(kind);
    for key in pointer.split('/').skip(1) {
        place = match key.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[key],
        };
    }
    *place = value;
    names(&world, check, part);
}

#[rstest]
#[case::nodes(
    json!({"denied": ["list nodes", "watch nodes"]}),
    "problem permissions",
    "as the service account kubewarden:policy-server, which may not list and watch nodes; have an administrator run: kubectl create \
     clusterrolebinding"
)]
#[case::kubevirt_object(
    json!({"denied": ["get kubevirts in harvester-system"]}),
    "problem permissions",
    "may not get kubevirts.kubevirt.io in the namespace harvester-system"
)]
#[case::reviews(json!({"denied": ["create subjectaccessreviews"]}), "problem permissions", "may not create subjectaccessreviews")]
#[case::config_maps(json!({"denied": ["get configmaps"]}), "warning permissions", "may not get configmaps in every namespace")]
#[case::no_add_on(
    json!({"unserved": ["devices.harvesterhci.io"]}),
    "problem Harvester",
    "the cluster does not serve pcidevices.devices.harvesterhci.io; make sure that Harvester's add-on pcidevices-controller"
)]
fn what_the_cluster_refuses_is_named(#[case] fake: Value, #[case] check: &str, #[case] part: &str) {
    let mut world = healthy();
    world.fake = fake;
    names(&world, check, part);
}

#[test]
fn virtual_machines_that_were_missed_or_fail_are_named() {
    let mut world = healthy();
    world.vm("team-a", "missed", &[PCI]);
    names(&world, "problem missed VMs", "never evaluated: team-a/missed; run: vmfm cluster -A --fix");
    let mut world = healthy();
    let failing = world.applied_vm("team-a", "failing", &[PCI]);
    failing["metadata"]["annotations"]["vm-feature-manager.io/pci-passthrough"] = json!("x");
    names(&world, "warning failed VMs", "a directive that fails: team-a/failing; run: vmfm cluster -A");
}

/// Checks that a line that is not ok has a start and a part.
fn names(world: &World, check: &str, part: &str) {
    let printed = world.run(&["doctor"]);
    let bad = printed.stdout.lines().filter(|line| line.starts_with("problem ") || line.starts_with("warning "));
    let bad: Vec<String> = bad.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let is_named = bad.iter().any(|line| line.starts_with(check) && line.contains(part));
    assert!(is_named, "{part:?} is not in {}{}", printed.stdout, printed.stderr);
    let is_problem = bad.iter().any(|line| line.starts_with("problem "));
    assert_eq!(printed.code, i32::from(is_problem), "{}", printed.stdout);
}

#[rstest]
#[case::kubewarden(json!({"unserved": ["policies.kubewarden.io"]}), "Kubewarden", "Kubewarden is not installed")]
#[case::policy(json!({}), "policy", "no ClusterAdmissionPolicy is named vm-feature-manager")]
fn without_a_policy_nothing_else_is_checked(#[case] fake: Value, #[case] check: &str, #[case] part: &str) {
    let mut world = healthy();
    world.fake = fake;
    world.remove("ClusterAdmissionPolicy");
    let printed = world.run(&["doctor", "--output", "json"]);
    assert_eq!(printed.code, 1, "{}", printed.stderr);
    let findings: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(findings.as_array().unwrap().len(), 1, "{findings}");
    assert_eq!((&findings[0]["check"], &findings[0]["grade"]), (&json!(check), &json!("problem")));
    assert!(findings[0]["found"].as_str().unwrap().contains(part), "{findings}");
    assert!(findings[0]["cure"].as_str().unwrap().contains("docs/install.md"), "{findings}");
}

#[test]
fn kubevirt_without_harvester_needs_no_harvester() {
    let mut world = healthy();
    world.fake["unserved"] = json!(["devices.harvesterhci.io"]);
    let settings = json!({"kubevirt": {"namespace": "kubevirt"}, "pciPassthrough": {"deviceNames": "address"}});
    world.first("ClusterAdmissionPolicy")["spec"]["settings"] = settings;
    world.first("KubeVirt")["metadata"]["namespace"] = json!("kubevirt");
    let printed = world.run(&["doctor"]);
    assert!(printed.stdout.contains("the settings are those for KubeVirt without Harvester"), "{}", printed.stdout);
}
