//! The request as the Kubewarden host sends it, borrowed from its bytes. Knows no setting and no feature.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::directives::PREFIX;
use crate::json::{Json, Member, Shape};

/// Whether a payload may be of any concern to the policy, at a glance: most virtual machines ask for nothing.
///
/// The host writes the payload itself, so a key of the policy's stands in it as it is, never with escapes. A payload that
/// does not look like the host's is to be read, so that what is wrong with it can be said.
pub(crate) fn may_concern(payload: &[u8]) -> bool {
    const OF_REQUEST: [&[u8]; 3] =
        [br#""request":{"#, br#""kind":{"group":""#, br#""operation":""#];
    let is_hosts = payload.starts_with(b"{")
        && payload.ends_with(b"}")
        && OF_REQUEST.iter().all(|text| behind(payload, text).is_some());
    if !is_hosts {
        return true;
    }
    behind(payload, PREFIX.as_bytes()).is_some() || may_read_user_data(payload)
}

/// Whether user data may be switched on: in the settings it is an object, in a virtual machine mostly a text.
fn may_read_user_data(payload: &[u8]) -> bool {
    let mut rest = payload;
    while let Some(object) = behind(rest, br#""userData":{"#) {
        let members = memchr::memchr(b'}', object).and_then(|end| object.get(..end));
        if members.is_some_and(|members| behind(members, b"true").is_some()) {
            return true;
        }
        rest = object;
    }
    false
}

/// What follows the first place of a text.
fn behind<'b>(bytes: &'b [u8], text: &[u8]) -> Option<&'b [u8]> {
    bytes.get(position(bytes, text)? + text.len()..)
}

/// The first place of a text of at least two bytes.
#[cfg(target_feature = "simd128")]
fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    use memchr::arch::all::packedpair::Pair;
    use memchr::arch::wasm32::simd128::packedpair::Finder;
    // Where two bytes some way apart are right, the rest is mostly, too.
    let middle = u8::try_from(text.len() / 2).ok()?;
    let finder = Finder::with_pair(text, Pair::with_indices(text, 0, middle)?)?;
    if bytes.len() < finder.min_haystack_len() {
        return bytes.windows(text.len()).position(|window| window == text);
    }
    finder.find(bytes, text)
}

/// The first place of a text.
#[cfg(not(target_feature = "simd128"))]
fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, text)
}

/// The payload of the waPC function `validate`: the request and the policy's settings.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload<'a> {
    #[serde(borrow, default)]
    pub(crate) settings: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) request: AdmissionRequest<'a>,
}

/// The parts of a Kubernetes `AdmissionRequest` (`admission.k8s.io/v1`) that the policy reads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AdmissionRequest<'a> {
    #[serde(borrow, default)]
    pub(crate) uid: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) kind: GroupVersionKind<'a>,
    #[serde(borrow, default)]
    pub(crate) sub_resource: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) operation: Cow<'a, str>,
    #[serde(borrow, default)]
    object: Option<Outline<'a>>,
    #[serde(borrow, default)]
    old_object: Option<Outline<'a>>,
}

/// The kind of the object; the version does not matter to the policy.
#[derive(Debug, Deserialize)]
pub(crate) struct GroupVersionKind<'a> {
    #[serde(borrow, default)]
    pub(crate) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) kind: Cow<'a, str>,
}

/// A payload that is no admission request.
///
/// Says where, never what: the payload carries the whole VirtualMachine, with the passwords of its cloud-init.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the admission request cannot be read: it is not UTF-8")]
    NotUtf8,
    #[error("{what} cannot be read: {problem} at line {line}, column {column}")]
    Json { what: &'static str, problem: &'static str, line: usize, column: usize },
}

