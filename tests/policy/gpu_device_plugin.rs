//! Directive `gpu-device-plugin`.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Answer, Request, bare_vm, vm};

fn evaluate(value: &str, settings: Value) -> Answer {
    Request::create(bare_vm(&[("gpu-device-plugin", value)]))
        .settings(json!({"gpuDevicePlugin": settings}))
        .evaluate()
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
                "path": "/spec/template/spec/domain/resources/limits/nvidia.com~1gpu",
                "value": "1",
            },
        ])
    );
}

#[test]
fn a_limit_without_a_device_is_a_warning() {
    for attach in ["auto", "never"] {
        let answer = evaluate("nvidia.com/gpu", json!({"attachDevice": attach}));
        assert_eq!(
            answer.warnings(),
            [
                "gpu-device-plugin: a limit on nvidia.com/gpu gives the VirtualMachine's pod the resource, but the guest \
              no device"
            ]
        );
    }
}

#[rstest]
#[case::text(json!("2"))]
#[case::number(json!(2))]
#[case::null(json!(null))]
fn a_limit_that_is_there_is_kept(#[case] quantity: Value) {
    let mut vm = bare_vm(&[("gpu-device-plugin", "nvidia.com/gpu")]);
    vm["spec"]["template"]["spec"]["domain"]["resources"] =
        json!({"limits": {"nvidia.com/gpu": quantity}});
    let answer = Request::create(vm).evaluate();
    assert_eq!(
        answer.domain()["resources"]["limits"],
        json!({"nvidia.com/gpu": quantity})
    );
    assert_eq!(
        answer.annotation("gpu-device-plugin-applied").as_deref(),
        Some("nvidia.com/gpu")
    );
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
    assert_eq!(
        answer.annotation("gpu-device-plugin-applied").as_deref(),
        Some("nvidia.com/gpu")
    );
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
#[case::empty("", "not of the form domain/name")]
#[case::no_domain("gpu", "not of the form domain/name")]
#[case::upper_case_domain("NVIDIA.com/gpu", "its domain is not of lower-case letters")]
#[case::reserved("kubernetes.io/gpu", "reserved by Kubernetes")]
#[case::bad_name("nvidia.com/-gpu", "the part behind the slash")]
fn a_bad_name_is_an_error(#[case] value: &str, #[case] part: &str) {
    let settings = json!({"allowedPlugins": ["*"]});
    evaluate(value, settings).assert_denied(&["gpu-device-plugin", part, "such as nvidia.com/gpu"]);
}

#[rstest]
#[case::nvidia("nvidia.com/gpu", json!(null), true)]
#[case::amd("amd.com/gpu", json!([]), true)]
#[case::intel("intel.com/gpu", json!(""), true)]
#[case::other("nvidia.com/mig-1g.5gb", json!(null), false)]
#[case::glob("nvidia.com/mig-1g.5gb", json!(["nvidia.com/*"]), true)]
#[case::question_mark("gpu.intel.com/i915", json!(["gpu.intel.com/i9??"]), true)]
#[case::harvester("intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630", json!(["intel.com/*"]), true)]
#[case::not_in_the_list("amd.com/gpu", json!(["nvidia.com/*"]), false)]
fn resources_are_allowed_by_pattern(
    #[case] value: &str,
    #[case] allowed: Value,
    #[case] accepted: bool,
) {
    let answer = evaluate(value, json!({"allowedPlugins": allowed}));
    if accepted {
        assert_eq!(answer.domain()["resources"]["limits"], json!({value: "1"}));
    } else {
        let parts = [
            value,
            "not one of the resources that the policy allows",
            "allowedPlugins",
        ];
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
