//! The cost of a request grows at most linearly with its size. It is measured in fuel, which is the same on every machine.

use std::sync::LazyLock;

use rstest::rstest;
use serde_json::{Map, Value, json};
use vm_feature_manager_testkit::{evaluated, features, set_record};
use vmfm::cluster::Cluster;
use vmfm::wapc::Cost;

use super::harness::{HOST, request, vm};

/// A directive for every feature.
static ALL: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let pci = ("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#);
    features::directives_but(&[pci, ("gpu-device-plugin", "nvidia.com/gpu=2")])
});

fn settings() -> Value {
    json!({
        "nestedVirtualization": {"cpuVendor": "amd"},
        "pciPassthrough": {"deviceNames": "address", "maxDevices": 256},
        "vbiosInjection": {"errorHandling": "allow-and-log"},
        "userData": {"enabled": true},
    })
}

/// A KubeVirt object that serves the GPU as a device, so that one is added.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.add(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "harvester-system"},
        "spec": {"configuration": {"developerConfiguration": {"featureGates": ["HostDevices"]}, "permittedHostDevices": {
            "pciHostDevices": [{"pciVendorSelector": "10de:1eb8", "resourceName": "nvidia.com/gpu"}],
            "usb": [{"selectors": [{"vendor": "046d", "product": "c52b"}], "resourceName": "kubevirt.io/receiver"}],
        }}},
    }));
    cluster
}

/// Otherwise, the tests below would measure denials.
#[test]
fn all_directives_are_applied_but_that_of_a_missing_config_map() {
    let evaluation = HOST.with_cluster(cluster()).validate(&settings(), &request(vm(&ALL), None));
    assert!(evaluation.response.allowed, "{:?}", evaluation.response.status);
    let changed = evaluation.response.patched(&vm(&ALL)).unwrap();
    let is_applied = |feature: &&str| {
        !changed["metadata"]["annotations"][format!("vm-feature-manager.io/{feature}-applied")].is_null()
    };
    let failed: Vec<_> = features::names().into_iter().filter(|feature| !is_applied(feature)).collect();
    assert_eq!(failed, ["vbios-injection"], "{changed:#}");
}

/// The cost of `validate` in a new instance.
fn measure(cluster: Cluster, payload: &[u8]) -> Cost {
    HOST.with_cluster(cluster).measure("validate", payload).unwrap()
}

fn payload(object: Value, old: Option<Value>) -> Vec<u8> {
    json!({"request": request(object, old), "settings": settings()}).to_string().into_bytes()
}

fn cost(object: Value, old: Option<Value>) -> Cost {
    measure(cluster(), &payload(object, old))
}

/// What a byte more may cost in a list or an object of the request, however often the policy needs that: a tree of JSON is
/// read, compared, copied and written, and entries are counted. A short key of an object costs most.
const OF_A_BYTE: u64 = 3000;

/// Checks that what is four times as large costs at most so much more. Both costs come with the size of the payload.
fn check_growth([(some, few_bytes), (more, many_bytes)]: [(Cost, usize); 2]) {
    // Objects are trees, so each additional key costs a little more.
    assert!(more.fuel < some.fuel * 5, "from {} to {}", some.fuel, more.fuel);
    assert!(more.memory < some.memory * 9 / 2, "from {} to {}", some.memory, more.memory);
    let of_a_byte = more.fuel.saturating_sub(some.fuel) / (many_bytes - few_bytes) as u64;
    assert!(of_a_byte <= OF_A_BYTE, "{of_a_byte} units of fuel a byte");
}

fn list(vm: &mut Value, pointer: &str, items: impl Iterator<Item = Value>) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = vm.pointer_mut(&format!("/spec/template/spec{parent}")).unwrap();
    parent[key] = items.collect();
}

fn directive(vm: &mut Value, name: &str, value: String) {
    vm["metadata"]["annotations"][format!("vm-feature-manager.io/{name}")] = json!(value);
}

fn set_sidecars(vm: &mut Value, sidecars: Vec<Value>) {
    vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] =
        json!(json!(sidecars).to_string());
}

