//! Which nodes a VirtualMachine may run on, and that every feature that looks at nodes counts only those.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, NODE, PCI_DEVICE, USB_DEVICE};

use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm};

/// A node of an Intel CPU, with these labels.
fn node(name: &str, labels: Value) -> Value {
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/arch": "amd64",
            "kubernetes.io/hostname": name,
            "kubevirt.io/schedulable": "true",
            "cpu-vendor.node.kubevirt.io/Intel": "true",
            "cpu-feature.node.kubevirt.io/vmx": "true",
        }},
    });
    for (key, value) in labels.as_object().unwrap() {
        node["metadata"]["labels"][key] = value.clone();
    }
    node
}

/// A VM that asks for a feature, with this placement.
fn vm(directive: (&str, &str), placement: &Value) -> Value {
    let mut vm = bare_vm(&[directive]);
    for (key, value) in placement.as_object().unwrap() {
        vm["spec"]["template"]["spec"][key] = value.clone();
    }
    vm
}

/// Required node affinity with these terms.
fn terms(terms: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
    }}})
}

fn expressions(expressions: Value) -> Value {
    terms(json!([{"matchExpressions": expressions}]))
}

fn fields(fields: Value) -> Value {
    terms(json!([{"matchFields": fields}]))
}

/// Settings of a cluster without Harvester.
fn plain() -> Value {
    json!({"kubevirt": {"namespace": "kubevirt"}})
}

/// Whether the VM may run on the only node of the cluster. A node that it may run on tells the CPU vendor.
fn may_run_on(node: Value, placement: &Value, settings: Value) -> bool {
    let request = Request::create(vm(("nested-virt", "enabled"), placement)).settings(settings);
    let answer = request.cluster(MemoryCluster::of(vec![node])).evaluate();
    if !answer.is_accepted() {
        answer.assert_denied(&["the cluster has no node that fits the VirtualMachine's"]);
    }
    answer.is_accepted()
}

/// Each value may be compared with every node, for every feature. The terms and their parts count, too.
#[rstest]
#[case::node_selector(998, |n| json!({"nodeSelector": (0..n).map(|i| (format!("a{i}"), json!("b"))).collect::<serde_json::Map<_, _>>()}))]
#[case::values_of_node_affinity(992, |n| expressions(json!([{"key": "a", "operator": "NotIn", "values": vec!["b"; n]}])))]
#[case::tolerations(499, |n| json!({"tolerations": vec![json!({"key": "a"}); n]}))]
fn more_than_the_policy_compares_is_an_error(#[case] most: usize, #[case] placement: fn(usize) -> Value) {
    let create = |n| {
        let request = Request::create(vm(("nested-virt", "enabled"), &placement(n)));
        request.cluster(MemoryCluster::of(vec![node("node1", json!({}))])).evaluate()
    };
    create(most + 2).assert_denied(&["has too many values", "the policy compares at most 1000 with every node"]);
    let answer = create(most);
    assert!(
        !answer.response["message"].as_str().unwrap_or_default().contains("too many values"),
        "{}",
        answer.response
    );
}

#[rstest]
#[case::in_a_list("In", json!(["6", "7"]), true)]
#[case::not_in_a_list("In", json!(["6", "8"]), false)]
#[case::in_a_list_of_none("In", json!([]), false)]
#[case::excluded("NotIn", json!(["6", "7"]), false)]
#[case::not_excluded("NotIn", json!(["6", "8"]), true)]
#[case::exists("Exists", json!(null), true)]
#[case::does_not_exist("DoesNotExist", json!(null), false)]
#[case::greater("Gt", json!(["6"]), true)]
#[case::not_greater("Gt", json!(["7"]), false)]
#[case::greater_as_a_number("Gt", json!(["-10"]), true)]
#[case::greater_than_no_number("Gt", json!(["low"]), false)]
#[case::greater_than_two("Gt", json!(["5", "6"]), false)]
#[case::less("Lt", json!(["10"]), true)]
#[case::not_less("Lt", json!(["7"]), false)]
#[case::less_than_nothing("Lt", json!([]), false)]
#[case::an_operator_in_lower_case("in", json!(["7"]), false)]
#[case::an_operator_that_nobody_knows("Near", json!(["7"]), false)]
fn an_expression_compares_the_value_of_a_label(
    #[case] operator: &str,
    #[case] values: Value,
    #[case] may_run: bool,
    #[values("rack", "kubernetes.io/hostname")] key: &str,
) {
    let placement = expressions(json!([{"key": key, "operator": operator, "values": values}]));
    let node = node("node1", json!({key: "7"}));
    assert_eq!(may_run_on(node, &placement, json!({})), may_run);
}

#[rstest]
#[case::listed("In", json!(["7", ""]), false)]
#[case::excluded("NotIn", json!(["7", ""]), true)]
#[case::exists("Exists", json!(null), false)]
#[case::does_not_exist("DoesNotExist", json!(null), true)]
#[case::greater("Gt", json!(["-1"]), false)]
#[case::less("Lt", json!(["1"]), false)]
#[case::an_operator_that_nobody_knows("Near", json!(["7"]), false)]
fn an_expression_about_a_label_that_the_node_lacks(
    #[case] operator: &str,
    #[case] values: Value,
    #[case] may_run: bool,
) {
    let placement = expressions(json!([{"key": "rack", "operator": operator, "values": values}]));
    assert_eq!(may_run_on(node("node1", json!({})), &placement, json!({})), may_run);
}

#[rstest]
#[case::is_less("Gt", "-3", false)]
#[case::is_no_number("Gt", "many", false)]
#[case::is_no_whole_number("Gt", "7.5", false)]
#[case::is_empty("Lt", "", false)]
#[case::is_greater("Gt", "70", true)]
fn a_label_that_is_compared_as_a_number(#[case] operator: &str, #[case] label: &str, #[case] may_run: bool) {
    let placement = expressions(json!([{"key": "rack", "operator": operator, "values": ["8"]}]));
    assert_eq!(may_run_on(node("node1", json!({"rack": label})), &placement, json!({})), may_run);
}

#[rstest]
#[case::the_name("In", "node1", true)]
#[case::another_name("In", "node2", false)]
#[case::not_the_name("NotIn", "node1", false)]
#[case::not_another_name("NotIn", "node2", true)]
#[case::the_hostname("In", "host1", false)]
fn a_field_is_the_name_of_the_node(#[case] operator: &str, #[case] name: &str, #[case] may_run: bool) {
    let placement = fields(json!([{"key": "metadata.name", "operator": operator, "values": [name]}]));
    let node = node("node1", json!({"kubernetes.io/hostname": "host1"}));
    assert_eq!(may_run_on(node, &placement, plain()), may_run);
}

#[rstest]
#[case::no_term(json!([]), true)]
#[case::an_empty_term(json!([{}]), false)]
#[case::a_term_of_empty_lists(json!([{"matchExpressions": [], "matchFields": []}]), false)]
#[case::all_expressions_of_a_term(
    json!([{"matchExpressions": [
        {"key": "rack", "operator": "Exists"}, {"key": "zone", "operator": "In", "values": ["a"]},
    ]}]),
    true
)]
#[case::one_expression_of_two(
    json!([{"matchExpressions": [
        {"key": "rack", "operator": "Exists"}, {"key": "zone", "operator": "In", "values": ["b"]},
    ]}]),
    false
)]
#[case::an_expression_without_the_field(
    json!([{
        "matchExpressions": [{"key": "rack", "operator": "Exists"}],
        "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node2"]}],
    }]),
    false
)]
#[case::a_field_without_the_expression(
    json!([{
        "matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}],
        "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}],
    }]),
    false
)]
#[case::the_second_term(
    json!([
        {"matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]},
    ]),
    true
)]
#[case::an_empty_term_beside_one_that_matches(
    json!([{}, {"matchExpressions": [{"key": "rack", "operator": "Exists"}]}]),
    true
)]
#[case::no_term_of_two(
    json!([
        {"matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}]},
        {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]},
    ]),
    false
)]
fn a_node_matches_one_of_the_terms(#[case] list: Value, #[case] may_run: bool) {
    let node = node("node1", json!({"rack": "7", "zone": "a"}));
    assert_eq!(may_run_on(node, &terms(list), plain()), may_run);
}

