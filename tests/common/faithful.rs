//! A directory with every oddity that a share may have, and whether another directory is the same to the last attribute.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Statx, StatxFlags, Timespec, Timestamps, Uid, XattrFlags};

use super::images::mixed;
use super::is_root;

/// `cap_net_raw+p`, as the kernel keeps it.
const CAPABILITY: [u8; 20] = [0, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Makes it, as far as this user may.
pub(crate) fn made_odd(root: &Path) {
    let at = |below: &str| root.join(below);
    for folder in ["empty", "names", "hard", "deep/er/and/deep/er", "unreadable"] {
        fs::create_dir_all(at(folder)).expect("make a directory");
    }
    write(&at("none"), b"");
    write(&at("small"), b"some bytes\n");
    write(&at("large"), &mixed(3, 3 << 20));
    write(&at("deep/er/and/deep/er/file"), &mixed(4, 70_000));
    write(&at("unreadable/inside"), b"x");
    for (number, name) in
        [&b"new\nline"[..], b"\xff\xfe", b"-rf *", b" ", b"...", &[b'n'; 255]].iter().enumerate()
    {
        write(&at("names").join(OsStr::from_bytes(name)), &mixed(number as u64, 2000));
    }
    holes(&at("holes"));
    File::create(at("all hole")).and_then(|file| file.set_len(20 << 20)).expect("make a hole");
    for (target, link) in [("small", "link"), ("../nowhere", "dangling"), (".", "names/up")] {
        symlink(target, at(link)).expect("make a link");
    }
    symlink("l".repeat(4000), at("long link")).expect("make a link");
    for second in ["hard/one", "hard/two", "names/three"] {
        fs::hard_link(at("large"), at(second)).expect("make a second name");
    }
    special(&at("pipe"), FileType::Fifo, 0);
    special(&at("socket"), FileType::Socket, 0);
    fs::hard_link(at("pipe"), at("hard/pipe")).expect("make a second name");
    attribute(&at("small"), "user.note", b"\0any\xff bytes");
    attribute(&at("empty"), "user.empty", b"");
    attribute(&at("large"), "user.large", &[7; 3000]);
    if is_root() {
        made_odder(root);
    }
    for (path, mode) in
        [("small", 0o4751), ("none", 0o000), ("names", 0o1777), ("deep/er", 0o2750), ("unreadable", 0o555)]
    {
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    if is_root() {
        attribute(&at("large"), "security.capability", &CAPABILITY);
    }
    age(root, &mut 1_700_000_000);
    let moments = [(-86_400 * 365, 1), (0, 0), (1_234_567_890, 123_456_789), (4_000_000_000, 999_999_999)];
    for (path, (secs, nanos)) in ["small", "link", "pipe", "names"].iter().zip(moments) {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW).expect("set a time");
    }
    let time = Timespec { tv_sec: 1, tv_nsec: 2 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, root, &times, AtFlags::empty()).expect("set a time");
}

/// All below was last changed long ago, each at another moment: rsync sets no nanoseconds of what it makes within the very second.
fn age(dir: &Path, second: &mut i64) {
    for entry in fs::read_dir(dir).expect("list a directory") {
        let entry = entry.expect("list a directory");
        if entry.file_type().expect("a type").is_dir() {
            age(&entry.path(), second);
        }
        *second += 1;
        let time = Timespec { tv_sec: *second, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW).expect("set a time");
    }
}

/// What only root may make.
fn made_odder(root: &Path) {
    let at = |below: &str| root.join(below);
    special(&at("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    special(&at("disk"), FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    for (path, uid, gid) in
        [("small", 1234, 5678), ("link", 77, 88), ("deep", 65_534, 4_000_000_000), ("pipe", 5, 6)]
    {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(CWD, at(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW).expect("chown");
    }
    attribute(&at("names"), "trusted.note", b"of an administrator");
    for (path, flags) in
        [("none", "u:1000:rw,g:50:r"), ("empty", "d:u:1000:rwx,u:7:x"), ("deep/er", "u:2000:rx")]
    {
        let set = Command::new("setfacl").args(["-m", flags]).arg(at(path)).status();
        assert!(set.is_ok_and(|status| status.success()), "setfacl is missing or failed");
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("write a file");
}

fn holes(path: &Path) {
    let file = File::create(path).expect("make a file");
    file.set_len(40 << 20).expect("make it long");
    for (offset, len) in [(0, 5000), (9 << 20, 200_000), ((40 << 20) - 4096, 4096)] {
        file.write_all_at(&mixed(offset, len), offset).expect("write");
    }
}

fn special(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, 0o640.into(), device).expect("make a node");
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("set an attribute");
}

/// All that can be known of a file but when it was looked at.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    kind: FileType,
    mode: u16,
    owner: (u32, u32),
    mtime: (i64, u32),
    device: (u32, u32),
    size: u64,
    is_sparse: bool,
    target: PathBuf,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Fails unless two directories hold the same: names, contents, attributes, and which names are one file.
#[track_caller]
pub(crate) fn assert_same_trees(a: &Path, b: &Path) {
    let (one, other) = (look(a), look(b));
    let names = |all: &BTreeMap<PathBuf, (Seen, u64)>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    let (mut there, mut back) = (BTreeMap::new(), BTreeMap::new());
    for (path, (seen, inode)) in &one {
        let (again, again_inode) = &other[path];
        assert_eq!(seen, again, "{}", path.display());
        if seen.kind != FileType::Directory {
            assert_eq!(
                *there.entry(*inode).or_insert(*again_inode),
                *again_inode,
                "{} is linked otherwise",
                path.display()
            );
            assert_eq!(
                *back.entry(*again_inode).or_insert(*inode),
                *inode,
                "{} is linked otherwise",
                path.display()
            );
        }
        if seen.kind == FileType::RegularFile {
            assert_same_content(&a.join(path), &b.join(path));
        }
    }
}

#[track_caller]
fn assert_same_content(a: &Path, b: &Path) {
    let (one, other) = (File::open(a).expect("open"), File::open(b).expect("open"));
    let len = one.metadata().expect("stat").len();
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(usize::MAX).min(1 << 20);
        one.read_exact_at(&mut left[..step], at).expect("read");
        other.read_exact_at(&mut right[..step], at).expect("read");
        assert!(left[..step] == right[..step], "{} and {} differ from {at} on", a.display(), b.display());
        at += step as u64;
    }
}

fn look(root: &Path) -> BTreeMap<PathBuf, (Seen, u64)> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let flags = StatxFlags::BASIC_STATS;
        let stat = rustix::fs::statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, flags).expect("stat");
        let seen = see(&path, &stat);
        if seen.kind == FileType::Directory {
            todo.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("list").path()));
        }
        let own = path.strip_prefix(root).expect("below the root").to_owned();
        let _new = all.insert(own, (seen, stat.stx_ino));
    }
    all
}

fn see(path: &Path, stat: &Statx) -> Seen {
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let is_file = kind == FileType::RegularFile;
    Seen {
        kind,
        mode: if kind == FileType::Symlink { 0 } else { stat.stx_mode & 0o7777 },
        owner: (stat.stx_uid, stat.stx_gid),
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        size: if kind == FileType::Directory { 0 } else { stat.stx_size },
        // How many blocks a file takes is its file system's business; that a large hole takes none is ours.
        is_sparse: is_file && stat.stx_size > 1 << 20 && stat.stx_blocks * 512 < stat.stx_size / 2,
        target: if kind == FileType::Symlink {
            fs::read_link(path).expect("read a link")
        } else {
            PathBuf::new()
        },
        attributes: attributes(path),
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).expect("list attributes");
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("read an attribute");
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_owned(), value(name))).collect()
}

/// Every name below a directory, as bytes.
pub(crate) fn names_below(root: &Path) -> Vec<Vec<u8>> {
    look(root).into_keys().map(|path| path.into_os_string().into_vec()).collect()
}
