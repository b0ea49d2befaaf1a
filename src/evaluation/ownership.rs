//! Decides which entries of a VirtualMachine the policy added, and which are the user's. The table in docs/design.md has
//! all cases.

use super::Old;
use super::neighbours::Neighbours;
use crate::directives::{Asked, Directives};
use crate::features::feature::Feature;
use crate::features::host_devices::{has_device_rules, is_pci_device};
use crate::features::record::{Part, Record, Recorded};
use crate::features::{FEATURES, Settings};
use crate::vm::VirtualMachine;
use crate::vm::entries::Entries;
use crate::vm::entry::Entry;
use crate::vm::place::{GPU, HOOK_SIDECAR, HOST_DEVICE, Place};

/// How many changed entries of a feature a request is warned of.
const MAX_WARNINGS: usize = 8;

/// Tells the entries that features added to a VirtualMachine from those of the user.
pub(crate) struct Ownership {
    present: Present,
    /// The entries that the manifest declares that `kubectl apply` was last given.
    pub(super) declared: Entries,
    /// The entries that are the user's: those that the manifest declares, and those that the VirtualMachine had before
    /// this update without a feature having added them.
    users: Entries,
    listed: Vec<Listed>,
    /// The entries before this update.
    before: Option<Present>,
    neighbours: Neighbours,
}

/// What the records list for a feature that may be ours.
struct Listed {
    feature: &'static str,
    /// What was there before this update.
    before: Vec<Recorded>,
    /// What the new record lists beyond the old one: it came with a template that was restored, or from an earlier evaluation
    /// of this request.
    since: Vec<Recorded>,
}

impl Listed {
    /// Drops devices of before that are missing now and that the new record lists under other names.
    fn drop_renamed(&mut self, present: &Present) {
        let mut new: Vec<&Entry> = self.since.iter().map(|added| &added.entry).collect();
        self.before.retain(|was| {
            let is_it = |new: &&Entry| was.entry.is_of_same_resource_as(new);
            let mut take = || new.iter().position(is_it).map(|index| new.swap_remove(index));
            present.get(&was.entry).is_some() || take().is_none()
        });
    }
}

/// The entries that a VirtualMachine has.
struct Present {
    entries: Entries,
    /// Its host devices, in order; none if there are more than a guest can have.
    devices: Vec<Entry>,
}

/// What a record lists, divided into the entries that are there and those that are not.
#[derive(Default)]
struct Found {
    /// The entries that are there, as they are now.
    ours: Vec<Recorded>,
    missing: Vec<Entry>,
}

/// All places where features add entries.
fn places() -> Vec<&'static Place> {
    let mut places: Vec<&'static Place> = Vec::new();
    for place in FEATURES.iter().flat_map(|feature| feature.adds) {
        if !places.contains(place) {
            places.push(place);
        }
    }
    places
}

impl Present {
    fn of(vm: &VirtualMachine) -> Self {
        let places = places();
        let devices = if vm.host_devices().is_ok() { vm.entries(&HOST_DEVICE) } else { Vec::new() };
        Self { entries: Entries::of(vm, &places), devices }
    }

    /// The entry as the VirtualMachine has it; `None` if it is not there, or is renamed.
    fn get(&self, entry: &Entry) -> Option<Entry> {
        if entry.place == &HOOK_SIDECAR {
            return self.entries.any_at(&HOOK_SIDECAR).cloned();
        }
        // Harvester turns GPUs into host devices.
        let as_host_device = || HOST_DEVICE.entry(&entry.name, &entry.value);
        let host_device = (entry.place == &GPU).then(as_host_device);
        [Some(entry.clone()), host_device].into_iter().flatten().find(|entry| self.entries.count(entry) > 0)
    }

