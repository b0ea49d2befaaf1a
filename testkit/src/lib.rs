//! What all tests share: virtual machines, requests and answers, a cluster in memory, log lines. The native tests, the
//! tests of the module, and the fuzz targets use it. It panics if a test has to fail.

pub mod cluster;
pub mod copies;
pub mod features;
pub mod log;
mod request;

use std::fs;

use serde_json::{Value, json};

pub use cluster::{KUBEWARDEN, MemoryCluster, RANCHER};
pub use request::{Answer, Request, evaluate};

/// The prefix of the policy's keys.
pub const PREFIX: &str = "vm-feature-manager.io/";

/// A virtual machine as Harvester's form creates it, with annotations of the policy. Their keys are given without the prefix.
pub fn vm(annotations: &[(&str, &str)]) -> Value {
    let mut vm = fixture("vm-ui-create.yaml");
    annotate(&mut vm, annotations);
    vm
}

/// The smallest virtual machine, with annotations of the policy. Their keys are given without the prefix.
pub fn bare_vm(annotations: &[(&str, &str)]) -> Value {
    let mut vm = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "bare", "namespace": "default"},
        "spec": {"template": {"spec": {"domain": {"devices": {}}}}},
    });
    annotate(&mut vm, annotations);
    vm
}

/// Adds annotations of the policy. Their keys are given without the prefix.
pub fn annotate(vm: &mut Value, annotations: &[(&str, &str)]) {
    for (key, value) in annotations {
        vm["metadata"]["annotations"][format!("{PREFIX}{key}")] = json!(value);
    }
}

/// The VM with each of its directives marked as evaluated, as if it had been updated before.
pub fn evaluated(mut vm: Value) -> Value {
    for feature in features::names() {
        if !vm["metadata"]["annotations"][format!("{PREFIX}{feature}")].is_null() {
            annotate(&mut vm, &[(&format!("{feature}-applied"), "as before")]);
        }
    }
    vm
}

/// The key of the record in the template's annotations.
pub const RECORD: &str = "vm-feature-manager.io/record";

/// What the record of a VM says about a feature.
pub fn record(vm: &Value, feature: &str) -> Option<Value> {
    let record = vm["spec"]["template"]["metadata"]["annotations"][RECORD].as_str()?;
    let record: Value = serde_json::from_str(record).expect("the record is JSON");
    Some(record[feature].clone()).filter(|part| !part.is_null())
}

/// Writes the record of a VM: features with their directives' values, and what they added.
pub fn set_record(vm: &mut Value, features: &[(&str, &str, Value)]) {
    let parts = features.iter().map(|(feature, value, added)| {
        let part = json!({"value": value, "added": added});
        ((*feature).to_owned(), part)
    });
    let record = Value::Object(parts.collect());
    vm["spec"]["template"]["metadata"]["annotations"][RECORD] = json!(record.to_string());
}

/// The document of a file under `tests/data` that contains only one.
pub fn fixture(name: &str) -> Value {
    fixtures(name).remove(0)
}

/// All documents of a file.
pub fn fixtures(name: &str) -> Vec<Value> {
    let path = format!("{}/../tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The objects of the example that has a ROM.
pub fn vbios_objects() -> Vec<Value> {
    let files = ["cluster.yaml", "rom.yaml"];
    files.iter().flat_map(|name| fixtures(&format!("../../examples/vbios/cluster/{name}"))).collect()
}
