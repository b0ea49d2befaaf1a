//! GPU device plugin: the VM's pod gets an extended resource, and the guest gets a device if KubeVirt serves the
//! resource as one.

use std::rc::Rc;

use super::allowed::allows;
use super::feature::{Context, Feature, Plan};
use super::host_devices::rules::check_resource;
use super::host_devices::{GATE, check_count, free_names, placed, siblings};
use super::pci_passthrough;
use super::reference::Reference;
use super::switch;
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{KUBEVIRT, KubeVirt, NODE, PCI_DEVICE, PCI_DEVICE_CLAIM};
use crate::settings::{Count, FeatureSettings, choice, section};
use crate::text::{self, Quoted};
use crate::values::pattern::Pattern;
use crate::values::pci::PciSelector;
use crate::values::resource::{ResourceName, ResourceNameError};
use crate::vm::entry::Entry;
use crate::vm::place::{GPU, HOST_DEVICE, LIMIT, NODE_SELECTOR};
use crate::vm::{ShapeError, VirtualMachine};

section! {
    /// Setting `gpuDevicePlugin`.
    GpuDevicePluginSettings("GPU device plugin") {
        ..feature: FeatureSettings;
        /// The highest number that a directive may ask for, as in nvidia.com/gpu=2.
        max_devices: Count = Count(8), "maxDevices", "maximum devices per directive";
        /// Glob patterns for the names of extended resources. The default is what device plugins call GPUs.
        allowed_plugins: Vec<Pattern> = PLUGINS.map(Pattern::from).to_vec(), "allowedPlugins", "resources that a VM may name";
        /// Maps a namespace pattern to patterns of resource names, separated by commas or lines. If the map is empty, every
        /// namespace may use any resource that allowedPlugins admits. Otherwise, a namespace that no pattern matches may use none.
        /// A pattern such as team-a-* also matches namespaces that users create later.
        allowed_in: Vec<(Pattern, Vec<Pattern>)> = Vec::new(), "allowedIn", "resources that a namespace may use";
        /// With auto, the guest gets a device if KubeVirt's permittedHostDevices serves the resource. Otherwise, only the pod gets
        /// the resource, and the guest sees no GPU.
        attach_device: AttachDevice = AttachDevice::Auto, "attachDevice", "give the guest a device";
    }
}

/// What device plugins call GPUs. `nvidia.com/TU104GL_TESLA_T4` is the name that NVIDIA's plugin for KubeVirt and Harvester's
/// pcidevices make of the PCI id database, and `nvidia.com/NVIDIA_L40S-12Q` that of a vGPU; the domain of NVIDIA has
/// nearly only GPUs. The domains of AMD and Intel also have network cards and USB controllers on Harvester, so there the name
/// must be that of a GPU. Source: `NVIDIA/kubevirt-gpu-device-plugin`, `pkg/device_plugin/device_plugin.go:371`;
/// `harvester/pcidevices`, `pkg/apis/devices.harvesterhci.io/v1beta1/pcidevice.go:94`.
const PLUGINS: [&str; 10] = [
    "nvidia.com/*",
    "amd.com/gpu",
    "amd.com/*RADEON*",
    "amd.com/*INSTINCT*",
    "amd.com/*FIREPRO*",
    "intel.com/gpu",
    "intel.com/*GRAPHICS*",
    "intel.com/*_ARC_*",
    "intel.com/*_GPU_*",
    "gpu.intel.com/*",
];

choice! {
    /// Whether a GPU device-plugin resource also becomes a device of the guest.
    AttachDevice {
        /// If KubeVirt serves the resource as a device.
        Auto = "auto",
        /// Never.
        Never = "never",
    }
}

/// The feature gate without which KubeVirt refuses `gpus` (`vmi-create-admitter.go:443` of v1.3.1), and the first minor version of
/// KubeVirt 1 that does not need it (`pkg/virt-config/featuregate/inactive.go`).
const GPU_GATE: &str = "GPU";
const PERMANENT_SINCE: u32 = 4;

