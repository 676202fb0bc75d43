//! Errors of a tree: a kind to act on, words to read, a cause to follow. The one table from kinds to errno is here.

use std::borrow::Cow;
use std::fmt;

use rustix::io::Errno;

/// What went wrong, as far as a reader of the mount can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No such name.
    Missing,
    /// The node was there once and is gone.
    Stale,
    /// A directory was needed.
    NotDirectory,
    /// A directory is not read as a file.
    IsDirectory,
    /// The call makes no sense for this node.
    Invalid,
    /// Not this user.
    Denied,
    /// No extended attribute of that name.
    NoAttribute,
    /// The buffer is too small for the answer.
    TooSmall,
    /// The name or link is longer than the kernel takes.
    TooLong,
    /// Nothing is there at or after that offset.
    PastEnd,
    /// This node cannot do that.
    Unsupported,
    /// No node of this tree can do that: the kernel stops asking, for the whole mount.
    Never,
    /// Nothing can be written here.
    ReadOnly,
    /// The bytes are there and are wrong.
    Damaged,
    /// The bytes could not be had.
    Failed,
    /// The bytes could not be had in time.
    TimedOut,
    /// Who asked is being killed.
    Interrupted,
    /// A limit of this process was reached.
    Exhausted,
}

impl Kind {
    /// Every kind, for tables.
    pub const ALL: [Kind; 18] = [
        Kind::Missing,
        Kind::Stale,
        Kind::NotDirectory,
        Kind::IsDirectory,
        Kind::Invalid,
        Kind::Denied,
        Kind::NoAttribute,
        Kind::TooSmall,
        Kind::TooLong,
        Kind::PastEnd,
        Kind::Unsupported,
        Kind::Never,
        Kind::ReadOnly,
        Kind::Damaged,
        Kind::Failed,
        Kind::TimedOut,
        Kind::Interrupted,
        Kind::Exhausted,
    ];

    /// What the reader's system call fails with.
    pub fn errno(self) -> i32 {
        let errno = match self {
            Kind::Missing => Errno::NOENT,
            Kind::Stale => Errno::STALE,
            Kind::NotDirectory => Errno::NOTDIR,
            Kind::IsDirectory => Errno::ISDIR,
            Kind::Invalid => Errno::INVAL,
            Kind::Denied => Errno::ACCESS,
            Kind::NoAttribute => Errno::NODATA,
            Kind::TooSmall => Errno::RANGE,
            Kind::TooLong => Errno::NAMETOOLONG,
            Kind::PastEnd => Errno::NXIO,
            Kind::Unsupported => Errno::OPNOTSUPP,
            Kind::Never => Errno::NOSYS,
            Kind::ReadOnly => Errno::ROFS,
            Kind::Damaged | Kind::Failed | Kind::TimedOut => Errno::IO,
            Kind::Interrupted => Errno::INTR,
            Kind::Exhausted => Errno::NOMEM,
        };
        errno.raw_os_error()
    }

    /// Whether somebody should hear of it: the others are ordinary answers to ordinary questions.
    pub fn is_trouble(self) -> bool {
        matches!(self, Kind::Damaged | Kind::Failed | Kind::TimedOut | Kind::Exhausted)
    }
}

/// What went wrong, in words.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    words: Cow<'static, str>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a tree's calls come to.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with its words.
    pub fn new(kind: Kind, words: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, words: words.into(), cause: None }
    }

    /// The same, because of another.
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.cause = Some(cause.into());
        self
    }

    /// What to act on.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.words)?;
        match &self.cause {
            Some(cause) => write!(out, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f6_every_kind_has_its_errno_and_nothing_looks_like_success() {
        let expected = [2, 116, 20, 21, 22, 13, 61, 34, 36, 6, 95, 38, 30, 5, 5, 5, 4, 12];
        for (kind, errno) in Kind::ALL.into_iter().zip(expected) {
            assert_eq!(kind.errno(), errno, "{kind:?}");
        }
    }

    #[test]
    fn an_error_names_its_cause() {
        let error = Error::new(Kind::Failed, "read chunk 7").because(std::io::Error::other("disk gone"));
        assert_eq!(error.to_string(), "read chunk 7: disk gone");
        assert!(std::error::Error::source(&error).is_some());
    }
}
