//! The last stage: what was found out becomes packs, maps and nodes, in the order of the tree.

use super::super::pipeline::Outcome;
use super::builder::{self, Built, DirBuilder};
use super::map::CutMap;
use super::pipeline::TreePlan;
use super::reading::mark;
use super::task::{Body, CONTENTS_MAX, Draft, Ending, Fact, Key, Memory};
use crate::error::{Error, Kind, Result};
use crate::format::PackId;
use crate::format::node::Child;
use crate::format::record::Root;
use crate::format::shown::path_text;
use crate::format::tree::{
    Attribute, Attributes, Below, Content, Directory, Entry, Referred, Sighting, Totals, TreeNode, Value,
};
use crate::repo::writer::Writer;
use bytes::Bytes;
use lru::LruCache;
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
    /// What came of contents that may come again: the content here, and the sightings beside it.
    contents: LruCache<Key, (Content, Option<Child>)>,
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
    /// All of it, if it lies here already.
    whole: Built,
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
            contents: LruCache::new(CONTENTS_MAX),
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
            Fact::Enter(draft) => {
                self.open.push(Open { draft, builder: DirBuilder::default(), whole: None });
            }
            Fact::Node(level, below, beside) => return self.node(level, *below, beside),
            Fact::Whole(directory, beside) => self.whole(directory, beside),
            Fact::Leave => return self.leave(),
            Fact::Known(entry, sighting) => return self.known(*entry, sighting),
            Fact::Made(draft, Body::Whole(content)) => return self.made(*draft, content),
            Fact::Made(draft, Body::As(key)) => return self.made_as(*draft, key),
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
            Fact::End(ending) => return self.end(ending),
            Fact::Broken => self.large = None,
            Fact::Unread(path, error) => return self.unread(&path, error),
        }
        Ok(())
    }

    /// A large file is complete.
    fn end(&mut self, ending: Option<Ending>) -> Result<()> {
        let Some((mut draft, map)) = self.large.take() else { return Ok(()) };
        let content = map.finish(self.writer)?;
        if let Some(Ending { look, spot, changed }) = ending {
            draft.entry.mtime = look.mtime;
            draft.sighting.spot = spot;
            mark(&mut draft, changed);
            if !changed {
                judge_len(&draft.entry, content.len(), look.size)?;
            }
        }
        self.made(*draft, Content::File(content))
    }

    fn leave(&mut self) -> Result<()> {
        let Some(Open { draft, builder, whole }) = self.open.pop() else { return Ok(()) };
        let Draft { mut entry, mut sighting, attributes, memory } = *draft;
        let built = match whole {
            Some(built) => Some(built),
            None => builder.finish(self.writer)?,
        };
        entry.content = Content::Directory(built.map(|(directory, _)| directory));
        entry.attributes = self.attributes(attributes)?;
        sighting.below = built.map(|(_, beside)| beside);
        self.remember(memory, &entry.content, sighting.below);
        if self.open.is_empty() {
            self.top = Some(builder::top(self.writer, entry, sighting)?);
            return Ok(());
        }
        self.add(entry, sighting)
    }

    fn node(&mut self, level: u8, below: Below, beside: Child) -> Result<()> {
        self.take_over(below.totals, [below.child, beside]);
        match self.open.last_mut() {
            Some(open) => open.builder.add_node(self.writer, level, below, beside),
            None => Ok(()),
        }
    }

    fn whole(&mut self, directory: Directory, beside: Child) {
        self.take_over(directory.totals, [directory.child, beside]);
        if let Some(open) = self.open.last_mut() {
            open.whole = Some((directory, beside));
        }
    }

    fn known(&mut self, entry: Entry, sighting: Sighting) -> Result<()> {
        let children = entry.children().into_iter().map(|Referred { child, .. }| child);
        self.take_over(entry.totals(), children.chain(sighting.below));
        self.add(entry, sighting)
    }

    /// Notes what lies here already.
    fn take_over(&mut self, totals: Totals, children: impl IntoIterator<Item = Child>) {
        children.into_iter().for_each(|child| self.writer.reuse(child.place));
        self.plan.progress.add(totals.bytes);
    }

    fn add(&mut self, entry: Entry, sighting: Sighting) -> Result<()> {
        match self.open.last_mut() {
            Some(open) => open.builder.add(self.writer, entry, sighting),
            None => Ok(()),
        }
    }

    fn made(&mut self, draft: Draft, content: Content) -> Result<()> {
        let Draft { mut entry, sighting, attributes, memory } = draft;
        // The draft of a copy has the content that it had there.
        if let (Content::File(before), Content::File(content)) = (&entry.content, &content) {
            judge_len(&entry, content.len(), before.len())?;
        }
        entry.content = content;
        entry.attributes = self.attributes(attributes)?;
        self.changed |= entry.changed;
        self.plan.progress.add(entry.totals().bytes);
        match (entry.link, memory) {
            (Some(link), Memory::Keep) => {
                let _before = self.kept.insert(link.group, (entry.clone(), sighting));
            }
            (Some(link), Memory::Forget) => {
                let _gone = self.kept.remove(&link.group);
            }
            _ => self.remember(memory, &entry.content, sighting.below),
        }
        self.add(entry, sighting)
    }

    fn made_as(&mut self, mut draft: Draft, key: Key) -> Result<()> {
        let Some((content, beside)) = self.contents.get(&key).cloned() else {
            return Err(Error::new(Kind::Unsupported, "a content was forgotten too early: this is a bug"));
        };
        draft.sighting.below = beside;
        self.made(draft, content)
    }

    fn remember(&mut self, memory: Memory, content: &Content, beside: Option<Child>) {
        if let Memory::As(key) = memory {
            let _before = self.contents.put(key, (content.clone(), beside));
        }
    }

    fn again(&mut self, name: Bytes, group: [u8; 16], path: &[u8], last: bool) -> Result<()> {
        let kept = if last { self.kept.remove(&group) } else { self.kept.get(&group).cloned() };
        match kept {
            Some((entry, sighting)) => {
                self.plan.progress.add(entry.totals().bytes);
                self.add(Entry { name, ..entry }, sighting)
            }
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

/// Fewer bytes, or more, must not pass for a file.
fn judge_len(entry: &Entry, stored: u64, wanted: u64) -> Result<()> {
    if stored == wanted {
        return Ok(());
    }
    let name = entry.name.escape_ascii();
    let words = format!("of {name}, {stored} of {wanted} bytes were taken over: this is a bug");
    Err(Error::new(Kind::Unsupported, words))
}
