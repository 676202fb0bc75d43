//! Cutting a file where its content says, so that what is inserted moves no cut but those beside it.
//!
//! bytes -> a hash of the last 64 of them, rolled on byte by byte (gear) -> a cut where enough of its bits are zero
//!
//! The rule is FastCDC's: nothing is looked at below the least length; up to the length that is aimed at a cut is made harder, behind it easier,
//! so that most chunks are about as long; at the greatest length there is a cut in any case. The table of the hash is the repository's own, so
//! lengths of chunks tell nobody without its key which files are there.

/// Bits that decide about a cut, high ones: those depend on the most bytes.
const fn mask(bits: u32) -> u64 {
    !0 << (64 - bits)
}

/// By how many bits a cut is harder before the goal, and easier behind it.
const NORMAL: u32 = 2;

/// Where files of a repository are cut.
#[derive(Clone)]
pub struct Cutter {
    gear: Box<[u64; 256]>,
    least: usize,
    goal: usize,
    most: usize,
    hard: u64,
    easy: u64,
}

impl Cutter {
    /// Aims at chunks of `goal` bytes, a power of two; they have a quarter to four times as many.
    pub fn new(gear: Box<[u64; 256]>, goal: usize) -> Cutter {
        let bits = goal.ilog2();
        Cutter {
            gear,
            least: goal / 4,
            goal,
            most: goal * 4,
            hard: mask(bits + NORMAL),
            easy: mask(bits - NORMAL),
        }
    }

    /// No chunk but a file's last one, or the last before a hole, is shorter.
    pub fn least(&self) -> usize {
        self.least
    }

    /// No chunk is longer.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How long the first chunk of `bytes` is: all of them, when no cut is in them. What is shorter than they are, or as long as a chunk may
    /// be, does not depend on what follows.
    pub fn first(&self, bytes: &[u8]) -> usize {
        let end = bytes.len().min(self.most);
        if end <= self.least {
            return end;
        }
        let goal = self.goal.min(end);
        let mut hash = 0;
        let hard = self.find(&mut hash, &bytes[self.least..goal], self.hard);
        if let Some(at) = hard {
            return self.least + at;
        }
        self.find(&mut hash, &bytes[goal..end], self.easy).map_or(end, |at| goal + at)
    }

    /// Behind which byte the hash first has zeros wherever the mask has ones.
    fn find(&self, hash: &mut u64, bytes: &[u8], mask: u64) -> Option<usize> {
        let (pairs, rest) = bytes.as_chunks::<2>();
        for (number, [one, two]) in pairs.iter().enumerate() {
            let first = (*hash << 1).wrapping_add(self.gear[usize::from(*one)]);
            let second = (first << 1).wrapping_add(self.gear[usize::from(*two)]);
            if first & mask == 0 {
                return Some(2 * number + 1);
            }
            if second & mask == 0 {
                return Some(2 * number + 2);
            }
            *hash = second;
        }
        let last = rest.first()?;
        *hash = (*hash << 1).wrapping_add(self.gear[usize::from(*last)]);
        (*hash & mask == 0).then_some(bytes.len())
    }

    /// The lengths of all chunks of a whole file.
    pub fn cuts(&self, mut bytes: &[u8]) -> Vec<usize> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let first = self.first(bytes);
            all.push(first);
            bytes = &bytes[first..];
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers that look random, the same for the same seed.
    fn numbers(mut state: u64) -> impl Iterator<Item = u64> {
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
        })
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        numbers(seed).flat_map(u64::to_le_bytes).take(len).collect()
    }

    fn cutter(goal: usize) -> Cutter {
        let mut gear = Box::new([0; 256]);
        gear.iter_mut().zip(numbers(7)).for_each(|(entry, number)| *entry = number);
        Cutter::new(gear, goal)
    }

    #[test]
    fn chunks_are_as_long_as_they_may_be_and_about_as_long_as_they_should() {
        let (cutter, bytes) = (cutter(4096), noise(1, 8 << 20));
        let cuts = cutter.cuts(&bytes);
        assert_eq!(cuts.iter().sum::<usize>(), bytes.len());
        let (last, whole) = cuts.split_last().unwrap();
        assert!(*last <= cutter.most());
        assert!(whole.iter().all(|len| (cutter.least()..=cutter.most()).contains(len)));
        let mean = bytes.len() / cuts.len();
        assert!((3500..6500).contains(&mean), "{mean}");
        let forced = whole.iter().filter(|&&len| len == cutter.most()).count();
        assert!(forced * 50 < whole.len(), "{forced} of {} were cut by force", whole.len());
    }

    #[test]
    fn an_insertion_moves_no_cut_but_those_beside_it() {
        let (cutter, bytes) = (cutter(4096), noise(2, 1 << 20));
        let ends = |bytes: &[u8]| -> std::collections::BTreeSet<usize> {
            let mut at = 0;
            cutter
                .cuts(bytes)
                .iter()
                .map(|len| {
                    at += len;
                    bytes.len() - at
                })
                .collect()
        };
        let before = ends(&bytes);
        for at in [0, 1, 300_000, 1_000_000] {
            let mut changed = bytes.clone();
            let _none = changed.splice(at..at, noise(at as u64, 777)).count();
            let kept = ends(&changed).intersection(&before).count();
            assert!(kept + 12 > before.iter().filter(|end| **end < bytes.len() - at).count(), "{at}: {kept}");
        }
    }

    #[test]
    fn monotonous_bytes_are_cut_at_the_greatest_length_or_not_below_the_least() {
        let cutter = cutter(4096);
        for byte in [0, 1, 255] {
            let cuts = cutter.cuts(&vec![byte; 1 << 20]);
            assert!(cuts.iter().all(|len| (cutter.least()..=cutter.most()).contains(len)), "{byte}");
            assert!(cuts.windows(2).all(|pair| pair[0] == pair[1]), "equal bytes give equal chunks");
        }
    }

    proptest! {
        #[test]
        fn cuts_depend_on_what_was_seen_and_not_on_how_much_follows(seed: u64, len in 0usize..200_000, more in 0usize..50_000) {
            let (cutter, bytes) = (cutter(4096), noise(seed, len + more));
            let (short, long) = (cutter.cuts(&bytes[..len]), cutter.cuts(&bytes));
            // All but what was cut off by the end.
            let same = short.len().saturating_sub(cutter.most() / cutter.least() + 1);
            prop_assert_eq!(&short[..same], &long[..same]);
            prop_assert_eq!(short.iter().sum::<usize>(), len);
        }
    }
}
