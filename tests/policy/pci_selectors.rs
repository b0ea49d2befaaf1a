//! What `pci-passthrough` accepts in its list, on Harvester: addresses, vendor and device, all functions of a slot.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::PCI_DEVICE;

use super::devices::{
    asking, create, edited, entry, having, host_devices, names, node, pci, pci_without_claim, update, warnings,
};
use super::harness::{Answer, MemoryCluster};

const GPU: &str = "nvidia.com/TU102_GEFORCE_RTX_2080_TI";
const AUDIO: &str = "nvidia.com/TU102_HIGH_DEFINITION_AUDIO_CONTROLLER";
const DISK: &str = "samsung.com/NVME_SSD_CONTROLLER_PM9A1";

/// On node1 a GPU with its audio function, two equal disks, and one behind Intel's VMD; on node2 a third disk.
fn objects() -> Vec<Value> {
    let devices = [
        pci("node1-00000e000", "10de:1e07", "15", GPU),
        pci("node1-00000e001", "10de:10f7", "15", AUDIO),
        pci("node1-000041000", "144d:a80a", "20", DISK),
        pci("node1-000081000", "144d:a80a", "21", DISK),
        pci("node1-10000e1000", "144d:a824", "60", "samsung.com/NVME_SSD_CONTROLLER_PM173X"),
        pci("node2-000041000", "144d:a80a", "20", DISK),
    ];
    [node("node1"), node("node2")].into_iter().chain(devices.into_iter().flatten()).collect()
}

fn cluster() -> MemoryCluster {
    MemoryCluster::of(objects())
}

fn with(devices: &[&[Value]]) -> MemoryCluster {
    MemoryCluster::of([objects(), devices.concat()].concat())
}

fn ask(devices: &[&str]) -> Answer {
    create(asking(devices), cluster())
}

#[rstest]
#[case::ids(&["10de:1e07"], &["node1-00000e000"])]
#[case::ids_in_upper_case(&["10DE:1E07"], &["node1-00000e000"])]
#[case::ids_on_a_node(&["node2/144d:a80a"], &["node2-000041000"])]
#[case::ids_twice_are_two_devices(&["144d:a80a", "144d:a80a"], &["node1-000041000", "node1-000081000"])]
#[case::ids_beside_an_address_of_the_kind(&["0000:81:00.0", "144d:a80a"], &["node1-000081000", "node1-000041000"])]
#[case::ids_before_an_address_of_the_kind(&["144d:a80a", "0000:81:00.0"], &["node1-000041000", "node1-000081000"])]
#[case::ids_go_to_the_node_of_the_others(&["144d:a80a", "0000:0e:00.0"], &["node1-000041000", "node1-00000e000"])]
#[case::slot(&["0000:0e:00.*"], &["node1-00000e000", "node1-00000e001"])]
#[case::slot_without_domain(&["0E:00.*"], &["node1-00000e000", "node1-00000e001"])]
#[case::slot_on_a_node(&["node1/0000:0e:00.*"], &["node1-00000e000", "node1-00000e001"])]
#[case::slot_beside_one_of_its_functions(&["0e:00.1", "0e:00.*"], &["node1-00000e001", "node1-00000e000"])]
#[case::slot_before_one_of_its_functions(&["0e:00.*", "0e:00.1"], &["node1-00000e000", "node1-00000e001"])]
#[case::domain_of_five_digits(&["10000:e1:00.0"], &["node1-10000e1000"])]
#[case::domain_of_five_digits_on_a_node(&["node1/10000:E1:00.0"], &["node1-10000e1000"])]
#[case::name_with_a_domain_of_five_digits(&["node1-10000e1000"], &["node1-10000e1000"])]
#[case::slot_in_a_domain_of_five_digits(&["10000:e1:00.*"], &["node1-10000e1000"])]
#[case::domain_of_eight_digits_as_nvidia_smi_has_it(&["00000000:0E:00.0"], &["node1-00000e000"])]
fn a_text_means_these_devices(#[case] devices: &[&str], #[case] expected: &[&str]) {
    let answer = ask(devices);
    assert_eq!(names(&answer), expected);
    let again = update(&answer.after(), edited(&answer.after()), cluster());
    assert_eq!(names(&again), expected);
    assert_eq!(again.added("pci-passthrough"), answer.added("pci-passthrough"));
}

