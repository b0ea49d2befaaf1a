//! Copies of a VirtualMachine, as Harvester and KubeVirt make them: clones, restores, VM templates, pools.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::copies::{
    exported, harvester_clone, harvester_restore_new, harvester_restore_over, kubevirt_clone, kubevirt_restore_new,
    kubevirt_restore_over, pool_update, started, template_version_vm,
};
use super::harness::{
    Answer, MemoryCluster, PREFIX, RECORD, Request, annotate, bare_vm, features, fixtures, record, vbios_objects,
};

/// Directives with an option, and with entries in lists, in objects and in an annotation.
const DIRECTIVES: [(&str, &str); 6] = [
    ("nested-virt", "enabled"),
    ("cpu-vendor", "intel"),
    ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#),
    ("gpu-device-plugin", "nvidia.com/gpu"),
    ("vbios-injection", "igpu-rom"),
    ("cpu-pinning", "enabled"),
];

fn cluster() -> MemoryCluster {
    let mut objects = vbios_objects();
    objects.extend(fixtures("../../examples/harvester/cluster/cluster.yaml"));
    MemoryCluster::of(objects)
}

/// As Harvester stores it.
fn plain() -> Value {
    let mut vm = bare_vm(&[]);
    vm["metadata"]["labels"] = json!({"harvesterhci.io/creator": "harvester"});
    vm["spec"]["template"]["metadata"] = json!({"labels": {"harvesterhci.io/vmName": "vm"}});
    vm["spec"]["template"]["spec"]["domain"] = json!({
        "cpu": {"cores": 2, "model": "host-model"},
        "devices": {"interfaces": [{"name": "default", "macAddress": "52:54:00:00:00:01"}]},
        "resources": {"limits": {"memory": "8Gi"}},
    });
    vm["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "disk-0", "persistentVolumeClaim": {"claimName": "vm-disk-0"}}]);
    vm
}

fn evaluate(request: Request, settings: Value) -> Answer {
    let answer = request.settings(settings).cluster(cluster()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    answer
}

/// The answer to a new VM. The second time, nothing changes.
fn create(vm: Value) -> Answer {
    let answer = evaluate(Request::create(vm), json!({}));
    let again = evaluate(Request::create(answer.after()), json!({}));
    assert!(!again.is_mutated(), "the second time: {}", again.patch());
    answer
}

/// The answer to an update. The second time, nothing changes.
fn update(old: &Value, new: Value) -> Answer {
    let answer = evaluate(Request::update(old.clone(), new), json!({}));
    let again = evaluate(Request::update(old.clone(), answer.after()), json!({}));
    assert!(!again.is_mutated(), "the second time: {}", again.patch());
    answer
}

fn with(mut vm: Value, directives: &[(&str, &str)]) -> Value {
    annotate(&mut vm, directives);
    vm
}

fn stored(directives: &[(&str, &str)]) -> Value {
    create(with(plain(), directives)).after()
}

/// The VM without the policy's annotations, also of its template.
fn without_ours(mut vm: Value, stays: impl Fn(&str) -> bool) -> Value {
    for place in ["/metadata/annotations", "/metadata/labels", "/spec/template/metadata/annotations"] {
        if let Some(Value::Object(members)) = vm.pointer_mut(place) {
            members.retain(|key, _| !key.starts_with(PREFIX) || stays(key));
        }
    }
    vm
}

fn without_directives(vm: Value) -> Value {
    without_ours(vm, |key| key == RECORD || key.ends_with("-applied") || key.ends_with("-error"))
}

fn spec(vm: &Value) -> &Value {
    &vm["spec"]["template"]["spec"]
}

fn devices(vm: &Value) -> &Value {
    &spec(vm)["domain"]["devices"]["hostDevices"]
}

type Copy = fn(&Value, &str) -> Value;

/// A copy has the features, and gives them up with their directives.
#[rstest]
#[case::harvester_clone(harvester_clone, true)]
#[case::harvester_restore_to_a_new_vm(harvester_restore_new, true)]
#[case::harvester_template(template_version_vm, false)]
#[case::kubevirt_clone(kubevirt_clone, false)]
#[case::kubevirt_restore_to_a_new_vm(kubevirt_restore_new, false)]
#[case::export(|vm: &Value, _: &str| exported(vm), false)]
fn a_copy_keeps_its_features_and_gives_them_up(#[case] copy: Copy, #[case] loses_directives: bool) {
    let original = stored(&DIRECTIVES);
    let answer = create(copy(&original, "copy"));
    assert_eq!(spec(&answer.after()), spec(&copy(&original, "copy")));
    for (key, value) in DIRECTIVES {
        assert_eq!(answer.annotation(key).as_deref(), Some(value));
        assert_eq!(record(&answer.after(), key), record(&original, key), "{key}");
    }
    let warned = answer.warnings().iter().filter(|warning| warning.contains("the policy put it back")).count();
    assert_eq!(warned, if loses_directives { DIRECTIVES.len() - 1 } else { 0 }, "{:?}", answer.warnings());

    let left = update(&answer.after(), without_directives(answer.after()));
    assert_eq!(left.after()["spec"]["template"], copy(&plain(), "copy")["spec"]["template"]);
}

/// With `configSource: labels`, directives are labels, and options are annotations. Harvester's clone keeps labels, its
/// restore does not.
#[rstest]
#[case::clone(harvester_clone)]
#[case::restore(harvester_restore_new)]
fn labels_are_put_back_as_labels(#[case] copy: Copy) {
    let settings = json!({"configSource": "labels"});
    let mut vm = with(plain(), &[("cpu-vendor", "amd")]);
    vm["metadata"]["labels"][format!("{PREFIX}nested-virt")] = json!("enabled");
    let original = evaluate(Request::create(vm), settings.clone()).after();
    let answer = evaluate(Request::create(copy(&original, "copy")), settings);
    assert_eq!(answer.after()["metadata"]["labels"][format!("{PREFIX}nested-virt")], "enabled");
    assert_eq!(spec(&answer.after())["domain"]["cpu"]["features"], json!([{"name": "svm", "policy": "require"}]));
}

/// The directive is on the template, which copies keep, and its option on the VM.
#[test]
fn an_option_of_a_directive_on_the_template_is_put_back() {
    let mut vm = with(plain(), &[("cpu-vendor", "amd")]);
    vm["spec"]["template"]["metadata"]["annotations"][format!("{PREFIX}nested-virt")] = json!("enabled");
    let original = create(vm).after();
    let answer = create(harvester_clone(&original, "copy"));
    assert_eq!(answer.annotation("cpu-vendor").as_deref(), Some("amd"));
    assert_eq!(answer.annotation("nested-virt"), None);
    assert_eq!(spec(&answer.after())["domain"]["cpu"]["features"], json!([{"name": "svm", "policy": "require"}]));
}

/// The option is missing because the user wants it so: without it, the nodes of both vendors are a failure.
#[rstest]
#[case::another_directive(|original: &Value| {
    let mut copy = harvester_clone(original, "copy");
    copy["spec"]["template"]["metadata"]["annotations"][format!("{PREFIX}nested-virt")] = json!("yes");
    copy
})]
#[case::an_export(|original: &Value| {
    let mut copy = exported(original);
    copy["metadata"]["annotations"].as_object_mut().unwrap().remove(&format!("{PREFIX}cpu-vendor"));
    copy
})]
#[case::the_directive_of_the_copy(|original: &Value| with(harvester_clone(original, "copy"), &[DIRECTIVES[0]]))]
fn an_option_that_the_user_left_out_is_not_put_back(#[case] copy: fn(&Value) -> Value) {
    let mut vm = with(plain(), &[("cpu-vendor", "amd")]);
    vm["spec"]["template"]["metadata"]["annotations"][format!("{PREFIX}nested-virt")] = json!("enabled");
    let original = create(vm).after();
    let answer = Request::create(copy(&original)).cluster(cluster()).evaluate();
    answer.assert_denied(&["are of both AMD and Intel"]);
}

