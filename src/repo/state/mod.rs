//! This machine's small state: sealed objects as they were fetched, and which mounts and servers run. All of it disposable.
//!
//! Nothing a restore or an overlay needs is here: whoever asks must be able to go on with "not there", which is also the answer when
//! another process has the state open, when it is damaged, or when the disk is full. No call fails, and none waits long.
//!
//! It stands on `sled`, which panics on damaged files, sometimes in threads of its own, so nobody but the `keeper` touches it.
//! What comes out is held against a checksum that was put in with it, bound to its key; what does not fit is not there.

mod keeper;
mod objects;
#[cfg(test)]
mod tests;

use keeper::Keeper;
use objects::Objects;
use serde_json::Value;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// All objects together take at most this.
const OBJECTS_LEN_MAX: u64 = 64 << 20;

/// The state of this machine, if it can be had.
#[derive(Debug)]
pub struct State {
    keeper: Keeper,
    objects_len_max: u64,
}

impl State {
    /// Opens the state in the user's cache directory. It is opened in the background; whoever asks first waits for it.
    pub fn open(cache_dir: &Path) -> State {
        State::bounded(cache_dir, OBJECTS_LEN_MAX)
    }

    /// The same with at most so many bytes of objects.
    fn bounded(cache_dir: &Path, objects_len_max: u64) -> State {
        State { keeper: Keeper::start(cache_dir), objects_len_max }
    }

    /// Whether anything can be kept. Waits until it is open.
    pub fn is_kept(&self) -> bool {
        self.keeper.ask(|_| Ok(())).is_some()
    }

    /// The bytes of an object of a repository, as they were put in.
    pub fn object(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let key = objects::key(repository, name);
        self.keeper.ask(move |db| Objects::of(db)?.get(&key))?
    }

    /// Keeps the bytes of an object; the ones put in first make room. One that is large beside the bound is not kept.
    pub fn put_object(&self, repository: &str, name: &str, bytes: &[u8]) {
        let (key, bytes, len_max) = (objects::key(repository, name), bytes.to_vec(), self.objects_len_max);
        if bytes.len() as u64 <= len_max / 4 {
            let _ = self.keeper.ask(move |db| Objects::of(db)?.put(&key, &bytes, len_max));
        }
    }

    /// Drops an object.
    pub fn remove_object(&self, repository: &str, name: &str) {
        let key = objects::key(repository, name);
        let _ = self.keeper.ask(move |db| Objects::of(db)?.remove(&key));
    }

    /// The names of the objects of a repository, sorted.
    pub fn objects(&self, repository: &str) -> Vec<String> {
        let repository = repository.to_owned();
        self.keeper.ask(move |db| Objects::of(db)?.names(&repository)).unwrap_or_default()
    }

    /// What is registered as `key`.
    pub fn registered(&self, key: &str) -> Option<Value> {
        let key = key.to_owned();
        self.keeper.ask(move |db| {
            let framed = registry(db)?.get(&key)?;
            Ok(framed.and_then(|framed| parse(&key, &framed)))
        })?
    }

    /// Registers `value` as `key`, durably; whether it was.
    pub fn register(&self, key: &str, value: &Value) -> bool {
        let framed = frame(key.as_bytes(), value.to_string().as_bytes());
        let key = key.to_owned();
        let put = move |db: &sled::Db| {
            let registry = registry(db)?;
            let _ = registry.insert(key, framed)?;
            registry.flush()
        };
        self.keeper.ask(put).is_some()
    }

    /// Takes `key` out of the registry.
    pub fn unregister(&self, key: &str) {
        let key = key.to_owned();
        let _ = self.keeper.ask(move |db| {
            let registry = registry(db)?;
            let _ = registry.remove(key)?;
            registry.flush()
        });
    }

    /// All that is registered, by key.
    pub fn registry(&self) -> Vec<(String, Value)> {
        let all = |db: &sled::Db| {
            let mut all = Vec::new();
            for entry in registry(db)?.iter() {
                let (key, framed) = entry?;
                let key = String::from_utf8_lossy(&key).into_owned();
                all.extend(parse(&key, &framed).map(|value| (key, value)));
            }
            Ok(all)
        };
        self.keeper.ask(all).unwrap_or_default()
    }

    /// Makes what was put in durable now instead of within seconds.
    pub fn flush(&self) {
        let _ = self.keeper.ask(|db| db.flush());
    }
}

fn registry(db: &sled::Db) -> sled::Result<sled::Tree> {
    db.open_tree("registry")
}

fn parse(key: &str, framed: &[u8]) -> Option<Value> {
    serde_json::from_slice(unframe(key.as_bytes(), framed)?).ok()
}

/// For fuzzers: values of any bytes, and the same with a checksum that fits.
pub(super) fn fuzz(bytes: &[u8]) {
    let (key, value) = bytes.split_at(bytes.len().min(8));
    for framed in [value.to_vec(), frame(key, value)] {
        let _value = parse(&String::from_utf8_lossy(key), &framed);
        assert!(objects::part_of(key, &framed).is_none_or(|part| part.bytes.len() + 12 <= value.len()));
        let _age = objects::aged(key, &framed);
    }
    assert!(unframe(key, &frame(key, value)) == Some(value));
}

/// A value with a checksum over itself and its key.
fn frame(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&check(key, value).to_le_bytes(), value].concat()
}

/// The value, if it is what was framed for this key.
fn unframe<'a>(key: &[u8], framed: &'a [u8]) -> Option<&'a [u8]> {
    let (expected, value) = framed.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*expected) == check(key, value)).then_some(value)
}

fn check(key: &[u8], value: &[u8]) -> u64 {
    let mut check = Xxh3::new();
    check.update(&(key.len() as u64).to_le_bytes());
    check.update(key);
    check.update(value);
    check.digest()
}