#[rstest]
#[case::ids(&["10DE:1E07"], r#"["10de:1e07"]"#)]
#[case::ids_twice(&["144d:a80a", "144D:A80A"], r#"["144d:a80a","144d:a80a"]"#)]
#[case::slot(&["0E:00.*"], r#"["0000:0e:00.*"]"#)]
#[case::long_domain(&["00010000:E1:00.0"], r#"["10000:e1:00.0"]"#)]
fn the_annotation_has_what_was_asked_for(#[case] devices: &[&str], #[case] applied: &str) {
    assert_eq!(ask(devices).annotation("pci-passthrough-applied").as_deref(), Some(applied));
}

#[rstest]
#[case::more_than_any_node_has(
    &["144d:a80a", "144d:a80a", "144d:a80a"],
    "no node has all the devices: 3 of 144d:a80a on node1, node2; ask for devices that one node has"
)]
#[case::twice_the_only_one(&["10de:1e07", "10de:1e07"], "no node has all the devices: 2 of 10de:1e07 on node1")]
#[case::only_one_beside_its_address(&["0e:00.0", "10de:1e07"], "node1-00000e000 is listed more than once")]
#[case::only_one_beside_its_slot(&["10de:1e07", "0e:00.*"], "node1-00000e000 is listed more than once")]
#[case::only_one_beside_its_address_on_the_node(
    &["144d:a80a", "node2/0000:41:00.0"],
    "node2-000041000 is listed more than once"
)]
#[case::none_of_the_kind(&["10de:2230"], "no node has a PCI device 10de:2230; look it up under PCI Devices in Harvester, or use the directive usb-passthrough if it is no PCI device")]
#[case::none_of_the_kind_on_the_node(
    &["node2/10de:1e07"], "the node node2 has no PCI device 10de:1e07; it is on node1"
)]
#[case::empty_slot(&["0000:0f:00.*"], "no node has a PCI device 0000:0f:00.*")]
#[case::empty_slot_of_the_node(&["node2/0000:0e:00.*"], "the node node2 has no PCI device 0000:0e:00.*; it is on node1")]
#[case::slot_twice(&["0e:00.*", "0000:0e:00.*"], "0000:0e:00.* is listed more than once")]
#[case::address_in_two_forms(&["10000:e1:00.0", "00010000:E1:00.0"], "10000:e1:00.0 is listed more than once")]
#[case::domain_that_differs_in_one_digit(&["1000:e1:00.0"], "no node has a PCI device 1000:e1:00.0")]
fn what_cannot_be_had_is_an_error(#[case] devices: &[&str], #[case] part: &str) {
    ask(devices).assert_denied(&["pci-passthrough cannot be applied", part]);
}

#[rstest]
#[case::short_device("10de:27b", "it does not have the form DDDD:BB:DD.F, BB:DD.F or VVVV:DDDD")]
#[case::long_device("10de:27b80", "it does not have the form")]
#[case::not_hexadecimal("10de:27bg", "it does not have the form")]
#[case::with_prefixes("0x10de:0x27b8", "it does not have the form")]
#[case::subsystem("10de:27b8:10de:16ee", "it does not have the form")]
#[case::any_device_of_a_vendor("10de:*", "it does not have the form")]
#[case::as_lspci_has_it("[10de:27b8]", "it does not have the form")]
#[case::slot_without_a_function("0000:0e:00", "it does not have the form")]
#[case::all_slots_of_a_bus("0e:*", "it does not have the form")]
#[case::two_stars("0e:00.**", "it does not have the form")]
#[case::star_behind_a_function("0e:00.1*", "its function must be a digit from 0 to 7")]
#[case::range_of_functions("0e:00.0-3", "it does not have the form")]
#[case::nine_digits_of_domain("100000000:e1:00.0", "its domain must be four to eight hexadecimal digits")]
#[case::three_digits_of_domain("000:e1:00.0", "its domain must be four to eight hexadecimal digits")]
#[case::device_of_a_slot("0e:20.*", "its device must be two hexadecimal digits from 00 to 1f")]
fn a_bad_form_is_an_error(#[case] device: &str, #[case] part: &str) {
    let message = format!("devices[0] \"{device}\" is not a PCI address or vendor:device: ");
    let answer = ask(&[device]);
    answer.assert_denied(&[&message, part]);
    assert_eq!(answer.lookups, Vec::<String>::new());
}

