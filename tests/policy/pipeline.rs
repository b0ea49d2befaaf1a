//! What happens to a request, regardless of the feature: when the policy skips it, error modes, tracking, messages, logs.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::features::{directives, in_every_section, names, options, sections};
use super::harness::{Answer, MemoryCluster, PREFIX, Request, annotate, bare_vm, evaluate, fixture, vm};

/// Works with the default settings, and an empty cluster.
const GOOD: (&str, &str) = ("gpu-device-plugin", "nvidia.com/gpu");
/// Fails with the default settings.
const BAD: (&str, &str) = ("pci-passthrough", "nonsense");

/// The settings that handle a failure of `pci-passthrough` in this mode.
fn pci_errors(mode: &str) -> Value {
    json!({"pciPassthrough": {"errorHandling": mode}})
}

#[rstest]
#[case::other_group("/kind/group", json!("example.com"))]
#[case::core_group("/kind/group", json!(""))]
#[case::other_kind("/kind/kind", json!("VirtualMachineInstance"))]
#[case::delete("/operation", json!("DELETE"))]
#[case::connect("/operation", json!("CONNECT"))]
#[case::deleting("/object/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))]
#[case::status("/subResource", json!("status"))]
#[case::no_object("/object", json!(null))]
fn a_request_that_does_not_concern_the_policy_is_accepted(#[case] pointer: &str, #[case] value: Value) {
    let mut request = Request::create(vm(&[GOOD, BAD]));
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    request.request.pointer_mut(parent).unwrap()[key] = value;
    request.evaluate().assert_accepted_unchanged();
}

#[test]
fn a_vm_that_asks_for_nothing_is_accepted_without_a_word() {
    for name in ["vm-ui-create.yaml", "vm-stored.yaml", "vm-rancher-node-driver.yaml"] {
        let answer = Request::create(fixture(name)).evaluate();
        assert_eq!(answer.response, json!({"accepted": true}), "{name}");
        assert_eq!(answer.logs, Vec::<String>::new());
    }
}

#[rstest]
#[case::null_timestamp(json!({"deletionTimestamp": null}))]
#[case::empty_timestamp(json!({"deletionTimestamp": ""}))]
fn an_object_is_not_deleted_by_a_timestamp_that_is_not_set(#[case] metadata: Value) {
    let mut vm = vm(&[GOOD]);
    vm["metadata"]["deletionTimestamp"] = metadata["deletionTimestamp"].clone();
    assert!(Request::create(vm).evaluate().is_mutated());
}

#[test]
fn any_version_of_the_api_is_served() {
    let mut request = Request::create(vm(&[GOOD]));
    request.request["kind"]["version"] = json!("v1alpha3");
    assert!(request.evaluate().is_mutated());
}

mod update {
    use super::*;

    const DIRECTIVE: &str = "/metadata/annotations/vm-feature-manager.io~1pci-passthrough";

    #[test]
    fn without_a_change_of_ours_is_accepted_whatever_it_asks_for() {
        let old = vm(&[GOOD, ("gpu-device-plugin-applied", "x"), BAD, ("pci-passthrough-error", "x")]);
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["a"]);
        new["metadata"]["annotations"]["other.io/x"] = json!("y");
        new["spec"]["runStrategy"] = json!("Halted");
        new["status"] = json!({"ready": true});
        let answer = Request::update(old, new).evaluate();
        assert_eq!(answer.response, json!({"accepted": true}));
        assert_eq!(answer.logs, Vec::<String>::new());
    }

    #[rstest]
    #[case::a_directives_value(DIRECTIVE, json!("other"))]
    #[case::an_option("/metadata/annotations/vm-feature-manager.io~1cpu-vendor", json!("amd"))]
    #[case::a_record("/metadata/annotations/vm-feature-manager.io~1pci-passthrough-applied", json!("[]"))]
    #[case::a_label("/metadata/labels/vm-feature-manager.io~1nested-virt", json!("enabled"))]
    #[case::the_template("/spec/template/spec/domain/cpu/cores", json!(8))]
    fn with_a_change_of_ours_is_planned_again(#[case] pointer: &str, #[case] value: Value) {
        let old = vm(&[BAD]);
        let mut new = old.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        new.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
        let answer = Request::update(old, new).evaluate();
        assert_eq!((answer.is_accepted(), answer.audit("failed")), (pointer != DIRECTIVE, "pci-passthrough"));
    }

    #[test]
    fn with_a_new_directive_is_planned() {
        let answer = Request::update(vm(&[]), vm(&[GOOD])).evaluate();
        assert_eq!(answer.audit("applied"), "gpu-device-plugin");
    }

    #[test]
    fn without_an_old_object_is_planned() {
        let mut request = Request::update(json!(null), vm(&[GOOD]));
        assert!(request.request.as_object_mut().unwrap().remove("oldObject").is_some());
        assert!(request.evaluate().is_mutated());
    }
}

