//! Extended attributes (ACLs and capabilities are some of them): sets, which files with equal ones share.
//!
//! ```text
//! sets  := count[u16] ( 0 set | 1 id[32] )*              of a node; 1: the set is a node of its own
//! set   := count[u16] ( name[short] value )*             in the order of their names
//! value := 0 len[u16] bytes | 1 len[u32] id[32]          here, or a data chunk
//! ```
//!
//! Sets stand in the order in which the entries first need them, none twice and none in vain.

use super::{Input, NextPlace, OUT_OF_ORDER, Referred, put_count, put_short, tree};
use crate::format::corrupt::within;
use crate::format::ids::SealKind;
use crate::format::node::Child;
use crate::format::{Corrupt, limits, put_u16, put_u32};
use bytes::Bytes;
use std::sync::Arc;

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name, with its namespace (`user.comment`).
    pub name: Bytes,
    /// Its value, as the kernel gave it.
    pub value: Value,
}

/// The value of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// These bytes.
    Here(Bytes),
    /// The content of a data chunk.
    Chunk {
        /// How long it is.
        len: u32,
        /// The chunk.
        child: Child,
    },
}

/// All extended attributes of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attributes {
    /// It has none.
    #[default]
    None,
    /// These.
    Here(Arc<[Attribute]>),
    /// Those of a node of their own.
    Node(Child),
}

impl Value {
    /// How long it is.
    pub fn len(&self) -> u64 {
        match self {
            Value::Here(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Value::Chunk { len, .. } => (*len).into(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

pub(super) fn put_sets(out: &mut Vec<u8>, sets: &[&Attributes]) {
    put_count(out, sets.len());
    for set in sets {
        match set {
            Attributes::None => {}
            Attributes::Here(set) => {
                out.push(0);
                put_set(out, set);
            }
            Attributes::Node(child) => {
                out.push(1);
                out.extend_from_slice(&child.id.0);
            }
        }
    }
}

pub(super) fn put_set(out: &mut Vec<u8>, set: &[Attribute]) {
    put_count(out, set.len());
    for attribute in set {
        put_short(out, &attribute.name);
        match &attribute.value {
            Value::Here(bytes) => {
                out.push(0);
                put_u16(out, u16::try_from(bytes.len()).unwrap_or(u16::MAX));
                out.extend_from_slice(bytes);
            }
            Value::Chunk { len, child } => {
                out.push(1);
                put_u32(out, *len);
                out.extend_from_slice(&child.id.0);
            }
        }
    }
}

/// What a set refers to.
pub(super) fn children(set: &[Attribute]) -> impl Iterator<Item = Referred> + '_ {
    set.iter().filter_map(|attribute| match attribute.value {
        Value::Here(_) => None,
        Value::Chunk { child, .. } => Some(Referred { kind: SealKind::Data, child }),
    })
}

/// What a set of a node refers to.
pub(super) fn set_children(set: &Attributes) -> Vec<Referred> {
    match set {
        Attributes::None => Vec::new(),
        Attributes::Here(set) => children(set).collect(),
        Attributes::Node(child) => vec![tree(*child)],
    }
}

/// A set before its places were read.
pub(super) enum RawSet {
    Here(Vec<Attribute>),
    Node(Child),
}

pub(super) fn parse_sets(at: &mut Input<'_>) -> Result<Vec<RawSet>, Corrupt> {
    let count = at.count("rows of a tree node", limits::TREE_ROWS_MAX)?;
    let mut sets = Vec::with_capacity(count.into());
    let mut sum = 0u64;
    for _ in 0..count {
        sets.push(match at.u8()? {
            0 => {
                let set = parse_set(at)?;
                sum = sum.saturating_add(u64::try_from(set.len()).unwrap_or(u64::MAX));
                within("extended attributes in a node", sum, limits::ATTRIBUTES_MAX.into())?;
                RawSet::Here(set)
            }
            1 => RawSet::Node(at.child()?),
            found => return Err(Corrupt::Shape { found }),
        });
    }
    Ok(sets)
}

pub(super) fn parse_set(at: &mut Input<'_>) -> Result<Vec<Attribute>, Corrupt> {
    let count = at.count("extended attributes of a file", limits::ATTRIBUTES_MAX)?;
    if count == 0 {
        return Err(Corrupt::EmptyEntry);
    }
    // Each takes 5 bytes at least, so what is too short ends before much was allocated.
    let mut set: Vec<Attribute> = Vec::with_capacity(count.min(64).into());
    for _ in 0..count {
        let attribute = Attribute { name: at.short()?, value: parse_value(at)? };
        if attribute.name.is_empty() || attribute.name.contains(&0) {
            return Err(Corrupt::Field { what: "name of an extended attribute", wanted: "a name" });
        }
        if set.last().is_some_and(|before| before.name >= attribute.name) {
            return Err(OUT_OF_ORDER);
        }
        set.push(attribute);
    }
    Ok(set)
}

fn parse_value(at: &mut Input<'_>) -> Result<Value, Corrupt> {
    match at.u8()? {
        0 => {
            let len = at.u16()?;
            Ok(Value::Here(at.bytes(len.into())?))
        }
        1 => {
            let len = at.u32()?;
            within("length of an extended attribute", len.into(), limits::ATTRIBUTE_LEN_MAX.into())?;
            Ok(Value::Chunk { len, child: at.child()? })
        }
        found => Err(Corrupt::Shape { found }),
    }
}

pub(super) fn placed(mut set: Vec<Attribute>, places: &mut NextPlace<'_>) -> Result<Vec<Attribute>, Corrupt> {
    for attribute in &mut set {
        if let Value::Chunk { child, .. } = &mut attribute.value {
            places.give(child)?;
        }
    }
    Ok(set)
}

impl RawSet {
    pub(super) fn placed(self, places: &mut NextPlace<'_>) -> Result<Attributes, Corrupt> {
        match self {
            RawSet::Here(set) => Ok(Attributes::Here(placed(set, places)?.into())),
            RawSet::Node(mut child) => {
                places.give(&mut child)?;
                Ok(Attributes::Node(child))
            }
        }
    }
}
