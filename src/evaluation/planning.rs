//! Compares what a feature added before with what it needs now. Nothing is changed here.

use std::borrow::Cow;

use super::Evaluation;
use crate::directives::{Asked, Directive, Directives};
use crate::features::FEATURES;
use crate::features::feature::{Context, Feature, Plan};
use crate::features::host_devices::{Siblings, beside};
use crate::features::record::{Demand, Ownership, Record, Recorded};
use crate::keys;
use crate::text;
use crate::vm::entry::Entry;
use crate::vm::{ShapeError, VirtualMachine};

/// What a feature has left in the VirtualMachine earlier.
#[derive(Default)]
pub(super) struct Traces {
    /// Whether the feature was applied before, even if it did not need to add anything.
    pub(super) was_applied: bool,
    /// The entries that the feature added, as they are now.
    pub(super) ours: Vec<Recorded>,
    /// Warnings about entries that were changed or removed.
    pub(super) warnings: Vec<String>,
}

/// The changes that a plan makes to the VirtualMachine.
pub(super) struct Change {
    pub(super) plan: Plan,
    pub(super) record: Record,
    pub(super) gone: Vec<Entry>,
    pub(super) new: Vec<Entry>,
}

impl Evaluation<'_> {
    /// Finds what the feature added before: the entries of its record that are still there and do not belong to the user.
    pub(super) fn find(&self, feature: &Feature, demand: Demand) -> Traces {
        let name = feature.name;
        let read = |text| Record::read(text, feature.adds);
        let old_directives = self.old.map(|old| &old.directives);
        let texts = [Some(self.directives), old_directives].map(|d| d.and_then(|d| d.record(name)));
        let [record, old_record] = texts.map(|text| text.and_then(read));
        let mut traces = Traces::default();
        let is_applied = |directives: &Directives| directives.applied(name).is_some();
        traces.was_applied =
            texts.iter().any(Option::is_some) || is_applied(self.directives) || old_directives.is_some_and(is_applied);
        if record.is_none() && texts[0].is_some() && old_record.is_none() {
            traces.warnings.push(format!(
                "the annotation {} cannot be read, so what the policy added stays; remove that by hand",
                keys::record(name)
            ));
        }
        let Some(record) = record.as_ref().or(old_record.as_ref()) else {
            return traces;
        };
        let ownership = self.ownership(feature, demand);
        let still_there = record.still_in(&self.vm, |entry| ownership.may_be_ours(entry));
        traces.warnings.extend(still_there.changes(&self.vm, &ownership));
        traces.ours = still_there.ours;
        traces
    }

    fn ownership(&self, feature: &Feature, demand: Demand) -> Ownership<'_> {
        let old_record = self.old.and_then(|old| old.directives.record(feature.name));
        let old_record = old_record.and_then(|text| Record::read(text, feature.adds));
        let old = self.old.map(|old| &old.vm);
        let added_to_old = match (old_record, old) {
            (Some(record), Some(old)) => record.still_in(old, |_| true).ours,
            _ => Vec::new(),
        };
        let declared = self.declared.as_ref();
        Ownership { declared, old, added_to_old, demand }
    }

    /// The entries that later features added before.
    fn added_later(&self, feature: &Feature) -> Vec<Entry> {
        let mut entries = Vec::new();
        let later = FEATURES.iter().skip_while(|other| other.name != feature.name).skip(1);
        for other in later.filter(|other| self.directives.record(other.name).is_some()) {
            entries.extend(self.find(other, Demand::Asked).ours.into_iter().map(|added| added.entry));
        }
        entries
    }

    /// Plans the feature on the VirtualMachine without the entries that this feature and later ones added before, and
    /// compares the plan with what is there.
    pub(super) fn plan(
        &self,
        feature: &Feature,
        directive: Directive<'_>,
        traces: &Traces,
    ) -> anyhow::Result<Option<Change>> {
        let value = directive.text()?;
        let ours = || traces.ours.iter().map(|added| &added.entry);
        let later = self.added_later(feature);
        let mut bare = self.without(ours().chain(&later))?;
        let mut plan = (feature.plan)(value, &self.context(feature, &bare, traces));
        let mut siblings = Siblings::default();
        let stays = |plan: &Plan| ours().all(|entry| plan.entries.contains(entry));
        if !matches!(&plan, Ok(Some(plan)) if stays(plan)) {
            // If a device is removed, the devices that Harvester added because of it are removed, too.
            let warning;
            (siblings, warning) = self.siblings(feature, traces);
            if siblings.entries().next().is_some() {
                bare = self.without(ours().chain(siblings.entries()).chain(&later))?;
                plan = (feature.plan)(value, &self.context(feature, &bare, traces));
            }
            if let Ok(Some(plan)) = &mut plan {
                plan.warnings.extend(warning);
            }
        }
        match plan? {
            Some(plan) => Ok(Some(self.change(feature, plan, traces, &bare, &siblings, &later)?)),
            None => Ok(None),
        }
    }

    /// Compares a plan with the VirtualMachine: which entries are new, and which of the feature's entries are to be
    /// removed. `bare` is the VirtualMachine that the plan was made for. `later` are the entries of later features,
    /// which it does not contain.
    fn change(
        &self,
        feature: &Feature,
        plan: Plan,
        traces: &Traces,
        bare: &VirtualMachine,
        siblings: &Siblings,
        later: &[Entry],
    ) -> Result<Change, ShapeError> {
        let ownership = self.ownership(feature, Demand::Asked);
        let (mut staying, mut new, mut record) = (Vec::new(), Vec::new(), Record::default());
        for entry in &plan.entries {
            if !bare.lacks(entry)? {
                continue;
            }
            let beside = match traces.ours.iter().find(|added| added.entry == *entry) {
                Some(added) => self.beside_since(added, bare),
                None => {
                    new.push(entry.clone());
                    beside(entry, bare)
                }
            };
            let added = Recorded { entry: entry.clone(), beside };
            if self.removed.contains(entry) || later.contains(entry) || ownership.may_be_ours(entry) {
                record.0.push(added.clone());
            }
            staying.push(added);
        }
        let is_gone = |entry: &&Entry| !staying.iter().any(|added| added.entry.replaces(entry));
        let gone = traces.ours.iter().map(|added| &added.entry).filter(is_gone);
        let gone = gone.chain(siblings.without_those_of(&staying)).cloned().collect();
        Ok(Change { plan, record, gone, new })
    }

    /// The PCIDevices that were beside an entry when it was added, and those that someone adds in this update.
    fn beside_since(&self, added: &Recorded, vm: &VirtualMachine) -> Vec<String> {
        let mut names = added.beside.clone();
        if let Some(old) = self.old {
            let before = beside(&added.entry, &old.vm);
            let is_new = |name: &String| !before.contains(name) && !added.beside.contains(name);
            names.extend(beside(&added.entry, vm).into_iter().filter(is_new));
        }
        names
    }

    /// The VirtualMachine without the entries.
    fn without<'e>(&self, entries: impl Iterator<Item = &'e Entry>) -> Result<Cow<'_, VirtualMachine>, ShapeError> {
        let mut vm = Cow::Borrowed(&self.vm);
        for entry in entries {
            vm.to_mut().remove(entry)?;
        }
        Ok(vm)
    }

    /// The devices that Harvester added because of the feature's devices, and a warning if that cannot be determined.
    pub(super) fn siblings(&self, feature: &Feature, traces: &Traces) -> (Siblings, Option<String>) {
        let is_declared = |entry: &Entry| self.declared.as_ref().is_some_and(|vm| vm.has(entry));
        let is_of_another = |entry: &Entry| {
            let others = FEATURES.iter().filter(|other| other.name != feature.name);
            let records = others.filter_map(|other| Record::read(self.directives.record(other.name)?, other.adds));
            records.into_iter().any(|r| r.0.iter().any(|added| added.entry == *entry))
        };
        let is_asked_for = |entry: &Entry| is_declared(entry) || is_of_another(entry);
        match Siblings::find(&traces.ours, &self.vm, is_asked_for, self.lookups) {
            Ok(siblings) => (siblings, None),
            Err((names, error)) => {
                let names = text::list(names.iter().map(String::as_str));
                let warning = format!(
                    "the host devices {names} stay: Harvester may have added them with one that is removed, but that cannot be checked: {error}"
                );
                (Siblings::default(), Some(warning))
            }
        }
    }

    fn context<'c>(&'c self, feature: &Feature, vm: &'c VirtualMachine, traces: &'c Traces) -> Context<'c> {
        let name = feature.name;
        let old = self.old.map(|old| &old.directives);
        let directive_before = || match old?.get(name) {
            Asked::Yes(directive) => directive.text().ok(),
            Asked::No | Asked::Unreadable => None,
        };
        let applied_before = old.and_then(|old| old.applied(name));
        Context {
            vm,
            ours: &traces.ours,
            applied_before: applied_before.or_else(directive_before),
            namespace: &self.request.namespace,
            requester: &self.request.requester,
            directives: self.directives,
            settings: self.settings,
            lookups: self.lookups,
            old: self.old.map(|old| &old.vm),
        }
    }
}
