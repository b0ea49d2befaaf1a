//! The module and the cluster: what the module finds, and its messages if it finds nothing.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rstest::rstest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vmfm::cluster::{Cluster, Faults, granted_by};
use vmfm::host::Evaluation;
use vmfm::yaml;

use vm_feature_manager_testkit::evaluated;

use crate::harness::{HOST, message, patch, request, root, vm};

fn cluster() -> Cluster {
    Cluster::from_folder(&root().join("examples/harvester/cluster")).unwrap()
}

fn with_metadata() -> Faults {
    granted_by(&yaml::read(&root().join("metadata.yml")).unwrap()[0])
}

/// Evaluates the VM in a cluster with faults. A call that does not return in time fails the test.
fn evaluate(vm: Value, settings: Value, faults: Faults) -> Evaluation {
    let host = HOST.with_cluster(cluster().with_faults(faults));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(host.validate(&settings, &request(vm, None)));
    });
    receiver.recv_timeout(Duration::from_secs(60)).expect("the policy returns")
}

fn metadata() -> Vec<(String, String)> {
    with_metadata().granted.unwrap()
}

fn denying(kind: &str) -> Faults {
    Faults { denied: vec![kind.to_owned()], ..with_metadata() }
}

const THREE: &[(&str, &str)] = &[
    ("nested-virt", "enabled"),
    ("pci-passthrough", r#"{"devices": ["0000:01:00.0"]}"#),
    ("gpu-device-plugin", "nvidia.com/GRID_T4-1Q"),
];

fn settings() -> Value {
    json!({"gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"]}})
}