mod features {
    use super::*;

    #[test]
    fn are_applied_in_their_order_and_one_failure_does_not_stop_the_others() {
        let vm = vm(&[GOOD, BAD, ("nested-virt", "enabled"), ("cpu-vendor", "amd")]);
        let answer = Request::create(vm).settings(pci_errors("allow-and-log")).evaluate();
        assert_eq!(answer.audit("applied"), "gpu-device-plugin,nested-virt");
        assert_eq!(answer.audit("failed"), "pci-passthrough");
        assert_eq!(answer.domain()["cpu"]["features"][0]["name"], "svm");
        assert_eq!(answer.domain()["resources"]["limits"]["nvidia.com/gpu"], "1");
        assert_eq!(answer.domain()["devices"]["hostDevices"].as_array().unwrap().len(), 1);
    }

    /// No feature accepts this value: no feature has such a word, and an empty cluster has no object of this name.
    #[test]
    fn that_are_switched_off_ignore_their_directives() {
        for (feature, section) in names().into_iter().zip(sections()) {
            let request = || Request::create(vm(&[(feature, "nonsense")]));
            let off = request().settings(json!({section: {"enabled": false}})).evaluate();
            assert_eq!(off.response, json!({"accepted": true}), "{feature}");

            // Each feature has its own error mode.
            let answer = request().settings(json!({section: {"errorHandling": "allow-and-log"}})).evaluate();
            assert!(answer.is_accepted(), "{feature}");
            assert_eq!(answer.audit("failed"), feature);
            request().evaluate().assert_denied(&[feature]);
        }
    }

    #[test]
    fn have_a_file_of_tests_each() {
        let main = include_str!("main.rs");
        for feature in names() {
            let module = feature.replace('-', "_");
            assert!(main.contains(&format!("\nmod {module};\n")), "tests/policy has no {module}.rs");
        }
    }

    #[test]
    fn that_fail_half_way_change_nothing() {
        let mut vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["00:01.0", "00:02.0"]}"#)]);
        vm["spec"]["template"]["spec"]["domain"]["devices"] = json!({"hostDevices": [], "gpus": 1});
        let spec = vm["spec"].clone();
        let answer = Request::create(vm).settings(pci_errors("allow-and-log")).evaluate();
        assert_eq!(answer.after()["spec"], spec);
    }
}

mod reject {
    use super::*;

    #[test]
    fn lists_every_failure_with_feature_key_value_and_remedy() {
        let vm = vm(&[GOOD, BAD, ("nested-virt", "maybe")]);
        let answer = Request::create(vm).evaluate();
        answer.assert_denied(&[]);
        assert_eq!(
            answer.message(),
            "pci-passthrough cannot be applied (annotation vm-feature-manager.io/pci-passthrough: \"nonsense\"): not \
             valid JSON; write '{\"devices\": [\"0000:00:02.0\"]}'\n\
             nested-virt cannot be applied (annotation vm-feature-manager.io/nested-virt: \"maybe\"): must be \
             enabled or disabled"
        );
        assert_eq!(answer.audit("failed"), "pci-passthrough,nested-virt");
        assert_eq!(answer.audit("applied"), "");
    }

    #[test]
    fn leaves_out_the_failures_of_other_modes() {
        let vm = vm(&[BAD, ("nested-virt", "maybe")]);
        let answer = Request::create(vm).settings(pci_errors("allow-and-log")).evaluate();
        answer.assert_denied(&["nested-virt"]);
        assert!(!answer.message().contains("pci-passthrough"), "{}", answer.message());
        assert_eq!(answer.audit("failed"), "pci-passthrough,nested-virt");
    }
}

mod allow_and_log {
    use super::*;

    fn answer(vm: Value) -> Answer {
        Request::create(vm).settings(pci_errors("allow-and-log")).evaluate()
    }

