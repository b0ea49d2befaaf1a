//! The settings: their defaults, and every message.

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::Settings;
use vm_feature_manager_policy::validate_settings;

use super::harness::features;

/// The message about invalid settings, or `None` if they are valid.
fn problem(settings: &Value) -> Option<String> {
    let answer = validate_settings(settings.to_string().as_bytes());
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    match answer["valid"].as_bool() {
        Some(true) => None,
        _ => Some(answer["message"].as_str().expect("a message").to_owned()),
    }
}

/// The whole tree, with its defaults.
fn defaults() -> Value {
    json!({
        "addTrackingAnnotations": true,
        "configSource": "annotations",
        "controllerAccounts": ["system:serviceaccount:harvester-system:*", "system:serviceaccount:kubevirt:*"],
        "defaultDirectives": {},
        "userData": {"enabled": false, "readSecrets": false},
        "kubevirt": {"namespace": "harvester-system", "name": "kubevirt"},
        "policyServer": {"serviceAccount": "policy-server", "namespace": "kubewarden"},
        "nestedVirtualization": {"enabled": true, "errorHandling": "reject", "cpuVendor": "auto"},
        "cpuPinning": {"enabled": true, "errorHandling": "reject"},
        "hugepages": {"enabled": true, "errorHandling": "reject", "pageSizes": ["2Mi", "1Gi"]},
        "numa": {"enabled": true, "errorHandling": "reject"},
        "vbiosInjection": {
            "enabled": true,
            "errorHandling": "reject",
            "defaultSidecarImage": "quay.io/kubevirt/sidecar-shim:v1.4.0",
            "autoDetectVersion": true,
            "hookVersion": "v1alpha3",
            "romDelivery": "sidecar",
            "requireUserAccess": false,
            "allowedSidecarImages": [],
            "onHookFailure": "fail",
        },
        "pciPassthrough": {
            "enabled": true,
            "errorHandling": "reject",
            "maxDevices": 8,
            "deviceNames": "auto",
            "equalDevices": "warn",
            "pinToNode": true,
            "allowedDevices": {},
            "requireClaimOwner": false,
        },
        "usbPassthrough": {
            "enabled": true,
            "errorHandling": "reject",
            "maxDevices": 4,
            "deviceNames": "auto",
            "pinToNode": true,
            "allowedDevices": {},
            "requireClaimOwner": false,
        },
        "gpuDevicePlugin": {
            "enabled": true,
            "errorHandling": "reject",
            "maxDevices": 8,
            "allowedPlugins": [
                "nvidia.com/*", "amd.com/gpu", "amd.com/*RADEON*", "amd.com/*INSTINCT*", "amd.com/*FIREPRO*",
                "intel.com/gpu", "intel.com/*GRAPHICS*", "intel.com/*_ARC_*", "intel.com/*_GPU_*", "gpu.intel.com/*",
            ],
            "allowedIn": {},
            "attachDevice": "auto",
        },
    })
}

/// The pointers of all settings, sections and leaves.
fn pointers(value: &Value, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let pointer = format!("{prefix}/{key}");
        pointers(value, &pointer, found);
        found.push(pointer);
    }
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let settings = Settings::parse(defaults().to_string().as_bytes());
    assert_eq!(settings, Ok(Settings::default()));
}

#[test]
fn what_is_not_set_has_its_default() {
    assert_eq!(Settings::parse(b"{}"), Ok(Settings::default()));
    assert_eq!(Settings::parse(b"null"), Ok(Settings::default()));
    let mut all = Vec::new();
    pointers(&defaults(), "", &mut all);
    let keys = defaults().to_string().matches("\":").count();
    assert_eq!(all.len(), keys);
    for pointer in all {
        for unset in [json!(null), json!(""), json!([]), json!({})] {
            let mut settings = defaults();
            *settings.pointer_mut(&pointer).unwrap() = unset;
            let parsed = Settings::parse(settings.to_string().as_bytes());
            assert_eq!(parsed, Ok(Settings::default()), "{pointer}");
        }
    }
}

#[test]
fn every_setting_refuses_a_value_of_another_type() {
    let mut all = Vec::new();
    pointers(&defaults(), "", &mut all);
    for pointer in all {
        let mut settings = defaults();
        *settings.pointer_mut(&pointer).unwrap() = json!([[1]]);
        let message = problem(&settings).unwrap_or_else(|| panic!("{pointer} takes [[1]]"));
        let path = pointer[1..].replace('/', ".");
        assert!(message.starts_with(&format!("setting {path}: got ")), "{message}");
        assert!(message.contains(", expected "), "{message}");
    }
}

