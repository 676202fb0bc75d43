//! Stores: named immutable objects, and nothing more.
//!
//! A store is asked six things, and to settle what somebody else left. What it holds is published whole or not at all, never replaced, and read by range.
//! Layers (retry, limit, deadline, read-only, record, fault) are stores that wrap a store; one conformance suite holds all of them.
//! Nothing above this room may assume cheap small reads, cheap listing, or rename.

pub mod conformance;
pub mod deadline;
mod dice;
pub mod fault;
pub mod fuzz;
mod gate;
pub mod hedge;
pub mod late;
#[cfg(test)]
mod layer_tests;
pub mod limit;
pub mod local;
pub mod mem;
mod name;
mod open;
mod read_only;
pub mod record;
#[cfg(feature = "remote")]
mod remote;
pub mod retry;
mod verb;

pub use deadline::Deadline;
pub use fault::Fault;
pub use hedge::Hedge;
pub use limit::Limit;
pub use local::LocalStore;
pub use mem::MemStore;
pub use name::Name;
pub use open::{Opened, create, is_directory, open, open_foreign};
pub use read_only::ReadOnly;
pub use record::Record;
pub use retry::Retry;
pub use verb::Verb;

use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

/// How many pages in a row may repeat what was listed before.
const STALLED_PAGES_MAX: u32 = 3;

/// What a store's calls return: a future that may be ready at the first poll (a local directory's always is).
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A store as the rest of the house holds it.
pub type AnyStore = Arc<dyn Store>;

/// The bytes of a new object, in pieces, so that a pack is never copied together.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The pieces, in order.
    pub parts: Vec<Bytes>,
}

impl Body {
    /// How many bytes there are in all.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body { parts: vec![bytes] }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::from(Bytes::from(bytes))
    }
}

/// What a store knows of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub len: u64,
    /// When it was published, by the store's clock.
    pub published: SystemTime,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The object's name.
    pub name: Name,
    /// What the store says of it.
    pub stat: Stat,
}

/// Keeps named immutable objects.
///
/// **Invariant:** after `put` returned `Ok`, the object is durable and whole; before that, or after an error, it is absent
/// or whole, never partial. A name once published never changes its bytes.
pub trait Store: Send + Sync + 'static {
    /// Where this is, as a person would write it; for messages.
    fn place(&self) -> String;

    /// How many calls at once it is worth to make, where that is more than a disk takes: a service far away answers each of them late.
    fn calls_at_once(&self) -> Option<usize> {
        None
    }

    /// Exactly the bytes of `range`. `Missing` if there is no such object, `Corrupt` if it ends before the range does.
    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes>;

    /// These bytes will be asked for soon. A store that can have them come nearer meanwhile does so; nobody waits for it, nothing comes of it.
    fn expect(&self, _name: &Name, _range: Range<u64>) {}

    /// The whole object, if it is no longer than `len_max`; `Corrupt` if it is longer.
    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes>;

    /// Length and age. `Missing` if there is no such object.
    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat>;

    /// Returns once an object that shows is there to stay: who published it may have ended before its name was durable. To be asked
    /// before anything is built upon an object whose `put` was not seen to return.
    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()>;

    /// Publishes an object. A name that exists with the same bytes is success; with other bytes it is `Refused`.
    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()>;

    /// Objects whose name begins with the folder `under` (ends in `/`), by name, those behind `after`; at most some
    /// thousands at a time: an empty answer is the end. A listing may lack recent names and is never proof of absence.
    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>>;

    /// Removes an object; one that is not there is success.
    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()>;
}

/// Every object under `under`, by name, each once, however the store cuts and repeats its pages.
pub async fn list_all(store: &dyn Store, under: &str) -> Result<Vec<Listed>> {
    let mut all: BTreeMap<Name, Stat> = BTreeMap::new();
    let mut stalled = 0;
    loop {
        let after = all.last_key_value().map(|(last, _)| last.clone());
        let page = store.list(under, after.as_ref()).await?;
        if page.is_empty() {
            return Ok(all.into_iter().map(|(name, stat)| Listed { name, stat }).collect());
        }
        all.extend(page.into_iter().map(|listed| (listed.name, listed.stat)));
        stalled = if all.last_key_value().map(|(last, _)| last) > after.as_ref() { 0 } else { stalled + 1 };
        if stalled > STALLED_PAGES_MAX {
            let words = format!("list {under} in {}: the listing does not get on", store.place());
            return Err(Error::new(Kind::Unreachable, words));
        }
    }
}

/// What a store says that keeps nobody waiting, without a runtime: a local one's reads, and all its calls where there is none.
#[cfg(test)]
fn at_once<T>(mut call: Fut<'_, T>) -> Result<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match call.as_mut().poll(&mut context) {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => panic!("this call should not have to wait"),
    }
}