    #[test]
    fn tells_in_an_annotation_a_warning_and_the_log() {
        let answer = answer(vm(&[BAD]));
        assert!(answer.is_accepted());
        let error = "not valid JSON; write '{\"devices\": [\"0000:00:02.0\"]}'";
        assert_eq!(
            answer.patch(),
            json!([{
                "op": "add",
                "path": "/metadata/annotations/vm-feature-manager.io~1pci-passthrough-error",
                "value": error,
            }])
        );
        assert_eq!(answer.warnings(), [format!("pci-passthrough is not applied: {error}")]);
        assert_eq!(answer.logs.len(), 1);
        assert!(answer.logs[0].starts_with("WARN feature not applied "), "{}", answer.logs[0]);
    }

    #[test]
    fn removes_the_record_of_an_earlier_success() {
        let answer = answer(vm(&[BAD, ("pci-passthrough-applied", "[]")]));
        assert_eq!(answer.annotation("pci-passthrough-applied"), None);
        assert!(answer.annotation("pci-passthrough-error").is_some());
    }

    #[test]
    fn removes_a_stale_error_where_tracking_is_off() {
        let old = vm(&[("pci-passthrough-error", "another")]);
        let answer = Request::update(old, vm(&[BAD, ("pci-passthrough-error", "another")]))
            .settings(json!({
                "addTrackingAnnotations": false,
                "pciPassthrough": {"errorHandling": "allow-and-log"},
            }))
            .evaluate();
        assert_eq!(answer.annotation("pci-passthrough-error"), None);
    }

    #[test]
    fn writes_no_annotation_where_tracking_is_off() {
        let answer = Request::create(vm(&[BAD]))
            .settings(json!({
                "addTrackingAnnotations": false,
                "pciPassthrough": {"errorHandling": "allow-and-log"},
            }))
            .evaluate();
        answer.assert_accepted_unchanged();
        assert_eq!(answer.warnings().len(), 1);
    }
}

mod strip_label {
    use super::*;

    #[test]
    fn removes_the_annotation_and_adds_nothing() {
        let answer = Request::create(vm(&[BAD])).settings(pci_errors("strip-label")).evaluate();
        assert!(answer.is_accepted());
        assert_eq!(
            answer.patch(),
            json!([{"op": "remove", "path": "/metadata/annotations/vm-feature-manager.io~1pci-passthrough"}])
        );
        assert_eq!(answer.warnings().len(), 1);
        let start = "pci-passthrough is not applied, and its directive is removed (errorHandling is strip-label): not valid JSON";
        assert!(answer.warnings()[0].starts_with(start), "{:?}", answer.warnings());
        assert_eq!(answer.audit("failed"), "pci-passthrough");
        assert_eq!(answer.logs.len(), 1);
        assert!(answer.logs[0].starts_with("INFO directive removed "), "{}", answer.logs[0]);
    }

    #[test]
    fn removes_the_label_where_directives_are_labels() {
        let mut vm = vm(&[("gpu-device-plugin", "kept")]);
        vm["metadata"]["labels"][format!("{PREFIX}gpu-device-plugin")] = json!("gpu");
        let answer = Request::create(vm)
            .settings(json!({
                "configSource": "labels",
                "gpuDevicePlugin": {"errorHandling": "strip-label"},
            }))
            .evaluate();
        assert_eq!(
            answer.patch(),
            json!([{"op": "remove", "path": "/metadata/labels/vm-feature-manager.io~1gpu-device-plugin"}])
        );
    }
}

mod source {
    use super::*;

    #[test]
    fn labels_hold_directives_and_annotations_their_options_and_records() {
        let mut vm = vm(&[("cpu-vendor", "amd"), ("pci-passthrough", "ignored")]);
        vm["metadata"]["labels"][format!("{PREFIX}nested-virt")] = json!("enabled");
        let answer = Request::create(vm).settings(json!({"configSource": "labels"})).evaluate();
        assert_eq!(answer.audit("applied"), "nested-virt");
        assert_eq!(answer.domain()["cpu"]["features"][0]["name"], "svm");
        assert_eq!(answer.annotation("nested-virt-applied").as_deref(), Some("true"));
    }

    #[test]
    fn labels_are_not_read_by_default() {
        let mut vm = vm(&[]);
        vm["metadata"]["labels"][format!("{PREFIX}nested-virt")] = json!("enabled");
        Request::create(vm).evaluate().assert_accepted_unchanged();
    }

