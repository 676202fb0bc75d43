//! A tree of odd things: whatever a real one may do to its mount, this one does on purpose.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afterimage_mountd::Tree;
use afterimage_mountd::error::{Error, Kind};
use afterimage_mountd::tree::{
    Answer, Attr, DirEntry, Entry, FOREVER, NodeKind, OpenDir, OpenFile, Page, Seek, Space, Time,
};
use bytes::Bytes;

/// The size of `bytes` and its relatives: no multiple of anything.
pub(crate) const SIZE: u64 = (8 << 20) + 123;
/// What cannot be read of `damaged`.
pub(crate) const DAMAGE: std::ops::Range<u64> = (1 << 20)..(1 << 20) + (128 << 10);
/// `sparse` has data in every fourth of these, and nothing else.
pub(crate) const SPARSE_UNIT: u64 = 1 << 20;
pub(crate) const SPARSE_SIZE: u64 = 32 * SPARSE_UNIT;
/// Entries of `many`.
pub(crate) const MANY: u64 = 100_000;
pub(crate) const SCRIPT: &[u8] = b"#!/bin/sh\necho it runs\n";
/// Before 1970 and not at a whole second.
pub(crate) const MTIME: Time = Time { secs: -86_400, nanos: 123_456_789 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Node {
    Root,
    Bytes,
    Later,
    Hang,
    Panic,
    PanicLater,
    PanicOnClose,
    Short,
    Damaged,
    Sparse,
    Empty,
    Link,
    Fifo,
    Socket,
    Null,
    Disk,
    Script,
    Private,
    Attributed,
    Guarded,
    Plain,
    Many,
    Names,
    Changing,
    Troubled,
    Twin,
    TwinsDouble,
    OneOfMany(u64),
    Named(u64),
    Came(u64),
}

const NAMES_OF_ROOT: [(&str, Node); 26] = [
    ("bytes", Node::Bytes),
    ("later", Node::Later),
    ("hang", Node::Hang),
    ("panic", Node::Panic),
    ("panic-later", Node::PanicLater),
    ("panic-on-close", Node::PanicOnClose),
    ("short", Node::Short),
    ("damaged", Node::Damaged),
    ("sparse", Node::Sparse),
    ("empty", Node::Empty),
    ("link", Node::Link),
    ("fifo", Node::Fifo),
    ("socket", Node::Socket),
    ("null", Node::Null),
    ("disk", Node::Disk),
    ("script", Node::Script),
    ("private", Node::Private),
    ("attributed", Node::Attributed),
    ("guarded", Node::Guarded),
    ("plain", Node::Plain),
    ("many", Node::Many),
    ("names", Node::Names),
    ("changing", Node::Changing),
    ("troubled", Node::Troubled),
    ("twin", Node::Twin),
    ("twins-double", Node::TwinsDouble),
];

/// Names in `troubled`: the first can be looked up.
pub(crate) const TROUBLED: [&str; 4] = ["fine", "broken", "panics", "never"];

/// Names that a file system must be able to show; the last one must never be given to it.
pub(crate) fn odd_names() -> Vec<OsString> {
    let names: [&[u8]; 7] =
        [b"new\nline", &[b'x'; 255], "\u{202e}gpj.exe".as_bytes(), b"\xff\xfe\x80", b" ", b"-rf", b"a/b"];
    names.iter().map(|name| OsString::from_vec(name.to_vec())).collect()
}

/// The access list of `guarded`: its owner reads and writes, user 65534 reads, its group and all others may nothing.
pub(crate) fn access_list() -> Bytes {
    let entries: [(u16, u16, u32); 5] = [(1, 6, !0), (2, 4, 65_534), (4, 0, !0), (16, 4, !0), (32, 0, !0)];
    let entry = |(tag, may, who): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &who.to_le_bytes()].concat()
    };
    2_u32.to_le_bytes().into_iter().chain(entries.into_iter().flat_map(entry)).collect()
}

