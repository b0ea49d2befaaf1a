//! The request as the Kubewarden host sends it, borrowed from its bytes. Knows no setting and no feature.

use std::borrow::Cow;
use std::fmt;

use serde_json::error::Category;

use crate::json::{Json, Shape};
use crate::kinds::name::LABEL;
use crate::text::Quoted;
use crate::vm::{OUTLINE, VmOutline};

/// The payload of the waPC function `validate`: the request and the policy's settings.
#[derive(Debug)]
pub(crate) struct Payload<'a> {
    pub(crate) settings: Option<&'a str>,
    pub(crate) request: AdmissionRequest<'a>,
}

/// The parts of a Kubernetes `AdmissionRequest` (`admission.k8s.io/v1`) that the policy reads; what is not there is empty.
#[derive(Debug)]
pub(crate) struct AdmissionRequest<'a> {
    uid: Cow<'a, str>,
    /// The group and the kind of the object; the version does not matter to the policy.
    group: Cow<'a, str>,
    kind: Cow<'a, str>,
    sub_resource: Cow<'a, str>,
    name: Cow<'a, str>,
    pub(crate) namespace: Cow<'a, str>,
    operation: Cow<'a, str>,
    pub(crate) requester: Requester<'a>,
    object: Option<VmOutline<'a>>,
    old_object: Option<VmOutline<'a>>,
}

/// Who sends a request.
#[derive(Debug)]
pub(crate) struct Requester<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) groups: Vec<String>,
    /// The name that the user logs in with, where Rancher sends the request: it impersonates `user-6j5s6`, and adds the login as
    /// `extra.username`. Empty where it is not known.
    pub(crate) login: String,
}

impl<'a> Requester<'a> {
    fn read(mut user_info: Json<'a>) -> Self {
        let texts = |json: Option<&Json<'a>>| {
            let items = json.map(Json::items).unwrap_or_default();
            items.iter().filter_map(Json::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let login = texts(user_info.at(&["extra", "username"])).into_iter().next().unwrap_or_default();
        let groups = texts(user_info.get("groups"));
        Self { name: text(user_info.take("username")).unwrap_or_default(), groups, login }
    }

    /// Whether the requester is called so.
    pub(crate) fn is(&self, name: &str) -> bool {
        !name.is_empty() && (self.name == name || self.login == name)
    }
}

/// The name, and the login if it is another.
impl fmt::Display for Requester<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Quoted(&self.name))?;
        if self.login.is_empty() || self.login == self.name {
            return Ok(());
        }
        write!(f, " ({})", Quoted(&self.login))
    }
}

static PAYLOAD: Shape = Shape::OnlyMembers(&[
    ("settings", Shape::Raw),
    (
        "request",
        Shape::OnlyMembers(&[
            ("uid", Shape::Whole),
            ("kind", Shape::OnlyMembers(&[("group", Shape::Whole), ("kind", Shape::Whole)])),
            ("subResource", Shape::Whole),
            ("name", Shape::Whole),
            ("namespace", Shape::Whole),
            ("operation", Shape::Whole),
            (
                "userInfo",
                Shape::OnlyMembers(&[
                    ("username", Shape::Whole),
                    ("groups", Shape::Whole),
                    ("extra", Shape::OnlyMembers(&[("username", Shape::Whole)])),
                ]),
            ),
            ("object", OUTLINE),
            ("oldObject", OUTLINE),
        ]),
    ),
]);

/// Why a payload is not an admission request.
///
/// Says where, never what: the payload carries the whole VirtualMachine, with the passwords of its cloud-init.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// Cause: the request does not come from an API server, or an annotation of the policy's is nested too deeply
    /// Cure: look at who sends it
    #[error("the admission request cannot be read: it is not UTF-8")]
    NotUtf8,
    /// Cause: "it ends too early", or "it is not valid JSON, nested too deeply, or has a number out of range": the
    /// request does not come from an API server, or an annotation of the policy's is nested too deeply
    /// Cure: look at who sends it
    #[error("{what} cannot be read: {problem} at line {line}, column {column}")]
    Json { what: &'static str, problem: &'static str, line: usize, column: usize },
    /// Cause: the request does not come from an API server, or an annotation of the policy's is nested too deeply
    /// Cure: look at who sends it
    #[error("the admission request cannot be read: {0} is missing, or is not as an API server writes it")]
    Field(&'static str),
}

impl Unreadable {
    pub(crate) fn new(what: &'static str, error: &serde_json::Error) -> Self {
        Self::Json {
            what,
            problem: match error.classify() {
                Category::Eof => "it ends too early",
                _ => "it is not valid JSON, nested too deeply, or has a number out of range",
            },
            line: error.line(),
            column: error.column(),
        }
    }
}

impl<'a> Payload<'a> {
    /// Reads the payload of `validate`.
    ///
    /// # Errors
    /// [`Unreadable`] where it is not JSON, or does not say what is done with an object of which kind.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8)?;
        let mut payload =
            Json::parse(text, &PAYLOAD).map_err(|error| Unreadable::new("the admission request", &error))?;
        let settings = match payload.take("settings") {
            Json::Raw(settings) => Some(settings.get()),
            _ => None,
        };
        Ok(Self { settings, request: AdmissionRequest::read(payload.take("request"))? })
    }
}

impl<'a> AdmissionRequest<'a> {
    fn read(mut request: Json<'a>) -> Result<Self, Unreadable> {
        let mut kind = request.take("kind");
        Ok(Self {
            uid: text(request.take("uid")).unwrap_or_default(),
            group: text(kind.take("group")).unwrap_or_default(),
            kind: text(kind.take("kind")).ok_or(Unreadable::Field("request.kind.kind"))?,
            sub_resource: text(request.take("subResource")).unwrap_or_default(),
            name: text(request.take("name")).unwrap_or_default(),
            namespace: Some(text(request.take("namespace")).unwrap_or_default())
                .filter(|name| name.is_empty() || LABEL.allows(name))
                .ok_or(Unreadable::Field("request.namespace"))?,
            operation: text(request.take("operation")).ok_or(Unreadable::Field("request.operation"))?,
            requester: Requester::read(request.take("userInfo")),
            object: outline(request.take("object")),
            old_object: outline(request.take("oldObject")),
        })
    }

    /// The object, if the request creates or changes a KubeVirt `VirtualMachine` itself (not its status).
    pub(crate) fn virtual_machine(&self) -> Option<&VmOutline<'a>> {
        let concerned = self.group == "kubevirt.io"
            && self.kind == "VirtualMachine"
            && matches!(self.operation.as_ref(), "CREATE" | "UPDATE")
            && self.sub_resource.is_empty();
        self.object.as_ref().filter(|_| concerned)
    }

    /// The object as it was before an update.
    pub(crate) fn old_virtual_machine(&self) -> Option<&VmOutline<'a>> {
        self.old_object.as_ref()
    }
}

/// The text of a string.
fn text(json: Json<'_>) -> Option<Cow<'_, str>> {
    match json {
        Json::String(text) => Some(text),
        _ => None,
    }
}

/// An object that is there.
fn outline(json: Json<'_>) -> Option<VmOutline<'_>> {
    match json {
        Json::Null => None,
        root => Some(VmOutline { root }),
    }
}

/// Which request a log line is about.
impl slog::KV for AdmissionRequest<'_> {
    fn serialize(&self, _record: &slog::Record<'_>, serializer: &mut dyn slog::Serializer) -> slog::Result {
        serializer.emit_str("request_uid", &self.uid)?;
        serializer.emit_str("namespace", &self.namespace)?;
        serializer.emit_str("name", &self.name)
    }
}
