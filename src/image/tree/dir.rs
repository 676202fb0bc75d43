//! A directory of a tree: by name, by number, or page by page.

use super::super::engine::Engine;
use super::super::node::{Loaded, Opened};
use super::Member;
use crate::error::{Context, Error, Result};
use crate::format::ChunkId;
use crate::format::ids::SealKind;
use crate::format::tree::{Below, Directory, Totals, TreeNode};
use bytes::Bytes;
use std::sync::Arc;

/// A directory. Its entries are in the order of their names, byte by byte.
#[derive(Clone)]
pub struct Dir {
    engine: Arc<Engine>,
    below: Option<Directory>,
    depth: u16,
}

/// What is looked for on the way down.
#[derive(Clone, Copy)]
pub(super) enum Goal<'a> {
    /// The entry of this name.
    Name(&'a [u8]),
    /// The entry with this number.
    Row(u64),
}

/// Where a node stands: what the one above says of it, and how many entries lie before it.
#[derive(Clone)]
pub(super) struct Here {
    pub(super) says: Directory,
    first: Option<Bytes>,
    end: Option<Bytes>,
    before: u64,
}

/// A leaf, and the number of its first entry.
pub(super) struct Leaf {
    pub(super) part: Arc<Opened>,
    before: u64,
}

pub(super) enum Step {
    /// To the node below that this row refers to.
    Down(Here, usize),
    Leaf(Leaf),
    Nothing,
}

