//! What an update changes about the devices beside those of the policy.

use crate::features::host_devices::{is_pci_device_name, may_have_siblings};
use crate::features::record::Recorded;
use crate::text;
use crate::vm::entries::Entries;
use crate::vm::place::HOST_DEVICE;
use crate::vm::{Device, VirtualMachine};

/// The PCIDevices that somebody removes and adds in an update.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    removed: Vec<String>,
    added: Vec<String>,
}

impl Neighbours {
    /// Compares the VirtualMachine before an update with the one after it. `listed` are the entries that the records list: the
    /// policy added these.
    pub(super) fn between(before: &VirtualMachine, after: &VirtualMachine, listed: &Entries) -> Self {
        let [before, after] = [before, after].map(|vm| vm.host_devices().unwrap_or_default());
        let names = |devices: Vec<&Device<'_>>| devices.into_iter().map(|device| device.name.to_owned()).collect();
        let is_listed = |it: &Device<'_>| listed.count(&HOST_DEVICE.entry(it.name, it.resource)) > 0;
        let is_added = |it: &&Device<'_>| !before.contains(it) && !is_listed(it) && is_pci_device_name(it.name);
        Self {
            removed: names(before.iter().filter(|device| !after.contains(device)).collect()),
            added: names(after.iter().filter(is_added).collect()),
        }
    }

    /// Adds to `beside` the devices that somebody adds in this update.
    pub(super) fn add_to(&self, Recorded { entry, beside }: &mut Recorded) {
        if !self.added.is_empty() && may_have_siblings(entry) {
            let known = unique(beside);
            let new = self.added.iter().filter(|name| known.binary_search(&name.as_str()).is_err());
            let new: Vec<_> = new.cloned().collect();
            beside.extend(new);
        }
    }

    /// Removes from `beside` the devices that this update removes. A name that no device has stays, because it shows that a
    /// device was removed or renamed while the policy could not be called.
    pub(super) fn forget_removed(&self, beside: &mut Vec<String>) {
        let removed = unique(&self.removed);
        beside.retain(|name| removed.binary_search(&name.as_str()).is_err());
    }
}

fn unique(names: &[String]) -> Vec<&str> {
    text::unique(names.iter().map(String::as_str).collect())
}
