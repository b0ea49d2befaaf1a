//! Nested virtualization: the guest's CPU gets the virtualization extension of the CPU vendor.

use std::rc::Rc;

use super::allowed_nodes::DEFAULT_ARCHITECTURE;
use super::cpu_vendor::{AMD, INTEL, MODEL_LABEL, Vendor, model_warning};
use super::feature::{Context, Feature, Plan};
use super::reference::{OptionReference, Reference};
use super::switch::{WORDS, parse_switch};
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{AMD64, ARCHITECTURE_LABEL, LookupError, NODE, Node};
use crate::settings::{Choice, FeatureSettings, choice, section};
use crate::text::Quoted;
use crate::vm::place::{CPU_FEATURE, OPTIONAL_CPU_FEATURE};
use crate::vm::{CpuFeature, ShapeError};

const OPTION: &str = "cpu-vendor";

section! {
    /// Setting `nestedVirtualization`.
    NestedVirtSettings("Nested virtualization") {
        ..feature: FeatureSettings;
        /// With auto, the policy determines it for each virtual machine, from the machine itself and the nodes that it may run on.
        /// With any, the guest gets svm or vmx, whichever its node has.
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
        /// Both `svm` and `vmx`, each only if the node has it.
        Any = "any",
    }
}

#[derive(Debug, thiserror::Error)]
enum NestedVirtError {
    /// Cause: another value
    /// Cure: one of these
    #[error(
        "the option vm-feature-manager.io/cpu-vendor is {}; write amd, intel, any or auto",
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
    /// Cause: the VM requires the extension of one vendor, but the option or the setting names the other. KubeVirt selects a node
    /// that has all required features, and no node has both
    /// Cure: remove the entry from `domain.cpu.features`, or `evmcs` from `domain.features.hyperv`, which needs `vmx`; or name its vendor
    /// or `any` in the option `cpu-vendor`
    #[error(
        "spec.template.spec.domain.{field} requires {required}, a feature of CPUs by {by}, but {who} says {vendor}, and no \
         node has both svm and vmx; remove that entry, or set the option vm-feature-manager.io/cpu-vendor to {by} or any"
    )]
    OtherVendor {
        field: &'static str,
        required: &'static str,
        by: &'static str,
        who: &'static str,
        vendor: &'static str,
    },
    /// Cause: CPUs of two vendors: "the VirtualMachine's CPU settings and placement name" both, or "the nodes that the
    /// VirtualMachine may run on are of" both
    /// Cure: pin the VirtualMachine to one vendor's nodes, or set `cpu-vendor` to a vendor or to `any`; in user data, `cpu_vendor`
    #[error(
        "{0} both AMD and Intel, so neither svm nor vmx would be right; set the option vm-feature-manager.io/cpu-vendor to \
         amd, intel, or any (then the guest gets what its node has), or pin the VirtualMachine to nodes of one vendor with \
         the node selector cpu-vendor.node.kubevirt.io/AMD or cpu-vendor.node.kubevirt.io/Intel"
    )]
    BothVendors(&'static str),
    /// Cause: the VM requires both extensions ("cpu.features requires", or "cpu.features and features.hyperv.evmcs require"), so KubeVirt
    /// finds no node for it, whatever the directive adds
    /// Cure: remove one of the two entries, or give both `policy: optional`
    #[error(
        "spec.template.spec.domain.{0} svm and vmx, and no node has both; remove one of them, or both, and the policy adds \
         the right one"
    )]
    BothRequired(&'static str),
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
         VirtualMachine on amd64 (spec.template.spec.architecture)",
        Quoted(.architecture)
    )]
    Architecture { who: &'static str, architecture: String },
}

