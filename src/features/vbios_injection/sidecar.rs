//! The hook sidecar: the entry of ours, and the annotation's list of all entries.

use crate::image::ImageReference;
use crate::json::{Json, Shape, member};
use crate::settings::{HookVersion, OnHookFailure, RomDelivery};

/// The annotation of the template in which KubeVirt reads hook sidecars.
pub(super) const ANNOTATION: &str = "hooks.kubevirt.io/hookSidecars";

/// What tells our entry from others: the first argument of the program.
const MARKER: &str = "vm-feature-manager.io/vbios-injection";

/// The program that installs and is the hook.
///
/// Started by `python3 -c` with `MARKER DELIVERY ON_FAILURE DEVICES SHIM-ARGUMENT...`, it installs itself as
/// `onDefineDomain` and becomes the sidecar-shim; called as `onDefineDomain --vmi JSON --domain XML` it prints the domain.
/// `DEVICES` are tried in turn: a name in the VM, a PCI address on the host, `*` the only one, `?` the only one or none.
const PROGRAM: &str = include_str!("hook.py");

/// An entry of the list. Source: `kubevirt.io/kubevirt`, `pkg/hooks/hooks.go`.
#[derive(Debug)]
pub(super) struct Sidecar(Json<'static>);

/// An annotation that is no list of entries.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.template.metadata.annotations[\"{ANNOTATION}\"] is not a JSON list, so no sidecar can be added to it; correct or \
     remove that annotation"
)]
pub(super) struct UnreadableAnnotation;

impl Sidecar {
    /// The entry for a ConfigMap's ROM and a device.
    pub(super) fn new(
        image: &ImageReference,
        config_map: &str,
        devices: &str,
        version: HookVersion,
        delivery: RomDelivery,
        on_failure: OnHookFailure,
    ) -> Self {
        let version = match version {
            HookVersion::V1Alpha3 => "v1alpha3",
            HookVersion::V1Alpha2 => "v1alpha2",
        };
        let on_failure = match on_failure {
            OnHookFailure::Fail => "fail",
            OnHookFailure::Continue => "continue",
        };
        let word = match delivery {
            RomDelivery::Volume => "volume",
            RomDelivery::Sidecar => "sidecar",
        };
        let command =
            ["python3", "-c", PROGRAM, MARKER, word, on_failure, devices, "--version", version];
        let command = command.map(|argument| argument.to_owned().into()).to_vec();
        let mut entry =
            vec![member("image", image.to_string()), member("command", Json::Array(command))];
        if delivery == RomDelivery::Sidecar {
            let rom = vec![
                member("name", config_map.to_owned()),
                member("key", "rom"),
                member("hookPath", "/run/vbios/rom"),
            ];
            entry.push(member("configMap", Json::Object(rom)));
        }
        Self(Json::Object(entry))
    }
}

/// The entries of an annotation: those that are not ours stay the text they are.
pub(super) struct Sidecars<'t> {
    entries: Vec<(Json<'t>, bool)>,
}

impl<'t> Sidecars<'t> {
    /// Reads the annotation's value; none, or an empty one, is no entry.
    pub(super) fn parse(value: &'t str) -> Result<Self, UnreadableAnnotation> {
        static LIST: Shape = Shape::Items(&Shape::Text);
        if value.trim().is_empty() {
            return Ok(Self { entries: Vec::new() });
        }
        match Json::parse(value, &LIST) {
            Ok(Json::Array(items)) => {
                let entries = items.into_iter().map(|item| {
                    let is_ours = is_ours(&item);
                    (item, is_ours)
                });
                Ok(Self { entries: entries.collect() })
            }
            _ => Err(UnreadableAnnotation),
        }
    }

    /// The names of the ConfigMaps and volume claims of the entries that are not ours: KubeVirt makes pod volumes of
    /// these names.
    pub(super) fn volumes_of_others(&self) -> Vec<String> {
        static VOLUMES: Shape = Shape::Only(&[
            ("configMap", Shape::Only(&[("name", Shape::Tree)])),
            ("pvc", Shape::Only(&[("name", Shape::Tree)])),
        ]);
        let mut names = Vec::new();
        for (entry, _) in self.entries.iter().filter(|(_, is_ours)| !is_ours) {
            let read = read(entry, &VOLUMES);
            for path in [["configMap", "name"], ["pvc", "name"]] {
                let name = read.as_ref().and_then(|entry| entry.at(&path)).and_then(Json::as_str);
                names.extend(name.map(str::to_owned));
            }
        }
        names
    }

    /// Whether our entry looks for a device of the name.
    pub(super) fn is_for(&self, device: &str) -> bool {
        let ours = self.entries.iter().find(|(_, is_ours)| *is_ours);
        let devices = ours.and_then(|(entry, _)| argument(entry, 6)).unwrap_or_default();
        devices.split(' ').any(|name| name == device)
    }

    /// The annotation's value without our entry, empty if it has no other; `None` where there is no entry of ours.
    pub(super) fn without_ours(&self) -> Option<String> {
        let others = self.entries.iter().filter(|(_, is_ours)| !is_ours);
        let others: Vec<String> = others.map(|(entry, _)| entry.to_text()).collect();
        match others.len() {
            n if n == self.entries.len() => None,
            0 => Some(String::new()),
            _ => Some(format!("[{}]", others.join(","))),
        }
    }

    /// The annotation's value with the entry in the place of ours, or behind the others.
    pub(super) fn with(&self, sidecar: &Sidecar) -> String {
        let ours = sidecar.0.to_text();
        let place = self.entries.iter().position(|(_, is_ours)| *is_ours);
        let mut list: Vec<String> = Vec::new();
        for (index, (entry, is_ours)) in self.entries.iter().enumerate() {
            match (is_ours, place) {
                (false, _) => list.push(entry.to_text()),
                (true, Some(place)) if place == index => list.push(ours.clone()),
                (true, _) => {}
            }
        }
        if place.is_none() {
            list.push(ours);
        }
        format!("[{}]", list.join(","))
    }
}

fn is_ours(entry: &Json<'_>) -> bool {
    argument(entry, 3).as_deref() == Some(MARKER)
}

/// A part of an entry's command.
fn argument(entry: &Json<'_>, index: usize) -> Option<String> {
    static COMMAND: Shape = Shape::Only(&[("command", Shape::Tree)]);
    let command = read(entry, &COMMAND)?;
    command.get("command")?.items().get(index)?.as_str().map(str::to_owned)
}

fn read<'t>(entry: &Json<'t>, shape: &'static Shape) -> Option<Json<'t>> {
    match entry {
        Json::Text(text) => Json::parse(text.get(), shape).ok(),
        _ => None,
    }
}
