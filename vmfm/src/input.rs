//! What is evaluated: the manifests in files and folders, what they were before, and the objects around them.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::admission::{self, RequestError};
use crate::yaml;

/// An admission request, and the file that it comes from.
#[derive(Debug)]
pub struct Input {
    /// The file.
    pub file: String,
    /// The request, or why there is none.
    pub request: Result<Value, String>,
}

/// What files have.
#[derive(Debug, Default)]
pub struct Inputs {
    /// What is evaluated, in the order of the files.
    pub inputs: Vec<Input>,
    /// The other objects, which count as being in the cluster.
    pub others: Vec<Value>,
}

impl Inputs {
    /// Reads files and, with all that is below them, folders. In a folder, documents that are no Kubernetes objects are
    /// passed over. The old objects make updates of the requests about the same objects.
    pub fn read(paths: &[PathBuf], old: &[Value]) -> Self {
        let mut found = Found::default();
        paths.iter().for_each(|path| found.read(path));
        if found.subjects.is_empty() {
            let place = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            found.make_do(place);
        }
        let count = found.subjects.iter().filter(|(_, subject)| subject.is_ok()).count();
        let input = |(file, subject): (String, Result<Value, String>)| {
            let request = subject.and_then(|subject| {
                let old = if count == 1 && old.len() == 1 { old.first() } else { of_the_same(old, &subject) };
                admission::request(subject, old.cloned()).map_err(|error| format!("{file}: {error}"))
            });
            Input { file, request }
        };
        Self { inputs: found.subjects.into_iter().map(input).collect(), others: found.others }
    }
}

/// The documents of files, sorted.
#[derive(Default)]
struct Found {
    subjects: Vec<(String, Result<Value, String>)>,
    others: Vec<Value>,
}

impl Found {
    /// Reads a folder, or a file, which must have a manifest if it was named.
    fn read(&mut self, path: &Path) {
        if path.is_dir() {
            return self.read_folder(path);
        }
        for error in self.read_file(path) {
            self.fail(path, &error);
        }
    }

    fn read_folder(&mut self, folder: &Path) {
        let paths = match below(folder) {
            Ok(paths) => paths,
            Err(error) => return self.fail(folder, &error),
        };
        for path in paths {
            if path.is_dir() {
                self.read_folder(&path);
            } else {
                // Files without a manifest may lie in a folder.
                let _ = self.read_file(&path);
            }
        }
    }

    fn fail(&mut self, path: &Path, error: &dyn Display) {
        let file = path.display().to_string();
        self.subjects.push((file.clone(), Err(format!("{file}: {error}"))));
    }

    /// Reads a file, and returns what is wrong with it if it must have a manifest.
    fn read_file(&mut self, path: &Path) -> Vec<RequestError> {
        let file = path.display().to_string();
        let documents = match yaml::read(path) {
            Ok(documents) => documents,
            Err(error) => {
                self.subjects.push((file, Err(error.to_string())));
                return Vec::new();
            }
        };
        let mut errors = Vec::new();
        if documents.is_empty() {
            errors.push(RequestError::Empty);
        }
        for document in documents {
            if admission::is_subject(&document) {
                self.subjects.push((file.clone(), Ok(document)));
            } else if document["apiVersion"].is_string() && document["kind"].is_string() {
                self.others.push(document);
            } else {
                errors.push(RequestError::NoManifest);
            }
        }
        errors
    }

    /// Where there is no VirtualMachine, the only object there is will do.
    fn make_do(&mut self, place: String) {
        let subject = match &self.others[..] {
            [_] => Ok(self.others.remove(0)),
            [] => Err(RequestError::Empty),
            others => {
                let kinds: Vec<_> = others.iter().map(|other| other["kind"].as_str().unwrap_or("?")).collect();
                Err(RequestError::NoVirtualMachine(kinds.join(", ")))
            }
        };
        let subject = subject.map_err(|error| format!("{place}: {error}"));
        self.subjects.push((place, subject));
    }
}

/// What is in a folder, in order: folders, and files with manifests. Hidden ones are left out.
fn below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && (path.is_dir() || yaml::is_name(&path)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The object of the same kind, namespace and name.
fn of_the_same<'o>(objects: &'o [Value], object: &Value) -> Option<&'o Value> {
    let identity = |object: &Value| {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default").to_owned();
        (object["kind"].clone(), namespace, metadata["name"].clone())
    };
    let wanted = identity(object);
    objects.iter().find(|object| identity(object) == wanted)
}
