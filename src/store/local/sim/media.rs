//! What is on a simulated disk, what is only meant to be, and what a crash makes of that.

use super::super::disk::{Facts, Identity, Sort};
use crate::store::dice::Dice;
use rustix::io::{Errno, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// How many crash states of one moment are looked at; of more, so many that chance picks.
const CRASHES_MAX: u64 = 4096;

/// The folder that all is in.
pub(super) const ROOT: u64 = 1;

/// What stands on the disk and what does not yet, at one moment.
#[derive(Clone)]
pub(super) struct Media {
    live: Nodes,
    synced: Nodes,
    unsynced: Vec<Change>,
    next_node: u64,
}

type Nodes = BTreeMap<u64, Node>;

#[derive(Clone)]
pub(super) enum Node {
    File { bytes: Arc<Vec<u8>>, modified: SystemTime },
    Folder { names: BTreeMap<String, u64> },
}

#[derive(Clone)]
pub(super) enum Change {
    Write { node: u64, at: usize, bytes: Arc<Vec<u8>>, modified: SystemTime },
    Enter { node: u64, name: String, what: u64 },
    Leave { node: u64, name: String },
}

impl Media {
    /// Nothing but an empty root.
    pub(super) fn new() -> Media {
        let nodes = Nodes::from([(ROOT, Node::Folder { names: BTreeMap::new() })]);
        Media { live: nodes.clone(), synced: nodes, unsynced: Vec::new(), next_node: ROOT + 1 }
    }

    /// Forgets what a sync of `node` would have kept; what is seen until the next crash does not show it.
    pub(super) fn lose(&mut self, node: u64) {
        self.unsynced.retain(|change| change.node() != node);
    }

    pub(super) fn make(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    /// A node that has no name yet; its emptiness needs no sync, its name does.
    pub(super) fn new_node(&mut self, node: Node) -> u64 {
        let number = self.next_node;
        self.next_node += 1;
        drop(self.live.insert(number, node.clone()));
        drop(self.synced.insert(number, node));
        number
    }

    pub(super) fn sync(&mut self, node: u64) {
        let (now_synced, unsynced) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|change| change.node() == node);
        self.unsynced = unsynced;
        let now_synced: Vec<Change> = now_synced;
        now_synced.iter().for_each(|change| change.apply(&mut self.synced));
    }

    /// All that a crash can make of this moment, or a choice of it.
    pub(super) fn crashes(&self) -> Vec<Media> {
        let fates = |change: &Change| change.fates().len() as u64;
        let count = self.unsynced.iter().map(fates).fold(1u64, u64::saturating_mul);
        if count <= CRASHES_MAX {
            return (0..count).map(|choice| self.crash(choice)).collect();
        }
        let dice = Dice::seeded(count);
        // The first choice is that nothing was kept, the last that everything was.
        [0, count - 1]
            .into_iter()
            .chain((2..CRASHES_MAX).map(|_| dice.below(count)))
            .map(|choice| self.crash(choice))
            .collect()
    }

    fn crash(&self, mut choice: u64) -> Media {
        let mut nodes = self.synced.clone();
        for change in &self.unsynced {
            let fates = change.fates();
            if let Some(kept) = &fates[(choice % fates.len() as u64) as usize] {
                kept.apply(&mut nodes);
            }
            choice /= fates.len() as u64;
        }
        Media { live: nodes.clone(), synced: nodes, unsynced: Vec::new(), next_node: self.next_node }
    }

    pub(super) fn names(&self, folder: u64) -> Result<&BTreeMap<String, u64>> {
        match self.live.get(&folder) {
            Some(Node::Folder { names }) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn find(&self, folder: u64, name: &str) -> Result<u64> {
        self.names(folder)?.get(name).copied().ok_or(Errno::NOENT)
    }

    pub(super) fn must_be_free(&self, folder: u64, name: &str) -> Result<()> {
        if self.find(folder, name).is_ok() { Err(Errno::EXIST) } else { Ok(()) }
    }

    pub(super) fn file(&self, node: u64) -> Result<&Arc<Vec<u8>>> {
        match self.live.get(&node) {
            Some(Node::File { bytes, .. }) => Ok(bytes),
            _ => Err(Errno::ISDIR),
        }
    }

    pub(super) fn facts(&self, node: u64) -> Result<Facts> {
        let (sort, len, modified, mode) = match self.live.get(&node).ok_or(Errno::NOENT)? {
            Node::File { bytes, modified } => (Sort::File, bytes.len() as u64, *modified, 0o600),
            Node::Folder { .. } => (Sort::Folder, 0, SystemTime::UNIX_EPOCH, 0o700),
        };
        let identity = Identity { device: 0, inode: node };
        Ok(Facts { sort, len, modified, identity, owner: 0, mode })
    }

    pub(super) fn paths(&self, folder: u64, prefix: &str, found: &mut Vec<String>) {
        for (name, node) in self.names(folder).into_iter().flatten() {
            match self.live.get(node) {
                Some(Node::Folder { .. }) => self.paths(*node, &format!("{prefix}{name}/"), found),
                _ => found.push(format!("{prefix}{name}")),
            }
        }
    }
}

impl Change {
    /// Whose sync makes it last.
    fn node(&self) -> u64 {
        match self {
            Change::Write { node, .. } | Change::Enter { node, .. } | Change::Leave { node, .. } => *node,
        }
    }

    fn apply(&self, nodes: &mut Nodes) {
        match (self, nodes.get_mut(&self.node())) {
            (Change::Write { at, bytes: new, modified: when, .. }, Some(Node::File { bytes, modified })) => {
                let bytes = Arc::make_mut(bytes);
                bytes.resize(bytes.len().max(at + new.len()), 0);
                bytes[*at..at + new.len()].copy_from_slice(new);
                *modified = *when;
            }
            (Change::Enter { name, what, .. }, Some(Node::Folder { names })) => {
                let _ = names.insert(name.clone(), *what);
            }
            (Change::Leave { name, .. }, Some(Node::Folder { names })) => {
                let _ = names.remove(name);
            }
            _ => {}
        }
    }

    /// What can become of it in a crash; the first is nothing, the last is itself.
    fn fates(&self) -> Vec<Option<Change>> {
        let Change::Write { node, at, bytes, modified } = self else {
            return vec![None, Some(self.clone())];
        };
        let other = |bytes: Vec<u8>| {
            Some(Change::Write { node: *node, at: *at, bytes: Arc::new(bytes), modified: *modified })
        };
        let half = bytes[..bytes.len() / 2].to_vec();
        let half_then_zeros = [&half[..], &vec![0; bytes.len() - half.len()]].concat();
        vec![None, other(half), other(half_then_zeros), other(vec![0; bytes.len()]), Some(self.clone())]
    }
}
