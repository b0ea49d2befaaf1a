//! Directives in cloud-init user data: which volumes have user data, and how it is read. User data belongs to the
//! guest, so the policy skips and logs what it cannot read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::rc::Rc;

use super::listing::is_known;
use super::yaml;
use super::{Asked, Directive, Source};
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{ClusterError, LookupError, SECRET, UserDataSecret};
use crate::text::{self, Quoted};
use crate::vm::{CloudInit, VirtualMachine};

/// The key in a cloud-config document that contains the directives.
pub(super) const SECTION: &str = "x_kubevirt_features";

/// How many volumes with user data are read. KubeVirt allows only one.
const MAX_SOURCES: usize = 8;

/// The size limit for user data, in bytes, of all volumes together.
const MAX_TEXT: usize = 64 << 10;

/// The start of a document that cloud-init reads as configuration.
const HEADER: &str = "#cloud-config";

/// How documents of other types continue that start.
const OTHER_TYPES: [&str; 2] = ["-archive", "-jsonp"];

/// The first line of a template, which cloud-init renders in the guest. Rancher's node driver keeps it.
const TEMPLATE: &str = "## template: jinja";

/// What replaces a template's expressions before the text is parsed. No valid directive contains it.
const EXPRESSION: char = '\u{e000}';

/// In how many bytes cloud-init looks for the header of a MIME message.
const MIME_START: usize = 4096;

/// The directives in a VirtualMachine's user data.
#[derive(Debug, Default)]
pub(crate) struct UserData {
    found: Vec<Found>,
    /// The names of directives whose values cannot be read.
    unreadable: Vec<String>,
    /// Whether any user data cannot be read at all.
    is_incomplete: bool,
    /// Whether any is in a Secret that is not to be read.
    pub(super) is_hidden: bool,
    /// How long the texts are that may contain directives.
    bytes: usize,
    /// Warnings for the user.
    pub(crate) warnings: Vec<String>,
    /// The documents and values that were skipped, for the log.
    pub(crate) notes: Vec<String>,
}

/// A directive, and the volume whose user data contains it.
#[derive(Debug)]
struct Found {
    name: String,
    /// The key, as the user data has it.
    key: String,
    /// `None` if the directive is switched off.
    value: Option<Value>,
    volume: String,
    /// Whether another volume has the same directive.
    is_repeated: bool,
}

/// Which Secrets are read, and why.
pub(crate) const SECRETS: Access = Access {
    kinds: &[&SECRET],
    verbs: Verbs::Get,
    what: "user data in a Secret, in the VM's namespace, when a VM is created or its `spec.template.spec` changes",
    without: "the directives in it are not read, with a warning",
    needed: &[Condition::On("userData.enabled"), Condition::On("userData.readSecrets")],
};

/// Reads a Secret with user data, by its name.
pub(crate) type ReadSecret<'r> = &'r dyn Fn(&str) -> Result<Rc<UserDataSecret>, LookupError>;

/// The volumes with user data, by name.
fn sources(vm: &VirtualMachine) -> impl Iterator<Item = (&str, CloudInit<'_>)> {
    vm.readable_volumes()
        .flat_map(|volume| volume.user_data.into_iter().flatten().map(move |source| (volume.name, source)))
}

impl UserData {
    /// Whether a VirtualMachine may contain directives in user data.
    pub(crate) fn is_possible(vm: &VirtualMachine) -> bool {
        sources(vm).next().is_some()
    }

    /// Finds the directives in a VirtualMachine's user data. Secrets are read only if there is a function to do it.
    pub(crate) fn read(vm: &VirtualMachine, secret: Option<ReadSecret<'_>>) -> Self {
        let mut user_data = Self::default();
        for (index, (volume, source)) in sources(vm).enumerate() {
            if index == MAX_SOURCES {
                user_data.pass_over(volume, "and of those after it is not read: a guest has one");
                break;
            }
            user_data.read_source(volume, &source, secret);
        }
        user_data
    }