/// A VM with three features that must run on the node.
fn on_node(node: &str) -> Value {
    let mut vm = vm(THREE);
    vm["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    vm
}

#[test]
fn all_features_on_harvester() {
    let evaluation = evaluate(on_node("node1"), settings(), with_metadata());
    let domain = "/spec/template/spec/domain";
    let annotations = "/metadata/annotations/vm-feature-manager.io~1";
    assert_eq!(
        patch(&evaluation),
        json!([
            {"op": "add", "path": format!("{annotations}gpu-device-plugin-applied"), "value": "nvidia.com/GRID_T4-1Q"},
            {"op": "add", "path": format!("{annotations}nested-virt-applied"), "value": "true"},
            {"op": "add", "path": format!("{annotations}pci-passthrough-applied"), "value": r#"["0000:01:00.0"]"#},
            {"op": "add", "path": "/spec/template/metadata/annotations/vm-feature-manager.io~1record", "value": concat!(
                r#"{"pci-passthrough":{"value":"{\"devices\": [\"0000:01:00.0\"]}","added":["#,
                r#"{"hostDevice":"node1-000001000","resource":"nvidia.com/TU104GL_TESLA_T4","beside":["node1-000000020"]},"#,
                r#"{"hostDevice":"node1-000001001","resource":"nvidia.com/TU104_HD_AUDIO_CONTROLLER","beside":["node1-000000020"]}]},"#,
                r#""gpu-device-plugin":{"value":"nvidia.com/GRID_T4-1Q","added":[{"gpu":"gpu-0","resource":"nvidia.com/GRID_T4-1Q","#,
                r#""beside":["node1-000000020","node1-000001000","node1-000001001"]}]},"#,
                r#""nested-virt":{"value":"enabled","added":[{"cpuFeature":"vmx"}]}}"#,
            )},
            {"op": "add", "path": format!("{domain}/cpu/features"), "value": [{"name": "vmx", "policy": "require"}]},
            {"op": "add", "path": format!("{domain}/devices/gpus"), "value": [{
                "name": "gpu-0", "deviceName": "nvidia.com/GRID_T4-1Q",
            }]},
            {"op": "add", "path": format!("{domain}/devices/hostDevices/1"), "value": {
                "name": "node1-000001000", "deviceName": "nvidia.com/TU104GL_TESLA_T4",
            }},
            {"op": "add", "path": format!("{domain}/devices/hostDevices/2"), "value": {
                "name": "node1-000001001", "deviceName": "nvidia.com/TU104_HD_AUDIO_CONTROLLER",
            }},
        ])
    );
    // The host device that is no PCIDevice keeps Harvester from adding the sound card.
    let warnings = evaluation.response.warnings.join(" ");
    assert!(warnings.contains("enable them in Harvester: node1-000001001"), "{warnings}");
    let gets = operations(&evaluation).into_iter().take_while(|operation| *operation == "get_resource").count();
    assert_eq!((gets, operations(&evaluation).len()), (5, 13), "{:?}", operations(&evaluation));
}

#[test]
fn lists_are_made_where_no_node_is_known() {
    let settings = json!({"nestedVirtualization": {"cpuVendor": "intel"}});
    let evaluation = evaluate(vm(&THREE[..2]), settings, with_metadata());
    assert!(evaluation.response.allowed);
    let (can_i, list) = ("can_i", "list_resources_all");
    let get = "get_resource";
    assert_eq!(operations(&evaluation), [get, can_i, can_i, list, can_i, can_i, list, get, get]);
    let review = &evaluation.activity.lookups()[2].1["subject_access_review"];
    assert_eq!(review["user"], "system:serviceaccount:kubewarden:policy-server");
    assert_eq!(review["resource_attributes"]["verb"], "watch");
    assert_eq!(review["resource_attributes"]["resource"], "pcidevices");
    assert_eq!(review["resource_attributes"]["group"], "devices.harvesterhci.io");
}

fn operations(evaluation: &Evaluation) -> Vec<&str> {
    evaluation.activity.lookups().into_iter().map(|(operation, _)| operation).collect()
}

#[rstest]
#[case::no_directive(vm(&[]), vm(&[]))]
#[case::no_change_of_ours(evaluated(vm(THREE)), evaluated(vm(THREE)))]
fn nothing_is_looked_up_where_nothing_is_to_be_done(#[case] old: Value, #[case] mut new: Value) {
    new["metadata"]["finalizers"] = json!(["x"]);
    let evaluation = HOST.with_cluster(cluster()).validate(&json!({}), &request(new, Some(old)));
    assert!(evaluation.response.allowed);
    assert!(evaluation.activity.lookups().is_empty());
}

#[test]
fn the_metadata_declares_exactly_what_is_used() {
    let any_node = vm(THREE);
    let usb = vm(&[("usb-passthrough", r#"{"devices": ["1050:0407"]}"#)]);
    let owned = json!({"usbPassthrough": {"requireClaimOwner": true}});
    let with_usb = Cluster::from_folder(&root().join("examples/usb-passthrough/cluster")).unwrap();
    let with_usb = HOST.with_cluster(with_usb.with_faults(with_metadata()));
    let reads_secrets = json!({"userData": {"enabled": true, "readSecrets": true}});
    let runs = [
        evaluate(on_node("node1"), settings(), with_metadata()),
        evaluate(any_node, settings(), with_metadata()),
        evaluate(vm(&[("vbios-injection", "igpu-rom")]), settings(), with_metadata()),
        evaluate(vm(&[]), reads_secrets, with_metadata()),
        with_usb.validate(&owned, &request(usb, None)),
    ];
    let lookups = || runs.iter().flat_map(|run| run.activity.lookups());
    let mut operations: Vec<String> = lookups().map(|(operation, _)| format!("kubernetes/{operation}")).collect();
    operations.sort();
    operations.dedup();
    let declared = &yaml::read(&root().join("metadata.yml")).unwrap()[0];
    assert_eq!(json!(operations), declared["hostCapabilities"]);

    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut kinds: Vec<(String, String)> = lookups()
        .filter(|(operation, _)| *operation != "can_i")
        .map(|(_, request)| (text(&request["api_version"]), text(&request["kind"])))
        .collect();
    kinds.sort();
    kinds.dedup();
    let mut granted = metadata();
    granted.sort();
    assert_eq!(kinds, granted);
}

/// All requests to the host during a few evaluations, by operation.
fn requests() -> Vec<(String, Value)> {
    let reads_secrets = json!({"userData": {"enabled": true, "readSecrets": true}});
    let runs = [
        evaluate(vm(THREE), settings(), with_metadata()),
        evaluate(vm(&[("vbios-injection", "igpu-rom")]), settings(), with_metadata()),
        evaluate(vm(&[]), reads_secrets, with_metadata()),
    ];
    let lookups = runs.iter().flat_map(|run| run.activity.lookups());
    lookups.map(|(operation, request)| (operation.to_owned(), request.clone())).collect()
}

/// The requests are those that the SDK's types read and write.
#[test]
fn requests_are_those_of_the_sdk() {
    use kubewarden_policy_sdk::host_capabilities::kubernetes::{
        CanIRequest, GetResourceRequest, ListAllResourcesRequest,
    };
    fn again<T: Serialize + DeserializeOwned>(request: &Value) -> Value {
        let typed: T = serde_json::from_value(request.clone()).unwrap_or_else(|e| panic!("{request}: {e}"));
        json!(typed)
    }
    /// Without null members, which the SDK writes and the host treats as absent, and with sorted lists.
    fn plain(value: Value) -> Value {
        match value {
            Value::Object(members) => {
                let members = members.into_iter().filter(|(_, value)| !value.is_null());
                members.map(|(key, value)| (key, plain(value))).collect()
            }
            Value::Array(mut items) => {
                items.sort_by_key(Value::to_string);
                Value::Array(items)
            }
            other => other,
        }
    }
    let requests = requests();
    for operation in ["get_resource", "list_resources_all", "can_i"] {
        assert!(requests.iter().any(|(found, _)| found == operation), "no {operation}");
    }
    for (operation, request) in requests {
        let of_sdk = match operation.as_str() {
            "get_resource" => again::<GetResourceRequest>(&request),
            "list_resources_all" => again::<ListAllResourcesRequest>(&request),
            "can_i" => again::<CanIRequest>(&request),
            other => panic!("{other} is no operation of the SDK's"),
        };
        assert_eq!(plain(of_sdk), plain(request), "{operation}");
    }
}

/// The kinds that Kubernetes itself serves have the same names as in its API.
#[test]
fn kinds_are_those_of_kubernetes() {
    use k8s_openapi::Resource;
    use k8s_openapi::api::authorization::v1::SubjectAccessReview;
    use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
    fn of<T: Resource>() -> [&'static str; 2] {
        [T::API_VERSION, T::KIND]
    }
    let known = [of::<ConfigMap>(), of::<Node>(), of::<Secret>(), of::<SubjectAccessReview>()];
    let declared = metadata();
    for [api_version, kind] in known {
        let is_it = |(found_version, found): &(String, String)| found == kind && found_version == api_version;
        assert!(declared.iter().any(is_it), "{api_version} {kind}");
    }
    let reviewed: Vec<Value> =
        requests().into_iter().filter(|(operation, _)| operation == "can_i").map(|(_, r)| r).collect();
    let of_nodes = |review: &&Value| review["subject_access_review"]["resource_attributes"]["group"] == "";
    let resources: Vec<&Value> = reviewed
        .iter()
        .filter(of_nodes)
        .map(|review| &review["subject_access_review"]["resource_attributes"]["resource"])
        .collect();
    assert!(!resources.is_empty());
    assert!(resources.iter().all(|resource| *resource == Node::URL_PATH_SEGMENT), "{resources:?}");
}

/// The question whether the requester may read the ROM has the form of the SDK, and the requester's groups.
#[test]
fn a_requester_is_reviewed_by_name() {
    use kubewarden_policy_sdk::host_capabilities::kubernetes::CanIRequest;
    let settings = json!({"vbiosInjection": {"requireUserAccess": true}});
    let cluster = Cluster::from_folder(&root().join("examples/vbios/cluster")).unwrap();
    let example = yaml::read(&root().join("examples/vbios/vm.yaml")).unwrap().remove(0);
    let mut review = request(example, None);
    review["userInfo"] = json!({"username": "alice", "groups": ["team-a", "system:authenticated"]});
    let evaluation = HOST.with_cluster(cluster).validate(&settings, &review);
    assert!(evaluation.response.allowed, "{:?}", evaluation.response.status);
    let (_, asked) = evaluation.activity.lookups().into_iter().find(|(operation, _)| *operation == "can_i").unwrap();
    let asked: CanIRequest = serde_json::from_value(asked.clone()).unwrap();
    let review = asked.subject_access_review;
    assert_eq!((review.user.as_str(), review.groups.unwrap().len()), ("alice", 2));
    let attributes = review.resource_attributes;
    assert_eq!((attributes.verb.as_str(), attributes.resource.as_str()), ("get", "configmaps"));
    assert_eq!((attributes.namespace.as_deref(), attributes.name.as_deref()), (Some("default"), Some("igpu-rom")));
}

const LIST_OF_NODES: &str = "the service account kubewarden:policy-server, which may not list and watch nodes";

#[rstest]
#[case::nodes(
    denying("Node"),
    on_node("node1"),
    "the service account kubewarden:policy-server, which may not get nodes"
)]
#[case::nodes_by_list(denying("Node"), vm(&THREE[..1]), LIST_OF_NODES)]
#[case::claims(
    denying("PCIDeviceClaim"),
    on_node("node1"),
    "which may not get pcideviceclaims.devices.harvesterhci.io; have an administrator run: kubectl create clusterrolebinding"
)]
#[case::claims_by_list(denying("PCIDeviceClaim"), vm(&THREE[1..2]), "which may not list and watch pcideviceclaims")]
#[case::pci_devices(denying("PCIDevice"), on_node("node1"), "which may not get pcidevices.devices")]
#[case::pci_devices_by_list(denying("PCIDevice"), vm(&THREE[1..2]), "which may not list and watch pcidevices.devices")]
#[case::offline(Faults { offline: true, ..with_metadata() }, on_node("node1"), "looking up nodes failed for now")]
#[case::offline_by_list(
    Faults { offline: true, ..with_metadata() },
    vm(&THREE[1..2]),
    "looking up pcidevices.devices.harvesterhci.io failed for now; try again later"
)]
#[case::not_in_the_metadata(
    Faults { granted: Some(vec![]), ..Faults::default() },
    on_node("node1"),
    "does not list v1 Node under spec.contextAwareResources"
)]
#[case::old_host_without_can_i(
    Faults { unknown_operations: vec!["can_i".to_owned()], ..with_metadata() },
    vm(&THREE[..1]),
    "have an administrator install Kubewarden 1.27 or later"
)]
#[case::config_map(
    denying("ConfigMap"),
    vm(&[("vbios-injection", "igpu-rom")]),
    "the ConfigMap igpu-rom cannot be read: the policy reads the cluster as the service account kubewarden:policy-server, \
     which may not get configmaps in the namespace default; have an administrator run: kubectl create role"
)]
#[case::no_config_map(
    with_metadata(),
    vm(&[("vbios-injection", "igpu-rom")]),
    "there is no ConfigMap igpu-rom in the namespace default"
)]
#[case::no_capability(
    Faults { capabilities: Some(vec![]), ..with_metadata() },
    on_node("node1"),
    "Kubewarden does not let the policy look up nodes"
)]
#[case::no_such_node(with_metadata(), on_node("node9"), "there is no node node9 (chosen by the VirtualMachine)")]
fn a_lookup_that_fails_is_an_error_of_one_line_in_the_policys_words(
    #[case] faults: Faults,
    #[case] vm: Value,
    #[case] part: &str,
) {
    let evaluation = evaluate(vm, settings(), faults);
    let message = message(&evaluation);
    assert!(message.contains(part), "{message}");
    assert_eq!(evaluation.response.status.as_ref().unwrap().code, Some(400));
    for leak in ["Caused by", "Status {", "ServiceError", "system:serviceaccount"] {
        assert!(!message.contains(leak), "{message}");
    }
}

