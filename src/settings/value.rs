//! The types of settings' values.

use serde_json::{Value, json};

use super::{Choice, SettingValue};
use crate::json::is_unset;
use crate::values::image::ImageReference;
use crate::values::name::ObjectName;
use crate::values::pattern::Pattern;
use crate::values::pci::MAX_DEVICES;

impl<T: Choice> SettingValue for T {
    fn takes() -> String {
        format!("one of {}", Self::takes_in_list())
    }

    fn takes_in_list() -> String {
        T::WORDS.join(", ")
    }

    fn read(json: &Value) -> Option<Self> {
        let word = json.as_str()?;
        T::ALL.iter().copied().find(|choice| choice.word() == word)
    }

    fn schema() -> Value {
        json!({"enum": T::WORDS})
    }

    fn to_json(&self) -> Value {
        self.word().into()
    }
}

impl SettingValue for bool {
    fn takes() -> String {
        "true or false".to_owned()
    }

    fn read(json: &Value) -> Option<Self> {
        json.as_bool()
    }

    fn schema() -> Value {
        json!({"type": "boolean"})
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

impl<T: SettingValue> SettingValue for Vec<T> {
    fn takes() -> String {
        format!("a list of {}", T::takes_in_list())
    }

    fn read(json: &Value) -> Option<Self> {
        // A form leaves empty rows in a list.
        json.as_array()?.iter().filter(|item| !is_unset(item)).map(T::read).collect()
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }

    fn to_json(&self) -> Value {
        self.iter().map(T::to_json).collect()
    }
}

/// How many devices a VM may have: 1 to 256, the most for which a guest has PCI bus numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub usize);

impl SettingValue for Count {
    fn takes() -> String {
        "a whole number from 1 to 256".to_owned()
    }

    fn read(json: &Value) -> Option<Self> {
        let value = usize::try_from(json.as_u64()?).ok()?;
        (1..=MAX_DEVICES).contains(&value).then_some(Count(value))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 1, "maximum": MAX_DEVICES})
    }

    fn to_json(&self) -> Value {
        self.0.into()
    }
}

impl<const DOTS: bool> SettingValue for ObjectName<DOTS> {
    fn takes() -> String {
        Self::RULE.takes.to_owned()
    }

    fn read(json: &Value) -> Option<Self> {
        Self::parse(json.as_str()?)
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }
}

impl SettingValue for ImageReference {
    fn takes() -> String {
        "an image reference such as registry.example.com:5000/kubevirt/sidecar-shim:v1.4.0".to_owned()
    }

    fn read(json: &Value) -> Option<Self> {
        json.as_str()?.parse().ok()
    }

    fn to_json(&self) -> Value {
        self.to_string().into()
    }
}

impl SettingValue for Pattern {
    fn takes() -> String {
        "glob patterns: ASCII text without spaces, * for any characters, ? for one".to_owned()
    }

    fn read(json: &Value) -> Option<Self> {
        Pattern::parse(json.as_str()?)
    }

    fn schema() -> Value {
        json!({"type": "string", "minLength": 1, "maxLength": 512, "pattern": "^\\S+$"})
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }
}
