//! Directive `pci-passthrough` without Harvester: KubeVirt permits devices by vendor and device.
//! Source: `kubevirt.io/kubevirt`, `pkg/virt-controller/services/renderresources.go:607`.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, KUBEVIRT, PCI_DEVICE};

use super::devices::{asking, create, edited, entry, having, host_devices, kubevirt, names, node, update, warnings};
use super::harness::{Answer, MemoryCluster, Request, bare_vm};

const L4: &str = "nvidia.com/L4";
const DISK: &str = "devices.kubevirt.io/nvme";

fn cluster() -> MemoryCluster {
    let permitted = json!({
        "pciHostDevices": [
            {"pciVendorSelector": "10DE:27B8", "resourceName": L4, "externalResourceProvider": true},
            {"pciVendorSelector": "144d:a80a", "resourceName": DISK},
        ],
        "mediatedDevices": [{"mdevNameSelector": "GRID T4-1Q", "resourceName": "nvidia.com/GRID_T4-1Q"}],
    });
    without_harvester(vec![node("node1"), kubevirt(permitted)])
}

fn without_harvester(objects: Vec<Value>) -> MemoryCluster {
    MemoryCluster::of(objects).failing(&PCI_DEVICE, ClusterError::KindNotServed)
}

fn with_setting(devices: &[&str], device_names: &str, cluster: MemoryCluster) -> Answer {
    let settings = json!({"pciPassthrough": {"deviceNames": device_names}});
    Request::create(asking(devices)).settings(settings).cluster(cluster).evaluate()
}

fn l4(number: usize) -> Value {
    entry(&format!("pci-device-{number}"), L4)
}

#[rstest]
#[case::ids(&["10de:27b8"], json!([l4(0)]))]
#[case::ids_in_upper_case(&["10DE:27B8"], json!([l4(0)]))]
#[case::twice_are_two_devices(&["10de:27b8", "10de:27b8"], json!([l4(0), l4(1)]))]
#[case::two_kinds(&["144d:a80a", "10de:27b8"], json!([entry("pci-device-0", DISK), l4(1)]))]
#[case::on_a_node(&["node1/10de:27b8"], json!([l4(0)]))]
fn ids_are_the_resource_that_kubevirt_permits(
    #[case] devices: &[&str],
    #[case] expected: Value,
    #[values("auto", "address")] device_names: &str,
) {
    let answer = with_setting(devices, device_names, cluster());
    assert_eq!(host_devices(&answer), expected);
    assert_eq!(warnings(&answer), "");
    let selector = &answer.after()["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"];
    assert_eq!(selector == "node1", devices[0].starts_with("node1/"));
}

#[test]
fn ids_stay_the_same_entries() {
    let stored = create(asking(&["10de:27b8", "10de:27b8"]), cluster()).after();
    let answer = update(&stored, edited(&stored), cluster());
    assert_eq!(host_devices(&answer), json!([l4(0), l4(1)]));
    let mut one = stored.clone();
    one["metadata"]["annotations"] = asking(&["10de:27b8"])["metadata"]["annotations"].clone();
    assert_eq!(host_devices(&update(&stored, one, cluster())), json!([l4(0)]));
    let mut none = stored.clone();
    none["metadata"]["annotations"] = json!({});
    assert_eq!(update(&stored, none, cluster()).after()["spec"], bare_vm(&[])["spec"]);
}

/// The option `vbios-device` may have the name.
#[test]
fn a_device_whose_resource_is_renamed_keeps_its_name() {
    let stored = create(asking(&["144d:a80a", "10de:27b8"]), cluster()).after();
    let permitted = |resource| {
        json!({"pciHostDevices": [
            {"pciVendorSelector": "10de:27b8", "resourceName": resource},
            {"pciVendorSelector": "144d:a80a", "resourceName": DISK},
        ]})
    };
    let renamed = without_harvester(vec![node("node1"), kubevirt(permitted("nvidia.com/AD104GL_L4"))]);
    let answer = update(&stored, edited(&stored), renamed);
    let expected = json!([entry("pci-device-0", DISK), entry("pci-device-1", "nvidia.com/AD104GL_L4")]);
    assert_eq!(host_devices(&answer), expected);
}

/// KubeVirt takes a device of a resource under `gpus`, too.
#[rstest]
#[case::host_device("hostDevices", &["10de:27b8"], 0)]
#[case::gpu("gpus", &["10de:27b8"], 0)]
#[case::gpu_and_another("gpus", &["10de:27b8", "10de:27b8"], 1)]
#[case::gpu_and_another_kind("gpus", &["10de:27b8", "144d:a80a"], 1)]
fn what_is_there_counts(#[case] list: &str, #[case] devices: &[&str], #[case] added: usize) {
    let there = json!([entry("mine", L4)]);
    let answer = create(having(asking(devices), list, there.clone()), cluster());
    assert!(answer.is_accepted(), "{}", answer.message());
    let devices = &answer.domain()["devices"];
    let count = |list: &str| devices[list].as_array().map_or(0, Vec::len);
    assert_eq!(devices[list][0], there[0]);
    assert_eq!(count("hostDevices") + count("gpus"), 1 + added);
}

