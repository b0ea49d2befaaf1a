//! Harvester's devices: a host device must have the name of a PCIDevice or USBDevice, and that device's resource.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::names::{object, object_name};
use super::wanted::{Bound, Wanted};
use super::{Bus, HostDeviceSettings, HostDevicesError};
use crate::cluster::{self, Claim, ClusterError, HostDevice, LookupError};
use crate::features::feature::Context;
use crate::text;
use crate::values::usb::UsbIds;
use crate::vm::{Device, OnlyNode};

/// The cluster's devices of a bus that matter to a VirtualMachine.
pub(super) struct Inventory<'n> {
    pub(super) bus: &'static Bus,
    pub(super) settings: &'n HostDeviceSettings,
    pub(super) context: &'n Context<'n>,
    devices: Rc<cluster::Devices>,
    /// The names of the claims that are enabled, and their users, if the bus is one whose claims say which devices are passed through.
    claims: BTreeMap<String, String>,
    /// Whether these are all devices of the cluster, not only those that were looked up by name.
    pub(super) is_complete: bool,
    /// The node that the devices must be on, if it is known.
    bound: Option<&'n Bound>,
    /// What the VirtualMachine had before this update. It is empty if there are no rules about who may have what.
    pub(super) before: Before<'n>,
}

/// The host devices and GPUs of a VirtualMachine before an update, and the only node where it could run, if there was one.
#[derive(Default)]
pub(super) struct Before<'n> {
    pub(super) devices: Vec<Device<'n>>,
    pub(super) node: Option<String>,
}

impl<'n> Before<'n> {
    fn of(context: &Context<'n>) -> Self {
        let Some(old) = context.old else { return Self::default() };
        let devices = old.host_devices_and_gpus().unwrap_or_default();
        let placement = old.placement().ok();
        let only = placement.as_ref().and_then(|placement| placement.only_node());
        Self { devices, node: only.map(|only| context.name_of(only)) }
    }

    /// Whether the VirtualMachine could run on the node.
    pub(super) fn may_have_run_on(&self, node: &str) -> bool {
        self.node.as_deref().is_none_or(|only| only == node)
    }
}

impl<'n> Inventory<'n> {
    /// Looks up the devices that a directive asks for. If the node is known, each device is looked up by name, which needs
    /// the fewest permissions. An update needs the list, because Harvester adds the other devices of an IOMMU group only
    /// to a new VirtualMachine; so do rules about PCI devices, because they concern all devices of a resource.
    pub(super) fn look_up(wanted: &'n Wanted<'n>, bound: Option<&'n Bound>) -> Result<Self, LookupError> {
        let Wanted { bus, settings, context, .. } = *wanted;
        if bus.name_is_address && settings.has_rules() {
            return Self::of_all(bus, settings, context, bound);
        }
        let mut inventory = Self::empty(bus, settings, context, bound);
        let name = |device: &String| object_name(&bound?.node, device);
        let names = wanted.devices.list.iter().map(name).collect::<Option<Vec<_>>>();
        match (names, context.old) {
            (Some(names), None) => inventory.add(names)?,
            (names, _) => match (inventory.add_all(), names) {
                // If policy-server may not list devices, it may still be able to get them by name.
                (Err(error), Some(names)) if !error.is_temporary() => inventory.add(names)?,
                (result, _) => result?,
            },
        }
        Ok(inventory)
    }

    /// Looks up all devices of a bus.
    pub(super) fn of_all(
        bus: &'static Bus,
        settings: &'n HostDeviceSettings,
        context: &'n Context<'n>,
        bound: Option<&'n Bound>,
    ) -> Result<Self, LookupError> {
        let mut inventory = Self::empty(bus, settings, context, bound);
        inventory.add_all()?;
        Ok(inventory)
    }

    fn empty(
        bus: &'static Bus,
        settings: &'n HostDeviceSettings,
        context: &'n Context<'n>,
        bound: Option<&'n Bound>,
    ) -> Self {
        let (devices, claims, is_complete) = Default::default();
        let before = if settings.has_rules() { Before::of(context) } else { Before::default() };
        Self { bus, settings, context, devices, claims, is_complete, bound, before }
    }

    /// Looks up the devices of all nodes.
    fn add_all(&mut self) -> Result<(), LookupError> {
        let (bus, lookups) = (self.bus, self.context.lookups);
        let devices = lookups.devices(bus.objects)?;
        let claims = if bus.claims_enable { lookups.list::<Claim>(bus.claims)? } else { Vec::new() };
        claims.iter().for_each(|claim| self.add_claim(claim));
        self.devices = devices;
        self.is_complete = true;
        Ok(())
    }

    /// The inventory of all devices, if this one has only some.
    pub(super) fn completed(&self) -> Result<Self, LookupError> {
        Self::of_all(self.bus, self.settings, self.context, self.bound)
    }

    /// Looks up the devices of these names.
    fn add(&mut self, names: Vec<String>) -> Result<(), LookupError> {
        let (bus, lookups) = (self.bus, self.context.lookups);
        let mut devices = cluster::Devices::new();
        for name in names {
            match lookups.device(bus.objects, &name) {
                Ok(device) => devices.insert(name.clone(), device),
                Err(error) if error.cause == ClusterError::NotFound => continue,
                Err(error) => return Err(error),
            };
            if bus.claims_enable {
                lookups.claim(bus.claims, &name)?.iter().for_each(|claim| self.add_claim(claim));
            }
        }
        self.devices = Rc::new(devices);
        Ok(())
    }

