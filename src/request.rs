//! The request, as the Kubewarden host sends it. This module knows no setting and no feature.

use std::fmt;

use serde_json::Value;
use serde_json::error::Category;

use crate::text::Quoted;
use crate::values::name::LABEL;
use crate::vm::VirtualMachine;

/// What the policy reads of the payload of the waPC function `validate`.
///
/// The SDK's type has all fields of an AdmissionRequest, and reading them takes a tenth of the time of a request without
/// directives.
#[derive(Debug)]
pub(crate) struct Payload {
    /// The policy's settings; null if there are none.
    pub(crate) settings: Value,
    pub(crate) request: AdmissionRequest,
}

/// What the policy reads of an AdmissionRequest (`admission.k8s.io/v1`). Texts are empty if they are absent.
#[derive(Debug)]
pub(crate) struct AdmissionRequest {
    uid: String,
    /// The group and kind of the object. Every API version counts.
    group: String,
    kind: String,
    name: String,
    pub(crate) namespace: String,
    operation: String,
    sub_resource: String,
    pub(crate) requester: Requester,
    object: Value,
    old_object: Value,
}

/// The VirtualMachine that a request creates or updates.
#[derive(Debug)]
pub(crate) struct VirtualMachines {
    pub(crate) new: VirtualMachine,
    /// The VirtualMachine before an update.
    pub(crate) old: Option<VirtualMachine>,
}

/// Who sends a request.
#[derive(Debug)]
pub(crate) struct Requester {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    /// What the authenticator adds.
    extra: Value,
}

impl Requester {
    /// Whether the requester has this name, logs in to Rancher with it, or is the principal of this name. The login of an
    /// external provider does not count, because it may be that of another person in Rancher.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.local_login() == Some(name) || self.extra("principalid").any(|id| id == name)
    }

    /// The login, if Rancher sends the request. Rancher impersonates users such as `user-6j5s6`.
    fn login(&self) -> Option<&str> {
        self.extra("username").next()
    }

    /// The login, if it is one of Rancher's own provider, whose principals start with `local://`. A user with several
    /// providers has a login and a principal for each, in the same order. Source: `rancher/rancher`,
    /// `pkg/auth/requests/authenticate.go`, `getUserExtraInfo`.
    fn local_login(&self) -> Option<&str> {
        let login = self.login()?;
        self.extra("principalid").next().is_none_or(|id| id.starts_with("local://")).then_some(login)
    }

    fn extra(&self, key: &str) -> impl Iterator<Item = &str> {
        self.extra.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
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
    /// Cause: "it ends too early", or "it is not valid JSON, nested too deeply, or has a number out of range": the request does not
    /// come from an API server, or the VM is nested more than about 120 levels deep
    #[error("the admission request cannot be read: {problem} at line {line}, column {column}")]
    Json { problem: &'static str, line: usize, column: usize },
    #[error("the admission request cannot be read: its {0} is missing, or is not as an API server writes it")]
    Field(&'static str),
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        let problem = match error.classify() {
            Category::Eof => "it ends too early",
            _ => "it is not valid JSON, nested too deeply, or has a number out of range",
        };
        Self::Json { problem, line: error.line(), column: error.column() }
    }
}

impl Payload {
    /// Reads the payload of `validate`.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Unreadable> {
        let payload = std::str::from_utf8(payload).map_err(|_| Unreadable::NotUtf8)?;
        let mut payload: Value = serde_json::from_str(payload)?;
        let [settings, mut request] = ["settings", "request"].map(|key| take(&mut payload, key));
        let [object, old_object] = ["object", "oldObject"].map(|key| take(&mut request, key));
        let request = AdmissionRequest {
            uid: text(&request, "uid")?,
            group: text(&request, "kind.group")?,
            kind: text(&request, "kind.kind")?,
            name: text(&request, "name")?,
            namespace: text(&request, "namespace")?,
            operation: text(&request, "operation")?,
            sub_resource: text(&request, "subResource")?,
            requester: Requester {
                name: text(&request, "userInfo.username")?,
                groups: texts(&request, "userInfo.groups")?,
                extra: find(&request, "userInfo.extra").cloned().unwrap_or_default(),
            },
            object,
            old_object,
        };
        if request.kind.is_empty() {
            return Err(Unreadable::Field("kind.kind"));
        }
        if request.operation.is_empty() {
            return Err(Unreadable::Field("operation"));
        }
        if !request.namespace.is_empty() && !LABEL.allows(&request.namespace) {
            return Err(Unreadable::Field("namespace"));
        }
        Ok(Self { settings, request })
    }
}

/// Takes a member out of an object; null if it is absent.
fn take(object: &mut Value, key: &str) -> Value {
    object.get_mut(key).map(Value::take).unwrap_or_default()
}

/// The member at a path, such as `kind.group`. `Value::pointer` would allocate two texts for each part.
fn find<'v>(request: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(request, |value, key| value.get(key))
}

fn text(request: &Value, path: &'static str) -> Result<String, Unreadable> {
    match find(request, path) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Unreadable::Field(path)),
    }
}

fn texts(request: &Value, path: &'static str) -> Result<Vec<String>, Unreadable> {
    let items = match find(request, path) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(value) => value.as_array().ok_or(Unreadable::Field(path))?,
    };
    items.iter().map(|item| item.as_str().map(str::to_owned).ok_or(Unreadable::Field(path))).collect()
}

impl AdmissionRequest {
    /// Takes the VirtualMachine out of the request, if the request creates or updates one, not only its status.
    pub(crate) fn take_virtual_machines(&mut self) -> Option<VirtualMachines> {
        let is_concerned = self.group == "kubevirt.io"
            && self.kind == "VirtualMachine"
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
