//! Directive `nested-virt`.

use rstest::rstest;
use serde_json::{Value, json};

use vm_feature_manager_policy::cluster::{ClusterError, NODE};

use super::harness::{MemoryCluster, Request, annotate, bare_vm, vm};

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
#[case::option_before_the_setting_any("amd", json!({"cpuVendor": "any"}), json!({}), "svm")]
#[case::model_of_intel("", json!({}), json!({"model": "Skylake-Server-noTSX-IBRS"}), "vmx")]
#[case::model_of_amd("", json!({}), json!({"model": "EPYC-Rome"}), "svm")]
#[case::model_of_an_intel_atom("", json!({}), json!({"model": "Snowridge"}), "vmx")]
#[case::model_in_lower_case("", json!({}), json!({"model": "sapphirerapids"}), "vmx")]
#[case::model_of_hygon("", json!({}), json!({"model": "Dhyana"}), "svm")]
#[case::model_of_zhaoxin("", json!({}), json!({"model": "YongFeng"}), "vmx")]
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
#[case::forced_feature(json!({"cpu": {"features": [{"name": "svm"}, {"name": "vmx", "policy": "force"}]}}))]
fn a_vm_of_both_vendors_is_an_error(#[case] domain: Value) {
    let answer = Request::create(vm_with_spec(json!({"domain": domain}))).evaluate();
    answer.assert_denied(&["both AMD and Intel", "pin the VirtualMachine", "cpu-vendor"]);
}

/// No vendor helps: KubeVirt selects a node by each required feature, and no node has both.
#[rstest]
fn a_vm_that_requires_both_extensions_is_an_error(#[values("", "any", "amd", "auto")] option: &str) {
    let mut vm = vm_with_cpu(json!({"features": [{"name": "svm"}, {"name": "vmx", "policy": "require"}]}));
    annotate(&mut vm, &[("cpu-vendor", option)]);
    let answer = Request::create(vm).evaluate();
    answer.assert_denied(&["cpu.features requires svm and vmx, and no node has both; remove one of them"]);
    assert!(!answer.message().contains("any"), "{}", answer.message());
}

#[rstest]
fn an_option_that_is_no_vendor_is_an_error(#[values("arm", "AuthenticAMD")] option: &str) {
    let answer = Request::create(vm(&[("nested-virt", "1"), ("cpu-vendor", option)])).evaluate();
    answer.assert_denied(&["vm-feature-manager.io/cpu-vendor", option, "write amd, intel, any or auto"]);
}

const AMD: &[&str] = &["cpu-vendor.node.kubevirt.io/AMD", "cpu-feature.node.kubevirt.io/svm"];
const INTEL: &[&str] = &["cpu-vendor.node.kubevirt.io/Intel", "zone-b"];
const UNLABELED: &[&str] = &[];
/// An AMD CPU, with a KVM module that does not nest.
const WITHOUT_NESTING: &[&str] = &["cpu-vendor.node.kubevirt.io/AMD"];

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

    for option in ["auto", "amd", "any"] {
        let mut vm = vm_with_spec(json!({"domain": {}}));
        annotate(&mut vm, &[("cpu-vendor", option)]);
        let answer = Request::create(vm).cluster(MemoryCluster::of(vec![node("a", "arm64", &[])])).evaluate();
        answer.assert_denied(&["all nodes that the VirtualMachine may run on are", "arm64"]);
    }
}

#[test]
fn nodes_without_the_extension_are_a_warning() {
    let cluster = MemoryCluster::with_nodes(&[("a", WITHOUT_NESTING)]);
    let answer = Request::create(vm_with_spec(json!({"domain": {}}))).cluster(cluster).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require("svm"));
    assert_eq!(answer.warnings().len(), 1);
    assert!(answer.warnings()[0].contains("cpu-feature.node.kubevirt.io/svm=true"));

    let cluster = MemoryCluster::with_nodes(&[("a", WITHOUT_NESTING), ("b", AMD)]);
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

fn mixed() -> MemoryCluster {
    MemoryCluster::with_nodes(&[
        ("a", &["cpu-vendor.node.kubevirt.io/AMD", "cpu-feature.node.kubevirt.io/svm"]),
        ("b", &["cpu-vendor.node.kubevirt.io/Intel", "cpu-feature.node.kubevirt.io/vmx"]),
    ])
}

