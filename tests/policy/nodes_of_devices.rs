//! Which node devices must be on: that of the directive, of the directive for the other bus, or of the VM's placement.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, NODE, PCI_DEVICE};

use super::devices::{asking, create, entry, having, kubevirt, names, node, node_with, pci, update, usb, warnings};
use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm};

const CARD: &str = "intel.com/I350_GIGABIT_NETWORK_CONNECTION";

/// Two nodes with the same network card and the same receiver each; a GPU on node1; node3 has nothing.
fn objects() -> Vec<Value> {
    [
        vec![node("node1"), node("node2"), node("node3"), usb("node1-046d-c52b-001002"), usb("node2-046d-c52b-001004")],
        pci("node1-000003000", "8086:1521", "20", CARD).to_vec(),
        pci("node2-000003000", "8086:1521", "20", CARD).to_vec(),
        pci("node1-000001000", "10de:1eb8", "16", "nvidia.com/TU104GL_TESLA_T4").to_vec(),
    ]
    .concat()
}

fn cluster() -> MemoryCluster {
    MemoryCluster::of(objects())
}

fn tainted(name: &str) -> MemoryCluster {
    let mut cluster = cluster();
    cluster.object("Node", name)["spec"]["taints"] = json!([{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]);
    cluster
}

fn both(pci: &str, usb: &str) -> Value {
    let list = |device: &str| json!({"devices": [device]}).to_string();
    bare_vm(&[("pci-passthrough", &list(pci)), ("usb-passthrough", &list(usb))])
}

/// The VM may run only on nodes whose hostname is, or is not, this.
fn placed(mut vm: Value, operator: &str, node: &str) -> Value {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    vm["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] =
        json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": operator, "values": [node]}]}]);
    vm
}

fn selected(answer: &Answer) -> Value {
    answer.after()["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"].clone()
}

/// The node that one directive names is that of both.
mod the_other_directive {
    use super::*;

    #[rstest]
    #[case::pci("node2/0000:03:00.0", "046d:c52b")]
    #[case::usb("0000:03:00.0", "node2/046d:c52b")]
    #[case::pci_by_ids("node2/8086:1521", "046d:c52b")]
    #[case::pci_by_slot("node2/0000:03:00.*", "046d:c52b")]
    #[case::pci_by_name("node2-000003000", "046d:c52b")]
    #[case::usb_by_name("8086:1521", "node2-046d-c52b-001004")]
    #[case::both("node2/0000:03:00.0", "node2/046d:c52b")]
    fn tells_the_node(#[case] pci: &str, #[case] usb: &str) {
        let answer = create(both(pci, usb), cluster());
        assert_eq!(names(&answer), ["node2-000003000", "node2-046d-c52b-001004"]);
        assert_eq!(warnings(&answer), "");
        assert_eq!(selected(&answer), "node2");
    }

    #[rstest]
    #[case::usb_of_pci(
        "node1/0000:03:00.0",
        "node2/046d:c52b",
        "usb-passthrough cannot be applied",
        "the nodes node1 (in pci-passthrough) and node2"
    )]
    #[case::pci_of_usb(
        "0000:01:00.0",
        "node2/046d:c52b",
        "pci-passthrough cannot be applied",
        "the node node2 (named by usb-passthrough) has no PCI device 0000:01:00.0; it is on node1, so choose a node that has it"
    )]
    #[case::no_such_node_of_pci(
        "node9/0000:03:00.0",
        "046d:c52b",
        "usb-passthrough cannot be applied",
        "there is no node node9 (named by pci-passthrough), so it has no USB device 046d:c52b; it is on node1, node2, so choose"
    )]
    #[case::no_such_node_of_usb(
        "0000:07:00.0",
        "node9/046d:c52b",
        "pci-passthrough cannot be applied",
        "there is no node node9 (named by usb-passthrough), so it has no PCI device 0000:07:00.0; correct the name of the node"
    )]
    fn is_named_in_the_error(#[case] pci: &str, #[case] usb: &str, #[case] feature: &str, #[case] part: &str) {
        create(both(pci, usb), cluster()).assert_denied(&[feature, part]);
    }

    /// What it names counts even if it cannot be applied, or names something else first.
    #[rstest]
    #[case::fails(r#"{"devices": ["node2/dead:beef"]}"#)]
    #[case::second_in_its_list(r#"{"devices": ["1050:0407", "node2/046d:c52b"]}"#)]
    fn tells_the_node_even_if_it_fails(#[case] usb: &str) {
        let vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#), ("usb-passthrough", usb)]);
        let settings = json!({"usbPassthrough": {"errorHandling": "allow-and-log"}});
        let answer = Request::create(vm).settings(settings).cluster(cluster()).evaluate();
        assert_eq!(names(&answer), ["node2-000003000"]);
    }

    #[rstest]
    #[case::switched_off("disabled", json!({}))]
    #[case::not_json("node2/046d:c52b", json!({"usbPassthrough": {"errorHandling": "allow-and-log"}}))]
    #[case::off_in_the_settings(r#"{"devices": ["node2/046d:c52b"]}"#, json!({"usbPassthrough": {"enabled": false}}))]
    fn that_is_none_tells_nothing(#[case] usb: &str, #[case] settings: Value) {
        let vm = bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#), ("usb-passthrough", usb)]);
        let answer = Request::create(vm).settings(settings).cluster(cluster()).evaluate();
        assert_eq!(names(&answer), ["node1-000003000"]);
    }

    /// It names a node that the VM cannot run on, so it fails itself, too.
    #[test]
    fn cannot_overrule_the_placement() {
        let vm = placed(both("0000:03:00.0", "node2/046d:c52b"), "In", "node1");
        create(vm, cluster()).assert_denied(&[
            "exclude every node that has the devices: 0000:03:00.0 on node2",
            "the directive names the node node2, but the VirtualMachine may run only on node1",
        ]);
    }
}

