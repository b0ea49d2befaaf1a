//! Applies the features to one request, each in its turn, and handles those that fail.

mod planning;

use slog::{Logger, info, warn};

use crate::cluster::Lookups;
use crate::directives::{Asked, Directive, Directives, Source};
use crate::features::feature::Feature;
use crate::features::record::Demand;
use crate::features::{FEATURES, Settings};
use crate::keys;
use crate::request::AdmissionRequest;
use crate::settings::ErrorHandling;
use crate::text;
use crate::verdict::{Decision, Denial, Verdict};
use crate::vm::entry::Entry;
use crate::vm::{ShapeError, VirtualMachine};
use planning::{Change, Traces};

/// The VirtualMachine before an update, and its directives.
pub(crate) struct Old {
    pub(crate) vm: VirtualMachine,
    pub(crate) directives: Directives,
}

/// One request while the features are applied to it.
pub(crate) struct Evaluation<'r> {
    request: &'r AdmissionRequest,
    settings: &'r Settings,
    lookups: &'r Lookups<'r>,
    log: &'r Logger,
    old: Option<&'r Old>,
    directives: &'r Directives,
    vm: VirtualMachine,
    /// The manifest that `kubectl apply` was last given.
    declared: Option<VirtualMachine>,
    verdict: Verdict,
    refusals: Vec<String>,
    /// The entries of features that are switched off, and of features that are already applied, whether added now or earlier.
    kept: Vec<Entry>,
    /// The entries that those features removed in this request.
    removed: Vec<Entry>,
}

impl<'r> Evaluation<'r> {
    pub(crate) fn new(
        request: &'r AdmissionRequest,
        settings: &'r Settings,
        lookups: &'r Lookups<'r>,
        log: &'r Logger,
        old: Option<&'r Old>,
        directives: &'r Directives,
        vm: VirtualMachine,
    ) -> Self {
        let declared = vm.last_applied();
        let (verdict, refusals, kept, removed) = Default::default();
        Self { request, settings, lookups, log, old, directives, vm, declared, verdict, refusals, kept, removed }
    }

    /// Applies the features in their order.
    pub(crate) fn all_features(mut self) -> Result<Verdict, Denial> {
        let is_on = |feature: &&&Feature| (feature.settings)(self.settings).enabled;
        let (on, off): (Vec<_>, Vec<_>) = FEATURES.iter().partition(is_on);
        // If a feature is switched off in the settings, its entries stay.
        for feature in off {
            let kept = self.find(feature, Demand::Asked).ours.into_iter().map(|added| added.entry);
            self.kept.extend(kept);
        }
        for feature in on {
            self.one_feature(feature)?;
        }
        self.warn_of_options();
        let features: Vec<_> = FEATURES.iter().map(|feature| feature.name).collect();
        let mut known = features.clone();
        FEATURES.iter().for_each(|feature| known.extend_from_slice(feature.options));
        self.verdict.warnings.extend(self.directives.warnings(&features, &known));
        if !self.refusals.is_empty() {
            self.verdict.applied.clear();
            self.verdict.decision = Decision::Denied(Denial::Failures(self.refusals));
        } else if self.vm.is_changed() {
            if !self.verdict.applied.is_empty() {
                // All features share one log line, because each line is a call of the host.
                let features = self.verdict.applied.join(",");
                info!(self.log, "features applied"; self.request, "features" => features);
            }
            self.verdict.decision = Decision::Mutated(self.vm);
        }
        Ok(self.verdict)
    }

    /// Warns about options without their directive.
    fn warn_of_options(&mut self) {
        for feature in FEATURES.iter().filter(|feature| matches!(self.directives.get(feature.name), Asked::No)) {
            let is_there = |option: &&&'static str| matches!(self.directives.option(option), Ok(Some(_)));
            for option in feature.options.iter().filter(is_there) {
                let name = feature.name;
                self.verdict.warnings.push(format!("the option {option} has no effect without the directive {name}"));
            }
        }
    }

    fn one_feature(&mut self, feature: &Feature) -> Result<(), ShapeError> {
        let asked = self.directives.get(feature.name);
        let demand = if matches!(asked, Asked::Yes(_)) { Demand::Asked } else { Demand::NotAsked };
        let traces = self.find(feature, demand);
        // If its options cannot be read, the feature might be planned differently from what is in place.
        let is_unreadable = |option: &&'static str| self.directives.is_unreadable(option);
        let directive = match asked {
            Asked::No => return self.clear(feature, traces),
            Asked::Yes(_) if traces.was_applied && feature.options.iter().any(is_unreadable) => {
                self.leave(feature);
                return Ok(());
            }
            Asked::Unreadable if traces.was_applied => {
                self.leave(feature);
                return Ok(());
            }
            Asked::Unreadable => return Ok(()),
            Asked::Yes(directive) => directive,
        };
        match self.plan(feature, directive, &traces) {
            Ok(Some(change)) => self.succeed(feature, change, traces.warnings),
            Ok(None) => self.clear(feature, traces),
            Err(error) => self.fail(feature, directive, &error, traces),
        }
    }

