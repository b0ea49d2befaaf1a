//! Directive `pci-passthrough` on Harvester: addresses become the names that Harvester accepts.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, Kind};

use super::harness::{Answer, MemoryCluster, Request, bare_vm, fixtures};

/// Two nodes, their devices and claims, and KubeVirt.
fn harvester() -> MemoryCluster {
    MemoryCluster::of(fixtures("../../examples/harvester/cluster/cluster.yaml"))
}

fn vm(devices: &[&str]) -> Value {
    bare_vm(&[("pci-passthrough", &json!({"devices": devices}).to_string())])
}

fn with_host_devices(mut vm: Value, devices: &Value) -> Value {
    vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = devices.clone();
    vm
}

fn create(vm: Value) -> Answer {
    Request::create(vm).cluster(harvester()).evaluate()
}

fn host_devices(answer: &Answer) -> Value {
    assert!(answer.is_accepted(), "{}", answer.message());
    answer.domain()["devices"]["hostDevices"].clone()
}

fn device(name: &str, resource: &str) -> Value {
    json!({"name": name, "deviceName": resource})
}

fn igpu() -> Value {
    device("node1-000000020", "intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630")
}

fn tesla() -> Value {
    device("node1-000001000", "nvidia.com/TU104GL_TESLA_T4")
}

fn network_card() -> Value {
    device("node1-000003000", "intel.com/I350_GIGABIT_NETWORK_CONNECTION")
}

#[test]
fn a_device_of_one_node_has_the_name_of_its_pci_device_and_its_resource() {
    let answer = create(vm(&["0000:01:00.0"]));
    assert_eq!(host_devices(&answer), json!([tesla()]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    assert_eq!(answer.after()["spec"]["template"]["spec"]["nodeSelector"], Value::Null);
    let applied = answer.annotation("pci-passthrough-applied");
    assert_eq!(applied.as_deref(), Some(r#"["0000:01:00.0"]"#));
}

/// Harvester makes host devices of GPUs with a patch that the API server cannot apply to two of them.
#[rstest]
#[case::listed(harvester(), "nvidia.com/TU104GL_TESLA_T4", "hostDevices")]
#[case::forbidden(harvester().without("list", Kind::PciDevice), "nvidia.com/TU104GL_TESLA_T4", "hostDevices")]
#[case::not_one_of_harvesters(harvester(), "nvidia.com/GRID_T4-1Q", "gpus")]
#[case::no_harvester(
    harvester().failing(Kind::PciDevice, ClusterError::KindNotServed), "nvidia.com/TU104GL_TESLA_T4", "gpus"
)]
fn gpus_that_harvester_handles_as_host_devices_are_written_as_such(
    #[case] cluster: MemoryCluster,
    #[case] resource: &str,
    #[case] list: &str,
) {
    let vm = bare_vm(&[("gpu-device-plugin", &format!("{resource}=2"))]);
    let settings = json!({"gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"]}});
    let answer = Request::create(vm).settings(settings).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let devices = json!({list: [device("gpu-0", resource), device("gpu-1", resource)]});
    assert_eq!(answer.domain()["devices"], devices);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[test]
fn without_harvester_in_the_settings_pci_devices_are_not_listed_for_a_gpu() {
    let settings = json!({
        "gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"]}, "pciPassthrough": {"deviceNames": "address"},
    });
    let vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/TU104GL_TESLA_T4")]);
    let answer = Request::create(vm).settings(settings).cluster(harvester()).evaluate();
    assert_eq!(answer.lookups, ["get KubeVirt kubevirt"]);
}

#[rstest]
#[case::directive(&["node1/0000:00:02.0"], json!({}))]
#[case::pci_device_name(&["node1-000000020"], json!({}))]
#[case::node_selector(&["0000:00:02.0"], json!({"nodeSelector": {"kubernetes.io/hostname": "node1"}}))]
#[case::node_affinity(&["0000:00:02.0"], json!({"affinity": {"nodeAffinity": {
    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1"]},
    ]}]},
}}}))]
fn the_node_tells_which_device_is_meant(#[case] devices: &[&str], #[case] spec: Value) {
    let mut vm = vm(devices);
    for (key, value) in spec.as_object().unwrap() {
        vm["spec"]["template"]["spec"][key] = value.clone();
    }
    let answer = create(vm);
    assert_eq!(host_devices(&answer), json!([igpu()]));
    let lookups = ["get PciDevice node1-000000020", "get PciDeviceClaim node1-000000020", "get KubeVirt kubevirt"];
    assert_eq!(answer.lookups, lookups);
    assert_eq!(answer.reviews, Vec::<String>::new());
}

