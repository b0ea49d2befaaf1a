//! CPU pinning: each CPU of the guest gets a CPU of the node for itself.

use std::rc::Rc;

use super::feature::{Context, Feature, Plan};
use super::memory;
use super::reference::{OptionReference, Reference};
use super::switch::{WORDS, parse_switch};
use crate::cluster::access::{Access, Verbs};
use crate::cluster::{ARCHITECTURE_LABEL, Gate, KUBEVIRT, NODE, Node};
use crate::settings::{FeatureSettings, section};
use crate::text::Quoted;
use crate::vm::place::{CPU_PLACEMENT, EMULATOR_THREAD};
use crate::vm::{Amount, Cpu, Resources, ShapeError};

const ISOLATION_OPTION: &str = "isolate-emulator-thread";

section! {
    /// Setting `cpuPinning`.
    CpuPinningSettings("CPU pinning") {
        ..feature: FeatureSettings;
    }
}

/// The label of nodes whose kubelet pins CPUs. Source: `CPUManager` in `kubevirt.io/api/core/v1`; pull request 14892.
const LABEL: &str = "kubevirt.io/cpumanager";
/// The same before KubeVirt 1.8. Later, nodes may have both.
const OLD_LABEL: &str = "cpumanager";
const NEW_SINCE: u32 = 8;

/// The feature gate without which KubeVirt's virt-handler labels no node so. The webhook does not check it. Source:
/// `pkg/virt-handler/heartbeat/heartbeat.go:156`, `pkg/virt-controller/services/nodeselectorrenderer.go:56`.
const GATE: &str = "CPUManager";

const ARM64: &str = "arm64";

/// Explains a limit above the number of CPUs.
const HOTPLUG: &str = "; with Harvester's CPU hotplug, the limit is the most CPUs that the guest may get, so hotplug and pinned \
                       CPUs exclude each other";

/// Why CPUs cannot be pinned. The rules are those of `validateCpuPinning` in KubeVirt's `vmi-create-admitter.go`.
#[derive(Debug, thiserror::Error)]
enum CpuPinningError {
    /// Cause: another value
    /// Cure: `enabled` or `disabled`
    #[error("the option vm-feature-manager.io/isolate-emulator-thread is {}; write enabled or disabled", Quoted(.0))]
    Option(String),
    /// Cause: the VM forbids what the directive asks for
    /// Cure: remove one of the two
    #[error(
        "spec.template.spec.domain.cpu.{0} is false, which contradicts the directive; remove that line or the directive"
    )]
    Contradiction(&'static str),
    /// Cause: neither `domain.cpu` nor `domain.resources` says how many CPUs
    /// Cure: `spec.template.spec.domain.cpu.cores`
    #[error(
        "the VirtualMachine does not say how many CPUs it has; set spec.template.spec.domain.cpu.cores, or \
         spec.template.spec.domain.resources.limits.cpu"
    )]
    NoCount,
    /// Cause: a fraction of a CPU
    /// Cure: a whole number
    #[error(
        "spec.template.spec.domain.resources.{field}.cpu is {text}, but only whole CPUs can be pinned; write a whole number"
    )]
    Fraction { field: &'static str, text: String },
    /// Cause: a request below the limit. Harvester sets the request itself when CPUs are pinned or a limit changes, and then this is
    /// not an error
    /// Cure: make the two equal, or leave out the request
    #[error(
        "spec.template.spec.domain.resources.requests.{resource} is {request} and limits.{resource} is {limit}, but pinned \
         CPUs need a pod whose requests are its limits; make the two equal"
    )]
    Unequal { resource: &'static str, request: String, limit: String },
    /// Cause: the guest would see more CPUs than the pod has, or fewer. With Harvester's CPU hotplug, the message ends with "with
    /// Harvester's CPU hotplug, the limit is the most CPUs that the guest may get, so hotplug and pinned CPUs exclude each other"
    /// Cure: make the two equal
    #[error(
        "the guest has {guest} CPUs (sockets x cores x threads), but spec.template.spec.domain.resources.{field}.cpu is \
         {text}, and each CPU of the guest is pinned to one of the pod's; make the two equal{hint}"
    )]
    Count { guest: u64, field: &'static str, text: String, hint: &'static str },
    /// Cause: Harvester sets each of `cores`, `sockets` and `threads` that is absent to 1, whatever the limit is
    /// Cure: `spec.template.spec.domain.cpu.cores`
    #[error(
        "spec.template.spec.domain.resources.{field}.cpu is {text}, but Harvester gives the guest 1 CPU, because \
         spec.template.spec.domain.cpu sets neither cores nor sockets nor threads; set spec.template.spec.domain.cpu.cores to {text}"
    )]
    OneCpu { field: &'static str, text: String },
    /// Cause: `domain.cpu.threads` above "2 threads of a core", or "one thread of a core on arm64"
    /// Cure: more cores instead
    #[error(
        "spec.template.spec.domain.cpu.threads is {threads}, but KubeVirt pins at most {most}; ask for more cores instead"
    )]
    Threads { threads: u64, most: &'static str },
}

