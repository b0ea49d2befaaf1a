//! What the user asks for: directives and their options, from the source that the settings name.
//! What a feature does with its directive is not known here.

use std::fmt;

use crate::json::{Json, Member};
use crate::request::Outline;
use crate::settings::ConfigSource;
use crate::text::{self, Quoted};

/// What every key of the policy starts with.
pub(crate) const PREFIX: &str = "vm-feature-manager.io/";

const APPLIED: &str = "-applied";
const ERROR: &str = "-error";

/// The options: annotations that go with a directive. They stay annotations whatever the source of the directives is.
pub(crate) const OPTIONS: [&str; 3] = ["sidecar-image", "vbios-device", "cpu-vendor"];

/// The key under which a user asks for a feature: `vm-feature-manager.io/<feature>`.
pub(crate) fn directive_key(feature: &str) -> String {
    format!("{PREFIX}{feature}")
}

/// The annotation that records a feature's success.
pub(crate) fn applied_key(feature: &str) -> String {
    format!("{PREFIX}{feature}{APPLIED}")
}

/// The annotation that records a feature's failure under `allow-and-log`.
pub(crate) fn error_key(feature: &str) -> String {
    format!("{PREFIX}{feature}{ERROR}")
}

/// One request for a feature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directive<'o> {
    /// Where it stands.
    pub(crate) source: Source,
    feature: &'static str,
    value: &'o Json<'o>,
}

impl<'o> Directive<'o> {
    /// Its value, trimmed.
    ///
    /// # Errors
    /// [`NotText`] where the value is no string.
    pub(crate) fn text(&self) -> Result<&'o str, NotText> {
        as_text(self.value, self.source, self.feature)
    }
}

/// The place, key and value, for a message.
impl fmt::Display for Directive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {PREFIX}{}", self.source, self.feature)?;
        match self.value.as_str() {
            Some(text) => write!(f, ": {}", Quoted(text)),
            None => write!(f, ", {}", self.value.kind()),
        }
    }
}

/// Where a directive stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Annotation,
    Label,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Annotation => "annotation",
            Source::Label => "label",
        })
    }
}

/// All directives and options of a VirtualMachine.
#[derive(Debug)]
pub(crate) struct Directives<'o, 'a> {
    source: Source,
    directives: &'o [Member<'a>],
    annotations: &'o [Member<'a>],
    /// Where directives are not read.
    elsewhere: &'o [Member<'a>],
}

impl<'o, 'a> Directives<'o, 'a> {
    /// Finds the directives and options in the VirtualMachine's outline.
    pub(crate) fn read(outline: &'o Outline<'a>, source: ConfigSource) -> Self {
        let annotations = outline.annotations();
        let labels = outline.labels();
        let (source, directives, elsewhere) = match source {
            ConfigSource::Annotations => (Source::Annotation, annotations, labels),
            ConfigSource::Labels => (Source::Label, labels, annotations),
        };
        Self { source, directives, annotations, elsewhere }
    }

    /// The directive for a feature.
    pub(crate) fn get(&self, feature: &'static str) -> Option<Directive<'o>> {
        let value = lookup(self.directives, feature)?;
        Some(Directive { source: self.source, feature, value })
    }

    /// What the policy recorded of a feature's success.
    pub(crate) fn record(&self, feature: &str) -> Option<&'o str> {
        let key = format!("{feature}{APPLIED}");
        lookup(self.annotations, &key).and_then(Json::as_str)
    }

    /// The value of an option, trimmed; empty is not set.
    ///
    /// # Errors
    /// [`NotText`] where the annotation's value is no string.
    pub(crate) fn option(&self, name: &'static str) -> Result<Option<&'o str>, NotText> {
        let Some(value) = lookup(self.annotations, name) else {
            return Ok(None);
        };
        as_text(value, Source::Annotation, name).map(|text| Some(text).filter(|t| !t.is_empty()))
    }

    /// What the user should know of keys of ours that have no effect.
    pub(crate) fn warnings(&self, features: &[&'static str]) -> Vec<String> {
        let (read, elsewhere) = match self.source {
            Source::Annotation => ("annotations", "labels"),
            Source::Label => ("labels", "annotations"),
        };
        let mut warnings = Vec::new();
        let misplaced = features.iter().filter(|name| lookup(self.elsewhere, name).is_some());
        let misplaced = text::list(misplaced.copied());
        if !misplaced.is_empty() {
            warnings.push(format!(
                "the policy reads directives from {read}, and these {elsewhere} are ignored: {misplaced}"
            ));
        }
        let unknown = self.unknown(features);
        if !unknown.is_empty() {
            warnings.push(format!("no such directive: {}", unknown.join(", ")));
        }
        warnings
    }

    /// The first keys that mean nothing, as many as a warning can hold, with the known name that is nearest.
    fn unknown(&self, features: &[&'static str]) -> Vec<String> {
        let options: &[_] = if self.source == Source::Label { self.annotations } else { &[] };
        let keys = self.directives.iter().chain(options);
        keys.filter_map(|(key, _)| key.strip_prefix(PREFIX))
            .filter(|name| !is_known(name, features))
            .take(4)
            .map(|name| describe_unknown(name, features))
            .collect()
    }
}

fn is_known(name: &str, features: &[&str]) -> bool {
    let feature = name.strip_suffix(APPLIED).or_else(|| name.strip_suffix(ERROR)).unwrap_or(name);
    features.contains(&feature) || OPTIONS.contains(&name)
}

fn describe_unknown(name: &str, features: &[&'static str]) -> String {
    let known = features.iter().chain(OPTIONS.iter()).copied();
    match nearest(name, known) {
        Some(near) => format!("{} (did you mean {PREFIX}{near}?)", Quoted(name)),
        None => Quoted(name).to_string(),
    }
}

/// The known name that a mistyped one is nearest to, if one is near: at most a third of its letters differ.
pub(crate) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // Longer than any name of ours: not a typing mistake, and the distance takes time that grows with its length.
    if name.len() > 64 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    known
        .map(|k| (strsim::levenshtein(&name, &k.to_ascii_lowercase()), k))
        .filter(|(distance, k)| *distance <= k.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

fn lookup<'o, 'a>(members: &'o [Member<'a>], name: &str) -> Option<&'o Json<'a>> {
    let found = members.iter().rev().find(|(key, _)| key.strip_prefix(PREFIX) == Some(name));
    found.map(|(_, value)| value)
}

fn as_text<'o>(json: &'o Json<'_>, source: Source, name: &'static str) -> Result<&'o str, NotText> {
    json.as_str().map(str::trim).ok_or(NotText { place: source, name, found: json.kind() })
}

/// A directive or option whose value is no string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the value of the {place} {PREFIX}{name} is {found}; write it as a string, in quotes")]
pub(crate) struct NotText {
    place: Source,
    name: &'static str,
    found: &'static str,
}
