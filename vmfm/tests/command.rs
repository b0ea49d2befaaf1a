//! The command-line program: what it prints, and its exit codes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rstest::rstest;
use serde_json::{Value, json};

/// A copy of the virtual machine with another name and directive.
fn named(name: &str, directive: &str) -> String {
    VM.replace("name: vm", &format!("name: {name}")).replace("nvidia.com/gpu", directive)
}

/// The exit code, standard output and standard error.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut child = Command::new(env!("CARGO_BIN_EXE_vmfm"))
        .args(arguments)
        .current_dir(root)
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may have exited already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file in the test's own folder, because tests run in parallel. The folder has the name of the thread, which is that
/// of the test and its case.
fn file(name: &str, text: &str) -> String {
    let test = std::thread::current().name().unwrap().replace("::", ".");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
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
        "  applied: pci-passthrough,gpu-device-plugin,nested-virt",
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

/// The picture contains the lines that are printed. A line that is too long ends in `…`.
#[test]
fn the_picture_of_make_run_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures/run.svg");
    let picture = fs::read_to_string(path).unwrap();
    let lines = picture.lines().filter(|line| line.trim_start().starts_with("<tspan x="));
    let shown = lines.map(|line| {
        let words = line.split('>').skip(1).filter_map(|part| part.split('<').next()).collect::<String>();
        words.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
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
fn json_and_yaml_have_everything() {
    let (code, stdout, _) = run(&["--output", "json", "-"], VM);
    assert_eq!(code, 0);
    let answer = serde_json::from_str::<Value>(&stdout).unwrap()[0].take();
    assert_eq!(answer["allowed"], json!(true));
    assert_eq!(answer["patch"].as_array().unwrap().len(), 3);
    let domain = &answer["object"]["spec"]["template"]["spec"]["domain"];
    assert_eq!(domain["resources"]["limits"]["nvidia.com/gpu"], "1");

    let (_, stdout, _) = run(&["--output", "yaml", "-"], VM);
    let parsed: Value = vmfm::yaml::parse(&stdout).unwrap().remove(0);
    assert_eq!(parsed, answer);
}

#[test]
fn a_part_of_the_object_is_printed_by_its_path() {
    let limits = "jsonpath={.spec.template.spec.domain.resources.limits}";
    let (code, stdout, stderr) = run(&["--output", limits, "-"], VM);
    assert_eq!((code, stdout.as_str()), (0, "{\"nvidia.com/gpu\":\"1\"}\n"));
    assert!(stderr.starts_with("note: without --cluster"), "{stderr}");

    let (code, stdout, stderr) = run(&["--output", limits, "-"], &VM.replace("nvidia.com/gpu", "gpu"));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("denied: gpu-device-plugin cannot be applied"), "{stderr}");

    for (output, part) in [
        ("jsonpath={.spec[}", "{.spec[}: this is no expression"),
        ("jsonpath={.spec", "this is no expression"),
        ("xml", "jsonpath=EXPRESSION"),
    ] {
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

/// If a name has two lines, the second could look like another virtual machine.
#[test]
fn a_name_is_one_line_that_can_be_seen() {
    let vm =
        r#"{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "a\nb\u202e\u001b[1m"}}"#;
    for arguments in [&["-"][..], &["--output", "summary", "-"]] {
        let (_, output, _) = run(arguments, vm);
        let name = r"VirtualMachine default/a\nb\u{202e}\u{1b}[1m: ";
        assert!(output.lines().next().is_some_and(|line| line.contains(name)), "{output}");
    }
}

#[test]
fn a_vm_that_asks_for_nothing_is_unchanged() {
    let (code, stdout, _) = run(&["tests/data/vm-stored.yaml"], "");
    assert_eq!(code, 0);
    assert_eq!(stdout, "VirtualMachine default/igpu-vm: allowed, unchanged\n");
}

#[test]
fn an_old_manifest_makes_an_update() {
    let applied = run(&["--output", "jsonpath={$}", "-"], VM).1;
    let old = file("old.yaml", &applied);
    let (code, stdout, _) = run(&["--old", &old, "-"], &applied);
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
    let object = &vmfm::yaml::parse(VM).unwrap()[0];
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
#[case::unknown_kind(&["--deny", "Nodes", "-"], VM, "error: --deny Nodes: the policy's metadata grants no such kind, only SubjectAccessReview, PCIDevice,")]
#[case::review_without_request(&["-"], "{kind: AdmissionReview}", "error: -: the AdmissionReview has no request")]
#[case::two_old_objects(&["--old", "tests/data/vm-stored.yaml", "-"], "{kind: {kind: VirtualMachine}, operation: UPDATE}", "leave out --old")]
#[case::no_module(&["--module", "README.md", "-"], VM, "error: README.md: no Kubewarden module: it is not WebAssembly")]
#[case::bad_yaml(&["-"], "a: [", "error: -: not valid YAML or JSON: it cannot be read at line 1, column 4; check the indentation")]
#[case::bad_json(&["-"], "{\"a\": ", "error: -: not valid YAML or JSON: it cannot be read at line 1, column ")]
#[case::one_other_object(&["-"], "{apiVersion: v1, kind: ConfigMap}", "error: -: it has no VirtualMachine, but ConfigMap")]
#[case::standard_input_twice(&["--cluster", "-", "-"], VM, "error: - is given more than once")]
#[case::secret_that_is_no_base64(
    &["-"], "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: '%'}}\n---\n{apiVersion: kubevirt.io/v1, kind: VirtualMachine}",
    "error: Secret s: data.a is not base64, so the API server would refuse it"
)]
#[case::too_deep(&["-"], &format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000)), "error: -: not valid YAML or JSON: ")]
#[case::empty(&["-"], "", "error: -: there is no manifest in it")]
#[case::no_manifest(&["-"], "a: 1", "error: -: it is no Kubernetes manifest: apiVersion and kind are missing")]
#[case::text(&["-"], "hello", "error: -: it is no Kubernetes manifest")]
#[case::no_vm(&["-"], "{apiVersion: v1, kind: Secret}\n---\n{apiVersion: v1, kind: ConfigMap}", "error: -: it has no VirtualMachine, but Secret, ConfigMap")]
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

mod several {
    use super::*;

    #[test]
    fn documents_of_a_file_have_a_line_each_at_the_end_and_a_total() {
        let input = [named("a", "nvidia.com/gpu"), named("b", "gpu")].join("---\n");
        let (code, stdout, stderr) = run(&["-"], &input);
        assert_eq!(code, 1, "{stderr}");
        assert!(stdout.starts_with("VirtualMachine default/a: allowed, mutated\n"), "{stdout}");
        assert!(stdout.contains("\n\nVirtualMachine default/b: denied\n"), "{stdout}");
        let end = "\n\n-: VirtualMachine default/a: allowed, mutated (applied gpu-device-plugin; 2 warnings)\n\
                   -: VirtualMachine default/b: denied (failed gpu-device-plugin)\n\
                   1 allowed (1 of them mutated), 1 denied\n";
        assert!(stdout.ends_with(end), "{stdout}");
    }

    #[test]
    fn a_folder_is_read_with_all_below_it_and_its_other_objects_are_the_cluster() {
        let (code, stdout, stderr) = run(&["--output", "summary", "examples/harvester", "examples/vbios"], "");
        assert_eq!((code, stderr.as_str()), (0, ""));
        let lines: Vec<&str> = stdout.lines().collect();
        let applied =
            "VirtualMachine default/igpu-vm: allowed, mutated (applied pci-passthrough, gpu-device-plugin, nested-virt";
        assert!(lines[0].starts_with(&format!("examples/harvester/vm.yaml: {applied}")), "{stdout}");
        assert!(lines[1].contains("(applied pci-passthrough, vbios-injection"), "{stdout}");
        assert_eq!(lines[2..], ["2 allowed (2 of them mutated), 0 denied"]);
    }

    #[test]
    fn what_kubectl_lists_is_taken_apart() {
        let item = |text: &str| vmfm::yaml::parse(text).unwrap().remove(0);
        let items = [item(&named("a", "nvidia.com/gpu")), item(&named("b", "amd.com/gpu"))];
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let (code, stdout, _) = run(&["--output", "summary", "-"], &list.to_string());
        assert_eq!(code, 0);
        assert_eq!(stdout.lines().count(), 3, "{stdout}");
    }

    #[test]
    fn what_cannot_be_used_does_not_keep_the_others_back() {
        let broken = file("broken.yaml", "a: [");
        let denied = file("denied.yaml", &named("b", "gpu"));
        let (code, stdout, stderr) = run(&["--output", "summary", &broken, "no-such.yaml", &denied, "-"], VM);
        assert_eq!(code, 2);
        let errors: Vec<&str> = stderr.lines().collect();
        assert_eq!(errors.len(), 3, "{stderr}");
        assert!(errors[0].starts_with(&format!("error: {broken}: not valid YAML or JSON")), "{stderr}");
        assert!(errors[1].starts_with("error: no-such.yaml: No such file"), "{stderr}");
        assert!(stdout.starts_with(&format!("{broken}: unusable\nno-such.yaml: unusable\n{denied}: ")), "{stdout}");
        assert!(stdout.ends_with("1 allowed (1 of them mutated), 1 denied, 2 unusable\n"), "{stdout}");
    }

    #[test]
    fn json_is_an_array_and_yaml_has_documents() {
        let input = [VM.to_owned(), named("b", "gpu")].join("---\n");
        let (_, stdout, _) = run(&["--output", "json", "-"], &input);
        let array: Value = serde_json::from_str(&stdout).unwrap();
        let allowed: Vec<&Value> = array.as_array().unwrap().iter().map(|one| &one["allowed"]).collect();
        assert_eq!(allowed, [&json!(true), &json!(false)]);
        let (_, stdout, _) = run(&["--output", "yaml", "-"], &input);
        assert_eq!(json!(vmfm::yaml::parse(&stdout).unwrap()), array);
        let (code, stdout, stderr) = run(&["--output", "jsonpath={.metadata.name}", "-"], &input);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (1, "vm\n", 2));
    }

    #[test]
    fn old_manifests_are_found_by_name() {
        let applied = "annotations:\n    vm-feature-manager.io/gpu-device-plugin-applied: x\n";
        let b = named("b", "nvidia.com/gpu").replace("annotations:\n", applied);
        let old = file("two-old.yaml", &[&named("a", "nvidia.com/gpu"), &b[..]].join("---\n"));
        let input = [&b[..], &named("c", "nvidia.com/gpu")].join("---\n");
        let (code, stdout, _) = run(&["--output", "summary", "--old", &old, "-"], &input);
        assert_eq!(code, 0);
        assert!(stdout.starts_with("-: VirtualMachine default/b: allowed, unchanged\n"), "{stdout}");
        assert!(stdout.contains("default/c: allowed, mutated"), "{stdout}");
    }
}

#[test]
fn settings_may_stand_in_a_policy() {
    let policy = "kind: ClusterAdmissionPolicy\nspec: {settings: {gpuDevicePlugin: {allowedPlugins: [amd.com/*]}}}\n";
    let (code, stdout, _) = run(&["--settings", &file("policy.yaml", policy), "-"], VM);
    assert_eq!(code, 1);
    assert!(stdout.contains("not one of the resources that the policy allows (amd.com/*)"));
}

#[test]
fn a_cluster_may_have_several_places() {
    let nodes = file("nodes.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: x}\n");
    let arguments = ["--cluster", &nodes, "--cluster", "examples/vbios/cluster", "examples/vbios/vm.yaml"];
    assert_eq!(run(&arguments, "").0, 0);
}

#[rstest]
#[case::always(&["--color", "always"], true)]
#[case::never(&["--color", "never"], false)]
#[case::not_on_a_terminal(&["--color", "auto"], false)]
fn the_diff_has_colors_where_they_are_wanted(#[case] arguments: &[&str], #[case] is_colored: bool) {
    let (_, stdout, _) = run(&[arguments, &["-"]].concat(), VM);
    assert_eq!(stdout.contains("\x1b[32m+            nvidia.com/gpu: \"1\"\x1b[0m\n"), is_colored, "{stdout:?}");
    assert_eq!(stdout.contains('\x1b'), is_colored);
}

/// Runs the program on a terminal, which script(1) creates.
#[rstest]
#[case::by_default(&[], true)]
#[case::no_color(&[("NO_COLOR", "1")], false)]
#[case::no_color_that_is_empty(&[("NO_COLOR", "")], true)]
#[case::dumb_terminal(&[("TERM", "dumb")], false)]
fn on_a_terminal_colors_are_used_unless_the_environment_says_no(
    #[case] environment: &[(&str, &str)],
    #[case] is_colored: bool,
) {
    let vm = file("terminal.yaml", VM);
    let command = format!("{} {vm}", env!("CARGO_BIN_EXE_vmfm"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("allowed, mutated"), "{stdout}");
    assert_eq!(stdout.contains("\x1b[32m"), is_colored, "{stdout:?}");
}

mod explain {
    use super::*;

    /// The part of the output between two headings.
    fn part<'t>(text: &'t str, heading: &str) -> Vec<&'t str> {
        let lines = text.lines().skip_while(|line| *line != heading).skip(1);
        lines.take_while(|line| !line.is_empty()).collect()
    }

    fn explain(arguments: &[&str], input: &str) -> String {
        run(&[&["--explain"], arguments].concat(), input).1
    }

    #[test]
    fn directives_lookups_and_decisions_of_the_example() {
        let text = example(&["--explain"]).1;
        let directives = part(&text, "directives:");
        for lines in directives.chunks(2).filter(|lines| lines[0].starts_with("  nested-virt")) {
            assert_eq!(
                lines,
                ["  nested-virt: enabled", "    found in the annotation vm-feature-manager.io/nested-virt"]
            );
        }
        assert_eq!(directives.len(), 6, "{text}");
        let lookups = part(&text, "steps:");
        assert_eq!(lookups[0], "  1. get Node node1: found", "{text}");
        assert!(lookups.iter().any(|line| line.contains("get PCIDevice node1-000000020: found")), "{text}");
        assert!(
            lookups
                .last()
                .unwrap()
                .contains("log line: features applied: pci-passthrough,gpu-device-plugin,nested-virt")
        );
        let decisions = part(&text, "decisions:");
        assert_eq!(decisions[0], "  pci-passthrough: applied");
        assert!(decisions[1].starts_with("    added hostDevice node1-000000020, resource "), "{text}");
        assert_eq!(decisions[decisions.len() - 2..], ["  nested-virt: applied", "    added cpuFeature vmx"]);
        assert!(text.contains("\n--- before\n"), "{text}");
    }

    #[rstest]
    #[case::not_found(
        "gpu-device-plugin: nvidia.com/gpu",
        "vbios-injection: no-such",
        "get ConfigMap no-such in the namespace default: not found"
    )]
    #[case::not_served(
        "gpu-device-plugin: nvidia.com/gpu",
        "pci-passthrough: '{\"devices\": [\"0000:01:00.0\"]}'",
        "the cluster has no such kind"
    )]
    #[case::rights(
        "gpu-device-plugin: nvidia.com/gpu",
        "nested-virt: enabled",
        "may system:serviceaccount:kubewarden:policy-server list nodes?: yes"
    )]
    #[case::items("gpu-device-plugin: nvidia.com/gpu", "nested-virt: enabled", "list Node: 0 items")]
    fn answers_are_told_in_short(#[case] directive: &str, #[case] other: &str, #[case] line: &str) {
        let text = explain(&["-"], &VM.replace(directive, other));
        assert!(part(&text, "steps:").iter().any(|found| found.ends_with(line)), "{text}");
    }

    #[rstest]
    #[case::forbidden(&["--deny", "Node"], "get Node node1: forbidden")]
    #[case::offline(&["--offline"], "get Node node1: no answer")]
    fn failures_of_the_cluster_are_told_in_short(#[case] arguments: &[&str], #[case] line: &str) {
        let text = example(&[&["--explain"], arguments].concat()).1;
        assert!(part(&text, "steps:").iter().any(|found| found.ends_with(line)), "{text}");
    }

    #[rstest]
    #[case::refused("gpu", "", "  gpu-device-plugin: refused", "gpu: no such")]
    #[case::allowed("gpu", "gpuDevicePlugin: {errorHandling: allow-and-log}", "  gpu-device-plugin: not applied", "")]
    #[case::stripped("gpu", "gpuDevicePlugin: {errorHandling: strip-label}", "  gpu-device-plugin: not applied", "")]
    #[case::disabled(
        "gpu",
        "gpuDevicePlugin: {enabled: false}",
        "  gpu-device-plugin: nothing to do",
        "    the setting gpuDevicePlugin.enabled is false"
    )]
    fn decisions_have_reasons(
        #[case] value: &str,
        #[case] settings: &str,
        #[case] decision: &str,
        #[case] reason: &str,
    ) {
        let settings = file("settings.yaml", settings);
        let text = explain(&["--settings", &settings, "-"], &VM.replace("nvidia.com/gpu", value));
        let decisions = part(&text, "decisions:");
        assert_eq!(decisions[0], decision, "{text}");
        assert!(decisions.len() > 1 && (reason.is_empty() || decisions[1].starts_with("    ")), "{text}");
        if reason.starts_with(' ') {
            assert_eq!(decisions[1], reason);
        }
    }

    /// The policy does not see such keys, and the API server does not call it because of them.
    #[rstest]
    #[case::without_a_domain("vm-feature-manager/nested-virt")]
    #[case::another_domain("vm-feature-manager.com/nested-virt")]
    #[case::without_hyphens("vmfeaturemanager.io/nested-virt")]
    #[case::without_a_prefix("nested-virt")]
    #[case::of_harvester("vm-feature-manager.harvesterhci.io/nested-virt")]
    fn a_key_whose_prefix_is_mistyped_is_told(#[case] key: &str) {
        let text = explain(&["-"], &VM.replace("vm-feature-manager.io/gpu-device-plugin", key));
        let expected = [
            "  nested-virt: nvidia.com/gpu",
            &format!("    found in the key {key}"),
            "    not read: the key does not start with vm-feature-manager.io/",
        ];
        assert_eq!(part(&text, "directives:"), expected, "{text}");
    }

    #[test]
    fn default_directives_are_listed_last() {
        let settings = file("settings.yaml", "defaultDirectives: {default: {gpu-device-plugin: a.b/c, numa: \"off\"}}");
        let text = explain(&["--settings", &settings, "-"], VM);
        let directives = part(&text, "directives:");
        let found: Vec<&str> = directives.into_iter().filter(|line| line.starts_with("    ")).collect();
        assert_eq!(found[0], "    found in the annotation vm-feature-manager.io/gpu-device-plugin");
        assert_eq!(found[1], "    found in the default gpu-device-plugin in the setting defaultDirectives");
        assert!(
            found[2].contains("not read: the annotation vm-feature-manager.io/gpu-device-plugin comes first"),
            "{text}"
        );
    }

    #[test]
    fn what_a_directive_added_is_removed_with_it() {
        let (_, stdout, _) = run(&["--output", "jsonpath={$}", "-"], VM);
        let old = file("applied.yaml", &stdout);
        let new = stdout.replace(r#""vm-feature-manager.io/gpu-device-plugin":"nvidia.com/gpu","#, "");
        let text = explain(&["--old", &old, "-"], &new);
        let expected = ["  gpu-device-plugin: removed", "    removed limit nvidia.com/gpu, quantity 1"];
        assert_eq!(part(&text, "decisions:"), expected, "{text}");

        let text = explain(&["--old", &old, "-"], &stdout);
        let expected = ["  gpu-device-plugin: nothing to do", "    nothing has changed that matters to the policy"];
        assert_eq!(part(&text, "decisions:"), expected, "{text}");
    }

    #[test]
    fn what_would_be_applied_is_told_if_the_request_is_denied_because_of_others() {
        let both = "gpu-device-plugin: nvidia.com/gpu\n    vm-feature-manager.io/cpu-pinning: maybe";
        let text = explain(&["-"], &VM.replace("gpu-device-plugin: nvidia.com/gpu", both));
        let expected = ["  gpu-device-plugin: would be applied", "    the request is denied because of cpu-pinning"];
        assert_eq!(part(&text, "decisions:")[..2], expected, "{text}");
    }

    #[test]
    fn what_is_switched_off_is_told() {
        let text = explain(&["-"], &VM.replace("gpu-device-plugin: nvidia.com/gpu", "nested-virt: 'no'"));
        assert_eq!(part(&text, "decisions:"), ["  nested-virt: nothing to do", "    no switches it off"], "{text}");
    }

    #[test]
    fn directives_are_found_wherever_they_stand() {
        let settings = ["--settings", "examples/user-data/settings.yaml"];
        let text = explain(&[&settings[..], &["examples/user-data/vm.yaml"]].concat(), "");
        assert!(text.contains("found in the user data of the volume "), "{text}");
        let text = explain(&["examples/user-data/vm.yaml"], "");
        assert!(text.contains("not read: the setting userData.enabled is false"), "{text}");
        let text = explain(&["-"], &VM.replace("annotations:", "labels:"));
        let found = "    found in the label vm-feature-manager.io/gpu-device-plugin";
        assert_eq!(part(&text, "directives:")[1..], [found, "    not read: the setting configSource is annotations"]);
    }

    #[test]
    fn json_has_the_explanation_too() {
        let (_, stdout, _) = run(&["--explain", "--output", "json", "-"], VM);
        let answer = serde_json::from_str::<Value>(&stdout).unwrap()[0].take();
        assert_eq!(answer["explanation"]["decisions"][0]["outcome"], "applied");
        assert_eq!(answer["explanation"]["directives"][0]["name"], "gpu-device-plugin");
        assert!(answer["explanation"]["steps"][0]["lookup"]["answer"].is_string(), "{stdout}");
    }
}

