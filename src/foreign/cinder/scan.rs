//! What lies in a container, from one listing: which prefixes there are, and what of each.
//!
//! A container may hold millions of data objects. Only a sum of their numbers is kept, which is enough to tell whether those are there that an
//! index names.

use super::document::names::{Part, split};
use crate::error::{Error, Kind, Result};
use crate::store::{Name, Stat, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;
use xxhash_rust::xxh3::xxh3_64;

/// How many pages in a row may repeat what was listed before.
const STALLED_PAGES_MAX: u32 = 3;
/// The most prefixes of one container.
const PREFIXES_MAX: usize = 1 << 20;

/// What lies under one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// All that stands before the suffixes, with its folders.
    pub(super) path: String,
    pub(super) metadata: Option<Stamp>,
    pub(super) hashes: Option<Stamp>,
    pub(super) data: Seen,
}

/// What tells whether a document is the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) len: u64,
    /// Nanoseconds since 1970.
    pub(super) age: u64,
}

/// Some data objects, by a sum that any order of them gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) count: u64,
    pub(super) sum: u64,
    /// Bytes that they take, where that is known.
    pub(super) stored: u64,
    /// When the last of them was written, in seconds since 1970.
    pub(super) latest: u64,
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        let age = stat.published.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos());
        Stamp { len: stat.len, age: u64::try_from(age).unwrap_or(u64::MAX) }
    }
}

impl Seen {
    /// One more.
    pub(super) fn add(&mut self, number: u32) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(xxh3_64(&number.to_le_bytes()));
    }

    /// Whether the same numbers were added.
    pub(super) fn same(&self, other: &Seen) -> bool {
        (self.count, self.sum) == (other.count, other.sum)
    }
}

/// Lists a container. By path.
pub(super) async fn scan(store: &dyn Store) -> Result<BTreeMap<String, Found>> {
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    let (mut after, mut stalled): (Option<Name>, u32) = (None, 0);
    loop {
        let page = store.list("", after.as_ref()).await?;
        if page.is_empty() {
            return Ok(all);
        }
        let before = after.clone();
        // Whatever was listed before is passed over: a listing may repeat itself.
        for listed in page.into_iter().filter(|listed| before.as_ref().is_none_or(|last| listed.name > *last))
        {
            take(&mut all, listed.name.as_str(), &listed.stat);
            if after.as_ref().is_none_or(|last| listed.name > *last) {
                after = Some(listed.name);
            }
        }
        stalled = if after > before { 0 } else { stalled + 1 };
        if stalled > STALLED_PAGES_MAX {
            let words = format!("list {}: the listing does not get on", store.place());
            return Err(Error::new(Kind::Unreachable, words));
        }
        if all.len() > PREFIXES_MAX {
            let words = format!("{} holds more than {PREFIXES_MAX} backups", store.place());
            return Err(Error::new(Kind::Unsupported, words).hint("name a folder of it"));
        }
    }
}

fn take(all: &mut BTreeMap<String, Found>, name: &str, stat: &Stat) {
    let Some((path, part)) = split(name) else { return };
    if !all.contains_key(path) {
        let _new = all.insert(path.to_owned(), Found { path: path.to_owned(), ..Found::default() });
    }
    let Some(found) = all.get_mut(path) else { return };
    match part {
        Part::Metadata => found.metadata = Some(Stamp::of(stat)),
        Part::Hashes => found.hashes = Some(Stamp::of(stat)),
        Part::Data(number) => {
            found.data.add(number);
            found.data.stored = found.data.stored.saturating_add(stat.len);
            found.data.latest = found.data.latest.max(Stamp::of(stat).age / 1_000_000_000);
        }
    }
}
