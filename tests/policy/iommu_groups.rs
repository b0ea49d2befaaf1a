//! The devices of an IOMMU group go to a guest together. Harvester adds the others of a group to a new VM, but once for each
//! that is there, none beside a device that is no PCI device, and none in an update; then the policy adds them.
//! Source: `harvester/pcidevices`, `pkg/webhook/vm.go:91-143`.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::PCI_DEVICE;

use super::devices::{
    asking, create, edited, entry, having, host_devices, kubevirt, names, node, pci, pci_without_claim, update, usb,
    warnings,
};
use super::harness::{MemoryCluster, Request, annotate, bare_vm};

const CARD: [(&str, &str, &str); 4] = [
    ("node1-00000e000", "10de:1e07", "nvidia.com/TU102_GEFORCE_RTX_2080_TI"),
    ("node1-00000e001", "10de:10f7", "nvidia.com/TU102_HIGH_DEFINITION_AUDIO_CONTROLLER"),
    ("node1-00000e002", "10de:1ad6", "nvidia.com/TU102_USB_3_1_HOST_CONTROLLER"),
    ("node1-00000e003", "10de:1ad7", "nvidia.com/TU102_USB_TYPE_C_UCSI_CONTROLLER"),
];
const T4: &str = "nvidia.com/TU104GL_TESLA_T4";
const KEY: &str = "node1-1050-0407-001003";

/// A card of four functions in one IOMMU group, with claims for the first ones; another card and a security key.
fn cluster(claimed: usize) -> MemoryCluster {
    let mut objects = vec![node("node1"), usb(KEY)];
    // policy-server lists objects in no order.
    for (index, (name, ids, resource)) in CARD.into_iter().enumerate().rev() {
        let [device, claim] = pci(name, ids, "15", resource);
        objects.push(device);
        objects.extend(Some(claim).filter(|_| index < claimed));
    }
    objects.extend(pci("node1-000041000", "10de:1eb8", "30", T4));
    let permit = |(_, ids, resource)| json!({"pciVendorSelector": ids, "resourceName": resource});
    let permitted: Vec<Value> = CARD.into_iter().chain([("", "10de:1eb8", T4)]).map(permit).collect();
    let key = json!([{"resourceName": format!("kubevirt.io/{KEY}")}]);
    objects.push(kubevirt(json!({"pciHostDevices": permitted, "usb": key})));
    MemoryCluster::of(objects)
}

fn card() -> Vec<&'static str> {
    CARD.into_iter().map(|(name, ..)| name).collect()
}

fn of(index: usize) -> Value {
    let (name, _, resource) = CARD[index];
    entry(name, resource)
}

#[rstest]
#[case::one(&["0e:00.0"], &[0])]
#[case::two(&["0e:00.0", "0e:00.1"], &[0, 1, 2, 3])]
#[case::two_others(&["0e:00.3", "0e:00.1"], &[3, 1, 0, 2])]
#[case::two_by_ids(&["10de:1e07", "10de:10f7"], &[0, 1, 2, 3])]
#[case::all(&["0e:00.0", "0e:00.1", "0e:00.2", "0e:00.3"], &[0, 1, 2, 3])]
#[case::slot(&["0e:00.*"], &[0, 1, 2, 3])]
fn of_a_new_vm_are_added_once(
    #[case] devices: &[&str],
    #[case] expected: &[usize],
    #[values("", "node1/")] node: &str,
) {
    let devices: Vec<String> = devices.iter().map(|device| format!("{node}{device}")).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let answer = create(asking(&devices), cluster(4));
    let expected: Vec<Value> = expected.iter().map(|index| of(*index)).collect();
    assert_eq!(host_devices(&answer), json!(expected));
    assert_eq!(warnings(&answer), "");
    // All that the policy added is its own.
    let added = answer.added("pci-passthrough").unwrap();
    assert!(expected.iter().all(|entry| added.contains(entry["name"].as_str().unwrap())), "{added}");
    create(answer.after(), cluster(4)).assert_accepted_unchanged();
}

