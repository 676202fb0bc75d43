//! The repository: objects with meaning.

pub mod segments;
