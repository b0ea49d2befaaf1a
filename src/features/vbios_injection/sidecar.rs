//! Makes the hook sidecar.

use serde::Serialize;
use serde_json::Value;

use crate::json::to_text;
use crate::values::image::ImageReference;
use crate::values::pci::PciAddress;

use super::{RomDelivery, VbiosInjectionSettings};
use crate::settings::Choice;

/// Marks the policy's own sidecar: the first argument of the program.
const MARKER: &str = "vm-feature-manager.io/vbios-injection";

/// The program that is the hook, and that installs itself.
///
/// `python3 -c` starts it with `MARKER DELIVERY ON_FAILURE DEVICES [--guest-address=ADDRESS] SHIM-ARGUMENT...`. It then
/// installs itself as `onDefineDomain` and becomes the sidecar-shim. When the shim calls it as `onDefineDomain --vmi JSON
/// --domain XML`, it prints the changed domain. It tries the `DEVICES` in turn: a name in the VM, a PCI address on the host,
/// `*` for the only device, `?` for the only device or none.
const PROGRAM: &str = include_str!("hook.py");

/// The position of `DEVICES` in the command.
pub(super) const DEVICES: usize = 6;

/// A hook sidecar. Source: `kubevirt.io/kubevirt`, `pkg/hooks/hooks.go`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sidecar<'s> {
    image: String,
    command: Vec<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_map: Option<Mount<'s>>,
}

/// A ConfigMap and its key, which KubeVirt mounts into the sidecar.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount<'s> {
    name: &'s str,
    key: &'static str,
    hook_path: &'static str,
}

/// The sidecar with the new names of the devices that the hook looks for; `None` if it looks for none of these.
pub(crate) fn with_new_names<'n>(sidecar: &str, new_name: impl Fn(&str) -> Option<&'n str>) -> Option<String> {
    let mut sidecar: Value = serde_json::from_str(sidecar).ok()?;
    let devices = sidecar.get_mut("command")?.get_mut(DEVICES)?;
    let names = devices.as_str()?.split(' ').map(|name| new_name(name).unwrap_or(name));
    let names = names.collect::<Vec<_>>().join(" ");
    if *devices == names {
        return None;
    }
    *devices = names.into();
    Some(to_text(&sidecar))
}

/// What a sidecar does.
pub(super) struct Work<'w> {
    /// The ConfigMap with the ROM.
    pub(super) config_map: &'w str,
    /// The devices that the hook looks for.
    pub(super) devices: &'w str,
    /// The place that the device gets in the guest, if the VirtualMachine asks for one.
    pub(super) guest_address: Option<PciAddress>,
}

/// The sidecar that does the work, as JSON.
pub(super) fn sidecar(image: &ImageReference, work: &Work<'_>, settings: &VbiosInjectionSettings) -> String {
    let &Work { config_map, devices, guest_address } = work;
    let (version, on_failure) = (settings.hook_version.word(), settings.on_hook_failure.word());
    let delivery = settings.rom_delivery.word();
    let guest_address = guest_address.map(|address| format!("--guest-address={address}"));
    let mut command = vec!["python3", "-c", PROGRAM, MARKER, delivery, on_failure, devices];
    command.extend(guest_address.as_deref());
    command.extend(["--version", version]);
    let sidecar = Sidecar {
        image: image.to_string(),
        command,
        config_map: match settings.rom_delivery {
            RomDelivery::Sidecar => Some(Mount { name: config_map, key: "rom", hook_path: "/run/vbios/rom" }),
            RomDelivery::Volume => None,
        },
    };
    to_text(&sidecar)
}
