//! The disk as the kernel gives it to us.
//!
//! Everything goes by descriptor, one component at a time and never through a link, so a directory that somebody else
//! prepared cannot lead us out of it; nor can a pipe in a file's place hold us up.

use super::disk::{Facts, File, Folder, Identity, Sort};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, Result, retry_on_intr};
use std::io::IoSlice;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// Bytes of names that the kernel gives at once.
const LISTED_AT_ONCE: usize = 32 << 10;

/// Opens the directory at `path`; here links are followed, since the user wrote the path.
pub(super) fn root(path: &Path) -> Result<Arc<dyn Folder>> {
    Ok(Arc::new(RealFolder::at(path)?))
}

/// Makes one directory, if it is not there, and its name durable, also if somebody else made it who did not live to do so.
pub(super) fn make_root(path: &Path) -> Result<()> {
    let made = match fs::mkdir(path, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    match RealFolder::at(path.parent().unwrap_or(path)) {
        Ok(parent) => parent.sync(),
        // We could not have made it: its name is the business of whoever did.
        Err(_) if !made => Ok(()),
        Err(errno) => Err(errno),
    }
}

struct RealFile(OwnedFd);

impl File for RealFile {
    fn facts(&self) -> Result<Facts> {
        fs::fstat(&self.0).map(|stat| facts_of(&stat))
    }

    fn read(&self, into: &mut Vec<u8>, at: u64) -> Result<usize> {
        rustix::io::pread(&self.0, rustix::buffer::spare_capacity(into), at)
    }

    fn write(&self, parts: &[IoSlice<'_>], at: u64) -> Result<usize> {
        rustix::io::pwritev(&self.0, parts, at)
    }

    fn sync(&self) -> Result<()> {
        fs::fsync(&self.0)
    }

    fn expect(&self, range: std::ops::Range<u64>) {
        let len = std::num::NonZeroU64::new(range.end.saturating_sub(range.start));
        // Advice, too.
        let _ = fs::fadvise(&self.0, range.start, len, fs::Advice::WillNeed);
    }

    fn let_go(&self) {
        // Advice: where it is not taken, nothing is lost.
        let _ = fs::fadvise(&self.0, 0, None, fs::Advice::DontNeed);
    }
}

pub(super) struct RealFolder {
    fd: OwnedFd,
    /// For the folders made in it; files get the same without the right to enter. Asked for when the first is made.
    mode: OnceLock<Mode>,
    /// Whether nobody has listed it by `fd`, which can be done once.
    unlisted: AtomicBool,
}

impl RealFolder {
    pub(super) fn at(path: &Path) -> Result<RealFolder> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RealFolder::from(retry_on_intr(|| fs::open(path, how, Mode::empty()))?))
    }

    fn from(fd: OwnedFd) -> RealFolder {
        RealFolder { fd, mode: OnceLock::new(), unlisted: AtomicBool::new(true) }
    }

    fn mode(&self) -> Result<Mode> {
        if let Some(mode) = self.mode.get() {
            return Ok(*mode);
        }
        let mode = Mode::RWXU | shared_with_group(Mode::from_raw_mode(fs::fstat(&self.fd)?.st_mode));
        Ok(*self.mode.get_or_init(|| mode))
    }

    fn open_at(&self, name: &str, how: OFlags, mode: Mode) -> Result<OwnedFd> {
        let how = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        retry_on_intr(|| fs::openat(&self.fd, name, how, mode))
    }
}

impl Folder for RealFolder {
    fn facts(&self) -> Result<Facts> {
        fs::fstat(&self.fd).map(|stat| facts_of(&stat))
    }

    fn folder(&self, name: &str) -> Result<Arc<dyn Folder>> {
        let fd = self.open_at(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Arc::new(RealFolder::from(fd)))
    }

    fn make_folder(&self, name: &str) -> Result<()> {
        fs::mkdirat(&self.fd, name, self.mode()?)
    }

    fn open(&self, name: &str) -> Result<Box<dyn File>> {
        // Without NONBLOCK a pipe of that name would keep us waiting for its writer.
        let file = RealFile(self.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
        match file.facts()?.sort {
            Sort::File => Ok(Box::new(file)),
            Sort::Folder => Err(Errno::ISDIR),
            Sort::Other => Err(Errno::LOOP),
        }
    }

    fn create(&self, name: &str) -> Result<Box<dyn File>> {
        let mode = self.mode()? & !(Mode::XUSR | Mode::XGRP);
        let fd = self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)?;
        Ok(Box::new(RealFile(fd)))
    }

    fn publish(&self, from: &str, to: &str) -> Result<()> {
        match fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // NFS and some FUSE file systems know no flags, but do know hard links.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.publish_by_link(from, to),
            result => result,
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::unlinkat(&self.fd, name, AtFlags::empty())
    }

    fn remove_folder(&self, name: &str) -> Result<()> {
        fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    fn stat(&self, name: &str) -> Result<Facts> {
        fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| facts_of(&stat))
    }

    fn each(&self, visit: &mut dyn FnMut(&str, Sort)) -> Result<()> {
        let anew;
        let fd = match self.unlisted.swap(false, Ordering::Relaxed) {
            true => &self.fd,
            // Who lists it meanwhile has its own place in it.
            false => {
                anew = self.open_at(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                &anew
            }
        };
        let mut buffer = Vec::with_capacity(LISTED_AT_ONCE);
        let mut entries = fs::RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name != "." && name != ".." {
                visit(name, self.sort(name, entry.file_type()));
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        sync_folder(&self.fd)
    }
}

impl RealFolder {
    pub(super) fn publish_by_link(&self, from: &str, to: &str) -> Result<()> {
        match fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            // The second name does no harm: should it stay, it is swept later.
            Ok(()) => {
                let _ = fs::unlinkat(&self.fd, from, AtFlags::empty());
                Ok(())
            }
            // With neither, a second writer could replace what a first one published: say so rather than hope.
            Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => Err(Errno::OPNOTSUPP),
            Err(errno) => Err(errno),
        }
    }

    /// Some file systems leave the type to a second question.
    fn sort(&self, name: &str, told: FileType) -> Sort {
        match told {
            FileType::Unknown => self.stat(name).map_or(Sort::Other, |facts| facts.sort),
            told => sort_of(told),
        }
    }
}

/// The group gets what it has above, if somebody decided that: a directory that is open to all only shows nobody did. The key may
/// lie beside the data, so others get nothing.
fn shared_with_group(above: Mode) -> Mode {
    if above.intersects(Mode::RWXO) { Mode::empty() } else { above & Mode::RWXG }
}

/// A file system whose directories cannot be synced keeps names in its own way, and answers `INVAL`.
fn sync_folder(folder: impl AsFd) -> Result<()> {
    match fs::fsync(folder) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

fn facts_of(stat: &Stat) -> Facts {
    let after_epoch = Duration::new(stat.st_mtime.max(0) as u64, stat.st_mtime_nsec as u32 % 1_000_000_000);
    Facts {
        sort: sort_of(FileType::from_raw_mode(stat.st_mode)),
        len: stat.st_size.max(0) as u64,
        modified: SystemTime::UNIX_EPOCH + after_epoch,
        identity: Identity { device: stat.st_dev, inode: stat.st_ino },
        owner: stat.st_uid,
        mode: stat.st_mode & 0o7777,
    }
}

fn sort_of(file_type: FileType) -> Sort {
    match file_type {
        FileType::RegularFile => Sort::File,
        FileType::Directory => Sort::Folder,
        _ => Sort::Other,
    }
}
