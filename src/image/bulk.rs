//! Streaming a whole image, or a part: every core opens chunks, and no chunk goes through the cache.
//!
//! planner -> groups of neighbours -> openers -> sink (in any order, on the openers' threads) or a queue that puts them in order
//!
//! What is under way is bounded by the buffers; a group has one, and whoever is last with it gives it back.

use super::{Image, Piece, Stretch};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{ChunkId, Corrupt, PackId, ids::SealKind};
use crate::progress::Cancel;
use crate::seal::{Sealed, Under, open_exact};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A group holds up to so many plain bytes (or one chunk).
const GROUP_LEN: u64 = 1 << 20;

/// Where streamed bytes go. Called from several threads, in any order, each byte once.
pub trait Sink: Sync {
    /// Bytes that are stored.
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Bytes that are zero.
    fn zeros(&self, offset: u64, len: u64) -> Result<()>;
    /// Whether the chunk at `offset` is already where it should be; it is then neither fetched nor handed over.
    fn has(&self, _offset: u64, _len: u64, _id: ChunkId) -> Result<bool> {
        Ok(false)
    }
}

/// Neighbouring chunks: next to each other in the image and in their pack.
struct Group {
    pieces: Vec<Piece>,
    range: Range<u64>,
}

/// One step of a plan.
enum Step {
    Group(Group),
    Zeros(Range<u64>),
}

/// A step that has a buffer to go into, by its number.
type Planned = (u64, Step, Vec<u8>);
/// The same, opened.
type Opened = (u64, Result<(Step, Vec<u8>)>);

/// How many openers, and so how many gets at once: two for each core, or as many as the store is worth asking at once, if a quarter of the
/// budget has room for what they hold.
fn openers(image: &Image) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let of_store = image.engine().repository().store.calls_at_once().unwrap_or(0);
    (cores * 2).max(of_store).min(affordable(image) / 2).max(1)
}

/// How many groups, sealed and plain, a quarter of the budget has room for.
fn affordable(image: &Image) -> usize {
    let group = GROUP_LEN.max(image.map().root.chunk_size.into());
    usize::try_from(image.engine().memory() / 4 / group).unwrap_or(usize::MAX)
}

