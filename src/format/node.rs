//! Map nodes: which chunk, or which node below, holds each run of an image or file.
//!
//! ```text
//! node   := canon places
//! canon  := version[u8] shape[u8] level[u8] zero[u8] chunk_size[u32] len[u64] slots
//! slots  := fixed:  bitmap[32] id[32]*                              one slot per `span(level)` bytes, 256 of them
//!           cut:    count[u16] ( len[u64, top bit: nothing here] id[32]? )*
//! places := as in `places`, one per id, in order
//! ```
//!
//! Holds: a node's id covers `canon` alone, so equal content has equal ids wherever its chunks lie. A slot without an id reads
//! as zeros. `len` is what the node covers; only the last node of a level may cover less than its span.

use super::corrupt::{readable, within};
use super::places::{self, Places};
use super::{ChunkId, Corrupt, Cursor, Place, limits, put_u16, put_u32, put_u64};

const NODE_VERSION: u8 = 1;
const NOTHING: u64 = 1 << 63;
const BITMAP_LEN: usize = 32;

/// How an image or file is cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At fixed, aligned offsets of so many bytes.
    Fixed(u32),
    /// By content.
    Cut,
}

/// A chunk or node that another node refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// What it is.
    pub id: ChunkId,
    /// Where it was last known to lie.
    pub place: Place,
}

/// One entry of a node: so many bytes, held by a child, or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How many bytes of the image it covers.
    pub len: u64,
    /// Who holds them; nobody: they are zero.
    pub child: Option<Child>,
}

/// A node of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// How the image is cut.
    pub shape: Shape,
    /// 0: its children are chunks; else nodes of one level less.
    pub level: u8,
    /// Its entries, without a gap.
    pub entries: Vec<Entry>,
}

/// How many bytes a full node of this level covers in a map of fixed chunks (saturating).
pub fn span(chunk_size: u32, level: u8) -> u64 {
    let slots = u64::from(limits::NODE_SLOTS);
    (0..=level).fold(u64::from(chunk_size), |span, _| span.saturating_mul(slots))
}

/// How many bytes one slot of a node of this level covers.
pub fn slot_span(chunk_size: u32, level: u8) -> u64 {
    match level.checked_sub(1) {
        None => chunk_size.into(),
        Some(below) => span(chunk_size, below),
    }
}

/// The level of the root of a map of fixed chunks over `len` bytes.
pub fn root_level(chunk_size: u32, len: u64) -> u8 {
    (0..limits::LEVEL_MAX).find(|&level| span(chunk_size, level) >= len).unwrap_or(limits::LEVEL_MAX)
}

/// Holds a chunk size to its bounds.
pub fn judge_chunk_size(size: u64) -> Result<u32, Corrupt> {
    match u32::try_from(size) {
        Ok(size)
            if size.is_power_of_two() && (limits::CHUNK_SIZE_MIN..=limits::CHUNK_LEN_MAX).contains(&size) =>
        {
            Ok(size)
        }
        _ => Err(Corrupt::ChunkSize { found: size }),
    }
}

