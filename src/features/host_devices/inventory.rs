//! Harvester's devices: a host device must have the name of a PCIDevice or USBDevice, and that device's resource.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::directive::{Devices, DirectiveError};
use super::{Bound, Bus, HostDevicesError, object, object_name, our_devices};
use crate::cluster::{Claim, ClusterError, HostDevice, LookupError, NODE, Node};
use crate::features::feature::Context;
use crate::text;
use crate::values::pci::{PciAddress, PciSelector};
use crate::vm::{Device, OnlyNode};

/// The most devices that a message lists by name.
const LISTED: usize = 8;

/// The cluster's devices of a bus that matter to a VirtualMachine.
pub(super) struct Inventory<'n> {
    bus: &'static Bus,
    context: &'n Context<'n>,
    devices: Vec<Rc<HostDevice>>,
    /// The names of the claims that are enabled, and their users, if the bus is one whose claims say which devices are passed through.
    claims: BTreeMap<String, String>,
    /// Whether these are all devices of the cluster, not only those that were looked up by name.
    is_complete: bool,
    /// The node that the devices must be on, if it is known.
    bound: Option<&'n Bound>,
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
    /// The text of the directive.
    pub(super) wanted: &'i str,
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
        wanted: &Devices,
        bound: Option<&'n Bound>,
        context: &'n Context<'n>,
    ) -> Result<Self, LookupError> {
        let (devices, claims, is_complete) = Default::default();
        let mut inventory = Self { bus, context, devices, claims, is_complete, bound };
        let name = |device: &String| object_name(&bound?.node, device);
        let names = wanted.list.iter().map(name).collect::<Option<Vec<_>>>();
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
        claims.iter().for_each(|claim| self.add_claim(claim));
        self.devices = devices;
        self.is_complete = true;
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
                lookups.claim(bus.claims, &name)?.iter().for_each(|claim| self.add_claim(claim));
            }
        }
        Ok(())
    }

    fn add_claim(&mut self, claim: &Claim) {
        if claim.is_enabled {
            self.claims.insert(claim.name().to_owned(), claim.user().unwrap_or_default().to_owned());
        }
    }

    /// Chooses a device for each one that the directive asks for, in the same order.
    ///
    /// # Errors
    /// A device is on no node, or is not enabled for passthrough; a text matches devices of different resources; or no
    /// node has all the devices.
    pub(super) fn choose<'i>(&'i self, wanted: &'i [String]) -> anyhow::Result<Vec<Chosen<'i>>> {
        let ours = our_devices(self.context);
        let choices = self.choose_with(&ours, wanted)?;
        let mut nodes = choices.iter().filter_map(|chosen| match &chosen.entry {
            Some(entry) => self.node_of(entry),
            None => Some(chosen.device.node()),
        });
        let first = nodes.next();
        // Devices that were added earlier do not help if the others are on another node.
        if nodes.any(|node| Some(node) != first) && !ours.is_empty() {
            return self.choose_with(&[], wanted);
        }
        Ok(choices)
    }

    fn choose_with<'i>(&'i self, ours: &[Device<'i>], wanted: &'i [String]) -> anyhow::Result<Vec<Chosen<'i>>> {
        let host_devices = self.context.vm.host_devices()?;
        let mut all = Vec::new();
        for wanted in wanted {
            let resource = wanted.parse().map(PciAddress::device_name);
            if let Some(entry) = host_devices.iter().find(|entry| resource.as_deref() == Ok(entry.resource)) {
                let (entry, address) = (text::list(&[entry.name]), wanted.clone());
                return Err(HostDevicesError::NamedByAddress { entry, address }.into());
            }
            all.push(Candidates { wanted, devices: self.candidates(wanted)?, entry: None });
        }
        // Texts that only one device matches come first, so that the others do not take that device.
        let (countable, single): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|one| (self.bus.is_countable)(one.wanted));
        let mut all = single;
        all.extend(countable);
        for (index, Candidates { devices, .. }) in all.iter().enumerate() {
            let [device] = devices.as_slice() else { continue };
            let mut before = all.iter().take(index).filter(|one| one.devices.len() == 1);
            if before.any(|one| one.devices.iter().any(|other| other.name() == device.name())) {
                return Err(DirectiveError::Duplicate { device: device.name().to_owned() }.into());
            }
        }
        self.find_entries(&mut all, ours, &host_devices);
        let mut taken: Vec<&str> = all.iter().filter_map(|one| Some(one.entry?.name)).collect();
        let node = self.node_for(&all, &taken, &host_devices)?;
        let mut choices = Vec::new();
        for &Candidates { wanted, ref devices, entry } in &all {
            let device = match entry {
                // The first device that fits best: `false` comes before `true`.
                Some(entry) => devices
                    .iter()
                    .min_by_key(|device| (device.name() != entry.name, device.resource() != entry.resource)),
                None => devices.iter().find(|device| Some(device.node()) == node && !taken.contains(&device.name())),
            };
            taken.extend(device.filter(|_| entry.is_none()).map(|device| device.name()));
            choices.extend(device.map(|device| Chosen { wanted, device, entry }));
        }
        Ok(choices)
    }

    /// The texts of a directive, with those of each function in the place of a text that means all functions of a device.
    ///
    /// # Errors
    /// There is no such device, or the functions are not the same on all nodes that have one.
    pub(super) fn functions(&self, wanted: &[String]) -> Result<Vec<String>, HostDevicesError> {
        let mut functions = Vec::new();
        for text in wanted {
            let Ok(PciSelector::AllFunctions(first)) = text.parse() else {
                functions.push(text.clone());
                continue;
            };
            let is_function = |device: &HostDevice| {
                let address = device.address().and_then(|address| address.parse::<PciAddress>().ok());
                address.is_some_and(|address| address.is_of_same_device_as(first))
            };
            let found = self.matching(is_function);
            let on = |node: &str| -> Vec<String> {
                found.iter().filter(|device| device.node() == node).map(|device| key(device)).collect()
            };
            let Some(of_first) = found.first().map(|device| on(device.node())) else {
                return Err(self.not_there(text, is_function));
            };
            if let Some(other) = found.iter().find(|device| on(device.node()).len() != of_first.len()) {
                let devices = found.iter().take(LISTED).map(|device| device.name()).collect::<Vec<_>>().join(", ");
                let name = format!("{}/{text}", other.node());
                return Err(HostDevicesError::Ambiguous { device: text.clone(), devices, name });
            }
            functions.extend(of_first.into_iter().filter(|function| !wanted.contains(function)));
        }
        Ok(functions)
    }

    /// The name of the user who claimed a device, if the claim says so.
    pub(super) fn owner(&self, device: &HostDevice) -> Result<Option<String>, LookupError> {
        let user = match self.claims.get(device.name()) {
            Some(user) => user.clone(),
            None => {
                let claim = self.context.lookups.claim(self.bus.claims, device.name())?;
                claim.and_then(|claim| claim.user().map(str::to_owned)).unwrap_or_default()
            }
        };
        Ok(Some(user).filter(|user| !user.is_empty()))
    }

    /// The devices that match, and are enabled for passthrough, in the order of their nodes' names.
    fn candidates(&self, wanted: &str) -> Result<Vec<&HostDevice>, HostDevicesError> {
        let mut there = self.matching(|device| is(device, wanted));
        let nodes = names_of_nodes(&there);
        there.retain(|device| self.is_enabled(device));
        match (there.is_empty(), nodes.is_empty()) {
            (false, _) => Ok(there),
            (true, false) => Err(HostDevicesError::NotEnabled { device: wanted.to_owned(), nodes, bus: self.bus }),
            (true, true) => Err(self.not_there(wanted, |device| is(device, wanted))),
        }
    }

    /// The devices of the node that they must be on, in the order of their nodes' names.
    fn matching(&self, is_it: impl Fn(&HostDevice) -> bool) -> Vec<&HostDevice> {
        self.sorted(|device| is_it(device) && self.is_on_node(device.node()))
    }

    /// The devices in the order of their nodes' names.
    fn sorted(&self, is_it: impl Fn(&HostDevice) -> bool) -> Vec<&HostDevice> {
        let mut there: Vec<&HostDevice> = Vec::new();
        for device in self.devices.iter().map(Rc::as_ref).filter(|device| is_it(device)) {
            there.insert(there.partition_point(|other| other.node() <= device.node()), device);
        }
        there
    }

    fn is_on_node(&self, node: &str) -> bool {
        self.bound.is_none_or(|bound| bound.node == node)
    }

    /// The error for a device that is not on the node, or on no node.
    fn not_there(&self, wanted: &str, is_it: impl Fn(&HostDevice) -> bool) -> HostDevicesError {
        let Bus { name, .. } = self.bus;
        let elsewhere = names_of_nodes(&self.sorted(is_it));
        let look_it_up = format!("look it up under {name} Devices in Harvester");
        let (who, remedy) = match self.bound {
            None => ("no node has a".to_owned(), look_it_up),
            Some(Bound { node, by }) if !elsewhere.is_empty() => (
                format!("the node {node}{by} has no"),
                format!("it is on {elsewhere}, so name that node, or another device"),
            ),
            Some(Bound { node, by }) if matches!(self.context.node(OnlyNode::Named(node)), Ok(None)) => {
                (format!("there is no node {node}{by}, so it has no"), "correct the name of the node".to_owned())
            }
            Some(Bound { node, by }) => (format!("the node {node}{by} has no"), look_it_up),
        };
        HostDevicesError::NotThere { who, device: wanted.to_owned(), remedy, bus: self.bus }
    }

    /// Whether a device is enabled for passthrough.
    pub(super) fn is_enabled(&self, device: &HostDevice) -> bool {
        if !self.bus.claims_enable {
            return device.is_enabled_usb_device();
        }
        let look_up = || self.context.lookups.claim(self.bus.claims, device.name()).ok().flatten();
        self.claims.contains_key(device.name()) || !self.is_complete && look_up().is_some_and(|claim| claim.is_enabled)
    }

    /// Finds the entries that already are the devices. An entry counts for only one device. It matches by the device
    /// that it is named after, or by its resource. An entry that is named after another device does not match, unless
    /// the directive added it: Harvester's controller renames entries after the devices that a VirtualMachine actually got.
    fn find_entries<'v>(&'v self, all: &mut [Candidates<'v>], ours: &[Device<'v>], host_devices: &[Device<'v>]) {
        // KubeVirt also takes a PCI device as a GPU.
        let gpus = self.context.vm.gpus().unwrap_or_default();
        let mut entries = [ours, host_devices, &gpus].concat();
        let is_on_node = |node: &str| self.is_on_node(node);
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
        // Harvester's controller renames an entry only after a device that the VirtualMachine can have.
        let can_be_had =
            |entry: &Device<'_>| !self.is_complete || self.known(entry).is_some_and(|device| self.is_enabled(device));
        let is_of_resource = |entry: &Device<'_>, candidates: &Candidates<'_>| {
            let is_it = |node: &str| ours.contains(entry) && is_on_node(node) && can_be_had(entry);
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
    /// scheduler chooses, because a host device can be any device of its resource. `taken` are the names of devices that
    /// the VirtualMachine has.
    fn node_for<'i>(
        &self,
        all: &[Candidates<'i>],
        taken: &[&str],
        host_devices: &[Device<'_>],
    ) -> Result<Option<&'i str>, HostDevicesError> {
        let (present, missing): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.entry.is_some());
        let Some(first) = missing.first() else {
            return Ok(None);
        };
        let places = || {
            let place = |one: &&Candidates<'_>| format!("{} on {}", one.wanted, names_of_nodes(&one.devices));
            missing.iter().map(place).collect::<Vec<_>>().join("; ")
        };
        let mut nodes: Vec<&str> = first.devices.iter().map(|device| device.node()).collect();
        nodes.dedup();
        nodes.retain(|node| have_all(&missing, node, taken));
        if nodes.is_empty() {
            return Err(HostDevicesError::NoNodeHasAll { devices: places() });
        }
        if let Some(bound) = host_devices.iter().find_map(|entry| self.node_of(entry)) {
            nodes.retain(|node| *node == bound);
            if nodes.is_empty() {
                return Err(HostDevicesError::OtherNode { bound: bound.to_owned(), devices: places() });
            }
        }
        self.retain_allowed(&mut nodes);
        if nodes.is_empty() {
            return Err(HostDevicesError::Excluded { devices: places() });
        }
        // A device that is already there may actually have been assigned on another node, so it only breaks ties.
        if nodes.iter().any(|node| have_all(&present, node, &[])) {
            nodes.retain(|node| have_all(&present, node, &[]));
        }
        for Candidates { wanted, devices, .. } in &missing {
            let is_free = |device: &HostDevice| nodes.contains(&device.node()) && !taken.contains(&device.name());
            let found: Vec<_> = devices.iter().filter(|device| is_free(device)).collect();
            let Some(one) = found.first() else { continue };
            let times = missing.iter().filter(|one| one.wanted == *wanted).count();
            // If the directive asks for all of them, there is nothing to choose.
            let are_all_wanted = nodes.len() == 1 && found.len() == times;
            if found.iter().any(|other| other.resource() != one.resource()) && !are_all_wanted {
                let names =
                    found.iter().take(LISTED).map(|device| format!("{} ({})", device.name(), device.resource()));
                let devices = names.collect::<Vec<_>>().join(", ");
                let (device, name) = ((*wanted).to_owned(), one.name().to_owned());
                return Err(HostDevicesError::Ambiguous { device, devices, name });
            }
        }
        Ok(nodes.first().copied())
    }

    /// Keeps the nodes that the VirtualMachine may run on, as far as they can be looked up.
    fn retain_allowed(&self, nodes: &mut Vec<&str>) {
        let Ok(placement) = self.context.placement() else { return };
        let known = match nodes.as_slice() {
            [] => return,
            [one] => self.context.node(OnlyNode::Named(one)).ok().flatten().into_iter().collect(),
            _ => self.context.lookups.list::<Node>(&NODE).unwrap_or_default(),
        };
        nodes.retain(|name| known.iter().find(|node| node.name() == *name).is_none_or(|node| placement.allows(node)));
    }

    /// What Kubernetes may give instead of the new devices that the directive names, because devices of the same resource
    /// are the same to it. `names` are the names of all devices that the VirtualMachine will have.
    pub(super) fn equal_devices(&self, choices: &[Chosen<'_>], names: &[&str]) -> Option<String> {
        let is_countable = self.bus.is_countable;
        let is_named = |device: &HostDevice| {
            names.contains(&device.name()) || choices.iter().any(|chosen| is(device, chosen.wanted))
        };
        let mut new = choices.iter().filter(|chosen| chosen.entry.is_none() && !is_countable(chosen.wanted));
        new.find_map(|Chosen { device, .. }| {
            let resource = device.resource();
            let listed;
            let all = if self.is_complete {
                self
            } else {
                // The node knows how many devices it has of the resource.
                let node = self.context.node(OnlyNode::Named(device.node())).ok().flatten();
                let count = node.and_then(|node| node.allocatable(resource)?.parse::<usize>().ok());
                if count.is_some_and(|count| count <= 1) {
                    return None;
                }
                let (devices, claims, is_complete) = Default::default();
                let mut all = Inventory { devices, claims, is_complete, ..*self };
                all.add_all().ok()?;
                listed = all;
                &listed
            };
            let equal = |other: &HostDevice| other.resource() == resource && all.is_enabled(other) && !is_named(other);
            let others = all.matching(equal);
            let mut nodes: Vec<&str> = others.iter().map(|other| other.node()).collect();
            nodes.dedup();
            self.retain_allowed(&mut nodes);
            let others = others.iter().filter(|other| nodes.contains(&other.node()));
            let others = text::list(&others.map(|other| other.name()).collect::<Vec<_>>());
            (!others.is_empty()).then(|| {
                format!(
                    "Kubernetes may give the VirtualMachine another device than {}, because {others} has the same resource \
                     {resource}",
                    device.name()
                )
            })
        })
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
    device.name() == wanted || device.address() == Some(wanted) || device.ids() == wanted
}

/// What identifies the device: its PCI address, or its vendor and product.
pub(super) fn key(device: &HostDevice) -> String {
    device.address().map_or_else(|| device.ids(), str::to_owned)
}

/// Whether the node has a device for each, apart from those that are taken.
fn have_all(candidates: &[&Candidates<'_>], node: &str, taken: &[&str]) -> bool {
    let mut taken = taken.to_vec();
    candidates.iter().all(|one| {
        let is_free = |device: &&&HostDevice| device.node() == node && !taken.contains(&device.name());
        let name = one.devices.iter().find(is_free).map(|device| device.name());
        taken.extend(name);
        name.is_some()
    })
}

/// The names of the devices' nodes. The devices must be sorted by node.
fn names_of_nodes(devices: &[&HostDevice]) -> String {
    let mut nodes: Vec<&str> = devices.iter().map(|device| device.node()).collect();
    nodes.dedup();
    text::list(&nodes)
}
