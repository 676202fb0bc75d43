//! Something that can be written to, over a backup that can't: which blocks are here says a map, what is not here comes from below.
//!
//! read  -> map -> present: beside · zero: nothing · base: below
//! write -> parts of blocks completed with what lies below -> beside -> map -> (flush: data, sync, pages, sync) -> answer
//!
//! Whole blocks and parts of blocks that are present are written side by side; a block that is completed from below is written alone, so that
//! no other write gets between what was read and what is written. Overlays, captures and live restores are this, each with a room of its own.

pub(super) mod below;
pub(super) mod side;

use super::answer::from_repository;
use super::blockmap::State;
use afterimage_nbd::export::{Answer, Extent, Part, Parts, Result as Served, Zeroing};
use afterimage_nbd::wire::state;
use below::Below;
use bytes::{Bytes, BytesMut};
use side::Side;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::RwLock;

/// Extents in one answer; clients ask on.
const EXTENTS_MAX: usize = 4096;
/// Zeroes may take their time: so many at once, and other writers in between. Whole blocks, however large they are.
const ZEROES: u64 = 64 << 20;

/// What was written, over what lies below.
pub(super) struct Layer {
    below: Below,
    side: Side,
    size: u64,
    /// Held alone by who completes a block, together by all other writers.
    order: RwLock<()>,
}

impl Layer {
    pub(super) fn new(below: Below, side: Side, size: u64) -> Layer {
        Layer { below, side, size, order: RwLock::default() }
    }

    /// What lies below.
    pub(super) fn below(&self) -> &Below {
        &self.below
    }

    /// What was written.
    pub(super) fn side(&self) -> &Side {
        &self.side
    }

    /// Stretches of one state, in order.
    fn runs(&self, offset: u64, len: u64, most: usize) -> Vec<(State, Range<u64>)> {
        let (map, end) = (self.side.map(), offset + len);
        let mut runs = Vec::with_capacity(1);
        let mut at = offset;
        while at < end && runs.len() < most {
            let (state, until) = map.run(at, end);
            runs.push((state, at..until));
            at = until;
        }
        runs
    }

    pub(super) fn read(self: &Arc<Self>, offset: u64, len: u32) -> Answer<Parts> {
        let runs = self.runs(offset, len.into(), usize::MAX);
        if let [(state, range)] = runs.as_slice() {
            return self.read_run(*state, range);
        }
        let layer = Arc::clone(self);
        from_repository(async move { layer.read_runs(&runs).await })
    }

    fn read_run(&self, state: State, range: &Range<u64>) -> Answer<Parts> {
        // No read is longer than 32 bits.
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        match state {
            State::Base => self.below.read(range),
            State::Present => self.side.read(range.start, len),
            State::Zero => Answer::ok(Parts::One(Part::Hole(len))),
        }
    }

    async fn read_runs(&self, runs: &[(State, Range<u64>)]) -> Served<Parts> {
        let mut all = Vec::with_capacity(runs.len());
        for (state, range) in runs {
            let parts = self.read_run(*state, range).wait().await.map_err(|why| why.at(range.start))?;
            match parts {
                Parts::One(part) => all.push(part),
                Parts::Many(parts) => all.extend(parts),
            }
        }
        Ok(Parts::Many(all))
    }

    /// The block that holds an offset.
    fn block_at(&self, offset: u64) -> Range<u64> {
        let block = self.side.map().block();
        let start = offset / block * block;
        start..start.saturating_add(block).min(self.size)
    }

