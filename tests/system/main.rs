//! The whole system, through the built command: what people rely on, and what they are afraid of.
//!
//! One room per kind of promise. Names carry the case ids of RELIABILITY.md where there is one.

#[path = "../common/mod.rs"]
mod common;

#[path = "../mount/world.rs"]
mod world;

mod adopting;
mod bad_luck;
mod carried;
mod cinder;
mod damage;
mod foreign;
mod golden;
mod harness;
mod images;
mod keys;
mod kill;
mod records;
mod restore;
mod shares;
mod shares_out;
mod shipping;
mod usage;
