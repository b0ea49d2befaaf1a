//! Reads what is to be evaluated: the manifests in files and folders, their versions before a change, and the objects
//! around them.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::admission::{self, RequestError};
use crate::yaml;

/// An admission request, and the file that it was made from.
#[derive(Debug)]
pub struct Input {
    /// The file.
    pub file: String,
    /// The request, or the reason why there is none.
    pub request: Result<Value, String>,
}

/// The contents of the files.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The requests to evaluate, in the order of the files.
    pub inputs: Vec<Input>,
    /// The other objects, which are part of the cluster.
    pub others: Vec<Value>,
}

impl Inputs {
    /// Reads files, and folders with everything in them. In a folder, documents that are not Kubernetes objects are
    /// skipped. If there is an old version of an object, its request is an update.
    pub fn read(paths: &[PathBuf], old: &[Value]) -> Self {
        let mut found = Found::default();
        paths.iter().for_each(|path| found.read(path));
        if found.subjects.is_empty() {
            let place = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            found.miss(place);
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

/// The documents of the files, sorted.
#[derive(Default)]
struct Found {
    subjects: Vec<(String, Result<Value, String>)>,
    others: Vec<Value>,
}

impl Found {
    /// Reads a path that the user named: a folder, or a file, which must contain a manifest.
    fn read(&mut self, path: &Path) {
        if path.is_dir() {
            let count = |found: &Self| found.subjects.len() + found.others.len();
            let before = count(self);
            self.read_folder(path);
            if count(self) == before {
                self.fail(path, &RequestError::Empty);
            }
            return;
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
                // A folder may contain files without a manifest.
                let _ = self.read_file(&path);
            }
        }
    }

    fn fail(&mut self, path: &Path, error: &dyn Display) {
        let file = path.display().to_string();
        self.subjects.push((file.clone(), Err(format!("{file}: {error}"))));
    }

    /// Reads a file. The errors that it returns matter only if the file must contain a manifest.
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

    /// Says that there is no VirtualMachine.
    fn miss(&mut self, place: String) {
        let kinds: Vec<_> = self.others.iter().map(|other| other["kind"].as_str().unwrap_or("?")).collect();
        let error = match kinds.is_empty() {
            true => RequestError::Empty,
            false => RequestError::NoVirtualMachine(kinds.join(", ")),
        };
        self.subjects.push((place.clone(), Err(format!("{place}: {error}"))));
    }
}

/// The contents of a folder, sorted: folders, and files with manifests. Hidden ones are skipped.
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

/// The object with the same kind, namespace and name.
fn of_the_same<'o>(objects: &'o [Value], object: &Value) -> Option<&'o Value> {
    let identity = |object: &Value| {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default").to_owned();
        (object["kind"].clone(), namespace, metadata["name"].clone())
    };
    let wanted = identity(object);
    objects.iter().find(|object| identity(object) == wanted)
}
