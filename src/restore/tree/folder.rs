//! An open directory of the target, and what may be done in it: one name at a time, never through a link, never out of it.
//!
//! Everything that a tree restore reads or changes on the target goes through here. A name is a single step that is checked before the
//! kernel sees it; a directory is entered with `openat2` beneath its parent's descriptor, without following links of either kind and without
//! crossing into another mount; new things are made exclusively, and what is changed afterwards is held by its own descriptor and known
//! to be what was made. Whoever swaps names meanwhile, by links or by renames, gains an error (R10, R11).

use rustix::fs::{AtFlags, Dir as Listing, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const ENTERING: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// For its owner only until its own mode is set: it may hold what others must not see.
const PRIVATE: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
/// What files are called, and how many names there are for them, that are made to see whom they belong to, and are gone at once.
const TRIED_NAME: &str = ".afterimage-restore-owner-";
const TRIED_NAMES: u32 = 8;

/// An open directory.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    /// Who what we make seems to belong to, where that is not us; of all directories of a target.
    seems: Arc<OnceLock<u32>>,
}

/// What is made that is neither a directory nor has bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Fifo,
    Socket,
    Character(u32, u32),
    Block(u32, u32),
}

/// Something that was made or found, held without opening it: no device is touched, no reader of a pipe waited for.
#[derive(Debug)]
pub(super) struct Held {
    fd: OwnedFd,
    stat: Statx,
}

impl Folder {
    /// The directory that an open descriptor leads to.
    pub(super) fn new(fd: OwnedFd) -> Folder {
        Folder { fd, seems: Arc::default() }
    }

    /// Another one of the same target.
    fn beside(&self, fd: OwnedFd) -> Folder {
        Folder { fd, seems: Arc::clone(&self.seems) }
    }

    /// Opens a directory in it.
    pub(super) fn enter(&self, name: &[u8]) -> Result<Folder> {
        let name = step(name)?;
        let mode = Mode::empty();
        match rustix::fs::openat2(&self.fd, &*name, ENTERING, mode, WITHIN) {
            // Older kernels and filters of system calls have only the plain one; a single step without links is the same there.
            Err(Errno::NOSYS | Errno::PERM) => {
                let inner = rustix::fs::openat(&self.fd, &*name, ENTERING, mode)?;
                self.same_file_system(&inner)?;
                Ok(self.beside(inner))
            }
            opened => opened.map(|inner| self.beside(inner)),
        }
    }

    fn same_file_system(&self, inner: &OwnedFd) -> Result<()> {
        let (outer, inner) = (rustix::fs::fstat(&self.fd)?, rustix::fs::fstat(inner)?);
        if outer.st_dev == inner.st_dev { Ok(()) } else { Err(Errno::XDEV) }
    }

