//! A Kubernetes cluster made of files, or of objects that were read from a real one. It answers calls of Kubewarden's host
//! capability `kubernetes`.

mod answers;
mod objects;

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::yaml::{self, FileError};
use objects::Objects;
pub(crate) use objects::pruned;

/// What a callback returns to the guest: an answer, or an error text.
pub type CallbackResult = Result<Vec<u8>, Box<dyn Error + Send + Sync>>;

/// The account of policy-server if it is installed with Kubewarden's own charts.
pub const POLICY_SERVER: &str = "system:serviceaccount:kubewarden:policy-server";

/// The objects of a cluster, and the faults that it simulates.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    objects: Objects,
    /// API versions that are served although there may be no object of theirs.
    served: BTreeSet<String>,
    /// Where objects come from that are read only if they are asked for.
    source: Option<Arc<dyn Source>>,
    /// The answers to lists so far, by their requests: to write a list of thousands of objects takes longer than to evaluate a
    /// VirtualMachine.
    lists: Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>,
    faults: Faults,
    /// How many operations were answered so far.
    answered: Arc<AtomicUsize>,
}

/// What keeps the policy from the objects.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The kinds that the policy may look up, as in `contextAwareResources` of its metadata. `None` means all.
    pub granted: Option<Vec<(String, String)>>,
    /// The operations that the policy may call, as in `hostCapabilities` of its metadata. `None` means all.
    pub capabilities: Option<Vec<String>>,
    /// The kinds that policy-server's account has no permissions for.
    pub denied: Vec<String>,
    /// Kinds and verbs that policy-server's account has no permission for.
    pub denied_verbs: Vec<(String, String)>,
    /// Whether policy-server's account has no permissions at all.
    pub denies_all: bool,
    /// The account as which policy-server runs, if not [`POLICY_SERVER`].
    pub account: Option<String>,
    /// Whether the API server does not answer.
    pub offline: bool,
    /// Operations that the host does not know, like an old version.
    pub unknown_operations: Vec<String>,
    /// How long each answer takes.
    pub delay: Duration,
    /// The answer to a single operation, counted from 0: bytes, or an error text of the host.
    pub answer: Option<(usize, Result<Vec<u8>, String>)>,
}

/// Where objects come from that are read only if they are asked for, because a cluster has many that no VirtualMachine
/// names.
pub trait Source: fmt::Debug + Send + Sync {
    /// Whether objects of this kind come from here.
    fn has(&self, kind: &str) -> bool;

    /// Looks up an object.
    fn get(&self, kind: &str, namespace: &str, name: &str) -> Answer;
}

/// What a [`Source`] answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The object.
    Found(Value),
    /// There is no such object.
    Absent,
    /// policy-server has no permission to read it.
    Denied,
    /// It cannot be looked up.
    Failed,
}

/// Why a cluster folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The folder cannot be listed.
    #[error("{folder}: {error}")]
    Folder {
        /// The folder.
        folder: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// A file in it cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The API server would refuse an object.
    #[error("{file}: {message}")]
    Refused {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// A document is not a Kubernetes object.
    #[error("{file}: document {number} has no apiVersion, kind and metadata.name")]
    NoObject {
        /// The file.
        file: String,
        /// The document's number, from 1.
        number: usize,
    },
}

impl Faults {
    /// Whether the policy may look up the kind.
    pub fn grants(&self, kind: &str) -> bool {
        self.granted.as_ref().is_none_or(|granted| granted.iter().any(|(_, name)| name == kind))
    }
}

impl Cluster {
    /// Reads the objects of a folder, as [`Cluster::read`] does.
    ///
    /// # Errors
    /// [`ClusterError`] if the folder or a file in it cannot be used.
    pub fn from_folder(folder: &Path) -> Result<Self, ClusterError> {
        let mut cluster = Self::default();
        cluster.read(folder)?;
        Ok(cluster)
    }

    /// Adds the objects in a file, from standard input (`-`), or in all `.yaml`, `.yml` and `.json` files of a folder.
    ///
    /// # Errors
    /// [`ClusterError`] if the folder or a file cannot be used.
    pub fn read(&mut self, path: &Path) -> Result<(), ClusterError> {
        let mut files = Vec::new();
        if path.is_file() || path == Path::new("-") {
            files.push(path.to_owned());
        } else {
            let unreadable = |error| ClusterError::Folder { folder: path.display().to_string(), error };
            for entry in fs::read_dir(path).map_err(unreadable)? {
                let file = entry.map_err(unreadable)?.path();
                if yaml::is_name(&file) {
                    files.push(file);
                }
            }
        }
        files.sort();
        for file in files {
            for (index, document) in yaml::read(&file)?.into_iter().enumerate() {
                let is_object = document["apiVersion"].is_string()
                    && document["kind"].is_string()
                    && document["metadata"]["name"].is_string();
                if !is_object {
                    return Err(ClusterError::NoObject { file: file.display().to_string(), number: index + 1 });
                }
                let file = file.display().to_string();
                self.add(as_stored(document).map_err(|message| ClusterError::Refused { file, message })?);
            }
        }
        Ok(())
    }

    /// Adds an object. It replaces an object with the same type, namespace and name.
    pub fn apply(&mut self, object: Value) {
        self.lists = Arc::default();
        self.objects.apply(object);
    }

    /// Adds an object.
    pub fn add(&mut self, object: Value) {
        self.lists = Arc::default();
        self.objects.add(object);
    }

    /// Says that an API version is served, even if there is no object.
    pub fn serve(&mut self, api_version: &str) {
        self.served.insert(api_version.to_owned());
    }

    /// A cluster that reads some of its objects only if they are asked for.
    pub fn with_source(self, source: Arc<dyn Source>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// A cluster with the same objects and other faults.
    pub fn with_faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self.answered = Arc::default();
        self
    }
}

/// A Secret or ConfigMap as the API server stores it: what is to be text in a Secret becomes base64, and base64 is written without
/// line breaks. Other objects stay as they are.
///
/// # Errors
/// Why the API server would refuse the object.
pub fn as_stored(mut object: Value) -> Result<Value, String> {
    let key = match object["kind"].as_str() {
        Some("Secret") => "data",
        Some("ConfigMap") => "binaryData",
        _ => return Ok(object),
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    for (entry, value) in object[key].as_object_mut().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default().replace(['\r', '\n'], "");
        let bytes = STANDARD.decode(text).map_err(|_| {
            format!("{kind} {name}: {key}.{entry} is not base64, so the API server would refuse it; write it with: base64 FILE")
        })?;
        *value = STANDARD.encode(bytes).into();
    }
    if key == "data" {
        let texts = object.as_object_mut().and_then(|object| object.remove("stringData"));
        for (entry, value) in texts.as_ref().and_then(Value::as_object).into_iter().flatten() {
            object["data"][entry] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
        }
    }
    Ok(object)
}

/// What a policy's metadata allows it to look up and call: `contextAwareResources` and `hostCapabilities`.
pub fn granted_by(metadata: &Value) -> Faults {
    let list = |key: &str| metadata[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resources = list("contextAwareResources");
    Faults {
        granted: Some(resources.iter().map(|r| (text(&r["apiVersion"]), text(&r["kind"]))).collect()),
        capabilities: Some(list("hostCapabilities").iter().map(text).collect()),
        ..Faults::default()
    }
}
