//! What `serve` offers, through the built command and other people's clients: backups, targets, overlays, captures, live restores.

#[path = "../common/mod.rs"]
mod common;
#[path = "../nbd/servers.rs"]
#[allow(dead_code)] // made for the tests of NBD, which use all of it
mod servers;

mod backups;
mod captures;
mod kills;
mod lives;
mod model;
mod oracles;
mod overlays;
mod shell;
mod targets;
mod torture;
mod trouble;
