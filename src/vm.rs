//! The VirtualMachine's JSON: typed reads, and the only edits that there are. Edits append, or set what is absent;
//! they never reorder, and never touch what they are not named after. Knows no feature and no setting.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::directives::PREFIX;
use crate::json::{Json, Members, Shape};
use crate::request::Unreadable;

/// A VirtualMachine (`kubevirt.io`), read as far as the policy needs it; the rest stays text.
#[derive(Debug)]
pub(crate) struct VirtualMachine<'a> {
    root: Json<'a>,
    changed: bool,
}

/// A change under `spec.template`. Applied where it is already in place, it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Appends `{name, policy: require}` to `domain.cpu.features`.
    RequireCpuFeature { name: &'static str },
    /// Appends `{name, deviceName}` to `domain.devices.hostDevices`.
    AddHostDevice { name: String, device_name: String },
    /// Sets `domain.resources.limits[resource]`.
    SetLimit { resource: String, quantity: String },
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

/// A part of the VirtualMachine that is not as KubeVirt's API has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("{path} is {found} where KubeVirt expects {expected}; correct the VirtualMachine")]
    WrongType {
        path: Path,
        found: &'static str,
        expected: &'static str,
    },
    #[error("{path} is missing, and a VirtualMachine needs it; correct the VirtualMachine")]
    Missing { path: Path },
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
const TEMPLATE_SPEC: Path = Path(&["spec", "template", "spec"]);
const NODE_SELECTOR: Path = Path(&["spec", "template", "spec", "nodeSelector"]);
const CPU_MODEL: Path = Path(&["spec", "template", "spec", "domain", "cpu", "model"]);
const CPU_FEATURES: Path = Path(&["spec", "template", "spec", "domain", "cpu", "features"]);
const HOST_DEVICES: Path = Path(&[
    "spec",
    "template",
    "spec",
    "domain",
    "devices",
    "hostDevices",
]);
const GPUS: Path = Path(&["spec", "template", "spec", "domain", "devices", "gpus"]);
const LIMITS: Path = Path(&["spec", "template", "spec", "domain", "resources", "limits"]);

/// The parts that the paths lead to.
static SHAPE: Shape = {
    const DEVICES: Shape = Shape::Items(&Shape::Object(&[
        ("name", Shape::Tree),
        ("deviceName", Shape::Tree),
    ]));
    const FEATURES: Shape = Shape::Items(&Shape::Object(&[
        ("name", Shape::Tree),
        ("policy", Shape::Tree),
    ]));
    const DOMAIN: Shape = Shape::Object(&[
        (
            "cpu",
            Shape::Object(&[("model", Shape::Tree), ("features", FEATURES)]),
        ),
        (
            "devices",
            Shape::Object(&[("hostDevices", DEVICES), ("gpus", DEVICES)]),
        ),
        (
            "resources",
            Shape::Object(&[("limits", Shape::Object(&[]))]),
        ),
    ]);
    const SPEC: Shape = Shape::Object(&[("nodeSelector", Shape::Tree), ("domain", DOMAIN)]);
    const METADATA: Shape = Shape::Object(&[
        ("annotations", Shape::Prefixed(PREFIX)),
        ("labels", Shape::Object(&[])),
    ]);
    Shape::Object(&[
        ("metadata", METADATA),
        (
            "spec",
            Shape::Object(&[("template", Shape::Object(&[("spec", SPEC)]))]),
        ),
    ])
};

impl Serialize for VirtualMachine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.root.serialize(serializer)
    }
}

