//! What the directives of one VM need has to be on one node: each counts only the nodes that the earlier ones leave.

use rstest::rstest;
use serde_json::{Value, json};

use super::devices::{create, kubevirt, node, pci, warnings};
use super::harness::{MemoryCluster, Request, annotate, bare_vm};

const CARD: &str = "nvidia.com/TU104GL_TESLA_T4";
const PAGES: &str = "hugepages-2Mi";
const PLUGIN: &str = "nvidia.com/gpu";

const PCI: (&str, &str) = ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#);
const GPU: (&str, &str) = ("gpu-device-plugin", PLUGIN);
const PINNING: (&str, &str) = ("cpu-pinning", "enabled");
const HUGEPAGES: (&str, &str) = ("hugepages", "2Mi");
const NESTED: (&str, &str) = ("nested-virt", "enabled");

/// A node with these labels set to `true`, and these amounts of resources.
fn with(name: &str, labels: &[&str], resources: &[(&str, &str)]) -> Value {
    let mut node = node(name);
    for label in labels {
        node["metadata"]["labels"][*label] = json!("true");
    }
    for (resource, amount) in resources {
        node["status"]["allocatable"][*resource] = json!(amount);
    }
    node
}

const AMD: [&str; 2] = ["cpu-vendor.node.kubevirt.io/AMD", "cpu-feature.node.kubevirt.io/svm"];
const INTEL: [&str; 2] = ["cpu-vendor.node.kubevirt.io/Intel", "cpu-feature.node.kubevirt.io/vmx"];

fn vm(directives: &[(&str, &str)]) -> Value {
    let mut vm = bare_vm(directives);
    vm["spec"]["template"]["spec"]["domain"] = json!({"devices": {}, "cpu": {"cores": 2}, "memory": {"guest": "2Gi"}});
    vm
}

/// The card of node1, and these nodes.
fn cluster(nodes: Vec<Value>) -> MemoryCluster {
    let permitted = json!({"pciHostDevices": [{"pciVendorSelector": "10de:1eb8", "resourceName": CARD}]});
    let mut kubevirt = kubevirt(permitted);
    kubevirt["spec"]["configuration"]["developerConfiguration"]["featureGates"] = json!(["HostDevices", "CPUManager"]);
    let card = pci("node1-000003000", "10de:1eb8", "7", CARD).to_vec();
    MemoryCluster::of([nodes, vec![kubevirt], card].concat())
}

/// The needs of two directives, which node1 and node2 have only together, or node1 alone.
#[rstest]
#[case::device_and_pages(&[PCI, HUGEPAGES], with("node1", &[], &[]), with("node2", &[], &[(PAGES, "4Gi")]), "hugepages")]
#[case::device_and_pinning(&[PCI, PINNING], with("node1", &[], &[]), with("node2", &["kubevirt.io/cpumanager", "cpumanager"], &[]), "cpu-pinning")]
#[case::device_and_plugin(&[PCI, GPU], with("node1", &[], &[]), with("node2", &[], &[(PLUGIN, "1")]), "gpu-device-plugin")]
#[case::plugin_and_pages(&[GPU, HUGEPAGES], with("node1", &[], &[(PLUGIN, "1")]), with("node2", &[], &[(PAGES, "4Gi")]), "hugepages")]
#[case::pinning_and_pages(
    &[PINNING, HUGEPAGES],
    with("node1", &["kubevirt.io/cpumanager", "cpumanager"], &[]),
    with("node2", &[], &[(PAGES, "4Gi")]),
    "hugepages"
)]
fn must_be_on_one(
    #[case] directives: &[(&str, &str)],
    #[case] node1: Value,
    #[case] node2: Value,
    #[case] feature: &str,
) {
    let answer = create(vm(directives), cluster(vec![node1.clone(), node2.clone()]));
    assert!(answer.is_accepted(), "{}", answer.message());
    let warning =
        format!("{feature}: no node that the VirtualMachine may run on (its other directives leave only node1) has");
    assert!(warnings(&answer).contains(&warning), "{}", warnings(&answer));
    // One node has both.
    let mut both = node1;
    for part in ["metadata", "status"] {
        for (key, value) in node2[part].as_object().into_iter().flatten().filter(|(key, _)| *key != "name") {
            let members = value.as_object().unwrap().iter().filter(|(key, _)| !key.ends_with("hostname"));
            members.for_each(|(member, value)| both[part][key][member] = value.clone());
        }
    }
    let answer = create(vm(directives), cluster(vec![both, node2]));
    assert!(!warnings(&answer).contains("no node"), "{}", warnings(&answer));
}

