//! From a question to its answer: runs the tree's call where it arrived, hands what has to wait to tokio, and sees to it that every
//! operation is answered once, in time and counted, whatever the tree does.
//!
//! Holds: an operation is answered within the deadline; a panic costs the one operation it happened in. No lock is held here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::{Error, Kind, Result};
use crate::gone;
use crate::tree::{Answer, Later};
use crate::watch::{Op, Watch};

/// How often somebody who waits is looked at: are they being killed?
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where an answer goes.
pub(crate) trait Reply: Send + 'static {
    /// The answer is an error.
    fn refuse(self, errno: i32);
}

/// What serving takes.
pub(crate) struct Server {
    pub(crate) watch: Arc<Watch>,
    pub(crate) runtime: Handle,
    pub(crate) deadline: Duration,
    pub(crate) log: Log,
}

impl Server {
    /// Runs one operation: `ask` asks the tree, `send` turns what it says into a reply.
    ///
    /// `send` gives the reply back with an error when the tree's answer turns out to be none.
    pub(crate) fn run<A, R, Ask, Send>(self: &Arc<Self>, op: Op, asker: u32, reply: R, ask: Ask, send: Send)
    where
        A: std::marker::Send + 'static,
        R: Reply,
        Ask: FnOnce() -> Answer<A>,
        Send: FnOnce(R, A) -> std::result::Result<(), (R, Error)> + std::marker::Send + 'static,
    {
        let ticket = Ticket::new(self.clone(), op);
        // A reply that is dropped by a panic answers EIO, a ticket that is dropped counts it.
        drop(catch_unwind(AssertUnwindSafe(|| match ask() {
            Answer::Now(result) => {
                self.watch.answered_now.add(1);
                ticket.finish(reply, result, send);
            }
            Answer::Later(future) => self.clone().wait(ticket, asker, future, reply, send),
        })));
    }

    /// Runs an operation that nobody gets an answer to.
    pub(crate) fn quietly(self: &Arc<Self>, op: Op, work: impl FnOnce()) {
        let ticket = Ticket::new(self.clone(), op);
        drop(catch_unwind(AssertUnwindSafe(|| {
            work();
            ticket.settle(false);
        })));
    }

    /// Goes on in a task of its own.
    fn wait<A, R, Send>(
        self: Arc<Self>,
        mut ticket: Ticket,
        asker: u32,
        future: Later<A>,
        reply: R,
        send: Send,
    ) where
        A: std::marker::Send + 'static,
        R: Reply,
        Send: FnOnce(R, A) -> std::result::Result<(), (R, Error)> + std::marker::Send + 'static,
    {
        ticket.waits();
        let runtime = self.runtime.clone();
        drop(runtime.spawn(async move {
            let result = self.in_time(future, asker).await;
            ticket.finish(reply, result, send);
        }));
    }

    async fn in_time<A>(&self, mut future: Later<A>, asker: u32) -> Result<A> {
        let began = Instant::now();
        loop {
            let left = self.deadline.saturating_sub(began.elapsed());
            match tokio::time::timeout(left.min(LOOK_EVERY), &mut future).await {
                Ok(result) => return result,
                Err(_) if began.elapsed() >= self.deadline => {
                    self.watch.deadlines.add(1);
                    let words = format!("no answer within {} s", self.deadline.as_secs_f32());
                    return Err(Error::new(Kind::TimedOut, words));
                }
                Err(_) if gone::is_being_killed(asker) => {
                    self.watch.interrupted.add(1);
                    return Err(Error::new(Kind::Interrupted, "who asked is being killed"));
                }
                Err(_) => {}
            }
        }
    }
}

/// One operation, from its arrival to its count.
struct Ticket {
    server: Arc<Server>,
    op: Op,
    began: Instant,
    waiting: bool,
    settled: bool,
}

impl Ticket {
    fn new(server: Arc<Server>, op: Op) -> Ticket {
        Ticket { server, op, began: Instant::now(), waiting: false, settled: false }
    }

    fn waits(&mut self) {
        self.waiting = true;
        self.server.watch.answered_later.add(1);
        self.server.watch.waiting.add(1);
    }

    /// Whatever came of it, nobody waits for the tree any more.
    fn waits_no_longer(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.server.watch.waiting.sub(1);
        }
    }

    fn settle(mut self, failed: bool) {
        self.settled = true;
        self.server.watch.done(self.op, self.began.elapsed(), failed);
    }

    fn finish<A, R, Send>(mut self, reply: R, result: Result<A>, send: Send)
    where
        R: Reply,
        Send: FnOnce(R, A) -> std::result::Result<(), (R, Error)>,
    {
        self.waits_no_longer();
        let refused = match result {
            Ok(answer) => send(reply, answer),
            Err(error) => Err((reply, error)),
        };
        let failed = refused.is_err();
        if let Err((reply, error)) = refused {
            reply.refuse(error.kind().errno());
            self.server.log.error(self.op, &error);
        }
        self.settle(failed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waits_no_longer();
        let watch = &self.server.watch;
        if !self.settled {
            watch.done(self.op, self.began.elapsed(), true);
            if std::thread::panicking() {
                watch.panics.add(1);
                tracing::error!(
                    op = self.op.name(),
                    "the tree panicked; this operation was answered with EIO"
                );
            }
        }
    }
}

