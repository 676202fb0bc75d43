//! The threads that fetch and open chunks: a few, with two queues. What somebody waits for goes before what may be wanted later.
//!
//! They are plain threads, because opening a chunk is work and a local disk answers in its own time; both would hold up those who wait
//! on the runtime. What is given to them is bounded by those who give it: readers who wait, and windows of reading ahead. What may be wanted later has
//! its turn now and then all the same: a reader may have come to it, and waits.
//!
//! A call that may never return is made between [`Pool::enter`] and the end of what that gives. While one hangs, another thread does its thread's
//! work (`stalls` has the rules).

use super::stalls::{Asked, Stalls};
use crossbeam_channel::{Receiver, Sender, TryRecvError, select, unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Of so many tasks that a thread does, one is of those that may be wanted later, if there are any.
const SOON_EVERY: u32 = 4;
/// How often calls under way are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Something to do.
pub(super) type Task = Box<dyn FnOnce() + Send>;

/// How soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody waits.
    Now,
    /// Somebody will probably ask.
    Soon,
}

/// Threads and their queues. They end by themselves when the pool is dropped, after what was given to them.
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    now: Sender<Task>,
    soon: Sender<Task>,
    team: Team,
    runtime: Handle,
    calls: Mutex<Calls>,
}

/// What a thread works from. It holds no queue open.
#[derive(Clone)]
struct Team {
    now: Receiver<Task>,
    soon: Receiver<Task>,
    /// Threads too many.
    surplus: Arc<AtomicUsize>,
}

struct Calls {
    stalls: Stalls<(Urgency, Task)>,
    watched: bool,
}

/// A call that may never return. Dropped, it has.
pub(super) struct Inside {
    pool: Arc<Inner>,
    call: u64,
}

impl Pool {
    /// Starts the threads.
    pub(super) fn new(threads: usize, runtime: Handle) -> std::io::Result<Pool> {
        let ((now, now_out), (soon, soon_out)) = (unbounded(), unbounded());
        let team = Team { now: now_out, soon: soon_out, surplus: Arc::default() };
        let calls = Mutex::new(Calls { stalls: Stalls::new(), watched: false });
        let inner = Inner { now, soon, team, runtime, calls };
        for _ in 0..threads {
            inner.team.start()?;
        }
        Ok(Pool(Arc::new(inner)))
    }

    /// Has it done. A task that panics ends nothing but itself.
    pub(super) fn submit(&self, urgency: Urgency, task: Task) {
        self.0.submit(urgency, task);
    }

    /// Whether so few calls hang in this that one more may be made.
    pub(super) fn admits(&self, of: Asked) -> bool {
        self.0.calls().stalls.admits(of)
    }

    /// A call that may never return begins.
    pub(super) fn enter(&self, of: Asked) -> Inside {
        let mut calls = self.0.calls();
        let call = calls.stalls.enter(of, Instant::now());
        if !std::mem::replace(&mut calls.watched, true) {
            drop(self.0.runtime.spawn(watch(Arc::downgrade(&self.0))));
        }
        Inside { pool: Arc::clone(&self.0), call }
    }

    /// Has it done once this is asked again with hope.
    pub(super) fn park(&self, of: Asked, urgency: Urgency, task: Task) {
        let back = self.0.calls().stalls.park(of, (urgency, task));
        if let Some((urgency, task)) = back {
            self.submit(urgency, task);
        }
    }
}

impl Inner {
    fn submit(&self, urgency: Urgency, task: Task) {
        let queue = match urgency {
            Urgency::Now => &self.now,
            Urgency::Soon => &self.soon,
        };
        // We hold the other end as well.
        let _sent = queue.send(task);
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes up for threads that hang.
    fn make_up_for(&self, stuck: usize) {
        for _ in 0..stuck {
            tracing::warn!("a read hangs; another thread goes on with what waits behind it");
            if let Err(error) = self.team.start() {
                tracing::error!("start another thread: {error}");
            }
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let left = self.pool.calls().stalls.leave(self.call);
        if left.was_stuck {
            let _before = self.pool.team.surplus.fetch_add(1, SeqCst);
        }
        for (urgency, task) in left.free {
            self.pool.submit(urgency, task);
        }
    }
}

/// Looks for calls that hang, for as long as any are under way.
async fn watch(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut calls = pool.calls();
        match calls.stalls.look(Instant::now()) {
            Some(stuck) => {
                drop(calls);
                pool.make_up_for(stuck);
            }
            None => {
                calls.watched = false;
                return;
            }
        }
    }
}

impl Team {
    fn start(&self) -> std::io::Result<()> {
        let team = self.clone();
        std::thread::Builder::new().name("chunks".into()).spawn(move || team.work()).map(drop)
    }

    fn work(&self) {
        for turn in (1..=SOON_EVERY).cycle() {
            let Some(task) = self.next(turn == SOON_EVERY) else { return };
            let _panicked = catch_unwind(AssertUnwindSafe(task));
            let one_fewer = |surplus: usize| surplus.checked_sub(1);
            if self.surplus.fetch_update(SeqCst, SeqCst, one_fewer).is_ok() {
                return;
            }
        }
    }

