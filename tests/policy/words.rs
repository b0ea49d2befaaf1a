//! The words that people write: for on and off, near the right ones, and with the wrong quotes.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Answer, PREFIX, Request, bare_vm};

fn create(directive: &str, value: &str) -> Answer {
    Request::create(bare_vm(&[(directive, value)])).evaluate()
}

/// A word for on says nothing to a directive that names something. A ConfigMap of that name would be found, but is not
/// looked up.
#[rstest]
#[case::pci("pci-passthrough", r#"it does not say which devices; write for example '{"devices": ["0000:00:02.0"]}'"#)]
#[case::usb("usb-passthrough", r#"it does not say which devices; write for example '{"devices": ["046d:c52b"]}'"#)]
#[case::gpu("gpu-device-plugin", "it does not say which resource; write for example nvidia.com/gpu")]
#[case::rom("vbios-injection", "it does not say which ConfigMap has the ROM; write for example igpu-rom")]
#[case::pages("hugepages", "not a page size that the policy allows; write 2Mi or 1Gi")]
fn a_word_for_on_is_no_value(
    #[case] directive: &str,
    #[case] error: &str,
    #[values("enabled", "true", "Yes", "on", "1", " ON ")] word: &str,
) {
    let answer = create(directive, word);
    answer.assert_denied(&[error]);
    assert!(answer.lookups.is_empty(), "{:?}", answer.lookups);
}

#[rstest]
fn a_cpu_vendor_is_an_option(#[values("amd", "Intel", "svm", "vmx")] value: &str) {
    let error = "must be enabled or disabled; the vendor is the option vm-feature-manager.io/cpu-vendor";
    create("nested-virt", value).assert_denied(&[error]);
}

#[rstest]
fn every_directive_takes_the_same_words_for_off(
    #[values("disabled", "FALSE", "no", "Off", "0", "", "  ")] word: &str,
    #[values("pci-passthrough", "usb-passthrough", "gpu-device-plugin", "vbios-injection", "hugepages", "numa")]
    directive: &str,
) {
    create(directive, word).assert_accepted_unchanged();
}

