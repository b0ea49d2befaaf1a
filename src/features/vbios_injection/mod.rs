//! vBIOS injection: a passed-through device gets its ROM. KubeVirt has no field for a ROM, so a hook sidecar adds it to
//! the definition of the guest at each start.

mod error;
mod rom;
mod sidecar;

use serde_json::Value;

use super::feature::{Context, Feature, Plan};
use super::host_devices::is_usb;
use super::reference::{OptionReference, Reference};
use super::switch;
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{CONFIG_MAP, ClusterError, ConfigMap, KUBEVIRT, KubeVirt, PCI_DEVICE, SUBJECT_ACCESS_REVIEW};
use crate::settings::{FeatureSettings, choice, section};
use crate::text::{self, Quoted};
use crate::values::image::ImageReference;
use crate::values::name::{LABEL, SUBDOMAIN};
use crate::values::pattern::Pattern;
use crate::values::pci::PciAddress;
use crate::vm::place::{CONFIG_MAP_VOLUME, HOOK_SIDECAR};
use crate::vm::{Device, Sidecars, argument_of};
use error::VbiosError;
use rom::Rom;
use sidecar::{DEVICES, sidecar};

section! {
    /// Setting `vbiosInjection`.
    VbiosInjectionSettings("vBIOS injection") {
        ..feature: FeatureSettings;
        /// The image of the hook's container. It must contain Python 3.9 or later. In an air-gapped cluster, name a mirror of it.
        default_sidecar_image: ImageReference = ImageReference::sidecar_shim(), "defaultSidecarImage", "sidecar image";
        /// If off, the policy does not change the image's tag.
        auto_detect_version: bool = true, "autoDetectVersion", "match the image's tag to the running KubeVirt";
        /// Glob patterns. If the list is empty, a VM may name any image.
        allowed_sidecar_images: Vec<Pattern> = Vec::new(), "allowedSidecarImages", "images that a VM may name";
        /// With v1alpha3, the sidecar ends when the virtual machine does. With v1alpha2, it keeps running, and keeps the device.
        hook_version: HookVersion = HookVersion::V1Alpha3, "hookVersion", "version of the hook protocol";
        /// With volume, the guest also gets a small disk, and the form of the Harvester UI breaks the volume when it saves the VM.
        rom_delivery: RomDelivery = RomDelivery::Sidecar, "romDelivery", "how QEMU gets the ROM";
        /// Checks that the user may get the ConfigMap. If off, anyone who can write virtual machines can use any ROM in their
        /// namespace.
        require_user_access: bool = false, "requireUserAccess", "only users who may read the ConfigMap may name it";
        /// With fail, the virtual machine does not start. With continue, it starts without the ROM.
        on_hook_failure: OnHookFailure = OnHookFailure::Fail, "onHookFailure", "if the hook fails";
    }
}

choice! {
    /// The version of KubeVirt's hook protocol.
    HookVersion {
        /// The sidecar ends when the VM does.
        V1Alpha3 = "v1alpha3",
        /// The sidecar keeps running.
        V1Alpha2 = "v1alpha2",
    }
}

choice! {
    /// How QEMU gets the ROM.
    RomDelivery {
        /// Through a folder that the sidecar shares with QEMU.
        Sidecar = "sidecar",
        /// Through a volume of the VM.
        Volume = "volume",
    }
}

choice! {
    /// What happens to the VM if the hook fails.
    OnHookFailure {
        /// The VM does not start.
        Fail = "fail",
        /// The VM starts without the ROM.
        Continue = "continue",
    }
}

const NAME: &str = "vbios-injection";
const DEVICE_OPTION: &str = "vbios-device";
const IMAGE_OPTION: &str = "sidecar-image";

/// The volume with the ROM, if `romDelivery` is `volume`.
const VOLUME: &str = "vbios-rom";

/// The volumes that KubeVirt adds to every pod. Source: `pkg/virt-controller/services/rendervolumes.go`.
const POD_VOLUMES: [&str; 9] = [
    "container-disks",
    "ephemeral-disks",
    "hook-sidecar-sockets",
    "hotplug-disks",
    "libvirt-runtime",
    "private",
    "public",
    "sockets",
    "virt-bin-share-dir",
];

