//! Through a directory in the order of its names, node by node: what is not opened costs nothing.
//!
//! Whoever walks sees what comes next, a node that is still closed or an entry, and either passes it or opens it. So two directories are held
//! to each other without opening what is equal. With each goes what was seen of the source, where sightings stand beside the directory.

use super::super::node::Opened;
use super::dir::{Dir, Here};
use super::seen::{self, Seen};
use crate::error::Result;
use crate::format::ChunkId;
use crate::format::ids::SealKind;
use crate::format::node::Child;
use crate::format::tree::{Directory, Sighting, TreeNode};
use std::sync::Arc;

/// Where one is in a directory.
pub struct Cursor {
    dir: Dir,
    /// The top node, while it is still closed.
    top: Option<Closed>,
    open: Vec<Open>,
}

/// An open node.
struct Open {
    here: Here,
    part: Arc<Opened>,
    /// What stands beside it, row by row; nothing, where that is not known.
    beside: Vec<Sighting>,
    /// The row that comes next.
    next: usize,
}

/// A node that was not opened.
#[derive(Clone)]
pub struct Closed {
    here: Here,
    beside: Option<Child>,
}

/// What comes next.
pub enum Next {
    /// A node.
    Node(Closed),
    /// An entry.
    Row(Seen),
}

impl Closed {
    /// Which node it is.
    pub fn id(&self) -> ChunkId {
        self.here.id()
    }

    /// The sightings beside it.
    pub fn beside(&self) -> Option<Child> {
        self.beside
    }

    /// What the node above says of it.
    pub fn says(&self) -> &Directory {
        &self.here.says
    }

    /// The first name in it; nothing comes before that of a top node, which nobody says.
    pub fn first(&self) -> &[u8] {
        self.here.first()
    }

    fn ends_before(&self, name: &[u8]) -> bool {
        self.here.end().is_some_and(|end| end <= name)
    }
}

impl Next {
    /// The first name of it.
    pub fn name(&self) -> &[u8] {
        match self {
            Next::Node(node) => node.first(),
            Next::Row(row) => row.member.name(),
        }
    }
}

impl Open {
    fn sighting(&self, row: usize) -> Sighting {
        self.beside.get(row).copied().unwrap_or_default()
    }

    fn len(&self) -> usize {
        match &self.part.node {
            TreeNode::Branch { below, .. } => below.len(),
            TreeNode::Leaf(entries) => entries.len(),
            _ => 0,
        }
    }

    /// The node that a row of it refers to, if it is a branch.
    fn child(&self, row: usize) -> Option<Closed> {
        let TreeNode::Branch { level, below } = &self.part.node else { return None };
        let beside = self.sighting(row).below;
        (row < below.len()).then(|| Closed { here: self.here.child(level - 1, below, row), beside })
    }

    fn row(&self, dir: &Dir, row: usize) -> Seen {
        let member = dir.member_of(&self.part, self.here.before(), row);
        Seen { member, sighting: self.sighting(row) }
    }

    fn is_leaf(&self) -> bool {
        matches!(self.part.node, TreeNode::Leaf(_))
    }
}

impl Cursor {
    /// Before everything in a directory, beside whose top node these sightings stand.
    pub fn new(dir: Dir, beside: Option<Child>) -> Cursor {
        let top = dir.start().map(|here| Closed { here, beside });
        Cursor { dir, top, open: Vec::new() }
    }

    /// What comes next; nothing at the end.
    pub fn look(&mut self) -> Option<Next> {
        if let Some(top) = &self.top {
            return Some(Next::Node(top.clone()));
        }
        loop {
            let last = self.open.last()?;
            if last.next >= last.len() {
                drop(self.open.pop());
                continue;
            }
            return Some(match last.child(last.next) {
                Some(node) => Next::Node(node),
                None => Next::Row(last.row(&self.dir, last.next)),
            });
        }
    }

    /// Goes on behind what comes next.
    pub fn pass(&mut self) {
        if self.top.take().is_none()
            && let Some(last) = self.open.last_mut()
        {
            last.next += 1;
        }
    }

    /// Opens the node that comes next.
    pub async fn open(&mut self) -> Result<()> {
        let Some(Next::Node(Closed { here, beside })) = self.look() else { return Ok(()) };
        if let Some(beside) = beside {
            // They lie next to each other, as a rule.
            self.dir.engine().expect_nodes(SealKind::Tree, vec![here.says.child, beside]);
        }
        let part = self.dir.load(&here).await?;
        let beside = seen::sightings_of(self.dir.engine(), here.id(), beside).await;
        self.pass();
        self.open.push(Open { here, part, beside, next: 0 });
        Ok(())
    }

    /// All entries that are left of the leaf that is open, if one is; it is passed.
    pub fn take_leaf(&mut self) -> Vec<Seen> {
        let Some(last) = self.open.last_mut().filter(|last| last.is_leaf()) else { return Vec::new() };
        let left = last.next..last.len();
        last.next = left.end;
        left.map(|row| last.row(&self.dir, row)).collect()
    }

    /// Goes to the node of this level that begins with this name, if there is one: never back, and no further than that name.
    pub async fn seek(&mut self, first: &[u8], level: u8) -> Result<Option<Closed>> {
        loop {
            match self.look() {
                Some(Next::Node(node)) if node.ends_before(first) => self.pass(),
                Some(Next::Node(node)) if node.first() > first || node.says().level < level => {
                    return Ok(None);
                }
                Some(Next::Node(node)) if node.says().level == level => {
                    return Ok(Some(node).filter(|node| node.first() == first));
                }
                Some(Next::Node(_)) => self.open().await?,
                Some(Next::Row(row)) if row.member.name().as_ref() < first => self.pass(),
                Some(Next::Row(_)) | None => return Ok(None),
            }
        }
    }

    /// The entry of this name, if there is one: never back, and no further than that name.
    pub async fn find(&mut self, name: &[u8]) -> Result<Option<Seen>> {
        loop {
            match self.look() {
                Some(Next::Node(node)) if node.ends_before(name) => self.pass(),
                Some(Next::Node(node)) if node.first() > name => return Ok(None),
                Some(Next::Node(_)) => self.open().await?,
                Some(Next::Row(row)) if row.member.name().as_ref() < name => self.pass(),
                Some(Next::Row(row)) => return Ok(Some(row).filter(|row| row.member.name() == name)),
                None => return Ok(None),
            }
        }
    }

    /// The entry with this inode number among those around, in the leaf that is open: one that may have another name now.
    pub fn near(&self, inode: u64) -> Option<Seen> {
        let leaf = self.open.last().filter(|last| last.is_leaf())?;
        let is_it = |row: &Sighting| row.spot.is_some_and(|spot| spot.inode == inode);
        let row = leaf.beside.iter().position(is_it).filter(|row| *row < leaf.len())?;
        Some(leaf.row(&self.dir, row))
    }

    /// Has up to so many of the nodes fetched that come next, and what stands beside them, without waiting: for who will open them all.
    pub fn expect(&self, max: usize) {
        let Some(branch) = self.open.iter().rev().find(|open| !open.is_leaf()) else { return };
        let nodes = (branch.next..branch.len()).take(max).filter_map(|row| branch.child(row));
        let children = nodes.flat_map(|node| [Some(node.here.says.child), node.beside]).flatten();
        self.dir.engine().expect_nodes(SealKind::Tree, children.collect());
    }
}
