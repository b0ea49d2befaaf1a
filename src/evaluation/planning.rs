//! Compares three sets of entries, as `kubectl apply` does: `recorded`, what the features added before this request;
//! `base`, the VirtualMachine without that; and `wanted`, what the features need on top of it. Of two equal entries, both
//! count. Nothing is changed here.

use std::borrow::Cow;

use super::occasion::Occasion;
use super::ownership::entries;
use super::sets::{Nodes, gone, new, of_all, successes, wanted};
use super::{Evaluation, Old};
use crate::directives::{Asked, Directive};
use crate::features::FEATURES;
use crate::features::feature::{Context, Feature, Plan};
use crate::features::host_devices::{Siblings, beside, has_device_rules};
use crate::features::record::{Part, Recorded};
use crate::features::switch::is_off;
use crate::settings::ErrorHandling;
use crate::text;
use crate::vm::entries::Entries;
use crate::vm::entry::Entry;
use crate::vm::place::HOST_DEVICE;
use crate::vm::{ShapeError, VirtualMachine};

/// What a request means for one feature.
pub(super) struct Task<'t> {
    pub(super) feature: &'static Feature,
    pub(super) step: Step<'t>,
    pub(super) occasion: Occasion,
    /// What the record says about the feature.
    pub(super) part: Option<&'t Part>,
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
    /// The feature fails, and the request is handled in this way.
    Failed(anyhow::Error, ErrorHandling),
    /// The feature fails as it did before the request, so what it added stays as it is.
    FailedBefore(String),
}

/// How a task ends, and the entries that the feature wants.
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    pub(super) wanted: Vec<Recorded>,
}

/// What earlier features mean for the next one.
struct Earlier<'e> {
    base: &'e VirtualMachine,
    /// The base with what they want.
    vm: &'e VirtualMachine,
    /// Those that fail.
    failing: &'e [&'static str],
    /// The nodes that have what they need.
    possible_nodes: Option<&'e [String]>,
}

/// A feature that fails as before the request, and why.
struct Kept {
    feature: &'static str,
    error: String,
}

/// The changes to the VirtualMachine, and how each task ends.
pub(super) struct Changes {
    pub(super) endings: Vec<Ending>,
    /// What all features together added before.
    pub(super) recorded: Entries,
    pub(super) gone: Entries,
    pub(super) new: Vec<Entry>,
    /// Why devices that Harvester may have added stay.
    pub(super) warning: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum RecordError {
    /// Cause: the directive is very long, or the VM has very many PCI devices
    /// Cure: shorten the directive, or ask for fewer devices
    #[error(
        "what the policy has to record about it is longer than 32 KiB; shorten the directive, or ask for fewer devices"
    )]
    TooLong,
}