/// The byte at an offset of `bytes`, `later`, `damaged` and `plain`.
pub(crate) fn pattern(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

fn byte(offset: u64) -> u8 {
    let word = (offset / 8).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (word ^ (word >> 29)).to_le_bytes()[(offset % 8) as usize]
}

fn sparse_has_data(offset: u64) -> bool {
    (offset / SPARSE_UNIT).is_multiple_of(4)
}

/// An open directory is what was in it when it was opened.
pub(crate) struct Listing(Vec<(OsString, Node)>);

/// An open file.
pub(crate) struct Open(Node);

impl Drop for Open {
    fn drop(&mut self) {
        assert!(self.0 != Node::PanicOnClose, "on purpose");
    }
}

#[derive(Default)]
pub(crate) struct Odd {
    pub(crate) whole: std::sync::OnceLock<Bytes>,
    /// What `changing` holds: names and what they stand for.
    pub(crate) changing: Mutex<BTreeMap<OsString, u64>>,
    /// How often `read` was called.
    pub(crate) reads: AtomicU64,
    /// How often it was called for `hang`.
    pub(crate) hanging: AtomicU64,
    /// How often a directory was opened.
    pub(crate) listings: AtomicU64,
    /// A plain file with the pattern, for `plain`.
    pub(crate) plain: Option<std::path::PathBuf>,
}

impl Odd {
    fn whole(&self) -> &Bytes {
        self.whole.get_or_init(|| pattern(0..SIZE).into())
    }

    fn find(&self, dir: &Node, name: &OsStr) -> Option<Node> {
        match dir {
            Node::Root => NAMES_OF_ROOT.iter().find(|(known, _)| name == *known).map(|(_, node)| *node),
            Node::Many => {
                let number = name.to_str()?.strip_prefix('f')?.parse().ok()?;
                (number < MANY && name.len() == 7).then_some(Node::OneOfMany(number))
            }
            Node::Names => Some(Node::Named(odd_names().iter().position(|known| known == name)? as u64)),
            Node::Troubled => (name == "fine").then_some(Node::Empty),
            Node::Changing => self.changing.lock().unwrap().get(name).map(|number| Node::Came(*number)),
            _ => None,
        }
    }

    fn entries(&self, dir: &Node) -> Vec<(OsString, Node)> {
        match dir {
            Node::Root => NAMES_OF_ROOT.iter().map(|(name, node)| (name.into(), *node)).collect(),
            Node::Many => (0..MANY).map(|i| (format!("f{i:06}").into(), Node::OneOfMany(i))).collect(),
            Node::Names => odd_names().into_iter().zip((0..).map(Node::Named)).collect(),
            Node::Troubled => TROUBLED.map(|name| (name.into(), Node::Empty)).into(),
            Node::Changing => {
                self.changing.lock().unwrap().iter().map(|(name, i)| (name.clone(), Node::Came(*i))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn attr_of(&self, node: &Node) -> Attr {
        let size = match node {
            Node::Empty | Node::Root | Node::Many | Node::Names | Node::Changing | Node::Troubled => 0,
            Node::Sparse => SPARSE_SIZE,
            Node::Script => SCRIPT.len() as u64,
            Node::Link => 5,
            Node::OneOfMany(_) | Node::Named(_) | Node::Came(_) => 0,
            Node::Fifo | Node::Socket | Node::Null | Node::Disk => 0,
            Node::Twin | Node::TwinsDouble => 1,
            _ => SIZE,
        };
        let mut attr = Attr::new(number_of(node), kind_of(node), size);
        attr.mtime = MTIME;
        match node {
            Node::Sparse => attr.blocks = SPARSE_SIZE / 4 / 512,
            Node::Script => attr.mode = 0o6755,
            Node::Private => attr.mode = 0o400,
            Node::Guarded => attr.mode = 0o640,
            Node::Changing | Node::Came(_) => attr.keeps = Duration::from_secs(60),
            Node::OneOfMany(i) => (attr.uid, attr.gid) = (*i as u32, 12),
            _ => {}
        }
        attr
    }
}

fn number_of(node: &Node) -> u64 {
    match node {
        Node::OneOfMany(i) => (1 << 40) + i,
        Node::Named(i) => (1 << 41) + i,
        Node::Came(i) => (1 << 42) + i,
        Node::Root => 1000,
        // Both claim the number that a third has.
        Node::Twin | Node::TwinsDouble => 7777,
        named => 2000 + NAMES_OF_ROOT.iter().position(|(_, node)| node == named).unwrap() as u64,
    }
}

fn kind_of(node: &Node) -> NodeKind {
    match node {
        Node::Root | Node::Many | Node::Names | Node::Changing | Node::Troubled => NodeKind::Directory,
        Node::Link => NodeKind::Symlink,
        Node::Fifo => NodeKind::Fifo,
        Node::Socket => NodeKind::Socket,
        Node::Null => NodeKind::CharDevice { major: 1, minor: 3 },
        Node::Disk => NodeKind::BlockDevice { major: 259, minor: 300 },
        _ => NodeKind::File,
    }
}

impl Tree for Odd {
    type Node = Node;
    type File = Open;
    type Dir = Listing;

    fn root(&self) -> Node {
        Node::Root
    }

    fn lookup(&self, dir: &Node, name: &OsStr) -> Answer<Entry<Node>> {
        if name == "never" {
            return Answer::later(std::future::pending());
        }
        if name == "broken" {
            return Answer::fail(Kind::Damaged, "damaged on purpose");
        }
        if name == "panics" {
            return Answer::later(async { panic!("on purpose") });
        }
        match self.find(dir, name) {
            Some(node) => {
                let keeps = if *dir == Node::Changing { Duration::from_secs(60) } else { FOREVER };
                Answer::now(Entry { node, attr: self.attr_of(&node), keeps })
            }
            None => Answer::fail(Kind::Missing, "no such name"),
        }
    }

    fn attr(&self, node: &Node) -> Answer<Attr> {
        Answer::now(self.attr_of(node))
    }

    fn readlink(&self, _: &Node) -> Answer<Bytes> {
        Answer::now(Bytes::from_static(b"bytes"))
    }

    fn opendir(&self, node: &Node) -> Answer<OpenDir<Listing>> {
        let _ = self.listings.fetch_add(1, Ordering::Relaxed);
        Answer::now(OpenDir { dir: Listing(self.entries(node)), keep: *node != Node::Changing })
    }

    fn readdir(&self, dir: &Arc<Listing>, after: u64, page: Page) -> Answer<Vec<DirEntry<Node>>> {
        let rest = dir.0.iter().zip(1..).skip(after as usize).take(page.room);
        let entries = rest.map(|((name, node), cursor)| {
            let (ino, kind) = (number_of(node), kind_of(node));
            let knows = page.attributes && matches!(node, Node::OneOfMany(_));
            let entry = knows.then(|| Entry { node: *node, attr: self.attr_of(node), keeps: FOREVER });
            DirEntry { name: name.clone(), ino, kind, cursor, entry }
        });
        Answer::now(entries.collect())
    }

    fn open(&self, node: &Node) -> Answer<OpenFile<Open>> {
        let plain = self.plain.as_ref().filter(|_| *node == Node::Plain);
        let plain = plain.map(|path| OwnedFd::from(std::fs::File::open(path).unwrap()));
        Answer::now(OpenFile { plain, ..OpenFile::unchanging(Open(*node), self.attr_of(node).size) })
    }

    fn read(&self, file: &Arc<Open>, offset: u64, len: u32) -> Answer<Bytes> {
        let _ = self.reads.fetch_add(1, Ordering::Relaxed);
        let end = offset + u64::from(len);
        let part = |whole: &Bytes| whole.slice(offset as usize..end as usize);
        match file.0 {
            Node::Hang => {
                let _ = self.hanging.fetch_add(1, Ordering::Relaxed);
                Answer::later(std::future::pending())
            }
            Node::Panic => panic!("on purpose"),
            Node::PanicLater => Answer::later(async { panic!("on purpose") }),
            Node::Short => Answer::now(part(self.whole()).slice(..len as usize / 2)),
            Node::Damaged if offset < DAMAGE.end && end > DAMAGE.start => {
                Answer::fail(Kind::Damaged, "damaged on purpose")
            }
            Node::Later => {
                let bytes = part(self.whole());
                Answer::later(async move {
                    tokio::time::sleep(Duration::from_micros(300)).await;
                    Ok::<_, Error>(bytes)
                })
            }
            Node::Sparse => {
                let filled = |at| if sparse_has_data(at) { byte(at) } else { 0 };
                Answer::now((offset..end).map(filled).collect::<Vec<_>>().into())
            }
            Node::Script => Answer::now(Bytes::from_static(SCRIPT).slice(offset as usize..end as usize)),
            Node::Twin => Answer::now(Bytes::from_static(b"1")),
            Node::TwinsDouble => Answer::now(Bytes::from_static(b"2")),
            _ => Answer::now(part(self.whole())),
        }
    }

    fn seek(&self, file: &Arc<Open>, offset: u64, what: Seek) -> Answer<u64> {
        if file.0 != Node::Sparse {
            let size = self.attr_of(&file.0).size;
            return Answer::now(if what == Seek::Data { offset } else { size });
        }
        let mut at = offset;
        while at < SPARSE_SIZE && sparse_has_data(at) != (what == Seek::Data) {
            at = (at / SPARSE_UNIT + 1) * SPARSE_UNIT;
        }
        match what {
            Seek::Data if at >= SPARSE_SIZE => Answer::fail(Kind::PastEnd, "only a hole from here on"),
            _ => Answer::now(at),
        }
    }

    fn xattrs(&self, node: &Node) -> Answer<Vec<OsString>> {
        let has = *node == Node::Attributed;
        Answer::now(if has { vec!["user.colour".into(), "user.empty".into()] } else { Vec::new() })
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Answer<Bytes> {
        match (node, name.to_str()) {
            (Node::Attributed, Some("user.colour")) => Answer::now(Bytes::from_static(b"blue\0\xff")),
            (Node::Attributed, Some("user.empty")) => Answer::now(Bytes::new()),
            (Node::Guarded, Some("system.posix_acl_access")) => Answer::now(access_list()),
            _ => Answer::fail(Kind::NoAttribute, "no such attribute"),
        }
    }

    fn space(&self) -> Answer<Space> {
        Answer::now(Space { bytes: 10 << 30, files: MANY })
    }
}
