//! Removing directives: the policy removes what a feature added, and keeps what the user wrote.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, PCI_DEVICE};

use super::harness::{
    Answer, MemoryCluster, PREFIX, RECORD, Request, annotate, bare_vm, fixtures, record, set_record, vbios_objects,
};

const NESTED: (&str, &str) = ("nested-virt", "enabled");
const PCI: (&str, &str) = ("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#);
const PCI_OF_NODE: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#);
const GPU: (&str, &str) = ("gpu-device-plugin", "nvidia.com/gpu");
const HUGEPAGES: (&str, &str) = ("hugepages", "2Mi");
const ROM: (&str, &str) = ("vbios-injection", "igpu-rom");

const HOST_DEVICES: &str = "/domain/devices/hostDevices";
const GPUS: &str = "/domain/devices/gpus";
const CPU_FEATURES: &str = "/domain/cpu/features";
const LIMITS: &str = "/domain/resources/limits";

fn settings() -> Value {
    json!({
        "nestedVirtualization": {"cpuVendor": "amd"},
        "pciPassthrough": {"deviceNames": "address"},
    })
}

fn on_harvester() -> Value {
    json!({"nestedVirtualization": {"cpuVendor": "amd"}, "pciPassthrough": {"deviceNames": "harvester"}})
}

/// Harvester with an iGPU on node1 and a ROM.
fn cluster() -> MemoryCluster {
    let mut objects = vbios_objects();
    objects.extend(fixtures("../../examples/harvester/cluster/cluster.yaml"));
    MemoryCluster::of(objects)
}

/// A cluster whose KubeVirt serves the resource as a device.
fn serving(resource: &str) -> MemoryCluster {
    let mut cluster = cluster();
    cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"] =
        json!({"pciHostDevices": [{"pciVendorSelector": "10de:1", "resourceName": resource}]});
    cluster
}

/// A virtual machine, and what happens to it in the course of a test.
struct Story {
    settings: Value,
    cluster: fn() -> MemoryCluster,
    vm: Value,
}

impl Story {
    /// A virtual machine with these entries, which the user wrote.
    fn of(entries: &[(&str, Value)]) -> Self {
        Self { settings: settings(), cluster: MemoryCluster::default, vm: with(bare_vm(&[]), entries) }
    }

    fn on_harvester(mut self) -> Self {
        self.settings = on_harvester();
        self.cluster = cluster;
        self
    }

    fn without_tracking(mut self) -> Self {
        self.settings["addTrackingAnnotations"] = json!(false);
        self
    }

    fn allowing_failures(mut self) -> Self {
        for section in ["nestedVirtualization", "pciPassthrough", "gpuDevicePlugin", "vbiosInjection"] {
            self.settings[section]["errorHandling"] = json!("allow-and-log");
        }
        self
    }

    /// Adds directives. The result is the same for a new VM and for an update.
    fn ask(mut self, directives: &[(&str, &str)]) -> Self {
        let mut new = self.vm.clone();
        annotate(&mut new, directives);
        let created = self.answer(Request::create(new.clone()));
        let updated = self.answer(Request::update(self.vm.clone(), new));
        assert!(created.is_accepted(), "{}", created.message());
        assert_eq!(created.after(), updated.after(), "whether the VM was there or not");
        self.vm = created.after();
        self
    }

    /// Changes the stored VM without calling the policy.
    fn edit(mut self, change: impl Fn(&mut Value)) -> Self {
        change(&mut self.vm);
        self
    }

    /// Updates the VM. The policy evaluates it twice, as in a reinvocation.
    fn update(&self, change: impl Fn(&mut Value)) -> Answer {
        let mut new = self.vm.clone();
        change(&mut new);
        let answer = self.answer(Request::update(self.vm.clone(), new));
        if answer.is_accepted() {
            let again = self.answer(Request::update(self.vm.clone(), answer.after()));
            assert!(!again.is_mutated(), "the second time: {}", again.patch());
        }
        answer
    }

    /// Removes the directive.
    fn drop(&self, directive: (&str, &str)) -> Answer {
        self.update(|vm| remove(vm, directive.0))
    }

    fn answer(&self, request: Request) -> Answer {
        request.settings(self.settings.clone()).cluster((self.cluster)()).evaluate()
    }
}

/// Sets entries under the template's `spec`, by their pointers.
fn with(mut vm: Value, entries: &[(&str, Value)]) -> Value {
    for (pointer, value) in entries {
        let keys = pointer.trim_start_matches('/').split('/');
        let place = keys.fold(&mut vm["spec"]["template"]["spec"], |place, key| &mut place[key]);
        *place = value.clone();
    }
    vm
}

fn remove(vm: &mut Value, key: &str) {
    let annotations = vm["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove(&format!("{PREFIX}{key}")).expect("the annotation is there");
}

fn set(key: &'static str, value: &'static str) -> impl Fn(&mut Value) {
    move |vm| annotate(vm, &[(key, value)])
}

fn spec<'a>(vm: &'a Value, pointer: &str) -> &'a Value {
    vm["spec"]["template"]["spec"].pointer(pointer).unwrap_or(&Value::Null)
}

fn svm() -> Value {
    json!({"name": "svm", "policy": "require"})
}

fn igpu() -> Value {
    json!({"name": "node1-000000020", "deviceName": "intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630"})
}

fn by_address(n: usize, address: &str) -> Value {
    json!({"name": format!("pci-device-{n}"), "deviceName": address})
}

/// When a directive is removed, the policy removes what its feature added, and keeps what the user has next to it.
#[rstest]
#[case::nested_virt(NESTED, CPU_FEATURES, json!([{"name": "aes", "policy": "require"}]))]
#[case::nested_virt_alone(NESTED, CPU_FEATURES, Value::Null)]
#[case::pci(PCI, HOST_DEVICES, json!([by_address(0, "pci_0000_03_00_0")]))]
#[case::pci_alone(PCI, HOST_DEVICES, Value::Null)]
#[case::gpu(GPU, LIMITS, json!({"memory": "8Gi"}))]
#[case::gpu_alone(GPU, LIMITS, Value::Null)]
fn what_was_added_goes(
    #[case] directive: (&str, &str),
    #[case] pointer: &str,
    #[case] before: Value,
    #[values(true, false)] tracking: bool,
) {
    let story = Story::of(&[(pointer, before.clone())]);
    let story = if tracking { story } else { story.without_tracking() };
    let plain = story.vm.clone();
    let story = story.ask(&[directive]);
    assert_ne!(spec(&story.vm, pointer), &before);
    let answer = story.drop(directive);
    assert_eq!(spec(&answer.after(), pointer), &before, "{:?}", answer.warnings());
    assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    assert_eq!(answer.audit("applied"), "");
    assert!(answer.logs[0].starts_with("INFO feature taken back"), "{:?}", answer.logs);
    // The same must happen without the policy's annotations, because `kubectl replace` or an editor may remove them.
    let replaced = story.update(|vm| {
        vm["metadata"]["annotations"] = json!({});
        vm["spec"]["template"].as_object_mut().unwrap().remove("metadata");
    });
    assert_eq!(replaced.after()["spec"], answer.after()["spec"]);
    assert_eq!(spec(&plain, pointer), &before);
}

