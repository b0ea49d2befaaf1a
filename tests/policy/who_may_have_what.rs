//! The settings `requireClaimOwner`, `allowedDevices` and `requireUserAccess` against people who try to get around them:
//! what Kubernetes and Harvester may give counts, and only the request that sets a directive meets a rule about people.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, NODE, PCI_DEVICE};

use super::devices::{
    asking, edited, entry, having, host_devices, kubevirt, names, node, pci, pci_without_claim, warnings,
};
use super::harness::copies::{harvester_clone, pool_update};
use super::harness::{Answer, MemoryCluster, RECORD, Request, annotate, bare_vm, set_record, vbios_objects};

const CARD: &str = "nvidia.com/TU104GL_TESLA_T4";
const CONTROLLER: &str = "system:serviceaccount:harvester-system:kubevirt-controller";

/// A card, and who claimed it.
fn card(name: &str, group: &str, owner: &str) -> Vec<Value> {
    of_resource(name, group, owner, CARD)
}

fn of_resource(name: &str, group: &str, owner: &str, resource: &str) -> Vec<Value> {
    let mut objects = pci(name, "10de:1eb8", group, resource);
    objects[1]["spec"]["userName"] = json!(owner);
    objects.to_vec()
}

/// Two nodes, and KubeVirt.
fn cluster(devices: Vec<Vec<Value>>) -> MemoryCluster {
    let permitted = json!({"pciHostDevices": [
        {"pciVendorSelector": "10de:1eb8", "resourceName": CARD, "externalResourceProvider": true},
    ]});
    let mut node2 = node("node2");
    node2["metadata"]["labels"]["gpu"] = json!("yes");
    MemoryCluster::of([vec![node("node1"), node2, kubevirt(permitted)], devices.concat()].concat())
}

/// Alice's card of node1, and the administrator's equal one of node2, at the same address.
fn one_each() -> MemoryCluster {
    cluster(vec![card("node1-000003000", "7", "alice"), card("node2-000003000", "7", "admin")])
}

fn owner_rule() -> Value {
    json!({"pciPassthrough": {"requireClaimOwner": true}})
}

/// The namespace may have the devices of node1.
fn namespace_rule() -> Value {
    json!({"pciPassthrough": {"allowedDevices": {"default": ["node1/*"]}}})
}

/// Alice's request.
fn by_alice(request: Request, settings: Value, cluster: MemoryCluster) -> Answer {
    by("alice", request, settings, cluster)
}

fn by(user: &str, mut request: Request, settings: Value, cluster: MemoryCluster) -> Answer {
    request.request["userInfo"]["username"] = json!(user);
    request.settings(settings).cluster(cluster).evaluate()
}

fn create(vm: Value, settings: Value, cluster: MemoryCluster) -> Answer {
    by_alice(Request::create(vm), settings, cluster)
}

fn with_node_selector(mut vm: Value, label: &str, value: &str) -> Value {
    vm["spec"]["template"]["spec"]["nodeSelector"][label] = json!(value);
    vm
}

/// The VM, which may not run on node1.
fn not_on_node1(mut vm: Value) -> Value {
    vm["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node1"]},
        ]}]},
    }});
    vm
}

/// The node that a VM is pinned to.
fn pinned(answer: &Answer) -> Value {
    answer.after()["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"].clone()
}

/// Denied, and the message names nothing of others.
#[track_caller]
fn assert_denied_without_names(answer: &Answer, parts: &[&str], others: &[&str]) {
    answer.assert_denied(parts);
    for name in others {
        assert!(!answer.message().contains(name), "{name} is in: {}", answer.message());
    }
}

mod equal_devices_of_others {
    use super::*;

    #[rstest]
    #[case::owner(owner_rule())]
    #[case::namespace(namespace_rule())]
    fn on_another_node_pin_the_vm(#[case] settings: Value, #[values("0000:03:00.0", "10de:1eb8")] device: &str) {
        let answer = create(asking(&[device]), settings.clone(), one_each());
        assert_eq!(host_devices(&answer), json!([entry("node1-000003000", CARD)]));
        assert_eq!(pinned(&answer), "node1");
        let added = json!([{"hostDevice": "node1-000003000", "resource": CARD}, {"nodeSelector": "node1"}]);
        assert_eq!(answer.added("pci-passthrough"), Some(added.to_string()));
        // The same again, as the API server may do, and by anybody.
        let again = create(answer.after(), settings.clone(), one_each());
        assert!(again.is_accepted() && !again.is_mutated(), "{}", again.message());
        let update = Request::update(answer.after(), edited(&answer.after()));
        let later = by("bob", update, settings, one_each());
        assert_eq!((pinned(&later), later.warnings()), (json!("node1"), vec![]));
    }

    #[rstest]
    #[case::node_affinity(not_on_node1(asking(&["0000:03:00.0"])))]
    #[case::node_selector(with_node_selector(asking(&["0000:03:00.0"]), "kubernetes.io/hostname", "node2"))]
    #[case::label(with_node_selector(asking(&["0000:03:00.0"]), "gpu", "yes"))]
    #[case::by_kind(not_on_node1(asking(&["10de:1eb8"])))]
    fn cannot_be_had_by_placement(#[case] vm: Value, #[values(owner_rule(), namespace_rule())] settings: Value) {
        let others = ["admin\"", "node2-0"];
        assert_denied_without_names(&create(vm, settings, one_each()), &["pci-passthrough cannot be applied"], &others);
    }

