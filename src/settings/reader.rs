//! Reads settings and checks each value. It collects all problems, so that one message can name them. This module knows
//! no setting.

use std::fmt;

use serde_json::{Value, json};

use super::Content;
use crate::json::{is_unset, to_text, type_name};
use crate::text::{self, Quoted};
use crate::values::pattern::Pattern;

/// An enum whose variants are words in the settings.
///
/// ```text
/// choice! { /// How a host device is named. DeviceNames { /// By its PCI address. Address = "address", } }
/// ```
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $crate::settings::Choice for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            const WORDS: &'static [&'static str] = &[$($word,)+];

            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

/// A section of the settings. Each setting is declared once, with its help text (the documentation), type, default,
/// key, and label in the form. A setting without a default is itself a section. `..` includes the settings of another section.
///
/// ```text
/// section! {
///     /// The settings of a feature.
///     ExampleSettings("Example") {
///         ..feature: FeatureSettings;
///         /// Those that the user wrote are counted, too.
///         max_devices: Count = Count(8), "maxDevices", "most devices of a VM";
///     }
/// }
/// ```
macro_rules! section {
    (@read $section:ident, $type:ty, $key:literal, $default:expr) => {
        <$type as $crate::settings::Setting>::get($section, $key, $default)
    };
    (@read $section:ident, $type:ty, $key:literal) => {
        $section.section($key, <$type>::read_section)
    };
    (@describe $type:ty, $key:literal, $help:expr, $default:expr, $label:literal) => {
        $crate::settings::Description {
            key: $key,
            label: $label,
            help: $help.trim().to_owned(),
            content: <$type as $crate::settings::Setting>::describe($default),
        }
    };
    (@describe $type:ty, $key:literal, $help:expr) => {
        $crate::settings::Description::section($key, $help, <$type>::describe())
    };
    ($(#[doc = $doc:literal])+ $name:ident($title:literal) {
        $(..$base:ident: $base_type:ty;)?
        $($(#[doc = $help:literal])+ $field:ident: $type:ty $(= $default:expr)?, $key:literal $(, $label:literal)?;)*
    }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(/// The settings that it has in common with others.
            pub $base: $base_type,)?
            $($(#[doc = $help])+ pub $field: $type,)*
        }

        impl $name {
            pub(crate) fn read_section(section: &mut $crate::settings::Section<'_>) -> Self {
                Self {
                    $($base: <$base_type>::read_section(section),)?
                    $($field: $crate::settings::section!(@read section, $type, $key $(, $default)?),)*
                }
            }

            /// The title, and the settings.
            pub(crate) fn describe() -> (&'static str, Vec<$crate::settings::Description>) {
                let own = vec![$($crate::settings::section!(
                    @describe $type, $key, concat!($($help),+) $(, $default)? $(, $label)?
                ),)*];
                ($title, [$(<$base_type>::describe().1,)? own].concat())
            }
        }
    };
}

pub(crate) use {choice, section};

/// A setting or a section of settings.
pub(crate) trait Setting: Sized {
    /// The setting under this key; its default if it is not set or not valid.
    fn get(section: &mut Section<'_>, key: &'static str, default: Self) -> Self;

    /// What the form and the chart need to know about its values.
    fn describe(default: Self) -> Content;
}

/// The value of a setting.
pub(crate) trait SettingValue: Sized {
    /// The accepted values, as an error message describes them.
    fn takes() -> String;

    /// The accepted values, as the message for a list describes them.
    fn takes_in_list() -> String {
        Self::takes()
    }

    /// The value; `None` if the setting does not accept it.
    fn read(json: &Value) -> Option<Self>;

    /// The accepted values, as a JSON schema. Strings, unless the type says otherwise.
    fn schema() -> Value {
        json!({"type": "string"})
    }

    /// The value, as a manifest has it.
    fn to_json(&self) -> Value;
}

/// An enum whose variants are words in the settings; [`choice`] makes it.
pub(crate) trait Choice: Copy + 'static {
    /// The variants.
    const ALL: &'static [Self];

    /// Their words in the settings, in the same order.
    const WORDS: &'static [&'static str];

    /// The variant's word in the settings.
    fn word(self) -> &'static str;
}

impl<T: SettingValue> Setting for T {
    fn get(section: &mut Section<'_>, key: &'static str, default: Self) -> Self {
        match section.value(key) {
            None => default,
            Some(json) => T::read(json).unwrap_or_else(|| {
                section.wrong(key, json, T::takes());
                default
            }),
        }
    }

    fn describe(default: Self) -> Content {
        Content::Value { schema: T::schema(), default: default.to_json() }
    }
}

/// The pieces of a text that is written instead of a list. In the form of the Rancher UI, such a text may have several lines.
pub(super) fn pieces(text: &str, separator: char) -> impl Iterator<Item = &str> {
    text.split([separator, '\n']).map(str::trim).filter(|piece| !piece.is_empty())
}

/// A map from patterns to lists of patterns. Text with commas is accepted instead of a list, because the form of the
/// Rancher UI cannot have lists in maps. A namespace with an empty list may use nothing. If it were left out instead,
/// that would allow what the administrator forbids.
impl Setting for Vec<(Pattern, Vec<Pattern>)> {
    fn get(section: &mut Section<'_>, key: &'static str, default: Self) -> Self {
        let takes = "a map from namespace patterns to lists of patterns";
        let Some(namespaces) = section.by_namespace(key, takes) else {
            return default;
        };
        let mut map = Vec::new();
        for (namespace, json) in namespaces {
            let patterns = match json {
                _ if is_unset(json) => Some(Vec::new()),
                Value::String(text) => pieces(text, ',').map(Pattern::parse).collect(),
                _ => Vec::read(json),
            };
            match patterns {
                Some(patterns) => map.push((namespace, patterns)),
                None => {
                    let takes = format!("{}; or one text with commas between them", Vec::<Pattern>::takes());
                    section.wrong(&format!("{key}.{}", Quoted(namespace.as_str())), json, takes);
                }
            }
        }
        map
    }

    fn describe(_default: Self) -> Content {
        let patterns = json!({"anyOf": [Vec::<Pattern>::schema(), {"type": "string"}]});
        Content::Value { schema: json!({"type": "object", "additionalProperties": patterns}), default: json!({}) }
    }
}

/// One object in the tree of settings while it is read. Collects its problems.
pub(crate) struct Section<'s> {
    path: &'s str,
    json: &'s Value,
    known: Vec<&'static str>,
    problems: &'s mut Vec<Problem>,
}

