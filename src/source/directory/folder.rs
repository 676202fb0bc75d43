//! An open directory, and a file that was opened in it: the only places where a share is touched.

use super::look::{Look, Type};
use crate::error::{Error, Kind, Result};
use crate::format::limits;
use crate::format::shown::path_text;
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What the kernel gives of names of attributes, or of one value, at most.
const ATTRIBUTES_LEN_MAX: usize = 64 << 10;
/// How long all values of one file may be together: they are held in memory.
const ATTRIBUTES_SUM_MAX: usize = 4 << 20;
/// A directory with this in it, and this at its beginning, says that it is a cache.
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Extended attributes: name and value, in the order of their names.
pub type Attributes = Vec<(Bytes, Bytes)>;

/// An open directory.
pub struct Folder {
    fd: OwnedFd,
    /// From the source's directory on; empty for that one.
    path: Vec<u8>,
}

/// An open regular file.
pub struct OpenFile {
    file: File,
    path: Vec<u8>,
}

impl Folder {
    /// Opens the source's directory, as the user named it.
    pub(super) fn open(path: &Path) -> rustix::io::Result<Folder> {
        let fd = open_quietly(CWD, path, OFlags::DIRECTORY)?;
        Ok(Folder { fd, path: Vec::new() })
    }

    /// Where it lies, from the source's directory on.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Where something in it lies.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        match self.path.as_slice() {
            [] => name.to_vec(),
            path => [path, b"/", name].concat(),
        }
    }

    /// All names in it, in order.
    pub fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let failed = |errno: Errno| fails("list", &self.path, errno);
        let mut names: Vec<Box<[u8]>> = Vec::new();
        // A copy of our descriptor, which leaves no trace in the time of access either.
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(failed)?;
        for entry in Dir::new(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.into());
            }
        }
        names.sort_unstable();
        // A directory that changes while it is listed may show a name twice.
        names.dedup();
        Ok(names)
    }

    /// Whether it says of itself that it is a cache.
    pub fn is_cache(&self) -> Result<bool> {
        let Some(tag) = self.look_at(CACHE_TAG)?.filter(|tag| tag.kind == Type::File && tag.size > 0) else {
            return Ok(false);
        };
        let Some(file) = self.file(CACHE_TAG)? else { return Ok(false) };
        let mut begin = vec![0; CACHE_SIGNATURE.len()];
        let read = if (tag.size as usize) < begin.len() { 0 } else { file.read(0, &mut begin)? };
        Ok(begin[..read] == *CACHE_SIGNATURE)
    }

    /// The name of the file by which a cache says that it is one.
    pub fn cache_tag() -> &'static [u8] {
        CACHE_TAG
    }

    /// What the directory itself looks like.
    pub fn look(&self) -> Result<Look> {
        stat(self.fd.as_fd(), c"", AtFlags::EMPTY_PATH).map_err(|errno| fails("look at", &self.path, errno))
    }

    /// What something in it looks like; nothing: it is gone.
    pub fn look_at(&self, name: &[u8]) -> Result<Option<Look>> {
        let look = stat(self.fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT);
        there(look).map_err(|errno| fails("look at", &self.path_of(name), errno))
    }

    /// A directory in it; nothing: it is gone, or is no directory any more.
    pub fn folder(&self, name: &[u8]) -> Result<Option<Folder>> {
        let opened = self.open_at(name, OFlags::DIRECTORY);
        let fd = there(opened).map_err(|errno| fails("open", &self.path_of(name), errno))?;
        Ok(fd.map(|fd| Folder { fd, path: self.path_of(name) }))
    }

    /// A regular file in it; nothing: it is gone, or is no regular file any more.
    pub fn file(&self, name: &[u8]) -> Result<Option<OpenFile>> {
        let opened = self.open_at(name, OFlags::NONBLOCK);
        let fd = there(opened).map_err(|errno| fails("open", &self.path_of(name), errno))?;
        let Some(fd) = fd else { return Ok(None) };
        let file = OpenFile { file: fd.into(), path: self.path_of(name) };
        Ok((file.look()?.kind == Type::File).then_some(file))
    }

    fn open_at(&self, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_quietly(self.fd.as_fd(), name, flags | OFlags::NOFOLLOW)
    }

    /// Where a symbolic link in it points; nothing: it is gone.
    pub fn target(&self, name: &[u8]) -> Result<Option<Bytes>> {
        let target = match rustix::fs::readlinkat(&self.fd, name, Vec::new()) {
            Err(Errno::INVAL) => return Ok(None),
            read => there(read),
        };
        let target = target.map_err(|errno| fails("read the link", &self.path_of(name), errno))?;
        Ok(target.map(|target| target.into_bytes().into()))
    }

    /// The extended attributes of the directory itself.
    pub fn attributes(&self) -> Result<Attributes> {
        attributes_of(self.fd.as_fd()).map_err(|errno| no_attributes(&self.path, errno))
    }

    /// The extended attributes of something in it that is not opened: a link, a pipe, a socket or a device.
    pub fn attributes_of(&self, name: &[u8]) -> Result<Attributes> {
        // By path, because such things can't be asked through a descriptor; the path begins at ours.
        let path = [format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).as_bytes(), name].concat();
        let read = || {
            let names = grown(|buffer| rustix::fs::llistxattr(path.as_slice(), spare_capacity(buffer)))?;
            all_values(&names, |name, buffer| {
                rustix::fs::lgetxattr(path.as_slice(), name, spare_capacity(buffer))
            })
        };
        read().map_err(|errno| no_attributes(&self.path_of(name), errno))
    }
}

