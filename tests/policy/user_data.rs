//! Directives in cloud-init user data.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{ClusterError, SECRET};

use super::harness::{Answer, MemoryCluster, PREFIX, Request, annotate, bare_vm, fixture};

const NESTED: &str = "#cloud-config\nx_kubevirt_features:\n  nested_virt: true\n";

fn settings() -> Value {
    json!({
        "userData": {"enabled": true},
        "nestedVirtualization": {"cpuVendor": "amd"},
        "pciPassthrough": {"deviceNames": "address"},
    })
}

fn secrets() -> Value {
    let mut settings = settings();
    settings["userData"]["readSecrets"] = json!(true);
    settings
}

/// A virtual machine with these volumes.
fn vm(volumes: Value) -> Value {
    let mut vm = bare_vm(&[]);
    vm["spec"]["template"]["spec"]["volumes"] = volumes;
    vm
}

fn no_cloud(user_data: &str) -> Value {
    vm(json!([{"name": "disk-0"}, {"name": "cloudinitdisk", "cloudInitNoCloud": {"userData": user_data}}]))
}

fn of_secret() -> Value {
    vm(json!([{"name": "cloudinitdisk", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}}]))
}

fn secret(key: &str, user_data: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "seed", "namespace": "default"},
        "data": {key: STANDARD.encode(user_data), "networkdata": "c2VjcmV0"},
    })
}

fn create(vm: Value) -> Answer {
    Request::create(vm).settings(settings()).evaluate()
}

#[test]
fn a_vm_of_ranchers_node_driver_asks_for_features() {
    let mut vm = fixture("vm-rancher-node-driver.yaml");
    vm["spec"]["template"]["spec"]["domain"]["devices"]["gpus"] = json!([]);
    vm["spec"]["template"]["spec"]["volumes"][1]["cloudInitNoCloud"]["userData"] = json!(
        "#cloud-config\n\
         ssh_authorized_keys:\n  - ssh-ed25519 AAAA...\n\
         x_kubevirt_features:\n  \
           nested_virt: enabled\n  \
           pci_passthrough:\n    devices: [\"0000:00:02.0\", 0000:03:00.0]\n  \
           gpu_device_plugin: nvidia.com/gpu\n\
         runcmd: [[systemctl, enable, --now, qemu-guest-agent.service]]\n"
    );
    let before = vm.clone();
    let answer = create(vm);
    assert_eq!(answer.audit("applied"), "pci-passthrough,gpu-device-plugin,nested-virt");
    assert_eq!(answer.domain()["cpu"]["features"], json!([{"name": "svm", "policy": "require"}]));
    assert_eq!(answer.annotation("pci-passthrough-applied").as_deref(), Some(r#"["0000:00:02.0","0000:03:00.0"]"#));
    assert_eq!(answer.after()["spec"]["template"]["spec"]["volumes"], before["spec"]["template"]["spec"]["volumes"]);
}

#[rstest]
#[case::no_cloud(json!({"cloudInitNoCloud": {"userData": NESTED}}))]
#[case::config_drive(json!({"cloudInitConfigDrive": {"userData": NESTED}}))]
#[case::base64(json!({"cloudInitNoCloud": {"userDataBase64": STANDARD.encode(NESTED)}}))]
#[case::config_drive_base64(json!({"cloudInitConfigDrive": {"userDataBase64": STANDARD.encode(NESTED)}}))]
#[case::text_before_base64(json!({"cloudInitNoCloud": {"userData": NESTED, "userDataBase64": "IQ=="}}))]
fn user_data_stands_in_volumes(#[case] mut volume: Value) {
    volume["name"] = json!("seed");
    assert_eq!(create(vm(json!([volume]))).audit("applied"), "nested-virt");
}

/// What cloud-init reads as configuration: `type_from_starts_with` in its `cloudinit/handlers/__init__.py`, and
/// `detect_template` in `cloudinit/templater.py`.
#[rstest]
#[case::header("#cloud-config\n", true)]
#[case::carriage_return("#cloud-config\r\n", true)]
#[case::space_behind("#cloud-config  \n", true)]
#[case::header_with_comment("#cloud-config # for the pool\n", true)]
#[case::header_with_more("#cloud-configuration\n", true)]
#[case::empty_lines_before("\n \n#cloud-config\n", true)]
#[case::upper_case("#Cloud-Config\n", true)]
#[case::template("## template: jinja\n#cloud-config\n", true)]
#[case::template_of_windows("## template: jinja\r\n#cloud-config\r\n", true)]
#[case::template_with_space("## Template: Jinja \n\n#cloud-config\n", true)]
#[case::archive("#cloud-config-archive\n", false)]
#[case::archive_in_upper_case("#CLOUD-CONFIG-ARCHIVE\n", false)]
#[case::patch("#cloud-config-jsonp\n", false)]
#[case::script("#!/bin/sh\n", false)]
#[case::include("#include https://example.com/a\n", false)]
#[case::hook("#cloud-boothook\n", false)]
#[case::mime("Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x\n\n#cloud-config\n", false)]
#[case::mime_version_within("#cloud-config\n# MIME-Version: 1.0\n", false)]
#[case::byte_order_mark("\u{feff}#cloud-config\n", false)]
#[case::comment_before("# VM of the lab\n#cloud-config\n", false)]
#[case::two_hyphens("#cloud--config\n", false)]
#[case::no_hyphen("#cloudconfig\n", false)]
#[case::space_within("# cloud-config\n", false)]
#[case::template_alone("## template: jinja\n", false)]
#[case::template_without_space("## template:jinja\n#cloud-config\n", false)]
#[case::template_of_another_type("## template: basic\n#cloud-config\n", false)]
#[case::template_of_a_script("## template: jinja\n#!/bin/sh\n", false)]
#[case::template_behind_an_empty_line("\n## template: jinja\n#cloud-config\n", false)]
#[case::template_with_statements(
    "## template: jinja\n#cloud-config\n{% if v1.region %}\nbootcmd: []\n{% endif %}\n",
    false
)]
#[case::none("", false)]
fn only_a_cloud_config_document_is_read(#[case] header: &str, #[case] is_read: bool) {
    let answer = create(no_cloud(&format!("{header}x_kubevirt_features: {{nested_virt: on}}\n")));
    assert_eq!(answer.is_mutated(), is_read);
    let note = "the user data of the volume \"cloudinitdisk\" is not a cloud-config document that the policy can read";
    let warning = format!("{note}; directives in it have no effect, so write them as annotations");
    assert_eq!(answer.warnings(), if is_read { vec![] } else { vec![warning] });
    assert_eq!(answer.logs[0].starts_with("INFO user data passed over"), !is_read, "{:?}", answer.logs);
}

