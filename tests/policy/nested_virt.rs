//! Directive `nested-virt`.

use rstest::rstest;
use serde_json::{Value, json};

use vm_feature_manager_policy::cluster::{ClusterError, NODE};

use super::harness::{MemoryCluster, Request, bare_vm, vm};

/// A minimal VM that asks for nested virtualization, with its own `spec.template.spec`.
fn vm_with_spec(spec: Value) -> Value {
    let mut vm = bare_vm(&[("nested-virt", "enabled")]);
    vm["spec"]["template"]["spec"] = spec;
    vm
}

fn vm_with_cpu(cpu: Value) -> Value {
    vm_with_spec(json!({"domain": {"devices": {}, "cpu": cpu}}))
}

fn require(feature: &str) -> Value {
    json!([{"name": feature, "policy": "require"}])
}

#[rstest]
fn on(#[values("enabled", "true", "yes", "on", "1", "Enabled", "TRUE", " yes\n")] value: &str) {
    let answer = Request::create(vm(&[("nested-virt", value), ("cpu-vendor", "amd")])).evaluate();
    assert!(answer.is_accepted());
    let record = format!(
        r#"{{"nested-virt":{{"value":"{}","options":{{"cpu-vendor":"amd"}},"added":[{{"cpuFeature":"svm"}}]}}}}"#,
        value.trim()
    );
    assert_eq!(
        answer.patch(),
        json!([
            {"op": "add", "path": "/metadata/annotations/vm-feature-manager.io~1nested-virt-applied", "value": "true"},
            {"op": "add", "path": "/spec/template/metadata/annotations/vm-feature-manager.io~1record", "value": record},
            {"op": "add", "path": "/spec/template/spec/domain/cpu/features", "value": require("svm")},
        ])
    );
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
fn off(#[values("disabled", "false", "no", "off", "0", "", "Disabled", "  ")] value: &str) {
    Request::create(vm(&[("nested-virt", value)])).evaluate().assert_accepted_unchanged();
}

#[rstest]
fn anything_else_is_an_error(#[values("2", "enable", "svm", "{}")] value: &str) {
    let answer = Request::create(vm(&[("nested-virt", value)])).evaluate();
    let quoted = format!("annotation vm-feature-manager.io/nested-virt: {value:?}");
    answer.assert_denied(&["nested-virt", &quoted, "must be enabled or disabled"]);
}

#[rstest]
#[case::option("amd", json!({"cpuVendor": "intel"}), json!({"model": "Haswell"}), "svm")]
#[case::option_in_upper_case("Intel", json!({}), json!({}), "vmx")]
#[case::option_auto("auto", json!({"cpuVendor": "intel"}), json!({}), "vmx")]
#[case::option_empty("", json!({"cpuVendor": "intel"}), json!({}), "vmx")]
#[case::setting("", json!({"cpuVendor": "amd"}), json!({"model": "Haswell"}), "svm")]
#[case::model_of_intel("", json!({}), json!({"model": "Skylake-Server-noTSX-IBRS"}), "vmx")]
#[case::model_of_amd("", json!({}), json!({"model": "EPYC-Rome"}), "svm")]
fn the_vendor_is_of_the_first_that_answers(
    #[case] option: &str,
    #[case] settings: Value,
    #[case] cpu: Value,
    #[case] feature: &str,
) {
    let mut vm = vm_with_cpu(cpu);
    vm["metadata"]["annotations"]["vm-feature-manager.io/cpu-vendor"] = json!(option);
    let answer = Request::create(vm).settings(json!({"nestedVirtualization": settings})).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require(feature), "{}", answer.message());
}

#[rstest]
#[case::vendor_amd("cpu-vendor.node.kubevirt.io/AMD", "svm")]
#[case::vendor_intel("cpu-vendor.node.kubevirt.io/Intel", "vmx")]
#[case::feature_svm("cpu-feature.node.kubevirt.io/svm", "svm")]
#[case::feature_vmx("cpu-feature.node.kubevirt.io/vmx", "vmx")]
fn the_node_selector_tells_the_vendor(#[case] key: &str, #[case] feature: &str) {
    let vm = vm_with_spec(json!({"nodeSelector": {key: "true"}, "domain": {}}));
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require(feature));
}

