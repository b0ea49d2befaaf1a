//! USB passthrough: the guest gets USB devices by vendor and product.

use super::host_devices::{DeviceKind, HostDeviceSettings, Names, USB_PREFIX};
#[cfg(feature = "describe")]
use super::reference::Reference;
use super::{Context, Failure, Feature, Plan, host_devices};
#[cfg(feature = "describe")]
use crate::cluster::access::{Access, Condition, Verbs};
use crate::cluster::{Kind, LookupError};
use crate::kinds::usb::UsbIds;
use crate::settings::{Count, choice, section};
use crate::vm::entry::{HOST_DEVICE, NODE_SELECTOR};

section! {
    /// Setting `usbPassthrough`.
    UsbPassthroughSettings("USB passthrough") {
        ..host: HostDeviceSettings;
        /// Those in the virtual machine's template are counted, too.
        max_devices: Count = Count(4), "maxDevices", "maximum USB devices per VM";
        /// With auto, Harvester's USB devices where it has them, else those that KubeVirt permits under permittedHostDevices.usb.
        device_names: DeviceNames = DeviceNames::Auto, "deviceNames", "where USB devices are looked up";
    }
}

choice! {
    /// Where USB devices are looked up.
    DeviceNames {
        /// With Harvester where it has USB devices, else with KubeVirt.
        Auto = "auto",
        /// Harvester's USBDevices.
        Harvester = "harvester",
        /// KubeVirt's `permittedHostDevices.usb`.
        Permitted = "permitted",
    }
}

/// Why USB devices cannot be given where there is no Harvester.
#[derive(Debug, thiserror::Error)]
enum UsbPassthroughError {
    /// Cause: one of [Lookups](#lookups)
    /// Cure: the remedy there
    #[error("the USB devices that KubeVirt permits cannot be looked up: {0}")]
    Lookup(LookupError),
    /// Cause: KubeVirt gives a guest only the USB devices that its object lists, each as a resource
    /// Cure: an entry such as `{resourceName: kubevirt.io/receiver, selectors: [{vendor: "046d", product: "c52b"}]}` under
    /// `spec.configuration.permittedHostDevices.usb` of the KubeVirt object
    #[error(
        "KubeVirt does not permit the USB device {device}; have the administrator add it to \
         spec.configuration.permittedHostDevices.usb of the KubeVirt object, as the only selector of a resource"
    )]
    NotPermitted { device: String },
}

pub(super) static FEATURE: Feature = Feature {
    name: "usb-passthrough",
    options: &[],
    adds: &[&HOST_DEVICE, &NODE_SELECTOR],
    settings: |settings| &settings.usb_passthrough.host.feature,
    plan,
    #[cfg(feature = "describe")]
    reference: Reference {
        settings: "usbPassthrough",
        example: "'{\"devices\": [\"046d:c52b\"]}'",
        gives: "the guest gets these USB devices, by vendor and product",
        page: "passthrough.md#usb-devices",
        takes: "`{\"devices\": [\"046d:c52b\", \"node1/1050:0407\"]}`",
        effect: "`domain.devices.hostDevices` gets each device",
        options: &[],
        looks_up: &[
            Access {
                kinds: &[Kind::UsbDevice],
                verbs: Verbs::List,
                what: "where the device is, and whether it is enabled for passthrough",
                without: "the directive fails and says what to grant",
                needed: &[Condition::IsNot("usbPassthrough.deviceNames", "permitted")],
            },
            Access {
                kinds: &[Kind::UsbDeviceClaim],
                verbs: Verbs::Get,
                what: "who claimed the device, with `requireClaimOwner`",
                without: "the directive fails and says what to grant",
                needed: &[Condition::IsNot("usbPassthrough.deviceNames", "permitted")],
            },
            Access {
                kinds: &[Kind::KubeVirt],
                verbs: Verbs::Get,
                what: "the feature gate `HostDevices`, and `permittedHostDevices.usb` where there is no Harvester",
                without: "the gate is not checked; where there is no Harvester, the directive fails",
                needed: &[],
            },
        ],
    },
};

pub(super) static KIND: DeviceKind = DeviceKind {
    bus: "USB",
    is_pci: false,
    named: "USB device",
    example: "046d:c52b",
    counted: "USB",
    settings: "usbPassthrough",
    objects: Kind::UsbDevice,
    claims: Kind::UsbDeviceClaim,
    read: |text| text.parse::<UsbIds>().map(|ids| ids.to_string()).map_err(|error| error.to_string()),
    resources: permitted,
    prefix: USB_PREFIX,
};

fn plan(value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure> {
    let settings = &context.settings.usb_passthrough;
    let names = match settings.device_names {
        DeviceNames::Auto => Names::Auto,
        DeviceNames::Harvester => Names::Harvester,
        DeviceNames::Permitted => Names::Elsewhere,
    };
    host_devices::plan(&KIND, &settings.host, (names, settings.max_devices.0), value, context)
}

/// The resources of the devices that KubeVirt permits. One that is named as in Harvester is any of its kind.
fn permitted(devices: &[String], context: &Context<'_>) -> Result<Vec<String>, Failure> {
    let kubevirt = context.lookups.kubevirt().map_err(UsbPassthroughError::Lookup)?;
    let resource = |device: &String| {
        let of_object = || UsbIds::of_usb_device(device).map(|(_, ids)| ids);
        let resource = device.parse().ok().or_else(of_object).and_then(|ids| kubevirt.usb_resource(ids));
        let resource = resource.ok_or_else(|| UsbPassthroughError::NotPermitted { device: device.clone() })?;
        Ok(resource.to_owned())
    };
    devices.iter().map(resource).collect()
}
