//! Imported backups: is what they need still in their home, and is it what it should be?
//!
//! The map of each image, and every directory of each share, is walked, and every pack that they name is looked for; with `--read-data` the bytes
//! are read. A home that can't be reached is no damage: its backups are called unchecked. Nothing is written anywhere.

use super::packs::is_damage;
use crate::error::{Error, Kind, Result};
use crate::format::node::Child;
use crate::format::record::{Content, Record, Root};
use crate::format::tree::{Content as Held, FileContent, Value};
use crate::format::{PackId, ids::SealKind};
use crate::image::bulk::{Sink, stream};
use crate::image::tree::{Dir, Member, Tree};
use crate::image::{Engine, Image, Map, Stretch};
use crate::progress::Cancel;
use crate::repo::names;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Bytes that are read on all cores; if that fails, each chunk of them is tried.
const STRIDE: u64 = 64 << 20;

/// So many entries of a directory are held at a time.
const PAGE: usize = 256;

/// What an imported backup lost: of which image or of which file of a share, where, and why.
pub(super) struct Lost {
    pub(super) item: String,
    pub(super) path: Option<Vec<u8>>,
    pub(super) range: Range<u64>,
    pub(super) error: Error,
}

/// What is looked at: an item, and if that is a share a path in it.
#[derive(Clone, Copy)]
struct Spot<'a> {
    item: &'a str,
    path: Option<&'a [u8]>,
}

/// A directory that is being walked, and the entries of it that come next.
struct Frame {
    path: Vec<u8>,
    dir: Dir,
    next: u64,
    page: std::vec::IntoIter<Member>,
}

/// One imported backup that is looked at in its home.
pub(super) struct InHome<'a> {
    engine: Arc<Engine>,
    runtime: &'a Handle,
    cancel: &'a Cancel,
    /// Packs that were looked for, and whether they are there.
    packs: HashMap<PackId, bool>,
    /// Whether the home's index is as new as this check.
    has_newest_index: bool,
    lost: Vec<Lost>,
}

