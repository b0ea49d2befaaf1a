//! What must hold for any virtual machine, any directive and any settings.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};

use super::harness::{
    Answer, MemoryCluster, PREFIX, RECORD, Request, annotate, evaluate, features, fixtures, set_record, vbios_objects,
};

/// The objects of both examples. Of the two KubeVirt objects, the one with the gate `Sidecar` counts.
static HARVESTER: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut objects = vbios_objects();
    objects.extend(fixtures("../../examples/harvester/cluster/cluster.yaml"));
    let usb = fixtures("../../examples/usb-passthrough/cluster/cluster.yaml").into_iter();
    objects.extend(usb.filter(|object| object["kind"] == "USBDevice"));
    objects
});

/// The ends of the keys of the annotations for people.
const MARKS: [&str; 2] = ["-applied", "-error"];

/// Any JSON.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i32>().prop_map(|n| json!(n)),
        // Numbers that serde_json reads exactly as it writes them.
        (-1000..1000).prop_map(|n| json!(f64::from(n) / 8.0)),
        ".{0,8}".prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(("[a-z]{1,4}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Usually the given value, sometimes none, sometimes any.
fn mostly(value: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![8 => value.prop_map(Some), 2 => Just(None), 1 => any_json().prop_map(Some)]
}

fn object(members: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    values
        .prop_map(move |values| {
            let members = names.iter().zip(values);
            let members = members.filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            Value::Object(members.collect::<Map<_, _>>())
        })
        .boxed()
}

fn devices() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "pci-device-0",
        "pci-device-1",
        "gpu",
        "node1-000000020",
        "usb-0",
        "node1-1050-0407-001003",
    ]);
    let device_name = prop::sample::select(vec![
        "pci_0000_00_02_0",
        "nvidia.com/gpu",
        "x.io/Y_1",
        "kubevirt.io/node1-1050-0407-001003",
    ]);
    let device = object(vec![
        ("name", mostly(name.prop_map(|n| json!(n))).boxed()),
        ("deviceName", mostly(device_name.prop_map(|n| json!(n))).boxed()),
        ("claimName", prop::sample::select(vec![None, None, None, Some(json!("claim"))]).boxed()),
        ("tag", mostly(any_json()).boxed()),
    ]);
    prop::collection::vec(device, 0..4).prop_map(Value::Array)
}

fn cpu() -> impl Strategy<Value = Value> {
    let feature = object(vec![
        ("name", mostly(prop::sample::select(vec!["svm", "vmx", "pcid"]).prop_map(|n| json!(n))).boxed()),
        (
            "policy",
            mostly(prop::sample::select(vec!["", "require", "forbid", "optional"]).prop_map(|n| json!(n))).boxed(),
        ),
    ]);
    object(vec![
        ("cores", mostly(Just(json!(4))).boxed()),
        ("dedicatedCpuPlacement", prop::sample::select(vec![None, Some(json!(true)), Some(json!(false))]).boxed()),
        ("numa", prop::sample::select(vec![None, None, Some(json!({"guestMappingPassthrough": {}}))]).boxed()),
        ("model", mostly(prop::sample::select(vec!["host-model", "EPYC", "Haswell"]).prop_map(|n| json!(n))).boxed()),
        ("features", mostly(prop::collection::vec(feature, 0..3).prop_map(Value::Array)).boxed()),
    ])
}

fn memory() -> BoxedStrategy<Value> {
    let pages =
        object(vec![("pageSize", mostly(prop::sample::select(vec!["2Mi", "1Gi"]).prop_map(|n| json!(n))).boxed())]);
    object(vec![
        ("guest", mostly(prop::sample::select(vec!["8Gi", "8092Mi"]).prop_map(|n| json!(n))).boxed()),
        ("hugepages", prop_oneof![4 => Just(None), 1 => pages.prop_map(Some)].boxed()),
    ])
}

fn volumes() -> impl Strategy<Value = Value> {
    let config_map =
        object(vec![("name", mostly(prop::sample::select(vec!["igpu-rom", "other"]).prop_map(|n| json!(n))).boxed())]);
    let volume = object(vec![
        ("name", mostly(prop::sample::select(vec!["vbios-rom", "igpu-rom", "disk"]).prop_map(|n| json!(n))).boxed()),
        ("configMap", mostly(config_map).boxed()),
    ]);
    prop::collection::vec(volume, 0..3).prop_map(Value::Array)
}

