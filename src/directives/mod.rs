//! Finds the user's directives and options: in annotations or labels, as the settings say, and in user data. This
//! module does not know what a feature does with its directive.

mod listing;
mod user_data;
mod yaml;

use std::fmt;

use serde_json::{Map, Value};

use crate::json::type_name;
use crate::keys::{self, PREFIX, RECORDS};
use crate::settings::ConfigSource;
use crate::text::{self, Quoted};
use crate::vm::VirtualMachine;
pub use listing::{ListedDirective, list_directives};
pub(crate) use user_data::{ReadSecret, SECRETS, UserData};

/// Whether the VirtualMachine asks for a feature.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'o> {
    Yes(Directive<'o>),
    /// It does not, or the directive switches the feature off.
    No,
    /// It may, but its user data cannot be read.
    Unreadable,
}

/// A directive or an option that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directive<'o> {
    /// Where it was found.
    pub(crate) source: Source<'o>,
    feature: &'static str,
    value: &'o Value,
}

impl<'o> Directive<'o> {
    /// Its value, without spaces around it.
    pub(crate) fn text(&self) -> Result<&'o str, NotText> {
        as_text(self.value, self.source, self.feature)
    }
}

/// The place, key and value, for a message.
impl fmt::Display for Directive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source.key(self.feature))?;
        match self.value.as_str() {
            Some(text) => write!(f, ": {}", Quoted(text)),
            None => write!(f, ", {}", type_name(self.value)),
        }
    }
}

/// Where a directive was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source<'o> {
    Annotation,
    Label,
    /// The user data of a volume.
    UserData(&'o str),
}

impl Source<'_> {
    /// The place and key of a directive or option, in words.
    fn key(&self, name: &str) -> String {
        match self {
            Source::Annotation => format!("annotation {PREFIX}{name}"),
            Source::Label => format!("label {PREFIX}{name}"),
            Source::UserData(volume) => {
                let (volume, name) = (Quoted(volume), name.replace('-', "_"));
                format!("user data of the volume {volume}, {}.{name}", user_data::SECTION)
            }
        }
    }
}

/// All directives and options of a VirtualMachine, and the policy's records.
#[derive(Debug)]
pub(crate) struct Directives {
    config_source: ConfigSource,
    /// The annotations and labels with the policy's keys.
    annotations: Map<String, Value>,
    labels: Map<String, Value>,
    user_data: UserData,
}

impl Directives {
    /// Finds the directives and options in the VirtualMachine's annotations and labels. `user_data` contains those from
    /// its user data.
    pub(crate) fn read(vm: &VirtualMachine, config_source: ConfigSource, user_data: UserData) -> Self {
        let owned = |(key, value): (&String, &Value)| (key.clone(), value.clone());
        let (mut annotations, mut labels) = (Map::new(), Map::new());
        annotations.extend(vm.policy_annotations().map(owned));
        labels.extend(vm.policy_labels().map(owned));
        Self { config_source, annotations, labels, user_data }
    }

    /// The place where directives are read, and the place where they are not: the source, its name, and the keys there.
    fn places(&self) -> [(Source<'_>, &'static str, &Map<String, Value>); 2] {
        let annotations = (Source::Annotation, "annotations", &self.annotations);
        let labels = (Source::Label, "labels", &self.labels);
        match self.config_source {
            ConfigSource::Annotations => [annotations, labels],
            ConfigSource::Labels => [labels, annotations],
        }
    }

