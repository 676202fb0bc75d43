//! From a request's header to a command that needs no further judging, or to the error it earns.
//!
//! request -> [`Rules::judge`] -> [`Verdict`]: do it, refuse it (after so many bytes of payload), or hang up
//!
//! Holds: a command that is to be done lies within the export, on block boundaries, is not empty, and is something the
//! export offers. Everything else has been answered here, so nothing behind this door checks again.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::handshake::{Agreed, Selected};
use crate::wire::{Framing, Request, StatusPayload, WireError, cmd, cmd_flag, flag, limits};

/// What a session may do: the outcome of its handshake.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which headers are used.
    pub framing: Framing,
    size: u64,
    flags: u16,
    minimum: u64,
    contexts: Arc<[Selected]>,
}

/// A request that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give bytes.
    Read {
        /// From here.
        offset: u64,
        /// So many.
        len: u32,
        /// In one chunk.
        whole: bool,
    },
    /// Store the payload that follows.
    Write {
        /// From here.
        offset: u64,
        /// Bytes of payload.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// The client leaves.
    Disc,
    /// Make durable what was replied.
    Flush,
    /// Forget a range.
    Trim {
        /// From here.
        offset: u64,
        /// So many bytes.
        len: u64,
        /// Durable before the reply.
        fua: bool,
    },
    /// Zero a range.
    Zero {
        /// From here.
        offset: u64,
        /// So many bytes.
        len: u64,
        /// Keep it allocated.
        no_hole: bool,
        /// Fast or not at all.
        fast: bool,
        /// Durable before the reply.
        fua: bool,
    },
    /// Expect reads of a range.
    Cache {
        /// From here.
        offset: u64,
        /// So many bytes.
        len: u64,
    },
    /// Tell the status of a range, in these contexts.
    Status {
        /// From here.
        offset: u64,
        /// So many bytes.
        len: u64,
        /// One extent is enough.
        one: bool,
        /// The contexts asked about.
        contexts: Arc<[Selected]>,
    },
    /// A BLOCK_STATUS whose payload, so many bytes, says the rest: give it to [`Rules::judge_status`].
    StatusByPayload {
        /// Bytes of payload.
        len: u32,
    },
    /// Nothing is asked for; say that it is done.
    Nothing,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the wire.
    pub error: WireError,
    /// For people.
    pub message: &'static str,
}

/// What is to become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is carried out.
    Do(Command),
    /// So many bytes of payload are read and thrown away, then it is refused.
    Refuse {
        /// Bytes of payload.
        drain: u32,
        /// The answer.
        refusal: Refusal,
    },
    /// The connection ends: staying in step would cost too much. The reason is for the log.
    HangUp(&'static str),
}

fn refusal(error: WireError, message: &'static str) -> Refusal {
    Refusal { error, message }
}

fn invalid<T>(message: &'static str) -> Result<T, Refusal> {
    Err(refusal(WireError::Inval, message))
}

impl Rules {
    /// The rules that a handshake led to.
    pub fn new(agreed: &Agreed) -> Self {
        Rules {
            framing: agreed.framing,
            size: agreed.info.size,
            flags: agreed.info.flags(agreed.framing, !agreed.contexts.is_empty()),
            minimum: u64::from(agreed.info.block_sizes.minimum),
            contexts: agreed.contexts.as_slice().into(),
        }
    }

    /// Bytes in the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many metadata contexts were selected.
    pub(crate) fn contexts(&self) -> usize {
        self.contexts.len()
    }