impl<'s> Section<'s> {
    fn new(path: &'s str, json: &'s Value, problems: &'s mut Vec<Problem>) -> Self {
        if !is_unset(json) && !json.is_object() {
            problems.push(Problem::NotAnObject { path: path.to_owned(), found: type_name(json) });
        }
        Self { path, json, known: Vec::new(), problems }
    }

    /// The value under the key, unless it is not set.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'s Value> {
        self.known.push(key);
        self.json.get(key).filter(|value| !is_unset(value))
    }

    /// The members of the map under the key, by their namespace patterns, unless it is not set. Whatever is no map or no
    /// pattern is reported.
    pub(super) fn by_namespace(&mut self, key: &'static str, takes: &str) -> Option<Vec<(Pattern, &'s Value)>> {
        let json = self.value(key)?;
        if !json.is_object() {
            self.wrong(key, json, takes.to_owned());
        }
        let mut namespaces = Vec::new();
        for (namespace, value) in json.as_object().into_iter().flatten() {
            match Pattern::parse(namespace) {
                Some(pattern) => namespaces.push((pattern, value)),
                None => self.wrong(key, json, takes.to_owned()),
            }
        }
        Some(namespaces)
    }

    /// Reads the section under the key.
    pub(crate) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let json = self.value(key).unwrap_or(&Value::Null);
        let path = self.path_of(key);
        let mut section = Section::new(&path, json, self.problems);
        let value = read(&mut section);
        section.finish();
        value
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Reports a value that the setting does not accept. The key may have further parts, after dots.
    pub(super) fn wrong(&mut self, key: &str, json: &Value, takes: String) {
        let path = self.path_of(key);
        self.problems.push(Problem::wrong(path, json, takes));
    }

    /// Reports a directive that no feature has.
    pub(super) fn unknown_directive(&mut self, key: &str, name: &str, known: &[&str]) {
        let (path, name, hint) = (self.path_of(key), Quoted(name).to_string(), hint(name, known));
        self.problems.push(Problem::UnknownDirective { path, name, hint });
    }

    /// Reports the keys that no setting has.
    fn finish(self) {
        let Self { path, json, known, problems } = self;
        for key in json.as_object().into_iter().flat_map(|members| members.keys()) {
            if !known.contains(&key.as_str()) {
                let hint = hint(key, &known);
                problems.push(Problem::Unknown { path: path.to_owned(), key: Quoted(key).to_string(), hint });
            }
        }
    }
}

