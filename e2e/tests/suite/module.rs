//! The main paths through the built module, called as policy-server calls it.

use std::collections::{BTreeMap, BTreeSet};

use rstest::rstest;
use serde_json::{Value, json};
use vmfm::host::Evaluation;

use crate::harness::{HOST, message, patch, request, root, vm};

fn create(annotations: &[(&str, &str)], settings: Value) -> Evaluation {
    HOST.validate(&settings, &request(vm(annotations), None))
}

const THREE_FEATURES: &[(&str, &str)] = &[
    ("nested-virt", "enabled"),
    ("cpu-vendor", "amd"),
    ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#),
    ("gpu-device-plugin", "nvidia.com/gpu"),
];

/// With the metadata, the module has at most 640 KiB. The metadata and the way in which kwctl rewrites a module take less than
/// 9 KiB; e2e.bats checks the module that kwctl has annotated. Without wasm-opt, the module is larger and still works.
#[test]
fn the_module_is_small() {
    let is_shrunk = std::process::Command::new("wasm-opt").arg("--version").output().is_ok();
    let size = std::fs::metadata(root().join("policy.wasm")).unwrap().len();
    let most = if is_shrunk { 631 << 10 } else { 760 << 10 };
    assert!(size <= most, "{size} bytes");
}

/// The module contains the crates that a Kubewarden policy is built from, and no crate that is large or handles time.
#[test]
fn the_policy_uses_the_sdk_and_no_large_crate() {
    let arguments = "tree --locked --offline --edges normal --prefix none --depth 1 --target wasm32-wasip1 --package vm-feature-manager-policy";
    let mut cargo = std::process::Command::new(env!("CARGO"));
    let output = cargo.args(arguments.split(' ')).current_dir(root()).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let has = |name: &str| tree.lines().any(|line| line.starts_with(&format!("{name} v")));
    for name in ["anyhow", "k8s-openapi", "kubewarden-policy-sdk", "serde", "serde_json", "slog", "wapc-guest"] {
        assert!(has(name), "{name} in {tree}{}", String::from_utf8_lossy(&output.stderr));
    }
    for name in ["chrono", "jiff", "regex", "url"] {
        assert!(!has(name), "{name}");
    }
    let module = std::fs::read(root().join("policy.wasm")).unwrap();
    assert!(!module.windows(14).any(|bytes| bytes == b"regex-automata"));
}

/// `make run` builds only the evaluator, the tests build all packages together. If crates had other features then, Cargo would
/// build the engine twice.
#[test]
fn the_engine_is_built_once() {
    fn features(arguments: &str) -> BTreeMap<String, BTreeSet<String>> {
        let arguments = format!("tree --locked --offline --prefix none --no-dedupe --format {{p}}|{{f}} {arguments}");
        let mut cargo = std::process::Command::new(env!("CARGO"));
        let output = cargo.args(arguments.split(' ')).current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut found = BTreeMap::<_, BTreeSet<_>>::new();
        for (package, features) in String::from_utf8(output.stdout).unwrap().lines().filter_map(|l| l.split_once('|')) {
            let name = package.split(' ').take(2).collect::<Vec<_>>().join(" ");
            found.entry(name).or_default().insert(features.to_owned());
        }
        found
    }
    let all = features("--workspace");
    let alone = features("--edges normal,build --package vmfm");
    assert!(alone.keys().any(|package| package.starts_with("wasmtime v")));
    // The engine does not use these crates.
    let is_other = |package: &str| ["chrono ", "kubewarden-policy-sdk "].iter().any(|name| package.starts_with(name));
    for (package, features) in alone.iter().filter(|(package, _)| !is_other(package)) {
        assert!(
            features.is_subset(&all[package]),
            "{package} has {features:?} for the evaluator and {:?} for the tests",
            all[package]
        );
    }
}

/// The document contains a run of the benchmark, with every request that it measures.
#[test]
fn the_benchmark_is_written_down() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let (guide, code) = (read("docs/benchmarks.md"), read("e2e/benches/evaluate.rs"));
    let rows: Vec<&str> = guide.lines().filter(|line| line.split('|').count() == 12).collect();
    let header = rows[0].trim();
    assert!(code.contains(&format!("\\n{header}")), "{header}");
    let cases = [
        "no directive",
        "unchanged update",
        "nested-virt",
        "pci-passthrough",
        "gpu-device-plugin",
        "vbios-injection",
        "three features",
        "all four, with lookups",
        "seven features, with lookups",
        "1 MiB, no directive",
        "1 MiB, nested-virt",
    ];
    assert_eq!(rows.len(), 2 + cases.len());
    for (case, row) in cases.into_iter().zip(&rows[2..]) {
        assert!(code.contains(&format!("\"{case}\",")), "{case} is not measured");
        assert!(row.starts_with(&format!("| {case} | ")) && !row.contains(" - "), "{row}");
    }
}

