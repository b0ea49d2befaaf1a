//! The embedded Kubewarden host.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::AdmissionResponse;
use crate::cluster::{CallbackResult, Cluster};
use crate::wapc::{Cost, Guest, Instance};

/// A compiled module, and the cluster that it can look things up in.
#[derive(Clone)]
pub struct Host {
    guest: Guest,
    cluster: Arc<Cluster>,
}

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The file cannot be read.
    #[error("{}: {error}; `make policy.wasm` builds the module", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// It is not a module, or it needs something that Kubewarden does not offer.
    #[error(
        "{}: no Kubewarden module: it is not WebAssembly, or needs something that Kubewarden does not offer", .path.display()
    )]
    Compile {
        /// The file.
        path: PathBuf,
    },
    /// The guest failed.
    #[error("the module failed: {0}")]
    Call(String),
}

/// What the guest did during a call, in order, except for its answer.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    /// Log lines and lookups.
    pub events: Vec<Event>,
}

/// A call to the host.
#[derive(Debug, Clone)]
pub enum Event {
    /// A log line, as the guest sent it.
    Log(Value),
    /// An operation of the host capability `kubernetes`.
    Lookup {
        /// Its name.
        operation: String,
        /// Its payload.
        request: Value,
        /// What the host answered, as JSON, or its error.
        answer: Result<Vec<u8>, String>,
    },
}

impl Activity {
    /// The log lines.
    pub fn logs(&self) -> Vec<&Value> {
        let lines = self.events.iter().filter_map(|event| match event {
            Event::Log(line) => Some(line),
            Event::Lookup { .. } => None,
        });
        lines.collect()
    }

    /// The operations of the host capability `kubernetes` and their payloads.
    pub fn lookups(&self) -> Vec<(&str, &Value)> {
        let lookups = self.events.iter().filter_map(|event| match event {
            Event::Lookup { operation, request, .. } => Some((operation.as_str(), request)),
            Event::Log(_) => None,
        });
        lookups.collect()
    }
}

/// The result of a request.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The answer to the API server.
    pub response: AdmissionResponse,
    /// What the guest did meanwhile.
    pub activity: Activity,
    /// How long the instance took, from its creation to its answer.
    pub duration: Duration,
}

/// The guest's answer to `validate_settings`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SettingsValidation {
    /// Whether the settings can be used.
    pub valid: bool,
    /// Why they cannot be used.
    pub message: Option<String>,
}

impl Host {
    /// Compiles a module, or loads it from a folder of compiled modules, if there is one. A module that is not in the
    /// folder is added.
    ///
    /// # Errors
    /// [`HostError`] if the file is not a Kubewarden module.
    pub fn load(path: &Path, cache: Option<&Path>, cluster: Cluster) -> Result<Self, HostError> {
        let bytes = std::fs::read(path).map_err(|error| HostError::Read { path: path.to_owned(), error })?;
        Self::from_bytes(&bytes, cache, cluster).map_err(|error| match error {
            HostError::Compile { .. } => HostError::Compile { path: path.to_owned() },
            other => other,
        })
    }

    /// Like [`Host::load`], for a module that is already in memory.
    ///
    /// # Errors
    /// [`HostError::Compile`] if the bytes are not a Kubewarden module.
    pub fn from_bytes(bytes: &[u8], cache: Option<&Path>, cluster: Cluster) -> Result<Self, HostError> {
        let guest = Guest::load(bytes, cache).map_err(|_| HostError::Compile { path: PathBuf::new() })?;
        Ok(Self { guest, cluster: Arc::new(cluster) })
    }

    /// The same module, with another cluster.
    pub fn with_cluster(&self, cluster: Cluster) -> Self {
        Self { guest: self.guest.clone(), cluster: Arc::new(cluster) }
    }

    /// Calls a function of the guest in a fresh instance.
    ///
    /// # Errors
    /// [`HostError::Call`] if the guest traps or answers with an error.
    pub fn call(&self, function: &str, payload: &[u8]) -> Result<(Vec<u8>, Activity), HostError> {
        let (mut instance, activity) = self.instance()?;
        let answer = instance.call(function, payload)?;
        let activity = activity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((answer, activity))
    }

    /// Measures the cost of a call in a fresh instance.
    ///
    /// # Errors
    /// [`HostError::Call`] if the guest traps or answers with an error.
    pub fn measure(&self, function: &str, payload: &[u8]) -> Result<Cost, HostError> {
        let (mut instance, _) = self.instance()?;
        instance.call(function, payload)?;
        Ok(instance.cost())
    }

    /// A fresh instance of the module, and the log of what it does.
    ///
    /// # Errors
    /// [`HostError::Call`] if it cannot be created.
    pub fn instance(&self) -> Result<(Instance, Arc<Mutex<Activity>>), HostError> {
        let activity = Arc::new(Mutex::new(Activity::default()));
        let callback = {
            let activity = Arc::clone(&activity);
            let cluster = Arc::clone(&self.cluster);
            move |binding: &str, namespace: &str, operation: &str, payload: &[u8]| {
                host_callback(&cluster, &activity, binding, namespace, operation, payload)
            }
        };
        Ok((self.guest.instance(Box::new(callback))?, activity))
    }

    /// Asks the guest whether it can use the settings.
    ///
    /// # Errors
    /// [`HostError::Call`] if the guest fails.
    pub fn validate_settings(&self, settings: &Value) -> Result<SettingsValidation, HostError> {
        let (answer, _) = self.call("validate_settings", settings.to_string().as_bytes())?;
        serde_json::from_slice(&answer).map_err(|e| HostError::Call(e.to_string()))
    }

    /// Evaluates an admission request.
    pub fn validate(&self, settings: &Value, request: &Value) -> Evaluation {
        let payload = json!({"request": request, "settings": settings}).to_string();
        let start = Instant::now();
        let result = self.call("validate", payload.as_bytes());
        let duration = start.elapsed();
        let (response, activity) = match result {
            Ok((answer, activity)) => (AdmissionResponse::from_guest(request, &answer), activity),
            Err(e) => {
                let response = AdmissionResponse::reject_internal_server_error(request, e);
                (response, Activity::default())
            }
        };
        Evaluation { response, activity, duration }
    }
}

impl From<wasmtime::Error> for HostError {
    /// Uses the innermost error: the trap, not the place where it happened.
    fn from(error: wasmtime::Error) -> Self {
        Self::Call(error.root_cause().to_string())
    }
}

fn host_callback(
    cluster: &Cluster,
    activity: &Mutex<Activity>,
    binding: &str,
    namespace: &str,
    operation: &str,
    payload: &[u8],
) -> CallbackResult {
    let read = |bytes| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let record = |event| activity.lock().unwrap_or_else(PoisonError::into_inner).events.push(event);
    match (binding, namespace, operation) {
        ("kubewarden", "tracing", "log") => {
            record(Event::Log(read(payload)));
            Ok(Vec::new())
        }
        ("kubewarden", "kubernetes", _) => {
            let answer = cluster.answer(operation, payload);
            record(Event::Lookup {
                operation: operation.to_owned(),
                request: read(payload),
                answer: answer.as_ref().map(Vec::clone).map_err(ToString::to_string),
            });
            answer
        }
        ("kubewarden", "tracing", _) => Err(format!("unknown operation: {operation}").into()),
        ("kubewarden", _, _) => Err(format!("unknown namespace: {namespace}").into()),
        _ => Err(format!("unknown binding: {binding}").into()),
    }
}
