//! The value of a directive that lists devices. An invalid value cannot be represented.

use serde_json::Value;

use super::{Bus, object};
use crate::json::type_name;
use crate::text::{self, Quoted};
use crate::values::name::SUBDOMAIN;

/// The devices that a directive asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::features) struct Devices {
    /// The devices in the form that [`Bus::read`] returns.
    pub(in crate::features) list: Vec<String>,
    /// The node that the devices are on, if the directive names it.
    pub(in crate::features) node: Option<String>,
}

/// Why a value is not a valid list of devices. `write` is the value as it should be written in YAML.
#[derive(Debug, thiserror::Error)]
pub(in crate::features) enum DirectiveError {
    /// Cause: the value is a device without the JSON around it, or the message says where it is wrong: "at column ...", "it has curly
    /// quotes, and needs straight ones", "it contains the single quotes that should be around it", "the quotes in it must be double
    /// quotes", "it has no double quotes", "it has a comma before a closing bracket", "it ends too early"
    /// Cure: copy the value in the message: in YAML, the whole value is in single quotes
    #[error("not valid JSON{problem}; write {write}")]
    Json { problem: String, write: String },
    /// Cause: JSON of another type
    /// Cure: write an object with the key `devices`
    #[error("it is {found}, not an object; write {write}")]
    NotAnObject { found: &'static str, write: String },
    /// Cause: another key
    /// Cure: `devices`
    #[error("unknown key {key}; the only key is devices: write {write}")]
    UnknownKey { key: String, write: String },
    /// Cause: the key `devices` twice, of which JSON would keep only the last one
    /// Cure: put all devices in one list
    #[error("it has the key devices more than once; write {write}")]
    RepeatedKey { write: String },
    /// Cause: an empty list
    /// Cure: name at least one device, or remove the directive
    #[error("it names no device; write {write}, or remove the directive")]
    NoDevice { write: String },
    /// Cause: a string instead of a list, for example
    /// Cure: put the devices in brackets
    #[error("devices is {found}, not a list; write {write}")]
    NotAList { found: &'static str, write: String },
    /// Cause: a number, for example
    /// Cure: put the device in quotes
    #[error("devices[{index}] is {found}, not a string; write {write}")]
    NotText { index: usize, found: &'static str, write: String },
    /// Cause: a typing mistake in a "PCI address or vendor:device", or in a "USB device"
    /// Cure: the device in the message; `lspci -Dnn` or `lsusb` on the node, or the PCI and USB devices in Harvester
    #[error("devices[{index}] {value} is not a {}: {error}; write {write}", .bus.notation)]
    Device { index: usize, value: String, error: String, write: String, bus: &'static Bus },
    /// Cause: the part before the slash is not a name that a node can have
    /// Cure: correct it, or leave out the node
    #[error("devices[{index}] {value} does not name a node: expected {}; write node1/{} or the device alone", SUBDOMAIN.takes, .bus.example)]
    Node { index: usize, value: String, bus: &'static Bus },
    /// Cause: the same device twice, perhaps with and without its node, or in upper and lower case
    /// Cure: remove the others
    #[error("{device} is listed more than once; keep one")]
    Duplicate { device: String },
    /// Cause: two nodes in one directive
    /// Cure: use two VirtualMachines, or choose other devices
    #[error(
        "the devices are on the nodes {first} and {second}, but a VirtualMachine runs on one; name devices of one node"
    )]
    TwoNodes { first: String, second: String },
    /// Cause: too many devices, including those in the VM's template
    /// Cure: ask for fewer devices, or set a higher `maxDevices`
    #[error(
        "the VirtualMachine would have {count} {} devices, but the setting {}.maxDevices allows {max}; ask for fewer, or have \
         the administrator raise it", .bus.counted, .bus.settings
    )]
    TooMany { count: usize, max: usize, bus: &'static Bus },
}

/// Checks that a VirtualMachine does not get more devices than it may have.
pub(in crate::features) fn check_count(count: usize, max: usize, bus: &'static Bus) -> Result<(), DirectiveError> {
    if count > max { Err(DirectiveError::TooMany { count, max, bus }) } else { Ok(()) }
}

impl Devices {
    /// Reads a directive's value, with at most `max` devices.
    pub(super) fn parse(value: &str, max: usize, bus: &'static Bus) -> Result<Self, DirectiveError> {
        let write = || corrected(value, bus);
        let json: Value = serde_json::from_str(value)
            .map_err(|error| DirectiveError::Json { problem: problem(value, &error), write: write() })?;
        let Value::Object(members) = &json else {
            return Err(DirectiveError::NotAnObject { found: type_name(&json), write: write() });
        };
        if let Some(key) = members.keys().find(|key| *key != "devices") {
            return Err(DirectiveError::UnknownKey { key: Quoted(key).to_string(), write: write() });
        }
        if count_members(value) > members.len() {
            return Err(DirectiveError::RepeatedKey { write: write() });
        }
        let items = match members.get("devices") {
            Some(Value::Array(items)) if !items.is_empty() => items,
            None | Some(Value::Null | Value::Array(_)) => return Err(DirectiveError::NoDevice { write: write() }),
            Some(other) => return Err(DirectiveError::NotAList { found: type_name(other), write: write() }),
        };
        check_count(items.len(), max, bus)?;
        let mut devices = Devices::default();
        for (index, item) in items.iter().enumerate() {
            let not_text = || DirectiveError::NotText { index, found: type_name(item), write: write() };
            let text = item.as_str().ok_or_else(not_text)?;
            devices.add(index, text.trim(), bus)?;
        }
        Ok(devices)
    }

    fn add(&mut self, index: usize, text: &str, bus: &'static Bus) -> Result<(), DirectiveError> {
        let named = object(text);
        let (node, device) = match (text.rsplit_once('/'), &named) {
            (Some((node, device)), _) => (Some(node), device),
            (None, Some((node, device))) => (Some(*node), device.as_str()),
            (None, None) => (None, text),
        };
        let value = Quoted(text).to_string();
        let device = match (bus.read)(device) {
            Ok(_) if named.is_some() && !bus.name_is_address => text.to_owned(),
            Ok(device) => device,
            Err(error) => {
                let write = with_separators(device, bus).unwrap_or_else(|| format!("one such as {}", bus.example));
                return Err(DirectiveError::Device { index, value, error, write, bus });
            }
        };
        match (&self.node, node) {
            (_, Some(node)) if !SUBDOMAIN.allows(node) => return Err(DirectiveError::Node { index, value, bus }),
            (Some(first), Some(second)) if first != second => {
                return Err(DirectiveError::TwoNodes { first: first.clone(), second: second.to_owned() });
            }
            (None, Some(node)) => self.node = Some(node.to_owned()),
            _ => {}
        }
        if self.list.contains(&device) && !(bus.is_countable)(&device) {
            return Err(DirectiveError::Duplicate { device });
        }
        self.list.push(device);
        Ok(())
    }
}

/// The devices that a value names, however it is written, as the value should be in YAML. If it names none, an example.
fn corrected(value: &str, bus: &'static Bus) -> String {
    let mut words = text::words(value);
    for word in &mut words {
        *word = word.strip_prefix("devices:").unwrap_or(word);
        *word = word.strip_suffix(':').unwrap_or(word);
    }
    let is_device = |word: &str| {
        let device = object(word).map(|(_, device)| device);
        (bus.read)(device.as_deref().unwrap_or(word.rsplit_once('/').map_or(word, |(_, device)| device))).is_ok()
    };
    // If none is a device, what is wrong with those that look like one is the next message.
    let has_device = words.iter().any(|word| is_device(word));
    words.retain(|word| if has_device { is_device(word) } else { word.contains(':') });
    words.truncate(MAX_WORDS);
    if words.is_empty() {
        words.push(bus.example);
    }
    format!("'{{\"devices\": [\"{}\"]}}'", words.join("\", \""))
}

/// How many devices a corrected value has at most: the value can be a megabyte long.
const MAX_WORDS: usize = 8;

/// What is wrong with a text that is not JSON, as far as that can be told.
fn problem(value: &str, error: &serde_json::Error) -> String {
    let is_curly = |c: char| matches!(c, '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}');
    let is_start = |c: char| matches!(c, '{' | '[' | '"');
    let is_bracket = |c: char| matches!(c, ']' | '}');
    let has_comma_last = || value.split(',').any(|rest| rest.trim_start().starts_with(is_bracket));
    let known = if value.contains(is_curly) {
        "it has curly quotes, and needs straight ones"
    } else if value.starts_with('\'') {
        "it contains the single quotes that should be around it"
    } else if value.contains('\'') {
        "the quotes in it must be double quotes"
    } else if !value.starts_with(is_start) {
        return String::new();
    } else if !value.contains('"') {
        "it has no double quotes"
    } else if has_comma_last() {
        "it has a comma before a closing bracket"
    } else if error.is_eof() {
        "it ends too early"
    } else {
        return format!(" at column {}", error.column());
    };
    format!(": {known}")
}

/// How many members an object has, in a text that is valid JSON. Of members with the same key, all count.
fn count_members(json: &str) -> usize {
    let (mut count, mut depth, mut is_in_string, mut is_escaped) = (0, 0_usize, false, false);
    for c in json.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_in_string = !is_in_string,
            _ if is_in_string => {}
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ':' if depth == 1 => count += 1,
            _ => {}
        }
    }
    count
}

/// The device with the right separators, if it has as many hexadecimal digits as the example.
fn with_separators(text: &str, bus: &Bus) -> Option<String> {
    if !text.chars().all(|c| c.is_ascii_hexdigit() || c.is_ascii_punctuation()) {
        return None;
    }
    let mut digits = text.chars().filter(char::is_ascii_hexdigit);
    let mut device = String::new();
    for c in bus.example.chars() {
        device.push(if c.is_ascii_hexdigit() { digits.next()? } else { c });
    }
    (bus.read)(&device).ok().filter(|_| digits.next().is_none())
}
