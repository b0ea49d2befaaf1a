//! The command-line program: what it prints, and its exit codes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rstest::rstest;
use serde_json::{Value, json};

/// Exit code, standard output, standard error.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut child = Command::new(env!("CARGO_BIN_EXE_vmfm-evaluate"))
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file for one test, with its own name.
fn file(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

const VM: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: vm
  annotations:
    vm-feature-manager.io/gpu-device-plugin: nvidia.com/gpu
spec: {template: {spec: {domain: {devices: {}}}}}
"#;

#[test]
fn the_example_prints_a_diff_the_warnings_and_the_audit_annotations() {
    let (code, stdout, stderr) = example(&[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("VirtualMachine default/igpu-vm: allowed, mutated\n"), "{stdout}");
    for line in [
        "+    vm-feature-manager.io/nested-virt-applied: \"true\"",
        "+          - name: vmx",
        "+          hostDevices:",
        "+            name: node1-000000020",
        "+            nvidia.com/gpu: \"1\"",
        "warnings:",
        "audit annotations:",
        "  applied: nested-virt,pci-passthrough,gpu-device-plugin",
    ] {
        assert!(stdout.lines().any(|l| l == line), "{line:?} is not in {stdout}");
    }
    assert!(!stdout.lines().any(|l| l.starts_with('-') && !l.starts_with("---")), "{stdout}");
}

/// Evaluates the example of `make run`.
fn example(more: &[&str]) -> (i32, String, String) {
    let arguments = ["--cluster", "examples/harvester/cluster", "examples/harvester/vm.yaml"];
    run(&[more, &arguments].concat(), "")
}

#[test]
fn denied_kinds_and_an_offline_cluster_are_shown() {
    let (code, stdout, _) = example(&["--deny", "Node"]);
    assert_eq!(code, 1);
    assert!(stdout.contains("kubewarden:policy-server, which may not get nodes"), "{stdout}");

    let (code, stdout, _) = example(&["--deny", "PCIDevice", "--deny", "KubeVirt"]);
    assert_eq!(code, 1);
    assert!(stdout.contains("which may not get pcidevices.devices.harvesterhci.io"), "{stdout}");
    assert!(stdout.contains("permittedHostDevices cannot be read:"), "{stdout}");

    let (code, stdout, _) = example(&["--offline"]);
    assert_eq!(code, 1);
    assert!(stdout.contains("failed for now"), "{stdout}");
}

#[test]
fn the_example_with_a_rom_prints_the_sidecar() {
    let arguments = ["--cluster", "examples/vbios/cluster", "examples/vbios/vm.yaml"];
    let (code, stdout, _) = run(&arguments, "");
    assert_eq!(code, 0);
    let line = r#"+        hooks.kubevirt.io/hookSidecars: "[{\"image\":\"quay.io/kubevirt/sidecar-shim:v1.7.0\""#;
    assert!(stdout.lines().any(|l| l.starts_with(line)), "{stdout}");
    assert!(stdout.contains("applied: pci-passthrough,vbios-injection"), "{stdout}");
}

#[test]
fn the_command_of_the_documents_shows_the_hook_on_a_sample_domain() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/vbios.md")).unwrap();
    assert!(page.lines().any(|line| line == "make hook"));
    // The make that runs the tests must not lend this one its own flags.
    let output = Command::new("make")
        .args(["--silent", "hook"])
        .current_dir(root)
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(stdout.contains(r#"<alias name="ua-hostdevice-node1-000000020">"#), "{stdout}");
    assert!(stdout.contains("<rom file="), "{stdout}");
}

/// The picture's lines are those that are printed; one that is too long ends in `…`.
#[test]
fn the_picture_of_make_run_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures/run.svg");
    let picture = fs::read_to_string(path).unwrap();
    let lines = picture.lines().filter(|line| line.starts_with("<text class=\"code\""));
    let shown = lines.map(|line| {
        let words = line.split('>').skip(1).filter_map(|part| part.split('<').next()).collect::<String>();
        words.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    });
    let shown: Vec<String> = shown.collect();
    let (_, stdout, _) = example(&[]);
    let printed: Vec<&str> = ["$ make run"].into_iter().chain(stdout.trim_end().lines()).collect();
    assert_eq!(shown.len(), printed.len(), "run: make pictures");
    for (shown, printed) in shown.iter().zip(printed) {
        let is_same = match shown.strip_suffix('…') {
            Some(start) => printed.starts_with(start),
            None => shown == printed,
        };
        assert!(is_same, "{shown:?} is now {printed:?}; run: make pictures");
    }
}

#[test]
fn json_and_yaml_have_everything() {
    let (code, stdout, _) = run(&["--output", "json", "-"], VM);
    assert_eq!(code, 0);
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["allowed"], json!(true));
    assert_eq!(answer["patch"].as_array().unwrap().len(), 3);
    let domain = &answer["object"]["spec"]["template"]["spec"]["domain"];
    assert_eq!(domain["resources"]["limits"]["nvidia.com/gpu"], "1");

    let (_, stdout, _) = run(&["--output", "yaml", "-"], VM);
    let parsed: Value = vm_feature_manager_e2e::yaml::parse(&stdout).unwrap().remove(0);
    assert_eq!(parsed, answer);
}

#[test]
fn a_part_of_the_object_is_printed_by_its_path() {
    let limits = "jsonpath={.spec.template.spec.domain.resources.limits}";
    let (code, stdout, stderr) = run(&["--output", limits, "-"], VM);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "{\"nvidia.com/gpu\":\"1\"}\n", ""));

    let (code, stdout, stderr) = run(&["--output", limits, "-"], &VM.replace("nvidia.com/gpu", "gpu"));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("denied: gpu-device-plugin cannot be applied"), "{stderr}");

    for (output, part) in [("jsonpath={.spec[}", "which is $['spec']["), ("xml", "jsonpath=EXPRESSION")] {
        let (code, stdout, stderr) = run(&["--output", output, "-"], VM);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn a_denial_is_printed_and_has_exit_code_1() {
    let (code, stdout, stderr) = run(&["-"], &VM.replace("nvidia.com/gpu", "gpu"));
    assert_eq!((code, stderr.as_str()), (1, ""));
    assert!(stdout.starts_with("VirtualMachine default/vm: denied\n\ngpu-device-plugin cannot be applied"));
    assert!(stdout.contains("(code 400)"), "{stdout}");
}

#[test]
fn a_vm_that_asks_for_nothing_is_unchanged() {
    let (code, stdout, _) = run(&["tests/data/vm-stored.yaml"], "");
    assert_eq!(code, 0);
    assert_eq!(stdout, "VirtualMachine default/igpu-vm: allowed, unchanged\n");
}

#[test]
fn an_old_manifest_makes_an_update() {
    let old = file("old.yaml", VM);
    let (code, stdout, _) = run(&["--old", &old, "-"], VM);
    assert_eq!((code, stdout.as_str()), (0, "VirtualMachine default/vm: allowed, unchanged\n"));
}

#[test]
fn settings_are_used() {
    let settings = file("settings.yaml", "gpuDevicePlugin:\n  allowedPlugins: [amd.com/*]\n");
    let (code, stdout, _) = run(&["--settings", &settings, "-"], VM);
    assert_eq!(code, 1);
    assert!(stdout.contains("not one of the resources that the policy allows (amd.com/*)"));
}

#[test]
fn an_admission_review_is_taken_as_it_is() {
    let object = &vm_feature_manager_e2e::yaml::parse(VM).unwrap()[0];
    let request = json!({
        "uid": "1",
        "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
        "operation": "DELETE",
        "name": "vm",
        "namespace": "tenant",
        "object": object,
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request,
    });
    for input in [review, request] {
        let (code, stdout, _) = run(&["-"], &input.to_string());
        assert_eq!((code, stdout.as_str()), (0, "VirtualMachine tenant/vm: allowed, unchanged\n"));
    }
}

#[test]
fn verbose_prints_log_lines_and_the_time() {
    let (_, _, stderr) = run(&["--verbose", "-"], VM);
    assert!(stderr.contains(r#""message":"features applied""#), "{stderr}");
    assert!(stderr.contains("evaluated in "), "{stderr}");
}

#[rstest]
#[case::unknown_file(&["no-such.yaml"], "", "error: no-such.yaml: No such file")]
#[case::unknown_settings(&["--settings", "no-such.yaml", "-"], VM, "error: no-such.yaml: No such file")]
#[case::unknown_old(&["--old", "no-such.yaml", "-"], VM, "error: no-such.yaml: No such file")]
#[case::unknown_cluster(&["--cluster", "no-such", "-"], VM, "error: no-such: No such file")]
#[case::unknown_module(&["--module", "no-such.wasm", "-"], VM, "error: no-such.wasm: No such file or directory (os error 2); `make policy.wasm`")]
#[case::unknown_metadata(&["--metadata", "no-such.yml", "-"], VM, "error: no-such.yml: No such file")]
#[case::unknown_kind(&["--deny", "Nodes", "-"], VM, "error: --deny Nodes: metadata.yml grants no such kind")]
#[case::review_without_request(&["-"], "{kind: AdmissionReview}", "error: -: the AdmissionReview has no request")]
#[case::two_old_objects(&["--old", "tests/data/vm-stored.yaml", "-"], "{kind: {kind: VirtualMachine}, operation: UPDATE}", "leave out --old")]
#[case::no_module(&["--module", "README.md", "-"], VM, "error: README.md: no Kubewarden module")]
#[case::bad_yaml(&["-"], "a: [", "error: -: not valid YAML or JSON: ")]
#[case::bad_json(&["-"], "{\"a\": ", "error: -: not valid YAML or JSON: unclosed")]
#[case::too_deep(&["-"], &format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000)), "error: -: not valid YAML or JSON: ")]
#[case::empty(&["-"], "", "error: -: there is no manifest in it")]
#[case::no_manifest(&["-"], "a: 1", "error: -: it is no Kubernetes manifest: apiVersion and kind are missing")]
#[case::text(&["-"], "hello", "error: -: it is no Kubernetes manifest")]
#[case::two_vms(&["-"], "{kind: VirtualMachine}\n---\n{kind: VirtualMachine}", "error: -: it has 2 VirtualMachines; evaluate one at a time")]
#[case::no_vm(&["-"], "{kind: Secret}\n---\n{kind: ConfigMap}", "error: -: it has no VirtualMachine, but Secret, ConfigMap")]
fn input_that_cannot_be_used_is_told_in_one_line_with_exit_code_2(
    #[case] arguments: &[&str],
    #[case] input: &str,
    #[case] error: &str,
) {
    let (code, stdout, stderr) = run(arguments, input);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains(error), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn invalid_settings_are_told_in_one_line_with_exit_code_2() {
    let settings = file("invalid.yaml", "configSource: label\n");
    let (code, _, stderr) = run(&["--settings", &settings, "-"], VM);
    let problem = "setting configSource: got \"label\", expected one of annotations, labels";
    assert_eq!((code, stderr), (2, format!("error: {settings}: {problem}\n")));
}

#[test]
fn an_unknown_argument_has_exit_code_2() {
    assert_eq!(run(&["--nonsense"], "").0, 2);
}