/// Sets the options that the record of a feature has.
fn set_options(vm: &mut Value, options: Map<String, Value>) {
    let record = json!({"nested-virt": {"value": "enabled", "options": options, "added": []}});
    vm["spec"]["template"]["metadata"]["annotations"]["vm-feature-manager.io/record"] = json!(record.to_string());
}

/// Sets the terms of the required node affinity.
fn terms(vm: &mut Value, terms: Vec<Value>) {
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    vm["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": required});
}

/// The operation on a VirtualMachine.
enum Verb {
    Create,
    /// An update adds the directives.
    Update,
    UpdateNothing,
}

/// A part of a VirtualMachine that can be of any size.
type Part = fn(&mut Value, usize);

#[rstest]
#[case::a_long_annotation(|vm: &mut Value, n| vm["metadata"]["annotations"]["example.com/note"] = json!("x".repeat(n * 64)))]
#[case::annotations(|vm: &mut Value, n| for i in 0..n { vm["metadata"]["annotations"][format!("example.com/{i}")] = json!("x"); })]
#[case::annotations_of_ours(|vm: &mut Value, n| for i in 0..n { vm["metadata"]["annotations"][format!("vm-feature-manager.io/x{i}")] = json!("x"); })]
#[case::labels(|vm: &mut Value, n| for i in 0..n { vm["metadata"]["labels"][format!("vm-feature-manager.io/x{i}")] = json!("x"); })]
#[case::a_long_directive(|vm: &mut Value, n| vm["metadata"]["annotations"]["vm-feature-manager.io/vbios-injection"] = json!("x".repeat(n * 64)))]
#[case::volumes(|vm: &mut Value, n| list(vm, "/volumes", (0..n).map(|i| json!({"name": format!("v{i}"), "configMap": {"name": "x"}}))))]
#[case::cloud_init(|vm: &mut Value, n| list(vm, "/volumes", (0..n).map(|i| json!({"name": format!("v{i}"), "cloudInitNoCloud": {"userData": "#cloud-config\nx_kubevirt_features: {}\n"}}))))]
#[case::user_data(|vm: &mut Value, n| list(vm, "/volumes", (0..n).map(|i| json!({"name": format!("v{i}"), "cloudInitNoCloud": {"userData": format!("#cloud-config\nx_kubevirt_features: {{a{i}: x, b{i}: x, c{i}: x}}\n")}}))))]
#[case::gpus(|vm: &mut Value, n| list(vm, "/domain/devices/gpus", (0..n).map(|i| json!({"name": format!("gpu-{i}"), "deviceName": "amd.com/gpu"}))))]
#[case::gpus_of_the_resource(|vm: &mut Value, n| list(vm, "/domain/devices/gpus", (0..n).map(|i| json!({"name": format!("gpu-{i}"), "deviceName": "nvidia.com/gpu"}))))]
#[case::host_devices(|vm: &mut Value, n| list(vm, "/domain/devices/hostDevices", (0..n).map(|i| json!({"name": format!("pci-device-{i}"), "deviceName": "example.com/x"}))))]
#[case::host_devices_at_the_address(|vm: &mut Value, n| list(vm, "/domain/devices/hostDevices", (0..n).map(|i| json!({"name": format!("x{i}"), "deviceName": "pci_0000_00_02_0"}))))]
#[case::hook_sidecars(|vm: &mut Value, n| vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] = json!(json!(vec![json!({"image": "x"}); n]).to_string()))]
#[case::limits(|vm: &mut Value, n| for i in 0..n { vm["spec"]["template"]["spec"]["domain"]["resources"]["limits"][format!("example.com/{i}")] = json!("1"); })]
#[case::record(|vm: &mut Value, n| set_record(vm, &[("gpu-device-plugin", "x", (0..n).map(|i| json!({"gpu": format!("gpu-{i}"), "resource": "x"})).collect())]))]
#[case::entries_of_the_record_in_place(|vm: &mut Value, n| list(vm, "/domain/cpu/features", (0..n).map(|_| json!({"name": "svm", "policy": "require"}))))]
#[case::sidecars_of_ours(|vm: &mut Value, n| vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] = json!(json!(vec![json!({"command": ["a", "b", "c", "vm-feature-manager.io/vbios-injection"]}); n]).to_string()))]
#[case::host_devices_of_harvester(|vm: &mut Value, n| list(vm, "/domain/devices/hostDevices", (0..n).map(|i| json!({"name": format!("node1-{i:09x}"), "deviceName": "example.com/x"}))))]
#[case::annotations_of_the_template(|vm: &mut Value, n| for i in 0..n { vm["spec"]["template"]["metadata"]["annotations"][format!("vm-feature-manager.io/x{i}")] = json!("x"); })]
#[case::last_applied(|vm: &mut Value, n| vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(json!({"spec": {"template": {"spec": {"volumes": vec![json!({"name": "x"}); n]}}}}).to_string()))]
#[case::cpu_features(|vm: &mut Value, n| list(vm, "/domain/cpu/features", (0..n).map(|i| json!({"name": format!("f{i}")}))))]
#[case::node_selector(|vm: &mut Value, n| for i in 0..n { vm["spec"]["template"]["spec"]["nodeSelector"][format!("example.com/{i}")] = json!("x"); })]
#[case::last_applied_entries(|vm: &mut Value, n| vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(json!({"spec": {"template": {"spec": {"domain": {"cpu": {"features": vec![json!({"name": "svm", "policy": "require"}); n]}}}}}}).to_string()))]
#[case::node_affinity(|vm: &mut Value, n| vm["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": vec![json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}); n]}}}))]
#[case::tolerations(|vm: &mut Value, n| list(vm, "/tolerations", (0..n).map(|i| json!({"key": format!("key-{i}"), "operator": "Exists"}))))]
#[case::expressions_of_a_term(|vm: &mut Value, n| terms(vm, vec![json!({"matchExpressions": vec![json!({"key": "a", "operator": "Exists"}); n]})]))]
#[case::values_of_an_expression(|vm: &mut Value, n| terms(vm, vec![json!({"matchExpressions": [{"key": "a", "operator": "In", "values": vec!["b"; n]}]})]))]
#[case::fields_of_a_term(|vm: &mut Value, n| terms(vm, vec![json!({"matchFields": vec![json!({"key": "metadata.name", "operator": "NotIn", "values": ["b"]}); n]})]))]
#[case::disks(|vm: &mut Value, n| list(vm, "/domain/devices/disks", (0..n).map(|i| json!({"name": format!("d{i}"), "disk": {"pciAddress": "0000:81:01.0"}}))))]
#[case::interfaces(|vm: &mut Value, n| list(vm, "/domain/devices/interfaces", (0..n).map(|i| json!({"name": format!("i{i}"), "pciAddress": "0000:81:01.0"}))))]
#[case::networks(|vm: &mut Value, n| list(vm, "/networks", (0..n).map(|i| json!({"name": format!("n{i}"), "pod": {}}))))]
#[case::sidecars_that_are_none(|vm: &mut Value, n| set_sidecars(vm, vec![json!(1); n * 16]))]
#[case::sidecars_of_config_maps(|vm: &mut Value, n| set_sidecars(vm, vec![json!({"configMap": {"name": "x"}}); n]))]
#[case::options_in_the_record(|vm: &mut Value, n| set_options(vm, (0..n).map(|i| (format!("option-{i}"), json!("x"))).collect()))]
#[case::others_in_the_record(|vm: &mut Value, n| vm["spec"]["template"]["metadata"]["annotations"]["vm-feature-manager.io/record"] = json!(Value::Object((0..n).map(|i| (format!("feature-{i}"), json!({"value": "x"}))).collect()).to_string()))]
#[case::devices_beside_an_entry(|vm: &mut Value, n| set_record(vm, &[("gpu-device-plugin", "x", json!([{"gpu": "gpu-0", "resource": "x", "beside": vec!["node1-000001000"; n]}]))]))]
#[case::long_names_in_the_record(|vm: &mut Value, n| set_record(vm, &[("gpu-device-plugin", "x", (0..64).map(|_| json!({"gpu": "x".repeat(n / 2), "resource": "x"})).collect())]))]
#[case::a_long_name_of_a_device(|vm: &mut Value, n| list(vm, "/domain/devices/hostDevices", std::iter::once(json!({"name": "x".repeat(n * 64), "deviceName": "x/y"}))))]
#[case::a_long_name_of_a_volume(|vm: &mut Value, n| list(vm, "/volumes", std::iter::once(json!({"name": "x".repeat(n * 64), "configMap": {"name": "x"}}))))]
#[case::a_long_value_of_the_node_selector(|vm: &mut Value, n| vm["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"] = json!("x".repeat(n * 64)))]
#[case::devices_of_a_directive(|vm: &mut Value, n| directive(vm, "pci-passthrough", json!({"devices": vec!["0000:00:02.0"; n * 4]}).to_string()))]
#[case::words_of_a_directive(|vm: &mut Value, n| directive(vm, "pci-passthrough", "a:b, ".repeat(n * 4)))]
#[case::keys_of_a_directive(|vm: &mut Value, n| directive(vm, "pci-passthrough", format!("{{{}}}", (0..n).map(|i| format!("\"k{i}\": 1")).collect::<Vec<_>>().join(","))))]
#[case::commas_of_a_directive(|vm: &mut Value, n| directive(vm, "pci-passthrough", format!("{{\"devices\": [\"a\"{}", ", ".repeat(n * 32))))]
#[case::a_long_resource(|vm: &mut Value, n| directive(vm, "gpu-device-plugin", "a/b ".repeat(n * 16)))]
#[case::a_long_option(|vm: &mut Value, n| directive(vm, "vbios-device", "/".repeat(n * 64)))]
#[case::a_long_image(|vm: &mut Value, n| directive(vm, "sidecar-image", "a/".repeat(n * 32)))]
#[case::parts_that_are_not_read(|vm: &mut Value, n| vm["status"] = json!({"conditions": vec![json!({"type": "Ready", "status": "True"}); n]}))]
fn of_a_part_four_times_as_large_is_at_most_so_much_more(
    #[case] part: Part,
    #[values(Verb::Create, Verb::Update, Verb::UpdateNothing)] verb: Verb,
) {
    let cost = |n| {
        let mut object = vm(&ALL);
        // The record of a VirtualMachine that was applied before: as long as it may be, with entries that are there and
        // that are not.
        let svm = vec![json!({"cpuFeature": "svm"}); 290];
        let devices = (0..290).map(|i| json!({"hostDevice": format!("node1-{i:09x}"), "resource": "example.com/x"}));
        set_record(
            &mut object,
            &[
                ("nested-virt", "enabled", json!(svm)),
                ("gpu-device-plugin", "nvidia.com/gpu", json!([{"gpu": "gpu-0", "resource": "nvidia.com/gpu"}])),
                ("pci-passthrough", "x", devices.collect()),
                ("vbios-injection", "x", json!(vec![json!({"hookSidecar": true}); 290])),
            ],
        );
        part(&mut object, n);
        let old = match verb {
            Verb::Create => None,
            Verb::Update => {
                let mut old = vm(&[("nested-virt", "enabled"), ("nested-virt-applied", "true")]);
                part(&mut old, n);
                Some(old)
            }
            Verb::UpdateNothing => {
                object = evaluated(object);
                Some(object.clone())
            }
        };
        let payload = payload(object, old);
        (measure(cluster(), &payload), payload.len())
    };
    check_growth([cost(1000), cost(4000)]);
}

