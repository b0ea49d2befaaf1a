//! What a user can write as a name or a value reaches messages, warnings, annotations and log lines short and visible.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::harness::{Answer, MemoryCluster, PREFIX, Request, features, fixtures};

/// How many characters of a name or value may be shown.
const SHOWN: usize = 128;

/// Characters that hide: of C0, DEL, of C1, and for the direction of the text.
const HIDDEN: &str = "a\u{1b}]0;b\u{7f}\u{9b}31m\u{85}\u{202e}\u{2066}\u{200f}\u{61c}c";

/// The ones among them that are not control characters.
const HIDDEN_ONLY: &[char] = &['\u{202e}', '\u{2066}', '\u{200f}', '\u{61c}'];

/// Examples that have all features among them, on Harvester and without it.
const EXAMPLES: [&str; 5] = ["all", "kubevirt/all", "usb-passthrough", "user-data", "vbios"];

/// The documents of a file, or of all files in a folder.
fn read(path: &Path) -> Vec<Value> {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().flat_map(|entry| read(&entry.unwrap().path())).collect();
    }
    fixtures(&format!("../../{}", path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display()))
}

/// The VM with the text in place of each of its values in turn, and as another key of each of its objects.
fn with_text(vm: &Value, text: &str) -> Vec<Value> {
    let mut pointers = vec![String::new()];
    let mut found = Vec::new();
    while let Some(pointer) = pointers.pop() {
        let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
        let mut other = vm.clone();
        let place = other.pointer_mut(&pointer).unwrap();
        match place {
            Value::Object(members) => {
                pointers.extend(members.keys().map(|key| format!("{pointer}/{}", escape(key))));
                members.insert(text.to_owned(), json!(text));
            }
            Value::Array(items) => {
                pointers.extend((0..items.len()).map(|index| format!("{pointer}/{index}")));
                items.push(json!({"name": text, "deviceName": text, "configMap": {"name": text}, "policy": text}));
            }
            value => *value = json!(text),
        }
        found.push(other);
    }
    found
}

/// The fields that few VMs have, each with the text.
fn with_rare_fields(vm: &Value, text: &str) -> Vec<Value> {
    let expression = |key: &str, values: &[&str]| {
        json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": "In", "values": values}]}]}})
    };
    let fields = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [text]}]}]}});
    let rare = [
        ("/spec/template/spec/nodeSelector", json!({"kubernetes.io/hostname": text})),
        ("/spec/template/spec/nodeSelector", json!({"cpu-vendor.node.kubevirt.io/AMD": text})),
        ("/spec/template/spec/nodeSelector", json!({text: "true"})),
        ("/spec/template/spec/affinity/nodeAffinity", expression(text, &["x"])),
        ("/spec/template/spec/affinity/nodeAffinity", expression("kubernetes.io/hostname", &[text])),
        ("/spec/template/spec/affinity/nodeAffinity", fields),
        ("/spec/template/spec/tolerations", json!([{"key": text, "operator": text, "value": text, "effect": text}])),
        ("/spec/template/spec/architecture", json!(text)),
        ("/spec/template/spec/domain/cpu", json!({"cores": 2, "model": text})),
        ("/spec/template/spec/domain/cpu", json!({"cores": text})),
        ("/spec/template/spec/domain/cpu", json!({"features": [{"name": "svm", "policy": text}]})),
        ("/spec/template/spec/domain/cpu", json!({"features": [{"name": text, "policy": "forbid"}]})),
        ("/spec/template/spec/domain/memory", json!({"guest": text})),
        ("/spec/template/spec/domain/memory", json!({"guest": "3Gi", "hugepages": {"pageSize": text}})),
        ("/spec/template/spec/domain/resources", json!({"requests": {"memory": text}, "limits": {"cpu": text}})),
        ("/spec/template/spec/domain/resources", json!({"limits": {text: "1", "nvidia.com/gpu": text}})),
        ("/spec/template/spec/domain/devices/hostDevices", json!([{"name": text, "deviceName": text}])),
        ("/spec/template/spec/domain/devices/hostDevices", json!([{"name": "a", "deviceName": text, "tag": text}])),
        ("/spec/template/spec/domain/devices/gpus", json!([{"name": text, "deviceName": "nvidia.com/gpu"}])),
        ("/spec/template/spec/domain/devices/gpus", json!([{"name": text, "claimName": text, "requestName": text}])),
        ("/spec/template/spec/domain/devices/disks", json!([{"name": text, "disk": {"pciAddress": "0000:00:02.0"}}])),
        ("/spec/template/spec/domain/devices/interfaces", json!([{"name": text, "pciAddress": "0000:00:02.0"}])),
        ("/spec/template/spec/volumes", json!([{"name": "vbios-rom", "configMap": {"name": text}}])),
        ("/spec/template/spec/volumes", json!([{"name": text, "cloudInitNoCloud": {"userData": text}}])),
        ("/spec/template/spec/volumes", json!([{"name": text, "cloudInitNoCloud": {"secretRef": {"name": text}}}])),
        (
            "/spec/template/spec/volumes",
            json!([{"name": text, "cloudInitNoCloud": {
            "userData": format!("#cloud-config\nx_kubevirt_features:\n  {}: x\n", json!(text))}}]),
        ),
        (
            "/spec/template/metadata/annotations",
            json!({"hooks.kubevirt.io/hookSidecars": json!([
            {"image": text, "command": [text, text, text, "vm-feature-manager.io/vbios-injection", text, text, text]},
            {"image": text, "configMap": {"name": text, "key": text, "hookPath": text}, "pvc": {"name": text}},
        ]).to_string()}),
        ),
        ("/spec/template/metadata/annotations", json!({"hooks.kubevirt.io/hookSidecars": text})),
        ("/spec/template/metadata/annotations", json!({format!("{PREFIX}record"): text})),
        (
            "/spec/template/metadata/annotations",
            json!({format!("{PREFIX}record"): json!({"pci-passthrough": {
            "value": text, "added": [{"hostDevice": text, "resource": text, "beside": [text]}]}}).to_string()}),
        ),
        ("/metadata/labels", json!({format!("{PREFIX}{text}"): text})),
    ];
    rare.into_iter().map(|(pointer, value)| with(vm, pointer, value)).collect()
}

