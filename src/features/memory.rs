//! How much memory a VirtualMachine has. Harvester's webhook and KubeVirt's run after the policy and fill in amounts
//! that are absent, so this module computes the amounts that KubeVirt will count.

use std::fmt;

use super::feature::Context;
use crate::values::quantity::Quantity;
use crate::vm::{Amount, Resources, ShapeError, VirtualMachine};

const GUEST: &str = "spec.template.spec.domain.memory.guest";
const MAX_GUEST: &str = "spec.template.spec.domain.memory.maxGuest";
const REQUEST: &str = "spec.template.spec.domain.resources.requests.memory";
const LIMIT: &str = "spec.template.spec.domain.resources.limits.memory";

/// Explains why the guest has less memory than the limit on Harvester.
const RESERVED: &str = " (Harvester subtracts what the annotation harvesterhci.io/reservedMemory says from the memory of the \
                        guest, or 100Mi if its setting additional-guest-memory-overhead-ratio is empty)";

/// Explains why the request is lower than the limit on Harvester.
const LOWERED: &str = " (Harvester lowers it by its overcommit ratio; add the directive cpu-pinning, with which the request is the limit)";

/// The same, if the directive is there and fails.
const LOWERED_UNLESS_PINNED: &str =
    " (Harvester lowers it by its overcommit ratio, unless the directive cpu-pinning is applied)";

/// Explains why the request is lower than the guest's memory without Harvester.
const OVERCOMMITTED: &str = " (KubeVirt lowers the request by memoryOvercommit of its object, unless \
                             spec.template.spec.domain.resources.requests.memory is set)";

/// Why the memory of the VirtualMachine is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    /// Cause: neither `domain.memory` nor `domain.resources` says how much memory the guest has. KubeVirt would refuse to pin its
    /// CPUs, or give it a single huge page. Harvester does not count a request, and with its CPU and memory hotplug, it counts
    /// only `domain.memory.guest`
    /// Cure: `spec.template.spec.domain.memory.guest`
    #[error(
        "the VirtualMachine does not say how much memory its guest has; set spec.template.spec.domain.memory.guest"
    )]
    Absent,
}

/// An amount of memory, and where it comes from.
#[derive(Clone, Copy)]
pub(super) struct MemoryAmount<'a> {
    /// The field that contains it.
    pub(super) field: &'static str,
    /// The amount, as the field has it.
    text: &'a str,
    /// What Harvester subtracts, as its annotation has it.
    reserved: Option<&'a str>,
    /// By which percentage KubeVirt divides it.
    overcommit: Option<u64>,
    pub(super) bytes: u64,
    /// Explains who sets the field, if it is not the user.
    pub(super) hint: &'static str,
}

impl fmt::Display for MemoryAmount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(percent) = self.overcommit {
            return write!(f, "{} bytes ({} with a memoryOvercommit of {percent})", self.bytes, self.text);
        }
        f.write_str(self.text)?;
        self.reserved.map_or(Ok(()), |reserved| write!(f, " less {reserved}"))
    }
}

impl<'a> MemoryAmount<'a> {
    fn new(field: &'static str, Amount { text, quantity }: &'a Amount, hint: &'static str) -> Self {
        // KubeVirt rounds up, too.
        Self { field, text, reserved: None, overcommit: None, bytes: quantity.ceil(), hint }
    }

    /// What KubeVirt requests for a guest with this memory if the VirtualMachine has neither request nor limit. A request above the
    /// guest's memory has no effect on pages. Source: `pkg/virt-controller/services/renderresources.go:256`, `WithMemoryRequests`.
    fn overcommitted(self, context: &Context<'_>) -> Self {
        let percent = context.lookups.kubevirt().map_or(100, |kubevirt| kubevirt.memory_overcommit);
        if percent <= 100 {
            return self;
        }
        let bytes = u128::from(self.bytes) * 100 / u128::from(percent);
        let bytes = u64::try_from(bytes).unwrap_or(self.bytes);
        Self { field: "the memory request", overcommit: Some(percent), bytes, hint: OVERCOMMITTED, ..self }
    }

