//! How many calls at once: as many as the store takes well. Learned from the calls that come and go, without asking anything more.
//!
//! While callers wait for their turn, a few more are let in; that stays if it moves more, and is taken back if it does not. A store that turns
//! calls away gets half as many from then on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// What a call counts for beside its bytes: it costs time also when it moves none.
const CALL_WORK: u64 = 64 * 1024;
/// More at once has to move so much more to be worth it.
const WORTH: f64 = 1.05;
/// Rounds without a try after one that did not help, and after the store turned calls away.
const ROUNDS_AFTER_LOSS: u32 = 30;
const ROUNDS_AFTER_REFUSAL: u32 = 10;
/// Calls that were turned away together count once.
const TOGETHER: Duration = Duration::from_secs(1);

/// Lets callers in.
pub(super) struct Gate {
    turns: Semaphore,
    level: Mutex<Level>,
}

/// A caller's turn. Dropped, it is the next one's.
pub(super) struct Turn<'a> {
    gate: &'a Gate,
    permit: Option<SemaphorePermit<'a>>,
    waited: bool,
}

impl Gate {
    /// Lets `calls` in at once, and between one and `calls_max` as it turns out.
    pub(super) fn new(calls: usize, calls_max: usize) -> Gate {
        let calls = calls.max(1);
        Gate {
            turns: Semaphore::new(calls),
            level: Mutex::new(Level::new(calls, calls_max.max(calls), Instant::now())),
        }
    }

    /// Waits for a turn.
    pub(super) async fn enter(&self) -> Turn<'_> {
        if let Ok(permit) = self.turns.try_acquire() {
            return Turn { gate: self, permit: Some(permit), waited: false };
        }
        // Nobody closes it, so this cannot fail; were it closed, the call would go through unrestrained.
        Turn { gate: self, permit: self.turns.acquire().await.ok(), waited: true }
    }

    /// How many are let in at once.
    pub(super) fn allowed(&self) -> usize {
        self.level().allowed
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, change: Change) {
        match change {
            Change::None | Change::Fewer => {}
            Change::More(calls) => self.turns.add_permits(calls),
        }
    }
}

impl Turn<'_> {
    /// The call went well and moved so many bytes.
    pub(super) fn went_well(&self, bytes: u64) {
        let change = self.gate.level().went_well(Instant::now(), bytes + CALL_WORK, self.waited);
        self.gate.follow(change);
    }

    /// The store turned the call away, and would have turned others away.
    pub(super) fn was_turned_away(&self) {
        let change = self.gate.level().was_turned_away(Instant::now());
        self.gate.follow(change);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut level = self.gate.level();
        if level.too_many > 0
            && let Some(permit) = self.permit.take()
        {
            level.too_many -= 1;
            permit.forget();
        }
    }
}

/// How many, and what is known of how well that goes.
struct Level {
    allowed: usize,
    allowed_max: usize,
    /// Turns that end with their call rather than going to the next caller.
    too_many: usize,
    round: Round,
    /// What moved with fewer, while more are tried.
    before: Option<(usize, f64)>,
    rounds_to_wait: u32,
    together_until: Instant,
}

/// Some calls, as many as tell something.
struct Round {
    began: Instant,
    calls: usize,
    waited: usize,
    work: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    /// So many more turns.
    More(usize),
    /// Fewer: turns end as their calls do.
    Fewer,
}

impl Level {
    fn new(allowed: usize, allowed_max: usize, now: Instant) -> Level {
        let round = Round { began: now, calls: 0, waited: 0, work: 0 };
        Level {
            allowed,
            allowed_max,
            too_many: 0,
            round,
            before: None,
            rounds_to_wait: 0,
            together_until: now,
        }
    }

    fn went_well(&mut self, now: Instant, work: u64, waited: bool) -> Change {
        self.round.calls += 1;
        self.round.waited += usize::from(waited);
        self.round.work += work;
        if self.round.calls < self.allowed * 2 {
            return Change::None;
        }
        let new = Round { began: now, calls: 0, waited: 0, work: 0 };
        let round = std::mem::replace(&mut self.round, new);
        let is_full = round.waited * 2 >= round.calls;
        let seconds = now.duration_since(round.began).as_secs_f64();
        if self.allowed_max == 1 || !is_full || seconds <= 0.0 {
            return Change::None;
        }
        self.judge(round.work as f64 / seconds)
    }

