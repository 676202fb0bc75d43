//! What is known of a directory that a tree is to be restored into, before anything is written; judged in `judge`.
//!
//! Everything is asked of one open descriptor: the directory's own, or, where it is still to be made, that of the one it will be made in.
//! What the file system keeps is looked up by its kind and then tried on a file without a name, which nobody sees and which is gone
//! when it is closed: nothing that has a name is made, changed or removed by looking.

use super::aspect::{Aspect, Aspects, FileSystem};
use super::folder::Folder;
use super::marker::Marker;
use super::quota;
use crate::error::{Context, Result};
use crate::restore::target::facts::{Guarded, What};
use crate::source::disks::lies_inside;
use crate::source::machine::{Machine, Mount, identity, open_nonblocking, stat_fd, stat_path};
use rustix::fs::{
    Access, AtFlags, Gid, IFlags, Mode, OFlags, StatVfsMountFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What `mkfs.ext4` leaves in every file system; nobody's data.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";
/// `FS_CASEFOLD_FL` of Linux: names in this directory that differ in case only are one.
const CASE_FOLDED: IFlags = IFlags::from_bits_retain(0x4000_0000);
/// An access list with one more user than a mode can tell of, as the kernel keeps it.
const SOME_ACL: [u8; 44] = {
    let mut acl = [0; 44];
    let entries: [(u8, u8, u32); 5] = [(1, 6, !0), (2, 4, 1), (4, 4, !0), (16, 4, !0), (32, 0, !0)];
    acl[0] = 2;
    let mut at = 0;
    while at < 5 {
        let (tag, rights, who) = entries[at];
        let who = who.to_le_bytes();
        let entry = [tag, 0, rights, 0, who[0], who[1], who[2], who[3]];
        let mut byte = 0;
        while byte < 8 {
            acl[4 + at * 8 + byte] = entry[byte];
            byte += 1;
        }
        at += 1;
    }
    acl
};
/// `cap_net_raw+p`, as the kernel keeps it.
const SOME_CAPABILITY: [u8; 20] = [0, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NOBODY: u32 = 65534;

/// Who writes, and what the kernel lets him.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Who files belong to that he makes.
    pub uid: u32,
    /// The group of files that he makes, and others that he may give files to.
    pub groups: Vec<u32>,
    /// What takes privilege that he has not.
    pub may_not: Aspects,
}

/// Everything a judge needs to know of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// As the user named it.
    pub path: PathBuf,
    /// What it is.
    pub what: What,
    /// The kind of its file system, and what was found out about this one.
    pub system: FileSystem,
    /// The longest name, in bytes.
    pub name_len_max: usize,
    /// Files take room in units of so many bytes.
    pub block: u64,
    /// Bytes that may still be written.
    pub bytes_free: u64,
    /// Files that may still be made, where somebody counts.
    pub files_free: Option<u64>,
    /// A quota is why there is no more.
    pub by_quota: bool,
    /// The file system or the directory takes no writes.
    pub read_only: bool,
    /// This user may not write there.
    pub denied: bool,
    /// There is nothing in it that is anybody's.
    pub is_empty: bool,
    /// There is nothing in it at all, nor what comes with every new file system.
    pub is_bare: bool,
    /// A restore into it was begun and not ended.
    pub begun: Option<Marker>,
    /// It was empty when that one was begun.
    pub begun_empty: bool,
    /// It is what was backed up, lies inside of it, or holds it.
    pub is_source: bool,
    /// It lies inside the repository.
    pub in_repository: bool,
    /// The repository lies inside of it.
    pub holds_repository: bool,
    /// It lies in a mount of afterimage's own.
    pub in_own_mount: bool,
    /// Who writes.
    pub user: User,
}

/// A directory that was looked at, and is held.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) facts: Facts,
    /// It, or the directory in which it is to be made.
    pub(super) folder: Folder,
    /// The name to make there.
    pub(super) to_make: Option<Vec<u8>>,
}

