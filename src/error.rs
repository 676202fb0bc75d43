//! The one error that travels between rooms: a kind to act on, words to read, a cause to follow.
//!
//! The words say what we were doing, to what, and why it failed; the hint says what to try. Each room adds what it knows
//! with [`Context::context`], so the text reads from the outside in. Errors are cheap to clone, because everyone who
//! waited for one fetch gets the same answer.

use std::fmt;
use std::sync::Arc;

/// The result that all rooms return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a program has to know. It decides the exit code, the errno and the NBD error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A named thing is not there.
    Missing,
    /// Stored bytes are not what was written.
    Corrupt,
    /// The store has no room.
    Full,
    /// The store or a device asks us to come later.
    Busy,
    /// The store can't be reached, or did not answer in time.
    Unreachable,
    /// We may not: permissions or credentials, or a wrong password.
    Denied,
    /// We will not: it would be unsafe.
    Refused,
    /// A version, format or option that this build does not know.
    Unsupported,
    /// A sync failed: what the medium holds is not known, and asking again would not tell.
    Unsynced,
    /// What we back up could not be read as it should.
    Source,
    /// The target of a restore could not be written or read back.
    Target,
    /// The words of the call are off.
    Usage,
    /// Somebody asked us to stop.
    Interrupted,
}

impl Kind {
    /// Whether trying the same again may help.
    pub fn may_pass(self) -> bool {
        matches!(self, Kind::Busy | Kind::Unreachable)
    }

    /// The exit code of the command (CLI contract).
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Corrupt => 3,
            Kind::Refused => 4,
            Kind::Interrupted => 130,
            _ => 1,
        }
    }
}

/// An error: kind, words, hint, cause.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    words: String,
    hint: Option<String>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `words` in lower case, without a full stop.
    pub fn new(kind: Kind, words: impl Into<String>) -> Error {
        Error(Arc::new(Inner { kind, words: words.into(), hint: None, cause: None }))
    }

    /// An error of the operating system, with the kind its number asks for.
    pub fn io(words: impl Into<String>, cause: std::io::Error) -> Error {
        Error::new(kind_of_io(&cause), words).caused_by(cause)
    }

    /// The same error with the cause that `source()` reports.
    pub fn caused_by(self, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.edit(|inner| inner.cause = Some(Arc::new(cause)))
    }

    /// The same error with what to try next.
    pub fn hint(self, hint: impl Into<String>) -> Error {
        self.edit(|inner| inner.hint = Some(hint.into()))
    }

    /// The same error seen as another kind.
    pub fn as_kind(self, kind: Kind) -> Error {
        self.edit(|inner| inner.kind = kind)
    }

    /// What to act on.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What to try next, if anything is known to help.
    pub fn what_to_try(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    fn edit(self, change: impl FnOnce(&mut Inner)) -> Error {
        let mut inner = Arc::unwrap_or_clone(self.0);
        change(&mut inner);
        Error(Arc::new(inner))
    }

    fn prefixed(self, outer: &str) -> Error {
        self.edit(|inner| inner.words = format!("{outer}: {}", inner.words))
    }
}

fn kind_of_io(cause: &std::io::Error) -> Kind {
    use std::io::ErrorKind as Io;
    match cause.kind() {
        Io::NotFound => Kind::Missing,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => Kind::Denied,
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Kind::Full,
        Io::ResourceBusy => Kind::Busy,
        Io::Unsupported => Kind::Unsupported,
        _ => Kind::Unreachable,
    }
}

/// One line: the words, the cause, and what to try in brackets.
impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.words)?;
        if let Some(cause) = &self.0.cause {
            write!(out, ": {cause}")?;
        }
        match &self.0.hint {
            Some(hint) => write!(out, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

/// Says around an error what was being done.
pub trait Context<T> {
    /// Puts `what` before the error's words; built only when there is an error.
    fn context<S: AsRef<str>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: AsRef<str>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.prefixed(what().as_ref()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: AsRef<str>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::io(what().as_ref(), cause))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context<S: AsRef<str>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::io(what().as_ref(), cause.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_from_the_outside_in_and_end_with_what_to_try() {
        let error = Err::<(), _>(
            Error::new(Kind::Corrupt, "footer counts 70000 chunks").hint("run: afterimage check"),
        )
        .context(|| "open pack 3fa9")
        .unwrap_err();
        assert_eq!(error.to_string(), "open pack 3fa9: footer counts 70000 chunks (run: afterimage check)");
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn a_full_disk_is_full_and_nothing_else() {
        let full = std::io::Error::from(rustix::io::Errno::NOSPC);
        assert_eq!(Error::io("write", full).kind(), Kind::Full);
    }
}
