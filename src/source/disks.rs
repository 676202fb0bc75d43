//! Where a path lies: on which block devices, down to the physical disks, and inside which directories.
//!
//! A file lies on a file system, that on a device (btrfs: on several), that on the devices it is made of: a partition on its disk, a
//! logical volume on its physical ones, a loop device on the file behind it. What can't be told (NFS, tmpfs, overlay) is empty.
//!
//! Entered when a backup is asked whether its source shares a disk with the repository, and by the judges of safety.

use super::machine::{Machine, Mount, Number, device_of, identity, stands_for, stat_path};
use crate::error::{Context, Result};
use rustix::fs::{FileType, Statx};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What lies beneath something, by kernel names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beneath {
    /// Every device on the way down, the physical disks among them.
    pub devices: BTreeSet<String>,
    /// Those that are made of nothing else.
    pub disks: BTreeSet<String>,
}

impl Beneath {
    /// What lies beneath the file, directory or block device of this name.
    pub fn path(machine: &Machine, path: &Path) -> Result<Beneath> {
        let stat = stat_path(path).context(|| format!("look at {}", path.display()))?;
        Beneath::file(machine, &stat)
    }

    /// What lies beneath an open file, directory or block device.
    pub fn file(machine: &Machine, stat: &Statx) -> Result<Beneath> {
        let mut found = Beneath::default();
        found.add_file(machine, stat)?;
        Ok(found)
    }

    /// What lies beneath a block device, itself included.
    pub fn device(machine: &Machine, number: Number) -> Result<Beneath> {
        let mut found = Beneath::default();
        found.add_number(machine, number)?;
        Ok(found)
    }

    fn add_file(&mut self, machine: &Machine, stat: &Statx) -> Result<()> {
        if is_block(stat) {
            return self.add_number(machine, stands_for(stat));
        }
        for name in devices_of_mount(machine, machine.mount_of(stat)?.as_ref(), device_of(stat))? {
            self.add_name(machine, &name)?;
        }
        Ok(())
    }

    fn add_number(&mut self, machine: &Machine, number: Number) -> Result<()> {
        match machine.name_of(number)? {
            Some(name) => self.add_name(machine, &name),
            None => Ok(()),
        }
    }

    fn add_name(&mut self, machine: &Machine, name: &str) -> Result<()> {
        if !self.devices.insert(name.to_owned()) {
            return Ok(());
        }
        if let Some(behind) = machine.behind_loop(name)? {
            // The file may be gone or in another namespace; then there is nothing more to tell.
            return stat_path(&behind).map_or(Ok(()), |stat| self.add_file(machine, &stat));
        }
        let mut below = machine.slaves(name)?;
        below.extend(machine.disk_of_partition(name)?);
        if below.is_empty() {
            let _ = self.disks.insert(name.to_owned());
        }
        below.iter().try_for_each(|name| self.add_name(machine, name))
    }
}

/// The devices that a file system lives on.
fn devices_of_mount(machine: &Machine, mount: Option<&Mount>, of_file: Number) -> Result<Vec<String>> {
    if let Some(name) = machine.name_of(mount.map_or(of_file, |mount| mount.number))? {
        return Ok(vec![name]);
    }
    // A file system without a number of its own may still name a device: btrfs does.
    let from = mount.and_then(|mount| stat_path(&mount.from).ok()).filter(is_block);
    let Some(name) = from.map(|stat| machine.name_of(stands_for(&stat))).transpose()?.flatten() else {
        return Ok(Vec::new());
    };
    let all = machine.btrfs_with(&name)?;
    Ok(if all.is_empty() { vec![name] } else { all })
}

/// Whether a path lies inside a directory or is it, however it is reached: through links, bind mounts or another name.
/// A path that does not exist lies where it would be made.
pub fn lies_inside(path: &Path, directory: &Path) -> Result<bool> {
    let outer = stat_path(directory).context(|| format!("look at {}", directory.display()))?;
    let here = existing(path)?;
    for ancestor in here.ancestors() {
        let stat = stat_path(ancestor).context(|| format!("look at {}", ancestor.display()))?;
        if identity(&stat) == identity(&outer) {
            return Ok(true);
        }
    }
    let machine = Machine::here();
    let (Some(inner), Some(outer)) = (in_file_system(&machine, &here)?, in_file_system(&machine, directory)?)
    else {
        return Ok(false);
    };
    Ok(inner.0 == outer.0 && inner.1.starts_with(&outer.1))
}

/// Whether a file that has other names has one of them inside a directory. Reads the directory only when the file has more names than
/// one and lies on the same file system.
pub fn has_a_name_inside(file: &Statx, directory: &Path) -> Result<bool> {
    let outer = stat_path(directory).context(|| format!("look at {}", directory.display()))?;
    if file.stx_nlink < 2 || device_of(file) != device_of(&outer) {
        return Ok(false);
    }
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        let what = || format!("list {}", next.display());
        for entry in std::fs::read_dir(&next).context(what)? {
            let entry = entry.context(what)?;
            let kind = entry.file_type().context(what)?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if std::os::unix::fs::DirEntryExt::ino(&entry) == file.stx_ino {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The real path, or the real one of the directory that it would be made in.
fn existing(path: &Path) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::canonicalize(parent).context(|| format!("find the directory {}", parent.display()))
        }
        Err(error) => Err(error).context(|| format!("find {}", path.display())),
    }
}

/// A path as its file system sees it, so that two bind mounts of one directory compare equal.
fn in_file_system(machine: &Machine, path: &Path) -> Result<Option<(Number, PathBuf)>> {
    let real = std::fs::canonicalize(path).context(|| format!("find {}", path.display()))?;
    let stat = stat_path(&real).context(|| format!("look at {}", real.display()))?;
    let mount = machine.mount_of(&stat)?;
    Ok(mount.and_then(|mount| Some((mount.number, mount.root.join(real.strip_prefix(&mount.point).ok()?)))))
}

pub(super) fn is_block(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::BlockDevice
}
