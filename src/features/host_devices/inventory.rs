//! Harvester's names for devices: the host device has the name of a PCIDevice or USBDevice and the resource that it stands for.

use super::directive::Devices;
use super::{DeviceKind, HostDevicesError, object, object_name, our_devices};
use crate::cluster::{Claim, ClusterError, HostDevice, LookupError};
use crate::features::{Context, Failure};
use crate::kinds::pci::PciAddress;
use crate::text;
use crate::vm::Device;

/// The most devices that a message lists.
const LISTED: usize = 8;

/// The cluster's devices of a kind, as far as they matter to a VirtualMachine.
pub(super) struct Inventory<'n> {
    pub(super) kind: &'static DeviceKind,
    devices: Vec<HostDevice>,
    /// The claims, where these tell which devices are passed through.
    claims: Vec<Claim>,
    /// The one node that counts.
    node: Option<&'n str>,
}

/// A device that is asked for, and those that it may be: all are enabled for passthrough.
type Candidates<'i> = (&'i str, Vec<&'i HostDevice>);

/// Whether an entry is a device that is asked for.
type Rule<'r> = &'r dyn Fn(&Device<'_>, &Candidates<'_>) -> bool;

/// The device for one that is asked for.
pub(super) struct Choice<'i> {
    pub(super) device: &'i HostDevice,
    /// The entry of the VirtualMachine's that is it already.
    pub(super) entry: Option<Device<'i>>,
}

impl<'n> Inventory<'n> {
    /// Looks up the devices. Where the node is known, they are looked up one by one, which needs the fewest rights. An update
    /// needs the list: Harvester adds the devices that must go along by itself only to a new VirtualMachine.
    pub(super) fn look_up(
        kind: &'static DeviceKind,
        devices: &Devices,
        node: Option<&'n str>,
        context: &Context<'_>,
    ) -> Result<Self, LookupError> {
        let names = || {
            let names = devices.list.iter().map(|device| object_name(node?, device));
            names.collect::<Option<Vec<_>>>()
        };
        let inventory = |names: Option<Vec<String>>| match names {
            Some(names) => Self::of_names(kind, names, node, context),
            None => Self::of_all(kind, devices, node, context),
        };
        match inventory(names().filter(|_| context.old.is_none())) {
            // What cannot be listed may still be read by its name.
            Err(error) if !error.is_temporary() => match names() {
                Some(names) => Self::of_names(kind, names, node, context),
                None => Err(error),
            },
            result => result,
        }
    }

    /// Looks up the devices that are asked for, on all nodes.
    fn of_all(
        kind: &'static DeviceKind,
        devices: &Devices,
        node: Option<&'n str>,
        context: &Context<'_>,
    ) -> Result<Self, LookupError> {
        // Harvester makes the names of PCI devices and of their claims of the node's name and the address. Nothing in a USB
        // device is vendor:product, but USB devices are few.
        let text = |device: &String| device.parse().map(PciAddress::compact).unwrap_or_default();
        let texts: Vec<String> = devices.list.iter().map(text).collect();
        let devices = context.lookups.list_with(kind.objects, &texts)?;
        let claims = if kind.is_pci { context.lookups.list_with(kind.claims, &texts)? } else { Vec::new() };
        Ok(Self { kind, devices, claims, node })
    }

    fn of_names(
        kind: &'static DeviceKind,
        names: Vec<String>,
        node: Option<&'n str>,
        context: &Context<'_>,
    ) -> Result<Self, LookupError> {
        let mut inventory = Self { kind, devices: Vec::new(), claims: Vec::new(), node };
        for name in names {
            match context.lookups.device(kind.objects, &name) {
                Ok(device) => inventory.devices.push(device),
                Err(error) if error.cause == ClusterError::NotFound => continue,
                Err(error) => return Err(error),
            }
            if kind.is_pci {
                inventory.claims.extend(context.lookups.claim(kind.claims, &name)?);
            }
        }
        Ok(inventory)
    }

