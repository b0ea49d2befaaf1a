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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::place::HOST_DEVICE;
    use rstest::rstest;

    const A: &str = "n1-000001000";
    const B: &str = "n1-000002000";
    const C: &str = "n2-000001000";

    /// Devices as `name resource`.
    fn entries(devices: &[(&str, &str)]) -> Vec<Entry> {
        devices.iter().map(|(name, resource)| HOST_DEVICE.entry(name, resource)).collect()
    }

    #[rstest]
    #[case::nothing(&[(A, "gpu")], &[(A, "gpu")], &[], &[A])]
    #[case::renamed(&[(A, "gpu")], &[(B, "gpu")], &[], &[B])]
    #[case::to_another_node(&[(A, "gpu")], &[(C, "gpu")], &[], &[C])]
    #[case::to_a_name_that_is_not_harvesters(&[(A, "gpu")], &[("mine", "gpu")], &[], &[A])]
    #[case::another_resource(&[(A, "gpu")], &[(B, "nic")], &[], &[A, B])]
    #[case::added(&[(A, "gpu")], &[(A, "gpu"), (B, "gpu")], &[], &[A, B])]
    #[case::added_by_the_policy(&[(A, "gpu")], &[(A, "gpu"), (B, "gpu")], &[(B, "gpu")], &[A])]
    #[case::added_under_another_name_than_harvesters(&[(A, "gpu")], &[(A, "gpu"), ("mine", "gpu")], &[], &[A])]
    #[case::renamed_and_added(&[(A, "gpu")], &[(B, "gpu"), (C, "gpu")], &[], &[B, C])]
    #[case::removed(&[(A, "gpu"), (B, "gpu")], &[(B, "gpu")], &[], &[A])]
    #[case::swapped(&[(A, "gpu"), (B, "gpu")], &[(B, "gpu"), (A, "gpu")], &[], &[A])]
    fn what_is_beside_follows(
        #[case] before: &[(&str, &str)],
        #[case] after: &[(&str, &str)],
        #[case] listed: &[(&str, &str)],
        #[case] beside: &[&str],
    ) {
        let renames = Renames::between(&entries(before), &entries(after), &entries(listed).into_iter().collect());
        let recorded = Recorded { entry: HOST_DEVICE.entry("n1-000009000", "card"), beside: vec![A.to_owned()] };
        assert_eq!(renames.follow(recorded).beside, beside);
    }
}
