//! `vmfm cluster --fix`

use rstest::rstest;
use serde_json::{Value, json};

use crate::world::World;

const RECORD: &str = "/spec/template/metadata/annotations/vm-feature-manager.io~1record";
const PCI: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#);

fn is_recorded(vm: &Value) -> bool {
    vm.pointer(RECORD).is_some()
}

/// A cluster with a VM that was missed, one that would change, and one that has everything.
fn world() -> World {
    let mut world = World::harvester();
    world.vm("default", "missed", &[PCI]);
    let edited = world.applied_vm("default", "edited", &[PCI]);
    edited["spec"]["template"]["spec"]["domain"]["devices"] = json!({});
    world.applied_vm("default", "done", &[PCI]);
    world
}

#[test]
fn what_was_missed_is_written_after_a_dry_run() {
    let world = world();
    let printed = world.run(&["cluster", "--fix", "--yes"]);
    assert_eq!(printed.code, 0, "{}{}", printed.stdout, printed.stderr);
    let dry_run = "in a dry run:\n  default/missed: pci-passthrough would be applied: added hostDevice node1-000000020";
    assert!(printed.stderr.contains(dry_run), "{}", printed.stderr);
    assert!(printed.stderr.contains("\n    warning: a webhook warns\n"), "{}", printed.stderr);
    assert!(
        printed.stderr.ends_with("default/missed is written; a running guest gets it at its next start\n"),
        "{}",
        printed.stderr
    );
    let replaced: Vec<String> = world.calls().into_iter().filter(|call| call.starts_with("replace")).collect();
    assert_eq!(replaced.len(), 2, "{replaced:?}");
    assert!(replaced[0].contains("--dry-run=server") && !replaced[1].contains("--dry-run"), "{replaced:?}");
    assert!(is_recorded(&world.stored("missed")));
    assert_eq!(
        world.stored("missed")["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"][0]["name"],
        "node1-000000020"
    );
    assert_eq!(world.stored("edited")["metadata"]["resourceVersion"], "1", "it is not named");
}

#[test]
fn what_would_change_is_written_if_it_is_named() {
    let world = world();
    let printed = world.run(&["cluster", "edited", "done", "--fix", "--yes"]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert!(printed.stderr.contains("default/edited is written"), "{}", printed.stderr);
    assert!(!printed.stderr.contains("done"), "{}", printed.stderr);
    assert_eq!(
        world.stored("edited")["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"][0]["name"],
        "node1-000000020"
    );
}

#[test]
fn nobody_is_asked_without_a_terminal() {
    let world = world();
    let printed = world.run(&["cluster", "--fix"]);
    assert_eq!(printed.code, 2);
    assert!(
        printed
            .stderr
            .ends_with("error: standard input is no terminal, so nobody can be asked; with --yes, nobody is\n")
    );
    assert!(!is_recorded(&world.stored("missed")));
}

#[test]
fn if_nothing_was_missed_nothing_is_written() {
    let mut world = world();
    world.objects.retain(|object| object["metadata"]["name"] != "missed");
    let printed = world.run(&["cluster", "--fix", "--yes"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, "\nnothing to write: no virtual machine was missed\n"));
}

#[rstest]
#[case::changed_meanwhile(json!({"conflicts": ["missed"]}), "default/missed is not written: somebody changed it meanwhile; run the command again")]
#[case::refused(json!({"refuses": "no"}), "default/missed: cannot be written: admission webhook \"x\" denied the request: no")]
fn what_cannot_be_written_is_told(#[case] fake: Value, #[case] message: &str) {
    let mut world = world();
    world.fake = fake;
    let printed = world.run(&["cluster", "--fix", "--yes"]);
    assert_eq!(printed.code, 1);
    assert!(printed.stderr.contains(message), "{}", printed.stderr);
    assert!(!is_recorded(&world.stored("missed")));
}