/// The remedy contains the user's own devices, in the single quotes that YAML needs.
#[rstest]
#[case::bare("0000:05:00.0", "not valid JSON; write")]
#[case::list(r#"["0000:05:00.0"]"#, "it is a list, not an object; write")]
#[case::list_without_quotes("[0000:05:00.0]", "not valid JSON: it has no double quotes; write")]
#[case::yaml("devices: [0000:05:00.0]", "not valid JSON; write")]
#[case::yaml_block("devices:\n- 0000:05:00.0\n", "not valid JSON; write")]
#[case::yaml_without_spaces("devices:0000:05:00.0", "not valid JSON; write")]
#[case::assignment("devices=0000:05:00.0", "not valid JSON; write")]
#[case::unquoted("{devices: [0000:05:00.0]}", "not valid JSON: it has no double quotes; write")]
#[case::unquoted_key(r#"{devices: ["0000:05:00.0"]}"#, "not valid JSON at column 2; write")]
#[case::single_quotes("{'devices': ['0000:05:00.0']}", "not valid JSON: the quotes in it must be double quotes; write")]
#[case::curly_quotes(
    "{\u{201c}devices\u{201d}: [\u{201c}0000:05:00.0\u{201d}]}",
    "not valid JSON: it has curly quotes, and needs straight ones; write"
)]
#[case::quotes_around(
    r#"'{"devices": ["0000:05:00.0"]}'"#,
    "not valid JSON: it contains the single quotes that should be around it; write"
)]
#[case::comma_behind_the_list(
    r#"{"devices": ["0000:05:00.0"],}"#,
    "not valid JSON: it has a comma before a closing bracket; write"
)]
#[case::comma_in_the_list(
    r#"{"devices": ["0000:05:00.0" , ]}"#,
    "not valid JSON: it has a comma before a closing bracket; write"
)]
#[case::cut_off(r#"{"devices": ["0000:05:00.0"]"#, "not valid JSON: it ends too early; write")]
#[case::text_of_json(r#""{\"devices\": [\"0000:05:00.0\"]}""#, "it is a string, not an object; write")]
#[case::text(r#"{"devices": "0000:05:00.0"}"#, "devices is a string, not a list; write")]
#[case::object(r#"{"devices": [{"address": "0000:05:00.0"}]}"#, "devices[0] is an object, not a string; write")]
#[case::other_key(r#"{"device": ["0000:05:00.0"]}"#, r#"unknown key "device"; the only key is devices: write"#)]
#[case::address_with_a_mistake("0000:05.00.0", "not valid JSON; write")]
#[case::address_without_separators("000005000", "not valid JSON; write")]
#[case::pairs("pci: 0000:05:00.0,pcie=1,x-vga=1", "not valid JSON; write")]
fn what_is_no_list_of_devices_is_written_as_one(#[case] value: &str, #[case] error: &str) {
    create("pci-passthrough", value).assert_denied(&[&format!(r#"{error} '{{"devices": ["0000:05:00.0"]}}'"#)]);
}

#[rstest]
#[case::commas("0000:05:00.0, node1/06:00.1", r#"["0000:05:00.0", "node1/06:00.1"]"#)]
#[case::spaces("0000:05:00.0 0000:06:00.0", r#"["0000:05:00.0", "0000:06:00.0"]"#)]
#[case::one_word_is_no_device("my GPU 0000:05:00.0", r#"["0000:05:00.0"]"#)]
#[case::slots("01:00, 02:00.x", r#"["01:00.*", "02:00.*"]"#)]
#[case::node_as_a_key(r#"{"devices": [{"node": "hv1", "address": "0000:05:00.0"}]}"#, r#"["hv1/0000:05:00.0"]"#)]
#[case::node_behind_as_a_key(
    r#"{"devices": ["0000:05:00.0", "06:00.0"], "node": "hv1"}"#,
    r#"["hv1/0000:05:00.0", "hv1/06:00.0"]"#
)]
#[case::node_beside_a_name(r#"{"devices": ["hv1-000005000"], "node": "hv1"}"#, r#"["hv1-000005000"]"#)]
#[case::what_is_no_node("node 0000:05:00.0", r#"["0000:05:00.0"]"#)]
#[case::vendor_and_device(r#"{"vendor": "0x10de", "device": "0x27b8"}"#, r#"["10de:27b8"]"#)]
#[case::device_and_vendor(r#"{"deviceid": "27b8", "vendorid": "10de"}"#, r#"["10de:27b8"]"#)]
#[case::wrong_address("0000:05:40.0", r#"["0000:05:40.0"]"#)]
#[case::no_device("my GPU", r#"["0000:00:02.0"]"#)]
#[case::at_most_eight(&"05:00.0 ".repeat(1000), r#"["05:00.0", "05:00.0", "05:00.0", "05:00.0", "05:00.0", "05:00.0", "05:00.0", "05:00.0"]"#)]
#[case::long_words(&"0000:05:00.0".repeat(1000), r#"["0000:00:02.0"]"#)]
fn several_devices_are_written_as_a_list(#[case] value: &str, #[case] list: &str) {
    create("pci-passthrough", value).assert_denied(&[&format!(r#" write '{{"devices": {list}}}'"#)]);
}

/// JSON itself would keep only the last one.
#[rstest]
#[case::twice(r#"{"devices": ["0000:05:00.0"], "devices": ["0000:06:00.0"]}"#)]
#[case::escaped(r#"{"devices": ["0000:05:00.0"], "\u0064evices": ["0000:06:00.0"]}"#)]
fn a_repeated_key_is_an_error(#[case] value: &str) {
    let error = r#"it has the key devices more than once; write '{"devices": ["0000:05:00.0", "0000:06:00.0"]}'"#;
    create("pci-passthrough", value).assert_denied(&[error]);
}

#[rstest]
#[case::point(
    "pci-passthrough",
    "0000:05.00.0",
    "it does not have the form DDDD:BB:DD.F, BB:DD.F or VVVV:DDDD",
    "0000:05:00.0"
)]
#[case::colon(
    "pci-passthrough",
    "0000:05:00:0",
    "it does not have the form DDDD:BB:DD.F, BB:DD.F or VVVV:DDDD",
    "0000:05:00.0"
)]
#[case::dashes("pci-passthrough", "0000-05-00.0", "it does not have the form", "0000:05:00.0")]
#[case::none("pci-passthrough", "000005000", "it does not have the form", "0000:05:00.0")]
#[case::libvirt("pci-passthrough", "pci_0000_05_00_0", "it does not have the form", "0000:05:00.0")]
#[case::qemu("pci-passthrough", "01:00.0,pcie=1,x-vga=1", "it does not have the form", "01:00.0")]
#[case::brackets("pci-passthrough", "[10de:1b80]", "it does not have the form", "10de:1b80")]
#[case::hexadecimal("pci-passthrough", "0x10de:0x1b80", "it does not have the form", "10de:1b80")]
#[case::slot("pci-passthrough", "01:00", "(* in place of F means all functions)", "01:00.*")]
#[case::whole_slot("pci-passthrough", "0000:01:00", "it does not have the form", "0000:01:00.*")]
#[case::letter_for_the_function("pci-passthrough", "0000:01:00.x", "its function must be", "0000:01:00.*")]
#[case::star_without_point("pci-passthrough", "0000:01:00*", "it does not have the form", "0000:01:00.*")]
#[case::node_behind("pci-passthrough", "0000:05:00.0@node2", "it does not have the form", "node2/0000:05:00.0")]
#[case::node_and_colon("pci-passthrough", "hv1:0000:01:00.0", "it does not have the form", "hv1/0000:01:00.0")]
#[case::node_and_dash(
    "pci-passthrough",
    "node1.ez.local-0009:01:00.0",
    "it does not have",
    "node1.ez.local/0009:01:00.0"
)]
#[case::node_and_slot("pci-passthrough", "hv-1/01:00", "it does not have the form", "hv-1/01:00.*")]
#[case::node_and_dashes("pci-passthrough", "hv1/0000-05-00.0", "it does not have the form", "hv1/0000:05:00.0")]
#[case::more_parts("pci-passthrough", "0:0000:05:00.0", "it does not have the form", "one such as 0000:00:02.0")]
#[case::resource(
    "pci-passthrough",
    "nvidia.com/GP104_GEFORCE_GTX_1080",
    "it does not have the form",
    "one such as 0000:00:02.0, or use the directive gpu-device-plugin for this one"
)]
#[case::too_large("pci-passthrough", "0000:05:40.0", "its device must be", "one such as 0000:00:02.0")]
#[case::usb_dash("usb-passthrough", "046d-c52b", "it has neither the form VVVV:PPPP", "046d:c52b")]
#[case::usb_none("usb-passthrough", "046dC52B", "it has neither the form VVVV:PPPP", "046d:c52b")]
#[case::usb_lsusb(
    "usb-passthrough",
    "Bus 001 Device 004: ID 10c4:ea60",
    "it has neither the form VVVV:PPPP",
    "10c4:ea60"
)]
#[case::usb_hexadecimal("usb-passthrough", "0x10c4:0xea60", "it has neither the form VVVV:PPPP", "10c4:ea60")]
#[case::usb_qemu("usb-passthrough", "vendorid=0x10c4,productid=0xea60", "it has neither the form", "10c4:ea60")]
#[case::usb_resource(
    "usb-passthrough",
    "kubevirt.io/hv1-10c4-ea60-001002",
    "it has neither the form",
    "hv1-10c4-ea60-001002"
)]
#[case::usb_pci(
    "usb-passthrough",
    "0000:00:14.0",
    "it has neither the form",
    "one such as 046d:c52b, or use the directive pci-passthrough for this one"
)]
#[case::usb_pci_device(
    "usb-passthrough",
    "hv1-000000140",
    "it has neither",
    "one such as 046d:c52b, or use the directive pci-"
)]
fn wrong_separators_are_named_first(
    #[case] directive: &str,
    #[case] device: &str,
    #[case] error: &str,
    #[case] write: &str,
) {
    let answer = create(directive, &json!({"devices": [device]}).to_string());
    answer.assert_denied(&[&format!("devices[0] \"{device}\" is not a "), error, &format!("; write {write}")]);
}

