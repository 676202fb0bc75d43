//! Replies: what a server answers to requests.
//!
//! simple     := magic[u32] error[u32] cookie[u64], then for a READ its data
//! structured := magic[u32] flags[u16] kind[u16] cookie[u64] length[u32], then the payload
//! extended   := magic[u32] flags[u16] kind[u16] cookie[u64] offset[u64] length[u64], then the payload
//!
//! OFFSET_DATA := offset[u64] data · OFFSET_HOLE := offset[u64] length[u32]
//! BLOCK_STATUS := id[u32] (length[u32] flags[u32])* · BLOCK_STATUS_EXT := id[u32] count[u32] (length[u64] flags[u64])*
//! ERROR := error[u32] len[u16] text · ERROR_OFFSET := the same, offset[u64]

use super::cursor::{Cursor, clipped, string, u64_of, usize_of};
use super::{Framing, Malformed, chunk, limits};

/// The errors that may appear on the wire, and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireError {
    /// Not permitted.
    Perm,
    /// The bytes could not be read or written.
    Io,
    /// No memory. We never send it.
    NoMem,
    /// The request makes no sense.
    Inval,
    /// No space left, or a write past the end.
    NoSpc,
    /// The answer would be too long.
    Overflow,
    /// Not possible quickly.
    NotSup,
    /// The server is about to leave.
    Shutdown,
}

impl WireError {
    /// Its number on the wire.
    pub fn code(self) -> u32 {
        match self {
            WireError::Perm => 1,
            WireError::Io => 5,
            WireError::NoMem => 12,
            WireError::Inval => 22,
            WireError::NoSpc => 28,
            WireError::Overflow => 75,
            WireError::NotSup => 95,
            WireError::Shutdown => 108,
        }
    }

    /// The error behind a number; none for 0. Numbers that nobody assigned count as EINVAL, as the protocol asks.
    pub fn from_code(code: u32) -> Option<WireError> {
        Some(match code {
            0 => return None,
            1 => WireError::Perm,
            5 => WireError::Io,
            12 => WireError::NoMem,
            28 => WireError::NoSpc,
            75 => WireError::Overflow,
            95 => WireError::NotSup,
            108 => WireError::Shutdown,
            _ => WireError::Inval,
        })
    }
}

/// A simple reply's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// None is success.
    pub error: Option<WireError>,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes in the header.
    pub const LEN: usize = 16;

    /// The header's bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let error = self.error.map_or(0, WireError::code);
        let mut out = [0; Self::LEN];
        put(&mut out, 0, chunk::SIMPLE_MAGIC.to_be_bytes());
        put(&mut out, 4, error.to_be_bytes());
        put(&mut out, 8, self.cookie.to_be_bytes());
        out
    }
}

/// A chunk's header, structured or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`chunk::DONE`] or nothing.
    pub flags: u16,
    /// What the payload is, of [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// The request's; only extended headers carry it.
    pub offset: u64,
    /// Bytes of payload.
    pub length: u64,
}

impl ChunkHeader {
    /// Bytes in a structured header.
    pub const STRUCTURED_LEN: usize = 20;
    /// Bytes in an extended header.
    pub const EXTENDED_LEN: usize = 32;

    /// The bytes of a structured header. A length beyond 32 bits is the caller's mistake and is sent as the largest.
    pub fn encode_structured(&self) -> [u8; Self::STRUCTURED_LEN] {
        let mut out = [0; Self::STRUCTURED_LEN];
        put(&mut out, 0, chunk::STRUCTURED_MAGIC.to_be_bytes());
        put(&mut out, 4, self.flags.to_be_bytes());
        put(&mut out, 6, self.kind.to_be_bytes());
        put(&mut out, 8, self.cookie.to_be_bytes());
        put(&mut out, 16, u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes());
        out
    }

    /// The bytes of an extended header.
    pub fn encode_extended(&self) -> [u8; Self::EXTENDED_LEN] {
        let mut out = [0; Self::EXTENDED_LEN];
        put(&mut out, 0, chunk::EXTENDED_MAGIC.to_be_bytes());
        put(&mut out, 4, self.flags.to_be_bytes());
        put(&mut out, 6, self.kind.to_be_bytes());
        put(&mut out, 8, self.cookie.to_be_bytes());
        put(&mut out, 16, self.offset.to_be_bytes());
        put(&mut out, 24, self.length.to_be_bytes());
        out
    }

    /// Whether this is the last chunk of its reply.
    pub fn is_done(&self) -> bool {
        self.flags & chunk::DONE != 0
    }
}

