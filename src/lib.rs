//! afterimage: backups of disks and shares that can be looked at, booted from and copied out of without restoring them.
//!
//! The rooms and what may import what are described in `ARCHITECTURE.md` beside this file.

pub mod backup;
pub mod cli;
pub mod clock;
pub mod error;
pub mod exports;
pub mod foreign;
pub mod format;
pub mod image;
pub mod progress;
pub mod repo;
pub mod restore;
pub mod seal;
pub mod source;
pub mod store;
pub mod sync;
pub mod upkeep;
pub mod view;
