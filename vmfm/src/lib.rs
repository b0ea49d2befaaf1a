//! Evaluates the policy's module as Kubewarden's policy-server does: the same engine and protocol, a fresh instance for each
//! request, the same host callbacks, the same JSON patch. The cluster comes from YAML files.
//!
//! What is evaluated is the module that is shipped. Of the policy's Rust code only the names of features and options are used, to
//! explain an answer.

pub mod admission;
pub mod cluster;
pub mod explain;
pub mod host;
pub mod input;
pub mod jsonpath;
pub mod paint;
pub mod report;
pub mod wapc;
pub mod yaml;
