//! `vmfm cluster`: what the policy makes of the VirtualMachines of a cluster.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use vm_feature_manager_policy::ListedDirective;
use vmfm::cluster::Cluster;
use vmfm::host::Host;
use vmfm::live::kubectl::Kubectl;
use vmfm::live::parallel::{parallel, processors};
use vmfm::live::policy::{Policy, PolicyServer};
use vmfm::live::selector::selects;
use vmfm::live::state::{Judged, State, features, judge};
use vmfm::live::{self, Choice, lookups, needs};
use vmfm::paint::{Paint, Part};
use vmfm::{visible, yaml};

use super::table::{Cell, table};
use crate::arguments::{ClusterArguments, Listing};

/// How much of a message a table shows.
const SHORT: usize = 100;

pub fn run(arguments: &ClusterArguments) -> Result<ExitCode> {
    let start = Instant::now();
    let kubectl = Arc::new(Kubectl::new(arguments.live.context.as_deref(), arguments.live.kubeconfig.as_ref()));
    let policy = Policy::find(&kubectl, arguments.live.policy.as_deref())?;
    if let Some(obstacle) = policy.obstacle() {
        eprintln!("warning: {obstacle}, so it changes no virtual machine now");
    }
    let choice = choice(arguments, &kubectl)?;
    let vms = live::virtual_machines(&kubectl, &choice)?;
    let host = super::load(&arguments.common, Cluster::default())?;
    let judged = judge_all(&kubectl, &policy, &vms, &host)?;
    print(arguments, &choice, &judged)?;
    if arguments.fix {
        return super::fix::run(&kubectl, arguments, &judged);
    }
    if arguments.common.verbose {
        eprintln!("{} requests, {:.1} s", kubectl.requests(), start.elapsed().as_secs_f64());
    }
    let is_bad = |judged: &Judged| matches!(judged.state, State::Failed | State::NeverEvaluated);
    Ok(if judged.iter().any(is_bad) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn choice(arguments: &ClusterArguments, kubectl: &Kubectl) -> Result<Choice> {
    let namespace = match &arguments.namespace {
        _ if arguments.all_namespaces => None,
        Some(namespace) => Some(namespace.clone()),
        None => Some(kubectl.namespace()?),
    };
    Ok(Choice { namespace, names: arguments.names.clone(), selector: arguments.selector.clone() })
}

/// What the policy makes of each VirtualMachine. Only what these need is read from the cluster.
fn judge_all(kubectl: &Arc<Kubectl>, policy: &Policy, vms: &[Value], host: &Host) -> Result<Vec<Judged>> {
    let settings = policy.settings();
    let validation = host.validate_settings(&settings)?;
    if !validation.valid {
        bail!("the settings of the policy {}: {}", policy.name(), validation.message.unwrap_or_default());
    }
    let asked: BTreeSet<String> = vms.iter().flat_map(|vm| features(vm, &settings)).collect();
    let mut of_use = needs::enabled(&settings);
    of_use.retain(|feature| asked.contains(*feature));
    if of_use.is_empty() {
        return judge_each(kubectl, policy, vms, host);
    }
    let account = PolicyServer::find(kubectl, policy)?.account(&settings);
    let needs = needs::needs(&settings, &of_use);
    judge_each(kubectl, policy, vms, &host.with_cluster(lookups::cluster(kubectl, policy, &account, &needs)?))
}

/// What the policy makes of each VirtualMachine, if the host has the cluster.
pub fn judge_each(kubectl: &Kubectl, policy: &Policy, vms: &[Value], host: &Host) -> Result<Vec<Judged>> {
    let settings = policy.settings();
    let selector = &policy.0["spec"]["namespaceSelector"];
    let namespaces = if selector["matchExpressions"].is_array() { live::namespaces(kubectl)? } else { Vec::new() };
    let is_left_out = |namespace: &str| {
        let labels = namespaces.iter().find(|(name, _)| name == namespace).map(|(_, labels)| labels);
        labels.is_some_and(|labels| !selects(selector, labels))
    };
    Ok(parallel(vms, processors(), |vm| {
        let judged = judge(vm, &settings, host);
        if is_left_out(&judged.namespace) {
            let message = "the policy's namespaceSelector leaves out this namespace".to_owned();
            return Judged { state: State::Nothing, messages: vec![message], changed: None, ..judged };
        }
        judged
    }))
}

fn print(arguments: &ClusterArguments, choice: &Choice, judged: &[Judged]) -> Result<()> {
    let mut out = io::stdout().lock();
    match arguments.output {
        Listing::Json => writeln!(out, "{}", visible::json(&json!(judged), true))?,
        Listing::Yaml => {
            let documents: Vec<_> = judged.iter().map(|one| yaml::write(&json!(one))).collect();
            write!(out, "{}", documents.join("---\n"))?;
        }
        Listing::Table | Listing::Wide if judged.is_empty() => match &choice.namespace {
            Some(namespace) => {
                eprintln!("no virtual machines in the namespace {}; -A shows those of all", visible::text(namespace))
            }
            None => eprintln!("no virtual machines"),
        },
        Listing::Table | Listing::Wide => {
            let is_wide = arguments.output == Listing::Wide;
            let mut heading = vec!["NAME", "DIRECTIVES", "STATE", "MESSAGE"];
            if choice.namespace.is_none() {
                heading.insert(0, "NAMESPACE");
            }
            let rows: Vec<_> = judged.iter().map(|one| row(one, is_wide, choice.namespace.is_none())).collect();
            write!(out, "{}", table(&heading, &rows, Paint(arguments.common.color.is_on())))?;
            writeln!(out, "\n{}", totals(judged))?;
        }
    }
    Ok(())
}

fn row(judged: &Judged, is_wide: bool, has_namespace: bool) -> Vec<Cell> {
    let is_read = |directive: &&ListedDirective| directive.note.is_none();
    let name = |directive: &ListedDirective| match is_wide {
        true => format!("{}={}", directive.name, directive.value),
        false => directive.name.clone(),
    };
    let directives: Vec<String> = judged.directives.iter().filter(is_read).map(name).collect();
    let directives = if directives.is_empty() { "-".to_owned() } else { directives.join(",") };
    let part = match judged.state {
        State::Applied => Some(Part::Good),
        State::WouldChange | State::NeverEvaluated => Some(Part::Warning),
        State::Failed => Some(Part::Bad),
        State::Nothing => None,
    };
    let mut messages = judged.messages.iter().chain(&judged.warnings);
    let message = if is_wide { messages.cloned().collect::<Vec<_>>().join(" | ") } else { short(messages.next()) };
    let mut row = vec![Cell(judged.name.clone(), None), Cell(directives, None)];
    row.extend([Cell(judged.state.words().to_owned(), part), Cell(message, None)]);
    if has_namespace {
        row.insert(0, Cell(judged.namespace.clone(), None));
    }
    row
}

/// The start of a message.
fn short(message: Option<&String>) -> String {
    let message = message.map(String::as_str).unwrap_or_default();
    match message.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// How many VirtualMachines are in which state.
fn totals(judged: &[Judged]) -> String {
    let count = |state: State| judged.iter().filter(|one| one.state == state).count();
    let counts = State::ALL.into_iter().map(|state| (count(state), state.words())).filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, words)| format!("{count} {words}")).collect();
    let plural = if judged.len() == 1 { "" } else { "s" };
    format!("{} virtual machine{plural}: {}", judged.len(), counts.join(", "))
}