/// A part of an AdmissionRequest that can be of any size.
#[rstest]
#[case::groups(|request: &mut Value, n| request["userInfo"]["groups"] = (0..n).map(|i| json!(format!("group-{i}"))).collect())]
#[case::extra(|request: &mut Value, n| for i in 0..n { request["userInfo"]["extra"][format!("key-{i}")] = json!(["x"]); })]
#[case::names_in_extra(|request: &mut Value, n| request["userInfo"]["extra"]["username"] = (0..n).map(|i| json!(format!("user-{i}"))).collect())]
#[case::a_long_name(|request: &mut Value, n| request["userInfo"]["username"] = json!("x".repeat(n * 64)))]
#[case::options(|request: &mut Value, n| for i in 0..n { request["options"][format!("key-{i}")] = json!("x"); })]
fn of_a_part_of_the_request_likewise(#[case] part: Part) {
    let mut settings = settings();
    settings["vbiosInjection"]["requireUserAccess"] = json!(true);
    let cost = |n| {
        let mut request = request(vm(&ALL), None);
        part(&mut request, n);
        let payload = json!({"request": request, "settings": settings}).to_string();
        (measure(cluster(), payload.as_bytes()), payload.len())
    };
    check_growth([cost(1000), cost(4000)]);
}

/// The settings are the administrator's, but they are read for each request.
#[rstest]
#[case::default_directives(|settings: &mut Value, n| for i in 0..n { settings["defaultDirectives"][format!("team-{i}-*")] = json!("nested-virt=enabled; hugepages=2Mi"); })]
#[case::devices(|settings: &mut Value, n| for i in 0..n { settings["pciPassthrough"]["allowedDevices"][format!("team-{i}-*")] = json!(["node1/*", "8086:*"]); })]
#[case::images(|settings: &mut Value, n| settings["vbiosInjection"]["allowedSidecarImages"] = (0..n).map(|i| json!(format!("registry-{i}.example.com/*"))).collect())]
fn of_settings_likewise(#[case] part: Part) {
    let cost = |n| {
        let mut settings = settings();
        part(&mut settings, n);
        let payload = json!({"request": request(vm(&ALL), None), "settings": settings}).to_string();
        (measure(cluster(), payload.as_bytes()), payload.len())
    };
    check_growth([cost(1000), cost(4000)]);
}

