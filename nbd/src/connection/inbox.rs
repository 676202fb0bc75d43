//! From the bytes of a client to its requests, each judged and with its payload.
//!
//! bytes -> header -> verdict -> payload (kept, or drained) -> [`Item`]
//!
//! One buffer takes many small requests per system call. It is small while a client is idle and grows with what arrives.
//! Small payloads are slices of it; of a large one, what has arrived is copied and the rest is read straight to its place.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::buffers::{self, Buffer};
use crate::transmission::{Command, Refusal, Rules, Verdict};
use crate::wire::{Request, cmd, cmd_flag, limits};

/// The buffer of a client that is idle, or sends large payloads.
const BUFFER_MIN: usize = 4 * 1024;
/// The buffer of a client that keeps filling it with small requests.
const BUFFER_MAX: usize = 128 * 1024;
/// Payloads from this length on are read to a place of their own.
const LARGE: usize = 32 * 1024;

/// What an answer about blocks may hold for each context: as many extents as exports give at a time.
const STATUS_COST: usize = 64 * 1024;

/// What a client sent.
#[derive(Debug)]
pub(crate) enum Item {
    /// A command to carry out, with its payload.
    Do(Request, Command, Bytes),
    /// A request that is refused; its payload is gone.
    Refuse(Request, Refusal),
    /// The stream can't be followed any more. Nothing comes after this.
    HangUp(&'static str),
}

enum Receiving {
    Header,
    /// A payload that is gathered in the common buffer.
    Small {
        request: Request,
        command: Command,
        len: usize,
    },
    /// A payload that is read to its own place.
    Large {
        request: Request,
        command: Command,
        payload: Buffer,
        filled: usize,
    },
    Drain {
        left: usize,
        request: Request,
        refusal: Refusal,
    },
    Lost(&'static str),
}

pub(super) struct Inbox {
    buffer: BytesMut,
    /// How much free room a read should find.
    room: usize,
    receiving: Receiving,
    received: u64,
}

/// Bytes that a request keeps in memory until its reply is sent.
pub(super) fn cost(request: &Request, rules: &Rules) -> usize {
    match request.command {
        cmd::READ | cmd::WRITE => usize_of(request.length.min(u64::from(limits::PAYLOAD_MAX))),
        cmd::BLOCK_STATUS if request.flags & cmd_flag::REQ_ONE == 0 => {
            rules.contexts().saturating_mul(STATUS_COST)
        }
        _ => 0,
    }
}

fn usize_of(len: impl TryInto<usize>) -> usize {
    len.try_into().unwrap_or(usize::MAX)
}

impl Inbox {
    pub(super) fn new(arrived: &[u8]) -> Self {
        Inbox { buffer: BytesMut::from(arrived), room: BUFFER_MIN, receiving: Receiving::Header, received: 0 }
    }

    /// What the next request will hold, as soon as its header is here. For one that is being received: nothing more.
    pub(super) fn next_cost(&self, rules: &Rules) -> Option<usize> {
        match self.receiving {
            Receiving::Header => {
                let header = self.buffer.get(..rules.framing.request_len())?;
                let request = Request::decode(rules.framing, header);
                Some(request.map_or(0, |request| cost(&request, rules)))
            }
            _ => Some(0),
        }
    }

    /// The next request, if all of it is here.
    pub(super) fn next(&mut self, rules: &Rules) -> Option<Item> {
        loop {
            match std::mem::replace(&mut self.receiving, Receiving::Lost("request magic is wrong")) {
                Receiving::Header => self.take_header(rules)?,
                Receiving::Small { request, command, len } => {
                    if self.buffer.len() < len {
                        self.receiving = Receiving::Small { request, command, len };
                        return None;
                    }
                    let payload = self.buffer.split_to(len).freeze();
                    return Some(self.complete(Item::Do(request, command, payload)));
                }
                Receiving::Large { request, command, payload, filled } => {
                    if filled < payload.as_ref().len() {
                        self.receiving = Receiving::Large { request, command, payload, filled };
                        return None;
                    }
                    return Some(self.complete(Item::Do(request, command, Bytes::from_owner(payload))));
                }
                Receiving::Drain { left, request, refusal } => {
                    let here = left.min(self.buffer.len());
                    self.buffer.advance(here);
                    let left = left.saturating_sub(here);
                    if left > 0 {
                        self.receiving = Receiving::Drain { left, request, refusal };
                        return None;
                    }
                    return Some(self.complete(Item::Refuse(request, refusal)));
                }
                Receiving::Lost(reason) => return Some(Item::HangUp(reason)),
            }
        }
    }

