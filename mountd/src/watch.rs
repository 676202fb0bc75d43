//! What a mount has done so far: every counter with its unit and one sentence, here and nowhere else.
//!
//! Counting is a relaxed add to an atomic. [`Watch::snapshot`] reads them one after the other: the figures of a busy mount
//! may be some operations apart, each by itself is exact.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The operations that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A name was looked up.
    Lookup,
    /// Attributes were asked for.
    Attr,
    /// A symbolic link was read.
    Readlink,
    /// A directory was opened.
    Opendir,
    /// A page of a directory was read.
    Readdir,
    /// A file was opened.
    Open,
    /// Bytes were read.
    Read,
    /// A file or directory was closed.
    Release,
    /// The next data or hole was looked for.
    Seek,
    /// Extended attributes were listed or read.
    Xattr,
    /// `df` asked.
    Statfs,
    /// The kernel let go of nodes.
    Forget,
    /// Something was asked that a read-only tree refuses.
    Refused,
}

impl Op {
    /// All of them, in the order of the snapshot.
    pub const ALL: [Op; 13] = [
        Op::Lookup,
        Op::Attr,
        Op::Readlink,
        Op::Opendir,
        Op::Readdir,
        Op::Open,
        Op::Read,
        Op::Release,
        Op::Seek,
        Op::Xattr,
        Op::Statfs,
        Op::Forget,
        Op::Refused,
    ];

    /// One lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Op::Lookup => "lookup",
            Op::Attr => "attr",
            Op::Readlink => "readlink",
            Op::Opendir => "opendir",
            Op::Readdir => "readdir",
            Op::Open => "open",
            Op::Read => "read",
            Op::Release => "release",
            Op::Seek => "seek",
            Op::Xattr => "xattr",
            Op::Statfs => "statfs",
            Op::Forget => "forget",
            Op::Refused => "refused",
        }
    }
}

/// Bucket `i` of a latency histogram holds what took less than `2^i` microseconds and not less than half of that; the last one the rest.
pub const BUCKETS: usize = 28;

/// One counter, described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in `stats` and, behind a prefix, in Prometheus text.
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
        /// The counters of one mount.
        #[derive(Debug, Default)]
        pub struct Watch {
            ops: [OpWatch; Op::ALL.len()],
            $(pub(crate) $name: Counter,)*
        }

        /// Every single counter; those of the operations come on top.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: stringify!($name), unit: $unit, gauge: $gauge, about: $about },)*];

        impl Watch {
            fn values(&self) -> Vec<u64> {
                vec![$(self.$name.get(),)*]
            }
        }
    };
}

metrics! {
    read_bytes, "bytes", false, "Bytes handed to the kernel in answer to reads.";
    answered_now, "operations", false, "Operations answered on the thread where they arrived.";
    answered_later, "operations", false, "Operations that had to wait for the tree.";
    waiting, "operations", true, "Operations that wait for the tree right now.";
    deadlines, "operations", false, "Operations given up because the tree took longer than the deadline.";
    interrupted, "operations", false, "Operations given up because who asked is being killed.";
    panics, "operations", false, "Operations during which the tree panicked; each was answered with EIO.";
    short_answers, "operations", false, "Reads for which the tree gave fewer bytes than the file has; each was answered with EIO.";
    bad_names, "entries", false, "Directory entries shown with question marks because their names cannot be file names.";
    nodes, "nodes", true, "Nodes that the kernel knows and that are therefore remembered.";
    collisions, "nodes", false, "Nodes that got another inode number because theirs was taken by a different one.";
    forgotten_too_often, "nodes", false, "Nodes the kernel forgot more often than it had looked them up.";
    open_files, "files", true, "Files open now.";
    open_dirs, "directories", true, "Directories open now.";
    passthrough_opens, "files", false, "Openings handed to the kernel as passthrough.";
    notices, "notices", false, "Changes the kernel was told of.";
    notices_lost, "notices", false, "Changes the kernel could not be told of; it notices them when what it remembers runs out.";
}

/// One number, added to from anywhere.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        let _ = self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        let _ = self.0.fetch_sub(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
struct OpWatch {
    count: Counter,
    errors: Counter,
    nanos: Counter,
    buckets: [Counter; BUCKETS],
}

