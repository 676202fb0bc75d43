//! Reading ahead from file to file: who opens the files of a directory in their order is about to open the next ones.
//!
//! Small files lie next to each other in packs, and each costs a fetch of its own when it is waited for. So after some files in order the
//! next ones are fetched before they are asked for, a window at a time; also from one directory to the next, once somebody has proved to
//! read so. Large files have a reader's own read-ahead (`image/ahead`). It never waits, and what it gets wrong costs a window.

use super::share::Folder;
use crate::image::Engine;
use crate::image::tree::{File, expect_all};
use std::sync::{Arc, Mutex, PoisonError};

/// Files opened in order before the next are fetched.
const PROOF: u32 = 2;
/// Entries that may be passed over without the order ending: directories, links, and what a reader has no use for.
const SLACK: u64 = 64;
/// Entries that are looked at for one window.
const ROWS: usize = 128;
/// Bytes of one window.
const WINDOW: u64 = 4 << 20;

/// What the readers of one tree have opened. Several at once are told apart badly and harm each other little.
#[derive(Default)]
pub(super) struct Neighbours(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    folder: u128,
    row: u64,
    in_order: u32,
    /// Up to this row all is fetched.
    fetched: u64,
}

impl Neighbours {
    /// A file was opened.
    pub(super) fn note(&self, folder: &Arc<Folder>, row: u64, engine: &Arc<Engine>) {
        let from = self.0.lock().unwrap_or_else(PoisonError::into_inner).note(folder.identity(), row);
        let Some(from) = from else { return };
        let folder = Arc::clone(folder);
        drop(engine.runtime().spawn(async move { fetch(&folder, from).await }));
    }
}

impl Seen {
    /// From where on to fetch now.
    fn note(&mut self, folder: u128, row: u64) -> Option<u64> {
        let goes_on = if self.folder == folder {
            row > self.row && row - self.row <= SLACK
        } else {
            // A reader in order begins a directory near its beginning.
            row <= SLACK
        };
        self.in_order = if goes_on { self.in_order.saturating_add(1) } else { 0 };
        if self.folder != folder || !goes_on {
            self.fetched = row;
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

/// Fetches the small files among some entries, as far as a window goes. Errors come again when they are read.
async fn fetch(folder: &Arc<Folder>, from: u64) {
    let Ok(page) = folder.dir().page(from, ROWS).await else { return };
    let mut left = WINDOW;
    let files = page.iter().filter_map(|member| {
        let file = member.file()?;
        left = left.checked_sub(file.len())?;
        Some(file)
    });
    let files: Vec<File> = files.collect();
    expect_all(&files);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_in_order_has_every_row_fetched_once_and_before_it_comes() {
        let mut seen = Seen::default();
        let mut fetched = 0;
        for row in 0..1000 {
            if let Some(from) = seen.note(7, row) {
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
            assert_eq!(seen.note(7, row), None, "{row}");
        }
    }

    #[test]
    fn a_reader_in_order_stays_one_from_directory_to_directory() {
        let mut seen = Seen::default();
        let asked = (1..20).filter_map(|folder| seen.note(folder, 0)).count();
        assert!(asked >= 17, "{asked}");
        assert_eq!(seen.note(30, 5000), None);
    }
}