/// A record of some features, or anything else.
fn record() -> BoxedStrategy<Value> {
    let entries = vec![
        json!({"cpuFeature": "svm"}),
        json!({"hostDevice": "node1-000000020", "resource": "x.io/Y_1"}),
        json!({"hostDevice": "node1-1050-0407-001003", "resource": "kubevirt.io/node1-1050-0407-001003"}),
        json!({"hostDevice": "pci-device-0", "resource": "pci_0000_00_02_0", "beside": ["x"]}),
        json!({"gpu": "gpu-0", "resource": "nvidia.com/gpu"}),
        json!({"limit": "nvidia.com/gpu", "quantity": "2"}),
        json!({"nodeSelector": "node1"}),
        json!({"dedicatedCpuPlacement": true}),
        json!({"hugepages": "2Mi"}),
        json!({"hookSidecar": true}),
    ];
    let added = prop::collection::vec(prop::sample::select(entries), 0..4);
    let part = (directive(), added).prop_map(|(value, added)| json!({"value": value, "added": added}));
    let names = prop::sample::select(features::names());
    let parts = prop::collection::btree_map(names, part, 0..4);
    let parts = parts.prop_map(|parts| json!(json!(parts).to_string()));
    prop_oneof![8 => parts, 1 => directive()].boxed()
}

fn template_metadata() -> BoxedStrategy<Value> {
    let sidecars = prop::sample::select(vec![
        "[]",
        "",
        "{}",
        r#"[{"image":"mine","configMap":{"name":"other"}}]"#,
        r#"[{"command":["a","b","c","vm-feature-manager.io/vbios-injection"]},{"args":[]}]"#,
    ]);
    let record = prop_oneof![2 => Just(None), 1 => record().prop_map(Some)];
    let on_template = prop::sample::select(vec![None, None, None, Some(json!("enabled")), Some(json!("disabled"))]);
    let annotations = object(vec![
        ("hooks.kubevirt.io/hookSidecars", mostly(sidecars.prop_map(|s| json!(s))).boxed()),
        ("other.io/key", mostly(Just(json!("kept"))).boxed()),
        (RECORD, record.boxed()),
        ("vm-feature-manager.io/nested-virt", on_template.boxed()),
    ]);
    object(vec![("annotations", mostly(annotations).boxed())])
}

fn spec() -> impl Strategy<Value = Value> {
    let limits = object(vec![
        ("memory", mostly(Just(json!("8Gi"))).boxed()),
        ("nvidia.com/gpu", mostly(Just(json!("2"))).boxed()),
    ]);
    let domain = object(vec![
        ("cpu", mostly(cpu()).boxed()),
        ("memory", mostly(memory()).boxed()),
        (
            "devices",
            mostly(object(vec![
                ("hostDevices", mostly(devices()).boxed()),
                ("gpus", mostly(devices()).boxed()),
                ("disks", mostly(any_json()).boxed()),
            ]))
            .boxed(),
        ),
        ("resources", mostly(object(vec![("limits", mostly(limits).boxed())])).boxed()),
    ]);
    let template = object(vec![
        ("metadata", mostly(template_metadata()).boxed()),
        (
            "spec",
            mostly(object(vec![
                ("domain", mostly(domain).boxed()),
                (
                    "nodeSelector",
                    mostly(prop::sample::select(vec![
                        json!({"cpu-vendor.node.kubevirt.io/AMD": "true"}),
                        json!({"kubernetes.io/hostname": "node1"}),
                    ]))
                    .boxed(),
                ),
                ("volumes", mostly(volumes()).boxed()),
            ]))
            .boxed(),
        ),
    ]);
    object(vec![("template", mostly(template).boxed()), ("running", mostly(any_json()).boxed())])
}

