//! One backup as an image: which chunks it has, and their bytes, proven.
//!
//! ```text
//! chunk -> digests of its blocks -> zeros? no id | id = SHA-256 of them: equal content of any backup of any container is one chunk in the cache
//! range -> pieces of the chain -> objects -> bytes -> each block held to its digest
//! ```
//!
//! A backup from before there were digests of blocks has one MD5 for each object: the object is read through once, and each later read is
//! held to what was found then.

mod own;

pub(super) use own::Own;

use super::catalogue::{Catalogue, Image as Made};
use super::chain::{Piece, resolve, touching};
use super::digests::{Digests, Opened, Pages, chunk_id};
use super::document::metadata::Object as Extent;
use super::document::names;
use super::draft::Draft;
use super::layers::{Layer, Layers, PIECE};
use super::stored::{LANE_MAX, Object, SPAN};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{BackupId, ChunkId};
use crate::image::Origin;
use crate::image::origin::Run;
use crate::seal::{Verified, digest};
use crate::store::{Fut, Name};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// How many indexes are read at once.
const AT_ONCE: usize = 8;
/// How many chunks are looked at in one go for where data or zeros end: at first, and at most.
const LOOK_FIRST: u64 = 40;
const LOOK_MAX: u64 = 1024;

/// A backup's image. What it is made of is found out when somebody first reads.
pub(super) struct Image {
    pub(super) layers: Arc<Layers>,
    pub(super) pages: Arc<Pages>,
    /// The backups that were there when it was opened.
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) backup: BackupId,
    pub(super) id: ChunkId,
    pub(super) len: u64,
    pub(super) chunk: u64,
    pub(super) open: OnceCell<Arc<Open>>,
}

/// What an image is made of.
pub(super) struct Open {
    pieces: Vec<Piece>,
    /// Newest first.
    layers: Vec<Arc<Layer>>,
    /// Their images' ids.
    ids: Vec<ChunkId>,
    digests: Option<Digests>,
}

impl Image {
    async fn opened(&self) -> Result<&Arc<Open>> {
        let what = || format!("open backup {}", super::document::Uuid::from(self.backup));
        self.open.get_or_try_init(|| self.open_it()).await.context(what)
    }

    async fn open_it(&self) -> Result<Arc<Open>> {
        let (mut drafts, mut ids, mut next) = (Vec::new(), Vec::new(), Some(self.backup));
        while let Some(id) = next {
            let known = self.catalogue.get(id).and_then(|known| Some((&known.draft, known.image?)));
            let (draft, Made { parent, id, .. }) = known
                .ok_or_else(|| Error::new(Kind::Missing, format!("backup {id} can't be read any more")))?;
            drafts.push(Arc::clone(draft));
            ids.push(id);
            next = parent.map(BackupId::from);
        }
        if ids.first() != Some(&self.id) {
            return Err(Error::new(Kind::Missing, "it has been replaced by another one"));
        }
        let mut layers = Vec::with_capacity(drafts.len());
        for some in drafts.chunks(AT_ONCE) {
            for layer in crate::repo::together(some.iter().map(|draft| self.layers.layer(draft))).await {
                layers.push(layer?);
            }
        }
        let objects: Vec<_> = layers.iter().map(|layer| layer.objects.as_slice()).collect();
        let pieces = resolve(&objects, self.len);
        let digests = match drafts.first() {
            None => None,
            Some(draft) => self.digests_in(draft, self.id, self.len).await?,
        };
        Ok(Arc::new(Open { pieces, layers, ids, digests }))
    }

    /// The digests that a backup of the chain has, if it has some; `id` and `size` are its image's.
    async fn digests_in(&self, draft: &Draft, id: ChunkId, size: u64) -> Result<Option<Digests>> {
        let Some((path, len)) = digests_of(draft) else { return Ok(None) };
        let name = Name::foreign(&names::hashes(path))?;
        let opened = Opened::open(&self.layers.store, &name, len).await?;
        let place = (self.layers.store.clone(), name);
        Digests::new(place, opened, Arc::clone(&self.pages), id, size).map(Some)
    }

