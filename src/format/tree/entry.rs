//! Entries: what a directory has under a name, with all that is to be given back.
//!
//! ```text
//! owners  := count[u16] ( uid[u32] gid[u32] user[short] group[short] )*
//! entry   := name[short] kind[u8] flags[u8] mode[u16] owner[u16] mtime[time] set[u16]? link? content
//! time    := seconds[u64, two's complement] nanoseconds[u32]
//! flags   := 1 a set of extended attributes | 2 a link | 4 it changed while it was read
//! link    := group[16] names[u32]                                   other names of this file have the same group
//! content := kind 1, directory:         0 | 1 level[u8] rows[u64] totals id[32]                    0: it is empty
//!            kind 2, regular file:      0 len[u16] bytes | 1 len[u64] | 2 len[u32] id[32] | 3 len[u64] data[u64] level[u8] id[32]
//!            kind 3, symbolic link:     len[u16] target
//!            kind 4, fifo; 5, socket:   nothing
//!            kind 6, character device; 7, block device:   major[u32] minor[u32]
//! ```
//!
//! Owners stand in the order in which the entries first need them, none twice and none in vain; entries in the order of their names.
//! `short` is a length of one byte and so many bytes.

use super::attributes::Attributes;
use super::branch::Totals;
use super::table;
use super::{Input, Referred, put_count, put_short};
use crate::format::corrupt::within;
use crate::format::ids::SealKind;
use crate::format::node::Child;
use crate::format::{Corrupt, limits, put_u16, put_u32, put_u64};
use bytes::Bytes;
use std::sync::Arc;

const HAS_SET: u8 = 1;
const HAS_LINK: u8 = 2;
const CHANGED: u8 = 4;
const NANOS: u32 = 1_000_000_000;

/// What a directory has under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name: any bytes that can be one.
    pub name: Bytes,
    /// Permissions, with set-user-id, set-group-id and sticky bits (07777).
    pub mode: u16,
    /// Whose it is.
    pub owner: Arc<Owner>,
    /// When its content was changed.
    pub mtime: Time,
    /// What it shares with other names of the same file, when it has more than one.
    pub link: Option<Link>,
    /// Whether somebody wrote to it while it was read, every time it was tried.
    pub changed: bool,
    /// Its extended attributes.
    pub attributes: Attributes,
    /// What it is, and what is in it.
    pub content: Content,
}

/// Whose something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The number of the user.
    pub uid: u32,
    /// The number of the group.
    pub gid: u32,
    /// The name of the user where it was backed up; empty if it has none.
    pub user: Bytes,
    /// The name of the group.
    pub group: Bytes,
}

/// A moment, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970; before it, less than zero.
    pub secs: i64,
    /// And so many nanoseconds later, less than 10^9.
    pub nanos: u32,
}

/// What names of one file have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Names with the same group, and otherwise equal entries, are names of one file.
    pub group: [u8; 16],
    /// How many names it had, here and elsewhere.
    pub names: u32,
}

/// What something is, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory; nothing: an empty one.
    Directory(Option<Directory>),
    /// A regular file.
    File(FileContent),
    /// A symbolic link, with its target.
    Symlink(Bytes),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Whose device.
        major: u32,
        /// Which of them.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Whose device.
        major: u32,
        /// Which of them.
        minor: u32,
    },
}

/// The top node of a directory that is not empty, and what lies below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The node.
    pub child: Child,
    /// Its level.
    pub level: u8,
    /// How many entries the directory has.
    pub rows: u64,
    /// What lies below, the directory itself left out.
    pub totals: Totals,
}

/// What is in a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// These bytes.
    Inline(Bytes),
    /// So many zeros, at least one.
    Zeros(u64),
    /// One data chunk.
    Chunk {
        /// How long it is.
        len: u32,
        /// The chunk.
        child: Child,
    },
    /// A map, cut by content.
    Map {
        /// How long the file is.
        len: u64,
        /// How many bytes of it are stored; the others are zero.
        data: u64,
        /// The level of the map's top node.
        level: u8,
        /// The top node.
        child: Child,
    },
}