    #[test]
    fn directives_in_the_other_place_are_a_warning() {
        let mut labeled = vm(&[]);
        labeled["metadata"]["labels"][format!("{PREFIX}nested-virt")] = json!("enabled");
        let answer = Request::create(labeled).evaluate();
        assert_eq!(
            answer.warnings(),
            [
                "the policy reads directives from annotations, and these labels are ignored: nested-virt; make them annotations"
            ]
        );
        let answer = Request::create(vm(&[GOOD])).settings(json!({"configSource": "labels"})).evaluate();
        assert_eq!(
            answer.warnings(),
            [
                "the policy reads directives from labels, and these annotations are ignored: gpu-device-plugin; make them labels"
            ]
        );
    }

    #[test]
    fn a_message_names_the_label() {
        let mut vm = vm(&[]);
        vm["metadata"]["labels"][format!("{PREFIX}nested-virt")] = json!("maybe");
        Request::create(vm)
            .settings(json!({"configSource": "labels"}))
            .evaluate()
            .assert_denied(&[r#"(label vm-feature-manager.io/nested-virt: "maybe")"#]);
    }

    #[rstest]
    #[case::boolean(json!(true), "a boolean")]
    #[case::number(json!(1), "a number")]
    #[case::object(json!({"devices": []}), "an object")]
    fn a_directive_that_is_no_text_is_an_error(#[case] value: Value, #[case] found: &str) {
        let quoted = format!("'{value}'");
        let mut vm = vm(&[]);
        vm["metadata"]["annotations"][format!("{PREFIX}nested-virt")] = value;
        let answer = Request::create(vm).evaluate();
        let error = format!("): it is {found}; write it as a string, in quotes: {quoted}");
        answer.assert_denied(&[&error]);
        assert_eq!(answer.message().matches("vm-feature-manager.io/nested-virt").count(), 1, "{}", answer.message());
    }

    /// The API server decodes null into an empty text, because annotations are a map of texts.
    #[test]
    fn a_directive_that_is_null_is_off() {
        let mut vm = vm(&[]);
        vm["metadata"]["annotations"][format!("{PREFIX}nested-virt")] = json!(null);
        Request::create(vm).evaluate().assert_accepted_unchanged();
    }

    #[test]
    fn an_option_that_is_no_text_is_an_error() {
        let mut vm = vm(&[("nested-virt", "enabled")]);
        vm["metadata"]["annotations"][format!("{PREFIX}cpu-vendor")] = json!(1);
        let answer = Request::create(vm).evaluate();
        answer.assert_denied(&["vm-feature-manager.io/cpu-vendor is a number", "in quotes"]);
    }

    #[rstest]
    #[case::mistyped(
        "nested-vrit",
        r#"no such directive: "nested-vrit" (did you mean vm-feature-manager.io/nested-virt?); this has no effect"#
    )]
    #[case::underscore(
        "pci_passthrough",
        r#"no such directive: "pci_passthrough" (did you mean vm-feature-manager.io/pci-passthrough?); this has no effect"#
    )]
    #[case::option(
        "cpu-vender",
        r#"no such directive: "cpu-vender" (did you mean vm-feature-manager.io/cpu-vendor?); this has no effect"#
    )]
    #[case::far(
        "flux-capacitor",
        "no such directive: \"flux-capacitor\"; this has no effect; the directives are pci-passthrough, usb-passthrough, \
         gpu-device-plugin, vbios-injection, nested-virt, cpu-pinning, hugepages, numa"
    )]
    fn an_unknown_key_is_a_warning(#[case] key: &str, #[case] warning: &str) {
        let answer = Request::create(vm(&[(key, "enabled")])).evaluate();
        answer.assert_accepted_unchanged();
        assert_eq!(answer.warnings(), [warning]);
    }

    #[test]
    fn known_keys_are_no_warning() {
        let records: Vec<String> =
            names().iter().flat_map(|f| ["applied", "error"].map(|record| format!("{f}-{record}"))).collect();
        let mut vm = vm(&[("nested-virt", "disabled"), ("cpu-vendor", "amd")]);
        records.iter().for_each(|record| annotate(&mut vm, &[(record, "[]")]));
        assert_eq!(Request::create(vm.clone()).evaluate().warnings(), Vec::<&str>::new());

        // The values are refused, but the keys are known.
        annotate(&mut vm, &directives());
        options().into_iter().for_each(|(option, _)| annotate(&mut vm, &[(option, "nonsense")]));
        let answer =
            Request::create(vm).settings(in_every_section(json!({}), "errorHandling", "allow-and-log")).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        assert!(!answer.warnings().iter().any(|warning| warning.contains("no such")), "{:?}", answer.warnings());
    }
}