/// Looks at the target. Opens no file of it.
pub(super) fn look(
    machine: &Machine,
    path: &Path,
    guarded: Guarded<'_>,
    source: Option<&Path>,
) -> Result<Looked> {
    let looking = || format!("look at the target {}", path.display());
    match stat_path(path) {
        Ok(stat) if What::of(&stat) != What::Directory => {
            let parent = open_directory(parent_of(path)).context(looking)?;
            let facts = Facts {
                what: What::of(&stat),
                ..gather(machine, path, Seen::Around(&parent), guarded, source)?
            };
            Ok(Looked { facts, folder: Folder::new(parent.into()), to_make: None })
        }
        Ok(_) => {
            let directory = open_directory(path).context(looking)?;
            let facts = gather(machine, path, Seen::Itself(&directory), guarded, source)?;
            let folder = Folder::new(directory.into());
            let is_empty = folder.is_empty(|name| name == LOST_AND_FOUND).context(looking)?;
            let is_bare = is_empty && folder.is_empty(|_| false).context(looking)?;
            let (begun, begun_empty) = Marker::read(&folder).unzip();
            let begun_empty = begun_empty.unwrap_or(false);
            let facts = Facts { is_empty, is_bare, begun, begun_empty, ..facts };
            Ok(Looked { facts, folder, to_make: None })
        }
        Err(Errno::NOENT) => {
            use std::os::unix::ffi::OsStrExt;
            let parent = open_directory(parent_of(path)).context(looking)?;
            let facts = gather(machine, path, Seen::Around(&parent), guarded, source)?;
            let name = path.file_name().map(|name| name.as_bytes().to_owned());
            let is_link = name
                .as_deref()
                .is_some_and(|name| rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok());
            let what = if is_link { What::LinkToNothing } else { What::Missing };
            let to_make = name.filter(|_| !is_link);
            Ok(Looked { facts: Facts { what, ..facts }, folder: Folder::new(parent.into()), to_make })
        }
        Err(error) => Err(error).context(looking),
    }
}

/// What was opened to look at.
enum Seen<'a> {
    /// The target.
    Itself(&'a File),
    /// The directory in which it is to be made: nothing lies inside of the target.
    Around(&'a File),
}

/// The facts of a directory, taken for an empty one.
fn gather(
    machine: &Machine,
    path: &Path,
    seen: Seen<'_>,
    guarded: Guarded<'_>,
    source: Option<&Path>,
) -> Result<Facts> {
    let (directory, is_there) = match seen {
        Seen::Itself(directory) => (directory, true),
        Seen::Around(directory) => (directory, false),
    };
    let looking = || format!("look at the target {}", path.display());
    let stat = stat_fd(directory).context(looking)?;
    let kind = rustix::fs::fstatfs(directory).context(looking)?;
    let room = rustix::fs::fstatvfs(directory).context(looking)?;
    let real = real_path(directory)?;
    let mount = machine.mount_of(&stat)?;
    // Magic numbers are 32 bits, also where the kernel's type for them has a sign.
    let mut system = FileSystem::of_magic(kind.f_type as u64 & 0xffff_ffff);
    let mut user = user();
    try_out(directory, &mut system, &mut user);
    let quota = mount.as_ref().and_then(|mount| quota::left(mount, &user));
    let privileged = has(CapabilitySet::SYS_RESOURCE);
    let blocks = if privileged { room.f_bfree } else { room.f_bavail };
    let bytes_free = blocks.saturating_mul(room.f_frsize);
    let files_free = (room.f_files > 0).then_some(if privileged { room.f_ffree } else { room.f_favail });
    let denied = rustix::fs::accessat(directory, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    let repository = guarded.repository.filter(|repository| repository.is_dir());
    let inside = |outer: Option<&Path>| outer.map_or(Ok(false), |outer| lies_inside(&real, outer));
    let holds = |inner: Option<&Path>| {
        inner.filter(|_| is_there).map_or(Ok(false), |inner| lies_inside(inner, &real))
    };
    Ok(Facts {
        path: path.to_owned(),
        what: What::Directory,
        name_len_max: usize::try_from(room.f_namemax).unwrap_or(255),
        block: room.f_frsize.max(1),
        bytes_free: quota.map_or(bytes_free, |quota| quota.bytes.min(bytes_free)),
        files_free: match quota {
            Some(quota) => Some(files_free.unwrap_or(u64::MAX).min(quota.files)),
            None => files_free,
        },
        by_quota: quota
            .is_some_and(|quota| quota.bytes < bytes_free || quota.files < files_free.unwrap_or(0)),
        read_only: room.f_flag.contains(StatVfsMountFlags::RDONLY) || is_immutable(directory),
        denied: denied.is_err(),
        is_empty: true,
        is_bare: true,
        begun: None,
        begun_empty: false,
        is_source: is_source(&real, guarded.source, source.filter(|_| is_there))?,
        in_repository: inside(repository)?,
        holds_repository: holds(repository)?,
        in_own_mount: mount.as_ref().is_some_and(is_own),
        system,
        user,
    })
}

fn is_own(mount: &Mount) -> bool {
    mount.fstype == "fuse.afterimage"
}

/// Whether the target is the source, lies inside of it, or holds it.
fn is_source(real: &Path, wanted: Option<&str>, source: Option<&Path>) -> Result<bool> {
    let Some(wanted) = wanted else { return Ok(false) };
    let is_it = |path: &Path| stat_path(path).is_ok_and(|stat| identity(&stat) == wanted);
    if real.ancestors().any(is_it) {
        return Ok(true);
    }
    // Its path as it was recorded counts only where the same directory is still there.
    source.filter(|source| is_it(source)).map_or(Ok(false), |source| lies_inside(source, real))
}

/// Asks a file without a name what becomes of what is set on it. A file system that has no such files is believed its table.
fn try_out(directory: &File, system: &mut FileSystem, user: &mut User) {
    if rustix::fs::ioctl_getflags(directory).is_ok_and(|flags| flags.contains(CASE_FOLDED)) {
        system.folds_case = true;
    }
    let how = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, c".", how, Mode::RUSR | Mode::WUSR) else { return };
    let has_attribute = |name: &str, value: &[u8]| {
        !matches!(rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()), Err(Errno::OPNOTSUPP))
    };
    let mut lacks = Vec::new();
    let mut note = |aspect, kept: bool| lacks.extend((!kept).then_some(aspect));
    note(Aspect::UserAttributes, has_attribute("user.afterimage", b"x"));
    note(Aspect::Acls, has_attribute("system.posix_acl_access", &SOME_ACL));
    note(Aspect::Times, keeps_nanoseconds(&file));
    note(Aspect::Holes, keeps_holes(&file));
    if !user.may_not.has(Aspect::Capabilities) {
        note(Aspect::Capabilities, has_attribute("security.capability", &SOME_CAPABILITY));
    }
    if !user.may_not.has(Aspect::SystemAttributes) {
        note(Aspect::SystemAttributes, has_attribute("trusted.afterimage", b"x"));
    }
    system.lacks = system.lacks.and(Aspects::of(&lacks));
    if !user.may_not.has(Aspect::Owners) {
        let nobody = (Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)));
        // Root of a container may own everything in it and still give nothing away.
        if rustix::fs::fchown(&file, nobody.0, nobody.1).is_err() {
            user.may_not = user.may_not.and(Aspects::of(&[Aspect::Owners]));
        }
    }
}

