//! Removing directives: the policy removes what a feature added, and keeps what the user wrote.

mod added_meanwhile;
mod changed;
mod failing;
mod harvester;
mod iommu_siblings;
mod not_readable;
mod of_another_resource;
mod record_alone;
mod sidecar;

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
    fn ask(self, directives: &[(&str, &str)]) -> Self {
        let mut new = self.vm.clone();
        annotate(&mut new, directives);
        let updated = self.answer(Request::update(self.vm.clone(), new)).after();
        let created = self.create(directives);
        assert_eq!(created.vm, updated, "whether the VM was there or not");
        created
    }

    /// Creates the virtual machine with directives.
    fn create(mut self, directives: &[(&str, &str)]) -> Self {
        annotate(&mut self.vm, directives);
        let created = self.answer(Request::create(self.vm.clone()));
        assert!(created.is_accepted(), "{}", created.message());
        self.vm = created.after();
        self
    }

    /// Adds a directive to the VM.
    fn ask_of_an_old_vm(mut self, directive: (&'static str, &'static str)) -> Self {
        self.vm = self.update(set(directive.0, directive.1)).after();
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
    assert!(answer.logs[0].starts_with("INFO feature removed"), "{:?}", answer.logs);
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
    let vmx = json!([{"name": "vmx", "policy": "optional"}]);
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
    let story = Story::of(&[("/domain/memory/guest", json!("2Gi"))]).ask(&[directive]);
    let story = story.edit(|vm| *vm = with(vm.clone(), &[(pointer, edited.clone())]));
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

/// The update that removes the directive renames the device, too.
#[test]
fn a_device_that_the_user_renames_as_the_directive_goes_stays_with_a_warning() {
    let renamed = json!([{"name": "gpu0", "deviceName": "pci_0000_00_02_0"}]);
    let answer = Story::of(&[]).ask(&[PCI]).update(|vm| {
        remove(vm, PCI.0);
        *vm = with(vm.clone(), &[(HOST_DEVICES, renamed.clone())]);
    });
    assert_eq!(spec(&answer.after(), HOST_DEVICES), &renamed);
    assert!(answer.warnings()[0].contains("the host device gpu0 stays"), "{:?}", answer.warnings());
}

/// The user's entry, which the user removes as the directive comes, stays the user's.
#[test]
fn what_the_user_removes_as_the_directive_comes_is_not_recorded() {
    let story = Story::of(&[(CPU_FEATURES, json!([svm()]))]);
    let answer = story.update(|vm| {
        annotate(vm, &[NESTED]);
        *vm = with(vm.clone(), &[(CPU_FEATURES, json!([]))]);
    });
    assert_eq!(spec(&answer.after(), CPU_FEATURES), &json!([svm()]));
    assert_eq!(record(&answer.after(), NESTED.0).unwrap()["added"], json!([]));
}

/// What the record says counts, not how it is written.
#[test]
fn a_record_that_says_the_same_is_not_written_again() {
    let story = Story::of(&[]).ask(&[NESTED]).edit(|vm| {
        let annotations = &mut vm["spec"]["template"]["metadata"]["annotations"];
        let record: Value = serde_json::from_str(annotations[RECORD].as_str().unwrap()).unwrap();
        annotations[RECORD] = json!(format!("{record:#}"));
    });
    story.update(|vm| *vm = with(vm.clone(), &[("/architecture", json!("amd64"))])).assert_accepted_unchanged();
}

/// After a downgrade, the record has parts of features that the policy does not know.
#[test]
fn what_the_record_says_about_an_unknown_feature_stays() {
    let future = json!({"value": "on", "added": [{"moon": "full"}]});
    let mut story = Story::of(&[]).ask(&[NESTED]).edit(|vm| {
        let nested = record(vm, NESTED.0).unwrap()["added"].clone();
        set_record(vm, &[(NESTED.0, NESTED.1, nested), ("moonlight", "on", json!([{"moon": "full"}]))]);
    });
    story.vm = story.drop(NESTED).after();
    assert_eq!(record(&story.vm, NESTED.0), None);
    assert_eq!(record(&story.vm, "moonlight"), Some(future));
}

/// The empty list is the mark that the directive was evaluated.
#[rstest]
fn a_directive_that_adds_nothing_is_recorded(#[values(true, false)] tracking: bool) {
    let story = Story::of(&[(CPU_FEATURES, json!([svm()]))]);
    let story = if tracking { story } else { story.without_tracking() }.ask(&[NESTED]);
    assert_eq!(record(&story.vm, NESTED.0), Some(json!({"value": "enabled", "added": []})));
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

/// Asks for both ports of a card.
const BOTH_PORTS: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0", "node1/0000:03:00.1"]}"#);

/// The story of a VM on Harvester that asked for both ports of a card.
fn with_both_ports() -> Story {
    let mut story = Story::of(&[]).on_harvester();
    story.cluster = || {
        let mut cluster = cluster();
        cluster.object("PCIDeviceClaim", "node1-000003001")["status"]["passthroughEnabled"] = json!(true);
        cluster
    };
    story.ask(&[BOTH_PORTS])
}

/// The user renamed one of two devices.
#[test]
fn a_renamed_device_is_spoken_of_beside_one_that_was_not_renamed() {
    let story = with_both_ports();
    let mut devices = spec(&story.vm, HOST_DEVICES).clone();
    devices[0]["name"] = json!("mine");
    let story = story.edit(|vm| *vm = with(vm.clone(), &[(HOST_DEVICES, devices.clone())]));
    let answer = story.drop(BOTH_PORTS);
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
