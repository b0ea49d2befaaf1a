//! The tables of the reference: directives, options, settings, lookups.

use anyhow::Result;
use vm_feature_manager_policy::reference;

use crate::{replace_between, rights, settings};

const PREFIX: &str = "vm-feature-manager.io/";

/// The text with all tables, each between the comments that name it.
pub(crate) fn tables(old: &str) -> Result<String> {
    let tables = [
        ("directives", directives()),
        ("options", options()),
        ("settings", settings::table()),
        ("lookups", rights::table()),
    ];
    tables.into_iter().try_fold(old.to_owned(), |text, (name, table)| {
        let start = format!("<!-- {name}, written by cargo xtask generate -->\n");
        replace_between(&text, &start, &format!("<!-- end of {name} -->\n"), &format!("\n{table}\n"))
    })
}

fn directives() -> String {
    let mut table =
        "| annotation | value | what it does under `spec.template.spec` |\n| --- | --- | --- |\n".to_owned();
    for (name, reference) in reference::features() {
        table.push_str(&format!("| `{PREFIX}{name}` | {} | {} |\n", reference.takes, reference.effect));
    }
    table
}

fn options() -> String {
    let mut table = "| annotation | value | meaning | of |\n| --- | --- | --- | --- |\n".to_owned();
    for (feature, reference) in reference::features() {
        for option in reference.options {
            table.push_str(&format!(
                "| `{PREFIX}{}` | {} | {} | {feature} |\n",
                option.name, option.takes, option.meaning
            ));
        }
    }
    table
}

/// The columns of `kubectl get virtualmachines`: each directive, what was applied, what failed.
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

/// The page that kwctl shows, with the directives and the options.
pub(crate) fn usage(old: &str) -> Result<String> {
    let mut table = "| annotation of the VirtualMachine | value |\n| --- | --- |\n".to_owned();
    for (name, reference) in reference::features() {
        table.push_str(&format!("| `{PREFIX}{name}` | {} |\n", reference.takes));
        for option in reference.options {
            table.push_str(&format!("| option `{PREFIX}{}` | {} |\n", option.name, option.takes));
        }
    }
    replace_between(
        old,
        "<!-- directives, written by cargo xtask generate -->\n",
        "<!-- end of directives -->\n",
        &format!("\n{table}\n"),
    )
}

/// The names of all directives and options.
pub(crate) fn names() -> Vec<&'static str> {
    let features = reference::features().into_iter();
    features.flat_map(|(name, r)| [name].into_iter().chain(r.options.iter().map(|option| option.name))).collect()
}
