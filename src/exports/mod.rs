//! Exports: what the engine has, as what `nbd/` can serve.
//!
//! `house` is what one server offers. `backup` is an image of a backup, read-only. `target` is a file or device of this machine that
//! clients may write, judged as a restore judges it; `elide` spares it needless writes, `seat` gives it to one client at a time. `overlay`
//! is a backup with writes kept beside it, by a `blockmap` of what was written. `watch` counts what clients do.

mod answer;
pub mod backup;
pub mod blockmap;
pub mod capture;
pub mod elide;
pub mod house;
mod layer;
pub mod live;
pub mod overlay;
mod seat;
pub mod target;
pub mod watch;
