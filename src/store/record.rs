//! Keeping books: how often a store was asked what, and how many bytes that moved. Costs become tests.

use super::verb::Verb;
use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::Result;
use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A store whose calls are counted.
pub struct Record {
    inner: AnyStore,
    counts: [Count; Verb::ALL.len()],
    expected: AtomicU64,
    log: Option<Mutex<Vec<Call>>>,
}

/// One call, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub verb: Verb,
    /// Of which object, or which folder.
    pub object: String,
    /// Which part of it, for a ranged get.
    pub range: Option<Range<u64>>,
}

/// What one verb came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were made, those that failed or never ended among them.
    pub calls: u64,
    /// Bytes of objects that came or went.
    pub bytes: u64,
    /// Calls that failed.
    pub failed: u64,
}

#[derive(Default)]
struct Count {
    calls: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
}

impl Record {
    /// Counts what `inner` is asked.
    pub fn new(inner: AnyStore) -> Record {
        Record { inner, counts: Default::default(), expected: AtomicU64::default(), log: None }
    }

    /// Counts, and remembers every call: for tests, since it grows with each.
    pub fn with_log(inner: AnyStore) -> Record {
        Record { log: Some(Mutex::default()), ..Record::new(inner) }
    }

    /// What `verb` came to so far.
    pub fn tally(&self, verb: Verb) -> Tally {
        let count = self.count(verb);
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Tally { calls: read(&count.calls), bytes: read(&count.bytes), failed: read(&count.failed) }
    }

    /// Bytes that were said to be asked for soon.
    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// The calls since the log was last taken, oldest first; none without a log.
    pub fn take_log(&self) -> Vec<Call> {
        let log = self.log.as_ref().map(|log| log.lock().unwrap_or_else(PoisonError::into_inner));
        log.map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
    }

    fn count(&self, verb: Verb) -> &Count {
        &self.counts[verb as usize]
    }

    fn begin(&self, verb: Verb, object: &str, range: Option<Range<u64>>) {
        add(&self.count(verb).calls, 1);
        if let Some(log) = &self.log {
            let call = Call { verb, object: object.to_owned(), range };
            log.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        }
    }

    async fn end<T>(
        &self,
        verb: Verb,
        call: impl Future<Output = Result<T>>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        let result = call.await;
        match &result {
            Ok(answer) => add(&self.count(verb).bytes, bytes(answer)),
            Err(_) => add(&self.count(verb).failed, 1),
        }
        result
    }
}

fn add(number: &AtomicU64, more: u64) {
    let _ = number.fetch_add(more, Ordering::Relaxed);
}

impl Store for Record {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.inner.calls_at_once()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        self.begin(Verb::Get, name.as_str(), Some(range.clone()));
        Box::pin(self.end(Verb::Get, self.inner.get(name, range), |bytes| bytes.len() as u64))
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        add(&self.expected, range.end.saturating_sub(range.start));
        self.inner.expect(name, range);
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        self.begin(Verb::GetWhole, name.as_str(), None);
        Box::pin(self.end(Verb::GetWhole, self.inner.get_whole(name, len_max), |bytes| bytes.len() as u64))
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        self.begin(Verb::Stat, name.as_str(), None);
        Box::pin(self.end(Verb::Stat, self.inner.stat(name), |_| 0))
    }

    /// Counts as a `Stat`.
    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.begin(Verb::Stat, name.as_str(), None);
        Box::pin(self.end(Verb::Stat, self.inner.settle(name), |()| 0))
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        self.begin(Verb::Put, name.as_str(), None);
        let len = body.len();
        Box::pin(self.end(Verb::Put, self.inner.put(name, body), move |()| len))
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        self.begin(Verb::List, under, None);
        Box::pin(self.end(Verb::List, self.inner.list(under, after), |_| 0))
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.begin(Verb::Delete, name.as_str(), None);
        Box::pin(self.end(Verb::Delete, self.inner.delete(name), |()| 0))
    }
}
