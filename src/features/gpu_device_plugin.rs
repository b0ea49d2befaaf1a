//! GPU device plugin: the VM's pod gets an extended resource, and the guest a device where KubeVirt serves it as one.

use super::{Context, Failure, Feature, Plan, free_names};
use crate::resource::{ResourceName, ResourceNameError};
use crate::settings::{AttachDevice, FeatureSettings, Pattern, Settings};
use crate::text::Quoted;
use crate::vm::Edit;

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
        let attached = attached(&name, context)?;
        if attached >= count {
            return Ok(Some(plan));
        }
        match obstacle(&name, context) {
            // KubeVirt computes the limit of a device; one written beside it would override the count.
            None => {
                let names = free_names("gpu", context.vm)?.take(count - attached);
                let add = |n| Edit::AddGpu { name: n, device_name: name.to_string() };
                plan.edits.extend(names.map(add));
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
                if let Some(limit) = context.vm.limit(name.as_str())? {
                    if limit.parse() != Ok(count) {
                        plan.warnings.push(format!(
                            "the VirtualMachine has a limit of {} on {name} already, which stays, and not {count}",
                            Quoted(limit)
                        ));
                    }
                }
                let resource = name.to_string();
                plan.edits.push(Edit::SetLimit { resource, quantity: count.to_string() });
            }
        }
        Ok(Some(plan))
    }
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

/// How many devices of the resource the VirtualMachine has already.
fn attached(name: &ResourceName, context: &Context<'_>) -> Result<usize, Failure> {
    let gpus = context.vm.gpus()?;
    let host_devices = context.vm.host_devices()?;
    let all = gpus.iter().chain(&host_devices);
    Ok(all.filter(|device| device.device_name == name.as_str()).count())
}

/// Why the guest cannot have a device of the resource, if it cannot.
fn obstacle(name: &ResourceName, context: &Context<'_>) -> Option<&'static str> {
    match context.settings.gpu_device_plugin.attach_device {
        AttachDevice::Never => Some("the policy's setting gpuDevicePlugin.attachDevice is never"),
        AttachDevice::Auto => match context.lookups.kubevirt() {
            Ok(kubevirt) if kubevirt.serves_device(name.as_str()) => None,
            Ok(_) => Some("KubeVirt's permittedHostDevices does not have it"),
            Err(_) => Some("the policy cannot read KubeVirt's permittedHostDevices"),
        },
    }
}
