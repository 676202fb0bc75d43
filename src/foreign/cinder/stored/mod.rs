//! What lies in the data objects: stored bytes in, plain bytes of any range out.
//!
//! ```text
//! range of an object -> a decoder that stands before it (yard), or one that begins at a saved place (points), or at the start
//!                    -> stored bytes (feed) -> inflate | bunzip | unzstd -> plain bytes; places to begin at are saved on the way
//! ```
//!
//! An object may hold two gigabytes in one stream. Whoever wants something from its middle has all before it decoded, once: from then on there
//! is a place to begin at every few MiB, also for the next process.
//!
//! Nothing here proves what it gives: that is done where the digests are, and a place that led to other bytes is then forgotten.

mod bits;
mod bunzip;
mod feed;
pub(super) mod fuzz;
mod inflate;
mod lead_in;
mod object;
pub(super) mod points;
#[cfg(test)]
mod tests;
mod unzstd;
mod yard;

pub(super) use object::Object;
pub(super) use points::Folder;
pub(super) use yard::Yard;

/// How far places to begin at lie apart, in plain bytes.
pub(super) const SPAN: u64 = 4 << 20;
/// How much is read from one of them to the next, at most.
pub(super) const LANE_MAX: u64 = SPAN + SPAN / 4;