/// Says what went wrong, at most once a second, and how much it left out: one bad disk makes millions of equal lines.
#[derive(Debug)]
pub(crate) struct Log {
    began: Instant,
    next_millis: AtomicU64,
    left_out: AtomicU64,
}

impl Log {
    pub(crate) fn new() -> Log {
        Log { began: Instant::now(), next_millis: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    fn error(&self, op: Op, error: &Error) {
        if !error.kind().is_trouble() {
            tracing::debug!(op = op.name(), %error);
        } else if self.may_speak() {
            let left_out = self.left_out.swap(0, Relaxed);
            tracing::warn!(op = op.name(), left_out, "{error}");
        } else {
            let _ = self.left_out.fetch_add(1, Relaxed);
        }
    }

    fn may_speak(&self) -> bool {
        self.may_speak_at(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn may_speak_at(&self, now: u64) -> bool {
        let next = self.next_millis.load(Relaxed);
        now >= next
            && self.next_millis.compare_exchange(next, now.saturating_add(1000), Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Probe(Option<mpsc::Sender<i32>>);

    impl Probe {
        fn done(mut self, value: i32) {
            let _ = self.0.take().map(|to| to.send(value));
        }
    }

    impl Reply for Probe {
        fn refuse(self, errno: i32) {
            self.done(-errno);
        }
    }

    /// Like the protocol library's: dropped without an answer it answers EIO.
    impl Drop for Probe {
        fn drop(&mut self) {
            let _ = self.0.take().map(|to| to.send(-5));
        }
    }

    fn answer_of(deadline: Duration, answer: impl FnOnce() -> Answer<i32>) -> (i32, Arc<Watch>) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let watch = Arc::new(Watch::default());
        let handle = runtime.handle().clone();
        let server = Arc::new(Server { watch: watch.clone(), runtime: handle, deadline, log: Log::new() });
        let (to, from) = mpsc::channel();
        server.run(Op::Read, 0, Probe(Some(to)), answer, |reply, value| {
            reply.done(value);
            Ok(())
        });
        let value = from.recv_timeout(Duration::from_secs(10)).expect("an answer");
        drop(runtime);
        (value, watch)
    }

    #[test]
    fn f5_what_is_known_is_answered_at_once_and_what_is_not_later() {
        let (value, watch) = answer_of(Duration::from_secs(5), || Answer::now(7));
        assert_eq!((value, watch.answered_now.get(), watch.answered_later.get()), (7, 1, 0));
        let (value, watch) = answer_of(Duration::from_secs(5), || Answer::later(async { Ok(8) }));
        assert_eq!((value, watch.answered_now.get(), watch.answered_later.get()), (8, 0, 1));
    }

    #[test]
    fn f5_what_never_comes_is_eio_at_the_deadline() {
        let (value, watch) = answer_of(Duration::from_millis(20), || Answer::later(std::future::pending()));
        assert_eq!((value, watch.deadlines.get(), watch.waiting.get()), (-5, 1, 0));
        assert_eq!(watch.snapshot().op(Op::Read).errors, 1);
    }

    #[test]
    fn f4_a_panic_now_or_later_is_one_eio_and_one_count() {
        let (value, watch) = answer_of(Duration::from_secs(5), || panic!("on purpose"));
        assert_eq!((value, watch.panics.get(), watch.snapshot().op(Op::Read).errors), (-5, 1, 1));
        let (value, watch) =
            answer_of(Duration::from_secs(5), || Answer::later(async { panic!("on purpose") }));
        assert_eq!((value, watch.panics.get(), watch.waiting.get()), (-5, 1, 0));
    }

    #[test]
    fn f4_a_panic_that_nobody_is_told_of_is_counted_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (watch, handle) = (Arc::new(Watch::default()), runtime.handle().clone());
        let deadline = Duration::from_secs(1);
        let server = Arc::new(Server { watch: watch.clone(), runtime: handle, deadline, log: Log::new() });
        server.quietly(Op::Forget, || {});
        server.quietly(Op::Forget, || panic!("on purpose"));
        let forgets = watch.snapshot().op(Op::Forget).clone();
        assert_eq!((forgets.count, forgets.errors, watch.panics.get()), (2, 1, 1));
    }

    #[test]
    fn an_error_becomes_its_errno() {
        let (value, _) = answer_of(Duration::from_secs(5), || Answer::fail(Kind::Missing, "no"));
        assert_eq!(value, -2);
    }

    #[test]
    fn the_log_speaks_once_a_second() {
        let log = Log::new();
        assert!(log.may_speak());
        let next = log.next_millis.load(Relaxed);
        assert!(!log.may_speak_at(next - 1000));
        assert!(!log.may_speak_at(next - 1));
        assert!(log.may_speak_at(next));
        assert!(!log.may_speak_at(next + 999));
    }
}
