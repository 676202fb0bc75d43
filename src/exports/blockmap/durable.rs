//! A map that many change at once, and that outlives a crash: what is flushed is durable in this order and no other.
//!
//! data written -> [`Durable::set`] ... flush: pages taken -> data synced -> pages written -> pages synced -> answer
//!
//! The pages that are taken speak only of data that was written before, so a page never promises what a crash could lose. Flushes that were
//! asked for meanwhile are answered by one.

use super::{BlockMap, Changed, State};
use afterimage_nbd::export::{Export, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Mutex;

/// The map, and how far it is durable.
pub struct Durable {
    map: RwLock<BlockMap>,
    /// Counts those who asked for a flush, and up to which of them it is done.
    asked: AtomicU64,
    done: AtomicU64,
    flushing: Mutex<()>,
}

impl Durable {
    /// A map as it was loaded or begun.
    pub fn new(map: BlockMap) -> Durable {
        let (asked, done, flushing) = Default::default();
        Durable { map: RwLock::new(map), asked, done, flushing }
    }

    /// The map, to look at.
    pub fn map(&self) -> RwLockReadGuard<'_, BlockMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, BlockMap> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the state of all blocks that a range of bytes touches. Data that is present was written before.
    pub fn set(&self, range: Range<u64>, state: State) {
        let mut map = self.map_mut();
        let block = map.block();
        map.set(range.start / block..range.end.div_ceil(block), state);
    }

    /// All that was written and set before is durable: the data in `data`, the map in `file` (they may be one). Has to be polled to its end.
    pub async fn flush(&self, data: &dyn Export, file: &dyn Export) -> Result<()> {
        let mine = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let _turn = self.flushing.lock().await;
        if self.done.load(Ordering::Acquire) >= mine {
            return Ok(());
        }
        let through = self.asked.load(Ordering::Acquire);
        let mut taken = Taken { durable: self, pages: self.map_mut().take_changed() };
        data.flush().wait().await?;
        for page in &taken.pages {
            file.write(page.at, page.bytes.clone().into(), false).wait().await?;
        }
        file.flush().wait().await?;
        taken.pages.clear();
        self.done.store(through, Ordering::Release);
        Ok(())
    }
}

/// Pages that were taken, and are taken back if they are not durable in the end: also where nobody waits for that any more.
struct Taken<'a> {
    durable: &'a Durable,
    pages: Vec<Changed>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.pages.is_empty() {
            self.durable.map_mut().untake(&self.pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::{Header, PAGE_LEN, block_for, pages_of, place_of};
    use super::*;
    use crate::error::Result as Ours;
    use afterimage_nbd::export::{Answer, Error, Info, Kind, Parts};
    use bytes::Bytes;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::task::{Context, Waker};

    const SIZE: u64 = 1 << 30;

    /// Notes in which order things are done, and fails when told to.
    #[derive(Clone)]
    struct Noting {
        name: &'static str,
        notes: Arc<std::sync::Mutex<Vec<String>>>,
        file: Arc<std::sync::Mutex<Vec<u8>>>,
        failing: Arc<AtomicBool>,
        stuck: Arc<AtomicBool>,
    }

    impl Noting {
        fn new(name: &'static str, notes: &Arc<std::sync::Mutex<Vec<String>>>) -> Noting {
            let len = place_of(pages_of(SIZE, 4096), 0) as usize;
            let file = Arc::new(std::sync::Mutex::new(vec![0; len]));
            let (failing, stuck) = Default::default();
            Noting { name, notes: Arc::clone(notes), file, failing, stuck }
        }

        fn does(&self, what: &str) -> Answer<()> {
            self.notes.lock().unwrap().push(format!("{} {what}", self.name));
            match self.failing.load(Ordering::Relaxed) {
                true => Answer::err(Error::new(Kind::Io, "it failed")),
                false => Answer::ok(()),
            }
        }
    }

    impl Export for Noting {
        fn info(&self) -> Info {
            Info::writable(SIZE)
        }

        fn read(&self, _: u64, _: u32) -> Answer<Parts> {
            Answer::err(Error::new(Kind::Io, "nobody reads here"))
        }

        fn write(&self, offset: u64, data: Bytes, _: bool) -> Answer<()> {
            self.file.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(&data);
            self.does("write")
        }

        fn flush(&self) -> Answer<()> {
            let done = self.does("sync");
            if self.stuck.load(Ordering::Relaxed) { Answer::later(std::future::pending()) } else { done }
        }
    }

    fn header() -> Header {
        let block = block_for(SIZE).unwrap();
        Header { id: [3; 16], size: SIZE, block, data_at: 0, note: Vec::new() }
    }

    fn load(file: &Noting) -> BlockMap {
        let bytes = file.file.lock().unwrap().clone();
        let read = |at: u64, buffer: &mut [u8]| -> Ours<()> {
            buffer.copy_from_slice(&bytes[at as usize..][..buffer.len()]);
            Ok(())
        };
        BlockMap::load(header(), read).unwrap()
    }

    #[tokio::test]
    async fn n13_data_is_synced_before_the_pages_that_speak_of_it_are_written() {
        let notes = Arc::default();
        let (data, file) = (Noting::new("data", &notes), Noting::new("map", &notes));
        let durable = Durable::new(BlockMap::new(header()));
        durable.set(0..4096, State::Present);
        durable.set(SIZE - 1..SIZE, State::Zero);
        durable.flush(&data, &file).await.unwrap();
        let said: Vec<String> = std::mem::take(&mut notes.lock().unwrap());
        assert_eq!(said, ["data sync", "map write", "map write", "map sync"]);
        let map = load(&file);
        assert_eq!(
            (map.state(0), map.state(1), map.state(SIZE / 4096 - 1)),
            (State::Present, State::Base, State::Zero)
        );
        durable.flush(&data, &file).await.unwrap();
        assert_eq!(*notes.lock().unwrap(), ["data sync", "map sync"], "nothing changed");
    }

    #[tokio::test]
    async fn n13_after_a_flush_that_was_cut_off_the_next_one_spares_the_slot_that_counts() {
        let notes = Arc::default();
        let (data, file) = (Noting::new("data", &notes), Noting::new("map", &notes));
        let durable = Durable::new(BlockMap::new(header()));
        durable.set(0..4096, State::Present);
        durable.flush(&data, &file).await.unwrap();
        let slots = || {
            let bytes = file.file.lock().unwrap();
            [0, 1].map(|slot| bytes[place_of(0, slot) as usize..][..PAGE_LEN].to_vec())
        };
        let before = slots();
        let counts = before.iter().position(|slot| slot.iter().any(|byte| *byte != 0)).unwrap();
        durable.set(4096..8192, State::Present);
        data.stuck.store(true, Ordering::Relaxed);
        {
            let cut_off = std::pin::pin!(durable.flush(&data, &file));
            assert!(cut_off.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        data.stuck.store(false, Ordering::Relaxed);
        durable.set(8192..12288, State::Present);
        durable.flush(&data, &file).await.unwrap();
        assert_eq!(slots()[counts], before[counts]);
        let map = load(&file);
        assert!((0..3).all(|block| map.state(block) == State::Present));
    }

    #[tokio::test]
    async fn n13_where_data_can_not_be_synced_no_page_speaks_of_it_until_it_can() {
        let notes = Arc::default();
        let (data, file) = (Noting::new("data", &notes), Noting::new("map", &notes));
        let durable = Durable::new(BlockMap::new(header()));
        durable.set(0..4096, State::Present);
        data.failing.store(true, Ordering::Relaxed);
        assert!(durable.flush(&data, &file).await.is_err());
        assert_eq!(*notes.lock().unwrap(), ["data sync"]);
        assert_eq!(load(&file).state(0), State::Base);
        data.failing.store(false, Ordering::Relaxed);
        file.failing.store(true, Ordering::Relaxed);
        assert!(durable.flush(&data, &file).await.is_err());
        file.failing.store(false, Ordering::Relaxed);
        durable.flush(&data, &file).await.unwrap();
        assert_eq!(load(&file).state(0), State::Present);
    }
}