/// Each VM has, or asks for, something beside the card because of which Harvester does not add the card's other functions.
#[rstest]
#[case::usb_directive(&[("usb-passthrough", r#"{"devices": ["1050:0407"]}"#)], json!(null))]
#[case::gpu_directive(&[("gpu-device-plugin", T4)], json!(null))]
#[case::usb_device(&[], json!([entry(KEY, "kubevirt.io/node1-1050-0407-001003")]))]
#[case::device_under_another_name(&[], json!([entry("t4", T4)]))]
#[case::device_that_harvester_does_not_know(&[], json!([entry("node1-000099000", T4)]))]
#[case::second_function(&[], json!([of(1)]))]
fn of_a_new_vm_are_added_where_harvester_does_not(#[case] directives: &[(&str, &str)], #[case] devices: Value) {
    let count = devices.as_array().map_or(0, Vec::len);
    let mut vm = having(asking(&["0e:00.0"]), "hostDevices", devices);
    annotate(&mut vm, directives);
    let answer = create(vm, cluster(4));
    let names = names(&answer);
    assert!(card().iter().all(|name| names.iter().filter(|it| it == name).count() == 1), "{names:?}");
    assert_eq!(names[count], "node1-00000e000");
    assert_eq!(warnings(&answer), "");
}

/// The user has an entry for one of the functions under another name, so that function is not missing.
#[test]
fn that_the_user_has_under_another_name_are_there() {
    let function = |name: &str| pci(name, "8086:1521", "15", T4);
    let objects = [vec![node("node1")], function("node1-00000e000").to_vec(), function("node1-00000e001").to_vec()];
    let vm = having(asking(&["0e:00.*"]), "hostDevices", json!([entry("mine", T4)]));
    assert_eq!(names(&create(vm, MemoryCluster::of(objects.concat()))), ["mine", "node1-00000e001"]);
}

/// The policy leaves them to Harvester, which also makes claims for them.
mod of_a_new_vm_that_harvester_adds {
    use super::*;

    #[rstest]
    #[case::beside_another_card(&["0e:00.0", "41:00.0"], json!(null))]
    #[case::beside_a_card_that_the_user_wrote(&["0e:00.0"], json!([entry("node1-000041000", T4)]))]
    #[case::of_a_card_that_the_user_wrote_and_the_directive_names(&["0e:00.0", "41:00.0"], json!([of(0)]))]
    fn are_left_to_it(#[case] devices: &[&str], #[case] there: Value) {
        let answer = create(having(asking(devices), "hostDevices", there), cluster(1));
        let mut names = names(&answer);
        names.sort();
        assert_eq!(names, ["node1-00000e000", "node1-000041000"]);
        assert_eq!(warnings(&answer), "");
    }

    /// It makes host devices of GPUs only afterwards.
    #[rstest]
    #[case::vgpu(entry("vgpu1", T4))]
    #[case::another_card(entry("node1-000041000", T4))]
    fn are_left_to_it_beside_a_gpu(#[case] gpu: Value) {
        let answer = create(having(asking(&["0e:00.0"]), "gpus", json!([gpu])), cluster(1));
        assert_eq!(names(&answer), ["node1-00000e000"]);
        assert_eq!(warnings(&answer), "");
    }

