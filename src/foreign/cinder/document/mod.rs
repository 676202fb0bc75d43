//! What Cinder's chunked backup drivers write beside the data: slices in, types out, and back.
//!
//! ```text
//! <prefix>-00001 ...     data, counted from 1                  names      who they belong to, from their names alone
//! <prefix>_metadata      which bytes lie in which object       metadata   and the volume they come from: volume
//! <prefix>_sha256file    a digest of every block               hashes
//! (no object)            what `cinder backup-export` prints    record
//! ```
//!
//! Pure: nothing here reads a file or waits. What it is given is at most as long as [`limits`] says, every number is judged before it is
//! used, every refusal has its own name in [`Refused`]. What is written is, byte for byte, what Cinder would write.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

pub mod fuzz;
pub mod hashes;
mod json;
pub mod limits;
pub mod listed;
pub mod metadata;
pub mod names;
pub mod record;
mod refused;
#[cfg(test)]
mod tests;
pub mod time;
mod uuid;
pub mod volume;

pub use refused::Refused;
pub use uuid::Uuid;
