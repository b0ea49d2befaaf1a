//! PCI passthrough: the guest gets host devices by their PCI addresses.

use std::fmt;

use serde_json::value::RawValue;

use super::{Context, Failure, Feature, Plan};
use crate::cluster::LookupError;
use crate::json::{Json, Shape};
use crate::names::SUBDOMAIN;
use crate::pci::{PciAddress, PciAddressError};
use crate::settings::{DeviceNames, FeatureSettings, Pattern, Settings};
use crate::text::Quoted;
use crate::vm::Edit;

pub(super) struct PciPassthrough;

/// What a directive asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    address: PciAddress,
    node: Option<String>,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}/{}", self.address),
            None => self.address.fmt(f),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PciPassthroughError {
    #[error("not valid JSON at column {column}; write {EXAMPLE}")]
    Json { column: usize },
    #[error("{found} where an object is expected; write {EXAMPLE}")]
    NotAnObject { found: &'static str },
    #[error("unknown key {key}; the one key is devices: write {EXAMPLE}")]
    UnknownKey { key: String },
    #[error("no device in it; write {EXAMPLE}, or remove the directive")]
    NoDevice,
    #[error("devices is {found}, not a list; write {EXAMPLE}")]
    NotAList { found: &'static str },
    #[error("devices[{index}] is {found}, not a string; write {EXAMPLE}")]
    NotText { index: usize, found: &'static str },
    #[error("devices[{index}] {} is no PCI address: {error}; write one such as 0000:00:02.0", Quoted(.value))]
    Address {
        index: usize,
        value: String,
        error: PciAddressError,
    },
    #[error("devices[{index}] {} names no node: {}; write node/address or the address alone", Quoted(.value), SUBDOMAIN.takes)]
    Node { index: usize, value: String },
    #[error("{address} is there more than once; remove all but one")]
    Duplicate { address: PciAddress },
    #[error(
        "the devices are of the nodes {first} and {second}, and a VirtualMachine runs on one; name devices of one node"
    )]
    TwoNodes { first: String, second: String },
    #[error(
        "the VirtualMachine would have {count} host devices, and the setting pciPassthrough.maxDevices allows {max}; ask \
         for fewer, or have the administrator raise it"
    )]
    TooMany { count: usize, max: usize },
    #[error(
        "{device} is not allowed in the namespace {namespace}; ask for another device, or have the administrator add it \
         to the setting pciPassthrough.allowedDevices"
    )]
    NotAllowed { device: String, namespace: String },
    #[error(
        "Harvester's PCI devices cannot be looked up: {error}; see that the add-on pcidevices-controller is on and \
         policy-server may get, list and watch pcidevices, or have the administrator set pciPassthrough.deviceNames to \
         address"
    )]
    Lookup { error: LookupError },
}

const EXAMPLE: &str = r#"{"devices": ["0000:00:02.0"]}"#;

impl Feature for PciPassthrough {
    fn name(&self) -> &'static str {
        "pci-passthrough"
    }

    fn settings(&self, settings: &Settings) -> FeatureSettings {
        settings.pci_passthrough.feature
    }

    fn plan(&self, value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure> {
        let requests = parse(value, context.settings.pci_passthrough.max_devices)?;
        check_nodes(&requests)?;
        let mut plan = Plan {
            applied: addresses(&requests),
            ..Plan::default()
        };
        match context.settings.pci_passthrough.device_names {
            DeviceNames::Address => {}
            names => match context.cluster.pci_devices() {
                Ok(_) => {}
                Err(LookupError::NotGranted | LookupError::KindNotServed)
                    if names == DeviceNames::Auto =>
                {
                    plan.warnings.push(
                        "PCI devices are named by their addresses, as the policy cannot look up Harvester's; such a \
                         VirtualMachine starts only where a device plugin serves these names"
                            .to_owned(),
                    );
                }
                Err(error) => return Err(PciPassthroughError::Lookup { error }.into()),
            },
        }
        by_address(&requests, context, &mut plan)?;
        Ok(Some(plan))
    }
}

