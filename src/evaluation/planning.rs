//! Compares three sets of entries, as `kubectl apply` does: `recorded`, what the features added before this request;
//! `base`, the VirtualMachine without that; and `wanted`, what the features need on top of it. Nothing is changed here.

use std::borrow::Cow;

use super::{Evaluation, Old};
use crate::directives::{Asked, Directive, Directives};
use crate::features::FEATURES;
use crate::features::feature::{Context, Feature, Plan};
use crate::features::host_devices::{Siblings, beside};
use crate::features::record::{Record, Recorded};
use crate::keys;
use crate::settings::ErrorHandling;
use crate::text;
use crate::vm::entry::Entry;
use crate::vm::{ShapeError, VirtualMachine};

/// What a request means for one feature.
pub(super) struct Task<'t> {
    pub(super) feature: &'static Feature,
    pub(super) step: Step<'t>,
    /// What the feature added before this request, as it is now.
    pub(super) recorded: Vec<Recorded>,
    pub(super) warnings: Vec<String>,
}

/// What is to be done for a feature.
pub(super) enum Step<'t> {
    /// What it added stays as it is: the settings switch the feature off, or the directive cannot be read.
    Leave,
    /// What it added is removed, because there is no directive.
    Remove,
    Plan(Directive<'t>),
}

/// How the task of a feature ends.
pub(super) enum Outcome {
    /// What the feature added stays as it is.
    Left,
    /// What the feature added is removed.
    Removed,
    Planned(Plan),
    /// The feature fails, and its error mode decides.
    Failed(anyhow::Error),
    /// The feature fails as it did before the request, so what it added stays as it is.
    FailedBefore(anyhow::Error),
}

/// How a task ends, and the entries that the feature wants.
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    pub(super) wanted: Vec<Recorded>,
}

/// The changes to the VirtualMachine, and how each task ends.
pub(super) struct Changes {
    pub(super) endings: Vec<Ending>,
    pub(super) gone: Vec<Entry>,
    /// Why devices that Harvester may have added stay.
    pub(super) warning: Option<String>,
}

/// The record of a feature, if there is one that can be read.
pub(super) fn read_record(directives: &Directives, feature: &Feature) -> Option<Record> {
    Record::read(directives.record(feature.name)?, feature.adds)
}

/// The entries that no entry in `staying` is, or replaces.
fn without<'e>(entries: &'e [Recorded], staying: &[Recorded]) -> Vec<&'e Recorded> {
    let stays = |added: &Recorded| staying.iter().any(|other| other.entry.replaces(&added.entry));
    entries.iter().filter(|added| !stays(added)).collect()
}