fn optional(features: &[&str]) -> Value {
    features.iter().map(|name| json!({"name": name, "policy": "optional"})).collect()
}

/// The CPU features of a VM that has these and this placement, in a cluster of these nodes.
fn features(cpu: Value, placement: Value, nodes: &[(&str, &[&str])]) -> Value {
    let mut spec = placement;
    spec["domain"]["cpu"] = cpu;
    let answer = Request::create(vm_with_spec(spec)).cluster(MemoryCluster::with_nodes(nodes)).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.annotation("nested-virt-applied").as_deref(), Some("true"));
    answer.domain()["cpu"]["features"].clone()
}

/// Forklift writes both for an imported VM. Each works on the nodes that have it, so there is nothing to choose.
#[rstest]
#[case::any_node(json!({}))]
#[case::selector(json!({"nodeSelector": {"cpu-vendor.node.kubevirt.io/Intel": "true"}}))]
#[case::affinity(json!({"affinity": {"nodeAffinity": affinity(json!([
    {"key": "cpu-feature.node.kubevirt.io/svm", "operator": "Exists"},
]))}}))]
#[case::no_nodes_of_a_vendor(json!({"nodeSelector": {"kubernetes.io/hostname": "c"}}))]
fn both_features_as_optional_stay_as_they_are(#[case] placement: Value) {
    let nodes: &[(&str, &[&str])] = &[("a", AMD), ("b", INTEL), ("c", UNLABELED)];
    for order in [["vmx", "svm"], ["svm", "vmx"]] {
        let cpu = json!({"model": "host-passthrough", "features": optional(&order)});
        assert_eq!(features(cpu, placement.clone(), nodes), optional(&order));
    }
}

/// An optional feature does not keep the VM from nodes without it.
#[rstest]
#[case::of_the_other_vendor("vmx", AMD, json!([{"name": "vmx", "policy": "optional"}, {"name": "svm", "policy": "require"}]))]
#[case::of_this_vendor("svm", AMD, optional(&["svm"]))]
#[case::on_intel("svm", INTEL, json!([{"name": "svm", "policy": "optional"}, {"name": "vmx", "policy": "require"}]))]
fn one_optional_feature_names_no_vendor(#[case] feature: &str, #[case] node: &[&str], #[case] after: Value) {
    assert_eq!(features(json!({"features": optional(&[feature])}), json!({}), &[("a", node)]), after);
    let vm = vm_with_cpu(json!({"features": optional(&[feature])}));
    Request::create(vm.clone()).cluster(mixed()).evaluate().assert_denied(&["both AMD and Intel"]);
    Request::create(vm)
        .evaluate()
        .assert_denied(&["the policy cannot determine whether to add svm (AMD) or vmx (Intel)"]);
}

#[rstest]
#[case::model(
    json!({"model": "Snowridge", "features": optional(&["svm"])}),
    json!([{"name": "svm", "policy": "optional"}, {"name": "vmx", "policy": "require"}])
)]
#[case::required(json!({"features": [{"name": "vmx"}]}), json!([{"name": "vmx"}]))]
#[case::forced(json!({"features": [{"name": "vmx", "policy": "force"}]}), json!([{"name": "vmx", "policy": "force"}]))]
fn what_names_a_vendor_counts_before_the_nodes(#[case] cpu: Value, #[case] after: Value) {
    assert_eq!(features(cpu, json!({}), &[("a", AMD)]), after);
}

