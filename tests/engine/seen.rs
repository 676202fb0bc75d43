//! What lies in a directory, to the last attribute, and whether it is what was planted.

use crate::garden::Plants;
use afterimage::format::tree::{Attributes, Content, Value};
use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What lies somewhere, and everything that can be known of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    kind: FileType,
    mode: u16,
    owner: (u32, u32),
    mtime: (i64, u32),
    device: (u32, u32),
    bytes: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The names of one file.
type Names = Vec<Vec<u8>>;

/// All paths below a directory, that itself included; and the names of each file that has several.
#[derive(Debug, PartialEq)]
pub(crate) struct Look {
    pub(crate) paths: BTreeMap<Vec<u8>, Seen>,
    pub(crate) links: Vec<Names>,
}

/// Looks at everything below a directory.
pub(crate) fn look(root: &Path) -> Look {
    let (mut seen, mut files) = (BTreeMap::new(), BTreeMap::<u64, Names>::new());
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = stat(&path);
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let own = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_owned();
        if kind == FileType::Directory {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.entry(stat.stx_ino).or_default().push(own.clone());
        }
        let bytes = match kind {
            FileType::RegularFile => std::fs::read(&path).unwrap(),
            FileType::Symlink => std::fs::read_link(&path).unwrap().into_os_string().into_vec(),
            _ => Vec::new(),
        };
        let one = Seen {
            kind,
            mode: if kind == FileType::Symlink { 0 } else { stat.stx_mode & 0o7777 },
            owner: (stat.stx_uid, stat.stx_gid),
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            bytes,
            attributes: attributes(&path),
        };
        let _new = seen.insert(own, one);
    }
    let mut several: Vec<_> = files.into_values().filter(|names| names.len() > 1).collect();
    several.iter_mut().for_each(|names| names.sort());
    several.sort();
    Look { paths: seen, links: several }
}

pub(crate) fn stat(path: &Path) -> Statx {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).unwrap()
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_owned(), value(name))).collect()
}

/// What these plants look like.
fn wanted(plants: &Plants) -> Look {
    let mut groups = BTreeMap::<[u8; 16], Names>::new();
    let mut seen = BTreeMap::new();
    for (path, plant) in plants {
        let entry = &plant.entry;
        if let Some(link) = entry.link {
            groups.entry(link.group).or_default().push(path.clone());
        }
        let (kind, device) = match entry.content {
            Content::Directory(_) => (FileType::Directory, (0, 0)),
            Content::File(_) => (FileType::RegularFile, (0, 0)),
            Content::Symlink(_) => (FileType::Symlink, (0, 0)),
            Content::Fifo => (FileType::Fifo, (0, 0)),
            Content::Socket => (FileType::Socket, (0, 0)),
            Content::CharDevice { major, minor } => (FileType::CharacterDevice, (major, minor)),
            Content::BlockDevice { major, minor } => (FileType::BlockDevice, (major, minor)),
        };
        let bytes = match &entry.content {
            Content::Symlink(target) => target.to_vec(),
            _ => plant.bytes(),
        };
        let attributes = match &entry.attributes {
            Attributes::Here(set) => set
                .iter()
                .map(|one| match &one.value {
                    Value::Here(value) => (one.name.to_vec(), value.to_vec()),
                    Value::Chunk { .. } => unreachable!("none here"),
                })
                .collect(),
            _ => BTreeMap::new(),
        };
        let one = Seen {
            kind,
            mode: if kind == FileType::Symlink { 0 } else { entry.mode },
            owner: (entry.owner.uid, entry.owner.gid),
            mtime: (entry.mtime.secs, entry.mtime.nanos),
            device,
            bytes,
            attributes,
        };
        let _new = seen.insert(path.clone(), one);
    }
    let several: Vec<_> = groups.into_values().collect();
    let mut several: Vec<_> = several.into_iter().filter(|names| names.len() > 1).collect();
    several.sort();
    Look { paths: seen, links: several }
}

#[track_caller]
pub(crate) fn holds(target: &Path, plants: &Plants) {
    let (Look { paths: seen, links }, Look { paths: want, links: want_links }) =
        (look(target), wanted(plants));
    let names = |all: &BTreeMap<Vec<u8>, Seen>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&seen), names(&want));
    for (path, one) in &want {
        let brief = |one: &Seen| Seen { bytes: vec![one.bytes.len() as u8], ..one.clone() };
        assert_eq!(brief(&seen[path]), brief(one), "{}", path.escape_ascii());
        assert!(seen[path].bytes == one.bytes, "{}", path.escape_ascii());
    }
    assert_eq!(links, want_links);
}