/// Streams a range to a sink, in any order. Not to be called on a worker of the runtime.
pub fn stream(image: &Image, range: Range<u64>, cancel: &Cancel, sink: &dyn Sink) -> Result<()> {
    let openers = openers(image);
    let (steps_in, steps_out) = bounded::<Group>(openers * 2);
    std::thread::scope(|scope| {
        let opened: Vec<_> = (0..openers)
            .map(|_| {
                let steps = steps_out.clone();
                scope.spawn(move || {
                    let mut buffer = Vec::new();
                    for group in steps {
                        for group in without_what_is_there(group, sink)? {
                            open_group(image, &group, &mut buffer)?;
                            sink.data(group.range.start, &buffer[..len_of(&group.range)])?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        drop(steps_out);
        let planned = plan(image, range, cancel, &mut |step| match step {
            Step::Zeros(range) => sink.zeros(range.start, range.end - range.start).map(|()| true),
            Step::Group(group) => Ok(steps_in.send(group).is_ok()),
        });
        drop(steps_in);
        let opened = opened.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
        opened.collect::<Result<()>>()?;
        planned
    })
}

/// The parts of a group that the sink does not have yet.
fn without_what_is_there(group: Group, sink: &dyn Sink) -> Result<Vec<Group>> {
    let mut left: Vec<Group> = Vec::new();
    for piece in group.pieces {
        let here = piece.range.start.max(group.range.start)..piece.range.end.min(group.range.end);
        let Some(child) = piece.child else { continue };
        if here == piece.range && sink.has(here.start, here.end - here.start, child.id)? {
            continue;
        }
        match left.last_mut().filter(|last| last.range.end == here.start) {
            Some(last) => {
                last.range.end = here.end;
                last.pieces.push(piece);
            }
            None => left.push(Group { pieces: vec![piece], range: here }),
        }
    }
    Ok(left)
}

/// Streams a range in the order of its bytes. `take` is called on the calling thread; zeros come as a length.
pub fn stream_in_order(
    image: &Image,
    range: Range<u64>,
    cancel: &Cancel,
    take: &mut dyn FnMut(Ordered<'_>) -> Result<()>,
) -> Result<()> {
    let openers = openers(image);
    let window = (openers * 4).min(affordable(image)).max(2);
    let (steps_in, steps_out) = bounded::<Planned>(window);
    let (done_in, done_out) = bounded::<Opened>(window);
    let (buffers_in, buffers_out) = bounded::<Vec<u8>>(window);
    for _ in 0..window {
        let _fits = buffers_in.send(Vec::new());
    }
    std::thread::scope(|scope| {
        let planner = scope.spawn(move || {
            let mut number = 0;
            plan(image, range, cancel, &mut |step| {
                let Ok(buffer) = buffers_out.recv() else { return Ok(false) };
                number += 1;
                Ok(steps_in.send((number - 1, step, buffer)).is_ok())
            })
        });
        for _ in 0..openers {
            let (steps, done) = (steps_out.clone(), done_in.clone());
            let _thread = scope.spawn(move || open_steps(image, &steps, &done));
        }
        drop((steps_out, done_in));
        let taken = put_in_order(&done_out, &buffers_in, take);
        drop((done_out, buffers_in));
        let planned = planner.join().unwrap_or_else(|_| Err(panicked()));
        taken?;
        planned
    })
}

/// What [`stream_in_order`] hands over.
#[derive(Debug)]
pub enum Ordered<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

fn open_steps(image: &Image, steps: &Receiver<Planned>, done: &Sender<Opened>) {
    for (number, step, mut buffer) in steps {
        let work = std::panic::AssertUnwindSafe(|| match &step {
            Step::Group(group) => open_group(image, group, &mut buffer),
            Step::Zeros(_) => Ok(()),
        });
        let opened = std::panic::catch_unwind(work).unwrap_or_else(|_| Err(panicked()));
        if done.send((number, opened.map(|()| (step, buffer)))).is_err() {
            return;
        }
    }
}

fn put_in_order(
    done: &Receiver<Opened>,
    buffers: &Sender<Vec<u8>>,
    take: &mut dyn FnMut(Ordered<'_>) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (number, opened) in done {
        let _none = early.insert(number, opened);
        while let Some(opened) = early.remove(&next) {
            next += 1;
            let (step, buffer) = opened?;
            match &step {
                Step::Group(group) => take(Ordered::Bytes(&buffer[..len_of(&group.range)]))?,
                Step::Zeros(range) => take(Ordered::Zeros(range.end - range.start))?,
            }
            // The planner may have ended.
            let _ended = buffers.send(buffer);
        }
    }
    Ok(())
}

/// Walks the map; `emit` says whether to go on.
fn plan(
    image: &Image,
    range: Range<u64>,
    cancel: &Cancel,
    emit: &mut dyn FnMut(Step) -> Result<bool>,
) -> Result<()> {
    let runtime = image.engine().runtime().clone();
    let mut group: Option<Group> = None;
    let mut at = range.start;
    while at < range.end {
        cancel.check()?;
        match runtime.block_on(image.map().stretch(image.engine(), at))? {
            Stretch::Hole(hole) => {
                let end = hole.end.min(range.end);
                if !flush(image, &mut group, emit)? || !emit(Step::Zeros(at..end))? {
                    return Ok(());
                }
                at = end;
            }
            Stretch::Leaf(leaf) => {
                for piece in leaf.pieces(at).take_while(|piece| piece.range.start < range.end) {
                    let end = piece.range.end.min(range.end);
                    let goes_on = match piece.child {
                        None => flush(image, &mut group, emit)? && emit(Step::Zeros(at..end))?,
                        Some(_) => {
                            let fits = group.as_ref().is_some_and(|group| fits(group, &piece));
                            let goes_on = fits || flush(image, &mut group, emit)?;
                            let group = group.get_or_insert(Group { pieces: Vec::new(), range: at..at });
                            group.range.end = end;
                            group.pieces.push(piece);
                            goes_on
                        }
                    };
                    if !goes_on {
                        return Ok(());
                    }
                    at = end;
                }
            }
        }
    }
    let _goes_on = flush(image, &mut group, emit)?;
    Ok(())
}

fn flush(
    image: &Image,
    group: &mut Option<Group>,
    emit: &mut dyn FnMut(Step) -> Result<bool>,
) -> Result<bool> {
    let Some(group) = group.take() else { return Ok(true) };
    if let Some((pack, sealed)) = group.sealed() {
        image.engine().repository().expect_sealed(pack, sealed);
    }
    emit(Step::Group(group))
}

impl Group {
    /// Where its sealed bytes lie.
    fn sealed(&self) -> Option<(PackId, Range<u64>)> {
        let mut places = self.pieces.iter().filter_map(|piece| Some(piece.child?.place));
        let first = places.next()?;
        let last = places.next_back().unwrap_or(first);
        Some((first.pack, first.offset.into()..last.end()))
    }
}

fn fits(group: &Group, piece: &Piece) -> bool {
    let last = group.pieces.last().and_then(|last| last.child);
    let neighbours = last.zip(piece.child).is_some_and(|(last, next)| {
        last.place.pack == next.place.pack && last.place.end() == u64::from(next.place.offset)
    });
    neighbours && piece.range.end - group.range.start <= GROUP_LEN
}

fn len_of(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}

/// Opens the chunks of a group to the beginning of `buffer`, which only grows.
fn open_group(image: &Image, group: &Group, buffer: &mut Vec<u8>) -> Result<()> {
    let len = len_of(&group.range);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let engine = image.engine();
    let Some((pack, range)) = group.sealed() else { return Ok(()) };
    let sealed = engine.runtime().block_on(engine.repository().get_sealed(pack, range.clone()));
    let mut at = 0;
    for piece in &group.pieces {
        let Some(child) = piece.child else { continue };
        let here = piece.range.start.max(group.range.start)..piece.range.end.min(group.range.end);
        let into = &mut buffer[at..at + len_of(&here)];
        let whole = here == piece.range;
        let opened = match &sealed {
            Ok(sealed) => {
                let from = (u64::from(child.place.offset) - range.start) as usize;
                let sealed = &sealed[from..from + child.place.len as usize];
                let (repository, what) = (engine.repository(), Sealed::Chunk(SealKind::Data, child.id));
                match whole {
                    true => open_exact(&repository.keys, Under::Pack(child.place.pack), what, sealed, into),
                    false => repository
                        .open_chunk(SealKind::Data, child.id, child.place, sealed)
                        .and_then(|chunk| copy_part(&chunk, piece, &here, into)),
                }
            }
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = opened {
            if !matches!(error.kind(), Kind::Missing | Kind::Corrupt) {
                return Err(error);
            }
            open_one(image, piece, &here, into)?;
        }
        at += len_of(&here);
    }
    Ok(())
}

/// One chunk by itself, which has to be searched for.
fn open_one(image: &Image, piece: &Piece, here: &Range<u64>, into: &mut [u8]) -> Result<()> {
    let Some(child) = piece.child else { return Ok(()) };
    let engine = Arc::clone(image.engine());
    let chunk = engine.runtime().block_on(engine.repository().chunk(SealKind::Data, child.id, child.place));
    let chunk = chunk.context(|| format!("read bytes {} to {}", here.start, here.end))?;
    copy_part(&chunk, piece, here, into)
}

/// What is wanted of a chunk.
fn copy_part(chunk: &[u8], piece: &Piece, here: &Range<u64>, into: &mut [u8]) -> Result<()> {
    if chunk.len() != len_of(&piece.range) {
        let (found, wanted) = (chunk.len() as u64, piece.range.end - piece.range.start);
        return Err(Corrupt::Length { found, wanted }.into());
    }
    let from = (here.start - piece.range.start) as usize;
    into.copy_from_slice(&chunk[from..from + into.len()]);
    Ok(())
}

fn panicked() -> Error {
    Error::new(Kind::Unsupported, "a thread that opens chunks ended in a panic: this is a bug")
}