    /// The smaller amount. The first, if both are equal.
    fn min(self, other: Self) -> Self {
        if other.bytes < self.bytes { other } else { self }
    }
}

/// The amounts of memory that the VirtualMachine contains.
pub(super) struct Amounts {
    resources: Resources,
    guest: Option<Amount>,
    most: Option<Amount>,
    /// What Harvester reserves.
    reserved: Option<Amount>,
}

/// The VirtualMachine's memory, as KubeVirt will count it.
pub(super) struct Memory<'a> {
    /// What the pod requests. It is not known if Harvester will set it to a part of the limit, by its overcommit ratio.
    pub(super) request: Option<MemoryAmount<'a>>,
    /// What the guest sees.
    pub(super) guest: MemoryAmount<'a>,
    /// What the guest may see after hotplug, if the VirtualMachine says so.
    pub(super) most: Option<MemoryAmount<'a>>,
}

impl Amounts {
    pub(super) fn of(context: &Context<'_>) -> Result<Self, ShapeError> {
        let vm = context.vm;
        Ok(Self {
            resources: vm.resources("memory")?,
            guest: vm.guest_memory()?,
            most: vm.max_guest_memory()?,
            reserved: if context.settings.general.is_harvester() { vm.reserved_memory()? } else { None },
        })
    }

    /// Computes the memory of a VirtualMachine without an instance type. If there is no request, KubeVirt requests the limit, or
    /// else the guest's memory, less its overcommit (`pkg/virt-controller/services/renderresources.go`, `WithMemoryRequests`), but a limit above
    /// the guest's memory has no effect on pages. If `domain.memory.guest` is absent, the guest has what is requested, or else
    /// the limit (`pkg/defaults/defaults.go`, `setGuestMemory`).
    ///
    /// # Errors
    /// [`MemoryError`] if nothing says how much memory the guest has.
    pub(super) fn memory(&self, context: &Context<'_>) -> anyhow::Result<Memory<'_>> {
        let is_harvester = context.settings.general.is_harvester();
        let [guest, request, limit, most] = [
            (GUEST, &self.guest, if is_harvester { RESERVED } else { "" }),
            (REQUEST, &self.resources.request, ""),
            (LIMIT, &self.resources.limit, ""),
            (MAX_GUEST, &self.most, ""),
        ]
        .map(|(field, amount, hint)| amount.as_ref().map(|amount| MemoryAmount::new(field, amount, hint)));
        if let Some(limit) = limit.filter(|_| is_harvester) {
            let memory = Memory { request, guest: guest.unwrap_or(limit), most };
            return self.set_by_harvester(context, memory, limit);
        }
        // Harvester's validator does not accept a request alone (`validator.go`, `checkEmptyMemory`).
        let guest = guest.or_else(|| request.or(limit).filter(|_| !is_harvester)).ok_or(MemoryError::Absent)?;
        let request = match (request, limit) {
            (Some(request), _) => request,
            (None, Some(limit)) => guest.min(limit),
            (None, None) => guest.overcommitted(context),
        };
        Ok(Memory { request: Some(request), guest, most })
    }

    /// The memory of a VirtualMachine with a limit, on Harvester. Source: `pkg/webhook/resources/virtualmachine/mutator.go`,
    /// `generateMemoryPatch`.
    fn set_by_harvester<'a>(
        &'a self,
        context: &Context<'_>,
        stored: Memory<'a>,
        limit: MemoryAmount<'a>,
    ) -> anyhow::Result<Memory<'a>> {
        let basis = Basis::of(context.vm)?;
        let old = Basis::before(context);
        let is_set = old.as_ref().is_none_or(|old| basis.differs_from(old));
        let is_hotplugged = context.vm.is_hotplugged()?;
        // Harvester sets the memory of a guest with hotplug only if there is no `domain.memory`, and with hugepages there is
        // one. Then its validator fails.
        if is_hotplugged && self.guest.is_none() {
            return Err(MemoryError::Absent.into());
        }
        let mut usable = match &self.reserved {
            Some(_) if is_set && !is_hotplugged => limit,
            // What Harvester reserves by its setting is not known, unless it computed the guest's memory from the same limit.
            None if !is_hotplugged && old.is_none_or(|old| old.memory != basis.memory) => limit,
            _ => stored.guest,
        };
        let mut guest = usable;
        if let Some(reserved) = self.reserved.as_ref().filter(|_| is_set || is_hotplugged) {
            usable.field = if is_hotplugged { "the memory request" } else { "the guest's memory" };
            usable.reserved = Some(&reserved.text);
            usable.bytes = usable.bytes.saturating_sub(reserved.quantity.ceil());
            usable.hint = RESERVED;
        }
        if is_hotplugged {
            guest.hint = "";
        } else {
            guest = usable;
        }
        let request = match (basis.is_dedicated, basis.has_devices()) {
            (true, _) if is_set => Some(limit),
            // Harvester also sets it if the two differ.
            (false, true) => Some(usable),
            (false, false) if is_set => None,
            (is_dedicated, _) => {
                let hint = match is_dedicated {
                    true => "",
                    false if context.failing.contains(&"cpu-pinning") => LOWERED_UNLESS_PINNED,
                    false => LOWERED,
                };
                let request = stored.request.map(|request| MemoryAmount { hint, ..request });
                request.or(Some(guest.min(limit)))
            }
        };
        Ok(Memory { request, guest, ..stored })
    }
}