/// The cost per byte if there is nothing to do: the payload is only read.
#[rstest]
#[case::nothing_asked(false)]
#[case::nothing_of_ours_changes(true)]
fn what_is_not_to_be_changed_is_only_read(#[case] is_update: bool) {
    let asks: &[(&str, &str)] = if is_update { &ALL } else { &[] };
    let mut object = evaluated(vm(asks));
    object["status"]["conditions"] = json!(vec![json!({"type": "Ready", "status": "True"}); 100]);
    let old = is_update.then(|| object.clone());
    let payload = json!({"request": request(object, old), "settings": {}}).to_string();
    let of_a_byte = measure(cluster(), payload.as_bytes()).fuel / payload.len() as u64;
    assert!(of_a_byte <= 210, "{of_a_byte}");
}

/// The cost per additional byte of an object that is changed: it is read once, copied once, because a feature is planned on
/// what earlier ones add, and written once.
#[rstest]
#[case::outside_the_template("/status")]
#[case::in_the_template("/spec/template/status")]
fn a_mutation_reads_copies_and_writes_once(#[case] place: &str) {
    let fuel = |conditions: usize| {
        let mut object = vm(&[("nested-virt", "enabled")]);
        let (parent, key) = place.rsplit_once('/').unwrap();
        let part = json!(vec![json!({"type": "Ready", "status": "True"}); conditions]);
        object.pointer_mut(parent).unwrap()[key] = part;
        let length = object.to_string().len() as u64;
        let settings = json!({"nestedVirtualization": {"cpuVendor": "amd"}});
        let payload = json!({"request": request(object, None), "settings": settings}).to_string();
        (measure(cluster(), payload.as_bytes()).fuel, length)
    };
    let ((fuel, length), (more_fuel, more_length)) = (fuel(100), fuel(1000));
    let of_a_byte = (more_fuel - fuel) / (more_length - length);
    assert!(of_a_byte <= 320, "{of_a_byte}");
}

