//! The differences between PCI devices and USB devices, as data.

use crate::cluster::Kind;
use crate::features::feature::Context;
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
    /// Whether a host device counts toward the setting `maxDevices`.
    pub(in crate::features) counts: fn(&Device<'_>) -> bool,
    /// What a message calls the devices that are counted.
    pub(in crate::features) counted: &'static str,
    /// The resource for each of these devices, in a cluster without Harvester.
    pub(in crate::features) resources: fn(&[String], &Context<'_>) -> anyhow::Result<Vec<String>>,
    /// The prefix for the names of devices in a cluster without Harvester.
    pub(in crate::features) prefix: &'static str,
    /// A warning about devices in a cluster without Harvester, if they have a problem.
    pub(in crate::features) warning: Option<&'static str>,
    /// What an administrator can do in a cluster without Harvester.
    pub(in crate::features) remedy: Option<&'static str>,
}
