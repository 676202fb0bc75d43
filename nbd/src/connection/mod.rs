//! One client's requests and replies, once an export is agreed on.
//!
//! stream -> [`inbox`] -> judged commands -> the export -> [`outbox`] -> stream
//!
//! One task does it all: it takes every request that has arrived, answers at once what the export answers at once,
//! sends the replies together, and reads on. Answers that come later run as tasks of their own and are sent as they
//! come, in any order. So a hit costs no hop between threads, and a miss delays nobody.
//!
//! Holds: memory is bounded by not reading on ([`budget`]); a peer that stops in mid-request or doesn't take its
//! replies is dropped after a while; a panic in the export costs one request; everything a client asked before DISC is
//! answered before the connection closes; when the connection is lost, what was still running is cancelled, or waited for
//! where it changes the export ([`running`]).

mod budget;
mod crowd;
mod inbox;
mod lull;
mod outbox;
mod running;
mod status;
mod watchdog;

use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::export::{Answer, Error, Export, Extent, Kind, Later, Result, Stored, Zeroing};
use crate::handshake::Selected;
use crate::stop::{Phase, Watch};
use crate::transmission::{Command, Refusal, Rules};
use crate::wire::{Framing, Request, cmd};
use budget::Budget;
pub(crate) use budget::Pool;
pub(crate) use crowd::Crowd;
pub(crate) use inbox::parse as parse_requests;
use inbox::{Inbox, Item};
use lull::Lull;
use outbox::{Outbox, Outcome, Ticket};
use running::{Finished, Running};
pub(crate) use watchdog::Patience;
use watchdog::{Progress, Watchdog};

/// Replies that wait for the socket; with more, no further request is taken.
const UNSENT_MAX: usize = 512 * 1024;
/// Answers that one connection may have running.
const RUNNING_MAX: usize = 512;
/// Bytes that one connection may hold: payloads being received, running reads and writes, unsent replies.
const HELD_MAX: usize = 64 * 1024 * 1024;

/// After a payload of this length the connection leaves the core that received it.
const STEP_ASIDE_MIN: usize = 1024 * 1024;
/// Reads from this length on are sent straight from a file, where they lie in one.
const SEND_FILE_MIN: u32 = 64 * 1024;

/// A stream that may be able to send from a file without copying.
pub(crate) trait SendFile {
    /// Whether it can.
    fn sends_files(&self) -> bool;

    /// Sends what it takes of a file's bytes. Only for streams that can.
    fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>>;
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client said DISC, and everything was answered.
    Disc,
    /// The client went away.
    Lost(io::Error),
    /// We ended it.
    HungUp(&'static str),
    /// The server stops.
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Disc => f.write_str("client said goodbye"),
            End::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("client went away")
            }
            End::Lost(error) => write!(f, "connection lost: {error}"),
            End::HungUp(reason) => f.write_str(reason),
            End::Stopped => f.write_str("server stops"),
        }
    }
}

/// What a connection is given besides its stream and its export.
pub(crate) struct Link<'a> {
    /// What the handshake still has to send.
    pub(crate) out: Bytes,
    /// What arrived after the handshake.
    pub(crate) arrived: BytesMut,
    /// Shared by all connections.
    pub(crate) pool: &'a Pool,
    /// How many of them are being worked on.
    pub(crate) crowd: &'a Crowd,
    /// How long to wait for this peer.
    pub(crate) patience: Patience,
    /// When to stop.
    pub(crate) stop: Watch,
}

