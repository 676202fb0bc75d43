//! The journal of a restore: a small file that stands as long as the target is incomplete, and says what of it is done.
//!
//! It stands beside a target that is a file (`disk.img.afterimage-restore`) and in the user's state directory for a device, or when
//! there is no room beside the file. It is there before the first byte is written and goes after the last sync, so it also marks a
//! target that somebody must not take for a restored one (R6).
//!
//! **Invariant:** a range is in the file only after a sync that followed its writing. A run that finds the journal of the same restore
//! goes on (R8); one that finds another restore's is refused; damage, a stranger's file and a target that was made anew mean beginning
//! again.
//!
//! A range in the journal was on the medium, but somebody may have written there since: a caller who wants more than that reads such
//! ranges and compares their ids with the map's, which fetches nothing.

use super::Target;
use super::facts::{Facts, What};
use super::judge::Verdict;
use super::progress::{Bound, Progress, Ranges, STATE_LEN_MAX, decode, encode};
use crate::error::{Context, Error, Kind, Result};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

const SUFFIX: &str = ".afterimage-restore";
const NAME_LEN_MAX: usize = 255 - ".new".len();

/// How a restore begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// From the beginning.
    Fresh,
    /// With so many bytes done by earlier runs.
    Resumed(u64),
    /// From the beginning, because the journal that was found can't be trusted; the words say why.
    Again(String),
}

/// What a restore has done, in memory and in its file.
#[derive(Debug)]
pub struct Journal {
    /// None: nothing is kept.
    path: Option<PathBuf>,
    bound: Bound,
    done: Mutex<Ranges>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

impl Journal {
    /// Begins or resumes a restore. `bound.target` is filled in from the facts; `state` is the user's state directory.
    pub fn begin(facts: &Facts, verdict: &Verdict, bound: Bound, state: &Path) -> Result<(Journal, Begun)> {
        let bound = Bound { target: facts.fingerprint.clone().unwrap_or_default(), ..bound };
        let places = places(facts, state);
        // What is new can't have been restored before, whatever an old journal of that name says.
        let new = verdict.create || verdict.set_size || bound.target.is_empty();
        let found = if new { None } else { places.iter().find_map(|path| read(path).transpose()) };
        let (done, begun) = match found.transpose()? {
            None => (Ranges::default(), Begun::Fresh),
            Some(Found { path, kept: Err(why) }) => {
                (Ranges::default(), Begun::Again(format!("{} is not used: {why}", path.display())))
            }
            Some(Found { path, kept: Ok(kept) }) if kept.bound != bound => {
                return Err(another(&path, &kept.bound));
            }
            Some(Found { kept: Ok(kept), .. }) if kept.done.total() == 0 => (kept.done, Begun::Fresh),
            Some(Found { kept: Ok(kept), .. }) => {
                let total = kept.done.total();
                (kept.done, Begun::Resumed(total))
            }
        };
        let path = first_writable(&places, &Progress { bound: bound.clone(), done: done.clone() })?;
        Ok((Journal { path: Some(path), bound, done: Mutex::new(done), writing: Mutex::new(()) }, begun))
    }

    /// For a target that can't be recognised the next time: nothing is kept, and a restore that was interrupted begins again.
    pub fn unkept(bound: Bound) -> Journal {
        Journal { path: None, bound, done: Mutex::default(), writing: Mutex::default() }
    }

    /// Where it stands, for messages; nowhere if nothing is kept.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What was done by earlier runs and this one.
    pub fn done(&self) -> Ranges {
        locked(&self.done).clone()
    }

    /// Whether a range is done.
    pub fn covers(&self, offset: u64, len: u64) -> bool {
        locked(&self.done).covers(offset, len)
    }

    /// A range was written; it will be in the file after the next `flush`.
    pub fn add(&self, offset: u64, len: u64) {
        locked(&self.done).add(offset, len);
    }

    /// Syncs the target and then writes down what was done before the sync.
    pub fn flush(&self, target: &dyn Target) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let _turn = locked(&self.writing);
        let done = self.done();
        target.sync()?;
        write(path, &encode(&Progress { bound: self.bound.clone(), done }))
    }

    /// The target is complete and was synced: the journal goes.
    pub fn complete(self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let what = || format!("remove the restore's journal {}", path.display());
        std::fs::remove_file(path).context(what)?;
        sync_directory(path).context(what)
    }
}

/// Where the journal of a target may stand, the best place first.
fn places(facts: &Facts, state: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if facts.what != What::Block
        && let Some(name) = facts.real.file_name()
    {
        let mut name = OsString::from(name);
        name.push(SUFFIX);
        if name.len() <= NAME_LEN_MAX {
            places.push(facts.real.with_file_name(name));
        }
    }
    let key = match &facts.fingerprint {
        Some(fingerprint) => xxh3_64(fingerprint.as_bytes()),
        None => xxh3_64(facts.real.as_os_str().as_bytes()),
    };
    places.push(state.join("restore").join(format!("{key:016x}{SUFFIX}")));
    places
}

/// Writes the first state where that is possible; afterwards the journal stays there.
fn first_writable(places: &[PathBuf], progress: &Progress) -> Result<PathBuf> {
    let bytes = encode(progress);
    let mut first = None;
    for path in places {
        match write(path, &bytes) {
            Ok(()) => {
                // One target, one journal: another one would be found by the next run.
                places
                    .iter()
                    .filter(|other| *other != path)
                    .for_each(|other| drop(std::fs::remove_file(other)));
                return Ok(path.clone());
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.expect("there is always a place in the state directory"))
}

struct Found {
    path: PathBuf,
    kept: Result<Progress, String>,
}

/// The journal at `path`, if there is a file.
fn read(path: &Path) -> Result<Option<Found>> {
    let what = || format!("read the restore's journal {}", path.display());
    let how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, how, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Ok(Some(Found { path: path.into(), kept: Err("it is a link".into()) }));
        }
        Err(error) => return Err(error).context(what),
    };
    let meta = file.metadata().context(what)?;
    let kept =
        if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            // Whoever can write it could make us skip ranges.
            Err("others than its user may have written it".to_owned())
        } else {
            let mut bytes = Vec::new();
            let _ = file.take(STATE_LEN_MAX as u64 + 1).read_to_end(&mut bytes).context(what)?;
            decode(&bytes).map_err(|why| why.to_string())
        };
    Ok(Some(Found { path: path.into(), kept }))
}

/// Replaces the journal by these bytes; after a crash there is the old one or the new one.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("write the restore's journal {}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).context(what)?;
    }
    // One that a killed run left. It is never opened, only replaced.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context(what),
        _ => {}
    }
    let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&new, how, Mode::RUSR | Mode::WUSR).context(what)?);
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written.and_then(|()| sync_directory(path)).context(what)
}

fn sync_directory(of: &Path) -> std::io::Result<()> {
    of.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn another(path: &Path, other: &Bound) -> Error {
    let words =
        format!("resume: {} is the journal of another restore, of backup {}", path.display(), other.backup);
    Error::new(Kind::Refused, words).hint("finish that one, or remove the file to begin from the start")
}

/// A thread that panicked with the lock left whole ranges behind: each change is one call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
