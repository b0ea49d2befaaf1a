//! Who may have which device: the settings `allowedDevices` and `requireClaimOwner`.
//!
//! Kubernetes gives a VirtualMachine any device of a resource on the node where it runs, and Harvester adds the other
//! devices of an IOMMU group. So every device that the VirtualMachine may get has to pass, not only those that the
//! directive names.

use std::collections::BTreeSet;

use super::choice::Chosen;
use super::error::has_harvester;
use super::inventory::{Inventory, key};
use super::names::object;
use super::{Bus, HostDeviceSettings, HostDevicesError};
use crate::cluster::{HostDevice, LookupError};
use crate::features::Settings;
use crate::features::allowed::allows;
use crate::features::feature::{Context, NobodyAsks};
use crate::features::record::Recorded;
use crate::text;
use crate::vm::entry::Entry;
use crate::vm::place::NODE_SELECTOR;
use crate::vm::{Device, OnlyNode};

/// Why a VirtualMachine may not have a device.
pub(super) enum Refusal {
    /// `allowedDevices` does not allow it in the namespace.
    NotAllowed,
    /// The requester did not claim it.
    NotTheOwner,
    /// The requester does not ask for it.
    NobodyAsks(NobodyAsks),
}

impl HostDeviceSettings {
    /// Whether there is any rule about who may have which device.
    pub(in crate::features) fn has_rules(&self) -> bool {
        self.require_claim_owner || !self.allowed_devices.is_empty()
    }

    /// Whether the namespace may have a device. A pattern may match its address or ids, also in upper case or with the
    /// node in front, its name in Harvester, or its resource. `device` may be an address, ids, or a name in Harvester;
    /// `known` is the device if it was looked up.
    pub(super) fn allows(
        &self,
        namespace: &str,
        device: &str,
        known: Option<&HostDevice>,
        resource: &str,
        node: Option<&str>,
    ) -> bool {
        let what = object(device).map_or(device.to_owned(), |(_, what)| what);
        let upper_case = what.to_ascii_uppercase();
        let with_node = node.map_or(what.clone(), |node| format!("{node}/{what}"));
        let ids = known.map(HostDevice::ids).unwrap_or_default();
        let names = [what.as_str(), &upper_case, &with_node, known.map_or(device, HostDevice::name), &ids, resource];
        allows(&self.allowed_devices, namespace, &names)
    }
}

impl Refusal {
    /// The error for a device. `wanted` is how the directive names it, and `node` the node that it names, if it does: the
    /// message must not show more, because the device may be somebody else's.
    pub(super) fn of(
        self,
        wanted: &str,
        node: Option<&str>,
        bus: &'static Bus,
        context: &Context<'_>,
    ) -> HostDevicesError {
        let with_node = node.filter(|_| object(wanted).is_none()).map(|node| format!("{node}/{wanted}"));
        let device = text::list(&[with_node.as_deref().unwrap_or(wanted)]);
        match self {
            Self::NotAllowed => HostDevicesError::NotAllowed { device, namespace: context.namespace.to_owned(), bus },
            Self::NotTheOwner => HostDevicesError::NotTheOwner { device, user: context.requester.to_string(), bus },
            Self::NobodyAsks(why) => HostDevicesError::NobodyAsks { device, why, bus },
        }
    }
}

