//! Directive `pci-passthrough`.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, PCI_DEVICE};

use super::devices;
use super::harness::{Answer, MemoryCluster, Request, bare_vm, vm};

fn evaluate(value: &str, settings: Value) -> Answer {
    Request::create(bare_vm(&[("pci-passthrough", value)])).settings(json!({"pciPassthrough": settings})).evaluate()
}

fn by_address(value: &str) -> Answer {
    evaluate(value, json!({"deviceNames": "address"}))
}

/// A VM with these host devices that asks for one more address.
fn vm_with_devices(devices: Value, gpus: Value) -> Value {
    let mut vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
    vm["spec"]["template"]["spec"]["domain"]["devices"] = json!({"hostDevices": devices, "gpus": gpus});
    vm
}

#[test]
fn devices_are_appended_to_what_the_user_selected() {
    let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
    let directive = r#"{"devices": ["0000:03:00.0", "03:00.1"]}"#;
    let answer = Request::create(vm(&[("pci-passthrough", directive)])).settings(settings).evaluate();
    assert_eq!(
        answer.patch(),
        json!([
            {
                "op": "add",
                "path": "/metadata/annotations/vm-feature-manager.io~1pci-passthrough-applied",
                "value": r#"["0000:03:00.0","0000:03:00.1"]"#,
            },
            {
                "op": "add",
                "path": "/spec/template/metadata/annotations/vm-feature-manager.io~1record",
                "value": concat!(
                    r#"{"pci-passthrough":{"value":"{\"devices\": [\"0000:03:00.0\", \"03:00.1\"]}","added":["#,
                    r#"{"hostDevice":"pci-device-0","resource":"pci_0000_03_00_0","beside":["node1-000000020"]},"#,
                    r#"{"hostDevice":"pci-device-1","resource":"pci_0000_03_00_1","beside":["node1-000000020"]}]}}"#
                ),
            },
            {
                "op": "add",
                "path": "/spec/template/spec/domain/devices/hostDevices/1",
                "value": {"name": "pci-device-0", "deviceName": "pci_0000_03_00_0"},
            },
            {
                "op": "add",
                "path": "/spec/template/spec/domain/devices/hostDevices/2",
                "value": {"name": "pci-device-1", "deviceName": "pci_0000_03_00_1"},
            },
        ])
    );
    let warning = "pci-passthrough: 0000:03:00.0 is named by its address (the setting pciPassthrough.deviceNames says so), but \
                   Kubernetes has no resource of that name, so the VirtualMachine will not start";
    assert!(answer.warnings().join(" ").starts_with(warning), "{:?}", answer.warnings());
}

#[rstest]
#[case::upper_case(r#"{"devices": ["0000:0A:1F.7"]}"#, "pci_0000_0a_1f_7", "0000:0a:1f.7")]
#[case::without_domain(r#"{"devices": ["65:00.0"]}"#, "pci_0000_65_00_0", "0000:65:00.0")]
#[case::spaces(r#" {"devices": [" 0000:00:02.0 "]} "#, "pci_0000_00_02_0", "0000:00:02.0")]
fn addresses_are_normalized(#[case] value: &str, #[case] device_name: &str, #[case] address: &str) {
    let answer = by_address(value);
    assert_eq!(answer.domain()["devices"]["hostDevices"][0]["deviceName"], device_name);
    let applied = answer.annotation("pci-passthrough-applied").unwrap();
    assert_eq!(applied, format!("[\"{address}\"]"));
}

#[rstest]
#[case::not_json("0000:00:02.0", "not valid JSON")]
#[case::cut_off(r#"{"devices": ["#, "not valid JSON")]
#[case::two_values(r#"{"devices": []} {}"#, "not valid JSON")]
#[case::deep(&"[".repeat(10_000), "not valid JSON")]
#[case::list(r#"["0000:00:02.0"]"#, "it is a list, not an object")]
#[case::number("2", "it is a number, not an object")]
#[case::mistyped_key(r#"{"device": ["0000:00:02.0"]}"#, r#"unknown key "device""#)]
#[case::other_key(r#"{"devices": ["0000:00:02.0"], "node": "a"}"#, r#"unknown key "node""#)]
#[case::no_key("{}", "it names no device")]
#[case::null(r#"{"devices": null}"#, "it names no device")]
#[case::no_device(r#"{"devices": []}"#, "it names no device")]
#[case::not_a_list(r#"{"devices": "0000:00:02.0"}"#, "devices is a string, not a list")]
#[case::not_text(r#"{"devices": ["0000:00:02.0", 2]}"#, "devices[1] is a number, not a string")]
#[case::bad_address(
    r#"{"devices": ["0000:00:02.8"]}"#,
    r#"devices[0] "0000:00:02.8" is not a PCI address or vendor:device: its function"#
)]
#[case::bad_node(r#"{"devices": ["Node_1/0000:00:02.0"]}"#, r#"devices[0] "Node_1/0000:00:02.0" does not name a node"#)]
#[case::empty_node(r#"{"devices": ["/0000:00:02.0"]}"#, "does not name a node")]
#[case::duplicate(r#"{"devices": ["0000:00:0a.0", "00:0A.0"]}"#, "0000:00:0a.0 is listed more than once")]
#[case::duplicate_with_node(r#"{"devices": ["a/00:0a.0", "00:0a.0"]}"#, "0000:00:0a.0 is listed more than once")]
#[case::bad_pci_device_name(
    r#"{"devices": ["Node_1-000000020"]}"#,
    r#"devices[0] "Node_1-000000020" does not name a node"#
)]
#[case::not_a_pci_device_name(r#"{"devices": ["node1-00000020"]}"#, "is not a PCI address")]
#[case::two_nodes(r#"{"devices": ["a/00:02.0", "b/00:03.0"]}"#, "on the nodes a and b")]
fn a_bad_value_is_an_error(#[case] value: &str, #[case] part: &str) {
    by_address(value).assert_denied(&["pci-passthrough", part]);
}

