//! What clients did with an export: every counter with its unit and one sentence, here and nowhere else.

use crate::image::watch::Metric;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    broken, "connections", false, "Connections that ended without a goodbye: what they wrote may be a part.";
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

    /// Whether that was the last one.
    pub(super) fn left(&self, clean: bool) -> bool {
        if !clean {
            add(&self.broken, 1);
        }
        self.connections.fetch_sub(1, Relaxed) == 1
    }

    pub(super) fn read(&self, bytes: u64) {
        add(&self.read_bytes, bytes);
    }

    pub(super) fn wrote(&self, bytes: u64) {
        add(&self.written_bytes, bytes);
    }

    pub(super) fn zeroed(&self, bytes: u64) {
        add(&self.zeroed_bytes, bytes);
    }

    pub(super) fn spared(&self, bytes: u64) {
        add(&self.spared_bytes, bytes);
    }

    pub(super) fn compared(&self, bytes: u64) {
        add(&self.compared_bytes, bytes);
    }

    pub(super) fn synced(&self) {
        add(&self.syncs, 1);
    }

    /// What was written, for a line of the log.
    pub(super) fn summary(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        format!(
            "{} bytes written, {} zeroed, {} spared because they were there",
            get(&self.written_bytes),
            get(&self.zeroed_bytes),
            get(&self.spared_bytes)
        )
    }
}
