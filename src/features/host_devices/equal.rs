//! Finds the devices that Kubernetes may give instead of those that a directive names.

use super::choice::{Chosen, LISTED};
use super::inventory::{Inventory, is};
use crate::cluster::HostDevice;
use crate::text;
use crate::vm::OnlyNode;

impl Inventory<'_> {
    /// What Kubernetes may give instead of the new devices that the directive names, because devices of the same resource
    /// are the same to it. `names` are the names of all devices that the VirtualMachine will have, `is_changed` says whether this
    /// request changes the directive's value.
    pub(super) fn equal_devices(
        &self,
        choices: &[Chosen<'_>],
        names: &[&str],
        is_pinned: bool,
        is_changed: bool,
    ) -> Option<String> {
        let is_countable = self.bus.is_countable;
        let named: Vec<&Chosen<'_>> = choices.iter().filter(|chosen| !is_countable(chosen.wanted)).collect();
        let is_named = |device: &HostDevice| {
            names.contains(&device.name()) || named.iter().any(|chosen| is(device, chosen.wanted))
        };
        // For the same value, what the VirtualMachine has was given earlier.
        let mut new = named.iter().filter(|chosen| is_changed || chosen.entry.is_none());
        let mut checked = Vec::new();
        new.find_map(|Chosen { device, .. }| {
            let resource = device.resource();
            // The others are the same for each device of the resource on a node.
            if checked.contains(&(device.node(), resource)) {
                return None;
            }
            checked.push((device.node(), resource));
            let problem = |why: String| {
                format!("Kubernetes may give the VirtualMachine another device than {}, because {why}", device.name())
            };
            let listed;
            let all = if self.is_complete {
                self
            } else {
                // The node knows how many devices it has of the resource.
                let node = self.context.node(OnlyNode::Named(device.node())).ok().flatten();
                let count = node.and_then(|node| node.allocatable(resource)?.parse::<usize>().ok());
                if count.is_some_and(|count| count <= 1) {
                    return None;
                }
                let Ok(all) = self.completed() else {
                    let wanted = choices.iter().filter(|chosen| chosen.device.resource() == resource).count();
                    let count = count.filter(|count| *count > wanted)?;
                    return Some(problem(format!("{} has {count} devices of the resource {resource}", device.node())));
                };
                listed = all;
                &listed
            };
            let can_be_given = |other: &HostDevice| !is_pinned || other.node() == device.node();
            let equal = |other: &HostDevice| {
                other.resource() == resource && can_be_given(other) && all.is_enabled(other) && !is_named(other)
            };
            let others = all.matching(equal);
            let mut nodes: Vec<&str> = others.iter().map(|other| other.node()).collect();
            nodes.dedup();
            self.retain_allowed(&mut nodes);
            let others = others.iter().filter(|other| nodes.contains(&other.node())).map(|other| other.name());
            let others: Vec<_> = others.collect();
            let listed = text::list(others.get(..LISTED).unwrap_or(&others));
            let more = match others.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} others"),
            };
            (!others.is_empty()).then(|| problem(format!("its resource {resource} is also that of {listed}{more}")))
        })
    }
}