    /// For threads that may wait.
    fn opened_here(&self) -> Result<Arc<Open>> {
        self.layers.runtime.block_on(self.opened()).cloned()
    }

    fn range_of(&self, numbers: &Range<u64>) -> Range<u64> {
        numbers.start.saturating_mul(self.chunk).min(self.len)
            ..numbers.end.saturating_mul(self.chunk).min(self.len)
    }

    /// The blocks of some chunks.
    fn blocks(&self, block: u64, numbers: &Range<u64>) -> Range<u64> {
        let range = self.range_of(numbers);
        range.start / block..range.end.div_ceil(block)
    }

    /// The ids of chunks, by the digests of their blocks.
    fn ids(&self, digests: &Digests, numbers: &Range<u64>, found: &[digest::Block]) -> Vec<Option<ChunkId>> {
        let per_chunk = (self.chunk / digests.block()).max(1);
        let first = numbers.start * per_chunk;
        let id = |(place, some): (u64, &[digest::Block])| {
            let block = first + place * per_chunk;
            let mut numbered = (block..).zip(some);
            let zeros = numbered.all(|(block, digest)| digests.is_zero(block, digest));
            (!zeros).then(|| chunk_id(some))
        };
        (0..).zip(found.chunks(per_chunk as usize)).map(id).collect()
    }

    /// The ids of chunks of which only whole objects have digests: they stand for a place.
    fn ids_by_place(&self, open: &Open, numbers: &Range<u64>) -> Vec<Option<ChunkId>> {
        let id = |number: u64| {
            let range = self.range_of(&(number..number + 1));
            let _piece = touching(&open.pieces, &range).next()?;
            let mut id = Sha256::new();
            id.update(self.id.0);
            id.update(number.to_le_bytes());
            Some(ChunkId(id.finalize().into()))
        };
        numbers.clone().map(id).collect()
    }

