//! Looking after a repository: what is damaged, and whom it hurts.
//!
//! [`check`] is all there is so far. It trusts nothing that it can compute: packs' own tables are the truth, indexes and places are held to it,
//! ids are recomputed when content is read. It removes and repairs nothing; all it may write is a note of what it found.

mod check;
mod packs;
mod trees;

pub use check::{Damage, Options, Report, check};
