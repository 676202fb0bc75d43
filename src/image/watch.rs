//! What reading has cost so far: every counter with its unit and one sentence, here and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One counter, described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it counts in.
    pub unit: &'static str,
    /// It goes down again.
    pub gauge: bool,
    /// One sentence.
    pub about: &'static str,
}

/// One number, added to from anywhere.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        let _before = self.0.fetch_add(n, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! metrics {
    ($($name:ident, $unit:literal, $about:literal;)*) => {
        /// The counters of one engine.
        #[derive(Debug, Default)]
        pub struct Watch {
            $(pub(super) $name: Counter,)*
        }

        /// Every counter.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: stringify!($name), unit: $unit, gauge: false, about: $about },)*];

        impl Watch {
            /// All figures as they are now, in the order of [`METRICS`].
            pub fn values(&self) -> Vec<(Metric, u64)> {
                METRICS.iter().copied().zip([$(self.$name.get(),)*]).collect()
            }
        }
    };
}

metrics! {
    gets, "requests", "Ranges asked of the store for chunks.";
    sealed_bytes, "bytes", "Sealed bytes of chunks that the store gave.";
    chunks_opened, "chunks", "Chunks whose seal was opened.";
    bytes_opened, "bytes", "Plain bytes of these chunks.";
    chunks_failed, "chunks", "Chunks that could not be had.";
    disk_chunks, "chunks", "Chunks that the cache on disk had.";
    disk_damaged, "chunks", "Chunks in the cache on disk that were damaged, and fetched again.";
    nodes_opened, "nodes", "Nodes of maps and trees that were fetched.";
    ahead_bytes, "bytes", "Bytes of images that were fetched ahead of a sequential reader.";
    ahead_used_bytes, "bytes", "Bytes of these that the reader then asked for.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_sentence_and_is_used_somewhere() {
        let sources = [include_str!("engine.rs"), include_str!("ahead.rs")].concat();
        for metric in METRICS {
            assert!(metric.about.ends_with('.') && !metric.unit.is_empty(), "{metric:?}");
            assert!(sources.contains(&format!(".{}.add(", metric.name)), "{} is never counted", metric.name);
        }
    }
}
