//! Directive `numa`.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{MemoryCluster, Request, bare_vm};

fn vm(annotations: &[(&str, &str)], domain: Value) -> Value {
    let mut vm = bare_vm(annotations);
    vm["spec"]["template"]["spec"]["domain"] = domain;
    vm
}

fn ready() -> Value {
    json!({
        "cpu": {"cores": 2, "dedicatedCpuPlacement": true},
        "memory": {"guest": "2Gi", "hugepages": {"pageSize": "2Mi"}},
    })
}

fn kubevirt(version: &str, gates: Value) -> MemoryCluster {
    MemoryCluster::of(vec![json!({
        "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "harvester-system"},
        "spec": {"configuration": {"developerConfiguration": {"featureGates": gates}}},
        "status": {"observedKubeVirtVersion": version},
    })])
}

#[test]
fn passthrough() {
    let answer = Request::create(vm(&[("numa", "passthrough")], ready())).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["cpu"]["numa"], json!({"guestMappingPassthrough": {}}));
    assert_eq!(answer.annotation("numa-applied").unwrap(), "passthrough");
    assert_eq!(answer.added("numa").unwrap(), r#"[{"guestMappingPassthrough":true}]"#);
}

#[rstest]
fn off(#[values("disabled", "false", "no", "0", "")] value: &str) {
    Request::create(vm(&[("numa", value)], ready())).evaluate().assert_accepted_unchanged();
}

#[rstest]
fn a_word_for_on_means_the_only_mode(#[values("enabled", "True", "yes", "on", "1")] value: &str) {
    let answer = Request::create(vm(&[("numa", value)], ready())).evaluate();
    assert_eq!(answer.domain()["cpu"]["numa"], json!({"guestMappingPassthrough": {}}), "{}", answer.message());
    assert_eq!(answer.annotation("numa-applied").unwrap(), "passthrough");
}

#[rstest]
fn anything_else_is_an_error(#[values("strict", "pass", "2")] value: &str) {
    Request::create(vm(&[("numa", value)], ready())).evaluate().assert_denied(&["write passthrough or disabled"]);
}

#[test]
fn pinning_and_hugepages_of_the_same_request_count() {
    let annotations = [("numa", "Passthrough"), ("hugepages", "2Mi"), ("cpu-pinning", "enabled")];
    let domain = json!({"cpu": {"cores": 2}, "memory": {"guest": "2Gi"}});
    let answer = Request::create(vm(&annotations, domain)).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(
        answer.domain(),
        json!({
            "cpu": {"cores": 2, "dedicatedCpuPlacement": true, "numa": {"guestMappingPassthrough": {}}},
            "memory": {"guest": "2Gi", "hugepages": {"pageSize": "2Mi"}},
        })
    );
}

#[rstest]
#[case::both(json!({}), "needs pinned CPUs and hugepages", "cpu-pinning and vm-feature-manager.io/hugepages")]
#[case::pinning(json!({"memory": {"hugepages": {"pageSize": "2Mi"}}}), "needs pinned CPUs;", "together with the directive vm-feature-manager.io/cpu-pinning")]
#[case::pages(json!({"cpu": {"dedicatedCpuPlacement": true}}), "needs hugepages;", "together with the directive vm-feature-manager.io/hugepages")]
fn what_it_needs_is_named(#[case] domain: Value, #[case] missing: &str, #[case] remedy: &str) {
    Request::create(vm(&[("numa", "passthrough")], domain)).evaluate().assert_denied(&[missing, remedy]);
}

