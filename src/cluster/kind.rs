//! A kind of Kubernetes object that the policy may look up.

use std::collections::BTreeSet;

/// A kind of Kubernetes object that the policy may look up. Each is a static in the file of the API that serves it.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The API version, as in a manifest.
    pub api_version: &'static str,
    /// The kind, as in a manifest.
    pub name: &'static str,
    /// The plural, as in RBAC rules.
    pub plural: &'static str,
    /// The fields that the policy reads. The host removes all others, except the metadata.
    pub fields: &'static [&'static str],
    /// Whose API the kind is part of.
    pub provider: Provider,
    /// Whether the objects are in users' namespaces, so that permission for one namespace is enough.
    pub is_of_users: bool,
}

/// Whose API a kind is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Kubernetes itself, in every cluster.
    Kubernetes,
    /// KubeVirt.
    KubeVirt,
    /// Harvester's add-on for devices.
    PciDevices,
}

impl Kind {
    /// A kind whose objects are not in users' namespaces: the API version and the kind as in a manifest, the plural as in
    /// RBAC rules, and the fields that the policy reads.
    pub(super) const fn of(
        provider: Provider,
        api_version: &'static str,
        name: &'static str,
        plural: &'static str,
        fields: &'static [&'static str],
    ) -> Self {
        Self { api_version, name, plural, fields, provider, is_of_users: false }
    }

    /// The same kind, with its objects in users' namespaces.
    pub(super) const fn of_users(self) -> Self {
        Self { is_of_users: true, ..self }
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &'static str {
        self.api_version.split_once('/').map(|(group, _)| group).unwrap_or_default()
    }

    /// The fields that the policy reads, in the form that the SDK takes.
    pub(super) fn field_masks(&self) -> BTreeSet<String> {
        let mut masks = BTreeSet::new();
        masks.extend(self.fields.iter().map(|field| (*field).to_owned()));
        masks
    }

    /// The plural with its group, as `kubectl` takes it.
    pub(super) fn resource(&self) -> String {
        match self.group() {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

impl Provider {
    /// The provider's name in a message.
    pub(super) fn name(self) -> &'static str {
        match self {
            Provider::Kubernetes => "Kubernetes",
            Provider::KubeVirt => "KubeVirt",
            Provider::PciDevices => "Harvester's add-on pcidevices-controller",
        }
    }
}
