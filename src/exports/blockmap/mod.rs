//! Which blocks of something are here, which are zero, and which are still elsewhere: an explicit map, because holes in a file say nothing.
//!
//! A [`BlockMap`] is held in memory, in pages that exist once one of their blocks has a state. For a map that has to survive a crash the owner
//! takes the pages that changed ([`BlockMap::take_changed`]), makes durable what they speak of, writes and syncs the pages, and only then
//! answers whoever waits; [`Durable`] does just that. Each page has two slots that are written in turns, so one that was torn costs nothing.
//! `page` is the bytes.

mod durable;
pub mod page;

pub use durable::Durable;

use crate::error::{Error, Kind, Result};
use page::{Header, PAGE_BLOCKS, PAGE_LEN, STATES_LEN, pages_of, parse_page, place_of, write_page};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was written to it: it is what lies below.
    Base,
    /// It is here.
    Present,
    /// It is zero.
    Zero,
}

impl State {
    fn bits(self) -> u8 {
        match self {
            State::Base => 0,
            State::Present => 1,
            State::Zero => 2,
        }
    }

    fn of(bits: u8) -> State {
        match bits & 3 {
            1 => State::Present,
            2 => State::Zero,
            _ => State::Base,
        }
    }
}

struct Held {
    states: Box<[u8; STATES_LEN]>,
    sequence: u64,
}

impl Held {
    fn state(&self, block: usize) -> State {
        State::of(self.states[block / 4] >> (2 * (block % 4)))
    }

    /// The first block from `from` on that has another state.
    fn same_until(&self, from: usize, state: State) -> usize {
        let (mut at, whole) = (from, state.bits() * 0x55);
        while at < 4 * STATES_LEN {
            if at.is_multiple_of(4) && self.states[at / 4] == whole {
                at += 4;
            } else if self.state(at) == state {
                at += 1;
            } else {
                break;
            }
        }
        at
    }

    /// Whether that changed anything.
    fn fill(&mut self, blocks: Range<usize>, state: State) -> bool {
        let mut changed = false;
        let mut at = blocks.start;
        while at < blocks.end {
            let (byte, first) = (at / 4, at % 4);
            let last = (first + (blocks.end - at)).min(4);
            let mask = (first..last).fold(0u8, |mask, place| mask | (3 << (2 * place)));
            let new = (self.states[byte] & !mask) | ((state.bits() * 0x55) & mask);
            changed |= new != self.states[byte];
            self.states[byte] = new;
            at += last - first;
        }
        changed
    }
}

/// A page as it has to be written, and where.
pub struct Changed {
    /// Which page.
    pub number: u64,
    /// Where in the file.
    pub at: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The states of all blocks.
pub struct BlockMap {
    header: Header,
    pages: BTreeMap<u64, Held>,
    changed: BTreeSet<u64>,
}

impl BlockMap {
    /// A map in which all blocks are those below.
    pub fn new(header: Header) -> BlockMap {
        BlockMap { header, pages: BTreeMap::new(), changed: BTreeSet::new() }
    }