    /// The directive or option of this name in the user data.
    pub(super) fn get(&self, feature: &'static str) -> Asked<'_> {
        match self.found.iter().find(|found| found.name == feature) {
            Some(Found { value: Some(value), volume, .. }) => {
                Asked::Yes(Directive { source: Source::UserData(volume), feature, value })
            }
            Some(_) => Asked::No,
            None if self.is_incomplete || self.unreadable.iter().any(|name| name == feature) => Asked::Unreadable,
            None => Asked::No,
        }
    }

    /// Whether the user data contains the directive or option, even if only to switch it off.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.found.iter().any(|found| found.name == name)
    }

    /// The names, sources and values of all directives. The value is `false` if a directive is switched off.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Source<'_>, &Value)> {
        self.found.iter().map(|found| {
            let value = found.value.as_ref().unwrap_or(&Value::Bool(false));
            (found.name.as_str(), Source::UserData(&found.volume), value)
        })
    }

    /// The keys that are the names of no directives and no options.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &str> {
        self.found.iter().filter(|found| !is_known(&found.name)).map(|found| found.key.as_str())
    }

    /// Whether the user data contains no directive, and cannot contain one.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.unreadable.is_empty() && !self.is_incomplete
    }

    /// Reads a volume's user data, in the order in which KubeVirt looks for it: the Secret, the text, the text in base64.
    fn read_source(&mut self, volume: &str, source: &CloudInit<'_>, secret: Option<ReadSecret<'_>>) {
        let name = source.secret;
        self.is_hidden |= !name.is_empty() && secret.is_none();
        if let (false, Some(read)) = (name.is_empty(), secret) {
            match read(name) {
                Ok(secret) => self.read_base64(volume, secret.user_data().unwrap_or_default()),
                Err(error) => {
                    self.is_incomplete = true;
                    self.warnings.push(describe_secret(name, volume, &error));
                }
            }
        } else if source.user_data.is_empty() {
            self.read_base64(volume, source.user_data_base64);
        } else {
            self.read_text(volume, source.user_data);
        }
    }

    fn read_base64(&mut self, volume: &str, base64: &str) {
        // KubeVirt decodes with Go's `StdEncoding`, which ignores line breaks (`pkg/cloud-init/cloud-init.go`).
        let base64 = base64.replace(['\r', '\n'], "");
        // In base64, four characters encode three bytes.
        if base64.len() > MAX_TEXT.div_ceil(3) * 4 {
            return self.pass_over(volume, "is longer than 64 KiB");
        }
        match STANDARD.decode(base64).map(String::from_utf8) {
            Ok(Ok(text)) => self.read_text(volume, &text),
            Ok(Err(error)) if error.as_bytes().starts_with(&[0x1f, 0x8b]) => self.pass_over(volume, "is compressed"),
            Ok(Err(_)) => self.pass_over(volume, "is not UTF-8"),
            Err(_) => self.pass_over(volume, "is not valid base64"),
        }
    }

    fn read_text(&mut self, volume: &str, text: &str) {
        if !text.contains(SECTION) {
            return;
        }
        self.bytes = self.bytes.saturating_add(text.len());
        if text.len() > MAX_TEXT {
            return self.pass_over(volume, "is longer than 64 KiB");
        }
        if self.bytes > MAX_TEXT {
            return self.pass_over(volume, "is longer than 64 KiB with that of the volumes before it");
        }
        let Some(text) = configuration(text) else {
            return self.pass_over(volume, "is not a cloud-config document that the policy can read");
        };
        match yaml::section(&text, SECTION) {
            Ok(section) => section.into_iter().for_each(|(key, value)| self.add(volume, &key, value)),
            Err(problem) => self.pass_over(volume, &format!("is not read: {problem}")),
        }
    }

    fn add(&mut self, volume: &str, key: &str, value: yaml::Value) {
        let name = key.replace('_', "-");
        let value = match value {
            yaml::Value::Text(text) if text.contains(EXPRESSION) => {
                yaml::Value::Unreadable(yaml::Unreadable::Expression)
            }
            value => value,
        };
        let value = match value {
            yaml::Value::Text(text) => Some(json!(text)),
            yaml::Value::Bool(true) => Some(json!("enabled")),
            yaml::Value::Bool(false) => None,
            yaml::Value::Unreadable(problem) => {
                let note = format!(
                    "{SECTION}.{} in the user data of the volume {} is not read: {problem}",
                    Quoted(key),
                    Quoted(volume)
                );
                self.tell(note);
                return self.unreadable.push(name);
            }
        };
        match self.found.iter_mut().find(|found| found.name == name) {
            Some(first) if first.is_repeated => {}
            Some(first) => {
                first.is_repeated = true;
                self.warnings.push(format!(
                    "{} is in the user data of the volumes {} and {}; the first counts",
                    Quoted(&name),
                    Quoted(&first.volume),
                    Quoted(volume)
                ));
            }
            None => {
                let volume = volume.to_owned();
                self.found.push(Found { name, key: key.to_owned(), value, volume, is_repeated: false });
            }
        }
    }

    fn pass_over(&mut self, volume: &str, problem: &str) {
        self.is_incomplete = true;
        self.tell(format!("the user data of the volume {} {problem}", Quoted(volume)));
    }

    /// Tells the log and the user what was skipped.
    fn tell(&mut self, note: String) {
        self.warnings.push(format!("{note}; directives in it have no effect, so write them as annotations"));
        self.notes.push(note);
    }
}

