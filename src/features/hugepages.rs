//! Hugepages: the guest's memory consists of large pages of the node.

use super::allowed_nodes::DEFAULT_ARCHITECTURE;
use super::feature::{Context, Feature, Plan};
use super::memory::{Amounts, Memory, MemoryAmount};
use super::reference::Reference;
use crate::cluster::access::{Access, Verbs};
use crate::cluster::{KUBEVIRT, NODE};
use crate::settings::{Choice, FeatureSettings, choice, section};
use crate::text::Quoted;
use crate::values::quantity::Quantity;
use crate::vm::Amount;
use crate::vm::place::HUGEPAGES;

section! {
    /// Setting `hugepages`.
    HugepagesSettings("Hugepages") {
        ..feature: FeatureSettings;
        /// 2Mi, 1Gi, or both.
        page_sizes: Vec<PageSize> = PageSize::ALL.to_vec(), "pageSizes", "page sizes that a VM may name";
    }
}

choice! {
    /// The size of the pages.
    PageSize {
        /// Two mebibytes.
        Mi2 = "2Mi",
        /// One gibibyte.
        Gi1 = "1Gi",
    }
}

const PAGE_SIZE: &str = "spec.template.spec.domain.memory.hugepages.pageSize";

impl PageSize {
    fn bytes(self) -> u64 {
        match self {
            PageSize::Mi2 => 2 << 20,
            PageSize::Gi1 => 1 << 30,
        }
    }
}

/// Why the memory cannot consist of hugepages. The rules are those of `validateHugepagesMemoryRequests` in KubeVirt's
/// `vmi-create-admitter.go`.
#[derive(Debug, thiserror::Error)]
enum HugepagesError {
    /// Cause: a size other than `2Mi` and `1Gi`, or one that the setting `hugepages.pageSizes` excludes
    /// Cure: one of the sizes in the message
    #[error("not a page size that the policy allows; write {0}")]
    Size(String),
    /// Cause: the VM has another size than the directive
    /// Cure: remove one of the two
    #[error(
        "spec.template.spec.domain.memory.hugepages.pageSize is {}, which contradicts the directive; remove that line or the \
         directive", Quoted(.0)
    )]
    OtherSize(String),
    /// Cause: less memory than a page
    /// Cure: more memory, or smaller pages
    #[error("{field} is {text}, less than one page of {size}; ask for more memory, or for smaller pages")]
    Less { field: &'static str, text: String, size: &'static str },
    /// Cause: memory that does not divide into pages. On Harvester, the guest may have less memory than the limit: 100Mi less, or as
    /// much as the annotation `harvesterhci.io/reservedMemory` says. Harvester also lowers the request, unless CPUs are pinned or the
    /// VM has host devices. KubeVirt lowers it by `developerConfiguration.memoryOvercommit` of its object, if the VM has neither a
    /// request nor a limit
    /// Cure: a multiple of the page size, or smaller pages; or the directive `cpu-pinning`; or a memory request as large as the guest's
    /// memory
    #[error(
        "{field} is {text}, which is not a multiple of the page size {size}; ask for a multiple of it, or for smaller pages{hint}"
    )]
    NotAMultiple { field: &'static str, text: String, size: &'static str, hint: &'static str },
}

