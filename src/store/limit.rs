//! Restraint: so many calls at a time (`gate` learns how many), so many bytes a second, and none while the store wants to be left alone.
//!
//! Who comes too early waits in line; when a pause ends, no more arrive than may be under way anyway.

use super::gate::Gate;
use super::retry::ComeBack;
use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::Result;
use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The longest that one answer can keep all calls away.
const QUIET_MAX: Duration = Duration::from_secs(300);

/// A store that is not asked too much at once.
pub struct Limit {
    inner: AnyStore,
    calls: Gate,
    /// Until when the store wants no calls (`ComeBack`).
    quiet_until: Mutex<Option<Instant>>,
    pace: Option<Pace>,
}

impl Limit {
    /// `inner`, with at most `calls_max` calls under way, which move at most `bytes_per_sec` on average, if that is given.
    pub fn new(inner: AnyStore, calls_max: usize, bytes_per_sec: Option<u64>) -> Limit {
        let (calls, pace) = (Gate::new(calls_max, calls_max), bytes_per_sec.map(Pace::new));
        Limit { inner, calls, quiet_until: Mutex::new(None), pace }
    }

    /// `inner`, with `calls` calls under way; more where that helps, up to `calls_max`, and fewer where calls are turned away.
    pub fn learning(inner: AnyStore, calls: usize, calls_max: usize) -> Limit {
        Limit { inner, calls: Gate::new(calls, calls_max), quiet_until: Mutex::new(None), pace: None }
    }

    async fn within<T>(&self, len: u64, call: impl Future<Output = Result<T>>) -> Result<T> {
        let turn = self.calls.enter().await;
        self.keep_quiet().await;
        self.spend(len).await;
        let result = call.await;
        match &result {
            Ok(_) => turn.went_well(len),
            // Too much at once is not always said so: what does not come in time, or breaks off, may be that as well.
            Err(error) if error.kind().may_pass() => turn.was_turned_away(),
            Err(_) => {}
        }
        if let Some(come_back) = result.as_ref().err().and_then(ComeBack::asked_for) {
            let until = Instant::now() + come_back.after.min(QUIET_MAX);
            let mut quiet = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
            *quiet = (*quiet).max(Some(until));
        }
        result
    }

    /// Waits while the store wants no calls, which it may say again meanwhile.
    async fn keep_quiet(&self) {
        loop {
            let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    async fn spend(&self, len: u64) {
        if let Some(pace) = &self.pace {
            pace.spend(len).await;
        }
    }
}

/// Bytes that may move, by the second. A call starts when all before it could have moved theirs.
struct Pace {
    bytes_per_sec: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(bytes_per_sec: u64) -> Pace {
        Pace { bytes_per_sec: bytes_per_sec.max(1), free_at: Mutex::new(None) }
    }

    async fn spend(&self, len: u64) {
        let now = Instant::now();
        let start = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = free_at.map_or(now, |free_at| free_at.max(now));
            *free_at = Some(start + Duration::from_secs_f64(len as f64 / self.bytes_per_sec as f64));
            start
        };
        if start > now {
            tokio::time::sleep_until(start).await;
        }
    }
}

impl Store for Limit {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.inner.calls_at_once().map(|_| self.calls.allowed())
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        let len = range.end.saturating_sub(range.start);
        Box::pin(self.within(len, self.inner.get(name, range)))
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        self.inner.expect(name, range);
    }

    /// How long the object is shows afterwards; those behind it wait for its bytes.
    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        Box::pin(self.within(0, async move {
            let bytes = self.inner.get_whole(name, len_max).await?;
            self.spend(bytes.len() as u64).await;
            Ok(bytes)
        }))
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(self.within(0, self.inner.stat(name)))
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(self.within(0, self.inner.settle(name)))
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        Box::pin(self.within(body.len(), self.inner.put(name, body)))
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        Box::pin(self.within(0, self.inner.list(under, after)))
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(self.within(0, self.inner.delete(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::fault::{Fault, Harm, When};
    use crate::store::{MemStore, Verb};
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn b9_a_store_that_is_asked_too_much_is_asked_less_whether_it_says_so_or_not() {
        for (harm, allowed) in [
            (Harm::Throttled(Duration::from_secs(1)), 8),
            (Harm::Fails(Kind::Unreachable), 8),
            (Harm::Fails(Kind::Denied), 16),
        ] {
            let fault = Arc::new(Fault::new(Arc::new(MemStore::new()), 1));
            let limit = Limit::learning(fault.clone(), 16, 64);
            fault.plan(Verb::Get, When::Nth(1), harm);
            let name = Name::parse("packs/a").unwrap();
            assert!(limit.get(&name, 0..7).await.is_err());
            assert_eq!(limit.calls.allowed(), allowed);
        }
    }
}
