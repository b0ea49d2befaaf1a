//! A Kubewarden policy that gives KubeVirt virtual machines hardware features, each with one annotation.
//!
//! This file registers the waPC functions and sets up the logger. `policy.rs` shows what happens to a request, in order.

#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::string_slice, clippy::unreachable, clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod cluster;
mod directives;
mod evaluation;
mod features;
mod json;
mod keys;
mod log;
mod policy;
mod request;
mod response;
pub mod settings;
mod text;
mod values;
mod verdict;
mod vm;

use kubewarden_policy_sdk::{logging::KubewardenDrain, protocol_version_guest};
use slog::{Drain, Logger, o};
use wapc_guest::{CallResult, register_function};

use cluster::{Cluster, HostCluster};

pub use directives::{ListedDirective, list_directives};
pub use features::Settings;
pub use features::reference;
pub use text::is_hidden;
pub use values::image::{ImageReference, ImageReferenceError};
pub use values::pattern::Pattern;

/// Answers an admission request.
///
/// `payload` is JSON: `{"request": <AdmissionRequest>, "settings": <settings>}`. The answer is always Kubewarden's
/// `ValidationResponse` as JSON: if something cannot be read or applied, it contains a denial or a warning.
pub fn validate(payload: &[u8], cluster: &dyn Cluster, log: &Logger) -> Vec<u8> {
    let log = Logger::root(log::Visible(log.clone()), o!());
    response::to_bytes(policy::evaluate(payload, cluster, &log))
}

/// Answers whether the settings in `payload` are valid. It does not look anything up in the cluster.
///
/// The answer is Kubewarden's `SettingsValidationResponse` as JSON. Its message names every problem.
pub fn validate_settings(payload: &[u8]) -> Vec<u8> {
    response::settings_to_bytes(Settings::parse(payload).map(|_| ()))
}

/// Registers the functions that the Kubewarden host calls.
#[unsafe(no_mangle)]
pub extern "C" fn wapc_init() {
    register_function("validate", guest_validate);
    register_function("validate_settings", |payload| Ok(validate_settings(payload)));
    register_function("protocol_version", protocol_version_guest);
}

fn guest_validate(payload: &[u8]) -> CallResult {
    // A log line that cannot be sent must not stop the request.
    let log = Logger::root(KubewardenDrain::default().ignore_res(), o!());
    Ok(validate(payload, &HostCluster, &log))
}
