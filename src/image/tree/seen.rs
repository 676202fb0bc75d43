//! A directory of a tree together with what was seen of its source: for the next backup, which asks for names in their order.
//!
//! Sightings help and prove nothing. Where they are missing or damaged, or do not stand beside the node that they should, there are none, and what they
//! would have spoken of is read again.

use super::super::engine::Engine;
use super::dir::{Goal, Step};
use super::{Cursor, Dir, Member, Tree};
use crate::error::Result;
use crate::format::ChunkId;
use crate::format::ids::SealKind;
use crate::format::node::Child;
use crate::format::record::Root;
use crate::format::tree::{Attributes, Content, FileContent, Sighting, Sightings, TreeNode};
use bytes::Bytes;
use std::sync::Arc;

/// An entry, and what was seen of it. Cheap to clone.
#[derive(Clone)]
pub struct Seen {
    /// The entry.
    pub member: Member,
    /// By what it is recognised.
    pub sighting: Sighting,
}

/// A directory and the sightings beside it.
pub struct SeenDir {
    dir: Dir,
    beside: Option<Child>,
    leaf: Option<SeenLeaf>,
}

struct SeenLeaf {
    /// One for each row.
    members: Vec<Member>,
    rows: Vec<Sighting>,
    last: Bytes,
}

impl Seen {
    /// The root directory of a tree, and what was seen of it.
    pub async fn top(tree: &Tree, sightings: Option<&Root>) -> Result<Seen> {
        let member = tree.top().await?;
        let beside = sightings.map(|root| Child { id: root.id, place: root.place });
        let rows = sightings_of(tree.engine(), tree.root().id, beside).await;
        Ok(Seen { member, sighting: rows.first().copied().unwrap_or_default() })
    }

    /// What it holds, if it is a directory.
    pub fn dir(&self) -> Result<Option<SeenDir>> {
        let dir = self.member.dir()?;
        Ok(dir.map(|dir| SeenDir { dir, beside: self.sighting.below, leaf: None }))
    }

    /// The same, to be walked through from end to end.
    pub fn cursor(&self) -> Result<Option<Cursor>> {
        let dir = self.member.dir()?;
        Ok(dir.map(|dir| Cursor::new(dir, self.sighting.below)))
    }
}

/// Has the first nodes fetched of what lies below entries of one tree, neighbours together, without waiting for them: of directories and what stands
/// beside them, of maps, and of sets of extended attributes.
pub fn expect_nodes<'a>(rows: impl Iterator<Item = &'a Seen>) {
    let (mut trees, mut maps, mut engine) = (Vec::new(), Vec::new(), None);
    for Seen { member, sighting } in rows {
        engine = Some(&member.engine);
        trees.extend(member.node_below().into_iter().chain(sighting.below));
        let entry = member.entry();
        if let Attributes::Node(child) = entry.attributes {
            trees.push(child);
        }
        if let Content::File(FileContent::Map { child, .. }) = entry.content {
            maps.push(child);
        }
    }
    if let Some(engine) = engine {
        engine.expect_nodes(SealKind::Tree, trees);
        engine.expect_nodes(SealKind::Node, maps);
    }
}

impl SeenDir {
    /// The same as [`SeenDir::find`], if nothing has to be loaded for it.
    pub fn held(&self, name: &[u8]) -> Option<Option<Seen>> {
        self.leaf.as_ref().filter(|leaf| leaf.spans(name)).map(|leaf| leaf.get(name))
    }

    /// The entry of this name, if it had one. Cheap when names are asked for in their order.
    pub async fn find(&mut self, name: &[u8]) -> Result<Option<Seen>> {
        if let Some(held) = self.held(name) {
            return Ok(held);
        }
        self.leaf = self.load(name).await?;
        Ok(self.leaf.as_ref().and_then(|leaf| leaf.get(name)))
    }

    /// The directory with this inode number among the entries around the name that was asked for last: one that was given another name.
    pub fn renamed(&self, inode: u64) -> Option<Seen> {
        let leaf = self.leaf.as_ref()?;
        let is_it = |row: &Sighting| row.spot.is_some_and(|spot| spot.inode == inode);
        let row = leaf.rows.iter().position(is_it)?;
        let member = leaf.members.get(row).filter(|member| member.entry().is_directory())?;
        Some(Seen { member: member.clone(), sighting: leaf.rows[row] })
    }

    /// Whoever asks for names in order will soon come to what lies below them.
    fn expect_below(&self, members: &[Member], rows: &[Sighting]) {
        let nodes = members.iter().filter_map(Member::node_below);
        let beside = rows.iter().filter_map(|row| row.below);
        self.dir.engine().expect_nodes(SealKind::Tree, nodes.chain(beside).collect());
    }

    /// The leaf that would have the name, and the sightings beside it.
    async fn load(&self, name: &[u8]) -> Result<Option<SeenLeaf>> {
        let Some(mut here) = self.dir.start() else { return Ok(None) };
        let mut beside = self.beside;
        loop {
            let child = here.says.child;
            let part = self.dir.engine().node(SealKind::Tree, child.id, child.place).await?.tree(child.id)?;
            let rows = sightings_of(self.dir.engine(), child.id, beside).await;
            match here.step(part, Goal::Name(name))? {
                Step::Down(next, row) => {
                    beside = rows.get(row).and_then(|row| row.below);
                    here = next;
                }
                Step::Leaf(leaf) => {
                    let count = usize::try_from(leaf.part.node.rows()).unwrap_or(0);
                    let members: Vec<Member> = (0..count).map(|row| self.dir.member(&leaf, row)).collect();
                    self.expect_below(&members, &rows);
                    let last = members.last().map(|last| last.name().clone()).unwrap_or_default();
                    return Ok(Some(SeenLeaf { members, rows, last }));
                }
                Step::Nothing => return Ok(None),
            }
        }
    }
}

impl SeenLeaf {
    /// Whether a name stands between its first and its last.
    fn spans(&self, name: &[u8]) -> bool {
        self.last.as_ref() >= name && self.members.first().is_some_and(|first| first.name().as_ref() <= name)
    }

    fn get(&self, name: &[u8]) -> Option<Seen> {
        let row = self.members.binary_search_by(|member| member.name().as_ref().cmp(name)).ok()?;
        let sighting = self.rows.get(row).copied().unwrap_or_default();
        Some(Seen { member: self.members[row].clone(), sighting })
    }
}

/// The sightings beside the node `of`, row by row.
pub(super) async fn sightings_of(engine: &Arc<Engine>, of: ChunkId, beside: Option<Child>) -> Vec<Sighting> {
    let Some(child) = beside else { return Vec::new() };
    let part = match engine.node(SealKind::Tree, child.id, child.place).await {
        Ok(loaded) => loaded.tree(child.id),
        Err(error) => Err(error),
    };
    match part.as_ref().map(|part| &part.node) {
        Ok(TreeNode::Sightings(Sightings { of: named, rows })) if *named == of => rows.clone(),
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::warn!("{error}; the files that it speaks of are read again");
            Vec::new()
        }
    }
}
