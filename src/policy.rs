//! What happens to a request, in order. Knows no JSON and no waPC.

use slog::{Logger, info, warn};

use crate::cluster::{Cluster, Lookups};
use crate::directives::{self, Asked, Directive, Directives, Key, ReadSecret, Source, UserData};
use crate::features::{Added, Before, Context, Earlier, FEATURES, Failure, Feature, Past, Plan};
use crate::request::{AdmissionRequest, Outline, Payload, Unreadable};
use crate::settings::{ErrorHandling, Settings, SettingsError};
use crate::text;
use crate::vm::{ShapeError, VirtualMachine};

/// What the policy answers.
#[derive(Debug, Default)]
pub(crate) struct Verdict<'a> {
    pub(crate) decision: Decision<'a>,
    /// What the user should know; true also where the host drops the mutation.
    pub(crate) warnings: Vec<String>,
    /// The features that are in place.
    pub(crate) applied: Vec<&'static str>,
    /// The features that could not be applied, whatever their error mode.
    pub(crate) failed: Vec<&'static str>,
}

/// What becomes of the request.
#[derive(Debug, Default)]
pub(crate) enum Decision<'a> {
    #[default]
    Unchanged,
    Mutated(VirtualMachine<'a>),
    Denied(Denial),
}

/// Why a request is denied, in the words that the user reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denial {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("the policy's settings are invalid, so no feature can be applied: {0}")]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Shape(#[from] ShapeError),
    #[error("{}", .0.join("\n"))]
    Failures(Vec<String>),
}

impl Denial {
    /// The HTTP status code: 400 where the user can mend it, 500 where only the administrator can.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Denial::Unreadable(_) | Denial::Shape(_) | Denial::Failures(_) => 400,
            Denial::Settings(_) => 500,
        }
    }
}

/// Answers the payload of `validate`.
pub(crate) fn evaluate<'a>(payload: &'a [u8], cluster: &dyn Cluster, log: &Logger) -> Verdict<'a> {
    let verdict = Payload::parse(payload).map_err(Denial::from).and_then(|payload| {
        decide(&payload, cluster, log).inspect_err(|denial| {
            warn!(log, "request denied"; &payload.request, "error" => %denial);
        })
    });
    verdict.unwrap_or_else(|denial| Verdict {
        decision: Decision::Denied(denial),
        ..Verdict::default()
    })
}

fn decide<'a>(
    payload: &Payload<'a>,
    cluster: &dyn Cluster,
    log: &Logger,
) -> Result<Verdict<'a>, Denial> {
    let request = &payload.request;
    let Some(new) = request.virtual_machine() else {
        return Ok(Verdict::default());
    };
    if new.is_deleting() {
        return Ok(Verdict::default());
    }
    let old = request.old_virtual_machine();
    let mut templates = [Some(new), old].into_iter().flatten().filter_map(Outline::template);
    let reads_user_data =
        Settings::reads_user_data(payload.settings) && templates.any(UserData::is_possible);
    let is_mentioned = new.mentions_policy() || old.is_some_and(Outline::mentions_policy);
    if !(is_mentioned || reads_user_data) {
        return Ok(Verdict::default());
    }

    let settings = Settings::parse_text(payload.settings)?;
    let lookups = Lookups::new(cluster, &settings);
    let namespace = request.namespace.as_ref();
    let read_secret = |name: &str| lookups.user_data(name, namespace);
    let read_secret: Option<ReadSecret<'_>> =
        if settings.user_data.read_secrets { Some(&read_secret) } else { None };
    let template = new.template().filter(|_| reads_user_data);
    let user_data = template.map(|t| UserData::read(t, read_secret)).unwrap_or_default();
    for note in user_data.notes() {
        info!(log, "user data passed over"; request, "reason" => note);
    }
    // What a Secret said before is not known.
    let old_template = old.and_then(Outline::template).filter(|_| reads_user_data);
    let old_user_data = old_template.map(|t| UserData::read(t, None)).unwrap_or_default();

    let directives = Directives::read(new, settings.config_source, &user_data);
    let old_directives =
        old.map(|old| Directives::read(old, settings.config_source, &old_user_data));
    let vm = VirtualMachine::read(new.root.clone())?;
    // Who wrote what is asked only of a VirtualMachine that the policy may have changed before.
    let is_known = old.is_some_and(Outline::mentions_policy)
        || !old_user_data.is_empty()
        || FEATURES.iter().any(|feature| directives.record(feature.name()).is_some());
    let last_applied = if is_known { vm.last_applied() } else { None };
    let run = Run {
        request,
        settings: &settings,
        directives: &directives,
        old_directives: old_directives.as_ref(),
        old: old.filter(|_| is_known).and_then(|old| VirtualMachine::read(old.root.clone()).ok()),
        declared: last_applied.as_deref().and_then(VirtualMachine::of_manifest),
        lookups: &lookups,
        namespace,
        log,
        vm,
        verdict: Verdict::default(),
        refusals: Vec::new(),
    };
    run.all_features()
}