pub(super) static FEATURE: Feature = Feature {
    name: NAME,
    adds: &[&CONFIG_MAP_VOLUME, &HOOK_SIDECAR],
    settings: |settings| &settings.vbios_injection.feature,
    plan,
    reference: Reference {
        settings: "vbiosInjection",
        example: "igpu-rom",
        gives: "a passed-through GPU gets the ROM in this ConfigMap",
        page: "vbios.md",
        takes: "the name of a ConfigMap with the ROM under `binaryData.rom`",
        effect: "a hook sidecar gives the device its ROM at each start",
        options: &[
            OptionReference {
                name: DEVICE_OPTION,
                takes: "the name of a host device or GPU of the VM, or its PCI address",
                meaning: "which device gets the ROM, if the VM has several",
            },
            OptionReference { name: IMAGE_OPTION, takes: "an image reference", meaning: "the sidecar's image" },
        ],
        looks_up: &[
            Access::to(Verbs::Get, &[&CONFIG_MAP])
                .what("the ROM, in the VM's namespace")
                .without("the directive fails and says what to grant"),
            Access::to(Verbs::Create, &[&SUBJECT_ACCESS_REVIEW])
                .what("whether the requester may get the ConfigMap, with `requireUserAccess`")
                .without("the directive fails and says what to grant")
                .only_if(&[Condition::On("vbiosInjection.requireUserAccess")]),
            Access::to(Verbs::Get, &[&KUBEVIRT])
                .what("the feature gate `Sidecar` and the version")
                .without("the gate is not checked, and the sidecar uses the image in the settings"),
            Access::to(Verbs::Get, &[&PCI_DEVICE])
                .what("the device that gets the ROM")
                .without("the ROM is not compared with the device"),
        ],
    },
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    switch::check_names(value, "which ConfigMap has the ROM", FEATURE.reference.example)?;
    let settings = &context.settings.vbios_injection;
    let sidecars = context.vm.hook_sidecars()?;
    check_names(value, &sidecars, context)?;
    if settings.require_user_access && (context.is_requested || !was_given(value, context)) {
        check_access(value, context)?;
    }
    let Target { names, device } = target(&sidecars, context)?;
    let parse = |text: &str| text.parse().map_err(|error| VbiosError::Image { value: text.to_owned(), error });
    let named_image = context.directives.option(IMAGE_OPTION)?.map(parse).transpose()?;
    let rom = rom(value, context)?;
    let warning = context.lookups.check_gate("Sidecar")?;
    let kubevirt = context.lookups.kubevirt().ok();
    let image = named_image.unwrap_or_else(|| default_image(kubevirt.as_deref(), settings));
    let allowed = &settings.allowed_sidecar_images;
    if !allowed.is_empty() && !allowed.iter().any(|pattern| pattern.matches(&image.to_string())) {
        return Err(VbiosError::ImageNotAllowed { image, allowed: Pattern::list(allowed) }.into());
    }

    let mut plan = Plan { applied: value.to_owned(), ..Plan::default() };
    plan.warnings.extend(warning);
    if names == ANY {
        let warning = "the VirtualMachine has no host device and no GPU that the ROM could be for; add pci-passthrough";
        plan.warnings.push(warning.to_owned());
    }
    plan.warnings.extend(device.and_then(|device| mismatch(rom, device.name, context)));
    if settings.rom_delivery == RomDelivery::Volume {
        plan.entries.push(CONFIG_MAP_VOLUME.entry(VOLUME, value));
    }
    plan.entries.push(HOOK_SIDECAR.entry("", &sidecar(&image, value, &names, settings)));
    Ok(plan)
}

/// Whether the feature already gave the VirtualMachine the ROM in this ConfigMap.
fn was_given(name: &str, context: &Context<'_>) -> bool {
    context.ours.iter().map(|added| &added.entry).any(|entry| {
        let sidecar: Value = serde_json::from_str(&entry.value).unwrap_or_default();
        entry.place == &CONFIG_MAP_VOLUME && entry.value == name
            || sidecar.pointer("/configMap/name").is_some_and(|config_map| config_map == name)
    })
}

/// Checks that the requester may read the ConfigMap with the ROM.
fn check_access(name: &str, context: &Context<'_>) -> Result<(), VbiosError> {
    let (requester, namespace) = (context.requester, context.namespace);
    if !context.is_requested {
        return Err(VbiosError::NotRequested { name: name.to_owned() });
    }
    let is_allowed = context.lookups.may_get(&requester.name, &requester.groups, &CONFIG_MAP, name, namespace);
    let (user, name, namespace) = (requester.name.clone(), name.to_owned(), namespace.to_owned());
    match is_allowed {
        Ok(true) => Ok(()),
        Ok(false) => Err(VbiosError::NoAccess { user, name, namespace }),
        Err(error) => Err(VbiosError::AccessUnknown { name, error }),
    }
}

/// Checks that the ConfigMap's name is valid, and can be used for a volume of the pod.
fn check_names(name: &str, sidecars: &Sidecars<'_>, context: &Context<'_>) -> anyhow::Result<()> {
    if !SUBDOMAIN.allows(name) {
        return Err(VbiosError::Name.into());
    }
    let volumes = context.vm.volumes()?;
    if context.settings.vbios_injection.rom_delivery == RomDelivery::Volume {
        let is_taken =
            volumes.iter().any(|v| v.name == VOLUME && v.config_map.as_ref().map(|source| source.name) != Some(name));
        return if is_taken { Err(VbiosError::VolumeTaken.into()) } else { Ok(()) };
    }
    if !LABEL.allows(name) {
        return Err(VbiosError::NameOfVolume.into());
    }
    let taken = if volumes.iter().any(|volume| volume.name == name) {
        "a volume of the VirtualMachine"
    } else if sidecars.volumes_of_others().iter().any(|volume| volume == name) {
        "another hook sidecar"
    } else if POD_VOLUMES.contains(&name) {
        "a volume of every KubeVirt pod"
    } else {
        return Ok(());
    };
    Err(VbiosError::NameTaken(taken).into())
}

