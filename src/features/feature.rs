//! What a feature is: the contract between the features and the evaluation. No feature is known here.

use std::rc::Rc;

use super::Settings;
use super::record::Recorded;
use crate::cluster::{LookupError, Lookups, NODE, Node};
use crate::directives::Directives;
use crate::request::Requester;
use crate::settings::FeatureSettings;
use crate::vm::entry::Entry;
use crate::vm::place::Place;
use crate::vm::{Placement, VirtualMachine};

/// One feature.
pub(crate) struct Feature {
    /// Its name, as in the directive's key.
    pub(crate) name: &'static str,
    /// The options that go with its directive.
    pub(crate) options: &'static [&'static str],
    /// The places where it adds entries.
    pub(crate) adds: &'static [&'static Place],
    /// Its part of the settings that every feature has.
    pub(crate) settings: fn(&Settings) -> &FeatureSettings,
    /// Plans what the directive's value needs; `None` if it switches the feature off.
    ///
    /// # Errors
    /// Why the feature cannot be applied, in words for the user: what the obstacle is, and what to do. Each feature has an enum of
    /// its own for its reasons; beyond the feature only the words matter.
    pub(crate) plan: fn(value: &str, context: &Context<'_>) -> anyhow::Result<Option<Plan>>,
}

/// The facts that a feature plans with.
pub(crate) struct Context<'c> {
    /// The VirtualMachine with what the features before have changed, and without what this one added.
    pub(crate) vm: &'c VirtualMachine,
    /// The entries that the feature added earlier. Those that a plan asks for again stay as they are; the rest are removed.
    pub(crate) ours: &'c [Recorded],
    /// The value that the feature was applied from before this update, if it was.
    pub(crate) applied_before: Option<&'c str>,
    /// The VirtualMachine's namespace.
    pub(crate) namespace: &'c str,
    /// Who sends the request.
    pub(crate) requester: &'c Requester,
    /// The options beside the directive.
    pub(crate) directives: &'c Directives,
    pub(crate) settings: &'c Settings,
    pub(crate) lookups: &'c Lookups<'c>,
    /// The VirtualMachine before this update.
    pub(crate) old: Option<&'c VirtualMachine>,
}

impl Context<'_> {
    /// Looks up the nodes that the VirtualMachine may run on, as far as its placement tells.
    pub(super) fn nodes(&self, placement: &Placement) -> Result<Vec<Rc<Node>>, LookupError> {
        let mut nodes = match placement.hostname() {
            Some(name) => vec![self.lookups.get(&NODE, name, None)?],
            None => self.lookups.list(&NODE)?,
        };
        nodes.retain(|node: &Rc<Node>| placement.allows(|key| node.label(key)));
        Ok(nodes)
    }
}

/// The entries that a feature needs, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All entries that the directive asks for. What is in place is left as it is, and is not recorded.
    pub(crate) entries: Vec<Entry>,
    /// The value of the `-applied` annotation.
    pub(crate) applied: String,
    /// Warnings, true also if the changes are dropped.
    pub(crate) warnings: Vec<String>,
}
