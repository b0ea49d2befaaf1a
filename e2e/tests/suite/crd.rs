//! The schemas of custom resources, as strict as the API server's check of unknown fields.

use std::collections::HashMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Value, json};
use vmfm::yaml;

use crate::harness::root;

static SCHEMAS: LazyLock<HashMap<&str, Validator>> = LazyLock::new(|| {
    let kinds = [
        "VirtualMachine",
        "ClusterAdmissionPolicy",
        "PCIDevice",
        "PCIDeviceClaim",
        "SRIOVGPUDevice",
        "SRIOVNetworkDevice",
        "VGPUDevice",
    ];
    let read = |kind: &'static str| {
        let path = root().join(format!("tests/data/schemas/{}.yaml", kind.to_lowercase()));
        let mut schema = yaml::read(&path).unwrap().remove(0);
        let properties = schema["properties"].as_object_mut().unwrap();
        for key in ["apiVersion", "kind", "metadata"] {
            properties.entry(key).or_insert_with(|| json!({}));
        }
        (kind, jsonschema::validator_for(&strict(&schema)).unwrap())
    };
    kinds.into_iter().map(read).collect()
});

/// The problems of an object, if the schema of its kind is known.
pub fn problems(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().expect("a kind");
    let Some(schema) = SCHEMAS.get(kind) else {
        return vec![format!("no schema of {kind}")];
    };
    let problems = schema.iter_errors(object);
    problems.map(|problem| format!("{}: {problem}", problem.instance_path())).collect()
}

/// Converts a structural schema to JSON Schema. Keywords that JSON Schema does not have are translated.
fn strict(schema: &Value) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        return json!({"type": ["integer", "string"]});
    }
    let mut result = Map::new();
    for (key, value) in schema {
        let value = match key.as_str() {
            "properties" => value.as_object().unwrap().iter().map(|(k, v)| (k.clone(), strict(v))).collect(),
            "items" | "additionalProperties" => strict(value),
            // Formats of OpenAPI that JSON Schema does not know.
            "format" => continue,
            _ => value.clone(),
        };
        result.insert(key.clone(), value);
    }
    let is_open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true))
        || schema.contains_key("additionalProperties")
        || !schema.contains_key("properties");
    if !is_open {
        result.insert("additionalProperties".to_owned(), json!(false));
    }
    // The API server accepts null for "not set" if there is a default, or if the field is optional.
    if let Some(Value::String(kind)) = schema.get("type") {
        result.insert("type".to_owned(), json!([kind, "null"]));
    }
    Value::Object(result)
}

#[test]
fn what_the_api_server_would_not_take_is_a_problem() {
    let vm = |spec: Value| {
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "a"},
            "spec": {"template": {"spec": {"domain": spec}}},
        })
    };
    assert_eq!(problems(&vm(json!({"devices": {}}))), Vec::<String>::new());
    for domain in [
        json!({"devices": {"hostDevices": [{"deviceName": "b"}]}}),
        json!({"devices": {"hostDevices": [{"name": "a", "deviceName": "b", "c": "d"}]}}),
        json!({"devices": {}, "cpu": {"features": [{"name": 1}]}}),
    ] {
        assert_eq!(problems(&vm(domain)).len(), 1);
    }
}