#[test]
fn a_gpu_that_is_there_does_not_count_toward_the_most() {
    let vm = having(asking(&["10de:27b8", "144d:a80a"]), "gpus", json!([entry("mine", L4)]));
    let vm = having(vm, "hostDevices", json!([entry("other", "x.io/y")]));
    let request = Request::create(vm).settings(json!({"pciPassthrough": {"maxDevices": 2}}));
    assert_eq!(names(&request.cluster(cluster()).evaluate()), ["other", "pci-device-0"]);
}

#[rstest]
#[case::another_device(&["10de:2230"], "KubeVirt does not permit the PCI device 10de:2230")]
#[case::one_of_two(&["10de:27b8", "8086:1521"], "KubeVirt does not permit the PCI device 8086:1521")]
fn ids_that_kubevirt_does_not_permit_are_an_error(#[case] devices: &[&str], #[case] part: &str) {
    create(asking(devices), cluster()).assert_denied(&[
        part,
        "add it to spec.configuration.permittedHostDevices.pciHostDevices of the KubeVirt object",
    ]);
}

#[rstest]
#[case::no_list(json!(null))]
#[case::empty(json!({}))]
#[case::mediated_only(json!({"mediatedDevices": [{"mdevNameSelector": "10de:27b8", "resourceName": L4}]}))]
#[case::no_ids(json!({"pciHostDevices": [{"pciVendorSelector": "nvidia", "resourceName": L4}, {"resourceName": L4}]}))]
fn ids_without_an_entry_are_an_error(#[case] permitted: Value) {
    let cluster = without_harvester(vec![node("node1"), kubevirt(permitted)]);
    create(asking(&["10de:27b8"]), cluster).assert_denied(&["KubeVirt does not permit the PCI device 10de:27b8"]);
}

/// KubeVirt's own plugin serves the last one (`pkg/virt-handler/device-manager/device_controller.go:219`), others may serve any.
#[rstest]
#[case::different(&[L4, "nvidia.com/gpu"], false)]
#[case::equal(&[L4, L4], true)]
fn ids_with_several_entries_need_one_resource(#[case] resources: &[&str], #[case] accepted: bool) {
    let permitted = resources.iter().zip(["10DE:27B8", "10de:27b8"]);
    let permitted: Vec<Value> =
        permitted.map(|(resource, ids)| json!({"pciVendorSelector": ids, "resourceName": resource})).collect();
    let cluster = without_harvester(vec![node("node1"), kubevirt(json!({"pciHostDevices": permitted}))]);
    let answer = create(asking(&["10de:27b8"]), cluster);
    match accepted {
        true => assert_eq!(host_devices(&answer), json!([l4(0)])),
        false => answer.assert_denied(&[
            "KubeVirt permits 10de:27b8 as different resources: nvidia.com/L4, nvidia.com/gpu",
            "have the administrator leave one of them",
        ]),
    }
}

#[rstest]
#[case::for_now(ClusterError::Unavailable, "try again later")]
#[case::not_declared(ClusterError::NotDeclared, "does not list kubevirt.io/v1 KubeVirt")]
#[case::elsewhere(
    ClusterError::NotFound,
    "there is no KubeVirt kubevirt in the namespace harvester-system; have an administrator set kubevirt.namespace and \
     kubevirt.name in the policy's settings"
)]
fn ids_need_the_kubevirt_object(#[case] error: ClusterError, #[case] part: &str) {
    let answer = create(asking(&["10de:27b8"]), cluster().failing(&KUBEVIRT, error));
    answer.assert_denied(&["the PCI devices that KubeVirt permits cannot be looked up: ", part]);
}

/// Kubernetes knows no resource without a domain, so nothing is written that could never start.
#[rstest]
#[case::address(&["0000:41:00.0"], "0000:41:00.0")]
#[case::on_a_node(&["node1/0000:41:00.0"], "0000:41:00.0")]
#[case::name(&["node1-000041000"], "0000:41:00.0")]
#[case::long_domain(&["10000:e1:00.0"], "10000:e1:00.0")]
#[case::slot(&["0000:41:00.*"], "0000:41:00.*")]
#[case::beside_ids(&["10de:27b8", "0000:41:00.0"], "0000:41:00.0")]
fn an_address_is_an_error_with_the_remedy(#[case] devices: &[&str], #[case] address: &str) {
    let message = format!(
        "{address} is an address, but without Harvester, Kubernetes knows PCI devices only by vendor and device"
    );
    create(asking(devices), cluster()).assert_denied(&[
        &message,
        "does not serve pcidevices.devices.harvesterhci.io",
        "name the device as in 10de:27b8, and have the administrator add it to \
         spec.configuration.permittedHostDevices.pciHostDevices of the KubeVirt object",
    ]);
}

/// `deviceNames: address` is for who has it set.
mod by_address {
    use super::*;

