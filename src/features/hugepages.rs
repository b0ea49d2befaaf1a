//! Hugepages: the guest's memory is of large pages of the node.

#[cfg(feature = "describe")]
use super::reference::Reference;
use super::{Context, Failure, Feature, Plan};
#[cfg(feature = "describe")]
use crate::cluster::{
    Kind,
    access::{Access, Verbs},
};
use crate::kinds::quantity::Quantity;
use crate::settings::{Choice, FeatureSettings, choice, section};
use crate::text::Quoted;
use crate::vm::entry::HUGEPAGES;
use crate::vm::{Amount, ShapeError};

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

impl PageSize {
    fn bytes(self) -> u64 {
        match self {
            PageSize::Mi2 => 2 << 20,
            PageSize::Gi1 => 1 << 30,
        }
    }
}

/// Why the memory cannot be of hugepages. The rules are those of KubeVirt's `vmi-create-admitter.go`,
/// `validateHugepagesMemoryRequests`.
#[derive(Debug, thiserror::Error)]
enum HugepagesError {
    /// Cause: another size, or the setting `hugepages.pageSizes`
    /// Cure: one of the sizes in the message
    #[error("not a page size that the policy allows; write {0}")]
    Size(String),
    /// Cause: the VM has another size than the directive
    /// Cure: one of the two
    #[error(
        "spec.template.spec.domain.memory.hugepages.pageSize is {}, which contradicts the directive; remove that line or the \
         directive", Quoted(.0)
    )]
    OtherSize(String),
    /// Cause: less memory than a page
    /// Cure: more memory, or smaller pages
    #[error("{field} is {text}, less than one page of {size}; ask for more memory, or for smaller pages")]
    Less { field: &'static str, text: String, size: &'static str },
    /// Cause: memory that does not divide into pages. On Harvester, the guest may have 100Mi less than the limit, or what
    /// the annotation `harvesterhci.io/reservedMemory` says
    /// Cure: a multiple of the page size, or smaller pages
    #[error(
        "{field} is {text}, which is not a multiple of the page size {size}; ask for a multiple of it, or for smaller pages{hint}"
    )]
    NotAMultiple { field: &'static str, text: String, size: &'static str, hint: &'static str },
}

/// What reduces the guest's memory on Harvester. Source: `harvester/harvester`, `pkg/webhook/resources/virtualmachine/mutator.go`.
const RESERVED: &str = " (Harvester takes what the annotation harvesterhci.io/reservedMemory says from the memory of the \
                        guest, or 100Mi where its setting additional-guest-memory-overhead-ratio is empty)";

pub(super) static FEATURE: Feature = Feature {
    name: "hugepages",
    options: &[],
    adds: &[&HUGEPAGES],
    settings: |settings| &settings.hugepages.feature,
    plan,
    #[cfg(feature = "describe")]
    reference: Reference {
        settings: "hugepages",
        example: "2Mi",
        gives: "the guest's memory comes from huge pages",
        page: "cpu-and-memory.md#hugepages",
        takes: "`2Mi` or `1Gi`",
        effect: "`domain.memory.hugepages.pageSize`",
        options: &[],
        looks_up: &[Access {
            kinds: &[Kind::Node],
            verbs: Verbs::List,
            what: "whether a node has enough such pages; one node is read by its name",
            without: "no warning where none has",
            needed: &[],
        }],
    },
};

