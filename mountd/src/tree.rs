//! The tree: everything this crate needs to know about what it serves.
//!
//! A tree is read-only and made of nodes. It keeps no table of them: a node is a value of the tree's own type, handed out by
//! `lookup` and `readdir`, kept here for as long as the kernel knows it, and dropped when the kernel forgets it. The same goes for open
//! files and open directories: dropping the value is closing it.
//!
//! Every call returns at once, on the thread where the kernel's request arrived. What is known is answered [`Answer::Now`]; what has to
//! be waited for is a future, [`Answer::Later`], which is polled on tokio under a deadline and dropped when that passes. A call that
//! blocks stops one of two event loops, so a tree never does.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Kind, Result};

/// How long something may be remembered that never changes.
pub const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Something read-only that can be looked up, listed and read.
///
/// Only `root`, `lookup`, `attr`, `opendir`, `readdir`, `open` and `read` have to be written; a tree without symbolic links, holes or
/// extended attributes leaves the rest as it is.
pub trait Tree: Send + Sync + 'static {
    /// What stands for one file, directory or link. Cheap to clone; equal exactly when it is the same file, which is how two files whose
    /// inode numbers collide are told apart.
    type Node: Clone + Eq + Send + Sync + 'static;
    /// An open file. Dropped when its last reader has closed it.
    type File: Send + Sync + 'static;
    /// An open directory: what it held when it was opened, or where to go on reading it. Dropped when it is closed.
    type Dir: Send + Sync + 'static;

    /// The directory that appears at the mountpoint.
    fn root(&self) -> Self::Node;

    /// The entry `name` of a directory, or [`Kind::Missing`].
    fn lookup(&self, dir: &Self::Node, name: &OsStr) -> Answer<Entry<Self::Node>>;

    /// A node's attributes.
    fn attr(&self, node: &Self::Node) -> Answer<Attr>;

    /// Where a symbolic link points, at most 4095 bytes.
    fn readlink(&self, _node: &Self::Node) -> Answer<Bytes> {
        Answer::fail(Kind::Invalid, "not a symbolic link")
    }

    /// Opens a directory. Called again when a reader rewinds, so that it sees what is new.
    fn opendir(&self, node: &Self::Node) -> Answer<OpenDir<Self::Dir>>;

    /// The entries after the cursor `after`, which is 0 at first and then some entry's [`DirEntry::cursor`]; none at the end. A reader may also
    /// make a cursor up; what it gets then does not matter.
    ///
    /// Without `.` and `..`. Whatever happens to the directory, one open `Dir` neither repeats nor loses an entry that was there all along.
    fn readdir(&self, dir: &Arc<Self::Dir>, after: u64, page: Page) -> Answer<Vec<DirEntry<Self::Node>>>;

    /// Opens a regular file.
    fn open(&self, node: &Self::Node) -> Answer<OpenFile<Self::File>>;

    /// Exactly the bytes from `offset` to `offset + len` or the file's end, whichever comes first.
    ///
    /// Fewer bytes before the end would be shown as zeroes by the kernel; they are answered as an error instead. `len` is at most 128 KiB.
    fn read(&self, file: &Arc<Self::File>, offset: u64, len: u32) -> Answer<Bytes>;

    /// The first offset at or after `offset` that is data, or is a hole (the end of the file is one). [`Kind::PastEnd`] where there is none.
    fn seek(&self, _file: &Arc<Self::File>, _offset: u64, _what: Seek) -> Answer<u64> {
        Answer::fail(Kind::Never, "no holes are known here")
    }

    /// The names of a node's extended attributes.
    fn xattrs(&self, _node: &Self::Node) -> Answer<Vec<OsString>> {
        Answer::fail(Kind::Never, "no extended attributes here")
    }

    /// The value of one extended attribute, or [`Kind::NoAttribute`].
    fn xattr(&self, _node: &Self::Node, _name: &OsStr) -> Answer<Bytes> {
        Answer::fail(Kind::Never, "no extended attributes here")
    }

    /// What `df` shows.
    fn space(&self) -> Answer<Space> {
        Answer::now(Space::default())
    }
}

/// A future that owns what it needs. It may be dropped at any await point: work that others share belongs in a task of its own.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What a tree says: at once, or later.
pub enum Answer<T> {
    /// Known now; goes back to the kernel on the thread where the question came in.
    Now(Result<T>),
    /// Has to be waited for; goes to tokio, under the mount's deadline.
    Later(Later<T>),
}

impl<T> Answer<T> {
    /// The answer is known.
    pub fn now(value: T) -> Self {
        Answer::Now(Ok(value))
    }

    /// It is known that there is none.
    pub fn fail(kind: Kind, why: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Answer::Now(Err(Error::new(kind, why)))
    }

    /// The answer takes waiting.
    pub fn later(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Answer::Later(Box::pin(future))
    }