#[rstest]
#[case::bash("bash", "complete -F _vmfm")]
#[case::zsh("zsh", "#compdef vmfm")]
#[case::fish("fish", "complete -c vmfm")]
fn shells_can_complete_it(#[case] shell: &str, #[case] part: &str) {
    let (code, stdout, _) = run(&["completions", shell], "");
    assert_eq!(code, 0);
    assert!(stdout.contains(part) && stdout.contains("explain"), "{stdout}");
}

#[test]
fn there_is_a_manual_page() {
    let (code, stdout, _) = run(&["man"], "");
    assert_eq!(code, 0);
    for part in [".TH vmfm 1", "Exit code", "\\-\\-explain", "vmfm doctor"] {
        assert!(stdout.contains(part), "{part} is not in {stdout}");
    }
    for (command, part) in [("cluster", "never evaluated"), ("doctor", "there may be warnings")] {
        let (code, stdout, _) = run(&["man", command], "");
        assert_eq!(code, 0);
        for part in [&format!(".TH vmfm-{command} 1"), "\\-\\-kubeconfig", part] {
            assert!(stdout.contains(part), "{part} is not in {stdout}");
        }
    }
    assert!(
        run(&["man", "none"], "").2.starts_with("error: there is no command none; the commands are cluster, doctor")
    );
}

