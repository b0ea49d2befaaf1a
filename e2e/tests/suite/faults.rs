//! Every call of the host fails in every way. The answer follows the error mode; the policy never traps or applies half a feature.

use std::sync::LazyLock;

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_testkit::features;
use vmfm::cluster::{Cluster, Faults};
use vmfm::host::Evaluation;

use crate::harness::{HOST, request, root, vm};

/// A directive for every feature.
static DIRECTIVES: LazyLock<Vec<(&str, &str)>> =
    LazyLock::new(|| features::directives_but(&[("pci-passthrough", r#"{"devices": ["0000:05:00.0"]}"#)]));

/// Everything that a host could answer, but should not.
fn faults() -> Vec<Result<Vec<u8>, String>> {
    let error = |text: &str| Err(text.to_owned());
    let answer = |text: &str| Ok(text.as_bytes().to_vec());
    vec![
        error("Callback evaluation failure: Cannot find v1/X named 'x' inside of namespace 'None'"),
        error("Callback evaluation failure: Cannot find resource x.io/v1/X"),
        error("Policy has not been granted access to Kubernetes v1/X resources. The violation has been reported."),
        error(
            "Callback evaluation failure: ApiError: x is forbidden: Forbidden (Status { code: 403 })\n\nCaused by: y",
        ),
        error("Callback evaluation failure: ServiceError: client error (Connect)"),
        error("unknown operation: get_resource"),
        error("Error sending request over callback channel: Full(..)"),
        error(""),
        answer(""),
        answer("null"),
        answer("[]"),
        answer("{}"),
        answer("{\"items\": {}}"),
        answer("{\"items\": [null, 1, \"\", [], {\"metadata\": 1, \"status\": []}]}"),
        answer(
            "{\"metadata\": {\"name\": 5, \"labels\": [1]}, \"status\": {\"address\": 1, \"resourceName\": null}, \"spec\": \"x\"}",
        ),
        answer("{\"binaryData\": {\"rom\": 5}, \"data\": \"x\"}"),
        answer("{\"allowed\": \"yes\"}"),
        answer("{\"allowed\": false, \"reason\": \"no\"}"),
        answer("{\"metadata\": "),
        answer("not JSON at all"),
        Ok(vec![0xff, 0xfe, 0x00]),
        Ok(format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes()),
    ]
}

/// A VM with all features, each of which needs lookups.
fn asking() -> Value {
    let mut vm = vm(&DIRECTIVES);
    vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = json!([]);
    vm
}

fn evaluate(mode: &str, fault: Option<(usize, Result<Vec<u8>, String>)>) -> Evaluation {
    let cluster = Cluster::from_folder(&root().join("examples/workstation/cluster")).unwrap();
    let settings = features::in_every_section(json!({}), "errorHandling", mode);
    let host = HOST.with_cluster(cluster.with_faults(Faults { answer: fault, ..Faults::default() }));
    host.validate(&settings, &request(asking(), None))
}

/// The parts of the VM that only this feature changes.
fn traces(feature: &str, vm: &Value) -> Vec<Value> {
    let spec = &vm["spec"]["template"]["spec"];
    let domain = &spec["domain"];
    let annotations = &vm["spec"]["template"]["metadata"]["annotations"];
    let host_devices = |are_usb: bool| {
        let devices = domain["devices"]["hostDevices"].as_array().unwrap().iter();
        let is_usb = |device: &Value| device["deviceName"].as_str().unwrap().starts_with("kubevirt.io/");
        json!(devices.filter(|device| is_usb(device) == are_usb).collect::<Vec<_>>())
    };
    match feature {
        "nested-virt" => vec![domain["cpu"]["features"].clone()],
        "cpu-pinning" => vec![domain["cpu"]["dedicatedCpuPlacement"].clone()],
        "hugepages" => vec![domain["memory"]["hugepages"].clone()],
        "numa" => vec![domain["cpu"]["numa"].clone()],
        "pci-passthrough" => vec![host_devices(false), spec["nodeSelector"].clone()],
        "usb-passthrough" => vec![host_devices(true)],
        "gpu-device-plugin" => {
            vec![domain["devices"]["gpus"].clone(), domain["resources"]["limits"]["nvidia.com/gpu"].clone()]
        }
        "vbios-injection" => vec![annotations["hooks.kubevirt.io/hookSidecars"].clone(), spec["volumes"].clone()],
        other => panic!("say here what of a VM {other} changes"),
    }
}

#[rstest]
#[case::reject("reject")]
#[case::allow_and_log("allow-and-log")]
#[case::strip_label("strip-label")]
fn at_every_position(#[case] mode: &str) {
    let before = asking();
    let clean = evaluate(mode, None);
    let applied = clean.response.audit_annotations.get("applied").cloned().unwrap_or_default();
    assert_eq!(applied, features::names().join(","), "{:?} {:?}", clean.response.status, clean.response.warnings);
    let calls = clean.activity.lookups().len();
    assert!(calls >= 9, "{:?}", clean.activity.lookups());
    let mut failures = 0;
    for position in 0..calls {
        for fault in faults() {
            let what = format!("{mode}, call {position} answers {fault:?}");
            let response = evaluate(mode, Some((position, fault))).response;
            let audit = |key: &str| response.audit_annotations.get(key).cloned().unwrap_or_default();
            let (applied, failed) = (audit("applied"), audit("failed"));
            let has = |list: &str, name: &str| list.split(',').any(|item| item == name);
            failures += usize::from(!failed.is_empty());
            if mode == "reject" && !failed.is_empty() {
                let status = response.status.as_ref().expect(&what);
                assert!(!response.allowed && response.patch.is_none(), "{what}");
                assert_eq!(status.code, Some(400), "{what}: {:?}", status.message);
                continue;
            }
            assert!(response.allowed, "{what}: {:?}", response.status);
            let after = response.patched(&before).unwrap();
            for name in features::names() {
                let annotation =
                    |suffix: &str| &after["metadata"]["annotations"][format!("vm-feature-manager.io/{name}{suffix}")];
                assert_ne!(has(&applied, name), has(&failed, name), "{what}: {name}");
                assert_eq!(annotation("-applied").is_string(), has(&applied, name), "{what}: {name}");
                if has(&failed, name) {
                    assert_eq!(traces(name, &after), traces(name, &before), "{what}: {name}");
                    assert_eq!(annotation("-error").is_string(), mode == "allow-and-log", "{what}: {name}");
                    assert_eq!(annotation("").is_string(), mode == "allow-and-log", "{what}: {name}");
                } else {
                    assert_ne!(traces(name, &after), traces(name, &before), "{what}: {name}");
                }
            }
        }
    }
    assert!(failures > 50, "only {failures} of {} failed", calls * faults().len());
}