/// Who chose the node, and what is there.
#[rstest]
#[case::directive(asking(&["node3/0000:03:00.0"]), "the node node3 has no PCI device 0000:03:00.0; it is on node1, node2, so")]
#[case::directive_by_ids(asking(&["node3/10de:1eb8"]), "the node node3 has no PCI device 10de:1eb8; it is on node1, so")]
#[case::directive_by_slot(asking(&["node3/03:00.*"]), "the node node3 has no PCI device 0000:03:00.*; it is on node1, node2, so")]
#[case::no_such_node(
    asking(&["node9/0000:03:00.0"]),
    "there is no node node9, so it has no PCI device 0000:03:00.0; it is on node1, node2, so choose a node that has it"
)]
#[case::no_such_node_and_nowhere(
    asking(&["node9/0000:07:00.0"]),
    "there is no node node9, so it has no PCI device 0000:07:00.0; correct the name of the node"
)]
#[case::nowhere(asking(&["node3/0000:07:00.0"]), "the node node3 has no PCI device 0000:07:00.0; look it up under PCI Devices")]
#[case::placement(
    placed(asking(&["0000:03:00.0"]), "In", "node3"),
    "the node node3 (chosen by the VirtualMachine) has no PCI device 0000:03:00.0"
)]
#[case::placement_by_ids(
    placed(asking(&["10de:1eb8"]), "In", "node3"),
    "the node node3 (chosen by the VirtualMachine) has no PCI device 10de:1eb8; it is on node1, so choose a node that has it, or \
     name another device"
)]
fn a_node_without_the_device_is_named_with_who_chose_it(#[case] vm: Value, #[case] part: &str) {
    create(vm, cluster()).assert_denied(&[part]);
}

/// Where the device is instead is looked up only for the message.
#[test]
fn a_message_does_without_the_list() {
    let cluster = cluster().without("list", &PCI_DEVICE);
    create(asking(&["node3/0000:03:00.0"]), cluster)
        .assert_denied(&["the node node3 has no PCI device 0000:03:00.0; look it up under PCI Devices in Harvester"]);
}

mod excluded_by_the_placement {
    use super::*;

    #[rstest]
    #[case::affinity(placed(asking(&["node1/0000:03:00.0"]), "NotIn", "node1"), cluster())]
    #[case::taint(asking(&["node1/0000:03:00.0"]), tainted("node1"))]
    fn the_node_that_the_directive_names_is_an_error(#[case] vm: Value, #[case] cluster: MemoryCluster) {
        create(vm, cluster).assert_denied(&[
            "the directive names the node node1, but the VirtualMachine's node selector, node affinity or tolerations exclude that node",
            "name devices of another node, or change",
        ]);
    }

    #[rstest]
    #[case::affinity(placed(asking(&["10de:1eb8"]), "NotIn", "node1"), cluster())]
    #[case::taint(asking(&["0000:01:00.0"]), tainted("node1"))]
    fn every_node_with_the_device_is_an_error(#[case] vm: Value, #[case] cluster: MemoryCluster) {
        create(vm, cluster).assert_denied(&[
            "node selector, node affinity or tolerations exclude every node that has the devices:",
            "on node1; change these, or ask for other devices",
        ]);
    }

    #[rstest]
    #[case::affinity(placed(asking(&["0000:03:00.0"]), "NotIn", "node1"), cluster())]
    #[case::affinity_by_ids(placed(asking(&["8086:1521"]), "NotIn", "node1"), cluster())]
    #[case::taint(asking(&["0000:03:00.*"]), tainted("node1"))]
    fn a_node_is_not_chosen(#[case] vm: Value, #[case] cluster: MemoryCluster) {
        assert_eq!(names(&create(vm, cluster)), ["node2-000003000"]);
    }

