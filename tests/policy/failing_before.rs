//! A request is refused only for what it breaks: a feature that failed on the VM before the update, too, is left alone.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm, fixtures, set_record};

const RECEIVER: (&str, &str) = ("usb-passthrough", r#"{"devices": ["node1/046d:c52b"]}"#);
const KEY: (&str, &str) = ("usb-passthrough", r#"{"devices": ["node1/1050:0407"]}"#);

fn plugged_in() -> MemoryCluster {
    MemoryCluster::of(fixtures("../../examples/usb-passthrough/cluster/cluster.yaml"))
}

/// The same cluster after all its USB devices were unplugged.
fn unplugged() -> MemoryCluster {
    let mut objects = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml");
    objects.retain(|object| object["kind"] != "USBDevice");
    MemoryCluster::of(objects)
}

fn settings(error_handling: &str) -> Value {
    json!({"usbPassthrough": {"errorHandling": error_handling}, "cpuPinning": {"errorHandling": error_handling}})
}

/// The stored VM with these directives.
fn stored(directives: &[(&str, &str)]) -> Value {
    let mut vm = bare_vm(directives);
    vm["spec"]["template"]["spec"]["domain"] = json!({"devices": {}, "cpu": {"cores": 2}, "memory": {"guest": "2Gi"}});
    let answer = Request::create(vm).cluster(plugged_in()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    answer.after()
}

/// An update of the VM while its USB devices are unplugged.
fn update(old: &Value, error_handling: &str, change: impl Fn(&mut Value)) -> Answer {
    let mut new = old.clone();
    change(&mut new);
    Request::update(old.clone(), new).settings(settings(error_handling)).cluster(unplugged()).evaluate()
}

fn hotplug_a_volume(vm: &mut Value) {
    vm["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
}

#[rstest]
fn a_volume_can_be_hotplugged_while_a_device_is_unplugged(
    #[values("reject", "allow-and-log", "strip-label")] error_handling: &str,
) {
    let answer = update(&stored(&[RECEIVER]), error_handling, hotplug_a_volume);
    answer.assert_accepted_unchanged();
    assert_eq!(answer.audit("failed"), "usb-passthrough");
    let warning = "usb-passthrough fails as before this request, and stays as it is until the directive changes, or what \
                   it needs: the node node1 has no USB device 046d:c52b;";
    assert!(answer.warnings().join(" ").starts_with(warning), "{:?}", answer.warnings());
}

/// The other features of the VM are planned as if the device were there.
#[test]
fn another_directive_can_come_while_a_device_is_unplugged() {
    let answer = update(&stored(&[RECEIVER]), "reject", |vm| annotate(vm, &[("hugepages", "2Mi")]));
    assert_eq!(answer.audit("applied"), "hugepages");
    assert_eq!(answer.domain()["devices"], stored(&[RECEIVER])["spec"]["template"]["spec"]["domain"]["devices"]);
}

#[test]
fn a_directive_that_changes_is_refused() {
    let answer = update(&stored(&[RECEIVER]), "reject", |vm| annotate(vm, &[KEY]));
    answer.assert_denied(&["the node node1 has no USB device 1050:0407"]);
}

#[test]
fn a_directive_that_comes_is_refused() {
    let answer = update(&stored(&[]), "reject", |vm| annotate(vm, &[RECEIVER]));
    answer.assert_denied(&["the node node1 has no USB device 046d:c52b"]);
}

#[test]
fn a_directive_whose_option_changes_is_refused() {
    let broken = [("nested-virt", "enabled"), ("cpu-vendor", "amd")];
    let answer = update(&stored(&broken), "reject", |vm| annotate(vm, &[("cpu-vendor", "via")]));
    answer.assert_denied(&["the option vm-feature-manager.io/cpu-vendor is \"via\""]);
}

/// Pinned CPUs are no share of one: the update breaks what was right before.
#[test]
fn a_change_that_breaks_a_feature_is_refused() {
    let answer = update(&stored(&[("cpu-pinning", "enabled")]), "reject", |vm| {
        vm["spec"]["template"]["spec"]["domain"]["resources"] = json!({"limits": {"cpu": "1500m"}});
    });
    answer.assert_denied(&["only whole CPUs can be pinned"]);
}

/// Without the old VM there is nothing that failed before.
#[test]
fn a_new_vm_is_refused() {
    let answer = Request::create(stored(&[RECEIVER])).cluster(unplugged()).evaluate();
    answer.assert_denied(&["the node node1 has no USB device 046d:c52b"]);
}

/// The old VM is planned with the answers that the new one was planned with.
#[test]
fn nothing_is_looked_up_twice() {
    let answer = update(&stored(&[RECEIVER]), "reject", hotplug_a_volume);
    let mut lookups = answer.lookups.clone();
    lookups.sort_unstable();
    lookups.dedup();
    assert_eq!(lookups.len(), answer.lookups.len(), "{:?}", answer.lookups);
}

/// The device that is unplugged still decides about the node, so it is the request that breaks something.
#[test]
fn what_a_failing_feature_keeps_counts_for_the_others() {
    let pci = ("pci-passthrough", r#"{"devices": ["node2/0000:03:00.0"]}"#);
    let old = stored(&[RECEIVER]);
    let mut new = old.clone();
    annotate(&mut new, &[pci]);
    let mut objects = fixtures("../../examples/harvester/cluster/cluster.yaml");
    objects.retain(|object| object["kind"] != "KubeVirt");
    let answer = Request::update(old, new).cluster(MemoryCluster::of(objects)).evaluate();
    answer.assert_denied(&["the directive names the node node2, but the VirtualMachine may run only on node1"]);
}

/// A pool, or the user, writes the whole template anew while the device is unplugged. Nothing is left that could stay.
#[rstest]
fn a_feature_whose_entries_the_request_removes_is_not_applied_any_more(
    #[values("reject", "allow-and-log", "strip-label")] error_handling: &str,
) {
    let old = stored(&[RECEIVER]);
    let remove = |vm: &mut Value| {
        let spec = vm["spec"]["template"]["spec"].as_object_mut().unwrap();
        spec.remove("nodeSelector");
        spec["domain"]["devices"].as_object_mut().unwrap().remove("hostDevices");
    };
    let answer = update(&old, error_handling, remove);
    assert!(answer.is_accepted(), "{}", answer.message());
    assert!(answer.warnings().concat().starts_with("usb-passthrough is not applied: "), "{:?}", answer.warnings());
    assert!(answer.annotation("usb-passthrough-error").is_some());
    assert_eq!(answer.added("usb-passthrough"), None);
    let again = Request::update(old, answer.after()).settings(settings(error_handling)).cluster(unplugged()).evaluate();
    assert!(again.is_accepted() && !again.is_mutated(), "{}", again.response);
    // When the device is there again, any change gives it back.
    let mut next = answer.after();
    hotplug_a_volume(&mut next);
    let answer =
        Request::update(answer.after(), next).settings(settings(error_handling)).cluster(plugged_in()).evaluate();
    assert_eq!(answer.domain()["devices"]["hostDevices"][0]["name"], "node1-046d-c52b-001002");
}

/// A record that is too long would not be read again.
#[test]
fn what_cannot_be_recorded_is_refused() {
    let long = format!(r#"{{"devices": ["node1/046d:c52b"]{}}}"#, " ".repeat(40_000));
    let answer = Request::create(bare_vm(&[("usb-passthrough", &long)])).cluster(plugged_in()).evaluate();
    answer.assert_denied(&["what the policy has to record about it is longer than 32 KiB", "shorten the directive"]);
}

/// Nor is one that somebody else wrote: it would only take time.
#[rstest]
#[case::as_long_as_one_may_be(1_000, false)]
#[case::longer(2_500, true)]
fn a_record_that_is_too_long_is_not_read(#[case] count: usize, #[case] is_too_long: bool) {
    let mut vm = bare_vm(&[]);
    let beside: Vec<_> = (0..count).map(|i| format!("node1-{i:06}")).collect();
    let added = json!([{"hostDevice": "node1-000003000", "resource": "x", "beside": beside}]);
    set_record(&mut vm, &[("pci-passthrough", "x", added)]);
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.warnings().iter().any(|warning| warning.contains("cannot be read")), is_too_long);
}

/// Because of what the unplugged device keeps, the other feature failed before, too.
#[test]
fn a_feature_that_fails_because_of_another_that_fails_is_left_alone() {
    let mut old = stored(&[RECEIVER]);
    annotate(
        &mut old,
        &[
            ("pci-passthrough", r#"{"devices": ["node2/0000:03:00.0"]}"#),
            ("pci-passthrough-error", "the directive names the node node2"),
        ],
    );
    let mut new = old.clone();
    hotplug_a_volume(&mut new);
    let mut objects = fixtures("../../examples/harvester/cluster/cluster.yaml");
    objects.retain(|object| object["kind"] != "KubeVirt");
    let settings = json!({"usbPassthrough": {"errorHandling": "allow-and-log"}});
    let answer = Request::update(old, new).settings(settings).cluster(MemoryCluster::of(objects)).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.audit("failed"), "pci-passthrough,usb-passthrough");
    assert_eq!(answer.domain()["devices"]["hostDevices"][0]["name"], "node1-046d-c52b-001002");
}
