//! A backed-up share: from a path to what lies there, its attributes and its bytes.
//!
//! top -> [`Dir`] -> one node of each level -> [`Member`] -> attributes, target, [`Dir`] below, or [`File`] -> bytes
//!
//! Nodes are loaded as they are touched, through the cache, the budget and the fetches of the engine: a directory of ten million entries
//! costs a lookup three or four nodes. Nothing here changes: an entry keeps its number in its directory, so a number is a cursor.
//! No symbolic link is followed and no name is interpreted; each node is held to what the one above says of it, and directories lie
//! no deeper in each other than `format::limits` lets them, so a hostile tree ends, too.

mod compare;
mod cursor;
mod dir;
mod file;
mod seen;

pub use compare::{
    Difference, Pair, compare, content_key, difference, fingerprint, link_key, same_attributes,
};
pub use cursor::{Closed, Cursor, Next};
pub use dir::Dir;
pub use file::{File, expect_all};
pub use seen::{Seen, SeenDir, expect_nodes};

use super::engine::Engine;
use super::node::Opened;
use crate::error::{Context, Result};
use crate::format::record::{Content as ItemContent, Item, Root};
use crate::format::tree::{Attribute, Attributes, Content, Entry, Totals, TreeNode, Value};
use crate::format::{Corrupt, ids::SealKind, limits, node::Child};
use bytes::Bytes;
use std::sync::Arc;

/// A backed-up share.
#[derive(Clone)]
pub struct Tree {
    engine: Arc<Engine>,
    root: Root,
}

/// Something in a tree: an entry of a directory, or the root directory itself. Cheap to clone; keeps the node that it is a row of in
/// memory.
#[derive(Clone)]
pub struct Member {
    engine: Arc<Engine>,
    part: Arc<Opened>,
    row: usize,
    number: u64,
    depth: u16,
}

impl Tree {
    /// The tree with this top.
    pub fn new(engine: Arc<Engine>, root: Root) -> Tree {
        Tree { engine, root }
    }

    /// The tree that an item of a backup is, if it is one.
    pub fn of(engine: &Arc<Engine>, item: &Item) -> Option<Tree> {
        match &item.content {
            ItemContent::Tree { root, .. } => Some(Tree::new(Arc::clone(engine), *root)),
            ItemContent::Image { .. } => None,
        }
    }

    /// The engine that it shares with others.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Its top node.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The root directory.
    pub async fn top(&self) -> Result<Member> {
        let loaded = self.engine.node(SealKind::Tree, self.root.id, self.root.place).await?;
        let part = loaded.tree(self.root.id)?;
        match part.node {
            TreeNode::Top(_) => {
                Ok(Member { engine: Arc::clone(&self.engine), part, row: 0, number: 0, depth: 0 })
            }
            _ => Err(Corrupt::Field { what: "sort of a tree node", wanted: "the top's" }.into()),
        }
    }

    /// What lies at a path, names joined by `/`, from the root directory on; `/` at its ends and doubled ones mean nothing, as for the
    /// kernel. A link on the way is no directory: nothing lies below it.
    pub async fn find(&self, path: &[u8]) -> Result<Option<Member>> {
        let mut member = self.top().await?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Some(dir) = member.dir()? else { return Ok(None) };
            match dir.lookup(name).await? {
                Some(below) => member = below,
                None => return Ok(None),
            }
        }
        Ok(Some(member))
    }
}

impl Member {
    /// What its directory has under its name: attributes, and what it is.
    pub fn entry(&self) -> &Entry {
        match &self.part.node {
            TreeNode::Top(entry) => entry,
            // OK: members are made of rows that are there, by this room alone.
            TreeNode::Leaf(entries) => &entries[self.row],
            _ => unreachable!("a member is a row of a leaf"),
        }
    }

    /// Its name; the root directory has an empty one.
    pub fn name(&self) -> &Bytes {
        &self.entry().name
    }

    /// Its number in its directory, by which it is found again.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many directories it lies in; the root directory lies in none.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// What lies at and below it.
    pub fn totals(&self) -> Totals {
        self.entry().totals()
    }

    /// What it holds, if it is a directory. One that lies too deep is refused.
    pub fn dir(&self) -> Result<Option<Dir>> {
        let Content::Directory(below) = self.entry().content else { return Ok(None) };
        if self.depth >= limits::TREE_DEPTH_MAX {
            let (found, limit) = (u64::from(self.depth) + 1, limits::TREE_DEPTH_MAX.into());
            return Err(Corrupt::Limit { what: "depth of a directory", found, limit }.into());
        }
        Ok(Some(Dir::new(Arc::clone(&self.engine), below, self.depth + 1)))
    }

    fn node_below(&self) -> Option<Child> {
        match self.entry().content {
            Content::Directory(below) => below.map(|below| below.child),
            _ => None,
        }
    }

    /// Its bytes, if it is a regular file.
    pub fn file(&self) -> Option<File> {
        let Content::File(content) = &self.entry().content else { return None };
        Some(File::new(&self.engine, &self.part, content))
    }

    /// Where it points, if it is a symbolic link.
    pub fn target(&self) -> Option<&Bytes> {
        match &self.entry().content {
            Content::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Its extended attributes, in the order of their names.
    pub async fn attributes(&self) -> Result<Arc<[Attribute]>> {
        match &self.entry().attributes {
            Attributes::None => Ok(Arc::default()),
            Attributes::Here(set) => Ok(Arc::clone(set)),
            Attributes::Node(child) => self.attributes_of(child).await,
        }
    }

    async fn attributes_of(&self, child: &Child) -> Result<Arc<[Attribute]>> {
        let part = self.engine.node(SealKind::Tree, child.id, child.place).await?.tree(child.id)?;
        match &part.node {
            TreeNode::Attributes(set) => Ok(set.as_slice().into()),
            _ => Err(Corrupt::Field { what: "sort of a tree node", wanted: "that of attributes" }.into()),
        }
    }

    /// The value of one of its extended attributes.
    pub async fn value(&self, attribute: &Attribute) -> Result<Bytes> {
        match &attribute.value {
            Value::Here(bytes) => Ok(bytes.clone()),
            Value::Chunk { len, child } => {
                let words = || format!("read the attribute {}", attribute.name.escape_ascii());
                File::of_chunk(&self.engine, *child, *len).read_at(0, *len as usize).await.context(words)
            }
        }
    }

    /// Those of its extended attributes that lie in chunks which its entry names, as files.
    pub fn values_elsewhere(&self) -> Vec<File> {
        let Attributes::Here(set) = &self.entry().attributes else { return Vec::new() };
        let file = |one: &Attribute| match one.value {
            Value::Here(_) => None,
            Value::Chunk { len, child } => Some(File::of_chunk(&self.engine, child, len)),
        };
        set.iter().filter_map(file).collect()
    }

    /// The value of the extended attribute of this name, if it has one.
    pub async fn attribute(&self, name: &[u8]) -> Result<Option<Bytes>> {
        let all = self.attributes().await?;
        match all.binary_search_by(|one| one.name.as_ref().cmp(name)) {
            Ok(at) => self.value(&all[at]).await.map(Some),
            Err(_) => Ok(None),
        }
    }
}
