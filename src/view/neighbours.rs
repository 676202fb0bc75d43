//! Reading ahead from file to file: who opens the files of a directory in their order is about to open the next ones.
//!
//! Small files lie next to each other in packs, and each costs a fetch of its own when it is waited for. So after some files in order the
//! next ones are fetched before they are asked for, a window at a time. Who has gone on like that for a while and lists a directory will
//! read what is in it, too: its files are fetched when it is listed, as far as there is room, for many directories have but a few. Large
//! files have a reader's own read-ahead (`image/ahead`). It never waits, and what it gets wrong costs a window.

use super::share::Folder;
use crate::image::Engine;
use crate::image::tree::{Dir, File, expect_all};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files opened in order before the next are fetched.
const PROOF: u32 = 2;
/// Files opened in order before directories are fetched when they are listed.
const LONG_PROOF: u32 = 32;
/// Entries that may be passed over without the order ending: directories, links, and what a reader has no use for.
const SLACK: u64 = 64;
/// Entries that are looked at for one window.
const ROWS: usize = 128;
/// Bytes of one window.
const WINDOW: u64 = 4 << 20;
/// Directories that were listed and not come to yet; of more, the later ones are forgotten.
const LISTED_MAX: usize = 1024;

/// What the readers of one tree have opened. Several at once are told apart badly and harm each other little.
#[derive(Default)]
pub(super) struct Neighbours(Mutex<State>);

#[derive(Default)]
struct State {
    seen: Seen,
    /// Without a way back to who holds this.
    listed: Listed<Dir>,
    /// Somebody fetches directories that were listed.
    fetching: bool,
}

#[derive(Default)]
struct Seen {
    folder: u128,
    row: u64,
    in_order: u32,
    /// Up to this row all is fetched.
    fetched: u64,
}

/// Directories that were listed, in that order, and not come to yet.
struct Listed<F> {
    waiting: VecDeque<(u128, F)>,
    /// Those whose files are fetched, or on their way, and how many bytes these have.
    fetched: VecDeque<(u128, u64)>,
}

impl Neighbours {
    /// A file was opened.
    pub(super) fn note(self: &Arc<Self>, folder: &Arc<Folder>, row: u64, engine: &Arc<Engine>) {
        let mut state = self.state();
        let is_fetched = state.seen.folder != folder.identity() && state.listed.come_to(folder.identity());
        let from = state.seen.note(folder.identity(), row, is_fetched);
        if state.seen.in_order == 0 {
            state.listed = Listed::default();
        }
        let more = state.begin_fetching(engine);
        drop(state);
        if let Some(from) = from {
            let dir = folder.dir().clone();
            drop(engine.runtime().spawn(async move { fetch(&dir, from).await }));
        }
        if more {
            self.fetch_listed(engine);
        }
    }

    /// A directory is read from its beginning.
    pub(super) fn listed(self: &Arc<Self>, folder: &Arc<Folder>, engine: &Arc<Engine>) {
        let mut state = self.state();
        if state.seen.in_order < LONG_PROOF {
            return;
        }
        state.listed.add(folder.identity(), folder.dir().clone());
        let more = state.begin_fetching(engine);
        drop(state);
        if more {
            self.fetch_listed(engine);
        }
    }

    fn fetch_listed(self: &Arc<Self>, engine: &Arc<Engine>) {
        let (all, engine) = (Arc::clone(self), Arc::clone(engine));
        let runtime = engine.runtime().clone();
        drop(runtime.spawn(async move {
            loop {
                let next = {
                    let mut state = all.state();
                    let next = state.listed.next(engine.window_max());
                    state.fetching = next.is_some();
                    next
                };
                let Some((identity, dir)) = next else { return };
                let bytes = fetch(&dir, 0).await;
                all.state().listed.has(identity, bytes);
            }
        }));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether somebody should begin to fetch what was listed, and nobody does.
    fn begin_fetching(&mut self, engine: &Engine) -> bool {
        let begins = !self.fetching && self.listed.has_next(engine.window_max());
        self.fetching |= begins;
        begins
    }
}

impl<F> Default for Listed<F> {
    fn default() -> Self {
        Listed { waiting: VecDeque::new(), fetched: VecDeque::new() }
    }
}

impl<F> Listed<F> {
    fn add(&mut self, identity: u128, folder: F) {
        let known = self.waiting.iter().any(|(known, _)| *known == identity)
            || self.fetched.iter().any(|(known, _)| *known == identity);
        if !known && self.waiting.len() + self.fetched.len() < LISTED_MAX {
            self.waiting.push_back((identity, folder));
        }
    }

    fn has_next(&self, room: u64) -> bool {
        !self.waiting.is_empty() && self.fetched.iter().map(|(_, bytes)| bytes).sum::<u64>() < room
    }

    /// The next one to fetch, if no more than `room` is fetched already.
    fn next(&mut self, room: u64) -> Option<(u128, F)> {
        let (identity, folder) = if self.has_next(room) { self.waiting.pop_front()? } else { return None };
        self.fetched.push_back((identity, 0));
        Some((identity, folder))
    }

