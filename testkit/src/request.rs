//! Builds requests in one line, and reads the answers.

use serde_json::{Value, json};
use slog::{Logger, o};
use vm_feature_manager_policy::validate;

use crate::PREFIX;
use crate::cluster::MemoryCluster;
use crate::log::Lines;

/// An admission request for the policy.
pub struct Request {
    pub request: Value,
    settings: Value,
    cluster: MemoryCluster,
}

impl Request {
    pub fn create(object: Value) -> Self {
        let metadata = &object["metadata"];
        let text = |key: &str| metadata[key].as_str().unwrap_or_default();
        let request = json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
            "resource": {"group": "kubevirt.io", "version": "v1", "resource": "virtualmachines"},
            "name": text("name"),
            "namespace": text("namespace"),
            "operation": "CREATE",
            "userInfo": {"username": "admin", "groups": ["system:authenticated"]},
            "object": object,
        });
        Self { request, settings: json!({}), cluster: MemoryCluster::default() }
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

    pub fn cluster(mut self, cluster: MemoryCluster) -> Self {
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

/// Evaluates any bytes as a payload.
pub fn evaluate(payload: &[u8], cluster: &MemoryCluster) -> Answer {
    let drain = Lines::default();
    let log = Logger::root(drain.clone(), o!());
    let bytes = validate(payload, cluster, &log);
    let mut response: Value = serde_json::from_slice(&bytes).expect("the response is JSON");
    // The host treats null as absent.
    response.as_object_mut().expect("the response is an object").retain(|_, value| !value.is_null());
    let logs = drain.lines();
    Answer { response, before: Value::Null, logs, lookups: Vec::new(), reviews: Vec::new() }
}

/// The policy's answer.
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

    /// The patch that the host makes from the mutation.
    pub fn patch(&self) -> Value {
        serde_json::to_value(json_patch::diff(&self.before, &self.after())).unwrap()
    }

    /// An annotation of the policy after the mutation.
    pub fn annotation(&self, key: &str) -> Option<String> {
        let after = self.after();
        after["metadata"]["annotations"][format!("{PREFIX}{key}")].as_str().map(str::to_owned)
    }

    /// What the record lists as added by a feature after the mutation; `None` if it lists nothing.
    pub fn added(&self, feature: &str) -> Option<String> {
        let part = crate::record(&self.after(), feature)?;
        Some(part["added"].to_string()).filter(|added| added != "[]")
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
