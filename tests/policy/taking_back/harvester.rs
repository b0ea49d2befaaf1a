//! On Harvester, where devices are named after PCIDevices, and renamed after the one that the VM got.

use super::*;

#[test]
fn a_device_goes_with_its_directive() {
    let story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]);
    assert_eq!(spec(&story.vm, HOST_DEVICES), &json!([igpu()]));
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(answer.lookups, Vec::<String>::new());
}

#[test]
fn a_device_that_the_form_added_before_stays() {
    let story = Story::of(&[(HOST_DEVICES, json!([igpu()]))]).on_harvester().ask(&[PCI_OF_NODE]);
    assert_eq!(spec(&story.drop(PCI_OF_NODE).after(), HOST_DEVICES), &json!([igpu()]));
}

/// Harvester's controller names a host device after the device that was actually assigned to the VM.
fn renamed(mut story: Story) -> Story {
    story.cluster = || cluster().with_equal("node1-000000020", "node1-000007000", "0000:07:00.0");
    story.edit(|vm| {
        let mut device = igpu();
        device["name"] = json!("node1-000007000");
        *vm = with(vm.clone(), &[(HOST_DEVICES, json!([device]))]);
    })
}

#[test]
fn a_device_that_was_renamed_goes_too() {
    let story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// Harvester has written both devices of a resource under one name. Two equal entries are two devices.
#[test]
fn two_devices_that_were_renamed_alike_stay_two() {
    let story = with_both_ports();
    let first = spec(&story.vm, HOST_DEVICES)[0].clone();
    let alike = json!([first, first]);
    let mut story = story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, alike.clone())]));
    story.vm = story.update(|vm| *vm = with(vm.clone(), &[("/architecture", json!("amd64"))])).after();
    assert_eq!(spec(&story.vm, HOST_DEVICES), &alike);
    assert_eq!(record(&story.vm, BOTH_PORTS.0).unwrap()["added"].as_array().unwrap().len(), 3);
    assert_eq!(spec(&story.drop(BOTH_PORTS).after(), HOST_DEVICES), &Value::Null);
}

/// The record contains the new name.
#[test]
fn a_device_that_was_renamed_stays_as_it_is_with_its_directive() {
    let mut story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
    let devices = spec(&story.vm, HOST_DEVICES).clone();
    let cores = |n| move |vm: &mut Value| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(n))]);
    let answer = story.update(cores(2));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &devices);
    let record = answer.added("pci-passthrough").unwrap();
    assert!(record.contains(r#"{"hostDevice":"node1-000007000","resource":"#), "{record}");
    story.vm = answer.after();
    story.update(cores(4)).assert_accepted_unchanged();
}

/// The record contains the device's resource, so no lookup is needed.
#[test]
fn a_renamed_device_goes_where_pci_devices_cannot_be_listed() {
    let mut story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
    story.cluster = || cluster().without("list", &PCI_DEVICE);
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(answer.lookups, Vec::<String>::new());
}

/// Of two entries with the same resource, one belongs to the user, no matter which one is renamed.
#[rstest]
#[case::of_the_users_name("mine")]
#[case::of_harvesters_name("node1-00000a000")]
fn a_renamed_device_goes_beside_one_of_the_users(#[case] name: &str) {
    let mine = json!({"name": name, "deviceName": igpu()["deviceName"]});
    let mut ours = igpu();
    ours["name"] = json!("node1-000007000");
    let mut story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
    story.vm = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, json!([igpu(), mine]))])).after();
    let both = json!([ours, mine]);
    story.vm = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())])).after();
    assert_eq!(spec(&story.vm, HOST_DEVICES), &both);
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([mine]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// Harvester renamed the policy's device, and then the user adds the one that the directive names.
#[test]
fn a_device_of_the_users_stays_beside_a_renamed_one() {
    let mut story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
    let ours = spec(&story.vm, HOST_DEVICES)[0].clone();
    let both = json!([ours, igpu()]);
    let answer = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())]));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &both);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    story.vm = answer.after();
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([igpu()]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// The policy did not see the update that renamed the device, so it removes as many entries of the resource as it added.
#[test]
fn of_two_devices_that_may_be_the_renamed_one_goes() {
    let other = json!({"name": "node1-000008000", "deviceName": igpu()["deviceName"]});
    let story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
    let two = json!([spec(&story.vm, HOST_DEVICES)[0], other]);
    let story = story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, two.clone())]));
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([other]));
}

