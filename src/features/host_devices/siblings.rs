//! The devices that Harvester adds because of others.

use std::rc::Rc;

use super::names::{is_usb, our_devices};
use crate::cluster::{ClusterError, HostDevice, LookupError, Lookups, PCI_DEVICE};
use crate::directives::Asked;
use crate::features::feature::{Context, Plan};
use crate::features::record::Recorded;
use crate::features::switch::is_off;
use crate::settings::FeatureSettings;
use crate::text;
use crate::values::pci::PciAddress;
use crate::vm::entry::Entry;
use crate::vm::place::HOST_DEVICE;
use crate::vm::{Device, ShapeError, VirtualMachine};

/// The most devices that are looked up one by one.
const LISTED: usize = 8;

/// The devices that Harvester added because they share an IOMMU group with those of a feature. Harvester does this when
/// a VirtualMachine is created. Source: `harvester/pcidevices`, `pkg/webhook/vm.go`.
///
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    /// Each with the names of the feature's devices in its group.
    found: Vec<(Entry, Vec<String>)>,
    /// The names of devices of which that is not certain: they are in no group of a device of the feature, or devices were
    /// renamed or removed while the policy could not be called.
    pub(crate) doubtful: Vec<String>,
}

impl Siblings {
    /// Finds the siblings of the devices in `gone` among the VirtualMachine's devices that nobody is known to have asked
    /// for. If there are no such devices, nothing is looked up. `ours` are the devices that the policy added, with
    /// those in `gone`, and `before` is the VirtualMachine before this update. The error has the names of devices that may be siblings, if PCI devices cannot be looked up.
    pub(crate) fn find(
        gone: &[&Recorded],
        ours: &[&Recorded],
        vm: &VirtualMachine,
        before: Option<&VirtualMachine>,
        is_declared: impl Fn(&Entry) -> bool,
        lookups: &Lookups<'_>,
    ) -> Result<Self, (Vec<String>, LookupError)> {
        let mut gone = gone.to_vec();
        gone.retain(|added| is_pci_device(&added.entry));
        let shares_node = |name: &str| gone.iter().any(|added| node_of(name_of(&added.entry)) == node_of(name));
        let was_beside = |name: &str, added: &Recorded| added.beside.iter().any(|other| other == name);
        let may_be_sibling = |entry: &Entry| {
            let name = name_of(entry);
            shares_node(name)
                && ours.iter().all(|added| added.entry != *entry)
                && !gone.iter().all(|added| was_beside(name, added))
                && !is_declared(entry)
        };
        // With more devices than a guest can have, the VirtualMachine cannot start.
        let mut candidates = if vm.host_devices().is_ok() { vm.entries(&HOST_DEVICE) } else { Vec::new() };
        candidates.retain(|entry| is_pci_device(entry) && may_be_sibling(entry));
        if candidates.is_empty() {
            return Ok(Self::default());
        }
        let devices = match lookups.devices(&PCI_DEVICE) {
            Ok(devices) => devices,
            // Only Harvester adds devices.
            Err(error) if error.cause == ClusterError::KindNotServed => return Ok(Self::default()),
            Err(error) => return Err((candidates.into_iter().map(|entry| entry.name).collect(), error)),
        };
        let group_of = |entry: &Entry| devices.get(name_of(entry))?.iommu_group();
        // A name of no device was changed while the policy could not be called, and any other device may be that one now.
        let mut there = before.and_then(|vm| vm.host_devices().ok()).unwrap_or_default();
        there.append(&mut vm.host_devices().unwrap_or_default());
        let is_there = |name: &String| there.iter().any(|device| device.name == name);
        let is_sure = gone.iter().all(|added| added.beside.iter().all(is_there));
        let mut siblings = Self::default();
        for entry in candidates {
            let group = group_of(&entry);
            let has_group = |added: &&Recorded| group.is_some() && group_of(&added.entry) == group;
            let devices: Vec<&Recorded> = ours.iter().copied().filter(has_group).collect();
            // Harvester did not add a device that was already there when each of the feature's devices was added.
            if devices.is_empty() || !is_sure {
                siblings.doubtful.push(entry.name);
            } else if !devices.iter().all(|added| was_beside(name_of(&entry), added)) {
                let names = devices.iter().map(|added| name_of(&added.entry).to_owned()).collect();
                siblings.found.push((entry, names));
            }
        }
        Ok(siblings)
    }

    /// The siblings to remove, because none of the remaining devices is in their group.
    pub(crate) fn without_those_of<'s>(&'s self, staying: &'s [&Recorded]) -> impl Iterator<Item = &'s Entry> {
        let is_staying = |name: &String| staying.iter().any(|added| name_of(&added.entry) == name);
        self.found.iter().filter(move |(_, devices)| !devices.iter().any(is_staying)).map(|(entry, _)| entry)
    }
}

/// Whether an entry has a name that Harvester gives PCI devices.
pub(crate) fn is_pci_device(entry: &Entry) -> bool {
    node_of(name_of(entry)).is_some()
}

/// Whether Harvester gives PCI devices such names.
pub(crate) fn is_pci_device_name(name: &str) -> bool {
    node_of(name).is_some()
}

/// The name of a device; empty if the entry is not a device.
fn name_of(entry: &Entry) -> &str {
    entry.as_device().map(|(name, _)| name).unwrap_or_default()
}

