//! KubeVirt's own object.

use serde::Deserialize;

use super::kind::{Kind, Object, Provider};
use crate::values::usb::UsbIds;

/// `kubevirt.io/v1`, `KubeVirt`.
pub static KUBEVIRT: Kind = Kind::of(
    Provider::KubeVirt,
    "kubevirt.io/v1",
    "KubeVirt",
    "kubevirts",
    &[
        "spec.configuration.developerConfiguration.featureGates",
        "spec.configuration.permittedHostDevices",
        "status.observedKubeVirtVersion",
    ],
);

/// The cluster's KubeVirt object, which says what VMs can have.
pub(crate) type KubeVirt = Object<Spec, Status>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    configuration: Configuration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    developer_configuration: DeveloperConfiguration,
    permitted_host_devices: PermittedHostDevices,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeveloperConfiguration {
    feature_gates: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PermittedHostDevices {
    pci_host_devices: Vec<PermittedDevice>,
    mediated_devices: Vec<PermittedDevice>,
    usb: Vec<PermittedDevice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PermittedDevice {
    resource_name: String,
    /// PCI devices only: the vendor and device ids, such as `10DE:1EB8`.
    pci_vendor_selector: String,
    /// USB devices only.
    selectors: Vec<UsbSelector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct UsbSelector {
    vendor: String,
    product: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Status {
    observed_kube_virt_version: String,
}

/// Why KubeVirt would refuse what a feature adds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    /// Cause: the gate is off. On Harvester, `HostDevices` is on, and `Sidecar` is off in every release. KubeVirt needs `NUMA` only
    /// before 1.4
    /// Cure: add the gate to those of the KubeVirt object; how to [switch on `Sidecar`](vbios.md#3-switch-on-kubevirts-gate-sidecar)
    #[error(
        "KubeVirt's feature gate {0} is off, so KubeVirt would refuse the VirtualMachine; have the administrator add {0} to \
         spec.configuration.developerConfiguration.featureGates of the KubeVirt object"
    )]
    Off(&'static str),
}

impl KubeVirt {
    /// The tag of upstream's images for the running version: `v` and the version, without what a distribution appended to it.
    pub(crate) fn version(&self) -> Option<String> {
        let version = self.status.observed_kube_virt_version.trim_start_matches('v');
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
        let version = self.version().unwrap_or_default();
        let mut numbers = version.trim_start_matches('v').split('.').flat_map(str::parse);
        numbers.next().zip(numbers.next()).is_some_and(|found| found < (1, minor))
    }

    /// Whether the configuration lists a feature gate.
    pub(crate) fn lists_gate(&self, name: &str) -> bool {
        self.spec.configuration.developer_configuration.feature_gates.iter().any(|gate| gate == name)
    }

    /// Checks that the configuration enables a feature gate that is off by default.
    pub(super) fn require_gate(&self, name: &'static str) -> Result<(), GateError> {
        if self.lists_gate(name) { Ok(()) } else { Err(GateError::Off(name)) }
    }

    /// Whether KubeVirt gives a guest a PCI or mediated device if it asks for the resource.
    pub(crate) fn serves_device(&self, resource: &str) -> bool {
        self.serves_pci_device(resource) || has_resource(&self.permitted().mediated_devices, resource)
    }

    /// Whether KubeVirt gives a guest a PCI device if it asks for the resource.
    pub(crate) fn serves_pci_device(&self, resource: &str) -> bool {
        has_resource(&self.permitted().pci_host_devices, resource)
    }

    /// Whether KubeVirt gives a guest a USB device or a mediated device if it asks for the resource.
    pub(crate) fn serves_other_device(&self, resource: &str) -> bool {
        let permitted = self.permitted();
        let is_other = has_resource(&permitted.usb, resource) || has_resource(&permitted.mediated_devices, resource);
        is_other && !self.serves_pci_device(resource)
    }

    /// Whether KubeVirt starts no guest with devices of other resources than those that it serves. Source:
    /// `pkg/virt-controller/services/renderresources.go:493`, `validatePermittedHostDevices`.
    pub(crate) fn limits_devices(&self) -> bool {
        let PermittedHostDevices { pci_host_devices, mediated_devices, usb } = self.permitted();
        [pci_host_devices, mediated_devices, usb].iter().any(|devices| !devices.is_empty())
    }

    /// The vendor and device ids of the PCI devices that KubeVirt gives a guest for a resource, such as `10de:1eb8`, if all
    /// have the same.
    pub(crate) fn pci_ids(&self, resource: &str) -> Option<String> {
        let mut devices = self.permitted().pci_host_devices.iter().filter(|device| device.resource_name == resource);
        let ids = devices.next()?.pci_vendor_selector.to_ascii_lowercase();
        devices.all(|other| other.pci_vendor_selector.eq_ignore_ascii_case(&ids)).then_some(ids)
    }

    /// The resource for which KubeVirt gives a guest this USB device, and no other device with it.
    pub(crate) fn usb_resource(&self, ids: UsbIds) -> Option<&str> {
        let is_permitted = |device: &&PermittedDevice| match device.selectors.as_slice() {
            [one] => UsbIds::of_parts(&one.vendor, &one.product) == Some(ids),
            _ => false,
        };
        self.permitted().usb.iter().find(is_permitted).map(|device| device.resource_name.as_str())
    }

    fn permitted(&self) -> &PermittedHostDevices {
        &self.spec.configuration.permitted_host_devices
    }
}

fn has_resource(devices: &[PermittedDevice], resource: &str) -> bool {
    devices.iter().any(|device| device.resource_name == resource)
}