/// The manifest declares the user's device of the same resource, so the other one must be the policy's.
#[test]
fn a_renamed_device_goes_beside_one_that_is_declared() {
    let mine = json!({"name": "mine", "deviceName": igpu()["deviceName"]});
    let mut renamed = igpu();
    renamed["name"] = json!("node1-000007000");
    let both = json!([mine, renamed]);
    let manifest = with(bare_vm(&[]), &[(HOST_DEVICES, json!([mine]))]).to_string();
    let story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]).edit(|vm| {
        *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())]);
        vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(manifest);
    });
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([mine]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[test]
fn a_device_of_another_resource_stays_when_a_renamed_one_goes() {
    let other = json!({"name": "other", "deviceName": "example.com/other"});
    let story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
    let both = json!([spec(&story.vm, HOST_DEVICES)[0], other]);
    let story = story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())]));
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([other]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[test]
fn a_renamed_device_goes_where_something_else_is_the_users() {
    let selector = json!({"kubernetes.io/hostname": "node1"});
    let story = Story::of(&[("/nodeSelector", selector.clone())]).on_harvester();
    let answer = renamed(story.ask(&[PCI_OF_NODE])).drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(spec(&answer.after(), "/nodeSelector"), &selector);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// Two nodes that both have devices at 0000:03:00.0 and 0000:0a:00.0; only node2 has one at 0000:09:00.0.
fn of_two_nodes() -> MemoryCluster {
    let mut objects = fixtures("../../examples/harvester/cluster/cluster.yaml");
    for (node, slot) in [("node1", "0a"), ("node2", "0a"), ("node2", "09")] {
        let name = format!("{node}-0000{slot}000");
        let address = format!("0000:{slot}:00.0");
        objects.push(json!({
            "kind": "PCIDevice", "metadata": {"name": name},
            "status": {"address": address, "nodeName": node, "resourceName": "example.com/CARD"},
        }));
        objects.push(json!({
            "kind": "PCIDeviceClaim", "metadata": {"name": name},
            "status": {"passthroughEnabled": true},
        }));
    }
    MemoryCluster::of(objects)
}

fn names(vm: &Value) -> Vec<&str> {
    let devices = spec(vm, HOST_DEVICES).as_array().unwrap();
    devices.iter().map(|device| device["name"].as_str().unwrap()).collect()
}

const ONE: (&str, &str) = ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#);
const ON_NODE2: &str = r#"{"devices": ["0000:03:00.0", "0000:09:00.0"]}"#;

fn on_two_nodes(directive: (&str, &str)) -> Story {
    let mut story = Story::of(&[]).on_harvester();
    story.cluster = of_two_nodes;
    story.ask(&[directive])
}

#[test]
fn a_device_goes_to_the_node_that_has_the_other() {
    let story = on_two_nodes(("pci-passthrough", ON_NODE2));
    assert_eq!(names(&story.vm), ["node2-000003000", "node2-000009000"]);
}

#[test]
fn a_device_that_was_added_follows_to_another_node() {
    let story = on_two_nodes(ONE);
    assert_eq!(names(&story.vm), ["node1-000003000"]);
    let answer = story.update(set("pci-passthrough", ON_NODE2));
    assert_eq!(names(&answer.after()), ["node2-000003000", "node2-000009000"]);
}

#[test]
fn devices_that_were_added_stay_on_their_node() {
    let of_node2 = r#"{"devices": ["node2/0000:03:00.0", "node2/0000:0a:00.0"]}"#;
    let story = on_two_nodes(("pci-passthrough", of_node2));
    let there = ["node2-000003000", "node2-00000a000"];
    assert_eq!(names(&story.vm), there);
    let of_any = r#"{"devices": ["0000:03:00.0", "0000:0a:00.0"]}"#;
    let answer = story.update(set("pci-passthrough", of_any));
    assert_eq!(names(&answer.after()), there);
}

#[test]
fn a_users_device_that_was_renamed_stays() {
    let story = Story::of(&[(HOST_DEVICES, json!([igpu()]))]).on_harvester().ask(&[PCI_OF_NODE]);
    let story = renamed(story);
    let devices = spec(&story.vm, HOST_DEVICES).clone();
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &devices);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}
