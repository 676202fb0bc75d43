//! Streaming the contents of many files: every core opens chunks, and no chunk goes through the cache.
//!
//! whoever walks a tree -> files and their chunks, in order -> groups of neighbours in a pack, of whichever files -> openers -> taker
//!
//! Small files were put next to each other into packs as they were read. So a group takes chunks for as long as they lie next to each
//! other, and one get serves many files. What is under way is bounded: by the groups, and by how many pieces one may have.

use super::bulk::{GROUP_LEN, Group, open_group, openers_of, panicked};
use super::{Engine, Piece};
use crate::error::{Context, Error, Kind, Result};
use crate::format::ChunkId;
use crate::format::limits::CHUNK_LEN_MAX;
use crate::format::node::Child;
use crate::progress::Cancel;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;

/// No group has more pieces, as each may keep a file open.
const PIECES_MAX: usize = 64;
/// Chunks of one pack with no more than this between them are fetched together.
const GAP_MAX: u64 = 16 * 1024;

/// What becomes of the chunks, on several threads at once. `F` stands for a file; when all that was sent of it was taken, its last
/// clone is dropped on the thread that took it.
pub trait Taker<F>: Sync {
    /// A file that needs no chunk, or is to be seen before its chunks come.
    fn file(&self, file: &F) -> Result<()>;
    /// Whether the chunk is where it should be; it is then neither fetched nor handed over.
    fn has(&self, file: &F, offset: u64, len: u64, id: ChunkId) -> Result<bool>;
    /// The bytes of a chunk.
    fn data(&self, file: &F, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Nothing more comes of this file on this thread.
    fn done(&self, file: F) -> Result<()>;
    /// What people call it, for errors.
    fn name(&self, file: &F) -> String;
}

/// What is sent to the openers.
enum Load<F> {
    /// Files, to be seen.
    Files(Vec<F>),
    /// Chunks of files that lie next to each other.
    Chunks(Vec<Part<F>>),
}

/// A chunk of a file.
struct Part<F> {
    file: F,
    offset: u64,
    len: u64,
    child: Child,
}

/// Where the files of a tree and their chunks are sent, in order.
pub struct Stream<'a, F> {
    engine: &'a Arc<Engine>,
    cancel: &'a Cancel,
    to: Sender<Load<F>>,
    files: Vec<F>,
    parts: Vec<Part<F>>,
    len: u64,
}

/// Nobody takes any more: somebody else has the error.
fn given_up() -> Error {
    Error::new(Kind::Interrupted, "somebody else failed")
}

impl<F: Clone> Stream<'_, F> {
    /// Sends a file to be seen.
    pub fn file(&mut self, file: F) -> Result<()> {
        self.cancel.check()?;
        self.files.push(file);
        if self.files.len() >= PIECES_MAX { self.send_files() } else { Ok(()) }
    }

    /// Sends a chunk of a file.
    pub fn chunk(&mut self, file: &F, offset: u64, len: u64, child: Child) -> Result<()> {
        self.cancel.check()?;
        if len == 0 || len > CHUNK_LEN_MAX.into() {
            return Err(Error::new(Kind::Corrupt, format!("a chunk of a file has {len} bytes")));
        }
        if !self.is_neighbour(&child, len) {
            self.send_parts()?;
        }
        self.len += len;
        self.parts.push(Part { file: file.clone(), offset, len, child });
        Ok(())
    }

    fn is_neighbour(&self, child: &Child, len: u64) -> bool {
        let Some(last) = self.parts.last() else { return true };
        let (before, here) = (last.child.place, child.place);
        let gap = u64::from(here.offset).checked_sub(before.end());
        here.pack == before.pack
            && gap.is_some_and(|gap| gap <= GAP_MAX)
            && self.len + len <= GROUP_LEN
            && self.parts.len() < PIECES_MAX
    }

    fn send_parts(&mut self) -> Result<()> {
        self.len = 0;
        if self.parts.is_empty() {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        if let (Some(first), Some(last)) = (parts.first(), parts.last()) {
            let range = first.child.place.offset.into()..last.child.place.end();
            self.engine.repository()?.expect_sealed(first.child.place.pack, range);
        }
        self.to.send(Load::Chunks(parts)).map_err(|_| given_up())
    }

    fn send_files(&mut self) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        self.to.send(Load::Files(std::mem::take(&mut self.files))).map_err(|_| given_up())
    }
}