    #[test]
    fn do_not_matter_without_rules() {
        let answer = create(asking(&["0000:03:00.0"]), json!({}), one_each());
        assert_eq!((names(&answer), pinned(&answer)), (vec!["node1-000003000".to_owned()], Value::Null));
    }

    #[test]
    fn do_not_exist_if_all_are_hers() {
        let cluster = cluster(vec![card("node1-000003000", "7", "alice"), card("node2-000003000", "7", "alice")]);
        let answer = create(asking(&["0000:03:00.0"]), owner_rule(), cluster);
        assert_eq!((names(&answer), pinned(&answer)), (vec!["node1-000003000".to_owned()], Value::Null));
    }

    #[test]
    fn that_nobody_enabled_cannot_be_given() {
        let disabled = pci_without_claim("node2-000003000", "10de:1eb8", "7", CARD);
        let cluster = cluster(vec![card("node1-000003000", "7", "alice"), vec![disabled]]);
        let answer = create(asking(&["0000:03:00.0"]), owner_rule(), cluster);
        assert_eq!(pinned(&answer), Value::Null);
    }

    #[rstest]
    #[case::owner(owner_rule())]
    #[case::namespace(json!({"pciPassthrough": {"allowedDevices": {"default": ["node1/0000:03:00.0"]}}}))]
    fn on_the_same_node_are_an_error(
        #[case] settings: Value,
        #[values("0000:03:00.0", "node1/0000:03:00.0", "node1-000003000", "10de:1eb8")] device: &str,
    ) {
        let two = || cluster(vec![card("node1-000003000", "7", "alice"), card("node1-000004000", "8", "admin")]);
        let parts = [
            "Kubernetes may give the VirtualMachine any device of the same resource",
            "have the administrator set disableResourcePooling",
        ];
        assert_denied_without_names(
            &create(asking(&[device]), settings.clone(), two()),
            &parts,
            &["admin\"", "node1-000004000", "0000:04"],
        );
        // As the only device of its resource, it can be had.
        let own = cluster(vec![
            of_resource("node1-000003000", "7", "alice", "nvidia.com/NODE1-000003000"),
            card("node1-000004000", "8", "admin"),
        ]);
        assert_eq!(names(&create(asking(&[device]), settings, own)), ["node1-000003000"]);
    }

    #[test]
    fn send_the_vm_to_a_node_where_all_are_hers() {
        let cluster = || {
            let of_node1 = [card("node1-000003000", "7", "alice"), card("node1-000004000", "8", "admin")].concat();
            cluster(vec![of_node1, card("node2-000003000", "7", "alice")])
        };
        let answer = create(asking(&["0000:03:00.0"]), owner_rule(), cluster());
        assert_eq!((names(&answer), pinned(&answer)), (vec!["node2-000003000".to_owned()], json!("node2")));
    }

    /// The setting pinToNode is off, but the rule holds only on the node.
    #[test]
    fn pin_the_vm_whatever_the_setting_says() {
        let settings = json!({"pciPassthrough": {"requireClaimOwner": true, "pinToNode": false}});
        assert_eq!(pinned(&create(asking(&["node1/0000:03:00.0"]), settings, one_each())), "node1");
    }

    /// Without Harvester, the resource is that of the vendor and device, on every node.
    #[test]
    fn without_harvester_pin_the_vm_to_the_node_that_is_allowed() {
        let settings = json!({"pciPassthrough": {"allowedDevices": {"default": ["node1/10de:*"]}, "pinToNode": false}});
        let plain = || {
            let permitted = json!({"pciHostDevices": [{"pciVendorSelector": "10de:1eb8", "resourceName": CARD}]});
            let objects = vec![node("node1"), node("node2"), kubevirt(permitted)];

            MemoryCluster::of(objects).failing(&PCI_DEVICE, ClusterError::KindNotServed)
        };
        assert_eq!(pinned(&create(asking(&["node1/10de:1eb8"]), settings.clone(), plain())), "node1");
        create(asking(&["10de:1eb8"]), settings, plain()).assert_denied(&["10de:1eb8 is not allowed"]);
    }
}

mod a_pinned_vm {
    use super::*;

    fn stored() -> Value {
        create(asking(&["0000:03:00.0"]), owner_rule(), one_each()).after()
    }

    fn update(user: &str, change: fn(Value) -> Value) -> Answer {
        by(user, Request::update(stored(), change(stored())), owner_rule(), one_each())
    }

