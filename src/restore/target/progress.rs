//! Progress of a restore <-> the bytes that are kept of it.
//!
//! One JSON object: what the restore is bound to, which ranges of the target are done, and a checksum of the rest. Whoever reads it
//! skips those ranges, so anything doubtful is `Damaged`, never a guess: the restore then begins again, which is always right.
//!
//! Pure: slice in, type out. `journal` does the reading and writing.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// No more ranges are kept than this. A restore in the order of the image has a handful; one in the order of the store has some for each run
/// of chunks that lie together there.
pub const RANGES_MAX: usize = 1 << 16;

/// No state is longer than this: what `RANGES_MAX` ranges of the longest numbers and four long names take.
pub const STATE_LEN_MAX: usize = 4 << 20;

const FORMAT: &str = "afterimage restore 1";

/// What a restore is a restore of, and onto what. Any difference makes it another restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The backup's id.
    pub backup: String,
    /// The item in it.
    pub item: String,
    /// The root of the item's map: the content itself.
    pub root: String,
    /// The size of the image.
    pub size: u64,
    /// The target's fingerprint.
    pub target: String,
}

/// What is kept of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which restore.
    pub bound: Bound,
    /// What is done.
    pub done: Ranges,
}

/// Why kept bytes can't be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Longer than we write.
    #[error("it is longer than {STATE_LEN_MAX} bytes")]
    TooLong,
    /// Not in our form.
    #[error("it is not in the form of a restore's progress")]
    Form,
    /// Of another version.
    #[error("it has another version than \"{FORMAT}\"")]
    Version,
    /// The checksum says that it is not what was written.
    #[error("its checksum does not fit")]
    Checksum,
    /// Ranges that no restore writes.
    #[error("its ranges are out of order, overlap or reach past the end")]
    Ranges,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: String,
    bound: Bound,
    /// `[start, end)`, in order, with gaps between them.
    done: Vec<(u64, u64)>,
    xxh3: String,
}

/// The bytes to keep.
pub fn encode(progress: &Progress) -> Vec<u8> {
    let done = progress.done.iter().take(RANGES_MAX).collect();
    let mut kept = Kept { format: FORMAT.into(), bound: progress.bound.clone(), done, xxh3: String::new() };
    kept.xxh3 = checksum(&kept);
    bytes_of(&kept)
}

/// What was kept, if every byte of it can be trusted.
pub fn decode(bytes: &[u8]) -> Result<Progress, Damaged> {
    if bytes.len() > STATE_LEN_MAX {
        return Err(Damaged::TooLong);
    }
    let mut kept: Kept = serde_json::from_slice(bytes).map_err(|_| Damaged::Form)?;
    if kept.format != FORMAT {
        return Err(Damaged::Version);
    }
    let told = std::mem::take(&mut kept.xxh3);
    if told != checksum(&kept) {
        return Err(Damaged::Checksum);
    }
    let done = Ranges::parse(&kept.done, kept.bound.size).ok_or(Damaged::Ranges)?;
    Ok(Progress { bound: kept.bound, done })
}

/// Over everything but itself, in the form in which it is written.
fn checksum(kept: &Kept) -> String {
    format!("{:016x}", xxh3_64(&bytes_of(kept)))
}

fn bytes_of(kept: &Kept) -> Vec<u8> {
    serde_json::to_vec(kept).expect("strings and numbers always have a JSON form")
}

/// For fuzzers: any bytes, and the same with a checksum that fits. What is trusted is written back the same.
pub fn fuzz(bytes: &[u8]) {
    let proven = serde_json::from_slice(bytes).map(|mut kept: Kept| {
        kept.xxh3.clear();
        kept.xxh3 = checksum(&kept);
        bytes_of(&kept)
    });
    for bytes in [Ok(bytes.to_vec()), proven].into_iter().flatten() {
        let Ok(progress) = decode(&bytes) else { continue };
        assert!(decode(&encode(&progress)).is_ok_and(|again| again == progress));
        assert!(progress.done.total() <= progress.bound.size);
        let whole = progress.done.iter().all(|(start, end)| {
            progress.done.covers(start, end.saturating_sub(start)) && !progress.done.covers(end, 1)
        });
        assert!(whole);
    }
}

