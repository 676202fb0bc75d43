//! The disk tier: chunks that were fetched from afar, kept on this machine as sealed as they came, within a bound, across restarts.
//!
//! ```text
//! <cache dir>/chunks/<repository>/lock            one process at a time fills it; others read what that one has put in
//! <cache dir>/chunks/<repository>/<16 digits>     a segment; the oldest one goes when there is no room for another
//! segment := ( chunk[32] pack[16] len[u32] check[u64] sealed )*       check: XXH3 of what stands before it; little-endian
//! ```
//!
//! What lies here is what lay in the pack, under the pack's key, which derives from the repository's: filling the tier costs no sealing, no
//! secret reaches the disk, and the tag proves each chunk when it is opened. Nothing here is trusted and nothing is needed: what is damaged
//! or gone is a miss. A disk that is full or fails turns the tier off, with one warning (A11). What lies here is learnt by reading every
//! head, which a slow disk can take minutes for: nobody waits that long, and until it is known everything is a miss.

use crate::error::{Context, Result};
use crate::format::{ChunkId, PackId, RepositoryId, limits};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// When a segment is closed, unless the bound is small.
const SEGMENT_LEN: u64 = 64 << 20;
/// The bound is kept to by at least so many segments, so that the oldest one is a small part.
const SEGMENTS_MIN: u64 = 8;
const HEAD_LEN: usize = 32 + 16 + 4 + 8;
/// How long who opens it waits for what lies here to be known: a warm tier is best from the first read on.
const LEARNT_WITHIN: Duration = Duration::from_secs(5);
/// How often who only reads looks for what was put in since.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What a chunk is found by: sealed bytes open only under the key of the pack that they came from.
type Key = (ChunkId, PackId);

/// Where a chunk lies here.
#[derive(Clone, Copy)]
struct Spot {
    segment: u64,
    offset: u64,
    len: u32,
}

/// The tier.
pub struct Disk {
    folder: PathBuf,
    size_max: u64,
    segment_len: u64,
    off: AtomicBool,
    state: Mutex<State>,
    /// As `state` has it, for who can't wait: a disk that hangs in a write holds the lock.
    bytes: AtomicU64,
    /// Held for as long as the tier is filled by this process; none in one that only reads.
    lock: Option<File>,
    /// What lies here comes from there, for as long as it is not known.
    learning: Mutex<Option<Receiver<std::io::Result<State>>>>,
    /// There is nothing to learn any more: no lock is taken to find that out.
    known: AtomicBool,
}

#[derive(Default)]
struct State {
    spots: HashMap<Key, Spot>,
    segments: BTreeMap<u64, Segment>,
    bytes: u64,
    followed: Option<Instant>,
}

struct Segment {
    file: Arc<File>,
    len: u64,
}

impl State {
    fn forget_segment(&mut self, number: u64) {
        let len = self.segments.remove(&number).map_or(0, |segment| segment.len);
        self.bytes = self.bytes.saturating_sub(len);
        self.spots.retain(|_, spot| spot.segment != number);
    }
}

impl Disk {
    /// Opens the tier of a repository below `dir`, which may hold `size_max` bytes. Where another process fills it, this one only reads.
    pub fn open(dir: &Path, repository: RepositoryId, size_max: u64) -> Result<Disk> {
        Disk::open_within(dir, repository, size_max, LEARNT_WITHIN)
    }