fn directive() -> impl Strategy<Value = Value> {
    let good = vec![
        "enabled",
        "disabled",
        "on",
        "0000:05.00.0, 03:00.0",
        "amd",
        "intel",
        "nvidia.com/gpu",
        r#"["0000:00:02.0", "0000:03:00.1"]"#,
        r#"[{"cpuFeature":"svm"}]"#,
        r#"[{"hostDevice":"node1-000000020","resource":"x.io/Y_1"},{"nodeSelector":"node1"}]"#,
        r#"[{"hostDevice":"pci-device-0","resource":"pci_0000_00_02_0","beside":["x"]}]"#,
        r#"{"devices": ["0000:00:02.0"]}"#,
        r#"{"devices": ["00:02.0", "node1/0000:03:00.1"]}"#,
        r#"{"devices": ["node1/01:00.0", "03:00.0"]}"#,
        r#"{"devices": ["1050:0407"]}"#,
        r#"{"devices": ["node1/046d:c52b", "node1-1050-0407-001003"]}"#,
        r#"{"devices": ["node2-046d-c52b-001004"]}"#,
        r#"[{"hostDevice":"node1-1050-0407-001003","resource":"kubevirt.io/node1-1050-0407-001003"},{"nodeSelector":"node1"}]"#,
        "nvidia.com/gpu=3",
        "2Mi",
        "1Gi",
        "passthrough",
        r#"[{"dedicatedCpuPlacement":true}]"#,
        "igpu-rom",
        "gpu-0",
        "0000:00:02.0",
        "",
    ];
    prop_oneof![
        8 => prop::sample::select(good).prop_map(|text| json!(text)),
        2 => ".{0,40}".prop_map(|text| json!(text)),
        1 => any_json(),
    ]
}

/// A value for a key. For a directive, it is often the reference's example, otherwise any.
fn value_for(key: &str) -> BoxedStrategy<Value> {
    match features::directives().into_iter().find(|(name, _)| *name == key) {
        Some((_, example)) => prop_oneof![2 => directive(), 1 => Just(json!(example))].boxed(),
        None => directive().boxed(),
    }
}

fn own_keys() -> BoxedStrategy<Value> {
    let options = features::options().into_iter().map(|(option, _)| option);
    let mut asking: Vec<_> = features::names().into_iter().chain(options).map(str::to_owned).collect();
    asking.push("nonsense".to_owned());
    let of_feature = |name: &str| MARKS.map(|mark| format!("{name}{mark}"));
    let marks: Vec<_> = features::names().into_iter().flat_map(of_feature).collect();
    let asking = prop::sample::subsequence(asking, 0..8);
    let keys = (asking, prop::sample::subsequence(marks, 0..5)).prop_map(|(asking, marks)| [asking, marks].concat());
    keys.prop_flat_map(|keys| {
        let values: Vec<_> = keys.iter().map(|key| value_for(key)).collect();
        (Just(keys), values).prop_map(|(keys, values)| {
            let members = keys.iter().zip(values);
            let mut map: Map<_, _> = members.map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect();
            map.insert("other.io/key".to_owned(), json!("kept"));
            Value::Object(map)
        })
    })
    .boxed()
}

fn vm() -> impl Strategy<Value = Value> {
    let metadata = object(vec![
        ("name", mostly(Just(json!("vm"))).boxed()),
        ("namespace", mostly(Just(json!("default"))).boxed()),
        ("annotations", own_keys().prop_map(Some).boxed()),
        ("labels", mostly(own_keys()).boxed()),
    ]);
    object(vec![
        ("apiVersion", Just(Some(json!("kubevirt.io/v1"))).boxed()),
        ("kind", Just(Some(json!("VirtualMachine"))).boxed()),
        ("metadata", metadata.prop_map(Some).boxed()),
        ("spec", mostly(spec()).boxed()),
        ("status", mostly(any_json()).boxed()),
    ])
}

fn settings() -> BoxedStrategy<Value> {
    let section = |more: Vec<(&'static str, BoxedStrategy<Option<Value>>)>| {
        let modes = vec!["reject", "allow-and-log", "strip-label"];
        let mut members = vec![
            ("errorHandling", prop::sample::select(modes).prop_map(|m| Some(json!(m))).boxed()),
            ("enabled", prop::bool::weighted(0.9).prop_map(|b| Some(json!(b))).boxed()),
        ];
        members.extend(more);
        object(members).prop_map(Some).boxed()
    };
    let numbers = || (1..9_usize).prop_map(|n| Some(json!(n))).boxed();
    let one_of = |values: Vec<&'static str>| prop::sample::select(values).prop_map(|value| Some(json!(value))).boxed();
    let mut members = vec![
        ("addTrackingAnnotations", any::<bool>().prop_map(|b| Some(json!(b))).boxed()),
        ("configSource", one_of(vec!["annotations", "labels"])),
    ];
    for name in features::sections() {
        let more = match name {
            "nestedVirtualization" => vec![("cpuVendor", one_of(vec!["auto", "amd", "intel"]))],
            "pciPassthrough" => {
                vec![("deviceNames", one_of(vec!["auto", "address", "harvester"])), ("maxDevices", numbers())]
            }
            "usbPassthrough" => vec![("deviceNames", one_of(vec!["auto", "permitted", "harvester"]))],
            "vbiosInjection" => vec![("romDelivery", one_of(vec!["sidecar", "volume"]))],
            _ => vec![],
        };
        members.push((name, section(more)));
    }
    prop_oneof![9 => object(members), 1 => any_json()].boxed()
}