#[rstest]
#[case::other_features(
    json!([{"name": "pcid"}]),
    json!([{"name": "pcid"}, {"name": "svm", "policy": "require"}])
)]
#[case::empty(json!([]), require("svm"))]
#[case::null(json!(null), require("svm"))]
#[case::same_feature(json!([{"name": "svm"}]), json!([{"name": "svm"}]))]
#[case::same_feature_optional(
    json!([{"name": "svm", "policy": "optional"}]),
    json!([{"name": "svm", "policy": "optional"}])
)]
#[case::the_other_vendors_too(
    json!([{"name": "vmx", "policy": "optional"}]),
    json!([{"name": "vmx", "policy": "optional"}, {"name": "svm", "policy": "require"}])
)]
fn features_are_appended_and_kept(#[case] before: Value, #[case] after: Value) {
    let mut vm = vm_with_cpu(json!({"features": before}));
    vm["metadata"]["annotations"]["vm-feature-manager.io/cpu-vendor"] = json!("amd");
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], after);
    assert_eq!(answer.annotation("nested-virt-applied").as_deref(), Some("true"));
}

#[rstest]
fn a_feature_that_contradicts_is_an_error(#[values("forbid", "disable")] policy: &str) {
    let mut vm = vm_with_cpu(json!({"features": [{"name": "vmx", "policy": policy}]}));
    vm["metadata"]["annotations"]["vm-feature-manager.io/cpu-vendor"] = json!("intel");
    let answer = Request::create(vm).evaluate();
    answer.assert_denied(&["vmx", policy, "remove that entry or the directive"]);
}

#[test]
fn a_forbidden_feature_says_nothing_of_the_vendor() {
    let vm = vm_with_cpu(json!({
        "model": "EPYC", "features": [{"name": "vmx", "policy": "forbid"}],
    }));
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"][1]["name"], "svm");
}

#[rstest]
#[case::features_and_model(json!({"cpu": {"model": "Haswell", "features": [{"name": "svm"}]}}))]
#[case::features(json!({"cpu": {"features": [{"name": "svm"}, {"name": "vmx"}]}}))]
fn a_vm_of_both_vendors_is_an_error(#[case] domain: Value) {
    let answer = Request::create(vm_with_spec(json!({"domain": domain}))).evaluate();
    answer.assert_denied(&["both AMD and Intel", "pin the VirtualMachine", "cpu-vendor"]);
}

#[rstest]
fn an_option_that_is_no_vendor_is_an_error(#[values("arm", "AuthenticAMD")] option: &str) {
    let answer = Request::create(vm(&[("nested-virt", "1"), ("cpu-vendor", option)])).evaluate();
    answer.assert_denied(&["vm-feature-manager.io/cpu-vendor", option, "write amd, intel, any or auto"]);
}

const AMD: &[&str] = &["cpu-vendor.node.kubevirt.io/AMD", "cpu-feature.node.kubevirt.io/svm"];
const INTEL: &[&str] = &["cpu-vendor.node.kubevirt.io/Intel", "zone-b"];
const UNLABELED: &[&str] = &[];

/// A required node affinity with one term of these expressions.
fn affinity(expressions: Value) -> Value {
    let terms = json!([{"matchExpressions": expressions}]);
    json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}})
}

#[rstest]
#[case::all_of_one(&[("a", AMD), ("b", AMD), ("c", UNLABELED)], json!({}), "svm")]
#[case::selected_by_label(&[("a", AMD), ("b", INTEL)], json!({"zone-b": "true"}), "vmx")]
#[case::selected_by_name(&[("a", AMD), ("b", INTEL)], json!({"kubernetes.io/hostname": "a"}), "svm")]
fn the_nodes_tell_the_vendor(#[case] nodes: &[(&str, &[&str])], #[case] selector: Value, #[case] feature: &str) {
    let cluster = MemoryCluster::with_nodes(nodes);
    let vm = vm_with_spec(json!({"nodeSelector": selector, "domain": {}}));
    let answer = Request::create(vm).cluster(cluster).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require(feature), "{}", answer.message());
}

