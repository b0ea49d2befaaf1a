//! The sets of entries and of nodes that [`planning`](super::planning) compares.

use super::ownership::entries;
use super::planning::{Ending, Outcome};
use crate::features::record::Recorded;
use crate::vm::entries::Entries;
use crate::vm::entry::Entry;
use crate::vm::place::HOOK_SIDECAR;

/// The entries of several features. Features share entries, so of each the largest number counts.
pub(super) fn of_all<'e>(features: impl IntoIterator<Item = &'e [Recorded]>) -> Entries {
    features.into_iter().map(entries).fold(Entries::default(), Entries::union)
}

/// The entries that the features want. Those of a feature that fails count as gone, so that devices which Harvester
/// added because of them do not cause the failure.
pub(super) fn wanted(endings: &[Ending]) -> Entries {
    of_all(successes(endings).map(|ending| ending.wanted.as_slice()))
}

/// The endings of features that do not fail.
pub(super) fn successes(endings: &[Ending]) -> impl Iterator<Item = &Ending> {
    endings.iter().filter(|ending| !matches!(ending.outcome, Outcome::Failed(..)))
}

/// The entries that go: those that are recorded and not wanted. A sidecar is replaced, and does not go.
pub(super) fn gone(recorded: Entries, wanted: &Entries) -> Entries {
    let gone = recorded.without(wanted);
    match (wanted.any_at(&HOOK_SIDECAR), gone.any_at(&HOOK_SIDECAR).cloned()) {
        (Some(_), Some(replaced)) => gone.without(&[replaced].into_iter().collect()),
        _ => gone,
    }
}

/// The entries that have to be added to what is there for all to be there, in order.
pub(super) fn new<'e>(wanted: impl IntoIterator<Item = &'e [Recorded]>, there: &Entries) -> Vec<Entry> {
    let mut all = there.clone();
    let mut new = Vec::new();
    for feature in wanted {
        let mut there = all.clone();
        for added in feature {
            if !there.take(&added.entry) {
                all.insert(added.entry.clone());
                new.push(added.entry.clone());
            }
        }
    }
    new
}

/// The names of the nodes that have what all features so far need; `None` as long as every node has.
#[derive(Default)]
pub(super) struct Nodes(Option<Vec<String>>);

impl Nodes {
    /// Leaves only those of the nodes. If none would be left, the feature says so, and the others count as before.
    pub(super) fn restrict_to(&mut self, only: Option<&[String]>) {
        let mut both = only.unwrap_or_default().to_vec();
        both.retain(|node| self.0.as_ref().is_none_or(|nodes| nodes.contains(node)));
        if !both.is_empty() {
            self.0 = Some(both);
        }
    }

    /// The names of the nodes.
    pub(super) fn names(&self) -> Option<&[String]> {
        self.0.as_deref()
    }
}