impl Inventory<'_> {
    /// Checks everything that the VirtualMachine gets with these devices: them, the devices of their IOMMU groups, and what
    /// Kubernetes may give instead of each. Returns the node selector without which that might be something else.
    pub(super) fn check_rules(&self, choices: &[Chosen<'_>]) -> Result<Option<Entry>, HostDevicesError> {
        let bus = self.bus;
        let failed = |error| HostDevicesError::Lookup { error, bus };
        for chosen in choices {
            if let Some(refusal) = self.refusal_of(chosen).map_err(failed)? {
                return Err(refusal.of(chosen.wanted, self.node_by_name(), bus, self.context));
            }
        }
        let Some(first) = choices.first().map(|chosen| chosen.device) else { return Ok(None) };
        let wanted = || text::list(&choices.iter().map(|chosen| chosen.wanted).collect::<Vec<_>>());
        let named: Vec<_> = choices.iter().map(|chosen| chosen.device).collect();
        let siblings = self.in_groups_of(&named);
        for sibling in &siblings {
            if self.refusal(sibling).map_err(failed)?.is_some() {
                return Err(HostDevicesError::Sibling { devices: wanted(), bus });
            }
        }
        let resources: Vec<_> = named.iter().chain(&siblings).map(|device| device.resource()).collect();
        let refused = self.refused(&resources).map_err(failed)?;
        if refused.is_empty() {
            return Ok(None);
        }
        let mut nodes = vec![first.node()];
        nodes.retain(|node| resources.iter().all(|resource| !refused.contains(&(node, resource))));
        self.retain_allowed(&mut nodes);
        let pool = || HostDevicesError::Pool { devices: wanted(), bus };
        match nodes.as_slice() {
            [node] => self.context.pin_by_rule(node).map(Some).ok_or_else(pool),
            _ => Err(pool()),
        }
    }

    /// Why the VirtualMachine may not have the device; `None` if it may. Without an entry for it, it must be asked for.
    fn refusal_of(&self, chosen: &Chosen<'_>) -> Result<Option<Refusal>, LookupError> {
        let Self { settings, context, .. } = *self;
        match context.asker() {
            Err(why) if settings.require_claim_owner && chosen.entry.is_none() && !self.was_there(chosen.device) => {
                Ok(Some(Refusal::NobodyAsks(why)))
            }
            _ => self.refusal(chosen.device),
        }
    }

    /// Why Kubernetes may not give the device to the VirtualMachine; `None` if it may.
    pub(super) fn refusal(&self, device: &HostDevice) -> Result<Option<Refusal>, LookupError> {
        let Self { settings, context, .. } = *self;
        if !settings.has_rules() {
            return Ok(None);
        }
        if !settings.allows(context.namespace, &key(device), Some(device), device.resource(), Some(device.node())) {
            return Ok(Some(Refusal::NotAllowed));
        }
        if !settings.require_claim_owner { Ok(None) } else { self.refusal_of_owner(device) }
    }

    /// Why the requester may not have the device as its owner. If the claim names nobody, nobody may.
    fn refusal_of_owner(&self, device: &HostDevice) -> Result<Option<Refusal>, LookupError> {
        let context = self.context;
        if self.was_there(device) {
            return Ok(None);
        }
        let mut before = self.before.devices.iter().filter(|entry| entry.resource == device.resource()).peekable();
        let is_there = |known: &&HostDevice| self.before.may_have_run_on(known.node());
        let owner = self.owner(device)?;
        match context.asker() {
            Ok(requester) if owner.as_deref().is_some_and(|owner| requester.is(owner)) => Ok(None),
            Ok(_) => Ok(Some(Refusal::NotTheOwner)),
            // KubeVirt's and Harvester's controllers change VirtualMachines, too, and so do other people. What the request
            // that set the directive allowed stays allowed: any device of the resource of the same owner, and any on the
            // node to which the VirtualMachine is pinned.
            Err(_) if self.before.node.as_deref() == Some(device.node()) && before.peek().is_some() => Ok(None),
            Err(why) => {
                for entry in before {
                    let known = self.known(entry).filter(is_there);
                    let owner_before = known.map(|known| self.owner(known)).transpose()?.flatten();
                    if owner.is_some() && owner_before == owner {
                        return Ok(None);
                    }
                }
                Ok(Some(Refusal::NobodyAsks(why)))
            }
        }
    }

    /// Whether the VirtualMachine had the device before this update. A user may write any name, so the name of a device on
    /// another node than the VirtualMachine's does not count.
    fn was_there(&self, device: &HostDevice) -> bool {
        // An entry of the policy may have another resource, which the device had before. One of the user's may have any.
        let had = |added: &Recorded| added.entry.as_device().is_some_and(|(name, _)| name == device.name());
        let is_it = |entry: &Device<'_>| {
            entry.name == device.name() && (entry.resource == device.resource() || self.context.had.iter().any(had))
        };
        self.before.may_have_run_on(device.node()) && self.before.devices.iter().any(is_it)
    }

    /// Those of the resources, each with a node, of which the node has an enabled device that the VirtualMachine may not have.
    pub(super) fn refused(&self, resources: &[&str]) -> Result<BTreeSet<(&str, &str)>, LookupError> {
        let mut refused = BTreeSet::new();
        for device in self.all().filter(|device| resources.contains(&device.resource()) && self.is_enabled(device)) {
            let place = (device.node(), device.resource());
            if !refused.contains(&place) && self.refusal(device)?.is_some() {
                refused.insert(place);
            }
        }
        Ok(refused)
    }

    /// The devices that are in the IOMMU group of one of these: Harvester adds them.
    fn in_groups_of(&self, devices: &[&HostDevice]) -> Vec<&HostDevice> {
        let mut groups = BTreeSet::new();
        groups.extend(devices.iter().filter_map(|device| device.iommu_group()));
        self.all().filter(|device| device.iommu_group().is_some_and(|group| groups.contains(&group))).collect()
    }
}

