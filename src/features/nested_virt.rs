//! Nested virtualization: the guest's CPU gets the virtualization extension of the CPU vendor.

use super::feature::{Context, Feature, Plan};
use super::reference::{OptionReference, Reference};
use super::switch::Switch;
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{ClusterError, LookupError, NODE};
use crate::settings::{FeatureSettings, choice, section};
use crate::text::Quoted;
use crate::vm::VirtualMachine;
use crate::vm::place::CPU_FEATURE;

const OPTION: &str = "cpu-vendor";

section! {
    /// Setting `nestedVirtualization`.
    NestedVirtSettings("Nested virtualization") {
        ..feature: FeatureSettings;
        /// With auto, the policy determines it for each virtual machine, from the machine itself and the nodes that it may run on.
        cpu_vendor: CpuVendor = CpuVendor::Auto, "cpuVendor", "CPU vendor";
    }
}

choice! {
    /// The vendor of the nodes' CPUs.
    CpuVendor {
        /// Determined for each VM.
        Auto = "auto",
        /// AMD: `svm`.
        Amd = "amd",
        /// Intel: `vmx`.
        Intel = "intel",
    }
}

/// The label with a node's architecture, which the kubelet sets.
const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";
const AMD64: &str = "amd64";

/// The vendors of CPU models, by the start of the model's name in lower case. Source: libvirt, `src/cpu_map/x86_*.xml`.
const AMD_MODELS: &str = "athlon,epyc,opteron,phenom,dhyana";
const INTEL_MODELS: &str = "broadwell,cascadelake,clearwaterforest,conroe,cooperlake,core2duo,\
    coreduo,denverton,diamondrapids,graniterapids,haswell,icelake,ivybridge,knightsmill,n270,nehalem,penryn,\
    sandybridge,sapphirerapids,sierraforest,skylake,westmere";

/// The CPU vendor, which determines the virtualization extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Amd,
    Intel,
}

impl Vendor {
    const ALL: [Vendor; 2] = [Vendor::Amd, Vendor::Intel];

    /// The CPU feature for the vendor's virtualization extension.
    fn extension(self) -> &'static str {
        match self {
            Vendor::Amd => "svm",
            Vendor::Intel => "vmx",
        }
    }

    /// The labels that KubeVirt's node labeller adds to nodes: one for the vendor of the CPU, one for the extension if
    /// it is enabled. Source: `kubevirt.io/kubevirt`, `pkg/virt-handler/node-labeller`.
    fn labels(self) -> [&'static str; 2] {
        match self {
            Vendor::Amd => ["cpu-vendor.node.kubevirt.io/AMD", "cpu-feature.node.kubevirt.io/svm"],
            Vendor::Intel => ["cpu-vendor.node.kubevirt.io/Intel", "cpu-feature.node.kubevirt.io/vmx"],
        }
    }

    fn of_model(model: &str) -> Option<Self> {
        let model = model.to_ascii_lowercase();
        let is_one_of = |starts: &str| starts.split(',').any(|start| model.starts_with(start));
        match (is_one_of(AMD_MODELS), is_one_of(INTEL_MODELS)) {
            (true, _) => Some(Vendor::Amd),
            (_, true) => Some(Vendor::Intel),
            _ => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum NestedVirtError {
    /// Cause: another value
    /// Cure: one of these
    #[error(
        "the option vm-feature-manager.io/cpu-vendor is {}; write amd, intel or auto",
        Quoted(.0)
    )]
    Option(String),
    /// Cause: the VM forbids what the directive asks for
    /// Cure: remove one of the two
    #[error(
        "spec.template.spec.domain.cpu.features has {extension} with the policy {policy}, which contradicts nested \
         virtualization; remove that entry or the directive"
    )]
    Contradiction { extension: &'static str, policy: String },
    /// Cause: CPUs of two vendors: "the VirtualMachine's CPU settings and node selector name" both, or "the nodes
    /// that the VirtualMachine may run on are of" both
    /// Cure: pin the VirtualMachine to one vendor's nodes, or set `cpu-vendor`; in user data, `cpu_vendor`
    #[error(
        "{0} both AMD and Intel, so neither svm nor vmx would be right; pin the VirtualMachine to nodes of one \
         vendor with the node selector cpu-vendor.node.kubevirt.io/AMD or cpu-vendor.node.kubevirt.io/Intel, or name \
         the vendor in the option vm-feature-manager.io/cpu-vendor"
    )]
    BothVendors(&'static str),
    /// Cause: what follows the colon: one of the next rows, or "the VirtualMachine does not say, and" one of [Lookups](#lookups)
    /// Cure: what follows the last "or"
    #[error(
        "the policy cannot determine whether to add svm (AMD) or vmx (Intel): {why}; set the option \
         vm-feature-manager.io/cpu-vendor or the policy's setting nestedVirtualization.cpuVendor to amd or intel, or {remedy}"
    )]
    UnknownVendor { why: String, remedy: String },
    /// Cause: ARM or another architecture: "the VirtualMachine is", or "all nodes that the VirtualMachine may run on
    /// are"
    /// Cure: remove the directive; nested virtualization works differently there
    #[error(
        "{who} of the architecture {}, but svm and vmx are features of amd64; remove the directive, or run the \
         VirtualMachine on amd64",
        Quoted(.architecture)
    )]
    Architecture { who: &'static str, architecture: String },
}

