//! The VirtualMachine's JSON: typed reads, and the only edits that there are. Edits append, or set what is absent; taken
//! back, they remove exactly what they had written. They never reorder, and never touch what they are not named after.
//! Knows no feature and no setting.

use std::borrow::Cow;
use std::fmt;

use crate::directives::Key;
use crate::json::{Json, Member, Members, Shape};
use crate::pci::MAX_DEVICES;
use crate::request::{Outline, Unreadable};

/// A VirtualMachine (`kubevirt.io`), read as far as the policy needs it; the rest stays text.
#[derive(Debug, Clone)]
pub(crate) struct VirtualMachine<'a> {
    root: Json<'a>,
    changed: bool,
}

/// A change under `spec.template`. Applied where it is already in place, it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Appends `{name, policy: require}` to `domain.cpu.features`, unless a feature of the name is there.
    RequireCpuFeature { name: &'static str },
    /// Appends `{name, deviceName}` to `domain.devices.hostDevices`.
    AddHostDevice { name: String, device_name: String },
    /// Appends `{name, deviceName}` to `domain.devices.gpus`.
    AddGpu { name: String, device_name: String },
    /// Sets `domain.resources.limits[resource]`, unless it is there.
    SetLimit { resource: String, quantity: String },
    /// Appends `{name, configMap: {name}}` to `volumes`.
    AddConfigMapVolume { name: &'static str, config_map: String },
    /// Sets the template's annotation `hooks.kubevirt.io/hookSidecars`; an empty value removes it.
    SetHookSidecars { value: String },
    /// Sets `nodeSelector["kubernetes.io/hostname"]`, unless it is there.
    SelectNode { hostname: String },
}

/// Where an edit writes, and what.
enum Entry {
    /// An item of a list.
    Item(Path, Members<'static>),
    /// A member of an object.
    Member(Path, String, String),
}

impl Edit {
    fn entry(&self) -> Entry {
        match self {
            Edit::RequireCpuFeature { name } => {
                Entry::Item(CPU_FEATURES, strings([("name", name), ("policy", "require")]))
            }
            Edit::AddHostDevice { name, device_name } => {
                Entry::Item(HOST_DEVICES, strings([("name", name), ("deviceName", device_name)]))
            }
            Edit::AddGpu { name, device_name } => {
                Entry::Item(GPUS, strings([("name", name), ("deviceName", device_name)]))
            }
            Edit::AddConfigMapVolume { name, config_map } => {
                let mut volume = strings([("name", name)]);
                volume.push(("configMap".into(), Json::Object(strings([("name", config_map)]))));
                Entry::Item(VOLUMES, volume)
            }
            Edit::SetLimit { resource, quantity } => {
                Entry::Member(LIMITS, resource.clone(), quantity.clone())
            }
            Edit::SelectNode { hostname } => {
                Entry::Member(NODE_SELECTOR, HOSTNAME_LABEL.to_owned(), hostname.clone())
            }
            Edit::SetHookSidecars { value } => {
                Entry::Member(TEMPLATE_ANNOTATIONS, HOOK_SIDECARS_KEY.to_owned(), value.clone())
            }
        }
    }
}

/// What the edit writes, and where, in one line.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edit::RequireCpuFeature { name } => write!(f, "cpu feature {name}"),
            Edit::AddHostDevice { name, device_name } => {
                write!(f, "host device {name} {device_name}")
            }
            Edit::AddGpu { name, device_name } => write!(f, "gpu {name} {device_name}"),
            Edit::SetLimit { resource, quantity } => write!(f, "limit {resource} {quantity}"),
            Edit::AddConfigMapVolume { name, config_map } => {
                write!(f, "volume {name} {config_map}")
            }
            Edit::SetHookSidecars { .. } => f.write_str("hook sidecars"),
            Edit::SelectNode { hostname } => write!(f, "node selector {hostname}"),
        }
    }
}

/// An entry of `domain.cpu.features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuFeature<'v> {
    pub(crate) name: &'v str,
    /// KubeVirt's policy for it; empty means `require`.
    pub(crate) policy: &'v str,
}

/// An entry of `domain.devices.hostDevices` or `domain.devices.gpus`; what it lacks is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device<'v> {
    pub(crate) name: &'v str,
    pub(crate) device_name: &'v str,
}