#[test]
fn empty_rows_of_a_form_are_passed_over() {
    let of = |plugins: Value| {
        let settings = json!({"gpuDevicePlugin": {"allowedPlugins": plugins}});
        Settings::parse(settings.to_string().as_bytes())
    };
    assert_eq!(of(json!(["", null])), Ok(Settings::default()));
    assert_eq!(of(json!(["a", "", null])), of(json!(["a"])));
}

#[test]
fn the_forms_empty_description_is_tolerated() {
    assert_eq!(problem(&json!({"description": null})), None);
    assert_eq!(problem(&json!({"description": ""})), None);
}

#[rstest]
#[case::mistyped(json!({"addTrackingAnotations": true}), r#"unknown setting "addTrackingAnotations"; did you mean addTrackingAnnotations?"#)]
#[case::wrong_case(json!({"ConfigSource": "labels"}), r#"unknown setting "ConfigSource"; did you mean configSource?"#)]
#[case::mistyped_inside(json!({"nestedVirtualization": {"errorHandlin": "reject"}}), r#"unknown setting "errorHandlin" in nestedVirtualization; did you mean errorHandling?"#)]
#[case::far(json!({"userData": {"x": 1}}), r#"unknown setting "x" in userData; known here: enabled, readSecrets"#)]
#[case::empty_but_unknown(json!({"userData": {"x": null}}), r#"unknown setting "x" in userData; known here: enabled, readSecrets"#)]
#[case::list(json!([1]), "the settings: got a list, expected an object")]
#[case::section(json!({"kubevirt": "kubevirt"}), "setting kubevirt: got a string, expected an object")]
#[case::boolean(json!({"userData": {"enabled": "true"}}), r#"setting userData.enabled: got "true", expected true or false"#)]
#[case::config_source(json!({"configSource": "label"}), r#"setting configSource: got "label", expected one of annotations, labels"#)]
#[case::error_handling(json!({"pciPassthrough": {"errorHandling": "ignore"}}), r#"setting pciPassthrough.errorHandling: got "ignore", expected one of reject, allow-and-log, strip-label"#)]
#[case::cpu_vendor(json!({"nestedVirtualization": {"cpuVendor": "arm"}}), r#"setting nestedVirtualization.cpuVendor: got "arm", expected one of auto, amd, intel, any"#)]
#[case::hook_version(json!({"vbiosInjection": {"hookVersion": "v1alpha1"}}), r#"setting vbiosInjection.hookVersion: got "v1alpha1", expected one of v1alpha3, v1alpha2"#)]
#[case::rom_delivery(json!({"vbiosInjection": {"romDelivery": "pvc"}}), r#"setting vbiosInjection.romDelivery: got "pvc", expected one of sidecar, volume"#)]
#[case::on_hook_failure(json!({"vbiosInjection": {"onHookFailure": 1}}), "setting vbiosInjection.onHookFailure: got 1, expected one of fail, continue")]
#[case::device_names(json!({"pciPassthrough": {"deviceNames": true}}), "setting pciPassthrough.deviceNames: got true, expected one of auto, harvester, address")]
#[case::attach_device(json!({"gpuDevicePlugin": {"attachDevice": "always"}}), r#"setting gpuDevicePlugin.attachDevice: got "always", expected one of auto, never"#)]
#[case::max_devices_zero(json!({"pciPassthrough": {"maxDevices": 0}}), "setting pciPassthrough.maxDevices: got 0, expected a whole number from 1 to 256")]
#[case::max_devices_negative(json!({"pciPassthrough": {"maxDevices": -1}}), "setting pciPassthrough.maxDevices: got -1, expected a whole number from 1 to 256")]
#[case::max_devices_half(json!({"pciPassthrough": {"maxDevices": 1.5}}), "setting pciPassthrough.maxDevices: got 1.5, expected a whole number from 1 to 256")]
#[case::max_devices_many(json!({"pciPassthrough": {"maxDevices": 257}}), "setting pciPassthrough.maxDevices: got 257, expected a whole number from 1 to 256")]
#[case::max_devices_text(json!({"pciPassthrough": {"maxDevices": "8"}}), r#"setting pciPassthrough.maxDevices: got "8", expected a whole number from 1 to 256"#)]
#[case::namespace(json!({"kubevirt": {"namespace": "Harvester"}}), "setting kubevirt.namespace: got \"Harvester\", expected a name of at most 63 characters: lower-case letters, \
    digits and -, a letter or digit at both ends")]