/// The device that gets the ROM.
struct Target<'v> {
    /// The names and addresses that the hook looks for, in the form that its program takes.
    names: String,
    /// The device, if the VirtualMachine has it.
    device: Option<Device<'v>>,
}

/// Matches the only device, whatever its name: Harvester may rename it.
const ONLY: &str = "*";

/// Matches the only device, or none.
const ANY: &str = "?";

/// The device that the option names, or the VirtualMachine's only device.
fn target<'v>(sidecars: &Sidecars<'_>, context: &Context<'v>) -> anyhow::Result<Target<'v>> {
    let mut devices = [context.vm.host_devices()?, context.vm.gpus()?].concat();
    // USB devices are in the list of host devices, too, but have no ROM.
    devices.retain(|device| !is_usb(device));
    let names = || match devices.as_slice() {
        [] => "none".to_owned(),
        devices => text::list(&devices.iter().map(|device| device.name).collect::<Vec<_>>()),
    };
    // An instance type may add devices, too.
    let has_instance_type = context.vm.has_instance_type();
    if let Some(option) = context.directives.option(DEVICE_OPTION)? {
        if let Some(device) = devices.iter().find(|device| device.name == option) {
            return to_target(*device, device.name, "");
        }
        if let Ok(address) = option.parse::<PciAddress>() {
            if let Some(device) = devices.iter().find(|device| address_of(device) == Some(address)) {
                return to_target(*device, &address.to_string(), device.name);
            }
            // If the policy does not know the address of a device, the hook finds it when the VM starts.
            if has_instance_type || devices.iter().any(|device| address_of(device).is_none()) {
                return Ok(Target { names: address.to_string(), device: None });
            }
        }
        if has_instance_type {
            return to_target(Device { name: option, resource: "" }, option, "");
        }
        return Err(VbiosError::NoSuchDevice { value: option.to_owned(), devices: names() }.into());
    }
    // If there are several, there was only one when the ROM was added. Harvester added the others because they share its
    // IOMMU group.
    let device = match devices.as_slice() {
        [] if has_instance_type => return Ok(Target { names: ONLY.to_owned(), device: None }),
        [] => return Ok(Target { names: ANY.to_owned(), device: None }),
        [device] => Some(device),
        devices => devices.iter().find(|device| was_for(device.name, sidecars, context)),
    };
    let device = device.ok_or_else(|| VbiosError::SeveralDevices { devices: names() })?;
    to_target(*device, device.name, ONLY)
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

fn rom(name: &str, context: &Context<'_>) -> Result<Rom, VbiosError> {
    let config_map = context.lookups.get::<ConfigMap>(&CONFIG_MAP, name, Some(context.namespace));
    let (name, namespace) = (name.to_owned(), context.namespace.to_owned());
    let config_map = match config_map {
        Ok(config_map) => config_map,
        Err(error) if error.cause == ClusterError::NotFound => return Err(VbiosError::NoConfigMap { name, namespace }),
        Err(error) => return Err(VbiosError::Lookup { name, error }),
    };
    match config_map.binary_data.get("rom") {
        None => Err(VbiosError::NoRom { name, found: describe_keys(&config_map) }),
        Some(base64) => Rom::parse(base64).map_err(|error| VbiosError::Rom { name, error }),
    }
}

/// The key that the ConfigMap has instead of `binaryData.rom`, for a message.
fn describe_keys(config_map: &ConfigMap) -> String {
    match config_map.binary_data.keys().next() {
        _ if config_map.data.contains_key("rom") => ", only data.rom, which cannot hold bytes".to_owned(),
        Some(key) => format!(", but {}", Quoted(key)),
        None => String::new(),
    }
}

/// The image of the settings, with the tag of the running KubeVirt.
fn default_image(kubevirt: Option<&KubeVirt>, settings: &VbiosInjectionSettings) -> ImageReference {
    let image = &settings.default_sidecar_image;
    let version = kubevirt.and_then(KubeVirt::version).filter(|_| settings.auto_detect_version);
    version.and_then(|version| image.with_tag(&version)).unwrap_or_else(|| image.clone())
}

/// Warns if the ROM is made for another device than the one that gets it, if that is one of Harvester's PCIDevices.
fn mismatch(rom: Rom, name: &str, context: &Context<'_>) -> Option<String> {
    let (vendor, device) = rom.ids?;
    PciAddress::of_pci_device(name)?;
    let pci_device = context.lookups.device(&PCI_DEVICE, name).ok()?;
    let rom = format!("{vendor:04x}:{device:04x}");
    let ids = pci_device.ids().to_ascii_lowercase();
    (ids != rom).then(|| {
        format!(
            "the ROM says that it is for the device {rom}, but it goes to {} ({ids}); use a ROM of that device",
            pci_device.name()
        )
    })
}
