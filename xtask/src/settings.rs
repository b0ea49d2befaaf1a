//! Generates what follows from the declarations of the settings: the form, the chart's values and their schema, the reference.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use vm_feature_manager_policy::Settings;
use vm_feature_manager_policy::settings::{Content, Description};

use crate::files::{between, replace_between};

/// A setting with its full name.
struct Leaf {
    path: String,
    /// The label, with the title of the section.
    label: String,
    help: String,
    schema: Value,
    default: Value,
    /// The setting that enables its section, if there is one.
    switch: Option<String>,
}

/// All settings, in the order of the declarations.
fn leaves() -> Vec<Leaf> {
    let mut leaves = Vec::new();
    let root = Settings::description();
    collect(&root, "", &mut leaves);
    leaves
}

fn collect(section: &Description, path: &str, leaves: &mut Vec<Leaf>) {
    let Content::Section(settings) = &section.content else { return };
    let switch = settings.iter().any(|setting| setting.key == "enabled").then(|| format!("{path}.enabled"));
    for setting in settings {
        let path = if path.is_empty() { setting.key.to_owned() } else { format!("{path}.{}", setting.key) };
        match &setting.content {
            Content::Section(_) => collect(setting, &path, leaves),
            Content::Value { schema, default } => leaves.push(Leaf {
                label: [section.label, setting.label]
                    .into_iter()
                    .filter(|l| !l.is_empty())
                    .collect::<Vec<_>>()
                    .join(": "),
                help: setting.help.clone(),
                schema: schema.clone(),
                default: default.clone(),
                switch: switch.clone().filter(|switch| *switch != path),
                path,
            }),
        }
    }
}

/// The questions of the form in the Rancher UI. Types and conditions are those that the current UI extension supports:
/// names with dots at the top level instead of `map[` containers, one group, no `required`, and `show_if` with a single `=`.
pub(crate) fn questions(_: &str) -> Result<String> {
    let mut text = "# Written by cargo xtask generate, from the declarations of the settings.\nquestions:\n".to_owned();
    for leaf in leaves() {
        let schema = &leaf.schema;
        let options = schema["enum"].as_array();
        let kind = match (options, schema["type"].as_str()) {
            (Some(_), _) => "enum",
            (None, Some("boolean")) => "boolean",
            (None, Some("integer")) => "int",
            (None, Some("array")) => "array[",
            (None, Some("object")) => "map[",
            _ => "string",
        };
        let mut lines = vec![
            format!("- variable: {}", leaf.path),
            format!("  label: {}", scalar(&leaf.label)),
            format!("  description: {}", scalar(&form_help(&leaf, kind))),
            format!("  type: {kind}"),
        ];
        if let Some(options) = options {
            lines.push(format!("  options: {}", flow(&json!(options))));
        }
        for (key, bound) in [("min", &schema["minimum"]), ("max", &schema["maximum"])] {
            if !bound.is_null() {
                lines.push(format!("  {key}: {bound}"));
            }
        }
        lines.push(format!("  default: {}", flow(&leaf.default)));
        if let Some(switch) = &leaf.switch {
            lines.push(format!("  show_if: {switch}=true"));
        }
        lines.push("  group: Settings".to_owned());
        for line in lines {
            text.push_str(&format!("  {line}\n"));
        }
    }
    Ok(text)
}

/// The help of a question. The form of the current UI extension shows every list empty, whatever its default is, shows the help of a map
/// above its label, and does not save a row of a map that has no value.
fn form_help(leaf: &Leaf, kind: &str) -> String {
    let help = &leaf.help;
    let defaults: Vec<&str> = leaf.default.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match kind {
        "array[" if defaults.is_empty() => format!("{help} One in each row."),
        "array[" => format!(
            "{help} One in each row. If the list is empty, as at first, it means {}. What you list takes the place of these.",
            defaults.join(", ")
        ),
        "map[" if leaf.schema["additionalProperties"]["anyOf"][0]["type"] == "array" => format!(
            "{}. {help} A row without a value is not saved: for a namespace that may use none, write none.",
            leaf.label
        ),
        "map[" => format!("{}. {help}", leaf.label),
        _ => help.clone(),
    }
}

/// The package for Artifact Hub, which contains the questions.
pub(crate) fn package(old: &str) -> Result<String> {
    let start = "  kubewarden/questions-ui: |\n";
    let (head, rest) = old.split_once(start).context("there is no annotation kubewarden/questions-ui in it")?;
    let is_of_block = |line: &&str| line.starts_with("    ") || line.is_empty();
    let tail: Vec<&str> = rest.lines().skip_while(is_of_block).collect();
    let questions = questions("")?;
    let block: String = questions.lines().map(|line| format!("    {line}\n")).collect();
    let tail: String = tail.iter().map(|line| format!("{line}\n")).collect();
    Ok(format!("{head}{start}{block}{tail}"))
}

