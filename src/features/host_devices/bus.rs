//! The differences between PCI devices and USB devices, as data.

use crate::cluster::Kind;
use crate::features::Settings;
use crate::features::feature::Context;
use crate::settings::FeatureSettings;
use crate::vm::Device;

/// A kind of bus, and how its devices differ from those of the other.
#[derive(Debug)]
pub(in crate::features) struct Bus {
    /// PCI or USB, as in Harvester's UI.
    pub(in crate::features) name: &'static str,
    /// What a message calls the text that identifies a device.
    pub(in crate::features) notation: &'static str,
    /// An example of such a text.
    pub(in crate::features) example: &'static str,
    /// The directive for the devices of the other kind of bus. All host devices must be on one node.
    pub(in crate::features) partner: Partner,
    /// The section of the settings.
    pub(in crate::features) settings: &'static str,
    /// The kind of Harvester's objects for the devices.
    pub(in crate::features) objects: &'static Kind,
    /// The kind of Harvester's objects for the claims.
    pub(in crate::features) claims: &'static Kind,
    /// Whether the claims say which devices are passed through. Otherwise, the devices themselves say so.
    pub(in crate::features) claims_enable: bool,
    /// Whether the name of an object contains only the node and the device, so that it always means the same device.
    /// The name of a USBDevice also says where it is plugged in, because a node may have several devices of the same type.
    pub(in crate::features) name_is_address: bool,
    /// Reads the text that identifies a device, and returns its canonical form. The error is a phrase for a message.
    pub(in crate::features) read: fn(&str) -> Result<String, String>,
    /// Whether a text of this form, twice in a directive, means two devices.
    pub(in crate::features) is_countable: fn(&str) -> bool,
    /// Whether a host device counts toward the setting `maxDevices`.
    pub(in crate::features) counts: fn(&Device<'_>) -> bool,
    /// What a message calls the devices that are counted.
    pub(in crate::features) counted: &'static str,
    /// The resource for a device, in a cluster without Harvester. The text says why Harvester's devices are not used.
    pub(in crate::features) resource: fn(&str, &str, &Context<'_>) -> anyhow::Result<String>,
    /// Where KubeVirt lists the devices that it permits in such a cluster.
    pub(in crate::features) permitted: &'static str,
    /// The prefix for the names of devices in a cluster without Harvester.
    pub(in crate::features) prefix: &'static str,
    /// What an administrator can do in a cluster without Harvester.
    pub(in crate::features) remedy: Option<&'static str>,
}

/// The directive for the devices of the other kind of bus.
#[derive(Debug)]
pub(in crate::features) struct Partner {
    /// The directive.
    pub(in crate::features) name: &'static str,
    /// Its part of the settings.
    pub(in crate::features) settings: fn(&Settings) -> &FeatureSettings,
    /// Whether it is planned first. If both name a node, its node counts.
    pub(in crate::features) is_first: bool,
}
