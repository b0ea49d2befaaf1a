//! End-to-end tests: the built module in the embedded host, the files that ship with it, and the hook in Python.

mod accounts;
mod cluster;
mod cost;
mod cpu_models;
mod crd;
mod faults;
mod grown;
mod harness;
mod hook;
mod lookups;
mod module;
mod observability;
mod package;
mod runs;
mod taking_back;
mod worst;
