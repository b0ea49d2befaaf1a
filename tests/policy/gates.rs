//! KubeVirt's feature gates: which are on, by version, and what the policy says about the others. The rules are those of
//! `IsEnabled` in KubeVirt's `pkg/virt-config/featuregate/feature-gates.go:91-113`.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Answer, MemoryCluster, Request, bare_vm, vbios_objects};

/// What happens to a directive that needs a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    AppliedWithWarning,
    Denied,
}
use Outcome::{Applied, AppliedWithWarning, Denied};

fn kubevirt(version: &str, developer_configuration: Value) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "harvester-system"},
        "spec": {"configuration": {"developerConfiguration": developer_configuration}},
        "status": {"observedKubeVirtVersion": version},
    })
}

fn by_address(version: &str, gates: Value) -> Answer {
    let vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
    let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
    Request::create(vm).settings(settings).cluster(MemoryCluster::of(vec![kubevirt(version, gates)])).evaluate()
}

fn outcome(answer: &Answer, gate: &str) -> Outcome {
    let unknown = format!("does not know whether the feature gate {gate} is on by default");
    match answer.is_accepted() {
        false => Denied,
        true if answer.warnings().join(" ").contains(&unknown) => AppliedWithWarning,
        true => Applied,
    }
}

fn listed() -> Value {
    json!({"featureGates": ["HostDevices"]})
}

fn disabled() -> Value {
    json!({"disabledFeatureGates": ["HostDevices"]})
}

fn both() -> Value {
    json!({"featureGates": ["HostDevices"], "disabledFeatureGates": ["HostDevices"]})
}

fn neither() -> Value {
    json!({"featureGates": ["Sidecar"], "disabledFeatureGates": ["Snapshot"]})
}

/// `HostDevices` is Alpha up to 1.9, so it is off unless it is listed. Since 1.8, `disabledFeatureGates` exists. From 1.10
/// on, it may be Beta, which is on unless it is disabled.
#[rstest]
#[case::listed("v1.7.0", listed(), Applied)]
#[case::listed_in_1_9("v1.9.0", listed(), Applied)]
#[case::listed_in_1_10("v1.10.0", listed(), Applied)]
#[case::absent("v1.7.0", neither(), Denied)]
#[case::absent_in_1_9("v1.9.0", neither(), Denied)]
#[case::absent_in_1_9_of_a_distribution("1.9.2-150700.1.1", json!({}), Denied)]
#[case::absent_in_1_10("v1.10.0", neither(), AppliedWithWarning)]
#[case::absent_before_1_10("v1.10.0-beta.0", json!({}), AppliedWithWarning)]
#[case::absent_in_2("v2.0.0", json!({}), AppliedWithWarning)]
#[case::absent_in_an_unknown_version("", json!({}), Denied)]
#[case::disabled_in_1_9("v1.9.0", disabled(), Denied)]
#[case::disabled_in_1_10("v1.10.1", disabled(), Denied)]
#[case::in_both_lists("v1.9.0", both(), Applied)]
#[case::in_both_lists_of_1_10("v1.10.0", both(), Applied)]
#[case::another_spelling("v1.9.0", json!({"featureGates": ["hostdevices"]}), Denied)]
fn host_devices(#[case] version: &str, #[case] gates: Value, #[case] expected: Outcome) {
    let answer = by_address(version, gates);
    assert_eq!(outcome(&answer, "HostDevices"), expected, "{} {:?}", answer.message(), answer.warnings());
}

#[rstest]
#[case::absent("v1.9.0", neither(), "add HostDevices to spec.configuration.developerConfiguration.featureGates")]
#[case::disabled("v1.10.0", disabled(), "move HostDevices from disabledFeatureGates to spec.configuration.")]
#[case::disabled_without_such_a_list("v1.7.0", disabled(), "add HostDevices to spec.configuration.")]
fn the_remedy_fits_the_list(#[case] version: &str, #[case] gates: Value, #[case] remedy: &str) {
    let start = "KubeVirt's feature gate HostDevices is off, so KubeVirt would refuse the VirtualMachine; ";
    by_address(version, gates).assert_denied(&[start, remedy]);
}

