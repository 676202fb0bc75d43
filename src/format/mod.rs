//! What stored bytes mean: slices in, types out, and back. `FORMAT.md` beside this file says it in prose, byte by byte.
//!
//! Pure: nothing here reads a file, knows a key or waits. Every length is judged against [`limits`] before anything is
//! allocated for it, and every refusal has its own name in [`Corrupt`]. All numbers are little-endian.
//!
//! Entered from every room that holds stored bytes; leaves to nowhere.

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

pub mod carried;
pub mod config;
mod corrupt;
mod cursor;
pub mod fuzz;
pub mod ids;
pub mod import;
pub mod index;
pub mod limits;
pub mod listing;
pub mod node;
pub mod object;
pub mod pack;
mod places;
pub mod record;
pub mod shown;
pub mod slot;
pub mod tree;

pub use corrupt::Corrupt;
pub use cursor::{Cursor, put_u16, put_u32, put_u64};
pub use ids::{BackupId, ChunkId, ObjectId, PackId, Place, RepositoryId};
