//! Exports: what the engine has, as what `nbd/` can serve.
//!
//! `house` is what one server offers. `backup` is an image of a backup, read-only. `target` is a file or device of this machine that
//! clients may write, judged as a restore judges it; `elide` spares it needless writes, `seat` gives it to one client at a time. `layer` is
//! what was written over a backup, by a `blockmap` of which blocks that is: an `overlay` keeps it beside, a `capture` makes the next backup
//! of it, a `live` restore writes it to the volume that it is restored to. `watch` counts what clients do.

mod answer;
pub mod backup;
pub mod blockmap;
pub mod capture;
pub mod elide;
pub mod house;
mod layer;
pub mod live;
pub mod overlay;
mod pinned;
mod seat;
pub mod target;
pub mod watch;