/// The devices that a directive's value names, each once.
fn parse(value: &str, max: usize) -> Result<Vec<Request>, PciPassthroughError> {
    let json = serde_json::from_str::<&RawValue>(value)
        .and_then(|raw| Json::parse(raw, &Shape::Tree))
        .map_err(|error| PciPassthroughError::Json {
            column: error.column(),
        })?;
    let Json::Object(members) = &json else {
        return Err(PciPassthroughError::NotAnObject { found: json.kind() });
    };
    if let Some((key, _)) = members.iter().find(|(key, _)| key != "devices") {
        return Err(PciPassthroughError::UnknownKey {
            key: Quoted(key).to_string(),
        });
    }
    let items = match json.get("devices") {
        None | Some(Json::Null) => return Err(PciPassthroughError::NoDevice),
        Some(Json::Array(items)) if items.is_empty() => return Err(PciPassthroughError::NoDevice),
        Some(Json::Array(items)) => items,
        Some(other) => {
            return Err(PciPassthroughError::NotAList {
                found: other.kind(),
            });
        }
    };
    if items.len() > max {
        return Err(PciPassthroughError::TooMany {
            count: items.len(),
            max,
        });
    }
    let mut requests: Vec<Request> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let text = item.as_str().ok_or_else(|| PciPassthroughError::NotText {
            index,
            found: item.kind(),
        })?;
        let request = parse_one(index, text)?;
        if requests
            .iter()
            .any(|earlier| earlier.address == request.address)
        {
            return Err(PciPassthroughError::Duplicate {
                address: request.address,
            });
        }
        requests.push(request);
    }
    Ok(requests)
}

fn parse_one(index: usize, text: &str) -> Result<Request, PciPassthroughError> {
    let text = text.trim();
    let (node, address) = match text.rsplit_once('/') {
        Some((node, address)) => (Some(node), address),
        None => (None, text),
    };
    let address = address
        .parse()
        .map_err(|error| PciPassthroughError::Address {
            index,
            value: text.to_owned(),
            error,
        })?;
    if node.is_some_and(|node| !SUBDOMAIN.allows(node)) {
        return Err(PciPassthroughError::Node {
            index,
            value: text.to_owned(),
        });
    }
    Ok(Request {
        address,
        node: node.map(str::to_owned),
    })
}

fn check_nodes(requests: &[Request]) -> Result<(), PciPassthroughError> {
    let mut nodes = requests.iter().filter_map(|request| request.node.as_ref());
    let Some(first) = nodes.next() else {
        return Ok(());
    };
    match nodes.find(|node| *node != first) {
        None => Ok(()),
        Some(second) => Err(PciPassthroughError::TwoNodes {
            first: first.clone(),
            second: second.clone(),
        }),
    }
}

/// The record of a directive: its addresses, as a JSON array.
fn addresses(requests: &[Request]) -> String {
    let items = requests
        .iter()
        .map(|request| request.address.to_string().into())
        .collect();
    Json::Array(items).to_text()
}

/// Names the devices by their addresses.
fn by_address(requests: &[Request], context: &Context<'_>, plan: &mut Plan) -> Result<(), Failure> {
    let host_devices = context.vm.host_devices()?;
    check_count(host_devices.len(), context)?;
    let mut missing = Vec::new();
    for request in requests {
        let device_name = request.address.device_name();
        check_allowed(request, &device_name, context)?;
        if !host_devices
            .iter()
            .any(|device| device.device_name == device_name)
        {
            missing.push(device_name);
        }
    }
    check_count(host_devices.len() + missing.len(), context)?;
    let gpus = context.vm.gpus()?;
    let is_free = |name: &String| {
        !host_devices
            .iter()
            .chain(&gpus)
            .any(|device| device.name == name)
    };
    let free = (0..)
        .map(|n: usize| format!("pci-device-{n}"))
        .filter(is_free);
    for (device_name, name) in missing.into_iter().zip(free) {
        plan.edits.push(Edit::AddHostDevice { name, device_name });
    }
    if let Some(request) = requests.iter().find(|request| request.node.is_some()) {
        plan.warnings.push(format!(
            "the node in {request} has no effect where PCI devices are named by their addresses; pin the \
             VirtualMachine to the node with a node selector"
        ));
    }
    Ok(())
}

fn check_count(count: usize, context: &Context<'_>) -> Result<(), PciPassthroughError> {
    let max = context.settings.pci_passthrough.max_devices;
    if count > max {
        Err(PciPassthroughError::TooMany { count, max })
    } else {
        Ok(())
    }
}

/// That the settings let a VirtualMachine of this namespace take the device.
fn check_allowed(
    request: &Request,
    resource: &str,
    context: &Context<'_>,
) -> Result<(), PciPassthroughError> {
    let allowed = &context.settings.pci_passthrough.allowed_devices;
    let address = request.address.to_string();
    let with_node = request.to_string();
    let matches = |pattern: &Pattern| {
        [&address, &address.to_ascii_uppercase(), &with_node]
            .iter()
            .any(|text| pattern.matches(text))
            || pattern.matches(resource)
    };
    let of_namespace = allowed
        .iter()
        .filter(|(namespace, _)| namespace.matches(context.namespace));
    if allowed.is_empty() || of_namespace.flat_map(|(_, patterns)| patterns).any(matches) {
        Ok(())
    } else {
        Err(PciPassthroughError::NotAllowed {
            device: request.to_string(),
            namespace: context.namespace.to_owned(),
        })
    }
}