#[derive(Debug, thiserror::Error)]
enum GpuDevicePluginError {
    /// Cause: a typing mistake, or a number without the equals sign before it
    /// Cure: the value in the message, "one such as nvidia.com/gpu, or nvidia.com/gpu=2", or "one such as nvidia.com/gpu, or nvidia.com/gpu=2; a PCI
    /// device is for the directive pci-passthrough"; `kubectl describe node` lists the names under Capacity
    #[error("not the name of an extended resource: {error}; write {write}")]
    Name { error: ResourceNameError, write: String },
    /// Cause: 0, not a whole number, or more than the setting `gpuDevicePlugin.maxDevices`
    /// Cure: a number in the range
    #[error(
        "the count after = must be a whole number from 1 to {max}, without another resource behind it; write {name}=2, for \
         example, or the name alone"
    )]
    Count { name: ResourceName, max: usize },
    /// Cause: the setting `gpuDevicePlugin.allowedPlugins` does not allow it
    /// Cure: one of the resources in the message, or another pattern under `allowedPlugins`
    #[error(
        "{name} is not one of the resources that the policy allows ({allowed}); name one of them, or have the administrator \
         add it to the setting gpuDevicePlugin.allowedPlugins"
    )]
    NotAllowed { name: ResourceName, allowed: String },
    /// Cause: the setting `gpuDevicePlugin.allowedIn` does not allow it in this namespace
    /// Cure: another resource, or a pattern for it under `allowedIn`
    #[error(
        "{name} is not allowed in the namespace {namespace}; name another resource, or have the administrator add it to the \
         setting gpuDevicePlugin.allowedIn"
    )]
    NotAllowedHere { name: ResourceName, namespace: String },
    /// Cause: an entry of `spec.template.spec.domain.devices.gpus` has a `claimName` (dynamic resource allocation, DRA). KubeVirt refuses
    /// GPUs of both kinds in one VM
    /// Cure: remove that entry or the directive
    #[error(
        "the VirtualMachine has a GPU from a ResourceClaim (claimName under spec.template.spec.domain.devices.gpus), and KubeVirt \
         refuses a GPU of a device plugin beside it; remove that GPU or the directive"
    )]
    Claimed,
}

