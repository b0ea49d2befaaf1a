//! The parts of a VirtualMachine that the policy reads. Each is read by its fields: derived code would take 15 KB of the
//! module.

use serde_json::Value;

use super::entry::Entry;
use super::path::{Path, ShapeError};

/// A value in the VirtualMachine, or an item of the list there.
#[derive(Clone, Copy)]
pub(super) struct Part<'v> {
    pub(super) path: Path,
    pub(super) value: &'v Value,
}

impl<'v> Part<'v> {
    /// A field, read with `read`, which returns `None` if the value has a wrong type. `None` if it is absent or null.
    fn field<T>(
        self,
        key: &'static str,
        read: impl Fn(&'v Value) -> Option<T>,
        expected: &'static str,
    ) -> Result<Option<T>, ShapeError> {
        let members = self.value.as_object().ok_or_else(|| self.path.wrong_type(self.value, "an object"))?;
        let value = members.get(key).filter(|value| !value.is_null());
        let read = |value| read(value).ok_or_else(|| ShapeError::field(self.path, key, value, expected));
        value.map(read).transpose()
    }

    /// A string; empty if it is absent.
    fn text(self, key: &'static str) -> Result<&'v str, ShapeError> {
        Ok(self.field(key, Value::as_str, "a string")?.unwrap_or_default())
    }

    fn number(self, key: &'static str) -> Result<u64, ShapeError> {
        Ok(self.field(key, Value::as_u64, "a whole number")?.unwrap_or_default())
    }

    fn flag(self, key: &'static str) -> Result<Option<bool>, ShapeError> {
        self.field(key, Value::as_bool, "a boolean")
    }

    fn part(self, key: &'static str) -> Result<Option<Self>, ShapeError> {
        let value = self.field(key, |value| value.is_object().then_some(value), "an object")?;
        Ok(value.map(|value| Part { value, ..self }))
    }

    /// The name of the object that a field refers to; empty if it is absent.
    fn name_in(self, key: &'static str) -> Result<&'v str, ShapeError> {
        self.part(key)?.map_or(Ok(""), |reference| reference.text("name"))
    }
}

/// An item of `domain.cpu.features`.
#[derive(Debug)]
pub(crate) struct CpuFeature<'v> {
    pub(crate) name: &'v str,
    /// The CPU feature's policy in KubeVirt. Empty means `require`.
    pub(crate) policy: &'v str,
}

impl<'v> CpuFeature<'v> {
    pub(super) fn read(part: Part<'v>) -> Result<Self, ShapeError> {
        Ok(Self { name: part.text("name")?, policy: part.text("policy")? })
    }
}

/// The parts of `domain.cpu` that decide about the number of CPUs and their placement.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    cores: u64,
    sockets: u64,
    pub(crate) threads: u64,
    pub(crate) dedicated_cpu_placement: Option<bool>,
    pub(crate) isolate_emulator_thread: Option<bool>,
}

impl Cpu {
    pub(super) fn read(part: Part<'_>) -> Result<Self, ShapeError> {
        Ok(Self {
            cores: part.number("cores")?,
            sockets: part.number("sockets")?,
            threads: part.number("threads")?,
            dedicated_cpu_placement: part.flag("dedicatedCpuPlacement")?,
            isolate_emulator_thread: part.flag("isolateEmulatorThread")?,
        })
    }

    /// The number of the guest's CPUs: sockets times cores times threads. As in KubeVirt, absent values count as 1; if
    /// all are absent, there is no number.
    pub(crate) fn count(&self) -> Option<u64> {
        let parts = [self.cores, self.sockets, self.threads];
        let product = parts.iter().filter(|n| **n > 0).fold(1, |product: u64, n| product.saturating_mul(*n));
        (parts != [0; 3]).then_some(product)
    }
}

/// An item of `domain.devices.hostDevices` or `domain.devices.gpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device<'v> {
    pub(crate) name: &'v str,
    /// The extended resource of the device.
    pub(crate) resource: &'v str,
}

impl<'v> Device<'v> {
    /// The entry as a device; `None` if it is something else.
    pub(crate) fn of(entry: &'v Entry) -> Option<Self> {
        entry.as_device().map(|(name, resource)| Self { name, resource })
    }

    pub(super) fn read(part: Part<'v>) -> Result<Self, ShapeError> {
        Ok(Self { name: part.text("name")?, resource: part.text("deviceName")? })
    }
}

/// An item of `volumes`.
#[derive(Debug)]
pub(crate) struct Volume<'v> {
    pub(crate) name: &'v str,
    /// The ConfigMap that the volume is of; empty if it is of something else.
    pub(crate) config_map: &'v str,
    pub(crate) user_data: [Option<CloudInit<'v>>; 2],
}

impl<'v> Volume<'v> {
    pub(super) fn read(part: Part<'v>) -> Result<Self, ShapeError> {
        let user_data = |key| part.part(key)?.map(CloudInit::read).transpose();
        Ok(Self {
            name: part.text("name")?,
            config_map: part.name_in("configMap")?,
            user_data: [user_data("cloudInitNoCloud")?, user_data("cloudInitConfigDrive")?],
        })
    }
}

/// The user data of a volume. Fields are empty if they are absent.
#[derive(Debug)]
pub(crate) struct CloudInit<'v> {
    pub(crate) user_data: &'v str,
    pub(crate) user_data_base64: &'v str,
    /// The Secret with the user data.
    pub(crate) secret: &'v str,
}

impl<'v> CloudInit<'v> {
    fn read(part: Part<'v>) -> Result<Self, ShapeError> {
        Ok(Self {
            user_data: part.text("userData")?,
            user_data_base64: part.text("userDataBase64")?,
            secret: part.name_in("secretRef")?,
        })
    }
}
