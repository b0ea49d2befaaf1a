//! A directive that fails takes back what it added, as its error mode says.

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
