//! One connection after its handshake: requests go out in batches, replies come back in any order.
//!
//! [`Connection::start`] -> queue -> socket -> [`Pending`]
//!
//! Holds: every request is answered exactly once, with the server's answer or with why the connection ended; data goes
//! from the socket into the request's own buffer. A server that breaks the protocol, or answers nothing for too
//! long, loses the connection at once, and everyone who waits on it hears why.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::dial::Duplex;
use super::error::{Error, Kind, Result};
use super::reply::{Answer, Failure, Next, Wait, Wrong};
use crate::wire::{Framing, ReplyHeader, Request, cmd};

/// Headers are read by so many bytes at once; data larger than this goes past the buffer.
const READ_BUFFER: usize = 64 * 1024;
/// Payloads shorter than this travel in the same buffer as headers.
const INLINE_MAX: usize = 16 * 1024;
/// Requests that are put into one write.
const BATCH: usize = 64;
/// How long a server that was told goodbye may take to hang up.
const GOODBYE: Duration = Duration::from_secs(5);

/// A request, all of it judged.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) payload: Option<Bytes>,
    /// Of a read: as long as `len`.
    pub(super) buffer: Vec<u8>,
}

struct Outgoing {
    request: Request,
    payload: Option<Bytes>,
}

struct Waiting {
    wait: Wait,
    done: oneshot::Sender<Result<Answer>>,
    command: u16,
    offset: u64,
    len: u64,
}

#[derive(Default)]
struct State {
    waits: HashMap<u64, Waiting>,
    next: u64,
    over: Option<Error>,
    /// When a reply was last completed, or the first request after a pause was sent.
    progress: Option<Instant>,
}

struct Shared {
    uri: Arc<str>,
    framing: Framing,
    contexts: Vec<u32>,
    state: Mutex<State>,
    in_flight: AtomicUsize,
}

/// A request on its way. Waiting is how its answer is heard; dropping it forgets the answer, not the request.
#[must_use]
pub struct Pending {
    answer: oneshot::Receiver<Result<Answer>>,
    shared: Arc<Shared>,
}

impl Pending {
    pub(super) async fn answer(self) -> Result<Answer> {
        self.answer.await.unwrap_or_else(|_| Err(self.shared.why_over()))
    }

    /// Waits for the answer; a read's gives its buffer, filled, a write's an empty one.
    pub async fn wait(self) -> Result<Vec<u8>> {
        self.answer().await.map(|answer| answer.data)
    }

    /// As [`Pending::wait`], on a thread that may block. Panics on a worker of a runtime.
    pub fn wait_blocking(self) -> Result<Vec<u8>> {
        let answer = self.answer.blocking_recv().unwrap_or_else(|_| Err(self.shared.why_over()));
        answer.map(|answer| answer.data)
    }
}

/// One connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    outgoing: Option<mpsc::UnboundedSender<Outgoing>>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Takes over a stream whose handshake is done. `patience`: how long the server may complete no reply while one is due.
    pub(super) fn new(
        stream: Box<dyn Duplex>,
        uri: &Arc<str>,
        framing: Framing,
        contexts: Vec<u32>,
        patience: Duration,
    ) -> Connection {
        let shared = Arc::new(Shared::new(Arc::clone(uri), framing, contexts));
        let (outgoing, queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(drive(stream, Arc::clone(&shared), queue, patience));
        Connection { shared, outgoing: Some(outgoing), task }
    }

    /// Requests that are not answered yet.
    pub(super) fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it can't be used any more.
    pub(super) fn is_over(&self) -> bool {
        self.shared.state().over.is_some()
    }

    /// Sends a request, behind those that were started before.
    pub(super) fn start(&self, asked: Asked) -> Pending {
        // Sent under the lock, so that requests leave in the order of their cookies; if nobody takes it, `over` follows.
        enlist(&self.shared, asked, |outgoing| {
            if let Some(queue) = &self.outgoing {
                drop(queue.send(outgoing));
            }
        })
    }

    /// Says goodbye after everything that was started, and waits until the server hung up.
    pub(super) async fn close(mut self) {
        drop(self.outgoing.take());
        drop(tokio::time::timeout(GOODBYE * 2, &mut self.task).await);
        self.task.abort();
    }
}

/// Notes a request as one that waits for its answer, and has it sent.
fn enlist(shared: &Arc<Shared>, asked: Asked, send: impl FnOnce(Outgoing)) -> Pending {
    let Asked { command, flags, offset, len, payload, buffer } = asked;
    let (done, answer) = oneshot::channel();
    let pending = Pending { answer, shared: Arc::clone(shared) };
    let contexts = if command == cmd::BLOCK_STATUS { shared.contexts.clone() } else { Vec::new() };
    let wait = Wait::new((command, offset, len), shared.framing, contexts, buffer);
    let mut state = shared.state();
    if state.over.is_some() {
        return pending; // whoever waits hears why
    }
    let cookie = state.next;
    state.next = state.next.wrapping_add(1);
    if shared.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
        state.progress = Some(Instant::now());
    }
    let _none = state.waits.insert(cookie, Waiting { wait, done, command, offset, len });
    let request = Request { flags, command, cookie, offset, length: len };
    send(Outgoing { request, payload });
    pending
}

