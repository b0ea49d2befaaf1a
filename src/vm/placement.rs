//! Which nodes a VirtualMachine may run on, as Kubernetes' scheduler sees it.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Toleration};

use crate::cluster::{HOSTNAME_LABEL, Node, Taint};
use crate::text::beginning;
use crate::values::name::SUBDOMAIN;

/// Which nodes the VirtualMachine may run on. KubeVirt copies all of it to the pod
/// (`kubevirt.io/kubevirt`, `pkg/virt-controller/services/template.go` and `nodeselectorrenderer.go`).
#[derive(Debug)]
pub(crate) struct Placement {
    /// `nodeSelector`: the labels and values that a node must have.
    pub(crate) selector: Vec<(String, String)>,
    /// The required node affinity: a node must match one of these terms. If there are none, every node matches.
    pub(super) terms: Vec<NodeSelectorTerm>,
    pub(super) tolerations: Vec<Toleration>,
}

/// The only node that a VirtualMachine may run on, if it chooses one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnlyNode<'p> {
    /// The node with this name.
    Named(&'p str),
    /// The node whose label `kubernetes.io/hostname` has this value, which may not be its name.
    WithHostname(&'p str),
}

impl Placement {
    /// The placement that Harvester makes of this one. Its mutator removes the expressions about its cluster networks and the
    /// CPU manager, and then each term that has no expressions left, even if it has fields. Then it adds expressions of its
    /// own to all terms. `adds` says whether it would add one about the label again. Source: `harvester/harvester`,
    /// `pkg/webhook/resources/virtualmachine/mutator.go`, `makeAffinityFromVMTemplate` and `addNodeSelectorTerms`.
    pub(super) fn on_harvester(mut self, adds: impl Fn(&str) -> bool) -> Self {
        let is_managed = |expression: &NodeSelectorRequirement| is_managed_by_harvester(&expression.key);
        let mut added: Vec<NodeSelectorRequirement> = Vec::new();
        for term in &mut self.terms {
            let all = term.match_expressions.take().unwrap_or_default();
            let (managed, own): (Vec<_>, Vec<_>) = all.into_iter().partition(is_managed);
            term.match_expressions = Some(own);
            added.extend(managed.into_iter().filter(|it| only_value(it) == Some("true") && adds(&it.key)));
        }
        self.terms.retain(|term| !expressions(term).is_empty());
        if self.terms.is_empty() && !added.is_empty() {
            self.terms.push(NodeSelectorTerm::default());
        }
        for term in &mut self.terms {
            term.match_expressions.get_or_insert_default().extend(added.iter().cloned());
        }
        self
    }

    /// The only node that the VirtualMachine may run on, if it chooses one. A name that no node can have is shortened, because
    /// messages contain it.
    pub(crate) fn only_node(&self) -> Option<OnlyNode<'_>> {
        self.chosen_node().map(|only| match only {
            OnlyNode::Named(name) if SUBDOMAIN.allows(name) => only,
            OnlyNode::Named(name) => OnlyNode::Named(beginning(name)),
            // The values of labels have at most 63 characters.
            OnlyNode::WithHostname(name) => OnlyNode::WithHostname(beginning(name)),
        })
    }

    fn chosen_node(&self) -> Option<OnlyNode<'_>> {
        let is_hostname = |(key, _): &&(String, String)| key == HOSTNAME_LABEL;
        if let Some((_, hostname)) = self.selector.iter().find(is_hostname) {
            return Some(OnlyNode::WithHostname(hostname));
        }
        let [term] = self.terms.as_slice() else { return None };
        let named = fields(term).iter().find_map(only_value).map(OnlyNode::Named);
        let hostnames = expressions(term).iter().filter(|expression| expression.key == HOSTNAME_LABEL);
        named.or_else(|| hostnames.filter_map(only_value).map(OnlyNode::WithHostname).next())
    }

    /// Whether the VirtualMachine can run only on nodes that have this label, with the value `true` or with any.
    pub(crate) fn requires(&self, label: &str) -> bool {
        let is_it = |expression: &NodeSelectorRequirement| {
            expression.key == label && (only_value(expression) == Some("true") || expression.operator == "Exists")
        };
        self.selector.iter().any(|(key, value)| key == label && value == "true")
            || !self.terms.is_empty() && self.terms.iter().all(|term| expressions(term).iter().any(is_it))
    }

    /// Whether the scheduler may place the VirtualMachine on the node at any time: it has the labels and no taint that
    /// keeps the VirtualMachine away. Whether it takes new pods now does not count ([`Node::is_ready`]).
    pub(crate) fn allows(&self, node: &Node) -> bool {
        let is_selected = self.selector.iter().all(|(key, value)| node.label(key) == Some(value));
        let is_tolerated = |taint: &Taint| self.tolerations.iter().any(|toleration| tolerates(toleration, taint));
        is_selected
            && (self.terms.is_empty() || self.terms.iter().any(|term| matches(term, node)))
            && node.lasting_taints().all(is_tolerated)
    }
}

