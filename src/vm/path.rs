//! Paths to values in a VirtualMachine's JSON, and errors for parts that do not follow KubeVirt's API.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::json::type_name;
use crate::text::{Quoted, line};
use crate::values::pci::MAX_DEVICES;

/// The keys that lead from the VirtualMachine to a value in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path(pub(super) &'static [&'static str]);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A part of the VirtualMachine that does not follow KubeVirt's API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    /// Cause: a part of the VM has the wrong type
    /// Cure: correct it; KubeVirt would reject it, too
    #[error("{path} is {found} where KubeVirt expects {expected}; correct the VirtualMachine")]
    WrongType { path: Path, found: &'static str, expected: &'static str },
    /// Cause: a part of the VM has the wrong type
    /// Cure: correct it; KubeVirt would reject it, too
    #[error("{key} under {path} is {found} where KubeVirt expects {expected}; correct the VirtualMachine")]
    WrongField { path: Path, key: &'static str, found: &'static str, expected: &'static str },
    /// Cause: a part of the VM has the wrong type
    /// Cure: correct it; KubeVirt would reject it, too
    #[error("{path} is not as Kubernetes expects it: {problem}; correct the VirtualMachine")]
    Unreadable { path: Path, problem: String },
    /// Cause: there is no `spec.template.spec`
    /// Cure: add it
    #[error("{path} is missing, and a VirtualMachine needs it; correct the VirtualMachine")]
    Missing { path: Path },
    /// Cause: the template has more devices than a guest can have
    /// Cure: remove those that the guest does not need
    #[error("{path} has {count} entries, but a guest can have at most {MAX_DEVICES} devices; remove some")]
    TooMany { path: Path, count: usize },
    /// Cause: node selector, required node affinity and tolerations have more values than the policy compares with every node
    /// Cure: select nodes by a label that they share, instead of by their names
    #[error(
        "{path} has too many values: with node selector, node affinity and tolerations together, the policy compares at most \
         1000 with every node; remove some"
    )]
    LongPlacement { path: Path },
    /// Cause: a typing mistake
    /// Cure: write a quantity in Kubernetes' form, such as `2`, `500m`, `8Gi`
    #[error("{key} under {path} is {}, which is not a quantity; write one such as 2 or 8Gi", Quoted(.text))]
    Quantity { path: Path, key: &'static str, text: String },
    /// Cause: somebody wrote it by hand
    /// Cure: make it a JSON list, or remove it
    #[error(
        "spec.template.metadata.annotations[\"hooks.kubevirt.io/hookSidecars\"] is not a JSON list, so no sidecar can be \
         added to it; correct or remove that annotation"
    )]
    HookSidecars,
    /// Cause: the annotation is longer than the policy reads
    /// Cure: shorten it; a long program can be in a ConfigMap
    #[error(
        "spec.template.metadata.annotations[\"hooks.kubevirt.io/hookSidecars\"] is longer than 64 KiB, so no sidecar can be \
         added to it; shorten that annotation"
    )]
    LongHookSidecars,
}

impl ShapeError {
    /// The error for a field with a wrong type. `path` leads to the object with the field.
    pub(super) fn field(path: Path, key: &'static str, found: &Value, expected: &'static str) -> Self {
        Self::WrongField { path, key, found: type_name(found), expected }
    }
}

impl Path {
    /// The first `length` keys.
    fn first(self, length: usize) -> Self {
        Self(self.0.get(..length).unwrap_or(self.0))
    }

    /// The path without its last key, and that key.
    fn parent(self) -> Option<(Self, &'static str)> {
        let (last, first) = self.0.split_last()?;
        Some((Self(first), *last))
    }

    /// The parent of the path, if it is optional: the template's metadata, and CPU, memory or resources of the domain.
    /// KubeVirt requires `devices`.
    fn optional_parent(self) -> Option<Self> {
        match self.0 {
            ["spec", "template", "metadata", _] => Some(self.first(3)),
            ["spec", "template", "spec", "domain", "cpu" | "memory" | "resources", _] => Some(self.first(5)),
            _ => None,
        }
    }

