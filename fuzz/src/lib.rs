//! What must hold for every input. The fuzz targets and the short run among the tests call the same functions. Each
//! takes the bytes of one input, and panics if something does not hold.

mod cluster;
pub mod grown;
pub mod seeds;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use slog::{Logger, o};

pub use cluster::objects;
use cluster::with_cluster;
use vm_feature_manager_testkit::log::Lines;
use vm_feature_manager_testkit::{PREFIX, RECORD, features};

/// Checks the policy with one input.
pub type Check = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Check); 4] = [
    ("validate", validate),
    ("validate_settings", validate_settings),
    ("directives", directives),
    ("user_data", user_data),
];

/// The result of a request: the answer, and everything in it and in the log that people may read.
struct Answer {
    response: Value,
    /// Message, warnings, audit annotations and log lines.
    words: String,
}

impl Answer {
    /// Evaluates a payload, and checks the form of the answer.
    fn to(payload: &[u8]) -> Self {
        let lines = Lines::default();
        let log = Logger::root(lines.clone(), o!());
        let bytes = with_cluster(|cluster| vm_feature_manager_policy::validate(payload, cluster, &log));
        let mut response: Value = serde_json::from_slice(&bytes).expect("the answer is JSON");
        // The host treats null as absent.
        response.as_object_mut().expect("the answer is an object").retain(|_, value| !value.is_null());
        let object = response.as_object_mut().and_then(|members| members.remove("mutated_object"));
        let mut words = format!("{response}\n{}", lines.lines().join("\n"));
        if let Some(object) = object {
            let annotations = object["metadata"]["annotations"].as_object();
            let ours = annotations.into_iter().flatten().filter(|(key, _)| is_record(key));
            ours.for_each(|(key, value)| words.push_str(&format!("{key}: {value}\n")));
            response["mutated_object"] = object;
        }
        let answer = Self { words, response };
        answer.check();
        answer
    }

    fn is_accepted(&self) -> bool {
        self.response["accepted"] == true
    }

    fn message(&self) -> &str {
        self.response["message"].as_str().unwrap_or_default()
    }

    fn mutated(&self) -> Option<&Value> {
        self.response.get("mutated_object")
    }

    fn check(&self) {
        if self.is_accepted() {
            assert_eq!(self.response.get("message"), None);
        } else {
            assert_eq!(self.response["accepted"], false);
            assert!(!self.message().is_empty(), "a denial without a reason");
            assert!([400, 500].contains(&self.response["code"].as_u64().unwrap_or_default()));
            assert_eq!(self.mutated(), None, "denied, and mutated");
        }
        let is_of_text = |c: char| c == '\n' || !c.is_control();
        assert!(self.message().chars().all(is_of_text), "{}", self.message());
        assert!(self.message().len() < 64 << 10);
        for warning in self.response["warnings"].as_array().into_iter().flatten() {
            let warning = warning.as_str().expect("warnings are text");
            let is_short = warning.len() <= 256;
            assert!(is_short && warning.chars().all(|c| (' '..='~').contains(&c)), "{warning}");
        }
    }
}

/// The only messages about a payload that cannot be read, without their numbers. They show nothing of the payload.
const UNREADABLE: [&str; 12] = [
    "it is not UTF-",
    "it is not valid JSON, nested too deeply, or has a number out of range at line , column ",
    "it ends too early at line , column ",
    "its kind.group is missing, or is not as an API server writes it",
    "its kind.kind is missing, or is not as an API server writes it",
    "its name is missing, or is not as an API server writes it",
    "its namespace is missing, or is not as an API server writes it",
    "its operation is missing, or is not as an API server writes it",
    "its subResource is missing, or is not as an API server writes it",
    "its uid is missing, or is not as an API server writes it",
    "its userInfo.groups is missing, or is not as an API server writes it",
    "its userInfo.username is missing, or is not as an API server writes it",
];

/// Any payload of `validate`.
pub fn validate(data: &[u8]) {
    let answer = Answer::to(data);
    if let Some((_, why)) = answer.message().split_once("the admission request cannot be read: ") {
        let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
        assert!(UNREADABLE.contains(&why.as_str()), "{why}");
    }
    let Ok(payload) = serde_json::from_slice::<Value>(data) else { return };
    check_format(&payload);
    let request = &payload["request"];
    let Some(mutated) = answer.mutated() else { return };
    let object = &request["object"];
    let annotations = [&object["metadata"]["annotations"], &object["spec"]["template"]["metadata"]["annotations"]];
    let is_recorded = annotations.into_iter().filter_map(Value::as_object).flatten().any(|(key, _)| is_record(key));
    if request["operation"] == "CREATE" && !is_recorded {
        check_kept("", &request["object"], mutated);
    }
    let mut again = payload.clone();
    again["request"]["object"] = mutated.clone();
    check_done(&Answer::to(again.to_string().as_bytes()));
}

