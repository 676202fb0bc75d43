//! A store that is somebody else's: it is read, and whoever would write to it or delete from it is refused before the store hears of it.

use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Error, Kind};
use bytes::Bytes;
use std::ops::Range;

/// The layer.
pub struct ReadOnly {
    inner: AnyStore,
}

impl ReadOnly {
    /// Over a store.
    pub fn new(inner: AnyStore) -> ReadOnly {
        ReadOnly { inner }
    }

    fn refuse<'a>(&self, what: &str, name: &Name) -> Fut<'a, ()> {
        let words = format!("{what} {}/{name}: it is only read from here", self.inner.place());
        Box::pin(async move { Err(Error::new(Kind::Refused, words)) })
    }
}

impl Store for ReadOnly {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.inner.calls_at_once()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        self.inner.get(name, range)
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

    /// Settling may sync what somebody else wrote, which is a change of a kind.
    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.refuse("settle", name)
    }

    fn put<'a>(&'a self, name: &'a Name, _body: Body) -> Fut<'a, ()> {
        self.refuse("write", name)
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        self.inner.list(under, after)
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.refuse("delete", name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemStore, Store, at_once};
    use std::sync::Arc;

    #[test]
    fn what_is_there_is_read_and_nothing_is_changed() {
        let (inner, name) = (Arc::new(MemStore::new()), Name::parse("a/b").unwrap());
        at_once(inner.put(&name, b"x".to_vec().into())).unwrap();
        let store = ReadOnly::new(inner.clone());
        assert_eq!(at_once(store.get(&name, 0..1)).unwrap(), "x");
        assert_eq!(at_once(store.list("", None)).unwrap().len(), 1);
        for refused in [
            at_once(store.put(&name, b"x".to_vec().into())),
            at_once(store.delete(&name)),
            at_once(store.settle(&name)),
        ] {
            assert_eq!(refused.unwrap_err().kind(), Kind::Refused);
        }
        assert_eq!(at_once(inner.get(&name, 0..1)).unwrap(), "x");
    }
}
