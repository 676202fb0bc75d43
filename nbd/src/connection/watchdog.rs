//! Patience with peers that stop in mid-request or don't take their replies, and thrift with those that are idle.
//!
//! One timer per connection, which runs only while there is something to watch; requests and replies just count.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Slower than this, in bytes a second, a payload is not waited for.
const PAYLOAD_RATE_MIN: u32 = 64 * 1024;
/// After a stop was announced, clients get so long to ask something and be told.
const LINGER: Duration = Duration::from_millis(200);

/// How long a peer may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// In the middle of a request (and longer for its payload), or with replies it doesn't take.
    pub(crate) stall: Duration,
    /// Before the buffers of an idle connection are given back.
    pub(crate) idle: Duration,
}

/// What is to be watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Whole requests received.
    pub(super) requests: u64,
    /// Bytes sent.
    pub(super) sent: u64,
    /// In the middle of a request, and we do read: bytes of payload it announced.
    pub(super) receiving: Option<usize>,
    /// Replies are waiting.
    pub(super) sending: bool,
    /// Holds more memory than an idle connection should.
    pub(super) grown: bool,
}

/// What is to be done about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Give back memory.
    Shrink,
    /// End the connection.
    HangUp(&'static str),
}

pub(super) struct Watchdog {
    patience: Patience,
    timer: Option<Pin<Box<Sleep>>>,
    armed: bool,
    requests: u64,
    sent: u64,
    received_at: Instant,
    sent_at: Instant,
    active_at: Instant,
    linger: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    pub(super) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Watchdog {
            patience,
            timer: None,
            armed: false,
            requests: 0,
            sent: 0,
            received_at: now,
            sent_at: now,
            active_at: now,
            linger: None,
        }
    }

    /// Called whenever the connection has nothing to do. Wakes the task for the next look.
    pub(super) fn poll(&mut self, progress: Progress, cx: &mut Context<'_>) -> Poll<Verdict> {
        let needed = progress.receiving.is_some() || progress.sending || progress.grown;
        if !needed {
            self.armed = false;
            return Poll::Pending;
        }
        if !self.armed {
            self.note_all(progress);
            self.arm(cx);
        }
        while self.timer.as_ref().is_some_and(|timer| timer.is_elapsed()) {
            if let Some(verdict) = self.look(progress) {
                self.armed = false;
                return Poll::Ready(verdict);
            }
            self.arm(cx);
        }
        Poll::Pending
    }

    fn arm(&mut self, cx: &mut Context<'_>) {
        let at =
            Instant::now() + (self.patience.stall.min(self.patience.idle) / 4).max(Duration::from_millis(10));
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
        self.armed = true;
        let _pending = self.timer.as_mut().map(|timer| timer.as_mut().poll(cx));
    }

    fn note_all(&mut self, progress: Progress) {
        let now = Instant::now();
        (self.requests, self.sent) = (progress.requests, progress.sent);
        (self.received_at, self.sent_at, self.active_at) = (now, now, now);
    }

    fn look(&mut self, progress: Progress) -> Option<Verdict> {
        let now = Instant::now();
        let moved = |before: u64, after: u64| before != after;
        if moved(self.requests, progress.requests) || moved(self.sent, progress.sent) {
            self.active_at = now;
        }
        if moved(self.requests, progress.requests) || progress.receiving.is_none() {
            self.received_at = now;
        }
        if moved(self.sent, progress.sent) || !progress.sending {
            self.sent_at = now;
        }
        (self.requests, self.sent) = (progress.requests, progress.sent);
        let payload = u32::try_from(progress.receiving.unwrap_or(0)).unwrap_or(u32::MAX);
        let allowance = self.patience.stall + Duration::from_secs(u64::from(payload / PAYLOAD_RATE_MIN));
        if now - self.received_at > allowance {
            return Some(Verdict::HangUp("peer stopped in the middle of a request"));
        }
        if now - self.sent_at > self.patience.stall {
            return Some(Verdict::HangUp("peer does not take its replies"));
        }
        let idle = progress.grown && progress.receiving.is_none() && !progress.sending;
        (idle && now - self.active_at > self.patience.idle).then_some(Verdict::Shrink)
    }

    /// Whether an idle client was given its time since the stop was announced.
    pub(super) fn lingered(&mut self, cx: &mut Context<'_>) -> bool {
        let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        linger.as_mut().poll(cx).is_ready()
    }
}
