//! Numbers that nobody has to guess wrong: for pauses, names of temps, and faults that a seed repeats. Not for secrets.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A source of numbers that threads share.
pub(super) struct Dice(AtomicU64);

impl Dice {
    /// Unlike any other.
    pub(super) fn new() -> Dice {
        Dice::seeded(RandomState::new().hash_one(0))
    }

    /// Always the same numbers for the same seed.
    pub(super) fn seeded(seed: u64) -> Dice {
        Dice(AtomicU64::new(seed))
    }

    /// The next number: a Weyl sequence, its steps mixed well (splitmix64).
    pub(super) fn roll(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 for 0.
    pub(super) fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64
    }

    /// A fraction of 1, 1 itself excluded.
    pub(super) fn fraction(&self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_no_two_dice_are_alike() {
        let rolls = |dice: Dice| (0..8).map(|_| dice.roll()).collect::<Vec<u64>>();
        assert_eq!(rolls(Dice::seeded(7)), rolls(Dice::seeded(7)));
        assert_ne!(rolls(Dice::seeded(7)), rolls(Dice::seeded(8)));
        assert_ne!(rolls(Dice::new()), rolls(Dice::new()));
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let dice = Dice::seeded(1);
        for bound in [0, 1, 2, 10, u64::MAX] {
            assert!((0..100).all(|_| bound == 0 || dice.below(bound) < bound), "{bound}");
        }
        assert!((0..100).map(|_| dice.fraction()).all(|fraction| (0.0..1.0).contains(&fraction)));
    }
}
