//! KubeVirt's own object.

use super::kind::{Kind, Provider};
use super::object::{Fields, Object};
use crate::text;
use crate::values::usb::UsbIds;

/// `kubevirt.io/v1`, `KubeVirt`.
pub static KUBEVIRT: Kind = Kind::of(
    Provider::KubeVirt,
    "kubevirt.io/v1",
    "KubeVirt",
    "kubevirts",
    &[
        "spec.configuration.developerConfiguration.disabledFeatureGates",
        "spec.configuration.developerConfiguration.featureGates",
        "spec.configuration.developerConfiguration.memoryOvercommit",
        "spec.configuration.permittedHostDevices",
        "status.defaultArchitecture",
        "status.observedKubeVirtVersion",
    ],
);

/// The cluster's KubeVirt object, which says what VMs can have.
#[derive(Debug)]
pub(crate) struct KubeVirt {
    feature_gates: Vec<String>,
    /// Since KubeVirt 1.8; before, a gate that is not listed is off.
    disabled_feature_gates: Vec<String>,
    /// `None` if the object does not say which devices are permitted.
    permitted: Option<PermittedHostDevices>,
    observed_version: String,
    /// The architecture of VMs that name none; empty if it is not known.
    pub(crate) default_architecture: String,
    /// How much memory guests have, as a percentage of what is requested for them.
    pub(crate) memory_overcommit: u64,
}

#[derive(Debug)]
struct PermittedHostDevices {
    pci: Vec<PermittedDevice>,
    mediated: Vec<PermittedDevice>,
    usb: Vec<PermittedDevice>,
}

#[derive(Debug)]
struct PermittedDevice {
    resource: String,
    /// PCI devices only: vendor and device, such as `10DE:27B8`.
    pci_vendor_selector: String,
    /// USB devices only: vendor and product.
    selectors: Vec<Option<UsbIds>>,
}

impl Object for KubeVirt {
    fn read(fields: Fields<'_>) -> Self {
        let selector = |ids: Fields<'_>| UsbIds::of_parts(&ids.at("vendor").text(), &ids.at("product").text());
        let device = |device: Fields<'_>| PermittedDevice {
            resource: device.at("resourceName").text(),
            pci_vendor_selector: device.at("pciVendorSelector").text(),
            selectors: device.at("selectors").items(selector),
        };
        let configuration = fields.at("spec").at("configuration");
        let developer = configuration.at("developerConfiguration");
        let permitted = configuration.at("permittedHostDevices");
        Self {
            feature_gates: developer.at("featureGates").items(Fields::text),
            disabled_feature_gates: developer.at("disabledFeatureGates").items(Fields::text),
            permitted: permitted.is_object().then(|| PermittedHostDevices {
                pci: permitted.at("pciHostDevices").items(device),
                mediated: permitted.at("mediatedDevices").items(device),
                usb: permitted.at("usb").items(device),
            }),
            observed_version: fields.at("status").at("observedKubeVirtVersion").text(),
            default_architecture: fields.at("status").at("defaultArchitecture").text(),
            memory_overcommit: developer.at("memoryOvercommit").number().filter(|percent| *percent > 0).unwrap_or(100),
        }
    }
}

/// Whether a feature gate is on, as far as that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    On,
    /// Nothing lists it, and by default it is off.
    Off,
    /// The configuration switches it off.
    Disabled,
    /// Nothing lists it, and it is not known whether it is on by default.
    Unknown,
}

impl Gate {
    /// What switches the gate on, whatever its default is, as a clause in the imperative. KubeVirt's operator rejects a gate
    /// that is in both lists (`validateFeatureGates` in `pkg/virt-operator/webhooks/kubevirt-update-admitter.go`).
    pub(crate) fn remedy(self, name: &str) -> String {
        let (what, end) = match self {
            Gate::Disabled => ("move", " from disabledFeatureGates"),
            Gate::On | Gate::Off | Gate::Unknown => ("add", ""),
        };
        format!(
            "have the administrator {what} {name}{end} to spec.configuration.developerConfiguration.featureGates of the KubeVirt \
             object"
        )
    }
}

/// Why KubeVirt would refuse what a feature adds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    /// Cause: the gate is off. On Harvester, `HostDevices` is on, and `Sidecar` is off in every release. KubeVirt needs `NUMA` and
    /// `GPU` only before 1.4
    /// Cure: "have the administrator add ... to spec.configuration.developerConfiguration.featureGates of the KubeVirt object", or "move ...
    /// from disabledFeatureGates" to that list; how to [switch on `Sidecar`](vbios.md#3-switch-on-kubevirts-gate-sidecar)
    #[error("KubeVirt's feature gate {name} is off, so KubeVirt would refuse the VirtualMachine; {remedy}")]
    Off { name: &'static str, remedy: String },
}

/// The first minor version of KubeVirt 1 that reads `disabledFeatureGates`, and the first one whose default for the
/// policy's gates is not known. In 1.9, `HostDevices`, `Sidecar` and `CPUManager` are Alpha, so they are off unless they are
/// listed. Pull request 18381 makes `HostDevices` Beta, which is on unless it is disabled.
const CAN_DISABLE_SINCE: u32 = 8;
const UNKNOWN_SINCE: u32 = 10;

impl KubeVirt {
    /// The tag of upstream's images for the running version: `v` and the version, without what a distribution appended to it.
    pub(crate) fn version(&self) -> Option<String> {
        let version = self.observed_version.trim_start_matches('v');
        let (core, suffix) = version.split_once(['-', '+']).unwrap_or((version, ""));
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        if core.split('.').count() != 3 || !core.split('.').all(is_number) {
            return None;
        }
        let is_stage = |stage| suffix.strip_prefix(stage).is_some_and(is_number);
        let is_upstream = ["alpha.", "beta.", "rc."].into_iter().any(is_stage);
        Some(if is_upstream { format!("v{core}-{suffix}") } else { format!("v{core}") })
    }

