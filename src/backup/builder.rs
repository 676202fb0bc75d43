//! Building the map of an image from its chunks, in order; what is never set is a hole.
//!
//! Of each level one node is open. When a chunk belongs behind an open node, the node is complete: it is stored if anything is in it,
//! and its parent learns of it.

use crate::error::Result;
use crate::format::node::{Child, Entry, Node, Shape, root_level, slot_span, span};
use crate::format::record::Root;
use crate::format::{Corrupt, limits};
use crate::repo::writer::Writer;

/// Builds one map of fixed chunks.
pub struct MapBuilder {
    chunk_size: u32,
    open: Vec<Open>,
}

/// The number of a node that is not open.
const NOWHERE: u64 = u64::MAX;

/// The open node of a level.
struct Open {
    number: u64,
    children: Vec<Option<Child>>,
}

impl Open {
    fn new(number: u64) -> Open {
        Open { number, children: vec![None; usize::from(limits::NODE_SLOTS)] }
    }

    fn is_zero(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }
}

impl MapBuilder {
    /// A map with nothing in it.
    pub fn new(chunk_size: u32) -> MapBuilder {
        MapBuilder { chunk_size, open: Vec::new() }
    }

    /// The bytes at `offset` are held by `child`: a chunk (level 0's slot), or a whole node of `level - 1`. Offsets only grow.
    pub fn set(&mut self, writer: &mut Writer, level: u8, offset: u64, child: Child) -> Result<()> {
        for below in 0..level {
            if let Some(open) = self.open.get_mut(usize::from(below)) {
                let done = std::mem::replace(open, Open::new(NOWHERE));
                self.store(writer, below, &done, span(self.chunk_size, below))?;
            }
        }
        self.put(writer, level, offset, child)
    }

    fn put(&mut self, writer: &mut Writer, level: u8, offset: u64, child: Child) -> Result<()> {
        let at = usize::from(level);
        while self.open.len() <= at {
            self.open.push(Open::new(NOWHERE));
        }
        let slots = u64::from(limits::NODE_SLOTS);
        let slot = offset / slot_span(self.chunk_size, level);
        let (number, slot) = (slot / slots, usize::try_from(slot % slots).unwrap_or(0));
        if self.open[at].number != number {
            let done = std::mem::replace(&mut self.open[at], Open::new(number));
            self.store(writer, level, &done, span(self.chunk_size, level))?;
        }
        self.open[at].children[slot] = Some(child);
        Ok(())
    }

    /// Stores a complete node that covers `len` bytes and tells the level above.
    fn store(&mut self, writer: &mut Writer, level: u8, done: &Open, len: u64) -> Result<()> {
        if done.is_zero() {
            return Ok(());
        }
        let child = writer.add_node(&self.node(level, done, len))?;
        self.put(writer, level + 1, done.number.saturating_mul(span(self.chunk_size, level)), child)
    }

    fn node(&self, level: u8, done: &Open, len: u64) -> Node {
        let step = slot_span(self.chunk_size, level);
        let mut rest = len;
        let mut entries = Vec::new();
        for child in &done.children {
            if rest == 0 {
                break;
            }
            let len = rest.min(step);
            rest -= len;
            entries.push(Entry { len, child: *child });
        }
        Node { shape: Shape::Fixed(self.chunk_size), level, entries }
    }

    /// Completes the map of an image of `len` bytes; its top is always a node, if only an empty one.
    pub fn finish(mut self, writer: &mut Writer, len: u64) -> Result<Root> {
        if len > limits::IMAGE_LEN_MAX {
            return Err(Corrupt::Limit {
                what: "length of an image",
                found: len,
                limit: limits::IMAGE_LEN_MAX,
            }
            .into());
        }
        let top = root_level(self.chunk_size, len);
        for level in 0..top {
            let Some(open) = self.open.get_mut(usize::from(level)) else { continue };
            let done = std::mem::replace(open, Open::new(NOWHERE));
            if done.is_zero() {
                continue;
            }
            let start = done.number.saturating_mul(span(self.chunk_size, level));
            let covered = (len - start).min(span(self.chunk_size, level));
            self.store(writer, level, &done, covered)?;
        }
        // A node taken over whole from a larger parent may be all there is: it then hangs one level above our top.
        let whole = self.open.get(usize::from(top) + 1).and_then(|above| above.children[0]);
        let empty = Open::new(0);
        let done = self.open.get(usize::from(top)).unwrap_or(&empty);
        let child = match whole {
            Some(child) => child,
            None => writer.add_node(&self.node(top, done, len))?,
        };
        Ok(Root { id: child.id, place: child.place, level: top, chunk_size: self.chunk_size })
    }
}
