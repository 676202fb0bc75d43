//! Backups as files: real mounts of the built command, read by the tools that people use.
//!
//! Every mount goes away with its test, whatever the test does; one that takes too long loses its mount, and with it what it hangs in.

#[path = "../common/mod.rs"]
mod common;

mod disks;
mod far;
mod hangs;
mod kernel;
mod life;
mod listing;
mod ordinary;
mod passthrough;
mod readers;
mod reading;
mod shares;
mod storms;
mod tools;
mod trouble;
mod users;
mod world;
