//! What a mount is asked to be, and why there is none.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How to mount. Start from [`Options::new`] and change what should be different.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program's name: the mount's type is `fuse.KIND`, by which its own mounts are recognised.
    pub kind: String,
    /// What stands in the first column of `df`.
    pub source: String,
    /// Other users may use the mount; the kernel then checks modes, owners and access lists for everyone.
    pub allow_other: bool,
    /// Files that the tree has as plain files are read by the kernel itself. Needs root; without it nothing changes.
    pub passthrough: bool,
    /// After this long an operation that waits for the tree fails with EIO.
    pub deadline: Duration,
    /// How long readers may keep the mount busy when it is ended.
    pub grace: Duration,
    /// Threads that take requests from the kernel.
    pub loops: usize,
    /// The kernel's read-ahead in bytes, where it may be set (as root).
    pub read_ahead: u32,
    /// Directories under which nothing may be mounted: what the tree is made from lies there.
    pub forbidden: Vec<PathBuf>,
    /// Where answers that have to be waited for are polled; its timer must be enabled.
    pub runtime: tokio::runtime::Handle,
}

impl Options {
    /// The defaults: only the owner gets in, two event loops, a deadline of 30 seconds, a grace of 2, a read-ahead of 4 MiB.
    pub fn new(kind: impl Into<String>, runtime: tokio::runtime::Handle) -> Options {
        let kind = kind.into();
        Options {
            source: kind.clone(),
            kind,
            allow_other: false,
            passthrough: false,
            deadline: Duration::from_secs(30),
            grace: Duration::from_secs(2),
            loops: 2,
            read_ahead: 4 << 20,
            forbidden: Vec::new(),
            runtime,
        }
    }
}

/// What to do about a mount that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountErrorKind {
    /// The directory is not there, or is none.
    Missing,
    /// It would hide or endanger something: not empty, another's mount, a forbidden place.
    Refused,
    /// This user may not.
    Denied,
    /// This machine lacks what it takes.
    Unsupported,
    /// Nothing is mounted there.
    NotMounted,
    /// The system failed.
    Failed,
}

/// Why there is no mount, or why it is still there.
#[derive(Debug)]
pub struct MountError {
    kind: MountErrorKind,
    words: String,
}

impl MountError {
    pub(crate) fn new(kind: MountErrorKind, words: impl Into<String>) -> MountError {
        MountError { kind, words: words.into() }
    }

    /// What to act on.
    pub fn kind(&self) -> MountErrorKind {
        self.kind
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.words)
    }
}

impl std::error::Error for MountError {}