    /// Reads a map by what gives the bytes at a place of its file.
    pub fn load(header: Header, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<BlockMap> {
        let mut map = BlockMap::new(header);
        let mut slots = vec![0; 2 * PAGE_LEN];
        for number in 0..pages_of(map.header.size, map.header.block) {
            read(place_of(number, 0), &mut slots)?;
            let (first, second) = slots.split_at(PAGE_LEN);
            let parsed = [first, second].map(|slot| parse_page(slot, &map.header.id, number));
            let page = match parsed {
                [Ok(Some(one)), Ok(Some(other))] => {
                    Some(if one.sequence > other.sequence { one } else { other })
                }
                // The other one was torn while it was written for the first time, or again.
                [Ok(one), Ok(None) | Err(_)] => one,
                [Ok(None) | Err(_), Ok(other)] => other,
                [Err(why), Err(_)] => {
                    return Err(Error::new(Kind::Corrupt, format!("page {number} of the map: {why}")));
                }
            };
            if let Some(page) = page {
                let held = Held { states: page.states, sequence: page.sequence };
                let _new = map.pages.insert(number, held);
            }
        }
        Ok(map)
    }

    /// What it belongs to.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of one block.
    pub fn block(&self) -> u64 {
        self.header.block.into()
    }

    /// The state of a block.
    pub fn state(&self, block: u64) -> State {
        let Some(page) = self.pages.get(&(block / PAGE_BLOCKS)) else { return State::Base };
        page.state((block % PAGE_BLOCKS) as usize)
    }

    /// The state of what lies at `offset`, and up to where, at most `end`, it is the same.
    pub fn run(&self, offset: u64, end: u64) -> (State, u64) {
        let (block, last) = (self.block(), end.div_ceil(self.block()));
        let state = self.state(offset / block);
        let mut next = offset / block + 1;
        while next < last {
            let number = next / PAGE_BLOCKS;
            match self.pages.get(&number) {
                None if state != State::Base => break,
                None => {
                    // Nothing was written up to where the next page begins.
                    let there = self.pages.range(number..).next().map_or(u64::MAX, |(number, _)| *number);
                    next = there.saturating_mul(PAGE_BLOCKS).min(last);
                }
                Some(page) => {
                    let stop = page.same_until((next % PAGE_BLOCKS) as usize, state) as u64;
                    next = number * PAGE_BLOCKS + stop;
                    if stop < PAGE_BLOCKS {
                        break;
                    }
                }
            }
        }
        (state, next.min(last).saturating_mul(block).min(end))
    }

    /// Sets the state of some blocks.
    pub fn set(&mut self, blocks: Range<u64>, state: State) {
        let mut at = blocks.start;
        while at < blocks.end {
            let (number, first) = (at / PAGE_BLOCKS, at % PAGE_BLOCKS);
            let end = (first + (blocks.end - at)).min(PAGE_BLOCKS);
            at += end - first;
            if state == State::Base && !self.pages.contains_key(&number) {
                continue;
            }
            let fresh = || Held { states: Box::new([0; STATES_LEN]), sequence: 0 };
            let page = self.pages.entry(number).or_insert_with(fresh);
            if page.fill(first as usize..end as usize, state) {
                let _new = self.changed.insert(number);
            }
        }
    }

    /// The pages that changed since they were taken last, as they are now.
    pub fn take_changed(&mut self) -> Vec<Changed> {
        let mut taken = Vec::with_capacity(self.changed.len());
        for number in std::mem::take(&mut self.changed) {
            let Some(page) = self.pages.get_mut(&number) else { continue };
            page.sequence += 1;
            let bytes = write_page(&self.header.id, number, page.sequence, &page.states);
            taken.push(Changed { number, at: place_of(number, (page.sequence % 2) as u8), bytes });
        }
        taken
    }

    /// Pages that were taken could not be written; they are to be taken again.
    pub fn untake(&mut self, pages: &[Changed]) {
        for page in pages {
            // The slot that counts now must not be the next one to be written.
            if let Some(held) = self.pages.get_mut(&page.number) {
                held.sequence += 1;
            }
            let _new = self.changed.insert(page.number);
        }
    }

    /// Bytes of blocks that are here or zero.
    pub fn written_bytes(&self) -> u64 {
        let some = |page: &Held| {
            page.states.iter().map(|byte| u64::from(((byte | (byte >> 1)) & 0x55).count_ones())).sum::<u64>()
        };
        self.pages.values().map(some).sum::<u64>() * self.block()
    }

    /// Bytes of blocks that are here.
    pub fn present_bytes(&self) -> u64 {
        let ones =
            |page: &Held| page.states.iter().map(|byte| u64::from((byte & 0x55).count_ones())).sum::<u64>();
        self.pages.values().map(ones).sum::<u64>() * self.block()
    }
}

#[cfg(test)]
mod tests;