/// KubeVirt makes a node selector of each required feature (`nodeselectorrenderer.go:180-190`), and no node has both.
#[rstest]
#[case::required("amd", json!({}), "require", true)]
#[case::no_policy("amd", json!({}), "", true)]
#[case::setting("", json!({"cpuVendor": "amd"}), "require", true)]
#[case::forced("amd", json!({}), "force", false)]
#[case::optional("amd", json!({}), "optional", false)]
#[case::disabled("amd", json!({}), "disable", false)]
#[case::any("any", json!({}), "require", false)]
fn a_feature_of_the_vendor_that_is_not_named(
    #[case] option: &str,
    #[case] settings: Value,
    #[case] policy: &str,
    #[case] is_error: bool,
) {
    let mut vm = vm_with_cpu(json!({"features": [{"name": "vmx", "policy": policy}]}));
    annotate(&mut vm, &[("cpu-vendor", option)]);
    let answer = Request::create(vm).settings(json!({"nestedVirtualization": settings})).evaluate();
    if is_error {
        let who = if option.is_empty() { "nestedVirtualization.cpuVendor says AMD" } else { "cpu-vendor says AMD" };
        answer.assert_denied(&[
            who,
            "requires vmx, a feature of CPUs by Intel",
            "no node has both svm and vmx",
            "or any",
        ]);
    } else {
        assert!(answer.is_accepted(), "{}", answer.message());
    }
}

/// A VM with Hyper-V's enlightened VMCS, with which KubeVirt requires `vmx` (`pkg/defaults/hyperv.go`, `setEVMCSDependency`).
fn vm_with_evmcs(evmcs: Value, features: Value, option: &str) -> Value {
    let domain = json!({"features": {"hyperv": {"evmcs": evmcs}}, "cpu": {"features": features}});
    let mut vm = vm_with_spec(json!({"domain": domain}));
    annotate(&mut vm, &[("cpu-vendor", option)]);
    vm
}

#[rstest]
#[case::empty(json!({}), "", "vmx")]
#[case::enabled(json!({"enabled": true}), "", "vmx")]
#[case::null(json!({"enabled": null}), "", "vmx")]
#[case::any_vendor(json!({}), "any", "vmx")]
#[case::intel(json!({}), "intel", "vmx")]
#[case::disabled(json!({"enabled": false}), "amd", "svm")]
fn evmcs_names_intel(#[case] evmcs: Value, #[case] option: &str, #[case] feature: &str) {
    let answer = Request::create(vm_with_evmcs(evmcs, json!([]), option)).cluster(mixed()).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require(feature), "{}", answer.message());
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[test]
fn evmcs_that_is_off_names_no_vendor() {
    let vm = vm_with_evmcs(json!({"enabled": false}), json!([]), "");
    Request::create(vm).cluster(mixed()).evaluate().assert_denied(&["both AMD and Intel"]);
}

/// KubeVirt makes `require` of another policy.
#[test]
fn evmcs_selects_nodes_although_vmx_is_optional() {
    let vm = vm_with_evmcs(json!({}), optional(&["vmx"]), "");
    let answer = Request::create(vm).cluster(mixed()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["cpu"]["features"], optional(&["vmx"]));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
fn evmcs_without_a_node_of_intel_is_a_warning(#[values("", "any")] option: &str) {
    let cluster = MemoryCluster::with_nodes(&[("a", AMD)]);
    let answer = Request::create(vm_with_evmcs(json!({}), json!([]), option)).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert!(
        answer
            .warnings()
            .join(" ")
            .contains("so the VirtualMachine will not be scheduled; none of them has a CPU by Intel")
    );
}

#[rstest]
#[case::option("amd", json!({}), json!([]), "domain.features.hyperv.evmcs requires vmx, a feature of CPUs by Intel, but the option vm-feature-manager.io/cpu-vendor says AMD")]
#[case::setting("", json!({"cpuVendor": "amd"}), json!([]), "nestedVirtualization.cpuVendor says AMD")]
#[case::feature("any", json!({}), require("svm"), "domain.cpu.features and features.hyperv.evmcs require svm and vmx, and no node has both")]
fn evmcs_with_the_other_vendor_is_an_error(
    #[case] option: &str,
    #[case] settings: Value,
    #[case] features: Value,
    #[case] part: &str,
) {
    let request = Request::create(vm_with_evmcs(json!({}), features, option)).cluster(mixed());
    request.settings(json!({"nestedVirtualization": settings})).evaluate().assert_denied(&[part]);
}

const SKYLAKE: &[&str] = &["cpu-feature.node.kubevirt.io/vmx", "cpu-model.node.kubevirt.io/Skylake-Server-v4"];
const NEHALEM_ON_AMD: &[&str] = &["cpu-feature.node.kubevirt.io/svm", "cpu-model.node.kubevirt.io/Nehalem"];

/// KubeVirt also selects nodes by the label of the model. AMD's CPUs can run simple models of Intel.
#[rstest]
#[case::no_node_has_the_model("Skylake-Server-v4", &[("a", AMD)], true)]
#[case::only_a_node_of_the_other_vendor("Skylake-Server-v4", &[("a", AMD), ("b", SKYLAKE)], true)]
#[case::a_node_has_the_model("Nehalem", &[("a", NEHALEM_ON_AMD)], false)]
#[case::of_the_vendor("EPYC", &[("a", AMD)], false)]
#[case::of_no_vendor("host-model", &[("a", AMD)], false)]
fn a_model_of_the_vendor_that_is_not_named_is_a_warning(
    #[case] model: &str,
    #[case] nodes: &[(&str, &[&str])],
    #[case] warns: bool,
) {
    let mut vm = vm_with_cpu(json!({"model": model}));
    annotate(&mut vm, &[("cpu-vendor", "amd")]);
    let answer = Request::create(vm).cluster(MemoryCluster::with_nodes(nodes)).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require("svm"), "{}", answer.message());
    let warnings = answer.warnings().join(" ");
    let part = format!("cpu.model is \"{model}\", a CPU by Intel, but svm is a feature of CPUs by AMD");
    assert_eq!(warnings.contains(&part), warns, "{warnings}");
    assert_eq!(warnings.is_empty(), !warns, "{warnings}");
}