#[rstest]
#[case::first_free(json!([{"name": "pci-device-0", "deviceName": "x/y"}, {"name": "pci-device-2", "deviceName": "x/y"}]), json!(null), "pci-device-1")]
#[case::not_a_gpus(json!([]), json!([{"name": "pci-device-0", "deviceName": "x/y"}]), "pci-device-1")]
#[case::no_names(json!([{}, {"name": null}]), json!(null), "pci-device-0")]
fn a_device_gets_the_first_free_name(#[case] devices: Value, #[case] gpus: Value, #[case] name: &str) {
    let count = devices.as_array().unwrap().len();
    let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
    let answer = Request::create(vm_with_devices(devices.clone(), gpus)).settings(settings).evaluate();
    let after = answer.domain()["devices"]["hostDevices"].clone();
    assert_eq!(after[count], json!({"name": name, "deviceName": "pci_0000_00_02_0"}));
    assert_eq!(after.as_array().unwrap()[..count], devices.as_array().unwrap()[..]);
}

#[test]
fn a_device_that_is_there_already_is_not_added() {
    let there = json!([{"name": "mine", "deviceName": "pci_0000_00_02_0", "tag": "keep"}]);
    let settings = json!({"pciPassthrough": {"deviceNames": "address", "maxDevices": 1}});
    let answer = Request::create(vm_with_devices(there.clone(), json!(null))).settings(settings).evaluate();
    assert_eq!(answer.domain()["devices"]["hostDevices"], there);
    assert_eq!(answer.annotation("pci-passthrough-applied").as_deref(), Some(r#"["0000:00:02.0"]"#));
}

#[rstest]
#[case::asked_for(r#"{"devices": ["00:01.0", "00:02.0", "00:03.0"]}"#, json!([]), Some(3))]
#[case::with_those_present(r#"{"devices": ["00:01.0", "00:02.0"]}"#, json!([{"name": "a", "deviceName": "x/y"}]), Some(3))]
#[case::at_the_limit(r#"{"devices": ["00:01.0"]}"#, json!([{"name": "a", "deviceName": "x/y"}]), None)]
fn there_is_a_most(#[case] value: &str, #[case] present: Value, #[case] count: Option<usize>) {
    let mut vm = bare_vm(&[("pci-passthrough", value)]);
    vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = present;
    let settings = json!({"pciPassthrough": {"deviceNames": "address", "maxDevices": 2}});
    let answer = Request::create(vm).settings(settings).evaluate();
    match count {
        None => assert!(answer.is_accepted(), "{}", answer.message()),
        Some(count) => {
            answer.assert_denied(&[&format!("would have {count} host devices"), "pciPassthrough.maxDevices allows 2"])
        }
    }
}

#[test]
fn eight_devices_are_the_default_most() {
    let devices = |n: usize| {
        let list: Vec<_> = (0..n).map(|i| format!("00:{i:02x}.0")).collect();
        json!({"devices": list}).to_string()
    };
    assert!(by_address(&devices(8)).is_accepted());
    by_address(&devices(9)).assert_denied(&["9 host devices", "allows 8"]);
}

#[test]
fn two_devices_may_name_one_node() {
    let answer = by_address(r#"{"devices": ["node1/0000:00:02.0", "node1/0000:03:00.0"]}"#);
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["devices"]["hostDevices"].as_array().map(Vec::len), Some(2));
}

#[rstest]
#[case::text_with_commas(json!({"default": "0000:01:*, 0000:00:*"}), true)]
#[case::text_with_lines(json!({"default": "0000:01:*\n0000:00:*\r\n"}), true)]
#[case::text_with_empty_pieces(json!({"default": ",0000:01:*,, 0000:00:*,"}), true)]
#[case::empty_text(json!({"default": ""}), false)]
#[case::only_separators(json!({"default": ", \n,"}), false)]
#[case::the_word_for_nothing(json!({"default": "none", "*": "none"}), false)]
#[case::null(json!({"default": null}), false)]
#[case::address_of_namespace(json!({"default": ["0000:00:02.*"]}), true)]
#[case::upper_case_pattern(json!({"default": ["0000:00:0?.0"]}), true)]
#[case::namespace_pattern(json!({"def*": ["*"]}), true)]
#[case::device_name(json!({"*": ["pci_0000_00_02_0"]}), true)]
#[case::second_pattern(json!({"default": ["0000:01:*"], "*": ["0000:00:*"]}), true)]
#[case::not_set(json!({}), true)]
#[case::other_device(json!({"default": ["0000:01:*"]}), false)]
#[case::other_namespace(json!({"team-*": ["*"]}), false)]
#[case::nothing(json!({"default": []}), false)]
fn devices_are_allowed_by_namespace(#[case] allowed: Value, #[case] accepted: bool) {
    let settings = json!({"deviceNames": "address", "allowedDevices": allowed});
    let answer = evaluate(r#"{"devices": ["0000:00:02.0"]}"#, settings);
    if accepted {
        assert!(answer.is_accepted(), "{}", answer.message());
    } else {
        let parts = ["0000:00:02.0 is not allowed in the namespace default", "allowedDevices"];
        answer.assert_denied(&parts);
    }
}

/// A cluster in which PCI devices cannot be looked up.
fn cluster(error: ClusterError) -> MemoryCluster {
    MemoryCluster::of(vec![]).failing(&PCI_DEVICE, error)
}

#[rstest]
#[case::not_declared(MemoryCluster::default(), "does not list")]
#[case::not_offered(cluster(ClusterError::NotOffered), "does not let the policy look up")]
#[case::not_served(cluster(ClusterError::KindNotServed), "does not serve")]
#[case::neither_granted_nor_served(cluster(ClusterError::KindNotServed).without("list", &PCI_DEVICE), "does not serve")]
fn an_address_without_harvester_is_an_error(#[case] cluster: MemoryCluster, #[case] why: &str) {
    let vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
    let answer = Request::create(vm).cluster(cluster).evaluate();
    answer.assert_denied(&[
        "0000:00:02.0 is an address, but without Harvester",
        why,
        "name the device as in 10de:27b8",
    ]);
}

/// The API server forbids only kinds that it serves, and Harvester rejects devices that are named by their addresses.
#[rstest]
#[case::list("list", "0000:00:02.0", "may not list and watch pcidevices.devices.harvesterhci.io")]
#[case::watch("watch", "0000:00:02.0", "may not list and watch pcidevices.devices.harvesterhci.io")]
#[case::get("get", "node1/0000:00:02.0", "may not get pcidevices.devices.harvesterhci.io")]
fn auto_does_not_name_by_address_what_harvester_forbids_to_read(
    #[case] verb: &'static str,
    #[case] device: &str,
    #[case] right: &str,
) {
    let vm = bare_vm(&[("pci-passthrough", &json!({"devices": [device]}).to_string())]);
    let cluster = MemoryCluster::of(vec![]).without(verb, &PCI_DEVICE);
    let answer = Request::create(vm).cluster(cluster).evaluate();
    answer.assert_denied(&[
        right,
        "kubectl create clusterrolebinding vm-feature-manager-kubewarden --clusterrole=vm-feature-manager \
         --serviceaccount=kubewarden:policy-server",
    ]);
}

#[test]
fn auto_does_not_guess_while_the_cluster_does_not_answer() {
    let vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
    let answer = Request::create(vm).cluster(cluster(ClusterError::Unavailable)).evaluate();
    answer.assert_denied(&["looking up pcidevices.devices.harvesterhci.io failed for now; try again later"]);
}

#[rstest]
#[case::not_declared(MemoryCluster::default(), "to that list")]
#[case::not_served(
    cluster(ClusterError::KindNotServed),
    "Harvester's add-on pcidevices-controller is installed and enabled"
)]
fn harvester_without_harvester_is_an_error_that_says_what_to_do(#[case] cluster: MemoryCluster, #[case] part: &str) {
    let vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
    let settings = json!({"pciPassthrough": {"deviceNames": "harvester"}});
    let answer = Request::create(vm).settings(settings).cluster(cluster).evaluate();
    answer.assert_denied(&[part]);
}

#[rstest]
#[case::named(r#"{"devices": ["node1/0000:00:02.0"]}"#, json!({}), Some("node1"))]
#[case::named_as_a_pci_device(r#"{"devices": ["node-1.example-000000020"]}"#, json!({}), Some("node-1.example"))]
#[case::named_once_of_two(r#"{"devices": ["00:01.0", "node1/00:02.0"]}"#, json!({}), Some("node1"))]
#[case::not_named(r#"{"devices": ["0000:00:02.0"]}"#, json!({}), None)]
#[case::switched_off(r#"{"devices": ["node1/0000:00:02.0"]}"#, json!({"pinToNode": false}), None)]
fn a_named_node_becomes_the_node_selector(
    #[case] value: &str,
    #[case] mut settings: Value,
    #[case] node: Option<&str>,
) {
    settings["deviceNames"] = json!("address");
    let answer = evaluate(value, settings);
    assert!(answer.is_accepted(), "{}", answer.message());
    let selector = &answer.after()["spec"]["template"]["spec"]["nodeSelector"];
    assert_eq!(selector["kubernetes.io/hostname"].as_str(), node);
}

#[test]
fn a_node_selector_that_is_there_is_kept() {
    let mut vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#)]);
    let selector = json!({"kubernetes.io/hostname": "node1", "zone": "a"});
    vm["spec"]["template"]["spec"]["nodeSelector"] = selector.clone();
    let answer = Request::create(vm.clone()).evaluate();
    assert_eq!(answer.after()["spec"]["template"]["spec"]["nodeSelector"], selector);

    vm["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"] = json!("node2");
    let answer = Request::create(vm).evaluate();
    answer.assert_denied(&["names the node node1", "may run only on node2"]);
}

#[rstest]
#[case::off(json!(["GPU", "Sidecar"]), false)]
#[case::none(json!([]), false)]
#[case::on(json!(["HostDevices"]), true)]
fn kubevirts_gate_is_checked_where_it_can_be_read(#[case] gates: Value, #[case] accepted: bool) {
    let kubevirt = json!({
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "harvester-system"},
        "spec": {"configuration": {"developerConfiguration": {"featureGates": gates}}},
    });
    let vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
    let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
    let cluster = MemoryCluster::of(vec![kubevirt]);
    let answer = Request::create(vm).settings(settings).cluster(cluster).evaluate();
    if accepted {
        assert!(answer.is_accepted(), "{}", answer.message());
    } else {
        answer.assert_denied(&["feature gate HostDevices is off", "featureGates of the KubeVirt"]);
    }
}

