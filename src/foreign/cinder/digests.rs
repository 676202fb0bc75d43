//! The digests of an image's blocks, a page of them at a time: so many as there are would not fit into memory for a large volume.

use super::document::hashes::{Frame, Hashes, Head, Sha256};
use super::document::limits;
use crate::error::{Context, Error, Kind, Result};
use crate::format::ChunkId;
use crate::image::cache::{ChunkCache, Hint};
use crate::seal::digest;
use crate::store::{AnyStore, Name};
use sha2::Digest as _;
use std::ops::Range;
use std::sync::Arc;

/// Digests of one page: they speak for 64 MiB, where blocks have the size that Cinder gives them.
const PAGE: u64 = 2048;

/// In place of a digest that can't be read: nothing has it, so the block that it should speak for is found wrong, and no other.
const OF_NOTHING: Sha256 = [0; 32];

/// A page of digests, and whose it is.
pub(super) type Pages = ChunkCache<(ChunkId, u64), Arc<[Sha256]>>;

/// What a `_sha256file` says of itself, and where its digests lie.
pub(super) enum Opened {
    /// Laid out as Cinder does: they are read as they are needed.
    Framed(Frame),
    /// Otherwise: all of them.
    Whole(Hashes),
}

impl Opened {
    /// Opens a document of that length.
    pub(super) async fn open(store: &AnyStore, name: &Name, len: u64) -> Result<Opened> {
        let head = store.get(name, 0..len.min(limits::HASHES_HEAD_MAX as u64)).await?;
        let tail_from = len.saturating_sub(limits::HASHES_TAIL_MAX as u64);
        let tail = match len <= head.len() as u64 {
            true => head.slice(tail_from as usize..),
            false => store.get(name, tail_from..len).await?,
        };
        if let Some(frame) = Frame::of(&head, &tail, len) {
            return Ok(Opened::Framed(frame?));
        }
        if len > limits::HASHES_LEN_MAX {
            return Err(super::document::Refused::Layout.into());
        }
        let whole = store.get_whole(name, limits::HASHES_LEN_MAX).await?;
        Ok(Opened::Whole(Hashes::parse(&whole)?))
    }

    pub(super) fn head(&self) -> &Head {
        match self {
            Opened::Framed(frame) => &frame.head,
            Opened::Whole(hashes) => &hashes.head,
        }
    }

    pub(super) fn count(&self) -> u64 {
        match self {
            Opened::Framed(frame) => frame.count,
            Opened::Whole(hashes) => hashes.sha256s.len() as u64,
        }
    }
}

/// The digests of one image.
pub(super) struct Digests {
    store: AnyStore,
    name: Name,
    opened: Opened,
    pages: Arc<Pages>,
    /// What stands for the image, among the pages.
    id: ChunkId,
    size: u64,
    /// What a block of zeros has, and the last one of them, which may be shorter.
    zeros: [Sha256; 2],
}

impl Digests {
    /// Those of an image of that size. There has to be one for each block.
    pub(super) fn new(
        (store, name): (AnyStore, Name),
        opened: Opened,
        pages: Arc<Pages>,
        id: ChunkId,
        size: u64,
    ) -> Result<Digests> {
        let block = opened.head().block;
        let wanted = size.div_ceil(block);
        if opened.count() != wanted {
            return Err(super::document::Refused::Digests { found: opened.count(), wanted }.into());
        }
        let short = if size.is_multiple_of(block) { block } else { size % block };
        let zeros = [block, short].map(|len| digest::of(&vec![0; len as usize]));
        Ok(Digests { store, name, opened, pages, id, size, zeros })
    }

    /// Whether there is one of just this block: as long, and as many bytes of an image.
    pub(super) fn speaks_of(&self, number: u64, block: u64, range: &Range<u64>) -> bool {
        self.block() == block && self.size.min((number + 1) * block) == range.end
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.opened.count()
    }

    /// How many bytes each speaks for.
    pub(super) fn block(&self) -> u64 {
        self.opened.head().block
    }

    /// The digests of some blocks, if they are in memory. Never waits.
    pub(super) fn now(&self, blocks: Range<u64>) -> Option<Vec<Sha256>> {
        let mut found = Vec::with_capacity((blocks.end - blocks.start) as usize);
        let mut at = blocks.start;
        while at < blocks.end {
            let page = self.page_now(at / PAGE)?;
            at = copy(&page, at, blocks.end, &mut found)?;
        }
        Some(found)
    }

    /// The digests of some blocks.
    pub(super) async fn get(&self, blocks: Range<u64>) -> Result<Vec<Sha256>> {
        let mut found = Vec::with_capacity((blocks.end - blocks.start) as usize);
        let mut at = blocks.start;
        while at < blocks.end {
            let page = match self.page_now(at / PAGE) {
                Some(page) => page,
                None => self.read_page(at / PAGE).await?,
            };
            let few = || Error::new(Kind::Corrupt, format!("{}: it has no digest of block {at}", self.name));
            at = copy(&page, at, blocks.end, &mut found).ok_or_else(few)?;
        }
        Ok(found)
    }

    fn page_now(&self, page: u64) -> Option<Arc<[Sha256]>> {
        match &self.opened {
            Opened::Framed(_) => self.pages.get(&(self.id, page), Hint::Demand),
            Opened::Whole(hashes) => {
                let from = usize::try_from(page * PAGE).ok()?;
                let all = &hashes.sha256s;
                all.get(from..all.len().min(from + PAGE as usize)).map(Arc::from)
            }
        }
    }

    async fn read_page(&self, page: u64) -> Result<Arc<[Sha256]>> {
        let Opened::Framed(frame) = &self.opened else {
            return Err(Error::new(Kind::Corrupt, format!("{}: it has no such digests", self.name)));
        };
        let what = || format!("read {}/{}", self.store.place(), self.name);
        let range = frame.range(&(page * PAGE..(page + 1) * PAGE));
        let bytes = self.store.get(&self.name, range).await.context(what)?;
        let digests: Arc<[Sha256]> =
            Frame::parse_each(&bytes).map(|digest| digest.unwrap_or(OF_NOTHING)).collect();
        self.pages.insert((self.id, page), Arc::clone(&digests), digests.len() * 32, Hint::Demand);
        Ok(digests)
    }

    /// Whether a block with this digest is nothing but zeros.
    pub(super) fn is_zero(&self, block: u64, digest: &Sha256) -> bool {
        let is_last = (block + 1).saturating_mul(self.block()) >= self.size;
        self.zeros[usize::from(is_last)] == *digest
    }
}

/// Copies what a page has of the blocks from `at` on; where that ends.
fn copy(page: &[Sha256], at: u64, end: u64, into: &mut Vec<Sha256>) -> Option<u64> {
    let from = (at % PAGE) as usize;
    let to = page.len().min(from + (end - at) as usize);
    into.extend(page.get(from..to).filter(|some| !some.is_empty())?);
    Some(at + (to - from) as u64)
}

/// What stands for a chunk, by the digests of its blocks.
pub(super) fn chunk_id(digests: &[Sha256]) -> ChunkId {
    let mut state = sha2::Sha256::new();
    digests.iter().for_each(|digest| state.update(digest));
    ChunkId(state.finalize().into())
}
