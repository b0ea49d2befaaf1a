//! What the policy looks up, with which permissions and why, for `cargo xtask generate`.

use super::{Kind, SUBJECT_ACCESS_REVIEW};

/// One reason to look something up.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// The kinds that are looked up together.
    pub kinds: &'static [&'static Kind],
    /// What policy-server must be allowed to do with them.
    pub verbs: Verbs,
    /// What is looked up and when, as a part of a sentence.
    pub what: &'static str,
    /// What happens where it cannot be looked up, as a part of a sentence.
    pub without: &'static str,
    /// The settings with which it is looked up at all.
    pub needed: &'static [Condition],
}

/// What policy-server must be allowed to do with a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbs {
    /// To read one object by its name.
    Get,
    /// To list them as well: Kubewarden watches what it lists.
    List,
    /// To create one, which is how a review is asked for.
    Create,
}

impl Verbs {
    /// The verbs as RBAC has them.
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
    /// The whole name of the setting.
    pub fn setting(self) -> &'static str {
        let (Self::On(setting) | Self::Is(setting, _) | Self::IsNot(setting, _)) = self;
        setting
    }
}

/// What is looked up for no feature in particular: before a list, the policy asks whether it may.
pub(crate) const REVIEW: Access = Access {
    kinds: &[&SUBJECT_ACCESS_REVIEW],
    verbs: Verbs::Create,
    what: "whether a list is allowed, before every list",
    without: "nothing is listed",
    needed: &[],
};
