//! The VirtualMachine's JSON: typed reads here, what a feature may add to it in [`entry`]. Knows no feature and no setting.

pub(crate) mod entry;
mod outline;
mod path;
mod placement;
mod sidecars;

use crate::json::{Json, Shape};
use crate::keys::Key;
use crate::kinds::pci::MAX_DEVICES;
use crate::kinds::quantity::{NotAQuantity, Quantity};
pub(crate) use outline::{OUTLINE, VmOutline};
pub(crate) use path::ShapeError;
use path::{
    ANNOTATIONS, ARCHITECTURE, CPU, CPU_FEATURES, CPU_MODEL, GPUS, HOOK_SIDECARS, HOOK_SIDECARS_KEY, HOST_DEVICES,
    HUGEPAGES, INSTANCE_TYPE, LABELS, LIMITS, MEMORY, NODE_AFFINITY_TERMS, NODE_SELECTOR, Path, REQUESTS, VOLUMES,
};
pub(crate) use placement::Placement;
pub(crate) use sidecars::{Sidecars, argument_of};

/// A VirtualMachine (`kubevirt.io`), read as far as the policy needs it; the rest stays text.
#[derive(Debug, Clone)]
pub(crate) struct VirtualMachine<'a> {
    root: Json<'a>,
    changed: bool,
}

/// An item of `domain.cpu.features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuFeature<'v> {
    pub(crate) name: &'v str,
    /// KubeVirt's policy for it; empty means `require`.
    pub(crate) policy: &'v str,
}

/// `domain.cpu`, as far as the number of CPUs and their placement go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Sockets times cores times threads, as KubeVirt counts: what is absent counts as 1, and 0 where all are.
    pub(crate) count: u64,
    pub(crate) threads: u64,
    /// `dedicatedCpuPlacement`, where it is written.
    pub(crate) is_dedicated: Option<bool>,
    /// `isolateEmulatorThread`, where it is written.
    pub(crate) is_isolated: Option<bool>,
}

/// An amount of CPUs or memory that the VirtualMachine names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amount<'v> {
    pub(crate) text: &'v str,
    pub(crate) quantity: Quantity,
}

/// The CPUs or the memory that the VirtualMachine's pod asks for; what is zero is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resources<'v> {
    pub(crate) request: Option<Amount<'v>>,
    pub(crate) limit: Option<Amount<'v>>,
}

/// An item of `domain.devices.hostDevices` or `domain.devices.gpus`; what it lacks is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device<'v> {
    pub(crate) name: &'v str,
    /// The extended resource that the device is one of: `deviceName`.
    pub(crate) resource: &'v str,
}

/// An item of `volumes`; what it lacks is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Volume<'v> {
    pub(crate) name: &'v str,
    /// The ConfigMap that it holds.
    pub(crate) config_map: &'v str,
}

/// The annotation in which `kubectl apply` keeps what was applied.
const LAST_APPLIED_KEY: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The parts of the template that the paths lead to.
static TEMPLATE: Shape = {
    const DEVICES: Shape = Shape::Each(&Shape::Members(&[("name", Shape::Whole), ("deviceName", Shape::Whole)]));
    const FEATURES: Shape = Shape::Each(&Shape::Members(&[("name", Shape::Whole), ("policy", Shape::Whole)]));
    const CPU: Shape = Shape::Members(&[
        ("model", Shape::Whole),
        ("features", FEATURES),
        ("cores", Shape::Whole),
        ("sockets", Shape::Whole),
        ("threads", Shape::Whole),
        ("dedicatedCpuPlacement", Shape::Whole),
        ("isolateEmulatorThread", Shape::Whole),
        ("numa", Shape::Members(&[("guestMappingPassthrough", Shape::Whole)])),
    ]);
    const DOMAIN: Shape = Shape::Members(&[
        ("cpu", CPU),
        ("memory", Shape::Members(&[("hugepages", Shape::Members(&[]))])),
        ("devices", Shape::Members(&[("hostDevices", DEVICES), ("gpus", DEVICES)])),
        ("resources", Shape::Members(&[("limits", Shape::Members(&[])), ("requests", Shape::Members(&[]))])),
    ]);
    const VOLUMES: Shape = Shape::Each(&Shape::Members(&[
        ("name", Shape::Whole),
        ("configMap", Shape::Members(&[("name", Shape::Whole)])),
    ]));
    const HOOK_SIDECARS: Shape = Shape::Members(&[(HOOK_SIDECARS_KEY, Shape::Whole)]);
    const METADATA: Shape = Shape::Members(&[("annotations", HOOK_SIDECARS)]);
    const SPEC: Shape = Shape::Members(&[
        ("volumes", VOLUMES),
        ("affinity", Shape::Members(&[("nodeAffinity", Shape::Whole)])),
        ("architecture", Shape::Whole),
        ("nodeSelector", Shape::Whole),
        ("domain", DOMAIN),
    ]);
    Shape::Members(&[("metadata", METADATA), ("spec", SPEC)])
};

