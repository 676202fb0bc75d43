//! Staying awake for a moment: a client that asks again as soon as it has its answer is not waited for asleep.
//!
//! To be woken takes longer than to answer a small request. So after a few short pauses in a row the next ones are sat out awake, the
//! runtime's other work and its events going first. One pause that lasts longer costs what it took to find that out, and ends the habit.
//! So does a second request in one go: a client with more under way does not wait for each answer, and needs the core itself.

use std::future::Future;
use std::pin::pin;
use std::task::Context;
use std::time::{Duration, Instant};

/// So long a pause is sat out.
const AWAKE: Duration = Duration::from_micros(100);
/// A pause that ends sooner, sleep and waking included, was a short one.
const SHORT: Duration = Duration::from_micros(200);
/// So many short ones make the habit.
const HABIT: u8 = 8;

/// How long a connection's pauses have been lately.
#[derive(Debug, Default)]
pub(super) struct Lull {
    began: Option<Instant>,
    short: u8,
    requests: u64,
}

impl Lull {
    /// Something happened: the pause, if there was one, is over.
    pub(super) fn over(&mut self) {
        let Some(began) = self.began.take() else { return };
        self.judge(began.elapsed());
    }

    /// So many requests were received in all.
    pub(super) fn received(&mut self, requests: u64) {
        if requests > self.requests.saturating_add(1) {
            self.short = 0;
        }
        self.requests = requests;
    }

    fn judge(&mut self, pause: Duration) {
        self.short = if pause < SHORT { self.short.saturating_add(1).min(HABIT) } else { 0 };
    }

    /// Nothing is to be done. Has the task woken again as soon as everything else was looked at, if this pause should be sat out.
    pub(super) fn sit_out(&mut self, cx: &mut Context<'_>) -> bool {
        self.sit_out_by(Instant::now, cx)
    }

    fn sit_out_by(&mut self, now: impl Fn() -> Instant, cx: &mut Context<'_>) -> bool {
        let began = *self.began.get_or_insert_with(&now);
        if self.short < HABIT {
            return false;
        }
        if now().saturating_duration_since(began) > AWAKE {
            self.short = 0;
            return false;
        }
        // Its first poll has the task woken behind the runtime's events; nothing is left to be polled again.
        let _pending = pin!(tokio::task::yield_now()).poll(cx);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn only_a_habit_of_short_pauses_is_sat_out_and_one_long_one_ends_it() {
        let mut lull = Lull::default();
        let mut cx = Context::from_waker(Waker::noop());
        let start = Instant::now();
        let later = start + 2 * AWAKE;
        let mut sit_out_at = |lull: &mut Lull, now| lull.sit_out_by(|| now, &mut cx);
        assert!(!sit_out_at(&mut lull, start));
        for _ in 0..HABIT {
            lull.judge(Duration::from_micros(20));
        }
        lull.began = None;
        assert!(sit_out_at(&mut lull, start), "after so many short ones");
        assert!(sit_out_at(&mut lull, start + AWAKE), "for as long as it takes to fall asleep");
        assert!(!sit_out_at(&mut lull, later), "not for longer than it takes to fall asleep");
        lull.over();
        lull.began = None;
        assert!(!sit_out_at(&mut lull, later), "the habit is gone");
        (0..HABIT).for_each(|_| lull.judge(Duration::from_micros(20)));
        lull.received(1);
        assert!(sit_out_at(&mut lull, later));
        lull.received(3);
        assert!(!sit_out_at(&mut lull, later), "who asks for two things at once is not waited for");
    }
}
