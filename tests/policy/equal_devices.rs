//! Setting `pciPassthrough.equalDevices`: Kubernetes gives any device of a resource, whichever the directive names.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, NODE, PCI_DEVICE};

use super::devices::{
    asking, edited, entry, having, host_devices, names, node, node_with, pci, pci_without_claim, update, warnings,
};
use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm};

const DISK: &str = "samsung.com/NVME_SSD_CONTROLLER_PM9A1";
const PROBLEM: &str = "Kubernetes may give the VirtualMachine another device than";

/// Disks of one kind under these names.
fn disks(names: &[&str]) -> Vec<Value> {
    names.iter().zip(20..).flat_map(|(name, group)| pci(name, "144d:a80a", &group.to_string(), DISK)).collect()
}

/// node1 with three equal disks.
fn three() -> Vec<Value> {
    let disks = disks(&["node1-000041000", "node1-000081000", "node1-0000c1000"]);
    [vec![node_with("node1", DISK, "3")], disks].concat()
}

fn ask(devices: &[&str], setting: &str, objects: Vec<Value>) -> Answer {
    evaluate(asking(devices), setting, MemoryCluster::of(objects))
}

fn evaluate(vm: Value, setting: &str, cluster: MemoryCluster) -> Answer {
    let settings = json!({"pciPassthrough": {"equalDevices": setting}});
    Request::create(vm).settings(settings).cluster(cluster).evaluate()
}

#[rstest]
#[case::address(&["0000:c1:00.0"])]
#[case::address_on_the_node(&["node1/0000:c1:00.0"])]
#[case::name(&["node1-0000c1000"])]
#[case::slot(&["node1/0000:c1:00.*"])]
fn one_of_three_is_a_warning_or_an_error(#[case] devices: &[&str]) {
    let answer = ask(devices, "warn", three());
    assert_eq!(host_devices(&answer), json!([entry("node1-0000c1000", DISK)]));
    let why = format!(
        "{PROBLEM} node1-0000c1000, because its resource {DISK} is also that of node1-000041000, node1-000081000"
    );
    assert!(warnings(&answer).starts_with(&format!("pci-passthrough: {why}; to get this one, set")), "{why}");
    assert!(warnings(&answer).contains("set disableResourcePooling in its PCIDeviceClaim (Harvester 1.9 or later)"));
    ask(devices, "deny", three()).assert_denied(&[
        "pci-passthrough cannot be applied",
        &why,
        "the setting pciPassthrough.equalDevices does not allow that: set disableResourcePooling in the device's",
    ]);
}

/// policy-server lists objects in no order.
#[rstest]
#[case::one_of_three(&["node1/c1:00.0"])]
#[case::any_of_them(&["144d:a80a"])]
#[case::any_beside_one(&["c1:00.0", "144d:a80a"])]
#[case::two_nodes(&["144d:a80a", "144d:a80a", "144d:a80a"])]
fn the_order_of_the_list_is_irrelevant(#[case] devices: &[&str]) {
    let objects = || [three(), vec![node("node2")], disks(&["node2-000041000", "node2-000081000"])].concat();
    let answer = ask(devices, "warn", objects());
    let reversed = ask(devices, "warn", objects().into_iter().rev().collect());
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(host_devices(&answer), host_devices(&reversed));
    assert_eq!(warnings(&answer), warnings(&reversed));
}

#[rstest]
#[case::warn_by_default(json!({}), true)]
#[case::warn(json!({"equalDevices": "warn"}), true)]
#[case::deny(json!({"equalDevices": "deny"}), false)]
fn the_setting_decides(#[case] settings: Value, #[case] accepted: bool) {
    let request = Request::create(asking(&["0000:c1:00.0"])).settings(json!({"pciPassthrough": settings}));
    assert_eq!(request.cluster(MemoryCluster::of(three())).evaluate().is_accepted(), accepted);
}

/// The user's entry is one of the resource, too, whatever its name is.
#[rstest]
#[case::name_of_the_device("hostDevices", "node1-0000c1000")]
#[case::free_name("hostDevices", "disk")]
#[case::gpu("gpus", "disk")]
fn an_entry_of_the_users_is_no_other_way(#[case] list: &str, #[case] name: &str) {
    let having = || having(asking(&["0000:c1:00.0"]), list, json!([entry(name, DISK)]));
    let evaluate = |setting| evaluate(having(), setting, MemoryCluster::of(three()));
    let answer = evaluate("warn");
    assert!(warnings(&answer).contains(&format!("{PROBLEM} node1-0000c1000")), "{}", warnings(&answer));
    evaluate("deny").assert_denied(&["is also that of node1-000041000, node1-000081000"]);
}

