//! The directive's value: which devices, in a type that cannot hold a bad one.

use crate::json::{Json, Shape};
use crate::kinds::name::SUBDOMAIN;
use crate::kinds::pci::{PciAddress, PciAddressError};
use crate::text::Quoted;

/// The devices that a directive asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Devices {
    /// Each once.
    pub(super) addresses: Vec<PciAddress>,
    /// The node that they are on, if the directive names it.
    pub(super) node: Option<String>,
}

/// A value that names no devices, or not as it should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DirectiveError {
    /// Cause: quotes or commas
    /// Cure: single quotes around the whole value in YAML
    #[error("not valid JSON at column {column}; write {EXAMPLE}")]
    Json { column: usize },
    /// Cause: JSON of another type
    /// Cure: write the object with its key `devices`
    #[error("it is {found}, not an object; write {EXAMPLE}")]
    NotAnObject { found: &'static str },
    /// Cause: another key
    /// Cure: `devices`
    #[error("unknown key {key}; the only key is devices: write {EXAMPLE}")]
    UnknownKey { key: String },
    /// Cause: an empty list
    /// Cure: name at least one device, or remove the directive
    #[error("it names no device; write {EXAMPLE}, or remove the directive")]
    NoDevice,
    /// Cause: one text instead of a list
    /// Cure: brackets
    #[error("devices is {found}, not a list; write {EXAMPLE}")]
    NotAList { found: &'static str },
    /// Cause: a number
    /// Cure: quotes
    #[error("devices[{index}] is {found}, not a string; write {EXAMPLE}")]
    NotText { index: usize, found: &'static str },
    /// Cause: a typing mistake
    /// Cure: `lspci -D` on the node, or the PCI devices in Harvester
    #[error("devices[{index}] {} is not a PCI address: {error}; write one such as 0000:00:02.0", Quoted(.value))]
    Address { index: usize, value: String, error: PciAddressError },
    /// Cause: the part before the slash is not a name that a node can have
    /// Cure: correct it, or leave out the node
    #[error("devices[{index}] {} does not name a node: {}; write node/address or the address alone", Quoted(.value), SUBDOMAIN.takes)]
    Node { index: usize, value: String },
    /// Cause: the same address, perhaps with and without the domain
    /// Cure: remove the others
    #[error("{address} is listed more than once; keep one")]
    Duplicate { address: PciAddress },
    /// Cause: two nodes in one directive
    /// Cure: two VirtualMachines, or other devices
    #[error(
        "the devices are on the nodes {first} and {second}, but a VirtualMachine runs on one; name devices of one node"
    )]
    TwoNodes { first: String, second: String },
    /// Cause: the limit counts the devices that the VM has anyway
    /// Cure: fewer devices, or a higher `maxDevices`
    #[error(
        "the VirtualMachine would have {count} host devices, but the setting pciPassthrough.maxDevices allows {max}; ask \
         for fewer, or have the administrator raise it"
    )]
    TooMany { count: usize, max: usize },
}

const EXAMPLE: &str = r#"{"devices": ["0000:00:02.0"]}"#;

impl Devices {
    /// Reads a directive's value; at most `max` devices.
    pub(super) fn parse(value: &str, max: usize) -> Result<Self, DirectiveError> {
        let json =
            Json::parse(value, &Shape::Whole).map_err(|error| DirectiveError::Json { column: error.column() })?;
        let Json::Object(members) = &json else {
            return Err(DirectiveError::NotAnObject { found: json.kind() });
        };
        if let Some((key, _)) = members.iter().find(|(key, _)| key != "devices") {
            return Err(DirectiveError::UnknownKey { key: Quoted(key).to_string() });
        }
        let items = match json.get("devices") {
            None | Some(Json::Null) => return Err(DirectiveError::NoDevice),
            Some(Json::Array(items)) if items.is_empty() => return Err(DirectiveError::NoDevice),
            Some(Json::Array(items)) => items,
            Some(other) => {
                return Err(DirectiveError::NotAList { found: other.kind() });
            }
        };
        check_count(items.len(), max)?;
        let mut devices = Devices { addresses: Vec::with_capacity(items.len()), node: None };
        for (index, item) in items.iter().enumerate() {
            let text = item.as_str().ok_or_else(|| DirectiveError::NotText { index, found: item.kind() })?;
            devices.add(index, text.trim())?;
        }
        Ok(devices)
    }

    /// The addresses as a JSON list, for the annotation `-applied`.
    pub(super) fn to_json(&self) -> String {
        let addresses = self.addresses.iter();
        Json::Array(addresses.map(|address| address.to_string().into()).collect()).to_text()
    }

    fn add(&mut self, index: usize, text: &str) -> Result<(), DirectiveError> {
        let (node, address) = match text.rsplit_once('/') {
            Some((node, address)) => (Some(node), address.parse()),
            None => match PciAddress::of_pci_device(text) {
                Some((node, address)) => (Some(node), Ok(address)),
                None => (None, text.parse()),
            },
        };
        let value = || text.to_owned();
        let address = address.map_err(|error| DirectiveError::Address { index, value: value(), error })?;
        if node.is_some_and(|node| !SUBDOMAIN.allows(node)) {
            return Err(DirectiveError::Node { index, value: value() });
        }
        match (&self.node, node) {
            (Some(first), Some(second)) if first != second => {
                return Err(DirectiveError::TwoNodes { first: first.clone(), second: second.to_owned() });
            }
            (None, Some(node)) => self.node = Some(node.to_owned()),
            _ => {}
        }
        if self.addresses.contains(&address) {
            return Err(DirectiveError::Duplicate { address });
        }
        self.addresses.push(address);
        Ok(())
    }
}

/// Checks that a VirtualMachine does not get too many host devices.
pub(super) fn check_count(count: usize, max: usize) -> Result<(), DirectiveError> {
    if count > max { Err(DirectiveError::TooMany { count, max }) } else { Ok(()) }
}
