//! Which nodes a VirtualMachine may run on, with what its specification does not say yet.

use std::cell::OnceCell;

use serde_json::Value;

use super::feature::Context;
use super::host_devices::{HostDeviceSettings, object};
use super::record::MAX_PART;
use crate::cluster::access::{Access, Verbs};
use crate::cluster::{AMD64, ARCHITECTURE_LABEL, KUBEVIRT, NODE, Node};
use crate::directives::Asked;
use crate::vm::{OnlyNode, Placement};

/// The lookup of [`Context::default_architecture`].
pub(super) const DEFAULT_ARCHITECTURE: Access = Access {
    kinds: &[&KUBEVIRT],
    verbs: Verbs::Get,
    what: "the default architecture, if the VM names none and a node is not of amd64",
    without: "nodes of every architecture count",
    needed: &[],
};

/// The nodes that a VirtualMachine may run on: as it says itself, of the architecture that KubeVirt gives it, and as a directive
/// for devices says that cannot be applied.
pub(super) struct AllowedNodes<'a> {
    placement: Placement,
    context: &'a Context<'a>,
    /// The architecture that KubeVirt gives the VirtualMachine, once a node is checked.
    architecture: OnceCell<Option<String>>,
    /// The node that a directive for devices names. It has to be corrected, and then the VirtualMachine runs there.
    named: Option<String>,
}

impl<'a> AllowedNodes<'a> {
    pub(super) fn new(placement: Placement, context: &'a Context<'a>) -> Self {
        let allowed = Self { placement, context, architecture: OnceCell::new(), named: None };
        let named = allowed.only_node().is_none().then(|| node_of_failing(context)).flatten();
        // A name that is itself the mistake does not count.
        let is_possible = |name: &String| match context.node(OnlyNode::Named(name)) {
            Ok(Some(node)) => allowed.allows(&node),
            Ok(None) => false,
            Err(_) => true,
        };
        let named = named.filter(is_possible);
        Self { named, ..allowed }
    }

    /// The only node that the VirtualMachine may run on, if it chooses one.
    pub(super) fn only_node(&self) -> Option<OnlyNode<'_>> {
        self.placement.only_node().or(self.named.as_deref().map(OnlyNode::Named))
    }

    /// Whether the VirtualMachine can run only on nodes where this label is `true`.
    pub(super) fn requires(&self, label: &str) -> bool {
        self.placement.requires(label)
    }

    /// Whether the scheduler may place the VirtualMachine on the node at any time ([`Placement::allows`]).
    pub(super) fn allows(&self, node: &Node) -> bool {
        self.named.as_ref().is_none_or(|named| named == node.name())
            && self.placement.allows(node)
            && self.has_default_architecture(node)
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

/// The node that a directive for devices names and would pin the VirtualMachine to, if the directive cannot be applied.
fn node_of_failing(context: &Context<'_>) -> Option<String> {
    let Context { settings, failing, .. } = context;
    let features =
        [("pci-passthrough", &settings.pci_passthrough.host), ("usb-passthrough", &settings.usb_passthrough.host)];
    let pins = |settings: &HostDeviceSettings| settings.pin_to_node || settings.has_rules();
    let mut failing = features.into_iter().filter(|(name, settings)| failing.contains(name) && pins(settings));
    failing.find_map(|(name, _)| named_node(name, context))
}

/// The node that a directive for devices names, in a device such as `node1/0000:01:00.0` or in Harvester's name for one.
pub(super) fn named_node(directive: &'static str, context: &Context<'_>) -> Option<String> {
    let Asked::Yes(directive) = context.directives.get(directive) else { return None };
    // A longer one is not applied, because it does not fit into the record. Many features ask for the node.
    let text = directive.text().ok().filter(|text| text.len() <= MAX_PART)?;
    let value: Value = serde_json::from_str(text).ok()?;
    let node_of = |device: &str| {
        let with_slash = device.rsplit_once('/').map(|(node, _)| node);
        with_slash.or_else(|| object(device).map(|(node, _)| node)).map(str::to_owned)
    };
    value.get("devices")?.as_array()?.iter().filter_map(Value::as_str).find_map(node_of)
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
