//! One segment, open: rows by id, and all rows in order.
//!
//! Head, groups and fan-out are verified when it is opened; rows and packs, block by block, each time they are touched. So a
//! segment answers with what was written, or with [`Damaged`].

use super::Row;
use super::layout::{self, BLOCK, Head, KEY, PACK, ROW};
use super::map::Bytes;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// The most places that one segment answers with for one id. More is no use to anyone and would be somebody's trick.
const PLACES_MAX: u64 = 1024;

/// Not what was written, or not readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

impl From<std::io::Error> for Damaged {
    fn from(_: std::io::Error) -> Damaged {
        Damaged
    }
}

/// The rows of one `add`, and the names that they stand for.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) names: Vec<String>,
    dead: AtomicBool,
}

impl Group {
    /// Whether its rows still count.
    pub(super) fn is_live(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }

    /// Takes its rows out of all answers.
    pub(super) fn bury(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }
}

/// A complete segment.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    bytes: Bytes,
    head: Head,
    groups: Vec<Group>,
    by_name: HashMap<String, usize>,
    damaged: AtomicBool,
}

impl Segment {
    /// Opens a complete file; `path` is where it is, or was.
    pub(super) fn open(file: File, path: &Path) -> Result<Segment, Damaged> {
        let bytes = Bytes::of(file)?;
        let mut first = [0; BLOCK];
        bytes.read_at(0, &mut first)?;
        let head = Head::parse(&first, bytes.len()).ok_or(Damaged)?;
        let groups = verified_groups(&bytes, &head)?;
        let by_name =
            groups.iter().enumerate().flat_map(|(n, names)| names.iter().map(move |name| (name.clone(), n)));
        let by_name = by_name.collect();
        let groups = groups.into_iter().map(|names| Group { names, dead: AtomicBool::new(false) }).collect();
        Ok(Segment { path: path.to_owned(), bytes, head, groups, by_name, damaged: AtomicBool::new(false) })
    }

    /// Where it is, or was.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows it has.
    pub(super) fn rows(&self) -> u64 {
        self.head.rows
    }

    /// Its groups, by number.
    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether live rows of this segment stand for the object `name`.
    pub(super) fn covers(&self, name: &str) -> bool {
        let group = self.by_name.get(name).and_then(|n| self.groups.get(*n));
        !self.is_damaged() && group.is_some_and(Group::is_live)
    }

    /// Whether damage was met in it.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Remembers damage, so that nobody asks it again.
    pub(super) fn condemn(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Adds the places of `id` to `found`.
    pub(super) fn lookup(&self, id: &[u8; 32], found: &mut Vec<Row>) -> Result<(), Damaged> {
        if self.is_damaged() {
            return Ok(());
        }
        let (mut low, end) = self.candidates(id)?;
        let mut at = Reader::<ROW>::new(self, self.head.rows_block().ok_or(Damaged)?);
        let key = &id[..KEY];
        let mut high = end;
        while low < high {
            let middle = low + (high - low) / 2;
            if &at.record(middle)?[..KEY] < key { low = middle + 1 } else { high = middle }
        }
        for n in low..end.min(low.saturating_add(PLACES_MAX)) {
            let row = at.record(n)?;
            if &row[..KEY] != key {
                break;
            }
            found.extend(self.resolved(id, row)?);
        }
        Ok(())
    }

    /// The numbers of the rows among which those of `id` are.
    fn candidates(&self, id: &[u8; 32]) -> Result<(u64, u64), Damaged> {
        let entry = layout::entry_of(id, self.head.bits);
        let at = self.head.fan_out_block().ok_or(Damaged)? * BLOCK as u64 + entry * 4;
        let bounds = self.bytes.slice(at, 8)?;
        let bound =
            |n: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|byte| bounds[n * 4 + byte])));
        let (low, high) = (bound(0), bound(1));
        if low <= high && high <= self.head.rows { Ok((low, high)) } else { Err(Damaged) }
    }

    /// The row with its pack's id instead of its number; `None` if its group is buried.
    fn resolved(&self, id: &[u8; 32], row: &[u8]) -> Result<Option<Row>, Damaged> {
        let (number, offset, len) = layout::place_in_row(row).ok_or(Damaged)?;
        if u64::from(number) >= self.head.packs {
            return Err(Damaged);
        }
        let mut table = Reader::<PACK>::new(self, self.head.packs_block().ok_or(Damaged)?);
        let (pack, group) = layout::split_pack(table.record(u64::from(number))?).ok_or(Damaged)?;
        let group = self.groups.get(group as usize).ok_or(Damaged)?;
        Ok(group.is_live().then_some(Row { id: *id, pack, offset, len }))
    }

    /// All rows, in order.
    pub(super) fn scan_rows(&self) -> Scan<'_, ROW> {
        Scan::new(self, self.head.rows_block(), self.head.rows)
    }

    /// The table of packs, in order.
    pub(super) fn scan_packs(&self) -> Scan<'_, PACK> {
        Scan::new(self, self.head.packs_block(), self.head.packs)
    }

    /// Adds the packs whose rows are live to `found`, as far as the table can be read.
    pub(super) fn live_packs(&self, found: &mut Vec<[u8; 16]>) {
        let is_live = |group: u32| self.groups.get(group as usize).is_some_and(Group::is_live);
        let mut table = self.scan_packs();
        while let Ok(Some(record)) = table.next() {
            found.extend(
                layout::split_pack(&record).filter(|(_, group)| is_live(*group)).map(|(pack, _)| pack),
            );
        }
    }

    /// How many packs its table has.
    pub(super) fn packs(&self) -> u64 {
        self.head.packs
    }
}

