//! Option replies: what a server says during the handshake.
//!
//! reply := magic[u64] option[u32] kind[u32] len[u32] data
//! SERVER := len[u32] name description · INFO := kind[u16] ... · META_CONTEXT := id[u32] name · ERR_* := text
//! EXPORT_NAME is answered by size[u64] flags[u16] and, unless NO_ZEROES was agreed, 124 zeroes.

use super::cursor::{Cursor, clipped, len32, put_string, string};
use super::{Malformed, Name, greet, info, rep};

/// What starts an option reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that this answers.
    pub option: u32,
    /// One of [`rep`](super::rep), or any other.
    pub kind: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionReplyHeader {
    /// Bytes in a header.
    pub const LEN: usize = 20;

    /// Reads a header.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(bytes);
        if at.u64()? != greet::REPLY_MAGIC {
            return Err(Malformed::Magic);
        }
        Ok(OptionReplyHeader { option: at.u32()?, kind: at.u32()?, len: at.u32()? })
    }
}

/// One reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionReply {
    /// All of it was done; nothing more follows for this option.
    Ack,
    /// LIST: one export.
    Server {
        /// Its name.
        name: Name,
        /// Text for people; may be empty.
        description: String,
    },
    /// INFO and GO: one thing about the export.
    Info(InfoReply),
    /// LIST_META_CONTEXT, SET_META_CONTEXT: one context.
    Context {
        /// By which replies will refer to it; 0 in a list.
        id: u32,
        /// Its name.
        name: String,
    },
    /// It was not done; nothing more follows for this option.
    Error {
        /// One of the `ERR_` kinds of [`rep`](super::rep), or another with bit 31 set.
        kind: u32,
        /// Text for people; may be empty.
        message: String,
    },
}

impl OptionReply {
    /// An error with a text.
    pub fn error(kind: u32, message: impl Into<String>) -> Self {
        OptionReply::Error { kind, message: message.into() }
    }

    /// Whether no other reply to the same option follows.
    pub fn is_final(&self) -> bool {
        matches!(self, OptionReply::Ack | OptionReply::Error { .. })
    }

    /// Appends this as a reply to an option. Texts that are too long are cut.
    pub fn encode(&self, option: u32, out: &mut Vec<u8>) {
        let (kind, data) = self.parts();
        out.extend_from_slice(&greet::REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&len32(data.len()).to_be_bytes());
        out.extend_from_slice(&data);
    }

    fn parts(&self) -> (u32, Vec<u8>) {
        let mut data = Vec::new();
        match self {
            OptionReply::Ack => (rep::ACK, data),
            OptionReply::Server { name, description } => {
                put_string(&mut data, name);
                data.extend_from_slice(clipped(description).as_bytes());
                (rep::SERVER, data)
            }
            OptionReply::Info(info) => (rep::INFO, info.encode()),
            OptionReply::Context { id, name } => {
                data.extend_from_slice(&id.to_be_bytes());
                data.extend_from_slice(clipped(name).as_bytes());
                (rep::META_CONTEXT, data)
            }
            OptionReply::Error { kind, message } => (*kind, clipped(message).as_bytes().to_vec()),
        }
    }

    /// Reads a reply of this kind.
    pub fn decode(kind: u32, data: &[u8]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(data);
        Ok(match kind {
            rep::ACK => {
                at.end()?;
                OptionReply::Ack
            }
            rep::SERVER => {
                OptionReply::Server { name: at.name()?, description: string(at.rest())?.to_owned() }
            }
            rep::INFO => OptionReply::Info(InfoReply::decode(data)?),
            rep::META_CONTEXT => OptionReply::Context { id: at.u32()?, name: string(at.rest())?.to_owned() },
            kind if kind & rep::ERROR_BIT != 0 => {
                // A text that we can't show must not hide the error itself.
                OptionReply::Error { kind, message: String::from_utf8_lossy(data).into_owned() }
            }
            kind => return Err(Malformed::Kind { kind }),
        })
    }
}

/// One thing about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InfoReply {
    /// Size and abilities.
    Export {
        /// Bytes.
        size: u64,
        /// Of [`flag`](super::flag).
        flags: u16,
    },
    /// The name by which the server knows it.
    Name(Name),
    /// Text for people.
    Description(String),
    /// What requests should look like.
    BlockSize {
        /// All offsets and lengths are multiples of this.
        minimum: u32,
        /// Requests of multiples of this are the efficient ones.
        preferred: u32,
        /// Longest payload; `u32::MAX` for no limit.
        maximum: u32,
    },
    /// A kind we don't know, to be ignored.
    Unknown(u16),
}

