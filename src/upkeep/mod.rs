//! Looking after a repository: what is damaged, and whom it hurts.

mod check;
mod packs;

pub use check::{Damage, Options, Report, check};