#[rstest]
#[case::host_devices(json!({"hostDevices": {}}), "domain.devices.hostDevices is an object")]
#[case::gpus(json!({"gpus": 1}), "domain.devices.gpus is a number")]
#[case::devices(json!("none"), "domain.devices is a string")]
fn devices_of_wrong_types_are_an_error(#[case] devices: Value, #[case] part: &str) {
    let mut vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
    vm["spec"]["template"]["spec"]["domain"]["devices"] = devices;
    let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
    Request::create(vm).settings(settings).evaluate().assert_denied(&[part]);
}

/// libvirt takes no dot in the alias that KubeVirt makes of a host device's name (harvester/harvester issue 9399).
#[rstest]
#[case::pci("pci-passthrough", "0000:03:00.0", "node1.example.com", true)]
#[case::pci_without_a_dot("pci-passthrough", "0000:03:00.0", "node1-example-com", false)]
#[case::usb("usb-passthrough", "046d:c52b", "node1.example.com", true)]
#[case::usb_without_a_dot("usb-passthrough", "046d:c52b", "node1-example-com", false)]
fn a_device_of_a_node_with_a_dot_in_its_name_is_a_warning(
    #[case] directive: &str,
    #[case] device: &str,
    #[case] node: &str,
    #[case] warns: bool,
) {
    let (pci, usb) = (format!("{node}-000003000"), format!("{node}-046d-c52b-001002"));
    let mut objects = vec![devices::kubevirt(json!({
        "pciHostDevices": [{"pciVendorSelector": "8086:1521", "resourceName": "intel.com/I350"}],
        "usb": [{"resourceName": format!("kubevirt.io/{usb}"), "selectors": [{"vendor": "046d", "product": "c52b"}]}],
    }))];
    objects.extend(devices::pci(&pci, "8086:1521", "20", "intel.com/I350"));
    objects.push(devices::usb(&usb));
    let vm = bare_vm(&[(directive, &json!({"devices": [device]}).to_string())]);
    let answer = devices::create(vm, MemoryCluster::of(objects));
    let name = if directive == "pci-passthrough" { &pci } else { &usb };
    assert_eq!(devices::names(&answer), [name.as_str()]);
    let warning = format!(
        "{directive}: the VirtualMachine will not start, because KubeVirt starts none with a dot in the name of a host device: \
         {name}; use devices of a node whose name has no dot (harvester/harvester issue 9399)"
    );
    let expected: &[String] = if warns { &[warning] } else { &[] };
    assert_eq!(answer.warnings(), expected);
}