    fn complete(&mut self, item: Item) -> Item {
        self.receiving = Receiving::Header;
        self.received = self.received.wrapping_add(1);
        item
    }

    /// Turns a header into what is to be received next; `None` if it isn't all here.
    fn take_header(&mut self, rules: &Rules) -> Option<()> {
        let len = rules.framing.request_len();
        let Some(header) = self.buffer.get(..len) else {
            self.receiving = Receiving::Header;
            return None;
        };
        let Ok(request) = Request::decode(rules.framing, header) else {
            return Some(()); // lost: said on the next turn
        };
        self.buffer.advance(len);
        match rules.judge(&request) {
            Verdict::Do(command) => self.expect(request, command),
            Verdict::Refuse { drain, refusal } => {
                self.receiving = Receiving::Drain { left: usize_of(drain), request, refusal };
            }
            Verdict::HangUp(reason) => self.receiving = Receiving::Lost(reason),
        }
        Some(())
    }

    fn expect(&mut self, request: Request, command: Command) {
        let len = match command {
            Command::Write { len, .. } | Command::StatusByPayload { len } => usize_of(len),
            _ => 0,
        };
        self.receiving = if len < LARGE || len <= self.buffer.len() {
            Receiving::Small { request, command, len }
        } else {
            self.room = BUFFER_MIN; // or the next read would take part of the next payload the long way
            let mut payload = buffers::take(len);
            let filled = self.buffer.len();
            if let Some(front) = payload.as_mut().get_mut(..filled) {
                self.buffer.copy_to_slice(front);
            }
            Receiving::Large { request, command, payload, filled }
        };
    }

    /// Reads what there is to where it belongs. Zero bytes are the end of the stream.
    pub(super) fn poll_fill<S: AsyncRead>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Receiving::Large { payload, filled, .. } = &mut self.receiving {
            let mut place = ReadBuf::new(payload.as_mut().get_mut(*filled..).unwrap_or_default());
            ready!(stream.as_mut().poll_read(cx, &mut place))?;
            let read = place.filled().len();
            *filled = filled.saturating_add(read);
            return Poll::Ready(Ok(read));
        }
        let needed = match &self.receiving {
            Receiving::Small { len, .. } => len.saturating_sub(self.buffer.len()),
            _ => 0,
        };
        let room = self.room.max(needed);
        self.buffer.reserve(room);
        let mut place = (&mut self.buffer).limit(room);
        let read = ready!(pin!(stream.read_buf(&mut place)).poll(cx))?;
        if read == room {
            self.room = self.room.saturating_mul(2).min(BUFFER_MAX);
        }
        Poll::Ready(Ok(read))
    }

    /// Whole requests received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether part of a request is here.
    pub(super) fn in_mid_request(&self) -> bool {
        !self.buffer.is_empty() || !matches!(self.receiving, Receiving::Header)
    }

    /// In the middle of a request: how many bytes may still have to come.
    pub(super) fn expects(&self) -> Option<usize> {
        if !self.in_mid_request() {
            return None;
        }
        Some(match &self.receiving {
            Receiving::Small { len, .. } => *len,
            Receiving::Large { payload, .. } => payload.as_ref().len(),
            Receiving::Drain { left, .. } => *left,
            Receiving::Header | Receiving::Lost(_) => 0,
        })
    }

    /// Bytes of payload being received.
    pub(super) fn held(&self) -> usize {
        match &self.receiving {
            Receiving::Small { len, .. } => *len,
            Receiving::Large { payload, .. } => payload.as_ref().len(),
            _ => 0,
        }
    }

    pub(super) fn is_grown(&self) -> bool {
        self.room > BUFFER_MIN || self.buffer.capacity() > BUFFER_MIN.saturating_mul(2)
    }

    /// Gives back the memory of busier times. Only between requests.
    pub(super) fn shrink(&mut self) {
        if !self.in_mid_request() {
            self.room = BUFFER_MIN;
            self.buffer = BytesMut::new();
        }
    }
}

/// Follows a whole stream of requests: for tests and fuzzing. Stops where the server would hang up or wait for more.
pub(crate) fn parse(rules: &Rules, bytes: &[u8]) -> Vec<Item> {
    let mut inbox = Inbox::new(bytes);
    let mut items = Vec::new();
    while let Some(item) = inbox.next(rules) {
        let last = matches!(item, Item::HangUp(_) | Item::Do(_, Command::Disc, _));
        items.push(item);
        if last {
            break;
        }
    }
    items
}
