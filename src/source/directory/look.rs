//! What something in a directory looks like from outside, and whether it is what it was.

use super::super::machine::{Number, device_of, stands_for};
use crate::format::tree::{Link, Spot, Time};
use rustix::fs::{FileType, Statx, StatxTimestamp};

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the words of each are its documentation
pub enum Type {
    Directory,
    File,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// What `stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What it is.
    pub kind: Type,
    /// Permissions, with set-user-id, set-group-id and sticky bits.
    pub mode: u16,
    /// Whose it is.
    pub uid: u32,
    /// Which group's.
    pub gid: u32,
    /// How many bytes.
    pub size: u64,
    /// How many bytes of disk it takes.
    pub allocated: u64,
    /// When its content was changed.
    pub mtime: Time,
    /// When anything of it was changed.
    pub ctime: Time,
    /// Its number in its file system.
    pub inode: u64,
    /// Its file system.
    pub device: Number,
    /// The mount that it is seen through.
    pub mount: u64,
    /// How many names it has.
    pub names: u32,
    /// The device that it stands for.
    pub stands_for: Number,
}

impl Look {
    /// From what the kernel says.
    pub fn of(stat: &Statx) -> Look {
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Type::Directory,
            FileType::Symlink => Type::Symlink,
            FileType::Fifo => Type::Fifo,
            FileType::Socket => Type::Socket,
            FileType::CharacterDevice => Type::CharDevice,
            FileType::BlockDevice => Type::BlockDevice,
            FileType::RegularFile | FileType::Unknown => Type::File,
        };
        Look {
            kind,
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            allocated: stat.stx_blocks.saturating_mul(512),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            inode: stat.stx_ino,
            device: device_of(stat),
            mount: stat.stx_mnt_id,
            names: stat.stx_nlink,
            stands_for: stands_for(stat),
        }
    }

    /// By what a later run recognises it.
    pub fn spot(&self) -> Spot {
        Spot { inode: self.inode, ctime: self.ctime }
    }

    /// Whether it is one file with another look, touched or not.
    pub fn is_same_file(&self, other: &Look) -> bool {
        (self.device, self.inode, self.kind) == (other.device, other.inode, other.kind)
    }

    /// Whether it is one file with another look and nobody touched it in between, as far as the kernel tells.
    pub fn is_untouched_since(&self, before: &Look) -> bool {
        (self.spot(), self.mtime, self.size) == (before.spot(), before.mtime, before.size)
    }

    /// Whether it has fewer bytes on disk than it has: there are holes in it, or it is compressed.
    pub fn may_have_holes(&self) -> bool {
        self.allocated < self.size
    }

    /// What it shares with its other names, if it has some.
    pub fn link(&self, group: impl FnOnce(&Look) -> [u8; 16]) -> Option<Link> {
        (self.names > 1 && self.kind != Type::Directory)
            .then(|| Link { group: group(self), names: self.names })
    }
}

fn time(stamp: StatxTimestamp) -> Time {
    Time { secs: stamp.tv_sec, nanos: stamp.tv_nsec.min(999_999_999) }
}
