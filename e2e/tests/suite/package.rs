//! The files that ship with the module: metadata, form, chart, manifests. They agree with each other, with the module, and with the
//! schemas of the cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rstest::rstest;
use serde_json::{Value, json};
use vm_feature_manager_testkit::features;
use vmfm::yaml;

use crate::crd;
use crate::harness::{HOST, request, root, vm};

pub const CHART: &str = "charts/vm-feature-manager-policy";

fn read(path: &str) -> Value {
    yaml::read(&root().join(path)).unwrap().remove(0)
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The documents that a program prints, or its output if it fails.
pub fn render(program: &str, arguments: &[&str]) -> Result<Vec<Value>, String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; make test installs it"));
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let documents = yaml::parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn chart(more: &[&str]) -> Result<Vec<Value>, String> {
    render("helm", &[&["template", "vmfm", CHART], more].concat())
}

pub fn of_kind<'d>(documents: &'d [Value], kind: &str) -> Vec<&'d Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

fn policy(documents: &[Value]) -> &Value {
    let [policy] = of_kind(documents, "ClusterAdmissionPolicy")[..] else {
        panic!("one ClusterAdmissionPolicy: {documents:?}");
    };
    policy
}

/// The module's message about settings, or nothing if it accepts them.
fn refusal(settings: &Value) -> String {
    HOST.validate_settings(settings).unwrap().message.unwrap_or_default()
}

mod metadata {
    use super::*;

    #[test]
    fn all_name_one_version() {
        let manifest = text("Cargo.toml");
        let version = manifest.lines().find_map(|line| line.strip_prefix("version                = "));
        let version = version.unwrap().trim_matches('"');
        let tag = format!("v{version}");
        assert_eq!(read("metadata.yml")["annotations"]["io.kubewarden.policy.version"], version);
        let chart = read(&format!("{CHART}/Chart.yaml"));
        assert_eq!([&chart["version"], &chart["appVersion"]], [version, version]);
        assert_eq!(chart["annotations"]["kubewarden/tag"], tag);
        assert_eq!(read(&format!("{CHART}/values.yaml"))["module"]["tag"], tag);
        let module = read("deploy/base/policy.yaml")["spec"]["module"].as_str().unwrap().to_owned();
        assert!(module.ends_with(&format!(":{tag}")), "{module}");
        let changelog = text("CHANGELOG.md");
        assert!(changelog.contains(&format!("\n## {version}")), "{version} is not in CHANGELOG.md");
    }

    #[test]
    fn all_name_one_module() {
        let image = read("metadata.yml")["annotations"]["io.kubewarden.policy.ociUrl"].clone();
        let image = image.as_str().unwrap();
        let values = read(&format!("{CHART}/values.yaml"));
        let registry = values["global"]["cattle"]["systemDefaultRegistry"].as_str().unwrap();
        assert_eq!(image, format!("{registry}/{}", values["module"]["repository"].as_str().unwrap()));
        let annotations = &read(&format!("{CHART}/Chart.yaml"))["annotations"];
        assert_eq!(annotations["kubewarden/registry"], registry);
        assert_eq!(annotations["kubewarden/repository"], values["module"]["repository"]);
    }

    #[test]
    fn the_chart_has_the_rules_and_kinds_of_the_metadata() {
        let metadata = read("metadata.yml");
        let annotations = &read(&format!("{CHART}/Chart.yaml"))["annotations"];
        for (key, expected) in [
            ("kubewarden/rules", &metadata["rules"]),
            ("kubewarden/contextAwareResources", &metadata["contextAwareResources"]),
        ] {
            let found = yaml::parse(annotations[key].as_str().unwrap()).unwrap().remove(0);
            assert_eq!(&found, expected, "{key}");
        }
        assert_eq!(annotations["kubewarden/mutation"], "true");
        assert_eq!(annotations["kubewarden/displayName"], metadata["annotations"]["io.artifacthub.displayName"]);
    }

    #[test]
    fn the_policy_mutates_and_is_not_scanned_in_the_background() {
        let metadata = read("metadata.yml");
        assert_eq!([&metadata["mutating"], &metadata["backgroundAudit"]], [true, false]);
        let policy = read("deploy/base/policy.yaml");
        assert_eq!([&policy["spec"]["mutating"], &policy["spec"]["backgroundAudit"]], [true, false]);
        assert_eq!(policy["spec"]["rules"], metadata["rules"]);
    }

    /// The catalog of the Rancher UI lists only charts with these annotations.
    #[test]
    fn the_chart_is_one_of_the_policy_catalog() {
        let annotations = &read(&format!("{CHART}/Chart.yaml"))["annotations"];
        assert_eq!(annotations["catalog.cattle.io/type"], "kubewarden-policy");
        assert_eq!(annotations["catalog.cattle.io/ui-component"], "kubewarden");
        assert_eq!(annotations["kubewarden/resources"], "VirtualMachine");
    }

