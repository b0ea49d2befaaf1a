//! A Kubernetes cluster made of files. It answers calls of Kubewarden's host capability `kubernetes`.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::yaml::{self, FileError};

/// What a callback returns to the guest: an answer, or an error text.
pub type CallbackResult = Result<Vec<u8>, Box<dyn Error + Send + Sync>>;

/// The account of policy-server if it is installed with Kubewarden's own charts.
pub const POLICY_SERVER: &str = "system:serviceaccount:kubewarden:policy-server";

/// The objects of a cluster, and the faults that it simulates.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    objects: Vec<Value>,
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
    /// Another account as which policy-server runs, which has no permissions at all.
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
    #[serde(rename = "verb")]
    _verb: String,
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

    /// Adds the objects in a file, or in all `.yaml`, `.yml` and `.json` files of a folder.
    ///
    /// # Errors
    /// [`ClusterError`] if the folder or a file cannot be used.
    pub fn read(&mut self, path: &Path) -> Result<(), ClusterError> {
        let mut files = Vec::new();
        if path.is_file() {
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
                self.add(document);
            }
        }
        Ok(())
    }

    /// Adds an object. It replaces an object with the same type, namespace and name.
    pub fn apply(&mut self, object: Value) {
        let identity = |object: &Value| {
            let metadata = &object["metadata"];
            [&object["apiVersion"], &object["kind"], &metadata["namespace"], &metadata["name"]].map(Value::clone)
        };
        let new = identity(&object);
        self.objects.retain(|object| identity(object) != new);
        self.add(object);
    }

    /// Adds an object.
    pub fn add(&mut self, object: Value) {
        self.objects.push(object);
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
            "list_resources_all" | "list_resources_by_namespace" => self.list(&serde_json::from_slice(payload)?),
            "can_i" => self.can_i(&serde_json::from_slice(payload)?),
            _ => Err(format!("unknown operation: {operation}").into()),
        }
    }

    fn can_i(&self, request: &CanI) -> CallbackResult {
        self.online()?;
        let SubjectAccessReview { user, resource_attributes } = &request.subject_access_review;
        let is_it = |kind: &String| plural(kind) == resource_attributes.resource;
        // A question about a single object is about the requester. Here, the requester may read what policy-server may read.
        let is_known = user == POLICY_SERVER || resource_attributes.name.is_some();
        let allowed = is_known && !self.faults.denied.iter().any(is_it);
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

    fn is_denied(&self, kind: &str) -> bool {
        // Reviews can only be created. Only administrators have the permission to read one.
        kind == "SubjectAccessReview"
            || self.faults.account.is_some()
            || self.faults.denied.iter().any(|denied| denied == kind)
    }

    fn account(&self) -> &str {
        self.faults.account.as_deref().unwrap_or(POLICY_SERVER)
    }

    fn get(&self, get: &Get) -> CallbackResult {
        self.granted(&get.api_version, &get.kind)?;
        self.online()?;
        self.served(&get.api_version, &get.kind)?;
        if self.is_denied(&get.kind) {
            let resource = plural(&get.kind);
            return Err(format!(
                "Callback evaluation failure: ApiError: {resource} \"{name}\" is forbidden: User \"{account}\" cannot \
                 get resource \"{resource}\": Forbidden (Status {{ status: Some(Failure), code: 403 }})\n\nCaused by:\n    \
                 {resource} \"{name}\" is forbidden",
                name = get.name,
                account = self.account(),
            )
            .into());
        }
        let found = self.of_kind(&get.api_version, &get.kind).find(|object| {
            object["metadata"]["name"] == get.name.as_str()
                && (get.namespace.is_none() || namespace(object) == get.namespace.as_deref())
        });
        match found {
            Some(object) => Ok(pruned(object, get.field_masks.as_deref()).to_string().into_bytes()),
            None => Err(format!(
                "Callback evaluation failure: Cannot find {}/{} named '{}' inside of namespace '{:?}'",
                get.api_version, get.kind, get.name, get.namespace
            )
            .into()),
        }
    }

    fn list(&self, list: &List) -> CallbackResult {
        self.granted(&list.api_version, &list.kind)?;
        self.online()?;
        while self.is_denied(&list.kind) {
            thread::park();
        }
        self.served(&list.api_version, &list.kind)?;
        let items: Vec<Value> = self
            .of_kind(&list.api_version, &list.kind)
            .filter(|o| list.namespace.is_none() || namespace(o) == list.namespace.as_deref())
            .map(|object| {
                // The items in a reflector's list have no type.
                let mut item = pruned(object, list.field_masks.as_deref());
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
        Ok(answer.to_string().into_bytes())
    }

    /// Kubernetes' own kinds are always served. Others are served if the folder has an object of their API version.
    fn served(&self, api_version: &str, kind: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        let served = ["v1", "authorization.k8s.io/v1"].contains(&api_version)
            || self.objects.iter().any(|object| object["apiVersion"] == api_version);
        if served {
            return Ok(());
        }
        Err(format!(
            "Callback evaluation failure: error finding resource {api_version} / {kind}: ApiError: 404 page not found\n\
             : Failed to parse error data (Status {{ status: Some(Failure), code: 404 }})"
        )
        .into())
    }

    fn of_kind(&self, api_version: &str, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["apiVersion"] == api_version && object["kind"] == kind)
    }
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

/// The object with only the fields in the masks. Its type and metadata are always there, because the host never removes
/// them. If there is a list on the way, the mask applies to each item.
fn pruned(object: &Value, masks: Option<&[String]>) -> Value {
    let Some(masks) = masks.filter(|masks| !masks.is_empty()) else {
        return object.clone();
    };
    let always = ["apiVersion", "kind", "metadata"].map(str::to_owned);
    let paths: Vec<Vec<&str>> = masks.iter().chain(&always).map(|mask| mask.split('.').collect()).collect();
    prune(object, &paths.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn prune(value: &Value, paths: &[&[&str]]) -> Value {
    match value {
        _ if paths.iter().any(|path| path.is_empty()) => value.clone(),
        Value::Array(items) => items.iter().map(|item| prune(item, paths)).collect(),
        Value::Object(members) => {
            let keep = |(key, value): (&String, &Value)| {
                let below: Vec<&[&str]> = paths.iter().filter(|path| path[0] == key).map(|path| &path[1..]).collect();
                (!below.is_empty()).then(|| (key.clone(), prune(value, &below)))
            };
            Value::Object(members.iter().filter_map(keep).collect())
        }
        _ => Value::Null,
    }
}

/// The plural of a kind.
fn plural(kind: &str) -> String {
    format!("{}s", kind.to_ascii_lowercase())
}

fn namespace(object: &Value) -> Option<&str> {
    object["metadata"]["namespace"].as_str()
}
