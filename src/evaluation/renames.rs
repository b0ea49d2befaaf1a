//! What an update does to the PCI devices of a VirtualMachine.

use std::collections::BTreeMap;

use crate::features::host_devices::is_pci_device;
use crate::features::record::Recorded;
use crate::vm::entries::Entries;
use crate::vm::entry::Entry;

/// The PCIDevices that an update renames, and those that somebody adds in it. Harvester's controller names host devices
/// after the PCIDevices that a VirtualMachine actually got, which changes neither their number nor their resources. So a
/// device counts as renamed if another one of its resource is gone. Source: `harvester/pcidevices`,
/// `pkg/controller/virtualmachine/virtualmachine.go`, `patchHostDevices`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Renames {
    /// The new names by the old ones.
    renamed: BTreeMap<String, String>,
    added: Vec<String>,
}

impl Renames {
    /// Compares the host devices before an update with those after it. `listed` are the entries that the records list: the
    /// policy added these.
    pub(super) fn between(before: &[Entry], after: &[Entry], listed: &Entries) -> Self {
        let mut gone: Vec<&Entry> = before.iter().filter(|entry| is_pci_device(entry)).collect();
        let mut new = Vec::new();
        for entry in after.iter().filter(|entry| is_pci_device(entry)) {
            match gone.iter().position(|before| *before == entry) {
                Some(index) => drop(gone.remove(index)),
                None => new.push(entry),
            }
        }
        let mut renames = Self::default();
        for entry in new {
            let name = entry.name.clone();
            match gone.iter().position(|before| before.is_of_same_resource_as(entry)) {
                Some(index) => drop(renames.renamed.insert(gone.remove(index).name.clone(), name)),
                None if listed.count(entry) == 0 => renames.added.push(name),
                None => {}
            }
        }
        renames
    }

    /// An item of the record with the devices that are beside it after the update: those that were, under their new names,
    /// and those that somebody added.
    pub(super) fn follow(&self, mut recorded: Recorded) -> Recorded {
        for name in &mut recorded.beside {
            if let Some(new) = self.renamed.get(name) {
                name.clone_from(new);
            }
        }
        let Recorded { beside, .. } = &mut recorded;
        let new: Vec<_> = self.added.iter().filter(|name| !beside.contains(name)).cloned().collect();
        beside.extend(new);
        recorded
    }
}
