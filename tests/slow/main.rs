//! The slow tier: everything that takes more than seconds. `scripts/test --all` runs it, or `cargo test --release --test slow`.
//!
//! Disks that no one here made are built once into `target/test-images` and used again.

#[path = "../common/mod.rs"]
mod common;

#[path = "../common/cloud/mod.rs"]
#[allow(dead_code)] // made for several tests
mod cloud;

#[path = "../nbd/servers.rs"]
#[allow(dead_code)] // made for the tests of NBD, which use all of it
mod servers;
#[path = "../exports/shell.rs"]
mod shell;
#[path = "../exports/torture.rs"]
mod torture;

#[path = "../mount/kernel.rs"]
mod kernel;
#[path = "../mount/ordinary.rs"]
mod ordinary;
#[path = "../mount/readers.rs"]
mod readers;
#[path = "../mount/tools.rs"]
mod tools;
#[path = "../mount/world.rs"]
mod world;

mod bad_luck;
mod cinder;
mod disks;
mod exports;
mod guest;
mod keystone;
mod kills;
mod many;
mod mount;
mod network;
mod remote;
mod services;
mod shares;
mod suites;
