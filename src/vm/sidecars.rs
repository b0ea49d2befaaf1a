//! The hook sidecars of a VirtualMachine: a JSON list in an annotation of its template.
//! Source: `kubevirt.io/kubevirt`, `pkg/hooks/hooks.go`.

use serde_json::Value;
use serde_json::value::RawValue;

use super::path::ShapeError;
use crate::keys::PREFIX;

/// The position of the mark in the command of the policy's sidecar: after `python3 -c PROGRAM`.
const MARK: usize = 3;

/// The size limit for the annotation, in bytes. It is read several times. The policy's own sidecar has a tenth of it, and
/// Kubernetes accepts no pod with annotations of more than 256 KiB.
const MAX_LENGTH: usize = 64 << 10;

/// The hook sidecars. Each is kept as JSON text, so that the user's sidecars stay exactly as they were written.
#[derive(Debug, Default)]
pub(crate) struct Sidecars<'t> {
    entries: Vec<&'t RawValue>,
}

impl<'t> Sidecars<'t> {
    /// Reads the annotation's value. If it is absent or empty, there are no sidecars.
    pub(super) fn parse(value: &'t str) -> Result<Self, ShapeError> {
        if value.trim().is_empty() {
            return Ok(Self::default());
        }
        if value.len() > MAX_LENGTH {
            return Err(ShapeError::LongHookSidecars);
        }
        let entries = serde_json::from_str(value).map_err(|_| ShapeError::HookSidecars)?;
        Ok(Self { entries })
    }

    /// The JSON of the sidecar with the policy's mark.
    pub(crate) fn of_policy(&self) -> Option<&'t str> {
        self.entries.iter().find(|entry| is_of_policy(entry)).map(|entry| entry.get())
    }

    /// The names of the other sidecars' ConfigMaps and volume claims, which KubeVirt uses as names of pod volumes.
    pub(crate) fn volumes_of_others(&self) -> Vec<String> {
        let others = self.entries.iter().filter(|entry| !is_of_policy(entry));
        let names = others.flat_map(|entry| {
            let sidecar = read(entry.get());
            ["/configMap/name", "/pvc/name"].map(|path| sidecar.pointer(path)?.as_str().map(str::to_owned))
        });
        names.flatten().collect()
    }

    /// The annotation's value with this sidecar in the place of the policy's own; `None` if the list is empty then.
    pub(super) fn with(&self, sidecar: Option<&str>) -> Option<String> {
        let of_policy = self.entries.iter().position(|entry| is_of_policy(entry)).unwrap_or(self.entries.len());
        let (before, after) = self.entries.split_at_checked(of_policy)?;
        let others = |entries: &[&'t RawValue]| -> Vec<&str> {
            entries.iter().filter(|entry| !is_of_policy(entry)).map(|entry| entry.get()).collect()
        };
        let list = [others(before), sidecar.into_iter().collect(), others(after)].concat();
        (!list.is_empty()).then(|| format!("[{}]", list.join(",")))
    }
}

fn is_of_policy(entry: &RawValue) -> bool {
    // There may be thousands, and most are too short for the mark.
    entry.get().len() > PREFIX.len() && argument_of(entry.get(), MARK).is_some_and(|mark| mark.starts_with(PREFIX))
}

/// One argument in the command of a sidecar. `sidecar` is JSON.
pub(crate) fn argument_of(sidecar: &str, index: usize) -> Option<String> {
    read(sidecar).get("command")?.get(index)?.as_str().map(str::to_owned)
}

/// Reads a sidecar. If it is not JSON, it is null.
fn read(sidecar: &str) -> Value {
    serde_json::from_str(sidecar).unwrap_or_default()
}