    fn next(&self, soon_first: bool) -> Option<Task> {
        if soon_first && let Ok(task) = self.soon.try_recv() {
            return Some(task);
        }
        match self.now.try_recv() {
            Ok(task) => Some(task),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => select! {
                recv(self.now) -> task => task.ok(),
                recv(self.soon) -> task => task.ok(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::PackId;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
    }

    /// Has a call made that returns when the sender goes.
    fn hang(pool: &Arc<Pool>, of: Asked) -> mpsc::Sender<()> {
        let (end, ends) = mpsc::channel::<()>();
        let inside = Arc::clone(pool);
        pool.submit(
            Urgency::Now,
            Box::new(move || {
                let _inside = inside.enter(of);
                let _gone = ends.recv();
            }),
        );
        end
    }

    fn answers(pool: &Pool, urgency: Urgency) -> bool {
        let (done, is_done) = mpsc::channel();
        pool.submit(urgency, Box::new(move || done.send(()).expect("somebody waits")));
        is_done.recv_timeout(Duration::from_secs(20)).is_ok()
    }

    #[test]
    fn b3_threads_that_hang_are_made_up_for_and_are_too_many_when_they_come_back() {
        let runtime = runtime();
        let pool = Arc::new(Pool::new(2, runtime.handle().clone()).unwrap());
        let ends: Vec<_> = (0..4).map(|number| hang(&pool, Asked::Pack(PackId([number; 16])))).collect();
        assert!(answers(&pool, Urgency::Now) && answers(&pool, Urgency::Soon));
        assert_eq!(pool.0.calls().stalls.all_stuck(), 4);
        drop(ends);
        let began = Instant::now();
        // Two are left of the six, of which none holds the pool's own clone.
        while Arc::strong_count(&pool.0.team.surplus) > 3 {
            assert!(answers(&pool, Urgency::Now) && began.elapsed() < Duration::from_secs(20));
        }
        assert!(answers(&pool, Urgency::Now));
    }

    #[test]
    fn b3_what_is_parked_is_done_when_a_call_that_hangs_returns() {
        let runtime = runtime();
        let (pool, of) = (Arc::new(Pool::new(1, runtime.handle().clone()).unwrap()), Asked::Tier);
        let mut ends: Vec<_> = (0..4).map(|_| hang(&pool, of)).collect();
        let began = Instant::now();
        while pool.admits(of) {
            assert!(began.elapsed() < Duration::from_secs(20), "they never count as stuck");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (done, is_done) = mpsc::channel();
        pool.park(of, Urgency::Now, Box::new(move || done.send(()).expect("somebody waits")));
        assert!(is_done.recv_timeout(Duration::from_millis(100)).is_err());
        drop(ends.pop());
        is_done.recv_timeout(Duration::from_secs(20)).expect("it is done");
        drop(ends);
    }

    /// Counts, and has itself done again until `stop` is set.
    fn again(pool: &Arc<Pool>, done: &Arc<AtomicUsize>, stop: &Arc<AtomicBool>) -> Task {
        let (pool, done, stop) = (Arc::clone(pool), Arc::clone(done), Arc::clone(stop));
        Box::new(move || {
            if done.fetch_add(1, SeqCst) < 1000 && !stop.load(SeqCst) {
                pool.submit(Urgency::Now, again(&pool, &done, &stop));
            }
        })
    }

    #[test]
    fn f5_what_may_be_wanted_later_has_its_turn_while_others_wait_without_end() {
        let runtime = runtime();
        let pool = Arc::new(Pool::new(1, runtime.handle().clone()).unwrap());
        let (done, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let hold = hang(&pool, Asked::Tier);
        for _ in 0..2 {
            pool.submit(Urgency::Now, again(&pool, &done, &stop));
        }
        let (tell, told) = mpsc::channel();
        let (before, stops) = (Arc::clone(&done), Arc::clone(&stop));
        let soon = move || {
            stops.store(true, SeqCst);
            tell.send(before.load(SeqCst)).expect("somebody waits");
        };
        pool.submit(Urgency::Soon, Box::new(soon));
        drop(hold);
        let before = told.recv_timeout(Duration::from_secs(20)).expect("it is done");
        assert!(before <= 2 * SOON_EVERY as usize, "{before} others came first");
    }

    #[test]
    fn the_threads_of_a_pool_that_is_dropped_end() {
        let runtime = runtime();
        let pool = Pool::new(3, runtime.handle().clone()).unwrap();
        let surplus = Arc::clone(&pool.0.team.surplus);
        assert!(answers(&pool, Urgency::Now));
        drop(pool);
        let began = Instant::now();
        while Arc::strong_count(&surplus) > 1 {
            assert!(began.elapsed() < Duration::from_secs(20), "they go on");
            std::thread::yield_now();
        }
    }
}
