//! Places to begin at, kept on this machine: who was somewhere in an object once is there soon the next time, also in another process.
//!
//! ```text
//! <cache>/cinder/<container>/points/<name>     name: XXH3-128 of the object's name, its length and its age
//! file  := magic[8] ( head check[8] body )*    head := out[8] at[8] unused[1] byte[1] len[4], little-endian; check: XXH3 of head and body
//! body  := the bytes before the place, by zstd
//! ```
//!
//! Nothing here is trusted or needed. What is damaged ends its file and is found again; where nothing can be written, a few places are kept in memory.
//! What lies here are plain bytes of the image, readable by its owner only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

const MAGIC: &[u8; 8] = b"AIpoint1";
const HEAD_LEN: usize = 8 + 8 + 1 + 1 + 4;
/// No window takes more, compressed or not.
const BODY_LEN_MAX: u32 = 64 << 10;
/// How many places of an object are kept in memory where no file can be.
const HERE_MAX: usize = 16;
/// How many bytes all files together may take.
const FOLDER_MAX: u64 = 2 << 30;

/// A place to begin at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// How many plain bytes come before it.
    pub(super) out: u64,
    /// Which stored byte is the next whole one.
    pub(super) at: u64,
    /// How many bits of the byte before belong to what comes.
    pub(super) unused: u8,
    /// That byte.
    pub(super) byte: u8,
    /// The plain bytes before it, as far as they are needed.
    pub(super) window: Vec<u8>,
}

/// The folder of all places of a container.
pub(in crate::foreign::cinder) struct Folder(Option<PathBuf>);

/// The places of one object.
pub(super) struct Points {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<Arc<File>>,
    /// Where the file ends, as far as it makes sense.
    end: u64,
    /// By how many plain bytes come before.
    known: Vec<Known>,
    loaded: bool,
}

struct Known {
    out: u64,
    kept: Kept,
    /// Whether this process found it; else it was found in the file, and is only as good as that.
    own: bool,
}

enum Kept {
    Here(Point),
    /// In the file: where its head is.
    There(u64),
}

impl Folder {
    /// The folder below a container's cache; what has not been used for longest goes when there is too much.
    pub(in crate::foreign::cinder) fn open(cache: &Path) -> Folder {
        let folder = cache.join("points");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let made = made.and_then(|()| shorten(&folder, FOLDER_MAX));
        if let Err(error) = &made {
            tracing::info!("no places to begin at are kept in {}: {error}", folder.display());
        }
        Folder(made.ok().map(|()| folder))
    }

    /// The places of an object, by what tells it from all others.
    pub(super) fn of(&self, identity: &str) -> Points {
        let name = format!("{:032x}", xxh3_128(identity.as_bytes()));
        Points { path: self.0.as_ref().map(|folder| folder.join(name)), state: Mutex::default() }
    }
}

impl Points {
    /// The last place at or before so many plain bytes; 0 is the start of the object.
    pub(super) fn before(&self, out: u64) -> Option<u64> {
        let mut state = self.state();
        self.load(&mut state);
        let behind = state.known.partition_point(|known| known.out <= out);
        behind.checked_sub(1).and_then(|place| state.known.get(place)).map(|known| known.out)
    }

    /// The first place behind so many plain bytes.
    pub(super) fn behind(&self, out: u64) -> Option<u64> {
        let mut state = self.state();
        self.load(&mut state);
        let behind = state.known.partition_point(|known| known.out <= out);
        state.known.get(behind).map(|known| known.out)
    }

    /// One of them, whole, and whether this process found it. One that can't be had any more is forgotten.
    pub(super) fn get(&self, out: u64) -> Option<(Point, bool)> {
        let mut state = self.state();
        let place = state.known.binary_search_by_key(&out, |known| known.out).ok()?;
        let known = state.known.get(place)?;
        let (at, own) = match &known.kept {
            Kept::Here(point) => return Some((point.clone(), known.own)),
            Kept::There(at) => (*at, known.own),
        };
        let read = state.file.as_ref().and_then(|file| read_whole(file, at));
        if read.is_none() {
            let _gone = state.known.remove(place);
        }
        read.map(|point| (point, own))
    }

    /// Keeps a place.
    pub(super) fn put(&self, point: Point) {
        let mut state = self.state();
        self.load(&mut state);
        let out = point.out;
        if state.known.binary_search_by_key(&out, |known| known.out).is_ok() {
            return;
        }
        let kept = match self.append(&mut state, &point) {
            Ok(at) => Kept::There(at),
            Err(_) => Kept::Here(point),
        };
        // Looking at the file again may have changed what is known.
        let known = Known { out, kept, own: true };
        match state.known.binary_search_by_key(&out, |known| known.out) {
            Ok(place) => state.known[place] = known,
            Err(place) => state.known.insert(place, known),
        }
        thin_out(&mut state.known);
    }