/// Where nothing can be mixed up, nothing is said, with either setting.
#[rstest]
#[case::all_three(&["41:00.0", "81:00.0", "c1:00.0"], three())]
#[case::any_of_them(&["144d:a80a"], three())]
#[case::any_two_of_them(&["144d:a80a", "144d:a80a"], three())]
#[case::the_others_are_not_enabled(&["c1:00.0"], [
    vec![node("node1")],
    disks(&["node1-0000c1000"]),
    vec![pci_without_claim("node1-000041000", "144d:a80a", "20", DISK)],
].concat())]
#[case::pooling_is_disabled(&["c1:00.0"], [
    three()[..5].to_vec(),
    pci("node1-0000c1000", "144d:a80a", "22", "samsung.com/node1-0000c1000").to_vec(),
].concat())]
#[case::the_address_on_another_node(&["c1:00.0"], [
    vec![node("node1"), node("node2")], disks(&["node1-0000c1000", "node2-0000c1000"]),
].concat())]
#[case::a_device_of_another_node_than_the_named_one(&["node1/c1:00.0"], [
    vec![node("node1"), node("node2")], disks(&["node1-0000c1000", "node2-000041000"]),
].concat())]
fn what_cannot_be_another_is_silent(
    #[case] devices: &[&str],
    #[case] objects: Vec<Value>,
    #[values("warn", "deny")] setting: &str,
) {
    let answer = ask(devices, setting, objects);
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(warnings(&answer), "");
}

#[rstest]
#[case::two_of_three(&["41:00.0", "c1:00.0"], "node1-000041000, because its resource samsung.com/NVME_SSD_CONTROLLER_PM9A1 is also that of node1-000081000;")]
#[case::any_beside_one(&["c1:00.0", "144d:a80a"], "node1-0000c1000, because its resource samsung.com/NVME_SSD_CONTROLLER_PM9A1 is also that of node1-000081000;")]
#[case::any_before_one(&["144d:a80a", "c1:00.0"], "node1-0000c1000, because its resource samsung.com/NVME_SSD_CONTROLLER_PM9A1 is also that of node1-000081000;")]
fn each_of_several_may_be_another(#[case] devices: &[&str], #[case] why: &str) {
    let warnings = warnings(&ask(devices, "warn", three()));
    assert!(warnings.contains(&format!("{PROBLEM} {why}")), "{warnings}");
    ask(devices, "deny", three()).assert_denied(&[why]);
}

mod of_another_node {
    use super::*;

    fn objects() -> Vec<Value> {
        [vec![node("node1"), node("node2")], disks(&["node1-0000c1000", "node2-000041000"])].concat()
    }

    /// Nothing keeps the VM on node1.
    #[test]
    fn counts_while_the_vm_may_run_there() {
        let warnings = warnings(&ask(&["c1:00.0"], "warn", objects()));
        assert!(warnings.contains("is also that of node2-000041000"), "{warnings}");
        ask(&["c1:00.0"], "deny", objects()).assert_denied(&["is also that of node2-000041000"]);
    }

    #[rstest]
    #[case::selector(|vm: &mut Value| vm["nodeSelector"] = json!({"kubernetes.io/hostname": "node1"}))]
    #[case::affinity(|vm: &mut Value| {
        vm["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] =
            json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node2"]}]}]);
    })]
    fn does_not_count_if_the_vm_cannot_run_there(#[case] place: fn(&mut Value)) {
        let mut vm = asking(&["c1:00.0"]);
        place(&mut vm["spec"]["template"]["spec"]);
        let answer = evaluate(vm, "deny", MemoryCluster::of(objects()));
        assert_eq!(names(&answer), ["node1-0000c1000"]);
        assert_eq!(warnings(&answer), "");
    }

    #[test]
    fn does_not_count_behind_a_taint() {
        let mut objects = objects();
        objects[1]["spec"]["taints"] = json!([{"key": "storage", "effect": "NoSchedule"}]);
        let answer = ask(&["c1:00.0"], "deny", objects.clone());
        assert_eq!(names(&answer), ["node1-0000c1000"]);
        let mut vm = asking(&["c1:00.0"]);
        vm["spec"]["template"]["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        evaluate(vm, "deny", MemoryCluster::of(objects)).assert_denied(&["is also that of node2-000041000"]);
    }
}

/// A new VM on a known node needs no list: the node knows how many devices it has.
mod without_a_list {
    use super::*;

    const NAMED: &[&str] = &["node1/c1:00.0"];

    fn with_count(count: Option<&str>) -> MemoryCluster {
        let mut objects = three();
        objects[0] = count.map_or_else(|| node("node1"), |count| node_with("node1", DISK, count));
        MemoryCluster::of(objects)
    }

