//! How much has to be under way so that a store far away is never idle: what comes in the time that one get takes.
//!
//! The shortest time that a get took lately is the way there and back, and the most that came in a while is what the way carries. Their product
//! fits on the way at once. What waits in line makes gets slower without making more come, so neither an average nor the last value would do.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What came is summed up so often, at the earliest.
const ROUND: Duration = Duration::from_millis(250);
/// So many of the last rounds count.
const ROUNDS: usize = 40;

/// What was learned from the gets that have come.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rounds: VecDeque<Round>,
    now: Option<(Instant, Round)>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    shortest: Duration,
    bytes: u64,
    /// Bytes a second, once it is over.
    speed: f64,
}

impl Pace {
    /// A get that began at `began` has brought so many bytes, now.
    pub(super) fn note(&self, bytes: u64, began: Instant, now: Instant) {
        self.state().note(bytes, began, now);
    }

    /// How many bytes fit on the way; nothing while too little is known.
    pub(super) fn on_the_way(&self) -> Option<u64> {
        self.state().on_the_way()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, bytes: u64, began: Instant, now: Instant) {
        let empty = Round { shortest: Duration::MAX, bytes: 0, speed: 0.0 };
        // A round begins when what it counts was asked for: else the first answers seem to have taken no time.
        let (since, round) = self.now.get_or_insert((began, empty));
        round.shortest = round.shortest.min(now.saturating_duration_since(began));
        round.bytes += bytes;
        let lasted = now.saturating_duration_since(*since);
        if lasted < ROUND {
            return;
        }
        let over = Round { speed: round.bytes as f64 / lasted.as_secs_f64(), ..*round };
        self.now = Some((now, empty));
        if self.rounds.len() == ROUNDS {
            let _oldest = self.rounds.pop_front();
        }
        self.rounds.push_back(over);
    }

    fn on_the_way(&self) -> Option<u64> {
        let shortest = self.rounds.iter().map(|round| round.shortest).min()?;
        let fastest = self.rounds.iter().map(|round| round.speed).fold(0.0, f64::max);
        Some((shortest.as_secs_f64() * fastest) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A line that carries so much a second, with so much delay, and `under_way` of gets of 1 MiB kept on it for two seconds.
    fn drive(pace: &Pace, from: Instant, speed: u64, delay: Duration, under_way: u64) -> Instant {
        let step = Duration::from_secs_f64(MIB as f64 / speed as f64);
        let (mut free, mut asked) = (from, VecDeque::from(vec![from; under_way as usize]));
        while free < from + Duration::from_secs(2) {
            let Some(began) = asked.pop_front() else { break };
            free = (free + step).max(began + delay);
            pace.note(MIB, began, free);
            asked.push_back(free);
        }
        free
    }

    fn in_mib(pace: &Pace) -> u64 {
        pace.on_the_way().expect("it knows") / MIB
    }

    #[test]
    fn it_knows_nothing_before_anything_came() {
        assert_eq!(Pace::default().on_the_way(), None);
    }

    #[test]
    fn a_reader_who_waits_for_the_way_learns_that_it_carries_what_he_asks_for() {
        let pace = Pace::default();
        let _end = drive(&pace, Instant::now(), 10_000 * MIB, Duration::from_millis(50), 16);
        assert!((14..=18).contains(&in_mib(&pace)), "{}", in_mib(&pace));
    }

    #[test]
    fn what_waits_in_line_is_not_taken_for_distance() {
        let (pace, fifty) = (Pace::default(), Duration::from_millis(50));
        let end = drive(&pace, Instant::now(), 200 * MIB, fifty, 2);
        let _end = drive(&pace, end, 200 * MIB, fifty, 100);
        assert!((8..=14).contains(&in_mib(&pace)), "{}", in_mib(&pace));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let pace = Pace::default();
        let mut end = drive(&pace, Instant::now(), 1000 * MIB, Duration::from_millis(100), 100);
        let before = in_mib(&pace);
        for _ in 0..8 {
            end = drive(&pace, end, 100 * MIB, Duration::from_millis(10), 4);
        }
        assert!(before > 60 && in_mib(&pace) < 8, "{before} {}", in_mib(&pace));
    }
}
