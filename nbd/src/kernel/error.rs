//! Why the kernel did not do it, and what helps.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The module is not loaded, or not there.
    NoModule,
    /// The module is there and knows no netlink, or not for us.
    NoNetlink,
    /// It takes root.
    Denied,
    /// Somebody has that device.
    Busy,
    /// There is no such device, or it has no server.
    Missing,
    /// We were asked for something that makes no sense.
    Usage,
    /// Anything else.
    Failed,
}

/// A failure: its kind, and words that say what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    words: String,
}

/// The result of everything that is asked of the kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(super) fn new(kind: Kind, words: impl Into<String>) -> Error {
        Error { kind, words: words.into() }
    }

    pub(super) fn no_module() -> Error {
        let words = "the kernel's nbd module is not loaded (run: modprobe nbd; where that finds none, the kernel was built without it)";
        Error::new(Kind::NoModule, words)
    }

    pub(super) fn no_netlink() -> Error {
        let words = "the kernel's nbd module offers no netlink here: it is older than Linux 4.12, or this is a container with a network of its \
                     own (then attach outside of it)";
        Error::new(Kind::NoNetlink, words)
    }

    /// The one table from what the kernel says to what we do about it.
    pub(super) fn of(doing: &str, why: &io::Error) -> Error {
        let errno = why.raw_os_error().map(Errno::from_raw_os_error);
        let (kind, hint) = match errno {
            Some(Errno::PERM | Errno::ACCESS) => (Kind::Denied, " (it takes root)"),
            Some(Errno::BUSY) => {
                (Kind::Busy, " (it is attached; detach it first, or name none to take a free one)")
            }
            Some(Errno::NODEV | Errno::NOENT | Errno::NXIO) => (Kind::Missing, ""),
            Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
                (Kind::NoNetlink, " (this kernel has no generic netlink)")
            }
            Some(Errno::INVAL) => (Kind::Failed, " (the kernel's log says more: dmesg)"),
            _ => (Kind::Failed, ""),
        };
        Error::new(kind, format!("{doing}: {why}{hint}"))
    }

    /// What to do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Error {}