/// The document that cloud-init reads as configuration, with its expressions replaced if it is a template. `None` if
/// cloud-init reads the text as something else, or if the policy cannot tell what the template becomes.
///
/// As `type_from_starts_with` in cloud-init's `cloudinit/handlers/__init__.py`, it ignores case, and space before the
/// header. A template's header must be the first line, and its only content (`detect_template` in
/// `cloudinit/templater.py`). A message is recognized before either (`convert_string` in `cloudinit/user_data.py`).
fn configuration(text: &str) -> Option<Cow<'_, str>> {
    if text::first(text, MIME_START).to_ascii_lowercase().contains("mime-version:") {
        return None;
    }
    match text.split_once('\n') {
        Some((first, rest)) if first.trim_end().eq_ignore_ascii_case(TEMPLATE) => {
            let is_plain = is_cloud_config(rest) && !rest.contains("{%") && !rest.contains("{#");
            is_plain.then(|| Cow::Owned(replace_expressions(rest)))
        }
        _ => is_cloud_config(text).then_some(Cow::Borrowed(text)),
    }
}

fn is_cloud_config(text: &str) -> bool {
    let rest = after(text.trim_start(), HEADER);
    rest.is_some_and(|rest| OTHER_TYPES.iter().all(|other| after(rest, other).is_none()))
}

/// What follows the start of a text, which may be in upper case.
fn after<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    let (found, rest) = text.split_at_checked(start.len())?;
    found.eq_ignore_ascii_case(start).then_some(rest)
}

/// The template with a mark in place of each expression, which only the guest can evaluate.
fn replace_expressions(template: &str) -> String {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, expression)) = rest.split_once("{{") {
        text.push_str(before);
        text.push(EXPRESSION);
        rest = expression.split_once("}}").map_or("", |(_, after)| after);
    }
    text + rest
}

fn describe_secret(name: &str, volume: &str, error: &LookupError) -> String {
    let secret = format!("the Secret {} with the user data of the volume {}", Quoted(name), Quoted(volume));
    let takes_effect = "what it asks for takes effect when the VirtualMachine's spec.template.spec next changes";
    match error.cause {
        ClusterError::NotFound => format!("{secret} does not exist yet; {takes_effect}"),
        ClusterError::Unavailable => format!("{secret} cannot be read for now; {takes_effect}"),
        _ => format!(
            "{secret} cannot be read: {}; write the directives as annotations, or {}",
            error.why(),
            error.remedy()
        ),
    }
}
