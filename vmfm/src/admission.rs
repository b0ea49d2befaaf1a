//! Makes admission requests from the files that a user has, and the answers that policy-server would send to the API server.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Why a document does not make an admission request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no object.
    #[error("there is no manifest in it")]
    Empty,
    /// There is no VirtualMachine, only other objects.
    #[error("it has no VirtualMachine, but {0}")]
    NoVirtualMachine(String),
    /// An AdmissionReview without a request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// An old object for a request that already has one.
    #[error("it is an admission request, which has its own old object; leave out --old")]
    TwoOld,
    /// The object is not a manifest.
    #[error("it is no Kubernetes manifest: apiVersion and kind are missing")]
    NoManifest,
}

/// Whether the policy is to evaluate this document: a VirtualMachine, a pool of them, or a whole admission request.
pub fn is_subject(document: &Value) -> bool {
    ["VirtualMachine", POOL].iter().any(|kind| document["kind"] == *kind) || is_request(document)
}

/// The kind of a pool, whose controller creates VirtualMachines of a template.
const POOL: &str = "VirtualMachinePool";

/// The account of that controller if KubeVirt is in the namespace `kubevirt`.
const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";

/// The first VirtualMachine of a pool, as its controller creates it.
fn of_pool(mut pool: Value) -> Value {
    let metadata = pool["metadata"].take();
    let mut template = pool["spec"]["virtualMachineTemplate"].take();
    let mut vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": template["metadata"].take(), "spec": template["spec"].take(),
    });
    if !vm["metadata"].is_object() {
        vm["metadata"] = json!({});
    }
    vm["metadata"]["name"] = format!("{}-0", metadata["name"].as_str().unwrap_or_default()).into();
    if let Some(namespace) = metadata.get("namespace") {
        vm["metadata"]["namespace"] = namespace.clone();
    }
    vm
}

/// Whether a document is an AdmissionReview, or the request in one.
pub fn is_request(document: &Value) -> bool {
    document["kind"] == "AdmissionReview" || (document["kind"].is_object() && document["operation"].is_string())
}

/// Makes the admission request for a document.
///
/// An `AdmissionReview` or an admission request is used as it is. A manifest is created or, if there is an old object, updated.
///
/// # Errors
/// [`RequestError`] if the document is neither.
pub fn request(document: Value, old: Option<Value>) -> Result<Value, RequestError> {
    let request = match document {
        mut review if review["kind"] == "AdmissionReview" => match review["request"].take() {
            request @ Value::Object(_) => request,
            _ => return Err(RequestError::NoRequest),
        },
        request if is_request(&request) => request,
        pool if pool["kind"] == POOL => return from_manifest(of_pool(pool), old.map(of_pool), CONTROLLER),
        manifest => return from_manifest(manifest, old, "kubernetes-admin"),
    };
    if old.is_some() {
        return Err(RequestError::TwoOld);
    }
    Ok(request)
}

fn from_manifest(object: Value, old: Option<Value>, requester: &str) -> Result<Value, RequestError> {
    let (Some(api_version), Some(kind)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else {
        return Err(RequestError::NoManifest);
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
    let metadata = &object["metadata"];
    Ok(json!({
        "uid": "00000000-0000-4000-8000-000000000000",
        "kind": {"group": group, "version": version, "kind": kind},
        "resource": {
            "group": group,
            "version": version,
            "resource": format!("{}s", kind.to_ascii_lowercase()),
        },
        "name": metadata["name"].as_str().unwrap_or_default(),
        "namespace": metadata["namespace"].as_str().unwrap_or("default"),
        "operation": operation,
        "userInfo": {"username": requester, "groups": ["system:authenticated"]},
        "object": object,
        "oldObject": old,
        "dryRun": false,
    }))
}

/// The policy's answer, in the format of its module.
#[derive(Debug, Deserialize)]
struct ValidationResponse {
    accepted: bool,
    message: Option<String>,
    code: Option<u16>,
    mutated_object: Option<Value>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

/// An `AdmissionResponse` (`admission.k8s.io/v1`), as policy-server makes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionResponse {
    /// The request's uid.
    pub uid: String,
    /// Whether the request is allowed.
    pub allowed: bool,
    /// `JSONPatch`, if there is a patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_type: Option<&'static str>,
    /// The patch, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Why the request is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// For the audit log.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub audit_annotations: BTreeMap<String, String>,
    /// For the user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The reason for a denial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// As an HTTP status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

impl AdmissionResponse {
    /// A denial.
    pub fn reject(request: &Value, message: String, code: u16) -> Self {
        Self { uid: uid(request), status: Some(Status { message: Some(message), code: Some(code) }), ..Self::default() }
    }

    /// A denial because the guest failed. The webhook's failure policy does not matter.
    pub fn reject_internal_server_error(request: &Value, message: impl std::fmt::Display) -> Self {
        Self::reject(request, format!("internal server error: {message}"), 500)
    }

    /// Makes it from the guest's answer to `validate`.
    pub fn from_guest(request: &Value, answer: &[u8]) -> Self {
        let response: ValidationResponse = match serde_json::from_slice(answer) {
            Ok(response) => response,
            Err(e) => {
                let message = format!("invalid response from policy: {e}");
                return Self::reject_internal_server_error(request, message);
            }
        };
        let object = request.get("object").filter(|object| !object.is_null());
        let patch = match (object, &response.mutated_object) {
            (Some(object), Some(mutated)) => json_patch::diff(object, mutated),
            (None, Some(_)) => {
                let message = "Incoming object is null, which happens only with DELETE operations, but the policy is \
                               attempting a mutation. This is not allowed";
                let status = Some(Status { message: Some(message.to_owned()), code: None });
                return Self { uid: uid(request), status, ..Self::default() };
            }
            (_, None) => json_patch::Patch::default(),
        };
        let patch = (!patch.is_empty()).then(|| STANDARD.encode(patch.to_string()));
        let has_status = response.message.is_some() || response.code.is_some();
        Self {
            uid: uid(request),
            allowed: response.accepted,
            patch_type: patch.as_ref().map(|_| "JSONPatch"),
            patch,
            status: has_status.then_some(Status { message: response.message, code: response.code }),
            audit_annotations: response.audit_annotations.unwrap_or_default(),
            warnings: response.warnings.unwrap_or_default(),
        }
    }

    /// The patch's operations; none if there is no patch.
    pub fn patch_operations(&self) -> json_patch::Patch {
        let decoded = self.patch.as_ref().and_then(|patch| STANDARD.decode(patch).ok());
        decoded.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// The object after the patch, as the API server has it.
    ///
    /// # Errors
    /// The patch does not fit the object.
    pub fn patched(&self, object: &Value) -> Result<Value, json_patch::PatchError> {
        let mut object = object.clone();
        json_patch::patch(&mut object, &self.patch_operations())?;
        Ok(object)
    }
}

fn uid(request: &Value) -> String {
    request["uid"].as_str().unwrap_or_default().to_owned()
}
