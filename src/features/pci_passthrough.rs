//! PCI passthrough: the guest gets host devices by their PCI addresses.

use super::host_devices::{DeviceKind, HostDeviceSettings, Names};
#[cfg(feature = "describe")]
use super::reference::Reference;
use super::{Context, Failure, Feature, Plan, host_devices};
use crate::cluster::Kind;
#[cfg(feature = "describe")]
use crate::cluster::access::{Access, Condition, Verbs};
use crate::kinds::pci::PciAddress;
use crate::settings::{Count, choice, section};
use crate::vm::entry::{HOST_DEVICE, NODE_SELECTOR};

section! {
    /// Setting `pciPassthrough`.
    PciPassthroughSettings("PCI passthrough") {
        ..host: HostDeviceSettings;
        /// Those in the virtual machine's template are counted, too.
        max_devices: Count = Count(8), "maxDevices", "maximum host devices per VM";
        /// With auto, Harvester's names where it has PCI devices, else names made of the address, as the original webhook wrote
        /// them; Kubernetes has no resources with such names.
        device_names: DeviceNames = DeviceNames::Auto, "deviceNames", "names of host devices";
    }
}

impl PciPassthroughSettings {
    /// Whether host devices are named without Harvester.
    pub(crate) fn names_by_address(&self) -> bool {
        self.device_names == DeviceNames::Address
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

pub(super) static FEATURE: Feature = Feature {
    name: "pci-passthrough",
    options: &[],
    adds: &[&HOST_DEVICE, &NODE_SELECTOR],
    settings: |settings| &settings.pci_passthrough.host.feature,
    plan,
    #[cfg(feature = "describe")]
    reference: Reference {
        settings: "pciPassthrough",
        example: "'{\"devices\": [\"0000:00:02.0\"]}'",
        gives: "the guest gets the PCI devices at these addresses",
        page: "passthrough.md#pci-devices",
        takes: "`{\"devices\": [\"0000:00:02.0\", \"node1/0000:03:00.0\"]}`",
        effect: "`domain.devices.hostDevices` gets each device",
        options: &[],
        looks_up: &[
            Access {
                kinds: &[Kind::PciDevice, Kind::PciDeviceClaim],
                verbs: Verbs::List,
                what: "where the device is, and whether it is enabled for passthrough; read by name for a new VM whose node \
                       is known",
                without: "the directive fails and says what to grant",
                needed: &[Condition::IsNot("pciPassthrough.deviceNames", "address")],
            },
            Access {
                kinds: &[Kind::KubeVirt],
                verbs: Verbs::Get,
                what: "the feature gate `HostDevices`",
                without: "the gate is not checked",
                needed: &[],
            },
        ],
    },
};

pub(super) static KIND: DeviceKind = DeviceKind {
    bus: "PCI",
    is_pci: true,
    named: "PCI address",
    example: "0000:00:02.0",
    counted: "host",
    settings: "pciPassthrough",
    objects: Kind::PciDevice,
    claims: Kind::PciDeviceClaim,
    read: |text| text.parse::<PciAddress>().map(|address| address.to_string()).map_err(|error| error.to_string()),
    resources: by_address,
    prefix: "pci-device",
};

fn plan(value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure> {
    let settings = &context.settings.pci_passthrough;
    let names = match settings.device_names {
        DeviceNames::Auto => Names::Auto,
        DeviceNames::Harvester => Names::Harvester,
        DeviceNames::Address => Names::Elsewhere,
    };
    host_devices::plan(&KIND, &settings.host, (names, settings.max_devices.0), value, context)
}

/// The names that stand for the addresses.
fn by_address(devices: &[String], _: &Context<'_>) -> Result<Vec<String>, Failure> {
    let addresses = devices.iter().filter_map(|device| device.parse().ok());
    Ok(addresses.map(PciAddress::device_name).collect())
}
