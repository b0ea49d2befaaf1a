//! Finds the entries of the VirtualMachine that already are the devices that a directive asks for.

use super::choice::Candidates;
use super::inventory::{Inventory, is};
use super::names::object;
use crate::cluster::HostDevice;
use crate::vm::Device;

/// A device that the VirtualMachine has, or had before this request.
struct Present<'v> {
    entry: Device<'v>,
    /// The device that it is named after, if the cluster has it.
    device: Option<&'v HostDevice>,
    /// The address, or vendor and product, in its name, if the cluster does not have that device.
    address: Option<String>,
    node: Option<&'v str>,
    /// Whether the directive added it.
    is_ours: bool,
    /// Whether it can be the device that it is named after.
    tells_device: bool,
    /// Whether Harvester's controller may have given it this name.
    may_be_renamed: bool,
}

impl Present<'_> {
    /// Whether it is named after one of the candidates.
    fn is_named_after(&self, one: &Candidates<'_>) -> bool {
        let is_it = match self.device {
            Some(device) => is(device, one.wanted),
            None => self.address.as_deref() == Some(one.wanted),
        };
        self.tells_device && is_it
    }
}

impl Inventory<'_> {
    /// Finds the entries that already are the devices. An entry counts for only one device. It matches by the device
    /// that it is named after, or by its resource. An entry that is named after another device matches only if Harvester's
    /// controller may have renamed it: the directive asked for the device before this request, and either added the entry or
    /// used one that the user had written.
    pub(super) fn find_entries<'v>(&'v self, all: &mut [Candidates<'v>], ours: &[Device<'v>], there: &[Device<'v>]) {
        let before = self.context.renamed.and_then(|vm| vm.host_devices_and_gpus().ok()).unwrap_or_default();
        let read = |entries: &[Device<'v>]| -> Vec<Present<'v>> {
            entries.iter().map(|entry| self.present(entry, ours.contains(entry), before.contains(entry))).collect()
        };
        let read_before: Vec<Present<'_>> =
            before.iter().map(|entry| self.present(entry, ours.contains(entry), true)).collect();
        for entries in [ours, there] {
            let mut entries = read(entries);
            for one in all.iter_mut().filter(|one| one.entry.is_none()) {
                let index = entries.iter().position(|entry| entry.is_named_after(one));
                one.entry = index.map(|index| entries.remove(index).entry);
            }
            for one in all.iter_mut().filter(|one| one.entry.is_none()) {
                let mut resources: Vec<&str> = one.devices.iter().map(|device| device.resource()).collect();
                resources.dedup();
                let is_lost =
                    !one.is_new && !self.context.has_lost && !read_before.iter().any(|entry| entry.is_named_after(one));
                let is_renamed = |entry: &Present<'_>| if entry.is_ours { !one.is_new } else { is_lost };
                let is_it = |entry: &Present<'_>| {
                    resources.contains(&entry.entry.resource)
                        && (entry.node.is_none() || entry.may_be_renamed && is_renamed(entry))
                };
                let index = entries.iter().position(is_it);
                one.entry = index.map(|index| entries.remove(index).entry);
            }
        }
    }

    /// Reads an entry once, because it is compared with each device that the directive asks for.
    fn present<'v>(&'v self, entry: &Device<'v>, is_ours: bool, was_there: bool) -> Present<'v> {
        let device = self.known(entry);
        let object = object(entry.name);
        let node = self.node_of(entry);
        let is_on_node = node.is_some_and(|node| self.is_on_node(node));
        // An entry for a device that the VirtualMachine may not have is never taken for one that it may have.
        let may_be_had = device.is_some_and(|device| matches!(self.refusal(device), Ok(None)));
        let is_current = |device: &HostDevice| device.resource() == entry.resource && self.is_enabled(device);
        // An entry that the directive added gives way if its device is gone or not enabled any more, or has another resource.
        // The name of a PCI device tells the device even if that was not looked up. The name of a USB device does not,
        // because the device may have been unplugged.
        let tells_device = match device {
            Some(device) => may_be_had && (!is_ours || is_current(device)),
            None => self.bus.name_is_address && !(self.is_complete && is_ours),
        };
        // Harvester's controller renames an entry only after a device of its resource that the VirtualMachine can have.
        let can_be_had = !self.is_complete || may_be_had && device.is_some_and(is_current);
        Present {
            entry: *entry,
            device,
            address: object.map(|(_, address)| address).filter(|_| device.is_none()),
            node,
            is_ours,
            tells_device: is_on_node && tells_device,
            may_be_renamed: is_on_node && can_be_had && (is_ours || was_there),
        }
    }

    /// Finds the entries of other functions of a card that was renamed.
    pub(super) fn find_functions<'v>(all: &mut [Candidates<'v>], entries: &[Device<'v>]) {
        let renamed = |one: &Candidates<'v>| {
            let entry = one.entry.filter(|entry| one.devices.iter().all(|device| device.name() != entry.name))?;
            let (slot, function) = one.wanted.rsplit_once('.')?;
            Some((slot, entry.name.strip_suffix(function)?))
        };
        let renamed: Vec<(&str, &str)> = all.iter().filter_map(renamed).collect();
        for one in all.iter_mut().filter(|one| one.entry.is_none()) {
            let Some((slot, function)) = one.wanted.rsplit_once('.') else { continue };
            let Some((_, other)) = renamed.iter().find(|(before, _)| *before == slot) else { continue };
            let is_it = |entry: &&Device<'v>| entry.name.strip_prefix(*other) == Some(function);
            let is_of_resource = |entry: &&Device<'v>| one.devices.iter().any(|it| it.resource() == entry.resource);
            one.entry = entries.iter().filter(is_it).find(is_of_resource).copied();
        }
    }
}
