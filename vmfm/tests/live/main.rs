//! The program with a cluster, which a fake kubectl serves.

mod cluster;
mod doctor;
mod fix;
mod world;
