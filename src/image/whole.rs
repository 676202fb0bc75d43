//! Whole images as plain sparse files on this machine's disk, for a kernel that reads them by itself.
//!
//! ```text
//! <cache dir>/whole/<repository>/lock              one process at a time; a second one goes without
//! <cache dir>/whole/<repository>/<root id>-<len>   an image, in the clear, with holes where it has some
//! <cache dir>/whole/<repository>/<...>.part        one that is being filled, or was when somebody was killed: then it goes
//! ```
//!
//! A file gets its name when every byte of it was proven, written and synced; a name stands for its content, as a root's id does. What happens
//! to it afterwards nobody here sees. Images are filled in the background, one after the other, each when somebody opened it first.
//! Room is made by those that were opened longest ago and that nobody has open. A disk that fails ends the filling, with one warning.

use super::{Image, Part};
use crate::error::{Context, Error, Kind, Result};
use crate::format::RepositoryId;
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An image is read in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// The plain files of one repository.
pub struct Whole {
    shared: Arc<Shared>,
    line: Sender<Image>,
}

struct Shared {
    folder: PathBuf,
    size_max: u64,
    stopped: AtomicBool,
    state: Mutex<State>,
    /// Held for as long as the files are in use.
    _lock: File,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Known>,
    /// In line, being filled, or given up.
    asked: HashSet<String>,
    clock: u64,
}

struct Known {
    file: Arc<File>,
    bytes: u64,
    used: u64,
}

impl Whole {
    /// The plain files of a repository below `dir`, which may take `size_max` bytes of disk. Starts the thread that fills.
    pub fn open(dir: &Path, repository: RepositoryId, size_max: u64) -> Result<Whole> {
        let folder = dir.join("whole").join(repository.to_string());
        let what = || format!("open the cache {}", folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).context(what)?;
        let lock = writable(&folder.join("lock")).context(what)?;
        lock.try_lock()
            .map_err(|_| Error::new(Kind::Busy, format!("{}: another process uses it", what())))?;
        let state = load(&folder).context(what)?;
        let (state, stopped) = (Mutex::new(state), AtomicBool::new(false));
        let shared = Arc::new(Shared { folder: folder.clone(), size_max, stopped, state, _lock: lock });
        let _fits = shared.make_room(0).context(what)?;
        let (line, next) = channel();
        let filler = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("whole".into());
        drop(thread.spawn(move || filler.fill_all(&next)).context(what)?);
        Ok(Whole { shared, line })
    }

    /// The image's file, if it lies here. If not it is put in line, so that it does some time. Whoever holds the file keeps it here.
    pub fn file(&self, image: &Image) -> Option<Arc<File>> {
        let name = name_of(image);
        let mut state = self.shared.state();
        state.clock += 1;
        let now = state.clock;
        if let Some(known) = state.files.get_mut(&name) {
            known.used = now;
            return Some(Arc::clone(&known.file));
        }
        if !self.shared.stopped.load(Relaxed) && state.asked.insert(name) {
            // The thread is gone only when it has given up for good.
            let _sent = self.line.send(image.clone());
        }
        None
    }

    /// How many bytes of disk the files take.
    pub fn bytes(&self) -> u64 {
        self.shared.state().bytes()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Relaxed);
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.files.values().map(|known| known.bytes).sum()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a thread of its own, until nobody asks any more or the disk fails.
    fn fill_all(&self, line: &Receiver<Image>) {
        for image in line {
            if self.stopped.load(Relaxed) {
                return;
            }
            let name = name_of(&image);
            match self.fill(&image, &name) {
                Ok(true) => {
                    let _asked = self.state().asked.remove(&name);
                }
                // It has no room, and would be read again from its start by each who asks: not before the next mount.
                Ok(false) => tracing::info!("an image is too large to be kept whole"),
                Err(error) if error.kind() == Kind::Target => {
                    tracing::warn!("no more images are kept whole from here on: {error}");
                    self.stopped.store(true, Relaxed);
                }
                Err(error) => tracing::warn!("an image is not kept whole: {error}"),
            }
        }
    }