impl<'a> InHome<'a> {
    pub(super) fn new(engine: Arc<Engine>, runtime: &'a Handle, cancel: &'a Cancel) -> InHome<'a> {
        let packs = HashMap::new();
        InHome { engine, runtime, cancel, packs, has_newest_index: false, lost: Vec::new() }
    }

    /// What is lost of it. An error that is no damage, as that the home is away, is an error here.
    pub(super) fn check(mut self, record: &Record, read: bool) -> Result<Vec<Lost>> {
        for item in &record.items {
            let spot = Spot { item: &item.name, path: None };
            match item.content {
                Content::Image { size, root, .. } => self.bytes(spot, Map { root, len: size }, read)?,
                Content::Tree { root, .. } => self.tree(&item.name, root, read)?,
            }
        }
        Ok(self.lost)
    }

    /// What a map leads to.
    fn bytes(&mut self, spot: Spot<'_>, map: Map, read: bool) -> Result<()> {
        match read {
            true => self.read(spot, &Image::new(Arc::clone(&self.engine), map)),
            false => self.walk(spot, &map),
        }
    }

    fn tree(&mut self, item: &str, root: Root, read: bool) -> Result<()> {
        let tree = Tree::new(Arc::clone(&self.engine), root);
        let top = self.runtime.block_on(tree.top());
        let Some(top) = self.or_blame(Spot { item, path: Some(b"") }, top)? else { return Ok(()) };
        let mut frames: Vec<Frame> = self.member(item, Vec::new(), &top, read)?.into_iter().collect();
        while let Some(frame) = frames.last_mut() {
            self.cancel.check()?;
            if let Some(member) = frame.page.next() {
                let name = member.name();
                let path =
                    if frame.path.is_empty() { name.to_vec() } else { [&frame.path, &name[..]].join(&b'/') };
                frames.extend(self.member(item, path, &member, read)?);
                continue;
            }
            let page = self.runtime.block_on(frame.dir.page(frame.next, PAGE));
            // What a lost node held is told by the directory's path.
            let page = self.or_blame(Spot { item, path: Some(&frame.path) }, page)?.unwrap_or_default();
            if page.is_empty() {
                let _done = frames.pop();
                continue;
            }
            frame.dir.expect_below(&page);
            frame.next += page.len() as u64;
            frame.page = page.into_iter();
        }
        Ok(())
    }

    /// One entry; a directory is to be walked next.
    fn member(&mut self, item: &str, path: Vec<u8>, member: &Member, read: bool) -> Result<Option<Frame>> {
        let spot = Spot { item, path: Some(&path) };
        let attributes = self.runtime.block_on(member.attributes());
        for attribute in self.or_blame(spot, attributes)?.iter().flat_map(|set| set.iter()) {
            if let Value::Chunk { child, .. } = &attribute.value {
                self.chunk(spot, child, 0..0, read)?;
            }
        }
        match &member.entry().content {
            Held::File(FileContent::Chunk { len, child }) => {
                self.chunk(spot, child, 0..u64::from(*len), read)?;
            }
            Held::File(FileContent::Map { len, level, child, .. }) => {
                let root = Root { id: child.id, place: child.place, level: *level, chunk_size: 0 };
                self.bytes(spot, Map { root, len: *len }, read)?;
            }
            _ => {}
        }
        let dir = member.dir();
        let dir = self.or_blame(spot, dir)?.flatten();
        Ok(dir.map(|dir| Frame { path, dir, next: 0, page: Vec::new().into_iter() }))
    }

    /// A chunk by itself.
    fn chunk(&mut self, spot: Spot<'_>, child: &Child, range: Range<u64>, read: bool) -> Result<()> {
        if read {
            let repository = Arc::clone(self.engine.repository()?);
            let opened = self.runtime.block_on(repository.chunk(SealKind::Data, child.id, child.place));
            return match opened {
                Err(error) if is_damage(&error) => {
                    self.blame(spot, range, error);
                    Ok(())
                }
                opened => opened.map(drop),
            };
        }
        if let Some(error) = self.is_lost(child)? {
            self.blame(spot, range, error);
        }
        Ok(())
    }

    /// What there is; nothing, and the blame, where it is damaged.
    fn or_blame<T>(&mut self, spot: Spot<'_>, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_damage(&error) => {
                self.blame(spot, 0..0, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn walk(&mut self, spot: Spot<'_>, map: &Map) -> Result<()> {
        let mut at = 0;
        while at < map.len {
            self.cancel.check()?;
            match self.runtime.block_on(map.stretch(&self.engine, at)) {
                Ok(Stretch::Hole(hole)) => at = hole.end,
                Ok(Stretch::Leaf(leaf)) => {
                    for piece in leaf.pieces(at) {
                        let Some(child) = piece.child else { continue };
                        if let Some(error) = self.is_lost(&child)? {
                            self.blame(spot, piece.range, error);
                        }
                    }
                    at = leaf.range.end;
                }
                // What the node covers is told by the node.
                Err(error) if is_damage(&error) => {
                    self.blame(spot, at..map.len, error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Why a chunk can't be had: its pack is gone, and no other has it.
    fn is_lost(&mut self, child: &Child) -> Result<Option<Error>> {
        let (pack, repository) = (child.place.pack, Arc::clone(self.engine.repository()?));
        let there = match self.packs.get(&pack) {
            Some(there) => *there,
            None => {
                let name = names::pack(pack)?;
                let there = match self.runtime.block_on(repository.store.stat(&name)) {
                    Ok(_) => true,
                    Err(error) if error.kind() == Kind::Missing => false,
                    Err(error) => return Err(error),
                };
                let _new = self.packs.insert(pack, there);
                there
            }
        };
        if there {
            return Ok(None);
        }
        // A pack has hundreds of chunks. To look for each of them through a network takes minutes, unless the index knows of another place.
        let newest = !std::mem::replace(&mut self.has_newest_index, true);
        let places = self.runtime.block_on(repository.places(child.id, newest));
        if places.iter().all(|place| place.pack == pack) {
            return Ok(Some(Error::new(
                Kind::Missing,
                format!("read {}: it is missing", names::pack(pack)?),
            )));
        }
        match self.runtime.block_on(repository.chunk(SealKind::Data, child.id, child.place)) {
            Ok(_) => Ok(None),
            Err(error) if is_damage(&error) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, spot: Spot<'_>, image: &Image) -> Result<()> {
        let mut at = 0;
        while at < image.len() {
            let stride = at..image.len().min(at + STRIDE);
            match stream(image, stride.clone(), self.cancel, &Nowhere) {
                Ok(()) => {}
                Err(error) if is_damage(&error) => self.read_by_chunks(spot, image, stride.clone())?,
                Err(error) => return Err(error),
            }
            at = stride.end;
        }
        Ok(())
    }

    fn read_by_chunks(&mut self, spot: Spot<'_>, image: &Image, range: Range<u64>) -> Result<()> {
        let chunk = image.chunk_len().max(4096);
        let mut at = range.start;
        while at < range.end {
            self.cancel.check()?;
            let here = at..range.end.min(at + chunk);
            // OK: no longer than a chunk.
            match self.runtime.block_on(image.read_aside(at, (here.end - at) as usize)) {
                Ok(_) => {}
                Err(error) if is_damage(&error) => self.blame(spot, here.clone(), error),
                Err(error) => return Err(error),
            }
            at = here.end;
        }
        Ok(())
    }

    fn blame(&mut self, spot: Spot<'_>, range: Range<u64>, error: Error) {
        let (item, path) = (spot.item.to_owned(), spot.path.map(<[u8]>::to_vec));
        match self.lost.last_mut() {
            Some(last) if last.item == item && last.path == path && last.range.end == range.start => {
                last.range.end = range.end;
            }
            _ => self.lost.push(Lost { item, path, range, error }),
        }
    }
}

/// Bytes that only had to prove themselves.
struct Nowhere;

impl Sink for Nowhere {
    fn data(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn zeros(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}