/// One request on its way through the features.
struct Run<'r, 'a> {
    request: &'r AdmissionRequest<'a>,
    settings: &'r Settings,
    directives: &'r Directives<'r, 'a>,
    old_directives: Option<&'r Directives<'r, 'a>>,
    /// The VirtualMachine before the update.
    old: Option<VirtualMachine<'a>>,
    /// What `kubectl apply` was given.
    declared: Option<VirtualMachine<'r>>,
    lookups: &'r Lookups<'r>,
    namespace: &'r str,
    log: &'r Logger,
    vm: VirtualMachine<'a>,
    verdict: Verdict<'a>,
    refusals: Vec<String>,
}

impl<'r, 'a> Run<'r, 'a> {
    fn all_features(mut self) -> Result<Verdict<'a>, Denial> {
        for feature in FEATURES {
            if feature.settings(self.settings).enabled {
                self.one_feature(feature)?;
            }
        }
        let names = FEATURES.map(Feature::name);
        self.verdict.warnings.extend(self.directives.warnings(&names));
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

    fn one_feature(&mut self, feature: &dyn Feature) -> Result<(), ShapeError> {
        let earlier = self.earlier(feature);
        let directive = match self.directives.get(feature.name()) {
            Asked::For(directive) if earlier.is_none() => directive,
            // Without its options, what is in place might be planned otherwise.
            Asked::For(_) if feature.options().iter().any(|o| self.directives.is_unknown(o)) => {
                return self.leave(feature);
            }
            Asked::For(directive) => directive,
            Asked::Not => return self.clear(feature, earlier),
            Asked::Unknown if earlier.is_some() => return self.leave(feature),
            Asked::Unknown => return Ok(()),
        };
        let past = self.past(feature, earlier.as_ref(), Some(&directive));
        match self.plan_and_apply(feature, &directive, &past) {
            Ok(Some((plan, kept))) => {
                let old = self.old_directives.map(|old| old.get(feature.name()));
                // Without a record, what an earlier directive had added looks like the user's own.
                if earlier.is_none() && matches!(old, Some(Asked::For(_))) && !kept.is_empty() {
                    let names = text::list(kept.iter().map(String::as_str));
                    let why =
                        "what is in place is taken for yours, and stays when the directive goes";
                    self.warn(feature, vec![format!("{why}: {names}")]);
                }
                if past.differs(directive.text().ok(), &plan) {
                    self.warn(feature, past.added.doubts);
                }
                self.succeed(feature, plan, &kept)
            }
            Ok(None) => self.clear(feature, earlier),
            Err(Failure(error)) => self.fail(feature, &directive, error, earlier),
        }
    }

    /// Leaves the feature as it is, with a word about it.
    fn leave(&mut self, feature: &dyn Feature) -> Result<(), ShapeError> {
        let why =
            "what it had added stays as it is, as user data that may say otherwise cannot be read";
        self.warn(feature, vec![why.to_owned()]);
        Ok(())
    }

