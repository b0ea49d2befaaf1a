//! The policy's settings: the tree. Those of a feature stand with the feature. Knows neither VM nor cluster.

#[cfg(feature = "describe")]
mod describe;
mod general;
mod reader;
mod value;

use crate::features::gpu_device_plugin::GpuDevicePluginSettings;
use crate::features::nested_virt::NestedVirtSettings;
use crate::features::pci_passthrough::PciPassthroughSettings;
use crate::features::vbios_injection::VbiosInjectionSettings;
use crate::json::{Json, Shape};
#[cfg(feature = "describe")]
pub use describe::{Content, Description};
pub(crate) use general::{ErrorHandling, FeatureSettings};
use general::{KubeVirtObject, PolicyServer, UserDataSettings};
use reader::Problem;
pub use reader::SettingsError;
pub(crate) use reader::{Choice, Section, Setting, SettingValue, choice, section};
pub(crate) use value::Count;

section! {
    /// All settings, each with a valid value.
    Settings("") {
        /// Writes the annotations -applied and -error, which say what was done. What the policy added is written down in any
        /// case.
        add_tracking_annotations: bool = true, "addTrackingAnnotations", "Record on the VM what was applied";
        /// Annotations of the virtual machine, or its labels. Options and records are annotations in any case.
        config_source: ConfigSource = ConfigSource::Annotations, "configSource", "Where directives are read";
        /// Directives in cloud-init user data.
        user_data: UserDataSettings, "userData";
        /// The cluster's one KubeVirt object.
        kubevirt: KubeVirtObject, "kubevirt";
        /// The service account that policy-server looks things up as.
        policy_server: PolicyServer, "policyServer";
        /// The feature `nested-virt`.
        nested_virtualization: NestedVirtSettings, "nestedVirtualization";
        /// The feature `pci-passthrough`.
        pci_passthrough: PciPassthroughSettings, "pciPassthrough";
        /// The feature `gpu-device-plugin`.
        gpu_device_plugin: GpuDevicePluginSettings, "gpuDevicePlugin";
        /// The feature `vbios-injection`.
        vbios_injection: VbiosInjectionSettings, "vbiosInjection";
    }
}

choice! {
    /// Where directives are read.
    ConfigSource {
        /// The VirtualMachine's annotations.
        Annotations = "annotations",
        /// The VirtualMachine's labels.
        Labels = "labels",
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(&Json::Null, &mut Vec::new())
    }
}

impl Settings {
    /// All settings as the form and the chart need them.
    #[cfg(feature = "describe")]
    pub fn description() -> Description {
        Self::describe()
    }

    /// Reads settings from JSON; whatever is `null`, `""`, `[]` or `{}` is not set and has its default.
    ///
    /// # Errors
    /// Every problem of the settings: text that is not JSON, an unknown setting, a value that a setting does not take.
    pub fn parse(text: &[u8]) -> Result<Self, SettingsError> {
        let text = std::str::from_utf8(text).map_err(|_| SettingsError(vec![Problem::NotUtf8]))?;
        Self::parse_text(Some(text))
    }

    /// As [`Settings::parse`]; none at all is the defaults.
    pub(crate) fn parse_text(text: Option<&str>) -> Result<Self, SettingsError> {
        let json = match text {
            Some(text) => Json::parse(text, &Shape::Whole)?,
            None => Json::Null,
        };
        let mut problems = Vec::new();
        let settings = Self::of(&json, &mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError(problems)) }
    }

    /// Whether settings switch user data on, without a look at the others.
    pub(crate) fn reads_user_data(text: Option<&str>) -> bool {
        static USER_DATA: Shape = Shape::OnlyMembers(&[("userData", Shape::OnlyMembers(&[("enabled", Shape::Whole)]))]);
        let json = text.and_then(|text| Json::parse(text, &USER_DATA).ok());
        let enabled = json.as_ref().and_then(|json| json.at(&["userData", "enabled"]));
        matches!(enabled, Some(Json::Bool(true)))
    }

    fn of(json: &Json<'_>, problems: &mut Vec<Problem>) -> Self {
        let mut root = Section::new("", json, problems);
        // The form of the Rancher UI writes it.
        root.ignore_if_empty("description");
        let settings = Self::read(&mut root);
        root.finish();
        settings
    }
}