/// An entry of `volumes`; what it lacks is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Volume<'v> {
    pub(crate) name: &'v str,
    /// The ConfigMap that it holds.
    pub(crate) config_map: &'v str,
}

/// Which nodes the VirtualMachine may run on, as far as it says so by label values.
#[derive(Debug)]
pub(crate) struct Placement<'v> {
    /// `nodeSelector`: all of these.
    selector: Vec<(&'v str, &'v str)>,
    /// Required node affinity: one of these, and of it all expressions with the operator `In`. Other operators are
    /// passed over, which may let a node count that does not.
    terms: Vec<Vec<(&'v str, Vec<&'v str>)>>,
}

/// The annotation of the template in which KubeVirt reads hook sidecars.
const HOOK_SIDECARS_KEY: &str = "hooks.kubevirt.io/hookSidecars";

/// The annotation in which `kubectl apply` keeps what was applied.
const LAST_APPLIED_KEY: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The label that names a node.
pub(crate) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

impl<'v> Placement<'v> {
    /// The keys and values of the node selector.
    pub(crate) fn selector(&self) -> &[(&'v str, &'v str)] {
        &self.selector
    }

    /// The node that the node selector names.
    pub(crate) fn selected_hostname(&self) -> Option<&'v str> {
        self.selector.iter().find(|(key, _)| *key == HOSTNAME_LABEL).map(|(_, value)| *value)
    }

    /// The one node that the VirtualMachine may run on, if it says so.
    pub(crate) fn hostname(&self) -> Option<&'v str> {
        if let Some(hostname) = self.selected_hostname() {
            return Some(hostname);
        }
        let [term] = self.terms.as_slice() else {
            return None;
        };
        term.iter().find_map(|(key, values)| match values.as_slice() {
            [hostname] if *key == HOSTNAME_LABEL => Some(*hostname),
            _ => None,
        })
    }

    /// Whether a node with these labels is one that the VirtualMachine may run on.
    pub(crate) fn allows<'n>(&self, label: impl Fn(&str) -> Option<&'n str>) -> bool {
        let selected = self.selector.iter().all(|(key, value)| label(key) == Some(value));
        let in_values = |(key, values): &(&str, Vec<&str>)| {
            label(key).is_some_and(|value| values.contains(&value))
        };
        selected
            && (self.terms.is_empty() || self.terms.iter().any(|term| term.iter().all(in_values)))
    }
}

/// A part of the VirtualMachine that is not as KubeVirt's API has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("{path} is {found} where KubeVirt expects {expected}; correct the VirtualMachine")]
    WrongType { path: Path, found: &'static str, expected: &'static str },
    #[error("{path} is missing, and a VirtualMachine needs it; correct the VirtualMachine")]
    Missing { path: Path },
    #[error("{path} has {count} entries, and a guest can have {MAX_DEVICES} devices; remove some")]
    TooMany { path: Path, count: usize },
}

/// Where in the VirtualMachine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path(&'static [&'static str]);

