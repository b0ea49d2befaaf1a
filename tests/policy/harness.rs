//! Builds requests in one line, and reads responses.

use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use slog::{Drain, Logger, OwnedKVList, Record, o};
use vm_feature_manager_policy::cluster::{Cluster, LookupError, Node, PciDevice};
use vm_feature_manager_policy::validate;

pub const PREFIX: &str = "vm-feature-manager.io/";

/// A virtual machine as the Harvester form creates it, with annotations of the policy's (without their prefix).
pub fn vm(annotations: &[(&str, &str)]) -> Value {
    let mut vm = fixture("vm-ui-create.yaml");
    annotate(&mut vm, annotations);
    vm
}

/// The smallest virtual machine, with annotations of the policy's (without their prefix).
pub fn bare_vm(annotations: &[(&str, &str)]) -> Value {
    let mut vm = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "bare", "namespace": "default"},
        "spec": {"template": {"spec": {"domain": {"devices": {}}}}},
    });
    annotate(&mut vm, annotations);
    vm
}

pub fn annotate(vm: &mut Value, annotations: &[(&str, &str)]) {
    for (key, value) in annotations {
        vm["metadata"]["annotations"][format!("{PREFIX}{key}")] = json!(value);
    }
}

pub fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A cluster in memory.
#[derive(Debug, Clone)]
pub struct FakeCluster {
    pub nodes: Result<Vec<Node>, LookupError>,
    pub pci_devices: Result<Vec<PciDevice>, LookupError>,
}

impl Default for FakeCluster {
    fn default() -> Self {
        Self {
            nodes: Err(LookupError::NotGranted),
            pci_devices: Err(LookupError::NotGranted),
        }
    }
}

impl FakeCluster {
    /// A cluster of nodes that have a name and labels.
    pub fn with_nodes(nodes: &[(&str, &[&str])]) -> Self {
        let nodes = nodes.iter().map(|(name, labels)| Node {
            name: (*name).to_owned(),
            labels: labels
                .iter()
                .map(|label| ((*label).to_owned(), "true".to_owned()))
                .collect(),
        });
        Self {
            nodes: Ok(nodes.collect()),
            ..Self::default()
        }
    }
}

impl Cluster for FakeCluster {
    fn node(&self, name: &str) -> Result<Node, LookupError> {
        let nodes = self.nodes()?;
        nodes
            .into_iter()
            .find(|node| node.name == name)
            .ok_or(LookupError::NotFound)
    }

    fn nodes(&self) -> Result<Vec<Node>, LookupError> {
        self.nodes.clone()
    }

    fn pci_devices(&self) -> Result<Vec<PciDevice>, LookupError> {
        self.pci_devices.clone()
    }
}

/// An admission request on its way to the policy.
pub struct Request {
    pub request: Value,
    settings: Value,
    cluster: FakeCluster,
}

impl Request {
    pub fn create(object: Value) -> Self {
        let metadata = &object["metadata"];
        let request = json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
            "resource": {"group": "kubevirt.io", "version": "v1", "resource": "virtualmachines"},
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "operation": "CREATE",
            "userInfo": {"username": "admin", "groups": ["system:authenticated"]},
            "object": object,
        });
        Self {
            request,
            settings: json!({}),
            cluster: FakeCluster::default(),
        }
    }

    pub fn update(old: Value, object: Value) -> Self {
        let mut request = Self::create(object);
        request.request["operation"] = json!("UPDATE");
        request.request["oldObject"] = old;
        request
    }

    pub fn settings(mut self, settings: Value) -> Self {
        self.settings = settings;
        self
    }

    pub fn cluster(mut self, cluster: FakeCluster) -> Self {
        self.cluster = cluster;
        self
    }

    pub fn evaluate(self) -> Answer {
        let payload = json!({"settings": self.settings, "request": self.request}).to_string();
        let mut answer = evaluate(payload.as_bytes(), &self.cluster);
        answer.before = self.request["object"].clone();
        answer
    }
}

/// Gives any bytes to the policy.
pub fn evaluate(payload: &[u8], cluster: &FakeCluster) -> Answer {
    let drain = Lines::default();
    let logs = Arc::clone(&drain.0);
    let log = Logger::root(drain.ignore_res(), o!());
    let bytes = validate(payload, cluster, &log);
    let response = serde_json::from_slice(&bytes).expect("the response is JSON");
    let logs = logs.lock().unwrap().clone();
    Answer {
        response,
        before: Value::Null,
        logs,
    }
}

/// What the policy answered.
pub struct Answer {
    pub response: Value,
    before: Value,
    pub logs: Vec<String>,
}

impl Answer {
    pub fn is_accepted(&self) -> bool {
        self.response["accepted"]
            .as_bool()
            .expect("accepted is a boolean")
    }

    pub fn message(&self) -> &str {
        self.response["message"].as_str().unwrap_or_default()
    }

    pub fn warnings(&self) -> Vec<&str> {
        let warnings = self.response["warnings"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        warnings
            .iter()
            .map(|w| w.as_str().expect("a warning is text"))
            .collect()
    }

    pub fn audit(&self, key: &str) -> &str {
        self.response["audit_annotations"][key]
            .as_str()
            .unwrap_or_default()
    }

    /// The object after the mutation.
    pub fn after(&self) -> Value {
        match &self.response["mutated_object"] {
            Value::Null => self.before.clone(),
            object => object.clone(),
        }
    }

    pub fn is_mutated(&self) -> bool {
        !self.response["mutated_object"].is_null()
    }

    /// The patch that the host makes of the mutation.
    pub fn patch(&self) -> Value {
        serde_json::to_value(json_patch::diff(&self.before, &self.after())).unwrap()
    }

    /// An annotation of the policy's after the mutation.
    pub fn annotation(&self, key: &str) -> Option<String> {
        let after = self.after();
        after["metadata"]["annotations"][format!("{PREFIX}{key}")]
            .as_str()
            .map(str::to_owned)
    }

    /// `spec.template.spec.domain` after the mutation.
    pub fn domain(&self) -> Value {
        self.after()["spec"]["template"]["spec"]["domain"].clone()
    }

    #[track_caller]
    pub fn assert_accepted_unchanged(&self) {
        assert!(self.is_accepted(), "{}", self.response);
        assert!(!self.is_mutated(), "{}", self.patch());
    }

    #[track_caller]
    pub fn assert_denied(&self, parts: &[&str]) {
        assert!(!self.is_accepted(), "{}", self.response);
        assert_eq!(self.response["code"], json!(400));
        assert!(!self.is_mutated());
        for part in parts {
            assert!(
                self.message().contains(part),
                "{part:?} is not in: {}",
                self.message()
            );
        }
    }
}

/// Collects log lines: the message, then the fields in the order of their keys.
#[derive(Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Error> {
        use slog::KV;

        let mut fields = Fields(Map::new());
        record.kv().serialize(record, &mut fields)?;
        values.serialize(record, &mut fields)?;
        let line = format!(
            "{} {} {}",
            record.level(),
            record.msg(),
            Value::Object(fields.0)
        );
        self.0.lock().unwrap().push(line);
        Ok(())
    }
}

struct Fields(Map<String, Value>);

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        self.0.insert(key.to_string(), json!(value.to_string()));
        Ok(())
    }
}