const NEHALEM_ALONE: &[&str] = &["cpu-model.node.kubevirt.io/Nehalem"];
const NEHALEM_ON_INTEL: &[&str] = &["cpu-feature.node.kubevirt.io/vmx", "cpu-model.node.kubevirt.io/Nehalem"];
const OPTERON_ON_INTEL: &[&str] = &["cpu-vendor.node.kubevirt.io/Intel", "cpu-model.node.kubevirt.io/Opteron_G1"];

/// KubeVirt selects only nodes with the label of the model, which is `cpu-model.node.kubevirt.io/Nehalem` on AMD, too.
#[rstest]
#[case::intels_on_amd("Nehalem", &[("a", NEHALEM_ON_AMD)], "svm")]
#[case::amds_on_intel("Opteron_G1", &[("a", OPTERON_ON_INTEL)], "vmx")]
#[case::beside_nodes_without_the_model("Nehalem", &[("a", NEHALEM_ON_AMD), ("b", INTEL)], "svm")]
#[case::on_both("Nehalem", &[("a", NEHALEM_ON_AMD), ("b", NEHALEM_ON_INTEL)], "vmx")]
#[case::on_a_node_of_no_known_vendor("Nehalem", &[("a", NEHALEM_ALONE)], "vmx")]
#[case::on_no_node("Nehalem", &[("a", AMD)], "vmx")]
#[case::nodes_that_are_not_known("Nehalem", &[], "vmx")]
fn a_model_names_the_other_vendor_if_only_its_nodes_run_it(
    #[case] model: &str,
    #[case] nodes: &[(&str, &[&str])],
    #[case] feature: &str,
) {
    assert_eq!(features(json!({"model": model}), json!({}), nodes), require(feature));
}