    /// Whether the running version is known, and older than KubeVirt 1 with this minor version.
    pub(crate) fn is_before(&self, minor: u32) -> bool {
        self.numbers().is_some_and(|found| found < (1, minor))
    }

    /// Major and minor version, if the running version is known.
    fn numbers(&self) -> Option<(u32, u32)> {
        let version = self.version()?;
        let (major, rest) = version.strip_prefix('v')?.split_once('.')?;
        let (minor, _) = rest.split_once('.')?;
        major.parse().ok().zip(minor.parse().ok())
    }

    /// Whether a feature gate is on that is Alpha up to KubeVirt 1.9. Follows `IsEnabled` in KubeVirt's
    /// `pkg/virt-config/featuregate/feature-gates.go:91-113`: a gate that is listed is on, even if it is disabled, too.
    pub(crate) fn gate(&self, name: &str) -> Gate {
        let Self { feature_gates, disabled_feature_gates, .. } = self;
        let has = |gates: &[String]| gates.iter().any(|gate| gate == name);
        if has(feature_gates) {
            Gate::On
        } else if has(disabled_feature_gates) && !self.is_before(CAN_DISABLE_SINCE) {
            Gate::Disabled
        } else if self.numbers().is_some_and(|found| found >= (1, UNKNOWN_SINCE)) {
            Gate::Unknown
        } else {
            Gate::Off
        }
    }

    /// Checks that a feature gate is on without which KubeVirt refuses the VirtualMachine. If it is not known, a warning
    /// says so.
    pub(super) fn require_gate(&self, name: &'static str) -> Result<Option<String>, GateError> {
        let gate = self.gate(name);
        match gate {
            Gate::On => Ok(None),
            Gate::Off | Gate::Disabled => Err(GateError::Off { name, remedy: gate.remedy(name) }),
            Gate::Unknown => Ok(Some(format!(
                "the policy does not know whether the feature gate {name} is on by default in this version of KubeVirt; if KubeVirt \
                 refuses the VirtualMachine, {}",
                gate.remedy(name)
            ))),
        }
    }

    /// Whether KubeVirt gives a guest a PCI or mediated device if it asks for the resource.
    pub(crate) fn serves_device(&self, resource: &str) -> bool {
        self.serves_pci_device(resource)
            || self.permitted().any(|permitted| has_resource(&permitted.mediated, resource))
    }

    /// Whether KubeVirt gives a guest a PCI device if it asks for the resource.
    pub(crate) fn serves_pci_device(&self, resource: &str) -> bool {
        self.permitted().any(|permitted| has_resource(&permitted.pci, resource))
    }

    /// The resources for which KubeVirt gives a guest a PCI device of this vendor and device.
    pub(crate) fn pci_resources(&self, ids: UsbIds) -> Vec<&str> {
        let devices = self.permitted().flat_map(|permitted| &permitted.pci);
        let devices = devices.filter(|device| device.pci_vendor_selector.parse() == Ok(ids));
        text::unique(devices.map(|device| device.resource.as_str()).collect())
    }

    /// Whether KubeVirt gives a guest a USB device or a mediated device if it asks for the resource.
    pub(crate) fn serves_other_device(&self, resource: &str) -> bool {
        let is_other = |permitted: &PermittedHostDevices| {
            has_resource(&permitted.usb, resource) || has_resource(&permitted.mediated, resource)
        };
        self.permitted().any(is_other) && !self.serves_pci_device(resource)
    }

    /// Whether KubeVirt starts no guest with devices of other resources than those that it serves. Source:
    /// `pkg/virt-controller/services/renderresources.go:607`, `validatePermittedHostDevices`.
    pub(crate) fn limits_devices(&self) -> bool {
        self.permitted.is_some()
    }

    /// The vendor and device ids of the PCI devices that KubeVirt gives a guest for a resource, such as `10de:1eb8`, if all
    /// have the same.
    pub(crate) fn pci_ids(&self, resource: &str) -> Option<String> {
        let devices = self.permitted().flat_map(|permitted| &permitted.pci);
        let mut devices = devices.filter(|device| device.resource == resource);
        let ids = devices.next()?.pci_vendor_selector.to_ascii_lowercase();
        devices.all(|other| other.pci_vendor_selector.eq_ignore_ascii_case(&ids)).then_some(ids)
    }

    /// The resource for which KubeVirt gives a guest this USB device, and no other device with it.
    pub(crate) fn usb_resource(&self, ids: UsbIds) -> Option<&str> {
        let is_permitted = |device: &&PermittedDevice| match device.selectors.as_slice() {
            [one] => *one == Some(ids),
            _ => false,
        };
        let mut devices = self.permitted().flat_map(|permitted| &permitted.usb);
        devices.find(is_permitted).map(|device| device.resource.as_str())
    }

    /// Whether KubeVirt's object lists the host devices that it permits, but none with this resource.
    pub(crate) fn does_not_permit(&self, resource: &str) -> bool {
        let is_missing = |permitted: &PermittedHostDevices| {
            let devices = [&permitted.pci, &permitted.mediated, &permitted.usb];
            !devices.into_iter().any(|devices| has_resource(devices, resource))
        };
        self.permitted().any(is_missing)
    }

    fn permitted(&self) -> impl Iterator<Item = &PermittedHostDevices> {
        self.permitted.iter()
    }
}

fn has_resource(devices: &[PermittedDevice], resource: &str) -> bool {
    devices.iter().any(|device| device.resource == resource)
}
