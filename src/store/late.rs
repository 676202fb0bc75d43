//! A store that is opened when somebody first asks it: naming one costs nothing, and one that is away is nobody's trouble but of who asks.
//!
//! What kept it from being opened is the answer for some seconds, so that many who ask do not knock as many times; then it is tried anew.

use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// For how long a store that could not be opened is not tried again.
const AWAY_FOR: Duration = Duration::from_secs(5);

/// Opens the store, and makes sure that it is the one that is meant.
pub type Opener = Box<dyn Fn() -> Fut<'static, AnyStore> + Send + Sync>;

/// A store that may not be open yet.
pub struct Late {
    place: String,
    opener: Opener,
    opened: OnceCell<AnyStore>,
    away: Mutex<Option<(Instant, Error)>>,
}

impl Late {
    /// The store at `place`, which `opener` opens.
    pub fn new(place: String, opener: Opener) -> Late {
        Late { place, opener, opened: OnceCell::new(), away: Mutex::new(None) }
    }

    async fn open(&self) -> Result<&AnyStore> {
        self.opened.get_or_try_init(|| self.try_to_open()).await
    }

    async fn try_to_open(&self) -> Result<AnyStore> {
        let still = |(since, _): &(Instant, Error)| since.elapsed() < AWAY_FOR;
        let away = self.away().clone().filter(still);
        if let Some((_, error)) = away {
            return Err(error);
        }
        let opened = (self.opener)().await;
        if let Err(error) = &opened {
            *self.away() = Some((Instant::now(), error.clone()));
        }
        opened
    }

    fn away(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Error)>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Late {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.opened.get()?.calls_at_once()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        Box::pin(async move { self.open().await?.get(name, range).await })
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        if let Some(store) = self.opened.get() {
            store.expect(name, range);
        }
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        Box::pin(async move { self.open().await?.get_whole(name, len_max).await })
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(async move { self.open().await?.stat(name).await })
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(async move { self.open().await?.settle(name).await })
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        Box::pin(async move { self.open().await?.put(name, body).await })
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        Box::pin(async move { self.open().await?.list(under, after).await })
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(async move { self.open().await?.delete(name).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::MemStore;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn late(is_there: bool) -> (Late, Arc<AtomicUsize>) {
        let knocks = Arc::new(AtomicUsize::new(0));
        let (store, counted): (AnyStore, _) = (Arc::new(MemStore::new()), Arc::clone(&knocks));
        let opener = move || -> Fut<'static, AnyStore> {
            let _before = counted.fetch_add(1, Ordering::Relaxed);
            let answer = match is_there {
                true => Ok(Arc::clone(&store)),
                false => Err(Error::new(Kind::Unreachable, "nobody is there")),
            };
            Box::pin(async move { answer })
        };
        (Late::new("there".into(), Box::new(opener)), knocks)
    }

    #[tokio::test]
    async fn a_store_is_opened_once_and_only_when_somebody_asks() {
        let (late, knocks) = late(true);
        assert_eq!((late.place(), knocks.load(Ordering::Relaxed)), ("there".to_owned(), 0));
        let name = Name::parse("keys/a").unwrap();
        late.put(&name, b"x".to_vec().into()).await.unwrap();
        assert_eq!(late.get_whole(&name, 1).await.unwrap(), "x");
        assert_eq!(knocks.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn one_that_is_away_is_not_knocked_at_by_everybody() {
        let (late, knocks) = late(false);
        let name = Name::parse("keys/a").unwrap();
        for _ in 0..3 {
            assert_eq!(late.stat(&name).await.unwrap_err().kind(), Kind::Unreachable);
        }
        assert_eq!(knocks.load(Ordering::Relaxed), 1);
    }
}
