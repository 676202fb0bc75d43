//! The way out: what was backed up, as bytes, and as directories with files.
//!
//! offset -> map walk -> chunk cache -> one ranged get for neighbours, shared by all who wait -> open -> cache -> bytes
//!
//! [`Image`] answers single reads, for mounts and exports; [`bulk`] streams whole images, for restores; [`compare`] tells
//! what differs between two. Holes never reach the store. [`tree`] finds the way through a share, to its files' bytes.
//!
//! **Invariant:** nothing here can write to a repository, and no bytes leave that were not proven by their seal.

mod ahead;
pub mod bulk;
pub mod cache;
mod compare;
pub mod disk;
mod engine;
pub mod files;
mod map;
mod node;
mod pool;
mod stalls;
pub mod tree;
pub mod watch;
pub mod whole;

pub use ahead::Ahead;
pub use compare::compare;
pub use engine::Engine;
pub use map::{Leaf, Map, Piece, Stretch};

use crate::error::{Error, Kind, Result};
use crate::seal::Verified;
use bytes::{Bytes, BytesMut};
use cache::Hint;
use engine::Wanted;
use pool::Urgency;
use std::ops::Range;
use std::sync::Arc;

/// A backed-up volume, seen as bytes.
#[derive(Clone)]
pub struct Image {
    engine: Arc<Engine>,
    map: Map,
}

/// A piece of what a read gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes.
    Bytes(Verified),
    /// So many zeros, which are stored nowhere.
    Zeros(u64),
}

/// A run of an image that is stored, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which bytes.
    pub range: Range<u64>,
    /// Whether anything is stored of it; else it reads as zeros.
    pub data: bool,
}

/// What a read covers: one entry a chunk or hole.
struct Plan {
    pieces: Vec<Piece>,
}

impl Image {
    /// An image with this map.
    pub fn new(engine: Arc<Engine>, map: Map) -> Image {
        Image { engine, map }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.map.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.map.len == 0
    }

    /// Its map.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The engine that it shares with others.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The bytes, if all of them are in memory. Never waits.
    pub fn read_now(&self, offset: u64, len: usize) -> Option<Result<Vec<Part>>> {
        let range = match self.judge(offset, len) {
            Ok(range) => range,
            Err(error) => return Some(Err(error)),
        };
        let mut parts = Vec::with_capacity(2);
        let mut at = range.start;
        while at < range.end {
            match self.map.stretch_now(&self.engine, at)? {
                Err(error) => return Some(Err(error)),
                Ok(Stretch::Hole(hole)) => {
                    let end = hole.end.min(range.end);
                    push_zeros(&mut parts, end - at);
                    at = end;
                }
                Ok(Stretch::Leaf(leaf)) => {
                    for piece in leaf.pieces(at).take_while(|piece| piece.range.start < range.end) {
                        let end = piece.range.end.min(range.end);
                        match piece.child {
                            None => push_zeros(&mut parts, end - at),
                            Some(child) => {
                                let chunk = self.engine.chunk_now(child.id, Hint::Demand)?;
                                parts.push(Part::Bytes(cut(&chunk, &piece, at..end)?));
                            }
                        }
                        at = end;
                    }
                }
            }
        }
        Some(Ok(parts))
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

    async fn read_as(&self, offset: u64, len: usize, urgency: Urgency, hint: Hint) -> Result<Vec<Part>> {
        let range = self.judge(offset, len)?;
        let plan = self.plan(&range).await?;
        let mut chunks = plan.gather(&self.engine, urgency, hint).await?.into_iter();
        let mut parts = Vec::with_capacity(plan.pieces.len());
        for piece in &plan.pieces {
            let here = piece.range.start.max(range.start)..piece.range.end.min(range.end);
            match piece.child {
                None => push_zeros(&mut parts, here.end - here.start),
                Some(_) => {
                    let chunk = chunks
                        .next()
                        .ok_or_else(|| Error::new(Kind::Corrupt, "a chunk was not answered for"))?;
                    let bytes = cut(&chunk, piece, here);
                    parts.push(Part::Bytes(
                        bytes.ok_or_else(|| Error::new(Kind::Corrupt, "a chunk is too short"))?,
                    ));
                }
            }
        }
        Ok(parts)
    }

    /// The bytes, in one piece.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.read(offset, len).await.map(join)
    }

    /// Has what lies in a range fetched, without waiting for it; forgets errors, which will come again when it is read.
    pub(crate) async fn prefetch(&self, range: Range<u64>) {
        if let Ok(plan) = self.plan(&range).await {
            let missing: Vec<Wanted> =
                plan.wanted().filter(|one| self.engine.chunk_now(one.id, Hint::Scan).is_none()).collect();
            drop(self.engine.fetch(&missing, Urgency::Soon, Hint::Scan));
        }
    }

