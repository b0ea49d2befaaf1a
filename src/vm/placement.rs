//! Which nodes a VirtualMachine may run on.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::place::HOSTNAME_LABEL;

/// Which nodes the VirtualMachine may run on, as far as it chooses them by label values.
#[derive(Debug)]
pub(crate) struct Placement {
    /// `nodeSelector`: the labels and values that a node must have.
    pub(crate) selector: Vec<(String, String)>,
    /// The required node affinity: a node must match one of these terms. Operators other than `In` are ignored, so a
    /// node may be allowed here although it does not match.
    terms: Vec<NodeSelectorTerm>,
}

impl Placement {
    pub(super) fn new(selector: Vec<(String, String)>, required: NodeSelector) -> Self {
        Self { selector, terms: required.node_selector_terms }
    }

    /// The only node that the VirtualMachine may run on, if it names one.
    pub(crate) fn hostname(&self) -> Option<&str> {
        if let Some((_, hostname)) = self.selector.iter().find(|(key, _)| key == HOSTNAME_LABEL) {
            return Some(hostname);
        }
        let [term] = self.terms.as_slice() else {
            return None;
        };
        expressions(term).find_map(|expression| match values(expression) {
            [hostname] if expression.key == HOSTNAME_LABEL => Some(hostname.as_str()),
            _ => None,
        })
    }

    /// Whether the VirtualMachine may run on a node with these labels.
    pub(crate) fn allows<'n>(&self, label: impl Fn(&str) -> Option<&'n str>) -> bool {
        let is_selected = self.selector.iter().all(|(key, value)| label(key) == Some(value));
        let is_met = |expression: &NodeSelectorRequirement| {
            label(&expression.key).is_some_and(|found| values(expression).iter().any(|value| value == found))
        };
        is_selected && (self.terms.is_empty() || self.terms.iter().any(|term| expressions(term).all(is_met)))
    }
}

/// The expressions of a term with the operator `In`.
fn expressions(term: &NodeSelectorTerm) -> impl Iterator<Item = &NodeSelectorRequirement> {
    term.match_expressions.iter().flatten().filter(|expression| expression.operator == "In")
}

fn values(expression: &NodeSelectorRequirement) -> &[String] {
    expression.values.as_deref().unwrap_or_default()
}
