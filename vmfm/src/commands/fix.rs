//! `vmfm cluster --fix`: writes the VirtualMachines that the policy missed.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;
use vmfm::live::kubectl::{ApiError, Kubectl};
use vmfm::live::state::{Judged, State};
use vmfm::visible;

use crate::arguments::ClusterArguments;

/// Writes what would change. The exit code is 1 if a VirtualMachine cannot be written.
pub fn run(kubectl: &Kubectl, arguments: &ClusterArguments, judged: &[Judged]) -> Result<ExitCode> {
    let is_meant = |one: &&Judged| one.state == State::NeverEvaluated || !arguments.names.is_empty();
    let meant: Vec<(&Judged, &Value)> =
        judged.iter().filter(is_meant).filter_map(|one| Some((one, one.changed.as_ref()?))).collect();
    if meant.is_empty() {
        say("\nnothing to write: no virtual machine was missed");
        return Ok(ExitCode::SUCCESS);
    }
    say("\nin a dry run:");
    let mut writable = Vec::new();
    for (one, changed) in &meant {
        match kubectl.replace(changed, true) {
            Ok((_, warnings)) => {
                say(&format!("  {}: {}", name(one), one.messages.join("; ")));
                warnings.iter().for_each(|warning| say(&format!("    warning: {warning}")));
                writable.push((*one, *changed));
            }
            Err(error) => say(&format!("  {}: cannot be written: {error}", name(one))),
        }
    }
    if writable.is_empty() || !is_wanted(arguments, writable.len())? {
        return Ok(ExitCode::from(1));
    }
    let mut is_all = writable.len() == meant.len();
    for (one, changed) in writable {
        match kubectl.replace(changed, false) {
            Ok(_) => say(&format!("{} is written; a running guest gets it at its next start", name(one))),
            Err(error) => {
                is_all = false;
                let why = match error {
                    ApiError::Conflict(_) => "somebody changed it meanwhile; run the command again".to_owned(),
                    error => error.to_string(),
                };
                say(&format!("{} is not written: {why}", name(one)));
            }
        }
    }
    Ok(if is_all { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Asks whether to write.
fn is_wanted(arguments: &ClusterArguments, count: usize) -> Result<bool> {
    if arguments.yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        bail!("standard input is no terminal, so nobody can be asked; with --yes, nobody is");
    }
    let plural = if count == 1 { "" } else { "s" };
    eprint!("write {count} virtual machine{plural}? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

fn name(one: &Judged) -> String {
    format!("{}/{}", one.namespace, one.name)
}

/// Prints a line on standard error, because standard output has the list.
fn say(line: &str) {
    eprintln!("{}", visible::text(line));
}