/// The second start uses the compiled module.
#[test]
fn the_compiled_module_is_kept() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let _ = fs::remove_dir_all(&folder);
    let cache = folder.display().to_string();
    let written = || {
        let entries = |path: PathBuf| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        // Files with an extension are statistics.
        let modules =
            entries(folder.join("wasmtime/modules")).flat_map(entries).filter(|path| path.extension().is_none());
        let files: Vec<_> = modules.map(|path| path.metadata().unwrap()).collect();
        assert_eq!(files.len(), 1);
        files[0].modified().unwrap()
    };
    assert_eq!(run(&["--cache", &cache, "-"], VM).0, 0);
    let first = written();
    assert_eq!(run(&["--cache", &cache, "-"], VM).0, 0);
    assert_eq!(written(), first);
}

mod without_a_cluster {
    use super::*;

    #[test]
    fn a_note_says_what_the_messages_are_not_about() {
        let note =
            "note: without --cluster, the policy sees a cluster that has nothing: no nodes, no devices, no KubeVirt.";
        assert!(run(&["-"], VM).2.starts_with(note));
        assert_eq!(run(&["-"], &VM.replace("nvidia.com/gpu", "gpu")).2, "", "nothing is looked up");
        assert_eq!(run(&["--offline", "-"], VM).2, "");
        let nodes = file("nodes.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: x}\n");
        assert_eq!(run(&["--cluster", &nodes, "-"], VM).2, "");
        assert_eq!(run(&[&nodes, "-"], VM).2, "");
    }

