//! Evaluates VirtualMachines against the policy's module, as Kubewarden would, without a cluster.

mod arguments;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use arguments::{Arguments, Color, Command, Output};
use vmfm::cluster::{self, Cluster, Faults};
use vmfm::explain::Explanation;
use vmfm::host::Host;
use vmfm::input::{Input, Inputs};
use vmfm::paint::{Paint, Part};
use vmfm::report::Evaluated;
use vmfm::{visible, yaml};

/// The policy's metadata of this version.
const METADATA: &str = include_str!("../../metadata.yml");

/// The summary at the end.
#[derive(Default)]
struct Totals {
    unchanged: usize,
    mutated: usize,
    denied: usize,
    unusable: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Some(command) => print(command).map(|()| ExitCode::SUCCESS),
        None => run(&arguments).map(|totals| totals.exit_code()),
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

fn print(command: &Command) -> Result<()> {
    let mut program = Arguments::command();
    let mut text = Vec::new();
    match command {
        Command::Completions { shell } => clap_complete::generate(*shell, &mut program, "vmfm", &mut text),
        Command::Man => clap_mangen::Man::new(program).render(&mut text)?,
    }
    io::stdout().write_all(&text)?;
    Ok(())
}

fn run(arguments: &Arguments) -> Result<Totals> {
    let old = arguments.old.as_deref().map(yaml::read).transpose()?.unwrap_or_default();
    let Inputs { inputs, others } = Inputs::read(&arguments.files, &old);
    let settings = arguments.settings.as_deref().map(read_settings).transpose()?.unwrap_or_else(|| json!({}));
    let host = load(arguments, cluster(arguments, others)?)?;
    let validation = host.validate_settings(&settings)?;
    if !validation.valid {
        let place = arguments.settings.as_deref().unwrap_or(Path::new("settings"));
        bail!("{}: {}", place.display(), validation.message.unwrap_or_default());
    }

    let paint = Paint(arguments.color.is_on());
    let is_single = inputs.len() == 1 && arguments.files.iter().all(|file| !file.is_dir());
    let mut out = io::stdout().lock();
    let (mut totals, mut summaries, mut values) = (Totals::default(), Vec::new(), Vec::new());
    for (number, Input { file, request }) in inputs.into_iter().enumerate() {
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                eprintln!("error: {}", visible::text(&error));
                totals.unusable += 1;
                summaries.push(format!("{}: {}", visible::text(&file), paint.paint(Part::Bad, "unusable")));
                values.push(json!({"file": file, "error": error}));
                continue;
            }
        };
        let evaluated = evaluate(arguments, &host, &settings, file, request);
        totals.count(&evaluated);
        match &arguments.output {
            Output::Diff => {
                let gap = if number == 0 { "" } else { "\n" };
                write!(out, "{gap}{}", evaluated.diff(paint))?;
            }
            Output::Summary => {
                let explanation = evaluated.explanation.as_ref().map(|explanation| explanation.text(paint));
                let explanation = explanation.map_or_else(String::new, |text| format!("\n\n{text}"));
                summaries.push(format!("{}{explanation}", evaluated.summary(paint)));
            }
            Output::Json | Output::Yaml => values.push(evaluated.value()),
            Output::JsonPath(expression) => match &evaluated.evaluation.response.status {
                Some(status) if !evaluated.evaluation.response.allowed => {
                    eprintln!("denied: {}", visible::text(status.message.as_deref().unwrap_or("(no message)")));
                }
                _ => {
                    let found = expression.evaluate(&evaluated.after());
                    // A program gets the values as they are.
                    writeln!(out, "{}", if out.is_terminal() { visible::text(&found) } else { found })?;
                }
            },
        }
        if matches!(arguments.output, Output::Diff) {
            summaries.push(evaluated.summary(paint));
        }
    }
    match &arguments.output {
        Output::Diff if is_single => {}
        Output::Diff => writeln!(out, "\n{}\n{totals}", summaries.join("\n"))?,
        Output::Summary if is_single => writeln!(out, "{}", summaries.join("\n").trim_end())?,
        Output::Summary => writeln!(out, "{}\n{totals}", summaries.join("\n"))?,
        Output::Json | Output::Yaml if is_single && totals.unusable > 0 => {}
        Output::Json if is_single => writeln!(out, "{}", visible::json(&values.remove(0), true))?,
        Output::Json => writeln!(out, "{}", visible::json(&Value::from(values), true))?,
        Output::Yaml => {
            let documents: Vec<_> = values.iter().map(yaml::write).collect();
            write!(out, "{}", documents.join("---\n"))?;
        }
        Output::JsonPath(_) => {}
    }
    Ok(totals)
}