    /// The directive and the record go, and the node selector changes with them.
    #[rstest]
    #[case::empty(|vm: &mut Value| vm["spec"]["template"]["metadata"]["annotations"][RECORD] = json!("{}"))]
    #[case::shortened(|vm: &mut Value| {
        let record = vm["spec"]["template"]["metadata"]["annotations"][RECORD].as_str().unwrap();
        let mut record: Value = serde_json::from_str(record).unwrap();
        record["pci-passthrough"]["added"] = json!([]);
        vm["spec"]["template"]["metadata"]["annotations"][RECORD] = json!(record.to_string());
    })]
    #[case::gone(|vm: &mut Value| { vm["spec"]["template"]["metadata"].as_object_mut().unwrap().remove("annotations"); })]
    #[case::kept(|_: &mut Value| {})]
    fn loses_its_device_with_the_directive(#[case] forge: fn(&mut Value)) {
        let mut forged = with_node_selector(stored(), "kubernetes.io/hostname", "node2");
        forged["metadata"]["annotations"] = json!({});
        forge(&mut forged);
        let answer = by_alice(Request::update(stored(), forged), owner_rule(), one_each());
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.after()["spec"]["template"]["spec"]["domain"]["devices"].get("hostDevices"), None);
    }

    #[rstest]
    #[case::by_affinity(not_on_node1)]
    #[case::by_label(|vm| with_node_selector(vm, "gpu", "yes"))]
    #[case::by_name(|vm| with_node_selector(vm, "kubernetes.io/hostname", "node2"))]
    #[case::by_taking_the_pin_away(|mut vm: Value| {
        vm["spec"]["template"]["spec"].as_object_mut().unwrap().remove("nodeSelector");
        not_on_node1(vm)
    })]
    fn cannot_be_sent_to_another_node(#[case] change: fn(Value) -> Value, #[values("alice", "bob")] user: &str) {
        update(user, change).assert_denied(&["pci-passthrough cannot be applied"]);
    }

    #[rstest]
    fn gets_its_pin_back(#[values("alice", "bob")] user: &str) {
        let answer = update(user, |mut vm: Value| {
            vm["spec"]["template"]["spec"].as_object_mut().unwrap().remove("nodeSelector");
            vm
        });
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(pinned(&answer), "node1");
    }

    #[rstest]
    fn cannot_be_renamed_after_a_device_of_another(#[values("alice", "bob")] user: &str) {
        let answer = update(user, |vm| having(vm, "hostDevices", json!([entry("node2-000003000", CARD)])));
        match answer.is_accepted() {
            true => assert_eq!((names(&answer), pinned(&answer)), (vec!["node1-000003000".to_owned()], json!("node1"))),
            false => answer.assert_denied(&["pci-passthrough cannot be applied"]),
        }
    }

    /// Her new request also asks for the administrator's card.
    #[test]
    fn gets_no_second_device_of_another() {
        let two = || cluster(vec![card("node1-000003000", "7", "alice"), card("node1-000004000", "8", "admin")]);
        let mut alone = two();
        alone.object("PCIDevice", "node1-000004000")["status"]["resourceName"] = json!("nvidia.com/OTHER");
        let stored = create(asking(&["node1/0000:03:00.0"]), owner_rule(), alone).after();
        let mut asking_for_two = stored.clone();
        let value = json!({"devices": ["node1/10de:1eb8", "node1/10de:1eb8"]}).to_string();
        annotate(&mut asking_for_two, &[("pci-passthrough", &value)]);
        let request = Request::update(stored, asking_for_two);
        by_alice(request, owner_rule(), two()).assert_denied(&["pci-passthrough cannot be applied"]);
    }

    /// The administrator enables another card of the node later. The VM keeps what it was given.
    #[test]
    fn is_not_denied_for_what_others_do() {
        let more = cluster(vec![
            card("node1-000003000", "7", "alice"),
            card("node1-000004000", "8", "admin"),
            card("node2-000003000", "7", "admin"),
        ]);
        let answer = by("bob", Request::update(stored(), edited(&stored())), owner_rule(), more);
        assert_eq!((names(&answer), pinned(&answer)), (vec!["node1-000003000".to_owned()], json!("node1")));
    }
}

mod devices_of_an_iommu_group {
    use super::*;

    fn group(owner: &str) -> MemoryCluster {
        cluster(vec![
            card("node1-000001000", "9", "alice"),
            of_resource("node1-000001001", "9", owner, "nvidia.com/TU104_AUDIO"),
        ])
    }

    #[rstest]
    fn must_all_be_hers(#[values("node1/0000:01:00.0", "0000:01:00.0")] device: &str) {
        assert_eq!(names(&create(asking(&[device]), owner_rule(), group("alice"))), ["node1-000001000"]);
        assert_denied_without_names(
            &create(asking(&[device]), owner_rule(), group("bob")),
            &["all devices of an IOMMU group go together", "have one user claim all of them"],
            &["bob", "node1-000001001", "01:00.1"],
        );
    }

    #[rstest]
    #[case::both(&["node1/0000:01:00.*"], true)]
    #[case::one(&["node1/0000:01:00.0"], false)]
    fn must_all_be_allowed(#[case] allowed: &[&str], #[case] may: bool) {
        let settings = json!({"pciPassthrough": {"allowedDevices": {"default": allowed}}});
        let answer = create(asking(&["node1/0000:01:00.0"]), settings, group("bob"));
        match may {
            true => assert_eq!(names(&answer), ["node1-000001000"]),
            false => answer.assert_denied(&["all devices of an IOMMU group go together"]),
        }
    }

    #[test]
    fn must_be_claimed() {
        let nobodys = pci_without_claim("node1-000001001", "10de:10f7", "9", "nvidia.com/TU104_AUDIO");
        let cluster = cluster(vec![card("node1-000001000", "9", "alice"), vec![nobodys]]);
        create(asking(&["node1/0000:01:00.0"]), owner_rule(), cluster).assert_denied(&["an IOMMU group go together"]);
    }

    /// Kubernetes may give another device of the sibling's resource.
    #[test]
    fn may_have_equal_devices_of_others() {
        let audio = "nvidia.com/TU104_AUDIO";
        let cluster = cluster(vec![
            card("node1-000001000", "9", "alice"),
            of_resource("node1-000001001", "9", "alice", audio),
            of_resource("node1-000002001", "10", "admin", audio),
        ]);
        create(asking(&["node1/0000:01:00.0"]), owner_rule(), cluster).assert_denied(&["of the same resource"]);
    }
}

mod a_gpu_by_its_resource {
    use super::*;

    fn gpu(value: &str) -> Value {
        bare_vm(&[("gpu-device-plugin", value)])
    }