/// These requests meet these bytes and then the end of the stream: what each of them hears. For fuzzers.
pub(super) fn answers_to(
    asked: Vec<Asked>,
    framing: Framing,
    contexts: Vec<u32>,
    mut bytes: &[u8],
) -> Vec<Result<Answer>> {
    let shared = Arc::new(Shared::new("nbd://fuzz/".into(), framing, contexts));
    let pending: Vec<Pending> = asked.into_iter().map(|asked| enlist(&shared, asked, drop)).collect();
    // Nobody ever waits for a slice.
    let why = super::fuzz::at_once(receive(&mut bytes, &shared));
    shared.end(why);
    let heard =
        |mut pending: Pending| pending.answer.try_recv().unwrap_or_else(|_| Err(pending.shared.why_over()));
    pending.into_iter().map(heard).collect()
}

impl Shared {
    fn new(uri: Arc<str>, framing: Framing, contexts: Vec<u32>) -> Shared {
        let (state, in_flight) = Default::default();
        Shared { uri, framing, contexts, state, in_flight }
    }

    /// A thread that panicked with the lock left whole entries behind: each change is one call.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_over(&self) -> Error {
        let over = self.state().over.clone();
        over.unwrap_or_else(|| self.fail(Kind::Unreachable, "the connection was given up"))
    }

    fn fail(&self, kind: Kind, words: impl Into<String>) -> Error {
        Error::new(kind, &self.uri, words)
    }

    fn wrong(&self, wrong: &Wrong) -> Error {
        self.fail(Kind::Protocol, format!("the server broke the protocol: {}", wrong.0))
    }

    /// Ends the connection for all who wait and all who come.
    fn end(&self, why: Error) {
        let mut state = self.state();
        let _first = state.over.get_or_insert(why);
        let waits = std::mem::take(&mut state.waits);
        self.in_flight.store(0, Ordering::Relaxed);
        drop(state);
        drop(waits);
    }

    fn take(&self, cookie: u64) -> Result<Waiting> {
        let waiting = self.state().waits.remove(&cookie);
        waiting
            .ok_or_else(|| self.wrong(&Wrong(format!("a reply to request {cookie:#x}, which nobody sent"))))
    }

    fn put_back(&self, cookie: u64, waiting: Waiting) {
        let _none = self.state().waits.insert(cookie, waiting);
    }

    fn complete(&self, waiting: Waiting) -> Result<()> {
        let Waiting { wait, done, command, offset, len } = waiting;
        let answer = wait.finish().map_err(|wrong| self.wrong(&wrong))?;
        self.state().progress = Some(Instant::now());
        let _before = self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let answer = answer.map_err(|failure| self.answered(command, (offset, len), failure));
        drop(done.send(answer)); // whoever asked may have lost interest
        Ok(())
    }

    fn answered(&self, command: u16, (offset, len): (u64, u64), failure: Failure) -> Error {
        let Failure { error, words, offset: at } = failure;
        let doing = match command {
            cmd::READ => format!("read {len} bytes"),
            cmd::WRITE => format!("write {len} bytes"),
            cmd::FLUSH => "flush".to_owned(),
            cmd::TRIM => format!("trim {len} bytes"),
            cmd::CACHE => format!("cache {len} bytes"),
            cmd::WRITE_ZEROES => format!("zero {len} bytes"),
            _ => format!("ask for the status of {len} bytes"),
        };
        let said = self.fail(Kind::Answered(error), format!("{doing}: {words}"));
        if command == cmd::FLUSH { said } else { said.at(at.unwrap_or(offset)) }
    }
}

/// All of a connection's work, in one task: writing, reading, and looking at the clock.
async fn drive(
    stream: Box<dyn Duplex>,
    shared: Arc<Shared>,
    queue: mpsc::UnboundedReceiver<Outgoing>,
    patience: Duration,
) {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::with_capacity(READ_BUFFER, read);
    let (left, why) = tokio::select! {
        why = receive(&mut read, &shared) => (false, why),
        sent = send(&mut write, queue, &shared) => match sent {
            Ok(()) => (true, shared.fail(Kind::Usage, "the connection was closed")),
            Err(why) => (false, shared.fail(Kind::Unreachable, format!("the server left: {why}"))),
        },
        why = watch(&shared, patience) => (false, why),
    };
    if left {
        // What was asked before the goodbye may still be answered; then the server hangs up.
        drop(tokio::time::timeout(GOODBYE, receive(&mut read, &shared)).await);
    }
    shared.end(why);
}