/// If the value is not JSON, the message shows the JSON to write.
#[rstest]
#[case::ids("10de:27b8", r#"'{"devices": ["10de:27b8"]}'"#)]
#[case::slot("node1/0000:0e:00.*", r#"'{"devices": ["node1/0000:0e:00.*"]}'"#)]
#[case::both("[10de:27b8, 10000:e1:00.0]", r#"'{"devices": ["10de:27b8", "10000:e1:00.0"]}'"#)]
fn the_remedy_keeps_the_form(#[case] value: &str, #[case] written: &str) {
    let answer = create(super::harness::bare_vm(&[("pci-passthrough", value)]), cluster());
    answer.assert_denied(&["not valid JSON", written]);
}

/// Devices of one kind that have different resources are not one pool.
mod of_several_resources {
    use super::*;

    const ALONE: &str = "samsung.com/node1-0000c1000";

    /// A third disk on node1, whose claim has `disableResourcePooling`.
    fn cluster() -> MemoryCluster {
        with(&[&pci("node1-0000c1000", "144d:a80a", "22", ALONE)])
    }

    #[test]
    fn one_of_them_is_an_error_that_lists_them() {
        create(asking(&["node1/144d:a80a"]), cluster()).assert_denied(&[
            "144d:a80a matches different devices",
            "node1-000041000 (samsung.com/NVME_SSD_CONTROLLER_PM9A1)",
            "node1-0000c1000 (samsung.com/node1-0000c1000)",
            "name one of them",
        ]);
    }

    #[test]
    fn all_of_them_leave_no_choice() {
        let answer = create(asking(&["node1/144d:a80a", "144d:a80a", "144d:a80a"]), cluster());
        assert_eq!(names(&answer), ["node1-000041000", "node1-000081000", "node1-0000c1000"]);
    }

    /// The address takes the device with the other resource, so those that are left share one.
    #[test]
    fn an_address_can_leave_one_pool() {
        let answer = create(asking(&["node1/0000:c1:00.0", "144d:a80a"]), cluster());
        assert_eq!(host_devices(&answer), json!([entry("node1-0000c1000", ALONE), entry("node1-000041000", DISK)]));
    }
}

#[test]
fn devices_that_nobody_enabled_do_not_count() {
    let third = pci_without_claim("node2-0000c1000", "144d:a80a", "22", DISK);
    let answer = create(asking(&["node2/144d:a80a", "144d:a80a"]), with(&[&[third]]));
    answer.assert_denied(&["no node has all the devices: 2 of 144d:a80a on node2"]);
    let other = pci_without_claim("node2-0000c1000", "10de:2230", "22", "nvidia.com/A6000");
    let answer = create(asking(&["10de:2230"]), with(&[&[other]]));
    answer.assert_denied(&["10de:2230 is not enabled for passthrough on node2; enable passthrough"]);
}

/// What the user has in place is one of those that match.
#[rstest]
#[case::under_its_name("node1-000081000", &["144d:a80a"], &["node1-000081000"])]
#[case::under_a_name_of_the_users("disk", &["144d:a80a"], &["disk"])]
#[case::and_another("node1-000081000", &["144d:a80a", "144d:a80a"], &["node1-000081000", "node1-000041000"])]
#[case::of_another_node("node2-000041000", &["144d:a80a"], &["node2-000041000"])]
fn ids_count_what_is_there(#[case] name: &str, #[case] devices: &[&str], #[case] expected: &[&str]) {
    let vm = having(asking(devices), "hostDevices", json!([entry(name, DISK)]));
    assert_eq!(names(&create(vm, cluster())), expected);
}

/// KubeVirt and older forms of Harvester have GPUs under `gpus`.
mod under_gpus {
    use super::*;

    fn gpu(name: &str) -> Value {
        json!([entry(name, GPU)])
    }

