//! Reading: exact ranges, by descriptors that stay open for a while.
//!
//! Packs are read many times and stay open; what is read once and whole does not take a descriptor from them. A file that was
//! removed after it was opened can still be read here, which suits readers that run beside a prune.

use super::disk::{File, Folder};
use super::words::failed;
use super::{Directory, locked};
use crate::error::{Error, Kind, Result};
use crate::store::{Name, Stat};
use bytes::Bytes;
use lru::LruCache;
use rustix::io::Errno;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// How many objects stay open.
pub(super) const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The objects read last.
pub(super) struct OpenObjects(Mutex<LruCache<Name, Arc<Open>>>);

/// An object that is open; its length cannot change any more.
struct Open {
    file: Box<dyn File>,
    len: u64,
}

impl OpenObjects {
    pub(super) fn new() -> OpenObjects {
        OpenObjects(Mutex::new(LruCache::new(OPEN_MAX)))
    }

    pub(super) fn forget(&self, name: &Name) {
        drop(locked(&self.0).pop(name));
    }
}

impl Directory {
    pub(super) fn read(&self, name: &Name, range: Range<u64>) -> Result<Bytes> {
        let open = self.opened(name)?;
        self.read_open(&open, name, range)
    }

    /// Fails in silence: whoever reads the bytes will hear of it.
    pub(super) fn expect(&self, name: &Name, range: Range<u64>) {
        if let Ok(open) = self.opened(name) {
            open.file.expect(range);
        }
    }

    pub(super) fn read_whole(&self, name: &Name, len_max: u64) -> Result<Bytes> {
        let open = self.open_object(name)?;
        if open.len > len_max {
            let words =
                format!("{} is {} bytes long, at most {len_max} make sense", self.path(name), open.len);
            return Err(Error::new(Kind::Corrupt, words));
        }
        self.read_open(&open, name, 0..open.len)
    }

    pub(super) fn stat(&self, name: &Name) -> Result<Stat> {
        let facts = self
            .folder_of(name)
            .and_then(|folder| folder.stat(name.last()))
            .map_err(|errno| failed("stat", &self.path(name), errno))?;
        match facts.sort {
            super::disk::Sort::File => Ok(Stat { len: facts.len, published: facts.modified }),
            _ => Err(failed("stat", &self.path(name), Errno::LOOP)),
        }
    }

    /// The folder that `name` is in, for reading.
    pub(super) fn folder_of(&self, name: &Name) -> rustix::io::Result<Arc<dyn Folder>> {
        self.folder_at(name.as_str().rsplit_once('/').map_or("", |(folder, _)| folder))
    }

    /// The folder at a path inside the store; the root for an empty one.
    pub(super) fn folder_at(&self, path: &str) -> rustix::io::Result<Arc<dyn Folder>> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(self.root.clone(), |folder, part| folder.folder(part))
    }

    fn opened(&self, name: &Name) -> Result<Arc<Open>> {
        if let Some(open) = locked(&self.open.0).get(name) {
            return Ok(open.clone());
        }
        let open = Arc::new(self.open_object(name)?);
        // The file that falls out is closed after the lock is let go: closing may wait on a network.
        let fell_out = locked(&self.open.0).push(name.clone(), open.clone());
        drop(fell_out);
        Ok(open)
    }

    fn open_object(&self, name: &Name) -> Result<Open> {
        let open = || {
            let file = self.folder_of(name)?.open(name.last())?;
            Ok(Open { len: file.facts()?.len, file })
        };
        open().map_err(|errno| failed("open", &self.path(name), errno))
    }

    fn read_open(&self, open: &Open, name: &Name, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end {
            return Err(Error::new(Kind::Usage, format!("read {name}: {range:?} is no range")));
        }
        // Before the buffer is made: what asks for the range may be hostile, the file's length is a fact.
        if range.end > open.len {
            return Err(self.ends_at(name, open.len, range));
        }
        let wanted = (range.end - range.start) as usize;
        let bytes =
            read_up_to(&*open.file, range.start, wanted).map_err(|errno| self.unreadable(name, errno))?;
        if bytes.len() < wanted {
            return Err(self.ends_at(name, range.start + bytes.len() as u64, range));
        }
        Ok(bytes)
    }

    fn ends_at(&self, name: &Name, end: u64, wanted: Range<u64>) -> Error {
        let words = format!(
            "{} ends at {end}, but bytes {} to {} should be in it",
            self.path(name),
            wanted.start,
            wanted.end
        );
        Error::new(Kind::Corrupt, words)
    }

    /// A disk that cannot read a sector back has damaged the object: asking again and again would not help.
    fn unreadable(&self, name: &Name, errno: Errno) -> Error {
        let error = failed("read", &self.path(name), errno);
        if errno == Errno::IO { error.as_kind(Kind::Corrupt) } else { error }
    }
}

/// `len` bytes from `at` on, or fewer where the file ends.
pub(super) fn read_up_to(file: &dyn File, at: u64, len: usize) -> rustix::io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let next = at + bytes.len() as u64;
        match file.read(&mut bytes, next) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(len);
    Ok(bytes.into())
}
