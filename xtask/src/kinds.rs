//! Generates what follows from the kinds that the policy looks up: the kinds that a ClusterAdmissionPolicy must declare.

use anyhow::{Context, Result};
use vm_feature_manager_policy::cluster::{KINDS, Kind, Provider, SECRET};

/// The metadata, with all kinds.
pub(crate) fn all(old: &str) -> Result<String> {
    declare(old, "contextAwareResources:", |_| true)
}

/// The chart's annotation, with all kinds. The chart's template removes those that the settings do not need.
pub(crate) fn chart(old: &str) -> Result<String> {
    declare(old, "kubewarden/contextAwareResources: |", |_| true)
}

/// The manifest, with the kinds that the default settings need.
pub(crate) fn by_default(old: &str) -> Result<String> {
    declare(old, "contextAwareResources:", |kind| *kind != SECRET)
}

/// The patch of the manifest for clusters without Harvester.
pub(crate) fn without_harvester(old: &str) -> Result<String> {
    declare(old, "contextAwareResources:", |kind| *kind != SECRET && !is_harvester(kind))
}

/// Whether only Harvester serves the kind.
pub(crate) fn is_harvester(kind: &Kind) -> bool {
    kind.provider == Provider::PciDevices
}

/// Replaces the list under the key.
fn declare(old: &str, key: &str, is_declared: impl Fn(&Kind) -> bool) -> Result<String> {
    let mut lines = old.lines();
    let mut new = Vec::new();
    for line in lines.by_ref() {
        new.push(line.to_owned());
        if line.trim_start() == key {
            break;
        }
    }
    let key_line =
        new.last().filter(|line| line.trim_start() == key).with_context(|| format!("there is no {key} in it"))?;
    let indent = " ".repeat(key_line.len() - key_line.trim_start().len() + 2);
    let declared = KINDS.into_iter().filter(|kind| is_declared(kind));
    let mut kinds: Vec<_> = declared.map(|kind| (kind.api_version, kind.name)).collect();
    kinds.sort_unstable();
    new.push(format!("{indent}# Written by cargo xtask generate, from the kinds that the policy looks up."));
    new.extend(kinds.iter().map(|(version, kind)| format!("{indent}- {{apiVersion: {version}, kind: {kind}}}")));
    let is_of_list = |line: &&str| {
        let rest = line.strip_prefix(&indent).unwrap_or_default();
        rest.starts_with("- {apiVersion: ") || rest.starts_with('#')
    };
    new.extend(lines.skip_while(is_of_list).map(str::to_owned));
    Ok(new.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_replaced_and_what_follows_stays() {
        let old = "a: 1\ncontextAwareResources:\n  # Old.\n  - {apiVersion: v1, kind: Old}\nb:\n  # Other.\n";
        let new = all(old).unwrap();
        assert!(new.starts_with("a: 1\ncontextAwareResources:\n  # Written by"), "{new}");
        assert!(new.ends_with("kind: Secret}\nb:\n  # Other.\n"), "{new}");
        assert!(new.contains("\n  - {apiVersion: kubevirt.io/v1, kind: KubeVirt}\n"), "{new}");
        assert!(!new.contains("Old"), "{new}");
        assert!(!by_default(old).unwrap().contains("Secret"));
        assert!(all("a: 1\n").is_err());
    }
}