    #[rstest]
    #[case::address(&["0000:0e:00.0"])]
    #[case::address_on_the_node(&["node1/0000:0e:00.0"])]
    #[case::ids(&["10de:1e07"])]
    fn a_device_is_in_place(#[case] devices: &[&str], #[values("node1-00000e000", "gpu1")] name: &str) {
        let answer = create(having(asking(devices), "gpus", gpu(name)), cluster());
        assert_eq!(host_devices(&answer), Value::Null);
        assert_eq!(answer.domain()["devices"]["gpus"], gpu(name));
        assert!(!answer.added("pci-passthrough").is_some_and(|added| added.contains("hostDevice")));
    }

    #[test]
    fn a_function_of_it_is_another_device() {
        let answer = create(having(asking(&["0000:0e:00.*"]), "gpus", gpu("node1-00000e000")), cluster());
        assert_eq!(names(&answer), ["node1-00000e001"]);
        assert_eq!(answer.domain()["devices"]["gpus"], gpu("node1-00000e000"));
    }

    #[test]
    fn a_device_stays_when_the_directive_goes() {
        let vm = having(asking(&["0000:0e:00.0"]), "gpus", gpu("node1-00000e000"));
        let stored = create(vm, cluster()).after();
        let without = having(super::super::harness::bare_vm(&[]), "gpus", gpu("node1-00000e000"));
        let mut new = stored.clone();
        new["metadata"]["annotations"] = json!({});
        assert_eq!(update(&stored, new, cluster()).after()["spec"], without["spec"]);
    }

    /// Harvester makes host devices of them, and refuses devices of two nodes.
    #[test]
    fn a_device_tells_the_node_of_the_others() {
        let answer = create(having(asking(&["144d:a80a"]), "gpus", gpu("node1-00000e000")), cluster());
        assert_eq!(names(&answer), ["node1-000041000"]);
        let vm = having(asking(&["node2/0000:41:00.0"]), "gpus", gpu("node1-00000e000"));
        create(vm, cluster()).assert_denied(&["already has a host device of the node node1"]);
    }

    /// Harvester adds siblings only of host devices.
    #[test]
    fn a_device_with_a_sibling_is_a_warning() {
        let answer = create(having(asking(&["0000:0e:00.0"]), "gpus", gpu("node1-00000e000")), cluster());
        let warning = warnings(&answer);
        assert!(warning.starts_with("pci-passthrough: these PCI devices share an IOMMU group"), "{warning}");
        assert!(warning.ends_with("name them in pci-passthrough: node1-00000e001"), "{warning}");
        // In an update, nothing of it is new.
        let stored = answer.after();
        assert_eq!(warnings(&update(&stored, edited(&stored), cluster())), "");
        let answer = create(having(asking(&["0000:0e:00.*"]), "gpus", gpu("node1-00000e000")), cluster());
        assert_eq!(warnings(&answer), "");
    }

    #[test]
    fn a_device_is_in_place_while_nothing_can_be_looked_up() {
        let vm = having(asking(&["0000:0e:00.0"]), "gpus", gpu("node1-00000e000"));
        let answer = create(vm.clone(), MemoryCluster::default());
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.domain(), vm["spec"]["template"]["spec"]["domain"]);
    }
}

/// All functions of a slot.
mod slots {
    use super::*;

    #[test]
    fn a_function_that_is_not_enabled_is_an_error_that_names_it() {
        let third = pci_without_claim("node1-00000e002", "10de:1ad6", "15", "nvidia.com/USB");
        create(asking(&["node1/0e:00.*"]), with(&[&[third]]))
            .assert_denied(&["0000:0e:00.2 is not enabled for passthrough on node1"]);
    }

    #[test]
    fn the_same_functions_on_two_nodes_are_no_choice() {
        let second = [pci("node2-00000e000", "10de:1e07", "15", GPU), pci("node2-00000e001", "10de:10f7", "15", AUDIO)];
        let answer = create(asking(&["0e:00.*"]), with(&[&second.concat()]));
        assert_eq!(names(&answer), ["node1-00000e000", "node1-00000e001"]);
    }