    /// Leaves what the feature added unchanged, with a warning.
    fn leave(&mut self, feature: &Feature) {
        let why = "what the policy added stays as it is, because user data that may say otherwise cannot be read";
        self.warn(feature, vec![why.to_owned()]);
    }

    fn succeed(&mut self, feature: &Feature, change: Change, warnings: Vec<String>) -> Result<(), ShapeError> {
        let name = feature.name;
        self.remove(&change.gone)?;
        self.kept.extend(change.record.0.iter().map(|added| added.entry.clone()));
        change.new.iter().try_for_each(|entry| self.vm.add(entry))?;
        self.vm.remove_annotation(&keys::error(name))?;
        if change.record.0.is_empty() {
            self.vm.remove_annotation(&keys::record(name))?;
        } else {
            self.vm.set_annotation(&keys::record(name), change.record.to_text())?;
        }
        if self.settings.general.add_tracking_annotations {
            self.vm.set_annotation(&keys::applied(name), change.plan.applied)?;
        } else {
            self.vm.remove_annotation(&keys::applied(name))?;
        }
        self.warn(feature, warnings);
        self.warn(feature, change.plan.warnings);
        self.verdict.applied.push(name);
        Ok(())
    }

    /// Removes what the feature added, and all its annotations.
    fn clear(&mut self, feature: &Feature, traces: Traces) -> Result<(), ShapeError> {
        self.remove_all_of(feature, traces)?;
        self.vm.remove_annotation(&keys::error(feature.name))
    }

    /// Removes what the feature added, and its records.
    fn remove_all_of(&mut self, feature: &Feature, traces: Traces) -> Result<(), ShapeError> {
        let name = feature.name;
        let (siblings, warning) = self.siblings(feature, &traces);
        let mut warnings = traces.warnings;
        warnings.extend(warning);
        let entries = traces.ours.iter().map(|added| &added.entry).chain(siblings.entries());
        let entries: Vec<Entry> = entries.cloned().collect();
        self.remove(&entries)?;
        self.vm.remove_annotation(&keys::applied(name))?;
        self.vm.remove_annotation(&keys::record(name))?;
        self.warn(feature, warnings);
        if !entries.is_empty() {
            info!(self.log, "feature taken back"; self.request, "feature" => name);
        }
        Ok(())
    }

    /// Removes entries, except those that an earlier feature needs, too.
    fn remove(&mut self, entries: &[Entry]) -> Result<(), ShapeError> {
        for entry in entries.iter().filter(|entry| !self.kept.contains(entry)) {
            self.vm.remove(entry)?;
            self.removed.push(entry.clone());
        }
        Ok(())
    }

    fn warn(&mut self, feature: &Feature, messages: Vec<String>) {
        let name = feature.name;
        let messages = messages.into_iter().map(|message| format!("{name}: {message}"));
        self.verdict.warnings.extend(messages);
    }

    fn fail(
        &mut self,
        feature: &Feature,
        directive: Directive<'_>,
        error: &anyhow::Error,
        traces: Traces,
    ) -> Result<(), ShapeError> {
        let name = feature.name;
        let error = text::line(&error.to_string());
        self.verdict.failed.push(name);
        match (feature.settings)(self.settings).error_handling {
            ErrorHandling::Reject => {
                warn!(self.log, "feature refused"; self.request, "feature" => name, "error" => &error);
                self.refusals.push(format!("{name} cannot be applied ({directive}): {error}"));
            }
            ErrorHandling::AllowAndLog => {
                warn!(self.log, "feature not applied"; self.request, "feature" => name, "error" => &error);
                self.verdict.warnings.push(format!("{name} is not applied: {error}"));
                self.remove_all_of(feature, traces)?;
                if self.settings.general.add_tracking_annotations {
                    self.vm.set_annotation(&keys::error(name), error)?;
                } else {
                    self.vm.remove_annotation(&keys::error(name))?;
                }
            }
            ErrorHandling::StripLabel => {
                info!(self.log, "directive removed"; self.request, "feature" => name, "error" => &error);
                self.clear(feature, traces)?;
                let key = &keys::directive(name);
                let removed = match directive.source {
                    Source::Annotation => self.vm.remove_annotation(key).map(|()| true)?,
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