    /// The directive for a feature. Annotations (or labels) take precedence over user data.
    pub(crate) fn get(&self, feature: &'static str) -> Asked<'_> {
        let [(source, _, keys), _] = self.places();
        match keys.get(&keys::directive(feature)) {
            Some(value) => Asked::Yes(Directive { source, feature, value }),
            None => self.user_data.get(feature),
        }
    }

    /// The annotation that says which directive a feature was applied from.
    pub(crate) fn applied(&self, feature: &str) -> Option<&str> {
        self.annotations.get(&keys::about(feature, keys::APPLIED))?.as_str()
    }

    /// The annotation that lists what a feature added.
    pub(crate) fn record(&self, feature: &str) -> Option<&str> {
        self.annotations.get(&keys::about(feature, keys::ADDED))?.as_str()
    }

    /// The value of an option, without spaces around it. An empty value counts as none. Annotations take precedence
    /// over user data.
    pub(crate) fn option(&self, name: &'static str) -> Result<Option<&str>, NotText> {
        let (value, source) = match self.annotations.get(&keys::directive(name)) {
            Some(value) => (value, Source::Annotation),
            None => match self.user_data.get(name) {
                Asked::Yes(option) => (option.value, option.source),
                Asked::No | Asked::Unreadable => return Ok(None),
            },
        };
        as_text(value, source, name).map(|text| Some(text).filter(|t| !t.is_empty()))
    }

    /// Whether both contain the same directive for a feature, with the same options, wherever it was found.
    pub(crate) fn ask_the_same(
        &self,
        other: &Self,
        feature: &'static str,
        mut options: impl Iterator<Item = &'static str>,
    ) -> bool {
        let value = |directives: &Self| match directives.get(feature) {
            Asked::Yes(directive) => Some(directive.value.clone()),
            Asked::No | Asked::Unreadable => None,
        };
        value(self) == value(other) && options.all(|option| self.option(option) == other.option(option))
    }

    /// Whether the option may be in user data that cannot be read.
    pub(crate) fn is_unreadable(&self, option: &'static str) -> bool {
        !self.annotations.contains_key(&keys::directive(option))
            && matches!(self.user_data.get(option), Asked::Unreadable)
    }

    /// Warnings about keys of the policy that have no effect. The known names are those of features and options.
    /// Options are annotations even if directives are read from labels or user data.
    pub(crate) fn warnings(&self, features: &[&'static str], known: &[&'static str]) -> Vec<String> {
        let [(_, read, _), (_, elsewhere, ignored)] = self.places();
        let mut warnings = self.user_data.warnings.clone();
        let is_misplaced = |name: &&'static str| ignored.contains_key(&keys::directive(name));
        let misplaced = text::list(features.iter().copied().filter(is_misplaced));
        if !misplaced.is_empty() {
            warnings.push(format!(
                "the policy reads directives from {read}, and these {elsewhere} are ignored: {misplaced}"
            ));
        }
        let unknown = self.unknown(features, known);
        if !unknown.is_empty() {
            warnings.push(format!("no such directive: {}", unknown.join(", ")));
        }
        warnings
    }

    /// Up to as many unknown keys as fit into a warning, each with the most similar known name.
    fn unknown(&self, features: &[&'static str], known: &[&'static str]) -> Vec<String> {
        let labels = (self.config_source == ConfigSource::Labels).then_some(&self.labels);
        let keys = labels.into_iter().chain([&self.annotations]).flat_map(Map::keys);
        keys.filter_map(|key| key.strip_prefix(PREFIX))
            .chain(self.user_data.all().map(|(name, ..)| name))
            .filter(|name| !is_known(name, features, known))
            .take(4)
            .map(|name| describe_unknown(name, known))
            .collect()
    }
}

fn is_known(name: &str, features: &[&str], known: &[&str]) -> bool {
    let of_record = RECORDS.into_iter().find_map(|suffix| name.strip_suffix(suffix));
    known.contains(&name) || of_record.is_some_and(|feature| features.contains(&feature))
}

fn describe_unknown(name: &str, known: &[&'static str]) -> String {
    match text::nearest(name, known.iter().copied()) {
        Some(near) => format!("{} (did you mean {PREFIX}{near}?)", Quoted(name)),
        None => Quoted(name).to_string(),
    }
}

fn as_text<'o>(value: &'o Value, source: Source<'_>, name: &str) -> Result<&'o str, NotText> {
    value.as_str().map(str::trim).ok_or_else(|| NotText { key: source.key(name), found: type_name(value) })
}

/// A directive or option whose value is not a string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the value of the {key} is {found}; write it as a string, in quotes")]
pub(crate) struct NotText {
    key: String,
    found: &'static str,
}
