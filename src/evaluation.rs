//! One request on its way through the features: what each added before, what it needs now, and what changes.

use std::borrow::Cow;

use slog::{Logger, info, warn};

use crate::cluster::Lookups;
use crate::directives::{Asked, Directive, Directives, Source};
use crate::features::host_devices::{Siblings, beside};
use crate::features::record::{Ownership, Record, Recorded};
use crate::features::{Context, FEATURES, Failure, Feature, Plan, Settings};
use crate::keys::Key;
use crate::request::AdmissionRequest;
use crate::settings::ErrorHandling;
use crate::text;
use crate::verdict::{Decision, Denial, Verdict};
use crate::vm::entry::Entry;
use crate::vm::{ShapeError, VirtualMachine};

/// One request on its way through the features.
pub(crate) struct Evaluation<'r, 'a> {
    pub(crate) request: &'r AdmissionRequest<'a>,
    pub(crate) settings: &'r Settings,
    pub(crate) directives: &'r Directives<'r, 'a>,
    pub(crate) old_directives: Option<&'r Directives<'r, 'a>>,
    /// The VirtualMachine before the update.
    pub(crate) old: Option<VirtualMachine<'a>>,
    /// The manifest that `kubectl apply` was given.
    pub(crate) declared: Option<VirtualMachine<'r>>,
    pub(crate) lookups: &'r Lookups<'r>,
    pub(crate) namespace: &'r str,
    pub(crate) log: &'r Logger,
    pub(crate) vm: VirtualMachine<'a>,
    pub(crate) verdict: Verdict<'a>,
    pub(crate) refusals: Vec<String>,
    /// What the features that are done have added, in this request or before.
    pub(crate) kept: Vec<Entry>,
    /// What they have taken back in this request.
    pub(crate) taken: Vec<Entry>,
}

/// The traces that a feature left in the VirtualMachine earlier.
#[derive(Default)]
struct Traces {
    /// Whether the feature was applied, even if there was nothing to add.
    was_applied: bool,
    /// The entries that the feature added, as they are there.
    ours: Vec<Recorded>,
    /// Warnings about the others.
    warnings: Vec<String>,
}

/// The changes that a plan makes to the VirtualMachine.
struct Change {
    plan: Plan,
    record: Record,
    gone: Vec<Entry>,
    new: Vec<Entry>,
}

