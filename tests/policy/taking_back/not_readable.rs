//! If a lookup fails for the moment, existing entries do not change.

use super::*;

fn cores(vm: &mut Value) {
    *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]);
}

#[rstest]
#[case::not_granted(|| cluster().without("list", &PCI_DEVICE))]
#[case::not_served(|| cluster().failing(&PCI_DEVICE, ClusterError::KindNotServed))]
fn harvesters_devices(#[case] cluster: fn() -> MemoryCluster) {
    let mut story = Story::of(&[]).on_harvester();
    story.settings["pciPassthrough"] = json!({"deviceNames": "auto"});
    let mut story = story.create(&[("pci-passthrough", r#"{"devices": ["0000:01:00.0"]}"#)]);
    story.cluster = cluster;
    story.update(cores).assert_accepted_unchanged();
    // If the cluster has Harvester, the policy does not add a new device under a name made of its address.
    let answer = story.update(set("pci-passthrough", r#"{"devices": ["0000:01:00.0", "0000:03:00.0"]}"#));
    answer.assert_denied(&["PCI devices cannot be looked up"]);
}

#[test]
fn a_device_that_harvester_renames() {
    let mut story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]);
    story.cluster = || cluster().without("list", &PCI_DEVICE);
    let mut device = igpu();
    device["name"] = json!("node1-000007000");
    let renamed = with(story.vm.clone(), &[(HOST_DEVICES, json!([device]))]);
    story.vm = story.update(|vm| *vm = renamed.clone()).after();
    assert_eq!(spec(&story.vm, HOST_DEVICES), &json!([device]));
    let answer = story.drop(PCI_OF_NODE);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}
