//! Directive `hugepages`.

use rstest::rstest;
use serde_json::{Value, json};

use vm_feature_manager_policy::cluster::NODE;

use super::harness::{MemoryCluster, Request, annotate, bare_vm};

/// Settings of a cluster without Harvester, where nothing changes the requests after the policy.
fn plain() -> Value {
    json!({"kubevirt": {"namespace": "kubevirt"}})
}

fn vm(size: &str, domain: Value) -> Value {
    let mut vm = bare_vm(&[("hugepages", size)]);
    vm["spec"]["template"]["spec"]["domain"] = domain;
    vm
}

fn guest(memory: &str) -> Value {
    json!({"memory": {"guest": memory}})
}

fn node(pages: Value) -> MemoryCluster {
    let mut cluster = MemoryCluster::with_nodes(&[("node1", &[])]);
    cluster.object("Node", "node1")["status"] = json!({"allocatable": pages});
    cluster
}

#[rstest]
fn sizes(#[values("2Mi", "1Gi")] size: &str) {
    let cluster = node(json!({"hugepages-2Mi": "8Gi", "hugepages-1Gi": "8Gi"}));
    let answer = Request::create(vm(size, guest("8Gi"))).settings(plain()).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.domain()["memory"], json!({"guest": "8Gi", "hugepages": {"pageSize": size}}));
    assert_eq!(answer.annotation("hugepages-applied").unwrap(), size);
    assert_eq!(answer.added("hugepages").unwrap(), format!(r#"[{{"hugepages":"{size}"}}]"#));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
#[case::another_size("4Ki", json!({}), "write 2Mi or 1Gi")]
#[case::another_case("2mi", json!({}), "write 2Mi or 1Gi")]
#[case::setting("1Gi", json!({"hugepages": {"pageSizes": ["2Mi"]}}), "write 2Mi")]
fn sizes_that_are_not_allowed(#[case] size: &str, #[case] settings: Value, #[case] part: &str) {
    let answer = Request::create(vm(size, guest("8Gi"))).settings(settings).evaluate();
    answer.assert_denied(&["not a page size that the policy allows", part]);
}

#[rstest]
#[case::list(json!("2Mi"), "a list of 2Mi, 1Gi")]
#[case::word(json!(["4Mi"]), "a list of 2Mi, 1Gi")]
fn settings_that_are_wrong(#[case] sizes: Value, #[case] part: &str) {
    let answer =
        Request::create(vm("2Mi", guest("8Gi"))).settings(json!({"hugepages": {"pageSizes": sizes}})).evaluate();
    assert!(!answer.is_accepted());
    assert!(
        answer.message().contains("hugepages.pageSizes") && answer.message().contains(part),
        "{}",
        answer.message()
    );
}

#[rstest]
#[case::request("1Gi", json!({"resources": {"requests": {"memory": "2Gi"}}}))]
#[case::limit("1Gi", json!({"resources": {"limits": {"memory": "2048Mi"}}}))]
#[case::the_request_before_the_limit("2Mi", json!({"resources": {"requests": {"memory": "2Mi"}, "limits": {"memory": "3Mi"}}}))]
#[case::one_page("1Gi", guest("1Gi"))]
#[case::a_limit_above_the_guest("2Mi", json!({"memory": {"guest": "8Gi"}, "resources": {"limits": {"memory": "9001M"}}}))]
#[case::fractions("2Mi", guest("8.5Gi"))]
#[case::bytes("1Gi", guest("8589934592"))]
#[case::thousandths("1Gi", json!({"resources": {"requests": {"memory": "8589934592000m"}}}))]
#[case::a_number("1Gi", json!({"memory": {"guest": 8_589_934_592_u64}}))]
#[case::hotplug("1Gi", json!({"memory": {"guest": "2Gi", "maxGuest": "8Gi"}}))]
fn memory_that_kubevirt_takes(#[case] size: &str, #[case] domain: Value) {
    let answer = Request::create(vm(size, domain)).settings(plain()).evaluate();
    assert_eq!(answer.domain()["memory"]["hugepages"], json!({"pageSize": size}), "{}", answer.message());
}

#[rstest]
#[case::less("1Gi", guest("512Mi"), &["memory.guest is 512Mi", "less than one page of 1Gi"])]
#[case::not_a_multiple("1Gi", guest("8092Mi"), &["memory.guest is 8092Mi", "not a multiple of the page size 1Gi"])]
#[case::odd("2Mi", guest("1365Mi"), &["1365Mi", "2Mi"])]
#[case::request("2Mi", json!({"memory": {"guest": "2Gi"}, "resources": {"requests": {"memory": "1365Mi"}}}), &["requests.memory is 1365Mi"])]
#[case::guest_beside_a_request("1Gi", json!({"memory": {"guest": "1536Mi"}, "resources": {"requests": {"memory": "2Gi"}}}), &["memory.guest is 1536Mi"])]
#[case::limit("1Gi", json!({"resources": {"limits": {"memory": "1500M"}}}), &["limits.memory is 1500M"])]
#[case::decimal("2Mi", guest("8G"), &["memory.guest is 8G", "not a multiple of the page size 2Mi"])]
#[case::a_limit_below_the_guest("1Gi", json!({"memory": {"guest": "8Gi"}, "resources": {"limits": {"memory": "7.5Gi"}}}), &["limits.memory is 7.5Gi"])]
#[case::hotplug("1Gi", json!({"memory": {"guest": "2Gi", "maxGuest": "7.5Gi"}}), &["memory.maxGuest is 7.5Gi", "not a multiple of the page size 1Gi"])]
#[case::no_memory("1Gi", json!({}), &["does not say how much memory its guest has", "set spec.template.spec.domain.memory.guest"])]
#[case::zero_memory("2Mi", json!({"memory": {"guest": "0"}, "resources": {"requests": {"memory": 0}}}), &["how much memory"])]
#[case::cpus_alone("2Mi", json!({"cpu": {"cores": 4}, "resources": {"limits": {"cpu": "4"}}}), &["how much memory"])]
#[case::no_size("2Mi", json!({"memory": {"guest": "2Gi", "hugepages": {"pageSize": "big"}}}), &["pageSize is \"big\"", "contradicts"])]
#[case::another_size("2Mi", json!({"memory": {"guest": "2Gi", "hugepages": {"pageSize": "1Gi"}}}), &["pageSize is \"1Gi\"", "contradicts"])]
fn memory_that_kubevirt_refuses(#[case] size: &str, #[case] domain: Value, #[case] parts: &[&str]) {
    let answer = Request::create(vm(size, domain)).settings(plain()).evaluate();
    answer.assert_denied(parts);
    assert!(!answer.message().contains("Harvester"), "{}", answer.message());
}

#[test]
fn on_harvester_the_message_names_the_reserved_memory() {
    let answer = Request::create(vm("1Gi", guest("8092Mi"))).evaluate();
    answer.assert_denied(&["not a multiple", "harvesterhci.io/reservedMemory"]);
}

#[rstest]
#[case::not_pinned(json!({"memory": {"guest": "8Gi"}, "resources": {"limits": {"memory": "8Gi"}}}), true)]
#[case::pinned(json!({"cpu": {"dedicatedCpuPlacement": true}, "memory": {"guest": "8Gi"}, "resources": {"requests": {"memory": "5461Mi"}, "limits": {"memory": "8Gi"}}}), false)]
#[case::host_devices(json!({"memory": {"guest": "8Gi"}, "devices": {"hostDevices": [{"name": "a", "deviceName": "b/c"}]}, "resources": {"limits": {"memory": "8Gi"}}}), false)]
#[case::no_limit(json!({"memory": {"guest": "8Gi"}}), false)]
fn harvester_lowers_the_request_of_a_new_vm(#[case] domain: Value, #[case] warns: bool) {
    let answer = Request::create(vm("2Mi", domain.clone())).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let warnings = answer.warnings().join("\n");
    assert_eq!(warnings.contains("add the directive cpu-pinning"), warns, "{warnings}");
    if warns {
        let answer = Request::create(vm("2Mi", domain)).settings(plain()).evaluate();
        assert!(!answer.warnings().join("\n").contains("cpu-pinning"));
    }
}

#[test]
fn the_request_of_a_vm_that_harvester_stored_counts() {
    let domain = |request| json!({"resources": {"requests": {"memory": request}, "limits": {"memory": "8Gi"}}});
    let update = |request| {
        let old = vm("", domain(request));
        let mut new = old.clone();
        annotate(&mut new, &[("hugepages", "2Mi")]);
        Request::update(old, new).evaluate()
    };
    update("5461Mi").assert_denied(&["requests.memory is 5461Mi"]);
    assert!(update("5460Mi").is_accepted());
}

#[test]
fn pinning_in_the_same_request_counts() {
    let mut vm = vm(
        "1Gi",
        json!({"cpu": {"cores": 1}, "resources": {"requests": {"memory": "1365Mi"}, "limits": {"memory": "2Gi"}}}),
    );
    annotate(&mut vm, &[("cpu-pinning", "enabled")]);
    let answer = Request::create(vm).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert!(!answer.warnings().join("\n").contains("overcommit"));
}

#[test]
fn what_an_instance_type_has_is_left_to_kubevirt() {
    let mut vm = vm("1Gi", guest("8092Mi"));
    vm["spec"]["instancetype"] = json!({"name": "u1.medium"});
    assert!(Request::create(vm).evaluate().is_accepted());
}

#[test]
fn what_the_user_wrote_is_theirs() {
    let domain = json!({"memory": {"guest": "2Gi", "hugepages": {"pageSize": "2Mi"}}});
    let answer = Request::create(vm("2Mi", domain)).settings(plain()).evaluate();
    assert!(answer.is_accepted());
    assert_eq!(answer.added("hugepages"), None);
}

/// Equal quantities are equal, but the name of a resource is a word.
#[rstest]
#[case::gibi("1Gi", "1024Mi")]
#[case::kibi("2Mi", "2048Ki")]
fn the_same_size_in_other_words(#[case] size: &str, #[case] in_place: &str) {
    let domain = json!({"memory": {"guest": "8Gi", "hugepages": {"pageSize": in_place}}});
    let cluster = node(json!({"hugepages-1Gi": "8Gi", "hugepages-2Mi": "8Gi"}));
    let answer = Request::create(vm(size, domain.clone())).settings(plain()).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!((answer.domain(), answer.added("hugepages")), (domain, None));
    let warnings = answer.warnings().join(" ");
    let parts = [format!("pageSize is \"{in_place}\""), format!("only as hugepages-{size}"), format!("write {size}")];
    assert!(parts.iter().all(|part| warnings.contains(part)), "{warnings}");
}

/// The pod requests as many pages as the VirtualMachine requests memory, but not more than the guest has
/// (`WithHugePages`), nothing for QEMU itself. If there is no request, the limit is it, or else the guest's memory.
#[rstest]
#[case::more_than_the_guest(json!({"memory": {"guest": "8Gi"}, "resources": {"requests": {"memory": "9Gi"}}}), "8Gi")]
#[case::less_than_the_guest(json!({"memory": {"guest": "8Gi"}, "resources": {"requests": {"memory": "4Gi"}}}), "4Gi")]
#[case::guest(guest("8Gi"), "8Gi")]
#[case::request(json!({"resources": {"requests": {"memory": "8Gi"}}}), "8Gi")]
#[case::limit(json!({"resources": {"limits": {"memory": "8Gi"}}}), "8Gi")]
#[case::request_and_limit(json!({"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "8Gi"}}}), "4Gi")]
#[case::limit_above_the_guest(json!({"memory": {"guest": "4Gi"}, "resources": {"limits": {"memory": "8Gi"}}}), "4Gi")]
#[case::limit_below_the_guest(json!({"memory": {"guest": "8Gi"}, "resources": {"limits": {"memory": "4Gi"}}}), "4Gi")]
#[case::hotplug(json!({"memory": {"guest": "4Gi", "maxGuest": "64Gi"}}), "4Gi")]
fn the_pages_of_a_pod(#[case] domain: Value, #[case] pages: &str) {
    for (there, warns) in [(pages.to_owned(), false), (format!("{}Mi", pages_in_mebibytes(pages) - 2), true)] {
        let cluster = node(json!({"hugepages-2Mi": there}));
        let answer = Request::create(vm("2Mi", domain.clone())).settings(plain()).cluster(cluster).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        let warnings = answer.warnings().join("\n");
        assert_eq!(warnings.contains("has enough hugepages-2Mi"), warns, "{there} {warnings}");
    }
}

fn pages_in_mebibytes(text: &str) -> u64 {
    text.trim_end_matches("Gi").parse::<u64>().unwrap() * 1024
}

/// A cluster whose KubeVirt requests less memory than guests have.
fn overcommitting(percent: &Value) -> MemoryCluster {
    MemoryCluster::of(vec![json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {"developerConfiguration": {"memoryOvercommit": percent}}},
    })])
}