/// Reads groups and fan-out and holds them against the head's sum.
fn verified_groups(bytes: &Bytes, head: &Head) -> Result<Vec<Vec<String>>, Damaged> {
    let mut sum = Xxh3::new();
    let mut groups = vec![0; head.groups_len as usize]; // at most 64 MiB, and no more than the file has
    bytes.read_at(BLOCK as u64, &mut groups)?;
    sum.update(&groups);
    let mut at = head.fan_out_block().ok_or(Damaged)? * BLOCK as u64;
    let end = at + head.fan_out_len().ok_or(Damaged)?;
    let mut piece = vec![0; 256 << 10];
    while at < end {
        let len = piece.len().min((end - at) as usize);
        bytes.read_at(at, &mut piece[..len])?;
        sum.update(&piece[..len]);
        at += len as u64;
    }
    if sum.digest() != head.sum {
        return Err(Damaged);
    }
    layout::split_groups(&groups).ok_or(Damaged)
}

/// Records of `W` bytes by number; a block is verified once for as long as we stay in it.
struct Reader<'a, const W: usize> {
    segment: &'a Segment,
    first_block: u64,
    block: u64,
    content: Cow<'a, [u8]>,
}

impl<'a, const W: usize> Reader<'a, W> {
    fn new(segment: &'a Segment, first_block: u64) -> Reader<'a, W> {
        Reader { segment, first_block, block: 0, content: Cow::Borrowed(&[]) }
    }

    fn record(&mut self, number: u64) -> Result<&[u8], Damaged> {
        let per_block = layout::per_block(W) as u64;
        let block = self.first_block + number / per_block;
        if self.block != block {
            self.content = self.segment.bytes.slice(block * BLOCK as u64, BLOCK)?;
            if !layout::is_whole(self.segment.head.salt, block, &self.content) {
                return Err(Damaged);
            }
            self.block = block; // never 0: the head's
        }
        let at = (number % per_block) as usize * W;
        Ok(&self.content[at..at + W])
    }
}

/// All records of a table, read in long runs beside the map.
pub(super) struct Scan<'a, const W: usize> {
    segment: &'a Segment,
    block: Option<u64>,
    left: u64,
    run: Vec<u8>,
    at: usize,
}

impl<'a, const W: usize> Scan<'a, W> {
    const RUN: usize = 32 * BLOCK;

    fn new(segment: &'a Segment, block: Option<u64>, left: u64) -> Scan<'a, W> {
        Scan { segment, block, left, run: Vec::new(), at: 0 }
    }

    /// The next record; `None` behind the last.
    pub(super) fn next(&mut self) -> Result<Option<[u8; W]>, Damaged> {
        if self.left == 0 {
            return Ok(None);
        }
        let per_block = layout::per_block(W);
        if self.at == self.run.len() / BLOCK * per_block {
            self.fill()?;
        }
        let start = self.at / per_block * BLOCK + self.at % per_block * W;
        self.at += 1;
        self.left -= 1;
        Ok(Some(std::array::from_fn(|byte| self.run[start + byte])))
    }

    fn fill(&mut self) -> Result<(), Damaged> {
        let block = self.block.ok_or(Damaged)?;
        let blocks = self.left.div_ceil(layout::per_block(W) as u64) as usize;
        self.run.resize(Self::RUN.min(blocks.saturating_mul(BLOCK)), 0);
        self.segment.bytes.read_at(block * BLOCK as u64, &mut self.run)?;
        for (number, content) in (block..).zip(self.run.chunks(BLOCK)) {
            if !layout::is_whole(self.segment.head.salt, number, content) {
                return Err(Damaged);
            }
        }
        self.block = Some(block + (self.run.len() / BLOCK) as u64);
        self.at = 0;
        Ok(())
    }
}