    /// Goes down several steps.
    pub(super) fn walk<'a>(&self, steps: impl IntoIterator<Item = &'a [u8]>) -> Result<Folder> {
        let mut here = self.beside(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?);
        for step in steps {
            here = here.enter(step)?;
        }
        Ok(here)
    }

    /// Makes a directory in it and opens it.
    pub(super) fn make(&self, name: &[u8]) -> Result<Folder> {
        rustix::fs::mkdirat(&self.fd, &*step(name)?, PRIVATE)?;
        let made = self.enter(name)?;
        // What others put in its place meanwhile is not empty, or not ours.
        let stat = rustix::fs::fstat(&made.fd)?;
        if self.is_ours(stat.st_uid)? { Ok(made) } else { Err(Errno::STALE) }
    }

    /// Whether this is the owner of what we make. Some file systems have one for everything (vfat), and some servers take root for
    /// nobody: then a file that nobody can have put there tells.
    fn is_ours(&self, uid: u32) -> Result<bool> {
        if uid == rustix::process::geteuid().as_raw() {
            return Ok(true);
        }
        let seems = match self.seems.get() {
            Some(seems) => *seems,
            None => {
                let found = self.try_out_owner()?;
                *self.seems.get_or_init(|| found)
            }
        };
        Ok(uid == seems)
    }

    /// Who a file belongs to that was made just now and is held by its descriptor.
    fn try_out_owner(&self) -> Result<u32> {
        let how = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        if let Ok(unnamed) = rustix::fs::openat(&self.fd, c".", how, PRIVATE_FILE) {
            return Ok(rustix::fs::fstat(&unnamed)?.st_uid);
        }
        for number in 0..TRIED_NAMES {
            let name = format!("{TRIED_NAME}{number}");
            match self.make_file(name.as_bytes()) {
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
                Ok(named) => {
                    let stat = rustix::fs::fstat(&named);
                    self.remove(name.as_bytes())?;
                    return Ok(stat?.st_uid);
                }
            }
        }
        Err(Errno::EXIST)
    }

    /// Makes a file in it.
    pub(super) fn make_file(&self, name: &[u8]) -> Result<File> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, &*step(name)?, how, PRIVATE_FILE).map(File::from)
    }

    /// Opens a file that is there, to compare and change it; whatever else stands there now is an error and is not touched.
    pub(super) fn open_file(&self, name: &[u8], how: OFlags) -> Result<File> {
        let how = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let held = self.hold(name)?;
        if held.kind() != FileType::RegularFile {
            return Err(Errno::STALE);
        }
        let file = rustix::fs::openat(&self.fd, &*step(name)?, how, Mode::empty())?;
        let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        if is_same(&stat, held.stat()) { Ok(File::from(file)) } else { Err(Errno::STALE) }
    }

    /// Makes a symbolic link in it.
    pub(super) fn make_link(&self, name: &[u8], target: &[u8]) -> Result<Held> {
        let target = CString::new(target).map_err(|_| Errno::INVAL)?;
        rustix::fs::symlinkat(&*target, &self.fd, &*step(name)?)?;
        self.hold_new(name, FileType::Symlink)
    }

    /// Makes a pipe, a socket or a device in it.
    pub(super) fn make_special(&self, name: &[u8], what: Special) -> Result<Held> {
        let (kind, number) = match what {
            Special::Fifo => (FileType::Fifo, 0),
            Special::Socket => (FileType::Socket, 0),
            Special::Character(major, minor) => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Special::Block(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
        };
        rustix::fs::mknodat(&self.fd, &*step(name)?, kind, PRIVATE_FILE, number)?;
        self.hold_new(name, kind)
    }

    /// Gives a file of another directory, or of this one, one more name here; it has to be the one that is held.
    pub(super) fn make_name(&self, name: &[u8], of: (&Folder, &[u8]), held: &Held) -> Result<()> {
        let (from, old) = of;
        let name = step(name)?;
        rustix::fs::linkat(&from.fd, &*step(old)?, &self.fd, &*name, AtFlags::empty())?;
        if is_same(self.hold(name.to_bytes())?.stat(), held.stat()) { Ok(()) } else { Err(Errno::STALE) }
    }

    /// Holds what is there, if anything is.
    pub(super) fn find(&self, name: &[u8]) -> Result<Option<Held>> {
        match self.hold(name) {
            Ok(held) => Ok(Some(held)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds what is there.
    pub(super) fn hold(&self, name: &[u8]) -> Result<Held> {
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Held::new(rustix::fs::openat(&self.fd, &*step(name)?, how, Mode::empty())?)
    }

    /// Holds what was just made: of that kind, by us, and with no other name.
    fn hold_new(&self, name: &[u8], kind: FileType) -> Result<Held> {
        let held = self.hold(name)?;
        let ours = held.stat.stx_nlink == 1 && self.is_ours(held.stat.stx_uid)?;
        if held.kind() == kind && ours { Ok(held) } else { Err(Errno::STALE) }
    }

    /// Where a symbolic link that is held points.
    pub(super) fn read_link(held: &Held) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(&held.fd, c"", Vec::new()).map(CString::into_bytes)
    }

    /// Removes a name that leads to no directory.
    pub(super) fn remove(&self, name: &[u8]) -> Result<()> {
        rustix::fs::unlinkat(&self.fd, &*step(name)?, AtFlags::empty())
    }

    /// Removes a directory that is empty.
    pub(super) fn remove_empty(&self, name: &[u8]) -> Result<()> {
        rustix::fs::unlinkat(&self.fd, &*step(name)?, AtFlags::REMOVEDIR)
    }

    /// Calls `each` with every name in it, and whether it is known to be a directory.
    pub(super) fn list(&self, mut each: impl FnMut(&CStr, FileType) -> Result<()>) -> Result<()> {
        // A descriptor of its own: where the shared one stands in its listing is nobody's business.
        let own = rustix::fs::openat(&self.fd, c".", ENTERING, Mode::empty())?;
        let mut room = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        let mut entries = RawDir::new(&own, &mut room);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                each(entry.file_name(), entry.file_type())?;
            }
        }
        Ok(())
    }

    /// Whether there is nothing in it but what `except` names.
    pub(super) fn is_empty(&self, except: impl Fn(&[u8]) -> bool) -> Result<bool> {
        for entry in Listing::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !except(name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// It, held as what is in it is.
    pub(super) fn itself(&self) -> Result<Held> {
        Held::new(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Held {
    fn new(fd: OwnedFd) -> Result<Held> {
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(Held { fd, stat })
    }

    /// Holds an open file.
    pub(super) fn of(file: &File) -> Result<Held> {
        Held::new(rustix::io::fcntl_dupfd_cloexec(file, 0)?)
    }

    /// What it was when it was held.
    pub(super) fn stat(&self) -> &Statx {
        &self.stat
    }

    /// What it is.
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.stx_mode.into())
    }

    /// A path that leads to it and to nothing else, for calls that take no descriptor.
    pub(super) fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.fd.as_raw_fd().to_string())
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether two looks were at the same file.
pub(super) fn is_same(a: &Statx, b: &Statx) -> bool {
    let who = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    who(a) == who(b)
}

/// A name that is one step down, as the kernel takes it.
fn step(name: &[u8]) -> Result<CString> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    CString::new(name).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder(path: &Path) -> Folder {
        Folder::new(rustix::fs::open(path, ENTERING, Mode::empty()).unwrap())
    }

    #[test]
    fn r10_no_name_leads_anywhere_but_one_step_down() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let folder = folder(&inside);
        for name in [&b""[..], b".", b"..", b"/", b"/etc", b"../x", b"a/b", b"a/", b"a\0b", b"\0"] {
            assert_eq!(folder.enter(name).unwrap_err(), Errno::INVAL, "{name:?}");
            assert_eq!(folder.make(name).unwrap_err(), Errno::INVAL, "{name:?}");
            assert_eq!(folder.make_file(name).unwrap_err(), Errno::INVAL, "{name:?}");
            assert_eq!(folder.make_link(name, b"x").unwrap_err(), Errno::INVAL, "{name:?}");
            assert_eq!(folder.make_special(name, Special::Fifo).unwrap_err(), Errno::INVAL, "{name:?}");
            assert_eq!(folder.remove(name).unwrap_err(), Errno::INVAL, "{name:?}");
        }
        let long = [b'n'; 256];
        assert_eq!(folder.make(&long).unwrap_err(), Errno::NAMETOOLONG);
        assert!(folder.is_empty(|_| false).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn r11_a_link_on_the_target_is_neither_entered_nor_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "precious").unwrap();
        symlink(&outside, inside.join("dir")).unwrap();
        symlink(outside.join("file"), inside.join("file")).unwrap();
        symlink(outside.join("new"), inside.join("new")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        let folder = folder(&inside);
        for name in [&b"dir"[..], b"magic"] {
            assert!(folder.enter(name).is_err(), "{name:?}");
            assert_eq!(folder.make(name).unwrap_err(), Errno::EXIST);
        }
        assert_eq!(folder.open_file(b"file", OFlags::RDWR).unwrap_err(), Errno::STALE);
        assert_eq!(folder.make_file(b"new").unwrap_err(), Errno::EXIST);
        assert_eq!(folder.hold(b"file").unwrap().kind(), FileType::Symlink);
        folder.remove(b"file").unwrap();
        assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"precious");
        assert!(!outside.join("new").exists());
    }

    #[test]
    fn r11_only_what_belongs_to_whom_files_made_here_belong_to_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let own = rustix::process::geteuid().as_raw();
        for other in [own + 1, own + 1000] {
            assert_eq!((folder.is_ours(own), folder.is_ours(other)), (Ok(true), Ok(false)));
        }
        assert_eq!(folder.seems.get(), Some(&own));
        assert!(folder.is_empty(|_| false).unwrap(), "nothing of it stays");
        // As where everything belongs to one user, whoever makes it.
        let one = Folder { seems: Arc::new(OnceLock::from(own + 1)), ..folder };
        assert_eq!((one.is_ours(own + 1), one.is_ours(own + 2)), (Ok(true), Ok(false)));
        assert!(one.make(b"a").unwrap().is_ours(own + 1).unwrap(), "all directories of a target know it");
    }

    #[test]
    fn r11_a_pipe_in_the_way_of_a_file_hangs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        drop(folder.make_special(b"pipe", Special::Fifo).unwrap());
        assert_eq!(folder.open_file(b"pipe", OFlags::RDWR).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn r12_a_second_name_is_of_the_file_that_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let file = folder.make_file(b"one").unwrap();
        let held = Held::of(&file).unwrap();
        folder.make_name(b"two", (&folder, b"one"), &held).unwrap();
        assert_eq!(std::fs::read(dir.path().join("two")).unwrap(), b"");
        folder.remove(b"one").unwrap();
        drop(folder.make_file(b"one").unwrap());
        assert_eq!(folder.make_name(b"three", (&folder, b"one"), &held).unwrap_err(), Errno::STALE);
        let link = folder.make_link(b"link", b"nowhere").unwrap();
        folder.make_name(b"linked", (&folder, b"link"), &link).unwrap();
        assert_eq!(
            folder.hold(b"linked").unwrap().kind(),
            FileType::Symlink,
            "a link's name, not its target's"
        );
        assert_eq!(Folder::read_link(&link).unwrap(), b"nowhere");
    }
}