/// Overwrites a field of a header; the callers' offsets are constants that fit.
fn put<const N: usize>(out: &mut [u8], at: usize, field: [u8; N]) {
    if let Some(place) = out.get_mut(at..at.saturating_add(N)) {
        place.copy_from_slice(&field);
    }
}

/// What a client finds at the front of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply.
    Simple(SimpleReply),
    /// A chunk of a structured or extended reply.
    Chunk(ChunkHeader),
}

impl ReplyHeader {
    /// How long the header is that starts with these four bytes. Which magics may come depends on what was agreed.
    pub fn len_from_magic(framing: Framing, magic: [u8; 4]) -> Result<usize, Malformed> {
        match (u32::from_be_bytes(magic), framing) {
            (chunk::SIMPLE_MAGIC, Framing::Simple | Framing::Structured) => Ok(SimpleReply::LEN),
            (chunk::STRUCTURED_MAGIC, Framing::Structured) => Ok(ChunkHeader::STRUCTURED_LEN),
            (chunk::EXTENDED_MAGIC, Framing::Extended) => Ok(ChunkHeader::EXTENDED_LEN),
            _ => Err(Malformed::Magic),
        }
    }

    /// Reads a header, as long as [`ReplyHeader::len_from_magic`] said.
    pub fn decode(framing: Framing, bytes: &[u8]) -> Result<Self, Malformed> {
        let magic = *bytes.first_chunk().ok_or(Malformed::Short)?;
        let mut at = Cursor::new(bytes.get(..Self::len_from_magic(framing, magic)?).ok_or(Malformed::Short)?);
        match at.u32()? {
            chunk::SIMPLE_MAGIC => {
                let error = WireError::from_code(at.u32()?);
                Ok(ReplyHeader::Simple(SimpleReply { error, cookie: at.u64()? }))
            }
            magic => {
                let extended = magic == chunk::EXTENDED_MAGIC;
                Ok(ReplyHeader::Chunk(ChunkHeader {
                    flags: at.u16()?,
                    kind: at.u16()?,
                    cookie: at.u64()?,
                    offset: if extended { at.u64()? } else { 0 },
                    length: if extended { at.u64()? } else { u64::from(at.u32()?) },
                }))
            }
        }
    }
}

/// A run of bytes that have one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes.
    pub len: u64,
    /// What the context says of them, e.g. [`state::HOLE`](super::state::HOLE).
    pub flags: u64,
}

/// The payload of a chunk. Data itself is left where it lies: only the eight bytes before it are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing; the reply is complete.
    None,
    /// Data for this offset fills the rest of the chunk.
    Data {
        /// Where it belongs in the export.
        offset: u64,
        /// Bytes of data that follow.
        len: u64,
    },
    /// Zeroes.
    Hole {
        /// Where in the export.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// Block status.
    Status {
        /// Of which context.
        id: u32,
        /// In order, from the request's offset on.
        extents: Vec<Extent>,
    },
    /// The request failed, or failed at an offset.
    Error {
        /// How.
        error: WireError,
        /// Text for people.
        message: String,
        /// Where, when it is known.
        offset: Option<u64>,
    },
}

impl Payload {
    /// Bytes of a data chunk's payload that come before the data.
    pub const DATA_PREFIX: usize = 8;
    /// Longest payload of any other chunk that this reads: a block status with 2^17 64-bit extents.
    pub const OTHER_LEN_MAX: u64 = 8 + 16 * (1 << 17);

