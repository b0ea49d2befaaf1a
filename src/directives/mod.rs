//! The user's requests: directives and their options, from the source that the settings name, and from user data.
//! What a feature does with its directive is not known here.

mod user_data;
mod yaml;

use std::fmt;

use crate::json::{Json, Member};
use crate::keys::{Key, PREFIX, RECORDS};
use crate::settings::ConfigSource;
use crate::text::{self, Quoted};
use crate::vm::VmOutline;
#[cfg(feature = "describe")]
pub(crate) use user_data::SECRETS;
pub(crate) use user_data::{ReadSecret, UserData};

/// Whether a feature is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'o> {
    Yes(Directive<'o>),
    /// It is not, or it is switched off.
    No,
    /// User data that may ask for it cannot be read.
    Unreadable,
}

/// One request for a feature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directive<'o> {
    /// Where it stands.
    pub(crate) source: Source<'o>,
    feature: &'static str,
    value: &'o Json<'o>,
}

impl<'o> Directive<'o> {
    /// Its value, trimmed.
    ///
    /// # Errors
    /// [`NotText`] where the value is not a string.
    pub(crate) fn text(&self) -> Result<&'o str, NotText<'o>> {
        as_text(self.value, self.source, self.feature)
    }
}

/// The place, key and value, for a message.
impl fmt::Display for Directive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.write_key(self.feature, f)?;
        match self.value.as_str() {
            Some(text) => write!(f, ": {}", Quoted(text)),
            None => write!(f, ", {}", self.value.kind()),
        }
    }
}

/// Where a directive stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source<'o> {
    Annotation,
    Label,
    /// The user data of a volume.
    UserData(&'o str),
}

impl Source<'_> {
    fn write_key(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Annotation => write!(f, "annotation {PREFIX}{name}"),
            Source::Label => write!(f, "label {PREFIX}{name}"),
            Source::UserData(volume) => write!(
                f,
                "user data of the volume {}, {}.{}",
                Quoted(volume),
                user_data::SECTION,
                name.replace('-', "_")
            ),
        }
    }
}

/// All directives and options of a VirtualMachine.
#[derive(Debug)]
pub(crate) struct Directives<'o, 'a> {
    source: Source<'o>,
    directives: &'o [Member<'a>],
    annotations: &'o [Member<'a>],
    /// Where directives are not read.
    elsewhere: &'o [Member<'a>],
    user_data: &'o UserData,
}

impl<'o, 'a> Directives<'o, 'a> {
    /// Finds the directives and options in the VirtualMachine's outline, and the directives in its user data.
    pub(crate) fn read(outline: &'o VmOutline<'a>, source: ConfigSource, user_data: &'o UserData) -> Self {
        let annotations = outline.annotations();
        let labels = outline.labels();
        let (source, directives, elsewhere) = match source {
            ConfigSource::Annotations => (Source::Annotation, annotations, labels),
            ConfigSource::Labels => (Source::Label, labels, annotations),
        };
        Self { source, directives, annotations, elsewhere, user_data }
    }

    /// The directive for a feature. Annotations (or labels) win over user data.
    pub(crate) fn get(&self, feature: &'static str) -> Asked<'o> {
        match lookup(self.directives, Key::directive(feature)) {
            Some(value) => Asked::Yes(Directive { source: self.source, feature, value }),
            None => self.user_data.get(feature),
        }
    }

    /// The annotation that says what a feature was made from.
    pub(crate) fn applied(&self, feature: &'static str) -> Option<&'o str> {
        lookup(self.annotations, Key::applied(feature)).and_then(Json::as_str)
    }

    /// The annotation that lists what a feature added.
    pub(crate) fn record(&self, feature: &'static str) -> Option<&'o str> {
        lookup(self.annotations, Key::record(feature)).and_then(Json::as_str)
    }

    /// The value of an option, trimmed; empty is not set. Annotations win over user data.
    ///
    /// # Errors
    /// [`NotText`] where the annotation's value is not a string.
    pub(crate) fn option(&self, name: &'static str) -> Result<Option<&'o str>, NotText<'o>> {
        let (value, source) = match lookup(self.annotations, Key::directive(name)) {
            Some(value) => (value, Source::Annotation),
            None => match self.user_data.get(name) {
                Asked::Yes(option) => (option.value, option.source),
                Asked::No | Asked::Unreadable => return Ok(None),
            },
        };
        as_text(value, source, name).map(|text| Some(text).filter(|t| !t.is_empty()))
    }

    /// Whether user data that cannot be read may have the option.
    pub(crate) fn is_unreadable(&self, option: &'static str) -> bool {
        lookup(self.annotations, Key::directive(option)).is_none()
            && matches!(self.user_data.get(option), Asked::Unreadable)
    }

    /// Warnings about the policy's keys that have no effect. The known names are those of features and of options, which
    /// are annotations also where directives are labels, or stand in user data.
    pub(crate) fn warnings(&self, features: &[&'static str], known: &[&'static str]) -> Vec<String> {
        let (read, elsewhere) = match self.source {
            Source::Label => ("labels", "annotations"),
            _ => ("annotations", "labels"),
        };
        let mut warnings = self.user_data.warnings().to_vec();
        let is_misplaced = |name: &&'static str| lookup(self.elsewhere, Key::directive(name)).is_some();
        let misplaced = text::list(&mut features.iter().copied().filter(is_misplaced));
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

    /// The first keys that mean nothing, as many as a warning can hold, with the known name that is nearest.
    fn unknown(&self, features: &[&'static str], known: &[&'static str]) -> Vec<String> {
        let annotations: &[_] = if self.source == Source::Label { self.annotations } else { &[] };
        let keys = self.directives.iter().chain(annotations);
        keys.filter_map(|(key, _)| key.strip_prefix(PREFIX))
            .chain(self.user_data.names())
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

fn lookup<'o, 'a>(members: &'o [Member<'a>], key: Key) -> Option<&'o Json<'a>> {
    members.iter().rev().find(|(k, _)| key.is(k)).map(|(_, value)| value)
}

fn as_text<'o>(json: &'o Json<'_>, source: Source<'o>, name: &'static str) -> Result<&'o str, NotText<'o>> {
    json.as_str().map(str::trim).ok_or(NotText { place: source, name, found: json.kind() })
}

/// A directive or option whose value is not a string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) struct NotText<'o> {
    // The name `source` would be the error behind this one.
    place: Source<'o>,
    name: &'static str,
    found: &'static str,
}

impl fmt::Display for NotText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of the ")?;
        self.place.write_key(self.name, f)?;
        write!(f, " is {}; write it as a string, in quotes", self.found)
    }
}
