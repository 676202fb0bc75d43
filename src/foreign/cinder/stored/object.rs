//! One data object: any range of its plain bytes.

use super::feed::Source;
use super::points::{Folder, Points};
use super::yard::{Method, Taken, Wanted, Yard};
use super::{LANE_MAX, SPAN};
use crate::error::{Context, Error, Kind, Result};
use crate::foreign::cinder::document::metadata::Compression;
use crate::store::{AnyStore, Name, Stat};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;
use tokio::runtime::Handle;

/// What is decoded on the way to what is wanted goes through so much memory.
const PASS_LEN: usize = 128 << 10;

/// An object.
pub(in crate::foreign::cinder) struct Object {
    number: u64,
    source: Source,
    method: Option<Method>,
    len: u64,
    points: Points,
    /// From where on it can't be decoded, once that is known: nobody has to find out again.
    broken: OnceLock<(u64, Error)>,
}

impl Object {
    /// The object of that name, which holds `len` plain bytes.
    pub(in crate::foreign::cinder) fn new(
        (store, runtime): (AnyStore, Handle),
        (name, stat): (Name, &Stat),
        compression: Compression,
        len: u64,
        folder: &Folder,
    ) -> Object {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let age = stat.published.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos());
        let points = folder.of(&format!("{name}\0{}\0{age}\0{len}", stat.len));
        let method = match compression {
            Compression::None => None,
            Compression::Zlib | Compression::Gzip => Some(Method::Zlib),
            Compression::Bz2 | Compression::Bzip2 => Some(Method::Bzip2),
            Compression::Zstd => Some(Method::Zstd),
        };
        let source = Source { store, runtime, name, len: stat.len };
        Object { number: NUMBERS.fetch_add(1, Relaxed), source, method, len, points, broken: OnceLock::new() }
    }

    /// What tells it from every other one of this process.
    pub(in crate::foreign::cinder) fn number(&self) -> u64 {
        self.number
    }

    /// Whether what stands at an offset can be read without all that stands before it.
    pub(in crate::foreign::cinder) fn is_near(&self, offset: u64) -> bool {
        self.method.is_none() || self.points.before(offset).unwrap_or(0) + LANE_MAX >= offset
    }

    /// How far what stands at an offset is best read in one go: up to the next place to begin at.
    pub(in crate::foreign::cinder) fn lane_end(&self, offset: u64) -> u64 {
        let next = self.points.behind(offset).filter(|next| next - offset <= LANE_MAX);
        next.unwrap_or_else(|| offset.saturating_add(SPAN))
    }

    /// What was read is wrong: places that another process saved may be why, and are not used again. Whether there were any.
    pub(in crate::foreign::cinder) fn distrust(&self) -> bool {
        self.points.distrust()
    }

    /// Its name.
    pub(in crate::foreign::cinder) fn name(&self) -> &Name {
        &self.source.name
    }

    /// Fills `into` with what stands at an offset; `fresh` uses no place that another process saved. May wait, and take its time.
    pub(in crate::foreign::cinder) fn read(
        &self,
        yard: &Yard,
        offset: u64,
        into: &mut [u8],
        fresh: bool,
    ) -> Result<()> {
        let end = offset.checked_add(into.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| Error::new(Kind::Usage, "read behind the end of an object"))?;
        let what = || format!("{}/{}", self.source.store.place(), self.source.name);
        let Some(method) = self.method else {
            let Source { store, runtime, name, .. } = &self.source;
            let bytes = runtime.block_on(store.get(name, offset..end))?;
            into.copy_from_slice(&bytes);
            return Ok(());
        };
        if let Some((_, error)) = self.broken.get().filter(|(at, _)| *at < end) {
            return Err(error.clone());
        }
        let wanted = Wanted {
            object: self.number,
            source: &self.source,
            method,
            points: &self.points,
            start: offset,
            end,
            fresh,
        };
        let mut taken = yard.take(&wanted).context(what)?;
        self.decode(&mut taken, offset, into).context(what).inspect_err(|error| {
            let standing = taken.standing().filter(|standing| !standing.resumed);
            if let (Some(standing), Kind::Corrupt) = (standing, error.kind()) {
                let _first = self.broken.set((standing.at(), error.clone()));
            }
        })?;
        taken.park();
        Ok(())
    }

    fn decode(&self, taken: &mut Taken<'_>, offset: u64, into: &mut [u8]) -> Result<()> {
        let standing = taken.standing().ok_or_else(|| Error::new(Kind::Corrupt, "it has no decoder"))?;
        let short = |at: u64| {
            let words = format!("it ends after {at} bytes, where {} belong", self.len);
            Error::new(Kind::Corrupt, words)
        };
        let mut pass = vec![0; PASS_LEN.min((offset - standing.at()) as usize)];
        while standing.at() < offset {
            let len = pass.len().min((offset - standing.at()) as usize);
            if standing.read(&mut pass[..len], &self.points)? < len {
                return Err(short(standing.at()));
            }
        }
        if standing.read(into, &self.points)? < into.len() {
            return Err(short(standing.at()));
        }
        Ok(())
    }

    /// Holds the object to ending where it should: what follows would have been written by a restore of Cinder's.
    pub(in crate::foreign::cinder) fn ends_as_it_should(&self, yard: &Yard) -> Result<()> {
        let more =
            || Error::new(Kind::Corrupt, format!("it holds more than the {} bytes that belong", self.len));
        let what = || format!("{}/{}", self.source.store.place(), self.source.name);
        let Some(method) = self.method else {
            return if self.source.len == self.len { Ok(()) } else { Err(more()).context(what) };
        };
        let (start, end) = (self.len, self.len);
        let wanted = Wanted {
            object: self.number,
            source: &self.source,
            method,
            points: &self.points,
            start,
            end,
            fresh: false,
        };
        let mut taken = yard.take(&wanted).context(what)?;
        self.decode(&mut taken, self.len, &mut []).context(what)?;
        match taken.standing().map(|standing| standing.is_at_end()) {
            Some(Ok(false)) => Err(more()).context(what),
            Some(Err(error)) => Err(error).context(what),
            _ => Ok(()),
        }
    }
}
