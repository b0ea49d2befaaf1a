//! What a feature may add to a VirtualMachine: where it stands there, whether it is there, how it is added and taken back,
//! and how it is written down.

use std::fmt;

use crate::json::{Json, Member, Members, member};

use super::path::{
    self, CPU_FEATURES, GPUS, HOOK_SIDECARS_KEY, HOST_DEVICES, LIMITS, NODE_SELECTOR, Path,
    TEMPLATE_ANNOTATIONS, TEMPLATE_SPEC, VOLUMES,
};
use super::placement::HOSTNAME_LABEL;
use super::{ShapeError, VirtualMachine, text};

/// An entry under `spec.template`. Adding one appends, or sets what is absent; nothing is reordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// `{name, policy: require}` in `domain.cpu.features`.
    CpuFeature { name: String },
    /// `{name, deviceName}` in `domain.devices.hostDevices`.
    HostDevice { name: String, resource: String },
    /// `{name, deviceName}` in `domain.devices.gpus`.
    Gpu { name: String, resource: String },
    /// `domain.resources.limits[resource]`.
    Limit { resource: String, quantity: String },
    /// `{name, configMap: {name}}` in `volumes`.
    ConfigMapVolume { name: String, config_map: String },
    /// `nodeSelector["kubernetes.io/hostname"]`.
    NodeSelector { hostname: String },
    /// The sidecar with the policy's mark in the template's annotation `hooks.kubevirt.io/hookSidecars`, as JSON.
    HookSidecar { json: String },
}

/// Where an entry stands, and what stands there.
enum Place<'e> {
    /// An item of a list; the first member is its name.
    Item(Path, Members<'static>),
    /// A member of an object.
    Member(Path, &'e str, &'e str),
    /// The policy's hook sidecar.
    Sidecar(&'e str),
}

impl Entry {
    fn place(&self) -> Place<'_> {
        match self {
            Entry::CpuFeature { name } => {
                Place::Item(CPU_FEATURES, strings([("name", name), ("policy", "require")]))
            }
            Entry::HostDevice { name, resource } => {
                Place::Item(HOST_DEVICES, strings([("name", name), ("deviceName", resource)]))
            }
            Entry::Gpu { name, resource } => {
                Place::Item(GPUS, strings([("name", name), ("deviceName", resource)]))
            }
            Entry::ConfigMapVolume { name, config_map } => {
                let mut volume = strings([("name", name)]);
                volume.push(member("configMap", Json::Object(strings([("name", config_map)]))));
                Place::Item(VOLUMES, volume)
            }
            Entry::Limit { resource, quantity } => Place::Member(LIMITS, resource, quantity),
            Entry::NodeSelector { hostname } => {
                Place::Member(NODE_SELECTOR, HOSTNAME_LABEL, hostname)
            }
            Entry::HookSidecar { json } => Place::Sidecar(json),
        }
    }

    /// The entry as a record lists it. Of a hook sidecar, which has a mark of its own, only that it was added.
    pub(crate) fn to_json(&self) -> Members<'_> {
        let pairs: &[(&'static str, &str)] = match self {
            Entry::CpuFeature { name } => &[("cpuFeature", name)],
            Entry::HostDevice { name, resource } => &[("hostDevice", name), ("resource", resource)],
            Entry::Gpu { name, resource } => &[("gpu", name), ("resource", resource)],
            Entry::Limit { resource, quantity } => &[("limit", resource), ("quantity", quantity)],
            Entry::ConfigMapVolume { name, config_map } => {
                &[("volume", name), ("configMap", config_map)]
            }
            Entry::NodeSelector { hostname } => &[("nodeSelector", hostname)],
            Entry::HookSidecar { .. } => return vec![member("hookSidecar", Json::Bool(true))],
        };
        pairs.iter().map(|(key, value)| member(key, *value)).collect()
    }

    /// The entry that a record lists; `None` where it lists none.
    pub(crate) fn from_json(json: &Json<'_>) -> Option<Self> {
        let text = |key: &str| Some(json.get(key)?.as_str()?.to_owned());
        let (kind, value) = json.members().first()?;
        let first = value.as_str().map(str::to_owned);
        Some(match kind.as_ref() {
            "cpuFeature" => Entry::CpuFeature { name: first? },
            "hostDevice" => Entry::HostDevice { name: first?, resource: text("resource")? },
            "gpu" => Entry::Gpu { name: first?, resource: text("resource")? },
            "limit" => Entry::Limit { resource: first?, quantity: text("quantity")? },
            "volume" => Entry::ConfigMapVolume { name: first?, config_map: text("configMap")? },
            "nodeSelector" => Entry::NodeSelector { hostname: first? },
            "hookSidecar" if matches!(value, Json::Bool(true)) => {
                Entry::HookSidecar { json: String::new() }
            }
            _ => return None,
        })
    }

    /// The entry as a device: its name and its resource.
    pub(crate) fn as_device(&self) -> Option<(&str, &str)> {
        match self {
            Entry::HostDevice { name, resource } | Entry::Gpu { name, resource } => {
                Some((name, resource))
            }
            _ => None,
        }
    }

    /// Whether both are devices of one resource.
    pub(crate) fn is_of_same_resource_as(&self, other: &Self) -> bool {
        let resource = |entry: &Self| entry.as_device().map(|(_, resource)| resource.to_owned());
        resource(self).is_some() && resource(self) == resource(other)
    }

    /// Whether one replaces the other where it stands.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        let are_sidecars =
            matches!((self, other), (Entry::HookSidecar { .. }, Entry::HookSidecar { .. }));
        self == other || are_sidecars
    }
}

