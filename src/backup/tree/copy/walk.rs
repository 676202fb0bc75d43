//! The walk through a tree of another repository: it says of everything whether it lies here already, or what is to be done to have it.
//!
//! Holds: entries come in the order of a directory's names, each directory that is entered is left, and nothing deeper than the format lets
//! directories lie in each other. Of a directory one leaf is in memory for each one above, however large it is.

use super::super::out::{Out, READ_WEIGHT, Run};
use super::super::pipeline::{TreePlan, run_len};
use super::super::reading::SMALL_MAX;
use super::super::relied::Relied;
use super::super::task::{Body, CONTENTS_MAX, Fact, Key, Memory};
use super::super::walk::lost;
use super::TreeCopy;
use super::earlier::{Earlier, Pair, Row};
use super::reading::{Errand, Shop, What};
use super::way::Way;
use crate::error::{Context, Result};
use crate::format::node::Child;
use crate::format::tree::{Attributes, Below, Content, Directory, Entry, FileContent, Sighting, Totals};
use crate::image::join;
use crate::image::tree::{Closed, Cursor, File, Next, Seen, expect_nodes};
use bytes::Bytes;
use lru::LruCache;
use std::sync::atomic::Ordering;

/// For so many entries, the nodes are fetched together that are needed first.
const ROWS_AHEAD: usize = 64;
/// So many nodes of a directory of which nothing lies here are fetched together.
const NODES_AHEAD: usize = 16;
/// What a set of extended attributes weighs that is a node of its own.
const SET_WEIGHT: u64 = 64 << 10;

/// One walk.
pub(super) struct Walk<'a> {
    plan: &'a TreePlan<'a>,
    copy: &'a TreeCopy,
    shop: &'a Shop<'a>,
    out: Out<'a, Errand>,
    /// Contents that may come again, and what they sum up to. Whoever puts together what is found out remembers the same ones, because he meets them
    /// in the same order.
    met: LruCache<Key, Totals>,
}

