//! An end to silence: a call that takes longer than it may is let go and has failed.
//!
//! Its time grows with the bytes that may have to move, at the slowest pace that still counts as moving. It stands under the
//! limit, so that the wait for one's turn is not held against the store.
//!
//! A store that answers at the first poll is passed through: no timer is made, no runtime is needed.

use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// A store that answers in time or not at all.
pub struct Deadline {
    inner: AnyStore,
    time: Duration,
    bytes_per_sec_min: u64,
}

impl Deadline {
    /// `inner`, each call to which may take `time`, and what moving its bytes takes at `bytes_per_sec_min`.
    pub fn new(inner: AnyStore, time: Duration, bytes_per_sec_min: u64) -> Deadline {
        Deadline { inner, time, bytes_per_sec_min: bytes_per_sec_min.max(1) }
    }

    async fn watch<T>(&self, what: &str, object: &str, len: u64, call: Fut<'_, T>) -> Result<T> {
        let time = self.time.saturating_add(Duration::from_secs(len / self.bytes_per_sec_min));
        in_time(time, call).await.unwrap_or_else(|| {
            let words = format!(
                "{what} {object} in {}: no answer in {:.0} s",
                self.inner.place(),
                time.as_secs_f64()
            );
            Err(Error::new(Kind::Unreachable, words))
        })
    }
}

/// What `future` comes to, unless that takes longer than `time`.
pub(super) async fn in_time<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    match poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => tokio::time::timeout(time, future).await.ok(),
    }
}

impl Store for Deadline {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.inner.calls_at_once()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        let len = range.end.saturating_sub(range.start);
        Box::pin(self.watch("get", name.as_str(), len, self.inner.get(name, range)))
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        self.inner.expect(name, range);
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        Box::pin(self.watch("get", name.as_str(), len_max, self.inner.get_whole(name, len_max)))
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(self.watch("stat", name.as_str(), 0, self.inner.stat(name)))
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(self.watch("settle", name.as_str(), 0, self.inner.settle(name)))
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        Box::pin(self.watch("put", name.as_str(), body.len(), self.inner.put(name, body)))
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        Box::pin(self.watch("list", under, 0, self.inner.list(under, after)))
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(self.watch("delete", name.as_str(), 0, self.inner.delete(name)))
    }
}