impl InfoReply {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            InfoReply::Export { size, flags } => {
                out.extend_from_slice(&info::EXPORT.to_be_bytes());
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
            }
            InfoReply::Name(name) => {
                out.extend_from_slice(&info::NAME.to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            InfoReply::Description(text) => {
                out.extend_from_slice(&info::DESCRIPTION.to_be_bytes());
                out.extend_from_slice(clipped(text).as_bytes());
            }
            InfoReply::BlockSize { minimum, preferred, maximum } => {
                out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                for size in [minimum, preferred, maximum] {
                    out.extend_from_slice(&size.to_be_bytes());
                }
            }
            InfoReply::Unknown(kind) => out.extend_from_slice(&kind.to_be_bytes()),
        }
        out
    }

    fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(data);
        let reply = match at.u16()? {
            info::EXPORT => InfoReply::Export { size: at.u64()?, flags: at.u16()? },
            info::BLOCK_SIZE => {
                InfoReply::BlockSize { minimum: at.u32()?, preferred: at.u32()?, maximum: at.u32()? }
            }
            info::NAME => return Ok(InfoReply::Name(Name::decode(at.rest())?)),
            info::DESCRIPTION => return Ok(InfoReply::Description(string(at.rest())?.to_owned())),
            kind => return Ok(InfoReply::Unknown(kind)),
        };
        at.end()?;
        Ok(reply)
    }
}

/// The answer to EXPORT_NAME, which has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportNameReply {
    /// Bytes.
    pub size: u64,
    /// Of [`flag`](super::flag).
    pub flags: u16,
}

impl ExportNameReply {
    /// Bytes before the padding.
    pub const LEN: usize = 10;
    /// Zeroes that follow unless both sides agreed on NO_ZEROES.
    pub const PADDING: usize = 124;

    /// Appends the answer.
    pub fn encode(self, padded: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        if padded {
            out.extend_from_slice(&[0; Self::PADDING]);
        }
    }

    /// Reads the answer, without its padding.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(bytes);
        Ok(ExportNameReply { size: at.u64()?, flags: at.u16()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{limits, opt};

    fn there_and_back(reply: &OptionReply) -> OptionReply {
        let mut out = Vec::new();
        reply.encode(opt::GO, &mut out);
        let header = OptionReplyHeader::decode(out.first_chunk().unwrap()).unwrap();
        let data = &out[OptionReplyHeader::LEN..];
        assert_eq!((header.option, header.len as usize), (opt::GO, data.len()));
        OptionReply::decode(header.kind, data).unwrap()
    }

    #[test]
    fn every_reply_survives_the_wire() {
        let name = Name::new("disk").unwrap();
        for reply in [
            OptionReply::Ack,
            OptionReply::Server { name: name.clone(), description: "a disk".into() },
            OptionReply::Server { name: Name::default(), description: String::new() },
            OptionReply::Info(InfoReply::Export { size: u64::MAX, flags: 0x1234 }),
            OptionReply::Info(InfoReply::Name(name)),
            OptionReply::Info(InfoReply::Description("text".into())),
            OptionReply::Info(InfoReply::BlockSize { minimum: 1, preferred: 4096, maximum: u32::MAX }),
            OptionReply::Info(InfoReply::Unknown(77)),
            OptionReply::Context { id: 9, name: "base:allocation".into() },
            OptionReply::error(rep::ERR_UNKNOWN, "no such export"),
        ] {
            assert_eq!(there_and_back(&reply), reply);
        }
    }

    #[test]
    fn n2_error_texts_are_cut_to_what_the_protocol_allows() {
        let OptionReply::Error { message, .. } =
            there_and_back(&OptionReply::error(rep::ERR_UNKNOWN, "é".repeat(4000)))
        else {
            panic!("an error stays an error")
        };
        assert_eq!(message, "é".repeat(limits::STRING_LEN_MAX / 2));
    }

    #[test]
    fn replies_with_the_wrong_size_are_refused() {
        assert_eq!(OptionReply::decode(rep::ACK, b"x"), Err(Malformed::Trailing));
        assert_eq!(OptionReply::decode(rep::SERVER, &[0, 0, 0, 9, b'x']), Err(Malformed::Short));
        assert_eq!(OptionReply::decode(rep::INFO, &[0]), Err(Malformed::Short));
        assert_eq!(OptionReply::decode(rep::INFO, &[0; 11]), Err(Malformed::Short));
        assert_eq!(OptionReply::decode(rep::INFO, &[0; 13]), Err(Malformed::Trailing));
        assert_eq!(OptionReply::decode(99, b""), Err(Malformed::Kind { kind: 99 }));
    }

    #[test]
    fn the_answer_to_export_name_is_padded_only_when_asked() {
        let reply = ExportNameReply { size: 5, flags: 1 };
        for (padded, len) in [(true, 134), (false, 10)] {
            let mut out = Vec::new();
            reply.encode(padded, &mut out);
            assert_eq!(out.len(), len);
            assert_eq!(ExportNameReply::decode(out.first_chunk().unwrap()), Ok(reply));
        }
    }
}
