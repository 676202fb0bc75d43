//! Judging replies: the chunks of an answer, held against the request that they answer. Pure.
//!
//! request + headers and payloads as they come -> [`Answer`], or how the server broke the protocol
//!
//! Holds: nothing is written outside the request's own buffer, no byte of it twice, and a read that succeeds has every
//! byte of it. What a reply may cost (chunks, extents, payload) is bounded by what was asked, before it is collected.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::words_for;
use crate::wire::{ChunkHeader, Extent, Framing, Malformed, Payload, WireError, chunk, cmd, limits};

/// Chunks that any reply may have, and the bytes of a read for which there may be one more.
const CHUNKS_MIN: u64 = 1024;
const BYTES_PER_CHUNK: u64 = 512;
/// An error chunk: number, length, text, offset.
const ERROR_LEN_MAX: u64 = 4 + 2 + 4096 + 8;

/// What is known when an answer is complete.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Of a read, as long as it asked for.
    pub(super) data: Vec<u8>,
    /// Of a block status: the extents of each context, by its id.
    pub(super) status: Vec<(u32, Vec<Extent>)>,
}

/// The server answered that it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: WireError,
    pub(super) words: String,
    pub(super) offset: Option<u64>,
}

/// The server broke the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) String);

impl From<Malformed> for Wrong {
    fn from(malformed: Malformed) -> Wrong {
        Wrong(malformed.to_string())
    }
}

fn wrong<T>(words: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong(words.into()))
}

/// What follows a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Data for this part of the buffer, then perhaps the end of the reply.
    Data(Range<usize>),
    /// Nothing.
    Nothing,
}

/// A request that was sent and not answered yet.
#[derive(Debug)]
pub(super) struct Wait {
    command: u16,
    offset: u64,
    len: u64,
    framing: Framing,
    /// The agreed contexts' ids.
    contexts: Vec<u32>,
    buffer: Vec<u8>,
    /// Begin and end of what was filled, neighbours joined.
    filled: BTreeMap<u64, u64>,
    status: Vec<(u32, Vec<Extent>)>,
    failure: Option<Failure>,
    chunks: u64,
}

impl Wait {
    /// For a read, `buffer` is as long as what was asked.
    pub(super) fn new(
        (command, offset, len): (u16, u64, u64),
        framing: Framing,
        contexts: Vec<u32>,
        buffer: Vec<u8>,
    ) -> Wait {
        let (filled, status) = Default::default();
        Wait { command, offset, len, framing, contexts, buffer, filled, status, failure: None, chunks: 0 }
    }

    /// The part of the buffer that data goes to.
    pub(super) fn place(&mut self, range: Range<usize>) -> &mut [u8] {
        self.buffer.get_mut(range).unwrap_or_default()
    }

    /// A simple reply came.
    pub(super) fn simple(&mut self, error: Option<WireError>) -> Result<Next, Wrong> {
        if let Some(error) = error {
            self.fail(error, String::new(), None);
            return Ok(Next::Nothing);
        }
        let chunked =
            matches!(self.command, cmd::READ | cmd::BLOCK_STATUS) && self.framing != Framing::Simple;
        if chunked || self.command == cmd::BLOCK_STATUS {
            return wrong("a simple reply where a structured one is due");
        }
        match self.command {
            cmd::READ => Ok(Next::Data(self.fill(self.offset, self.len)?)),
            _ => Ok(Next::Nothing),
        }
    }