    /// The file that `kwctl scaffold artifacthub` writes from the metadata and the questions.
    #[test]
    fn the_package_for_artifact_hub_is_up_to_date() {
        let (package, metadata) = (read("artifacthub-pkg.yml"), read("metadata.yml"));
        let own = |key: &str| &metadata["annotations"][key];
        let policy = |key: &str| own(&format!("io.kubewarden.policy.{key}"));
        assert_eq!(&package["version"], policy("version"));
        assert_eq!(&package["name"], policy("title"));
        assert_eq!(&package["description"], policy("description"));
        assert_eq!(&package["license"], policy("license"));
        assert_eq!(&package["homeURL"], policy("url"));
        assert_eq!(&package["displayName"], own("io.artifacthub.displayName"));
        let keywords: Vec<&str> = own("io.artifacthub.keywords").as_str().unwrap().split(", ").collect();
        assert_eq!(package["keywords"], json!(keywords));
        let image = format!("{}:v{}", policy("ociUrl").as_str().unwrap(), policy("version").as_str().unwrap());
        assert_eq!(package["containersImages"][0]["image"], image);
        let annotations = &package["annotations"];
        for (key, expected) in [
            ("kubewarden/rules", metadata["rules"].clone()),
            ("kubewarden/contextAwareResources", metadata["contextAwareResources"].clone()),
            ("kubewarden/questions-ui", read("questions-ui.yml")),
        ] {
            let found = yaml::parse(annotations[key].as_str().unwrap()).unwrap().remove(0);
            assert_eq!(found, expected, "{key}; run make artifacthub-pkg.yml");
        }
        assert_eq!(annotations["kubewarden/mutation"], "true");
        assert_eq!(annotations["kubewarden/resources"], *own("io.artifacthub.resources"));
        let [maintainer] = &package["maintainers"].as_array().unwrap()[..] else { panic!("{package}") };
        let [name, email] = ["name", "email"].map(|key| maintainer[key].as_str().unwrap());
        assert_eq!(policy("author"), &format!("{name} <{email}>"));
    }

    /// kwctl names an older chart, which `make artifacthub-pkg.yml` replaces.
    #[test]
    fn the_package_recommends_the_chart_that_the_guide_installs() {
        let guide = text("docs/install.md");
        let line =
            guide.lines().find(|line| line.starts_with("helm install --repo https://charts.kubewarden.io ")).unwrap();
        let (_, chart) = line.rsplit_once(' ').unwrap();
        let url = format!("https://artifacthub.io/packages/helm/kubewarden/{chart}");
        assert_eq!(read("artifacthub-pkg.yml")["recommendations"], json!([{"url": url}]));
    }
}

mod questions {
    use super::*;

    fn questions() -> Vec<Value> {
        read("questions-ui.yml")["questions"].as_array().unwrap().clone()
    }

    fn set(settings: &mut Value, variable: &str, value: Value) {
        *variable.split('.').fold(settings, |place, key| &mut place[key]) = value;
    }

    /// The settings that the form saves if nobody changes anything.
    fn defaults() -> Value {
        let mut settings = json!({});
        for question in questions() {
            set(&mut settings, question["variable"].as_str().unwrap(), question["default"].clone());
        }
        settings
    }

    /// Every value that the form offers.
    #[test]
    fn what_the_form_saves_is_valid() {
        assert_eq!(refusal(&defaults()), "");
        for question in questions() {
            let variable = question["variable"].as_str().unwrap();
            let choices = match question["type"].as_str().unwrap() {
                "boolean" => vec![json!(true), json!(false)],
                "enum" => question["options"].as_array().unwrap().clone(),
                "int" => vec![question["min"].clone(), question["max"].clone()],
                "array[" if variable == "hugepages.pageSizes" => vec![json!([]), json!(["2Mi"]), json!(["1Gi"])],
                "array[" => {
                    vec![json!([]), json!(["*"]), json!(["registry.example.com:5000/a*", "b?"])]
                }
                "map[" if variable == "defaultDirectives" => {
                    vec![
                        json!({}),
                        json!({"rke2-*": "nested-virt=enabled; gpu-device-plugin=nvidia.com/gpu=2", "default": ""}),
                    ]
                }
                "map[" => {
                    vec![json!({}), json!({"team-*": "0000:0?:*, nvidia.com/*", "default": ""})]
                }
                "string" => vec![json!(""), question["default"].clone()],
                other => {
                    panic!("{variable}: the type {other} is not one that works in today's form")
                }
            };
            for choice in choices {
                let mut settings = defaults();
                set(&mut settings, variable, choice.clone());
                assert_eq!(refusal(&settings), "", "{variable}: {choice}");
                settings["description"] = json!(null);
                assert_eq!(refusal(&settings), "", "with the description that the form writes");
            }
        }
    }

    /// The form must allow neither less nor more than the policy.
    #[test]
    fn the_forms_bounds_are_the_policys() {
        for question in questions().iter().filter(|q| q["type"] == "int") {
            for value in [question["min"].as_i64().unwrap() - 1, question["max"].as_i64().unwrap() + 1] {
                let mut settings = defaults();
                set(&mut settings, question["variable"].as_str().unwrap(), json!(value));
                assert!(refusal(&settings).contains("got"), "{value}");
            }
        }
        for question in questions().iter().filter(|q| q["type"] == "enum") {
            let mut settings = defaults();
            let variable = question["variable"].as_str().unwrap();
            set(&mut settings, variable, json!("no-such-word"));
            let message = refusal(&settings);
            let options: Vec<&str> =
                question["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
            assert!(message.ends_with(&format!("expected one of {}", options.join(", "))), "{variable}: {message}");
        }
    }

    /// The known pitfalls of the current form.
    #[test]
    fn the_form_works_in_the_rancher_ui() {
        let questions = questions();
        for question in &questions {
            let variable = question["variable"].as_str().unwrap();
            let keys: BTreeSet<&str> = question.as_object().unwrap().keys().map(String::as_str).collect();
            for key in ["label", "description", "default", "group", "type"] {
                assert!(keys.contains(key), "{variable} has no {key}");
            }
            for key in ["required", "subquestions", "hide_input"] {
                assert!(!keys.contains(key), "{variable} has {key}");
            }
            assert_eq!(question["group"], "Settings", "{variable}");
            if let Some(condition) = question["show_if"].as_str() {
                let (other, value) = condition.split_once('=').unwrap();
                assert!(!value.contains('=') && !other.contains('!'), "{condition}");
                let other = questions.iter().find(|q| q["variable"] == other).expect(condition);
                assert_eq!(other["type"], "boolean", "{condition}");
                assert_eq!(value, "true", "{condition}");
            }
        }
    }
}

mod chart {
    use super::*;