/// Rancher and Kubewarden's own charts install Kubewarden into different namespaces. If only the other account has the
/// permissions, a list would never return.
#[rstest]
#[case::nodes(vm(&THREE[..1]))]
#[case::pci_devices(vm(&THREE[1..2]))]
#[case::node_by_name(on_node("node1"))]
fn an_account_without_rights_is_named_and_the_command_that_grants_them(#[case] vm: Value) {
    let account = "system:serviceaccount:cattle-kubewarden-system:policy-server";
    let faults = Faults { account: Some(account.to_owned()), denies_all: true, ..with_metadata() };
    let evaluation = evaluate(vm, settings(), faults);
    let message = message(&evaluation);
    for part in [
        "as the service account cattle-kubewarden-system:policy-server, which may not ",
        "run: kubectl create clusterrolebinding vm-feature-manager-cattle-kubewarden-system \
         --clusterrole=vm-feature-manager --serviceaccount=cattle-kubewarden-system:policy-server",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[rstest]
#[case::not_in_the_metadata(Faults {
    granted: Some(metadata().into_iter().filter(|(_, kind)| kind != "PCIDevice").collect()), ..Faults::default()
})]
#[case::old_host_without_can_i(Faults { unknown_operations: vec!["can_i".to_owned()], ..with_metadata() })]
fn an_address_is_an_error_if_the_policy_cannot_ask_for_pci_devices(#[case] faults: Faults) {
    let evaluation = evaluate(vm(&THREE[1..2]), settings(), faults);
    let message = message(&evaluation);
    assert!(message.contains("0000:01:00.0 is an address, but without Harvester"), "{message}");
}

