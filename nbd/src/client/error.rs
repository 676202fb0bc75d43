//! What can go wrong between us and a server.

use std::fmt;
use std::sync::Arc;

use crate::wire::WireError;

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The server can't be reached, left, or did not answer in time.
    Unreachable,
    /// The server won't have us: TLS, certificates, a policy.
    Denied,
    /// The server has no such export.
    Missing,
    /// The server can't do it.
    Unsupported,
    /// The server broke the protocol; nothing it says is believed any more.
    Protocol,
    /// The server answered a request with this error.
    Answered(WireError),
    /// We were asked for something that makes no sense.
    Usage,
}

/// A failure, with the export's URI in its words. Cheap to clone: everyone who waits on a connection gets the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Arc<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    kind: Kind,
    uri: Arc<str>,
    words: String,
    offset: Option<u64>,
}

/// The result of everything a client does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(super) fn new(kind: Kind, uri: &Arc<str>, words: impl Into<String>) -> Error {
        Error(Arc::new(Inner { kind, uri: Arc::clone(uri), words: words.into(), offset: None }))
    }

    /// Something that no server has to do with.
    pub(crate) fn of_this_process(doing: &str, why: &std::io::Error) -> Error {
        Error::new(Kind::Unreachable, &"this process".into(), format!("{doing}: {why}"))
    }

    pub(super) fn at(self, offset: u64) -> Error {
        let inner = Arc::unwrap_or_clone(self.0);
        Error(Arc::new(Inner { offset: Some(offset), ..inner }))
    }

    /// What to do about it.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Where in the export it happened, if it was about a range.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The words, without the URI and the offset.
    pub fn message(&self) -> &str {
        &self.0.words
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { uri, words, offset, .. } = &*self.0;
        match offset {
            Some(offset) => write!(f, "{uri} at offset {offset}: {words}"),
            None => write!(f, "{uri}: {words}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

/// The words for an error on the wire, where the server added none of its own.
pub(super) fn words_for(error: WireError) -> &'static str {
    match error {
        WireError::Perm => "not permitted",
        WireError::Io => "input/output error",
        WireError::NoMem => "the server has no memory",
        WireError::Inval => "the server calls the request invalid",
        WireError::NoSpc => "no space left",
        WireError::Overflow => "the answer would be too long",
        WireError::NotSup => "not supported",
        WireError::Shutdown => "the server is about to stop",
    }
}
