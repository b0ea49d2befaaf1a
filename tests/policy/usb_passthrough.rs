//! Directive `usb-passthrough`: Harvester's USB devices, and those that KubeVirt permits.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, KUBEVIRT, USB_DEVICE};

use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm, fixtures};

/// Two nodes with USB devices, a PCI device on each, and KubeVirt.
fn harvester() -> MemoryCluster {
    MemoryCluster::of(fixtures("../../examples/usb-passthrough/cluster/cluster.yaml"))
}

/// A cluster with KubeVirt but without Harvester. KubeVirt permits USB devices.
fn kubevirt() -> MemoryCluster {
    let mut cluster = MemoryCluster::of(fixtures("../../examples/kubevirt/cluster/cluster.yaml"));
    cluster.object("KubeVirt", "kubevirt")["metadata"]["namespace"] = json!("harvester-system");
    cluster.failing(&USB_DEVICE, ClusterError::KindNotServed)
}

fn vm(devices: &[&str]) -> Value {
    bare_vm(&[("usb-passthrough", &json!({"devices": devices}).to_string())])
}

fn with_host_devices(mut vm: Value, devices: &Value) -> Value {
    vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = devices.clone();
    vm
}

fn create(vm: Value) -> Answer {
    Request::create(vm).cluster(harvester()).evaluate()
}

fn update(from: &Value, to: Value) -> Answer {
    Request::update(from.clone(), to).cluster(harvester()).evaluate()
}

fn host_devices(answer: &Answer) -> Value {
    assert!(answer.is_accepted(), "{}", answer.message());
    answer.domain()["devices"]["hostDevices"].clone()
}

fn device(name: &str, resource: &str) -> Value {
    json!({"name": name, "deviceName": resource})
}

/// A USBDevice as a host device.
fn usb(name: &str) -> Value {
    device(name, &format!("kubevirt.io/{name}"))
}

const RECEIVER: &str = "node1-046d-c52b-001002";
const KEY: &str = "node1-1050-0407-001003";
const OTHER_RECEIVER: &str = "node2-046d-c52b-001004";