pub(super) static FEATURE: Feature = Feature {
    name: "gpu-device-plugin",
    adds: &[&HOST_DEVICE, &GPU, &LIMIT, &NODE_SELECTOR],
    settings: |settings| &settings.gpu_device_plugin.feature,
    plan,
    options: &[],
};

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "gpuDevicePlugin",
    example: "nvidia.com/gpu",
    gives: "the guest gets a GPU from a device plugin",
    page: "passthrough.md#gpus-from-a-device-plugin",
    takes: "an extended resource such as `nvidia.com/gpu`, or several of it: `nvidia.com/gpu=2`",
    effect: "`domain.devices.gpus` or `hostDevices` gets a device of it, or `domain.resources.limits` gets one of it",
    options: &[],
    looks_up: &[
        Access::to(Verbs::Get, &[&KUBEVIRT])
            .what("`permittedHostDevices`, and the feature gate `GPU`, which KubeVirt needs before 1.4")
            .without("the resource becomes a limit, with a warning")
            .only_if(&[Condition::Is("gpuDevicePlugin.attachDevice", "auto")]),
        Access::to(Verbs::Get, &[&PCI_DEVICE])
            .what("whether the cluster has Harvester's PCI devices")
            .without("the resource becomes a host device")
            .only_if(&[
                Condition::Is("gpuDevicePlugin.attachDevice", "auto"),
                Condition::IsNot("pciPassthrough.deviceNames", "address"),
            ]),
        Access::to(Verbs::List, &[&PCI_DEVICE, &PCI_DEVICE_CLAIM])
            .what(
                "which of Harvester's PCI devices have the resource, and who claimed them, with `requireClaimOwner` or \
                     `allowedDevices` of `pciPassthrough`",
            )
            .without("the directive fails and says what to grant")
            .only_if(&[Condition::IsNot("pciPassthrough.deviceNames", "address")]),
        Access::to(Verbs::List, &[&NODE])
            .what("whether the VM may run on a node that has the resource")
            .without("the placement is not checked"),
    ],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    let settings = &context.settings.gpu_device_plugin;
    switch::reject_bare_switch(value, "which resource", REFERENCE.example)?;
    let request = parse(value, settings.max_devices.0)?;
    let (name, count) = &request;
    let resource = name.as_str();
    if !takes(resource, context) {
        let name = name.clone();
        return Err(match settings.allowed_plugins.iter().any(|pattern| pattern.matches(resource)) {
            false => GpuDevicePluginError::NotAllowed { name, allowed: Pattern::list(&settings.allowed_plugins) },
            true => GpuDevicePluginError::NotAllowedHere { name, namespace: context.namespace.to_owned() },
        }
        .into());
    }
    // `validateDRADevices` in KubeVirt's `pkg/dra/admitter/dra_admitter.go:304`. It accepts host devices of both kinds.
    if context.vm.has_claimed_gpu() {
        return Err(GpuDevicePluginError::Claimed.into());
    }
    let applied = if *count == 1 { name.to_string() } else { format!("{name}={count}") };
    let mut plan = Plan { applied, ..Plan::default() };
    let ours = context.ours.iter().map(|added| &added.entry);
    let ours = ours.filter(|entry| entry.as_device().is_some_and(|(_, of_entry)| of_entry == resource));
    // Host devices count, because Harvester turns GPUs into host devices.
    let in_place = count_devices(context.vm, resource)?;
    let of_earlier_features = in_place.saturating_sub(count_devices(context.base, resource)?);
    let before = context.applied_before.and_then(|value| parse(value, usize::MAX).ok());
    let reused = match before {
        // Devices that the user had before the directive count. Devices that the user adds later do not replace the policy's,
        // but those of other directives do.
        Some(before) if before == request => count.saturating_sub(of_earlier_features),
        _ => count.saturating_sub(in_place),
    };
    plan.entries.extend(ours.take(reused).cloned());
    let attached = in_place + plan.entries.len();
    let is_limited = |entry: &Entry| *entry == LIMIT.entry(resource, &count.to_string());
    let missing =
        if context.ours.iter().any(|added| is_limited(&added.entry)) { 0 } else { count.saturating_sub(attached) };
    let pin = check_resource(&pci_passthrough::BUS, resource, missing, context)?;
    if attached < *count {
        attach(&mut plan, &request, attached, context)?;
        placed::check(&mut plan, None, context)?;
    }
    // Limits on host devices hold for those of all directives.
    let host_devices = context.vm.host_devices()?.len();
    let planned = plan.entries.iter().filter(|entry| entry.place == &HOST_DEVICE).count();
    if planned > 0 {
        check_count(host_devices + planned, context.settings.pci_passthrough.max_devices.0, &pci_passthrough::BUS)?;
    }
    pin.into_iter().for_each(|pin| plan.add_once(pin));
    Ok(plan)
}

/// Whether the settings let the VirtualMachine name the resource.
pub(super) fn takes(resource: &str, context: &Context<'_>) -> bool {
    let settings = &context.settings.gpu_device_plugin;
    settings.allowed_plugins.iter().any(|pattern| pattern.matches(resource))
        && allows(&settings.allowed_in, context.namespace, &[resource])
}

/// How many devices of the resource a VirtualMachine has, as GPUs and as host devices.
fn count_devices(vm: &VirtualMachine, resource: &str) -> Result<usize, ShapeError> {
    Ok(vm.host_devices_and_gpus()?.iter().filter(|device| device.resource == resource).count())
}

/// Plans the devices that are missing, of which the VirtualMachine has `attached` already.
fn attach(
    plan: &mut Plan,
    (name, count): &(ResourceName, usize),
    attached: usize,
    context: &Context<'_>,
) -> anyhow::Result<()> {
    let resource = name.as_str();
    match serving(resource, context) {
        // KubeVirt computes the limit for a device. An explicit limit would override the count.
        Ok(kubevirt) => {
            let names = free_names("gpu", count - attached, context)?;
            let place = if is_host_device(resource, &kubevirt, context) { &HOST_DEVICE } else { &GPU };
            plan.entries.extend(names.map(|device| place.entry(&device, resource)));
            if place == &HOST_DEVICE {
                plan.warnings.extend(context.lookups.check_gate(GATE)?);
                plan.warnings.extend(siblings::warning(plan, context)?);
            } else {
                context.lookups.check_gate_before(PERMANENT_SINCE, GPU_GATE)?;
            }
            if context.vm.limit(resource)?.is_some() {
                plan.warnings.push(format!(
                    "the VirtualMachine's own limit on {name} overrides the number that its devices need; remove it"
                ));
            }
        }
        Err(obstacle) if attached > 0 => {
            plan.warnings.push(format!("the guest has {attached} of the {count} devices of {name}: {obstacle}"))
        }
        Err(obstacle) => {
            plan.warnings.push(format!(
                "a limit on {name} gives the VirtualMachine's pod the resource, but the guest gets no device: {obstacle}"
            ));
            if let Some(found) = context.vm.limit(resource)?.filter(|found| found.parse() != Ok(*count)) {
                plan.warnings.push(format!(
                    "the VirtualMachine's own limit of {} on {name} stays, although the directive asks for {count}; remove it",
                    Quoted(&found)
                ));
            }
            plan.entries.push(LIMIT.entry(resource, &count.to_string()));
        }
    }
    Ok(())
}

