//! The places in a VirtualMachine where features can add entries: the path, the form of the entries, and how a record
//! names an entry.

use super::path::Path;
use crate::cluster::HOSTNAME_LABEL;

/// A place under `spec.template` where features can add entries.
#[derive(Debug)]
pub(crate) struct Place {
    /// What a message calls an entry here.
    pub(super) words: &'static str,
    /// The list or object that contains the entries.
    pub(super) path: Path,
    pub(super) form: Form,
    pub(super) name: Field,
    pub(super) value: Field,
}

/// The form of an entry.
#[derive(Debug)]
pub(super) enum Form {
    /// An item of a list. It has its name under `name`, and its value under these keys.
    Item(&'static [&'static str]),
    /// A member of an object. Its key is the name.
    Member,
    /// A member of an object that is always `true`. Its key is the name.
    True,
    /// A member of an object that is always `{}`. Its key is the name.
    EmptyObject,
    /// The sidecar with the policy's mark in the list of hook sidecars. Its value is that sidecar's JSON.
    Sidecar,
}

/// How a record contains the name or the value of an entry.
#[derive(Debug)]
pub(super) enum Field {
    /// The record contains it as text under this key.
    Recorded(&'static str),
    /// It is this text for all entries of the place, so the record does not contain it.
    Fixed(&'static str),
    /// It is too long for a record, or of no use there. The record contains `true` under this key instead.
    Marked(&'static str),
}

use Field::{Fixed, Marked, Recorded};

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Two places are first compared by their address, because thousands of entries are compared. Different places are ordered by
/// their words, which are unique.
impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        if self == other { std::cmp::Ordering::Equal } else { self.words.cmp(other.words) }
    }
}

/// The annotation of the template in which KubeVirt looks for hook sidecars.
pub(super) const HOOK_SIDECARS: &str = "hooks.kubevirt.io/hookSidecars";

/// `{name, policy: require}` in `domain.cpu.features`.
pub(crate) static CPU_FEATURE: Place = Place {
    words: "CPU feature",
    path: Path(&["spec", "template", "spec", "domain", "cpu", "features"]),
    form: Form::Item(&["policy"]),
    name: Recorded("cpuFeature"),
    value: Fixed("require"),
};

/// `{name, policy: optional}` in `domain.cpu.features`.
pub(crate) static OPTIONAL_CPU_FEATURE: Place = Place {
    words: "optional CPU feature",
    path: Path(&["spec", "template", "spec", "domain", "cpu", "features"]),
    form: Form::Item(&["policy"]),
    name: Recorded("optionalCpuFeature"),
    value: Fixed("optional"),
};

/// `{name, deviceName}` in `domain.devices.hostDevices`.
pub(crate) static HOST_DEVICE: Place = Place {
    words: "host device",
    path: Path(&["spec", "template", "spec", "domain", "devices", "hostDevices"]),
    form: Form::Item(&["deviceName"]),
    name: Recorded("hostDevice"),
    value: Recorded("resource"),
};

/// `{name, deviceName}` in `domain.devices.gpus`.
pub(crate) static GPU: Place = Place {
    words: "GPU",
    path: Path(&["spec", "template", "spec", "domain", "devices", "gpus"]),
    form: Form::Item(&["deviceName"]),
    name: Recorded("gpu"),
    value: Recorded("resource"),
};

/// `domain.resources.limits[name]`.
pub(crate) static LIMIT: Place = Place {
    words: "limit on",
    path: Path(&["spec", "template", "spec", "domain", "resources", "limits"]),
    form: Form::Member,
    name: Recorded("limit"),
    value: Recorded("quantity"),
};

/// `domain.cpu.dedicatedCpuPlacement: true`.
pub(crate) static CPU_PLACEMENT: Place = Place {
    words: "dedicated CPU placement",
    path: Path(&["spec", "template", "spec", "domain", "cpu"]),
    form: Form::True,
    name: Fixed("dedicatedCpuPlacement"),
    value: Marked("dedicatedCpuPlacement"),
};

/// `domain.cpu.isolateEmulatorThread: true`.
pub(crate) static EMULATOR_THREAD: Place = Place {
    words: "isolated emulator thread",
    path: Path(&["spec", "template", "spec", "domain", "cpu"]),
    form: Form::True,
    name: Fixed("isolateEmulatorThread"),
    value: Marked("isolateEmulatorThread"),
};

/// `domain.cpu.numa.guestMappingPassthrough: {}`.
pub(crate) static NUMA_MAPPING: Place = Place {
    words: "NUMA mapping",
    path: Path(&["spec", "template", "spec", "domain", "cpu", "numa"]),
    form: Form::EmptyObject,
    name: Fixed("guestMappingPassthrough"),
    value: Marked("guestMappingPassthrough"),
};

/// `domain.memory.hugepages.pageSize`.
pub(crate) static HUGEPAGES: Place = Place {
    words: "hugepages page size",
    path: Path(&["spec", "template", "spec", "domain", "memory", "hugepages"]),
    form: Form::Member,
    name: Fixed("pageSize"),
    value: Recorded("hugepages"),
};

/// `{name, configMap: {name}}` in `volumes`.
pub(crate) static CONFIG_MAP_VOLUME: Place = Place {
    words: "volume",
    path: Path(&["spec", "template", "spec", "volumes"]),
    form: Form::Item(&["configMap", "name"]),
    name: Recorded("volume"),
    value: Recorded("configMap"),
};

/// `nodeSelector["kubernetes.io/hostname"]`.
pub(crate) static NODE_SELECTOR: Place = Place {
    words: "node selector",
    path: Path(&["spec", "template", "spec", "nodeSelector"]),
    form: Form::Member,
    name: Fixed(HOSTNAME_LABEL),
    value: Recorded("nodeSelector"),
};

/// The sidecar with the policy's mark in the template's annotation `hooks.kubevirt.io/hookSidecars`.
pub(crate) static HOOK_SIDECAR: Place = Place {
    words: "hook sidecar",
    path: Path(&["spec", "template", "metadata", "annotations"]),
    form: Form::Sidecar,
    name: Fixed(HOOK_SIDECARS),
    value: Marked("hookSidecar"),
};