#[test]
fn an_address_that_stands_for_different_devices_is_ambiguous() {
    create(vm(&["0000:00:02.0"])).assert_denied(&[
        "0000:00:02.0 stands for different devices",
        "node1-000000020 (intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630)",
        "node2-000000020 (amd.com/CEZANNE_RADEON_VEGA_SERIES)",
        "name the one that is meant, as in node1-000000020",
    ]);
}

#[test]
fn an_address_that_stands_for_the_same_device_on_every_node_is_one_entry() {
    assert_eq!(host_devices(&create(vm(&["0000:03:00.0"]))), json!([network_card()]));
}

#[test]
fn a_second_device_tells_the_node_of_the_first() {
    let answer = create(vm(&["0000:00:02.0", "0000:01:00.0"]));
    assert_eq!(host_devices(&answer), json!([igpu(), tesla()]));
}

#[test]
fn a_device_that_the_vm_has_tells_the_node_of_the_next() {
    let vm = with_host_devices(vm(&["0000:00:02.0"]), &json!([tesla()]));
    assert_eq!(host_devices(&create(vm)), json!([tesla(), igpu()]));
}

#[rstest]
#[case::nowhere(&["0000:09:00.0"], "no node has a PCI device 0000:09:00.0; look it up under PCI Devices")]
#[case::not_on_the_node(&["node2/0000:01:00.0"], "the node node2 has no PCI device 0000:01:00.0")]
#[case::no_such_node(&["node9/0000:01:00.0"], "the node node9 has no PCI device 0000:01:00.0")]
#[case::unclaimed(&["0000:01:00.1"], "0000:01:00.1 is not enabled for passthrough on node1; enable passthrough")]
#[case::unclaimed_on_the_node(&["node1/0000:01:00.1"], "0000:01:00.1 is not enabled for passthrough on node1")]
#[case::not_bound_yet(&["0000:03:00.1"], "0000:03:00.1 is not enabled for passthrough on node1")]
fn a_device_that_cannot_be_had_is_an_error(#[case] devices: &[&str], #[case] part: &str) {
    create(vm(devices)).assert_denied(&["pci-passthrough", part]);
}

#[test]
fn devices_that_no_node_has_together_are_an_error() {
    let mut cluster = harvester();
    cluster.object("PCIDeviceClaim", "node1-000003000")["status"]["passthroughEnabled"] = json!(false);
    let answer = Request::create(vm(&["0000:01:00.0", "0000:03:00.0"])).cluster(cluster).evaluate();
    let places = "no node has all the devices: 0000:01:00.0 on node1; 0000:03:00.0 on node2";
    answer.assert_denied(&[places]);
}

#[test]
fn a_device_of_another_node_than_those_the_vm_has_is_an_error() {
    let amd = device("node2-000000020", "amd.com/CEZANNE_RADEON_VEGA_SERIES");
    let vm = with_host_devices(vm(&["0000:01:00.0"]), &json!([amd]));
    create(vm).assert_denied(&["already has a host device of the node node2", "0000:01:00.0 on node1"]);
}

#[rstest]
#[case::on_create(None)]
#[case::on_update(Some(()))]
fn a_device_of_another_node_than_the_named_one_is_an_error(#[case] update: Option<()>) {
    let amd = device("node2-000000020", "amd.com/CEZANNE_RADEON_VEGA_SERIES");
    let vm = with_host_devices(vm(&["node1/0000:00:02.0"]), &json!([amd]));
    let request = match update {
        None => Request::create(vm),
        Some(()) => Request::update(bare_vm(&[]), vm),
    };
    let answer = request.cluster(harvester()).evaluate();
    answer.assert_denied(&["already has a host device of the node node2", "0000:00:02.0 on node1"]);
}

#[test]
fn a_device_that_is_there_is_not_added_under_another_kind_of_name() {
    // Named by Harvester, and the policy may not look any longer.
    let vm_with_tesla = with_host_devices(vm(&["0000:01:00.0"]), &json!([tesla()]));
    let answer = Request::create(vm_with_tesla).evaluate();
    assert_eq!(host_devices(&answer), json!([tesla()]));

    // Named by its address, and now there is a Harvester to ask.
    let by_address = device("pci-device-0", "pci_0000_01_00_0");
    let answer = create(with_host_devices(vm(&["0000:01:00.0"]), &json!([by_address])));
    answer.assert_denied(&["pci-device-0 has the name that stands for 0000:01:00.0", "remove that entry"]);
}

