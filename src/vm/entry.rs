//! An entry that a feature adds to a VirtualMachine: how it is found, added, removed and recorded.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::entries::Entries;
use super::place::{Field, Form, GPU, HOST_DEVICE, Place};
use super::{ShapeError, TEMPLATE_SPEC, VirtualMachine, as_text};

/// An entry at one of the places. Adding an entry appends it, or sets what is absent. Nothing is reordered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) place: &'static Place,
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Place {
    /// The entry with this name and value. If all entries of the place have the same name or value, the argument is ignored.
    pub(crate) fn entry(&'static self, name: &str, value: &str) -> Entry {
        let fill = |field: &Field, given: &str| match field {
            Field::Fixed(text) => (*text).to_owned(),
            Field::Recorded(_) | Field::Marked(_) => given.to_owned(),
        };
        Entry { place: self, name: fill(&self.name, name), value: fill(&self.value, value) }
    }

    /// The entry that an item of a record names; `None` if the item is not an entry of this place.
    pub(crate) fn recorded(&'static self, item: &Value) -> Option<Entry> {
        let read = |field: &Field| match field {
            Field::Recorded(key) => item.get(key)?.as_str(),
            Field::Fixed(_) => Some(""),
            Field::Marked(key) => item.get(key)?.as_bool()?.then_some(""),
        };
        Some(self.entry(read(&self.name)?, read(&self.value)?))
    }
}

impl Field {
    /// Whether an entry can have this name or value.
    fn may_be(&self, text: &str) -> bool {
        !matches!(self, Field::Fixed(fixed) if *fixed != text)
    }
}

impl Entry {
    /// The name and the resource of a host device or GPU.
    pub(crate) fn as_device(&self) -> Option<(&str, &str)> {
        [&HOST_DEVICE, &GPU].contains(&self.place).then_some((&self.name, &self.value))
    }

    /// Whether both entries are devices of the same resource.
    pub(crate) fn is_of_same_resource_as(&self, other: &Self) -> bool {
        let both = self.as_device().zip(other.as_device());
        both.is_some_and(|((_, resource), (_, other))| resource == other)
    }

    /// The entry that an item of its place's list is; `None` if the item has other fields.
    fn of_item(place: &'static Place, keys: &[&str], item: &Value) -> Option<Self> {
        let (first, others) = keys.split_first()?;
        let members = members_of(item, 2)?;
        let value = others.iter().try_fold(members.get(*first)?, |value, key| members_of(value, 1)?.get(*key));
        let (name, value) = (members.get("name")?.as_str()?, value?.as_str()?);
        (place.name.may_be(name) && place.value.may_be(value)).then(|| place.entry(name, value))
    }

    /// The entry as an item of a list, with its value under these keys.
    fn to_item(&self, keys: &[&str]) -> Value {
        let mut item = keys.iter().rev().fold(json!(self.value), |value, key| json!({*key: value}));
        if let Value::Object(members) = &mut item {
            members.insert("name".to_owned(), json!(self.name));
        }
        item
    }

    /// The entry as a member of an object.
    fn to_member(&self) -> Value {
        match self.place.form {
            Form::True => json!(true),
            Form::EmptyObject => json!({}),
            Form::Item(_) | Form::Member | Form::Sidecar => json!(self.value),
        }
    }
}

/// The keys and values that a record contains for the entry.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = [(&self.place.name, &self.name), (&self.place.value, &self.value)];
        serializer.collect_map(fields.into_iter().filter_map(|(field, text)| match field {
            Field::Recorded(key) => Some((*key, json!(text))),
            Field::Marked(key) => Some((*key, json!(true))),
            Field::Fixed(_) => None,
        }))
    }
}

/// The entry as a message names it. The name is left out if all entries of the place have the same name.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place.words)?;
        match self.place.name {
            Field::Recorded(_) => write!(f, " {}", self.name),
            Field::Fixed(_) | Field::Marked(_) => Ok(()),
        }
    }
}

/// The most entries that are read at a place. No guest has as many devices, CPU features, volumes or resources.
const MAX_ENTRIES: usize = 2000;

impl VirtualMachine {
    /// The entries at a place: those that are there without additional fields, in order, but not more than a guest can
    /// have. A part of a wrong type has none.
    pub(crate) fn entries(&self, place: &'static Place) -> Vec<Entry> {
        let member_is = |entry: &Entry| {
            let member = place.path.member(&self.object, &entry.name).ok().flatten();
            member.is_some_and(|member| *member == entry.to_member())
        };
        match place.form {
            Form::Item(keys) => {
                let items = place.path.items(&self.object).unwrap_or_default().iter().take(MAX_ENTRIES);
                items.filter_map(|item| Entry::of_item(place, keys, item)).collect()
            }
            Form::Member => {
                let members = place.path.members(&self.object).ok().flatten().into_iter().flatten();
                // A quantity may be a number.
                let members = members.filter(|(_, value)| value.is_string() || value.is_number());
                let members = members.filter(|(key, _)| place.name.may_be(key)).take(MAX_ENTRIES);
                members.map(|(key, value)| place.entry(key, &as_text(value))).collect()
            }
            Form::True | Form::EmptyObject => Some(place.entry("", "")).filter(member_is).into_iter().collect(),
            Form::Sidecar => {
                let sidecars = self.hook_sidecars().unwrap_or_default();
                sidecars.of_policy().map(|sidecar| place.entry("", sidecar)).into_iter().collect()
            }
        }
    }

