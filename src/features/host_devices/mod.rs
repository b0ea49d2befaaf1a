//! Host devices, PCI and USB, for every feature that adds them: the plan for a directive that lists devices, free
//! names, and the devices that Harvester adds because of others.

mod bus;
mod directive;
mod error;
mod inventory;
mod siblings;

use serde_json::Value;

use super::allowed::allows;
use super::feature::{Context, Plan};
use super::pci_passthrough::EqualDevices;
use crate::cluster::{HostDevice, LookupError};
use crate::directives::Asked;
use crate::json::to_text;
use crate::settings::{Count, FeatureSettings, section};
use crate::text::{self, Quoted};
use crate::values::pattern::Pattern;
use crate::values::pci::PciAddress;
use crate::values::usb::UsbIds;
use crate::vm::entry::Entry;
use crate::vm::place::{GPU, HOST_DEVICE, NODE_SELECTOR};
use crate::vm::{Device, OnlyNode, ShapeError};
pub(super) use bus::{Bus, Partner};
use directive::{Devices, DirectiveError, check_count};
pub(super) use error::HostDevicesError;
use error::has_harvester;
use inventory::{Chosen, Inventory, key};
pub(crate) use siblings::{Siblings, beside, is_pci_device};

section! {
    /// The settings of a feature that adds host devices.
    HostDeviceSettings("") {
        ..feature: FeatureSettings;
        /// If the directive names a device together with its node, as in node1/0000:00:02.0 or node1/046d:c52b, the virtual machine
        /// can run only on that node.
        pin_to_node: bool = true, "pinToNode", "pin the VM to the node that the directive names";
        /// Maps a namespace pattern to patterns of devices or resource names, separated by commas. If the map is empty, every
        /// namespace may use any device. Otherwise, a namespace that no pattern matches may use none.
        allowed_devices: Vec<(Pattern, Vec<Pattern>)> = Vec::new(), "allowedDevices", "devices that a namespace may use";
        /// Only the user who enabled passthrough for a device may request it. This also applies to service accounts. It needs
        /// Harvester, because only Harvester's claims name a user.
        require_claim_owner: bool = false, "requireClaimOwner", "only the user who claimed a device may request it";
    }
}

/// Whose names and resources host devices get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedBy {
    /// Harvester's if the cluster has it, otherwise KubeVirt's.
    Auto,
    /// Always Harvester's.
    Harvester,
    /// Never Harvester's: KubeVirt's, or names made of the address.
    Other,
}

/// Plans the devices that a directive lists.
pub(super) fn plan(
    bus: &'static Bus,
    settings: &HostDeviceSettings,
    Count(max_devices): Count,
    named_by: NamedBy,
    value: &str,
    context: &Context<'_>,
) -> anyhow::Result<Plan> {
    let host_devices = context.vm.host_devices()?;
    let counted = host_devices.iter().filter(|device| (bus.counts)(device)).count();
    let wanted = Wanted { bus, settings, devices: Devices::parse(value, max_devices, bus)?, context };
    check_count(counted, max_devices, bus)?;
    let mut plan = Plan { applied: to_text(&wanted.devices.list), ..Plan::default() };
    let node = wanted.node()?;
    // Without an answer from Harvester, nobody knows who claimed a device.
    let is_auto = named_by == NamedBy::Auto && !settings.require_claim_owner;
    // Whether the directive added devices under Harvester's names before.
    let added_objects = our_devices(context).iter().any(|entry| object(entry.name).is_some());
    match (named_by != NamedBy::Other).then(|| Inventory::look_up(bus, &wanted.devices, node.as_ref(), context)) {
        None => wanted.otherwise(None, &mut plan)?,
        Some(Ok(inventory)) => wanted.by_harvester(&inventory, &mut plan)?,
        Some(Err(error)) => match is_auto.then(|| wanted.in_place()).transpose()?.flatten() {
            Some(entries) => plan.entries = entries,
            None if is_auto && !has_harvester(&error) && !added_objects => wanted.otherwise(Some(&error), &mut plan)?,
            None => return Err(HostDevicesError::Lookup { error, bus }.into()),
        },
    }
    let is_new = |entry: &&Entry| host_devices.iter().all(|device| host_device(device) != **entry);
    check_count(counted + plan.entries.iter().filter(is_new).count(), max_devices, bus)?;
    plan.warnings.extend(context.lookups.check_gate(GATE)?);
    if let Some(name) = wanted.devices.node.as_deref().filter(|_| settings.pin_to_node) {
        let node = context.node(OnlyNode::Named(name)).ok().flatten();
        let hostname = node.as_ref().map_or(name, |node| node.hostname());
        plan.entries.push(NODE_SELECTOR.entry("", hostname));
    }
    Ok(plan)
}