#[rstest]
#[case::by_name(json!([igpu()]), &["node1/0000:00:02.0"], 1)]
#[case::by_the_address_of_another_nodes_device(
    json!([{"name": "node2-000003000", "deviceName": "other/x"}]), &["0000:03:00.0"], 1
)]
#[case::by_resource(
    json!([{"name": "mine", "deviceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION"}]), &["0000:03:00.0"], 1
)]
#[case::an_equal_card(
    json!([{"name": "node1-000003001", "deviceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION"}]),
    &["0000:03:00.0"],
    2
)]
#[case::an_entry_counts_once(
    json!([{"name": "mine", "deviceName": "nvidia.com/TU104GL_TESLA_T4"}]), &["0000:01:00.0", "0000:00:02.0"], 2
)]
#[case::another_resource(json!([{"name": "mine", "deviceName": "other/x"}]), &["0000:03:00.0"], 2)]
fn what_is_there_already_is_not_added(#[case] present: Value, #[case] devices: &[&str], #[case] count: usize) {
    let after = host_devices(&create(with_host_devices(vm(devices), &present)));
    assert_eq!(after.as_array().unwrap().len(), count, "{after}");
    assert_eq!(after[0], present[0]);
}

#[test]
fn an_entry_is_of_the_address_that_it_is_named_after_before_that_of_its_resource() {
    let mut cluster = harvester();
    cluster.object("PCIDeviceClaim", "node1-000003001")["status"]["passthroughEnabled"] = json!(true);
    let second = device("node1-000003001", "intel.com/I350_GIGABIT_NETWORK_CONNECTION");
    let vm = with_host_devices(vm(&["0000:03:00.0", "0000:03:00.1"]), &json!([second]));
    let answer = Request::create(vm).cluster(cluster).evaluate();
    assert_eq!(host_devices(&answer), json!([second, network_card()]));
}

#[test]
fn applied_twice_it_changes_nothing_more_even_after_harvester_renamed_the_device() {
    for devices in [&["node1/0000:00:02.0"][..], &["0000:03:00.0"], &["0000:00:02.0", "0000:01:00.0"]] {
        let once = create(vm(devices)).after();
        create(once.clone()).assert_accepted_unchanged();
        Request::update(vm(devices), once).cluster(harvester()).evaluate().assert_accepted_unchanged();
    }
    let mut renamed = create(vm(&["0000:03:00.0"])).after();
    renamed["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"][0]["name"] = json!("node2-000003000");
    let answer = create(renamed.clone());
    assert_eq!(answer.after()["spec"], renamed["spec"]);
    create(answer.after()).assert_accepted_unchanged();
}

#[rstest]
#[case::namespace_with_the_resource(json!({"default": ["nvidia.com/*"]}), true)]
#[case::namespace_with_the_address(json!({"default": ["0000:01:00.*"]}), true)]
#[case::namespace_with_the_node(json!({"default": ["node1/*"]}), true)]
#[case::another_namespace(json!({"team-a": ["*"]}), false)]
#[case::another_resource(json!({"default": ["intel.com/*"]}), false)]
fn a_device_is_allowed_by_namespace(#[case] allowed: Value, #[case] accepted: bool) {
    let settings = json!({"pciPassthrough": {"allowedDevices": allowed}});
    let answer = Request::create(vm(&["0000:01:00.0"])).settings(settings).cluster(harvester()).evaluate();
    if accepted {
        assert_eq!(host_devices(&answer), json!([tesla()]));
    } else {
        answer.assert_denied(&[
            "node1/0000:01:00.0 (nvidia.com/TU104GL_TESLA_T4) is not allowed in the namespace default",
            "pciPassthrough.allowedDevices",
        ]);
    }
}

#[test]
fn there_is_a_most() {
    let settings = json!({"pciPassthrough": {"maxDevices": 1}});
    let vm = with_host_devices(vm(&["0000:01:00.0"]), &json!([igpu()]));
    let answer = Request::create(vm).settings(settings).cluster(harvester()).evaluate();
    answer.assert_denied(&["would have 2 host devices", "allows 1"]);
}

