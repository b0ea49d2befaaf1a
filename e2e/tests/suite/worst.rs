//! Requests with which a user who may only write VirtualMachines once held a worker of policy-server for up to 29 seconds.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_testkit::{bare_vm, features, set_record};
use vmfm::cluster::Cluster;

use super::harness::{HOST, request};

/// What may be spent on such a request. The optimized engine took a millisecond of CPU time for 6 to 8 million units of
/// fuel if the machine was quiet, and for 3 to 5 million beside other programs, so these are about 200 ms.
const MOST: u64 = 1_200_000_000;

/// A record that lists an entry as often as it may, for every feature that can have it.
fn set_records(vm: &mut Value, entry: &Value) {
    let names = features::names();
    let parts: Vec<_> = names.iter().map(|name| (*name, "x", json!(vec![entry; 300]))).collect();
    set_record(vm, &parts);
}

fn domain(vm: &mut Value) -> &mut Value {
    &mut vm["spec"]["template"]["spec"]["domain"]
}

#[rstest]
#[case::sidecars_of_100_kb(|vm: &mut Value| {
    let annotations = &mut vm["spec"]["template"]["metadata"]["annotations"];
    annotations["hooks.kubevirt.io/hookSidecars"] = json!(json!(vec![1; 50_000]).to_string());
    set_records(vm, &json!({"hookSidecar": true}));
})]
#[case::sidecars_of_60_kb(|vm: &mut Value| {
    let annotations = &mut vm["spec"]["template"]["metadata"]["annotations"];
    annotations["hooks.kubevirt.io/hookSidecars"] = json!(json!(vec![1; 30_000]).to_string());
    set_records(vm, &json!({"hookSidecar": true}));
})]
#[case::host_devices_of_2_mb(|vm: &mut Value| {
    let devices = (0..40_000).map(|i| json!({"name": format!("node1-{i:09x}"), "deviceName": "example.com/x"}));
    domain(vm)["devices"]["hostDevices"] = devices.collect();
    set_records(vm, &json!({"hostDevice": "node1-0000000000", "resource": "example.com/x"}));
})]
#[case::as_many_host_devices_as_a_guest_can_have(|vm: &mut Value| {
    let devices = (0..256).map(|i| json!({"name": format!("node1-{i:09x}"), "deviceName": "example.com/x"}));
    domain(vm)["devices"]["hostDevices"] = devices.collect();
    set_records(vm, &json!({"hostDevice": "node1-00fffff00", "resource": "example.com/x"}));
})]
#[case::cpu_features_of_1_mb(|vm: &mut Value| {
    domain(vm)["cpu"]["features"] = json!(vec![json!({"name": "x", "policy": "require"}); 40_000]);
    set_records(vm, &json!({"cpuFeature": "svm"}));
})]
#[case::node_selector_of_1_mb(|vm: &mut Value| {
    let selector = (0..50_000).map(|i| (format!("example.com/{i:06}"), json!("x")));
    vm["spec"]["template"]["spec"]["nodeSelector"] = Value::Object(selector.collect());
    set_records(vm, &json!({"nodeSelector": "node1"}));
})]
#[case::limits_of_1_mb(|vm: &mut Value| {
    let limits = (0..50_000).map(|i| (format!("example.com/{i:06}"), json!("1")));
    domain(vm)["resources"]["limits"] = Value::Object(limits.collect());
    set_records(vm, &json!({"limit": "example.com/x", "value": "1"}));
})]
#[case::keys_of_the_policy_of_1_mb(|vm: &mut Value| {
    for i in 0..25_000 {
        vm["metadata"]["annotations"][format!("vm-feature-manager.io/x{i:06}")] = json!("x");
    }
})]
#[case::a_directive_of_1_mb(|vm: &mut Value| {
    let value = json!({"devices": vec!["0000:00:02.0"; 60_000]}).to_string();
    vm["metadata"]["annotations"]["vm-feature-manager.io/pci-passthrough"] = json!(value);
})]
#[case::words_of_1_mb(|vm: &mut Value| {
    vm["metadata"]["annotations"]["vm-feature-manager.io/pci-passthrough"] = json!("a:b c ".repeat(160_000));
})]
fn a_forged_record_does_not_hold_a_worker(#[case] fill: fn(&mut Value)) {
    let settings = features::in_every_section(json!({}), "errorHandling", "allow-and-log");
    let mut bare = bare_vm(&[]);
    fill(&mut bare);
    let mut asking = bare_vm(&features::directives());
    fill(&mut asking);
    let requests = [(&bare, None), (&asking, None), (&asking, Some(&bare)), (&bare, Some(&asking))];
    for (number, (object, old)) in requests.into_iter().enumerate() {
        let payload = json!({"request": request(object.clone(), old.cloned()), "settings": settings}).to_string();
        let fuel = HOST.with_cluster(Cluster::default()).measure("validate", payload.as_bytes()).unwrap().fuel;
        let bytes = payload.len();
        // An update has the VirtualMachine twice.
        let most = if old.is_some() { MOST * 2 } else { MOST };
        assert!(fuel <= most, "request {number} of {bytes} bytes: {fuel} units of fuel");
    }
}

