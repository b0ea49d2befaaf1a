//! The objects of a cluster, by kind and name. There may be tens of thousands.

use std::collections::HashMap;

use serde_json::Value;

/// Objects of all kinds.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    /// By API version and kind.
    kinds: HashMap<(String, String), OfKind>,
}

/// The objects of a kind, in the order in which they were added.
#[derive(Debug, Clone, Default)]
struct OfKind {
    objects: Vec<Value>,
    /// Where the objects of a name are. In different namespaces, there may be several.
    by_name: HashMap<String, Vec<usize>>,
}

impl Objects {
    /// Adds an object, even if there is one with the same name.
    pub(super) fn add(&mut self, object: Value) {
        let kind = self.kinds.entry(kind_of(&object)).or_default();
        kind.by_name.entry(name_of(&object).to_owned()).or_default().push(kind.objects.len());
        kind.objects.push(object);
    }

    /// Adds an object, in place of one with the same kind, namespace and name.
    pub(super) fn apply(&mut self, object: Value) {
        let kind = self.kinds.entry(kind_of(&object)).or_default();
        let same_name = kind.by_name.get(name_of(&object)).into_iter().flatten();
        let mut same = same_name.filter(|index| namespace(&kind.objects[**index]) == namespace(&object));
        match same.next().copied() {
            Some(index) => kind.objects[index] = object,
            None => self.add(object),
        }
    }

    /// The first object of this name. Without a namespace, those of all namespaces count.
    pub(super) fn get(&self, api_version: &str, kind: &str, name: &str, within: Option<&str>) -> Option<&Value> {
        let kind = self.of_kind(api_version, kind)?;
        let objects = kind.by_name.get(name)?.iter().map(|index| &kind.objects[*index]);
        objects.into_iter().find(|object| within.is_none() || namespace(object) == within)
    }

    /// All objects of a kind.
    pub(super) fn list(&self, api_version: &str, kind: &str) -> &[Value] {
        self.of_kind(api_version, kind).map(|kind| kind.objects.as_slice()).unwrap_or_default()
    }

    /// Whether there is an object of the API version.
    pub(super) fn has(&self, api_version: &str) -> bool {
        self.kinds.keys().any(|(version, _)| version == api_version)
    }

    fn of_kind(&self, api_version: &str, kind: &str) -> Option<&OfKind> {
        self.kinds.get(&(api_version.to_owned(), kind.to_owned()))
    }
}

fn kind_of(object: &Value) -> (String, String) {
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    (text("apiVersion"), text("kind"))
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The namespace of an object.
pub(super) fn namespace(object: &Value) -> Option<&str> {
    object["metadata"]["namespace"].as_str()
}

/// The object with only the fields in the masks. Its type and metadata are always there, because the host never removes
/// them. If there is a list on the way, the mask applies to each item.
pub(crate) fn pruned<M: AsRef<str>>(object: &Value, masks: &[M]) -> Value {
    if masks.is_empty() {
        return object.clone();
    }
    let masks = masks.iter().map(AsRef::as_ref).chain(["apiVersion", "kind", "metadata"]);
    let paths: Vec<Vec<&str>> = masks.map(|mask| mask.split('.').collect()).collect();
    prune(object, &paths.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn prune(value: &Value, paths: &[&[&str]]) -> Value {
    match value {
        _ if paths.iter().any(|path| path.is_empty()) => value.clone(),
        Value::Array(items) => items.iter().map(|item| prune(item, paths)).collect(),
        Value::Object(members) => {
            let keep = |(key, value): (&String, &Value)| {
                let below: Vec<&[&str]> = paths.iter().filter(|path| path[0] == key).map(|path| &path[1..]).collect();
                (!below.is_empty()).then(|| (key.clone(), prune(value, &below)))
            };
            Value::Object(members.iter().filter_map(keep).collect())
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, namespace: &str, data: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data})
    }

    #[test]
    fn an_object_that_is_applied_replaces_the_one_of_its_namespace() {
        let mut objects = Objects::default();
        for (namespace, data) in [("a", "1"), ("b", "2"), ("a", "3")] {
            objects.apply(object("x", namespace, data));
        }
        let of = |within| objects.get("v1", "ConfigMap", "x", within).map(|found| found["data"].clone());
        assert_eq!(of(Some("a")), Some(json!("3")));
        assert_eq!(of(Some("b")), Some(json!("2")));
        assert_eq!((of(None), of(Some("c"))), (Some(json!("3")), None));
        assert_eq!(objects.list("v1", "ConfigMap").len(), 2);
        assert!(objects.has("v1") && !objects.has("v2") && objects.list("v1", "Secret").is_empty());
    }
}