    /// The value at the path; `None` if it or one of its parents is absent or null.
    pub(super) fn find(self, root: &Value) -> Result<Option<&Value>, ShapeError> {
        let mut value = root;
        for (depth, key) in self.0.iter().enumerate() {
            value = match value {
                Value::Object(members) => members.get(*key).unwrap_or(&Value::Null),
                Value::Null => return Ok(None),
                other => return Err(self.first(depth).wrong_type(other, "an object")),
            };
        }
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    /// The value at the path; `None` if it is absent or cannot be reached.
    pub(super) fn peek(self, root: &Value) -> Option<&Value> {
        self.find(root).ok().flatten()
    }

    /// The string at the path; `None` if it is absent.
    pub(super) fn text(self, root: &Value) -> Result<Option<&str>, ShapeError> {
        self.checked(root, Value::as_str, "a string")
    }

    /// The items of the list at the path; empty if it is absent.
    pub(super) fn items(self, root: &Value) -> Result<&[Value], ShapeError> {
        Ok(self.checked(root, Value::as_array, "a list")?.map(Vec::as_slice).unwrap_or_default())
    }

    /// The members of the object at the path; `None` if it is absent.
    pub(super) fn members(self, root: &Value) -> Result<Option<&Map<String, Value>>, ShapeError> {
        self.checked(root, Value::as_object, "an object")
    }

    /// The value at the path, read with `read`, which returns `None` if the value has a wrong type.
    fn checked<'v, T>(
        self,
        root: &'v Value,
        read: impl Fn(&'v Value) -> Option<T>,
        expected: &'static str,
    ) -> Result<Option<T>, ShapeError> {
        let read = |value| read(value).ok_or_else(|| self.wrong_type(value, expected));
        self.find(root)?.map(read).transpose()
    }

    /// The value at the path, read as a type of Kubernetes; `None` if it is absent.
    pub(super) fn read<'v, T: Deserialize<'v>>(self, root: &'v Value) -> Result<Option<T>, ShapeError> {
        let unreadable =
            |error: serde_json::Error| ShapeError::Unreadable { path: self, problem: line(&error.to_string()) };
        self.find(root)?.map(|value| T::deserialize(value).map_err(unreadable)).transpose()
    }

    /// A member of the object at the path. The member may be null.
    pub(super) fn member<'v>(self, root: &'v Value, key: &str) -> Result<Option<&'v Value>, ShapeError> {
        Ok(self.members(root)?.and_then(|members| members.get(key)))
    }

    /// The value at the path. Missing objects on the way are created. If the value is missing, it is created as null.
    pub(super) fn reach(self, root: &mut Value) -> Result<&mut Value, ShapeError> {
        let mut value = root;
        for (depth, key) in self.0.iter().enumerate() {
            value = self.first(depth).as_object(value)?.entry(*key).or_insert(Value::Null);
        }
        Ok(value)
    }

    /// The members of the object at the path. If the object is missing, it is created.
    pub(super) fn members_mut(self, root: &mut Value) -> Result<&mut Map<String, Value>, ShapeError> {
        self.as_object(self.reach(root)?)
    }

    /// Removes a member of the object at the path. Returns whether it was there.
    pub(super) fn remove_member(self, root: &mut Value, key: &str) -> Result<bool, ShapeError> {
        let is_there = self.member(root, key)?.is_some();
        if is_there {
            self.members_mut(root)?.remove(key);
        }
        Ok(is_there)
    }

    /// Removes the list or object at the path if it is empty, then its parent if that is optional and empty. The parent
    /// was created only for the list or object, and Harvester's webhook fails if `memory` is there without the guest's
    /// memory.
    pub(super) fn remove_if_empty(self, root: &mut Value) -> Result<(), ShapeError> {
        for path in [Some(self), self.optional_parent()].into_iter().flatten() {
            let is_empty = match path.find(root)? {
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(members)) => members.is_empty(),
                _ => false,
            };
            if let Some((parent, key)) = path.parent().filter(|_| is_empty) {
                parent.remove_member(root, key)?;
            }
        }
        Ok(())
    }

    fn as_object(self, value: &mut Value) -> Result<&mut Map<String, Value>, ShapeError> {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(members) => Ok(members),
            other => Err(self.wrong_type(other, "an object")),
        }
    }

    pub(super) fn wrong_type(self, found: &Value, expected: &'static str) -> ShapeError {
        ShapeError::WrongType { path: self, found: type_name(found), expected }
    }
}
