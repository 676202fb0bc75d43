//! Restore: an image onto a target.
//!
//! What may be written is judged in `target`, before the first byte; nothing else in this house opens a user's file or device for
//! writing on its own judgement.

mod image;
pub mod target;

pub use image::{Done, Options, restore_image, verify_image};