    /// The objects that hold a range, opened, with the piece that each has of it.
    fn objects<'a>(
        &self,
        open: &'a Open,
        range: &Range<u64>,
    ) -> impl Iterator<Item = Result<(&'a Piece, Arc<Object>, &'a Extent)>> {
        touching(&open.pieces, range).map(|piece| {
            let lost = || Error::new(Kind::Corrupt, "a piece of the image belongs to no object");
            let layer = open.layers.get(piece.layer as usize).ok_or_else(lost)?;
            let extent = layer.objects.get(piece.object as usize).ok_or_else(lost)?;
            let object = match self.layers.object_now(layer, extent) {
                Some(object) => object,
                None => self.layers.runtime.block_on(self.layers.object(layer, extent))?,
            };
            Ok((piece, object, extent))
        })
    }

    /// Fills `into` with what the objects have of a range. Proven only where each object has a digest of its own.
    fn gather(&self, open: &Open, range: &Range<u64>, into: &mut [u8], fresh: bool) -> Result<()> {
        into.fill(0);
        for found in self.objects(open, range) {
            let (piece, object, extent) = found?;
            let here = piece.start.max(range.start)..piece.end.min(range.end);
            let into = &mut into[(here.start - range.start) as usize..(here.end - range.start) as usize];
            let at = here.start - extent.offset;
            match open.digests {
                Some(_) => object.read(&self.layers.yard, at, into, fresh)?,
                None => self.read_proven(&object, extent, at, into)?,
            }
        }
        Ok(())
    }

    /// Reads a part of an object that has but one digest.
    fn read_proven(&self, object: &Object, extent: &Extent, at: u64, into: &mut [u8]) -> Result<()> {
        let proof = self.layers.proof(object, extent)?;
        let end = at + into.len() as u64;
        let whole = at / PIECE * PIECE..end.next_multiple_of(PIECE).min(extent.length);
        let mut bytes = vec![0; (whole.end - whole.start) as usize];
        object.read(&self.layers.yard, whole.start, &mut bytes, true)?;
        let pieces = (whole.start / PIECE) as usize..whole.end.div_ceil(PIECE) as usize;
        if digest::first_wrong(&bytes, PIECE as usize, proof.get(pieces).unwrap_or_default()).is_some() {
            let words = format!("{}: it has changed since it was read through", object.name());
            return Err(Error::new(Kind::Corrupt, words));
        }
        let from = (at - whole.start) as usize;
        into.copy_from_slice(&bytes[from..from + into.len()]);
        Ok(())
    }

    /// What is wrong with bytes of whole chunks, if anything is.
    fn judge(&self, open: &Open, range: &Range<u64>, bytes: &[u8], found: &[digest::Block]) -> Result<()> {
        let Some(digests) = &open.digests else { return Ok(()) };
        match digest::first_wrong(bytes, digests.block() as usize, found) {
            None => Ok(()),
            Some(number) => {
                let start = range.start + number as u64 * digests.block();
                Err(self.wrong(open, &(start..(start + digests.block()).min(self.len))))
            }
        }
    }

    /// A block that is not what it should be.
    fn wrong(&self, open: &Open, block: &Range<u64>) -> Error {
        let names: Vec<String> = touching(&open.pieces, block)
            .filter_map(|piece| {
                let layer = open.layers.get(piece.layer as usize)?;
                let extent = layer.objects.get(piece.object as usize)?;
                let at = block.start.max(extent.offset) - extent.offset;
                Some(format!("{} at {at}", names::data(&layer.path, extent.number)))
            })
            .collect();
        let whence = if names.is_empty() { "no object".to_owned() } else { names.join(", ") };
        let words = format!(
            "bytes {} to {} do not have the digest that Cinder wrote down; they are from {whence}",
            block.start, block.end
        );
        Error::new(Kind::Corrupt, words)
    }

    /// Fills `into` with whole chunks, proven. Places to begin at that other processes saved are given up before anything is called wrong.
    fn fill_whole(&self, open: &Open, range: &Range<u64>, into: &mut [u8], free: &dyn Fn()) -> Result<()> {
        let found = self.digests_of(open, range)?;
        let once = self.gather(open, range, into, false);
        free();
        match once.and_then(|()| self.judge(open, range, into, &found)) {
            Err(error) if error.kind() == Kind::Corrupt && self.distrust(open, range) => {
                self.gather(open, range, into, true)?;
                self.judge(open, range, into, &found)
            }
            judged => judged,
        }
    }

    /// Whether anything that was kept on this machine may have been at fault; it is not used again.
    fn distrust(&self, open: &Open, range: &Range<u64>) -> bool {
        let objects = self.objects(open, range).filter_map(Result::ok);
        objects.fold(false, |any, (_, object, _)| object.distrust() || any)
    }

    fn digests_of(&self, open: &Open, range: &Range<u64>) -> Result<Vec<digest::Block>> {
        let Some(digests) = &open.digests else { return Ok(Vec::new()) };
        let blocks = range.start / digests.block()..range.end.div_ceil(digests.block());
        match digests.now(blocks.clone()) {
            Some(found) => Ok(found),
            None => self.layers.runtime.block_on(digests.get(blocks)),
        }
    }

    fn fetch_all(&self, numbers: &Range<u64>) -> Result<Vec<Verified>> {
        let (open, range) = (self.opened_here()?, self.range_of(numbers));
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let found = self.digests_of(&open, &range)?;
        self.gather(&open, &range, &mut bytes, false)?;
        let (bytes, per_chunk) = (Bytes::from(bytes), self.chunk as usize);
        let chunk = |start: usize| {
            let bytes = bytes.slice(start..bytes.len().min(start + per_chunk));
            let Some(digests) = &open.digests else {
                // Held to its object's pieces a moment ago.
                let digest = digest::of(&bytes);
                return digest::verify(bytes.clone(), bytes.len(), &[digest]);
            };
            let block = digests.block() as usize;
            let blocks = start / block..(start + bytes.len()).div_ceil(block);
            digest::verify(bytes, block, found.get(blocks).unwrap_or_default())
        };
        let chunks = (0..bytes.len()).step_by(per_chunk.max(1)).map(chunk).collect::<Result<Vec<_>, _>>();
        chunks.map_err(|_number| Error::new(Kind::Corrupt, "a chunk is not what it should be"))
    }

    fn fetch_one(&self, number: u64) -> Result<Verified> {
        let (open, range) = (self.opened_here()?, self.range_of(&(number..number + 1)));
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.fill_whole(&open, &range, &mut bytes, &|| {})?;
        let found = self.digests_of(&open, &range)?;
        let (bytes, block) =
            (Bytes::from(bytes), open.digests.as_ref().map(|digests| digests.block() as usize));
        let verified = match block {
            Some(block) => digest::verify(bytes, block, &found),
            None => digest::verify(bytes.clone(), bytes.len(), &[digest::of(&bytes)]),
        };
        verified.map_err(|_number| self.wrong(&open, &range))
    }

    async fn ids_of(&self, numbers: &Range<u64>) -> Result<Vec<Option<ChunkId>>> {
        let open = self.opened().await?;
        let Some(digests) = &open.digests else { return Ok(self.ids_by_place(open, numbers)) };
        let found = digests.get(self.blocks(digests.block(), numbers)).await?;
        Ok(self.ids(digests, numbers, &found))
    }

    /// How far what stands at `offset` goes: zeros, or data.
    async fn kind_at(&self, offset: u64, limit: u64, most: u64) -> Result<(u64, bool)> {
        let last = limit.min(self.len).div_ceil(self.chunk);
        let (mut number, mut kind, mut look) = (offset / self.chunk, None, LOOK_FIRST);
        while number < last {
            let some = number..(number + look).min(last);
            look = (look * 2).min(LOOK_MAX);
            let ids = self.ids_of(&some).await?;
            for id in ids {
                let data = id.is_some();
                let is_long = data && (number * self.chunk).saturating_sub(offset) >= most;
                if is_long || kind.is_some_and(|kind| kind != data) {
                    return Ok((number * self.chunk, kind.unwrap_or(data)));
                }
                kind = Some(data);
                number += 1;
            }
        }
        Ok((limit.min(self.len), kind.unwrap_or(false)))
    }

    /// Where a run of data has to end, and its stream: several small objects are read in one go, a large one a part at a time.
    async fn cut(&self, open: &Open, offset: u64, end: u64) -> (u64, Option<u64>) {
        let extent_of = |piece: &Piece| {
            let layer = open.layers.get(piece.layer as usize)?;
            layer.objects.get(piece.object as usize).map(|extent| (layer, extent))
        };
        let large = |piece: &&Piece| extent_of(piece).is_some_and(|(_, extent)| extent.length > SPAN);
        let Some(piece) = touching(&open.pieces, &(offset..end)).find(large) else { return (end, None) };
        let Some((layer, extent)) = extent_of(piece) else { return (end, None) };
        if piece.start > offset {
            // The next run begins with it.
            let before = piece.start / self.chunk * self.chunk;
            return (if before > offset { before } else { (offset + self.chunk).min(end) }, None);
        }
        let inside = offset - extent.offset;
        let number = u64::from(piece.layer) << 32 | u64::from(piece.object);
        // One that is not there is told of when it is read.
        let (lane_end, stream) = match self.layers.object(layer, extent).await {
            Ok(object) => (object.lane_end(inside), (!object.is_near(inside)).then_some(number)),
            Err(_) => (inside + SPAN, Some(number)),
        };
        let until = (extent.offset + lane_end).min(piece.end).next_multiple_of(self.chunk);
        (until.max(offset + 1).min(end), stream)
    }
}