#[rstest]
fn the_users_extension_of_the_other_vendor_stays(#[values(true, false)] tracking: bool) {
    let vmx = json!([{"name": "vmx", "policy": "require"}]);
    let story = Story::of(&[(CPU_FEATURES, vmx.clone())]);
    let story = if tracking { story } else { story.without_tracking() };
    let answer = story.ask(&[NESTED]).drop(NESTED);
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &vmx);
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// The user had entries that equal those of the policy before the directive was added.
#[rstest]
#[case::nested_virt(NESTED, CPU_FEATURES, json!([svm()]))]
#[case::pci(PCI, HOST_DEVICES, json!([by_address(0, "pci_0000_00_02_0")]))]
#[case::limit(GPU, LIMITS, json!({"nvidia.com/gpu": "1"}))]
#[case::gpu(GPU, GPUS, json!([{"name": "gpu-0", "deviceName": "nvidia.com/gpu"}]))]
fn what_the_user_had_before_stays(#[case] directive: (&str, &str), #[case] pointer: &str, #[case] before: Value) {
    let story = Story::of(&[(pointer, before.clone())]).ask(&[directive]);
    assert_eq!(record(&story.vm, directive.0).unwrap()["added"], json!([]));
    assert_eq!(spec(&story.vm, pointer), &before);
    let answer = story.drop(directive);
    assert_eq!(spec(&answer.after(), pointer), &before);
    assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// Entries in the manifest of `kubectl apply` belong to the user, no matter who wrote them first.
#[rstest]
#[case::declared(json!([svm()]), true)]
#[case::declared_otherwise(json!([{"name": "svm", "policy": "optional"}]), false)]
#[case::not_declared(json!([]), false)]
fn what_kubectl_apply_declares_stays(
    #[case] declared: Value,
    #[case] stays: bool,
    #[values(true, false)] tracking: bool,
) {
    let story = Story::of(&[]);
    let story = if tracking { story } else { story.without_tracking() }.ask(&[NESTED]);
    let manifest = with(bare_vm(&[]), &[(CPU_FEATURES, declared)]).to_string();
    let answer = story.update(|vm| {
        remove(vm, "nested-virt");
        vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(manifest);
    });
    assert_eq!(spec(&answer.after(), CPU_FEATURES).is_array(), stays);
}

#[rstest]
#[case::text(json!("text"))]
#[case::list(json!("[]"))]
#[case::no_text(json!(1))]
fn a_manifest_that_cannot_be_read_declares_nothing(#[case] manifest: Value) {
    let answer = Story::of(&[]).ask(&[NESTED]).update(|vm| {
        remove(vm, "nested-virt");
        vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = manifest.clone();
    });
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &Value::Null);
}

/// An entry that someone changed later belongs to the user.
#[rstest]
#[case::cpu_feature(NESTED, CPU_FEATURES, json!([{"name": "svm", "policy": "optional"}]), "CPU feature svm")]
#[case::host_device(
    PCI, HOST_DEVICES, json!([{"name": "pci-device-0", "deviceName": "pci_0000_00_02_0", "tag": "x"}]),
    "host device pci-device-0",
)]
#[case::limit(GPU, LIMITS, json!({"nvidia.com/gpu": "2"}), "limit on nvidia.com/gpu")]
#[case::hugepages(HUGEPAGES, "/domain/memory/hugepages", json!({"pageSize": "1Gi"}), "hugepages page size")]
fn what_the_user_edited_stays(
    #[case] directive: (&str, &str),
    #[case] pointer: &str,
    #[case] edited: Value,
    #[case] entry: &str,
) {
    let story = Story::of(&[]).ask(&[directive]).edit(|vm| *vm = with(vm.clone(), &[(pointer, edited.clone())]));
    let answer = story.drop(directive);
    assert_eq!(spec(&answer.after(), pointer), &edited);
    assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
    let warning = format!("the {entry} has been changed since the policy added it, so it stays");
    assert_eq!(answer.warnings(), [format!("{}: {warning}", directive.0)]);
}

/// An entry that the user adds in the update that removes the directive did not exist before, so the policy did not add it.
#[test]
fn what_comes_when_the_directive_goes_stays() {
    let story = Story::of(&[]).ask(&[NESTED]).edit(|vm| *vm = with(vm.clone(), &[(CPU_FEATURES, json!([]))]));
    let answer = story.update(|vm| {
        remove(vm, "nested-virt");
        *vm = with(vm.clone(), &[(CPU_FEATURES, json!([svm()]))]);
    });
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([svm()]));
}

#[rstest]
#[case("disabled")]
#[case("false")]
#[case("")]
fn nested_virt_that_is_switched_off_goes(#[case] value: &'static str) {
    let answer = Story::of(&[]).ask(&[NESTED]).update(set("nested-virt", value));
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &Value::Null);
    assert_eq!(answer.annotation("nested-virt-applied"), None);
}

#[test]
fn a_feature_that_the_settings_switch_off_is_left_alone() {
    let mut story = Story::of(&[]).ask(&[NESTED]);
    story.settings["nestedVirtualization"]["enabled"] = json!(false);
    story.drop(NESTED).assert_accepted_unchanged();
}

