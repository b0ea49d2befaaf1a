//! Reads the project's files, and replaces the parts of them that are generated.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The project's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Replaces the part of a text between two marks. The marks stay.
pub(crate) fn replace_between(text: &str, start: &str, end: &str, part: &str) -> Result<String> {
    let (head, rest) = text.split_once(start).with_context(|| format!("there is no {start:?} in it"))?;
    let (_, tail) = rest.split_once(end).with_context(|| format!("there is no {end:?} after {start:?}"))?;
    Ok(format!("{head}{start}{part}{end}{tail}"))
}

/// Replaces the part of a text between the comments with its name.
pub(crate) fn between(old: &str, name: &str, part: &str) -> Result<String> {
    let start = format!("<!-- {name}, written by cargo xtask generate -->\n");
    replace_between(old, &start, &format!("<!-- end of {name} -->\n"), &format!("\n{part}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_between_marks_is_replaced() {
        let text = "a <x> old </x> b </x>";
        assert_eq!(replace_between(text, "<x>", "</x>", " new ").unwrap(), "a <x> new </x> b </x>");
        assert!(replace_between(text, "<y>", "</y>", "").is_err());
        assert!(replace_between("<x> old", "<x>", "</x>", "").is_err());
    }
}
