//! Directive `gpu-device-plugin`.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, PCI_DEVICE};

use super::devices::{kubevirt, names, node_with, pci, update};
use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm, vm};

fn evaluate(value: &str, settings: Value) -> Answer {
    Request::create(bare_vm(&[("gpu-device-plugin", value)])).settings(json!({"gpuDevicePlugin": settings})).evaluate()
}

#[test]
fn the_limit_is_set() {
    let answer = Request::create(vm(&[("gpu-device-plugin", " nvidia.com/gpu\n")])).evaluate();
    assert_eq!(
        answer.patch(),
        json!([
            {
                "op": "add",
                "path": "/metadata/annotations/vm-feature-manager.io~1gpu-device-plugin-applied",
                "value": "nvidia.com/gpu",
            },
            {
                "op": "add",
                "path": "/spec/template/metadata/annotations/vm-feature-manager.io~1record",
                "value": r#"{"gpu-device-plugin":{"value":"nvidia.com/gpu","added":[{"limit":"nvidia.com/gpu","quantity":"1"}]}}"#,
            },
            {
                "op": "add",
                "path": "/spec/template/spec/domain/resources/limits/nvidia.com~1gpu",
                "value": "1",
            },
        ])
    );
}

#[test]
fn a_limit_without_a_device_is_a_warning() {
    for (attach, why) in [
        (
            "auto",
            "KubeVirt's permittedHostDevices cannot be read: the ClusterAdmissionPolicy does not list kubevirt.io/v1 KubeVirt",
        ),
        ("never", "the policy's setting gpuDevicePlugin.attachDevice is never"),
    ] {
        let answer = evaluate("nvidia.com/gpu", json!({"attachDevice": attach}));
        let warning = answer.warnings().join(" ");
        let start = format!(
            "gpu-device-plugin: a limit on nvidia.com/gpu gives the VirtualMachine's pod the resource, but the guest gets no device: {why}"
        );
        assert!(warning.starts_with(&start), "{warning}");
    }
}

/// A resource that Harvester serves becomes a host device, which KubeVirt accepts only with its gate.
#[test]
fn a_host_device_needs_the_gate() {
    let resource = "nvidia.com/TU104GL_TESLA_T4";
    let cluster = |gates: Value| {
        let mut objects = super::harness::fixtures("../../examples/harvester/cluster/cluster.yaml");
        let kubevirt = objects.iter_mut().find(|object| object["kind"] == "KubeVirt").unwrap();
        kubevirt["spec"]["configuration"]["developerConfiguration"]["featureGates"] = gates;
        MemoryCluster::of(objects)
    };
    let evaluate = |gates| {
        let request = Request::create(vm(&[("gpu-device-plugin", resource)])).cluster(cluster(gates));
        request.settings(json!({"gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"]}})).evaluate()
    };
    evaluate(json!(["Sidecar"])).assert_denied(&["gpu-device-plugin", "feature gate HostDevices is off"]);
    let answer = evaluate(json!(["HostDevices"]));
    let devices = answer.domain()["devices"]["hostDevices"].to_string();
    assert!(devices.contains(&format!(r#""deviceName":"{resource}""#)), "{devices}");
}

/// KubeVirt refuses `gpus` without its gate before 1.4. Without Harvester's PCI devices, the resource becomes one of them.
#[rstest]
#[case::before("v1.3.1", json!(["HostDevices"]), true, false)]
#[case::before_with_the_gate("v1.3.1", json!(["GPU"]), true, true)]
#[case::distribution("1.2.2-150500.8.21.1", json!([]), true, false)]
#[case::permanent("v1.4.0", json!([]), true, true)]
#[case::unknown("", json!([]), true, true)]
#[case::no_device("v1.3.1", json!([]), false, true)]
fn a_gpu_needs_the_gate_before_1_4(
    #[case] version: &str,
    #[case] gates: Value,
    #[case] is_permitted: bool,
    #[case] accepted: bool,
) {
    let resource = if is_permitted { "nvidia.com/A10" } else { "nvidia.com/T4" };
    let mut kubevirt =
        kubevirt(json!({"pciHostDevices": [{"pciVendorSelector": "10DE:2236", "resourceName": resource}]}));
    kubevirt["spec"]["configuration"]["developerConfiguration"]["featureGates"] = gates;
    kubevirt["status"]["observedKubeVirtVersion"] = json!(version);
    let cluster = MemoryCluster::of(vec![kubevirt]).failing(&PCI_DEVICE, ClusterError::KindNotServed);
    let answer = Request::create(bare_vm(&[("gpu-device-plugin", "nvidia.com/A10")])).cluster(cluster).evaluate();
    if accepted {
        assert!(answer.is_accepted(), "{}", answer.message());
        assert_eq!(answer.domain()["devices"]["gpus"].is_array(), is_permitted);
    } else {
        answer.assert_denied(&["gpu-device-plugin", "feature gate GPU is off", "add GPU to"]);
    }
}

#[rstest]
#[case::text(json!("2"))]
#[case::number(json!(2))]
#[case::null(json!(null))]
fn a_limit_that_is_there_is_kept(#[case] quantity: Value) {
    let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/gpu")]);
    vm["spec"]["template"]["spec"]["domain"]["resources"] = json!({"limits": {"nvidia.com/gpu": quantity}});
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["resources"]["limits"], json!({"nvidia.com/gpu": quantity}));
    assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some("nvidia.com/gpu"));
}

