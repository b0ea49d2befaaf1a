//! Host devices, PCI and USB, whichever feature adds them: the plan for a directive that lists them, names that are free, and the
//! devices that Harvester adds beside them.

mod directive;
mod error;
mod inventory;
mod siblings;

use super::allowed::allows;
use super::{Context, Failure, Plan};
use crate::cluster::{Kind, LookupError, Lookups};
use crate::kinds::pattern::Pattern;
use crate::kinds::pci::{MAX_DEVICES, PciAddress};
use crate::kinds::usb::UsbIds;
use crate::settings::{FeatureSettings, section};
use crate::text::Quoted;
use crate::vm::entry::{Entry, HOST_DEVICE, NODE_SELECTOR};
use crate::vm::{Device, ShapeError};
use directive::{Devices, DirectiveError, check_count};
pub(super) use error::HostDevicesError;
use error::has_harvester;
use inventory::{Choice, Inventory, key};
pub(crate) use siblings::{Siblings, beside};

section! {
    /// The settings of a feature that adds host devices.
    HostDeviceSettings("") {
        ..feature: FeatureSettings;
        /// If the directive names a device with its node, as in node1/0000:00:02.0 or node1/046d:c52b, the virtual machine runs only
        /// on that node.
        pin_to_node: bool = true, "pinToNode", "select the node that the directive names";
        /// Namespace pattern, and patterns of devices or resource names with commas between them. If the map is empty, every
        /// namespace may take any device; if not, a namespace that no pattern matches may take none.
        allowed_devices: Vec<(Pattern, Vec<Pattern>)> = Vec::new(), "allowedDevices", "devices that a namespace may take";
        /// Whoever asks for a device, also a service account, must be who enabled passthrough for it. Needs Harvester, whose claims
        /// name a user.
        require_claim_owner: bool = false, "requireClaimOwner", "only the user who claimed a device may ask for it";
    }
}

/// What tells the devices of one feature from those of another.
#[derive(Debug)]
pub(super) struct DeviceKind {
    /// PCI or USB, as Harvester's UI has it.
    pub(super) bus: &'static str,
    /// Whether these are PCI devices: each has an address of its own on its node, and claims say which are passed through. A USB
    /// device has only vendor and product, like others of its kind, and says itself whether it is passed through.
    pub(super) is_pci: bool,
    /// The text for a device, in words: "PCI address".
    pub(super) named: &'static str,
    /// Such a text.
    pub(super) example: &'static str,
    /// The devices that the setting `maxDevices` counts, in words.
    pub(super) counted: &'static str,
    /// The section of the settings.
    pub(super) settings: &'static str,
    /// Harvester's objects.
    pub(super) objects: Kind,
    pub(super) claims: Kind,
    /// Reads the text for a device, and writes it as all others do; an error in words where it is none.
    pub(super) read: fn(&str) -> Result<String, String>,
    /// The resource that stands for each of these devices where there is no Harvester.
    pub(super) resources: fn(&[String], &Context<'_>) -> Result<Vec<String>, Failure>,
    /// The prefix of the names that devices get there.
    pub(super) prefix: &'static str,
}

/// Where devices are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// With Harvester where there is one.
    Auto,
    /// With Harvester.
    Harvester,
    /// Without it.
    Elsewhere,
}

/// Plans the devices that a directive lists.
pub(super) fn plan(
    kind: &'static DeviceKind,
    settings: &HostDeviceSettings,
    (names, max): (Names, usize),
    value: &str,
    context: &Context<'_>,
) -> Result<Option<Plan>, Failure> {
    let host_devices = context.vm.host_devices()?;
    let counted = host_devices.iter().filter(|device| kind.is_pci || is_usb(device)).count();
    let asked = Asked { kind, settings, devices: Devices::parse(value, max, kind)?, context };
    check_count(counted, max, kind)?;
    let mut plan = Plan { applied: asked.devices.to_json(), ..Plan::default() };
    let node = the_node(&asked.devices, context)?;
    if names == Names::Elsewhere {
        asked.otherwise(None, &mut plan)?;
    } else {
        // Without Harvester's answer, nobody knows whose a device is.
        let is_auto = names == Names::Auto && !settings.require_claim_owner;
        match Inventory::look_up(kind, &asked.devices, node, context) {
            Ok(inventory) => asked.by_harvester(&inventory, &mut plan)?,
            Err(error) if !is_auto => return Err(HostDevicesError::Lookup { error, kind }.into()),
            Err(error) => match asked.in_place()? {
                Some(entries) => plan.entries = entries,
                None if !has_harvester(&error) && !asked.has_objects() => asked.otherwise(Some(&error), &mut plan)?,
                None => return Err(HostDevicesError::Lookup { error, kind }.into()),
            },
        }
    }
    let is_new = |entry: &&Entry| host_devices.iter().all(|device| host_device(device) != **entry);
    check_count(counted + plan.entries.iter().filter(is_new).count(), max, kind)?;
    check_gate(context.lookups)?;
    let hostname = asked.devices.node.filter(|_| settings.pin_to_node);
    plan.entries.extend(hostname.map(|hostname| NODE_SELECTOR.of("", &hostname)));
    Ok(Some(plan))
}

