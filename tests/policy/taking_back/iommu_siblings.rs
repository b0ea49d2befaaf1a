//! Harvester adds the devices that share an IOMMU group with those of a new VirtualMachine.

use super::super::devices::pci;
use super::*;

const CARD: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:01:00.0"]}"#);
const BOTH: &str = r#"{"devices": ["node1/0000:01:00.0", "node1/0000:03:00.0"]}"#;

fn card() -> Value {
    json!({"name": "node1-000001000", "deviceName": "nvidia.com/TU104GL_TESLA_T4"})
}

fn audio() -> Value {
    json!({"name": "node1-000001001", "deviceName": "nvidia.com/TU104_HD_AUDIO_CONTROLLER"})
}

fn other() -> Value {
    json!({"name": "node1-000003000", "deviceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION"})
}

/// A VM that was created with the directive. Harvester added the sibling.
fn created(entries: &[Value]) -> Story {
    let before = entries.to_vec();
    let mut story = Story::of(&[]).on_harvester();
    if !before.is_empty() {
        story.vm = with(story.vm, &[(HOST_DEVICES, json!(before))]);
    }
    let story = story.create(&[CARD]);
    story.edit(|vm| {
        let mut devices = spec(vm, HOST_DEVICES).as_array().unwrap().clone();
        if !devices.contains(&audio()) {
            devices.push(audio());
        }
        *vm = with(vm.clone(), &[(HOST_DEVICES, json!(devices))]);
    })
}

#[test]
fn go_with_their_device() {
    let answer = created(&[]).drop(CARD);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    assert!(answer.lookups.contains(&"list PCIDevice".to_owned()), "{:?}", answer.lookups);
}

#[test]
fn go_when_the_directive_names_another_device() {
    let answer = created(&[]).update(set("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0"]}"#));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([other()]));
    let answer = created(&[]).update(set("pci-passthrough", r#"{"devices": ["node2/0000:00:02.0"]}"#));
    assert_eq!(spec(&answer.after(), "/domain/devices/hostDevices/0/name"), "node2-000000020");
    assert_eq!(spec(&answer.after(), "/domain/devices/hostDevices/1"), &Value::Null);
}

#[test]
fn go_when_the_directive_fails() {
    let story = created(&[]).allowing_failures();
    let answer = story.update(set("pci-passthrough", "nonsense"));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
}

#[test]
fn stay_while_their_device_stays() {
    let answer = created(&[]).update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
    answer.assert_accepted_unchanged();
    let answer = created(&[]).update(set("pci-passthrough", BOTH));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([card(), audio(), other()]));
}

#[test]
fn stay_with_a_warning_where_pci_devices_cannot_be_listed() {
    let mut story = created(&[]);
    story.cluster = || cluster().without("list", &PCI_DEVICE);
    let answer = story.drop(CARD);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
    let warning = answer.warnings().join(" ");
    let start = "pci-passthrough: the host devices node1-000001001 stay: Harvester may have added them with one that is removed,";
    assert!(warning.starts_with(start), "{warning}");
    assert!(warning.contains("run: kubectl create clusterrolebinding"), "{warning}");
}

/// The card was pulled out, or the groups are others since the last upgrade of the host.
#[rstest]
#[case::the_card_is_gone(|| cluster().without_object("PCIDevice", "node1-000001000"))]
#[case::both_are_gone(|| {
    cluster().without_object("PCIDevice", "node1-000001000").without_object("PCIDevice", "node1-000001001")
})]
#[case::another_group(|| {
    let mut cluster = cluster();
    cluster.object("PCIDevice", "node1-000001001")["status"]["iommuGroup"] = json!("99");
    cluster
})]
fn stay_with_a_warning_where_their_group_is_not_known_any_more(#[case] cluster: fn() -> MemoryCluster) {
    let mut story = created(&[]);
    story.cluster = cluster;
    let answer = story.drop(CARD);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
    assert_eq!(
        answer.warnings(),
        [
            "pci-passthrough: the host devices node1-000001001 stay: Harvester may have added them with one that is removed, but that \
          is not certain; if nobody else added them, remove them"
        ]
    );
}

