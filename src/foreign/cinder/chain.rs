//! Which object holds which bytes of an image: the layers of a chain, newest first, as one list of pieces.
//!
//! Pure. Each layer's objects come by offset and do not overlap; where two layers have the same byte the newer one counts. What no layer has is
//! zero and in no piece. All is cut at the size of the image: a chain may have been longer once.

use super::document::metadata::Object;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// The most objects of all layers of a chain together.
pub(super) const OBJECTS_MAX: usize = 1 << 21;
/// The most layers of a chain.
pub(super) const LAYERS_MAX: usize = 4096;

/// A run of an image that lies in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its first byte in the image, and the one behind its last.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Which layer's, and which of its objects.
    pub(super) layer: u32,
    pub(super) object: u32,
}

/// An object that begins.
struct Begins {
    start: u64,
    end: u64,
    layer: u32,
    object: u32,
}

/// Resolves a chain, whose newest layer comes first.
pub(super) fn resolve(layers: &[&[Object]], size: u64) -> Vec<Piece> {
    let mut begins: Vec<Begins> = Vec::with_capacity(layers.iter().map(|layer| layer.len()).sum());
    for (layer, objects) in (0u32..).zip(layers) {
        let of_layer = (0u32..).zip(*objects).filter(|(_, object)| object.offset < size);
        begins.extend(of_layer.map(|(number, object)| {
            let Range { start, end } = object.range();
            Begins { start, end: end.min(size), layer, object: number }
        }));
    }
    begins.sort_unstable_by_key(|one| (one.start, one.layer));
    let mut pieces: Vec<Piece> = Vec::with_capacity(begins.len());
    // The newest of those that cover a place is on top.
    let mut open: BinaryHeap<Reverse<(u32, u64, u32)>> = BinaryHeap::new();
    let mut at = 0;
    for one in begins {
        at = advance(&mut open, &mut pieces, at, one.start);
        open.push(Reverse((one.layer, one.end, one.object)));
    }
    let _end = advance(&mut open, &mut pieces, at, size);
    pieces
}

/// Goes on to `until`, with what covers the way; where that is.
fn advance(
    open: &mut BinaryHeap<Reverse<(u32, u64, u32)>>,
    pieces: &mut Vec<Piece>,
    mut at: u64,
    until: u64,
) -> u64 {
    while at < until {
        let Some(Reverse((layer, end, object))) = open.peek().copied() else { return until };
        if end <= at {
            let _over = open.pop();
            continue;
        }
        let to = end.min(until);
        match pieces.last_mut() {
            Some(last) if (last.layer, last.object, last.end) == (layer, object, at) => last.end = to,
            _ => pieces.push(Piece { start: at, end: to, layer, object }),
        }
        at = to;
    }
    at
}

/// The pieces that touch a range.
pub(super) fn touching<'a>(pieces: &'a [Piece], range: &Range<u64>) -> impl Iterator<Item = &'a Piece> {
    let first = pieces.partition_point(|piece| piece.end <= range.start);
    let end = range.end;
    pieces.iter().skip(first).take_while(move |piece| piece.start < end)
}

/// What an image's size follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// How many digests there are and for how many bytes each speaks, if there are any.
    pub(super) digests: Option<(u64, u64)>,
    /// Where its own last object ends.
    pub(super) end: u64,
    /// The size of the image that it adds to.
    pub(super) parent: Option<u64>,
}

