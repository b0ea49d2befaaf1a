//! Which device of a VirtualMachine gets the ROM. The hook finds it when the VM starts, by its name or its PCI address.

use std::rc::Rc;

use super::DEVICE_OPTION;
use super::error::VbiosError;
use super::rom::Rom;
use super::sidecar::DEVICES;
use crate::cluster::{HostDevice, KubeVirt, PCI_DEVICE};
use crate::features::feature::Context;
use crate::features::host_devices::{has_device_rules, is_usb};
use crate::text;
use crate::values::pci::{PciAddress, PciSelector};
use crate::values::usb::UsbIds;
use crate::vm::place::HOOK_SIDECAR;
use crate::vm::{Device, ShapeError, Sidecars, VirtualMachine, argument_of};

/// The device that gets the ROM.
pub(super) struct Target<'v> {
    /// The names and addresses that the hook looks for, in the form that its program takes.
    pub(super) names: String,
    /// The device, if the VirtualMachine has it.
    pub(super) device: Option<Device<'v>>,
}

/// The devices of a VirtualMachine.
pub(super) struct Devices<'v> {
    host_devices: Vec<Device<'v>>,
    gpus: Vec<Device<'v>>,
}

impl<'v> Devices<'v> {
    /// Reads the devices.
    pub(super) fn of(vm: &'v VirtualMachine) -> Result<Self, ShapeError> {
        Ok(Self { host_devices: vm.host_devices()?, gpus: vm.gpus()? })
    }
}

/// Matches the only device, whatever its name: Harvester may rename it.
const ONLY: &str = "*";

/// Matches the only device, or none.
pub(super) const ANY: &str = "?";

/// The directives that bring devices which may have a ROM.
const BRINGERS: [&str; 2] = ["pci-passthrough", "gpu-device-plugin"];

/// The most devices of which the policy looks up what they are.
const LOOKED_UP: usize = 16;

/// The device that the option names, the VirtualMachine's only device, or the one that the ROM is for.
pub(super) fn target<'v>(
    rom: &Rom,
    Devices { host_devices, gpus }: &Devices<'v>,
    sidecars: &Sidecars<'_>,
    context: &Context<'v>,
) -> anyhow::Result<Target<'v>> {
    let all = [host_devices.as_slice(), gpus].concat();
    let mut devices = all.clone();
    devices.retain(|device| !is_of_another_kind(device, context));
    if let Some(option) = context.directives.option(DEVICE_OPTION)? {
        return named(option, &devices, rom, sidecars, context);
    }
    // An instance type may add devices, too.
    let has_instance_type = context.vm.has_instance_type();
    let is_known = |device: &Device<'_>| gpus.contains(device) || !is_unknown(device, context);
    if devices.len() > 1 {
        devices.retain(is_known);
    }
    match devices.as_slice() {
        [] if has_instance_type => Ok(Target { names: ONLY.to_owned(), device: None }),
        [] => match waits_for(context) {
            Some(feature) => Err(VbiosError::Waits(feature).into()),
            None if all.is_empty() => Ok(Target { names: ANY.to_owned(), device: None }),
            None => Err(VbiosError::NoPciDevice { devices: names(&all) }.into()),
        },
        [device] => {
            let target = to_target(*device, device.name, ONLY)?;
            let is_other = || other_ids(rom, *device, context).is_some();
            if let Some(feature) = waits_for(context).filter(|_| is_other()) {
                return Err(VbiosError::Waits(feature).into());
            }
            match is_known(device) || has_instance_type {
                true => Ok(target),
                false => Err(VbiosError::NoPciDevice { devices: names(&all) }.into()),
            }
        }
        devices => {
            let told = told_by_ids(devices, rom, context);
            // There was only one device when the ROM was added. Harvester added the others because they share its IOMMU
            // group.
            let before = || devices.iter().find(|device| was_for(device.name, sidecars, context)).copied();
            let found = told.or_else(before).or_else(|| told_by_class(devices, rom, context));
            let device = found.ok_or_else(|| VbiosError::SeveralDevices { devices: names(devices) })?;
            to_target(device, device.name, ONLY)
        }
    }
}

