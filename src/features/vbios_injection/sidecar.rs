//! The hook sidecar.

use serde_json::json;

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

/// The sidecar for a ConfigMap's ROM and a device, as JSON. Source: `kubevirt.io/kubevirt`, `pkg/hooks/hooks.go`.
pub(super) fn sidecar(
    image: &ImageReference,
    config_map: &str,
    devices: &str,
    settings: &VbiosInjectionSettings,
) -> String {
    let (version, on_failure) = (settings.hook_version.word(), settings.on_hook_failure.word());
    let delivery = settings.rom_delivery.word();
    let command = ["python3", "-c", PROGRAM, MARKER, delivery, on_failure, devices, "--version", version];
    let mut sidecar = json!({"image": image.to_string(), "command": command});
    if settings.rom_delivery == RomDelivery::Sidecar {
        let rom = json!({"name": config_map, "key": "rom", "hookPath": "/run/vbios/rom"});
        sidecar.as_object_mut().map(|members| members.insert("configMap".to_owned(), rom));
    }
    sidecar.to_string()
}
