//! What holds for any virtual machine, any directive and any settings.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::harness::{FakeCluster, PREFIX, Request, evaluate, fixtures};

/// The objects of both examples; of the two KubeVirt objects the one with the gate `Sidecar` counts.
static HARVESTER: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut objects = fixtures("../../examples/vbios/cluster/cluster.yaml");
    objects.extend(fixtures("../../examples/harvester/cluster/cluster.yaml"));
    objects
});

/// Any JSON.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i32>().prop_map(|n| json!(n)),
        // Such as serde_json reads exactly as it writes them.
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

/// Mostly the given value, sometimes none, sometimes anything.
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
    let name = prop::sample::select(vec!["pci-device-0", "pci-device-1", "gpu", "node1-000000020"]);
    let device_name = prop::sample::select(vec!["pci_0000_00_02_0", "nvidia.com/gpu", "x.io/Y_1"]);
    let device = object(vec![
        ("name", mostly(name.prop_map(|n| json!(n))).boxed()),
        ("deviceName", mostly(device_name.prop_map(|n| json!(n))).boxed()),
        ("tag", mostly(any_json()).boxed()),
    ]);
    prop::collection::vec(device, 0..4).prop_map(Value::Array)
}

fn cpu() -> impl Strategy<Value = Value> {
    let feature = object(vec![
        (
            "name",
            mostly(prop::sample::select(vec!["svm", "vmx", "pcid"]).prop_map(|n| json!(n))).boxed(),
        ),
        (
            "policy",
            mostly(
                prop::sample::select(vec!["", "require", "forbid", "optional"])
                    .prop_map(|n| json!(n)),
            )
            .boxed(),
        ),
    ]);
    object(vec![
        ("cores", mostly(Just(json!(4))).boxed()),
        (
            "model",
            mostly(
                prop::sample::select(vec!["host-model", "EPYC", "Haswell"]).prop_map(|n| json!(n)),
            )
            .boxed(),
        ),
        ("features", mostly(prop::collection::vec(feature, 0..3).prop_map(Value::Array)).boxed()),
    ])
}

fn volumes() -> impl Strategy<Value = Value> {
    let config_map = object(vec![(
        "name",
        mostly(prop::sample::select(vec!["igpu-rom", "other"]).prop_map(|n| json!(n))).boxed(),
    )]);
    let volume = object(vec![
        (
            "name",
            mostly(
                prop::sample::select(vec!["vbios-rom", "igpu-rom", "disk"]).prop_map(|n| json!(n)),
            )
            .boxed(),
        ),
        ("configMap", mostly(config_map).boxed()),
    ]);
    prop::collection::vec(volume, 0..3).prop_map(Value::Array)
}