#[rstest]
#[case::all_labels(json!({"rack": "7", "zone": "a"}), true)]
#[case::one_label_of_two(json!({"rack": "7", "zone": "b"}), false)]
#[case::a_label_that_is_not_there(json!({"disk": ""}), false)]
#[case::null(json!(null), true)]
fn a_node_has_all_labels_of_the_node_selector(#[case] selector: Value, #[case] may_run: bool) {
    let node = node("node1", json!({"rack": "7", "zone": "a"}));
    assert_eq!(may_run_on(node, &json!({"nodeSelector": selector}), json!({})), may_run);
}

#[test]
fn node_selector_and_affinity_both_count() {
    let mut placement = expressions(json!([{"key": "rack", "operator": "Exists"}]));
    placement["nodeSelector"] = json!({"zone": "a"});
    assert!(may_run_on(node("node1", json!({"rack": "7", "zone": "a"})), &placement, json!({})));
    assert!(!may_run_on(node("node1", json!({"rack": "7"})), &placement, json!({})));
    assert!(!may_run_on(node("node1", json!({"zone": "a"})), &placement, json!({})));
}

#[test]
fn affinity_that_is_only_preferred_excludes_no_node() {
    let preference = json!({"matchExpressions": [{"key": "rack", "operator": "Exists"}]});
    let placement = json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": preference}],
    }}});
    assert!(may_run_on(node("node1", json!({})), &placement, json!({})));
}

/// Source: `harvester/harvester`, `pkg/webhook/resources/virtualmachine/mutator.go`, `makeAffinityFromVMTemplate`.
#[rstest]
#[case::a_field_alone(
    json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node2"]}]}]), true, false
)]
#[case::an_empty_term(json!([{}]), true, false)]
#[case::a_field_beside_an_expression(
    json!([{
        "matchExpressions": [{"key": "rack", "operator": "Exists"}],
        "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node2"]}],
    }]),
    false, false
)]
#[case::the_other_term_stays(
    json!([
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]},
        {"matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}]},
    ]),
    false, true
)]
fn harvester_drops_terms_without_expressions(#[case] list: Value, #[case] there: bool, #[case] elsewhere: bool) {
    let node = || node("node1", json!({"rack": "7"}));
    assert_eq!(may_run_on(node(), &terms(list.clone()), json!({})), there);
    assert_eq!(may_run_on(node(), &terms(list), plain()), elsewhere);
}

const VLAN: &str = "network.harvesterhci.io/vlan";

/// Harvester's mutator removes the expressions that it manages, and adds those of the VM's networks and pinned CPUs
/// (`mutator.go:445-590`).
#[rstest]
#[case::a_network_that_the_vm_lacks(json!([{"matchExpressions": [{"key": VLAN, "operator": "Exists"}]}]), json!({}), true)]
#[case::beside_a_term_that_does_not_match(
    json!([
        {"matchExpressions": [{"key": "zone", "operator": "Exists"}, {"key": VLAN, "operator": "In", "values": ["true"]}]},
        {"matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}]},
    ]),
    json!({}), false
)]
#[case::a_term_that_would_match_goes(
    json!([
        {"matchExpressions": [{"key": VLAN, "operator": "DoesNotExist"}]},
        {"matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}]},
    ]),
    json!({}), false
)]
#[case::its_other_expressions_stay(
    json!([{"matchExpressions": [{"key": VLAN, "operator": "Exists"}, {"key": "rack", "operator": "DoesNotExist"}]}]),
    json!({}), false
)]
#[case::a_network_that_the_vm_has(
    json!([{"matchExpressions": [{"key": VLAN, "operator": "In", "values": ["true"]}]}]),
    json!({"networks": [{"name": "a", "multus": {"networkName": "default/vlan1"}}]}), false
)]
#[case::as_harvester_does_not_write_it(
    json!([{"matchExpressions": [{"key": VLAN, "operator": "Exists"}]}]),
    json!({"networks": [{"name": "a", "multus": {"networkName": "default/vlan1"}}]}), true
)]
#[case::it_is_added_to_every_term(
    json!([
        {"matchExpressions": [{"key": VLAN, "operator": "In", "values": ["true"]}]},
        {"matchExpressions": [{"key": "rack", "operator": "Exists"}]},
    ]),
    json!({"networks": [{"name": "a", "multus": {"networkName": "default/vlan1"}}]}), false
)]
#[case::the_pod_network_has_no_label(
    json!([{"matchExpressions": [{"key": VLAN, "operator": "In", "values": ["true"]}]}]),
    json!({"networks": [{"name": "a", "pod": {}}]}), true
)]
#[case::a_cpu_manager_that_is_not_needed(
    json!([{"matchExpressions": [{"key": "cpumanager", "operator": "In", "values": ["true"]}]}]), json!({}), true
)]
#[case::the_cpu_manager_of_kubevirt_1_8(
    json!([{"matchExpressions": [{"key": "kubevirt.io/cpumanager", "operator": "In", "values": ["true"]}]}]), json!({}), true
)]
#[case::the_cpu_manager_of_pinned_cpus(
    json!([{"matchExpressions": [{"key": "cpumanager", "operator": "In", "values": ["true"]}]}]),
    json!({"domain": {"devices": {}, "cpu": {"dedicatedCpuPlacement": true}}}), false
)]
fn harvester_manages_expressions_about_networks_and_the_cpu_manager(
    #[case] list: Value,
    #[case] more: Value,
    #[case] may_run: bool,
) {
    let mut placement = terms(list);
    for (key, value) in more.as_object().unwrap() {
        placement[key] = value.clone();
    }
    let node = || node("node1", json!({"rack": "7"}));
    assert_eq!(may_run_on(node(), &placement, json!({})), may_run);
}

#[test]
fn without_harvester_expressions_about_its_networks_count() {
    let placement = expressions(json!([{"key": VLAN, "operator": "Exists"}]));
    assert!(!may_run_on(node("node1", json!({})), &placement, plain()));
    assert!(may_run_on(node("node1", json!({VLAN: "true"})), &placement, plain()));
}

const TAINT: &str = r#"[{"key": "nvidia.com/gpu", "value": "a100", "effect": "NoSchedule"}]"#;