    /// A directive that adds no host device does not count.
    #[rstest]
    #[case::usb_off("usb-passthrough", "disabled", json!({}))]
    #[case::gpu_off("gpu-device-plugin", "", json!({}))]
    #[case::usb_off_in_the_settings(
        "usb-passthrough", r#"{"devices": ["1050:0407"]}"#, json!({"usbPassthrough": {"enabled": false}})
    )]
    #[case::gpu_off_in_the_settings("gpu-device-plugin", T4, json!({"gpuDevicePlugin": {"enabled": false}}))]
    fn are_left_to_it_beside_a_directive_that_is_off(
        #[case] directive: &str,
        #[case] value: &str,
        #[case] settings: Value,
    ) {
        let mut vm = asking(&["0e:00.0"]);
        annotate(&mut vm, &[(directive, value)]);
        let answer = Request::create(vm).settings(settings).cluster(cluster(1)).evaluate();
        assert_eq!(names(&answer), ["node1-00000e000"]);
    }
}

/// Harvester would have made claims for them. The policy cannot.
#[rstest]
#[case::one(3, &["0e:00.0", "0e:00.1"], &[], "node1-00000e003")]
#[case::two(2, &["0e:00.0", "0e:00.1"], &[], "node1-00000e002, node1-00000e003")]
#[case::three_beside_a_gpu(
    1, &["0e:00.0"], &[("gpu-device-plugin", T4)], "node1-00000e001, node1-00000e002, node1-00000e003"
)]
fn that_are_not_enabled_are_a_warning(
    #[case] claimed: usize,
    #[case] devices: &[&str],
    #[case] others: &[(&str, &str)],
    #[case] listed: &str,
) {
    let mut vm = asking(devices);
    annotate(&mut vm, others);
    let answer = create(vm, cluster(claimed));
    assert_eq!(names(&answer)[..4], card());
    let warning = warnings(&answer);
    assert!(warning.starts_with("pci-passthrough: these PCI devices share an IOMMU group with one that"), "{warning}");
    assert!(warning.ends_with(&format!("enable them in Harvester: {listed}")), "{warning}");
}

#[test]
fn of_another_node_do_not_count() {
    let objects = [
        [node("node1"), node("node2")].to_vec(),
        pci("node1-00000e000", "10de:1e07", "15", CARD[0].2).to_vec(),
        pci("node2-00000e001", "10de:10f7", "15", CARD[1].2).to_vec(),
    ];
    let answer = update(&bare_vm(&[]), asking(&["0e:00.0"]), MemoryCluster::of(objects.concat()));
    assert_eq!(names(&answer), ["node1-00000e000"]);
}

/// Without IOMMU, the group of each device is empty.
#[test]
fn are_none_without_groups() {
    let device = |name, ids| pci(name, ids, "", CARD[0].2);
    let objects = [device("node1-00000e000", "10de:1e07"), device("node1-00000e001", "10de:10f7")].concat();
    let answer =
        update(&bare_vm(&[]), asking(&["0e:00.0"]), MemoryCluster::of([vec![node("node1")], objects].concat()));
    assert_eq!(names(&answer), ["node1-00000e000"]);
}

#[test]
fn count_toward_the_most() {
    let settings = json!({"pciPassthrough": {"maxDevices": 3}});
    let request = Request::create(asking(&["0e:00.0", "0e:00.1"])).settings(settings);
    request.cluster(cluster(4)).evaluate().assert_denied(&["would have 4 host devices", "allows 3"]);
}

/// KubeVirt starts the VM only if it permits all of them.
#[test]
fn must_be_permitted_too() {
    let mut cluster = cluster(4);
    let kubevirt = &mut cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"];
    kubevirt["pciHostDevices"].as_array_mut().unwrap().truncate(3);
    let answer = create(asking(&["0e:00.0", "0e:00.1"]), cluster);
    assert_eq!(names(&answer), card());
    let part = format!("permittedHostDevices of the KubeVirt object does not list {}, so", CARD[3].2);
    assert!(warnings(&answer).contains(&part), "{:?}", answer.warnings());
}

#[test]
fn must_be_allowed_too() {
    let settings = json!({"pciPassthrough": {"allowedDevices": {"default": ["0000:0e:00.0", "0000:0e:00.1"]}}});
    let request = Request::create(asking(&["0e:00.0", "0e:00.1"])).settings(settings);
    request
        .cluster(cluster(4))
        .evaluate()
        .assert_denied(&["the group of 0000:0e:00.0, 0000:0e:00.1 has one that the VirtualMachine may not have"]);
}