pub(super) static FEATURE: Feature = Feature {
    name: "nested-virt",
    adds: &[&CPU_FEATURE, &OPTIONAL_CPU_FEATURE],
    settings: |settings| &settings.nested_virt.feature,
    plan,
    options: &[OPTION],
};

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "nestedVirtualization",
    example: "enabled",
    gives: "the guest can run virtual machines of its own",
    page: "cpu-and-memory.md#nested-virtualization",
    takes: WORDS,
    effect: "`domain.cpu.features` gets `svm` (AMD) or `vmx` (Intel) with `policy: require`",
    options: &[OptionReference {
        name: OPTION,
        takes: "`amd`, `intel`, `any`, `auto`",
        meaning: "the vendor of the CPU that the VM runs on; with `auto`, the policy determines it; with `any`, the \
                  guest gets `svm` or `vmx`, whichever its node has (`policy: optional`)",
    }],
    looks_up: &[
        Access::to(Verbs::List, &[&NODE])
        .what("whether a node has the extension, and the CPU vendor, if neither option, setting nor VM specify it; a single \
               node is read by its name")
        .without("no warning if no node has; without a vendor, the directive fails and says what to set or grant")
            .only_if(&[Condition::Is("nestedVirtualization.cpuVendor", "auto")]),
        DEFAULT_ARCHITECTURE.only_if(&[Condition::Is("nestedVirtualization.cpuVendor", "auto")]),
    ],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    if matches!(value.to_ascii_lowercase().as_str(), "amd" | "intel" | "svm" | "vmx") {
        return Err(NestedVirtError::Vendor.into());
    }
    parse_switch(value)?;
    if let Some(architecture) = context.vm.architecture()?.filter(|architecture| !matches!(*architecture, "" | AMD64)) {
        let (who, architecture) = ("the VirtualMachine is", architecture.to_owned());
        return Err(NestedVirtError::Architecture { who, architecture }.into());
    }
    let (extensions, warning) = choose(context)?;
    let (vendors, place) = match extensions {
        Extensions::Of(vendor) => (vec![vendor], &CPU_FEATURE),
        Extensions::OfNode => (vec![&AMD, &INTEL], &OPTIONAL_CPU_FEATURE),
    };
    let features = context.vm.cpu_features()?;
    let mut entries = Vec::new();
    for Vendor { extension, .. } in vendors {
        let same = features.iter().find(|feature| feature.name == *extension);
        if let Some(CpuFeature { policy, .. }) = same.filter(|feature| matches!(feature.policy, "forbid" | "disable")) {
            return Err(NestedVirtError::Contradiction { extension, policy: (*policy).to_owned() }.into());
        }
        entries.push(place.entry(extension, ""));
    }
    Ok(Plan { entries, applied: "true".to_owned(), warnings: warning.into_iter().collect(), ..Plan::default() })
}

