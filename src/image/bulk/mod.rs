//! Streaming a whole image, or a part: every core opens chunks, and no chunk goes through the cache.
//!
//! planner -> groups of neighbours -> those the store was told of -> line -> openers -> sink (in any order, on the openers' threads) or a queue that puts them in order
//!
//! Where the order does not matter, neighbours are those in the store (`order`); where it does, those in the image that are also in the store.
//! What is under way is bounded by the buffers; a group has one, and whoever is last with it gives it back. Of an image that another program
//! wrote, a group is a run that its origin reads in one go; those of one stream are opened one after the other (`line`), those of several side by side.

mod line;
mod order;
mod plan;
mod told;

use super::foreign;
use super::origin::Origin;
use super::{Engine, Image, Piece, Whence};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{ChunkId, Corrupt, PackId, ids::SealKind};
use crate::progress::Cancel;
use crate::seal::{Sealed, Under, open_exact};
use crossbeam_channel::{Receiver, Sender, bounded};
use line::{Hold, Line, Taker};
use plan::{Arranged, plan};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

/// A group holds up to so many plain bytes (or one chunk).
pub(super) const GROUP_LEN: u64 = 1 << 20;
/// The longest run that an origin is asked for at once. It keeps places to begin at a little closer together.
const RUN_LEN: u64 = 5 << 20;
/// How many runs are planned ahead where order does not matter: as far as the next stream or two, if that can be.
const RUNS_AHEAD: usize = 2048;

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
    /// Whether it may have anything: else it is not asked for each chunk.
    fn asks(&self) -> bool {
        false
    }
}

/// Chunks that are near each other in their pack, in the order in which they belong into the image.
pub(super) struct Group {
    pub(super) pieces: Vec<Piece>,
    /// They are wanted as far as they lie in this.
    pub(super) range: Range<u64>,
}

/// One step of a plan.
enum Step {
    Group(Group),
    /// A run of what another program wrote, and its stream.
    Run(Range<u64>, Option<u64>),
    Zeros(Range<u64>),
}

impl Step {
    /// In which stream it comes after others.
    fn stream(&self) -> Option<u64> {
        match self {
            Step::Run(_, stream) => *stream,
            Step::Group(_) | Step::Zeros(_) => None,
        }
    }
}

/// A step, by its number.
type Planned = (u64, Step);
/// The same, opened.
type Opened = (u64, Result<(Step, Vec<u8>)>);

/// How many openers, and so how many gets at once: two for each core, or as many as the store is worth asking at once, if a quarter of the
/// budget has room for what they hold.
fn openers(image: &Image) -> usize {
    openers_of(image.engine(), group_len(image))
}

/// The same, for groups of this length.
pub(super) fn openers_of(engine: &Engine, group_len: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let of_store = engine.repository().map_or(None, |repository| repository.store.calls_at_once());
    (cores * 2).max(of_store.unwrap_or(0)).min(affordable(engine, group_len) / 2).max(1)
}

fn group_len(image: &Image) -> u64 {
    let least = match image.whence {
        Whence::Map(_) => GROUP_LEN,
        Whence::Origin(_) => RUN_LEN,
    };
    least.max(image.chunk_len())
}

/// How many groups, sealed and plain, a quarter of the budget has room for.
pub(super) fn affordable(engine: &Engine, group_len: u64) -> usize {
    usize::try_from(engine.memory() / 4 / group_len).unwrap_or(usize::MAX)
}

/// Streams a range to a sink, in any order. Not to be called on a worker of the runtime.
pub fn stream(image: &Image, range: Range<u64>, cancel: &Cancel, sink: &dyn Sink) -> Result<()> {
    let openers = openers(image);
    let room = if matches!(image.whence, Whence::Map(_)) { openers * 2 } else { RUNS_AHEAD };
    let line: Line<Step> = Line::new(room);
    let open = || {
        let (_taker, mut buffer) = (Taker(&line), Vec::new());
        while let Some((step, hold)) = line.take() {
            // All of it may have been planned long ago, and be gigabytes.
            cancel.check()?;
            stream_step(image, &step, &hold, &mut buffer, sink)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        // However this ends, nobody waits in line for what does not come.
        let _end = Taker(&line);
        let opened = start(scope, openers, open)?;
        // A sink that looks at what it has does so best in the order of the image: that is how it lies there.
        let arranged = if sink.asks() { Arranged::AsInImage } else { Arranged::AsInStore };
        let planned = plan(image, range, arranged, cancel, &mut |step| match step {
            Step::Zeros(range) => sink.zeros(range.start, range.end - range.start).map(|()| true),
            step => Ok(line.put(step.stream(), step)),
        });
        match &planned {
            Ok(()) => line.end(),
            Err(_) => line.stop(),
        }
        let opened = opened.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
        opened.collect::<Result<()>>()?;
        planned
    })
}

