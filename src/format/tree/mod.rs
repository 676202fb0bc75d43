//! Tree nodes: what a directory holds, and how a later backup recognises what nobody touched.
//!
//! ```text
//! node  := canon places
//! canon := version[u8] sort[u8] level[u8] zero[u8] body
//! body  := sort 0, level 0   owners sets count[u16] entry*     some entries of a directory (`entry`, `attributes`)
//!          sort 0, level 1.. count[u16] below*                 nodes of one level less, which hold some entries each (`branch`)
//!          sort 1            owners sets count[u16] entry      the top: the root directory itself, without a name
//!          sort 2            set                               extended attributes that are too many for an entry (`attributes`)
//!          sort 3            of[32] count[u16] sighting*       beside a node of sort 0 or 1 (`sightings`)
//! ```
//!
//! Holds: a node's id covers `canon` alone, which speaks of content and never of places, nor of anything that belongs to the source
//! rather than to what was in it. So directories of equal content have equal ids, wherever they lie. What parses has names that are
//! names, each once, in order; a reader holds a node to what the one above says of it with [`TreeNode::judge`].

mod attributes;
mod branch;
mod entry;
mod sightings;
mod table;
#[cfg(test)]
pub(crate) mod tests;

pub use attributes::{Attribute, Attributes, Value};
pub use branch::{Below, Totals};
pub use entry::{Content, Directory, Entry, FileContent, Link, Owner, Time, is_file_name};
pub use sightings::{Sighting, Sightings, Spot};

use super::corrupt::{readable, within};
use super::ids::SealKind;
use super::node::Child;
use super::places::{self, Places};
use super::{Corrupt, Cursor, limits, put_u16};
use bytes::Bytes;

const TREE_VERSION: u8 = 1;

/// A node of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeNode {
    /// The root directory itself, without a name.
    Top(Entry),
    /// Some entries of a directory, or all.
    Leaf(Vec<Entry>),
    /// Nodes of one level less.
    Branch {
        /// At least 1.
        level: u8,
        /// What lies below, in order.
        below: Vec<Below>,
    },
    /// Extended attributes.
    Attributes(Vec<Attribute>),
    /// What the files of another node looked like from outside.
    Sightings(Sightings),
}

/// A chunk or node that a tree node refers to, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Referred {
    /// A data chunk, a map node or a tree node.
    pub kind: SealKind,
    /// Which one, and where.
    pub child: Child,
}

impl TreeNode {
    /// The bytes that the node's id covers.
    pub fn canon(&self) -> Vec<u8> {
        let (sort, level) = match self {
            TreeNode::Leaf(_) => (0, 0),
            TreeNode::Branch { level, .. } => (0, *level),
            TreeNode::Top(_) => (1, 0),
            TreeNode::Attributes(_) => (2, 0),
            TreeNode::Sightings(_) => (3, 0),
        };
        let mut out = vec![TREE_VERSION, sort, level, 0];
        match self {
            TreeNode::Top(entry) => table::put_entries(&mut out, std::slice::from_ref(entry)),
            TreeNode::Leaf(entries) => table::put_entries(&mut out, entries),
            TreeNode::Branch { below, .. } => {
                put_count(&mut out, below.len());
                below.iter().for_each(|below| below.put(&mut out));
            }
            TreeNode::Attributes(set) => attributes::put_set(&mut out, set),
            TreeNode::Sightings(sightings) => sightings.put(&mut out),
        }
        out
    }

    /// The bytes that are stored; `canon` is what [`TreeNode::canon`] gave.
    pub fn write(&self, mut canon: Vec<u8>) -> Vec<u8> {
        let places: Vec<_> = self.children().iter().map(|referred| referred.child.place).collect();
        places::write(&mut canon, &places);
        canon
    }

    /// What the node refers to, in the order of their ids in it.
    pub fn children(&self) -> Vec<Referred> {
        match self {
            TreeNode::Top(entry) => table::children(std::slice::from_ref(entry)),
            TreeNode::Leaf(entries) => table::children(entries),
            TreeNode::Branch { below, .. } => below.iter().map(|below| tree(below.child)).collect(),
            TreeNode::Attributes(set) => attributes::children(set).collect(),
            TreeNode::Sightings(sightings) => sightings.children().collect(),
        }
    }

    /// Reads what [`TreeNode::write`] wrote, and says which of the bytes are `canon`. Names and contents are parts of `bytes`, not copies.
    pub fn parse(bytes: &Bytes) -> Result<(TreeNode, Bytes), Corrupt> {
        let mut at = Input::new(bytes);
        readable(at.u8()?.into(), TREE_VERSION.into())?;
        let (sort, level, zero) = (at.u8()?, at.u8()?, at.u8()?);
        if zero != 0 {
            return Err(Corrupt::NotZero { found: zero.into() });
        }
        within("level of a node", level.into(), limits::TREE_LEVEL_MAX.into())?;
        if sort != 0 && level != 0 {
            return Err(Corrupt::Level { found: level, wanted: 0 });
        }
        match (sort, level) {
            (0, 0) => {
                let entries = table::Entries::parse(&mut at)?;
                entries.judge_names()?;
                at.finish(entries, |entries, places| entries.placed(places).map(TreeNode::Leaf))
            }
            (0, level) => {
                let below = branch::parse(&mut at)?;
                at.finish(below, |below, places| {
                    Ok(TreeNode::Branch { level, below: branch::placed(below, places)? })
                })
            }
            (1, _) => {
                let entries = table::Entries::parse(&mut at)?;
                entries.judge_top()?;
                at.finish(entries, |entries, places| entries.placed_top(places))
            }
            (2, _) => {
                let set = attributes::parse_set(&mut at)?;
                at.finish(set, |set, places| Ok(TreeNode::Attributes(attributes::placed(set, places)?)))
            }
            (3, _) => {
                let sightings = Sightings::parse(&mut at)?;
                at.finish(sightings, |sightings, places| Ok(TreeNode::Sightings(sightings.placed(places)?)))
            }
            (found, _) => Err(Corrupt::Shape { found }),
        }
    }

