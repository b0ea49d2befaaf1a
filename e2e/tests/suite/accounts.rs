//! The account that the manifests and the chart grant permissions to. They are for no account that a tenant could make.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use rstest::rstest;
use serde_json::{Value, json};
use vmfm::yaml;

use crate::harness::root;
use crate::package::{CHART, of_kind, render};

const OWN: &str = "kubewarden";
const RANCHER: &str = "cattle-kubewarden-system";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// The namespaces of the accounts in the bindings of the documents.
fn bound(documents: &[Value]) -> Vec<&str> {
    let bindings = ["ClusterRoleBinding", "RoleBinding"].map(|kind| of_kind(documents, kind)).concat();
    let subjects = bindings.iter().flat_map(|binding| binding["subjects"].as_array().unwrap());
    subjects
        .map(|subject| {
            assert_eq!([&subject["kind"], &subject["name"]], ["ServiceAccount", "policy-server"]);
            subject["namespace"].as_str().unwrap()
        })
        .collect()
}

#[rstest]
#[case::harvester("deploy", OWN)]
#[case::kubevirt("deploy/kubevirt", OWN)]
#[case::harvester_with_rancher("deploy/rancher", RANCHER)]
#[case::kubevirt_with_rancher("deploy/kubevirt-rancher", RANCHER)]
fn each_manifest_binds_one_account(#[case] folder: &str, #[case] namespace: &str) {
    assert_eq!(bound(&render("kustomize", &["build", folder]).unwrap()), [namespace]);
}

#[rstest]
#[case::harvester("deploy", "deploy/rancher")]
#[case::kubevirt("deploy/kubevirt", "deploy/kubevirt-rancher")]
fn the_manifests_for_rancher_differ_in_the_account_only(#[case] folder: &str, #[case] of_rancher: &str) {
    let documents = |folder| render("kustomize", &["build", folder]).unwrap();
    let text = json!(documents(folder)).to_string();
    let subject = |namespace| json!({"kind": "ServiceAccount", "name": "policy-server", "namespace": namespace});
    let expected = text.replace(&subject(OWN).to_string(), &subject(RANCHER).to_string());
    assert_eq!(json!(documents(of_rancher)).to_string(), expected);
}

/// If the policy comes from the Rancher UI, these files are applied without kustomize.
#[test]
fn the_permissions_bind_nobody_until_an_account_is_chosen() {
    let kinds = |path: &str| -> Vec<Value> {
        yaml::read(&root().join(path)).unwrap().iter().map(|document| document["kind"].clone()).collect()
    };
    assert_eq!(kinds("deploy/base/rbac.yaml"), ["ClusterRole"]);
    for (path, namespace) in [("deploy/base/binding.yaml", OWN), ("deploy/rancher/binding.yaml", RANCHER)] {
        assert_eq!(kinds(path), ["ClusterRoleBinding"]);
        assert_eq!(bound(&yaml::read(&root().join(path)).unwrap()), [namespace]);
    }
}

const SET: &str = "settings.policyServer.namespace";

/// The values that bind the account in a Role, too.
fn values() -> String {
    format!("{CHART}/ci/user-data-values.yaml")
}

#[rstest]
#[case::nothing("", OWN)]
#[case::the_default(OWN, OWN)]
#[case::that_of_rancher(RANCHER, RANCHER)]
#[case::another("guard", "guard")]
fn without_a_cluster_the_chart_binds_exactly_what_is_set(#[case] set: &str, #[case] namespace: &str) {
    let set = if set.is_empty() { "name=x".to_owned() } else { format!("{SET}={set}") };
    let documents = render("helm", &["template", "x", CHART, "--values", &values(), "--set", &set]).unwrap();
    assert_eq!(bound(&documents), [namespace; 3]);
}

/// A server with these ServiceAccounts and with webhooks of these namespaces. Returns its address.
fn api_server(accounts: &'static [&str], webhooks: &'static [&str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap(), accounts, webhooks));
        }
    });
    address
}

