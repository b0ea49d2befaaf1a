//! Setting `defaultDirectives`: the directives of VMs without annotations.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::reader::{Section, pieces};
use super::{Content, Setting};
use crate::json::is_unset;
use crate::keys::PREFIX;
use crate::text::Quoted;
use crate::values::pattern::Pattern;

/// Directives and options: their names without the prefix, and their values.
type Named = Vec<(String, String)>;

/// Directives by namespace pattern. The pattern with the most characters besides `*` and `?` comes first, and of several, the
/// shortest. The order in the manifest does not count, because Kubernetes does not keep it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DefaultDirectives(Vec<(Pattern, Named)>);

impl DefaultDirectives {
    /// The directives and options of a namespace: their names without the prefix, and their values. All patterns that match
    /// count; if several have a name, the first one does.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = (&str, &str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for (name, value) in
            self.0.iter().filter(|(pattern, _)| pattern.matches(namespace)).flat_map(|(_, named)| named)
        {
            if !found.iter().any(|(other, _)| other == name) {
                found.push((name, value));
            }
        }
        found.into_iter()
    }

    /// Whether no namespace has any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reports each name that is not a known one. `root` is the section in which this setting is.
    pub(crate) fn check_names(&self, root: &mut Section<'_>, known: &[&str]) {
        for (pattern, named) in &self.0 {
            for (name, _) in named.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
                root.unknown_directive(&path("defaultDirectives", pattern.as_str()), name, known);
            }
        }
    }
}

/// A map from namespace patterns to directives. One text is accepted instead of a map of directives, because the form of
/// the Rancher UI cannot have maps in maps.
impl Setting for DefaultDirectives {
    fn get(section: &mut Section<'_>, key: &'static str, default: Self) -> Self {
        let Some(namespaces) = section.by_namespace(key, "a map from namespace patterns to directives") else {
            return default;
        };
        let mut map: Vec<(Pattern, Named)> = Vec::new();
        for (pattern, directives) in namespaces.into_iter().filter(|(_, directives)| !is_unset(directives)) {
            let named = read_directives(section, &path(key, pattern.as_str()), directives);
            let at = map.partition_point(|(other, _)| weight(other) >= weight(&pattern));
            map.insert(at, (pattern, named));
        }
        Self(map)
    }

    fn describe(_default: Self) -> Content {
        let directives = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let directives = json!({"anyOf": [directives, {"type": "string"}]});
        Content::Value { schema: json!({"type": "object", "additionalProperties": directives}), default: json!({}) }
    }
}

/// Reads the directives of one namespace, which are at this path: `{"nested-virt": "enabled", "hugepages": "2Mi"}`, or
/// `nested-virt=enabled; hugepages=2Mi`. In a text, a value ends at the next semicolon or line break. No directive needs a value
/// with one.
fn read_directives(section: &mut Section<'_>, path: &str, json: &Value) -> Named {
    let mut named = Named::new();
    // Whether the name is not empty, and there for the first time.
    let mut add = |name: &str, value: &str| {
        let name = name.trim();
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let is_new = !name.is_empty() && !named.iter().any(|(other, _)| other == name);
        if is_new {
            named.push((name.to_owned(), value.trim().to_owned()));
        }
        is_new
    };
    match json {
        Value::String(text) => {
            for part in pieces(text, ';') {
                let pair = part.split_once('=').filter(|(_, value)| !value.is_empty());
                if !pair.is_some_and(|(name, value)| add(name, value)) {
                    let takes = "directives such as nested-virt=enabled; hugepages=2Mi, each name once";
                    section.wrong(path, &part.into(), takes.to_owned());
                }
            }
        }
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(_, value)| !is_unset(value)) {
                let takes = match value.as_str() {
                    None => "text in quotes",
                    Some(text) if add(name, text) => continue,
                    Some(_) => "the value of a directive, each name once",
                };
                section.wrong(&format!("{path}.{}", Quoted(name)), value, takes.to_owned());
            }
        }
        _ => {
            let takes = "a map from directives to values; or one text such as nested-virt=enabled; hugepages=2Mi";
            section.wrong(path, json, takes.to_owned());
        }
    }
    named
}

/// How exactly a pattern names a namespace. A pattern without wildcards is more exact than any other that matches it.
fn weight(pattern: &Pattern) -> (usize, Reverse<usize>) {
    let text = pattern.as_str();
    (text.chars().filter(|c| !matches!(c, '*' | '?')).count(), Reverse(text.len()))
}

fn path(key: &str, namespace: &str) -> String {
    format!("{key}.{}", Quoted(namespace))
}
