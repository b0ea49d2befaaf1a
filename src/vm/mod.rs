//! A VirtualMachine as JSON, and typed access to its parts. What a feature can add to it is in [`place`] and [`entry`].
//! This module knows no feature and no setting.

pub(crate) mod entries;
pub(crate) mod entry;
mod parts;
mod path;
pub(crate) mod place;
mod placement;
mod sidecars;

use std::borrow::Cow;

use k8s_openapi::api::core::v1::NodeSelector;
use serde_json::Value;

use crate::cluster::ARCHITECTURE_LABEL;
use crate::json::{is_at_most, is_unset, to_text};
use crate::keys::PREFIX;
use crate::values::pci::MAX_DEVICES;
use crate::values::quantity::Quantity;
use parts::Part;
pub(crate) use parts::{CloudInit, Cpu, CpuFeature, Device, Volume};
use path::Path;
pub(crate) use path::ShapeError;
use place::{
    CONFIG_MAP_VOLUME, CPU_FEATURE, CPU_PLACEMENT, GPU, HOOK_SIDECARS, HOST_DEVICE, HUGEPAGES, LIMIT, NODE_SELECTOR,
};
use placement::CLUSTER_NETWORK;
pub(crate) use placement::{OnlyNode, Placement};
pub(crate) use sidecars::{Sidecars, argument_of};

const ANNOTATIONS: Path = Path(&["metadata", "annotations"]);
const DATA_VOLUME_TEMPLATES: Path = Path(&["spec", "dataVolumeTemplates"]);
const DELETION_TIMESTAMP: Path = Path(&["metadata", "deletionTimestamp"]);
const LABELS: Path = Path(&["metadata", "labels"]);
const INSTANCE_TYPE: Path = Path(&["spec", "instancetype"]);
const TEMPLATE_SPEC: Path = Path(&["spec", "template", "spec"]);
const TEMPLATE_ANNOTATIONS: Path = Path(&["spec", "template", "metadata", "annotations"]);
const HOOK_SIDECARS_ANNOTATION: Path = Path(&["spec", "template", "metadata", "annotations", HOOK_SIDECARS]);
const ARCHITECTURE: Path = Path(&["spec", "template", "spec", "architecture"]);
const REQUIRED_NODES: Path =
    Path(&["spec", "template", "spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
const TOLERATIONS: Path = Path(&["spec", "template", "spec", "tolerations"]);
const CPU_MODEL: Path = Path(&["spec", "template", "spec", "domain", "cpu", "model"]);
const EVMCS: Path = Path(&["spec", "template", "spec", "domain", "features", "hyperv", "evmcs"]);
const MEMORY: Path = Path(&["spec", "template", "spec", "domain", "memory"]);
const DISKS: Path = Path(&["spec", "template", "spec", "domain", "devices", "disks"]);
const INTERFACES: Path = Path(&["spec", "template", "spec", "domain", "devices", "interfaces"]);
const NETWORKS: Path = Path(&["spec", "template", "spec", "networks"]);
const REQUESTS: Path = Path(&["spec", "template", "spec", "domain", "resources", "requests"]);

/// The most values that the node selector, the required node affinity and the tolerations may have: each may be compared
/// with every node, for every feature.
const MAX_PLACEMENT: usize = 1000;

/// The annotation with the manifest that `kubectl apply` was last given.
const LAST_APPLIED: Path = Path(&["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"]);

/// The annotation with which Harvester leaves `domain.memory.guest` and `domain.cpu.maxSockets` to the user.
const HOTPLUG: &str = "harvesterhci.io/enableCPUAndMemoryHotplug";

/// The annotation with the memory that Harvester subtracts from the guest's.
const RESERVED_MEMORY: &str = "harvesterhci.io/reservedMemory";

/// The annotation of the template with which KubeVirt gives PCI devices places on the guest's first bus.
const ROOT_COMPLEX: &str = "kubevirt.io/placePCIDevicesOnRootComplex";

/// A VirtualMachine (`kubevirt.io`). Its parts are read as types when they are needed, so it keeps everything that the
/// policy does not know.
#[derive(Debug, Clone)]
pub(crate) struct VirtualMachine {
    object: Value,
    is_changed: bool,
}

/// An amount of CPUs or memory in the VirtualMachine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Amount {
    /// The amount, as the VirtualMachine has it.
    pub(crate) text: String,
    pub(crate) quantity: Quantity,
}

/// The CPUs or the memory of the VirtualMachine's pod. Amounts of zero count as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) request: Option<Amount>,
    pub(crate) limit: Option<Amount>,
}

