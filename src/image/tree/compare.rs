//! What differs between two directories, name by name: equal nodes have equal ids, so only what differs is walked.
//!
//! Two cursors go through the names of both in order. Where both stand before nodes of one id, both pass over them; where one
//! stands before a node that begins later than the other one's name, that node stays closed. A name more in a directory of ten
//! million thus costs one node of each level on either side.

use super::cursor::{Cursor, Next};
use super::{Dir, Member};
use crate::error::Result;
use crate::format::tree::{Attribute, Attributes, Content, Entry, FileContent, Value};
use std::cmp::Ordering;
use xxhash_rust::xxh3::xxh3_128;

/// A name that two directories have not in the same way.
#[derive(Clone)]
pub enum Pair {
    /// The first one has it.
    First(Member),
    /// The second one has it.
    Second(Member),
    /// Both have it, and something about it differs.
    Both(Member, Member),
}

/// How two entries differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// They are things of different kinds.
    pub kind: bool,
    /// Their content differs: bytes, a link's target, what lies in a directory.
    pub content: bool,
    /// Mode, owner, times, attributes or links differ.
    pub metadata: bool,
}

/// Every name that differs in two directories, in order. What lies below is not looked at: a directory with something else in it differs.
pub async fn compare(
    first: &Dir,
    second: &Dir,
    each: &mut (dyn FnMut(Pair) -> Result<()> + Send),
) -> Result<()> {
    let (mut a, mut b) = (Cursor::new(first.clone(), None), Cursor::new(second.clone(), None));
    loop {
        match (a.look(), b.look()) {
            (None, None) => return Ok(()),
            (Some(Next::Node(one)), Some(Next::Node(other))) if one.id() == other.id() => {
                a.pass();
                b.pass();
            }
            (Some(Next::Node(one)), Some(Next::Node(other))) => match one.first().cmp(other.first()) {
                Ordering::Less => a.open().await?,
                Ordering::Greater => b.open().await?,
                Ordering::Equal if one.says().level > other.says().level => a.open().await?,
                Ordering::Equal if one.says().level < other.says().level => b.open().await?,
                Ordering::Equal => {
                    a.open().await?;
                    b.open().await?;
                }
            },
            (Some(Next::Row(row)), other)
                if other.as_ref().is_none_or(|other| row.member.name() < other.name()) =>
            {
                a.pass();
                each(Pair::First(row.member))?;
            }
            (one, Some(Next::Row(row))) if one.as_ref().is_none_or(|one| row.member.name() < one.name()) => {
                b.pass();
                each(Pair::Second(row.member))?;
            }
            (Some(Next::Row(one)), Some(Next::Row(other))) => {
                a.pass();
                b.pass();
                if difference(one.member.entry(), other.member.entry()) != Difference::default() {
                    each(Pair::Both(one.member, other.member))?;
                }
            }
            (Some(Next::Node(_)), _) => a.open().await?,
            (_, Some(Next::Node(_))) => b.open().await?,
            (Some(Next::Row(_)), None) | (None, Some(Next::Row(_))) => {}
        }
    }
}

/// How two entries of one name differ. Where their chunks lie is no difference.
pub fn difference(a: &Entry, b: &Entry) -> Difference {
    let kind = std::mem::discriminant(&a.content) != std::mem::discriminant(&b.content);
    Difference {
        kind,
        content: kind || content_key(&a.content) != content_key(&b.content),
        metadata: a.mode != b.mode
            || a.owner != b.owner
            || a.mtime != b.mtime
            || a.link != b.link
            || !same_attributes(&a.attributes, &b.attributes),
    }
}

/// Equal for entries between which [`difference`] finds none, their names aside, and for no others.
pub fn fingerprint(entry: &Entry) -> u128 {
    let mut all = Vec::with_capacity(256);
    let mut add = |bytes: &[u8]| {
        all.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        all.extend_from_slice(bytes);
    };
    add(&content_key(&entry.content));
    add(&entry.mode.to_le_bytes());
    let (owner, mtime) = (&entry.owner, &entry.mtime);
    [owner.uid, owner.gid].into_iter().for_each(|id| add(&id.to_le_bytes()));
    add(&owner.user);
    add(&owner.group);
    add(&mtime.secs.to_le_bytes());
    add(&mtime.nanos.to_le_bytes());
    if let Some(link) = &entry.link {
        add(&link.group);
        add(&link.names.to_le_bytes());
    }
    match &entry.attributes {
        Attributes::None => {}
        Attributes::Node(child) => add(&child.id.0),
        Attributes::Here(set) => set.iter().for_each(|one| {
            add(&one.name);
            match &one.value {
                Value::Here(bytes) => add(bytes),
                Value::Chunk { child, .. } => add(&child.id.0),
            }
        }),
    }
    xxh3_128(&all)
}

/// Entries with equal keys are names of one file: they have the same group and are equal in everything else that is stored of them.
/// Nothing, where a file has one name only.
pub fn link_key(entry: &Entry) -> Option<u128> {
    let _several = entry.link.filter(|link| link.names > 1)?;
    Some(fingerprint(entry))
}

/// Bytes that are equal for equal contents, wherever their chunks lie.
pub fn content_key(content: &Content) -> Vec<u8> {
    let kind = |kind: u8, rest: &[&[u8]]| [&[kind][..], &rest.concat()].concat();
    match content {
        Content::Directory(below) => kind(1, &[below.as_ref().map_or(&[][..], |below| &below.child.id.0)]),
        Content::File(FileContent::Inline(bytes)) => kind(2, &[bytes]),
        Content::File(FileContent::Zeros(len)) => kind(3, &[&len.to_le_bytes()]),
        Content::File(FileContent::Chunk { len, child }) => kind(4, &[&len.to_le_bytes(), &child.id.0]),
        Content::File(FileContent::Map { len, child, .. }) => kind(5, &[&len.to_le_bytes(), &child.id.0]),
        Content::Symlink(target) => kind(6, &[target]),
        Content::Fifo => kind(7, &[]),
        Content::Socket => kind(8, &[]),
        Content::CharDevice { major, minor } => kind(9, &[&major.to_le_bytes(), &minor.to_le_bytes()]),
        Content::BlockDevice { major, minor } => kind(10, &[&major.to_le_bytes(), &minor.to_le_bytes()]),
    }
}

/// Whether two sets of extended attributes say the same, wherever their chunks lie.
pub fn same_attributes(a: &Attributes, b: &Attributes) -> bool {
    match (a, b) {
        (Attributes::Node(a), Attributes::Node(b)) => a.id == b.id,
        (Attributes::Here(a), Attributes::Here(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_attribute(a, b))
        }
        (a, b) => a == b,
    }
}

fn same_attribute(a: &Attribute, b: &Attribute) -> bool {
    let value = match (&a.value, &b.value) {
        (Value::Chunk { child, .. }, Value::Chunk { child: other, .. }) => child.id == other.id,
        (a, b) => a == b,
    };
    value && a.name == b.name
}
