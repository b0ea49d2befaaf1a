//! Lists everything in a VirtualMachine that looks like a directive or an option, for `vmfm --explain`.

use serde::Serialize;
use serde_json::Value;

use super::{Directives, Source, UserData};
use crate::features::switch::switches_off;
use crate::features::{self, Settings};
use crate::keys::{PREFIX, RECORD, WRITTEN};
use crate::settings::ConfigSource;
use crate::text;
use crate::vm::{VirtualMachine, as_text};

/// A directive or an option of a VirtualMachine.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ListedDirective {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where it was found.
    pub place: String,
    /// Why the policy does not read it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether it is a directive that switches its feature off.
    #[serde(skip)]
    pub is_off: bool,
}

/// Lists the directives and options of a VirtualMachine, and says which of them the policy reads with these settings.
/// Secrets are not looked up. If a setting is invalid, its default counts.
pub fn list_directives(object: &Value, settings: &Value) -> Vec<ListedDirective> {
    let settings = Settings::read(settings).unwrap_or_default();
    let vm = VirtualMachine::new(object.clone());
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
    let defaults = settings.general.default_directives.of(namespace);
    let directives = Directives::read(&vm, settings.general.config_source, UserData::read(&vm, None), defaults);
    let mut listed: Vec<ListedDirective> = Vec::new();
    for (name, source, value) in directives.found() {
        let note = directives.why_not_read(name, source, &settings).or_else(|| {
            let first = listed.iter().find(|other| other.name == name && other.note.is_none());
            first.map(|first| format!("not read: {} comes first", first.place))
        });
        let value = if value.is_null() { String::new() } else { as_text(value).into_owned() };
        let (name, place) = (name.to_owned(), format!("the {}", source.key(name)));
        listed.push(ListedDirective { name, is_off: switches_off(value.trim()), value, place, note });
    }
    for path in ["/metadata/annotations", "/metadata/labels", "/spec/template/metadata/annotations", LABELS_OF_TEMPLATE]
    {
        let keys = object.pointer(path).and_then(Value::as_object).into_iter().flatten();
        listed.extend(keys.filter_map(|(key, value)| near(key, value, path)));
    }
    listed
}

/// The place where Kubernetes' own labels of the guest's pod are. The policy reads no directives there.
const LABELS_OF_TEMPLATE: &str = "/spec/template/metadata/labels";

/// A key that is nearly one of the policy's: its prefix is mistyped or missing, or it is a label of the template.
fn near(key: &str, value: &Value, path: &str) -> Option<ListedDirective> {
    let (prefix, name) = key.split_once('/').unwrap_or(("", key));
    let right = PREFIX.trim_end_matches('/');
    let note = match prefix {
        _ if prefix == right && path == LABELS_OF_TEMPLATE => {
            "not read: labels of spec.template are not read; make it an annotation".to_owned()
        }
        _ if prefix == right => return None,
        "" if is_known(name) => format!("not read: the key does not start with {PREFIX}"),
        _ if is_near(prefix, right) || is_known(name) && prefix.contains("feature") => {
            format!("not read: the key does not start with {PREFIX}")
        }
        _ => return None,
    };
    let (name, value) = (name.to_owned(), as_text(value).into_owned());
    Some(ListedDirective { name, value, place: format!("the key {key}"), note: Some(note), is_off: false })
}

/// Whether a prefix is nearly the right one: mistyped, or with another domain.
fn is_near(prefix: &str, right: &str) -> bool {
    let first = |prefix: &str| prefix.split('.').next().unwrap_or_default().to_ascii_lowercase();
    text::nearest(prefix, std::iter::once(right)).is_some() || first(prefix) == first(right)
}

/// Whether this is the name of a directive or an option, or of an annotation that the policy writes about a feature.
pub(super) fn is_known(name: &str) -> bool {
    let about = WRITTEN.iter().find_map(|ending| name.strip_suffix(ending));
    is_option(name) || features::names().any(|feature| feature == name || Some(feature) == about)
}

impl Directives {
    /// The names, sources and values of everything that was found, in order of precedence.
    fn found(&self) -> impl Iterator<Item = (&str, Source<'_>, &Value)> {
        let sources = [Source::Annotation, Source::Label, Source::Template].into_iter();
        let keys = sources.filter_map(|source| Some((source, self.keys(source)?)));
        let keys = keys.flat_map(|(source, keys)| keys.iter().map(move |(key, value)| (key, source, value)));
        let keys = keys.filter_map(|(key, source, value)| {
            let name = key.strip_prefix(PREFIX)?;
            let is_written = key == RECORD || WRITTEN.iter().any(|ending| name.ends_with(ending));
            (!is_written).then_some((name, source, value))
        });
        let defaults =
            self.defaults.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, Source::Default, value)));
        keys.chain(self.user_data.all()).chain(defaults)
    }

    /// Why the policy does not read a directive or option from this source.
    fn why_not_read(&self, name: &str, source: Source<'_>, settings: &Settings) -> Option<String> {
        let is_read = match source {
            Source::UserData(_) if settings.general.user_data.enabled => true,
            Source::UserData(_) => return Some("not read: the setting userData.enabled is false".to_owned()),
            Source::Default => true,
            source if is_option(name) => self.places_of_options().contains(&source),
            source => self.places().contains(&source),
        };
        let config_source = match self.config_source {
            ConfigSource::Annotations => "annotations",
            ConfigSource::Labels => "labels",
        };
        (!is_read).then(|| format!("not read: the setting configSource is {config_source}"))
    }
}

fn is_option(name: &str) -> bool {
    features::option_names().any(|option| option == name)
}