/// KubeVirt divides the guest's memory by the overcommit if the VM has neither a request nor a limit (`template.go:1538`,
/// `renderresources.go:256`), and Kubernetes rejects a pod whose pages are not whole.
#[rstest]
#[case::not_whole(guest("4Gi"), json!(150), Some("the memory request is 2863311530 bytes (4Gi with a memoryOvercommit of 150), which is not a multiple of the page size 1Gi"))]
#[case::less_than_a_page(guest("1Gi"), json!(150), Some("the memory request is 715827882 bytes (1Gi with a memoryOvercommit of 150), less than one page of 1Gi"))]
#[case::pinned(json!({"memory": {"guest": "4Gi"}, "cpu": {"cores": 1, "dedicatedCpuPlacement": true}}), json!(150), Some("2863311530 bytes"))]
#[case::whole(guest("6Gi"), json!(150), None)]
#[case::a_request(json!({"memory": {"guest": "4Gi"}, "resources": {"requests": {"memory": "4Gi"}}}), json!(150), None)]
#[case::a_limit(json!({"memory": {"guest": "4Gi"}, "resources": {"limits": {"memory": "8Gi"}}}), json!(150), None)]
#[case::the_default(guest("4Gi"), json!(100), None)]
#[case::undercommitted(guest("4Gi"), json!(90), None)]
#[case::nothing(guest("4Gi"), Value::Null, None)]
#[case::zero(guest("4Gi"), json!(0), None)]
fn kubevirt_overcommits_memory(#[case] domain: Value, #[case] percent: Value, #[case] refusal: Option<&str>) {
    let answer = Request::create(vm("1Gi", domain)).settings(plain()).cluster(overcommitting(&percent)).evaluate();
    match refusal {
        Some(part) => answer.assert_denied(&[part]),
        None => assert!(answer.is_accepted(), "{}", answer.message()),
    }
    if let Some(part) = refusal.filter(|part| part.contains("multiple")) {
        answer.assert_denied(&[part, "unless spec.template.spec.domain.resources.requests.memory is set"]);
    }
}

