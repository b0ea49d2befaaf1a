//! Places in a VirtualMachine, and what is wrong with a part that is not as KubeVirt's API has it.

use std::fmt;

use crate::json::{Json, Member, Members};
use crate::kinds::pci::MAX_DEVICES;
use crate::text::Quoted;

/// A place in a VirtualMachine: the keys that lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path(pub(super) &'static [&'static str]);

impl Path {
    /// The first `length` keys.
    pub(super) fn first(self, length: usize) -> Path {
        Path(self.0.get(..length).unwrap_or(self.0))
    }

    /// The CPU, memory or resources of the domain that the place is in. KubeVirt demands that the devices are there.
    pub(super) fn part_of_domain(self) -> Option<Path> {
        let is_optional = matches!(self.0, ["spec", "template", "spec", "domain", "cpu" | "memory" | "resources", _]);
        is_optional.then(|| self.first(5))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

pub(super) const ANNOTATIONS: Path = Path(&["metadata", "annotations"]);
pub(super) const LABELS: Path = Path(&["metadata", "labels"]);
pub(super) const TEMPLATE_ANNOTATIONS: Path = Path(&["spec", "template", "metadata", "annotations"]);
pub(super) const HOOK_SIDECARS: Path = Path(&["spec", "template", "metadata", "annotations", HOOK_SIDECARS_KEY]);
pub(super) const VOLUMES: Path = Path(&["spec", "template", "spec", "volumes"]);
pub(super) const TEMPLATE_SPEC: Path = Path(&["spec", "template", "spec"]);
pub(super) const NODE_SELECTOR: Path = Path(&["spec", "template", "spec", "nodeSelector"]);
pub(super) const NODE_AFFINITY_TERMS: Path = Path(&[
    "spec",
    "template",
    "spec",
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
]);
pub(super) const ARCHITECTURE: Path = Path(&["spec", "template", "spec", "architecture"]);
pub(super) const CPU_MODEL: Path = Path(&["spec", "template", "spec", "domain", "cpu", "model"]);
pub(super) const CPU_FEATURES: Path = Path(&["spec", "template", "spec", "domain", "cpu", "features"]);
pub(super) const CPU: Path = Path(&["spec", "template", "spec", "domain", "cpu"]);
pub(super) const NUMA: Path = Path(&["spec", "template", "spec", "domain", "cpu", "numa"]);
pub(super) const MEMORY: Path = Path(&["spec", "template", "spec", "domain", "memory"]);
pub(super) const HUGEPAGES: Path = Path(&["spec", "template", "spec", "domain", "memory", "hugepages"]);
pub(super) const INSTANCE_TYPE: Path = Path(&["spec", "instancetype"]);
pub(super) const HOST_DEVICES: Path = Path(&["spec", "template", "spec", "domain", "devices", "hostDevices"]);
pub(super) const GPUS: Path = Path(&["spec", "template", "spec", "domain", "devices", "gpus"]);
pub(super) const REQUESTS: Path = Path(&["spec", "template", "spec", "domain", "resources", "requests"]);
pub(super) const LIMITS: Path = Path(&["spec", "template", "spec", "domain", "resources", "limits"]);

/// The annotation of the template in which KubeVirt reads hook sidecars.
pub(super) const HOOK_SIDECARS_KEY: &str = "hooks.kubevirt.io/hookSidecars";

/// A part of the VirtualMachine that is not as KubeVirt's API has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    /// Cause: a part of the VM has the wrong type
    /// Cure: KubeVirt would refuse it, too
    #[error("{path} is {found} where KubeVirt expects {expected}; correct the VirtualMachine")]
    WrongType { path: Path, found: &'static str, expected: &'static str },
    /// Cause: there is no `spec.template.spec`
    /// Cure: add it
    #[error("{path} is missing, and a VirtualMachine needs it; correct the VirtualMachine")]
    Missing { path: Path },
    /// Cause: more devices in the template than a guest can have
    /// Cure: remove those that it does not need
    #[error("{path} has {count} entries, but a guest can have at most {MAX_DEVICES} devices; remove some")]
    TooMany { path: Path, count: usize },
    /// Cause: a typing mistake
    /// Cure: a quantity as Kubernetes has it, such as `2`, `500m`, `8Gi`
    #[error("{key} under {path} is {}, which is not a quantity; write one such as 2 or 8Gi", Quoted(.text))]
    Quantity { path: Path, key: &'static str, text: String },
    /// Cause: somebody wrote it by hand
    /// Cure: make it a JSON list, or remove it
    #[error(
        "spec.template.metadata.annotations[\"{HOOK_SIDECARS_KEY}\"] is not a JSON list, so no sidecar can be added to it; \
         correct or remove that annotation"
    )]
    HookSidecars,
}

