//! `e2e/cluster/row`, which prints the row of a run of the cluster tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use rstest::rstest;

use crate::harness::root;

/// A run in which two tests passed, and one was skipped.
const RUN: &str = "\
bats --timing e2e/cluster
1..3
# vm-feature-manager, policy-server in kubewarden
ok 1 the policy is active in 1203ms
ok 2 example kubevirt/vbios in 12ms # skip this is for KubeVirt without Harvester
ok 3 nested-virt is added, changed and removed in 3210ms
";

/// A kubectl for a cluster with Harvester. It knows no other kinds, and fails for them as the real one does.
const HARVESTER: &str = r#"
deployment() { echo "{\"spec\": {\"template\": {\"spec\": {\"containers\": [{\"image\": \"$1\"}]}}}}"; }
case "$*" in
"version "*) echo '{"serverVersion": {"gitVersion": "v1.34.4"}}' ;;
*kubevirts.kubevirt.io*) echo '{"items": [{"status": {"observedKubeVirtVersion": "1.7.4-150700.3.24.2"}}]}' ;;
*settings.harvesterhci.io*server-version*) echo '{"value": "v1.8.2"}' ;;
*daemonsets*) echo "{\"items\": [$(deployment docker.io/other:v3), $(deployment rancher/harvester-pcidevices:v1.8.1)]}" ;;
*deployments*) echo "{\"items\": [{}, $(deployment ghcr.io/kubewarden/policy-server:v1.36.0)]}" ;;
*clusteradmissionpolicies*) echo '{"metadata": {"annotations": {"meta.helm.sh/release-name": "vmfm"}}}' ;;
*) echo "error: the server doesn't have a resource type" >&2; exit 1 ;;
esac
"#;

/// The same without Harvester, with the manifests.
const KUBEVIRT: &str = r#"
case "$*" in
"version "*) echo '{"serverVersion": {"gitVersion": "v1.36.3+k3s1"}}' ;;
*kubevirts.kubevirt.io*) echo '{"items": [{"status": {"observedKubeVirtVersion": "v1.9.0"}}]}' ;;
*settings.harvesterhci.io*) echo "error: the server doesn't have a resource type" >&2; exit 1 ;;
*daemonsets*) echo '{"items": []}' ;;
*deployments*) echo '{"items": [{"spec": {"template": {"spec": {"containers": [{"image": "localhost:5000/kubewarden/policy-server:v1.36.0@sha256:00"}]}}}}]}' ;;
*clusteradmissionpolicies*) echo '{"metadata": {}}' ;;
*) exit 1 ;;
esac
"#;

/// Prints the row of a run, in a cluster of which a script answers: a name for the test, the script, the run.
fn row(name: &str, cluster: &str, run: &str) -> Output {
    let folder: PathBuf = root().join("target/row").join(name);
    fs::create_dir_all(&folder).unwrap();
    let [kubectl, file] = ["kubectl", "run.tap"].map(|file| folder.join(file));
    fs::write(&kubectl, format!("#!/bin/bash\n{cluster}")).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&file, run).unwrap();
    Command::new(root().join("e2e/cluster/row")).arg(file).env("KUBECTL", kubectl).output().unwrap()
}

#[rstest]
#[case::harvester(HARVESTER, "| 1.8.2 | 1.8.1 | 1.7.4-150700.3.24.2 | 1.34.4 | 1.36.0 | the chart | 2 | 1 |\n")]
#[case::kubevirt(KUBEVIRT, "| none | none | 1.9.0 | 1.36.3+k3s1 | 1.36.0 | the manifests | 2 | 1 |\n")]
fn a_run_without_failures_has_a_row(#[case] cluster: &str, #[case] expected: &str) {
    let output = row(if cluster == HARVESTER { "harvester" } else { "kubevirt" }, cluster, RUN);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[rstest]
#[case::failed("failed", "ok 3", "not ok 3", "1 passed, 1 skipped, 1 failed, of 3")]
#[case::broken_off("broken-off", "ok 3", "# 3", "1 passed, 1 skipped, 0 failed, of 3")]
#[case::not_tap("not-tap", "1..3", "", "2 passed, 1 skipped, 0 failed, of an unknown number")]
fn another_run_has_none(#[case] name: &str, #[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    let output = row(name, HARVESTER, &RUN.replace(&format!("\n{from}"), &format!("\n{to}")));
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && message.contains(expected), "{message}");
}
