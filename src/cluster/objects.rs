//! The objects that the policy looks up, as the slim types that it needs.

use crate::json::Json;
use crate::kinds::pci::PciAddress;

/// A Kubernetes node.
#[derive(Debug)]
pub(crate) struct Node {
    labels: Vec<(String, String)>,
}

impl Node {
    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// The cluster's KubeVirt object: what it lets a VM have.
#[derive(Debug)]
pub(crate) struct KubeVirt {
    feature_gates: Vec<String>,
    device_resources: Vec<String>,
    observed_version: String,
}

impl KubeVirt {
    /// The tag that upstream gives the images of the running version: `v` and the version, without what a distribution
    /// put behind it.
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

    /// Whether a feature gate that is off by default is on.
    pub(crate) fn has_gate(&self, name: &str) -> bool {
        self.feature_gates.iter().any(|gate| gate == name)
    }

    /// Whether KubeVirt gives a guest a PCI or mediated device for the resource.
    pub(crate) fn serves_device(&self, resource: &str) -> bool {
        self.device_resources.iter().any(|name| name == resource)
    }
}

/// A PCI device of a node, as Harvester's add-on finds it.
#[derive(Debug, Clone)]
pub(crate) struct PciDevice {
    /// Its name, made of the node's name and the address; its claim has the same.
    pub(crate) name: String,
    pub(crate) address: Option<PciAddress>,
    pub(crate) node: String,
    /// The extended resource that stands for devices of its kind.
    pub(crate) resource_name: String,
    /// The devices of a node that can only be passed through together; empty if there are no others.
    pub(crate) iommu_group: String,
    /// Vendor and device id, as `8086:3e91`.
    pub(crate) ids: String,
}

/// A ConfigMap that should hold a ROM.
#[derive(Debug)]
pub(crate) struct ConfigMap {
    /// `binaryData.rom`, in base64.
    pub(crate) rom: Option<String>,
    /// Whether there is a `data.rom`, which cannot be one.
    pub(crate) has_text_rom: bool,
    /// Another key under `binaryData`.
    pub(crate) other_key: Option<String>,
}

/// The text at the path; empty where there is none.
fn text(json: &Json<'_>, path: &[&str]) -> String {
    json.at(path).and_then(Json::as_str).unwrap_or_default().to_owned()
}

pub(super) fn to_node(json: &Json<'_>) -> Node {
    let labels = json.at(&["metadata", "labels"]).map(Json::members).unwrap_or_default();
    Node {
        labels: labels
            .iter()
            .map(|(key, value)| {
                (key.as_ref().to_owned(), value.as_str().unwrap_or_default().to_owned())
            })
            .collect(),
    }
}

pub(super) fn to_kubevirt(json: &Json<'_>) -> KubeVirt {
    let configuration = |path: &[&str]| {
        json.at(&["spec", "configuration"]).and_then(|json| json.at(path)).map(Json::items)
    };
    let gates = configuration(&["developerConfiguration", "featureGates"]).unwrap_or_default();
    let devices = ["pciHostDevices", "mediatedDevices"]
        .into_iter()
        .flat_map(|list| configuration(&["permittedHostDevices", list]).unwrap_or_default());
    KubeVirt {
        feature_gates: gates.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        observed_version: text(json, &["status", "observedKubeVirtVersion"]),
        device_resources: devices.map(|device| text(device, &["resourceName"])).collect(),
    }
}

pub(super) fn to_pci_device(json: &Json<'_>) -> PciDevice {
    let status = |key: &str| text(json, &["status", key]);
    PciDevice {
        name: text(json, &["metadata", "name"]),
        address: status("address").parse().ok(),
        node: status("nodeName"),
        resource_name: status("resourceName"),
        iommu_group: status("iommuGroup"),
        ids: format!("{}:{}", status("vendorId"), status("deviceId")),
    }
}

pub(super) fn to_config_map(json: &Json<'_>) -> ConfigMap {
    let keys = json.get("binaryData").map(Json::members).unwrap_or_default();
    ConfigMap {
        rom: json.at(&["binaryData", "rom"]).and_then(Json::as_str).map(str::to_owned),
        has_text_rom: json.at(&["data", "rom"]).is_some(),
        other_key: keys.first().map(|(key, _)| key.as_ref().to_owned()),
    }
}

pub(super) fn to_user_data(json: &Json<'_>) -> Option<String> {
    let keys = ["userdata", "userData", "user-data"];
    let mut texts = keys.into_iter().filter_map(|key| json.at(&["data", key])?.as_str());
    texts.find(|text| !text.is_empty()).map(str::to_owned)
}

/// The name of a claim for which passthrough is on.
pub(super) fn to_claim(json: &Json<'_>) -> Option<String> {
    let is_on = matches!(json.at(&["status", "passthroughEnabled"]), Some(Json::Bool(true)));
    is_on.then(|| text(json, &["metadata", "name"]))
}