#[rstest]
#[case::no_toleration(TAINT, json!(null), false)]
#[case::the_same(TAINT, json!([{"key": "nvidia.com/gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"}]), true)]
#[case::equal_is_the_default(TAINT, json!([{"key": "nvidia.com/gpu", "value": "a100"}]), true)]
#[case::another_value(TAINT, json!([{"key": "nvidia.com/gpu", "value": "t4"}]), false)]
#[case::no_value(TAINT, json!([{"key": "nvidia.com/gpu"}]), false)]
#[case::another_key(TAINT, json!([{"key": "amd.com/gpu", "operator": "Exists"}]), false)]
#[case::exists(TAINT, json!([{"key": "nvidia.com/gpu", "operator": "Exists"}]), true)]
#[case::exists_for_another_effect(TAINT, json!([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}]), false)]
#[case::everything(TAINT, json!([{"operator": "Exists"}]), true)]
#[case::everything_with_an_empty_key(TAINT, json!([{"key": "", "operator": "Exists", "effect": ""}]), true)]
#[case::everything_of_an_effect(TAINT, json!([{"operator": "Exists", "effect": "NoSchedule"}]), true)]
#[case::everything_of_another_effect(TAINT, json!([{"operator": "Exists", "effect": "NoExecute"}]), false)]
#[case::an_operator_that_nobody_knows(TAINT, json!([{"key": "nvidia.com/gpu", "operator": "Like", "value": "a100"}]), false)]
#[case::the_second_toleration(TAINT, json!([{"key": "x", "operator": "Exists"}, {"key": "nvidia.com/gpu", "operator": "Exists"}]), true)]
#[case::a_taint_without_a_value(r#"[{"key": "gpu", "effect": "NoSchedule"}]"#, json!([{"key": "gpu", "operator": "Equal"}]), true)]
#[case::no_execute(r#"[{"key": "gpu", "effect": "NoExecute"}]"#, json!([]), false)]
#[case::no_execute_for_a_while(
    r#"[{"key": "gpu", "effect": "NoExecute"}]"#, json!([{"key": "gpu", "operator": "Exists", "tolerationSeconds": 60}]), true
)]
#[case::prefer_no_schedule(r#"[{"key": "gpu", "effect": "PreferNoSchedule"}]"#, json!(null), true)]
#[case::one_taint_of_two(
    r#"[{"key": "gpu", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoExecute"}]"#,
    json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]),
    false
)]
#[case::a_control_plane(
    r#"[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]"#, json!(null), false
)]
#[case::less(r#"[{"key": "sla", "value": "900", "effect": "NoSchedule"}]"#, json!([{"key": "sla", "operator": "Lt", "value": "1000"}]), true)]
#[case::not_less(r#"[{"key": "sla", "value": "900", "effect": "NoSchedule"}]"#, json!([{"key": "sla", "operator": "Lt", "value": "900"}]), false)]
#[case::greater(r#"[{"key": "sla", "value": "900", "effect": "NoSchedule"}]"#, json!([{"key": "sla", "operator": "Gt", "value": "90"}]), true)]
#[case::not_greater(r#"[{"key": "sla", "value": "900", "effect": "NoSchedule"}]"#, json!([{"key": "sla", "operator": "Gt", "value": "x"}]), false)]
fn a_taint_keeps_vms_away_that_do_not_tolerate_it(
    #[case] taints: &str,
    #[case] tolerations: Value,
    #[case] may_run: bool,
) {
    let mut node = node("node1", json!({}));
    node["spec"]["taints"] = serde_json::from_str(taints).unwrap();
    assert_eq!(may_run_on(node, &json!({"tolerations": tolerations}), json!({})), may_run);
}

/// A node of an AMD CPU, with this specification and these labels.
fn amd_node(name: &str, labels: Value, spec: Value) -> Value {
    let mut node = node(name, labels);
    let of_node = node["metadata"]["labels"].as_object_mut().unwrap();
    of_node.retain(|key, _| !key.starts_with("cpu-"));
    of_node.insert("cpu-vendor.node.kubevirt.io/AMD".to_owned(), json!("true"));
    of_node.insert("cpu-feature.node.kubevirt.io/svm".to_owned(), json!("true"));
    node["spec"] = spec;
    node
}

/// The CPU features that a VM with this placement gets in a cluster of these nodes.
fn cpu_features(nodes: Vec<Value>, placement: &Value, settings: Value) -> Result<Value, String> {
    let request = Request::create(vm(("nested-virt", "enabled"), placement)).settings(settings);
    let answer = request.cluster(MemoryCluster::of(nodes)).evaluate();
    let name = answer.domain()["cpu"]["features"][0]["name"].clone();
    if answer.is_accepted() { Ok(name) } else { Err(answer.message().to_owned()) }
}

#[rstest]
#[case::cordoned(json!({}), json!({"unschedulable": true}))]
#[case::not_ready(json!({}), json!({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}))]
#[case::under_pressure(json!({}), json!({"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]}))]
#[case::new(json!({}), json!({"taints": [
    {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"},
]}))]
#[case::drained(json!({}), json!({"taints": [{"key": "kubevirt.io/drain", "value": "draining", "effect": "NoSchedule"}]}))]
#[case::without_kubevirt(json!({"kubevirt.io/schedulable": null}), json!({}))]
#[case::without_a_heartbeat_of_kubevirt(json!({"kubevirt.io/schedulable": "false"}), json!({}))]
fn a_node_that_takes_no_vms_for_now_counts_only_if_there_is_no_other(#[case] labels: Value, #[case] spec: Value) {
    let anywhere = json!({});
    let resting = || amd_node("node2", labels.clone(), spec.clone());
    let features = |nodes, placement| cpu_features(nodes, placement, json!({}));
    assert_eq!(features(vec![resting()], &anywhere).unwrap(), "svm");
    assert_eq!(features(vec![resting(), node("node1", json!({}))], &anywhere).unwrap(), "vmx");
    assert_eq!(features(vec![node("node1", json!({})), resting()], &anywhere).unwrap(), "vmx");

    let mut another = node("node3", json!({}));
    another["spec"]["unschedulable"] = json!(true);
    assert!(features(vec![resting(), another], &anywhere).unwrap_err().contains("both AMD and Intel"));

    // It is the only one that the VM may run on.
    let there = json!({"nodeSelector": {"kubernetes.io/hostname": "node2"}});
    assert_eq!(features(vec![resting(), node("node1", json!({}))], &there).unwrap(), "svm");
    let there = expressions(json!([{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node1"]}]));
    assert_eq!(features(vec![resting(), node("node1", json!({}))], &there).unwrap(), "svm");
}

/// Its taint stays, so the node never counts.
#[test]
fn a_node_that_takes_no_vms_for_now_may_be_excluded_as_well() {
    let spec = json!({"unschedulable": true, "taints": [{"key": "gpu", "effect": "NoSchedule"}]});
    let nodes = vec![amd_node("node2", json!({}), spec)];
    let message = cpu_features(nodes, &json!({}), json!({})).unwrap_err();
    assert!(message.contains("the cluster has no node that fits"), "{message}");
}

/// Two nodes, each with a hostname that is not its name. The second is called as the first one's hostname.
fn renamed_nodes() -> Vec<Value> {
    vec![
        node("worker1.lab.example", json!({"kubernetes.io/hostname": "worker1"})),
        amd_node("worker1", json!({"kubernetes.io/hostname": "worker2"}), json!({})),
    ]
}

#[rstest]
#[case::selector_by_hostname(json!({"nodeSelector": {"kubernetes.io/hostname": "worker1"}}), "vmx")]
#[case::selector_by_the_other_hostname(json!({"nodeSelector": {"kubernetes.io/hostname": "worker2"}}), "svm")]
#[case::affinity_by_hostname(
    expressions(json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["worker1"]}])), "vmx"
)]
#[case::affinity_by_two_hostnames(
    expressions(json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["worker2", "worker3"]}])), "svm"
)]
#[case::field_by_name(fields(json!([{"key": "metadata.name", "operator": "In", "values": ["worker1"]}])), "svm")]
#[case::field_by_a_name_with_dots(
    fields(json!([{"key": "metadata.name", "operator": "In", "values": ["worker1.lab.example"]}])), "vmx"
)]
#[case::field_excludes_a_name(fields(json!([{"key": "metadata.name", "operator": "NotIn", "values": ["worker1"]}])), "vmx")]
fn a_hostname_is_a_label_and_not_the_name(#[case] placement: Value, #[case] feature: &str) {
    assert_eq!(cpu_features(renamed_nodes(), &placement, plain()).unwrap(), feature);
}

