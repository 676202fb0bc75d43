//! Why a request failed: a kind to act on, words to read, and where it happened. The one table from kinds to the wire.

use std::fmt;
use std::io;

use crate::wire::WireError;

/// What an export's calls give.
pub type Result<T> = std::result::Result<T, Error>;

/// What to do about it. Few, because clients can tell only eight apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is no such thing, or not for this peer.
    Missing,
    /// This peer may not.
    Denied,
    /// Somebody else holds it.
    Busy,
    /// The bytes are not what was stored.
    Corrupt,
    /// What holds the bytes doesn't answer.
    Unreachable,
    /// Reading or writing failed.
    Io,
    /// No space left.
    Full,
    /// The request makes no sense.
    Invalid,
    /// It would not be fast.
    NotFast,
    /// The server is about to stop.
    Leaving,
}

impl Kind {
    /// The only place where our errors become the protocol's.
    pub fn on_the_wire(self) -> WireError {
        match self {
            Kind::Denied => WireError::Perm,
            Kind::Full => WireError::NoSpc,
            Kind::Invalid => WireError::Inval,
            Kind::NotFast => WireError::NotSup,
            Kind::Leaving => WireError::Shutdown,
            Kind::Missing | Kind::Busy | Kind::Corrupt | Kind::Unreachable | Kind::Io => WireError::Io,
        }
    }
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    offset: Option<u64>,
}

impl Error {
    /// A failure with words for people. Clients get to read them.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), offset: None }
    }

    /// A failed system call: what was being done, and what the system said.
    pub fn from_io(doing: &str, error: &io::Error) -> Self {
        Error::new(kind_of(error), format!("{doing}: {error}"))
    }

    /// The same failure, known to lie at an offset of the export.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// What to do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it happened, if known.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The words.
    pub fn message(&self) -> &str {
        &self.message
    }
}

fn kind_of(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Kind::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Denied,
        io::ErrorKind::NotFound => Kind::Missing,
        io::ErrorKind::ResourceBusy => Kind::Busy,
        io::ErrorKind::TimedOut => Kind::Unreachable,
        _ => Kind::Io,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{} (at offset {offset})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_are_told_from_broken_ones() {
        for (errno, kind) in [
            (28, Kind::Full),   // ENOSPC
            (122, Kind::Full),  // EDQUOT
            (27, Kind::Full),   // EFBIG
            (1, Kind::Denied),  // EPERM
            (30, Kind::Denied), // EROFS
            (5, Kind::Io),      // EIO
            (12, Kind::Io),     // ENOMEM: never passed on
        ] {
            let error = Error::from_io("write disk", &io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind(), kind, "errno {errno}");
        }
    }

    #[test]
    fn no_kind_becomes_enomem() {
        use Kind::*;
        for kind in [Missing, Denied, Busy, Corrupt, Unreachable, Io, Full, Invalid, NotFast, Leaving] {
            assert_ne!(kind.on_the_wire(), WireError::NoMem);
        }
    }
}
