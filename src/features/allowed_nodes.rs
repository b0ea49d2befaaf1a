//! Which nodes a VirtualMachine may run on, with what its specification does not say.

use std::cell::OnceCell;

use super::feature::Context;
use crate::cluster::access::{Access, Verbs};
use crate::cluster::{AMD64, ARCHITECTURE_LABEL, KUBEVIRT, NODE, Node};
use crate::vm::{OnlyNode, Placement};

/// The lookup of [`Context::default_architecture`].
pub(super) const DEFAULT_ARCHITECTURE: Access = Access {
    kinds: &[&KUBEVIRT],
    verbs: Verbs::Get,
    what: "the default architecture, if the VM names none and a node is not of amd64",
    without: "nodes of every architecture count",
    needed: &[],
};

/// The nodes that a VirtualMachine may run on, as it says itself, and of the architecture that KubeVirt gives it.
pub(super) struct AllowedNodes<'a> {
    placement: Placement,
    context: &'a Context<'a>,
    /// The architecture that KubeVirt gives the VirtualMachine, once a node is checked.
    architecture: OnceCell<Option<String>>,
}

impl<'a> AllowedNodes<'a> {
    pub(super) fn new(placement: Placement, context: &'a Context<'a>) -> Self {
        Self { placement, context, architecture: OnceCell::new() }
    }

    /// The only node that the VirtualMachine may run on, if it chooses one.
    pub(super) fn only_node(&self) -> Option<OnlyNode<'_>> {
        self.placement.only_node()
    }

    /// Whether the VirtualMachine can run only on nodes where this label is `true`.
    pub(super) fn requires(&self, label: &str) -> bool {
        self.placement.requires(label)
    }

    /// Whether the scheduler may place the VirtualMachine on the node at any time ([`Placement::allows`]).
    pub(super) fn allows(&self, node: &Node) -> bool {
        self.placement.allows(node) && self.has_default_architecture(node)
    }

    /// Whether the node has the architecture that KubeVirt gives the VirtualMachine, as far as both are known. KubeVirt makes a node
    /// selector of it. Sources: `pkg/defaults/defaults.go`, `setDefaultArchitecture`;
    /// `pkg/virt-controller/services/nodeselectorrenderer.go`. If all nodes are of amd64, KubeVirt is not asked.
    fn has_default_architecture(&self, node: &Node) -> bool {
        let Some(found) = node.label(ARCHITECTURE_LABEL) else { return true };
        let is_other = |node: &Node| node.label(ARCHITECTURE_LABEL).is_some_and(|found| found != AMD64);
        let is_any_other =
            || is_other(node) || self.context.lookups.listed::<Node>(&NODE).iter().any(|node| is_other(node));
        let look_up = || if is_any_other() { self.context.default_architecture() } else { None };
        self.architecture.get_or_init(look_up).as_ref().is_none_or(|wanted| wanted == found)
    }
}

impl Context<'_> {
    /// The architecture that KubeVirt gives the VirtualMachine, if the VirtualMachine leaves it to KubeVirt and KubeVirt's object
    /// can be read.
    pub(super) fn default_architecture(&self) -> Option<String> {
        let kubevirt = if self.vm.takes_default_architecture() { self.lookups.kubevirt().ok() } else { None };
        let architecture = kubevirt.map(|kubevirt| kubevirt.default_architecture.to_ascii_lowercase());
        architecture.filter(|architecture| !architecture.is_empty())
    }
}
