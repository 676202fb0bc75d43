//! Building the nodes of a directory from its entries, which come in the order of their names; and the sightings beside them.
//!
//! Where a node ends is decided by the names in it and by nothing else, so a directory has the same nodes whoever wrote it and
//! whatever it held before, and one name more or less changes one node of each level. The rule is in FORMAT.md; readers do without.

use crate::error::{Error, Kind, Result};
use crate::format::limits;
use crate::format::node::Child;
use crate::format::record::Root;
use crate::format::shown::path_text;
use crate::format::tree::{
    Attributes, Below, Content, Directory, Entry, FileContent, Sighting, Sightings, Totals, TreeNode, Value,
    is_file_name,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// No node but the last of a level is lighter.
const WEIGHT_MIN: u64 = 8 << 10;
/// How much heavier than that a node becomes, on average.
const WEIGHT_GOAL: u64 = 32 << 10;
/// No node is heavier, but for its last row.
const WEIGHT_MAX: u64 = 128 << 10;
/// What a row weighs beside what is variable in it.
const ROW_WEIGHT: u64 = 64;

/// Stores a node and says where it is.
pub trait Nodes {
    /// Stores a node, unless it is known.
    fn add_tree(&mut self, node: &TreeNode) -> Result<Child>;
}

impl Nodes for crate::repo::writer::Writer {
    fn add_tree(&mut self, node: &TreeNode) -> Result<Child> {
        crate::repo::writer::Writer::add_tree(self, node)
    }
}

/// A directory as its own entry will have it, and the sightings beside its top node. Nothing: it is empty.
pub type Built = Option<(Directory, Child)>;

/// Builds one directory.
#[derive(Default)]
pub struct DirBuilder {
    leaf: Open<Entry>,
    /// The open node of each level above.
    above: Vec<Open<Below>>,
}

/// The open node of a level.
struct Open<T> {
    rows: Vec<T>,
    sightings: Vec<Sighting>,
    weight: u64,
    attributes: usize,
}

impl<T> Default for Open<T> {
    fn default() -> Open<T> {
        Open { rows: Vec::new(), sightings: Vec::new(), weight: 0, attributes: 0 }
    }
}

impl<T> Open<T> {
    /// Takes a row; whether the node ends behind it.
    fn add(&mut self, level: usize, name: &[u8], row: T, weight: u64, sighting: Sighting) -> bool {
        self.rows.push(row);
        self.sightings.push(sighting);
        self.weight = self.weight.saturating_add(weight);
        let full = self.weight >= WEIGHT_MAX || self.rows.len() >= usize::from(limits::TREE_ROWS_MAX);
        full || (self.weight >= WEIGHT_MIN && ends(level, name, weight))
    }
}

/// Whether a node may end behind a row: as likely as it is heavy.
fn ends(level: usize, name: &[u8], weight: u64) -> bool {
    let hash = xxh3_64_with_seed(name, level as u64);
    u128::from(hash) * u128::from(WEIGHT_GOAL) < u128::from(weight) << 64
}

impl DirBuilder {
    /// The next entry, and what was seen of it. A name that no reader takes for one is refused: it would cost all entries of its node.
    pub fn add(&mut self, nodes: &mut dyn Nodes, entry: Entry, sighting: Sighting) -> Result<()> {
        if !is_file_name(&entry.name) {
            let words = format!("{} is no name that a backup can hold", path_text(&entry.name));
            return Err(Error::new(Kind::Source, words));
        }
        let (weight, name) = (weight(&entry), entry.name.clone());
        self.leaf.attributes += match &entry.attributes {
            Attributes::Here(set) => set.len(),
            _ => 0,
        };
        let ends = self.leaf.add(0, &name, entry, weight, sighting);
        if ends || self.leaf.attributes >= usize::from(limits::ATTRIBUTES_MAX) / 2 {
            self.close_leaf(nodes)?;
        }
        Ok(())
    }

    /// A node of the directory that is stored already, of this level, and the sightings beside it. What is open below its level ends before it:
    /// nothing is, where the node begins as the rule has it.
    pub fn add_node(&mut self, nodes: &mut dyn Nodes, level: u8, below: Below, beside: Child) -> Result<()> {
        let level = usize::from(level);
        if !self.leaf.rows.is_empty() {
            self.close_leaf(nodes)?;
        }
        for lower in 0..level {
            if self.above.get(lower).is_some_and(|open| !open.rows.is_empty()) {
                self.close_branch(nodes, lower)?;
            }
        }
        self.place(nodes, level, below, beside)
    }

    /// The whole directory.
    pub fn finish(mut self, nodes: &mut dyn Nodes) -> Result<Built> {
        if !self.leaf.rows.is_empty() {
            self.close_leaf(nodes)?;
        }
        let mut level = 0;
        while level < self.above.len() {
            let is_top = level + 1 == self.above.len();
            // The node alone on its level is the top: nothing has to stand above it.
            if let (true, [only]) = (is_top, &self.above[level].rows[..]) {
                let directory =
                    Directory { child: only.child, level: level as u8, rows: only.rows, totals: only.totals };
                let beside = self.above[level].sightings.first().and_then(|sighting| sighting.below);
                return Ok(beside.map(|beside| (directory, beside)));
            }
            if !self.above[level].rows.is_empty() {
                self.close_branch(nodes, level)?;
            }
            level += 1;
        }
        Ok(None)
    }

    fn close_leaf(&mut self, nodes: &mut dyn Nodes) -> Result<()> {
        let Open { rows, sightings, .. } = std::mem::take(&mut self.leaf);
        let Some(first) = rows.first().map(|entry| entry.name.clone()) else { return Ok(()) };
        let node = TreeNode::Leaf(rows);
        let below = |child| Below { first, rows: node.rows(), totals: node.totals(), child };
        self.store(nodes, &node, sightings, below, 0)
    }

    fn close_branch(&mut self, nodes: &mut dyn Nodes, level: usize) -> Result<()> {
        let Open { rows, sightings, .. } = std::mem::take(&mut self.above[level]);
        let Some(first) = rows.first().map(|below| below.first.clone()) else { return Ok(()) };
        let node = TreeNode::Branch { level: level as u8 + 1, below: rows };
        let below = |child| Below { first, rows: node.rows(), totals: node.totals(), child };
        self.store(nodes, &node, sightings, below, level + 1)
    }

    /// Stores a complete node of `level` and what was seen beside it, and tells the level above.
    fn store(
        &mut self,
        nodes: &mut dyn Nodes,
        node: &TreeNode,
        sightings: Vec<Sighting>,
        below: impl FnOnce(Child) -> Below,
        level: usize,
    ) -> Result<()> {
        let (child, beside) = store_both(nodes, node, sightings)?;
        self.place(nodes, level, below(child), beside)
    }

    /// Tells the level above of a node of `level`.
    fn place(&mut self, nodes: &mut dyn Nodes, level: usize, below: Below, beside: Child) -> Result<()> {
        if level > usize::from(limits::TREE_LEVEL_MAX) {
            return Err(Error::new(Kind::Source, "a directory has more entries than a backup can hold"));
        }
        while self.above.len() <= level {
            self.above.push(Open::default());
        }
        let (name, weight) = (below.first.clone(), ROW_WEIGHT + below.first.len() as u64);
        let sighting = Sighting { spot: None, below: Some(beside) };
        if self.above[level].add(level + 1, &name, below, weight, sighting) {
            self.close_branch(nodes, level)?;
        }
        Ok(())
    }
}

/// The tops of a tree and of the sightings beside it; `root` is the root directory, without a name.
pub fn top(nodes: &mut dyn Nodes, root: Entry, sighting: Sighting) -> Result<(Root, Root, Totals)> {
    let totals = root.totals();
    let (child, beside) = store_both(nodes, &TreeNode::Top(root), vec![sighting])?;
    let as_root = |child: Child| Root { id: child.id, place: child.place, level: 0, chunk_size: 0 };
    Ok((as_root(child), as_root(beside), totals))
}

fn store_both(nodes: &mut dyn Nodes, node: &TreeNode, rows: Vec<Sighting>) -> Result<(Child, Child)> {
    let child = nodes.add_tree(node)?;
    let beside = nodes.add_tree(&TreeNode::Sightings(Sightings { of: child.id, rows }))?;
    Ok((child, beside))
}

/// What an entry weighs: about the bytes that it takes.
fn weight(entry: &Entry) -> u64 {
    let content = match &entry.content {
        Content::File(FileContent::Inline(bytes)) => bytes.len(),
        Content::Symlink(target) => target.len(),
        _ => 0,
    };
    let attributes = match &entry.attributes {
        Attributes::Here(set) => set.iter().map(|one| one.name.len() + value_weight(&one.value)).sum(),
        _ => 0,
    };
    ROW_WEIGHT + (entry.name.len() + content + attributes) as u64
}

fn value_weight(value: &Value) -> usize {
    match value {
        Value::Here(bytes) => bytes.len() + 5,
        Value::Chunk { .. } => 48,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::{Owner, Time};
    use crate::format::{ChunkId, PackId, Place};
    use bytes::Bytes;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// Nodes by id, as a repository has them; the ids are digests of what ids cover.
    #[derive(Default)]
    struct Kept(BTreeMap<[u8; 32], TreeNode>);

    impl Nodes for Kept {
        fn add_tree(&mut self, node: &TreeNode) -> Result<Child> {
            use sha2::{Digest, Sha256};
            let canon = node.canon();
            let id: [u8; 32] = Sha256::digest(&canon).into();
            let bytes = Bytes::from(node.write(canon));
            let _same = self.0.insert(id, TreeNode::parse(&bytes)?.0);
            Ok(Child { id: ChunkId(id), place: Place { pack: PackId([1; 16]), offset: 48, len: 99 } })
        }
    }

    fn file(name: &str) -> Entry {
        Entry {
            name: Bytes::copy_from_slice(name.as_bytes()),
            mode: 0o644,
            owner: Arc::new(Owner::default()),
            mtime: Time::default(),
            link: None,
            changed: false,
            attributes: Attributes::None,
            content: Content::File(FileContent::Zeros(3)),
        }
    }

    fn build<'a>(kept: &mut Kept, names: impl Iterator<Item = &'a String>) -> Built {
        let mut builder = DirBuilder::default();
        for name in names {
            builder.add(kept, file(name), Sighting::default()).unwrap();
        }
        builder.finish(kept).unwrap()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("file-{number:07}.txt")).collect()
    }

    fn listed(kept: &Kept, top: &Directory) -> Vec<Bytes> {
        let node = &kept.0[&top.child.id.0];
        node.judge(top, None, None).unwrap();
        match node {
            TreeNode::Leaf(entries) => entries.iter().map(|entry| entry.name.clone()).collect(),
            TreeNode::Branch { level, below } => below
                .iter()
                .flat_map(|below| {
                    let (child, rows, totals) = (below.child, below.rows, below.totals);
                    listed(kept, &Directory { child, level: level - 1, rows, totals })
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_number_of_entries_comes_back_in_order() {
        for count in [0, 1, 2, 100, 1000, 20_000] {
            let (mut kept, names) = (Kept::default(), names(count));
            let built = build(&mut kept, names.iter());
            let back = built.map_or(Vec::new(), |(top, _)| listed(&kept, &top));
            assert!(back.iter().eq(names.iter().map(String::as_bytes)), "{count}");
        }
    }

    #[test]
    fn a_name_that_no_reader_would_take_is_refused_and_costs_the_others_nothing() {
        let (mut kept, mut builder) = (Kept::default(), DirBuilder::default());
        let most = "n".repeat(255);
        builder.add(&mut kept, file(&most), Sighting::default()).unwrap();
        for name in ["", ".", "a/b", &"n".repeat(256), &"ü".repeat(255)] {
            let error = builder.add(&mut kept, file(name), Sighting::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::Source, "{name}");
        }
        let (top, _) = builder.finish(&mut kept).unwrap().unwrap();
        assert_eq!(listed(&kept, &top), [most]);
    }

    #[test]
    fn a_hundred_thousand_entries_are_found_through_three_nodes() {
        let mut kept = Kept::default();
        let (top, _) = build(&mut kept, names(100_000).iter()).unwrap();
        assert!(top.level <= 2, "{}", top.level);
        assert_eq!((top.rows, top.totals.files, top.totals.bytes), (100_000, 100_000, 300_000));
        let heaviest = kept.0.values().map(|node| node.write(node.canon()).len()).max();
        assert!(heaviest.unwrap() < 256 << 10, "{heaviest:?}");
    }

    #[test]
    fn one_name_more_or_less_changes_a_node_of_each_level() {
        let (mut kept, mut names) = (Kept::default(), names(30_000));
        let before = build(&mut kept, names.iter());
        let nodes = kept.0.len();
        names.insert(15_000, format!("{}x", names[14_999]));
        let _other = build(&mut kept, names.iter());
        let added = kept.0.len() - nodes;
        assert!(added <= 2 * 2 * 3, "{added} nodes");
        let _gone = names.remove(15_000);
        assert_eq!(build(&mut kept, names.iter()), before, "what was there before leaves no trace");
    }

    /// Adds what is in a directory: nodes as they are, as far as all names in them are below `until` or not below `from`; else entry by entry.
    fn add_again(
        kept: &mut Kept,
        builder: &mut DirBuilder,
        at: (Below, Child, u8),
        end: Option<&Bytes>,
        (until, from): (&[u8], &[u8]),
    ) {
        let (below, beside, level) = at;
        if end.is_some_and(|end| **end <= *until) || (*below.first >= *from && !below.first.is_empty()) {
            return builder.add_node(kept, level, below, beside).unwrap();
        }
        let TreeNode::Sightings(sightings) = kept.0[&beside.id.0].clone() else { panic!("no sightings") };
        match kept.0[&below.child.id.0].clone() {
            TreeNode::Leaf(entries) => {
                for entry in entries {
                    if *entry.name == *until {
                        let new = file(&format!("{}x", std::str::from_utf8(until).unwrap()));
                        builder.add(kept, entry, Sighting::default()).unwrap();
                        builder.add(kept, new, Sighting::default()).unwrap();
                    } else {
                        builder.add(kept, entry, Sighting::default()).unwrap();
                    }
                }
            }
            TreeNode::Branch { level, below: all } => {
                let ends: Vec<Option<Bytes>> =
                    all.iter().skip(1).map(|next| Some(next.first.clone())).chain([end.cloned()]).collect();
                for ((below, row), end) in all.into_iter().zip(sightings.rows).zip(ends) {
                    let at = (below, row.below.unwrap(), level - 1);
                    add_again(kept, builder, at, end.as_ref(), (until, from));
                }
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nodes_taken_over_whole_give_what_their_entries_would_have_given() {
        let (mut kept, mut names) = (Kept::default(), names(60_000));
        let (top, beside) = build(&mut kept, names.iter()).unwrap();
        assert!(top.level >= 1);
        for at in [0, 1, 777, 30_000, 59_999] {
            let name = names[at].clone();
            names.insert(at + 1, format!("{name}x"));
            let wanted = build(&mut kept, names.iter());
            let mut builder = DirBuilder::default();
            let first = Bytes::new();
            let below = Below { first, rows: top.rows, totals: top.totals, child: top.child };
            let (until, from) =
                (name.as_bytes(), names.get(at + 2).map_or(&b"\xff"[..], |name| name.as_bytes()));
            add_again(&mut kept, &mut builder, (below, beside, top.level), None, (until, from));
            assert_eq!(builder.finish(&mut kept).unwrap(), wanted, "{at}");
            let _gone = names.remove(at + 1);
        }
    }

    #[test]
    fn a_node_that_begins_where_none_would_is_a_part_of_the_directory_all_the_same() {
        let (mut kept, names) = (Kept::default(), names(20_000));
        let (late, beside) = build(&mut kept, names[10_003..].iter()).unwrap();
        let mut builder = DirBuilder::default();
        for name in &names[..10_003] {
            builder.add(&mut kept, file(name), Sighting::default()).unwrap();
        }
        let first = Bytes::copy_from_slice(names[10_003].as_bytes());
        let below = Below { first, rows: late.rows, totals: late.totals, child: late.child };
        builder.add_node(&mut kept, late.level, below, beside).unwrap();
        let (top, _) = builder.finish(&mut kept).unwrap().unwrap();
        assert!(listed(&kept, &top).iter().eq(names.iter().map(String::as_bytes)));
    }

    #[test]
    fn x2_names_made_to_end_every_node_cost_no_more_than_the_least_node() {
        let chosen: Vec<String> = (0..1_000_000)
            .map(|number| format!("{number:08}"))
            .filter(|name| ends(0, name.as_bytes(), 72))
            .collect();
        assert!(chosen.len() > 1000);
        let mut kept = Kept::default();
        let (top, _) = build(&mut kept, chosen.iter()).unwrap();
        let leaves = kept.0.values().filter(|node| matches!(node, TreeNode::Leaf(_))).count();
        assert!(leaves <= chosen.len() * 72 / WEIGHT_MIN as usize + 1, "{leaves}");
        assert_eq!(listed(&kept, &top).len(), chosen.len());
    }

    #[test]
    fn sightings_stand_beside_every_node_and_name_it() {
        let mut kept = Kept::default();
        let (top, beside) = build(&mut kept, names(5000).iter()).unwrap();
        let mut pairs = vec![(top.child, beside)];
        let mut seen = 0;
        while let Some((child, beside)) = pairs.pop() {
            let TreeNode::Sightings(sightings) = &kept.0[&beside.id.0] else { panic!("no sightings") };
            assert_eq!(sightings.of, child.id);
            match &kept.0[&child.id.0] {
                TreeNode::Leaf(entries) => seen += usize::from(entries.len() == sightings.rows.len()),
                TreeNode::Branch { below, .. } => {
                    assert_eq!(below.len(), sightings.rows.len());
                    let rows = below.iter().zip(&sightings.rows);
                    pairs.extend(rows.map(|(below, row)| (below.child, row.below.unwrap())));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(seen > 3);
    }
}