/// The card is on an Intel node, and the other node is of AMD.
#[rstest]
#[case::by_its_device(&[PCI, NESTED])]
#[case::by_the_resource_of_a_plugin(&[GPU, NESTED])]
fn the_vendor_is_that_of_the_node_with_the_devices(#[case] directives: &[(&str, &str)]) {
    let nodes = || vec![with("node1", &INTEL, &[(PLUGIN, "1")]), with("node2", &AMD, &[])];
    let answer = create(vm(directives), cluster(nodes()));
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["cpu"]["features"], json!([{"name": "vmx", "policy": "require"}]));
    create(vm(&[NESTED]), cluster(nodes())).assert_denied(&["both AMD and Intel"]);
}

/// As many as the VM needs have to be on one node.
#[rstest]
#[case::as_many(&format!("{CARD}=2"), "2", "")]
#[case::too_few(&format!("{CARD}=3"), "2", "3 of nvidia.com/TU104GL_TESLA_T4")]
#[case::one(CARD, "0", "")]
fn counts_devices(#[case] value: &str, #[case] there: &str, #[case] missing: &str) {
    let answer = create(vm(&[("gpu-device-plugin", value)]), cluster(vec![with("node1", &[], &[(CARD, there)])]));
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(warnings(&answer).contains("has all of these devices"), !missing.is_empty(), "{}", warnings(&answer));
    assert!(warnings(&answer).contains(missing), "{}", warnings(&answer));
}

/// The VM itself has one, and asks for more of them.
#[test]
fn counts_the_devices_that_the_vm_has() {
    let mut asking = vm(&[("gpu-device-plugin", &format!("{CARD}=2"))]);
    asking["spec"]["template"]["spec"]["domain"]["devices"]["gpus"] = json!([{"name": "mine", "deviceName": CARD}]);
    let cluster = || cluster(vec![with("node1", &[], &[(CARD, "1")])]);
    assert!(warnings(&create(asking, cluster())).contains("2 of nvidia.com/TU104GL_TESLA_T4"));
}

/// The pod only gets a limit, but it still needs a node.
#[rstest]
#[case::tainted(json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}]}), true)]
#[case::free(json!({}), false)]
fn a_limit_needs_a_node(#[case] spec: Value, #[case] warns: bool) {
    let mut gpu = with("node1", &[], &[(PLUGIN, "1")]);
    gpu["spec"] = spec;
    let answer = create(vm(&[GPU]), cluster(vec![gpu, node("node2")]));
    assert_eq!(
        warnings(&answer).contains("no node that the VirtualMachine may run on has all"),
        warns,
        "{}",
        warnings(&answer)
    );
    assert!(warnings(&answer).contains("gives the VirtualMachine's pod the resource, but the guest gets no device"));
}

/// If the first directive goes, the vendor is no longer told by its node; what is in place tells it.
#[test]
fn a_vendor_in_place_stays_if_the_device_goes() {
    let nodes = || vec![with("node1", &INTEL, &[]), with("node2", &AMD, &[])];
    let stored = create(vm(&[PCI, NESTED]), cluster(nodes())).after();
    let mut without = stored.clone();
    without["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/pci-passthrough");
    let answer = Request::update(stored.clone(), without).cluster(cluster(nodes())).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["cpu"]["features"], json!([{"name": "vmx", "policy": "require"}]));
    assert_eq!(answer.domain()["devices"].get("hostDevices"), None);
    // A new option counts.
    let mut amd = stored.clone();
    annotate(&mut amd, &[("cpu-vendor", "amd")]);
    let answer = Request::update(stored, amd).cluster(cluster(nodes())).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], json!([{"name": "svm", "policy": "require"}]));
}