/// The node that a directive names.
pub(super) fn named_node(value: &str, kind: &'static DeviceKind) -> Option<String> {
    Devices::parse(value, MAX_DEVICES, kind).ok()?.node
}

/// The devices that a directive asks for, and what decides about them.
struct Asked<'a, 'c> {
    kind: &'static DeviceKind,
    settings: &'a HostDeviceSettings,
    devices: Devices,
    context: &'a Context<'c>,
}

impl Asked<'_, '_> {
    /// Plans Harvester's devices.
    fn by_harvester(&self, inventory: &Inventory<'_>, plan: &mut Plan) -> Result<(), Failure> {
        let choices = inventory.choose(&self.devices, self.context)?;
        for (index, choice) in choices.iter().enumerate() {
            let Choice { device, entry } = choice;
            if choices.iter().take(index).any(|before| before.device.name == device.name) {
                return Err(DirectiveError::Duplicate { device: device.name.clone() }.into());
            }
            self.check_allowed(key(device), Some(&device.name), &device.resource_name, Some(&device.node))?;
            if self.settings.require_claim_owner {
                self.check_owner(inventory, choice)?;
            }
            plan.entries.push(match entry {
                Some(entry) => host_device(entry),
                None => HOST_DEVICE.of(&device.name, &device.resource_name),
            });
        }
        if choices.iter().any(|choice| choice.entry.is_none()) {
            plan.warnings.extend(siblings::warning(plan, self.context)?);
        }
        Ok(())
    }

    /// Plans the devices without Harvester. What it could not be asked for is the reason, if there was a question.
    fn otherwise(&self, error: Option<&LookupError>, plan: &mut Plan) -> Result<(), Failure> {
        let Self { kind, devices, context, .. } = self;
        if self.settings.require_claim_owner {
            return Err(HostDevicesError::NoClaims { kind }.into());
        }
        if let Some(error) = error.filter(|_| kind.is_pci) {
            plan.warnings.push(format!(
                "PCI devices are named by their addresses, but Kubernetes has no resources with such names, so the \
                 VirtualMachine will not start: {}",
                error.why()
            ));
        }
        let mut there = [our_devices(context), context.vm.host_devices()?].concat();
        let mut names = free_names(kind.prefix, devices.list.len(), context)?;
        for (device, resource) in devices.list.iter().zip((kind.resources)(&devices.list, context)?) {
            self.check_allowed(device, None, &resource, devices.node.as_deref())?;
            let is_named =
                |entry: &Device<'_>| object(entry.name).is_some_and(|(_, named)| kind.is_pci && named == *device);
            plan.entries.push(match there.iter().position(|entry| entry.resource == resource || is_named(entry)) {
                // Another device of the resource needs another entry.
                Some(index) => host_device(&there.remove(index)),
                None => HOST_DEVICE.of(&names.next().unwrap_or_default(), &resource),
            });
        }
        Ok(())
    }

    /// The devices that the VirtualMachine has under Harvester's names, if these are all. Then nothing depends on a lookup.
    fn in_place(&self) -> Result<Option<Vec<Entry>>, Failure> {
        let Self { devices, context, .. } = self;
        let there = [our_devices(context), context.vm.host_devices()?].concat();
        let is_on_node = |node: &str| devices.node.as_deref().is_none_or(|wanted| wanted == node);
        let mut entries = Vec::new();
        for asked in &devices.list {
            let find = |entry: &Device<'_>| {
                let (node, device) = object(entry.name)?;
                let is_it = (device == *asked || entry.name == asked) && is_on_node(node);
                is_it.then(|| (host_device(entry), node.to_owned()))
            };
            let Some((entry, node)) = there.iter().find_map(find) else { return Ok(None) };
            self.check_allowed(asked, None, &entry.value, Some(&node))?;
            entries.push(entry);
        }
        Ok(Some(entries))
    }

    /// Whether the directive added devices under Harvester's names before.
    fn has_objects(&self) -> bool {
        our_devices(self.context).iter().any(|entry| object(entry.name).is_some())
    }

    /// Checks that the settings let a VirtualMachine of this namespace take a device: by what it is, also in capitals and with its node
    /// in front, by its name in Harvester, or by its resource. The device itself may be such a name.
    fn check_allowed(
        &self,
        device: &str,
        name: Option<&str>,
        resource: &str,
        node: Option<&str>,
    ) -> Result<(), HostDevicesError> {
        let what = object(device).map_or(device.to_owned(), |(_, what)| what);
        let upper_case = what.to_ascii_uppercase();
        let with_node = node.map_or(what.clone(), |node| format!("{node}/{what}"));
        let names = [&what, &upper_case, &with_node, name.unwrap_or(device), resource];
        let namespace = self.context.namespace;
        if allows(&self.settings.allowed_devices, namespace, &names) {
            return Ok(());
        }
        let (device, namespace) = (format!("{with_node} ({resource})"), namespace.to_owned());
        Err(HostDevicesError::NotAllowed { device, namespace, kind: self.kind })
    }

    /// Checks that who asks for a device is who claimed it; a claim that names nobody has an empty owner. What the VirtualMachine
    /// had before is not asked for: KubeVirt's and Harvester's controllers change VirtualMachines, too.
    fn check_owner(&self, inventory: &Inventory<'_>, choice: &Choice<'_>) -> Result<(), Failure> {
        let Self { kind, context, .. } = self;
        let before = context.old.and_then(|old| old.host_devices().ok()).unwrap_or_default();
        if choice.entry.is_some_and(|entry| before.iter().any(|device| device.resource == entry.resource)) {
            return Ok(());
        }
        let owner = inventory.owner(choice.device, context);
        let owner = owner.map_err(|error| HostDevicesError::Lookup { error, kind })?;
        if context.requester.is(&owner) {
            return Ok(());
        }
        let owner =
            if owner.is_empty() { "nobody that the claim names".to_owned() } else { Quoted(&owner).to_string() };
        let (device, user) = (choice.device.name.clone(), context.requester.to_string());
        Err(HostDevicesError::NotTheOwner { device, owner, user, kind }.into())
    }
}

