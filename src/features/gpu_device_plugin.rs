//! GPU device plugin: the VM's pod gets an extended resource.

use super::{Context, Failure, Feature, Plan};
use crate::resource::{ResourceName, ResourceNameError};
use crate::settings::{FeatureSettings, Pattern, Settings};
use crate::vm::Edit;

pub(super) struct GpuDevicePlugin;

#[derive(Debug, thiserror::Error)]
enum GpuDevicePluginError {
    #[error("not the name of an extended resource: {0}; write one such as nvidia.com/gpu")]
    Name(#[from] ResourceNameError),
    #[error(
        "{name} is not one of the resources that the policy allows ({}); name one of them, or have the administrator \
         add it to the setting gpuDevicePlugin.allowedPlugins",
        list(.allowed)
    )]
    NotAllowed {
        name: ResourceName,
        allowed: Vec<Pattern>,
    },
}

impl Feature for GpuDevicePlugin {
    fn name(&self) -> &'static str {
        "gpu-device-plugin"
    }

    fn settings(&self, settings: &Settings) -> FeatureSettings {
        settings.gpu_device_plugin.feature
    }

    fn plan(&self, value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure> {
        let name: ResourceName = value.parse().map_err(GpuDevicePluginError::Name)?;
        let allowed = &context.settings.gpu_device_plugin.allowed_plugins;
        if !allowed.iter().any(|pattern| pattern.matches(name.as_str())) {
            return Err(GpuDevicePluginError::NotAllowed {
                name,
                allowed: allowed.clone(),
            }
            .into());
        }
        let mut plan = Plan {
            applied: name.to_string(),
            ..Plan::default()
        };
        // KubeVirt computes the limit of a device; one written beside it would override the count.
        if is_attached(&name, context)? {
            return Ok(Some(plan));
        }
        plan.warnings.push(format!(
            "a limit on {name} gives the VirtualMachine's pod the resource, but the guest no device"
        ));
        if !context.vm.has_limit(name.as_str())? {
            plan.edits.push(Edit::SetLimit {
                resource: name.to_string(),
                quantity: "1".to_owned(),
            });
        }
        Ok(Some(plan))
    }
}

/// Whether the VirtualMachine has a device of the resource already.
fn is_attached(name: &ResourceName, context: &Context<'_>) -> Result<bool, Failure> {
    let gpus = context.vm.gpus()?;
    let host_devices = context.vm.host_devices()?;
    Ok(gpus
        .iter()
        .chain(&host_devices)
        .any(|device| device.device_name == name.as_str()))
}

fn list(patterns: &[Pattern]) -> String {
    patterns
        .iter()
        .map(Pattern::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