#[rstest]
#[case::whole_pages_but_too_few(
    150,
    Some(
        "the memory request is 4294967296 bytes (6Gi with a memoryOvercommit of 150), but the guest has 6Gi, so it has too few pages"
    )
)]
#[case::undercommitted(50, None)]
fn an_overcommit_that_leaves_too_few_pages_is_a_warning(#[case] percent: u64, #[case] warning: Option<&str>) {
    let cluster = overcommitting(&json!(percent));
    let answer = Request::create(vm("1Gi", guest("6Gi"))).settings(plain()).cluster(cluster).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let warnings = answer.warnings().join(" ");
    assert_eq!(warnings.contains("too few pages"), warning.is_some(), "{warnings}");
    assert!(warnings.contains(warning.unwrap_or_default()), "{warnings}");
}

/// Harvester leaves a VM without a memory limit to KubeVirt. KubeVirt's object is read only if its overcommit counts.
#[rstest]
#[case::no_limit(guest("4Gi"), true)]
#[case::a_limit(json!({"memory": {"guest": "4Gi"}, "resources": {"limits": {"memory": "4Gi"}}}), false)]
fn kubevirt_is_asked_for_its_overcommit_only_if_it_counts(#[case] domain: Value, #[case] is_asked: bool) {
    for settings in [json!({}), plain()] {
        let answer = Request::create(vm("1Gi", domain.clone())).settings(settings).evaluate();
        assert_eq!(answer.lookups.contains(&"get KubeVirt kubevirt".to_owned()), is_asked, "{:?}", answer.lookups);
    }
}

