//! Calls that may never return: which are under way, which of them hang, and who has to wait because of it.
//!
//! A disk that hangs keeps the thread that asked it, for as long as it likes. So calls are written down here by what they ask. One that
//! takes longer than [`STUCK_AFTER`] is stuck, and its thread is made up for. So that this has an end, only so many calls may be stuck in one thing, and
//! in all; who wants more of it is parked, which costs no thread, and goes on when one of the stuck calls returns. Whoever waits
//! has a deadline of his own.
//!
//! Knows neither threads nor stores: tasks in, tasks out.

use crate::format::{PackId, RepositoryId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A call that takes this long hangs, for all that its thread is worth.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(1);
/// How many calls may be stuck in one thing.
const STUCK_IN_ONE: usize = 4;
/// How many in all: so many threads more there may be.
const STUCK_IN_ALL: usize = 64;

/// What a call asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// The store, for something of this pack.
    Pack(PackId),
    /// The tier on this machine's disk.
    Tier,
    /// A stream of what another program wrote, which is read through to where something is wanted.
    Stream(RepositoryId, u64),
}

/// The calls under way and the tasks that wait for them.
pub(super) struct Stalls<T> {
    calls: HashMap<u64, Call>,
    next: u64,
    stuck: HashMap<Asked, usize>,
    parked: HashMap<Asked, Vec<T>>,
}

struct Call {
    of: Asked,
    since: Instant,
    stuck: bool,
}

/// What the end of a call changes.
pub(super) struct Left<T> {
    /// It was stuck, and made up for: there is a thread too many now.
    pub(super) was_stuck: bool,
    /// Who may try again.
    pub(super) free: Vec<T>,
}

impl<T> Stalls<T> {
    pub(super) fn new() -> Stalls<T> {
        Stalls { calls: HashMap::new(), next: 0, stuck: HashMap::new(), parked: HashMap::new() }
    }

    /// Whether one more may be asked of this.
    pub(super) fn admits(&self, of: Asked) -> bool {
        // The usual case asks no table.
        self.stuck.is_empty()
            || (self.stuck.get(&of).copied().unwrap_or(0) < STUCK_IN_ONE && self.all_stuck() < STUCK_IN_ALL)
    }

    /// A call begins; what [`Stalls::leave`] is given at its end.
    pub(super) fn enter(&mut self, of: Asked, now: Instant) -> u64 {
        self.next += 1;
        let _none = self.calls.insert(self.next, Call { of, since: now, stuck: false });
        self.next
    }

    /// A call is over.
    pub(super) fn leave(&mut self, call: u64) -> Left<T> {
        match self.calls.remove(&call) {
            Some(Call { of, stuck: true, .. }) => {
                let was_full = self.all_stuck() >= STUCK_IN_ALL;
                if let Some(stuck) = self.stuck.get_mut(&of) {
                    *stuck -= 1;
                    if *stuck == 0 {
                        let _zero = self.stuck.remove(&of);
                    }
                }
                let free = match was_full {
                    true => self.parked.drain().flat_map(|(_, tasks)| tasks).collect(),
                    false => self.parked.remove(&of).unwrap_or_default(),
                };
                Left { was_stuck: true, free }
            }
            _ => Left { was_stuck: false, free: Vec::new() },
        }
    }

    /// Keeps a task until one of the calls returns that are stuck; gives it back if there is room by now.
    pub(super) fn park(&mut self, of: Asked, task: T) -> Option<T> {
        if self.admits(of) {
            return Some(task);
        }
        self.parked.entry(of).or_default().push(task);
        None
    }

    /// Finds the calls that got stuck since it was asked last; how many. `None` when none is under way at all.
    pub(super) fn look(&mut self, now: Instant) -> Option<usize> {
        if self.calls.is_empty() {
            return None;
        }
        let mut found = 0;
        for call in self.calls.values_mut() {
            if !call.stuck && now.saturating_duration_since(call.since) >= STUCK_AFTER {
                call.stuck = true;
                *self.stuck.entry(call.of).or_default() += 1;
                found += 1;
            }
        }
        Some(found)
    }

    /// How many calls are stuck.
    pub(super) fn all_stuck(&self) -> usize {
        self.stuck.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(number: u8) -> Asked {
        Asked::Pack(PackId([number; 16]))
    }

    /// So many calls that hang in `of`.
    fn hang(stalls: &mut Stalls<u32>, of: Asked, calls: usize) -> Vec<u64> {
        let began = Instant::now();
        let calls = (0..calls).map(|_| stalls.enter(of, began)).collect();
        let _found = stalls.look(began + STUCK_AFTER);
        calls
    }

    #[test]
    fn b3_a_call_is_stuck_when_it_takes_too_long_and_is_counted_once() {
        let (mut stalls, began) = (Stalls::<u32>::new(), Instant::now());
        assert_eq!(stalls.look(began), None);
        let (quick, slow) = (stalls.enter(pack(1), began), stalls.enter(pack(1), began));
        assert_eq!(stalls.look(began), Some(0));
        assert!(!stalls.leave(quick).was_stuck);
        assert_eq!(stalls.look(began + STUCK_AFTER), Some(1));
        assert_eq!((stalls.look(began + STUCK_AFTER * 2), stalls.all_stuck()), (Some(0), 1));
        assert!(stalls.leave(slow).was_stuck);
        assert_eq!((stalls.look(began), stalls.all_stuck()), (None, 0));
    }

    #[test]
    fn b3_who_wants_more_of_what_hangs_waits_and_others_do_not() {
        let mut stalls = Stalls::new();
        let calls = hang(&mut stalls, pack(1), STUCK_IN_ONE);
        assert!(!stalls.admits(pack(1)) && stalls.admits(pack(2)) && stalls.admits(Asked::Tier));
        assert_eq!((stalls.park(pack(1), 7), stalls.park(pack(2), 8)), (None, Some(8)));
        assert_eq!(stalls.leave(calls[0]).free, [7]);
        assert_eq!(stalls.park(pack(1), 9), Some(9), "there is room by now");
    }

    #[test]
    fn b3_calls_that_hang_have_a_bound_in_all_and_its_end_frees_everyone() {
        let mut stalls = Stalls::new();
        let mut calls = Vec::new();
        let mut number = 0;
        while stalls.all_stuck() < STUCK_IN_ALL {
            number += 1;
            calls.extend(hang(&mut stalls, pack(number), STUCK_IN_ONE));
        }
        assert_eq!((stalls.park(pack(100), 1), stalls.park(pack(101), 2)), (None, None));
        let mut free = stalls.leave(calls[0]).free;
        free.sort();
        assert_eq!(free, [1, 2]);
    }
}