#[rstest]
#[case::gpu("gpus")]
#[case::host_device("hostDevices")]
fn no_limit_is_set_beside_a_device_of_the_resource(#[case] list: &str) {
    let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/gpu")]);
    vm["spec"]["template"]["spec"]["domain"]["devices"][list] =
        json!([{"name": "mine", "deviceName": "nvidia.com/gpu"}]);
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["resources"], Value::Null);
    assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some("nvidia.com/gpu"));
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
#[case::no_domain("gpu", "the form domain/name")]
#[case::upper_case_domain("NVIDIA.com/gpu", "its domain must consist of lower-case letters")]
#[case::reserved("kubernetes.io/gpu", "reserved by Kubernetes")]
#[case::bad_name("nvidia.com/-gpu", "the part after the slash")]
fn a_bad_name_is_an_error(#[case] value: &str, #[case] part: &str) {
    let settings = json!({"allowedPlugins": ["*"]});
    evaluate(value, settings).assert_denied(&["gpu-device-plugin", part, "such as nvidia.com/gpu"]);
}

#[rstest]
#[case::nvidia("nvidia.com/gpu", json!(null), true)]
#[case::amd("amd.com/gpu", json!([]), true)]
#[case::intel("intel.com/gpu", json!(""), true)]
#[case::chip_of_nvidia("nvidia.com/TU104GL_TESLA_T4", json!(null), true)]
#[case::vgpu("nvidia.com/NVIDIA_L40S-12Q", json!(null), true)]
#[case::part_of_a_gpu("nvidia.com/mig-1g.5gb", json!(null), true)]
#[case::chip_of_amd("amd.com/NAVI_21_RADEON_RX_6800_6800_XT___6900_XT", json!(null), true)]
#[case::accelerator_of_amd("amd.com/ALDEBARAN_MI200_INSTINCT_MI210", json!(null), true)]
#[case::usb_controller_of_amd("amd.com/MATISSE_USB_3_0_HOST_CONTROLLER", json!(null), false)]
#[case::storage_of_amd("amd.com/FCH_SATA_CONTROLLER_AHCI_MODE", json!(null), false)]
#[case::chip_of_intel("intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630", json!(null), true)]
#[case::card_of_intel("intel.com/DG2_ARC_A770", json!(null), true)]
#[case::accelerator_of_intel("intel.com/ATSM_DATA_CENTER_GPU_FLEX_170", json!(null), true)]
#[case::plugin_of_intel("gpu.intel.com/i915", json!(null), true)]
#[case::network_card_of_intel("intel.com/I350_GIGABIT_NETWORK_CONNECTION", json!(null), false)]
#[case::usb_controller_of_intel("intel.com/ALDER_LAKES_PCH_USB_3_2_GEN_2X2_XHCI_CONTROLLER", json!(null), false)]
#[case::crypto_of_intel("qat.intel.com/generic", json!(null), false)]
#[case::other_domain("example.com/gpu", json!(null), false)]
#[case::glob("nvidia.com/mig-1g.5gb", json!(["nvidia.com/*"]), true)]
#[case::question_mark("gpu.intel.com/i915", json!(["gpu.intel.com/i9??"]), true)]
#[case::harvester("intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630", json!(["intel.com/*"]), true)]
#[case::not_in_the_list("amd.com/gpu", json!(["nvidia.com/*"]), false)]
fn resources_are_allowed_by_pattern(#[case] value: &str, #[case] allowed: Value, #[case] accepted: bool) {
    let answer = evaluate(value, json!({"allowedPlugins": allowed}));
    if accepted {
        assert_eq!(answer.domain()["resources"]["limits"], json!({value: "1"}));
    } else {
        let parts = [value, "not one of the resources that the policy allows", "allowedPlugins"];
        answer.assert_denied(&parts);
    }
}

