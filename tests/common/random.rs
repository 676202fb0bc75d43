//! Random numbers from a seed that is printed, so that a failure can be had again: `AFTERIMAGE_SEED=... cargo test NAME`.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64): every seed gives another well-mixed sequence.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// From `AFTERIMAGE_SEED`, or from the clock. Prints the seed, which a failed test shows.
    pub(crate) fn new() -> Random {
        let given = std::env::var("AFTERIMAGE_SEED").ok().and_then(|text| text.parse().ok());
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        println!("AFTERIMAGE_SEED={seed}");
        Random(seed)
    }

    /// From a seed that never changes.
    pub(crate) fn seeded(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Random bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }
}