    /// So many bytes were fetched for one.
    fn has(&mut self, identity: u128, bytes: u64) {
        if let Some(one) = self.fetched.iter_mut().find(|(known, _)| *known == identity) {
            one.1 = bytes;
        }
    }

    /// The reader is in this one now: nobody will come to those that were listed before it. Whether its files are fetched.
    fn come_to(&mut self, identity: u128) -> bool {
        if let Some(place) = self.fetched.iter().position(|(known, _)| *known == identity) {
            drop(self.fetched.drain(..=place));
            return true;
        }
        if let Some(place) = self.waiting.iter().position(|(known, _)| *known == identity) {
            self.fetched.clear();
            drop(self.waiting.drain(..=place));
        }
        false
    }
}

impl Seen {
    /// From where on to fetch now; `is_fetched` says that the first files of a directory that was come to are.
    fn note(&mut self, folder: u128, row: u64, is_fetched: bool) -> Option<u64> {
        let goes_on = if self.folder == folder {
            row > self.row && row - self.row <= SLACK
        } else {
            // A reader in order begins a directory near its beginning.
            row <= SLACK
        };
        self.in_order = if goes_on { self.in_order.saturating_add(1) } else { 0 };
        if self.folder != folder || !goes_on {
            self.fetched = if is_fetched { row.max(ROWS as u64 - 1) } else { row };
        }
        (self.folder, self.row) = (folder, row);
        // Half of the window is still to come.
        if self.in_order < PROOF || self.fetched > row + ROWS as u64 / 2 {
            return None;
        }
        let from = self.fetched.max(row) + 1;
        self.fetched = from + ROWS as u64 - 1;
        Some(from)
    }
}

/// Fetches the small files among some entries, as far as a window goes; how many bytes they have. Errors come again when they are read.
async fn fetch(dir: &Dir, from: u64) -> u64 {
    let Ok(page) = dir.page(from, ROWS).await else { return 0 };
    let mut left = WINDOW;
    let files = page.iter().filter_map(|member| {
        let file = member.file()?;
        left = left.checked_sub(file.len())?;
        Some(file)
    });
    let files: Vec<File> = files.collect();
    expect_all(&files);
    WINDOW - left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_in_order_has_every_row_fetched_once_and_before_it_comes() {
        let mut seen = Seen::default();
        let mut fetched = 0;
        for row in 0..1000 {
            if let Some(from) = seen.note(7, row, false) {
                assert!(from > row && from >= fetched, "{from} at {row}, {fetched} were fetched");
                fetched = from + ROWS as u64;
            }
            assert!(row < PROOF.into() || fetched > row, "{row}");
        }
    }

    #[test]
    fn a_reader_who_jumps_has_nothing_fetched() {
        let mut seen = Seen::default();
        for row in [5, 900, 3, 400, 200, 7000, 6000, 100] {
            assert_eq!(seen.note(7, row, false), None, "{row}");
        }
    }

    #[test]
    fn a_reader_in_order_stays_one_from_directory_to_directory() {
        let mut seen = Seen::default();
        let asked = (1..20).filter_map(|folder| seen.note(folder, 0, false)).count();
        assert!(asked >= 17, "{asked}");
        assert_eq!(seen.note(30, 5000, false), None);
    }

    #[test]
    fn directories_are_fetched_in_the_order_they_were_listed_as_far_as_there_is_room() {
        let mut listed = Listed::default();
        for folder in 1..=5u128 {
            listed.add(folder, folder);
            listed.add(folder, folder);
        }
        let fetch = |listed: &mut Listed<u128>| {
            let (identity, _) = listed.next(250)?;
            listed.has(identity, 100);
            Some(identity)
        };
        assert_eq!([fetch(&mut listed), fetch(&mut listed), fetch(&mut listed)], [Some(1), Some(2), Some(3)]);
        assert_eq!(fetch(&mut listed), None, "there is no room");
        assert!(listed.come_to(2), "it is fetched, and the first one is passed over");
        assert_eq!([fetch(&mut listed), fetch(&mut listed)], [Some(4), Some(5)]);
        assert!(
            !listed.come_to(77) && listed.come_to(3),
            "a directory that was never listed changes nothing"
        );
    }

    #[test]
    fn who_has_overtaken_the_fetching_is_not_followed() {
        let mut listed = Listed::default();
        for folder in 1..=5u128 {
            listed.add(folder, ());
        }
        assert!(!listed.come_to(4), "it comes too late for that one");
        assert_eq!(listed.next(1), Some((5, ())));
    }

    #[test]
    fn no_more_directories_are_remembered_than_make_sense() {
        let mut listed = Listed::default();
        (0..10_000u128).for_each(|folder| listed.add(folder, ()));
        assert_eq!(listed.waiting.len(), LISTED_MAX);
    }

    #[test]
    fn what_is_fetched_of_a_directory_is_not_fetched_again_when_it_is_come_to() {
        let mut seen = Seen::default();
        for row in 0..50 {
            let _from = seen.note(1, row, false);
        }
        let asked: Vec<u64> = (0..100).filter_map(|row| seen.note(2, row, true)).collect();
        assert_eq!(asked.first(), Some(&128), "{asked:?}");
    }
}
