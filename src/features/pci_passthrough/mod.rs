//! PCI passthrough: the guest gets host devices by their PCI addresses.

mod directive;
mod harvester;

use super::allowed::allows;
use super::host_devices::{check_gate, free_names};
#[cfg(feature = "describe")]
use super::reference::Reference;
use super::{Context, Failure, Feature, Plan};
use crate::cluster::{ClusterError, LookupError, PciDevice};
#[cfg(feature = "describe")]
use crate::cluster::{
    Kind,
    access::{Access, Condition, Verbs},
};
use crate::kinds::pattern::Pattern;
use crate::kinds::pci::PciAddress;
use crate::settings::{Count, FeatureSettings, choice, section};
use crate::text::Quoted;
use crate::vm::Device;
use crate::vm::entry::{Entry, HOST_DEVICE, NODE_SELECTOR};
use directive::{Devices, check_count};
use harvester::{Choice, Inventory};

section! {
    /// Setting `pciPassthrough`.
    PciPassthroughSettings("PCI passthrough") {
        ..feature: FeatureSettings;
        /// Those that the user wrote are counted, too.
        max_devices: Count = Count(8), "maxDevices", "most host devices of a VM";
        /// With auto, Harvester's names where it has PCI devices, else names made of the address, which need a device plugin that
        /// serves them.
        device_names: DeviceNames = DeviceNames::Auto, "deviceNames", "names of host devices";
        /// A node that stands before an address, as in node1/0000:00:02.0, becomes the virtual machine's node selector.
        pin_to_node: bool = true, "pinToNode", "select the node that the directive names";
        /// Namespace pattern, and patterns of addresses or resource names with commas between them. Empty is any device for
        /// everybody; a namespace with an empty list may take none.
        allowed_devices: Vec<(Pattern, Vec<Pattern>)> = Vec::new(), "allowedDevices", "devices that a namespace may take";
        /// A device goes only to virtual machines that its claim's user writes. Needs Harvester, whose claims name a user.
        require_claim_owner: bool = false, "requireClaimOwner", "only the user who claimed a device may ask for it";
    }
}

impl PciPassthroughSettings {
    /// Whether host devices are named without Harvester.
    pub(crate) fn names_by_address(&self) -> bool {
        self.device_names == DeviceNames::Address
    }
}

choice! {
    /// How a host device is named.
    DeviceNames {
        /// As Harvester does where it has PCI devices, else by address.
        Auto = "auto",
        /// By Harvester's PCIDevice.
        Harvester = "harvester",
        /// By its PCI address.
        Address = "address",
    }
}

