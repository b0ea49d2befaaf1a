//! The project's own tasks. `cargo xtask generate` writes the files that follow from declarations in the policy's source.

mod files;
mod kinds;
mod messages;
mod reference;
mod rights;
#[cfg(test)]
mod sentences;
mod settings;

use std::path::PathBuf;
use std::{fs, io};

use anstyle_svg::{Term, WIN10_CONSOLE};
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};

use files::root;

#[derive(Parser)]
#[command(about = "The project's own tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Writes the files, and the parts of files, that follow from declarations in the policy's source
    Generate {
        /// Writes nothing, but fails if a file is out of date
        #[arg(long)]
        check: bool,
    },
    /// Reads the output of a command from standard input, and draws it as a picture of a terminal
    Terminal {
        /// The command, as shown after the prompt
        #[arg(long)]
        command: String,
        /// The SVG file to write
        output: PathBuf,
    },
}

/// A file that is generated as a whole or in part: its path, and a function from its old text to its new text.
struct Generated {
    path: &'static str,
    make: fn(&str) -> Result<String>,
}

const FILES: [Generated; 18] = [
    Generated { path: "metadata.yml", make: kinds::all },
    Generated { path: "charts/vm-feature-manager-policy/Chart.yaml", make: kinds::chart },
    Generated { path: "deploy/base/policy.yaml", make: kinds::by_default },
    Generated { path: "deploy/base/rbac.yaml", make: rights::manifest },
    Generated { path: "deploy/kubevirt/kustomization.yaml", make: rights::without_harvester },
    Generated { path: "charts/vm-feature-manager-policy/templates/rbac.yaml", make: rights::chart },
    Generated { path: "questions-ui.yml", make: settings::questions },
    Generated { path: "charts/vm-feature-manager-policy/questions.yaml", make: settings::questions },
    Generated { path: "artifacthub-pkg.yml", make: settings::package },
    Generated { path: "charts/vm-feature-manager-policy/values.yaml", make: settings::values },
    Generated { path: "charts/vm-feature-manager-policy/values.schema.json", make: settings::schema },
    Generated { path: "fuzz/dictionary.txt", make: settings::dictionary },
    Generated { path: "charts/vm-feature-manager-policy/README.md", make: settings::chart_readme },
    Generated { path: "README.md", make: reference::readme },
    Generated { path: "docs/reference.md", make: reference::page },
    Generated { path: "docs/usage.md", make: reference::usage },
    Generated { path: "deploy/observability/vms.columns", make: reference::columns },
    Generated { path: "docs/troubleshooting.md", make: messages::guide },
];

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Generate { check: true } => check(),
        Task::Generate { check: false } => generate(),
        Task::Terminal { command, output } => {
            let printed = io::read_to_string(io::stdin()).context("standard input cannot be read")?;
            ensure!(!printed.trim().is_empty(), "{command} printed nothing");
            let term = Term::new().palette(WIN10_CONSOLE).bg_color((22, 27, 34).into());
            let picture = term.render_svg(&format!("$ \x1b[1m{command}\x1b[0m\n{}", printed.trim_end()));
            fs::write(&output, picture).with_context(|| format!("{} cannot be written", output.display()))
        }
    }
}

/// The generated files that are out of date, with the text that they should have.
fn outdated() -> Result<Vec<(&'static str, String)>> {
    let mut outdated = Vec::new();
    for Generated { path, make } in FILES {
        let old = fs::read_to_string(root().join(path)).with_context(|| format!("{path} cannot be read"))?;
        let new = make(&old).with_context(|| format!("{path} cannot be generated"))?;
        if new != old {
            outdated.push((path, new));
        }
    }
    Ok(outdated)
}

fn check() -> Result<()> {
    match outdated()?.first() {
        Some((path, _)) => bail!("{path} is not up to date; run: cargo xtask generate"),
        None => Ok(()),
    }
}

fn generate() -> Result<()> {
    for (path, text) in outdated()? {
        fs::write(root().join(path), text).with_context(|| format!("{path} cannot be written"))?;
        println!("{path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_stay_as_they_are() {
        for Generated { path, make } in FILES {
            let text = fs::read_to_string(root().join(path)).unwrap();
            let once = make(&text).unwrap();
            assert_eq!(make(&once).unwrap(), once, "{path}");
        }
    }
}
