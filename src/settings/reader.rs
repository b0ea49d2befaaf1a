//! How settings are read: each value by what it may be, and all that is wrong at once. Knows no setting.

use std::fmt;

use crate::json::Json;
use crate::kinds::image::ImageReference;
use crate::kinds::name::NameRule;
use crate::kinds::pattern::Pattern;
use crate::kinds::pci::MAX_DEVICES;
use crate::text::{self, Quoted};

/// An enum whose variants are words in the settings.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl Setting for $name {
            fn takes() -> String {
                format!("one of {}", [$($word),+].join(", "))
            }

            fn read(json: &Json<'_>) -> Option<Self> {
                match json.as_str()? {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

/// A section of the settings: a struct, and how each field is read. The field's second part is its reader, with its key and
/// default.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident($section:ident) { $($(#[$field_doc:meta])* $field:ident: $type:ty = $read:expr,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)+ }

        impl $name {
            pub(in crate::settings) fn read($section: &mut Section<'_, '_>) -> Self {
                Self { $($field: $read,)+ }
            }
        }
    };
}

pub(super) use {choice, section};

/// A value of a setting.
pub(super) trait Setting: Sized {
    /// The values that the setting takes, as an error words them.
    fn takes() -> String;

    /// The value, if it is one that the setting takes.
    fn read(json: &Json<'_>) -> Option<Self>;
}

impl Setting for bool {
    fn takes() -> String {
        "true or false".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

/// How many devices a VM may have: 1 to 256, the most that a guest's PCI bus numbers allow for.
pub(super) struct Count(pub(super) usize);

impl Setting for Count {
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
}

impl Setting for ImageReference {
    fn takes() -> String {
        "an image reference such as registry.example.com:5000/kubevirt/sidecar-shim:v1.4.0".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        json.as_str()?.parse().ok()
    }
}

impl Setting for Vec<Pattern> {
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
}

/// One object of the settings tree while it is read: collects what is wrong with it.
pub(crate) struct Section<'s, 'j> {
    path: &'s str,
    json: &'s Json<'j>,
    known: Vec<&'static str>,
    problems: &'s mut Vec<Problem>,
}

impl<'s, 'j> Section<'s, 'j> {
    pub(super) fn new(path: &'s str, json: &'s Json<'j>, problems: &'s mut Vec<Problem>) -> Self {
        if !json.is_empty() && !matches!(json, Json::Object(_)) {
            problems.push(Problem::NotAnObject { path: path.to_owned(), found: json.kind() });
        }
        Self { path, json, known: Vec::new(), problems }
    }

    /// The value at `key`, unless it is not set.
    fn value(&mut self, key: &'static str) -> Option<&'s Json<'j>> {
        self.known.push(key);
        self.json.get(key).filter(|value| !value.is_empty())
    }

    pub(super) fn get<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        match self.value(key) {
            None => default,
            Some(json) => T::read(json).unwrap_or_else(|| {
                self.wrong(key, json, T::takes());
                default
            }),
        }
    }

    pub(super) fn name(&mut self, key: &'static str, default: &str, rule: &NameRule) -> String {
        match self.value(key) {
            None => default.to_owned(),
            Some(json) => match json.as_str().filter(|name| rule.allows(name)) {
                Some(name) => name.to_owned(),
                None => {
                    self.wrong(key, json, rule.takes.to_owned());
                    default.to_owned()
                }
            },
        }
    }

    /// A map from patterns to lists of patterns, or texts with commas between them: the form of the Rancher UI has no lists
    /// in maps. A namespace with an empty list may take nothing: leaving it out instead would open what the administrator
    /// closed.
    pub(super) fn patterns_by_pattern(&mut self, key: &'static str) -> Vec<(Pattern, Vec<Pattern>)> {
        let Some(json) = self.value(key) else {
            return Vec::new();
        };
        let takes = "a map from namespace patterns to lists of device patterns";
        if !matches!(json, Json::Object(_)) {
            self.wrong(key, json, takes.to_owned());
        }
        let mut map = Vec::new();
        for (namespace, patterns) in json.members() {
            let namespace_pattern = Pattern::read(namespace);
            let patterns_read = match patterns {
                _ if patterns.is_empty() => Some(Vec::new()),
                Json::String(text) => text.split(',').map(|p| Pattern::read(p.trim())).collect(),
                _ => Vec::read(patterns),
            };
            match (namespace_pattern, patterns_read) {
                (Some(namespace), Some(patterns)) => map.push((namespace, patterns)),
                (None, _) => self.wrong(key, json, takes.to_owned()),
                (_, None) => {
                    let path = format!("{}.{}", self.path_of(key), Quoted(namespace));
                    let takes = format!("{}; or one text with commas between them", Vec::<Pattern>::takes());
                    let problem = Problem::wrong(path, patterns, takes);
                    self.problems.push(problem);
                }
            }
        }
        map
    }

    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 'j>) -> T) -> T {
        let json = self.value(key).unwrap_or(&Json::Null);
        let path = self.path_of(key);
        let mut section = Section::new(&path, json, self.problems);
        let value = read(&mut section);
        section.finish();
        value
    }

    pub(super) fn ignore_if_empty(&mut self, key: &'static str) {
        if self.json.get(key).is_some_and(Json::is_empty) {
            self.known.push(key);
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&mut self, key: &str, json: &Json<'_>, takes: String) {
        let path = self.path_of(key);
        self.problems.push(Problem::wrong(path, json, takes));
    }

    /// Reports the keys that nothing asked for.
    pub(super) fn finish(self) {
        let Self { path, json, known, problems } = self;
        for (key, _) in json.members() {
            if !known.contains(&key.as_ref()) {
                let near = text::nearest(key, known.iter().copied());
                problems.push(Problem::Unknown {
                    path: path.to_owned(),
                    key: Quoted(key).to_string(),
                    hint: match near {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("known here: {}", known.join(", ")),
                    },
                });
            }
        }
    }
}

/// How many problems a message lists: Kubernetes takes no more than 32 KiB into a status.
const LISTED: usize = 16;

/// Everything that is wrong with the settings; a message lists the first sixteen problems.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub(super) Vec<Problem>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(LISTED).enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{problem}")?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            others => write!(f, "; and {others} more problems"),
        }
    }
}

impl From<serde_json::Error> for SettingsError {
    fn from(error: serde_json::Error) -> Self {
        SettingsError(vec![Problem::NotJson { line: error.line(), column: error.column() }])
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("the settings cannot be read: not UTF-8")]
    NotUtf8,
    #[error("the settings cannot be read: not valid JSON at line {line}, column {column}")]
    NotJson { line: usize, column: usize },
    #[error("{}: got {found}, expected an object", place(.path))]
    NotAnObject { path: String, found: &'static str },
    #[error("unknown setting {key}{}; {hint}", within(.path))]
    Unknown { path: String, key: String, hint: String },
    #[error("setting {path}: got {got}, expected {takes}")]
    Wrong { path: String, got: String, takes: String },
}

impl Problem {
    fn wrong(path: String, json: &Json<'_>, takes: String) -> Self {
        let got = match json {
            Json::String(text) => Quoted(text).to_string(),
            Json::Bool(_) | Json::Number(_) => json.to_text(),
            Json::Array(_) | Json::Object(_) => {
                format!("{} {}", json.kind(), Quoted(&json.to_text()))
            }
            Json::Raw(_) | Json::Null => json.kind().to_owned(),
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
