//! Whether handing work to another core pays, or would only make it cold.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static CORES: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get));
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// Counts a connection that is at work on this core, for as long as it lives.
pub(super) struct Busy(());

impl Busy {
    pub(super) fn new() -> Self {
        let _before = BUSY.fetch_add(1, Ordering::Relaxed);
        Busy(())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _before = BUSY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Fewer connections are at work than there are cores.
pub(super) fn another_core_is_free() -> bool {
    BUSY.load(Ordering::Relaxed) < *CORES
}