#[rstest]
#[case::both(&[("a", AMD), ("b", INTEL)], json!({}), "nodes that the VirtualMachine may run on")]
#[case::none_labeled(&[("a", UNLABELED)], json!({}), "node labeller")]
#[case::none_selected(&[("a", AMD)], json!({"zone-b": "true"}), "no node that fits")]
#[case::no_such_node(&[("a", AMD)], json!({"kubernetes.io/hostname": "x"}), "the cluster has no node that fits")]
fn nodes_that_do_not_tell_are_an_error(#[case] nodes: &[(&str, &[&str])], #[case] selector: Value, #[case] part: &str) {
    let vm = vm_with_spec(json!({"nodeSelector": selector, "domain": {}}));
    let answer = Request::create(vm).cluster(MemoryCluster::with_nodes(nodes)).evaluate();
    answer.assert_denied(&["nested-virt", part, "vm-feature-manager.io/cpu-vendor"]);
}

#[test]
fn without_access_to_nodes_the_error_says_what_to_set_or_grant() {
    let answer = Request::create(vm(&[("nested-virt", "enabled")])).evaluate();
    answer.assert_denied(&[
        "the ClusterAdmissionPolicy does not list authorization.k8s.io/v1 SubjectAccessReview",
        "vm-feature-manager.io/cpu-vendor",
        "nestedVirtualization.cpuVendor",
        "add {apiVersion: authorization.k8s.io/v1, kind: SubjectAccessReview} to that list",
    ]);
}

#[rstest]
#[case::features(json!({"domain": {"cpu": {"features": "svm"}}}), "domain.cpu.features is a string")]
#[case::cpu(json!({"domain": {"cpu": 4}}), "domain.cpu is a number where KubeVirt expects an object")]
#[case::model(json!({"domain": {"cpu": {"model": []}}}), "domain.cpu.model is a list")]
#[case::domain(json!({"domain": []}), "spec.template.spec.domain is a list")]
#[case::node_selector(json!({"nodeSelector": "x"}), "spec.template.spec.nodeSelector is a string")]
#[case::spec(json!(true), "spec.template.spec is a boolean")]
#[case::no_spec(json!(null), "spec.template.spec is missing")]
fn a_vm_of_wrong_types_is_an_error_that_says_where(#[case] spec: Value, #[case] part: &str) {
    let settings = json!({"nestedVirtualization": {"cpuVendor": "auto"}});
    let mut vm = vm_with_spec(spec);
    let cluster = MemoryCluster::with_nodes(&[("a", AMD)]);
    let answer = Request::create(vm.clone()).settings(settings).cluster(cluster).evaluate();
    answer.assert_denied(&[part]);

    // Parts that the policy does not read do not matter.
    vm["spec"]["template"]["spec"] = json!({"domain": {"cpu": {}}, "volumes": 1, "networks": "x"});
    vm["metadata"]["annotations"]["vm-feature-manager.io/cpu-vendor"] = json!("amd");
    assert!(Request::create(vm).evaluate().is_accepted());
}

#[rstest]
#[case::one_value(affinity(json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}])), "get Node b")]
#[case::two_values(affinity(json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b", "c"]}])), "list Node")]
#[case::by_another_label(affinity(json!([{"key": "zone-b", "operator": "In", "values": ["true"]}])), "list Node")]
#[case::two_expressions(
    affinity(json!([
        {"key": "zone-b", "operator": "In", "values": ["true"]},
        {"key": "cpumanager", "operator": "NotIn", "values": ["x"]},
    ])),
    "list Node"
)]
fn required_node_affinity_selects_nodes(#[case] affinity: Value, #[case] lookup: &str) {
    let cluster = MemoryCluster::with_nodes(&[("a", AMD), ("b", INTEL), ("c", INTEL)]);
    let vm = vm_with_spec(json!({"affinity": {"nodeAffinity": affinity}, "domain": {}}));
    let answer = Request::create(vm).cluster(cluster).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require("vmx"), "{}", answer.message());
    assert_eq!(answer.lookups.last().map(String::as_str), Some(lookup));
}

