//! The repository: objects with meaning.

pub mod segments;
pub mod state;