#[test]
fn go_with_their_device_alone() {
    let created = || created(&[]).update(set("pci-passthrough", BOTH)).after();
    for (stays, devices) in [
        (r#"{"devices": ["node1/0000:01:00.0"]}"#, json!([card(), audio()])),
        (r#"{"devices": ["node1/0000:03:00.0"]}"#, json!([other()])),
    ] {
        let mut story = Story::of(&[]).on_harvester();
        story.vm = created();
        let answer = story.update(set("pci-passthrough", stays));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &devices);
    }
}

#[test]
fn are_none_where_harvester_is_gone() {
    let mut story = created(&[]);
    story.cluster = || cluster().failing(&PCI_DEVICE, ClusterError::KindNotServed);
    let answer = story.drop(CARD);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[test]
fn stay_where_the_manifest_declares_them() {
    let manifest = with(bare_vm(&[CARD]), &[(HOST_DEVICES, json!([audio()]))]).to_string();
    let story = created(&[]);
    let answer = story.update(|vm| {
        remove(vm, CARD.0);
        vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(manifest);
    });
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
}

#[test]
fn stay_where_the_user_had_them_before_the_directive() {
    let answer = created(&[audio()]).drop(CARD);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// Another directive added the device, and Harvester renamed it after the function that the VM used.
#[test]
fn stay_where_another_directive_added_them() {
    let resource = "nvidia.com/TU104_HD_AUDIO_CONTROLLER";
    let added = json!([{"hostDevice": "node1-000001001", "resource": resource}]);
    let mut story = created(&[]).edit(|vm| {
        annotate(vm, &[("gpu-device-plugin", resource), ("gpu-device-plugin-applied", resource)]);
        let card = record(vm, CARD.0).unwrap()["added"].clone();
        set_record(vm, &[(CARD.0, CARD.1, card), ("gpu-device-plugin", resource, added.clone())]);
    });
    story.settings["gpuDevicePlugin"]["allowedPlugins"] = json!([resource]);
    let answer = story.drop(CARD);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
    assert_eq!(answer.added("gpu-device-plugin"), Some(added.to_string()));
}

/// A second card with the same functions, on this node.
fn with_second_card(node: &str) -> MemoryCluster {
    let function = |function: &str, ids: &str, like: Value| {
        let resource = like["deviceName"].as_str().unwrap().to_owned();
        pci(&format!("{node}-00000900{function}"), ids, "90", &resource)
    };
    let functions = [function("0", "10de:1eb8", card()), function("1", "10de:10f8", audio())];
    functions.into_iter().flatten().fold(cluster(), MemoryCluster::with)
}

/// The VM was given the second card when it started, so Harvester has renamed the entries.
fn renamed(story: Story, renames: &[(&str, &str)]) -> Story {
    let mut story = story;
    let answer = story.update(|vm| {
        for device in vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"].as_array_mut().unwrap() {
            if let Some((_, after)) = renames.iter().find(|(before, _)| device["name"] == *before) {
                device["name"] = json!(after);
            }
        }
    });
    story.vm = answer.after();
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    story
}

const RENAMED: &[(&str, &str)] = &[("node1-000001000", "node1-000009000"), ("node1-000001001", "node1-000009001")];
const ON_NODE2: &[(&str, &str)] = &[("node1-000001000", "node2-000009000"), ("node1-000001001", "node2-000009001")];

/// By vendor and product, so that the card may be another one, also on another node.
const ANY_CARD: (&str, &str) = ("pci-passthrough", r#"{"devices": ["10de:1eb8"]}"#);

fn created_with_any_card(cluster: fn() -> MemoryCluster) -> Story {
    let mut story = Story::of(&[]).on_harvester();
    story.cluster = cluster;
    let story = story.create(&[ANY_CARD]);
    story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, json!([card(), audio()]))]))
}

