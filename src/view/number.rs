//! Inode numbers: what a file shows -> a number, the same after every remount and on every machine.
//!
//! A number is a digest of what it stands for. Two that meet are told apart by counting on for the one that comes later in the order of
//! the tree, so the same backups always have the same numbers.

use std::collections::HashSet;
use xxhash_rust::xxh3::xxh3_64;

/// Hands out numbers, each once.
pub(super) struct Numbers {
    taken: HashSet<u64>,
    digest: fn(&[u8]) -> u64,
}

impl Numbers {
    pub(super) fn new() -> Numbers {
        Numbers::by(xxh3_64)
    }

    /// The same with another digest.
    pub(super) fn by(digest: fn(&[u8]) -> u64) -> Numbers {
        Numbers { taken: HashSet::new(), digest }
    }

    /// The number of what these bytes name. They have to be asked for in one order.
    pub(super) fn of(&mut self, what: &str) -> u64 {
        let mut name = what.as_bytes().to_vec();
        loop {
            // Positive where somebody takes it for a signed one; 0 is no number, 1 is the kernel's for the root.
            let number = (self.digest)(&name) & (u64::MAX >> 1);
            if number > 1 && self.taken.insert(number) {
                return number;
            }
            // No name ends so: what it ends with tells the rounds apart.
            name.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_meet_are_told_apart_in_the_same_way_each_time() {
        let all = |digest: fn(&[u8]) -> u64| {
            let mut numbers = Numbers::by(digest);
            (0..100).map(|n| numbers.of(&format!("backup {n}"))).collect::<Vec<_>>()
        };
        let crowded = all(|name| xxh3_64(name) % 128);
        assert_eq!(crowded, all(|name| xxh3_64(name) % 128));
        assert_eq!(crowded.iter().collect::<HashSet<_>>().len(), 100);
        assert!(crowded.iter().all(|number| *number > 1));
    }

    #[test]
    fn numbers_never_change_from_one_release_to_the_next() {
        let mut numbers = Numbers::new();
        assert_eq!(numbers.of("volumes"), NUMBER_OF_VOLUMES);
    }

    const NUMBER_OF_VOLUMES: u64 = 4_646_468_776_946_780_254;
}
