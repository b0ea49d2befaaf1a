//! The features: each turns its directive into a plan, or an error. None knows another, or the response.

mod allowed;
mod cpu_pinning;
mod gpu_device_plugin;
pub(crate) mod host_devices;
mod hugepages;
mod nested_virt;
mod numa;
mod pci_passthrough;
pub(crate) mod record;
#[cfg(feature = "describe")]
pub mod reference;
mod switch;
mod usb_passthrough;
mod vbios_injection;

use crate::cluster::{Kind, LookupError, Lookups, Node};
use crate::directives::{Asked, Directives};
use crate::json::Json;
use crate::request::Requester;
#[cfg(feature = "describe")]
use crate::settings::Description;
use crate::settings::{FeatureSettings, GeneralSettings, SettingsError, parse_settings, read_settings, section};
use crate::vm::entry::{Entry, EntryKind, HOST_DEVICE};
use crate::vm::{Placement, VirtualMachine};
use host_devices::HostDeviceSettings;
use record::Recorded;

/// Lists the features: the module, the type of its settings and their key.
macro_rules! features {
    ($($(#[doc = $doc:literal])+ $module:ident: $settings:ident, $key:literal;)+) => {
        /// The features, in the order in which they are planned and applied.
        pub(crate) static FEATURES: &[&Feature] = &[$(&$module::FEATURE,)+];

        section! {
            /// All settings, each with a valid value.
            Settings("") {
                ..general: GeneralSettings;
                $($(#[doc = $doc])+ $module: $module::$settings, $key;)+
            }
        }
    };
}

features! {
    /// The feature `nested-virt`.
    nested_virt: NestedVirtSettings, "nestedVirtualization";
    /// The feature `cpu-pinning`.
    cpu_pinning: CpuPinningSettings, "cpuPinning";
    /// The feature `hugepages`.
    hugepages: HugepagesSettings, "hugepages";
    /// The feature `numa`.
    numa: NumaSettings, "numa";
    /// The feature `pci-passthrough`.
    pci_passthrough: PciPassthroughSettings, "pciPassthrough";
    /// The feature `usb-passthrough`.
    usb_passthrough: UsbPassthroughSettings, "usbPassthrough";
    /// The feature `gpu-device-plugin`.
    gpu_device_plugin: GpuDevicePluginSettings, "gpuDevicePlugin";
    /// The feature `vbios-injection`.
    vbios_injection: VbiosInjectionSettings, "vbiosInjection";
}

impl Default for Settings {
    fn default() -> Self {
        read_settings(&Json::Null, Self::read).0
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
        parse_settings(std::str::from_utf8(text).map(Some)?, Self::read)
    }

    /// As [`Settings::parse`]; none at all is the defaults.
    pub(crate) fn parse_text(text: Option<&str>) -> Result<Self, SettingsError> {
        parse_settings(text, Self::read)
    }
}

/// One feature.
pub(crate) struct Feature {
    /// Its name, as it stands in the directive's key.
    pub(crate) name: &'static str,
    /// The options that go with its directive.
    pub(crate) options: &'static [&'static str],
    /// The kinds of entries that it adds.
    pub(crate) adds: &'static [&'static EntryKind],
    /// Its part of the settings that every feature has.
    pub(crate) settings: fn(&Settings) -> &FeatureSettings,
    /// Plans what the directive's value needs; `None` where it switches the feature off. An obstacle is an error in words for
    /// the user: what it is, and what to do.
    pub(crate) plan: fn(value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure>,
    /// What users and administrators need to know of it.
    #[cfg(feature = "describe")]
    pub(crate) reference: reference::Reference,
}

/// Why a feature cannot be applied, in words for the user. Each feature has an enum of its own for its reasons;
/// beyond the feature only the words matter.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

/// The facts that a feature plans with.
pub(crate) struct Context<'c> {
    /// The VirtualMachine with what the features before have changed, and without what this one added.
    pub(crate) vm: &'c VirtualMachine<'c>,
    /// The entries that the feature added earlier. Those that a plan asks for again stay as they are; the rest go.
    pub(crate) ours: &'c [Recorded],
    /// The value that the feature was applied from before this update, if it was.
    pub(crate) applied_before: Option<&'c str>,
    /// The VirtualMachine's namespace.
    pub(crate) namespace: &'c str,
    /// Who sends the request.
    pub(crate) requester: &'c Requester<'c>,
    /// The options beside the directive.
    pub(crate) directives: &'c Directives<'c, 'c>,
    pub(crate) settings: &'c Settings,
    pub(crate) lookups: &'c Lookups<'c>,
    /// The VirtualMachine before this update.
    pub(crate) old: Option<&'c VirtualMachine<'c>>,
}

impl Context<'_> {
    /// Whether a directive asks for host devices or GPUs. A feature is planned without those of the later features.
    fn asks_for_devices(&self) -> bool {
        let adds_devices = |feature: &&&Feature| feature.adds.contains(&&HOST_DEVICE);
        let is_on = |feature: &&&Feature| (feature.settings)(self.settings).enabled;
        let mut features = FEATURES.iter().filter(adds_devices).filter(is_on);
        features.any(|feature| matches!(self.directives.get(feature.name), Asked::Yes(_)))
    }

    /// The node that a directive for host devices names, and so selects. A feature is planned without those of the later features.
    fn named_node(&self) -> Option<String> {
        let node =
            |(feature, settings, kind): (&Feature, &HostDeviceSettings, _)| match self.directives.get(feature.name) {
                Asked::Yes(directive) if settings.feature.enabled && settings.pin_to_node => {
                    host_devices::named_node(directive.text().ok()?, kind)
                }
                _ => None,
            };
        let (pci, usb) = (&self.settings.pci_passthrough.host, &self.settings.usb_passthrough.host);
        let pci = node((&pci_passthrough::FEATURE, pci, &pci_passthrough::KIND));
        pci.or_else(|| node((&usb_passthrough::FEATURE, usb, &usb_passthrough::KIND)))
    }

    /// Looks up the nodes that the VirtualMachine may run on, as far as its placement tells: one by its name, else the one that is
    /// given, else all.
    fn nodes(&self, placement: &Placement<'_>, name: Option<&str>) -> Result<Vec<Node>, LookupError> {
        let mut nodes = match placement.hostname().or(name) {
            Some(name) => vec![self.lookups.get(Kind::Node, name, None)?],
            None => self.lookups.list(Kind::Node)?,
        };
        nodes.retain(|node: &Node| placement.allows(|key| node.label(key)));
        Ok(nodes)
    }
}

/// The entries that a feature needs, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All entries that the directive stands for. What is in place is left as it is, and is not recorded.
    pub(crate) entries: Vec<Entry>,
    /// The value of the `-applied` annotation.
    pub(crate) applied: String,
    /// Warnings, true also where the changes are dropped.
    pub(crate) warnings: Vec<String>,
}
