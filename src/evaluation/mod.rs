//! Applies the features to one request, and handles those that fail.

mod copies;
mod neighbours;
mod occasion;
mod ownership;
mod planning;
mod renames;
mod sets;

use std::cell::OnceCell;

use slog::{Logger, info, warn};

use crate::cluster::Lookups;
use crate::directives::{Asked, Directive, Directives};
use crate::features::feature::Feature;
use crate::features::record::{Part, Record};
use crate::features::switch::is_off;
use crate::features::{FEATURES, Settings};
use crate::keys;
use crate::request::AdmissionRequest;
use crate::settings::ErrorHandling;
use crate::text;
use crate::verdict::{Decision, Denial, Verdict};
use crate::vm::entries::Entries;
use crate::vm::{ShapeError, VirtualMachine};
use copies::is_copy;
pub(crate) use copies::put_back;
use neighbours::Neighbours;
use occasion::Occasion;
pub(crate) use ownership::Ownership;
use planning::{Changes, Outcome, Step, Task};
pub(crate) use renames::follow;

/// The VirtualMachine before an update, its directives and its record.
pub(crate) struct Old {
    pub(crate) vm: VirtualMachine,
    /// The same with the devices' new names, if the update renames them ([`follow`]).
    pub(crate) renamed: Option<VirtualMachine>,
    pub(crate) directives: Directives,
    pub(crate) record: Record,
}

impl Old {
    /// The VirtualMachine, with the devices' new names if the update renames them.
    fn as_renamed(&self) -> &VirtualMachine {
        self.renamed.as_ref().unwrap_or(&self.vm)
    }
}

/// Whether a VirtualMachine shows that the directive for a feature was evaluated: the feature was applied or failed.
fn is_evaluated(feature: &Feature, directives: &Directives, record: &Record) -> bool {
    record.part(feature.name).is_some() || directives.is_marked(feature.name)
}

/// Whether an update must evaluate a feature although nothing changes: its directive was never evaluated, because the
/// VirtualMachine is older than the policy, the policy could not be called, or it comes from the settings; or a copy that
/// the policy did not see lost it. A directive that switches its feature off needs no evaluation.
pub(crate) fn is_missed(feature: &Feature, directives: &Directives, record: &Record) -> bool {
    match directives.get(feature.name) {
        Asked::Yes(directive) => !is_off(&directive) && !is_evaluated(feature, directives, record),
        Asked::No => is_copy(feature, directives, record),
        Asked::Unreadable => false,
    }
}

/// One request while the features are applied to it.
pub(crate) struct Evaluation<'r> {
    pub(crate) request: &'r AdmissionRequest,
    pub(crate) settings: &'r Settings,
    pub(crate) lookups: &'r Lookups<'r>,
    pub(crate) log: &'r Logger,
    pub(crate) old: Option<&'r Old>,
    pub(crate) directives: &'r Directives,
    pub(crate) record: &'r Record,
    /// The record as the VirtualMachine has it, if the update renames devices.
    pub(crate) written: &'r Record,
    /// The features whose directives were put back, because the VirtualMachine is a copy that lost them.
    pub(crate) put_back: &'r [&'static str],
    pub(crate) vm: VirtualMachine,
    pub(crate) ownership: Ownership,
    pub(crate) verdict: Verdict,
    pub(crate) refusals: Vec<String>,
    /// The features that fail on the VirtualMachine before the update, too. It is found out when a feature fails.
    pub(crate) failures_before: OnceCell<Vec<&'static str>>,
}

impl<'r> Evaluation<'r> {
    /// The evaluation of the VirtualMachine before the update, as an update that changes nothing.
    fn before<'o>(&'o self, old: &'o Old) -> Evaluation<'o> {
        let Self { request, settings, lookups, log, put_back, .. } = *self;
        Evaluation {
            request,
            settings,
            lookups,
            log,
            old: Some(old),
            directives: &old.directives,
            record: &old.record,
            written: &old.record,
            put_back,
            vm: old.as_renamed().clone(),
            ownership: Ownership::of(old.as_renamed(), &old.directives, &old.record, Some(old), settings),
            verdict: Verdict::default(),
            refusals: Vec::new(),
            failures_before: OnceCell::from(Vec::new()),
        }
    }