/// How the keys of the labels start that say which cluster networks of Harvester a node has.
pub(super) const CLUSTER_NETWORK: &str = "network.harvesterhci.io";

/// Whether Harvester removes and adds expressions about the label. That of the CPU manager has another name since KubeVirt 1.8.
fn is_managed_by_harvester(label: &str) -> bool {
    label.starts_with(CLUSTER_NETWORK) || matches!(label, "cpumanager" | "kubevirt.io/cpumanager")
}

fn expressions(term: &NodeSelectorTerm) -> &[NodeSelectorRequirement] {
    term.match_expressions.as_deref().unwrap_or_default()
}

fn fields(term: &NodeSelectorTerm) -> &[NodeSelectorRequirement] {
    term.match_fields.as_deref().unwrap_or_default()
}

/// The value that a label or field must have, if only one is possible.
fn only_value(requirement: &NodeSelectorRequirement) -> Option<&str> {
    match (requirement.operator.as_str(), requirement.values.as_deref()) {
        ("In", Some([value])) => Some(value),
        _ => None,
    }
}

/// Whether a node matches a term. A term without requirements matches no node. Source: `k8s.io/component-helpers`,
/// `scheduling/corev1/nodeaffinity/nodeaffinity.go`.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let label = |requirement: &NodeSelectorRequirement| is_met(requirement, node.label(&requirement.key));
    // `metadata.name` is the only field.
    let field = |requirement: &NodeSelectorRequirement| is_met(requirement, Some(node.name()));
    let is_empty = expressions(term).is_empty() && fields(term).is_empty();
    !is_empty && expressions(term).iter().all(label) && fields(term).iter().all(field)
}

/// Whether a value, if there is one, is as required. Source: `k8s.io/apimachinery`, `pkg/labels/selector.go`,
/// `Requirement.Matches`.
fn is_met(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_listed = found.is_some_and(|found| values.iter().any(|value| value == found));
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        operator => match (found, values) {
            (Some(found), [bound]) => is_beyond(found, operator, bound),
            _ => false,
        },
    }
}

/// Whether the operator compares numbers, and they are as it says.
fn is_beyond(found: &str, operator: &str, bound: &str) -> bool {
    let (Ok(found), Ok(bound)) = (found.parse::<i64>(), bound.parse::<i64>()) else { return false };
    match operator {
        "Gt" => found > bound,
        "Lt" => found < bound,
        _ => false,
    }
}

/// Whether a toleration lets pods onto nodes with the taint. The operators that compare numbers are new in Kubernetes 1.35,
/// which refuses them if their feature gate is off. Source: `k8s.io/api`, `core/v1/toleration.go`, `ToleratesTaint`.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_any_or = |wanted: &Option<String>, found: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == found)
    };
    let value = toleration.value.as_deref().unwrap_or_default();
    let has_value = match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => taint.value == value,
        operator => is_beyond(&taint.value, operator, value),
    };
    is_any_or(&toleration.effect, &taint.effect) && is_any_or(&toleration.key, &taint.key) && has_value
}