/// A directory that is being walked through.
struct Frame {
    way: Way,
    /// What stands for it, and what lies in and below it.
    content: Option<(Key, Totals)>,
    cursor: Cursor,
    earlier: Option<Earlier>,
    /// Of the leaf that is open, what is left.
    rows: std::vec::IntoIter<Row>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        plan: &'a TreePlan<'a>,
        copy: &'a TreeCopy,
        shop: &'a Shop<'a>,
        out: Out<'a, Errand>,
    ) -> Walk<'a> {
        Walk { plan, copy, shop, out, met: LruCache::new(CONTENTS_MAX) }
    }

    /// Walks to the end.
    pub(super) fn run(mut self) -> Result<()> {
        let (tree, sightings) = &self.copy.tree;
        let top = self.wait(Seen::top(tree, sightings.as_ref())).context(|| "read the top of the tree")?;
        self.plan.progress.expect(top.member.totals().bytes);
        let pair = self.earlier_top()?;
        let mut stack = Vec::new();
        let row = Row::new(top, pair, self.relied());
        stack.extend(self.directory(&Way::default(), row)?);
        while let Some(frame) = stack.last_mut() {
            self.plan.cancel.check()?;
            if self.out.is_stopped() {
                return Ok(());
            }
            if let Some(row) = frame.rows.next() {
                let deeper = self.row(frame, row)?;
                stack.extend(deeper);
                continue;
            }
            match frame.cursor.look() {
                Some(Next::Node(node)) => self.node(frame, &node)?,
                Some(Next::Row(_)) => self.rows(frame)?,
                None => {
                    self.out.fact(Fact::Leave);
                    self.remember(frame.content);
                    drop(stack.pop());
                }
            }
        }
        self.out.flush();
        Ok(())
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.plan.runtime.block_on(future)
    }

    fn relied(&self) -> Relied<'a> {
        Relied(self.plan.known)
    }

    fn remember(&mut self, content: Option<(Key, Totals)>) {
        if let Some((key, totals)) = content {
            let _before = self.met.put(key, totals);
        }
    }

    /// Whether a content came before and is remembered.
    fn is_met(&mut self, content: Option<(Key, Totals)>) -> Option<Key> {
        let (key, totals) = content?;
        let _same = self.met.peek(&key).filter(|before| **before == totals)?;
        let _there = self.met.promote(&key);
        Some(key)
    }

    fn earlier_top(&self) -> Result<Option<Pair>> {
        let (Some((tree, sightings)), Some((ours, beside))) = (&self.copy.earlier, &self.plan.parent) else {
            return Ok(None);
        };
        let both = self.wait(async {
            let there = Seen::top(tree, sightings.as_ref()).await?;
            Ok(Pair { there, here: Seen::top(ours, beside.as_ref()).await? })
        });
        both.map(Some).or_else(lost)
    }

    /// A node of a directory: taken over as it lies here, or opened.
    fn node(&mut self, frame: &mut Frame, node: &Closed) -> Result<()> {
        if let Some(fact) = self.taken(frame, node)? {
            frame.cursor.pass();
            self.out.fact(fact);
            return Ok(());
        }
        self.wait(frame.cursor.open()).context(|| format!("copy {}", frame.way.text()))?;
        if frame.earlier.is_none() {
            frame.cursor.expect(NODES_AHEAD);
        }
        Ok(())
    }

    fn taken(&self, frame: &mut Frame, node: &Closed) -> Result<Option<Fact>> {
        // All of a directory was asked about when it was met.
        let is_top = node.first().is_empty();
        let Some(earlier) = frame.earlier.as_mut().filter(|_| !is_top) else { return Ok(None) };
        let here = self.wait(earlier.node(node)).or_else(|error| {
            frame.earlier = None;
            lost(error)
        })?;
        let both = here.and_then(|here| {
            let child = self.relied().whole(&here.says().child)?;
            Some((*here.says(), child, self.relied().whole(&here.beside()?)?))
        });
        Ok(both.map(|(Directory { level, rows, totals, .. }, child, beside)| {
            let first = Bytes::copy_from_slice(node.first());
            Fact::Node(level, Box::new(Below { first, rows, totals, child }), beside)
        }))
    }

    /// The entries of the leaf that was opened, and what lies here of them.
    fn rows(&mut self, frame: &mut Frame) -> Result<()> {
        let leaf = frame.cursor.take_leaf();
        let mut rows = Vec::with_capacity(leaf.len());
        for seen in leaf {
            let pair = match &mut frame.earlier {
                Some(earlier) if Row::needs_more(&seen) => {
                    self.wait(earlier.find(&seen)).or_else(|error| {
                        frame.earlier = None;
                        lost(error)
                    })?
                }
                _ => None,
            };
            rows.push(Row::new(seen, pair, self.relied()));
        }
        frame.rows = rows.into_iter();
        expect(frame.rows.as_slice());
        Ok(())
    }

    /// One entry; a directory that is to be walked through next.
    fn row(&mut self, frame: &mut Frame, row: Row) -> Result<Option<Frame>> {
        if frame.rows.len().is_multiple_of(ROWS_AHEAD) {
            expect(frame.rows.as_slice());
        }
        if row.is_complete() {
            self.known(row);
            return Ok(None);
        }
        if row.seen.member.entry().is_directory() {
            return self.directory(&frame.way, row);
        }
        if let Some((content, _)) = row.content {
            self.errand(&frame.way, row.seen, What::Nothing(Body::Whole(content)), Memory::None);
            return Ok(None);
        }
        self.file(frame, row.seen).map(|()| None)
    }

    fn known(&mut self, row: Row) {
        let Row { seen, content: Some((content, below)), attributes: Some(attributes), .. } = row else {
            return;
        };
        let entry = Entry { content, attributes, ..seen.member.entry().clone() };
        self.out.fact(Fact::Known(Box::new(entry), Sighting { spot: seen.sighting.spot, below }));
    }

    fn errand(&mut self, way: &Way, seen: Seen, what: What, memory: Memory) {
        let weight = READ_WEIGHT + weight(&seen, &what);
        self.out.errand(Errand { seen, way: way.clone(), what, memory }, weight);
    }

    /// A directory of which something is missing.
    fn directory(&mut self, way: &Way, row: Row) -> Result<Option<Frame>> {
        let Row { seen, pair, content, .. } = row;
        if let Some((content, beside)) = content {
            self.errand(way, seen, What::Enter, Memory::None);
            if let (Content::Directory(Some(directory)), Some(beside)) = (content, beside) {
                self.out.fact(Fact::Whole(directory, beside));
            }
            self.out.fact(Fact::Leave);
            return Ok(None);
        }
        let content = key(&seen);
        if let Some(key) = self.is_met(content) {
            self.errand(way, seen, What::Nothing(Body::As(key)), Memory::None);
            return Ok(None);
        }
        let memory = content.map_or(Memory::None, |(key, _)| Memory::As(key));
        let inside = way.to(seen.member.name());
        let cursor = seen.cursor().context(|| format!("copy {}", inside.text()))?;
        let Some(cursor) = cursor else { return Ok(None) };
        let earlier = pair.map_or(Ok(None), Earlier::of).or_else(lost)?;
        self.errand(way, seen, What::Enter, memory);
        let rows = Vec::new().into_iter();
        Ok(Some(Frame { way: inside, content, cursor, earlier, rows }))
    }

    /// A file whose content is missing.
    fn file(&mut self, frame: &Frame, seen: Seen) -> Result<()> {
        let way = &frame.way;
        // One with several names is copied once.
        let content = key(&seen).filter(|_| seen.member.entry().link.is_some_and(|link| link.names > 1));
        if let Some(key) = self.is_met(content) {
            self.errand(way, seen, What::Nothing(Body::As(key)), Memory::None);
            return Ok(());
        }
        let memory = content.map_or(Memory::None, |(key, _)| Memory::As(key));
        match large_file(&seen) {
            Some(file) => {
                let inside = way.to(seen.member.name());
                self.errand(way, seen, What::Begin, memory);
                expect_next(frame.rows.as_slice());
                self.large(&file).context(|| format!("copy {}", inside.text()))?;
            }
            None => self.errand(way, seen, What::Read, memory),
        }
        self.remember(content);
        Ok(())
    }

    /// Reads a large file in order, with what comes next of it under way, and hands it on in runs that end where chunks do.
    fn large(&mut self, file: &File) -> Result<()> {
        let run_len = run_len(self.shop.cutter);
        let window = file.window().max(run_len as u64);
        let (mut run, mut at, mut expected) = (Run::default(), 0, 0);
        while at < file.len() {
            self.plan.cancel.check()?;
            if self.out.is_stopped() {
                return Ok(());
            }
            if expected < at + window / 2 {
                file.expect(expected.max(at)..at + window);
                expected = at + window;
            }
            let room = (run_len - run.buffer.len()) as u64;
            let here = self.wait(file.extent(at, at + room))?;
            if !here.data {
                at = self.wait(file.extent(at, file.len()))?.range.end;
                self.out.hand_on(&mut run, self.shop.cutter, true);
                self.out.fact(Fact::Hole(at - here.range.start));
                continue;
            }
            let len = here.range.end - at;
            let bytes = self.wait(file.read_aside(at, len as usize)).map(join)?;
            let _sum = self.shop.bytes_read.fetch_add(len, Ordering::Relaxed);
            run.buffer.extend_from_slice(&bytes);
            at += len;
            run.cut_up(self.shop.cutter, false);
            if run.buffer.len() == run_len {
                self.out.hand_on(&mut run, self.shop.cutter, false);
            }
        }
        self.out.hand_on(&mut run, self.shop.cutter, true);
        self.out.fact(Fact::End(None));
        Ok(())
    }
}

