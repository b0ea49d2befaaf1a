//! Chooses a device for each one that a directive asks for.

use super::HostDevicesError;
use super::directive::DirectiveError;
use super::inventory::{Inventory, is, key, names_of_nodes};
use super::names::{object, our_devices};
use crate::cluster::{HostDevice, NODE, Node};
use crate::text;
use crate::values::pci::{PciAddress, PciSelector};
use crate::vm::{Device, OnlyNode};

/// The most devices that a message lists by name.
pub(super) const LISTED: usize = 8;

/// A device that the directive asks for.
pub(super) struct Candidates<'i> {
    pub(super) wanted: &'i str,
    /// The cluster's devices that match it, in the order of their nodes' names. All are enabled for passthrough.
    pub(super) devices: Vec<&'i HostDevice>,
    /// The entry of the VirtualMachine that already is one of them.
    pub(super) entry: Option<Device<'i>>,
    /// Whether the directive did not ask for it before this request.
    pub(super) is_new: bool,
}

/// The cluster's device for one that the directive asks for.
pub(super) struct Chosen<'i> {
    /// The text of the directive.
    pub(super) wanted: &'i str,
    pub(super) device: &'i HostDevice,
    /// The entry of the VirtualMachine that already is this device.
    pub(super) entry: Option<Device<'i>>,
}