    #[test]
    fn it_may_come_from_standard_input() {
        let cluster = fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/harvester/cluster/cluster.yaml"),
        );
        let (code, stdout, stderr) =
            run(&["--cluster", "-", "--output", "summary", "examples/harvester/vm.yaml"], &cluster.unwrap());
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    }
}

/// Keys that the policy never sees. `--explain` says the same.
#[rstest]
#[case::prefix("annotations", "vm-feature-manager/nested-virt", "the key does not start with vm-feature-manager.io/")]
#[case::label_of_the_template(
    "template",
    "vm-feature-manager.io/nested-virt",
    "labels of spec.template are not read; make it an annotation"
)]
fn keys_that_are_not_read_are_warned_of(#[case] place: &str, #[case] key: &str, #[case] why: &str) {
    let mut vm = vmfm::yaml::parse(VM).unwrap().remove(0);
    match place {
        "annotations" => vm["metadata"]["annotations"] = json!({key: "enabled"}),
        _ => {
            vm["metadata"]["annotations"] = json!({});
            vm["spec"]["template"]["metadata"]["labels"] = json!({key: "enabled"});
        }
    }
    let input = vm.to_string();
    let (code, stdout, _) = run(&["-"], &input);
    assert_eq!(code, 0);
    assert!(stdout.contains(&format!("\nnot read:\n  - the key {key}: not read: {why}")), "{stdout}");
    let (_, stdout, _) = run(&["--output", "summary", "-"], &input);
    assert_eq!(stdout, "-: VirtualMachine default/vm: allowed, unchanged (not read: 1)\n");
    let (_, stdout, _) = run(&["--output", "json", "-"], &input);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()[0]["notRead"].as_array().unwrap().len(), 1);
    assert_eq!(run(&["--fail-on-warn", "-"], &input).0, 1);
}

