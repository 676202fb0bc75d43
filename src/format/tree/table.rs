//! The tables that the entries of a node share, owners and sets of attributes; and all entries of a node, there and back.
//!
//! Both tables stand in the order in which the entries first use them, none twice and none in vain, so that equal entries make equal nodes.

use super::attributes::{self, Attributes, RawSet};
use super::entry::{Entry, Owner, Raw, judge_name};
use super::{Input, NextPlace, OUT_OF_ORDER, Referred, TreeNode, put_count};
use crate::format::{Corrupt, limits};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

pub(super) const OUT_OF_TURN: Corrupt =
    Corrupt::Field { what: "table of a tree node", wanted: "in the order of use, nothing twice or in vain" };

/// Numbers things in the order in which they first come.
struct Numbered<T> {
    all: Vec<T>,
    numbers: HashMap<T, usize>,
}

impl<T: Clone + Eq + Hash> Numbered<T> {
    fn new() -> Numbered<T> {
        Numbered { all: Vec::new(), numbers: HashMap::new() }
    }

    fn number(&mut self, one: T) -> usize {
        let next = self.all.len();
        let number = *self.numbers.entry(one.clone()).or_insert(next);
        if number == next {
            self.all.push(one);
        }
        number
    }
}

/// Owners, sets of attributes, entries.
pub(super) fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    let (mut owners, mut sets) = (Numbered::new(), Numbered::new());
    let numbers: Vec<(usize, Option<usize>)> = entries
        .iter()
        .map(|entry| (owners.number(&*entry.owner), set_of(entry).map(|set| sets.number(set))))
        .collect();
    put_count(out, owners.all.len());
    owners.all.iter().for_each(|owner| owner.put(out));
    let sets: Vec<&Attributes> = sets.all.iter().map(|set| set.0).collect();
    attributes::put_sets(out, &sets);
    put_count(out, entries.len());
    for (entry, (owner, set)) in entries.iter().zip(numbers) {
        entry.put(out, owner, set);
    }
}

pub(super) fn children(entries: &[Entry]) -> Vec<Referred> {
    let mut sets = Numbered::new();
    for set in entries.iter().filter_map(set_of) {
        let _number = sets.number(set);
    }
    let of_sets = sets.all.iter().flat_map(|set| attributes::set_children(set.0));
    of_sets.chain(entries.iter().filter_map(Entry::child)).collect()
}

/// A set of attributes, told from others by what it says.
#[derive(Clone, Copy)]
struct SetKey<'a>(&'a Attributes);

fn set_of(entry: &Entry) -> Option<SetKey<'_>> {
    (entry.attributes != Attributes::None).then_some(SetKey(&entry.attributes))
}

impl SetKey<'_> {
    /// What the set says, without places.
    fn canon(&self) -> Vec<u8> {
        let mut out = Vec::new();
        attributes::put_sets(&mut out, &[self.0]);
        out
    }
}

impl PartialEq for SetKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.canon() == other.canon()
    }
}

impl Eq for SetKey<'_> {}

impl Hash for SetKey<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.canon().hash(state);
    }
}

/// Entries and their tables, before places were read.
pub(super) struct Entries {
    owners: Vec<Owner>,
    sets: Vec<RawSet>,
    rows: Vec<Raw>,
}

impl Entries {
    pub(super) fn parse(at: &mut Input<'_>) -> Result<Entries, Corrupt> {
        let count = at.count("rows of a tree node", limits::TREE_ROWS_MAX)?;
        let owners = (0..count).map(|_| Owner::parse(at)).collect::<Result<Vec<_>, _>>()?;
        let sets = attributes::parse_sets(at)?;
        let count = at.count("rows of a tree node", limits::TREE_ROWS_MAX)?;
        let rows = (0..count).map(|_| Entry::parse(at)).collect::<Result<Vec<_>, _>>()?;
        let entries = Entries { owners, sets, rows };
        entries.judge_tables()?;
        Ok(entries)
    }

    fn judge_tables(&self) -> Result<(), Corrupt> {
        in_turn(self.rows.iter().map(|row| row.owner), self.owners.len())?;
        in_turn(self.rows.iter().filter_map(|row| row.set), self.sets.len())?;
        let mut seen = HashSet::new();
        if self.owners.iter().all(|owner| seen.insert(owner)) { Ok(()) } else { Err(OUT_OF_TURN) }
    }

    pub(super) fn judge_names(&self) -> Result<(), Corrupt> {
        self.rows.iter().try_for_each(|row| judge_name(&row.entry.name))?;
        let ascending = self.rows.is_sorted_by(|one, next| one.entry.name < next.entry.name);
        if ascending { Ok(()) } else { Err(OUT_OF_ORDER) }
    }

    /// The top has one entry, a directory without a name.
    pub(super) fn judge_top(&self) -> Result<(), Corrupt> {
        match self.rows.as_slice() {
            [Raw { entry, .. }] if entry.name.is_empty() && entry.is_directory() => Ok(()),
            _ => Err(Corrupt::Field { what: "top of a tree", wanted: "one directory without a name" }),
        }
    }

    /// The entries, with owners, attributes and places.
    pub(super) fn placed(self, places: &mut NextPlace<'_>) -> Result<Vec<Entry>, Corrupt> {
        let owners: Vec<Arc<Owner>> = self.owners.into_iter().map(Arc::new).collect();
        let sets = self.sets.into_iter().map(|set| set.placed(places)).collect::<Result<Vec<_>, _>>()?;
        let mut seen = HashSet::new();
        if !sets.iter().all(|set| seen.insert(SetKey(set))) {
            return Err(OUT_OF_TURN);
        }
        let finish = |raw: Raw| {
            let mut entry = raw.entry;
            entry.owner = owners.get(usize::from(raw.owner)).cloned().ok_or(OUT_OF_TURN)?;
            if let Some(set) = raw.set {
                entry.attributes = sets.get(usize::from(set)).cloned().ok_or(OUT_OF_TURN)?;
            }
            if let Some(child) = entry.child_mut() {
                places.give(child)?;
            }
            Ok(entry)
        };
        self.rows.into_iter().map(finish).collect()
    }

    pub(super) fn placed_top(self, places: &mut NextPlace<'_>) -> Result<TreeNode, Corrupt> {
        let mut entries = self.placed(places)?;
        entries.pop().map(TreeNode::Top).ok_or(Corrupt::EmptyEntry)
    }
}

/// Numbers into a table of `len` come in the order of the table, and all are used.
fn in_turn(numbers: impl Iterator<Item = u16>, len: usize) -> Result<(), Corrupt> {
    let mut next = 0usize;
    for number in numbers.map(usize::from) {
        if number > next {
            return Err(OUT_OF_TURN);
        }
        next = next.max(number.saturating_add(1));
    }
    if next == len { Ok(()) } else { Err(OUT_OF_TURN) }
}