    /// The chart with the values of each file under `ci`, and with none.
    fn value_files() -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(root().join(CHART).join("ci")).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        files
    }

    fn with_values(file: &Path) -> Vec<Value> {
        chart(&["--values", &file.display().to_string()]).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    }

    fn file(name: &str) -> Vec<Value> {
        with_values(&root().join(CHART).join(format!("ci/{name}-values.yaml")))
    }

    #[test]
    fn helm_finds_nothing_wrong() {
        let files = value_files();
        assert!(files.len() >= 4);
        for values in files.iter().map(Some).chain([None]) {
            let mut lint = Command::new("helm");
            lint.args(["lint", "--strict", CHART]).current_dir(root());
            if let Some(values) = values {
                lint.arg("--values").arg(values);
            }
            let output = lint.output().expect("helm; make test installs it");
            assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn what_it_renders_is_valid_and_the_module_takes_its_settings() {
        for documents in value_files().iter().map(|f| with_values(f)).chain([chart(&[]).unwrap()]) {
            let policy = policy(&documents);
            assert_eq!(crd::problems(policy), Vec::<String>::new());
            assert_eq!(refusal(&policy["spec"]["settings"]), "");
            assert_eq!(policy["spec"]["namespaceSelector"]["matchLabels"], Value::Null);
            assert!(policy["spec"]["timeoutEvalSeconds"].as_u64() < policy["spec"]["timeoutSeconds"].as_u64());
        }
    }

    #[test]
    fn the_manifests_are_what_the_chart_renders_by_default() {
        let of_chart = chart(&[]).unwrap();
        let of_deploy = render("kustomize", &["build", "deploy"]).unwrap();
        let (mut a, mut b) = (policy(&of_chart).clone(), policy(&of_deploy).clone());
        // The defaults of the settings are those of the module; a test of the form compares them.
        a["spec"]["settings"] = json!({});
        for policy in [&mut a, &mut b] {
            policy["metadata"].as_object_mut().unwrap().remove("labels");
            let conditions = policy["spec"]["matchConditions"].as_array_mut().unwrap();
            for condition in conditions {
                let words = condition["expression"].as_str().unwrap().split_whitespace();
                condition["expression"] = json!(words.collect::<Vec<_>>().concat());
            }
        }
        assert_eq!(a, b);
        for kind in ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
            assert_eq!(of_kind(&of_chart, kind), of_kind(&of_deploy, kind));
        }
    }

    /// The resources and verbs that a role grants.
    fn granted(role: &Value) -> BTreeSet<String> {
        let list = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
        };
        let rules = role["rules"].as_array().unwrap();
        let lines = rules.iter().flat_map(|rule| {
            let verbs = list(&rule["verbs"]).join(",");
            list(&rule["resources"]).into_iter().map(move |resource| format!("{resource}: {verbs}"))
        });
        lines.collect()
    }

    #[test]
    fn rights_are_those_that_the_features_need() {
        let all = chart(&[]).unwrap();
        assert_eq!(
            granted(of_kind(&all, "ClusterRole")[0]),
            [
                "configmaps: get",
                "kubevirts: get",
                "nodes: get,list,watch",
                "pcideviceclaims: get,list,watch",
                "pcidevices: get,list,watch",
                "subjectaccessreviews: create",
                "usbdeviceclaims: get",
                "usbdevices: get,list,watch",
            ]
            .map(str::to_owned)
            .into()
        );
        assert!(of_kind(&all, "Role").is_empty());

        let strict = file("strict");
        let rights = granted(of_kind(&strict, "ClusterRole")[0]);
        assert!(!rights.iter().any(|right| right.starts_with("configmaps")), "{rights:?}");
        // Devices need nodes, too.
        assert!(rights.iter().any(|right| right.starts_with("nodes")), "{rights:?}");
        let values = format!("{CHART}/ci/strict-values.yaml");
        let off = "settings.pciPassthrough.enabled=false,settings.usbPassthrough.enabled=false";
        let no_devices = chart(&["--values", &values, "--set", off]).unwrap();
        let rights = granted(of_kind(&no_devices, "ClusterRole")[0]);
        assert!(!rights.iter().any(|right| right.starts_with("nodes")), "{rights:?}");
        assert_eq!(of_kind(&strict, "Role")[0]["metadata"]["namespace"], "roms");
        for binding in ["ClusterRoleBinding", "RoleBinding"] {
            assert_eq!(
                of_kind(&strict, binding)[0]["subjects"],
                json!([{"kind": "ServiceAccount", "name": "gpu-policy-server", "namespace": "gpu"}])
            );
        }
        assert_eq!(
            policy(&strict)["spec"]["module"].as_str().unwrap().split('/').next(),
            Some("registry.example.com:5000")
        );
        assert!(policy(&strict)["spec"]["matchConditions"].is_null());

        let user_data = file("user-data");
        let roles = of_kind(&user_data, "Role");
        let namespaces: Vec<&Value> = roles.iter().map(|role| &role["metadata"]["namespace"]).collect();
        assert_eq!(namespaces, ["default", "team-a"]);
        assert!(roles.iter().all(|role| granted(role) == BTreeSet::from(["secrets: get".to_owned()])));
        assert!(!granted(of_kind(&user_data, "ClusterRole")[0]).iter().any(|right| right.contains("secrets")));
        let kinds = |documents| policy(documents)["spec"]["contextAwareResources"].to_string();
        assert!(kinds(&user_data).contains("Secret") && !kinds(&all).contains("Secret"));

        assert_eq!(file("no-rbac").len(), 1);
    }