#[test]
fn a_folder_without_manifests_is_an_error() {
    let (code, _, stderr) = run(&["docs/pictures", "examples/harvester"], "");
    assert_eq!((code, stderr.as_str()), (2, "error: docs/pictures: there is no manifest in it\n"));
}

#[test]
fn warnings_fail_if_that_is_wanted() {
    assert_eq!(run(&["-"], VM).0, 0);
    assert_eq!(run(&["--fail-on-warn", "-"], VM).0, 1);
    assert_eq!(run(&["--fail-on-warn", "tests/data/vm-stored.yaml"], "").0, 0);
}

/// Its controller creates the VirtualMachines, so rules about people are not met.
#[test]
fn of_a_pool_the_template_is_evaluated() {
    let vm = vmfm::yaml::parse(VM).unwrap().remove(0);
    let pool = json!({
        "apiVersion": "pool.kubevirt.io/v1alpha1", "kind": "VirtualMachinePool",
        "metadata": {"name": "workers", "namespace": "team-a"},
        "spec": {"replicas": 2, "virtualMachineTemplate": {
            "metadata": {"annotations": vm["metadata"]["annotations"]}, "spec": vm["spec"],
        }},
    });
    let (code, stdout, _) = run(&["--output", "summary", "-"], &pool.to_string());
    assert_eq!(code, 0);
    assert!(
        stdout.starts_with("-: VirtualMachine team-a/workers-0: allowed, mutated (applied gpu-device-plugin"),
        "{stdout}"
    );
    let denied = pool.to_string().replace("nvidia.com/gpu", "gpu");
    assert_eq!(run(&["-"], &denied).0, 1);
}

