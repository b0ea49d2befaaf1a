//! Applies the features to one request, and handles those that fail.

mod planning;

use std::cell::OnceCell;

use slog::{Logger, info, warn};

use crate::cluster::Lookups;
use crate::directives::{Asked, Directive, Directives, Source};
use crate::features::feature::{Feature, Plan};
use crate::features::record::{Ownership, Recorded};
use crate::features::{FEATURES, Settings};
use crate::keys;
use crate::request::AdmissionRequest;
use crate::settings::ErrorHandling;
use crate::text;
use crate::verdict::{Decision, Denial, Verdict};
use crate::vm::{ShapeError, VirtualMachine};
use planning::{Ending, Outcome, Step, Task};

/// The VirtualMachine before an update, and its directives.
pub(crate) struct Old {
    pub(crate) vm: VirtualMachine,
    pub(crate) directives: Directives,
}

/// One request while the features are applied to it.
pub(crate) struct Evaluation<'r> {
    pub(crate) request: &'r AdmissionRequest,
    pub(crate) settings: &'r Settings,
    pub(crate) lookups: &'r Lookups<'r>,
    pub(crate) log: &'r Logger,
    pub(crate) old: Option<&'r Old>,
    pub(crate) directives: &'r Directives,
    pub(crate) vm: VirtualMachine,
    pub(crate) ownership: Ownership<'r>,
    pub(crate) verdict: Verdict,
    pub(crate) refusals: Vec<String>,
    /// The features that fail on the VirtualMachine before the update, too. It is found out when a feature fails.
    pub(crate) failures_before: OnceCell<Vec<&'static str>>,
}

/// Finds out which entries of a VirtualMachine belong to the user.
pub(crate) fn ownership<'o>(vm: &VirtualMachine, old: Option<&'o Old>) -> Ownership<'o> {
    let added_to = |old: &Old| {
        let records = FEATURES.iter().filter_map(|feature| planning::read_record(&old.directives, feature));
        records.flat_map(|record| record.still_in(&old.vm, |_| true).ours).collect()
    };
    let added_to_old = old.map(added_to).unwrap_or_default();
    Ownership { declared: vm.last_applied(), old: old.map(|old| &old.vm), added_to_old }
}

impl<'r> Evaluation<'r> {
    /// The evaluation of the VirtualMachine before the update, as an update that changes nothing.
    fn before<'o>(&'o self, old: &'o Old) -> Evaluation<'o> {
        let Self { request, settings, lookups, log, .. } = *self;
        Evaluation {
            request,
            settings,
            lookups,
            log,
            old: Some(old),
            directives: &old.directives,
            vm: old.vm.clone(),
            ownership: ownership(&old.vm, Some(old)),
            verdict: Verdict::default(),
            refusals: Vec::new(),
            failures_before: OnceCell::from(Vec::new()),
        }
    }

