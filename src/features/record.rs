//! The record of what a feature added to a VirtualMachine: an annotation that lists the entries, and how to find those
//! that are still there.
//!
//! An entry that was there before the feature is not in the record, so the policy never removes it. This module knows no feature.

use serde::Serialize;
use serde_json::Value;

use crate::values::pci::PciAddress;
use crate::vm::VirtualMachine;
use crate::vm::entry::Entry;
use crate::vm::place::{GPU, HOOK_SIDECAR, HOST_DEVICE, Place};

/// The size limit for a record, in bytes. The policy itself writes records of at most 256 devices.
const MAX_LENGTH: usize = 64 << 10;

/// An entry that a feature added, as an item of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Recorded {
    #[serde(flatten)]
    pub(crate) entry: Entry,
    /// The PCIDevices that the VirtualMachine had on the entry's node when the entry was added, or that someone added
    /// later. Harvester did not add these because of the entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) beside: Vec<String>,
}

/// The value of the annotation `-added`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record(pub(crate) Vec<Recorded>);

impl Record {
    /// Reads a record; `None` if the text is not a record, or lists an entry at a place where the feature adds none.
    pub(crate) fn read(text: &str, places: &[&'static Place]) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let items: Vec<Value> = serde_json::from_str(text).ok()?;
        let entries = items.iter().map(|item| {
            let entry = places.iter().find_map(|place| place.recorded(item))?;
            let beside = item.get("beside").and_then(Value::as_array).into_iter().flatten();
            let beside = beside.filter_map(Value::as_str).map(str::to_owned).collect();
            Some(Recorded { entry, beside })
        });
        entries.collect::<Option<_>>().map(Self)
    }

    /// Finds the entries that are still there, exactly as the feature added them. Only Harvester may rename an entry:
    /// it turns GPUs into host devices, and names a host device after the PCIDevice that a VirtualMachine actually got.
    /// If the record has several entries of a resource, at most that many renamed devices count.
    pub(crate) fn still_in(&self, vm: &VirtualMachine, may_be_ours: impl Fn(&Entry) -> bool) -> Found<'_> {
        let mut found = Found::default();
        let mut missing = Vec::new();
        let as_it_is = |entry, added: &Recorded| Recorded { entry, beside: added.beside.clone() };
        for added in &self.0 {
            match entry_in(vm, &added.entry) {
                Some(entry) if may_be_ours(&entry) => found.ours.push(as_it_is(entry, added)),
                Some(_) => {}
                None => missing.push(added),
            }
        }
        let is_other = |entry: &Entry| found.ours.iter().all(|added| added.entry != *entry);
        let may_be_renamed =
            |entry: &Entry| is_pci_device(entry) && is_other(entry) && vm.has(entry) && may_be_ours(entry);
        let mut renamed: Vec<Entry> = host_devices(vm).filter(may_be_renamed).collect();
        for added in missing {
            let is_it = |entry: &Entry| added.entry.is_of_same_resource_as(entry);
            match renamed.iter().position(is_it) {
                Some(index) => found.ours.push(as_it_is(renamed.remove(index), added)),
                None => found.missing.push(&added.entry),
            }
        }
        found
    }
}

/// The entries of a record, divided into those that are still there and those that are not.
#[derive(Debug, Default)]
pub(crate) struct Found<'r> {
    /// The entries that are there, as they are now.
    pub(crate) ours: Vec<Recorded>,
    /// The entries that are not there.
    missing: Vec<&'r Entry>,
}

impl Found<'_> {
    /// Warnings about entries that someone changed.
    pub(crate) fn changes(&self, vm: &VirtualMachine, ownership: &Ownership<'_>) -> Vec<String> {
        let messages = self.missing.iter().filter_map(|entry| {
            match vm.has_in_place_of(entry) {
                Err(error) => return Some(error.to_string()),
                Ok(true) => {
                    return Some(format!("the {entry} has been changed since the policy added it, so it stays"));
                }
                Ok(false) => {}
            }
            let (name, _) = entry.as_device()?;
            let is_new = |device: &Entry| {
                let was_there = |old: &&VirtualMachine| old.has(device) && entry_in(old, entry).is_some();
                !ownership.old.as_ref().is_some_and(was_there) && !ownership.declares(device)
            };
            let is_renamed = |device: &Entry| {
                entry.is_of_same_resource_as(device)
                    && self.ours.iter().all(|added| added.entry != *device)
                    && is_new(device)
            };
            let renamed = host_devices(vm).find(is_renamed)?;
            Some(format!("the {renamed} stays, as the policy added its resource under the name {name}"))
        });
        messages.collect()
    }
}

/// The entry as the VirtualMachine has it; `None` if it is not there, or is renamed.
fn entry_in(vm: &VirtualMachine, entry: &Entry) -> Option<Entry> {
    if entry.place == &HOOK_SIDECAR {
        return Some(HOOK_SIDECAR.entry("", vm.hook_sidecars().ok()?.of_policy()?));
    }
    let as_host_device = || HOST_DEVICE.entry(&entry.name, &entry.value);
    let host_device = (entry.place == &GPU).then(as_host_device);
    [Some(entry.clone()), host_device].into_iter().flatten().find(|entry| vm.has(entry))
}

/// The host devices of the VirtualMachine as entries.
pub(super) fn host_devices(vm: &VirtualMachine) -> impl Iterator<Item = Entry> {
    let devices = vm.host_devices().unwrap_or_default().into_iter();
    devices.map(|device| HOST_DEVICE.entry(device.name, device.resource))
}

/// Whether an entry has a name that Harvester gives PCI devices.
pub(super) fn is_pci_device(entry: &Entry) -> bool {
    entry.as_device().is_some_and(|(name, _)| PciAddress::of_pci_device(name).is_some())
}

/// Distinguishes the entries that features added from those of the user.
pub(crate) struct Ownership<'o> {
    /// The manifest that `kubectl apply` was last given.
    pub(crate) declared: Option<VirtualMachine>,
    /// The VirtualMachine before this update.
    pub(crate) old: Option<&'o VirtualMachine>,
    /// The entries of the old VirtualMachine that features added.
    pub(crate) added_to_old: Vec<Recorded>,
}

impl Ownership<'_> {
    /// Whether a feature can have added an entry. An entry belongs to the user if the manifest declares it, or if it was
    /// there before and no feature had added it.
    pub(crate) fn may_be_ours(&self, entry: &Entry) -> bool {
        let was_added = || self.added_to_old.iter().any(|added| added.entry == *entry);
        !self.declares(entry) && (self.is_new(entry) || was_added())
    }

    /// Whether the VirtualMachine before this update, if there is one, did not have the entry.
    pub(crate) fn is_new(&self, entry: &Entry) -> bool {
        !self.old.is_some_and(|old| old.has(entry))
    }

    /// Whether the manifest that `kubectl apply` was last given contains the entry.
    pub(crate) fn declares(&self, entry: &Entry) -> bool {
        self.declared.as_ref().is_some_and(|declared| {
            let is_sidecar = entry.place == &HOOK_SIDECAR;
            declared.has(entry) || is_sidecar && declared.has_in_place_of(entry) == Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_a_greatest_length() {
        let text = format!("[]{}", " ".repeat(MAX_LENGTH - 2));
        assert_eq!(Record::read(&text, &[]), Some(Record::default()));
        assert_eq!(Record::read(&(text + " "), &[]), None);
    }
}
