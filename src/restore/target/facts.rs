//! What is known of a target before anything is written: gathered here, judged in `judge`.
//!
//! Facts of an existing target come from its open descriptor; those of a missing one from the open descriptor of the directory it
//! would be made in. Silence is no consent: what can't be asked is an error.

use crate::error::{Context, Result};
use crate::source::device::size_of;
use crate::source::disks::{Beneath, has_a_name_inside, lies_inside};
use crate::source::machine::{Machine, Number, identity, stands_for, stat_fd, stat_path};
use rustix::fs::{FileType, Statx, StatxFlags};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// What must not be overwritten.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guarded<'a> {
    /// The identity of the backup's source, as its record has it.
    pub source: Option<&'a str>,
    /// The directory of the repository, when it is one.
    pub repository: Option<&'a Path>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// To nothing: a file can be made there.
    #[default]
    Missing,
    /// To a symbolic link that leads to nothing.
    LinkToNothing,
    /// To a regular file.
    Regular,
    /// To a block device.
    Block,
    /// To a directory.
    Directory,
    /// To a FIFO.
    Fifo,
    /// To a character device.
    Character,
    /// To a terminal.
    Terminal,
    /// To a socket.
    Socket,
}

impl What {
    /// What kind of file this is.
    pub fn of(stat: &Statx) -> What {
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => What::Regular,
            FileType::BlockDevice => What::Block,
            FileType::Directory => What::Directory,
            FileType::Fifo => What::Fifo,
            FileType::Socket => What::Socket,
            // By its number, because opening an unknown device may do something: 4 and 5 are consoles, 136 to 143 terminals of sessions.
            FileType::CharacterDevice if matches!(stat.stx_rdev_major, 4 | 5 | 136..=143) => What::Terminal,
            _ => What::Character,
        }
    }
}

/// Who uses a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// This device is mounted there.
    Mounted(String, PathBuf),
    /// This is swapped to.
    Swap(PathBuf),
    /// The first device is a part of the second (RAID, LVM, dm-crypt, multipath).
    Part(String, String),
    /// It is behind this loop device.
    Loop(String),
    /// Another program has locked it, as virtual machines do.
    Locked,
    /// The kernel or another program holds it exclusively.
    Held,
}

impl fmt::Display for Use {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Mounted(device, point) => write!(out, "{device} is mounted on {}", point.display()),
            Use::Swap(what) => write!(out, "{} is swapped to", what.display()),
            Use::Part(device, holder) => write!(out, "{device} is a part of {holder}"),
            Use::Loop(name) => write!(out, "it is behind the loop device {name}"),
            Use::Locked => write!(out, "another program has locked it"),
            Use::Held => write!(out, "it is held exclusively by the kernel or another program"),
        }
    }
}

/// Who uses the block device at `path`, its disk or its partitions.
pub fn uses_of(machine: &Machine, path: &Path) -> Result<Vec<Use>> {
    let stat = stat_path(path).context(|| format!("look at {}", path.display()))?;
    let number = stands_for(&stat);
    Family::of_device(machine, number, machine.name_of(number)?.as_deref())?.uses(machine)
}

/// Everything a judge needs to know of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// As the user named it.
    pub path: PathBuf,
    /// Its real path, without links.
    pub real: PathBuf,
    /// What it is.
    pub what: What,
    /// Its size in bytes.
    pub size: u64,
    /// Logical sector size of a device.
    pub sector: Option<u32>,
    /// The kernel lets nobody write to it.
    pub read_only: bool,
    /// Equal for two names of the same bytes.
    pub identity: Option<String>,
    /// Equal only for this very file or disk, also when numbers are used again: what a resumed restore is bound to.
    pub fingerprint: Option<String>,
    /// Who uses it, itself or its disk or its partitions.
    pub uses: Vec<Use>,
    /// It is what was backed up.
    pub is_source: bool,
    /// It lies inside the repository.
    pub in_repository: bool,
    /// It is a device that the repository lies on.
    pub under_repository: bool,
    /// It lies in a mount of afterimage's own.
    pub in_own_mount: bool,
}

impl Facts {
    /// Of something that exists. `file` is open for writing; without it (it could not be opened) the facts are those of `stat`.
    pub(super) fn of(path: &Path, stat: &Statx, file: Option<&File>, around: Around<'_>) -> Result<Facts> {
        let Around { machine, guarded } = around;
        let real = match file {
            Some(file) => real_path(rustix::fd::AsFd::as_fd(file))?,
            None => std::fs::canonicalize(path).context(|| format!("find {}", path.display()))?,
        };
        let identity = identity(stat);
        let mut facts = Facts {
            path: path.to_owned(),
            what: What::of(stat),
            size: stat.stx_size,
            is_source: guarded.source == Some(&identity),
            in_own_mount: machine.is_own_mount(stat)?,
            identity: Some(identity),
            real,
            ..Facts::default()
        };
        match facts.what {
            What::Block => facts.add_device(stat, file, around)?,
            What::Regular => facts.add_file(stat, around)?,
            _ => {}
        }
        Ok(facts)
    }

    /// Of nothing: a file would be made in this open directory.
    pub(super) fn of_missing(path: &Path, directory: BorrowedFd<'_>, around: Around<'_>) -> Result<Facts> {
        let stat = stat_fd(directory).context(|| format!("look at the directory of {}", path.display()))?;
        let real = real_path(directory)?;
        let in_repository =
            around.guarded.repository.map_or(Ok(false), |repository| lies_inside(&real, repository))?;
        Ok(Facts {
            path: path.to_owned(),
            real: path.file_name().map_or(real.clone(), |name| real.join(name)),
            in_repository,
            in_own_mount: around.machine.is_own_mount(&stat)?,
            ..Facts::default()
        })
    }

