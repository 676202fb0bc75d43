//! Check of trees: is every node, and every chunk of every file, there? What is lost is named by its path.
//!
//! Holds: a node below which all is right is looked at once, however many backups share it; and directories lie no deeper in each other than the
//! format lets them. Sightings are not looked at: what is lost of them costs the next backup time and nobody a byte.

use super::check::{Check, Lost, object_of};
use super::packs::is_damage;
use crate::error::{Context, Error, Kind, Result};
use crate::format::node::{Child, Shape};
use crate::format::record::Root;
use crate::format::tree::{Attribute, Attributes, Content, Directory, Entry, FileContent, TreeNode, Value};
use crate::format::{Corrupt, ids::SealKind, limits};
use std::ops::Range;

/// Directories in each other take stack; this is enough for as many as there may be.
const STACK_LEN: usize = 256 << 20;

/// Something that is lost, by its path.
pub(super) type LostFile = (Vec<u8>, Lost);

/// What a node has to be, as the one above says.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Top,
    Directory { says: &'a Directory, first: Option<&'a [u8]>, end: Option<&'a [u8]> },
    Attributes,
}

/// Where a node stands.
#[derive(Clone, Copy)]
struct Here<'a> {
    path: &'a [u8],
    depth: u16,
}

impl Check<'_> {
    /// What is lost of a tree.
    pub(super) fn tree(&mut self, root: &Root) -> Result<Vec<LostFile>> {
        let top = Child { id: root.id, place: root.place };
        std::thread::scope(|scope| {
            let walk = || {
                let mut lost = Vec::new();
                let _right = self.tree_node(&top, Wanted::Top, Here { path: b"", depth: 0 }, &mut lost)?;
                Ok(lost)
            };
            let thread = std::thread::Builder::new().stack_size(STACK_LEN).spawn_scoped(scope, walk);
            let thread = thread.context(|| "start a thread that walks trees")?;
            let panicked =
                || Error::new(Kind::Unsupported, "the check of a tree ended in a panic: this is a bug");
            thread.join().unwrap_or_else(|_| Err(panicked()))
        })
    }

    /// Whether all below a node is right; what is not is added to `lost`.
    fn tree_node(
        &mut self,
        child: &Child,
        wanted: Wanted<'_>,
        here: Here<'_>,
        lost: &mut Vec<LostFile>,
    ) -> Result<bool> {
        let half: [u8; 16] = std::array::from_fn(|at| child.id.0[at]);
        if self.right.contains(&half) {
            return Ok(true);
        }
        let bytes = match wanted {
            Wanted::Directory { says, .. } => 0..says.totals.bytes,
            _ => 0..0,
        };
        let node = match self.load(child, wanted) {
            Ok(node) => node,
            Err(error) if is_damage(&error) => {
                lost.push((here.path.to_vec(), (object_of(child)?, bytes, error)));
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let right = self.below(&node, wanted, here, lost)?;
        if right {
            let _new = self.right.insert(half);
        }
        Ok(right)
    }

    fn load(&mut self, child: &Child, wanted: Wanted<'_>) -> Result<TreeNode> {
        if let Some(error) = self.is_lost(child)? {
            return Err(error);
        }
        let plain = self.runtime.block_on(self.repository.chunk(SealKind::Tree, child.id, child.place))?;
        let node = self.repository.parse_tree(child.id, plain.bytes())?;
        let other = Corrupt::Field { what: "sort of a tree node", wanted: "what the one above says" };
        match (wanted, &node) {
            (Wanted::Directory { says, first, end }, node) => node.judge(says, first, end)?,
            (Wanted::Top, TreeNode::Top(_)) | (Wanted::Attributes, TreeNode::Attributes(_)) => {}
            _ => return Err(other.into()),
        }
        Ok(node)
    }

    fn below(
        &mut self,
        node: &TreeNode,
        wanted: Wanted<'_>,
        here: Here<'_>,
        lost: &mut Vec<LostFile>,
    ) -> Result<bool> {
        match node {
            TreeNode::Top(entry) => self.entry(entry, here, lost),
            TreeNode::Leaf(entries) => entries.iter().try_fold(true, |right, entry| {
                let separator: &[u8] = if here.path.is_empty() { b"" } else { b"/" };
                let path = [here.path, separator, &entry.name].concat();
                Ok(self.entry(entry, Here { path: &path, ..here }, lost)? && right)
            }),
            TreeNode::Branch { level, below } => {
                let last = match wanted {
                    Wanted::Directory { end, .. } => end,
                    _ => None,
                };
                let ends = below.iter().skip(1).map(|next| Some(&next.first[..])).chain([last]);
                below.iter().zip(ends).try_fold(true, |right, (below, end)| {
                    let (child, rows, totals) = (below.child, below.rows, below.totals);
                    let says = &Directory { child, level: level - 1, rows, totals };
                    let wanted = Wanted::Directory { says, first: Some(&below.first), end };
                    Ok(self.tree_node(&child, wanted, here, lost)? && right)
                })
            }
            TreeNode::Attributes(set) => self.values(set, here, lost),
            TreeNode::Sightings(_) => Ok(true),
        }
    }

    fn entry(&mut self, entry: &Entry, here: Here<'_>, lost: &mut Vec<LostFile>) -> Result<bool> {
        let attributes = match &entry.attributes {
            Attributes::None => true,
            Attributes::Here(set) => self.values(set, here, lost)?,
            Attributes::Node(child) => self.tree_node(child, Wanted::Attributes, here, lost)?,
        };
        let content = match &entry.content {
            Content::Directory(Some(says)) => self.directory(says, here, lost)?,
            Content::File(FileContent::Chunk { len, child }) => {
                self.chunk(child, 0..u64::from(*len), here, lost)?
            }
            Content::File(FileContent::Map { len, level, child, .. }) => {
                let mut ranges = Vec::new();
                let right = self.node(child, *level, 0..*len, Shape::Cut, &mut ranges)?;
                lost.extend(ranges.into_iter().map(|lost| (here.path.to_vec(), lost)));
                right
            }
            _ => true,
        };
        Ok(attributes && content)
    }

    fn directory(&mut self, says: &Directory, here: Here<'_>, lost: &mut Vec<LostFile>) -> Result<bool> {
        if here.depth >= limits::TREE_DEPTH_MAX {
            let (found, limit) = (u64::from(here.depth) + 1, limits::TREE_DEPTH_MAX.into());
            let error = Corrupt::Limit { what: "depth of a directory", found, limit };
            lost.push((here.path.to_vec(), (object_of(&says.child)?, 0..says.totals.bytes, error.into())));
            return Ok(false);
        }
        let wanted = Wanted::Directory { says, first: None, end: None };
        self.tree_node(&says.child, wanted, Here { depth: here.depth + 1, ..here }, lost)
    }

    fn values(&mut self, set: &[Attribute], here: Here<'_>, lost: &mut Vec<LostFile>) -> Result<bool> {
        set.iter().try_fold(true, |right, attribute| match &attribute.value {
            Value::Here(_) => Ok(right),
            Value::Chunk { child, .. } => Ok(self.chunk(child, 0..0, here, lost)? && right),
        })
    }

    fn chunk(
        &mut self,
        child: &Child,
        range: Range<u64>,
        here: Here<'_>,
        lost: &mut Vec<LostFile>,
    ) -> Result<bool> {
        match self.is_lost(child)? {
            None => Ok(true),
            Some(error) => {
                lost.push((here.path.to_vec(), (object_of(child)?, range, error)));
                Ok(false)
            }
        }
    }
}