    /// Chooses a device for each that is asked for, in their order.
    ///
    /// # Errors
    /// A device that no node has, or that is not enabled for passthrough; one that stands for different devices; devices of
    /// which no node has all.
    pub(super) fn choose<'i>(
        &'i self,
        devices: &'i Devices,
        context: &'i Context<'_>,
    ) -> Result<Vec<Choice<'i>>, Failure> {
        let ours = our_devices(context);
        let choices = self.choose_with(&ours, devices, context)?;
        let mut nodes = choices.iter().map(|choice| match &choice.entry {
            Some(entry) => self.node_of(entry),
            None => Some(choice.device.node.as_str()),
        });
        let first = nodes.find_map(|node| node);
        // Devices that were added earlier do not help where the rest are on another node.
        if nodes.flatten().any(|node| Some(node) != first) && !ours.is_empty() {
            return self.choose_with(&[], devices, context);
        }
        Ok(choices)
    }

    fn choose_with<'i>(
        &'i self,
        ours: &[Device<'i>],
        devices: &'i Devices,
        context: &'i Context<'_>,
    ) -> Result<Vec<Choice<'i>>, Failure> {
        let host_devices = context.vm.host_devices()?;
        let candidates = devices.list.iter().map(|device| {
            let resource = device.parse().map(PciAddress::device_name);
            match host_devices.iter().find(|entry| resource.as_deref() == Ok(entry.resource)) {
                Some(entry) => {
                    let (entry, address) = (text::list(&mut [entry.name].into_iter()), device.clone());
                    Err(HostDevicesError::NamedByAddress { entry, address })
                }
                None => Ok((device.as_str(), self.candidates(device)?)),
            }
        });
        let candidates: Vec<Candidates<'_>> = candidates.collect::<Result<_, HostDevicesError>>()?;
        let there = self.already_there(&candidates, ours, &host_devices);
        let (present, missing): (Vec<_>, Vec<_>) =
            candidates.iter().zip(&there).partition(|(_, there)| there.is_some());
        let present: Vec<_> = present.into_iter().map(|(candidates, _)| candidates).collect();
        let missing: Vec<_> = missing.into_iter().map(|(candidates, _)| candidates).collect();
        let node = self.node_for(&missing, &present, &host_devices)?;
        let choices = candidates.iter().zip(there).filter_map(|((_, candidates), entry)| {
            let find = |is_it: &dyn Fn(&HostDevice) -> bool| candidates.iter().find(|device| is_it(device));
            let device = match &entry {
                Some(entry) => find(&|device| device.name == entry.name)
                    .or_else(|| find(&|device| device.resource_name == entry.resource)),
                None => find(&|device| device.node == node),
            };
            let device = device.or(candidates.first())?;
            Some(Choice { device, entry })
        });
        Ok(choices.collect())
    }

    /// The name of who claimed a device; empty where the claim does not say.
    pub(super) fn owner(&self, device: &HostDevice, context: &Context<'_>) -> Result<String, LookupError> {
        match self.claims.iter().find(|claim| claim.name == device.name) {
            Some(claim) => Ok(claim.user.clone()),
            None => {
                let claim = context.lookups.claim(self.kind.claims, &device.name)?;
                Ok(claim.map(|claim| claim.user).unwrap_or_default())
            }
        }
    }

    /// The devices that the one may be, by the names of their nodes.
    fn candidates(&self, device: &str) -> Result<Vec<&HostDevice>, HostDevicesError> {
        let of_node = |device: &&HostDevice| self.node.is_none_or(|node| device.node == node);
        let mut there: Vec<&HostDevice> = Vec::new();
        for found in self.devices.iter().filter(|found| is(found, device)).filter(of_node) {
            let place = there.partition_point(|other| other.node <= found.node);
            there.insert(place, found);
        }
        let nodes = names_of_nodes(&there);
        there.retain(|device| self.is_enabled(device));
        let (device, kind) = (device.to_owned(), self.kind);
        if !there.is_empty() {
            return Ok(there);
        }
        Err(if nodes.is_empty() {
            let who = self.node.map_or("no node has a".to_owned(), |node| format!("the node {node} has no"));
            HostDevicesError::NotThere { who, device, kind }
        } else {
            HostDevicesError::NotEnabled { device, nodes, kind }
        })
    }

    fn is_enabled(&self, device: &HostDevice) -> bool {
        (device.is_enabled && !self.kind.is_pci)
            || self.claims.iter().any(|claim| claim.is_on && claim.name == device.name)
    }

    /// The entries that are the devices already. An entry counts for one device only: by what the device is that it is named
    /// after, or by its resource. An entry that is named after another device is another one, unless the directive added it:
    /// Harvester's controller names entries anew after the devices that a VirtualMachine was really given.
    fn already_there<'v>(
        &self,
        candidates: &[Candidates<'_>],
        ours: &[Device<'v>],
        host_devices: &[Device<'v>],
    ) -> Vec<Option<Device<'v>>> {
        let mut entries = [ours, host_devices].concat();
        let mut there = vec![None; candidates.len()];
        let is_on_node = |node: &str| self.node.is_none_or(|wanted| wanted == node);
        let by_name = |entry: &Device<'_>, (wanted, _): &Candidates<'_>| {
            self.is_named_after(entry, wanted) && self.node_of(entry).is_some_and(is_on_node)
        };
        let by_resource = |entry: &Device<'_>, (_, devices): &Candidates<'_>| {
            let is_it = |node: &str| ours.contains(entry) && is_on_node(node);
            self.node_of(entry).is_none_or(is_it) && devices.iter().any(|device| device.resource_name == entry.resource)
        };
        for rule in [&by_name as Rule<'_>, &by_resource] {
            for (candidate, there) in candidates.iter().zip(&mut there).filter(|(_, there)| there.is_none()) {
                if let Some(index) = entries.iter().position(|entry| rule(entry, candidate)) {
                    *there = Some(entries.remove(index));
                }
            }
        }
        there
    }

    /// The first node that has all the missing devices. Harvester refuses a VirtualMachine with devices of two nodes,
    /// so where it has one already, only that node counts. Several nodes will do if they have the same devices: then
    /// the scheduler chooses, as a host device stands for any device of its resource.
    fn node_for<'i>(
        &self,
        missing: &[&Candidates<'i>],
        present: &[&Candidates<'i>],
        host_devices: &[Device<'_>],
    ) -> Result<&'i str, HostDevicesError> {
        let Some((_, first)) = missing.first() else {
            return Ok("");
        };
        let places = || {
            let place = |(device, found): &&Candidates<'_>| format!("{device} on {}", names_of_nodes(found));
            missing.iter().map(place).collect::<Vec<_>>().join("; ")
        };
        let mut nodes: Vec<&str> = first.iter().map(|device| device.node.as_str()).collect();
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
        // A device that is there may have been given elsewhere, so it only helps to choose.
        if nodes.iter().any(|node| have_all(present, node)) {
            nodes.retain(|node| have_all(present, node));
        }
        for (device, found) in missing {
            let found = || found.iter().filter(|device| nodes.contains(&device.node.as_str()));
            let Some(one) = found().next() else { continue };
            if found().any(|other| other.resource_name != one.resource_name) {
                let names = found().take(LISTED).map(|device| format!("{} ({})", device.name, device.resource_name));
                let devices = names.collect::<Vec<_>>().join(", ");
                let (device, name) = ((*device).to_owned(), one.name.clone());
                return Err(HostDevicesError::Ambiguous { device, devices, name });
            }
        }
        Ok(nodes.first().copied().unwrap_or_default())
    }

    fn known(&self, entry: &Device<'_>) -> Option<&HostDevice> {
        self.devices.iter().find(|device| device.name == entry.name)
    }

    /// Whether an entry is named after a device that is asked for. The name of a PCI device says so even where it was not looked
    /// up; one of a USB device may be of one that is gone.
    fn is_named_after(&self, entry: &Device<'_>, wanted: &str) -> bool {
        match self.known(entry) {
            Some(device) => is(device, wanted),
            None => self.kind.is_pci && object(entry.name).is_some_and(|(_, device)| device == wanted),
        }
    }

    /// The node of the device that an entry is named after, looked up or not.
    fn node_of<'p>(&'p self, entry: &Device<'p>) -> Option<&'p str> {
        match self.known(entry) {
            Some(device) => Some(&device.node),
            None => object(entry.name).map(|(node, _)| node),
        }
    }
}

/// Whether a device is the one that is asked for, or one of those.
fn is(device: &HostDevice, wanted: &str) -> bool {
    key(device) == wanted || device.name == wanted
}

/// What the device is: its address, or vendor and product.
pub(super) fn key(device: &HostDevice) -> &str {
    if device.address.is_empty() { &device.ids } else { &device.address }
}

fn have_all(candidates: &[&Candidates<'_>], node: &str) -> bool {
    candidates.iter().all(|(_, devices)| devices.iter().any(|device| device.node == node))
}

/// The names of the devices' nodes, which are in order.
fn names_of_nodes(devices: &[&HostDevice]) -> String {
    let mut last = "";
    let nodes = devices.iter().map(|device| device.node.as_str());
    text::list(&mut nodes.filter(|node| std::mem::replace(&mut last, node) != *node))
}