    #[rstest]
    #[case::fewer(&[("node2-00000e000", "10de:1e07", GPU)])]
    #[case::more(&[
        ("node2-00000e000", "10de:1e07", GPU), ("node2-00000e001", "10de:10f7", AUDIO), ("node2-00000e002", "10de:1", "x.io/1"),
    ])]
    #[case::as_many_others(&[("node2-00000e000", "10de:1e07", GPU), ("node2-00000e002", "10de:1", "x.io/1")])]
    fn other_functions_on_another_node_are_ambiguous(#[case] devices: &[(&str, &str, &str)]) {
        let devices: Vec<_> = devices.iter().flat_map(|(name, ids, resource)| pci(name, ids, "15", resource)).collect();
        create(asking(&["0e:00.*"]), with(&[&devices])).assert_denied(&[
            "0000:0e:00.* matches different devices",
            "node1-00000e000",
            "node2-00000e000",
            "name one of them, as in node1/0000:0e:00.*",
        ]);
        // A node that the VM cannot run on does not count.
        let mut vm = asking(&["0e:00.*"]);
        vm["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"] = json!([{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node2"]},
        ]}]);
        assert_eq!(names(&create(vm, with(&[&devices]))), ["node1-00000e000", "node1-00000e001"]);
    }

    /// The card was pulled out, or a function of it does not come up.
    #[rstest]
    #[case::the_first(0)]
    #[case::the_second(1)]
    fn a_function_that_is_gone_stays_until_the_directive_changes(#[case] gone: usize) {
        let stored = create(asking(&["node1/0e:00.*"]), cluster()).after();
        let left = pci(["node1-00000e001", "node1-00000e000"][gone], "10de:1", "15", [AUDIO, GPU][gone]);
        let without = || MemoryCluster::of([vec![node("node1")], left.to_vec()].concat());
        let answer = update(&stored, edited(&stored), without());
        assert_eq!(names(&answer), ["node1-00000e000", "node1-00000e001"]);
        let warning = warnings(&answer);
        assert!(warning.starts_with("pci-passthrough fails as before this request"), "{warning}");
        assert!(warning.contains(&format!("the node node1 has no PCI device 0000:0e:00.{gone}")), "{warning}");

        let mut new = stored.clone();
        new["metadata"]["annotations"] = asking(&["node1/0000:0e:00.*"])["metadata"]["annotations"].clone();
        assert_eq!(names(&update(&stored, new, without())), [["node1-00000e001", "node1-00000e000"][gone]]);
    }

    #[test]
    fn each_function_counts_toward_the_most() {
        let request = super::super::harness::Request::create(asking(&["0e:00.*"])).cluster(cluster());
        let answer = request.settings(json!({"pciPassthrough": {"maxDevices": 1}})).evaluate();
        answer.assert_denied(&["would have 2 host devices", "allows 1"]);
    }
}

/// An address on a node is read by its name. What may be several devices is not.
#[rstest]
#[case::address("node1/0000:0e:00.0", true)]
#[case::name("node1-00000e000", true)]
#[case::ids("node1/10de:1e07", false)]
#[case::slot("node1/0000:0e:00.*", false)]
#[case::address_anywhere("0000:0e:00.0", false)]
fn what_may_be_several_devices_needs_the_list(#[case] device: &str, #[case] may: bool) {
    let answer = create(asking(&[device]), cluster().without("list", &PCI_DEVICE));
    match may {
        true => assert_eq!(names(&answer), ["node1-00000e000"]),
        false => answer.assert_denied(&["may not list and watch pcidevices.devices.harvesterhci.io"]),
    }
}

/// The setting takes what the directive takes. Harvester adds the audio function of the card, so it must be allowed, too.
#[rstest]
#[case::ids("10de:1e07", true)]
#[case::ids_of_a_vendor("10de:*", true)]
#[case::address("0000:0e:00.0", true)]
#[case::resource("nvidia.com/*", true)]
#[case::other_ids("144d:*", false)]
fn a_device_is_allowed_under_each_of_its_names(#[case] allowed: &str, #[case] may: bool) {
    for device in ["10de:1e07", "node1/0000:0e:00.0", "node1-00000e000"] {
        let settings = json!({"pciPassthrough": {"allowedDevices": {"default": [allowed, "0000:0e:00.1"]}}});
        let request = super::harness::Request::create(asking(&[device])).settings(settings);
        let answer = request.cluster(cluster()).evaluate();
        assert_eq!(answer.is_accepted(), may, "{device}: {}", answer.message());
    }
}