/// Why devices that are asked for as they should be cannot be given.
#[derive(Debug, thiserror::Error)]
enum PciPassthroughError {
    /// Cause: the allow-list of the namespace
    /// Cure: another device, or a pattern for it under `allowedDevices`
    #[error(
        "{device} is not allowed in the namespace {namespace}; ask for another device, or have the administrator add it \
         to the setting pciPassthrough.allowedDevices"
    )]
    NotAllowed { device: String, namespace: String },
    /// Cause: the setting `pciPassthrough.requireClaimOwner`, and a claim of another user, or of nobody that the claim names. A service account that writes VMs, as
    /// Rancher's node driver or a GitOps controller does, is a user like any other
    /// Cure: the user of the claim writes the VM, or enables passthrough anew as the requester
    #[error(
        "{device} was claimed by {owner}, and the setting pciPassthrough.requireClaimOwner gives a device only to the user who \
         claimed it; the request is of {}: have the device claimed by that user, or ask for another",
        Quoted(.user)
    )]
    NotTheOwner { device: String, owner: String, user: String },
    /// Cause: the setting `pciPassthrough.requireClaimOwner` where devices have no claims
    /// Cure: switch the setting off, or `deviceNames: auto` on Harvester
    #[error(
        "the setting pciPassthrough.requireClaimOwner is on, but devices that are named by their addresses have no claims; have \
         the administrator switch it off"
    )]
    NoClaims,
    /// Cause: one of [Lookups](#lookups)
    /// Cure: the remedy there
    #[error("Harvester's PCI devices cannot be looked up: {}; {}", .0.why(), remedy(.0))]
    Lookup(LookupError),
    /// Cause: a typing mistake, or the device moved
    /// Cure: compare with Advanced, PCI Devices in Harvester, or `kubectl get pcidevices`
    #[error("no node has a PCI device at {address}; look up the address under PCI Devices in Harvester")]
    Nowhere { address: PciAddress },
    /// Cause: a typing mistake, or the device moved
    /// Cure: compare with Advanced, PCI Devices in Harvester, or `kubectl get pcidevices`
    #[error("the node {node} has no PCI device at {address}; look up the address under PCI Devices in Harvester")]
    NotOnNode { address: PciAddress, node: String },
    /// Cause: the device is not claimed
    /// Cure: Advanced, PCI Devices, Enable Passthrough
    #[error(
        "{address} is not enabled for passthrough on {nodes}; enable passthrough for the PCI device in Harvester first"
    )]
    Unclaimed { address: PciAddress, nodes: String },
    /// Cause: unequal nodes
    /// Cure: `node1/0000:00:02.0` instead of `0000:00:02.0`, or pin the VirtualMachine to a node
    #[error(
        "{address} is a different device on each node: {first}, {second}; name the node, as in {node}/{address}, or give the \
         VirtualMachine a node selector kubernetes.io/hostname"
    )]
    Ambiguous { address: PciAddress, first: String, second: String, node: String },
    /// Cause: the devices are spread
    /// Cure: choose devices of one node
    #[error("no node has all the devices: {devices}; ask for devices of one node")]
    NoNodeHasAll { devices: String },
    /// Cause: devices from the form and from the directive
    /// Cure: remove the one from the form, or ask for devices of its node
    #[error(
        "the VirtualMachine already has a host device of the node {bound}, but the devices asked for are elsewhere: \
         {devices}; use devices of one node"
    )]
    OtherNode { bound: String, devices: String },
    /// Cause: two nodes
    /// Cure: make the two agree
    #[error(
        "the directive names the node {named}, but the VirtualMachine may run only on {placed}; name devices of that node, \
         or change the VirtualMachine's node selector"
    )]
    PlacedElsewhere { named: String, placed: String },
    /// Cause: an entry of `deviceNames: address`, or of the original webhook
    /// Cure: remove the entry under `spec.template.spec.domain.devices.hostDevices`; the directive adds the right one
    #[error(
        "the VirtualMachine's host device {entry} has the name that stands for {address} where there is no Harvester, and \
         Harvester does not know it; remove that entry"
    )]
    NamedByAddress { entry: String, address: PciAddress },
}

fn remedy(error: &LookupError) -> String {
    if has_harvester(error) {
        return error.remedy();
    }
    format!("{}, or set pciPassthrough.deviceNames to address if there is no Harvester", error.remedy())
}

/// Whether there may be a Harvester whose devices cannot be read for now, or not with these rights. The API server forbids
/// only what it serves, and Harvester refuses devices that are named by their addresses.
fn has_harvester(error: &LookupError) -> bool {
    !matches!(error.cause, ClusterError::KindNotServed | ClusterError::NotDeclared | ClusterError::NotOffered)
}

pub(super) static FEATURE: Feature = Feature {
    name: "pci-passthrough",
    options: &[],
    adds: &[&HOST_DEVICE, &NODE_SELECTOR],
    settings: |settings| &settings.pci_passthrough.feature,
    plan,
    #[cfg(feature = "describe")]
    reference: Reference {
        settings: "pciPassthrough",
        takes: "`{\"devices\": [\"0000:00:02.0\", \"node1/0000:03:00.0\"]}`",
        effect: "`domain.devices.hostDevices` gets each device",
        options: &[],
        looks_up: &[
            Access {
                kinds: &[Kind::PciDevice, Kind::PciDeviceClaim],
                verbs: Verbs::List,
                what: "where the device is, and whether it is enabled for passthrough; read by name for a new VM whose node \
                       is known",
                without: "the directive fails and says what to grant",
                needed: &[Condition::IsNot("pciPassthrough.deviceNames", "address")],
            },
            Access {
                kinds: &[Kind::KubeVirt],
                verbs: Verbs::Get,
                what: "the feature gate `HostDevices`",
                without: "the gate is not checked",
                needed: &[],
            },
        ],
    },
};

