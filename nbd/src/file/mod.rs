//! Exports over a regular file or a block device.
//!
//! What the page cache holds is answered at once, on the connection's own thread. What has to wait for a disk goes to
//! the blocking pool. Whether a write waits can't be asked beforehand, so they are done at once for as long as they are
//! quick, and through the pool for a while after one was not.
//!
//! Holds: FLUSH and FUA are answered after the disk has it. After the first sync that fails, nothing is written any
//! more: the kernel has dropped what it could not store, and would call the next sync a success.

mod pace;
mod system;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::buffers;
use crate::export::{Answer, BlockSizes, Error, Export, Extent, Info, Kind, Parts, Result, Stored, Zeroing};
use pace::Pace;
use system::Attempt;

/// Copying so much takes long enough that it pays to let another core do it.
const LARGE: usize = 128 * 1024;
/// Longer ranges than this are zeroed and trimmed in the pool: whether a disk is slow at it shows only when it is done.
const INLINE_MAX: u64 = 1024 * 1024;
/// Threads that one export may keep busy.
const THREADS_MAX: usize = 32;

/// An export over a regular file or a block device.
#[derive(Debug)]
pub struct FileExport {
    shared: Arc<Shared>,
    threads: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<File>,
    info: Info,
    is_device: bool,
    reads: Pace,
    writes: Pace,
    /// Counts what was written; starts at one, so that the first flush also covers what came before us.
    written: AtomicU64,
    /// How far everything is known to be on disk.
    synced: AtomicU64,
    /// A sync failed.
    poisoned: AtomicBool,
    /// One sync at a time.
    syncing: Mutex<()>,
}

/// What a change takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    Little,
    /// Enough to let another core do it.
    Copying,
    /// Nobody knows.
    Long,
}

impl Effort {
    fn of_range(len: u64) -> Effort {
        if len > INLINE_MAX { Effort::Long } else { Effort::Little }
    }
}

impl FileExport {
    /// Opens a file or device.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path);
        let export = file.and_then(|file| Self::new(file, read_only));
        export.map_err(|error| io::Error::new(error.kind(), format!("serve {}: {error}", path.display())))
    }

    /// Serves an open file or device. Its size is what it is now.
    pub fn new(file: File, read_only: bool) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither a regular file nor a block device",
            ));
        }
        let size = if is_device { system::device_size(&file)? } else { metadata.len() };
        let base = if read_only { Info::read_only(size) } else { Info::writable(size) };
        let info = Info {
            multi_conn: true,
            trim: true,
            fast_zero: true,
            cache: true,
            rotational: is_device && system::is_rotational(&metadata),
            block_sizes: BlockSizes { minimum: 1, preferred: 4096 },
            ..base
        };
        let shared = Shared {
            file: Arc::new(file),
            info,
            is_device,
            reads: Pace::default(),
            writes: Pace::default(),
            written: AtomicU64::new(1),
            synced: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            syncing: Mutex::default(),
        };
        Ok(FileExport { shared: Arc::new(shared), threads: Arc::new(Semaphore::new(THREADS_MAX)) })
    }

    /// The same export under other words for people.
    pub fn described(mut self, description: impl Into<String>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.info.description = description.into();
        }
        self
    }

    /// Runs what may wait for a disk where waiting is allowed.
    fn in_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (shared, threads) = (Arc::clone(&self.shared), Arc::clone(&self.threads));
        Answer::later(async move {
            let turn = threads.acquire_owned().await;
            let work = move || {
                // Held by the work itself, which goes on when nobody waits for it any more.
                let _turn = turn;
                work(&shared)
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(_) => Err(Error::new(Kind::Io, "file access failed unexpectedly; see the server's log")),
            }
        })
    }

    /// Changes something: at once while that is quick, in the pool if it must be durable, may take long, or was slow
    /// lately.
    fn change(
        &self,
        effort: Effort,
        fua: bool,
        work: impl FnOnce(&Shared) -> Result<()> + Send + 'static,
    ) -> Answer<()> {
        let changed = move |shared: &Shared| {
            shared.refuse_if_poisoned()?;
            let result = work(shared);
            let _count = shared.written.fetch_add(1, Ordering::AcqRel);
            result
        };
        if fua {
            return self.in_pool(move |shared| changed(shared).and_then(|()| shared.sync()));
        }
        if effort == Effort::Long {
            // Its time says nothing of how long others take.
            return self.in_pool(changed);
        }
        if self.shared.writes.is_slow() {
            return self.in_pool(move |shared| shared.writes.timed(|| changed(shared)));
        }
        if effort == Effort::Copying {
            let shared = Arc::clone(&self.shared);
            return Answer::later(async move { shared.writes.timed(|| changed(&shared)) });
        }
        Answer::Now(self.shared.writes.timed(|| changed(&self.shared)))
    }
}