fn evaluate(arguments: &Arguments, host: &Host, settings: &Value, file: String, request: Value) -> Evaluated {
    let evaluation = host.validate(settings, &request);
    if arguments.verbose {
        for line in evaluation.activity.logs() {
            eprintln!("log: {}", visible::json(line, false));
        }
        for (operation, request) in evaluation.activity.lookups() {
            eprintln!("lookup: {operation} {}", visible::json(request, false));
        }
        eprintln!("evaluated in {:.3} ms", evaluation.duration.as_secs_f64() * 1000.0);
    }
    let explanation = arguments.explain.then(|| Explanation::new(&request, settings, &evaluation));
    Evaluated { file, request, evaluation, explanation }
}

/// The settings in a file: those of a policy, or the whole document. An empty file means an empty object.
fn read_settings(file: &Path) -> Result<Value> {
    let mut documents = yaml::read(file)?;
    match (documents.pop(), documents.len()) {
        (None, _) => Ok(json!({})),
        (Some(mut policy), 0) if policy["kind"].as_str().is_some_and(|kind| kind.ends_with("AdmissionPolicy")) => {
            Ok(policy["spec"]["settings"].take())
        }
        (Some(settings), 0) => Ok(settings),
        (Some(_), _) => bail!("{}: more than one YAML document", file.display()),
    }
}

/// The cluster from the files, and the objects that are in the same files as the VirtualMachines.
fn cluster(arguments: &Arguments, others: Vec<Value>) -> Result<Cluster> {
    let mut cluster = Cluster::default();
    arguments.cluster.iter().try_for_each(|path| cluster.read(path))?;
    others.into_iter().for_each(|object| cluster.apply(object));
    let (metadata, place) = match &arguments.metadata {
        Some(file) => (yaml::read(file)?, file.display().to_string()),
        None => (yaml::parse(METADATA).map_err(anyhow::Error::msg)?, "the policy's metadata".to_owned()),
    };
    let granted = cluster::granted_by(metadata.first().unwrap_or(&Value::Null));
    if let Some(kind) = arguments.deny.iter().find(|kind| !granted.grants(kind)) {
        let kinds: Vec<_> = granted.granted.iter().flatten().map(|(_, name)| name.as_str()).collect();
        bail!("--deny {kind}: {place} grants no such kind, only {}", kinds.join(", "));
    }
    Ok(cluster.with_faults(Faults { denied: arguments.deny.clone(), offline: arguments.offline, ..granted }))
}

/// The module, compiled.
fn load(arguments: &Arguments, cluster: Cluster) -> Result<Host> {
    let cache = arguments.cache.as_deref();
    #[cfg(feature = "embedded")]
    if arguments.module.is_none() {
        const MODULE: &[u8] = include_bytes!("../../policy.wasm");
        return Ok(Host::from_bytes(MODULE, cache, cluster)?);
    }
    let module = arguments.module.as_deref().context("no --module")?;
    Ok(Host::load(module, cache, cluster)?)
}

impl Color {
    fn is_on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
                io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
            }
        }
    }
}

impl Totals {
    fn count(&mut self, evaluated: &Evaluated) {
        let response = &evaluated.evaluation.response;
        *match (response.allowed, &response.patch) {
            (false, _) => &mut self.denied,
            (true, None) => &mut self.unchanged,
            (true, Some(_)) => &mut self.mutated,
        } += 1;
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self { unusable: 1.., .. } => ExitCode::from(2),
            Self { denied: 1.., .. } => ExitCode::from(1),
            _ => ExitCode::SUCCESS,
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { unchanged, mutated, denied, unusable } = self;
        write!(f, "{} allowed ({mutated} of them mutated), {denied} denied", unchanged + mutated)?;
        if *unusable > 0 { write!(f, ", {unusable} unusable") } else { Ok(()) }
    }
}