    /// Finds the listed entries that are there, exactly as the feature added them, and are not the user's. Only Harvester
    /// may rename an entry: it names a host device after the PCIDevice that a VirtualMachine actually got. Of the devices
    /// of a resource, at most as many count as renamed as are listed.
    fn find(&self, listed: &[Recorded], users: &Entries) -> Found {
        let mut found = Found::default();
        let mut taken = Entries::default();
        let mut missing = Vec::new();
        let is_free = |entry: &Entry, taken: &Entries| {
            self.entries.count(entry) > users.count(entry).saturating_add(taken.count(entry))
        };
        for added in listed {
            match self.get(&added.entry) {
                Some(entry) if is_free(&entry, &taken) => {
                    taken.insert(entry.clone());
                    found.ours.push(Recorded { entry, beside: added.beside.clone() });
                }
                Some(_) => {}
                None => missing.push(added),
            }
        }
        let mut devices: Vec<(&Entry, &str)> = Vec::new();
        for entry in self.devices.iter().filter(|entry| !missing.is_empty() && is_pci_device(entry)) {
            devices.extend(entry.as_device().map(|(_, resource)| (entry, resource)));
        }
        for added in missing {
            let wanted = added.entry.as_device().map(|(_, resource)| resource);
            let mut renamed = None;
            // A device that is not free now will not be free later, so each is looked at once.
            while let Some(index) = devices.iter().position(|(_, resource)| wanted == Some(*resource)) {
                let (entry, _) = devices.remove(index);
                if is_free(entry, &taken) {
                    renamed = Some(entry);
                    break;
                }
            }
            match renamed {
                Some(entry) => {
                    taken.insert(entry.clone());
                    found.ours.push(Recorded { entry: entry.clone(), beside: added.beside.clone() });
                }
                None => found.missing.push(added.entry.clone()),
            }
        }
        found
    }

    /// Like [`Present::find`], but a sidecar with the policy's mark is ours even if no record lists it.
    fn find_ours(&self, feature: &Feature, listed: &[Recorded], users: &Entries) -> Found {
        let mut found = self.find(listed, users);
        let sidecar = self.entries.any_at(&HOOK_SIDECAR).filter(|_| feature.adds.contains(&&HOOK_SIDECAR));
        let is_known = |sidecar: &Entry| found.ours.iter().any(|added| added.entry == *sidecar);
        if let Some(sidecar) = sidecar.filter(|sidecar| !is_known(sidecar) && users.count(sidecar) == 0) {
            found.ours.push(Recorded { entry: sidecar.clone(), beside: Vec::new() });
        }
        found
    }
}

fn added(part: Option<&Part>) -> &[Recorded] {
    part.map(|part| part.added.as_slice()).unwrap_or_default()
}

/// The entries as a set.
pub(super) fn entries(recorded: &[Recorded]) -> Entries {
    recorded.iter().map(|added| added.entry.clone()).collect()
}

impl Ownership {
    /// Finds out whose the entries of a VirtualMachine are. `old` is the VirtualMachine before an update.
    ///
    /// With rules about who may have which device, a device is never the user's because a manifest declares it: anyone can
    /// write what was last applied.
    pub(crate) fn of(
        vm: &VirtualMachine,
        directives: &Directives,
        record: &Record,
        old: Option<&Old>,
        settings: &Settings,
    ) -> Self {
        let present = Present::of(vm);
        let mut places = places();
        if has_device_rules(settings) {
            places.retain(|place| *place != &HOST_DEVICE && *place != &GPU);
        }
        let mut declared = vm.last_applied().map(|vm| Entries::of(&vm, &places)).unwrap_or_default();
        // If the manifest has a sidecar with the policy's mark, whatever its content, the sidecar is the user's.
        if declared.any_at(&HOOK_SIDECAR).is_some() {
            declared = declared.union(present.entries.any_at(&HOOK_SIDECAR).cloned().into_iter().collect());
        }
        let before = old.map(|old| Present::of(old.as_renamed()));
        let mut added_before = Entries::default();
        let mut listed: Vec<Listed> = Vec::new();
        for feature in FEATURES {
            let ours = added(record.part(feature.name));
            let mut listed_here = Listed { feature: feature.name, before: Vec::new(), since: ours.to_vec() };
            if let Some((old, before)) = old.zip(before.as_ref()) {
                // What the old record lists was there before, or was missing and comes with this update: from the user if the
                // directive goes, otherwise from an earlier evaluation.
                let known = added(old.record.part(feature.name));
                let found = before.find_ours(feature, known, &Entries::default());
                added_before = added_before.union(entries(&found.ours));
                let is_asked = !matches!(directives.get(feature.name), Asked::No);
                let mut known = entries(known);
                let mut missing: Entries = found.missing.into_iter().filter(|_| is_asked).collect();
                listed_here.before = found.ours;
                listed_here.since.retain(|added| !known.take(&added.entry) || missing.take(&added.entry));
                listed_here.drop_renamed(&present);
            }
            listed.push(listed_here);
        }
        let of_listed =
            |all: Entries, listed: &Listed| all.union(entries(&listed.before)).union(entries(&listed.since));
        let all = listed.iter().fold(Entries::default(), of_listed);
        let between = |old: &Old| Neighbours::between(old.as_renamed(), vm, &all);
        let neighbours = old.map(between).unwrap_or_default();
        listed.iter_mut().flat_map(|listed| &mut listed.before).for_each(|added| neighbours.add_to(added));
        let users = before.as_ref().map(|before| before.entries.clone().without(&added_before)).unwrap_or_default();
        Self { users: users.union(declared.clone()), present, declared, listed, before, neighbours }
    }

