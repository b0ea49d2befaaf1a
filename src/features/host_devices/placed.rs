//! Whether the VirtualMachine may run on a node that has its devices.

use super::HostDevicesError;
use super::choice::{Candidates, Chosen, have_all};
use super::inventory::{Inventory, is};
use crate::cluster::{NODE, Node};
use crate::features::feature::{Context, Plan};
use crate::text;
use crate::values::quantity::Quantity;
use crate::vm::place::LIMIT;
use crate::vm::{OnlyNode, ShapeError};

impl Inventory<'_> {
    /// The names of the nodes that have the devices, or as many of their resources, and where the VirtualMachine may run.
    ///
    /// # Errors
    /// There is none, although the VirtualMachine already has all of the devices. [`Inventory::choose`] checks it for new
    /// ones.
    pub(super) fn check_placed(&self, choices: &[Chosen<'_>]) -> Result<Vec<String>, HostDevicesError> {
        let mut all: Vec<Candidates<'_>> = Vec::new();
        for (index, &Chosen { wanted, device: one, entry }) in choices.iter().enumerate() {
            let is_same = |chosen: &&Chosen<'_>| chosen.wanted == wanted && chosen.device.resource() == one.resource();
            let same = choices.iter().take(index).position(|chosen| is_same(&chosen)).and_then(|index| all.get(index));
            let is_it = |device: &_| {
                is(device, wanted)
                    && device.resource() == one.resource()
                    && self.is_enabled(device)
                    && matches!(self.refusal(device), Ok(None))
            };
            let devices = same.map_or_else(|| self.matching(is_it), |same| same.devices.clone());
            all.push(Candidates { wanted, devices, entry, is_new: false });
        }
        let all: Vec<_> = all.iter().collect();
        let mut nodes: Vec<&str> =
            all.iter().take(1).flat_map(|one| &one.devices).map(|device| device.node()).collect();
        nodes.dedup();
        nodes.retain(|node| have_all(&all, node, &[]));
        let places = text::list(&nodes);
        self.retain_allowed(&mut nodes);
        if !places.is_empty() && nodes.is_empty() && choices.iter().all(|chosen| chosen.entry.is_some()) {
            let devices: Vec<_> = all.iter().map(|one| one.wanted).collect();
            return Err(HostDevicesError::Excluded { devices: format!("{} on {places}", text::list(&devices)) });
        }
        Ok(nodes.into_iter().map(str::to_owned).collect())
    }
}

/// Finds the nodes that have the devices and limits of the plan beside those that the VirtualMachine has, and warns if it
/// may not run on any of them, or if there is no node that the directive names (`named`). This is for resources that
/// Harvester does not list: only the nodes say how much of them they have. If none says so, or the nodes cannot be
/// looked up, nothing is known.
pub(in crate::features) fn check(
    plan: &mut Plan,
    named: Option<&str>,
    context: &Context<'_>,
) -> Result<(), ShapeError> {
    let Needed { resources, shown } = Needed::of(plan, context)?;
    let has = |node: &Node, resource: &str, count: u64| {
        let there = node.allocatable(resource).and_then(|there| there.parse::<Quantity>().ok());
        there.is_some_and(|there| there.ceil() >= count)
    };
    let has_all = |node: &Node| resources.iter().all(|(resource, count)| has(node, resource, *count));
    let lists_all = |node: &Node| resources.iter().all(|(resource, _)| has(node, resource, 1));
    let placement = context.placement()?;
    let only = named.map(OnlyNode::Named).or(placement.only_node());
    let only = only.and_then(|only| context.node(only).ok().flatten());
    let can_be_used = |node: &Node| placement.allows(node) && context.is_possible(node.name()) && has_all(node);
    if let Some(node) = only.as_ref().filter(|node| can_be_used(node)) {
        plan.nodes = Some(vec![node.name().to_owned()]);
        return Ok(());
    }
    let Ok(nodes) = context.lookups.list::<Node>(&NODE) else { return Ok(()) };
    let is_named = |node: &Node| match named {
        None => true,
        Some(name) if only.is_some() => node.name() == name,
        // The directive may name the hostname.
        Some(name) => node.hostname() == name,
    };
    let exists = named.is_none() || nodes.iter().any(|node| is_named(node));
    if exists && !nodes.iter().any(|node| lists_all(node)) {
        return Ok(());
    }
    let usable: Vec<_> = nodes.iter().filter(|node| is_named(node) && can_be_used(node)).collect();
    plan.nodes = Some(usable.iter().map(|node| node.name().to_owned()).collect());
    if !usable.is_empty() {
        return Ok(());
    }
    let places: Vec<_> = nodes.iter().filter(|node| has_all(node)).map(|node| node.name()).collect();
    let places = if places.is_empty() { String::new() } else { format!(" on {}", text::list(&places)) };
    let (node, leaving) =
        (named.map(|named| format!(" {named}")).unwrap_or_default(), context.possible_nodes_in_words());
    plan.warnings.push(format!(
        "no node{node} that the VirtualMachine may run on{leaving} has all of these devices (status.allocatable), so the \
         VirtualMachine will not be scheduled: {}{places}; name devices that are there, or change the VirtualMachine's node \
         selector, node affinity or tolerations",
        text::list(&shown.iter().map(String::as_str).collect::<Vec<_>>())
    ));
    Ok(())
}

/// The extended resources that a VirtualMachine needs of a node for the devices and limits of a plan.
struct Needed {
    /// How many of each it needs in all.
    resources: Vec<(String, u64)>,
    /// The same for a message.
    shown: Vec<String>,
}

impl Needed {
    fn of(plan: &Plan, context: &Context<'_>) -> Result<Self, ShapeError> {
        let mut resources: Vec<(String, u64)> = Vec::new();
        fn find<'r>(resources: &'r mut [(String, u64)], resource: &str) -> Option<&'r mut u64> {
            resources.iter_mut().find(|(name, _)| name == resource).map(|(_, count)| count)
        }
        for entry in &plan.entries {
            match entry.as_device() {
                Some((_, resource)) => match find(&mut resources, resource) {
                    Some(count) => *count += 1,
                    None => resources.push((resource.to_owned(), 1)),
                },
                None if entry.place == &LIMIT => resources.push((entry.name.clone(), entry.value.parse().unwrap_or(1))),
                None => {}
            }
        }
        // What the VirtualMachine has of the same resources beside the plan.
        let names = plan.devices();
        for device in context.vm.host_devices_and_gpus()? {
            if let Some(count) = find(&mut resources, device.resource).filter(|_| !names.contains(&device.name)) {
                *count += 1;
            }
        }
        let show = |(resource, count): &(String, u64)| match count {
            1 => resource.clone(),
            count => format!("{count} of {resource}"),
        };
        let shown = resources.iter().map(show).collect();
        Ok(Self { resources, shown })
    }
}