    /// The parts of blocks before and behind a range that have to come from below.
    fn edges(&self, range: &Range<u64>) -> [Range<u64>; 2] {
        let (first, last) = (self.block_at(range.start), self.block_at(range.end - 1));
        let map = self.side.map();
        let here = |at: u64| map.state(at / map.block()) == State::Present;
        let before = if here(range.start) { range.start } else { first.start };
        let behind = if here(range.end - 1) { range.end } else { last.end };
        [before..range.start, range.end..behind]
    }

    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Served<()> {
        let range = offset..offset + data.len() as u64;
        let edges = {
            let _together = self.order.read().await;
            let edges = self.edges(&range);
            if edges.iter().all(Range::is_empty) {
                return self.side.write(offset, data).await;
            }
            edges
        };
        // Fetched before anyone has to wait for it: the backup may be far away, and never changes.
        let below = [self.below.bytes(&edges[0]).await?, self.below.bytes(&edges[1]).await?];
        let _alone = self.order.write().await;
        // A block that somebody else completed meanwhile needs nothing more.
        let edges = self.edges(&range);
        let mut whole = BytesMut::with_capacity(below[0].len() + data.len() + below[1].len());
        self.complete(&mut whole, &edges[0], &below[0]);
        whole.extend_from_slice(&data);
        self.complete(&mut whole, &edges[1], &below[1]);
        self.side.write(edges[0].start, whole.freeze()).await
    }

    /// Adds what an edge is now: zeroes, or what the backup has. No block that had a state becomes the backup's again, so what is needed
    /// now was fetched.
    fn complete(&self, whole: &mut BytesMut, edge: &Range<u64>, below: &[u8]) {
        let map = self.side.map();
        match map.state(edge.start / map.block()) {
            _ if edge.is_empty() => {}
            State::Zero => whole.resize(whole.len() + (edge.end - edge.start) as usize, 0),
            _ => whole.extend_from_slice(below),
        }
    }

    /// Makes a range zero. Durable is only what is flushed.
    pub(super) async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Served<()> {
        let (block, end) = (self.side.map().block(), offset + len);
        let first = offset.div_ceil(block) * block;
        let last = if end == self.size { end } else { end / block * block };
        if first >= last {
            return self.write(offset, Bytes::from(vec![0; len as usize])).await;
        }
        let mut at = first;
        while at < last {
            let until = last.min(at.saturating_add(ZEROES));
            let _together = self.order.read().await;
            self.side.zero(at..until, how).await?;
            at = until;
        }
        for edge in [offset..first, last..end] {
            if !edge.is_empty() {
                self.write(edge.start, Bytes::from(vec![0; (edge.end - edge.start) as usize])).await?;
            }
        }
        Ok(())
    }

    /// Puts what lies below where nobody has written yet: whole blocks of it, as it was read. Nothing else is written meanwhile.
    pub(super) async fn settle(&self, range: Range<u64>, parts: &[Part]) -> Served<()> {
        let _alone = self.order.write().await;
        for (run, offset, part) in cut(&self.runs(range.start, range.end - range.start, usize::MAX), parts) {
            match part {
                _ if run != State::Base => {}
                Part::Data(bytes) => self.side.put(offset, bytes).await?,
                Part::Hole(len) => self.side.put_zeroes(offset..offset + u64::from(len)).await?,
            }
        }
        self.side.settled(range);
        Ok(())
    }

    /// The same for a stretch, however long, of which the backup has nothing.
    pub(super) async fn settle_hole(&self, range: Range<u64>) -> Served<()> {
        let _alone = self.order.write().await;
        for (state, run) in self.runs(range.start, range.end - range.start, usize::MAX) {
            if state == State::Base {
                self.side.put_zeroes(run).await?;
            }
        }
        self.side.settled(range);
        Ok(())
    }

    /// Everything that was written before is durable, if anything is to be. Has to be polled to its end.
    pub(super) async fn flush(&self) -> Served<()> {
        self.side.flush().await
    }

    /// The status of a range: what `here` says of blocks that were written, and of the rest what `below` says of its holes and its data.
    pub(super) async fn status(&self, range: Range<u64>, one: bool, flags: &Flags) -> Served<Vec<Extent>> {
        let most = if one { 1 } else { EXTENTS_MAX };
        let mut extents = Vec::new();
        for (state, run) in self.runs(range.start, range.end - range.start, most) {
            let len = run.end - run.start;
            let flags = match (state, flags.base) {
                (State::Present, _) => flags.present,
                (State::Zero, _) => flags.zero,
                (State::Base, Base::One(flags)) => flags,
                (State::Base, Base::HolesAndData(flags)) => {
                    let below = self.below.stretches(run, one, flags).await?;
                    let covered: u64 = below.iter().map(|extent| extent.len).sum();
                    extents.extend(below);
                    if covered < len {
                        break;
                    }
                    continue;
                }
            };
            extents.push(Extent { len, flags });
        }
        Ok(extents)
    }
}

