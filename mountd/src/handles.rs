//! Open files and directories: the number the kernel was given -> what is open.
//!
//! A number is taken from a counter, never used twice, so that a late request for a closed handle finds nothing rather than another's file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// The table.
pub(crate) struct Handles<H> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<H>>>,
}

impl<H> Handles<H> {
    pub(crate) fn new() -> Self {
        Handles { next: AtomicU64::new(1), open: RwLock::new(HashMap::new()) }
    }

    pub(crate) fn insert(&self, handle: H) -> u64 {
        let number = self.next.fetch_add(1, Relaxed);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let _ = open.insert(number, Arc::new(handle));
        number
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<H>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Takes it out; it is closed when the last operation on it is done.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<H>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice() {
        let handles = Handles::new();
        let first = handles.insert("a");
        assert_eq!(handles.get(first).as_deref(), Some(&"a"));
        assert!(handles.remove(first).is_some());
        let second = handles.insert("b");
        assert_ne!(first, second);
        assert!(handles.get(first).is_none() && handles.remove(first).is_none());
    }
}