    fn add_file(&mut self, stat: &Statx, around: Around<'_>) -> Result<()> {
        if let Some(repository) = around.guarded.repository {
            self.in_repository = lies_inside(&self.real, repository)? || has_a_name_inside(stat, repository)?;
        }
        let born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let birth = born.then(|| format!(" born {}.{:09}", stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec));
        self.fingerprint = Some(identity(stat) + &birth.unwrap_or_default());
        self.uses = Family::of_file(stat).uses(around.machine)?;
        Ok(())
    }

    fn add_device(&mut self, stat: &Statx, file: Option<&File>, around: Around<'_>) -> Result<()> {
        let Around { machine, guarded } = around;
        let number = stands_for(stat);
        let name = machine.name_of(number)?;
        if let Some(file) = file {
            self.size = size_of(file).context(|| format!("ask {} for its size", self.path.display()))?;
            let sector = rustix::fs::ioctl_blksszget(file);
            self.sector =
                Some(sector.context(|| format!("ask {} for its sector size", self.path.display()))?);
        }
        self.uses = Family::of_device(machine, number, name.as_deref())?.uses(machine)?;
        let Some(name) = name else { return Ok(()) };
        self.read_only = machine.attribute(&name, "ro")?.as_deref() == Some("1");
        self.fingerprint = Some(fingerprint(machine, &name, self.size)?);
        if let Some(repository) = guarded.repository {
            self.under_repository = Beneath::path(machine, repository)?.devices.contains(&name);
        }
        Ok(())
    }
}

/// Where the facts are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    pub(super) machine: &'a Machine,
    pub(super) guarded: Guarded<'a>,
}

/// Which names and numbers a use of the target may go by: its own; for a device also those of its disk and of its partitions, for a
/// partition is written with its disk and a disk with its partitions.
struct Family {
    identity: String,
    members: Vec<(String, Number)>,
}

impl Family {
    fn of_file(stat: &Statx) -> Family {
        Family { identity: identity(stat), members: Vec::new() }
    }

    fn of_device(machine: &Machine, number: Number, name: Option<&str>) -> Result<Family> {
        let mut names: Vec<String> = Vec::new();
        if let Some(name) = name {
            names.push(name.to_owned());
            names.extend(machine.disk_of_partition(name)?);
            names.extend(machine.partitions(name)?);
        }
        let mut members = Vec::new();
        for name in names {
            if let Some(number) = machine.number_of(&name)? {
                members.push((name, number));
            }
        }
        Ok(Family { identity: format!("block {number}"), members })
    }

    fn uses(&self, machine: &Machine) -> Result<Vec<Use>> {
        let mut uses = Vec::new();
        for mount in machine.mounts()? {
            let member = self.member(mount.number).or_else(|| self.member_at(&mount.from));
            uses.extend(member.map(|name| Use::Mounted(name.to_owned(), mount.point)));
        }
        for path in machine.swaps()? {
            if self.has(&path) {
                uses.push(Use::Swap(path));
            }
        }
        for (name, _) in &self.members {
            uses.extend(machine.holders(name)?.into_iter().map(|holder| Use::Part(name.clone(), holder)));
        }
        for name in machine.loops()? {
            if machine.behind_loop(&name)?.is_some_and(|behind| self.has(&behind)) {
                uses.push(Use::Loop(name));
            }
        }
        uses.dedup();
        Ok(uses)
    }

    fn member(&self, number: Number) -> Option<&str> {
        self.members.iter().find(|(_, known)| *known == number).map(|(name, _)| name.as_str())
    }

    /// The member that a path leads to: file systems without a number of their own (btrfs) name their device by path.
    fn member_at(&self, path: &Path) -> Option<&str> {
        let stat = path.is_absolute().then(|| stat_path(path).ok()).flatten()?;
        (What::of(&stat) == What::Block).then(|| self.member(stands_for(&stat))).flatten()
    }

    fn has(&self, path: &Path) -> bool {
        self.member_at(path).is_some() || stat_path(path).is_ok_and(|stat| identity(&stat) == self.identity)
    }
}

/// What a disk or partition is called by those who made it; if they left that out, its running number since the machine was started.
fn fingerprint(machine: &Machine, name: &str, size: u64) -> Result<String> {
    let partition = machine.attribute(name, "partition")?;
    let disk = machine.disk_of_partition(name)?.unwrap_or_else(|| name.to_owned());
    let mut given = None;
    for attribute in ["wwid", "device/wwid", "dm/uuid", "md/uuid", "device/serial", "serial"] {
        given = given.or(machine.attribute(&disk, attribute)?);
    }
    let of_disk = match given {
        Some(given) => given,
        None => {
            let number = machine.attribute(&disk, "dev")?.unwrap_or_default();
            let sequence = machine.attribute(&disk, "diskseq")?.unwrap_or_default();
            format!("{} {number} {sequence}", machine.boot()?)
        }
    };
    let start = machine.attribute(name, "start")?.unwrap_or_default();
    Ok(format!("block {of_disk} partition {} from {start} of {size} bytes", partition.unwrap_or_default()))
}

fn real_path(fd: BorrowedFd<'_>) -> Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(&link).context(|| "find the real path of the target")
}