    /// The stretch from `offset` on that is stored, or is not, as far as it goes, but no further than `limit`.
    pub async fn extent(&self, offset: u64, limit: u64) -> Result<Extent> {
        let end = limit.min(self.map.len);
        let mut at = offset;
        let mut kind = None;
        while at < end {
            let (range, data) = match self.map.stretch(&self.engine, at).await? {
                Stretch::Hole(range) => (range, false),
                Stretch::Leaf(leaf) => {
                    let mut pieces = leaf.pieces(at);
                    let Some(first) = pieces.next() else { break };
                    let data = first.child.is_some();
                    let last = pieces.take_while(|piece| piece.child.is_some() == data).last();
                    (first.range.start..last.unwrap_or(first).range.end, data)
                }
            };
            if kind.is_some_and(|kind| kind != data) {
                break;
            }
            kind = Some(data);
            at = range.end;
        }
        Ok(Extent { range: offset..at.min(end).max(offset), data: kind.unwrap_or(false) })
    }

    fn judge(&self, offset: u64, len: usize) -> Result<Range<u64>> {
        judge(offset, len, self.map.len)
    }

    async fn plan(&self, range: &Range<u64>) -> Result<Plan> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            match self.map.stretch(&self.engine, at).await? {
                Stretch::Hole(hole) => {
                    at = hole.end;
                    pieces.push(Piece { range: hole, child: None });
                }
                Stretch::Leaf(leaf) => {
                    pieces.extend(leaf.pieces(at).take_while(|piece| piece.range.start < range.end));
                    at = leaf.range.end;
                }
            }
        }
        Ok(Plan { pieces })
    }
}

impl Plan {
    fn wanted(&self) -> impl Iterator<Item = Wanted> + '_ {
        self.pieces.iter().filter_map(|piece| {
            let child = piece.child?;
            Some(Wanted { id: child.id, place: child.place, len: piece.range.end - piece.range.start })
        })
    }

    /// All chunks of the plan, in order.
    async fn gather(&self, engine: &Arc<Engine>, urgency: Urgency, hint: Hint) -> Result<Vec<Verified>> {
        let wanted: Vec<Wanted> = self.wanted().collect();
        let mut chunks: Vec<Option<Verified>> =
            wanted.iter().map(|one| engine.chunk_now(one.id, hint)).collect();
        while chunks.iter().any(Option::is_none) {
            let empty: Vec<usize> = (0..chunks.len()).filter(|&number| chunks[number].is_none()).collect();
            let missing: Vec<Wanted> = empty.iter().map(|&number| wanted[number]).collect();
            let waits = engine.fetch(&missing, urgency, hint);
            for (number, wait) in empty.into_iter().zip(waits) {
                // `None`: whoever fetched it went away; the next round fetches it again.
                let answer = match wait {
                    Some(wait) => wait.done().await,
                    None => None,
                };
                if let Some(answer) = answer {
                    chunks[number] = Some(answer?);
                }
            }
        }
        Ok(chunks.into_iter().flatten().collect())
    }
}

/// The range of a read that stays within `size` bytes.
fn judge(offset: u64, len: usize, size: u64) -> Result<Range<u64>> {
    let end = offset.checked_add(len as u64).filter(|&end| end <= size);
    let words = || format!("read {len} bytes at {offset} of {size} bytes");
    Ok(offset..end.ok_or_else(|| Error::new(Kind::Usage, words()))?)
}

fn cut(chunk: &Verified, piece: &Piece, here: Range<u64>) -> Option<Verified> {
    let start = usize::try_from(here.start - piece.range.start).ok()?;
    let end = usize::try_from(here.end - piece.range.start).ok()?;
    (end <= chunk.len()).then(|| chunk.slice(start..end))
}

fn push_zeros(parts: &mut Vec<Part>, len: u64) {
    match parts.last_mut() {
        Some(Part::Zeros(before)) => *before += len,
        _ => parts.push(Part::Zeros(len)),
    }
}

/// What reads of holes are answered with, as long as they are no longer than this.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Parts as one run of bytes; a single part is not copied.
pub fn join(mut parts: Vec<Part>) -> Bytes {
    match parts.as_mut_slice() {
        [Part::Bytes(only)] => return std::mem::take(only).into_bytes(),
        [Part::Zeros(len)] if *len <= ZEROS.len() as u64 => {
            return Bytes::from_static(&ZEROS[..*len as usize]);
        }
        _ => {}
    }
    let len = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::Zeros(len) => *len as usize,
    };
    let mut all = BytesMut::with_capacity(parts.iter().map(len).sum());
    for part in parts {
        match part {
            Part::Bytes(bytes) => all.extend_from_slice(&bytes),
            Part::Zeros(len) => all.resize(all.len() + len as usize, 0),
        }
    }
    all.freeze()
}

/// Whether all bytes are zero, at the speed of memory.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        for len in [0, 1, 63, 64, 65, 4096, 5000] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    bytes[at] = 1;
                    assert!(!is_zero(&bytes), "{at} of {len}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