/// Checks that KubeVirt takes host devices, where its object may be read.
pub(super) fn check_gate(lookups: &Lookups<'_>) -> Result<(), HostDevicesError> {
    match lookups.kubevirt() {
        Ok(kubevirt) if !kubevirt.has_gate("HostDevices") => Err(HostDevicesError::GateOff),
        _ => Ok(()),
    }
}

/// The node that the directive names, or that the VirtualMachine must run on.
fn the_node<'d>(devices: &'d Devices, context: &'d Context<'_>) -> Result<Option<&'d str>, Failure> {
    let placed = context.vm.placement()?.hostname();
    match (devices.node.as_deref(), placed) {
        (Some(named), Some(placed)) if named != placed => {
            Err(HostDevicesError::PlacedElsewhere { named: named.to_owned(), placed: placed.to_owned() }.into())
        }
        (named, placed) => Ok(named.or(placed)),
    }
}

/// The node of one of Harvester's objects, and its device: the address of a PCIDevice, vendor and product of a USBDevice.
fn object(name: &str) -> Option<(&str, String)> {
    let usb = || UsbIds::of_usb_device(name).map(|(node, ids)| (node, ids.to_string()));
    PciAddress::of_pci_device(name).map(|(node, address)| (node, address.to_string())).or_else(usb)
}

/// The name of the object that stands for a device on a node, if there can be only one.
fn object_name(node: &str, device: &str) -> Option<String> {
    match device.parse::<PciAddress>() {
        Ok(address) => Some(format!("{node}-{}", address.compact())),
        Err(_) => object(device).map(|_| device.to_owned()),
    }
}

/// The host devices that the directive added before.
fn our_devices<'c>(context: &'c Context<'_>) -> Vec<Device<'c>> {
    let devices = context.ours.iter().filter_map(|added| added.entry.as_device());
    devices.map(|(name, resource)| Device { name, resource }).collect()
}

/// The device as an entry.
fn host_device(device: &Device<'_>) -> Entry {
    HOST_DEVICE.of(device.name, device.resource)
}

/// The prefix of the names that the policy makes for USB devices.
pub(super) const USB_PREFIX: &str = "usb";

/// Whether a host device is a USB device: one of a resource of Harvester's or KubeVirt's own, which have no others, or one with a
/// name that the policy makes for it.
pub(super) fn is_usb(device: &Device<'_>) -> bool {
    device.resource.starts_with("kubevirt.io/") || made_number(USB_PREFIX, device.name).is_some()
}

/// `count` names for new devices of the VirtualMachine, `<prefix>-<n>`, which none of its devices has, nor any that the
/// feature added before. KubeVirt makes the alias of a device of the name, and Harvester turns GPUs into host devices, so
/// the name is free among both.
pub(super) fn free_names(
    prefix: &'static str,
    count: usize,
    context: &Context<'_>,
) -> Result<impl Iterator<Item = String>, ShapeError> {
    let (host_devices, gpus) = (context.vm.host_devices()?, context.vm.gpus()?);
    let ours = context.ours.iter().filter_map(|added| added.entry.as_device());
    let names = host_devices.iter().chain(&gpus).map(|device| device.name);
    let names = names.chain(ours.map(|(name, _)| name));
    // Among so many numbers, at least as many are free as are wanted.
    let mut taken = vec![false; host_devices.len() + gpus.len() + context.ours.len() + count];
    for number in names.filter_map(|name| made_number(prefix, name)) {
        if let Some(is_taken) = taken.get_mut(number) {
            *is_taken = true;
        }
    }
    let free = taken.into_iter().enumerate().filter(|(_, is_taken)| !is_taken).take(count);
    Ok(free.map(move |(number, _)| format!("{prefix}-{number}")))
}

/// The number in a name that [`free_names`] makes.
fn made_number(prefix: &str, name: &str) -> Option<usize> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    // A sign or a zero in front would be read as well.
    let is_written_so = digits == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    digits.parse().ok().filter(|_| is_written_so)
}
