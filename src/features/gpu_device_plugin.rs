//! GPU device plugin: the VM's pod gets an extended resource, and the guest a device where KubeVirt serves it as one.

use super::{Added, Before, Context, Failure, Feature, Plan, free_names, made_number};
use crate::cluster::LookupError;
use crate::resource::{ResourceName, ResourceNameError};
use crate::settings::{AttachDevice, DeviceNames, FeatureSettings, Pattern, Settings};
use crate::text::Quoted;
use crate::vm::{Device, Edit, ShapeError, VirtualMachine};

pub(super) struct GpuDevicePlugin;

#[derive(Debug, thiserror::Error)]
enum GpuDevicePluginError {
    #[error(
        "not the name of an extended resource: {0}; write one such as nvidia.com/gpu, or nvidia.com/gpu=2"
    )]
    Name(#[from] ResourceNameError),
    #[error(
        "the number behind = is not a whole number from 1 to {max}; write one such as {name}=2, or the name alone"
    )]
    Count { name: ResourceName, max: usize },
    #[error(
        "{name} is not one of the resources that the policy allows ({allowed}); name one of them, or have the administrator \
         add it to the setting gpuDevicePlugin.allowedPlugins"
    )]
    NotAllowed { name: ResourceName, allowed: String },
}

/// What a directive asks for.
struct Request {
    name: ResourceName,
    count: usize,
}

impl Feature for GpuDevicePlugin {
    fn name(&self) -> &'static str {
        "gpu-device-plugin"
    }

    fn settings(&self, settings: &Settings) -> FeatureSettings {
        settings.gpu_device_plugin.feature
    }

    fn plan(&self, value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure> {
        let Request { name, count } = parse(value, context.settings.gpu_device_plugin.max_devices)?;
        let allowed = &context.settings.gpu_device_plugin.allowed_plugins;
        if !allowed.iter().any(|pattern| pattern.matches(name.as_str())) {
            return Err(
                GpuDevicePluginError::NotAllowed { name, allowed: Pattern::list(allowed) }.into()
            );
        }
        let applied = if count == 1 { name.to_string() } else { format!("{name}={count}") };
        let mut plan = Plan { applied, ..Plan::default() };
        // What the user had before the directive counts; what they add beside it takes nothing away.
        let limit = limit(&name, count);
        plan.edits = devices(&name, context.vm)?;
        let earlier = context.earlier.filter(|earlier| earlier.record != Some(&plan.applied));
        let is_kept = |edit: &&Edit| earlier.is_some_and(|earlier| earlier.keeps(edit));
        let kept = plan.edits.iter().filter(is_kept).count();
        let ours = context.ours.iter().filter(|edit| is_device(edit, &name));
        plan.edits.extend(ours.take(count.saturating_sub(kept)).cloned());
        let attached = plan.edits.len();
        if context.vm.has(&limit) {
            plan.edits.push(limit.clone());
        }
        if attached >= count {
            return Ok(Some(plan));
        }
        match obstacle(&name, context) {
            // KubeVirt computes the limit of a device; one written beside it would override the count.
            None => {
                let names = free_names(PREFIX, count - attached, context)?;
                let is_host_device = is_host_device(&name, context);
                plan.edits.extend(names.map(|device| {
                    let (name, device_name) = (device, name.to_string());
                    if is_host_device {
                        Edit::AddHostDevice { name, device_name }
                    } else {
                        Edit::AddGpu { name, device_name }
                    }
                }));
                if context.vm.limit(name.as_str())?.is_some() {
                    plan.warnings.push(format!(
                        "the VirtualMachine's own limit on {name} overrides the number that its devices need"
                    ));
                }
            }
            Some(obstacle) if attached > 0 => plan.warnings.push(format!(
                "the guest has {attached} of the {count} devices of {name}: {obstacle}"
            )),
            Some(obstacle) => {
                plan.warnings.push(format!(
                    "a limit on {name} gives the VirtualMachine's pod the resource, but the guest no device: {obstacle}"
                ));
                if let Some(found) = context.vm.limit(name.as_str())? {
                    if found.parse() != Ok(count) {
                        plan.warnings.push(format!(
                            "the VirtualMachine has a limit of {} on {name} already, which stays, and not {count}",
                            Quoted(found)
                        ));
                    }
                }
                if !plan.edits.contains(&limit) {
                    plan.edits.push(limit);
                }
            }
        }
        Ok(Some(plan))
    }

    /// Devices by the names that the policy makes, as many as were asked for, or else the limit. One device is as good as
    /// another; those that the policy added come before those that a user added since.
    fn added(&self, before: &Before<'_>, context: &Context<'_>) -> Result<Added, ShapeError> {
        let mut added = Added::default();
        let Some(value) = before.earlier.record.or(before.earlier.directive) else {
            return Ok(added);
        };
        let Ok(Request { name, count }) = parse(value, usize::MAX) else {
            return Ok(added);
        };
        let limit = limit(&name, count);
        let has_limit = context.vm.limit(name.as_str())?.is_some();
        let made = devices(&name, context.vm)?.into_iter().filter(|edit| is_device(edit, &name));
        made.for_each(|edit| added.claim(before, edit));
        let is_old = |edit: &Edit| before.is_old(edit);
        if !added.edits.iter().any(is_old) && is_old(&limit) {
            added.edits.clear();
        }
        let (mut edits, new): (Vec<_>, Vec<_>) = added.edits.into_iter().partition(is_old);
        edits.extend(new);
        edits.truncate(count);
        added.edits = edits;
        // With a device, the policy sets no limit.
        if added.edits.is_empty() && has_limit {
            added.claim(before, limit);
        }
        Ok(added)
    }
}

