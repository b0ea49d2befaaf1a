//! The directive changes, and what was added changes with it.

use super::*;

#[test]
fn another_vendor_replaces_the_first() {
    let mut story = Story::of(&[]);
    story.settings = json!({});
    let story = story.ask(&[NESTED, ("cpu-vendor", "amd")]);
    let answer = story.update(set("cpu-vendor", "intel"));
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([{"name": "vmx", "policy": "require"}]));
    // The VM moves to nodes of the other vendor. The CPU feature that the policy added does not count as a sign of the vendor.
    let mut story = Story::of(&[("/nodeSelector", json!({"cpu-vendor.node.kubevirt.io/AMD": "true"}))]);
    story.settings = json!({});
    let intel = json!({"cpu-vendor.node.kubevirt.io/Intel": "true"});
    let answer = story.ask(&[NESTED]).update(|vm| *vm = with(vm.clone(), &[("/nodeSelector", intel.clone())]));
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([{"name": "vmx", "policy": "require"}]));
}

#[rstest]
#[case::one_more(r#"{"devices": ["00:02.0", "03:00.0"]}"#, &[(0, "pci_0000_00_02_0"), (1, "pci_0000_03_00_0")])]
#[case::another(r#"{"devices": ["03:00.0"]}"#, &[(0, "pci_0000_03_00_0")])]
#[case::same(r#"{"devices": ["0000:00:02.0" ]}"#, &[(0, "pci_0000_00_02_0")])]
fn the_list_of_devices(#[case] value: &'static str, #[case] devices: &[(usize, &str)]) {
    let answer = Story::of(&[]).ask(&[PCI]).update(set("pci-passthrough", value));
    let devices: Vec<Value> = devices.iter().map(|(n, name)| by_address(*n, name)).collect();
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!(devices));
}

#[test]
fn devices_do_not_count_twice() {
    let mut story = Story::of(&[]);
    story.settings["pciPassthrough"]["maxDevices"] = json!(1);
    let answer = story.ask(&[PCI]).update(set("pci-passthrough", r#"{"devices": ["03:00.0"]}"#));
    assert!(answer.is_accepted(), "{}", answer.message());
}

#[test]
fn a_node_that_is_named_no_more_is_selected_no_more() {
    let story = Story::of(&[]).ask(&[PCI_OF_NODE]);
    assert_eq!(spec(&story.vm, "/nodeSelector"), &json!({"kubernetes.io/hostname": "node1"}));
    let answer = story.update(set("pci-passthrough", r#"{"devices": ["node2/00:02.0"]}"#));
    assert_eq!(spec(&answer.after(), "/nodeSelector"), &json!({"kubernetes.io/hostname": "node2"}));
    let answer = story.update(set(PCI.0, PCI.1));
    assert_eq!(spec(&answer.after(), "/nodeSelector"), &Value::Null);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), spec(&story.vm, HOST_DEVICES));
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), "/nodeSelector"), &Value::Null);
}

#[test]
fn a_node_that_the_user_selected_stays() {
    let selector = json!({"kubernetes.io/hostname": "node1"});
    let story = Story::of(&[("/nodeSelector", selector.clone())]).ask(&[PCI_OF_NODE]);
    assert_eq!(spec(&story.drop(PCI_OF_NODE).after(), "/nodeSelector"), &selector);
}

#[rstest]
#[case::more("nvidia.com/gpu=2", json!({"nvidia.com/gpu": "2"}))]
#[case::other("amd.com/gpu", json!({"amd.com/gpu": "1"}))]
fn the_limit(#[case] value: &'static str, #[case] limits: Value) {
    let answer = Story::of(&[]).ask(&[GPU]).update(set("gpu-device-plugin", value));
    assert_eq!(spec(&answer.after(), LIMITS), &limits);
}

fn gpu(n: usize) -> Value {
    json!({"name": format!("gpu-{n}"), "deviceName": "nvidia.com/gpu"})
}

#[rstest]
#[case::more("nvidia.com/gpu=3", json!([gpu(0), gpu(1), gpu(2)]))]
#[case::fewer("nvidia.com/gpu", json!([gpu(0)]))]
fn the_number_of_gpus(#[case] value: &'static str, #[case] gpus: Value) {
    let mut story = Story::of(&[]);
    story.cluster = || serving("nvidia.com/gpu");
    let story = story.ask(&[("gpu-device-plugin", "nvidia.com/gpu=2")]);
    assert_eq!(spec(&story.vm, GPUS), &json!([gpu(0), gpu(1)]));
    let answer = story.update(set("gpu-device-plugin", value));
    assert_eq!(spec(&answer.after(), GPUS), &gpus);
    assert_eq!(spec(&story.drop(GPU).after(), GPUS), &Value::Null);
}

#[test]
fn a_limit_becomes_a_device_where_kubevirt_serves_it_by_now() {
    let mut story = Story::of(&[]).ask(&[GPU]);
    story.cluster = || serving("nvidia.com/gpu");
    let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
    assert_eq!(spec(&answer.after(), LIMITS), &Value::Null);
    assert_eq!(spec(&answer.after(), GPUS), &json!([gpu(0)]));
    // It stays a device if KubeVirt's object cannot be read for the moment.
    story.vm = answer.after();
    story.cluster = MemoryCluster::default;
    let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(4))]));
    answer.assert_accepted_unchanged();
}

/// Harvester turns GPUs into host devices.
#[test]
fn a_gpu_that_became_a_host_device_is_still_the_directives() {
    let mut story = Story::of(&[]);
    story.cluster = || serving("nvidia.com/gpu");
    let story = story.ask(&[GPU]).edit(|vm| {
        let entries = [(GPUS, Value::Null), (HOST_DEVICES, json!([gpu(0)]))];
        *vm = with(vm.clone(), &entries);
    });
    let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([gpu(0)]));
    assert_eq!(
        answer.added("gpu-device-plugin").as_deref(),
        Some(r#"[{"hostDevice":"gpu-0","resource":"nvidia.com/gpu"}]"#)
    );
    assert_eq!(spec(&story.drop(GPU).after(), HOST_DEVICES), &Value::Null);
}