/// Has `walk` send files and chunks from this thread, and hands them to the taker on others. Not to be called on a worker of the runtime.
pub fn stream_files<F: Clone + Send>(
    engine: &Arc<Engine>,
    cancel: &Cancel,
    taker: &dyn Taker<F>,
    walk: impl FnOnce(&mut Stream<'_, F>) -> Result<()>,
) -> Result<()> {
    let openers = openers_of(engine, GROUP_LEN);
    let (to, from) = bounded::<Load<F>>(openers * 2);
    std::thread::scope(|scope| {
        let opened: Vec<_> = (0..openers)
            .map(|_| {
                let from = from.clone();
                scope.spawn(move || take_all(engine, cancel, &from, taker))
            })
            .collect();
        drop(from);
        let mut stream = Stream { engine, cancel, to, files: Vec::new(), parts: Vec::new(), len: 0 };
        let walked = walk(&mut stream).and_then(|()| stream.send_files()).and_then(|()| stream.send_parts());
        drop(stream);
        let opened = opened.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
        // All are waited for; the error of one who took comes before that of a walk which found nobody to take.
        let opened = opened.collect::<Vec<_>>().into_iter().collect::<Result<()>>();
        opened.and(walked)
    })
}

fn take_all<F>(
    engine: &Arc<Engine>,
    cancel: &Cancel,
    from: &Receiver<Load<F>>,
    taker: &dyn Taker<F>,
) -> Result<()> {
    let mut buffer = Vec::new();
    for load in from {
        cancel.check()?;
        match load {
            Load::Files(files) => {
                for file in files {
                    taker.file(&file)?;
                    taker.done(file)?;
                }
            }
            Load::Chunks(parts) => take_chunks(engine, parts, &mut buffer, taker)?,
        }
    }
    Ok(())
}

fn take_chunks<F>(
    engine: &Arc<Engine>,
    parts: Vec<Part<F>>,
    buffer: &mut Vec<u8>,
    taker: &dyn Taker<F>,
) -> Result<()> {
    // The pieces of a group lie one after the other in a buffer, whichever file they belong to.
    let mut group = Group { pieces: Vec::with_capacity(parts.len()), range: 0..0 };
    let mut missing = Vec::with_capacity(parts.len());
    for part in parts {
        if taker.has(&part.file, part.offset, part.len, part.child.id)? {
            taker.done(part.file)?;
            continue;
        }
        let here = group.range.end..group.range.end + part.len;
        group.range.end = here.end;
        group.pieces.push(Piece { range: here, child: Some(part.child) });
        missing.push(part);
    }
    if missing.is_empty() {
        return Ok(());
    }
    if let Err(error) = open_group(engine, &group, buffer) {
        return Err(blame(engine, &missing, buffer, taker).err().unwrap_or(error));
    }
    for (part, piece) in missing.into_iter().zip(&group.pieces) {
        taker.data(&part.file, part.offset, &buffer[piece.range.start as usize..piece.range.end as usize])?;
        taker.done(part.file)?;
    }
    Ok(())
}

/// Opens chunks one by one, to say which file it is that can't be read.
fn blame<F>(
    engine: &Arc<Engine>,
    parts: &[Part<F>],
    buffer: &mut Vec<u8>,
    taker: &dyn Taker<F>,
) -> Result<()> {
    for part in parts {
        let range = part.offset..part.offset + part.len;
        let piece = Piece { range: range.clone(), child: Some(part.child) };
        open_group(engine, &Group { pieces: vec![piece], range }, buffer)
            .context(|| taker.name(&part.file))?;
    }
    Ok(())
}