    /// Fills one image's file; false when there was no room for it.
    fn fill(&self, image: &Image, name: &str) -> Result<bool> {
        let (path, part) = (self.folder.join(name), self.folder.join(format!("{name}.part")));
        let filled = self.write(image, &part);
        let done = match filled {
            Ok(Some(file)) => {
                let publish = || -> std::io::Result<u64> {
                    file.sync_all()?;
                    fs::rename(&part, &path)?;
                    Ok(file.metadata()?.blocks() * 512)
                };
                publish().map(|bytes| Some((file, bytes))).map_err(|error| at_fault(&part, error))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match done {
            Ok(Some((file, bytes))) => {
                let mut state = self.state();
                state.clock += 1;
                let known = Known { file: Arc::new(file), bytes, used: state.clock };
                let _none = state.files.insert(name.to_owned(), known);
                Ok(true)
            }
            other => {
                drop(fs::remove_file(&part));
                other.map(|_none| false)
            }
        }
    }

    fn write(&self, image: &Image, part: &Path) -> Result<Option<File>> {
        drop(fs::remove_file(part));
        let fault = |error| at_fault(part, error);
        let file = writable(part).map_err(fault)?;
        file.set_len(image.len()).map_err(fault)?;
        let runtime = image.engine().runtime().clone();
        let (mut at, mut written) = (0, 0);
        while at < image.len() {
            if self.stopped.load(Relaxed) {
                return Ok(None);
            }
            let mut extent = runtime.block_on(image.extent(at, (at + PIECE).min(image.len())))?;
            if !extent.data {
                extent = runtime.block_on(image.extent(at, image.len()))?;
            } else {
                let len = usize::try_from(extent.range.end - at).unwrap_or(usize::MAX);
                let parts = runtime.block_on(image.read_aside(at, len))?;
                written += write_data(&file, at, &parts).map_err(fault)?;
            }
            if !self.make_room(written).map_err(fault)? {
                return Ok(None);
            }
            at = extent.range.end;
        }
        Ok(Some(file))
    }

    /// Takes away those that were opened longest ago until there is room for so many bytes more; false when there is none.
    fn make_room(&self, bytes: u64) -> std::io::Result<bool> {
        let mut state = self.state();
        while state.bytes() + bytes > self.size_max {
            let idle = state.files.iter().filter(|(_, known)| Arc::strong_count(&known.file) == 1);
            let Some(name) = idle.min_by_key(|(_, known)| known.used).map(|(name, _)| name.clone()) else {
                return Ok(false);
            };
            match fs::remove_file(self.folder.join(&name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => drop(state.files.remove(&name)),
            }
        }
        Ok(true)
    }
}

/// What stands here as a name stands for content: equal images share a file.
fn name_of(image: &Image) -> String {
    format!("{}-{}", image.id(), image.len())
}

fn writable(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Writes what is stored; how many bytes that were. Zeros stay holes.
fn write_data(file: &File, mut at: u64, parts: &[Part]) -> std::io::Result<u64> {
    let mut written = 0;
    for part in parts {
        match part {
            Part::Bytes(bytes) => {
                file.write_all_at(bytes, at)?;
                at += bytes.len() as u64;
                written += bytes.len() as u64;
            }
            Part::Zeros(len) => at += len,
        }
    }
    Ok(written)
}

fn at_fault(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Target, format!("write {}", path.display())).caused_by(error)
}

/// Learns what lies there, and takes away what was not finished.
fn load(folder: &Path) -> std::io::Result<State> {
    let mut state = State::default();
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.ends_with(".part") {
            drop(fs::remove_file(entry.path()));
            continue;
        }
        let Some(len) = name.split_once('-').and_then(|(_, len)| len.parse::<u64>().ok()) else { continue };
        let Ok(file) = File::open(entry.path()) else { continue };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() != len {
            drop(fs::remove_file(entry.path()));
            continue;
        }
        let known = Known { file: Arc::new(file), bytes: meta.blocks() * 512, used: 0 };
        let _none = state.files.insert(name, known);
    }
    Ok(state)
}
