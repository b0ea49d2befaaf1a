//! What an update changes about the devices beside those of the policy.

use crate::features::host_devices::is_pci_device;
use crate::features::record::Recorded;
use crate::vm::entries::Entries;
use crate::vm::entry::Entry;

/// The PCIDevices that somebody removes and adds in an update.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    removed: Vec<String>,
    added: Vec<String>,
}

impl Neighbours {
    /// Compares the host devices before an update with those after it. `listed` are the entries that the records list: the
    /// policy added these.
    pub(super) fn between(before: &[Entry], after: &[Entry], listed: &Entries) -> Self {
        let names = |entries: Vec<&Entry>| entries.into_iter().map(|entry| entry.name.clone()).collect();
        let is_added = |entry: &&Entry| !before.contains(entry) && listed.count(entry) == 0 && is_pci_device(entry);
        Self {
            removed: names(before.iter().filter(|entry| !after.contains(entry)).collect()),
            added: names(after.iter().filter(is_added).collect()),
        }
    }

    /// Writes those beside an item of the record that are beside it after the update. A name of no device stays: somebody
    /// removed or renamed the device while the policy could not be called.
    pub(super) fn update(&self, Recorded { entry, beside }: &mut Recorded) {
        self.leave(beside);
        let new = self.added.iter().filter(|name| is_pci_device(entry) && !beside.contains(name));
        let new: Vec<_> = new.cloned().collect();
        beside.extend(new);
    }

    /// Leaves only the names of devices that are not removed.
    pub(super) fn leave(&self, beside: &mut Vec<String>) {
        beside.retain(|name| !self.removed.contains(name));
    }
}