    /// What is known of an earlier directive for the feature, if it was applied.
    fn earlier(&self, feature: &dyn Feature) -> Option<Earlier<'r>> {
        let name = feature.name();
        let old = self.old_directives;
        let (record, old_record) = (self.directives.record(name), old.and_then(|o| o.record(name)));
        // A record that the old object does not have is of this request: the policy is called again, or for a copy.
        let is_of_request = record.is_some() && record != old_record;
        let directives = if is_of_request { Some(self.directives) } else { old };
        let directive = directives.and_then(|directives| match directives.get(name) {
            Asked::For(directive) => directive.text().ok(),
            Asked::Not | Asked::Unknown => None,
        });
        let record = record.or(old_record);
        // With tracking, what has no record was not applied.
        let is_applied =
            record.is_some() || (directive.is_some() && !self.settings.add_tracking_annotations);
        let kept = self.directives.kept(name).or_else(|| old?.kept(name)).unwrap_or_default();
        let was_applied = old_record.is_some();
        is_applied.then_some(Earlier { record, directive, kept, is_of_request, was_applied })
    }

    /// What the feature had added for the earlier directive.
    fn past<'e>(
        &self,
        feature: &dyn Feature,
        earlier: Option<&'e Earlier<'e>>,
        directive: Option<&Directive<'_>>,
    ) -> Past<'e> {
        let Some(earlier) = earlier else {
            return Past::default();
        };
        let before = Before {
            earlier,
            vm: &self.vm,
            old: self.old.as_ref(),
            declared: self.declared.as_ref(),
            directive: directive.and_then(|directive| directive.text().ok()),
        };
        let added = feature.added(&before, &self.context(&self.vm, &Past::default()));
        let added = added
            .unwrap_or_else(|error| Added { doubts: vec![error.to_string()], ..Added::default() });
        Past { earlier: Some(earlier), added }
    }

    fn context<'c>(&'c self, vm: &'c VirtualMachine<'c>, past: &'c Past<'c>) -> Context<'c> {
        Context {
            vm,
            ours: &past.added.edits,
            earlier: past.earlier,
            namespace: self.namespace,
            directives: self.directives,
            settings: self.settings,
            lookups: self.lookups,
            is_update: self.request.is_update(),
        }
    }

    /// Plans the feature on the VirtualMachine without what it had added before, and makes of one what the other should
    /// be. The plan comes with what it found in place and will leave there.
    fn plan_and_apply(
        &mut self,
        feature: &dyn Feature,
        directive: &Directive<'_>,
        past: &Past<'_>,
    ) -> Result<Option<(Plan, Vec<String>)>, Failure> {
        let ours = &past.added.edits;
        let bare = if ours.is_empty() {
            None
        } else {
            let mut vm = self.vm.clone();
            vm.take_back(ours)?;
            Some(vm)
        };
        let vm = bare.as_ref().unwrap_or(&self.vm);
        let value = directive.text()?;
        let Some(plan) = feature.plan(value, &self.context(vm, past))? else {
            return Ok(None);
        };
        let kept = past.kept(&plan, Some(value), vm, self.old.as_ref());
        self.vm.take_back(ours.iter().filter(|edit| !plan.edits.contains(edit)))?;
        self.vm.apply(&plan.edits)?;
        Ok(Some((plan, kept)))
    }

    fn succeed(
        &mut self,
        feature: &dyn Feature,
        plan: Plan,
        kept: &[String],
    ) -> Result<(), ShapeError> {
        let name = feature.name();
        self.vm.remove_annotation(Key::error(name))?;
        let tracks = self.settings.add_tracking_annotations;
        if tracks && !kept.is_empty() {
            self.vm.set_annotation(Key::kept(name), directives::kept_value(kept))?;
        } else {
            self.vm.remove_annotation(Key::kept(name))?;
        }
        if tracks {
            self.vm.set_annotation(Key::applied(name), plan.applied)?;
        } else {
            self.vm.remove_annotation(Key::applied(name))?;
        }
        self.warn(feature, plan.warnings);
        self.verdict.applied.push(name);
        Ok(())
    }

    /// Takes back what the feature had added, and leaves no annotation of it.
    fn clear(
        &mut self,
        feature: &dyn Feature,
        earlier: Option<Earlier<'_>>,
    ) -> Result<(), ShapeError> {
        self.take_back(feature, earlier)?;
        self.vm.remove_annotation(Key::error(feature.name()))
    }

    /// Takes back what the feature had added, and its record.
    fn take_back(
        &mut self,
        feature: &dyn Feature,
        earlier: Option<Earlier<'_>>,
    ) -> Result<(), ShapeError> {
        let name = feature.name();
        let Past { added, .. } = self.past(feature, earlier.as_ref(), None);
        self.vm.take_back(&added.edits)?;
        self.vm.apply(&added.closing)?;
        self.warn(feature, added.doubts);
        self.vm.remove_annotation(Key::applied(name))?;
        self.vm.remove_annotation(Key::kept(name))?;
        if !added.edits.is_empty() || !added.closing.is_empty() {
            info!(self.log, "feature taken back"; self.request, "feature" => name);
        }
        Ok(())
    }

    fn warn(&mut self, feature: &dyn Feature, messages: Vec<String>) {
        let messages = messages.into_iter().map(|message| format!("{}: {message}", feature.name()));
        self.verdict.warnings.extend(messages);
    }

    fn fail(
        &mut self,
        feature: &dyn Feature,
        directive: &Directive<'_>,
        error: String,
        earlier: Option<Earlier<'_>>,
    ) -> Result<(), ShapeError> {
        let name = feature.name();
        let error = text::line(&error);
        self.verdict.failed.push(name);
        match feature.settings(self.settings).error_handling {
            ErrorHandling::Reject => {
                warn!(self.log, "feature refused"; self.request, "feature" => name, "error" => &error);
                self.refusals.push(format!("{name} cannot be applied ({directive}): {error}"));
            }
            ErrorHandling::AllowAndLog => {
                warn!(self.log, "feature not applied"; self.request, "feature" => name, "error" => &error);
                self.verdict.warnings.push(format!("{name} is not applied: {error}"));
                self.take_back(feature, earlier)?;
                if self.settings.add_tracking_annotations {
                    self.vm.set_annotation(Key::error(name), error)?;
                } else {
                    self.vm.remove_annotation(Key::error(name))?;
                }
            }
            ErrorHandling::StripLabel => {
                info!(self.log, "directive removed"; self.request, "feature" => name, "error" => &error);
                self.clear(feature, earlier)?;
                let key = Key::directive(name);
                let removed = match directive.source {
                    Source::Annotation => self.vm.remove_annotation(key).map(|()| true)?,
                    Source::Label => self.vm.remove_label(key).map(|()| true)?,
                    // The guest's own text is not the policy's to change.
                    Source::UserData(_) => false,
                };
                let removed = if removed {
                    ", and errorHandling strip-label removes the directive"
                } else {
                    ""
                };
                self.verdict.warnings.push(format!("{name} is not applied{removed}: {error}"));
            }
        }
        Ok(())
    }
}
