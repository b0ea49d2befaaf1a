//! The value of a directive that lists devices. An invalid value cannot be represented.

use serde_json::Value;

use super::{Bus, object};
use crate::json::type_name;
use crate::text::Quoted;
use crate::values::name::SUBDOMAIN;

/// The devices that a directive asks for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::features) struct Devices {
    /// The devices in the form that [`Bus::read`] returns.
    pub(in crate::features) list: Vec<String>,
    /// The node that the devices are on, if the directive names it.
    pub(in crate::features) node: Option<String>,
}

/// Why a value is not a valid list of devices.
#[derive(Debug, thiserror::Error)]
pub(in crate::features) enum DirectiveError {
    /// Cause: quotes or commas are wrong
    /// Cure: in YAML, put the whole value in single quotes
    #[error("not valid JSON at column {column}; {}", example(.bus))]
    Json { column: usize, bus: &'static Bus },
    /// Cause: JSON of another type
    /// Cure: write an object with the key `devices`
    #[error("it is {found}, not an object; {}", example(.bus))]
    NotAnObject { found: &'static str, bus: &'static Bus },
    /// Cause: another key
    /// Cure: `devices`
    #[error("unknown key {key}; the only key is devices: {}", example(.bus))]
    UnknownKey { key: String, bus: &'static Bus },
    /// Cause: an empty list
    /// Cure: name at least one device, or remove the directive
    #[error("it names no device; {}, or remove the directive", example(.bus))]
    NoDevice { bus: &'static Bus },
    /// Cause: a string instead of a list, for example
    /// Cure: put the devices in brackets
    #[error("devices is {found}, not a list; {}", example(.bus))]
    NotAList { found: &'static str, bus: &'static Bus },
    /// Cause: a number, for example
    /// Cure: put the device in quotes
    #[error("devices[{index}] is {found}, not a string; {}", example(.bus))]
    NotText { index: usize, found: &'static str, bus: &'static Bus },
    /// Cause: a typing mistake
    /// Cure: `lspci -D` or `lsusb` on the node, or the PCI and USB devices in Harvester
    #[error("devices[{index}] {value} is not a {}: {error}; write one such as {}", .bus.notation, .bus.example)]
    Device { index: usize, value: String, error: String, bus: &'static Bus },
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

fn example(bus: &Bus) -> String {
    format!("write {{\"devices\": [\"{}\"]}}", bus.example)
}

/// Checks that a VirtualMachine does not get more devices than it may have.
pub(super) fn check_count(count: usize, max: usize, bus: &'static Bus) -> Result<(), DirectiveError> {
    if count > max { Err(DirectiveError::TooMany { count, max, bus }) } else { Ok(()) }
}

impl Devices {
    /// Reads a directive's value, with at most `max` devices.
    pub(super) fn parse(value: &str, max: usize, bus: &'static Bus) -> Result<Self, DirectiveError> {
        let json: Value =
            serde_json::from_str(value).map_err(|error| DirectiveError::Json { column: error.column(), bus })?;
        let Value::Object(members) = &json else {
            return Err(DirectiveError::NotAnObject { found: type_name(&json), bus });
        };
        if let Some(key) = members.keys().find(|key| *key != "devices") {
            return Err(DirectiveError::UnknownKey { key: Quoted(key).to_string(), bus });
        }
        let items = match members.get("devices") {
            Some(Value::Array(items)) if !items.is_empty() => items,
            None | Some(Value::Null | Value::Array(_)) => return Err(DirectiveError::NoDevice { bus }),
            Some(other) => return Err(DirectiveError::NotAList { found: type_name(other), bus }),
        };
        check_count(items.len(), max, bus)?;
        let mut devices = Devices { list: Vec::with_capacity(items.len()), node: None };
        for (index, item) in items.iter().enumerate() {
            let text = item.as_str().ok_or_else(|| DirectiveError::NotText { index, found: type_name(item), bus })?;
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
            Err(error) => return Err(DirectiveError::Device { index, value, error, bus }),
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
