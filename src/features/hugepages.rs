//! Hugepages: the guest's memory consists of large pages of the node.

use super::feature::{Context, Feature, Plan};
use super::reference::Reference;
use crate::cluster::NODE;
use crate::cluster::access::{Access, Verbs};
use crate::settings::{Choice, FeatureSettings, choice, section};
use crate::text::Quoted;
use crate::values::quantity::Quantity;
use crate::vm::place::HUGEPAGES;
use crate::vm::{Amount, Resources, ShapeError, VirtualMachine};

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
    /// VM has host devices
    /// Cure: a multiple of the page size, or smaller pages; or the directive `cpu-pinning`
    #[error(
        "{field} is {text}, which is not a multiple of the page size {size}; ask for a multiple of it, or for smaller pages{hint}"
    )]
    NotAMultiple { field: &'static str, text: String, size: &'static str, hint: &'static str },
}

/// Explains why the guest has less memory than the limit on Harvester.
const RESERVED: &str = " (Harvester subtracts what the annotation harvesterhci.io/reservedMemory says from the memory of the \
                        guest, or 100Mi if its setting additional-guest-memory-overhead-ratio is empty)";

/// Explains why the request is lower than the limit on Harvester.
const LOWERED: &str = " (Harvester lowers it by its overcommit ratio; add the directive cpu-pinning, with which the request is the limit)";

pub(super) static FEATURE: Feature = Feature {
    name: "hugepages",
    adds: &[&HUGEPAGES],
    settings: |settings| &settings.hugepages.feature,
    plan,
    reference: Reference {
        settings: "hugepages",
        example: "2Mi",
        gives: "the guest's memory comes from huge pages",
        page: "cpu-and-memory.md#hugepages",
        takes: "`2Mi` or `1Gi`",
        effect: "`domain.memory.hugepages.pageSize`",
        options: &[],
        looks_up: &[Access::to(Verbs::List, &[&NODE])
            .what("whether a node has enough such pages; a single node is read by its name")
            .without("no warning if no node has")],
    },
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    let allowed = &context.settings.hugepages.page_sizes;
    let Some(size) = allowed.iter().copied().find(|size| size.word() == value) else {
        let words: Vec<_> = allowed.iter().map(|size| size.word()).collect();
        return Err(HugepagesError::Size(words.join(" or ")).into());
    };
    if let Some(other) = context.vm.page_size()?.filter(|other| other != size.word()) {
        return Err(HugepagesError::OtherSize(other.into_owned()).into());
    }
    let mut plan = Plan { applied: size.word().to_owned(), ..Plan::default() };
    let Memory { divided, guest, request_is_lowered } = memory(context)?;
    let bytes = divided.as_ref().map(|amount| amount.bytes);
    for amount in [divided, guest].into_iter().flatten() {
        amount.check(size)?;
    }
    if request_is_lowered {
        plan.warnings.push(format!(
            "Harvester lowers the memory request by its overcommit ratio, and KubeVirt refuses the VirtualMachine if that \
             request is not a multiple of {}; add the directive cpu-pinning, with which the request is the limit",
            size.word()
        ));
    }
    plan.entries.push(HUGEPAGES.entry("", size.word()));
    if let Some(bytes) = bytes {
        let resource = format!("hugepages-{}", size.word());
        let is_enough = |pages: &str| pages.parse::<Quantity>().is_ok_and(|pages| pages.ceil() >= bytes);
        if context.no_node(|node| node.allocatable(&resource).is_some_and(is_enough))? {
            plan.warnings.push(format!(
                "no node that the VirtualMachine may run on has enough {resource} (status.allocatable), so it will not be scheduled; \
                 reserve hugepages on a node"
            ));
        }
    }
    Ok(plan)
}

/// An amount of memory that must be a multiple of the page size.
#[derive(Clone)]
struct PagedAmount {
    /// The field that contains it.
    field: &'static str,
    /// The amount, as the field has it.
    text: String,
    bytes: u64,
    /// Explains who sets the field, if it is not the user.
    hint: &'static str,
}

impl PagedAmount {
    fn new(field: &'static str, Amount { text, quantity }: Amount, hint: &'static str) -> Self {
        Self { field, text, bytes: quantity.ceil(), hint }
    }

