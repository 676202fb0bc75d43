//! A store in memory, for tests: what it holds goes with it. Its clock is set by hand.

use super::{Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How many objects an answer to `list` holds.
const PAGE_LEN: usize = 1000;

/// A store in memory.
pub struct MemStore(Mutex<Memory>);

struct Memory {
    now: SystemTime,
    objects: BTreeMap<String, Object>,
}

#[derive(Clone)]
struct Object {
    name: Name,
    bytes: Bytes,
    published: SystemTime,
}

impl Default for MemStore {
    fn default() -> MemStore {
        MemStore::new()
    }
}

impl MemStore {
    /// An empty store, whose clock stands at some day in 2025.
    pub fn new() -> MemStore {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
        MemStore(Mutex::new(Memory { now, objects: BTreeMap::new() }))
    }

    /// Puts the store's clock forward.
    pub fn advance(&self, by: Duration) {
        self.memory().now += by;
    }

    /// The store's clock.
    pub fn now(&self) -> SystemTime {
        self.memory().now
    }

    /// Changes an object behind everybody's back, as a failing disk would; `None` if it is not there.
    pub fn harm(&self, name: &Name, harm: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        let mut memory = self.memory();
        let object = memory.objects.get_mut(name.as_str())?;
        let mut bytes = object.bytes.to_vec();
        harm(&mut bytes);
        object.bytes = bytes.into();
        Some(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, name: &Name) -> Result<Object> {
        let missing = || Error::new(Kind::Missing, format!("{name} is not in the memory store"));
        self.memory().objects.get(name.as_str()).cloned().ok_or_else(missing)
    }

    fn publish(&self, name: &Name, body: &Body) -> Result<()> {
        let bytes = Bytes::from(body.parts.concat());
        let mut memory = self.memory();
        match memory.objects.get(name.as_str()) {
            Some(there) if there.bytes == bytes => Ok(()),
            Some(there) => Err(Error::new(
                Kind::Refused,
                format!(
                    "put {name}: the memory store has other {} bytes of that name than these {}",
                    there.bytes.len(),
                    bytes.len()
                ),
            )),
            None => {
                let published = memory.now;
                drop(
                    memory.objects.insert(name.to_string(), Object { name: name.clone(), bytes, published }),
                );
                Ok(())
            }
        }
    }

    fn page(&self, under: &str, after: Option<&Name>) -> Vec<Listed> {
        let memory = self.memory();
        let begin = match after {
            Some(after) if after.as_str() > under => Bound::Excluded(after.as_str()),
            _ => Bound::Included(under),
        };
        memory
            .objects
            .range::<str, _>((begin, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(under))
            .take(PAGE_LEN)
            .map(|(_, object)| Listed {
                name: object.name.clone(),
                stat: Stat { len: object.bytes.len() as u64, published: object.published },
            })
            .collect()
    }
}

impl Store for MemStore {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        Box::pin(async move { slice(name, &self.object(name)?.bytes, range) })
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        Box::pin(async move {
            let bytes = self.object(name)?.bytes;
            if bytes.len() as u64 > len_max {
                let words = format!("{name} is {} bytes long, at most {len_max} make sense", bytes.len());
                return Err(Error::new(Kind::Corrupt, words));
            }
            Ok(bytes)
        })
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(async move {
            let object = self.object(name)?;
            Ok(Stat { len: object.bytes.len() as u64, published: object.published })
        })
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(async move { self.object(name).map(drop) })
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        Box::pin(async move { self.publish(name, &body) })
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        Box::pin(async move { Ok(self.page(under, after)) })
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(async move {
            drop(self.memory().objects.remove(name.as_str()));
            Ok(())
        })
    }
}

fn slice(name: &Name, bytes: &Bytes, range: Range<u64>) -> Result<Bytes> {
    let len = bytes.len() as u64;
    if range.start > range.end {
        return Err(Error::new(Kind::Usage, format!("read {name}: {range:?} is no range")));
    }
    if range.end > len {
        let words =
            format!("{name} ends at {len}, but bytes {} to {} should be in it", range.start, range.end);
        return Err(Error::new(Kind::Corrupt, words));
    }
    Ok(bytes.slice(range.start as usize..range.end as usize))
}