/// One client's transmission phase.
pub(crate) struct Connection<'a, S> {
    stream: &'a mut S,
    export: Arc<dyn Export>,
    rules: Rules,
    inbox: Inbox,
    outbox: Outbox,
    running: Running,
    budget: Budget,
    crowd: Crowd,
    watchdog: Watchdog,
    lull: Lull,
    stop: Watch,
    disc: bool,
    /// Bytes may be waiting inside the stream.
    unflushed: bool,
    /// The last look at the requests ended for want of room, not of requests.
    stalled: bool,
    /// A large payload was just handed over: this core, which has it in its cache, is to store it, while another one
    /// goes on with this connection.
    step_aside: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + SendFile + Unpin> Connection<'a, S> {
    /// Starts where the handshake ended.
    pub(crate) fn new(stream: &'a mut S, export: Arc<dyn Export>, rules: Rules, link: Link<'_>) -> Self {
        Connection {
            stream,
            export,
            inbox: Inbox::new(&link.arrived),
            outbox: Outbox::new(rules.framing, rules.size(), link.out),
            rules,
            running: Running::default(),
            budget: Budget::new(link.pool),
            crowd: link.crowd.clone(),
            watchdog: Watchdog::new(link.patience),
            lull: Lull::default(),
            stop: link.stop,
            disc: false,
            unflushed: false,
            stalled: false,
            step_aside: false,
        }
    }

    /// Serves the client to its end.
    pub(crate) async fn run(&mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Whether something that it asked for is still being changed.
    pub(crate) fn is_changing(&self) -> bool {
        self.running.is_changing()
    }

    /// Nothing that the client asked for is still running when this returns, unless a stop had to cut it off.
    pub(crate) async fn end(mut self) {
        self.running.end(self.stop.reached(Phase::Leaving)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let _here = self.crowd.enter();
        loop {
            let finished = self.collect(cx);
            let taken = match self.take_requests(cx) {
                Ok(taken) => taken,
                Err(reason) => return Poll::Ready(End::HungUp(reason)),
            };
            let sent = match self.send(cx) {
                Ok(sent) => sent,
                Err(error) => return Poll::Ready(End::Lost(error)),
            };
            if self.disc && self.running.is_empty() && self.all_sent() {
                return Poll::Ready(End::Disc);
            }
            if std::mem::take(&mut self.step_aside) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let received = match self.receive(cx) {
                Ok(received) => received,
                Err(error) => return Poll::Ready(End::Lost(error)),
            };
            if !(finished || taken || sent || received) {
                break;
            }
            self.lull.over();
        }
        self.rest(cx)
    }

    /// Nothing is to be done until something happens; or we have waited for this peer long enough.
    fn rest(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.stop.register(cx);
        let idle = self.running.is_empty() && self.all_sent() && !self.inbox.in_mid_request();
        match self.stop.phase() {
            Phase::Leaving => return Poll::Ready(End::Stopped),
            Phase::Draining if idle && self.watchdog.lingered(cx) => return Poll::Ready(End::Stopped),
            _ => {}
        }
        self.lull.received(self.inbox.received());
        if self.running.is_empty() && !self.stalled && self.crowd.is_alone() && self.lull.sit_out(cx) {
            return Poll::Pending;
        }
        let progress = Progress {
            requests: self.inbox.received(),
            sent: self.outbox.sent(),
            receiving: if self.stalled { None } else { self.inbox.expects() },
            sending: !self.all_sent(),
            grown: self.inbox.is_grown(),
        };
        match ready!(self.watchdog.poll(progress, cx)) {
            watchdog::Verdict::HangUp(reason) => Poll::Ready(End::HungUp(reason)),
            watchdog::Verdict::Shrink => {
                self.inbox.shrink();
                Poll::Pending // the stream, the answers and the stop are all registered
            }
        }
    }

    /// Puts answers that came meanwhile into the outbox.
    fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Some(Finished { ticket, result, .. }) = self.running.poll_next(cx) {
            any = true;
            self.outbox.reply(&ticket, result);
        }
        any
    }

    /// Begins every request that is here, as far as there is room for what it needs.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> std::result::Result<bool, &'static str> {
        let mut any = false;
        self.stalled = false;
        while !self.disc && !self.step_aside {
            let Some(cost) = self.inbox.next_cost(&self.rules) else { break };
            if !self.has_room_for(cost, cx) {
                self.stalled = true;
                break;
            }
            match self.inbox.next(&self.rules) {
                None => break,
                Some(Item::Do(request, command, payload)) => self.begin(&request, command, payload, cx),
                Some(Item::Refuse(request, refusal)) => self.refuse(&request, refusal),
                Some(Item::HangUp(reason)) => return Err(reason),
            }
            any = true;
        }
        Ok(any)
    }

    fn has_room_for(&mut self, cost: usize, cx: &mut Context<'_>) -> bool {
        let held = self.held();
        if self.outbox.len() >= UNSENT_MAX || self.running.len() >= RUNNING_MAX {
            return false;
        }
        if held > 0 && held.saturating_add(cost) > HELD_MAX {
            return false;
        }
        self.budget.cover(held.saturating_add(cost), cx)
    }

    fn all_sent(&self) -> bool {
        self.outbox.is_empty() && !self.unflushed
    }

    fn held(&self) -> usize {
        self.running.bytes().saturating_add(self.outbox.len()).saturating_add(self.inbox.held())
    }

    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut any = false;
        while !self.outbox.is_empty() {
            match self.outbox.poll_send(Pin::new(&mut *self.stream), cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => break,
            }
            any = true;
        }
        if any {
            let held = self.held();
            self.budget.shrink(held);
            self.unflushed = true;
        }
        // Only TLS keeps bytes back.
        if self.unflushed && Pin::new(&mut *self.stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(any)
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.stalled || self.disc {
            return Ok(false);
        }
        match self.inbox.poll_fill(Pin::new(&mut *self.stream), cx) {
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(false),
        }
    }

    fn refuse(&mut self, request: &Request, refusal: Refusal) {
        self.outbox.refuse(&Ticket::plain(request), refusal);
    }

    fn begin(&mut self, request: &Request, command: Command, payload: Bytes, cx: &mut Context<'_>) {
        if self.stop.phase() > Phase::Serving && command != Command::Disc {
            let error = Error::new(Kind::Leaving, "server is about to stop");
            return self.outbox.reply(&Ticket::of(request, &command), Err(error));
        }
        let ticket = Ticket::of(request, &command);
        let export = &self.export;
        match command {
            Command::Disc => self.disc = true,
            Command::Nothing => self.outbox.reply(&ticket, Ok(Outcome::Done)),
            Command::Read { offset, len, .. } => {
                if let Some(stored) = self.stored(offset, len) {
                    return self.outbox.reply_stored(ticket, len, stored);
                }
                let export = &self.export;
                let answer = guarded(|| export.read(offset, len));
                self.settle(ticket, request, answer, Outcome::Data, cx);
            }
            Command::Write { offset, fua, .. } => {
                let answer = guarded(|| export.write(offset, payload, fua));
                self.settle(ticket, request, answer, done, cx);
            }
            Command::Flush => {
                let answer = guarded(|| export.flush());
                self.settle(ticket, request, answer, done, cx);
            }
            Command::Trim { offset, len, fua } => {
                let answer = guarded(|| export.trim(offset, len, fua));
                self.settle(ticket, request, answer, done, cx);
            }
            Command::Zero { offset, len, no_hole, fast, fua } => {
                let answer = guarded(|| export.zero(offset, len, Zeroing { no_hole, fast, fua }));
                self.settle(ticket, request, answer, done, cx);
            }
            Command::Cache { offset, len } => {
                let answer = guarded(|| export.cache(offset, len));
                self.settle(ticket, request, answer, done, cx);
            }
            Command::Status { offset, len, one, contexts } => {
                let answer = status_of(export, &contexts, offset, len, one);
                self.settle(ticket, request, answer, Outcome::Status, cx);
            }
            Command::StatusByPayload { .. } => match self.rules.judge_status(request, &payload) {
                Ok(command) => self.begin(request, command, Bytes::new(), cx),
                Err(refusal) => self.refuse(request, refusal),
            },
        }
    }

    /// Without a place for an error after the header, as in simple replies, nothing is sent that could still fail.
    fn stored(&self, offset: u64, len: u32) -> Option<Stored> {
        if len < SEND_FILE_MIN || self.rules.framing == Framing::Simple || !self.stream.sends_files() {
            return None;
        }
        catch_unwind(AssertUnwindSafe(|| self.export.stored(offset, len))).ok().flatten()
    }

    fn settle<R: Send + 'static>(
        &mut self,
        ticket: Ticket,
        request: &Request,
        answer: Answer<R>,
        outcome: impl FnOnce(R) -> Outcome + Send + 'static,
        cx: &mut Context<'_>,
    ) {
        match answer {
            Answer::Now(result) => self.outbox.reply(&ticket, result.map(outcome)),
            Answer::Later(mut future) => {
                // With all cores at work on connections, nobody would take it off this one.
                if self.crowd.is_full()
                    && let Poll::Ready(result) = poll_caught(&mut future, cx)
                {
                    return self.outbox.reply(&ticket, result.map(outcome));
                }
                let held = inbox::cost(request, &self.rules);
                let task =
                    async move { Finished { ticket, held, result: caught_later(future).await.map(outcome) } };
                self.running.begin(request.command, held, task);
                self.step_aside = request.command == cmd::WRITE && held >= STEP_ASIDE_MIN;
            }
        }
    }
}

