//! The entries that a feature may add to a VirtualMachine: where it stands there, whether it is there, how it is added and taken back,
//! and how it is written down.

use std::fmt;

use crate::json::{Json, Member, Members, member};

use super::path::{self, HOOK_SIDECARS_KEY, Path, TEMPLATE_SPEC};
use super::placement::HOSTNAME_LABEL;
use super::{ShapeError, VirtualMachine, text};

/// A kind of entry under `spec.template`: where its entries stand, what they look like, and how a record lists them.
#[derive(Debug)]
pub(crate) struct EntryKind {
    /// Its name in a message.
    words: &'static str,
    /// The list or object that its entries stand in.
    path: Path,
    form: Form,
    name: Part,
    value: Part,
}

/// The form of an entry in its place.
#[derive(Debug)]
enum Form {
    /// An item of a list, with its name under `name` and its value under these keys.
    Item(&'static [&'static str]),
    /// A member of an object: its name is the key.
    Member,
    /// A member of an object that always has this value: its name is the key.
    Fixed(Json<'static>),
    /// The sidecar with the policy's mark in the list of hook sidecars: its value is that sidecar's JSON.
    Sidecar,
}

/// The name or the value of an entry, and what a record has of it.
#[derive(Debug)]
enum Part {
    /// A text, which a record lists under the key.
    Listed(&'static str),
    /// The same for all entries of the kind, so no record has it.
    Always(&'static str),
    /// What needs no text: a record has `true` under the key.
    Marked(&'static str),
}

use Part::{Always, Listed, Marked};

/// `{name, policy: require}` in `domain.cpu.features`.
pub(crate) static CPU_FEATURE: EntryKind =
    EntryKind::new("CPU feature", path::CPU_FEATURES, Form::Item(&["policy"]), Listed("cpuFeature"), Always("require"));

/// `{name, deviceName}` in `domain.devices.hostDevices`.
pub(crate) static HOST_DEVICE: EntryKind =
    EntryKind::new("host device", path::HOST_DEVICES, DEVICE, Listed("hostDevice"), Listed("resource"));

/// `{name, deviceName}` in `domain.devices.gpus`.
pub(crate) static GPU: EntryKind = EntryKind::new("GPU", path::GPUS, DEVICE, Listed("gpu"), Listed("resource"));

const DEVICE: Form = Form::Item(&["deviceName"]);

/// `domain.resources.limits[name]`.
pub(crate) static LIMIT: EntryKind =
    EntryKind::new("limit on", path::LIMITS, Form::Member, Listed("limit"), Listed("quantity"));

/// `domain.cpu.dedicatedCpuPlacement: true`.
pub(crate) static CPU_PLACEMENT: EntryKind = EntryKind::new(
    "dedicated CPU placement",
    path::CPU,
    TRUE,
    Always("dedicatedCpuPlacement"),
    Marked("dedicatedCpuPlacement"),
);

/// `domain.cpu.isolateEmulatorThread: true`.
pub(crate) static EMULATOR_THREAD: EntryKind = EntryKind::new(
    "isolated emulator thread",
    path::CPU,
    TRUE,
    Always("isolateEmulatorThread"),
    Marked("isolateEmulatorThread"),
);

const TRUE: Form = Form::Fixed(Json::Bool(true));

/// `domain.cpu.numa.guestMappingPassthrough: {}`.
pub(crate) static NUMA_MAPPING: EntryKind = EntryKind::new(
    "NUMA mapping",
    path::NUMA,
    Form::Fixed(Json::Object(Vec::new())),
    Always("guestMappingPassthrough"),
    Marked("guestMappingPassthrough"),
);

/// `domain.memory.hugepages.pageSize`.
pub(crate) static HUGEPAGES: EntryKind =
    EntryKind::new("hugepages page size", path::HUGEPAGES, Form::Member, Always("pageSize"), Listed("hugepages"));

/// `{name, configMap: {name}}` in `volumes`.
pub(crate) static CONFIG_MAP_VOLUME: EntryKind =
    EntryKind::new("volume", path::VOLUMES, Form::Item(&["configMap", "name"]), Listed("volume"), Listed("configMap"));

/// `nodeSelector["kubernetes.io/hostname"]`.
pub(crate) static NODE_SELECTOR: EntryKind =
    EntryKind::new("node selector", path::NODE_SELECTOR, Form::Member, Always(HOSTNAME_LABEL), Listed("nodeSelector"));

/// The sidecar with the policy's mark in the template's annotation `hooks.kubevirt.io/hookSidecars`.
pub(crate) static HOOK_SIDECAR: EntryKind =
    EntryKind::new("hook sidecar", path::TEMPLATE_ANNOTATIONS, Form::Sidecar, Always(""), Marked("hookSidecar"));

impl EntryKind {
    const fn new(words: &'static str, path: Path, form: Form, name: Part, value: Part) -> Self {
        Self { words, path, form, name, value }
    }

    /// The entry of these parts; one that is always the same is not taken from here.
    pub(crate) fn of(&'static self, name: &str, value: &str) -> Entry {
        let fill = |part: &Part, given: &str| match part {
            Always(text) => (*text).to_owned(),
            Listed(_) | Marked(_) => given.to_owned(),
        };
        Entry { kind: self, name: fill(&self.name, name), value: fill(&self.value, value) }
    }

    /// The entry of this kind that a record lists.
    pub(crate) fn read(&'static self, json: &Json<'_>) -> Option<Entry> {
        let [name, value] = [&self.name, &self.value].map(|part| match part {
            Listed(key) => json.get(key)?.as_str(),
            Always(_) => Some(""),
            Marked(key) => matches!(json.get(key)?, Json::Bool(true)).then_some(""),
        });
        Some(self.of(name?, value?))
    }
}

impl PartialEq for EntryKind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for EntryKind {}

/// An entry under `spec.template`. Adding one appends, or sets what is absent; nothing is reordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: &'static EntryKind,
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Entry {
    /// The entry as a record lists it.
    pub(crate) fn to_json(&self) -> Members<'_> {
        let parts = [(&self.kind.name, &self.name), (&self.kind.value, &self.value)];
        let listed = parts.into_iter().filter_map(|(part, text)| match part {
            Listed(key) => Some(member(key, text.as_str())),
            Always(_) => None,
            Marked(key) => Some(member(key, Json::Bool(true))),
        });
        listed.collect()
    }

    /// The entry as a device: its name and its resource.
    pub(crate) fn as_device(&self) -> Option<(&str, &str)> {
        [&HOST_DEVICE, &GPU].contains(&self.kind).then_some((&self.name, &self.value))
    }

    /// Whether both are devices of one resource.
    pub(crate) fn is_of_same_resource_as(&self, other: &Self) -> bool {
        let both = self.as_device().zip(other.as_device());
        both.is_some_and(|((_, resource), (_, other))| resource == other)
    }

    /// Whether one replaces the other where it stands.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        self == other || (self.kind == other.kind && matches!(self.kind.form, Form::Sidecar))
    }

    /// The item of a list that has its value under the keys.
    fn to_item(&self, keys: &[&'static str]) -> Members<'static> {
        let value =
            keys.iter().rev().fold(Json::from(self.value.clone()), |value, key| Json::Object(vec![member(key, value)]));
        let mut item = vec![member("name", self.name.clone())];
        if let Json::Object(members) = value {
            item.extend(members);
        }
        item
    }
}

/// The entry, as a message names it: with its name, if there can be others of its kind.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.words)?;
        match self.kind.name {
            Listed(_) => write!(f, " {}", self.name),
            Always(_) | Marked(_) => Ok(()),
        }
    }
}

impl VirtualMachine<'_> {
    /// Whether the VirtualMachine has exactly the entry: nothing less, nothing beside it.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        match &entry.kind.form {
            Form::Item(keys) => {
                let item = entry.to_item(keys);
                self.items(entry).unwrap_or_default().iter().any(|i| is_like(i, &item, true))
            }
            Form::Member => {
                let member = self.member(entry.kind.path, &entry.name);
                member.is_ok_and(|member| member == Some(&entry.value))
            }
            Form::Fixed(value) => {
                let found = self.value(entry);
                found.is_ok_and(|found| found.is_some_and(|found| found.to_text() == value.to_text()))
            }
            Form::Sidecar => {
                let sidecars = self.hook_sidecars();
                sidecars.is_ok_and(|list| list.of_policy().as_ref() == Some(&entry.value))
            }
        }
    }

    /// Whether something stands where the entry would: an item of its name, a member of its key, a marked sidecar.
    ///
    /// # Errors
    /// [`ShapeError`] where a part on the way to the entry has a wrong type.
    pub(crate) fn has_in_place_of(&self, entry: &Entry) -> Result<bool, ShapeError> {
        Ok(match entry.kind.form {
            Form::Item(_) => self.items(entry)?.iter().any(|i| text(i, "name") == entry.name),
            Form::Member => self.member(entry.kind.path, &entry.name)?.is_some(),
            Form::Fixed(_) => self.value(entry)?.is_some(),
            Form::Sidecar => self.hook_sidecars()?.of_policy().is_some(),
        })
    }

    /// Whether [`VirtualMachine::add`] would change anything.
    ///
    /// # Errors
    /// As [`VirtualMachine::has_in_place_of`].
    pub(crate) fn lacks(&self, entry: &Entry) -> Result<bool, ShapeError> {
        if path::find(&self.root, TEMPLATE_SPEC)?.is_none() {
            return Err(ShapeError::Missing { path: TEMPLATE_SPEC });
        }
        Ok(match (&entry.kind.form, &entry.kind.value) {
            // A device or volume of the name may be another.
            (Form::Item(keys), Listed(_)) => {
                let item = entry.to_item(keys);
                !self.items(entry)?.iter().any(|i| is_like(i, &item, false))
            }
            (Form::Sidecar, _) => self.hook_sidecars()?.of_policy().as_ref() != Some(&entry.value),
            _ => !self.has_in_place_of(entry)?,
        })
    }

    /// Adds the entry, unless something is in its place; a hook sidecar takes the place of the policy's own.
    ///
    /// # Errors
    /// As [`VirtualMachine::lacks`]; then nothing has changed.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<(), ShapeError> {
        if !self.lacks(entry)? {
            return Ok(());
        }
        let path = entry.kind.path;
        match &entry.kind.form {
            Form::Item(keys) => {
                let item = Json::Object(entry.to_item(keys));
                match path::reach(&mut self.root, path)? {
                    Json::Array(items) => items.push(item),
                    list => *list = Json::Array(vec![item]),
                }
            }
            Form::Member => {
                let member = (entry.name.clone().into(), entry.value.clone().into());
                path::members_mut(&mut self.root, path)?.push(member);
            }
            Form::Fixed(value) => {
                path::remove(&mut self.root, path, &|key| key == entry.name)?;
                path::members_mut(&mut self.root, path)?.push((entry.name.clone().into(), value.clone()));
            }
            Form::Sidecar => {
                let value = self.hook_sidecars()?.with(&entry.value);
                *path::reach(&mut self.root, path::HOOK_SIDECARS)? = value.into();
            }
        }
        self.changed = true;
        Ok(())
    }

    /// Takes the entry back if [`VirtualMachine::has`] it, and removes the list or object that is left empty.
    ///
    /// # Errors
    /// None where the VirtualMachine has the entry, or a part on the way to it is not there.
    pub(crate) fn take_back(&mut self, entry: &Entry) -> Result<(), ShapeError> {
        if !self.has(entry) {
            return Ok(());
        }
        let path = entry.kind.path;
        match &entry.kind.form {
            Form::Item(keys) => {
                let item = entry.to_item(keys);
                if let Json::Array(items) = path::reach(&mut self.root, path)? {
                    let index = items.iter().position(|i| is_like(i, &item, true));
                    index.map(|index| items.remove(index));
                }
            }
            Form::Member | Form::Fixed(_) => {
                path::remove(&mut self.root, path, &|key| key == entry.name)?;
            }
            Form::Sidecar => match self.hook_sidecars()?.without() {
                Some(others) => *path::reach(&mut self.root, path::HOOK_SIDECARS)? = others.into(),
                None => {
                    path::remove(&mut self.root, path, &|key| key == HOOK_SIDECARS_KEY)?;
                }
            },
        }
        path::remove_if_empty(&mut self.root, path)?;
        // It was made for the entry alone, and Harvester's webhook trips over memory without the guest's.
        if let Some(parent) = path.part_of_domain() {
            path::remove_if_empty(&mut self.root, parent)?;
        }
        self.changed = true;
        Ok(())
    }

    /// The value of the member that the entry would be; what is null is not there.
    fn value(&self, entry: &Entry) -> Result<Option<&Json<'_>>, ShapeError> {
        let members = path::members(&self.root, entry.kind.path)?;
        let member = members.iter().rev().find(|(key, _)| key == &entry.name);
        Ok(member.map(|(_, value)| value).filter(|value| value.kind() != "null"))
    }

    /// The items of the list that the entry would stand in.
    fn items(&self, entry: &Entry) -> Result<&[Json<'_>], ShapeError> {
        path::list(&self.root, entry.kind.path)
    }
}

/// Whether an item has these members; if `exactly`, no other, and none that is empty because it is absent.
fn is_like(item: &Json<'_>, members: &Members<'_>, exactly: bool) -> bool {
    let has = |(key, wanted): &Member<'_>| match (item.get(key), wanted) {
        (Some(found), Json::Object(members)) => is_like(found, members, exactly),
        (found, wanted) => {
            let found = found.and_then(Json::as_str);
            if exactly {
                found == wanted.as_str()
            } else {
                found.unwrap_or_default() == wanted.as_str().unwrap_or_default()
            }
        }
    };
    (!exactly || item.members().len() == members.len()) && members.iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_the_name_and_of_another_resource_is_another() {
        let text = r#"{"spec":{"template":{"spec":{"domain":{"devices":{"hostDevices":[{"name":"a","deviceName":"x/y","tag":"t"}]}}}}}}"#;
        let vm = VirtualMachine::of_manifest(text).unwrap();
        assert_eq!(vm.lacks(&HOST_DEVICE.of("a", "x/y")), Ok(false));
        assert_eq!(vm.lacks(&HOST_DEVICE.of("a", "x/z")), Ok(true));
        assert_eq!(vm.lacks(&HOST_DEVICE.of("b", "x/y")), Ok(true));
    }
}
