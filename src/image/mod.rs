//! The way out: what was backed up, as bytes.

pub mod cache;