    /// What to ask next once this is known. Stays on this thread as long as everything is known.
    pub fn then<U: Send + 'static>(self, next: impl FnOnce(T) -> Answer<U> + Send + 'static) -> Answer<U>
    where
        T: Send + 'static,
    {
        match self {
            Answer::Now(Ok(value)) => next(value),
            Answer::Now(Err(error)) => Answer::Now(Err(error)),
            Answer::Later(future) => Answer::later(async move { next(future.await?).wait().await }),
        }
    }

    /// Waits for it, in a future of one's own.
    pub async fn wait(self) -> Result<T> {
        match self {
            Answer::Now(result) => result,
            Answer::Later(future) => future.await,
        }
    }
}

impl<T> From<Result<T>> for Answer<T> {
    fn from(result: Result<T>) -> Self {
        Answer::Now(result)
    }
}

/// A name that was found.
#[derive(Clone, Debug)]
pub struct Entry<N> {
    /// What the name stands for.
    pub node: N,
    /// Its attributes.
    pub attr: Attr,
    /// How long the name may be taken to stand for this node without asking again.
    pub keeps: Duration,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: shown, never opened (mounts are `nodev`).
    CharDevice {
        /// The driver.
        major: u32,
        /// The driver's device.
        minor: u32,
    },
    /// A block device: shown, never opened (mounts are `nodev`).
    BlockDevice {
        /// The driver.
        major: u32,
        /// The driver's device.
        minor: u32,
    },
}

/// A moment: seconds since 1970 and nanoseconds after them. Before 1970 the seconds are negative; the nanoseconds always count forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds.
    pub secs: i64,
    /// Below 1 000 000 000.
    pub nanos: u32,
}

/// What `stat` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode number: the tree's choice, the same after every remount. Hard links share one.
    pub ino: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Permissions with set-uid, set-gid and sticky: the low twelve bits.
    pub mode: u16,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that are not holes.
    pub blocks: u64,
    /// Last read.
    pub atime: Time,
    /// Last written.
    pub mtime: Time,
    /// Last changed in any way.
    pub ctime: Time,
    /// How long these attributes may be taken as true without asking again.
    pub keeps: Duration,
}

impl Attr {
    /// A plain one to start from: mode 0555 for directories and 0444 for the rest, one link, root's, times zero, no holes, kept forever.
    pub fn new(ino: u64, kind: NodeKind, size: u64) -> Attr {
        let (mode, nlink) = if kind == NodeKind::Directory { (0o555, 2) } else { (0o444, 1) };
        let (atime, mtime, ctime) = Default::default();
        Attr {
            ino,
            kind,
            mode,
            nlink,
            uid: 0,
            gid: 0,
            size,
            blocks: size.div_ceil(512),
            atime,
            mtime,
            ctime,
            keeps: FOREVER,
        }
    }
}

/// How much of a directory is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// More entries than this do not fit; fewer are fine, as long as it is one.
    pub room: usize,
    /// Whether [`DirEntry::entry`] is wanted too (`ls -l`). Optional: without it the kernel looks each name up.
    pub attributes: bool,
}

/// One name in a directory.
#[derive(Clone, Debug)]
pub struct DirEntry<N> {
    /// The name: 1 to 255 bytes, any but `/` and NUL, not `.` or `..`. Any other is shown with question marks, logged and counted.
    pub name: OsString,
    /// The inode number that `attr` would say.
    pub ino: u64,
    /// The kind that `attr` would say.
    pub kind: NodeKind,
    /// Passed as `after` to go on behind this entry: above 0, at most 2^62.
    pub cursor: u64,
    /// What `lookup` would say, where it costs nothing to know.
    pub entry: Option<Entry<N>>,
}

/// A directory that was opened.
#[derive(Clone, Debug)]
pub struct OpenDir<D> {
    /// The tree's own.
    pub dir: D,
    /// It never changes: the kernel may keep its listing and not ask again.
    pub keep: bool,
}

/// A file that was opened.
#[derive(Debug)]
pub struct OpenFile<F> {
    /// The tree's own.
    pub file: F,
    /// Bytes, as long as it is open.
    pub size: u64,
    /// Its bytes never change: the kernel keeps what it has cached of them from one opening to the next.
    pub keep: bool,
    /// A plain file with the same bytes, which the kernel may read by itself from now on (FUSE passthrough). Used only where the mount
    /// asked for it and the kernel allows it; otherwise `read` is called as for any file.
    pub plain: Option<OwnedFd>,
}

impl<F> OpenFile<F> {
    /// A file whose bytes never change.
    pub fn unchanging(file: F, size: u64) -> Self {
        OpenFile { file, size, keep: true, plain: None }
    }
}

/// What to seek.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is data (`SEEK_DATA`).
    Data,
    /// The next byte that is in a hole, the end of the file being one (`SEEK_HOLE`).
    Hole,
}

/// What `df` shows. Nothing is ever free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Nodes, or 0 where nobody counted.
    pub files: u64,
}
