//! Directives of the setting `defaultDirectives`, for VirtualMachines that tools create without annotations.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Answer, Request, annotate, bare_vm, record};

/// A cluster of AMD where virtual machines in `default` get nested virtualization and pinned CPUs.
fn settings() -> Value {
    json!({
        "nestedVirtualization": {"cpuVendor": "amd"},
        "defaultDirectives": {"def*": {"nested-virt": "enabled", "cpu-pinning": "enabled"}},
    })
}

/// A virtual machine with CPUs and memory, and without annotations.
fn vm() -> Value {
    let mut vm = bare_vm(&[]);
    vm["spec"]["template"]["spec"]["domain"] = json!({"devices": {}, "cpu": {"cores": 2}, "memory": {"guest": "2Gi"}});
    vm["metadata"].as_object_mut().unwrap().remove("annotations");
    vm
}

fn evaluate(request: Request) -> Answer {
    request.settings(settings()).evaluate()
}

fn features(vm: &Value) -> &Value {
    &vm["spec"]["template"]["spec"]["domain"]["cpu"]["features"]
}

fn svm() -> Value {
    json!([{"name": "svm", "policy": "require"}])
}

#[test]
fn reach_a_new_virtual_machine() {
    let answer = evaluate(Request::create(vm()));
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.audit("applied"), "nested-virt,cpu-pinning");
    assert_eq!(features(&answer.after()), &svm());
    assert_eq!(record(&answer.after(), "nested-virt").unwrap()["value"], "enabled");
    // The directive itself is not written to the VirtualMachine.
    assert_eq!(answer.annotation("nested-virt"), None);
    evaluate(Request::create(answer.after())).assert_accepted_unchanged();
}

#[test]
fn reach_an_existing_virtual_machine_at_its_next_update() {
    let mut new = vm();
    new["spec"]["runStrategy"] = json!("Always");
    let answer = evaluate(Request::update(vm(), new));
    assert_eq!(features(&answer.after()), &svm());
    let stored = answer.after();
    let mut next = stored.clone();
    next["spec"]["runStrategy"] = json!("Halted");
    let answer = evaluate(Request::update(stored, next));
    answer.assert_accepted_unchanged();
    assert_eq!(answer.logs, Vec::<String>::new());
}

#[rstest]
#[case::off("disabled", Value::Null)]
#[case::empty("", Value::Null)]
#[case::on("yes", svm())]
fn do_not_count_where_the_virtual_machine_has_the_directive(#[case] value: &str, #[case] expected: Value) {
    let mut vm = vm();
    annotate(&mut vm, &[("nested-virt", value)]);
    let answer = evaluate(Request::create(vm));
    assert_eq!(features(&answer.after()), &expected);
    assert_eq!(answer.domain()["cpu"]["dedicatedCpuPlacement"], true);
}

/// Also for a feature whose directive is not a switch.
#[rstest]
fn of_any_feature_can_be_switched_off(#[values("disabled", "off", "false", "")] word: &str) {
    let settings = json!({"defaultDirectives": {"default": {
        "gpu-device-plugin": "nvidia.com/gpu", "hugepages": "2Mi", "vbios-injection": "igpu-rom",
        "pci-passthrough": "{\"devices\": [\"0000:00:02.0\"]}", "usb-passthrough": "{\"devices\": [\"046d:c52b\"]}",
    }}});
    let mut vm = vm();
    for name in ["gpu-device-plugin", "hugepages", "vbios-injection", "pci-passthrough", "usb-passthrough"] {
        annotate(&mut vm, &[(name, word)]);
    }
    Request::create(vm).settings(settings).evaluate().assert_accepted_unchanged();
}

#[test]
fn do_not_count_in_other_namespaces() {
    let mut vm = vm();
    vm["metadata"]["namespace"] = json!("other");
    evaluate(Request::create(vm)).assert_accepted_unchanged();
}

/// Nobody asked for it with this request, so it is accepted, in any error mode.
#[rstest]
fn that_fail_deny_nothing(
    #[values("reject", "allow-and-log", "strip-label")] mode: &str,
    #[values(true, false)] new: bool,
) {
    let mut settings = settings();
    settings["cpuPinning"] = json!({"errorHandling": mode});
    // Pinned CPUs need a number of CPUs.
    let mut vm = vm();
    vm["spec"]["template"]["spec"]["domain"]["cpu"] = json!({});
    let request = |vm: Value, old: Option<Value>| match old {
        None => Request::create(vm),
        Some(old) => Request::update(old, vm),
    };
    let mut touched = vm.clone();
    touched["spec"]["runStrategy"] = json!("Always");
    let old = (!new).then(|| vm.clone());
    let answer = request(touched.clone(), old.clone()).settings(settings.clone()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.audit("failed"), "cpu-pinning");
    assert_eq!(features(&answer.after()), &svm());
    let error = answer.annotation("cpu-pinning-error").expect("the annotation says that it was tried");
    assert!(answer.warnings().iter().any(|warning| warning.contains(&error)), "{:?}", answer.warnings());
    // The second time in the same request.
    let again = request(answer.after(), old).settings(settings.clone()).evaluate();
    assert!(again.is_accepted() && !again.is_mutated(), "{}", again.response);

    // A later change that lets it succeed.
    let mut changed = answer.after();
    changed["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = json!(2);
    let next = Request::update(answer.after(), changed.clone()).settings(settings.clone()).evaluate();
    assert_eq!(next.domain()["cpu"]["dedicatedCpuPlacement"], true);
    assert_eq!(next.annotation("cpu-pinning-error"), None);

    // And one that makes it fail again: what it added is removed.
    let mut broken = next.after();
    broken["spec"]["template"]["spec"]["domain"]["cpu"].as_object_mut().unwrap().remove("cores");
    let last = Request::update(next.after(), broken).settings(settings).evaluate();
    assert!(last.is_accepted(), "{}", last.message());
    assert_eq!(last.domain()["cpu"]["dedicatedCpuPlacement"], Value::Null);
    assert_eq!(last.annotation("cpu-pinning-error"), Some(error));
}

/// What was added goes when the setting no longer has the directive, at the next change of the VirtualMachine.
#[test]
fn that_are_removed_are_taken_back() {
    let stored = evaluate(Request::create(vm())).after();
    let mut new = stored.clone();
    new["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let settings = json!({"nestedVirtualization": {"cpuVendor": "amd"}});
    let answer = Request::update(stored, new).settings(settings).evaluate();
    let mut plain = vm();
    plain["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    assert_eq!(answer.after()["spec"], plain["spec"]);
}

/// If the directive of the VM were removed, the default would count instead.
#[test]
fn a_directive_over_a_default_is_not_stripped() {
    let mut settings = settings();
    settings["nestedVirtualization"]["errorHandling"] = json!("strip-label");
    let mut vm = vm();
    annotate(&mut vm, &[("nested-virt", "maybe")]);
    let answer = Request::create(vm).settings(settings.clone()).evaluate();
    assert_eq!(answer.annotation("nested-virt").as_deref(), Some("maybe"));
    assert!(answer.annotation("nested-virt-error").is_some());
    Request::create(answer.after()).settings(settings).evaluate().assert_accepted_unchanged();
}

#[test]
fn name_options_too() {
    let settings = json!({"defaultDirectives": {"default": "nested-virt=enabled; cpu-vendor=intel"}});
    let answer = Request::create(vm()).settings(settings).evaluate();
    assert_eq!(features(&answer.after()), &json!([{"name": "vmx", "policy": "require"}]));
    assert_eq!(record(&answer.after(), "nested-virt").unwrap()["options"], json!({"cpu-vendor": "intel"}));
}
