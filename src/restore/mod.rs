//! Restore: an image onto a target, a tree into a directory.
//!
//! What may be written is judged in `target`, before the first byte; nothing else in this house opens a user's file or device for
//! writing on its own judgement.

mod image;
pub mod target;
pub mod tree;

pub use image::{Done, Options, restore_image, verify_image};