mod in_an_update {
    use super::*;

    fn stored() -> Value {
        let answer = update(&bare_vm(&[]), asking(&["0e:00.0"]), cluster(4));
        assert_eq!(names(&answer), card());
        answer.after()
    }

    fn asking_now(devices: &[&str]) -> Value {
        let mut vm = stored();
        annotate(&mut vm, &[("pci-passthrough", &json!({"devices": devices}).to_string())]);
        vm
    }

    #[test]
    fn are_added_with_their_device() {
        let answer = update(&bare_vm(&[]), asking(&["0e:00.0"]), cluster(2));
        assert_eq!(names(&answer), card());
        assert!(warnings(&answer).ends_with("node1-00000e002, node1-00000e003"), "{:?}", answer.warnings());
    }

    #[test]
    fn stay_as_long_as_their_device() {
        let answer = update(&stored(), edited(&stored()), cluster(4));
        assert_eq!(names(&answer), card());
        assert_eq!(warnings(&answer), "");
        let answer = update(&stored(), asking_now(&["0e:00.0", "41:00.0"]), cluster(4));
        let mut expected = card();
        expected.push("node1-000041000");
        let mut names = names(&answer);
        names.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn go_with_the_directive() {
        let mut new = stored();
        new["metadata"]["annotations"] = json!({});
        let answer = update(&stored(), new, cluster(4));
        assert_eq!(answer.after()["spec"], bare_vm(&[])["spec"]);
        assert_eq!(warnings(&answer), "");
    }

    #[rstest]
    #[case::another_device(&["41:00.0"], &["node1-000041000"])]
    #[case::another_function(&["0e:00.1"], &["node1-00000e001", "node1-00000e000", "node1-00000e002", "node1-00000e003"])]
    fn follow_the_directive(#[case] devices: &[&str], #[case] expected: &[&str]) {
        let mut names = names(&update(&stored(), asking_now(devices), cluster(4)));
        let mut expected = expected.to_vec();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn go_with_their_device_alone() {
        let both = update(&stored(), asking_now(&["0e:00.0", "41:00.0"]), cluster(4)).after();
        let mut new = both.clone();
        annotate(&mut new, &[("pci-passthrough", r#"{"devices": ["0e:00.0"]}"#)]);
        assert_eq!(names(&update(&both, new.clone(), cluster(4))), card());
        annotate(&mut new, &[("pci-passthrough", r#"{"devices": ["41:00.0"]}"#)]);
        assert_eq!(names(&update(&both, new, cluster(4))), ["node1-000041000"]);
    }

    /// The group of what the policy added is known without the list.
    #[test]
    fn stay_where_devices_may_not_be_listed() {
        let on_node = update(&bare_vm(&[]), asking(&["node1/0e:00.0"]), cluster(4)).after();
        let answer = update(&on_node, edited(&on_node), cluster(4).without("list", &PCI_DEVICE));
        assert_eq!(names(&answer), card());
        let mut new = on_node.clone();
        annotate(&mut new, &[("pci-passthrough", r#"{"devices": ["node1/41:00.0"]}"#)]);
        let answer = update(&on_node, new, cluster(4).without("list", &PCI_DEVICE));
        assert_eq!(names(&answer), ["node1-000041000"]);
    }

    #[test]
    fn of_the_users_stay_theirs() {
        let old = having(bare_vm(&[]), "hostDevices", json!([of(1)]));
        let answer = update(&old, having(asking(&["0e:00.0"]), "hostDevices", json!([of(1)])), cluster(4));
        assert_eq!(names(&answer)[0], "node1-00000e001");
        assert_eq!(names(&answer).len(), 4);
        assert!(!answer.added("pci-passthrough").unwrap().contains("\"node1-00000e001\",\"resource\""));
        let mut new = answer.after();
        new["metadata"]["annotations"] = json!({});
        assert_eq!(names(&update(&answer.after(), new, cluster(4))), ["node1-00000e001"]);
    }

    /// Harvester has them under `gpus` before it makes host devices of these.
    #[test]
    fn under_gpus_are_there() {
        let old = having(bare_vm(&[]), "gpus", json!([of(1)]));
        let answer = update(&old, having(asking(&["0e:00.0"]), "gpus", json!([of(1)])), cluster(4));
        assert_eq!(names(&answer), ["node1-00000e000", "node1-00000e002", "node1-00000e003"]);
    }

    /// The policy does not add a device because of one that the user wrote, but says so where it writes another.
    #[rstest]
    #[case::usb("usb-passthrough", r#"{"devices": ["1050:0407"]}"#, 1)]
    #[case::gpu("gpu-device-plugin", T4, 1)]
    #[case::pci("pci-passthrough", r#"{"devices": ["41:00.0"]}"#, 0)]
    fn of_a_device_of_the_users_are_a_warning(#[case] name: &str, #[case] value: &str, #[case] count: usize) {
        let old = having(bare_vm(&[]), "hostDevices", json!([of(0)]));
        let mut new = old.clone();
        annotate(&mut new, &[(name, value)]);
        let answer = update(&old, new, cluster(4));
        assert_eq!(names(&answer).len(), 2);
        let warnings = super::warnings(&answer);
        assert_eq!(warnings.matches("these PCI devices share an IOMMU group").count(), count, "{warnings}");
        if count > 0 {
            let start = format!("{name}: these PCI devices share an IOMMU group with a host device");
            assert!(warnings.starts_with(&start), "{warnings}");
            let end = "name them in pci-passthrough: node1-00000e001, node1-00000e002, node1-00000e003";
            assert!(warnings.contains(end), "{warnings}");
        }
    }
}

/// `gpu-0` is no PCI device to Harvester, so it adds nothing to the VM.
#[rstest]
#[case::with_siblings(json!([of(0)]), true)]
#[case::complete(json!([of(0), of(1), of(2), of(3)]), false)]
#[case::without_siblings(json!([entry("node1-000041000", T4)]), false)]
#[case::no_pci_device(json!([entry(KEY, "kubevirt.io/node1-1050-0407-001003")]), false)]
fn beside_a_gpu_of_the_plugin_are_a_warning(#[case] devices: Value, #[case] is_warned: bool) {
    let vm = having(bare_vm(&[("gpu-device-plugin", &format!("{T4}=2"))]), "hostDevices", devices);
    let answer = create(vm, cluster(4));
    let warnings = warnings(&answer);
    assert_eq!(warnings.contains("gpu-device-plugin: these PCI devices share an IOMMU group"), is_warned, "{warnings}");
}

#[test]
fn of_a_gpu_that_kubevirt_attaches_are_not_looked_up() {
    let vm = bare_vm(&[("gpu-device-plugin", T4)]);
    let answer = create(vm, cluster(4));
    assert_eq!(names(&answer), ["gpu-0"]);
    assert!(!answer.lookups.contains(&"list PCIDevice".to_owned()), "{:?}", answer.lookups);
}

/// The card that a claim without its device names, and a device that nobody enabled, are no siblings of anything.
#[test]
fn are_devices_of_the_group_only() {
    let other = pci_without_claim("node1-00000f000", "10de:10f7", "16", CARD[1].2);
    let objects = [vec![node("node1"), other], pci("node1-00000e000", "10de:1e07", "15", CARD[0].2).to_vec()].concat();
    let answer = update(&bare_vm(&[]), asking(&["0e:00.0"]), MemoryCluster::of(objects));
    assert_eq!(names(&answer), ["node1-00000e000"]);
}
