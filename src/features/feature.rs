//! What a feature is: the contract between the features and the evaluation. This module knows no feature.

use std::fmt;
use std::rc::Rc;

use super::Settings;
use super::allowed_nodes::AllowedNodes;
use super::record::Recorded;
use crate::cluster::{ClusterError, LookupError, Lookups, NODE, Node};
use crate::directives::Directives;
use crate::request::Requester;
use crate::settings::FeatureSettings;
use crate::text::{self, Quoted};
use crate::values::pattern::Pattern;
use crate::vm::entry::Entry;
use crate::vm::place::Place;
use crate::vm::{OnlyNode, ShapeError, VirtualMachine};

/// One feature.
pub(crate) struct Feature {
    /// Its name, as in the key of the directive.
    pub(crate) name: &'static str,
    /// The places where it adds entries.
    pub(crate) adds: &'static [&'static Place],
    /// Its part of the settings that all features have.
    pub(crate) settings: fn(&Settings) -> &FeatureSettings,
    /// Plans what the directive's value needs. A value that switches the feature off does not get here.
    ///
    /// # Errors
    /// Why the feature cannot be applied, in words for the user: what the obstacle is, and what to do. Each feature has
    /// its own enum of reasons; outside of the feature, only the words matter.
    pub(crate) plan: fn(value: &str, context: &Context<'_>) -> anyhow::Result<Plan>,
    /// The options of its directive.
    pub(crate) options: &'static [&'static str],
}

impl Feature {
    /// The options of its directive.
    pub(crate) fn options(&self) -> impl Iterator<Item = &'static str> {
        self.options.iter().copied()
    }
}

/// What a feature needs to know in order to plan.
pub(crate) struct Context<'c> {
    /// The VirtualMachine, with the changes of earlier features and without the entries that this feature added.
    pub(crate) vm: &'c VirtualMachine,
    /// The VirtualMachine without the entries that any feature added that is planned anew.
    pub(crate) base: &'c VirtualMachine,
    /// The entries that the feature added earlier. If a plan contains them again, they stay as they are; the rest is removed.
    pub(crate) ours: &'c [Recorded],
    /// What the feature had added before this update. Unlike `ours`, it does not count what the request itself records.
    pub(crate) had: &'c [Recorded],
    /// The value of the directive from which the feature was applied before this request, if it was.
    pub(crate) applied_before: Option<&'c str>,
    /// The VirtualMachine's namespace.
    pub(crate) namespace: &'c str,
    /// Who sends the request.
    pub(crate) requester: &'c Requester,
    /// Whether this request sets or changes the directive or its options. If not, the requester does not ask for the
    /// feature, so rules about people cannot be met.
    pub(crate) is_requested: bool,
    /// The options that go with the directive.
    pub(crate) directives: &'c Directives,
    pub(crate) settings: &'c Settings,
    pub(crate) lookups: &'c Lookups<'c>,
    /// The features before this one that fail, so that the VirtualMachine may lack what they would have added.
    pub(crate) failing: &'c [&'static str],
    /// The names of the nodes that have what earlier features need, at least one; `None` if they leave every node.
    pub(crate) possible_nodes: Option<&'c [String]>,
    /// The VirtualMachine before this update.
    pub(crate) old: Option<&'c VirtualMachine>,
    /// The same with the names that Harvester gives its devices in this update.
    pub(crate) renamed: Option<&'c VirtualMachine>,
    /// Whether somebody removed a device that the feature added.
    pub(crate) has_lost: bool,
}

/// Why nobody asks for a feature in a request, so that rules about people cannot be met.
#[derive(Debug)]
pub(crate) enum NobodyAsks {
    /// The request does not set the directive.
    NotRequested,
    /// This account writes VirtualMachines for others.
    Controller(String),
}

impl fmt::Display for NobodyAsks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRequested => f.write_str("this request does not set the directive"),
            Self::Controller(account) => write!(
                f,
                "this request is from {account}, an account that writes VirtualMachines for others (setting controllerAccounts)"
            ),
        }
    }
}

