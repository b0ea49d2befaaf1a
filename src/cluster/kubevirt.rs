//! KubeVirt's own object.

use super::kinds::{KindFacts, Object, text};
use crate::json::{Json, Shape};
use crate::kinds::usb::UsbIds;

pub(super) static KUBEVIRT: KindFacts = KindFacts {
    api_version: "kubevirt.io/v1",
    kind: "KubeVirt",
    resource: "kubevirts",
    fields: &[
        "spec.configuration.developerConfiguration.featureGates",
        "spec.configuration.permittedHostDevices",
        "status.observedKubeVirtVersion",
    ],
    object: &Shape::OnlyMembers(&[
        ("status", Shape::OnlyMembers(&[("observedKubeVirtVersion", Shape::Whole)])),
        ("spec", Shape::OnlyMembers(&[("configuration", CONFIGURATION)])),
    ]),
};

const CONFIGURATION: Shape = Shape::OnlyMembers(&[
    ("developerConfiguration", Shape::OnlyMembers(&[("featureGates", Shape::Whole)])),
    ("permittedHostDevices", Shape::Whole),
]);

/// The cluster's KubeVirt object: what it lets a VM have.
#[derive(Debug)]
pub(crate) struct KubeVirt {
    feature_gates: Vec<String>,
    pci_devices: Vec<String>,
    mediated_devices: Vec<String>,
    /// The resources that stand for a single USB device.
    usb_resources: Vec<(UsbIds, String)>,
    observed_version: String,
}

impl KubeVirt {
    /// The tag that upstream gives the images of the running version: `v` and the version, without what a distribution
    /// appended.
    pub(crate) fn version(&self) -> Option<String> {
        let version = self.observed_version.strip_prefix('v').unwrap_or(&self.observed_version);
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

    /// Whether the running version is known to be older than KubeVirt 1 with this minor version.
    pub(crate) fn is_before(&self, minor: u32) -> bool {
        let version = self.version().unwrap_or_default();
        let mut parts = version.trim_start_matches('v').split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(found))) => (major, found) < (1, minor),
            _ => false,
        }
    }

    /// Whether a feature gate that is off by default is on.
    pub(crate) fn has_gate(&self, name: &str) -> bool {
        self.feature_gates.iter().any(|gate| gate == name)
    }

    /// Whether KubeVirt gives a guest a PCI or mediated device for the resource.
    pub(crate) fn serves_device(&self, resource: &str) -> bool {
        self.serves_pci_device(resource) || self.mediated_devices.iter().any(|name| name == resource)
    }

    /// Whether KubeVirt gives a guest a PCI device for the resource.
    pub(crate) fn serves_pci_device(&self, resource: &str) -> bool {
        self.pci_devices.iter().any(|name| name == resource)
    }

    /// The resource for which KubeVirt gives a guest the USB device, and none beside it.
    pub(crate) fn usb_resource(&self, ids: UsbIds) -> Option<&str> {
        let resource = self.usb_resources.iter().find(|(permitted, _)| *permitted == ids);
        resource.map(|(_, resource)| resource.as_str())
    }
}

impl Object for KubeVirt {
    fn read(json: &Json<'_>) -> Self {
        let configuration =
            |path: &[&str]| json.at(&["spec", "configuration"]).and_then(|json| json.at(path)).map(Json::items);
        let gates = configuration(&["developerConfiguration", "featureGates"]).unwrap_or_default();
        let usb = |device: &Json<'_>| match device.get("selectors").map(Json::items) {
            Some([one]) => {
                let ids = UsbIds::of_parts(&text(one, &["vendor"]), &text(one, &["product"]))?;
                Some((ids, text(device, &["resourceName"])))
            }
            _ => None,
        };
        let usb_devices = configuration(&["permittedHostDevices", "usb"]).unwrap_or_default();
        let resources = |list| {
            let devices = configuration(&["permittedHostDevices", list]).unwrap_or_default();
            devices.iter().map(|device| text(device, &["resourceName"])).collect()
        };
        Self {
            usb_resources: usb_devices.iter().filter_map(usb).collect(),
            feature_gates: gates.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            observed_version: text(json, &["status", "observedKubeVirtVersion"]),
            pci_devices: resources("pciHostDevices"),
            mediated_devices: resources("mediatedDevices"),
        }
    }
}
