//! The order of things that happen to a request. Knows no JSON and no waPC.

use slog::{Logger, info, warn};

use crate::cluster::{Cluster, Kind, Lookups};
use crate::directives::{Directives, ReadSecret, UserData};
use crate::evaluation::Evaluation;
use crate::features::Settings;
use crate::request::{Payload, Unreadable};
use crate::settings::reads_user_data;
use crate::verdict::{Decision, Denial, Verdict};
use crate::vm::{VirtualMachine, VmOutline};

/// Answers the payload of `validate`.
pub(crate) fn evaluate<'a>(payload: &'a [u8], cluster: &dyn Cluster, log: &Logger) -> Verdict<'a> {
    let verdict = Payload::parse(payload).map_err(Denial::from).and_then(|payload| {
        decide(&payload, cluster, log).inspect_err(|denial| {
            warn!(log, "request denied"; &payload.request, "error" => %denial);
        })
    });
    verdict.unwrap_or_else(|denial| Verdict { decision: Decision::Denied(denial), ..Verdict::default() })
}

fn decide<'a>(payload: &Payload<'a>, cluster: &dyn Cluster, log: &Logger) -> Result<Verdict<'a>, Denial> {
    let request = &payload.request;
    let Some(new) = request.virtual_machine() else {
        return Ok(Verdict::default());
    };
    if new.is_deleting() {
        return Ok(Verdict::default());
    }
    let old = request.old_virtual_machine();
    if old.is_some_and(|old| new.asks_for_the_same_as(old)) {
        return Ok(Verdict::default());
    }
    let mut templates = [Some(new), old].into_iter().flatten().filter_map(VmOutline::template);
    let reads_user_data = reads_user_data(payload.settings) && templates.any(UserData::is_possible);
    let is_mentioned = new.mentions_policy() || old.is_some_and(VmOutline::mentions_policy);
    if !(is_mentioned || reads_user_data) {
        return Ok(Verdict::default());
    }

    let settings = Settings::parse_text(payload.settings)?;
    let lookups = Lookups::new(cluster, &settings.general);
    let namespace = request.namespace.as_ref();
    let read_secret = |name: &str| lookups.get(Kind::Secret, name, Some(namespace));
    let read_secret: Option<ReadSecret<'_>> =
        if settings.general.user_data.read_secrets { Some(&read_secret) } else { None };
    let template = new.template().filter(|_| reads_user_data);
    let user_data = template.map(|t| UserData::read(t, read_secret)).unwrap_or_default();
    for note in user_data.notes() {
        info!(log, "user data passed over"; request, "reason" => note);
    }
    // What a Secret said before is not known.
    let old_template = old.and_then(VmOutline::template).filter(|_| reads_user_data);
    let old_user_data = old_template.map(|t| UserData::read(t, None)).unwrap_or_default();

    if !is_mentioned && user_data.is_empty() && old_user_data.is_empty() {
        return Ok(Verdict::default());
    }

    let directives = Directives::read(new, settings.general.config_source, &user_data);
    let old_directives = old.map(|old| Directives::read(old, settings.general.config_source, &old_user_data));
    let read = |outline| VirtualMachine::read(outline);
    let vm = read(new).map_err(|e| Unreadable::new("the VirtualMachine's template", &e))?;
    let last_applied = vm.last_applied();
    let evaluation = Evaluation {
        request,
        settings: &settings,
        directives: &directives,
        old_directives: old_directives.as_ref(),
        old: old.and_then(|old| read(old).ok()),
        declared: last_applied.as_deref().and_then(VirtualMachine::of_manifest),
        lookups: &lookups,
        namespace,
        log,
        vm,
        verdict: Verdict::default(),
        refusals: Vec::new(),
        kept: Vec::new(),
        taken: Vec::new(),
    };
    evaluation.all_features()
}