impl Shared {
    fn refuse_if_poisoned(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(
                Kind::Io,
                "an earlier sync failed and what was written before it may be lost; write the target anew",
            ));
        }
        Ok(())
    }

    /// Everything that was written before this call is on disk, or nothing is written any more.
    fn sync(&self) -> Result<()> {
        self.sync_by(|| system::sync(&self.file))
    }

    /// One after the other: the kernel tells only one of two at once of what it lost, and the other must not answer before
    /// that is known.
    fn sync_by(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<()> {
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_if_poisoned()?;
        let written = self.written.load(Ordering::Acquire);
        if self.synced.load(Ordering::Acquire) >= written {
            return Ok(());
        }
        if let Err(error) = sync() {
            self.poisoned.store(true, Ordering::Release);
            return Err(Error::from_io("sync", &error));
        }
        let _earlier = self.synced.fetch_max(written, Ordering::AcqRel);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        let mark = !(how.fast && self.is_device);
        match system::zero(&self.file, offset, len, !how.no_hole, mark) {
            Ok(Attempt::Done) => Ok(()),
            Ok(Attempt::Unable) if how.fast => {
                Err(Error::new(Kind::NotFast, "zeroes would have to be written"))
            }
            Ok(Attempt::Unable) => {
                system::write_zeroes(&self.file, offset, len).map_err(|why| failed("zero", &why))
            }
            Err(error) => Err(failed("zero", &error)),
        }
    }

    fn trim(&self, offset: u64, len: u64) -> Result<()> {
        // Where nothing can be given back, a trim changes nothing; it is only a hint.
        system::zero(&self.file, offset, len, true, false).map(drop).map_err(|why| failed("trim", &why))
    }
}

fn failed(doing: &str, error: &io::Error) -> Error {
    Error::from_io(doing, error)
}

impl Export for FileExport {
    fn info(&self) -> Info {
        self.shared.info.clone()
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let shared = &self.shared;
        let mut buffer = buffers::take(usize::try_from(len).unwrap_or(usize::MAX));
        let here = system::read_cached(&shared.file, buffer.as_mut(), offset, &shared.reads);
        if here == buffer.as_ref().len() {
            return Answer::ok(Bytes::from_owner(buffer).into());
        }
        self.in_pool(move |shared| {
            let rest = &mut buffer.as_mut()[here..];
            let at = offset + u64::try_from(here).unwrap_or(0);
            let read = shared.reads.timed(|| system::read(&shared.file, rest, at));
            read.map_err(|why| failed("read", &why).at(at))?;
            Ok(Bytes::from_owner(buffer).into())
        })
    }

    fn stored(&self, offset: u64, len: u32) -> Option<Stored> {
        let shared = &self.shared;
        let file = &shared.file;
        system::seems_cached(file, offset, len.into()).then(|| Stored { file: Arc::clone(file), offset })
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        let effort = if data.len() >= LARGE { Effort::Copying } else { Effort::Little };
        self.change(effort, fua, move |shared| {
            system::write(&shared.file, &data, offset).map_err(|why| failed("write", &why))
        })
    }

    fn flush(&self) -> Answer<()> {
        let shared = &self.shared;
        let nothing_new = shared.synced.load(Ordering::Acquire) >= shared.written.load(Ordering::Acquire);
        if shared.info.read_only || nothing_new {
            return Answer::Now(if shared.info.read_only { Ok(()) } else { shared.refuse_if_poisoned() });
        }
        self.in_pool(Shared::sync)
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.change(Effort::of_range(len), fua, move |shared| shared.trim(offset, len))
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        self.change(Effort::of_range(len), how.fua, move |shared| shared.zero(offset, len, how))
    }

    fn cache(&self, offset: u64, len: u64) -> Answer<()> {
        system::will_need(&self.shared.file, offset, len);
        Answer::ok(())
    }

    fn block_status(&self, _context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let shared = &self.shared;
        if shared.is_device {
            return Answer::ok(vec![Extent { len, flags: 0 }]);
        }
        let size = shared.info.size;
        if one && !shared.reads.is_slow() {
            let extents = shared.reads.timed(|| system::extents(&shared.file, offset, len, size, 1));
            return Answer::Now(extents.map_err(|why| failed("find holes", &why)));
        }
        let count = if one { 1 } else { system::EXTENTS_MAX };
        self.in_pool(move |shared| {
            system::extents(&shared.file, offset, len, size, count).map_err(|why| failed("find holes", &why))
        })
    }
}

#[cfg(test)]
mod tests;
