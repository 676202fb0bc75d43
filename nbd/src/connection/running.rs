//! Answers that come later: each a task of its own, counted and charged until it is collected.
//!
//! Holds: what only tells something to a client ends with its connection. What changes the export can't be taken back (a
//! thread may be at it, or a task of the export's own), so it is waited for: behind the end of its connection nothing of it
//! is still to come, and what it holds stays charged until then.

use std::future::Future;
use std::task::{Context, Poll};

use tokio::task::JoinSet;

use super::outbox::{Outcome, Ticket};
use crate::export::Result;
use crate::wire::cmd;

/// An answer that came later.
pub(super) struct Finished {
    pub(super) ticket: Ticket,
    pub(super) held: usize,
    pub(super) result: Result<Outcome>,
}

/// All that one connection has running.
#[derive(Default)]
pub(super) struct Running {
    telling: JoinSet<Finished>,
    changing: JoinSet<Finished>,
    bytes: usize,
}

impl Running {
    /// Begins one, by the command that asked for it.
    pub(super) fn begin(
        &mut self,
        command: u16,
        held: usize,
        task: impl Future<Output = Finished> + Send + 'static,
    ) {
        self.bytes = self.bytes.saturating_add(held);
        let changes = matches!(command, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES | cmd::FLUSH);
        drop(if changes { self.changing.spawn(task) } else { self.telling.spawn(task) });
    }

    /// One that is done. The task is woken for the next one.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Option<Finished> {
        for tasks in [&mut self.changing, &mut self.telling] {
            if tasks.is_empty() {
                continue;
            }
            while let Poll::Ready(Some(joined)) = tasks.poll_join_next(cx) {
                // A task can only fail to give its answer by being cancelled, and nobody cancels before the end.
                if let Ok(finished) = joined {
                    self.bytes = self.bytes.saturating_sub(finished.held);
                    return Some(finished);
                }
            }
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.telling.len() + self.changing.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.telling.is_empty() && self.changing.is_empty()
    }

    pub(super) fn is_changing(&self) -> bool {
        !self.changing.is_empty()
    }

    /// Bytes that they hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns when none is running any more, or, of those that change something, at the latest after `patience`.
    pub(super) async fn end(&mut self, patience: impl Future<Output = ()>) {
        self.telling.shutdown().await;
        tokio::select! {
            () = async { while self.changing.join_next().await.is_some() {} } => {}
            () = patience => self.changing.shutdown().await,
        }
    }
}