/// Any payload of `validate_settings`. If the policy says that the settings are valid, it can evaluate a request with them.
pub fn validate_settings(data: &[u8]) {
    let bytes = vm_feature_manager_policy::validate_settings(data);
    let response: Value = serde_json::from_slice(&bytes).expect("the answer is JSON");
    let is_valid = response["valid"].as_bool().expect("valid is a boolean");
    let message = response["message"].as_str().unwrap_or_default();
    assert_eq!(is_valid, message.is_empty(), "{response}");
    assert!(message.len() < 32 << 10);
    let is_of_text = |c: char| c == '\n' || !c.is_control();
    assert!(message.chars().all(is_of_text), "{message}");
    if let Ok(settings) = serde_json::from_slice::<Value>(data) {
        let vm = asking(&VM, &[("nested-virt", "enabled"), ("cpu-vendor", "amd")]);
        let answer = Answer::to(payload("CREATE", &vm, None, &settings).as_bytes());
        assert_eq!(answer.response["code"] == 500, !is_valid, "{settings} {}", answer.response);
    }
}

/// The names of all directives and options. The target `directives` identifies them by their positions here.
pub fn keys() -> Vec<&'static str> {
    features::names().into_iter().chain(features::options().into_iter().map(|(option, _)| option)).collect()
}

/// The directives that a directive or option needs as well, with values that are applied in the cluster of the targets.
fn beside<'v>(key: &str) -> Vec<(&'v str, &'v str)> {
    const PCI: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/0000:01:00.0"]}"#);
    match key {
        // The nodes have CPUs of two vendors, and the device says which one it is.
        "nested-virt" | "usb-passthrough" => vec![PCI],
        // Without other devices, the ROM is for the device that the VirtualMachine has.
        "vbios-device" => vec![PCI, ("vbios-injection", "igpu-rom")],
        "numa" => vec![("cpu-pinning", "enabled"), ("hugepages", "2Mi")],
        _ => match features::options().into_iter().find(|(option, _)| *option == key) {
            Some((_, feature)) => {
                let directive = features::directives().into_iter().filter(|(name, _)| *name == feature);
                beside(feature).into_iter().chain(directive).collect()
            }
            None => Vec::new(),
        },
    }
}

/// Whether a directive with this value, or that of an option, is applied in the cluster of the targets.
pub fn is_applied(key: &str, value: &str) -> bool {
    let mut directives = beside(key);
    directives.push((key, value));
    let feature =
        features::options().into_iter().find(|(option, _)| *option == key).map_or(key, |(_, feature)| feature);
    let answer = Answer::to(payload("CREATE", &asking(&VM, &directives), None, &json!({})).as_bytes());
    let applied = answer.response["audit_annotations"]["applied"].as_str().unwrap_or_default();
    applied.split(',').any(|name| name == feature)
}

/// The first byte chooses the directive or option, the second the settings. The rest is the value.
pub fn directives(data: &[u8]) {
    let Some((text, [key, variant])) = split(data) else { return };
    let keys = keys();
    let key = keys[usize::from(key) % keys.len()];
    let mut directives = beside(key);
    directives.push((key, text));
    let mut settings = error_handling(variant);
    settings["pciPassthrough"]["deviceNames"] = json!(if variant & 4 == 0 { "auto" } else { "address" });
    settings["usbPassthrough"]["deviceNames"] = json!(if variant & 4 == 0 { "auto" } else { "permitted" });
    settings["vbiosInjection"]["romDelivery"] = json!(if variant & 8 == 0 { "sidecar" } else { "volume" });
    let vm = asking(&VM, &directives);
    check_features(&vm, &settings);
}

/// The settings in which all features handle errors in the same way.
fn error_handling(variant: u8) -> Value {
    let mode = ["reject", "allow-and-log", "strip-label"][usize::from(variant) % 3];
    features::in_every_section(json!({}), "errorHandling", mode)
}

/// Text that must not appear in any answer.
const SECRET: &str = "correct-horse-battery";

/// The first byte chooses where the user data is, the second the settings. The rest is part of the user data.
pub fn user_data(data: &[u8]) {
    let Some((text, [place, variant])) = split(data) else { return };
    let document = format!("#cloud-config\npassword: {SECRET}\n{text}");
    let source = match place % 4 {
        0 => json!({"userData": document}),
        1 => json!({"userDataBase64": cluster::base64(document.as_bytes())}),
        2 => json!({"userData": text}),
        _ => json!({"userDataBase64": text}),
    };
    let mut vm = VM.clone();
    let volumes = vm["spec"]["template"]["spec"]["volumes"].as_array_mut().expect("a list");
    volumes.push(json!({"name": "user-data", "cloudInitNoCloud": source}));
    let mut settings = error_handling(variant);
    settings["userData"] = json!({"enabled": true, "readSecrets": variant & 4 != 0});
    check_features(&vm, &settings);
}