const START: &str = "# Written by cargo xtask generate, from the declarations of the settings.\n";
const END: &str = "# End of what is generated.\n";

/// The chart's values: the settings and their defaults.
pub(crate) fn values(old: &str) -> Result<String> {
    let mut text = "settings:\n".to_owned();
    write_values(&Settings::description(), "  ", &mut text);
    replace_between(old, START, END, &text)
}

fn write_values(section: &Description, indent: &str, text: &mut String) {
    let Content::Section(settings) = &section.content else { return };
    for setting in settings {
        match &setting.content {
            Content::Section(_) => {
                text.push_str(&format!("{indent}{}:\n", setting.key));
                write_values(setting, &format!("{indent}  "), text);
            }
            Content::Value { default, .. } => text.push_str(&format!("{indent}{}: {}\n", setting.key, flow(default))),
        }
    }
}

/// The schema of the chart's values, which contains the settings.
pub(crate) fn schema(old: &str) -> Result<String> {
    let mut schema: Value = serde_json::from_str(old)?;
    let settings = schema.pointer_mut("/properties/settings").context("there is no property settings in it")?;
    *settings = to_schema(&Settings::description());
    settings["$comment"] = json!("Written by cargo xtask generate, from the declarations of the settings.");
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

fn to_schema(description: &Description) -> Value {
    let mut schema = match &description.content {
        Content::Value { schema, default } => {
            let mut schema = schema.clone();
            schema["default"] = default.clone();
            schema
        }
        Content::Section(settings) => {
            let properties = settings.iter().map(|setting| (setting.key.to_owned(), to_schema(setting)));
            let properties: serde_json::Map<String, Value> = properties.collect();
            json!({"type": "object", "additionalProperties": false, "properties": properties})
        }
    };
    if !description.help.is_empty() {
        schema["description"] = json!(description.help);
    }
    schema
}

/// The settings that every feature has.
const SHARED: [&str; 2] = ["enabled", "errorHandling"];

/// The settings by section: for each section, a table, and what the user should know about the settings.
pub(crate) fn reference() -> String {
    let Content::Section(settings) = Settings::description().content else { return String::new() };
    let (sections, general): (Vec<_>, Vec<_>) =
        settings.into_iter().partition(|setting| matches!(setting.content, Content::Section(_)));
    let mut text = "### General settings\n\n".to_owned();
    write_section(&general, "", &general, &mut text);

    // The settings that every feature has are explained only once.
    let features =
        sections.iter().filter(|section| SHARED.iter().all(|key| members(section).iter().any(|s| s.key == *key)));
    let first = features.clone().next().map(members).unwrap_or_default();
    text.push_str("### Settings of every feature\n\n");
    text.push_str("Each feature has these two in its section:\n\n");
    let (common, _): (Vec<_>, Vec<_>) = first.iter().cloned().partition(|setting| SHARED.contains(&setting.key));
    write_section(&common, "<feature>.", &common, &mut text);
    let features: Vec<&str> = features.map(|section| section.key).collect();

    for section in &sections {
        let settings = members(section);
        text.push_str(&format!("### {} settings\n\n{}:\n\n", section.key, section.label));
        let is_feature = features.contains(&section.key);
        let (_, own): (Vec<_>, Vec<_>) =
            settings.iter().cloned().partition(|setting| is_feature && SHARED.contains(&setting.key));
        write_section(&settings, &format!("{}.", section.key), &own, &mut text);
    }
    text.trim_end().to_owned() + "\n"
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn members(section: &Description) -> Vec<Description> {
    match &section.content {
        Content::Section(settings) => settings.clone(),
        Content::Value { .. } => Vec::new(),
    }
}

/// A table of settings, and the help texts of those that have one.
fn write_section(settings: &[Description], prefix: &str, explained: &[Description], text: &mut String) {
    text.push_str("| setting | default | takes | what it is |\n| --- | --- | --- | --- |\n");
    for setting in settings {
        let Content::Value { schema, default } = &setting.content else { continue };
        let (key, default, takes, label) = (setting.key, flow(default), takes(schema), capitalized(setting.label));
        text.push_str(&format!("| `{prefix}{key}` | `{default}` | {takes} | {label} |\n"));
    }
    text.push('\n');
    for Description { key, help, .. } in explained {
        text.push_str(&format!("- `{key}`: {help}\n"));
    }
    text.push_str(if explained.is_empty() { "" } else { "\n" });
}

/// The chart's page, with a table of its values: the chart's own, from their schema, and the policy's settings.
pub(crate) fn chart_readme(old: &str) -> Result<String> {
    const PAGE: &str = "https://github.com/vm-feature-manager/vm-feature-manager-policy/blob/main/docs/reference.md";
    let file = crate::root().join("charts/vm-feature-manager-policy/values.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let mut table = "| value | default | what it is |\n| --- | --- | --- |\n".to_owned();
    write_chart_values(&schema, "", &mut table)?;
    for leaf in leaves() {
        let section = leaf.path.split_once('.').map_or("general", |(section, _)| section).to_lowercase();
        let (path, default, label) = (&leaf.path, flow(&leaf.default), capitalized(&leaf.label));
        table.push_str(&format!("| [`settings.{path}`]({PAGE}#{section}-settings) | `{default}` | {label} |\n"));
    }
    between(old, "values", &table)
}

fn write_chart_values(schema: &Value, path: &str, table: &mut String) -> Result<()> {
    for (key, value) in schema["properties"].as_object().into_iter().flatten().filter(|(key, _)| *key != "settings") {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if value["properties"].is_object() {
            write_chart_values(value, &path, table)?;
            continue;
        }
        let meaning = value["description"].as_str().with_context(|| format!("{path} has no description"))?;
        let default = value.get("default").with_context(|| format!("{path} has no default"))?;
        let meaning = meaning.trim_end_matches('.');
        table.push_str(&format!("| `{path}` | `{}` | {meaning} |\n", flow(default)));
    }
    Ok(())
}

/// The full names of all settings.
#[cfg(test)]
pub(crate) fn paths() -> Vec<String> {
    leaves().into_iter().map(|leaf| leaf.path).collect()
}

fn takes(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_str().unwrap_or_default())).collect();
        return match words.split_last() {
            Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
            _ => words.concat(),
        };
    }
    match schema["type"].as_str() {
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("integer") => format!("{} to {}", schema["minimum"], schema["maximum"]),
        Some("array") if schema["items"]["enum"].is_array() => format!("a list of {}", takes(&schema["items"])),
        Some("array") => "a list of glob patterns".to_owned(),
        Some("object") if schema.pointer("/additionalProperties/anyOf/0/type") == Some(&json!("object")) => {
            "a map from namespace patterns to directives".to_owned()
        }
        Some("object") => "a map from patterns to lists of patterns".to_owned(),
        _ => "a string".to_owned(),
    }
}

