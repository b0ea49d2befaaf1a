//! Directive `cpu-pinning`.

use rstest::rstest;
use serde_json::{Value, json};

use vm_feature_manager_policy::cluster::NODE;

use super::harness::{MemoryCluster, Request, annotate, bare_vm, fixtures, vm};

/// Settings of a cluster without Harvester, where nothing changes the requests after the policy.
fn plain() -> Value {
    json!({"kubevirt": {"namespace": "kubevirt"}})
}

fn pinned(domain: Value) -> Value {
    let mut vm = bare_vm(&[("cpu-pinning", "enabled")]);
    vm["spec"]["template"]["spec"]["domain"] = domain;
    vm
}

fn node(label: &str) -> MemoryCluster {
    MemoryCluster::with_nodes(&[("node1", &[label])])
}

#[rstest]
fn on(#[values("enabled", "true", "Yes", "1")] value: &str) {
    let answer = Request::create(vm(&[("cpu-pinning", value)])).cluster(node("kubevirt.io/cpumanager")).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let record = format!(r#"{{"cpu-pinning":{{"value":"{value}","added":[{{"dedicatedCpuPlacement":true}}]}}}}"#);
    assert_eq!(
        answer.patch(),
        json!([
            {"op": "add", "path": "/metadata/annotations/vm-feature-manager.io~1cpu-pinning-applied", "value": "true"},
            {"op": "add", "path": "/spec/template/metadata/annotations/vm-feature-manager.io~1record", "value": record},
            {"op": "add", "path": "/spec/template/spec/domain/cpu/dedicatedCpuPlacement", "value": true},
        ])
    );
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
fn off(#[values("disabled", "false", "no", "0", "")] value: &str) {
    Request::create(vm(&[("cpu-pinning", value)])).evaluate().assert_accepted_unchanged();
}

#[test]
fn anything_else_is_an_error() {
    let answer = Request::create(vm(&[("cpu-pinning", "static")])).evaluate();
    answer.assert_denied(&["cpu-pinning", "\"static\"", "must be enabled or disabled"]);
}

#[rstest]
#[case::on("enabled", json!(true), r#"[{"dedicatedCpuPlacement":true},{"isolateEmulatorThread":true}]"#)]
#[case::off("disabled", Value::Null, r#"[{"dedicatedCpuPlacement":true}]"#)]
#[case::empty("", Value::Null, r#"[{"dedicatedCpuPlacement":true}]"#)]
fn the_emulator_thread(#[case] option: &str, #[case] isolated: Value, #[case] record: &str) {
    let vm = vm(&[("cpu-pinning", "enabled"), ("isolate-emulator-thread", option)]);
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["cpu"]["dedicatedCpuPlacement"], json!(true));
    assert_eq!(answer.domain()["cpu"]["isolateEmulatorThread"], isolated);
    assert_eq!(answer.added("cpu-pinning").unwrap(), record);
}

#[test]
fn an_option_that_is_neither_on_nor_off_is_an_error() {
    let answer = Request::create(vm(&[("cpu-pinning", "enabled"), ("isolate-emulator-thread", "maybe")])).evaluate();
    answer.assert_denied(&["isolate-emulator-thread is \"maybe\"", "write enabled or disabled"]);
}

#[test]
fn an_option_without_its_directive_has_no_effect() {
    let answer = Request::create(vm(&[("isolate-emulator-thread", "enabled")])).evaluate();
    answer.assert_accepted_unchanged();
    let warnings = answer.warnings().join("\n");
    assert!(warnings.contains("isolate-emulator-thread has no effect without the directive cpu-pinning"), "{warnings}");
}

#[rstest]
#[case::cores(json!({"cpu": {"cores": 2}}))]
#[case::sockets_alone(json!({"cpu": {"sockets": 2}, "resources": {"limits": {"cpu": 2}}}))]
#[case::limit(json!({"resources": {"limits": {"cpu": "2"}}}))]
#[case::request(json!({"resources": {"requests": {"cpu": "2"}}}))]
#[case::zero_is_nothing(json!({"cpu": {"cores": 2}, "resources": {"requests": {"cpu": "0"}, "limits": {"cpu": 2}}}))]
#[case::both(json!({"cpu": {"cores": 2, "sockets": 2, "threads": 2}, "resources": {"requests": {"cpu": "8"}, "limits": {"cpu": "8000m"}}}))]
#[case::memory(json!({"cpu": {"cores": 2}, "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1024Mi"}}}))]
#[case::two_threads(json!({"cpu": {"threads": 2}}))]
fn amounts_that_kubevirt_takes(#[case] mut domain: Value) {
    domain["memory"] = json!({"guest": "1Gi"});
    let answer = Request::create(pinned(domain)).settings(plain()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["cpu"]["dedicatedCpuPlacement"], json!(true));
}

#[rstest]
#[case::no_count(json!({}), &["how many CPUs", "domain.cpu.cores"])]
#[case::zero(json!({"cpu": {"cores": 0}, "resources": {"limits": {"cpu": "0"}}}), &["how many CPUs"])]
#[case::fraction(json!({"resources": {"limits": {"cpu": "1500m"}}}), &["limits.cpu is 1500m", "whole number"])]
#[case::fraction_of_request(json!({"cpu": {"cores": 1}, "resources": {"requests": {"cpu": 0.5}}}), &["requests.cpu is 0.5"])]
#[case::unequal(json!({"cpu": {"cores": 2}, "resources": {"requests": {"cpu": 1}, "limits": {"cpu": 2}}}), &["requests.cpu is 1 and limits.cpu is 2", "make the two equal"])]
#[case::unequal_memory(json!({"cpu": {"cores": 2}, "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}}), &["requests.memory is 1Gi and limits.memory is 2Gi"])]
#[case::count(json!({"cpu": {"cores": 4}, "resources": {"limits": {"cpu": 2}}}), &["the guest has 4 CPUs", "limits.cpu is 2"])]
#[case::count_of_request(json!({"cpu": {"cores": 4, "sockets": 2}, "resources": {"requests": {"cpu": "2"}}}), &["the guest has 8 CPUs", "requests.cpu is 2"])]
#[case::threads(json!({"cpu": {"threads": 4}}), &["threads is 4", "at most 2 threads"])]
#[case::threads_and_limit(json!({"cpu": {"threads": 3}, "resources": {"limits": {"cpu": 3}}}), &["threads is 3"])]
#[case::forbidden(json!({"cpu": {"cores": 1, "dedicatedCpuPlacement": false}}), &["dedicatedCpuPlacement is false", "contradicts"])]
#[case::shares(json!({"cpu": {"cores": 2}, "resources": {"requests": {"cpu": "1200m"}, "limits": {"cpu": "1800m"}}}), &["requests.cpu is 1200m and limits.cpu is 1800m"])]
#[case::no_memory(json!({"cpu": {"cores": 2}}), &["does not say how much memory its guest has", "domain.memory.guest"])]
#[case::zero_memory(json!({"cpu": {"cores": 2}, "memory": {"guest": "0"}, "resources": {"limits": {"memory": 0}}}), &["how much memory"])]
#[case::no_quantity(json!({"cpu": {"cores": 1}, "resources": {"limits": {"cpu": "two"}}}), &["cpu under spec.template.spec.domain.resources.limits is \"two\"", "not a quantity"])]
fn amounts_that_kubevirt_refuses(#[case] domain: Value, #[case] parts: &[&str]) {
    Request::create(pinned(domain)).settings(plain()).evaluate().assert_denied(parts);
}

/// Any of these is enough for KubeVirt (`validateMemoryIsProvided`), but not for Harvester (`checkEmptyMemory`).
#[rstest]
#[case::guest(json!({"memory": {"guest": "1Gi"}}), true)]
#[case::limit(json!({"resources": {"limits": {"memory": "1Gi"}}}), true)]
#[case::request(json!({"resources": {"requests": {"memory": "1Gi"}}}), false)]
#[case::a_page(json!({"memory": {"hugepages": {"pageSize": "1Gi"}}}), false)]
fn memory_that_counts(#[case] mut domain: Value, #[case] counts_on_harvester: bool) {
    domain["cpu"] = json!({"cores": 2});
    let answer = Request::create(pinned(domain.clone())).settings(plain()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let answer = Request::create(pinned(domain)).evaluate();
    match counts_on_harvester {
        true => assert!(answer.is_accepted(), "{}", answer.message()),
        false => answer.assert_denied(&["how much memory"]),
    }
}

/// KubeVirt counts the limit, or else the request, as sockets if the topology is absent (`SetDefaultGuestCPUTopology`).
/// Harvester sets each absent part of the topology to 1 before that (`patchDefaultCPU`).
#[rstest]
#[case::limit(json!({}), "limits", "4", Some("limits.cpu is 4, but Harvester gives the guest 1 CPU"))]
#[case::model_alone(json!({"model": "host-passthrough", "cores": 0}), "limits", 4, Some("set spec.template.spec.domain.cpu.cores to 4"))]
#[case::request(json!({}), "requests", "4", Some("requests.cpu is 4, but Harvester gives the guest 1 CPU"))]
#[case::one(json!({}), "limits", "1", None)]
#[case::one_in_other_words(Value::Null, "limits", "1000m", None)]
#[case::sockets(json!({"sockets": 4}), "limits", "4", None)]
#[case::threads(json!({"threads": 2, "cores": 2}), "limits", "4", None)]
fn no_topology_is_one_cpu_on_harvester(
    #[case] cpu: Value,
    #[case] field: &str,
    #[case] amount: impl serde::Serialize,
    #[case] refusal: Option<&str>,
) {
    let mut domain = json!({"cpu": cpu, "memory": {"guest": "8Gi"}});
    domain["resources"] = json!({field: {"cpu": amount}});
    let answer = Request::create(pinned(domain.clone())).settings(plain()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let answer = Request::create(pinned(domain)).evaluate();
    match refusal {
        Some(part) => answer.assert_denied(&[part]),
        None => assert!(answer.is_accepted(), "{}", answer.message()),
    }
}

/// Although Harvester would give the guest one CPU: nobody pins one CPU without saying so.
#[test]
fn a_number_is_needed_on_harvester_too() {
    let answer = Request::create(pinned(json!({"memory": {"guest": "8Gi"}}))).evaluate();
    answer.assert_denied(&["does not say how many CPUs it has", "domain.cpu.cores"]);
}

/// CPU hotplug as Harvester's form sets it: the limit is the maximum.
#[rstest]
#[case::the_maximum(
    8,
    Some("the guest has 4 CPUs (sockets x cores x threads), but spec.template.spec.domain.resources.limits.cpu is 8")
)]
#[case::the_cpus(4, None)]
fn cpu_hotplug(#[case] limit: u32, #[case] refusal: Option<&str>) {
    let mut vm = pinned(json!({
        "cpu": {"cores": 1, "sockets": 4, "maxSockets": 8, "threads": 1},
        "memory": {"guest": "8Gi", "maxGuest": "32Gi"},
        "resources": {"limits": {"cpu": limit, "memory": "32Gi"}},
    }));
    vm["metadata"]["annotations"]["harvesterhci.io/enableCPUAndMemoryHotplug"] = json!("true");
    let answer = Request::create(vm).evaluate();
    match refusal {
        Some(part) => answer.assert_denied(&[part, "hotplug and pinned CPUs exclude each other"]),
        None => assert!(answer.is_accepted(), "{}", answer.message()),
    }
}

/// KubeVirt pins one thread of a core on ARM (`validateThreadCountOnArchitecture`).
#[rstest]
#[case::arm("arm64", "amd64", 2, true)]
#[case::one_thread("arm64", "arm64", 1, false)]
#[case::amd("amd64", "arm64", 2, false)]
#[case::unknown("", "amd64", 2, false)]
#[case::nodes("", "arm64", 2, true)]
fn threads_of_an_architecture(#[case] arch: &str, #[case] nodes: &str, #[case] threads: u32, #[case] is_denied: bool) {
    let mut cluster = node("kubevirt.io/cpumanager");
    cluster.object("Node", "node1")["metadata"]["labels"]["kubernetes.io/arch"] = json!(nodes);
    let mut vm = pinned(json!({"cpu": {"cores": 2, "threads": threads}, "memory": {"guest": "8Gi"}}));
    vm["spec"]["template"]["spec"]["architecture"] = json!(arch);
    let answer = Request::create(vm).cluster(cluster).evaluate();
    match is_denied {
        true => answer.assert_denied(&["threads is 2", "at most one thread of a core on arm64"]),
        false => assert!(answer.is_accepted(), "{}", answer.message()),
    }
}

/// The manifest of a VirtualMachine that was exported before its CPUs were pinned is applied again. Harvester sets the
/// requests only if the limits or the pinning change (`needUpdateResourceOvercommit`).
#[rstest]
#[case::the_same_limits("2", true)]
#[case::another_limit("4", false)]
fn harvester_leaves_the_requests_of_pinned_cpus_alone(#[case] limit: &str, #[case] is_denied: bool) {
    let domain = |requests: Value, limit: &str| {
        json!({
            "cpu": {"cores": limit.parse::<u32>().unwrap()},
            "resources": {"requests": requests, "limits": {"cpu": limit, "memory": "8Gi"}},
        })
    };
    let created = Request::create(pinned(domain(json!({}), "2"))).evaluate();
    let mut stored = created.after();
    stored["spec"]["template"]["spec"]["domain"]["resources"]["requests"] = json!({"cpu": "2", "memory": "8Gi"});
    let mut applied = stored.clone();
    let mut exported = domain(json!({"cpu": "125m", "memory": "5461Mi"}), limit);
    exported["cpu"]["dedicatedCpuPlacement"] = json!(true);
    applied["spec"]["template"]["spec"]["domain"] = exported;
    let answer = Request::update(stored, applied).evaluate();
    match is_denied {
        true => answer.assert_denied(&["requests.cpu is 125m and limits.cpu is 2", "make the two equal"]),
        false => assert!(answer.is_accepted(), "{}", answer.message()),
    }
}

#[test]
fn an_emulator_thread_that_the_user_forbids() {
    let mut vm = pinned(json!({"cpu": {"cores": 1, "isolateEmulatorThread": false}, "memory": {"guest": "1Gi"}}));
    assert!(Request::create(vm.clone()).evaluate().is_accepted());
    annotate(&mut vm, &[("isolate-emulator-thread", "enabled")]);
    Request::create(vm).evaluate().assert_denied(&["isolateEmulatorThread is false", "contradicts"]);
}

#[test]
fn harvester_sets_the_requests_itself() {
    let resources =
        |limit| json!({"requests": {"cpu": "62m", "memory": "1Gi"}, "limits": {"cpu": limit, "memory": "8Gi"}});
    let vm = |limit| pinned(json!({"cpu": {"cores": 2}, "resources": resources(limit)}));
    assert!(Request::create(vm("2")).evaluate().is_accepted());
    Request::create(vm("2")).settings(plain()).evaluate().assert_denied(&["make the two equal"]);
    Request::create(vm("3")).evaluate().assert_denied(&["the guest has 2 CPUs", "limits.cpu is 3"]);
}

#[test]
fn what_an_instance_type_has_is_left_to_kubevirt() {
    let mut vm = pinned(json!({"resources": {"limits": {"cpu": "1500m"}}}));
    vm["spec"]["instancetype"] = json!({"name": "u1.medium"});
    let answer = Request::create(vm).settings(plain()).evaluate();
    assert_eq!(answer.domain()["cpu"], json!({"dedicatedCpuPlacement": true}), "{}", answer.message());
}

#[test]
fn what_the_user_wrote_is_theirs() {
    let domain = json!({"cpu": {"cores": 1, "dedicatedCpuPlacement": true}, "memory": {"guest": "1Gi"}});
    let answer = Request::create(pinned(domain)).evaluate();
    assert!(answer.is_accepted());
    assert_eq!(answer.added("cpu-pinning"), None);
    assert_eq!(answer.annotation("cpu-pinning-applied").unwrap(), "true");
}

#[rstest]
#[case::label(node("kubevirt.io/cpumanager"), false)]
#[case::old_label(node("cpumanager"), false)]
#[case::no_label(node("other"), true)]
#[case::another_node(MemoryCluster::with_nodes(&[("node2", &["kubevirt.io/cpumanager"])]), false)]
#[case::nodes_that_may_not_be_read(node("other").without("list", &NODE), false)]
fn a_warning_where_no_node_pins_cpus(#[case] cluster: MemoryCluster, #[case] warns: bool) {
    let answer = Request::create(vm(&[("cpu-pinning", "enabled")])).cluster(cluster).evaluate();
    assert!(answer.is_accepted());
    let warnings = answer.warnings().join("\n");
    assert_eq!(warnings.contains("has the label kubevirt.io/cpumanager=true"), warns, "{warnings}");
}

#[test]
fn a_node_that_is_named_is_read_alone() {
    let mut vm = vm(&[("cpu-pinning", "enabled")]);
    vm["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node1"});
    let cluster = MemoryCluster::with_nodes(&[("node1", &[]), ("node2", &["kubevirt.io/cpumanager"])]);
    let answer = Request::create(vm).cluster(cluster).evaluate();
    assert_eq!(answer.lookups, ["get Node node1", "get KubeVirt kubevirt"]);
    assert!(answer.warnings().join("\n").contains("cpumanager=true"));
}

