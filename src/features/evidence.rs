//! Who wrote what of a VirtualMachine: what tells the entries that a feature had added from those of the user.
//! No feature is known here.

use super::Plan;
use crate::vm::{Edit, VirtualMachine};

/// What is known of an earlier directive for a feature, which was applied.
#[derive(Debug)]
pub(crate) struct Earlier<'e> {
    /// The annotation `-applied`.
    pub(crate) record: Option<&'e str>,
    /// The directive's value at that time, if that is known.
    pub(crate) directive: Option<&'e str>,
    /// What was there before the directive, as the annotation `-kept` lists it.
    pub(crate) kept: Vec<String>,
    /// Whether the record is not in the old object: the policy is called again for a request, or for a copy.
    pub(crate) is_of_request: bool,
    /// Whether the old object has a record, this or another.
    pub(crate) was_applied: bool,
}

impl Earlier<'_> {
    /// Whether the entry was there before the directive.
    pub(super) fn keeps(&self, edit: &Edit) -> bool {
        self.kept.contains(&edit.to_string())
    }

    /// Whether it asked for the same as a directive of the value, of which the record would be `applied`.
    fn is_for(&self, value: Option<&str>, applied: &str) -> bool {
        match self.record {
            Some(record) => record == applied,
            None => self.directive == value,
        }
    }
}

/// What tells who wrote a part of the VirtualMachine.
pub(crate) struct Before<'b> {
    pub(crate) earlier: &'b Earlier<'b>,
    pub(crate) vm: &'b VirtualMachine<'b>,
    /// The VirtualMachine before this update.
    pub(crate) old: Option<&'b VirtualMachine<'b>>,
    /// What `kubectl apply` was given.
    pub(crate) declared: Option<&'b VirtualMachine<'b>>,
    /// The directive that is there now.
    pub(crate) directive: Option<&'b str>,
}

impl Before<'_> {
    /// Whether the VirtualMachine has what the edit writes, and nobody else can have written it: the user does not declare
    /// it, and it was not there before the directive, nor is it new.
    pub(crate) fn is_ours(&self, edit: &Edit) -> bool {
        let can_be_old = match self.old {
            None => true,
            Some(old) if self.earlier.is_of_request => self.earlier.was_applied || !old.has(edit),
            // With its directive still there, it may be of an earlier call for the same request.
            Some(old) => self.directive.is_some() || old.has(edit),
        };
        can_be_old
            && self.vm.has(edit)
            && !self.declared.is_some_and(|declared| declared.has(edit))
            && !self.earlier.keeps(edit)
    }

    /// Whether it is ours, and was there before this update as far as that is known.
    pub(super) fn is_old(&self, edit: &Edit) -> bool {
        self.is_ours(edit) && self.old.is_none_or(|old| old.has(edit))
    }
}

/// What an earlier directive had added, as far as the VirtualMachine still has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    /// What is taken back unless it is planned again.
    pub(crate) edits: Vec<Edit>,
    /// What is done where nothing is planned again.
    pub(crate) closing: Vec<Edit>,
    /// What stays as it cannot be told who wrote it, in words for the user.
    pub(crate) doubts: Vec<String>,
}

impl Added {
    /// Takes an entry that the VirtualMachine has under the name that the policy gives it.
    pub(super) fn claim(&mut self, before: &Before<'_>, edit: Edit) {
        if before.is_ours(&edit) {
            self.edits.push(edit);
        } else if !before.vm.has(&edit) {
            self.doubts.push(format!(
                "the VirtualMachine has something else in the place of the {edit}, which stays"
            ));
        }
    }
}

/// A feature's earlier directive, if there was one, and what it had added.
#[derive(Debug, Default)]
pub(crate) struct Past<'p> {
    pub(crate) earlier: Option<&'p Earlier<'p>>,
    pub(crate) added: Added,
}

impl Past<'_> {
    /// Whether the plan for a directive of the value asks for something else than the earlier one did.
    pub(crate) fn differs(&self, value: Option<&str>, plan: &Plan) -> bool {
        self.earlier.is_some_and(|earlier| !earlier.is_for(value, &plan.applied))
    }

    /// What of the plan is the user's: what `bare`, the VirtualMachine without what had been added, has already.
    ///
    /// After the first time only what is new to the `old` object can be told to be the user's, unless it may be what had
    /// been added under another name.
    pub(crate) fn kept(
        &self,
        plan: &Plan,
        value: Option<&str>,
        bare: &VirtualMachine<'_>,
        old: Option<&VirtualMachine<'_>>,
    ) -> Vec<String> {
        let is_first = self.earlier.is_none_or(|e| e.is_of_request && !e.was_applied);
        let is_doubtful = !self.added.doubts.is_empty();
        let takes_all = is_first || (is_doubtful && self.differs(value, plan));
        let is_known = |edit: &Edit| self.earlier.is_some_and(|e| e.keeps(edit));
        let is_new = |edit: &Edit| !is_doubtful && old.is_some_and(|old| !old.has(edit));
        let in_place = plan.edits.iter().filter(|edit| bare.has_entry(edit));
        let kept = in_place.filter(|edit| takes_all || is_known(edit) || is_new(edit));
        kept.map(Edit::to_string).collect()
    }
}
