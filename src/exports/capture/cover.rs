//! Whether every byte was written or zeroed, by one client since it came: only then is a capture whole without anybody saying so.
//!
//! Whole blocks are a bit each. Blocks that were written in parts keep their parts until these are the whole block; where that would take too
//! much memory parts are forgotten, and the capture waits for a word instead.

use std::collections::HashMap;
use std::ops::Range;

/// So many parts of blocks are remembered.
const PARTS_MAX: usize = 128 * 1024;

/// What was covered.
pub(super) struct Cover {
    size: u64,
    block: u64,
    whole: Vec<u64>,
    /// Blocks that are not whole yet.
    left: u64,
    parts: HashMap<u64, Vec<Range<u64>>>,
    parts_count: usize,
}

impl Cover {
    pub(super) fn new(size: u64, block: u64) -> Cover {
        let blocks = size.div_ceil(block);
        let words = usize::try_from(blocks.div_ceil(64)).unwrap_or(0);
        let (parts, parts_count) = Default::default();
        Cover { size, block, whole: vec![0; words], left: blocks, parts, parts_count }
    }

    /// Nothing is left.
    pub(super) fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// A range that is not empty was written or zeroed.
    pub(super) fn add(&mut self, range: Range<u64>) {
        let (first, last) = (range.start.div_ceil(self.block), range.end / self.block);
        if range.end == self.size && !range.end.is_multiple_of(self.block) && first <= last {
            self.add_whole(first..last + 1);
            self.add_part(range.start..range.end.min(first * self.block));
        } else if first <= last {
            self.add_whole(first..last);
            self.add_part(range.start..first * self.block);
            self.add_part(last * self.block..range.end);
        } else {
            self.add_part(range);
        }
    }

    fn add_whole(&mut self, blocks: Range<u64>) {
        for block in blocks {
            let (word, bit) = ((block / 64) as usize, 1u64 << (block % 64));
            if self.whole[word] & bit == 0 {
                self.whole[word] |= bit;
                self.left -= 1;
                if let Some(parts) = self.parts.remove(&block) {
                    self.parts_count -= parts.len();
                }
            }
        }
    }

    /// A range inside one block.
    fn add_part(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let block = range.start / self.block;
        if self.whole[(block / 64) as usize] & (1 << (block % 64)) != 0 {
            return;
        }
        let mut parts = self.parts.remove(&block).unwrap_or_default();
        self.parts_count -= parts.len();
        let mut new = range;
        parts.retain(|part| {
            let apart = part.end < new.start || new.end < part.start;
            if !apart {
                new = part.start.min(new.start)..part.end.max(new.end);
            }
            apart
        });
        let start = block * self.block;
        if new == (start..start.saturating_add(self.block).min(self.size)) {
            self.add_whole(block..block + 1);
            return;
        }
        parts.push(new);
        // Forgotten parts make nobody believe that something is here which is not.
        if self.parts_count + parts.len() <= PARTS_MAX {
            self.parts_count += parts.len();
            let _none = self.parts.insert(block, parts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_byte_counts() {
        for size in [1u64, 4095, 4096, 4097, 10_000] {
            let mut cover = Cover::new(size, 4096);
            for at in (0..size).rev().skip(1) {
                cover.add(at..at + 1);
                assert!(!cover.is_whole(), "{size} {at}");
            }
            cover.add(size - 1..size);
            assert!(cover.is_whole(), "{size}");
        }
        assert!(Cover::new(0, 4096).is_whole());
    }

    #[test]
    fn too_many_parts_are_forgotten_and_never_believed() {
        let blocks = (PARTS_MAX + 1000) as u64;
        let mut cover = Cover::new(blocks * 4096, 4096);
        (0..blocks).for_each(|block| cover.add(block * 4096..block * 4096 + 2048));
        assert!(cover.parts_count <= PARTS_MAX);
        (0..blocks).for_each(|block| cover.add(block * 4096 + 2048..block * 4096 + 4096));
        assert!(!cover.is_whole());
        cover.add(0..blocks * 4096);
        assert!(cover.is_whole() && cover.parts.is_empty() && cover.parts_count == 0);
    }

    proptest! {
        #[test]
        fn it_is_whole_exactly_when_each_byte_was_covered(
            size in 1u64..200,
            writes in prop::collection::vec((0u64..200, 1u64..80), 0..40)
        ) {
            let mut cover = Cover::new(size, 16);
            let mut bytes = vec![false; size as usize];
            for (start, len) in writes {
                let range = start.min(size - 1)..(start.min(size - 1) + len).min(size);
                bytes[range.start as usize..range.end as usize].fill(true);
                cover.add(range);
                prop_assert_eq!(cover.is_whole(), bytes.iter().all(|byte| *byte));
                prop_assert_eq!(cover.parts_count, cover.parts.values().map(Vec::len).sum::<usize>());
            }
        }
    }
}
