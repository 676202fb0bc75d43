//! Requests: what a client asks once an export is agreed on.
//!
//! compact  := magic[u32] flags[u16] command[u16] cookie[u64] offset[u64] length[u32]
//! extended := magic[u32] flags[u16] command[u16] cookie[u64] offset[u64] length[u64]
//!
//! A payload follows every WRITE, and any extended request that says PAYLOAD_LEN. (An extended WRITE must say so too,
//! but qemu's doesn't, and sends its payload all the same.)

use super::cursor::Cursor;
use super::{Malformed, cmd, cmd_flag};

/// Which headers were agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Simple replies only.
    Simple,
    /// STRUCTURED_REPLY was agreed on.
    Structured,
    /// EXTENDED_HEADERS was agreed on.
    Extended,
}

impl Framing {
    /// Bytes in a request's header.
    pub fn request_len(self) -> usize {
        match self {
            Framing::Simple | Framing::Structured => Request::COMPACT_LEN,
            Framing::Extended => Request::EXTENDED_LEN,
        }
    }
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of [`cmd_flag`](super::cmd_flag).
    pub flags: u16,
    /// One of [`cmd`](super::cmd), or any other.
    pub command: u16,
    /// Opaque; the reply carries it back.
    pub cookie: u64,
    /// Where in the export.
    pub offset: u64,
    /// How many bytes: of effect, or of payload where one follows.
    pub length: u64,
}

impl Request {
    /// Bytes in a compact header.
    pub const COMPACT_LEN: usize = 28;
    /// Bytes in an extended header.
    pub const EXTENDED_LEN: usize = 32;

    /// Reads the header at the front of `bytes`, [`Framing::request_len`] long. A wrong magic means that the peer is
    /// out of step for good.
    pub fn decode(framing: Framing, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(bytes);
        let magic = match framing {
            Framing::Simple | Framing::Structured => cmd::REQUEST_MAGIC,
            Framing::Extended => cmd::EXTENDED_REQUEST_MAGIC,
        };
        if at.u32()? != magic {
            return Err(Malformed::Magic);
        }
        Ok(Request {
            flags: at.u16()?,
            command: at.u16()?,
            cookie: at.u64()?,
            offset: at.u64()?,
            length: match framing {
                Framing::Simple | Framing::Structured => u64::from(at.u32()?),
                Framing::Extended => at.u64()?,
            },
        })
    }

    /// Appends the header. A length that compact headers can't carry is an error.
    pub fn encode(&self, framing: Framing, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let compact = u32::try_from(self.length);
        let magic = match framing {
            Framing::Extended => cmd::EXTENDED_REQUEST_MAGIC,
            Framing::Simple | Framing::Structured if compact.is_err() => {
                return Err(Malformed::Length { len: self.length });
            }
            Framing::Simple | Framing::Structured => cmd::REQUEST_MAGIC,
        };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        match (framing, compact) {
            (Framing::Simple | Framing::Structured, Ok(length)) => {
                out.extend_from_slice(&length.to_be_bytes())
            }
            _ => out.extend_from_slice(&self.length.to_be_bytes()),
        }
        Ok(())
    }

    /// Bytes of payload that follow this header on the wire.
    pub fn payload_len(&self, framing: Framing) -> u64 {
        let said = framing == Framing::Extended && self.flags & cmd_flag::PAYLOAD_LEN != 0;
        if said || self.command == cmd::WRITE { self.length } else { 0 }
    }
}

/// The payload of an extended BLOCK_STATUS: a length and the contexts to answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusPayload {
    /// How many bytes to answer for.
    pub effect: u64,
    /// Ids of selected contexts.
    pub ids: Vec<u32>,
}

impl StatusPayload {
    /// Reads the payload.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(payload);
        let effect = at.u64()?;
        let mut ids = Vec::new();
        while !at.is_empty() {
            ids.push(at.u32()?);
        }
        Ok(StatusPayload { effect, ids })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.effect.to_be_bytes());
        for id in &self.ids {
            out.extend_from_slice(&id.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_request_survives_the_wire(flags: u16, command: u16, cookie: u64, offset: u64, length: u64) {
            let request = Request { flags, command, cookie, offset, length };
            let mut out = Vec::new();
            request.encode(Framing::Extended, &mut out).unwrap();
            prop_assert_eq!(out.len(), Framing::Extended.request_len());
            prop_assert_eq!(Request::decode(Framing::Extended, &out), Ok(request));

            let request = Request { length: length & 0xffff_ffff, ..request };
            for framing in [Framing::Simple, Framing::Structured] {
                out.clear();
                request.encode(framing, &mut out).unwrap();
                prop_assert_eq!(out.len(), framing.request_len());
                prop_assert_eq!(Request::decode(framing, &out), Ok(request));
                prop_assert_eq!(Request::decode(Framing::Extended, &out), Err(Malformed::Magic));
            }
        }
    }

    #[test]
    fn compact_headers_refuse_lengths_they_cannot_carry() {
        let request = Request { flags: 0, command: cmd::TRIM, cookie: 1, offset: 0, length: 1 << 32 };
        let mut out = Vec::new();
        assert_eq!(request.encode(Framing::Structured, &mut out), Err(Malformed::Length { len: 1 << 32 }));
        assert!(out.is_empty());
    }

    #[test]
    fn a_payload_follows_writes_and_whatever_says_payload_len() {
        let write = Request { flags: 0, command: cmd::WRITE, cookie: 1, offset: 0, length: 7 };
        assert_eq!(write.payload_len(Framing::Simple), 7);
        assert_eq!(write.payload_len(Framing::Extended), 7);
        let status = Request { flags: cmd_flag::PAYLOAD_LEN, command: cmd::BLOCK_STATUS, ..write };
        assert_eq!(status.payload_len(Framing::Structured), 0);
        assert_eq!(status.payload_len(Framing::Extended), 7);
    }

    #[test]
    fn a_status_payload_survives_the_wire_and_odd_ones_are_refused() {
        for ids in [vec![], vec![1], vec![3, 1, 2]] {
            let payload = StatusPayload { effect: 1 << 40, ids };
            let mut out = Vec::new();
            payload.encode(&mut out);
            assert_eq!(StatusPayload::decode(&out), Ok(payload));
            assert_eq!(StatusPayload::decode(&out[..out.len() - 1]), Err(Malformed::Short));
        }
    }
}
