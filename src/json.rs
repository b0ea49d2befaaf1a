//! Helpers for JSON that serde_json does not have.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The type of a value, for a message.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The value as compact JSON. No value of the policy has a key that is not a string, so this cannot fail.
pub(crate) fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Reads JSON as a type. `None` if it is not valid, or not of the type.
///
/// The type is read from a `Value`, as the parts of a VirtualMachine are. Code that reads it from text would be added for
/// each type, 15 KB in all.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    let value: Value = serde_json::from_str(text).ok()?;
    T::deserialize(&value).ok()
}

/// Whether a form writes this value for "not set": `null`, `""`, `[]`, `{}`, or a list of these.
pub(crate) fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_unset),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether a value and the values in it are at most `left`, from which they are subtracted. The counting ends there.
pub(crate) fn is_at_most(value: &Value, left: &mut usize) -> bool {
    let Some(rest) = left.checked_sub(1) else { return false };
    *left = rest;
    match value {
        Value::Array(items) => items.iter().all(|item| is_at_most(item, left)),
        Value::Object(members) => members.values().all(|member| is_at_most(member, left)),
        _ => true,
    }
}
