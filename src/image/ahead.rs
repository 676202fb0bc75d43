//! Reading ahead: one for each open handle. It proves a reader sequential before it spends anything on it.
//!
//! Every read is noted, and the answer is at most one range to fetch: a window that doubles while the reader goes on, and that begins where the
//! last one ended. It grows up to what the engine can spare: what is fetched ahead has to stay in the cache until it is asked for, so many
//! readers, and much that is hot, make all windows smaller. A reader that jumps begins anew and costs nothing.

use super::{Engine, Image};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// What a reader who just proved sequential gets at least, and the least that is worth it.
const WINDOW_MIN: u64 = 1 << 20;
/// A read that begins so near to where the last one ended still belongs to the stream: a kernel that reads ahead by 4 MiB has that much
/// under way at once, and its requests arrive in any order.
const SLACK: u64 = 6 << 20;
/// Reads of a stream before it is one.
const PROOF: u32 = 2;

/// What one handle has read and what was fetched for it.
#[derive(Default)]
pub struct Ahead(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    in_order: u32,
    window: u64,
    fetched: u64,
    stream: Option<Stream>,
}

/// How large a window may be: the first one, and any.
struct Room {
    first: u64,
    max: u64,
}

/// One of those who have a window.
struct Stream(Arc<Engine>);

impl Stream {
    fn begin(engine: &Arc<Engine>) -> Stream {
        engine.streams(1);
        Stream(Arc::clone(engine))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams(-1);
    }
}

impl Ahead {
    /// A handle that has read nothing.
    pub fn new() -> Ahead {
        Ahead::default()
    }

    /// A read was asked for: has what will come fetched, if the reader is sequential. Never waits.
    pub fn note(&self, image: &Image, offset: u64, len: u64) {
        let engine = image.engine();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.ready();
        // One who just proved sequential gets half of what the way to the store holds: nobody else is known to want it.
        let room = || Room { first: engine.on_the_way() / 2, max: engine.window_max() };
        let range = state.note(offset, len, room, image.len());
        if state.window == 0 {
            state.stream = None;
        } else if state.stream.is_none() {
            state.stream = Some(Stream::begin(engine));
        }
        let used = before.end.min(state.next).saturating_sub(before.start);
        drop(state);
        let watch = engine.watch();
        watch.ahead_used_bytes.add(used);
        if let Some(range) = range {
            watch.ahead_bytes.add(range.end - range.start);
            let image = image.clone();
            let runtime = engine.runtime().clone();
            drop(runtime.spawn(async move { image.prefetch(range).await }));
        }
    }
}

impl State {
    /// What was fetched and not asked for yet.
    fn ready(&self) -> Range<u64> {
        self.next..self.fetched.max(self.next)
    }

    /// What to fetch now.
    fn note(
        &mut self,
        offset: u64,
        len: u64,
        room: impl FnOnce() -> Room,
        image_len: u64,
    ) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        let belongs = offset.abs_diff(self.next) <= SLACK;
        if !belongs {
            *self = State { next: end, ..State::default() };
            return None;
        }
        self.next = self.next.max(end);
        self.in_order = self.in_order.saturating_add(1);
        if self.in_order < PROOF {
            return None;
        }
        let ahead = self.fetched.saturating_sub(self.next);
        // Half of the window is still to come: fetching in larger steps costs fewer gets.
        if ahead > self.window / 2 && self.window > 0 {
            return None;
        }
        let room = room();
        self.window = (self.window * 2).max(WINDOW_MIN).max(room.first).min(room.max);
        if self.window < WINDOW_MIN {
            self.window = 0;
            return None;
        }
        let start = self.fetched.max(self.next);
        let target = self.next.saturating_add(self.window).min(image_len);
        self.fetched = self.fetched.max(target);
        (start < target).then_some(start..target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 40;
    const WINDOW_MAX: u64 = 32 << 20;

    #[test]
    fn a_sequential_reader_gets_a_growing_window_and_nothing_twice() {
        let mut state = State::default();
        let mut fetched = 0;
        for read in 0..1000u64 {
            if let Some(range) =
                state.note(read * 131_072, 131_072, || Room { first: 0, max: WINDOW_MAX }, LEN)
            {
                assert!(range.start >= fetched, "fetched twice: {range:?}");
                fetched = range.end;
            }
            assert!(
                read < PROOF.into() || fetched > (read + 1) * 131_072,
                "read {read} had nothing fetched for it"
            );
        }
        assert_eq!(state.window, WINDOW_MAX);
    }

    #[test]
    fn a_random_reader_gets_nothing() {
        let mut state = State::default();
        let mut at = 1u64;
        for _ in 0..1000 {
            at = at.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            assert_eq!(state.note((at >> 8) % LEN, 4096, || Room { first: 0, max: WINDOW_MAX }, LEN), None);
        }
    }

    #[test]
    fn reads_that_overtake_each_other_are_still_a_stream() {
        let mut state = State::default();
        let offsets = [0u64, 2, 1, 3, 5, 4, 7, 6];
        let some = offsets
            .iter()
            .filter_map(|at| state.note(at * 131_072, 131_072, || Room { first: 0, max: WINDOW_MAX }, LEN))
            .count();
        assert!(some > 0);
    }

    #[test]
    fn a_store_far_away_is_asked_for_what_the_way_holds_at_once() {
        let mut state = State::default();
        let far = || Room { first: 20 << 20, max: 64 << 20 };
        let first = (0..2u64).filter_map(|read| state.note(read * 131_072, 131_072, far, LEN)).next_back();
        assert_eq!(first, Some(262_144..262_144 + (20 << 20)));
    }

    #[test]
    fn nothing_is_fetched_behind_the_end() {
        let mut state = State::default();
        let ranges = (0..8)
            .filter_map(|read| {
                state.note(read * 131_072, 131_072, || Room { first: 0, max: WINDOW_MAX }, 1 << 20)
            })
            .collect::<Vec<_>>();
        assert!(!ranges.is_empty() && ranges.iter().all(|range| range.end <= 1 << 20), "{ranges:?}");
    }

    #[test]
    fn a_window_shrinks_when_there_is_less_room_and_grows_again() {
        let mut state = State::default();
        let mut read = 0;
        let mut after = |state: &mut State, reads: u64, room: u64| {
            for _ in 0..reads {
                let _fetched = state.note(read * 131_072, 131_072, || Room { first: 0, max: room }, LEN);
                read += 1;
            }
            state.window
        };
        assert_eq!(after(&mut state, 1000, WINDOW_MAX), WINDOW_MAX);
        assert_eq!(after(&mut state, 1000, 3 << 20), 3 << 20);
        assert_eq!(after(&mut state, 1000, WINDOW_MIN / 2), 0, "too little to be worth it");
        assert_eq!(after(&mut state, 1000, WINDOW_MAX), WINDOW_MAX);
    }
}