/// KubeVirt refuses memory hotplug beside NUMA passthrough (`ValidateLiveUpdateMemory`). Without `maxGuest`, it hotplugs
/// no memory (`setupMemoryHotplug`).
#[rstest]
#[case::hotplug(json!({"maxGuest": "8Gi"}), "", Some("memory.maxGuest is 8Gi"), false)]
#[case::hotplug_on_harvester(json!({"maxGuest": "8Gi"}), "true", Some("switch off CPU and memory hotplug"), false)]
#[case::no_maximum(json!({}), "True", None, true)]
#[case::switched_off(json!({"maxGuest": null}), "false", None, false)]
fn memory_hotplug(#[case] more: Value, #[case] hotplug: &str, #[case] refusal: Option<&str>, #[case] warns: bool) {
    let mut domain = ready();
    domain["memory"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut vm = vm(&[("numa", "passthrough")], domain);
    vm["metadata"]["annotations"]["harvesterhci.io/enableCPUAndMemoryHotplug"] = json!(hotplug);
    let answer = Request::create(vm).evaluate();
    match refusal {
        Some(part) => answer.assert_denied(&[part, "hotplugs no memory of a guest with NUMA passthrough"]),
        None => assert!(answer.is_accepted(), "{}", answer.message()),
    }
    let warnings = answer.warnings().join("\n");
    assert_eq!(warnings.contains("takes effect only at a restart"), warns, "{warnings}");
}

#[rstest]
#[case::permanent("v1.4.0", json!([]), true)]
#[case::later("v1.7.4", json!([]), true)]
#[case::next_major("v2.0.0", json!([]), true)]
#[case::before("v1.3.1", json!([]), false)]
#[case::before_with_the_gate("v1.3.1", json!(["NUMA"]), true)]
#[case::distribution("1.2.2-150500.8.21.1", json!([]), false)]
#[case::unknown("", json!([]), true)]
fn the_gate(#[case] version: &str, #[case] gates: Value, #[case] accepted: bool) {
    let answer = Request::create(vm(&[("numa", "passthrough")], ready())).cluster(kubevirt(version, gates)).evaluate();
    if accepted {
        assert!(answer.is_accepted(), "{}", answer.message());
    } else {
        answer.assert_denied(&["feature gate NUMA is off"]);
    }
}

#[test]
fn what_an_instance_type_has_is_left_to_kubevirt() {
    let mut vm = vm(&[("numa", "passthrough")], json!({}));
    vm["spec"]["instancetype"] = json!({"name": "cx1.medium"});
    assert_eq!(Request::create(vm).evaluate().domain()["cpu"], json!({"numa": {"guestMappingPassthrough": {}}}));
}

#[rstest]
#[case::same(json!({"guestMappingPassthrough": {}}), None)]
#[case::null(json!({"guestMappingPassthrough": null}), Some(r#"[{"guestMappingPassthrough":true}]"#))]
#[case::empty(json!({}), Some(r#"[{"guestMappingPassthrough":true}]"#))]
fn what_the_user_wrote_is_theirs(#[case] numa: Value, #[case] record: Option<&str>) {
    let mut domain = ready();
    domain["cpu"]["numa"] = numa;
    let answer = Request::create(vm(&[("numa", "passthrough")], domain)).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.added("numa").as_deref(), record);
    assert_eq!(answer.domain()["cpu"]["numa"], json!({"guestMappingPassthrough": {}}));
}

#[test]
fn a_directive_that_goes_leaves_the_vm_as_it_was() {
    let stored = Request::create(vm(&[("numa", "passthrough")], ready())).evaluate().after();
    let mut gone = stored.clone();
    gone["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/numa");
    assert_eq!(Request::update(stored, gone).evaluate().domain(), ready());
}

/// If the request is denied, pinned CPUs stay, so only the feature that the update breaks is to be corrected. Otherwise,
/// they are removed, and NUMA with them.
#[rstest]
#[case::reject("reject", "cpu-pinning")]
#[case::allow_and_log("allow-and-log", "cpu-pinning,numa")]
fn fails_with_pinned_cpus_only_if_they_are_removed(#[case] error_handling: &str, #[case] failed: &str) {
    let annotations = [("numa", "passthrough"), ("hugepages", "2Mi"), ("cpu-pinning", "enabled")];
    let domain = json!({"cpu": {"cores": 2}, "memory": {"guest": "2Gi"}});
    let stored = Request::create(vm(&annotations, domain)).evaluate().after();
    let mut broken = stored.clone();
    broken["spec"]["template"]["spec"]["domain"]["resources"] = json!({"limits": {"cpu": "1500m"}});
    let errors = json!({"errorHandling": error_handling});
    let settings = json!({"cpuPinning": errors, "numa": errors});
    let answer = Request::update(stored, broken).settings(settings).evaluate();
    assert_eq!(answer.audit("failed"), failed, "{} {:?}", answer.message(), answer.warnings());
}
