//! The parts of a VirtualMachine that tell whether there is anything to do. The rest stays text, and is read when it matters.

use crate::json::{Json, Member, Shape};
use crate::keys::PREFIX;

/// How far a VirtualMachine is read in one pass together with its request.
pub(crate) const OUTLINE: Shape = Shape::Members(&[
    (
        "metadata",
        Shape::Members(&[
            ("annotations", Shape::MembersWithPrefix(PREFIX)),
            ("labels", Shape::MembersWithPrefix(PREFIX)),
        ]),
    ),
    ("spec", Shape::Members(&[])),
]);

/// A VirtualMachine of which only the policy's own annotations and labels are read.
#[derive(Debug)]
pub(crate) struct VmOutline<'a> {
    pub(crate) root: Json<'a>,
}

impl<'a> VmOutline<'a> {
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

    /// Whether the object is being deleted; then only its finalizers matter.
    pub(crate) fn is_deleting(&self) -> bool {
        match self.metadata("deletionTimestamp") {
            Some(Json::Raw(time)) => !matches!(time.get(), "null" | r#""""#),
            _ => false,
        }
    }

    /// Whether there is any annotation or label of the policy's.
    pub(crate) fn mentions_policy(&self) -> bool {
        ours(self.annotations()).chain(ours(self.labels())).next().is_some()
    }

    /// Whether the other VirtualMachine asks for the same, and has the same template.
    pub(crate) fn asks_for_the_same_as(&self, other: &Self) -> bool {
        are_ours_equal(self.annotations(), other.annotations())
            && are_ours_equal(self.labels(), other.labels())
            && self.template() == other.template()
    }

    /// The annotations, those of the policy's read.
    pub(crate) fn annotations(&self) -> &[Member<'a>] {
        self.metadata("annotations").map(Json::members).unwrap_or_default()
    }

    /// The labels, those of the policy's read.
    pub(crate) fn labels(&self) -> &[Member<'a>] {
        self.metadata("labels").map(Json::members).unwrap_or_default()
    }

    /// The text of the VirtualMachineInstance's template, unread.
    pub(crate) fn template(&self) -> Option<&'a str> {
        match self.root.get("spec").and_then(|spec| spec.get("template")) {
            Some(Json::Raw(text)) => Some(text.get()),
            _ => None,
        }
    }
}

/// The members whose keys are the policy's, in their order.
fn ours<'o, 'a>(members: &'o [Member<'a>]) -> impl Iterator<Item = &'o Member<'a>> {
    members.iter().filter(|(key, _)| key.starts_with(PREFIX))
}

/// Whether the members with the policy's keys are the same, in the same order: the API server sorts them.
fn are_ours_equal(some: &[Member<'_>], others: &[Member<'_>]) -> bool {
    ours(some).map(text).eq(ours(others).map(text))
}

fn text<'o>((key, value): &'o Member<'_>) -> (&'o str, String) {
    (key, value.to_text())
}
