//! Serves any read-only tree over FUSE.
//!
//! Write a [`Tree`], hand it to [`Mount::start`], and it is a directory. What the tree knows is answered where the kernel's
//! request arrives; what it has to wait for waits on tokio, under a deadline. `README.md` has an example and the promises.
//!
//! Rooms, from the outside in: [`mount`] and [`background`] are a mount's life; `kernel` speaks the protocol; `serve` turns questions into
//! answers; `nodes`, `handles` and `cursor` keep what the kernel was told; [`tree`] is what you write.

pub mod background;
mod cursor;
pub mod error;
pub mod fuzz;
mod gone;
mod handles;
mod kernel;
pub mod mount;
mod nodes;
pub mod notify;
mod serve;
pub mod systemd;
pub mod tree;
pub mod watch;

pub use mount::{Ended, Mount, MountError, MountErrorKind, Options, umount};
pub use tree::Tree;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
