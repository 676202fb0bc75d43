//! An export in memory: sparse, writable, gone with the process. For tests, and to measure the server by itself.
//!
//! Chunks of 64 KiB that were never written, or were zeroed whole, are not there. Reading takes references to chunks and
//! copies nothing; writing changes a chunk in its place, or a copy of it if somebody is still reading it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::{Bytes, BytesMut};

use crate::export::{Answer, Error, Export, Extent, Info, Kind, Part, Parts, Result, Zeroing};
use crate::wire::state;

const CHUNK: usize = 64 * 1024;
const CHUNK64: u64 = 64 * 1024;
/// Extents in one answer; clients ask on.
const EXTENTS_MAX: usize = 16 * 1024;

type Chunks = BTreeMap<u64, Bytes>;

/// Copying so much takes long enough that it pays to let another core do it.
const LARGE: usize = 128 * 1024;

/// An export in memory.
#[derive(Debug)]
pub struct Memory(Arc<Store>);

#[derive(Debug)]
struct Store {
    size: u64,
    limit: u64,
    chunks: RwLock<Chunks>,
}

/// The part of a range that lies in one chunk.
struct Piece {
    index: u64,
    from: usize,
    len: usize,
}

/// Cuts a range at chunk boundaries.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let next = (at / CHUNK64 + 1).saturating_mul(CHUNK64).min(end);
        let piece = Piece { index: at / CHUNK64, from: small(at % CHUNK64), len: small(next - at) };
        (at < end).then(|| at = next).map(|()| piece)
    })
}

/// A number no larger than a chunk.
fn small(n: u64) -> usize {
    usize::try_from(n).unwrap_or(CHUNK).min(CHUNK)
}

impl Memory {
    /// All zeroes, nothing allocated.
    pub fn new(size: u64) -> Self {
        Memory::with_limit(size, u64::MAX)
    }

    /// As if the store had room for so many bytes only.
    pub fn with_limit(size: u64, limit: u64) -> Self {
        Memory(Arc::new(Store { size, limit, chunks: RwLock::default() }))
    }

    /// Bytes allocated.
    pub fn allocated(&self) -> u64 {
        u64::try_from(self.0.chunks().len()).unwrap_or(u64::MAX).saturating_mul(CHUNK64)
    }
}

impl Store {
    // A panic under the lock can't leave a chunk half written: chunks are replaced whole.
    fn chunks(&self) -> RwLockReadGuard<'_, Chunks> {
        self.chunks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks_mut(&self) -> RwLockWriteGuard<'_, Chunks> {
        self.chunks.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room_for_another(&self, chunks: &Chunks) -> bool {
        u64::try_from(chunks.len()).is_ok_and(|count| (count + 1).saturating_mul(CHUNK64) <= self.limit)
    }

    fn write(&self, offset: u64, mut data: Bytes) -> Result<()> {
        let mut chunks = self.chunks_mut();
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        for piece in pieces(offset, len) {
            let bytes = data.split_to(piece.len);
            let old = chunks.remove(&piece.index);
            if old.is_none() && !self.has_room_for_another(&chunks) {
                return Err(Error::new(Kind::Full, "memory limit is reached"));
            }
            let old = old.unwrap_or_else(|| Bytes::from(vec![0; CHUNK]));
            let chunk =
                changed(old, |chunk| chunk[piece.from..piece.from + piece.len].copy_from_slice(&bytes));
            drop(chunks.insert(piece.index, chunk));
        }
        Ok(())
    }

    /// Zeroes a range: whole chunks vanish, and whatever remains is overwritten.
    fn clear(&self, offset: u64, len: u64) {
        let mut chunks = self.chunks_mut();
        let (first, last) = (offset.div_ceil(CHUNK64), (offset + len) / CHUNK64);
        if first < last {
            let mut tail = chunks.split_off(&first);
            chunks.append(&mut tail.split_off(&last));
        }
        let edges = [(offset, len.min(first * CHUNK64 - offset)), ((last * CHUNK64).max(offset), 0)];
        let tail = (offset + len).saturating_sub(edges[1].0);
        for piece in
            [(edges[0].0, edges[0].1), (edges[1].0, tail)].into_iter().flat_map(|(at, len)| pieces(at, len))
        {
            if let Some(chunk) = chunks.remove(&piece.index) {
                let changed = changed(chunk, |bytes| bytes[piece.from..piece.from + piece.len].fill(0));
                drop(chunks.insert(piece.index, changed));
            }
        }
    }
}

/// A chunk after a change; copied first only if somebody is still reading it.
fn changed(chunk: Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut own = chunk.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    change(&mut own);
    own.freeze()
}