/// A VirtualMachine is created, then updated without a change to its directives, and then without its directives.
fn check_features(vm: &Value, settings: &Value) {
    let create = Answer::to(payload("CREATE", vm, None, settings).as_bytes());
    assert!(!create.words.contains(SECRET), "{}", create.words);
    assert_ne!(create.response["code"], 500, "{}", create.response);
    let Some(mutated) = create.mutated() else { return };
    assert_ne!(mutated, vm, "a mutation that changes nothing");
    check_kept("", vm, mutated);
    check_done(&Answer::to(payload("CREATE", mutated, None, settings).as_bytes()));
    let mut touched = mutated.clone();
    touched["spec"]["template"]["spec"]["domain"]["cpu"]["maxSockets"] = json!(8);
    check_done(&Answer::to(payload("UPDATE", &touched, Some(mutated), settings).as_bytes()));

    // Without the directives, the VirtualMachine is again as the user wrote it.
    let mut without = mutated.clone();
    let asks = |key: &str| key.starts_with(PREFIX) && !is_record(key);
    let ours = |object: &mut Value, key: &str, is: &dyn Fn(&str) -> bool| {
        if let Some(members) = object["metadata"][key].as_object_mut() {
            members.retain(|key, _| !is(key));
        }
    };
    ours(&mut without, "annotations", &asks);
    let volumes = without["spec"]["template"]["spec"]["volumes"].as_array_mut();
    volumes.expect("a list").retain(|volume| volume["name"] != "user-data");
    let update = Answer::to(payload("UPDATE", &without, Some(mutated), settings).as_bytes());
    assert!(update.is_accepted(), "{}", update.response);
    assert!(!update.words.contains(SECRET), "{}", update.words);
    let mut left = update.mutated().unwrap_or(&without).clone();
    ours(&mut left, "annotations", &|key| key.starts_with(PREFIX));
    assert_eq!(left, *VM, "what is left when the directive goes");
}

fn is_record(key: &str) -> bool {
    key == RECORD || key.starts_with(PREFIX) && ["-applied", "-error"].iter().any(|s| key.ends_with(s))
}

/// Whitespace in the payload makes no difference.
fn check_format(payload: &Value) {
    let compact = Answer::to(payload.to_string().as_bytes());
    let text = serde_json::to_string_pretty(payload).expect("JSON");
    let pretty = Answer::to(text.as_bytes());
    assert_eq!(without_places(compact.response), without_places(pretty.response));
}

/// The answer without the lines and columns in its message.
fn without_places(mut answer: Value) -> Value {
    if let Some(Value::String(message)) = answer.get_mut("message") {
        message.retain(|c| !c.is_ascii_digit());
    }
    answer
}

/// The policy has nothing left to do.
fn check_done(answer: &Answer) {
    assert!(answer.is_accepted(), "the second time: {}", answer.response);
    assert_eq!(answer.mutated(), None, "the second time: {}", answer.response);
}

/// Checks that everything that the user wrote is still there: members by key, and items in the same order.
fn check_kept(path: &str, before: &Value, after: &Value) {
    match (before, after) {
        (Value::Null, _) => {}
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before.iter().filter(|(key, _)| !key.starts_with(PREFIX)) {
                let after = after.get(key).unwrap_or(&Value::Null);
                check_kept(&format!("{path}/{key}"), value, after);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert!(before.len() <= after.len(), "{path} is shorter");
            for (before, after) in before.iter().zip(after) {
                check_kept(path, before, after);
            }
        }
        (Value::String(_), Value::String(_)) if path.ends_with("/hooks.kubevirt.io/hookSidecars") => {}
        // If the VirtualMachine is valid, the parts that the policy rewrites contain only integers. Other numbers are
        // floating-point.
        (Value::Number(before), Value::Number(after)) if before.is_f64() && after.is_f64() => {
            let [before, after] = [before, after].map(|number| number.as_f64().unwrap_or_default());
            assert!((before - after).abs() <= before.abs() * 4.0 * f64::EPSILON, "{path}");
        }
        _ => assert_eq!(before, after, "{path}"),
    }
}

fn split(data: &[u8]) -> Option<(&str, [u8; 2])> {
    let (head, text) = data.split_first_chunk()?;
    Some((std::str::from_utf8(text).ok()?, *head))
}

/// A VirtualMachine from Harvester's form.
static VM: LazyLock<Value> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("../../tests/data/vm-ui-create.yaml")).expect("YAML"));

fn asking(vm: &Value, directives: &[(&str, &str)]) -> Value {
    let mut vm = vm.clone();
    let mut annotations = vm["metadata"]["annotations"].as_object().cloned().unwrap_or_else(Map::new);
    for (key, value) in directives {
        annotations.insert(format!("{PREFIX}{key}"), json!(value));
    }
    vm["metadata"]["annotations"] = Value::Object(annotations);
    vm
}

/// A payload of `validate`, in the host's format.
fn payload(operation: &str, object: &Value, old: Option<&Value>, settings: &Value) -> String {
    let kind = json!({"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"});
    let request = json!({
        "uid": "1299d386-525b-4032-98ae-1949f69f9cfc",
        "kind": kind,
        "operation": operation,
        "name": "vm",
        "namespace": "default",
        "object": object,
        "oldObject": old,
    });
    json!({"request": request, "settings": settings}).to_string()
}
