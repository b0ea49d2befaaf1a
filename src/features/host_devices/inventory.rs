//! Harvester's devices: a host device must have the name of a PCIDevice or USBDevice, and that device's resource.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::directive::Devices;
use super::{Bus, HostDevicesError, object, object_name, our_devices};
use crate::cluster::{Claim, ClusterError, HostDevice, LookupError};
use crate::features::feature::Context;
use crate::text;
use crate::values::pci::PciAddress;
use crate::vm::Device;

/// The most devices that a message lists by name.
const LISTED: usize = 8;

/// The cluster's devices of a bus that matter to a VirtualMachine.
pub(super) struct Inventory<'n> {
    bus: &'static Bus,
    context: &'n Context<'n>,
    devices: Vec<Rc<HostDevice>>,
    /// The claims by name, if the bus is one whose claims say which devices are passed through.
    claims: BTreeMap<String, Rc<Claim>>,
    /// The node that the devices must be on, if it is known.
    node: Option<&'n str>,
}

/// A device that the directive asks for.
struct Candidates<'i> {
    wanted: &'i str,
    /// The cluster's devices that match it, in the order of their nodes' names. All are enabled for passthrough.
    devices: Vec<&'i HostDevice>,
    /// The entry of the VirtualMachine that already is one of them.
    entry: Option<Device<'i>>,
}

/// The cluster's device for one that the directive asks for.
pub(super) struct Chosen<'i> {
    pub(super) device: &'i HostDevice,
    /// The entry of the VirtualMachine that already is this device.
    pub(super) entry: Option<Device<'i>>,
}

impl<'n> Inventory<'n> {
    /// Looks up the devices. If the node is known, each device is looked up by name, which needs the fewest
    /// permissions. An update needs the list, because Harvester adds the other devices of an IOMMU group only to a new
    /// VirtualMachine.
    pub(super) fn look_up(
        bus: &'static Bus,
        devices: &Devices,
        node: Option<&'n str>,
        context: &'n Context<'n>,
    ) -> Result<Self, LookupError> {
        let mut inventory = Self { bus, context, devices: Vec::new(), claims: BTreeMap::new(), node };
        let names = devices.list.iter().map(|device| object_name(node?, device)).collect::<Option<Vec<_>>>();
        match (names, context.old) {
            (Some(names), None) => inventory.add(names)?,
            (names, _) => match (inventory.add_all(), names) {
                // If policy-server may not list devices, it may still be able to get them by name.
                (Err(error), Some(names)) if !error.is_temporary() => inventory.add(names)?,
                (result, _) => result?,
            },
        }
        Ok(inventory)
    }

    /// Looks up the devices of all nodes.
    fn add_all(&mut self) -> Result<(), LookupError> {
        let (bus, lookups) = (self.bus, self.context.lookups);
        let devices = lookups.list(bus.objects)?;
        let claims = if bus.claims_enable { lookups.list::<Claim>(bus.claims)? } else { Vec::new() };
        self.claims.extend(claims.into_iter().map(|claim| (claim.name().to_owned(), claim)));
        self.devices = devices;
        Ok(())
    }

    /// Looks up the devices of these names.
    fn add(&mut self, names: Vec<String>) -> Result<(), LookupError> {
        let (bus, lookups) = (self.bus, self.context.lookups);
        for name in names {
            match lookups.device(bus.objects, &name) {
                Ok(device) => self.devices.push(device),
                Err(error) if error.cause == ClusterError::NotFound => continue,
                Err(error) => return Err(error),
            }
            if bus.claims_enable {
                self.claims.extend(lookups.claim(bus.claims, &name)?.map(|claim| (name, claim)));
            }
        }
        Ok(())
    }

    /// Chooses a device for each one that the directive asks for, in the same order.
    ///
    /// # Errors
    /// A device is on no node, or is not enabled for passthrough; a text matches devices of different resources; or no
    /// node has all the devices.
    pub(super) fn choose<'i>(&'i self, devices: &'i Devices) -> anyhow::Result<Vec<Chosen<'i>>> {
        let ours = our_devices(self.context);
        let choices = self.choose_with(&ours, devices)?;
        let mut nodes = choices.iter().filter_map(|chosen| match &chosen.entry {
            Some(entry) => self.node_of(entry),
            None => Some(chosen.device.node()),
        });
        let first = nodes.next();
        // Devices that were added earlier do not help if the others are on another node.
        if nodes.any(|node| Some(node) != first) && !ours.is_empty() {
            return self.choose_with(&[], devices);
        }
        Ok(choices)
    }

