//! What happens to a request, in order. This module does not know JSON or waPC.

use slog::{Logger, info, warn};

use crate::cluster::{Cluster, Lookups, SECRET};
use crate::directives::{Directives, ReadSecret, UserData};
use crate::evaluation::{Evaluation, Old, Ownership, follow, is_missed, put_back};
use crate::features::record::Record;
use crate::features::{FEATURES, Settings};
use crate::request::{Payload, VirtualMachines};
use crate::settings::{ConfigSource, has_default_directives, reads_user_data};
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
    let VirtualMachines { mut new, old } = vms;
    let is_any = |is_it: fn(&VirtualMachine) -> bool| is_it(&new) || old.as_ref().is_some_and(is_it);
    let is_mentioned = is_any(VirtualMachine::mentions_policy);
    let reads_user_data = reads_user_data(&payload.settings) && is_any(UserData::is_possible);
    let has_defaults = has_default_directives(&payload.settings);
    let is_unchanged = old.as_ref().is_some_and(|old| new.asks_for_the_same_as(old));
    let may_be_missed = || reads_user_data || has_defaults || may_be_missed(&new);
    if new.is_deleting() || !(is_mentioned || reads_user_data || has_defaults) || is_unchanged && !may_be_missed() {
        return Ok(Verdict::default());
    }

    let request = &payload.request;
    let settings = &Settings::read(&payload.settings)?;
    let lookups = &Lookups::new(cluster, &settings.general);
    let read_secret = |name: &str| lookups.get(&SECRET, name, Some(&request.namespace));
    let read_user_data = |vm: &VirtualMachine, read_secret: Option<ReadSecret<'_>>| {
        if reads_user_data { UserData::read(vm, read_secret) } else { UserData::default() }
    };
    let read = |vm: &VirtualMachine, user_data| {
        let defaults = settings.general.default_directives.of(&request.namespace);
        let directives = Directives::read(vm, settings.general.config_source, user_data, defaults);
        let record = Record::read(directives.record(), FEATURES);
        (directives, record)
    };
    // A Secret is not looked up for an update that changes nothing. For the old VirtualMachine, its content of today
    // counts: no request changed it, so none asks for what is in it.
    let secret: Option<ReadSecret<'_>> = Some(&read_secret);
    let secret = secret.filter(|_| settings.general.user_data.read_secrets && !is_unchanged);
    let old_user_data = old.as_ref().map(|old| read_user_data(old, secret)).unwrap_or_default();
    let user_data = read_user_data(&new, secret);
    for note in &user_data.notes {
        info!(log, "user data passed over"; request, "reason" => note);
    }
    if !(is_mentioned || has_defaults) && user_data.is_empty() && old_user_data.is_empty() {
        return Ok(Verdict::default());
    }
    let (mut directives, mut record) = read(&new, user_data);
    let mut enabled = FEATURES.iter().filter(|feature| (feature.settings)(settings).enabled);
    if is_unchanged && !enabled.any(|feature| is_missed(feature, &directives, &record)) {
        return Ok(Verdict::default());
    }
    let mut old = old.map(|vm| {
        let (directives, record) = read(&vm, old_user_data);
        Old { vm, renamed: None, directives, record }
    });
    let written = &record.clone();
    if let Some(old) = &mut old {
        follow(old, &mut new, &mut record);
    }
    let put_back = &put_back(&mut new, &mut directives, &record, old.as_mut(), settings);
    let (old, directives, record) = (old.as_ref(), &directives, &record);
    let ownership = Ownership::of(&new, directives, record, old, settings);
    let (verdict, refusals, failures_before) = Default::default();
    Evaluation {
        request,
        settings,
        lookups,
        log,
        old,
        directives,
        record,
        written,
        put_back,
        vm: new,
        ownership,
        verdict,
        refusals,
        failures_before,
    }
    .all_features()
}

/// Whether a directive may be one that was never evaluated, wherever directives are read. Settings and user data are not read.
fn may_be_missed(vm: &VirtualMachine) -> bool {
    [ConfigSource::Annotations, ConfigSource::Labels].into_iter().any(|source| {
        let directives = Directives::read(vm, source, UserData::default(), std::iter::empty());
        let record = Record::read(directives.record(), FEATURES);
        FEATURES.iter().any(|feature| is_missed(feature, &directives, &record))
    })
}
