//! `vmfm doctor`: what a cluster lacks for the policy to work.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use vmfm::cluster::Cluster;
use vmfm::live::checks::{Facts, Finding, Grade};
use vmfm::live::kubectl::Kubectl;
use vmfm::live::policy::{Policy, PolicyError};
use vmfm::live::state::{Judged, State};
use vmfm::paint::{Paint, Part};
use vmfm::visible;

use super::cluster::judge_each;
use crate::arguments::{DoctorArguments, Findings};

pub fn run(arguments: &DoctorArguments) -> Result<ExitCode> {
    let kubectl = Arc::new(Kubectl::new(arguments.live.context.as_deref(), arguments.live.kubeconfig.as_ref()));
    let findings = match Policy::find(&kubectl, arguments.live.policy.as_deref()) {
        Ok(policy) => {
            let facts = Facts::read(&kubectl, policy)?;
            let mut findings = facts.findings();
            findings.extend(with_module(arguments, &kubectl, &facts)?);
            findings
        }
        Err(error @ PolicyError::NoKubewarden) => {
            vec![Finding::problem("Kubewarden", error.to_string(), "install it as docs/install.md says")]
        }
        Err(PolicyError::None(others)) => vec![Finding::problem(
            "policy",
            format!(
                "no ClusterAdmissionPolicy is named vm-feature-manager, or has a module of that name; the cluster has {others}"
            ),
            "install the policy as docs/install.md says, or name it with --policy",
        )],
        Err(error) => return Err(error.into()),
    };
    print(arguments, &findings)?;
    if arguments.common.verbose {
        eprintln!("{} requests", kubectl.requests());
    }
    let is_bad = findings.iter().any(|finding| finding.grade == Grade::Problem);
    Ok(if is_bad { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// What the policy's own module finds: whether it can use the settings, and what it makes of the VirtualMachines.
fn with_module(arguments: &DoctorArguments, kubectl: &Arc<Kubectl>, facts: &Facts) -> Result<Vec<Finding>> {
    let host = super::load(&arguments.common, Cluster::default())?;
    let validation = host.validate_settings(&facts.policy.settings())?;
    if !validation.valid {
        let cure = "correct spec.settings of the ClusterAdmissionPolicy";
        return Ok(vec![Finding::problem("settings", validation.message.unwrap_or_default(), cure)]);
    }
    let host = host.with_cluster(facts.cluster(kubectl));
    let judged = judge_each(kubectl, &facts.policy, &facts.vms, &host)?;
    Ok(vec![Finding::ok("settings", "they are valid"), missed(&judged), failed(&judged)])
}

fn missed(judged: &[Judged]) -> Finding {
    const CHECK: &str = "missed VMs";
    let names = names(judged, State::NeverEvaluated);
    match names.is_empty() {
        true => Finding::ok(CHECK, "every directive was evaluated"),
        false => Finding::problem(
            CHECK,
            format!("VMs whose directives were never evaluated: {names}"),
            "run: vmfm cluster -A --fix",
        ),
    }
}

fn failed(judged: &[Judged]) -> Finding {
    const CHECK: &str = "failed VMs";
    let names = names(judged, State::Failed);
    match names.is_empty() {
        true => Finding::ok(CHECK, "no directive fails"),
        false => Finding::warning(CHECK, format!("VMs with a directive that fails: {names}"), "run: vmfm cluster -A"),
    }
}

/// The first names of the VirtualMachines in a state.
fn names(judged: &[Judged], state: State) -> String {
    const MOST: usize = 5;
    let of_state: Vec<&Judged> = judged.iter().filter(|one| one.state == state).collect();
    let names = of_state.iter().take(MOST).map(|one| format!("{}/{}", one.namespace, one.name));
    let more = of_state.len().saturating_sub(MOST);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    names.collect::<Vec<_>>().join(", ") + &more
}

fn print(arguments: &DoctorArguments, findings: &[Finding]) -> Result<()> {
    let mut out = io::stdout().lock();
    if arguments.output == Findings::Json {
        writeln!(out, "{}", visible::json(&json!(findings), true))?;
        return Ok(());
    }
    let paint = Paint(arguments.common.color.is_on());
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    for Finding { check, grade, found, cure } in findings {
        let part = match grade {
            Grade::Ok => Part::Good,
            Grade::Warning => Part::Warning,
            Grade::Problem => Part::Bad,
        };
        let grade = paint.paint(part, &format!("{:<7}", grade.words()));
        let cure = cure.as_ref().map(|cure| format!("; {cure}")).unwrap_or_default();
        let text = visible::text(&format!("{found}{cure}")).replace('\n', " ");
        writeln!(out, "{grade}   {check:<width$}   {text}")?;
    }
    let count = |grade: Grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let (problems, warnings) = (count(Grade::Problem), count(Grade::Warning));
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    writeln!(out, "\n{problems} problem{}, {warnings} warning{}", plural(problems), plural(warnings))?;
    Ok(())
}
