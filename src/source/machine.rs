//! This machine's block devices, mounts and swap areas, as the kernel tells them under `/sys` and `/proc`.
//!
//! Reads only. What is missing there (a kernel without loop devices, a container without `/sys`) is empty, not an error; what is
//! there and can't be read is an error, because a judge of safety must not take silence for consent.
//!
//! Entered from `disks` (what a path lies on), `device` (what a device is) and from the judges in `restore`. Tests hand in a made-up
//! `/sys` and `/proc`, so that RAID, LVM and multipath are judged on machines that have none.

use crate::error::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags};
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The number of a device, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for Number {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Number, Self::Err> {
        let (major, minor) = text.trim().split_once(':').unwrap_or((text, ""));
        Ok(Number { major: major.parse()?, minor: minor.parse()? })
    }
}

/// One mount that this process sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's id of it.
    pub id: u64,
    /// The device of the file system; major 0 for those that have none of their own (btrfs, overlay, NFS, tmpfs).
    pub number: Number,
    /// Which directory of the file system is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// `ext4`, `fuse.afterimage`, ...
    pub fstype: String,
    /// What was mounted; a path for file systems that live on a device.
    pub from: PathBuf,
}

/// Where the kernel tells about the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    sys: PathBuf,
    proc: PathBuf,
}

impl Machine {
    /// The machine that we run on.
    pub fn here() -> Machine {
        Machine::told_by("/sys", "/proc")
    }

    /// A machine told by other directories than the kernel's.
    pub fn told_by(sys: impl Into<PathBuf>, proc: impl Into<PathBuf>) -> Machine {
        Machine { sys: sys.into(), proc: proc.into() }
    }

    /// The kernel's name of a block device (`sda1`, `dm-0`).
    pub fn name_of(&self, number: Number) -> Result<Option<String>> {
        let link = self.sys.join("dev/block").join(number.to_string());
        match std::fs::read_link(&link) {
            Ok(to) => Ok(to.file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("read {}", link.display())),
        }
    }

    /// The number of a block device by its kernel name.
    pub fn number_of(&self, name: &str) -> Result<Option<Number>> {
        Ok(self.attribute(name, "dev")?.and_then(|text| text.parse().ok()))
    }

    /// What the kernel says of a device under this attribute; trimmed, and nothing when it is empty.
    pub fn attribute(&self, name: &str, attribute: &str) -> Result<Option<String>> {
        let bytes = if_there(std::fs::read(self.block(name).join(attribute)))
            .context(|| format!("read {attribute} of {name} under /sys"))?;
        let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// The whole disk that this is a partition of.
    pub fn disk_of_partition(&self, name: &str) -> Result<Option<String>> {
        if self.attribute(name, "partition")?.is_none() {
            return Ok(None);
        }
        let real = if_there(std::fs::canonicalize(self.block(name)))
            .context(|| format!("find {name} under /sys"))?;
        let disk = real.as_deref().and_then(Path::parent).and_then(Path::file_name);
        Ok(disk.map(|disk| disk.to_string_lossy().into_owned()))
    }

    /// The partitions of a disk.
    pub fn partitions(&self, name: &str) -> Result<Vec<String>> {
        let mut found = self.names_in(&self.block(name))?;
        found.retain(|inner| self.block(name).join(inner).join("partition").exists());
        Ok(found)
    }

    /// The devices that this one is made of (RAID, LVM, dm-crypt, multipath).
    pub fn slaves(&self, name: &str) -> Result<Vec<String>> {
        self.names_in(&self.block(name).join("slaves"))
    }

    /// The devices that are made of this one.
    pub fn holders(&self, name: &str) -> Result<Vec<String>> {
        self.names_in(&self.block(name).join("holders"))
    }

    /// The file or device behind a loop device.
    pub fn behind_loop(&self, name: &str) -> Result<Option<PathBuf>> {
        let file = self.block(name).join("loop/backing_file");
        let bytes = if_there(std::fs::read(file)).context(|| format!("read what is behind {name}"))?;
        Ok(bytes.map(|bytes| path_of(bytes.strip_suffix(b"\n").unwrap_or(&bytes))))
    }

    /// The loop devices that exist.
    pub fn loops(&self) -> Result<Vec<String>> {
        let mut names = self.names_in(&self.sys.join("class/block"))?;
        names.retain(|name| name.starts_with("loop"));
        Ok(names)
    }

    /// All devices of the btrfs file system that has this one.
    pub fn btrfs_with(&self, name: &str) -> Result<Vec<String>> {
        let all = self.sys.join("fs/btrfs");
        for uuid in self.names_in(&all)? {
            let devices = self.names_in(&all.join(uuid).join("devices"))?;
            if devices.iter().any(|device| device == name) {
                return Ok(devices);
            }
        }
        Ok(Vec::new())
    }

    /// A word that is another one after every start of the machine.
    pub fn boot(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.proc.join("sys/kernel/random/boot_id"))
            .context(|| "read the id of this start of the machine")?;
        Ok(text.trim().to_owned())
    }

    /// The mounts that this process sees.
    pub fn mounts(&self) -> Result<Vec<Mount>> {
        let table = std::fs::read(self.proc.join("self/mountinfo")).context(|| "read the table of mounts")?;
        Ok(table.split(|byte| *byte == b'\n').filter_map(parse_mount).collect())
    }

    /// The mount that a file was reached through, as `statx` tells.
    pub fn mount_of(&self, stat: &Statx) -> Result<Option<Mount>> {
        let told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let mounts = self.mounts()?;
        let by_id = mounts.iter().find(|mount| told && mount.id == stat.stx_mnt_id);
        let by_device =
            || mounts.iter().find(|mount| mount.number == device_of(stat) && mount.number.major != 0);
        Ok(by_id.or_else(by_device).cloned())
    }