/// What the names of devices that the policy adds start with.
const PREFIX: &str = "gpu";

fn limit(name: &ResourceName, count: usize) -> Edit {
    Edit::SetLimit { resource: name.to_string(), quantity: count.to_string() }
}

fn parse(value: &str, max: usize) -> Result<Request, GpuDevicePluginError> {
    let (name, count) = match value.split_once('=') {
        Some((name, count)) => (name.trim_end(), Some(count.trim_start())),
        None => (value, None),
    };
    let name: ResourceName = name.parse()?;
    let count = match count {
        None => 1,
        // Digits alone: a sign would be read as well.
        Some(text) => match text.parse() {
            Ok(n) if (1..=max).contains(&n) && text.chars().all(|c| c.is_ascii_digit()) => n,
            _ => return Err(GpuDevicePluginError::Count { name, max }),
        },
    };
    Ok(Request { name, count })
}

/// The VirtualMachine's devices of the resource. Harvester makes host devices of GPUs.
fn devices(name: &ResourceName, vm: &VirtualMachine<'_>) -> Result<Vec<Edit>, ShapeError> {
    let of_name = |device: &&Device<'_>| device.device_name == name.as_str();
    let (gpus, host_devices) = (vm.gpus()?, vm.host_devices()?);
    let texts = |device: &Device<'_>| (device.name.to_owned(), device.device_name.to_owned());
    let gpus = gpus.iter().filter(of_name).map(texts);
    let host_devices = host_devices.iter().filter(of_name).map(texts);
    let gpus = gpus.map(|(name, device_name)| Edit::AddGpu { name, device_name });
    let others = host_devices.map(|(name, device_name)| Edit::AddHostDevice { name, device_name });
    Ok(gpus.chain(others).collect())
}

/// Whether the edit adds a device of the resource under a name that the policy makes.
fn is_device(edit: &Edit, resource: &ResourceName) -> bool {
    match edit {
        Edit::AddGpu { name, device_name } | Edit::AddHostDevice { name, device_name } => {
            device_name == resource.as_str() && made_number(PREFIX, name).is_some()
        }
        _ => false,
    }
}

/// Whether Harvester handles devices of the resource as host devices. It makes host devices of GPUs itself, but with a patch
/// that the API server cannot apply to two or more of them. Source: `harvester/pcidevices`, `pkg/webhook/vm.go`.
fn is_host_device(name: &ResourceName, context: &Context<'_>) -> bool {
    if context.settings.pci_passthrough.device_names == DeviceNames::Address {
        return false;
    }
    match context.lookups.pci_devices() {
        Ok(devices) => devices.iter().any(|device| device.resource_name == name.as_str()),
        // Harvester takes no devices but its own, so the resource must be one of them.
        Err(error) => matches!(error, LookupError::Forbidden(_)),
    }
}

/// Why the guest cannot have a device of the resource, if it cannot.
fn obstacle(name: &ResourceName, context: &Context<'_>) -> Option<String> {
    let why = match context.settings.gpu_device_plugin.attach_device {
        AttachDevice::Never => {
            "the policy's setting gpuDevicePlugin.attachDevice is never".to_owned()
        }
        AttachDevice::Auto => match context.lookups.kubevirt() {
            Ok(kubevirt) if kubevirt.serves_device(name.as_str()) => return None,
            Ok(_) => "KubeVirt's permittedHostDevices does not have it".to_owned(),
            Err(error) => format!("KubeVirt's permittedHostDevices cannot be read: {error}"),
        },
    };
    Some(why)
}
