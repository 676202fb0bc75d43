//! A regular file of a tree, seen as bytes: those of its entry, of one chunk, or of a map.

use super::super::cache::Hint;
use super::super::engine::{Engine, Wanted};
use super::super::mapped::gather;
use super::super::node::Opened;
use super::super::pool::Urgency;
use super::super::{Extent, Image, Map, Part, cut, join, judge};
use crate::error::{Error, Kind, Result};
use crate::format::node::Child;
use crate::format::record::Root;
use crate::format::tree::FileContent;
use crate::seal::Verified;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// A file, seen as bytes.
#[derive(Clone)]
pub struct File {
    engine: Arc<Engine>,
    len: u64,
    body: Body,
}

#[derive(Clone)]
enum Body {
    /// They came with the entry.
    Here(Verified),
    /// There are none: all are zero.
    Zeros,
    /// One chunk has them all.
    Chunk(Child),
    /// As an image has them.
    Mapped(Image),
}

impl File {
    pub(super) fn new(engine: &Arc<Engine>, part: &Opened, content: &FileContent) -> File {
        let body = match content {
            // OK: the parser takes contents from the node's own bytes, never from elsewhere.
            FileContent::Inline(bytes) => Body::Here(part.plain.part(bytes).unwrap_or_default()),
            FileContent::Zeros(_) => Body::Zeros,
            FileContent::Chunk { child, .. } => Body::Chunk(*child),
            FileContent::Map { len, level, child, .. } => {
                let root = Root { id: child.id, place: child.place, level: *level, chunk_size: 0 };
                Body::Mapped(Image::new(Arc::clone(engine), Map { root, len: *len }))
            }
        };
        File { engine: Arc::clone(engine), len: content.len(), body }
    }

    /// The bytes of one chunk.
    pub(super) fn of_chunk(engine: &Arc<Engine>, child: Child, len: u32) -> File {
        File { engine: Arc::clone(engine), len: len.into(), body: Body::Chunk(child) }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file as an image, if it is large enough to have a map; what reads ahead or in bulk wants one.
    pub fn image(&self) -> Option<&Image> {
        match &self.body {
            Body::Mapped(image) => Some(image),
            _ => None,
        }
    }

    /// The bytes, if all of them are in memory. Never waits.
    pub fn read_now(&self, offset: u64, len: usize) -> Option<Result<Vec<Part>>> {
        if let Body::Mapped(image) = &self.body {
            return image.read_now(offset, len);
        }
        let range = match judge(offset, len, self.len) {
            Ok(range) if range.is_empty() => return Some(Ok(Vec::new())),
            Ok(range) => range,
            Err(error) => return Some(Err(error)),
        };
        let whole = match &self.body {
            Body::Here(bytes) => bytes.clone(),
            Body::Chunk(child) => self.engine.chunk_now(child.id, Hint::Demand)?,
            Body::Zeros | Body::Mapped(_) => return Some(Ok(vec![Part::Zeros(range.end - range.start)])),
        };
        Some(self.part(&whole, range))
    }

    /// The bytes.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Vec<Part>> {
        match self.read_now(offset, len) {
            Some(now) => now,
            None => self.read_as(offset, len, Urgency::Now, Hint::Demand).await,
        }
    }

    /// The same for who is in no hurry and reads everything once: nobody else waits longer or loses what is hot.
    pub async fn read_aside(&self, offset: u64, len: usize) -> Result<Vec<Part>> {
        self.read_as(offset, len, Urgency::Soon, Hint::Scan).await
    }

    /// The bytes, in one piece.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.read(offset, len).await.map(join)
    }

    async fn read_as(&self, offset: u64, len: usize, urgency: Urgency, hint: Hint) -> Result<Vec<Part>> {
        match &self.body {
            Body::Mapped(image) => image.read_as(offset, len, urgency, hint).await,
            Body::Chunk(child) => {
                let range = judge(offset, len, self.len)?;
                let wanted = Wanted { id: child.id, place: child.place, len: self.len };
                let whole = gather(&self.engine, &[wanted], urgency, hint).await?.pop().unwrap_or_default();
                self.part(&whole, range)
            }
            // What needs no chunk is always here.
            Body::Here(_) | Body::Zeros => self.read_now(offset, len).unwrap_or_else(|| Ok(Vec::new())),
        }
    }

    fn part(&self, whole: &Verified, range: Range<u64>) -> Result<Vec<Part>> {
        let bytes = cut(whole, &(0..self.len), range);
        Ok(vec![Part::Bytes(bytes.ok_or_else(|| Error::new(Kind::Corrupt, "a chunk is too short"))?)])
    }

    /// The stretch from `offset` on that is stored, or is not, as far as it goes, but no further than `limit`.
    pub async fn extent(&self, offset: u64, limit: u64) -> Result<Extent> {
        if let Body::Mapped(image) = &self.body {
            return image.extent(offset, limit).await;
        }
        let end = limit.min(self.len).max(offset);
        Ok(Extent { range: offset..end, data: !matches!(self.body, Body::Zeros) && offset < self.len })
    }

    /// How much of it who reads it in order may have fetched ahead.
    pub fn window(&self) -> u64 {
        self.engine.window_max()
    }

    /// Has what lies in a range of a file with a map fetched, without waiting for it; forgets errors, which will come again when it is read.
    pub fn expect(&self, range: Range<u64>) {
        let range = range.start..range.end.min(self.len);
        if let (Body::Mapped(image), false) = (&self.body, range.is_empty()) {
            let image = image.clone();
            drop(self.engine.runtime().spawn(async move { image.prefetch(range).await }));
        }
    }
}

/// Has the bytes of small files fetched, neighbours together, without waiting for them; forgets errors, which will come again when
/// they are read.
pub fn expect_all(files: &[File]) {
    let Some(engine) = files.first().map(|file| &file.engine) else { return };
    let wanted = files.iter().filter_map(|file| match &file.body {
        Body::Chunk(child) if engine.chunk_now(child.id, Hint::Scan).is_none() => {
            Some(Wanted { id: child.id, place: child.place, len: file.len })
        }
        _ => None,
    });
    let mut wanted: Vec<Wanted> = wanted.collect();
    wanted.sort_unstable_by_key(|one| one.place);
    drop(engine.fetch(&wanted, Urgency::Soon, Hint::Scan));
}
