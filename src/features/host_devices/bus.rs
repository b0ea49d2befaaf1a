//! What tells PCI devices from USB devices, as data.

use crate::cluster::Kind;
use crate::features::feature::Context;
use crate::vm::Device;

/// What tells the devices of one bus from those of another.
#[derive(Debug)]
pub(in crate::features) struct Bus {
    /// PCI or USB, as in Harvester's UI.
    pub(in crate::features) name: &'static str,
    /// What a message calls the text for a device.
    pub(in crate::features) notation: &'static str,
    /// Such a text.
    pub(in crate::features) example: &'static str,
    /// The section of the settings.
    pub(in crate::features) settings: &'static str,
    /// Harvester's objects for the devices.
    pub(in crate::features) objects: &'static Kind,
    /// Harvester's objects for the claims.
    pub(in crate::features) claims: &'static Kind,
    /// Whether the claims say which devices are passed through. If not, the devices do.
    pub(in crate::features) claims_enable: bool,
    /// Whether the name of an object says no more than the node and the device, so that it means the same device for ever. The name
    /// of a USBDevice also says where it is plugged in, which tells it from others of its kind.
    pub(in crate::features) name_is_address: bool,
    /// Reads the text for a device, and writes it in its one form. The error is in words.
    pub(in crate::features) read: fn(&str) -> Result<String, String>,
    /// Whether the setting `maxDevices` counts a host device.
    pub(in crate::features) counts: fn(&Device<'_>) -> bool,
    /// What a message calls the devices that are counted.
    pub(in crate::features) counted: &'static str,
    /// The resource for each of these devices on a cluster without Harvester.
    pub(in crate::features) resources: fn(&[String], &Context<'_>) -> anyhow::Result<Vec<String>>,
    /// The prefix of the names that devices get there.
    pub(in crate::features) prefix: &'static str,
    /// What is wrong with devices there, if anything.
    pub(in crate::features) warning: Option<&'static str>,
    /// What an administrator may do if there is no Harvester.
    pub(in crate::features) remedy: Option<&'static str>,
}
