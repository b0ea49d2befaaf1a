//! Harvester's names for PCI devices: the host device has the name of a PCIDevice and the resource that it stands for.

use super::directive::Devices;
use super::{Context, Failure, PciPassthroughError, our_devices};
use crate::cluster::{ClusterError, Lookups, PciDevice, PciDeviceClaim};
use crate::kinds::pci::PciAddress;
use crate::text;
use crate::vm::Device;

/// The cluster's PCI devices, as far as they matter to a VirtualMachine.
pub(super) struct Inventory<'n> {
    devices: Vec<PciDevice>,
    /// The claims of those that are claimed for passthrough.
    claims: Vec<PciDeviceClaim>,
    /// The one node that counts.
    node: Option<&'n str>,
}

/// An address, and the claimed devices that are at it.
type Candidates<'i> = (PciAddress, Vec<&'i PciDevice>);

/// The device for an address.
pub(super) struct Choice<'i> {
    pub(super) address: PciAddress,
    pub(super) device: &'i PciDevice,
    /// The entry of the VirtualMachine's that is it already.
    pub(super) entry: Option<Device<'i>>,
}

impl<'n> Inventory<'n> {
    /// Looks up the devices at the addresses on all nodes, and those that the entries are named after.
    pub(super) fn of_all(
        node: Option<&'n str>,
        addresses: &[PciAddress],
        entries: &[Device<'_>],
        lookups: &Lookups<'_>,
    ) -> Result<Self, PciPassthroughError> {
        // Harvester makes the names of devices and claims of the node's name and the address.
        let addresses: Vec<String> = addresses.iter().map(|address| address.compact()).collect();
        let mut texts: Vec<&str> = addresses.iter().map(String::as_str).collect();
        texts.extend(entries.iter().map(|entry| entry.name));
        let devices = lookups.list_with(&texts).map_err(PciPassthroughError::Lookup)?;
        let mut claims: Vec<PciDeviceClaim> = lookups.list_with(&texts).map_err(PciPassthroughError::Lookup)?;
        claims.retain(|claim| claim.is_on);
        Ok(Self { devices, claims, node })
    }

    /// Looks up the devices at the addresses on one node, by their names.
    pub(super) fn of_node(
        node: &'n str,
        addresses: &[PciAddress],
        lookups: &Lookups<'_>,
    ) -> Result<Self, PciPassthroughError> {
        let mut inventory = Self { devices: Vec::new(), claims: Vec::new(), node: Some(node) };
        for address in addresses {
            let name = format!("{node}-{}", address.compact());
            match lookups.pci_device(&name) {
                Ok(device) => inventory.devices.push(device),
                Err(error) if error.cause == ClusterError::NotFound => continue,
                Err(error) => return Err(PciPassthroughError::Lookup(error)),
            }
            inventory.claims.extend(lookups.claim(&name).map_err(PciPassthroughError::Lookup)?);
        }
        Ok(inventory)
    }

    /// Chooses a device for each address, in their order.
    ///
    /// # Errors
    /// An address that no node has, or that nobody has claimed; one that stands for different devices on different
    /// nodes; devices of which no node has all.
    pub(super) fn choose<'i>(
        &'i self,
        devices: &Devices,
        context: &'i Context<'_>,
    ) -> Result<Vec<Choice<'i>>, Failure> {
        let ours = our_devices(context);
        let choices = self.choose_with(&ours, devices, context)?;
        let mut nodes = choices.iter().map(|choice| match &choice.entry {
            Some(entry) => self.place(entry).map(|(node, _)| node),
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
        devices: &Devices,
        context: &'i Context<'_>,
    ) -> Result<Vec<Choice<'i>>, Failure> {
        let host_devices = context.vm.host_devices()?;
        let mut candidates = Vec::new();
        for address in &devices.addresses {
            let resource = address.device_name();
            if let Some(entry) = host_devices.iter().find(|d| d.resource == resource) {
                let (entry, address) = (text::list([entry.name]), *address);
                return Err(PciPassthroughError::NamedByAddress { entry, address }.into());
            }
            candidates.push((*address, self.candidates(*address)?));
        }
        let there = self.already_there(&candidates, ours, &host_devices);
        let (present, missing): (Vec<_>, Vec<_>) =
            candidates.iter().zip(&there).partition(|(_, there)| there.is_some());
        let present: Vec<_> = present.into_iter().map(|(candidates, _)| candidates).collect();
        let missing: Vec<_> = missing.into_iter().map(|(candidates, _)| candidates).collect();
        let node = self.node_for(&missing, &present, &host_devices)?;
        let choices = candidates.iter().zip(there).filter_map(|((address, candidates), entry)| {
            let is_missing = entry.is_none();
            let on_node = candidates.iter().find(|device| is_missing && device.node == node);
            let device = on_node.or(candidates.first())?;
            Some(Choice { address: *address, device, entry })
        });
        Ok(choices.collect())
    }

    /// The name of who claimed a device; empty where the claim does not say.
    pub(super) fn owner(&self, device: &PciDevice) -> &str {
        let claim = self.claims.iter().find(|claim| claim.name == device.name);
        claim.map(|claim| claim.user.as_str()).unwrap_or_default()
    }

