//! Harvester's devices: its add-on, the claims, and whether KubeVirt permits what is enabled.

use std::collections::BTreeSet;

use vm_feature_manager_policy::cluster::words::lookup;
use vm_feature_manager_policy::cluster::{ClusterError, PCI_DEVICE, PCI_DEVICE_CLAIM, USB_DEVICE, USB_DEVICE_CLAIM};

use super::{Facts, Finding, name, some};

/// The features that read Harvester's devices.
const FEATURES: [&str; 3] = ["pci-passthrough", "usb-passthrough", "gpu-device-plugin"];

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    if !facts.is_on(&FEATURES) {
        return Vec::new();
    }
    let mut findings = vec![add_on(facts)];
    findings.extend(claims(facts));
    findings.extend(permitted(facts));
    findings
}

fn add_on(facts: &Facts) -> Finding {
    const CHECK: &str = "Harvester";
    let (devices, claims) = (facts.of(&PCI_DEVICE), facts.of(&PCI_DEVICE_CLAIM));
    match (devices, claims) {
        (Some(devices), Some(claims)) => {
            Finding::ok(CHECK, format!("{} PCI devices, of which {} are claimed", devices.len(), claims.len()))
        }
        _ if !facts.is_harvester() => Finding::ok(
            CHECK,
            "the settings are those for KubeVirt without Harvester, and there are none of its devices",
        ),
        _ => {
            let (why, remedy) = lookup(ClusterError::KindNotServed, &PCI_DEVICE, "get", None);
            Finding::by_use(facts.is_used(&FEATURES), CHECK, why, remedy)
        }
    }
}

/// The claims whose devices are not passed through (yet).
fn claims(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "claims";
    let claims = facts.of(&PCI_DEVICE_CLAIM)?;
    let is_waiting = |claim: &&serde_json::Value| claim["status"]["passthroughEnabled"] != true;
    let waiting: Vec<String> = claims.iter().filter(is_waiting).map(name).collect();
    let devices: BTreeSet<String> = facts.of(&PCI_DEVICE)?.iter().map(name).collect();
    let lost: Vec<String> = claims.iter().map(name).filter(|claim| !devices.contains(claim)).collect();
    if !lost.is_empty() {
        let found = format!("claims without a device: {}", some(&lost));
        return Some(Finding::warning(CHECK, found, "remove the claims, or bring the devices back"));
    }
    if !waiting.is_empty() {
        let found = format!("devices that are claimed, but not enabled: {}", some(&waiting));
        let cure = "look at the devices in Harvester's UI: a driver may hold them, or the node needs a restart";
        return Some(Finding::warning(CHECK, found, cure));
    }
    Some(Finding::ok(CHECK, "all claimed PCI devices are enabled for passthrough"))
}

/// Whether KubeVirt permits the devices that are enabled.
fn permitted(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "permittedHostDevices";
    let kubevirt = facts.kubevirt()?;
    let mut resources = BTreeSet::new();
    for (devices, claims) in [(&PCI_DEVICE, &PCI_DEVICE_CLAIM), (&USB_DEVICE, &USB_DEVICE_CLAIM)] {
        let claimed: BTreeSet<String> = facts.of(claims).unwrap_or_default().iter().map(name).collect();
        let devices = facts.of(devices).unwrap_or_default().iter().filter(|device| claimed.contains(&name(device)));
        resources.extend(devices.filter_map(|device| device["status"]["resourceName"].as_str().map(str::to_owned)));
    }
    if resources.is_empty() {
        return None;
    }
    let missing: Vec<String> = resources.iter().filter(|name| kubevirt.does_not_permit(name)).cloned().collect();
    Some(match missing.is_empty() {
        true => Finding::ok(CHECK, "KubeVirt permits all devices that are claimed"),
        false => Finding::by_use(
            facts.is_used(&FEATURES),
            CHECK,
            format!(
                "KubeVirt's permittedHostDevices does not list {}, so it starts no VM with such a device",
                some(&missing)
            ),
            "have the administrator add it to spec.configuration.permittedHostDevices of the KubeVirt object, or disable and \
             enable passthrough of the device again",
        ),
    })
}
