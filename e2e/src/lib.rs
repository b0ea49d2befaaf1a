//! Evaluates the policy's module as Kubewarden's policy-server does: the same waPC engine, a fresh instance for each
//! request, the same host callbacks, the same JSON patch. The cluster comes from YAML files.
//!
//! Nothing of the policy's Rust code is used here: what is tested is the module that is shipped.

pub mod admission;
pub mod cluster;
pub mod host;
pub mod jsonpath;
pub mod report;
pub mod yaml;