#[test]
fn vendor_and_product_of_a_usb_device_become_one_text() {
    let value = r#"{"devices": [{"vendor": "10c4", "product": "ea60"}]}"#;
    create("usb-passthrough", value).assert_denied(&[r#"; write '{"devices": ["10c4:ea60"]}'"#]);
}

#[test]
fn a_directive_names_one_resource() {
    let error =
        "must be a whole number from 1 to 8, without another resource behind it; write nvidia.com/AD102GL_L40S=2";
    create("gpu-device-plugin", "nvidia.com/AD102GL_L40S=1,nvidia.com/gpu=1").assert_denied(&[error]);
}

#[rstest]
#[case::bare("nvidia.com/GP104", r#"["0000:00:02.0"]}', or use the directive gpu-device-plugin for this one"#)]
#[case::usb("hv1-10c4-ea60-001002", r#"["0000:00:02.0"]}', or use the directive usb-passthrough for this one"#)]
fn what_is_for_another_directive_names_it(#[case] value: &str, #[case] write: &str) {
    create("pci-passthrough", value).assert_denied(&[write]);
}

/// The directive gpu-device-plugin would refuse it.
#[rstest]
#[case::not_allowed("intel.com/I350", json!({}))]
#[case::not_allowed_in_the_namespace("nvidia.com/GP104", json!({"allowedIn": {"team-a": "nvidia.com/*"}}))]
fn a_directive_that_would_refuse_it_is_not_named(#[case] resource: &str, #[case] settings: Value) {
    for value in [resource.to_owned(), json!({"devices": [resource]}).to_string()] {
        let request = Request::create(bare_vm(&[("pci-passthrough", &value)]));
        let answer = request.settings(json!({"gpuDevicePlugin": settings})).evaluate();
        answer.assert_denied(&["pci-passthrough cannot be applied", "0000:00:02.0"]);
        assert!(!answer.message().contains("gpu-device-plugin"), "{}", answer.message());
    }
}

#[rstest]
#[case::upper_case("HV1/0000:01:00.0", "write hv1/0000:01:00.0 or")]
#[case::upper_case_in_a_name("HV1-000001000", "write hv1-000001000 or")]
#[case::underscore("hv_1/0000:01:00.0", "write node1/0000:00:02.0 or")]
fn a_node_is_written_in_lower_case(#[case] device: &str, #[case] write: &str) {
    create("pci-passthrough", &json!({"devices": [device]}).to_string()).assert_denied(&[write]);
}

#[rstest]
#[case::start("vbios", "vbios-injection")]
#[case::start_of_a_plugin("gpu", "gpu-device-plugin")]
#[case::usb("usb", "usb-passthrough")]
#[case::pci("pci", "pci-passthrough")]
#[case::nested("nested", "nested-virt")]
#[case::second_word("pinning", "cpu-pinning")]
#[case::start_of_words("cpu-pin", "cpu-pinning")]
#[case::end_of_a_word("vgpu", "gpu-device-plugin")]
#[case::setting("nested-virtualization", "nested-virt")]
#[case::setting_as_in_the_chart("nestedVirtualization", "nested-virt")]
#[case::setting_of_usb("usbPassthrough", "usb-passthrough")]
#[case::field("dedicated-cpu-placement", "cpu-pinning")]
#[case::option("emulator-thread", "isolate-emulator-thread")]
#[case::half_a_word("huge", "hugepages")]
#[case::short_form("pci-passthru", "pci-passthrough")]
#[case::upper_case("Nested_Virt", "nested-virt")]
#[case::two_meanings("gpu-passthrough", "gpu-device-plugin or vm-feature-manager.io/pci-passthrough")]
fn an_unknown_key_has_a_hint(#[case] key: &str, #[case] hint: &str) {
    let answer = create(key, "enabled");
    let warning = format!(r#"no such directive: "{key}" (did you mean {PREFIX}{hint}?); this has no effect"#);
    assert_eq!(answer.warnings(), [warning]);
}

#[rstest]
fn where_there_is_no_hint_all_directives_are_listed(#[values("sriov", "sr-iov", "memory", "x")] key: &str) {
    let answer = create(key, "enabled");
    let warning = answer.warnings().join(" ");
    assert!(warning.starts_with(&format!(r#"no such directive: "{key}"; this has no effect; the directives are "#)));
    assert!(warning.ends_with("nested-virt, cpu-pinning, hugepages, numa"), "{warning}");
}

/// Those with a hint come first, because somebody meant a directive.
#[test]
fn of_many_unknown_keys_the_number_of_the_others_is_said() {
    let keys = ["a", "b", "c", "d", "nested-virtualisation", "pci-passtrough"];
    let mut vm = bare_vm(&keys.map(|key| (key, "1")));
    vm["spec"]["template"]["metadata"]["annotations"] = vm["metadata"]["annotations"].clone();
    let answer = Request::create(vm).evaluate();
    let warning = answer.warnings().join(" ");
    assert!(
        warning.starts_with(&format!(
            r#"no such directive: "nested-virtualisation" (did you mean {PREFIX}nested-virt?), "pci-passtrough" (did you mean {PREFIX}pci-passthrough?), "a", "b" and 2 more; this has no effect; the directives are pci"#
        )),
        "{warning}"
    );
}

/// The policy reads a hundred of them.
#[test]
fn unknown_keys_that_are_not_read_are_counted() {
    let keys: Vec<String> = (0..302).map(|number| format!("key{number}")).collect();
    let answer = Request::create(bare_vm(&keys.iter().map(|key| (key.as_str(), "1")).collect::<Vec<_>>())).evaluate();
    let warning = answer.warnings().join(" ");
    assert!(warning.contains(r#""key100" and 298 more; this has no effect"#), "{warning}");
}

#[rstest]
#[case::object(json!({"devices": ["0000:05:00.0"]}), r#"it is an object; write it as a string, in quotes: '{"devices":["0000:05:00.0"]}'"#)]
#[case::list(json!(["it's"]), r#"it is a list; write it as a string, in quotes: '["it''s"]'"#)]
#[case::long(json!(["x".repeat(200)]), "it is a list; write it as a string, in quotes")]
fn yaml_without_quotes_is_no_text(#[case] value: Value, #[case] error: &str) {
    let mut vm = bare_vm(&[]);
    vm["metadata"]["annotations"] = json!({"vm-feature-manager.io/pci-passthrough": value});
    let answer = Request::create(vm).evaluate();
    assert!(answer.message().ends_with(error), "{}", answer.message());
}

#[rstest]
#[case::colon("nvidia.com/gpu:2", "nvidia.com/gpu=2")]
#[case::colon_and_space("nvidia.com/gpu: 2", "nvidia.com/gpu=2")]
#[case::space("nvidia.com/gpu 2", "nvidia.com/gpu=2")]
#[case::times("2x nvidia.com/gpu", "nvidia.com/gpu=2")]
#[case::json(r#"{"nvidia.com/gpu": 2}"#, "nvidia.com/gpu=2")]
#[case::quoted(r#""nvidia.com/gpu""#, "nvidia.com/gpu")]
#[case::times_behind("nvidia.com/AD102GL_L40S x2", "nvidia.com/AD102GL_L40S=2")]
#[case::name_of_a_vgpu("nvidia.com/NVIDIA A16-4Q", "nvidia.com/NVIDIA_A16-4Q")]
#[case::name_with_a_number("nvidia.com/NVIDIA RTX 6000 2", "nvidia.com/NVIDIA_RTX_6000=2")]
#[case::address(
    "0000:41:00.0",
    "one such as nvidia.com/gpu, or nvidia.com/gpu=2; a PCI device is for the directive pci-passthrough"
)]
#[case::not_a_number("nvidia.com/gpu=two", "nvidia.com/gpu=2, for example, or the name alone")]
#[case::sign("nvidia.com/gpu=+2", "nvidia.com/gpu=2, for example, or the name alone")]
fn a_number_of_gpus_has_an_equals_sign(#[case] value: &str, #[case] write: &str) {
    let answer = create("gpu-device-plugin", value);
    answer.assert_denied(&[&format!("; write {write}")]);
}
