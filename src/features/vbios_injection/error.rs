//! Why a device cannot get its ROM.

use super::VOLUME;
use super::rom::RomError;
use crate::cluster::LookupError;
use crate::features::feature::NobodyAsks;
use crate::text::Quoted;
use crate::values::image::{ImageReference, ImageReferenceError};
use crate::values::name::{LABEL, SUBDOMAIN};
use crate::values::pci::PciAddress;

#[derive(Debug, thiserror::Error)]
pub(super) enum VbiosError {
    /// Cause: not a name of at most 253 characters: lower-case letters, digits, - and ., a letter or digit at the ends
    /// of each part
    /// Cure: write the name as `kubectl get configmaps` prints it
    #[error("not the name of a ConfigMap; write {}", SUBDOMAIN.takes)]
    Name,
    /// Cause: not a name of at most 63 characters: lower-case letters, digits and -, a letter or digit at both ends
    /// Cure: create the ConfigMap again under a short name without dots, or use `romDelivery: volume`
    #[error(
        "KubeVirt names a pod volume after the ConfigMap, so the ConfigMap needs {}; put the ROM into a ConfigMap with such a \
         name, or have the administrator set vbiosInjection.romDelivery to volume", LABEL.takes
    )]
    NameOfVolume,
    /// Cause: the name is that of "a volume of the VirtualMachine", "another hook sidecar" or "a volume of every
    /// KubeVirt pod"
    /// Cure: put the ROM into a second ConfigMap
    #[error(
        "KubeVirt names a pod volume after the ConfigMap, but {0} already has that name; put the ROM into a second ConfigMap, \
         with another name"
    )]
    NameTaken(&'static str),
    /// Cause: with `romDelivery: volume`, the policy gives the ROM's volume this name
    /// Cure: give that volume another name, or remove it
    #[error("the VirtualMachine already has a volume {VOLUME} that is not the ROM's; rename or remove that volume")]
    VolumeTaken,
    /// Cause: with `romDelivery: volume`, the policy gives the ROM's volume this name, and KubeVirt gives it to the volume of
    /// that sidecar
    /// Cure: create that ConfigMap or claim again under another name
    #[error(
        "another hook sidecar uses a ConfigMap or claim {VOLUME}, but the ROM's volume needs that name in the pod; give that \
         sidecar one with another name"
    )]
    VolumeOfSidecar,
    /// Cause: the setting `vbiosInjection.requireUserAccess` is on, and the user may not read the ConfigMap
    /// Cure: give that user a Role to get the ConfigMap
    #[error(
        "the user {} may not get the ConfigMap {name} in the namespace {namespace}, and the setting \
         vbiosInjection.requireUserAccess gives a ROM only to users who may read it; have an administrator grant that \
         permission, or name another ConfigMap", Quoted(.user)
    )]
    NoAccess { user: String, name: String, namespace: String },
    /// Cause: one of [Lookups](#lookups)
    /// Cure: the remedy there
    #[error("whether the user may read the ConfigMap {name} cannot be determined: {error}")]
    AccessUnknown { name: String, error: LookupError },
    /// Cause: the setting `vbiosInjection.requireUserAccess`, and either a directive that was set before this request and never applied
    /// ("this request does not set the directive"), or a controller that writes VirtualMachines for others: that of a
    /// VirtualMachinePool or a VirtualMachineClone, or Harvester's
    /// Cure: remove the directive and set it again, as a user who may get the ConfigMap
    #[error(
        "the ROM in the ConfigMap {name} is given only by a request of a user who sets the directive, because the setting \
         vbiosInjection.requireUserAccess asks what that user may read, but {why}; have a user who may get the ConfigMap \
         remove the directive and set it again"
    )]
    NobodyAsks { name: String, why: NobodyAsks },
    /// Cause: the ConfigMap is in another namespace, or a typing mistake
    /// Cure: create it in the VirtualMachine's namespace, or correct the directive
    #[error(
        "there is no ConfigMap {name} in the namespace {namespace}; create it there, with the ROM under binaryData.rom"
    )]
    NoConfigMap { name: String, namespace: String },
    /// Cause: one of [Lookups](#lookups)
    /// Cure: the remedy there
    #[error("the ConfigMap {name} cannot be read: {error}")]
    Lookup { name: String, error: LookupError },
    /// Cause: the ROM is under another key (", but" that key), or is text (", only data.rom, which cannot hold bytes", or ", only
    /// data.rom, which is the base64 text of a ROM; turn it into bytes with base64 -d first")
    /// Cure: create it from the file, under the key `rom`: `kubectl create configmap igpu-rom
    /// --from-file=rom=igpu.rom`
    #[error(
        "the ConfigMap {name} has no binaryData.rom{found}; make it with kubectl create configmap {name} --from-file=rom=FILE"
    )]
    NoRom { name: String, found: String },
    /// Cause: the bytes are not a whole ROM: one of the rows that start with "is" and "starts with"
    /// Cure: the cure of that row
    #[error("binaryData.rom of the ConfigMap {name} {error}")]
    Rom { name: String, error: RomError },
    /// Cause: a typing mistake
    /// Cure: write the reference as for `docker pull`
    #[error("the option vm-feature-manager.io/sidecar-image {} is not an image reference: {error}; write one such as quay.io/kubevirt/sidecar-shim:v1.4.0", Quoted(.value))]
    Image { value: String, error: ImageReferenceError },
    /// Cause: the setting `vbiosInjection.allowedSidecarImages` does not allow it
    /// Cure: one of the images in the message, or another pattern under `allowedSidecarImages`
    #[error(
        "the image {image} is not one that the policy allows ({allowed}); name one of these in the option \
         vm-feature-manager.io/sidecar-image, or have the administrator add it to the setting \
         vbiosInjection.allowedSidecarImages"
    )]
    ImageNotAllowed { image: ImageReference, allowed: String },
    /// Cause: the VM has several devices, and neither the ids in the ROM nor the class of the devices tell which one it is for
    /// Cure: set `vbios-device` to the one that the ROM is for
    #[error(
        "the VirtualMachine has several host devices and GPUs ({devices}), but the ROM is for one; name it in the option \
         vm-feature-manager.io/vbios-device, by its name or PCI address"
    )]
    SeveralDevices { devices: String },
    /// Cause: they are USB devices or mediated devices, or neither Harvester nor KubeVirt has such a PCI device
    /// Cure: add `pci-passthrough`, or remove `vbios-injection`
    #[error(
        "none of the VirtualMachine's host devices and GPUs ({devices}) is a PCI device, and only a PCI device has a ROM; add \
         the device that the ROM is for with pci-passthrough, or remove vbios-injection"
    )]
    NoPciDevice { devices: String },
    /// Cause: the device that the ROM is for comes with that directive, which fails
    /// Cure: correct that directive first
    #[error("it waits for {0}, which brings the device that the ROM is for, but fails; correct {0}")]
    Waits(&'static str),
    /// Cause: the hook cannot look for such a name
    /// Cure: give the device a name without these characters
    #[error("the host device {} has no name, or one with spaces, * or ?, so the hook could not find it; rename it", Quoted(.name))]
    DeviceName { name: String },
    /// Cause: a typing mistake
    /// Cure: use one of the names in the message, or the address of one of these devices
    #[error(
        "the option vm-feature-manager.io/vbios-device {} names none of the VirtualMachine's host devices and GPUs \
         ({devices}); name one of them, or its PCI address", Quoted(.value)
    )]
    NoSuchDevice { value: String, devices: String },
    /// Cause: hook sidecars with a ConfigMap came with KubeVirt 1.2
    /// Cure: update KubeVirt
    #[error(
        "KubeVirt {version} is too old: hook sidecars can have a ConfigMap from KubeVirt 1.2 on; have the administrator update it"
    )]
    OldKubeVirt { version: String },
    /// Cause: another place than one on the bus to which the guest's chipset belongs
    /// Cure: `00:02.0`, for example
    #[error(
        "the option vm-feature-manager.io/guest-address {} is not a place for the device; write one such as 00:02.0: bus 00, \
         because the guest has no other bus before libvirt makes it, a slot from 01 to 1e, because the chipset has 00 and 1f, \
         and function 0, without which the guest does not look for others", Quoted(.value)
    )]
    GuestAddress { value: String },
    /// Cause: `pciAddress` of that disk or network interface names the same slot
    /// Cure: give one of the two another place
    #[error(
        "the option vm-feature-manager.io/guest-address asks for {address}, but {device} has that slot by its pciAddress; give \
         one of them another place"
    )]
    GuestAddressTaken { address: PciAddress, device: String },
    /// Cause: that annotation makes KubeVirt choose places on the same bus, beginning with `00:02.0`
    /// Cure: remove the annotation or the option
    #[error(
        "the option vm-feature-manager.io/guest-address does not go with the annotation \
         kubevirt.io/placePCIDevicesOnRootComplex, with which KubeVirt itself chooses the places on bus 00; remove one of them"
    )]
    GuestAddressByKubeVirt,
}