    /// Applies the features.
    pub(crate) fn all_features(mut self) -> Result<Verdict, Denial> {
        let tasks: Vec<Task<'r>> = FEATURES.iter().map(|feature| self.task(feature)).collect();
        let changes = self.changes(&tasks)?;
        self.vm.remove(&changes.gone)?;
        changes.new.iter().try_for_each(|entry| self.vm.add(entry))?;
        self.write_record(&tasks, &changes)?;
        for (task, ending) in tasks.iter().zip(changes.endings) {
            self.apply(task, ending.outcome)?;
        }
        self.verdict.warnings.extend(changes.warning);
        self.warn_of_options(&tasks);
        self.verdict.warnings.extend(self.directives.warnings());
        if !self.refusals.is_empty() {
            self.verdict.applied.clear();
            self.verdict.decision = Decision::Denied(Denial::Failures(self.refusals));
        } else if let Some(object) = self.vm.into_changed() {
            if !self.verdict.applied.is_empty() {
                // All features share one log line, because each line is a call of the host.
                let features = self.verdict.applied.join(",");
                info!(self.log, "features applied"; self.request, "features" => features);
            }
            self.verdict.decision = Decision::Mutated(object);
        }
        Ok(self.verdict)
    }

    /// Writes what the features are applied from, and what they added.
    fn write_record(&mut self, tasks: &[Task<'_>], changes: &Changes) -> Result<(), ShapeError> {
        if self.record.is_unreadable && self.old.is_none_or(|old| old.record.is_unreadable) {
            self.verdict.warnings.push(format!(
                "the annotation {} of spec.template cannot be read, so what the policy added stays; remove that by hand",
                keys::RECORD
            ));
        }
        let parts = tasks.iter().zip(&changes.endings).filter_map(|(task, ending)| {
            let (ask, added) = match &ending.outcome {
                Outcome::Planned(_) => {
                    let ask = self.directives.ask(task.feature)?;
                    (ask, self.ownership.ours(&ending.wanted, &changes.recorded))
                }
                Outcome::Left | Outcome::FailedBefore(_) => (task.part?.ask.clone(), ending.wanted.clone()),
                Outcome::Removed | Outcome::Failed(..) => return None,
            };
            Some((task.feature.name, Part { ask, added }))
        });
        // The record does not list neighbours that the policy itself removes.
        let between = |old: &Old| Neighbours::between(old.as_renamed(), &self.vm, &Entries::default());
        let neighbours = self.old.map(between).unwrap_or_default();
        let record = self.record.with(parts.collect());
        let record =
            record.with_added(|added| added.iter_mut().for_each(|it| neighbours.forget_removed(&mut it.beside)));
        // A record that says the same is left as it is, however it is written.
        if record == *self.written { Ok(()) } else { self.vm.annotate_template(keys::RECORD, record.text()) }
    }

    /// Warns about options without their directive.
    fn warn_of_options(&mut self, tasks: &[Task<'_>]) {
        let is_asked = |task: &&Task<'_>| {
            matches!(task.step, Step::Leave) || !matches!(self.directives.get(task.feature.name), Asked::No)
        };
        for Task { feature, .. } in tasks.iter().filter(|task| !is_asked(task)) {
            let is_there = |option: &&'static str| matches!(self.directives.option(option), Ok(Some(_)));
            for option in feature.options().filter(is_there) {
                let name = feature.name;
                self.verdict.warnings.push(format!("the option {option} has no effect without the directive {name}"));
            }
        }
    }

    /// Writes a feature's annotations for people.
    fn apply(&mut self, task: &Task<'_>, outcome: Outcome) -> Result<(), ShapeError> {
        let name = task.feature.name;
        if self.put_back.contains(&name) {
            self.verdict.warnings.push(format!(
                "{name}: the VirtualMachine is a copy that came without this directive, so the policy put it back"
            ));
        }
        match (outcome, &task.step) {
            (Outcome::Planned(plan), _) => {
                let applied = Some(plan.applied).filter(|_| self.settings.general.add_tracking_annotations);
                self.vm.annotate(&keys::about(name, keys::APPLIED), applied)?;
                self.vm.annotate(&keys::about(name, keys::ERROR), None)?;
                self.warn(task, &task.warnings);
                self.warn(task, &plan.warnings);
                self.verdict.applied.push(name);
            }
            (Outcome::Removed, _) => self.clear(task, None)?,
            (Outcome::Failed(error, handling), Step::Plan(directive)) => {
                self.fail(task, *directive, &error, handling)?
            }
            (Outcome::FailedBefore(error), _) => self.keep(task, error)?,
            (Outcome::Left | Outcome::Failed(..), _) => self.warn(task, &task.warnings),
        }
        Ok(())
    }

    /// Leaves the feature as it is, because it failed before this request, too. The annotation with the error is kept up
    /// to date.
    fn keep(&mut self, task: &Task<'_>, error: String) -> Result<(), ShapeError> {
        let name = task.feature.name;
        info!(self.log, "feature still fails"; self.request, "feature" => name, "error" => &error);
        self.verdict.failed.push(name);
        self.verdict.warnings.push(format!(
            "{name} fails as before this request, and stays as it is until the directive changes, or what it needs: {error}"
        ));
        match self.directives.mark(name, keys::ERROR) {
            Some(_) => self.vm.annotate(&keys::about(name, keys::ERROR), Some(error)),
            None => Ok(()),
        }
    }

    /// Removes the annotations of a feature that adds nothing any more, and says why if it failed.
    fn clear(&mut self, task: &Task<'_>, error: Option<String>) -> Result<(), ShapeError> {
        let name = task.feature.name;
        self.vm.annotate(&keys::about(name, keys::APPLIED), None)?;
        self.vm.annotate(&keys::about(name, keys::ERROR), error)?;
        self.warn(task, &task.warnings);
        if !task.recorded.is_empty() {
            info!(self.log, "feature removed"; self.request, "feature" => name);
        }
        Ok(())
    }

    fn warn(&mut self, task: &Task<'_>, messages: &[String]) {
        let name = task.feature.name;
        self.verdict.warnings.extend(messages.iter().map(|message| format!("{name}: {message}")));
    }

    /// What happens to the request if the feature fails. If the request did not ask for the feature, it is allowed.
    fn error_handling(&self, task: &Task<'_>) -> ErrorHandling {
        match task.occasion {
            Occasion::Unasked => ErrorHandling::AllowAndLog,
            Occasion::Requested | Occasion::Known => (task.feature.settings)(self.settings).error_handling,
        }
    }

    fn fail(
        &mut self,
        task: &Task<'_>,
        directive: Directive<'_>,
        error: &anyhow::Error,
        handling: ErrorHandling,
    ) -> Result<(), ShapeError> {
        let name = task.feature.name;
        let error = text::line(&error.to_string());
        self.verdict.failed.push(name);
        // If the request did not ask for the feature, the annotation also says that the directive was tried.
        let is_tracked = self.settings.general.add_tracking_annotations || task.occasion != Occasion::Requested;
        match handling {
            ErrorHandling::Reject => {
                warn!(self.log, "feature refused"; self.request, "feature" => name, "error" => &error);
                self.refusals.push(format!("{name} cannot be applied ({directive}): {error}"));
            }
            ErrorHandling::AllowAndLog => {
                warn!(self.log, "feature not applied"; self.request, "feature" => name, "error" => &error);
                self.verdict.warnings.push(format!("{name} is not applied: {error}"));
                self.clear(task, Some(error).filter(|_| is_tracked))?;
            }
            ErrorHandling::StripLabel => {
                info!(self.log, "directive removed"; self.request, "feature" => name, "error" => &error);
                let is_removed = self.can_strip(&directive);
                self.clear(task, Some(error.clone()).filter(|_| is_tracked && !is_removed))?;
                if is_removed {
                    let key = keys::directive(name);
                    let mut places = self.directives.places().iter();
                    places.try_for_each(|place| place.write(&mut self.vm, &key, None))?;
                }
                let removed =
                    if is_removed { ", and its directive is removed (errorHandling is strip-label)" } else { "" };
                self.verdict.warnings.push(format!("{name} is not applied{removed}: {error}"));
            }
        }
        Ok(())
    }
}
