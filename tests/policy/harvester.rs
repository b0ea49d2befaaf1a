//! Directive `pci-passthrough` on Harvester: addresses become the names that Harvester accepts.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, PCI_DEVICE, PCI_DEVICE_CLAIM, SUBJECT_ACCESS_REVIEW};

use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm, fixtures};

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

fn audio() -> Value {
    device("node1-000001001", "nvidia.com/TU104_HD_AUDIO_CONTROLLER")
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

/// Harvester's own patch turns GPUs into host devices, but the API server cannot apply it to two of them.
#[rstest]
#[case::served(harvester(), "nvidia.com/TU104GL_TESLA_T4", "hostDevices")]
#[case::forbidden(harvester().without("get", &PCI_DEVICE), "nvidia.com/TU104GL_TESLA_T4", "hostDevices")]
#[case::mediated(harvester(), "nvidia.com/GRID_T4-1Q", "gpus")]
#[case::mediated_and_forbidden(harvester().without("get", &PCI_DEVICE), "nvidia.com/GRID_T4-1Q", "gpus")]
#[case::no_harvester(
    harvester().failing(&PCI_DEVICE, ClusterError::KindNotServed), "nvidia.com/TU104GL_TESLA_T4", "gpus"
)]
fn gpus_that_harvester_handles_as_host_devices_are_written_as_such(
    #[case] cluster: MemoryCluster,
    #[case] resource: &str,
    #[case] list: &str,
) {
    let mut cluster = cluster;
    cluster.object("Node", "node1")["status"]["allocatable"][resource] = json!("2");
    let vm = bare_vm(&[("gpu-device-plugin", &format!("{resource}=2"))]);
    let settings = json!({"gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"]}});
    let answer = Request::create(vm).settings(settings).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let devices = json!({list: [device("gpu-0", resource), device("gpu-1", resource)]});
    assert_eq!(answer.domain()["devices"], devices);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// If a lookup found a PCI device before, the cluster has Harvester's kinds.
#[test]
fn a_gpu_beside_a_pci_device_takes_no_more_lookups() {
    let resource = "nvidia.com/TU104GL_TESLA_T4";
    let directives = [("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#), ("gpu-device-plugin", resource)];
    let lookups = |directives: &[(&str, &str)]| {
        let settings = json!({"gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"]}});
        Request::create(bare_vm(directives)).settings(settings).cluster(harvester()).evaluate().lookups
    };
    // Harvester adds no device of an IOMMU group beside another host device, so the policy looks for them.
    let beside = [crate::lookups::WHO_AM_I, "list PCIDevice"].map(str::to_owned);
    let mut expected = lookups(&directives[..1]);
    expected.splice(3..3, beside);
    assert_eq!(lookups(&directives), expected);
    let gpu = ["get KubeVirt kubevirt", crate::lookups::IS_IT_SERVED, crate::lookups::WHO_AM_I, "list Node"];
    assert_eq!(lookups(&directives[1..]), gpu);
}

#[test]
fn without_harvester_in_the_settings_pci_devices_are_not_looked_up_for_a_gpu() {
    let settings = json!({
        "gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"]}, "pciPassthrough": {"deviceNames": "address"},
    });
    let vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/TU104GL_TESLA_T4")]);
    let answer = Request::create(vm).settings(settings).cluster(harvester()).evaluate();
    assert_eq!(answer.lookups, ["get KubeVirt kubevirt", crate::lookups::WHO_AM_I, "list Node"]);
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
    let device = ["get PCIDevice node1-000000020", "get PCIDeviceClaim node1-000000020"];
    assert_eq!(answer.lookups, [["get Node node1"].as_slice(), &device, &["get KubeVirt kubevirt"]].concat());
    assert_eq!(answer.reviews, Vec::<String>::new());
}