#[rstest]
#[case::only_one(&["1050:0407"], &[KEY])]
#[case::capitals(&["node1/046D:C52B"], &[RECEIVER])]
#[case::name(&[OTHER_RECEIVER], &[OTHER_RECEIVER])]
#[case::the_others_node_decides(&["046d:c52b", "1050:0407"], &[RECEIVER, KEY])]
#[case::spaces(&[" 1050:0407 "], &[KEY])]
fn a_device_has_the_name_of_its_usb_device_and_its_resource(#[case] devices: &[&str], #[case] names: &[&str]) {
    let answer = create(vm(devices));
    let expected: Vec<_> = names.iter().map(|name| usb(name)).collect();
    assert_eq!(host_devices(&answer), json!(expected));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// The VM could not have the device on the other node as well.
#[test]
fn a_device_that_the_vm_has_is_it_even_if_it_is_no_longer_enabled() {
    let mut cluster = harvester();
    cluster.object("USBDevice", OTHER_RECEIVER)["status"]["enabled"] = json!(false);
    let has = json!([usb(OTHER_RECEIVER)]);
    let answer = Request::create(with_host_devices(vm(&["046d:c52b"]), &has)).cluster(cluster).evaluate();
    assert_eq!(host_devices(&answer), has);
}

#[test]
fn what_was_done_is_recorded() {
    let answer = create(vm(&["node1/046D:C52B", KEY]));
    let applied = answer.annotation("usb-passthrough-applied");
    assert_eq!(applied.as_deref(), Some(r#"["046d:c52b","node1-1050-0407-001003"]"#));
    let added: Value = serde_json::from_str(&answer.added("usb-passthrough").unwrap()).unwrap();
    let record = |name: &str| json!({"hostDevice": name, "resource": format!("kubevirt.io/{name}")});
    assert_eq!(added, json!([record(RECEIVER), record(KEY), {"nodeSelector": "node1"}]));
}

#[rstest]
#[case::pinned(json!({}), json!({"kubernetes.io/hostname": "node1"}))]
#[case::not_pinned(json!({"pinToNode": false}), json!(null))]
fn a_node_that_is_named_is_selected(#[case] settings: Value, #[case] selector: Value) {
    let request = Request::create(vm(&["node1/046d:c52b"])).settings(json!({"usbPassthrough": settings}));
    let answer = request.cluster(harvester()).evaluate();
    assert_eq!(host_devices(&answer), json!([usb(RECEIVER)]));
    assert_eq!(answer.after()["spec"]["template"]["spec"]["nodeSelector"], selector);
}

#[rstest]
#[case::not_an_object("[]", "it is a list, not an object; write '{\"devices\": [\"046d:c52b\"]}'")]
#[case::form(
    r#"{"devices": ["46d:c52b"]}"#,
    "devices[0] \"46d:c52b\" is not a USB device: it has neither the form VVVV:PPPP"
)]
#[case::pci_address(r#"{"devices": ["0000:00:02.0"]}"#, "is not a USB device")]
#[case::pci_device(r#"{"devices": ["node1-000000020"]}"#, "is not a USB device")]
#[case::node(r#"{"devices": ["Node_1/046d:c52b"]}"#, "does not name a node")]
#[case::twice(r#"{"devices": ["046d:c52b", "046D:C52B"]}"#, "046d:c52b is listed more than once")]
#[case::two_nodes(r#"{"devices": ["a/046d:c52b", "b/1050:0407"]}"#, "on the nodes a and b")]
#[case::five(
    r#"{"devices": ["0001:0001", "0001:0002", "0001:0003", "0001:0004", "0001:0005"]}"#,
    "would have 5 USB devices, but the setting usbPassthrough.maxDevices allows 4"
)]
fn a_bad_value_is_an_error(#[case] value: &str, #[case] part: &str) {
    let answer = create(bare_vm(&[("usb-passthrough", value)]));
    answer.assert_denied(&["usb-passthrough", part]);
    assert_eq!(answer.lookups, Vec::<String>::new());
}

#[rstest]
#[case::nowhere(&["dead:beef"], "no node has a USB device dead:beef; look it up under USB Devices in Harvester, or use the directive pci-passthrough if it is no USB device")]
#[case::unplugged(&["node1-046d-c52b-001009"], "the node node1 has no USB device node1-046d-c52b-001009")]
#[case::not_on_the_node(&["node2/1050:0407"], "the node node2 has no USB device 1050:0407; it is on node1, so choose a node that has it")]
#[case::not_enabled(&["0781:5567"], "0781:5567 is not enabled for passthrough on node1; enable passthrough for the USB device")]
#[case::two_alike(
    &["046d:c52b"],
    "046d:c52b matches different devices: node1-046d-c52b-001002 (kubevirt.io/node1-046d-c52b-001002), \
     node2-046d-c52b-001004 (kubevirt.io/node2-046d-c52b-001004); name one of them, as in node1-046d-c52b-001002"
)]
fn a_device_that_cannot_be_had_is_an_error(#[case] devices: &[&str], #[case] message: &str) {
    create(vm(devices)).assert_denied(&["usb-passthrough cannot be applied", message]);
}

#[test]
fn an_orphaned_device_is_not_enabled() {
    let mut cluster = harvester();
    cluster.object("USBDevice", KEY)["status"]["status"] = json!("orphaned");
    let answer = Request::create(vm(&["1050:0407"])).cluster(cluster).evaluate();
    answer.assert_denied(&["1050:0407 is not enabled for passthrough on node1"]);
}