#[rstest]
#[case::absent("v1.9.0", json!({}), Denied)]
#[case::listed("v1.9.0", json!({"featureGates": ["Sidecar"]}), Applied)]
#[case::absent_in_1_10("v1.10.0", json!({}), AppliedWithWarning)]
#[case::disabled_in_1_10("v1.10.0", json!({"disabledFeatureGates": ["Sidecar"]}), Denied)]
fn sidecar(#[case] version: &str, #[case] gates: Value, #[case] expected: Outcome) {
    let mut objects = vbios_objects();
    objects.retain(|object| object["kind"] != "KubeVirt");
    objects.push(kubevirt(version, gates));
    let mut vm = bare_vm(&[("vbios-injection", "igpu-rom")]);
    vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] =
        json!([{"name": "node2-000005000", "deviceName": "amd.com/CEZANNE_RADEON_VEGA_SERIES"}]);
    let answer = Request::create(vm).cluster(MemoryCluster::of(objects)).evaluate();
    assert_eq!(outcome(&answer, "Sidecar"), expected, "{} {:?}", answer.message(), answer.warnings());
}

/// The label has another name since KubeVirt 1.8, whose nodes may have both (pull request 14892). Older versions select
/// nodes only by the old one (`nodeselectorrenderer.go:56` of 1.7).
#[rstest]
#[case::old("v1.7.4", "cpumanager", None)]
#[case::new_label_in_an_old_version("v1.7.4", "kubevirt.io/cpumanager", Some("has the label cpumanager=true"))]
#[case::new("v1.8.0", "kubevirt.io/cpumanager", None)]
#[case::old_label_in_a_new_version("v1.8.0", "cpumanager", None)]
#[case::neither_in_an_old_version("v1.7.4", "rack", Some("has the label cpumanager=true"))]
#[case::neither("v1.8.0", "rack", Some("has the label kubevirt.io/cpumanager=true"))]
fn the_label_of_nodes_that_pin_cpus(#[case] version: &str, #[case] label: &str, #[case] warning: Option<&str>) {
    let labels = json!({"kubernetes.io/hostname": "node1", label: "true", "kubevirt.io/schedulable": "true"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "labels": labels}});
    let mut vm = bare_vm(&[("cpu-pinning", "enabled")]);
    vm["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"cores": 2});
    vm["spec"]["template"]["spec"]["domain"]["memory"] = json!({"guest": "2Gi"});
    let gates = json!({"featureGates": ["CPUManager"]});
    let answer = Request::create(vm).cluster(MemoryCluster::of(vec![kubevirt(version, gates), node])).evaluate();
    let warnings = answer.warnings().join(" ");
    assert_eq!(warnings.is_empty(), warning.is_none(), "{warnings}");
    assert!(warnings.contains(warning.unwrap_or_default()), "{warnings}");
}

/// KubeVirt accepts pinned CPUs without the gate, but virt-handler then labels no node (`heartbeat.go:156`), so that no
/// node is selected (`nodeselectorrenderer.go:56`). A label may still be there for a minute after the gate is removed.
#[rstest]
#[case::listed("v1.7.0", json!({"featureGates": ["CPUManager"]}), "true", None)]
#[case::absent("v1.9.0", json!({}), "true", Some("feature gate CPUManager is off"))]
#[case::absent_and_no_label("v1.9.0", json!({}), "false", Some("feature gate CPUManager is off"))]
#[case::disabled("v1.10.0", json!({"disabledFeatureGates": ["CPUManager"]}), "true", Some("move CPUManager from disabledFeatureGates"))]
#[case::unknown("v1.10.0", json!({}), "true", None)]
#[case::unknown_and_no_label("v1.10.0", json!({}), "false", Some("has the label kubevirt.io/cpumanager=true"))]
#[case::no_label("v1.8.0", json!({"featureGates": ["CPUManager"]}), "false", Some("has the label kubevirt.io/cpumanager=true"))]
#[case::no_label_before_1_8("v1.7.0", json!({"featureGates": ["CPUManager"]}), "false", Some("has the label cpumanager=true"))]
fn cpu_manager(#[case] version: &str, #[case] gates: Value, #[case] label: &str, #[case] warning: Option<&str>) {
    let key = if version == "v1.7.0" { "cpumanager" } else { "kubevirt.io/cpumanager" };
    let labels = json!({"kubernetes.io/hostname": "node1", key: label, "kubevirt.io/schedulable": "true"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "labels": labels}});
    let mut vm = bare_vm(&[("cpu-pinning", "enabled")]);
    vm["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"cores": 2});
    vm["spec"]["template"]["spec"]["domain"]["memory"] = json!({"guest": "2Gi"});
    let cluster = MemoryCluster::of(vec![kubevirt(version, gates), node]);
    let answer = Request::create(vm).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let warnings = answer.warnings().join(" ");
    match warning {
        Some(warning) => {
            assert!(warnings.contains(warning) && warnings.contains("will not be scheduled"), "{warnings}")
        }
        None => assert_eq!(warnings, ""),
    }
}

