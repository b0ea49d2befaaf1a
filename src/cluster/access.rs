//! What the policy looks up, with which permissions and why, for `cargo xtask generate`.

use super::{Kind, SUBJECT_ACCESS_REVIEW};

/// One reason to look something up.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// The kinds that are looked up together.
    pub kinds: &'static [&'static Kind],
    /// What policy-server must be allowed to do with them.
    pub verbs: Verbs,
    /// What is looked up and when, as part of a sentence.
    pub what: &'static str,
    /// What happens if it cannot be looked up, as part of a sentence.
    pub without: &'static str,
    /// It is looked up only if all of these conditions hold.
    pub needed: &'static [Condition],
}

impl Access {
    /// A lookup of these kinds, whatever the settings. What is looked up, and what happens without it, is yet to be said.
    pub(crate) const fn to(verbs: Verbs, kinds: &'static [&'static Kind]) -> Self {
        Self { kinds, verbs, what: "", without: "", needed: &[] }
    }

    /// Says what is looked up.
    pub(crate) const fn what(self, what: &'static str) -> Self {
        Self { what, ..self }
    }

    /// Says what happens without it.
    pub(crate) const fn without(self, without: &'static str) -> Self {
        Self { without, ..self }
    }

    /// Says under which conditions it is looked up.
    pub(crate) const fn only_if(self, needed: &'static [Condition]) -> Self {
        Self { needed, ..self }
    }
}

/// What policy-server must be allowed to do with objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbs {
    /// Read one object by its name.
    Get,
    /// List and watch all objects, too: Kubewarden watches what it lists.
    List,
    /// Create an object: this is how to ask for a review.
    Create,
}

impl Verbs {
    /// The verbs, as RBAC writes them.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Get => &["get"],
            Self::List => &["get", "list", "watch"],
            Self::Create => &["create"],
        }
    }
}

/// A condition on a setting.
#[derive(Debug, Clone, Copy)]
pub enum Condition {
    /// The setting is `true`.
    On(&'static str),
    /// The setting has the value.
    Is(&'static str, &'static str),
    /// The setting has another value.
    IsNot(&'static str, &'static str),
}

impl Condition {
    /// The full name of the setting.
    pub fn setting(self) -> &'static str {
        let (Self::On(setting) | Self::Is(setting, _) | Self::IsNot(setting, _)) = self;
        setting
    }
}

/// The lookup that belongs to no feature: before the policy lists objects, it asks whether policy-server has the permission.
pub(crate) const REVIEW: Access = Access {
    kinds: &[&SUBJECT_ACCESS_REVIEW],
    verbs: Verbs::Create,
    what: "whether a list is allowed, before every list",
    without: "nothing is listed",
    needed: &[],
};