#[rstest]
#[case::limits(json!({"limits": []}), "domain.resources.limits is a list")]
#[case::resources(json!(7), "domain.resources is a number")]
fn resources_of_wrong_types_are_an_error(#[case] resources: Value, #[case] part: &str) {
    let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/gpu")]);
    vm["spec"]["template"]["spec"]["domain"]["resources"] = resources;
    Request::create(vm).evaluate().assert_denied(&[part]);
}

mod with_kubevirt {
    use super::super::harness::MemoryCluster;
    use super::*;

    fn kubevirt() -> MemoryCluster {
        MemoryCluster::of(vec![json!({
            "kind": "KubeVirt",
            "metadata": {"name": "kubevirt", "namespace": "harvester-system"},
            "spec": {"configuration": {"permittedHostDevices": {
                "pciHostDevices": [{"resourceName": "nvidia.com/T4"}],
                "mediatedDevices": [{"resourceName": "nvidia.com/GRID_T4-1Q"}],
                "usb": [{"resourceName": "nvidia.com/usb"}],
            }}},
        })])
        .failing(&PCI_DEVICE, ClusterError::KindNotServed)
    }

    fn ask(vm: Value, settings: Value) -> Answer {
        let mut settings = settings;
        settings["allowedPlugins"] = json!(["*"]);
        Request::create(vm).settings(json!({"gpuDevicePlugin": settings})).cluster(kubevirt()).evaluate()
    }

