//! vBIOS injection: a passed-through device gets its ROM. KubeVirt has no field for a ROM, so a hook sidecar adds it to
//! the definition of the guest at each start.

mod dump;
mod error;
mod rom;
mod sidecar;
mod target;

pub(crate) use sidecar::with_new_names;

use serde_json::Value;

use super::feature::{Context, Feature, Plan};
use super::reference::{OptionReference, Reference};
use super::switch;
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{
    CONFIG_MAP, ClusterError, ConfigMap, Gate, KUBEVIRT, KubeVirt, PCI_DEVICE, SUBJECT_ACCESS_REVIEW,
};
use crate::settings::{FeatureSettings, choice, section};
use crate::text::{self, Quoted};
use crate::values::image::ImageReference;
use crate::values::name::{LABEL, SUBDOMAIN};
use crate::values::pattern::Pattern;
use crate::values::pci::PciAddress;
use crate::vm::Sidecars;
use crate::vm::place::{CONFIG_MAP_VOLUME, HOOK_SIDECAR};
use error::VbiosError;
use rom::Rom;
use sidecar::{Work, sidecar};
use target::{ANY, Devices, Target, mismatch, target};

section! {
    /// Setting `vbiosInjection`.
    VbiosInjectionSettings("vBIOS injection") {
        ..feature: FeatureSettings;
        /// The image of the hook's container. It must contain Python 3.9 or later. In an air-gapped cluster, name a mirror of it.
        default_sidecar_image: ImageReference = ImageReference::sidecar_shim(), "defaultSidecarImage", "sidecar image";
        /// If off, the policy does not change the image's tag.
        auto_detect_version: bool = true, "autoDetectVersion", "match the image's tag to the running KubeVirt";
        /// Glob patterns, which compare repository, tag and digest each. quay.io/kubevirt/sidecar-shim admits every tag and digest of
        /// this repository, and no other one. With a tag, as in quay.io/kubevirt/sidecar-shim:v1.*, a pattern admits only such tags,
        /// and no image with a digest, because a container runtime then ignores the tag. With a digest, it admits only images with
        /// such a digest. A * does not go beyond the part that it is in, nor from the registry into the path. If the list is empty,
        /// a VM may name any image.
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
const ADDRESS_OPTION: &str = "guest-address";
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
    options: &[DEVICE_OPTION, ADDRESS_OPTION, IMAGE_OPTION],
};

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "vbiosInjection",
    example: "igpu-rom",
    gives: "a passed-through GPU gets the ROM in this ConfigMap",
    page: "vbios.md",
    takes: "the name of a ConfigMap with the ROM under `binaryData.rom`",
    effect: "a hook sidecar gives the device its ROM at each start",
    options: &[
        OptionReference {
            name: DEVICE_OPTION,
            takes: "the name of a host device or GPU of the VM, or what `pci-passthrough` takes: its PCI address, with or \
                        without its node, or its vendor and device ids",
            meaning: "which device gets the ROM, if the VM has several and the ROM does not tell",
        },
        OptionReference {
            name: ADDRESS_OPTION,
            takes: "a PCI address on bus `00`, such as `00:02.0`",
            meaning: "the place of the device in the guest; the drivers of Intel's iGPUs expect `00:02.0`",
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
            .what("the feature gate `Sidecar`, the version, and which host devices are PCI devices")
            .without("the gate is not checked, and the sidecar uses the image in the settings"),
        Access::to(Verbs::Get, &[&PCI_DEVICE])
            .what("the device that gets the ROM")
            .without("the ROM is not compared with the device"),
    ],
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    switch::reject_bare_switch(value, "which ConfigMap has the ROM", REFERENCE.example)?;
    let settings = &context.settings.vbios_injection;
    let sidecars = context.vm.hook_sidecars()?;
    check_names(value, &sidecars, context)?;
    if settings.require_user_access && (context.is_requested || !was_given(value, context)) {
        check_access(value, context)?;
    }
    let devices = Devices::of(context.vm)?;
    let rom = rom(value, context)?;
    let Target { names, device } = target(&rom, &devices, &sidecars, context)?;
    let guest_address = guest_address(context)?;
    let parse = |text: &str| text.parse().map_err(|error| VbiosError::Image { value: text.to_owned(), error });
    let named_image = context.directives.option(IMAGE_OPTION)?.map(parse).transpose()?;
    let kubevirt = context.lookups.kubevirt().ok();
    if let Some(version) = kubevirt.as_ref().filter(|kubevirt| kubevirt.is_before(2)).and_then(|it| it.version()) {
        return Err(VbiosError::OldKubeVirt { version }.into());
    }
    let warning = context.lookups.check_gate("Sidecar")?;
    let image = named_image.unwrap_or_else(|| default_image(kubevirt.as_deref(), settings));
    let allowed = &settings.allowed_sidecar_images;
    if !allowed.is_empty() && !allowed.iter().any(|pattern| image.is_admitted_by(pattern)) {
        return Err(VbiosError::ImageNotAllowed { image, allowed: Pattern::list(allowed) }.into());
    }

    let mut plan = Plan { applied: value.to_owned(), ..Plan::default() };
    plan.warnings.extend(warning);
    if names == ANY {
        let warning = "the VirtualMachine has no host device and no GPU that the ROM could be for; add pci-passthrough";
        plan.warnings.push(warning.to_owned());
    }
    plan.warnings.extend(device.and_then(|device| mismatch(&rom, device, context)));
    plan.warnings.extend(rom.open_end.map(|end| {
        format!(
            "the ROM says that it has another image at byte {end}, but the file ends there; if the guest needs that image, dump the \
             ROM again"
        )
    }));
    if kubevirt.is_some_and(|kubevirt| kubevirt.gate("Plugins") == Gate::On) {
        let warning = "KubeVirt's feature gate Plugins is on: if there is a Plugin, KubeVirt loses the ROM, or does not start a \
                       VirtualMachine with PCI devices; use no plugins together with vbios-injection";
        plan.warnings.push(warning.to_owned());
    }
    if settings.rom_delivery == RomDelivery::Volume {
        plan.entries.push(CONFIG_MAP_VOLUME.entry(VOLUME, value));
    }
    let work = Work { config_map: value, devices: &names, guest_address };
    plan.entries.push(HOOK_SIDECAR.entry("", &sidecar(&image, &work, settings)));
    Ok(plan)
}

/// The place that the device gets in the guest, if the VirtualMachine asks for one. libvirt refuses a place that another
/// device has. It moves its own root ports away.
fn guest_address(context: &Context<'_>) -> anyhow::Result<Option<PciAddress>> {
    let Some(option) = context.directives.option(ADDRESS_OPTION)? else { return Ok(None) };
    let slot_of = |address: &str| address.strip_prefix("0000:00:")?.strip_suffix(".0").map(str::to_owned);
    let is_place =
        |address: &PciAddress| slot_of(&address.to_string()).is_some_and(|slot| !["00", "1f"].contains(&slot.as_str()));
    let Some(address) = option.parse().ok().filter(is_place) else {
        return Err(VbiosError::GuestAddress { value: option.to_owned() }.into());
    };
    if context.vm.is_placed_by_kubevirt() {
        return Err(VbiosError::GuestAddressByKubeVirt.into());
    }
    let is_in_slot = |place: &str| place.parse().is_ok_and(|place: PciAddress| place.is_of_same_device_as(address));
    match context.vm.guest_addresses().find(|(_, place)| is_in_slot(place)) {
        Some((device, _)) => Err(VbiosError::GuestAddressTaken { address, device: text::list(&[device]) }.into()),
        None => Ok(Some(address)),
    }
}

/// Whether the feature already gave the VirtualMachine the ROM in this ConfigMap.
fn was_given(name: &str, context: &Context<'_>) -> bool {
    context.had.iter().map(|added| &added.entry).any(|entry| {
        let sidecar: Value = serde_json::from_str(&entry.value).unwrap_or_default();
        entry.place == &CONFIG_MAP_VOLUME && entry.value == name
            || sidecar.pointer("/configMap/name").is_some_and(|config_map| config_map == name)
    })
}

/// Checks that the requester may read the ConfigMap with the ROM.
fn check_access(name: &str, context: &Context<'_>) -> Result<(), VbiosError> {
    let namespace = context.namespace;
    let requester = context.asker().map_err(|why| VbiosError::NobodyAsks { name: name.to_owned(), why })?;
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
    let is_of_sidecar = |name: &str| sidecars.volumes_of_others().iter().any(|volume| volume == name);
    if context.settings.vbios_injection.rom_delivery == RomDelivery::Volume {
        let is_taken = volumes.iter().any(|volume| volume.name == VOLUME && volume.config_map != name);
        return match is_taken {
            true => Err(VbiosError::VolumeTaken.into()),
            false if is_of_sidecar(VOLUME) => Err(VbiosError::VolumeOfSidecar.into()),
            false => Ok(()),
        };
    }
    if !LABEL.allows(name) {
        return Err(VbiosError::NameOfVolume.into());
    }
    let taken = if volumes.iter().any(|volume| volume.name == name) {
        "a volume of the VirtualMachine"
    } else if is_of_sidecar(name) {
        "another hook sidecar"
    } else if POD_VOLUMES.contains(&name) {
        "a volume of every KubeVirt pod"
    } else {
        return Ok(());
    };
    Err(VbiosError::NameTaken(taken).into())
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

/// What the ConfigMap has instead of `binaryData.rom`, for a message.
fn describe_keys(config_map: &ConfigMap) -> String {
    match (config_map.data.get("rom"), config_map.binary_data.first_key()) {
        // kubectl writes a file that is text under `data`.
        (Some(text), _) => match dump::encoded(text) {
            Some((what, cure)) => format!(", only data.rom, which is {what}; {cure}"),
            None => ", only data.rom, which cannot hold bytes".to_owned(),
        },
        (None, Some(key)) => format!(", but {}", Quoted(key)),
        (None, None) => String::new(),
    }
}

/// The image of the settings, with the tag of the running KubeVirt.
fn default_image(kubevirt: Option<&KubeVirt>, settings: &VbiosInjectionSettings) -> ImageReference {
    let image = &settings.default_sidecar_image;
    let version = kubevirt.and_then(KubeVirt::version).filter(|_| settings.auto_detect_version);
    version.and_then(|version| image.with_tag(&version)).unwrap_or_else(|| image.clone())
}
