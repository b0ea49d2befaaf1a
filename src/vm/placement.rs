//! Which nodes a VirtualMachine may run on.

use crate::json::Json;

use super::text;

/// The label that names a node.
pub(super) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Which nodes the VirtualMachine may run on, as far as it says so by label values.
#[derive(Debug)]
pub(crate) struct Placement<'v> {
    /// `nodeSelector`: all of these.
    pub(super) selector: Vec<(&'v str, &'v str)>,
    /// Required node affinity: one of these, and of it all expressions with the operator `In`. Other operators are
    /// passed over, which may let a node count that does not.
    pub(super) terms: Vec<Vec<(&'v str, Vec<&'v str>)>>,
}

impl<'v> Placement<'v> {
    /// The keys and values of the node selector.
    pub(crate) fn selector(&self) -> &[(&'v str, &'v str)] {
        &self.selector
    }

    /// The node that the node selector names.
    pub(crate) fn selected_hostname(&self) -> Option<&'v str> {
        self.selector.iter().find(|(key, _)| *key == HOSTNAME_LABEL).map(|(_, value)| *value)
    }

    /// The one node that the VirtualMachine may run on, if it says so.
    pub(crate) fn hostname(&self) -> Option<&'v str> {
        if let Some(hostname) = self.selected_hostname() {
            return Some(hostname);
        }
        let [term] = self.terms.as_slice() else {
            return None;
        };
        term.iter().find_map(|(key, values)| match values.as_slice() {
            [hostname] if *key == HOSTNAME_LABEL => Some(*hostname),
            _ => None,
        })
    }

    /// Whether the VirtualMachine may run on a node with these labels.
    pub(crate) fn allows<'n>(&self, label: impl Fn(&str) -> Option<&'n str>) -> bool {
        let selected = self.selector.iter().all(|(key, value)| label(key) == Some(value));
        let in_values = |(key, values): &(&str, Vec<&str>)| label(key).is_some_and(|value| values.contains(&value));
        selected && (self.terms.is_empty() || self.terms.iter().any(|term| term.iter().all(in_values)))
    }
}

/// The expressions of a term of required node affinity that have the operator `In`.
pub(super) fn affinity_term<'v>(term: &'v Json<'_>) -> Vec<(&'v str, Vec<&'v str>)> {
    let expressions = term.get("matchExpressions").map(Json::items).unwrap_or_default();
    let is_in = |expression: &&Json<'_>| text(expression, "operator") == "In";
    expressions
        .iter()
        .filter(is_in)
        .map(|expression| {
            let values = expression.get("values").map(Json::items).unwrap_or_default();
            (text(expression, "key"), values.iter().filter_map(Json::as_str).collect())
        })
        .collect()
}