impl<'a> VirtualMachine<'a> {
    /// Reads a VirtualMachine. A member of a wrong type is an error when it is asked for, not before.
    ///
    /// # Errors
    /// [`Unreadable`] where a part that the policy reads is nested too deeply or has a number out of range.
    pub(crate) fn parse(object: &'a RawValue) -> Result<Self, Unreadable> {
        match Json::parse(object, &SHAPE) {
            Ok(root) => Ok(Self {
                root,
                changed: false,
            }),
            Err(e) => Err(Unreadable::new("the VirtualMachine", &e)),
        }
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
            .map(|item| CpuFeature {
                name: text(item, "name"),
                policy: text(item, "policy"),
            })
            .collect())
    }

    /// `domain.cpu.model`; empty if there is none.
    pub(crate) fn cpu_model(&self) -> Result<&str, ShapeError> {
        match self.find(CPU_MODEL)? {
            None => Ok(""),
            Some(json) => json
                .as_str()
                .ok_or_else(|| wrong_type(CPU_MODEL, json, "a string")),
        }
    }

    /// `nodeSelector`, key and value; values that are no strings are empty.
    pub(crate) fn node_selector(&self) -> Result<Vec<(&str, &str)>, ShapeError> {
        let members = self.members(NODE_SELECTOR)?;
        Ok(members
            .iter()
            .map(|(k, v)| (k.as_ref(), v.as_str().unwrap_or_default()))
            .collect())
    }

    /// `domain.devices.hostDevices`.
    pub(crate) fn host_devices(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(HOST_DEVICES)
    }

    /// `domain.devices.gpus`.
    pub(crate) fn gpus(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(GPUS)
    }

    /// Whether `domain.resources.limits` has the resource.
    pub(crate) fn has_limit(&self, resource: &str) -> Result<bool, ShapeError> {
        Ok(self.members(LIMITS)?.iter().any(|(key, _)| key == resource))
    }

    /// Applies all the edits, or none.
    ///
    /// # Errors
    /// [`ShapeError`] where one of them meets a part of a wrong type; then nothing has changed.
    pub(crate) fn apply(&mut self, edits: &[Edit]) -> Result<(), ShapeError> {
        edits.iter().try_for_each(|edit| self.check(edit))?;
        edits.iter().try_for_each(|edit| self.apply_one(edit))
    }

    /// Sets an annotation of the VirtualMachine itself.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.annotations` is no object.
    pub(crate) fn set_annotation(&mut self, key: String, value: String) -> Result<(), ShapeError> {
        let annotations = self.members_mut(ANNOTATIONS)?;
        match annotations.iter_mut().rev().find(|(k, _)| *k == key) {
            Some((_, old)) if old.as_str() == Some(&value) => return Ok(()),
            Some((_, old)) => *old = value.into(),
            None => annotations.push((key.into(), value.into())),
        }
        self.changed = true;
        Ok(())
    }

    /// Removes an annotation of the VirtualMachine itself, if it is there.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.annotations` is no object.
    pub(crate) fn remove_annotation(&mut self, key: &str) -> Result<(), ShapeError> {
        self.remove(ANNOTATIONS, key)
    }

    /// Removes a label of the VirtualMachine itself, if it is there.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.labels` is no object.
    pub(crate) fn remove_label(&mut self, key: &str) -> Result<(), ShapeError> {
        self.remove(LABELS, key)
    }

    fn remove(&mut self, path: Path, key: &str) -> Result<(), ShapeError> {
        if self.members(path)?.iter().any(|(k, _)| k == key) {
            self.members_mut(path)?.retain(|(k, _)| k != key);
            self.changed = true;
        }
        Ok(())
    }

    fn devices(&self, path: Path) -> Result<Vec<Device<'_>>, ShapeError> {
        let items = self.list(path)?;
        Ok(items
            .iter()
            .map(|item| Device {
                name: text(item, "name"),
                device_name: text(item, "deviceName"),
            })
            .collect())
    }

    /// That an edit will meet nothing of a wrong type.
    fn check(&self, edit: &Edit) -> Result<(), ShapeError> {
        if self.find(TEMPLATE_SPEC)?.is_none() {
            return Err(ShapeError::Missing {
                path: TEMPLATE_SPEC,
            });
        }
        match edit {
            Edit::RequireCpuFeature { .. } => self.list(CPU_FEATURES).map(|_| ()),
            Edit::AddHostDevice { .. } => self.list(HOST_DEVICES).map(|_| ()),
            Edit::SetLimit { .. } => self.members(LIMITS).map(|_| ()),
        }
    }

    fn apply_one(&mut self, edit: &Edit) -> Result<(), ShapeError> {
        match edit {
            Edit::RequireCpuFeature { name } => {
                if !self
                    .cpu_features()?
                    .iter()
                    .any(|feature| feature.name == *name)
                {
                    self.append(CPU_FEATURES, &[("name", name), ("policy", "require")])?;
                }
            }
            Edit::AddHostDevice { name, device_name } => {
                let device = Device { name, device_name };
                if !self.host_devices()?.contains(&device) {
                    self.append(HOST_DEVICES, &[("name", name), ("deviceName", device_name)])?;
                }
            }
            Edit::SetLimit { resource, quantity } => {
                if !self.has_limit(resource)? {
                    let member = (resource.clone().into(), quantity.clone().into());
                    self.members_mut(LIMITS)?.push(member);
                    self.changed = true;
                }
            }
        }
        Ok(())
    }

    /// Appends an object of strings to a list, which is made if it is not there.
    fn append(&mut self, path: Path, members: &[(&'static str, &str)]) -> Result<(), ShapeError> {
        let object = members
            .iter()
            .map(|(key, value)| (Cow::Borrowed(*key), (*value).to_owned().into()))
            .collect();
        let list = self.reach(path)?;
        match list {
            Json::Array(items) => items.push(Json::Object(object)),
            Json::Null => *list = Json::Array(vec![Json::Object(object)]),
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

    fn list(&self, path: Path) -> Result<&[Json<'a>], ShapeError> {
        match self.find(path)? {
            None => Ok(&[]),
            Some(Json::Array(items)) => Ok(items),
            Some(other) => Err(wrong_type(path, other, "a list")),
        }
    }

    fn members(&self, path: Path) -> Result<&[(Cow<'a, str>, Json<'a>)], ShapeError> {
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
                    return Err(ShapeError::Missing {
                        path: path.first(depth),
                    });
                }
            };
        }
        Ok(json)
    }
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
    ShapeError::WrongType {
        path,
        found: found.kind(),
        expected,
    }
}

/// The member's text; empty where it is absent or no string.
fn text<'v>(object: &'v Json<'_>, key: &str) -> &'v str {
    object.get(key).and_then(Json::as_str).unwrap_or_default()
}