/// The devices that a directive asks for, and what their plan depends on.
struct Wanted<'a> {
    bus: &'static Bus,
    settings: &'a HostDeviceSettings,
    devices: Devices,
    context: &'a Context<'a>,
}

/// The node that devices must be on.
struct Bound {
    node: String,
    /// Who chose the node, in parentheses for a message; empty if the directive did.
    by: String,
}

impl Wanted<'_> {
    /// The node that the devices must be on, if anybody chooses it: the directive, the other directive for host devices,
    /// or the VirtualMachine.
    fn node(&self) -> anyhow::Result<Option<Bound>> {
        let Self { bus, devices, context, .. } = self;
        let other = self.node_of_partner();
        let Some(named) = devices.node.clone() else {
            let by_partner = |node| Bound { node, by: format!(" (named by {})", bus.partner.name) };
            let by_placement = |node| Bound { node, by: " (chosen by the VirtualMachine)".to_owned() };
            return Ok(other.map(by_partner).or(context.only_node()?.map(by_placement)));
        };
        if let Some(other) = other.filter(|other| bus.partner.is_first && *other != named) {
            let first = format!("{other} (in {})", bus.partner.name);
            return Err(DirectiveError::TwoNodes { first, second: named }.into());
        }
        let only = context.only_node()?;
        let is_allowed = match context.node(OnlyNode::Named(&named)) {
            Ok(Some(node)) => context.placement()?.allows(&node),
            Ok(None) | Err(_) => only.as_ref().is_none_or(|only| *only == named),
        };
        if !is_allowed {
            let but = match only.filter(|only| *only != named) {
                Some(only) => format!("the VirtualMachine may run only on {only}"),
                None => "the VirtualMachine's node selector, node affinity or tolerations exclude that node".to_owned(),
            };
            return Err(HostDevicesError::PlacedElsewhere { named, but }.into());
        }
        Ok(Some(Bound { node: named, by: String::new() }))
    }

    /// The node that the other directive names, whether it can be applied or not.
    fn node_of_partner(&self) -> Option<String> {
        let Self { bus: Bus { partner, .. }, context, .. } = self;
        let Asked::Yes(directive) = context.directives.get(partner.name) else { return None };
        let value: Value = serde_json::from_str(directive.text().ok()?).ok()?;
        let mut devices = value.get("devices")?.as_array()?.iter().filter_map(Value::as_str);
        let node = |text: &str| text.rsplit_once('/').map(|(node, _)| node.to_owned());
        let node = devices.find_map(|text| node(text).or_else(|| object(text).map(|(node, _)| node.to_owned())));
        node.filter(|_| (partner.settings)(context.settings).enabled)
    }

    /// Plans the devices under Harvester's names.
    fn by_harvester(&self, inventory: &Inventory<'_>, plan: &mut Plan) -> anyhow::Result<()> {
        let list = inventory.functions(&self.devices.list)?;
        let choices = inventory.choose(&list)?;
        for (index, chosen) in choices.iter().enumerate() {
            let Chosen { device, entry, .. } = *chosen;
            if choices.iter().take(index).any(|before| before.device.name() == device.name()) {
                return Err(DirectiveError::Duplicate { device: device.name().to_owned() }.into());
            }
            if let Some(entry) = entry.filter(|it| it.name == device.name() && it.resource != device.resource()) {
                let (entry, found) = (text::list(&[entry.name]), text::list(&[entry.resource]));
                let resource = device.resource().to_owned();
                return Err(HostDevicesError::OtherResource { entry, found, resource, bus: self.bus }.into());
            }
            self.check_allowed(&key(device), Some(device.name()), device.resource(), Some(device.node()))?;
            if self.settings.require_claim_owner {
                self.check_owner(inventory, chosen)?;
            }
            let new = Device { name: device.name(), resource: device.resource() };
            let entry = entry.unwrap_or(new);
            let is_gpu = self.context.vm.gpus()?.contains(&entry) && !all_devices(self.context)?.contains(&entry);
            plan.entries.push(if is_gpu { GPU.entry(entry.name, entry.resource) } else { host_device(&entry) });
        }
        let new = || choices.iter().filter(|chosen| chosen.entry.is_none()).map(|chosen| chosen.device);
        let is_new = new().next().is_some();
        if self.bus.name_is_address {
            self.add_siblings(inventory, is_new, plan)?;
            self.check_equal(inventory, &choices, plan)?;
        } else if is_new {
            plan.warnings.extend(siblings::warning(plan, self.context)?);
        }
        if let Ok(kubevirt) = self.context.lookups.kubevirt() {
            let missing = new().map(HostDevice::resource).filter(|it| kubevirt.does_not_permit(it));
            let missing = text::list(&missing.collect::<Vec<_>>());
            if !missing.is_empty() {
                plan.warnings.push(format!(
                    "spec.configuration.permittedHostDevices of the KubeVirt object does not list {missing}, so the VirtualMachine \
                     will not start; disable passthrough for the device in Harvester, and enable it again"
                ));
            }
        }
        Ok(())
    }

    /// Plans the other devices of the IOMMU groups, if Harvester does not add them once. Those that the directive added
    /// earlier stay. New ones are added only with a new device.
    fn add_siblings(&self, inventory: &Inventory<'_>, is_new: bool, plan: &mut Plan) -> anyhow::Result<()> {
        let ours = our_devices(self.context);
        let is_ours = |name: &str| ours.iter().any(|device| device.name == name);
        if !is_new && plan.entries.len() >= ours.len() {
            return Ok(());
        }
        let host_devices = self.context.vm.host_devices()?;
        let names = [host_devices.iter().map(|device| device.name).collect::<Vec<_>>(), plan.devices()].concat();
        let mut siblings = siblings::missing(&plan.devices(), &names, self.context);
        siblings.retain(|device| is_new || is_ours(device.name()));
        for device in &siblings {
            self.check_allowed(&key(device), Some(device.name()), device.resource(), Some(device.node()))?;
            plan.entries.push(HOST_DEVICE.entry(device.name(), device.resource()));
        }
        let disabled = siblings.iter().filter(|device| !inventory.is_enabled(device)).map(|device| device.name());
        let disabled = text::list(&disabled.collect::<Vec<_>>());
        if !disabled.is_empty() {
            plan.warnings.push(format!(
                "these PCI devices share an IOMMU group with one that the directive names, so they were added, but they are not \
                 enabled for passthrough, so the VirtualMachine will not start; enable them in Harvester: {disabled}"
            ));
        }
        Ok(())
    }

    /// Warns or fails if Kubernetes may give other devices than those that the directive names.
    fn check_equal(&self, inventory: &Inventory<'_>, choices: &[Chosen<'_>], plan: &mut Plan) -> anyhow::Result<()> {
        let there = all_devices(self.context)?;
        let names = [there.iter().map(|device| device.name).collect::<Vec<_>>(), plan.devices()].concat();
        let Some(problem) = inventory.equal_devices(choices, &names) else { return Ok(()) };
        match self.context.settings.pci_passthrough.equal_devices {
            EqualDevices::Deny => Err(HostDevicesError::EqualDevices(problem).into()),
            EqualDevices::Warn => {
                plan.warnings.push(format!(
                    "{problem}; to get this one, set disableResourcePooling in its PCIDeviceClaim (Harvester 1.9 or later), or \
                     enable passthrough only for it"
                ));
                Ok(())
            }
        }
    }

    /// Plans the devices without Harvester. `error` says why Harvester's devices cannot be read, if the policy tried to.
    fn otherwise(&self, error: Option<&LookupError>, plan: &mut Plan) -> anyhow::Result<()> {
        let Self { bus, devices, context, .. } = self;
        if self.settings.require_claim_owner {
            return Err(HostDevicesError::NoClaims { bus }.into());
        }
        let why = error.map_or_else(|| format!("the setting {}.deviceNames says so", bus.settings), LookupError::why);
        let mut there = all_devices(context)?;
        let mut names = free_names(bus.prefix, devices.list.len(), context)?;
        for device in &devices.list {
            let resource = (bus.resource)(device, &why, context)?;
            if PciAddress::of_device_name(&resource).is_some() {
                plan.warnings.push(format!(
                    "{device} is named by its address ({why}), but Kubernetes has no resource of that name, so the VirtualMachine \
                     will not start"
                ));
            }
            self.check_allowed(device, None, &resource, devices.node.as_deref())?;
            let is_named = |entry: &Device<'_>| {
                object(entry.name).is_some_and(|(_, named)| bus.name_is_address && named == *device)
            };
            plan.entries.push(match there.iter().position(|entry| entry.resource == resource || is_named(entry)) {
                // An entry counts for only one device: a second device of the same resource needs another entry.
                Some(index) => host_device(&there.remove(index)),
                None => HOST_DEVICE.entry(&names.next().unwrap_or_default(), &resource),
            });
        }
        Ok(())
    }

    /// The entries of the devices, if the VirtualMachine already has all of them under Harvester's names. Then no
    /// lookup is needed.
    fn in_place(&self) -> anyhow::Result<Option<Vec<Entry>>> {
        let Self { devices, context, .. } = self;
        let there = all_devices(context)?;
        let is_on_node = |node: &str| devices.node.as_deref().is_none_or(|wanted| wanted == node);
        let mut entries = Vec::new();
        for wanted in &devices.list {
            let found = there.iter().find_map(|entry| {
                let (node, device) = object(entry.name)?;
                ((device == *wanted || entry.name == wanted) && is_on_node(node)).then_some((entry, node))
            });
            let Some((entry, node)) = found else { return Ok(None) };
            self.check_allowed(wanted, None, entry.resource, Some(node))?;
            entries.push(host_device(entry));
        }
        Ok(Some(entries))
    }

    /// Checks that the settings allow this namespace the device. A pattern may match its address or ids, also in upper
    /// case or with the node in front, its name in Harvester, or its resource. `device` may be an address, ids, or a
    /// name in Harvester.
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
        Err(HostDevicesError::NotAllowed { device, namespace, bus: self.bus })
    }

    /// Checks that the requester claimed the device. If the claim names nobody, nobody passes. Devices that the
    /// VirtualMachine had before are not checked, because KubeVirt's and Harvester's controllers change
    /// VirtualMachines, too.
    fn check_owner(&self, inventory: &Inventory<'_>, chosen: &Chosen<'_>) -> anyhow::Result<()> {
        let Self { bus, context, .. } = self;
        let before = context.old.and_then(|old| old.host_devices().ok()).unwrap_or_default();
        let name = chosen.device.name();
        // An entry that the directive added is written anew if the device has another resource now.
        let was_given = |device: &Device<'_>| {
            let is_anew = device.name == name && our_devices(context).iter().any(|ours| ours.name == name);
            is_anew || chosen.entry.is_some_and(|entry| entry.resource == device.resource)
        };
        if before.iter().any(was_given) {
            return Ok(());
        }
        if !context.is_requested {
            let device = chosen.device.name().to_owned();
            return Err(HostDevicesError::NotRequested { device, bus }.into());
        }
        let owner = inventory.owner(chosen.device).map_err(|error| HostDevicesError::Lookup { error, bus })?;
        if owner.as_ref().is_some_and(|owner| context.requester.is(owner)) {
            return Ok(());
        }
        let owner = owner.map_or("nobody that the claim names".to_owned(), |owner| Quoted(&owner).to_string());
        let (device, user) = (chosen.device.name().to_owned(), context.requester.to_string());
        Err(HostDevicesError::NotTheOwner { device, owner, user, bus }.into())
    }
}