#[rstest]
#[case::script("#!/bin/sh\n")]
#[case::mime("Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n")]
#[case::template("## template: jinja\n{% if x %}\n")]
fn other_documents_without_directives_are_passed_over_in_silence(#[case] text: &str) {
    assert_eq!(create(no_cloud(text)).response, json!({"accepted": true}));
}

mod template {
    use super::*;

    fn with(lines: &str) -> Answer {
        create(no_cloud(&format!("## template: jinja\n#cloud-config\n{lines}\n")))
    }

    /// `docker-machine-driver-harvester` puts the template's header in front of the merged document (`cloudinit.go`).
    #[test]
    fn of_ranchers_node_driver_is_read() {
        let answer = with(
            "hostname: '{{ ds.meta_data.local_hostname }}'\n\
             x_kubevirt_features:\n  nested_virt: true\n  gpu_device_plugin: nvidia.com/gpu",
        );
        assert_eq!(answer.audit("applied"), "gpu-device-plugin,nested-virt");
        assert!(answer.logs.iter().all(|line| !line.contains("passed over")), "{:?}", answer.logs);
    }

    /// Without quotes, they would not even be YAML.
    #[rstest]
    #[case::text("fqdn: {{ v1.local_hostname }}.lab.example")]
    #[case::several("a: {{ x }}-{{ y }}\nb: \"{{ '}' }}\"")]
    #[case::in_a_map("a: {b: {{ x }}}")]
    #[case::lines("a: {{ x |\n  upper }}")]
    fn expressions_elsewhere_do_no_harm(#[case] line: &str) {
        let answer = with(&format!("{line}\nx_kubevirt_features: {{nested_virt: true}}"));
        assert_eq!(answer.audit("applied"), "nested-virt", "{:?}", answer.warnings());
    }

    #[rstest]
    #[case::alone("'{{ ds.meta_data.vendor }}'")]
    #[case::part("nvidia.com/{{ gpu }}")]
    #[case::in_a_list("{devices: ['{{ address }}']}")]
    fn an_expression_as_value_is_not_read(#[case] value: &str) {
        let answer = with(&format!("x_kubevirt_features:\n  gpu_device_plugin: {value}"));
        answer.assert_accepted_unchanged();
        let problem = "is not read: it has an expression of a template, which only the guest can evaluate";
        assert!(answer.warnings()[0].contains(problem), "{:?}", answer.warnings());
    }

    /// Only a template is rendered.
    #[test]
    fn braces_in_another_document_are_text() {
        let answer = create(no_cloud("#cloud-config\nx_kubevirt_features: {nested_virt: '{{ x }}'}\n"));
        answer.assert_denied(&["x_kubevirt_features.nested_virt: \"{{ x }}\"): must be enabled or disabled"]);
    }
}

#[rstest]
#[case::boolean("nested_virt: true", Some("nested-virt"))]
#[case::word("nested_virt: enabled", Some("nested-virt"))]
#[case::number("nested_virt: 1", Some("nested-virt"))]
#[case::hyphen("nested-virt: 'yes'", Some("nested-virt"))]
#[case::off("nested_virt: false", None)]
#[case::disabled("nested_virt: disabled", None)]
#[case::null("nested_virt:", None)]
#[case::off_for_any_feature("pci_passthrough: false\n  vbios_injection: off\n  gpu_device_plugin: no", None)]
#[case::map("pci_passthrough: {devices: [00:02.0]}", Some("pci-passthrough"))]
#[case::json(r#"pci_passthrough: '{"devices": ["00:02.0"]}'"#, Some("pci-passthrough"))]
fn values(#[case] line: &str, #[case] applied: Option<&str>) {
    let answer = create(no_cloud(&format!("#cloud-config\nx_kubevirt_features:\n  {line}\n")));
    assert!(answer.is_accepted(), "{}", answer.message());
    assert_eq!(answer.audit("applied"), applied.unwrap_or_default());
    assert_eq!(answer.is_mutated(), applied.is_some());
}

#[test]
fn nothing_is_read_unless_it_is_switched_on() {
    for settings in [json!({}), json!({"userData": {"readSecrets": true}}), json!({"userData": {"enabled": false}})] {
        let answer = Request::create(no_cloud(NESTED)).settings(settings).evaluate();
        assert_eq!(answer.response, json!({"accepted": true}));
    }
}

#[test]
fn a_failure_names_the_volume_and_the_key() {
    let text = "#cloud-config\npassword: hunter2\nx_kubevirt_features: {nested_virt: maybe}\n";
    let answer = create(no_cloud(text));
    answer.assert_denied(&[
        r#"(user data of the volume "cloudinitdisk", x_kubevirt_features.nested_virt: "maybe"): must be enabled or disabled"#,
    ]);
    assert!(!answer.message().contains("hunter2") && !answer.logs.join("").contains("hunter2"));
}

