//! The way in for shares: directories and files become the nodes of a tree.
//!
//! walk -> units of tasks -> workers (read, cut, hash, compress, seal) -> assembler (packs, maps, nodes) -> index -> record
//!
//! The walk goes through the source in the order of the tree and says of everything what is to be done; what nobody touched since the parent is
//! taken over there, unread. Small files are read by the workers, many at once; large ones by the walk, whose bytes travel to the workers in runs.
//! Units are put in place in the order in which they set out, so nodes are complete as soon as their directories are, and only one open node of each
//! level of each directory above is in memory. What is under way is bounded by buffers, which travel with the units and come back.

mod assembler;
pub mod builder;
mod copy;
mod cutter;
mod large;
mod links;
mod map;
mod out;
mod pipeline;
#[cfg(test)]
mod race_tests;
mod reading;
mod relied;
mod taken;
mod task;
mod walk;
mod worker;

pub use copy::TreeCopy;
pub(super) use copy::copy_tree;
pub use cutter::Cutter;
pub(super) use pipeline::{TreeDone, TreePlan, back_up_tree};