#[rstest]
#[case::to_another_card(|| with_second_card("node1"), RENAMED)]
#[case::to_another_node(|| with_second_card("node2"), ON_NODE2)]
fn go_with_a_device_that_was_renamed(#[case] cluster: fn() -> MemoryCluster, #[case] renames: &[(&str, &str)]) {
    let story = renamed(created_with_any_card(cluster), renames);
    let answer = story.drop(ANY_CARD);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    let answer = story.update(set("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0"]}"#));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([other()]));
}

/// The directive names the whole card now.
#[rstest]
#[case::slot(r#"{"devices": ["node1/0000:01:00.*"]}"#)]
#[case::both(r#"{"devices": ["node1/0000:01:00.1", "node1/0000:01:00.0"]}"#)]
fn of_a_device_that_was_renamed_are_found(#[case] directive: &'static str, #[values("harvester", "policy")] who: &str) {
    let cluster = || {
        let claim = json!({"passthroughEnabled": true});
        let name = "node1-000001001";
        with_second_card("node1").with(json!({"kind": "PCIDeviceClaim", "metadata": {"name": name}, "status": claim}))
    };
    let mut story = Story::of(&[]).on_harvester();
    story.cluster = cluster;
    let mut story = match who {
        // Harvester adds siblings only to a new VM.
        "policy" => story.ask_of_an_old_vm(CARD),
        _ => Story { cluster, ..created(&[]) },
    };
    story.cluster = cluster;
    let story = renamed(story, RENAMED);
    let answer = story.update(set("pci-passthrough", directive));
    let names: Vec<_> =
        spec(&answer.after(), HOST_DEVICES).as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, ["node1-000009000", "node1-000009001"]);
}

/// A device that the user had before the directive was renamed, too.
#[test]
fn of_the_users_stay_when_all_were_renamed() {
    let mut story = created(&[audio()]);
    story.cluster = || with_second_card("node1");
    let story = renamed(story, RENAMED);
    let answer = story.drop(CARD);
    assert_eq!(spec(&answer.after(), "/domain/devices/hostDevices/0/name"), "node1-000009001");
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// Kubernetes gave the VM the card's first function, and the second one of another card.
#[test]
fn stay_with_a_warning_if_they_alone_were_renamed() {
    let mut story = created(&[]);
    story.cluster = || with_second_card("node1");
    let story = renamed(story, &RENAMED[1..]);
    let answer = story.drop(CARD);
    assert_eq!(spec(&answer.after(), "/domain/devices/hostDevices/0/name"), "node1-000009001");
    let warnings = answer.warnings().join(" ");
    assert!(warnings.contains("the host devices node1-000009001 stay: Harvester may have added them"), "{warnings}");
}

/// The request that removes the directive adds the sibling.
#[test]
fn stay_where_the_user_adds_them_in_place_of_the_directive() {
    let story = Story::of(&[]).on_harvester().create(&[CARD]);
    let answer = story.update(|vm| {
        remove(vm, CARD.0);
        *vm = with(vm.clone(), &[(HOST_DEVICES, json!([card(), audio()]))]);
    });
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// The user adds a device while the VM has the directive.
#[test]
fn stay_where_the_user_added_them_since() {
    let mut story = Story::of(&[]).on_harvester().create(&[CARD]);
    let both = json!([card(), audio()]);
    story.vm = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())])).after();
    assert_eq!(spec(&story.drop(CARD).after(), HOST_DEVICES), &json!([audio()]));
}

#[test]
fn of_no_device_of_ours_stay() {
    let story = created(&[]).edit(|vm| {
        let devices = json!([card(), audio(), other()]);
        *vm = with(vm.clone(), &[(HOST_DEVICES, devices)]);
    });
    assert_eq!(spec(&story.drop(CARD).after(), HOST_DEVICES), &json!([other()]));
}
