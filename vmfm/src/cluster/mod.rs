//! A Kubernetes cluster made of files, or of objects that were read from a real one. It answers calls of Kubewarden's host
//! capability `kubernetes`.

mod objects;

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::yaml::{self, FileError};
pub(crate) use objects::pruned;
use objects::{Objects, namespace};

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

/// `get_resource`
#[derive(Debug, Deserialize)]
struct Get {
    api_version: String,
    kind: String,
    name: String,
    namespace: Option<String>,
    #[serde(rename = "disable_cache")]
    _disable_cache: bool,
    field_masks: Option<Vec<String>>,
}

/// `can_i`
#[derive(Debug, Deserialize)]
struct CanI {
    subject_access_review: SubjectAccessReview,
    #[serde(rename = "disable_cache")]
    _disable_cache: bool,
}

#[derive(Debug, Deserialize)]
struct SubjectAccessReview {
    user: String,
    resource_attributes: ResourceAttributes,
}

#[derive(Debug, Deserialize)]
struct ResourceAttributes {
    resource: String,
    name: Option<String>,
    verb: String,
}

/// `list_resources_all` and `list_resources_by_namespace`
#[derive(Debug, Deserialize)]
struct List {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    field_masks: Option<Vec<String>>,
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

    /// Answers an operation of the host capability `kubernetes`, with Kubewarden's error texts.
    ///
    /// If policy-server has no permission to list a kind, the list never returns, as in Kubewarden.
    pub fn answer(&self, operation: &str, payload: &[u8]) -> CallbackResult {
        thread::sleep(self.faults.delay);
        let number = self.answered.fetch_add(1, Ordering::Relaxed);
        if let Some((_, answer)) = self.faults.answer.as_ref().filter(|(n, _)| *n == number) {
            return answer.clone().map_err(Into::into);
        }
        let capability = format!("kubernetes/{operation}");
        if self.faults.capabilities.as_ref().is_some_and(|granted| !granted.contains(&capability)) {
            return Err(format!(
                "Policy has not been granted access to the '{capability}' host capability. The violation has been reported."
            )
            .into());
        }
        if self.faults.unknown_operations.iter().any(|unknown| unknown == operation) {
            return Err(format!("unknown operation: {operation}").into());
        }
        match operation {
            "get_resource" => self.get(&serde_json::from_slice(payload)?),
            "list_resources_all" | "list_resources_by_namespace" => self.list(payload),
            "can_i" => self.can_i(&serde_json::from_slice(payload)?),
            _ => Err(format!("unknown operation: {operation}").into()),
        }
    }

    fn can_i(&self, request: &CanI) -> CallbackResult {
        self.online()?;
        let SubjectAccessReview { user, resource_attributes } = &request.subject_access_review;
        let ResourceAttributes { resource, name, verb } = resource_attributes;
        if self.is_denied("SubjectAccessReview", "create") {
            return Err(self.forbidden("create", "subjectaccessreviews", "").into());
        }
        // A question about a single object is about the requester. Here, the requester may read what policy-server may read.
        let is_known = name.is_some() || user == self.account() && !self.faults.denies_all;
        let mut denied = self.faults.denied.iter().chain(self.denied_kinds(verb));
        let allowed = is_known && !denied.any(|kind| plural(kind) == *resource);
        Ok(json!({"allowed": allowed}).to_string().into_bytes())
    }

    /// Checks that the policy's metadata allows it to look up the kind.
    fn granted(&self, api_version: &str, kind: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        let is_it = |granted: &(String, String)| granted.0 == api_version && granted.1 == kind;
        match &self.faults.granted {
            Some(granted) if !granted.iter().any(is_it) => Err(format!(
                "Policy has not been granted access to Kubernetes {api_version}/{kind} resources. The violation has been \
                 reported."
            )
            .into()),
            _ => Ok(()),
        }
    }

    fn online(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if !self.faults.offline {
            return Ok(());
        }
        Err("Callback evaluation failure: ServiceError: client error (Connect)\n\nCaused by:\n    0: client error \
             (Connect)\n    1: tcp connect error\n    2: Connection refused (os error 111)"
            .into())
    }

