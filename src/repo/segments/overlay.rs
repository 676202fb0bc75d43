//! What a running backup added itself: in memory, and beyond a bound in files that nobody else sees.
//!
//! Threads ask and add at once; of two that add the same id, one is told the other's place. The files have no name, so a crash
//! leaves nothing. If they can't be written, the oldest rows are forgotten: a chunk may then be stored twice, which harms nothing.

use super::segment::{Damaged, Segment};
use super::{Draft, INPUTS_MAX, Row, due, hidden, hidden_merge, merge};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

const SHARDS: usize = 16;
/// How many rows are kept in memory if nobody says otherwise: about 25 MiB of them.
const ROWS_IN_MEMORY: usize = 256 << 10;

type Shard = HashMap<[u8; 32], Row>;

/// Rows that were added by this process and are in no index object yet.
#[derive(Debug)]
pub struct Overlay {
    dir: PathBuf,
    rows_max: usize,
    in_memory: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
    /// Held for reading by everyone who asks or adds, for writing while rows move from the shards into a file.
    spilled: RwLock<Spilled>,
}

#[derive(Debug, Default)]
struct Spilled {
    segments: Vec<Arc<Segment>>,
    forgotten: u64,
}

impl Overlay {
    /// An empty one that keeps its files in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Overlay {
        Overlay::bounded(dir, ROWS_IN_MEMORY)
    }

    /// The same with at most about `rows_max` rows in memory.
    pub fn bounded(dir: impl Into<PathBuf>, rows_max: usize) -> Overlay {
        Overlay {
            dir: dir.into(),
            rows_max: rows_max.max(1),
            in_memory: AtomicUsize::new(0),
            shards: Default::default(),
            spilled: RwLock::default(),
        }
    }

    /// Adds `row` and returns `None`, unless its id is there: then nothing changes and its place comes back.
    pub fn insert_if_absent(&self, row: Row) -> Option<Row> {
        {
            let spilled = self.spilled.read().unwrap_or_else(PoisonError::into_inner);
            match self.shard(&row.id).entry(row.id) {
                Entry::Occupied(known) => return Some(*known.get()),
                Entry::Vacant(free) => {
                    let known = spilled.find(&row.id); // under the shard's lock: nobody adds this id meanwhile
                    if known.is_some() {
                        return known;
                    }
                    let _ = free.insert(row);
                }
            }
        }
        if self.in_memory.fetch_add(1, Ordering::Relaxed) >= self.rows_max {
            self.spill();
        }
        None
    }

    /// The place that was added for `id`.
    pub fn get(&self, id: &[u8; 32]) -> Option<Row> {
        let spilled = self.spilled.read().unwrap_or_else(PoisonError::into_inner);
        let known = self.shard(id).get(id).copied();
        known.or_else(|| spilled.find(id))
    }

    /// How many rows had to be forgotten because no file could be written.
    pub fn forgotten(&self) -> u64 {
        self.spilled.read().unwrap_or_else(PoisonError::into_inner).forgotten
    }

    fn shard(&self, id: &[u8; 32]) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[usize::from(id[31]) % SHARDS]; // the end: the beginning is what segments sort by
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spill(&self) {
        let mut spilled = self.spilled.write().unwrap_or_else(PoisonError::into_inner);
        if self.in_memory.load(Ordering::Relaxed) <= self.rows_max {
            return; // another thread was faster
        }
        let mut rows: Vec<Row> = Vec::with_capacity(self.in_memory.swap(0, Ordering::Relaxed));
        for shard in &self.shards {
            rows.extend(shard.lock().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, row)| row));
        }
        let count = rows.len() as u64;
        if self.keep(&mut spilled.segments, rows).is_err() {
            spilled.forgotten += count;
        }
    }

    fn keep(&self, segments: &mut Vec<Arc<Segment>>, rows: Vec<Row>) -> io::Result<()> {
        let mut rows = rows.into_iter();
        loop {
            let draft = Draft::begin(&self.dir)?;
            if merge::sort_run(&mut rows, &[], draft.file())?.is_none() {
                break;
            }
            segments.push(hidden(draft)?);
        }
        while let Some(inputs) = due(segments) {
            debug_assert!(inputs.len() <= INPUTS_MAX);
            let Ok(whole) = hidden_merge(&self.dir, &inputs) else { break }; // they serve as they are
            segments.retain(|segment| !inputs.iter().any(|input| Arc::ptr_eq(segment, input)));
            segments.push(whole);
        }
        Ok(())
    }
}

impl Spilled {
    fn find(&self, id: &[u8; 32]) -> Option<Row> {
        let mut found = Vec::new();
        for segment in &self.segments {
            if segment.lookup(id, &mut found) == Err(Damaged) {
                segment.condemn();
                found.clear();
            }
            if let Some(row) = found.first() {
                return Some(*row);
            }
        }
        None
    }
}