#[rstest]
#[case::selector(json!({"nodeSelector": {"kubernetes.io/hostname": "worker1.lab.example"}}))]
#[case::selector_without_such_a_node(json!({"nodeSelector": {"kubernetes.io/hostname": "worker9"}}))]
#[case::selector_of_a_label_that_is_no_name(json!({"nodeSelector": {"kubernetes.io/hostname": "Worker_1"}}))]
#[case::affinity(expressions(json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["worker1.lab.example"]}])))]
#[case::field(fields(json!([{"key": "metadata.name", "operator": "In", "values": ["worker2"]}])))]
#[case::selector_and_field_of_two_nodes({
    let mut placement = fields(json!([{"key": "metadata.name", "operator": "In", "values": ["worker1"]}]));
    placement["nodeSelector"] = json!({"kubernetes.io/hostname": "worker1"});
    placement
})]
fn a_hostname_or_name_that_no_node_has_fits_none(#[case] placement: Value) {
    let message = cpu_features(renamed_nodes(), &placement, plain()).unwrap_err();
    assert!(message.contains("the cluster has no node that fits the VirtualMachine's"), "{message}");
}

/// A node without the label is found by its name.
#[test]
fn a_node_without_a_hostname_is_selected_by_no_hostname() {
    let nodes = || vec![node("node1", json!({"kubernetes.io/hostname": null}))];
    let by_hostname = json!({"nodeSelector": {"kubernetes.io/hostname": "node1"}});
    assert!(cpu_features(nodes(), &by_hostname, plain()).is_err());
    let by_name = fields(json!([{"key": "metadata.name", "operator": "In", "values": ["node1"]}]));
    assert_eq!(cpu_features(nodes(), &by_name, plain()).unwrap(), "vmx");
}

/// What the VM asks of each feature, and the cluster whose node `good` is the only one that fits.
#[derive(Debug, Clone, Copy)]
enum Consumer {
    Vendor,
    VendorByName,
    CpuPinning,
    Hugepages,
    Pci,
    Usb,
    Gpu,
}

use Consumer::{CpuPinning, Gpu, Hugepages, Pci, Usb, Vendor, VendorByName};

const PCI: &str = "0000:41:00.0";
const USB: &str = "046d:c52b";

impl Consumer {
    /// The VM. `node` is the node that a directive for devices names, with a slash.
    fn vm(self, placement: &Value, node: &str) -> Value {
        let devices = |device| json!({"devices": [format!("{node}{device}")]}).to_string();
        let (directive, value) = match self {
            Vendor | VendorByName => ("nested-virt", "enabled".to_owned()),
            CpuPinning => ("cpu-pinning", "enabled".to_owned()),
            Hugepages => ("hugepages", "1Gi".to_owned()),
            Pci => ("pci-passthrough", devices(PCI)),
            Usb => ("usb-passthrough", devices(USB)),
            Gpu => ("gpu-device-plugin", "nvidia.com/gpu".to_owned()),
        };
        let mut vm = vm((directive, &value), placement);
        let option = if matches!(self, VendorByName) { "amd" } else { "" };
        vm["metadata"]["annotations"]["vm-feature-manager.io/cpu-vendor"] = json!(option);
        let domain = &mut vm["spec"]["template"]["spec"]["domain"];
        domain["cpu"]["cores"] = json!(2);
        domain["resources"]["limits"] = json!({"cpu": "2", "memory": "2Gi"});
        domain["resources"]["requests"] = json!({"cpu": "2", "memory": "2Gi"});
        vm
    }

    /// Two Intel nodes, of which one fits.
    fn cluster(self, good: &str, other: &Value) -> MemoryCluster {
        let mut nodes = vec![node("node1", json!({"rack": "7", "zone": "a"})), node("node2", json!({"rack": "5"}))];
        nodes.iter_mut().for_each(|node| node["status"]["allocatable"]["cpu"] = json!("8"));
        nodes[1]["spec"] = other.clone();
        let index = nodes.iter().position(|node| node["metadata"]["name"] == good).unwrap();
        let node = &mut nodes[index];
        match self {
            Vendor | VendorByName => *node = amd_node(good, node["metadata"]["labels"].clone(), node["spec"].clone()),
            CpuPinning => node["metadata"]["labels"]["kubevirt.io/cpumanager"] = json!("true"),
            Hugepages => node["status"]["allocatable"]["hugepages-1Gi"] = json!("4Gi"),
            Gpu => node["status"]["allocatable"]["nvidia.com/gpu"] = json!("1"),
            Pci | Usb => {}
        }
        let pci = format!("{good}-000041000");
        let usb = format!("{good}-046d-c52b-001002");
        nodes.extend([
            json!({"kind": "PCIDevice", "metadata": {"name": pci}, "status": {
                "address": PCI, "nodeName": good, "vendorId": "10de", "deviceId": "27b8", "resourceName": "nvidia.com/L4",
            }}),
            json!({"kind": "PCIDeviceClaim", "metadata": {"name": pci}, "status": {"passthroughEnabled": true}}),
            json!({"kind": "USBDevice", "metadata": {"name": usb}, "status": {
                "vendorID": "046d", "productID": "c52b", "nodeName": good, "resourceName": format!("kubevirt.io/{usb}"),
                "enabled": true,
            }}),
        ]);
        if matches!(self, Gpu) {
            let gpu = json!({"mdevNameSelector": "GRID T4-1Q", "resourceName": "nvidia.com/gpu"});
            let permitted = json!({"permittedHostDevices": {"mediatedDevices": [gpu]}});
            let metadata = json!({"name": "kubevirt", "namespace": "harvester-system"});
            nodes.push(json!({"kind": "KubeVirt", "metadata": metadata, "spec": {"configuration": permitted}}));
        }
        MemoryCluster::of(nodes)
    }

    /// Whether the answer says that the VM cannot have the feature where it may run.
    fn is_missing(self, answer: &Answer) -> bool {
        let warnings = answer.warnings().join("\n");
        match self {
            Vendor => answer.domain()["cpu"]["features"][0]["name"] == "vmx",
            VendorByName | CpuPinning | Hugepages | Gpu => {
                warnings.contains("no node that the VirtualMachine may run on has")
            }
            Pci | Usb => !answer.is_accepted(),
        }
    }
}

/// A term that matches a field. It also has an expression, because Harvester drops terms that have none.
fn by_name(operator: &str, name: &str) -> Value {
    terms(json!([{
        "matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}],
        "matchFields": [{"key": "metadata.name", "operator": operator, "values": [name]}],
    }]))
}

