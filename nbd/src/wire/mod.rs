//! The protocol's bytes, and nothing else: every message of NBD as a type, in both directions.
//!
//! bytes <-> greeting, options, option replies, requests, replies
//!
//! Holds: `decode(encode(x)) == x`; decoding takes a slice and gives a type or a named refusal, never panics, and
//! allocates no more than the slice it was given. Nothing here reads, writes, waits or remembers: the server's
//! handshake and transmission states, and any client, bring the state.
//! All integers are big-endian. Sizes a message may claim are judged against [`limits`] by whoever reads it, *before*
//! its data is collected.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

mod cursor;
mod greeting;
mod name;
mod numbers;
mod option;
mod option_reply;
mod reply;
mod request;

pub use cursor::Malformed;
pub use greeting::{CLIENT_FLAGS_LEN, GREETING_LEN, decode_client_flags, decode_greeting, encode_greeting};
pub use name::Name;
pub use numbers::{chunk, cmd, cmd_flag, flag, greet, info, limits, opt, rep, state};
pub use option::{ContextQuery, InfoRequest, OptionHeader};
pub use option_reply::{ExportNameReply, InfoReply, OptionReply, OptionReplyHeader};
pub use reply::{ChunkHeader, Extent, Payload, ReplyHeader, SimpleReply, WireError};
pub use request::{Framing, Request, StatusPayload};