#[test]
fn of_several_terms_one_is_enough() {
    let terms = json!([
        {"matchExpressions": [{"key": "zone-b", "operator": "In", "values": ["true"]}]},
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]},
    ]);
    let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    let cluster = MemoryCluster::with_nodes(&[("a", AMD), ("b", INTEL)]);
    let vm = vm_with_spec(json!({"affinity": {"nodeAffinity": affinity}, "domain": {}}));
    Request::create(vm).cluster(cluster).evaluate().assert_denied(&["both AMD and Intel"]);
}

#[rstest]
#[case::arm64("arm64")]
#[case::s390x("s390x")]
fn another_architecture_is_an_error(#[case] architecture: &str) {
    let vm = vm_with_spec(json!({"architecture": architecture, "domain": {}}));
    let settings = json!({"nestedVirtualization": {"cpuVendor": "amd"}});
    let answer = Request::create(vm).settings(settings).evaluate();
    answer.assert_denied(&[
        architecture,
        "the VirtualMachine is of the architecture",
        "run the VirtualMachine on amd64",
    ]);
}

#[test]
fn nodes_of_another_architecture_do_not_count() {
    let node = |name: &str, architecture: &str, labels: &[&str]| {
        let mut node = json!({"kind": "Node", "metadata": {"name": name, "labels": {}}});
        node["metadata"]["labels"]["kubernetes.io/arch"] = json!(architecture);
        labels.iter().for_each(|label| node["metadata"]["labels"][label] = json!("true"));
        node
    };
    let cluster = MemoryCluster::of(vec![node("a", "arm64", INTEL), node("b", "amd64", AMD)]);
    let answer = Request::create(vm_with_spec(json!({"domain": {}}))).cluster(cluster).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require("svm"), "{}", answer.message());

    let cluster = MemoryCluster::of(vec![node("a", "arm64", &[])]);
    let answer = Request::create(vm_with_spec(json!({"domain": {}}))).cluster(cluster).evaluate();
    answer.assert_denied(&["all nodes that the VirtualMachine may run on are", "arm64"]);
}

#[test]
fn nodes_without_the_extension_are_a_warning() {
    let vendor_only = &["cpu-vendor.node.kubevirt.io/AMD"];
    let cluster = MemoryCluster::with_nodes(&[("a", vendor_only)]);
    let answer = Request::create(vm_with_spec(json!({"domain": {}}))).cluster(cluster).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require("svm"));
    assert_eq!(answer.warnings().len(), 1);
    assert!(answer.warnings()[0].contains("cpu-feature.node.kubevirt.io/svm=true"));

    let cluster = MemoryCluster::with_nodes(&[("a", vendor_only), ("b", AMD)]);
    let answer = Request::create(vm_with_spec(json!({"domain": {}}))).cluster(cluster).evaluate();
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
#[case::forbidden(ClusterError::Forbidden(None), "the account that policy-server runs as may not get nodes")]
#[case::unavailable(ClusterError::Unavailable, "looking up nodes failed for now")]
fn a_node_that_cannot_be_read_is_an_error(#[case] error: ClusterError, #[case] part: &str) {
    let vm = vm_with_spec(json!({"nodeSelector": {"kubernetes.io/hostname": "a"}, "domain": {}}));
    let cluster = MemoryCluster::with_nodes(&[("a", AMD)]).failing(&NODE, error);
    let answer = Request::create(vm).cluster(cluster).evaluate();
    answer.assert_denied(&[part, "vm-feature-manager.io/cpu-vendor"]);
}