pub(super) static FEATURE: Feature = Feature {
    name: "cpu-pinning",
    adds: &[&CPU_PLACEMENT, &EMULATOR_THREAD],
    settings: |settings| &settings.cpu_pinning.feature,
    plan,
    options: &[ISOLATION_OPTION],
};

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "cpuPinning",
    example: "enabled",
    gives: "each virtual CPU has a physical CPU to itself",
    page: "cpu-and-memory.md#cpu-pinning",
    takes: WORDS,
    effect: "`domain.cpu.dedicatedCpuPlacement: true`",
    options: &[OptionReference {
        name: ISOLATION_OPTION,
        takes: "`enabled`, `disabled`",
        meaning: "QEMU's emulator thread gets its own CPU, in addition to those of the guest",
    }],
    looks_up: &[
        Access::to(Verbs::Get, &[&KUBEVIRT]).what("the feature gate `CPUManager`").without("no warning if it is off"),
        Access::to(Verbs::List, &[&NODE])
            .what("whether a node pins CPUs; a single node is read by its name")
            .without("no warning if no node does"),
    ],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    parse_switch(value)?;
    let read = |option: &str| parse_switch(option).map_err(|_| CpuPinningError::Option(option.to_owned()));
    let is_isolated = context.directives.option(ISOLATION_OPTION)?.map(read).transpose()? == Some(true);
    let cpu = context.vm.cpu()?;
    if cpu.dedicated_cpu_placement == Some(false) {
        return Err(CpuPinningError::Contradiction("dedicatedCpuPlacement").into());
    }
    if is_isolated && cpu.isolate_emulator_thread == Some(false) {
        return Err(CpuPinningError::Contradiction("isolateEmulatorThread").into());
    }
    // The policy does not read instance types, so it leaves those to KubeVirt.
    let nodes = context.nodes()?.ok();
    if !context.vm.has_instance_type() {
        check_amounts(&cpu, nodes.as_deref().unwrap_or_default(), context)?;
    }
    let mut plan = Plan { applied: "true".to_owned(), ..Plan::default() };
    plan.entries.push(CPU_PLACEMENT.entry("", ""));
    if is_isolated {
        plan.entries.push(EMULATOR_THREAD.entry("", ""));
    }
    let kubevirt = context.lookups.kubevirt().ok();
    let gate = kubevirt.as_ref().map_or(Gate::Unknown, |kubevirt| kubevirt.gate(GATE));
    let labels: &[&str] = match kubevirt.is_some_and(|kubevirt| kubevirt.is_before(NEW_SINCE)) {
        true => &[OLD_LABEL],
        false => &[LABEL, OLD_LABEL],
    };
    let pins = |node: &&Rc<Node>| labels.iter().any(|label| node.label(label) == Some("true"));
    if matches!(gate, Gate::Off | Gate::Disabled) {
        plan.warnings.push(format!(
            "KubeVirt's feature gate {GATE} is off, so no node counts as one that pins CPUs, and the VirtualMachine will not be \
             scheduled; {}",
            gate.remedy(GATE)
        ));
    } else if let Some(nodes) = nodes {
        plan.nodes = Some(nodes.iter().filter(pins).map(|node| node.name().to_owned()).collect());
    }
    if plan.nodes.as_ref().is_some_and(Vec::is_empty) {
        let (label, leaving) = (labels.first().copied().unwrap_or(LABEL), context.possible_nodes_in_words());
        plan.warnings.push(format!(
            "no node that the VirtualMachine may run on{leaving} has the label {label}=true, so it will not be scheduled; enable the CPU \
             manager of a node, in Harvester under Hosts"
        ));
    }
    Ok(plan)
}