/// The guest's memory is backed by no other pages than those of its pod.
#[rstest]
#[case::request(json!({"memory": {"guest": "8Gi"}, "resources": {"requests": {"memory": "4Gi"}}}), Some("requests.memory is 4Gi, but the guest has 8Gi"))]
#[case::limit(json!({"memory": {"guest": "8Gi"}, "resources": {"limits": {"memory": "4Gi"}}}), Some("limits.memory is 4Gi, but the guest has 8Gi"))]
#[case::equal(json!({"memory": {"guest": "8Gi"}, "resources": {"requests": {"memory": "8192Mi"}}}), None)]
fn a_warning_where_the_guest_has_too_few_pages(#[case] domain: Value, #[case] warning: Option<&str>) {
    let answer = Request::create(vm("2Mi", domain)).settings(plain()).evaluate();
    assert!(answer.is_accepted(), "{}", answer.message());
    let warnings = answer.warnings().join(" ");
    assert_eq!(warnings.contains("too few pages"), warning.is_some(), "{warnings}");
    assert!(warnings.contains(warning.unwrap_or_default()), "{warnings}");
}

#[rstest]
#[case::enough(node(json!({"hugepages-2Mi": "8Gi"})), false)]
#[case::too_few(node(json!({"hugepages-2Mi": "8190Mi"})), true)]
#[case::another_size(node(json!({"hugepages-1Gi": "8Gi"})), true)]
#[case::odd(node(json!({"hugepages-2Mi": "many"})), true)]
#[case::none(node(json!({})), true)]
#[case::nodes_that_may_not_be_read(node(json!({})).without("watch", &NODE), false)]
fn a_warning_where_no_node_has_enough(#[case] cluster: MemoryCluster, #[case] warns: bool) {
    let answer = Request::create(vm("2Mi", guest("8Gi"))).settings(plain()).cluster(cluster).evaluate();
    assert!(answer.is_accepted());
    let warnings = answer.warnings().join("\n");
    assert_eq!(warnings.contains("has enough hugepages-2Mi"), warns, "{warnings}");
}

