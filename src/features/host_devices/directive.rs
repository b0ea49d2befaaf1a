//! The value of a directive that lists devices, in a type that cannot hold a bad one.

use super::{DeviceKind, object};
use crate::json::{Json, Shape};
use crate::kinds::name::SUBDOMAIN;
use crate::text::Quoted;

/// The devices that a directive asks for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::features) struct Devices {
    /// Each once, as the kind's [`DeviceKind::read`] writes it.
    pub(in crate::features) list: Vec<String>,
    /// The node that they are on, if the directive names it.
    pub(in crate::features) node: Option<String>,
}

/// A value that names no devices, or not as it should.
#[derive(Debug, thiserror::Error)]
pub(in crate::features) enum DirectiveError {
    /// Cause: quotes or commas
    /// Cure: single quotes around the whole value in YAML
    #[error("not valid JSON at column {column}; {}", example(.kind))]
    Json { column: usize, kind: &'static DeviceKind },
    /// Cause: JSON of another type
    /// Cure: write the object with its key `devices`
    #[error("it is {found}, not an object; {}", example(.kind))]
    NotAnObject { found: &'static str, kind: &'static DeviceKind },
    /// Cause: another key
    /// Cure: `devices`
    #[error("unknown key {key}; the only key is devices: {}", example(.kind))]
    UnknownKey { key: String, kind: &'static DeviceKind },
    /// Cause: an empty list
    /// Cure: name at least one device, or remove the directive
    #[error("it names no device; {}, or remove the directive", example(.kind))]
    NoDevice { kind: &'static DeviceKind },
    /// Cause: one text instead of a list
    /// Cure: brackets
    #[error("devices is {found}, not a list; {}", example(.kind))]
    NotAList { found: &'static str, kind: &'static DeviceKind },
    /// Cause: a number
    /// Cure: quotes
    #[error("devices[{index}] is {found}, not a string; {}", example(.kind))]
    NotText { index: usize, found: &'static str, kind: &'static DeviceKind },
    /// Cause: a typing mistake
    /// Cure: `lspci -D` or `lsusb` on the node, or the PCI and USB devices in Harvester
    #[error("devices[{index}] {value} is not a {}: {error}; write one such as {}", .kind.named, .kind.example)]
    Device { index: usize, value: String, error: String, kind: &'static DeviceKind },
    /// Cause: the part before the slash is not a name that a node can have
    /// Cure: correct it, or leave out the node
    #[error("devices[{index}] {value} does not name a node: expected {}; write node1/{} or the device alone", SUBDOMAIN.takes, .kind.example)]
    Node { index: usize, value: String, kind: &'static DeviceKind },
    /// Cause: the same device, perhaps with and without its node, or in capitals
    /// Cure: remove the others
    #[error("{device} is listed more than once; keep one")]
    Duplicate { device: String },
    /// Cause: two nodes in one directive
    /// Cure: two VirtualMachines, or other devices
    #[error(
        "the devices are on the nodes {first} and {second}, but a VirtualMachine runs on one; name devices of one node"
    )]
    TwoNodes { first: String, second: String },
    /// Cause: the limit counts the devices that the VM has anyway
    /// Cure: fewer devices, or a higher `maxDevices`
    #[error(
        "the VirtualMachine would have {count} {} devices, but the setting {}.maxDevices allows {max}; ask for fewer, or have \
         the administrator raise it", .kind.counted, .kind.settings
    )]
    TooMany { count: usize, max: usize, kind: &'static DeviceKind },
}

fn example(kind: &DeviceKind) -> String {
    format!("write {{\"devices\": [\"{}\"]}}", kind.example)
}

/// Checks that a VirtualMachine does not get too many devices.
pub(super) fn check_count(count: usize, max: usize, kind: &'static DeviceKind) -> Result<(), DirectiveError> {
    if count > max { Err(DirectiveError::TooMany { count, max, kind }) } else { Ok(()) }
}

impl Devices {
    /// Reads a directive's value; at most `max` devices.
    pub(super) fn parse(value: &str, max: usize, kind: &'static DeviceKind) -> Result<Self, DirectiveError> {
        let json =
            Json::parse(value, &Shape::Whole).map_err(|error| DirectiveError::Json { column: error.column(), kind })?;
        let Json::Object(members) = &json else {
            return Err(DirectiveError::NotAnObject { found: json.kind(), kind });
        };
        if let Some((key, _)) = members.iter().find(|(key, _)| key != "devices") {
            return Err(DirectiveError::UnknownKey { key: Quoted(key).to_string(), kind });
        }
        let items = match json.get("devices") {
            None | Some(Json::Null) => &[],
            Some(Json::Array(items)) => items.as_slice(),
            Some(other) => return Err(DirectiveError::NotAList { found: other.kind(), kind }),
        };
        if items.is_empty() {
            return Err(DirectiveError::NoDevice { kind });
        }
        check_count(items.len(), max, kind)?;
        let mut devices = Devices { list: Vec::with_capacity(items.len()), node: None };
        for (index, item) in items.iter().enumerate() {
            let text = item.as_str().ok_or_else(|| DirectiveError::NotText { index, found: item.kind(), kind })?;
            devices.add(index, text.trim(), kind)?;
        }
        Ok(devices)
    }

    /// The devices as a JSON list, for the annotation `-applied`.
    pub(super) fn to_json(&self) -> String {
        Json::Array(self.list.iter().map(|device| device.as_str().into()).collect()).to_text()
    }

    fn add(&mut self, index: usize, text: &str, kind: &'static DeviceKind) -> Result<(), DirectiveError> {
        let (node, device) = match (text.rsplit_once('/'), object(text)) {
            (Some((node, device)), _) => (Some(node), (kind.read)(device)),
            (None, Some((node, device))) => (Some(node), (kind.read)(&device)),
            (None, None) => (None, (kind.read)(text)),
        };
        // A PCI device's name is its address; a USB device's tells it from others of its kind.
        let is_name = !kind.is_pci && object(text).is_some();
        let device = device.map(|device| if is_name { text.to_owned() } else { device });
        let value = Quoted(text).to_string();
        let device = match device {
            Ok(device) => device,
            Err(error) => return Err(DirectiveError::Device { index, value, error, kind }),
        };
        match (&self.node, node) {
            (_, Some(node)) if !SUBDOMAIN.allows(node) => return Err(DirectiveError::Node { index, value, kind }),
            (Some(first), Some(second)) if first != second => {
                return Err(DirectiveError::TwoNodes { first: first.clone(), second: second.to_owned() });
            }
            (None, Some(node)) => self.node = Some(node.to_owned()),
            _ => {}
        }
        if self.list.contains(&device) {
            return Err(DirectiveError::Duplicate { device });
        }
        self.list.push(device);
        Ok(())
    }
}