    /// What the feature added before this request: the entries that its records list, that are still there, and that
    /// are not the user's.
    pub(super) fn recorded(&self, feature: &Feature) -> Vec<Recorded> {
        let Some(listed) = self.listed(feature) else { return Vec::new() };
        let mut all = listed.before.clone();
        all.extend_from_slice(&listed.since);
        self.present.find_ours(feature, &all, &self.users).ours
    }

    /// What the feature had added before this update, according to the record before it.
    pub(super) fn had(&self, feature: &Feature) -> &[Recorded] {
        self.listed(feature).map(|listed| listed.before.as_slice()).unwrap_or_default()
    }

    fn listed(&self, feature: &Feature) -> Option<&Listed> {
        self.listed.iter().find(|listed| listed.feature == feature.name)
    }

    /// An item of the record before this update with the devices that are beside it now.
    pub(super) fn with_neighbours(&self, mut recorded: Recorded) -> Recorded {
        self.neighbours.add_to(&mut recorded);
        recorded
    }

    /// Those of a feature's entries that are its own. `recorded` is what all features added before. An entry that is the
    /// user's stays the user's if it is missing, and the policy adds it again.
    pub(super) fn ours(&self, wanted: &[Recorded], recorded: &Entries) -> Vec<Recorded> {
        let mut left = entries(wanted);
        let is_ours = |added: &&Recorded| {
            let entry = &added.entry;
            let base = self.present.entries.count(entry).saturating_sub(recorded.count(entry));
            let missing = self.users.count(entry).saturating_sub(base);
            let is_ours = left.count(entry) > missing;
            left.take(entry);
            is_ours
        };
        wanted.iter().filter(is_ours).cloned().collect()
    }

    /// Warnings about entries that someone changed since the feature added them. `part` is what the record says.
    pub(super) fn changes(&self, part: &Part, ours: &[Recorded], vm: &VirtualMachine) -> Vec<String> {
        let ours = entries(ours);
        let mut missing = self.present.find(&part.added, &self.users).missing;
        missing.dedup();
        let messages = missing.iter().take(MAX_WARNINGS).filter_map(|entry| {
            match vm.has_in_place_of(entry) {
                Err(error) => return Some(error.to_string()),
                Ok(true) => {
                    return Some(format!("the {entry} has been changed since the policy added it, so it stays"));
                }
                Ok(false) => {}
            }
            let (name, _) = entry.as_device()?;
            let is_new = |device: &Entry| {
                let was_there = |before: &Present| before.entries.count(device) > 0 && before.get(entry).is_some();
                !self.before.as_ref().is_some_and(was_there) && self.declared.count(device) == 0
            };
            let is_renamed =
                |device: &&Entry| entry.is_of_same_resource_as(device) && ours.count(device) == 0 && is_new(device);
            let renamed = self.present.devices.iter().find(is_renamed)?;
            Some(format!("the {renamed} stays, as the policy added its resource under the name {name}"))
        });
        messages.collect()
    }
}
