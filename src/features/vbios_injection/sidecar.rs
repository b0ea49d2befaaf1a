//! The hook sidecar.

use crate::json::{Json, member};
use crate::kinds::image::ImageReference;

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
    let mut sidecar = vec![member("image", image.to_string()), member("command", Json::from(&command[..]))];
    if settings.rom_delivery == RomDelivery::Sidecar {
        let rom = vec![member("name", config_map), member("key", "rom"), member("hookPath", "/run/vbios/rom")];
        sidecar.push(member("configMap", Json::Object(rom)));
    }
    Json::Object(sidecar).to_text()
}
