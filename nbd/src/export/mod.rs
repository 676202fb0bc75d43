//! What an export can do: the one trait between the server and whatever keeps the bytes.
//!
//! request, already judged  ->  Export  ->  Answer: at once on the connection's own thread, or later
//!
//! Holds: the server never calls an export with a range outside its size, with a length of zero, or for something its
//! [`Info`] doesn't offer. So an implementation judges nothing again; it reads and writes.
//! Answer [`Answer::Now`] for whatever takes microseconds (a cache hit, a copy), [`Answer::Later`] for whatever waits:
//! a later answer runs as its own task and delays nobody else. When its client vanishes, one that only tells something is
//! dropped; a change or a flush is waited for, unless the server stops and has no patience left.
//! A panic in either costs that request an EIO and nothing else.

mod error;
mod info;
mod parts;
mod peer;
mod table;

use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

pub use crate::wire::{Extent, Name};
pub use error::{Error, Kind, Result};
pub use info::{Aliases, BlockSizes, Info, UnfitInfo};
pub use parts::{Part, Parts};
pub use peer::{Address, Identity, Peer};
pub use table::{Table, Taken};

/// An answer that takes a while.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What a call gives: the result, or the promise of it.
#[must_use]
pub enum Answer<T> {
    /// It is here.
    Now(Result<T>),
    /// It is being worked on.
    Later(Later<T>),
}

impl<T> Answer<T> {
    /// Done at once.
    pub fn ok(value: T) -> Self {
        Answer::Now(Ok(value))
    }

    /// Failed at once.
    pub fn err(error: Error) -> Self {
        Answer::Now(Err(error))
    }

    /// Will be there when the future is.
    pub fn later(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Answer::Later(Box::pin(future))
    }

    /// Waits for it, if it isn't there.
    pub async fn wait(self) -> Result<T> {
        match self {
            Answer::Now(result) => result,
            Answer::Later(future) => future.await,
        }
    }
}

/// A place in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The file.
    pub file: Arc<File>,
    /// Where in the file.
    pub offset: u64,
}

/// How WRITE_ZEROES is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zeroing {
    /// Keep the range allocated, so that a later write can't meet a full store.
    pub no_hole: bool,
    /// Only if it is faster than writing zeroes; else [`Kind::NotFast`] at once, nothing touched.
    pub fast: bool,
    /// Durable before it is answered.
    pub fua: bool,
}

/// A run of bytes that clients read and write under a name.
///
/// Only [`info`](Export::info) and [`read`](Export::read) are needed. What the others do by default suits an export
/// that is read-only, immutable, and entirely data.
pub trait Export: Send + Sync + 'static {
    /// Size and abilities. Called often, also for clients that only look: opens nothing, fetches nothing, and gives
    /// the same as long as the export is there.
    fn info(&self) -> Info;

    /// A client agreed on this export and will send requests. `Some` export serves this connection from here on, for
    /// exports that keep something per connection; `None` means this one. An error sends the client away.
    fn attach(&self, peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        let _ = peer;
        Answer::ok(None)
    }

    /// That client left, and everything it had asked was answered or dropped; nobody else was let in while a change of a
    /// client that had vanished was still under way. `clean` if it said so (DISC), not if
    /// its connection ended. Called exactly once for each successful [`attach`](Export::attach), on what that returned.
    fn detach(&self, peer: &Peer, clean: bool) -> Answer<()> {
        let _ = (peer, clean);
        Answer::ok(())
    }

    /// `len` bytes from `offset`, in order, as data and holes.
    fn read(&self, offset: u64, len: u32) -> Answer<Parts>;

    /// Where these bytes lie, if they lie in one piece in a file, can be had without waiting, and may be sent from there
    /// without being copied. What is written to that range before the client has received them may be seen. Asked for
    /// large reads only, where the connection can make use of it; `None` leads to [`read`](Export::read).
    fn stored(&self, offset: u64, len: u32) -> Option<Stored> {
        let _ = (offset, len);
        None
    }

    /// Stores the bytes; with `fua` durable before it is answered.
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        let _ = (offset, data, fua);
        Answer::err(Error::new(Kind::Denied, "export is read-only"))
    }

    /// Every write that was answered before this call, on any connection if [`Info::multi_conn`], is durable.
    fn flush(&self) -> Answer<()> {
        Answer::ok(())
    }

    /// The range is no longer needed. Reads of it may give anything that is not somebody else's.
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        let _ = (offset, len, fua);
        Answer::err(Error::new(Kind::Denied, "export is read-only"))
    }

    /// The range reads as zeroes from now on.
    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        let _ = (offset, len, how);
        Answer::err(Error::new(Kind::Denied, "export is read-only"))
    }

    /// A hint that the range will be read soon.
    fn cache(&self, offset: u64, len: u64) -> Answer<()> {
        let _ = (offset, len);
        Answer::ok(())
    }

    /// The status of the range in a context: 0 is base:allocation, then those of [`Info::contexts`] in order. Extents
    /// start at `offset`; together they may be shorter than `len` (clients ask on) but never empty, and the last may
    /// reach past it. With `one`, a single extent is all that is wanted.
    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let _ = (context, offset, one);
        Answer::ok(vec![Extent { len, flags: 0 }])
    }
}

/// A line of what LIST shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// By which clients ask for it.
    pub name: Name,
    /// For people; may be empty.
    pub description: String,
    /// Not shown before TLS.
    pub tls_only: bool,
}

/// The exports that a server offers, which may differ from peer to peer and from moment to moment.
pub trait Exports: Send + Sync + 'static {
    /// What this peer may see. [`Kind::Denied`] if it may not see a list at all.
    fn list(&self, peer: &Peer) -> Answer<Vec<Listed>>;

    /// The export of that name; the empty name asks for the default one. [`Kind::Missing`] if there is none, or none
    /// for this peer. Nothing is opened or fetched for it yet: many who ask only look.
    fn find(&self, name: &Name, peer: &Peer) -> Answer<Arc<dyn Export>>;
}
