//! Our client against everyone: our own server, other people's, and servers that mean no good.

#[path = "../common/mod.rs"]
mod common;

mod handover;
mod hostile;
mod others;
mod ours;
mod rude;
mod secure;