    #[rstest]
    #[case::owner(owner_rule())]
    #[case::namespace(namespace_rule())]
    #[case::only_a_limit(json!({"pciPassthrough": {"requireClaimOwner": true}, "gpuDevicePlugin": {"attachDevice": "never"}}))]
    fn is_given_on_a_node_where_all_are_hers(#[case] settings: Value) {
        let answer = create(gpu(CARD), settings.clone(), one_each());
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(pinned(&answer), "node1");
        let update = Request::update(answer.after(), edited(&answer.after()));
        let later = by("bob", update, settings.clone(), one_each());
        assert!(later.is_accepted(), "{}", later.message());
        assert_eq!(
            later.after()["spec"]["template"]["spec"]["nodeSelector"],
            json!({"kubernetes.io/hostname": "node1"})
        );
        assert_eq!(later.domain(), answer.domain());
        // Without the directive, nothing stays.
        let mut without = answer.after();
        without["metadata"]["annotations"] = json!({});
        let gone = by_alice(Request::update(answer.after(), without), settings, one_each());
        assert_eq!(gone.after()["spec"]["template"]["spec"].get("nodeSelector"), None);
    }

    #[rstest]
    #[case::owner(owner_rule())]
    #[case::namespace(namespace_rule())]
    fn is_not_given_elsewhere(#[case] settings: Value) {
        let others = ["admin\"", "node2"];
        let parts =
            ["gpu-device-plugin cannot be applied", "any device of the same resource as nvidia.com/TU104GL_TESLA_T4"];
        assert_denied_without_names(&create(not_on_node1(gpu(CARD)), settings.clone(), one_each()), &parts, &others);
        let admins = cluster(vec![card("node2-000003000", "7", "admin")]);
        assert_denied_without_names(&create(gpu(CARD), settings, admins), &parts, &others);
    }

    /// The card has a second function in its IOMMU group, which the VM has no entry for.
    #[rstest]
    fn stays_beside_its_siblings(#[values("alice", "bob", CONTROLLER)] user: &str) {
        let audio = |name: &str| of_resource(name, "0", "alice", "nvidia.com/TU104_HD_AUDIO_CONTROLLER");
        let others = card("node2-000003000", "0", "admin");
        let cluster = || cluster(vec![card("node1-000003000", "0", "alice"), audio("node1-000003001"), others.clone()]);
        let stored = create(gpu(CARD), owner_rule(), cluster()).after();
        let later = by(user, Request::update(stored.clone(), edited(&stored)), owner_rule(), cluster());
        assert!(later.is_accepted(), "{}", later.message());
        assert_eq!(later.after()["spec"], edited(&stored)["spec"]);
        assert_eq!(warnings(&later), "");
    }

    /// A device plugin that is not Harvester's serves it, and nobody claims its devices.
    #[test]
    fn of_another_plugin_has_no_owner() {
        let answer = create(gpu("nvidia.com/gpu"), owner_rule(), one_each());
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(pinned(&answer), Value::Null);
    }

    #[test]
    fn counts_for_the_limit_of_host_devices() {
        let settings = json!({"pciPassthrough": {"maxDevices": 2}});
        let four = || {
            let names = ["node1-000003000", "node1-000004000", "node1-000005000", "node1-000006000"];
            cluster(names.iter().map(|name| card(name, &name[9..], "admin")).collect())
        };
        let ask = |gpus: &str, devices: &[&str]| {
            let mut vm = gpu(gpus);
            if !devices.is_empty() {
                annotate(&mut vm, &[("pci-passthrough", &json!({"devices": devices}).to_string())]);
            }
            create(vm, settings.clone(), four())
        };
        let both = format!("{CARD}=2");
        assert_eq!(host_devices(&ask(&both, &[])).as_array().map(Vec::len), Some(2));
        ask(&format!("{CARD}=3"), &[])
            .assert_denied(&["would have 3 host devices", "pciPassthrough.maxDevices allows 2"]);
        let answer = ask(&format!("{CARD}=3"), &["node1/0000:03:00.0"]);
        answer.assert_denied(&["gpu-device-plugin cannot be applied", "would have 3 host devices"]);
        assert_eq!(host_devices(&ask(&both, &["node1/0000:03:00.0"])).as_array().map(Vec::len), Some(2));
    }
}

mod a_directive_that_was_never_applied {
    use super::*;

    const ASKED: &str = r#"{"devices": ["node2/0000:03:00.0"]}"#;

    fn settings(handling: &str) -> Value {
        json!({
            "pciPassthrough": {"requireClaimOwner": true, "errorHandling": handling},
            "gpuDevicePlugin": {"errorHandling": handling},
            "vbiosInjection": {"requireUserAccess": true, "errorHandling": handling},
        })
    }

    /// An update by somebody who might have the device or the ROM.
    #[track_caller]
    fn assert_stays_out(user: &str, stored: Value, feature: &str, settings: Value, cluster: MemoryCluster) {
        let answer = by(user, Request::update(stored.clone(), edited(&stored)), settings, cluster);
        assert!(answer.is_accepted(), "{}", answer.message());
        let after = answer.after();
        assert_eq!(after["spec"]["template"]["spec"], edited(&stored)["spec"]["template"]["spec"]);
        assert!(warnings(&answer).contains("set it again"), "{:?}", answer.warnings());
        let error = &after["metadata"]["annotations"][format!("vm-feature-manager.io/{feature}-error")];
        assert!(
            error.as_str().unwrap().contains("set it again") || error.as_str().unwrap().contains("alice"),
            "{error}"
        );
    }

