//! NBD from end to end, through the built command: exports of other people's servers backed up and restored onto, and targets that
//! we serve to other people's clients.

#[path = "../common/mod.rs"]
mod common;

#[path = "../../nbd/tests/common/papers.rs"]
mod papers;

mod attach;
mod devices;
mod fuse;
mod oracles;
mod secure;
mod serve;
mod servers;
mod sources;
mod targets;