fn names(devices: &[Device<'_>]) -> String {
    match devices {
        [] => "none".to_owned(),
        devices => text::list(&devices.iter().map(|device| device.name).collect::<Vec<_>>()),
    }
}

/// A directive that fails, and would have brought a device.
fn waits_for(context: &Context<'_>) -> Option<&'static str> {
    context.failing.iter().copied().find(|feature| BRINGERS.contains(feature))
}

fn kubevirt_says(context: &Context<'_>, says: impl FnOnce(&KubeVirt) -> bool) -> bool {
    context.lookups.kubevirt().is_ok_and(|kubevirt| says(&kubevirt))
}

/// Whether a device is a USB device or a mediated device, by its name or as KubeVirt's object says.
fn is_of_another_kind(device: &Device<'_>, context: &Context<'_>) -> bool {
    let is_other = || kubevirt_says(context, |kubevirt| kubevirt.serves_other_device(device.resource));
    is_usb(device) || UsbIds::of_usb_device(device.name).is_some() || address_of(device).is_none() && is_other()
}

/// Whether neither KubeVirt nor Harvester knows a PCI device of this resource, so that the guest gets none. Harvester
/// refuses it then: `pkg/webhook/vm_validatation.go:115` of pcidevices. A device with a claim for DRA has no resource.
fn is_unknown(device: &Device<'_>, context: &Context<'_>) -> bool {
    let resource = device.resource;
    if address_of(device).is_some()
        || resource.is_empty()
        || kubevirt_says(context, |kubevirt| kubevirt.serves_pci_device(resource))
    {
        return false;
    }
    let devices = context.lookups.devices(&PCI_DEVICE).unwrap_or_default();
    devices.values().all(|device| device.resource() != resource)
        && (!devices.is_empty() || kubevirt_says(context, KubeVirt::limits_devices))
}

/// The only device whose ids are in the ROM.
fn told_by_ids<'v>(devices: &[Device<'v>], rom: &Rom, context: &Context<'_>) -> Option<Device<'v>> {
    let is_for = |device: &&Device<'_>| ids_of(device, context).is_some_and(|ids| rom.is_for(&ids));
    only(devices.iter().take(LOOKED_UP).filter(is_for))
}

/// The only display device, if all devices are known, and the ROM is for none of them: firmware is also given to similar devices.
fn told_by_class<'v>(devices: &[Device<'v>], rom: &Rom, context: &Context<'_>) -> Option<Device<'v>> {
    if devices.len() > LOOKED_UP {
        return None;
    }
    let found = devices.iter().map(|device| Some((device, pci_device(device, context)?)));
    let found = found.collect::<Option<Vec<_>>>()?;
    let is_for_one = found.iter().any(|(_, pci_device)| rom.is_for(&pci_device.ids()));
    let displays = found.iter().filter(|(_, pci_device)| pci_device.is_display());
    only(displays.map(|(device, _)| *device)).filter(|_| !is_for_one)
}

fn only<'d, 'v: 'd>(mut devices: impl Iterator<Item = &'d Device<'v>>) -> Option<Device<'v>> {
    let device = devices.next()?;
    devices.next().is_none().then_some(*device)
}

/// What the option says about a device that it does not name as the VirtualMachine does: text as pci-passthrough takes it.
struct Wanted<'o> {
    node: Option<&'o str>,
    what: PciSelector,
}

impl<'o> Wanted<'o> {
    fn read(option: &'o str) -> Option<Self> {
        if let Some((node, address)) = PciAddress::of_pci_device(option) {
            return Some(Self { node: Some(node), what: PciSelector::Function(address) });
        }
        let (node, text) = option.rsplit_once('/').map_or((None, option), |(node, text)| (Some(node), text));
        Some(Self { node, what: text.parse().ok()? })
    }

    fn is(&self, device: &Device<'_>, context: &Context<'_>) -> bool {
        let node = PciAddress::of_pci_device(device.name).map(|(node, _)| node);
        let is_on_node = self.node.zip(node).is_none_or(|(wanted, node)| wanted == node);
        is_on_node
            && match &self.what {
                PciSelector::Function(address) => address_of(device) == Some(*address),
                PciSelector::AllFunctions(first) => {
                    address_of(device).is_some_and(|address| address.is_of_same_device_as(*first))
                }
                PciSelector::Ids(ids) => ids_of(device, context) == Some(ids.to_string()),
            }
    }
}