    #[rstest]
    #[case::pci("nvidia.com/T4", &[crate::lookups::IS_IT_SERVED])]
    #[case::mediated("nvidia.com/GRID_T4-1Q", &[])]
    fn a_resource_that_it_serves_becomes_a_device_without_a_limit(#[case] name: &str, #[case] lookups: &[&str]) {
        let answer = ask(bare_vm(&[("gpu-device-plugin", name)]), json!({}));
        let devices = &answer.domain()["devices"];
        assert_eq!(devices["gpus"], json!([{"name": "gpu-0", "deviceName": name}]));
        assert_eq!(answer.domain()["resources"], Value::Null);
        assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some(name));
        assert_eq!(answer.warnings(), Vec::<&str>::new());
        let nodes = [crate::lookups::WHO_AM_I, "list Node"];
        assert_eq!(answer.lookups, [&["get KubeVirt kubevirt"], lookups, &nodes].concat());
        ask(answer.after(), json!({})).assert_accepted_unchanged();
    }

    #[rstest]
    #[case::not_served("nvidia.com/gpu", "auto", "permittedHostDevices does not list it")]
    #[case::usb("nvidia.com/usb", "auto", "permittedHostDevices does not list it")]
    #[case::never("nvidia.com/T4", "never", "attachDevice is never")]
    fn else_there_is_a_limit_and_a_warning(#[case] name: &str, #[case] attach: &str, #[case] why: &str) {
        let answer = ask(bare_vm(&[("gpu-device-plugin", name)]), json!({"attachDevice": attach}));
        assert_eq!(answer.domain()["resources"]["limits"], json!({name: "1"}));
        assert_eq!(answer.domain()["devices"]["gpus"], Value::Null);
        assert!(answer.warnings()[0].contains(why), "{:?}", answer.warnings());
    }

    #[test]
    fn several_devices_are_added_beside_those_that_are_there() {
        let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/T4=3")]);
        let mine = json!({"name": "gpu-1", "deviceName": "nvidia.com/T4", "virtualGPUOptions": {}});
        vm["spec"]["template"]["spec"]["domain"]["devices"]["gpus"] = json!([mine]);
        let answer = ask(vm, json!({}));
        assert_eq!(
            answer.domain()["devices"]["gpus"],
            json!([
                mine,
                {"name": "gpu-0", "deviceName": "nvidia.com/T4"},
                {"name": "gpu-2", "deviceName": "nvidia.com/T4"},
            ])
        );
        assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some("nvidia.com/T4=3"));
        let again = ask(answer.after(), json!({}));
        again.assert_accepted_unchanged();
    }

    /// Names whose numbers are written differently, or are very large, do not matter. Host devices count, too.
    #[test]
    fn new_devices_have_the_first_names_that_are_free() {
        let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/T4=3")]);
        let device = |name: &str| json!({"name": name, "deviceName": "example.com/other"});
        let devices = &mut vm["spec"]["template"]["spec"]["domain"]["devices"];
        devices["gpus"] = json!([device("gpu-2"), device("gpu-01"), device("gpu-+0")]);
        devices["hostDevices"] = json!([device("gpu-0"), device("gpu-18446744073709551616")]);
        let answer = ask(vm, json!({}));
        let gpus = answer.domain()["devices"]["gpus"].clone();
        let names: Vec<_> = gpus.as_array().unwrap().iter().map(|gpu| gpu["name"].clone()).collect();
        assert_eq!(names, ["gpu-2", "gpu-01", "gpu-+0", "gpu-1", "gpu-3", "gpu-4"]);
    }

    #[rstest]
    #[case::as_many_as_can_be(256, true)]
    #[case::one_more(257, false)]
    fn more_devices_than_a_guest_can_have_are_an_error(#[case] count: usize, #[case] accepted: bool) {
        let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/T4")]);
        vm["spec"]["template"]["spec"]["domain"]["devices"]["gpus"] =
            (0..count).map(|n| json!({"name": format!("g{n}"), "deviceName": "nvidia.com/T4"})).collect();
        let answer = ask(vm, json!({}));
        if accepted {
            assert!(answer.is_accepted(), "{}", answer.message());
        } else {
            answer.assert_denied(&[
                "spec.template.spec.domain.devices.gpus has 257 entries, but a guest can have at most 256 devices; remove some",
            ]);
        }
    }

    #[test]
    fn a_limit_beside_a_device_is_a_warning() {
        let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/T4")]);
        let limits = json!({"nvidia.com/T4": "1"});
        vm["spec"]["template"]["spec"]["domain"]["resources"] = json!({"limits": limits});
        let answer = ask(vm, json!({}));
        assert_eq!(answer.domain()["resources"]["limits"], limits);
        assert!(answer.warnings()[0].contains("own limit on nvidia.com/T4 overrides"));
    }
}

#[rstest]
#[case::one("nvidia.com/gpu=1", "1", "nvidia.com/gpu")]
#[case::two("nvidia.com/gpu=2", "2", "nvidia.com/gpu=2")]
#[case::spaces("nvidia.com/gpu = 8", "8", "nvidia.com/gpu=8")]
fn a_count_is_the_limit(#[case] value: &str, #[case] quantity: &str, #[case] applied: &str) {
    let answer = evaluate(value, json!({}));
    assert_eq!(answer.domain()["resources"]["limits"], json!({"nvidia.com/gpu": quantity}));
    assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some(applied));
}

#[rstest]
fn a_bad_count_is_an_error(
    #[values(
        "nvidia.com/gpu=",
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=-1",
        "nvidia.com/gpu=+1",
        "nvidia.com/gpu=two",
        "nvidia.com/gpu=9",
        "nvidia.com/gpu=1=2",
        "nvidia.com/gpu=99999999999999999999"
    )]
    value: &str,
) {
    evaluate(value, json!({})).assert_denied(&[
        "the count after = must be a whole number from 1 to 8",
        "write nvidia.com/gpu=2, for example",
    ]);
}

#[test]
fn a_limit_of_another_number_stays_with_a_warning() {
    let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/gpu=2")]);
    vm["spec"]["template"]["spec"]["domain"]["resources"] = json!({"limits": {"nvidia.com/gpu": "1"}});
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["resources"]["limits"], json!({"nvidia.com/gpu": "1"}));
    let warning = r#"own limit of "1" on nvidia.com/gpu stays, although the directive asks for 2; remove it"#;
    assert!(answer.warnings().iter().any(|w| w.contains(warning)), "{:?}", answer.warnings());
}

