//! What fuzzing starts from and what it found, replayed; and a little fuzzing on the way.
//!
//! `cargo test --test corpus` needs no fuzzer. A fuzzer links the same functions: `afterimage_nbd::fuzz::TARGETS`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use afterimage_nbd::fuzz::{TARGETS, Target};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|why| panic!("{}: {why}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn everything_in_the_corpus_is_survived_whole_and_cut_anywhere() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() >= 8, "{name} has a corpus");
        for seed in seeds {
            for len in 0..=seed.len() {
                target(&seed[..len]);
            }
        }
    }
}

/// xorshift: all that is needed to be unpredictable and repeatable.
struct Random(u64);

impl Random {
    fn next(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// Flips, overwrites with telling values, cuts, repeats and joins.
    fn harm(&mut self, mut bytes: Vec<u8>, others: &[Vec<u8>]) -> Vec<u8> {
        for _ in 0..=self.next(4) {
            let at = self.next(bytes.len());
            match self.next(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.next(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.next(5)],
                2 => bytes.truncate(at),
                3 => bytes.extend_from_within(at..),
                4 => bytes.extend_from_slice(&others[self.next(others.len())]),
                _ => bytes.insert(at.min(bytes.len()), self.next(256) as u8),
            }
            bytes.truncate(64 * 1024);
        }
        bytes
    }
}

fn fuzz(name: &str, target: Target, seed: u64) {
    let seeds = seeds(name);
    let mut random = Random(seed);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(700) {
        let input = seeds[random.next(seeds.len())].clone();
        let input = random.harm(input, &seeds);
        let shown = input.clone();
        let survived = std::panic::catch_unwind(|| target(&input));
        assert!(survived.is_ok(), "{name} with seed {seed} fails on {shown:02x?}");
    }
}

#[test]
fn harmed_bytes_are_survived_too() {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let seed = std::env::var("FUZZ_SEED")
        .map_or(nanos as u64 | 1, |seed| seed.parse().expect("FUZZ_SEED is a number"));
    println!("replay with FUZZ_SEED={seed}");
    for (name, target) in TARGETS {
        fuzz(name, target, seed);
    }
}