pub(super) static FEATURE: Feature = Feature {
    name: "nested-virt",
    options: &[OPTION],
    adds: &[&CPU_FEATURE],
    settings: |settings| &settings.nested_virt.feature,
    plan,
};

pub(super) static REFERENCE: Reference = Reference {
    settings: "nestedVirtualization",
    example: "enabled",
    gives: "the guest can run virtual machines of its own",
    page: "cpu-and-memory.md#nested-virtualization",
    takes: Switch::TAKES,
    effect: "`domain.cpu.features` gets `svm` (AMD) or `vmx` (Intel) with `policy: require`",
    options: &[OptionReference {
        name: OPTION,
        takes: "`amd`, `intel`, `auto`",
        meaning: "the vendor of the CPU that the VM runs on; with `auto`, the policy determines it",
    }],
    looks_up: &[Access::to(Verbs::List, &[&NODE])
        .what("the CPU vendor, if neither option, setting nor VM specify it; a single node is read by its name")
        .without("the directive fails and says what to set or grant")
        .only_if(&[Condition::Is("nestedVirtualization.cpuVendor", "auto")])],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Option<Plan>> {
    if value.parse::<Switch>()? == Switch::Off {
        return Ok(None);
    }
    if let Some(architecture) = context.vm.architecture()?.filter(|architecture| !matches!(*architecture, "" | AMD64)) {
        let (who, architecture) = ("the VirtualMachine is", architecture.to_owned());
        return Err(NestedVirtError::Architecture { who, architecture }.into());
    }
    let (vendor, warning) = vendor(context)?;
    let extension = vendor.extension();
    let features = context.vm.cpu_features()?;
    let same = features.iter().find(|feature| feature.name == extension);
    if let Some(feature) = same.filter(|f| matches!(f.policy, "forbid" | "disable")) {
        let policy = feature.policy.to_owned();
        return Err(NestedVirtError::Contradiction { extension, policy }.into());
    }
    Ok(Some(Plan {
        entries: vec![CPU_FEATURE.entry(extension, "")],
        applied: "true".to_owned(),
        warnings: warning.into_iter().collect(),
    }))
}

/// The vendor, from the first source that names one: the option, the setting, the VM, the nodes; and a warning about the nodes.
fn vendor(context: &Context<'_>) -> anyhow::Result<(Vendor, Option<String>)> {
    if let Some(vendor) = vendor_of_option(context)? {
        return Ok((vendor, None));
    }
    match context.settings.nested_virt.cpu_vendor {
        CpuVendor::Amd => return Ok((Vendor::Amd, None)),
        CpuVendor::Intel => return Ok((Vendor::Intel, None)),
        CpuVendor::Auto => {}
    }
    match vendor_of_vm(context.vm)? {
        Some(vendor) => Ok((vendor, None)),
        None => vendor_of_nodes(context),
    }
}

fn vendor_of_option(context: &Context<'_>) -> anyhow::Result<Option<Vendor>> {
    let Some(option) = context.directives.option(OPTION)? else {
        return Ok(None);
    };
    match option.to_ascii_lowercase().as_str() {
        "amd" => Ok(Some(Vendor::Amd)),
        "intel" => Ok(Some(Vendor::Intel)),
        "auto" => Ok(None),
        _ => Err(NestedVirtError::Option(option.to_owned()).into()),
    }
}

fn vendor_of_vm(vm: &VirtualMachine) -> anyhow::Result<Option<Vendor>> {
    let features = vm.cpu_features()?;
    let placement = vm.placement()?;
    let model = vm.cpu_model()?.and_then(Vendor::of_model);
    let says = |vendor: &Vendor| {
        features
            .iter()
            .any(|feature| feature.name == vendor.extension() && !matches!(feature.policy, "forbid" | "disable"))
            || model == Some(*vendor)
            || placement.selector.iter().any(|(key, value)| value == "true" && vendor.labels().contains(&key.as_str()))
    };
    only_one(Vendor::ALL.into_iter().filter(says), "the VirtualMachine's CPU settings and node selector name")
}

fn vendor_of_nodes(context: &Context<'_>) -> anyhow::Result<(Vendor, Option<String>)> {
    let mut nodes = context.nodes(&context.vm.placement()?).map_err(unknown_vendor)?;
    let other = nodes.iter().find_map(|node| node.label(ARCHITECTURE_LABEL).filter(|a| *a != AMD64));
    let other = other.map(str::to_owned);
    nodes.retain(|node| node.label(ARCHITECTURE_LABEL).is_none_or(|a| a == AMD64));
    if let Some(architecture) = other.filter(|_| nodes.is_empty()) {
        let who = "all nodes that the VirtualMachine may run on are";
        return Err(NestedVirtError::Architecture { who, architecture }.into());
    }
    if nodes.is_empty() {
        return Err(NestedVirtError::unknown(
            "the cluster has no node that fits the VirtualMachine's node selector and node affinity",
            "correct these",
        )
        .into());
    }
    let has = |label: &str| nodes.iter().any(|node| node.label(label) == Some("true"));
    let found = Vendor::ALL.into_iter().filter(|vendor| vendor.labels().into_iter().any(has));
    let Some(vendor) = only_one(found, "the nodes that the VirtualMachine may run on are of")? else {
        return Err(NestedVirtError::unknown(
            "no node that the VirtualMachine may run on has a label cpu-vendor.node.kubevirt.io/AMD or /Intel",
            "make sure that KubeVirt's node labeller runs",
        )
        .into());
    };
    let [_, label] = vendor.labels();
    let warning = (!has(label)).then(|| {
        format!(
            "no node that the VirtualMachine may run on has the label {label}=true, so the VirtualMachine will not be \
             scheduled; have the node's KVM module loaded with nested=1"
        )
    });
    Ok((vendor, warning))
}

fn only_one(mut vendors: impl Iterator<Item = Vendor>, who: &'static str) -> anyhow::Result<Option<Vendor>> {
    match (vendors.next(), vendors.next()) {
        (Some(_), Some(_)) => Err(NestedVirtError::BothVendors(who).into()),
        (vendor, _) => Ok(vendor),
    }
}

impl NestedVirtError {
    fn unknown(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::UnknownVendor { why: why.into(), remedy: remedy.into() }
    }
}

fn unknown_vendor(error: LookupError) -> NestedVirtError {
    match &error.cause {
        ClusterError::NotFound => NestedVirtError::unknown(
            "no node has the name that the node selector kubernetes.io/hostname gives",
            "correct the node selector",
        ),
        _ => NestedVirtError::unknown(format!("the VirtualMachine does not say, and {}", error.why()), error.remedy()),
    }
}