impl<'a> Evaluation<'_, 'a> {
    /// Applies the features in their order.
    pub(crate) fn all_features(mut self) -> Result<Verdict<'a>, Denial> {
        for feature in FEATURES {
            if (feature.settings)(self.settings).enabled {
                self.one_feature(feature)?;
            }
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
                // One line for all: each is a call of the host.
                let features = self.verdict.applied.join(",");
                info!(self.log, "features applied"; self.request, "features" => features);
            }
            self.verdict.decision = Decision::Mutated(self.vm);
        }
        Ok(self.verdict)
    }

    /// Warns of options whose directive is not there.
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
        let traces = self.find(feature, matches!(asked, Asked::Yes(_)));
        // Without its options, what is in place might be planned otherwise.
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
        match self.plan(feature, &directive, &traces) {
            Ok(Some(change)) => self.succeed(feature, change, traces.warnings),
            Ok(None) => self.clear(feature, traces),
            Err(Failure(error)) => self.fail(feature, &directive, error, traces),
        }
    }

    /// Finds what the feature added before: what its record lists, as far as it is there and is not the user's.
    fn find(&self, feature: &Feature, is_asked_for: bool) -> Traces {
        let name = feature.name;
        let read = |text| Record::read(text, feature.adds);
        let old_directives = self.old_directives;
        let texts = [Some(self.directives), old_directives].map(|d| d.and_then(|d| d.record(name)));
        let [record, old_record] = texts.map(|text| text.and_then(read));
        let mut traces = Traces::default();
        let is_applied = |directives: &Directives<'_, '_>| directives.applied(name).is_some();
        traces.was_applied =
            texts.iter().any(Option::is_some) || is_applied(self.directives) || old_directives.is_some_and(is_applied);
        if record.is_none() && texts[0].is_some() && old_record.is_none() {
            traces.warnings.push(format!(
                "the annotation {} cannot be read, so what the policy added stays; remove it by hand",
                Key::record(name)
            ));
        }
        let Some(record) = record.as_ref().or(old_record.as_ref()) else {
            return traces;
        };
        let ownership = self.ownership(feature, is_asked_for);
        let still_there = record.still_in(&self.vm, |entry| ownership.may_be_ours(entry));
        traces.warnings.extend(still_there.changes(&self.vm, &ownership));
        traces.ours = still_there.ours;
        traces
    }

    fn ownership(&self, feature: &Feature, is_asked_for: bool) -> Ownership<'_> {
        let old_record = self.old_directives.and_then(|old| old.record(feature.name));
        let old_record = old_record.and_then(|text| Record::read(text, feature.adds));
        let added_to_old = match (old_record, &self.old) {
            (Some(record), Some(old)) => record.still_in(old, |_| true).ours,
            _ => Vec::new(),
        };
        let (declared, old) = (self.declared.as_ref(), self.old.as_ref());
        Ownership { declared, old, added_to_old, is_asked_for }
    }

    /// Leaves the feature as it is, with a word about it.
    fn leave(&mut self, feature: &Feature) {
        let why = "what the policy added stays as it is, because user data that may say otherwise cannot be read";
        self.warn(feature, [why.to_owned()]);
    }

    /// The entries that the features after this one added before.
    fn added_later(&self, feature: &Feature) -> Vec<Entry> {
        let mut entries = Vec::new();
        let later = FEATURES.iter().skip_while(|other| other.name != feature.name).skip(1);
        for other in later.filter(|other| self.directives.record(other.name).is_some()) {
            entries.extend(self.find(other, true).ours.into_iter().map(|added| added.entry));
        }
        entries
    }

    /// Plans the feature on the VirtualMachine without what it and the features after it added before, and compares what is there
    /// with what should be.
    fn plan(&self, feature: &Feature, directive: &Directive<'_>, traces: &Traces) -> Result<Option<Change>, Failure> {
        let value = directive.text()?;
        let ours = || traces.ours.iter().map(|added| &added.entry);
        let later = self.added_later(feature);
        let mut bare = self.without(ours().chain(&later))?;
        let mut plan = (feature.plan)(value, &self.context(feature, &bare, traces));
        let mut siblings = Siblings::default();
        let stays = |plan: &Plan| ours().all(|entry| plan.entries.contains(entry));
        if !matches!(&plan, Ok(Some(plan)) if stays(plan)) {
            // With a device go those that Harvester added because of it.
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

    /// Compares a plan with the VirtualMachine: which entries are new, and which of the feature's own go. `bare` is the VirtualMachine
    /// that was planned on, without what was added `later`.
    fn change(
        &self,
        feature: &Feature,
        plan: Plan,
        traces: &Traces,
        bare: &VirtualMachine<'_>,
        siblings: &Siblings,
        later: &[Entry],
    ) -> Result<Change, ShapeError> {
        let ownership = self.ownership(feature, true);
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
            if self.taken.contains(entry) || later.contains(entry) || ownership.may_be_ours(entry) {
                record.0.push(added.clone());
            }
            staying.push(added);
        }
        let is_gone = |entry: &&Entry| !staying.iter().any(|added| added.entry.replaces(entry));
        let gone = traces.ours.iter().map(|added| &added.entry).filter(is_gone);
        let gone = gone.chain(siblings.without_those_of(&staying)).cloned().collect();
        Ok(Change { plan, record, gone, new })
    }

    /// The PCIDevices that stood beside an entry when it was added, and those that somebody added with this update.
    fn beside_since(&self, added: &Recorded, vm: &VirtualMachine<'_>) -> Vec<String> {
        let mut names = added.beside.clone();
        if let Some(old) = &self.old {
            let before = beside(&added.entry, old);
            let is_new = |name: &String| !before.contains(name) && !added.beside.contains(name);
            names.extend(beside(&added.entry, vm).into_iter().filter(is_new));
        }
        names
    }

    /// The VirtualMachine without the entries.
    fn without<'e>(&self, entries: impl Iterator<Item = &'e Entry>) -> Result<Cow<'_, VirtualMachine<'a>>, ShapeError> {
        let mut vm = Cow::Borrowed(&self.vm);
        for entry in entries {
            vm.to_mut().take_back(entry)?;
        }
        Ok(vm)
    }

    /// The devices that Harvester added because of those of the feature, and a warning where that cannot be found out.
    fn siblings(&self, feature: &Feature, traces: &Traces) -> (Siblings, Option<String>) {
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
                    "{names} may have been added because of a device that is removed, but stays, because the policy cannot find out: {error}"
                );
                (Siblings::default(), Some(warning))
            }
        }
    }

    fn context<'c>(&'c self, feature: &Feature, vm: &'c VirtualMachine<'c>, traces: &'c Traces) -> Context<'c> {
        let name = feature.name;
        let directive_before = || match self.old_directives?.get(name) {
            Asked::Yes(directive) => directive.text().ok(),
            Asked::No | Asked::Unreadable => None,
        };
        let applied_before = self.old_directives.and_then(|old| old.applied(name));
        Context {
            vm,
            ours: &traces.ours,
            applied_before: applied_before.or_else(directive_before),
            namespace: self.namespace,
            requester: &self.request.requester,
            directives: self.directives,
            settings: self.settings,
            lookups: self.lookups,
            is_update: self.request.is_update(),
        }
    }

    fn succeed(&mut self, feature: &Feature, change: Change, warnings: Vec<String>) -> Result<(), ShapeError> {
        let name = feature.name;
        self.remove(&change.gone)?;
        self.kept.extend(change.record.0.iter().map(|added| added.entry.clone()));
        change.new.iter().try_for_each(|entry| self.vm.add(entry))?;
        self.vm.remove_annotation(Key::error(name))?;
        if change.record.0.is_empty() {
            self.vm.remove_annotation(Key::record(name))?;
        } else {
            self.vm.set_annotation(Key::record(name), change.record.to_text())?;
        }
        if self.settings.general.add_tracking_annotations {
            self.vm.set_annotation(Key::applied(name), change.plan.applied)?;
        } else {
            self.vm.remove_annotation(Key::applied(name))?;
        }
        self.warn(feature, warnings);
        self.warn(feature, change.plan.warnings);
        self.verdict.applied.push(name);
        Ok(())
    }

    /// Takes back what the feature added, and leaves no annotation of it.
    fn clear(&mut self, feature: &Feature, traces: Traces) -> Result<(), ShapeError> {
        self.take_back(feature, traces)?;
        self.vm.remove_annotation(Key::error(feature.name))
    }

    /// Takes back what the feature added, and its records.
    fn take_back(&mut self, feature: &Feature, traces: Traces) -> Result<(), ShapeError> {
        let name = feature.name;
        let (siblings, warning) = self.siblings(feature, &traces);
        let entries = traces.ours.iter().map(|added| &added.entry).chain(siblings.entries());
        let entries: Vec<Entry> = entries.cloned().collect();
        self.remove(&entries)?;
        self.vm.remove_annotation(Key::applied(name))?;
        self.vm.remove_annotation(Key::record(name))?;
        self.warn(feature, traces.warnings.into_iter().chain(warning));
        if !entries.is_empty() {
            info!(self.log, "feature taken back"; self.request, "feature" => name);
        }
        Ok(())
    }

    /// Takes back entries, but for those that a feature before needs as well.
    fn remove(&mut self, entries: &[Entry]) -> Result<(), ShapeError> {
        for entry in entries.iter().filter(|entry| !self.kept.contains(entry)) {
            self.vm.take_back(entry)?;
            self.taken.push(entry.clone());
        }
        Ok(())
    }

    fn warn(&mut self, feature: &Feature, messages: impl IntoIterator<Item = String>) {
        let name = feature.name;
        let messages = messages.into_iter().map(|message| format!("{name}: {message}"));
        self.verdict.warnings.extend(messages);
    }

    fn fail(
        &mut self,
        feature: &Feature,
        directive: &Directive<'_>,
        error: String,
        traces: Traces,
    ) -> Result<(), ShapeError> {
        let name = feature.name;
        let error = text::line(&error);
        self.verdict.failed.push(name);
        match (feature.settings)(self.settings).error_handling {
            ErrorHandling::Reject => {
                warn!(self.log, "feature refused"; self.request, "feature" => name, "error" => &error);
                self.refusals.push(format!("{name} cannot be applied ({directive}): {error}"));
            }
            ErrorHandling::AllowAndLog => {
                warn!(self.log, "feature not applied"; self.request, "feature" => name, "error" => &error);
                self.verdict.warnings.push(format!("{name} is not applied: {error}"));
                self.take_back(feature, traces)?;
                if self.settings.general.add_tracking_annotations {
                    self.vm.set_annotation(Key::error(name), error)?;
                } else {
                    self.vm.remove_annotation(Key::error(name))?;
                }
            }
            ErrorHandling::StripLabel => {
                info!(self.log, "directive removed"; self.request, "feature" => name, "error" => &error);
                self.clear(feature, traces)?;
                let key = Key::directive(name);
                let removed = match directive.source {
                    Source::Annotation => self.vm.remove_annotation(key).map(|()| true)?,
                    Source::Label => self.vm.remove_label(key).map(|()| true)?,
                    // The guest's own text is not the policy's to change.
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