/// The size of an image. The GiB that Cinder counts in say too little: what was backed up decides.
pub(super) fn size_of(sizes: &Sizes) -> Result<u64, String> {
    let Sizes { digests, end, parent } = *sizes;
    let Some((count, block)) = digests else {
        // Chains do not grow.
        return Ok(parent.filter(|parent| *parent >= end).unwrap_or(end));
    };
    let most = count.checked_mul(block).filter(|most| *most <= i64::MAX as u64);
    let most = most.ok_or_else(|| format!("it has {count} digests, more than any image"))?;
    // The last block is not empty, so the size lies in (least, most].
    let least = most.saturating_sub(block);
    if end > most {
        return Err(format!("its objects end at {end}, behind its last digest at {most}"));
    }
    let fits = |size: u64| (size > least && size <= most) || (size, most) == (0, 0);
    let covers_last = end > least;
    match parent.filter(|parent| fits(*parent)) {
        Some(parent) if !covers_last || end == parent => Ok(parent),
        _ if covers_last => Ok(end),
        _ => Ok(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::cinder::document::metadata::Compression;
    use proptest::prelude::*;

    fn objects(extents: &[(u64, u64)]) -> Vec<Object> {
        let object = |(number, (offset, length)): (u32, &(u64, u64))| Object {
            number,
            compression: Compression::None,
            md5: None,
            offset: *offset,
            length: *length,
        };
        (1u32..).zip(extents).map(object).collect()
    }

    /// A layer as people think of it: gaps and lengths, one after the other.
    fn layer() -> impl Strategy<Value = Vec<Object>> {
        prop::collection::vec((0u64..20, 1u64..20), 0..12).prop_map(|parts| {
            let mut at = 0;
            let extents: Vec<(u64, u64)> = parts
                .into_iter()
                .map(|(gap, length)| {
                    let start = at + gap;
                    at = start + length;
                    (start, length)
                })
                .collect();
            objects(&extents)
        })
    }

    proptest! {
        #[test]
        fn a_chain_is_what_restoring_its_layers_one_after_the_other_gives(
            layers in prop::collection::vec(layer(), 0..6), size in 0u64..300
        ) {
            let mut model = vec![None; size as usize];
            for (number, layer) in layers.iter().enumerate().rev() {
                let number = number as u32;
                for (index, object) in (0u32..).zip(layer) {
                    for at in object.range().filter(|at| *at < size) {
                        model[at as usize] = Some((number, index));
                    }
                }
            }
            let refs: Vec<&[Object]> = layers.iter().map(Vec::as_slice).collect();
            let pieces = resolve(&refs, size);
            let mut found = vec![None; size as usize];
            let mut before = 0;
            for piece in &pieces {
                prop_assert!(piece.start >= before && piece.start < piece.end && piece.end <= size);
                before = piece.end;
                found[piece.start as usize..piece.end as usize].fill(Some((piece.layer, piece.object)));
            }
            prop_assert_eq!(found, model);
            let some = size / 3..size / 2;
            let touched: Vec<_> = pieces.iter().filter(|piece| piece.start < some.end && piece.end > some.start).collect();
            if !some.is_empty() {
                prop_assert_eq!(touching(&pieces, &some).collect::<Vec<_>>(), touched);
            }
        }
    }

    #[test]
    fn sizes_follow_from_digests_objects_and_the_parent() {
        let size = |digests, end, parent| size_of(&Sizes { digests, end, parent });
        for (digests, end, parent, wanted) in [
            // A full one: where its last object ends.
            (Some((4, 10)), 35, None, 35),
            (Some((4, 10)), 40, None, 40),
            // One that left out what is zero at its end.
            (Some((4, 10)), 20, None, 40),
            (Some((0, 10)), 0, None, 0),
            // One that adds: its parent's, where that can be.
            (Some((4, 10)), 12, Some(35), 35),
            (Some((4, 10)), 0, Some(40), 40),
            (Some((4, 10)), 35, Some(35), 35),
            // A volume that was made smaller, to a block and within one.
            (Some((2, 10)), 12, Some(35), 12),
            (Some((2, 10)), 5, Some(35), 20),
            (Some((4, 10)), 33, Some(35), 33),
            // Before there were digests.
            (None, 35, None, 35),
            (None, 12, Some(35), 35),
        ] {
            assert_eq!(size(digests, end, parent), Ok(wanted), "{digests:?} {end} {parent:?}");
        }
        assert!(size(Some((3, 10)), 31, None).unwrap_err().contains("behind its last digest"));
        assert!(size(Some((u64::MAX, 10)), 0, None).is_err());
    }

    #[test]
    fn a_million_extents_are_resolved_in_a_moment() {
        let many: Vec<(u64, u64)> = (0..1 << 20).map(|at| (at * 65_536, 32_768)).collect();
        let (newer, older) = (objects(&many), objects(&[(0, 1 << 40)]));
        let pieces = resolve(&[&newer, &older], 1 << 40);
        assert_eq!(pieces.len(), 2 << 20);
        assert_eq!((pieces[1].layer, pieces[1].start), (1, 32_768));
    }
}