fn keeps_nanoseconds(file: impl AsFd) -> bool {
    let odd = Timespec { tv_sec: 1_000_000_001, tv_nsec: 123_456_789 };
    let set = rustix::fs::futimens(&file, &Timestamps { last_access: odd, last_modification: odd });
    set.is_ok() && rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_mtime_nsec == 123_456_789)
}

fn keeps_holes(file: impl AsFd) -> bool {
    const LEN: u64 = 4 << 20;
    let grown = rustix::fs::ftruncate(&file, LEN).is_ok();
    grown && rustix::fs::fstat(&file).is_ok_and(|stat| (stat.st_blocks as u64) < LEN / 512)
}

/// Who this process is.
fn user() -> User {
    let mut may_not = Vec::new();
    let mut need = |capability, aspect: &[Aspect]| {
        if !has(capability) {
            may_not.extend_from_slice(aspect);
        }
    };
    need(CapabilitySet::CHOWN, &[Aspect::Owners]);
    need(CapabilitySet::MKNOD, &[Aspect::Devices]);
    need(CapabilitySet::SETFCAP, &[Aspect::Capabilities]);
    need(CapabilitySet::SYS_ADMIN, &[Aspect::SystemAttributes]);
    let mut groups = vec![rustix::process::getegid().as_raw()];
    groups.extend(rustix::process::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw));
    User { uid: rustix::process::geteuid().as_raw(), groups, may_not: Aspects::of(&may_not) }
}

fn has(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

fn is_immutable(directory: &File) -> bool {
    rustix::fs::ioctl_getflags(directory).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
}

fn open_directory(path: &Path) -> rustix::io::Result<File> {
    open_nonblocking(path, OFlags::RDONLY | OFlags::DIRECTORY).map(File::from)
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn real_path(directory: &File) -> Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        .context(|| "find the real path of the target")
}
