//! A regular file or block device of this machine, opened and judged: the writing itself.
//!
//! Zeroes are punched where the kernel promises zeroes for it, and written where not. On a device only whole blocks can be punched;
//! the edges are written. Holes are what the file system says after a sync; a device has none that are known.

use super::facts::What;
use super::{Run, Target};
use crate::error::{Context, Error, Kind, Result};
use crate::source::machine::{identity, stat_fd, stat_path};
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Zeroes are written by so many at a time.
const ZEROES_LEN: usize = 1 << 20;

static ZEROES: [u8; ZEROES_LEN] = [0; ZEROES_LEN];

/// Ways to make zeroes without writing them, the best first; both leave a range that reads as zero or fail.
const PUNCHES: [FallocateFlags; 2] = [
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];

/// An open file or device that may be written up to `size`.
#[derive(Debug)]
pub(super) struct Local {
    file: File,
    path: PathBuf,
    size: u64,
    identity: String,
    /// Only whole blocks of this size can be punched; 1 for files.
    block: u64,
    has_holes: bool,
    /// The directory that has to be synced for the name to last.
    made_in: Option<File>,
    /// The first of `PUNCHES` that was not found to be unknown here.
    punch: AtomicUsize,
    poison: Poison,
}

impl Local {
    /// `file` leads to what was judged; `made_in` is the directory in which it was made for this restore.
    pub(super) fn new(file: File, path: &Path, size: u64, made_in: Option<File>) -> Result<Local> {
        let what = || format!("look at {}", path.display());
        let stat = stat_fd(&file).context(what)?;
        let device = What::of(&stat) == What::Block;
        let sector = if device { rustix::fs::ioctl_blksszget(&file).context(what)? } else { 1 };
        let target = Local {
            path: path.to_owned(),
            size,
            identity: identity(&stat),
            // Pages of the cache are thrown away with the blocks that are punched, so they have to be whole as well.
            block: if device { u64::from(sector).max(4096) } else { 1 },
            has_holes: !device,
            made_in,
            punch: AtomicUsize::new(0),
            poison: Poison::default(),
            file,
        };
        // Some file systems tell holes where data has not reached the medium yet.
        target.sync()?;
        Ok(target)
    }

    fn punched(&self, range: Range<u64>) -> Result<bool> {
        loop {
            let nth = self.punch.load(Ordering::Relaxed);
            let Some(how) = PUNCHES.get(nth) else { return Ok(false) };
            match rustix::fs::fallocate(&self.file, *how, range.start, range.end - range.start) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
                    // Another thread may have found out before us; then its answer stands.
                    let _ = self.punch.compare_exchange(nth, nth + 1, Ordering::Relaxed, Ordering::Relaxed);
                }
                Err(error) => return Err(self.failed("zero", range.start, error.into())),
            }
        }
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(ZEROES_LEN).min(ZEROES_LEN);
            self.write_at(at, &ZEROES[..len])?;
            at += len as u64;
        }
        Ok(())
    }

    /// Nothing outside of what was judged is ever written.
    fn within(&self, doing: &str, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => {
                let words = format!(
                    "{doing} {} at offset {offset}: {len} bytes reach past the image's end",
                    self.path.display()
                );
                Err(Error::new(Kind::Target, format!("{words}, {}", self.size)))
            }
        }
    }

    fn failed(&self, doing: &str, offset: u64, cause: std::io::Error) -> Error {
        Error::new(Kind::Target, format!("{doing} {} at offset {offset}", self.path.display()))
            .caused_by(cause)
    }

    fn seek(&self, to: SeekFrom, offset: u64) -> Result<Option<u64>> {
        match rustix::fs::seek(&self.file, to) {
            Ok(at) => Ok(Some(at.min(self.size))),
            Err(Errno::NXIO) => Ok(Some(self.size)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(self.failed("find holes of", offset, error.into())),
        }
    }

    fn check_identity(&self) -> Result<()> {
        let what = || format!("look at {} after restoring", self.path.display());
        let now = stat_path(&self.path).context(what).map_err(|error| error.as_kind(Kind::Target))?;
        let held = stat_fd(&self.file).context(what)?;
        if identity(&now) != self.identity || identity(&held) != self.identity {
            let words = format!("restore onto {}: the name leads elsewhere now", self.path.display());
            let hint = "what was restored is in the file or device that it led to before";
            return Err(Error::new(Kind::Target, words).hint(hint));
        }
        if self.has_holes && held.stx_size < self.size {
            let words =
                format!("restore onto {}: somebody cut it to {} bytes", self.path.display(), held.stx_size);
            return Err(Error::new(Kind::Target, words).hint("restore again while nobody writes to it"));
        }
        Ok(())
    }
}