mod tracking {
    use super::*;

    #[test]
    fn success_removes_a_stale_error() {
        let answer = Request::create(vm(&[GOOD, ("gpu-device-plugin-error", "old")])).evaluate();
        assert_eq!(answer.annotation("gpu-device-plugin-error"), None);
        assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some("nvidia.com/gpu"));
    }

    #[test]
    fn a_changed_value_is_recorded_anew() {
        let answer = Request::create(vm(&[GOOD, ("gpu-device-plugin-applied", "amd.com/gpu")])).evaluate();
        assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some("nvidia.com/gpu"));
    }

    #[test]
    fn can_be_switched_off() {
        let answer = Request::create(vm(&[GOOD])).settings(json!({"addTrackingAnnotations": false})).evaluate();
        assert_eq!(
            answer.patch(),
            json!([
                {
                    "op": "add",
                    "path": "/spec/template/metadata/annotations/vm-feature-manager.io~1record",
                    "value": r#"{"gpu-device-plugin":{"value":"nvidia.com/gpu","added":[{"limit":"nvidia.com/gpu","quantity":"1"}]}}"#,
                },
                {
                    "op": "add",
                    "path": "/spec/template/spec/domain/resources/limits/nvidia.com~1gpu",
                    "value": "1",
                },
            ])
        );
    }

    #[test]
    fn annotations_are_made_where_there_are_none() {
        for annotations in [json!(null), json!({})] {
            let mut vm = bare_vm(&[]);
            vm["metadata"]["labels"] = json!({format!("{PREFIX}gpu-device-plugin"): "nvidia.com/gpu"});
            vm["metadata"]["annotations"] = annotations;
            let answer = Request::create(vm).settings(json!({"configSource": "labels"})).evaluate();
            assert!(answer.annotation("gpu-device-plugin-applied").is_some());
        }
    }

    #[test]
    fn annotations_of_a_wrong_type_are_a_denial() {
        let mut vm = bare_vm(&[]);
        vm["metadata"]["labels"] = json!({format!("{PREFIX}gpu-device-plugin"): "nvidia.com/gpu"});
        vm["metadata"]["annotations"] = json!("none");
        let answer = Request::create(vm).settings(json!({"configSource": "labels"})).evaluate();
        answer.assert_denied(&["metadata.annotations is a string where KubeVirt expects an object"]);
    }
}

#[test]
fn applied_twice_it_changes_nothing_more() {
    let vm = vm(&[
        GOOD,
        ("nested-virt", "enabled"),
        ("cpu-vendor", "amd"),
        ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#),
    ]);
    let evaluate =
        |request: Request| request.settings(json!({"pciPassthrough": {"deviceNames": "address"}})).evaluate();
    let once = evaluate(Request::create(vm.clone())).after();
    assert_ne!(once, vm);
    evaluate(Request::create(once.clone())).assert_accepted_unchanged();
    evaluate(Request::update(vm, once.clone())).assert_accepted_unchanged();
    evaluate(Request::update(once.clone(), once)).assert_accepted_unchanged();
}

#[test]
fn unknown_fields_and_integers_of_64_bits_survive() {
    let mut vm = vm(&[GOOD]);
    let future =
        json!({"large": u64::MAX, "small": i64::MIN, "beyond_53_bits": 9_007_199_254_740_993_u64, "half": 0.5});
    vm["spec"]["future"] = future.clone();
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["resources"]["limits"]["nvidia.com/gpu"], "1");
    assert_eq!(answer.after()["spec"]["future"], future);
}

mod log {
    use super::*;

    #[test]
    fn has_one_line_for_each_refusal_and_nothing_of_the_guest() {
        let mut vm = vm(&[GOOD, BAD, ("nested-virt", "enabled"), ("cpu-vendor", "amd")]);
        vm["spec"]["template"]["spec"]["volumes"][1] = json!({
            "name": "cloudinitdisk", "cloudInitNoCloud": {"userData": "#cloud-config\npassword: hunter2"},
        });
        let answer = Request::create(vm).evaluate();
        let fields = |feature: &str| {
            format!(
                r#""feature":"{feature}","name":"igpu-vm","namespace":"default","request_uid":"705ab4f5-6393-11e8-b7cc-42010a800002""#
            )
        };
        // If the request is denied, nothing is applied.
        assert_eq!(answer.logs.len(), 1);
        let line = &answer.logs[0];
        assert!(line.starts_with("WARN feature refused ") && line.contains(&fields(BAD.0)), "{line}");
        assert!(!line.contains("hunter2"));
    }