#[test]
fn a_directive_that_changes_or_goes() {
    let before = vm("2Mi", guest("8Gi"));
    let stored = Request::create(before.clone()).settings(plain()).evaluate().after();
    let mut changed = stored.clone();
    annotate(&mut changed, &[("hugepages", "1Gi")]);
    let answer = Request::update(stored, changed).settings(plain()).evaluate();
    assert_eq!(answer.domain()["memory"]["hugepages"], json!({"pageSize": "1Gi"}), "{}", answer.message());
    let stored = answer.after();
    let mut gone = stored.clone();
    gone["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/hugepages");
    let after = Request::update(stored, gone).settings(plain()).evaluate().after();
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["metadata"]["annotations"], json!({}));
}

#[test]
fn memory_that_was_made_for_the_pages_goes_with_them() {
    let before = vm("2Mi", json!({"resources": {"limits": {"memory": "8Gi"}}}));
    let stored = Request::create(before.clone()).settings(plain()).evaluate().after();
    assert_eq!(stored["spec"]["template"]["spec"]["domain"]["memory"], json!({"hugepages": {"pageSize": "2Mi"}}));
    let mut gone = stored.clone();
    gone["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/hugepages");
    let after = Request::update(stored, gone).settings(plain()).evaluate().after();
    assert_eq!(after["spec"], before["spec"]);
}

/// The memory that Harvester's webhook, which runs later, sets. The domains have a limit of 8Gi unless they say something else.
mod on_harvester {
    use super::super::harness::fixtures;
    use super::*;

    const OVERCOMMITTED: &str = "5461Mi";
    const PCI: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#);

    fn domain(more: Value) -> Value {
        let mut domain = json!({"devices": {}, "resources": {"limits": {"memory": "8Gi"}}});
        domain.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        domain
    }

    fn pinned() -> Value {
        domain(json!({"cpu": {"cores": 1, "dedicatedCpuPlacement": true}}))
    }

    /// A VM as Harvester stores it: with the guest's memory and a request.
    fn stored(limit: &str, request: &str) -> Value {
        let memory = json!({"guest": limit});
        domain(json!({"memory": memory, "resources": {"limits": {"memory": limit}, "requests": {"memory": request}}}))
    }

    fn reserving(mut vm: Value, memory: &str) -> Value {
        vm["metadata"]["annotations"]["harvesterhci.io/reservedMemory"] = json!(memory);
        vm
    }

    fn evaluate(request: Request) -> super::super::harness::Answer {
        request.cluster(MemoryCluster::of(fixtures("../../examples/harvester/cluster/cluster.yaml"))).evaluate()
    }

    /// A warning that cpu-pinning would help.
    fn is_warned(answer: &super::super::harness::Answer) -> bool {
        assert!(answer.is_accepted(), "{}", answer.message());
        answer.warnings().join("\n").contains("add the directive cpu-pinning")
    }

