//! Walking the map of an image: from an offset to the chunk that holds it, loading nodes as they are touched.
//!
//! A hole is noticed as high up as it begins: a subtree that is not there is one answer, whatever its size.

use super::engine::Engine;
use super::node::Loaded;
use crate::error::{Context, Error, Result};
use crate::format::node::{Child, Entry, Node, Shape, slot_span, span};
use crate::format::record::Root;
use crate::format::{ChunkId, Corrupt, Place, ids::SealKind};
use std::ops::Range;
use std::sync::Arc;

/// The map of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its top.
    pub root: Root,
    /// How many bytes it covers.
    pub len: u64,
}

/// What stands at an offset.
#[derive(Clone, Debug)]
pub enum Stretch {
    /// Zeros, as far as this.
    Hole(Range<u64>),
    /// A leaf: these bytes are described by its entries.
    Leaf(Leaf),
}

/// A leaf node and where it begins.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// What it covers.
    pub range: Range<u64>,
    /// The node.
    pub node: Arc<Node>,
}

/// One entry of a leaf, with its place in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which bytes of the image.
    pub range: Range<u64>,
    /// Who holds them; nobody: they are zero.
    pub child: Option<Child>,
}

impl Leaf {
    /// The entry that holds `offset`, which lies in the leaf.
    pub fn at(&self, offset: u64) -> Option<Piece> {
        let number = self.number_at(offset)?;
        self.piece(number)
    }

    /// Which of the entries holds `offset`.
    pub fn number_at(&self, offset: u64) -> Option<usize> {
        let inside = offset.checked_sub(self.range.start)?;
        match self.node.shape {
            Shape::Fixed(chunk) => usize::try_from(inside / u64::from(chunk)).ok(),
            Shape::Cut => {
                let mut end = 0;
                self.node.entries.iter().position(|entry| {
                    end += entry.len;
                    inside < end
                })
            }
        }
    }

    /// An entry by its number.
    pub fn piece(&self, number: usize) -> Option<Piece> {
        let entry: &Entry = self.node.entries.get(number)?;
        let start = self.range.start
            + match self.node.shape {
                Shape::Fixed(chunk) => number as u64 * u64::from(chunk),
                Shape::Cut => self.node.entries[..number].iter().map(|entry| entry.len).sum(),
            };
        Some(Piece { range: start..start + entry.len, child: entry.child })
    }

    /// All entries from the one that holds `offset` on.
    pub fn pieces(&self, offset: u64) -> impl Iterator<Item = Piece> + '_ {
        let first = self.number_at(offset).unwrap_or(self.node.entries.len());
        let mut start = self.piece(first).map_or(self.range.end, |piece| piece.range.start);
        self.node.entries.iter().skip(first).map(move |entry| {
            let range = start..start + entry.len;
            start = range.end;
            Piece { range, child: entry.child }
        })
    }
}

/// Where a node stands, on the way down.
struct Here {
    id: ChunkId,
    place: Place,
    level: u8,
    range: Range<u64>,
}

impl Map {
    fn top(&self) -> Here {
        Here { id: self.root.id, place: self.root.place, level: self.root.level, range: 0..self.len }
    }

    fn shape(&self) -> Result<Shape> {
        Ok(self.root.shape()?)
    }

