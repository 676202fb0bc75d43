//! The digests of all blocks of an image, in a file: there may be more of them than there is memory.

use super::pieces::PIECE;
use super::{BLOCK, Place};
use crate::error::{Context, Error, Kind, Result};
use crate::foreign::cinder::document::hashes::{Frame, Hashes, Head, Sha256};
use crate::foreign::cinder::document::{limits, names};
use sha2::{Digest as _, Sha256 as Hasher};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

const LEN: usize = 32;
/// Digests that are read or written at once.
const STEP: u64 = 8192;

/// One digest a block.
pub(super) struct Digests {
    file: File,
    count: u64,
}

/// The digests of the blocks of a piece.
pub(super) fn of_blocks(bytes: &[u8], is_plain_zero: bool) -> Vec<Sha256> {
    if is_plain_zero {
        return vec![of_zeros(); PIECE / BLOCK as usize];
    }
    bytes.chunks(BLOCK as usize).map(|block| Hasher::digest(block).into()).collect()
}

fn of_zeros() -> Sha256 {
    static DIGEST: OnceLock<Sha256> = OnceLock::new();
    *DIGEST.get_or_init(|| Hasher::digest([0; BLOCK as usize]).into())
}

impl Digests {
    /// Of an image that is all zero; a short last block is the caller's to put.
    pub(super) fn of_zeros(file: File, len: u64) -> Result<Digests> {
        let mut digests = Digests { file, count: len.div_ceil(BLOCK) };
        // OK: no more than a step.
        digests.fill(|some| Ok(vec![of_zeros(); (some.end - some.start) as usize]))?;
        Ok(digests)
    }

    /// Those of a backup that lies in the container, of an image of `len` bytes.
    pub(super) fn of_container(file: File, root: &Path, place: &Place, len: u64) -> Result<Digests> {
        let path = root.join(&place.container).join(names::hashes(&place.prefix));
        let what = || format!("read the digests of the parent, {}", path.display());
        let source = Source::open(&path).context(what)?;
        let mut digests = Digests { file, count: len.div_ceil(BLOCK) };
        if source.head().block != BLOCK || source.count() != digests.count {
            let (found, block) = (source.count(), source.head().block);
            let words = format!(
                "{}: it has {found} blocks of {block} bytes, not {} of {BLOCK}",
                what(),
                digests.count
            );
            return Err(Error::new(Kind::Refused, words).hint("export without --chain"));
        }
        digests.fill(|some| source.read(some)).context(what)?;
        Ok(digests)
    }

    fn fill(&mut self, give: impl Fn(Range<u64>) -> Result<Vec<Sha256>>) -> Result<()> {
        let mut at = 0;
        while at < self.count {
            let some = at..self.count.min(at + STEP);
            self.put(at * BLOCK, &give(some.clone())?)?;
            at = some.end;
        }
        Ok(())
    }

    /// Puts the digests of the blocks from `offset` on, which is a block's beginning.
    pub(super) fn put(&mut self, offset: u64, blocks: &[Sha256]) -> Result<()> {
        let at = offset / BLOCK * LEN as u64;
        self.file.write_all_at(blocks.as_flattened(), at).context(|| "note the digests of blocks")
    }

    /// The digests of so many blocks from `offset` on.
    pub(super) fn get(&self, offset: u64, count: usize) -> Result<Vec<Sha256>> {
        let mut blocks = vec![[0; LEN]; count];
        let at = offset / BLOCK * LEN as u64;
        self.file.read_exact_at(blocks.as_flattened_mut(), at).context(|| "look up the digests of blocks")?;
        Ok(blocks)
    }

    /// Writes them as a `_sha256file`.
    pub(super) fn write(&self, head: &Head, to: &mut dyn Write) -> Result<()> {
        let what = || "write the digests";
        let around = head.around(self.count)?;
        to.write_all(&around.before).context(what)?;
        let mut at = 0;
        while at < self.count {
            let some = self.count.min(at + STEP) - at;
            // OK: no more than a step.
            let lines = Head::lines(&self.get(at * BLOCK, some as usize)?, at + some == self.count);
            to.write_all(&lines).context(what)?;
            at += some;
        }
        to.write_all(&around.behind).context(what)
    }
}

/// A `_sha256file` that is read: by range where it is laid out as Cinder does, else as a whole.
enum Source {
    Framed(File, Frame),
    Whole(Hashes),
}

impl Source {
    fn open(path: &Path) -> Result<Source> {
        let file = File::open(path).context(|| "open it")?;
        let len = file.metadata().context(|| "look at it")?.len();
        let part = |from: u64, to: u64| {
            // OK: no longer than the limits of heads and tails, or than a file that is read as a whole.
            let mut bytes = vec![0; (to - from) as usize];
            file.read_exact_at(&mut bytes, from).context(|| "read it")?;
            Ok::<_, Error>(bytes)
        };
        let first = part(0, len.min(limits::HASHES_HEAD_MAX as u64))?;
        let last = part(len.saturating_sub(limits::HASHES_TAIL_MAX as u64), len)?;
        if let Some(frame) = Frame::of(&first, &last, len) {
            let frame = frame?;
            return Ok(Source::Framed(file, frame));
        }
        if len > limits::HASHES_LEN_MAX {
            return Err(Error::new(
                Kind::Unsupported,
                "it is laid out otherwise than Cinder does, and too long to be read whole",
            ));
        }
        Ok(Source::Whole(Hashes::parse(&part(0, len)?)?))
    }

    fn head(&self) -> &Head {
        match self {
            Source::Framed(_, frame) => &frame.head,
            Source::Whole(hashes) => &hashes.head,
        }
    }

    fn count(&self) -> u64 {
        match self {
            Source::Framed(_, frame) => frame.count,
            Source::Whole(hashes) => hashes.sha256s.len() as u64,
        }
    }

    fn read(&self, blocks: Range<u64>) -> Result<Vec<Sha256>> {
        match self {
            Source::Framed(file, frame) => {
                let range = frame.range(&blocks);
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start).context(|| "read it")?;
                Ok(Frame::parse(&bytes)?)
            }
            Source::Whole(hashes) => Ok(hashes.sha256s[blocks.start as usize..blocks.end as usize].to_vec()),
        }
    }
}