/// Ranges of bytes that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn parse(list: &[(u64, u64)], size: u64) -> Option<Ranges> {
        let mut behind = None;
        for (start, end) in list {
            if start >= end || *end > size || behind.is_some_and(|behind| *start <= behind) {
                return None;
            }
            behind = Some(*end);
        }
        (list.len() <= RANGES_MAX).then(|| Ranges(list.iter().copied().collect()))
    }

    /// Adds a range, which may touch or overlap others.
    pub fn add(&mut self, offset: u64, len: u64) {
        let (mut start, mut end) = (offset, offset.saturating_add(len));
        if start == end {
            return;
        }
        while let Some((from, to)) = self.0.range(..=end).next_back().map(|(from, to)| (*from, *to))
            && to >= start
        {
            start = start.min(from);
            end = end.max(to);
            let _ = self.0.remove(&from);
        }
        let _ = self.0.insert(start, end);
    }

    /// Whether all of a range is in here.
    pub fn covers(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        len == 0 || self.0.range(..=offset).next_back().is_some_and(|(_, to)| *to >= end)
    }

    /// A range in parts, in order, each with whether it is in here.
    pub fn parts(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let (mut parts, mut at) = (Vec::new(), range.start);
        let first = self.0.range(..=at).next_back().map_or(at, |(from, _)| *from);
        for (&from, &to) in self.0.range(first..range.end) {
            let (from, to) = (from.max(at), to.min(range.end));
            if from >= to {
                continue;
            }
            if at < from {
                parts.push((at..from, false));
            }
            parts.push((from..to, true));
            at = to;
        }
        if at < range.end {
            parts.push((at..range.end, false));
        }
        parts
    }

    /// Whether nothing is in here.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes are in here.
    pub fn total(&self) -> u64 {
        self.iter().fold(0, |sum, (start, end)| sum.saturating_add(end.saturating_sub(start)))
    }

    /// The ranges as `(start, end)`, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bound(size: u64) -> Bound {
        let word = |word: &str| word.to_owned();
        Bound {
            backup: word("3fa9"),
            item: word("disk.img"),
            root: word("77\"\u{1F4BE}"),
            size,
            target: word("file 8:1:7"),
        }
    }

    fn progress(ranges: &[(u64, u64)]) -> Progress {
        let mut done = Ranges::default();
        ranges.iter().for_each(|(start, end)| done.add(*start, end - start));
        Progress { bound: bound(1000), done }
    }

    /// Bytes with a right checksum but any ranges.
    fn forged(ranges: &[(u64, u64)], format: &str) -> Vec<u8> {
        let mut kept =
            Kept { format: format.into(), bound: bound(1000), done: ranges.to_vec(), xxh3: String::new() };
        kept.xxh3 = checksum(&kept);
        bytes_of(&kept)
    }

    #[test]
    fn r8_what_was_kept_comes_back() {
        for ranges in [&[][..], &[(0, 1000)], &[(0, 1), (5, 10), (999, 1000)]] {
            let progress = progress(ranges);
            assert_eq!(decode(&encode(&progress)), Ok(progress));
        }
    }

    #[test]
    fn r8_every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode(&progress(&[(0, 512), (600, 700)]));
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err(), "cut to {len}");
        }
        for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(decode(&bad).is_err(), "byte {at} bit {bit}: {}", String::from_utf8_lossy(&bad));
        }
    }

    #[test]
    fn r8_ranges_that_no_restore_writes_are_damage_even_with_a_right_checksum() {
        let bad: [&[(u64, u64)]; 7] = [
            &[(5, 5)],
            &[(6, 5)],
            &[(0, 1001)],
            &[(0, u64::MAX)],
            &[(0, 10), (5, 20)],
            &[(0, 10), (10, 20)],
            &[(10, 20), (0, 5)],
        ];
        for ranges in bad {
            assert_eq!(decode(&forged(ranges, FORMAT)), Err(Damaged::Ranges), "{ranges:?}");
        }
        assert_eq!(decode(&forged(&[], "afterimage restore 2")), Err(Damaged::Version));
        assert_eq!(decode(&vec![b' '; STATE_LEN_MAX + 1]), Err(Damaged::TooLong));
        assert_eq!(decode(b"[]"), Err(Damaged::Form));
    }

    #[test]
    fn x10_more_ranges_than_the_limit_keep_the_first_of_them_and_fit() {
        let mut done = Ranges::default();
        let far = 1 << 62;
        (0..=RANGES_MAX as u64).for_each(|at| done.add(far + 2 * at, 1));
        let kept = encode(&Progress { bound: bound(u64::MAX), done });
        assert!(kept.len() <= STATE_LEN_MAX, "{}", kept.len());
        assert_eq!(decode(&kept).unwrap().done.total(), RANGES_MAX as u64);
        let list: Vec<_> = (0..=RANGES_MAX as u64).map(|at| (2 * at, 2 * at + 1)).collect();
        assert!(Ranges::parse(&list[1..], u64::MAX).is_some());
        assert!(Ranges::parse(&list, u64::MAX).is_none());
    }

    proptest! {
        #[test]
        fn ranges_are_what_a_set_of_bytes_is(adds in prop::collection::vec((0_u64..60, 0_u64..20), 0..20)) {
            let (mut ranges, mut model) = (Ranges::default(), [false; 80]);
            for (offset, len) in adds {
                ranges.add(offset, len);
                (offset..offset + len).for_each(|at| model[at as usize] = true);
            }
            let all: Vec<_> = ranges.iter().collect();
            prop_assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].0), "{all:?}");
            prop_assert_eq!(ranges.total(), model.iter().filter(|set| **set).count() as u64);
            for (offset, len) in (0..80).flat_map(|at| (0..80 - at).map(move |len| (at, len))) {
                let all_set = (offset..offset + len).all(|at| model[at as usize]);
                prop_assert_eq!(ranges.covers(offset, len), all_set, "{}+{} in {:?}", offset, len, &all);
                let parts = ranges.parts(offset..offset + len);
                let each = parts.iter().flat_map(|(part, set)| part.clone().map(|at| (at, *set)));
                prop_assert!(each.eq((offset..offset + len).map(|at| (at, model[at as usize]))), "{:?}", parts);
                prop_assert!(parts.windows(2).all(|pair| pair[0].1 != pair[1].1), "{:?}", parts);
            }
        }
    }
}
