//! `vmfm cluster`

use rstest::rstest;
use serde_json::{Value, json};

use crate::world::{World, run};

const PCI: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#);

#[test]
fn each_state_has_its_row() {
    let mut world = World::harvester();
    world.applied_vm("default", "done", &[PCI, ("nested-virt", "enabled")]);
    world.vm("default", "missed", &[PCI]);
    world.vm("default", "missed-and-bad", &[("pci-passthrough", r#"{"devices": ["node1/0000:0a:00.0"]}"#)]);
    let changed = world.applied_vm("default", "edited", &[PCI]);
    changed["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = json!([]);
    let failed = world.vm("default", "failing", &[("cpu-pinning", "maybe")]);
    failed["metadata"]["annotations"]["vm-feature-manager.io/cpu-pinning-error"] = json!("must be something");
    world.vm("default", "off", &[("nested-virt", "disabled")]);
    world.vm("default", "plain", &[]);
    world.vm("harvester-system", "unseen", &[PCI]);
    let near = world.vm("default", "near", &[]);
    near["metadata"]["annotations"]["vm-feature-manager/nested-virt"] = json!("enabled");
    let going = world.vm("default", "going", &[PCI]);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let printed = world.run(&["cluster", "-A"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (1, ""));
    for (name, row) in [
        ("NAME", "NAMESPACE NAME DIRECTIVES STATE MESSAGE"),
        ("done", "default done nested-virt,pci-passthrough applied"),
        (
            "missed",
            "default missed pci-passthrough never evaluated pci-passthrough would be applied: added hostDevice node1-",
        ),
        ("missed-and-bad", "default missed-and-bad pci-passthrough never evaluated pci-passthrough would fail: "),
        ("edited", "default edited pci-passthrough would change adds spec.template.spec.domain.devices.hostDevices.0"),
        ("failing", "default failing cpu-pinning failed cpu-pinning: must be enabled or disabled"),
        ("off", "default off nested-virt nothing nested-virt: disabled switches it off"),
        ("plain", "default plain - nothing"),
        (
            "unseen",
            "harvester-system unseen pci-passthrough nothing the policy's namespaceSelector leaves out this namespace",
        ),
        (
            "near",
            "default near - nothing the key vm-feature-manager/nested-virt: not read: the key does not start with",
        ),
        ("going", "default going pci-passthrough nothing it is being deleted"),
    ] {
        assert!(printed.row(name).starts_with(row), "{row:?} is not {:?}", printed.row(name));
    }
    let totals = "10 virtual machines: 1 applied, 1 would change, 1 failed, 2 never evaluated, 5 nothing";
    assert_eq!(printed.stdout.lines().last(), Some(totals));
}

#[test]
fn nothing_is_written() {
    let mut world = World::harvester();
    world.vm("default", "missed", &[PCI]);
    world.run(&["cluster", "-A"]);
    let is_harmless = |call: &String| {
        call.starts_with("get ") || call.starts_with("create ") && call.contains("/subjectaccessreviews")
    };
    assert!(world.calls().iter().all(is_harmless), "{:?}", world.calls());
}

#[rstest]
#[case::of_the_context(&[], &["x", "y"])]
#[case::named(&["--namespace", "default"], &["z"])]
#[case::all(&["-A"], &["x", "y", "z"])]
#[case::names(&["y", "x"], &["y", "x"])]
#[case::label(&["-A", "-l", "tier=y"], &["y"])]
fn virtual_machines_are_chosen_as_with_kubectl(#[case] arguments: &[&str], #[case] expected: &[&str]) {
    let mut world = World::harvester();
    world.fake["namespace"] = json!("team-a");
    world.vm("team-a", "x", &[]);
    world.vm("team-a", "y", &[]);
    world.vm("default", "z", &[]);
    let printed = world.run(&[&["cluster", "--output", "json"], arguments].concat());
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    let judged: Value = serde_json::from_str(&printed.stdout).unwrap();
    let names: Vec<&str> = judged.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected);
}

#[test]
fn the_context_and_the_kubeconfig_go_to_kubectl() {
    let world = World::harvester();
    let printed = world.run(&["cluster", "--context", "c", "--kubeconfig", "k.conf"]);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, ""));
    assert_eq!(printed.stderr, "no virtual machines in the namespace default; -A shows those of all\n");
    assert!(
        world.calls().iter().all(|call| call.starts_with("--context c --kubeconfig k.conf ")),
        "{:?}",
        world.calls()
    );
}

#[test]
fn json_yaml_and_wide_have_all_messages() {
    let mut world = World::harvester();
    world.vm("default", "a", &[PCI, ("cpu-pinning", "maybe")]);
    world.vm("default", "b", &[]);
    let json: Value = serde_json::from_str(&world.run(&["cluster", "--output", "json"]).stdout).unwrap();
    assert_eq!(json[0]["state"], "never-evaluated");
    assert_eq!(json[0]["messages"].as_array().unwrap().len(), 2, "{json}");
    assert_eq!(json[0]["directives"][0]["name"], "cpu-pinning");
    let yaml = vmfm::yaml::parse(&world.run(&["cluster", "--output", "yaml"]).stdout).unwrap();
    assert_eq!(json!(yaml), json);
    let wide = world.run(&["cluster", "--output", "wide"]).row("a");
    for part in
        ["cpu-pinning=maybe,", "cpu-pinning would fail: must be enabled", " | ", "pci-passthrough would be applied"]
    {
        assert!(wide.contains(part), "{part:?} is not in {wide}");
    }
}

/// What the policy would say with the permissions that its account has.
#[rstest]
#[case::nodes("list nodes", "nested-virt", "enabled", "may not list and watch nodes")]
#[case::one_verb(
    "watch pcidevices",
    "pci-passthrough",
    r#"{"devices": ["0000:00:02.0"]}"#,
    "may not list and watch pcidevices"
)]
#[case::reviews(
    "create subjectaccessreviews",
    "pci-passthrough",
    r#"{"devices": ["0000:00:02.0"]}"#,
    "may not create subjectaccessreviews"
)]
#[case::config_maps(
    "get configmaps in default",
    "vbios-injection",
    "rom",
    "may not get configmaps in the namespace default"
)]
fn missing_permissions_count(#[case] denied: &str, #[case] name: &str, #[case] value: &str, #[case] message: &str) {
    let mut world = World::harvester();
    let developer = "/spec/configuration/developerConfiguration/featureGates";
    world.first("KubeVirt").pointer_mut(developer).unwrap().as_array_mut().unwrap().push(json!("Sidecar"));
    world.first("Deployment")["metadata"]["namespace"] = json!("cattle-kubewarden-system");
    world.vm("default", "a", &[(name, value)]);
    world.fake["denied"] = json!([denied]);
    let json = world.run(&["cluster", "--output", "json"]).stdout;
    assert!(json.contains(message), "{message:?} is not in {json}");
    assert!(json.contains("cattle-kubewarden-system:policy-server"), "{json}");
}