    fn open_within(dir: &Path, repository: RepositoryId, size_max: u64, patience: Duration) -> Result<Disk> {
        let folder = dir.join("chunks").join(repository.to_string());
        let place = folder.display().to_string();
        let what = || format!("open the cache {place}");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).context(what)?;
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"));
        let lock = lock.context(what)?;
        let lock = match lock.try_lock() {
            Ok(()) => Some(lock),
            Err(fs::TryLockError::WouldBlock) => None,
            Err(fs::TryLockError::Error(error)) => return Err(error).context(what),
        };
        let segment_len = (size_max / SEGMENTS_MIN).clamp(1, SEGMENT_LEN);
        let learning = start_to_learn(folder.clone(), lock.is_some()).context(what)?;
        let disk = Disk {
            folder,
            size_max,
            segment_len,
            off: AtomicBool::new(false),
            state: Mutex::default(),
            bytes: AtomicU64::new(0),
            lock,
            learning: Mutex::new(Some(learning)),
            known: AtomicBool::new(false),
        };
        let _so_far = disk.is_known(patience).context(what)?;
        Ok(disk)
    }

    /// Whether it is known what lies here; waits for that no longer than this.
    fn is_known(&self, patience: Duration) -> std::io::Result<bool> {
        if self.known.load(Acquire) {
            return Ok(true);
        }
        let mut learning = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = &*learning else { return Ok(true) };
        let learnt = match told.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(std::io::Error::other("who reads its heads is gone")),
            Ok(learnt) => learnt,
        };
        *learning = None;
        let begun = self.begin(learnt?);
        self.known.store(true, Release);
        begun.map(|()| true)
    }

    /// Whether it is in use by now.
    fn is_on(&self) -> bool {
        let is_known = || {
            self.is_known(Duration::ZERO).unwrap_or_else(|error| {
                self.turn_off(&error);
                false
            })
        };
        !self.off.load(Relaxed) && is_known()
    }

    /// The sealed bytes of a chunk of a pack, as they were put in, if they are here. They prove themselves when they are opened.
    pub fn get(&self, chunk: ChunkId, pack: PackId) -> Option<Vec<u8>> {
        if !self.is_on() {
            return None;
        }
        let (file, spot) = {
            let mut state = self.state();
            if self.lock.is_none() && !state.spots.contains_key(&(chunk, pack)) {
                self.follow(&mut state);
            }
            let spot = *state.spots.get(&(chunk, pack))?;
            (Arc::clone(&state.segments.get(&spot.segment)?.file), spot)
        };
        let mut sealed = vec![0; spot.len as usize];
        match file.read_exact_at(&mut sealed, spot.offset) {
            Ok(()) => Some(sealed),
            Err(_) => {
                self.forget(chunk, pack);
                None
            }
        }
    }

    /// Keeps the sealed bytes of a chunk.
    pub fn put(&self, chunk: ChunkId, pack: PackId, sealed: &[u8]) {
        if self.lock.is_none() || sealed.len() > limits::SEALED_LEN_MAX as usize || !self.is_on() {
            return;
        }
        if let Err(error) = self.append(chunk, pack, sealed) {
            self.turn_off(&error);
        }
    }

    /// What lay here as this chunk did not open: it is a miss from now on.
    pub fn forget(&self, chunk: ChunkId, pack: PackId) {
        let _spot = self.state().spots.remove(&(chunk, pack));
    }

    /// How many bytes lie here, as far as is known. Never waits.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    fn append(&self, chunk: ChunkId, pack: PackId, sealed: &[u8]) -> std::io::Result<()> {
        let entry = [&head(chunk, pack, sealed.len() as u32)[..], sealed].concat();
        let mut state = self.state();
        if state.spots.contains_key(&(chunk, pack)) || entry.len() as u64 > self.segment_len {
            return Ok(());
        }
        let has_room = |segment: &Segment| segment.len + entry.len() as u64 <= self.segment_len;
        let newest = state.segments.last_key_value().map(|(number, segment)| (*number, has_room(segment)));
        let number = match newest {
            Some((number, true)) => number,
            newest => {
                let number = newest.map_or(1, |(number, _)| number + 1);
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(self.path(number))?;
                let _none = state.segments.insert(number, Segment { file: Arc::new(file), len: 0 });
                number
            }
        };
        while state.bytes + entry.len() as u64 > self.size_max {
            if !self.drop_oldest(&mut state, number)? {
                return Ok(());
            }
        }
        let Some(segment) = state.segments.get_mut(&number) else { return Ok(()) };
        let offset = segment.len;
        segment.file.write_all_at(&entry, offset)?;
        segment.len += entry.len() as u64;
        state.bytes += entry.len() as u64;
        self.bytes.store(state.bytes, Relaxed);
        let spot = Spot { segment: number, offset: offset + HEAD_LEN as u64, len: sealed.len() as u32 };
        let _none = state.spots.insert((chunk, pack), spot);
        Ok(())
    }

    /// Makes room; false when nothing but the segment in use is left.
    fn drop_oldest(&self, state: &mut State, in_use: u64) -> std::io::Result<bool> {
        let Some((number, _)) = state.segments.first_key_value().filter(|(number, _)| **number != in_use)
        else {
            return Ok(false);
        };
        let number = *number;
        match fs::remove_file(self.path(number)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        state.forget_segment(number);
        self.bytes.store(state.bytes, Relaxed);
        Ok(true)
    }

    /// Begins with what was learnt; what can't be understood ends its segment.
    fn begin(&self, learnt: State) -> std::io::Result<()> {
        let mut state = self.state();
        *state = learnt;
        if self.lock.is_some() {
            for segment in state.segments.values() {
                segment.file.set_len(segment.len)?;
            }
            let newest = state.segments.last_key_value().map_or(0, |(number, _)| *number);
            while state.bytes > self.size_max && self.drop_oldest(&mut state, newest)? {}
        }
        self.bytes.store(state.bytes, Relaxed);
        Ok(())
    }

    /// Learns now and then what another process has put in, and lets go of what it has removed.
    fn follow(&self, state: &mut State) {
        if state.followed.is_some_and(|last| last.elapsed() < FOLLOW_EVERY) {
            return;
        }
        state.followed = Some(Instant::now());
        let gone: Vec<u64> =
            state.segments.keys().copied().filter(|number| !self.path(*number).exists()).collect();
        for number in gone {
            state.forget_segment(number);
        }
        if let Err(error) = learn(&self.folder, self.lock.is_some(), state) {
            tracing::debug!("look into the cache {}: {error}", self.folder.display());
        }
        self.bytes.store(state.bytes, Relaxed);
    }

    fn turn_off(&self, error: &std::io::Error) {
        if !self.off.swap(true, Relaxed) {
            tracing::warn!("the cache {} is not used from here on: {error}", self.folder.display());
        }
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:016x}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Learns all that lies in a folder, on a thread of its own.
fn start_to_learn(folder: PathBuf, fills: bool) -> std::io::Result<Receiver<std::io::Result<State>>> {
    let (tell, told) = channel();
    let work = move || {
        let mut state = State::default();
        let learnt = learn(&folder, fills, &mut state).map(|()| state);
        // The tier may have been closed meanwhile.
        let _nobody = tell.send(learnt);
    };
    drop(std::thread::Builder::new().name("tier".into()).spawn(work)?);
    Ok(told)
}

/// Learns what was not known yet: new segments, and what stands behind the known part of others.
fn learn(folder: &Path, fills: bool, state: &mut State) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some(number) = number_of(&name) else { continue };
        let known = state.segments.get(&number).map(|segment| (Arc::clone(&segment.file), segment.len));
        let (file, from) = match known {
            Some(known) => known,
            None => {
                let opened = OpenOptions::new().read(true).write(fills).open(entry.path());
                let Ok(file) = opened else { continue };
                (Arc::new(file), 0)
            }
        };
        let len = scan(&file, number, from, &mut state.spots);
        state.bytes += len - from;
        let _before = state.segments.insert(number, Segment { file, len });
    }
    Ok(())
}

