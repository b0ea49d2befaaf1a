//! The built module, and virtual machines for it.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value;
pub use vm_feature_manager_testkit::vm;
use vmfm::admission;
use vmfm::cluster::Cluster;
use vmfm::host::{Evaluation, Host};

/// The module, with an empty cluster. It is compiled once for all tests, and cached in the folder that cargo's configuration names.
pub static HOST: LazyLock<Host> = LazyLock::new(|| {
    let cache = std::env::var_os("VMFM_CACHE").map(PathBuf::from);
    Host::load(&root().join("policy.wasm"), cache.as_deref(), Cluster::default()).unwrap_or_else(|e| panic!("{e}"))
});

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn request(object: Value, old: Option<Value>) -> Value {
    admission::request(object, old).unwrap()
}

pub fn patch(evaluation: &Evaluation) -> Value {
    serde_json::to_value(evaluation.response.patch_operations()).unwrap()
}

pub fn message(evaluation: &Evaluation) -> &str {
    let status = evaluation.response.status.as_ref().expect("a status");
    status.message.as_deref().expect("a message")
}