/// Sends requests until nobody can start any more, then says goodbye.
async fn send(
    write: &mut (impl AsyncWrite + Unpin),
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    shared: &Shared,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut bytes = Vec::with_capacity(INLINE_MAX * 2);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        for Outgoing { request, payload } in batch.drain(..) {
            request.encode(shared.framing, &mut bytes).map_err(io::Error::other)?;
            match payload {
                Some(payload) if payload.len() > INLINE_MAX => {
                    write_both(write, &bytes, &payload).await?;
                    bytes.clear();
                }
                Some(payload) => bytes.extend_from_slice(&payload),
                None => {}
            }
        }
        write.write_all(&bytes).await?;
        bytes.clear();
        write.flush().await?;
    }
    let goodbye = Request { flags: 0, command: cmd::DISC, cookie: u64::MAX, offset: 0, length: 0 };
    goodbye.encode(shared.framing, &mut bytes).map_err(io::Error::other)?;
    write.write_all(&bytes).await?;
    write.flush().await
}

/// Headers and a large payload, in as few system calls as the kernel takes.
async fn write_both(write: &mut (impl AsyncWrite + Unpin), first: &[u8], second: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < first.len() {
        let written = write.write_vectored(&[IoSlice::new(&first[done..]), IoSlice::new(second)]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += written;
    }
    write.write_all(&second[done - first.len()..]).await
}

/// Takes replies until one of them is wrong or the server leaves; says which.
async fn receive(read: &mut (impl AsyncRead + Unpin), shared: &Shared) -> Error {
    let mut scratch = Vec::new();
    loop {
        match receive_one(read, shared, &mut scratch).await {
            Ok(()) => {}
            Err(Stop::Wrong(why)) => return why,
            Err(Stop::Lost(why)) => {
                return shared.fail(Kind::Unreachable, format!("the server left: {why}"));
            }
        }
    }
}

enum Stop {
    Lost(io::Error),
    Wrong(Error),
}

impl From<io::Error> for Stop {
    fn from(why: io::Error) -> Stop {
        Stop::Lost(why)
    }
}

impl From<Error> for Stop {
    fn from(why: Error) -> Stop {
        Stop::Wrong(why)
    }
}

/// One simple reply or one chunk. The buffer of a read leaves the table while its data arrives, so that nobody waits for a lock.
async fn receive_one(
    read: &mut (impl AsyncRead + Unpin),
    shared: &Shared,
    scratch: &mut Vec<u8>,
) -> Result<(), Stop> {
    let wrong = |wrong: Wrong| Stop::Wrong(shared.wrong(&wrong));
    let mut magic = [0; 4];
    let _four = read.read_exact(&mut magic).await?;
    let len = ReplyHeader::len_from_magic(shared.framing, magic).map_err(|why| wrong(why.into()))?;
    scratch.clear();
    scratch.extend_from_slice(&magic);
    scratch.resize(len, 0);
    let _all = read.read_exact(&mut scratch[magic.len()..]).await?;
    match ReplyHeader::decode(shared.framing, scratch).map_err(|why| wrong(why.into()))? {
        ReplyHeader::Simple(reply) => {
            let mut waiting = shared.take(reply.cookie)?;
            if let Next::Data(range) = waiting.wait.simple(reply.error).map_err(wrong)? {
                let _all = read.read_exact(waiting.wait.place(range)).await?;
            }
            Ok(shared.complete(waiting)?)
        }
        ReplyHeader::Chunk(header) => {
            let mut waiting = shared.take(header.cookie)?;
            scratch.resize(waiting.wait.payload_len(&header).map_err(wrong)?, 0);
            let _all = read.read_exact(scratch).await?;
            if let Next::Data(range) = waiting.wait.chunk(&header, scratch).map_err(wrong)? {
                let _all = read.read_exact(waiting.wait.place(range)).await?;
            }
            if header.is_done() {
                return Ok(shared.complete(waiting)?);
            }
            shared.put_back(header.cookie, waiting);
            Ok(())
        }
    }
}

/// Returns when the server owes a reply for too long.
async fn watch(shared: &Shared, patience: Duration) -> Error {
    loop {
        tokio::time::sleep(patience / 8).await;
        let progress = shared.state().progress;
        let due = shared.in_flight.load(Ordering::Relaxed) > 0;
        if due && progress.is_some_and(|since| since.elapsed() > patience) {
            let words = format!("the server completed no reply for {} seconds", patience.as_secs_f32());
            return shared.fail(Kind::Unreachable, words);
        }
    }
}
