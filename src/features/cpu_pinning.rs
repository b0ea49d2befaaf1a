//! CPU pinning: each CPU of the guest gets a CPU of the node for itself.

use super::feature::{Context, Feature, Plan};
use super::reference::{OptionReference, Reference};
use super::switch::Switch;
use crate::cluster::NODE;
use crate::cluster::access::{Access, Verbs};
use crate::settings::{FeatureSettings, section};
use crate::text::Quoted;
use crate::vm::place::{CPU_PLACEMENT, EMULATOR_THREAD};

const ISOLATION_OPTION: &str = "isolate-emulator-thread";

section! {
    /// Setting `cpuPinning`.
    CpuPinningSettings("CPU pinning") {
        ..feature: FeatureSettings;
    }
}

/// The labels of nodes whose kubelet pins CPUs: the first since KubeVirt 1.8, the second before. Source:
/// `kubevirt.io/api/core/v1`.
const LABELS: [&str; 2] = ["kubevirt.io/cpumanager", "cpumanager"];

/// The most threads per core with which KubeVirt pins CPUs.
const MAX_THREADS: u64 = 2;

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
    /// Cause: a request below the limit. On Harvester, which sets the request itself, this is not an error
    /// Cure: make the two equal, or leave out the request
    #[error(
        "spec.template.spec.domain.resources.requests.{resource} is {request} and limits.{resource} is {limit}, but pinned \
         CPUs need a pod whose requests are its limits; make the two equal"
    )]
    Unequal { resource: &'static str, request: String, limit: String },
    /// Cause: the guest would see more CPUs than the pod has, or fewer
    /// Cure: make the two equal
    #[error(
        "the guest has {guest} CPUs (sockets x cores x threads), but spec.template.spec.domain.resources.{field}.cpu is \
         {text}, and each CPU of the guest is pinned to one of the pod's; make the two equal"
    )]
    Count { guest: u64, field: &'static str, text: String },
    /// Cause: `domain.cpu.threads` above 2
    /// Cure: more cores instead
    #[error(
        "spec.template.spec.domain.cpu.threads is {0}, but KubeVirt pins at most {MAX_THREADS} threads of a core; ask for more \
         cores instead"
    )]
    Threads(u64),
}

pub(super) static FEATURE: Feature = Feature {
    name: "cpu-pinning",
    options: &[ISOLATION_OPTION],
    adds: &[&CPU_PLACEMENT, &EMULATOR_THREAD],
    settings: |settings| &settings.cpu_pinning.feature,
    plan,
};

pub(super) static REFERENCE: Reference = Reference {
    settings: "cpuPinning",
    example: "enabled",
    gives: "each virtual CPU has a physical CPU to itself",
    page: "cpu-and-memory.md#cpu-pinning",
    takes: Switch::TAKES,
    effect: "`domain.cpu.dedicatedCpuPlacement: true`",
    options: &[OptionReference {
        name: ISOLATION_OPTION,
        takes: "`enabled`, `disabled`",
        meaning: "QEMU's emulator thread gets its own CPU, in addition to those of the guest",
    }],
    looks_up: &[Access::to(Verbs::List, &[&NODE])
        .what("whether a node pins CPUs; a single node is read by its name")
        .without("no warning if no node does")],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Option<Plan>> {
    if value.parse::<Switch>()? == Switch::Off {
        return Ok(None);
    }
    let is_isolated = is_isolated(context)?;
    let cpu = context.vm.cpu()?;
    if cpu.dedicated_cpu_placement == Some(false) {
        return Err(CpuPinningError::Contradiction("dedicatedCpuPlacement").into());
    }
    if is_isolated && cpu.isolate_emulator_thread == Some(false) {
        return Err(CpuPinningError::Contradiction("isolateEmulatorThread").into());
    }
    check_amounts(context)?;
    let mut plan = Plan { applied: "true".to_owned(), ..Plan::default() };
    plan.entries.push(CPU_PLACEMENT.entry("", ""));
    if is_isolated {
        plan.entries.push(EMULATOR_THREAD.entry("", ""));
    }
    plan.warnings.extend(warning(context)?);
    Ok(Some(plan))
}

fn is_isolated(context: &Context<'_>) -> anyhow::Result<bool> {
    let Some(option) = context.directives.option(ISOLATION_OPTION)? else {
        return Ok(false);
    };
    match option.parse::<Switch>() {
        Ok(switch) => Ok(switch == Switch::On),
        Err(_) => Err(CpuPinningError::Option(option.to_owned()).into()),
    }
}

/// Checks that KubeVirt would pin the CPUs. The policy does not read instance types, so it leaves those to KubeVirt.
fn check_amounts(context: &Context<'_>) -> anyhow::Result<()> {
    if context.vm.has_instance_type() {
        return Ok(());
    }
    let cpu = context.vm.cpu()?;
    let mut cpus = context.vm.resources("cpu")?;
    let mut memory = context.vm.resources("memory")?;
    // Harvester's webhook runs later. If CPUs are pinned, it sets the requests of the VirtualMachine to its limits.
    if context.settings.general.is_harvester() {
        for resources in [&mut cpus, &mut memory] {
            resources.request = resources.limit.clone().or(resources.request.take());
        }
    }
    for (resource, amounts) in [("cpu", &cpus), ("memory", &memory)] {
        if let (Some(request), Some(limit)) = (&amounts.request, &amounts.limit) {
            if request.quantity != limit.quantity {
                let [request, limit] = [request, limit].map(|amount| amount.text.clone());
                return Err(CpuPinningError::Unequal { resource, request, limit }.into());
            }
        }
    }
    // If both are present, they are equal.
    let amount = match (&cpus.limit, &cpus.request) {
        (Some(limit), _) => Some(("limits", limit)),
        (None, Some(request)) => Some(("requests", request)),
        (None, None) => None,
    };
    match (amount, cpu.count()) {
        (None, None) => return Err(CpuPinningError::NoCount.into()),
        (Some((field, amount)), _) if !amount.quantity.is_whole() => {
            return Err(CpuPinningError::Fraction { field, text: amount.text.clone() }.into());
        }
        (Some((field, amount)), Some(guest)) if amount.quantity.ceil() != guest => {
            return Err(CpuPinningError::Count { guest, field, text: amount.text.clone() }.into());
        }
        _ => {}
    }
    if cpu.threads > MAX_THREADS {
        return Err(CpuPinningError::Threads(cpu.threads).into());
    }
    Ok(())
}

/// A warning about the nodes, if policy-server may read them.
fn warning(context: &Context<'_>) -> anyhow::Result<Option<String>> {
    let placement = context.vm.placement()?;
    let Ok(nodes) = context.nodes(&placement) else {
        return Ok(None);
    };
    let pins = |label: &&str| nodes.iter().any(|node| node.label(label) == Some("true"));
    let [label, _] = LABELS;
    Ok((!LABELS.iter().any(pins)).then(|| {
        format!(
            "no node that the VirtualMachine may run on has the label {label}=true, so it will not be scheduled; enable the CPU \
             manager of a node, in Harvester under Hosts"
        )
    }))
}
