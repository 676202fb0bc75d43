//! The way in for shares: directories and files become the nodes of a tree.

pub mod builder;
mod cutter;

pub use cutter::Cutter;