#[case::name(json!({"kubevirt": {"name": "a..b"}}), "setting kubevirt.name: got \"a..b\", expected a name of at most 253 characters: lower-case letters, digits, - and ., a \
    letter or digit at the ends of each part")]
#[case::image(json!({"vbiosInjection": {"defaultSidecarImage": "a b"}}), "setting vbiosInjection.defaultSidecarImage: got \"a b\", expected an image reference such as \
    registry.example.com:5000/kubevirt/sidecar-shim:v1.4.0")]
#[case::pattern(json!({"gpuDevicePlugin": {"allowedPlugins": ["a", "b c"]}}), r#"setting gpuDevicePlugin.allowedPlugins: got a list "["a","b c"]", expected a list of glob patterns: ASCII text without spaces, * for any characters, ? for one"#)]
#[case::pattern_with_control_character(json!({"gpuDevicePlugin": {"allowedPlugins": ["a\u{7f}b"]}}), r#"setting gpuDevicePlugin.allowedPlugins: got a list "["a\u{7f}b"]", expected a list of glob patterns: ASCII text without spaces, * for any characters, ? for one"#)]
#[case::pattern_not_ascii(json!({"gpuDevicePlugin": {"allowedPlugins": ["g\u{fc}"]}}), r#"setting gpuDevicePlugin.allowedPlugins: got a list "["g\u{fc}"]", expected a list of glob patterns: ASCII text without spaces, * for any characters, ? for one"#)]
#[case::patterns_text(json!({"gpuDevicePlugin": {"allowedPlugins": "a"}}), r#"setting gpuDevicePlugin.allowedPlugins: got "a", expected a list of glob patterns: ASCII text without spaces, * for any characters, ? for one"#)]
#[case::allowed_devices(json!({"pciPassthrough": {"allowedDevices": ["*"]}}), r#"setting pciPassthrough.allowedDevices: got a list "["*"]", expected a map from namespace patterns to lists of patterns"#)]
#[case::allowed_devices_inside(json!({"pciPassthrough": {"allowedDevices": {"team-*": "a, b c"}}}), r#"setting pciPassthrough.allowedDevices."team-*": got "a, b c", expected a list of glob patterns: ASCII text without spaces, * for any characters, ? for one; or one text with commas between them"#)]
#[case::allowed_devices_key(json!({"pciPassthrough": {"allowedDevices": {"": ["*"]}}}), r#"setting pciPassthrough.allowedDevices: got an object "{"":["*"]}", expected a map from namespace patterns to lists of patterns"#)]
#[case::defaults(json!({"defaultDirectives": ["rke2-*"]}), r#"setting defaultDirectives: got a list "["rke2-*"]", expected a map from namespace patterns to directives"#)]
#[case::defaults_namespace(json!({"defaultDirectives": {"a b": "numa=passthrough"}}), r#"setting defaultDirectives: got an object "{"a b":"numa=passthrough"}", expected a map from namespace patterns to directives"#)]
#[case::defaults_of_a_namespace(json!({"defaultDirectives": {"rke2-*": ["nested-virt"]}}), r#"setting defaultDirectives."rke2-*": got a list "["nested-virt"]", expected a map from directives to values; or one text such as nested-virt=enabled; hugepages=2Mi"#)]
#[case::default_is_no_text(json!({"defaultDirectives": {"rke2-*": {"nested-virt": true}}}), r#"setting defaultDirectives."rke2-*"."nested-virt": got true, expected text in quotes"#)]
#[case::default_is_a_map(json!({"defaultDirectives": {"a": {"pci-passthrough": {"devices": []}}}}), r#"setting defaultDirectives."a"."pci-passthrough": got an object "{"devices":[]}", expected text in quotes"#)]
#[case::default_has_no_name(json!({"defaultDirectives": {"a": {" ": "enabled"}}}), r#"setting defaultDirectives."a"." ": got "enabled", expected the value of a directive, each name once"#)]
#[case::default_has_only_the_prefix(json!({"defaultDirectives": {"a": {"vm-feature-manager.io/": "enabled"}}}), r#"setting defaultDirectives."a"."vm-feature-manager.io/": got "enabled", expected the value of a directive, each name once"#)]
#[case::default_is_there_twice(json!({"defaultDirectives": {"a": {"numa": "passthrough", "vm-feature-manager.io/numa": "off"}}}), r#"setting defaultDirectives."a"."vm-feature-manager.io/numa": got "off", expected the value of a directive, each name once"#)]
#[case::text_without_a_value(json!({"defaultDirectives": {"a": "cpu-pinning=enabled; numa"}}), r#"setting defaultDirectives."a": got "numa", expected directives such as nested-virt=enabled; hugepages=2Mi, each name once"#)]
#[case::text_with_an_empty_value(json!({"defaultDirectives": {"a": "numa= ;"}}), r#"setting defaultDirectives."a": got "numa=", expected directives such as nested-virt=enabled; hugepages=2Mi, each name once"#)]
#[case::text_without_a_name(json!({"defaultDirectives": {"a": "=enabled"}}), r#"setting defaultDirectives."a": got "=enabled", expected directives such as nested-virt=enabled; hugepages=2Mi, each name once"#)]
#[case::text_with_a_name_twice(json!({"defaultDirectives": {"a": "numa=passthrough;numa=off"}}), r#"setting defaultDirectives."a": got "numa=off", expected directives such as nested-virt=enabled; hugepages=2Mi, each name once"#)]
#[case::text_with_a_comma(json!({"defaultDirectives": {"a": "nested-virtualisation, numa"}}), r#"setting defaultDirectives."a": got "nested-virtualisation, numa", expected directives such as nested-virt=enabled; hugepages=2Mi, each name once"#)]
#[case::mistyped_default(json!({"defaultDirectives": {"rke2-*": {"nested-vrt": "enabled"}}}), r#"unknown directive "nested-vrt" in defaultDirectives."rke2-*"; did you mean nested-virt?"#)]
#[case::mistyped_option_in_a_text(json!({"defaultDirectives": {"rke2-*": "vm-feature-manager.io/cpu-vender=amd"}}), r#"unknown directive "cpu-vender" in defaultDirectives."rke2-*"; did you mean cpu-vendor?"#)]
fn a_problem_says_which_setting_what_it_got_and_what_it_takes(#[case] settings: Value, #[case] message: &str) {
    assert_eq!(problem(&settings).as_deref(), Some(message));
}

