//! The user replaces the card that the policy added by another one.

use super::*;

fn t4() -> Value {
    json!({"name": "node1-000001000", "deviceName": "nvidia.com/TU104GL_TESLA_T4"})
}

#[test]
fn is_not_the_policys() {
    let mut story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]);
    let answer = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, json!([t4()]))]));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([t4(), igpu()]));
    assert!(!answer.added("pci-passthrough").unwrap().contains("T4"));
    story.vm = answer.after();
    assert_eq!(spec(&story.drop(PCI_OF_NODE).after(), HOST_DEVICES), &json!([t4()]));
}

#[test]
fn is_not_spoken_of() {
    let other = json!([{"name": "other", "deviceName": "pci_0000_03_00_0"}]);
    let story = Story::of(&[]).ask(&[PCI]).edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, other.clone())]));
    let answer = story.drop(PCI);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &other);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}
