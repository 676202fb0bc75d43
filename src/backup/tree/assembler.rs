//! The last stage: what was found out becomes packs, maps and nodes, in the order of the tree.

use super::super::pipeline::Outcome;
use super::builder::{self, DirBuilder};
use super::map::CutMap;
use super::pipeline::TreePlan;
use super::task::{Body, Draft, Fact, Memory};
use super::worker::mark;
use crate::error::{Error, Kind, Result};
use crate::format::PackId;
use crate::format::node::Child;
use crate::format::record::Root;
use crate::format::shown::path_text;
use crate::format::tree::{
    Attribute, Attributes, Content, Entry, Referred, Sighting, Totals, TreeNode, Value,
};
use crate::repo::writer::Writer;
use bytes::Bytes;
use std::collections::HashMap;

/// Values of extended attributes that are longer become chunks.
const VALUE_HERE_MAX: usize = 256;
/// A set of extended attributes that is longer becomes a node.
const SET_HERE_MAX: usize = 1024;
/// So many files that could not be read are named; of the others it is said how many they are.
const UNREAD_MAX: usize = 10_000;

/// Puts a tree together.
pub(super) struct Assembler<'a, 'b> {
    plan: &'a TreePlan<'b>,
    writer: &'a mut Writer,
    keep_going: bool,
    open: Vec<Open>,
    large: Option<(Box<Draft>, CutMap)>,
    kept: HashMap<[u8; 16], (Entry, Sighting)>,
    top: Option<(Root, Root, Totals)>,
    changed: bool,
    bytes_new: u64,
    unread: Vec<String>,
    unread_more: u64,
}

/// A directory that is not complete.
struct Open {
    draft: Box<Draft>,
    builder: DirBuilder,
}

/// What came of it all.
pub(super) struct Assembled {
    pub(super) root: Root,
    pub(super) sightings: Root,
    pub(super) totals: Totals,
    pub(super) changed: bool,
    pub(super) bytes_new: u64,
    pub(super) unread: Vec<String>,
}

impl<'a, 'b> Assembler<'a, 'b> {
    pub(super) fn new(plan: &'a TreePlan<'b>, writer: &'a mut Writer, keep_going: bool) -> Assembler<'a, 'b> {
        Assembler {
            plan,
            writer,
            keep_going,
            open: Vec::new(),
            large: None,
            kept: HashMap::new(),
            top: None,
            changed: false,
            bytes_new: 0,
            unread: Vec::new(),
            unread_more: 0,
        }
    }