/// Which segment a file is, if it is called as we call them. There is no last number, so that each has one behind it.
fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 16).ok().filter(|number| *number < u64::MAX)?;
    (format!("{number:016x}") == name).then_some(number)
}

fn head(chunk: ChunkId, pack: PackId, len: u32) -> [u8; HEAD_LEN] {
    let mut out = [0; HEAD_LEN];
    out[..32].copy_from_slice(&chunk.0);
    out[32..48].copy_from_slice(&pack.0);
    out[48..52].copy_from_slice(&len.to_le_bytes());
    let check = xxh3_64(&out[..52]);
    out[52..].copy_from_slice(&check.to_le_bytes());
    out
}

/// The chunk, its pack and its length, if the head is whole.
fn parse(bytes: &[u8; HEAD_LEN]) -> Option<(ChunkId, PackId, u32)> {
    let chunk = ChunkId(*bytes.first_chunk()?);
    let pack = PackId(*bytes[32..].first_chunk()?);
    let len = u32::from_le_bytes(*bytes[48..].first_chunk()?);
    (head(chunk, pack, len) == *bytes && len <= limits::SEALED_LEN_MAX).then_some((chunk, pack, len))
}

/// Learns what a segment holds from a place on; how long the part of it is that makes sense.
fn scan(file: &File, number: u64, from: u64, spots: &mut HashMap<Key, Spot>) -> u64 {
    let end = file.metadata().map_or(0, |meta| meta.len());
    let (mut at, mut bytes) = (from, [0; HEAD_LEN]);
    while file.read_exact_at(&mut bytes, at).is_ok() {
        let Some((chunk, pack, len)) = parse(&bytes) else { break };
        let offset = at + HEAD_LEN as u64;
        let next = offset + u64::from(len);
        if next > end {
            break;
        }
        let _before = spots.insert((chunk, pack), Spot { segment: number, offset, len });
        at = next;
    }
    at
}

/// For fuzzers: a segment of any bytes, and the same with heads that prove themselves. What is learnt lies in it, and nothing behind its end.
pub fn fuzz(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), proven(bytes)] {
        let file = rustix::fs::memfd_create("segment", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
        let file = file.expect("a file in memory");
        file.write_all_at(&bytes, 0).expect("room in memory");
        let mut spots = HashMap::new();
        let end = scan(&file, 1, 0, &mut spots);
        assert!(end <= bytes.len() as u64);
        assert!(spots.values().all(|spot| spot.offset + u64::from(spot.len) <= end));
        file.set_len(end).expect("cut a file in memory");
        let mut again = HashMap::new();
        assert_eq!((scan(&file, 1, end, &mut again), again.len()), (end, 0));
        assert_eq!((scan(&file, 1, 0, &mut again), again.len()), (end, spots.len()));
    }
}

fn proven(bytes: &[u8]) -> Vec<u8> {
    let (mut all, mut at) = (bytes.to_vec(), 0);
    while let Some(head) = all.get_mut(at..at + HEAD_LEN) {
        let check = xxh3_64(&head[..52]);
        head[52..].copy_from_slice(&check.to_le_bytes());
        at += HEAD_LEN + head[48..].first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize);
    }
    all
}

#[cfg(test)]
mod tests;