#[test]
fn an_address_that_stands_for_different_devices_is_ambiguous() {
    create(vm(&["0000:00:02.0"])).assert_denied(&[
        "0000:00:02.0 matches different devices",
        "node1-000000020 (intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630)",
        "node2-000000020 (amd.com/CEZANNE_RADEON_VEGA_SERIES)",
        "name one of them, as in node1-000000020",
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
#[case::not_on_the_node(&["node2/0000:01:00.0"], "the node node2 has no PCI device 0000:01:00.0; it is on node1")]
#[case::no_such_node(&["node9/0000:01:00.0"], "there is no node node9, so it has no PCI device 0000:01:00.0; it is on node1")]
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
    // The device has Harvester's name, and the policy can no longer look it up.
    let vm_with_tesla = with_host_devices(vm(&["0000:01:00.0"]), &json!([tesla()]));
    let answer = Request::create(vm_with_tesla).evaluate();
    assert_eq!(host_devices(&answer), json!([tesla()]));

    // The device has a name made of its address, and now Harvester can be asked.
    let by_address = device("pci-device-0", "pci_0000_01_00_0");
    let answer = create(with_host_devices(vm(&["0000:01:00.0"]), &json!([by_address])));
    answer.assert_denied(&[
        "pci-device-0 has the resource name that is used for 0000:01:00.0 without Harvester",
        "remove that entry",
    ]);
}

#[rstest]
#[case::by_name(json!([igpu()]), &["node1/0000:00:02.0"], 1)]
#[case::by_the_address_of_another_nodes_device(
    json!([{"name": "node2-000003000", "deviceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION"}]), &["0000:03:00.0"], 1
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

/// A new driver or another vGPU profile gives a device another resource. An entry that the user wrote is theirs to correct.
#[test]
fn a_device_of_the_users_that_has_another_resource_now_is_an_error() {
    let old = device("node1-000003000", "other/x");
    let answer = create(with_host_devices(vm(&["node1/0000:03:00.0"]), &json!([old])));
    answer.assert_denied(&[
        "the VirtualMachine's host device node1-000003000 has the resource other/x",
        "has intel.com/I350_GIGABIT_NETWORK_CONNECTION now",
        "correct or remove that entry",
    ]);
}

/// An entry that the policy wrote is written anew, at the next update that changes anything.
#[test]
fn a_device_of_ours_that_has_another_resource_now_is_written_anew() {
    let stored = create(vm(&["node1/0000:03:00.0"])).after();
    let mut cluster = harvester();
    cluster.object("PCIDevice", "node1-000003000")["status"]["resourceName"] = json!("intel.com/NEW");
    let mut new = stored.clone();
    new["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let answer = Request::update(stored, new).cluster(cluster).evaluate();
    assert_eq!(host_devices(&answer), json!([device("node1-000003000", "intel.com/NEW")]));
    assert!(answer.added("pci-passthrough").unwrap().contains("intel.com/NEW"));
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
    assert_eq!(answer.after()["spec"]["template"]["spec"], renamed["spec"]["template"]["spec"]);
    assert!(answer.added("pci-passthrough").unwrap().contains("node2-000003000"));
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
            "): 0000:01:00.0 is not allowed in the namespace default",
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
fn an_update_adds_the_devices_that_must_go_along() {
    let with_node = vm(&["node1/0000:01:00.0"]);
    for new in [vm(&["0000:01:00.0"]), with_node.clone()] {
        let answer = Request::update(bare_vm(&[]), new).cluster(harvester()).evaluate();
        assert_eq!(host_devices(&answer), json!([tesla(), audio()]));
        let warning = answer.warnings().join(" ");
        assert!(warning.contains("IOMMU group") && warning.contains("not enabled for passthrough"), "{warning}");
        assert!(warning.ends_with(": node1-000001001"), "{warning}");
    }
    // Harvester adds the devices itself when a VM is created. If a VM already has the device, the warning is not repeated.
    assert_eq!(create(vm(&["0000:01:00.0"])).warnings(), Vec::<&str>::new());
    let has = with_host_devices(with_node.clone(), &json!([tesla()]));
    let answer = Request::update(bare_vm(&[]), has).cluster(harvester()).evaluate();
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    // Without the permission to list, the policy still finds the device.
    let cluster = harvester().without("list", &PCI_DEVICE);
    let answer = Request::update(bare_vm(&[]), with_node.clone()).cluster(cluster).evaluate();
    assert_eq!(host_devices(&answer), json!([tesla()]));
    // If the list may succeed in a moment, the policy does not continue without it.
    let cluster = harvester().failing(&SUBJECT_ACCESS_REVIEW, ClusterError::Unavailable);
    let answer = Request::update(bare_vm(&[]), with_node).cluster(cluster).evaluate();
    answer.assert_denied(&["failed for now"]);
}

#[test]
fn devices_without_their_claims_are_an_error_even_in_auto() {
    let cluster = harvester().without("watch", &PCI_DEVICE_CLAIM);
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
            "node1/0000:00:02.0 was not claimed by the requester \"alice\"",
            "pciPassthrough.requireClaimOwner",
        ]);
        assert!(evaluate("alice", harvester(), json!({"requireClaimOwner": false})).is_accepted());
    }

    /// Rancher impersonates the user by an ID, but the claim, which Harvester's UI writes, contains the login.
    #[rstest]
    #[case::login(json!(["admin"]), Value::Null, true)]
    #[case::another_login(json!(["alice"]), Value::Null, false)]
    #[case::the_first_login_counts(json!(["alice", "admin"]), Value::Null, false)]
    #[case::no_list(json!("admin"), Value::Null, false)]
    #[case::none(Value::Null, Value::Null, false)]
    #[case::login_of_a_local_user(json!(["admin"]), json!(["local://user-6j5s6"]), true)]
    #[case::same_login_with_another_provider(json!(["admin"]), json!(["github_user://4711"]), false)]
    #[case::of_several_providers(json!(["admin", "octocat"]), json!(["github_user://4711", "local://user-6j5s6"]), false)]
    #[case::principal(json!(["octocat"]), json!(["admin"]), true)]
    fn the_owner_may_be_the_login(#[case] login: Value, #[case] principal: Value, #[case] is_owner: bool) {
        let directive = r#"{"devices": ["node1/0000:00:02.0"]}"#;
        let mut request = Request::create(bare_vm(&[("pci-passthrough", directive)]));
        request.request["userInfo"] =
            json!({"username": "user-6j5s6", "extra": {"username": login, "principalid": principal}});
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true}});
        let answer = request.settings(settings).cluster(harvester()).evaluate();
        match login[0].as_str().filter(|_| !is_owner) {
            _ if is_owner => assert!(answer.is_accepted(), "{}", answer.message()),
            Some(login) => answer.assert_denied(&[&format!("the requester \"user-6j5s6\" (\"{login}\"), and")]),
            None => answer.assert_denied(&["the requester \"user-6j5s6\", and"]),
        }
    }

    /// KubeVirt's and Harvester's controllers change VirtualMachines, too: a hotplugged volume, another name for a device.
    #[rstest]
    #[case::another_change(|_: &mut Value| {})]
    #[case::renamed(|devices: &mut Value| devices[0]["name"] = json!("node1-000000030"))]
    fn a_device_that_the_vm_has_is_not_asked_for(#[case] change: fn(&mut Value)) {
        let harvester = || harvester().with_equal("node1-000000020", "node1-000000030", "0000:00:03.0");
        let stored = evaluate("admin", harvester(), json!({})).after();
        let mut changed = stored.clone();
        changed["spec"]["template"]["metadata"] = json!({"labels": {"a": "b"}});
        change(&mut changed["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"]);
        let mut request = Request::update(stored, changed);
        request.request["userInfo"]["username"] = json!("system:serviceaccount:harvester-system:kubevirt-controller");
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true}});
        let answer = request.settings(settings).cluster(harvester()).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
    }

    #[test]
    fn a_device_that_comes_with_an_update_is_asked_for() {
        let stored = evaluate("admin", harvester(), json!({})).after();
        let mut changed = stored.clone();
        annotate(&mut changed, &[("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0", "node1/0000:01:00.0"]}"#)]);
        let mut request = Request::update(stored, changed);
        request.request["userInfo"]["username"] = json!("alice");
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true}});
        let answer = request.settings(settings).cluster(harvester()).evaluate();
        answer.assert_denied(&["node1/0000:01:00.0 was not claimed by the requester \"alice\""]);
    }

    #[rstest]
    #[case::the_administrators("admin")]
    #[case::nobody_and_nobody_are_not_the_same("")]
    fn a_claim_that_names_nobody_is_nobodys(#[case] user: &str) {
        let mut cluster = harvester();
        cluster.object("PCIDeviceClaim", "node1-000000020")["spec"]["userName"] = json!("");
        evaluate(user, cluster, json!({})).assert_denied(&["was not claimed by the requester"]);
    }

    #[test]
    fn without_claims_there_is_no_device() {
        evaluate("admin", harvester(), json!({"deviceNames": "address"}))
            .assert_denied(&["only Harvester's devices have claims"]);
        let none = MemoryCluster::of(Vec::new()).failing(&PCI_DEVICE, ClusterError::KindNotServed);
        evaluate("admin", none, json!({})).assert_denied(&["does not serve pcidevices"]);
    }

    /// If two nodes have a device at the address, each user gets his own, on its node.
    #[rstest]
    #[case::of_the_first_node("admin", &[], Ok("node1"))]
    #[case::of_the_second_node("bob", &[], Ok("node2"))]
    #[case::of_nobody("alice", &[], Err("0000:03:00.0 was not claimed by the requester \"alice\""))]
    #[case::in_place("bob", &["node2-000003000"], Ok("node2"))]
    #[case::of_another_in_place("admin", &["node2-000003000"], Err("already has a host device of the node node2"))]
    fn the_claim_is_that_of_the_device(
        #[case] user: &str,
        #[case] in_place: &[&str],
        #[case] expected: Result<&str, &str>,
    ) {
        let mut cluster = harvester();
        cluster.object("PCIDeviceClaim", "node2-000003000")["spec"]["userName"] = json!("bob");
        let mut vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#)]);
        let resource = "intel.com/I350_GIGABIT_NETWORK_CONNECTION";
        vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] =
            in_place.iter().map(|name| device(name, resource)).collect();
        let mut request = Request::create(vm);
        request.request["userInfo"]["username"] = json!(user);
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true}});
        let answer = request.settings(settings).cluster(cluster).evaluate();
        match expected {
            Ok(node) => {
                assert_eq!(host_devices(&answer), json!([device(&format!("{node}-000003000"), resource)]));
                let selector = &answer.after()["spec"]["template"]["spec"]["nodeSelector"];
                assert_eq!(*selector, json!({"kubernetes.io/hostname": node}));
            }
            Err(part) => answer.assert_denied(&[part]),
        }
    }

    #[test]
    fn claims_of_a_list_count_too() {
        let mut request = Request::create(bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:01:00.0"]}"#)]));
        request.request["userInfo"]["username"] = json!("alice");
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true}});
        let answer = request.settings(settings).cluster(harvester()).evaluate();
        answer.assert_denied(&["0000:01:00.0 was not claimed by the requester \"alice\""]);
    }
}