const USB_OF_NODE: (&str, &str) = ("usb-passthrough", r#"{"devices": ["node1/046d:c52b"]}"#);

/// A VM in a cluster with PCI and USB devices.
fn with_pci_and_usb_devices() -> Story {
    fn cluster() -> MemoryCluster {
        let mut objects = fixtures("../../examples/harvester/cluster/cluster.yaml");
        let usb = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml").into_iter();
        objects.extend(usb.filter(|object| object["kind"] == "USBDevice"));
        MemoryCluster::of(objects)
    }
    Story { cluster, ..Story::of(&[]).on_harvester() }
}

/// Both directives come with the new VM, and name the node.
#[rstest]
fn a_node_selector_stays_for_the_other_directive(#[values(0, 1)] first: usize) {
    let directives = [PCI_OF_NODE, USB_OF_NODE];
    let mut story = with_pci_and_usb_devices().ask(&directives);
    let selector = spec(&story.vm, "/nodeSelector").clone();
    assert_eq!(selector, json!({"kubernetes.io/hostname": "node1"}));

    story.vm = story.drop(directives[first]).after();
    assert_eq!(spec(&story.vm, "/nodeSelector"), &selector);
    let answer = story.drop(directives[1 - first]);
    assert_eq!(spec(&answer.after(), "/nodeSelector"), &Value::Null);
}

/// Both directives name the node. One feature is switched off before the other directive is removed.
#[rstest]
#[case::pci_passthrough("pciPassthrough", "usb-passthrough")]
#[case::usb_passthrough("usbPassthrough", "pci-passthrough")]
fn a_node_selector_stays_for_a_feature_that_is_switched_off(#[case] switched_off: &str, #[case] removed: &str) {
    let usb = USB_OF_NODE;
    let mut story = with_pci_and_usb_devices().ask(&[usb]).ask(&[PCI_OF_NODE]);
    let both = story.vm.clone();
    assert_eq!(spec(&both, "/nodeSelector"), &json!({"kubernetes.io/hostname": "node1"}));

    story.settings[switched_off]["enabled"] = json!(false);
    let answer = story.update(|vm| remove(vm, removed));
    assert_eq!(spec(&answer.after(), HOST_DEVICES).as_array().map(Vec::len), Some(1));
    assert_eq!(spec(&answer.after(), "/nodeSelector"), spec(&both, "/nodeSelector"));

    // When the last of the two directives is removed, the node selector is removed, too.
    let mut story = Story { vm: answer.after(), ..story };
    story.settings[switched_off]["enabled"] = json!(true);
    let kept = if removed == usb.0 { PCI_OF_NODE.0 } else { usb.0 };
    let answer = story.update(|vm| remove(vm, kept));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    assert_eq!(spec(&answer.after(), "/nodeSelector"), &Value::Null);
}

mod changed {
    use super::*;

    #[test]
    fn another_vendor_replaces_the_first() {
        let mut story = Story::of(&[]);
        story.settings = json!({});
        let story = story.ask(&[NESTED, ("cpu-vendor", "amd")]);
        let answer = story.update(set("cpu-vendor", "intel"));
        assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([{"name": "vmx", "policy": "require"}]));
        // The VM moves to nodes of the other vendor. The CPU feature that the policy added does not count as a sign of the vendor.
        let mut story = Story::of(&[("/nodeSelector", json!({"cpu-vendor.node.kubevirt.io/AMD": "true"}))]);
        story.settings = json!({});
        let intel = json!({"cpu-vendor.node.kubevirt.io/Intel": "true"});
        let answer = story.ask(&[NESTED]).update(|vm| *vm = with(vm.clone(), &[("/nodeSelector", intel.clone())]));
        assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([{"name": "vmx", "policy": "require"}]));
    }

    #[rstest]
    #[case::one_more(r#"{"devices": ["00:02.0", "03:00.0"]}"#, &[(0, "pci_0000_00_02_0"), (1, "pci_0000_03_00_0")])]
    #[case::another(r#"{"devices": ["03:00.0"]}"#, &[(1, "pci_0000_03_00_0")])]
    #[case::same(r#"{"devices": ["0000:00:02.0" ]}"#, &[(0, "pci_0000_00_02_0")])]
    fn the_list_of_devices(#[case] value: &'static str, #[case] devices: &[(usize, &str)]) {
        let answer = Story::of(&[]).ask(&[PCI]).update(set("pci-passthrough", value));
        let devices: Vec<Value> = devices.iter().map(|(n, name)| by_address(*n, name)).collect();
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!(devices));
    }

    #[test]
    fn devices_do_not_count_twice() {
        let mut story = Story::of(&[]);
        story.settings["pciPassthrough"]["maxDevices"] = json!(1);
        let answer = story.ask(&[PCI]).update(set("pci-passthrough", r#"{"devices": ["03:00.0"]}"#));
        assert!(answer.is_accepted(), "{}", answer.message());
    }

    #[test]
    fn a_node_that_is_named_no_more_is_selected_no_more() {
        let story = Story::of(&[]).ask(&[PCI_OF_NODE]);
        assert_eq!(spec(&story.vm, "/nodeSelector"), &json!({"kubernetes.io/hostname": "node1"}));
        let answer = story.update(set("pci-passthrough", r#"{"devices": ["node2/00:02.0"]}"#));
        assert_eq!(spec(&answer.after(), "/nodeSelector"), &json!({"kubernetes.io/hostname": "node2"}));
        let answer = story.update(set(PCI.0, PCI.1));
        assert_eq!(spec(&answer.after(), "/nodeSelector"), &Value::Null);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), spec(&story.vm, HOST_DEVICES));
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), "/nodeSelector"), &Value::Null);
    }

    #[test]
    fn a_node_that_the_user_selected_stays() {
        let selector = json!({"kubernetes.io/hostname": "node1"});
        let story = Story::of(&[("/nodeSelector", selector.clone())]).ask(&[PCI_OF_NODE]);
        assert_eq!(spec(&story.drop(PCI_OF_NODE).after(), "/nodeSelector"), &selector);
    }

    #[rstest]
    #[case::more("nvidia.com/gpu=2", json!({"nvidia.com/gpu": "2"}))]
    #[case::other("amd.com/gpu", json!({"amd.com/gpu": "1"}))]
    fn the_limit(#[case] value: &'static str, #[case] limits: Value) {
        let answer = Story::of(&[]).ask(&[GPU]).update(set("gpu-device-plugin", value));
        assert_eq!(spec(&answer.after(), LIMITS), &limits);
    }

    fn gpu(n: usize) -> Value {
        json!({"name": format!("gpu-{n}"), "deviceName": "nvidia.com/gpu"})
    }

    #[rstest]
    #[case::more("nvidia.com/gpu=3", json!([gpu(0), gpu(1), gpu(2)]))]
    #[case::fewer("nvidia.com/gpu", json!([gpu(0)]))]
    fn the_number_of_gpus(#[case] value: &'static str, #[case] gpus: Value) {
        let mut story = Story::of(&[]);
        story.cluster = || serving("nvidia.com/gpu");
        let story = story.ask(&[("gpu-device-plugin", "nvidia.com/gpu=2")]);
        assert_eq!(spec(&story.vm, GPUS), &json!([gpu(0), gpu(1)]));
        let answer = story.update(set("gpu-device-plugin", value));
        assert_eq!(spec(&answer.after(), GPUS), &gpus);
        assert_eq!(spec(&story.drop(GPU).after(), GPUS), &Value::Null);
    }

    #[test]
    fn a_limit_becomes_a_device_where_kubevirt_serves_it_by_now() {
        let mut story = Story::of(&[]).ask(&[GPU]);
        story.cluster = || serving("nvidia.com/gpu");
        let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
        assert_eq!(spec(&answer.after(), LIMITS), &Value::Null);
        assert_eq!(spec(&answer.after(), GPUS), &json!([gpu(0)]));
        // It stays a device if KubeVirt's object cannot be read for the moment.
        story.vm = answer.after();
        story.cluster = MemoryCluster::default;
        let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(4))]));
        answer.assert_accepted_unchanged();
    }

    /// Harvester turns GPUs into host devices.
    #[test]
    fn a_gpu_that_became_a_host_device_is_still_the_directives() {
        let mut story = Story::of(&[]);
        story.cluster = || serving("nvidia.com/gpu");
        let story = story.ask(&[GPU]).edit(|vm| {
            let entries = [(GPUS, Value::Null), (HOST_DEVICES, json!([gpu(0)]))];
            *vm = with(vm.clone(), &entries);
        });
        let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([gpu(0)]));
        assert_eq!(
            answer.added("gpu-device-plugin").as_deref(),
            Some(r#"[{"hostDevice":"gpu-0","resource":"nvidia.com/gpu"}]"#)
        );
        assert_eq!(spec(&story.drop(GPU).after(), HOST_DEVICES), &Value::Null);
    }
}

mod harvester {
    use super::*;

