//! Every single way in which stored bytes can be refused, by name.

use crate::error::{Error, Kind};

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the words of each are its documentation
pub enum Corrupt {
    #[error("it ends too early")]
    Short,
    #[error("{extra} bytes follow its end")]
    Trailing { extra: usize },
    #[error("it does not begin as {what} does")]
    Magic { what: &'static str },
    #[error("it belongs to repository {found}")]
    OtherRepository { found: String },
    #[error("it calls itself {found}")]
    OtherName { found: String },
    #[error("it is of kind {found}, not {wanted}")]
    OtherKind { found: u8, wanted: u8 },
    #[error("a field that must be zero is {found}")]
    NotZero { found: u64 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("{what} is {found}, the limit is {limit}")]
    Limit { what: &'static str, found: u64, limit: u64 },
    #[error("its table counts {table} chunks, its trailer {trailer}")]
    Count { table: u64, trailer: u64 },
    #[error("its chunks end at {found}, the table begins at {wanted}")]
    Tiling { found: u64, wanted: u64 },
    #[error("chunk kind {found} is unknown")]
    ChunkKind { found: u8 },
    #[error("map shape {found} is unknown")]
    Shape { found: u8 },
    #[error("node of level {found} where level {wanted} belongs")]
    Level { found: u8, wanted: u8 },
    #[error("node of {found} entries where {wanted} belong")]
    Rows { found: u64, wanted: u64 },
    #[error("node covers {found} bytes where {wanted} belong")]
    Covers { found: u64, wanted: u64 },
    #[error("chunk size {found} is not a power of two from 4 KiB to 4 MiB")]
    ChunkSize { found: u64 },
    #[error("a slot behind the end is in use")]
    SlotBehindEnd,
    #[error("an entry names pack {found} of {count}")]
    PackNumber { found: u64, count: u64 },
    #[error("an entry covers nothing")]
    EmptyEntry,
    #[error("the lengths of its entries add up to {found}, not {wanted}")]
    Sum { found: u64, wanted: u64 },
    #[error("it is not the JSON it should be: {why}")]
    Json { why: String },
    #[error("{what} is not {wanted}")]
    Field { what: &'static str, wanted: &'static str },
    #[error("its authentication tag does not hold")]
    Tag,
    #[error("compression method {found} is unknown")]
    Method { found: u8 },
    #[error("it does not inflate to the {wanted} bytes it announces")]
    Inflate { wanted: u64 },
    #[error("it holds {found} bytes where {wanted} belong")]
    Length { found: u64, wanted: u64 },
    #[error("its content does not have the id it is stored under")]
    Id,
    #[error(
        "written by format version {found}; this build reads up to {known}: a newer afterimage is needed"
    )]
    Newer { found: u64, known: u64 },
}

impl From<Corrupt> for Error {
    fn from(corrupt: Corrupt) -> Error {
        let kind = match corrupt {
            Corrupt::Newer { .. } => Kind::Unsupported,
            _ => Kind::Corrupt,
        };
        Error::new(kind, corrupt.to_string())
    }
}

/// Refuses a value above its limit, with the limit's name.
pub(super) fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Corrupt> {
    if found > limit { Err(Corrupt::Limit { what, found, limit }) } else { Ok(()) }
}

/// Refuses the version of a format that this build does not read.
pub(super) fn readable(found: u64, known: u64) -> Result<(), Corrupt> {
    match found {
        0 => Err(Corrupt::Field { what: "version", wanted: "1 or more" }),
        found if found > known => Err(Corrupt::Newer { found, known }),
        _ => Ok(()),
    }
}
