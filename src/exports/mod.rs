//! Exports: what the engine has, as what `nbd/` can serve.
//!
//! `house` is what one server offers. `backup` is an image of a backup, read-only. `target` is a file or device of this machine that
//! clients may write, judged as a restore judges it; `elide` spares it needless writes, `seat` gives it to one client at a time. `watch`
//! counts what clients do.

mod answer;
pub mod backup;
pub mod elide;
pub mod house;
mod seat;
pub mod target;
pub mod watch;