mod claims {
    use super::*;

    fn with(directive: (&str, &str), list: &str, entry: Value) -> Answer {
        let mut vm = bare_vm(&[directive]);
        vm["spec"]["template"]["spec"]["resourceClaims"] = json!([{"name": "c", "resourceClaimName": "gpu-claim"}]);
        vm["spec"]["template"]["spec"]["domain"]["devices"][list] = json!([entry]);
        let configuration = json!({
            "developerConfiguration": {"featureGates": ["HostDevices"]},
            "permittedHostDevices": {"pciHostDevices": [
                {"pciVendorSelector": "10de:1eb8", "resourceName": "nvidia.com/TU104GL_TESLA_T4"},
            ]},
        });
        let mut kubevirt = kubevirt("v1.9.0", json!({}));
        kubevirt["spec"]["configuration"] = configuration;
        let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
        Request::create(vm).settings(settings).cluster(MemoryCluster::of(vec![kubevirt])).evaluate()
    }

    /// `validateDRAGPUs` in KubeVirt's `pkg/dra/admitter/dra_admitter.go:264` rejects them: "contains both DRA and non-DRA".
    #[rstest]
    #[case::device("nvidia.com/TU104GL_TESLA_T4")]
    #[case::limit("nvidia.com/gpu")]
    fn a_gpu_of_a_claim_excludes_one_of_a_device_plugin(#[case] resource: &str) {
        let gpu = json!({"name": "gpu-a", "claimName": "c", "requestName": "r"});
        with(("gpu-device-plugin", resource), "gpus", gpu)
            .assert_denied(&["GPU from a ResourceClaim", "remove that GPU"]);
    }

    #[test]
    fn fields_that_are_not_set_are_no_claim() {
        let gpu =
            json!({"name": "a", "deviceName": "nvidia.com/TU104GL_TESLA_T4", "claimName": "", "requestName": null});
        let answer = with(("gpu-device-plugin", "nvidia.com/TU104GL_TESLA_T4"), "gpus", gpu);
        assert!(answer.is_accepted(), "{}", answer.message());
    }

    /// `validateDRAHostDevices` accepts host devices of both kinds (`rejectMixed: false`), and one of a claim is no device of
    /// a directive.
    #[rstest]
    #[case::pci(("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#), "hostDevices")]
    #[case::pci_beside_a_gpu(("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#), "gpus")]
    #[case::gpu(("gpu-device-plugin", "nvidia.com/TU104GL_TESLA_T4"), "hostDevices")]
    fn a_host_device_of_a_claim_stays_beside_others(#[case] directive: (&str, &str), #[case] list: &str) {
        let entry = json!({"name": "a", "claimName": "c", "requestName": "r"});
        let answer = with(directive, list, entry.clone());
        assert!(answer.is_accepted(), "{}", answer.message());
        let devices = answer.domain()["devices"].clone();
        assert_eq!(devices[list][0], entry);
        let count = |list: &str| devices[list].as_array().map_or(0, Vec::len);
        assert_eq!(count("gpus") + count("hostDevices"), 2, "{devices}");
    }
}