impl<'r> Evaluation<'r> {
    /// Finds out what the request means for a feature.
    pub(super) fn task(&self, feature: &'static Feature) -> Task<'r> {
        let asked = self.directives.get(feature.name);
        let is_on = (feature.settings)(self.settings).enabled;
        let (mut recorded, warnings) = self.recorded(feature);
        if is_on && self.old.is_some() && !matches!(asked, Asked::Yes(_)) {
            // An entry that comes with the update that removes the directive belongs to the user.
            recorded.retain(|added| !self.ownership.is_new(&added.entry));
        }
        let task = |step, warnings| Task { feature, step, recorded, warnings };
        // If its options cannot be read, the feature might be planned differently from what is in place.
        let is_unreadable = match asked {
            _ if !is_on => return task(Step::Leave, Vec::new()),
            Asked::Yes(_) => feature.options().any(|option| self.directives.is_unreadable(option)),
            Asked::No => false,
            Asked::Unreadable => true,
        };
        match asked {
            _ if is_unreadable && self.was_applied(feature) => {
                let why =
                    "what the policy added stays as it is, because user data that may say otherwise cannot be read";
                task(Step::Leave, vec![why.to_owned()])
            }
            Asked::Yes(directive) => task(Step::Plan(directive), warnings),
            Asked::No => task(Step::Remove, warnings),
            Asked::Unreadable => task(Step::Leave, Vec::new()),
        }
    }

    /// The directives of the VirtualMachine, and those of the VirtualMachine before an update.
    fn new_and_old(&self) -> impl Iterator<Item = &Directives> {
        [Some(self.directives), self.old.map(|old| &old.directives)].into_iter().flatten()
    }

    /// Whether the feature was applied before, even if it did not need to add anything.
    fn was_applied(&self, feature: &Feature) -> bool {
        self.new_and_old().any(|d| d.record(feature.name).is_some() || d.applied(feature.name).is_some())
    }

    /// What the feature added before this request: the entries of its record that are still there and do not belong to
    /// the user. The warnings are about entries that were changed, or a record that cannot be read.
    fn recorded(&self, feature: &Feature) -> (Vec<Recorded>, Vec<String>) {
        let Some(record) = self.new_and_old().find_map(|directives| read_record(directives, feature)) else {
            let key = keys::about(feature.name, keys::ADDED);
            let warning =
                format!("the annotation {key} cannot be read, so what the policy added stays; remove that by hand");
            let is_there = self.directives.record(feature.name).is_some();
            return (Vec::new(), is_there.then_some(warning).into_iter().collect());
        };
        let found = record.still_in(&self.vm, |entry| self.ownership.may_be_ours(entry));
        let warnings = found.changes(&self.vm, &self.ownership);
        (found.ours, warnings)
    }

    /// Plans the features in their order, and compares what they want with what they added before.
    pub(super) fn changes(&self, tasks: &[Task<'_>]) -> Result<Changes, ShapeError> {
        let recorded: Vec<Recorded> = tasks.iter().flat_map(|task| task.recorded.iter().cloned()).collect();
        let mut endings = self.endings(tasks, &Siblings::default())?;
        let wanted = |endings: &[Ending]| {
            let successes = endings.iter().filter(|ending| !matches!(ending.outcome, Outcome::Failed(_)));
            successes.flat_map(|ending| ending.wanted.clone()).collect::<Vec<_>>()
        };
        // If a device is removed, the devices that Harvester added because of it are removed, too.
        let (siblings, warning) = self.siblings(&without(&recorded, &wanted(&endings)), &recorded);
        let is_shrinking = |task: &&Task<'_>| !without(&task.recorded, &wanted(&endings)).is_empty();
        let feature = tasks.iter().find(is_shrinking).map(|task| task.feature.name);
        let warning = feature.zip(warning).map(|(name, warning)| format!("{name}: {warning}"));
        if siblings.entries().next().is_some() {
            endings = self.endings(tasks, &siblings)?;
        }
        let wanted = wanted(&endings);
        let gone = without(&recorded, &wanted).into_iter().map(|added| &added.entry);
        let gone = gone.chain(siblings.without_those_of(&wanted)).cloned().collect();
        Ok(Changes { endings, gone, warning })
    }

    /// Plans the features in their order, each on the base with what earlier features want.
    fn endings(&self, tasks: &[Task<'_>], siblings: &Siblings) -> Result<Vec<Ending>, ShapeError> {
        let (left, changing): (Vec<_>, Vec<_>) = tasks.iter().partition(|task| matches!(task.step, Step::Leave));
        let mut base = Cow::Borrowed(&self.vm);
        let recorded = changing.iter().flat_map(|task| &task.recorded).map(|added| &added.entry);
        recorded.chain(siblings.entries()).try_for_each(|entry| base.to_mut().remove(entry))?;
        left.iter().flat_map(|task| &task.recorded).try_for_each(|added| base.to_mut().add(&added.entry))?;
        let mut vm = base.clone();
        let mut endings = Vec::new();
        for task in tasks {
            let ending = self.ending(task, &base, &vm);
            ending.wanted.iter().try_for_each(|added| vm.to_mut().add(&added.entry))?;
            endings.push(ending);
        }
        Ok(endings)
    }

    /// Finds out how a task ends. `vm` is the base with what earlier features want.
    fn ending(&self, task: &Task<'_>, base: &VirtualMachine, vm: &VirtualMachine) -> Ending {
        let ending = |outcome, wanted: &[Recorded]| Ending { outcome, wanted: wanted.to_vec() };
        let directive = match task.step {
            Step::Leave => return ending(Outcome::Left, &task.recorded),
            Step::Remove => return ending(Outcome::Removed, &[]),
            Step::Plan(directive) => directive,
        };
        match self.plan(task, directive, base, vm) {
            Ok(Some((plan, wanted))) => ending(Outcome::Planned(plan), &wanted),
            Ok(None) => ending(Outcome::Removed, &[]),
            Err(error) if self.failed_before(task.feature) => ending(Outcome::FailedBefore(error), &task.recorded),
            // The request is denied. Later features are planned as if nothing had changed.
            Err(error) if self.error_handling(task.feature) == ErrorHandling::Reject => {
                ending(Outcome::Failed(error), &task.recorded)
            }
            Err(error) => ending(Outcome::Failed(error), &[]),
        }
    }

    /// Whether a feature that fails fails on the VirtualMachine before the update, too, with the same directive and the
    /// same options, so that the request does not cause it.
    fn failed_before(&self, feature: &Feature) -> bool {
        let failed_on = |old: &Old| {
            let before = self.before(old);
            let tasks: Vec<Task<'_>> = FEATURES.iter().map(|feature| before.task(feature)).collect();
            let failed = |ending: &Ending| matches!(ending.outcome, Outcome::Failed(_));
            let features = tasks.iter().map(|task| task.feature.name);
            let endings = before.endings(&tasks, &Siblings::default()).unwrap_or_default();
            features.zip(&endings).filter(|(_, ending)| failed(ending)).map(|(name, _)| name).collect()
        };
        let is_asked_anew =
            self.old.is_none_or(|old| !self.directives.ask_the_same(&old.directives, feature.name, feature.options()));
        let failures = || self.old.map(failed_on).unwrap_or_default();
        !is_asked_anew && self.failures_before.get_or_init(failures).contains(&feature.name)
    }

    /// Plans a feature. `vm` is the base with what earlier features want. What the base has is not recorded, because
    /// the user has it.
    fn plan(
        &self,
        task: &Task<'_>,
        directive: Directive<'_>,
        base: &VirtualMachine,
        vm: &VirtualMachine,
    ) -> anyhow::Result<Option<(Plan, Vec<Recorded>)>> {
        let Some(plan) = (task.feature.plan)(directive.text()?, &self.context(task, vm))? else {
            return Ok(None);
        };
        let mut wanted = Vec::new();
        for entry in &plan.entries {
            if base.lacks(entry)? {
                let beside = match task.recorded.iter().find(|added| added.entry == *entry) {
                    Some(added) => self.beside_since(added, vm),
                    None => beside(entry, vm),
                };
                wanted.push(Recorded { entry: entry.clone(), beside });
            }
        }
        Ok(Some((plan, wanted)))
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

    /// The devices that Harvester added because of devices that are removed, and a warning if that cannot be determined.
    fn siblings(&self, gone: &[&Recorded], recorded: &[Recorded]) -> (Siblings, Option<String>) {
        let is_declared = |entry: &Entry| self.ownership.declared.as_ref().is_some_and(|vm| vm.has(entry));
        match Siblings::find(gone, recorded, &self.vm, is_declared, self.lookups) {
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

    fn context<'c>(&'c self, task: &'c Task<'_>, vm: &'c VirtualMachine) -> Context<'c> {
        let name = task.feature.name;
        let old = self.old.map(|old| &old.directives);
        let directive_before = || match old?.get(name) {
            Asked::Yes(directive) => directive.text().ok(),
            Asked::No | Asked::Unreadable => None,
        };
        let applied_before = old.and_then(|old| old.applied(name));
        Context {
            vm,
            ours: &task.recorded,
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