/// The device that the option names.
fn named<'v>(
    option: &'v str,
    devices: &[Device<'v>],
    rom: &Rom,
    sidecars: &Sidecars<'_>,
    context: &Context<'v>,
) -> anyhow::Result<Target<'v>> {
    if let Some(device) = devices.iter().find(|device| device.name == option) {
        return to_target(*device, device.name, "");
    }
    let wanted = Wanted::read(option);
    let found: Vec<Device<'v>> = match &wanted {
        Some(wanted) => devices.iter().take(LOOKED_UP).filter(|device| wanted.is(device, context)).copied().collect(),
        None => Vec::new(),
    };
    let what = wanted.map(|wanted| wanted.what);
    match (found.as_slice(), &what) {
        ([device, ..], Some(PciSelector::Function(address))) => {
            return to_target(*device, &address.to_string(), device.name);
        }
        ([device], _) => return to_target(*device, device.name, ""),
        ([_, ..], _) => {
            let told = told_by_ids(&found, rom, context).or_else(|| told_by_class(&found, rom, context));
            let device = told.ok_or_else(|| VbiosError::SeveralDevices { devices: names(&found) })?;
            return to_target(device, device.name, "");
        }
        ([], _) => {}
    }
    // Harvester may have renamed the device that the option named.
    let address = match &what {
        Some(PciSelector::Function(address)) => Some(address.to_string()),
        _ => None,
    };
    if !context.is_requested || address.as_deref().is_some_and(|address| was_for(address, sidecars, context)) {
        let renamed = devices.iter().find(|device| was_for(device.name, sidecars, context)).copied();
        if let Some(device) = renamed.or_else(|| told_by_ids(devices, rom, context)) {
            return match address {
                None => to_target(device, device.name, ""),
                Some(address) => to_target(device, &address, device.name),
            };
        }
    }
    let has_instance_type = context.vm.has_instance_type();
    if let Some(PciSelector::Function(address)) = what {
        // If the policy does not know the address of a device, the hook finds it when the VM starts.
        if has_instance_type || devices.iter().any(|device| address_of(device).is_none()) {
            return Ok(Target { names: address.to_string(), device: None });
        }
    } else if has_instance_type {
        return match what {
            Some(_) => Ok(Target { names: ONLY.to_owned(), device: None }),
            None => to_target(Device { name: option, resource: "" }, option, ""),
        };
    }
    match waits_for(context) {
        Some(feature) => Err(VbiosError::Waits(feature).into()),
        None => Err(VbiosError::NoSuchDevice { value: option.to_owned(), devices: names(devices) }.into()),
    }
}

/// Whether the VirtualMachine's sidecar looks for a device of this name.
fn was_for(device: &str, sidecars: &Sidecars<'_>, context: &Context<'_>) -> bool {
    let ours = context.ours.iter().find(|added| added.entry.place == &HOOK_SIDECAR);
    let sidecar = ours.map(|added| added.entry.value.as_str()).or_else(|| sidecars.of_policy());
    let devices = sidecar.and_then(|json| argument_of(json, DEVICES)).unwrap_or_default();
    devices.split(' ').any(|name| name == device)
}

/// Checks that the hook can look for the names: it splits its argument at spaces, and reads `*` and `?` as wildcards.
fn to_target<'v>(device: Device<'v>, first: &str, second: &str) -> anyhow::Result<Target<'v>> {
    if first.is_empty() || first.contains([' ', '\t', '\n', '*', '?']) {
        return Err(VbiosError::DeviceName { name: first.to_owned() }.into());
    }
    Ok(Target { names: format!("{first} {second}").trim_end().to_owned(), device: Some(device) })
}

/// The device's address, if its name or resource contains it.
fn address_of(device: &Device<'_>) -> Option<PciAddress> {
    let of_name = PciAddress::of_pci_device(device.name).map(|(_, address)| address);
    of_name.or_else(|| PciAddress::of_device_name(device.resource))
}

/// Harvester's PCIDevice that a device is named after.
fn pci_device(device: &Device<'_>, context: &Context<'_>) -> Option<Rc<HostDevice>> {
    PciAddress::of_pci_device(device.name)?;
    context.lookups.device(&PCI_DEVICE, device.name).ok()
}

/// The vendor and device ids of a device, as Harvester or KubeVirt has them.
fn ids_of(device: &Device<'_>, context: &Context<'_>) -> Option<String> {
    match pci_device(device, context) {
        Some(pci_device) => Some(pci_device.ids().to_ascii_lowercase()),
        None => context.lookups.kubevirt().ok()?.pci_ids(device.resource),
    }
}

/// The ids of a device, if they are known, and the ROM does not have them.
fn other_ids(rom: &Rom, device: Device<'_>, context: &Context<'_>) -> Option<String> {
    ids_of(&device, context).filter(|ids| !rom.is_for(ids))
}

/// Warns if the ROM is made for another device than the one that gets it. A BIOS compares the ids in its image with the
/// device's (SeaBIOS, `src/optionroms.c`, `map_pcirom`). UEFI does not compare those of an image for EFI (EDK II,
/// `PciOptionRomSupport.c`, `ContainEfiImage`), and such an image may have ids that no device has.
pub(super) fn mismatch(rom: &Rom, device: Device<'_>, context: &Context<'_>) -> Option<String> {
    let (vendor, id) = rom.bios?;
    let ids = other_ids(rom, device, context)?;
    // The name may be that of a device which the VirtualMachine may not have.
    let ids = if has_device_rules(context.settings) { String::new() } else { format!(" ({ids})") };
    Some(format!(
        "the ROM says that it is for the device {vendor:04x}:{id:04x}, but it goes to {}{ids}; use a ROM of that device",
        text::list(&[device.name])
    ))
}