/// Whether everything that the user wrote is still there: members by key, list items in the same order.
/// The policy may change its own annotations and labels, and replace null by a value. When it removes what a directive added, it
/// may also remove entries that it could have added, and lists and objects that become empty.
fn is_kept(path: &str, before: &Value, after: &Value, takes_back: bool) -> Result<(), String> {
    let may_go = |path: &str, value: &Value| takes_back && may_be_ours(path, value);
    match (before, after) {
        (Value::Null, _) => Ok(()),
        _ if before == after => Ok(()),
        (Value::Object(before), Value::Object(after)) => {
            let mut others = before.iter().filter(|(key, _)| !key.starts_with(PREFIX));
            others.try_for_each(|(key, value)| {
                let path = format!("{path}/{key}");
                match after.get(key) {
                    Some(after) => is_kept(&path, value, after, takes_back),
                    None if may_go(&path, value) || is_only_the_policys(value) => Ok(()),
                    None => Err(format!("{path} is gone")),
                }
            })
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut left = after.iter();
            before.iter().filter(|item| !may_go(path, item)).try_for_each(|item| {
                match left.any(|after| is_kept(path, item, after, takes_back).is_ok()) {
                    true => Ok(()),
                    false => Err(format!("{path}: {item} is gone, or is elsewhere")),
                }
            })
        }
        // In this annotation, the items of the list are compared. The policy may replace its own.
        (Value::String(before), Value::String(after)) if path.ends_with("/hooks.kubevirt.io/hookSidecars") => {
            let entries = |text: &str| match text.trim() {
                "" => Ok(Vec::new()),
                text => serde_json::from_str::<Vec<Value>>(text).map_err(|e| e.to_string()),
            };
            let is_ours = |entry: &Value| entry["command"][3] == "vm-feature-manager.io/vbios-injection";
            let (before, after) = (entries(before)?, entries(after)?);
            if before.iter().filter(|e| !is_ours(e)).eq(after.iter().filter(|e| !is_ours(e))) {
                Ok(())
            } else {
                Err(format!("{path} was {before:?} and is {after:?}"))
            }
        }
        _ => Err(format!("{path} was {before} and is {after}")),
    }
}

/// Whether an object has no keys but the policy's: the template's metadata, which goes with the last of them.
fn is_only_the_policys(value: &Value) -> bool {
    let is_it = |(key, value): (&String, &Value)| key.starts_with(PREFIX) || is_only_the_policys(value);
    value.as_object().is_some_and(|members| !members.is_empty() && members.iter().all(is_it))
}

/// Whether the policy could have written the value. Of an object or a list, it must have written everything.
fn may_be_ours(path: &str, value: &Value) -> bool {
    let name = value["name"].as_str().unwrap_or_default();
    match path.rsplit('/').next().unwrap_or_default() {
        "features" | "hostDevices" | "gpus" | "volumes" if value.is_array() => {
            value.as_array().is_some_and(|items| items.iter().all(|item| may_be_ours(path, item)))
        }
        "limits" | "nodeSelector" => value
            .as_object()
            .is_some_and(|members| members.iter().all(|(key, value)| may_be_ours(&format!("{path}/{key}"), value))),
        // A key of `limits`. It contains a slash itself, so only its end is matched above.
        "gpu" => path.ends_with("limits/nvidia.com/gpu"),
        "hostname" => path.ends_with("nodeSelector/kubernetes.io/hostname"),
        "hookSidecars" => true,
        // Of the template, if they have only annotations of the policy.
        "metadata" | "annotations" => value.as_object().is_some_and(|members| {
            let is_it = |(key, value): (&String, &Value)| {
                key.starts_with(PREFIX) || may_be_ours(&format!("{path}/{key}"), value)
            };
            members.iter().all(is_it)
        }),
        "dedicatedCpuPlacement" | "isolateEmulatorThread" => *value == json!(true),
        "guestMappingPassthrough" => *value == json!({}),
        "pageSize" => path.ends_with("hugepages/pageSize"),
        "hugepages" | "numa" | "resources" | "cpu" | "memory" => value
            .as_object()
            .is_some_and(|members| members.iter().all(|(key, value)| may_be_ours(&format!("{path}/{key}"), value))),
        "features" => ["svm", "vmx"].contains(&name) && value["policy"] == "require",
        "volumes" => name == "vbios-rom",
        "hostDevices" | "gpus" => value.as_object().is_some_and(|device| device.len() == 2),
        _ => false,
    }
}

