//! One fetch for each missing thing, however many wait for it.
//!
//! Whoever joins first leads: it fetches, and [`Lead::finish`] gives its result, good or bad, to all who joined meanwhile. Nothing is
//! remembered afterwards: who joins later leads anew, so a failure is never kept. A leader that is dropped (cancelled,
//! panicked) tells the others that there will be no result; each joins again, and one of them leads.
//!
//! Two rules for those who use it together with a cache:
//! - A leader looks into the cache once more before it fetches, and puts its result there before it finishes. Otherwise one who missed
//!   just before the last leader finished would fetch a second time.
//! - Nobody waits while it leads: two who each wait for the other's key would wait forever. Finish all that you lead, then wait.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use tokio::sync::watch;

type Table<K, V> = HashMap<K, watch::Receiver<Option<V>>>;

/// The fetches under way. Clones share them.
pub struct Flights<K, V> {
    table: Arc<Mutex<Table<K, V>>>,
}

/// What one who joins is to do.
#[derive(Debug)]
pub enum Flight<K: Hash + Eq, V> {
    /// Fetch, and finish.
    Lead(Lead<K, V>),
    /// Wait for the one who fetches.
    Wait(Wait<V>),
}

/// The duty to fetch what belongs to a key.
pub struct Lead<K: Hash + Eq, V> {
    flights: Flights<K, V>,
    key: K,
    result: watch::Sender<Option<V>>,
}

/// A place among those who wait.
#[derive(Debug)]
pub struct Wait<V> {
    result: watch::Receiver<Option<V>>,
}

impl<K: Hash + Eq + Clone, V: Clone> Flights<K, V> {
    /// None under way.
    pub fn new() -> Self {
        Flights { table: Arc::default() }
    }

    /// Joins the fetch of `key`, or begins it.
    pub fn join(&self, key: K) -> Flight<K, V> {
        match self.table().entry(key) {
            Entry::Occupied(flight) => Flight::Wait(Wait { result: flight.get().clone() }),
            Entry::Vacant(free) => {
                let (result, waiting) = watch::channel(None);
                let key = free.key().clone();
                let _ = free.insert(waiting);
                Flight::Lead(Lead { flights: self.clone(), key, result })
            }
        }
    }

    /// The result of `fetch` or of somebody else's, whoever leads. `fetch` begins by looking into the cache.
    pub async fn run(&self, key: K, fetch: impl AsyncFnOnce() -> V) -> V {
        loop {
            match self.join(key.clone()) {
                Flight::Lead(lead) => return lead.finish(fetch().await),
                Flight::Wait(wait) => match wait.done().await {
                    Some(result) => return result,
                    None => continue,
                },
            }
        }
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, V> Flights<K, V> {
    fn table(&self) -> MutexGuard<'_, Table<K, V>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V: Clone> Lead<K, V> {
    /// What is to be fetched.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Gives the result to all who wait, and back.
    pub fn finish(self, result: V) -> V {
        let _ = self.result.send_replace(Some(result.clone()));
        result
    }
}

impl<K: Hash + Eq, V> Drop for Lead<K, V> {
    fn drop(&mut self) {
        // Before the sender goes: whoever hears that there is no result finds the key free.
        let _ = self.flights.table().remove(&self.key);
    }
}

impl<V: Clone> Wait<V> {
    /// The leader's result; `None` if it went away without one: then join again.
    pub async fn done(mut self) -> Option<V> {
        let result = self.result.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }

    /// The same for a thread that is none of the runtime's.
    pub fn done_blocking(self) -> Option<V> {
        block_on(self.done())
    }
}

/// Drives a future that needs no runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Flights { table: Arc::clone(&self.table) }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        Flights::new()
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Flights({} under way)", self.table().len())
    }
}

