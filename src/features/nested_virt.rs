//! Nested virtualization: the guest's CPU gets the virtualization extension of the CPU vendor.

use std::rc::Rc;

use super::feature::{Context, Feature, Plan};
use super::reference::{OptionReference, Reference};
use super::switch::{WORDS, is_on};
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{ClusterError, NODE, Node};
use crate::settings::{Choice, FeatureSettings, choice, section};
use crate::text::Quoted;
use crate::vm::place::CPU_FEATURE;
use crate::vm::{CpuFeature, VirtualMachine};

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

/// A CPU vendor, which determines the virtualization extension.
struct Vendor {
    /// The CPU feature for the vendor's virtualization extension.
    extension: &'static str,
    /// The labels that KubeVirt's node labeller adds to nodes: one for the vendor of the CPU, one for the extension if
    /// it is enabled. Source: `kubevirt.io/kubevirt`, `pkg/virt-handler/node-labeller`.
    labels: [&'static str; 2],
    /// How the names of the vendor's CPU models start, in lower case. Source: libvirt, `src/cpu_map/x86_*.xml`.
    models: &'static str,
}

static AMD: Vendor = Vendor {
    extension: "svm",
    labels: ["cpu-vendor.node.kubevirt.io/AMD", "cpu-feature.node.kubevirt.io/svm"],
    models: "athlon,epyc,opteron,phenom,dhyana",
};

static INTEL: Vendor = Vendor {
    extension: "vmx",
    labels: ["cpu-vendor.node.kubevirt.io/Intel", "cpu-feature.node.kubevirt.io/vmx"],
    models: "broadwell,cascadelake,clearwaterforest,conroe,cooperlake,core2duo,coreduo,denverton,diamondrapids,\
        graniterapids,haswell,icelake,ivybridge,knightsmill,n270,nehalem,penryn,sandybridge,sapphirerapids,\
        sierraforest,skylake,westmere",
};

#[derive(Debug, thiserror::Error)]
enum NestedVirtError {
    /// Cause: another value
    /// Cure: one of these
    #[error(
        "the option vm-feature-manager.io/cpu-vendor is {}; write amd, intel or auto",
        Quoted(.0)
    )]
    Option(String),
    /// Cause: the value names a CPU vendor
    /// Cure: `enabled`, and the vendor in the option `cpu-vendor`, if the nodes do not tell it
    #[error("must be enabled or disabled; the vendor is the option vm-feature-manager.io/cpu-vendor, amd or intel")]
    Vendor,
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
    adds: &[&CPU_FEATURE],
    settings: |settings| &settings.nested_virt.feature,
    plan,
    reference: Reference {
        settings: "nestedVirtualization",
        example: "enabled",
        gives: "the guest can run virtual machines of its own",
        page: "cpu-and-memory.md#nested-virtualization",
        takes: WORDS,
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
    },
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    if matches!(value.to_ascii_lowercase().as_str(), "amd" | "intel" | "svm" | "vmx") {
        return Err(NestedVirtError::Vendor.into());
    }
    is_on(value)?;
    if let Some(architecture) = context.vm.architecture()?.filter(|architecture| !matches!(*architecture, "" | AMD64)) {
        let (who, architecture) = ("the VirtualMachine is", architecture.to_owned());
        return Err(NestedVirtError::Architecture { who, architecture }.into());
    }
    let (Vendor { extension, .. }, warning) = vendor(context)?;
    let features = context.vm.cpu_features()?;
    let same = features.iter().find(|feature| feature.name == *extension);
    if let Some(feature) = same.filter(|feature| is_off(feature)) {
        let policy = feature.policy.to_owned();
        return Err(NestedVirtError::Contradiction { extension, policy }.into());
    }
    Ok(Plan {
        entries: vec![CPU_FEATURE.entry(extension, "")],
        applied: "true".to_owned(),
        warnings: warning.into_iter().collect(),
    })
}

fn is_off(feature: &CpuFeature<'_>) -> bool {
    matches!(feature.policy, "forbid" | "disable")
}