/// The VM may run only on node1, which the placement or the specification of node2 says.
#[rstest]
#[case::selector_by_label(json!({"nodeSelector": {"zone": "a"}}), json!({}))]
#[case::selector_by_hostname(json!({"nodeSelector": {"kubernetes.io/hostname": "node1"}}), json!({}))]
#[case::is_in(expressions(json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1", "node3"]}])), json!({}))]
#[case::is_not_in(expressions(json!([{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node2"]}])), json!({}))]
#[case::exists(expressions(json!([{"key": "zone", "operator": "Exists"}])), json!({}))]
#[case::is_greater(expressions(json!([{"key": "rack", "operator": "Gt", "values": ["6"]}])), json!({}))]
#[case::field(by_name("In", "node1"), json!({}))]
#[case::field_of_another(by_name("NotIn", "node2"), json!({}))]
#[case::taint(json!({}), json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}]}))]
#[case::taint_that_evicts(
    json!({"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]}),
    json!({"taints": [{"key": "gpu", "effect": "NoExecute"}]})
)]
fn each_feature_counts_only_the_nodes_that_the_vm_may_run_on(
    #[case] placement: Value,
    #[case] node2: Value,
    #[values(Vendor, VendorByName, CpuPinning, Hugepages, Pci, Usb, Gpu)] consumer: Consumer,
) {
    for (good, is_missing) in [("node1", false), ("node2", true)] {
        let request = Request::create(consumer.vm(&placement, ""));
        let answer = request.cluster(consumer.cluster(good, &node2)).evaluate();
        assert_eq!(consumer.is_missing(&answer), is_missing, "{good}: {}", answer.response);
    }
    // Without that, each has the node that it needs.
    let request = Request::create(consumer.vm(&json!({}), ""));
    let answer = request.cluster(consumer.cluster("node2", &json!({}))).evaluate();
    assert!(matches!(consumer, Vendor) || !consumer.is_missing(&answer), "{}", answer.response);

    // A directive for devices must not name a node where the VM may not run.
    if matches!(consumer, Pci | Usb) {
        let named = |good: &str| {
            let request = Request::create(consumer.vm(&placement, &format!("{good}/")));
            request.cluster(consumer.cluster(good, &node2)).evaluate()
        };
        let answer = named("node1");
        assert!(answer.is_accepted(), "{}", answer.message());
        named("node2").assert_denied(&["the directive names the node node2, but the VirtualMachine"]);
    }
}

/// The consumers that look only at nodes work the same on a cluster without Harvester, where a node's name may not be its
/// hostname.
#[rstest]
#[case::by_hostname(json!({"nodeSelector": {"kubernetes.io/hostname": "host1"}}))]
#[case::by_name(fields(json!([{"key": "metadata.name", "operator": "In", "values": ["node1"]}])))]
#[case::not_by_name(fields(json!([{"key": "metadata.name", "operator": "NotIn", "values": ["node2"]}])))]
fn each_feature_finds_a_node_whose_name_is_not_its_hostname(
    #[case] placement: Value,
    #[values(Vendor, VendorByName, CpuPinning, Hugepages)] consumer: Consumer,
) {
    for (good, is_missing) in [("node1", false), ("node2", true)] {
        let mut cluster = consumer.cluster(good, &json!({}));
        cluster.object("Node", "node1")["metadata"]["labels"]["kubernetes.io/hostname"] = json!("host1");
        cluster.object("Node", "node2")["metadata"]["labels"]["kubernetes.io/hostname"] = json!("node1");
        let answer = Request::create(consumer.vm(&placement, "")).settings(plain()).cluster(cluster).evaluate();
        assert_eq!(consumer.is_missing(&answer), is_missing, "{good}: {}", answer.response);
    }
}

/// KubeVirt makes a node selector of it: `pkg/virt-controller/services/nodeselectorrenderer.go`.
#[rstest]
#[case::the_same("amd64", "amd64", false)]
#[case::another("amd64", "arm64", true)]
#[case::arm64("arm64", "arm64", false)]
#[case::not_known("", "arm64", false)]
fn the_architecture_of_the_vm_selects_nodes(
    #[case] of_vm: &str,
    #[case] of_node: &str,
    #[case] is_missing: bool,
    #[values(CpuPinning, Hugepages, Pci, Usb, Gpu)] consumer: Consumer,
) {
    let mut cluster = consumer.cluster("node2", &json!({}));
    cluster.object("Node", "node2")["metadata"]["labels"]["kubernetes.io/arch"] = json!(of_node);
    let vm = consumer.vm(&json!({"architecture": of_vm}), "");
    let answer = Request::create(vm).cluster(cluster).evaluate();
    assert_eq!(consumer.is_missing(&answer), is_missing, "{}", answer.response);
}

/// A cluster with two nodes, of which node2 fits, of these architectures, and KubeVirt with this default.
fn of_architectures(consumer: Consumer, architectures: [&str; 2], default: &str) -> MemoryCluster {
    let mut cluster = consumer.cluster("node2", &json!({}));
    for (name, architecture) in ["node1", "node2"].into_iter().zip(architectures) {
        cluster.object("Node", name)["metadata"]["labels"]["kubernetes.io/arch"] = json!(architecture);
    }
    if !matches!(consumer, Gpu) {
        let metadata = json!({"name": "kubevirt", "namespace": "harvester-system"});
        let gates = json!({"featureGates": ["CPUManager", "HostDevices"]});
        let spec = json!({"configuration": {"developerConfiguration": gates}});
        cluster = cluster.with(json!({"kind": "KubeVirt", "metadata": metadata, "spec": spec}));
    }
    cluster.object("KubeVirt", "kubevirt")["status"]["defaultArchitecture"] = json!(default);
    cluster
}

/// KubeVirt fills in the architecture (`pkg/defaults/defaults.go:327`), and selects nodes by it.
#[rstest]
#[case::mixed(["amd64", "arm64"], "amd64", json!({}), true)]
#[case::mixed_with_the_other_default(["amd64", "arm64"], "arm64", json!({}), false)]
#[case::the_vm_names_one(["amd64", "arm64"], "amd64", json!({"architecture": "arm64"}), false)]
#[case::the_node_of_the_vm(["amd64", "arm64"], "amd64", json!({"nodeSelector": {"kubernetes.io/hostname": "node2"}}), true)]
#[case::in_upper_case(["amd64", "arm64"], "ARM64", json!({}), false)]
#[case::the_default_is_not_known(["amd64", "arm64"], "", json!({}), false)]
#[case::not_mixed(["arm64", "arm64"], "arm64", json!({}), false)]
#[case::only_another(["amd64", "arm64"], "s390x", json!({}), true)]
fn the_default_architecture_of_kubevirt_selects_nodes(
    #[case] nodes: [&str; 2],
    #[case] default: &str,
    #[case] placement: Value,
    #[case] is_missing: bool,
    #[values(CpuPinning, Hugepages, Pci, Usb, Gpu)] consumer: Consumer,
) {
    let cluster = of_architectures(consumer, nodes, default);
    let answer = Request::create(consumer.vm(&placement, "")).cluster(cluster).evaluate();
    assert_eq!(consumer.is_missing(&answer), is_missing, "{}", answer.response);
}

/// A DataSource may name the architecture of its image (`setDefaultArchitectureFromDataSource`).
#[test]
fn the_default_architecture_does_not_count_if_a_disk_is_made_of_a_data_source() {
    let mut vm = Hugepages.vm(&json!({}), "");
    let source = json!({"kind": "DataSource", "name": "fedora"});
    vm["spec"]["dataVolumeTemplates"] = json!([{"metadata": {"name": "root"}, "spec": {"sourceRef": source}}]);
    let cluster = of_architectures(Hugepages, ["amd64", "arm64"], "amd64");
    let answer = Request::create(vm).cluster(cluster).evaluate();
    assert!(!Hugepages.is_missing(&answer), "{}", answer.response);
}