/// Answers a request and closes the connection.
fn answer(mut stream: TcpStream, accounts: &[&str], webhooks: &[&str]) {
    let lines: Vec<String> =
        BufReader::new(&stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    let path = lines[0].split([' ', '?']).nth(1).unwrap();
    let found = object(path, accounts, webhooks);
    let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
    let body = found.unwrap_or_else(|| json!({"kind": "Status", "reason": "NotFound", "code": 404})).to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

fn object(path: &str, accounts: &[&str], webhooks: &[&str]) -> Option<Value> {
    let kinds = |group_version: &str, kinds: &[(&str, bool)]| {
        let kind = |(kind, namespaced): &(&str, bool)| {
            let name = if kind.ends_with('y') { kind.replace("Policy", "Policies") } else { format!("{kind}s") };
            json!({"name": name.to_lowercase(), "kind": kind, "namespaced": namespaced, "verbs": ["get", "list"]})
        };
        let resources: Vec<Value> = kinds.iter().map(kind).collect();
        json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources})
    };
    let groups = ["admissionregistration.k8s.io", "policies.kubewarden.io", "rbac.authorization.k8s.io"].map(|group| {
        let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
        json!({"name": group, "versions": [version], "preferredVersion": version})
    });
    let configurations = ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"].map(|kind| (kind, false));
    let roles = [("ClusterRole", false), ("ClusterRoleBinding", false), ("Role", true), ("RoleBinding", true)];
    Some(match path {
        "/version" => json!({"major": "1", "minor": "35", "gitVersion": "v1.35.0"}),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
        "/api/v1" => kinds("v1", &[("ServiceAccount", true)]),
        "/apis/admissionregistration.k8s.io/v1" => kinds("admissionregistration.k8s.io/v1", &configurations),
        "/apis/policies.kubewarden.io/v1" => kinds("policies.kubewarden.io/v1", &[("ClusterAdmissionPolicy", false)]),
        "/apis/rbac.authorization.k8s.io/v1" => kinds("rbac.authorization.k8s.io/v1", &roles),
        // A webhook that is called by its URL has no service.
        CONFIGURATIONS => {
            let services = webhooks.iter().map(|namespace| json!({"service": {"namespace": namespace, "name": "x"}}));
            let clients = services.chain([json!({"url": "https://example.com"})]);
            let webhooks: Vec<Value> = clients.map(|client| json!({"name": "x", "clientConfig": client})).collect();
            json!({"kind": "ValidatingWebhookConfigurationList", "apiVersion": "admissionregistration.k8s.io/v1",
                   "items": [{"metadata": {"name": "x"}, "webhooks": webhooks}, {"metadata": {"name": "empty"}}]})
        }
        _ if path == CONFIGURATIONS.replace("validating", "mutating") => {
            json!({"kind": "MutatingWebhookConfigurationList", "apiVersion": "admissionregistration.k8s.io/v1", "items": []})
        }
        _ => {
            let place = path.strip_prefix("/api/v1/namespaces/")?.strip_suffix("/serviceaccounts/policy-server")?;
            accounts.contains(&place).then(|| {
                json!({"kind": "ServiceAccount", "apiVersion": "v1",
                       "metadata": {"name": "policy-server", "namespace": place}})
            })?
        }
    })
}

/// What helm prints if it may ask a server.
fn helm(command: &str, server: &str, set: &str) -> String {
    let mut helm = Command::new("helm");
    helm.args([command, "x", CHART, "--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", server]);
    helm.args(["--values", &values(), "--set", set]).env("KUBECONFIG", "/dev/null").current_dir(root());
    let output = helm.output().expect("helm; make test installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[rstest]
#[case::of_kubewardens_own_instructions(&[OWN], &[], OWN)]
#[case::of_rancher(&[RANCHER], &[], RANCHER)]
#[case::not_there_yet(&[], &[], OWN)]
#[case::of_rancher_and_one_that_a_tenant_made(&[OWN, RANCHER], &[RANCHER], RANCHER)]
#[case::of_rancher_with_webhooks(&[RANCHER], &[RANCHER], RANCHER)]
#[case::only_one_that_a_tenant_made(&[RANCHER], &[OWN], OWN)]
#[case::of_kubewarden_and_one_that_a_tenant_made(&[OWN, RANCHER], &[OWN], OWN)]
#[case::in_both_and_nothing_tells_them_apart(&[OWN, RANCHER], &[], OWN)]
#[case::in_both_with_webhooks(&[OWN, RANCHER], &[OWN, RANCHER], OWN)]
fn with_a_cluster_the_chart_binds_the_one_account_that_it_finds(
    #[case] accounts: &'static [&str],
    #[case] webhooks: &'static [&str],
    #[case] namespace: &str,
) {
    let server = api_server(accounts, webhooks);
    let documents = yaml::parse(&helm("template", &server, "name=x")).unwrap();
    assert_eq!(bound(&documents), [namespace; 3]);
}

#[rstest]
#[case::that_of_rancher(RANCHER, &[OWN])]
#[case::another("guard", &[OWN, RANCHER])]
fn an_account_that_is_set_is_not_replaced_by_one_that_is_found(#[case] set: &str, #[case] accounts: &'static [&str]) {
    let documents = yaml::parse(&helm("template", &api_server(accounts, &[]), &format!("{SET}={set}"))).unwrap();
    assert_eq!(bound(&documents), [set; 3]);
}

#[test]
fn the_notes_name_the_account_and_warn_if_it_is_not_there() {
    let granted = |namespace| format!("The permissions are granted to the service account {namespace}:policy-server.");
    let warning = "The chart has not found that account in the cluster.";
    let found = helm("install", &api_server(&[RANCHER], &[]), "name=x");
    assert!(found.contains(&granted(RANCHER)) && !found.contains(warning), "{found}");
    let missing = helm("install", &api_server(&[], &[]), "name=x");
    assert!(missing.contains(&granted(OWN)) && missing.contains(warning), "{missing}");
    let no_permissions = helm("install", &api_server(&[], &[]), "rbac.create=false");
    assert!(!no_permissions.contains("granted") && !no_permissions.contains(warning), "{no_permissions}");
}