    fn is_denied(&self, kind: &str, verb: &str) -> bool {
        // Reviews can only be created. Only administrators have the permission to read one.
        (kind == "SubjectAccessReview" && verb == "get")
            || self.faults.denies_all && kind != "SubjectAccessReview"
            || self.faults.denied.iter().chain(self.denied_kinds(verb)).any(|denied| denied == kind)
    }

    /// The kinds for which there is no permission for this verb.
    fn denied_kinds(&self, verb: &str) -> impl Iterator<Item = &String> {
        self.faults.denied_verbs.iter().filter(move |(_, denied)| denied == verb).map(|(kind, _)| kind)
    }

    fn account(&self) -> &str {
        self.faults.account.as_deref().unwrap_or(POLICY_SERVER)
    }

    /// The error text if the API server refuses a request.
    fn forbidden(&self, verb: &str, resource: &str, name: &str) -> String {
        format!(
            "Callback evaluation failure: ApiError: {resource} \"{name}\" is forbidden: User \"{account}\" cannot {verb} \
             resource \"{resource}\": Forbidden (Status {{ status: Some(Failure), code: 403 }})\n\nCaused by:\n    \
             {resource} \"{name}\" is forbidden",
            account = self.account(),
        )
    }

    fn get(&self, get: &Get) -> CallbackResult {
        let Get { api_version, kind, name, namespace, .. } = get;
        self.granted(api_version, kind)?;
        self.online()?;
        self.served(api_version, kind)?;
        let forbidden = || self.forbidden("get", &plural(kind), name);
        if self.is_denied(kind, "get") {
            return Err(forbidden().into());
        }
        let masks = get.field_masks.as_deref().unwrap_or_default();
        let source = self.source.as_ref().filter(|source| source.has(kind));
        let found = match source.map(|source| source.get(kind, namespace.as_deref().unwrap_or_default(), name)) {
            None => self.objects.get(api_version, kind, name, namespace.as_deref()).map(|found| pruned(found, masks)),
            Some(Answer::Found(object)) => Some(pruned(&object, masks)),
            Some(Answer::Absent) => None,
            Some(Answer::Denied) => return Err(forbidden().into()),
            Some(Answer::Failed) => return Err("Callback evaluation failure: ServiceError".into()),
        };
        match found {
            Some(object) => Ok(object.to_string().into_bytes()),
            None => Err(format!(
                "Callback evaluation failure: Cannot find {api_version}/{kind} named '{name}' inside of namespace '{namespace:?}'"
            )
            .into()),
        }
    }

    fn list(&self, payload: &[u8]) -> CallbackResult {
        let list: List = serde_json::from_slice(payload)?;
        self.granted(&list.api_version, &list.kind)?;
        self.online()?;
        while self.is_denied(&list.kind, "list") {
            thread::park();
        }
        self.served(&list.api_version, &list.kind)?;
        // While one thread writes a list, others wait for it.
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = lists.get(payload) {
            return Ok(answer.clone());
        }
        let masks = list.field_masks.as_deref().unwrap_or_default();
        let objects = self.objects.list(&list.api_version, &list.kind).iter();
        let items: Vec<Value> = objects
            .filter(|object| list.namespace.is_none() || namespace(object) == list.namespace.as_deref())
            .map(|object| {
                // The items in a reflector's list have no type.
                let mut item = pruned(object, masks);
                if let Some(members) = item.as_object_mut() {
                    members.remove("apiVersion");
                    members.remove("kind");
                }
                item
            })
            .collect();
        let answer = json!({
            "apiVersion": list.api_version,
            "kind": format!("{}List", list.kind),
            "metadata": {},
            "items": items,
        });
        let answer = answer.to_string().into_bytes();
        lists.insert(payload.to_vec(), answer.clone());
        Ok(answer)
    }

    /// Kubernetes' own kinds are always served. Others are served if there is an object of their API version.
    fn served(&self, api_version: &str, kind: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        let served = ["v1", "authorization.k8s.io/v1"].contains(&api_version)
            || self.served.contains(api_version)
            || self.objects.has(api_version);
        if served {
            return Ok(());
        }
        Err(format!(
            "Callback evaluation failure: error finding resource {api_version} / {kind}: ApiError: 404 page not found\n\
             : Failed to parse error data (Status {{ status: Some(Failure), code: 404 }})"
        )
        .into())
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

/// The plural of a kind.
fn plural(kind: &str) -> String {
    format!("{}s", kind.to_ascii_lowercase())
}