impl Path {
    /// The first `length` parts.
    fn first(self, length: usize) -> Path {
        Path(self.0.get(..length).unwrap_or(self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

const ANNOTATIONS: Path = Path(&["metadata", "annotations"]);
const LABELS: Path = Path(&["metadata", "labels"]);
const TEMPLATE_ANNOTATIONS: Path = Path(&["spec", "template", "metadata", "annotations"]);
const HOOK_SIDECARS: Path =
    Path(&["spec", "template", "metadata", "annotations", HOOK_SIDECARS_KEY]);
const VOLUMES: Path = Path(&["spec", "template", "spec", "volumes"]);
const TEMPLATE_SPEC: Path = Path(&["spec", "template", "spec"]);
const NODE_SELECTOR: Path = Path(&["spec", "template", "spec", "nodeSelector"]);
const NODE_AFFINITY_TERMS: Path = Path(&[
    "spec",
    "template",
    "spec",
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
]);
const ARCHITECTURE: Path = Path(&["spec", "template", "spec", "architecture"]);
const CPU_MODEL: Path = Path(&["spec", "template", "spec", "domain", "cpu", "model"]);
const CPU_FEATURES: Path = Path(&["spec", "template", "spec", "domain", "cpu", "features"]);
const HOST_DEVICES: Path = Path(&["spec", "template", "spec", "domain", "devices", "hostDevices"]);
const GPUS: Path = Path(&["spec", "template", "spec", "domain", "devices", "gpus"]);
const LIMITS: Path = Path(&["spec", "template", "spec", "domain", "resources", "limits"]);

/// The parts of the template that the paths lead to.
static TEMPLATE: Shape = {
    const DEVICES: Shape =
        Shape::Items(&Shape::Object(&[("name", Shape::Tree), ("deviceName", Shape::Tree)]));
    const FEATURES: Shape =
        Shape::Items(&Shape::Object(&[("name", Shape::Tree), ("policy", Shape::Tree)]));
    const DOMAIN: Shape = Shape::Object(&[
        ("cpu", Shape::Object(&[("model", Shape::Tree), ("features", FEATURES)])),
        ("devices", Shape::Object(&[("hostDevices", DEVICES), ("gpus", DEVICES)])),
        ("resources", Shape::Object(&[("limits", Shape::Object(&[]))])),
    ]);
    const VOLUMES: Shape = Shape::Items(&Shape::Object(&[
        ("name", Shape::Tree),
        ("configMap", Shape::Object(&[("name", Shape::Tree)])),
    ]));
    const HOOK_SIDECARS: Shape = Shape::Object(&[(HOOK_SIDECARS_KEY, Shape::Tree)]);
    const METADATA: Shape = Shape::Object(&[("annotations", HOOK_SIDECARS)]);
    const SPEC: Shape = Shape::Object(&[
        ("volumes", VOLUMES),
        ("affinity", Shape::Object(&[("nodeAffinity", Shape::Tree)])),
        ("architecture", Shape::Tree),
        ("nodeSelector", Shape::Tree),
        ("domain", DOMAIN),
    ]);
    Shape::Object(&[("metadata", METADATA), ("spec", SPEC)])
};

impl<'a> VirtualMachine<'a> {
    /// Reads the template of an outline. A member of a wrong type is an error when it is asked for, not before.
    ///
    /// # Errors
    /// [`Unreadable`] where a part that the policy reads is nested too deeply or has a number out of range.
    pub(crate) fn read(mut root: Json<'a>) -> Result<Self, Unreadable> {
        let template = root.get_mut("spec").and_then(|spec| spec.get_mut("template"));
        if let Some(template) = template {
            if let Json::Text(text) = *template {
                let read = Json::parse(text.get(), &TEMPLATE);
                *template =
                    read.map_err(|e| Unreadable::new("the VirtualMachine's template", &e))?;
            }
        }
        Ok(Self { root, changed: false })
    }

    /// A VirtualMachine as a manifest in JSON has it; `None` where it cannot be read.
    pub(crate) fn of_manifest(text: &'a str) -> Option<Self> {
        Self::read(Outline::parse(text).ok()?.root).ok()
    }

    /// Appends the VirtualMachine as JSON.
    pub(crate) fn write(&self, out: &mut String) {
        self.root.write(out);
    }

    /// Whether an edit has changed anything.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// `domain.cpu.features`.
    pub(crate) fn cpu_features(&self) -> Result<Vec<CpuFeature<'_>>, ShapeError> {
        let items = self.list(CPU_FEATURES)?;
        Ok(items
            .iter()
            .map(|item| CpuFeature { name: text(item, "name"), policy: text(item, "policy") })
            .collect())
    }

    /// `domain.cpu.model`; empty if there is none.
    pub(crate) fn cpu_model(&self) -> Result<&str, ShapeError> {
        self.string(CPU_MODEL)
    }

    /// `architecture`; empty if there is none.
    pub(crate) fn architecture(&self) -> Result<&str, ShapeError> {
        self.string(ARCHITECTURE)
    }

    /// `nodeSelector` and required node affinity.
    pub(crate) fn placement(&self) -> Result<Placement<'_>, ShapeError> {
        let selector = self.members(NODE_SELECTOR)?;
        let terms = self.list(NODE_AFFINITY_TERMS)?;
        Ok(Placement {
            selector: selector
                .iter()
                .map(|(key, value)| (key.as_ref(), value.as_str().unwrap_or_default()))
                .collect(),
            terms: terms.iter().map(affinity_term).collect(),
        })
    }

    /// The template's annotation `hooks.kubevirt.io/hookSidecars`; empty if there is none.
    pub(crate) fn hook_sidecars(&self) -> Result<&str, ShapeError> {
        self.string(HOOK_SIDECARS)
    }

    /// `volumes`.
    pub(crate) fn volumes(&self) -> Result<Vec<Volume<'_>>, ShapeError> {
        Ok(self.list(VOLUMES)?.iter().map(volume).collect())
    }

    /// `domain.devices.hostDevices`.
    pub(crate) fn host_devices(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(HOST_DEVICES)
    }

    /// `domain.devices.gpus`.
    pub(crate) fn gpus(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(GPUS)
    }

    /// `domain.resources.limits[resource]`, as it is written, without quotes.
    pub(crate) fn limit(&self, resource: &str) -> Result<Option<&str>, ShapeError> {
        self.member(LIMITS, resource)
    }

    /// The manifest that `kubectl apply` was last given, as JSON, if the VirtualMachine has it.
    pub(crate) fn last_applied(&self) -> Option<String> {
        let annotation =
            self.members(ANNOTATIONS).ok()?.iter().find(|(k, _)| k == LAST_APPLIED_KEY);
        match annotation {
            Some((_, Json::Text(text))) => serde_json::from_str(text.get()).ok(),
            _ => None,
        }
    }

    /// Whether the VirtualMachine has exactly what the edit writes: nothing less, nothing beside it.
    pub(crate) fn has(&self, edit: &Edit) -> bool {
        match edit.entry() {
            Entry::Item(path, members) => {
                let items = self.list(path).unwrap_or_default();
                items.iter().any(|item| is_like(item, &members, true))
            }
            Entry::Member(path, key, value) => {
                self.member(path, &key).ok().flatten() == Some(&value)
            }
        }
    }

    /// As [`VirtualMachine::has`], for edits that write an entry of their own.
    pub(crate) fn has_entry(&self, edit: &Edit) -> bool {
        !matches!(edit, Edit::SetHookSidecars { .. }) && self.has(edit)
    }

    /// Applies all the edits, or none.
    ///
    /// # Errors
    /// [`ShapeError`] where one of them meets a part of a wrong type; then nothing has changed.
    pub(crate) fn apply(&mut self, edits: &[Edit]) -> Result<(), ShapeError> {
        edits.iter().try_for_each(|edit| self.check(edit))?;
        edits.iter().try_for_each(|edit| self.apply_one(edit))
    }

    /// Takes the edits back: removes what [`VirtualMachine::has`] finds, and the list or object that is left empty.
    ///
    /// # Errors
    /// None where `has` is true for all the edits.
    pub(crate) fn take_back<'e>(
        &mut self,
        edits: impl IntoIterator<Item = &'e Edit>,
    ) -> Result<(), ShapeError> {
        edits
            .into_iter()
            .filter(|edit| self.has(edit))
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|edit| match edit.entry() {
                Entry::Item(path, members) => self.remove_item(path, &members),
                Entry::Member(path, key, _) => self.remove_member(path, &key),
            })
    }

    /// Sets an annotation of the VirtualMachine itself.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.annotations` is no object.
    pub(crate) fn set_annotation(&mut self, key: Key, value: String) -> Result<(), ShapeError> {
        let annotations = self.members_mut(ANNOTATIONS)?;
        match annotations.iter_mut().rev().find(|(k, _)| key.is(k)) {
            Some((_, old)) if old.as_str() == Some(&value) => return Ok(()),
            Some((_, old)) => *old = value.into(),
            None => annotations.push((key.to_string().into(), value.into())),
        }
        self.changed = true;
        Ok(())
    }

    /// Removes an annotation of the VirtualMachine itself, if it is there.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.annotations` is no object.
    pub(crate) fn remove_annotation(&mut self, key: Key) -> Result<(), ShapeError> {
        self.remove(ANNOTATIONS, |k| key.is(k))
    }

    /// Removes a label of the VirtualMachine itself, if it is there.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.labels` is no object.
    pub(crate) fn remove_label(&mut self, key: Key) -> Result<(), ShapeError> {
        self.remove(LABELS, |k| key.is(k))
    }

    fn remove(&mut self, path: Path, is_key: impl Fn(&str) -> bool) -> Result<(), ShapeError> {
        if self.members(path)?.iter().any(|(k, _)| is_key(k)) {
            self.members_mut(path)?.retain(|(k, _)| !is_key(k));
            self.changed = true;
        }
        Ok(())
    }

    fn devices(&self, path: Path) -> Result<Vec<Device<'_>>, ShapeError> {
        let items = self.list(path)?;
        if items.len() > MAX_DEVICES {
            return Err(ShapeError::TooMany { path, count: items.len() });
        }
        Ok(items
            .iter()
            .map(|item| Device { name: text(item, "name"), device_name: text(item, "deviceName") })
            .collect())
    }

    /// That an edit will meet nothing of a wrong type.
    fn check(&self, edit: &Edit) -> Result<(), ShapeError> {
        if self.find(TEMPLATE_SPEC)?.is_none() {
            return Err(ShapeError::Missing { path: TEMPLATE_SPEC });
        }
        if let Edit::SetHookSidecars { .. } = edit {
            self.hook_sidecars()?;
        }
        match edit.entry() {
            Entry::Item(path, _) => self.list(path).map(|_| ()),
            Entry::Member(path, ..) => self.members(path).map(|_| ()),
        }
    }

    fn apply_one(&mut self, edit: &Edit) -> Result<(), ShapeError> {
        match (edit, edit.entry()) {
            (Edit::SetHookSidecars { value }, Entry::Member(path, key, _)) if value.is_empty() => {
                self.remove_member(path, &key)
            }
            (Edit::SetHookSidecars { value }, _) => {
                if self.hook_sidecars()? != value {
                    *self.reach(HOOK_SIDECARS)? = value.clone().into();
                    self.changed = true;
                }
                Ok(())
            }
            (_, Entry::Member(path, key, value)) => self.set_absent(path, &key, &value),
            (Edit::RequireCpuFeature { name }, _)
                if self.cpu_features()?.iter().any(|feature| feature.name == *name) =>
            {
                Ok(())
            }
            (_, Entry::Item(path, members)) => {
                let is_there = self.list(path)?.iter().any(|item| is_like(item, &members, false));
                if is_there { Ok(()) } else { self.append(path, members) }
            }
        }
    }

    fn remove_item(&mut self, path: Path, members: &Members<'_>) -> Result<(), ShapeError> {
        let Some(index) = self.list(path)?.iter().position(|item| is_like(item, members, true))
        else {
            return Ok(());
        };
        if let Json::Array(items) = self.reach(path)? {
            items.remove(index);
        }
        self.changed = true;
        if self.list(path)?.is_empty() { self.drop_empty(path) } else { Ok(()) }
    }

    fn remove_member(&mut self, path: Path, key: &str) -> Result<(), ShapeError> {
        self.remove(path, |k| k == key)?;
        if self.find(path)?.is_some() && self.members(path)?.is_empty() {
            return self.drop_empty(path);
        }
        Ok(())
    }

    /// Removes the list or object at the path from what it stands in.
    fn drop_empty(&mut self, path: Path) -> Result<(), ShapeError> {
        match path.0.split_last() {
            Some((key, parent)) => self.remove(Path(parent), |k| k == *key),
            None => Ok(()),
        }
    }

    /// Sets a member of an object, which is made if it is not there, unless it has the member.
    fn set_absent(&mut self, path: Path, key: &str, value: &str) -> Result<(), ShapeError> {
        if !self.members(path)?.iter().any(|(k, _)| k == key) {
            let member = (Cow::Owned(key.to_owned()), value.to_owned().into());
            self.members_mut(path)?.push(member);
            self.changed = true;
        }
        Ok(())
    }

    /// Appends an object to a list, which is made if it is not there.
    fn append(&mut self, path: Path, members: Members<'a>) -> Result<(), ShapeError> {
        let list = self.reach(path)?;
        match list {
            Json::Array(items) => items.push(Json::Object(members)),
            Json::Null => *list = Json::Array(vec![Json::Object(members)]),
            other => return Err(wrong_type(path, other, "a list")),
        }
        self.changed = true;
        Ok(())
    }

    /// The value at the path; `None` where it, or an object on the way, is absent or null.
    fn find(&self, path: Path) -> Result<Option<&Json<'a>>, ShapeError> {
        let mut json = &self.root;
        for (depth, key) in path.0.iter().enumerate() {
            match json {
                Json::Object(_) => match json.get(key) {
                    Some(value) => json = value,
                    None => return Ok(None),
                },
                Json::Null => return Ok(None),
                other => return Err(wrong_type(path.first(depth), other, "an object")),
            }
        }
        Ok(Some(json).filter(|json| !matches!(json, Json::Null)))
    }

    fn string(&self, path: Path) -> Result<&str, ShapeError> {
        match self.find(path)? {
            None => Ok(""),
            Some(Json::String(text)) => Ok(text),
            Some(other) => Err(wrong_type(path, other, "a string")),
        }
    }

    fn list(&self, path: Path) -> Result<&[Json<'a>], ShapeError> {
        match self.find(path)? {
            None => Ok(&[]),
            Some(Json::Array(items)) => Ok(items),
            Some(other) => Err(wrong_type(path, other, "a list")),
        }
    }

    /// The text of a member of the object at the path, without quotes.
    fn member(&self, path: Path, key: &str) -> Result<Option<&str>, ShapeError> {
        let member = self.members(path)?.iter().find(|(k, _)| k == key);
        Ok(member.map(|(_, value)| match value {
            Json::Text(text) => text.get().trim_matches('"'),
            other => other.as_str().unwrap_or_default(),
        }))
    }

    fn members(&self, path: Path) -> Result<&[Member<'a>], ShapeError> {
        match self.find(path)? {
            None => Ok(&[]),
            Some(Json::Object(members)) => Ok(members),
            Some(other) => Err(wrong_type(path, other, "an object")),
        }
    }

    /// The members of the object at the path, which is made if it is not there.
    fn members_mut(&mut self, path: Path) -> Result<&mut Members<'a>, ShapeError> {
        as_object(self.reach(path)?, path)
    }

    /// The value at the path; objects on the way are made, the value itself is null if it was not there.
    fn reach(&mut self, path: Path) -> Result<&mut Json<'a>, ShapeError> {
        let mut json = &mut self.root;
        for (depth, key) in path.0.iter().enumerate() {
            let members = as_object(json, path.first(depth))?;
            if !members.iter().any(|(k, _)| k == key) {
                members.push((Cow::Borrowed(*key), Json::Null));
            }
            json = match members.iter_mut().rev().find(|(k, _)| k == key) {
                Some((_, value)) => value,
                None => {
                    return Err(ShapeError::Missing { path: path.first(depth) });
                }
            };
        }
        Ok(json)
    }
}

