//! The engine as a library, from the outside: backups go in, come out byte-equal, and survive what RELIABILITY.md lists.
//!
//! One room per chapter of the matrix; the names of tests begin with the id of the case they prove. Everything runs on stores in
//! memory or on a simulated disk, so the whole program takes less than a minute.

mod comparing_trees;
mod content;
mod copying_trees;
mod corpus;
mod corruption;
mod cost;
mod crash;
mod faults;
mod fixture;
mod garden;
mod hostile_trees;
#[path = "../common/random.rs"]
#[allow(dead_code)] // each test program uses its part
mod random;
mod restoring;
mod restoring_trees;
mod round_trips;
mod second_site;
mod seen;
mod shares;
mod sources;
#[path = "../common/tree_nodes.rs"]
mod tree_nodes;
mod trees;