#[test]
fn strip_label_leaves_the_guests_text_alone() {
    let mut settings = settings();
    settings["nestedVirtualization"]["errorHandling"] = json!("strip-label");
    let vm = no_cloud("#cloud-config\nx_kubevirt_features: {nested_virt: maybe}\n");
    let answer = Request::create(vm).settings(settings).evaluate();
    assert_eq!(answer.after()["spec"], no_cloud("#cloud-config\nx_kubevirt_features: {nested_virt: maybe}\n")["spec"]);
    assert_eq!(answer.audit("failed"), "nested-virt");
    // The directive stays, so an annotation says that it was tried.
    assert_eq!(answer.annotation("nested-virt-error").as_deref(), Some("must be enabled or disabled"));
}

mod precedence {
    use super::*;

    fn with(source: &str, value: &str) -> Answer {
        let mut vm = no_cloud("#cloud-config\nx_kubevirt_features: {gpu_device_plugin: nvidia.com/gpu}\n");
        vm["metadata"][source][format!("{PREFIX}gpu-device-plugin")] = json!(value);
        let mut settings = settings();
        settings["configSource"] = json!(source);
        Request::create(vm).settings(settings).evaluate()
    }

    #[test]
    fn annotations_and_labels_win_over_user_data() {
        let answer = with("annotations", "amd.com/gpu");
        assert_eq!(answer.annotation("gpu-device-plugin-applied").as_deref(), Some("amd.com/gpu"));
        // The value of a label cannot be the name of a resource, but the label counts.
        with("labels", "none").assert_denied(&["(label vm-feature-manager.io/gpu-device-plugin: \"none\")"]);
    }

