//! The features, in the order in which they are planned. No feature calls the plan of another one, or knows the response.

mod allowed;
mod allowed_nodes;
mod cpu_pinning;
mod cpu_vendor;
pub(crate) mod feature;
mod gpu_device_plugin;
pub(crate) mod host_devices;
mod hugepages;
mod memory;
mod nested_virt;
mod numa;
mod pci_passthrough;
pub(crate) mod record;
pub mod reference;
pub(crate) mod switch;
mod usb_passthrough;
pub(crate) mod vbios_injection;

use serde_json::Value;

use crate::settings::{Description, GeneralSettings, SettingsError, default_settings, read_settings, section};
use feature::Feature;
use reference::Reference;

/// Lists the features: for each, its module, the type of its settings, and their key.
macro_rules! features {
    ($($(#[doc = $doc:literal])+ $module:ident: $settings:ident, $key:literal;)+) => {
        /// The features, in the order in which they are planned and applied.
        pub(crate) static FEATURES: &[&Feature] = &[$(&$module::FEATURE,)+];

        /// What the reference says of the features, in the same order. The module does not contain it.
        static REFERENCES: &[&Reference] = &[$(&$module::REFERENCE,)+];

        section! {
            /// All settings, each with a valid value.
            Settings("") {
                ..general: GeneralSettings;
                $($(#[doc = $doc])+ $module: $module::$settings, $key;)+
            }
        }
    };
}

// Devices come first: they do not depend on CPUs or memory, but the node of a device decides about both. A ROM belongs
// to a device that an earlier feature may have added, and NUMA needs pinned CPUs and hugepages.
features! {
    /// The feature `pci-passthrough`.
    pci_passthrough: PciPassthroughSettings, "pciPassthrough";
    /// The feature `usb-passthrough`.
    usb_passthrough: UsbPassthroughSettings, "usbPassthrough";
    /// The feature `gpu-device-plugin`.
    gpu_device_plugin: GpuDevicePluginSettings, "gpuDevicePlugin";
    /// The feature `vbios-injection`.
    vbios_injection: VbiosInjectionSettings, "vbiosInjection";
    /// The feature `nested-virt`.
    nested_virt: NestedVirtSettings, "nestedVirtualization";
    /// The feature `cpu-pinning`.
    cpu_pinning: CpuPinningSettings, "cpuPinning";
    /// The feature `hugepages`.
    hugepages: HugepagesSettings, "hugepages";
    /// The feature `numa`.
    numa: NumaSettings, "numa";
}

/// The names of the features.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().map(|feature| feature.name)
}

/// The names of all options.
pub(crate) fn option_names() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().flat_map(|feature| feature.options.iter().copied())
}

impl Default for Settings {
    fn default() -> Self {
        default_settings(Self::read_section)
    }
}

impl Settings {
    /// All settings, as the form and the chart need them.
    pub fn description() -> Description {
        Description::section("", "", Self::describe())
    }

    /// Reads settings. A setting that is `null`, `""`, `[]` or `{}` counts as not set, and has its default.
    ///
    /// # Errors
    /// Every problem in the settings: each unknown setting or directive, and each value that a setting does not take.
    pub fn read(settings: &Value) -> Result<Self, SettingsError> {
        read_settings(settings, |root| {
            let settings = Self::read_section(root);
            settings.general.default_directives.check_names(root, &names().chain(option_names()).collect::<Vec<_>>());
            settings
        })
    }

    /// Like [`Settings::read`], but from JSON text.
    ///
    /// # Errors
    /// The errors of [`Settings::read`], and text that is not JSON.
    pub fn parse(text: &[u8]) -> Result<Self, SettingsError> {
        Self::read(&serde_json::from_str(std::str::from_utf8(text)?)?)
    }
}