    /// They may have led to other bytes than they should: if any of them is another process's, none is used again. Whether there was one.
    pub(super) fn distrust(&self) -> bool {
        let mut state = self.state();
        let strange = state.known.iter().any(|known| !known.own);
        if strange {
            *state = State { loaded: true, ..State::default() };
            if let Some(path) = &self.path {
                drop(std::fs::remove_file(path));
            }
        }
        strange
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns what the file holds, once.
    fn load(&self, state: &mut State) {
        if std::mem::replace(&mut state.loaded, true) {
            return;
        }
        let Some(path) = &self.path else { return };
        if let Ok(file) = File::options().read(true).open(path) {
            state.end = scan(&file, &mut state.known);
            state.file = Some(Arc::new(file));
        }
    }

    /// Appends a place to the file; where it is there.
    fn append(&self, state: &mut State, point: &Point) -> std::io::Result<u64> {
        let path = self.path.as_ref().ok_or(std::io::ErrorKind::Unsupported)?;
        let mut how = OpenOptions::new();
        let file = how.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // Somebody else who reads the same object writes the same places; one of us is enough.
        file.try_lock().map_err(|_| std::io::ErrorKind::WouldBlock)?;
        let len = file.metadata()?.len();
        if len != state.end || len == 0 {
            if len != 0 {
                state.known.retain(|known| matches!(known.kept, Kept::Here(_)));
                state.end = scan(&file, &mut state.known);
            }
            if state.end == 0 {
                file.set_len(0)?;
                file.write_all_at(MAGIC, 0)?;
                state.end = MAGIC.len() as u64;
            }
        }
        let at = state.end;
        let entry = entry_of(point)?;
        file.write_all_at(&entry, at)?;
        file.set_len(at + entry.len() as u64)?;
        file.unlock()?;
        state.end = at + entry.len() as u64;
        state.file = Some(Arc::new(file));
        Ok(at)
    }
}

/// Where too many places are held in memory, every other one goes.
fn thin_out(known: &mut Vec<Known>) {
    let here = known.iter().filter(|known| matches!(known.kept, Kept::Here(_))).count();
    if here > HERE_MAX {
        let mut number = 0;
        known.retain(|known| {
            let is_here = matches!(known.kept, Kept::Here(_));
            number += usize::from(is_here);
            !is_here || number % 2 == 0
        });
    }
}

fn entry_of(point: &Point) -> std::io::Result<Vec<u8>> {
    let body = zstd::bulk::compress(&point.window, 1)?;
    let mut head = Vec::with_capacity(HEAD_LEN + 8 + body.len());
    head.extend(point.out.to_le_bytes());
    head.extend(point.at.to_le_bytes());
    head.extend([point.unused, point.byte]);
    head.extend((body.len() as u32).to_le_bytes());
    let check = check_of(&head, &body);
    head.extend(check.to_le_bytes());
    head.extend(body);
    Ok(head)
}

fn check_of(head: &[u8], body: &[u8]) -> u64 {
    let mut state = Xxh3::new();
    state.update(head);
    state.update(body);
    state.digest()
}

/// The head of an entry: the point without its window, how long the body is, and its check.
fn head_at(file: &File, at: u64) -> Option<(Point, u32, u64, [u8; HEAD_LEN])> {
    let mut bytes = [0; HEAD_LEN + 8];
    file.read_exact_at(&mut bytes, at).ok()?;
    let head: [u8; HEAD_LEN] = *bytes.first_chunk()?;
    let word = |from: usize| {
        head.get(from..from + 8).and_then(|word| word.first_chunk().copied()).map(u64::from_le_bytes)
    };
    let len = u32::from_le_bytes(*head.last_chunk()?);
    let check = u64::from_le_bytes(*bytes.last_chunk()?);
    let point = Point { out: word(0)?, at: word(8)?, unused: head[16], byte: head[17], window: Vec::new() };
    (len <= BODY_LEN_MAX && point.unused < 8).then_some((point, len, check, head))
}

fn read_whole(file: &File, at: u64) -> Option<Point> {
    let (mut point, len, check, head) = head_at(file, at)?;
    let mut body = vec![0; len as usize];
    file.read_exact_at(&mut body, at + (HEAD_LEN + 8) as u64).ok()?;
    if check_of(&head, &body) != check {
        return None;
    }
    point.window = zstd::bulk::decompress(&body, BODY_LEN_MAX as usize).ok()?;
    Some(point)
}

/// Learns which places a file holds, by their heads alone; where the part of it ends that makes sense.
fn scan(file: &File, known: &mut Vec<Known>) -> u64 {
    let mut magic = [0; 8];
    let end = file.metadata().map_or(0, |meta| meta.len());
    if file.read_exact_at(&mut magic, 0).is_err() || magic != *MAGIC {
        return 0;
    }
    let mut at = MAGIC.len() as u64;
    while let Some((point, len, ..)) = head_at(file, at) {
        let next = at + (HEAD_LEN + 8) as u64 + u64::from(len);
        if next > end {
            break;
        }
        if let Err(place) = known.binary_search_by_key(&point.out, |known| known.out) {
            known.insert(place, Known { out: point.out, kept: Kept::There(at), own: false });
        }
        at = next;
    }
    at
}

/// For fuzzers: a file of any bytes, and the same with checks that fit. What is found lies in it, in order, and is no longer than we write.
pub(in crate::foreign::cinder) fn fuzz(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), proven(bytes)] {
        let file = rustix::fs::memfd_create("points", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
        let file = file.expect("a file in memory");
        file.write_all_at(&bytes, 0).expect("room in memory");
        let mut known = Vec::new();
        assert!(scan(&file, &mut known) <= bytes.len() as u64);
        assert!(known.is_sorted_by(|a, b| a.out < b.out));
        for known in known {
            let Kept::There(at) = known.kept else { continue };
            let point = read_whole(&file, at);
            assert!(point.is_none_or(|point| {
                point.out == known.out && point.window.len() <= BODY_LEN_MAX as usize && point.unused < 8
            }));
        }
    }
}

