//! Imported backups: is what they need still in their home, and is it what it should be?
//!
//! The map of each image is walked, and every pack that it names is looked for; with `--read-data` the bytes are read. A home that can't be reached
//! is no damage: its backups are called unchecked. Nothing is written anywhere.

use super::packs::is_damage;
use crate::error::{Error, Kind, Result};
use crate::format::node::Child;
use crate::format::record::{Content, Record};
use crate::format::{PackId, ids::SealKind};
use crate::image::bulk::{Sink, stream};
use crate::image::{Engine, Image, Map, Stretch};
use crate::progress::Cancel;
use crate::repo::names;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Bytes that are read on all cores; if that fails, each chunk of them is tried.
const STRIDE: u64 = 64 << 20;

/// What an imported backup lost: of which image, where, and why.
pub(super) type Lost = (String, Range<u64>, Error);

/// One imported backup that is looked at in its home.
pub(super) struct InHome<'a> {
    engine: Arc<Engine>,
    runtime: &'a Handle,
    cancel: &'a Cancel,
    /// Packs that were looked for, and whether they are there.
    packs: HashMap<PackId, bool>,
    lost: Vec<Lost>,
}

impl<'a> InHome<'a> {
    pub(super) fn new(engine: Arc<Engine>, runtime: &'a Handle, cancel: &'a Cancel) -> InHome<'a> {
        InHome { engine, runtime, cancel, packs: HashMap::new(), lost: Vec::new() }
    }

    /// What is lost of it. An error that is no damage, as that the home is away, is an error here.
    pub(super) fn check(mut self, record: &Record, read: bool) -> Result<Vec<Lost>> {
        for item in &record.items {
            let (Content::Image { size: len, root, .. } | Content::Tree { bytes: len, root, .. }) =
                item.content;
            let map = Map { root, len };
            match read {
                true => self.read(&item.name, &Image::new(Arc::clone(&self.engine), map))?,
                false => self.walk(&item.name, &map)?,
            }
        }
        Ok(self.lost)
    }

    fn walk(&mut self, item: &str, map: &Map) -> Result<()> {
        let mut at = 0;
        while at < map.len {
            self.cancel.check()?;
            match self.runtime.block_on(map.stretch(&self.engine, at)) {
                Ok(Stretch::Hole(hole)) => at = hole.end,
                Ok(Stretch::Leaf(leaf)) => {
                    for piece in leaf.pieces(at) {
                        let Some(child) = piece.child else { continue };
                        if let Some(error) = self.is_lost(&child)? {
                            self.blame(item, piece.range, error);
                        }
                    }
                    at = leaf.range.end;
                }
                // What the node covers is told by the node.
                Err(error) if is_damage(&error) => {
                    self.blame(item, at..map.len, error);
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
        match self.runtime.block_on(repository.chunk(SealKind::Data, child.id, child.place)) {
            Ok(_) => Ok(None),
            Err(error) if is_damage(&error) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, item: &str, image: &Image) -> Result<()> {
        let mut at = 0;
        while at < image.len() {
            let stride = at..image.len().min(at + STRIDE);
            match stream(image, stride.clone(), self.cancel, &Nowhere) {
                Ok(()) => {}
                Err(error) if is_damage(&error) => self.read_by_chunks(item, image, stride.clone())?,
                Err(error) => return Err(error),
            }
            at = stride.end;
        }
        Ok(())
    }

    fn read_by_chunks(&mut self, item: &str, image: &Image, range: Range<u64>) -> Result<()> {
        let chunk = image.chunk_len().max(4096);
        let mut at = range.start;
        while at < range.end {
            self.cancel.check()?;
            let here = at..range.end.min(at + chunk);
            // OK: no longer than a chunk.
            match self.runtime.block_on(image.read_aside(at, (here.end - at) as usize)) {
                Ok(_) => {}
                Err(error) if is_damage(&error) => self.blame(item, here.clone(), error),
                Err(error) => return Err(error),
            }
            at = here.end;
        }
        Ok(())
    }

    fn blame(&mut self, item: &str, range: Range<u64>, error: Error) {
        match self.lost.last_mut() {
            Some((before, until, _)) if before == item && until.end == range.start => until.end = range.end,
            _ => self.lost.push((item.to_owned(), range, error)),
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
