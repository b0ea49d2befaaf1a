//! What happens to a request, in order. This module does not know JSON or waPC.

use slog::{Logger, info, warn};

use crate::cluster::{Cluster, Lookups, SECRET};
use crate::directives::{Directives, ReadSecret, UserData};
use crate::evaluation::{Evaluation, Old, ownership};
use crate::features::Settings;
use crate::request::{Payload, VirtualMachines};
use crate::settings::reads_user_data;
use crate::verdict::{Decision, Denial, Verdict};
use crate::vm::VirtualMachine;

/// Evaluates the payload of `validate`.
pub(crate) fn evaluate(payload: &[u8], cluster: &dyn Cluster, log: &Logger) -> Verdict {
    let verdict = Payload::parse(payload).map_err(Denial::from).and_then(|mut payload| {
        match payload.request.take_virtual_machines() {
            Some(vms) => decide(&payload, vms, cluster, log).inspect_err(|denial| {
                warn!(log, "request denied"; &payload.request, "error" => %denial);
            }),
            None => Ok(Verdict::default()),
        }
    });
    verdict.unwrap_or_else(|denial| Verdict { decision: Decision::Denied(denial), ..Verdict::default() })
}

fn decide(payload: &Payload, vms: VirtualMachines, cluster: &dyn Cluster, log: &Logger) -> Result<Verdict, Denial> {
    let VirtualMachines { new, old } = vms;
    if new.is_deleting() || old.as_ref().is_some_and(|old| new.asks_for_the_same_as(old)) {
        return Ok(Verdict::default());
    }
    let is_any = |is_it: fn(&VirtualMachine) -> bool| is_it(&new) || old.as_ref().is_some_and(is_it);
    let is_mentioned = is_any(VirtualMachine::mentions_policy);
    let reads_user_data = reads_user_data(&payload.settings) && is_any(UserData::is_possible);
    if !(is_mentioned || reads_user_data) {
        return Ok(Verdict::default());
    }

    let request = &payload.request;
    let settings = &Settings::read(&payload.settings)?;
    let lookups = &Lookups::new(cluster, &settings.general);
    let read_secret = |name: &str| lookups.get(&SECRET, name, Some(&request.namespace));
    let read_user_data = |vm: &VirtualMachine, read_secret: Option<ReadSecret<'_>>| {
        if reads_user_data { UserData::read(vm, read_secret) } else { UserData::default() }
    };
    let user_data =
        read_user_data(&new, if settings.general.user_data.read_secrets { Some(&read_secret) } else { None });
    for note in &user_data.notes {
        info!(log, "user data passed over"; request, "reason" => note);
    }
    // A Secret is not looked up for the old VirtualMachine, because its content before the update is not known.
    let old_user_data = old.as_ref().map(|old| read_user_data(old, None)).unwrap_or_default();
    if !is_mentioned && user_data.is_empty() && old_user_data.is_empty() {
        return Ok(Verdict::default());
    }

    let source = settings.general.config_source;
    let directives = &Directives::read(&new, source, user_data);
    let old = old.map(|vm| Old { directives: Directives::read(&vm, source, old_user_data), vm });
    let old = old.as_ref();
    let ownership = ownership(&new, old);
    let (verdict, refusals, failures_before) = Default::default();
    Evaluation {
        request,
        settings,
        lookups,
        log,
        old,
        directives,
        vm: new,
        ownership,
        verdict,
        refusals,
        failures_before,
    }
    .all_features()
}