    #[test]
    fn a_device_goes_with_its_directive() {
        let story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]);
        assert_eq!(spec(&story.vm, HOST_DEVICES), &json!([igpu()]));
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(answer.lookups, Vec::<String>::new());
    }

    #[test]
    fn a_device_that_the_form_added_before_stays() {
        let story = Story::of(&[(HOST_DEVICES, json!([igpu()]))]).on_harvester().ask(&[PCI_OF_NODE]);
        assert_eq!(spec(&story.drop(PCI_OF_NODE).after(), HOST_DEVICES), &json!([igpu()]));
    }

    /// Harvester's controller names a host device after the device that was actually assigned to the VM.
    fn renamed(story: Story) -> Story {
        story.edit(|vm| {
            let mut device = igpu();
            device["name"] = json!("node1-000007000");
            *vm = with(vm.clone(), &[(HOST_DEVICES, json!([device]))]);
        })
    }

    #[test]
    fn a_device_that_was_renamed_goes_too() {
        let story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    /// The record contains the new name.
    #[test]
    fn a_device_that_was_renamed_stays_as_it_is_with_its_directive() {
        let mut story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
        let devices = spec(&story.vm, HOST_DEVICES).clone();
        let cores = |n| move |vm: &mut Value| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(n))]);
        let answer = story.update(cores(2));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &devices);
        let record = answer.added("pci-passthrough").unwrap();
        assert!(record.contains(r#"{"hostDevice":"node1-000007000","resource":"#), "{record}");
        story.vm = answer.after();
        story.update(cores(4)).assert_accepted_unchanged();
    }

    /// The record contains the device's resource, so no lookup is needed.
    #[test]
    fn a_renamed_device_goes_where_pci_devices_cannot_be_listed() {
        let mut story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
        story.cluster = || cluster().without("list", &PCI_DEVICE);
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(answer.lookups, Vec::<String>::new());
    }

    /// Of two entries with the same resource, one belongs to the user, no matter which one is renamed.
    #[rstest]
    #[case::of_the_users_name("mine")]
    #[case::of_harvesters_name("node1-00000a000")]
    fn a_renamed_device_goes_beside_one_of_the_users(#[case] name: &str) {
        let mine = json!({"name": name, "deviceName": igpu()["deviceName"]});
        let mut ours = igpu();
        ours["name"] = json!("node1-000007000");
        let mut story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]);
        story.vm = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, json!([igpu(), mine]))])).after();
        let both = json!([ours, mine]);
        story.vm = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())])).after();
        assert_eq!(spec(&story.vm, HOST_DEVICES), &both);
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([mine]));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    /// The policy did not see the update that renamed the device, so it removes as many entries of the resource as it added.
    #[test]
    fn of_two_devices_that_may_be_the_renamed_one_goes() {
        let other = json!({"name": "node1-000008000", "deviceName": igpu()["deviceName"]});
        let story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
        let two = json!([spec(&story.vm, HOST_DEVICES)[0], other]);
        let story = story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, two.clone())]));
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([other]));
    }

    /// The manifest declares the user's device of the same resource, so the other one must be the policy's.
    #[test]
    fn a_renamed_device_goes_beside_one_that_is_declared() {
        let mine = json!({"name": "mine", "deviceName": igpu()["deviceName"]});
        let mut renamed = igpu();
        renamed["name"] = json!("node1-000007000");
        let both = json!([mine, renamed]);
        let manifest = with(bare_vm(&[]), &[(HOST_DEVICES, json!([mine]))]).to_string();
        let story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]).edit(|vm| {
            *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())]);
            vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(manifest);
        });
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([mine]));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn a_device_of_another_resource_stays_when_a_renamed_one_goes() {
        let other = json!({"name": "other", "deviceName": "example.com/other"});
        let story = renamed(Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]));
        let both = json!([spec(&story.vm, HOST_DEVICES)[0], other]);
        let story = story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())]));
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([other]));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn a_renamed_device_goes_where_something_else_is_the_users() {
        let selector = json!({"kubernetes.io/hostname": "node1"});
        let story = Story::of(&[("/nodeSelector", selector.clone())]).on_harvester();
        let answer = renamed(story.ask(&[PCI_OF_NODE])).drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(spec(&answer.after(), "/nodeSelector"), &selector);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    /// Two nodes that both have devices at 0000:03:00.0 and 0000:0a:00.0; only node2 has one at 0000:09:00.0.
    fn of_two_nodes() -> MemoryCluster {
        let mut objects = fixtures("../../examples/harvester/cluster/cluster.yaml");
        for (node, slot) in [("node1", "0a"), ("node2", "0a"), ("node2", "09")] {
            let name = format!("{node}-0000{slot}000");
            let address = format!("0000:{slot}:00.0");
            objects.push(json!({
                "kind": "PCIDevice", "metadata": {"name": name},
                "status": {"address": address, "nodeName": node, "resourceName": "example.com/CARD"},
            }));
            objects.push(json!({
                "kind": "PCIDeviceClaim", "metadata": {"name": name},
                "status": {"passthroughEnabled": true},
            }));
        }
        MemoryCluster::of(objects)
    }

    fn names(vm: &Value) -> Vec<&str> {
        let devices = spec(vm, HOST_DEVICES).as_array().unwrap();
        devices.iter().map(|device| device["name"].as_str().unwrap()).collect()
    }

    const ONE: (&str, &str) = ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#);
    const ON_NODE2: &str = r#"{"devices": ["0000:03:00.0", "0000:09:00.0"]}"#;

    fn on_two_nodes(directive: (&str, &str)) -> Story {
        let mut story = Story::of(&[]).on_harvester();
        story.cluster = of_two_nodes;
        story.ask(&[directive])
    }

    #[test]
    fn a_device_goes_to_the_node_that_has_the_other() {
        let story = on_two_nodes(("pci-passthrough", ON_NODE2));
        assert_eq!(names(&story.vm), ["node2-000003000", "node2-000009000"]);
    }

    #[test]
    fn a_device_that_was_added_follows_to_another_node() {
        let story = on_two_nodes(ONE);
        assert_eq!(names(&story.vm), ["node1-000003000"]);
        let answer = story.update(set("pci-passthrough", ON_NODE2));
        assert_eq!(names(&answer.after()), ["node2-000003000", "node2-000009000"]);
    }

    #[test]
    fn devices_that_were_added_stay_on_their_node() {
        let of_node2 = r#"{"devices": ["node2/0000:03:00.0", "node2/0000:0a:00.0"]}"#;
        let story = on_two_nodes(("pci-passthrough", of_node2));
        let there = ["node2-000003000", "node2-00000a000"];
        assert_eq!(names(&story.vm), there);
        let of_any = r#"{"devices": ["0000:03:00.0", "0000:0a:00.0"]}"#;
        let answer = story.update(set("pci-passthrough", of_any));
        assert_eq!(names(&answer.after()), there);
    }

    #[test]
    fn a_users_device_that_was_renamed_stays() {
        let story = Story::of(&[(HOST_DEVICES, json!([igpu()]))]).on_harvester().ask(&[PCI_OF_NODE]);
        let story = renamed(story);
        let devices = spec(&story.vm, HOST_DEVICES).clone();
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &devices);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }
}

mod sidecar {
    use super::*;

    fn sidecars(vm: &Value) -> &Value {
        &vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"]
    }

    fn with_rom(others: Option<&str>, delivery: &str) -> Story {
        let mut story = Story::of(&[]).on_harvester();
        story.settings["vbiosInjection"] = json!({"romDelivery": delivery});
        if let Some(others) = others {
            story.vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] = json!(others);
        }
        story.ask(&[ROM])
    }

    #[rstest]
    #[case::alone(None)]
    #[case::beside_others(Some(r#"[{"image":"a"},{"image":"b"}]"#))]
    fn the_entry_goes_and_the_others_stay(#[case] others: Option<&str>, #[values("sidecar", "volume")] delivery: &str) {
        let story = with_rom(others, delivery);
        assert!(sidecars(&story.vm).to_string().contains("vbios-injection"));
        let answer = story.drop(ROM);
        assert_eq!(sidecars(&answer.after()), &json!(others));
        assert_eq!(spec(&answer.after(), "/volumes"), &Value::Null);
        assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
    }

    /// The sidecar has the policy's mark, so no record is needed.
    #[rstest]
    #[case::not_added(json!([{"hookSidecar": false}]))]
    #[case::nothing_added(json!([]))]
    fn that_a_record_does_not_list_goes(#[case] added: Value) {
        let story = with_rom(None, "sidecar").edit(|vm| set_record(vm, &[(ROM.0, ROM.1, added.clone())]));
        let answer = story.drop(ROM);
        assert_eq!(sidecars(&answer.after()), &Value::Null);
    }

    /// The user removed the policy's entry. The policy does not rewrite the others.
    #[test]
    fn without_an_entry_of_ours_the_list_is_left_alone() {
        let others = r#"[ {"image": "a"} ]"#;
        let story = with_rom(Some(others), "sidecar").edit(|vm| {
            vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] = json!(others);
        });
        assert_eq!(sidecars(&story.drop(ROM).after()), others);
    }

    #[test]
    fn an_entry_that_the_user_edited_has_the_mark_still() {
        let story = with_rom(None, "sidecar").edit(|vm| {
            let text = sidecars(vm).as_str().unwrap().replace("sidecar-shim", "my-shim");
            vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] = json!(text);
        });
        assert_eq!(sidecars(&story.drop(ROM).after()), &Value::Null);
    }

    #[test]
    fn the_volume_goes_when_the_rom_is_delivered_otherwise() {
        let mut story = with_rom(None, "volume");
        assert_eq!(spec(&story.vm, "/volumes/0/name"), "vbios-rom");
        story.settings["vbiosInjection"] = json!({"romDelivery": "sidecar"});
        let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
        assert_eq!(spec(&answer.after(), "/volumes"), &Value::Null);
        assert!(sidecars(&answer.after()).to_string().contains("configMap"));
    }

    #[test]
    fn a_list_that_cannot_be_read_stays() {
        let story = with_rom(None, "sidecar").edit(|vm| {
            vm["spec"]["template"]["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"] = json!("{");
        });
        let answer = story.drop(ROM);
        assert_eq!(sidecars(&answer.after()), "{");
        assert!(answer.warnings()[0].contains("is not a JSON list"), "{:?}", answer.warnings());
    }
}