/// Checks that KubeVirt would pin the CPUs. The VirtualMachine may run on these nodes, as far as the policy may read them.
fn check_amounts(cpu: &Cpu, nodes: &[Rc<Node>], context: &Context<'_>) -> anyhow::Result<()> {
    let (cpus, bytes) = (context.vm.resources("cpu")?, context.vm.resources("memory")?);
    if !memory::harvester_sets_pinned_requests(context)? {
        check_equal("cpu", &cpus)?;
        check_equal("memory", &bytes)?;
    }
    // If both are present, they are equal.
    let amounts = [("limits", cpus.limit), ("requests", cpus.request)];
    let amount = amounts.into_iter().find_map(|(field, amount)| Some((field, amount?)));
    let is_harvester = context.settings.general.is_harvester();
    match (amount, cpu.count()) {
        (None, None) => return Err(CpuPinningError::NoCount.into()),
        (Some((field, Amount { text, quantity })), _) if !quantity.is_whole() => {
            return Err(CpuPinningError::Fraction { field, text }.into());
        }
        (Some((field, Amount { text, quantity })), Some(guest)) if quantity.ceil() != guest => {
            let hint = if is_harvester && context.vm.is_hotplugged()? { HOTPLUG } else { "" };
            return Err(CpuPinningError::Count { guest, field, text, hint }.into());
        }
        // Source: `harvester/harvester`, `pkg/webhook/resources/virtualmachine/mutator.go`, `patchDefaultCPU`.
        (Some((field, Amount { text, quantity })), None) if is_harvester && quantity.ceil() != 1 => {
            return Err(CpuPinningError::OneCpu { field, text }.into());
        }
        _ => {}
    }
    let most = match cpu.threads {
        ..=1 => None,
        _ if is_arm64(nodes, context)? => Some("one thread of a core on arm64"),
        2 => None,
        _ => Some("2 threads of a core"),
    };
    if let Some(most) = most {
        return Err(CpuPinningError::Threads { threads: cpu.threads, most }.into());
    }
    memory::check_present(context)
}

/// Whether the guest's CPUs are of the architecture arm64: the VirtualMachine says so, or KubeVirt for it, or it can run
/// nowhere else.
fn is_arm64(nodes: &[Rc<Node>], context: &Context<'_>) -> Result<bool, ShapeError> {
    Ok(match context.vm.architecture()?.filter(|architecture| !architecture.is_empty()) {
        Some(architecture) => architecture == ARM64,
        None if context.default_architecture().is_some_and(|architecture| architecture == ARM64) => true,
        None => !nodes.is_empty() && nodes.iter().all(|node| node.label(ARCHITECTURE_LABEL) == Some(ARM64)),
    })
}

/// Checks that the request is the limit, if both are present.
fn check_equal(resource: &'static str, amounts: &Resources) -> Result<(), CpuPinningError> {
    match (&amounts.request, &amounts.limit) {
        (Some(request), Some(limit)) if request.quantity != limit.quantity => {
            let [request, limit] = [request, limit].map(|amount| amount.text.clone());
            Err(CpuPinningError::Unequal { resource, request, limit })
        }
        _ => Ok(()),
    }
}