impl Node {
    /// How many bytes it covers.
    pub fn len(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.len))
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether all of it reads as zeros.
    pub fn is_zero(&self) -> bool {
        self.entries.iter().all(|entry| entry.child.is_none())
    }

    /// The children, in order.
    pub fn children(&self) -> impl Iterator<Item = &Child> {
        self.entries.iter().filter_map(|entry| entry.child.as_ref())
    }

    /// The bytes that the node's id covers.
    pub fn canon(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len().saturating_mul(40).saturating_add(64));
        let (shape, chunk_size) = match self.shape {
            Shape::Fixed(size) => (0, size),
            Shape::Cut => (1, 0),
        };
        out.extend_from_slice(&[NODE_VERSION, shape, self.level, 0]);
        put_u32(&mut out, chunk_size);
        put_u64(&mut out, self.len());
        match self.shape {
            Shape::Fixed(_) => self.put_slots(&mut out),
            Shape::Cut => self.put_cuts(&mut out),
        }
        out
    }

    fn put_slots(&self, out: &mut Vec<u8>) {
        let mut bitmap = [0u8; BITMAP_LEN];
        let bits = bitmap.iter_mut().flat_map(|byte| {
            let cell = std::cell::Cell::from_mut(byte);
            (0..8).map(move |bit| (cell, bit))
        });
        for ((byte, bit), entry) in bits.zip(&self.entries) {
            if entry.child.is_some() {
                byte.set(byte.get() | (1 << bit));
            }
        }
        out.extend_from_slice(&bitmap);
        for child in self.children() {
            out.extend_from_slice(&child.id.0);
        }
    }

    fn put_cuts(&self, out: &mut Vec<u8>) {
        put_u16(out, u16::try_from(self.entries.len()).unwrap_or(u16::MAX));
        for entry in &self.entries {
            match &entry.child {
                None => put_u64(out, entry.len | NOTHING),
                Some(child) => {
                    put_u64(out, entry.len);
                    out.extend_from_slice(&child.id.0);
                }
            }
        }
    }

    /// The bytes that are stored; `canon` is what [`Node::canon`] gave.
    pub fn write(&self, mut canon: Vec<u8>) -> Vec<u8> {
        places::write(&mut canon, &self.children().map(|child| child.place).collect::<Vec<_>>());
        canon
    }

    /// Reads what [`Node::write`] wrote, and says which of the bytes are `canon`.
    pub fn parse(bytes: &[u8]) -> Result<(Node, &[u8]), Corrupt> {
        let mut at = Cursor::new(bytes);
        let version = at.u8()?;
        readable(version.into(), NODE_VERSION.into())?;
        let (shape, level, zero) = (at.u8()?, at.u8()?, at.u8()?);
        if zero != 0 {
            return Err(Corrupt::NotZero { found: zero.into() });
        }
        within("level of a node", level.into(), limits::LEVEL_MAX.into())?;
        let (chunk_size, len) = (at.u32()?, at.u64()?);
        within("length of an image", len, limits::IMAGE_LEN_MAX)?;
        let (shape, slots) = match shape {
            0 => {
                let chunk_size = judge_chunk_size(chunk_size.into())?;
                (Shape::Fixed(chunk_size), parse_slots(&mut at, chunk_size, level, len)?)
            }
            1 if chunk_size == 0 => (Shape::Cut, parse_cuts(&mut at, level, len)?),
            1 => return Err(Corrupt::NotZero { found: chunk_size.into() }),
            found => return Err(Corrupt::Shape { found }),
        };
        let canon_len = bytes.len().saturating_sub(at.rest().len());
        let canon = bytes.get(..canon_len).ok_or(Corrupt::Short)?;
        let entries = parse_places(&mut at, slots)?;
        at.end()?;
        Ok((Node { shape, level, entries }, canon))
    }

    /// Holds a node to what its parent (or the record) says it should be.
    pub fn judge(&self, shape: Shape, level: u8, len: u64) -> Result<(), Corrupt> {
        if self.level != level {
            return Err(Corrupt::Level { found: self.level, wanted: level });
        }
        if self.len() != len {
            return Err(Corrupt::Covers { found: self.len(), wanted: len });
        }
        if self.shape != shape {
            return Err(Corrupt::Field { what: "shape of the map", wanted: "what the node above says" });
        }
        Ok(())
    }
}

/// An entry before its place was read.
type Slot = (u64, Option<ChunkId>);

fn parse_slots(at: &mut Cursor<'_>, chunk_size: u32, level: u8, len: u64) -> Result<Vec<Slot>, Corrupt> {
    within("length of a node", len, span(chunk_size, level))?;
    let step = slot_span(chunk_size, level);
    let used = usize::try_from(len.div_ceil(step)).map_err(|_| Corrupt::SlotBehindEnd)?;
    let bitmap = at.array::<BITMAP_LEN>()?;
    let present = bitmap.iter().flat_map(|byte| (0..8).map(move |bit| byte & (1 << bit) != 0));
    let mut slots = Vec::with_capacity(used);
    let mut rest = len;
    for (number, present) in present.enumerate() {
        if number >= used {
            if present {
                return Err(Corrupt::SlotBehindEnd);
            }
            continue;
        }
        let here = rest.min(step);
        rest = rest.saturating_sub(here);
        slots.push((here, if present { Some(ChunkId(at.array()?)) } else { None }));
    }
    Ok(slots)
}

fn parse_cuts(at: &mut Cursor<'_>, level: u8, len: u64) -> Result<Vec<Slot>, Corrupt> {
    let count = at.u16()?;
    within("entries of a node", count.into(), limits::NODE_ENTRIES_MAX.into())?;
    let mut slots = Vec::with_capacity(count.into());
    let mut sum = 0u64;
    for _ in 0..count {
        let word = at.u64()?;
        let here = word & !NOTHING;
        if here == 0 {
            return Err(Corrupt::EmptyEntry);
        }
        sum = sum.saturating_add(here);
        let is_something = word & NOTHING == 0;
        if is_something && level == 0 {
            within("length of a chunk", here, limits::CHUNK_LEN_MAX.into())?;
        }
        slots.push((here, if is_something { Some(ChunkId(at.array()?)) } else { None }));
    }
    if sum != len {
        return Err(Corrupt::Sum { found: sum, wanted: len });
    }
    Ok(slots)
}