    /// Whether a file lies in a mount of afterimage's own.
    pub fn is_own_mount(&self, stat: &Statx) -> Result<bool> {
        Ok(self.mount_of(stat)?.is_some_and(|mount| mount.fstype == "fuse.afterimage"))
    }

    /// Whether a mount, by its id, is one of afterimage's own.
    pub fn is_own_mount_id(&self, id: u64) -> Result<bool> {
        let mounts = self.mounts()?;
        Ok(mounts.iter().any(|mount| mount.id == id && mount.fstype == "fuse.afterimage"))
    }

    /// The files and devices that are swapped to.
    pub fn swaps(&self) -> Result<Vec<PathBuf>> {
        let table =
            if_there(std::fs::read(self.proc.join("swaps"))).context(|| "read the table of swap areas")?;
        let table = table.unwrap_or_default();
        let lines = table.split(|byte| *byte == b'\n').skip(1);
        Ok(lines
            .filter_map(|line| line.split(|byte| byte.is_ascii_whitespace()).next())
            .filter_map(named)
            .collect())
    }

    fn block(&self, name: &str) -> PathBuf {
        self.sys.join("class/block").join(name)
    }

    fn names_in(&self, directory: &Path) -> Result<Vec<String>> {
        let what = || format!("list {}", directory.display());
        let Some(entries) = if_there(std::fs::read_dir(directory)).context(what)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.context(what)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// All that `statx` tells of what a name leads to.
pub fn stat_path(path: &Path) -> rustix::io::Result<Statx> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), wanted())
}

/// All that `statx` tells of an open file.
pub fn stat_fd(fd: impl AsFd) -> rustix::io::Result<Statx> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted())
}

fn wanted() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID
}

/// Opens by name without waiting for a peer, so that a name that turns into a FIFO can't hang us.
pub fn open_nonblocking(path: &Path, how: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, how | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
}

/// The device that a file lies on.
pub fn device_of(stat: &Statx) -> Number {
    Number { major: stat.stx_dev_major, minor: stat.stx_dev_minor }
}

/// The device that a device file stands for.
pub fn stands_for(stat: &Statx) -> Number {
    Number { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor }
}

/// What a file is, in a form that compares: two names with equal identities lead to the same bytes.
pub fn identity(stat: &Statx) -> String {
    match rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()) {
        rustix::fs::FileType::BlockDevice => format!("block {}", stands_for(stat)),
        _ => format!("file {}:{}", device_of(stat), stat.stx_ino),
    }
}

/// `None` when there is no such thing, or it went away while we looked (`ENODEV`, `ENXIO`), or is no directory.
fn if_there<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    use rustix::io::Errno;
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NODEV | Errno::NXIO)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One line of mountinfo: `id parent maj:min root point options [tags...] - type source options`.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let id = text(words.next()?)?.parse().ok()?;
    let number = text(words.nth(1)?)?.parse().ok()?;
    let root = named(words.next()?)?;
    let point = named(words.next()?)?;
    let mut behind_dash = words.skip_while(|word| *word != b"-").skip(1);
    let fstype = text(behind_dash.next()?)?.to_owned();
    let from = named(behind_dash.next()?)?;
    Some(Mount { id, number, root, point, fstype, from })
}

/// For fuzzers: a table of any bytes.
pub(super) fn fuzz(bytes: &[u8]) {
    for mount in bytes.split(|byte| *byte == b'\n').filter_map(parse_mount) {
        let len = [&mount.root, &mount.point, &mount.from].map(|path| path.as_os_str().len());
        assert!(len.iter().all(|len| (1..=bytes.len()).contains(len)));
        assert!(mount.number.to_string().parse() == Ok(mount.number));
    }
}

fn text(word: &[u8]) -> Option<&str> {
    std::str::from_utf8(word).ok()
}

/// A path as the kernel prints it: space, tab, newline and backslash as three octal digits.
fn named(word: &[u8]) -> Option<PathBuf> {
    if word.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, behind)) = rest.split_first() {
        match behind.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    Some(path_of(&bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(text(digits)?, 8).ok()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_is_read_with_spaces_tags_and_dashes() {
        let line = br"36 35 98:0 /mnt1 /mnt\040two/-x rw,noatime master:1 shared:2 - fuse.afterimage /dev/ro\134ot rw";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.number, Number { major: 98, minor: 0 });
        assert_eq!((mount.id, mount.root.as_path()), (36, Path::new("/mnt1")));
        assert_eq!(mount.point, Path::new("/mnt two/-x"));
        assert_eq!(mount.fstype, "fuse.afterimage");
        assert_eq!(mount.from, Path::new(r"/dev/ro\ot"));
    }

    #[test]
    fn broken_mount_lines_are_no_mounts() {
        for line in [
            "",
            "1",
            "1 2 3:4 / /x rw",
            "1 2 3:4 / /x rw - ext4",
            "x 2 3:4 / /x rw - ext4 y",
            "1 2 34 / /x rw - a b",
        ] {
            assert_eq!(parse_mount(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(named(br"\04").unwrap(), Path::new(r"\04"));
        assert_eq!(named(br"a\777").unwrap(), Path::new(r"a\777"));
    }

    #[test]
    fn this_machine_has_a_mount_of_its_root() {
        let machine = Machine::here();
        let mounts = machine.mounts().unwrap();
        assert!(mounts.iter().any(|mount| mount.point == Path::new("/")), "{mounts:?}");
        let of_root = machine.mount_of(&stat_path(Path::new("/")).unwrap()).unwrap().unwrap();
        assert_eq!(of_root.point, Path::new("/"));
    }
}
