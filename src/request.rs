//! The request, as the Kubewarden host sends it. This module knows no setting and no feature.

use std::fmt;

use kubewarden_policy_sdk::request::UserInfo;
use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;

use crate::text::Quoted;
use crate::values::name::LABEL;
use crate::vm::VirtualMachine;

/// The payload of the waPC function `validate`.
#[derive(Debug)]
pub(crate) struct Payload {
    /// The policy's settings; null if there are none.
    pub(crate) settings: Value,
    pub(crate) request: AdmissionRequest,
    /// The VirtualMachine, if the request creates or updates one.
    pub(crate) vms: Option<VirtualMachines>,
}

/// The VirtualMachine that a request creates or updates.
#[derive(Debug)]
pub(crate) struct VirtualMachines {
    pub(crate) new: VirtualMachine,
    /// The VirtualMachine before an update.
    pub(crate) old: Option<VirtualMachine>,
}

/// What the policy needs to know about a request, except for the object.
#[derive(Debug)]
pub(crate) struct AdmissionRequest {
    uid: String,
    name: String,
    pub(crate) namespace: String,
    pub(crate) requester: Requester,
}

/// Who sends a request.
#[derive(Debug)]
pub(crate) struct Requester {
    pub(crate) name: String,
    /// In alphabetical order.
    pub(crate) groups: Vec<String>,
    /// The login, if Rancher sends the request. Rancher impersonates users such as `user-6j5s6`, and sends the login as
    /// `extra.username`.
    pub(crate) login: Option<String>,
}

impl Requester {
    /// Whether the requester has this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.login.as_deref() == Some(name)
    }
}

impl From<UserInfo> for Requester {
    fn from(user: UserInfo) -> Self {
        let login = user.extra.get("username").and_then(|values| values.get(0)?.as_str()).map(str::to_owned);
        let mut groups: Vec<String> = user.groups.into_iter().collect();
        groups.sort_unstable();
        Self { name: user.username, groups, login }
    }
}

/// The user name, and the login if it is different.
impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Quoted(&self.name))?;
        match &self.login {
            Some(login) if *login != self.name => write!(f, " ({})", Quoted(login)),
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
    ///
    /// # Errors
    /// [`Unreadable`] if the payload is not JSON, or does not name the operation and the kind of the object.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Unreadable> {
        let payload = std::str::from_utf8(payload).map_err(|_| Unreadable::NotUtf8)?;
        let Validation { settings, request } = serde_json::from_str(payload)?;
        if request.kind.kind.is_empty() {
            return Err(Unreadable::Field("request.kind.kind"));
        }
        if request.operation.is_empty() {
            return Err(Unreadable::Field("request.operation"));
        }
        if !request.namespace.is_empty() && !LABEL.allows(&request.namespace) {
            return Err(Unreadable::Field("request.namespace"));
        }
        let is_concerned = request.concerns_virtual_machine();
        let Admission { uid, name, namespace, user_info, object, old_object, .. } = request;
        let is_there = |object: &Value| is_concerned && !object.is_null();
        let old = Some(old_object).filter(is_there).map(VirtualMachine::new);
        let vms = Some(object).filter(is_there).map(|new| VirtualMachines { new: VirtualMachine::new(new), old });
        let request = AdmissionRequest { uid, name, namespace, requester: user_info.into() };
        Ok(Self { settings, request, vms })
    }
}

/// What the policy reads of the payload. The SDK's type has all fields of an admission request, and reading them takes
/// a tenth of the time of a request without directives.
#[derive(Deserialize)]
struct Validation {
    #[serde(default)]
    settings: Value,
    request: Admission,
}

/// What the policy reads of an AdmissionRequest (`admission.k8s.io/v1`).
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Admission {
    uid: String,
    kind: GroupKind,
    name: String,
    namespace: String,
    operation: String,
    sub_resource: String,
    user_info: UserInfo,
    object: Value,
    old_object: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupKind {
    group: String,
    kind: String,
}

impl Admission {
    /// Whether the request creates or updates a KubeVirt `VirtualMachine`, not only its status. Every API version counts.
    fn concerns_virtual_machine(&self) -> bool {
        self.kind.group == "kubevirt.io"
            && self.kind.kind == "VirtualMachine"
            && matches!(self.operation.as_str(), "CREATE" | "UPDATE")
            && self.sub_resource.is_empty()
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
