//! Reads YAML and JSON files. Errors take one line.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::visible;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// It is neither YAML nor JSON.
    #[error("{}: not valid YAML or JSON: {message}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
}

/// Whether a file may contain manifests, judged by its name.
pub fn is_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

/// The documents of a YAML or JSON file. Empty documents are skipped, and lists of objects, which `kubectl get` prints,
/// are split up. `-` means standard input.
///
/// # Errors
/// [`FileError`] if the file cannot be read, or is neither YAML nor JSON.
pub fn read(path: &Path) -> Result<Vec<Value>, FileError> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.map_err(|error| FileError::Read { path: path.to_owned(), error })?;
    let documents = parse(&text).map_err(|message| FileError::Syntax { path: path.to_owned(), message })?;
    Ok(documents.into_iter().flat_map(items).collect())
}

/// The items of a list, or the document itself.
fn items(mut document: Value) -> Vec<Value> {
    let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match document.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => items,
        Some(other) => {
            document["items"] = other;
            vec![document]
        }
        None => vec![document],
    }
}

/// The documents of a YAML or JSON text. Empty documents are skipped.
///
/// # Errors
/// One line that says what is wrong, and where.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    // YAML includes JSON, but the JSON parser has no size limits.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(vec![value]);
    }
    // A cluster's objects are many; how deep they are nested stays limited.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_documents: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place = error.location().map(|place| format!(" at line {}, column {}", place.line(), place.column()));
        let what = "check the indentation, the brackets and the quotation marks there";
        place.map_or_else(|| "it ends too early".to_owned(), |place| format!("it cannot be read{place}; {what}"))
    })?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The value as YAML for people, who see hidden characters escaped.
pub fn shown(value: &Value) -> String {
    visible::text(&in_yaml(value))
}

/// The value as YAML. If hidden characters would be in it, it is JSON, which is YAML, too, and has escapes for them.
pub fn write(value: &Value) -> String {
    let text = in_yaml(value);
    if visible::is_hiding(&text) { visible::json(value, true) + "\n" } else { text }
}

fn in_yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|e| format!("# cannot be written as YAML: {e}\n"))
}