    fn check(self, size: PageSize) -> Result<(), HugepagesError> {
        let Self { field, text, bytes, hint } = self;
        match bytes % size.bytes() {
            _ if bytes < size.bytes() => Err(HugepagesError::Less { field, text, size: size.word() }),
            0 => Ok(()),
            _ => Err(HugepagesError::NotAMultiple { field, text, size: size.word(), hint }),
        }
    }
}

/// The VirtualMachine's memory.
#[derive(Default)]
struct Memory {
    /// What KubeVirt divides into pages: a node must have as many bytes of hugepages.
    divided: Option<PagedAmount>,
    /// What QEMU divides into pages.
    guest: Option<PagedAmount>,
    /// Whether Harvester's webhook, which runs later, will set a request that the policy does not know.
    request_is_lowered: bool,
}

/// Finds the amounts that must be multiples of the page size. KubeVirt divides the request, or else the guest's memory,
/// or else the limit. The policy does not read instance types.
fn memory(context: &Context<'_>) -> Result<Memory, ShapeError> {
    let vm = context.vm;
    if vm.has_instance_type() {
        return Ok(Memory::default());
    }
    let is_harvester = context.settings.general.is_harvester();
    let Resources { request, limit } = vm.resources("memory")?;
    const GUEST: &str = "spec.template.spec.domain.memory.guest";
    const REQUEST: &str = "spec.template.spec.domain.resources.requests.memory";
    const LIMIT: &str = "spec.template.spec.domain.resources.limits.memory";
    let reserved = if is_harvester { RESERVED } else { "" };
    let guest = vm.guest_memory()?.map(|amount| PagedAmount::new(GUEST, amount, reserved));
    let request = |hint| request.map(|amount| PagedAmount::new(REQUEST, amount, hint));
    match limit.map(|amount| PagedAmount::new(LIMIT, amount, "")) {
        Some(limit) if is_harvester => {
            let old = context.old.and_then(|old| Basis::of(old).ok());
            let basis = Basis::of(vm)?;
            let guest = match vm.reserved_memory()? {
                // Harvester set it earlier, and will not change it.
                _ if old.as_ref().is_some_and(|old| old.memory == basis.memory) => guest.unwrap_or(limit.clone()),
                Some(reserved) => PagedAmount {
                    field: "the guest's memory",
                    text: format!("{} less {}", limit.text, reserved.text),
                    bytes: limit.bytes.saturating_sub(reserved.quantity.ceil()),
                    hint: RESERVED,
                },
                None => limit.clone(),
            };
            // Harvester sets the request to the limit if CPUs are pinned, to the guest's memory if there are devices,
            // and otherwise to a part of the limit.
            let is_lowered = !basis.is_dedicated && !basis.has_devices;
            let request_is_lowered = is_lowered && old.as_ref() != Some(&basis);
            let divided = match request(LOWERED) {
                Some(request) if is_lowered && !request_is_lowered => request,
                _ if basis.is_dedicated => limit,
                _ => guest.clone(),
            };
            Ok(Memory { divided: Some(divided), guest: Some(guest), request_is_lowered })
        }
        limit => Ok(Memory { divided: request("").or(guest.clone()).or(limit), guest, request_is_lowered: false }),
    }
}

/// What Harvester's webhook, which runs later, computes the request from. It does so for a new VirtualMachine, and if
/// any of this changes. Source: `harvester/harvester`, `pkg/webhook/resources/virtualmachine/mutator.go`,
/// `needUpdateResourceOvercommit`.
#[derive(PartialEq)]
struct Basis {
    /// The limit, and the memory that Harvester reserves.
    memory: [Option<Quantity>; 2],
    cpus: Option<Quantity>,
    is_dedicated: bool,
    has_devices: bool,
}

impl Basis {
    fn of(vm: &VirtualMachine) -> Result<Self, ShapeError> {
        let memory = [vm.resources("memory")?.limit, vm.reserved_memory()?];
        Ok(Self {
            memory: memory.map(|amount| amount.map(|amount| amount.quantity)),
            cpus: vm.resources("cpu")?.limit.map(|amount| amount.quantity),
            is_dedicated: vm.cpu()?.dedicated_cpu_placement == Some(true),
            has_devices: !(vm.host_devices()?.is_empty() && vm.gpus()?.is_empty()),
        })
    }
}