    /// Otherwise, the API server would not send the virtual machines that they are for.
    #[test]
    fn with_default_directives_every_virtual_machine_reaches_the_policy() {
        assert!(policy(&file("defaults"))["spec"]["matchConditions"].is_null());
        let empty = chart(&["--set-json", "settings.defaultDirectives={}"]).unwrap();
        assert!(policy(&empty)["spec"]["matchConditions"].is_array());
        let notes = |values: &[&str]| {
            let mut install = Command::new("helm");
            install.args(["install", "--dry-run=client", "release", CHART]).args(values).current_dir(root());
            String::from_utf8(install.output().expect("helm; make test installs it").stdout).unwrap()
        };
        let note = "the API server sends every virtual machine to it";
        let values = format!("{CHART}/ci/defaults-values.yaml");
        assert!(notes(&["--values", &values]).contains(note));
        assert!(!notes(&[]).contains(note));
        assert!(!notes(&["--values", &values, "--set", "matchConditions=false"]).contains(note));
    }

    #[rstest]
    #[case::default_is_no_text("settings.defaultDirectives.a.numa=true", "defaultDirectives/a")]
    #[case::unknown_setting("settings.nestedVirtualisation.enabled=true", "nestedVirtualisation")]
    #[case::unknown_word("settings.configSource=both", "configSource")]
    #[case::out_of_range("settings.pciPassthrough.maxDevices=300", "maxDevices")]
    #[case::unknown_value("replicas=1", "replicas")]
    #[case::failure_policy("failurePolicy=Maybe", "failurePolicy")]
    #[case::timeout("timeoutSeconds=60", "timeoutSeconds")]
    #[case::match_labels("namespaceSelector.matchLabels.a=b", "matchLabels")]
    fn values_that_it_does_not_take(#[case] value: &str, #[case] part: &str) {
        let error = chart(&["--set", value]).expect_err("an error");
        assert!(error.contains(part), "{error}");
    }
}

mod deploy {
    use super::*;

    #[test]
    fn the_variant_for_plain_kubevirt_is_valid() {
        let documents = render("kustomize", &["build", "deploy/kubevirt"]).unwrap();
        let policy = policy(&documents);
        assert_eq!(crd::problems(policy), Vec::<String>::new());
        assert_eq!(refusal(&policy["spec"]["settings"]), "");
        assert_eq!(policy["spec"]["settings"]["kubevirt"]["namespace"], "kubevirt");
        assert!(!json!(documents).to_string().contains("harvester"));
        // It must match the chart with the values for KubeVirt.
        let values = format!("{CHART}/ci/kubevirt-values.yaml");
        let of_chart = chart(&["--values", &values]).unwrap();
        let settings = self::policy(&of_chart)["spec"]["settings"].clone();
        assert_eq!(policy["spec"]["settings"]["kubevirt"]["namespace"], settings["kubevirt"]["namespace"]);
    }
}

/// The conditions under which the API server calls policy-server, evaluated with a CEL interpreter.
mod match_conditions {
    use cel::{Context, Program};

    use super::*;

    fn applies(policy: &Value, object: Value, old: Value) -> bool {
        let conditions = policy["spec"]["matchConditions"].as_array().unwrap();
        conditions.iter().all(|condition| {
            let program = Program::compile(condition["expression"].as_str().unwrap()).unwrap();
            let mut context = Context::default();
            context.add_variable("object", object.clone()).unwrap();
            context.add_variable("oldObject", old.clone()).unwrap();
            program.execute(&context).unwrap() == cel::Value::Bool(true)
        })
    }

