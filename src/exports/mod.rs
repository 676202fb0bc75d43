//! Exports: what the engine has, as what `nbd/` can serve.
//!
//! `house` is what one server offers. `backup` is an image of a backup, read-only. `target` is a file or device of this machine that
//! clients may write, judged as a restore judges it. `watch` counts what clients do.

mod answer;
pub mod backup;
pub mod house;
pub mod target;
pub mod watch;
