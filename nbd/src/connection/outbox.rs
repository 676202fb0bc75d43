//! From answers to the bytes a client gets: encoded as the session agreed, queued, and sent many at a time.
//!
//! answer -> header + pieces of data, none copied -> one vectored write for whatever is queued

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::SendFile;
use super::status::{self, Asked};
use crate::export::{Error, Extent, Kind, Part, Parts, Result, Stored};
use crate::transmission::{Command, Refusal};
use crate::wire::{ChunkHeader, Framing, Payload, Request, SimpleReply, WireError, chunk};

/// Pieces that go into one system call.
const SLICES: usize = 128;
/// Holes that must be spelt out come from here.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// What a request gave.
pub(super) enum Outcome {
    /// It is done.
    Done,
    /// The bytes it asked for.
    Data(Parts),
    /// Each context's extents.
    Status(Vec<(u32, Vec<Extent>)>),
}

/// What must be known of a request to answer it.
pub(super) struct Ticket {
    cookie: u64,
    offset: u64,
    form: Form,
}

enum Form {
    Plain,
    FastZero,
    Read { len: u32, whole: bool },
    Status(Asked),
}

impl Ticket {
    pub(super) fn of(request: &Request, command: &Command) -> Self {
        let form = match *command {
            Command::Read { len, whole, .. } => Form::Read { len, whole },
            Command::Status { offset, len, one, .. } => Form::Status(Asked { offset, len, one }),
            Command::Zero { fast: true, .. } => Form::FastZero,
            _ => Form::Plain,
        };
        Ticket { form, ..Ticket::plain(request) }
    }

    pub(super) fn plain(request: &Request) -> Self {
        Ticket { cookie: request.cookie, offset: request.offset, form: Form::Plain }
    }
}

enum Piece {
    Head {
        bytes: [u8; HEAD_MAX],
        len: usize,
    },
    Data(Bytes),
    Zeroes(usize),
    /// Sent straight from a file. What follows says whether that went well.
    Stored {
        place: Stored,
        len: usize,
        ticket: Box<Ticket>,
    },
}

/// An extended chunk's header and the offset that starts its data.
const HEAD_MAX: usize = ChunkHeader::EXTENDED_LEN + Payload::DATA_PREFIX;

impl Piece {
    fn head(head: &[u8], more: &[u8]) -> Self {
        let mut bytes = [0; HEAD_MAX];
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..head.len() + more.len()].copy_from_slice(more);
        Piece::Head { bytes, len: head.len() + more.len() }
    }

    fn len(&self) -> usize {
        match self {
            Piece::Head { len, .. } | Piece::Zeroes(len) | Piece::Stored { len, .. } => *len,
            Piece::Data(bytes) => bytes.len(),
        }
    }

    /// Bytes from `skip` on; zeroes as many as we have in store.
    fn slice(&self, skip: usize) -> &[u8] {
        match self {
            Piece::Head { bytes, len } => &bytes[skip..*len],
            Piece::Data(bytes) => &bytes[skip..],
            Piece::Zeroes(len) => &ZEROES[..(len - skip).min(ZEROES.len())],
            Piece::Stored { .. } => &[],
        }
    }
}

pub(super) struct Outbox {
    framing: Framing,
    size: u64,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent already.
    skip: usize,
    len: usize,
    sent: u64,
}

impl Outbox {
    /// `first` goes out before any reply.
    pub(super) fn new(framing: Framing, size: u64, first: Bytes) -> Self {
        let mut outbox = Outbox { framing, size, pieces: VecDeque::new(), skip: 0, len: 0, sent: 0 };
        outbox.push(Piece::Data(first));
        outbox
    }

    /// Bytes not sent yet.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Queues the reply to a request.
    pub(super) fn reply(&mut self, ticket: &Ticket, result: Result<Outcome>) {
        match result.and_then(|outcome| self.checked(ticket, outcome)) {
            Ok(outcome) => self.success(ticket, outcome),
            Err(error) => self.error(ticket, wire_error(ticket, &error), error.message(), error.offset()),
        }
    }

    /// Queues the refusal of a request.
    pub(super) fn refuse(&mut self, ticket: &Ticket, refusal: Refusal) {
        self.error(ticket, refusal.error, refusal.message, None);
    }

    /// An export that gives too little, too much or nothing at all must not put us out of step with the client.
    fn checked(&self, ticket: &Ticket, outcome: Outcome) -> Result<Outcome> {
        let wrong = |what| Err(Error::new(Kind::Io, format!("export gave {what}")));
        match (&ticket.form, outcome) {
            (Form::Read { len, .. }, Outcome::Data(parts)) if u64::from(*len) != as_u64(parts.len()) => {
                wrong(format!("{} bytes where {len} were asked for", parts.len()))
            }
            (Form::Status(asked), Outcome::Status(contexts)) => {
                let tidy = |(id, extents): (u32, Vec<Extent>)| {
                    Some((id, status::tidy(&extents, *asked, self.size)?))
                };
                match contexts.into_iter().map(tidy).collect() {
                    Some(contexts) => Ok(Outcome::Status(contexts)),
                    None => wrong("no status where one was asked for".to_owned()),
                }
            }
            (_, outcome) => Ok(outcome),
        }
    }