    fn deleting(mut vm: Value) -> Value {
        vm["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        vm
    }

    fn labeled() -> Value {
        let mut vm = vm(&[]);
        vm["metadata"]["labels"]["vm-feature-manager.io/nested-virt"] = json!("enabled");
        vm
    }

    /// A virtual machine whose template has this metadata.
    fn with_template(metadata: Value) -> Value {
        let mut vm = vm(&[]);
        vm["spec"]["template"]["metadata"] = metadata;
        vm
    }

    /// Metadata with so many annotations of others.
    fn annotations(count: usize) -> Value {
        json!({"annotations": (0..count).map(|key| (format!("example.com/{key}"), json!(""))).collect::<serde_json::Map<_, _>>()})
    }

    fn recorded() -> Value {
        with_template(json!({"annotations": {"a": "b", "vm-feature-manager.io/record": "{}"}}))
    }

    #[rstest]
    #[case::asks(vm(&[("nested-virt", "enabled")]), Value::Null, true)]
    #[case::asks_in_the_template(with_template(json!({"annotations": {"vm-feature-manager.io/numa": "passthrough"}})), Value::Null, true)]
    #[case::has_a_record_in_the_template(recorded(), recorded(), true)]
    #[case::had_a_record_in_the_template(vm(&[]), recorded(), true)]
    #[case::has_another_annotation_in_the_template(with_template(json!({"annotations": {"a": "b"}})), Value::Null, false)]
    #[case::has_a_label_in_the_template(with_template(json!({"labels": {"vm-feature-manager.io/numa": "x"}})), Value::Null, false)]
    #[case::has_empty_metadata_in_the_template(with_template(json!({})), Value::Null, false)]
    #[case::has_no_metadata_in_the_template(json!({"metadata": {}, "spec": {"template": {}}}), Value::Null, false)]
    #[case::has_no_template(json!({"metadata": {}, "spec": {}}), json!({"metadata": {}}), false)]
    #[case::has_null_for_metadata(with_template(Value::Null), recorded(), true)]
    #[case::had_null_for_metadata(vm(&[]), with_template(Value::Null), false)]
    #[case::has_null_for_annotations(with_template(json!({"annotations": null})), Value::Null, false)]
    #[case::has_many_annotations_in_the_template(with_template(annotations(501)), Value::Null, true)]
    #[case::has_500_annotations_in_the_template(with_template(annotations(500)), Value::Null, false)]
    #[case::has_many_annotations(json!({"metadata": annotations(501)}), Value::Null, true)]
    #[case::has_500_annotations(json!({"metadata": annotations(500)}), Value::Null, false)]
    #[case::had_many_annotations(vm(&[]), json!({"metadata": annotations(501)}), true)]
    #[case::asks_for_nothing(vm(&[]), Value::Null, false)]
    #[case::has_no_annotations(json!({"metadata": {"name": "a"}}), Value::Null, false)]
    #[case::asks_no_more(vm(&[]), vm(&[("nested-virt", "enabled")]), true)]
    #[case::has_a_record(vm(&[("nested-virt-applied", "true")]), vm(&[("nested-virt-applied", "true")]), true)]
    #[case::never_asked(vm(&[]), vm(&[]), false)]
    #[case::is_deleted(deleting(vm(&[("nested-virt", "enabled")])), vm(&[("nested-virt", "enabled")]), false)]
    #[case::has_a_label(labeled(), Value::Null, false)]
    fn by_default(#[case] object: Value, #[case] old: Value, #[case] applies: bool) {
        let documents = render("kustomize", &["build", "deploy"]).unwrap();
        assert_eq!(super::match_conditions::applies(policy(&documents), object, old), applies);
    }

    #[test]
    fn with_labels_and_user_data() {
        let documents = chart(&["--values", &format!("{CHART}/ci/user-data-values.yaml")]).unwrap();
        let policy = policy(&documents);
        let example = read("examples/user-data/vm.yaml");
        let plain = read("examples/kubevirt/nested-virt/vm.yaml");
        let mut nothing = plain.clone();
        nothing["metadata"].as_object_mut().unwrap().remove("annotations");
        assert!(applies(policy, labeled(), Value::Null));
        assert!(applies(policy, example.clone(), Value::Null));
        assert!(applies(policy, nothing.clone(), example));
        assert!(applies(policy, plain, Value::Null));
        let mut many = nothing.clone();
        many["metadata"]["labels"] = annotations(501)["annotations"].take();
        assert!(applies(policy, many, Value::Null));
        let mut many = nothing.clone();
        many["spec"]["template"]["spec"]["volumes"] = json!(vec![json!({"name": "a"}); 501]);
        assert!(applies(policy, many, Value::Null));
        assert!(!applies(policy, nothing, Value::Null));
        assert!(!applies(policy, json!({"metadata": {}, "spec": {"template": {}}}), json!({"metadata": {}})));
    }
}

/// The examples: the cluster would accept them, and the policy changes them as documented.
mod examples {
    use super::*;
    use vmfm::cluster::{Cluster, granted_by};

    fn folders() -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![root().join("examples")];
        while let Some(folder) = left.pop() {
            if folder.join("vm.yaml").exists() {
                found.push(folder);
                continue;
            }
            let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            left.extend(entries.filter(|path| path.is_dir()));
        }
        found.sort();
        found
    }

    /// The directives of a virtual machine.
    fn asked(vm: &Value) -> BTreeSet<&str> {
        let annotations = vm["metadata"]["annotations"].as_object().into_iter().flatten();
        let keys = annotations.filter_map(|(key, _)| key.strip_prefix("vm-feature-manager.io/"));
        keys.filter(|key| !features::options().iter().any(|(option, _)| option == key)).collect()
    }

    #[test]
    fn every_feature_is_in_one() {
        let vms: Vec<Value> =
            folders().iter().map(|folder| yaml::read(&folder.join("vm.yaml")).unwrap().remove(0)).collect();
        for feature in features::names() {
            assert!(vms.iter().any(|vm| asked(vm).contains(feature)), "no virtual machine in examples has {feature}");
        }
    }

    #[test]
    fn each_is_tested_in_a_cluster() {
        let tests = text("e2e/cluster/cluster.bats");
        let tested: BTreeSet<&str> =
            tests.lines().filter_map(|line| line.strip_prefix("@test \"example ")?.strip_suffix("\" {")).collect();
        let names = folders();
        let names = names.iter().map(|folder| folder.strip_prefix(root().join("examples")).unwrap().to_str().unwrap());
        assert_eq!(tested, names.collect(), "the tests in e2e/cluster/cluster.bats, and the examples");
    }

