//! The slow tier: everything that takes more than seconds. `scripts/test --all` runs it, or `cargo test --release --test slow`.
//!
//! Disks that no one here made are built once into `target/test-images` and used again.

#[path = "../common/mod.rs"]
mod common;

mod disks;
mod guest;
mod kills;
mod many;
