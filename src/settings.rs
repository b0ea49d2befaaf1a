//! The policy's settings: the tree, its defaults, and what each value may be. Knows neither VM nor cluster.

use std::fmt;

use crate::json::{Json, Shape};
use crate::kinds::image::ImageReference;
use crate::kinds::name::{self, NameRule};
use crate::kinds::pattern::Pattern;
use crate::kinds::pci::MAX_DEVICES;
use crate::text::{self, Quoted};

/// All settings, each with a valid value.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whether `-applied` and `-error` annotations are written.
    pub add_tracking_annotations: bool,
    /// Where directives are read.
    pub config_source: ConfigSource,
    /// Directives in cloud-init user data.
    pub user_data: UserData,
    /// The cluster's one KubeVirt object.
    pub kubevirt: KubeVirtObject,
    /// The service account that policy-server looks things up as.
    pub policy_server: PolicyServer,
    /// The feature `nested-virt`.
    pub nested_virtualization: NestedVirtualization,
    /// The feature `vbios-injection`.
    pub vbios_injection: VbiosInjection,
    /// The feature `pci-passthrough`.
    pub pci_passthrough: PciPassthrough,
    /// The feature `gpu-device-plugin`.
    pub gpu_device_plugin: GpuDevicePlugin,
}

/// What every feature has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureSettings {
    /// A feature that is off ignores its directive.
    pub enabled: bool,
    /// What a failure does to the request.
    pub error_handling: ErrorHandling,
}

/// Setting `userData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserData {
    /// Whether user data is read at all.
    pub enabled: bool,
    /// Whether user data that stands in Secrets is read too.
    pub read_secrets: bool,
}

/// Setting `kubevirt`: where the KubeVirt object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeVirtObject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Setting `policyServer`: who asks the API server, where it does not say so itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServer {
    /// The service account's name.
    pub service_account: String,
    /// The service account's namespace.
    pub namespace: String,
}

/// Setting `nestedVirtualization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedVirtualization {
    /// What every feature has.
    pub feature: FeatureSettings,
    /// The vendor of all nodes, if they have one.
    pub cpu_vendor: CpuVendor,
}

/// Setting `vbiosInjection`.
#[derive(Debug, Clone, PartialEq)]
pub struct VbiosInjection {
    /// What every feature has.
    pub feature: FeatureSettings,
    /// The hook sidecar's image.
    pub default_sidecar_image: ImageReference,
    /// Whether the image's tag follows the version of the running KubeVirt.
    pub auto_detect_version: bool,
    /// The hook protocol's version.
    pub hook_version: HookVersion,
    /// How the ROM reaches QEMU.
    pub rom_delivery: RomDelivery,
    /// The images that a VM may name; empty is any.
    pub allowed_sidecar_images: Vec<Pattern>,
    /// What the hook does when it cannot do its work.
    pub on_hook_failure: OnHookFailure,
}

/// Setting `pciPassthrough`.
#[derive(Debug, Clone, PartialEq)]
pub struct PciPassthrough {
    /// What every feature has.
    pub feature: FeatureSettings,
    /// The most host devices of a VM, those the user wrote included.
    pub max_devices: usize,
    /// How a host device is named.
    pub device_names: DeviceNames,
    /// Whether a node that the directive names becomes the VM's node selector.
    pub pin_to_node: bool,
    /// Which devices a VM of a namespace may take; empty is any.
    pub allowed_devices: Vec<(Pattern, Vec<Pattern>)>,
}

/// Setting `gpuDevicePlugin`.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuDevicePlugin {
    /// What every feature has.
    pub feature: FeatureSettings,
    /// The most devices of a resource that a VM may ask for.
    pub max_devices: usize,
    /// The extended resources that a VM may name.
    pub allowed_plugins: Vec<Pattern>,
    /// Whether the guest gets a device too.
    pub attach_device: AttachDevice,
}

