//! What differs between two directories, name by name: equal nodes have equal ids, so only what differs is walked.
//!
//! Two cursors go through the names of both in order. Where both stand before nodes of one id, both pass over them; where one
//! stands before a node that begins later than the other one's name, that node stays closed. A name more in a directory of ten
//! million thus costs one node of each level on either side.

use super::super::node::Opened;
use super::Member;
use super::dir::{Dir, Here};
use crate::error::Result;
use crate::format::tree::{Attribute, Attributes, Content, Entry, FileContent, TreeNode, Value};
use std::cmp::Ordering;
use std::sync::Arc;
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
    let (mut a, mut b) = (Cursor::new(first), Cursor::new(second));
    loop {
        match (a.look(), b.look()) {
            (None, None) => return Ok(()),
            (Some(Item::Node(one)), Some(Item::Node(other))) if one.id() == other.id() => {
                a.pass();
                b.pass();
            }
            (Some(Item::Node(one)), Some(Item::Node(other))) => match one.first().cmp(other.first()) {
                Ordering::Less => a.open().await?,
                Ordering::Greater => b.open().await?,
                Ordering::Equal if one.level() > other.level() => a.open().await?,
                Ordering::Equal if one.level() < other.level() => b.open().await?,
                Ordering::Equal => {
                    a.open().await?;
                    b.open().await?;
                }
            },
            (Some(Item::Row(row)), other) if other.as_ref().is_none_or(|other| row.name() < other.name()) => {
                a.pass();
                each(Pair::First(row))?;
            }
            (one, Some(Item::Row(row))) if one.as_ref().is_none_or(|one| row.name() < one.name()) => {
                b.pass();
                each(Pair::Second(row))?;
            }
            (Some(Item::Row(one)), Some(Item::Row(other))) => {
                a.pass();
                b.pass();
                if difference(one.entry(), other.entry()) != Difference::default() {
                    each(Pair::Both(one, other))?;
                }
            }
            (Some(Item::Node(_)), _) => a.open().await?,
            (_, Some(Item::Node(_))) => b.open().await?,
            (Some(Item::Row(_)), None) | (None, Some(Item::Row(_))) => {}
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

fn same_attributes(a: &Attributes, b: &Attributes) -> bool {
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

/// Where one is in a directory.
struct Cursor<'a> {
    dir: &'a Dir,
    /// Open nodes, each with the number of the row that comes next.
    open: Vec<(Here, Arc<Opened>, usize)>,
    /// The top node, while it is still closed.
    top: Option<Here>,
}

/// What comes next.
enum Item {
    Node(Here),
    Row(Member),
}

impl Item {
    /// The first name of it.
    fn name(&self) -> &[u8] {
        match self {
            Item::Node(here) => here.first(),
            Item::Row(member) => member.name(),
        }
    }
}

impl<'a> Cursor<'a> {
    fn new(dir: &'a Dir) -> Cursor<'a> {
        Cursor { dir, open: Vec::new(), top: dir.start() }
    }

    fn look(&mut self) -> Option<Item> {
        if let Some(top) = &self.top {
            return Some(Item::Node(top.clone()));
        }
        loop {
            let (here, part, row) = self.open.last()?;
            match &part.node {
                TreeNode::Branch { level, below } if *row < below.len() => {
                    return Some(Item::Node(here.child(level - 1, below, *row)));
                }
                TreeNode::Leaf(entries) if *row < entries.len() => {
                    return Some(Item::Row(self.dir.member_of(part, here.before(), *row)));
                }
                _ => drop(self.open.pop()),
            }
        }
    }

    /// Goes on behind what comes next.
    fn pass(&mut self) {
        if self.top.take().is_none()
            && let Some((_, _, row)) = self.open.last_mut()
        {
            *row += 1;
        }
    }

    /// Opens the node that comes next.
    async fn open(&mut self) -> Result<()> {
        let Some(Item::Node(here)) = self.look() else { return Ok(()) };
        let part = self.dir.load(&here).await?;
        self.pass();
        self.open.push((here, part, 0));
        Ok(())
    }
}