    #[test]
    fn each_is_what_the_cluster_takes_before_and_after() {
        for folder in folders() {
            let name = folder.display();
            let vm = yaml::read(&folder.join("vm.yaml")).unwrap().remove(0);
            assert_eq!(crd::problems(&vm), Vec::<String>::new(), "{name}");

            let settings = folder.join("settings.yaml");
            let settings = if settings.exists() { yaml::read(&settings).unwrap().remove(0) } else { json!({}) };
            let cluster = Cluster::from_folder(&folder.join("cluster")).unwrap();
            let faults = granted_by(&yaml::read(&root().join("metadata.yml")).unwrap()[0]);
            let host = HOST.with_cluster(cluster.with_faults(faults));
            let evaluation = host.validate(&settings, &request(vm.clone(), None));
            assert!(evaluation.response.allowed, "{name}: {:?}", evaluation.response.status);
            assert!(!evaluation.response.audit_annotations.contains_key("failed"), "{name}");

            let applied = &evaluation.response.audit_annotations["applied"];
            if !name.to_string().ends_with("user-data") {
                assert_eq!(applied.split(',').collect::<BTreeSet<_>>(), asked(&vm), "{name}");
            }
            let after = evaluation.response.patched(&vm).unwrap();
            assert_ne!(after["spec"], vm["spec"], "{name}");
            assert_eq!(crd::problems(&after), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn the_devices_of_the_clusters_are_harvesters() {
        for folder in ["harvester", "sriov", "vbios", "vgpu"] {
            let objects = yaml::read(&root().join(format!("examples/{folder}/cluster/cluster.yaml"))).unwrap();
            let ours = objects.iter().filter(|o| o["apiVersion"] == "devices.harvesterhci.io/v1beta1");
            let problems: Vec<String> = ours.flat_map(crd::problems).collect();
            assert_eq!(problems, Vec::<String>::new());
        }
    }
}

mod documents {
    use super::*;

    const REPOSITORY: &str = "vm-feature-manager/vm-feature-manager-policy";

    fn documents() -> Vec<PathBuf> {
        let of = |folder: &str| {
            let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
            entries.filter(|path| path.extension().is_some_and(|e| e == "md")).collect::<Vec<_>>()
        };
        [of("."), of("docs"), of(CHART)].concat()
    }

    /// The lines outside of blocks of code.
    fn prose(text: &str) -> impl Iterator<Item = &str> {
        let mut is_code = false;
        text.lines().filter(move |line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        })
    }

    /// The anchors of a document's headings, as GitHub generates them.
    fn anchors(text: &str) -> BTreeSet<String> {
        let headings = prose(text).filter(|line| line.starts_with('#'));
        let mut anchors = BTreeSet::new();
        for heading in headings {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            let anchor = kept.collect::<String>().replace(' ', "-");
            let others = (1..).map(|number| format!("{anchor}-{number}"));
            let free = [anchor.clone()].into_iter().chain(others).find(|name| !anchors.contains(name));
            anchors.insert(free.unwrap());
        }
        anchors
    }

    /// The links and pictures in a document.
    fn targets(text: &str) -> Vec<String> {
        let of = |start: &str, end: char| {
            let parts = prose(text).flat_map(|line| line.split(start).skip(1));
            parts.filter_map(|rest| rest.split(end).next()).map(str::to_owned).collect::<Vec<_>>()
        };
        [of("](", ')'), of("src=\"", '"')].concat()
    }

    #[test]
    fn links_lead_somewhere() {
        let own = [
            format!("https://github.com/{REPOSITORY}/blob/main/"),
            format!("https://raw.githubusercontent.com/{REPOSITORY}/main/"),
        ];
        let mut links = 0;
        for document in documents() {
            let text = fs::read_to_string(&document).unwrap();
            for target in targets(&text) {
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let in_repository = own.iter().find_map(|start| file.strip_prefix(start.as_str()));
                let file = match (in_repository, file) {
                    (Some(path), _) => root().join(path),
                    (None, "") => document.clone(),
                    (None, file) if file.starts_with("https://") || file.contains(' ') => continue,
                    (None, file) => document.parent().unwrap().join(file),
                };
                links += 1;
                assert!(file.exists(), "{}: {target}", document.display());
                if !anchor.is_empty() {
                    let anchors = anchors(&fs::read_to_string(&file).unwrap());
                    assert!(anchors.contains(anchor), "{}: {target}", document.display());
                }
            }
        }
        assert!(links > 100, "{links}");
    }

    #[test]
    fn anchors_are_githubs() {
        let text = "# A, b: `c` (d)!\n```\n# code\n```\n## 3. Step's end\n## Same\n## Same\n";
        let expected = ["a-b-c-d", "3-steps-end", "same", "same-1"].map(str::to_owned);
        assert_eq!(anchors(text), BTreeSet::from(expected));
    }

    #[test]
    fn the_index_has_every_document() {
        let index = text("docs/README.md");
        for entry in fs::read_dir(root().join("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") && name != "README.md" {
                assert!(index.contains(&format!("]({name})")), "docs/README.md does not list {name}");
            }
        }
    }

    #[test]
    fn the_readme_is_read_in_ten_minutes() {
        let readme = text("README.md");
        let lines = readme.lines().count();
        assert!(lines <= 160, "README.md has {lines} lines");
        for cell in prose(&readme).filter(|line| line.starts_with('|')).flat_map(|line| line.split('|')) {
            assert!(cell.trim().len() <= 80, "{cell}");
        }
        for command in ["make run", "make test"] {
            assert!(readme.lines().any(|line| line == command), "{command}");
        }
    }

    /// Artifact Hub shows the README as the front page, without the other files.
    #[test]
    fn the_readme_works_without_the_repository() {
        let script = root().join("scripts/absolute-links");
        let readme = fs::File::open(root().join("README.md")).unwrap();
        let output = Command::new(script).args([REPOSITORY, "main"]).stdin(readme).output().unwrap();
        let absolute = String::from_utf8(output.stdout).unwrap();
        let links = targets(&absolute);
        assert!(links.len() > 20, "{absolute}");
        for link in links {
            assert!(link.starts_with("https://") || link.starts_with('#'), "{link}");
        }
        let picture = format!("(https://raw.githubusercontent.com/{REPOSITORY}/main/docs/pictures/flow.svg)");
        assert!(absolute.contains(&picture), "{absolute}");
        let page = format!("(https://github.com/{REPOSITORY}/blob/main/docs/security.md#who-may-take-what)");
        assert!(absolute.contains(&page), "{absolute}");
    }

    /// The picture's metadata contains the chart that it was drawn from.
    #[test]
    fn the_picture_of_the_flow_is_up_to_date() {
        let design = text("docs/design.md");
        let (_, chart) = design.split_once("```mermaid\n").unwrap();
        let (chart, _) = chart.split_once("```\n").unwrap();
        let source = format!("<metadata><![CDATA[\n{chart}]]></metadata></svg>\n");
        assert!(text("docs/pictures/flow.svg").ends_with(&source), "run: make pictures");
    }

    #[test]
    fn five_commands_lead_to_a_virtual_machine_that_is_changed() {
        let readme = text("README.md");
        let (_, block) = readme.split_once("## Install").unwrap().1.split_once("```console\n").unwrap();
        let commands: Vec<&str> = block.split("```").next().unwrap().lines().collect();
        let [kubewarden, policy, wait, annotate, show] = commands[..] else { panic!("{commands:?}") };
        assert!(kubewarden.ends_with("--wait admission-controller admission-controller"), "{kubewarden}");
        let module = read("deploy/base/policy.yaml")["spec"]["module"].as_str().unwrap().to_owned();
        let (_, tag) = module.rsplit_once(':').unwrap();
        assert!(policy.contains(&format!("//deploy?ref={tag}")), "{policy}");
        let name = read("deploy/base/policy.yaml")["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(wait.contains(&format!("--for=condition=PolicyActive clusteradmissionpolicies/{name}")), "{wait}");
        assert!(annotate.contains("vm-feature-manager.io/nested-virt=enabled"), "{annotate}");
        assert!(show.starts_with("kubectl get virtualmachine NAME"), "{show}");
    }

    #[test]
    fn the_icon_is_where_the_catalogs_look_for_it() {
        let icon = "docs/pictures/icon.svg";
        assert!(root().join(icon).exists());
        assert_eq!(read("artifacthub-pkg.yml")["logoPath"], icon);
        let of_chart = read(&format!("{CHART}/Chart.yaml"))["icon"].clone();
        assert_eq!(of_chart, format!("https://raw.githubusercontent.com/{REPOSITORY}/main/{icon}"));
        assert!(
            text(".github/workflows/release.yml")
                .contains(&format!("cp --parents artifacthub-pkg.yml artifacthub-repo.yml {icon}"))
        );
    }

    #[test]
    fn the_charts_page_has_every_value_with_its_default() {
        let values = read(&format!("{CHART}/values.yaml"));
        let page = text(&format!("{CHART}/README.md"));
        let mut left = BTreeSet::new();
        let mut maps = vec![(String::new(), &values)];
        while let Some((path, map)) = maps.pop() {
            match map.as_object() {
                Some(members) if !members.is_empty() => {
                    maps.extend(members.iter().map(|(key, value)| {
                        (if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value)
                    }))
                }
                _ => {
                    left.insert(path);
                }
            }
        }
        for row in page.lines().filter(|line| line.starts_with("| `") || line.starts_with("| [`")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            let path = cells[0].split('`').nth(1).unwrap();
            let value = path.split('.').fold(&values, |value, key| &value[key]);
            let default = yaml::parse(cells[1].trim_matches('`')).unwrap().remove(0);
            assert_eq!(&default, value, "{path}");
            assert!(left.remove(path), "{path} is listed twice");
        }
        assert_eq!(left, BTreeSet::new());
    }

    #[test]
    fn the_upgrade_guide_names_settings_that_there_are() {
        let values = read(&format!("{CHART}/values.yaml"))["settings"].clone();
        let guide = text("docs/upgrade.md");
        let rows = guide.lines().filter(|line| line.starts_with("| `") && line.contains("_"));
        let mut settings = 0;
        for row in rows {
            let setting = row.split('|').nth(2).unwrap().trim();
            let Some(path) = setting.strip_prefix('`').and_then(|s| s.split('`').next()) else {
                assert_eq!(setting, "none", "{row}");
                continue;
            };
            settings += 1;
            let path = path.replace("<feature>", "nestedVirtualization");
            let found = path.split('.').try_fold(&values, |value, key| value.get(key));
            assert!(found.is_some(), "{row}");
        }
        assert!(settings >= 10, "{settings}");
    }
}

mod workflows {
    use super::*;

    #[test]
    fn every_action_is_pinned_to_a_commit() {
        let mut actions = 0;
        for file in fs::read_dir(root().join(".github/workflows")).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            for line in text.lines().filter_map(|line| line.split_once("uses: ").map(|l| l.1)) {
                if line.starts_with("./") {
                    continue;
                }
                actions += 1;
                let (_, pin) = line.split_once('@').unwrap();
                let (commit, version) = pin.split_once(" # v").unwrap_or_else(|| panic!("{line}"));
                assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{line}");
                assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{line}");
            }
        }
        assert!(actions >= 7, "{actions}");
    }

    #[test]
    fn the_release_runs_the_tests_first() {
        let release = read(".github/workflows/release.yml");
        assert_eq!(release["jobs"]["test"]["uses"], "./.github/workflows/test.yml");
        let order = [("module", "test"), ("evaluator", "module"), ("package", "evaluator"), ("release", "package")];
        for (job, needs) in order {
            assert_eq!(release["jobs"][job]["needs"], needs);
        }
        let test = read(".github/workflows/test.yml")["jobs"]["test"]["steps"].to_string();
        for command in ["make run", "make test", "make e2e-tests", "make form-tests"] {
            assert!(test.contains(command), "{command}");
        }
    }

    /// What downloads or builds other people's programs must not be able to publish or sign.
    #[test]
    fn only_the_job_that_publishes_may_write_and_only_its_steps_that_need_it_have_the_token() {
        let release = read(".github/workflows/release.yml");
        assert_eq!(release["permissions"], json!({}));
        let mut with_token = Vec::new();
        for (name, job) in release["jobs"].as_object().unwrap() {
            let may_write = job["permissions"].as_object().unwrap().values().any(|access| access == "write");
            assert_eq!(may_write, name == "release", "{name}");
            assert_eq!(job["environment"] == "release", may_write, "{name}");
            let is_secret =
                |value: &Value| value.to_string().contains("token") || value.to_string().contains("secrets.");
            assert!(!is_secret(&release["env"]) && !is_secret(&job["env"]), "{name}");
            for step in job["steps"].as_array().into_iter().flatten() {
                let run = step["run"].as_str().unwrap_or_default();
                let uses_others =
                    ["make", "syft", "go-tools", "curl", "apt-get", "cargo"].iter().any(|it| run.contains(it));
                assert!(!may_write || !uses_others, "{name}: {run}");
                if step["uses"].as_str().is_some_and(|action| action.starts_with("actions/checkout@")) {
                    assert_eq!(step["with"]["persist-credentials"], false, "{name}");
                }
                if is_secret(&step["env"]) {
                    with_token.push(step["name"].as_str().unwrap().to_owned());
                }
            }
        }
        let expected = ["Push the module and sign it", "Push the chart", "Publish the release", "Tell Artifact Hub"];
        assert_eq!(with_token.len(), expected.len(), "{with_token:?}");
        assert!(with_token.iter().zip(expected).all(|(step, start)| step.starts_with(start)), "{with_token:?}");
    }

    #[test]
    fn the_release_is_built_with_pinned_tools() {
        let release = read(".github/workflows/release.yml");
        let workflow = text(".github/workflows/release.yml");
        let tested: Vec<&str> = release["env"]["RUST_VERSION"].as_str().unwrap().split('.').collect();
        assert_eq!(tested.len(), 3, "{tested:?}");
        assert_eq!(workflow.matches("rustup default \"$RUST_VERSION\"").count(), 2);
        assert!(
            !workflow.contains("toolchain install stable") && !workflow.contains("--no-install-recommends binaryen")
        );
        let checksum = release["env"]["BINARYEN_SHA256"].as_str().unwrap();
        assert!(checksum.len() == 64 && checksum.chars().all(|c| c.is_ascii_hexdigit()), "{checksum}");
        let step = release["jobs"]["module"]["steps"][1]["run"].as_str().unwrap();
        let [check, unpack] = ["sha256sum --check", "tar --extract"].map(|command| step.find(command).unwrap());
        assert!(check < unpack, "{step}");
    }

    /// Runs `scripts/new-releases` if GitHub's latest release is a tag.
    fn new_releases(latest: &str, arguments: &[&Path]) -> String {
        use std::os::unix::fs::PermissionsExt;

        let folder = root().join(format!("target/gh-{latest}"));
        fs::create_dir_all(&folder).unwrap();
        let gh = folder.join("gh");
        fs::write(&gh, format!("#!/bin/sh\necho {latest}\n")).unwrap();
        fs::set_permissions(&gh, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(root().join("scripts/new-releases"));
        let output = command.args(arguments).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What GitHub says is the latest release, and the programs that `scripts/new-releases` then names.
    #[rstest]
    #[case::old("v0.1.0", &[])]
    #[case::new("v99.0.0", &["Harvester 99.0.0 is out", "KubeVirt 99.0.0 is out"])]
    fn releases_that_the_document_does_not_name_are_found(#[case] latest: &str, #[case] expected: &[&str]) {
        let found = new_releases(latest, &[]);
        assert_eq!(found.lines().count(), expected.len(), "{found}");
        assert!(found.lines().zip(expected).all(|(line, start)| line.starts_with(start)), "{found}");
    }

    #[test]
    fn a_candidate_in_the_document_is_not_yet_the_release() {
        fs::create_dir_all(root().join("target")).unwrap();
        let document = root().join("target/candidate.md");
        fs::write(&document, "## Harvester\n| 1.8.2 |\n| 1.9.0-rc6 |\n## KubeVirt\n| 1.9.0 |\n").unwrap();
        let found = new_releases("v1.9.0", &[&document]);
        assert!(found.starts_with("Harvester 1.9.0 is out") && found.lines().count() == 1, "{found}");
    }

    #[test]
    fn renovate_finds_the_tools_that_the_tests_install() {
        let renovate: Value = serde_json::from_str(&text(".github/renovate.json")).unwrap();
        let pattern = renovate["customManagers"][0]["matchStrings"][0].as_str().unwrap().replace('\\', "");
        let tools = text("scripts/go-tools");
        let tools: Vec<&str> = tools.lines().filter_map(|line| line.trim().split_once("@v").map(|t| t.0)).collect();
        assert_eq!(tools.len(), 3);
        for tool in tools {
            let (_, package) = tool.split_once(' ').unwrap();
            let module = package.split("/cmd/").next().unwrap();
            assert!(pattern.contains(module), "{module}");
        }
    }
}
