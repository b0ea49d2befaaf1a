//! End-to-end tests: the built module in the embedded host, the command-line program, and the hook in Python.

mod cluster;
mod command;
mod cost;
mod crd;
mod faults;
mod harness;
mod hook;
mod lookups;
#[path = "../../benches/meter.rs"]
mod meter;
mod module;
mod observability;
mod package;
mod taking_back;
