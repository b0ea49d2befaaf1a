//! Evaluates VirtualMachines against the policy's module, as Kubewarden would: those in files, or those of a cluster.

mod arguments;
mod commands;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{CommandFactory, Parser};

use arguments::{Arguments, Command};
use vmfm::visible;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        None => commands::evaluate::run(&arguments),
        Some(Command::Cluster(arguments)) => commands::cluster::run(arguments),
        Some(Command::Doctor(arguments)) => commands::doctor::run(arguments),
        Some(Command::Completions { shell }) => print(|program, text| {
            clap_complete::generate(*shell, program, "vmfm", text);
            Ok(())
        }),
        Some(Command::Man { command }) => match command {
            None => print(|program, text| clap_mangen::Man::new(program.clone()).render(text)),
            Some(name) => page(name),
        },
    };
    result.unwrap_or_else(|error| {
        // The program that reads the output may stop early, which is not an error.
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {}", visible::text(&format!("{error:#}")));
        ExitCode::from(2)
    })
}

/// Prints the manual page of a command.
fn page(name: &str) -> Result<ExitCode> {
    let mut program = Arguments::command();
    program.build();
    let Some(command) = program.find_subcommand(name) else {
        let names: Vec<_> = program.get_subcommands().map(clap::Command::get_name).collect();
        bail!("there is no command {name}; the commands are {}", names.join(", "));
    };
    let title = format!("vmfm-{}", command.get_name());
    let page = clap_mangen::Man::new(command.clone()).title(title);
    print(|_, text| page.render(text))
}

/// Prints a text about the program.
fn print(write: impl FnOnce(&mut clap::Command, &mut Vec<u8>) -> io::Result<()>) -> Result<ExitCode> {
    let mut text = Vec::new();
    write(&mut Arguments::command(), &mut text)?;
    io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}
