//! The value of a directive that lists devices. An invalid value cannot be represented.

use serde_json::Value;

use super::{Bus, object};
use crate::features::feature::Context;
use crate::features::gpu_device_plugin;
use crate::json::type_name;
use crate::text::{self, Quoted};
use crate::values::name::SUBDOMAIN;
use crate::values::pci::PciAddress;
use crate::values::resource::ResourceName;
use crate::values::usb::UsbIds;

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
    #[error("devices[{index}] {value} does not name a node: expected {}; write {write} or the device alone", SUBDOMAIN.takes)]
    Node { index: usize, value: String, write: String },
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
    pub(super) fn parse(
        value: &str,
        max: usize,
        bus: &'static Bus,
        context: &Context<'_>,
    ) -> Result<Self, DirectiveError> {
        let write = || corrected(value, bus, context);
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
            devices.add(index, text.trim(), bus, context)?;
        }
        Ok(devices)
    }

    fn add(
        &mut self,
        index: usize,
        text: &str,
        bus: &'static Bus,
        context: &Context<'_>,
    ) -> Result<(), DirectiveError> {
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
                let first = devices_in(text, bus).into_iter().next();
                let write =
                    first.unwrap_or_else(|| format!("one such as {}{}", bus.example, elsewhere(text, bus, context)));
                return Err(DirectiveError::Device { index, value, error, write, bus });
            }
        };
        match (&self.node, node) {
            (_, Some(node)) if !SUBDOMAIN.allows(node) => {
                let is_upper_case = SUBDOMAIN.allows(&node.to_ascii_lowercase());
                let write = if is_upper_case { text.to_ascii_lowercase() } else { format!("node1/{}", bus.example) };
                return Err(DirectiveError::Node { index, value, write });
            }
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
fn corrected(value: &str, bus: &'static Bus, context: &Context<'_>) -> String {
    let value = text::first(value, MAX_LENGTH);
    let (mut devices, mut hint) = (devices_in(value, bus), String::new());
    if devices.is_empty() {
        // What is wrong with those that look like a device is the next message.
        devices.extend(text::words(value).into_iter().map(bare).filter(|word| word.contains(':')).map(str::to_owned));
    }
    if devices.is_empty() {
        hint = elsewhere(value, bus, context);
        devices.push(bus.example.to_owned());
    }
    devices.truncate(MAX_DEVICES);
    format!("'{{\"devices\": [\"{}\"]}}'{hint}", devices.join("\", \""))
}

/// How many devices a corrected value has at most: the value can be a megabyte long.
const MAX_DEVICES: usize = 8;

/// In how many characters of a value it looks for them.
const MAX_LENGTH: usize = 4096;

/// A word of a value without what YAML puts around it.
fn bare(word: &str) -> &str {
    let word = word.strip_prefix("devices:").unwrap_or(word);
    word.trim_end_matches(':')
}

/// The devices that a text names, however it is written, in the form that a directive takes: with the node that
/// `node: hv1` or `@hv1` names, and from two ids such as `vendorid=0x10c4,productid=0xea60`.
fn devices_in(text: &str, bus: &Bus) -> Vec<String> {
    let text = text.replace('@', " node ");
    let (mut devices, mut ids, mut node, mut key) = (Vec::new(), Vec::new(), None, "");
    for word in text::words(&text) {
        let word = bare(word);
        if let Some(device) = device_in(word, bus) {
            devices.push(device);
        } else if key == "node" && SUBDOMAIN.allows(word) {
            node = Some(word);
        } else {
            for id in word.split(':') {
                let id = id.strip_prefix("0x").unwrap_or(id);
                if id.len() == 4 && UsbIds::of_parts(id, id).is_some() {
                    ids.insert(if key.starts_with("vendor") { 0 } else { ids.len() }, id);
                }
            }
        }
        // In JSON, a colon is a word of its own.
        key = if word.is_empty() { key } else { word };
    }
    if devices.is_empty() && ids.len() == 2 {
        devices.push(ids.join(":"));
    }
    for device in &mut devices {
        if let Some(node) = node.filter(|_| !device.contains('/') && object(device).is_none()) {
            *device = format!("{node}/{device}");
        }
    }
    devices
}

/// The device that a word names, with its node if the word names that, too, as in `hv1:0000:01:00.0`.
fn device_in(word: &str, bus: &Bus) -> Option<String> {
    let found = normalized(word, bus);
    if found.is_some() {
        return found;
    }
    for (at, c) in word.char_indices() {
        let (node, device) = word.split_at_checked(at)?;
        let is_node = || SUBDOMAIN.allows(node) && !node.chars().all(|c| c.is_ascii_hexdigit());
        if c == '/' || matches!(c, ':' | '-') && is_node() {
            let device = device.get(1..)?;
            match normalized(device, bus) {
                // The resource of a USBDevice ends with its name: kubevirt.io/hv1-046d-c52b-001002.
                Some(found) if object(device).is_some() => return Some(found),
                Some(found) => return Some(format!("{node}/{found}")),
                None => {}
            }
        }
    }
    None
}

/// A device in the form that a directive takes, if it is written as other tools do: `01:00` or `01:00.x` for a whole slot,
/// `pci_0000_01_00_0`, or with other separators.
fn normalized(text: &str, bus: &Bus) -> Option<String> {
    if let Some((_, device)) = object(text).filter(|_| !text.contains('/')) {
        return (is_address(&device) == bus.name_is_address).then(|| text.to_owned());
    }
    if (bus.read)(text).is_ok() {
        return Some(text.to_owned());
    }
    let slot = format!("{}.*", text.trim_end_matches(|c: char| !c.is_ascii_hexdigit()));
    if (bus.read)(&slot).is_ok() {
        return Some(slot);
    }
    with_separators(text.strip_prefix("pci_").unwrap_or(text), bus)
}

fn is_address(text: &str) -> bool {
    text.parse::<PciAddress>().is_ok()
}

/// The directive that a text is for, if it names no device of the bus, as the end of a message.
fn elsewhere(text: &str, bus: &Bus, context: &Context<'_>) -> String {
    for word in text::words(text) {
        let last = word.rsplit_once('/').map_or(word, |(_, last)| last);
        let named = object(last).map(|(_, device)| device);
        let is_address = is_address(named.as_deref().unwrap_or(last));
        let directive = if is_address != bus.name_is_address && (is_address || named.is_some()) {
            bus.partner.name
        } else if bus.name_is_address && word.parse::<ResourceName>().is_ok() && gpu_device_plugin::takes(word, context)
        {
            "gpu-device-plugin"
        } else {
            continue;
        };
        return format!(", or use the directive {directive} for this one");
    }
    String::new()
}

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
