//! Directive `vbios-injection`. `e2e/tests/suite/hook.rs` tests what the hook does when the VM starts.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{CONFIG_MAP, ClusterError, KUBEVIRT, PCI_DEVICE};

use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm, vbios_objects};

const ANNOTATION: &str = "hooks.kubevirt.io/hookSidecars";

/// A node with a claimed iGPU, KubeVirt 1.7.0 with the gate on, and the ConfigMap `igpu-rom`.
fn cluster() -> MemoryCluster {
    MemoryCluster::of(vbios_objects())
}

fn igpu() -> Value {
    json!({"name": "node2-000005000", "deviceName": "amd.com/CEZANNE_RADEON_VEGA_SERIES"})
}

fn vm_with(devices: Value) -> Value {
    let mut vm = bare_vm(&[("vbios-injection", "igpu-rom")]);
    vm["spec"]["template"]["spec"]["domain"]["devices"] = devices;
    vm
}

/// A VM that has the iGPU.
fn vm() -> Value {
    vm_with(json!({"hostDevices": [igpu()]}))
}

fn ask(vm: Value, settings: Value, cluster: MemoryCluster) -> Answer {
    Request::create(vm).settings(json!({"vbiosInjection": settings})).cluster(cluster).evaluate()
}

fn create(vm: Value) -> Answer {
    ask(vm, json!({}), cluster())
}