#[test]
fn a_model_of_the_other_vendor_leaves_no_warning() {
    let cluster = MemoryCluster::with_nodes(&[("a", NEHALEM_ON_AMD)]);
    let answer = Request::create(vm_with_cpu(json!({"model": "Nehalem"}))).cluster(cluster).evaluate();
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// Nodes of the model's own vendor that come later change nothing of a VM that nobody asks about.
#[test]
fn what_the_nodes_of_a_model_said_stays() {
    let cluster = MemoryCluster::with_nodes(&[("a", NEHALEM_ON_AMD)]);
    let stored = Request::create(vm_with_cpu(json!({"model": "Nehalem"}))).cluster(cluster).evaluate().after();
    let both = || MemoryCluster::with_nodes(&[("a", NEHALEM_ON_AMD), ("b", NEHALEM_ON_INTEL)]);
    let update = |vm: Value| Request::update(stored.clone(), vm).cluster(both()).evaluate();
    let mut edited = stored.clone();
    edited["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(30);
    update(edited).assert_accepted_unchanged();
    let mut asked = stored.clone();
    annotate(&mut asked, &[("nested-virt", "yes")]);
    assert_eq!(update(asked).domain()["cpu"]["features"], require("vmx"));
}

#[rstest]
#[case::option("any", json!({}))]
#[case::option_in_upper_case("Any", json!({}))]
#[case::option_before_the_setting("any", json!({"cpuVendor": "amd"}))]
#[case::setting("", json!({"cpuVendor": "any"}))]
#[case::setting_with_the_option_auto("auto", json!({"cpuVendor": "any"}))]
fn any_vendor_gives_both_features_as_optional(#[case] option: &str, #[case] settings: Value) {
    let mut vm = vm_with_cpu(json!({"cores": 2}));
    annotate(&mut vm, &[("cpu-vendor", option)]);
    let settings = json!({"nestedVirtualization": settings});
    let answer = Request::create(vm.clone()).settings(settings.clone()).evaluate();
    assert_eq!(
        answer.domain()["cpu"],
        json!({"cores": 2, "features": optional(&["svm", "vmx"])}),
        "{}",
        answer.message()
    );
    let added = r#"[{"optionalCpuFeature":"svm"},{"optionalCpuFeature":"vmx"}]"#;
    assert_eq!(answer.added("nested-virt").as_deref(), Some(added));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    // If the administrator names it, no node is read.
    assert_eq!(answer.lookups.is_empty(), settings != json!({"nestedVirtualization": {}}));

    // The same directive again changes nothing, and without it the VM is as it was.
    let stored = answer.after();
    let mut next = stored.clone();
    next["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(30);
    Request::update(stored.clone(), next).settings(settings.clone()).evaluate().assert_accepted_unchanged();
    let mut without = stored.clone();
    without["metadata"]["annotations"] = json!({});
    let after = Request::update(stored, without).settings(settings).evaluate().after();
    assert_eq!(after["spec"], vm["spec"]);
}

#[rstest]
#[case::to_a_vendor("any", "amd", require("svm"))]
#[case::to_the_other("any", "intel", require("vmx"))]
#[case::from_a_vendor("intel", "any", optional(&["svm", "vmx"]))]
#[case::between_vendors("intel", "amd", require("svm"))]
fn another_vendor_replaces_what_was_added(#[case] from: &str, #[case] to: &str, #[case] after: Value) {
    let mut vm = vm_with_spec(json!({"domain": {}}));
    annotate(&mut vm, &[("cpu-vendor", from)]);
    let stored = Request::create(vm).cluster(mixed()).evaluate().after();
    let mut next = stored.clone();
    annotate(&mut next, &[("cpu-vendor", to)]);
    let answer = Request::update(stored, next).cluster(mixed()).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], after, "{}", answer.message());
}

#[rstest]
#[case::optional(json!([{"name": "vmx", "policy": "optional"}]), json!([{"name": "vmx", "policy": "optional"}, {"name": "svm", "policy": "optional"}]))]
#[case::required(json!([{"name": "vmx"}]), json!([{"name": "vmx"}, {"name": "svm", "policy": "optional"}]))]
#[case::both(optional(&["vmx", "svm"]), optional(&["vmx", "svm"]))]
fn any_vendor_keeps_the_users_features(#[case] before: Value, #[case] during: Value) {
    let mut vm = vm_with_cpu(json!({"features": before}));
    annotate(&mut vm, &[("cpu-vendor", "any")]);
    let stored = Request::create(vm).evaluate().after();
    let features = |vm: &Value| vm["spec"]["template"]["spec"]["domain"]["cpu"]["features"].clone();
    assert_eq!(features(&stored), during);
    let mut without = stored.clone();
    without["metadata"]["annotations"] = json!({});
    assert_eq!(features(&Request::update(stored, without).evaluate().after()), before);
}

#[rstest]
fn any_vendor_contradicts_a_forbidden_feature(#[values("svm", "vmx")] feature: &str) {
    let mut vm = vm_with_cpu(json!({"features": [{"name": feature, "policy": "forbid"}]}));
    annotate(&mut vm, &[("cpu-vendor", "any")]);
    Request::create(vm).evaluate().assert_denied(&[feature, "forbid", "remove that entry or the directive"]);
}

#[rstest]
#[case::no_node_of_the_vendor("intel", &[("a", AMD)], json!({}), "none of them has a CPU by Intel, so correct the vendor")]
#[case::only_elsewhere(
    "amd",
    &[("a", AMD), ("b", INTEL)],
    json!({"nodeSelector": {"kubernetes.io/hostname": "b"}}),
    "none of them has a CPU by AMD, so correct the vendor"
)]
#[case::not_enabled(
    "amd", &[("a", WITHOUT_NESTING)], json!({}), "have the node's KVM module loaded with nested=1"
)]
fn a_vendor_that_no_node_has_is_a_warning(
    #[case] option: &str,
    #[case] nodes: &[(&str, &[&str])],
    #[case] placement: Value,
    #[case] remedy: &str,
) {
    let mut spec = placement;
    spec["domain"] = json!({});
    let mut vm = vm_with_spec(spec);
    annotate(&mut vm, &[("cpu-vendor", option)]);
    let feature = if option == "amd" { "svm" } else { "vmx" };
    let answer = Request::create(vm.clone()).cluster(MemoryCluster::with_nodes(nodes)).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require(feature), "{}", answer.message());
    let warnings = answer.warnings().join(" ");
    let label = format!(
        "no node that the VirtualMachine may run on has the label cpu-feature.node.kubevirt.io/{feature}=true, so the \
         VirtualMachine will not be scheduled"
    );
    assert!(warnings.contains(&label) && warnings.contains(remedy), "{warnings}");

    // It is not known if the nodes cannot be read, and the administrator's setting needs no permission to read them.
    let forbidden = MemoryCluster::with_nodes(nodes).without("get", &NODE).without("list", &NODE);
    let answer = Request::create(vm.clone()).cluster(forbidden).evaluate();
    assert_eq!(answer.warnings(), Vec::<&str>::new());
    let settings = json!({"nestedVirtualization": {"cpuVendor": option}});
    let answer = Request::create(vm).cluster(MemoryCluster::with_nodes(nodes)).settings(settings).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require(feature));
    assert_eq!((answer.warnings(), answer.lookups.len()), (vec![], 0));
}