    fn offers(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// What is to become of this request.
    pub fn judge(&self, request: &Request) -> Verdict {
        if request.command == cmd::DISC {
            return Verdict::Do(Command::Disc);
        }
        let payload = request.payload_len(self.framing);
        match self.command(request) {
            Ok(command) => Verdict::Do(command),
            Err(refusal) => match u32::try_from(payload) {
                Ok(drain) if drain <= drain_max(request) => Verdict::Refuse { drain, refusal },
                _ => Verdict::HangUp("payload of a refused request is beyond all bounds"),
            },
        }
    }

    fn command(&self, request: &Request) -> Result<Command, Refusal> {
        let Request { command, flags, offset, .. } = *request;
        let has = |flag| flags & flag != 0;
        self.permit(command)?;
        self.check_flags(request)?;
        match command {
            cmd::READ => {
                let len = self.payload_range(request)?;
                Ok(if len == 0 {
                    Command::Nothing
                } else {
                    Command::Read { offset, len, whole: has(cmd_flag::DF) }
                })
            }
            cmd::WRITE => {
                let len = self.payload_range(request)?;
                let write = Command::Write { offset, len, fua: has(cmd_flag::FUA) };
                Ok(if len == 0 { Command::Nothing } else { write })
            }
            cmd::FLUSH => Ok(Command::Flush),
            cmd::BLOCK_STATUS if has(cmd_flag::PAYLOAD_LEN) => match u32::try_from(request.length) {
                Ok(len) if len <= status_payload_max() => Ok(Command::StatusByPayload { len }),
                _ => invalid("block status payload is too long"),
            },
            cmd::BLOCK_STATUS if self.contexts.is_empty() => invalid("no metadata context was selected"),
            _ => self.range_command(request),
        }
    }

    /// Commands whose length is one of effect, and may be as long as the export.
    fn range_command(&self, request: &Request) -> Result<Command, Refusal> {
        let Request { command, flags, offset, length: len, .. } = *request;
        let has = |flag| flags & flag != 0;
        self.range(request)?;
        if len == 0 {
            return Ok(Command::Nothing);
        }
        let fua = has(cmd_flag::FUA);
        match command {
            cmd::TRIM => Ok(Command::Trim { offset, len, fua }),
            cmd::WRITE_ZEROES => {
                let (no_hole, fast) = (has(cmd_flag::NO_HOLE), has(cmd_flag::FAST_ZERO));
                Ok(Command::Zero { offset, len, no_hole, fast, fua })
            }
            cmd::CACHE => Ok(Command::Cache { offset, len }),
            cmd::BLOCK_STATUS => Ok(Command::Status {
                offset,
                len,
                one: has(cmd_flag::REQ_ONE),
                contexts: Arc::clone(&self.contexts),
            }),
            _ => invalid("command is unknown"),
        }
    }

    /// Whether the export does such things at all.
    fn permit(&self, command: u16) -> Result<(), Refusal> {
        let changes = matches!(command, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES);
        if changes && self.offers(flag::READ_ONLY) {
            return Err(refusal(WireError::Perm, "export is read-only"));
        }
        match command {
            cmd::READ | cmd::WRITE | cmd::FLUSH | cmd::WRITE_ZEROES => Ok(()),
            cmd::TRIM if self.offers(flag::SEND_TRIM) => Ok(()),
            cmd::CACHE if self.offers(flag::SEND_CACHE) => Ok(()),
            cmd::BLOCK_STATUS if self.framing != Framing::Simple => Ok(()),
            cmd::TRIM | cmd::CACHE | cmd::BLOCK_STATUS => invalid("command was not offered"),
            _ => invalid("command is unknown"),
        }
    }

    /// FUA may stand on every command once it is offered; every other flag belongs to one.
    fn check_flags(&self, request: &Request) -> Result<(), Refusal> {
        let mut allowed = if self.offers(flag::SEND_FUA) { cmd_flag::FUA } else { 0 };
        allowed |= match request.command {
            cmd::READ if self.offers(flag::SEND_DF) => cmd_flag::DF,
            cmd::WRITE if self.framing == Framing::Extended => cmd_flag::PAYLOAD_LEN,
            cmd::WRITE_ZEROES if self.offers(flag::SEND_FAST_ZERO) => cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
            cmd::WRITE_ZEROES => cmd_flag::NO_HOLE,
            cmd::BLOCK_STATUS if self.offers(flag::BLOCK_STATUS_PAYLOAD) => {
                cmd_flag::REQ_ONE | cmd_flag::PAYLOAD_LEN
            }
            cmd::BLOCK_STATUS => cmd_flag::REQ_ONE,
            _ => 0,
        };
        if request.flags & !allowed != 0 {
            return invalid("flag is unknown, not valid here, or was not offered");
        }
        Ok(())
    }

    /// The range of a request that has as many bytes of payload, in it or in its reply.
    fn payload_range(&self, request: &Request) -> Result<u32, Refusal> {
        self.range(request)?;
        match u32::try_from(request.length) {
            Ok(len) if len <= limits::PAYLOAD_MAX => Ok(len),
            _ => invalid("length is above the maximum payload"),
        }
    }

    fn range(&self, request: &Request) -> Result<(), Refusal> {
        let fits = request.offset.checked_add(request.length).is_some_and(|end| end <= self.size);
        if !fits && matches!(request.command, cmd::WRITE | cmd::WRITE_ZEROES) {
            return Err(refusal(WireError::NoSpc, "range ends past the end of the export"));
        }
        if !fits {
            return invalid("range ends past the end of the export");
        }
        let aligned = |n: u64| n.is_multiple_of(self.minimum);
        if aligned(request.offset) && aligned(request.length) {
            Ok(())
        } else {
            invalid("range is not a multiple of the minimum block size")
        }
    }

    /// The command behind a BLOCK_STATUS request with its payload.
    pub fn judge_status(&self, request: &Request, payload: &[u8]) -> Result<Command, Refusal> {
        let Ok(asked) = StatusPayload::decode(payload) else {
            return invalid("block status payload is malformed");
        };
        let mut contexts = Vec::new();
        for id in &asked.ids {
            let Some(selected) = self.contexts.iter().find(|context| context.id == *id) else {
                return invalid("block status of a context that was not selected");
            };
            if contexts.contains(selected) {
                return invalid("block status of a context twice");
            }
            contexts.push(selected.clone());
        }
        let effect = Request { length: asked.effect, ..*request };
        self.range(&effect)?;
        if contexts.is_empty() || asked.effect == 0 {
            return Ok(Command::Nothing);
        }
        let one = request.flags & cmd_flag::REQ_ONE != 0;
        Ok(Command::Status { offset: request.offset, len: asked.effect, one, contexts: contexts.into() })
    }
}

/// A refused WRITE may be as long as clients think reasonable; any other payload had no business to be there.
fn drain_max(request: &Request) -> u32 {
    if request.command == cmd::WRITE { limits::PAYLOAD_DRAIN_MAX } else { limits::PAYLOAD_MAX }
}

/// Each id can be named once.
fn status_payload_max() -> u32 {
    let ids = u32::try_from(limits::CONTEXTS_MAX).unwrap_or(u32::MAX);
    ids.saturating_mul(4).saturating_add(8)
}
