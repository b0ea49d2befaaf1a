//! Harvester's renames. When a VirtualMachine stops, Harvester's controller names its host devices and GPUs after the
//! PCIDevices that it actually got. Their number, order and resources stay. Source: `harvester/pcidevices`,
//! `pkg/controller/virtualmachine/virtualmachine.go`, `patchHostDevices`.

use std::collections::BTreeMap;

use super::Old;
use crate::features::host_devices::is_pci_device;
use crate::features::record::{Record, Recorded};
use crate::features::vbios_injection::with_new_names;
use crate::vm::entry::Entry;
use crate::vm::place::{GPU, HOOK_SIDECAR, HOST_DEVICE, Place};
use crate::vm::{Device, ShapeError, VirtualMachine};

/// If an update only renames devices, makes the VirtualMachine before it look as if they always had their new names: its
/// devices, both records, and the sidecars. An earlier evaluation of this request may have written the record and the sidecar
/// already. If the new record lists something else, the policy itself changed the names in an earlier evaluation, and there is
/// nothing to follow.
pub(crate) fn follow(old: &mut Old, new: &mut VirtualMachine, record: &mut Record) {
    let renames = Renames::between(&old.vm, new);
    if renames.before.is_empty() {
        return;
    }
    let renamed_record = renames.in_record(&old.record);
    if *record == old.record {
        record.clone_from(&renamed_record);
    } else if !record.lists_the_same_as(&renamed_record) {
        return;
    }
    old.record = renamed_record;
    let mut renamed = old.vm.clone();
    renamed.take_devices_of(new);
    if let Some((before, after)) = renames.in_sidecar(&old.vm) {
        let is_as_before = new.hook_sidecars().is_ok_and(|sidecars| sidecars.of_policy() == Some(before));
        let vms = [Some(&mut renamed), Some(new).filter(|_| is_as_before)];
        for vm in vms.into_iter().flatten() {
            // The sidecar was read, so it can be written.
            drop(vm.add(&HOOK_SIDECAR.entry("", &after)));
        }
    }
    old.renamed = Some(renamed);
}

/// The host devices and GPUs of a VirtualMachine before and after an update, in order; empty if it renames none, or changes
/// anything else about them.
#[derive(Default)]
struct Renames {
    before: Vec<Entry>,
    after: Vec<Entry>,
}

impl Renames {
    fn between(old: &VirtualMachine, new: &VirtualMachine) -> Self {
        let [before, after] = [old, new].map(devices);
        let may_be_renamed = |(before, after): (&Entry, &Entry)| {
            before.place == after.place
                && before.value == after.value
                && (before.name == after.name || is_pci_device(after))
        };
        let is_rename = before != after && before.len() == after.len() && before.iter().zip(&after).all(may_be_renamed);
        if is_rename { Self { before, after } } else { Self::default() }
    }

    fn pairs(&self) -> Vec<(&Entry, &Entry)> {
        self.before.iter().zip(&self.after).collect()
    }

    /// The record with the new names. A device has only one.
    fn in_record(&self, record: &Record) -> Record {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        for (before, after) in self.pairs() {
            names.insert(before.name.clone(), after.name.clone());
        }
        record.with_added(|added| {
            let mut left = self.pairs();
            for Recorded { entry, beside } in added {
                let is_it =
                    |(before, _): &(&Entry, &Entry)| before.name == entry.name && before.is_of_same_resource_as(entry);
                if let Some(index) = left.iter().position(is_it) {
                    entry.name.clone_from(&left.remove(index).1.name);
                }
                for name in beside {
                    if let Some(after) = names.get(name.as_str()) {
                        name.clone_from(after);
                    }
                }
            }
        })
    }

    /// The policy's sidecar, and what it is with the new names.
    fn in_sidecar<'v>(&self, vm: &'v VirtualMachine) -> Option<(&'v str, String)> {
        let sidecar = vm.hook_sidecars().ok()?.of_policy()?;
        Some((sidecar, with_new_names(sidecar, |name| self.new_name(name))?))
    }

    fn new_name(&self, name: &str) -> Option<&str> {
        let is_it = |entry: &Entry| entry.name == name;
        self.after.get(self.before.iter().position(is_it)?).map(|entry| entry.name.as_str())
    }
}

/// The host devices, then the GPUs, also those with additional fields.
fn devices(vm: &VirtualMachine) -> Vec<Entry> {
    let entries = |place: &'static Place, devices: Result<Vec<Device<'_>>, ShapeError>| -> Vec<Entry> {
        devices.unwrap_or_default().iter().map(|device| place.entry(device.name, device.resource)).collect()
    };
    [entries(&HOST_DEVICE, vm.host_devices()), entries(&GPU, vm.gpus())].concat()
}