#[test]
fn a_directive_that_goes_leaves_the_vm_as_it_was() {
    let before = vm(&[]);
    let asked = vm(&[("cpu-pinning", "enabled"), ("isolate-emulator-thread", "enabled")]);
    let stored = Request::update(before.clone(), asked).evaluate().after();
    assert_eq!(stored["spec"]["template"]["spec"]["domain"]["cpu"]["isolateEmulatorThread"], json!(true));
    let mut without = stored.clone();
    let annotations = without["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.retain(|key, _| {
        !matches!(key.as_str(), "vm-feature-manager.io/cpu-pinning" | "vm-feature-manager.io/isolate-emulator-thread")
    });
    assert_eq!(Request::update(stored, without).evaluate().after(), before);
}

#[test]
fn an_option_that_goes_takes_its_entry_along() {
    let asked = vm(&[("cpu-pinning", "enabled"), ("isolate-emulator-thread", "enabled")]);
    let stored = Request::create(asked).evaluate().after();
    let mut without = stored.clone();
    without["metadata"]["annotations"]["vm-feature-manager.io/isolate-emulator-thread"] = json!("disabled");
    let answer = Request::update(stored, without).evaluate();
    assert_eq!(answer.domain()["cpu"]["isolateEmulatorThread"], Value::Null);
    assert_eq!(answer.domain()["cpu"]["dedicatedCpuPlacement"], json!(true));
    assert_eq!(answer.added("cpu-pinning").unwrap(), r#"[{"dedicatedCpuPlacement":true}]"#);
}

#[test]
fn a_flag_that_was_changed_stays_with_a_warning() {
    let stored = Request::create(vm(&[("cpu-pinning", "enabled")])).evaluate().after();
    let mut changed = stored.clone();
    changed["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/cpu-pinning");
    changed["spec"]["template"]["spec"]["domain"]["cpu"]["dedicatedCpuPlacement"] = json!(false);
    let answer = Request::update(stored, changed).evaluate();
    assert_eq!(answer.domain()["cpu"]["dedicatedCpuPlacement"], json!(false));
    assert!(answer.warnings().join("\n").contains("dedicated CPU placement"), "{:?}", answer.warnings());
}

/// Only a node that has the devices counts, whether the directive names it or not.
#[rstest]
#[case::pci("pci-passthrough", r#"{"devices": ["node2/0000:05:00.0"]}"#, json!({}), true)]
#[case::pci_of_a_node_that_pins("pci-passthrough", r#"{"devices": ["node1/0000:01:00.0"]}"#, json!({}), false)]
#[case::pci_without_its_node("pci-passthrough", r#"{"devices": ["0000:05:00.0"]}"#, json!({}), true)]
#[case::usb("usb-passthrough", r#"{"devices": ["node2/046d:c52b"]}"#, json!({}), true)]
#[case::not_selected("usb-passthrough", r#"{"devices": ["node2/046d:c52b"]}"#, json!({"usbPassthrough": {"pinToNode": false}}), true)]
#[case::switched_off("pci-passthrough", r#"{"devices": ["node2/0000:05:00.0"]}"#, json!({"pciPassthrough": {"enabled": false}}), false)]
fn the_node_of_a_device_counts(
    #[case] name: &str,
    #[case] directive: &str,
    #[case] settings: Value,
    #[case] warns: bool,
) {
    let mut objects = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml");
    let nodes = [("node1", "true"), ("node2", "false")];
    objects.retain(|object| object["kind"] != "Node");
    objects.extend(nodes.map(|(name, pins)| {
        let labels = json!({"kubernetes.io/hostname": name, "cpumanager": pins});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": {}})
    }));
    let directives = [("cpu-pinning", "enabled"), ("hugepages", "2Mi"), (name, directive)];
    let mut vm = bare_vm(&directives);
    vm["spec"]["template"]["spec"]["domain"] = json!({"devices": {}, "cpu": {"cores": 2}, "memory": {"guest": "2Gi"}});
    let answer = Request::create(vm).settings(settings).cluster(MemoryCluster::of(objects)).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.warnings().join("\n").contains("cpumanager=true"), warns, "{:?}", answer.warnings());
}
