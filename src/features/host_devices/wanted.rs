//! Plans the devices that a directive asks for.

use super::choice::Chosen;
use super::directive::{Devices, DirectiveError};
use super::inventory::Inventory;
use super::names::{all_devices, free_names, object, our_devices};
use super::rules::Refusal;
use super::{Bus, HostDeviceSettings, HostDevicesError, placed, siblings};
use crate::cluster::LookupError;
use crate::features::allowed_nodes::named_node;
use crate::features::feature::{Context, Plan};
use crate::features::pci_passthrough::EqualDevices;
use crate::text;
use crate::values::pci::{MAX_DEVICES, PciAddress};
use crate::vm::OnlyNode;
use crate::vm::entry::Entry;
use crate::vm::place::{GPU, HOST_DEVICE};

/// The devices that a directive asks for, and what their plan depends on.
pub(super) struct Wanted<'a> {
    pub(super) bus: &'static Bus,
    pub(super) settings: &'a HostDeviceSettings,
    pub(super) devices: Devices,
    pub(super) context: &'a Context<'a>,
}

/// The node that devices must be on.
pub(super) struct Bound {
    pub(super) node: String,
    /// Who chose the node, in parentheses for a message; empty if the directive did.
    pub(super) by: String,
}

impl Wanted<'_> {
    /// The node that the devices must be on, if anybody chooses it: the directive, the other directive for host devices,
    /// or the VirtualMachine.
    pub(super) fn node(&self) -> anyhow::Result<Option<Bound>> {
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
        let (placement, only) = (context.placement()?, context.only_node()?);
        let is_allowed = match context.node(OnlyNode::Named(&named)) {
            Ok(Some(node)) => placement.allows(&node),
            // The directive may name the hostname, as the VirtualMachine does.
            Ok(None) | Err(_) if placement.only_node() == Some(OnlyNode::WithHostname(&named)) => true,
            Ok(None) | Err(_) => only.as_ref().is_none_or(|only| *only == named),
        };
        if !is_allowed {
            let but = match only.filter(|only| *only != named) {
                Some(only) => format!("the VirtualMachine may run only on {}", text::name(&only)),
                None => "the VirtualMachine's node selector, node affinity or tolerations exclude that node".to_owned(),
            };
            return Err(HostDevicesError::PlacedElsewhere { named, but }.into());
        }
        Ok(Some(Bound { node: named, by: String::new() }))
    }

    /// The node that the other directive names, whether it can be applied or not.
    fn node_of_partner(&self) -> Option<String> {
        let Self { bus: Bus { partner, .. }, context, .. } = self;
        named_node(partner.name, context).filter(|_| (partner.settings)(context.settings).enabled)
    }

    /// Plans the devices under Harvester's names.
    pub(super) fn by_harvester(&self, inventory: &Inventory<'_>, plan: &mut Plan) -> anyhow::Result<()> {
        let list = inventory.functions(&self.devices.list)?;
        let before =
            self.context.applied_before.and_then(|it| Devices::parse(it, MAX_DEVICES, self.bus, self.context).ok());
        let is_changed = self.context.is_requested && before.as_ref() != Some(&self.devices);
        let before = before.and_then(|before| inventory.functions(&before.list).ok()).unwrap_or_default();
        let choices = inventory.choose(&list, &before)?;
        plan.nodes = Some(inventory.check_placed(&choices)?);
        let pin = if self.settings.has_rules() { inventory.check_rules(&choices)? } else { None };
        let mut there = all_devices(self.context)?;
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
            // An entry counts for only one device.
            let is_it = |it: &Entry| entry.is_some_and(|entry| it.as_device() == Some((entry.name, entry.resource)));
            plan.entries.push(match there.iter().position(is_it) {
                Some(index) => there.remove(index),
                None => HOST_DEVICE.entry(device.name(), device.resource()),
            });
        }
        let new = choices.iter().filter(|chosen| chosen.entry.is_none()).map(|chosen| chosen.device);
        let mut resources: Vec<String> = new.map(|device| device.resource().to_owned()).collect();
        let is_new = !resources.is_empty();
        if self.bus.name_is_address {
            resources.extend(self.add_siblings(inventory, &choices, plan)?);
            let there = self.context.vm.host_devices_and_gpus()?;
            let names: Vec<&str> = there.iter().map(|device| device.name).chain(plan.devices()).collect();
            if let Some(problem) = inventory.equal_devices(&choices, &names, pin.is_some(), is_changed) {
                self.check_equal(problem, plan)?;
            }
        }
        if let Some(pin) = pin {
            plan.nodes = choices.first().map(|chosen| vec![chosen.device.node().to_owned()]);
            plan.add_once(pin);
        }
        // Harvester adds devices only because of host devices, and only to a new VirtualMachine.
        let has_gpu = || self.context.old.is_none() && plan.entries.iter().any(|entry| entry.place == &GPU);
        if is_new && !self.bus.name_is_address || has_gpu() {
            plan.warnings.extend(siblings::warning(plan, self.context)?);
        }
        let mut resources = text::unique(resources.iter().map(String::as_str).collect());
        if let Ok(kubevirt) = self.context.lookups.kubevirt() {
            resources.retain(|it| kubevirt.does_not_permit(it));
            let missing = text::list(&resources);
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
    /// earlier stay. New ones are added only with a new device. Returns the resources of the new ones that are enabled.
    fn add_siblings(
        &self,
        inventory: &Inventory<'_>,
        choices: &[Chosen<'_>],
        plan: &mut Plan,
    ) -> anyhow::Result<Vec<String>> {
        let is_new = choices.iter().any(|chosen| chosen.entry.is_none());
        let ours = our_devices(self.context);
        let is_ours = |name: &str| ours.iter().any(|device| device.name == name);
        let planned = plan.devices();
        if !is_new && ours.iter().all(|device| planned.contains(&device.name)) {
            return Ok(Vec::new());
        }
        let mut siblings = siblings::missing(&planned, plan, self.context)?;
        // The user's entry for a device that the directive names may have another name than the device.
        let is_chosen = |name: &str| choices.iter().any(|chosen| chosen.device.name() == name);
        siblings.retain(|device| (is_new || is_ours(device.name())) && !is_chosen(device.name()));
        for device in &siblings {
            plan.entries.push(HOST_DEVICE.entry(device.name(), device.resource()));
        }
        let (enabled, disabled): (Vec<_>, Vec<_>) = siblings.iter().partition(|device| inventory.is_enabled(device));
        let disabled = text::list(&disabled.iter().map(|device| device.name()).collect::<Vec<_>>());
        if !disabled.is_empty() {
            plan.warnings.push(format!(
                "these PCI devices share an IOMMU group with one that the directive names, so they were added, but they are not \
                 enabled for passthrough, so the VirtualMachine will not start; enable them in Harvester: {disabled}"
            ));
        }
        let new = enabled.iter().filter(|device| !is_ours(device.name()));
        Ok(new.map(|device| device.resource().to_owned()).collect())
    }

    /// Warns or fails because Kubernetes may give other devices than those that the directive names.
    fn check_equal(&self, problem: String, plan: &mut Plan) -> anyhow::Result<()> {
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
    pub(super) fn otherwise(&self, error: Option<&LookupError>, plan: &mut Plan) -> anyhow::Result<()> {
        let Self { bus, devices, context, .. } = self;
        if self.settings.require_claim_owner {
            return Err(HostDevicesError::NoClaims { bus }.into());
        }
        let why = error.map_or_else(|| format!("the setting {}.deviceNames says so", bus.settings), LookupError::why);
        let mut there = all_devices(context)?;
        let mut names = free_names(bus.prefix, devices.list.len(), context)?;
        let mut new = Vec::new();
        for device in &devices.list {
            let resource = (bus.resource)(device, &why, context)?;
            if PciAddress::of_device_name(&resource).is_some() {
                plan.warnings.push(format!(
                    "{device} is named by its address ({why}), but Kubernetes has no resource of that name, so the VirtualMachine \
                     will not start"
                ));
            }
            self.check_allowed(device, &resource, devices.node.as_deref())?;
            let is_named = |name: &str| object(name).is_some_and(|(_, named)| bus.name_is_address && named == *device);
            let is_it = |(name, found): (&str, &str)| found == resource || is_named(name);
            match there.iter().position(|entry| entry.as_device().is_some_and(is_it)) {
                // An entry counts for only one device: a second device of the same resource needs another entry.
                Some(index) => plan.entries.push(there.remove(index)),
                None => new.push(resource),
            }
        }
        // A device whose resource has another name now keeps its own, which the option `vbios-device` may have.
        let ours = our_devices(context);
        let is_ours = |name: &str| name.starts_with(bus.prefix) && ours.iter().any(|device| device.name == name);
        let left = there.iter().filter_map(|entry| Some(entry.as_device()?.0)).filter(|name| is_ours(name));
        let mut left = left.map(str::to_owned);
        for resource in new {
            let name = left.next().or_else(|| names.next()).unwrap_or_default();
            plan.entries.push(HOST_DEVICE.entry(&name, &resource));
        }
        Ok(placed::check(plan, devices.node.as_deref(), context)?)
    }

    /// The entries of the devices, if the VirtualMachine already has all of them under Harvester's names. Then no
    /// lookup is needed.
    pub(super) fn in_place(&self) -> anyhow::Result<Option<Vec<Entry>>> {
        let Self { devices, context, .. } = self;
        let there = all_devices(context)?;
        let is_on_node = |node: &str| devices.node.as_deref().is_none_or(|wanted| wanted == node);
        let mut entries = Vec::new();
        for wanted in &devices.list {
            let found = there.iter().find_map(|entry| {
                let (name, resource) = entry.as_device()?;
                let (node, device) = object(name)?;
                ((device == *wanted || name == wanted) && is_on_node(node)).then_some((entry, resource, node))
            });
            let Some((entry, resource, node)) = found else { return Ok(None) };
            self.check_allowed(wanted, resource, Some(node))?;
            entries.push(entry.clone());
            if self.settings.has_rules() {
                entries.push(context.pin(node));
            }
        }
        Ok(Some(entries))
    }

    /// Checks that the settings allow this namespace a device that was not looked up.
    fn check_allowed(&self, device: &str, resource: &str, node: Option<&str>) -> Result<(), HostDevicesError> {
        match self.settings.allows(self.context.namespace, device, None, resource, node) {
            true => Ok(()),
            false => Err(Refusal::NotAllowed.of(device, node, self.bus, self.context)),
        }
    }
}
