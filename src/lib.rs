//! A Kubewarden policy that gives KubeVirt virtual machines hardware features, each by one annotation.
//!
//! This file registers the waPC functions and sets up the logger; what happens to a request stands in `policy.rs`.

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
mod kinds;
mod log;
mod policy;
mod prefilter;
mod request;
mod response;
pub mod settings;
mod text;
mod verdict;
mod vm;

use kubewarden_policy_sdk::protocol_version_guest;
use slog::{Logger, o};
use wapc_guest::{CallResult, register_function};

use cluster::{Cluster, HostCluster};

pub use features::Settings;
#[cfg(feature = "describe")]
pub use features::reference;
pub use kinds::image::{ImageReference, ImageReferenceError};
pub use kinds::pattern::Pattern;

/// Answers an admission request.
///
/// `payload` is JSON: `{"request": <AdmissionRequest>, "settings": <settings>}`. The answer is Kubewarden's
/// `ValidationResponse` as JSON, whatever the payload: what cannot be read or applied is a denial or a warning in it. A
/// payload in which nothing of the policy's occurs is accepted without being read.
pub fn validate(payload: &[u8], cluster: &dyn Cluster, log: &Logger) -> Vec<u8> {
    if prefilter::may_concern(payload) { evaluate(payload, cluster, log) } else { response::accepted() }
}

/// As [`validate`], but reads every payload. The answers are the same for every payload that an API server may send.
pub fn evaluate(payload: &[u8], cluster: &dyn Cluster, log: &Logger) -> Vec<u8> {
    response::to_bytes(&policy::evaluate(payload, cluster, log), payload.len())
}

/// Answers whether the settings in `payload` are valid, without a look at the cluster.
///
/// The answer is Kubewarden's `SettingsValidationResponse` as JSON; its message names every problem.
pub fn validate_settings(payload: &[u8]) -> Vec<u8> {
    response::settings_to_bytes(Settings::parse(payload).map(|_| ()))
}

/// Registers the functions that the Kubewarden host calls.
#[unsafe(no_mangle)]
pub extern "C" fn wapc_init() {
    register_function("validate", guest_validate);
    register_function("validate_settings", guest_validate_settings);
    register_function("protocol_version", protocol_version_guest);
}

fn guest_validate(payload: &[u8]) -> CallResult {
    let log = Logger::root(log::HostDrain, o!());
    Ok(validate(payload, &HostCluster, &log))
}

fn guest_validate_settings(payload: &[u8]) -> CallResult {
    Ok(validate_settings(payload))
}
