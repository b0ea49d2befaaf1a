//! The policy's settings: the tree. Knows neither VM nor cluster.

mod general;
mod reader;

use crate::json::{Json, Shape};
pub use general::{
    AttachDevice, CpuVendor, DeviceNames, ErrorHandling, FeatureSettings, GpuDevicePlugin, HookVersion, KubeVirtObject,
    NestedVirtualization, OnHookFailure, PciPassthrough, PolicyServer, RomDelivery, UserData, VbiosInjection,
};
pub use reader::SettingsError;
use reader::{Problem, Section, Setting, choice, section};

section! {
    /// All settings, each with a valid value.
    Settings(s) {
        /// Whether `-applied` and `-error` annotations are written.
        add_tracking_annotations: bool = s.get("addTrackingAnnotations", true),
        /// Where directives are read.
        config_source: ConfigSource = s.get("configSource", ConfigSource::Annotations),
        /// Directives in cloud-init user data.
        user_data: UserData = s.section("userData", UserData::read),
        /// The cluster's one KubeVirt object.
        kubevirt: KubeVirtObject = s.section("kubevirt", KubeVirtObject::read),
        /// The service account that policy-server looks things up as.
        policy_server: PolicyServer = s.section("policyServer", PolicyServer::read),
        /// The feature `nested-virt`.
        nested_virtualization: NestedVirtualization =
            s.section("nestedVirtualization", NestedVirtualization::read),
        /// The feature `vbios-injection`.
        vbios_injection: VbiosInjection = s.section("vbiosInjection", VbiosInjection::read),
        /// The feature `pci-passthrough`.
        pci_passthrough: PciPassthrough = s.section("pciPassthrough", PciPassthrough::read),
        /// The feature `gpu-device-plugin`.
        gpu_device_plugin: GpuDevicePlugin = s.section("gpuDevicePlugin", GpuDevicePlugin::read),
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