/// Whoever names the vendor.
#[rstest]
#[case::model(json!({"domain": {"cpu": {"model": "EPYC"}}}), true)]
#[case::feature(json!({"domain": {"cpu": {"features": [{"name": "svm"}]}}}), true)]
#[case::selector(json!({"nodeSelector": {"cpu-vendor.node.kubevirt.io/AMD": "true"}}), true)]
#[case::the_node(json!({"nodeSelector": {"kubernetes.io/hostname": "a"}}), true)]
#[case::a_feature_that_selects_no_node(json!({"domain": {"cpu": {"features": [{"name": "svm", "policy": "force"}]}}}), false)]
fn an_extension_that_no_node_has_is_a_warning(#[case] spec: Value, #[case] warns: bool) {
    let mut spec = spec;
    spec["domain"]["devices"] = json!({});
    for (extension, warns) in [(WITHOUT_NESTING, warns), (AMD, false)] {
        let cluster = MemoryCluster::with_nodes(&[("a", extension), ("b", INTEL)]);
        let answer = Request::create(vm_with_spec(spec.clone())).cluster(cluster).evaluate();
        assert_eq!(answer.domain()["cpu"]["features"][0]["name"], "svm", "{}", answer.message());
        let warnings = answer.warnings().join(" ");
        let is_warned =
            warnings.contains("cpu-feature.node.kubevirt.io/svm=true, so the VirtualMachine will not be scheduled");
        assert_eq!(is_warned, warns, "{warnings}");
    }
}