impl Inventory<'_> {
    /// Chooses a device for each one that the directive asks for, in the same order. `before` are the texts that it had
    /// before this request.
    ///
    /// # Errors
    /// A device is on no node, or is not enabled for passthrough; a text matches devices of different resources; or no
    /// node has all the devices.
    pub(super) fn choose<'i>(&'i self, wanted: &'i [String], before: &[String]) -> anyhow::Result<Vec<Chosen<'i>>> {
        let ours = our_devices(self.context);
        let choices = self.choose_with(&ours, wanted, before)?;
        let mut nodes = choices.iter().filter_map(|chosen| match &chosen.entry {
            Some(entry) => self.node_of(entry),
            None => Some(chosen.device.node()),
        });
        let first = nodes.next();
        // Devices that were added earlier do not help if the others are on another node.
        if nodes.any(|node| Some(node) != first) && !ours.is_empty() {
            return self.choose_with(&[], wanted, before);
        }
        Ok(choices)
    }

    fn choose_with<'i>(
        &'i self,
        ours: &[Device<'i>],
        wanted: &'i [String],
        before: &[String],
    ) -> anyhow::Result<Vec<Chosen<'i>>> {
        let there = self.context.vm.host_devices_and_gpus()?;
        let mut all = Vec::new();
        for wanted in wanted {
            let resource = wanted.parse().map(PciAddress::device_name);
            if let Some(entry) = there.iter().find(|entry| resource.as_deref() == Ok(entry.resource)) {
                let (entry, address) = (text::list(&[entry.name]), wanted.clone());
                return Err(HostDevicesError::NamedByAddress { entry, address }.into());
            }
            let same = all.iter().find(|one: &&Candidates<'_>| one.wanted == *wanted);
            let devices = same.map_or_else(|| self.candidates(wanted), |same| Ok(same.devices.clone()))?;
            let is_new = !before.contains(wanted);
            // Texts that fewer devices match come first, so that the others do not take their devices.
            let order = |wanted: &str, devices: &[&HostDevice]| ((self.bus.is_countable)(wanted), devices.len());
            let place = order(wanted, &devices);
            let index = all.partition_point(|one: &Candidates<'_>| order(one.wanted, &one.devices) <= place);
            all.insert(index, Candidates { wanted, devices, entry: None, is_new });
        }
        for (index, Candidates { wanted, devices, .. }) in all.iter().enumerate() {
            let [device] = devices.as_slice() else { continue };
            // The same text twice means two devices.
            let mut before = all.iter().take(index).filter(|one| one.devices.len() == 1 && one.wanted != *wanted);
            if before.any(|one| one.devices.iter().any(|other| other.name() == device.name())) {
                return Err(DirectiveError::Duplicate { device: device.name().to_owned() }.into());
            }
        }
        self.find_entries(&mut all, ours, &there);
        Self::find_functions(&mut all, &[ours, &there].concat());
        let mut taken: Vec<&str> = all.iter().filter_map(|one| Some(one.entry?.name)).collect();
        let node = self.node_for(&all, &taken, &there)?;
        let mut choices: Vec<Chosen<'_>> = Vec::new();
        for &Candidates { wanted, ref devices, entry, .. } in &all {
            let is_given = |device: &HostDevice| choices.iter().any(|chosen| chosen.device.name() == device.name());
            // The first device that fits best: `false` comes before `true`. Two entries may have the same name.
            let device = match entry {
                Some(entry) => devices.iter().min_by_key(|device| {
                    (is_given(device), device.name() != entry.name, device.resource() != entry.resource)
                }),
                None => devices
                    .iter()
                    .filter(|device| Some(device.node()) == node && !taken.contains(&device.name()))
                    .min_by_key(|device| is_given(device)),
            };
            taken.extend(device.filter(|_| entry.is_none()).map(|device| device.name()));
            choices.extend(device.map(|device| Chosen { wanted, device, entry }));
        }
        let mut in_order = Vec::new();
        for text in wanted {
            let index = choices.iter().position(|chosen| chosen.wanted == text);
            in_order.extend(index.map(|index| choices.remove(index)));
        }
        Ok(in_order)
    }

    /// The texts of a directive, with those of each function in the place of a text that means all functions of a device.
    ///
    /// # Errors
    /// There is no such device, or the functions are not the same on all nodes that the VirtualMachine may run on.
    pub(super) fn functions(&self, wanted: &[String]) -> Result<Vec<String>, HostDevicesError> {
        let mut functions = Vec::new();
        let ours = our_devices(self.context);
        for text in wanted {
            let Ok(PciSelector::AllFunctions(selected)) = text.parse() else {
                functions.push(text.clone());
                continue;
            };
            let is_selected =
                |address: &str| address.parse().is_ok_and(|it: PciAddress| it.is_of_same_device_as(selected));
            let is_function = |device: &HostDevice| device.address().is_some_and(is_selected);
            let mut found = self.matching(is_function);
            let is_shown = |device: &HostDevice| matches!(self.refusal(device), Ok(None));
            // Without any that the VirtualMachine may have, the first one says why.
            if found.iter().any(|device| is_shown(device)) {
                found.retain(|device| is_shown(device));
            } else {
                found.truncate(1);
            }
            let mut nodes: Vec<&str> = found.iter().map(|device| device.node()).collect();
            nodes.dedup();
            let Some(mut first) = nodes.first().copied() else { return Err(self.not_there(text, is_function)) };
            if nodes.len() > 1 {
                self.retain_allowed(&mut nodes);
                first = nodes.first().copied().unwrap_or(first);
            }
            let on = |node: &str| {
                let devices = found.iter().filter(|device| device.node() == node);
                devices.map(|device| key(device)).collect::<Vec<_>>()
            };
            let of_first = on(first);
            if nodes.iter().any(|node| on(node) != of_first) {
                let devices = found.iter().take(LISTED).map(|device| device.name()).collect::<Vec<_>>().join(", ");
                let name = format!("{first}/{text}");
                return Err(HostDevicesError::Ambiguous { device: text.clone(), devices, name });
            }
            functions.extend(of_first.into_iter().filter(|function| !wanted.contains(function)));
            // A function that the directive added stays wanted until the directive changes, also if it is gone.
            if !self.context.is_requested && self.is_complete {
                let gone = ours.iter().filter(|entry| self.known(entry).is_none());
                let gone = gone.filter_map(|entry| object(entry.name));
                let gone = gone.filter(|(node, address)| *node == first && is_selected(address));
                functions.extend(gone.map(|(_, address)| address).filter(|function| !wanted.contains(function)));
            }
        }
        Ok(functions)
    }

    /// The devices that match, are enabled for passthrough, and that the VirtualMachine may have, in the order of their
    /// nodes' names.
    fn candidates(&self, wanted: &str) -> Result<Vec<&HostDevice>, HostDevicesError> {
        let bus = self.bus;
        let there = self.matching(|device| is(device, wanted));
        let (mut devices, mut refused) = (Vec::new(), None);
        for device in there.iter().copied().filter(|device| self.is_enabled(device)) {
            match self.refusal(device).map_err(|error| HostDevicesError::Lookup { error, bus })? {
                Some(refusal) => refused = refused.or(Some(refusal)),
                None => devices.push(device),
            }
        }
        match (refused, there.is_empty()) {
            _ if !devices.is_empty() => Ok(devices),
            (Some(refusal), _) => Err(refusal.of(wanted, self.node_by_name(), bus, self.context)),
            (None, false) => {
                let nodes = match self.settings.has_rules() {
                    true => self.node_by_name().unwrap_or("any node").to_owned(),
                    false => names_of_nodes(&there),
                };
                Err(HostDevicesError::NotEnabled { device: wanted.to_owned(), nodes, bus })
            }
            (None, true) => Err(self.not_there(wanted, |device| is(device, wanted))),
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
        there: &[Device<'_>],
    ) -> Result<Option<&'i str>, HostDevicesError> {
        let (present, missing): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.entry.is_some());
        let Some(first) = missing.first() else {
            return Ok(None);
        };
        let times = |wanted: &str| all.iter().filter(|one| one.wanted == wanted).count();
        let places = || {
            let place = |(index, one): (usize, &&Candidates<'_>)| {
                let is_listed = missing.iter().take(index).any(|before| before.wanted == one.wanted);
                let times = Some(times(one.wanted)).filter(|times| *times > 1);
                let times = times.map(|times| format!("{times} of ")).unwrap_or_default();
                (!is_listed).then(|| format!("{times}{} on {}", one.wanted, names_of_nodes(&one.devices)))
            };
            missing.iter().enumerate().filter_map(place).collect::<Vec<_>>().join("; ")
        };
        let mut nodes: Vec<&str> = first.devices.iter().map(|device| device.node()).collect();
        nodes.dedup();
        nodes.retain(|node| have_all(&missing, node, taken));
        if nodes.is_empty() {
            return Err(HostDevicesError::NoNodeHasAll { devices: places() });
        }
        if let Some(bound) = there.iter().find_map(|entry| self.node_of(entry)) {
            nodes.retain(|node| *node == bound);
            if nodes.is_empty() {
                return Err(HostDevicesError::OtherNode { bound: bound.to_owned(), devices: places() });
            }
        }
        let ready = self.retain_allowed(&mut nodes);
        if nodes.is_empty() {
            return Err(HostDevicesError::Excluded { devices: places() });
        }
        // Nodes that take no new VirtualMachines count only if there is no other.
        if ready > 0 {
            nodes.truncate(ready);
        }
        if self.settings.has_rules() {
            self.retain_those_with_only_allowed(&mut nodes, all)?;
        }
        // A device that is already there may actually have been assigned on another node, so it only breaks ties.
        if nodes.iter().any(|node| have_all(&present, node, &[])) {
            nodes.retain(|node| have_all(&present, node, &[]));
        }
        self.check_unambiguous(&missing, &nodes, taken)?;
        Ok(nodes.first().copied())
    }

    /// Checks that each text that is missing means devices of only one resource on these nodes.
    fn check_unambiguous(
        &self,
        missing: &[&Candidates<'_>],
        nodes: &[&str],
        taken: &[&str],
    ) -> Result<(), HostDevicesError> {
        let one_each = missing.iter().filter(|one| !(self.bus.is_countable)(one.wanted));
        let named: Vec<(&str, &str)> =
            one_each.flat_map(|one| one.devices.iter().map(|device| (device.name(), one.wanted))).collect();
        for (index, Candidates { wanted, devices, .. }) in missing.iter().enumerate() {
            if missing.iter().take(index).any(|before| before.wanted == *wanted) {
                continue;
            }
            // Another text takes only the device that it names.
            let is_named =
                |device: &HostDevice| named.iter().any(|(name, other)| *name == device.name() && other != wanted);
            let is_free = |device: &HostDevice| {
                nodes.contains(&device.node()) && !taken.contains(&device.name()) && !is_named(device)
            };
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
        Ok(())
    }

    /// Keeps the nodes where the VirtualMachine may have every device that Kubernetes may give it for the texts.
    fn retain_those_with_only_allowed(
        &self,
        nodes: &mut Vec<&str>,
        all: &[Candidates<'_>],
    ) -> Result<(), HostDevicesError> {
        let bus = self.bus;
        let devices = all.iter().flat_map(|one| &one.devices);
        let places: Vec<_> = devices.map(|device| (device.node(), device.resource())).collect();
        let refused = self.refused(&places.iter().map(|(_, resource)| *resource).collect::<Vec<_>>());
        let refused = refused.map_err(|error| HostDevicesError::Lookup { error, bus })?;
        nodes.retain(|node| !places.iter().any(|place| place.0 == *node && refused.contains(place)));
        let wanted: Vec<&str> = all.iter().map(|one| one.wanted).collect();
        if nodes.is_empty() { Err(HostDevicesError::Pool { devices: text::list(&wanted), bus }) } else { Ok(()) }
    }

    /// Keeps the nodes that the VirtualMachine may run on, as far as they can be looked up. Those that take no new
    /// VirtualMachines at the moment come last. Returns how many there are of the others.
    pub(super) fn retain_allowed(&self, nodes: &mut Vec<&str>) -> usize {
        let Ok(placement) = self.context.placement() else { return nodes.len() };
        let known = match nodes.as_slice() {
            [] => return 0,
            [one] => self.context.node(OnlyNode::Named(one)).ok().flatten().into_iter().collect(),
            _ => self.context.lookups.list::<Node>(&NODE).unwrap_or_default(),
        };
        let known = |name: &str| known.iter().find(|node| node.name() == name);
        nodes.retain(|name| known(name).is_none_or(|node| placement.allows(node)));
        let is_ready = |name: &&str| known(name).is_none_or(|node| node.is_ready());
        let (ready, others): (Vec<_>, Vec<_>) = nodes.drain(..).partition(is_ready);
        let count = ready.len();
        nodes.extend(ready.into_iter().chain(others));
        count
    }
}

/// Whether the node has a device for each, apart from those that are taken.
pub(super) fn have_all(candidates: &[&Candidates<'_>], node: &str, taken: &[&str]) -> bool {
    let mut taken = taken.to_vec();
    candidates.iter().all(|one| {
        // The devices are in the order of their nodes.
        let first = one.devices.partition_point(|device| device.node() < node);
        let mut there = one.devices.iter().skip(first).take_while(|device| device.node() == node);
        let name = there.find(|device| !taken.contains(&device.name())).map(|device| device.name());
        taken.extend(name);
        name.is_some()
    })
}