fn plan(value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure> {
    let allowed = &context.settings.hugepages.page_sizes;
    let Some(size) = allowed.iter().copied().find(|size| size.word() == value) else {
        let words: Vec<_> = allowed.iter().map(|size| size.word()).collect();
        return Err(HugepagesError::Size(words.join(" or ")).into());
    };
    if let Some(other) = context.vm.page_size()?.filter(|other| *other != size.word()) {
        return Err(HugepagesError::OtherSize(other.to_owned()).into());
    }
    let mut plan = Plan { applied: size.word().to_owned(), ..Plan::default() };
    let memory = memory(context)?;
    for (field, amount) in memory.checked {
        check(field, amount, size, context)?;
    }
    if memory.request_is_lowered {
        plan.warnings.push(format!(
            "Harvester lowers the memory request by its overcommit ratio, and KubeVirt refuses the VirtualMachine where that \
             request is not a multiple of {}; add the directive cpu-pinning, with which the request is the limit",
            size.word()
        ));
    }
    plan.entries.push(HUGEPAGES.of("", size.word()));
    if let Some(quantity) = memory.of_pod {
        plan.warnings.extend(warning(size, quantity, context)?);
    }
    Ok(Some(plan))
}

/// The VirtualMachine's memory.
#[derive(Default)]
struct Memory<'v> {
    /// What must be a multiple of the page size, with its place.
    checked: Vec<(&'static str, Amount<'v>)>,
    /// What a node must have.
    of_pod: Option<Quantity>,
    /// Whether Harvester's webhook, which comes later, may set another request.
    request_is_lowered: bool,
}

/// Finds the memory that KubeVirt divides into pages: the request, else the guest's, else the limit; and the guest's, which QEMU
/// divides. What an instance type has is not known here.
fn memory<'v>(context: &'v Context<'_>) -> Result<Memory<'v>, ShapeError> {
    let vm = context.vm;
    if vm.has_instance_type() {
        return Ok(Memory::default());
    }
    let resources = vm.resources("memory")?;
    let guest = vm.guest_memory()?.map(|amount| ("spec.template.spec.domain.memory.guest", amount));
    let request = resources.request.map(|amount| ("spec.template.spec.domain.resources.requests.memory", amount));
    let limit = resources.limit.map(|amount| ("spec.template.spec.domain.resources.limits.memory", amount));
    let is_overwritten = context.settings.general.is_harvester() && limit.is_some();
    let is_dedicated = vm.cpu()?.is_dedicated == Some(true);
    let request_is_lowered = is_overwritten && !is_dedicated && context.old.is_none() && vm.host_devices()?.is_empty();
    let divided = match request {
        // Harvester sets it: of pinned CPUs to the limit, else to a part of it.
        _ if is_overwritten && (is_dedicated || request_is_lowered) => limit,
        _ => request.or(guest).or(limit),
    };
    let of_pod = divided.map(|(_, amount)| amount.quantity);
    let mut checked: Vec<_> = divided.into_iter().chain(guest).collect();
    checked.dedup();
    Ok(Memory { checked, of_pod, request_is_lowered })
}

fn check(field: &'static str, amount: Amount<'_>, size: PageSize, context: &Context<'_>) -> Result<(), HugepagesError> {
    let bytes = amount.quantity.ceil;
    let (text, word) = (amount.text.to_owned(), size.word());
    if bytes < size.bytes() {
        return Err(HugepagesError::Less { field, text, size: word });
    }
    if bytes % size.bytes() != 0 {
        let hint = if context.settings.general.is_harvester() { RESERVED } else { "" };
        return Err(HugepagesError::NotAMultiple { field, text, size: word, hint });
    }
    Ok(())
}

/// What is amiss with the nodes, where they may be read.
fn warning(size: PageSize, memory: Quantity, context: &Context<'_>) -> Result<Option<String>, Failure> {
    let placement = context.vm.placement()?;
    let Ok(nodes) = context.nodes(&placement) else {
        return Ok(None);
    };
    let resource = format!("hugepages-{}", size.word());
    let has_enough = |pages: &str| pages.parse::<Quantity>().is_ok_and(|pages| pages.ceil >= memory.ceil);
    let is_there = nodes.iter().any(|node| node.allocatable(&resource).is_some_and(has_enough));
    Ok((!is_there).then(|| {
        format!(
            "no node that the VirtualMachine may run on has enough {resource} (status.allocatable), so it will not be scheduled; \
             reserve hugepages on a node"
        )
    }))
}