/// What a context says of blocks by their state.
pub(super) struct Flags {
    present: u64,
    zero: u64,
    base: Base,
}

/// What it says of blocks that were not written.
#[derive(Clone, Copy)]
enum Base {
    One(u64),
    HolesAndData([u64; 2]),
}

impl Flags {
    /// What a context means, by its number in the order of those below, in which everything over a layer offers them.
    pub(super) fn of(context: usize) -> &'static Flags {
        match context {
            0 => &Flags::ALLOCATION,
            1 => &Flags::DEPTH,
            _ => &Flags::WRITTEN,
        }
    }

    /// `base:allocation`.
    const ALLOCATION: Flags = Flags {
        present: 0,
        zero: state::HOLE | state::ZERO,
        base: Base::HolesAndData([state::HOLE | state::ZERO, 0]),
    };
    /// `qemu:allocation-depth`: what was written is the first layer.
    const DEPTH: Flags = Flags { present: 1, zero: 1, base: Base::HolesAndData([0, 2]) };
    /// A dirty bitmap of what was written.
    const WRITTEN: Flags = Flags { present: 1, zero: 1, base: Base::One(0) };
}

/// The parts cut where states change, each with the state that lies there and where it begins. Runs and parts cover the same range.
fn cut(runs: &[(State, Range<u64>)], parts: &[Part]) -> Vec<(State, u64, Part)> {
    let mut pieces = Vec::new();
    let mut at = runs.first().map_or(0, |(_, range)| range.start);
    let mut runs = runs.iter().peekable();
    for part in parts {
        let end = at + part.len() as u64;
        let start = at;
        while at < end {
            while runs.next_if(|(_, run)| run.end <= at).is_some() {}
            let Some((state, run)) = runs.peek() else { return pieces };
            let until = run.end.min(end);
            let piece = match part {
                Part::Data(bytes) => Part::Data(bytes.slice((at - start) as usize..(until - start) as usize)),
                Part::Hole(_) => Part::Hole(u32::try_from(until - at).unwrap_or(u32::MAX)),
            };
            pieces.push((*state, at, piece));
            at = until;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn a_write_waits_for_no_long_zero_also_where_somebody_wants_to_be_alone() {
        let size = 16 * ZEROES;
        let side = Side::temporary(size, "a test").unwrap();
        let layer = Layer::new(Below::new(None), side, size);
        let block = layer.side.map().block();
        let ended = Mutex::new(Vec::new());
        let noted = |what, result: Served<()>| {
            result.unwrap();
            ended.lock().unwrap().push(what);
        };
        tokio::join!(
            async { noted("zero", layer.zero(0, size, Zeroing::default()).await) },
            async { noted("settled", layer.settle_hole(0..block).await) },
            async { noted("written", layer.write(0, Bytes::from(vec![1; block as usize])).await) },
        );
        // The write comes behind the one who wants to be alone, and that one behind a step of the zeroes.
        let ended = ended.into_inner().unwrap();
        assert_eq!((ended[0], ended.len()), ("settled", 3), "{ended:?}");
    }

    #[test]
    fn parts_are_cut_where_states_change_and_lose_no_byte() {
        let runs = [(State::Base, 100..110), (State::Present, 110..115), (State::Base, 115..130)];
        let parts = [Part::Data(Bytes::from_static(b"0123456789ab")), Part::Hole(18)];
        let cut: Vec<_> = cut(&runs, &parts)
            .into_iter()
            .map(|(state, at, part)| (state == State::Base, at, part.len()))
            .collect();
        assert_eq!(cut, [(true, 100, 10), (false, 110, 2), (false, 112, 3), (true, 115, 15)]);
    }
}