    /// Whether something has the entry's place: an item with its name, a member with its key, or a sidecar with the
    /// policy's mark.
    pub(crate) fn has_in_place_of(&self, entry: &Entry) -> Result<bool, ShapeError> {
        let path = entry.place.path;
        Ok(match entry.place.form {
            Form::Item(_) => {
                path.items(&self.object)?.iter().any(|item| item.get("name").is_some_and(|name| *name == entry.name))
            }
            Form::Member => path.member(&self.object, &entry.name)?.is_some(),
            Form::True | Form::EmptyObject => {
                path.member(&self.object, &entry.name)?.is_some_and(|member| !member.is_null())
            }
            Form::Sidecar => self.hook_sidecars()?.of_policy().is_some(),
        })
    }

    /// Whether the VirtualMachine needs the entry added to have it this many times. An item with additional fields
    /// counts. At a place where only one entry is possible, anything in its place counts.
    ///
    /// # Errors
    /// A parent of the entry has a wrong type, or the template is missing.
    pub(crate) fn lacks(&self, entry: &Entry, times: usize) -> Result<bool, ShapeError> {
        if TEMPLATE_SPEC.find(&self.object)?.is_none() {
            return Err(ShapeError::Missing { path: TEMPLATE_SPEC });
        }
        Ok(match (&entry.place.form, &entry.place.value) {
            // A device or volume with the same name may be a different one.
            (Form::Item(keys), Field::Recorded(_)) => {
                let item = entry.to_item(keys);
                let items = entry.place.path.items(&self.object)?.iter();
                items.filter(|found| has_members_of(found, &item)).count() < times
            }
            (Form::Sidecar, _) => self.hook_sidecars()?.of_policy() != Some(entry.value.as_str()),
            _ => !self.has_in_place_of(entry)?,
        })
    }

    /// Adds the entry once. The policy's own hook sidecar is replaced.
    ///
    /// # Errors
    /// A parent of the entry has a wrong type. Then nothing has changed.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<(), ShapeError> {
        let path = entry.place.path;
        match entry.place.form {
            Form::Item(keys) => {
                let item = entry.to_item(keys);
                match path.reach(&mut self.object)? {
                    Value::Array(items) => items.push(item),
                    list => *list = Value::Array(vec![item]),
                }
            }
            Form::Member | Form::True | Form::EmptyObject => {
                path.members_mut(&mut self.object)?.insert(entry.name.clone(), entry.to_member());
            }
            Form::Sidecar => {
                let list = self.hook_sidecars()?.with(Some(&entry.value));
                path.members_mut(&mut self.object)?.insert(entry.name.clone(), json!(list));
            }
        }
        self.is_changed = true;
        Ok(())
    }

    /// Removes those of the entries that are there. A list or object that is empty then is removed, too. Each list is
    /// read once.
    ///
    /// # Errors
    /// A parent of an entry has another type.
    pub(crate) fn remove(&mut self, entries: &Entries) -> Result<(), ShapeError> {
        let mut unwanted = entries.clone();
        for place in entries.places() {
            let there: Vec<Entry> = self.entries(place).into_iter().filter(|entry| unwanted.count(entry) > 0).collect();
            let Some(first) = there.first() else { continue };
            let path = place.path;
            match place.form {
                Form::Item(keys) => {
                    if let Value::Array(items) = path.reach(&mut self.object)? {
                        items.retain(|item| {
                            !Entry::of_item(place, keys, item).is_some_and(|entry| unwanted.take(&entry))
                        });
                    }
                }
                Form::Member | Form::True | Form::EmptyObject => {
                    for entry in &there {
                        path.remove_member(&mut self.object, &entry.name)?;
                    }
                }
                Form::Sidecar => match self.hook_sidecars()?.with(None) {
                    Some(others) => {
                        path.members_mut(&mut self.object)?.insert(first.name.clone(), json!(others));
                    }
                    None => {
                        path.remove_member(&mut self.object, &first.name)?;
                    }
                },
            }
            path.remove_if_empty(&mut self.object)?;
            self.is_changed = true;
        }
        Ok(())
    }
}

/// The members of an object that has this many.
fn members_of(value: &Value, count: usize) -> Option<&Map<String, Value>> {
    value.as_object().filter(|members| members.len() == count)
}

/// Whether an item has all members of another; it may have more. A string that is empty may be absent.
fn has_members_of(item: &Value, other: &Value) -> bool {
    match (item, other) {
        (item, Value::Object(members)) => {
            members.iter().all(|(key, member)| has_members_of(item.get(key).unwrap_or(&Value::Null), member))
        }
        (Value::Null, other) => other == "",
        (found, other) => found == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_the_name_and_of_another_resource_is_another() {
        let text = r#"{"spec":{"template":{"spec":{"domain":{"devices":{"hostDevices":[{"name":"a","deviceName":"x/y","tag":"t"}]}}}}}}"#;
        let vm = VirtualMachine::new(serde_json::from_str(text).unwrap());
        assert_eq!(vm.lacks(&HOST_DEVICE.entry("a", "x/y"), 1), Ok(false));
        assert_eq!(vm.lacks(&HOST_DEVICE.entry("a", "x/y"), 2), Ok(true));
        assert_eq!(vm.lacks(&HOST_DEVICE.entry("a", "x/z"), 1), Ok(true));
        assert_eq!(vm.lacks(&HOST_DEVICE.entry("b", "x/y"), 1), Ok(true));
    }
}
