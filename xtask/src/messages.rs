//! The guide to the policy's messages: a row for each variant of an error, from its words (`#[error]`), its cause
//! (`/// Cause:`) and its cure (`/// Cure:`). Where a variant has no cause or cure of its own, that of its enum counts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use syn::{Attribute, Expr, Item, Lit, LitStr};

use crate::files::{replace_between, root};

/// The guide, with new tables of messages. The comment before each table names the files that it is made from.
pub(crate) fn guide(old: &str) -> Result<String> {
    const START: &str = "<!-- messages of ";
    const WRITTEN: &str = ", written by cargo xtask generate -->\n";
    let constants = constants()?;
    let mut text = old.to_owned();
    let mut shown = Vec::new();
    for part in old.split(START).skip(1) {
        let (files, _) = part.split_once(WRITTEN).context("a comment about messages does not end as it should")?;
        let mut table = "\n| message | cause | what to do |\n| --- | --- | --- |\n".to_owned();
        for file in files.split(' ') {
            let path = root().join(file);
            rows(&path, &constants, &mut table).with_context(|| format!("{file}, which the guide names"))?;
            shown.push(path);
        }
        table.push('\n');
        text = replace_between(&text, &format!("{START}{files}{WRITTEN}"), "<!-- end of messages -->\n", &table)?;
    }
    for file in sources(&root().join("src"))? {
        let mut table = String::new();
        rows(&file, &constants, &mut table)?;
        ensure!(
            table.is_empty() || shown.contains(&file),
            "the guide has no table for the messages of {}",
            file.display()
        );
    }
    Ok(text)
}

/// All Rust files under a folder, sorted by name.
pub(crate) fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn parse(file: &Path) -> Result<Vec<Item>> {
    let code = fs::read_to_string(file)?;
    Ok(syn::parse_file(&code).with_context(|| format!("{} is not Rust", file.display()))?.items)
}

/// The constants that are a string or a number, by name.
fn constants() -> Result<HashMap<String, String>> {
    let mut constants = HashMap::new();
    for file in sources(&root().join("src"))? {
        for item in parse(&file)? {
            let Item::Const(constant) = item else { continue };
            let Expr::Lit(value) = *constant.expr else { continue };
            let value = match value.lit {
                Lit::Str(text) => text.value(),
                Lit::Int(number) => number.base10_digits().to_owned(),
                _ => continue,
            };
            constants.insert(constant.ident.to_string(), value);
        }
    }
    Ok(constants)
}

/// Appends the rows for the errors in a file.
fn rows(file: &Path, constants: &HashMap<String, String>, table: &mut String) -> Result<()> {
    for item in parse(file)? {
        let Item::Enum(errors) = item else { continue };
        for variant in &errors.variants {
            let Some(message) = message(&variant.attrs)? else { continue };
            let message = words(&message, constants);
            // An error without its own text has the text of the error in it.
            if message == "..." {
                continue;
            }
            let find = |key| documented(&variant.attrs, key).or_else(|| documented(&errors.attrs, key));
            let [cause, cure] = ["Cause: ", "Cure: "].map(find);
            let at = format!("{}::{}", errors.ident, variant.ident);
            let cause = cause.with_context(|| format!("{at} has no line `/// Cause: ...`"))?;
            let cure = cure.with_context(|| format!("{at} has no line `/// Cure: ...`"))?;
            let cells = [message, cause, cure].map(|cell| cell.replace('|', "\\|").replace('\n', " "));
            table.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    Ok(())
}

/// The format string of an error.
fn message(attributes: &[Attribute]) -> Result<Option<String>> {
    let is_error = |attribute: &&Attribute| attribute.path().is_ident("error");
    let Some(attribute) = attributes.iter().find(is_error) else { return Ok(None) };
    let parse = |stream: syn::parse::ParseStream<'_>| {
        let text: LitStr = stream.parse()?;
        stream.parse::<proc_macro2::TokenStream>()?;
        Ok(text.value())
    };
    Ok(Some(attribute.parse_args_with(parse)?))
}

/// The text after the key in the documentation.
fn documented(attributes: &[Attribute], key: &str) -> Option<String> {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let mut lines = lines.skip_while(|line| !line.trim_start().starts_with(key));
    let first = lines.next()?.trim_start().strip_prefix(key)?.to_owned();
    let is_more = |line: &String| !line.trim().is_empty() && !line.contains("Cause: ") && !line.contains("Cure: ");
    Some(lines.take_while(is_more).fold(first, |text, line| format!("{text} {}", line.trim())))
}

/// A format string as users see it, with the values of constants, and `...` for everything variable.
fn words(format: &str, constants: &HashMap<String, String>) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, after) = rest.split_at(at);
        text.push_str(before);
        if let Some(escaped) = after.strip_prefix("{{").or_else(|| after.strip_prefix("}}")) {
            text.push_str(&after[..1]);
            rest = escaped;
            continue;
        }
        let end = after.find('}').map_or(after.len(), |end| end + 1);
        let name = after[..end].trim_matches(['{', '}']);
        text.push_str(constants.get(name).map_or("...", String::as_str));
        rest = &after[end..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_string_is_shown_as_the_user_sees_it() {
        let constants = HashMap::from([("MAX".to_owned(), "8".to_owned())]);
        for (format, shown) in [
            ("plain", "plain"),
            ("{name} of {MAX}", "... of 8"),
            ("write {{\"a\": {}}}", "write {\"a\": ...}"),
            ("{:02X} {0}", "... ..."),
        ] {
            assert_eq!(words(format, &constants), shown);
        }
    }

    #[test]
    fn a_variant_has_the_cause_of_its_enum_unless_it_has_its_own() {
        let code = "/// Why.\n///\n/// Cause: a mistake\n/// Cure: correct\n/// it\nenum E {\n#[error(\"a {x}\")]\nA { x: u8 },\n\
            /// Cause: another\n#[error(\"b | c\")]\nB,\n#[error(\"{0}\")]\nC(u8),\n}";
        let folder = std::env::temp_dir().join(format!("xtask-messages-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("errors.rs");
        fs::write(&file, code).unwrap();
        let mut table = String::new();
        rows(&file, &HashMap::new(), &mut table).unwrap();
        assert_eq!(table, "| a ... | a mistake | correct it |\n| b \\| c | another | correct it |\n");
        fs::write(&file, "enum E {\n#[error(\"a\")]\nA }").unwrap();
        let error = rows(&file, &HashMap::new(), &mut table).unwrap_err();
        assert!(error.to_string().contains("E::A has no line `/// Cause: ...`"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