    #[test]
    fn has_one_line_for_all_features_that_are_applied() {
        let request = Request::create(vm(&[GOOD, ("nested-virt", "enabled"), ("cpu-vendor", "amd")]));
        let answer = request.evaluate();
        let features = r#""features":"gpu-device-plugin,nested-virt","name":"igpu-vm""#;
        assert_eq!(answer.logs.len(), 1);
        assert!(answer.logs[0].starts_with("INFO features applied "), "{}", answer.logs[0]);
        assert!(answer.logs[0].contains(features), "{}", answer.logs[0]);
    }

    #[test]
    fn has_no_line_where_all_is_in_place() {
        let applied = Request::create(vm(&[GOOD])).evaluate();
        let again = Request::create(applied.after()).evaluate();
        assert_eq!(again.logs, Vec::<String>::new());
    }
}

mod unusable_payload {
    use super::*;

    #[rstest]
    #[case::empty("", "it ends too early")]
    #[case::not_json("hunter2", "it is not valid JSON")]
    #[case::list("[]", "its kind.kind is missing")]
    #[case::no_request(r#"{"settings": {}}"#, "its kind.kind is missing")]
    #[case::no_kind(r#"{"request": {"operation": "CREATE"}}"#, "its kind.kind is missing")]
    #[case::wrong_type(r#"{"request": {"kind": {"kind": ["hunter2"]}, "operation": "CREATE"}}"#, "its kind.kind is")]
    #[case::groups(r#"{"request": {"userInfo": {"groups": ["a", {"hunter2": 1}]}}}"#, "its userInfo.groups is")]
    #[case::no_operation(r#"{"request": {"kind": {"kind": "hunter2"}}}"#, "its operation is missing")]
    #[case::namespace(
        r#"{"request": {"kind": {"kind": "x"}, "operation": "CREATE", "namespace": "hunter2\f"}}"#,
        "its namespace is"
    )]
    #[case::more_behind(r#"{"request": {}} hunter2"#, "it is not valid JSON")]
    #[case::cut_off(r#"{"request": {"object": {"a": "hunter2"#, "it ends too early")]
    fn is_denied_without_a_word_of_it(#[case] payload: &str, #[case] part: &str) {
        let answer = evaluate(payload.as_bytes(), &MemoryCluster::default());
        answer.assert_denied(&["the admission request cannot be read", part]);
        assert!(!answer.message().contains("hunter2"), "{}", answer.message());
    }

    #[test]
    fn that_is_not_utf_8_is_denied() {
        let answer = evaluate(b"{\"request\": \"\xff\"}", &MemoryCluster::default());
        answer.assert_denied(&["it is not UTF-8"]);
    }

    /// A text that mentions the policy does not ask for anything, either.
    #[test]
    fn settings_that_are_invalid_do_not_matter_where_nothing_is_asked() {
        let mut vm = bare_vm(&[]);
        let text = "vm-feature-manager.io/nested-virt";
        vm["metadata"]["annotations"] = json!({"description": text, text.to_uppercase(): "x"});
        for settings in [json!({"x": 1}), json!({"userData": {"enabled": true}, "x": 1})] {
            let request = Request::create(vm.clone()).settings(settings);
            request.evaluate().assert_accepted_unchanged();
        }
    }

    #[test]
    fn settings_that_are_invalid_are_the_administrators_matter() {
        let answer = Request::create(vm(&[GOOD])).settings(json!({"kubevirt": 1})).evaluate();
        assert!(!answer.is_accepted());
        assert_eq!(answer.response["code"], json!(500));
        assert!(answer.message().contains("setting kubevirt: got a number, expected an object"));
        assert!(answer.logs[0].contains(r#""name":"igpu-vm""#), "{}", answer.logs[0]);

        // Invalid settings do not affect a VM that asks for nothing.
        let answer = Request::create(vm(&[])).settings(json!({"kubevirt": 1})).evaluate();
        assert_eq!(answer.response, json!({"accepted": true}));
    }
}

mod extremes {
    use super::*;

    fn create(object: &str) -> Answer {
        let payload = format!(
            r#"{{"request":{{"kind":{{"group":"kubevirt.io","kind":"VirtualMachine"}},"operation":"CREATE","object":{object}}}}}"#
        );
        evaluate(payload.as_bytes(), &MemoryCluster::default())
    }

    #[rstest]
    #[case::metadata(r#"{"metadata": DEEP}"#)]
    #[case::template(r#"{"spec": {"template": DEEP}}"#)]
    #[case::directive(r#"{"metadata": {"annotations": {"vm-feature-manager.io/nested-virt": DEEP}}}"#)]
    fn ten_thousand_levels_are_denied(#[case] object: &str) {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        create(&object.replace("DEEP", &deep))
            .assert_denied(&["the admission request cannot be read", "nested too deeply"]);
    }

    #[test]
    fn a_hundred_levels_are_kept() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let mut vm = vm(&[GOOD]);
        vm["spec"]["template"]["spec"]["volumes"] = serde_json::from_str(&deep).unwrap();
        let answer = Request::create(vm.clone()).evaluate();
        assert_eq!(answer.after()["spec"]["template"]["spec"]["volumes"], vm["spec"]["template"]["spec"]["volumes"]);
    }

    #[rstest]
    #[case::text("\"x\"")]
    #[case::number("1")]
    #[case::list("[]")]
    #[case::metadata(r#"{"metadata": 1, "spec": []}"#)]
    #[case::annotations(r#"{"metadata": {"annotations": [], "labels": 5, "deletionTimestamp": null}, "spec": ""}"#)]
    fn wrong_types_in_a_vm_that_asks_for_nothing_are_accepted(#[case] object: &str) {
        assert_eq!(create(object).response, json!({"accepted": true}));
    }

    #[test]
    fn wrong_types_everywhere_are_denied_feature_by_feature() {
        let wrong = [json!(null), json!(true), json!(1), json!("x"), json!([]), json!([[]])];
        for value in wrong {
            for field in ["cpu", "devices", "resources"] {
                let mut vm = bare_vm(&[
                    GOOD,
                    ("nested-virt", "enabled"),
                    ("cpu-vendor", "amd"),
                    ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#),
                ]);
                vm["spec"]["template"]["spec"]["domain"][field] = value.clone();
                let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
                let answer = Request::create(vm).settings(settings).evaluate();
                assert_eq!(answer.is_accepted(), value.is_null(), "{field}: {value}");
            }
        }
    }

    #[rstest]
    fn a_directive_of_a_megabyte_gets_a_short_answer(#[values("x", "[", "\u{e9}", "{\"devices\": [")] unit: &str) {
        for feature in names() {
            let answer = Request::create(vm(&[(feature, &unit.repeat((1 << 20) / unit.len()))])).evaluate();
            answer.assert_denied(&[feature]);
            assert!(answer.message().len() < 1024, "{feature}: {} bytes", answer.message().len());
        }
    }

    #[test]
    fn thirty_thousand_devices_and_unknown_keys_get_a_short_answer() {
        let mut vm = vm(&[("vbios-injection", "rom")]);
        let devices: Vec<_> = (0..30_000).map(|n| json!({"name": format!("d{n}"), "deviceName": "x.io/y"})).collect();
        vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = json!(devices);
        for n in 0..30_000 {
            annotate(&mut vm, &[(&format!("key{n}"), "x")]);
        }
        let answer = Request::create(vm.clone()).evaluate();
        answer.assert_denied(&["hostDevices has 30000 entries, but a guest can have at most 256 devices"]);
        assert!(answer.message().len() < 1024);
        assert_eq!(answer.warnings().len(), 1);
        annotate(&mut vm, &[("vbios-injection-error", "x")]);
        Request::update(vm.clone(), vm).evaluate().assert_accepted_unchanged();
    }

    #[test]
    fn fifty_thousand_addresses_are_too_many() {
        let devices: Vec<_> = (0..50_000).map(|n| format!("{:04x}:00:00.0", n)).collect();
        let directive = json!({"devices": devices}).to_string();
        let answer = Request::create(vm(&[("pci-passthrough", &directive)])).evaluate();
        answer.assert_denied(&["50000 host devices"]);
    }
}