    #[rstest]
    #[case::by_a_page("1Gi", "1Gi", None)]
    #[case::by_small_pages("2Mi", "100Mi", None)]
    #[case::by_less_than_a_page(
        "1Gi",
        "256Mi",
        Some("the guest's memory is 8Gi less 256Mi, which is not a multiple of the page size 1Gi")
    )]
    #[case::to_less_than_a_page(
        "1Gi",
        "7.5Gi",
        Some("the guest's memory is 8Gi less 7.5Gi, less than one page of 1Gi")
    )]
    #[case::by_more_than_there_is("2Mi", "9Gi", Some("the guest's memory is 8Gi less 9Gi, less than one page of 2Mi"))]
    #[case::by_a_word(
        "2Mi",
        "much",
        Some("harvesterhci.io/reservedMemory under metadata.annotations is \"much\", which is not a quantity")
    )]
    fn reserved_memory_counts(#[case] size: &str, #[case] reserved: &str, #[case] refusal: Option<&str>) {
        let answer = evaluate(Request::create(reserving(vm(size, pinned()), reserved)));
        match refusal {
            None => assert!(answer.is_accepted(), "{}", answer.message()),
            Some(part) => answer.assert_denied(&[part]),
        }
        let elsewhere = Request::create(reserving(vm(size, pinned()), reserved)).settings(plain()).evaluate();
        assert!(elsewhere.is_accepted(), "{}", elsewhere.message());
    }

    /// 8292Mi, of which the guest has 8Gi: KubeVirt divides the limit only if CPUs are pinned.
    #[rstest]
    #[case::pinned(json!({"cpu": {"cores": 1, "dedicatedCpuPlacement": true}}), Some("limits.memory is 8292Mi"))]
    #[case::pinned_with_a_device(
        json!({"cpu": {"cores": 1, "dedicatedCpuPlacement": true}, "devices": {"gpus": [{"name": "a", "deviceName": "b/c"}]}}),
        Some("limits.memory is 8292Mi")
    )]
    #[case::a_device(json!({"devices": {"gpus": [{"name": "a", "deviceName": "b/c"}]}}), None)]
    #[case::neither(json!({}), None)]
    fn a_limit_that_does_not_divide(#[case] more: Value, #[case] refusal: Option<&str>) {
        let mut domain = domain(more);
        domain["resources"]["limits"]["memory"] = json!("8292Mi");
        let answer = evaluate(Request::create(reserving(vm("1Gi", domain), "100Mi")));
        match refusal {
            Some(part) => answer.assert_denied(&[part, "not a multiple of the page size 1Gi"]),
            None => assert!(answer.is_accepted(), "{}", answer.message()),
        }
    }

    /// With host devices or GPUs, the request is the guest's memory.
    #[rstest]
    #[case::none(json!({}), None, true)]
    #[case::host_device(json!({"hostDevices": [{"name": "a", "deviceName": "b/c"}]}), None, false)]
    #[case::gpu(json!({"gpus": [{"name": "a", "deviceName": "b/c"}]}), None, false)]
    #[case::directive(json!({}), Some(PCI), false)]
    fn devices_keep_the_request(#[case] devices: Value, #[case] directive: Option<(&str, &str)>, #[case] warns: bool) {
        let mut vm = vm("2Mi", domain(json!({"devices": devices})));
        annotate(&mut vm, directive.as_slice());
        assert_eq!(is_warned(&evaluate(Request::create(vm.clone()))), warns);
        if !warns {
            let size = json!({"hugepages": {"errorHandling": "reject"}});
            let answer = evaluate(Request::create(reserving(vm, "101Mi")).settings(size));
            answer.assert_denied(&["the guest's memory is 8Gi less 101Mi", "not a multiple of the page size 2Mi"]);
        }
    }

    #[test]
    fn a_directive_that_is_switched_off_gives_no_devices() {
        let mut vm = vm("2Mi", domain(json!({})));
        annotate(&mut vm, &[PCI]);
        let settings = json!({"pciPassthrough": {"enabled": false}});
        assert!(is_warned(&evaluate(Request::create(vm).settings(settings))));
    }

    fn asked(domain: Value, directives: &[(&str, &str)]) -> Value {
        let mut vm = vm("2Mi", domain);
        annotate(&mut vm, directives);
        vm
    }

    /// A VM as Harvester's form writes it with CPU and memory hotplug: the limits are the maximum.
    fn hotplugged(more: Value) -> Value {
        let mut domain = json!({
            "cpu": {"cores": 1, "sockets": 4, "maxSockets": 8, "threads": 1},
            "memory": {"guest": "8Gi", "maxGuest": "32Gi"},
            "devices": {},
            "resources": {"limits": {"cpu": "8", "memory": "32Gi"}},
        });
        domain.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut vm = vm("2Mi", domain);
        vm["metadata"]["annotations"]["harvesterhci.io/enableCPUAndMemoryHotplug"] = json!("true");
        vm
    }

    /// Harvester leaves the guest's memory to the user, so the pages are at most that. It lowers the request all the same.
    #[test]
    fn hotplug_is_not_counted_in_pages() {
        let cluster = node(json!({"hugepages-2Mi": "8Gi"}));
        let answer = Request::create(hotplugged(json!({}))).cluster(cluster).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        let warnings = answer.warnings().join(" ");
        assert!(!warnings.contains("has enough"), "{warnings}");
        let remedy = "add the directive cpu-pinning, with which the request is the limit, and make \
                      spec.template.spec.domain.resources.limits.cpu the number of the guest's CPUs";
        assert!(warnings.contains(remedy), "{warnings}");
    }

    /// The VM has the directive already, and it is denied.
    #[test]
    fn a_directive_that_is_there_is_not_asked_for() {
        let mut new = hotplugged(json!({}));
        annotate(&mut new, &[("cpu-pinning", "enabled")]);
        let answer = Request::create(new).evaluate();
        answer.assert_denied(&["cpu-pinning cannot be applied", "hotplug and pinned CPUs exclude each other"]);
        let warnings = answer.warnings().join(" ");
        let part = "see the message about the directive cpu-pinning, with which the request is the limit";
        assert!(warnings.ends_with(part), "{warnings}");

        // An update, in which Harvester leaves the request as it is.
        let mut old = bare_vm(&[]);
        old["spec"]["template"]["spec"]["domain"] = stored("8Gi", OVERCOMMITTED);
        let mut new = asked(stored("8Gi", OVERCOMMITTED), &[]);
        annotate(&mut new, &[("cpu-pinning", "maybe")]);
        let answer = evaluate(Request::update(old, new));
        answer.assert_denied(&[
            "cpu-pinning cannot be applied",
            "overcommit ratio, unless the directive cpu-pinning is applied)",
        ]);
        assert!(!answer.message().contains("add the directive"), "{}", answer.message());
    }

    /// The remedy of the warning.
    #[test]
    fn hotplug_of_memory_with_pinned_cpus() {
        let mut vm = hotplugged(json!({"resources": {"limits": {"cpu": "4", "memory": "32Gi"}}}));
        annotate(&mut vm, &[("cpu-pinning", "enabled")]);
        let mut cluster = node(json!({"hugepages-2Mi": "8Gi"}));
        cluster.object("Node", "node1")["metadata"]["labels"]["kubevirt.io/cpumanager"] = json!("true");
        let answer = Request::create(vm).cluster(cluster).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    /// Harvester lowers the request by a ratio that the policy does not know, but not to nothing.
    #[rstest]
    #[case::some(json!({"hugepages-2Mi": "2Mi"}), false)]
    #[case::none(json!({"hugepages-2Mi": "0"}), true)]
    fn a_request_that_is_lowered_needs_fewer_pages(#[case] pages: Value, #[case] warns: bool) {
        let answer = Request::create(vm("2Mi", domain(json!({})))).cluster(node(pages)).evaluate();
        assert_eq!(answer.warnings().join(" ").contains("has enough"), warns, "{:?}", answer.warnings());
    }

    /// With hugepages there is `domain.memory`, so Harvester does not set the guest's memory, and its validator fails.
    #[test]
    fn hotplug_needs_the_memory_of_the_guest() {
        let answer = Request::create(hotplugged(json!({"memory": {"maxGuest": "32Gi"}}))).evaluate();
        answer.assert_denied(&["does not say how much memory its guest has"]);
    }

    /// Harvester sets the guest's memory from a limit only.
    #[test]
    fn a_request_alone_is_no_memory() {
        let domain = json!({"resources": {"requests": {"memory": "8Gi"}}});
        Request::create(vm("2Mi", domain)).evaluate().assert_denied(&["does not say how much memory its guest has"]);
    }

    /// With host devices, Harvester requests the guest's memory less what it reserves, but leaves the guest's memory alone.
    #[rstest]
    #[case::by_pages("256Mi", None)]
    #[case::by_less_than_a_page("101Mi", Some("the memory request is 8Gi less 101Mi, which is not a multiple"))]
    fn hotplug_with_a_device(#[case] reserved: &str, #[case] refusal: Option<&str>) {
        let devices = json!({"devices": {"gpus": [{"name": "a", "deviceName": "b/c"}]}});
        let answer = evaluate(Request::create(reserving(hotplugged(devices), reserved)));
        match refusal {
            Some(part) => answer.assert_denied(&[part]),
            None => {
                let warnings = answer.warnings().join(" ");
                assert!(warnings.contains("the memory request is 8Gi less 256Mi, but the guest has 8Gi"), "{warnings}");
            }
        }
    }

    /// Harvester does not set the requests anew if only they change.
    #[test]
    fn a_request_of_pinned_cpus_that_is_applied_again_counts() {
        let mut old = bare_vm(&[]);
        old["spec"]["template"]["spec"]["domain"] = pinned();
        let mut domain = pinned();
        domain["resources"]["requests"] = json!({"memory": OVERCOMMITTED});
        evaluate(Request::update(old, asked(domain, &[]))).assert_denied(&["requests.memory is 5461Mi"]);
    }

    /// A limit that goes is no reason for Harvester to set the requests.
    #[test]
    fn a_cpu_limit_that_goes_changes_no_request() {
        let mut old = bare_vm(&[]);
        old["spec"]["template"]["spec"]["domain"] = stored("8Gi", OVERCOMMITTED);
        old["spec"]["template"]["spec"]["domain"]["resources"]["limits"]["cpu"] = json!("4");
        evaluate(Request::update(old, asked(stored("8Gi", OVERCOMMITTED), &[])))
            .assert_denied(&["requests.memory is 5461Mi", "overcommit ratio"]);
    }

    /// The stored request comes from Harvester, and counts only if Harvester does not change it.
    #[rstest]
    #[case::nothing_else(stored("8Gi", OVERCOMMITTED), stored("8Gi", OVERCOMMITTED), None)]
    #[case::another_cpu_limit(
        stored("8Gi", OVERCOMMITTED),
        domain(json!({"memory": {"guest": "8Gi"}, "resources": {"limits": {"memory": "8Gi", "cpu": "2"}, "requests": {"memory": OVERCOMMITTED}}})),
        Some(true)
    )]
    #[case::another_limit(stored("8Gi", OVERCOMMITTED), stored("12Gi", OVERCOMMITTED), Some(true))]
    #[case::the_same_limit_in_other_words(stored("8Gi", OVERCOMMITTED), stored("8192Mi", OVERCOMMITTED), None)]
    #[case::pinned_now(
        stored("8Gi", OVERCOMMITTED),
        domain(json!({"cpu": {"cores": 1, "dedicatedCpuPlacement": true}, "resources": {"limits": {"memory": "8Gi"}, "requests": {"memory": OVERCOMMITTED}}})),
        Some(false)
    )]
    #[case::no_longer_pinned(pinned(), domain(json!({})), Some(true))]
    #[case::a_device_now(
        stored("8Gi", OVERCOMMITTED),
        domain(json!({"memory": {"guest": "8Gi"}, "devices": {"gpus": [{"name": "a", "deviceName": "b/c"}]}, "resources": {"limits": {"memory": "8Gi"}, "requests": {"memory": OVERCOMMITTED}}})),
        Some(false)
    )]
    #[case::no_device_any_more(
        domain(json!({"devices": {"gpus": [{"name": "a", "deviceName": "b/c"}]}})),
        domain(json!({})),
        Some(true)
    )]
    fn an_update(#[case] before: Value, #[case] after: Value, #[case] warns: Option<bool>) {
        let mut old = bare_vm(&[]);
        old["spec"]["template"]["spec"]["domain"] = before;
        let answer = evaluate(Request::update(old, asked(after, &[])));
        match warns {
            Some(warns) => assert_eq!(is_warned(&answer), warns),
            None => {
                answer.assert_denied(&["requests.memory is 5461Mi", "overcommit ratio; add the directive cpu-pinning"])
            }
        }
    }

    /// Nobody can correct the old object.
    #[test]
    fn what_is_wrong_in_the_old_vm_does_not_matter() {
        let mut old = bare_vm(&[]);
        old["spec"]["template"]["spec"]["domain"] = stored("much", OVERCOMMITTED);
        assert!(is_warned(&evaluate(Request::update(old, asked(stored("8Gi", OVERCOMMITTED), &[])))));
    }

    #[test]
    fn other_reserved_memory_is_another_request() {
        let old = reserving(bare_vm(&[]), "100Mi");
        let mut old = old;
        old["spec"]["template"]["spec"]["domain"] = stored("8Gi", OVERCOMMITTED);
        let new = reserving(asked(stored("8Gi", OVERCOMMITTED), &[]), "200Mi");
        assert!(is_warned(&evaluate(Request::update(old, new))));
    }

    #[test]
    fn a_device_of_the_same_update_counts() {
        let mut old = bare_vm(&[]);
        old["spec"]["template"]["spec"]["domain"] = stored("8Gi", OVERCOMMITTED);
        let answer = evaluate(Request::update(old, asked(stored("8Gi", OVERCOMMITTED), &[PCI])));
        assert!(!is_warned(&answer));
        assert_eq!(answer.domain()["memory"]["hugepages"], json!({"pageSize": "2Mi"}));
    }

    #[test]
    fn pinning_that_goes_is_missed() {
        let with = asked(pinned_by_directive(), &[("cpu-pinning", "enabled")]);
        let stored = evaluate(Request::create(with)).after();
        let mut gone = stored.clone();
        gone["metadata"]["annotations"].as_object_mut().unwrap().remove("vm-feature-manager.io/cpu-pinning");
        assert!(is_warned(&evaluate(Request::update(stored, gone))));
    }

    fn pinned_by_directive() -> Value {
        domain(json!({"cpu": {"cores": 1}}))
    }

    /// The guest's memory is what Harvester computed from the limit and the reserved memory, until one of them changes.
    #[test]
    fn the_stored_guest_counts_while_its_memory_stays() {
        let mut old = bare_vm(&[]);
        old["spec"]["template"]["spec"]["domain"] = pinned();
        old["spec"]["template"]["spec"]["domain"]["memory"] = json!({"guest": "8091Mi"});
        let mut new = asked(old["spec"]["template"]["spec"]["domain"].clone(), &[]);
        evaluate(Request::update(old.clone(), new.clone()))
            .assert_denied(&["memory.guest is 8091Mi", "harvesterhci.io/reservedMemory"]);
        new["spec"]["template"]["spec"]["domain"]["resources"]["limits"]["memory"] = json!("10Gi");
        assert!(evaluate(Request::update(old, new)).is_accepted());
    }
}
