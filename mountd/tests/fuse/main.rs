//! Real mounts of a tree of odd things. Case ids (F1 to F9) are those of the list of faults that this crate answers for.

mod daemon;
mod faults;
mod fixture;
mod life;
mod listing;
mod reading;
mod tree;
mod users;