/// A Secret with text, and one with line breaks in its base64, as the API server takes both.
#[rstest]
#[case::text("stringData: {userdata: \"#cloud-config\\nx_kubevirt_features: {nested_virt: 'no'}\\n\"}")]
#[case::line_breaks(
    "data:\n  userdata: |\n    I2Nsb3VkLWNvbmZpZwp4X2t1YmV2aXJ0X2ZlYXR1\n    cmVzOiB7bmVzdGVkX3ZpcnQ6ICdubyd9Cg==\n"
)]
fn secrets_are_read_as_the_api_server_stores_them(#[case] data: &str) {
    let settings = file("settings.yaml", "userData: {enabled: true, readSecrets: true}\n");
    let secret = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: default}}\n{data}\n");
    let vm = r#"{apiVersion: kubevirt.io/v1, kind: VirtualMachine, metadata: {name: vm}, spec: {template: {spec: {domain: {devices: {}},
        volumes: [{name: init, cloudInitNoCloud: {secretRef: {name: s}}}]}}}}"#;
    let input = format!("{secret}---\n{vm}\n");
    let (code, stdout, stderr) = run(&["--verbose", "--settings", &settings, "-"], &input);
    assert_eq!(code, 0, "{stdout}");
    assert!(stderr.contains("\"kind\":\"Secret\"") && !stderr.contains("passed over"), "{stderr}");
}