#[test]
fn the_most_devices_are_a_setting() {
    let settings = json!({"maxDevices": 16});
    assert!(evaluate("nvidia.com/gpu=16", settings.clone()).is_accepted());
    evaluate("nvidia.com/gpu=17", settings).assert_denied(&["from 1 to 16"]);
}

#[test]
fn fewer_devices_than_asked_for_are_a_warning() {
    let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/gpu=2")]);
    vm["spec"]["template"]["spec"]["domain"]["devices"]["gpus"] =
        json!([{"name": "mine", "deviceName": "nvidia.com/gpu"}]);
    let answer = Request::create(vm).evaluate();
    assert_eq!(answer.domain()["resources"], Value::Null);
    assert!(answer.warnings()[0].contains("the guest has 1 of the 2 devices of nvidia.com/gpu"));
}

#[rstest]
#[case::no_list(json!({}), "default", true)]
#[case::of_the_namespace(json!({"team-*": ["nvidia.com/*"]}), "team-a", true)]
#[case::with_commas(json!({"team-*": "amd.com/gpu, nvidia.com/gpu"}), "team-a", true)]
#[case::another_resource(json!({"team-*": ["amd.com/gpu"]}), "team-a", false)]
#[case::another_namespace(json!({"team-*": ["nvidia.com/*"]}), "default", false)]
#[case::an_empty_list(json!({"default": []}), "default", false)]
fn resources_of_a_namespace(#[case] lists: Value, #[case] namespace: &str, #[case] accepted: bool) {
    let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/gpu")]);
    vm["metadata"]["namespace"] = json!(namespace);
    let answer = Request::create(vm).settings(json!({"gpuDevicePlugin": {"allowedIn": lists}})).evaluate();
    if accepted {
        assert!(answer.is_accepted(), "{}", answer.message());
    } else {
        let part = format!("nvidia.com/gpu is not allowed in the namespace {namespace}");
        answer.assert_denied(&[&part, "gpuDevicePlugin.allowedIn"]);
    }
}

/// The order in which the directives come does not matter.
#[rstest]
#[case::harvester("node1/01:00.0", &["node1-000001000"])]
#[case::kubevirt("10de:1eb8", &["pci-device-0"])]
fn a_device_that_another_directive_brings_later_counts(
    #[case] device: &str,
    #[case] expected: &[&str],
    #[values("", "=2")] count: &str,
) {
    const T4: &str = "nvidia.com/TU104GL_TESLA_T4";
    let is_harvester = device.starts_with("node1");
    let cluster = || {
        let permitted = json!({"pciHostDevices": [{"pciVendorSelector": "10de:1eb8", "resourceName": T4}]});
        let devices = [pci("node1-000001000", "10de:1eb8", "1", T4), pci("node1-000002000", "10de:1eb8", "2", T4)];
        let cluster =
            MemoryCluster::of([vec![node_with("node1", T4, "2"), kubevirt(permitted)], devices.concat()].concat());
        if is_harvester { cluster } else { cluster.failing(&PCI_DEVICE, ClusterError::KindNotServed) }
    };
    let (value, devices) = (format!("{T4}{count}"), json!({"devices": [device]}).to_string());
    let (gpu, pci) = (("gpu-device-plugin", value.as_str()), ("pci-passthrough", devices.as_str()));
    let of = |answer: &Answer| {
        let domain = answer.domain();
        let gpus = domain["devices"]["gpus"].as_array().map_or(0, Vec::len);
        let mut names = if domain["devices"]["hostDevices"].is_null() { Vec::new() } else { names(answer) };
        names.sort_unstable();
        (names, gpus)
    };
    let create = |directives: &[(&str, &str)]| Request::create(bare_vm(directives)).cluster(cluster()).evaluate();
    let both = create(&[gpu, pci]);
    assert!(of(&both).0.iter().any(|name| name == expected[0]), "{:?}", of(&both));
    for first in [gpu, pci] {
        let stored = create(&[first]).after();
        let mut new = stored.clone();
        annotate(&mut new, &[gpu, pci]);
        let answer = update(&stored, new, cluster());
        assert_eq!(of(&answer), of(&both), "{first:?} first");
        // Without the other directive, the resource still has its device.
        let mut new = answer.after();
        new["metadata"]["annotations"] = bare_vm(&[gpu])["metadata"]["annotations"].clone();
        assert_eq!(of(&update(&answer.after(), new, cluster())), of(&create(&[gpu])));
    }
}