    fn success(&mut self, ticket: &Ticket, outcome: Outcome) {
        match (self.framing, outcome) {
            (Framing::Simple, Outcome::Data(parts)) => {
                self.simple(ticket, None);
                self.data(parts);
            }
            (Framing::Simple, _) => self.simple(ticket, None),
            (Framing::Structured, Outcome::Done) if matches!(ticket.form, Form::Plain | Form::FastZero) => {
                self.simple(ticket, None);
            }
            (_, Outcome::Done) => self.chunk(ticket, chunk::DONE, chunk::NONE, 0, &[]),
            (_, Outcome::Data(parts)) => match ticket.form {
                Form::Read { whole: true, len } => self.whole(ticket, len, parts),
                _ => self.chunks(ticket, &parts),
            },
            (_, Outcome::Status(contexts)) => self.status(ticket, contexts),
        }
    }

    fn simple(&mut self, ticket: &Ticket, error: Option<WireError>) {
        let head = SimpleReply { error, cookie: ticket.cookie }.encode();
        self.push(Piece::head(&head, &[]));
    }

    /// A chunk's header, and the first bytes of its payload.
    fn chunk(&mut self, ticket: &Ticket, flags: u16, kind: u16, length: u64, prefix: &[u8]) {
        let head = self.head(ticket, flags, kind, length, prefix);
        self.push(head);
    }

    fn head(&self, ticket: &Ticket, flags: u16, kind: u16, length: u64, prefix: &[u8]) -> Piece {
        let header = ChunkHeader { flags, kind, cookie: ticket.cookie, offset: ticket.offset, length };
        match self.framing {
            Framing::Extended => Piece::head(&header.encode_extended(), prefix),
            _ => Piece::head(&header.encode_structured(), prefix),
        }
    }

    /// One data chunk, its holes spelt out.
    fn whole(&mut self, ticket: &Ticket, len: u32, parts: Parts) {
        let length = u64::from(len) + as_u64(Payload::DATA_PREFIX);
        self.chunk(ticket, chunk::DONE, chunk::OFFSET_DATA, length, &ticket.offset.to_be_bytes());
        self.data(parts);
    }

    /// A chunk for every run of data and every run of holes.
    fn chunks(&mut self, ticket: &Ticket, parts: &Parts) {
        let mut offset = ticket.offset;
        let mut rest = parts.as_slice();
        while let Some(first) = rest.first() {
            let same = |part: &&Part| std::mem::discriminant(*part) == std::mem::discriminant(first);
            let (run, after) = rest.split_at(rest.iter().take_while(same).count());
            let len = run.iter().map(Part::len).sum();
            let done = after.iter().all(Part::is_empty);
            if len > 0 {
                self.run(ticket, if done { chunk::DONE } else { 0 }, offset, len, run);
            }
            offset += as_u64(len);
            rest = after;
        }
    }

    /// One chunk of data from several pieces, or one hole.
    fn run(&mut self, ticket: &Ticket, flags: u16, offset: u64, len: usize, run: &[Part]) {
        let at = offset.to_be_bytes();
        if let [Part::Hole(_), ..] = run {
            self.chunk(ticket, flags, chunk::OFFSET_HOLE, 12, &at);
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            return self.push(Piece::head(&len.to_be_bytes(), &[]));
        }
        self.chunk(ticket, flags, chunk::OFFSET_DATA, as_u64(len + Payload::DATA_PREFIX), &at);
        for part in run {
            if let Part::Data(bytes) = part {
                self.push(Piece::Data(bytes.clone()));
            }
        }
    }

    /// Queues the reply to a read of bytes that lie in a file. Its data chunk is not the last one, because sending from
    /// a file can fail; the chunk behind it says how it went.
    pub(super) fn reply_stored(&mut self, ticket: Ticket, len: u32, place: Stored) {
        let length = u64::from(len) + as_u64(Payload::DATA_PREFIX);
        self.chunk(&ticket, 0, chunk::OFFSET_DATA, length, &ticket.offset.to_be_bytes());
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let done = self.head(&ticket, chunk::DONE, chunk::NONE, 0, &[]);
        self.push(Piece::Stored { place, len, ticket: Box::new(ticket) });
        self.push(done);
    }

