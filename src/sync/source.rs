//! A backed-up image as a source: its holes are holes, and what a backup has that lies on both sides is called the same.
//!
//! Which ranges differ from that backup is learned from the maps before anything is read, so what did not change is neither read nor sent.

use crate::error::{Context, Result};
use crate::image::{Ahead, Engine, Image, Map, compare};
use crate::source::{Facts, Piece, Source};
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;

/// With more ranges than this that differ, what lies between the later ones is read as if it differed.
const RANGES_MAX: usize = 1 << 20;

/// The image.
pub(super) struct ImageSource {
    image: Image,
    ahead: Ahead,
    runtime: Handle,
    facts: Facts,
    /// What differs from the backup on both sides, in order; none where there is no such backup.
    differs: Option<Vec<Range<u64>>>,
    /// The first range that does not end before the reader's place.
    next: usize,
}

impl ImageSource {
    /// The image with `map`; `parent` is the map of the same image in a backup that lies on both sides, here in the repository that is read.
    pub(super) fn new(
        engine: &Arc<Engine>,
        runtime: &Handle,
        name: &str,
        map: Map,
        parent: Option<Map>,
    ) -> Result<ImageSource> {
        let differs = match parent {
            Some(parent) => Some(runtime.block_on(differing(engine, &map, &parent))?),
            None => None,
        };
        let facts = Facts {
            kind: "backup".to_owned(),
            name: name.to_owned(),
            size: Some(map.len),
            ..Facts::default()
        };
        let image = Image::new(Arc::clone(engine), map);
        Ok(ImageSource { image, ahead: Ahead::new(), runtime: runtime.clone(), facts, differs, next: 0 })
    }

    /// Up to where everything from `at` on is the same, or differs, and which of the two.
    fn stretch(&mut self, at: u64) -> (u64, bool) {
        let end = self.image.len();
        let Some(differs) = &self.differs else { return (end, false) };
        while differs.get(self.next).is_some_and(|range| range.end <= at) {
            self.next += 1;
        }
        match differs.get(self.next) {
            None => (end, true),
            Some(range) if at < range.start => (range.start.min(end), true),
            Some(range) => (range.end.min(end), false),
        }
    }
}

async fn differing(engine: &Arc<Engine>, map: &Map, parent: &Map) -> Result<Vec<Range<u64>>> {
    let mut differs: Vec<Range<u64>> = Vec::new();
    let mut note = |range: Range<u64>| {
        let is_full = differs.len() >= RANGES_MAX;
        match differs.last_mut().filter(|_| is_full) {
            Some(last) => last.end = range.end,
            None => differs.push(range),
        }
    };
    compare(engine, map, parent, &mut note).await?;
    Ok(differs)
}

impl Source for ImageSource {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        if at >= self.image.len() {
            return Ok(Piece::End);
        }
        let (until, is_same) = self.stretch(at);
        if is_same {
            return Ok(Piece::Same(until - at));
        }
        let what = || format!("read {} at byte {at}", self.facts.name);
        let extent =
            self.runtime.block_on(self.image.extent(at, until.min(at + buf.len() as u64))).context(what)?;
        let len = extent.range.end - at;
        if !extent.data {
            return Ok(Piece::Hole(len));
        }
        let into = &mut buf[..len as usize];
        self.ahead.note(&self.image, at, len);
        let bytes = self.runtime.block_on(self.image.read_at(at, into.len())).context(what)?;
        into.copy_from_slice(&bytes);
        Ok(Piece::Data(into.len()))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
