//! The VM has only the record and the annotations for people: the directive was removed while the policy was not running.

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
    let story =
        Story::of(&[(CPU_FEATURES, both.clone())]).edit(|vm| annotate(vm, &[NESTED, ("nested-virt-applied", "true")]));
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
#[case::too_large(&format!("{{{}}}", " ".repeat(1 << 19)))]
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
