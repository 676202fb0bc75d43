//! Taking integers and strings off the front of a slice, and the one error that all decoding gives.

use std::fmt;

use super::limits;
use super::name::Name;

/// Why bytes are not the message they should be. Each check has its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The message ends before its own fields do.
    Short,
    /// Bytes are left over after the last field.
    Trailing,
    /// The number that starts every message of this kind is missing.
    Magic,
    /// The greeting of the protocol before options existed.
    Oldstyle,
    /// A string is longer than the protocol allows.
    StringLong {
        /// Its claimed length in bytes.
        len: u64,
    },
    /// A string is not UTF-8.
    StringNotUtf8,
    /// A string contains a NUL.
    StringNul,
    /// The message is of a kind that this decoder doesn't know.
    Kind {
        /// The kind's number.
        kind: u32,
    },
    /// A length must be something else.
    Length {
        /// The length we met.
        len: u64,
    },
    /// Flags are set that were not agreed on.
    Flags {
        /// All the flags we met.
        flags: u32,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Short => write!(f, "message is shorter than its fields"),
            Malformed::Trailing => write!(f, "message is longer than its fields"),
            Malformed::Magic => write!(f, "magic number is wrong"),
            Malformed::Oldstyle => write!(f, "peer speaks the protocol from before options existed"),
            Malformed::StringLong { len } => {
                write!(f, "string has {len} bytes, limit is {}", limits::STRING_LEN_MAX)
            }
            Malformed::StringNotUtf8 => write!(f, "string is not UTF-8"),
            Malformed::StringNul => write!(f, "string contains a NUL"),
            Malformed::Kind { kind } => write!(f, "message kind {kind} is unknown"),
            Malformed::Length { len } => write!(f, "length {len} is not valid here"),
            Malformed::Flags { flags } => write!(f, "flags {flags:#x} are not all known"),
        }
    }
}

impl std::error::Error for Malformed {}

/// The front of a slice, moving forward.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// A string behind its 32-bit length. Its length is judged before its bytes are looked for.
    pub(crate) fn string(&mut self) -> Result<&'a str, Malformed> {
        let len = usize_of(self.u32()?);
        string(self.take_string(len)?)
    }

    /// A name behind its 32-bit length.
    pub(crate) fn name(&mut self) -> Result<Name, Malformed> {
        let len = usize_of(self.u32()?);
        Name::decode(self.take_string(len)?)
    }

    fn take_string(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        if len > self.rest.len() {
            return Err(Malformed::Short);
        }
        if len > limits::STRING_LEN_MAX {
            return Err(Malformed::StringLong { len: u64_of(len) });
        }
        self.take(len)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The message ends here.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// Bytes as a protocol string: bounded, UTF-8, without NUL.
pub(crate) fn string(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > limits::STRING_LEN_MAX {
        return Err(Malformed::StringLong { len: u64_of(bytes.len()) });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::StringNotUtf8)?;
    if text.contains('\0') { Err(Malformed::StringNul) } else { Ok(text) }
}

/// The longest prefix of a text that fits a protocol string, cut between characters.
pub(crate) fn clipped(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    let mut end = text.len().min(limits::STRING_LEN_MAX);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

/// A string behind its 32-bit length, clipped to what the protocol allows.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    let text = clipped(text);
    out.extend_from_slice(&len32(text.len()).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A length that is known to be small, as the wire counts it.
pub(crate) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// On every machine this runs on, memory is at least 32 bits wide; elsewhere the value can only be refused as too long.
pub(crate) fn usize_of(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

pub(crate) fn u64_of(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
