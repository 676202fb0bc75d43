//! Stores: named immutable objects, and nothing more.
//!
//! A store is asked six things. What it holds is published whole or not at all, never replaced, and read by range.
//! Layers (retry, limit, fault, record) are stores that wrap a store; one conformance suite holds all of them.
//! Nothing above this room may assume cheap small reads, cheap listing, or rename.

pub mod conformance;
pub mod local;
pub mod mem;
mod name;

pub use local::LocalStore;
pub use mem::MemStore;
pub use name::Name;

use crate::error::Result;
use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

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

    /// Exactly the bytes of `range`. `Missing` if there is no such object, `Corrupt` if it ends before the range does.
    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes>;

    /// The whole object, if it is no longer than `len_max`; `Corrupt` if it is longer.
    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes>;

    /// Length and age. `Missing` if there is no such object.
    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat>;

    /// Publishes an object. A name that exists with the same bytes is success; with other bytes it is `Refused`.
    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()>;

    /// Objects whose name begins with the folder `under` (ends in `/`), by name, those behind `after`; at most about a
    /// thousand at a time: an empty answer is the end. A listing may lack recent names and is never proof of absence.
    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>>;

    /// Removes an object; one that is not there is success.
    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()>;
}

/// Every object under `under`, page by page.
pub async fn list_all(store: &dyn Store, under: &str) -> Result<Vec<Listed>> {
    let mut all: Vec<Listed> = Vec::new();
    loop {
        let page = store.list(under, all.last().map(|last| &last.name)).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
