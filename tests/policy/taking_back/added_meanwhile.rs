//! Entries that the user adds while the VM has a directive stay, and do not affect the policy's entries.

use super::*;

const NIC: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0"]}"#);

/// Two equal devices.
fn nic(function: usize) -> Value {
    json!({"name": format!("node1-00000300{function}"), "deviceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION"})
}

fn gpu(name: &str) -> Value {
    json!({"name": name, "deviceName": "nvidia.com/gpu"})
}

fn setting(pointer: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |vm| *vm = with(vm.clone(), &[(pointer, value.clone())])
}

#[test]
fn a_second_device_of_the_resource() {
    let mut story = Story::of(&[]).on_harvester().ask(&[NIC]);
    let both = json!([nic(0), nic(1)]);
    let answer = story.update(setting(HOST_DEVICES, both.clone()));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &both);
    story.vm = answer.after();
    assert_eq!(spec(&story.drop(NIC).after(), HOST_DEVICES), &json!([nic(1)]));
    // The directive and its device are removed in one update.
    let answer = story.update(|vm| {
        remove(vm, NIC.0);
        setting(HOST_DEVICES, json!([nic(1)]))(vm);
    });
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([nic(1)]));
}

#[rstest]
#[case::in_front(json!([gpu("gpu-7"), gpu("gpu-0")]), json!([gpu("gpu-7")]))]
#[case::behind(json!([gpu("gpu-0"), gpu("gpu-1")]), json!([gpu("gpu-1")]))]
#[case::of_another_name(json!([gpu("gpu-0"), gpu("mine")]), json!([gpu("mine")]))]
fn a_second_gpu(#[case] both: Value, #[case] users: Value) {
    let mut story = Story::of(&[]);
    story.cluster = || serving("nvidia.com/gpu");
    let mut story = story.ask(&[GPU]);
    let answer = story.update(setting(GPUS, both.clone()));
    assert_eq!(spec(&answer.after(), GPUS), &both);
    story.vm = answer.after();
    assert_eq!(spec(&story.drop(GPU).after(), GPUS), &users);
}

/// The directive's device is gone, and the user has added another one.
#[rstest]
#[case::of_another_name("mine")]
#[case::of_a_name_like_ours("gpu-mine")]
#[case::without_a_number("gpu-")]
fn a_gpu_in_the_place_of_ours(#[case] name: &str) {
    let mut story = Story::of(&[]);
    story.cluster = || serving("nvidia.com/gpu");
    let users = json!([gpu(name)]);
    let story = story.ask(&[GPU]).edit(setting(GPUS, users.clone()));
    assert_eq!(spec(&story.drop(GPU).after(), GPUS), &users);
}

/// The user's device has another resource, but a name that the policy would give.
#[test]
fn a_gpu_of_another_resource() {
    let mut story = Story::of(&[]);
    story.cluster = || serving("nvidia.com/gpu");
    let users = json!([{"name": "gpu-0", "deviceName": "amd.com/gpu"}]);
    let story = story.ask(&[GPU]).edit(setting(GPUS, users.clone()));
    assert_eq!(spec(&story.drop(GPU).after(), GPUS), &users);
}

#[test]
fn a_gpu_beside_the_limit() {
    let mut story = Story::of(&[]).ask(&[GPU]);
    let answer = story.update(setting(GPUS, json!([gpu("gpu-0")])));
    story.vm = answer.after();
    let answer = story.drop(GPU);
    assert_eq!(spec(&answer.after(), GPUS), &json!([gpu("gpu-0")]));
    assert_eq!(spec(&answer.after(), LIMITS), &Value::Null);
}

#[test]
fn the_extension_of_the_other_vendor() {
    let vmx = json!({"name": "vmx", "policy": "require"});
    let mut story = Story::of(&[]).ask(&[NESTED]);
    story.vm = story.update(setting(CPU_FEATURES, json!([svm(), vmx]))).after();
    assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &json!([vmx]));
}

#[test]
fn a_node_selector() {
    let selector = json!({"kubernetes.io/hostname": "node1"});
    let mut story = Story::of(&[]).ask(&[PCI]);
    story.vm = story.update(setting("/nodeSelector", selector.clone())).after();
    assert_eq!(spec(&story.drop(PCI).after(), "/nodeSelector"), &selector);
}

/// Someone copies a directive and its record to a VM that already has the feature.
#[rstest]
#[case::a_record_with_the_directive(&[NESTED])]
#[case::and_the_annotation_for_people(&[NESTED, ("nested-virt-applied", "true")])]
fn a_record(#[case] pasted: &[(&str, &str)]) {
    let mut story = Story::of(&[(CPU_FEATURES, json!([svm()]))]);
    let answer = story.update(|vm| {
        annotate(vm, pasted);
        set_record(vm, &[(NESTED.0, NESTED.1, json!([{"cpuFeature": "svm"}]))]);
    });
    assert_eq!(answer.added("nested-virt"), None);
    story.vm = answer.after();
    assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &json!([svm()]));
}

/// Someone adds the user's own entry to the record.
#[test]
fn an_entry_of_the_record() {
    let aes = json!({"name": "aes", "policy": "require"});
    let mut story = Story::of(&[(CPU_FEATURES, json!([aes]))]).ask(&[NESTED]);
    let listed = json!([{"cpuFeature": "svm"}, {"cpuFeature": "aes"}]);
    story.vm = story.update(|vm| set_record(vm, &[(NESTED.0, NESTED.1, listed.clone())])).after();
    assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &json!([aes]));
}