/// What stands for what is in an entry, if it refers to anything, and what that sums up to.
fn key(seen: &Seen) -> Option<(Key, Totals)> {
    let entry = seen.member.entry();
    let key = match &entry.content {
        Content::Directory(Some(below)) => {
            Key(below.child.id, seen.sighting.below.map(|beside: Child| beside.id))
        }
        Content::File(FileContent::Chunk { child, .. } | FileContent::Map { child, .. }) => {
            Key(child.id, None)
        }
        _ => return None,
    };
    Some((key, entry.totals()))
}

/// A file that the walk reads itself.
fn large_file(seen: &Seen) -> Option<File> {
    seen.member.file().filter(|file| file.len() > SMALL_MAX)
}

/// Has the beginning fetched of the next large file, while the one before it is read.
fn expect_next(rows: &[Row]) {
    let missing = rows.iter().take(ROWS_AHEAD).filter(|row| row.content.is_none());
    if let Some(next) = missing.filter_map(|row| large_file(&row.seen)).next() {
        next.expect(0..SMALL_MAX);
    }
}

/// What is to be read for an errand.
fn weight(seen: &Seen, what: &What) -> u64 {
    let entry = seen.member.entry();
    let attributes = match &entry.attributes {
        Attributes::None => 0,
        Attributes::Here(set) => set.iter().map(|one| one.value.len()).sum(),
        Attributes::Node(_) => SET_WEIGHT,
    };
    match what {
        What::Read => attributes + entry.size(),
        What::Enter | What::Begin | What::Nothing(_) => attributes,
    }
}

/// Has the nodes fetched that are needed first of the next entries.
fn expect(rows: &[Row]) {
    let missing = || rows.iter().take(ROWS_AHEAD).filter(|row| !row.is_complete());
    let walked = || {
        let is_walked = |row: &&Row| row.content.is_none() && row.seen.member.entry().is_directory();
        missing().filter(is_walked).filter_map(|row| row.pair.as_ref())
    };
    expect_nodes(missing().map(|row| &row.seen));
    expect_nodes(walked().map(|pair| &pair.there));
    expect_nodes(walked().map(|pair| &pair.here));
}