impl<'r> Evaluation<'r> {
    /// Finds out what the request means for a feature.
    pub(super) fn task(&self, feature: &'static Feature) -> Task<'r> {
        let asked = self.directives.get(feature.name);
        let leave = || if self.moves_devices(feature) { Step::Remove } else { Step::Leave };
        let is_on = (feature.settings)(self.settings).enabled;
        let recorded = self.ownership.recorded(feature);
        let part = self.record.part(feature.name).or(self.old.and_then(|old| old.record.part(feature.name)));
        let changes = |part: &Part| self.ownership.changes(part, &recorded, &self.vm);
        let warnings = part.map(changes).unwrap_or_default();
        let occasion = self.occasion(feature);
        let task = |step, warnings| Task { feature, step, occasion, part, recorded, warnings };
        // If its options cannot be read, the feature might be planned differently from what is in place.
        let (directives, before) = (self.directives, self.old.map(|old| &old.directives));
        let was_set = |option| part.is_some_and(|part| part.ask.options.contains_key(option));
        let is_unreadable = match asked {
            _ if !is_on => return task(leave(), Vec::new()),
            // Options do not matter to a feature that is off.
            Asked::Yes(directive) if is_off(&directive) => false,
            Asked::Yes(_) => feature.options().any(|option| {
                directives.is_unreadable(option) || was_set(option) && directives.is_option_hidden(option, before)
            }),
            Asked::No => directives.is_hidden(feature.name, before),
            Asked::Unreadable => true,
        };
        match asked {
            _ if is_unreadable && self.was_applied(feature) => {
                let why =
                    "what the policy added stays as it is, because user data that may say otherwise cannot be read";
                match leave() {
                    Step::Leave => task(Step::Leave, vec![why.to_owned()]),
                    step => task(step, warnings),
                }
            }
            Asked::Yes(directive) if is_off(&directive) => task(Step::Remove, warnings),
            Asked::Yes(directive) => task(Step::Plan(directive), warnings),
            Asked::No => task(Step::Remove, warnings),
            Asked::Unreadable => task(leave(), Vec::new()),
        }
    }

    /// Whether the request changes where the VirtualMachine may run, while there are rules about who may have which device, so
    /// that it cannot keep the feature's devices without a check.
    fn moves_devices(&self, feature: &Feature) -> bool {
        let adds_devices = || feature.adds.contains(&&HOST_DEVICE);
        let is_moved = |old: &Old| !self.vm.is_placed_like(&old.vm);
        has_device_rules(self.settings) && adds_devices() && self.old.is_some_and(is_moved)
    }

    /// Plans the features in their order, and compares what they want with what they added before.
    pub(super) fn changes(&self, tasks: &[Task<'_>]) -> Result<Changes, ShapeError> {
        let recorded = of_all(tasks.iter().map(|task| task.recorded.as_slice()));
        let mut endings = self.endings(tasks, &Entries::default(), &[])?;
        // What a feature keeps although it fails is there for the other features, too.
        let mut kept = Vec::new();
        for (task, ending) in tasks.iter().zip(&endings) {
            if let Outcome::FailedBefore(error) = &ending.outcome {
                kept.push(Kept { feature: task.feature.name, error: error.clone() });
            }
        }
        if !kept.is_empty() {
            endings = self.endings(tasks, &Entries::default(), &kept)?;
        }
        let mut entries_gone = gone(recorded.clone(), &wanted(&endings));
        // If a device is removed, the devices that Harvester added because of it are removed, too.
        let is_gone = |added: &&Recorded| entries_gone.count(&added.entry) > 0;
        let all: Vec<&Recorded> = tasks.iter().flat_map(|task| &task.recorded).collect();
        let gone_of_all: Vec<&Recorded> = all.iter().copied().filter(is_gone).collect();
        let (siblings, warning) = self.siblings(&gone_of_all, &all);
        let first = tasks.iter().find(|task| task.recorded.iter().any(|added| is_gone(&added)));
        let warning = first.zip(warning).map(|(task, warning)| format!("{}: {warning}", task.feature.name));
        // Those of devices that stay are there when the features are planned again.
        let stays: Vec<&Recorded> = successes(&endings).flat_map(|ending| &ending.wanted).collect();
        let siblings: Entries = siblings.without_those_of(&stays).cloned().collect();
        if !siblings.is_empty() {
            endings = self.endings(tasks, &siblings, &kept)?;
            entries_gone = gone(recorded.clone(), &wanted(&endings));
        }
        let gone = entries_gone.union(siblings);
        let new = new(endings.iter().map(|ending| ending.wanted.as_slice()), &recorded);
        Ok(Changes { endings, recorded, gone, new, warning })
    }

    /// Plans the features in their order, each on the base with what earlier features want.
    fn endings(&self, tasks: &[Task<'_>], siblings: &Entries, kept: &[Kept]) -> Result<Vec<Ending>, ShapeError> {
        let kept_for = |task: &Task<'_>| kept.iter().find(|kept| kept.feature == task.feature.name);
        let error_of = |task: &Task<'_>| kept_for(task).map(|kept| &kept.error);
        let is_unchanged = |task: &&Task<'_>| matches!(task.step, Step::Leave) || error_of(task).is_some();
        let (unchanged, changing): (Vec<_>, Vec<_>) = tasks.iter().partition(is_unchanged);
        let of_all = |tasks: &[&Task<'_>]| of_all(tasks.iter().map(|task| task.recorded.as_slice()));
        let unchanged = of_all(&unchanged);
        let removed = of_all(&changing).without(&unchanged).union(siblings.clone());
        let mut base = Cow::Borrowed(&self.vm);
        if !removed.is_empty() {
            base.to_mut().remove(&removed)?;
        }
        let mut vm = base.clone();
        let mut there = unchanged;
        let mut nodes = Nodes::default();
        let mut endings = Vec::new();
        for task in tasks {
            let ending = match error_of(task) {
                Some(error) => Ending { outcome: Outcome::FailedBefore(error.clone()), wanted: task.recorded.clone() },
                None => {
                    let failing = self.failing(tasks, &endings);
                    self.ending(
                        task,
                        &Earlier { base: &base, vm: &vm, failing: &failing, possible_nodes: nodes.names() },
                    )
                }
            };
            if let Outcome::Planned(plan) = &ending.outcome {
                nodes.restrict_to(plan.nodes.as_deref());
            }
            for entry in new([ending.wanted.as_slice()], &there) {
                vm.to_mut().add(&entry)?;
                there.insert(entry);
            }
            endings.push(ending);
        }
        Ok(endings)
    }

    /// The features that fail. Those whose directives are removed because of that are left out, because later features
    /// then are planned without them.
    fn failing(&self, tasks: &[Task<'_>], endings: &[Ending]) -> Vec<&'static str> {
        let fails = |(task, ending): &(&Task<'_>, &Ending)| match (&ending.outcome, &task.step) {
            (Outcome::Failed(_, ErrorHandling::StripLabel), Step::Plan(directive)) => !self.can_strip(directive),
            (Outcome::Failed(..) | Outcome::FailedBefore(_), _) => true,
            (Outcome::Left | Outcome::Removed | Outcome::Planned(_), _) => false,
        };
        tasks.iter().zip(endings).filter(fails).map(|(task, _)| task.feature.name).collect()
    }

    /// Whether a directive can be removed. User data belongs to the guest, so the policy does not change it, nor does it
    /// change settings. If the directive is in another place, too, that one would count instead.
    pub(super) fn can_strip(&self, directive: &Directive<'_>) -> bool {
        self.directives.places().contains(&directive.source) && !self.directives.is_elsewhere(directive.feature)
    }

    /// Finds out how a task ends.
    fn ending(&self, task: &Task<'_>, earlier: &Earlier<'_>) -> Ending {
        let ending = |outcome, wanted: &[Recorded]| Ending { outcome, wanted: wanted.to_vec() };
        let directive = match task.step {
            Step::Leave => return ending(Outcome::Left, &task.recorded),
            Step::Remove => return ending(Outcome::Removed, &[]),
            Step::Plan(directive) => directive,
        };
        match self.plan(task, directive, &self.context(task, earlier)) {
            Ok((plan, wanted)) => ending(Outcome::Planned(plan), &wanted),
            Err(error) if self.failed_before(task) => {
                // If the request itself removes what the feature added, nothing is left to stay.
                let is_lost = task.recorded.is_empty() && task.part.is_some_and(|part| !part.added.is_empty());
                match is_lost {
                    true => ending(Outcome::Failed(error, ErrorHandling::AllowAndLog), &[]),
                    false => ending(Outcome::FailedBefore(text::line(&error.to_string())), &task.recorded),
                }
            }
            Err(error) => match self.error_handling(task) {
                // The request is denied. Later features are planned as if nothing had changed.
                ErrorHandling::Reject => ending(Outcome::Failed(error, ErrorHandling::Reject), &task.recorded),
                handling => ending(Outcome::Failed(error, handling), &[]),
            },
        }
    }

    /// Whether a feature that fails fails on the VirtualMachine before the update, too, with the same directive and the
    /// same options, so that the request does not cause it.
    fn failed_before(&self, task: &Task<'_>) -> bool {
        let failures = || self.old.map(|old| self.failures_on(old)).unwrap_or_default();
        task.occasion != Occasion::Requested
            && !self.moves_devices(task.feature)
            && self.was_evaluated(task.feature)
            && self.failures_before.get_or_init(failures).contains(&task.feature.name)
    }

    /// The features that fail on the VirtualMachine before the update.
    fn failures_on(&self, old: &Old) -> Vec<&'static str> {
        let before = self.before(old);
        let tasks: Vec<Task<'_>> = FEATURES.iter().map(|feature| before.task(feature)).collect();
        let failing_with = |kept: &[Kept]| -> Vec<&'static str> {
            let endings = before.endings(&tasks, &Entries::default(), kept).unwrap_or_default();
            let fails = |ending: &Ending| matches!(ending.outcome, Outcome::Failed(..) | Outcome::FailedBefore(_));
            let tasks = tasks.iter().zip(&endings).filter(|(_, ending)| fails(ending));
            tasks.map(|(task, _)| task.feature.name).collect()
        };
        // What they keep may make others fail.
        let kept = failing_with(&[]).into_iter().map(|feature| Kept { feature, error: String::new() });
        failing_with(&kept.collect::<Vec<_>>())
    }

    /// Plans a feature. The context has the base with what earlier features want. What the base has is not recorded,
    /// because the user has it.
    fn plan(
        &self,
        task: &Task<'_>,
        directive: Directive<'_>,
        context: &Context<'_>,
    ) -> anyhow::Result<(Plan, Vec<Recorded>)> {
        let plan = (task.feature.plan)(directive.text()?, context)?;
        let vm = context.vm;
        // There must be a place for the record.
        vm.check_template_annotations()?;
        let mut wanted = Vec::new();
        let mut planned = Entries::default();
        let mut ours = entries(&task.recorded);
        for entry in &plan.entries {
            planned.insert(entry.clone());
            // Harvester may rename a device of the policy's, and then it can equal one of the user's.
            if entry.as_device().is_some() && ours.take(entry) || context.base.lacks(entry, planned.count(entry))? {
                // An entry that somebody removed is added again.
                let find = |all: &[Recorded]| all.iter().find(|added| added.entry == *entry).cloned();
                let again = || Some(self.ownership.with_neighbours(find(&task.part?.added)?));
                let recorded = find(&task.recorded).or_else(again);
                let new = || Recorded { entry: entry.clone(), beside: beside(entry, vm) };
                wanted.push(recorded.unwrap_or_else(new));
            }
        }
        let ask = self.directives.ask(task.feature);
        let part = ask.map(|ask| Part { ask, added: wanted });
        if part.as_ref().is_some_and(Part::is_too_long) {
            return Err(RecordError::TooLong.into());
        }
        Ok((plan, part.map(|part| part.added).unwrap_or_default()))
    }

    /// The devices that Harvester added because of devices that are removed, and a warning if that cannot be determined.
    fn siblings(&self, gone: &[&Recorded], recorded: &[&Recorded]) -> (Siblings, Option<String>) {
        let is_declared = |entry: &Entry| self.ownership.declared.count(entry) > 0;
        let warning = |names: &[String], why: &str| {
            let names = text::list(&names.iter().map(String::as_str).collect::<Vec<_>>());
            format!("the host devices {names} stay: Harvester may have added them with one that is removed, but {why}")
        };
        match Siblings::find(gone, recorded, &self.vm, self.old.map(Old::as_renamed), is_declared, self.lookups) {
            Ok(siblings) if siblings.doubtful.is_empty() => (siblings, None),
            Ok(siblings) => {
                let why = "that is not certain; if nobody else added them, remove them";
                let warning = warning(&siblings.doubtful, why);
                (siblings, Some(warning))
            }
            Err((names, error)) => {
                (Siblings::default(), Some(warning(&names, &format!("that cannot be checked: {error}"))))
            }
        }
    }

    fn context<'c>(&'c self, task: &'c Task<'_>, earlier: &Earlier<'c>) -> Context<'c> {
        let Earlier { base, vm, failing, possible_nodes } = *earlier;
        let part_before = self.old.map_or(task.part, |old| old.record.part(task.feature.name));
        let count = |added: &[Recorded]| added.iter().filter(|added| added.entry.as_device().is_some()).count();
        Context {
            vm,
            base,
            possible_nodes,
            ours: &task.recorded,
            had: self.ownership.had(task.feature),
            applied_before: part_before.map(|part| part.ask.value.as_str()),
            namespace: &self.request.namespace,
            requester: &self.request.requester,
            // Who creates a VirtualMachine from a manifest with a record asks for what the manifest says.
            is_requested: match task.occasion {
                Occasion::Requested => self.is_written(task.feature),
                Occasion::Known => self.old.is_none(),
                Occasion::Unasked => false,
            },
            directives: self.directives,
            settings: self.settings,
            lookups: self.lookups,
            failing,
            old: self.old.map(|old| &old.vm),
            renamed: self.old.map(Old::as_renamed),
            has_lost: task.part.is_some_and(|part| count(&part.added) > count(&task.recorded)),
        }
    }
}
