//! Exports: what the engine has, as what `nbd/` can serve.
//!
//! `target` is a file or device of this machine that clients may write, judged as a restore judges it.

pub mod target;