    /// The kind to put into the header, and the payload's bytes (for data: those before the data).
    pub fn encode(&self, framing: Framing) -> (u16, Vec<u8>) {
        let mut out = Vec::new();
        let kind = match self {
            Payload::None => chunk::NONE,
            Payload::Data { offset, .. } => {
                out.extend_from_slice(&offset.to_be_bytes());
                chunk::OFFSET_DATA
            }
            Payload::Hole { offset, len } => {
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
                chunk::OFFSET_HOLE
            }
            Payload::Status { id, extents } if framing == Framing::Extended => {
                encode_status64(*id, extents, &mut out);
                chunk::BLOCK_STATUS_EXT
            }
            Payload::Status { id, extents } => {
                encode_status32(*id, extents, &mut out);
                chunk::BLOCK_STATUS
            }
            Payload::Error { error, message, offset } => {
                encode_error(*error, message, *offset, &mut out);
                if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR }
            }
        };
        (kind, out)
    }

    /// Reads a payload. For data, `bytes` are the first eight; for all others the whole payload.
    pub fn decode(header: &ChunkHeader, bytes: &[u8]) -> Result<Payload, Malformed> {
        let mut at = Cursor::new(bytes);
        let payload = match header.kind {
            chunk::NONE if header.length == 0 => Payload::None,
            chunk::OFFSET_DATA => {
                let len = header.length.checked_sub(u64_of(Self::DATA_PREFIX)).filter(|len| *len > 0);
                Payload::Data { offset: at.u64()?, len: len.ok_or(Malformed::Length { len: header.length })? }
            }
            chunk::OFFSET_HOLE => match (at.u64()?, at.u32()?) {
                (_, 0) => return Err(Malformed::Length { len: 0 }),
                (offset, len) => Payload::Hole { offset, len },
            },
            chunk::BLOCK_STATUS => Payload::Status { id: at.u32()?, extents: decode_status32(&mut at)? },
            chunk::BLOCK_STATUS_EXT => Payload::Status { id: at.u32()?, extents: decode_status64(&mut at)? },
            kind if kind & chunk::ERROR_BIT != 0 => return decode_error(kind, at),
            kind => return Err(Malformed::Kind { kind: u32::from(kind) }),
        };
        at.end()?;
        Ok(payload)
    }
}

fn encode_status64(id: u32, extents: &[Extent], out: &mut Vec<u8>) {
    let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
    out.reserve(extents.len().saturating_mul(16).saturating_add(8));
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&count.to_be_bytes());
    for extent in extents {
        out.extend_from_slice(&extent.len.to_be_bytes());
        out.extend_from_slice(&extent.flags.to_be_bytes());
    }
}

/// An extent that is too long for 32 bits is cut, and what follows it left out: the client asks on from there.
fn encode_status32(id: u32, extents: &[Extent], out: &mut Vec<u8>) {
    out.reserve(extents.len().saturating_mul(8).saturating_add(4));
    out.extend_from_slice(&id.to_be_bytes());
    for extent in extents {
        let whole = u32::try_from(extent.len).ok();
        let len = whole.unwrap_or_else(|| u32::try_from(limits::EXTENT32_LEN_MAX).unwrap_or(u32::MAX));
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&u32::try_from(extent.flags).unwrap_or(u32::MAX).to_be_bytes());
        if whole.is_none() {
            break;
        }
    }
}

fn decode_status32(at: &mut Cursor<'_>) -> Result<Vec<Extent>, Malformed> {
    let mut extents = Vec::new();
    while !at.is_empty() {
        extents.push(extent(u64::from(at.u32()?), u64::from(at.u32()?))?);
    }
    some(extents)
}

fn decode_status64(at: &mut Cursor<'_>) -> Result<Vec<Extent>, Malformed> {
    let count = usize_of(at.u32()?);
    let mut extents = Vec::new();
    while !at.is_empty() {
        extents.push(extent(at.u64()?, at.u64()?)?);
    }
    // A server that can't count its extents may leave the field zero.
    if count != 0 && count != extents.len() {
        return Err(Malformed::Length { len: u64_of(count) });
    }
    some(extents)
}

fn extent(len: u64, flags: u64) -> Result<Extent, Malformed> {
    if len == 0 { Err(Malformed::Length { len }) } else { Ok(Extent { len, flags }) }
}

fn some(extents: Vec<Extent>) -> Result<Vec<Extent>, Malformed> {
    if extents.is_empty() { Err(Malformed::Short) } else { Ok(extents) }
}