    fn judge(&mut self, rate: f64) -> Change {
        if let Some((allowed, before)) = self.before.take()
            && rate < before * WORTH
        {
            self.rounds_to_wait = ROUNDS_AFTER_LOSS;
            return self.set(allowed);
        }
        if self.rounds_to_wait > 0 {
            self.rounds_to_wait -= 1;
            return Change::None;
        }
        if self.allowed < self.allowed_max {
            self.before = Some((self.allowed, rate));
        }
        self.set((self.allowed + (self.allowed / 4).max(1)).min(self.allowed_max))
    }

    fn was_turned_away(&mut self, now: Instant) -> Change {
        if now < self.together_until {
            return Change::None;
        }
        (self.together_until, self.before, self.rounds_to_wait) =
            (now + TOGETHER, None, ROUNDS_AFTER_REFUSAL);
        self.set((self.allowed / 2).max(1))
    }

    fn set(&mut self, allowed: usize) -> Change {
        let before = std::mem::replace(&mut self.allowed, allowed);
        if allowed <= before {
            self.too_many += before - allowed;
            return if allowed == before { Change::None } else { Change::Fewer };
        }
        // Turns that were to end go on instead.
        let kept = self.too_many.min(allowed - before);
        self.too_many -= kept;
        match allowed - before - kept {
            0 => Change::None,
            more => Change::More(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of calls against a service that moves `rate(calls at once)` calls a second.
    fn rounds(level: &mut Level, now: &mut Instant, rounds: usize, rate: impl Fn(usize) -> f64) {
        for _ in 0..rounds {
            let calls = level.allowed * 2;
            *now += Duration::from_secs_f64(calls as f64 / rate(level.allowed));
            for _ in 0..calls {
                let _change = level.went_well(*now, CALL_WORK, true);
            }
        }
    }

    #[tokio::test]
    async fn more_are_let_in_as_long_as_that_moves_more() {
        let mut now = Instant::now();
        let mut level = Level::new(16, 64, now);
        rounds(&mut level, &mut now, 20, |calls| calls as f64);
        assert_eq!(level.allowed, 64);
        let mut level = Level::new(16, 64, now);
        rounds(&mut level, &mut now, 20, |calls| calls.min(30) as f64);
        assert!((25..=38).contains(&level.allowed), "{}", level.allowed);
        let mut level = Level::new(16, 64, now);
        rounds(&mut level, &mut now, 20, |_| 16.0);
        assert_eq!(level.allowed, 16, "more did not help");
    }

    #[tokio::test]
    async fn b9_fewer_are_let_in_when_the_store_turns_calls_away() {
        let mut now = Instant::now();
        let mut level = Level::new(16, 64, now);
        for _ in 0..16 {
            let _change = level.was_turned_away(now);
        }
        assert_eq!((level.allowed, level.too_many), (8, 8), "those that came together count once");
        for expected in [4, 2, 1, 1] {
            now += TOGETHER;
            let _change = level.was_turned_away(now);
            assert_eq!(level.allowed, expected);
        }
        rounds(&mut level, &mut now, 100, |calls| calls as f64);
        assert!(level.allowed > 8, "it recovers: {}", level.allowed);
    }

    #[tokio::test]
    async fn who_never_waits_changes_nothing() {
        let mut now = Instant::now();
        let mut level = Level::new(4, 64, now);
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            assert_eq!(level.went_well(now, CALL_WORK, false), Change::None);
        }
        assert_eq!(level.allowed, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_are_too_many_end_with_their_calls() {
        let gate = Gate::new(4, 8);
        let turns = [gate.enter().await, gate.enter().await, gate.enter().await, gate.enter().await];
        turns[0].was_turned_away();
        assert_eq!((gate.allowed(), gate.turns.available_permits()), (2, 0));
        drop(turns);
        assert_eq!(gate.turns.available_permits(), 2);
    }
}