/// The resource that a directive asks for, and the number of devices.
fn parse(value: &str, max: usize) -> Result<(ResourceName, usize), GpuDevicePluginError> {
    let (name, count) = match value.split_once('=') {
        Some((name, count)) => (name.trim_end(), count.trim_start()),
        None => (value, "1"),
    };
    let name: ResourceName =
        name.parse().map_err(|error| GpuDevicePluginError::Name { error, write: corrected(value, max) })?;
    // Only digits: `parse` would also accept a sign.
    match count.parse() {
        Ok(number) if (1..=max).contains(&number) && count.chars().all(|c| c.is_ascii_digit()) => Ok((name, number)),
        _ => Err(GpuDevicePluginError::Count { name, max }),
    }
}

/// The resource and the number that a value names, however it is written. If it names no resource, an example.
fn corrected(value: &str, max: usize) -> String {
    let separate = value.replace(':', " ");
    let words = text::words(&separate);
    // A device plugin makes nvidia.com/NVIDIA_A16-4Q of a name with spaces.
    let (mut joined, mut count) = (String::new(), None);
    for word in &words {
        let number = word.strip_suffix('x').or(word.strip_prefix('x')).unwrap_or(word).parse().ok();
        match number.filter(|number| (1..=max).contains(number)) {
            Some(number) => count = count.or(Some(number)),
            None if joined.is_empty() => joined.push_str(word),
            None => joined = format!("{joined}_{word}"),
        }
    }
    let is_name = |name: &&str| name.parse::<ResourceName>().is_ok();
    let name = Some(joined.as_str()).filter(is_name).or_else(|| words.iter().copied().find(is_name));
    match (name, count) {
        (Some(name), Some(count)) => format!("{name}={count}"),
        (Some(name), None) => name.to_owned(),
        (None, _) => {
            let is_device = value.parse::<PciSelector>().is_ok();
            let hint = if is_device { "; a PCI device is for the directive pci-passthrough" } else { "" };
            format!("one such as nvidia.com/gpu, or nvidia.com/gpu=2{hint}")
        }
    }
}

/// Whether Harvester handles devices of the resource as host devices. Harvester can turn GPUs into host devices itself,
/// but the API server cannot apply its patch if there are two or more. Mediated devices, such as vGPUs before Harvester
/// 1.8, stay GPUs. Source: `harvester/pcidevices`, `pkg/webhook/vm.go` and `pkg/controller/gpudevice`.
///
/// Harvester accepts only host devices whose resource one of its PCIDevices has, and its message says so. So the policy
/// does not check which devices there are.
fn is_host_device(resource: &str, kubevirt: &KubeVirt, context: &Context<'_>) -> bool {
    !context.settings.pci_passthrough.names_by_address()
        && kubevirt.serves_pci_device(resource)
        && context.lookups.check_served(&PCI_DEVICE).is_ok()
}

/// Returns KubeVirt's object if KubeVirt gives a guest devices of the resource.
fn serving(resource: &str, context: &Context<'_>) -> Result<Rc<KubeVirt>, String> {
    match context.settings.gpu_device_plugin.attach_device {
        AttachDevice::Never => Err("the policy's setting gpuDevicePlugin.attachDevice is never".to_owned()),
        AttachDevice::Auto => match context.lookups.kubevirt() {
            Ok(kubevirt) if kubevirt.serves_device(resource) => Ok(kubevirt),
            Ok(_) => Err("KubeVirt's permittedHostDevices does not list it; have the administrator add it".to_owned()),
            Err(error) => Err(format!("KubeVirt's permittedHostDevices cannot be read: {error}")),
        },
    }
}
