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
    pub(crate) fn setting(schema: Value, default: Value) -> Self {
        Self { key: "", label: "", help: String::new(), content: Content::Value { schema, default } }
    }

    pub(crate) fn section(title: &'static str, settings: Vec<Self>) -> Self {
        Self { key: "", label: title, help: String::new(), content: Content::Section(settings) }
    }

    pub(crate) fn named(self, key: &'static str, help: &str) -> Self {
        Self { key, help: help.trim().to_owned(), ..self }
    }

    pub(crate) fn labeled(self, label: &'static str) -> Self {
        Self { label, ..self }
    }

    /// The section, with the settings of another section before its own.
    pub(crate) fn with(mut self, other: Self) -> Self {
        if let (Content::Section(own), Content::Section(mut settings)) = (&mut self.content, other.content) {
            settings.append(own);
            *own = settings;
        }
        self
    }
}
