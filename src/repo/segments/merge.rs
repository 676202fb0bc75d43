//! Many into one: unsorted rows into sorted runs, sorted segments into one segment. Memory is bounded in both.
//!
//! A merge keeps four bytes for each pack of its inputs (a 256th of its rows, or so) and a run of blocks for each input. It drops what
//! is twice and what belongs to buried groups.

use super::Row;
use super::build;
use super::layout::{self, RawPack, RawRow};
use super::segment::{Damaged, Scan, Segment};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Rows that are sorted at a time: 18 MiB of them.
pub(super) const RUN_ROWS: usize = 512 << 10;

/// Why a merge did not come to its end.
#[derive(Debug)]
pub(super) enum Halt {
    /// This input is damaged.
    Damaged(usize),
    /// The output can't be written.
    Output(io::Error),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Halt {
        Halt::Output(error)
    }
}

/// The next rows, at most [`RUN_ROWS`], into `file` as one segment; `None` if there are none. Returns the segment's name.
pub(super) fn sort_run(
    rows: &mut impl Iterator<Item = Row>,
    names: &[String],
    file: &File,
) -> io::Result<Option<String>> {
    let mut packs: HashMap<[u8; 16], u32> = HashMap::new();
    let mut run: Vec<RawRow> = Vec::new();
    for row in rows.take(RUN_ROWS) {
        let next = packs.len() as u32; // no more packs than rows of a run
        let number = *packs.entry(row.pack).or_insert(next);
        run.push(layout::raw_row(&row.id, number, row.offset, row.len));
    }
    if run.is_empty() {
        return Ok(None);
    }
    let mut order: Vec<([u8; 16], u32)> = packs.into_iter().collect();
    order.sort_unstable();
    let mut numbers = vec![0; order.len()];
    let mut out = build::begin(file, &[names.to_vec()], kin_of(&run))?;
    for (pack, met_as) in order {
        numbers[met_as as usize] = out.push(&layout::raw_pack(&pack, 0))?;
    }
    for row in &mut run {
        *row = layout::with_pack(*row, renumbered(row, &numbers).unwrap_or_default());
    }
    run.sort_unstable();
    run.dedup();
    let mut out = out.rows(run.len() as u64)?;
    run.iter().try_for_each(|row| out.push(row))?;
    out.finish().map(Some)
}

/// A segment without rows: all that is known of these objects is that nothing is in them.
pub(super) fn empty(names: &[String], file: &File) -> io::Result<String> {
    build::begin(file, &[names.to_vec()], 0)?.rows(0)?.finish()
}

/// Something that differs between segments of the same groups.
fn kin_of(rows: &[RawRow]) -> u64 {
    rows.iter().take(64).fold(rows.len() as u64, |kin, row| xxhash_rust::xxh3::xxh3_64_with_seed(row, kin))
}

fn renumbered(row: &RawRow, numbers: &[u32]) -> Option<u32> {
    let (number, ..) = layout::place_in_row(row)?;
    numbers.get(number as usize).copied().filter(|number| *number != GONE)
}

/// Stands for the number of a pack whose group is buried.
const GONE: u32 = u32::MAX;

/// All live rows of `inputs` into `file` as one segment. Returns its name.
pub(super) fn merge(inputs: &[Arc<Segment>], file: &File) -> Result<String, Halt> {
    let (groups, group_numbers) = joined_groups(inputs);
    let rows = inputs.iter().map(|input| input.rows()).sum();
    let kin = inputs.iter().fold(0, |kin: u64, input| kin.rotate_left(7) ^ input.rows());
    let mut out = build::begin(file, &groups, kin)?;

    let mut pack_numbers: Vec<Vec<u32>> =
        inputs.iter().map(|input| vec![GONE; input.packs() as usize]).collect();
    let live_pack = |from: usize, entry: &RawPack| {
        let (pack, group) = layout::split_pack(entry)?;
        let group = *group_numbers[from].get(group as usize)?;
        (group != GONE).then(|| layout::raw_pack(&pack, group))
    };
    let mut packs = Join::new(inputs.iter().map(|input| input.scan_packs()).collect(), live_pack)?;
    let (mut last, mut number) = (None, GONE);
    while let Some((entry, from, nth)) = packs.next()? {
        if last != Some(entry) {
            number = out.push(&entry)?;
            last = Some(entry);
        }
        pack_numbers[from][nth] = number;
    }

    let mut out = out.rows(rows)?;
    let live_row = |from: usize, row: &RawRow| {
        renumbered(row, &pack_numbers[from]).map(|number| layout::with_pack(*row, number))
    };
    let mut all = Join::new(inputs.iter().map(|input| input.scan_rows()).collect(), live_row)?;
    let mut last = None;
    while let Some((row, _, _)) = all.next()? {
        if last != Some(row) {
            out.push(&row)?;
            last = Some(row);
        }
    }
    Ok(out.finish()?)
}

/// The live groups of all inputs, sorted, and for each input the new numbers of its groups.
fn joined_groups(inputs: &[Arc<Segment>]) -> (Vec<Vec<String>>, Vec<Vec<u32>>) {
    let live = inputs.iter().flat_map(|input| input.groups()).filter(|group| group.is_live());
    let mut joined: BTreeMap<&[String], u32> = live.map(|group| (group.names.as_slice(), 0)).collect();
    joined.values_mut().zip(0..).for_each(|(number, n)| *number = n);
    // By name, so that a group that is buried between these two lines is kept whole until the next merge.
    let number_of = |names: &[String]| joined.get(names).copied().unwrap_or(GONE);
    let numbers = inputs
        .iter()
        .map(|input| input.groups().iter().map(|group| number_of(&group.names)).collect())
        .collect();
    (joined.keys().map(|names| names.to_vec()).collect(), numbers)
}

/// Records of several scans as one ascending sequence, after `translate` made them comparable or dropped them.
///
/// `translate` must keep the order within each scan.
struct Join<'a, const W: usize, F> {
    scans: Vec<(Scan<'a, W>, usize)>,
    translate: F,
    heads: BinaryHeap<Reverse<([u8; W], usize, usize)>>,
    taken_from: Option<usize>,
}

impl<'a, const W: usize, F: Fn(usize, &[u8; W]) -> Option<[u8; W]>> Join<'a, W, F> {
    fn new(scans: Vec<Scan<'a, W>>, translate: F) -> Result<Self, Halt> {
        let scans: Vec<_> = scans.into_iter().map(|scan| (scan, 0)).collect();
        let heads = BinaryHeap::with_capacity(scans.len());
        let mut join = Join { scans, translate, heads, taken_from: None };
        (0..join.scans.len()).try_for_each(|from| join.advance(from))?;
        Ok(join)
    }

    /// The least record left, which scan it is from, and its number there.
    fn next(&mut self) -> Result<Option<([u8; W], usize, usize)>, Halt> {
        if let Some(from) = self.taken_from.take() {
            self.advance(from)?;
        }
        let least = self.heads.pop().map(|Reverse(least)| least);
        self.taken_from = least.map(|(_, from, _)| from);
        Ok(least)
    }

    fn advance(&mut self, from: usize) -> Result<(), Halt> {
        let (scan, number) = &mut self.scans[from];
        while let Some(record) = scan.next().map_err(|Damaged| Halt::Damaged(from))? {
            *number += 1;
            if let Some(record) = (self.translate)(from, &record) {
                self.heads.push(Reverse((record, from, *number - 1)));
                break;
            }
        }
        Ok(())
    }
}