/// The vGPUs of an L40S, which are virtual functions. Harvester gives the PCIDevice of each the resource of its profile.
mod vgpus {
    use super::*;

    const PROFILE: &str = "nvidia.com/NVIDIA_L40S-12Q";

    fn harvester() -> MemoryCluster {
        MemoryCluster::of(crate::harness::fixtures("../../examples/vgpu/cluster/cluster.yaml"))
    }

    /// Harvester leaves a vGPU without claim and annotation when it is switched off. KubeVirt's list does not change.
    fn switched_off() -> MemoryCluster {
        let mut objects = crate::harness::fixtures("../../examples/vgpu/cluster/cluster.yaml");
        objects.retain(|object| object["kind"] != "PCIDeviceClaim");
        for device in objects.iter_mut().filter(|object| object["kind"] == "PCIDevice") {
            device["status"]["resourceName"] = json!("nvidia.com/AD102GL_L40S");
        }
        MemoryCluster::of(objects)
    }

    /// Before 1.8, Harvester had vGPUs as mediated devices, without a PCIDevice for the profile.
    fn mediated() -> MemoryCluster {
        let mut cluster = switched_off();
        cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"] = json!({
            "mediatedDevices": [
                {"mdevNameSelector": "NVIDIA L40S-12Q", "resourceName": PROFILE, "externalResourceProvider": true},
            ],
        });
        cluster
    }

    /// After an upgrade from such a version, both of KubeVirt's lists contain the profile.
    fn upgraded() -> MemoryCluster {
        let mut cluster = harvester();
        let permitted = &mut cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"];
        permitted["mediatedDevices"] = json!([{"mdevNameSelector": "NVIDIA L40S-12Q", "resourceName": PROFILE}]);
        cluster
    }

    fn ask(value: &str, cluster: MemoryCluster) -> Request {
        let settings = json!({"gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/NVIDIA_*"]}});
        Request::create(bare_vm(&[("gpu-device-plugin", value)])).settings(settings).cluster(cluster)
    }

    fn devices(count: usize) -> Value {
        (0..count).map(|number| device(&format!("gpu-{number}"), PROFILE)).collect()
    }

    #[rstest]
    #[case::pci_devices(harvester(), "hostDevices")]
    #[case::pci_devices_that_may_not_be_read(harvester().without("get", &PCI_DEVICE), "hostDevices")]
    #[case::mediated_devices(mediated(), "gpus")]
    #[case::mediated_devices_where_pci_devices_may_not_be_read(
        mediated().without("get", &PCI_DEVICE), "gpus"
    )]
    #[case::in_both_lists(upgraded(), "hostDevices")]
    #[case::switched_off(switched_off(), "hostDevices")]
    fn a_profile_is_what_harvester_takes_it_for(#[case] cluster: MemoryCluster, #[case] list: &str) {
        let answer = ask(&format!("{PROFILE}=2"), cluster).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.domain()["devices"], json!({list: devices(2)}));
        assert_eq!(answer.domain()["resources"], Value::Null);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn mediated_devices_need_no_look_at_pci_devices() {
        let lookups = ask(PROFILE, mediated()).evaluate().lookups;
        assert_eq!(lookups, ["get KubeVirt kubevirt", crate::lookups::WHO_AM_I, "list Node"]);
    }

    #[test]
    fn a_profile_is_allowed_unless_the_settings_exclude_it() {
        let vm = bare_vm(&[("gpu-device-plugin", PROFILE)]);
        let answer = Request::create(vm).cluster(harvester()).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        ask("nvidia.com/AD102GL_L40S", harvester())
            .evaluate()
            .assert_denied(&["nvidia.com/AD102GL_L40S is not one of", "gpuDevicePlugin.allowedPlugins"]);
    }

    #[test]
    fn a_profile_that_nobody_switched_on_is_a_limit_with_a_warning() {
        let answer = ask("nvidia.com/NVIDIA_L40S-24Q", harvester()).evaluate();
        assert_eq!(answer.domain()["devices"], json!({}));
        assert!(answer.warnings()[0].contains("permittedHostDevices does not list it"), "{:?}", answer.warnings());
    }

    /// When the VM stops, Harvester names its host devices after the functions that it used.
    #[test]
    fn vgpus_that_harvester_renamed_stay_and_go_with_the_directive() {
        let mut stored = ask(&format!("{PROFILE}=2"), harvester()).evaluate().after();
        let given = json!([device("node1-000026005", PROFILE), device("node1-000026004", PROFILE)]);
        stored["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = given.clone();
        let update = |new: Value| {
            let settings = json!({"gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/NVIDIA_*"]}});
            Request::update(stored.clone(), new).settings(settings).cluster(harvester()).evaluate()
        };
        let mut changed = stored.clone();
        changed["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"cores": 2});
        assert_eq!(host_devices(&update(changed)), given);
        let mut fewer = stored.clone();
        fewer["metadata"]["annotations"]["vm-feature-manager.io/gpu-device-plugin"] = json!(PROFILE);
        assert_eq!(host_devices(&update(fewer)).as_array().unwrap().len(), 1);
        let mut without = stored.clone();
        without["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/gpu-device-plugin");
        assert_eq!(host_devices(&update(without)), Value::Null);
    }

    /// One particular vGPU, by its address.
    #[test]
    fn a_vgpu_is_a_pci_device_as_well() {
        let vm = vm(&["node1/0000:26:00.5"]);
        let answer = Request::create(vm).cluster(harvester()).evaluate();
        assert_eq!(host_devices(&answer), json!([device("node1-000026005", PROFILE)]));
        // The card is not claimed as long as it has vGPUs.
        let answer = Request::create(super::vm(&["node1/0000:26:00.0"])).cluster(harvester()).evaluate();
        answer.assert_denied(&["0000:26:00.0 is not enabled for passthrough on node1"]);
    }
}