    /// How many entries of its directory lie in or below it.
    pub fn rows(&self) -> u64 {
        match self {
            TreeNode::Leaf(entries) => u64::try_from(entries.len()).unwrap_or(u64::MAX),
            TreeNode::Branch { below, .. } => {
                below.iter().fold(0, |sum, below| sum.saturating_add(below.rows))
            }
            _ => 0,
        }
    }

    /// What lies in and below it, at any depth.
    pub fn totals(&self) -> Totals {
        match self {
            TreeNode::Top(entry) => entry.totals(),
            TreeNode::Leaf(entries) => entries.iter().map(Entry::totals).sum(),
            TreeNode::Branch { below, .. } => below.iter().map(|below| below.totals).sum(),
            _ => Totals::default(),
        }
    }

    /// Holds a node of a directory to what the one above says of it: its level, how much it holds, and between which names (from `first`,
    /// which has to be there, to `end`, which has not).
    pub fn judge(&self, wanted: &Directory, first: Option<&[u8]>, end: Option<&[u8]>) -> Result<(), Corrupt> {
        let (level, names): (u8, [Option<&Bytes>; 2]) = match self {
            TreeNode::Leaf(entries) => {
                (0, [entries.first(), entries.last()].map(|at| at.map(|entry| &entry.name)))
            }
            TreeNode::Branch { level, below } => {
                (*level, [below.first(), below.last()].map(|at| at.map(|below| &below.first)))
            }
            _ => return Err(Corrupt::Field { what: "sort of a tree node", wanted: "a directory's" }),
        };
        if level != wanted.level {
            return Err(Corrupt::Level { found: level, wanted: wanted.level });
        }
        if self.rows() != wanted.rows {
            return Err(Corrupt::Rows { found: self.rows(), wanted: wanted.rows });
        }
        if self.totals() != wanted.totals {
            return Err(Corrupt::Field { what: "sum of a directory", wanted: "what the node above says" });
        }
        let [head, tail] = names;
        let begins = first.is_none_or(|first| head.is_some_and(|head| head == first));
        let ends = end.is_none_or(|end| tail.is_some_and(|tail| tail.as_ref() < end));
        if begins && ends { Ok(()) } else { Err(OUT_OF_ORDER) }
    }
}

const OUT_OF_ORDER: Corrupt = Corrupt::Field { what: "order of names", wanted: "ascending, each name once" };

fn tree(child: Child) -> Referred {
    Referred { kind: SealKind::Tree, child }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u16(out, u16::try_from(count).unwrap_or(u16::MAX));
}

/// Appends bytes behind their length in one byte.
fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(bytes);
}

/// A cursor that gives parts of shared bytes.
struct Input<'a> {
    whole: &'a Bytes,
    at: Cursor<'a>,
    /// Ids read so far: so many places follow.
    children: usize,
}

impl<'a> Input<'a> {
    fn new(whole: &'a Bytes) -> Input<'a> {
        Input { whole, at: Cursor::new(whole), children: 0 }
    }

    fn bytes(&mut self, len: usize) -> Result<Bytes, Corrupt> {
        Ok(self.whole.slice_ref(self.at.take(len)?))
    }

    /// Bytes behind their length in one byte.
    fn short(&mut self) -> Result<Bytes, Corrupt> {
        let len = self.at.u8()?;
        self.bytes(len.into())
    }

    fn count(&mut self, what: &'static str, limit: u16) -> Result<u16, Corrupt> {
        let count = self.at.u16()?;
        within(what, count.into(), limit.into())?;
        Ok(count)
    }

    /// A child before its place was read.
    fn child(&mut self) -> Result<Child, Corrupt> {
        let id = super::ChunkId(self.at.array()?);
        self.children = self.children.saturating_add(1);
        Ok(Child { id, place: super::Place { pack: super::PackId([0; 16]), offset: 0, len: 0 } })
    }

    /// What stands behind `canon`, and what comes of both.
    fn finish<T>(
        mut self,
        read: T,
        place: impl FnOnce(T, &mut NextPlace<'a>) -> Result<TreeNode, Corrupt>,
    ) -> Result<(TreeNode, Bytes), Corrupt> {
        let canon_len = self.whole.len().saturating_sub(self.at.rest().len());
        let places = Places::parse(&mut self.at, self.children)?;
        let mut next = NextPlace { places, at: self.at };
        let node = place(read, &mut next)?;
        next.at.end()?;
        Ok((node, self.whole.slice(..canon_len)))
    }
}

impl<'a> std::ops::Deref for Input<'a> {
    type Target = Cursor<'a>;

    fn deref(&self) -> &Cursor<'a> {
        &self.at
    }
}

impl std::ops::DerefMut for Input<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.at
    }
}

/// Gives children their places, in order.
struct NextPlace<'a> {
    places: Places,
    at: Cursor<'a>,
}

impl NextPlace<'_> {
    fn give(&mut self, child: &mut Child) -> Result<(), Corrupt> {
        child.place = self.places.next(&mut self.at)?;
        Ok(())
    }
}
