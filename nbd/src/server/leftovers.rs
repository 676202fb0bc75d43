//! What clients that vanished have left under way.
//!
//! Who lost a connection comes again and asks once more for what it had no answer to. A change of the lost connection that
//! is still under way could land on what is written after it; so nobody is let in to an export while there is one.

use std::sync::Arc;

use tokio::sync::watch;

use crate::export::Export;

/// The exports that have some, once for each connection.
pub(super) struct Leftovers(watch::Sender<Vec<Arc<dyn Export>>>);

/// What one connection has left, for as long as this lives.
pub(super) struct Left<'a> {
    all: &'a Leftovers,
    on: Arc<dyn Export>,
}

impl Default for Leftovers {
    fn default() -> Self {
        Leftovers(watch::Sender::new(Vec::new()))
    }
}

fn same(one: &Arc<dyn Export>, other: &Arc<dyn Export>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

impl Leftovers {
    /// A connection has left some.
    pub(super) fn left_on(&self, export: &Arc<dyn Export>) -> Left<'_> {
        self.0.send_modify(|all| all.push(Arc::clone(export)));
        Left { all: self, on: Arc::clone(export) }
    }

    /// Waits until there is none on this export.
    pub(super) async fn are_over(&self, export: &Arc<dyn Export>) {
        let mut all = self.0.subscribe();
        let _all = all.wait_for(|all| !all.iter().any(|one| same(one, export))).await;
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.all.0.send_modify(|all| {
            if let Some(place) = all.iter().position(|one| same(one, &self.on)) {
                drop(all.swap_remove(place));
            }
        });
    }
}
