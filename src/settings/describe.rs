//! The settings as `cargo xtask generate` needs them, for the form, the chart and the reference. Not in the module.

use serde_json::Value;

/// A setting, or a section of settings.
#[derive(Debug, Clone)]
pub struct Description {
    /// Its key in the section that it stands in.
    pub key: &'static str,
    /// Its label in the form; of a section, the start of the labels in it.
    pub label: &'static str,
    /// What the user should know of it.
    pub help: String,
    /// What it takes.
    pub content: Content,
}

/// What a setting takes.
#[derive(Debug, Clone)]
pub enum Content {
    /// Further settings.
    Section(Vec<Description>),
    /// A value.
    Value {
        /// The values that it takes, as a JSON schema.
        schema: Value,
        /// The value where it is not set.
        default: Value,
    },
}

impl Description {
    pub(crate) fn setting(schema: Value, default: Value) -> Self {
        Self { key: "", label: "", help: String::new(), content: Content::Value { schema, default } }
    }

    pub(crate) fn section(title: &'static str, settings: Vec<Self>) -> Self {
        Self { key: "", label: title, help: String::new(), content: Content::Section(settings) }
    }

    pub(crate) fn named(self, key: &'static str, help: &str) -> Self {
        Self { key, help: help.trim().to_owned(), ..self }
    }

    pub(crate) fn labelled(self, label: &'static str) -> Self {
        Self { label, ..self }
    }

    /// The section with another's settings before its own.
    pub(crate) fn with(mut self, other: Self) -> Self {
        if let (Content::Section(own), Content::Section(mut settings)) = (&mut self.content, other.content) {
            settings.append(own);
            *own = settings;
        }
        self
    }
}