#[test]
fn kinds_that_the_policy_does_not_declare_are_not_looked_up() {
    let mut world = World::harvester();
    world.first("ClusterAdmissionPolicy")["spec"]["contextAwareResources"] =
        json!([{"apiVersion": "v1", "kind": "Node"}]);
    world.vm("default", "a", &[PCI]);
    let json = world.run(&["cluster", "--output", "json"]).stdout;
    assert!(
        json.contains("does not list devices.harvesterhci.io/v1beta1 PCIDevice under spec.contextAwareResources"),
        "{json}"
    );
}

#[test]
fn without_harvester_its_devices_are_not_served() {
    let mut world = World::harvester();
    world.fake["unserved"] = json!(["devices.harvesterhci.io"]);
    world.vm("default", "a", &[PCI]);
    let json = world.run(&["cluster", "--output", "json"]).stdout;
    assert!(json.contains("the cluster does not serve pcidevices.devices.harvesterhci.io"), "{json}");
    let mut empty = World::harvester();
    for kind in ["PCIDevice", "PCIDeviceClaim"] {
        empty.remove(kind);
    }
    empty.vm("default", "a", &[PCI]);
    let json = empty.run(&["cluster", "--output", "json"]).stdout;
    assert!(!json.contains("does not serve"), "{json}");
}