    /// A chunk's header came: how much of its payload to collect before [`Wait::chunk`].
    pub(super) fn payload_len(&mut self, header: &ChunkHeader) -> Result<usize, Wrong> {
        self.chunks = self.chunks.saturating_add(1);
        let allowed = CHUNKS_MIN.saturating_add(self.len.checked_div(BYTES_PER_CHUNK).unwrap_or(0));
        if self.chunks > allowed && !header.is_done() {
            return wrong(format!("a reply of more than {allowed} chunks"));
        }
        if self.framing == Framing::Extended && header.offset != self.offset {
            return wrong(format!("a reply for offset {} to a request for {}", header.offset, self.offset));
        }
        let max = match (header.kind, self.command) {
            (chunk::NONE, _) => 0,
            (kind, _) if kind & chunk::ERROR_BIT != 0 => ERROR_LEN_MAX,
            (chunk::OFFSET_HOLE, cmd::READ) => 12,
            (chunk::OFFSET_DATA, cmd::READ) => 8u64.saturating_add(self.len),
            (chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT, cmd::BLOCK_STATUS) => Payload::OTHER_LEN_MAX,
            (kind, command) => {
                return wrong(format!("a chunk of kind {kind} in the reply to command {command}"));
            }
        };
        if header.length > max {
            return wrong(format!("a chunk of kind {} with {} bytes", header.kind, header.length));
        }
        let collect = match header.kind {
            chunk::OFFSET_DATA => header.length.min(8),
            _ => header.length,
        };
        usize::try_from(collect).or_else(|_| wrong("a chunk that doesn't fit into memory"))
    }

    /// A chunk came, with as much of its payload as [`Wait::payload_len`] asked for.
    pub(super) fn chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> Result<Next, Wrong> {
        match Payload::decode(header, payload)? {
            Payload::None if !header.is_done() => return wrong("an empty chunk that is not the last"),
            Payload::None => {}
            Payload::Data { offset, len } => return Ok(Next::Data(self.fill(offset, len)?)),
            Payload::Hole { offset, len } => {
                let range = self.fill(offset, len.into())?;
                self.place(range).fill(0);
            }
            Payload::Status { id, extents } => self.add_status(header.kind, id, extents)?,
            Payload::Error { error, message, offset } => {
                if offset.is_some_and(|offset| !self.holds(offset)) {
                    return wrong("an error at an offset outside of the request");
                }
                self.fail(error, message, offset);
            }
        }
        Ok(Next::Nothing)
    }

    /// The reply is complete.
    pub(super) fn finish(self) -> Result<Result<Answer, Failure>, Wrong> {
        if let Some(failure) = self.failure {
            return Ok(Err(failure));
        }
        let end = self.offset.saturating_add(self.len);
        if self.command == cmd::READ && self.len > 0 && self.filled.get(&self.offset) != Some(&end) {
            return wrong("a read was called complete, but bytes of it never came");
        }
        if self.command == cmd::BLOCK_STATUS && self.status.len() != self.contexts.len() {
            return wrong("a block status without all of the contexts agreed on");
        }
        Ok(Ok(Answer { data: self.buffer, status: self.status }))
    }

    fn holds(&self, offset: u64) -> bool {
        offset.checked_sub(self.offset).is_some_and(|within| within < self.len)
    }

    fn fail(&mut self, error: WireError, message: String, offset: Option<u64>) {
        let words =
            if message.is_empty() { words_for(error).to_owned() } else { message.escape_debug().to_string() };
        // The first error is the cause of the others.
        if self.failure.is_none() {
            self.failure = Some(Failure { error, words, offset });
        }
    }

