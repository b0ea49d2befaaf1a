//! PCI passthrough: the guest gets host devices by PCI address, or by vendor and device.

use super::feature::{Context, Feature, Plan};
use super::host_devices::{self, Bus, HostDeviceSettings, HostDevicesError, NamedBy, PLACEMENT, Partner};
use super::reference::Reference;
use super::switch;
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{KUBEVIRT, PCI_DEVICE, PCI_DEVICE_CLAIM};
use crate::settings::{Count, choice, section};
use crate::text;
use crate::values::pci::PciSelector;
use crate::vm::place::{HOST_DEVICE, NODE_SELECTOR};

section! {
    /// Setting `pciPassthrough`.
    PciPassthroughSettings("PCI passthrough") {
        ..host: HostDeviceSettings;
        /// The devices in the virtual machine's template count, too.
        max_devices: Count = Count(8), "maxDevices", "maximum host devices per VM";
        /// With auto, Harvester's PCI devices if the cluster has them, otherwise those that KubeVirt permits under
        /// permittedHostDevices.pciHostDevices, by vendor and device. With address, names made of the address, as the original
        /// webhook wrote them; Kubernetes has no resources with such names.
        device_names: PciDeviceNames = PciDeviceNames::Auto, "deviceNames", "where PCI devices are looked up";
        /// If several devices of a node share a resource, Kubernetes may give any of them, whichever the directive names.
        equal_devices: EqualDevices = EqualDevices::Warn, "equalDevices", "if the node has other devices with the same resource";
    }
}

impl PciPassthroughSettings {
    /// Whether host devices never get Harvester's names.
    pub(crate) fn names_by_address(&self) -> bool {
        self.device_names == PciDeviceNames::Address
    }
}

choice! {
    /// How a host device is named.
    PciDeviceNames {
        /// By Harvester's PCIDevice if the cluster has them, otherwise by KubeVirt's list.
        Auto = "auto",
        /// By Harvester's PCIDevice.
        Harvester = "harvester",
        /// By its PCI address.
        Address = "address",
    }
}

choice! {
    /// What happens if Kubernetes may give another device than the one that the directive names.
    EqualDevices {
        /// The feature is applied, with a warning.
        Warn = "warn",
        /// The directive fails.
        Deny = "deny",
    }
}

pub(super) static FEATURE: Feature = Feature {
    name: "pci-passthrough",
    adds: &[&HOST_DEVICE, &NODE_SELECTOR],
    settings: |settings| &settings.pci_passthrough.host.feature,
    plan,
    options: &[],
};

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "pciPassthrough",
    example: "'{\"devices\": [\"0000:00:02.0\"]}'",
    gives: "the guest gets these PCI devices",
    page: "passthrough.md#pci-devices",
    takes: "`{\"devices\": [\"0000:00:02.0\", \"node1/0000:03:00.*\", \"10de:27b8\"]}`",
    effect: "`domain.devices.hostDevices` gets each device",
    options: &[],
    looks_up: &[
        Access::to(Verbs::List, &[&PCI_DEVICE, &PCI_DEVICE_CLAIM])
            .what(
                "where the device is, and whether it is enabled for passthrough; read by name for a new VM whose node \
                 is known",
            )
            .without("the directive fails and says what to grant")
            .only_if(&[Condition::IsNot("pciPassthrough.deviceNames", "address")]),
        Access::to(Verbs::Get, &[&KUBEVIRT])
            .what("the feature gate `HostDevices`; without Harvester, also `permittedHostDevices.pciHostDevices`")
            .without("the gate is not checked; without Harvester, the directive fails"),
        PLACEMENT,
    ],
};

pub(super) static BUS: Bus = Bus {
    name: "PCI",
    notation: "PCI address or vendor:device",
    example: "0000:00:02.0",
    partner: Partner {
        name: "usb-passthrough",
        settings: |settings| &settings.usb_passthrough.host.feature,
        is_first: false,
    },
    settings: "pciPassthrough",
    objects: &PCI_DEVICE,
    claims: &PCI_DEVICE_CLAIM,
    claims_enable: true,
    name_is_address: true,
    read: |text| text.parse::<PciSelector>().map(|device| device.to_string()).map_err(|error| error.to_string()),
    is_countable: |text| matches!(text.parse(), Ok(PciSelector::Ids(_))),
    counts: |_| true,
    counted: "host",
    resource,
    permitted: "pciHostDevices of the KubeVirt object",
    prefix: "pci-device",
    remedy: None,
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    switch::reject_bare_switch(value, "which devices", REFERENCE.example)?;
    let settings = &context.settings.pci_passthrough;
    let named_by = match settings.device_names {
        PciDeviceNames::Auto => NamedBy::Auto,
        PciDeviceNames::Harvester => NamedBy::Harvester,
        PciDeviceNames::Address => NamedBy::Other,
    };
    host_devices::plan(&BUS, &settings.host, settings.max_devices, named_by, value, context)
}

/// The resource for a device in a cluster without Harvester: that which KubeVirt permits for its vendor and device.
fn resource(device: &str, why: &str, context: &Context<'_>) -> anyhow::Result<String> {
    let settings = &context.settings.pci_passthrough;
    match device.parse() {
        Ok(PciSelector::Function(address)) if settings.names_by_address() => Ok(address.device_name()),
        Ok(PciSelector::Ids(ids)) => {
            let error = |error| HostDevicesError::NoPermissions { error, bus: &BUS };
            let kubevirt = context.lookups.kubevirt().map_err(error)?;
            let device = device.to_owned();
            match kubevirt.pci_resources(ids).as_slice() {
                [] => Err(HostDevicesError::NotPermitted { device, bus: &BUS }.into()),
                [resource] => Ok((*resource).to_owned()),
                several => Err(HostDevicesError::SeveralResources { device, resources: text::list(several) }.into()),
            }
        }
        _ => Err(HostDevicesError::Address { device: device.to_owned(), why: why.to_owned() }.into()),
    }
}
