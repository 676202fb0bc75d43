//! A second try for the slow tail: a get that takes much longer than its like is asked for again beside it, and the first answer counts.
//!
//! Services answer most gets alike and a few of them ten times slower, for reasons of their own. What is usual is learned from the last gets,
//! small and large ones apart. A service that is slow as a whole is not asked twice: second tries are few among all gets.
//!
//! A store that answers at the first poll is passed through: no timer is made, no runtime is needed.

use super::deadline::in_time;
use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::Result;
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// So many gets are remembered of each size.
const REMEMBERED: usize = 64;
/// Nothing is usual before so many were seen.
const SEEN_MIN: usize = 16;
/// What takes so many times longer than nine of ten do is slow.
const SLOW: u32 = 3;
/// Nothing that takes less than this is worth a second try.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// Gets up to here are small.
const SMALL_LEN: u64 = 64 * 1024;
/// One get in so many may be tried twice, and so many may be saved up for.
const GETS_PER_TRY: u32 = 20;
const TRIES_MAX: u32 = 8;

/// A store whose slow gets are tried twice.
pub struct Hedge {
    inner: AnyStore,
    usual: Mutex<Usual>,
}

#[derive(Default)]
struct Usual {
    small: VecDeque<Duration>,
    large: VecDeque<Duration>,
    /// Gets since the beginning, less those that tries were paid with.
    saved: u32,
}

impl Usual {
    fn of(&mut self, len: u64) -> &mut VecDeque<Duration> {
        if len <= SMALL_LEN { &mut self.small } else { &mut self.large }
    }

    fn note(&mut self, len: u64, took: Duration) {
        self.saved = (self.saved + 1).min(GETS_PER_TRY * TRIES_MAX);
        let times = self.of(len);
        if times.len() == REMEMBERED {
            let _oldest = times.pop_front();
        }
        times.push_back(took);
    }

    /// From when on a get is slow; nothing while there is too little to tell by.
    fn slow_after(&mut self, len: u64) -> Option<Duration> {
        let times = self.of(len);
        if times.len() < SEEN_MIN {
            return None;
        }
        let mut sorted: Vec<Duration> = times.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 9 / 10).map(|usual| (*usual * SLOW).max(WAIT_MIN))
    }

    /// Whether one more second try is affordable; it is paid for.
    fn pay(&mut self) -> bool {
        let paid = self.saved.checked_sub(GETS_PER_TRY);
        self.saved = paid.unwrap_or(self.saved);
        paid.is_some()
    }
}

impl Hedge {
    /// `inner`, with second tries.
    pub fn new(inner: AnyStore) -> Hedge {
        Hedge { inner, usual: Mutex::default() }
    }

    fn usual(&self) -> MutexGuard<'_, Usual> {
        self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn race(&self, name: &Name, range: Range<u64>) -> Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        let mut first = self.inner.get(name, range.clone());
        if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(first.as_mut().poll(context))).await {
            return answer;
        }
        let began = Instant::now();
        let slow_after = self.usual().slow_after(len);
        let answer = match slow_after {
            None => first.await,
            Some(wait) => match in_time(wait, first.as_mut()).await {
                Some(answer) => answer,
                None if self.usual().pay() => {
                    tracing::debug!("get {name} is slow; it is asked for once more beside");
                    either(first, self.inner.get(name, range)).await
                }
                None => first.await,
            },
        };
        if answer.is_ok() {
            self.usual().note(len, began.elapsed());
        }
        answer
    }
}

/// The first that goes well; the last error when neither does.
async fn either<'a, T>(first: Fut<'a, T>, second: Fut<'a, T>) -> Result<T> {
    let mut running: [Option<Fut<'a, T>>; 2] = [Some(first), Some(second)];
    poll_fn(|context| {
        let mut failed = None;
        for slot in &mut running {
            let Some(call) = slot else { continue };
            match Pin::new(call).poll(context) {
                Poll::Ready(Ok(answer)) => return Poll::Ready(Ok(answer)),
                Poll::Ready(Err(error)) => {
                    *slot = None;
                    failed = Some(error);
                }
                Poll::Pending => {}
            }
        }
        match failed.filter(|_| running.iter().all(Option::is_none)) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    })
    .await
}

impl Store for Hedge {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.inner.calls_at_once()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        Box::pin(self.race(name, range))
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        self.inner.expect(name, range);
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        self.inner.get_whole(name, len_max)
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        self.inner.stat(name)
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.inner.settle(name)
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        self.inner.put(name, body)
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        self.inner.list(under, after)
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.inner.delete(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::fault::{Fault, Harm, When};
    use crate::store::{MemStore, Record, Verb};
    use std::sync::Arc;

    struct House {
        fault: Arc<Fault>,
        record: Arc<Record>,
        hedge: Hedge,
        name: Name,
    }

    impl House {
        async fn new() -> House {
            let mem = Arc::new(MemStore::new());
            let name = Name::parse("packs/a").unwrap();
            mem.put(&name, vec![1; 100].into()).await.unwrap();
            let fault = Arc::new(Fault::new(mem, 1));
            let record = Arc::new(Record::new(fault.clone()));
            House { hedge: Hedge::new(record.clone()), fault, record, name }
        }

        async fn gets(&self, count: usize) -> u64 {
            let before = self.record.tally(Verb::Get).calls;
            for _ in 0..count {
                assert_eq!(self.hedge.get(&self.name, 0..10).await.unwrap(), vec![1; 10]);
            }
            self.record.tally(Verb::Get).calls - before
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_get_that_is_slow_among_its_like_is_tried_twice() {
        let house = House::new().await;
        house.fault.plan(Verb::Get, When::UpTo(100), Harm::Slow(Duration::from_millis(30)));
        assert_eq!(house.gets(40).await, 40);
        house.fault.behave();
        house.fault.plan(Verb::Get, When::UpTo(1), Harm::Slow(Duration::from_secs(50)));
        house.fault.plan(Verb::Get, When::From(1), Harm::Slow(Duration::from_millis(30)));
        let began = Instant::now();
        assert_eq!(house.gets(1).await, 2);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_slow_as_a_whole_is_not_asked_twice_as_often() {
        let house = House::new().await;
        house.fault.plan(Verb::Get, When::UpTo(100), Harm::Slow(Duration::from_millis(30)));
        assert_eq!(house.gets(100).await, 100);
        house.fault.behave();
        house.fault.plan(Verb::Get, When::From(1), Harm::Slow(Duration::from_secs(2)));
        let asked = house.gets(100).await;
        assert!((101..=110).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_tried_twice_before_it_is_known_what_is_usual_or_for_an_error() {
        let house = House::new().await;
        house.fault.plan(Verb::Get, When::From(1), Harm::Slow(Duration::from_secs(5)));
        assert_eq!(house.gets(SEEN_MIN).await, SEEN_MIN as u64);
        house.fault.behave();
        house.fault.plan(Verb::Get, When::From(1), Harm::Fails(Kind::Denied));
        let error = house.hedge.get(&house.name, 0..10).await.unwrap_err();
        assert_eq!((error.kind(), house.record.tally(Verb::Get).calls), (Kind::Denied, SEEN_MIN as u64 + 1));
    }
}