/// An enum whose variants are words in the settings.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl Setting for $name {
            fn takes() -> String {
                format!("one of {}", [$($word),+].join(", "))
            }

            fn read(json: &Json<'_>) -> Option<Self> {
                match json.as_str()? {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
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

choice! {
    /// What a feature's failure does to the request.
    ErrorHandling {
        /// The request is denied.
        Reject = "reject",
        /// The request is allowed; an annotation and a warning tell.
        AllowAndLog = "allow-and-log",
        /// The request is allowed; the directive is removed.
        StripLabel = "strip-label",
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
    /// What the hook does when it cannot do its work.
    OnHookFailure {
        /// The VM does not start.
        Fail = "fail",
        /// The VM starts without the ROM.
        Continue = "continue",
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

choice! {
    /// Whether a GPU device-plugin resource also becomes a device of the guest.
    AttachDevice {
        /// Where KubeVirt serves the resource as a device.
        Auto = "auto",
        /// Never.
        Never = "never",
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::read(&Json::Null, &mut Vec::new())
    }
}

impl Settings {
    /// Reads settings from JSON; whatever is `null`, `""`, `[]` or `{}` is not set and has its default.
    ///
    /// # Errors
    /// Every problem of the settings: text that is no JSON, an unknown setting, a value that a setting does not take.
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
        let settings = Self::read(&json, &mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError(problems)) }
    }

    /// Whether settings switch user data on, without a look at the others.
    pub(crate) fn reads_user_data(text: Option<&str>) -> bool {
        static USER_DATA: Shape =
            Shape::OnlyMembers(&[("userData", Shape::OnlyMembers(&[("enabled", Shape::Whole)]))]);
        let json = text.and_then(|text| Json::parse(text, &USER_DATA).ok());
        let enabled = json.as_ref().and_then(|json| json.at(&["userData", "enabled"]));
        matches!(enabled, Some(Json::Bool(true)))
    }

    /// The whole tree with its defaults, in one place.
    fn read(json: &Json<'_>, problems: &mut Vec<Problem>) -> Self {
        let mut root = Section::new("", json, problems);
        // The form of the Rancher UI writes it.
        root.ignore_if_empty("description");
        let settings = Self {
            add_tracking_annotations: root.get("addTrackingAnnotations", true),
            config_source: root.get("configSource", ConfigSource::Annotations),
            user_data: root.section("userData", |s| UserData {
                enabled: s.get("enabled", false),
                read_secrets: s.get("readSecrets", false),
            }),
            kubevirt: root.section("kubevirt", |s| KubeVirtObject {
                namespace: s.name("namespace", "harvester-system", &name::LABEL),
                name: s.name("name", "kubevirt", &name::SUBDOMAIN),
            }),
            policy_server: root.section("policyServer", |s| PolicyServer {
                service_account: s.name("serviceAccount", "policy-server", &name::SUBDOMAIN),
                namespace: s.name("namespace", "kubewarden", &name::LABEL),
            }),
            nested_virtualization: root.section("nestedVirtualization", |s| NestedVirtualization {
                feature: s.feature(),
                cpu_vendor: s.get("cpuVendor", CpuVendor::Auto),
            }),
            vbios_injection: root.section("vbiosInjection", |s| VbiosInjection {
                feature: s.feature(),
                default_sidecar_image: s.get("defaultSidecarImage", ImageReference::sidecar_shim()),
                auto_detect_version: s.get("autoDetectVersion", true),
                hook_version: s.get("hookVersion", HookVersion::V1Alpha3),
                rom_delivery: s.get("romDelivery", RomDelivery::Sidecar),
                allowed_sidecar_images: s.get("allowedSidecarImages", Vec::new()),
                on_hook_failure: s.get("onHookFailure", OnHookFailure::Fail),
            }),
            pci_passthrough: root.section("pciPassthrough", |s| PciPassthrough {
                feature: s.feature(),
                max_devices: s.get("maxDevices", Count(8)).0,
                device_names: s.get("deviceNames", DeviceNames::Auto),
                pin_to_node: s.get("pinToNode", true),
                allowed_devices: s.patterns_by_pattern("allowedDevices"),
            }),
            gpu_device_plugin: root.section("gpuDevicePlugin", |s| GpuDevicePlugin {
                feature: s.feature(),
                max_devices: s.get("maxDevices", Count(8)).0,
                allowed_plugins: s.get(
                    "allowedPlugins",
                    ["nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu"].map(Pattern::from).to_vec(),
                ),
                attach_device: s.get("attachDevice", AttachDevice::Auto),
            }),
        };
        root.finish();
        settings
    }
}

/// A value of a setting.
trait Setting: Sized {
    /// What the setting takes, as an error says it.
    fn takes() -> String;

    /// The value, if it is one that the setting takes.
    fn read(json: &Json<'_>) -> Option<Self>;
}

impl Setting for bool {
    fn takes() -> String {
        "true or false".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

/// How many devices a VM may have: 1 to 256, the most that a guest's PCI bus numbers allow for.
struct Count(usize);

impl Setting for Count {
    fn takes() -> String {
        "a whole number from 1 to 256".to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            Json::Number(number) => {
                let value = usize::try_from(number.as_u64()?).ok()?;
                (1..=MAX_DEVICES).contains(&value).then_some(Count(value))
            }
            _ => None,
        }
    }
}

impl Setting for ImageReference {
    fn takes() -> String {
        "an image reference such as registry.example.com:5000/kubevirt/sidecar-shim:v1.4.0"
            .to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        json.as_str()?.parse().ok()
    }
}

impl Setting for Vec<Pattern> {
    fn takes() -> String {
        "a list of glob patterns: ASCII text without spaces, * for any characters, ? for one"
            .to_owned()
    }

    fn read(json: &Json<'_>) -> Option<Self> {
        match json {
            // A form leaves empty rows.
            Json::Array(items) => {
                let texts = items.iter().filter(|item| !item.is_empty());
                texts.map(|item| Pattern::read(item.as_str()?)).collect()
            }
            _ => None,
        }
    }
}

/// One object of the settings tree while it is read: collects what is wrong with it.
struct Section<'s, 'j> {
    path: &'s str,
    json: &'s Json<'j>,
    known: Vec<&'static str>,
    problems: &'s mut Vec<Problem>,
}

impl<'s, 'j> Section<'s, 'j> {
    fn new(path: &'s str, json: &'s Json<'j>, problems: &'s mut Vec<Problem>) -> Self {
        if !json.is_empty() && !matches!(json, Json::Object(_)) {
            problems.push(Problem::NotAnObject { path: path.to_owned(), found: json.kind() });
        }
        Self { path, json, known: Vec::new(), problems }
    }

    /// The value at `key`, unless it is not set.
    fn value(&mut self, key: &'static str) -> Option<&'s Json<'j>> {
        self.known.push(key);
        self.json.get(key).filter(|value| !value.is_empty())
    }

    fn get<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        match self.value(key) {
            None => default,
            Some(json) => T::read(json).unwrap_or_else(|| {
                self.wrong(key, json, T::takes());
                default
            }),
        }
    }

    fn name(&mut self, key: &'static str, default: &str, rule: &NameRule) -> String {
        match self.value(key) {
            None => default.to_owned(),
            Some(json) => match json.as_str().filter(|name| rule.allows(name)) {
                Some(name) => name.to_owned(),
                None => {
                    self.wrong(key, json, rule.takes.to_owned());
                    default.to_owned()
                }
            },
        }
    }

    /// What every feature has.
    fn feature(&mut self) -> FeatureSettings {
        FeatureSettings {
            enabled: self.get("enabled", true),
            error_handling: self.get("errorHandling", ErrorHandling::Reject),
        }
    }

    /// A map from patterns to lists of patterns, or texts with commas between them: the form of the Rancher UI has no lists
    /// in maps. A namespace with an empty list may take nothing: leaving it out instead would open what the administrator
    /// closed.
    fn patterns_by_pattern(&mut self, key: &'static str) -> Vec<(Pattern, Vec<Pattern>)> {
        let Some(json) = self.value(key) else {
            return Vec::new();
        };
        let takes = "a map from namespace patterns to lists of device patterns";
        if !matches!(json, Json::Object(_)) {
            self.wrong(key, json, takes.to_owned());
        }
        let mut map = Vec::new();
        for (namespace, patterns) in json.members() {
            let namespace_pattern = Pattern::read(namespace);
            let patterns_read = match patterns {
                _ if patterns.is_empty() => Some(Vec::new()),
                Json::String(text) => text.split(',').map(|p| Pattern::read(p.trim())).collect(),
                _ => Vec::read(patterns),
            };
            match (namespace_pattern, patterns_read) {
                (Some(namespace), Some(patterns)) => map.push((namespace, patterns)),
                (None, _) => self.wrong(key, json, takes.to_owned()),
                (_, None) => {
                    let path = format!("{}.{}", self.path_of(key), Quoted(namespace));
                    let takes = format!(
                        "{}; or one text with commas between them",
                        Vec::<Pattern>::takes()
                    );
                    let problem = Problem::wrong(path, patterns, takes);
                    self.problems.push(problem);
                }
            }
        }
        map
    }

    fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 'j>) -> T) -> T {
        let json = self.value(key).unwrap_or(&Json::Null);
        let path = self.path_of(key);
        let mut section = Section::new(&path, json, self.problems);
        let value = read(&mut section);
        section.finish();
        value
    }

    fn ignore_if_empty(&mut self, key: &'static str) {
        if self.json.get(key).is_some_and(Json::is_empty) {
            self.known.push(key);
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&mut self, key: &str, json: &Json<'_>, takes: String) {
        let path = self.path_of(key);
        self.problems.push(Problem::wrong(path, json, takes));
    }

    /// Reports the keys that nothing asked for.
    fn finish(self) {
        let Self { path, json, known, problems } = self;
        for (key, _) in json.members() {
            if !known.contains(&key.as_ref()) {
                let near = text::nearest(key, known.iter().copied());
                problems.push(Problem::Unknown {
                    path: path.to_owned(),
                    key: Quoted(key).to_string(),
                    hint: match near {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("known here: {}", known.join(", ")),
                    },
                });
            }
        }
    }
}

/// How many problems a message lists: Kubernetes takes no more than 32 KiB into a status.
const LISTED: usize = 16;

/// Everything that is wrong with the settings; a message lists the first sixteen problems.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(Vec<Problem>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(LISTED).enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{problem}")?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            others => write!(f, "; and {others} more problems"),
        }
    }
}

impl From<serde_json::Error> for SettingsError {
    fn from(error: serde_json::Error) -> Self {
        SettingsError(vec![Problem::NotJson { line: error.line(), column: error.column() }])
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("the settings cannot be read: not UTF-8")]
    NotUtf8,
    #[error("the settings cannot be read: not valid JSON at line {line}, column {column}")]
    NotJson { line: usize, column: usize },
    #[error("{}: got {found}, expected an object", place(.path))]
    NotAnObject { path: String, found: &'static str },
    #[error("unknown setting {key}{}; {hint}", within(.path))]
    Unknown { path: String, key: String, hint: String },
    #[error("setting {path}: got {got}, expected {takes}")]
    Wrong { path: String, got: String, takes: String },
}

impl Problem {
    fn wrong(path: String, json: &Json<'_>, takes: String) -> Self {
        let got = match json {
            Json::String(text) => Quoted(text).to_string(),
            Json::Bool(_) | Json::Number(_) => json.to_text(),
            Json::Array(_) | Json::Object(_) => {
                format!("{} {}", json.kind(), Quoted(&json.to_text()))
            }
            Json::Raw(_) | Json::Null => json.kind().to_owned(),
        };
        Problem::Wrong { path, got, takes }
    }
}

fn place(path: &str) -> String {
    if path.is_empty() { "the settings".to_owned() } else { format!("setting {path}") }
}

fn within(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" in {path}") }
}
