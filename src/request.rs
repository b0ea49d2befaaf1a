//! The request as the Kubewarden host sends it, borrowed from its bytes. Knows no setting and no feature.

use std::borrow::Cow;

use serde_json::error::Category;

use crate::directives::PREFIX;
use crate::json::{Json, Member, Shape};
use crate::names;

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
    object: Option<Outline<'a>>,
    old_object: Option<Outline<'a>>,
}

static PAYLOAD: Shape = Shape::Only(&[
    ("settings", Shape::Text),
    (
        "request",
        Shape::Only(&[
            ("uid", Shape::Tree),
            ("kind", Shape::Only(&[("group", Shape::Tree), ("kind", Shape::Tree)])),
            ("subResource", Shape::Tree),
            ("name", Shape::Tree),
            ("namespace", Shape::Tree),
            ("operation", Shape::Tree),
            ("object", OUTLINE),
            ("oldObject", OUTLINE),
        ]),
    ),
]);

const OUTLINE: Shape = Shape::Object(&[
    (
        "metadata",
        Shape::Object(&[
            ("annotations", Shape::Prefixed(PREFIX)),
            ("labels", Shape::Prefixed(PREFIX)),
        ]),
    ),
    ("spec", Shape::Object(&[])),
]);

/// A payload that is no admission request.
///
/// Says where, never what: the payload carries the whole VirtualMachine, with the passwords of its cloud-init.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the admission request cannot be read: it is not UTF-8")]
    NotUtf8,
    #[error("{what} cannot be read: {problem} at line {line}, column {column}")]
    Json { what: &'static str, problem: &'static str, line: usize, column: usize },
    #[error(
        "the admission request cannot be read: {0} is missing, or is not as an API server writes it"
    )]
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
    /// [`Unreadable`] where it is no JSON, or does not say what is done with an object of which kind.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8)?;
        let mut payload = Json::parse(text, &PAYLOAD)
            .map_err(|error| Unreadable::new("the admission request", &error))?;
        let settings = match payload.take("settings") {
            Json::Text(settings) => Some(settings.get()),
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
                .filter(|name| name.is_empty() || names::LABEL.allows(name))
                .ok_or(Unreadable::Field("request.namespace"))?,
            operation: text(request.take("operation"))
                .ok_or(Unreadable::Field("request.operation"))?,
            object: outline(request.take("object")),
            old_object: outline(request.take("oldObject")),
        })
    }

    /// The object, if the request creates or changes a KubeVirt `VirtualMachine` itself (not its status).
    pub(crate) fn virtual_machine(&self) -> Option<&Outline<'a>> {
        let concerned = self.group == "kubevirt.io"
            && self.kind == "VirtualMachine"
            && matches!(self.operation.as_ref(), "CREATE" | "UPDATE")
            && self.sub_resource.is_empty();
        self.object.as_ref().filter(|_| concerned)
    }

    /// The object as it was before an update.
    pub(crate) fn old_virtual_machine(&self) -> Option<&Outline<'a>> {
        self.old_object.as_ref().filter(|_| self.is_update())
    }

    /// Whether the object was there before.
    pub(crate) fn is_update(&self) -> bool {
        self.operation == "UPDATE"
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
fn outline(json: Json<'_>) -> Option<Outline<'_>> {
    match json {
        Json::Null => None,
        root => Some(Outline { root }),
    }
}

/// What of a VirtualMachine tells whether there is anything to do; the rest of it stays text, and is read when it matters.
/// Read in one pass together with the request.
#[derive(Debug)]
pub(crate) struct Outline<'a> {
    pub(crate) root: Json<'a>,
}

impl<'a> Outline<'a> {
    /// Reads a VirtualMachine.
    ///
    /// # Errors
    /// Text that is not JSON.
    pub(crate) fn parse(text: &'a str) -> serde_json::Result<Self> {
        Json::parse(text, &OUTLINE).map(|root| Self { root })
    }

    fn metadata(&self, key: &str) -> Option<&Json<'a>> {
        self.root.get("metadata").and_then(|metadata| metadata.get(key))
    }

    /// Whether the object is on its way out; then only its finalizers matter.
    pub(crate) fn is_deleting(&self) -> bool {
        match self.metadata("deletionTimestamp") {
            Some(Json::Text(time)) => !matches!(time.get(), "null" | r#""""#),
            _ => false,
        }
    }

    /// Whether there is any annotation or label of the policy's.
    pub(crate) fn mentions_policy(&self) -> bool {
        ours(self.annotations()).chain(ours(self.labels())).next().is_some()
    }

    /// The annotations, those of the policy's read.
    pub(crate) fn annotations(&self) -> &[Member<'a>] {
        self.metadata("annotations").map(Json::members).unwrap_or_default()
    }

    /// The labels, those of the policy's read.
    pub(crate) fn labels(&self) -> &[Member<'a>] {
        self.metadata("labels").map(Json::members).unwrap_or_default()
    }

    /// The template of the VirtualMachineInstance, unread.
    pub(crate) fn template(&self) -> Option<&'a str> {
        match self.root.get("spec").and_then(|spec| spec.get("template")) {
            Some(Json::Text(text)) => Some(text.get()),
            _ => None,
        }
    }
}

/// The members whose keys are the policy's, in their order.
fn ours<'o, 'a>(members: &'o [Member<'a>]) -> impl Iterator<Item = &'o Member<'a>> {
    members.iter().filter(|(key, _)| key.starts_with(PREFIX))
}

/// Which request a log line is about.
impl slog::KV for AdmissionRequest<'_> {
    fn serialize(
        &self,
        _record: &slog::Record<'_>,
        serializer: &mut dyn slog::Serializer,
    ) -> slog::Result {
        serializer.emit_str("request_uid", &self.uid)?;
        serializer.emit_str("namespace", &self.namespace)?;
        serializer.emit_str("name", &self.name)
    }
}