impl<K: Hash + Eq + fmt::Debug, V> fmt::Debug for Lead<K, V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Lead({:?})", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChunkCache, Hint};
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    type Answer = Result<u64, String>;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
    }

    /// Its clock only moves when all tasks wait for it.
    fn patient_runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("nobody woke us")
    }

    #[test]
    fn however_many_wait_one_fetches_and_all_get_its_result() {
        for outcome in [Ok(7), Err("store is away".to_owned())] {
            patient_runtime().block_on(async {
                let flights: Flights<u32, Answer> = Flights::new();
                let fetches = Arc::new(AtomicUsize::new(0));
                let tasks: Vec<_> = (0..100)
                    .map(|_| {
                        let (flights, fetches, outcome) = (flights.clone(), fetches.clone(), outcome.clone());
                        tokio::spawn(async move {
                            let fetch = async || {
                                let _ = fetches.fetch_add(1, SeqCst);
                                tokio::time::sleep(Duration::from_millis(300)).await;
                                outcome
                            };
                            flights.run(1, fetch).await
                        })
                    })
                    .collect();
                for task in tasks {
                    assert_eq!(soon(task).await.unwrap(), outcome);
                }
                assert_eq!(fetches.load(SeqCst), 1);
                assert!(flights.is_empty());
            });
        }
    }

    #[test]
    fn a_failure_is_not_kept() {
        let flights: Flights<u32, Answer> = Flights::new();
        for outcome in [Err("busy".to_owned()), Ok(1)] {
            let Flight::Lead(lead) = flights.join(1) else { panic!("nothing is under way") };
            assert_eq!(lead.key(), &1);
            assert_eq!(lead.finish(outcome.clone()), outcome);
        }
    }

    #[test]
    fn keys_do_not_wait_for_each_other() {
        let flights: Flights<u32, Answer> = Flights::new();
        let first = flights.join(1);
        assert!(matches!((&first, flights.join(2)), (Flight::Lead(_), Flight::Lead(_))));
        assert!(matches!(flights.join(1), Flight::Wait(_)));
    }

    #[test]
    fn a_leader_that_is_cancelled_or_panics_is_followed_by_one_who_waited() {
        for panics in [false, true] {
            patient_runtime().block_on(async {
                let flights: Flights<u32, Answer> = Flights::new();
                let Flight::Lead(lead) = flights.join(1) else { panic!("nothing is under way") };
                let fetches = Arc::new(AtomicUsize::new(0));
                let tasks: Vec<_> = (0..10)
                    .map(|_| {
                        let (flights, fetches) = (flights.clone(), fetches.clone());
                        tokio::spawn(async move {
                            let fetch = async || {
                                let _ = fetches.fetch_add(1, SeqCst);
                                tokio::time::sleep(Duration::from_millis(100)).await;
                                Ok(9)
                            };
                            flights.run(1, fetch).await
                        })
                    })
                    .collect();
                tokio::time::sleep(Duration::from_millis(50)).await;
                let doomed = tokio::spawn(async move {
                    let _lead = lead;
                    if panics {
                        std::panic::resume_unwind(Box::new("the leader falls"));
                    }
                    std::future::pending::<()>().await;
                });
                if !panics {
                    doomed.abort();
                }
                assert!(doomed.await.is_err());
                for task in tasks {
                    assert_eq!(soon(task).await.unwrap(), Ok(9));
                }
                assert_eq!(fetches.load(SeqCst), 1);
            });
        }
    }

    #[test]
    fn one_who_waits_no_longer_hinders_nobody() {
        runtime().block_on(async {
            let flights: Flights<u32, Answer> = Flights::new();
            let Flight::Lead(lead) = flights.join(1) else { panic!("nothing is under way") };
            let Flight::Wait(impatient) = flights.join(1) else { panic!("one is under way") };
            let Flight::Wait(patient) = flights.join(1) else { panic!("one is under way") };
            assert!(tokio::time::timeout(Duration::from_millis(10), impatient.done()).await.is_err());
            let _ = lead.finish(Ok(3));
            assert_eq!(soon(patient.done()).await, Some(Ok(3)));
        });
    }

    #[test]
    fn plain_threads_wait_too() {
        for outcome in [Some(Ok(5)), None] {
            let flights: Flights<u32, Answer> = Flights::new();
            let Flight::Lead(lead) = flights.join(1) else { panic!("nothing is under way") };
            let waits: Vec<_> = (0..4)
                .map(|_| {
                    let Flight::Wait(wait) = flights.join(1) else { panic!("one is under way") };
                    std::thread::spawn(|| wait.done_blocking())
                })
                .collect();
            match outcome.clone() {
                Some(result) => drop(lead.finish(result)),
                None => drop(lead),
            }
            waits.into_iter().for_each(|wait| assert_eq!(wait.join().unwrap(), outcome));
        }
    }

    #[test]
    fn with_the_cache_each_chunk_is_fetched_once_in_all() {
        runtime().block_on(async {
            let cache = Arc::new(ChunkCache::new(1 << 20));
            let flights: Flights<u64, Answer> = Flights::new();
            let fetches = Arc::new(AtomicUsize::new(0));
            let tasks: Vec<_> = (0..8u64)
                .map(|task| {
                    let (cache, flights, fetches) = (cache.clone(), flights.clone(), fetches.clone());
                    tokio::spawn(async move {
                        for n in 0..500 {
                            let key = (n * 7 + task * n % 3) % 400;
                            if cache.get(&key, Hint::Demand).is_some() {
                                continue;
                            }
                            let fetch = async || {
                                if let Some(value) = cache.get(&key, Hint::Demand) {
                                    return Ok(value);
                                }
                                let _ = fetches.fetch_add(1, SeqCst);
                                tokio::task::yield_now().await;
                                cache.insert(key, key, 100, Hint::Demand);
                                Ok(key)
                            };
                            assert_eq!(flights.run(key, fetch).await, Ok(key));
                        }
                    })
                })
                .collect();
            for task in tasks {
                soon(task).await.unwrap();
            }
            assert_eq!(fetches.load(SeqCst), cache.counts().entries);
            assert_eq!(cache.counts().evictions, 0);
        });
    }
}
