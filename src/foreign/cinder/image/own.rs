//! What a check asks of an image: each of the backup's own objects, held to the backup's own digests, and what of an image lies in an object.

use super::{Image, Open, touching};
use crate::error::{Kind, Result};
use crate::foreign::cinder::chain::Piece;
use crate::foreign::cinder::digests::Digests;
use crate::foreign::cinder::document::metadata::Object as Extent;
use crate::foreign::cinder::document::names;
use crate::foreign::cinder::layers::Layer;
use crate::foreign::cinder::stored::{Object, SPAN};
use crate::format::BackupId;
use crate::progress::{Cancel, Progress};
use crate::seal::digest;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

/// So many digests are looked at in one go.
const BLOCKS_AT_ONCE: u64 = 2048;

/// Bytes of the image that are not what they were, and why.
pub(in crate::foreign::cinder) type Wrong = (Range<u64>, String);

/// One of a backup's own objects, which a check looks at.
#[derive(Clone, Default)]
pub(in crate::foreign::cinder) struct Own(Option<(Arc<Layer>, u32)>);

impl Own {
    fn extent(&self) -> Option<(&Arc<Layer>, &Extent)> {
        let (layer, object) = self.0.as_ref()?;
        Some((layer, layer.objects.get(*object as usize)?))
    }

    /// How many bytes of the image it holds.
    pub(in crate::foreign::cinder) fn len(&self) -> u64 {
        self.extent().map_or(0, |(_, extent)| extent.length)
    }

    /// Whether it stands for no object.
    pub(in crate::foreign::cinder) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Its name.
    pub(in crate::foreign::cinder) fn name(&self) -> Option<String> {
        self.extent().map(|(layer, extent)| names::data(&layer.path, extent.number))
    }
}

impl Image {
    /// The backup's own objects.
    pub(in crate::foreign::cinder) fn own(&self) -> Result<Vec<Own>> {
        let open = self.opened_here()?;
        let Some(layer) = open.layers.first() else { return Ok(Vec::new()) };
        Ok((0u32..).zip(&layer.objects).map(|(number, _)| Own(Some((Arc::clone(layer), number)))).collect())
    }

