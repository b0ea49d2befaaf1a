//! The request, as the Kubewarden host sends it. This module knows no setting and no feature.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;

use crate::text::Quoted;
use crate::values::name::LABEL;
use crate::vm::VirtualMachine;

/// What the policy reads of the payload of the waPC function `validate`.
///
/// The SDK's type has all fields of an AdmissionRequest, and reading them takes a tenth of the time of a request without
/// directives.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    /// The policy's settings; null if there are none.
    #[serde(default)]
    pub(crate) settings: Value,
    pub(crate) request: AdmissionRequest,
}

/// What the policy reads of an AdmissionRequest (`admission.k8s.io/v1`).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct AdmissionRequest {
    uid: String,
    kind: GroupKind,
    name: String,
    pub(crate) namespace: String,
    operation: String,
    sub_resource: String,
    #[serde(rename = "userInfo")]
    pub(crate) requester: Requester,
    object: Value,
    old_object: Value,
}

/// The kind of the object. Every API version counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupKind {
    group: String,
    kind: String,
}

/// The VirtualMachine that a request creates or updates.
#[derive(Debug)]
pub(crate) struct VirtualMachines {
    pub(crate) new: VirtualMachine,
    /// The VirtualMachine before an update.
    pub(crate) old: Option<VirtualMachine>,
}

/// Who sends a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Requester {
    #[serde(rename = "username")]
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    /// What the authenticator adds.
    extra: Value,
}

impl Requester {
    /// Whether the requester has this name, or logs in to Rancher with it.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.login() == Some(name)
    }

    /// The login, if Rancher sends the request. Rancher impersonates users such as `user-6j5s6`.
    fn login(&self) -> Option<&str> {
        self.extra.get("username")?.get(0)?.as_str()
    }
}

/// The user name, and the login if it is different.
impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Quoted(&self.name))?;
        match self.login() {
            Some(login) if login != self.name => write!(f, " ({})", Quoted(login)),
            _ => Ok(()),
        }
    }
}

/// Why a payload is not an admission request.
///
/// The message says where the problem is, but never shows the content: the payload contains the whole VirtualMachine,
/// with the passwords in its cloud-init.
///
/// Cause: the request does not come from an API server
/// Cure: find out who sends it
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the admission request cannot be read: it is not UTF-8")]
    NotUtf8,
    /// Cause: "it ends too early", "it is not valid JSON, nested too deeply, or has a number out of range", or "a field is missing or
    /// has the wrong type": the request does not come from an API server, or the VM is nested more than about 120 levels deep
    #[error("the admission request cannot be read: {problem} at line {line}, column {column}")]
    Json { problem: &'static str, line: usize, column: usize },
    #[error("the admission request cannot be read: {0} is missing, or is not as an API server writes it")]
    Field(&'static str),
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        let problem = match error.classify() {
            Category::Eof => "it ends too early",
            Category::Data => "a field is missing or has the wrong type",
            _ => "it is not valid JSON, nested too deeply, or has a number out of range",
        };
        Self::Json { problem, line: error.line(), column: error.column() }
    }
}

impl Payload {
    /// Reads the payload of `validate`.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Unreadable> {
        let payload = std::str::from_utf8(payload).map_err(|_| Unreadable::NotUtf8)?;
        let payload: Self = serde_json::from_str(payload)?;
        let request = &payload.request;
        if request.kind.kind.is_empty() {
            return Err(Unreadable::Field("request.kind.kind"));
        }
        if request.operation.is_empty() {
            return Err(Unreadable::Field("request.operation"));
        }
        if !request.namespace.is_empty() && !LABEL.allows(&request.namespace) {
            return Err(Unreadable::Field("request.namespace"));
        }
        Ok(payload)
    }
}

impl AdmissionRequest {
    /// Takes the VirtualMachine out of the request, if the request creates or updates one, not only its status.
    pub(crate) fn take_virtual_machines(&mut self) -> Option<VirtualMachines> {
        let is_concerned = self.kind.group == "kubevirt.io"
            && self.kind.kind == "VirtualMachine"
            && matches!(self.operation.as_str(), "CREATE" | "UPDATE")
            && self.sub_resource.is_empty();
        let [new, old] = [self.object.take(), self.old_object.take()].map(|object| {
            let is_there = is_concerned && !object.is_null();
            is_there.then(|| VirtualMachine::new(object))
        });
        Some(VirtualMachines { new: new?, old })
    }
}

/// The fields that identify the request in a log line.
impl slog::KV for AdmissionRequest {
    fn serialize(&self, _record: &slog::Record<'_>, serializer: &mut dyn slog::Serializer) -> slog::Result {
        serializer.emit_str("request_uid", &self.uid)?;
        serializer.emit_str("namespace", &self.namespace)?;
        serializer.emit_str("name", &self.name)
    }
}
