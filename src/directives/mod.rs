//! Finds the user's directives and options: in annotations or labels, as the settings say, and in user data. This
//! module does not know what a feature does with its directive.

mod listing;
mod user_data;
mod warnings;
mod yaml;

use std::fmt;

use serde_json::{Map, Value};

use crate::features::feature::Feature;
use crate::json::type_name;
use crate::keys::{self, PREFIX, RECORD, WRITTEN};
use crate::settings::ConfigSource;
use crate::text::{self, Quoted};
use crate::vm::{ShapeError, VirtualMachine, as_text};
pub use listing::{ListedDirective, list_directives};
pub(crate) use user_data::{ReadSecret, SECRETS, UserData};

/// Whether the VirtualMachine asks for a feature.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'o> {
    Yes(Directive<'o>),
    /// It does not, or user data switches the feature off.
    No,
    /// It may, but its user data cannot be read.
    Unreadable,
}

/// What is asked for a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The directive's value, without spaces around it.
    pub(crate) value: String,
    /// The options that go with it.
    pub(crate) options: Map<String, Value>,
}

/// A directive or an option that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directive<'o> {
    /// Where it was found.
    pub(crate) source: Source<'o>,
    pub(crate) feature: &'static str,
    value: &'o Value,
}

impl<'o> Directive<'o> {
    /// Its value, without spaces around it. The API server stores null as an empty text.
    pub(crate) fn text(&self) -> Result<&'o str, NotText> {
        match self.value {
            Value::String(text) => Ok(text.trim()),
            Value::Null => Ok(""),
            other => Err(NotText { what: "it".to_owned(), found: type_name(other), quoted: in_yaml(other) }),
        }
    }
}

/// The place, key and value, for a message.
impl fmt::Display for Directive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source.key(self.feature))?;
        match self.value.as_str() {
            Some(text) => write!(f, ": {}", Quoted(text)),
            None => write!(f, ": {}", text::list(&[as_text(self.value).as_ref()])),
        }
    }
}

/// A directive or an option that a copy lost.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Where it would be read.
    pub(crate) source: Source<'static>,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Where a directive was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source<'o> {
    Annotation,
    Label,
    /// An annotation of the template.
    Template,
    /// The user data of a volume.
    UserData(&'o str),
    /// The setting `defaultDirectives`.
    Default,
}

impl Source<'_> {
    /// Sets the key at this place; without a value, removes it. User data belongs to the guest, and settings to the
    /// administrator, so neither is changed.
    pub(crate) fn write(self, vm: &mut VirtualMachine, key: &str, value: Option<String>) -> Result<(), ShapeError> {
        match self {
            Source::Annotation => vm.annotate(key, value),
            Source::Label => vm.label(key, value),
            Source::Template => vm.annotate_template(key, value),
            Source::UserData(_) | Source::Default => Ok(()),
        }
    }

    /// The place and key of a directive or option, in words.
    fn key(&self, name: &str) -> String {
        match self {
            Source::Annotation => format!("annotation {PREFIX}{name}"),
            Source::Label => format!("label {PREFIX}{name}"),
            Source::Template => format!("annotation {PREFIX}{name} of spec.template"),
            Source::Default => format!("default {name} in the setting defaultDirectives"),
            Source::UserData(volume) => {
                let (volume, name) = (Quoted(volume), name.replace('-', "_"));
                format!("user data of the volume {volume}, {}.{name}", user_data::SECTION)
            }
        }
    }
}

/// How many keys that the policy does not know are read at a place, for hints.
const MAX_UNKNOWN: usize = 100;

/// A value without spaces around it.
fn trimmed(value: &Value) -> Value {
    value.as_str().map_or_else(|| value.clone(), |text| text.trim().into())
}

/// All directives and options of a VirtualMachine, and the policy's annotations for people.
#[derive(Debug)]
pub(crate) struct Directives {
    config_source: ConfigSource,
    /// The annotations, labels, and annotations of the template that have the policy's keys.
    annotations: Map<String, Value>,
    labels: Map<String, Value>,
    template: Map<String, Value>,
    user_data: UserData,
    /// The directives of the settings, with the policy's keys.
    defaults: Map<String, Value>,
    /// How many keys that the policy does not know are left out.
    left_out: usize,
}