#[rstest]
#[case::all_of_amd64(["amd64", "amd64"], json!({}), 0)]
#[case::mixed(["amd64", "arm64"], json!({}), 1)]
#[case::the_vm_names_one(["amd64", "arm64"], json!({"architecture": "arm64"}), 0)]
fn kubevirt_is_asked_for_its_default_only_if_nodes_differ(
    #[case] nodes: [&str; 2],
    #[case] placement: Value,
    #[case] count: usize,
) {
    let cluster = of_architectures(Hugepages, nodes, "amd64");
    let answer = Request::create(Hugepages.vm(&placement, "")).cluster(cluster).evaluate();
    let is_kubevirt = |lookup: &&String| *lookup == "get KubeVirt kubevirt";
    assert_eq!(answer.lookups.iter().filter(is_kubevirt).count(), count, "{:?}", answer.lookups);
}

/// On arm64, KubeVirt pins one thread of a core, and there is neither svm nor vmx.
#[rstest]
#[case::arm64("arm64", true)]
#[case::amd64("amd64", false)]
fn what_depends_on_the_architecture_follows_the_default_of_kubevirt(
    #[case] default: &str,
    #[case] is_arm64: bool,
    #[values(false, true)] nodes_are_readable: bool,
) {
    let cluster = |consumer| {
        let cluster = of_architectures(consumer, ["amd64", "arm64"], default);
        if nodes_are_readable { cluster } else { cluster.without("list", &NODE) }
    };
    let mut vm = CpuPinning.vm(&json!({}), "");
    vm["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"cores": 1, "threads": 2});
    let answer = Request::create(vm).cluster(cluster(CpuPinning)).evaluate();
    match is_arm64 {
        true => answer.assert_denied(&["one thread of a core on arm64"]),
        false => assert!(answer.is_accepted(), "{}", answer.message()),
    }
    if nodes_are_readable {
        let answer = Request::create(Vendor.vm(&json!({}), "")).cluster(cluster(Vendor)).evaluate();
        match is_arm64 {
            true => answer
                .assert_denied(&["all nodes that the VirtualMachine may run on are of the architecture \"arm64\""]),
            false => assert_eq!(answer.domain()["cpu"]["features"][0]["name"], "vmx", "{}", answer.message()),
        }
    }
}

#[test]
fn without_a_node_of_its_architecture_a_vm_fits_nowhere() {
    let placement = json!({"architecture": "amd64"});
    assert!(may_run_on(node("node1", json!({})), &placement, json!({})));
    assert!(!may_run_on(node("node1", json!({"kubernetes.io/arch": "arm64"})), &placement, json!({})));
}

/// Devices that only one node has can be had only there, later.
#[rstest]
#[case::both_take_vms(false, false, false)]
#[case::none_takes_vms(true, true, false)]
#[case::the_other_takes_vms(true, false, true)]
#[case::only_this_takes_vms(false, true, false)]
fn each_feature_counts_a_node_that_takes_no_vms_for_now_if_there_is_no_other(
    #[case] node1: bool,
    #[case] node2: bool,
    #[case] is_missing: bool,
    #[values(Vendor, VendorByName, CpuPinning, Hugepages, Pci, Usb, Gpu)] consumer: Consumer,
) {
    let mut cluster = consumer.cluster("node1", &json!({"unschedulable": node2}));
    cluster.object("Node", "node1")["spec"]["unschedulable"] = json!(node1);
    let answer = Request::create(consumer.vm(&json!({}), "")).cluster(cluster).evaluate();
    let is_missing = is_missing && !matches!(consumer, Pci | Usb | Gpu);
    assert_eq!(consumer.is_missing(&answer), is_missing, "{}", answer.response);
}

/// A directive for devices that cannot be applied still says where the VM has to run once it is corrected.
#[rstest]
#[case::pci(("pci-passthrough", r#"{"devices": ["node2/0000:09:00.0"]}"#), json!({}), json!({}), false)]
#[case::pci_by_harvesters_name(("pci-passthrough", r#"{"devices": ["node2-000009000"]}"#), json!({}), json!({}), false)]
#[case::usb(("usb-passthrough", r#"{"devices": ["node2/1234:5678"]}"#), json!({}), json!({}), false)]
#[case::usb_by_harvesters_name(("usb-passthrough", r#"{"devices": ["node2-1234-5678-001002"]}"#), json!({}), json!({}), false)]
#[case::the_other_node(("pci-passthrough", r#"{"devices": ["node1/0000:09:00.0"]}"#), json!({}), json!({}), true)]
#[case::no_node(("pci-passthrough", r#"{"devices": ["0000:09:00.0"]}"#), json!({}), json!({}), true)]
#[case::no_such_node(("pci-passthrough", r#"{"devices": ["node3/0000:09:00.0"]}"#), json!({}), json!({}), true)]
#[case::not_pinned(
    ("pci-passthrough", r#"{"devices": ["node2/0000:09:00.0"]}"#), json!({"pciPassthrough": {"pinToNode": false}}), json!({}), true
)]
#[case::pinned_by_rules(
    ("pci-passthrough", r#"{"devices": ["node2/0000:09:00.0"]}"#),
    json!({"pciPassthrough": {"pinToNode": false, "requireClaimOwner": true}}), json!({}), false
)]
#[case::no_json(("pci-passthrough", "node2/0000:09:00.0"), json!({}), json!({}), true)]
#[case::the_vm_may_not_run_there(
    ("pci-passthrough", r#"{"devices": ["node1/0000:09:00.0"]}"#), json!({}), json!({"nodeSelector": {"rack": "5"}}), false
)]
#[case::the_vm_chooses_another(
    ("pci-passthrough", r#"{"devices": ["node1/0000:09:00.0"]}"#),
    json!({}), json!({"nodeSelector": {"kubernetes.io/hostname": "node2"}}), false
)]
fn the_node_of_a_directive_that_fails_counts_for_later_features(
    #[case] directive: (&str, &str),
    #[case] settings: Value,
    #[case] placement: Value,
    #[case] is_missing: bool,
    #[values(CpuPinning, Hugepages)] consumer: Consumer,
) {
    let mut settings = settings;
    for section in ["pciPassthrough", "usbPassthrough"] {
        settings[section]["errorHandling"] = json!("allow-and-log");
    }
    let mut vm = consumer.vm(&placement, "");
    annotate(&mut vm, &[directive]);
    // Only the node that does not take VMs has what the feature needs, unless it is named.
    let mut cluster = consumer.cluster("node2", &json!({}));
    cluster.object("Node", "node2")["spec"]["unschedulable"] = json!(true);
    let answer = Request::create(vm).settings(settings).cluster(cluster).evaluate();
    assert!(answer.annotation(&format!("{}-error", directive.0)).is_some(), "{}", answer.response);
    assert_eq!(consumer.is_missing(&answer), is_missing, "{}", answer.response);
}

/// Nodes of both vendors, but the directive names one of them.
#[rstest]
#[case::named(r#"{"devices": ["node2/0000:09:00.0"]}"#, None)]
#[case::not_named(r#"{"devices": ["0000:09:00.0"]}"#, Some("both AMD and Intel"))]
fn a_directive_that_fails_makes_no_other_fail(#[case] devices: &str, #[case] other: Option<&str>) {
    let mut vm = Vendor.vm(&json!({}), "");
    annotate(&mut vm, &[("pci-passthrough", devices)]);
    let answer = Request::create(vm).cluster(Vendor.cluster("node2", &json!({}))).evaluate();
    answer.assert_denied(&["pci-passthrough", other.unwrap_or_default()]);
    assert_eq!(answer.message().contains("both AMD and Intel"), other.is_some(), "{}", answer.message());
}