#[test]
fn an_update_names_the_devices_that_must_go_along() {
    let with_node = vm(&["node1/0000:01:00.0"]);
    for new in [vm(&["0000:01:00.0"]), with_node.clone()] {
        let answer = Request::update(bare_vm(&[]), new).cluster(harvester()).evaluate();
        assert_eq!(host_devices(&answer), json!([tesla()]));
        assert_eq!(answer.warnings().len(), 1);
        assert!(answer.warnings()[0].contains("IOMMU group"), "{:?}", answer.warnings());
        assert!(answer.warnings()[0].ends_with(": node1-000001001"), "{:?}", answer.warnings());
    }
    // Harvester adds them itself when a VM is created; and a VM that has the device already is not told again.
    assert_eq!(create(vm(&["0000:01:00.0"])).warnings(), Vec::<&str>::new());
    let has = with_host_devices(with_node.clone(), &json!([tesla()]));
    let answer = Request::update(bare_vm(&[]), has).cluster(harvester()).evaluate();
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    // Without the right to list, the device is found all the same.
    let cluster = harvester().without("list", Kind::PciDevice);
    let answer = Request::update(bare_vm(&[]), with_node).cluster(cluster).evaluate();
    assert_eq!(host_devices(&answer), json!([tesla()]));
}

#[test]
fn devices_without_their_claims_are_an_error_even_in_auto() {
    let cluster = harvester().without("watch", Kind::PciDeviceClaim);
    let answer = Request::create(vm(&["0000:01:00.0"])).cluster(cluster).evaluate();
    answer.assert_denied(&[
        "Harvester's PCI devices cannot be looked up: ",
        "may not list and watch pcideviceclaims.devices.harvesterhci.io",
        "--serviceaccount=kubewarden:policy-server",
    ]);
}

/// The setting `pciPassthrough.requireClaimOwner`.
mod claim_owner {
    use super::*;

    fn evaluate(user: &str, cluster: MemoryCluster, settings: Value) -> Answer {
        let mut request = Request::create(bare_vm(&[("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#)]));
        request.request["userInfo"]["username"] = json!(user);
        let mut all = json!({"requireClaimOwner": true});
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        request.settings(json!({"pciPassthrough": all})).cluster(cluster).evaluate()
    }

    fn harvester() -> MemoryCluster {
        MemoryCluster::of(crate::harness::fixtures("../../examples/harvester/cluster/cluster.yaml"))
    }

    #[test]
    fn only_the_owner_gets_the_device() {
        let answer = evaluate("admin", harvester(), json!({}));
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.domain()["devices"]["hostDevices"][0]["name"], "node1-000000020");
        evaluate("alice", harvester(), json!({})).assert_denied(&[
            "node1-000000020 was claimed by \"admin\"",
            "pciPassthrough.requireClaimOwner",
            "the request is of \"alice\"",
        ]);
        assert!(evaluate("alice", harvester(), json!({"requireClaimOwner": false})).is_accepted());
    }

    #[test]
    fn a_device_that_the_vm_has_counts_as_well() {
        let stored = evaluate("admin", harvester(), json!({})).after();
        let mut changed = stored.clone();
        changed["spec"]["template"]["metadata"] = json!({"labels": {"a": "b"}});
        let mut request = Request::update(stored, changed);
        request.request["userInfo"]["username"] = json!("alice");
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true}});
        request.settings(settings).cluster(harvester()).evaluate().assert_denied(&["was claimed by \"admin\""]);
    }

    #[rstest]
    #[case::a_claim_without_a_user("", "nobody that the claim names")]
    #[case::nobody_and_nobody_are_not_the_same("", "the request is of \"\"")]
    fn a_claim_that_names_nobody_is_nobodys(#[case] user: &str, #[case] part: &str) {
        let mut cluster = harvester();
        cluster.object("PCIDeviceClaim", "node1-000000020")["spec"]["userName"] = json!(user);
        evaluate(user, cluster, json!({})).assert_denied(&[part]);
    }

    #[test]
    fn without_claims_there_is_no_device() {
        evaluate("admin", harvester(), json!({"deviceNames": "address"}))
            .assert_denied(&["only Harvester's devices have claims"]);
        let none = MemoryCluster::of(Vec::new()).failing(Kind::PciDevice, ClusterError::KindNotServed);
        evaluate("admin", none, json!({})).assert_denied(&["does not serve pcidevices"]);
    }

    #[test]
    fn claims_of_a_list_count_too() {
        let mut request = Request::create(bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:01:00.0"]}"#)]));
        request.request["userInfo"]["username"] = json!("alice");
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true}});
        let answer = request.settings(settings).cluster(harvester()).evaluate();
        answer.assert_denied(&["node1-000001000 was claimed by \"admin\""]);
    }
}