/// Starts so many threads, or as many as the system lets us have: one will do.
fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    count: usize,
    work: impl FnOnce() -> T + Clone + Send + 'scope,
) -> Result<Vec<ScopedJoinHandle<'scope, T>>> {
    let mut threads = Vec::with_capacity(count);
    for _ in 0..count {
        match std::thread::Builder::new().spawn_scoped(scope, work.clone()) {
            Ok(thread) => threads.push(thread),
            Err(_) if !threads.is_empty() => break,
            Err(error) => return Err(error).context(|| "start a thread that opens chunks"),
        }
    }
    Ok(threads)
}

/// Opens what the sink does not have of a step, and hands it over.
fn stream_step(
    image: &Image,
    step: &Step,
    hold: &Hold<'_, Step>,
    buffer: &mut Vec<u8>,
    sink: &dyn Sink,
) -> Result<()> {
    match (step, &image.whence) {
        (Step::Group(group), Whence::Map(_)) if !sink.asks() => {
            open_group(image.engine(), group, buffer)?;
            hand_over(group, buffer, sink)?;
        }
        (Step::Group(group), Whence::Map(_)) => {
            for group in without_what_is_there(group, sink)? {
                open_group(image.engine(), &group, buffer)?;
                hand_over(&group, buffer, sink)?;
            }
        }
        (Step::Run(range, _), Whence::Origin(origin)) => {
            for range in runs_that_are_not_there(image, &**origin, range, sink)? {
                fill(&**origin, &range, buffer, &|| hold.free())?;
                sink.data(range.start, &buffer[..len_of(&range)])?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Gives a sink what was opened of a group; what is one run in the image, in one go.
fn hand_over(group: &Group, buffer: &[u8], sink: &dyn Sink) -> Result<()> {
    let mut left = buffer;
    let mut wanted = group.pieces.iter().map(|piece| group.wanted(piece)).peekable();
    while let Some(mut run) = wanted.next() {
        while let Some(next) = wanted.next_if(|next| next.start == run.end) {
            run.end = next.end;
        }
        let (bytes, rest) = left.split_at(len_of(&run));
        sink.data(run.start, bytes)?;
        left = rest;
    }
    Ok(())
}

/// Reads a run to the beginning of `buffer`; its stream is free for the next one as soon as it can be.
fn fill(origin: &dyn Origin, range: &Range<u64>, buffer: &mut Vec<u8>, free: &dyn Fn()) -> Result<()> {
    let len = len_of(range);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    origin.fill(range.start, &mut buffer[..len], free)
}

/// The parts of a run that the sink does not have yet.
fn runs_that_are_not_there(
    image: &Image,
    origin: &dyn Origin,
    range: &Range<u64>,
    sink: &dyn Sink,
) -> Result<Vec<Range<u64>>> {
    if !sink.asks() {
        return Ok(vec![range.clone()]);
    }
    let numbers = foreign::numbers(origin, range);
    let ids = image.engine().runtime().block_on(origin.chunks(numbers.clone()))?;
    let mut left: Vec<Range<u64>> = Vec::new();
    for (number, id) in numbers.zip(ids) {
        let whole = foreign::range_of(origin, number);
        let here = whole.start.max(range.start)..whole.end.min(range.end);
        if let Some(id) = id.filter(|_| here == whole)
            && sink.has(here.start, here.end - here.start, id)?
        {
            continue;
        }
        match left.last_mut().filter(|last| last.end == here.start) {
            Some(last) => last.end = here.end,
            None => left.push(here),
        }
    }
    Ok(left)
}

/// The parts of a group that the sink does not have yet.
fn without_what_is_there(group: &Group, sink: &dyn Sink) -> Result<Vec<Group>> {
    let mut left: Vec<Group> = Vec::new();
    for piece in group.pieces.iter().cloned() {
        let here = group.wanted(&piece);
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
    let window = (openers * 8).min(affordable(image.engine(), group_len(image))).max(2);
    let line: Line<Planned> = Line::new(window);
    let (done_in, done_out) = bounded::<Opened>(window);
    // As many steps as this are planned and not taken yet.
    let (leave_in, leave_out) = bounded::<()>(window);
    for _ in 0..window {
        let _fits = leave_in.send(());
    }
    let buffers = Buffers::default();
    std::thread::scope(|scope| {
        let (line, buffers) = (&line, &buffers);
        let planner = scope.spawn(move || {
            let mut number = 0;
            let mut emit = |step: Step| {
                if leave_out.recv().is_err() {
                    return Ok(false);
                }
                number += 1;
                Ok(line.put(step.stream(), (number - 1, step)))
            };
            let work = AssertUnwindSafe(|| plan(image, range, Arranged::AsInImage, cancel, &mut emit));
            let planned = catch_unwind(work).unwrap_or_else(|_| Err(panicked()));
            line.end();
            planned
        });
        let _end = Taker(line);
        let done = done_in.clone();
        let _threads = start(scope, openers, move || open_steps(image, line, buffers, &done))?;
        drop(done_in);
        let mut take_step = |step: Step, buffer: Vec<u8>| {
            hand_on(&step, &buffer, take)?;
            buffers.give_back(buffer);
            // The planner may have ended.
            let _ended = leave_in.send(());
            Ok(())
        };
        let taken = put_in_order(&done_out, &mut take_step);
        drop((done_out, leave_in));
        line.stop();
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

/// Buffers that nobody uses. The one that came last goes first: it still lies in the processor's cache.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, buffer: Vec<u8>) {
        // What took none has none to give.
        if buffer.capacity() > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

fn open_steps(image: &Image, line: &Line<Planned>, buffers: &Buffers, done: &Sender<Opened>) {
    let _taker = Taker(line);
    while let Some(((number, step), hold)) = line.take() {
        let mut buffer = if let Step::Zeros(_) = step { Vec::new() } else { buffers.take() };
        let work = AssertUnwindSafe(|| match (&step, &image.whence) {
            (Step::Group(group), Whence::Map(_)) => open_group(image.engine(), group, &mut buffer),
            (Step::Run(range, _), Whence::Origin(origin)) => {
                fill(&**origin, range, &mut buffer, &|| hold.free())
            }
            _ => Ok(()),
        });
        let opened = catch_unwind(work).unwrap_or_else(|_| Err(panicked()));
        if done.send((number, opened.map(|()| (step, buffer)))).is_err() {
            return;
        }
    }
}

/// Hands over what was opened, each when all before it was.
fn put_in_order(done: &Receiver<Opened>, take: &mut dyn FnMut(Step, Vec<u8>) -> Result<()>) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (number, opened) in done {
        let _none = early.insert(number, opened);
        while let Some(opened) = early.remove(&next) {
            next += 1;
            let (step, buffer) = opened?;
            take(step, buffer)?;
        }
    }
    Ok(())
}

fn hand_on(step: &Step, buffer: &[u8], take: &mut dyn FnMut(Ordered<'_>) -> Result<()>) -> Result<()> {
    take(match step {
        Step::Group(Group { range, .. }) | Step::Run(range, _) => Ordered::Bytes(&buffer[..len_of(range)]),
        Step::Zeros(range) => Ordered::Zeros(range.end - range.start),
    })
}

impl Group {
    /// Where its sealed bytes lie.
    pub(super) fn sealed(&self) -> Option<(PackId, Range<u64>)> {
        let mut places = self.pieces.iter().filter_map(|piece| Some(piece.child?.place));
        let first = places.next()?;
        let range = places.fold(first.offset.into()..first.end(), |range: Range<u64>, place| {
            range.start.min(place.offset.into())..range.end.max(place.end())
        });
        Some((first.pack, range))
    }

    /// What of a piece is wanted.
    fn wanted(&self, piece: &Piece) -> Range<u64> {
        piece.range.start.max(self.range.start)..piece.range.end.min(self.range.end)
    }

    /// How many bytes are wanted in all.
    fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| self.wanted(piece)).map(|range| range.end - range.start).sum()
    }
}

fn len_of(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}

/// Opens the chunks of a group to the beginning of `buffer`, which only grows.
pub(super) fn open_group(engine: &Arc<Engine>, group: &Group, buffer: &mut Vec<u8>) -> Result<()> {
    let len = group.len() as usize;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let repository = engine.repository()?;
    let Some((pack, range)) = group.sealed() else { return Ok(()) };
    let sealed = engine.runtime().block_on(repository.get_sealed(pack, range.clone()));
    let mut at = 0;
    for piece in &group.pieces {
        let Some(child) = piece.child else { continue };
        let here = group.wanted(piece);
        let into = &mut buffer[at..at + len_of(&here)];
        let whole = here == piece.range;
        let opened = match &sealed {
            Ok(sealed) => {
                let from = (u64::from(child.place.offset) - range.start) as usize;
                let sealed = &sealed[from..from + child.place.len as usize];
                let what = Sealed::Chunk(SealKind::Data, child.id);
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
            open_one(engine, piece, &here, into)?;
        }
        at += len_of(&here);
    }
    Ok(())
}

/// One chunk by itself, which has to be searched for.
fn open_one(engine: &Arc<Engine>, piece: &Piece, here: &Range<u64>, into: &mut [u8]) -> Result<()> {
    let Some(child) = piece.child else { return Ok(()) };
    let repository = engine.repository()?;
    let chunk = engine.runtime().block_on(repository.chunk(SealKind::Data, child.id, child.place));
    let opened = chunk.and_then(|chunk| copy_part(&chunk, piece, here, into));
    opened.context(|| {
        let place = child.place;
        let what = format!("chunk {} at byte {} of pack {}", child.id, place.offset, place.pack);
        format!("read bytes {} to {} ({what})", here.start, here.end)
    })
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

pub(super) fn panicked() -> Error {
    Error::new(Kind::Unsupported, "a thread that opens chunks ended in a panic: this is a bug")
}