/// Where the digests of a backup lie, if it has some: before which suffix, and how long their document is.
fn digests_of(draft: &Draft) -> Option<(&str, u64)> {
    let has_some = draft.says.as_ref().is_ok_and(|facts| facts.digests.is_some());
    has_some.then_some((draft.found.path.as_str(), draft.found.hashes?.len))
}

impl Origin for Image {
    fn len(&self) -> u64 {
        self.len
    }

    fn id(&self) -> ChunkId {
        self.id
    }

    fn chunk_len(&self) -> u64 {
        self.chunk
    }

    fn chunks_now(&self, numbers: Range<u64>) -> Option<Vec<Option<ChunkId>>> {
        let open = self.open.get()?;
        let Some(digests) = &open.digests else { return Some(self.ids_by_place(open, &numbers)) };
        let found = digests.now(self.blocks(digests.block(), &numbers))?;
        Some(self.ids(digests, &numbers, &found))
    }

    fn chunks<'a>(&'a self, numbers: Range<u64>) -> Fut<'a, Vec<Option<ChunkId>>> {
        Box::pin(async move { self.ids_of(&numbers).await })
    }

    fn run<'a>(&'a self, offset: u64, limit: u64) -> Fut<'a, Run> {
        Box::pin(async move {
            let (end, data) = self.kind_at(offset, limit, LANE_MAX).await?;
            let end = end.min(limit);
            if !data {
                return Ok(Run { range: offset..end, data, stream: None });
            }
            let (end, stream) = self.cut(self.opened().await?, offset, end).await;
            Ok(Run { range: offset..end, data, stream })
        })
    }

    fn fetch(&self, numbers: Range<u64>) -> Vec<Result<Verified>> {
        match self.fetch_all(&numbers) {
            Ok(chunks) => chunks.into_iter().map(Ok).collect(),
            // What is wrong with one of them is no reason to blame the others.
            Err(error) if error.kind() == Kind::Corrupt => {
                numbers.map(|number| self.fetch_one(number)).collect()
            }
            Err(error) => numbers.map(|_| Err(error.clone())).collect(),
        }
    }

    fn fill(&self, offset: u64, into: &mut [u8], free: &dyn Fn()) -> Result<()> {
        let open = self.opened_here()?;
        let end = offset + into.len() as u64;
        let whole = self.range_of(&(offset / self.chunk..end.div_ceil(self.chunk)));
        if whole == (offset..end) {
            return self.fill_whole(&open, &whole, into, free);
        }
        let mut bytes = vec![0; (whole.end - whole.start) as usize];
        self.fill_whole(&open, &whole, &mut bytes, free)?;
        let from = (offset - whole.start) as usize;
        into.copy_from_slice(&bytes[from..from + into.len()]);
        Ok(())
    }

    fn is_chunk(&self, id: ChunkId, bytes: &[u8]) -> bool {
        let Some(digests) = self.open.get().and_then(|open| open.digests.as_ref()) else { return false };
        let found: Vec<digest::Block> = bytes.chunks(digests.block() as usize).map(digest::of).collect();
        chunk_id(&found) == id
    }

    fn changed_since<'a>(&'a self, other: ChunkId) -> Fut<'a, Option<Vec<Range<u64>>>> {
        Box::pin(async move {
            let open = self.opened().await?;
            let Some(newer) = open.ids.iter().position(|id| *id == other) else { return Ok(None) };
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for piece in open.pieces.iter().filter(|piece| (piece.layer as usize) < newer) {
                match ranges.last_mut().filter(|last| last.end == piece.start) {
                    Some(last) => last.end = piece.end,
                    None => ranges.push(piece.start..piece.end),
                }
            }
            Ok(Some(ranges))
        })
    }

    fn stream_of(&self, offset: u64) -> Option<u64> {
        let open = self.open.get()?;
        let piece = touching(&open.pieces, &(offset..offset + 1)).next()?;
        Some(u64::from(piece.layer) << 32 | u64::from(piece.object))
    }
}