fn sidecars(answer: &Answer) -> Vec<Value> {
    assert!(answer.is_accepted(), "{}", answer.message());
    let after = answer.after();
    let text = after["spec"]["template"]["metadata"]["annotations"][ANNOTATION].as_str();
    serde_json::from_str(text.expect("an annotation")).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The ROM in the cluster: an image of 512 bytes for the device 1002:1638.
fn rom() -> Vec<u8> {
    let mut rom = vec![0; 512];
    rom[..3].copy_from_slice(&[0x55, 0xaa, 1]);
    rom[0x18] = 0x40;
    rom[0x40..0x48].copy_from_slice(b"PCIR\x02\x10\x38\x16");
    (rom[0x50], rom[0x55]) = (1, 0x80);
    rom
}

fn with_rom(mut cluster: MemoryCluster, rom: &[u8]) -> MemoryCluster {
    cluster.object("ConfigMap", "igpu-rom")["binaryData"]["rom"] = json!(base64(rom));
    cluster
}

/// The last argument before those of the shim: the devices that the hook looks for.
fn devices(answer: &Answer) -> String {
    sidecars(answer)[0]["command"][6].as_str().unwrap().to_owned()
}

#[test]
fn one_sidecar_is_added_and_nothing_else() {
    let answer = create(vm());
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    assert_eq!(answer.lookups, ["get ConfigMap igpu-rom", "get KubeVirt kubevirt", "get PCIDevice node2-000005000"]);
    let patch = answer.patch();
    assert_eq!(patch.as_array().unwrap().len(), 2);
    assert_eq!(patch[0]["path"], "/metadata/annotations/vm-feature-manager.io~1vbios-injection-applied");
    assert_eq!(patch[0]["value"], "igpu-rom");
    assert_eq!(patch[1]["op"], "add");
    assert_eq!(patch[1]["path"], "/spec/template/metadata");
    assert_eq!(answer.added("vbios-injection").unwrap(), r#"[{"hookSidecar":true}]"#);

    let sidecars = sidecars(&answer);
    assert_eq!(sidecars.len(), 1);
    let sidecar = &sidecars[0];
    assert_eq!(sidecar["image"], "quay.io/kubevirt/sidecar-shim:v1.7.0");
    assert_eq!(sidecar["configMap"], json!({"name": "igpu-rom", "key": "rom", "hookPath": "/run/vbios/rom"}));
    let command = sidecar["command"].as_array().unwrap();
    assert_eq!(command[..2], [json!("python3"), json!("-c")]);
    assert_eq!(
        command[3..],
        ["vm-feature-manager.io/vbios-injection", "sidecar", "fail", "node2-000005000 *", "--version", "v1alpha3"]
    );
}

#[test]
fn kubernetes_expands_nothing_in_the_program_and_the_annotation_is_small() {
    let answer = create(vm());
    let program = sidecars(&answer)[0]["command"][2].as_str().unwrap().to_owned();
    assert!(!program.contains("$(") && !program.contains("$$") && program.is_ascii());
    let after = answer.after();
    let annotation = after["spec"]["template"]["metadata"]["annotations"][ANNOTATION].as_str().unwrap();
    assert!(annotation.len() < 8 << 10, "{} bytes", annotation.len());
}

#[test]
fn with_pci_passthrough_the_rom_is_for_the_device_that_it_added() {
    let mut vm = vm_with(json!({}));
    annotate(&mut vm, &[("pci-passthrough", r#"{"devices": ["node2/0000:05:00.0"]}"#)]);
    let answer = create(vm);
    assert_eq!(answer.audit("applied"), "pci-passthrough,vbios-injection");
    assert_eq!(devices(&answer), "node2-000005000 *");
    // The policy does not look up the device a second time.
    assert_eq!(answer.lookups.iter().filter(|l| l.starts_with("get PCIDevice ")).count(), 1);
    create(answer.after()).assert_accepted_unchanged();
}

/// When the ROM was requested, the VM had only one device. Harvester added others because they share its IOMMU group. If the
/// policy changed the template now, the user would have to restart the VM.
#[test]
fn what_the_hook_looks_for_does_not_depend_on_the_number_of_devices() {
    let mut vm = vm_with(json!({}));
    annotate(&mut vm, &[("pci-passthrough", r#"{"devices": ["node2/0000:05:00.0"]}"#)]);
    let mut stored = create(vm.clone()).after();
    let devices = &mut stored["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"];
    let sibling = json!({"name": "node2-000005001", "deviceName": "amd.com/AUDIO"});
    devices.as_array_mut().unwrap().push(sibling);
    // kubectl apply keeps what the manifest does not contain, so the lists of devices come from the stored object.
    let mut applied = stored.clone();
    applied["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = json!(2);
    let answer = Request::update(stored.clone(), applied).cluster(cluster()).evaluate();
    answer.assert_accepted_unchanged();
}

#[test]
fn by_volume_the_vm_gets_a_volume_and_the_sidecar_no_config_map() {
    let answer = ask(vm(), json!({"romDelivery": "volume"}), cluster());
    let volumes = answer.after()["spec"]["template"]["spec"]["volumes"].clone();
    assert_eq!(volumes, json!([{"name": "vbios-rom", "configMap": {"name": "igpu-rom"}}]));
    let sidecar = &sidecars(&answer)[0];
    assert_eq!(sidecar.get("configMap"), None);
    assert_eq!(sidecar["command"][4], "volume");
    ask(answer.after(), json!({"romDelivery": "volume"}), cluster()).assert_accepted_unchanged();
}

#[test]
fn the_volume_of_the_policys_own_is_changed_with_the_directive() {
    let settings = json!({"romDelivery": "volume"});
    let mut cluster = cluster();
    cluster.object("ConfigMap", "igpu-rom")["metadata"]["name"] = json!("other-rom");
    let mut vm = ask(vm(), settings.clone(), self::cluster()).after();
    annotate(&mut vm, &[("vbios-injection", "other-rom")]);
    let answer = ask(vm, settings, cluster);
    assert!(answer.is_accepted(), "{}", answer.message());
    let volumes = answer.after()["spec"]["template"]["spec"]["volumes"].clone();
    assert_eq!(volumes, json!([{"name": "vbios-rom", "configMap": {"name": "other-rom"}}]));
}

#[test]
fn by_volume_the_vms_other_volumes_do_not_matter() {
    let mut vm = vm();
    let others = json!([{"name": "disk-0"}, {"name": "config", "configMap": {"name": "other"}}]);
    vm["spec"]["template"]["spec"]["volumes"] = others.clone();
    let answer = ask(vm, json!({"romDelivery": "volume"}), cluster());
    assert!(answer.is_accepted(), "{}", answer.message());
    let volumes = answer.after()["spec"]["template"]["spec"]["volumes"].clone();
    let rom = json!({"name": "vbios-rom", "configMap": {"name": "igpu-rom"}});
    assert_eq!(volumes, json!([others[0], others[1], rom]));
}

#[test]
fn a_volume_of_that_name_that_is_not_the_roms_is_an_error() {
    let mut vm = vm();
    vm["spec"]["template"]["spec"]["volumes"] = json!([{"name": "vbios-rom", "configMap": {"name": "other"}}]);
    let answer = ask(vm, json!({"romDelivery": "volume"}), cluster());
    answer.assert_denied(&["already has a volume vbios-rom", "rename or remove"]);
}

#[test]
fn settings_are_the_programs_arguments() {
    let settings = json!({"hookVersion": "v1alpha2", "onHookFailure": "continue"});
    let answer = ask(vm(), settings, cluster());
    let command = sidecars(&answer)[0]["command"].clone();
    assert_eq!([&command[5], &command[8]], ["continue", "v1alpha2"]);
}

mod entries {
    use super::*;

    fn with_sidecars(value: &str) -> Value {
        let mut vm = vm();
        vm["spec"]["template"]["metadata"] = json!({"annotations": {ANNOTATION: value, "x": "y"}});
        vm
    }

    #[test]
    fn of_the_user_are_kept_as_they_are() {
        let mine = r#"{"args":["--version", "v1alpha2"],"image":"mine","future":1.0e0,"command":["a","b","c"]}"#;
        let answer = create(with_sidecars(&format!("[ {mine} ]")));
        let after = answer.after();
        let annotations = &after["spec"]["template"]["metadata"]["annotations"];
        let text = annotations[ANNOTATION].as_str().unwrap();
        assert!(text.starts_with(&format!("[{mine},{{\"image\":")), "{text}");
        assert_eq!(annotations["x"], "y");
        assert_eq!(sidecars(&answer).len(), 2);
    }

    #[test]
    fn of_ours_are_replaced_in_their_place() {
        let ours = create(vm()).after()["spec"]["template"]["metadata"]["annotations"][ANNOTATION].clone();
        let ours = ours.as_str().unwrap().trim_matches(['[', ']']).replace("v1.7.0", "v1.0.0");
        let answer = create(with_sidecars(&format!(r#"[{ours},{{"image":"mine"}},{ours}]"#)));
        let sidecars = sidecars(&answer);
        assert_eq!(sidecars.len(), 2);
        assert_eq!(sidecars[0]["image"], "quay.io/kubevirt/sidecar-shim:v1.7.0");
        assert_eq!(sidecars[1], json!({"image": "mine"}));
        create(answer.after()).assert_accepted_unchanged();
    }

    #[rstest]
    #[case::empty("")]
    #[case::space(" ")]
    #[case::empty_list("[]")]
    fn may_be_none(#[case] value: &str) {
        assert_eq!(sidecars(&create(with_sidecars(value))).len(), 1);
    }

    /// They are read several times for each request.
    #[rstest]
    #[case::as_long_as_may_be(64 << 10, true)]
    #[case::a_byte_longer((64 << 10) + 1, false)]
    fn that_are_long_are_an_error(#[case] length: usize, #[case] is_read: bool) {
        let value = format!("[{}]", " ".repeat(length - 2));
        let answer = create(with_sidecars(&value));
        if is_read {
            assert_eq!(sidecars(&answer).len(), 1);
        } else {
            answer.assert_denied(&[ANNOTATION, "is longer than 64 KiB"]);
        }
    }

    #[rstest]
    #[case::not_json("[{")]
    #[case::object("{}")]
    #[case::text("\"x\"")]
    #[case::null("null")]
    fn that_cannot_be_read_are_an_error_and_stay(#[case] value: &str) {
        let vm = with_sidecars(value);
        create(vm.clone()).assert_denied(&[ANNOTATION, "is not a JSON list"]);
        let answer = ask(vm, json!({"errorHandling": "allow-and-log"}), cluster());
        let after = answer.after();
        assert_eq!(after["spec"]["template"]["metadata"]["annotations"][ANNOTATION], value);
    }

    #[test]
    fn an_annotation_of_another_type_is_an_error() {
        let mut vm = vm();
        vm["spec"]["template"]["metadata"] = json!({"annotations": {ANNOTATION: 1}});
        create(vm).assert_denied(&["hookSidecars is a number"]);
    }
}

mod device {
    use super::*;

    fn with_option(devices: Value, option: &str) -> Value {
        let mut vm = vm_with(devices);
        annotate(&mut vm, &[("vbios-device", option)]);
        vm
    }

    fn two() -> Value {
        json!({
            "hostDevices": [igpu(), {"name": "pci-device-0", "deviceName": "pci_0000_01_00_0"}],
            "gpus": [{"name": "gpu-0", "deviceName": "nvidia.com/T4"}],
        })
    }

    #[rstest]
    #[case::host_device(json!({"hostDevices": [igpu()]}), "node2-000005000 *")]
    #[case::gpu(json!({"gpus": [{"name": "gpu-0", "deviceName": "nvidia.com/T4"}]}), "gpu-0 *")]
    #[case::beside_usb(json!({"hostDevices": [{"name": "usb", "deviceName": "kubevirt.io/node1-1d6b-0002-001002"}, igpu()]}), "node2-000005000 *")]
    fn the_only_one_is_meant(#[case] list: Value, #[case] expected: &str) {
        assert_eq!(devices(&create(vm_with(list))), expected);
    }

    #[rstest]
    #[case::name("gpu-0", "gpu-0")]
    #[case::name_of_a_pci_device("node2-000005000", "node2-000005000")]
    #[case::address_of_a_pci_device("0000:05:00.0", "0000:05:00.0 node2-000005000")]
    #[case::address_without_domain("05:00.0", "0000:05:00.0 node2-000005000")]
    #[case::address_of_a_device_name("0000:01:00.0", "0000:01:00.0 pci-device-0")]
    #[case::address_with_its_node("node2/0000:05:00.0", "0000:05:00.0 node2-000005000")]
    #[case::short_address_with_its_node("node2/05:00.0", "0000:05:00.0 node2-000005000")]
    #[case::name_of_a_pci_device_for_an_address("node2-000001000", "0000:01:00.0 pci-device-0")]
    #[case::vendor_and_device("1002:1638", "node2-000005000")]
    #[case::vendor_and_device_with_their_node("node2/1002:1638", "node2-000005000")]
    #[case::slot("node2/0000:05:00.*", "node2-000005000")]
    #[case::slot_without_domain("01:00.*", "pci-device-0")]
    fn the_option_names_one_of_several(#[case] option: &str, #[case] expected: &str) {
        assert_eq!(devices(&create(with_option(two(), option))), expected);
    }

    #[test]
    fn that_was_alone_stays_the_one_when_harvester_adds_its_siblings() {
        let mut vm = create(vm()).after();
        let audio = json!({"name": "node2-000005001", "deviceName": "amd.com/RENOIR_AUDIO"});
        vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = json!([igpu(), audio]);
        let answer = create(vm);
        assert_eq!(devices(&answer), "node2-000005000 *");
        create(answer.after()).assert_accepted_unchanged();
    }

    #[test]
    fn of_an_address_that_cannot_be_told_here_is_left_to_the_hook() {
        let gpu = json!({"hostDevices": [{"name": "gpu1", "deviceName": "nvidia.com/TU104GL"}]});
        assert_eq!(devices(&create(with_option(gpu, "65:00.0"))), "0000:65:00.0");
    }

    #[rstest]
    fn of_a_name_that_the_hook_could_not_find_is_an_error(#[values("my gpu", "*", "?", "")] name: &str) {
        let devices = json!({"hostDevices": [{"name": name, "deviceName": "nvidia.com/TU104GL"}]});
        create(vm_with(devices)).assert_denied(&["the hook could not find it", "rename it"]);
    }

    #[test]
    fn several_without_the_option_are_an_error_if_the_rom_does_not_tell() {
        let parts = ["several host devices and GPUs (node2-000005000, pci-device-0, gpu-0)", "vbios-device"];
        let cluster = with_ids(cluster(), "node2-000005000", "1002:164e");
        ask(vm_with(two()), json!({}), cluster).assert_denied(&parts);
    }

    #[test]
    fn the_option_may_be_in_upper_case() {
        let list = json!({"hostDevices": [igpu(), {"name": "node2-00000e0a0", "deviceName": "x.io/y"}]});
        assert_eq!(devices(&create(with_option(list, "0000:0E:0A.0"))), "0000:0e:0a.0 node2-00000e0a0");
        let mut cluster = cluster();
        cluster.object("PCIDevice", "node2-000005000")["status"]["deviceId"] = json!("16AB");
        let answer = ask(with_option(two(), "1002:16Ab"), json!({}), cluster);
        assert_eq!(devices(&answer), "node2-000005000");
    }

    /// KubeVirt knows the ids of the devices that it permits.
    #[test]
    fn the_option_names_ids_in_a_cluster_without_harvester() {
        let mut cluster = cluster().failing(&PCI_DEVICE, ClusterError::KindNotServed);
        cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"] = json!({
            "pciHostDevices": [
                {"pciVendorSelector": "10DE:1EB8", "resourceName": "nvidia.com/T4"},
                {"pciVendorSelector": "1002:1638", "resourceName": "amd.com/IGPU"},
            ],
        });
        let list = json!({
            "hostDevices": [{"name": "a", "deviceName": "nvidia.com/T4"}, {"name": "b", "deviceName": "amd.com/IGPU"}],
        });
        let answer = ask(with_option(list, "10de:1eb8"), json!({}), cluster);
        assert_eq!(devices(&answer), "a");
        assert_eq!(
            answer.warnings(),
            [
                "vbios-injection: the ROM says that it is for the device 1002:1638, but it goes to a (10de:1eb8); use a ROM of that device"
            ]
        );
    }

    #[rstest]
    #[case::name("gpu-1", two())]
    #[case::address("0000:09:00.0", json!({"hostDevices": two()["hostDevices"]}))]
    #[case::address_of_another_node("node1/0000:05:00.0", json!({"hostDevices": two()["hostDevices"]}))]
    #[case::ids("10de:2204", two())]
    fn an_option_that_names_none_of_them_is_an_error(#[case] option: &str, #[case] devices: Value) {
        let answer = create(with_option(devices, option));
        answer.assert_denied(&[option, "none of the VirtualMachine's host devices", "pci-device-0"]);
    }

    #[test]
    fn an_option_without_devices_says_that_there_are_none() {
        create(with_option(json!({}), "gpu-1")).assert_denied(&["(none)"]);
    }

    /// Devices of an instance type are not part of the VirtualMachine.
    #[rstest]
    #[case::name(json!({}), Some("gpu1"), "gpu1")]
    #[case::address(json!({}), Some("09:00.0"), "0000:09:00.0")]
    #[case::address_beside_another(json!({"hostDevices": [igpu()]}), Some("0000:09:00.0"), "0000:09:00.0")]
    #[case::the_only_one(json!({}), None, "*")]
    #[case::ids(json!({}), Some("10de:1eb8"), "*")]
    fn an_instance_type_may_have_the_device(
        #[case] in_vm: Value,
        #[case] option: Option<&str>,
        #[case] argument: &str,
    ) {
        let mut vm = option.map_or_else(|| vm_with(in_vm.clone()), |option| with_option(in_vm.clone(), option));
        vm["spec"]["instancetype"] = json!({"name": "gpu"});
        let answer = create(vm);
        assert_eq!(devices(&answer), argument);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    /// A cluster with the iGPU and another function of its card, whose ids and class are given.
    fn with_audio(audio: (&str, &str)) -> MemoryCluster {
        let mut objects = vbios_objects();
        let mut device = objects.iter().find(|object| object["kind"] == "PCIDevice").unwrap().clone();
        device["metadata"]["name"] = json!("node2-000005001");
        device["status"]["address"] = json!("0000:05:00.1");
        device["status"]["resourceName"] = json!("amd.com/AUDIO");
        device["status"]["classId"] = json!(audio.1);
        objects.push(device);
        with_ids(MemoryCluster::of(objects), "node2-000005001", audio.0)
    }

    fn with_ids(mut cluster: MemoryCluster, name: &str, ids: &str) -> MemoryCluster {
        let (vendor, device) = ids.split_once(':').unwrap();
        let status = &mut cluster.object("PCIDevice", name)["status"];
        status["vendorId"] = json!(vendor);
        status["deviceId"] = json!(device);
        cluster
    }

    /// The other function first, so that the order does not tell.
    fn card() -> Value {
        json!({"hostDevices": [{"name": "node2-000005001", "deviceName": "amd.com/AUDIO"}, igpu()]})
    }

    #[rstest]
    #[case::by_the_roms_ids(with_audio(("1002:1640", "0403")))]
    #[case::by_the_roms_ids_alone(with_audio(("1002:1640", "0300")))]
    fn of_several_the_one_that_the_rom_is_for_is_meant(#[case] cluster: MemoryCluster) {
        let answer = ask(vm_with(card()), json!({}), cluster);
        assert_eq!(devices(&answer), "node2-000005000 *");
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn of_several_the_one_in_the_roms_list_of_devices_is_meant() {
        let mut rom = rom();
        rom[0x46..0x48].copy_from_slice(&[0xff, 0xff]);
        (rom[0x48], rom[0x4c]) = (0x20, 3);
        rom[0x60..0x64].copy_from_slice(&[0x39, 0x16, 0x38, 0x16]);
        let answer = ask(vm_with(card()), json!({}), with_rom(with_audio(("1002:1640", "0300")), &rom));
        assert_eq!(devices(&answer), "node2-000005000 *");
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn of_several_the_display_device_is_meant_if_the_rom_is_for_none() {
        for class in ["0300", "0302", "0380"] {
            let mut cluster = with_ids(with_audio(("1002:1640", "0403")), "node2-000005000", "1002:164e");
            cluster.object("PCIDevice", "node2-000005000")["status"]["classId"] = json!(class);
            let answer = ask(vm_with(card()), json!({}), cluster);
            assert_eq!(devices(&answer), "node2-000005000 *");
            assert!(
                answer.warnings()[0].contains("for the device 1002:1638, but it goes to node2-000005000 (1002:164e)")
            );
        }
    }

    #[rstest]
    #[case::two_of_the_ids(with_audio(("1002:1638", "0300")))]
    #[case::two_display_devices(with_ids(with_audio(("1002:1640", "0302")), "node2-000005000", "1002:164e"))]
    #[case::one_is_unknown(with_ids(cluster(), "node2-000005000", "1002:164e"))]
    fn of_several_that_the_rom_does_not_tell_apart_none_is_guessed(#[case] cluster: MemoryCluster) {
        ask(vm_with(card()), json!({}), cluster)
            .assert_denied(&["several host devices and GPUs (node2-000005001, node2-000005000)"]);
    }

    #[test]
    fn of_a_slot_the_function_is_meant_that_the_rom_is_for() {
        let mut list = card();
        list["gpus"] = json!([{"name": "gpu-0", "deviceName": "nvidia.com/T4"}]);
        let answer = ask(with_option(list, "node2/05:00.*"), json!({}), with_audio(("1002:1640", "0403")));
        assert_eq!(devices(&answer), "node2-000005000");
    }

    /// Devices that have no ROM: a cluster, and the only host device.
    fn permitting(list: Value) -> MemoryCluster {
        let mut cluster = cluster();
        cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"] = list;
        cluster
    }

    #[rstest]
    #[case::usb_by_its_resource(cluster(), "stick", "kubevirt.io/node1-1d6b-0002-001002")]
    #[case::usb_by_the_name_of_its_object(cluster(), "node1-1d6b-0002-001002", "example.com/stick")]
    #[case::usb_that_kubevirt_permits(
        permitting(json!({"usb": [{"resourceName": "example.com/zigbee", "selectors": [{"vendor": "10c4", "product": "ea60"}]}]}))
            .failing(&PCI_DEVICE, ClusterError::KindNotServed),
        "zigbee",
        "example.com/zigbee"
    )]
    #[case::mediated_device(
        permitting(json!({"mediatedDevices": [{"mdevNameSelector": "GRID T4-1Q", "resourceName": "nvidia.com/T4-1Q"}]})),
        "vgpu",
        "nvidia.com/T4-1Q"
    )]
    #[case::that_harvester_does_not_know(cluster(), "zigbee", "example.com/zigbee")]
    #[case::that_kubevirt_does_not_permit(
        permitting(json!({"pciHostDevices": [{"pciVendorSelector": "10DE:1EB8", "resourceName": "nvidia.com/T4"}]}))
            .failing(&PCI_DEVICE, ClusterError::KindNotServed),
        "zigbee",
        "example.com/zigbee"
    )]
    fn that_is_no_pci_device_is_an_error(#[case] cluster: MemoryCluster, #[case] name: &str, #[case] resource: &str) {
        let list = json!({"hostDevices": [{"name": name, "deviceName": resource}]});
        let parts =
            [name, "is a PCI device, and only a PCI device has a ROM", "pci-passthrough", "remove vbios-injection"];
        ask(vm_with(list), json!({}), cluster).assert_denied(&parts);
    }

    #[rstest]
    #[case::pci_that_kubevirt_permits(
        permitting(json!({"pciHostDevices": [{"pciVendorSelector": "10DE:1EB8", "resourceName": "example.com/gpu"}]}))
    )]
    #[case::pci_of_harvester_under_another_name({
        let mut cluster = cluster();
        cluster.object("PCIDevice", "node2-000005000")["status"]["resourceName"] = json!("example.com/gpu");
        cluster
    })]
    #[case::that_nobody_can_tell(cluster().failing(&PCI_DEVICE, ClusterError::KindNotServed))]
    fn that_may_be_a_pci_device_is_accepted(#[case] cluster: MemoryCluster) {
        let list = json!({"hostDevices": [{"name": "gpu", "deviceName": "example.com/gpu"}]});
        assert_eq!(devices(&ask(vm_with(list), json!({}), cluster)), "gpu *");
    }

    #[test]
    fn that_is_no_pci_device_does_not_count_among_several() {
        let zigbee = json!({"name": "zigbee", "deviceName": "example.com/zigbee"});
        let cluster = with_ids(cluster(), "node2-000005000", "1002:164e");
        let answer = ask(vm_with(json!({"hostDevices": [zigbee, igpu()]})), json!({}), cluster);
        assert_eq!(devices(&answer), "node2-000005000 *");
    }

    #[test]
    fn of_dra_has_no_resource_and_is_accepted() {
        let gpu = json!({"gpus": [{"name": "gpu-0", "claimName": "a", "requestName": "b"}]});
        assert_eq!(devices(&create(vm_with(gpu))), "gpu-0 *");
    }

    /// The directive that brings the device fails.
    #[rstest]
    #[case::without_the_option(None)]
    #[case::with_the_option(Some("0000:09:00.0"))]
    fn that_another_directive_would_bring_is_waited_for(#[case] option: Option<&str>) {
        for (mode, start) in [("reject", "cannot be applied"), ("allow-and-log", "is not applied")] {
            let mut vm = option.map_or_else(|| vm_with(json!({})), |option| with_option(json!({}), option));
            annotate(&mut vm, &[("pci-passthrough", r#"{"devices": ["0000:09:00.0"]}"#)]);
            let settings =
                json!({"pciPassthrough": {"errorHandling": mode}, "vbiosInjection": {"errorHandling": mode}});
            let answer = Request::create(vm).settings(settings).cluster(cluster()).evaluate();
            let words = format!("{} {}", answer.message(), answer.warnings().join(" "));
            assert!(words.contains(&format!("vbios-injection {start}")), "{words}");
            assert!(words.contains("it waits for pci-passthrough"), "{words}");
            assert!(!words.contains("add pci-passthrough") && !words.contains("names none of"), "{words}");
        }
    }

    /// The VM has another device, for which the ROM is not.
    #[test]
    fn that_another_directive_would_bring_is_not_replaced_by_another() {
        let mut vm = vm();
        annotate(&mut vm, &[("pci-passthrough", r#"{"devices": ["0000:09:00.0"]}"#)]);
        create(vm.clone()).assert_denied(&["pci-passthrough cannot be applied"]);
        assert!(!create(vm.clone()).message().contains("waits"));
        // Also if the ROM has only an image for EFI.
        for code in [0, 3] {
            let mut rom = super::rom();
            rom[0x54] = code;
            let cluster = with_rom(with_ids(cluster(), "node2-000005000", "1002:164e"), &rom);
            ask(vm.clone(), json!({}), cluster).assert_denied(&["it waits for pci-passthrough"]);
        }
    }

    #[test]
    fn none_is_a_warning() {
        let answer = create(vm_with(json!({})));
        assert_eq!(devices(&answer), "?");
        assert_eq!(
            answer.warnings(),
            [
                "vbios-injection: the VirtualMachine has no host device and no GPU that the ROM could be for; add pci-passthrough"
            ]
        );
    }

    #[rstest]
    #[case::another("1002", "164e", Some("1002:164e"))]
    #[case::of_another_vendor("10DE", "1EB8", Some("10de:1eb8"))]
    #[case::the_same("1002", "1638", None)]
    fn that_the_rom_is_not_for_is_a_warning(#[case] vendor: &str, #[case] device: &str, #[case] ids: Option<&str>) {
        let mut cluster = cluster();
        let status = &mut cluster.object("PCIDevice", "node2-000005000")["status"];
        status["vendorId"] = json!(vendor);
        status["deviceId"] = json!(device);
        let answer = ask(vm(), json!({}), cluster);
        let expected: Vec<String> = ids
            .map(|ids| {
                format!(
                    "vbios-injection: the ROM says that it is for the device 1002:1638, but it goes to node2-000005000 ({ids}); use a ROM of that device"
                )
            })
            .into_iter()
            .collect();
        assert_eq!(answer.warnings(), expected);
    }

    /// AMDGopDriver.rom, which EfiRom makes of AMD's driver, has the ids 1002:ffff. A BIOS would compare its image's ids.
    #[rstest]
    #[case::efi_alone(false, &[])]
    #[case::bios_behind_efi(true, &["vbios-injection: the ROM says that it is for the device 1002:1638, but it goes to node2-000005000 (1002:164e); use a ROM of that device"])]
    fn is_compared_only_with_an_image_for_a_bios(#[case] has_bios: bool, #[case] warnings: &[&str]) {
        let mut efi = super::rom();
        efi[0x46..0x48].copy_from_slice(&[0xff, 0xff]);
        (efi[2], efi[0x54]) = (0xff, 3);
        let rom = if has_bios {
            efi[0x55] = 0;
            [efi, super::rom()].concat()
        } else {
            efi
        };
        let cluster = with_ids(cluster(), "node2-000005000", "1002:164e");
        let answer = ask(vm(), json!({}), with_rom(cluster, &rom));
        assert_eq!(answer.warnings(), warnings);
        assert_eq!(devices(&answer), "node2-000005000 *");
    }

    #[test]
    fn that_cannot_be_looked_up_is_not_compared() {
        let answer = ask(vm(), json!({}), cluster().without("get", &PCI_DEVICE));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }
}

mod config_map {
    use super::*;

    fn with_config_map(config_map: Value) -> MemoryCluster {
        let mut cluster = cluster();
        let object = cluster.object("ConfigMap", "igpu-rom");
        for key in ["binaryData", "data"] {
            object[key] = config_map.get(key).cloned().unwrap_or(json!({}));
        }
        cluster
    }

    #[rstest]
    #[case::no_key(json!({}), "has no binaryData.rom; make it with kubectl create configmap igpu-rom --from-file=rom=FILE")]
    #[case::text(json!({"data": {"rom": "x"}}), "only data.rom, which cannot hold bytes")]
    #[case::other_key(json!({"binaryData": {"vbios.rom": "Vao="}}), "has no binaryData.rom, but \"vbios.rom\"")]
    #[case::empty(json!({"binaryData": {"rom": ""}}), "binaryData.rom of the ConfigMap igpu-rom is empty")]
    #[case::not_a_rom(json!({"binaryData": {"rom": "AAAA"}}), "starts with 00 00, but an option ROM starts with 55 AA")]
    #[case::not_base64(json!({"binaryData": {"rom": "?"}}), "is not valid base64")]
    #[case::base64_text(json!({"data": {"rom": "VaoCAAAA"}}), "only data.rom, which is the base64 text of a ROM; turn it into bytes with base64 -d")]
    #[case::hexadecimal_text(json!({"data": {"rom": "55 AA 02"}}), "only data.rom, which is the hexadecimal text of a ROM")]
    #[case::vbt(json!({"binaryData": {"rom": base64(b"$VBT SKYLAKE        ")}}), "is an Intel VBT (video BIOS table), not an option ROM")]
    #[case::head_alone(json!({"binaryData": {"rom": base64(&[&[0x55, 0xaa][..], &[0; 510]].concat())}}), "less than a whole option ROM")]
    #[case::half(json!({"binaryData": {"rom": base64(&rom()[..300])}}), "it has 300 bytes, but its image at byte 0 ends at byte 512")]
    #[case::behind_a_header(json!({"binaryData": {"rom": base64(&[b"NVGI\0\0", &rom()[..]].concat())}}), "dd if=FILE of=rom bs=1 skip=6")]
    fn that_holds_no_rom_is_an_error(#[case] config_map: Value, #[case] part: &str) {
        ask(vm(), json!({}), with_config_map(config_map)).assert_denied(&["igpu-rom", part]);
    }

    #[test]
    fn is_looked_for_in_the_vms_namespace() {
        let mut vm = vm();
        vm["metadata"]["namespace"] = json!("other");
        let parts = ["there is no ConfigMap igpu-rom in the namespace other", "binaryData.rom"];
        create(vm).assert_denied(&parts);
    }

    #[rstest]
    #[case::forbidden(
        ClusterError::Forbidden(None),
        "the account that policy-server runs as may not get configmaps in the namespace default"
    )]
    #[case::not_declared(ClusterError::NotDeclared, "add {apiVersion: v1, kind: ConfigMap} to")]
    #[case::unavailable(ClusterError::Unavailable, "try again later")]
    fn that_cannot_be_read_is_an_error(#[case] error: ClusterError, #[case] part: &str) {
        let answer = ask(vm(), json!({}), cluster().failing(&CONFIG_MAP, error));
        answer.assert_denied(&["the ConfigMap igpu-rom cannot be read", part]);
    }

    #[rstest]
    #[case::upper_case("Rom", "not the name of a ConfigMap")]
    #[case::path("../rom", "not the name of a ConfigMap")]
    #[case::dot("igpu.rom", "KubeVirt names a pod volume after the ConfigMap")]
    #[case::volume_of_the_pod("private", "a volume of every KubeVirt pod already has that name")]
    fn of_a_name_that_cannot_be_is_an_error(#[case] name: &str, #[case] part: &str) {
        let mut vm = vm();
        annotate(&mut vm, &[("vbios-injection", name)]);
        let answer = create(vm);
        answer.assert_denied(&[part]);
        assert_eq!(answer.lookups, Vec::<String>::new());
    }

    #[test]
    fn of_a_name_with_a_dot_can_be_a_volume() {
        let mut cluster = cluster();
        cluster.object("ConfigMap", "igpu-rom")["metadata"]["name"] = json!("igpu.rom");
        let mut vm = vm();
        annotate(&mut vm, &[("vbios-injection", "igpu.rom")]);
        assert!(ask(vm, json!({"romDelivery": "volume"}), cluster).is_accepted());
    }

    #[test]
    fn with_an_image_missing_at_its_end_is_a_warning() {
        let mut rom = rom();
        rom[0x55] = 0;
        let answer = ask(vm(), json!({}), with_rom(cluster(), &rom));
        assert_eq!(
            answer.warnings(),
            [
                "vbios-injection: the ROM says that it has another image at byte 512, but the file ends there; if the guest needs that image, dump the ROM again"
            ]
        );
    }

    #[test]
    fn by_volume_a_sidecar_may_not_use_the_volumes_name() {
        let mut vm = vm();
        let others = json!([{"configMap": {"name": "vbios-rom"}}]).to_string();
        vm["spec"]["template"]["metadata"] = json!({"annotations": {ANNOTATION: others}});
        assert!(create(vm.clone()).is_accepted());
        let parts = ["another hook sidecar uses a ConfigMap or claim vbios-rom", "give that sidecar one"];
        ask(vm, json!({"romDelivery": "volume"}), cluster()).assert_denied(&parts);
    }

    #[test]
    fn of_the_name_of_another_pod_volume_is_an_error() {
        let mut with_volume = vm();
        with_volume["spec"]["template"]["spec"]["volumes"] = json!([{"name": "igpu-rom", "emptyDisk": {}}]);
        create(with_volume).assert_denied(&["a volume of the VirtualMachine already has that name"]);

        for kind in ["configMap", "pvc"] {
            let mut with_sidecar = vm();
            let others = json!([{kind: {"name": "igpu-rom"}}]).to_string();
            with_sidecar["spec"]["template"]["metadata"] = json!({"annotations": {ANNOTATION: others}});
            create(with_sidecar.clone()).assert_denied(&[
                "another hook sidecar already has that name",
                "put the ROM into a second ConfigMap, with another name",
            ]);
            assert!(ask(with_sidecar, json!({"romDelivery": "volume"}), cluster()).is_accepted());
        }
    }
}

mod gate_and_image {
    use super::*;

    fn with_kubevirt(gates: Value, version: &str) -> MemoryCluster {
        let mut cluster = cluster();
        let kubevirt = cluster.object("KubeVirt", "kubevirt");
        kubevirt["spec"]["configuration"]["developerConfiguration"]["featureGates"] = gates;
        kubevirt["status"]["observedKubeVirtVersion"] = json!(version);
        cluster
    }

    #[rstest]
    #[case::off(json!(["HostDevices"]))]
    #[case::none(json!([]))]
    fn a_gate_that_is_off_is_an_error(#[case] gates: Value) {
        let answer = ask(vm(), json!({}), with_kubevirt(gates, "v1.7.0"));
        answer.assert_denied(&["feature gate Sidecar is off", "featureGates of the KubeVirt object"]);
    }

    #[rstest]
    #[case::without_hooks_by_config_map("v1.1.1", true)]
    #[case::older("v0.59.2", true)]
    #[case::the_first("v1.2.0", false)]
    #[case::unknown("latest", false)]
    fn a_kubevirt_that_is_too_old_is_an_error(#[case] version: &str, #[case] is_denied: bool) {
        let answer = ask(vm(), json!({}), with_kubevirt(json!(["Sidecar"]), version));
        match is_denied {
            true => answer.assert_denied(&[&format!("KubeVirt {version} is too old"), "1.2", "update it"]),
            false => assert!(answer.is_accepted(), "{}", answer.message()),
        }
    }

    /// What KubeVirt 1.9 does: `pkg/virt-launcher/virtwrap/util/libvirt_helper.go:166`, and kubevirt/kubevirt, issue 18861.
    #[test]
    fn plugins_are_warned_of() {
        let answer = ask(vm(), json!({}), with_kubevirt(json!(["Plugins", "Sidecar"]), "v1.9.0"));
        assert_eq!(sidecars(&answer).len(), 1);
        let words = answer.warnings().join(" ");
        assert!(words.contains("gate Plugins is on") && words.contains("loses the ROM"), "{words}");
    }

    #[test]
    fn a_gate_that_cannot_be_read_is_not_checked() {
        let answer = ask(vm(), json!({}), cluster().without("get", &KUBEVIRT));
        assert_eq!(sidecars(&answer)[0]["image"], "quay.io/kubevirt/sidecar-shim:v1.4.0");
    }

    #[rstest]
    #[case::upstream("v1.6.3", "v1.6.3")]
    #[case::without_v("1.8.4", "v1.8.4")]
    #[case::downstream("1.5.2-150700.3.5.2", "v1.5.2")]
    #[case::release_candidate("v1.9.0-rc.2", "v1.9.0-rc.2")]
    #[case::build("v1.6.3+abc", "v1.6.3")]
    #[case::latest("latest", "v1.4.0")]
    #[case::empty("", "v1.4.0")]
    #[case::two_parts("v1.6", "v1.4.0")]
    #[case::four_parts("v1.6.3.1", "v1.4.0")]
    fn the_tag_is_that_of_the_running_kubevirt(#[case] version: &str, #[case] tag: &str) {
        let cluster = with_kubevirt(json!(["Sidecar"]), version);
        let image = sidecars(&ask(vm(), json!({}), cluster))[0]["image"].clone();
        assert_eq!(image, format!("quay.io/kubevirt/sidecar-shim:{tag}"));
    }

    #[rstest]
    #[case::mirror(json!({"defaultSidecarImage": "mirror.local:5000/shim:v1"}), "mirror.local:5000/shim:v1.7.0")]
    #[case::no_detection(json!({"defaultSidecarImage": "mirror.local/shim:v1", "autoDetectVersion": false}), "mirror.local/shim:v1")]
    #[case::pinned(
        json!({"defaultSidecarImage": "shim@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}),
        "shim@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    )]
    fn the_repository_is_the_settings(#[case] settings: Value, #[case] image: &str) {
        assert_eq!(sidecars(&ask(vm(), settings, cluster()))[0]["image"], image);
    }

    fn with_image(image: &str) -> Value {
        let mut vm = vm();
        annotate(&mut vm, &[("sidecar-image", image)]);
        vm
    }

    #[test]
    fn the_option_names_another() {
        let answer = create(with_image("registry.local:5000/a/shim:v9"));
        assert_eq!(sidecars(&answer)[0]["image"], "registry.local:5000/a/shim:v9");
    }

    #[test]
    fn an_option_that_is_no_image_is_an_error() {
        create(with_image("Not An Image")).assert_denied(&["sidecar-image", "not an image reference"]);
    }

    #[test]
    fn only_allowed_images_are_taken() {
        let settings = json!({"allowedSidecarImages": ["mirror.local/*"]});
        let answer = ask(with_image("mirror.local/shim:v1"), settings.clone(), cluster());
        assert!(answer.is_accepted(), "{}", answer.message());
        for vm in [with_image("evil.example/shim:v1"), vm()] {
            let parts = ["not one that the policy allows (mirror.local/*)", "allowedSidecarImages"];
            ask(vm, settings.clone(), cluster()).assert_denied(&parts);
        }
    }
}

/// The setting `allowedSidecarImages`: repository, tag and digest are compared each.
mod allowed_images {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn with_image(image: &str) -> Value {
        let mut vm = vm();
        annotate(&mut vm, &[("sidecar-image", &image.replace("DIGEST", DIGEST))]);
        vm
    }

    #[rstest]
    #[case::a_port_that_looks_like_a_tag("sidecar-shim:*", "sidecar-shim:5000/evil/image:v1")]
    #[case::another_registry("quay.io/kubevirt/sidecar-shim:*", "evil.example/quay.io/kubevirt/sidecar-shim:v1")]
    #[case::a_deeper_repository("quay.io/kubevirt/sidecar-shim:*", "quay.io/kubevirt/sidecar-shim/evil:v1")]
    #[case::a_digest_that_overrides_the_tag(
        "quay.io/kubevirt/sidecar-shim:v1.*",
        "quay.io/kubevirt/sidecar-shim:v1.4.0@DIGEST"
    )]
    #[case::no_tag("quay.io/kubevirt/sidecar-shim:v1.*", "quay.io/kubevirt/sidecar-shim")]
    #[case::no_digest("quay.io/kubevirt/sidecar-shim@sha256:*", "quay.io/kubevirt/sidecar-shim:v1.4.0")]
    #[case::the_registry_in_the_path("*.example.com/shim", "evil.example/a.example.com/shim:v1")]
    fn an_image_that_only_looks_like_an_allowed_one_is_refused(#[case] pattern: &str, #[case] image: &str) {
        let answer = ask(with_image(image), json!({"allowedSidecarImages": [pattern]}), cluster());
        answer.assert_denied(&[&format!("not one that the policy allows ({pattern})")]);
    }

    #[rstest]
    #[case::any_tag("quay.io/kubevirt/sidecar-shim:*", "quay.io/kubevirt/sidecar-shim:v1.4.0")]
    #[case::anything_of_a_repository("quay.io/kubevirt/sidecar-shim", "quay.io/kubevirt/sidecar-shim:v1.4.0@DIGEST")]
    #[case::a_digest("quay.io/kubevirt/sidecar-shim@sha256:*", "quay.io/kubevirt/sidecar-shim@DIGEST")]
    #[case::a_registry_with_a_port("mirror.local:5000/*", "mirror.local:5000/kubevirt/shim:v1")]
    fn an_allowed_image_is_taken(#[case] pattern: &str, #[case] image: &str) {
        let answer = ask(with_image(image), json!({"allowedSidecarImages": [pattern]}), cluster());
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(sidecars(&answer)[0]["image"], image.replace("DIGEST", DIGEST));
    }
}

/// The option `guest-address`.
mod guest_address {
    use super::*;

    fn with_address(mut vm: Value, address: &str) -> Value {
        annotate(&mut vm, &[("guest-address", address)]);
        vm
    }

    #[rstest]
    #[case::as_intels_drivers_expect_it("00:02.0", "0000:00:02.0")]
    #[case::with_domain("0000:00:02.0", "0000:00:02.0")]
    #[case::upper_case("00:1E.0", "0000:00:1e.0")]
    #[case::first("00:01.0", "0000:00:01.0")]
    fn is_an_argument_of_the_sidecar(#[case] address: &str, #[case] expected: &str) {
        let answer = create(with_address(vm(), address));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
        let command = sidecars(&answer)[0]["command"].clone();
        assert_eq!(
            command.as_array().unwrap()[6..],
            ["node2-000005000 *", &format!("--guest-address={expected}"), "--version", "v1alpha3"]
        );
        create(answer.after()).assert_accepted_unchanged();
    }

    #[test]
    fn may_be_added_to_a_vm_that_has_the_rom() {
        let before = create(vm()).after();
        let answer = Request::update(before.clone(), with_address(before, "00:02.0")).cluster(cluster()).evaluate();
        assert_eq!(sidecars(&answer).len(), 1);
        assert_eq!(sidecars(&answer)[0]["command"][7], "--guest-address=0000:00:02.0");
        let mut without = answer.after();
        without["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/guest-address");
        let answer = Request::update(answer.after(), without).cluster(cluster()).evaluate();
        assert_eq!(sidecars(&answer)[0]["command"][7], "--version");
    }

    #[rstest]
    fn of_another_form_is_an_error(
        #[values(
            "00:02",
            "02.0",
            "2",
            "igpu",
            "0x02",
            "00:02.1",
            "01:02.0",
            "0001:00:02.0",
            "00:00.0",
            "00:1f.0",
            "00:20.0",
            "node1/00:02.0",
            "00:02.*",
            "8086:3e91"
        )]
        address: &str,
    ) {
        let parts = ["guest-address", address, "00:02.0", "bus 00", "a slot from 01 to 1e", "function 0"];
        create(with_address(vm(), address)).assert_denied(&parts);
    }

    #[rstest]
    #[case::interface("interfaces", json!({"name": "default", "pciAddress": "0000:00:02.0"}))]
    #[case::another_function("interfaces", json!({"name": "default", "pciAddress": "0000:00:02.1"}))]
    #[case::disk("disks", json!({"name": "default", "disk": {"bus": "virtio", "pciAddress": "0000:00:02.0"}}))]
    fn of_another_device_is_an_error(#[case] list: &str, #[case] device: Value) {
        let mut vm = with_address(vm(), "00:02.0");
        let devices = &mut vm["spec"]["template"]["spec"]["domain"]["devices"];
        devices[list] = json!([{"name": "other"}, device]);
        let parts = ["guest-address asks for 0000:00:02.0, but default has that slot by its pciAddress"];
        create(vm).assert_denied(&parts);
    }

    #[rstest]
    #[case::interface("interfaces", json!({"name": "default", "pciAddress": "0000:00:10.0"}))]
    #[case::on_another_bus("interfaces", json!({"name": "default", "pciAddress": "0000:02:02.0"}))]
    #[case::not_an_address("interfaces", json!({"name": "default", "pciAddress": "2"}))]
    fn beside_other_places_is_accepted(#[case] list: &str, #[case] device: Value) {
        let mut vm = with_address(vm(), "00:02.0");
        vm["spec"]["template"]["spec"]["domain"]["devices"][list] = json!([device]);
        assert_eq!(sidecars(&create(vm)).len(), 1);
    }

    #[test]
    fn does_not_go_with_places_that_kubevirt_chooses() {
        let mut vm = with_address(vm(), "00:02.0");
        let annotations = |value| json!({"annotations": {"kubevirt.io/placePCIDevicesOnRootComplex": value}});
        vm["spec"]["template"]["metadata"] = annotations("false");
        assert!(create(vm.clone()).is_accepted());
        vm["spec"]["template"]["metadata"] = annotations("true");
        create(vm).assert_denied(&["placePCIDevicesOnRootComplex", "remove one of them"]);
    }
}

/// The setting `vbiosInjection.requireUserAccess`.
#[test]
fn a_rom_only_for_who_may_read_it() {
    let evaluate = |user: &str, cluster: MemoryCluster| {
        let vm =
            bare_vm(&[("pci-passthrough", r#"{"devices": ["node2/0000:05:00.0"]}"#), ("vbios-injection", "igpu-rom")]);
        let mut request = Request::create(vm);
        request.request["userInfo"] = json!({"username": user, "groups": ["team-a"]});
        request.settings(json!({"vbiosInjection": {"requireUserAccess": true}})).cluster(cluster).evaluate()
    };
    let cluster = || self::cluster().readable_by("alice");
    let answer = evaluate("alice", cluster());
    assert!(answer.is_accepted(), "{}", answer.message());
    assert!(answer.reviews.contains(&"alice get configmaps. igpu-rom".to_owned()), "{:?}", answer.reviews);
    evaluate("bob", cluster()).assert_denied(&[
        "the user \"bob\" may not get the ConfigMap igpu-rom in the namespace default",
        "vbiosInjection.requireUserAccess",
    ]);
    let odd = self::cluster().without("get", &CONFIG_MAP);
    evaluate("alice", odd.readable_by("alice")).assert_denied(&["may not get the ConfigMap igpu-rom"]);
}
