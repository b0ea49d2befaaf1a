//! `vmfm FILE`: evaluates VirtualMachines in files, without a cluster.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use vm_feature_manager_policy::list_directives;
use vmfm::cluster::{self, Cluster, Faults};
use vmfm::explain::{Explanation, not_read};
use vmfm::host::Host;
use vmfm::input::{Input, Inputs};
use vmfm::paint::{Paint, Part};
use vmfm::report::Evaluated;
use vmfm::{visible, yaml};

use crate::arguments::{Arguments, Output};

/// The policy's metadata of this version.
const METADATA: &str = include_str!("../../../metadata.yml");

/// The summary at the end.
#[derive(Default)]
struct Totals {
    unchanged: usize,
    mutated: usize,
    denied: usize,
    unusable: usize,
    /// Those that are allowed with a warning, if that counts as a failure.
    warned: usize,
}

/// What is said if the policy looked something up, and there was no cluster.
const NO_CLUSTER: &str = "note: without --cluster, the policy sees a cluster that has nothing: no nodes, no devices, no KubeVirt. What \
                          its messages say about the cluster is not about yours";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let paths = arguments.files.iter().chain(&arguments.cluster).chain(&arguments.settings).chain(&arguments.old);
    if paths.filter(|path| path.as_path() == Path::new("-")).count() > 1 {
        bail!("- is given more than once, and standard input can be read only once");
    }
    let old = arguments.old.as_deref().map(yaml::read).transpose()?.unwrap_or_default();
    let Inputs { inputs, others } = Inputs::read(&arguments.files, &old);
    let settings = arguments.settings.as_deref().map(read_settings).transpose()?.unwrap_or_else(|| json!({}));
    let has_cluster = !arguments.cluster.is_empty() || !others.is_empty() || arguments.offline;
    let host = super::load(&arguments.common, cluster(arguments, others)?)?;
    let validation = host.validate_settings(&settings)?;
    if !validation.valid {
        let place = arguments.settings.as_deref().unwrap_or(Path::new("settings"));
        bail!("{}: {}", place.display(), validation.message.unwrap_or_default());
    }

    let paint = Paint(arguments.common.color.is_on());
    let is_single = inputs.len() == 1 && arguments.files.iter().all(|file| !file.is_dir());
    let mut out = io::stdout().lock();
    let (mut totals, mut summaries, mut values) = (Totals::default(), Vec::new(), Vec::new());
    let mut is_misled = false;
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
        totals.count(&evaluated, arguments.fail_on_warn);
        is_misled |= !has_cluster && !evaluated.evaluation.activity.lookups().is_empty();
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
        Output::Json => writeln!(out, "{}", visible::json(&Value::from(values), true))?,
        Output::Yaml => {
            let documents: Vec<_> = values.iter().map(yaml::write).collect();
            write!(out, "{}", documents.join("---\n"))?;
        }
        Output::JsonPath(_) => {}
    }
    if is_misled {
        eprintln!("{NO_CLUSTER}");
    }
    Ok(totals.exit_code())
}

fn evaluate(arguments: &Arguments, host: &Host, settings: &Value, file: String, request: Value) -> Evaluated {
    let evaluation = host.validate(settings, &request);
    if arguments.common.verbose {
        for line in evaluation.activity.logs() {
            eprintln!("log: {}", visible::json(line, false));
        }
        for (operation, request) in evaluation.activity.lookups() {
            eprintln!("lookup: {operation} {}", visible::json(request, false));
        }
        eprintln!("evaluated in {:.3} ms", evaluation.duration.as_secs_f64() * 1000.0);
    }
    let explanation = arguments.explain.then(|| Explanation::new(&request, settings, &evaluation));
    let not_read = not_read(&list_directives(&request["object"], settings));
    Evaluated { file, request, evaluation, explanation, not_read }
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
    for object in others {
        cluster.apply(cluster::as_stored(object).map_err(anyhow::Error::msg)?);
    }
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

impl Totals {
    fn count(&mut self, evaluated: &Evaluated, fails_on_warn: bool) {
        self.warned += usize::from(fails_on_warn && evaluated.is_warned_of());
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
            Self { denied: 1.., .. } | Self { warned: 1.., .. } => ExitCode::from(1),
            _ => ExitCode::SUCCESS,
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { unchanged, mutated, denied, unusable, .. } = self;
        write!(f, "{} allowed ({mutated} of them mutated), {denied} denied", unchanged + mutated)?;
        if *unusable > 0 { write!(f, ", {unusable} unusable") } else { Ok(()) }
    }
}