/// The words that switch a feature off are the same for all.
#[rstest]
fn every_feature_can_be_switched_off(#[values("disabled", "FALSE", "no", "off", "0", "", " ")] word: &str) {
    for feature in names() {
        Request::create(vm(&[(feature, word)])).evaluate().assert_accepted_unchanged();
        let (_, example) = directives().into_iter().find(|(name, _)| *name == feature).unwrap();
        let old = vm(&[(feature, example)]);
        let answer = Request::update(old, vm(&[(feature, word)])).evaluate();
        answer.assert_accepted_unchanged();
    }
}

/// Directives under `spec.template.metadata.annotations`, where KubeVirt's own annotations are.
mod on_the_template {
    use super::*;

    fn with(on_vm: &[(&str, &str)], on_template: &[(&str, &str)]) -> Value {
        let mut vm = vm(on_vm);
        for (key, value) in on_template {
            vm["spec"]["template"]["metadata"]["annotations"][format!("{PREFIX}{key}")] = json!(value);
        }
        vm
    }

    #[test]
    fn count_beside_those_of_the_vm() {
        let answer = Request::create(with(&[GOOD], &[("nested-virt", "enabled"), ("cpu-vendor", "amd")])).evaluate();
        assert_eq!(answer.audit("applied"), "gpu-device-plugin,nested-virt");
        assert_eq!(answer.domain()["cpu"]["features"], json!([{"name": "svm", "policy": "require"}]));
    }