    #[test]
    fn a_taint_that_is_tolerated_is_none() {
        let mut vm = asking(&["node1/0000:01:00.0"]);
        vm["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "nvidia.com/gpu", "operator": "Exists"}]);
        assert_eq!(names(&create(vm, tainted("node1"))), ["node1-000001000"]);
    }

    /// A cordon passes, and the VM waits for the node with its device.
    #[test]
    fn a_cordoned_node_is_not_excluded() {
        let mut cluster = cluster();
        cluster.object("Node", "node1")["spec"]["unschedulable"] = json!(true);
        assert_eq!(names(&create(asking(&["0000:01:00.0"]), cluster)), ["node1-000001000"]);
    }

    #[test]
    fn what_cannot_be_looked_up_excludes_nothing() {
        let cluster = tainted("node1").failing(&NODE, ClusterError::NotDeclared);
        assert_eq!(names(&create(asking(&["node1/0000:01:00.0"]), cluster)), ["node1-000001000"]);
    }

    #[test]
    fn a_usb_device_is_not_chosen() {
        let vm = bare_vm(&[("usb-passthrough", r#"{"devices": ["046d:c52b"]}"#)]);
        assert_eq!(names(&create(vm.clone(), tainted("node1"))), ["node2-046d-c52b-001004"]);
        create(vm, cluster()).assert_denied(&["046d:c52b matches different devices"]);
    }
}

/// The resource of `gpu-device-plugin` is on nodes, too.
mod of_a_gpu_plugin {
    use super::*;

    const GPU: &str = "nvidia.com/gpu";
    const WARNING: &str = "gpu-device-plugin: no node that the VirtualMachine may run on has all of these devices \
                           (status.allocatable), so the VirtualMachine will not be scheduled: nvidia.com/gpu on gpu1, gpu2; name \
                           devices that are there, or change the VirtualMachine's node selector, node affinity or tolerations";

    /// Two of the nodes have GPUs; `first` is tainted.
    fn cluster(first: &str) -> MemoryCluster {
        let mut nodes = vec![node_with("gpu1", GPU, "4"), node_with("gpu2", GPU, "4"), node("plain")];
        nodes[2]["status"]["allocatable"][GPU] = json!("0");
        for node in nodes.iter_mut().take(2) {
            if node["metadata"]["name"] == first || first == "both" {
                node["spec"]["taints"] = json!([{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]);
            }
        }
        let permitted = json!({"pciHostDevices": [{"pciVendorSelector": "10de:1eb8", "resourceName": GPU}]});
        MemoryCluster::of([nodes, vec![kubevirt(permitted)]].concat())
    }

    fn vm() -> Value {
        bare_vm(&[("gpu-device-plugin", GPU)])
    }

    #[rstest]
    #[case::one_of_two("gpu1", vm(), "")]
    #[case::both("both", vm(), WARNING)]
    #[case::one_and_an_affinity("gpu1", placed(vm(), "NotIn", "gpu2"), WARNING)]
    #[case::chosen("gpu1", placed(vm(), "In", "gpu1"), WARNING)]
    #[case::chosen_without_a_taint("gpu1", placed(vm(), "In", "gpu2"), "")]
    #[case::chosen_without_a_gpu("none", placed(vm(), "In", "plain"), WARNING)]
    fn nodes_that_are_all_excluded_are_a_warning(#[case] tainted: &str, #[case] vm: Value, #[case] warning: &str) {
        let answer = create(vm, cluster(tainted));
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(warnings(&answer), warning);
    }

    #[test]
    fn a_toleration_lets_it_in() {
        let mut vm = vm();
        vm["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "nvidia.com/gpu", "operator": "Exists"}]);
        assert_eq!(warnings(&create(vm, cluster("both"))), "");
    }

    #[test]
    fn nodes_that_cannot_be_read_or_have_no_such_resource_say_nothing() {
        assert_eq!(warnings(&create(vm(), cluster("both").failing(&NODE, ClusterError::NotDeclared))), "");
        assert_eq!(warnings(&create(vm(), cluster("both").without("list", &NODE))), "");
        let permitted = json!({"pciHostDevices": [{"pciVendorSelector": "10de:1eb8", "resourceName": GPU}]});
        assert_eq!(warnings(&create(vm(), MemoryCluster::of(vec![node("node1"), kubevirt(permitted)]))), "");
    }

    /// The device in place may have been given before the taint.
    #[test]
    fn what_is_in_place_is_not_checked() {
        let stored = create(vm(), cluster("none")).after();
        let mut new = stored.clone();
        annotate(&mut new, &[("nested-virt", "disabled")]);
        let answer = update(&stored, new, cluster("both"));
        assert_eq!(warnings(&answer), "");
        let there = having(vm(), "gpus", json!([entry("mine", GPU)]));
        assert_eq!(warnings(&create(there, cluster("both"))), "");
    }

    /// A PCI device is on one node, which the policy selects; the plugin's resource must be there.
    #[test]
    fn the_node_of_a_pci_device_counts() {
        let mut objects = objects();
        objects.extend([node_with("gpu1", GPU, "4"), kubevirt(json!({"pciHostDevices": [
            {"pciVendorSelector": "10de:1eb8", "resourceName": GPU}, {"pciVendorSelector": "8086:1521", "resourceName": CARD},
        ]}))]);
        let mut vm = asking(&["0000:03:00.0"]);
        annotate(&mut vm, &[("gpu-device-plugin", GPU)]);
        assert_eq!(names(&create(vm, MemoryCluster::of(objects))), ["node1-000003000", "gpu-0"]);
    }
}