    /// The devices that can only be passed through together with those chosen, and are not among them. Where devices cannot
    /// be listed, none.
    pub(super) fn siblings(choices: &[Choice<'_>], lookups: &Lookups<'_>) -> String {
        let nodes: Vec<&str> = choices.iter().map(|choice| choice.device.node.as_str()).collect();
        let devices: Vec<PciDevice> = lookups.list_with(&nodes).unwrap_or_default();
        let shares_group = |device: &PciDevice| {
            !device.iommu_group.is_empty()
                && choices
                    .iter()
                    .any(|choice| choice.device.node == device.node && choice.device.iommu_group == device.iommu_group)
        };
        let is_chosen = |device: &PciDevice| choices.iter().any(|c| c.device.name == device.name);
        let siblings = devices.iter().filter(|device| shares_group(device) && !is_chosen(device));
        text::list(siblings.map(|device| device.name.as_str()))
    }

    /// The claimed devices at the address, by the names of their nodes.
    fn candidates(&self, address: PciAddress) -> Result<Vec<&PciDevice>, PciPassthroughError> {
        let of_node = |device: &&PciDevice| self.node.is_none_or(|node| device.node == node);
        let mut there: Vec<&PciDevice> = Vec::new();
        for device in self.devices.iter().filter(|device| device.address == Some(address)).filter(of_node) {
            let place = there.partition_point(|other| other.node < device.node);
            there.insert(place, device);
        }
        let nodes = names_of_nodes(&there);
        there.retain(|device| self.claims.iter().any(|claim| claim.name == device.name));
        match self.node {
            _ if !there.is_empty() => Ok(there),
            _ if !nodes.is_empty() => Err(PciPassthroughError::Unclaimed { address, nodes }),
            Some(node) => Err(PciPassthroughError::NotOnNode { address, node: node.to_owned() }),
            None => Err(PciPassthroughError::Nowhere { address }),
        }
    }

    /// The entries that are the devices already. An entry counts for one address only: by the address of the device
    /// that it is named after, or by its resource. An entry that is named after another PCIDevice is another device, unless
    /// the directive added it: Harvester's controller names entries anew after the devices that a VirtualMachine was really
    /// given.
    fn already_there<'v>(
        &self,
        candidates: &[Candidates<'_>],
        ours: &[Device<'v>],
        host_devices: &[Device<'v>],
    ) -> Vec<Option<Device<'v>>> {
        let mut entries = [ours, host_devices].concat();
        let mut there = vec![None; candidates.len()];
        let by_address = |entry: &Device<'_>, (address, _): &Candidates<'_>| {
            self.place(entry)
                .is_some_and(|(node, place)| place == *address && self.node.is_none_or(|wanted| wanted == node))
        };
        let by_resource = |entry: &Device<'_>, (_, devices): &Candidates<'_>| {
            let is_it = |(node, _): (&str, _)| ours.contains(entry) && self.node.is_none_or(|wanted| wanted == node);
            self.place(entry).is_none_or(is_it) && devices.iter().any(|device| device.resource_name == entry.resource)
        };
        take(&mut entries, candidates, &mut there, by_address);
        take(&mut entries, candidates, &mut there, by_resource);
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
    ) -> Result<&'i str, PciPassthroughError> {
        let Some((_, first)) = missing.first() else {
            return Ok("");
        };
        let places = || {
            let place = |(address, devices): &&Candidates<'_>| format!("{address} on {}", names_of_nodes(devices));
            missing.iter().map(place).collect::<Vec<_>>().join("; ")
        };
        let mut nodes: Vec<&str> = first.iter().map(|device| device.node.as_str()).collect();
        nodes.retain(|node| have_all(missing, node));
        if nodes.is_empty() {
            return Err(PciPassthroughError::NoNodeHasAll { devices: places() });
        }
        if let Some((bound, _)) = host_devices.iter().find_map(|entry| self.place(entry)) {
            nodes.retain(|node| *node == bound);
            if nodes.is_empty() {
                let bound = bound.to_owned();
                return Err(PciPassthroughError::OtherNode { bound, devices: places() });
            }
        }
        // A device that is there may have been given elsewhere, so it only helps to choose.
        if nodes.iter().any(|node| have_all(present, node)) {
            nodes.retain(|node| have_all(present, node));
        }
        for (address, devices) in missing {
            let mut devices = devices.iter().filter(|device| nodes.contains(&device.node.as_str()));
            let Some(one) = devices.next() else { continue };
            if let Some(other) = devices.find(|other| other.resource_name != one.resource_name) {
                return Err(PciPassthroughError::Ambiguous {
                    address: *address,
                    first: format!("{} on {}", one.resource_name, one.node),
                    second: format!("{} on {}", other.resource_name, other.node),
                    node: one.node.clone(),
                });
            }
        }
        Ok(nodes.first().copied().unwrap_or_default())
    }

    /// Node and address of the PCIDevice that an entry is named after, looked up or not.
    fn place<'p>(&'p self, entry: &Device<'p>) -> Option<(&'p str, PciAddress)> {
        match self.devices.iter().find(|device| device.name == entry.name) {
            Some(device) => Some((&device.node, device.address?)),
            None => PciAddress::of_pci_device(entry.name),
        }
    }
}

/// Takes an entry for each address that has none and for which the rule finds one.
fn take<'v>(
    entries: &mut Vec<Device<'v>>,
    candidates: &[Candidates<'_>],
    there: &mut [Option<Device<'v>>],
    rule: impl Fn(&Device<'_>, &Candidates<'_>) -> bool,
) {
    for (candidate, there) in candidates.iter().zip(there).filter(|(_, there)| there.is_none()) {
        if let Some(index) = entries.iter().position(|entry| rule(entry, candidate)) {
            *there = Some(entries.remove(index));
        }
    }
}

fn have_all(candidates: &[&Candidates<'_>], node: &str) -> bool {
    candidates.iter().all(|(_, devices)| devices.iter().any(|device| device.node == node))
}

fn names_of_nodes(devices: &[&PciDevice]) -> String {
    text::list(devices.iter().map(|device| device.node.as_str()))
}
