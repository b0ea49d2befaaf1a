//! The hook sidecar.

use serde::Serialize;

use crate::values::image::ImageReference;

use super::{RomDelivery, VbiosInjectionSettings};
use crate::settings::Choice;

/// The mark of the policy's own entry: the first argument of the program.
const MARKER: &str = "vm-feature-manager.io/vbios-injection";

/// The program that installs and is the hook.
///
/// Started by `python3 -c` with `MARKER DELIVERY ON_FAILURE DEVICES SHIM-ARGUMENT...`, it installs itself as
/// `onDefineDomain` and becomes the sidecar-shim; called as `onDefineDomain --vmi JSON --domain XML` it prints the domain.
/// `DEVICES` are tried in turn: a name in the VM, a PCI address on the host, `*` the only one, `?` the only one or none.
const PROGRAM: &str = include_str!("hook.py");

/// Where in the command the devices stand.
pub(super) const DEVICES: usize = 6;

/// A hook sidecar. Source: `kubevirt.io/kubevirt`, `pkg/hooks/hooks.go`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sidecar<'s> {
    image: String,
    command: [&'s str; 9],
    #[serde(skip_serializing_if = "Option::is_none")]
    config_map: Option<Mount<'s>>,
}

/// A ConfigMap whose key the sidecar mounts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount<'s> {
    name: &'s str,
    key: &'static str,
    hook_path: &'static str,
}

/// The sidecar for a ConfigMap's ROM and a device, as JSON.
pub(super) fn sidecar(
    image: &ImageReference,
    config_map: &str,
    devices: &str,
    settings: &VbiosInjectionSettings,
) -> String {
    let (version, on_failure) = (settings.hook_version.word(), settings.on_hook_failure.word());
    let delivery = settings.rom_delivery.word();
    let sidecar = Sidecar {
        image: image.to_string(),
        command: ["python3", "-c", PROGRAM, MARKER, delivery, on_failure, devices, "--version", version],
        config_map: match settings.rom_delivery {
            RomDelivery::Sidecar => Some(Mount { name: config_map, key: "rom", hook_path: "/run/vbios/rom" }),
            RomDelivery::Volume => None,
        },
    };
    serde_json::to_string(&sidecar).unwrap_or_default()
}