/// The entry, as a message names it.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::CpuFeature { name } => write!(f, "CPU feature {name}"),
            Entry::HostDevice { name, .. } => write!(f, "host device {name}"),
            Entry::Gpu { name, .. } => write!(f, "GPU {name}"),
            Entry::Limit { resource, .. } => write!(f, "limit on {resource}"),
            Entry::ConfigMapVolume { name, .. } => write!(f, "volume {name}"),
            Entry::NodeSelector { .. } => write!(f, "node selector {HOSTNAME_LABEL}"),
            Entry::HookSidecar { .. } => f.write_str("hook sidecar"),
        }
    }
}

impl VirtualMachine<'_> {
    /// Whether the VirtualMachine has exactly the entry: nothing less, nothing beside it.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        match entry.place() {
            Place::Item(path, members) => {
                let items = path::list(&self.root, path).unwrap_or_default();
                items.iter().any(|item| is_like(item, &members, true))
            }
            Place::Member(path, key, value) => self.member(path, key).ok().flatten() == Some(value),
            Place::Sidecar(json) => {
                self.hook_sidecars().is_ok_and(|list| list.of_policy().as_deref() == Some(json))
            }
        }
    }

    /// Whether something stands where the entry would: an item of its name, a member of its key, a marked sidecar.
    pub(crate) fn has_in_place_of(&self, entry: &Entry) -> bool {
        match entry.place() {
            Place::Item(path, members) => {
                let name = members.first().and_then(|(_, name)| name.as_str()).unwrap_or_default();
                let items = path::list(&self.root, path).unwrap_or_default();
                items.iter().any(|item| text(item, "name") == name)
            }
            Place::Member(path, key, _) => self.member(path, key).ok().flatten().is_some(),
            Place::Sidecar(_) => self.hook_sidecars().is_ok_and(|list| list.of_policy().is_some()),
        }
    }

    /// Whether [`VirtualMachine::add`] would change anything.
    ///
    /// # Errors
    /// [`ShapeError`] where a part on the way to the entry has a wrong type.
    pub(crate) fn lacks(&self, entry: &Entry) -> Result<bool, ShapeError> {
        if path::find(&self.root, TEMPLATE_SPEC)?.is_none() {
            return Err(ShapeError::Missing { path: TEMPLATE_SPEC });
        }
        Ok(match entry.place() {
            // A CPU has a feature once, with whatever policy.
            Place::Item(CPU_FEATURES, _) => {
                path::list(&self.root, CPU_FEATURES)?;
                !self.has_in_place_of(entry)
            }
            Place::Item(path, members) => {
                let items = path::list(&self.root, path)?;
                !items.iter().any(|item| is_like(item, &members, false))
            }
            Place::Member(path, key, _) => self.member(path, key)?.is_none(),
            Place::Sidecar(json) => self.hook_sidecars()?.of_policy().as_deref() != Some(json),
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
        match entry.place() {
            Place::Item(path, members) => {
                let item = Json::Object(members);
                match path::reach(&mut self.root, path)? {
                    Json::Array(items) => items.push(item),
                    list => *list = Json::Array(vec![item]),
                }
            }
            Place::Member(path, key, value) => {
                let value = Json::from(value.to_owned());
                path::members_mut(&mut self.root, path)?.push((key.to_owned().into(), value));
            }
            Place::Sidecar(json) => {
                let value = self.hook_sidecars()?.with(json);
                self.set_hook_sidecars(value)?;
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
        match entry.place() {
            Place::Item(path, members) => {
                let items = path::list(&self.root, path)?;
                let index = items.iter().position(|item| is_like(item, &members, true));
                if let (Some(index), Json::Array(items)) =
                    (index, path::reach(&mut self.root, path)?)
                {
                    items.remove(index);
                }
                path::remove_if_empty(&mut self.root, path)?;
            }
            Place::Member(path, key, _) => {
                path::remove(&mut self.root, path, |k| k == key)?;
                path::remove_if_empty(&mut self.root, path)?;
            }
            Place::Sidecar(_) => {
                let value = self.hook_sidecars()?.without();
                self.set_hook_sidecars(value)?;
            }
        }
        self.changed = true;
        Ok(())
    }

    /// Sets the annotation of the hook sidecars; an empty value removes it.
    fn set_hook_sidecars(&mut self, value: String) -> Result<(), ShapeError> {
        if value.is_empty() {
            path::remove(&mut self.root, TEMPLATE_ANNOTATIONS, |key| key == HOOK_SIDECARS_KEY)?;
            return path::remove_if_empty(&mut self.root, TEMPLATE_ANNOTATIONS);
        }
        *path::reach(&mut self.root, path::HOOK_SIDECARS)? = value.into();
        Ok(())
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

/// The members of an object of strings.
fn strings<const N: usize>(members: [(&'static str, &str); N]) -> Members<'static> {
    members.into_iter().map(|(key, value)| member(key, value.to_owned())).collect()
}