/// The VM with a value at a place. Objects on the way are created.
fn with(vm: &Value, pointer: &str, value: Value) -> Value {
    let mut vm = vm.clone();
    *pointer.split('/').skip(1).fold(&mut vm, |place, key| &mut place[key]) = value;
    vm
}

/// The VM with a directive or option that has the text as its value, each in turn.
fn with_directives(vm: &Value, text: &str) -> Vec<Value> {
    let options = features::options().into_iter().map(|(option, _)| option);
    let keys: Vec<String> = features::names().into_iter().chain(options).map(str::to_owned).collect();
    let keys = keys.into_iter().chain([format!("nested-virt{text}"), format!("{text}-error")]);
    let values = [text.to_owned(), format!("node1/{text}"), json!({"devices": [text], text: []}).to_string()];
    let each = keys.flat_map(|key| values.clone().map(|value| (key.clone(), value)));
    each.map(|(key, value)| {
        let mut vm = vm.clone();
        vm["metadata"]["annotations"][format!("{PREFIX}{key}")] = json!(value);
        vm
    })
    .collect()
}

/// All that people read: message, warnings, audit annotations, log lines, the annotations about features.
fn words(answer: &Answer) -> Vec<String> {
    let texts = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut words = vec![answer.message().to_owned()];
    words.extend(answer.warnings().into_iter().map(str::to_owned));
    words.extend(answer.response["audit_annotations"].as_object().into_iter().flatten().map(|(_, text)| texts(text)));
    words.extend(answer.logs.clone());
    let names: BTreeSet<String> = features::names().iter().map(|name| format!("{PREFIX}{name}-error")).collect();
    let after = answer.after();
    let annotations = after["metadata"]["annotations"].as_object();
    words
        .extend(annotations.into_iter().flatten().filter(|(key, _)| names.contains(*key)).map(|(_, text)| texts(text)));
    words
}

/// What people read if the VM is created, or made of the one before, under several settings.
fn in_every_way(vm: &Value, before: &Value, cluster: &[Value], settings: &Value) -> BTreeSet<String> {
    let lax = features::in_every_section(settings.clone(), "errorHandling", "allow-and-log");
    let mut strict = settings.clone();
    for section in ["pciPassthrough", "usbPassthrough"] {
        strict[section]["requireClaimOwner"] = json!(true);
        strict[section]["allowedDevices"] = json!({"other": ["*"]});
    }
    strict["vbiosInjection"]["requireUserAccess"] = json!(true);
    strict["gpuDevicePlugin"]["allowedIn"] = json!({"other": ["*"]});
    let mut user_data = lax.clone();
    user_data["userData"] = json!({"enabled": true, "readSecrets": true});
    let nothing: &[Value] = &[];
    let ways = [(settings, cluster), (&lax, nothing), (&strict, cluster), (&user_data, cluster)];
    let created = ways.map(|(settings, cluster)| (Request::create(vm.clone()), settings, cluster));
    let updated = (Request::update(before.clone(), vm.clone()), &lax, cluster);
    let answers = created.into_iter().chain([updated]).map(|(request, settings, cluster)| {
        request.settings(settings.clone()).cluster(MemoryCluster::of(cluster.to_vec())).evaluate()
    });
    answers.flat_map(|answer| words(&answer)).collect()
}

/// What people read of all examples with the text in every place.
fn in_every_place(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for example in EXAMPLES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
        let cluster = if folder.join("cluster").exists() { read(&folder.join("cluster")) } else { Vec::new() };
        let settings = folder.join("settings.yaml");
        let settings = if settings.exists() { read(&settings).remove(0) } else { json!({}) };
        let vm = read(&folder.join("vm.yaml")).remove(0);
        for changed in [with_text(&vm, text), with_rare_fields(&vm, text), with_directives(&vm, text)].concat() {
            all.extend(in_every_way(&changed, &vm, &cluster, &settings));
        }
    }
    all
}

#[test]
fn a_long_name_or_value_is_cut_wherever_it_is() {
    let long = "Z".repeat(3600);
    let read = in_every_place(&long);
    let shown = read.iter().filter(|text| text.contains(&long[..SHOWN / 2])).count();
    assert!(shown > 20, "only {shown} texts show the name");
    let too_long: Vec<_> = read.iter().filter(|text| text.contains(&long[..SHOWN + 1])).collect();
    let too_long: BTreeSet<_> = too_long.iter().map(|text| text.replace(&long[..SHOWN], "").replace('Z', "")).collect();
    assert!(too_long.is_empty(), "{}: {too_long:#?}", too_long.len());
}

#[test]
fn a_hidden_character_is_escaped_wherever_it_is() {
    let read = in_every_place(HIDDEN);
    let escaped = read.iter().filter(|text| text.contains(r"\u{202e}")).count();
    assert!(escaped > 20, "only {escaped} texts show the name");
    let is_shown =
        |text: &&String| text.lines().any(|line| line.chars().any(|c| c.is_control() || HIDDEN_ONLY.contains(&c)));
    let hidden: BTreeSet<_> = read.iter().filter(is_shown).collect();
    assert!(hidden.is_empty(), "{}: {hidden:#?}", hidden.len());
}
