//! The way in: sources become items of one backup.
//!
//! reader -> runs of chunks -> workers (hash, compare, compress, seal) -> assembler (packs, map) -> index -> record
//!
//! Each arrow is a bounded channel; what is under way is bounded by the buffers, which travel with the runs and come back when a
//! run was put in its place. Runs are put in place in the order in which they were read, so that packs are in image order.
//! Nothing is listed before all of it is durable, and whatever fails, fails the whole backup.

mod builder;
mod copy;
mod over;
mod pipeline;
mod plan;
mod reader;
mod same;
pub mod tree;

pub use builder::MapBuilder;
pub use copy::{ImageSource, between};
pub use plan::{Input, ItemSource, Job, Parent, run};
pub use tree::TreeCopy;