/// A value that no label can have came from another place. What it added is removed, because nothing asks for it.
#[test]
fn a_value_that_no_label_can_have_is_not_put_back() {
    let copy = harvester_clone(&stored(&DIRECTIVES[2..3]), "copy");
    let answer = evaluate(Request::create(copy), json!({"configSource": "labels"}));
    assert_eq!(devices(&answer.after()), &Value::Null);
}

/// The copy says itself what it wants.
#[rstest]
#[case::off("disabled", Value::Null)]
#[case::on("yes", json!([{"name": "vmx", "policy": "require"}]))]
fn the_directive_of_the_copy_counts(#[case] value: &str, #[case] expected: Value) {
    let copy = harvester_clone(&stored(&DIRECTIVES[..2]), "copy");
    let answer = create(with(copy, &[("nested-virt", value), ("cpu-vendor", "intel")]));
    assert_eq!(answer.annotation("nested-virt").as_deref(), Some(value));
    assert_eq!(spec(&answer.after())["domain"]["cpu"]["features"], expected);
}

/// Nobody asked for the feature with this request, so the copy is accepted without it.
#[rstest]
fn a_copy_whose_feature_fails_is_accepted(#[values("reject", "allow-and-log", "strip-label")] mode: &str) {
    let original = stored(&DIRECTIVES[2..3]);
    let settings = json!({"pciPassthrough": {"errorHandling": mode}});
    let evaluate = |vm: Value| {
        let mut cluster = cluster();
        cluster.object("PCIDeviceClaim", "node1-000000020")["status"]["passthroughEnabled"] = json!(false);
        Request::create(vm).settings(settings.clone()).cluster(cluster).evaluate()
    };
    let answer = evaluate(harvester_clone(&original, "copy"));
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(devices(&answer.after()), &Value::Null);
    assert_eq!(answer.annotation("pci-passthrough").as_deref(), Some(DIRECTIVES[2].1));
    assert!(answer.annotation("pci-passthrough-error").unwrap().contains("not enabled for passthrough"));
    let again = evaluate(answer.after());
    assert!(again.is_accepted() && !again.is_mutated(), "{}", again.response);
    // An export of the original asks for it, and the error mode decides.
    assert_eq!(evaluate(exported(&original)).is_accepted(), mode != "reject");
}

