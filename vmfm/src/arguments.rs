//! The command line.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use vmfm::jsonpath::Expression;

const EXAMPLES: &str = "\
Examples:
  vmfm vm.yaml
  vmfm --explain --cluster cluster/ vm.yaml
  vmfm --output summary --settings settings.yaml manifests/
  vmfm cluster --all-namespaces
  vmfm doctor

Exit code:
  0  every request is allowed
  1  a request is denied; with --fail-on-warn, also if there is a warning
  2  something cannot be used: an input, the settings, the module";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Evaluate virtual machines against the VM Feature Manager policy, as Kubewarden would: those in files, or those of a cluster.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    styles = STYLES,
)]
pub struct Arguments {
    /// Manifests of VirtualMachines and VirtualMachinePools (YAML or JSON), AdmissionReviews, folders of them, or - for standard
    /// input.
    ///
    /// A file may have several documents. Objects of other kinds count as being in the cluster.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// The policy's settings, or the ClusterAdmissionPolicy that has them; the defaults if absent.
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,

    /// A file or folder with objects of the cluster, such as Nodes, or - for standard input; may be given more than once.
    #[arg(long, value_name = "FOLDER")]
    pub cluster: Vec<PathBuf>,

    /// The manifests before the change: VirtualMachines that are in both are evaluated as UPDATEs.
    #[arg(long, value_name = "FILE")]
    pub old: Option<PathBuf>,

    /// What is printed: `diff` shows the change, the warnings and the audit annotations; `summary` a line each; `json` a list, and `yaml`
    /// a document for each, with the verdict, the patch and the object after it; `jsonpath=EXPRESSION` a part of the object after it, as in
    /// 'jsonpath={.spec.template.spec.nodeSelector}'.
    #[arg(long, short, value_parser = Output::parse, default_value = "diff")]
    pub output: Output,

    /// Say which directives were found where, what was looked up, and what was decided and why.
    #[arg(long, short)]
    pub explain: bool,

    /// Exit with 1 also if a request is allowed with a warning, or if something looks like a directive and is not read.
    #[arg(long)]
    pub fail_on_warn: bool,

    /// Simulate a policy-server that may not look up this kind, such as Node; may be given more than once.
    #[arg(long, value_name = "KIND")]
    pub deny: Vec<String>,

    /// Simulate an API server that does not answer.
    #[arg(long)]
    pub offline: bool,

    /// The policy's metadata, which says what it may look up; that of this version if absent.
    #[arg(long, value_name = "FILE")]
    pub metadata: Option<PathBuf>,

    #[command(flatten)]
    pub common: Common,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What all evaluations need.
#[derive(Debug, Args)]
pub struct Common {
    /// The policy's module.
    #[cfg_attr(feature = "embedded", doc = "The one in this program if absent.")]
    #[arg(long, value_name = "FILE")]
    #[cfg_attr(not(feature = "embedded"), arg(default_value = "policy.wasm"))]
    pub module: Option<PathBuf>,

    /// A folder that keeps the compiled module, so that the next start is quick. It is used only if it is yours, and nobody else can
    /// write to it or rename it.
    #[arg(long, value_name = "FOLDER", env = "VMFM_CACHE", hide_env_values = true)]
    pub cache: Option<PathBuf>,

    /// When to use colors; `auto` does on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Color,

    /// Print more on standard error: the policy's log lines and lookups, and how long it took.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Which cluster is meant. kubectl talks to it, so every way to log in works that kubectl knows.
#[derive(Debug, Args)]
pub struct Live {
    /// The context of the kubeconfig; the current one if absent.
    #[arg(long)]
    pub context: Option<String>,

    /// The kubeconfig; if absent, the one that kubectl uses.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The name of the policy's ClusterAdmissionPolicy. If absent, it is the only one that is named vm-feature-manager, or whose
    /// module is.
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
}

const CLUSTER_HELP: &str = "\
Each VirtualMachine is evaluated as if somebody changed something else in it now, with the settings and permissions that the policy
has in the cluster. That request does not set a directive. If the settings have rules about people (requireClaimOwner,
requireUserAccess), a device or ROM that the VirtualMachine already has stays, and a directive that was never evaluated is granted
only if its owner sets it again; the message says so.

States:
  applied          the policy would change nothing
  would change     the policy would change what the message says, because the policy, its settings or the cluster changed
  failed           a directive cannot be applied; the message says why
  never evaluated  the policy was not there, or could not be called, when the directive was written
  nothing          there is no directive, or the policy does not see the VirtualMachine

Exit code:
  0  no directive failed or was missed
  1  one failed or was never evaluated
  2  the cluster, the policy or the module cannot be used

The program in the environment variable KUBECTL is run, or kubectl.";

/// The arguments of `vmfm cluster`.
#[derive(Debug, Args)]
#[command(after_help = CLUSTER_HELP)]
pub struct ClusterArguments {
    /// The names of VirtualMachines; all if absent.
    #[arg(value_name = "NAME", conflicts_with_all = ["all_namespaces", "selector"])]
    pub names: Vec<String>,

    #[command(flatten)]
    pub live: Live,

    /// The namespace; that of the context if absent.
    #[arg(long, short)]
    pub namespace: Option<String>,

    /// The VirtualMachines of all namespaces.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub all_namespaces: bool,

    /// Only VirtualMachines with these labels, such as tier=gpu.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,

    /// What is printed: `table` a line each, with the first message; `wide` also the values of directives, and all messages; `json`
    /// a list; `yaml` a document each.
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: Listing,

    /// Write what would change: first in a dry run on the server, then after a question. This is only for VirtualMachines that were
    /// never evaluated, and for those that are named. One that somebody changed meanwhile is not written.
    #[arg(long)]
    pub fix: bool,

    /// With --fix: do not ask.
    #[arg(long, requires = "fix")]
    pub yes: bool,

    #[command(flatten)]
    pub common: Common,
}

const DOCTOR_HELP: &str = "\
Exit code:
  0  there is no problem; there may be warnings
  1  there is a problem
  2  the cluster or the module cannot be used

The program in the environment variable KUBECTL is run, or kubectl.";

/// The arguments of `vmfm doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub struct DoctorArguments {
    #[command(flatten)]
    pub live: Live,

    /// What is printed: `text` a line for each check; `json` a list.
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: Findings,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Findings {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listing {
    Table,
    Wide,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say which VirtualMachines of a cluster have which directives, and what became of them.
    Cluster(Box<ClusterArguments>),
    /// Say what a cluster lacks for the policy to work, and what to do about it.
    Doctor(Box<DoctorArguments>),
    /// Print a script that completes this command in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page.
    Man {
        /// The page of this command, such as cluster; that of the program if absent.
        command: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone)]
pub enum Output {
    /// The change as a unified diff, the warnings, the audit annotations.
    Diff,
    /// A line.
    Summary,
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
            "summary" => Ok(Self::Summary),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            _ => match text.strip_prefix("jsonpath=") {
                Some(expression) => Expression::parse(expression).map(Self::JsonPath),
                None => Err("write diff, summary, json, yaml or jsonpath=EXPRESSION".to_owned()),
            },
        }
    }
}
