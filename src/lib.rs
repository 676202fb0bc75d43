//! afterimage: backups of disks and shares that can be looked at, booted from and copied out of without restoring them.
//!
//! The rooms and what may import what are described in `ARCHITECTURE.md` beside this file.

pub mod error;
pub mod restore;
pub mod source;
pub mod store;
