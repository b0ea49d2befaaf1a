//! Whether the VirtualMachine may run on a node that has its devices.

use super::HostDevicesError;
use super::choice::{Candidates, Chosen, have_all};
use super::inventory::{Inventory, is};
use crate::cluster::Node;
use crate::features::feature::{Context, Plan};
use crate::text;
use crate::values::pci::PciAddress;
use crate::vm::{OnlyNode, ShapeError};

impl Inventory<'_> {
    /// Checks that the VirtualMachine may run on a node that has the devices, if it already has all of them.
    /// [`Inventory::choose`] checks it for new ones.
    pub(super) fn check_placed(&self, choices: &[Chosen<'_>]) -> Result<(), HostDevicesError> {
        if choices.iter().any(|chosen| chosen.entry.is_none()) {
            return Ok(());
        }
        let candidates = |&Chosen { wanted, device: one, entry }| {
            let is_it =
                |device: &_| is(device, wanted) && device.resource() == one.resource() && self.is_enabled(device);
            Candidates { wanted, devices: self.matching(is_it), entry }
        };
        let all: Vec<_> = choices.iter().map(candidates).collect();
        let all: Vec<_> = all.iter().collect();
        let mut nodes: Vec<&str> =
            all.iter().take(1).flat_map(|one| &one.devices).map(|device| device.node()).collect();
        nodes.dedup();
        nodes.retain(|node| have_all(&all, node, &[]));
        let places = text::list(&nodes);
        self.retain_allowed(&mut nodes);
        if places.is_empty() || !nodes.is_empty() {
            return Ok(());
        }
        let devices: Vec<_> = all.iter().map(|one| one.wanted).collect();
        Err(HostDevicesError::Excluded { devices: format!("{} on {places}", text::list(&devices)) })
    }
}

/// A warning if no node that the VirtualMachine may run on has the devices of the plan. Without Harvester, only the node
/// says which devices it has. `named` is the node that the directive names.
pub(super) fn warning(plan: &Plan, named: Option<&str>, context: &Context<'_>) -> Result<Option<String>, ShapeError> {
    let resources: Vec<&str> = plan.entries.iter().filter_map(|entry| Some(entry.as_device()?.1)).collect();
    // Another warning says that no node has a resource of such a name.
    if resources.iter().any(|resource| PciAddress::of_device_name(resource).is_some()) {
        return Ok(None);
    }
    let count = |resource: &str| resources.iter().filter(|other| **other == resource).count();
    let has = |node: &Node, resource: &str| {
        let there = node.allocatable(resource).and_then(|there| there.parse::<usize>().ok());
        there.is_some_and(|there| there >= count(resource))
    };
    let has_all = |node: &Node| !node.has_allocatable() || resources.iter().all(|resource| has(node, resource));
    let is_nowhere = match named.map(|named| context.node(OnlyNode::Named(named))) {
        Some(Ok(Some(node))) => !has_all(&node),
        Some(Err(_)) => false,
        // The directive may name a hostname.
        _ => context.no_node(|node| named.is_none_or(|named| named == node.hostname()) && has_all(node))?,
    };
    Ok(is_nowhere.then(|| {
        let node = named.map(|named| format!(" {named}")).unwrap_or_default();
        format!(
            "no node{node} that the VirtualMachine may run on has all of these devices (status.allocatable), so the VirtualMachine \
             will not be scheduled: {}; name devices that are there, or change the VirtualMachine's node selector, node affinity or \
             tolerations",
            text::list(&resources)
        )
    }))
}
