//! Passthrough: which nodes the kernel reads by itself right now, and through which plain file.
//!
//! The kernel wants all openings of one node to go the same way at one time: all through one backing file, or all through here. The first
//! opening decides, the others join it, and when the last one has left the next may decide anew.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// A plain file that the kernel was given.
type Backing = Arc<fuser::BackingId>;

#[derive(Default)]
pub(super) struct Backings {
    open: Mutex<HashMap<u64, Way>>,
}

struct Way {
    backing: Option<Backing>,
    openings: usize,
}

impl Backings {
    /// The way of one more opening of a node: a backing file, or none when it is read through here.
    pub(super) fn join(
        &self,
        number: u64,
        plain: Option<&OwnedFd>,
        reply: &fuser::ReplyOpen,
    ) -> Option<Backing> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let way = open
            .entry(number)
            .or_insert_with(|| Way { backing: plain.and_then(|fd| give(fd, reply)), openings: 0 });
        way.openings += 1;
        way.backing.clone()
    }

    /// One opening fewer.
    pub(super) fn leave(&self, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Occupied(mut way) = open.entry(number) {
            way.get_mut().openings -= 1;
            if way.get().openings == 0 {
                drop(way.remove());
            }
        }
    }
}

/// Gives the kernel a plain file; where it does not take it the node is read through here, which is right and slower.
fn give(plain: &OwnedFd, reply: &fuser::ReplyOpen) -> Option<Backing> {
    match reply.open_backing(plain) {
        Ok(backing) => Some(Arc::new(backing)),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not take a file for passthrough");
            None
        }
    }
}