impl FileContent {
    /// The size of the file.
    pub fn len(&self) -> u64 {
        match self {
            FileContent::Inline(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            FileContent::Zeros(len) | FileContent::Map { len, .. } => *len,
            FileContent::Chunk { len, .. } => (*len).into(),
        }
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of its bytes are stored; the others are zero.
    pub fn data(&self) -> u64 {
        match self {
            FileContent::Zeros(_) => 0,
            FileContent::Map { data, .. } => *data,
            all => all.len(),
        }
    }
}

impl Entry {
    /// What it adds to the sums of its directory.
    pub fn totals(&self) -> Totals {
        let file = Totals { files: 1, ..Totals::default() };
        match &self.content {
            Content::Directory(below) => {
                let own = Totals { directories: 1, ..Totals::default() };
                below.iter().map(|below| below.totals).chain([own]).sum()
            }
            Content::File(content) => Totals { bytes: content.len(), ..file },
            _ => file,
        }
    }

    /// The size as `stat` has it: of a file its bytes, of a symbolic link the length of its target.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File(content) => content.len(),
            Content::Symlink(target) => u64::try_from(target.len()).unwrap_or(u64::MAX),
            _ => 0,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }

    /// What it refers to.
    pub fn children(&self) -> Vec<Referred> {
        table::children(std::slice::from_ref(self))
    }

    fn kind(&self) -> u8 {
        match self.content {
            Content::Directory(_) => 1,
            Content::File(_) => 2,
            Content::Symlink(_) => 3,
            Content::Fifo => 4,
            Content::Socket => 5,
            Content::CharDevice { .. } => 6,
            Content::BlockDevice { .. } => 7,
        }
    }

    pub(super) fn child(&self) -> Option<Referred> {
        let (kind, child) = match &self.content {
            Content::Directory(Some(below)) => (SealKind::Tree, below.child),
            Content::File(FileContent::Chunk { child, .. }) => (SealKind::Data, *child),
            Content::File(FileContent::Map { child, .. }) => (SealKind::Node, *child),
            _ => return None,
        };
        Some(Referred { kind, child })
    }

    pub(super) fn child_mut(&mut self) -> Option<&mut Child> {
        match &mut self.content {
            Content::Directory(Some(below)) => Some(&mut below.child),
            Content::File(FileContent::Chunk { child, .. } | FileContent::Map { child, .. }) => Some(child),
            _ => None,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>, owner: usize, set: Option<usize>) {
        put_short(out, &self.name);
        let flags = [(set.is_some(), HAS_SET), (self.link.is_some(), HAS_LINK), (self.changed, CHANGED)];
        let flags = flags.iter().filter(|(is, _)| *is).fold(0, |flags, (_, flag)| flags | flag);
        out.extend_from_slice(&[self.kind(), flags]);
        put_u16(out, self.mode);
        put_count(out, owner);
        self.mtime.put(out);
        if let Some(set) = set {
            put_count(out, set);
        }
        if let Some(link) = &self.link {
            out.extend_from_slice(&link.group);
            put_u32(out, link.names);
        }
        self.content.put(out);
    }

    pub(super) fn parse(at: &mut Input<'_>) -> Result<Raw, Corrupt> {
        let name = at.short()?;
        let (kind, flags, mode, owner) = (at.u8()?, at.u8()?, at.u16()?, at.u16()?);
        if flags & !(HAS_SET | HAS_LINK | CHANGED) != 0 {
            return Err(Corrupt::NotZero { found: flags.into() });
        }
        within("mode of a file", mode.into(), 0o7777)?;
        let mtime = Time::parse(at)?;
        let set = if flags & HAS_SET == 0 { None } else { Some(at.u16()?) };
        let link = match flags & HAS_LINK {
            0 => None,
            _ => Some(Link { group: at.array()?, names: at.u32()? }),
        };
        let content = Content::parse(kind, at)?;
        if link.is_some() && kind == 1 {
            return Err(Corrupt::Field { what: "link of a directory", wanted: "absent" });
        }
        let (attributes, changed) = (Attributes::None, flags & CHANGED != 0);
        let entry = Entry { name, mode, owner: Arc::default(), mtime, link, changed, attributes, content };
        Ok(Raw { entry, owner, set })
    }
}

impl Time {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        put_u64(out, self.secs.cast_unsigned());
        put_u32(out, self.nanos);
    }

    pub(super) fn parse(at: &mut Input<'_>) -> Result<Time, Corrupt> {
        let time = Time { secs: at.u64()?.cast_signed(), nanos: at.u32()? };
        within("nanoseconds of a time", time.nanos.into(), NANOS.saturating_sub(1).into())?;
        Ok(time)
    }
}

impl Content {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Content::Directory(None) => out.push(0),
            Content::Directory(Some(below)) => {
                out.extend_from_slice(&[1, below.level]);
                put_u64(out, below.rows);
                below.totals.put(out);
                out.extend_from_slice(&below.child.id.0);
            }
            Content::File(content) => content.put(out),
            Content::Symlink(target) => {
                put_count(out, target.len());
                out.extend_from_slice(target);
            }
            Content::Fifo | Content::Socket => {}
            Content::CharDevice { major, minor } | Content::BlockDevice { major, minor } => {
                put_u32(out, *major);
                put_u32(out, *minor);
            }
        }
    }

    fn parse(kind: u8, at: &mut Input<'_>) -> Result<Content, Corrupt> {
        Ok(match kind {
            1 => Content::Directory(Directory::parse(at)?),
            2 => Content::File(FileContent::parse(at)?),
            3 => {
                let len = at.count("length of a link's target", limits::LINK_TARGET_LEN_MAX)?;
                let target = at.bytes(len.into())?;
                if target.is_empty() || target.contains(&0) {
                    return Err(Corrupt::Field { what: "target of a link", wanted: "a path" });
                }
                Content::Symlink(target)
            }
            4 => Content::Fifo,
            5 => Content::Socket,
            6 => Content::CharDevice { major: at.u32()?, minor: at.u32()? },
            7 => Content::BlockDevice { major: at.u32()?, minor: at.u32()? },
            found => return Err(Corrupt::Shape { found }),
        })
    }
}

