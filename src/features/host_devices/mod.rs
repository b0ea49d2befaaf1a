//! Host devices, PCI and USB, for every feature that adds them: the plan for a directive that lists devices, free
//! names, and the devices that Harvester adds because of others.

mod bus;
mod choice;
mod directive;
mod equal;
mod error;
mod in_place;
mod inventory;
mod names;
pub(super) mod placed;
pub(super) mod rules;
pub(super) mod siblings;
mod wanted;

use super::feature::{Context, Plan};
use crate::cluster::NODE;
use crate::cluster::access::{Access, Verbs};
use crate::json::to_text;
use crate::settings::{Count, FeatureSettings, section};
use crate::text;
use crate::values::pattern::Pattern;
use crate::vm::entry::Entry;
use crate::vm::place::HOST_DEVICE;
pub(super) use bus::{Bus, Partner};
use directive::Devices;
pub(super) use directive::check_count;
pub(super) use error::HostDevicesError;
use error::has_harvester;
use inventory::Inventory;
pub(super) use names::{USB_PREFIX, free_names, is_usb, object};
use names::{host_device, our_devices};
pub(crate) use rules::has_device_rules;
pub(crate) use siblings::{Siblings, beside, is_pci_device, is_pci_device_name, may_have_siblings};
use wanted::Wanted;

/// The lookup of nodes for devices, for the reference.
pub(super) const PLACEMENT: Access = Access {
    kinds: &[&NODE],
    verbs: Verbs::List,
    what: "whether the VM may run on a node that has the devices; a single node is read by its name",
    without: "the placement is not checked, and the node's hostname is taken for its name",
    needed: &[],
};

/// The feature gate without which KubeVirt accepts no host devices.
pub(super) const GATE: &str = "HostDevices";

section! {
    /// The settings of a feature that adds host devices.
    HostDeviceSettings("") {
        ..feature: FeatureSettings;
        /// If the directive names a device together with its node, as in node1/0000:00:02.0 or node1/046d:c52b, the virtual machine
        /// can run only on that node.
        pin_to_node: bool = true, "pinToNode", "pin the VM to the node that the directive names";
        /// Maps a namespace pattern to patterns of devices or resource names, separated by commas or lines. If the map is empty, every
        /// namespace may use any device. Otherwise, a namespace that no pattern matches may use none. A pattern such as team-a-* also
        /// matches namespaces that users create later.
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
    let wanted = Wanted { bus, settings, devices: Devices::parse(value, max_devices, bus, context)?, context };
    check_count(counted, max_devices, bus)?;
    let mut plan = Plan { applied: to_text(&wanted.devices.list), ..Plan::default() };
    let node = wanted.node()?;
    // Without an answer from Harvester, nobody knows who claimed a device.
    let is_auto = named_by == NamedBy::Auto && !settings.require_claim_owner;
    // Whether the directive added devices under Harvester's names before.
    let added_objects = our_devices(context).iter().any(|entry| object(entry.name).is_some());
    match (named_by != NamedBy::Other).then(|| Inventory::look_up(&wanted, node.as_ref())) {
        None => wanted.otherwise(None, &mut plan)?,
        Some(Ok(inventory)) => wanted.by_harvester(&inventory, &mut plan)?,
        Some(Err(error)) => match is_auto.then(|| wanted.in_place()).transpose()?.flatten() {
            Some(in_place) => in_place.into_iter().for_each(|entry| plan.add_once(entry)),
            None if is_auto && !has_harvester(&error) && !added_objects => wanted.otherwise(Some(&error), &mut plan)?,
            None => return Err(HostDevicesError::Lookup { error, bus }.into()),
        },
    }
    let is_new = |entry: &&Entry| {
        entry.place == &HOST_DEVICE && host_devices.iter().all(|device| host_device(device) != **entry)
    };
    check_count(counted + plan.entries.iter().filter(is_new).count(), max_devices, bus)?;
    // KubeVirt makes the device's alias of its name (`pkg/virt-launcher/virtwrap/device/hostdevice/hostdev.go`), and libvirt
    // takes no dot in an alias. Harvester's names begin with that of the node. Issue 16043 of kubevirt/kubevirt.
    let dotted: Vec<_> = plan.devices().into_iter().filter(|name| name.contains('.')).collect();
    if !dotted.is_empty() {
        plan.warnings.push(format!(
            "the VirtualMachine will not start, because KubeVirt starts none with a dot in the name of a host device: {}; use \
             devices of a node whose name has no dot (harvester/harvester issue 9399)",
            text::list(&dotted)
        ));
    }
    plan.warnings.extend(context.lookups.check_gate(GATE)?);
    // A rule about the devices of a node would not hold on another one.
    let is_pinned = settings.pin_to_node || settings.has_rules();
    if let Some(node) = wanted.devices.node.as_deref().filter(|_| is_pinned) {
        plan.add_once(context.pin(node));
    }
    Ok(plan)
}