/// Checks that something says how much memory the guest has, as KubeVirt demands it if CPUs are pinned. Sources: KubeVirt's
/// `vmi-create-admitter.go`, `validateMemoryIsProvided`; Harvester's `validator.go`, `checkEmptyMemory`.
pub(super) fn check_present(context: &Context<'_>) -> anyhow::Result<()> {
    let vm = context.vm;
    let Resources { request, limit } = vm.resources("memory")?;
    let is_present = vm.guest_memory()?.or(limit).is_some();
    let counts_others = !context.settings.general.is_harvester();
    if is_present || (counts_others && (request.is_some() || vm.page_size()?.is_some())) {
        Ok(())
    } else {
        Err(MemoryError::Absent.into())
    }
}

/// What Harvester's webhook computes requests and the guest's memory from.
struct Basis {
    /// The limit, and the memory that Harvester reserves.
    memory: [Option<Quantity>; 2],
    cpus: Option<Quantity>,
    is_dedicated: bool,
    /// How many host devices and GPUs there are.
    devices: [usize; 2],
}

impl Basis {
    fn of(vm: &VirtualMachine) -> Result<Self, ShapeError> {
        let memory = [vm.resources("memory")?.limit, vm.reserved_memory()?];
        Ok(Self {
            memory: memory.map(|amount| amount.map(|amount| amount.quantity)),
            cpus: vm.resources("cpu")?.limit.map(|amount| amount.quantity),
            is_dedicated: vm.cpu()?.dedicated_cpu_placement == Some(true),
            devices: [vm.host_devices()?.len(), vm.gpus()?.len()],
        })
    }

    /// That of the VirtualMachine before this update, if it can be read: nobody can correct the old object.
    fn before(context: &Context<'_>) -> Option<Self> {
        Self::of(context.old?).ok()
    }

    fn has_devices(&self) -> bool {
        self.devices != [0, 0]
    }

    /// Whether Harvester computes them anew after an update. Source: `pkg/webhook/resources/virtualmachine/mutator.go`,
    /// `needUpdateResourceOvercommit`.
    fn differs_from(&self, old: &Self) -> bool {
        self.memory != old.memory
            || (self.cpus.is_some() && self.cpus != old.cpus)
            || self.is_dedicated != old.is_dedicated
            || self.devices != old.devices
    }
}

/// Whether Harvester's webhook sets the requests of a VirtualMachine with pinned CPUs to its limits. It does so unless the
/// CPUs were pinned before, with the same limits.
pub(super) fn harvester_sets_pinned_requests(context: &Context<'_>) -> Result<bool, ShapeError> {
    if !context.settings.general.is_harvester() {
        return Ok(false);
    }
    let basis = Basis { is_dedicated: true, ..Basis::of(context.vm)? };
    Ok(Basis::before(context).is_none_or(|old| basis.differs_from(&old)))
}
