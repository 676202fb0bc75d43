//! The first stage: a source becomes runs of whole chunks. Holes become nothing at all.
//!
//! Holds: every run begins on a chunk's boundary, and only the last one of an image ends elsewhere; a hole that covers only a part of a chunk is
//! filled with zeros. Each run goes with the pack that it is sealed for and with what the parent's map has there. The reader waits when no buffer
//! is free, which is what bounds a backup's memory.

use super::pipeline::{ItemPlan, ReadDone};
use crate::error::{Context, Error, Kind, Result};
use crate::format::node::Child;
use crate::format::{PackId, limits};
use crate::image::{Image, Leaf, Map, Stretch};
use crate::repo::packs::Assigned;
use crate::source::{Piece, Source};
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;

/// What the reader hands on.
pub(super) enum Work {
    /// Bytes to judge.
    Run(Run),
    /// So much is as in the parent.
    Same {
        /// From here on; a multiple of the chunk size.
        offset: u64,
        /// So many bytes: whole chunks, or up to the end of the image.
        len: u64,
    },
}

/// Whole chunks, except at the end of the image.
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) parent: Option<Leaves>,
}

/// What the parent has where a run lies.
pub(super) struct Leaves(Vec<Leaf>);

impl Leaves {
    /// Who holds the chunk at `offset`.
    pub(super) fn at(&self, offset: u64) -> Option<Child> {
        let leaf = self.0.iter().find(|leaf| leaf.range.contains(&offset))?;
        leaf.at(offset)?.child
    }
}

pub(super) struct Reader<'a> {
    plan: &'a ItemPlan<'a>,
    source: Box<dyn Source>,
    chunk: u64,
    run_len: usize,
    number: u64,
    bytes_read: u64,
    leaf: Option<Leaf>,
}