fn parse_places(at: &mut Cursor<'_>, slots: Vec<Slot>) -> Result<Vec<Entry>, Corrupt> {
    let places = Places::parse(at, slots.iter().filter(|(_, id)| id.is_some()).count())?;
    let mut entry = |(len, id): Slot| {
        let child = id.map(|id| Ok(Child { id, place: places.next(at)? })).transpose()?;
        Ok(Entry { len, child })
    };
    slots.into_iter().map(&mut entry).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::PackId;
    use proptest::prelude::*;

    prop_compose! {
        fn child()(id in any::<[u8; 32]>(), pack in 0u8..4, offset in any::<u32>(), len in 0..=limits::SEALED_LEN_MAX) -> Child {
            Child { id: ChunkId(id), place: Place { pack: PackId([pack; 16]), offset, len } }
        }
    }

    prop_compose! {
        fn fixed()(
            level in 0u8..3,
            children in prop::collection::vec(prop::option::of(child()), 0..=256),
            short in any::<u32>(),
        ) -> Node {
            let step = slot_span(4096, level);
            let last = children.len().saturating_sub(1);
            let entries = children.into_iter().enumerate().map(|(number, child)| {
                let len = if number == last { u64::from(short) % step + 1 } else { step };
                Entry { len, child }
            });
            Node { shape: Shape::Fixed(4096), level, entries: entries.collect() }
        }
    }

    #[test]
    fn a_leaf_that_gives_a_chunk_more_than_any_has_is_refused() {
        let place = Place { pack: PackId([1; 16]), offset: 0, len: 100 };
        let parsed = |level, len, child| {
            let node = Node { shape: Shape::Cut, level, entries: vec![Entry { len, child }] };
            Node::parse(&node.write(node.canon())).map(|(node, _)| node.len())
        };
        let (child, most) = (Some(Child { id: ChunkId([1; 32]), place }), u64::from(limits::CHUNK_LEN_MAX));
        assert_eq!(parsed(0, most, child), Ok(most));
        assert_eq!(parsed(0, most + 1, None), Ok(most + 1), "zeros may go on");
        assert_eq!(parsed(1, most + 1, child), Ok(most + 1), "a node is no chunk");
        assert!(parsed(0, most + 1, child).is_err());
    }

    prop_compose! {
        fn cut()(level in 0u8..3, entries in prop::collection::vec((1u64..1 << 40, prop::option::of(child())), 0..300)) -> Node {
            let chunk_max = u64::from(limits::CHUNK_LEN_MAX);
            let fitting = |len: u64, child: Option<Child>| if level == 0 && child.is_some() { len % chunk_max + 1 } else { len };
            let entries = entries.into_iter().map(|(len, child)| Entry { len: fitting(len, child), child }).collect();
            Node { shape: Shape::Cut, level, entries }
        }
    }

    pub(crate) fn node() -> impl Strategy<Value = Node> {
        prop_oneof![fixed(), cut()]
    }

    proptest! {
        #[test]
        fn a_node_comes_back_as_it_went_in(node in node()) {
            let canon = node.canon();
            let bytes = node.write(canon.clone());
            let (back, part) = Node::parse(&bytes).unwrap();
            prop_assert_eq!(part, &canon[..]);
            prop_assert_eq!(back, node);
        }

        #[test]
        fn places_are_no_part_of_what_an_id_covers(node in node(), offset in any::<u32>()) {
            let mut moved = node.clone();
            for entry in &mut moved.entries {
                if let Some(child) = &mut entry.child {
                    child.place.offset = offset;
                }
            }
            prop_assert_eq!(moved.canon(), node.canon());
        }

        #[test]
        fn x2_a_cut_or_longer_node_is_refused(node in node(), cut in any::<prop::sample::Index>()) {
            let mut bytes = node.write(node.canon());
            prop_assert!(Node::parse(&bytes[..cut.index(bytes.len())]).is_err());
            bytes.push(0);
            prop_assert!(Node::parse(&bytes).is_err());
        }
    }

    #[test]
    fn levels_are_as_high_as_needed_and_no_higher() {
        let chunk = 128 * 1024;
        assert_eq!(root_level(chunk, 0), 0);
        assert_eq!(root_level(chunk, span(chunk, 0)), 0);
        assert_eq!(root_level(chunk, span(chunk, 0) + 1), 1);
        assert_eq!(root_level(chunk, 1 << 40), 2);
        assert_eq!(root_level(chunk, 64 << 40), 3);
        assert!(span(limits::CHUNK_SIZE_MIN, limits::LEVEL_MAX) >= limits::IMAGE_LEN_MAX - 4096);
    }

    #[test]
    fn x2_a_slot_behind_the_end_is_refused() {
        let one = Entry { len: 4096, child: None };
        let node = Node { shape: Shape::Fixed(4096), level: 0, entries: vec![one; 3] };
        let mut bytes = node.write(node.canon());
        bytes[16] |= 1 << 3;
        assert_eq!(Node::parse(&bytes), Err(Corrupt::SlotBehindEnd));
    }
}