impl Watch {
    /// Counts one operation that took `took`.
    pub(crate) fn done(&self, op: Op, took: Duration, failed: bool) {
        let watch = &self.ops[op as usize];
        watch.count.add(1);
        watch.errors.add(u64::from(failed));
        watch.nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        watch.buckets[bucket(took)].add(1);
    }

    /// All figures as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let ops = Op::ALL.iter().map(|op| self.ops[*op as usize].snapshot(*op)).collect();
        Snapshot { ops, values: METRICS.iter().copied().zip(self.values()).collect() }
    }
}

impl OpWatch {
    fn snapshot(&self, op: Op) -> OpSnapshot {
        OpSnapshot {
            op,
            count: self.count.get(),
            errors: self.errors.get(),
            time: Duration::from_nanos(self.nanos.get()),
            buckets: std::array::from_fn(|i| self.buckets[i].get()),
        }
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let bits = u64::BITS - micros.leading_zeros();
    usize::try_from(bits).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The figures of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// One per [`Op`], in the order of [`Op::ALL`].
    pub ops: Vec<OpSnapshot>,
    /// One per entry of [`METRICS`].
    pub values: Vec<(Metric, u64)>,
}

impl Snapshot {
    /// One operation's figures.
    pub fn op(&self, op: Op) -> &OpSnapshot {
        &self.ops[op as usize]
    }

    /// One counter's value by its name; 0 for a name that does not exist.
    pub fn value(&self, name: &str) -> u64 {
        self.values.iter().find(|(metric, _)| metric.name == name).map_or(0, |(_, value)| *value)
    }
}

/// One operation's figures.
#[derive(Clone, Debug)]
pub struct OpSnapshot {
    /// Which.
    pub op: Op,
    /// How often it came.
    pub count: u64,
    /// How often it was answered with an error; a missing name counts as one.
    pub errors: u64,
    /// How long all of them took together, from the request's arrival to its answer.
    pub time: Duration,
    /// How long each took: see [`BUCKETS`].
    pub buckets: [u64; BUCKETS],
}

impl OpSnapshot {
    /// The time below which the given share (0.0 to 1.0) of the operations stayed, to a factor of two; `None` when there were none or
    /// it lies in the last, open bucket.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.buckets.iter().sum();
        let wanted = (total as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (i, count) in self.buckets.iter().enumerate().take(BUCKETS - 1) {
            seen += count;
            if seen >= wanted {
                return Some(Duration::from_micros(1 << i));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_of_microseconds() {
        let cases = [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11), (u64::MAX, BUCKETS - 1)];
        for (micros, expected) in cases {
            assert_eq!(bucket(Duration::from_micros(micros)), expected, "{micros} us");
        }
    }

    #[test]
    fn a_snapshot_says_what_was_counted() {
        let watch = Watch::default();
        for micros in [3, 3, 3, 900] {
            watch.done(Op::Read, Duration::from_micros(micros), micros == 900);
        }
        watch.read_bytes.add(77);
        let seen = watch.snapshot();
        let read = seen.op(Op::Read);
        assert_eq!((read.count, read.errors, read.time), (4, 1, Duration::from_micros(909)));
        assert_eq!(read.quantile(0.5), Some(Duration::from_micros(4)));
        assert_eq!(read.quantile(1.0), Some(Duration::from_micros(1024)));
        assert_eq!(seen.op(Op::Open).quantile(0.5), None);
        assert_eq!(seen.value("read_bytes"), 77);
    }

    #[test]
    fn names_are_unique_and_every_counter_has_a_sentence() {
        let mut names: Vec<_> =
            METRICS.iter().map(|metric| metric.name).chain(Op::ALL.map(Op::name)).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for metric in METRICS {
            assert!(metric.about.ends_with('.') && !metric.unit.is_empty(), "{metric:?}");
        }
        for (place, op) in Op::ALL.iter().enumerate() {
            assert_eq!(*op as usize, place);
        }
    }

    #[test]
    fn every_counter_is_used_somewhere() {
        let sources = [
            include_str!("kernel/mod.rs"),
            include_str!("kernel/listing.rs"),
            include_str!("serve.rs"),
            include_str!("nodes.rs"),
            include_str!("notify.rs"),
        ]
        .concat();
        for metric in METRICS {
            assert!(sources.contains(&format!(".{}.add(", metric.name)), "{} is never counted", metric.name);
        }
    }
}
