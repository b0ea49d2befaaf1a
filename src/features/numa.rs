//! NUMA passthrough: the guest sees the NUMA nodes of its CPUs and memory pages.

use super::feature::{Context, Feature, Plan};
use super::reference::Reference;
use super::switch::parse_switch;
use crate::cluster::KUBEVIRT;
use crate::cluster::access::{Access, Verbs};
use crate::settings::{FeatureSettings, section};
use crate::vm::place::NUMA_MAPPING;

section! {
    /// Setting `numa`.
    NumaSettings("NUMA") {
        ..feature: FeatureSettings;
    }
}

/// The value that enables the feature.
const PASSTHROUGH: &str = "passthrough";

/// The feature gate, and the first minor version of KubeVirt 1 that does not need it. Source: KubeVirt's pull request 12232.
const GATE: &str = "NUMA";
const PERMANENT_SINCE: u32 = 4;

/// Why the guest cannot have the node's NUMA topology. The rules are those of `validateNUMA` in KubeVirt's
/// `vmi-create-admitter.go`.
#[derive(Debug, thiserror::Error)]
enum NumaError {
    /// Cause: another value
    /// Cure: `passthrough`, or a word for on such as `enabled`; `disabled`, `false`, `no`, `off`, `0`
    #[error("not a NUMA mode; write passthrough or disabled")]
    Value,
    /// Cause: pinned CPUs or hugepages are missing, or their directives could not be applied
    /// Cure: the directives in the message, or the same in the VM's template
    #[error("NUMA passthrough needs {missing}; it works only together with {with}")]
    Needs { missing: &'static str, with: &'static str },
    /// Cause: memory hotplug, in Harvester the option "Enable CPU and memory hotplug". The rule is that of
    /// `ValidateLiveUpdateMemory` in KubeVirt's `pkg/liveupdate/memory/memory.go`
    /// Cure: switch the hotplug off, or remove the directive
    #[error(
        "spec.template.spec.domain.memory.maxGuest is {0}, but KubeVirt hotplugs no memory of a guest with NUMA passthrough; \
         remove that line (in Harvester, switch off CPU and memory hotplug) or the directive"
    )]
    Hotplug(String),
}

pub(super) static FEATURE: Feature =
    Feature { name: "numa", adds: &[&NUMA_MAPPING], settings: |settings| &settings.numa.feature, plan, options: &[] };

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "numa",
    example: "passthrough",
    gives: "the guest sees the NUMA nodes of its CPUs and memory",
    page: "cpu-and-memory.md#numa",
    takes: "`passthrough`, `enabled`, `true`, `yes`, `on`, `1`; off: `disabled`, `false`, `no`, `off`, `0` or nothing",
    effect: "`domain.cpu.numa.guestMappingPassthrough: {}`; needs cpu-pinning and hugepages",
    options: &[],
    looks_up: &[Access::to(Verbs::Get, &[&KUBEVIRT])
        .what("the feature gate `NUMA`, which KubeVirt needs before 1.4")
        .without("the gate is not checked")],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    // There is only one mode, so a word for on means it.
    if !value.eq_ignore_ascii_case(PASSTHROUGH) && parse_switch(value) != Ok(true) {
        return Err(NumaError::Value.into());
    }
    let mut plan = Plan { applied: PASSTHROUGH.to_owned(), ..Plan::default() };
    if let Some(most) = context.vm.max_guest_memory()? {
        return Err(NumaError::Hotplug(most.text).into());
    }
    // KubeVirt then sets no `maxGuest` itself (`pkg/defaults/defaults.go`, `setupMemoryHotplug`).
    if context.settings.general.is_harvester() && context.vm.is_hotplugged()? {
        plan.warnings.push(
            "KubeVirt hotplugs no memory of a guest with NUMA passthrough, so other memory takes effect only at a restart".to_owned(),
        );
    }
    if !context.vm.has_instance_type() {
        let is_dedicated = context.vm.cpu()?.dedicated_cpu_placement == Some(true);
        let has_pages = context.vm.page_size()?.is_some();
        let needs = |missing, with| Err(NumaError::Needs { missing, with }.into());
        match (is_dedicated, has_pages) {
            (true, true) => {}
            (true, false) => return needs("hugepages", "the directive vm-feature-manager.io/hugepages"),
            (false, true) => return needs("pinned CPUs", "the directive vm-feature-manager.io/cpu-pinning"),
            (false, false) => {
                let with = "the directives vm-feature-manager.io/cpu-pinning and vm-feature-manager.io/hugepages";
                return needs("pinned CPUs and hugepages", with);
            }
        }
    }
    context.lookups.check_gate_before(PERMANENT_SINCE, GATE)?;
    plan.entries.push(NUMA_MAPPING.entry("", ""));
    Ok(plan)
}