/// The known name that is most similar to an unknown one, or all known names.
fn hint(name: &str, known: &[&str]) -> String {
    match text::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Reads all settings with `read`, which reads the root section. Null means the defaults.
pub(crate) fn read_settings<T>(json: &Value, read: impl FnOnce(&mut Section<'_>) -> T) -> Result<T, SettingsError> {
    let mut problems = Vec::new();
    let mut root = Section::new("", json, &mut problems);
    // The form of the Rancher UI writes this key.
    if json.get("description").is_some_and(is_unset) {
        root.known.push("description");
    }
    let settings = read(&mut root);
    root.finish();
    if problems.is_empty() { Ok(settings) } else { Err(SettingsError(problems)) }
}

/// The settings if nothing is set.
pub(crate) fn default_settings<T>(read: impl FnOnce(&mut Section<'_>) -> T) -> T {
    read(&mut Section::new("", &Value::Null, &mut Vec::new()))
}

/// How many problems a message lists. Kubernetes limits a status to 32 KiB.
const LISTED: usize = 16;

/// All problems in the settings. The message lists the first sixteen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub(super) Vec<Problem>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: Vec<String> = self.0.iter().take(LISTED).map(Problem::to_string).collect();
        f.write_str(&listed.join("; "))?;
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            others => write!(f, "; and {others} more problems"),
        }
    }
}

impl From<std::str::Utf8Error> for SettingsError {
    fn from(_: std::str::Utf8Error) -> Self {
        SettingsError(vec![Problem::NotUtf8])
    }
}

impl From<serde_json::Error> for SettingsError {
    fn from(error: serde_json::Error) -> Self {
        SettingsError(vec![Problem::NotJson { line: error.line(), column: error.column() }])
    }
}

/// One problem in the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// Cause: not JSON or YAML
    /// Cure: correct it
    #[error("the settings cannot be read: not UTF-8")]
    NotUtf8,
    /// Cause: not JSON or YAML
    /// Cure: correct it
    #[error("the settings cannot be read: not valid JSON at line {line}, column {column}")]
    NotJson { line: usize, column: usize },
    /// Cause: a section that is not a map
    /// Cure: write a map under the name, or remove it
    #[error("{}: got {found}, expected an object", place(.path))]
    NotAnObject { path: String, found: &'static str },
    /// Cause: a typing mistake
    /// Cure: use the name that the message suggests, or one that it lists
    #[error("unknown setting {key}{}; {hint}", within(.path))]
    Unknown { path: String, key: String, hint: String },
    /// Cause: a typing mistake in the setting `defaultDirectives`
    /// Cure: use the name that the message suggests, or one that it lists; names of directives and of options are known
    #[error("unknown directive {name} in {path}; {hint}")]
    UnknownDirective { path: String, name: String, hint: String },
    /// Cause: not "true or false", "one of" the words, "a whole number from 1 to 256", "an image reference such as
    /// registry.example.com:5000/kubevirt/sidecar-shim:v1.4.0", "a list of glob patterns: ASCII text without
    /// spaces, * for any characters, ? for one" ("; or one text with commas between them"), "a map from namespace patterns to
    /// lists of patterns", "a map from namespace patterns to directives", "a map from directives to values; or one text such as
    /// nested-virt=enabled; hugepages=2Mi", "directives such as nested-virt=enabled; hugepages=2Mi, each name once", "the value
    /// of a directive, each name once", "text in quotes", or a name that Kubernetes accepts
    /// Cure: write a value of the expected type
    #[error("setting {path}: got {got}, expected {takes}")]
    Wrong { path: String, got: String, takes: String },
}

impl Problem {
    fn wrong(path: String, json: &Value, takes: String) -> Self {
        let got = match json {
            Value::String(text) => Quoted(text).to_string(),
            Value::Bool(_) | Value::Number(_) => to_text(json),
            Value::Array(_) | Value::Object(_) => format!("{} {}", type_name(json), Quoted(&to_text(json))),
            Value::Null => type_name(json).to_owned(),
        };
        Problem::Wrong { path, got, takes }
    }
}

fn place(path: &str) -> String {
    if path.is_empty() { "the settings".to_owned() } else { format!("setting {path}") }
}

fn within(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" in {path}") }
}