/// Whether there are rules about who may have which device.
pub(crate) fn has_device_rules(settings: &Settings) -> bool {
    settings.pci_passthrough.host.has_rules() || settings.usb_passthrough.host.has_rules()
}

/// Checks everything that a VirtualMachine may get if Kubernetes chooses devices of a resource, of which it has to get
/// `missing` yet. Returns the node selector without which Kubernetes might give what the VirtualMachine may not have. The
/// rules are those for named devices.
pub(in crate::features) fn check_resource(
    bus: &'static Bus,
    resource: &str,
    missing: usize,
    context: &Context<'_>,
) -> Result<Option<Entry>, HostDevicesError> {
    let settings = &context.settings.pci_passthrough.host;
    if !settings.has_rules() || context.settings.pci_passthrough.names_by_address() {
        return Ok(None);
    }
    let failed = |error| HostDevicesError::Lookup { error, bus };
    let inventory = match Inventory::of_all(bus, settings, context, None) {
        Ok(inventory) => inventory,
        // Only Harvester's devices have owners.
        Err(error) if !has_harvester(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let devices = inventory.sorted(|device| device.resource() == resource && inventory.is_enabled(device));
    // A device that nobody claimed may be anybody's later.
    if devices.is_empty() && inventory.all().any(|it| it.resource() == resource) {
        return Err(HostDevicesError::NotEnabled { device: resource.to_owned(), nodes: "any node".to_owned(), bus });
    }
    // Without a request for them, the siblings were checked when there was one.
    let is_asked = context.asker().is_ok() || !settings.require_claim_owner;
    let siblings = if is_asked { inventory.in_groups_of(&devices) } else { Vec::new() };
    let of_siblings = siblings.iter().map(|device| device.resource());
    let resources = text::unique(of_siblings.chain([resource]).collect());
    let mut refused = inventory.refused(&resources).map_err(failed)?;
    for sibling in siblings {
        if inventory.refusal(sibling).map_err(failed)?.is_some() {
            refused.insert((sibling.node(), sibling.resource()));
        }
    }
    let mut nodes: Vec<&str> = devices.iter().map(|device| device.node()).collect();
    nodes.dedup();
    let count = nodes.len();
    nodes.retain(|node| !refused.iter().any(|(refused, _)| refused == node));
    let asker = context.asker();
    match asker {
        Err(why) if settings.require_claim_owner && missing > 0 && count > 0 => {
            return Err(HostDevicesError::NobodyAsks { device: resource.to_owned(), why, bus });
        }
        _ if nodes.len() == count => return Ok(None),
        _ => {}
    }
    inventory.retain_allowed(&mut nodes);
    // The VirtualMachine stays on the node where it is.
    let is_there = |node: &&str| inventory.before.node.as_deref() == Some(*node);
    let node = nodes.iter().copied().find(is_there).or(nodes.first().copied());
    let pin = node.and_then(|node| context.pin_by_rule(node));
    pin.map(Some).ok_or_else(|| HostDevicesError::Pool { devices: resource.to_owned(), bus })
}

impl Context<'_> {
    /// The node selector for a node, if the VirtualMachine does not select another one. A rule needs it, so it must not be
    /// left out because its place is taken.
    fn pin_by_rule(&self, node: &str) -> Option<Entry> {
        let pin = self.pin(node);
        self.vm.entries(&NODE_SELECTOR).iter().all(|entry| entry.value == pin.value).then_some(pin)
    }

    /// The node selector for a node. The node's name is taken for its hostname if that cannot be looked up.
    pub(super) fn pin(&self, node: &str) -> Entry {
        let found = self.node(OnlyNode::Named(node)).ok().flatten();
        NODE_SELECTOR.entry("", found.as_ref().map_or(node, |node| node.hostname()))
    }
}