impl Directory {
    fn parse(at: &mut Input<'_>) -> Result<Option<Directory>, Corrupt> {
        match at.u8()? {
            0 => return Ok(None),
            1 => {}
            found => return Err(Corrupt::Shape { found }),
        }
        let (level, rows) = (at.u8()?, at.u64()?);
        within("level of a node", level.into(), limits::TREE_LEVEL_MAX.into())?;
        if rows == 0 {
            return Err(Corrupt::EmptyEntry);
        }
        Ok(Some(Directory { level, rows, totals: Totals::parse(at)?, child: at.child()? }))
    }
}

impl FileContent {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            FileContent::Inline(bytes) => {
                out.push(0);
                put_count(out, bytes.len());
                out.extend_from_slice(bytes);
            }
            FileContent::Zeros(len) => {
                out.push(1);
                put_u64(out, *len);
            }
            FileContent::Chunk { len, child } => {
                out.push(2);
                put_u32(out, *len);
                out.extend_from_slice(&child.id.0);
            }
            FileContent::Map { len, data, level, child } => {
                out.push(3);
                put_u64(out, *len);
                put_u64(out, *data);
                out.push(*level);
                out.extend_from_slice(&child.id.0);
            }
        }
    }

    fn parse(at: &mut Input<'_>) -> Result<FileContent, Corrupt> {
        let content = match at.u8()? {
            0 => {
                let len = at.count("length of a file in its entry", limits::INLINE_LEN_MAX)?;
                return Ok(FileContent::Inline(at.bytes(len.into())?));
            }
            1 => FileContent::Zeros(at.u64()?),
            2 => FileContent::Chunk { len: at.u32()?, child: at.child()? },
            3 => {
                let (len, data, level) = (at.u64()?, at.u64()?, at.u8()?);
                within("level of a node", level.into(), limits::LEVEL_MAX.into())?;
                within("stored bytes of a file", data, len)?;
                FileContent::Map { len, data, level, child: at.child()? }
            }
            found => return Err(Corrupt::Shape { found }),
        };
        within("length of a file", content.len(), limits::IMAGE_LEN_MAX)?;
        if let FileContent::Chunk { len, .. } = content {
            within("length of a chunk", len.into(), limits::CHUNK_LEN_MAX.into())?;
        }
        if content.is_empty() { Err(Corrupt::EmptyEntry) } else { Ok(content) }
    }
}

impl Owner {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, self.uid);
        put_u32(out, self.gid);
        put_short(out, &self.user);
        put_short(out, &self.group);
    }

    pub(super) fn parse(at: &mut Input<'_>) -> Result<Owner, Corrupt> {
        Ok(Owner { uid: at.u32()?, gid: at.u32()?, user: at.short()?, group: at.short()? })
    }
}

/// Whether something can have this name in a directory: 1 to 255 bytes, no `/` and no NUL, and neither `.` nor `..` (R10).
pub fn is_file_name(name: &[u8]) -> bool {
    (1..=usize::from(limits::FILE_NAME_LEN_MAX)).contains(&name.len())
        && !matches!(name, b"." | b"..")
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

pub(super) fn judge_name(name: &[u8]) -> Result<(), Corrupt> {
    if is_file_name(name) { Ok(()) } else { Err(NO_NAME) }
}

const NO_NAME: Corrupt = Corrupt::Field { what: "name of a file", wanted: "a name without / and NUL" };

/// An entry whose tables and places are not looked up yet.
pub(super) struct Raw {
    pub(super) entry: Entry,
    pub(super) owner: u16,
    pub(super) set: Option<u16>,
}