/// Two nodes have the same device at the same address.
fn equal_devices() -> MemoryCluster {
    let device = |node: &str| {
        let name = format!("{node}-000041000");
        let resource = "nvidia.com/L4";
        let status =
            json!({"address": PCI, "nodeName": node, "vendorId": "10de", "deviceId": "27b8", "resourceName": resource});
        [
            json!({"kind": "PCIDevice", "metadata": {"name": name}, "status": status}),
            json!({"kind": "PCIDeviceClaim", "metadata": {"name": name}, "status": {"passthroughEnabled": true}}),
        ]
    };
    let nodes = ["node1", "node2"].map(|name| node(name, json!({})));
    MemoryCluster::of([nodes, device("node1"), device("node2")].concat())
}

#[rstest]
#[case::ready(json!({}), "node1-000041000")]
#[case::cordoned(json!({"unschedulable": true}), "node2-000041000")]
#[case::tainted(json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}]}), "node2-000041000")]
fn of_equal_devices_that_of_a_node_which_takes_vms_comes_first(#[case] node1: Value, #[case] name: &str) {
    let mut cluster = equal_devices();
    cluster.object("Node", "node1")["spec"] = node1;
    let answer = Request::create(Pci.vm(&json!({}), "")).cluster(cluster).evaluate();
    assert_eq!(answer.domain()["devices"]["hostDevices"][0]["name"], name, "{}", answer.message());
}