/// The virtual functions of a network card.
mod virtual_functions {
    use super::*;

    const FUNCTION: &str = "intel.com/82599_ETHERNET_CONTROLLER_VIRTUAL_FUNCTION";

    fn objects() -> Vec<Value> {
        crate::harness::fixtures("../../examples/sriov/cluster/cluster.yaml")
    }

    /// Both functions of the port are claimed.
    fn claimed() -> MemoryCluster {
        let mut objects = objects();
        let mut claim = objects.iter().find(|object| object["kind"] == "PCIDeviceClaim").unwrap().clone();
        claim["metadata"]["name"] = json!("node1-000008102");
        objects.push(claim);
        MemoryCluster::of(objects)
    }

    /// A second node with the same card.
    fn two_nodes() -> MemoryCluster {
        let mut objects = objects();
        let second: Vec<Value> = objects.iter().filter(|object| object["kind"] != "KubeVirt").cloned().collect();
        let second = second.iter().map(|object| object.to_string().replace("node1", "node2"));
        objects.extend(second.map(|object| serde_json::from_str(&object).unwrap()).collect::<Vec<_>>());
        MemoryCluster::of(objects)
    }

    fn evaluate(devices: &[&str], cluster: MemoryCluster) -> Answer {
        Request::create(vm(devices)).cluster(cluster).evaluate()
    }