    /// The next fact, in order.
    pub(super) fn take(&mut self, pack: PackId, fact: Fact) -> Result<()> {
        match fact {
            Fact::Enter(draft) => self.open.push(Open { draft, builder: DirBuilder::default() }),
            Fact::Leave => return self.leave(),
            Fact::Known(entry, sighting) => return self.known(*entry, sighting),
            Fact::Made(draft, Body::Whole(content)) => return self.made(*draft, content),
            Fact::Made(draft, Body::Chunks(chunks)) => {
                let mut map = CutMap::default();
                self.chunks(pack, &mut map, chunks)?;
                let content = map.finish(self.writer)?;
                return self.made(*draft, Content::File(content));
            }
            Fact::Again { name, group, path, last } => return self.again(name, group, &path, last),
            Fact::Begin(draft) => self.large = Some((draft, CutMap::default())),
            Fact::Chunks(chunks) => {
                if let Some((draft, mut map)) = self.large.take() {
                    self.chunks(pack, &mut map, chunks)?;
                    self.large = Some((draft, map));
                }
            }
            Fact::Hole(len) => {
                if let Some((_, map)) = &mut self.large {
                    map.skip(len);
                }
            }
            Fact::Anew => {
                if let Some((_, map)) = &mut self.large {
                    *map = CutMap::default();
                }
            }
            Fact::End { look, changed } => {
                if let Some((mut draft, map)) = self.large.take() {
                    draft.entry.mtime = look.mtime;
                    draft.sighting.spot = draft.sighting.spot.map(|_| look.spot());
                    mark(&mut draft, changed);
                    let content = map.finish(self.writer)?;
                    if !changed && content.len() != look.size {
                        let (stored, name) = (content.len(), draft.entry.name.escape_ascii().to_string());
                        let words = format!(
                            "of {name}, {stored} of {} bytes were taken over: this is a bug",
                            look.size
                        );
                        return Err(Error::new(Kind::Unsupported, words));
                    }
                    return self.made(*draft, Content::File(content));
                }
            }
            Fact::Broken => self.large = None,
            Fact::Unread(path, error) => return self.unread(&path, error),
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some(Open { draft, builder }) = self.open.pop() else { return Ok(()) };
        let Draft { mut entry, mut sighting, attributes, .. } = *draft;
        let built = builder.finish(self.writer)?;
        entry.content = Content::Directory(built.map(|(directory, _)| directory));
        entry.attributes = self.attributes(attributes)?;
        sighting.below = built.map(|(_, beside)| beside);
        if self.open.is_empty() {
            self.top = Some(builder::top(self.writer, entry, sighting)?);
            return Ok(());
        }
        self.add(entry, sighting)
    }

    fn add(&mut self, entry: Entry, sighting: Sighting) -> Result<()> {
        if let Content::File(content) = &entry.content {
            self.plan.progress.add(content.len());
        }
        match self.open.last_mut() {
            Some(open) => open.builder.add(self.writer, entry, sighting),
            None => Ok(()),
        }
    }

    fn known(&mut self, entry: Entry, sighting: Sighting) -> Result<()> {
        for Referred { child, .. } in entry.children() {
            self.writer.reuse(child.place);
        }
        self.add(entry, sighting)
    }

    fn made(&mut self, draft: Draft, content: Content) -> Result<()> {
        let Draft { mut entry, sighting, attributes, memory } = draft;
        entry.content = content;
        entry.attributes = self.attributes(attributes)?;
        self.changed |= entry.changed;
        match (entry.link, memory) {
            (Some(link), Memory::Keep) => {
                let _before = self.kept.insert(link.group, (entry.clone(), sighting));
            }
            (Some(link), Memory::Forget) => {
                let _gone = self.kept.remove(&link.group);
            }
            _ => {}
        }
        self.add(entry, sighting)
    }

    fn again(&mut self, name: Bytes, group: [u8; 16], path: &[u8], last: bool) -> Result<()> {
        let kept = if last { self.kept.remove(&group) } else { self.kept.get(&group).cloned() };
        match kept {
            Some((entry, sighting)) => self.add(Entry { name, ..entry }, sighting),
            None => {
                let words = "its other name could not be read";
                self.unread(path, Error::new(Kind::Source, words))
            }
        }
    }

    fn unread(&mut self, path: &[u8], error: Error) -> Result<()> {
        if !self.keep_going {
            let hint = "--keep-going backs up the rest and lists what could not be read";
            return Err(if error.what_to_try().is_some() { error } else { error.hint(hint) });
        }
        tracing::warn!("{error}; it is not in the backup");
        match self.unread.len() < UNREAD_MAX {
            true => self.unread.push(path_text(path)),
            false => self.unread_more += 1,
        }
        Ok(())
    }

    fn chunks(&mut self, pack: PackId, map: &mut CutMap, chunks: Vec<(u32, Outcome)>) -> Result<()> {
        for (len, outcome) in chunks {
            let (id, place) = match outcome {
                Outcome::Zero => {
                    map.skip(len.into());
                    continue;
                }
                Outcome::Here(id, place) => {
                    self.writer.reuse(place);
                    (id, place)
                }
                Outcome::New(id, sealed) => {
                    let (place, new) = self.writer.add_data(pack, id, sealed, len)?;
                    self.bytes_new += if new { len.into() } else { 0 };
                    (id, place)
                }
            };
            map.add(self.writer, len, Child { id, place })?;
        }
        Ok(())
    }

    /// Small sets lie in the entry, large ones are nodes, large values chunks.
    fn attributes(&mut self, all: Vec<(Bytes, Bytes)>) -> Result<Attributes> {
        if all.is_empty() {
            return Ok(Attributes::None);
        }
        let mut set = Vec::with_capacity(all.len());
        let mut weight = 0;
        for (name, value) in all {
            weight += name.len();
            let value = match value.len() {
                len @ 0..=VALUE_HERE_MAX => {
                    weight += len;
                    Value::Here(value)
                }
                len => {
                    let child = self.writer.add_beside_nodes(&value)?;
                    Value::Chunk { len: len as u32, child }
                }
            };
            set.push(Attribute { name, value });
        }
        if weight <= SET_HERE_MAX && set.len() <= SET_HERE_MAX / 16 {
            return Ok(Attributes::Here(set.into()));
        }
        Ok(Attributes::Node(self.writer.add_tree(&TreeNode::Attributes(set))?))
    }

    /// The whole tree.
    pub(super) fn finish(mut self) -> Result<Assembled> {
        let incomplete = || Error::new(Kind::Source, "the walk through the source ended too early");
        let (root, sightings, totals) = self.top.ok_or_else(incomplete)?;
        if self.unread_more > 0 {
            self.unread.push(format!("and {} more", self.unread_more));
        }
        Ok(Assembled {
            root,
            sightings,
            totals,
            changed: self.changed,
            bytes_new: self.bytes_new,
            unread: self.unread,
        })
    }
}
