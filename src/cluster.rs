//! What the policy may look up in the cluster, as the slim types that it needs, and how a lookup fails.
//! No feature is known here.

use std::collections::BTreeMap;

/// What the policy may look up.
pub trait Cluster {
    /// A node by its name.
    ///
    /// # Errors
    /// [`LookupError`] where it cannot be had.
    fn node(&self, name: &str) -> Result<Node, LookupError>;

    /// All nodes.
    ///
    /// # Errors
    /// [`LookupError`] where they cannot be had.
    fn nodes(&self) -> Result<Vec<Node>, LookupError>;

    /// All of Harvester's PCI devices.
    ///
    /// # Errors
    /// [`LookupError`] where they cannot be had.
    fn pci_devices(&self) -> Result<Vec<PciDevice>, LookupError>;
}

/// A Kubernetes node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A PCI device of a node (`devices.harvesterhci.io/v1beta1`, `PCIDevice`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciDevice {
    /// Its name, made of the node's name and the address.
    pub name: String,
    /// `status.address`.
    pub address: String,
    /// `status.nodeName`.
    pub node: String,
    /// `status.resourceName`: the extended resource that stands for devices of its kind.
    pub resource_name: String,
}

/// Why a lookup failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no such object.
    #[error("there is no such object")]
    NotFound,
    /// The cluster has no such kind of object.
    #[error("the cluster does not serve this kind of object")]
    KindNotServed,
    /// Kubewarden or Kubernetes does not let the policy look it up.
    #[error("the policy has not been granted access")]
    NotGranted,
    /// The API server does not answer, or not as expected.
    #[error("the lookup failed for now")]
    Unavailable,
}

/// The cluster of a policy that has been granted nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingGranted;

impl Cluster for NothingGranted {
    fn node(&self, _name: &str) -> Result<Node, LookupError> {
        Err(LookupError::NotGranted)
    }

    fn nodes(&self) -> Result<Vec<Node>, LookupError> {
        Err(LookupError::NotGranted)
    }

    fn pci_devices(&self) -> Result<Vec<PciDevice>, LookupError> {
        Err(LookupError::NotGranted)
    }
}