/// The node of a PCIDevice, taken from its name.
fn node_of(name: &str) -> Option<&str> {
    PciAddress::of_pci_device(name).map(|(node, _)| node)
}

/// The PCI devices that share an IOMMU group with one of the devices `of`, and are not among those that the
/// VirtualMachine will have: they must go with it, but Harvester does not add them, or adds them once for each of several.
/// Harvester adds them only to a new VirtualMachine, only because of host devices, and only if all host devices are PCI
/// devices; the directive for other host devices may follow. If the devices cannot be listed, only those count that the
/// directive added before. Source: `harvester/pcidevices`, `pkg/webhook/vm.go`, `generateHostDevicesPatch`.
pub(super) fn missing(of: &[&str], plan: &Plan, context: &Context<'_>) -> Result<Vec<Rc<HostDevice>>, ShapeError> {
    let gpus = context.vm.gpus()?;
    let mut names: Vec<&str> = context.vm.host_devices()?.iter().chain(&gpus).map(|device| device.name).collect();
    names.extend(plan.devices());
    let names = text::unique(names);
    let is_pci = |name: &str| node_of(name).is_some();
    let is_gpu = |name: &str| gpus.iter().any(|gpu| gpu.name == name);
    let settings = context.settings;
    let is_asked = |directive, settings: &FeatureSettings| match context.directives.get(directive) {
        Asked::Yes(directive) => settings.enabled && !is_off(&directive),
        Asked::No | Asked::Unreadable => false,
    };
    // What the policy wrote for Harvester once stays the policy's.
    let ours = our_devices(context);
    let may_be_added = context.old.is_none()
        && ours.iter().all(|ours| names.contains(&ours.name))
        && names.iter().all(|name| is_pci(name) || is_gpu(name))
        && !is_asked("usb-passthrough", &settings.usb_passthrough.host.feature)
        && !is_asked("gpu-device-plugin", &settings.gpu_device_plugin.feature);
    // A single host device needs no lookup.
    if may_be_added && names.len() < 2 && gpus.is_empty() || !names.iter().any(|name| is_pci(name)) {
        return Ok(Vec::new());
    }
    if names.len() > LISTED {
        // One lookup instead of many. If the devices cannot be listed, each is looked up.
        drop(context.lookups.devices(&PCI_DEVICE));
    }
    let device = |name: &str| context.lookups.device(&PCI_DEVICE, name).ok();
    let there: Vec<Rc<HostDevice>> = names.iter().filter(|name| is_pci(name)).filter_map(|name| device(name)).collect();
    // Harvester adds nothing beside a host device that it does not know.
    let is_known = |name: &str| there.iter().any(|device| device.name() == name);
    let are_added = may_be_added && names.iter().all(|name| is_gpu(name) || is_known(name));
    let count = |group| {
        let host_devices = there.iter().filter(|device| !is_gpu(device.name()));
        host_devices.filter(|device| device.iommu_group() == Some(group)).count()
    };
    let of = there.iter().filter(|device| of.contains(&device.name()));
    let mut groups: Vec<_> = of.filter_map(|device| device.iommu_group()).collect();
    groups.dedup();
    groups.retain(|group| !are_added || count(*group) != 1);
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut devices: Vec<Rc<HostDevice>> = match context.lookups.devices(&PCI_DEVICE) {
        Ok(devices) => devices.values().cloned().collect(),
        Err(_) => ours.iter().filter_map(|ours| device(ours.name)).collect(),
    };
    let is_in_groups = |device: &HostDevice| device.iommu_group().is_some_and(|group| groups.contains(&group));
    devices.retain(|device| is_in_groups(device) && !names.contains(&device.name()));
    Ok(devices)
}

/// A warning about [`missing`] devices, for features that do not add them.
pub(in crate::features) fn warning(plan: &Plan, context: &Context<'_>) -> Result<Option<String>, ShapeError> {
    let there = context.vm.host_devices_and_gpus()?;
    let of = [there.iter().map(|device| device.name).collect(), plan.devices()].concat();
    let missing = missing(&of, plan, context)?;
    // Rules may keep the VirtualMachine from having them, and then the requester shall not learn their names.
    let siblings = match context.settings.pci_passthrough.host.has_rules() {
        true => "the administrator knows which".to_owned(),
        false => text::list(&missing.iter().map(|device| device.name()).collect::<Vec<_>>()),
    };
    Ok((!missing.is_empty()).then(|| {
        format!(
            "these PCI devices share an IOMMU group with a host device of the VirtualMachine and must go with it, but Harvester \
             does not add them; name them in pci-passthrough: {siblings}"
        )
    }))
}

/// The PCIDevices that the VirtualMachine has beside an entry: on the same node, or on any node if the entry has no such name
/// yet.
pub(crate) fn beside(entry: &Entry, vm: &VirtualMachine) -> Vec<String> {
    let devices = vm.host_devices().unwrap_or_default().into_iter().filter(|_| may_have_siblings(entry));
    let is_beside = |name: &&str| node_of(name).is_some_and(|node| node_of(&entry.name).is_none_or(|it| it == node));
    devices.map(|device| device.name).filter(is_beside).map(str::to_owned).collect()
}

/// Whether Harvester may add devices because of the entry: it is a PCI device, or may be named after one.
pub(crate) fn may_have_siblings(entry: &Entry) -> bool {
    Device::of(entry).is_some_and(|device| !is_usb(&device))
}
