//! Builds requests in one line, and reads responses.

use std::cell::RefCell;
use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use slog::{Drain, Logger, OwnedKVList, Record, o};
use vm_feature_manager_policy::cluster::{Account, Cluster, ClusterError, Kind};
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
    fixtures(name).remove(0)
}

/// All documents of a file.
pub fn fixtures(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The objects of the example with a ROM.
pub fn vbios_objects() -> Vec<Value> {
    let files = ["cluster.yaml", "rom.yaml"];
    files.iter().flat_map(|name| fixtures(&format!("../../examples/vbios/cluster/{name}"))).collect()
}

/// The accounts as which policy-server runs where Kubewarden's own charts install it, and where Rancher does.
pub const KUBEWARDEN: &str = "system:serviceaccount:kubewarden:policy-server";
pub const RANCHER: &str = "system:serviceaccount:cattle-kubewarden-system:policy-server";

/// A cluster in memory, whose policy-server runs as one account and which grants rights to another or the same; one that
/// was not given anything grants nothing.
pub struct FakeCluster {
    objects: Option<Vec<Value>>,
    errors: Vec<(Kind, ClusterError)>,
    cannot: Vec<(Kind, &'static str)>,
    account: &'static str,
    granted: &'static str,
    /// What was asked, as `get Node a` or `list Node`.
    pub lookups: RefCell<Vec<String>>,
    /// What was asked of `can_i`, as `account verb resource`.
    pub reviews: RefCell<Vec<String>>,
}

impl Default for FakeCluster {
    fn default() -> Self {
        Self {
            objects: None,
            errors: Vec::new(),
            cannot: Vec::new(),
            account: KUBEWARDEN,
            granted: KUBEWARDEN,
            lookups: RefCell::default(),
            reviews: RefCell::default(),
        }
    }
}

impl FakeCluster {
    /// A cluster with these objects, all of which may be looked up.
    pub fn of(objects: Vec<Value>) -> Self {
        Self { objects: Some(objects), ..Self::default() }
    }

    /// A cluster of nodes that have a name and labels.
    pub fn with_nodes(nodes: &[(&str, &[&str])]) -> Self {
        let node = |(name, labels): &(&str, &[&str])| {
            let mut labels: Map<_, _> = labels.iter().map(|label| ((*label).to_owned(), json!("true"))).collect();
            labels.insert("kubernetes.io/hostname".to_owned(), json!(name));
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            })
        };
        Self::of(nodes.iter().map(node).collect())
    }

    /// Every lookup of the kind fails.
    pub fn failing(mut self, kind: Kind, error: ClusterError) -> Self {
        self.errors.push((kind, error));
        self
    }

    /// policy-server runs as one account, and another or the same has the rights.
    pub fn run_as(mut self, account: &'static str, granted: &'static str) -> Self {
        (self.account, self.granted) = (account, granted);
        self
    }

    /// The verb is not granted for the kind.
    pub fn without(mut self, verb: &'static str, kind: Kind) -> Self {
        self.cannot.push((kind, verb));
        self
    }

    pub fn object(&mut self, kind: &str, name: &str) -> &mut Value {
        let objects = self.objects.iter_mut().flatten();
        let mut found = objects.filter(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn may(&self, account: &str, verb: &'static str, kind: Kind) -> bool {
        account == self.granted && !self.cannot.contains(&(kind, verb))
    }

    fn of_kind(&self, kind: Kind) -> Result<Vec<&Value>, ClusterError> {
        let (_, name) = kind.api_version_and_kind();
        if let Some((_, error)) = self.errors.iter().find(|(k, _)| *k == kind) {
            return Err(error.clone());
        }
        let objects = self.objects.as_ref().ok_or(ClusterError::NotDeclared)?;
        Ok(objects.iter().filter(|object| object["kind"] == name).collect())
    }
}

impl Cluster for FakeCluster {
    fn get(&self, kind: Kind, name: &str, namespace: Option<&str>) -> Result<String, ClusterError> {
        self.lookups.borrow_mut().push(format!("get {kind:?} {name}"));
        let objects = self.of_kind(kind)?;
        if kind == Kind::SubjectAccessReview || !self.may(self.account, "get", kind) {
            return Err(ClusterError::Forbidden(Account::of_user(self.account)));
        }
        let is_it = |object: &&&Value| {
            let metadata = &object["metadata"];
            metadata["name"] == name && metadata["namespace"].as_str() == namespace
        };
        objects.iter().find(is_it).map(|o| o.to_string()).ok_or(ClusterError::NotFound)
    }

    fn list(&self, kind: Kind) -> Result<String, ClusterError> {
        let may = |verb| self.may(self.account, verb, kind);
        assert!(may("list") && may("watch"), "this list would never return");
        self.lookups.borrow_mut().push(format!("list {kind:?}"));
        Ok(json!({"metadata": {}, "items": self.of_kind(kind)?}).to_string())
    }

    fn can_i(&self, account: &Account, verb: &'static str, kind: Kind) -> Result<String, ClusterError> {
        let (group, resource) = kind.group_and_resource();
        let review = format!("{} {verb} {resource}.{group}", account.as_str());
        self.reviews.borrow_mut().push(review);
        let granted = self.objects.is_some() && self.may(account.as_str(), verb, kind);
        Ok(json!({"allowed": granted, "reason": "a test"}).to_string())
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
        Self { request, settings: json!({}), cluster: FakeCluster::default() }
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
        answer.lookups = self.cluster.lookups.take();
        answer.reviews = self.cluster.reviews.take();
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
    Answer { response, before: Value::Null, logs, lookups: Vec::new(), reviews: Vec::new() }
}

/// What the policy answered.
pub struct Answer {
    pub response: Value,
    before: Value,
    pub logs: Vec<String>,
    pub lookups: Vec<String>,
    pub reviews: Vec<String>,
}

impl Answer {
    pub fn is_accepted(&self) -> bool {
        self.response["accepted"].as_bool().expect("accepted is a boolean")
    }

    pub fn message(&self) -> &str {
        self.response["message"].as_str().unwrap_or_default()
    }

    pub fn warnings(&self) -> Vec<&str> {
        let warnings = self.response["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
        warnings.iter().map(|w| w.as_str().expect("a warning is text")).collect()
    }

    pub fn audit(&self, key: &str) -> &str {
        self.response["audit_annotations"][key].as_str().unwrap_or_default()
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
        after["metadata"]["annotations"][format!("{PREFIX}{key}")].as_str().map(str::to_owned)
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
            assert!(self.message().contains(part), "{part:?} is not in: {}", self.message());
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
        let line = format!("{} {} {}", record.level(), record.msg(), Value::Object(fields.0));
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