pub(super) static FEATURE: Feature = Feature {
    name: "hugepages",
    adds: &[&HUGEPAGES],
    settings: |settings| &settings.hugepages.feature,
    plan,
    options: &[],
};

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "hugepages",
    example: "2Mi",
    gives: "the guest's memory comes from huge pages",
    page: "cpu-and-memory.md#hugepages",
    takes: "`2Mi` or `1Gi`",
    effect: "`domain.memory.hugepages.pageSize`",
    options: &[],
    looks_up: &[
        Access::to(Verbs::List, &[&NODE])
            .what("whether a node has enough such pages; a single node is read by its name")
            .without("no warning if no node has"),
        Access::to(Verbs::Get, &[&KUBEVIRT])
            .what("`memoryOvercommit`, if the VM has neither a memory request nor a limit")
            .without("the overcommit counts as 100"),
        DEFAULT_ARCHITECTURE,
    ],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    let allowed = &context.settings.hugepages.page_sizes;
    let Some(size) = allowed.iter().copied().find(|size| size.word() == value) else {
        let words: Vec<_> = allowed.iter().map(|size| size.word()).collect();
        return Err(HugepagesError::Size(words.join(" or ")).into());
    };
    let vm = context.vm;
    let in_place = vm.page_size()?.filter(|other| other != size.word());
    let is_same = |other: &str| other.parse::<Quantity>().is_ok_and(|other| size.word().parse() == Ok(other));
    if let Some(other) = in_place.as_deref().filter(|other| !is_same(other)) {
        return Err(HugepagesError::OtherSize(other.to_owned()).into());
    }
    let mut plan = Plan { applied: size.word().to_owned(), ..Plan::default() };
    plan.entries.push(HUGEPAGES.entry("", size.word()));
    if vm.has_instance_type() {
        return Ok(plan);
    }
    let pages = pages(size, context, &mut plan.warnings)?;
    if let Some(other) = in_place {
        plan.warnings.push(format!(
            "{PAGE_SIZE} is {}, but Kubernetes knows these pages only as hugepages-{}, so the VirtualMachine will not be \
             scheduled; write {1}",
            Quoted(&other),
            size.word()
        ));
        return Ok(plan);
    }
    let resource = format!("hugepages-{}", size.word());
    let is_enough = |there: &str| there.parse::<Quantity>().is_ok_and(|there| there.ceil() >= pages);
    plan.nodes = context.fitting(|node| node.allocatable(&resource).is_some_and(is_enough))?;
    if plan.nodes.as_ref().is_some_and(Vec::is_empty) {
        let leaving = context.possible_nodes_in_words();
        plan.warnings.push(format!(
            "no node that the VirtualMachine may run on{leaving} has enough {resource} (status.allocatable), so it will not be \
             scheduled; reserve hugepages on a node"
        ));
    }
    Ok(plan)
}

/// How many bytes of pages the pod will request: as many as the VirtualMachine requests, but not more than the guest has.
/// What KubeVirt adds for QEMU itself is ordinary memory. Source: `pkg/virt-controller/services/renderresources.go`, `WithHugePages`.
fn pages(size: PageSize, context: &Context<'_>, warnings: &mut Vec<String>) -> anyhow::Result<u64> {
    let amounts = Amounts::of(context)?;
    let Memory { request, guest, most } = amounts.memory(context)?;
    for amount in [request, Some(guest), most].into_iter().flatten() {
        check(amount, size)?;
    }
    match request {
        Some(request) if request.bytes >= guest.bytes => Ok(guest.bytes),
        Some(request @ MemoryAmount { field, hint, .. }) => {
            warnings.push(format!(
                "{field} is {request}, but the guest has {guest}, so it has too few pages and stops when it uses more; raise the \
                 request to the guest's memory{hint}"
            ));
            Ok(request.bytes)
        }
        None => {
            // A VirtualMachine with CPU hotplug has a higher limit.
            let cpus = context.vm.cpu()?.count().unwrap_or(1);
            let is_other = |limit: Amount| limit.quantity.ceil() != cpus;
            let (advice, also) = match context.vm.resources("cpu")?.limit.is_some_and(is_other) {
                _ if context.failing.contains(&"cpu-pinning") => ("see the message about", ""),
                true => {
                    ("add", ", and make spec.template.spec.domain.resources.limits.cpu the number of the guest's CPUs")
                }
                false => ("add", ""),
            };
            warnings.push(format!(
                "Harvester lowers the memory request by its overcommit ratio, and KubeVirt refuses the VirtualMachine if that \
                 request is not a multiple of {}; {advice} the directive cpu-pinning, with which the request is the limit{also}",
                size.word()
            ));
            // At least one page, or KubeVirt refuses the VirtualMachine.
            Ok(size.bytes())
        }
    }
}

/// Checks that an amount of memory consists of pages of this size.
fn check(amount: MemoryAmount<'_>, size: PageSize) -> Result<(), HugepagesError> {
    let MemoryAmount { field, bytes, hint, .. } = amount;
    match bytes % size.bytes() {
        _ if bytes < size.bytes() => Err(HugepagesError::Less { field, text: amount.to_string(), size: size.word() }),
        0 => Ok(()),
        _ => Err(HugepagesError::NotAMultiple { field, text: amount.to_string(), size: size.word(), hint }),
    }
}