impl<'a> VirtualMachine<'a> {
    /// Reads the template of an outline. A member of a wrong type is an error when it is asked for, not before.
    ///
    /// # Errors
    /// A part that the policy reads is nested too deeply or has a number out of range.
    pub(crate) fn read(outline: &VmOutline<'a>) -> serde_json::Result<Self> {
        let mut root = outline.root.clone();
        let template = root.get_mut("spec").and_then(|spec| spec.get_mut("template"));
        if let Some(template) = template {
            if let Json::Raw(text) = *template {
                *template = Json::parse(text.get(), &TEMPLATE)?;
            }
        }
        Ok(Self { root, changed: false })
    }

    /// A VirtualMachine as a manifest in JSON has it; `None` where it cannot be read.
    pub(crate) fn of_manifest(text: &'a str) -> Option<Self> {
        Self::read(&VmOutline::parse(text).ok()?).ok()
    }

    /// Appends the VirtualMachine as JSON.
    pub(crate) fn write(&self, out: &mut String) {
        self.root.write(out);
    }

    /// Whether anything was changed.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// `domain.cpu.features`.
    pub(crate) fn cpu_features(&self) -> Result<Vec<CpuFeature<'_>>, ShapeError> {
        let items = path::list(&self.root, CPU_FEATURES)?;
        Ok(items.iter().map(|item| CpuFeature { name: text(item, "name"), policy: text(item, "policy") }).collect())
    }

    /// `domain.cpu.model`; empty if there is none.
    pub(crate) fn cpu_model(&self) -> Result<&str, ShapeError> {
        path::string(&self.root, CPU_MODEL)
    }

    /// `domain.cpu`: how many CPUs, and how they are placed.
    pub(crate) fn cpu(&self) -> Result<Cpu, ShapeError> {
        let cpu = path::members(&self.root, CPU)?;
        let find = |key: &str| cpu.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value);
        let number = |key: &str| match find(key) {
            Some(Json::Number(number)) => number.as_u64().unwrap_or_default(),
            _ => 0,
        };
        let flag = |key: &str| match find(key) {
            Some(Json::Bool(flag)) => Some(*flag),
            _ => None,
        };
        let parts = [number("cores"), number("sockets"), number("threads")];
        let product = parts.iter().filter(|n| **n > 0).fold(1, |product: u64, n| product.saturating_mul(*n));
        Ok(Cpu {
            count: if parts == [0; 3] { 0 } else { product },
            threads: number("threads"),
            is_dedicated: flag("dedicatedCpuPlacement"),
            is_isolated: flag("isolateEmulatorThread"),
        })
    }

    /// `domain.memory.guest`.
    pub(crate) fn guest_memory(&self) -> Result<Option<Amount<'_>>, ShapeError> {
        self.amount(MEMORY, "guest")
    }

    /// What Harvester takes from the guest's memory: the annotation `harvesterhci.io/reservedMemory`.
    pub(crate) fn reserved_memory(&self) -> Result<Option<Amount<'_>>, ShapeError> {
        self.amount(ANNOTATIONS, "harvesterhci.io/reservedMemory")
    }

    /// `domain.memory.hugepages.pageSize`.
    pub(crate) fn page_size(&self) -> Result<Option<&str>, ShapeError> {
        self.member(HUGEPAGES, "pageSize")
    }

    /// `domain.resources`, of `cpu` or `memory`.
    pub(crate) fn resources(&self, resource: &'static str) -> Result<Resources<'_>, ShapeError> {
        Ok(Resources { request: self.amount(REQUESTS, resource)?, limit: self.amount(LIMITS, resource)? })
    }

    /// Whether CPUs and memory may come from an instance type, which is looked up when the VirtualMachine starts.
    pub(crate) fn has_instance_type(&self) -> bool {
        matches!(path::find(&self.root, INSTANCE_TYPE), Ok(Some(_)))
    }

    /// The amount under the key; `None` where there is none, or zero.
    fn amount(&self, path: Path, key: &'static str) -> Result<Option<Amount<'_>>, ShapeError> {
        let Some(text) = self.member(path, key)? else { return Ok(None) };
        if matches!(text, "" | "null") {
            return Ok(None);
        }
        match text.parse() {
            Ok(quantity) => Ok(Some(Amount { text, quantity }).filter(|amount| amount.quantity.ceil > 0)),
            Err(NotAQuantity) => Err(ShapeError::Quantity { path, key, text: text.to_owned() }),
        }
    }

    /// `architecture`; empty if there is none.
    pub(crate) fn architecture(&self) -> Result<&str, ShapeError> {
        path::string(&self.root, ARCHITECTURE)
    }

    /// `nodeSelector` and required node affinity.
    pub(crate) fn placement(&self) -> Result<Placement<'_>, ShapeError> {
        let selector = path::members(&self.root, NODE_SELECTOR)?;
        let terms = path::list(&self.root, NODE_AFFINITY_TERMS)?;
        Ok(Placement {
            selector: selector.iter().map(|(key, value)| (key.as_ref(), value.as_str().unwrap_or_default())).collect(),
            terms: terms.iter().map(placement::affinity_term).collect(),
        })
    }

    /// The hook sidecars in the template's annotation.
    pub(crate) fn hook_sidecars(&self) -> Result<Sidecars<'_>, ShapeError> {
        Sidecars::parse(path::string(&self.root, HOOK_SIDECARS)?)
    }

    /// `volumes`.
    pub(crate) fn volumes(&self) -> Result<Vec<Volume<'_>>, ShapeError> {
        let items = path::list(&self.root, VOLUMES)?;
        let config_map = |item| Json::get(item, "configMap").map(|source| text(source, "name"));
        let volume = |item| Volume { name: text(item, "name"), config_map: config_map(item).unwrap_or_default() };
        Ok(items.iter().map(volume).collect())
    }

    /// `domain.devices.hostDevices`.
    pub(crate) fn host_devices(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(HOST_DEVICES)
    }

    /// `domain.devices.gpus`.
    pub(crate) fn gpus(&self) -> Result<Vec<Device<'_>>, ShapeError> {
        self.devices(GPUS)
    }

    fn devices(&self, path: Path) -> Result<Vec<Device<'_>>, ShapeError> {
        let items = path::list(&self.root, path)?;
        if items.len() > MAX_DEVICES {
            return Err(ShapeError::TooMany { path, count: items.len() });
        }
        let device = |item| Device { name: text(item, "name"), resource: text(item, "deviceName") };
        Ok(items.iter().map(device).collect())
    }

    /// `domain.resources.limits[resource]`, as it is written, without quotes.
    pub(crate) fn limit(&self, resource: &str) -> Result<Option<&str>, ShapeError> {
        self.member(LIMITS, resource)
    }

    /// The manifest that `kubectl apply` was last given, as JSON, if the VirtualMachine has it.
    pub(crate) fn last_applied(&self) -> Option<String> {
        let annotations = path::members(&self.root, ANNOTATIONS).ok()?;
        match annotations.iter().find(|(key, _)| key == LAST_APPLIED_KEY) {
            Some((_, Json::Raw(text))) => match Json::parse(text.get(), &Shape::Whole) {
                Ok(Json::String(manifest)) => Some(manifest.into_owned()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Sets an annotation of the VirtualMachine itself.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.annotations` is not an object.
    pub(crate) fn set_annotation(&mut self, key: Key, value: String) -> Result<(), ShapeError> {
        let annotations = path::members_mut(&mut self.root, ANNOTATIONS)?;
        match annotations.iter_mut().rev().find(|(k, _)| key.is(k)) {
            Some((_, old)) if old.as_str() == Some(&value) => return Ok(()),
            Some((_, old)) => *old = value.into(),
            None => annotations.push((key.to_string().into(), value.into())),
        }
        self.changed = true;
        Ok(())
    }

    /// Removes an annotation of the VirtualMachine itself, if it is there.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.annotations` is not an object.
    pub(crate) fn remove_annotation(&mut self, key: Key) -> Result<(), ShapeError> {
        self.changed |= path::remove(&mut self.root, ANNOTATIONS, &|k| key.is(k))?;
        Ok(())
    }

    /// Removes a label of the VirtualMachine itself, if it is there.
    ///
    /// # Errors
    /// [`ShapeError`] where `metadata.labels` is not an object.
    pub(crate) fn remove_label(&mut self, key: Key) -> Result<(), ShapeError> {
        self.changed |= path::remove(&mut self.root, LABELS, &|k| key.is(k))?;
        Ok(())
    }

    /// The text of a member of the object at the path, without quotes.
    fn member(&self, path: Path, key: &str) -> Result<Option<&str>, ShapeError> {
        let member = path::members(&self.root, path)?.iter().find(|(k, _)| k == key);
        Ok(member.map(|(_, value)| match value {
            Json::Raw(text) => text.get().trim_matches('"'),
            other => other.as_str().unwrap_or_default(),
        }))
    }
}

/// The member's text; empty where it is absent or no string.
fn text<'v>(object: &'v Json<'_>, key: &str) -> &'v str {
    object.get(key).and_then(Json::as_str).unwrap_or_default()
}