fn without_ours_labels(vm: &Value) -> Value {
    let mut vm = vm.clone();
    if let Some(Value::Object(labels)) = vm["metadata"].get_mut("labels") {
        labels.retain(|key, _| !key.starts_with(PREFIX));
    }
    vm
}

/// The value with sorted lists, and without the numbers in the names that the policy makes.
fn in_any_order(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), in_any_order(value))).collect(),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(in_any_order).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        // A record lists such names, too.
        Value::String(text) if text.starts_with(['[', '{']) => match serde_json::from_str(text) {
            Ok(json) => in_any_order(&json),
            Err(_) => value.clone(),
        },
        Value::String(text) => match text.rsplit_once('-') {
            Some((made @ ("gpu" | "pci-device"), _)) => json!(made),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

/// Whether the answer denies or warns with these words.
fn says(answer: &Answer, words: &str) -> bool {
    answer.message().contains(words) || answer.warnings().iter().any(|warning| warning.contains(words))
}

fn has_our_sidecar(vm: &Value) -> bool {
    vm["spec"].to_string().contains("vm-feature-manager.io/vbios-injection")
}

fn is_record(key: &str) -> bool {
    key == RECORD || MARKS.iter().any(|suffix| key.ends_with(suffix))
}

/// The value without empty lists and objects, because these have no effect.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| (key.clone(), without_empty(value)));
            Value::Object(members.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_empty).collect()),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        // The annotation with the sidecars.
        Value::String(text) => ["", "[]"].contains(&text.as_str()),
        _ => false,
    }
}

/// The VM without the policy's annotations and labels, also of its template.
fn without_ours(vm: &Value) -> Value {
    let mut vm = vm.clone();
    retain_keys(&mut vm, |key| !key.starts_with(PREFIX));
    vm
}

/// Removes annotations and labels of the VM, and annotations of its template.
fn retain_keys(vm: &mut Value, stays: impl Fn(&str) -> bool) {
    for place in ["/metadata/annotations", "/metadata/labels", "/spec/template/metadata/annotations"] {
        if let Some(Value::Object(members)) = vm.pointer_mut(place) {
            members.retain(|key, _| stays(key));
        }
    }
}

/// Like [`without_ours`], but with the policy's record and annotations for people.
fn without_directives(vm: &Value) -> Value {
    let mut vm = vm.clone();
    retain_keys(&mut vm, |key| !key.starts_with(PREFIX) || is_record(key));
    vm
}

/// The request in a cluster of Harvester, or in one without any objects.
fn in_cluster(request: Request, harvester: bool) -> Request {
    if harvester { request.cluster(MemoryCluster::of(HARVESTER.clone())) } else { request }
}

/// Parts of YAML.
const YAML: [&str; 39] = [
    ": ",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "&a ",
    "*a",
    "!!str ",
    "!x ",
    "|",
    "|+2",
    ">-",
    "'",
    "\"",
    "\\",
    "#",
    "true",
    "off",
    "~",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "{{ ",
    " }}",
    "{% if x %}",
    "\t",
    "\u{e9}",
    "\u{feff}",
    "\r\n",
    "0000:00:02.0",
    "devices",
    "<<",
    "key",
];

