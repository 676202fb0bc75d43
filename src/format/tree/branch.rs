//! What a node above the entries of a large directory says of each node below it.
//!
//! ```text
//! below  := first[short] rows[u64] totals id[32]
//! totals := files[u64] directories[u64] bytes[u64]
//! ```
//!
//! `first` is the first name below; so a name is looked up with one node of each level, and so is the n-th entry.

use super::entry::judge_name;
use super::{Input, NextPlace, OUT_OF_ORDER, put_short};
use crate::format::node::Child;
use crate::format::{Corrupt, limits, put_u64};
use bytes::Bytes;

/// A node below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// The first name in it.
    pub first: Bytes,
    /// How many entries of the directory it holds.
    pub rows: u64,
    /// What lies below those.
    pub totals: Totals,
    /// The node.
    pub child: Child,
}

/// What lies below something, at any depth, and itself. Names of one file are counted each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Everything that is no directory.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of regular files, holes included.
    pub bytes: u64,
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Totals>>(all: I) -> Totals {
        all.fold(Totals::default(), |sum, one| Totals {
            files: sum.files.saturating_add(one.files),
            directories: sum.directories.saturating_add(one.directories),
            bytes: sum.bytes.saturating_add(one.bytes),
        })
    }
}

impl Totals {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        [self.files, self.directories, self.bytes].into_iter().for_each(|number| put_u64(out, number));
    }

    pub(super) fn parse(at: &mut Input<'_>) -> Result<Totals, Corrupt> {
        Ok(Totals { files: at.u64()?, directories: at.u64()?, bytes: at.u64()? })
    }
}

impl Below {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_short(out, &self.first);
        put_u64(out, self.rows);
        self.totals.put(out);
        out.extend_from_slice(&self.child.id.0);
    }
}

pub(super) fn parse(at: &mut Input<'_>) -> Result<Vec<Below>, Corrupt> {
    let count = at.count("rows of a tree node", limits::TREE_ROWS_MAX)?;
    if count == 0 {
        return Err(Corrupt::EmptyEntry);
    }
    let mut all: Vec<Below> = Vec::with_capacity(count.into());
    for _ in 0..count {
        let below =
            Below { first: at.short()?, rows: at.u64()?, totals: Totals::parse(at)?, child: at.child()? };
        judge_name(&below.first)?;
        if below.rows == 0 {
            return Err(Corrupt::EmptyEntry);
        }
        if all.last().is_some_and(|before| before.first >= below.first) {
            return Err(OUT_OF_ORDER);
        }
        all.push(below);
    }
    Ok(all)
}

pub(super) fn placed(mut all: Vec<Below>, places: &mut NextPlace<'_>) -> Result<Vec<Below>, Corrupt> {
    all.iter_mut().try_for_each(|below| places.give(&mut below.child))?;
    Ok(all)
}
