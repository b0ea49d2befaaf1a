//! What a feature is: the contract between the features and the evaluation. This module knows no feature.

use std::rc::Rc;

use super::Settings;
use super::record::Recorded;
use super::reference::Reference;
use crate::cluster::{LookupError, Lookups, NODE, Node};
use crate::directives::Directives;
use crate::request::Requester;
use crate::settings::FeatureSettings;
use crate::vm::entry::Entry;
use crate::vm::place::Place;
use crate::vm::{ShapeError, VirtualMachine};

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
    /// What users and administrators need to know of it.
    pub(crate) reference: Reference,
}

impl Feature {
    /// The options of its directive.
    pub(crate) fn options(&self) -> impl Iterator<Item = &'static str> {
        self.reference.options.iter().map(|option| option.name)
    }
}

/// What a feature needs to know in order to plan.
pub(crate) struct Context<'c> {
    /// The VirtualMachine, with the changes of earlier features and without the entries that this feature added.
    pub(crate) vm: &'c VirtualMachine,
    /// The entries that the feature added earlier. If a plan contains them again, they stay as they are; the rest is removed.
    pub(crate) ours: &'c [Recorded],
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
    /// The VirtualMachine before this update.
    pub(crate) old: Option<&'c VirtualMachine>,
}

impl Context<'_> {
    /// Looks up the nodes that the VirtualMachine may run on, as far as its placement says so.
    pub(super) fn nodes(&self) -> Result<Result<Vec<Rc<Node>>, LookupError>, ShapeError> {
        let placement = self.vm.placement()?;
        let nodes = match placement.hostname() {
            Some(name) => self.lookups.get(&NODE, name, None).map(|node| vec![node]),
            None => self.lookups.list(&NODE),
        };
        let is_allowed = |node: &Rc<Node>| placement.allows(|key| node.label(key));
        Ok(nodes.map(|nodes| nodes.into_iter().filter(is_allowed).collect()))
    }

    /// Whether it is known that none of these nodes fits. It is not known if policy-server may not read them.
    pub(super) fn no_node(&self, fits: impl Fn(&Node) -> bool) -> Result<bool, ShapeError> {
        Ok(self.nodes()?.is_ok_and(|nodes| !nodes.iter().any(|node| fits(node))))
    }
}

/// The entries that a feature needs, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All entries that the directive asks for. Those that the user has in place already are left unchanged and are not recorded.
    pub(crate) entries: Vec<Entry>,
    /// The value of the `-applied` annotation.
    pub(crate) applied: String,
    /// Warnings. They must be true even if the changes are discarded.
    pub(crate) warnings: Vec<String>,
}
