//! The settings as data for the form, the chart and the reference, which `cargo xtask generate` writes. The module does
//! not use them.

use serde_json::Value;

/// A setting, or a section of settings.
#[derive(Debug, Clone)]
pub struct Description {
    /// Its key in its section.
    pub key: &'static str,
    /// Its label in the form. The label of a section is the start of the labels in it.
    pub label: &'static str,
    /// The help text.
    pub help: String,
    /// The values that it accepts.
    pub content: Content,
}

/// What a setting accepts.
#[derive(Debug, Clone)]
pub enum Content {
    /// Further settings.
    Section(Vec<Description>),
    /// A value.
    Value {
        /// The accepted values, as a JSON schema.
        schema: Value,
        /// The default.
        default: Value,
    },
}

impl Description {
    pub(crate) fn section(key: &'static str, help: &str, (label, settings): (&'static str, Vec<Self>)) -> Self {
        Self { key, label, help: help.trim().to_owned(), content: Content::Section(settings) }
    }
}