/// Features that are optional keep the VM from no node, but the guest may get neither.
#[rstest]
#[case::no_node(&[("a", WITHOUT_NESTING), ("b", INTEL)], json!({}), true)]
#[case::a_node(&[("a", AMD), ("b", INTEL)], json!({}), false)]
#[case::a_node_where_it_may_not_run(&[("a", AMD), ("b", INTEL)], json!({"kubernetes.io/hostname": "b"}), true)]
#[case::nodes_that_are_not_known(&[], json!({}), false)]
fn any_vendor_where_no_node_has_an_extension_is_a_warning(
    #[case] nodes: &[(&str, &[&str])],
    #[case] selector: Value,
    #[case] warns: bool,
    #[values("option", "the_vm_has_both")] by: &str,
) {
    let features = if by == "option" { json!([]) } else { optional(&["svm", "vmx"]) };
    let mut vm = vm_with_spec(json!({"nodeSelector": selector, "domain": {"cpu": {"features": features}}}));
    if by == "option" {
        annotate(&mut vm, &[("cpu-vendor", "any")]);
    }
    let answer = Request::create(vm).cluster(MemoryCluster::with_nodes(nodes)).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], optional(&["svm", "vmx"]), "{}", answer.message());
    let warnings = answer.warnings().join(" ");
    let part = "has the label cpu-feature.node.kubevirt.io/svm=true or cpu-feature.node.kubevirt.io/vmx=true, so the guest gets neither";
    assert_eq!((warnings.contains(part), warnings.is_empty()), (warns, !warns), "{warnings}");
}

/// KubeVirt keeps the VM from nodes that have a feature which it forbids (`template.go:175-185`).
#[rstest]
#[case::vmx("vmx", "svm")]
#[case::svm("svm", "vmx")]
fn a_feature_that_is_forbidden_leaves_the_other_vendor(#[case] forbidden: &str, #[case] added: &str) {
    let features = json!([{"name": forbidden, "policy": "forbid"}]);
    let vm = vm_with_spec(json!({"domain": {"cpu": {"features": features}}}));
    let answer = Request::create(vm).cluster(mixed()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["cpu"]["features"][1], json!({"name": added, "policy": "require"}));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// KubeVirt selects nodes only by features that are required (`nodeselectorrenderer.go:180-190`).
#[rstest]
#[case::both_vendors(&[("a", AMD), ("b", INTEL)], json!({}), true)]
#[case::only_the_other_vendor(&[("b", INTEL)], json!({}), true)]
#[case::one_without_nesting(&[("a", AMD), ("b", WITHOUT_NESTING)], json!({}), true)]
#[case::all_have_it(&[("a", AMD), ("b", AMD)], json!({}), false)]
#[case::the_only_node_for_it(&[("a", AMD), ("b", INTEL)], json!({"kubernetes.io/hostname": "a"}), false)]
#[case::nodes_that_are_not_known(&[], json!({}), false)]
fn an_entry_of_the_users_that_selects_no_node_is_a_warning(
    #[case] nodes: &[(&str, &[&str])],
    #[case] selector: Value,
    #[case] warns: bool,
    #[values("optional", "force")] policy: &str,
) {
    let features = json!([{"name": "svm", "policy": policy}]);
    let mut vm = vm_with_spec(json!({"nodeSelector": selector, "domain": {"cpu": {"features": features}}}));
    annotate(&mut vm, &[("cpu-vendor", "amd")]);
    let answer = Request::create(vm).cluster(MemoryCluster::with_nodes(nodes)).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], features, "{}", answer.message());
    let warnings = answer.warnings().join(" ");
    let part = format!(
        "nested-virt: spec.template.spec.domain.cpu.features has svm with the policy {policy}, so the VirtualMachine may also run on a \
         node without the label cpu-feature.node.kubevirt.io/svm=true"
    );
    assert_eq!((warnings.contains(&part), warnings.is_empty()), (warns, !warns), "{warnings}");
}

