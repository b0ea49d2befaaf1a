//! A virtual machine's life through the module: directives are added, changed and removed, from each source.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_testkit::{RECORD, features};
use vmfm::cluster::{Cluster, Faults, granted_by};
use vmfm::yaml;

use crate::harness::{HOST, request, root, vm};

const PREFIX: &str = "vm-feature-manager.io/";

/// The first values of directives for which the reference's example does not work here. All other directives have the example.
const FIRST: [(&str, &str); 2] = [
    ("pci-passthrough", r#"{"devices":["node2/0000:05:00.0"]}"#),
    ("usb-passthrough", r#"{"devices":["node2/046d:c52b"]}"#),
];

/// The second values of directives. All others do not change.
const SECOND: [(&str, &str); 6] = [
    ("pci-passthrough", r#"{"devices":["node2/05:00.0"]}"#),
    ("usb-passthrough", r#"{"devices":["046d:c52b"]}"#),
    ("gpu-device-plugin", "nvidia.com/gpu=2"),
    ("nested-virt", "yes"),
    ("cpu-pinning", "yes"),
    ("hugepages", "1Gi"),
];

fn settings(source: &str, tracking: bool) -> Value {
    json!({
        "addTrackingAnnotations": tracking,
        "configSource": if source == "labels" { "labels" } else { "annotations" },
        "userData": {"enabled": true, "readSecrets": source == "secret"},
        "nestedVirtualization": {"cpuVendor": "amd"},
    })
}

fn cluster(user_data: Option<&str>) -> Cluster {
    let mut cluster = Cluster::from_folder(&root().join("examples/workstation/cluster")).unwrap();
    if let Some(text) = user_data {
        cluster.add(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "seed", "namespace": "default"},
            "data": {"userdata": STANDARD.encode(text)},
        }));
    }
    cluster
}

fn user_data(directives: &[(&str, &str)]) -> String {
    let lines = directives.iter().map(|(name, value)| format!("  {}: '{value}'\n", name.replace('-', "_")));
    format!("#cloud-config\nx_kubevirt_features:\n{}", lines.collect::<String>())
}

/// The VM with the directives in the source, and the user data for its Secret.
fn with_directives(vm: &Value, source: &str, directives: &[(&str, &str)]) -> (Value, Option<String>) {
    let mut vm = vm.clone();
    let volumes = &mut vm["spec"]["template"]["spec"]["volumes"];
    let text = user_data(directives);
    let cloud_init = match source {
        "userData" => json!({"cloudInitNoCloud": {"userData": text}}),
        "userDataBase64" => {
            json!({"cloudInitConfigDrive": {"userDataBase64": STANDARD.encode(text)}})
        }
        "secret" => {
            // The VM changes, too, because a change of its Secret alone causes no request.
            vm["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(text.len());
            let volume = json!({"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}});
            vm["spec"]["template"]["spec"]["volumes"] = json!([volume]);
            return (vm, Some(text));
        }
        _ => {
            let own = vm["metadata"][source].as_object_mut().unwrap();
            own.retain(|key, _| !key.starts_with(PREFIX) || key.ends_with("-applied"));
            own.extend(directives.iter().map(|(k, v)| (format!("{PREFIX}{k}"), json!(v))));
            return (vm, None);
        }
    };
    *volumes = json!([{"name": "seed"}]);
    volumes[0].as_object_mut().unwrap().extend(cloud_init.as_object().unwrap().clone());
    (vm, None)
}

/// The VM after the request. The policy evaluates it twice; the second time, nothing may change.
fn evaluate(source: &str, tracking: bool, (vm, text): (Value, Option<String>), old: Option<Value>) -> Value {
    let settings = settings(source, tracking);
    let faults = granted_by(&yaml::read(&root().join("metadata.yml")).unwrap()[0]);
    let host = HOST.with_cluster(cluster(text.as_deref()).with_faults(faults));
    let request_of = |vm: &Value| request(vm.clone(), old.clone());
    let first = host.validate(&settings, &request_of(&vm)).response;
    assert!(first.allowed, "{:?}", first.status);
    let after = first.patched(&vm).unwrap();
    let again = host.validate(&settings, &request_of(&after)).response;
    assert_eq!(again.patched(&after).unwrap(), after, "the second time");
    after
}

/// The parts of a VM that features change.
fn changed_part(vm: &Value) -> Value {
    let mut template = vm["spec"]["template"].clone();
    template["metadata"]["annotations"].as_object_mut().unwrap().remove(RECORD);
    json!({
        "domain": template["spec"]["domain"],
        "nodeSelector": template["spec"]["nodeSelector"],
        "annotations": template["metadata"]["annotations"],
        "applied": vm["metadata"]["annotations"].as_object().unwrap().keys().filter(|k| k.ends_with("-applied")).count(),
    })
}

#[rstest]
fn directives_come_change_and_go(
    #[values("annotations", "labels", "userData", "userDataBase64", "secret")] source: &str,
    #[values(true, false)] tracking: bool,
    #[values(true, false)] comes_with_the_vm: bool,
) {
    let (first, second) = (features::directives_but(&FIRST), features::directives_but(&SECOND));
    let mut plain = vm(&[]);
    plain["spec"]["template"]["spec"]["domain"]["devices"].as_object_mut().unwrap().remove("hostDevices");
    let old = (!comes_with_the_vm).then(|| with_directives(&plain, source, &[]).0);
    let before = changed_part(&plain);

    let stored = evaluate(source, tracking, with_directives(&plain, source, &first), old);
    let applied = changed_part(&stored);
    let domain = &applied["domain"];
    assert_eq!(domain["cpu"]["features"], json!([{"name": "svm", "policy": "require"}]));
    assert_eq!(domain["cpu"]["dedicatedCpuPlacement"], true);
    assert_eq!(domain["cpu"]["numa"], json!({"guestMappingPassthrough": {}}));
    assert_eq!(domain["memory"]["hugepages"]["pageSize"], "2Mi");
    assert_eq!(domain["devices"]["hostDevices"].as_array().unwrap().len(), 2);
    assert_eq!(domain["resources"]["limits"]["nvidia.com/gpu"], "1");
    assert_eq!(applied["nodeSelector"], json!({"kubernetes.io/hostname": "node2"}));
    assert!(applied["annotations"]["hooks.kubevirt.io/hookSidecars"].is_string());
    assert_eq!(applied["applied"], json!(if tracking { first.len() } else { 0 }));

    let changed = evaluate(source, tracking, with_directives(&stored, source, &second), Some(stored.clone()));
    let mut expected = applied.clone();
    expected["domain"]["resources"]["limits"]["nvidia.com/gpu"] = json!("2");
    expected["domain"]["memory"]["hugepages"]["pageSize"] = json!("1Gi");
    assert_eq!(changed_part(&changed), expected);

    let gone = evaluate(source, tracking, with_directives(&changed, source, &[]), Some(changed.clone()));
    assert_eq!(changed_part(&gone), before);
    assert_eq!(gone["spec"]["template"]["metadata"]["annotations"][RECORD], Value::Null);
}

#[test]
fn the_example_of_a_node_driver_is_mutated_by_its_user_data() {
    let folder = root().join("examples/user-data");
    let vm = yaml::read(&folder.join("vm.yaml")).unwrap().remove(0);
    let settings = yaml::read(&folder.join("settings.yaml")).unwrap().remove(0);
    let host = HOST.with_cluster(Cluster::from_folder(&folder.join("cluster")).unwrap());
    let evaluation = host.validate(&settings, &request(vm.clone(), None));
    assert_eq!(evaluation.response.audit_annotations["applied"], "pci-passthrough,nested-virt");
    let after = evaluation.response.patched(&vm).unwrap();
    let domain = &after["spec"]["template"]["spec"]["domain"];
    assert_eq!(domain["cpu"]["features"][0]["name"], "vmx");
    assert_eq!(domain["devices"]["hostDevices"][0]["name"], "node1-000000020");
    // If the setting is off, the VM asks for nothing.
    let evaluation = host.validate(&json!({}), &request(vm, None));
    assert_eq!(evaluation.response.patch, None);
}

#[test]
fn a_secret_that_may_not_be_read_is_a_warning() {
    let (vm, _) = with_directives(&vm(&[]), "secret", &[]);
    let faults = Faults { denied: vec!["Secret".to_owned()], ..Faults::default() };
    let host = HOST.with_cluster(cluster(Some("#cloud-config\n")).with_faults(faults));
    let response = host.validate(&settings("secret", true), &request(vm, None)).response;
    assert!(response.allowed && response.patch.is_none());
    let warnings = response.warnings.join(" ");
    assert!(warnings.contains("which may not get secrets in the namespace default"), "{warnings}");
}