/// The node and the device in the name of one of Harvester's objects: the address of a PCIDevice, or the vendor and
/// product of a USBDevice.
fn object(name: &str) -> Option<(&str, String)> {
    let usb = || UsbIds::of_usb_device(name).map(|(node, ids)| (node, ids.to_string()));
    PciAddress::of_pci_device(name).map(|(node, address)| (node, address.to_string())).or_else(usb)
}

/// The name of Harvester's object for a device on a node, if only one is possible.
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

/// Those devices, and the VirtualMachine's other host devices.
fn all_devices<'c>(context: &'c Context<'_>) -> Result<Vec<Device<'c>>, ShapeError> {
    Ok([our_devices(context), context.vm.host_devices()?].concat())
}

/// The device as an entry.
fn host_device(device: &Device<'_>) -> Entry {
    HOST_DEVICE.entry(device.name, device.resource)
}

/// The feature gate without which KubeVirt accepts no host devices.
pub(super) const GATE: &str = "HostDevices";

/// The prefix of the names that the policy gives USB devices.
pub(super) const USB_PREFIX: &str = "usb";

/// Whether a host device is a USB device. It is if its resource starts with `kubevirt.io/`, which Harvester and
/// KubeVirt use only for USB devices, or if it has a name that the policy gives USB devices.
pub(super) fn is_usb(device: &Device<'_>) -> bool {
    device.resource.starts_with("kubevirt.io/") || made_number(USB_PREFIX, device.name).is_some()
}

/// `count` names, `<prefix>-<n>`, for new devices of the VirtualMachine. Neither its devices nor those that the feature
/// added before have such a name. A name must be unused by both host devices and GPUs, because KubeVirt makes the
/// device's alias of it, and Harvester turns GPUs into host devices.
pub(super) fn free_names(
    prefix: &'static str,
    count: usize,
    context: &Context<'_>,
) -> Result<impl Iterator<Item = String>, ShapeError> {
    let devices = [all_devices(context)?, context.vm.gpus()?].concat();
    let taken: Vec<usize> = devices.iter().filter_map(|device| made_number(prefix, device.name)).collect();
    let free = (0..).filter(move |number| !taken.contains(number)).take(count);
    Ok(free.map(move |number| format!("{prefix}-{number}")))
}

/// The number in a name that [`free_names`] makes.
fn made_number(prefix: &str, name: &str) -> Option<usize> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    // `parse` would also accept a sign or leading zeros.
    let is_written_so = digits == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    digits.parse().ok().filter(|_| is_written_so)
}