impl OpenFile {
    /// Where it lies, from the source's directory on.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// What it looks like now.
    pub fn look(&self) -> Result<Look> {
        stat(self.file.as_fd(), c"", AtFlags::EMPTY_PATH).map_err(|errno| fails("look at", &self.path, errno))
    }

    /// Reads from `at` on until `buffer` is full or the file ends.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let words = format!("read {} at offset {}", path_text(&self.path), at + done as u64);
                    return Err(Error::new(Kind::Source, words).caused_by(error));
                }
            }
        }
        Ok(done)
    }

    /// Where the next data from `at` on begins; nothing: there is none.
    pub fn data_from(&self, at: u64) -> Result<Option<u64>> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            // A file system that can't tell has no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
            Err(errno) => Err(fails("find the data of", &self.path, errno)),
        }
    }

    /// Where the next hole from `at` on begins: the end of the file is one.
    pub fn hole_from(&self, at: u64) -> Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Hole(at)) {
            Ok(hole) => Ok(hole),
            Err(Errno::NXIO) => Ok(at),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(u64::MAX),
            Err(errno) => Err(fails("find the holes of", &self.path, errno)),
        }
    }

    /// Its extended attributes.
    pub fn attributes(&self) -> Result<Attributes> {
        attributes_of(self.file.as_fd()).map_err(|errno| no_attributes(&self.path, errno))
    }
}

/// Opens to read. Only who owns a file may read it without a trace in its time of access; others leave one.
fn open_quietly(
    at: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::openat(at, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(at, name, flags, Mode::empty()),
        opened => opened,
    }
}

fn stat(fd: BorrowedFd<'_>, name: impl rustix::path::Arg, flags: AtFlags) -> rustix::io::Result<Look> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    rustix::fs::statx(fd, name, flags, wanted).map(|stat| Look::of(&stat))
}

/// `None` when it went away, or became something else, while we looked.
fn there<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn fails(what: &str, path: &[u8], errno: Errno) -> Error {
    let error = Error::new(Kind::Source, format!("{what} {}", path_text(path)));
    error.caused_by(std::io::Error::from(errno))
}

fn no_attributes(path: &[u8], errno: Errno) -> Error {
    fails("read the extended attributes of", path, errno)
}

fn attributes_of(fd: BorrowedFd<'_>) -> rustix::io::Result<Attributes> {
    let names = grown(|buffer| rustix::fs::flistxattr(fd, spare_capacity(buffer)))?;
    all_values(&names, |name, buffer| rustix::fs::fgetxattr(fd, name, spare_capacity(buffer)))
}

/// Asks with a little room, which is nearly always enough, and then with as much as there can be. Where there are no attributes at all,
/// there are none.
fn grown(mut ask: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    for room in [512, ATTRIBUTES_LEN_MAX] {
        let mut buffer = Vec::with_capacity(room);
        match ask(&mut buffer) {
            Ok(_) => return Ok(buffer),
            Err(Errno::RANGE) => {}
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::RANGE)
}

fn all_values(
    names: &[u8],
    mut ask: impl FnMut(&CStr, &mut Vec<u8>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Attributes> {
    let mut all = Attributes::new();
    let mut sum = 0;
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match grown(|buffer| ask(name, buffer)) {
            Ok(value) => {
                sum += value.len();
                if sum > ATTRIBUTES_SUM_MAX || all.len() >= usize::from(limits::ATTRIBUTES_MAX) {
                    return Err(Errno::TOOBIG);
                }
                all.push((Bytes::copy_from_slice(name.to_bytes()), value.into()));
            }
            // It was removed since.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    all.sort_unstable();
    all.dedup_by(|one, next| one.0 == next.0);
    Ok(all)
}