    /// Applies the features.
    pub(crate) fn all_features(mut self) -> Result<Verdict, Denial> {
        let tasks: Vec<Task<'r>> = FEATURES.iter().map(|feature| self.task(feature)).collect();
        let changes = self.changes(&tasks)?;
        changes.gone.iter().try_for_each(|entry| self.vm.remove(entry))?;
        for (task, ending) in tasks.iter().zip(changes.endings) {
            self.apply(task, ending)?;
        }
        self.verdict.warnings.extend(changes.warning);
        self.warn_of_options();
        let features: Vec<_> = FEATURES.iter().map(|feature| feature.name).collect();
        let mut known = features.clone();
        known.extend(FEATURES.iter().flat_map(|feature| feature.options()));
        self.verdict.warnings.extend(self.directives.warnings(&features, &known));
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

    /// Warns about options without their directive.
    fn warn_of_options(&mut self) {
        for feature in FEATURES.iter().filter(|feature| matches!(self.directives.get(feature.name), Asked::No)) {
            let is_there = |option: &&'static str| matches!(self.directives.option(option), Ok(Some(_)));
            for option in feature.options().filter(is_there) {
                let name = feature.name;
                self.verdict.warnings.push(format!("the option {option} has no effect without the directive {name}"));
            }
        }
    }

    /// Adds what a feature wants, and writes its annotations.
    fn apply(&mut self, task: &Task<'_>, ending: Ending) -> Result<(), ShapeError> {
        match (ending.outcome, &task.step) {
            (Outcome::Planned(plan), _) => self.succeed(task, plan, ending.wanted)?,
            (Outcome::Removed, _) => self.clear(task, None)?,
            (Outcome::Failed(error), Step::Plan(directive)) => self.fail(task, *directive, &error)?,
            (Outcome::FailedBefore(error), _) => self.keep(task, &error),
            (Outcome::Left | Outcome::Failed(_), _) => self.warn(task, &task.warnings),
        }
        Ok(())
    }

    /// Leaves the feature as it is, because it failed in the same way before this request.
    fn keep(&mut self, task: &Task<'_>, error: &anyhow::Error) {
        let name = task.feature.name;
        let error = text::line(&error.to_string());
        info!(self.log, "feature fails as before"; self.request, "feature" => name, "error" => &error);
        self.verdict.failed.push(name);
        self.verdict.warnings.push(format!(
            "{name} fails as before this request, and stays as it is until the directive changes, or what it needs: {error}"
        ));
    }

    fn succeed(&mut self, task: &Task<'_>, plan: Plan, wanted: Vec<Recorded>) -> Result<(), ShapeError> {
        let name = task.feature.name;
        wanted.iter().try_for_each(|added| self.vm.add(&added.entry))?;
        let is_ours = |added: &Recorded| self.ownership.may_be_ours(&added.entry);
        let record: Vec<Recorded> = wanted.into_iter().filter(is_ours).collect();
        let record = (!record.is_empty()).then(|| serde_json::to_string(&record).unwrap_or_default());
        let applied = Some(plan.applied).filter(|_| self.settings.general.add_tracking_annotations);
        self.vm.annotate(&keys::about(name, keys::ADDED), record)?;
        self.vm.annotate(&keys::about(name, keys::APPLIED), applied)?;
        self.vm.annotate(&keys::about(name, keys::ERROR), None)?;
        self.warn(task, &task.warnings);
        self.warn(task, &plan.warnings);
        self.verdict.applied.push(name);
        Ok(())
    }

    /// Removes the annotations of a feature that adds nothing any more, and says why if it failed.
    fn clear(&mut self, task: &Task<'_>, error: Option<String>) -> Result<(), ShapeError> {
        let name = task.feature.name;
        self.vm.annotate(&keys::about(name, keys::APPLIED), None)?;
        self.vm.annotate(&keys::about(name, keys::ADDED), None)?;
        self.vm.annotate(&keys::about(name, keys::ERROR), error)?;
        self.warn(task, &task.warnings);
        if !task.recorded.is_empty() {
            info!(self.log, "feature taken back"; self.request, "feature" => name);
        }
        Ok(())
    }

    fn warn(&mut self, task: &Task<'_>, messages: &[String]) {
        let name = task.feature.name;
        self.verdict.warnings.extend(messages.iter().map(|message| format!("{name}: {message}")));
    }

    fn error_handling(&self, feature: &Feature) -> ErrorHandling {
        (feature.settings)(self.settings).error_handling
    }

    fn fail(&mut self, task: &Task<'_>, directive: Directive<'_>, error: &anyhow::Error) -> Result<(), ShapeError> {
        let name = task.feature.name;
        let error = text::line(&error.to_string());
        self.verdict.failed.push(name);
        match self.error_handling(task.feature) {
            ErrorHandling::Reject => {
                warn!(self.log, "feature refused"; self.request, "feature" => name, "error" => &error);
                self.refusals.push(format!("{name} cannot be applied ({directive}): {error}"));
            }
            ErrorHandling::AllowAndLog => {
                warn!(self.log, "feature not applied"; self.request, "feature" => name, "error" => &error);
                self.verdict.warnings.push(format!("{name} is not applied: {error}"));
                self.clear(task, Some(error).filter(|_| self.settings.general.add_tracking_annotations))?;
            }
            ErrorHandling::StripLabel => {
                info!(self.log, "directive removed"; self.request, "feature" => name, "error" => &error);
                self.clear(task, None)?;
                let key = &keys::directive(name);
                let removed = match directive.source {
                    Source::Annotation => self.vm.annotate(key, None).map(|()| true)?,
                    Source::Label => self.vm.remove_label(key).map(|()| true)?,
                    // User data belongs to the guest, so the policy does not change it.
                    Source::UserData(_) => false,
                };
                let removed =
                    if removed { ", and its directive is removed (errorHandling is strip-label)" } else { "" };
                self.verdict.warnings.push(format!("{name} is not applied{removed}: {error}"));
            }
        }
        Ok(())
    }
}
