//! The line in which steps of a plan wait for somebody to open them. Who takes one gets the first whose stream nobody is in: so streams are read in
//! order, and side by side.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Steps in line.
pub(super) struct Line<T> {
    room: usize,
    state: Mutex<State<T>>,
    /// There is room, for the one who puts steps in line.
    emptier: Condvar,
    /// There may be a step to take, for one of those who open them.
    fuller: Condvar,
}

struct State<T> {
    waiting: VecDeque<(Option<u64>, T)>,
    /// Streams that somebody is in.
    busy: HashSet<u64>,
    ended: bool,
    stopped: bool,
}

/// A place in a stream; dropped, it is free for the next one.
pub(super) struct Hold<'a, T> {
    line: &'a Line<T>,
    stream: Cell<Option<u64>>,
}

/// Whoever takes from the line holds one: when it goes, for whatever reason, nothing more is put in line for nobody.
pub(super) struct Taker<'a, T>(pub(super) &'a Line<T>);

impl<T> Line<T> {
    /// An empty one with room for so many steps.
    pub(super) fn new(room: usize) -> Line<T> {
        let state = State { waiting: VecDeque::new(), busy: HashSet::new(), ended: false, stopped: false };
        Line { room, state: Mutex::new(state), emptier: Condvar::new(), fuller: Condvar::new() }
    }

    /// Puts a step in line, once there is room; false when nobody will take it.
    pub(super) fn put(&self, stream: Option<u64>, step: T) -> bool {
        let mut state = self.state();
        while state.waiting.len() >= self.room && !state.stopped {
            state = self.emptier.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.stopped {
            state.waiting.push_back((stream, step));
            self.fuller.notify_one();
        }
        !state.stopped
    }

    /// No more steps come.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.fuller.notify_all();
    }

    /// Nothing more is taken.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.emptier.notify_all();
        self.fuller.notify_all();
    }

    /// The next step that can be opened; nothing when there will be none.
    pub(super) fn take(&self) -> Option<(T, Hold<'_, T>)> {
        let mut state = self.state();
        loop {
            if state.stopped || (state.ended && state.waiting.is_empty()) {
                return None;
            }
            if let Some((stream, step)) = state.next() {
                self.emptier.notify_one();
                if state.ended && state.waiting.is_empty() {
                    self.fuller.notify_all(); // nobody need wait for more
                }
                return Some((step, Hold { line: self, stream: Cell::new(stream) }));
            }
            state = self.fuller.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn next(&mut self) -> Option<(Option<u64>, T)> {
        let is_free =
            |(stream, _): &(Option<u64>, T)| stream.is_none_or(|stream| !self.busy.contains(&stream));
        let place = self.waiting.iter().position(is_free)?;
        let (stream, step) = self.waiting.remove(place)?;
        self.busy.extend(stream);
        Some((stream, step))
    }
}

impl<T> Hold<'_, T> {
    /// Lets the next one into the stream.
    pub(super) fn free(&self) {
        if let Some(stream) = self.stream.take() {
            let _was_in = self.line.state().busy.remove(&stream);
            self.line.fuller.notify_one();
        }
    }
}

impl<T> Drop for Hold<'_, T> {
    fn drop(&mut self) {
        self.free();
    }
}

impl<T> Drop for Taker<'_, T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_read_in_order_and_side_by_side() {
        let line = Line::new(9);
        for (stream, step) in [(Some(1), 'a'), (Some(1), 'b'), (Some(2), 'c'), (None, 'd'), (Some(2), 'e')] {
            assert!(line.put(stream, step));
        }
        line.end();
        let (first, hold) = line.take().unwrap();
        let others: Vec<_> = (0..2).map(|_| line.take().unwrap()).collect();
        assert_eq!((first, others[0].0, others[1].0), ('a', 'c', 'd'));
        hold.free();
        assert_eq!(line.take().unwrap().0, 'b', "the stream was freed while its step is still worked on");
        drop(others);
        assert_eq!(line.take().unwrap().0, 'e');
        assert!(line.take().is_none());
    }

    #[test]
    fn who_waits_for_a_stream_hears_that_the_last_step_is_taken() {
        for _ in 0..200 {
            let line = Line::new(2);
            assert!(line.put(Some(1), 'a') && line.put(Some(1), 'b'));
            line.end();
            let took = std::thread::scope(|scope| {
                let takers: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| std::iter::from_fn(|| line.take()).count())).collect();
                takers.into_iter().map(|taker| taker.join().unwrap()).sum::<usize>()
            });
            assert_eq!(took, 2);
        }
    }

    #[test]
    fn nobody_waits_for_a_line_that_is_stopped() {
        let line = Line::new(1);
        assert!(line.put(None, 1));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| line.put(None, 2));
            drop(Taker(&line));
            assert!(!waits.join().unwrap());
        });
        assert!(line.take().is_none() && !line.put(None, 3));
    }
}