/// The virtualization extensions that the guest gets.
#[derive(Clone, Copy)]
enum Extensions {
    /// That of a vendor, which the node must have.
    Of(&'static Vendor),
    /// Whichever the node has.
    OfNode,
}

/// Chooses the extensions by the first source that names a vendor: the option, the setting, the VM, the nodes; and a
/// warning about the nodes.
fn choose(context: &Context<'_>) -> anyhow::Result<(Extensions, Option<String>)> {
    let read = |option: &str| {
        let vendor = CpuVendor::ALL.iter().find(|vendor| option.eq_ignore_ascii_case(vendor.word()));
        vendor.copied().ok_or_else(|| NestedVirtError::Option(option.to_owned()))
    };
    let setting = context.settings.nested_virt.cpu_vendor;
    let option = context.directives.option(OPTION)?.map(read).transpose()?.filter(|option| *option != CpuVendor::Auto);
    let who = match option {
        Some(_) => "the option vm-feature-manager.io/cpu-vendor",
        None => "the policy's setting nestedVirtualization.cpuVendor",
    };
    match [&AMD, &INTEL].map(|vendor| requiring(vendor, context)) {
        [Ok(Some(_)), Ok(Some(EVMCS))] => {
            return Err(NestedVirtError::BothRequired("cpu.features and features.hyperv.evmcs require").into());
        }
        [Ok(Some(_)), Ok(Some(_))] => return Err(NestedVirtError::BothRequired("cpu.features requires").into()),
        [Err(error), _] => return Err(error.into()),
        _ => {}
    }
    let extensions = match option.unwrap_or(setting) {
        CpuVendor::Amd => named(&AMD, who, context)?,
        CpuVendor::Intel => named(&INTEL, who, context)?,
        // KubeVirt selects nodes of Intel.
        CpuVendor::Any if context.vm.has_evmcs() => Extensions::Of(&INTEL),
        CpuVendor::Any => Extensions::OfNode,
        CpuVendor::Auto => match of_vm(context)? {
            Some(extensions) => extensions,
            None => Extensions::Of(of_nodes(nodes(context)?, context)?),
        },
    };
    // If the administrator names the vendor, policy-server may not be allowed to read nodes.
    let nodes = if setting == CpuVendor::Auto { nodes(context)?.unwrap_or_default() } else { Vec::new() };
    Ok((extensions, warning(extensions, &nodes, context)?))
}

/// The extension of a vendor that the option or the setting (`who`) names.
fn named(vendor: &'static Vendor, who: &'static str, context: &Context<'_>) -> anyhow::Result<Extensions> {
    let Vendor { extension: required, name: by, .. } = *vendor.other();
    if let Some(field) = requiring(vendor.other(), context)? {
        return Err(NestedVirtError::OtherVendor { field, required, by, who, vendor: vendor.name }.into());
    }
    Ok(Extensions::Of(vendor))
}

/// The policies of a CPU feature with which KubeVirt selects nodes that have it. Source: `nodeselectorrenderer.go`,
/// `CPUFeatureLabelsFromCPUFeatures`.
const SELECTING: &[&str] = &["", "require"];

/// What needs `vmx` beside the CPU features.
const EVMCS: &str = "features.hyperv.evmcs";

/// The field of the domain with which the VirtualMachine requires the vendor's extension, if there is one.
fn requiring(vendor: &Vendor, context: &Context<'_>) -> Result<Option<&'static str>, ShapeError> {
    Ok(match has(&context.vm.cpu_features()?, vendor.extension, SELECTING) {
        true => Some("cpu.features"),
        false => Some(EVMCS).filter(|_| vendor.name == INTEL.name && context.vm.has_evmcs()),
    })
}

/// Whether the VirtualMachine has the CPU feature with one of these policies.
fn has(features: &[CpuFeature<'_>], extension: &str, policies: &[&str]) -> bool {
    features.iter().any(|feature| feature.name == extension && policies.contains(&feature.policy))
}

/// The extensions that the VirtualMachine itself names, if any.
fn of_vm(context: &Context<'_>) -> anyhow::Result<Option<Extensions>> {
    let features = context.vm.cpu_features()?;
    let placement = context.placement()?;
    let of_model = of_model(context)?;
    // An optional feature says nothing about the node, as a node without it is possible, too.
    let says = |vendor: &Vendor| {
        has(&features, vendor.extension, &["", "require", "force"])
            || vendor.name == INTEL.name && context.vm.has_evmcs()
            || of_model.is_some_and(|of_model| of_model.name == vendor.name)
            || vendor.labels.iter().any(|label| placement.requires(label))
    };
    if let Some(vendor) = only_one(says, "the VirtualMachine's CPU settings and placement name")? {
        return Ok(Some(Extensions::Of(vendor)));
    }
    let has_both = [&AMD, &INTEL].iter().all(|vendor| has(&features, vendor.extension, &["optional"]));
    Ok(has_both.then_some(Extensions::OfNode))
}

/// The vendor that the CPU model names. CPUs of one vendor can run simple models of the other, and KubeVirt selects nodes by the
/// label of the model. So if only nodes of the other vendor have that label, it is the other vendor.
fn of_model(context: &Context<'_>) -> anyhow::Result<Option<&'static Vendor>> {
    let model = context.vm.cpu_model()?.unwrap_or_default();
    let Some(vendor) = [&AMD, &INTEL].into_iter().find(|vendor| vendor.has_model(model)) else { return Ok(None) };
    let (label, other) = (format!("{MODEL_LABEL}{model}"), vendor.other());
    let mut nodes = nodes(context)?.unwrap_or_default();
    nodes.retain(|node| node.label(&label) == Some("true"));
    let all = nodes.len();
    nodes.retain(|node| other.labels.iter().any(|label| node.label(label) == Some("true")));
    let is_other = !nodes.is_empty() && (nodes.len() == all || is_in_place(other, context));
    Ok(Some(if is_other { other } else { vendor }))
}

/// Whether the policy added the vendor's extension before, and nobody asks anew.
fn is_in_place(vendor: &Vendor, context: &Context<'_>) -> bool {
    !context.is_requested && context.ours.iter().any(|added| added.entry.name == vendor.extension)
}

/// The vendor of the nodes, if they could be looked up. If there are nodes of both vendors by now, what the policy added
/// before stays, until someone asks anew.
fn of_nodes(nodes: Result<Vec<Rc<Node>>, LookupError>, context: &Context<'_>) -> anyhow::Result<&'static Vendor> {
    let nodes = nodes
        .map_err(|error| unknown(&format!("the VirtualMachine does not say, and {}", error.why()), &error.remedy()))?;
    if nodes.is_empty() {
        let why = "the cluster has no node that fits the VirtualMachine's node selector, node affinity, tolerations and architecture";
        return Err(unknown(why, "correct these").into());
    }
    let says = |vendor: &Vendor| vendor.labels.iter().any(|label| any_has(&nodes, label));
    let in_place = [&AMD, &INTEL].into_iter().find(|vendor| is_in_place(vendor, context));
    if let Some(vendor) = in_place.filter(|_| says(&AMD) && says(&INTEL)) {
        return Ok(vendor);
    }
    only_one(says, "the nodes that the VirtualMachine may run on are of")?.ok_or_else(|| {
        let why = "no node that the VirtualMachine may run on has a label cpu-vendor.node.kubevirt.io/AMD or /Intel";
        unknown(why, "make sure that KubeVirt's node labeller runs").into()
    })
}

/// The nodes of amd64 that the VirtualMachine may run on.
fn nodes(context: &Context<'_>) -> anyhow::Result<Result<Vec<Rc<Node>>, LookupError>> {
    let nodes = match context.nodes()? {
        Ok(nodes) => nodes,
        Err(error) => return Ok(Err(error)),
    };
    let is_amd64 = |node: &Rc<Node>| node.label(ARCHITECTURE_LABEL).is_none_or(|architecture| architecture == AMD64);
    let (mut nodes, others): (Vec<_>, Vec<_>) = nodes.into_iter().partition(is_amd64);
    if let (true, Some(architecture)) = (nodes.is_empty(), others.first().and_then(|it| it.label(ARCHITECTURE_LABEL))) {
        let (who, architecture) = ("all nodes that the VirtualMachine may run on are", architecture.to_owned());
        return Err(NestedVirtError::Architecture { who, architecture }.into());
    }
    // KubeVirt keeps the VirtualMachine from nodes that have a feature which it forbids. Source: `template.go`,
    // `setNodeAffinityForbiddenFeaturePolicy`.
    let features = context.vm.cpu_features()?;
    let forbids = |vendor: &&Vendor| has(&features, vendor.extension, &["forbid"]);
    for [_, label] in [&AMD, &INTEL].into_iter().filter(forbids).map(|vendor| vendor.labels) {
        nodes.retain(|node| node.label(label).is_none());
    }
    Ok(Ok(nodes))
}

fn any_has(nodes: &[Rc<Node>], label: &str) -> bool {
    nodes.iter().any(|node| node.label(label) == Some("true"))
}

/// A warning if none of the nodes has the extension. If the nodes are not known, there is none.
fn warning(extensions: Extensions, nodes: &[Rc<Node>], context: &Context<'_>) -> Result<Option<String>, ShapeError> {
    let [of_amd, of_intel] = [&AMD, &INTEL].map(|vendor| {
        let [_, label] = vendor.labels;
        label
    });
    let Extensions::Of(vendor) = extensions else {
        let is_missing = !nodes.is_empty() && !any_has(nodes, of_amd) && !any_has(nodes, of_intel);
        return Ok(is_missing.then(|| {
            format!(
                "no node that the VirtualMachine may run on has the label {of_amd}=true or {of_intel}=true, so the guest gets \
                 neither; have the nodes' KVM modules loaded with nested=1"
            )
        }));
    };
    let [vendor_label, extension_label] = vendor.labels;
    // KubeVirt selects no node by a feature of the user's with another policy.
    let features = context.vm.cpu_features()?;
    let mut of_user = features.iter().filter(|feature| feature.name == vendor.extension && !context.vm.has_evmcs());
    let has_it = |node: &Rc<Node>| node.label(extension_label) == Some("true");
    if let Some(CpuFeature { policy, .. }) = of_user.find(|feature| ["force", "optional"].contains(&feature.policy)) {
        let without = nodes.iter().any(|node| !has_it(node));
        return Ok(without.then(|| {
            format!(
                "spec.template.spec.domain.cpu.features has {} with the policy {policy}, so the VirtualMachine may also run on a node \
                 without the label {extension_label}=true, where the guest cannot run virtual machines; remove that entry",
                vendor.extension
            )
        }));
    }
    if nodes.is_empty() || any_has(nodes, extension_label) {
        return model_warning(vendor, nodes, context);
    }
    let remedy = if any_has(nodes, vendor_label) {
        "have the node's KVM module loaded with nested=1".to_owned()
    } else {
        format!("none of them has a CPU by {}, so correct the vendor", vendor.name)
    };
    Ok(Some(format!(
        "no node that the VirtualMachine may run on has the label {extension_label}=true, so the VirtualMachine will not be \
         scheduled; {remedy}"
    )))
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
