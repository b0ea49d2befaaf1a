//! PCI passthrough: the guest gets host devices by PCI address.

use super::feature::{Context, Feature, Plan};
use super::host_devices::{self, Bus, HostDeviceSettings, NamedBy};
use super::reference::Reference;
use super::switch;
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{KUBEVIRT, PCI_DEVICE, PCI_DEVICE_CLAIM};
use crate::settings::{Count, choice, section};
use crate::values::pci::PciAddress;
use crate::vm::place::{HOST_DEVICE, NODE_SELECTOR};

section! {
    /// Setting `pciPassthrough`.
    PciPassthroughSettings("PCI passthrough") {
        ..host: HostDeviceSettings;
        /// The devices in the virtual machine's template count, too.
        max_devices: Count = Count(8), "maxDevices", "maximum host devices per VM";
        /// With auto, the names of Harvester's PCI devices if the cluster has them, otherwise names made of the address, as the
        /// original webhook wrote them. Kubernetes has no resources with such names.
        device_names: PciDeviceNames = PciDeviceNames::Auto, "deviceNames", "names of host devices";
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
        /// By Harvester's PCIDevice if the cluster has them, otherwise by address.
        Auto = "auto",
        /// By Harvester's PCIDevice.
        Harvester = "harvester",
        /// By its PCI address.
        Address = "address",
    }
}

pub(super) static FEATURE: Feature = Feature {
    name: "pci-passthrough",
    adds: &[&HOST_DEVICE, &NODE_SELECTOR],
    settings: |settings| &settings.pci_passthrough.host.feature,
    plan,
    reference: Reference {
    settings: "pciPassthrough",
    example: "'{\"devices\": [\"0000:00:02.0\"]}'",
    gives: "the guest gets the PCI devices at these addresses",
    page: "passthrough.md#pci-devices",
    takes: "`{\"devices\": [\"0000:00:02.0\", \"node1/0000:03:00.0\"]}`",
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
        Access::to(Verbs::Get, &[&KUBEVIRT]).what("the feature gate `HostDevices`").without("the gate is not checked"),
    ],
    },
};

static BUS: Bus = Bus {
    name: "PCI",
    notation: "PCI address",
    example: "0000:00:02.0",
    settings: "pciPassthrough",
    objects: &PCI_DEVICE,
    claims: &PCI_DEVICE_CLAIM,
    claims_enable: true,
    name_is_address: true,
    read: |text| text.parse::<PciAddress>().map(|address| address.to_string()).map_err(|error| error.to_string()),
    counts: |_| true,
    counted: "host",
    resources: |devices, _| {
        let addresses = devices.iter().filter_map(|device| device.parse().ok());
        Ok(addresses.map(PciAddress::device_name).collect())
    },
    prefix: "pci-device",
    warning: Some(
        "PCI devices are named by their addresses, but Kubernetes has no resources with such names, so the VirtualMachine will \
         not start",
    ),
    remedy: None,
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    switch::check_names(value, "which devices", FEATURE.reference.example)?;
    let settings = &context.settings.pci_passthrough;
    let named_by = match settings.device_names {
        PciDeviceNames::Auto => NamedBy::Auto,
        PciDeviceNames::Harvester => NamedBy::Harvester,
        PciDeviceNames::Address => NamedBy::Other,
    };
    host_devices::plan(&BUS, &settings.host, settings.max_devices, named_by, value, context)
}
