//! Evaluates the policy's module as Kubewarden's policy-server does: the same engine and protocol, a fresh instance for each
//! request, the same host callbacks, the same JSON patch. The cluster comes from YAML files.
//!
//! It evaluates the module that users install. From the policy's Rust code, it uses only the names of features and
//! options, to explain an answer.

pub mod admission;
mod cache;
pub mod cluster;
pub mod explain;
pub mod host;
pub mod input;
pub mod jsonpath;
pub mod live;
pub mod paint;
pub mod report;
pub mod visible;
pub mod wapc;
pub mod yaml;
