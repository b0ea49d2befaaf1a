//! The hook sidecars of a VirtualMachine: a JSON list in an annotation of its template.
//! Source: `kubevirt.io/kubevirt`, `pkg/hooks/hooks.go`.

use crate::json::{Json, Shape};
use crate::keys::PREFIX;

use super::path::ShapeError;

/// Where in its command a hook sidecar of the policy's has its mark: after `python3 -c PROGRAM`.
const MARK: usize = 3;

/// The hook sidecars; each stays the text that it is.
#[derive(Debug, Default)]
pub(crate) struct Sidecars<'t> {
    entries: Vec<Json<'t>>,
}

impl<'t> Sidecars<'t> {
    /// Reads the annotation's value; none, or an empty one, means no sidecars.
    pub(super) fn parse(value: &'t str) -> Result<Self, ShapeError> {
        static LIST: Shape = Shape::Each(&Shape::Raw);
        if value.trim().is_empty() {
            return Ok(Self::default());
        }
        match Json::parse(value, &LIST) {
            Ok(Json::Array(entries)) => Ok(Self { entries }),
            _ => Err(ShapeError::HookSidecars),
        }
    }

    /// The text of the sidecar with the policy's mark.
    pub(crate) fn of_policy(&self) -> Option<String> {
        self.entries.iter().find(|entry| is_of_policy(entry)).map(Json::to_text)
    }

    /// The names of the ConfigMaps and volume claims of the other sidecars: KubeVirt makes pod volumes of these names.
    pub(crate) fn volumes_of_others(&self) -> Vec<String> {
        static VOLUMES: Shape = Shape::OnlyMembers(&[
            ("configMap", Shape::OnlyMembers(&[("name", Shape::Whole)])),
            ("pvc", Shape::OnlyMembers(&[("name", Shape::Whole)])),
        ]);
        let mut names = Vec::new();
        for entry in self.entries.iter().filter(|entry| !is_of_policy(entry)) {
            let read = read(entry, &VOLUMES);
            for path in [["configMap", "name"], ["pvc", "name"]] {
                let name = read.as_ref().and_then(|entry| entry.at(&path)).and_then(Json::as_str);
                names.extend(name.map(str::to_owned));
            }
        }
        names
    }

    /// The annotation's value without the sidecar of the policy's; `None` if there is no other.
    pub(super) fn without(&self) -> Option<String> {
        let others = self.entries.iter().filter(|entry| !is_of_policy(entry));
        let others: Vec<String> = others.map(Json::to_text).collect();
        (!others.is_empty()).then(|| format!("[{}]", others.join(",")))
    }

    /// The annotation's value with the sidecar in the place of the policy's, or after the others.
    pub(super) fn with(&self, sidecar: &str) -> String {
        let place = self.entries.iter().position(is_of_policy);
        let mut list: Vec<String> = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if Some(index) == place {
                list.push(sidecar.to_owned());
            } else if !is_of_policy(entry) {
                list.push(entry.to_text());
            }
        }
        if place.is_none() {
            list.push(sidecar.to_owned());
        }
        format!("[{}]", list.join(","))
    }
}

fn is_of_policy(entry: &Json<'_>) -> bool {
    argument(entry, MARK).is_some_and(|mark| mark.starts_with(PREFIX))
}

/// A part of a sidecar's command.
fn argument(entry: &Json<'_>, index: usize) -> Option<String> {
    static COMMAND: Shape = Shape::OnlyMembers(&[("command", Shape::Whole)]);
    let command = read(entry, &COMMAND)?;
    command.get("command")?.items().get(index)?.as_str().map(str::to_owned)
}

/// A part of the command of a sidecar as text.
pub(crate) fn argument_of(sidecar: &str, index: usize) -> Option<String> {
    argument(&Json::parse(sidecar, &Shape::Raw).ok()?, index)
}

fn read<'t>(entry: &Json<'t>, shape: &'static Shape) -> Option<Json<'t>> {
    match entry {
        Json::Raw(text) => Json::parse(text.get(), shape).ok(),
        _ => None,
    }
}