    #[rstest]
    #[case::device("pci-passthrough", ASKED)]
    #[case::resource("gpu-device-plugin", CARD)]
    fn because_it_was_refused_is_not_granted_by_others(
        #[case] feature: &str,
        #[case] value: &str,
        #[values("admin", CONTROLLER)] user: &str,
    ) {
        let admins = || cluster(vec![card("node2-000003000", "7", "admin")]);
        let refused = create(bare_vm(&[(feature, value)]), settings("allow-and-log"), admins());
        assert!(refused.is_accepted() && refused.annotation(&format!("{feature}-error")).is_some());
        assert_stays_out(user, refused.after(), feature, settings("allow-and-log"), admins());
    }

    #[rstest]
    #[case::device("pci-passthrough", ASKED)]
    #[case::resource("gpu-device-plugin", CARD)]
    fn because_of_an_outage_is_not_granted_by_others(
        #[case] feature: &str,
        #[case] value: &str,
        #[values("admin", CONTROLLER)] user: &str,
        #[values("reject", "allow-and-log")] handling: &str,
    ) {
        let admins = cluster(vec![card("node2-000003000", "7", "admin")]);
        assert_stays_out(user, bare_vm(&[(feature, value)]), feature, settings(handling), admins);
    }

    /// The request that sets it anew is that of its owner.
    #[test]
    fn is_granted_to_its_owner_who_sets_it_again() {
        let stored = bare_vm(&[]);
        let request = Request::update(stored, bare_vm(&[("pci-passthrough", ASKED)]));
        assert_eq!(names(&by("admin", request, settings("reject"), one_each())), ["node2-000003000"]);
    }

    #[rstest]
    fn is_not_granted_because_the_settings_have_it(#[values("alice", "admin")] user: &str) {
        let mut settings = settings("reject");
        settings["defaultDirectives"] = json!({"default": {"pci-passthrough": ASKED}});
        let answer = by(user, Request::create(bare_vm(&[])), settings, one_each());
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.after()["spec"], bare_vm(&[])["spec"]);
        assert!(warnings(&answer).contains("set it again"), "{:?}", answer.warnings());
    }

    #[rstest]
    fn is_not_granted_to_a_rom_either(#[values("admin", CONTROLLER)] user: &'static str) {
        let cluster = MemoryCluster::of(vbios_objects()).readable_by(user);
        let vm = having(bare_vm(&[("vbios-injection", "igpu-rom")]), "hostDevices", json!([entry("igpu", "x")]));
        assert_stays_out(user, vm, "vbios-injection", settings("reject"), cluster);
    }
}

mod accounts_that_write_for_others {
    use super::*;

    #[test]
    fn get_no_device_that_they_could_have() {
        let controllers = cluster(vec![card("node1-000003000", "7", CONTROLLER)]);
        by(CONTROLLER, Request::create(asking(&["0000:03:00.0"])), owner_rule(), controllers).assert_denied(&[
            "0000:03:00.0 is given only by a request of a user who sets the directive",
            "but this request is from \"system:serviceaccount:harvester-system:kubevirt-controller\", an account that writes \
             VirtualMachines for others (setting controllerAccounts); have the user who claimed it",
        ]);
    }

    #[rstest]
    #[case::kubevirt_controller(CONTROLLER, json!({}), false)]
    #[case::kubevirt_by_itself("system:serviceaccount:kubevirt:kubevirt-controller", json!({}), false)]
    #[case::harvester("system:serviceaccount:harvester-system:harvester", json!({}), false)]
    #[case::one_of_the_settings("system:serviceaccount:flux-system:flux", json!({"controllerAccounts": ["*:flux-system:*"]}), false)]
    #[case::not_in_the_settings(CONTROLLER, json!({"controllerAccounts": ["nobody"]}), true)]
    #[case::a_person("bob", json!({}), true)]
    fn get_no_rom_that_they_may_read(#[case] user: &'static str, #[case] more: Value, #[case] may: bool) {
        let mut settings = json!({"vbiosInjection": {"requireUserAccess": true}});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let vm = having(bare_vm(&[("vbios-injection", "igpu-rom")]), "hostDevices", json!([entry("igpu", "x")]));
        let cluster = MemoryCluster::of(vbios_objects()).readable_by(user);
        let answer = by(user, Request::create(vm), settings, cluster);
        match may {
            // The device of this VM has no ROM.
            true => answer.assert_denied(&["is a PCI device, and only a PCI device has a ROM"]),
            false => {
                answer.assert_denied(&["have a user who may get the ConfigMap remove the directive and set it again"])
            }
        }
    }

    /// The pool's template asks for what its author may not have.
    #[test]
    fn bring_no_device_from_a_pool() {
        let stored = by(CONTROLLER, Request::create(bare_vm(&[])), owner_rule(), one_each()).after();
        let new = pool_update(&stored, &asking(&["node2/0000:03:00.0"]));
        let answer = by(CONTROLLER, Request::update(stored, new), owner_rule(), one_each());
        assert!(!answer.is_accepted() || !answer.after().to_string().contains("node2-000003000"), "{}", answer.after());
    }

    /// A clone has what its template has; nobody asked for the device, so it is taken out.
    #[test]
    fn bring_no_device_from_a_clone() {
        let stored = create(asking(&["0000:03:00.0"]), owner_rule(), one_each()).after();
        let clone = harvester_clone(&stored, "clone");
        let user = "system:serviceaccount:harvester-system:harvester";
        let answer = by(user, Request::create(clone), owner_rule(), one_each());
        assert!(answer.is_accepted(), "{}", answer.message());
        assert!(warnings(&answer).contains("have the user who claimed it remove the directive and set it again"));
        assert_eq!(answer.after()["spec"]["template"]["spec"]["domain"]["devices"].get("hostDevices"), None);
    }
}

