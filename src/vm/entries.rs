//! Sets of entries in which an entry may be several times.

use std::collections::BTreeMap;

use super::VirtualMachine;
use super::entry::Entry;
use super::place::Place;

/// A set of entries, each with the number of times that it is there, which may be zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entries(BTreeMap<Entry, usize>);

impl Entries {
    /// The entries of a VirtualMachine at these places. Each list is read once.
    pub(crate) fn of(vm: &VirtualMachine, places: &[&'static Place]) -> Self {
        places.iter().flat_map(|place| vm.entries(place)).collect()
    }

    /// How many times the entry is there.
    pub(crate) fn count(&self, entry: &Entry) -> usize {
        self.0.get(entry).copied().unwrap_or_default()
    }

    /// Adds the entry once.
    pub(crate) fn insert(&mut self, entry: Entry) {
        *self.0.entry(entry).or_default() += 1;
    }

    /// Removes the entry once. Returns whether it was there.
    pub(crate) fn take(&mut self, entry: &Entry) -> bool {
        let Some(count) = self.0.get_mut(entry).filter(|count| **count > 0) else { return false };
        *count -= 1;
        true
    }

    /// The entries of both. Of an entry that is in both, the larger number counts.
    pub(crate) fn union(mut self, other: Self) -> Self {
        for (entry, count) in other.0 {
            let here = self.0.entry(entry).or_default();
            *here = count.max(*here);
        }
        self
    }

    /// The entries without those of the other.
    pub(crate) fn without(mut self, other: &Self) -> Self {
        for (entry, count) in &mut self.0 {
            *count = count.saturating_sub(other.count(entry));
        }
        self
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(|count| *count == 0)
    }

    /// The only entry at a place, or one of them.
    pub(crate) fn any_at(&self, place: &'static Place) -> Option<&Entry> {
        let first = Entry { place, name: String::new(), value: String::new() };
        let of_place = self.0.range(first..).take_while(|(entry, _)| entry.place == place);
        of_place.filter(|(_, count)| **count > 0).map(|(entry, _)| entry).next()
    }

    /// The places of the entries, each once.
    pub(super) fn places(&self) -> Vec<&'static Place> {
        let there = self.0.iter().filter(|(_, count)| **count > 0);
        let mut places: Vec<_> = there.map(|(entry, _)| entry.place).collect();
        places.dedup();
        places
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut set = Self::default();
        entries.into_iter().for_each(|entry| set.insert(entry));
        set
    }
}