/// The fuzzer's dictionary: the names of directives and options, and the settings with their accepted words.
pub(crate) fn dictionary(old: &str) -> Result<String> {
    let mut words: Vec<String> = crate::reference::names().into_iter().map(str::to_owned).collect();
    for leaf in leaves() {
        words.extend(leaf.path.split('.').map(|key| format!("\\\"{key}\\\":")));
        let choices = leaf.schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.extend(choices.map(str::to_owned));
    }
    let mut seen = BTreeSet::new();
    words.retain(|word| seen.insert(word.clone()));
    let lines: String = words.iter().map(|word| format!("\"{word}\"\n")).collect();
    replace_between(old, START, END, &lines)
}

/// A value in YAML's flow style.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// A string in YAML, in quotes if it would otherwise not be read as this string.
fn scalar(text: &str) -> String {
    let is_plain =
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && !text.contains(": ") && !text.contains(" #");
    if is_plain { text.to_owned() } else { json!(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_label_and_help_of_its_own() {
        let leaves = leaves();
        assert!(leaves.len() > 25);
        for leaf in &leaves {
            assert!(!leaf.help.is_empty() && leaf.help.ends_with('.'), "{}: {:?}", leaf.path, leaf.help);
            assert_eq!(leaves.iter().filter(|other| other.label == leaf.label).count(), 1, "{}", leaf.label);
        }
    }

    #[test]
    fn maps_are_told_apart_by_what_is_in_them() {
        let takes = |path: &str| takes(&leaves().into_iter().find(|leaf| leaf.path == path).unwrap().schema);
        assert_eq!(takes("defaultDirectives"), "a map from namespace patterns to directives");
        assert_eq!(takes("gpuDevicePlugin.allowedIn"), "a map from patterns to lists of patterns");
    }

    #[test]
    fn texts_that_yaml_would_misread_are_in_quotes() {
        assert_eq!(scalar("plain, text"), "plain, text");
        assert_eq!(scalar("a: b"), r#""a: b""#);
        assert_eq!(scalar("a #b"), r##""a #b""##);
        assert_eq!(scalar(""), r#""""#);
        assert_eq!(flow(&json!(["a", "*"])), r#"[a, "*"]"#);
    }
}
