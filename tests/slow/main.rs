//! The slow tier: everything that takes more than seconds. `cargo test --test slow` runs it, `scripts/test --all` too.

#[path = "../common/mod.rs"]
mod common;