    fn add_claim(&mut self, claim: &Claim) {
        if claim.is_enabled {
            self.claims.insert(claim.name().to_owned(), claim.user().unwrap_or_default().to_owned());
        }
    }

    /// The name of the user who claimed a device, if the claim says so.
    pub(super) fn owner(&self, device: &HostDevice) -> Result<Option<String>, LookupError> {
        let user = match self.claims.get(device.name()) {
            Some(user) => user.clone(),
            None if self.is_complete && self.bus.claims_enable => String::new(),
            None => {
                let claim = self.context.lookups.claim(self.bus.claims, device.name())?;
                claim.and_then(|claim| claim.user().map(str::to_owned)).unwrap_or_default()
            }
        };
        Ok(Some(user).filter(|user| !user.is_empty()))
    }

    /// The devices of the node that they must be on, in the order of their nodes' names.
    pub(super) fn matching(&self, is_it: impl Fn(&HostDevice) -> bool) -> Vec<&HostDevice> {
        self.sorted(|device| is_it(device) && self.is_on_node(device.node()))
    }

    /// All devices that were looked up.
    pub(super) fn all(&self) -> impl Iterator<Item = &HostDevice> {
        self.devices.values().map(Rc::as_ref)
    }

    /// The devices in the order of their nodes' names, then of their own. policy-server lists them in no order, and in
    /// another one after each start.
    pub(super) fn sorted(&self, is_it: impl Fn(&HostDevice) -> bool) -> Vec<&HostDevice> {
        let mut there: Vec<&HostDevice> = Vec::new();
        for device in self.all().filter(|device| is_it(device)) {
            let place = (device.node(), device.name());
            there.insert(there.partition_point(|other| (other.node(), other.name()) <= place), device);
        }
        there
    }

    /// The name of the node that the devices must be on, if it is known.
    pub(super) fn node_by_name(&self) -> Option<&str> {
        self.bound.map(|bound| bound.node.as_str())
    }

    pub(super) fn is_on_node(&self, node: &str) -> bool {
        self.node_by_name().is_none_or(|bound| bound == node)
    }

    /// The error for a device that is not on the node, or on no node.
    pub(super) fn not_there(&self, wanted: &str, is_it: impl Fn(&HostDevice) -> bool) -> HostDevicesError {
        // Where the device is instead is only for the message.
        let listed = if self.is_complete { None } else { self.completed().ok() };
        let listed = listed.as_ref().unwrap_or(self);
        let may_be_shown = |device: &HostDevice| matches!(listed.refusal(device), Ok(None));
        let elsewhere = names_of_nodes(&listed.sorted(|device| is_it(device) && may_be_shown(device)));
        let is_no_node = |node: &str| matches!(self.context.node(OnlyNode::Named(node)), Ok(None));
        let who = match self.bound {
            None => "no node has a".to_owned(),
            Some(Bound { node, by }) if is_no_node(node) => {
                format!("there is no node {}{by}, so it has no", text::name(node))
            }
            Some(Bound { node, by }) => format!("the node {}{by} has no", text::name(node)),
        };
        let remedy = match self.bound {
            _ if !elsewhere.is_empty() => {
                format!("it is on {elsewhere}, so choose a node that has it, or name another device")
            }
            Some(bound) if is_no_node(&bound.node) => "correct the name of the node".to_owned(),
            _ if wanted.parse::<UsbIds>().is_ok() => format!(
                "look it up under {0} Devices in Harvester, or use the directive {1} if it is no {0} device",
                self.bus.name, self.bus.partner.name
            ),
            _ => format!("look it up under {} Devices in Harvester", self.bus.name),
        };
        HostDevicesError::NotThere { who, device: wanted.to_owned(), remedy, bus: self.bus }
    }

    /// Whether a device is enabled for passthrough.
    pub(super) fn is_enabled(&self, device: &HostDevice) -> bool {
        if !self.bus.claims_enable {
            return device.is_enabled_usb_device();
        }
        let look_up = || self.context.lookups.claim(self.bus.claims, device.name()).ok().flatten();
        self.claims.contains_key(device.name()) || !self.is_complete && look_up().is_some_and(|claim| claim.is_enabled)
    }

    pub(super) fn known(&self, entry: &Device<'_>) -> Option<&HostDevice> {
        self.devices.get(entry.name).map(Rc::as_ref)
    }

    /// The node of the device that an entry is named after, whether the device was looked up or not.
    pub(super) fn node_of<'p>(&'p self, entry: &Device<'p>) -> Option<&'p str> {
        let of_name = || object(entry.name).map(|(node, _)| node);
        self.known(entry).map(HostDevice::node).or_else(of_name)
    }
}

/// Whether a device is the one that the directive asks for, or one of several that match.
pub(super) fn is(device: &HostDevice, wanted: &str) -> bool {
    device.name() == wanted || device.address() == Some(wanted) || device.has_ids(wanted)
}

/// What identifies the device: its PCI address, or its vendor and product.
pub(super) fn key(device: &HostDevice) -> String {
    device.address().map_or_else(|| device.ids(), str::to_owned)
}

/// The names of the devices' nodes. The devices must be sorted by node.
pub(super) fn names_of_nodes(devices: &[&HostDevice]) -> String {
    let mut nodes: Vec<&str> = devices.iter().map(|device| device.node()).collect();
    nodes.dedup();
    text::list(&nodes)
}
