//! What happens to a request, in order. Knows no JSON and no waPC.

use slog::{Logger, info, warn};

use crate::cluster::{Cluster, Lookups};
use crate::directives::{self, Directive, Directives, Source};
use crate::features::{Context, FEATURES, Failure, Feature, Plan};
use crate::request::{AdmissionRequest, Outline, Payload, Unreadable};
use crate::settings::{ErrorHandling, Settings, SettingsError};
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
    let Some(object) = request.virtual_machine() else {
        return Ok(Verdict::default());
    };
    let outline = Outline::parse(object)?;
    if outline.is_deleting() || !outline.mentions_policy() {
        return Ok(Verdict::default());
    }
    if let Some(old) = request.old_object.filter(|_| request.is_update()) {
        if outline.asks_the_same(&Outline::parse(old)?) {
            return Ok(Verdict::default());
        }
    }
    let settings = Settings::parse_raw(payload.settings)?;
    let directives = Directives::read(&outline, settings.config_source);
    let vm = VirtualMachine::parse(object)?;
    let run = Run {
        request,
        settings: &settings,
        directives: &directives,
        lookups: Lookups::new(cluster, &settings),
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
    lookups: Lookups<'r>,
    log: &'r Logger,
    vm: VirtualMachine<'a>,
    verdict: Verdict<'a>,
    refusals: Vec<String>,
}

impl<'a> Run<'_, 'a> {
    fn all_features(mut self) -> Result<Verdict<'a>, Denial> {
        for feature in FEATURES {
            let Some(directive) = self.directives.get(feature.name()) else {
                continue;
            };
            let feature_settings = feature.settings(self.settings);
            if !feature_settings.enabled {
                continue;
            }
            match self.plan_and_apply(feature, &directive) {
                Ok(None) => {}
                Ok(Some(plan)) => self.succeed(feature, plan)?,
                Err(Failure(error)) => {
                    self.fail(feature, feature_settings.error_handling, &directive, error)?;
                }
            }
        }
        let names = FEATURES.map(Feature::name);
        self.verdict.warnings.extend(self.directives.warnings(&names));
        if !self.refusals.is_empty() {
            self.verdict.applied.clear();
            self.verdict.decision = Decision::Denied(Denial::Failures(self.refusals));
        } else if self.vm.is_changed() {
            self.verdict.decision = Decision::Mutated(self.vm);
        }
        Ok(self.verdict)
    }

    /// Plans the feature and applies the whole plan; after an error the VirtualMachine is as it was.
    fn plan_and_apply(
        &mut self,
        feature: &dyn Feature,
        directive: &Directive<'_>,
    ) -> Result<Option<Plan>, Failure> {
        let context = Context {
            vm: &self.vm,
            namespace: self.request.namespace.as_deref().unwrap_or_default(),
            directives: self.directives,
            settings: self.settings,
            lookups: &self.lookups,
            is_update: self.request.is_update(),
        };
        let plan = feature.plan(directive.text()?, &context)?;
        if let Some(plan) = &plan {
            self.vm.apply(&plan.edits)?;
        }
        Ok(plan)
    }

    fn succeed(&mut self, feature: &dyn Feature, plan: Plan) -> Result<(), ShapeError> {
        let name = feature.name();
        self.vm.remove_annotation(&directives::error_key(name))?;
        if self.settings.add_tracking_annotations {
            self.vm.set_annotation(directives::applied_key(name), plan.applied)?;
        }
        let warnings = plan.warnings.into_iter().map(|warning| format!("{name}: {warning}"));
        self.verdict.warnings.extend(warnings);
        self.verdict.applied.push(name);
        info!(self.log, "feature applied"; self.request, "feature" => name);
        Ok(())
    }

    fn fail(
        &mut self,
        feature: &dyn Feature,
        mode: ErrorHandling,
        directive: &Directive<'_>,
        error: String,
    ) -> Result<(), ShapeError> {
        let name = feature.name();
        let key = directives::directive_key(name);
        self.verdict.failed.push(name);
        match mode {
            ErrorHandling::Reject => {
                warn!(self.log, "feature refused"; self.request, "feature" => name, "error" => &error);
                self.refusals.push(format!("{name} cannot be applied ({directive}): {error}"));
            }
            ErrorHandling::AllowAndLog => {
                warn!(self.log, "feature not applied"; self.request, "feature" => name, "error" => &error);
                self.verdict.warnings.push(format!("{name} is not applied: {error}"));
                self.vm.remove_annotation(&directives::applied_key(name))?;
                let error_key = directives::error_key(name);
                if self.settings.add_tracking_annotations {
                    self.vm.set_annotation(error_key, error)?;
                } else {
                    self.vm.remove_annotation(&error_key)?;
                }
            }
            ErrorHandling::StripLabel => {
                info!(self.log, "directive removed"; self.request, "feature" => name, "error" => &error);
                match directive.source {
                    Source::Annotation => self.vm.remove_annotation(&key)?,
                    Source::Label => self.vm.remove_label(&key)?,
                }
            }
        }
        Ok(())
    }
}
