//! The program with a cluster, which a fake kubectl serves.

mod cluster;
mod world;