/// An update in which the directive stays, and the placement excludes the only node that has the device.
#[rstest]
#[case::affinity(
    expressions(json!([{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node1"]}])),
    "exclude every node that has the devices"
)]
#[case::selector_of_a_label(json!({"nodeSelector": {"zone": "b"}}), "exclude every node that has the devices")]
#[case::selector_of_a_node(json!({"nodeSelector": {"kubernetes.io/hostname": "node2"}}), "the node node2 (chosen by the VirtualMachine)")]
fn a_vm_that_has_its_devices_must_not_be_kept_from_their_node(
    #[case] placement: Value,
    #[case] message: &str,
    #[values(Pci, Usb)] consumer: Consumer,
) {
    let cluster = || consumer.cluster("node1", &json!({}));
    let stored = Request::create(consumer.vm(&json!({}), "")).cluster(cluster()).evaluate().after();
    let mut next = stored.clone();
    for (key, value) in placement.as_object().unwrap() {
        next["spec"]["template"]["spec"][key] = value.clone();
    }
    Request::update(stored.clone(), next.clone()).cluster(cluster()).evaluate().assert_denied(&[message]);

    // If the user wrote the entry, the directive fails as well.
    next["spec"]["template"]["metadata"] = json!(null);
    Request::create(next).cluster(cluster()).evaluate().assert_denied(&[message]);

    // A placement that leaves the node is no problem.
    let mut next = stored.clone();
    next["spec"]["template"]["spec"]["nodeSelector"] = json!({"zone": "a"});
    let answer = Request::update(stored.clone(), next.clone()).cluster(cluster()).evaluate();
    assert_eq!((answer.is_accepted(), answer.warnings()), (true, vec![]), "{}", answer.message());

    // A taint that an administrator sets is no fault of the next request.
    let mut tainted = cluster();
    tainted.object("Node", "node1")["spec"]["taints"] = json!([{"key": "gpu", "effect": "NoSchedule"}]);
    let answer = Request::update(stored, next).cluster(tainted).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert!(answer.warnings().join(" ").contains("exclude every node that has the devices"), "{:?}", answer.warnings());
    assert_eq!(answer.domain()["devices"]["hostDevices"].as_array().unwrap().len(), 1);
}

/// The VM has the device of node1, and may run only on node2 from now on.
#[rstest]
#[case::an_equal_device(json!(null), json!({"passthroughEnabled": true}), true)]
#[case::one_that_is_not_enabled(json!(null), json!({"passthroughEnabled": false}), false)]
#[case::another_resource(json!({"resourceName": "nvidia.com/T4"}), json!({"passthroughEnabled": true}), false)]
#[case::another_address(json!({"address": "0000:42:00.0"}), json!({"passthroughEnabled": true}), false)]
fn a_device_in_place_counts_on_another_node_that_has_an_equal_one(
    #[case] device: Value,
    #[case] claim: Value,
    #[case] may_run: bool,
) {
    let stored = Request::create(Pci.vm(&json!({}), "")).cluster(equal_devices()).evaluate().after();
    let mut next = stored.clone();
    next["spec"]["template"]["spec"]["nodeSelector"] = json!({"zone": "a"});
    let mut cluster = equal_devices();
    cluster.object("Node", "node2")["metadata"]["labels"]["zone"] = json!("a");
    cluster.object("PCIDeviceClaim", "node2-000041000")["status"] = claim;
    for (key, value) in device.as_object().into_iter().flatten() {
        cluster.object("PCIDevice", "node2-000041000")["status"][key] = value.clone();
    }
    let answer = Request::update(stored, next).cluster(cluster).evaluate();
    if may_run {
        assert_eq!((answer.is_accepted(), answer.is_mutated()), (true, false), "{}", answer.message());
    } else {
        answer.assert_denied(&["exclude every node that has the devices: 0000:41:00.0 on node1; change these"]);
    }
}

/// Only node1 has both.
#[test]
fn a_node_counts_for_devices_in_place_if_it_has_all_of_them() {
    let cluster = || equal_devices().with_equal("node1-000041000", "node1-000042000", "0000:42:00.0");
    let vm = vm(("pci-passthrough", &json!({"devices": [PCI, "0000:42:00.0"]}).to_string()), &json!({}));
    let stored = Request::create(vm).cluster(cluster()).evaluate().after();
    let update = |zone: &str| {
        let mut cluster = cluster();
        cluster.object("Node", zone)["metadata"]["labels"]["zone"] = json!("a");
        let mut next = stored.clone();
        next["spec"]["template"]["spec"]["nodeSelector"] = json!({"zone": "a"});
        Request::update(stored.clone(), next).cluster(cluster).evaluate()
    };
    assert!(update("node1").is_accepted());
    update("node2").assert_denied(&["exclude every node that has the devices: 0000:41:00.0, 0000:42:00.0 on node1;"]);
}

/// A cluster without Harvester, whose KubeVirt permits a PCI device and a USB device. Only `worker1.lab.example` has them.
fn without_harvester() -> MemoryCluster {
    let mut nodes = renamed_nodes();
    nodes[0]["status"]["allocatable"] = json!({"nvidia.com/L4": "2", "kubevirt.io/receiver": "1"});
    nodes[1]["status"]["allocatable"] = json!({"nvidia.com/L4": "0"});
    let permitted = json!({
        "pciHostDevices": [{"pciVendorSelector": "10DE:27B8", "resourceName": "nvidia.com/L4"}],
        "usb": [{"resourceName": "kubevirt.io/receiver", "selectors": [{"vendor": "046d", "product": "c52b"}]}],
    });
    nodes.push(json!({
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {
            "developerConfiguration": {"featureGates": ["HostDevices"]}, "permittedHostDevices": permitted,
        }},
    }));
    let cluster = MemoryCluster::of(nodes);
    cluster.failing(&PCI_DEVICE, ClusterError::KindNotServed).failing(&USB_DEVICE, ClusterError::KindNotServed)
}

fn on_plain(directive: &str, devices: &[&str], placement: &Value, cluster: MemoryCluster) -> Answer {
    let vm = vm((directive, &json!({"devices": devices}).to_string()), placement);
    Request::create(vm).settings(plain()).cluster(cluster).evaluate()
}

const DEVICES: [(&str, &str); 2] = [("pci-passthrough", "10de:27b8"), ("usb-passthrough", "046d:c52b")];

/// A node that a directive names gets selected by its hostname.
#[rstest]
#[case::name("worker1.lab.example", json!({}))]
#[case::name_and_hostname("worker1.lab.example", json!({"nodeSelector": {"kubernetes.io/hostname": "worker1"}}))]
#[case::name_and_affinity("worker1.lab.example", expressions(json!([{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["worker2"]}])))]
#[case::name_and_field("worker1.lab.example", fields(json!([{"key": "metadata.name", "operator": "In", "values": ["worker1.lab.example"]}])))]
fn without_harvester_a_directive_names_a_node_by_its_name(#[case] node: &str, #[case] placement: Value) {
    for (directive, device) in DEVICES {
        let answer = on_plain(directive, &[&format!("{node}/{device}")], &placement, without_harvester());
        assert!(answer.is_accepted(), "{}", answer.message());
        let selector = &answer.after()["spec"]["template"]["spec"]["nodeSelector"];
        assert_eq!(*selector, json!({"kubernetes.io/hostname": "worker1"}));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }
}

#[rstest]
#[case::selector("worker1.lab.example", json!({"nodeSelector": {"kubernetes.io/hostname": "worker2"}}), "may run only on worker1;")]
#[case::the_name_as_hostname("worker1.lab.example", json!({"nodeSelector": {"kubernetes.io/hostname": "worker1.lab.example"}}), "exclude that node")]
#[case::affinity("worker1.lab.example", expressions(json!([{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["worker1"]}])), "exclude that node")]
#[case::field("worker1.lab.example", fields(json!([{"key": "metadata.name", "operator": "NotIn", "values": ["worker1.lab.example"]}])), "exclude that node")]
#[case::a_node_that_is_called_as_the_hostname("worker1", json!({"nodeSelector": {"kubernetes.io/hostname": "worker1"}}), "may run only on worker1.lab.example")]
fn without_harvester_a_node_that_the_placement_excludes_is_an_error(
    #[case] node: &str,
    #[case] placement: Value,
    #[case] part: &str,
) {
    for (directive, device) in DEVICES {
        let answer = on_plain(directive, &[&format!("{node}/{device}")], &placement, without_harvester());
        answer.assert_denied(&[&format!("the directive names the node {node}, but"), part]);
    }
}

/// No node has that name, so the VM and the directive mean the same by it.
#[test]
fn without_harvester_a_directive_may_name_the_hostname_that_the_vm_selects() {
    for placement in [json!({}), json!({"nodeSelector": {"kubernetes.io/hostname": "worker1"}})] {
        for (directive, device) in DEVICES {
            let mut cluster = without_harvester();
            cluster.object("Node", "worker1")["metadata"]["name"] = json!("worker2.lab.example");
            let answer = on_plain(directive, &[&format!("worker1/{device}")], &placement, cluster);
            assert!(answer.is_accepted(), "{}", answer.message());
            let selector = &answer.after()["spec"]["template"]["spec"]["nodeSelector"];
            assert_eq!(*selector, json!({"kubernetes.io/hostname": "worker1"}));
            assert_eq!(answer.warnings(), Vec::<&str>::new());
        }
    }
}

/// Only the node itself says that it has a device.
#[rstest]
#[case::no_such_node("worker9/", json!({}), json!({}), "no node worker9 that the VirtualMachine may run on has all of these devices")]
#[case::another_node("worker1/", json!({}), json!({}), "no node worker1 that")]
#[case::selector("", json!({"nodeSelector": {"kubernetes.io/hostname": "worker2"}}), json!({}), "no node that the VirtualMachine may run on has all")]
#[case::field("", fields(json!([{"key": "metadata.name", "operator": "NotIn", "values": ["worker1.lab.example"]}])), json!({}), "no node that")]
#[case::taint("", json!({}), json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}]}), "no node that")]
fn without_harvester_devices_that_are_nowhere_the_vm_may_run_are_a_warning(
    #[case] node: &str,
    #[case] placement: Value,
    #[case] worker1: Value,
    #[case] part: &str,
) {
    for (directive, device) in DEVICES {
        let evaluate = |node: &str, placement: &Value, cluster| {
            let answer = on_plain(directive, &[&format!("{node}{device}")], placement, cluster);
            assert!(answer.is_accepted(), "{}", answer.message());
            answer.warnings().join(" ")
        };
        let mut cluster = without_harvester();
        cluster.object("Node", "worker1.lab.example")["spec"] = worker1.clone();
        let warnings = evaluate(node, &placement, cluster);
        assert!(warnings.contains(part) && warnings.contains("will not be scheduled"), "{warnings}");

        assert_eq!(evaluate("", &json!({}), without_harvester()), "");
        let unknown = without_harvester().without("get", &NODE).without("watch", &NODE);
        assert_eq!(evaluate(node, &placement, unknown), "");
    }
}

/// KubeVirt's virt-handler has not told any node that it has them.
#[test]
fn without_harvester_devices_that_no_node_is_known_to_have_may_be_anywhere() {
    let mut cluster = without_harvester();
    cluster.object("Node", "worker1.lab.example")["status"]["allocatable"] = json!({"cpu": "8"});
    let placement = json!({"nodeSelector": {"kubernetes.io/hostname": "worker2"}});
    let answer = on_plain("pci-passthrough", &["worker1/10de:27b8"], &placement, cluster);
    assert_eq!((answer.is_accepted(), answer.warnings()), (true, vec![]), "{}", answer.message());
}

/// A device's node decides about the CPU, as any other placement does.
#[rstest]
#[case::named(json!({}), "vmx")]
#[case::named_but_not_pinned(json!({"pciPassthrough": {"pinToNode": false}}), "vmx")]
fn the_node_that_a_directive_names_tells_the_vendor(#[case] settings: Value, #[case] expected: &str) {
    let devices = json!({"devices": ["worker1.lab.example/10de:27b8"]}).to_string();
    let vm = bare_vm(&[("pci-passthrough", &devices), ("nested-virt", "enabled")]);
    let mut settings = settings;
    settings["kubevirt"] = plain()["kubevirt"].clone();
    let answer = Request::create(vm).settings(settings).cluster(without_harvester()).evaluate();
    if answer.is_accepted() {
        assert_eq!(answer.domain()["cpu"]["features"][0]["name"], expected);
    } else {
        answer.assert_denied(&[expected]);
    }
}

/// Both nodes have a device at the address, but node2 takes no new VMs at the moment.
#[rstest]
#[case::cordoned(json!({"spec": {"unschedulable": true}}))]
#[case::without_kubevirt(json!({"metadata": {"labels": {"kubevirt.io/schedulable": "false"}}}))]
fn a_node_that_takes_no_vms_now_makes_no_device_ambiguous(#[case] state: Value) {
    use super::devices::{node, pci};
    let mut node2 = node("node2");
    for (key, value) in state["spec"].as_object().into_iter().flatten() {
        node2["spec"][key] = value.clone();
    }
    for (key, value) in state["metadata"]["labels"].as_object().into_iter().flatten() {
        node2["metadata"]["labels"][key] = value.clone();
    }
    let cluster = |node2: Value| {
        let devices =
            [pci("node1-000003000", "10de:1eb8", "7", "a.com/x"), pci("node2-000003000", "10de:1eb9", "7", "a.com/y")];
        MemoryCluster::of([vec![node("node1"), node2], devices.concat()].concat())
    };
    let ask = || bare_vm(&[("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#)]);
    let answer = Request::create(ask()).cluster(cluster(node2)).evaluate();
    assert_eq!(answer.domain()["devices"]["hostDevices"][0]["name"], "node1-000003000", "{}", answer.message());
    let both = Request::create(ask()).cluster(cluster(node("node2"))).evaluate();
    both.assert_denied(&["matches different devices"]);
}