impl Target for Local {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.poison.check(&self.path)?;
        self.within("write", offset, bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            let here = offset + done as u64;
            match self.file.write_at(&bytes[done..], here) {
                Ok(0) => return Err(self.failed("write", here, ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("write", here, error)),
            }
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.poison.check(&self.path)?;
        self.within("zero", offset, len)?;
        let end = offset + len;
        let first = offset.next_multiple_of(self.block);
        let last = end - end % self.block;
        if first < last && self.punched(first..last)? {
            self.write_zeroes(offset..first)?;
            return self.write_zeroes(last..end);
        }
        self.write_zeroes(offset..end)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.within("read", offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|error| self.failed("read back", offset, error))
    }

    fn run_at(&self, offset: u64) -> Result<Run> {
        self.within("find holes of", offset, 1)?;
        let rest = self.size - offset;
        if !self.has_holes {
            return Ok(Run::Data(rest));
        }
        match self.seek(SeekFrom::Data(offset), offset)? {
            None => Ok(Run::Data(rest)),
            Some(data) if data > offset => Ok(Run::Zero(data - offset)),
            Some(_) => {
                let hole = self.seek(SeekFrom::Hole(offset), offset)?.unwrap_or(self.size);
                Ok(Run::Data(hole.saturating_sub(offset).max(1)))
            }
        }
    }

    fn sync(&self) -> Result<()> {
        self.poison.sync(&self.path, || self.file.sync_all())
    }

    fn drop_cache(&self) -> Result<()> {
        self.sync()?;
        let dropped = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        dropped.map_err(|error| self.failed("drop the cache of", 0, error.into()))
    }

    fn finish(&self) -> Result<()> {
        self.sync()?;
        if let Some(directory) = &self.made_in {
            self.poison.sync(&self.path, || directory.sync_all())?;
        }
        self.check_identity()
    }
}

/// Remembers a failed sync. The kernel tells of lost pages once and then calls them clean, so a second sync that succeeds means nothing.
#[derive(Debug, Default)]
struct Poison(OnceLock<Error>);

impl Poison {
    fn check(&self, path: &Path) -> Result<()> {
        let Some(first) = self.0.get() else { return Ok(()) };
        let words = format!("write {}: an earlier sync failed, so what it holds is unknown", path.display());
        Err(Error::new(Kind::Target, words)
            .caused_by(first.clone())
            .hint("restore again, onto a target that works"))
    }

    fn sync(&self, path: &Path, attempt: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        self.check(path)?;
        let Err(cause) = attempt() else { return Ok(()) };
        let error = Error::new(Kind::Target, format!("sync {}", path.display())).caused_by(cause);
        Err(self.0.get_or_init(|| error).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_a_failed_sync_is_final_even_when_the_next_would_succeed() {
        let (poison, path) = (Poison::default(), Path::new("/x"));
        poison.sync(path, || Ok(())).unwrap();
        let first = poison.sync(path, || Err(Errno::IO.into())).unwrap_err();
        assert_eq!(first.kind(), Kind::Target);
        let second = poison.sync(path, || panic!("asked again")).unwrap_err();
        assert!(second.to_string().contains("earlier sync failed"), "{second}");
        assert!(poison.check(path).is_err());
    }
}