impl VirtualMachine {
    /// A VirtualMachine as the API server sends it. If a part has a wrong type, that is an error only when the part is read.
    pub(crate) fn new(object: Value) -> Self {
        Self { object, is_changed: false }
    }

    /// The VirtualMachine as JSON, if anything was changed.
    pub(crate) fn into_changed(self) -> Option<Value> {
        Some(self.object).filter(|_| self.is_changed)
    }

    /// Whether the object is being deleted. If it is, only its finalizers matter.
    pub(crate) fn is_deleting(&self) -> bool {
        DELETION_TIMESTAMP.peek(&self.object).is_some_and(|time| !is_unset(time))
    }

    /// Whether it or its template has any annotation or label with a key of the policy.
    pub(crate) fn mentions_policy(&self) -> bool {
        self.policy_keys().iter().any(|keys| !keys.is_empty())
    }

    /// Whether the other VirtualMachine has the same annotations and labels of the policy, the same hook sidecars, and
    /// the same `spec.template.spec`. KubeVirt's controllers write other annotations into the template.
    pub(crate) fn asks_for_the_same_as(&self, other: &Self) -> bool {
        let is_same = |path: Path| path.peek(&self.object) == path.peek(&other.object);
        self.policy_keys() == other.policy_keys() && is_same(HOOK_SIDECARS_ANNOTATION) && is_same(TEMPLATE_SPEC)
    }

    /// What has keys of the policy: annotations, labels, and annotations of the template.
    pub(crate) fn policy_keys(&self) -> [Vec<(&String, &Value)>; 3] {
        [ANNOTATIONS, LABELS, TEMPLATE_ANNOTATIONS].map(|path| {
            let members = path.peek(&self.object).and_then(Value::as_object).into_iter().flatten();
            members.filter(|(key, _)| key.starts_with(PREFIX)).collect()
        })
    }