#[test]
fn an_unknown_default_is_told_with_all_directives_and_options() {
    let options = features::options().into_iter().map(|(option, _)| option);
    let names = features::names().into_iter().chain(options).collect::<Vec<_>>().join(", ");
    let message = format!(r#"unknown directive "gpu" in defaultDirectives."a"; known here: {names}"#);
    assert_eq!(problem(&json!({"defaultDirectives": {"a": {"gpu": "1"}}})), Some(message));
}

/// The default directives of a namespace.
fn defaults_of(namespace: &str, setting: &Value) -> Vec<(String, String)> {
    let settings = Settings::read(&json!({"defaultDirectives": setting})).unwrap();
    let defaults = settings.general.default_directives.of(namespace);
    defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[rstest]
#[case::a_map(json!({"rke2-*": {"nested-virt": "enabled", "cpu-vendor": "amd"}}), &[("cpu-vendor", "amd"), ("nested-virt", "enabled")])]
#[case::a_text(json!({"rke2-*": "nested-virt=enabled; cpu-vendor=amd"}), &[("nested-virt", "enabled"), ("cpu-vendor", "amd")])]
#[case::spaces_and_empty_parts(json!({"rke2-*": " ; nested-virt = enabled ;;"}), &[("nested-virt", "enabled")])]
#[case::lines(json!({"rke2-*": "nested-virt=enabled\nnuma=off;\r\n\nhugepages=2Mi\n"}), &[("nested-virt", "enabled"), ("numa", "off"), ("hugepages", "2Mi")])]
#[case::the_first_equals_sign_ends_the_name(json!({"rke2-*": "gpu-device-plugin=nvidia.com/gpu=2"}), &[("gpu-device-plugin", "nvidia.com/gpu=2")])]
#[case::json_in_a_text(json!({"rke2-*": r#"pci-passthrough={"devices": ["node1/0000:00:02.0", "0000:03:00.0"]}; numa=passthrough"#}),
    &[("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0", "0000:03:00.0"]}"#), ("numa", "passthrough")])]
#[case::json_in_a_map(json!({"rke2-*": {"usb-passthrough": r#"{"devices": ["046d:c52b"]}"#}}), &[("usb-passthrough", r#"{"devices": ["046d:c52b"]}"#)])]
#[case::whole_keys(json!({"rke2-*": {"vm-feature-manager.io/hugepages": "2Mi"}}), &[("hugepages", "2Mi")])]
#[case::whole_keys_in_a_text(json!({"rke2-*": "vm-feature-manager.io/hugepages=2Mi"}), &[("hugepages", "2Mi")])]
#[case::not_set(json!({"rke2-*": {"nested-virt": "", "numa": null, "hugepages": "2Mi"}, "rke2-a": null, "*": {}, "?": ""}), &[("hugepages", "2Mi")])]
#[case::another_namespace(json!({"rke2": "nested-virt=enabled"}), &[])]
#[case::several_patterns(json!({"*": "hugepages=2Mi", "rke2-*": "nested-virt=enabled"}), &[("nested-virt", "enabled"), ("hugepages", "2Mi")])]
#[case::the_longer_pattern(json!({"*": "hugepages=2Mi", "rke2-*": "hugepages=1Gi", "r*": "hugepages=off"}), &[("hugepages", "1Gi")])]
#[case::more_wildcards_are_not_longer(json!({"rke2-????": "hugepages=2Mi", "rke2-a*": "hugepages=1Gi"}), &[("hugepages", "1Gi")])]
#[case::the_name_before_a_pattern(json!({"rke2-ab12": "hugepages=1Gi", "rke2-ab12*": "hugepages=2Mi", "*rke2-ab12": "hugepages=off"}), &[("hugepages", "1Gi")])]
fn defaults_are_those_of_the_patterns_that_match(#[case] setting: Value, #[case] expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(defaults_of("rke2-ab12", &setting), expected);
}

#[test]
fn settings_without_any_default_have_none() {
    let is_empty =
        |setting| Settings::read(&json!({"defaultDirectives": setting})).unwrap().general.default_directives.is_empty();
    assert!(is_empty(json!({})) && is_empty(json!({"*": ""})) && is_empty(json!({"*": {}})));
    assert!(!is_empty(json!({"*": "numa=passthrough"})));
}

#[test]
fn a_setting_that_is_unknown_is_told_with_all_sections() {
    let general =
        "addTrackingAnnotations, configSource, defaultDirectives, controllerAccounts, userData, kubevirt, policyServer";
    let sections = features::sections().join(", ");
    let message = format!(r#"unknown setting "description"; known here: {general}, {sections}"#);
    assert_eq!(problem(&json!({"description": "mine"})), Some(message));
}

#[test]
fn all_problems_are_told_at_once() {
    let settings = json!({"configSource": "x", "userData": {"y": 1}});
    assert_eq!(
        problem(&settings).as_deref(),
        Some(
            "setting configSource: got \"x\", expected one of annotations, labels; unknown setting \"y\" in userData; \
             known here: enabled, readSecrets"
        )
    );
}

#[rstest]
#[case::empty(b"", "not valid JSON at line 1, column 0")]
#[case::cut_off(b"{\"kubevirt\":", "not valid JSON")]
#[case::not_utf_8(b"\xff", "not UTF-8")]
fn text_that_is_no_json_is_told(#[case] text: &[u8], #[case] part: &str) {
    let answer: Value = serde_json::from_slice(&validate_settings(text)).unwrap();
    assert_eq!(answer["valid"], json!(false));
    let message = answer["message"].as_str().unwrap();
    assert!(message.starts_with("the settings cannot be read: ") && message.contains(part), "{message}");
}

#[test]
fn settings_of_ten_thousand_levels_are_told() {
    let deep = format!("{{\"kubevirt\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(Settings::parse(deep.as_bytes()).is_err());
}

/// A default as the reference's tables show it: YAML.
#[test]
fn the_reference_lists_every_setting_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");
    let reference = std::fs::read_to_string(path).unwrap();
    let (_, settings) = reference.split_once("\n## Settings\n").unwrap();
    let (settings, _) = settings.split_once("\n## ").unwrap();
    let mut listed = json!({});
    for line in settings.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `<feature>")) {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let mut place = &mut listed;
        for key in cells[1].split('.') {
            place = &mut place[key];
        }
        *place = serde_saphyr::from_str(cells[2]).unwrap();
    }
    assert_eq!(listed, defaults());
}

/// Kubernetes accepts at most 32 KiB in a status.
#[test]
fn of_many_problems_the_first_are_listed() {
    let unknown = |count: usize| {
        let name = |n| format!("{n:03}{}", "x".repeat(100));
        let settings: serde_json::Map<_, _> = (0..count).map(|n| (name(n), json!(1))).collect();
        problem(&Value::Object(settings)).unwrap()
    };
    assert_eq!(unknown(16).matches("unknown setting").count(), 16);
    assert!(!unknown(16).contains("more"), "{}", unknown(16));
    let message = unknown(1000);
    assert_eq!(message.matches("unknown setting").count(), 16);
    assert!(message.ends_with("; and 984 more problems") && message.len() < 16 << 10, "{message}");
}