#[rstest]
#[case::auto("auto")]
#[case::the_vendor_of_one_node("amd")]
#[case::any("any")]
fn a_vendor_that_a_node_has_is_no_warning(#[case] option: &str) {
    let mut vm = vm_with_spec(json!({"nodeSelector": {"kubernetes.io/hostname": "a"}, "domain": {}}));
    annotate(&mut vm, &[("cpu-vendor", option)]);
    let answer = Request::create(vm).cluster(mixed()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

/// The VM itself says that it can run only on nodes of a vendor, so no node has to be read.
#[rstest]
#[case::is_true(json!([[{"operator": "In", "values": ["true"]}]]), true)]
#[case::exists(json!([[{"operator": "Exists"}]]), true)]
#[case::beside_another_expression(json!([[{"key": "rack", "operator": "Exists"}, {"operator": "Exists"}]]), true)]
#[case::in_every_term(json!([[{"operator": "Exists"}], [{"operator": "In", "values": ["true"]}]]), true)]
#[case::in_one_term(json!([[{"operator": "Exists"}], [{"key": "rack", "operator": "Exists"}]]), false)]
#[case::two_values(json!([[{"operator": "In", "values": ["true", "false"]}]]), false)]
#[case::is_false(json!([[{"operator": "In", "values": ["false"]}]]), false)]
#[case::does_not_exist(json!([[{"operator": "DoesNotExist"}]]), false)]
#[case::is_not_true(json!([[{"operator": "NotIn", "values": ["true"]}]]), false)]
#[case::no_term(json!([]), false)]
fn required_affinity_tells_the_vendor(
    #[case] terms: Value,
    #[case] tells: bool,
    #[values("cpu-vendor.node.kubevirt.io/Intel", "cpu-feature.node.kubevirt.io/vmx")] label: &str,
) {
    let mut terms = terms;
    for term in terms.as_array_mut().unwrap() {
        for expression in term.as_array_mut().unwrap() {
            let key = expression.get("key").cloned().unwrap_or(json!(label));
            expression["key"] = key;
        }
        *term = json!({"matchExpressions": term});
    }
    let affinity =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let answer = Request::create(vm_with_spec(json!({"affinity": affinity, "domain": {}}))).evaluate();
    assert_eq!(answer.is_accepted(), tells, "{}", answer.message());
    if tells {
        assert_eq!(answer.domain()["cpu"]["features"], require("vmx"));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }
}

#[rstest]
#[case::a_label_that_is_false(json!({"cpu-vendor.node.kubevirt.io/AMD": "false"}), json!(null), "cannot determine")]
#[case::labels_of_both(
    json!({"cpu-vendor.node.kubevirt.io/AMD": "true", "cpu-feature.node.kubevirt.io/vmx": "true"}), json!(null), "both AMD and Intel"
)]
#[case::label_and_affinity(
    json!({"cpu-vendor.node.kubevirt.io/AMD": "true"}),
    affinity(json!([{"key": "cpu-vendor.node.kubevirt.io/Intel", "operator": "Exists"}])),
    "both AMD and Intel"
)]
fn placement_that_names_no_vendor_or_both_is_an_error(
    #[case] selector: Value,
    #[case] affinity: Value,
    #[case] part: &str,
) {
    let affinity = json!({"nodeAffinity": affinity});
    let spec = json!({"nodeSelector": selector, "affinity": affinity, "domain": {}});
    Request::create(vm_with_spec(spec)).evaluate().assert_denied(&[part]);
}

#[rstest]
#[case::the_label_of_the_other_vendor("cpu-vendor.node.kubevirt.io/AMD", "DoesNotExist", json!(null))]
#[case::its_value("cpu-vendor.node.kubevirt.io/AMD", "NotIn", json!(["true"]))]
#[case::the_extension("cpu-feature.node.kubevirt.io/svm", "NotIn", json!(["true"]))]
#[case::the_hostname("kubernetes.io/hostname", "NotIn", json!(["a"]))]
fn affinity_that_excludes_a_vendor_leaves_the_other(#[case] key: &str, #[case] operator: &str, #[case] values: Value) {
    let affinity = affinity(json!([{"key": key, "operator": operator, "values": values}]));
    let vm = vm_with_spec(json!({"affinity": {"nodeAffinity": affinity}, "domain": {}}));
    let answer = Request::create(vm).cluster(mixed()).evaluate();
    assert_eq!(answer.domain()["cpu"]["features"], require("vmx"), "{}", answer.message());
}

/// QEMU's models of no vendor, and the modes that take the node's model.
#[rstest]
fn a_model_of_no_vendor_leaves_the_choice_to_the_nodes(
    #[values("qemu64", "kvm64", "486", "pentium3", "host-model", "host-passthrough", "max", "")] model: &str,
) {
    assert_eq!(features(json!({"model": model}), json!({}), &[("a", AMD)]), require("svm"));
    assert_eq!(features(json!({"model": model}), json!({}), &[("b", INTEL)]), require("vmx"));
}