/// The VM has only the record and the annotations for people: the directive was removed while the policy was not running.
mod record_alone {
    use super::*;

    /// Removes the directive without calling the policy, and updates the VM then.
    fn remove_unseen(story: Story, directive: (&str, &str)) -> (Value, Answer) {
        let before = story.vm.clone();
        let story = story.edit(|vm| remove(vm, directive.0));
        let answer = story.update(|vm| *vm = with(vm.clone(), &[("/architecture", json!("amd64"))]));
        (before, answer)
    }

    #[rstest]
    #[case::nested_virt(NESTED, CPU_FEATURES)]
    #[case::pci(PCI, HOST_DEVICES)]
    #[case::gpu(GPU, LIMITS)]
    fn it_tells_what_goes(#[case] directive: (&str, &str), #[case] pointer: &str) {
        let (_, answer) = remove_unseen(Story::of(&[]).ask(&[directive]), directive);
        assert_eq!(spec(&answer.after(), pointer), &Value::Null);
        assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
    }

    /// The annotation `-applied`, which is for people, is not a record.
    #[test]
    fn what_is_not_listed_stays() {
        let both = json!([svm(), {"name": "vmx", "policy": "require"}]);
        let story = Story::of(&[(CPU_FEATURES, both.clone())])
            .edit(|vm| annotate(vm, &[NESTED, ("nested-virt-applied", "true")]));
        let (_, answer) = remove_unseen(story, NESTED);
        assert_eq!(spec(&answer.after(), CPU_FEATURES), &both);
        assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn it_tells_whether_the_node_was_selected() {
        let (_, answer) = remove_unseen(Story::of(&[]).ask(&[PCI_OF_NODE]), PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), "/nodeSelector"), &Value::Null);
        let selector = json!({"kubernetes.io/hostname": "node1"});
        for directive in [PCI, PCI_OF_NODE] {
            let story = Story::of(&[("/nodeSelector", selector.clone())]).ask(&[directive]);
            let (_, answer) = remove_unseen(story, directive);
            assert_eq!(spec(&answer.after(), "/nodeSelector"), &selector);
        }
    }

    #[rstest]
    #[case::not_json("nonsense")]
    #[case::no_object("[]")]
    #[case::without_a_value(r#"{"pci-passthrough":{"added":[]}}"#)]
    #[case::of_another_feature(r#"{"pci-passthrough":{"value":"","added":[{"cpuFeature":"svm"}]}}"#)]
    #[case::of_no_feature(r#"{"pci-passthrough":{"value":"","added":[{"disk":"x"}]}}"#)]
    #[case::half_of_an_entry(r#"{"pci-passthrough":{"value":"","added":[{"hostDevice":"pci-device-0"}]}}"#)]
    #[case::with_one_that_is_not(
        r#"{"pci-passthrough":{"value":"","added":[{"hostDevice":"pci-device-0","resource":"pci_0000_00_02_0"},1]}}"#
    )]
    #[case::too_many(&format!(r#"{{"pci-passthrough":{{"value":"","added":[{}1]}}}}"#, r#"{"nodeSelector":"a"},"#.repeat(300)))]
    #[case::too_large(&format!("{{{}}}", " ".repeat(1 << 17)))]
    fn that_cannot_be_read_takes_nothing_away(#[case] record: &str) {
        let story = Story::of(&[]).ask(&[PCI]);
        let story = story.edit(|vm| vm["spec"]["template"]["metadata"]["annotations"][RECORD] = json!(record));
        let (before, answer) = remove_unseen(story, PCI);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), spec(&before, HOST_DEVICES));
        assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
        assert_eq!(
            answer.warnings(),
            ["the annotation vm-feature-manager.io/record of spec.template cannot be read, so what the policy added \
              stays; remove that by hand"]
        );
    }

    /// If the VirtualMachine existed before, the record of the old object counts.
    #[test]
    fn that_somebody_spoils_is_that_of_before() {
        let story = Story::of(&[]).ask(&[PCI]);
        let answer = story.update(|vm| {
            remove(vm, PCI.0);
            vm["spec"]["template"]["metadata"]["annotations"][RECORD] = json!("nonsense");
        });
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn with_an_entry_that_is_not_there_takes_back_the_others() {
        let listed = json!([{"cpuFeature": "vmx"}, {"cpuFeature": "svm"}]);
        let story = Story::of(&[]).ask(&[NESTED]);
        let story = story.edit(|vm| set_record(vm, &[(NESTED.0, NESTED.1, listed.clone())]));
        let (_, answer) = remove_unseen(story, NESTED);
        assert_eq!(spec(&answer.after(), CPU_FEATURES), &Value::Null);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn a_stale_error_goes_with_the_directive() {
        let vm = bare_vm(&[("nested-virt-error", "because")]);
        let answer = Request::create(vm).evaluate();
        assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
    }
}

/// Entries that the user adds while the VM has a directive stay, and do not affect the policy's entries.
mod added_meanwhile {
    use super::*;

    const NIC: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0"]}"#);

    /// Two equal devices.
    fn nic(function: usize) -> Value {
        json!({"name": format!("node1-00000300{function}"), "deviceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION"})
    }

    fn gpu(name: &str) -> Value {
        json!({"name": name, "deviceName": "nvidia.com/gpu"})
    }

    fn setting(pointer: &'static str, value: Value) -> impl Fn(&mut Value) {
        move |vm| *vm = with(vm.clone(), &[(pointer, value.clone())])
    }

    #[test]
    fn a_second_device_of_the_resource() {
        let mut story = Story::of(&[]).on_harvester().ask(&[NIC]);
        let both = json!([nic(0), nic(1)]);
        let answer = story.update(setting(HOST_DEVICES, both.clone()));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &both);
        story.vm = answer.after();
        assert_eq!(spec(&story.drop(NIC).after(), HOST_DEVICES), &json!([nic(1)]));
        // The directive and its device are removed in one update.
        let answer = story.update(|vm| {
            remove(vm, NIC.0);
            setting(HOST_DEVICES, json!([nic(1)]))(vm);
        });
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([nic(1)]));
    }

    #[rstest]
    #[case::in_front(json!([gpu("gpu-7"), gpu("gpu-0")]), json!([gpu("gpu-7")]))]
    #[case::behind(json!([gpu("gpu-0"), gpu("gpu-1")]), json!([gpu("gpu-1")]))]
    #[case::of_another_name(json!([gpu("gpu-0"), gpu("mine")]), json!([gpu("mine")]))]
    fn a_second_gpu(#[case] both: Value, #[case] users: Value) {
        let mut story = Story::of(&[]);
        story.cluster = || serving("nvidia.com/gpu");
        let mut story = story.ask(&[GPU]);
        let answer = story.update(setting(GPUS, both.clone()));
        assert_eq!(spec(&answer.after(), GPUS), &both);
        story.vm = answer.after();
        assert_eq!(spec(&story.drop(GPU).after(), GPUS), &users);
    }

    /// The directive's device is gone, and the user has added another one.
    #[rstest]
    #[case::of_another_name("mine")]
    #[case::of_a_name_like_ours("gpu-mine")]
    #[case::without_a_number("gpu-")]
    fn a_gpu_in_the_place_of_ours(#[case] name: &str) {
        let mut story = Story::of(&[]);
        story.cluster = || serving("nvidia.com/gpu");
        let users = json!([gpu(name)]);
        let story = story.ask(&[GPU]).edit(setting(GPUS, users.clone()));
        assert_eq!(spec(&story.drop(GPU).after(), GPUS), &users);
    }

    /// The user's device has another resource, but a name that the policy would give.
    #[test]
    fn a_gpu_of_another_resource() {
        let mut story = Story::of(&[]);
        story.cluster = || serving("nvidia.com/gpu");
        let users = json!([{"name": "gpu-0", "deviceName": "amd.com/gpu"}]);
        let story = story.ask(&[GPU]).edit(setting(GPUS, users.clone()));
        assert_eq!(spec(&story.drop(GPU).after(), GPUS), &users);
    }

    #[test]
    fn a_gpu_beside_the_limit() {
        let mut story = Story::of(&[]).ask(&[GPU]);
        let answer = story.update(setting(GPUS, json!([gpu("gpu-0")])));
        story.vm = answer.after();
        let answer = story.drop(GPU);
        assert_eq!(spec(&answer.after(), GPUS), &json!([gpu("gpu-0")]));
        assert_eq!(spec(&answer.after(), LIMITS), &Value::Null);
    }

    #[test]
    fn the_extension_of_the_other_vendor() {
        let vmx = json!({"name": "vmx", "policy": "require"});
        let mut story = Story::of(&[]).ask(&[NESTED]);
        story.vm = story.update(setting(CPU_FEATURES, json!([svm(), vmx]))).after();
        assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &json!([vmx]));
    }

    #[test]
    fn a_node_selector() {
        let selector = json!({"kubernetes.io/hostname": "node1"});
        let mut story = Story::of(&[]).ask(&[PCI]);
        story.vm = story.update(setting("/nodeSelector", selector.clone())).after();
        assert_eq!(spec(&story.drop(PCI).after(), "/nodeSelector"), &selector);
    }

    /// Someone copies a directive and its record to a VM that already has the feature.
    #[rstest]
    #[case::a_record_with_the_directive(&[NESTED])]
    #[case::and_the_annotation_for_people(&[NESTED, ("nested-virt-applied", "true")])]
    fn a_record(#[case] pasted: &[(&str, &str)]) {
        let mut story = Story::of(&[(CPU_FEATURES, json!([svm()]))]);
        let answer = story.update(|vm| {
            annotate(vm, pasted);
            set_record(vm, &[(NESTED.0, NESTED.1, json!([{"cpuFeature": "svm"}]))]);
        });
        assert_eq!(answer.added("nested-virt"), None);
        story.vm = answer.after();
        assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &json!([svm()]));
    }

    /// Someone adds the user's own entry to the record.
    #[test]
    fn an_entry_of_the_record() {
        let aes = json!({"name": "aes", "policy": "require"});
        let mut story = Story::of(&[(CPU_FEATURES, json!([aes]))]).ask(&[NESTED]);
        let listed = json!([{"cpuFeature": "svm"}, {"cpuFeature": "aes"}]);
        story.vm = story.update(|vm| set_record(vm, &[(NESTED.0, NESTED.1, listed.clone())])).after();
        assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &json!([aes]));
    }
}

