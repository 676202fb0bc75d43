//! Sightings: by what a later run recognises a file that nobody touched. They stand beside a node of a directory, row by row.
//!
//! ```text
//! sightings := of[32] count[u16] sighting*
//! sighting  := flags[u8] ( inode[u64] ctime[time] )? id[32]?       flags: 1 inode and ctime follow, 2 an id follows
//! ```
//!
//! They belong to the source, not to what was in it, and change when a file is copied, restored or touched. In the nodes of the
//! directory they would make equal content unequal; beside them they cost nobody anything but the next run of the same source.
//! Readers of a backup never need them.

use super::entry::Time;
use super::{Input, NextPlace, Referred, put_count, tree};
use crate::format::node::Child;
use crate::format::{ChunkId, Corrupt, limits, put_u64};

/// The sightings beside one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sightings {
    /// The node beside which they stand.
    pub of: ChunkId,
    /// One for each of its rows.
    pub rows: Vec<Sighting>,
}

/// What was seen of one row: of an entry, itself and (for a directory) what stands beside its node; of a node below, the latter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// By what the file is recognised; nothing: it is to be read again.
    pub spot: Option<Spot>,
    /// The sightings beside the node that the row refers to.
    pub below: Option<Child>,
}

/// By what a file is recognised, together with its size and its time of modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Its inode number.
    pub inode: u64,
    /// When anything of it was changed.
    pub ctime: Time,
}

const SPOT: u8 = 1;
const BELOW: u8 = 2;

impl Sightings {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.of.0);
        put_count(out, self.rows.len());
        for row in &self.rows {
            let flags = [row.spot.map(|_| SPOT), row.below.map(|_| BELOW)].into_iter().flatten();
            out.push(flags.fold(0, |flags, flag| flags | flag));
            if let Some(spot) = &row.spot {
                put_u64(out, spot.inode);
                spot.ctime.put(out);
            }
            if let Some(below) = &row.below {
                out.extend_from_slice(&below.id.0);
            }
        }
    }

    pub(super) fn children(&self) -> impl Iterator<Item = Referred> + '_ {
        self.rows.iter().filter_map(|row| row.below.map(tree))
    }

    pub(super) fn parse(at: &mut Input<'_>) -> Result<Sightings, Corrupt> {
        let of = ChunkId(at.array()?);
        let count = at.count("rows of a tree node", limits::TREE_ROWS_MAX)?;
        let mut rows = Vec::with_capacity(count.into());
        for _ in 0..count {
            let flags = at.u8()?;
            if flags & !(SPOT | BELOW) != 0 {
                return Err(Corrupt::NotZero { found: flags.into() });
            }
            let spot = match flags & SPOT {
                0 => None,
                _ => Some(Spot { inode: at.u64()?, ctime: Time::parse(at)? }),
            };
            let below = if flags & BELOW == 0 { None } else { Some(at.child()?) };
            rows.push(Sighting { spot, below });
        }
        Ok(Sightings { of, rows })
    }

    pub(super) fn placed(mut self, places: &mut NextPlace<'_>) -> Result<Sightings, Corrupt> {
        for row in &mut self.rows {
            if let Some(below) = &mut row.below {
                places.give(below)?;
            }
        }
        Ok(self)
    }
}
