//! How many connections are being worked on right now, against how many can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The connections of a server.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    here: Arc<AtomicUsize>,
    cores: usize,
}

/// One that is being worked on, for as long as this lives.
#[derive(Debug)]
pub(super) struct Here(Arc<AtomicUsize>);

impl Default for Crowd {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Crowd { here: Arc::default(), cores }
    }
}

impl Crowd {
    pub(super) fn enter(&self) -> Here {
        let _before = self.here.fetch_add(1, Ordering::Relaxed);
        Here(Arc::clone(&self.here))
    }

    /// Whether no other connection is being worked on.
    pub(super) fn is_alone(&self) -> bool {
        self.here.load(Ordering::Relaxed) <= 1
    }

    /// Whether another core would have to leave its own connection to help with this one.
    pub(super) fn is_full(&self) -> bool {
        self.here.load(Ordering::Relaxed) >= self.cores
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _before = self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_while_each_core_has_a_connection() {
        let crowd = Crowd { cores: 2, ..Crowd::default() };
        let one = crowd.enter();
        assert!(!crowd.is_full() && crowd.is_alone());
        let other = crowd.clone().enter();
        assert!(crowd.is_full() && !crowd.is_alone());
        drop(one);
        assert!(!crowd.is_full());
        drop(other);
    }
}