impl Unreadable {
    pub(crate) fn new(what: &'static str, error: &serde_json::Error) -> Self {
        Self::Json {
            what,
            problem: match error.classify() {
                Category::Syntax => {
                    "it is not valid JSON, nested too deeply, or has a number out of range"
                }
                Category::Eof => "it ends too early",
                Category::Data => "a field is missing or has the wrong type",
                Category::Io => "the bytes cannot be read",
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
    /// [`Unreadable`] where it is no JSON, or a field that the policy needs is missing or of another type.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8)?;
        serde_json::from_str(text).map_err(|e| Unreadable::new("the admission request", &e))
    }
}

impl<'a> AdmissionRequest<'a> {
    /// The object, if the request creates or changes a KubeVirt `VirtualMachine` itself (not its status).
    pub(crate) fn virtual_machine(&self) -> Option<&Outline<'a>> {
        let concerned = self.kind.group == "kubevirt.io"
            && self.kind.kind == "VirtualMachine"
            && matches!(self.operation.as_ref(), "CREATE" | "UPDATE")
            && self.sub_resource.as_deref().unwrap_or_default().is_empty();
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

/// What of a VirtualMachine tells whether there is anything to do; the rest of it stays text, and is read when it matters.
/// Read in one pass together with the request.
#[derive(Debug)]
pub(crate) struct Outline<'a> {
    pub(crate) root: Json<'a>,
}

static OUTLINE: Shape = Shape::Object(&[
    (
        "metadata",
        Shape::Object(&[
            ("annotations", Shape::Prefixed(PREFIX)),
            ("labels", Shape::Prefixed(PREFIX)),
        ]),
    ),
    ("spec", Shape::Object(&[])),
]);

impl<'de: 'a, 'a> Deserialize<'de> for Outline<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { root: OUTLINE.deserialize(deserializer)? })
    }
}

impl<'a> Outline<'a> {
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

    /// Whether two VirtualMachines ask the policy for the same: equal annotations and labels of ours, equal templates.
    /// Members are compared in their order, templates as text: the API server writes both objects in one way.
    pub(crate) fn asks_the_same(&self, other: &Outline<'_>) -> bool {
        same_members(self.annotations(), other.annotations())
            && same_members(self.labels(), other.labels())
            && self.template().map(RawValue::get) == other.template().map(RawValue::get)
    }

    /// The template of the VirtualMachineInstance, unread.
    pub(crate) fn template(&self) -> Option<&'a RawValue> {
        match self.root.get("spec").and_then(|spec| spec.get("template")) {
            Some(Json::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// The members whose keys are the policy's, in their order.
fn ours<'o, 'a>(members: &'o [Member<'a>]) -> impl Iterator<Item = &'o Member<'a>> {
    members.iter().filter(|(key, _)| key.starts_with(PREFIX))
}

fn same_members(a: &[Member<'_>], b: &[Member<'_>]) -> bool {
    ours(a).map(|(k, v)| (k, v.to_text())).eq(ours(b).map(|(k, v)| (k, v.to_text())))
}

/// Which request a log line is about.
impl slog::KV for AdmissionRequest<'_> {
    fn serialize(
        &self,
        _record: &slog::Record<'_>,
        serializer: &mut dyn slog::Serializer,
    ) -> slog::Result {
        serializer.emit_str("request_uid", &self.uid)?;
        serializer.emit_str("namespace", self.namespace.as_deref().unwrap_or_default())?;
        serializer.emit_str("name", self.name.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::directive(r#"{"vm-feature-manager.io/nested-virt":"on"}"#, true)]
    #[case::in_a_text(r#"["vm-vm-feature-manager.io/"]"#, true)]
    #[case::cut_off(r#""vm-feature-manager.io""#, false)]
    #[case::another_prefix(r#"{"vm-feature-manager.example/nested-virt":"on"}"#, false)]
    #[case::user_data_on(r#"{"userData":{"readSecrets":false,"enabled":true}}"#, true)]
    #[case::user_data_off(r#"{"userData":{"enabled":false},"x":true}"#, false)]
    #[case::user_data_on_behind_another(
        r#"{"userData":{}},"x":{"userData":{"enabled":true}"#,
        true
    )]
    #[case::user_data_of_a_vm(r##"{"userData":"#cloud-config","y":{"z":true}}"##, false)]
    #[case::nothing("null", false)]
    fn a_glance(#[case] object: &str, #[case] concerns: bool) {
        let request = format!(
            r#"{{"kind":{{"group":"kubevirt.io","kind":"VirtualMachine"}},"operation":"CREATE","object":{object}}}"#
        );
        assert_eq!(may_concern(format!(r#"{{"request":{request}}}"#).as_bytes()), concerns);
        assert!(may_concern(request.as_bytes()), "no payload of the host's");
    }
}
