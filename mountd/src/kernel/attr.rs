//! The tree's attributes -> the protocol's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::tree::{Attr, NodeKind, Time};

/// What `stat` calls the best size of a read: one that costs few system calls and no memory worth mentioning.
const BLOCK_SIZE: u32 = 128 * 1024;

/// Attributes under the number by which the kernel knows the node.
pub(super) fn file_attr(attr: &Attr, number: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: attr.size,
        blocks: attr.blocks,
        atime: moment(attr.atime),
        mtime: moment(attr.mtime),
        ctime: moment(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device(attr.kind),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// What a directory says about an entry without its attributes.
pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice { .. } => FileType::CharDevice,
        NodeKind::BlockDevice { .. } => FileType::BlockDevice,
    }
}

/// A device number as the kernel packs it into 32 bits: 12 of the major, 20 of the minor around them.
fn device(kind: NodeKind) -> u32 {
    match kind {
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
        }
        _ => 0,
    }
}

/// A time outside of what the system can hold is shown as 1970.
fn moment(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let start = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let nanos = Duration::from_nanos(u64::from(time.nanos.min(999_999_999)));
    start.and_then(|start| start.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// Names of extended attributes, each with the NUL that ends it.
pub(super) fn name_list(names: &[OsString]) -> Vec<u8> {
    names.iter().flat_map(|name| name.as_bytes().iter().copied().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = moment(Time { secs: -2, nanos: 500_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(time).ok(), Some(Duration::from_millis(1500)));
        assert_eq!(moment(Time { secs: i64::MIN, nanos: 0 }), UNIX_EPOCH - Duration::from_secs(1 << 63));
        assert_eq!(moment(Time { secs: 3, nanos: u32::MAX }), UNIX_EPOCH + Duration::new(3, 999_999_999));
    }

    #[test]
    fn device_numbers_are_packed_as_the_kernel_unpacks_them() {
        assert_eq!(device(NodeKind::BlockDevice { major: 8, minor: 1 }), 0x801);
        assert_eq!(device(NodeKind::CharDevice { major: 0xabc, minor: 0x12345 }), 0x123a_bc45);
        assert_eq!(device(NodeKind::File), 0);
    }

    #[test]
    fn names_of_extended_attributes_end_with_nul() {
        assert_eq!(name_list(&["user.a".into(), "user.b".into()]), b"user.a\0user.b\0");
        assert_eq!(name_list(&[]), b"");
    }
}