/// The number of inputs of each property is that of `PROPTEST_CASES`, or 2,000. They are the same ones in each run, unless
/// `PROPTEST_RNG_SEED` says otherwise: a test of a commit passes always or never.
pub fn config() -> ProptestConfig {
    let mut config =
        ProptestConfig { max_global_rejects: u32::MAX, failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 2000;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_vm_gets_a_valid_answer_once_and_for_all(vm in vm(), settings in settings(), old in prop::option::of(vm()), harvester in any::<bool>()) {
        let request = |object: &Value| {
            let request = match &old {
                None => Request::create(object.clone()),
                Some(old) => Request::update(old.clone(), object.clone()),
            };
            in_cluster(request, harvester)
        };
        let answer = request(&vm).settings(settings.clone()).evaluate();

        for warning in answer.warnings() {
            prop_assert!(warning.len() <= 256 && warning.chars().all(|c| (' '..='~').contains(&c)), "{}", warning);
        }
        if answer.is_accepted() {
            prop_assert_eq!(answer.message(), "");
        } else {
            prop_assert!(!answer.message().is_empty());
            prop_assert!([400, 500].contains(&answer.response["code"].as_u64().unwrap_or_default()));
            prop_assert!(!answer.is_mutated());
        }
        if answer.is_mutated() {
            let after = answer.after();
            prop_assert_ne!(&after, &vm, "a mutation that changes nothing");
            let takes_back = vm["spec"].to_string().contains(RECORD) || old.is_some();
            prop_assert_eq!(is_kept("", &vm, &after, takes_back), Ok(()));
            let again = request(&after).settings(settings).evaluate();
            prop_assert!(again.is_accepted(), "the second time: {}", again.message());
            prop_assert_eq!(again.patch(), json!([]), "the second time");
        }
    }

    /// Whatever changed in the cluster and in the settings since the VM was stored.
    #[test]
    fn an_update_that_breaks_nothing_is_accepted(
        vm in vm(), settings in prop::array::uniform2(settings()), harvester in prop::array::uniform2(any::<bool>()),
    ) {
        let [before, since] = settings;
        let [was_harvester, is_harvester] = harvester;
        let request = |request: Request, harvester| {
            in_cluster(request, harvester)
        };
        let created = request(Request::create(vm), was_harvester).settings(before).evaluate();
        if created.is_accepted() {
            let mut changed = created.after();
            if let Some(Value::Object(template)) = changed.pointer_mut("/spec/template/spec") {
                template.insert("hostname".to_owned(), json!("changed"));
            }
            let update = request(Request::update(created.after(), changed), is_harvester).settings(since).evaluate();
            // With settings that are not valid, every VM is denied.
            prop_assert!(update.is_accepted() || update.response["code"] == 500, "{}", update.message());
        }
    }

    #[test]
    fn a_directive_that_changes_is_as_if_it_had_always_been_so(
        vm in vm(), directives in own_keys(), settings in settings(), harvester in any::<bool>(),
    ) {
        let request = |request: Request| {
            let mut settings = settings.clone();
            if settings.is_object() {
                settings["addTrackingAnnotations"] = json!(true);
                settings["configSource"] = json!("annotations");
            }
            in_cluster(request.settings(settings), harvester)
        };
        let with_directives = |vm: &Value| {
            let mut vm = without_directives(vm);
            let annotations = directives.as_object().unwrap().iter();
            for (key, value) in annotations.filter(|(key, _)| key.starts_with(PREFIX) && !is_record(key)) {
                vm["metadata"]["annotations"][key] = value.clone();
            }
            vm
        };
        prop_assume!(!has_our_sidecar(&vm));
        let plain = without_ours(&vm);
        let mut first = vm;
        retain_keys(&mut first, |key| !is_record(key));
        let first = request(Request::create(first)).evaluate();
        if first.is_accepted() {
            let stored = first.after();
            let changed = request(Request::update(stored.clone(), with_directives(&stored))).evaluate();
            let always = request(Request::create(with_directives(&plain))).evaluate();
            // Harvester computes the guest's memory only for a new VM. For an update, hugepages reads what is stored.
            prop_assume!(!says(&changed, "memory.guest is"));
            // It sets the requests to the limits only when CPUs become pinned.
            prop_assume!(!says(&changed, "make the two equal") && !says(&changed, "requests.memory is"));
            // A kind of device is one that the VM already has. A new VM has none, so the kind must be unambiguous.
            prop_assume!(!says(&always, "matches different devices"));
            prop_assert_eq!(changed.is_accepted(), always.is_accepted(), "{} / {}", changed.message(), always.message());
            if always.is_accepted() {
                let (changed, always) = (without_ours_labels(&changed.after()), without_ours_labels(&always.after()));
                prop_assert_eq!(in_any_order(&without_empty(&changed)), in_any_order(&without_empty(&always)));
            }
        }
    }

    #[test]
    fn a_directive_that_is_gone_leaves_the_vm_as_it_was(vm in vm(), settings in settings(), keeps_records in any::<bool>(), harvester in any::<bool>()) {
        let request = |request: Request| {
            let mut settings = settings.clone();
            if settings.is_object() {
                settings["addTrackingAnnotations"] = json!(true);
            }
            in_cluster(request.settings(settings), harvester)
        };
        prop_assume!(!has_our_sidecar(&vm));
        // Earlier records are removed, because the policy would also remove what they list.
        let mut vm = vm;
        retain_keys(&mut vm, |key| !is_record(key));
        let applied = request(Request::create(vm.clone())).evaluate();
        if applied.is_mutated() {
            let stored = applied.after();
            let new = if keeps_records { without_directives(&stored) } else { without_ours(&stored) };
            let answer = request(Request::update(stored, new)).evaluate();
            prop_assert!(answer.is_accepted(), "{}", answer.message());
            prop_assert_eq!(without_empty(&without_ours(&vm)), without_empty(&answer.after()));
        }
    }

    /// Clones and restores of Harvester keep the template, and lose the annotations and labels of the VM.
    #[test]
    fn a_copy_whose_directives_are_removed_is_as_the_original_was_before(
        vm in vm(), settings in settings(), harvester in any::<bool>(), restored in any::<bool>(),
    ) {
        let mut settings = settings;
        if settings.is_object() {
            settings["addTrackingAnnotations"] = json!(true);
        }
        let request = |request: Request| in_cluster(request.settings(settings.clone()), harvester);
        prop_assume!(!has_our_sidecar(&vm));
        let mut vm = vm;
        retain_keys(&mut vm, |key| !is_record(key));
        let applied = request(Request::create(vm.clone())).evaluate();
        if applied.is_accepted() {
            let copy = |vm: &Value| {
                let mut copy = vm.clone();
                copy["metadata"] = json!({"name": "copy", "namespace": vm["metadata"]["namespace"]});
                if !restored {
                    copy["metadata"]["labels"] = vm["metadata"]["labels"].clone();
                }
                copy
            };
            let made = request(Request::create(copy(&applied.after()))).evaluate();
            prop_assert!(made.is_accepted() || !restored, "{}", made.message());
            if made.is_accepted() {
                let again = request(Request::create(made.after())).evaluate();
                prop_assert!(again.is_accepted(), "the second time: {}", again.message());
                prop_assert_eq!(again.patch(), json!([]), "the second time");
                let gone = request(Request::update(made.after(), without_directives(&made.after()))).evaluate();
                prop_assert!(gone.is_accepted(), "{}", gone.message());
                let before = without_ours(&copy(&without_ours(&vm)));
                prop_assert_eq!(without_empty(&before), without_empty(&without_ours(&gone.after())));
            }
        }
    }

    /// The settings switch features off and on, while the VM changes in other ways.
    #[test]
    fn whatever_is_switched_off_and_on_nothing_is_left_in_the_end(
        vm in vm(), settings in settings(), harvester in any::<bool>(),
        switched in prop::collection::vec((prop::sample::select(features::sections()), any::<bool>()), 0..6),
    ) {
        prop_assume!(settings.is_object() && !has_our_sidecar(&vm));
        let mut settings = settings;
        let request = |request: Request, settings: &Value| in_cluster(request.settings(settings.clone()), harvester);
        let mut vm = vm;
        retain_keys(&mut vm, |key| !is_record(key));
        let mut stored = request(Request::create(vm.clone()), &settings).evaluate();
        prop_assume!(stored.is_accepted());
        let mut plain = without_ours(&vm);
        for (index, (section, is_on)) in switched.into_iter().enumerate() {
            settings[section]["enabled"] = json!(is_on);
            let mut new = stored.after();
            if let Some(Value::Object(spec)) = new.pointer_mut("/spec/template/spec") {
                spec.insert("terminationGracePeriodSeconds".to_owned(), json!(index));
                plain["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(index);
            }
            let next = request(Request::update(stored.after(), new), &settings).evaluate();
            prop_assume!(next.is_accepted());
            stored = next;
        }
        for section in features::sections() {
            settings[section]["enabled"] = json!(true);
        }
        let gone = request(Request::update(stored.after(), without_directives(&stored.after())), &settings).evaluate();
        prop_assert!(gone.is_accepted(), "{}", gone.message());
        prop_assert_eq!(without_empty(&plain), without_empty(&without_ours(&gone.after())));
    }

    /// Of equal entries, as many are the user's as the user wrote.
    #[test]
    fn equal_entries_stay_as_often_as_the_user_wrote_them(users in 0..4_usize, ours in 0..4_usize, tracking in any::<bool>()) {
        let entry = json!({"name": "node1-000000020", "deviceName": "x.io/Y_1"});
        let mut vm = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm", "namespace": "default"},
            "spec": {"template": {"spec": {"domain": {"devices": {"hostDevices": vec![entry.clone(); users + ours]}}}}},
        });
        let added = vec![json!({"hostDevice": "node1-000000020", "resource": "x.io/Y_1"}); ours];
        set_record(&mut vm, &[("pci-passthrough", "x", json!(added))]);
        annotate(&mut vm, &[("pci-passthrough-applied", "x")]);
        let mut old = vm.clone();
        annotate(&mut old, &[("pci-passthrough", r#"{"devices": ["0000:00:02.0"]}"#)]);
        let settings = json!({"addTrackingAnnotations": tracking});
        let answer = Request::update(old, vm).settings(settings).evaluate();
        let left = answer.domain()["devices"]["hostDevices"].as_array().map_or(0, Vec::len);
        prop_assert_eq!(left, users);
    }

    #[test]
    fn any_user_data_gets_an_answer_without_a_word_of_it(
        tokens in prop::collection::vec(prop::sample::select(YAML.to_vec()), 0..60),
        text in ".{0,60}",
        secret in any::<bool>(),
    ) {
        let section = tokens.concat();
        let user_data = format!("#cloud-config\npassword: hunter2\nx_kubevirt_features:\n  nested_virt: {section}\n{text}");
        let mut vm = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm", "namespace": "default"},
            "spec": {"template": {"spec": {"domain": {"devices": {}}}}},
        });
        let base64 = STANDARD.encode(&user_data);
        let source = match secret {
            true => json!({"secretRef": {"name": "seed"}}),
            false => json!({"userDataBase64": base64}),
        };
        vm["spec"]["template"]["spec"]["volumes"] = json!([{"name": "seed", "cloudInitNoCloud": source}]);
        let cluster = MemoryCluster::of(vec![json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "seed", "namespace": "default"},
            "data": {"userdata": base64},
        })]);
        let settings = json!({
            "userData": {"enabled": true, "readSecrets": true},
            "nestedVirtualization": {"cpuVendor": "amd"},
        });
        let settings = features::in_every_section(settings, "errorHandling", "allow-and-log");
        let answer = Request::create(vm).settings(settings).cluster(cluster).evaluate();
        prop_assert!(answer.is_accepted(), "{}", answer.message());
        prop_assert!(!answer.logs.join("").contains("hunter2"));
        prop_assert!(!answer.response["warnings"].to_string().contains("hunter2"));
    }

    #[test]
    fn any_settings_are_valid_or_told_why_not(settings in settings(), any in any_json()) {
        for settings in [settings, any] {
            let answer = vm_feature_manager_policy::validate_settings(settings.to_string().as_bytes());
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            prop_assert_eq!(answer["valid"] == json!(true), answer["message"].is_null());
        }
    }

    #[test]
    fn any_bytes_get_an_answer(payload in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        any_json().prop_map(|json| json.to_string().into_bytes()),
        any_json().prop_map(|json| json!({"request": json}).to_string().into_bytes()),
    ]) {
        let answer = evaluate(&payload, &MemoryCluster::default());
        prop_assert!(!answer.is_accepted());
        prop_assert!(!answer.message().is_empty());
        let answer: Value = serde_json::from_slice(&vm_feature_manager_policy::validate_settings(&payload)).unwrap();
        prop_assert!(answer["valid"].is_boolean());
    }
}
