//! Answers the operations of Kubewarden's host capability `kubernetes` from the objects of a cluster, with Kubewarden's error texts.

use std::error::Error;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;

use serde::Deserialize;
use serde_json::{Value, json};

use super::objects::{namespace, pruned};
use super::{Answer, CallbackResult, Cluster, POLICY_SERVER};

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

impl Cluster {
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

/// The plural of a kind.
fn plural(kind: &str) -> String {
    format!("{}s", kind.to_ascii_lowercase())
}