    #[rstest]
    #[case::only_one(Some("1"), false)]
    #[case::none_at_the_moment(Some("0"), false)]
    #[case::several(Some("3"), true)]
    #[case::not_known(None, true)]
    #[case::no_number(Some("1k"), true)]
    fn devices_are_listed_only_if_the_node_has_several(#[case] count: Option<&str>, #[case] is_listed: bool) {
        let answer = evaluate(asking(NAMED), "warn", with_count(count));
        assert_eq!(answer.lookups.contains(&"list PCIDevice".to_owned()), is_listed, "{:?}", answer.lookups);
        assert_eq!(warnings(&answer).contains(PROBLEM), is_listed, "{:?}", answer.warnings());
    }

    #[test]
    fn devices_are_listed_if_the_node_cannot_be_read() {
        let cluster = with_count(Some("1")).failing(&NODE, ClusterError::NotDeclared);
        assert!(warnings(&evaluate(asking(NAMED), "warn", cluster)).contains(PROBLEM));
    }

    /// The node says that there are others, but the policy may not know which.
    #[rstest]
    #[case::more(Some("3"), NAMED, true)]
    #[case::as_many_as_are_named(Some("2"), &["node1/41:00.0", "node1/c1:00.0"], false)]
    #[case::not_known(None, NAMED, false)]
    fn what_the_node_has_counts_if_devices_may_not_be_listed(
        #[case] count: Option<&str>,
        #[case] devices: &[&str],
        #[case] is_said: bool,
    ) {
        let cluster = || with_count(count).without("list", &PCI_DEVICE);
        let answer = evaluate(asking(devices), "warn", cluster());
        assert_eq!(warnings(&answer).contains(PROBLEM), is_said, "{:?}", answer.warnings());
        let answer = evaluate(asking(devices), "deny", cluster());
        match is_said {
            true => answer.assert_denied(&[&format!("because node1 has 3 devices of the resource {DISK}")]),
            false => assert!(answer.is_accepted(), "{}", answer.message()),
        }
    }
}

/// The disk was given before, so no request asks for it.
#[rstest]
fn what_is_in_place_is_silent(#[values("warn", "deny")] setting: &str) {
    let settings = || json!({"pciPassthrough": {"equalDevices": setting}});
    let stored = Request::create(asking(&["c1:00.0"])).cluster(MemoryCluster::of(three())).evaluate().after();
    let request = Request::update(stored.clone(), edited(&stored)).settings(settings());
    let answer = request.cluster(MemoryCluster::of(three())).evaluate();
    assert_eq!(names(&answer), ["node1-0000c1000"]);
    assert_eq!(warnings(&answer), "");
}

/// A directive that names another device asks anew, although the VM has a device of its resource.
#[rstest]
#[case::any_before(&["144d:a80a"], &["node1/81:00.0"])]
#[case::the_entry_itself(&["144d:a80a"], &["node1/41:00.0"])]
#[case::another_before(&["node1/41:00.0"], &["node1/81:00.0"])]
#[case::one_of_two_stays(&["node1/41:00.0"], &["node1/41:00.0", "node1/81:00.0"])]
#[case::slot(&["node1/41:00.0"], &["node1/81:00.*"])]
#[case::one_of_two_leaves(&["node1/41:00.0", "node1/81:00.0"], &["node1/41:00.0"])]
#[case::all_of_three_before(&["node1/41:00.0", "node1/81:00.0", "node1/c1:00.0"], &["node1/c1:00.0"])]
#[case::another_form(&["node1/41:00.*"], &["node1/41:00.0"])]
fn another_value_is_like_a_new_vm(#[case] before: &[&str], #[case] after: &[&str]) {
    let change = |setting: &str| {
        let stored = ask(before, "warn", three()).after();
        let mut new = stored.clone();
        annotate(&mut new, &[("pci-passthrough", &json!({"devices": after}).to_string())]);
        let settings = json!({"pciPassthrough": {"equalDevices": setting}});
        Request::update(stored, new).settings(settings).cluster(MemoryCluster::of(three())).evaluate()
    };
    let created = ask(after, "warn", three());
    let changed = change("warn");
    assert_eq!(host_devices(&changed), host_devices(&created));
    assert!(warnings(&changed).contains(PROBLEM), "{:?}", changed.warnings());
    ask(after, "deny", three()).assert_denied(&[PROBLEM]);
    change("deny").assert_denied(&[PROBLEM]);
}

