//! Directories that were there before and only lead to the part that is meant: gone through, and left as they were.

use super::folder::Held;
use rustix::fs::Mode;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// They, by their paths: no more than there are names in the paths that were asked for. Each with the mode it had, where that keeps its own
/// owner from writing in it and was widened for now.
#[derive(Debug, Default)]
pub(super) struct Passed(Mutex<HashMap<Box<[u8]>, Option<Mode>>>);

impl Passed {
    /// One is gone through.
    pub(super) fn note(&self, path: &[u8], mode: Option<Mode>) {
        let _new = self.all().insert(path.into(), mode);
    }

    /// Whether it is one.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.all().contains_key(path)
    }

    /// Gives it the mode that it had.
    pub(super) fn give_back(&self, path: &[u8], held: &Held) -> rustix::io::Result<()> {
        match self.all().get(path).copied().flatten() {
            Some(mode) => rustix::fs::chmod(held.path(), mode),
            None => Ok(()),
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Option<Mode>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
