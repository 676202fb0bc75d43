//! Writes that need not be made: what is there already is not written again, and what is zero is not zeroed.
//!
//! write -> holes known? bytes there read and compared, block by block -> only what differs is written -> FUA syncs all the same
//!
//! So a copier that knows nothing of it, onto an old copy of a volume, makes a differential restore. Holds: a range is passed over only
//! because its bytes were read back, or because it is a hole that nobody has written to since we began. After the first change or sync that failed
//! nothing is passed over any more: what the page cache holds then need not be what the medium holds. Zeroes that shall be
//! provisioned are always made. Whoever makes one sees to it that the cache shows the medium when it begins.

mod pace;
mod touched;

#[cfg(test)]
mod tests;

use super::answer::{beside, to_the_end};
use super::watch::Traffic;
use crate::image::is_zero;
use afterimage_nbd::export::{
    Answer, Export, Extent, Info, Kind as RefusalKind, Part, Parts, Result, Stored, Zeroing,
};
use afterimage_nbd::wire::state;
use bytes::Bytes;
use pace::Pace;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use touched::Touched;

/// What differs is found out and written in blocks of this size.
const BLOCK: usize = 4096;
/// Comparing so much takes long enough that it pays to let another core do it.
const LARGE: usize = 128 * 1024;
/// Zeroes on something without holes are compared in steps of this size.
const STEP: u64 = 1 << 20;
/// Longer ranges of zeroes than this are not compared: whoever zeroes so much at once wants it discarded.
const COMPARED_MAX: u64 = 64 << 20;

/// An export that is spared needless writes.
pub struct Eliding(Arc<Shared>);

struct Shared {
    inner: Box<dyn Export>,
    /// Data may be all zeroes without a hole (a block device): zeroes are compared, too.
    no_holes: bool,
    trusted: AtomicBool,
    touched: Touched,
    writes: Mutex<Pace>,
    zeroes: Mutex<Pace>,
    traffic: Arc<Traffic>,
}

impl Eliding {
    /// Spares `inner`, of which reads give what the medium holds.
    pub fn new(inner: Box<dyn Export>, no_holes: bool, traffic: Arc<Traffic>) -> Eliding {
        Eliding(Arc::new(Shared {
            touched: Touched::new(inner.info().size),
            inner,
            no_holes,
            trusted: AtomicBool::new(true),
            writes: Mutex::default(),
            zeroes: Mutex::default(),
            traffic,
        }))
    }

    /// Passes an answer on, and loses trust when it is an error.
    fn watched<T: 'static>(&self, answer: Answer<T>) -> Answer<T> {
        match answer {
            Answer::Now(result) => Answer::Now(self.0.saw(result)),
            Answer::Later(future) => {
                let shared = Arc::clone(&self.0);
                Answer::later(async move { shared.saw(future.await) })
            }
        }
    }
}

impl Shared {
    fn saw<T>(&self, result: Result<T>) -> Result<T> {
        // What would not be fast was refused, and changed nothing.
        if result.as_ref().is_err_and(|why| why.kind() != RefusalKind::NotFast) {
            self.trusted.store(false, Ordering::Release);
        }
        result
    }

    fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }

    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<()> {
        let runs = match self.differing(offset, &data).await {
            Ok(runs) if self.is_trusted() => runs,
            // What can't be compared is written.
            _ => std::iter::once(0..data.len()).collect(),
        };
        let written: u64 = runs.iter().map(|run| (run.end - run.start) as u64).sum();
        self.traffic.spared(data.len() as u64 - written);
        for run in &runs {
            let (at, bytes) = (offset + run.start as u64, data.slice(run.clone()));
            self.touched.touch(at, bytes.len() as u64);
            self.traffic.wrote(bytes.len() as u64);
            self.saw(self.inner.write(at, bytes, false).wait().await)?;
        }
        self.sync_if(fua).await
    }

    /// Which parts of the data are not there yet.
    async fn differing(&self, offset: u64, data: &Bytes) -> Result<Vec<Range<usize>>> {
        let mut runs = Runs::default();
        let (mut at, mut compared) = (0, 0u64);
        while at < data.len() {
            let (start, left) = (offset + at as u64, (data.len() - at) as u64);
            let (len, hole) = self.stretch(start, left).await?;
            let end = at + usize::try_from(len).unwrap_or(data.len()).min(data.len() - at);
            let here = &data[at..end];
            if hole {
                blocks(start, here)
                    .for_each(|block| runs.add_unless(at, &block, is_zero(&here[block.clone()])));
            } else {
                compared += here.len() as u64;
                let there = flat(self.inner.read(start, here.len() as u32).wait().await?);
                let same = |block: &Range<usize>| there.get(block.clone()) == here.get(block.clone());
                blocks(start, here).for_each(|block| runs.add_unless(at, &block, same(&block)));
            }
            at = end;
        }
        if compared > 0 {
            let spared = (data.len() as u64).saturating_sub(runs.len());
            self.traffic.compared(compared);
            lock(&self.writes).learn(compared, spared.min(compared));
        }
        Ok(runs.0)
    }

    /// How far what lies at an offset goes, and whether that is a hole which nobody has written to.
    async fn stretch(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        if self.no_holes {
            return Ok((len.min(STEP - offset % STEP), false));
        }
        let part = len.min(self.touched.end_of_part(offset) - offset);
        if self.touched.is_touched(offset, part) {
            return Ok((part, false));
        }
        let extents = self.inner.block_status(0, offset, len, true).wait().await?;
        let Some(extent) = extents.first() else { return Ok((len, false)) };
        let len = extent.len.clamp(1, len);
        let hole = extent.flags & state::ZERO != 0 && !self.touched.is_touched(offset, len);
        Ok((len, hole))
    }

    async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        let end = offset + len;
        let compare = self.no_holes && len <= COMPARED_MAX && lock(&self.zeroes).wants();
        let mut at = offset;
        while at < end {
            let (mut len, hole) = self.stretch(at, end - at).await.unwrap_or((end - at, false));
            let there = hole || (compare && self.reads_as_zero(at, len).await);
            if there && self.is_trusted() {
                self.traffic.spared(len);
            } else {
                if self.no_holes && !compare {
                    len = end - at;
                }
                self.make_zero(at, len, how).await?;
            }
            at += len;
        }
        self.sync_if(how.fua).await
    }

    async fn make_zero(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.touched.touch(offset, len);
        self.traffic.zeroed(len);
        self.saw(self.inner.zero(offset, len, Zeroing { fua: false, ..how }).wait().await)
    }

    async fn reads_as_zero(&self, offset: u64, len: u64) -> bool {
        let Ok(len32) = u32::try_from(len) else { return false };
        let zero = match self.inner.read(offset, len32).wait().await {
            Ok(parts) => parts.as_slice().iter().all(|part| match part {
                Part::Data(bytes) => is_zero(bytes),
                Part::Hole(_) => true,
            }),
            Err(_) => false,
        };
        self.traffic.compared(len);
        lock(&self.zeroes).learn(len, if zero { len } else { 0 });
        zero
    }

    async fn sync_if(&self, fua: bool) -> Result<()> {
        if fua { self.saw(self.inner.flush().wait().await) } else { Ok(()) }
    }
}

impl Export for Eliding {
    fn info(&self) -> Info {
        self.0.inner.info()
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.0.traffic.read(len.into());
        self.0.inner.read(offset, len)
    }

    fn stored(&self, offset: u64, len: u32) -> Option<Stored> {
        let stored = self.0.inner.stored(offset, len)?;
        self.0.traffic.read(len.into());
        Some(stored)
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        let shared = &self.0;
        if shared.is_trusted() && lock(&shared.writes).wants() {
            let (shared, large) = (Arc::clone(shared), data.len() >= LARGE);
            let write = async move { shared.write(offset, data, fua).await };
            return if large { beside(write) } else { to_the_end(write) };
        }
        shared.touched.touch(offset, data.len() as u64);
        shared.traffic.wrote(data.len() as u64);
        self.watched(shared.inner.write(offset, data, fua))
    }

    fn flush(&self) -> Answer<()> {
        self.0.traffic.synced();
        self.watched(self.0.inner.flush())
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.0.touched.touch(offset, len);
        self.0.traffic.zeroed(len);
        self.watched(self.0.inner.trim(offset, len, fua))
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        let shared = Arc::clone(&self.0);
        if how.no_hole || how.fast || !shared.is_trusted() {
            shared.touched.touch(offset, len);
            shared.traffic.zeroed(len);
            return self.watched(shared.inner.zero(offset, len, how));
        }
        to_the_end(async move { shared.zero(offset, len, how).await })
    }

    fn cache(&self, offset: u64, len: u64) -> Answer<()> {
        self.0.inner.cache(offset, len)
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        self.0.inner.block_status(context, offset, len, one)
    }
}

fn lock(pace: &Mutex<Pace>) -> std::sync::MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A read in one piece.
fn flat(parts: Parts) -> Bytes {
    if let Parts::One(Part::Data(bytes)) = parts {
        return bytes;
    }
    let mut all = Vec::with_capacity(parts.len());
    for part in parts.as_slice() {
        match part {
            Part::Data(bytes) => all.extend_from_slice(bytes),
            Part::Hole(len) => all.resize(all.len() + *len as usize, 0),
        }
    }
    all.into()
}

/// The blocks of some bytes that lie at an offset.
fn blocks(offset: u64, bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let first = BLOCK - (offset % BLOCK as u64) as usize;
    let len = bytes.len();
    let mut at = 0;
    std::iter::from_fn(move || {
        let end = if at == 0 { first } else { at + BLOCK }.min(len);
        (at < len).then(|| std::mem::replace(&mut at, end)..end)
    })
}

/// Ranges that grow together where they touch.
#[derive(Default)]
struct Runs(Vec<Range<usize>>);

impl Runs {
    fn add_unless(&mut self, base: usize, block: &Range<usize>, there: bool) {
        let (start, end) = (base + block.start, base + block.end);
        match self.0.last_mut() {
            _ if there => {}
            Some(last) if last.end == start => last.end = end,
            _ => self.0.push(start..end),
        }
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|run| (run.end - run.start) as u64).sum()
    }
}