/// Whether an item has these members; if `exactly`, no other, and none that is empty because it is absent.
fn is_like(item: &Json<'_>, members: &[Member<'_>], exactly: bool) -> bool {
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

fn volume<'v>(item: &'v Json<'_>) -> Volume<'v> {
    let config_map = item.get("configMap").map(|source| text(source, "name")).unwrap_or_default();
    Volume { name: text(item, "name"), config_map }
}

/// The members of an object of strings.
fn strings<'a, const N: usize>(members: [(&'static str, &str); N]) -> Members<'a> {
    members.into_iter().map(|(key, value)| (key.into(), value.to_owned().into())).collect()
}

/// The expressions of a term of required node affinity that have the operator `In`.
fn affinity_term<'v>(term: &'v Json<'_>) -> Vec<(&'v str, Vec<&'v str>)> {
    let expressions = term.get("matchExpressions").map(Json::items).unwrap_or_default();
    let is_in = |expression: &&Json<'_>| text(expression, "operator") == "In";
    expressions
        .iter()
        .filter(is_in)
        .map(|expression| {
            let values = expression.get("values").map(Json::items).unwrap_or_default();
            (text(expression, "key"), values.iter().filter_map(Json::as_str).collect())
        })
        .collect()
}

fn as_object<'j, 'a>(
    json: &'j mut Json<'a>,
    path: Path,
) -> Result<&'j mut Members<'a>, ShapeError> {
    if let Json::Null = json {
        *json = Json::Object(Vec::new());
    }
    match json {
        Json::Object(members) => Ok(members),
        other => Err(wrong_type(path, other, "an object")),
    }
}

fn wrong_type(path: Path, found: &Json<'_>, expected: &'static str) -> ShapeError {
    ShapeError::WrongType { path, found: found.kind(), expected }
}

/// The member's text; empty where it is absent or no string.
fn text<'v>(object: &'v Json<'_>, key: &str) -> &'v str {
    object.get(key).and_then(Json::as_str).unwrap_or_default()
}