#[test]
fn a_feature_that_the_settings_switch_off_is_not_put_back() {
    let copy = harvester_clone(&stored(&DIRECTIVES[..2]), "copy");
    let settings = json!({"nestedVirtualization": {"enabled": false}});
    let answer = evaluate(Request::create(copy.clone()), settings);
    answer.assert_accepted_unchanged();
    // Once it is on again, it is.
    let mut touched = copy.clone();
    touched["spec"]["template"]["spec"]["architecture"] = json!("amd64");
    assert_eq!(update(&copy, touched).annotation("nested-virt").as_deref(), Some("enabled"));
}

/// The spec of the backup comes with its record, and the metadata is today's.
#[rstest]
#[case::harvester(harvester_restore_over)]
#[case::kubevirt(kubevirt_restore_over)]
fn a_restore_over_a_vm_has_what_its_directives_ask_for_today(#[case] restore: fn(&Value, &Value) -> Value) {
    let backup = stored(&DIRECTIVES);
    // Meanwhile, the device is another, nested virtualization and its option are gone, and hugepages came.
    let mut today = without_directives(backup.clone());
    let device = ("pci-passthrough", r#"{"devices": ["node1/0000:03:00.0"]}"#);
    annotate(&mut today, &[device, ("gpu-device-plugin", "nvidia.com/gpu=2")]);
    let today = update(&backup, today).after();
    let answer = update(&today, restore(&today, &backup));
    assert_eq!(answer.audit("applied"), "pci-passthrough,gpu-device-plugin");
    assert_eq!(record(&answer.after(), "pci-passthrough"), record(&today, "pci-passthrough"));
    let (mut restored, mut expected) = (spec(&answer.after()).clone(), spec(&today).clone());
    for vm in [&mut restored, &mut expected] {
        vm["volumes"] = Value::Null;
    }
    assert_eq!(restored, expected);

    let left = update(&answer.after(), without_directives(answer.after()));
    let plain = restore(&plain(), &plain());
    assert_eq!(left.after()["spec"]["template"], plain["spec"]["template"]);
}

/// A backup from before the policy has no record, so all that is in it is the user's.
#[test]
fn a_restore_of_a_backup_without_a_record() {
    let mut backup = plain();
    backup["spec"]["template"]["spec"]["domain"]["cpu"]["features"] = json!([{"name": "aes", "policy": "require"}]);
    let today = stored(&DIRECTIVES[..2]);
    let answer = update(&today, harvester_restore_over(&today, &backup));
    let both = json!([{"name": "aes", "policy": "require"}, {"name": "vmx", "policy": "require"}]);
    assert_eq!(spec(&answer.after())["domain"]["cpu"]["features"], both);
}

/// A pool writes its template over the VM: the record, the entries and the annotations for people go at once, while the
/// directives are as before.
#[test]
fn a_pool_that_is_rolled_out_keeps_the_features() {
    let pool = with(plain(), &DIRECTIVES);
    let vm = create(pool.clone()).after();
    let mut changed = pool;
    changed["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(60);
    let answer = update(&vm, pool_update(&vm, &changed));
    let mut expected = spec(&vm).clone();
    expected["terminationGracePeriodSeconds"] = json!(60);
    assert_eq!(spec(&answer.after()), &expected);
    assert_eq!(record(&answer.after(), "pci-passthrough"), record(&vm, "pci-passthrough"));
}

/// The policy could not be called when the copy was made.
mod unseen {
    use super::*;

    #[test]
    fn a_copy_gets_its_directives_at_its_next_update() {
        let copy = harvester_clone(&stored(&DIRECTIVES), "copy");
        let mut touched = copy.clone();
        touched["spec"]["template"]["spec"]["architecture"] = json!("amd64");
        let answer = update(&copy, touched.clone());
        assert_eq!(spec(&answer.after()), spec(&touched));
        for (key, value) in DIRECTIVES {
            assert_eq!(answer.annotation(key).as_deref(), Some(value));
        }
    }

    /// Starting it is an update that changes nothing else.
    #[test]
    fn a_copy_gets_its_directives_when_it_is_started() {
        let copy = harvester_clone(&stored(&DIRECTIVES), "copy");
        let answer = update(&copy, started(&copy));
        assert_eq!(spec(&answer.after()), spec(&copy));
        assert_eq!(answer.annotation("pci-passthrough").as_deref(), Some(DIRECTIVES[2].1));
    }

    /// Without the annotations for people, the copy cannot be told from a VM whose directive was removed.
    #[test]
    fn without_annotations_for_people_it_is_taken_back() {
        let settings = json!({"addTrackingAnnotations": false});
        let copy = harvester_clone(&stored(&DIRECTIVES[..2]), "copy");
        let mut touched = copy.clone();
        touched["spec"]["template"]["spec"]["architecture"] = json!("amd64");
        let answer = evaluate(Request::update(copy, touched), settings);
        assert_eq!(spec(&answer.after())["domain"]["cpu"], spec(&plain())["domain"]["cpu"]);
    }

    /// The VM was created, and its directives were set, while the policy could not be called. It is started then.
    #[test]
    fn a_vm_gets_its_features_when_it_is_started() {
        let vm = with(plain(), &DIRECTIVES);
        let answer = update(&vm, started(&vm));
        assert_eq!(spec(&answer.after()), spec(&stored(&DIRECTIVES)));
        let next = evaluate(Request::update(answer.after(), started(&answer.after())), json!({}));
        next.assert_accepted_unchanged();
        assert_eq!(next.lookups, Vec::<String>::new());
    }

    /// Whatever the error mode, the request is accepted, and the annotation says that it was tried.
    #[rstest]
    fn a_directive_that_fails_denies_nothing(#[values("reject", "allow-and-log", "strip-label")] mode: &str) {
        let settings = json!({
            "pciPassthrough": {"errorHandling": mode}, "addTrackingAnnotations": false,
        });
        let vm = with(plain(), &[DIRECTIVES[2]]);
        let evaluate = |old: &Value, new: Value| {
            let mut cluster = cluster();
            cluster.object("PCIDeviceClaim", "node1-000000020")["status"]["passthroughEnabled"] = json!(false);
            Request::update(old.clone(), new).settings(settings.clone()).cluster(cluster).evaluate()
        };
        let answer = evaluate(&vm, started(&vm));
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.annotation("pci-passthrough").as_deref(), Some(DIRECTIVES[2].1));
        let error = answer.annotation("pci-passthrough-error").unwrap();
        assert!(error.contains("not enabled for passthrough"), "{error}");
        let again = evaluate(&vm, answer.after());
        assert!(again.is_accepted() && !again.is_mutated(), "{}", again.response);
        // It was tried, so the next update that changes nothing does not try it again.
        let next = evaluate(&answer.after(), started(&answer.after()));
        next.assert_accepted_unchanged();
        assert_eq!(next.lookups, Vec::<String>::new());
        assert_eq!(next.warnings(), Vec::<&str>::new());
    }

    /// Neither is evaluated at every update that changes nothing, because it has nothing to be marked with.
    #[rstest]
    #[case::off(("nested-virt", "disabled"), json!({}))]
    #[case::empty(("cpu-pinning", " "), json!({}))]
    #[case::of_a_feature_that_is_off(("hugepages", "2Mi"), json!({"hugepages": {"enabled": false}}))]
    fn a_directive_that_does_nothing_is_no_missed_one(#[case] directive: (&str, &str), #[case] settings: Value) {
        let vm = with(stored(&DIRECTIVES[2..3]), &[directive]);
        let answer = evaluate(Request::update(vm.clone(), started(&vm)), settings);
        answer.assert_accepted_unchanged();
        assert_eq!(answer.lookups, Vec::<String>::new());
    }

    /// A VM that is being deleted is left alone.
    #[test]
    fn a_vm_that_is_being_deleted_is_left_alone() {
        let mut vm = with(plain(), &DIRECTIVES);
        vm["metadata"]["deletionTimestamp"] = json!("2026-11-28T12:00:00Z");
        evaluate(Request::update(vm.clone(), started(&vm)), json!({})).assert_accepted_unchanged();
    }
}

/// KubeVirt's controller writes annotations into the template.
#[rstest]
#[case::of_kubevirt("kubevirt.io/pci-topology-version", false)]
#[case::of_ours("vm-feature-manager.io/nested-virt", true)]
#[case::with_sidecars("hooks.kubevirt.io/hookSidecars", true)]
fn which_annotations_of_the_template_matter(#[case] key: &str, #[case] matters: bool) {
    let stored = stored(&[("gpu-device-plugin", "nvidia.com/gpu")]);
    let mut new = stored.clone();
    new["spec"]["template"]["metadata"]["annotations"][key] = json!("v3");
    let answer = Request::update(stored, new).cluster(cluster()).evaluate();
    assert_eq!(!answer.is_accepted() || !answer.audit("applied").is_empty(), matters);
}

#[test]
fn every_feature_has_a_directive_here_or_is_like_one() {
    let here = DIRECTIVES.map(|(name, _)| name);
    let others: Vec<_> = features::names().into_iter().filter(|name| !here.contains(name)).collect();
    assert_eq!(others, ["usb-passthrough", "hugepages", "numa"]);
}