fn plan(value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure> {
    let settings = &context.settings.pci_passthrough;
    let devices = Devices::parse(value, settings.max_devices.0)?;
    check_count(context.vm.host_devices()?.len(), settings.max_devices.0)?;
    let mut plan = Plan { applied: devices.to_json(), ..Plan::default() };
    if settings.names_by_address() {
        by_address(&devices, context, &mut plan)?;
    } else {
        by_harvester(&devices, context, &mut plan)?;
    }
    check_gate(context.lookups)?;
    let hostname = devices.node.filter(|_| settings.pin_to_node);
    plan.entries.extend(hostname.map(|hostname| NODE_SELECTOR.of("", &hostname)));
    Ok(Some(plan))
}

fn host_device(device: &Device<'_>) -> Entry {
    HOST_DEVICE.of(device.name, device.resource)
}

/// The prefix of the names of host devices that stand for an address alone.
const PREFIX: &str = "pci-device";

/// Names the devices by their addresses.
fn by_address(devices: &Devices, context: &Context<'_>, plan: &mut Plan) -> Result<(), Failure> {
    if context.settings.pci_passthrough.require_claim_owner {
        return Err(PciPassthroughError::NoClaims.into());
    }
    the_node(devices, context)?;
    let host_devices = context.vm.host_devices()?;
    let mut names = free_names(PREFIX, devices.addresses.len(), context)?;
    let mut count = host_devices.len();
    for address in &devices.addresses {
        let resource = address.device_name();
        check_allowed(*address, devices.node.as_deref(), &resource, context)?;
        let is_it = |device: &Device<'_>| {
            let named = PciAddress::of_pci_device(device.name).map(|(_, address)| address);
            device.resource == resource || named == Some(*address)
        };
        if host_devices.iter().any(is_it) {
            continue;
        }
        count += 1;
        let ours = our_devices(context).into_iter().find(is_it).map(|device| host_device(&device));
        plan.entries.push(match ours {
            Some(entry) => entry,
            None => HOST_DEVICE.of(&names.next().unwrap_or_default(), &resource),
        });
    }
    check_count(count, context.settings.pci_passthrough.max_devices.0)?;
    Ok(())
}

/// Names the devices as Harvester does; by their addresses where that is allowed and there is no Harvester to ask.
fn by_harvester(devices: &Devices, context: &Context<'_>, plan: &mut Plan) -> Result<(), Failure> {
    let node = the_node(devices, context)?;
    let settings = &context.settings.pci_passthrough;
    // Without Harvester's answer, nobody knows whose a device is.
    let is_auto = settings.device_names == DeviceNames::Auto && !settings.require_claim_owner;
    let entries = [our_devices(context), context.vm.host_devices()?].concat();
    let inventory = match look_up(devices, node, &entries, context) {
        Ok(inventory) => inventory,
        Err(PciPassthroughError::Lookup(_)) if is_auto && are_in_place(devices, &entries) => {
            return by_address(devices, context, plan);
        }
        Err(PciPassthroughError::Lookup(error))
            if is_auto && !has_harvester(&error) && !our_devices(context).iter().any(is_pci_device) =>
        {
            plan.warnings.push(format!(
                "PCI devices are named by their addresses, so the VirtualMachine starts only where a device plugin serves \
                 these names: {}",
                error.why()
            ));
            return by_address(devices, context, plan);
        }
        Err(error) => return Err(error.into()),
    };
    let choices = inventory.choose(devices, context)?;
    for Choice { address, device, entry } in &choices {
        check_allowed(*address, Some(&device.node), &device.resource_name, context)?;
        if settings.require_claim_owner {
            check_owner(inventory.owner(device), device, &context.requester.name)?;
        }
        plan.entries.push(match entry {
            Some(entry) => host_device(entry),
            None => HOST_DEVICE.of(&device.name, &device.resource_name),
        });
    }
    let added = plan.entries.iter().filter(|entry| !context.vm.has(entry)).count();
    let count = context.vm.host_devices()?.len() + added;
    check_count(count, context.settings.pci_passthrough.max_devices.0)?;
    let is_new = choices.iter().any(|choice| choice.entry.is_none());
    if context.is_update && is_new {
        let siblings = Inventory::siblings(&choices, context.lookups);
        if !siblings.is_empty() {
            plan.warnings.push(format!(
                "these devices share an IOMMU group with those asked for and must be passed through together with them, but Harvester adds them only \
                 to a new VirtualMachine: {}",
                siblings
            ));
        }
    }
    Ok(())
}

