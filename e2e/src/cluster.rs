//! A Kubernetes cluster made of files, which answers Kubewarden's `kubernetes` host capability.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::yaml::{self, FileError};

/// What a callback gives to the guest: an answer, or a text.
pub type CallbackResult = Result<Vec<u8>, Box<dyn Error + Send + Sync>>;

/// The objects of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    objects: Vec<Value>,
}

/// A cluster folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The folder cannot be listed.
    #[error("{folder}: {error}")]
    Folder {
        /// The folder.
        folder: String,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// A file in it cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A document is no Kubernetes object.
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
}

/// `list_resources_all` and `list_resources_by_namespace`
#[derive(Debug, Deserialize)]
struct List {
    api_version: String,
    kind: String,
    namespace: Option<String>,
}

impl Cluster {
    /// Reads all `.yaml`, `.yml` and `.json` files of a folder.
    ///
    /// # Errors
    /// [`ClusterError`] where the folder or a file in it cannot be used.
    pub fn from_folder(folder: &Path) -> Result<Self, ClusterError> {
        let unreadable = |error| ClusterError::Folder {
            folder: folder.display().to_string(),
            error,
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path
                .extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
            {
                files.push(path);
            }
        }
        files.sort();
        let mut cluster = Self::default();
        for file in files {
            for (index, document) in yaml::read(&file)?.into_iter().enumerate() {
                let is_object = document["apiVersion"].is_string()
                    && document["kind"].is_string()
                    && document["metadata"]["name"].is_string();
                if !is_object {
                    return Err(ClusterError::NoObject {
                        file: file.display().to_string(),
                        number: index + 1,
                    });
                }
                cluster.add(document);
            }
        }
        Ok(cluster)
    }

    /// Adds an object.
    pub fn add(&mut self, object: Value) {
        self.objects.push(object);
    }

    /// Answers an operation of the host capability `kubernetes`, with the texts that Kubewarden uses.
    pub fn answer(&self, operation: &str, payload: &[u8]) -> CallbackResult {
        match operation {
            "get_resource" => self.get(&serde_json::from_slice(payload)?),
            "list_resources_all" | "list_resources_by_namespace" => {
                self.list(&serde_json::from_slice(payload)?)
            }
            "can_i" => Ok(json!({"allowed": true}).to_string().into_bytes()),
            _ => Err(format!("unknown operation: {operation}").into()),
        }
    }

    fn get(&self, get: &Get) -> CallbackResult {
        self.served(&get.api_version, &get.kind)?;
        let found = self.of_kind(&get.api_version, &get.kind).find(|object| {
            object["metadata"]["name"] == get.name.as_str()
                && (get.namespace.is_none() || namespace(object) == get.namespace.as_deref())
        });
        match found {
            Some(object) => Ok(object.to_string().into_bytes()),
            None => Err(format!(
                "Callback evaluation failure: Cannot find {}/{} named '{}' inside of namespace '{:?}'",
                get.api_version, get.kind, get.name, get.namespace
            )
            .into()),
        }
    }

    fn list(&self, list: &List) -> CallbackResult {
        self.served(&list.api_version, &list.kind)?;
        let items: Vec<Value> = self
            .of_kind(&list.api_version, &list.kind)
            .filter(|o| list.namespace.is_none() || namespace(o) == list.namespace.as_deref())
            .map(|object| {
                // A reflector's items have no type of their own.
                let mut item = object.clone();
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

    /// Kinds of Kubernetes itself are always there, others where the folder has an object of their API version.
    fn served(&self, api_version: &str, kind: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        let served = api_version == "v1"
            || self
                .objects
                .iter()
                .any(|object| object["apiVersion"] == api_version);
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
        self.objects
            .iter()
            .filter(move |object| object["apiVersion"] == api_version && object["kind"] == kind)
    }
}

fn namespace(object: &Value) -> Option<&str> {
    object["metadata"]["namespace"].as_str()
}
