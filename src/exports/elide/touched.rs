//! Which parts were written since we began: there, what a file system says of holes may be older than the data.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bit for each part; so many words at most.
const WORDS_MAX: u64 = 1 << 14;
const PART_MIN: u64 = 64 << 10;

/// The parts that were written.
#[derive(Debug)]
pub(super) struct Touched {
    part: u64,
    words: Vec<AtomicU64>,
}

impl Touched {
    /// None of so many bytes.
    pub(super) fn new(size: u64) -> Touched {
        let part = size.div_ceil(WORDS_MAX * 64).next_power_of_two().max(PART_MIN);
        let words = size.div_ceil(part).div_ceil(64);
        Touched { part, words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A range is about to be written.
    pub(super) fn touch(&self, offset: u64, len: u64) {
        for (word, bit) in self.parts(offset, len) {
            let _before = word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Whether any of a range was.
    pub(super) fn is_touched(&self, offset: u64, len: u64) -> bool {
        self.parts(offset, len).any(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Where the next part begins.
    pub(super) fn end_of_part(&self, offset: u64) -> u64 {
        (offset / self.part + 1).saturating_mul(self.part)
    }

    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let parts = offset / self.part..(offset + len).div_ceil(self.part);
        parts.filter_map(|part| {
            let word = self.words.get(usize::try_from(part / 64).ok()?)?;
            Some((word, 1 << (part % 64)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_known_and_memory_is_bounded() {
        for size in [1, 1 << 20, (1 << 40) + 1, (1 << 63) - 1] {
            let touched = Touched::new(size);
            assert!(touched.words.len() as u64 <= WORDS_MAX);
            assert!(!touched.is_touched(0, size.min(1 << 40)));
            touched.touch(size - 1, 1);
            assert!(touched.is_touched(size - 1, 1));
            assert_eq!(touched.is_touched(0, 1), size <= touched.part);
        }
    }
}