/// Checks that who asks for a device is who claimed it.
fn check_owner(owner: &str, device: &PciDevice, user: &str) -> Result<(), PciPassthroughError> {
    if !owner.is_empty() && owner == user {
        return Ok(());
    }
    let owner = if owner.is_empty() { "nobody that the claim names".to_owned() } else { Quoted(owner).to_string() };
    Err(PciPassthroughError::NotTheOwner { device: device.name.clone(), owner, user: user.to_owned() })
}

/// The host devices that the directive added before.
fn our_devices<'c>(context: &'c Context<'_>) -> Vec<Device<'c>> {
    let devices = context.ours.iter().filter_map(|added| added.entry.as_device());
    devices.map(|(name, resource)| Device { name, resource }).collect()
}

/// Whether the VirtualMachine has all the devices under Harvester's names. Then nothing depends on a lookup.
fn are_in_place(devices: &Devices, entries: &[Device<'_>]) -> bool {
    let places = || entries.iter().filter_map(|entry| PciAddress::of_pci_device(entry.name));
    let is_on_node = |node| devices.node.as_deref().is_none_or(|wanted| wanted == node);
    let is_in_place = |address: &PciAddress| places().any(|(node, place)| place == *address && is_on_node(node));
    devices.addresses.iter().all(is_in_place)
}

/// Whether an entry has a name that Harvester gives.
fn is_pci_device(entry: &Device<'_>) -> bool {
    PciAddress::of_pci_device(entry.name).is_some()
}

/// Where the node is known, its devices are looked up one by one, which needs the fewest rights. An update needs the
/// list: Harvester adds the devices that must go along by itself only to a new VirtualMachine.
fn look_up<'n>(
    devices: &Devices,
    node: Option<&'n str>,
    entries: &[Device<'_>],
    context: &Context<'_>,
) -> Result<Inventory<'n>, PciPassthroughError> {
    let all = |node| Inventory::of_all(node, &devices.addresses, entries, context.lookups);
    let one_by_one = |node| Inventory::of_node(node, &devices.addresses, context.lookups);
    match node {
        Some(node) if !context.is_update => one_by_one(node),
        None => all(None),
        Some(node) => match all(Some(node)) {
            // What cannot be listed may still be read by its name.
            Err(PciPassthroughError::Lookup(error)) if !error.is_temporary() => one_by_one(node),
            result => result,
        },
    }
}

/// The node that the directive names, or that the VirtualMachine must run on.
fn the_node<'d>(devices: &'d Devices, context: &'d Context<'_>) -> Result<Option<&'d str>, Failure> {
    let placed = context.vm.placement()?.hostname();
    match (devices.node.as_deref(), placed) {
        (Some(named), Some(placed)) if named != placed => {
            Err(PciPassthroughError::PlacedElsewhere { named: named.to_owned(), placed: placed.to_owned() }.into())
        }
        (named, placed) => Ok(named.or(placed)),
    }
}

/// Checks that the settings let a VirtualMachine of this namespace take the device.
fn check_allowed(
    address: PciAddress,
    node: Option<&str>,
    resource: &str,
    context: &Context<'_>,
) -> Result<(), PciPassthroughError> {
    let address = address.to_string();
    let upper_case = address.to_ascii_uppercase();
    let with_node = node.map(|node| format!("{node}/{address}"));
    let names = [address.as_str(), &upper_case, with_node.as_deref().unwrap_or(&address), resource];
    if allows(&context.settings.pci_passthrough.allowed_devices, context.namespace, &names) {
        return Ok(());
    }
    let device = with_node.unwrap_or(address);
    let device = format!("{device} ({resource})");
    Err(PciPassthroughError::NotAllowed { device, namespace: context.namespace.to_owned() })
}
