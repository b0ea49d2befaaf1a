//! The settings, section by section, with their defaults.

use crate::kinds::image::ImageReference;
use crate::kinds::name::{LABEL, SUBDOMAIN};
use crate::kinds::pattern::Pattern;

use super::reader::{Count, Section, Setting, choice, section};
use crate::json::Json;

section! {
    /// The settings that every feature has.
    FeatureSettings(s) {
        /// A feature that is off ignores its directive.
        enabled: bool = s.get("enabled", true),
        /// The fate of a request when the feature fails.
        error_handling: ErrorHandling = s.get("errorHandling", ErrorHandling::Reject),
    }
}

choice! {
    /// The fate of a request when a feature fails.
    ErrorHandling {
        /// The request is denied.
        Reject = "reject",
        /// The request is allowed; an annotation and a warning tell.
        AllowAndLog = "allow-and-log",
        /// The request is allowed; the directive is removed.
        StripLabel = "strip-label",
    }
}

section! {
    /// Setting `userData`.
    UserData(s) {
        /// Whether user data is read at all.
        enabled: bool = s.get("enabled", false),
        /// Whether user data that stands in Secrets is read too.
        read_secrets: bool = s.get("readSecrets", false),
    }
}

section! {
    /// Setting `kubevirt`: where the KubeVirt object is.
    KubeVirtObject(s) {
        /// Its namespace.
        namespace: String = s.name("namespace", "harvester-system", &LABEL),
        /// Its name.
        name: String = s.name("name", "kubevirt", &SUBDOMAIN),
    }
}

section! {
    /// Setting `policyServer`: who asks the API server, where it does not say so itself.
    PolicyServer(s) {
        /// The service account's name.
        service_account: String = s.name("serviceAccount", "policy-server", &SUBDOMAIN),
        /// The service account's namespace.
        namespace: String = s.name("namespace", "kubewarden", &LABEL),
    }
}

section! {
    /// Setting `nestedVirtualization`.
    NestedVirtualization(s) {
        /// The settings that every feature has.
        feature: FeatureSettings = FeatureSettings::read(s),
        /// The vendor of all nodes, if they have one.
        cpu_vendor: CpuVendor = s.get("cpuVendor", CpuVendor::Auto),
    }
}

choice! {
    /// The vendor of the nodes' CPUs.
    CpuVendor {
        /// Found out for each VM.
        Auto = "auto",
        /// AMD: `svm`.
        Amd = "amd",
        /// Intel: `vmx`.
        Intel = "intel",
    }
}

section! {
    /// Setting `vbiosInjection`.
    VbiosInjection(s) {
        /// The settings that every feature has.
        feature: FeatureSettings = FeatureSettings::read(s),
        /// The hook sidecar's image.
        default_sidecar_image: ImageReference = s.get("defaultSidecarImage", ImageReference::sidecar_shim()),
        /// Whether the image's tag follows the version of the running KubeVirt.
        auto_detect_version: bool = s.get("autoDetectVersion", true),
        /// The hook protocol's version.
        hook_version: HookVersion = s.get("hookVersion", HookVersion::V1Alpha3),
        /// How the ROM reaches QEMU.
        rom_delivery: RomDelivery = s.get("romDelivery", RomDelivery::Sidecar),
        /// The images that a VM may name; empty is any.
        allowed_sidecar_images: Vec<Pattern> = s.get("allowedSidecarImages", Vec::new()),
        /// The fate of the VM when the hook cannot do its work.
        on_hook_failure: OnHookFailure = s.get("onHookFailure", OnHookFailure::Fail),
    }
}

choice! {
    /// The version of KubeVirt's hook protocol.
    HookVersion {
        /// The sidecar ends when the VM does.
        V1Alpha3 = "v1alpha3",
        /// The sidecar stays.
        V1Alpha2 = "v1alpha2",
    }
}

choice! {
    /// How the ROM reaches QEMU.
    RomDelivery {
        /// Through a folder that the sidecar shares with QEMU.
        Sidecar = "sidecar",
        /// Through a volume of the VM.
        Volume = "volume",
    }
}

choice! {
    /// The fate of the VM when the hook cannot do its work.
    OnHookFailure {
        /// The VM does not start.
        Fail = "fail",
        /// The VM starts without the ROM.
        Continue = "continue",
    }
}

section! {
    /// Setting `pciPassthrough`.
    PciPassthrough(s) {
        /// The settings that every feature has.
        feature: FeatureSettings = FeatureSettings::read(s),
        /// The most host devices of a VM, those the user wrote included.
        max_devices: usize = s.get("maxDevices", Count(8)).0,
        /// How a host device is named.
        device_names: DeviceNames = s.get("deviceNames", DeviceNames::Auto),
        /// Whether a node that the directive names becomes the VM's node selector.
        pin_to_node: bool = s.get("pinToNode", true),
        /// Which devices a VM of a namespace may take; empty is any.
        allowed_devices: Vec<(Pattern, Vec<Pattern>)> = s.patterns_by_pattern("allowedDevices"),
    }
}

choice! {
    /// How a host device is named.
    DeviceNames {
        /// As Harvester does where it has PCI devices, else by address.
        Auto = "auto",
        /// By Harvester's PCIDevice.
        Harvester = "harvester",
        /// By its PCI address.
        Address = "address",
    }
}

section! {
    /// Setting `gpuDevicePlugin`.
    GpuDevicePlugin(s) {
        /// The settings that every feature has.
        feature: FeatureSettings = FeatureSettings::read(s),
        /// The most devices of a resource that a VM may ask for.
        max_devices: usize = s.get("maxDevices", Count(8)).0,
        /// The extended resources that a VM may name.
        allowed_plugins: Vec<Pattern> = s.get("allowedPlugins", PLUGINS.map(Pattern::from).to_vec()),
        /// Whether the guest gets a device too.
        attach_device: AttachDevice = s.get("attachDevice", AttachDevice::Auto),
    }
}

/// The vendors' own device plugins.
const PLUGINS: [&str; 3] = ["nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu"];

choice! {
    /// Whether a GPU device-plugin resource also becomes a device of the guest.
    AttachDevice {
        /// Where KubeVirt serves the resource as a device.
        Auto = "auto",
        /// Never.
        Never = "never",
    }
}
