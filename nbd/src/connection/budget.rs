//! How much memory all connections together may hold for requests in flight.
//!
//! The first bytes of each connection are free, so that small requests are served however busy large ones keep the
//! pool. Beyond them a connection takes from the pool, in turn, and reads nothing while it waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What each connection holds without asking.
const FREE: usize = 256 * 1024;
/// The pool counts in units of this many bytes.
const UNIT: usize = 4096;
/// Grants are given back in steps of this many units, or when nothing of them is needed.
const SLACK: u32 = 256;

/// The memory that all connections share.
#[derive(Clone, Debug)]
pub(crate) struct Pool(Arc<Semaphore>);

impl Pool {
    /// A pool of at least `bytes`, and large enough for the largest requests one by one.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.max(super::HELD_MAX + FREE);
        Pool(Arc::new(Semaphore::new((bytes / UNIT).min(Semaphore::MAX_PERMITS))))
    }
}

type Waiting = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// One connection's share of the pool.
pub(super) struct Budget {
    pool: Pool,
    granted: u32,
    permit: Option<OwnedSemaphorePermit>,
    waiting: Option<(u32, Waiting)>,
}

fn units(held: usize) -> u32 {
    u32::try_from(held.saturating_sub(FREE).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Budget {
    pub(super) fn new(pool: &Pool) -> Self {
        Budget { pool: pool.clone(), granted: 0, permit: None, waiting: None }
    }

    /// Whether this connection may hold so many bytes. If not yet, the task is woken when it may.
    pub(super) fn cover(&mut self, held: usize, cx: &mut Context<'_>) -> bool {
        let needed = units(held);
        while needed > self.granted {
            let missing = needed - self.granted;
            if self.waiting.is_none() {
                let pool = Arc::clone(&self.pool.0);
                let waiting = Box::pin(async move { pool.acquire_many_owned(missing).await.ok() });
                self.waiting = Some((missing, waiting));
            }
            let Some((asked, waiting)) = &mut self.waiting else { return false };
            let asked = *asked;
            let Poll::Ready(permit) = waiting.as_mut().poll(cx) else { return false };
            self.waiting = None;
            self.take(asked, permit);
        }
        // Nobody would poll it any more, and what others give back would be kept for it.
        self.waiting = None;
        true
    }

    fn take(&mut self, units: u32, permit: Option<OwnedSemaphorePermit>) {
        self.granted += units;
        match (&mut self.permit, permit) {
            (Some(all), Some(more)) => all.merge(more),
            (all, more) => *all = more,
        }
    }

    /// Gives back what is no longer needed.
    pub(super) fn shrink(&mut self, held: usize) {
        let needed = units(held);
        if self.granted > needed && (needed == 0 || self.granted - needed > SLACK) {
            let surplus = self.granted - needed;
            let count = usize::try_from(surplus).unwrap_or(usize::MAX);
            drop(self.permit.as_mut().and_then(|permit| permit.split(count)));
            self.granted = needed;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn small_requests_pass_while_the_pool_is_empty() {
        let pool = Pool::new(0);
        let all = super::super::HELD_MAX + FREE;
        let cx = &mut Context::from_waker(Waker::noop());
        let (mut greedy, mut modest) = (Budget::new(&pool), Budget::new(&pool));
        assert!(greedy.cover(all, cx));
        assert!(modest.cover(FREE, cx));
        assert!(!modest.cover(all, cx));
        greedy.shrink(0);
        assert!(modest.cover(all, cx));
        modest.shrink(0);
        drop((greedy, modest));
        assert_eq!(pool.0.available_permits(), all / UNIT);
    }

    #[test]
    fn who_needs_no_more_than_it_has_does_not_go_on_waiting() {
        const MIB: usize = 1 << 20;
        let pool = Pool::new(0);
        let whole = pool.0.available_permits();
        let cx = &mut Context::from_waker(Waker::noop());
        let (mut one, mut other) = (Budget::new(&pool), Budget::new(&pool));
        assert!(one.cover(32 * MIB, cx));
        assert!(other.cover(32 * MIB, cx));
        assert!(!one.cover(48 * MIB, cx), "a third write");
        assert!(one.cover(16 * MIB, cx), "the first two are done");
        one.shrink(0);
        other.shrink(0);
        assert_eq!(pool.0.available_permits(), whole);
    }

    #[test]
    fn what_a_lost_connection_held_returns_to_the_pool() {
        let pool = Pool::new(1 << 30);
        let whole = pool.0.available_permits();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut budget = Budget::new(&pool);
        for held in [1 << 20, 5 << 20, 3 << 20, 64 << 20] {
            assert!(budget.cover(held, cx));
            budget.shrink(held / 2);
        }
        assert!(pool.0.available_permits() < whole);
        drop(budget);
        assert_eq!(pool.0.available_permits(), whole);
    }
}