impl Export for Memory {
    fn info(&self) -> Info {
        Info {
            multi_conn: true,
            trim: true,
            fast_zero: true,
            cache: true,
            description: "in memory".into(),
            ..Info::writable(self.0.size)
        }
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let chunks = self.0.chunks();
        let part = |piece: Piece| match chunks.get(&piece.index) {
            Some(chunk) => Part::Data(chunk.slice(piece.from..piece.from + piece.len)),
            None => Part::Hole(u32::try_from(piece.len).unwrap_or(0)),
        };
        let mut parts = pieces(offset, len.into()).map(part);
        match (parts.next(), parts.next()) {
            (Some(only), None) => Answer::ok(Parts::One(only)),
            (first, second) => {
                Answer::ok(Parts::Many(first.into_iter().chain(second).chain(parts).collect()))
            }
        }
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Answer<()> {
        if data.len() < LARGE {
            return Answer::Now(self.0.write(offset, data));
        }
        let store = Arc::clone(&self.0);
        Answer::later(async move { store.write(offset, data) })
    }

    fn trim(&self, offset: u64, len: u64, _fua: bool) -> Answer<()> {
        self.0.clear(offset, len);
        Answer::ok(())
    }

    fn zero(&self, offset: u64, len: u64, _how: Zeroing) -> Answer<()> {
        self.0.clear(offset, len);
        Answer::ok(())
    }

    fn block_status(&self, _context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let chunks = self.0.chunks();
        let end = offset + len;
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        let mut present = chunks.range(offset / CHUNK64..).map(|(index, _)| index * CHUNK64).peekable();
        while at < end && extents.len() < EXTENTS_MAX && !(one && extents.len() > 1) {
            match present.next_if(|start| *start <= at) {
                Some(start) => {
                    let next = (start + CHUNK64).min(self.0.size);
                    push(&mut extents, next - at, 0);
                    at = next;
                }
                None => {
                    let next = present.peek().map_or(self.0.size, |start| (*start).min(self.0.size));
                    push(&mut extents, next - at, state::HOLE | state::ZERO);
                    at = next;
                }
            }
        }
        Answer::ok(extents)
    }
}

fn push(extents: &mut Vec<Extent>, len: u64, flags: u64) {
    match extents.last_mut() {
        Some(last) if last.flags == flags => last.len += len,
        _ => extents.push(Extent { len, flags }),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    fn now<T>(answer: Answer<T>) -> Result<T> {
        match answer {
            Answer::Now(result) => result,
            Answer::Later(mut future) => {
                match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => result,
                    Poll::Pending => panic!("memory never waits"),
                }
            }
        }
    }

    fn bytes_of(parts: &Parts) -> Vec<u8> {
        let bytes = parts.as_slice().iter().map(|part| match part {
            Part::Data(bytes) => bytes.to_vec(),
            Part::Hole(len) => vec![0; *len as usize],
        });
        bytes.collect::<Vec<_>>().concat()
    }

    const SIZE: u64 = 5 * CHUNK64 + 77;

    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, usize, u8),
        Clear(u64, u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        let at = prop_oneof![0..SIZE, (0..6u64).prop_map(|n| (n * CHUNK64).min(SIZE - 1))];
        let len = prop_oneof![1..SIZE, (1..5u64).prop_map(|n| n * CHUNK64)];
        (at, len, any::<u8>(), any::<bool>()).prop_map(|(at, len, byte, clear)| {
            let len = len.min(SIZE - at);
            if clear { Change::Clear(at, len) } else { Change::Write(at, len as usize, byte | 1) }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn memory_does_what_an_array_does(changes in prop::collection::vec(change(), 1..12)) {
            let memory = Memory::new(SIZE);
            let mut model = vec![0u8; SIZE as usize];
            let mut held = Vec::new();
            for change in changes {
                match change {
                    Change::Write(at, len, byte) => {
                        now(memory.write(at, Bytes::from(vec![byte; len]), false)).unwrap();
                        model[at as usize..at as usize + len].fill(byte);
                    }
                    Change::Clear(at, len) => {
                        now(memory.zero(at, len, Zeroing::default())).unwrap();
                        model[at as usize..(at + len) as usize].fill(0);
                    }
                }
                let parts = now(memory.read(0, SIZE as u32)).unwrap();
                prop_assert!(bytes_of(&parts) == model);
                held.push((parts, model.clone())); // what was read stays as it was read
                let extents = now(memory.block_status(0, 0, SIZE, false)).unwrap();
                prop_assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), SIZE);
                let mut at = 0;
                for extent in extents {
                    let range = at as usize..(at + extent.len) as usize;
                    prop_assert!(extent.flags == 0 || model[range].iter().all(|byte| *byte == 0));
                    at += extent.len;
                }
            }
            for (parts, expected) in held {
                prop_assert!(bytes_of(&parts) == expected);
            }
        }
    }

    #[test]
    fn holes_cost_nothing_however_large() {
        let memory = Memory::new(i64::MAX as u64);
        now(memory.zero(3, i64::MAX as u64 - 3, Zeroing::default())).unwrap();
        let extents = now(memory.block_status(0, 5, i64::MAX as u64 - 5, false)).unwrap();
        assert_eq!(extents, [Extent { len: i64::MAX as u64 - 5, flags: 3 }]);
        assert_eq!(memory.allocated(), 0);
    }

    #[test]
    fn a_full_store_says_so() {
        let memory = Memory::with_limit(1 << 20, 2 * CHUNK64);
        now(memory.write(0, Bytes::from(vec![1; 2 * CHUNK]), false)).unwrap();
        let error = now(memory.write(4 * CHUNK64, Bytes::from(vec![1; 1]), false)).unwrap_err();
        assert_eq!(error.kind(), Kind::Full);
        now(memory.write(0, Bytes::from(vec![2; 2 * CHUNK]), false)).unwrap();
    }
}
