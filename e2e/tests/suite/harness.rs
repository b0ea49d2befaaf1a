//! The built module, and virtual machines for it.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value;
use vm_feature_manager_e2e::admission::{self, RequestOptions};
use vm_feature_manager_e2e::cluster::Cluster;
use vm_feature_manager_e2e::host::{Evaluation, Host};
pub use vm_feature_manager_testkit::vm;

/// The module, with nothing in its cluster.
pub static HOST: LazyLock<Host> = LazyLock::new(|| {
    let module = root().join("policy.wasm");
    Host::load(&module, Cluster::default()).unwrap_or_else(|e| panic!("{e}"))
});

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn request(object: Value, old: Option<Value>) -> Value {
    admission::request(vec![object], &RequestOptions { old }).unwrap().0
}

pub fn patch(evaluation: &Evaluation) -> Value {
    serde_json::to_value(evaluation.response.patch_operations()).unwrap()
}

pub fn message(evaluation: &Evaluation) -> &str {
    let status = evaluation.response.status.as_ref().expect("a status");
    status.message.as_deref().expect("a message")
}