    #[rstest]
    #[case::the_same("nvidia.com/gpu", &[])]
    #[case::with_spaces(" nvidia.com/gpu ", &[])]
    #[case::another(
        "amd.com/gpu",
        &["the annotation vm-feature-manager.io/gpu-device-plugin is \"nvidia.com/gpu\" on the VirtualMachine, and \"amd.com/gpu\" on \
           spec.template; the first one counts"]
    )]
    fn come_after_those_of_the_vm(#[case] on_template: &str, #[case] warnings: &[&str]) {
        let answer = Request::create(with(&[GOOD], &[(GOOD.0, on_template)])).evaluate();
        assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some("nvidia.com/gpu"));
        let differ = |warning: &&str| warning.contains("the first one counts") || warning.contains("on spec.template");
        let said: Vec<_> = answer.warnings().into_iter().filter(differ).collect();
        assert_eq!(said.concat(), warnings.concat().replace("  ", " "));
    }

    /// Two words for on mean the same.
    #[rstest]
    #[case::on("enabled", "True ", true)]
    #[case::off("disabled", "0", true)]
    #[case::on_and_off("enabled", "disabled", false)]
    #[case::neither("maybe", "perhaps", false)]
    fn are_compared_by_what_they_mean(#[case] here: &str, #[case] there: &str, #[case] same: bool) {
        let settings = json!({"nestedVirtualization": {"cpuVendor": "amd", "errorHandling": "allow-and-log"}});
        let vm = with(&[("nested-virt", here)], &[("nested-virt", there)]);
        let answer = Request::create(vm).settings(settings).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(!answer.warnings().concat().contains("the first one counts"), same, "{:?}", answer.warnings());
    }

    #[test]
    fn that_are_unknown_are_a_warning() {
        let answer = Request::create(with(&[], &[("nested-vrit", "enabled")])).evaluate();
        answer.assert_accepted_unchanged();
        assert!(answer.warnings()[0].contains("did you mean vm-feature-manager.io/nested-virt?"));
    }

    #[test]
    fn that_fail_name_their_place() {
        let answer = Request::create(with(&[], &[BAD])).evaluate();
        answer.assert_denied(&["(annotation vm-feature-manager.io/pci-passthrough of spec.template: "]);
    }

    #[test]
    fn are_stripped_in_both_places() {
        let settings = json!({"pciPassthrough": {"errorHandling": "strip-label"}});
        let answer = Request::create(with(&[BAD], &[BAD])).settings(settings).evaluate();
        assert!(!answer.after().to_string().contains("vm-feature-manager.io/pci-passthrough"), "{}", answer.after());
    }

    #[test]
    fn do_not_count_where_directives_are_labels() {
        let request = Request::create(with(&[], &[GOOD])).settings(json!({"configSource": "labels"}));
        request.evaluate().assert_accepted_unchanged();
    }

    #[test]
    fn that_go_take_back_what_was_added() {
        let stored = Request::create(with(&[], &[GOOD])).evaluate().after();
        let mut new = stored.clone();
        let annotations = new.pointer_mut("/spec/template/metadata/annotations").unwrap();
        annotations.as_object_mut().unwrap().remove(&format!("{PREFIX}{}", GOOD.0));
        let answer = Request::update(stored, new).evaluate();
        assert_eq!(answer.domain()["resources"]["limits"]["nvidia.com/gpu"], Value::Null);
    }
}