fn template_metadata() -> BoxedStrategy<Value> {
    let sidecars = prop::sample::select(vec![
        "[]",
        "",
        "{}",
        r#"[{"image":"mine","configMap":{"name":"other"}}]"#,
        r#"[{"command":["a","b","c","vm-feature-manager.io/vbios-injection"]},{"args":[]}]"#,
    ]);
    let annotations = object(vec![
        ("hooks.kubevirt.io/hookSidecars", mostly(sidecars.prop_map(|s| json!(s))).boxed()),
        ("other.io/key", mostly(Just(json!("kept"))).boxed()),
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
    let good = prop::sample::select(vec![
        "enabled",
        "disabled",
        "amd",
        "intel",
        "nvidia.com/gpu",
        r#"{"devices": ["0000:00:02.0"]}"#,
        r#"{"devices": ["00:02.0", "node1/0000:03:00.1"]}"#,
        r#"{"devices": ["node1/01:00.0", "03:00.0"]}"#,
        "nvidia.com/gpu=3",
        "igpu-rom",
        "gpu-0",
        "0000:00:02.0",
        "",
    ]);
    prop_oneof![
        8 => good.prop_map(|text| json!(text)),
        2 => ".{0,40}".prop_map(|text| json!(text)),
        1 => any_json(),
    ]
}

fn own_keys() -> BoxedStrategy<Value> {
    let keys = prop::sample::subsequence(
        vec![
            "nested-virt",
            "pci-passthrough",
            "gpu-device-plugin",
            "vbios-injection",
            "cpu-vendor",
            "vbios-device",
            "nested-virt-applied",
            "gpu-device-plugin-error",
            "nonsense",
        ],
        0..6,
    );
    keys.prop_flat_map(|keys| {
        let values = prop::collection::vec(directive(), keys.len());
        (Just(keys), values).prop_map(|(keys, values)| {
            let members = keys.iter().zip(values);
            let mut map: Map<_, _> =
                members.map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect();
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
    let one_of = |values: Vec<&'static str>| {
        prop::sample::select(values).prop_map(|value| Some(json!(value))).boxed()
    };
    let valid = object(vec![
        ("addTrackingAnnotations", any::<bool>().prop_map(|b| Some(json!(b))).boxed()),
        ("configSource", one_of(vec!["annotations", "labels"])),
        (
            "nestedVirtualization",
            section(vec![("cpuVendor", one_of(vec!["auto", "amd", "intel"]))]),
        ),
        (
            "pciPassthrough",
            section(vec![
                ("deviceNames", one_of(vec!["auto", "address", "harvester"])),
                ("maxDevices", (1..9_usize).prop_map(|n| Some(json!(n))).boxed()),
            ]),
        ),
        ("gpuDevicePlugin", section(vec![])),
        ("vbiosInjection", section(vec![("romDelivery", one_of(vec!["sidecar", "volume"]))])),
    ]);
    prop_oneof![9 => valid, 1 => any_json()].boxed()
}

/// Whether everything that the user wrote is still there: members by their keys, list items at their places.
/// What the policy may change: annotations and labels of its own, and null where something is to be.
fn is_kept(path: &str, before: &Value, after: &Value) -> Result<(), String> {
    match (before, after) {
        (Value::Null, _) => Ok(()),
        _ if before == after => Ok(()),
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .filter(|(key, _)| !key.starts_with(PREFIX))
            .try_for_each(|(key, value)| match after.get(key) {
                Some(after) => is_kept(&format!("{path}/{key}"), value, after),
                None => Err(format!("{path}/{key} is gone")),
            }),
        (Value::Array(before), Value::Array(after)) if before.len() <= after.len() => {
            let mut pairs = before.iter().zip(after).enumerate();
            pairs
                .try_for_each(|(i, (before, after))| is_kept(&format!("{path}/{i}"), before, after))
        }
        // Of the annotation's list the entries are compared; that of ours may be replaced.
        (Value::String(before), Value::String(after))
            if path.ends_with("/hooks.kubevirt.io/hookSidecars") =>
        {
            let entries = |text: &str| match text.trim() {
                "" => Ok(Vec::new()),
                text => serde_json::from_str::<Vec<Value>>(text).map_err(|e| e.to_string()),
            };
            let is_ours =
                |entry: &Value| entry["command"][3] == "vm-feature-manager.io/vbios-injection";
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_vm_gets_a_valid_answer_once_and_for_all(vm in vm(), settings in settings(), old in prop::option::of(vm()), harvester in any::<bool>()) {
        let request = |object: &Value| {
            let request = match &old {
                None => Request::create(object.clone()),
                Some(old) => Request::update(old.clone(), object.clone()),
            };
            if harvester { request.cluster(FakeCluster::of(HARVESTER.clone())) } else { request }
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
            prop_assert_eq!(is_kept("", &vm, &after), Ok(()));
            let again = request(&after).settings(settings).evaluate();
            prop_assert!(again.is_accepted(), "the second time: {}", again.message());
            prop_assert!(!again.is_mutated(), "the second time: {}", again.patch());
        }
    }

    #[test]
    fn any_bytes_get_an_answer(payload in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        any_json().prop_map(|json| json.to_string().into_bytes()),
        any_json().prop_map(|json| json!({"request": json}).to_string().into_bytes()),
    ]) {
        let answer = evaluate(&payload, &FakeCluster::default());
        prop_assert!(!answer.is_accepted());
        prop_assert!(!answer.message().is_empty());
        let answer: Value = serde_json::from_slice(&vm_feature_manager_policy::validate_settings(&payload)).unwrap();
        prop_assert!(answer["valid"].is_boolean());
    }
}