/// As many objects as a large cluster has.
#[test]
fn lists_may_be_long() {
    let device = |number: usize| {
        format!(
            "- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{number}, namespace: a}}, data: {{a: b, c: d, e: f, g: h}}}}\n"
        )
    };
    let devices: String = (0..20_000).map(device).collect();
    let list = file("list.yaml", &format!("apiVersion: v1\nkind: List\nitems:\n{devices}"));
    let (code, stdout, stderr) = run(&["--output", "summary", &list, "-"], &VM.replace("---", ""));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("-: VirtualMachine default/vm: allowed, mutated"), "{stdout}");
}

/// Runs each command in the guide that is followed by its output.
#[test]
fn the_guide_shows_what_the_command_prints() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/evaluator.md")).unwrap();
    let shown = guide.split("```console\n$ vmfm ").skip(1).map(|block| block.split("```").next().unwrap());
    let mut count = 0;
    for block in shown {
        let (command, output) = block.split_once('\n').unwrap();
        let arguments: Vec<&str> = command.split(' ').collect();
        let (_, stdout, stderr) = run(&arguments, "");
        assert_eq!(format!("{stderr}{stdout}"), output, "vmfm {command}");
        count += 1;
    }
    assert_eq!(count, 4);
}

/// A stranger's manifest must not send commands to the terminal, nor hide what it says: of C0, DEL, of C1, of the direction of the
/// text, without width.
mod hidden_characters {
    use super::*;

    const HIDDEN: &str = "a\u{1b}]0;title\u{7}\u{7f}\u{85}\u{9b}31m\u{202e}\u{2066}\u{200f}\u{feff}b";