/// If a lookup fails for the moment, existing entries do not change.
mod not_readable {
    use super::*;

    fn cores(vm: &mut Value) {
        *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]);
    }

    #[rstest]
    #[case::not_granted(|| cluster().without("list", &PCI_DEVICE))]
    #[case::not_served(|| cluster().failing(&PCI_DEVICE, ClusterError::KindNotServed))]
    fn harvesters_devices(#[case] cluster: fn() -> MemoryCluster) {
        let mut story = Story::of(&[]).on_harvester();
        story.settings["pciPassthrough"] = json!({"deviceNames": "auto"});
        let mut story = story.ask(&[("pci-passthrough", r#"{"devices": ["0000:01:00.0"]}"#)]);
        story.cluster = cluster;
        story.update(cores).assert_accepted_unchanged();
        // If the cluster has Harvester, the policy does not add a new device under a name made of its address.
        let answer = story.update(set("pci-passthrough", r#"{"devices": ["0000:01:00.0", "0000:03:00.0"]}"#));
        answer.assert_denied(&["PCI devices cannot be looked up"]);
    }

    #[test]
    fn a_device_that_harvester_renames() {
        let mut story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]);
        story.cluster = || cluster().without("list", &PCI_DEVICE);
        let mut device = igpu();
        device["name"] = json!("node1-000007000");
        let renamed = with(story.vm.clone(), &[(HOST_DEVICES, json!([device]))]);
        story.vm = story.update(|vm| *vm = renamed.clone()).after();
        assert_eq!(spec(&story.vm, HOST_DEVICES), &json!([device]));
        let answer = story.drop(PCI_OF_NODE);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }
}

#[test]
fn a_device_that_the_user_renamed_stays_with_a_warning() {
    let renamed = json!([{"name": "gpu0", "deviceName": "pci_0000_00_02_0"}]);
    let story = Story::of(&[]).ask(&[PCI]).edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, renamed.clone())]));
    let answer = story.drop(PCI);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &renamed);
    assert_eq!(
        answer.warnings(),
        ["pci-passthrough: the host device gpu0 stays, as the policy added its resource under the name pci-device-0"]
    );
}

/// The directive changes to a device that the user had before.
#[test]
fn a_device_of_the_users_that_a_directive_comes_to_stays_when_it_goes() {
    let mine = json!({"name": "mine", "deviceName": "pci_0000_00_02_0"});
    let mut story =
        Story::of(&[(HOST_DEVICES, json!([mine]))]).ask(&[("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#)]);
    let answer = story.update(set("pci-passthrough", PCI.1));
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([mine]));
    story.vm = answer.after();
    assert_eq!(spec(&story.drop(PCI).after(), HOST_DEVICES), &json!([mine]));
}

#[test]
fn a_part_of_a_wrong_type_stays_with_a_warning() {
    let story = Story::of(&[]).ask(&[PCI]).edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, json!("x"))]));
    let answer = story.drop(PCI);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), "x");
    let warning = "pci-passthrough: spec.template.spec.domain.devices.hostDevices is a string where KubeVirt expects a \
                   list; correct the VirtualMachine";
    assert_eq!(answer.warnings(), [warning]);
}

/// The warning is given only once, when the record changes.
#[rstest]
fn a_device_that_the_user_renamed_is_spoken_of_once(#[values(true, false)] tracking: bool) {
    let renamed = json!([{"name": "gpu0", "deviceName": "pci_0000_00_02_0"}]);
    let story = Story::of(&[]);
    let story = if tracking { story } else { story.without_tracking() };
    let mut story = story.ask(&[PCI]).edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, renamed.clone())]));
    let is_said = |answer: &Answer| {
        let part = "the host device gpu0 stays, as the policy added its resource under the name pci-device-0";
        answer.warnings().iter().any(|warning| warning.contains(part))
    };
    let cores = |n| move |vm: &mut Value| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(n))]);
    let answer = story.update(cores(2));
    assert!(is_said(&answer), "{:?}", answer.warnings());
    assert_eq!(answer.added("pci-passthrough"), None);
    story.vm = answer.after();
    let answer = story.update(cores(4));
    assert!(!is_said(&answer), "{:?}", answer.warnings());
}

