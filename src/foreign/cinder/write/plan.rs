//! Which ranges of an image become objects.
//!
//! Holds, as Cinder has it: no object crosses a multiple of the object size, each begins on a block's boundary, and they come by offset.

use super::BLOCK;
use super::digests::{Digests, of_blocks};
use super::pieces::{self, Piece};
use crate::error::Result;
use crate::image::Image;
use crate::progress::Cancel;
use std::ops::Range;

/// More objects than this are put together, with what lies unchanged between them.
const OBJECTS_GOAL: usize = 1 << 16;
/// Holes shorter than this are not worth an object more.
const HOLE_MIN: u64 = 1 << 20;

/// All of it.
pub(super) fn all(len: u64, object_size: u64) -> Vec<Range<u64>> {
    let whole = 0..len;
    cut(std::slice::from_ref(&whole), object_size)
}

/// What is stored of it, and the end, from which readers know how long it is.
pub(super) fn without_zeros(image: &Image, object_size: u64) -> Result<Vec<Range<u64>>> {
    let runtime = image.engine().runtime().clone();
    let (len, mut ranges, mut at) = (image.len(), Vec::new(), 0);
    while at < len {
        let extent = runtime.block_on(image.extent(at, len))?;
        if extent.data {
            ranges.push(extent.range.clone());
        }
        at = extent.range.end;
    }
    if len > 0 {
        ranges.push((len - 1) / BLOCK * BLOCK..len);
    }
    Ok(cut(&merged(to_blocks(&ranges, len), HOLE_MIN), object_size))
}

/// The blocks of these ranges that differ from what the digests say, which then say what is there now.
pub(super) fn increment(
    image: &Image,
    changes: &[Range<u64>],
    digests: &mut Digests,
    object_size: u64,
    cancel: &Cancel,
) -> Result<Vec<Range<u64>>> {
    let mut differ = Vec::new();
    for range in to_blocks(changes, image.len()) {
        let work = |piece: &Piece| Ok(of_blocks(piece.bytes(), piece.is_plain_zero()));
        pieces::each(image, range, cancel, &work, &mut |piece, blocks| {
            let before = digests.get(piece.offset, blocks.len())?;
            let end = piece.offset + piece.bytes().len() as u64;
            for (number, (now, before)) in (0..).zip(blocks.iter().zip(&before)) {
                if now != before {
                    let start = piece.offset + number * BLOCK;
                    add(&mut differ, start..end.min(start + BLOCK), 0);
                }
            }
            digests.put(piece.offset, &blocks)
        })?;
    }
    let mut gap = BLOCK;
    while differ.len() > OBJECTS_GOAL {
        differ = merged(differ, gap);
        gap *= 2;
    }
    Ok(cut(&differ, object_size))
}

/// Adds a range behind all others; what lies no more than `gap` behind the last one goes with that.
fn add(ranges: &mut Vec<Range<u64>>, range: Range<u64>, gap: u64) {
    match ranges.last_mut() {
        Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

fn merged(ranges: Vec<Range<u64>>, gap: u64) -> Vec<Range<u64>> {
    let mut all = Vec::new();
    ranges.into_iter().for_each(|range| add(&mut all, range, gap));
    all
}

/// The same, from block to block.
fn to_blocks(ranges: &[Range<u64>], len: u64) -> Vec<Range<u64>> {
    let mut all = Vec::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let start = range.start / BLOCK * BLOCK;
        add(&mut all, start..range.end.next_multiple_of(BLOCK).min(len), 0);
    }
    all
}

/// The same, cut at multiples of the object size.
fn cut(ranges: &[Range<u64>], object_size: u64) -> Vec<Range<u64>> {
    let mut cut = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / object_size + 1).saturating_mul(object_size));
            cut.push(at..end);
            at = end;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_crosses_a_multiple_of_the_object_size() {
        assert_eq!(all(0, 2 * BLOCK), []);
        assert_eq!(
            all(5 * BLOCK + 7, 2 * BLOCK),
            [0..2 * BLOCK, 2 * BLOCK..4 * BLOCK, 4 * BLOCK..5 * BLOCK + 7]
        );
        let one = BLOCK..3 * BLOCK;
        assert_eq!(cut(std::slice::from_ref(&one), 2 * BLOCK), [BLOCK..2 * BLOCK, 2 * BLOCK..3 * BLOCK]);
    }

    #[test]
    fn ranges_begin_and_end_with_blocks_and_never_touch() {
        let len = 10 * BLOCK + 5;
        assert_eq!(to_blocks(&[1..2, BLOCK - 1..BLOCK + 1], len), vec![0..2 * BLOCK]);
        assert_eq!(to_blocks(&[5..5, 10 * BLOCK + 1..len], len), vec![10 * BLOCK..len]);
        assert_eq!(merged(vec![0..1, 3..4, 9..10], 2), [0..4, 9..10]);
    }
}
