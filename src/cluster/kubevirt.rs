//! KubeVirt's own object.

use serde::Deserialize;

use super::kind::{Kind, Provider};
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
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct KubeVirt {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
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
    usb: Vec<PermittedUsbDevice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PermittedDevice {
    resource_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PermittedUsbDevice {
    resource_name: String,
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
struct Status {
    observed_kube_virt_version: String,
}

impl KubeVirt {
    /// The tag of upstream's images for the running version: `v` and the version, without what a distribution appended to it.
    pub(crate) fn version(&self) -> Option<String> {
        let version = self.status.observed_kube_virt_version.trim_start_matches('v');
        let (core, suffix) = match version.split_once(['-', '+']) {
            Some((core, suffix)) => (core, Some(suffix)),
            None => (version, None),
        };
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        if core.split('.').count() != 3 || !core.split('.').all(is_number) {
            return None;
        }
        let is_upstream = |suffix: &&str| {
            let stages = ["alpha.", "beta.", "rc."];
            stages.iter().any(|stage| suffix.strip_prefix(stage).is_some_and(is_number))
        };
        Some(match suffix.filter(is_upstream) {
            Some(suffix) => format!("v{core}-{suffix}"),
            None => format!("v{core}"),
        })
    }

    /// Whether the running version is known, and older than KubeVirt 1 with this minor version.
    pub(crate) fn is_before(&self, minor: u32) -> bool {
        let version = self.version().unwrap_or_default();
        let mut parts = version.trim_start_matches('v').split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(found))) => (major, found) < (1, minor),
            _ => false,
        }
    }

    /// Whether the configuration enables a feature gate that is off by default.
    pub(crate) fn has_gate(&self, name: &str) -> bool {
        self.configuration().developer_configuration.feature_gates.iter().any(|gate| gate == name)
    }

    /// Whether KubeVirt gives a guest a PCI or mediated device if it asks for the resource.
    pub(crate) fn serves_device(&self, resource: &str) -> bool {
        self.serves_pci_device(resource) || has_resource(&self.permitted().mediated_devices, resource)
    }

    /// Whether KubeVirt gives a guest a PCI device if it asks for the resource.
    pub(crate) fn serves_pci_device(&self, resource: &str) -> bool {
        has_resource(&self.permitted().pci_host_devices, resource)
    }

    /// The resource for which KubeVirt gives a guest this USB device, and no other device with it.
    pub(crate) fn usb_resource(&self, ids: UsbIds) -> Option<&str> {
        let is_permitted = |device: &&PermittedUsbDevice| match device.selectors.as_slice() {
            [one] => UsbIds::of_parts(&one.vendor, &one.product) == Some(ids),
            _ => false,
        };
        self.permitted().usb.iter().find(is_permitted).map(|device| device.resource_name.as_str())
    }

    fn configuration(&self) -> &Configuration {
        &self.spec.configuration
    }

    fn permitted(&self) -> &PermittedHostDevices {
        &self.configuration().permitted_host_devices
    }
}

fn has_resource(devices: &[PermittedDevice], resource: &str) -> bool {
    devices.iter().any(|device| device.resource_name == resource)
}