fn done((): ()) -> Outcome {
    Outcome::Done
}

/// Every selected context's view of a range; at once if all are there at once.
fn status_of(
    export: &Arc<dyn Export>,
    contexts: &[Selected],
    offset: u64,
    len: u64,
    one: bool,
) -> Answer<Vec<(u32, Vec<Extent>)>> {
    let ask = |selected: &Selected| {
        (selected.id, guarded(|| export.block_status(selected.index, offset, len, one)))
    };
    let mut answers: Vec<_> = contexts.iter().map(ask).collect();
    if answers.iter().any(|(_, answer)| matches!(answer, Answer::Later(_))) {
        return Answer::later(async move {
            let mut all = Vec::new();
            for (id, answer) in answers {
                all.push((id, answer.wait().await?));
            }
            Ok(all)
        });
    }
    let now = |(id, answer)| match answer {
        Answer::Now(result) => result.map(|extents| (id, extents)),
        Answer::Later(_) => Err(panicked()), // ruled out above
    };
    Answer::Now(answers.drain(..).map(now).collect())
}

fn panicked() -> Error {
    Error::new(Kind::Io, "export failed unexpectedly; see the server's log")
}

/// Calls into an export; a panic there is an error here.
fn guarded<R>(call: impl FnOnce() -> Answer<R>) -> Answer<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Answer::err(panicked()))
}

/// Calls into an export and waits for its answer; a panic in either is an error here.
pub(crate) async fn caught<R>(call: impl FnOnce() -> Answer<R>) -> Result<R> {
    match guarded(call) {
        Answer::Now(result) => result,
        Answer::Later(future) => caught_later(future).await,
    }
}

async fn caught_later<R>(mut future: Later<R>) -> Result<R> {
    poll_fn(|cx| poll_caught(&mut future, cx)).await
}

fn poll_caught<R>(future: &mut Later<R>, cx: &mut Context<'_>) -> Poll<Result<R>> {
    catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)))
        .unwrap_or_else(|_| Poll::Ready(Err(panicked())))
}