impl Directives {
    /// Finds the directives and options in the VirtualMachine's annotations and labels. `user_data` contains those from
    /// its user data, `defaults` those of the settings for its namespace: their names and values.
    pub(crate) fn read<'d>(
        vm: &VirtualMachine,
        config_source: ConfigSource,
        user_data: UserData,
        defaults: impl Iterator<Item = (&'d str, &'d str)>,
    ) -> Self {
        let owned = |(key, value): (&String, &Value)| (key.clone(), value.clone());
        let mut left_out = 0;
        let [annotations, labels, template] = vm.policy_keys().map(|keys| {
            let (known, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(key, _)| {
                *key == keys::RECORD || key.strip_prefix(keys::PREFIX).is_some_and(listing::is_known)
            });
            left_out += others.len().saturating_sub(MAX_UNKNOWN);
            to_map(known.into_iter().chain(others.into_iter().take(MAX_UNKNOWN)).map(owned))
        });
        let defaults = to_map(defaults.map(|(name, value)| (keys::directive(name), value.into())));
        Self { config_source, annotations, labels, template, user_data, defaults, left_out }
    }

    /// The keys where directives are read, in order of precedence, without user data and defaults.
    pub(crate) fn places(&self) -> &'static [Source<'static>] {
        match self.config_source {
            ConfigSource::Annotations => &[Source::Annotation, Source::Template],
            ConfigSource::Labels => &[Source::Label],
        }
    }

    /// The keys where options are read, likewise.
    fn places_of_options(&self) -> &'static [Source<'static>] {
        match self.config_source {
            ConfigSource::Annotations => &[Source::Annotation, Source::Template],
            ConfigSource::Labels => &[Source::Annotation],
        }
    }

    /// The keys and values at a place; `None` for user data, which has none of the policy's keys.
    fn keys(&self, source: Source<'_>) -> Option<&Map<String, Value>> {
        match source {
            Source::Annotation => Some(&self.annotations),
            Source::Label => Some(&self.labels),
            Source::Template => Some(&self.template),
            Source::Default => Some(&self.defaults),
            Source::UserData(_) => None,
        }
    }

    /// The value of a directive or option, and where it is: first at the places, then in user data, then in the settings.
    fn find(&self, name: &'static str, places: &[Source<'static>]) -> Asked<'_> {
        let key = keys::directive(name);
        let at = |source: Source<'static>| {
            self.keys(source)?.get(&key).map(|value| Directive { source, feature: name, value })
        };
        match places.iter().find_map(|source| at(*source)) {
            Some(directive) => Asked::Yes(directive),
            None => match self.user_data.get(name) {
                Asked::No if !self.user_data.mentions(name) => at(Source::Default).map_or(Asked::No, Asked::Yes),
                asked => asked,
            },
        }
    }

    /// The directive for a feature. Annotations (or labels) take precedence over user data, and that over the settings.
    pub(crate) fn get(&self, feature: &'static str) -> Asked<'_> {
        self.find(feature, self.places())
    }

    /// Whether nothing says whether the VirtualMachine has the feature.
    pub(crate) fn is_silent(&self, feature: &'static str) -> bool {
        matches!(self.get(feature), Asked::No) && !self.user_data.mentions(feature)
    }

    /// Whether a directive that counted before may be in a Secret that is not to be read: it is nowhere now, and it was in no
    /// place where the policy could have seen that someone removed it.
    pub(crate) fn is_hidden(&self, feature: &'static str, before: Option<&Self>) -> bool {
        self.is_hidden_at(feature, self.places(), before)
    }

    /// The same of an option.
    pub(crate) fn is_option_hidden(&self, option: &'static str, before: Option<&Self>) -> bool {
        self.is_hidden_at(option, self.places_of_options(), before)
    }

    fn is_hidden_at(&self, name: &'static str, places: &[Source<'static>], before: Option<&Self>) -> bool {
        let was_seen = |before: &Self| match before.find(name, places) {
            // It did not move to a Secret that was there before.
            Asked::Yes(Directive { source, .. }) => {
                !matches!(source, Source::UserData(_)) || before.user_data.is_hidden
            }
            Asked::No | Asked::Unreadable => false,
        };
        let is_nowhere = matches!(self.find(name, places), Asked::No) && !self.user_data.mentions(name);
        self.user_data.is_hidden && is_nowhere && !before.is_some_and(was_seen)
    }

    /// Whether user data or the settings have, or may have, the directive.
    pub(crate) fn is_elsewhere(&self, feature: &'static str) -> bool {
        !matches!(self.find(feature, &[]), Asked::No)
    }

    /// The policy's record, as it is in the template.
    pub(crate) fn record(&self) -> Option<&Value> {
        self.template.get(RECORD)
    }

    /// The annotation for people about a feature: what it was applied from, or why it failed.
    pub(crate) fn mark(&self, feature: &str, suffix: &str) -> Option<&Value> {
        self.annotations.get(&keys::about(feature, suffix))
    }

    /// Whether there is any annotation for people about a feature.
    pub(crate) fn is_marked(&self, feature: &str) -> bool {
        WRITTEN.iter().any(|suffix| self.mark(feature, suffix).is_some())
    }

    /// The value of an option, without spaces around it. An empty value counts as none. The precedence is that of
    /// directives, but options are never labels.
    pub(crate) fn option(&self, name: &'static str) -> Result<Option<&str>, NotText> {
        match self.find(name, self.places_of_options()) {
            Asked::Yes(option) => {
                let text = option.text().map(|text| Some(text).filter(|t| !t.is_empty()));
                text.map_err(|error| NotText { what: format!("the {}", option.source.key(name)), ..error })
            }
            Asked::No | Asked::Unreadable => Ok(None),
        }
    }

    /// What is asked for a feature, if its directive can be read.
    pub(crate) fn ask(&self, feature: &Feature) -> Option<Ask> {
        let Asked::Yes(directive) = self.get(feature.name) else { return None };
        let value = |option| Some((option, self.option(option).ok().flatten()?));
        let options = feature.options().filter_map(value).map(|(option, value)| (option.to_owned(), value.into()));
        Some(Ask { value: directive.text().ok()?.to_owned(), options: to_map(options) })
    }

    /// Whether both contain the same directive for a feature, with the same options, wherever it was found. Spaces around a
    /// value do not count.
    pub(crate) fn ask_for_the_same(&self, other: &Self, feature: &Feature) -> bool {
        let value = |directives: &Self| match directives.get(feature.name) {
            Asked::Yes(directive) => Some(trimmed(directive.value)),
            Asked::No | Asked::Unreadable => None,
        };
        value(self) == value(other) && feature.options().all(|option| self.option(option) == other.option(option))
    }

    /// Whether the directive or one of its options is not where it was, or says something else there.
    pub(crate) fn is_written_since(&self, before: &Self, feature: &Feature) -> bool {
        let is_new = |name: &'static str, places: &[Source<'static>]| match self.find(name, places) {
            Asked::Yes(found) => {
                let at_source = before.keys(found.source).and_then(|keys| keys.get(&keys::directive(name)));
                let in_user_data = || matches!(before.user_data.get(name), Asked::Yes(was) if was.value == found.value);
                at_source.map(trimmed) != Some(trimmed(found.value))
                    && !(matches!(found.source, Source::UserData(_)) && in_user_data())
            }
            Asked::No | Asked::Unreadable => false,
        };
        is_new(feature.name, self.places()) || feature.options().any(|option| is_new(option, self.places_of_options()))
    }

    /// The directive and options that a record names and that are not there.
    pub(crate) fn lost(&self, ask: &Ask, feature: &Feature) -> Vec<Lost> {
        let directive = (feature.name, Some(ask.value.as_str()), self.places());
        let option = |option| (option, ask.options.get(option).and_then(Value::as_str), self.places_of_options());
        let all = std::iter::once(directive).chain(feature.options().map(option));
        let lost = all.filter_map(|(name, value, places)| {
            let is_there = matches!(self.find(name, places), Asked::Yes(_));
            let value = value.filter(|_| !is_there)?.to_owned();
            Some(Lost { source: *places.first()?, key: keys::directive(name), value })
        });
        lost.collect()
    }

    /// Adds a directive or option that was lost.
    pub(crate) fn put_back(&mut self, Lost { source, key, value }: Lost) {
        let keys = if source == Source::Label { &mut self.labels } else { &mut self.annotations };
        keys.insert(key, value.into());
    }

    /// Whether the option may be in user data that cannot be read.
    pub(crate) fn is_unreadable(&self, option: &'static str) -> bool {
        matches!(self.find(option, self.places_of_options()), Asked::Unreadable)
    }
}

fn to_map(members: impl Iterator<Item = (String, Value)>) -> Map<String, Value> {
    let mut map = Map::new();
    map.extend(members);
    map
}

/// A directive or option whose value is not a string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} is {found}; write it as a string, in quotes{quoted}")]
pub(crate) struct NotText {
    what: String,
    found: &'static str,
    quoted: String,
}

/// The value as a string in YAML, with a colon before it. A long one is left out.
fn in_yaml(value: &Value) -> String {
    let text = as_text(value).replace('\'', "''");
    if text.len() > 128 { String::new() } else { format!(": '{text}'") }
}