impl Dir {
    /// `depth`: of its entries.
    pub(super) fn new(engine: Arc<Engine>, below: Option<Directory>, depth: u16) -> Dir {
        Dir { engine, below, depth }
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// How many entries it has.
    pub fn len(&self) -> u64 {
        self.below.map_or(0, |below| below.rows)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.below.is_none()
    }

    /// What lies below it, at any depth.
    pub fn totals(&self) -> Totals {
        self.below.map_or_else(Totals::default, |below| below.totals)
    }

    /// Stands for all that is in it: directories with one id are equal, down to the last byte. An empty one has none.
    pub fn id(&self) -> Option<ChunkId> {
        self.below.map(|below| below.child.id)
    }

    /// The entry of this name.
    pub async fn lookup(&self, name: &[u8]) -> Result<Option<Member>> {
        Ok(self.leaf(Goal::Name(name)).await?.and_then(|leaf| self.named(&leaf, name)))
    }

    /// The same, if nothing has to be waited for.
    pub fn lookup_now(&self, name: &[u8]) -> Option<Result<Option<Member>>> {
        let leaf = self.leaf_now(Goal::Name(name))?;
        Some(leaf.map(|leaf| leaf.and_then(|leaf| self.named(&leaf, name))))
    }

    /// The entry with this number; they count from 0 and never change.
    pub async fn at(&self, number: u64) -> Result<Option<Member>> {
        Ok(self.page(number, 1).await?.pop())
    }

    /// Up to `max` entries from the one with the number `from` on; none only at the end. The next page begins at `from` and as many as
    /// came.
    pub async fn page(&self, from: u64, max: usize) -> Result<Vec<Member>> {
        let mut page = Vec::new();
        while page.len() < max {
            let next = from.saturating_add(page.len() as u64);
            let Some(leaf) = self.leaf(Goal::Row(next)).await? else { break };
            self.append(&mut page, &leaf, next, max);
        }
        Ok(page)
    }

    /// The rest of the leaf that holds the entry `from`, up to `max` of them, if nothing has to be waited for.
    pub fn page_now(&self, from: u64, max: usize) -> Option<Result<Vec<Member>>> {
        let mut page = Vec::new();
        match self.leaf_now(Goal::Row(from))? {
            Ok(Some(leaf)) => self.append(&mut page, &leaf, from, max),
            Ok(None) => {}
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(page))
    }

    /// Has the first nodes of the directories among these entries fetched, neighbours together, without waiting for them: for who will look
    /// into all of them.
    pub fn expect_below(&self, page: &[Member]) {
        self.engine.expect_nodes(SealKind::Tree, page.iter().filter_map(Member::node_below).collect());
    }

    fn append(&self, page: &mut Vec<Member>, leaf: &Leaf, from: u64, max: usize) {
        let rows = usize::try_from(leaf.part.node.rows()).unwrap_or(usize::MAX);
        let first = usize::try_from(from - leaf.before).unwrap_or(usize::MAX);
        let room = max - page.len();
        page.extend((first..rows).take(room).map(|row| self.member(leaf, row)));
    }

    pub(super) fn member(&self, leaf: &Leaf, row: usize) -> Member {
        self.member_of(&leaf.part, leaf.before, row)
    }

    /// A row of a leaf before which so many entries lie.
    pub(super) fn member_of(&self, part: &Arc<Opened>, before: u64, row: usize) -> Member {
        let number = before.saturating_add(row as u64);
        Member { engine: Arc::clone(&self.engine), part: Arc::clone(part), row, number, depth: self.depth }
    }

    fn named(&self, leaf: &Leaf, name: &[u8]) -> Option<Member> {
        let TreeNode::Leaf(entries) = &leaf.part.node else { return None };
        let row = entries.binary_search_by(|entry| entry.name.as_ref().cmp(name)).ok()?;
        Some(self.member(leaf, row))
    }

    /// Where its top node stands.
    pub(super) fn start(&self) -> Option<Here> {
        self.below.map(|says| Here { says, first: None, end: None, before: 0 })
    }

    async fn leaf(&self, goal: Goal<'_>) -> Result<Option<Leaf>> {
        let Some(mut here) = self.start() else { return Ok(None) };
        loop {
            let part = self.fetch(&here).await?;
            match here.step(part, goal)? {
                Step::Down(next, _) => here = next,
                Step::Leaf(leaf) => return Ok(Some(leaf)),
                Step::Nothing => return Ok(None),
            }
        }
    }

    async fn fetch(&self, here: &Here) -> Result<Arc<Opened>> {
        let child = here.says.child;
        self.engine.node(SealKind::Tree, child.id, child.place).await?.tree(child.id)
    }

    /// The node that stands there, held to what the one above says of it.
    pub(super) async fn load(&self, here: &Here) -> Result<Arc<Opened>> {
        let part = self.fetch(here).await?;
        here.judge(&part)?;
        Ok(part)
    }

    fn leaf_now(&self, goal: Goal<'_>) -> Option<Result<Option<Leaf>>> {
        let Some(mut here) = self.start() else { return Some(Ok(None)) };
        loop {
            let Loaded::Tree(part) = self.engine.node_now(here.says.child.id)? else { return None };
            match here.step(part, goal) {
                Ok(Step::Down(next, _)) => here = next,
                Ok(Step::Leaf(leaf)) => return Some(Ok(Some(leaf))),
                Ok(Step::Nothing) => return Some(Ok(None)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Here {
    /// Which node it is.
    pub(super) fn id(&self) -> ChunkId {
        self.says.child.id
    }

    /// The first name in it; nothing comes before the top node's.
    pub(super) fn first(&self) -> &[u8] {
        self.first.as_deref().unwrap_or_default()
    }

    /// The first name of the node that comes next on its level, if one does.
    pub(super) fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// How many entries lie before it.
    pub(super) fn before(&self) -> u64 {
        self.before
    }

    fn judge(&self, part: &Opened) -> Result<()> {
        let judged = part.node.judge(&self.says, self.first.as_deref(), self.end.as_deref());
        judged.map_err(Error::from).context(|| format!("read tree node {}", self.says.child.id))
    }

    /// From a node to the one below it that the goal lies in, if there is one.
    pub(super) fn step(&self, part: Arc<Opened>, goal: Goal<'_>) -> Result<Step> {
        self.judge(&part)?;
        match &part.node {
            TreeNode::Branch { level, below } => Ok(self.down(level - 1, below, goal)),
            _ => match goal {
                Goal::Row(row) if row - self.before >= self.says.rows => Ok(Step::Nothing),
                _ => Ok(Step::Leaf(Leaf { part, before: self.before })),
            },
        }
    }

    fn down(&self, level: u8, all: &[Below], goal: Goal<'_>) -> Step {
        let row = match goal {
            Goal::Name(name) => {
                let Some(row) = all.partition_point(|below| below.first.as_ref() <= name).checked_sub(1)
                else {
                    return Step::Nothing;
                };
                row
            }
            Goal::Row(wanted) => match row_with(all, wanted - self.before) {
                Some(found) => found,
                None => return Step::Nothing,
            },
        };
        Step::Down(self.child(level, all, row), row)
    }

    /// Where a node of the one that stands here stands.
    pub(super) fn child(&self, level: u8, all: &[Below], row: usize) -> Here {
        let below = &all[row];
        let before = all[..row].iter().fold(self.before, |sum, below| sum.saturating_add(below.rows));
        let end = all.get(row + 1).map(|next| next.first.clone()).or_else(|| self.end.clone());
        let says = Directory { child: below.child, level, rows: below.rows, totals: below.totals };
        Here { says, first: Some(below.first.clone()), end, before }
    }
}

/// Which node holds the entry with a number.
fn row_with(all: &[Below], wanted: u64) -> Option<usize> {
    let mut before = 0u64;
    all.iter().position(|below| {
        before = before.saturating_add(below.rows);
        wanted < before
    })
}
