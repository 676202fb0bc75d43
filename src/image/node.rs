//! Nodes as the engine keeps them: opened, held to their id, and parsed.

use crate::error::{Context, Error, Kind, Result};
use crate::format::node::Node;
use crate::format::tree::{Entry, TreeNode};
use crate::format::{ChunkId, Corrupt, Place, ids::SealKind};
use crate::repo::Repository;
use crate::seal::Verified;
use bytes::Bytes;
use std::sync::Arc;

/// A node of either kind. Cheap to clone.
#[derive(Clone)]
pub(super) enum Loaded {
    /// Of a map.
    Map(Arc<Node>),
    /// Of a tree.
    Tree(Arc<Opened>),
}

/// A node of a tree, and the bytes that its names and contents are parts of.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) plain: Verified,
    pub(super) node: TreeNode,
}

impl Opened {
    fn weight(&self) -> usize {
        let rows = match &self.node {
            TreeNode::Top(_) => size_of::<Entry>(),
            TreeNode::Leaf(entries) => size_of_val(&entries[..]),
            TreeNode::Branch { below, .. } => size_of_val(&below[..]),
            TreeNode::Attributes(set) => size_of_val(&set[..]),
            TreeNode::Sightings(sightings) => size_of_val(&sightings.rows[..]),
        };
        // Owners and sets of attributes take no more than a few times their bytes.
        rows + 2 * self.plain.len() + 64
    }
}

impl Loaded {
    /// About how many bytes it keeps in memory.
    pub(super) fn weight(&self) -> usize {
        match self {
            Loaded::Map(node) => size_of_val(&node.entries[..]) + 64,
            Loaded::Tree(node) => node.weight(),
        }
    }

    /// As a node of a map, where `id` was asked for.
    pub(super) fn map(self, id: ChunkId) -> Result<Arc<Node>> {
        match self {
            Loaded::Map(node) => Ok(node),
            Loaded::Tree(_) => {
                Err(other_kind(SealKind::Tree, SealKind::Node)).context(|| format!("read map node {id}"))
            }
        }
    }

    /// As a node of a tree, where `id` was asked for.
    pub(super) fn tree(self, id: ChunkId) -> Result<Arc<Opened>> {
        match self {
            Loaded::Tree(node) => Ok(node),
            Loaded::Map(_) => {
                Err(other_kind(SealKind::Node, SealKind::Tree)).context(|| format!("read tree node {id}"))
            }
        }
    }
}

fn other_kind(found: SealKind, wanted: SealKind) -> Error {
    Corrupt::OtherKind { found: found.byte(), wanted: wanted.byte() }.into()
}

/// Fetches, opens and parses one node; for the engine. With it come the sealed bytes, if it `keeps` them and it was where it should be.
pub(super) async fn load(
    repository: &Repository,
    kind: SealKind,
    id: ChunkId,
    place: Place,
    keeps: bool,
) -> Result<(Loaded, Option<Bytes>)> {
    let here = match keeps {
        true => repository.chunk_and_seal(kind, id, place).await.map(Some),
        false => Ok(None),
    };
    let (plain, sealed) = match here {
        Ok(Some((plain, sealed))) => (plain, Some(sealed)),
        Err(error) if !matches!(error.kind(), Kind::Missing | Kind::Corrupt) => return Err(error),
        _ => (repository.chunk(kind, id, place).await?, None),
    };
    Ok((parse(repository, kind, id, plain)?, sealed))
}

/// Parses an opened node and holds it to its id.
pub(super) fn parse(repository: &Repository, kind: SealKind, id: ChunkId, plain: Verified) -> Result<Loaded> {
    match kind {
        SealKind::Tree => {
            let node = repository.parse_tree(id, plain.bytes())?;
            Ok(Loaded::Tree(Arc::new(Opened { plain, node })))
        }
        _ => Ok(Loaded::Map(Arc::new(repository.parse_node(id, &plain)?))),
    }
}
