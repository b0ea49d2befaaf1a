//! The hook sidecar: it has the policy's mark.

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

/// Without any record, unless the manifest declares it.
#[rstest]
#[case::declared_by_nobody(false)]
#[case::declared(true)]
fn in_a_new_vm_without_the_directive_goes(#[case] is_declared: bool) {
    let mut story = with_rom(None, "sidecar");
    let sidecar = sidecars(&story.vm).clone();
    remove(&mut story.vm, ROM.0);
    set_record(&mut story.vm, &[]);
    if is_declared {
        let annotations = json!({"hooks.kubevirt.io/hookSidecars": sidecar});
        let manifest = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        story.vm["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
            json!(manifest.to_string());
    }
    let answer = story.answer(Request::create(story.vm.clone()));
    assert_eq!(sidecars(&answer.after()), if is_declared { &sidecar } else { &Value::Null });
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