    /// `domain.cpu.features`.
    pub(crate) fn cpu_features(&self) -> Result<Vec<CpuFeature<'_>>, ShapeError> {
        self.parts(CPU_FEATURE.path, CpuFeature::read)
    }

    /// `domain.cpu.model`.
    pub(crate) fn cpu_model(&self) -> Result<Option<&str>, ShapeError> {
        CPU_MODEL.text(&self.object)
    }

    /// Whether the guest gets Hyper-V's enlightened VMCS. KubeVirt then requires `vmx`, whatever `domain.cpu.features` says of it.
    /// Source: `pkg/defaults/hyperv.go`, `setEVMCSDependency`.
    pub(crate) fn has_evmcs(&self) -> bool {
        EVMCS.peek(&self.object).is_some_and(|evmcs| evmcs.get("enabled") != Some(&Value::Bool(false)))
    }

    /// `domain.cpu`.
    pub(crate) fn cpu(&self) -> Result<Cpu, ShapeError> {
        let value = CPU_PLACEMENT.path.find(&self.object)?;
        value.map_or(Ok(Cpu::default()), |value| Cpu::read(Part { path: CPU_PLACEMENT.path, value }))
    }

    /// `domain.memory.guest`.
    pub(crate) fn guest_memory(&self) -> Result<Option<Amount>, ShapeError> {
        self.amount(MEMORY, "guest")
    }

    /// `domain.memory.maxGuest`: how much memory KubeVirt may give the guest while it runs.
    pub(crate) fn max_guest_memory(&self) -> Result<Option<Amount>, ShapeError> {
        self.amount(MEMORY, "maxGuest")
    }

    /// Whether Harvester lets users hotplug CPUs and memory. Source: `pkg/util/virtualmachine/virtualmachine.go`,
    /// `SupportCPUAndMemoryHotplug`.
    pub(crate) fn is_hotplugged(&self) -> Result<bool, ShapeError> {
        let value = ANNOTATIONS.member(&self.object, HOTPLUG)?.and_then(Value::as_str);
        Ok(value.is_some_and(|value| value.eq_ignore_ascii_case("true")))
    }

    /// The memory that Harvester subtracts from the guest's.
    pub(crate) fn reserved_memory(&self) -> Result<Option<Amount>, ShapeError> {
        self.amount(ANNOTATIONS, RESERVED_MEMORY)
    }

    /// `domain.memory.hugepages.pageSize`.
    pub(crate) fn page_size(&self) -> Result<Option<Cow<'_, str>>, ShapeError> {
        let size = HUGEPAGES.path.member(&self.object, "pageSize")?;
        Ok(size.filter(|size| !size.is_null()).map(as_text))
    }

    /// `domain.resources`, for `cpu` or `memory`.
    pub(crate) fn resources(&self, resource: &'static str) -> Result<Resources, ShapeError> {
        Ok(Resources { request: self.amount(REQUESTS, resource)?, limit: self.amount(LIMIT.path, resource)? })
    }

    /// `domain.resources.limits[resource]`, as the VirtualMachine has it.
    pub(crate) fn limit(&self, resource: &str) -> Result<Option<Cow<'_, str>>, ShapeError> {
        Ok(LIMIT.path.member(&self.object, resource)?.map(as_text))
    }

    /// Whether an instance type may set CPUs and memory. KubeVirt looks it up when the VirtualMachine starts.
    pub(crate) fn has_instance_type(&self) -> bool {
        matches!(INSTANCE_TYPE.find(&self.object), Ok(Some(_)))
    }

    /// `architecture`.
    pub(crate) fn architecture(&self) -> Result<Option<&str>, ShapeError> {
        ARCHITECTURE.text(&self.object)
    }

    /// Whether KubeVirt gives it the default architecture: it names none, and no disk is made of a DataSource, which may name
    /// one. Source: `pkg/defaults/defaults.go`, `setDefaultArchitectureFromDataSource`.
    pub(crate) fn takes_default_architecture(&self) -> bool {
        let disks = DATA_VOLUME_TEMPLATES.peek(&self.object).and_then(Value::as_array);
        let kind = |disk: &Value| disk.pointer("/spec/sourceRef/kind").is_some();
        !disks.is_some_and(|disks| disks.iter().any(kind)) && matches!(self.architecture(), Ok(None | Some("")))
    }

    /// `nodeSelector`, the required node affinity, `tolerations`, and `architecture`, which KubeVirt makes a node selector of.
    ///
    /// # Errors
    /// A part has a wrong type, or there is more than the policy compares with every node.
    pub(crate) fn placement(&self) -> Result<Placement, ShapeError> {
        let mut left = MAX_PLACEMENT;
        for path in [NODE_SELECTOR.path, REQUIRED_NODES, TOLERATIONS] {
            if !path.find(&self.object)?.is_none_or(|value| is_at_most(value, &mut left)) {
                return Err(ShapeError::LongPlacement { path });
            }
        }
        let labels = NODE_SELECTOR.path.members(&self.object)?.into_iter().flatten();
        let mut selector: Vec<_> = labels.map(|(key, value)| (key.clone(), as_text(value).into_owned())).collect();
        let architecture = self.architecture()?.filter(|architecture| !architecture.is_empty());
        selector.extend(architecture.map(|architecture| (ARCHITECTURE_LABEL.to_owned(), architecture.to_owned())));
        Ok(Placement {
            selector,
            terms: REQUIRED_NODES.read::<NodeSelector>(&self.object)?.unwrap_or_default().node_selector_terms,
            tolerations: TOLERATIONS.read(&self.object)?.unwrap_or_default(),
        })
    }

    /// Whether the other VirtualMachine has the same node selector, node affinity, tolerations and architecture.
    pub(crate) fn is_placed_like(&self, other: &Self) -> bool {
        let is_same = |path: &Path| path.peek(&self.object) == path.peek(&other.object);
        [NODE_SELECTOR.path, REQUIRED_NODES, TOLERATIONS].iter().all(is_same)
            && self.architecture() == other.architecture()
    }

    /// The placement that Harvester makes of that. It adds expressions about the cluster networks of the VirtualMachine's networks,
    /// and about the CPU manager if CPUs are pinned. The policy does not look up which cluster network a network belongs to, so
    /// an expression as Harvester writes it stays if there is any such network.
    pub(crate) fn placement_on_harvester(&self) -> Result<Placement, ShapeError> {
        let networks = NETWORKS.peek(&self.object).and_then(Value::as_array);
        let has_network =
            networks.is_some_and(|all| all.iter().any(|one| one.pointer("/multus/networkName").is_some()));
        let is_pinned = self.cpu().is_ok_and(|cpu| cpu.dedicated_cpu_placement == Some(true));
        let adds = |label: &str| if label.starts_with(CLUSTER_NETWORK) { has_network } else { is_pinned };
        Ok(self.placement()?.on_harvester(adds))
    }

    /// The hook sidecars in the template's annotation.
    pub(crate) fn hook_sidecars(&self) -> Result<Sidecars<'_>, ShapeError> {
        Sidecars::parse(HOOK_SIDECARS_ANNOTATION.text(&self.object)?.unwrap_or_default())
    }

    /// `volumes`.
    pub(crate) fn volumes(&self) -> Result<Vec<Volume<'_>>, ShapeError> {
        self.parts(CONFIG_MAP_VOLUME.path, Volume::read)
    }

    /// The volumes that follow KubeVirt's API. Others are left out.
    pub(crate) fn readable_volumes(&self) -> impl Iterator<Item = Volume<'_>> {
        let volumes = CONFIG_MAP_VOLUME.path.items(&self.object).unwrap_or_default().iter();
        volumes.filter_map(|value| Volume::read(Part { path: CONFIG_MAP_VOLUME.path, value }).ok())
    }

    /// `domain.devices.hostDevices`.
    pub(crate) fn host_devices(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(HOST_DEVICE.path)
    }

    /// `domain.devices.gpus`.
    pub(crate) fn gpus(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(GPU.path)
    }

    /// `domain.devices.hostDevices` and `domain.devices.gpus`: KubeVirt also takes a PCI device as a GPU.
    pub(crate) fn host_devices_and_gpus(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        Ok([self.host_devices()?, self.gpus()?].concat())
    }

    /// Takes the host devices and GPUs of the other VirtualMachine in place of its own.
    pub(crate) fn take_devices_of(&mut self, other: &Self) {
        for path in [HOST_DEVICE.path, GPU.path] {
            if let (Some(there), Ok(here)) = (path.peek(&other.object), path.reach(&mut self.object)) {
                here.clone_from(there);
            }
        }
    }

    /// Whether a GPU comes from a ResourceClaim (DRA): its entry names a claim in place of a resource.
    pub(crate) fn has_claimed_gpu(&self) -> bool {
        let is_set = |gpu: &Value, key| gpu.get(key).is_some_and(|value| !is_unset(value));
        let is_claimed = |gpu: &Value| is_set(gpu, "claimName") || is_set(gpu, "requestName");
        GPU.path.items(&self.object).is_ok_and(|gpus| gpus.iter().any(is_claimed))
    }

    /// The names of the disks and network interfaces that ask for a place in the guest, each with that place.
    pub(crate) fn guest_addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        let lists = [(DISKS, "/disk/pciAddress"), (INTERFACES, "/pciAddress")].into_iter();
        lists.flat_map(|(path, pointer)| {
            let items = path.items(&self.object).unwrap_or_default().iter();
            items.filter_map(move |item| Some((item.get("name")?.as_str()?, item.pointer(pointer)?.as_str()?)))
        })
    }

    /// Whether KubeVirt chooses the places of PCI devices on the guest's first bus. Source:
    /// `pkg/virt-launcher/virtwrap/converter/converter.go:337`.
    pub(crate) fn is_placed_by_kubevirt(&self) -> bool {
        TEMPLATE_ANNOTATIONS
            .peek(&self.object)
            .and_then(|all| all.get(ROOT_COMPLEX))
            .is_some_and(|value| value == "true")
    }

    /// The manifest that `kubectl apply` was last given, if the VirtualMachine contains it.
    pub(crate) fn last_applied(&self) -> Option<Self> {
        serde_json::from_str(LAST_APPLIED.peek(&self.object)?.as_str()?).ok().map(Self::new)
    }

    /// Sets an annotation of the VirtualMachine itself; without a value, removes it.
    pub(crate) fn annotate(&mut self, key: &str, value: Option<String>) -> Result<(), ShapeError> {
        self.set(ANNOTATIONS, key, value)
    }

    /// Sets an annotation of the template; without a value, removes it, and metadata that is empty then.
    pub(crate) fn annotate_template(&mut self, key: &str, value: Option<String>) -> Result<(), ShapeError> {
        let is_removed = value.is_none() && TEMPLATE_ANNOTATIONS.member(&self.object, key)?.is_some();
        self.set(TEMPLATE_ANNOTATIONS, key, value)?;
        if is_removed { TEMPLATE_ANNOTATIONS.remove_if_empty(&mut self.object) } else { Ok(()) }
    }

    /// Sets a label of the VirtualMachine itself; without a value, removes it.
    pub(crate) fn label(&mut self, key: &str, value: Option<String>) -> Result<(), ShapeError> {
        self.set(LABELS, key, value)
    }

    /// Checks that the template can have annotations.
    pub(crate) fn check_template_annotations(&self) -> Result<(), ShapeError> {
        TEMPLATE_ANNOTATIONS.members(&self.object).map(|_| ())
    }

    fn set(&mut self, path: Path, key: &str, value: Option<String>) -> Result<(), ShapeError> {
        let Some(value) = value.map(Value::String) else {
            self.is_changed |= path.remove_member(&mut self.object, key)?;
            return Ok(());
        };
        let before = path.members_mut(&mut self.object)?.insert(key.to_owned(), value.clone());
        self.is_changed |= before != Some(value);
        Ok(())
    }

    /// The items of the list at the path.
    fn parts<'v, T>(
        &'v self,
        path: Path,
        read: impl Fn(Part<'v>) -> Result<T, ShapeError>,
    ) -> Result<Vec<T>, ShapeError> {
        path.items(&self.object)?.iter().map(|value| read(Part { path, value })).collect()
    }

    fn devices(&self, path: Path) -> Result<Vec<Device<'_>>, ShapeError> {
        match path.items(&self.object)?.len() {
            ..=MAX_DEVICES => self.parts(path, Device::read),
            count => Err(ShapeError::TooMany { path, count }),
        }
    }

    /// The amount under this key of the object at the path; `None` if it is absent or zero.
    fn amount(&self, path: Path, key: &'static str) -> Result<Option<Amount>, ShapeError> {
        let text = match path.member(&self.object, key)? {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => as_text(value).into_owned(),
        };
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<Quantity>() {
            Ok(quantity) => Ok(Some(Amount { text, quantity }).filter(|amount| !amount.quantity.is_zero())),
            Err(_) => Err(ShapeError::Quantity { path, key, text }),
        }
    }
}

/// The text of a string, or the JSON of any other value: quantities may be numbers.
pub(crate) fn as_text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(to_text(other)),
    }
}