    fn choose_with<'i>(&'i self, ours: &[Device<'i>], devices: &'i Devices) -> anyhow::Result<Vec<Chosen<'i>>> {
        let host_devices = self.context.vm.host_devices()?;
        let mut all = Vec::new();
        for wanted in &devices.list {
            let resource = wanted.parse().map(PciAddress::device_name);
            if let Some(entry) = host_devices.iter().find(|entry| resource.as_deref() == Ok(entry.resource)) {
                let (entry, address) = (text::list([entry.name]), wanted.clone());
                return Err(HostDevicesError::NamedByAddress { entry, address }.into());
            }
            all.push(Candidates { wanted, devices: self.candidates(wanted)?, entry: None });
        }
        self.find_entries(&mut all, ours, &host_devices);
        let (present, missing): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.entry.is_some());
        let node = self.node_for(&missing, &present, &host_devices)?;
        let choices = all.iter().filter_map(|&Candidates { ref devices, entry, .. }| {
            // The first device that fits best: `false` comes before `true`.
            let device = devices.iter().min_by_key(|device| match entry {
                Some(entry) => (device.name() != entry.name, device.resource() != entry.resource),
                None => (Some(device.node()) != node, false),
            });
            device.map(|device| Chosen { device, entry })
        });
        Ok(choices.collect())
    }

    /// The name of the user who claimed a device, if the claim says so.
    pub(super) fn owner(&self, device: &HostDevice) -> Result<Option<String>, LookupError> {
        let claim = match self.claims.get(device.name()) {
            Some(claim) => Some(Rc::clone(claim)),
            None => self.context.lookups.claim(self.bus.claims, device.name())?,
        };
        Ok(claim.and_then(|claim| claim.user().map(str::to_owned)))
    }

    /// The devices that match, and are enabled for passthrough, in the order of their nodes' names.
    fn candidates(&self, wanted: &str) -> Result<Vec<&HostDevice>, HostDevicesError> {
        let of_node = |device: &&HostDevice| self.node.is_none_or(|node| device.node() == node);
        let devices = self.devices.iter().map(Rc::as_ref);
        let mut there: Vec<&HostDevice> = Vec::new();
        for device in devices.filter(|device| is(device, wanted)).filter(of_node) {
            there.insert(there.partition_point(|other| other.node() <= device.node()), device);
        }
        let nodes = names_of_nodes(&there);
        there.retain(|device| self.is_enabled(device));
        let (device, bus) = (wanted.to_owned(), self.bus);
        if !there.is_empty() {
            return Ok(there);
        }
        if !nodes.is_empty() {
            return Err(HostDevicesError::NotEnabled { device, nodes, bus });
        }
        let who = self.node.map_or("no node has a".to_owned(), |node| format!("the node {node} has no"));
        Err(HostDevicesError::NotThere { who, device, bus })
    }

    fn is_enabled(&self, device: &HostDevice) -> bool {
        match self.bus.claims_enable {
            true => self.claims.get(device.name()).is_some_and(|claim| claim.status.passthrough_enabled),
            false => device.is_enabled_usb_device(),
        }
    }

    /// Finds the entries that already are the devices. An entry counts for only one device. It matches by the device
    /// that it is named after, or by its resource. An entry that is named after another device does not match, unless
    /// the directive added it: Harvester's controller renames entries after the devices that a VirtualMachine actually got.
    fn find_entries<'v>(&self, all: &mut [Candidates<'v>], ours: &[Device<'v>], host_devices: &[Device<'v>]) {
        let mut entries = [ours, host_devices].concat();
        let is_on_node = |node: &str| self.node.is_none_or(|wanted| wanted == node);
        // The name of a PCI device tells the device even if that was not looked up. The name of a USB device does not,
        // because the device may have been unplugged.
        // An entry that the directive added gives way if its device is not enabled any more, or has another resource.
        let is_current = |entry: &Device<'_>, candidates: &Candidates<'_>| {
            let is_it = |device: &&HostDevice| device.name() == entry.name && device.resource() == entry.resource;
            !ours.contains(entry) || candidates.devices.iter().any(is_it)
        };
        let is_named = |entry: &Device<'_>, one: &Candidates<'_>| match self.known(entry) {
            Some(device) => is(device, one.wanted) && is_on_node(device.node()) && is_current(entry, one),
            None => object(entry.name)
                .is_some_and(|(node, device)| self.bus.name_is_address && device == one.wanted && is_on_node(node)),
        };
        let is_of_resource = |entry: &Device<'_>, candidates: &Candidates<'_>| {
            let is_it = |node: &str| ours.contains(entry) && is_on_node(node);
            let mut devices = candidates.devices.iter();
            self.node_of(entry).is_none_or(is_it) && devices.any(|device| device.resource() == entry.resource)
        };
        for one in all.iter_mut() {
            let index = entries.iter().position(|entry| is_named(entry, one));
            one.entry = index.map(|index| entries.remove(index));
        }
        for one in all.iter_mut().filter(|one| one.entry.is_none()) {
            let index = entries.iter().position(|entry| is_of_resource(entry, one));
            one.entry = index.map(|index| entries.remove(index));
        }
    }

    /// The first node that has all the missing devices. Harvester rejects a VirtualMachine with devices of two nodes,
    /// so if it already has a device, only that device's node counts. If several nodes have the same devices, the
    /// scheduler chooses, because a host device can be any device of its resource.
    fn node_for<'i>(
        &self,
        missing: &[&Candidates<'i>],
        present: &[&Candidates<'i>],
        host_devices: &[Device<'_>],
    ) -> Result<Option<&'i str>, HostDevicesError> {
        let Some(first) = missing.first() else {
            return Ok(None);
        };
        let places = || {
            let place = |one: &&Candidates<'_>| format!("{} on {}", one.wanted, names_of_nodes(&one.devices));
            missing.iter().map(place).collect::<Vec<_>>().join("; ")
        };
        let mut nodes: Vec<&str> = first.devices.iter().map(|device| device.node()).collect();
        nodes.retain(|node| have_all(missing, node));
        if nodes.is_empty() {
            return Err(HostDevicesError::NoNodeHasAll { devices: places() });
        }
        if let Some(bound) = host_devices.iter().find_map(|entry| self.node_of(entry)) {
            nodes.retain(|node| *node == bound);
            if nodes.is_empty() {
                return Err(HostDevicesError::OtherNode { bound: bound.to_owned(), devices: places() });
            }
        }
        // A device that is already there may actually have been assigned on another node, so it only breaks ties.
        if nodes.iter().any(|node| have_all(present, node)) {
            nodes.retain(|node| have_all(present, node));
        }
        for Candidates { wanted, devices, .. } in missing {
            let found = || devices.iter().filter(|device| nodes.contains(&device.node()));
            let Some(one) = found().next() else { continue };
            if found().any(|other| other.resource() != one.resource()) {
                let names = found().take(LISTED).map(|device| format!("{} ({})", device.name(), device.resource()));
                let devices = names.collect::<Vec<_>>().join(", ");
                let (device, name) = ((*wanted).to_owned(), one.name().to_owned());
                return Err(HostDevicesError::Ambiguous { device, devices, name });
            }
        }
        Ok(nodes.first().copied())
    }

    fn known(&self, entry: &Device<'_>) -> Option<&HostDevice> {
        self.devices.iter().map(Rc::as_ref).find(|device| device.name() == entry.name)
    }

    /// The node of the device that an entry is named after, whether the device was looked up or not.
    fn node_of<'p>(&'p self, entry: &Device<'p>) -> Option<&'p str> {
        let of_name = || object(entry.name).map(|(node, _)| node);
        self.known(entry).map(HostDevice::node).or_else(of_name)
    }
}

/// Whether a device is the one that the directive asks for, or one of several that match.
fn is(device: &HostDevice, wanted: &str) -> bool {
    device.name() == wanted || key(device) == wanted
}

/// What identifies the device: its PCI address, or its vendor and product.
pub(super) fn key(device: &HostDevice) -> String {
    device.address().map_or_else(|| device.ids(), str::to_owned)
}

fn have_all(candidates: &[&Candidates<'_>], node: &str) -> bool {
    candidates.iter().all(|one| one.devices.iter().any(|device| device.node() == node))
}

/// The names of the devices' nodes. The devices must be sorted by node.
fn names_of_nodes(devices: &[&HostDevice]) -> String {
    let mut nodes: Vec<&str> = devices.iter().map(|device| device.node()).collect();
    nodes.dedup();
    text::list(nodes)
}