const CARD: &str = "nvidia.com/TU104GL";

/// Two nodes with as many equal cards, all enabled.
fn cards(count: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for (node, card) in ["node1", "node2"].into_iter().flat_map(|node| (0..count).map(move |card| (node, card))) {
        let (name, address) = (format!("{node}-0000{card:02x}000"), format!("0000:{card:02x}:00.0"));
        cluster.add(json!({
            "apiVersion": "devices.harvesterhci.io/v1beta1", "kind": "PCIDevice", "metadata": {"name": name},
            "status": {
                "address": address, "vendorId": "10de", "deviceId": "1eb8", "nodeName": node, "resourceName": CARD,
                "iommuGroup": card.to_string(),
            },
        }));
        cluster.add(json!({
            "apiVersion": "devices.harvesterhci.io/v1beta1", "kind": "PCIDeviceClaim", "metadata": {"name": name},
            "spec": {"address": address, "nodeName": node}, "status": {"passthroughEnabled": true},
        }));
    }
    cluster
}

fn vm_with(devices: &[String], names: impl Iterator<Item = String>) -> Value {
    let mut vm = bare_vm(&[("pci-passthrough", &json!({"devices": devices}).to_string())]);
    domain(&mut vm)["devices"]["hostDevices"] = names.map(|name| json!({"name": name, "deviceName": CARD})).collect();
    vm
}

fn assert_is_quick(object: Value, old: Option<Value>, cluster: Cluster) {
    let settings = json!({"pciPassthrough": {"maxDevices": 256}});
    let payload = json!({"request": request(object, old), "settings": settings}).to_string();
    let fuel = HOST.with_cluster(cluster).measure("validate", payload.as_bytes()).unwrap().fuel;
    assert!(fuel <= MOST, "{fuel} units of fuel");
}

/// Harvester may have renamed each of the devices that are there, so each is compared with each that the directive names.
#[test]
fn devices_that_may_have_been_renamed_do_not_hold_a_worker() {
    let devices = vec!["10de:1eb8".to_owned(); 128];
    let mut old = vm_with(&devices, (0..128).map(|i| format!("node1-0000{i:02x}001")));
    set_record(&mut old, &[("pci-passthrough", &json!({"devices": devices}).to_string(), json!([]))]);
    let mut new = old.clone();
    domain(&mut new)["cpu"] = json!({"cores": 3});
    assert_is_quick(new, Some(old), cards(1));
}

/// Each device is compared with all that are equal to it.
#[rstest]
#[case::by_address("")]
#[case::on_a_node("node1/")]
fn many_equal_devices_do_not_hold_a_worker(#[case] node: &str) {
    let devices: Vec<_> = (0..120).map(|card| format!("{node}0000:{card:02x}:00.0")).collect();
    assert_is_quick(vm_with(&devices, (0..120).map(|i| format!("gpu-{i}"))), None, cards(120));
}