    #[rstest]
    #[case::first_on("true", "false", "nested-virt")]
    #[case::first_off("false", "true", "")]
    #[case::first_null("~", "true", "nested-virt")]
    fn of_several_volumes_the_first_counts(#[case] first: &str, #[case] second: &str, #[case] applied: &str) {
        let text = |value: &str| format!("#cloud-config\nx_kubevirt_features: {{nested_virt: {value}}}\n");
        let answer = create(vm(json!([
            {"name": "a", "cloudInitNoCloud": {"userData": text(first)}},
            {"name": "b", "cloudInitConfigDrive": {"userData": text(second)}},
        ])));
        assert_eq!(answer.audit("applied"), applied);
        let warnings = if first == "~" {
            vec![]
        } else {
            vec![r#""nested-virt" is in the user data of the volumes "a" and "b"; the first counts"#]
        };
        assert_eq!(answer.warnings(), warnings);
    }

    #[rstest]
    #[case::user_data("", "vmx")]
    #[case::annotation("amd", "svm")]
    fn options_may_stand_there_too(#[case] annotation: &str, #[case] extension: &str) {
        let mut vm = no_cloud("#cloud-config\nx_kubevirt_features: {nested_virt: on, cpu_vendor: intel}\n");
        if !annotation.is_empty() {
            annotate(&mut vm, &[("cpu-vendor", annotation)]);
        }
        let answer = create(vm);
        assert_eq!(answer.domain()["cpu"]["features"][0]["name"], extension);
        assert_eq!(answer.warnings(), Vec::<&str>::new());
    }

    #[test]
    fn an_option_alone_asks_for_nothing() {
        let answer = create(no_cloud("#cloud-config\nx_kubevirt_features: {cpu_vendor: intel}\n"));
        let warning = "the option cpu-vendor has no effect without the directive nested-virt";
        assert_eq!(answer.response, json!({"accepted": true, "warnings": [warning]}));
    }

    #[rstest]
    #[case::mistyped("pci_passtrough", " (did you mean pci_passthrough?)")]
    #[case::in_another_form("nestedVirt", " (did you mean nested_virt?)")]
    #[case::with_the_prefix("vm-feature-manager.io/nested-virt", " (did you mean nested_virt?)")]
    #[case::mistyped_with_the_prefix("vm-feature-manager.io/nested-vrit", " (did you mean nested_virt?)")]
    #[case::option("cpu_vender", " (did you mean cpu_vendor?)")]
    #[case::two_meanings("gpu_passthrough", " (did you mean gpu_device_plugin or pci_passthrough?)")]
    #[case::far("sriov", "")]
    fn an_unknown_name_is_a_warning(#[case] key: &str, #[case] hint: &str) {
        let answer = create(no_cloud(&format!("#cloud-config\nx_kubevirt_features: {{{key}: x}}\n")));
        answer.assert_accepted_unchanged();
        let start = format!(r#"no such directive: "{key}" in the user data{hint}; this has no effect"#);
        let warnings = answer.warnings().join(" ");
        assert!(warnings.starts_with(&start), "{warnings}");
        assert_eq!(warnings == start, !hint.is_empty(), "{warnings}");
    }

    #[test]
    fn an_unknown_name_beside_an_annotation() {
        let mut vm = no_cloud("#cloud-config\nx_kubevirt_features: {nested-vrit: x}\n");
        annotate(&mut vm, &[("nested-vrit", "x")]);
        let warning = format!(
            r#"no such directive: "nested-vrit" (did you mean {PREFIX}nested-virt?), "nested-vrit" in the user data (did you mean nested_virt?); this has no effect"#
        );
        assert_eq!(create(vm).warnings(), [warning]);
    }
}

#[rstest]
#[case::syntax("x_kubevirt_features: {nested_virt: true", "is not read: it is not valid YAML")]
#[case::not_a_map("x_kubevirt_features: [nested_virt]", "is not read: it is not a map")]
#[case::alias("a: &b {nested_virt: true}\nx_kubevirt_features: *b", "is not read: it has an alias")]
#[case::alias_of_value("a: &b true\nx_kubevirt_features: {nested_virt: *b}", "it has an alias")]
#[case::long_value(&format!("x_kubevirt_features: {{nested_virt: {}}}", "x".repeat(1025)), "longer than 1024 bytes")]
#[case::long_text(&format!("x_kubevirt_features: {{nested_virt: true}}\n#{}", "x".repeat(64 << 10)), "is longer than 64 KiB")]
#[case::repeated("x_kubevirt_features: {pci_passthrough: {devices: [a], devices: [b]}}", "a key in it is repeated")]
fn what_cannot_be_read_is_ignored_with_a_warning_and_a_log_line(#[case] text: &str, #[case] reason: &str) {
    let text = format!("#cloud-config\n{text}\n");
    for source in [json!({"userData": text}), json!({"userDataBase64": STANDARD.encode(&text)})] {
        let answer = create(vm(json!([{"name": "seed", "cloudInitNoCloud": source}])));
        answer.assert_accepted_unchanged();
        let warning = answer.warnings().join(" ");
        assert!(warning.contains(reason) && warning.ends_with("so write them as annotations"), "{warning}");
        assert_eq!(answer.logs.len(), 1, "{:?}", answer.logs);
        assert!(answer.logs[0].starts_with("INFO user data passed over"), "{:?}", answer.logs);
        assert!(answer.logs[0].contains(reason), "{:?}", answer.logs);
    }
}

#[rstest]
#[case::no_base64(json!({"userDataBase64": "no base64!"}), "is not valid base64")]
#[case::compressed(json!({"userDataBase64": STANDARD.encode(b"\x1f\x8b\x08\xff")}), "is compressed")]
#[case::not_text(json!({"userDataBase64": STANDARD.encode(b"\xff\xfe#\x00")}), "is not UTF-8")]
#[case::long(json!({"userDataBase64": "A".repeat(88 << 10)}), "is longer than 64 KiB")]
fn base64_that_cannot_be_read(#[case] source: Value, #[case] reason: &str) {
    let answer = create(vm(json!([{"name": "seed", "cloudInitNoCloud": source}])));
    answer.assert_accepted_unchanged();
    let note = format!("the user data of the volume \"seed\" {reason}");
    assert_eq!(answer.warnings(), [format!("{note}; directives in it have no effect, so write them as annotations")]);
    assert!(answer.logs[0].contains(reason), "{:?}", answer.logs);
}

/// `base64 file` writes lines of 76 characters. The longest is 64 KiB without the line breaks.
#[rstest]
#[case::unix("\n", 0)]
#[case::windows("\r\n", 0)]
#[case::as_long_as_may_be("\n", (64 << 10) - NESTED.len())]
fn base64_may_have_line_breaks(#[case] line_break: &str, #[case] padding: usize) {
    let encoded = STANDARD.encode(format!("{NESTED}{}", "#".repeat(padding)));
    let lines: Vec<_> = encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let base64 = lines.join(line_break) + line_break;
    let answer = create(vm(json!([{"name": "seed", "cloudInitNoCloud": {"userDataBase64": base64}}])));
    assert_eq!(answer.audit("applied"), "nested-virt");
    assert_eq!(answer.warnings(), Vec::<&str>::new());
}

#[rstest]
#[case::nothing(json!(null))]
#[case::text(json!("text"))]
#[case::number(json!({"userData": 1}))]
#[case::no_name(json!({"secretRef": {}}))]
#[case::list(json!([{"userData": NESTED}]))]
fn sources_of_a_wrong_type_name_nothing(#[case] source: Value) {
    let answer =
        Request::create(vm(json!([{"name": "seed", "cloudInitNoCloud": source}]))).settings(secrets()).evaluate();
    assert_eq!(answer.response, json!({"accepted": true}));
}

mod secret {
    use super::*;

    fn answer(objects: Vec<Value>) -> Answer {
        Request::create(of_secret()).settings(secrets()).cluster(MemoryCluster::of(objects)).evaluate()
    }

    #[rstest]
    #[case("userdata")]
    #[case("userData")]
    #[case("user-data")]
    fn is_read_under_each_key(#[case] key: &str) {
        let answer = answer(vec![secret(key, NESTED)]);
        assert_eq!(answer.audit("applied"), "nested-virt");
        assert_eq!(answer.lookups, ["get Secret seed"]);
    }

    #[rstest]
    #[case::no_key(secret("other", NESTED))]
    #[case::nothing_in_it(secret("userdata", ""))]
    #[case::script(secret("userdata", "#!/bin/sh\n"))]
    fn that_names_nothing_is_nothing(#[case] secret: Value) {
        assert_eq!(answer(vec![secret]).response, json!({"accepted": true}));
    }

    #[test]
    fn is_not_read_unless_the_settings_say_so() {
        let answer = Request::create(of_secret())
            .settings(settings())
            .cluster(MemoryCluster::of(vec![secret("userdata", NESTED)]))
            .evaluate();
        assert_eq!(answer.response, json!({"accepted": true}));
        assert_eq!(answer.lookups, Vec::<String>::new());
    }

    #[test]
    fn of_two_volumes_is_read_once() {
        let mut vm = of_secret();
        let volumes = vm["spec"]["template"]["spec"]["volumes"].as_array_mut().unwrap();
        volumes.push(json!({"name": "b", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}}));
        let cluster = MemoryCluster::of(vec![secret("userdata", NESTED)]);
        let answer = Request::create(vm).settings(secrets()).cluster(cluster).evaluate();
        assert_eq!(answer.lookups, ["get Secret seed"]);
    }

    #[test]
    fn is_not_read_for_an_update_that_changes_nothing() {
        let mut new = of_secret();
        new["spec"]["runStrategy"] = json!("Halted");
        let answer = Request::update(of_secret(), new).settings(secrets()).evaluate();
        assert_eq!(answer.response, json!({"accepted": true}));
        assert_eq!(answer.lookups, Vec::<String>::new());
    }

    #[rstest]
    #[case::not_there_yet(MemoryCluster::of(vec![]), "does not exist yet; what it asks for takes effect when the VirtualMachine's spec.template.spec next changes")]
    #[case::not_granted(
        MemoryCluster::default(),
        "cannot be read: the ClusterAdmissionPolicy does not list v1 Secret under spec.contextAwareResources; write the directives as annotations, or have an administrator add {apiVersion: v1, kind: Secret} to that list"
    )]
    #[case::forbidden(
        MemoryCluster::of(vec![]).without("get", &SECRET),
        "cannot be read: the policy reads the cluster as the service account kubewarden:policy-server, which may not get \
         secrets in the namespace default; write the directives as annotations, or have an administrator run: kubectl create \
         role vm-feature-manager-secrets --namespace=default --verb=get --resource=secrets && kubectl create rolebinding \
         vm-feature-manager-secrets --namespace=default --role=vm-feature-manager-secrets \
         --serviceaccount=kubewarden:policy-server"
    )]
    #[case::unavailable(MemoryCluster::of(vec![]).failing(&SECRET, ClusterError::Unavailable), "cannot be read for now; what it asks for takes effect when the VirtualMachine's spec.template.spec next changes")]
    fn that_cannot_be_read_is_a_warning(#[case] cluster: MemoryCluster, #[case] why: &str) {
        let answer = Request::create(of_secret()).settings(secrets()).cluster(cluster).evaluate();
        let warning = format!("the Secret \"seed\" with the user data of the volume \"cloudinitdisk\" {why}");
        assert_eq!(answer.warnings().join(" "), warning);
        assert!(answer.is_accepted() && !answer.is_mutated());
    }

    /// If the policy cannot read user data during an update, it does not remove anything.
    #[test]
    fn that_cannot_be_read_takes_nothing_back() {
        let applied = answer(vec![secret("userdata", NESTED)]).after();
        let mut new = applied.clone();
        new["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = json!(2);
        let answer = Request::update(applied.clone(), new.clone())
            .settings(secrets())
            .cluster(MemoryCluster::default())
            .evaluate();
        answer.assert_accepted_unchanged();
        assert_eq!(
            answer.warnings().first(),
            Some(
                &"nested-virt: what the policy added stays as it is, because user data that may say otherwise cannot be read"
            )
        );
        // When the policy can read it again, and it asks for nothing, the entries are removed.
        let answer = Request::update(applied, new)
            .settings(secrets())
            .cluster(MemoryCluster::of(vec![secret("userdata", "#cloud-config\n")]))
            .evaluate();
        assert_eq!(answer.annotation("nested-virt-applied"), None);
        assert_eq!(answer.domain()["cpu"], json!({"cores": 2}));
    }

    /// No request changes the Secret, so none is denied because of it, and none is the request of who changed it.
    #[rstest]
    #[case::fails_as_before("nested_virt: maybe", "nested-virt fails as before this request")]
    #[case::is_new("cpu_pinning: maybe", "cpu-pinning is not applied")]
    fn that_changed_since_denies_no_request(#[case] directive: &str, #[case] warning: &str) {
        let applied = answer(vec![secret("userdata", NESTED)]).after();
        let mut new = applied.clone();
        new["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = json!(2);
        let text = format!("#cloud-config\nx_kubevirt_features: {{{directive}}}\n");
        let cluster = MemoryCluster::of(vec![secret("userdata", &text)]);
        let answer = Request::update(applied, new).settings(secrets()).cluster(cluster).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        assert!(answer.warnings().join(" ").contains(warning), "{:?}", answer.warnings());
        assert_eq!(answer.lookups, ["get Secret seed"]);
    }

    /// Any of the policy's annotations, on the new or the old VirtualMachine, shows that there may be something to remove.
    #[rstest]
    #[case::record(&["record"], &[], true)]
    #[case::record_before(&[], &["record"], true)]
    #[case::applied(&["nested-virt-applied"], &[], true)]
    #[case::applied_before(&[], &["nested-virt-applied"], true)]
    #[case::nothing(&[], &[], false)]
    fn that_cannot_be_read_may_concern_what_is_there(
        #[case] new: &[&str],
        #[case] old: &[&str],
        #[case] concerns: bool,
    ) {
        let stored = answer(vec![secret("userdata", NESTED)]).after();
        let with = |keys: &[&str], cores: u32| {
            let mut vm = stored.clone();
            vm["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = json!(cores);
            for metadata in ["/metadata/annotations", "/spec/template/metadata/annotations"] {
                let annotations = vm.pointer_mut(metadata).unwrap().as_object_mut().unwrap();
                annotations.retain(|key, _| key.strip_prefix(PREFIX).is_none_or(|key| keys.contains(&key)));
            }
            vm
        };
        let request = Request::update(with(old, 1), with(new, 2)).settings(secrets()).cluster(MemoryCluster::default());
        let warnings = request.evaluate().warnings().join(" ");
        assert_eq!(warnings.contains("nested-virt: what the policy added stays as it is"), concerns, "{warnings}");
    }
}

mod taking_back {
    use super::*;

    const STAYS: &str = "what the policy added stays as it is, because user data that may say otherwise cannot be read";

    /// The VM with its user data in a Secret, which these settings do not read, and with other CPU cores.
    fn hidden(vm: &Value, cores: u32) -> Value {
        let mut vm = vm.clone();
        vm["spec"]["template"]["spec"]["volumes"] = of_secret()["spec"]["template"]["spec"]["volumes"].clone();
        vm["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = json!(cores);
        vm
    }

    fn updated(old: &Value, new: &Value) -> Answer {
        Request::update(old.clone(), new.clone()).settings(settings()).evaluate()
    }

    #[test]
    fn user_data_that_moves_to_a_secret_that_is_not_read_takes_nothing_back() {
        let stored = create(no_cloud(NESTED)).after();
        let (moved, changed) = (hidden(&stored, 1), hidden(&stored, 2));
        for answer in [updated(&stored, &moved), updated(&moved, &changed)] {
            answer.assert_accepted_unchanged();
            assert_eq!(answer.warnings(), [format!("nested-virt: {STAYS}")]);
        }
        let mut off = changed.clone();
        annotate(&mut off, &[("nested-virt", "disabled")]);
        assert_eq!(updated(&changed, &off).domain()["cpu"], json!({"cores": 2}));
    }

    /// The record says that the directive had an option, which may still be in the Secret.
    #[rstest]
    #[case::not_read(settings())]
    #[case::missing(secrets())]
    fn a_directive_that_is_off_needs_no_option(
        #[case] settings: Value,
        #[values("disabled", "off", "false")] word: &str,
        #[values(
            ("nested-virt", "nested_virt: true, cpu_vendor: intel"),
            ("cpu-pinning", "cpu_pinning: true, isolate_emulator_thread: true")
        )]
        (directive, section): (&str, &str),
    ) {
        let text = format!("#cloud-config\nx_kubevirt_features: {{{section}}}\n");
        let mut vm = no_cloud(&text);
        vm["spec"]["template"]["spec"]["domain"]["resources"]["limits"] = json!({"cpu": "1", "memory": "4Gi"});
        let created = create(vm.clone());
        assert!(created.is_mutated(), "{}", created.message());
        let stored = hidden(&created.after(), 1);
        let mut off = stored.clone();
        annotate(&mut off, &[(directive, word)]);
        let answer = Request::update(stored, off).settings(settings).evaluate();
        assert_eq!(answer.after()["spec"], hidden(&vm, 1)["spec"]);
        assert!(!answer.warnings().join(" ").contains("stays as it is"), "{:?}", answer.warnings());
    }

    #[test]
    fn an_option_that_moves_to_a_secret_that_is_not_read_changes_nothing() {
        let mut vm = no_cloud("#cloud-config\nx_kubevirt_features: {cpu_vendor: intel}\n");
        annotate(&mut vm, &[("nested-virt", "enabled")]);
        let stored = create(vm).after();
        let answer = updated(&stored, &hidden(&stored, 1));
        answer.assert_accepted_unchanged();
        assert_eq!(answer.warnings(), [format!("nested-virt: {STAYS}")]);
    }

    /// Most VMs of Harvester have their user data in a Secret.
    #[test]
    fn a_secret_that_is_not_read_keeps_nothing_that_annotations_asked_for() {
        let mut vm = of_secret();
        annotate(&mut vm, &[("nested-virt", "enabled"), ("cpu-vendor", "intel")]);
        let created = create(vm);
        assert_eq!(created.warnings(), [""; 0]);
        let stored = created.after();
        let without = |keys: &[&str]| {
            let mut vm = hidden(&stored, 2);
            let annotations = vm["metadata"]["annotations"].as_object_mut().unwrap();
            annotations.retain(|key, _| !keys.contains(&key.strip_prefix(PREFIX).unwrap_or(key)));
            updated(&stored, &vm)
        };
        let answer = without(&["nested-virt", "cpu-vendor"]);
        assert_eq!(answer.domain()["cpu"], json!({"cores": 2}));
        assert_eq!(answer.warnings(), [""; 0]);
        let answer = without(&["cpu-vendor"]);
        assert_eq!(answer.domain()["cpu"]["features"][0]["name"], "svm");
        let answer = without(&[]);
        answer.assert_accepted_unchanged();
        assert_eq!(answer.warnings(), [""; 0]);
        let plain = of_secret();
        updated(&plain, &hidden(&plain, 2)).assert_accepted_unchanged();
    }

    /// The setting says AMD, and the option in the Secret says Intel.
    #[test]
    fn an_option_that_cannot_be_read_changes_nothing() {
        let mut vm = of_secret();
        annotate(&mut vm, &[("nested-virt", "enabled")]);
        let intel = secret("userdata", "#cloud-config\nx_kubevirt_features: {cpu_vendor: intel}\n");
        let request = Request::create(vm).settings(secrets()).cluster(MemoryCluster::of(vec![intel]));
        let stored = request.evaluate().after();
        assert_eq!(stored["spec"]["template"]["spec"]["domain"]["cpu"]["features"][0]["name"], "vmx");
        let mut new = stored.clone();
        new["spec"]["template"]["spec"]["domain"]["cpu"]["cores"] = json!(2);
        let answer = Request::update(stored, new).settings(secrets()).evaluate();
        answer.assert_accepted_unchanged();
        let warnings = answer.warnings().join(" ");
        assert!(warnings.contains("the Secret \"seed\" "), "{warnings}");
        assert!(warnings.contains("nested-virt: what the policy added stays as it is"), "{warnings}");
    }

    /// The directive is an annotation. Its option is in user data, and then becomes an alias.
    #[rstest]
    #[case::cpu_vendor(&[("nested-virt", "enabled")], "cpu_vendor: intel", "cpu_vendor: *b")]
    #[case::image(&[("vbios-injection", "igpu-rom")], "sidecar_image: 'example.com/shim:v1'", "sidecar_image: *b")]
    #[case::device(&[("vbios-injection", "igpu-rom")], "vbios_device: node2-000005000", "vbios_device: *b")]
    fn a_value_that_cannot_be_read_changes_nothing(
        #[case] directives: &[(&str, &str)],
        #[case] option: &str,
        #[case] unreadable: &str,
    ) {
        let text = |option: &str| json!(format!("#cloud-config\na: &b c\nx_kubevirt_features: {{{option}}}\n"));
        let mut vm = no_cloud(text(option).as_str().unwrap());
        annotate(&mut vm, directives);
        vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = json!([
            {"name": "node2-000005000", "deviceName": "amd.com/CEZANNE_RADEON_VEGA_SERIES"},
            {"name": "node2-000006000", "deviceName": "example.com/OTHER"},
        ]);
        if directives[0].0 == "vbios-injection" && !option.starts_with("vbios_device") {
            vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"].as_array_mut().unwrap().pop();
        }
        let evaluate = |request: Request| {
            let cluster = MemoryCluster::of(super::super::harness::vbios_objects());
            request.settings(settings()).cluster(cluster).evaluate()
        };
        let created = evaluate(Request::create(vm));
        assert!(created.is_mutated(), "{}", created.response);
        let stored = created.after();
        let mut new = stored.clone();
        new["spec"]["template"]["spec"]["volumes"][1]["cloudInitNoCloud"]["userData"] = text(unreadable);
        let answer = evaluate(Request::update(stored, new));
        answer.assert_accepted_unchanged();
        let why = "stays as it is, because user data that may say otherwise cannot be read";
        assert!(answer.warnings()[0].ends_with(why), "{:?}", answer.warnings());
    }

    /// 64 KiB of text, and one byte more.
    #[rstest]
    fn the_most_that_is_read(#[values(0, 1)] more: usize, #[values(true, false)] base64: bool) {
        let text = format!("{NESTED}#{}", "x".repeat((64 << 10) - NESTED.len() - 1 + more));
        let source = if base64 { json!({"userDataBase64": STANDARD.encode(&text)}) } else { json!({"userData": text}) };
        let answer = create(vm(json!([{"name": "a", "cloudInitNoCloud": source}])));
        assert_eq!(answer.is_mutated(), more == 0);
    }

    /// KubeVirt allows only one volume with user data.
    #[rstest]
    #[case::as_much_as_is_read(0, true)]
    #[case::a_byte_more(1, false)]
    fn the_most_that_is_read_of_all_volumes(#[case] more: usize, #[case] is_read: bool) {
        let text = |length: usize| format!("{NESTED}#{}", "x".repeat(length - NESTED.len() - 1));
        let volume = |name: &str, text: String| json!({"name": name, "cloudInitNoCloud": {"userData": text}});
        let answer = create(vm(json!([volume("a", text(32 << 10)), volume("b", text((32 << 10) + more))])));
        let why = "is longer than 64 KiB with that of the volumes before it";
        assert_eq!(answer.warnings().iter().any(|warning| warning.contains(why)), !is_read, "{:?}", answer.warnings());
    }

    #[test]
    fn the_longest_value_is_read() {
        let value = "x".repeat(1024);
        let text = format!("#cloud-config\nx_kubevirt_features: {{nested_virt: {value}}}\n");
        create(no_cloud(&text)).assert_denied(&["nested-virt cannot be applied"]);
    }

    /// The length of a map is that of its JSON.
    #[rstest]
    #[case::the_longest(1024, true)]
    #[case::a_byte_more(1025, false)]
    #[case::much_more(4096, false)]
    fn the_longest_map_is_read(#[case] length: usize, #[case] is_read: bool) {
        let name = "x".repeat(length - r#"{"devices":[""]}"#.len());
        let text = format!("#cloud-config\nx_kubevirt_features: {{pci_passthrough: {{devices: [{name}]}}}}\n");
        let answer = create(no_cloud(&text));
        assert_eq!(answer.is_accepted(), !is_read, "{}", answer.response);
        assert_eq!(answer.logs[0].contains("it is longer than 1024 bytes"), !is_read);
    }

    #[test]
    fn a_second_document_that_is_no_yaml_spoils_the_first() {
        let both = |second: &str| create(no_cloud(&format!("{NESTED}---\n{second}")));
        assert!(both("[]").is_mutated());
        both("[").assert_accepted_unchanged();
    }

    #[test]
    fn of_three_volumes_one_warning_tells() {
        let volume = |name| json!({"name": name, "cloudInitNoCloud": {"userData": NESTED}});
        let answer = create(vm(json!([volume("a"), volume("b"), volume("c")])));
        assert!(answer.is_mutated());
        assert_eq!(answer.warnings().len(), 1, "{:?}", answer.warnings());
    }

    /// KubeVirt allows only one such volume, so the policy reads only the first few.
    #[rstest]
    #[case::the_eighth(7, true)]
    #[case::the_ninth(8, false)]
    fn of_many_volumes_the_first_are_read(#[case] before: usize, #[case] is_read: bool) {
        let volume = |n: usize, text: &str| json!({"name": format!("v{n}"), "cloudInitNoCloud": {"userData": text}});
        let mut volumes: Vec<Value> = (0..before).map(|n| volume(n, "#cloud-config\n")).collect();
        volumes.push(volume(before, NESTED));
        let answer = create(vm(json!(volumes)));
        assert_eq!(answer.is_mutated(), is_read);
        let note = "the user data of the volume \\\"v8\\\" and of those after it is not read";
        assert_eq!(answer.logs[0].contains(note), !is_read, "{}", answer.logs[0]);
    }

    /// A directive that is new is planned without the option.
    #[test]
    fn an_option_that_cannot_be_read_does_not_stop_a_new_directive() {
        let mut vm = no_cloud("#cloud-config\na: &b c\nx_kubevirt_features: {cpu_vendor: *b}\n");
        annotate(&mut vm, &[("nested-virt", "enabled")]);
        let answer = create(vm);
        assert_eq!(answer.domain()["cpu"]["features"][0]["name"], "svm");
    }

    /// There are no records, but the old user data shows that the policy may have added the entry.
    #[rstest]
    #[case::declared(true)]
    #[case::not_declared(false)]
    fn what_kubectl_apply_declares_stays(#[case] declared: bool) {
        let mut settings = settings();
        settings["addTrackingAnnotations"] = json!(false);
        let stored = Request::create(no_cloud(NESTED)).settings(settings.clone()).evaluate().after();
        let mut new = stored.clone();
        new["spec"]["template"]["spec"]["volumes"] = json!([]);
        if declared {
            let key = "kubectl.kubernetes.io/last-applied-configuration";
            new["metadata"]["annotations"] = json!({key: stored.to_string()});
        }
        let answer = Request::update(stored, new).settings(settings).evaluate();
        assert_eq!(answer.domain()["cpu"]["features"].is_array(), declared);
    }

    /// The policy plans features without options even if user data cannot be read.
    #[rstest]
    #[case::pci(
        ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0"]}"#),
        r#"{"devices": ["node1/0000:03:00.0"]}"#
    )]
    #[case::gpu(("gpu-device-plugin", "nvidia.com/gpu"), "nvidia.com/gpu=2")]
    fn a_directive_without_options_changes(#[case] directive: (&str, &str), #[case] next: &str) {
        let mut vm = of_secret();
        annotate(&mut vm, &[directive]);
        let mut settings = secrets();
        settings["pciPassthrough"] = json!({"deviceNames": "address"});
        let stored = Request::create(vm).settings(settings.clone()).evaluate().after();
        let mut new = stored.clone();
        annotate(&mut new, &[(directive.0, next)]);
        let answer = Request::update(stored, new).settings(settings).evaluate();
        let before = format!("{}-applied", directive.0);
        assert!(answer.is_mutated(), "{}", answer.response);
        assert!(answer.annotation(&before).unwrap().contains(if directive.0 == "pci-passthrough" {
            "03:00.0"
        } else {
            "=2"
        }));
    }

    #[rstest]
    #[case::with_tracking(true)]
    #[case::without_tracking(false)]
    fn what_user_data_asked_for_goes_with_its_volume(#[case] tracking: bool) {
        let mut settings = settings();
        settings["addTrackingAnnotations"] = json!(tracking);
        let text =
            "#cloud-config\nx_kubevirt_features:\n  nested_virt: true\n  pci_passthrough: {devices: [node1/00:02.0]}\n";
        let stored = Request::create(no_cloud(text)).settings(settings.clone()).evaluate().after();
        let mut new = stored.clone();
        new["spec"]["template"]["spec"]["volumes"] = json!([{"name": "disk-0"}]);
        let after = Request::update(stored, new).settings(settings).evaluate().after();
        let spec = &after["spec"]["template"]["spec"];
        assert_eq!(spec, &json!({"domain": {"devices": {}}, "volumes": [{"name": "disk-0"}]}));
    }

    /// The VM as it is stored after the policy read the user data, and as the user then changes it.
    fn update(settings: &Value, user_data: &str) -> Answer {
        let create = Request::create(no_cloud(NESTED)).settings(settings.clone()).evaluate();
        let stored = create.after();
        assert_eq!(stored["spec"]["template"]["spec"]["domain"]["cpu"]["features"][0]["name"], "svm");
        let mut new = stored.clone();
        new["spec"]["template"]["spec"]["volumes"][1]["cloudInitNoCloud"]["userData"] = json!(user_data);
        Request::update(stored, new).settings(settings.clone()).evaluate()
    }

    #[rstest]
    #[case::gone("#cloud-config\n", false)]
    #[case::off("#cloud-config\nx_kubevirt_features: {nested_virt: false}\n", false)]
    #[case::a_script("#!/bin/sh\n", false)]
    #[case::other_text("#cloud-config\n# x\nx_kubevirt_features: {nested_virt: 'yes'}\n", true)]
    #[case::unreadable("#cloud-config\nx_kubevirt_features: {nested_virt: false\n", true)]
    #[case::unreadable_value("#cloud-config\na: &b c\nx_kubevirt_features: {nested_virt: *b}\n", true)]
    fn what_user_data_had_asked_for(#[case] user_data: &str, #[case] stays: bool) {
        for tracking in [true, false] {
            let mut settings = settings();
            settings["addTrackingAnnotations"] = json!(tracking);
            let answer = update(&settings, user_data);
            assert!(answer.is_accepted());
            assert_eq!(answer.domain()["cpu"]["features"].is_array(), stays, "{tracking}");
        }
    }

    #[test]
    fn user_data_that_an_annotation_follows_changes_nothing() {
        let mut new = create(no_cloud(NESTED)).after();
        let stored = new.clone();
        annotate(&mut new, &[("nested-virt", "enabled")]);
        new["spec"]["template"]["spec"]["volumes"] = json!([]);
        Request::update(stored, new).settings(settings()).evaluate().assert_accepted_unchanged();
    }
}