/// What a tenant tried who knew the source: each ended with a device of the administrator's.
mod a_second_attack {
    use super::*;

    const CARD_OF_NODE1: &str = r#"{"devices": ["node1/0000:03:00.0"]}"#;

    fn update(old: &Value, new: Value, settings: Value, cluster: MemoryCluster) -> Answer {
        by_alice(Request::update(old.clone(), new), settings, cluster)
    }

    fn has_device(answer: &Answer) -> bool {
        let devices = &answer.after()["spec"]["template"]["spec"]["domain"]["devices"];
        ["hostDevices", "gpus"].iter().any(|list| devices[list].as_array().is_some_and(|list| !list.is_empty()))
    }

    fn to_node2(vm: Value) -> Value {
        with_node_selector(vm, "kubernetes.io/hostname", "node2")
    }

    /// The manifest that was last applied is an annotation like any other.
    #[rstest]
    fn with_a_forged_manifest(#[values(owner_rule(), namespace_rule())] settings: Value) {
        let stored = create(asking(&["0000:03:00.0"]), settings.clone(), one_each()).after();
        let mut forged = to_node2(stored.clone());
        let declared = json!({"spec": {"template": {"spec": {"domain": {"devices": {
            "hostDevices": [entry("node1-000003000", CARD)],
        }}}}}});
        forged["metadata"]["annotations"] =
            json!({"kubectl.kubernetes.io/last-applied-configuration": declared.to_string()});
        let answer = update(&stored, forged, settings, one_each());
        assert!(answer.is_accepted() && !has_device(&answer), "{}", answer.after());
    }

    /// The device of the claim is gone, so that the directive fails before the update, too.
    #[rstest]
    #[case::pci(("pci-passthrough", CARD_OF_NODE1))]
    #[case::gpu(("gpu-device-plugin", CARD))]
    fn by_moving_what_fails(
        #[case] directive: (&str, &str),
        #[values("reject", "allow-and-log")] handling: &str,
        #[values(true, false)] has_pin: bool,
    ) {
        let mut settings = owner_rule();
        for section in ["pciPassthrough", "gpuDevicePlugin"] {
            settings[section]["errorHandling"] = json!(handling);
        }
        let stored = create(bare_vm(&[directive]), settings.clone(), one_each()).after();
        let later = || cluster(vec![card("node2-000003000", "7", "admin")]);
        let mut moved = if has_pin { to_node2(stored.clone()) } else { stored.clone() };
        if !has_pin {
            moved["spec"]["template"]["spec"].as_object_mut().unwrap().remove("nodeSelector");
        }
        let answer = update(&stored, moved, settings.clone(), later());
        assert!(!answer.is_accepted() || !has_device(&answer), "{}", answer.after());
        // What does not move it is accepted.
        let answer = update(&stored, edited(&stored), settings, later());
        assert!(answer.is_accepted() && has_device(&answer), "{}", answer.message());
    }

    /// The user's own entry has the name of the device, and another resource.
    #[rstest]
    #[case::name("hostDevices", &["node1/0000:04:00.0"])]
    #[case::gpu("gpus", &["node1/0000:04:00.0"])]
    fn with_an_entry_of_the_devices_name(#[case] list: &str, #[case] devices: &[&str]) {
        let cluster = || {
            cluster(vec![
                of_resource("node1-000003000", "7", "alice", "intel.com/DG2"),
                card("node1-000004000", "8", "admin"),
            ])
        };
        let old = having(bare_vm(&[]), list, json!([entry("node1-000004000", "intel.com/DG2")]));
        for new in [asking(devices), having(asking(devices), list, json!([entry("node1-000004000", "intel.com/DG2")]))]
        {
            update(&old, new, owner_rule(), cluster()).assert_denied(&["pci-passthrough cannot be applied"]);
        }
    }

    /// The directive is in user data that becomes unreadable.
    #[test]
    fn by_breaking_the_user_data() {
        let mut settings = owner_rule();
        settings["userData"] = json!({"enabled": true});
        let with_user_data = |text: &str| {
            let mut vm = bare_vm(&[]);
            vm["spec"]["template"]["spec"]["volumes"] =
                json!([{"name": "cloud", "cloudInitNoCloud": {"userData": text}}]);
            vm
        };
        let directive =
            "#cloud-config\nx_kubevirt_features:\n  pci_passthrough: '{\"devices\": [\"node1/0000:03:00.0\"]}'\n";
        let stored = create(with_user_data(directive), settings.clone(), one_each()).after();
        assert!(stored.to_string().contains("node1-000003000"), "{stored}");
        let mut broken = to_node2(stored.clone());
        broken["spec"]["template"]["spec"]["volumes"][0]["cloudInitNoCloud"]["userData"] = json!("#cloud-config\n\t{[");
        let answer = update(&stored, broken, settings.clone(), one_each());
        assert!(!answer.is_accepted() || !has_device(&answer), "{}", answer.after());
        // The administrator has switched the feature off.
        settings["pciPassthrough"]["enabled"] = json!(false);
        let answer = update(&stored, to_node2(stored.clone()), settings, one_each());
        assert!(!answer.is_accepted() || !has_device(&answer), "{}", answer.after());
    }

