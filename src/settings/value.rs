//! The values that settings take.

use super::{Choice, SettingValue};
use crate::json::Json;
use crate::kinds::image::ImageReference;
use crate::kinds::name::ObjectName;
use crate::kinds::pattern::Pattern;
use crate::kinds::pci::MAX_DEVICES;

fn index_of(json: &Json<'_>, words: &[&str]) -> Option<usize> {
    let word = json.as_str()?;
    words.iter().position(|known| *known == word)
}

/// The words in a row. Not once for each type: there are many.
#[inline(never)]
fn list(prefix: &str, words: &[&str]) -> String {
    prefix.to_owned() + &words.join(", ")
}

impl<T: Choice> SettingValue for T {
    fn takes() -> String {
        list("one of ", T::WORDS)
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        T::ALL.get(index_of(json, T::WORDS)?).copied()
    }

    #[cfg(feature = "describe")]
    fn schema() -> serde_json::Value {
        serde_json::json!({"enum": T::WORDS})
    }

    #[cfg(feature = "describe")]
    fn to_json(&self) -> serde_json::Value {
        self.word().into()
    }
}

impl SettingValue for bool {
    fn takes() -> String {
        "true or false".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }

    #[cfg(feature = "describe")]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "boolean"})
    }

    #[cfg(feature = "describe")]
    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }
}

impl<T: Choice> SettingValue for Vec<T> {
    fn takes() -> String {
        list("a list of ", T::WORDS)
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            // A form leaves empty rows.
            Json::Array(items) => items.iter().filter(|item| !item.is_empty()).map(T::read).collect(),
            _ => None,
        }
    }

    #[cfg(feature = "describe")]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "array", "items": T::schema()})
    }

    #[cfg(feature = "describe")]
    fn to_json(&self) -> serde_json::Value {
        self.iter().map(|choice| choice.to_json()).collect()
    }
}

/// How many devices a VM may have: 1 to 256, the most that a guest's PCI bus numbers allow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub usize);

impl SettingValue for Count {
    fn takes() -> String {
        "a whole number from 1 to 256".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            Json::Number(number) => {
                let value = usize::try_from(number.as_u64()?).ok()?;
                (1..=MAX_DEVICES).contains(&value).then_some(Count(value))
            }
            _ => None,
        }
    }

    #[cfg(feature = "describe")]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "integer", "minimum": 1, "maximum": MAX_DEVICES})
    }

    #[cfg(feature = "describe")]
    fn to_json(&self) -> serde_json::Value {
        self.0.into()
    }
}

impl<const DOTS: bool> SettingValue for ObjectName<DOTS> {
    fn takes() -> String {
        Self::RULE.takes.to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        Self::parse(json.as_str()?)
    }

    #[cfg(feature = "describe")]
    fn to_json(&self) -> serde_json::Value {
        self.as_str().into()
    }
}

impl SettingValue for ImageReference {
    fn takes() -> String {
        "an image reference such as registry.example.com:5000/kubevirt/sidecar-shim:v1.4.0".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        json.as_str()?.parse().ok()
    }

    #[cfg(feature = "describe")]
    fn to_json(&self) -> serde_json::Value {
        self.to_string().into()
    }
}

impl SettingValue for Vec<Pattern> {
    fn takes() -> String {
        "a list of glob patterns: ASCII text without spaces, * for any characters, ? for one".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            // A form leaves empty rows.
            Json::Array(items) => {
                let texts = items.iter().filter(|item| !item.is_empty());
                texts.map(|item| Pattern::read(item.as_str()?)).collect()
            }
            _ => None,
        }
    }

    #[cfg(feature = "describe")]
    fn schema() -> serde_json::Value {
        let item = serde_json::json!({"type": "string", "minLength": 1, "maxLength": 512, "pattern": "^\\S+$"});
        serde_json::json!({"type": "array", "items": item})
    }

    #[cfg(feature = "describe")]
    fn to_json(&self) -> serde_json::Value {
        self.iter().map(|pattern| serde_json::Value::from(pattern.as_str())).collect()
    }
}