#[test]
fn a_node_that_changes_is_followed_where_devices_can_only_be_got() {
    let mut story = Story::of(&[]).on_harvester();
    story.cluster = || cluster().without("list", &PCI_DEVICE);
    let story = story.ask(&[PCI_OF_NODE]);
    let answer = story.update(set("pci-passthrough", r#"{"devices": ["node2/0000:00:02.0"]}"#));
    assert_eq!(spec(&answer.after(), "/nodeSelector"), &json!({"kubernetes.io/hostname": "node2"}));
    assert_eq!(spec(&answer.after(), "/domain/devices/hostDevices/0/name"), "node2-000000020");
    let record = answer.added("pci-passthrough").unwrap();
    assert!(record.contains("node2-000000020") && !record.contains("node1"), "{record}");
}

mod failing {
    use super::*;

    #[rstest]
    #[case::nested_virt(NESTED, CPU_FEATURES)]
    #[case::pci(PCI, HOST_DEVICES)]
    #[case::gpu(GPU, LIMITS)]
    fn in_allow_and_log_takes_back(#[case] directive: (&'static str, &str), #[case] pointer: &str) {
        let story = Story::of(&[]).allowing_failures().ask(&[directive]);
        let answer = story.update(set(directive.0, "nonsense!"));
        assert_eq!(spec(&answer.after(), pointer), &Value::Null);
        assert_eq!(answer.annotation(&format!("{}-applied", directive.0)), None);
        assert!(answer.annotation(&format!("{}-error", directive.0)).is_some());
    }

    #[test]
    fn in_strip_label_takes_back_at_once() {
        let mut story = Story::of(&[]);
        story.settings["nestedVirtualization"]["errorHandling"] = json!("strip-label");
        let answer = story.ask(&[NESTED]).update(set("nested-virt", "maybe"));
        assert_eq!(spec(&answer.after(), CPU_FEATURES), &Value::Null);
        assert_eq!(answer.after()["metadata"]["annotations"], json!({}));
    }

    #[test]
    fn in_reject_changes_nothing() {
        let answer = Story::of(&[]).ask(&[NESTED]).update(set("nested-virt", "maybe"));
        answer.assert_denied(&["nested-virt"]);
    }

    #[test]
    fn one_feature_leaves_the_others() {
        let story = Story::of(&[]).allowing_failures().ask(&[NESTED, PCI, GPU]);
        let answer = story.update(set("pci-passthrough", "nonsense"));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([svm()]));
        assert_eq!(spec(&answer.after(), LIMITS), &json!({"nvidia.com/gpu": "1"}));
    }
}

#[test]
fn where_tracking_is_switched_off_the_records_go() {
    let mut story = Story::of(&[]).ask(&[NESTED]);
    story.settings["addTrackingAnnotations"] = json!(false);
    let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
    assert_eq!(answer.annotation("nested-virt-applied"), None);
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([svm()]));
    story.vm = answer.after();
    assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &Value::Null);
}

/// The setting does not apply to the record.
#[test]
fn where_tracking_is_switched_on_what_was_added_is_still_known() {
    let mut story = Story::of(&[]).without_tracking().ask(&[NESTED]);
    assert_eq!(story.vm["metadata"]["annotations"], json!({"vm-feature-manager.io/nested-virt": "enabled"}));
    assert_eq!(
        story.vm["spec"]["template"]["metadata"]["annotations"],
        json!({"vm-feature-manager.io/record": r#"{"nested-virt":{"value":"enabled","added":[{"cpuFeature":"svm"}]}}"#})
    );
    story.settings["addTrackingAnnotations"] = json!(true);
    let answer = story.update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    story.vm = answer.after();
    assert_eq!(spec(&story.drop(NESTED).after(), CPU_FEATURES), &Value::Null);
}

/// `kubectl replace` with an old manifest, which has no annotations of the policy, or only the directive.
#[rstest]
#[case::without_the_directive(&[], Value::Null)]
#[case::with_it(&[NESTED], json!([svm()]))]
fn a_manifest_without_our_records(#[case] directives: &[(&str, &str)], #[case] features: Value) {
    let story = Story::of(&[]).ask(&[NESTED]);
    let answer = story.update(|vm| {
        *vm = bare_vm(directives);
        *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]);
    });
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &features);
    // The same with a manifest that contains the policy's entries, because the user got it from the cluster.
    let answer = story.update(|vm| {
        *vm = with(bare_vm(directives), &[(CPU_FEATURES, json!([svm()]))]);
    });
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &features);
}

/// Harvester adds the devices that share an IOMMU group with those of a new VirtualMachine.
mod iommu_siblings {
    use super::*;

    const CARD: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:01:00.0"]}"#);
    const BOTH: &str = r#"{"devices": ["node1/0000:01:00.0", "node1/0000:03:00.0"]}"#;

    fn card() -> Value {
        json!({"name": "node1-000001000", "deviceName": "nvidia.com/TU104GL_TESLA_T4"})
    }

    fn audio() -> Value {
        json!({"name": "node1-000001001", "deviceName": "nvidia.com/TU104_HD_AUDIO_CONTROLLER"})
    }

    fn other() -> Value {
        json!({"name": "node1-000003000", "deviceName": "intel.com/I350_GIGABIT_NETWORK_CONNECTION"})
    }

    /// A VM that was created with the directive. Harvester added the sibling.
    fn created(entries: &[Value]) -> Story {
        let before = entries.to_vec();
        let mut story = Story::of(&[]).on_harvester();
        if !before.is_empty() {
            story.vm = with(story.vm, &[(HOST_DEVICES, json!(before))]);
        }
        let story = story.ask(&[CARD]);
        story.edit(|vm| {
            let mut devices = spec(vm, HOST_DEVICES).as_array().unwrap().clone();
            if !devices.contains(&audio()) {
                devices.push(audio());
            }
            *vm = with(vm.clone(), &[(HOST_DEVICES, json!(devices))]);
        })
    }

    #[test]
    fn go_with_their_device() {
        let answer = created(&[]).drop(CARD);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
        assert!(answer.lookups.contains(&"list PCIDevice".to_owned()), "{:?}", answer.lookups);
    }

    #[test]
    fn go_when_the_directive_names_another_device() {
        let answer = created(&[]).update(set("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0"]}"#));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([other()]));
        let answer = created(&[]).update(set("pci-passthrough", r#"{"devices": ["node2/0000:00:02.0"]}"#));
        assert_eq!(spec(&answer.after(), "/domain/devices/hostDevices/0/name"), "node2-000000020");
        assert_eq!(spec(&answer.after(), "/domain/devices/hostDevices/1"), &Value::Null);
    }

    #[test]
    fn go_when_the_directive_fails() {
        let story = created(&[]).allowing_failures();
        let answer = story.update(set("pci-passthrough", "nonsense"));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &Value::Null);
    }

    #[test]
    fn stay_while_their_device_stays() {
        let answer = created(&[]).update(|vm| *vm = with(vm.clone(), &[("/domain/cpu/cores", json!(2))]));
        answer.assert_accepted_unchanged();
        let answer = created(&[]).update(set("pci-passthrough", BOTH));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([card(), audio(), other()]));
    }

    #[test]
    fn stay_with_a_warning_where_pci_devices_cannot_be_listed() {
        let mut story = created(&[]);
        story.cluster = || cluster().without("list", &PCI_DEVICE);
        let answer = story.drop(CARD);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
        let warning = answer.warnings().join(" ");
        let start = "pci-passthrough: the host devices node1-000001001 stay: Harvester may have added them with one that is removed,";
        assert!(warning.starts_with(start), "{warning}");
        assert!(warning.contains("run: kubectl create clusterrolebinding"), "{warning}");
    }