/// The value at the path; `None` where it, or an object on the way, is absent or null.
pub(super) fn find<'j, 'a>(root: &'j Json<'a>, path: Path) -> Result<Option<&'j Json<'a>>, ShapeError> {
    let mut json = root;
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

/// The string at the path; empty where there is none.
pub(super) fn string<'j>(root: &'j Json<'_>, path: Path) -> Result<&'j str, ShapeError> {
    match find(root, path)? {
        None => Ok(""),
        Some(Json::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(path, other, "a string")),
    }
}

/// The items of the list at the path; none where there is no list.
pub(super) fn list<'j, 'a>(root: &'j Json<'a>, path: Path) -> Result<&'j [Json<'a>], ShapeError> {
    match find(root, path)? {
        None => Ok(&[]),
        Some(Json::Array(items)) => Ok(items),
        Some(other) => Err(wrong_type(path, other, "a list")),
    }
}

/// The members of the object at the path; none where there is not an object.
pub(super) fn members<'j, 'a>(root: &'j Json<'a>, path: Path) -> Result<&'j [Member<'a>], ShapeError> {
    match find(root, path)? {
        None => Ok(&[]),
        Some(Json::Object(members)) => Ok(members),
        Some(other) => Err(wrong_type(path, other, "an object")),
    }
}

/// The value at the path; objects on the way are made, the value itself is null if it was not there.
pub(super) fn reach<'j, 'a>(root: &'j mut Json<'a>, path: Path) -> Result<&'j mut Json<'a>, ShapeError> {
    let mut json = root;
    for (depth, key) in path.0.iter().enumerate() {
        let members = as_object(json, path.first(depth))?;
        if !members.iter().any(|(k, _)| k == key) {
            members.push(((*key).into(), Json::Null));
        }
        json = match members.iter_mut().rev().find(|(k, _)| k == key) {
            Some((_, value)) => value,
            None => return Err(ShapeError::Missing { path: path.first(depth) }),
        };
    }
    Ok(json)
}

/// The members of the object at the path, which is made if it is not there.
pub(super) fn members_mut<'j, 'a>(root: &'j mut Json<'a>, path: Path) -> Result<&'j mut Members<'a>, ShapeError> {
    as_object(reach(root, path)?, path)
}

/// Removes the members whose keys are meant from the object at the path; whether there were any.
pub(super) fn remove(root: &mut Json<'_>, path: Path, is_meant: &dyn Fn(&str) -> bool) -> Result<bool, ShapeError> {
    let is_there = members(root, path)?.iter().any(|(key, _)| is_meant(key));
    if is_there {
        members_mut(root, path)?.retain(|(key, _)| !is_meant(key));
    }
    Ok(is_there)
}

/// Removes the list or object at the path from what it stands in, if it is empty.
pub(super) fn remove_if_empty(root: &mut Json<'_>, path: Path) -> Result<(), ShapeError> {
    let is_empty = match find(root, path)? {
        Some(Json::Array(items)) => items.is_empty(),
        Some(Json::Object(members)) => members.is_empty(),
        _ => false,
    };
    match path.0.split_last() {
        Some((key, parent)) if is_empty => remove(root, Path(parent), &|k| k == *key).map(|_| ()),
        _ => Ok(()),
    }
}

fn as_object<'j, 'a>(json: &'j mut Json<'a>, path: Path) -> Result<&'j mut Members<'a>, ShapeError> {
    if let Json::Null = json {
        *json = Json::Object(Vec::new());
    }
    match json {
        Json::Object(members) => Ok(members),
        other => Err(wrong_type(path, other, "an object")),
    }
}

pub(super) fn wrong_type(path: Path, found: &Json<'_>, expected: &'static str) -> ShapeError {
    ShapeError::WrongType { path, found: found.kind(), expected }
}
