//! Backups that OpenStack Cinder's chunked drivers wrote (posix, NFS, Gluster, Swift, S3, GCS), from Grizzly on. No OpenStack is needed, and nothing
//! is written to what is read.
//!
//! ```text
//! document    slices in, types out, and back                       (pure)
//! scan        one listing -> which prefixes there are
//! draft       documents of one backup -> what they say             index: the same, kept on this machine
//! catalogue   drafts -> backups, or what is wrong with them        (pure)
//! chain       layers -> which object holds which bytes             (pure)
//! digests     the digests of blocks, a page at a time
//! stored      objects -> plain bytes, from the middle as from the start
//! layers      indexes and objects, opened as they are needed
//! image       one backup as an [`Origin`](crate::image::Origin): every block held to its digest
//! container   all of them as a [`Library`](crate::image::Library)
//! check       is everything there, and is it what it should be?
//! rows        a backup as a row of Cinder's database, made from its container alone
//! write       images of ours -> a container that Cinder restores
//! ```
//!
//! Cinder itself proves nothing when it restores. Here a byte that is not what it was when it was backed up is an error.

mod catalogue;
mod chain;
mod check;
mod container;
mod digests;
pub mod document;
mod draft;
pub mod fuzz;
mod image;
mod index;
mod layers;
pub mod rows;
mod scan;
mod stored;
#[cfg(test)]
mod tests;
pub mod write;

pub use check::{Finding, Options, Report, check};
pub use container::Container;