    /// The leaf or hole at `offset`, without waiting; `None` if a node has to be fetched first.
    pub fn stretch_now(&self, engine: &Engine, offset: u64) -> Option<Result<Stretch>> {
        let mut here = self.top();
        loop {
            let Loaded::Map(node) = engine.node_now(here.id)? else { return None };
            match self.judge(&here, &node).and_then(|()| self.step(&here, &node, offset, 0)) {
                Ok(Step::Down(next)) => here = next,
                Ok(Step::Done(stretch)) => return Some(Ok(stretch)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The leaf or hole at `offset`, which has to be less than the length.
    pub async fn stretch(&self, engine: &Arc<Engine>, offset: u64) -> Result<Stretch> {
        self.descend(engine, offset, 0).await
    }

    async fn descend(&self, engine: &Arc<Engine>, offset: u64, to: u8) -> Result<Stretch> {
        let mut here = self.top();
        loop {
            let node = self.load(engine, &here).await?;
            match self.step(&here, &node, offset, to)? {
                Step::Down(next) => here = next,
                Step::Done(stretch) => return Ok(stretch),
            }
        }
    }

    async fn load(&self, engine: &Arc<Engine>, here: &Here) -> Result<Arc<Node>> {
        let node = engine.node(SealKind::Node, here.id, here.place).await?.map(here.id)?;
        self.judge(here, &node)?;
        Ok(node)
    }

    /// Holds a node to where it stands, wherever it came from: one in memory may have been fetched for another place.
    fn judge(&self, here: &Here, node: &Node) -> Result<()> {
        let judged = node.judge(self.shape()?, here.level, here.range.end - here.range.start);
        judged.map_err(Error::from).context(|| format!("read map node {}", here.id))
    }

    fn step(&self, here: &Here, node: &Arc<Node>, offset: u64, to: u8) -> Result<Step> {
        if here.level == to {
            return Ok(Step::Done(Stretch::Leaf(Leaf { range: here.range.clone(), node: Arc::clone(node) })));
        }
        let as_leaf = Leaf { range: here.range.clone(), node: Arc::clone(node) };
        let number = match node.shape {
            Shape::Fixed(chunk) => (offset - here.range.start) / slot_span(chunk, here.level),
            Shape::Cut => as_leaf.number_at(offset).map_or(u64::MAX, |number| number as u64),
        };
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let before: u64 = match node.shape {
            Shape::Fixed(chunk) => number as u64 * slot_span(chunk, here.level),
            Shape::Cut => node.entries.iter().take(number).map(|entry| entry.len).sum(),
        };
        let behind = || Error::from(Corrupt::Covers { found: here.range.end, wanted: offset });
        let entry = node.entries.get(number).ok_or_else(behind)?;
        let start = here.range.start + before;
        let range = start..start + entry.len;
        Ok(match entry.child {
            None => Step::Done(Stretch::Hole(range)),
            Some(Child { id, place }) => Step::Down(Here { id, place, level: here.level - 1, range }),
        })
    }

    /// Has the leaves fetched that describe a range, as far as one node names them that is in memory; how far that is. Waits for none of
    /// them, and forgets errors.
    pub(super) fn expect(&self, engine: &Arc<Engine>, range: Range<u64>) -> u64 {
        let mut here = self.top();
        while let Some(Loaded::Map(node)) = engine.node_now(here.id) {
            if here.level == 1 {
                let leaves = children_in(&node, &here, &range);
                engine.expect_nodes(SealKind::Node, leaves);
                return range.end.min(here.range.end);
            }
            match self.step(&here, &node, range.start, 0) {
                Ok(Step::Down(next)) => here = next,
                _ => break,
            }
        }
        range.start
    }

    /// What a map of fixed chunks has for the whole node of `level` that begins at `offset`: a child, or zeros. `None` when this
    /// map has no such node or its own is shorter.
    pub async fn node_at(
        &self,
        engine: &Arc<Engine>,
        level: u8,
        offset: u64,
    ) -> Result<Option<Option<Child>>> {
        let Shape::Fixed(chunk) = self.shape()? else { return Ok(None) };
        let full = offset.checked_add(span(chunk, level)).is_some_and(|end| end <= self.len);
        if !full || level >= self.root.level {
            return Ok(None);
        }
        match self.descend(engine, offset, level + 1).await? {
            Stretch::Hole(_) => Ok(Some(None)),
            Stretch::Leaf(above) => {
                let number = (offset - above.range.start) / span(chunk, level);
                let entry = usize::try_from(number).ok().and_then(|number| above.node.entries.get(number));
                Ok(entry.map(|entry| entry.child))
            }
        }
    }
}

/// Leaves that are asked for before they are come to, so that a store far away does not have us wait for each.
pub(super) struct Leaves {
    /// As far as this.
    expected: u64,
    /// None is wanted from here on.
    end: u64,
    /// How many at most.
    ahead: u64,
}

impl Leaves {
    /// Those of a range, so many ahead.
    pub(super) fn new(range: Range<u64>, ahead: u64) -> Leaves {
        Leaves { expected: range.start, end: range.end, ahead }
    }

    /// A leaf was come to.
    pub(super) fn come_to(&mut self, engine: &Arc<Engine>, map: &Map, leaf: &Range<u64>) {
        let ahead = |leaves: u64| {
            leaf.end.saturating_add((leaf.end - leaf.start).saturating_mul(leaves)).min(self.end)
        };
        // Many at once: they lie next to each other.
        if self.expected < ahead(self.ahead / 2) {
            self.expected = map.expect(engine, self.expected.max(leaf.end)..ahead(self.ahead));
        }
    }
}

/// The children of a node that describe some of `range`.
fn children_in(node: &Node, here: &Here, range: &Range<u64>) -> Vec<Child> {
    let mut start = here.range.start;
    let placed = node.entries.iter().map(|entry| {
        let range = start..start.saturating_add(entry.len);
        start = range.end;
        (range, entry.child)
    });
    let touches = |there: &Range<u64>| there.start < range.end && there.end > range.start;
    placed.filter(|(there, _)| touches(there)).filter_map(|(_, child)| child).collect()
}

enum Step {
    Down(Here),
    Done(Stretch),
}
