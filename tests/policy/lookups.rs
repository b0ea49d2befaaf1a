//! Which lookups the policy makes, and what it checks before it lists.

use kubewarden_policy_sdk::host_capabilities::kubernetes::{CanIRequest, GetResourceRequest, ListAllResourcesRequest};
use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{
    Account, Cluster, ClusterError, Kind, NODE, PCI_DEVICE, SUBJECT_ACCESS_REVIEW,
};

use super::harness::{KUBEWARDEN, MemoryCluster, RANCHER, Request, bare_vm, evaluated, fixtures, vm};

fn harvester() -> MemoryCluster {
    MemoryCluster::of(fixtures("../../examples/harvester/cluster/cluster.yaml"))
}

const THREE: &[(&str, &str)] = &[
    ("nested-virt", "enabled"),
    ("cpu-vendor", "intel"),
    ("pci-passthrough", r#"{"devices": ["0000:01:00.0"]}"#),
    ("gpu-device-plugin", "nvidia.com/gpu"),
];

#[test]
fn a_vm_with_three_features_takes_six() {
    let answer = Request::create(bare_vm(THREE)).cluster(harvester()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(
        answer.lookups,
        [WHO_AM_I, "list PCIDevice", "list PCIDeviceClaim", "get Node node1", "get KubeVirt kubevirt", "list Node"]
    );
}

#[test]
fn a_vm_whose_node_is_known_takes_two_more() {
    let mut vm = bare_vm(&[THREE[0], THREE[2], THREE[3]]);
    vm["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node1"});
    let answer = Request::create(vm).cluster(harvester()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(
        answer.lookups,
        [
            "get Node node1",
            "get PCIDevice node1-000001000",
            "get PCIDeviceClaim node1-000001000",
            WHO_AM_I,
            "list PCIDevice",
            "get PCIDeviceClaim node1-000001001",
            "get KubeVirt kubevirt",
            "list Node",
        ]
    );
}

#[rstest]
#[case::no_directive(vm(&[]), vm(&[]))]
#[case::nothing_of_ours_changed(evaluated(vm(THREE)), evaluated(vm(THREE)))]
fn there_are_none_where_nothing_is_to_be_done(#[case] old: Value, #[case] mut new: Value) {
    new["spec"]["runStrategy"] = json!("Halted");
    let answer = Request::update(old, new.clone()).cluster(harvester()).evaluate();
    answer.assert_accepted_unchanged();
    assert_eq!(answer.lookups, Vec::<String>::new());
    assert_eq!(answer.reviews, Vec::<String>::new());
}

#[rstest]
#[case::switched_off(("nested-virt", "disabled"), json!({}))]
#[case::feature_off(("pci-passthrough", "x"), json!({"pciPassthrough": {"enabled": false}}))]
#[case::bad_value(("pci-passthrough", "x"), json!({}))]
#[case::vendor_in_the_settings(("nested-virt", "enabled"), json!({"nestedVirtualization": {"cpuVendor": "amd"}}))]
#[case::not_allowed(("gpu-device-plugin", "other/gpu"), json!({}))]
fn there_are_none_that_the_directive_does_not_need(#[case] directive: (&str, &str), #[case] settings: Value) {
    let request = Request::create(bare_vm(&[directive])).settings(settings);
    assert_eq!(request.cluster(harvester()).evaluate().lookups, Vec::<String>::new());
}

pub const WHO_AM_I: &str = "get SubjectAccessReview this-refusal-is-expected.vm-feature-manager.io";
pub const IS_IT_SERVED: &str = "get PCIDevice this-absence-is-expected.vm-feature-manager.io";

/// The settings name a different account than the API server.
#[test]
fn before_a_list_the_rights_of_the_account_that_asks_are_reviewed() {
    let settings = json!({"policyServer": {"serviceAccount": "mine", "namespace": "guard"}});
    let cluster = harvester().run_as(RANCHER, RANCHER);
    let answer = Request::create(bare_vm(&[THREE[2]])).settings(settings).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let lookups = [WHO_AM_I, "list PCIDevice", "list PCIDeviceClaim", "get Node node1", "get KubeVirt kubevirt"];
    assert_eq!(answer.lookups, lookups);
    let reviews = [
        "list pcidevices.devices.harvesterhci.io",
        "watch pcidevices.devices.harvesterhci.io",
        "list pcideviceclaims.devices.harvesterhci.io",
        "watch pcideviceclaims.devices.harvesterhci.io",
    ];
    assert_eq!(answer.reviews, reviews.map(|review| format!("{RANCHER} {review}")));
}

/// An administrator may even read what can only be created, so the API server does not name the account.
#[test]
fn an_account_that_is_not_named_is_that_of_the_settings() {
    let settings = json!({"policyServer": {"serviceAccount": "mine", "namespace": "guard"}});
    let admin = "system:serviceaccount:guard:mine";
    let cluster = || harvester().failing(&SUBJECT_ACCESS_REVIEW, ClusterError::Unsupported);
    let ask = |cluster| {
        let request = Request::create(bare_vm(&[THREE[2]])).settings(settings.clone());
        request.cluster(cluster).evaluate()
    };
    let answer = ask(cluster().run_as(admin, admin));
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.reviews[0], format!("{admin} list pcidevices.devices.harvesterhci.io"));
    ask(cluster().run_as(KUBEWARDEN, KUBEWARDEN)).assert_denied(&["guard:mine"]);
}

/// The permissions belong to another account, as in an installation of Kubewarden in another namespace.
#[rstest]
#[case::rancher(RANCHER, KUBEWARDEN, "cattle-kubewarden-system")]
#[case::kubewarden(KUBEWARDEN, RANCHER, "kubewarden")]
fn rights_of_another_account_do_not_count(
    #[case] account: &'static str,
    #[case] granted: &'static str,
    #[case] namespace: &str,
    #[values(("nested-virt", "enabled"), THREE[2], ("pci-passthrough", r#"{"devices": ["node1/0000:01:00.0"]}"#))]
    directive: (&str, &str),
) {
    let cluster = harvester().run_as(account, granted);
    let answer = Request::create(bare_vm(&[directive])).cluster(cluster).evaluate();
    answer.assert_denied(&[
        &format!("the policy reads the cluster as the service account {namespace}:policy-server, which may not "),
        &format!(
            "have an administrator run: kubectl create clusterrolebinding vm-feature-manager-{namespace} \
             --clusterrole=vm-feature-manager --serviceaccount={namespace}:policy-server"
        ),
    ]);
}

/// If the policy cannot prove that a list returns, it does not list.
#[rstest]
#[case::no_can_i(&SUBJECT_ACCESS_REVIEW, ClusterError::NotOffered, "Kubewarden 1.27 or later")]
#[case::not_declared(&SUBJECT_ACCESS_REVIEW, ClusterError::NotDeclared, "SubjectAccessReview")]
#[case::unavailable(&SUBJECT_ACCESS_REVIEW, ClusterError::Unavailable, "failed for now")]
#[case::nobody_named(&SUBJECT_ACCESS_REVIEW, ClusterError::Forbidden(None), "nodes")]
#[case::nothing_denied(&SUBJECT_ACCESS_REVIEW, ClusterError::NotFound, "nodes")]
fn without_an_account_nothing_is_listed(#[case] kind: &'static Kind, #[case] error: ClusterError, #[case] part: &str) {
    let cluster = harvester().failing(kind, error).run_as("alice", "alice");
    let answer = Request::create(bare_vm(&[THREE[0]])).cluster(cluster).evaluate();
    answer.assert_denied(&[part]);
    assert_eq!(answer.lookups, [WHO_AM_I]);
    assert_eq!(answer.reviews, Vec::<String>::new());
}

#[rstest]
fn without_that_right_nothing_is_listed(
    #[values("list", "watch")] verb: &'static str,
    #[values((&NODE, ("nested-virt", "enabled")), (&PCI_DEVICE, THREE[2]))] case: (&'static Kind, (&str, &str)),
) {
    let (kind, directive) = case;
    let request = Request::create(bare_vm(&[directive]));
    let answer = request.cluster(harvester().without(verb, kind)).evaluate();
    assert!(!answer.lookups.iter().any(|lookup| lookup.starts_with("list")), "{:?}", answer.lookups);
    answer.assert_denied(&["which may not list and watch "]);
}

/// The host builds a URL from a name.
#[rstest]
#[case::path("../configmaps/x")]
#[case::upper_case("Node1")]
#[case::control_character("node1\u{c}")]
#[case::long(&"x".repeat(1 << 16))]
fn a_name_that_no_object_can_have_is_not_looked_up(#[case] name: &str) {
    let mut vm = bare_vm(&[THREE[0], ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#)]);
    vm["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": name});
    vm["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": name}}}]);
    let settings = json!({"userData": {"enabled": true, "readSecrets": true}});
    let answer = Request::create(vm).settings(settings).cluster(harvester()).evaluate();
    assert!(!answer.lookups.iter().any(|lookup| lookup.contains(name)), "{:?}", answer.lookups);
    answer.assert_denied(&["no node that fits the VirtualMachine's node selector", "there is no node "]);
    let message = answer.message();
    assert!(!message.replace('\n', "").contains(char::is_control), "{message}");
    assert!(message.len() < 10_000);
}