#[test]
fn the_module_holds_no_path_of_the_machine_that_built_it() {
    let module = std::fs::read(root().join("policy.wasm")).unwrap();
    let home = std::env::var("HOME").unwrap();
    for path in [format!("{home}/"), root().canonicalize().unwrap().display().to_string()] {
        let found = module.windows(path.len()).any(|bytes| bytes == path.as_bytes());
        assert!(!found, "{path}");
    }
}

#[test]
fn the_module_speaks_protocol_version_1() {
    let (answer, _) = HOST.call("protocol_version", b"").unwrap();
    assert_eq!(answer, br#""v1""#);
}

#[test]
fn a_vm_that_asks_for_nothing_is_accepted_without_patch_log_or_lookup() {
    let evaluation = create(&[], json!({}));
    assert!(evaluation.response.allowed);
    assert_eq!(evaluation.response.patch, None);
    assert_eq!(evaluation.activity.logs(), Vec::<&Value>::new());
    assert!(evaluation.activity.lookups().is_empty());
}

#[test]
fn three_features_make_a_patch_of_what_they_mean() {
    let evaluation = create(THREE_FEATURES, json!({"pciPassthrough": {"deviceNames": "address"}}));
    let annotations = "/metadata/annotations/vm-feature-manager.io~1";
    let domain = "/spec/template/spec/domain";
    assert!(evaluation.response.allowed);
    assert_eq!(evaluation.response.patch_type, Some("JSONPatch"));
    assert_eq!(
        patch(&evaluation),
        json!([
            {"op": "add", "path": format!("{annotations}gpu-device-plugin-applied"), "value": "nvidia.com/gpu"},
            {"op": "add", "path": format!("{annotations}nested-virt-applied"), "value": "true"},
            {"op": "add", "path": format!("{annotations}pci-passthrough-applied"), "value": r#"["0000:03:00.0"]"#},
            {"op": "add", "path": "/spec/template/metadata/annotations/vm-feature-manager.io~1record", "value": concat!(
                r#"{"pci-passthrough":{"value":"{\"devices\": [\"0000:03:00.0\"]}","added":["#,
                r#"{"hostDevice":"pci-device-0","resource":"pci_0000_03_00_0","beside":["node1-000000020"]}]},"#,
                r#""gpu-device-plugin":{"value":"nvidia.com/gpu","added":[{"limit":"nvidia.com/gpu","quantity":"1"}]},"#,
                r#""nested-virt":{"value":"enabled","options":{"cpu-vendor":"amd"},"added":[{"cpuFeature":"svm"}]}}"#,
            )},
            {"op": "add", "path": format!("{domain}/cpu/features"), "value": [{"name": "svm", "policy": "require"}]},
            {
                "op": "add",
                "path": format!("{domain}/devices/hostDevices/1"),
                "value": {"name": "pci-device-0", "deviceName": "pci_0000_03_00_0"},
            },
            {"op": "add", "path": format!("{domain}/resources/limits/nvidia.com~1gpu"), "value": "1"},
        ])
    );
    assert_eq!(evaluation.response.audit_annotations["applied"], "pci-passthrough,gpu-device-plugin,nested-virt");
}

#[test]
fn the_patched_vm_is_not_patched_again() {
    let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
    let before = request(vm(THREE_FEATURES), None);
    let after = HOST.validate(&settings, &before).response.patched(&before["object"]).unwrap();
    for old in [None, Some(before["object"].clone()), Some(after.clone())] {
        let again = HOST.validate(&settings, &request(after.clone(), old));
        assert!(again.response.allowed);
        assert_eq!(again.response.patch, None, "{}", patch(&again));
    }
}

#[test]
fn an_update_without_a_change_of_ours_is_accepted_whatever_it_asks_for() {
    let old = vm(&[("nested-virt", "nonsense"), ("nested-virt-error", "it is nonsense")]);
    let mut new = old.clone();
    new["spec"]["runStrategy"] = json!("Halted");
    let evaluation = HOST.validate(&json!({}), &request(new, Some(old)));
    assert!(evaluation.response.allowed);
    assert_eq!(evaluation.response.patch, None);
}

#[test]
fn a_failure_is_denied_with_code_400_and_a_message() {
    let evaluation = create(&[("nested-virt", "maybe")], json!({}));
    assert!(!evaluation.response.allowed);
    assert_eq!(evaluation.response.status.as_ref().unwrap().code, Some(400));
    assert_eq!(
        message(&evaluation),
        "nested-virt cannot be applied (annotation vm-feature-manager.io/nested-virt: \"maybe\"): must be enabled \
         or disabled"
    );
}

#[test]
fn a_failure_that_is_allowed_is_told_in_an_annotation_a_warning_and_the_log() {
    let settings = json!({"nestedVirtualization": {"errorHandling": "allow-and-log"}});
    let evaluation = create(&[("nested-virt", "maybe")], settings);
    assert!(evaluation.response.allowed);
    let error = "must be enabled or disabled";
    let path = "/metadata/annotations/vm-feature-manager.io~1nested-virt-error";
    assert_eq!(patch(&evaluation), json!([{"op": "add", "path": path, "value": error}]));
    assert_eq!(evaluation.response.warnings, [format!("nested-virt is not applied: {error}")]);
    let [line] = evaluation.activity.logs()[..] else {
        panic!("one log line: {:?}", evaluation.activity.logs());
    };
    for (field, value) in [
        ("level", "warning"),
        ("message", "feature not applied"),
        ("request_uid", "00000000-0000-4000-8000-000000000000"),
        ("namespace", "default"),
        ("name", "igpu-vm"),
        ("feature", "nested-virt"),
        ("error", error),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
}

#[test]
fn a_failure_that_is_stripped_loses_its_directive() {
    let settings = json!({"nestedVirtualization": {"errorHandling": "strip-label"}});
    let evaluation = create(&[("nested-virt", "maybe")], settings);
    let path = "/metadata/annotations/vm-feature-manager.io~1nested-virt";
    assert_eq!(patch(&evaluation), json!([{"op": "remove", "path": path}]));
    assert_eq!(evaluation.activity.logs().len(), 1);
}

#[test]
fn settings_are_validated() {
    assert!(HOST.validate_settings(&json!({})).unwrap().valid);
    assert!(HOST.validate_settings(&json!(null)).unwrap().valid);
    let answer = HOST.validate_settings(&json!({"configSource": "label"})).unwrap();
    assert!(!answer.valid);
    assert_eq!(
        answer.message.as_deref(),
        Some(r#"setting configSource: got "label", expected one of annotations, labels"#)
    );
}

#[rstest]
#[case::empty(b"")]
#[case::not_json(b"{")]
#[case::not_utf_8(b"\xff\xfe")]
#[case::no_request(b"{}")]
fn a_payload_that_is_no_request_is_answered(#[case] payload: &[u8]) {
    let (answer, _) = HOST.call("validate", payload).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["accepted"], json!(false));
    assert_eq!(answer["code"], json!(400));
}

/// The answer to a VM in this text.
fn answer_to(object: &str) -> String {
    let payload = format!(
        r#"{{"request":{{"kind":{{"group":"kubevirt.io","kind":"VirtualMachine"}},"operation":"CREATE","object":{object}}}}}"#
    );
    String::from_utf8(HOST.call("validate", payload.as_bytes()).unwrap().0).unwrap()
}

#[test]
fn ten_thousand_levels_are_answered() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let vm = vm(&[("gpu-device-plugin", "nvidia.com/gpu")]).to_string();
    let vm = vm.replacen(r#""networks":"#, &format!(r#""other":{deep},"networks":"#), 1);
    assert!(answer_to(&vm).contains("nested too deeply"));
}

#[test]
fn a_megabyte_of_text_is_answered() {
    let mut large = vm(THREE_FEATURES);
    large["metadata"]["annotations"]["other.io/large"] = json!("x".repeat(1 << 19));
    large["spec"]["template"]["spec"]["volumes"][1] = json!({
        "name": "cloudinitdisk", "cloudInitNoCloud": {"userData": "y\n".repeat(1 << 18)},
    });
    let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
    let evaluation = HOST.validate(&settings, &request(large, None));
    assert!(evaluation.response.allowed);
    assert_eq!(patch(&evaluation).as_array().unwrap().len(), 7);

    let evaluation = create(&[("pci-passthrough", &"[".repeat(1 << 20))], json!({}));
    assert!(!evaluation.response.allowed);
    assert!(message(&evaluation).len() < 1024);
}
