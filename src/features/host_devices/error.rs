//! Why a VirtualMachine cannot get its host devices.

use super::Bus;
use crate::cluster::{ClusterError, LookupError};
use crate::features::feature::NobodyAsks;

/// Why a VirtualMachine cannot get devices, although the directive is valid.
#[derive(Debug, thiserror::Error)]
pub(in crate::features) enum HostDevicesError {
    /// Cause: one of [Lookups](#lookups)
    /// Cure: the remedy there
    #[error("Harvester's {} devices cannot be looked up: {}; {}", .bus.name, .error.why(), remedy(.error, .bus))]
    Lookup { error: LookupError, bus: &'static Bus },
    /// Cause: a typing mistake, or the device moved: "no node has a", "the node ... has no" or "there is no node ..., so it has no" such
    /// device. Behind the node is who chose it, if the directive did not: "(named by usb-passthrough)", for example, or "(chosen by the
    /// VirtualMachine)". A USB device gets another name when it is plugged in again
    /// Cure: "it is on ..., so choose a node that has it, or name another device", "correct the name of the node", "look it up under
    /// PCI Devices in Harvester", or "look it up under PCI Devices in Harvester, or use the directive usb-passthrough if it is no PCI
    /// device". USB devices have a page, too; `kubectl get pcidevices` and `usbdevices` list the same. Vendor and product of a USB device
    /// stay the same
    #[error("{who} {0} device {device}; {remedy}", .bus.name)]
    NotThere { who: String, device: String, remedy: String, bus: &'static Bus },
    /// Cause: the device is not claimed, or it is a USB device that was unplugged after it was claimed
    /// Cure: Advanced, PCI Devices or USB Devices, Enable Passthrough
    #[error(
        "{device} is not enabled for passthrough on {nodes}; enable passthrough for the {} device in Harvester first",
        .bus.name
    )]
    NotEnabled { device: String, nodes: String, bus: &'static Bus },
    /// Cause: the nodes have different devices, or there are identical USB devices
    /// Cure: use the name in the message, or put the node in front as in `node1/0000:00:02.0`, or let the VirtualMachine run on only
    /// one node
    #[error("{device} matches different devices: {devices}; name one of them, as in {name}")]
    Ambiguous { device: String, devices: String, name: String },
    /// Cause: the devices are on different nodes, or no node has as many of a kind ("2 of ...") enabled
    /// Cure: choose devices that one node has, or enable passthrough for another one
    #[error("no node has all the devices: {devices}; ask for devices that one node has")]
    NoNodeHasAll { devices: String },
    /// Cause: the form or another directive adds a device of one node, and this directive asks for devices of another
    /// Cure: remove the device in the form, or name the same node in each directive
    #[error(
        "the VirtualMachine already has a host device of the node {bound}, but the devices asked for are elsewhere: \
         {devices}; use devices of one node"
    )]
    OtherNode { bound: String, devices: String },
    /// Cause: an entry of `pciPassthrough.deviceNames: address`, or of the original webhook
    /// Cure: remove the entry under `spec.template.spec.domain.devices.hostDevices`; the directive adds the right one
    #[error(
        "the VirtualMachine's host device {entry} has the resource name that is used for {address} without Harvester, and \
         Harvester does not know it; remove that entry"
    )]
    NamedByAddress { entry: String, address: String },
    /// Cause: the device got another resource, with a new driver or another vGPU profile, since the user wrote the entry
    /// Cure: correct the entry's `deviceName`, or remove the entry; the directive adds the right one
    #[error(
        "the VirtualMachine's host device {entry} has the resource {found}, but Harvester's {} device of that name has \
         {resource} now; correct or remove that entry", .bus.name
    )]
    OtherResource { entry: String, found: String, resource: String, bus: &'static Bus },
    /// Cause: "the VirtualMachine may run only on ..." another node, or "the VirtualMachine's node selector, node affinity or tolerations
    /// exclude that node"
    /// Cure: make them agree
    #[error(
        "the directive names the node {named}, but {but}; name devices of another node, or change the VirtualMachine's node \
         selector, node affinity or tolerations"
    )]
    PlacedElsewhere { named: String, but: String },
    /// Cause: the devices are only on nodes that the VM's node selector, node affinity or tolerations exclude
    /// Cure: make them agree
    #[error(
        "the VirtualMachine's node selector, node affinity or tolerations exclude every node that has the devices: {devices}; \
         change these, or ask for other devices"
    )]
    Excluded { devices: String },
    /// Cause: the setting `pciPassthrough.equalDevices` is `deny`, and "Kubernetes may give the VirtualMachine another device than ...,
    /// because its resource ... is also that of ..."
    /// Cure: `disableResourcePooling: true` in the device's claim (Harvester 1.9 or later), or passthrough for this device only
    #[error(
        "{0}; the setting pciPassthrough.equalDevices does not allow that: set disableResourcePooling in the device's \
         PCIDeviceClaim, or enable passthrough only for the device that the directive names"
    )]
    EqualDevices(String),
    /// Cause: an address, and no Harvester. In parentheses is why the policy does not look for Harvester's devices: usually one of
    /// [Lookups](#lookups)
    /// Cure: vendor and device as `lspci -nn` shows them, and an entry such as `{pciVendorSelector: "10DE:27B8", resourceName:
    /// nvidia.com/L4}` under `spec.configuration.permittedHostDevices.pciHostDevices` of the KubeVirt object
    #[error(
        "{device} is an address, but without Harvester, Kubernetes knows PCI devices only by vendor and device ({why}); name the \
         device as in 10de:27b8, and have the administrator add it to \
         spec.configuration.permittedHostDevices.pciHostDevices of the KubeVirt object"
    )]
    Address { device: String, why: String },
    /// Cause: one of [Lookups](#lookups)
    /// Cure: the remedy there
    #[error("the {} devices that KubeVirt permits cannot be looked up: {error}", .bus.name)]
    NoPermissions { error: LookupError, bus: &'static Bus },
    /// Cause: KubeVirt gives a guest only the devices that its object lists, each as a resource: "pciHostDevices of the KubeVirt object",
    /// or "usb of the KubeVirt object, as the only selector of a resource"
    /// Cure: an entry such as `{pciVendorSelector: "10DE:27B8", resourceName: nvidia.com/L4}` under `pciHostDevices`, or
    /// `{resourceName: kubevirt.io/receiver, selectors: [{vendor: "046d", product: "c52b"}]}` under `usb`
    #[error(
        "KubeVirt does not permit the {} device {device}; have the administrator add it to \
         spec.configuration.permittedHostDevices.{}", .bus.name, .bus.permitted
    )]
    NotPermitted { device: String, bus: &'static Bus },
    /// Cause: the KubeVirt object has these ids more than once under `permittedHostDevices.pciHostDevices`, with different resources.
    /// KubeVirt's own device plugin serves only the last one
    /// Cure: one entry for the ids
    #[error(
        "KubeVirt permits {device} as different resources: {resources}; have the administrator leave one of them under \
         spec.configuration.permittedHostDevices.pciHostDevices of the KubeVirt object"
    )]
    SeveralResources { device: String, resources: String },
    /// Cause: the setting `allowedDevices` does not allow the device in this namespace
    /// Cure: another device, or a pattern for it under `allowedDevices`
    #[error(
        "{device} is not allowed in the namespace {namespace}; ask for another device, or have the administrator add it \
         to the setting {}.allowedDevices", .bus.settings
    )]
    NotAllowed { device: String, namespace: String, bus: &'static Bus },
    /// Cause: the setting `requireClaimOwner` is on, and the claim names another user, or no user. The message does not say whom. A
    /// service account that writes VMs, such as that of Rancher's node driver or of a GitOps controller, is a user, too
    /// Cure: the user of the claim sets the directive, or the requester enables passthrough again
    #[error(
        "{device} was not claimed by the requester {user}, and the setting {}.requireClaimOwner gives a device only to the \
         user who claimed it; have that user set the directive, or ask for another device", .bus.settings
    )]
    NotTheOwner { device: String, user: String, bus: &'static Bus },
    /// Cause: the setting `requireClaimOwner`, and a directive that was set before this request and never applied, or another device in
    /// the place of one that is gone ("this request does not set the directive"); or a controller that writes VirtualMachines for
    /// others: that of a VirtualMachinePool or a VirtualMachineClone, or Harvester's ("this request is from ..., an account that writes
    /// VirtualMachines for others (setting controllerAccounts)")
    /// Cure: remove the directive and set it again, as the user who claimed the device
    #[error(
        "{device} is given only by a request of a user who sets the directive, because the setting {}.requireClaimOwner \
         compares that user with the user who claimed the device, but {why}; have the user who claimed it remove the \
         directive and set it again", .bus.settings
    )]
    NobodyAsks { device: String, why: NobodyAsks, bus: &'static Bus },
    /// Cause: one of the settings `requireClaimOwner` and `allowedDevices`, and devices of the same resource that the VM may not
    /// have: Kubernetes gives any of those on the VM's node. The message does not name them
    /// Cure: `disableResourcePooling: true` in the device's claim (Harvester 1.9 or later), or a device of a node where the VM may have all
    /// devices of the resource
    #[error(
        "Kubernetes may give the VirtualMachine any device of the same resource as {devices}, and on every node where the \
         VirtualMachine may run with it, there are some that it may not have (the settings {0}.requireClaimOwner and \
         {0}.allowedDevices); have the administrator set disableResourcePooling in the device's claim, or ask for a \
         device of another node", .bus.settings
    )]
    Pool { devices: String, bus: &'static Bus },
    /// Cause: one of the settings `requireClaimOwner` and `allowedDevices`, and a device of the same IOMMU group that the VM may not
    /// have, or that nobody claimed: all devices of a group go together. The message does not name it
    /// Cure: one user claims all devices of the group; patterns for all of them under `allowedDevices`
    #[error(
        "all devices of an IOMMU group go together, and the group of {devices} has one that the VirtualMachine may not have \
         (the settings {0}.requireClaimOwner and {0}.allowedDevices); have one user claim all of them, and the administrator \
         allow them, or ask for another device", .bus.settings
    )]
    Sibling { devices: String, bus: &'static Bus },
    /// Cause: the setting `requireClaimOwner` is on, but the devices have no claims
    /// Cure: switch the setting off, or use `deviceNames: auto` on Harvester
    #[error(
        "the setting {}.requireClaimOwner is on, but only Harvester's devices have claims; have the administrator switch it off",
        .bus.settings
    )]
    NoClaims { bus: &'static Bus },
}

fn remedy(error: &LookupError, bus: &Bus) -> String {
    match bus.remedy.filter(|_| !has_harvester(error)) {
        Some(remedy) => format!("{}, or {remedy} if there is no Harvester", error.remedy()),
        None => error.remedy(),
    }
}

/// Whether the cluster may have Harvester although its devices cannot be read, for now or for lack of permissions. The
/// API server refuses access only to kinds that it serves, and Harvester rejects devices with other names.
pub(super) fn has_harvester(error: &LookupError) -> bool {
    !matches!(error.cause, ClusterError::KindNotServed | ClusterError::NotDeclared | ClusterError::NotOffered)
}
