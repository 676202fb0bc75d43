//! What clients did with an export: every counter with its unit and one sentence, here and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter, described.
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

macro_rules! metrics {
    ($($name:ident, $unit:literal, $gauge:literal, $about:literal;)*) => {
        /// The counters of one export, or of a kind of exports.
        #[derive(Debug, Default)]
        pub struct Traffic { $($name: AtomicU64,)* }

        /// Every counter.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: stringify!($name), unit: $unit, gauge: $gauge, about: $about },)*];

        impl Traffic {
            /// All figures as they are now, in the order of [`METRICS`].
            pub fn values(&self) -> Vec<(Metric, u64)> {
                METRICS.iter().copied().zip([$(self.$name.load(Relaxed),)*]).collect()
            }
        }
    };
}

metrics! {
    connections, "connections", true, "Connections that are attached now.";
    attached, "connections", false, "Connections that were attached so far.";
    broken, "connections", false, "Connections that wrote, and ended without a goodbye.";
    read_bytes, "bytes", false, "Bytes that clients asked to read.";
    written_bytes, "bytes", false, "Bytes that were written.";
    zeroed_bytes, "bytes", false, "Bytes that were made zero or given back.";
    spared_bytes, "bytes", false, "Bytes that clients wrote or zeroed and that were there already.";
    compared_bytes, "bytes", false, "Bytes that were read to find that out.";
    syncs, "syncs", false, "Syncs that clients asked for.";
}

fn add(counter: &AtomicU64, n: u64) {
    let _before = counter.fetch_add(n, Relaxed);
}

impl Traffic {
    pub(super) fn came(&self) {
        add(&self.connections, 1);
        add(&self.attached, 1);
    }

    pub(super) fn left(&self) {
        let _before = self.connections.fetch_sub(1, Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        add(&self.read_bytes, bytes);
    }
}