    /// What is wrong with an own object: which bytes of the image, and why. Without reading it, whether it is there is all that is asked.
    pub(in crate::foreign::cinder) fn check_own(
        &self,
        own: &Own,
        read: bool,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Wrong>> {
        let (open, Some((layer, extent))) = (self.opened_here()?, own.extent()) else {
            return Ok(Vec::new());
        };
        let object = match self.layers.runtime.block_on(self.layers.object(layer, extent)) {
            Ok(object) => object,
            Err(error) => return Ok(wrong(Err(error), &extent.range())?.into_iter().collect()),
        };
        if !read {
            return Ok(Vec::new());
        }
        let Some(digests) = &open.digests else {
            let proof = self.layers.proof(&object, extent).map(drop);
            progress.add(extent.length);
            return Ok(wrong(proof, &extent.range())?.into_iter().collect());
        };
        let (block, mut found) = (digests.block(), Vec::new());
        let (mut at, mut buffer) = (extent.offset, Vec::new());
        while at < extent.end() {
            cancel.check()?;
            let end = step_end(at, block).min(extent.end());
            buffer.resize((end - at) as usize, 0);
            let range = at..end;
            found.extend(self.check_run(digests, &object, extent.offset, &range, &mut buffer)?);
            progress.add(end - at);
            at = end;
        }
        if found.is_empty() {
            let last = extent.end().saturating_sub(block).max(extent.offset)..extent.end();
            found.extend(wrong(object.ends_as_it_should(&self.layers.yard), &last)?);
        }
        join(&mut found);
        Ok(found)
    }

    /// What is wrong with the digests of what is not in its own objects: those of what an earlier backup wrote have to be that one's, whose
    /// bytes are held to them; those of what nobody wrote have to be of zeros. Where they are not, the bytes decide which of the two is wrong. Of a
    /// block that several wrote parts of, nothing is told.
    pub(in crate::foreign::cinder) fn check_inherited(&self, cancel: &Cancel) -> Result<Vec<Wrong>> {
        let open = self.opened_here()?;
        let Some(digests) = &open.digests else { return Ok(Vec::new()) };
        let (block, runtime) = (digests.block(), &self.layers.runtime);
        let (count, mut at, mut all) = (self.len.div_ceil(block), 0, Vec::new());
        let mut earlier = BTreeMap::new();
        while at < count {
            cancel.check()?;
            let blocks = at..count.min(at + BLOCKS_AT_ONCE);
            at = blocks.end;
            let found = match runtime.block_on(digests.get(blocks.clone())) {
                Ok(found) => found,
                Err(error) => {
                    all.extend(wrong(Err(error), &(blocks.start * block..self.len.min(blocks.end * block)))?);
                    continue;
                }
            };
            let mut here = BTreeMap::new();
            for (number, digest) in blocks.clone().zip(&found) {
                let range = number * block..self.len.min((number + 1) * block);
                let (first, second) = {
                    let mut pieces = touching(&open.pieces, &range);
                    (pieces.next(), pieces.next())
                };
                let is_right = match (first, second) {
                    (None, _) => digests.is_zero(number, digest),
                    (Some(piece), None) if piece.layer > 0 && covers(piece, &range) => {
                        let theirs = match earlier.entry(piece.layer) {
                            Entry::Occupied(known) => known.into_mut(),
                            Entry::Vacant(free) => {
                                free.insert(runtime.block_on(self.earlier_digests(piece.layer))?)
                            }
                        };
                        let theirs = theirs.as_ref().filter(|theirs| theirs.speaks_of(number, block, &range));
                        let run = match (here.entry(piece.layer), theirs) {
                            (_, None) => None,
                            (Entry::Occupied(known), Some(_)) => Some(known.into_mut()),
                            (Entry::Vacant(free), Some(theirs)) => {
                                let run = blocks.start..blocks.end.min(theirs.count());
                                match runtime.block_on(theirs.get(run)) {
                                    // It is blamed for that itself.
                                    Err(error) if error.kind() == Kind::Corrupt => {
                                        Some(free.insert(Vec::new()))
                                    }
                                    run => Some(free.insert(run?)),
                                }
                            }
                        };
                        let theirs = run.and_then(|run| run.get((number - blocks.start) as usize));
                        theirs.is_none_or(|theirs| theirs == digest)
                            || self.has_there(&open, &range, digest)?
                    }
                    _ => true,
                };
                if !is_right {
                    all.push((range, "its digest is not that of what is there".to_owned()));
                }
            }
            join(&mut all);
        }
        Ok(all)
    }

    /// Whether the bytes of a block have this digest. Where they can't be read, somebody else is blamed.
    fn has_there(&self, open: &Open, range: &Range<u64>, wanted: &digest::Block) -> Result<bool> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match self.gather(open, range, &mut bytes, true) {
            Ok(()) => Ok(digest::of(&bytes) == *wanted),
            Err(error) if error.kind() == Kind::Corrupt => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The digests of a backup that this one rests on, so many before it; nothing, where there are none.
    async fn earlier_digests(&self, layer: u32) -> Result<Option<Digests>> {
        let mut id = self.backup;
        for _ in 0..layer {
            let parent = self.catalogue.get(id).and_then(|known| known.image?.parent);
            let Some(parent) = parent else { return Ok(None) };
            id = BackupId::from(parent);
        }
        let known = self.catalogue.get(id).and_then(|known| Some((known, known.image?)));
        let Some((known, image)) = known else { return Ok(None) };
        match self.digests_in(&known.draft, image.id, image.size).await {
            // It is blamed for that itself.
            Err(error) if error.kind() == Kind::Corrupt => Ok(None),
            found => found,
        }
    }

    /// Reads a part of an own object, and holds the blocks that lie in it to their digests.
    fn check_run(
        &self,
        digests: &Digests,
        object: &Object,
        offset: u64,
        range: &Range<u64>,
        buffer: &mut [u8],
    ) -> Result<Vec<Wrong>> {
        let block = digests.block();
        let (at, yard) = (range.start - offset, &self.layers.yard);
        let mut read = object.read(yard, at, buffer, false);
        if read.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt) && object.distrust() {
            read = object.read(yard, at, buffer, true);
        }
        if read.is_err() {
            return Ok(wrong(read, range)?.into_iter().collect());
        }
        // A block that lies in two objects belongs to neither.
        let blocks = range.start.div_ceil(block)..if range.end == self.len {
            range.end.div_ceil(block)
        } else {
            range.end / block
        };
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        let found = match self.layers.runtime.block_on(digests.get(blocks.clone())) {
            Ok(found) => found,
            Err(error) => return Ok(wrong(Err(error), range)?.into_iter().collect()),
        };
        let skip = (blocks.start * block - range.start) as usize;
        let mut all = Vec::new();
        for (number, (bytes, digest)) in
            (blocks.start..).zip(buffer[skip..].chunks(block as usize).zip(&found))
        {
            if digest::of(bytes) != *digest {
                let start = number * block;
                let why = "it does not have the digest that Cinder wrote down".to_owned();
                all.push((start..start + bytes.len() as u64, why));
            }
        }
        Ok(all)
    }

    /// Which bytes of this image lie in a part of an object, which stands at `range` in the image of the backup that wrote it.
    pub(in crate::foreign::cinder) fn has_of(
        &self,
        own: &Own,
        range: &Range<u64>,
    ) -> Result<Vec<Range<u64>>> {
        let (open, Some((layer, extent))) = (self.opened_here()?, own.extent()) else {
            return Ok(Vec::new());
        };
        let is_it = |piece: &&Piece| {
            let found = open.layers.get(piece.layer as usize);
            found.is_some_and(|found| {
                let object = found.objects.get(piece.object as usize);
                found.path == layer.path && object.is_some_and(|object| object.number == extent.number)
            })
        };
        let cut = |piece: &Piece| piece.start.max(range.start)..piece.end.min(range.end);
        Ok(touching(&open.pieces, range).filter(is_it).map(cut).collect())
    }
}

fn covers(piece: &Piece, range: &Range<u64>) -> bool {
    piece.start <= range.start && piece.end >= range.end
}

/// Neighbours with one reason as one.
fn join(found: &mut Vec<Wrong>) {
    found.dedup_by(|next, before| {
        let same = before.0.end == next.0.start && before.1 == next.1;
        if same {
            before.0.end = next.0.end;
        }
        same
    });
}

/// What was found wrong, if that is what an error says.
fn wrong(judged: Result<()>, range: &Range<u64>) -> Result<Option<Wrong>> {
    match judged {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == Kind::Corrupt => Ok(Some((range.clone(), error.to_string()))),
        Err(error) => Err(error),
    }
}

/// How far is read at once from `at` on: to the end of a block, and at least of one.
fn step_end(at: u64, block: u64) -> u64 {
    (at + SPAN.max(block)) / block * block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_read_whole_however_long_blocks_are() {
        for block in [1, 4096, 1 << 20, SPAN, 2 * SPAN, 3 * SPAN + 1, 16 << 20] {
            for first in [0, 1, block - 1, 5 * block] {
                let (mut at, mut whole) = (first, first.div_ceil(block));
                for _ in 0..20 {
                    let end = step_end(at, block);
                    assert!(end > at && end.is_multiple_of(block) && end - at <= SPAN.max(block));
                    assert!(at <= whole * block, "block {whole} of {block} bytes is in no step");
                    (at, whole) = (end, end / block);
                }
            }
        }
    }
}
