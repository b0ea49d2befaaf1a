//! The embedded Kubewarden host.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use wapc::WapcHost;
use wasmtime_provider::{WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

use crate::admission::AdmissionResponse;
use crate::cluster::{CallbackResult, Cluster};

/// A compiled module, and the cluster that it may ask.
pub struct Host {
    module: WasmtimeEngineProviderPre,
    cluster: Arc<Cluster>,
}

/// A module that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The file cannot be read.
    #[error("{}: {error}; `make policy.wasm` builds the module", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// It is no module, or one that needs what Kubewarden does not offer.
    #[error("{}: no Kubewarden module: {message}", .path.display())]
    Compile {
        /// The file.
        path: PathBuf,
        /// The first line of what the engine says.
        message: String,
    },
    /// The guest failed.
    #[error("the module failed: {0}")]
    Call(String),
}

/// What the guest did during a call, beside answering.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    /// The log lines, as the guest sent them.
    pub logs: Vec<Value>,
    /// The operations of the host capability `kubernetes` and their payloads.
    pub lookups: Vec<(String, Value)>,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The answer to the API server.
    pub response: AdmissionResponse,
    /// What the guest did meanwhile.
    pub activity: Activity,
    /// How long the instance took, from its making to its answer.
    pub duration: Duration,
}

/// The guest's answer to `validate_settings`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SettingsValidation {
    /// Whether the settings can be used.
    pub valid: bool,
    /// Why not.
    pub message: Option<String>,
}

impl Host {
    /// Compiles a module.
    ///
    /// # Errors
    /// [`HostError`] where the file is no Kubewarden module.
    pub fn load(path: &Path, cluster: Cluster) -> Result<Self, HostError> {
        let bytes = std::fs::read(path).map_err(|error| HostError::Read { path: path.to_owned(), error })?;
        let module = WasmtimeEngineProviderBuilder::new().module_bytes(&bytes).build_pre().map_err(|e| {
            let message = e.to_string().lines().next().unwrap_or_default().to_owned();
            HostError::Compile { path: path.to_owned(), message }
        })?;
        Ok(Self { module, cluster: Arc::new(cluster) })
    }

    /// The same module in another cluster.
    pub fn with_cluster(&self, cluster: Cluster) -> Self {
        Self { module: self.module.clone(), cluster: Arc::new(cluster) }
    }

    /// Calls a function of the guest in a fresh instance.
    ///
    /// # Errors
    /// [`HostError::Call`] where the guest traps or answers with an error.
    pub fn call(&self, function: &str, payload: &[u8]) -> Result<(Vec<u8>, Activity), HostError> {
        let instance = self.instance()?;
        let answer = instance.call(function, payload)?;
        let activity = instance.activity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((answer, activity))
    }

    /// A fresh instance of the module.
    ///
    /// # Errors
    /// [`HostError::Call`] where it cannot be made.
    pub fn instance(&self) -> Result<Instance, HostError> {
        let activity = Arc::new(Mutex::new(Activity::default()));
        let callback = {
            let activity = Arc::clone(&activity);
            let cluster = Arc::clone(&self.cluster);
            move |_id: u64, binding: &str, namespace: &str, operation: &str, payload: &[u8]| {
                host_callback(&cluster, &activity, binding, namespace, operation, payload)
            }
        };
        let failed = |e: &dyn std::fmt::Display| HostError::Call(e.to_string());
        let instance = self.module.rehydrate(None).map_err(|e| failed(&e))?;
        let guest = WapcHost::new(Box::new(instance), Some(Box::new(callback))).map_err(|e| failed(&e))?;
        Ok(Instance { guest, activity })
    }

    /// Asks the guest whether it can use the settings.
    ///
    /// # Errors
    /// [`HostError::Call`] where the guest fails.
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

/// An instance of a module. policy-server makes one for each request.
pub struct Instance {
    guest: WapcHost,
    activity: Arc<Mutex<Activity>>,
}

impl Instance {
    /// Calls a function of the guest.
    ///
    /// # Errors
    /// [`HostError::Call`] where the guest traps or answers with an error.
    pub fn call(&self, function: &str, payload: &[u8]) -> Result<Vec<u8>, HostError> {
        self.guest.call(function, payload).map_err(|e| HostError::Call(e.to_string()))
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
    let read = || serde_json::from_slice(payload).unwrap_or(Value::Null);
    let record = |note: &dyn Fn(&mut Activity)| {
        note(&mut activity.lock().unwrap_or_else(PoisonError::into_inner));
    };
    match (binding, namespace, operation) {
        ("kubewarden", "tracing", "log") => {
            record(&|activity| activity.logs.push(read()));
            Ok(Vec::new())
        }
        ("kubewarden", "kubernetes", _) => {
            record(&|activity| activity.lookups.push((operation.to_owned(), read())));
            cluster.answer(operation, payload)
        }
        ("kubewarden", "tracing", _) => Err(format!("unknown operation: {operation}").into()),
        ("kubewarden", _, _) => Err(format!("unknown namespace: {namespace}").into()),
        _ => Err(format!("unknown binding: {binding}").into()),
    }
}
