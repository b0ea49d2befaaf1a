//! Generates the reference: directives, options, settings, lookups. The README and the page that kwctl shows contain parts of it.

use anyhow::Result;
use vm_feature_manager_policy::reference::{self, OptionReference, Reference};

use crate::files::between;
use crate::{rights, settings};

const PREFIX: &str = "vm-feature-manager.io/";

/// The README, with a short table of the directives.
pub(crate) fn readme(old: &str) -> Result<String> {
    let mut table = "| directive | for example | what you get |\n| --- | --- | --- |\n".to_owned();
    for (name, Reference { example, gives, page, .. }) in reference::features() {
        table.push_str(&format!("| [`{name}`](docs/{page}) | `{example}` | {gives} |\n"));
    }
    between(old, "directives", &table)
}

/// The page of the reference.
pub(crate) fn page(old: &str) -> Result<String> {
    let parts = [("directives", directives()), ("settings", settings::reference()), ("lookups", rights::reference())];
    parts.into_iter().try_fold(old.to_owned(), |text, (name, part)| between(&text, name, &part))
}

fn directives() -> String {
    let sections = reference::features().into_iter().map(|(name, reference)| {
        let Reference { settings, example, gives, page, takes, effect, options, .. } = reference;
        let mut lines = vec![
            format!("### {name}\n"),
            format!("```yaml\n{PREFIX}{name}: {example}\n```\n"),
            format!("- What you get: {gives} ([more]({page}))"),
            format!("- Value: {takes}"),
            format!("- Under `spec.template.spec`: {effect}"),
            format!("- Settings: [`{settings}`](#{}-settings)", settings.to_lowercase()),
        ];
        for OptionReference { name, takes, meaning } in options {
            lines.push(format!("- Option `{PREFIX}{name}` ({takes}): {meaning}"));
        }
        lines.join("\n") + "\n"
    });
    sections.collect::<Vec<_>>().join("\n")
}

/// The columns for `kubectl get virtualmachines`: for each feature, its directive, what was applied, and what failed.
pub(crate) fn columns(_: &str) -> Result<String> {
    let mut columns = vec![("NAMESPACE".to_owned(), ".metadata.namespace".to_owned())];
    columns.push(("NAME".to_owned(), ".metadata.name".to_owned()));
    for (name, _) in reference::features() {
        let key = PREFIX.replace('.', "\\.");
        let path = |end: &str| format!(".metadata.annotations.{key}{name}{end}");
        columns.push((name.to_ascii_uppercase(), path("")));
        columns.push(("APPLIED".to_owned(), path("-applied")));
        columns.push(("ERROR".to_owned(), path("-error")));
    }
    let widths = columns.iter().map(|(head, path)| head.len().max(path.len()));
    let heads = columns.iter().zip(widths).map(|((head, _), width)| format!("{head:width$}"));
    let heads = heads.collect::<Vec<_>>().join("  ");
    let paths: Vec<&str> = columns.iter().map(|(_, path)| path.as_str()).collect();
    Ok(format!("{}\n{}\n", heads.trim_end(), paths.join("  ")))
}

/// The page that kwctl shows, with tables of the directives and the options.
pub(crate) fn usage(old: &str) -> Result<String> {
    let mut table = "| directive | value |\n| --- | --- |\n".to_owned();
    for (name, reference) in reference::features() {
        table.push_str(&format!("| `{name}` | `{}` |\n", reference.example));
        for option in reference.options {
            table.push_str(&format!("| option `{}` | {} |\n", option.name, option.takes));
        }
    }
    between(old, "directives", &table)
}

/// The names of all directives and options.
pub(crate) fn names() -> Vec<&'static str> {
    let features = reference::features().into_iter();
    features.flat_map(|(name, r)| [name].into_iter().chain(r.options.iter().map(|option| option.name))).collect()
}