    /// A VM with the text in its name, its namespace, the keys and values of its directives, and what messages quote.
    fn vm() -> String {
        let key = |key: &str| format!("vm-feature-manager.io/{key}");
        let devices = json!({"devices": [HIDDEN, "node1/0000:00:02.0"]}).to_string();
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {
                "name": HIDDEN,
                "annotations": {
                    key(HIDDEN): HIDDEN, key("pci-passthrough"): devices, key("gpu-device-plugin"): HIDDEN,
                    key("nested-virt"): "enabled", key("cpu-vendor"): "amd", HIDDEN: HIDDEN,
                },
                "labels": {HIDDEN: HIDDEN},
            },
            "spec": {"template": {
                "metadata": {"annotations": {key("record"): json!({"hugepages": {"value": HIDDEN, "added": [
                    {"hugepages": HIDDEN}, {HIDDEN: HIDDEN}]}}).to_string()}},
                "spec": {
                    "nodeSelector": {HIDDEN: HIDDEN, "kubernetes.io/hostname": HIDDEN},
                    "domain": {"devices": {"hostDevices": [{"name": HIDDEN, "deviceName": HIDDEN}]}},
                    "volumes": [{"name": HIDDEN, "cloudInitNoCloud": {
                        "userData": format!("#cloud-config\nx_kubevirt_features:\n  {}: x\n", json!(HIDDEN))}}],
                },
            }},
        })
        .to_string()
    }

    #[rstest]
    fn are_escaped_in_every_output(
        #[values("diff", "summary", "json", "yaml")] output: &str,
        #[values("reject", "allow-and-log")] handling: &str,
    ) {
        let mut settings = json!({"userData": {"enabled": true}});
        for section in ["pciPassthrough", "gpuDevicePlugin", "nestedVirtualization"] {
            settings[section]["errorHandling"] = json!(handling);
        }
        let settings = file("settings.json", &settings.to_string());
        let more = ["--explain", "--verbose", "--output", output, "--settings", &settings];
        let arguments = [&more[..], &["--cluster", "examples/harvester/cluster", "-"]].concat();
        let (code, stdout, stderr) = run(&arguments, &vm());
        assert_eq!(code, i32::from(handling == "reject"), "{stdout}{stderr}");
        let is_hidden = |c: char| c != '\n' && vm_feature_manager_policy::is_hidden(c);
        for text in [&stdout, &stderr] {
            assert!(!text.chars().any(is_hidden), "{text:?}");
            assert!(text.contains(r"\u{202e}") || text.contains(r"\u202e"), "{text}");
        }
        if ["json", "yaml"].contains(&output) {
            let mut value = vmfm::yaml::parse(&stdout).unwrap().remove(0);
            if output == "json" {
                value = value[0].take();
            }
            assert_eq!(value["object"]["metadata"]["name"], HIDDEN, "the data stays as it is");
        }
    }

    #[test]
    fn have_no_color_of_their_own() {
        let arguments = ["--color", "always", "--explain", "--cluster", "examples/harvester/cluster", "-"];
        let (_, stdout, _) = run(&arguments, &vm());
        assert!(stdout.contains("\u{1b}["), "{stdout}");
        // What is left are the colors that the program itself uses.
        let own = ["0", "1", "31", "32", "33", "36"].map(|color| format!("\u{1b}[{color}m"));
        let rest = own.iter().fold(stdout.clone(), |text, color| text.replace(color.as_str(), ""));
        assert!(!rest.chars().any(|c| c != '\n' && vm_feature_manager_policy::is_hidden(c)), "{rest:?}");
    }

    #[test]
    fn are_escaped_in_errors() {
        let manifest = format!("apiVersion: v1\nkind: {}\n---\napiVersion: v1\nkind: B\n", json!(HIDDEN));
        for input in [manifest, format!("a: [{HIDDEN}"), format!("\"{HIDDEN}\": \"")] {
            let (code, stdout, stderr) = run(&["-"], &input);
            assert_eq!(code, 2, "{stdout}{stderr}");
            let is_hidden = |c: char| c != '\n' && vm_feature_manager_policy::is_hidden(c);
            assert!(!(stdout + &stderr).chars().any(is_hidden), "{stderr:?}");
        }
    }

    /// Programs get the values as they are; a terminal does not.
    #[test]
    fn are_kept_for_programs() {
        let (_, stdout, _) = run(&["--output", "jsonpath={.metadata.name}", "-"], &vm().replace("nested-virt", "none"));
        assert!(stdout.is_empty() || stdout == format!("{HIDDEN}\n"), "{stdout:?}");
    }
}
