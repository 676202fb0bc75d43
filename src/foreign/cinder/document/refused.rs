//! Every single way in which a document can be refused, by name.

use crate::error::{Error, Kind};

/// Why a document is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the words of each are its documentation
pub enum Refused {
    #[error("it is not the JSON it should be: {why}")]
    Json { why: String },
    #[error("{what} is {found}, the limit is {limit}")]
    Limit { what: &'static str, found: u64, limit: u64 },
    #[error("it is of version {found:?}, and only 1.0.0 is known")]
    Version { found: String },
    #[error("its volume_meta is of version {found}, and only 1 and 2 are known")]
    VolumeVersion { found: u64 },
    #[error("{what} is no UUID")]
    Uuid { what: &'static str },
    #[error("{what} is no time")]
    Time { what: &'static str },
    #[error("an entry of its objects holds {found} names, not one")]
    Entry { found: usize },
    #[error("it has no {what}")]
    Absent { what: &'static str },
    #[error("its object {found:?} is not called as its others are, by a prefix and a number")]
    ObjectName { found: String },
    #[error("its object {number} is listed twice")]
    Twice { number: u32 },
    #[error("its object {number} is compressed in a way that is not known: {found:?}")]
    Compression { number: u32, found: String },
    #[error("its object {number} covers nothing")]
    Empty { number: u32 },
    #[error("its objects {first} and {second} both cover byte {offset}")]
    Overlap { first: u32, second: u32, offset: u64 },
    #[error("its object {number} ends behind the end of any image")]
    Behind { number: u32 },
    #[error("the digest of {what} is not written in hexadecimal digits")]
    Digest { what: &'static str },
    #[error("it has {found} digests where {wanted} belong")]
    Digests { found: u64, wanted: u64 },
    #[error("its digests are laid out otherwise than Cinder does, and it is too long to be read as a whole")]
    Layout,
    #[error("it is not written in base64")]
    Base64,
    #[error("no export record is in it")]
    NoRecord,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        let kind = match refused {
            Refused::Version { .. } | Refused::VolumeVersion { .. } | Refused::Compression { .. } => {
                Kind::Unsupported
            }
            _ => Kind::Corrupt,
        };
        Error::new(kind, refused.to_string())
    }
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Refused {
        Refused::Json { why: error.to_string() }
    }
}

/// Refuses a value above its limit, with the limit's name.
pub(super) fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Refused> {
    if found > limit { Err(Refused::Limit { what, found, limit }) } else { Ok(()) }
}

/// The same for a length in memory.
pub(super) fn len_within(what: &'static str, found: usize, limit: usize) -> Result<(), Refused> {
    let wide = |len| u64::try_from(len).unwrap_or(u64::MAX);
    within(what, wide(found), wide(limit))
}
