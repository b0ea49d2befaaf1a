//! Who asks for a feature: the request, or an earlier one.

use super::{Evaluation, is_evaluated};
use crate::directives::{Asked, Directive, Directives, Source};
use crate::features::feature::Feature;
use crate::features::record::Record;
use crate::keys;

/// Who asks for a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// This request: it sets or changes the directive or one of its options.
    Requested,
    /// An earlier request, whose directive was evaluated.
    Known,
    /// An earlier request, but a failure must not deny this one: the directive was never evaluated, was put back in a
    /// copy, or comes from the settings.
    Unasked,
}

impl Evaluation<'_> {
    /// Finds out who asks for a feature. An update asks if the directive or an option is not as before, a new
    /// VirtualMachine if they are not as in its record.
    pub(super) fn occasion(&self, feature: &'static Feature) -> Occasion {
        let directive = self.directives.get(feature.name);
        if matches!(directive, Asked::Yes(Directive { source: Source::Default, .. })) {
            return Occasion::Unasked;
        }
        if self.put_back.contains(&feature.name) {
            return Occasion::Unasked;
        }
        let asks_for_the_same = match self.old {
            Some(old) => self.directives.ask_for_the_same(&old.directives, feature),
            // An earlier evaluation of this request put the directive back, and it failed.
            None if self.directives.mark(feature.name, keys::ERROR).is_some() => return Occasion::Unasked,
            None => {
                let recorded = self.record.part(feature.name).map(|part| &part.ask);
                recorded.is_some() && self.directives.ask(feature).as_ref() == recorded
            }
        };
        match asks_for_the_same {
            false => Occasion::Requested,
            true if self.was_evaluated(feature) => Occasion::Known,
            true => Occasion::Unasked,
        }
    }

    /// Whether the request writes the directive or an option where it counts. It may only have removed another one that
    /// counted instead, and then somebody else wrote this one.
    pub(super) fn is_written(&self, feature: &'static Feature) -> bool {
        self.old.is_none_or(|old| self.directives.is_written_since(&old.directives, feature))
    }

    /// The directives of the VirtualMachine, and those of the VirtualMachine before an update.
    fn new_and_old(&self) -> impl Iterator<Item = (&Directives, &Record)> {
        [Some((self.directives, self.record)), self.old.map(|old| (&old.directives, &old.record))].into_iter().flatten()
    }

    /// Whether the feature was applied before, even if it did not need to add anything.
    pub(super) fn was_applied(&self, feature: &Feature) -> bool {
        self.new_and_old().any(|(directives, record)| {
            record.part(feature.name).is_some() || directives.mark(feature.name, keys::APPLIED).is_some()
        })
    }

    /// Whether the directive was evaluated before this request: the feature was applied or failed.
    pub(super) fn was_evaluated(&self, feature: &Feature) -> bool {
        let (directives, record) = match self.old {
            Some(old) => (&old.directives, &old.record),
            None => (self.directives, self.record),
        };
        is_evaluated(feature, directives, record)
    }
}