/// The way to the workers, and the buffers that come back.
struct Channels<'a> {
    assigned: &'a Assigned,
    buffers: Receiver<Vec<u8>>,
    work: Sender<(u64, PackId, Work)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        source: Box<dyn Source>,
        plan: &'a ItemPlan<'a>,
        chunk: usize,
        run_len: usize,
    ) -> Reader<'a> {
        Reader { plan, source, chunk: chunk as u64, run_len, number: 0, bytes_read: 0, leaf: None }
    }

    /// Reads to the end.
    pub(super) fn run(
        mut self,
        assigned: &Assigned,
        buffers: Receiver<Vec<u8>>,
        work: Sender<(u64, PackId, Work)>,
    ) -> Result<ReadDone> {
        let channels = Channels { assigned, buffers, work };
        let mut at = 0;
        loop {
            self.plan.cancel.check()?;
            let Some(mut bytes) = channels.buffers.recv().ok() else { break };
            bytes.resize(self.run_len, 0);
            let (filled, then) = self.fill(at, &mut bytes)?;
            bytes.truncate(filled);
            if filled > 0 {
                self.send_run(&channels, at, bytes)?;
            } else {
                // Nobody needed the buffer; it goes round again in a run of nothing.
                self.send(&channels, Work::Run(Run { offset: at, bytes, parent: None }));
            }
            at += filled as u64;
            match then {
                Then::More => {}
                Then::Skip(len) => {
                    self.plan.progress.add(len);
                    at += len;
                }
                Then::Same(len) => {
                    self.send(&channels, Work::Same { offset: at, len });
                    at += len;
                }
                Then::End => break,
            }
            if at > limits::IMAGE_LEN_MAX {
                return Err(Error::new(Kind::Source, "the source is larger than 8 EiB"));
            }
        }
        self.source.finish()?;
        let (facts, changed) = (self.source.facts().clone(), self.source.changed());
        Ok(ReadDone { size: at, bytes_read: self.bytes_read, facts, changed })
    }

    /// Fills a buffer from `at`, a multiple of the chunk size, with whole chunks as far as there is data; says what follows.
    fn fill(&mut self, at: u64, bytes: &mut [u8]) -> Result<(usize, Then)> {
        let mut filled = 0;
        while filled < bytes.len() {
            let here = at + filled as u64;
            match self.source.next(here, &mut bytes[filled..])? {
                Piece::Data(0) | Piece::Hole(0) | Piece::Same(0) => {
                    return Err(Error::new(
                        Kind::Source,
                        format!("the source makes no progress at byte {here}"),
                    ));
                }
                Piece::Data(len) => {
                    self.bytes_read += len as u64;
                    filled += len;
                }
                Piece::End => return Ok((filled, Then::End)),
                Piece::Hole(len) => {
                    let (inside, whole) = self.split(here, len, bytes.len() - filled);
                    bytes[filled..filled + inside].fill(0);
                    filled += inside;
                    if whole > 0 {
                        return Ok((filled, Then::Skip(whole)));
                    }
                }
                Piece::Same(len) => {
                    let (inside, whole) = self.split_same(here, len, bytes.len() - filled);
                    if inside > 0 {
                        self.copy_parent(here, &mut bytes[filled..filled + inside])?;
                        filled += inside;
                    }
                    if whole > 0 {
                        return Ok((filled, Then::Same(whole)));
                    }
                }
            }
        }
        Ok((filled, Then::More))
    }

    /// Of `len` bytes from `here`: how many complete the chunk that is begun (or are less than one), and how many then are whole
    /// chunks that need not be looked at.
    fn split(&self, here: u64, len: u64, room: usize) -> (usize, u64) {
        let to_boundary = (self.chunk - here % self.chunk) % self.chunk;
        let inside = to_boundary.min(len);
        let whole = (len - inside) / self.chunk * self.chunk;
        match (inside, whole) {
            (0, 0) => (usize::try_from(len).unwrap_or(room).min(room), 0),
            // OK: less than a chunk, and the room is a multiple of chunks from a boundary on.
            (inside, whole) => (inside as usize, whole),
        }
    }

    /// As `split`, but a piece that ends where both images end is whole, however short its last chunk.
    fn split_same(&self, here: u64, len: u64, room: usize) -> (usize, u64) {
        let to_the_end = self.plan.parent.is_some_and(|parent| parent.len == here + len)
            && self.source.facts().size == Some(here + len);
        let (inside, whole) = self.split(here, len, room);
        match to_the_end {
            true if here.is_multiple_of(self.chunk) => (0, len),
            true if whole > 0 => (inside, len - inside as u64),
            _ => (inside, whole),
        }
    }

    fn copy_parent(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let parent = self.plan.parent.filter(|parent| at + into.len() as u64 <= parent.len);
        let Some(parent) = parent else {
            return Err(Error::new(
                Kind::Source,
                format!("the source calls byte {at} unchanged, but its parent ends before"),
            ));
        };
        let image = Image::new(Arc::clone(self.plan.engine), parent);
        let bytes = self.plan.runtime.block_on(image.read_at(at, into.len()));
        into.copy_from_slice(&bytes.context(|| "read unchanged bytes from the parent")?);
        Ok(())
    }

    fn send_run(&mut self, channels: &Channels<'_>, offset: u64, bytes: Vec<u8>) -> Result<()> {
        let parent = match self.plan.parent {
            Some(parent) => Some(self.leaves(&parent, offset, bytes.len() as u64)?),
            None => None,
        };
        self.send(channels, Work::Run(Run { offset, bytes, parent }));
        Ok(())
    }

    fn send(&mut self, channels: &Channels<'_>, work: Work) {
        let item = (self.number, channels.assigned.current(), work);
        self.number += 1;
        // If nobody listens any more, whoever stopped has the error.
        let _stopped = channels.work.send(item);
    }

    /// The parent's leaves below a run. A parent that can't be read is worth a word, not a failed backup.
    fn leaves(&mut self, parent: &Map, offset: u64, len: u64) -> Result<Leaves> {
        let mut leaves = Vec::new();
        let mut at = offset;
        while at < (offset + len).min(parent.len) {
            let kept = self.leaf.as_ref().filter(|leaf| leaf.range.contains(&at));
            let leaf = match kept {
                Some(leaf) => leaf.clone(),
                None => match self.plan.runtime.block_on(parent.stretch(self.plan.engine, at)) {
                    Ok(Stretch::Leaf(leaf)) => leaf,
                    Ok(Stretch::Hole(range)) => {
                        at = range.end;
                        continue;
                    }
                    Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Missing) => {
                        tracing::warn!(
                            "{error}; what it describes of the parent is stored again unless found otherwise"
                        );
                        return Ok(Leaves(Vec::new()));
                    }
                    Err(error) => return Err(error),
                },
            };
            at = leaf.range.end;
            self.leaf = Some(leaf.clone());
            leaves.push(leaf);
        }
        Ok(Leaves(leaves))
    }
}

/// What follows the bytes of a run.
enum Then {
    /// Whatever the source says next.
    More,
    /// So many bytes of nothing.
    Skip(u64),
    /// So many bytes as in the parent.
    Same(u64),
    /// The end.
    End,
}
