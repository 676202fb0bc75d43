//! How everyone learns that the server is about to stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How far the stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not at all.
    Serving,
    /// Nothing new is begun; what is running ends.
    Draining,
    /// Whatever is still running has had its time.
    Leaving,
}

/// Says it.
#[derive(Debug)]
pub(crate) struct Signal {
    phase: AtomicU8,
    changed: Arc<Notify>,
}

impl Default for Signal {
    fn default() -> Self {
        Signal { phase: AtomicU8::new(0), changed: Arc::new(Notify::new()) }
    }
}

impl Signal {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Leaving,
        }
    }

    /// Phases only go forward; each is told once, since whoever was woken waits for the next one.
    pub(crate) fn advance(&self, phase: Phase) {
        let number = match phase {
            Phase::Serving => 0,
            Phase::Draining => 1,
            Phase::Leaving => 2,
        };
        if self.phase.fetch_max(number, Ordering::AcqRel) < number {
            self.changed.notify_waiters();
        }
    }

    /// Waits until the phase is at least this one.
    pub(crate) async fn reached(&self, phase: Phase) {
        loop {
            let changed = self.changed.notified();
            if self.phase() >= phase {
                return;
            }
            changed.await;
        }
    }
}

/// Hears it, inside a task that polls by hand. Once registered it costs nothing until something changes.
pub(crate) struct Watch {
    signal: Arc<Signal>,
    registered: Option<(Phase, Pin<Box<OwnedNotified>>)>,
}

impl Watch {
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        Watch { signal, registered: None }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.signal.phase()
    }

    /// Waits until the phase is at least this one.
    pub(crate) async fn reached(&self, phase: Phase) {
        self.signal.reached(phase).await;
    }

    /// Has the task woken when the phase changes. Look at the phase *after* this.
    pub(crate) fn register(&mut self, cx: &mut Context<'_>) {
        let phase = self.signal.phase();
        if self.registered.as_ref().is_some_and(|(seen, _)| *seen == phase) {
            return;
        }
        let mut changed = Box::pin(Arc::clone(&self.signal.changed).notified_owned());
        if let Poll::Ready(()) = changed.as_mut().poll(cx) {
            cx.waker().wake_by_ref();
        }
        self.registered = Some((phase, changed));
    }
}
