//! Warnings about directives that have no effect.

use serde_json::{Map, Value};

use super::listing::is_known;
use super::{Directives, MAX_UNKNOWN, Source, trimmed};
use crate::features;
use crate::features::switch::parse_switch;
use crate::keys::{self, PREFIX, RECORD};
use crate::settings::ConfigSource;
use crate::text::{self, Quoted};
use crate::vm::as_text;

/// The most unknown keys that fit into a warning.
const LISTED: usize = 4;

impl Directives {
    /// Warnings about keys of the policy that have no effect. Options are annotations even if directives are read from
    /// labels or user data.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let features: Vec<_> = features::names().collect();
        let known: Vec<_> = features::names().chain(features::option_names()).collect();
        let mut warnings = self.user_data.warnings.clone();
        let (read, elsewhere, ignored) = match self.config_source {
            ConfigSource::Annotations => ("annotations", "labels", &self.labels),
            ConfigSource::Labels => ("labels", "annotations", &self.annotations),
        };
        let is_misplaced = |name: &&'static str| ignored.contains_key(&keys::directive(name));
        let misplaced = text::list(&features.iter().copied().filter(is_misplaced).collect::<Vec<_>>());
        if !misplaced.is_empty() {
            warnings.push(format!(
                "the policy reads directives from {read}, and these {elsewhere} are ignored: {misplaced}; make them {read}"
            ));
        }
        for name in known.iter().filter(|_| self.places().contains(&Source::Template)) {
            let key = keys::directive(name);
            let both = self.annotations.get(&key).zip(self.template.get(&key));
            if let Some((here, there)) = both.filter(|(here, there)| !mean_the_same(here, there)) {
                warnings.push(format!(
                    "the annotation {key} is {} on the VirtualMachine, and {} on spec.template; the first one counts",
                    Quoted(&as_text(here)),
                    Quoted(&as_text(there))
                ));
            }
        }
        let unknown = self.unknown();
        if !unknown.is_empty() {
            let hints = unknown.iter().take(MAX_UNKNOWN).map(|unknown| (unknown, unknown.hints(&known)));
            let (mut hinted, unhinted): (Vec<_>, Vec<_>) = hints.partition(|(_, hints)| !hints.is_empty());
            let all = match unhinted.is_empty() {
                true => String::new(),
                false => format!("; the directives are {}", features.join(", ")),
            };
            hinted.extend(unhinted);
            let listed: Vec<_> = hinted.iter().take(LISTED).map(|(unknown, hints)| unknown.describe(hints)).collect();
            let more = match (unknown.len() + self.left_out).saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            warnings.push(format!("no such directive: {}{more}; this has no effect{all}", listed.join(", ")));
        }
        warnings
    }

    /// The unknown keys.
    fn unknown(&self) -> Vec<Unknown<'_>> {
        let sources = self.places().iter().copied().chain([Source::Annotation]);
        let keys = sources.filter_map(|source| self.keys(source)).flat_map(Map::keys);
        let names = keys.filter(|key| *key != RECORD).filter_map(|key| key.strip_prefix(PREFIX));
        let places =
            [(false, names.filter(|name| !is_known(name)).collect()), (true, self.user_data.unknown().collect())];
        let mut unknown = Vec::new();
        for (is_in_user_data, names) in places {
            // A key may be at several places.
            unknown.extend(text::unique(names).into_iter().map(|name| Unknown { name, is_in_user_data }));
        }
        unknown
    }
}

/// An unknown key: the name behind the prefix, or the whole key in user data.
struct Unknown<'d> {
    name: &'d str,
    is_in_user_data: bool,
}

impl Unknown<'_> {
    /// The most similar known names.
    fn hints(&self, known: &[&'static str]) -> Vec<&'static str> {
        match self.is_in_user_data {
            false => text::hints(self.name, known),
            true => text::hints(&self.name.strip_prefix(PREFIX).unwrap_or(self.name).replace('_', "-"), known),
        }
    }

    /// The key and the names, in the form that is read there.
    fn describe(&self, hints: &[&'static str]) -> String {
        let (place, prefix) = if self.is_in_user_data { (" in the user data", "") } else { ("", PREFIX) };
        let mut hints = hints.join(&format!(" or {prefix}"));
        if self.is_in_user_data {
            hints = hints.replace('-', "_");
        }
        match hints.is_empty() {
            false => format!("{}{place} (did you mean {prefix}{hints}?)", Quoted(self.name)),
            true => format!("{}{place}", Quoted(self.name)),
        }
    }
}

/// Whether two values of a directive are the same, or two words for on or for off.
fn mean_the_same(one: &Value, other: &Value) -> bool {
    let switch = |value: &Value| parse_switch(as_text(value).trim()).ok();
    trimmed(one) == trimmed(other) || switch(one).is_some_and(|on| switch(other) == Some(on))
}