impl<'c> Context<'c> {
    /// The person who asks for the feature: who sends the request, if it sets or changes the directive or its options, and
    /// is not an account that writes for others.
    pub(super) fn asker(&self) -> Result<&'c Requester, NobodyAsks> {
        let is_controller = |pattern: &Pattern| pattern.matches(&self.requester.name);
        match self.is_requested {
            false => Err(NobodyAsks::NotRequested),
            true if self.settings.general.controller_accounts.iter().any(is_controller) => {
                Err(NobodyAsks::Controller(Quoted(&self.requester.name).to_string()))
            }
            true => Ok(self.requester),
        }
    }

    /// Which nodes the VirtualMachine may run on.
    pub(super) fn placement(&self) -> Result<AllowedNodes<'_>, ShapeError> {
        let is_harvester = self.settings.general.is_harvester();
        let placement = if is_harvester { self.vm.placement_on_harvester() } else { self.vm.placement() };
        Ok(AllowedNodes::new(placement?, self))
    }

    /// Looks up the nodes that the VirtualMachine may run on with what earlier features need. Those that take no new
    /// VirtualMachines at the moment only count if there is no other.
    pub(super) fn nodes(&self) -> Result<Result<Vec<Rc<Node>>, LookupError>, ShapeError> {
        let placement = self.placement()?;
        let only = placement.only_node().and_then(|only| self.node(only).transpose());
        let nodes = only.map_or_else(|| self.lookups.list(&NODE), |node| node.map(|node| vec![node]));
        Ok(nodes.map(|nodes| {
            let allowed: Vec<_> =
                nodes.into_iter().filter(|node| placement.allows(node) && self.is_possible(node.name())).collect();
            let is_any_ready = allowed.iter().any(|node| node.is_ready());
            allowed.into_iter().filter(|node| !is_any_ready || node.is_ready()).collect()
        }))
    }

    /// Whether a node has what earlier features need.
    pub(super) fn is_possible(&self, node: &str) -> bool {
        self.possible_nodes.is_none_or(|nodes| nodes.iter().any(|name| name == node))
    }

    /// Which nodes earlier features leave, for a message about nodes; empty if they leave every node.
    pub(super) fn possible_nodes_in_words(&self) -> String {
        let names = |nodes: &[String]| text::list(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
        let words = |nodes| format!(" (its other directives leave only {})", names(nodes));
        self.possible_nodes.map(words).unwrap_or_default()
    }

    /// Looks up a node. A single node needs the fewest permissions, and the node's name usually is its hostname; `None` if
    /// there is no node of the name, or it has another hostname.
    pub(super) fn node(&self, only: OnlyNode<'_>) -> Result<Option<Rc<Node>>, LookupError> {
        let (OnlyNode::Named(name) | OnlyNode::WithHostname(name)) = only;
        match self.lookups.get::<Node>(&NODE, name, None) {
            Ok(node) => Ok(Some(node).filter(|node| matches!(only, OnlyNode::Named(_)) || node.hostname() == name)),
            Err(error) if error.cause == ClusterError::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name of the only node that the VirtualMachine may run on, if it chooses one. Its hostname is taken for its
    /// name if that cannot be looked up.
    pub(super) fn only_node(&self) -> Result<Option<String>, ShapeError> {
        Ok(self.placement()?.only_node().map(|only| self.name_of(only)))
    }

    /// The name of a node. Its hostname is taken for its name if that cannot be looked up.
    pub(super) fn name_of(&self, only: OnlyNode<'_>) -> String {
        let (OnlyNode::Named(name) | OnlyNode::WithHostname(name)) = only;
        let listed = || self.lookups.list::<Node>(&NODE).ok()?.into_iter().find(|node| node.hostname() == name);
        let node = match (self.node(only), only) {
            (Ok(None), OnlyNode::WithHostname(_)) => listed(),
            (node, _) => node.ok().flatten(),
        };
        node.map_or_else(|| name.to_owned(), |node| node.name().to_owned())
    }

    /// The names of those of the nodes that fit. `None` if policy-server may not read them.
    pub(super) fn fitting(&self, fits: impl Fn(&Node) -> bool) -> Result<Option<Vec<String>>, ShapeError> {
        let names =
            |nodes: Vec<Rc<Node>>| nodes.iter().filter(|node| fits(node)).map(|node| node.name().to_owned()).collect();
        Ok(self.nodes()?.ok().map(names))
    }
}

impl Plan {
    /// Adds an entry that several devices may need.
    pub(super) fn add_once(&mut self, entry: Entry) {
        if !self.entries.contains(&entry) {
            self.entries.push(entry);
        }
    }

    /// The names of the host devices and GPUs among the entries.
    pub(super) fn devices(&self) -> Vec<&str> {
        self.entries.iter().filter_map(|entry| Some(entry.as_device()?.0)).collect()
    }
}

/// The entries that a feature needs, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All entries that the directive asks for. Those that the user has in place already are left unchanged and are not recorded.
    pub(crate) entries: Vec<Entry>,
    /// The names of the nodes that have what the plan needs, if they are known. Later features count only these.
    pub(crate) nodes: Option<Vec<String>>,
    /// The value of the `-applied` annotation.
    pub(crate) applied: String,
    /// Warnings. They must be true even if the changes are discarded.
    pub(crate) warnings: Vec<String>,
}
