//! The way out: what was backed up, as bytes, and as directories with files.
//!
//! offset -> map walk -> chunk cache -> one ranged get for neighbours, shared by all who wait -> open -> cache -> bytes
//!
//! [`Image`] answers single reads, for mounts and exports; [`bulk`] streams whole images, for restores; [`compare`] tells
//! what differs between two. Holes never reach the store. An image of ours is found by its map ([`Map`]), one that somebody else wrote by
//! whoever knows how to read it ([`Origin`]); a [`Library`] says which there are. Nobody above sees a difference. [`tree`] finds the way through a share, to its files' bytes.
//!
//! **Invariant:** nothing here can write to a repository, and no bytes leave that were not proven, by their seal or by a digest.

mod ahead;
pub mod bulk;
pub mod cache;
mod compare;
pub mod disk;
mod engine;
pub mod files;
mod foreign;
pub mod library;
mod map;
mod mapped;
mod node;
pub mod origin;
mod pace;
mod pool;
mod stalls;
pub mod tree;
pub mod watch;
pub mod whole;

pub use ahead::Ahead;
pub use compare::compare;
pub use engine::Engine;
pub use library::Library;
pub use map::{Leaf, Map, Piece, Stretch};
pub use origin::Origin;

use crate::error::{Error, Kind, Result};
use crate::format::ChunkId;
use crate::seal::Verified;
use bytes::{Bytes, BytesMut};
use cache::Hint;
use pool::Urgency;
use std::ops::Range;
use std::sync::Arc;

/// A backed-up volume, seen as bytes.
#[derive(Clone)]
pub struct Image {
    engine: Arc<Engine>,
    whence: Whence,
}

/// Where the bytes of an image come from.
#[derive(Clone)]
enum Whence {
    /// From the chunks that a map of ours names.
    Map(Map),
    /// From what somebody else wrote.
    Origin(Arc<dyn Origin>),
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

/// Asked on a long way whether to go on.
pub type GoesOn<'a> = &'a (dyn Fn() -> bool + Sync);

impl Image {
    /// An image with this map.
    pub fn new(engine: Arc<Engine>, map: Map) -> Image {
        Image { engine, whence: Whence::Map(map) }
    }

    /// An image that somebody else wrote.
    pub fn of(engine: Arc<Engine>, origin: Arc<dyn Origin>) -> Image {
        Image { engine, whence: Whence::Origin(origin) }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        match &self.whence {
            Whence::Map(map) => map.len,
            Whence::Origin(origin) => origin.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands for its content: images of one id and one length hold the same.
    pub fn id(&self) -> ChunkId {
        match &self.whence {
            Whence::Map(map) => map.root.id,
            Whence::Origin(origin) => origin.id(),
        }
    }

    /// Its map; an error where another program wrote it.
    pub fn map(&self) -> Result<&Map> {
        match &self.whence {
            Whence::Map(map) => Ok(map),
            Whence::Origin(_) => Err(Error::new(Kind::Unsupported, "what another program wrote has no map")),
        }
    }

    /// At which offsets it is cut; 0 when that is not always the same.
    pub fn chunk_len(&self) -> u64 {
        match &self.whence {
            Whence::Map(map) => map.root.chunk_size.into(),
            Whence::Origin(origin) => origin.chunk_len(),
        }
    }

    /// Whether these bytes are those of the chunk with this id, as far as ids of this image tell.
    pub fn is_chunk(&self, id: ChunkId, bytes: &[u8]) -> bool {
        match &self.whence {
            Whence::Map(_) => self.engine.repository().is_ok_and(|ours| ours.keys.data_id(bytes) == id),
            Whence::Origin(origin) => origin.is_chunk(id, bytes),
        }
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
        match &self.whence {
            Whence::Map(map) => mapped::read_now(&self.engine, map, range),
            Whence::Origin(origin) => foreign::read_now(&self.engine, origin, range),
        }
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
        match &self.whence {
            Whence::Map(map) => mapped::read(&self.engine, map, range, urgency, hint).await,
            Whence::Origin(origin) => foreign::read(&self.engine, origin, range, urgency, hint).await,
        }
    }

    /// The bytes, in one piece.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.read(offset, len).await.map(join)
    }

    /// Has what lies in a range fetched, without waiting for it; forgets errors, which will come again when it is read.
    pub(crate) async fn prefetch(&self, range: Range<u64>) {
        match &self.whence {
            Whence::Map(map) => mapped::prefetch(&self.engine, map, range).await,
            Whence::Origin(origin) => foreign::prefetch(&self.engine, origin, range).await,
        }
    }

    /// The stretch from `offset` on that is stored, or is not, as far as it goes, but no further than `limit`.
    pub async fn extent(&self, offset: u64, limit: u64) -> Result<Extent> {
        self.extent_while(offset, limit, &|| true).await
    }

    /// The same, cut short when `goes_on` says no: more of its kind may follow then.
    pub async fn extent_while(&self, offset: u64, limit: u64, goes_on: GoesOn<'_>) -> Result<Extent> {
        let end = limit.min(self.len());
        match &self.whence {
            Whence::Map(map) => mapped::extent(&self.engine, map, offset, end, goes_on).await,
            Whence::Origin(origin) => foreign::extent(origin, offset, end, goes_on).await,
        }
    }

    fn judge(&self, offset: u64, len: usize) -> Result<Range<u64>> {
        judge(offset, len, self.len())
    }
}

/// The range of a read that stays within `size` bytes.
fn judge(offset: u64, len: usize, size: u64) -> Result<Range<u64>> {
    let end = offset.checked_add(len as u64).filter(|&end| end <= size);
    let words = || format!("read {len} bytes at {offset} of {size} bytes");
    Ok(offset..end.ok_or_else(|| Error::new(Kind::Usage, words()))?)
}

/// A part of a chunk, which is what stands at `whole` of the image.
fn cut(chunk: &Verified, whole: &Range<u64>, here: Range<u64>) -> Option<Verified> {
    let start = usize::try_from(here.start - whole.start).ok()?;
    let end = usize::try_from(here.end - whole.start).ok()?;
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
