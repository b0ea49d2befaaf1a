//! USB passthrough: the guest gets USB devices by vendor and product.

use super::feature::{Context, Feature, Plan};
use super::host_devices::{
    self, Bus, HostDeviceSettings, HostDevicesError, NamedBy, PLACEMENT, Partner, USB_PREFIX, is_usb,
};
use super::reference::Reference;
use super::switch;
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{KUBEVIRT, USB_DEVICE, USB_DEVICE_CLAIM};
use crate::settings::{Count, choice, section};
use crate::values::usb::UsbIds;
use crate::vm::place::{HOST_DEVICE, NODE_SELECTOR};

section! {
    /// Setting `usbPassthrough`.
    UsbPassthroughSettings("USB passthrough") {
        ..host: HostDeviceSettings;
        /// The devices in the virtual machine's template count, too.
        max_devices: Count = Count(4), "maxDevices", "maximum USB devices per VM";
        /// With auto, Harvester's USB devices if the cluster has them, otherwise those that KubeVirt permits under
        /// permittedHostDevices.usb.
        device_names: UsbDeviceNames = UsbDeviceNames::Auto, "deviceNames", "where USB devices are looked up";
    }
}

choice! {
    /// Where USB devices are looked up.
    UsbDeviceNames {
        /// Harvester's USBDevices if the cluster has them, otherwise KubeVirt's.
        Auto = "auto",
        /// Harvester's USBDevices.
        Harvester = "harvester",
        /// KubeVirt's `permittedHostDevices.usb`.
        Permitted = "permitted",
    }
}

pub(super) static FEATURE: Feature = Feature {
    name: "usb-passthrough",
    adds: &[&HOST_DEVICE, &NODE_SELECTOR],
    settings: |settings| &settings.usb_passthrough.host.feature,
    plan,
    options: &[],
};

/// What the reference says of it.
pub(super) static REFERENCE: Reference = Reference {
    settings: "usbPassthrough",
    example: "'{\"devices\": [\"046d:c52b\"]}'",
    gives: "the guest gets these USB devices, by vendor and product",
    page: "passthrough.md#usb-devices",
    takes: "`{\"devices\": [\"046d:c52b\", \"node1/1050:0407\"]}`",
    effect: "`domain.devices.hostDevices` gets each device",
    options: &[],
    looks_up: &[
        Access::to(Verbs::List, &[&USB_DEVICE])
            .what("where the device is, and whether it is enabled for passthrough")
            .without("the directive fails and says what to grant")
            .only_if(&[Condition::IsNot("usbPassthrough.deviceNames", "permitted")]),
        Access::to(Verbs::Get, &[&USB_DEVICE_CLAIM])
            .what("who claimed the device, with `requireClaimOwner`")
            .without("the directive fails and says what to grant")
            .only_if(&[Condition::IsNot("usbPassthrough.deviceNames", "permitted")]),
        Access::to(Verbs::Get, &[&KUBEVIRT])
            .what("the feature gate `HostDevices`; without Harvester, also `permittedHostDevices.usb`")
            .without("the gate is not checked; without Harvester, the directive fails"),
        PLACEMENT,
    ],
};

static BUS: Bus = Bus {
    name: "USB",
    notation: "USB device",
    example: "046d:c52b",
    partner: Partner {
        name: "pci-passthrough",
        settings: |settings| &settings.pci_passthrough.host.feature,
        is_first: true,
    },
    settings: "usbPassthrough",
    objects: &USB_DEVICE,
    claims: &USB_DEVICE_CLAIM,
    claims_enable: false,
    name_is_address: false,
    is_countable: |_| false,
    read: |text| text.parse::<UsbIds>().map(|ids| ids.to_string()).map_err(|error| error.to_string()),
    counts: is_usb,
    counted: "USB",
    resource,
    permitted: "usb of the KubeVirt object, as the only selector of a resource",
    prefix: USB_PREFIX,
    remedy: Some("set usbPassthrough.deviceNames to permitted"),
};

fn plan(value: &str, context: &Context<'_>) -> anyhow::Result<Plan> {
    switch::reject_bare_switch(value, "which devices", REFERENCE.example)?;
    let settings = &context.settings.usb_passthrough;
    let named_by = match settings.device_names {
        UsbDeviceNames::Auto => NamedBy::Auto,
        UsbDeviceNames::Harvester => NamedBy::Harvester,
        UsbDeviceNames::Permitted => NamedBy::Other,
    };
    host_devices::plan(&BUS, &settings.host, settings.max_devices, named_by, value, context)
}

/// The resource for a device in a cluster without Harvester: that which KubeVirt permits for it. A device with a name in
/// Harvester can be any device of its vendor and product.
fn resource(device: &str, _: &str, context: &Context<'_>) -> anyhow::Result<String> {
    let kubevirt = context.lookups.kubevirt().map_err(|error| HostDevicesError::NoPermissions { error, bus: &BUS })?;
    let of_object = || UsbIds::of_usb_device(device).map(|(_, ids)| ids);
    let resource = device.parse().ok().or_else(of_object).and_then(|ids| kubevirt.usb_resource(ids));
    let resource = resource.ok_or_else(|| HostDevicesError::NotPermitted { device: device.to_owned(), bus: &BUS })?;
    Ok(resource.to_owned())
}