    #[test]
    fn go_with_their_device_alone() {
        let created = || created(&[]).update(set("pci-passthrough", BOTH)).after();
        for (stays, devices) in [
            (r#"{"devices": ["node1/0000:01:00.0"]}"#, json!([card(), audio()])),
            (r#"{"devices": ["node1/0000:03:00.0"]}"#, json!([other()])),
        ] {
            let mut story = Story::of(&[]).on_harvester();
            story.vm = created();
            let answer = story.update(set("pci-passthrough", stays));
            assert_eq!(spec(&answer.after(), HOST_DEVICES), &devices);
        }
    }

    #[test]
    fn are_none_where_harvester_is_gone() {
        let mut story = created(&[]);
        story.cluster = || cluster().failing(&PCI_DEVICE, ClusterError::KindNotServed);
        let answer = story.drop(CARD);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn stay_where_the_manifest_declares_them() {
        let manifest = with(bare_vm(&[CARD]), &[(HOST_DEVICES, json!([audio()]))]).to_string();
        let story = created(&[]);
        let answer = story.update(|vm| {
            remove(vm, CARD.0);
            vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(manifest);
        });
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
    }

    #[test]
    fn stay_where_the_user_had_them_before_the_directive() {
        let answer = created(&[audio()]).drop(CARD);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    /// Another directive added the device, and Harvester renamed it after the function that the VM used.
    #[test]
    fn stay_where_another_directive_added_them() {
        let resource = "nvidia.com/TU104_HD_AUDIO_CONTROLLER";
        let added = json!([{"hostDevice": "node1-000001001", "resource": resource}]);
        let mut story = created(&[]).edit(|vm| {
            annotate(vm, &[("gpu-device-plugin", resource), ("gpu-device-plugin-applied", resource)]);
            let card = record(vm, CARD.0).unwrap()["added"].clone();
            set_record(vm, &[(CARD.0, CARD.1, card), ("gpu-device-plugin", resource, added.clone())]);
        });
        story.settings["gpuDevicePlugin"]["allowedPlugins"] = json!([resource]);
        let answer = story.drop(CARD);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([audio()]));
        assert_eq!(answer.added("gpu-device-plugin"), Some(added.to_string()));
    }

    /// The user adds a device while the VM has the directive.
    #[test]
    fn stay_where_the_user_added_them_since() {
        let mut story = Story::of(&[]).on_harvester().ask(&[CARD]);
        let both = json!([card(), audio()]);
        story.vm = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, both.clone())])).after();
        assert_eq!(spec(&story.drop(CARD).after(), HOST_DEVICES), &json!([audio()]));
    }

    #[test]
    fn of_no_device_of_ours_stay() {
        let story = created(&[]).edit(|vm| {
            let devices = json!([card(), audio(), other()]);
            *vm = with(vm.clone(), &[(HOST_DEVICES, devices)]);
        });
        assert_eq!(spec(&story.drop(CARD).after(), HOST_DEVICES), &json!([other()]));
    }
}

#[test]
fn labels_take_back_as_annotations_do() {
    let settings = json!({"configSource": "labels", "nestedVirtualization": {"cpuVendor": "amd"}});
    let mut vm = bare_vm(&[]);
    vm["metadata"]["labels"] = json!({format!("{PREFIX}nested-virt"): "enabled", "a": "b"});
    let stored = Request::create(vm).settings(settings.clone()).evaluate().after();
    assert_eq!(spec(&stored, CPU_FEATURES), &json!([svm()]));
    let mut new = stored.clone();
    new["metadata"]["labels"] = json!({"a": "b"});
    let answer = Request::update(stored, new).settings(settings).evaluate();
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &Value::Null);
}

/// Parts that were created for an entry are removed with the last entry in them.
#[rstest]
#[case::all_of_the_cpu(&[NESTED, ("cpu-pinning", "enabled"), ("hugepages", "2Mi"), ("numa", "passthrough")])]
#[case::features(&[NESTED])]
#[case::limit(&[GPU])]
fn nothing_empty_stays_behind(#[case] directives: &[(&str, &str)]) {
    let mut vm = bare_vm(directives);
    let domain = json!({"devices": {}, "memory": {"guest": "8Gi"}, "resources": {"requests": {"cpu": "2"}}});
    vm["spec"]["template"]["spec"]["domain"] = domain.clone();
    if let [GPU] = directives {
        vm["spec"]["template"]["spec"]["domain"].as_object_mut().unwrap().remove("resources");
    }
    let before = vm["spec"].clone();
    let settings = || json!({"kubevirt": {"namespace": "kubevirt"}, "nestedVirtualization": {"cpuVendor": "amd"}});
    let stored = Request::create(vm).settings(settings()).evaluate();
    assert!(stored.is_accepted(), "{}", stored.message());
    let stored = stored.after();
    assert_ne!(stored["spec"], before);
    let mut gone = stored.clone();
    for (name, _) in directives {
        gone["metadata"]["annotations"].as_object_mut().unwrap().remove(&format!("{PREFIX}{name}"));
    }
    assert_eq!(Request::update(stored, gone).settings(settings()).evaluate().after()["spec"], before);
}

/// The user replaces the card that the policy added by another one.
mod of_another_resource {
    use super::*;

    fn t4() -> Value {
        json!({"name": "node1-000001000", "deviceName": "nvidia.com/TU104GL_TESLA_T4"})
    }

    #[test]
    fn is_not_the_policys() {
        let mut story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE]);
        let answer = story.update(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, json!([t4()]))]));
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([t4(), igpu()]));
        assert!(!answer.added("pci-passthrough").unwrap().contains("T4"));
        story.vm = answer.after();
        assert_eq!(spec(&story.drop(PCI_OF_NODE).after(), HOST_DEVICES), &json!([t4()]));
    }

    #[test]
    fn is_not_spoken_of() {
        let other = json!([{"name": "other", "deviceName": "pci_0000_03_00_0"}]);
        let story = Story::of(&[]).ask(&[PCI]).edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, other.clone())]));
        let answer = story.drop(PCI);
        assert_eq!(spec(&answer.after(), HOST_DEVICES), &other);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }
}

/// The user renamed one of two devices.
#[test]
fn a_renamed_device_is_spoken_of_beside_one_that_was_not_renamed() {
    let both = ("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0", "node1/0000:03:00.1"]}"#);
    let mut story = Story::of(&[]).on_harvester();
    story.cluster = || {
        let mut cluster = cluster();
        cluster.object("PCIDeviceClaim", "node1-000003001")["status"]["passthroughEnabled"] = json!(true);
        cluster
    };
    let story = story.ask(&[both]);
    let mut devices = spec(&story.vm, HOST_DEVICES).clone();
    devices[0]["name"] = json!("mine");
    let story = story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, devices.clone())]));
    let answer = story.drop(both);
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([devices[0]]));
    assert!(answer.warnings()[0].contains("the host device mine stays"), "{:?}", answer.warnings());
}

/// The user removes the policy's port together with the directive, and has another port of the same card.
#[test]
fn a_device_that_was_there_before_is_not_taken_for_a_renamed_one() {
    let resource = "intel.com/I350_GIGABIT_NETWORK_CONNECTION";
    let [first, second] =
        ["node1-000003000", "node1-000003001"].map(|name| json!({"name": name, "deviceName": resource}));
    let directive = ("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0"]}"#);
    let story = Story::of(&[(HOST_DEVICES, json!([second]))]).on_harvester().ask(&[directive]);
    assert_eq!(spec(&story.vm, HOST_DEVICES), &json!([second, first]));
    let answer = story.update(|vm| {
        *vm = with(vm.clone(), &[(HOST_DEVICES, json!([second]))]);
        remove(vm, directive.0);
    });
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &json!([second]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// The user had one GPU, then asked for three in total, and now asks for two.
#[test]
fn a_gpu_of_the_users_counts_when_the_number_changes() {
    let mine = json!({"name": "mine", "deviceName": "nvidia.com/gpu"});
    let mut story = Story::of(&[(GPUS, json!([mine]))]);
    story.cluster = || serving("nvidia.com/gpu");
    let story = story.ask(&[("gpu-device-plugin", "nvidia.com/gpu=3")]);
    assert_eq!(spec(&story.vm, GPUS).as_array().unwrap().len(), 3);
    let answer = story.update(set("gpu-device-plugin", "nvidia.com/gpu=2"));
    assert_eq!(spec(&answer.after(), GPUS).as_array().unwrap().len(), 2);
    assert_eq!(spec(&answer.after(), GPUS)[0], mine);
}

/// The manifest has its own annotations, but not the policy's sidecar.
#[test]
fn the_sidecar_goes_although_kubectl_applied_the_vm() {
    let story = Story::of(&[]).on_harvester().ask(&[PCI_OF_NODE, ROM]);
    let annotations = |vm: &Value| vm["spec"]["template"]["metadata"]["annotations"].clone();
    assert_ne!(annotations(&story.vm), Value::Null);
    let manifest = json!({"spec": {"template": {"metadata": {"annotations": {"x": "y"}}, "spec": {"domain": {}}}}});
    let answer = story.update(|vm| {
        remove(vm, ROM.0);
        vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(manifest.to_string());
    });
    assert_eq!(annotations(&answer.after())["hooks.kubevirt.io/hookSidecars"], Value::Null);
}