/// The key was plugged in again, so Harvester has it under another name, and keeps the old object as an orphan.
#[test]
fn an_orphaned_device_gives_way_to_the_one_that_is_enabled() {
    let stored = create(vm(&["1050:0407"])).after();
    let again = "node1-1050-0407-001009";
    let mut objects = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml");
    let mut device = objects.iter().find(|object| object["metadata"]["name"] == KEY).unwrap().clone();
    device["metadata"]["name"] = json!(again);
    device["status"]["resourceName"] = json!(format!("kubevirt.io/{again}"));
    objects.push(device);
    let mut cluster = MemoryCluster::of(objects);
    cluster.object("USBDevice", KEY)["status"]["status"] = json!("orphaned");
    let mut new = stored.clone();
    new["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let answer = Request::update(stored, new).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let expected = json!([{"name": again, "deviceName": format!("kubevirt.io/{again}")}]);
    assert_eq!(answer.domain()["devices"]["hostDevices"], expected);
    assert_eq!(
        answer.added("usb-passthrough"),
        Some(format!(r#"[{{"hostDevice":"{again}","resource":"kubevirt.io/{again}"}}]"#))
    );
}

#[test]
fn two_alike_on_one_node_are_told_apart_by_their_names() {
    let cluster = || {
        let mut objects = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml");
        let mut second = objects[0].clone();
        second["metadata"]["name"] = json!("node1-046d-c52b-001007");
        second["status"]["resourceName"] = json!("kubevirt.io/node1-046d-c52b-001007");
        objects.push(second);
        MemoryCluster::of(objects)
    };
    let answer = Request::create(vm(&["node1/046d:c52b"])).cluster(cluster()).evaluate();
    answer.assert_denied(&["matches different devices", RECEIVER, "node1-046d-c52b-001007"]);
    let answer = Request::create(vm(&[RECEIVER, "node1-046d-c52b-001007"])).cluster(cluster()).evaluate();
    assert_eq!(host_devices(&answer), json!([usb(RECEIVER), usb("node1-046d-c52b-001007")]));
}

#[rstest]
#[case::of_the_form(json!([device("node2-000005000", "amd.com/CEZANNE_RADEON_VEGA_SERIES")]), &[], "node2")]
#[case::of_another_usb_device(json!([usb(OTHER_RECEIVER)]), &[], "node2")]
#[case::of_the_directive_before(json!([]), &["0000:05:00.0"], "node2")]
fn all_host_devices_are_of_one_node(#[case] devices: Value, #[case] pci: &[&str], #[case] bound: &str) {
    let mut vm = with_host_devices(vm(&["1050:0407"]), &devices);
    if !pci.is_empty() {
        annotate(&mut vm, &[("pci-passthrough", &json!({"devices": pci}).to_string())]);
    }
    create(vm).assert_denied(&[
        "usb-passthrough cannot be applied",
        &format!(
            "already has a host device of the node {bound}, but the devices asked for are elsewhere: 1050:0407 on node1"
        ),
    ]);
}

#[test]
fn a_pci_device_goes_to_the_node_of_a_usb_device_that_is_there() {
    let mut vm = with_host_devices(bare_vm(&[]), &json!([usb(RECEIVER)]));
    annotate(&mut vm, &[("pci-passthrough", r#"{"devices": ["0000:05:00.0"]}"#)]);
    create(vm).assert_denied(&["pci-passthrough cannot be applied", "already has a host device of the node node1"]);
}

#[test]
fn the_node_of_a_pci_device_decides_between_two_alike() {
    let mut vm = vm(&["046d:c52b"]);
    annotate(&mut vm, &[("pci-passthrough", r#"{"devices": ["0000:05:00.0"]}"#)]);
    let answer = create(vm);
    let gpu = device("node2-000005000", "amd.com/CEZANNE_RADEON_VEGA_SERIES");
    assert_eq!(host_devices(&answer), json!([gpu, usb(OTHER_RECEIVER)]));
}

/// Harvester adds the devices of an IOMMU group only if all host devices are PCI devices.
#[rstest]
#[case::with_a_sibling("1", Some("node1-000001001"))]
#[case::alone("2", None)]
fn a_pci_device_that_harvester_will_not_add_is_warned_of(#[case] group: &str, #[case] sibling: Option<&str>) {
    let mut objects = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml");
    let mut audio = objects.iter().find(|o| o["metadata"]["name"] == "node1-000001000").unwrap().clone();
    audio["metadata"]["name"] = json!("node1-000001001");
    audio["status"]["address"] = json!("0000:01:00.1");
    audio["status"]["iommuGroup"] = json!(group);
    objects.push(audio);
    let cluster = || MemoryCluster::of(objects.clone());
    let mut vm = vm(&["1050:0407"]);
    annotate(&mut vm, &[("pci-passthrough", r#"{"devices": ["node1/0000:01:00.0"]}"#)]);
    let answer = Request::create(vm).cluster(cluster()).evaluate();
    let devices = host_devices(&answer);
    let is_there = |name: &str| devices.as_array().unwrap().iter().any(|device| device["name"] == name);
    assert_eq!(is_there("node1-000001001"), sibling.is_some());
    // The policy does not add a device because of one that the user wrote.
    let before = json!([device("node1-000001000", "nvidia.com/TU104GL_TESLA_T4")]);
    let answer = Request::create(with_host_devices(self::vm(&["1050:0407"]), &before)).cluster(cluster()).evaluate();
    let warnings = answer.warnings().join(" ");
    match sibling {
        Some(sibling) => {
            assert!(warnings.starts_with("usb-passthrough: these PCI devices share an IOMMU group"), "{warnings}");
            assert!(warnings.ends_with(&format!("name them in pci-passthrough: {sibling}")), "{warnings}");
        }
        None => assert_eq!(warnings, ""),
    }
}

#[rstest]
#[case::selector(json!({"nodeSelector": {"kubernetes.io/hostname": "node2"}}), Some(OTHER_RECEIVER))]
#[case::elsewhere(json!({"nodeSelector": {"kubernetes.io/hostname": "node3"}}), None)]
fn the_node_of_the_vm_decides_between_two_alike(#[case] spec: Value, #[case] name: Option<&str>) {
    let mut vm = vm(&["046d:c52b"]);
    vm["spec"]["template"]["spec"]["nodeSelector"] = spec["nodeSelector"].clone();
    let answer = create(vm);
    match name {
        Some(name) => assert_eq!(host_devices(&answer), json!([usb(name)])),
        None => answer.assert_denied(&[
            "there is no node node3 (chosen by the VirtualMachine), so it has no USB device 046d:c52b",
            "it is on node1, node2",
        ]),
    }
}

#[test]
fn a_directive_that_names_another_node_than_the_vm_is_an_error() {
    let mut vm = vm(&["node1/046d:c52b"]);
    vm["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node2"});
    create(vm).assert_denied(&["names the node node1, but the VirtualMachine may run only on node2"]);
}

#[test]
fn a_device_that_is_there_is_not_added_again() {
    let there = json!([device("receiver", &format!("kubevirt.io/{RECEIVER}"))]);
    let answer = create(with_host_devices(vm(&["node1/046d:c52b"]), &there));
    assert_eq!(host_devices(&answer), there);
    assert_eq!(answer.added("usb-passthrough").as_deref(), Some(r#"[{"nodeSelector":"node1"}]"#));
}

#[test]
fn usb_devices_alone_are_counted() {
    let devices =
        json!([device("a", "x.io/1"), device("b", "x.io/2"), device("c", "x.io/3"), usb("node1-0000-0000-001001")]);
    let settings = |max: u8| json!({"usbPassthrough": {"maxDevices": max}});
    let request = |max| Request::create(with_host_devices(vm(&["1050:0407"]), &devices)).settings(settings(max));
    let answer = request(2).cluster(harvester()).evaluate();
    assert_eq!(host_devices(&answer).as_array().unwrap().len(), 5);
    request(1).cluster(harvester()).evaluate().assert_denied(&["would have 2 USB devices", "allows 1"]);
}

#[test]
fn a_device_that_was_plugged_in_anew_replaces_the_old_one() {
    let before = create(vm(&["1050:0407"])).after();
    let mut cluster = harvester();
    let device = cluster.object("USBDevice", KEY);
    device["metadata"]["name"] = json!("node1-1050-0407-001008");
    device["status"]["resourceName"] = json!("kubevirt.io/node1-1050-0407-001008");
    let mut after = before.clone();
    after["spec"]["template"]["spec"]["hostname"] = json!("changed");
    let answer = Request::update(before, after).cluster(cluster).evaluate();
    assert_eq!(host_devices(&answer), json!([usb("node1-1050-0407-001008")]));
}

#[test]
fn a_device_that_was_given_stays_when_another_is_plugged_in() {
    let mut alone = harvester();
    alone.object("USBDevice", OTHER_RECEIVER)["status"]["enabled"] = json!(false);
    let before = Request::create(vm(&["046d:c52b"])).cluster(alone).evaluate().after();
    let mut after = before.clone();
    after["spec"]["template"]["spec"]["hostname"] = json!("changed");
    assert_eq!(host_devices(&update(&before, after)), json!([usb(RECEIVER)]));
}

#[test]
fn without_its_directive_a_device_goes() {
    let vm = vm(&["node1/046d:c52b"]);
    let before = create(vm.clone()).after();
    let mut after = before.clone();
    after["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/usb-passthrough");
    let answer = update(&before, after);
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.after()["spec"], bare_vm(&[])["spec"]);
    assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
}

#[rstest]
#[case::usb_first("usb-passthrough", "pci-passthrough")]
#[case::pci_first("pci-passthrough", "usb-passthrough")]
fn a_node_selector_stays_until_the_last_directive_that_needs_it_goes(#[case] first: &str, #[case] second: &str) {
    let value = |name: &str| match name {
        "usb-passthrough" => r#"{"devices": ["node1/1050:0407"]}"#,
        _ => r#"{"devices": ["node1/0000:01:00.0"]}"#,
    };
    let selector = |vm: &Value| vm["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"].clone();
    let without = |vm: &Value, name: &str| {
        let mut vm = vm.clone();
        vm["metadata"]["annotations"].as_object_mut().unwrap().remove(&format!("vm-feature-manager.io/{name}"));
        vm
    };
    let one = create(bare_vm(&[(first, value(first))])).after();
    let mut both = one.clone();
    annotate(&mut both, &[(second, value(second))]);
    let both = update(&one, both).after();
    for (gone, left) in [(first, second), (second, first)] {
        let answer = update(&both, without(&both, gone));
        let remaining = answer.after();
        assert_eq!(selector(&remaining), "node1", "{gone} is gone, {left} is left");
        assert_eq!(host_devices(&answer).as_array().unwrap().len(), 1);
        let nothing = update(&remaining, without(&remaining, left)).after();
        assert_eq!(nothing["spec"], bare_vm(&[])["spec"]);
    }
}

#[test]
fn both_directives_can_move_to_another_node_at_once() {
    let directives = |node: &str, address: &str| {
        let (pci, usb) = (json!({"devices": [address]}), json!({"devices": [format!("{node}/046d:c52b")]}));
        (pci.to_string(), usb.to_string())
    };
    let (pci, usb_value) = directives("node1", "0000:01:00.0");
    let before = create(bare_vm(&[("pci-passthrough", &pci), ("usb-passthrough", &usb_value)])).after();
    let mut after = before.clone();
    let (pci, usb_value) = directives("node2", "node2/0000:05:00.0");
    annotate(&mut after, &[("pci-passthrough", &pci), ("usb-passthrough", &usb_value)]);
    let gpu = device("node2-000005000", "amd.com/CEZANNE_RADEON_VEGA_SERIES");
    assert_eq!(host_devices(&update(&before, after)), json!([gpu, usb(OTHER_RECEIVER)]));
}

#[test]
fn a_device_is_permitted_by_kubevirt_where_there_is_no_harvester() {
    let answer = Request::create(vm(&["046D:C52B"])).cluster(kubevirt()).evaluate();
    assert_eq!(host_devices(&answer), json!([device("usb-0", "kubevirt.io/receiver")]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    let answer = Request::create(vm(&["1050:0407"])).cluster(kubevirt()).evaluate();
    answer.assert_denied(&["KubeVirt does not permit the USB device 1050:0407", "permittedHostDevices.usb"]);
}

#[test]
fn with_permitted_harvester_is_not_asked() {
    let settings = json!({"usbPassthrough": {"deviceNames": "permitted"}});
    let answer = Request::create(vm(&["worker1/046d:c52b"])).settings(settings).cluster(kubevirt()).evaluate();
    assert_eq!(host_devices(&answer), json!([device("usb-0", "kubevirt.io/receiver")]));
    assert_eq!(
        answer.after()["spec"]["template"]["spec"]["nodeSelector"],
        json!({"kubernetes.io/hostname": "worker1"})
    );
    assert_eq!(answer.lookups, ["get Node worker1", "get KubeVirt kubevirt"]);
}

#[rstest]
#[case::two_selectors(json!([{"vendor": "046d", "product": "c52b"}, {"vendor": "046d", "product": "c077"}]), false)]
#[case::none(json!([]), false)]
#[case::as_numbers_in_words(json!([{"vendor": "46d", "product": "C52B"}]), true)]
#[case::not_hexadecimal(json!([{"vendor": "logitech", "product": "c52b"}]), false)]
fn an_entry_counts_whose_only_selector_is_the_device(#[case] selectors: Value, #[case] counts: bool) {
    let mut cluster = kubevirt();
    let permitted = &mut cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"];
    permitted["usb"] = json!([{"resourceName": "example.com/receiver", "selectors": selectors}]);
    let answer = Request::create(vm(&["046d:c52b"])).cluster(cluster).evaluate();
    if counts {
        assert_eq!(host_devices(&answer), json!([device("usb-0", "example.com/receiver")]));
    } else {
        answer.assert_denied(&["KubeVirt does not permit the USB device 046d:c52b"]);
    }
}

#[test]
fn kubevirt_that_cannot_be_looked_up_is_an_error() {
    let cluster = kubevirt().failing(&KUBEVIRT, ClusterError::Unavailable);
    let answer = Request::create(vm(&["046d:c52b"])).cluster(cluster).evaluate();
    answer.assert_denied(&["the USB devices that KubeVirt permits cannot be looked up", "try again later"]);
}

#[rstest]
#[case::forbidden(harvester().without("list", &USB_DEVICE), json!({}), "may not list and watch usbdevices.devices.harvesterhci.io")]
#[case::for_now(harvester().failing(&USB_DEVICE, ClusterError::Unavailable), json!({}), "failed for now; try again later")]
#[case::no_harvester(
    kubevirt(), json!({"deviceNames": "harvester"}),
    "or set usbPassthrough.deviceNames to permitted if there is no Harvester"
)]
fn usb_devices_that_cannot_be_looked_up_are_an_error(
    #[case] cluster: MemoryCluster,
    #[case] settings: Value,
    #[case] part: &str,
) {
    let request = Request::create(vm(&["046d:c52b"])).settings(json!({"usbPassthrough": settings}));
    let answer = request.cluster(cluster).evaluate();
    answer.assert_denied(&["Harvester's USB devices cannot be looked up: ", part]);
}

#[rstest]
#[case::ids("node1/046d:c52b", true)]
#[case::name(RECEIVER, true)]
#[case::another("1050:0407", false)]
fn devices_in_place_stay_without_a_lookup(#[case] directive: &str, #[case] is_in_place: bool) {
    let before = create(vm(&["node1/046d:c52b"])).after();
    let mut after = before.clone();
    annotate(&mut after, &[("usb-passthrough", &json!({"devices": [directive]}).to_string())]);
    after["spec"]["template"]["spec"]["hostname"] = json!("changed");
    let cluster = harvester().without("list", &USB_DEVICE);
    let answer = Request::update(before, after).cluster(cluster).evaluate();
    if is_in_place {
        assert_eq!(host_devices(&answer), json!([usb(RECEIVER)]));
    } else {
        answer.assert_denied(&["Harvester's USB devices cannot be looked up"]);
    }
}

#[test]
fn the_gate_of_host_devices_is_checked() {
    let mut cluster = harvester();
    let configuration = &mut cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"];
    configuration["developerConfiguration"]["featureGates"] = json!([]);
    let answer = Request::create(vm(&["1050:0407"])).cluster(cluster).evaluate();
    answer.assert_denied(&["usb-passthrough", "KubeVirt's feature gate HostDevices is off"]);
}

#[rstest]
#[case::ids(json!({"default": "1050:0407"}), true)]
#[case::capitals(json!({"default": "1050:04*"}), true)]
#[case::node(json!({"def*": ["node1/1050:*"]}), true)]
#[case::name(json!({"default": KEY}), true)]
#[case::resource(json!({"default": "kubevirt.io/node1-1050-*"}), true)]
#[case::another_device(json!({"default": "046d:*"}), false)]
#[case::another_namespace(json!({"other": "*"}), false)]
#[case::nothing(json!({"default": ""}), false)]
fn a_namespace_may_take_what_its_list_allows(#[case] allowed: Value, #[case] may: bool) {
    let settings = json!({"usbPassthrough": {"allowedDevices": allowed}});
    let answer = Request::create(vm(&["1050:0407"])).settings(settings).cluster(harvester()).evaluate();
    if may {
        assert_eq!(host_devices(&answer), json!([usb(KEY)]));
    } else {
        answer
            .assert_denied(&["): 1050:0407 is not allowed in the namespace default", "usbPassthrough.allowedDevices"]);
    }
}

#[rstest]
#[case::owner("alice", None)]
#[case::another("bob", Some("1050:0407 was not claimed by the requester \"bob\""))]
#[case::service_account(
    "system:serviceaccount:flux:flux",
    Some("was not claimed by the requester \"system:serviceaccount:flux:flux\"")
)]
#[case::controller_with_a_long_name(
    "system:serviceaccount:harvester-system:harvester-pcidevices-controller",
    Some(
        "but this request is from \"system:serviceaccount:harvester-system:harvester-pcidevices-controller\", an account \
         that writes VirtualMachines for others (setting controllerAccounts); have the user who claimed it remove the"
    )
)]
fn only_who_claimed_a_device_may_take_it(#[case] user: &str, #[case] refusal: Option<&str>) {
    let settings = json!({"usbPassthrough": {"requireClaimOwner": true}});
    let mut request = Request::create(vm(&["1050:0407"]));
    request.request["userInfo"]["username"] = json!(user);
    let answer = request.settings(settings).cluster(harvester()).evaluate();
    assert!(answer.lookups.contains(&format!("get USBDeviceClaim {KEY}")), "{:?}", answer.lookups);
    match refusal {
        None => assert_eq!(host_devices(&answer), json!([usb(KEY)])),
        Some(part) => answer.assert_denied(&[part, "the setting usbPassthrough.requireClaimOwner"]),
    }
}

#[test]
fn without_requiring_an_owner_no_claim_is_looked_up() {
    let answer = create(vm(&["1050:0407"]));
    assert_eq!(answer.lookups, [crate::lookups::WHO_AM_I, "list USBDevice", "get Node node1", "get KubeVirt kubevirt"]);
}

#[test]
fn without_claims_nobody_is_the_owner() {
    let settings = json!({"usbPassthrough": {"requireClaimOwner": true, "deviceNames": "permitted"}});
    let answer = Request::create(vm(&["046d:c52b"])).settings(settings).cluster(kubevirt()).evaluate();
    answer.assert_denied(&["usbPassthrough.requireClaimOwner is on, but only Harvester's devices have claims"]);
}

#[test]
fn a_rom_is_not_for_a_usb_device() {
    let mut cluster = fixtures("../../examples/workstation/cluster/cluster.yaml");
    cluster.extend(fixtures("../../examples/workstation/cluster/rom.yaml"));
    let vm = fixtures("../../examples/workstation/vm.yaml").remove(0);
    let answer = Request::create(vm).cluster(MemoryCluster::of(cluster)).evaluate();
    let gpu = device("node2-000005000", "amd.com/CEZANNE_RADEON_VEGA_SERIES");
    assert_eq!(host_devices(&answer), json!([gpu, usb(OTHER_RECEIVER)]));
    assert_eq!(answer.annotation("vbios-injection-applied").as_deref(), Some("igpu-rom"));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// The directive lists the device by its vendor and product, and by its name.
#[rstest]
#[case::kind_first(&["node1/046d:c52b", RECEIVER])]
#[case::name_first(&[RECEIVER, "046d:c52b"])]
fn a_device_that_is_listed_in_two_ways_is_an_error(#[case] devices: &[&str]) {
    create(vm(devices)).assert_denied(&[RECEIVER, "listed more than once"]);
}

#[test]
fn a_message_lists_all_that_are_alike() {
    let names: Vec<String> = (2..12).map(|number| format!("node1-046d-c52b-0010{number:02}")).collect();
    let mut objects = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml");
    for name in names.iter().skip(1) {
        let mut other = objects[0].clone();
        other["metadata"]["name"] = json!(name);
        other["status"]["resourceName"] = json!(format!("kubevirt.io/{name}"));
        objects.push(other);
    }
    let cluster = MemoryCluster::of(objects);
    let answer = Request::create(vm(&["node1/046d:c52b"])).cluster(cluster).evaluate();
    let listed = names.iter().take(8).map(|name| format!("{name} (kubevirt.io/{name})"));
    answer.assert_denied(&[&listed.collect::<Vec<_>>().join(", ")]);
    assert!(!answer.message().contains(&names[8]), "{}", answer.message());
}

/// Two identical devices need two host devices, even after an update.
#[test]
fn two_permitted_devices_of_a_kind_stay_two() {
    let settings = || json!({"usbPassthrough": {"deviceNames": "permitted"}});
    let both = vm(&[RECEIVER, "node1-046d-c52b-001007"]);
    let answer = Request::create(both).settings(settings()).cluster(kubevirt()).evaluate();
    let devices = json!([device("usb-0", "kubevirt.io/receiver"), device("usb-1", "kubevirt.io/receiver")]);
    assert_eq!(host_devices(&answer), devices);
    let mut again = answer.after();
    again["spec"]["template"]["spec"]["hostname"] = json!("changed");
    let answer = Request::update(answer.after(), again).settings(settings()).cluster(kubevirt()).evaluate();
    assert_eq!(host_devices(&answer), devices);
}

/// The setting allows the vendor and product, the directive contains the name, and Harvester's devices cannot be read.
#[rstest]
#[case::kind("046d:c52b", true)]
#[case::with_its_node("node1/046d:c52b", true)]
#[case::name(RECEIVER, true)]
#[case::another("1050:0407", false)]
fn what_is_allowed_stays_allowed_without_a_lookup(#[case] allowed: &str, #[case] may: bool) {
    let created = create(vm(&[RECEIVER])).after();
    let mut changed = created.clone();
    changed["spec"]["template"]["spec"]["hostname"] = json!("changed");
    let settings = json!({"usbPassthrough": {"allowedDevices": {"*": [allowed]}}});
    let cluster = harvester().failing(&USB_DEVICE, ClusterError::Unavailable);
    let answer = Request::update(created, changed).settings(settings).cluster(cluster).evaluate();
    assert_eq!(host_devices(&answer), json!([usb(RECEIVER)]));
    let refused = "usb-passthrough fails as before this request, and stays as it is until the directive changes, or what it \
                   needs: node1-046d-c52b-001002 is not allowed";
    assert_eq!(answer.warnings().join(" ").starts_with(refused), !may, "{:?}", answer.warnings());
}