    /// Notes that a range of the export is filled, and gives its place in the buffer.
    fn fill(&mut self, offset: u64, len: u64) -> Result<Range<usize>, Wrong> {
        let end = offset.checked_add(len).filter(|end| *end <= self.offset.saturating_add(self.len));
        let Some(end) = end.filter(|_| offset >= self.offset && len > 0) else {
            return wrong(format!("data for {len} bytes at {offset}, which were not asked for"));
        };
        let before = self.filled.range(..=offset).next_back().map(|(begin, end)| (*begin, *end));
        let after = self.filled.range(offset..).next().map(|(begin, end)| (*begin, *end));
        if before.is_some_and(|(_, until)| until > offset) || after.is_some_and(|(from, _)| from < end) {
            return wrong(format!("data for {len} bytes at {offset}, parts of which came before"));
        }
        let begin = before.filter(|(_, until)| *until == offset).map_or(offset, |(begin, _)| begin);
        let until = match after.filter(|(from, _)| *from == end) {
            Some((from, until)) => {
                let _joined = self.filled.remove(&from);
                until
            }
            None => end,
        };
        let _replaced = self.filled.insert(begin, until);
        let index = |at: u64| usize::try_from(at.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let range = index(offset)..index(end);
        if range.end > self.buffer.len() {
            return wrong("more data than the request has room for");
        }
        Ok(range)
    }

    fn add_status(&mut self, kind: u16, id: u32, extents: Vec<Extent>) -> Result<(), Wrong> {
        if (kind == chunk::BLOCK_STATUS_EXT) != (self.framing == Framing::Extended) {
            return wrong("a block status of the other header's kind");
        }
        if !self.contexts.contains(&id) || self.status.iter().any(|(known, _)| *known == id) {
            return wrong(format!("a block status for context {id}, which was not agreed on or came before"));
        }
        let mut sum = 0u64;
        for extent in &extents {
            if sum >= self.len {
                return wrong("a block status with extents beyond what was asked");
            }
            sum =
                sum.checked_add(extent.len).ok_or_else(|| Wrong("extents longer than any export".into()))?;
        }
        if sum > limits::EXPORT_SIZE_MAX {
            return wrong("extents longer than any export");
        }
        self.status.push((id, extents));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(offset: u64, len: usize) -> Wait {
        Wait::new((cmd::READ, offset, len as u64), Framing::Structured, vec![], vec![9; len])
    }

    fn status(framing: Framing) -> Wait {
        Wait::new((cmd::BLOCK_STATUS, 0, 100), framing, vec![1, 2], vec![])
    }

    /// Hands over a chunk as the wire would; data is all ones.
    fn give(wait: &mut Wait, payload: &Payload, done: bool) -> Result<(), Wrong> {
        let (kind, bytes) = payload.encode(wait.framing);
        let data = if let Payload::Data { len, .. } = payload { *len } else { 0 };
        let offset = if wait.framing == Framing::Extended { wait.offset } else { 0 };
        let header = ChunkHeader {
            flags: u16::from(done),
            kind,
            cookie: 0,
            offset,
            length: bytes.len() as u64 + data,
        };
        let collect = wait.payload_len(&header)?;
        if let Next::Data(range) = wait.chunk(&header, &bytes[..collect])? {
            wait.place(range).fill(1);
        }
        Ok(())
    }

    fn data(offset: u64, len: u64) -> Payload {
        Payload::Data { offset, len }
    }

    #[test]
    fn chunks_in_any_order_make_a_read() {
        let mut wait = read(100, 30);
        for piece in [data(120, 10), Payload::Hole { offset: 110, len: 10 }, data(100, 10)] {
            give(&mut wait, &piece, false).unwrap();
        }
        give(&mut wait, &Payload::None, true).unwrap();
        let expected = [[1; 10], [0; 10], [1; 10]].concat();
        assert_eq!(wait.finish().unwrap().unwrap().data, expected);
    }

    #[test]
    fn n16_data_that_was_not_asked_for_is_refused() {
        for piece in [data(99, 2), data(100, 31), data(129, 2), data(u64::MAX, 5), data(0, 1), data(130, 1)] {
            assert!(give(&mut read(100, 30), &piece, false).is_err(), "{piece:?}");
        }
        let far = Payload::Hole { offset: 100, len: u32::MAX };
        assert!(give(&mut read(100, 30), &far, false).is_err());
    }

    #[test]
    fn n16_data_that_comes_twice_is_refused() {
        let mut wait = read(0, 30);
        give(&mut wait, &data(10, 10), false).unwrap();
        for piece in [data(10, 1), data(19, 1), data(5, 6), data(0, 30), Payload::Hole { offset: 15, len: 2 }]
        {
            assert!(give(&mut wait, &piece, false).is_err(), "{piece:?}");
        }
    }

    #[test]
    fn n16_a_read_with_gaps_is_no_success() {
        let mut wait = read(0, 30);
        give(&mut wait, &data(0, 10), false).unwrap();
        give(&mut wait, &data(11, 19), true).unwrap();
        assert!(wait.finish().is_err());
        assert!(read(0, 1).finish().is_err());
    }

    #[test]
    fn n14_the_first_error_of_a_read_is_its_answer() {
        let mut wait = read(0, 30);
        let error =
            |words: &str, offset| Payload::Error { error: WireError::Io, message: words.into(), offset };
        give(&mut wait, &data(0, 10), false).unwrap();
        give(&mut wait, &error("bad \u{1b}sector", Some(10)), false).unwrap();
        give(&mut wait, &error("", None), true).unwrap();
        let failure = wait.finish().unwrap().unwrap_err();
        assert_eq!((failure.words.as_str(), failure.offset), ("bad \\u{1b}sector", Some(10)));
        assert!(give(&mut read(0, 30), &error("", Some(30)), true).is_err());
    }

    #[test]
    fn simple_replies_are_for_simple_requests() {
        assert!(read(0, 30).simple(None).is_err());
        assert!(status(Framing::Structured).simple(None).is_err());
        let mut plain = Wait::new((cmd::READ, 7, 3), Framing::Simple, vec![], vec![9; 3]);
        assert_eq!(plain.simple(None), Ok(Next::Data(0..3)));
        let mut failed = read(0, 30);
        assert_eq!(failed.simple(Some(WireError::NoSpc)), Ok(Next::Nothing));
        assert_eq!(failed.finish().unwrap().unwrap_err().error, WireError::NoSpc);
    }

    #[test]
    fn n16_lengths_and_kinds_are_judged_before_a_byte_is_collected() {
        let header = |kind, length| ChunkHeader { flags: 1, kind, cookie: 0, offset: 0, length };
        for (kind, length) in [
            (chunk::OFFSET_DATA, 39),
            (chunk::OFFSET_DATA, u64::MAX),
            (chunk::OFFSET_HOLE, 13),
            (chunk::NONE, 1),
            (chunk::ERROR, 1 << 20),
            (chunk::BLOCK_STATUS, 12),
            (77, 0),
        ] {
            assert!(read(0, 30).payload_len(&header(kind, length)).is_err(), "{kind} {length}");
        }
        let huge = header(chunk::BLOCK_STATUS, Payload::OTHER_LEN_MAX + 1);
        assert!(status(Framing::Structured).payload_len(&huge).is_err());
        let mut extended = Wait::new((cmd::READ, 5, 30), Framing::Extended, vec![], vec![0; 30]);
        assert!(extended.payload_len(&header(chunk::NONE, 0)).is_err(), "not the request's offset");
    }

    #[test]
    fn n1_a_reply_without_end_is_cut() {
        let mut wait = read(0, 512);
        let error = Payload::Error { error: WireError::Io, message: String::new(), offset: None };
        let given = (0..10_000).take_while(|_| give(&mut wait, &error, false).is_ok()).count();
        assert_eq!(given, 1025);
    }

    #[test]
    fn block_status_has_each_context_once_and_no_more_than_was_asked() {
        for framing in [Framing::Structured, Framing::Extended] {
            let extents = |lens: &[u64]| lens.iter().map(|len| Extent { len: *len, flags: 3 }).collect();
            let of = |id, lens: &[u64]| Payload::Status { id, extents: extents(lens) };
            let mut wait = status(framing);
            give(&mut wait, &of(2, &[50, 1000]), false).unwrap();
            for refused in [of(2, &[1]), of(3, &[1]), of(1, &[100, 1]), of(1, &[50, 50, 1])] {
                assert!(give(&mut wait, &refused, false).is_err(), "{refused:?}");
            }
            give(&mut wait, &of(1, &[7]), true).unwrap();
            assert_eq!(wait.finish().unwrap().unwrap().status.len(), 2);
            let mut wait = status(framing);
            give(&mut wait, &of(2, &[50]), true).unwrap();
            assert!(wait.finish().is_err(), "a context is missing");
        }
        let far = Payload::Status { id: 1, extents: vec![Extent { len: u64::MAX, flags: 0 }] };
        assert!(give(&mut status(Framing::Extended), &far, false).is_err());
    }

    proptest! {
        #[test]
        fn a_read_succeeds_only_with_every_byte(pieces in prop::collection::vec((0u64..40, 1u64..20), 0..12)) {
            let mut wait = read(10, 20);
            let mut model = [false; 64];
            for (offset, len) in pieces {
                let range = offset as usize..(offset + len) as usize;
                let fits = offset >= 10 && offset + len <= 30 && !model[range.clone()].contains(&true);
                prop_assert_eq!(give(&mut wait, &data(offset, len), false).is_ok(), fits);
                if fits {
                    model[range].fill(true);
                }
            }
            prop_assert_eq!(wait.finish().is_ok(), model[10..30].iter().all(|set| *set));
        }
    }
}