#[test]
fn on_a_cluster_without_harvester_pci_devices_are_those_that_kubevirt_permits() {
    let host = HOST.with_cluster(Cluster::from_folder(&root().join("examples/kubevirt/cluster")).unwrap());
    let vm = vm(&[("pci-passthrough", r#"{"devices": ["1002:1638"]}"#)]);
    let settings = json!({"kubevirt": {"namespace": "kubevirt"}});
    let evaluation = host.validate(&settings, &request(vm, None));
    assert_eq!(patch(&evaluation)[2]["value"], json!({"name": "pci-device-0", "deviceName": "amd.com/CEZANNE"}));
}

#[test]
fn kubevirt_that_may_not_be_read_leaves_a_limit_and_a_warning() {
    for faults in [denying("KubeVirt"), Faults { offline: true, ..with_metadata() }] {
        let evaluation = evaluate(vm(&THREE[2..]), settings(), faults);
        assert_eq!(patch(&evaluation)[2]["value"], "1");
        let warnings = evaluation.response.warnings.join(" ");
        assert!(warnings.contains("permittedHostDevices cannot be read: "), "{warnings}");
    }
}

#[test]
fn slow_answers_are_waited_for() {
    let faults = Faults { delay: Duration::from_millis(50), ..with_metadata() };
    let evaluation = evaluate(on_node("node1"), settings(), faults);
    assert!(evaluation.response.allowed);
    assert_eq!(evaluation.response.audit_annotations["applied"].split(',').count(), 3);
}

#[test]
fn the_host_really_hangs_on_a_list_without_the_right_to_it() {
    let cluster = cluster().with_faults(denying("Node"));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let request = json!({"api_version": "v1", "kind": "Node"}).to_string();
        sender.send(cluster.answer("list_resources_all", request.as_bytes()).is_ok())
    });
    assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
}