fn encode_error(error: WireError, message: &str, offset: Option<u64>, out: &mut Vec<u8>) {
    let message = clipped(message);
    out.extend_from_slice(&error.code().to_be_bytes());
    out.extend_from_slice(&u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(message.as_bytes());
    if let Some(offset) = offset {
        out.extend_from_slice(&offset.to_be_bytes());
    }
}

fn decode_error(kind: u16, mut at: Cursor<'_>) -> Result<Payload, Malformed> {
    let error = WireError::from_code(at.u32()?).unwrap_or(WireError::Inval);
    let len = usize::from(at.u16()?);
    let text = at.take(len)?;
    let message = string(text).map_or_else(|_| String::new(), str::to_owned);
    let offset = if kind == chunk::ERROR_OFFSET { Some(at.u64()?) } else { None };
    if kind == chunk::ERROR || kind == chunk::ERROR_OFFSET {
        at.end()?;
    }
    Ok(Payload::Error { error, message, offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::state;

    fn there_and_back(framing: Framing, payload: &Payload) -> Result<Payload, Malformed> {
        let (kind, mut bytes) = payload.encode(framing);
        let data = if let Payload::Data { len, .. } = payload { *len } else { 0 };
        let header = ChunkHeader {
            flags: chunk::DONE,
            kind,
            cookie: 7,
            offset: if framing == Framing::Extended { 9 } else { 0 },
            length: bytes.len() as u64 + data,
        };
        let mut wire = match framing {
            Framing::Extended => header.encode_extended().to_vec(),
            _ => header.encode_structured().to_vec(),
        };
        let len = ReplyHeader::len_from_magic(framing, *wire.first_chunk().unwrap()).unwrap();
        assert_eq!(len, wire.len());
        wire.append(&mut bytes);
        assert_eq!(ReplyHeader::decode(framing, &wire), Ok(ReplyHeader::Chunk(header)));
        Payload::decode(&header, &wire[len..])
    }

    #[test]
    fn every_chunk_survives_the_wire() {
        let extents =
            vec![Extent { len: 4096, flags: 0 }, Extent { len: 1, flags: state::HOLE | state::ZERO }];
        for payload in [
            Payload::None,
            Payload::Data { offset: 1 << 40, len: 1 << 20 },
            Payload::Hole { offset: 5, len: u32::MAX },
            Payload::Status { id: 3, extents },
            Payload::Error { error: WireError::NoSpc, message: "full".into(), offset: None },
            Payload::Error { error: WireError::Io, message: String::new(), offset: Some(8) },
        ] {
            assert_eq!(there_and_back(Framing::Structured, &payload), Ok(payload.clone()));
            assert_eq!(there_and_back(Framing::Extended, &payload), Ok(payload));
        }
        let far = Payload::Status { id: 1, extents: vec![Extent { len: 1 << 50, flags: 1 << 40 }] };
        assert_eq!(there_and_back(Framing::Extended, &far), Ok(far));
    }

    #[test]
    fn n3_extents_of_4_gib_are_cut_and_never_wrap() {
        for len in [1u64 << 32, (1 << 32) + 5, u64::MAX] {
            let long = Payload::Status {
                id: 1,
                extents: vec![Extent { len, flags: 3 }, Extent { len: 1, flags: 0 }],
            };
            let cut = Payload::Status { id: 1, extents: vec![Extent { len: 0xffff_0000, flags: 3 }] };
            assert_eq!(there_and_back(Framing::Structured, &long), Ok(cut));
        }
        let exact = Payload::Status { id: 1, extents: vec![Extent { len: 0xffff_ffff, flags: 3 }] };
        assert_eq!(there_and_back(Framing::Structured, &exact), Ok(exact));
    }

    #[test]
    fn simple_replies_survive_the_wire_with_every_error() {
        for code in 0..200 {
            let reply = SimpleReply { error: WireError::from_code(code), cookie: 0x0102_0304_0506_0708 };
            let bytes = reply.encode();
            assert_eq!(ReplyHeader::decode(Framing::Simple, &bytes), Ok(ReplyHeader::Simple(reply)));
            assert_eq!(ReplyHeader::decode(Framing::Extended, &bytes), Err(Malformed::Magic));
        }
        assert_eq!(WireError::from_code(110), Some(WireError::Inval));
    }

    #[test]
    fn chunks_with_the_wrong_size_are_refused() {
        let header = |kind, length| ChunkHeader { flags: 1, kind, cookie: 0, offset: 0, length };
        let decode = |kind, bytes: &[u8]| Payload::decode(&header(kind, bytes.len() as u64), bytes);
        assert_eq!(decode(chunk::NONE, b"x"), Err(Malformed::Kind { kind: 0 }));
        assert_eq!(decode(chunk::OFFSET_DATA, &[0; 8]), Err(Malformed::Length { len: 8 }));
        assert_eq!(decode(chunk::OFFSET_HOLE, &[0; 12]), Err(Malformed::Length { len: 0 }));
        assert_eq!(decode(chunk::OFFSET_HOLE, &[1; 13]), Err(Malformed::Trailing));
        assert_eq!(decode(chunk::BLOCK_STATUS, &[0; 4]), Err(Malformed::Short));
        assert_eq!(decode(chunk::BLOCK_STATUS, &[0; 12]), Err(Malformed::Length { len: 0 }));
        assert_eq!(decode(chunk::BLOCK_STATUS, &[1; 11]), Err(Malformed::Short));
        assert_eq!(decode(chunk::BLOCK_STATUS_EXT, &[1; 24]), Err(Malformed::Length { len: 0x0101_0101 }));
        assert_eq!(decode(chunk::ERROR, &[0, 0, 0, 5, 0, 9]), Err(Malformed::Short));
    }
}