/// The user has the device before the directive names it.
#[test]
fn a_directive_for_an_entry_of_the_users_asks() {
    let having = |vm| having(vm, "hostDevices", json!([entry("node1-0000c1000", DISK)]));
    let request = |setting: &str| {
        let settings = json!({"pciPassthrough": {"equalDevices": setting}});
        let request = Request::update(having(bare_vm(&[])), having(asking(&["c1:00.0"]))).settings(settings);
        request.cluster(MemoryCluster::of(three())).evaluate()
    };
    assert!(warnings(&request("warn")).contains(PROBLEM));
    request("deny").assert_denied(&[PROBLEM]);
}

/// Another form of the same value asks for nothing.
#[rstest]
fn the_same_value_in_another_form_is_silent(#[values("warn", "deny")] setting: &str) {
    let stored = ask(&["node1/41:00.0"], "warn", three()).after();
    let mut new = stored.clone();
    annotate(&mut new, &[("pci-passthrough", r#"{ "devices": ["node1/0000:41:00.0"] }"#)]);
    let settings = json!({"pciPassthrough": {"equalDevices": setting}});
    let answer = Request::update(stored, new).settings(settings).cluster(MemoryCluster::of(three())).evaluate();
    assert_eq!(names(&answer), ["node1-000041000"]);
    assert_eq!(warnings(&answer), "");
}

/// A VM has as many entries of a resource as it is given devices, whatever their names are.
mod multiplicity {
    use super::*;

    const BOTH: &[&str] = &["41:00.0", "81:00.0"];

    /// The VM was created, then Harvester renamed its entries.
    fn renamed(devices: &[&str], names: &[&str]) -> Value {
        let answer = ask(devices, "warn", three());
        assert!(answer.is_accepted(), "{}", answer.message());
        let entries = names.iter().map(|name| entry(name, DISK)).collect();
        having(answer.after(), "hostDevices", entries)
    }

    fn named(vm: &Value) -> Vec<&str> {
        let devices = vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"].as_array().unwrap();
        devices.iter().map(|device| device["name"].as_str().unwrap()).collect()
    }

    /// Harvester has written both entries under one name (harvester/harvester, issue 9987).
    #[rstest]
    #[case::one_name(BOTH, &["node1-000041000", "node1-000041000"])]
    #[case::the_name_of_neither(BOTH, &["node1-0000c1000", "node1-0000c1000"])]
    #[case::the_other_way_round(BOTH, &["node1-000081000", "node1-000041000"])]
    #[case::ids_under_one_name(&["144d:a80a", "144d:a80a"], &["node1-000041000", "node1-000041000"])]
    #[case::ids_under_the_last_name(&["144d:a80a", "144d:a80a"], &["node1-0000c1000", "node1-0000c1000"])]
    #[case::ids_beside_an_address(&["81:00.0", "144d:a80a"], &["node1-000081000", "node1-000081000"])]
    fn two_entries_stay_two(#[case] devices: &[&str], #[case] names: &[&str]) {
        let stored = renamed(devices, names);
        let answer = update(&stored, edited(&stored), MemoryCluster::of(three()));
        assert_eq!(named(&answer.after()), names);
        assert_eq!(warnings(&answer), "");
        // One of them goes, then the other.
        let mut one = stored.clone();
        annotate(&mut one, &[("pci-passthrough", r#"{"devices": ["41:00.0"]}"#)]);
        let answer = update(&stored, one, MemoryCluster::of(three()));
        assert_eq!(super::names(&answer).len(), 1, "{:?}", answer.warnings());
        let mut none = answer.after();
        none["metadata"]["annotations"] = json!({});
        assert_eq!(update(&answer.after(), none, MemoryCluster::of(three())).after()["spec"], bare_vm(&[])["spec"]);
    }

    #[test]
    fn a_third_is_another_device() {
        let stored = renamed(&["144d:a80a", "144d:a80a"], &["node1-000041000", "node1-000041000"]);
        let mut new = stored.clone();
        annotate(&mut new, &[("pci-passthrough", r#"{"devices": ["144d:a80a", "144d:a80a", "144d:a80a"]}"#)]);
        let answer = update(&stored, new, MemoryCluster::of(three()));
        assert_eq!(names(&answer), ["node1-000041000", "node1-000041000", "node1-0000c1000"]);
    }

    #[test]
    fn a_third_entry_of_the_users_stays_theirs() {
        let mut stored = renamed(BOTH, &["node1-000041000", "node1-000041000"]);
        let third = entry("node1-000041000", DISK);
        stored["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"].as_array_mut().unwrap().push(third);
        let mut new = stored.clone();
        new["metadata"]["annotations"] = json!({});
        let answer = update(&stored, new, MemoryCluster::of(three()));
        assert_eq!(names(&answer), ["node1-000041000"]);
    }
}
