//! The record: an annotation of the template that says what each feature was applied from, and which entries it added.
//! It is in the template because clones, restores and templates of a VirtualMachine keep the template's annotations.
//!
//! An entry that was there before the feature is not in the record, so the policy never removes it.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::feature::Feature;
use crate::directives::Ask;
use crate::json::to_text;
use crate::vm::entry::Entry;
use crate::vm::place::LIMIT;

/// The size limit for what a record says about a feature, in bytes of JSON.
pub(crate) const MAX_PART: usize = 32 << 10;

/// The size limit for a record, in bytes.
const MAX_LENGTH: usize = 256 << 10;

/// The most entries that a record may list for a feature. The policy writes at most 256 devices and a node selector.
const MAX_ENTRIES: usize = 300;

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

/// What a record says about a feature that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// What was asked.
    pub(crate) ask: Ask,
    /// The entries that the feature added. A feature that did not need to add any has an empty list.
    pub(crate) added: Vec<Recorded>,
}

/// The value of the annotation `record`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    parts: Vec<(&'static str, Part)>,
    /// The parts of features that this version of the policy does not have.
    others: Map<String, Value>,
    /// Whether it, or a part, cannot be read.
    pub(crate) is_unreadable: bool,
}

impl Record {
    /// Reads a record. A part that is not one is left out, as is a part with an entry at a place where the feature adds
    /// none.
    pub(crate) fn read(annotation: Option<&Value>, features: &[&'static Feature]) -> Self {
        let Some(annotation) = annotation else { return Self::default() };
        let text = annotation.as_str().filter(|text| text.len() <= MAX_LENGTH).unwrap_or_default();
        let Ok(mut members) = serde_json::from_str::<Map<String, Value>>(text) else {
            return Self { is_unreadable: true, ..Self::default() };
        };
        let mut record = Self::default();
        for feature in features {
            let Some(part) = members.remove(feature.name) else { continue };
            // The policy writes no part that is too long.
            let is_possible = |part: &Part| text.len() <= MAX_PART || !part.is_too_long();
            match Part::read(&part, feature).filter(is_possible) {
                Some(part) => record.parts.push((feature.name, part)),
                None => record.is_unreadable = true,
            }
        }
        record.others = members;
        record
    }

    /// What it says about a feature.
    pub(crate) fn part(&self, feature: &str) -> Option<&Part> {
        self.parts.iter().find(|(name, _)| *name == feature).map(|(_, part)| part)
    }

    /// The record with these parts instead.
    pub(crate) fn with(&self, parts: Vec<(&'static str, Part)>) -> Self {
        Self { parts, others: self.others.clone(), is_unreadable: false }
    }

    /// The record with these changes to the lists of what features added.
    pub(crate) fn with_added(&self, change: impl Fn(&mut Vec<Recorded>)) -> Self {
        let mut record = self.clone();
        record.parts.iter_mut().for_each(|(_, part)| change(&mut part.added));
        record
    }

    /// Whether both list the same, but for what is beside it.
    pub(crate) fn lists_the_same_as(&self, other: &Self) -> bool {
        let alone = |record: &Self| record.with_added(|added| added.iter_mut().for_each(|it| it.beside.clear()));
        alone(self) == alone(other)
    }

    /// The annotation's value; `None` if the record says nothing.
    pub(crate) fn text(&self) -> Option<String> {
        let is_empty = self.parts.is_empty() && self.others.is_empty();
        (!is_empty).then(|| to_text(self))
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.parts.iter().try_for_each(|(name, part)| map.serialize_entry(name, part))?;
        self.others.iter().try_for_each(|(name, part)| map.serialize_entry(name, part))?;
        map.end()
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { ask: Ask { value, options }, added } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("value", value)?;
        if !options.is_empty() {
            map.serialize_entry("options", options)?;
        }
        map.serialize_entry("added", added)?;
        map.end()
    }
}

impl Part {
    /// Whether it is longer than a record may have it. `MAX_PART` times the number of features is `MAX_LENGTH`.
    pub(crate) fn is_too_long(&self) -> bool {
        to_text(self).len() > MAX_PART
    }

    fn read(part: &Value, feature: &Feature) -> Option<Self> {
        let value = part.get("value")?.as_str()?.to_owned();
        let options = part.get("options").map_or_else(|| Some(Map::new()), |options| options.as_object().cloned())?;
        let read = |item: &Value| {
            let entry = feature.adds.iter().find_map(|place| place.recorded(item))?;
            // Features add only limits on extended resources.
            let entry = Some(entry).filter(|entry| entry.place != &LIMIT || entry.name.contains('/'))?;
            let beside = item.get("beside").filter(|_| entry.as_device().is_some());
            let beside = beside.and_then(Value::as_array).into_iter().flatten();
            let beside = beside.filter_map(Value::as_str).map(str::to_owned).collect();
            Some(Recorded { entry, beside })
        };
        let added = part.get("added")?.as_array().filter(|added| added.len() <= MAX_ENTRIES)?;
        Some(Self { ask: Ask { value, options }, added: added.iter().map(read).collect::<Option<_>>()? })
    }
}