/// The cost per byte of the settings, including checks and defaults.
#[test]
fn settings_are_cheap_to_read() {
    let fuel = |settings: &Value| {
        let request = request(vm(&[("nested-virt", "enabled")]), None);
        let payload = json!({"request": request, "settings": settings}).to_string();
        measure(cluster(), payload.as_bytes()).fuel
    };
    let some = json!({"nestedVirtualization": {"cpuVendor": "amd"}});
    let mut all = settings();
    all["userData"]["enabled"] = json!(false);
    let more = (all.to_string().len() - some.to_string().len()) as u64;
    let of_a_byte = (fuel(&all) - fuel(&some)) / more;
    assert!(of_a_byte <= 190, "{of_a_byte}");
}

/// The cost per additional PCI device if no node is known, so that all devices are listed. Each is as Harvester writes it, with
/// its claim. The cost per device does not grow with their number.
#[test]
fn a_list_of_devices_is_cheap_to_read() {
    let cost = |n: usize| {
        let mut cluster = cluster();
        for i in 0..n {
            let (node, bus) = (i / 200, i % 200);
            let name = format!("node{node}-0000{bus:02x}000");
            let metadata = json!({
                "name": name, "uid": "0f7a3d52-6f0e-4a53-9b0c-0b8b5f3f7a11", "resourceVersion": "1234567", "generation": 3,
                "creationTimestamp": "2026-08-22T10:34:54Z", "labels": {"nodename": format!("node{node}")},
            });
            cluster.add(json!({
                "apiVersion": "devices.harvesterhci.io/v1beta1", "kind": "PCIDevice", "metadata": metadata, "spec": {},
                "status": {
                    "address": format!("0000:{bus:02x}:00.0"), "vendorId": "8086", "deviceId": "1521", "classId": "0200",
                    "iommuGroup": bus.to_string(), "nodeName": format!("node{node}"), "kernelDriverInUse": "vfio-pci",
                    "resourceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION",
                    "description": "Ethernet controller: Intel Corporation I350 Gigabit Network Connection",
                },
            }));
            cluster.add(json!({
                "apiVersion": "devices.harvesterhci.io/v1beta1", "kind": "PCIDeviceClaim", "metadata": metadata,
                "spec": {"address": format!("0000:{bus:02x}:00.0"), "nodeName": format!("node{node}"), "userName": "admin"},
                "status": {"kernelDriverToUnbind": "igb", "passthroughEnabled": true},
            }));
        }
        let vm = vm(&[("pci-passthrough", r#"{"devices": ["0000:c7:00.0"]}"#)]);
        let payload = json!({"request": request(vm, None), "settings": {}}).to_string();
        measure(cluster, payload.as_bytes())
    };
    let (some, more) = (cost(1000), cost(10_000));
    let of_a_device = (more.fuel - some.fuel) / 9000;
    assert!(of_a_device <= 105_000, "{of_a_device}");
    let memory = (more.memory - some.memory) / 9000;
    assert!(memory <= 1300, "{memory} bytes");
}

/// Rules about who may have what, which the requester meets.
fn rules() -> Value {
    json!({"pciPassthrough": {"requireClaimOwner": true, "allowedDevices": {"*": ["node*/*"]}}})
}

/// Devices of the resource that a directive asks for, and all that a VM may have of host devices, cost little more than to
/// be read: the policy finds a device by its name, and looks at each once for the rules about who may have what.
#[rstest]
#[case::one(&[("pci-passthrough", r#"{"devices": ["0000:00:00.0"]}"#)], json!({}), 120_000)]
#[case::one_with_rules(&[("pci-passthrough", r#"{"devices": ["0000:00:00.0"]}"#)], rules(), 120_000)]
#[case::by_its_ids(&[("pci-passthrough", r#"{"devices": ["8086:1521", "8086:1521"]}"#)], json!({}), 120_000)]
#[case::gpu_with_rules(&[("gpu-device-plugin", "nvidia.com/X")], rules(), 120_000)]
#[case::many(&[("pci-passthrough", "")], json!({}), 350_000)]
fn many_devices_of_a_resource_cost_little_more(
    #[case] directives: &[(&str, &str)],
    #[case] mut settings: Value,
    #[case] bound: u64,
) {
    settings["pciPassthrough"]["maxDevices"] = json!(256);
    // A hundred nodes, each with as many equal cards, one in each IOMMU group.
    let cost = |count: usize| {
        let mut cluster = cluster();
        for i in 0..count {
            let (node, place) = (i % 100, i / 100);
            let metadata = json!({"name": format!("node{node}-0000{:02x}{:02x}0", place / 32, place % 32 * 8)});
            let address = format!("0000:{:02x}:{:02x}.0", place / 32, place % 32 * 8);
            cluster.add(json!({
                "apiVersion": "devices.harvesterhci.io/v1beta1", "kind": "PCIDevice", "metadata": metadata,
                "status": {
                    "address": address, "vendorId": "8086", "deviceId": "1521", "classId": "0300",
                    "iommuGroup": i.to_string(), "nodeName": format!("node{node}"), "resourceName": "nvidia.com/X",
                },
            }));
            cluster.add(json!({
                "apiVersion": "devices.harvesterhci.io/v1beta1", "kind": "PCIDeviceClaim", "metadata": metadata,
                "spec": {"userName": "admin"}, "status": {"passthroughEnabled": true},
            }));
        }
        let mut object = vm(directives);
        if directives[0].1.is_empty() {
            let devices: Vec<_> = (0..40).map(|_| "8086:1521").collect();
            directive(&mut object, "pci-passthrough", json!({"devices": devices}).to_string());
        }
        list(
            &mut object,
            "/domain/devices/hostDevices",
            (0..200).map(|i| json!({"name": format!("x{i}"), "deviceName": "example.com/x"})),
        );
        let mut request = request(object, None);
        request["userInfo"]["username"] = json!("admin");
        let payload = json!({"request": request, "settings": settings}).to_string();
        measure(cluster, payload.as_bytes())
    };
    let (some, more) = (cost(1000), cost(5000));
    let of_a_device = (more.fuel - some.fuel) / 4000;
    assert!(of_a_device <= bound, "{of_a_device}");
}

/// The cost per additional node, with as many labels as KubeVirt gives it.
#[test]
fn a_list_of_nodes_is_cheap_to_read() {
    let cost = |n: usize| {
        let mut cluster = cluster();
        for i in 0..n {
            let mut labels =
                json!({"cpu-vendor.node.kubevirt.io/AMD": "true", "kubernetes.io/hostname": format!("node{i}")});
            for feature in 0..100 {
                labels[format!("cpu-feature.node.kubevirt.io/feature-{feature}")] = json!("true");
            }
            cluster.add(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{i}"), "labels": labels},
                "status": {"allocatable": {"cpu": "64", "memory": "263922736Ki"}},
            }));
        }
        let payload = json!({"request": request(vm(&[("nested-virt", "enabled")]), None), "settings": {}}).to_string();
        measure(cluster, payload.as_bytes())
    };
    let (some, more) = (cost(100), cost(400));
    let of_a_node = (more.fuel - some.fuel) / 300;
    assert!(of_a_node <= 310_000, "{of_a_node}");
    let memory = (more.memory - some.memory) / 300;
    assert!(memory <= 16_500, "{memory} bytes");
}

/// A new instance has seventeen pages of 64 KiB; sixteen of them are the stack.
#[test]
fn a_common_request_needs_two_pages_more() {
    let most = 19 * (64 << 10);
    assert!(cost(vm(&[]), None).memory <= most);
    let asks = || vm(&[("nested-virt", "enabled"), ("nested-virt-applied", "true")]);
    let memory = cost(asks(), Some(asks())).memory;
    assert!(memory <= most, "{memory} bytes");
}

/// Cloud-init of 16 and 60 KiB. A document is read token by token, so a byte of it costs more.
#[rstest]
#[case::keys(|n| (0..n / 12).map(|i| format!("k{i:05}: 1\n")).collect())]
#[case::keys_of_the_section(|n| (0..n / 14).fold("x_kubevirt_features:\n".to_owned(), |text, i| format!("{text}  k{i:05}: 1\n")))]
#[case::sections(|n| "x_kubevirt_features: {a: b}\n".repeat(n / 28))]
#[case::a_long_value(|n| format!("x_kubevirt_features:\n  a: {}\n", "x".repeat(n)))]
#[case::a_long_list(|n| format!("x_kubevirt_features:\n  a: [{}]\n", "x,".repeat(n / 2)))]
#[case::open_lists(|n| format!("a: {}\n", "[".repeat(n)))]
#[case::open_maps(|n| format!("a: {}\n", "{a: ".repeat(n / 4)))]
#[case::lists(|n| format!("a: {}{}\n", "[".repeat(n / 2), "]".repeat(n / 2)))]
#[case::dashes(|n| format!("a:\n  {}\n", "- ".repeat(n / 2)))]
#[case::questions(|n| format!("a:\n  {}\n", "? ".repeat(n / 2)))]
#[case::anchors(|n| (0..n / 15).map(|i| format!("k{i:05}: &a{i:05} x\n")).collect())]
#[case::aliases(|n| format!("a: &a x\nb: [{}]\n", "*a, ".repeat(n / 4)))]
#[case::indents(|n: usize| (0..n.isqrt()).map(|i| format!("{}k:\n", " ".repeat(i))).collect())]
#[case::words(|n| format!("a: {}\n", "w ".repeat(n / 2)))]
#[case::lines(|n| format!("a:\n{}", "  w\n".repeat(n / 4)))]
#[case::escapes(|n| format!("a: \"{}\"\n", "\\n".repeat(n / 2)))]
#[case::comments(|n| "#\n".repeat(n / 2))]
#[case::spaces(|n| format!("a: {}\n", " ".repeat(n)))]
#[case::expressions(|n| format!("a: {}\n", "{{}}".repeat(n / 4)))]
fn a_document_of_cloud_init_costs_at_most_so_much_a_byte(
    #[case] text: fn(usize) -> String,
    #[values("#cloud-config\n", "## template: jinja\n#cloud-config\n")] header: &str,
) {
    let cost = |n| {
        let document = format!("{header}{}\nx_kubevirt_features: {{}}\n", text(n));
        let mut object = vm(&[("nested-virt", "enabled")]);
        let volume = json!({"name": "v", "cloudInitNoCloud": {"userData": document}});
        list(&mut object, "/volumes", std::iter::once(volume));
        cost(object, None).fuel
    };
    let of_a_byte = cost(60_000).saturating_sub(cost(16_000)) / 44_000;
    assert!(of_a_byte <= 6000, "{of_a_byte}");
}

/// Payloads nested as deeply as the policy reads them, and more deeply.
#[rstest]
#[case::directive(|vm: &mut Value, n| vm["metadata"]["annotations"]["vm-feature-manager.io/pci-passthrough"] = json!("[".repeat(n)))]
#[case::annotation_of_ours(|vm: &mut Value, n| vm["metadata"]["annotations"]["vm-feature-manager.io/x"] = deep(n - 8))]
#[case::node_selector(|vm: &mut Value, n| vm["spec"]["template"]["spec"]["nodeSelector"] = deep(n - 8))]
#[case::hook_sidecars(|vm: &mut Value, n| vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] = json!("[".repeat(n)))]
#[case::user_data_in_flow_style(|vm: &mut Value, n| list(vm, "/volumes", std::iter::once(user_data(&"[".repeat(n * 4)))))]
#[case::user_data_in_block_style(|vm: &mut Value, n| list(vm, "/volumes", std::iter::once(user_data(&"- ".repeat(n * 4)))))]
fn however_deep_there_is_stack_left(#[case] part: Part) {
    for depth in [60, 120, 128, 1000] {
        let mut object = vm(&ALL);
        part(&mut object, depth);
        let free = cost(object, None).free_stack;
        assert!(free >= 64 << 10, "{free} bytes are left at {depth} levels");
    }
}

fn deep(n: usize) -> Value {
    (0..n).fold(json!("x"), |inner, _| json!([inner]))
}

fn user_data(text: &str) -> Value {
    let document = format!("#cloud-config\nx_kubevirt_features:\n  pci_passthrough: {text}\n");
    json!({"name": "seed", "cloudInitNoCloud": {"userData": document}})
}