fn proven(bytes: &[u8]) -> Vec<u8> {
    let (mut all, mut at) = (bytes.to_vec(), MAGIC.len());
    while let Some(entry) = all.get_mut(at..).filter(|entry| entry.len() >= HEAD_LEN + 8) {
        let len = entry[HEAD_LEN - 4..].first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize);
        let Some(body) = entry.get(HEAD_LEN + 8..HEAD_LEN + 8 + len) else { break };
        let check = check_of(&entry[..HEAD_LEN], body);
        entry[HEAD_LEN..HEAD_LEN + 8].copy_from_slice(&check.to_le_bytes());
        at += HEAD_LEN + 8 + len;
    }
    all
}

/// Takes away the files that were written longest ago until the rest is half of what may be there.
fn shorten(folder: &Path, most: u64) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        files.push((meta.modified()?, meta.len(), entry.path()));
    }
    let mut sum: u64 = files.iter().map(|(_, len, _)| len).sum();
    if sum > most {
        files.sort();
        for (_, len, path) in files {
            if sum <= most / 2 {
                break;
            }
            drop(std::fs::remove_file(path));
            sum -= len;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(number: u64) -> Point {
        let window = (0..30_000u64).map(|at| (at * number % 251) as u8).collect();
        Point { out: number << 22, at: number * 1000, unused: (number % 8) as u8, byte: number as u8, window }
    }

    #[test]
    fn a_place_is_there_for_the_next_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path());
        let points = folder.of("a");
        assert_eq!(points.before(u64::MAX), None);
        [3, 1, 2].into_iter().for_each(|number| points.put(point(number)));
        for points in [points, folder.of("a")] {
            assert_eq!(
                [0, 1 << 22, (3 << 22) - 1, u64::MAX].map(|out| points.before(out)),
                [None, Some(1 << 22), Some(2 << 22), Some(3 << 22)]
            );
            for number in 1..=3 {
                assert_eq!(points.get(number << 22).map(|(point, _)| point), Some(point(number)));
            }
        }
        assert_eq!(folder.of("b").before(u64::MAX), None);
    }

    #[test]
    fn damage_costs_places_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path());
        (1..6).for_each(|number| folder.of("a").put(point(number)));
        let path = std::fs::read_dir(dir.path().join("points")).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes[..bytes.len() - at % 50]).unwrap();
            let points = folder.of("a");
            while let Some(out) = points.before(u64::MAX) {
                let found = points.get(out);
                assert!(found.is_none() || found == Some((point(out >> 22), false)), "{at}: {out}");
                if found.is_some() {
                    break;
                }
            }
            points.put(point(9));
            assert!(points.get(9 << 22) == Some((point(9), true)), "{at}");
        }
        let points = folder.of("a");
        assert!(points.before(u64::MAX).is_some() && points.distrust() && !points.distrust());
        assert!(!path.exists() && points.before(u64::MAX).is_none());
    }

    #[test]
    fn without_a_folder_a_few_places_are_kept_in_memory() {
        let points = Folder(None).of("a");
        (1..100).for_each(|number| points.put(point(number)));
        let kept = points.state().known.len();
        assert!((HERE_MAX / 2..=HERE_MAX).contains(&kept), "{kept}");
        assert!(points.before(100 << 22).and_then(|out| points.get(out)).is_some());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_when_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..10 {
            std::fs::write(dir.path().join(number.to_string()), [0; 100]).unwrap();
        }
        shorten(dir.path(), 1000).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 10);
        shorten(dir.path(), 999).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
