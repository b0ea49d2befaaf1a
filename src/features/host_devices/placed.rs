//! Whether the VirtualMachine may run on a node that has its devices.

use super::HostDevicesError;
use super::choice::{Candidates, Chosen, have_all};
use super::inventory::{Inventory, is};
use crate::cluster::{NODE, Node};
use crate::features::feature::{Context, Plan};
use crate::text;
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

/// A warning if the VirtualMachine may not run on any node that has the devices of the plan, or if there is no node that the
/// directive names (`named`). It is for devices that Harvester does not list: only the nodes say which of them they have. If
/// none says so, or the nodes cannot be looked up, nothing is known.
pub(in crate::features) fn warning(
    plan: &Plan,
    named: Option<&str>,
    context: &Context<'_>,
) -> Result<Option<String>, ShapeError> {
    let mut resources: Vec<&str> = plan.entries.iter().filter_map(|entry| Some(entry.as_device()?.1)).collect();
    resources.dedup();
    let has = |node: &Node, resource: &str| node.allocatable(resource).is_some_and(|count| count != "0");
    let has_all = |node: &Node| resources.iter().all(|resource| has(node, resource));
    let placement = context.placement()?;
    let only = named.map(OnlyNode::Named).or(placement.only_node());
    let only = only.and_then(|only| context.node(only).ok().flatten());
    if only.as_ref().is_some_and(|node| placement.allows(node) && has_all(node)) {
        return Ok(None);
    }
    let Ok(nodes) = context.lookups.list::<Node>(&NODE) else { return Ok(None) };
    let is_named = |node: &Node| match named {
        None => true,
        Some(name) if only.is_some() => node.name() == name,
        // The directive may name the hostname.
        Some(name) => node.hostname() == name,
    };
    let can_be_had = |node: &Node| is_named(node) && placement.allows(node) && has_all(node);
    let places: Vec<_> = nodes.iter().filter(|node| has_all(node)).map(|node| node.name()).collect();
    let exists = named.is_none() || nodes.iter().any(|node| is_named(node));
    if exists && (places.is_empty() || nodes.iter().any(|node| can_be_had(node))) {
        return Ok(None);
    }
    let node = named.map(|named| format!(" {named}")).unwrap_or_default();
    let places = if places.is_empty() { String::new() } else { format!(" on {}", text::list(&places)) };
    Ok(Some(format!(
        "no node{node} that the VirtualMachine may run on has all of these devices (status.allocatable), so the VirtualMachine \
         will not be scheduled: {}{places}; name devices that are there, or change the VirtualMachine's node selector, node \
         affinity or tolerations",
        text::list(&resources)
    )))
}