#[test]
fn lists_are_read_page_by_page_and_once_each() {
    let mut world = World::harvester();
    for number in 0..7 {
        world.vm("default", &format!("vm-{number}"), &[PCI]);
    }
    world.fake["page"] = json!(3);
    world.fake["expires"] = json!(true);
    let printed = world.run(&["cluster", "-A", "--verbose"]);
    assert!(
        printed.stdout.ends_with("7 virtual machines: 7 never evaluated\n"),
        "{}{}",
        printed.stdout,
        printed.stderr
    );
    let of = |part: &str| world.calls().iter().filter(|call| call.contains(part)).count();
    // Two pages, of which the second was gone, and three pages after that.
    assert_eq!(of("/virtualmachines?"), 5);
    assert_eq!(of("/nodes?"), 1);
    let requests = world.calls().len();
    assert!(printed.stderr.contains(&format!("{requests} requests, ")), "{requests}: {}", printed.stderr);
    let mut more = World::harvester();
    for number in 0..50 {
        more.vm("default", &format!("vm-{number}"), &[PCI]);
    }
    more.run(&["cluster", "-A"]);
    assert!(more.calls().len() < 25, "{}: {:?}", more.calls().len(), more.calls());
}

#[test]
fn a_policy_that_changes_nothing_is_told() {
    let mut world = World::harvester();
    world.first("ClusterAdmissionPolicy")["spec"]["mode"] = json!("monitor");
    assert!(world.run(&["cluster"]).stderr.contains("the policy vm-feature-manager is in mode monitor"));
    world.first("ClusterAdmissionPolicy")["status"] = json!({"policyStatus": "pending"});
    assert!(world.run(&["cluster"]).stderr.contains("is not active (its status is pending)"));
}

#[rstest]
#[case::down(json!({"down": "The connection to the server x was refused"}), "error: The connection to the server x was refused")]
#[case::no_kubewarden(json!({"unserved": ["policies.kubewarden.io"]}), "error: Kubewarden is not installed")]
#[case::no_kubevirt(json!({"unserved": ["kubevirt.io"]}), "error: KubeVirt is not installed")]
#[case::forbidden(json!({"forbidden": ["virtualmachines"]}), "cannot list resource \"virtualmachines\" at the cluster scope; use an account")]
fn a_cluster_that_cannot_be_read_is_told_in_one_line(#[case] fake: Value, #[case] error: &str) {
    let mut world = World::harvester();
    world.fake = fake;
    let printed = world.run(&["cluster", "-A"]);
    assert_eq!((printed.code, printed.stdout.as_str()), (2, ""));
    assert!(printed.stderr.contains(error), "{}", printed.stderr);
    assert!(printed.stderr.starts_with("error: ") && printed.stderr.lines().count() == 1, "{}", printed.stderr);
}

#[test]
fn a_missing_kubectl_is_told() {
    let printed = run(&["cluster"], &[("KUBECTL", "/no/such/kubectl".as_ref())]);
    assert_eq!(printed.code, 2);
    let error = "error: /no/such/kubectl cannot be started: No such file or directory (os error 2); install kubectl, or name it in";
    assert!(printed.stderr.starts_with(error), "{}", printed.stderr);
}

#[test]
fn the_policy_is_the_one_that_is_named() {
    let mut world = World::harvester();
    let mut other = world.first("ClusterAdmissionPolicy").clone();
    other["metadata"]["name"] = json!("other");
    other["spec"]["settings"] = json!({"nestedVirtualization": {"enabled": false}});
    world.objects.push(other);
    world.vm("default", "a", &[("nested-virt", "enabled")]);
    let printed = world.run(&["cluster"]);
    assert_eq!(printed.code, 2);
    assert!(printed.stderr.contains("vm-feature-manager, other; name one of them with --policy"), "{}", printed.stderr);
    let printed = world.run(&["cluster", "--policy", "other"]);
    let row = "a nested-virt nothing nested-virt: the setting nestedVirtualization.enabled is false";
    assert_eq!(printed.row("a"), row);
}

#[test]
fn settings_that_are_not_valid_are_told() {
    let mut world = World::harvester();
    world.first("ClusterAdmissionPolicy")["spec"]["settings"] = json!({"configSource": "x"});
    let printed = world.run(&["cluster"]);
    assert_eq!(printed.code, 2);
    assert!(
        printed.stderr.starts_with("error: the settings of the policy vm-feature-manager: setting configSource"),
        "{}",
        printed.stderr
    );
}
