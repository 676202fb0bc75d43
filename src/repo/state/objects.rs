//! Objects in the state: in parts, so that no value is large, and with their ages, so that the oldest can go.
//!
//! ```text
//! tree `objects`   repository 0 name 0 part[4]  ->  check[8] age[8] parts[4] bytes
//! tree `ages`      age[8]                       ->  check[8] len[8] repository 0 name 0
//! ```
//! An age is written before its object: what a crash leaves behind is an age without an object, never an object that nobody counts.

use super::{frame, unframe};
use sled::{Db, Result, Tree};

/// Bytes in a part. `sled` puts values beyond half a segment into files of their own, and those it was known to leak.
const PART_LEN: usize = 64 << 10;

/// The two trees.
pub(super) struct Objects {
    parts: Tree,
    ages: Tree,
}

pub(super) struct Part {
    age: u64,
    parts: u32,
    pub(super) bytes: Vec<u8>,
}

/// The beginning of an object's keys. Names hold no zero byte.
pub(super) fn key(repository: &str, name: &str) -> Vec<u8> {
    [repository.as_bytes(), b"\0", name.as_bytes(), b"\0"].concat()
}

impl Objects {
    pub(super) fn of(db: &Db) -> Result<Objects> {
        Ok(Objects { parts: db.open_tree("objects")?, ages: db.open_tree("ages")? })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(first) = self.part(key, 0)? else { return Ok(None) };
        let mut bytes = first.bytes;
        for number in 1..first.parts {
            match self.part(key, number)? {
                Some(part) if part.age == first.age => bytes.extend_from_slice(&part.bytes),
                _ => return Ok(None),
            }
        }
        Ok(Some(bytes))
    }

    pub(super) fn put(&self, key: &[u8], bytes: &[u8], len_max: u64) -> Result<()> {
        self.remove(key)?;
        let len = bytes.len() as u64;
        let mut total = len;
        for entry in self.ages.iter() {
            let (age, framed) = entry?;
            total += aged(&age, &framed).map_or(0, |(len, _)| len);
        }
        while total > len_max {
            match self.remove_oldest()? {
                Some(len) => total -= len.min(total),
                None => break,
            }
        }
        let age = self.ages.last()?.and_then(|(age, _)| Some(u64::from_be_bytes(*age.first_chunk()?)));
        let age = age.map_or(0, |last| last.wrapping_add(1));
        let age_key = age.to_be_bytes();
        let _ = self.ages.insert(age_key, frame(&age_key, &[&len.to_be_bytes(), key].concat()))?;
        let parts = bytes.len().div_ceil(PART_LEN).max(1) as u32;
        for number in 0..parts {
            let from = number as usize * PART_LEN;
            let part = &bytes[from..bytes.len().min(from + PART_LEN)];
            let part_key = part_key(key, number);
            let value = [&age.to_be_bytes(), parts.to_be_bytes().as_slice(), part].concat();
            let _ = self.parts.insert(part_key.as_slice(), frame(&part_key, &value))?;
        }
        Ok(())
    }

    pub(super) fn remove(&self, key: &[u8]) -> Result<()> {
        if let Some(first) = self.part(key, 0)? {
            let _ = self.ages.remove(first.age.to_be_bytes())?;
        }
        for part in self.parts.scan_prefix(key).keys() {
            let _ = self.parts.remove(part?)?;
        }
        Ok(())
    }

    /// The names of the objects of a repository.
    pub(super) fn names(&self, repository: &str) -> Result<Vec<String>> {
        let prefix = key(repository, "");
        let prefix = &prefix[..prefix.len() - 1];
        let mut names = Vec::new();
        for key in self.parts.scan_prefix(prefix).keys() {
            let key = key?;
            if let Some(name) = key[prefix.len()..].strip_suffix(&[0; 5]) {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        Ok(names)
    }

    /// Returns how long it was.
    fn remove_oldest(&self) -> Result<Option<u64>> {
        let Some((age, framed)) = self.ages.pop_min()? else { return Ok(None) };
        let Some((len, key)) = aged(&age, &framed) else { return Ok(Some(0)) };
        let is_same = |part: Part| part.age.to_be_bytes() == *age;
        if self.part(key, 0)?.is_some_and(is_same) {
            self.remove(key)?;
        }
        Ok(Some(len))
    }

    fn part(&self, key: &[u8], number: u32) -> Result<Option<Part>> {
        let key = part_key(key, number);
        let framed = self.parts.get(&key)?;
        Ok(framed.and_then(|framed| part_of(&key, &framed)))
    }
}

/// A part as it was put in under its key.
pub(super) fn part_of(key: &[u8], framed: &[u8]) -> Option<Part> {
    let (age, rest) = unframe(key, framed)?.split_first_chunk::<8>()?;
    let (parts, bytes) = rest.split_first_chunk::<4>()?;
    let (age, parts) = (u64::from_be_bytes(*age), u32::from_be_bytes(*parts));
    Some(Part { age, parts, bytes: bytes.to_vec() })
}

fn part_key(key: &[u8], number: u32) -> Vec<u8> {
    [key, &number.to_be_bytes()].concat()
}

/// How long an object is, and its key.
pub(super) fn aged<'a>(age: &[u8], framed: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (len, key) = unframe(age, framed)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*len), key))
}