/// The vendor, from the first source that names one: the option, the setting, the VM, the nodes; and a warning about the nodes.
fn vendor(context: &Context<'_>) -> anyhow::Result<(&'static Vendor, Option<String>)> {
    let read = |option: &str| {
        let vendor = CpuVendor::ALL.iter().find(|vendor| option.eq_ignore_ascii_case(vendor.word()));
        vendor.copied().ok_or_else(|| NestedVirtError::Option(option.to_owned()))
    };
    let option = context.directives.option(OPTION)?.map(read).transpose()?;
    for named in option.into_iter().chain([context.settings.nested_virt.cpu_vendor]) {
        match named {
            CpuVendor::Amd => return Ok((&AMD, None)),
            CpuVendor::Intel => return Ok((&INTEL, None)),
            CpuVendor::Auto => {}
        }
    }
    match vendor_of_vm(context.vm)? {
        Some(vendor) => Ok((vendor, None)),
        None => vendor_of_nodes(context),
    }
}

fn vendor_of_vm(vm: &VirtualMachine) -> anyhow::Result<Option<&'static Vendor>> {
    let features = vm.cpu_features()?;
    let placement = vm.placement()?;
    let model = vm.cpu_model()?.unwrap_or_default().to_ascii_lowercase();
    let says = |vendor: &Vendor| {
        features.iter().any(|feature| feature.name == vendor.extension && !is_off(feature))
            || vendor.models.split(',').any(|start| model.starts_with(start))
            || placement.selector.iter().any(|(key, value)| value == "true" && vendor.labels.contains(&key.as_str()))
    };
    only_one(says, "the VirtualMachine's CPU settings and node selector name")
}

fn vendor_of_nodes(context: &Context<'_>) -> anyhow::Result<(&'static Vendor, Option<String>)> {
    let nodes = context.nodes()?.map_err(|error| match error.cause {
        ClusterError::NotFound => {
            let why = "no node has the name that the node selector kubernetes.io/hostname gives";
            unknown(why, "correct the node selector")
        }
        _ => unknown(&format!("the VirtualMachine does not say, and {}", error.why()), &error.remedy()),
    })?;
    let is_amd64 = |node: &Rc<Node>| node.label(ARCHITECTURE_LABEL).is_none_or(|architecture| architecture == AMD64);
    let (nodes, others): (Vec<_>, Vec<_>) = nodes.into_iter().partition(is_amd64);
    if nodes.is_empty() {
        if let Some(architecture) = others.first().and_then(|node| node.label(ARCHITECTURE_LABEL)) {
            let (who, architecture) = ("all nodes that the VirtualMachine may run on are", architecture.to_owned());
            return Err(NestedVirtError::Architecture { who, architecture }.into());
        }
        let why = "the cluster has no node that fits the VirtualMachine's node selector and node affinity";
        return Err(unknown(why, "correct these").into());
    }
    let has = |label: &str| nodes.iter().any(|node| node.label(label) == Some("true"));
    let says = |vendor: &Vendor| vendor.labels.into_iter().any(has);
    let Some(vendor) = only_one(says, "the nodes that the VirtualMachine may run on are of")? else {
        let why = "no node that the VirtualMachine may run on has a label cpu-vendor.node.kubevirt.io/AMD or /Intel";
        return Err(unknown(why, "make sure that KubeVirt's node labeller runs").into());
    };
    let [_, label] = vendor.labels;
    let warning = (!has(label)).then(|| {
        format!(
            "no node that the VirtualMachine may run on has the label {label}=true, so the VirtualMachine will not be \
             scheduled; have the node's KVM module loaded with nested=1"
        )
    });
    Ok((vendor, warning))
}

/// The vendor that a source names, if any.
fn only_one(says: impl Fn(&Vendor) -> bool, who: &'static str) -> anyhow::Result<Option<&'static Vendor>> {
    match (says(&AMD), says(&INTEL)) {
        (true, true) => Err(NestedVirtError::BothVendors(who).into()),
        (true, false) => Ok(Some(&AMD)),
        (false, true) => Ok(Some(&INTEL)),
        (false, false) => Ok(None),
    }
}

fn unknown(why: &str, remedy: &str) -> NestedVirtError {
    NestedVirtError::UnknownVendor { why: why.to_owned(), remedy: remedy.to_owned() }
}
