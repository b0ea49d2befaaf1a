//! Evaluates a VirtualMachine against the policy's module, as Kubewarden would, without a cluster.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};

use vm_feature_manager_e2e::admission::{self, RequestOptions};
use vm_feature_manager_e2e::cluster::{self, Cluster, Faults};
use vm_feature_manager_e2e::host::Host;
use vm_feature_manager_e2e::jsonpath::Expression;
use vm_feature_manager_e2e::{report, yaml};

/// Evaluate a VirtualMachine against the VM Feature Manager policy, as Kubewarden would.
///
/// Exit code: 0 the request is allowed, 1 it is denied, 2 the input cannot be used.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The VirtualMachine's manifest (YAML or JSON), an AdmissionReview, or - for standard input.
    ///
    /// Other objects in the file count as being in the cluster.
    manifest: PathBuf,

    /// The policy's module.
    #[arg(long, value_name = "FILE", default_value = "policy.wasm")]
    module: PathBuf,

    /// The policy's settings (YAML or JSON); the defaults if absent.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,

    /// A folder with the objects of the cluster (YAML or JSON).
    #[arg(long, value_name = "FOLDER")]
    cluster: Option<PathBuf>,

    /// The policy's metadata, which says what it may look up.
    #[arg(long, value_name = "FILE", default_value = "metadata.yml")]
    metadata: PathBuf,

    /// A kind that policy-server has no right to look up, such as Node; may be given more than once.
    #[arg(long, value_name = "KIND")]
    deny: Vec<String>,

    /// Let the API server not answer.
    #[arg(long)]
    offline: bool,

    /// The manifest as it was before: makes the request an UPDATE.
    #[arg(long, value_name = "FILE")]
    old: Option<PathBuf>,

    /// What is printed: `diff` shows the change, the warnings and the audit annotations; `json` and `yaml` the verdict, the
    /// patch and the object after it; `jsonpath=EXPRESSION` a part of the object after it, as in
    /// 'jsonpath={.spec.template.spec.nodeSelector}'.
    #[arg(long, short, value_parser = Output::parse, default_value = "diff")]
    output: Output,

    /// Print the policy's log lines and the time that the evaluation took on standard error.
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Clone)]
enum Output {
    /// The change as a unified diff, the warnings, the audit annotations.
    Diff,
    /// The verdict, the patch and the object after it, as JSON.
    Json,
    /// The same as YAML.
    Yaml,
    /// A part of the object after the patch.
    JsonPath(Expression),
}

impl Output {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "diff" => Ok(Self::Diff),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            _ => match text.strip_prefix("jsonpath=") {
                Some(expression) => Expression::parse(expression).map(Self::JsonPath),
                None => Err("write diff, json, yaml or jsonpath=EXPRESSION".to_owned()),
            },
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the request is allowed.
fn run(arguments: &Arguments) -> Result<bool> {
    let old = arguments.old.as_deref().map(only_document).transpose()?;
    let documents = yaml::read(&arguments.manifest)?;
    let place = || arguments.manifest.display().to_string();
    let (request, others) = admission::request(documents, &RequestOptions { old }).with_context(place)?;

    let mut cluster = match &arguments.cluster {
        Some(folder) => Cluster::from_folder(folder)?,
        None => Cluster::default(),
    };
    others.into_iter().for_each(|object| cluster.add(object));
    let granted = cluster::granted_by_metadata(&arguments.metadata)?;
    if let Some(kind) = arguments.deny.iter().find(|kind| !granted.grants(kind)) {
        let metadata = arguments.metadata.display();
        bail!("--deny {kind}: {metadata} grants no such kind; write it as it stands there");
    }
    let cluster = cluster.with_faults(Faults { denied: arguments.deny.clone(), offline: arguments.offline, ..granted });
    let settings = match &arguments.settings {
        Some(file) => only_document(file)?,
        None => json!({}),
    };

    let host = Host::load(&arguments.module, cluster)?;
    let validation = host.validate_settings(&settings)?;
    if !validation.valid {
        let place = arguments.settings.as_deref().unwrap_or(Path::new("settings"));
        bail!("{}: {}", place.display(), validation.message.unwrap_or_default());
    }

    let evaluation = host.validate(&settings, &request);
    if arguments.verbose {
        for line in &evaluation.activity.logs {
            eprintln!("log: {line}");
        }
        for (operation, request) in &evaluation.activity.lookups {
            eprintln!("lookup: {operation} {request}");
        }
        eprintln!("evaluated in {:.3} ms", evaluation.duration.as_secs_f64() * 1000.0);
    }
    match &arguments.output {
        Output::Diff => print!("{}", report::diff(&request, &evaluation)),
        Output::Json => println!("{:#}", report::value(&request, &evaluation)),
        Output::Yaml => print!("{}", yaml::write(&report::value(&request, &evaluation))),
        Output::JsonPath(expression) => match &evaluation.response.status {
            Some(status) if !evaluation.response.allowed => {
                eprintln!("denied: {}", status.message.as_deref().unwrap_or("(no message)"));
            }
            _ => println!("{}", expression.evaluate(&report::after(&request, &evaluation))),
        },
    }
    Ok(evaluation.response.allowed)
}

/// The one document of a file; nothing at all is an empty object.
fn only_document(file: &Path) -> Result<Value> {
    let mut documents = yaml::read(file)?;
    match (documents.pop(), documents.len()) {
        (None, _) => Ok(json!({})),
        (Some(document), 0) => Ok(document),
        (Some(_), _) => bail!("{}: more than one YAML document", file.display()),
    }
}
