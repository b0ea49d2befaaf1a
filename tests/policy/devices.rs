//! Clusters with devices, and virtual machines that ask for them, for the tests of several features.

use serde_json::{Value, json};

use super::harness::{Answer, MemoryCluster, Request, bare_vm};

/// A node that takes virtual machines.
pub fn node(name: &str) -> Value {
    let labels = json!({"kubernetes.io/hostname": name, "kubevirt.io/schedulable": "true"});
    json!({"kind": "Node", "metadata": {"name": name, "labels": labels}})
}

/// A node with this many devices of the resource.
pub fn node_with(name: &str, resource: &str, count: &str) -> Value {
    let mut node = node(name);
    node["status"]["allocatable"][resource] = json!(count);
    node
}

/// Harvester's PCIDevice of this name, such as `node1-00000e000`, and the claim that enables it.
pub fn pci(name: &str, ids: &str, group: &str, resource: &str) -> [Value; 2] {
    let (device, claim) = (pci_without_claim(name, ids, group, resource), json!({"passthroughEnabled": true}));
    let spec = json!({"userName": "admin"});
    [device, json!({"kind": "PCIDeviceClaim", "metadata": {"name": name}, "spec": spec, "status": claim})]
}

/// Harvester's PCIDevice of this name. Nobody enabled it.
pub fn pci_without_claim(name: &str, ids: &str, group: &str, resource: &str) -> Value {
    let (node, digits) = name.rsplit_once('-').unwrap();
    let (domain, rest) = digits.split_at(digits.len() - 5);
    let address = format!("{domain}:{}:{}.{}", &rest[..2], &rest[2..4], &rest[4..]);
    let (vendor, device) = ids.split_once(':').unwrap();
    let status = json!({
        "address": address, "vendorId": vendor, "deviceId": device, "classId": "0300", "iommuGroup": group,
        "nodeName": node, "resourceName": resource,
    });
    json!({"kind": "PCIDevice", "metadata": {"name": name}, "status": status})
}

/// Harvester's USBDevice of this name, such as `node1-046d-c52b-001002`. It is enabled.
pub fn usb(name: &str) -> Value {
    let [_, product, vendor, node] = name.rsplitn(4, '-').collect::<Vec<_>>()[..] else { panic!("{name}") };
    let status = json!({
        "vendorID": vendor, "productID": product, "nodeName": node, "enabled": true,
        "resourceName": format!("kubevirt.io/{name}"),
    });
    json!({"kind": "USBDevice", "metadata": {"name": name}, "status": status})
}

/// KubeVirt with the gate for host devices, and the devices that it permits.
pub fn kubevirt(permitted: Value) -> Value {
    json!({
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "harvester-system"},
        "spec": {"configuration": {
            "developerConfiguration": {"featureGates": ["HostDevices"]}, "permittedHostDevices": permitted,
        }},
    })
}

/// A VM with the directive `pci-passthrough` for these devices.
pub fn asking(devices: &[&str]) -> Value {
    bare_vm(&[("pci-passthrough", &json!({"devices": devices}).to_string())])
}

/// The VM with these entries under `hostDevices` or `gpus`.
pub fn having(mut vm: Value, list: &str, devices: Value) -> Value {
    vm["spec"]["template"]["spec"]["domain"]["devices"][list] = devices;
    vm
}

/// The VM with another value of something that no feature reads.
pub fn edited(vm: &Value) -> Value {
    let mut vm = vm.clone();
    let period = &mut vm["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    *period = json!(period.as_u64().unwrap_or(179) + 1);
    vm
}

/// The entry for a device.
pub fn entry(name: &str, resource: &str) -> Value {
    json!({"name": name, "deviceName": resource})
}

/// The answer to a new VM.
pub fn create(vm: Value, cluster: MemoryCluster) -> Answer {
    Request::create(vm).cluster(cluster).evaluate()
}

/// The answer to an update.
pub fn update(old: &Value, new: Value, cluster: MemoryCluster) -> Answer {
    Request::update(old.clone(), new).cluster(cluster).evaluate()
}

/// The entries under `hostDevices` after the mutation.
#[track_caller]
pub fn host_devices(answer: &Answer) -> Value {
    assert!(answer.is_accepted(), "{}", answer.message());
    answer.domain()["devices"]["hostDevices"].clone()
}

/// The names of the host devices after the mutation.
#[track_caller]
pub fn names(answer: &Answer) -> Vec<String> {
    let devices = host_devices(answer);
    let name = |device: &Value| device["name"].as_str().unwrap().to_owned();
    devices.as_array().map(|devices| devices.iter().map(name).collect()).unwrap_or_default()
}

/// All warnings as one text.
pub fn warnings(answer: &Answer) -> String {
    answer.warnings().join(" ")
}