    /// Nobody has claimed the card yet. The administrator does so later.
    #[rstest]
    fn before_the_claim(#[values(owner_rule(), namespace_rule())] settings: Value) {
        let disabled = pci_without_claim("node2-000003000", "10de:1eb8", "7", CARD);
        let answer = create(to_node2(bare_vm(&[("gpu-device-plugin", CARD)])), settings, cluster(vec![vec![disabled]]));
        answer.assert_denied(&["nvidia.com/TU104GL_TESLA_T4 is not enabled for passthrough on any node"]);
    }

    /// The administrator removes the word that switches the feature off, and another directive counts then.
    #[rstest]
    fn through_somebody_who_removes_a_directive(#[values("reject", "allow-and-log")] handling: &str) {
        let mut settings = owner_rule();
        settings["pciPassthrough"]["errorHandling"] = json!(handling);
        let mut stored = bare_vm(&[("pci-passthrough", "disabled")]);
        stored["spec"]["template"]["metadata"]["annotations"] =
            json!({"vm-feature-manager.io/pci-passthrough": r#"{"devices": ["node2/0000:03:00.0"]}"#});
        let mut without = stored.clone();
        without["metadata"]["annotations"] = json!({});
        let answer = by("admin", Request::update(stored, without), settings, one_each());
        assert!(!answer.is_accepted() || !has_device(&answer), "{}", answer.after());
    }

    /// A tool of the administrator's writes the manifest without the spaces around values.
    #[test]
    fn through_somebody_who_trims_a_value() {
        let mut settings = owner_rule();
        settings["pciPassthrough"]["errorHandling"] = json!("allow-and-log");
        let admins = || cluster(vec![card("node2-000003000", "7", "admin")]);
        let refused =
            create(bare_vm(&[("pci-passthrough", r#" {"devices": ["0000:03:00.0"]} "#)]), settings.clone(), admins());
        let mut trimmed = edited(&refused.after());
        annotate(&mut trimmed, &[("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#)]);
        let answer = by("admin", Request::update(refused.after(), trimmed), settings, admins());
        assert!(answer.is_accepted() && !has_device(&answer), "{}", answer.after());
    }

    #[rstest]
    #[case::slot(&["0000:0a:00.*"], json!({}))]
    #[case::excluded(&["0000:03:00.0"], json!({"zone": "nowhere"}))]
    fn to_learn_names(#[case] devices: &[&str], #[case] selector: Value) {
        let all = || {
            cluster(vec![
                card("node1-00000a000", "7", "admin"),
                card("node2-00000a000", "7", "admin"),
                card("node2-00000a001", "8", "admin"),
                card("node1-000003000", "9", "alice"),
                card("node2-000003000", "9", "admin"),
            ])
        };
        let mut vm = asking(devices);
        vm["spec"]["template"]["spec"]["nodeSelector"] = selector;
        let answer = create(vm, owner_rule(), all());
        assert_denied_without_names(&answer, &["pci-passthrough cannot be applied"], &["node2", "admin\""]);
    }
}

mod a_third_attack {
    use super::*;

    fn update(user: &str, old: &Value, new: Value, settings: Value, cluster: MemoryCluster) -> Answer {
        by(user, Request::update(old.clone(), new), settings, cluster)
    }

    /// The entry has the name of a device of the administrator's, and the request records it.
    #[test]
    fn with_a_record_in_the_same_update() {
        let harmless = entry("node2-000003000", "intel.com/I350");
        let mut tagged = harmless.clone();
        tagged["tag"] = json!("t");
        let old = having(bare_vm(&[]), "hostDevices", json!([tagged]));
        let mut forged = having(asking(&["node2/0000:03:00.0"]), "hostDevices", json!([harmless]));
        let added = json!([{"hostDevice": "node2-000003000", "resource": "intel.com/I350"}]);
        set_record(&mut forged, &[("pci-passthrough", "x", added)]);
        let answer = update("alice", &old, forged, owner_rule(), one_each());
        answer.assert_denied(&["node2/0000:03:00.0 was not claimed by the requester \"alice\""]);
    }

    /// Her GPU is pinned to node1. She names it after the administrator's card of node2.
    #[rstest]
    fn with_the_name_of_another_nodes_device(#[values("alice", "admin")] user: &str) {
        let stored = create(bare_vm(&[("gpu-device-plugin", CARD)]), owner_rule(), one_each()).after();
        let renamed = having(stored.clone(), "hostDevices", json!([entry("node2-000003000", CARD)]));
        let renamed = update("alice", &stored, renamed, owner_rule(), one_each()).after();
        let later = update(user, &renamed, edited(&renamed), owner_rule(), one_each());
        assert_eq!(pinned(&later), "node1", "{}", later.message());
        let moved = with_node_selector(renamed.clone(), "kubernetes.io/hostname", "node2");
        update(user, &renamed, moved, owner_rule(), one_each())
            .assert_denied(&["gpu-device-plugin cannot be applied", "any device of the same resource"]);
    }

    /// The user's own node selector has the place of the pin, and the policy cannot compare it with the nodes.
    #[rstest]
    fn with_a_placement_that_cannot_be_compared(
        #[values(owner_rule(), namespace_rule())] settings: Value,
        #[values(true, false)] has_tolerations: bool,
    ) {
        let cluster = || match has_tolerations {
            true => one_each(),
            false => one_each().without("get", &NODE).without("list", &NODE),
        };
        let moved = |mut vm: Value| {
            if has_tolerations {
                let tolerations = (0..400).map(|i| json!({"key": format!("k{i}"), "operator": "Exists"}));
                vm["spec"]["template"]["spec"]["tolerations"] = tolerations.collect();
            }
            with_node_selector(vm, "kubernetes.io/hostname", "node2")
        };
        for directive in [("gpu-device-plugin", CARD), ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#)] {
            let vm = bare_vm(&[directive]);
            let refused = [&format!("{} cannot be applied", directive.0)[..]];
            create(moved(vm.clone()), settings.clone(), cluster()).assert_denied(&refused);
            let stored = create(vm, settings.clone(), cluster()).after();
            let moved = moved(stored.clone());
            update("alice", &stored, moved, settings.clone(), cluster()).assert_denied(&refused);
        }
    }

    /// A new VM that says that its directive failed before, and that lists the ConfigMap in its record.
    #[test]
    fn with_a_record_of_a_rom_in_a_new_vm() {
        let settings = json!({"vbiosInjection": {"requireUserAccess": true}});
        let mut vm = bare_vm(&[("vbios-injection", "igpu-rom"), ("vbios-injection-error", "x")]);
        vm = having(vm, "hostDevices", json!([entry("igpu", "x")]));
        vm["spec"]["template"]["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "igpu-rom"}}]);
        set_record(&mut vm, &[("vbios-injection", "q", json!([{"volume": "v", "configMap": "igpu-rom"}]))]);
        let answer = create(vm, settings, MemoryCluster::of(vbios_objects()));
        assert!(warnings(&answer).contains("given only by a request of a user who sets the directive"));
        assert_eq!(answer.annotation("hooks.kubevirt.io/hookSidecars"), None);
        assert!(!answer.after()["spec"].to_string().contains("hookSidecars"), "{}", answer.after());
    }

    /// The record says that the directive named the address before.
    #[test]
    fn with_a_record_of_the_new_value() {
        let equal = || cluster(vec![card("node1-000003000", "7", "alice"), card("node1-000004000", "8", "alice")]);
        let settings = || json!({"pciPassthrough": {"equalDevices": "deny"}});
        let stored = create(asking(&["node1/10de:1eb8"]), settings(), equal()).after();
        let value = r#"{"devices": ["node1/0000:03:00.0"]}"#;
        let mut new = stored.clone();
        annotate(&mut new, &[("pci-passthrough", value)]);
        let record = new["spec"]["template"]["metadata"]["annotations"][RECORD].as_str().unwrap();
        let mut record: Value = serde_json::from_str(record).unwrap();
        record["pci-passthrough"]["value"] = json!(value);
        new["spec"]["template"]["metadata"]["annotations"][RECORD] = json!(record.to_string());
        let answer = update("alice", &stored, new, settings(), equal());
        answer.assert_denied(&["the setting pciPassthrough.equalDevices does not allow that"]);
    }

    /// Each of many devices with the ids is claimed by nobody.
    #[test]
    fn with_many_lookups() {
        let disabled = |i: usize| pci_without_claim(&format!("node2-0000{i:02x}000"), "8086:2030", "1", "intel.com/X");
        let all = cluster((0..200).map(|i| vec![disabled(i)]).collect());
        let answer = create(asking(&["node1/8086:2030"]), owner_rule(), all);
        answer.assert_denied(&["pci-passthrough cannot be applied"]);
        assert!(answer.lookups.len() < 10, "{:?}", answer.lookups);
    }
}

mod messages {
    use super::*;

    #[rstest]
    #[case::elsewhere(&["node1/0000:04:00.0"])]
    #[case::nowhere(&["0000:05:00.0"])]
    #[case::of_another(&["0000:04:00.0"])]
    #[case::kind(&["10de:1eb8", "10de:1eb8"])]
    #[case::slot(&["node2/0000:04:00.*"])]
    fn name_nothing_that_is_of_others(#[case] devices: &[&str]) {
        let cluster = cluster(vec![card("node1-000003000", "7", "alice"), card("node2-000004000", "8", "admin")]);
        let answer = create(asking(devices), owner_rule(), cluster);
        let others: &[&str] = if devices[0].starts_with("node2") { &["admin"] } else { &["admin", "node2"] };
        assert_denied_without_names(&answer, &["pci-passthrough cannot be applied"], others);
    }

    /// The user's own host device has the name of the administrator's card, and the ROM is for another one.
    #[rstest]
    #[case::with_rules(owner_rule(), false)]
    #[case::without(json!({}), true)]
    fn name_no_ids_of_a_device_that_gets_a_rom(#[case] settings: Value, #[case] has_ids: bool) {
        let mut objects = vbios_objects();
        objects.extend(card("node2-000003000", "7", "admin"));
        let vm = bare_vm(&[("vbios-injection", "igpu-rom")]);
        let vm = having(vm, "hostDevices", json!([entry("node2-000003000", CARD)]));
        let answer = create(vm, settings, MemoryCluster::of(objects));
        assert!(warnings(&answer).contains("it goes to node2-000003000"), "{}", warnings(&answer));
        assert_eq!(warnings(&answer).contains("10de:1eb8"), has_ids, "{}", warnings(&answer));
    }

    #[test]
    fn name_no_node_where_a_device_is_not_enabled() {
        let disabled = pci_without_claim("node2-000003000", "10de:1eb8", "7", CARD);
        let answer = create(asking(&["0000:03:00.0"]), owner_rule(), cluster(vec![vec![disabled]]));
        assert_denied_without_names(&answer, &["is not enabled for passthrough on any node"], &["node2"]);
    }
}