#[rstest]
#[case::no_object("[]")]
#[case::no_answer("{}")]
#[case::text("\"x\"")]
#[case::no_json("x")]
#[case::cut_off("{\"items\": [")]
#[case::deep(
    "{\"metadata\": {\"labels\": DEEP}, \"items\": DEEP, \"status\": DEEP, \"spec\": {\"configuration\": DEEP}}"
)]
fn an_answer_that_is_not_as_expected_is_no_trap(#[case] answer: &str) {
    struct Odd(String);

    impl Cluster for Odd {
        fn get(&self, request: &GetResourceRequest) -> Odds {
            match request.kind.as_str() {
                "SubjectAccessReview" => Err(ClusterError::Forbidden(Account::of_user("policy-server"))),
                _ => Ok(self.0.clone().into_bytes()),
            }
        }

        fn list(&self, _: &ListAllResourcesRequest) -> Odds {
            Ok(self.0.clone().into_bytes())
        }

        fn can_i(&self, _: &CanIRequest) -> Odds {
            Ok(json!({"allowed": true}).to_string().into_bytes())
        }
    }

    type Odds = Result<Vec<u8>, ClusterError>;

    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let cluster = Odd(answer.replace("DEEP", &deep));
    let log = slog::Logger::root(slog::Discard, slog::o!());
    for vm in [bare_vm(&THREE[1..]), bare_vm(&[THREE[0]]), {
        let mut vm = bare_vm(&[THREE[0], THREE[2], THREE[3]]);
        vm["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node1"});
        vm
    }] {
        let payload = json!({"request": Request::create(vm).request}).to_string();
        let bytes = vm_feature_manager_policy::validate(payload.as_bytes(), &cluster, &log);
        let response: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(response["accepted"].is_boolean());
    }
}