    fn warning(address: &str) -> String {
        format!(
            "{address} is named by its address (the setting pciPassthrough.deviceNames says so), but Kubernetes has no resource of \
             that name, so the VirtualMachine will not start"
        )
    }

    #[rstest]
    #[case::one(&["0000:41:00.0"], &["0000:41:00.0"])]
    #[case::each_of_two(&["0000:41:00.0", "10000:e1:00.0"], &["0000:41:00.0", "10000:e1:00.0"])]
    #[case::beside_ids(&["10de:27b8", "0000:41:00.0"], &["0000:41:00.0"])]
    fn is_always_a_warning(#[case] devices: &[&str], #[case] warned: &[&str]) {
        let answer = with_setting(devices, "address", cluster());
        assert_eq!(host_devices(&answer).as_array().unwrap().len(), devices.len());
        let expected: Vec<String> =
            warned.iter().map(|address| format!("pci-passthrough: {}", warning(address))).collect();
        assert_eq!(warnings(&answer), expected.join(" "));
        // It does not get used to it.
        let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
        let request = Request::update(answer.after(), edited(&answer.after())).settings(settings);
        assert_eq!(warnings(&request.cluster(cluster()).evaluate()), expected.join(" "));
    }

    #[test]
    fn is_a_warning_for_an_entry_that_is_there() {
        let there = json!([entry("mine", "pci_0000_41_00_0")]);
        let settings = json!({"pciPassthrough": {"deviceNames": "address"}});
        let request = Request::create(having(asking(&["41:00.0"]), "hostDevices", there.clone())).settings(settings);
        let answer = request.cluster(cluster()).evaluate();
        assert_eq!(host_devices(&answer), there);
        assert!(warnings(&answer).contains(&warning("0000:41:00.0")), "{:?}", answer.warnings());
    }

    /// Its functions are not known.
    #[test]
    fn a_whole_slot_is_an_error() {
        with_setting(&["0000:41:00.*"], "address", cluster())
            .assert_denied(&["0000:41:00.* is an address", "the setting pciPassthrough.deviceNames says so"]);
    }
}

/// On Harvester, a claim adds the device to KubeVirt's list. If that failed, KubeVirt starts no guest with the device.
mod a_list_that_lacks_the_resource {
    use super::super::devices::pci;
    use super::*;

    const CARD: &str = "intel.com/I350_GIGABIT_NETWORK_CONNECTION";

    fn harvester(permitted: Value) -> MemoryCluster {
        let card = pci("node1-000003000", "8086:1521", "20", CARD).to_vec();
        MemoryCluster::of([vec![node("node1"), kubevirt(permitted)], card].concat())
    }

    #[rstest]
    #[case::other_devices(json!({"pciHostDevices": [{"pciVendorSelector": "10de:27b8", "resourceName": L4}]}), true)]
    #[case::only_usb_devices(json!({"usb": [{"resourceName": "kubevirt.io/receiver"}]}), true)]
    #[case::it(json!({"pciHostDevices": [{"pciVendorSelector": "8086:1521", "resourceName": CARD}]}), false)]
    // KubeVirt checks whether there is a list, not whether anything is in it.
    #[case::an_empty_list(json!({}), true)]
    #[case::no_list(json!(null), false)]
    fn is_a_warning(
        #[case] permitted: Value,
        #[case] is_warned: bool,
        #[values("0000:03:00.0", "8086:1521")] device: &str,
    ) {
        let answer = create(asking(&[device]), harvester(permitted));
        assert_eq!(names(&answer), ["node1-000003000"]);
        let warning = format!(
            "pci-passthrough: spec.configuration.permittedHostDevices of the KubeVirt object does not list {CARD}, so the \
             VirtualMachine will not start; disable passthrough for the device in Harvester, and enable it again"
        );
        assert_eq!(warnings(&answer), if is_warned { warning } else { String::new() });
    }

    #[test]
    fn is_said_once_for_two_devices() {
        let objects = [
            vec![node("node1"), kubevirt(json!({}))],
            pci("node1-000003000", "8086:1521", "20", CARD).to_vec(),
            pci("node1-000003001", "8086:1521", "21", CARD).to_vec(),
        ];
        let answer = create(asking(&["8086:1521", "8086:1521"]), MemoryCluster::of(objects.concat()));
        assert_eq!(warnings(&answer).matches(CARD).count(), 1, "{:?}", answer.warnings());
    }

    #[test]
    fn is_not_known_without_the_object() {
        let permitted = json!({"pciHostDevices": [{"pciVendorSelector": "10de:27b8", "resourceName": L4}]});
        let cluster = harvester(permitted).failing(&KUBEVIRT, ClusterError::NotDeclared);
        assert_eq!(warnings(&create(asking(&["0000:03:00.0"]), cluster)), "");
    }

    #[test]
    fn is_said_once() {
        let other = || harvester(json!({"pciHostDevices": [{"pciVendorSelector": "10de:27b8", "resourceName": L4}]}));
        let stored = create(asking(&["0000:03:00.0"]), other()).after();
        assert_eq!(warnings(&update(&stored, edited(&stored), other())), "");
    }
}