    fn node(answer: &Answer) -> Value {
        answer.after()["spec"]["template"]["spec"]["nodeSelector"].clone()
    }

    #[test]
    fn a_function_is_a_device_like_any_other() {
        let answer = evaluate(&["node1/0000:08:10.0"], MemoryCluster::of(objects()));
        assert_eq!(host_devices(&answer), json!([device("node1-000008100", FUNCTION)]));
        assert_eq!(node(&answer), json!({"kubernetes.io/hostname": "node1"}));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[rstest]
    #[case::another_function("node1/0000:08:10.2")]
    #[case::the_port("node1/0000:08:00.0")]
    fn what_nobody_claimed_is_an_error(#[case] device: &str) {
        let part = format!("{} is not enabled for passthrough on node1", &device[6..]);
        evaluate(&[device], MemoryCluster::of(objects())).assert_denied(&[&part]);
    }

    /// Both functions have the same resource, so each has its own entry.
    #[test]
    fn two_functions_are_two_devices() {
        let answer = evaluate(&["0000:08:10.0", "0000:08:10.2"], claimed());
        let both = json!([device("node1-000008100", FUNCTION), device("node1-000008102", FUNCTION)]);
        assert_eq!(host_devices(&answer), both);
        evaluate(&["0000:08:10.0", "0000:08:10.2", "0000:08:10.4"], claimed())
            .assert_denied(&["no node has a PCI device 0000:08:10.4"]);
    }

    /// Each function is in its own IOMMU group, so no other device is added with it: neither its port nor another function.
    #[test]
    fn nothing_must_go_with_a_function() {
        let answer = Request::update(bare_vm(&[]), vm(&["node1/0000:08:10.0"])).cluster(claimed()).evaluate();
        assert_eq!(host_devices(&answer), json!([device("node1-000008100", FUNCTION)]));
    }

    /// Several nodes have equal cards at the same address, so the scheduler chooses the node.
    #[test]
    fn without_a_node_any_node_with_the_function_will_do() {
        let answer = evaluate(&["0000:08:10.0"], two_nodes());
        assert_eq!(host_devices(&answer), json!([device("node1-000008100", FUNCTION)]));
        assert_eq!(node(&answer), Value::Null);
        let answer = evaluate(&["node2/0000:08:10.0"], two_nodes());
        assert_eq!(host_devices(&answer), json!([device("node2-000008100", FUNCTION)]));
    }

    /// With `disableResourcePooling` in the claim, Harvester gives the function its own resource.
    #[test]
    fn a_function_of_its_own_resource_is_on_one_node_only() {
        let alone = |node: &str| format!("intel.com/{node}-000008100");
        let cluster = || {
            let mut cluster = two_nodes();
            for node in ["node1", "node2"] {
                let name = format!("{node}-000008100");
                cluster.object("PCIDevice", &name)["status"]["resourceName"] = json!(alone(node));
                cluster.object("PCIDeviceClaim", &name)["spec"]["disableResourcePooling"] = json!(true);
            }
            cluster
        };
        let answer = evaluate(&["node2/0000:08:10.0"], cluster());
        assert_eq!(host_devices(&answer), json!([device("node2-000008100", &alone("node2"))]));
        evaluate(&["0000:08:10.0"], cluster()).assert_denied(&["0000:08:10.0 matches different devices"]);
    }

    #[rstest]
    #[case::functions("*_VIRTUAL_FUNCTION", true)]
    #[case::ports("*_NETWORK_CONNECTION", false)]
    fn a_namespace_may_take_functions_and_no_ports(#[case] pattern: &str, #[case] accepted: bool) {
        let settings = json!({"pciPassthrough": {"allowedDevices": {"default": [pattern]}}});
        let request = Request::create(vm(&["node1/0000:08:10.0"])).settings(settings);
        let answer = request.cluster(MemoryCluster::of(objects())).evaluate();
        assert_eq!(answer.is_accepted(), accepted, "{}", answer.message());
    }
}