    /// The first piece could not be read from its file: the client gets zeroes for the rest of that chunk, and an
    /// error in place of its end.
    fn spoil(&mut self, why: &io::Error) {
        let Some(Piece::Stored { len, ticket, .. }) = self.pieces.pop_front() else { return };
        let done = self.pieces.pop_front().map_or(0, |piece| piece.len());
        let left = len - self.skip;
        let message = format!("read: {why}");
        let at = ticket.offset + as_u64(self.skip);
        let payload = Payload::Error { error: WireError::Io, message, offset: Some(at) };
        let (kind, payload) = payload.encode(self.framing);
        let head = self.head(&ticket, chunk::DONE, kind, as_u64(payload.len()), &[]);
        self.skip = 0;
        self.len = self.len - left - done + left + head.len() + payload.len();
        for piece in [Piece::Data(payload.into()), head, Piece::Zeroes(left)] {
            self.pieces.push_front(piece);
        }
    }

    fn data(&mut self, parts: Parts) {
        let mut put = |part| match part {
            Part::Data(bytes) => self.push(Piece::Data(bytes)),
            Part::Hole(len) => self.push(Piece::Zeroes(usize::try_from(len).unwrap_or(usize::MAX))),
        };
        match parts {
            Parts::One(part) => put(part),
            Parts::Many(parts) => parts.into_iter().for_each(put),
        }
    }

    fn status(&mut self, ticket: &Ticket, contexts: Vec<(u32, Vec<Extent>)>) {
        let last = contexts.len().saturating_sub(1);
        for (index, (id, extents)) in contexts.into_iter().enumerate() {
            let (kind, payload) = Payload::Status { id, extents }.encode(self.framing);
            let flags = if index == last { chunk::DONE } else { 0 };
            self.chunk(ticket, flags, kind, as_u64(payload.len()), &[]);
            self.push(Piece::Data(payload.into()));
        }
    }

    fn error(&mut self, ticket: &Ticket, error: WireError, message: &str, offset: Option<u64>) {
        if self.framing == Framing::Simple {
            return self.simple(ticket, Some(error));
        }
        let offset = offset.filter(|offset| ticket.covers(*offset));
        let (kind, payload) =
            Payload::Error { error, message: message.to_owned(), offset }.encode(self.framing);
        self.chunk(ticket, chunk::DONE, kind, as_u64(payload.len()), &[]);
        self.push(Piece::Data(payload.into()));
    }

    fn push(&mut self, piece: Piece) {
        let len = piece.len();
        if len > 0 {
            self.len += len;
            self.pieces.push_back(piece);
        }
    }

    /// Sends what one call takes.
    pub(super) fn poll_send<S: AsyncWrite + SendFile>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(Piece::Stored { place, len, .. }) = self.pieces.front() {
            let sent =
                stream.poll_send_file(cx, &place.file, place.offset + as_u64(self.skip), len - self.skip);
            return self.sent_from_file(ready!(sent)).into();
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut skip = self.skip;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            if let Piece::Stored { .. } = piece {
                break;
            }
            let bytes = piece.slice(skip);
            *slice = IoSlice::new(bytes);
            count += 1;
            if skip + bytes.len() < piece.len() {
                break; // a hole longer than our store of zeroes: the rest of it first
            }
            skip = 0;
        }
        match ready!(stream.poll_write_vectored(cx, &slices[..count]))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            sent => {
                self.advance(sent);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// A file that fails is not the connection's end; a peer that left is.
    fn sent_from_file(&mut self, sent: io::Result<usize>) -> io::Result<()> {
        match sent {
            Ok(0) => self.spoil(&io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => self.advance(sent),
            Err(error) => match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                    return Err(error);
                }
                _ => self.spoil(&error),
            },
        }
        Ok(())
    }

    fn advance(&mut self, sent: usize) {
        self.sent += as_u64(sent);
        self.len -= sent;
        self.skip += sent;
        while let Some(piece) = self.pieces.front()
            && self.skip >= piece.len()
        {
            self.skip -= piece.len();
            drop(self.pieces.pop_front());
        }
    }
}

impl Ticket {
    /// Only reads and status requests may name an offset in their error, and only one of their own.
    fn covers(&self, offset: u64) -> bool {
        let len = match self.form {
            Form::Read { len, .. } => u64::from(len),
            Form::Status(asked) => asked.len,
            Form::Plain | Form::FastZero => return false,
        };
        offset.checked_sub(self.offset).is_some_and(|at| at < len)
    }
}

/// ENOTSUP belongs to FAST_ZERO alone.
fn wire_error(ticket: &Ticket, error: &Error) -> WireError {
    match (error.kind(), &ticket.form) {
        (Kind::NotFast, Form::FastZero) => WireError::NotSup,
        (Kind::NotFast, _) => WireError::Inval,
        (kind, _) => kind.on_the_wire(),
    }
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
