//! The names of host devices: what they say about a device, and those that are free.

use crate::features::feature::Context;
use crate::values::pci::PciAddress;
use crate::values::usb::UsbIds;
use crate::vm::entry::Entry;
use crate::vm::place::{GPU, HOST_DEVICE};
use crate::vm::{Device, ShapeError};

/// The node and the device in the name of one of Harvester's objects: the address of a PCIDevice, or the vendor and
/// product of a USBDevice.
pub(in crate::features) fn object(name: &str) -> Option<(&str, String)> {
    let usb = || UsbIds::of_usb_device(name).map(|(node, ids)| (node, ids.to_string()));
    PciAddress::of_pci_device(name).map(|(node, address)| (node, address.to_string())).or_else(usb)
}

/// The name of Harvester's object for a device on a node, if only one is possible.
pub(super) fn object_name(node: &str, device: &str) -> Option<String> {
    match device.parse::<PciAddress>() {
        Ok(address) => Some(format!("{node}-{}", address.compact())),
        Err(_) => object(device).map(|_| device.to_owned()),
    }
}

/// The host devices that the directive added before.
pub(super) fn our_devices<'c>(context: &'c Context<'_>) -> Vec<Device<'c>> {
    context.ours.iter().filter_map(|added| Device::of(&added.entry)).collect()
}

/// Those devices, and the VirtualMachine's other devices: its host devices, and its GPUs, because KubeVirt also takes a PCI
/// device as a GPU, and Harvester makes host devices of GPUs.
pub(super) fn all_devices(context: &Context<'_>) -> Result<Vec<Entry>, ShapeError> {
    let (vm, ours) = (context.vm, context.ours.iter().map(|added| &added.entry));
    let ours = ours.filter(|entry| entry.as_device().is_some()).cloned();
    let gpus = vm.gpus()?.into_iter().map(|gpu| GPU.entry(gpu.name, gpu.resource));
    Ok(ours.chain(vm.host_devices()?.iter().map(host_device)).chain(gpus).collect())
}

/// The device as an entry.
pub(super) fn host_device(device: &Device<'_>) -> Entry {
    HOST_DEVICE.entry(device.name, device.resource)
}

/// The prefix of the names that the policy gives USB devices.
pub(in crate::features) const USB_PREFIX: &str = "usb";

/// Whether a host device is a USB device. It is if its resource starts with `kubevirt.io/`, which Harvester and
/// KubeVirt use only for USB devices, or if it has a name that the policy gives USB devices.
pub(in crate::features) fn is_usb(device: &Device<'_>) -> bool {
    device.resource.starts_with("kubevirt.io/") || made_number(USB_PREFIX, device.name).is_some()
}

/// `count` names, `<prefix>-<n>`, for new devices of the VirtualMachine. Neither its devices nor those that the feature
/// added before have such a name. A name must be unused by both host devices and GPUs, because KubeVirt makes the
/// device's alias of it, and Harvester turns GPUs into host devices.
pub(in crate::features) fn free_names(
    prefix: &'static str,
    count: usize,
    context: &Context<'_>,
) -> Result<impl Iterator<Item = String>, ShapeError> {
    let devices = all_devices(context)?;
    let taken: Vec<usize> = devices.iter().filter_map(|entry| made_number(prefix, entry.as_device()?.0)).collect();
    let free = (0..).filter(move |number| !taken.contains(number)).take(count);
    Ok(free.map(move |number| format!("{prefix}-{number}")))
}

/// The number in a name that [`free_names`] makes.
fn made_number(prefix: &str, name: &str) -> Option<usize> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    // `parse` would also accept a sign or leading zeros.
    let is_written_so = digits == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    digits.parse().ok().filter(|_| is_written_so)
}
