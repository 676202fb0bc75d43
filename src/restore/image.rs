//! Writing an image onto a target that was judged safe, and proving it.
//!
//! Runs of chunks are opened on all cores and written where they belong, in any order; holes are made zero where they are not known
//! to be. What an earlier run has done is passed over. *Done* is said after the last sync, and after reading back if that was asked for.

use super::target::journal::Journal;
use super::target::progress::Ranges;
use super::target::{Run, Target, Zeroed};
use crate::error::{Context, Error, Kind, Result};
use crate::format::ChunkId;
use crate::image::Image;
use crate::image::bulk::{Sink, stream};
use crate::progress::{Cancel, Progress};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the journal learns what is done; each time costs a sync.
const JOURNAL_EVERY: Duration = Duration::from_secs(15);
/// Blocks of zeros inside a chunk are left out of a sparse target when so many bytes of them follow each other.
const ZERO_RUN_MIN: usize = 16 * 1024;
const BLOCK: usize = 4096;
/// What is read of a target at once.
const PIECE: u64 = 1 << 20;

/// How to restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The target is new: all of it reads as zero.
    pub fresh: bool,
    /// Read what is there first, and write only what differs.
    pub differential: bool,
    /// Read everything back from the medium.
    pub verify: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes that were as they should be.
    pub bytes_skipped: u64,
    /// Bytes that had to be made zero.
    pub bytes_zeroed: u64,
    /// Whether everything was read back.
    pub verified: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Restores. Not to be called on a worker of the runtime.
pub fn restore_image(
    image: &Image,
    target: &dyn Target,
    journal: &Journal,
    options: Options,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Done> {
    let started = Instant::now();
    progress.expect(image.len() * if options.verify { 2 } else { 1 });
    let done = journal.done();
    let count = Counts::new(started);
    let writing = |options| Writing { image, target, journal, options, progress, count: &count };
    let new = writing(options);
    // What an earlier run has done is looked at, not trusted: somebody may have written there since. That fetches nothing.
    let kept = writing(Options { fresh: false, differential: true, ..options });
    let going_on = GoingOn { done: &done, kept: &kept, new: &new };
    let sink: &dyn Sink = if done.is_empty() { &new } else { &going_on };
    if let Err(error) = stream(image, 0..image.len(), cancel, sink) {
        return Err(resumable(error, target, journal));
    }
    target.finish().map_err(|error| match journal.path() {
        Some(_) => error, // after a failed sync nobody knows what is in place
        None => resumable(error, target, journal),
    })?;
    if options.verify {
        verify_image(image, target, progress, cancel)?;
    }
    Ok(Done {
        bytes_written: count.written.into_inner(),
        bytes_skipped: count.skipped.into_inner(),
        bytes_zeroed: count.zeroed.into_inner(),
        verified: options.verify,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Writes down what is done, and says in the error that it is not lost.
fn resumable(error: Error, target: &dyn Target, journal: &Journal) -> Error {
    if let Err(why) = journal.flush(target) {
        tracing::warn!("{why}; what was done since the journal was last written is done again");
        return error;
    }
    let done = journal.done().total();
    let hint = match journal.path() {
        Some(path) => {
            format!("{done} bytes are in place; the same command goes on from there ({})", path.display())
        }
        None => "the target is incomplete; --differential writes only what is not there yet".to_owned(),
    };
    match error.what_to_try() {
        Some(other) => {
            let hint = format!("{other}; {hint}");
            error.hint(hint)
        }
        None => error.hint(hint),
    }
}

struct Writing<'a> {
    image: &'a Image,
    target: &'a dyn Target,
    journal: &'a Journal,
    options: Options,
    progress: &'a Progress,
    count: &'a Counts,
}

/// What was done, and when the journal last heard of it.
struct Counts {
    written: AtomicU64,
    skipped: AtomicU64,
    zeroed: AtomicU64,
    noted: Mutex<Instant>,
}

impl Counts {
    fn new(started: Instant) -> Counts {
        let zero = || AtomicU64::new(0);
        Counts { written: zero(), skipped: zero(), zeroed: zero(), noted: Mutex::new(started) }
    }
}

impl Writing<'_> {
    fn done(&self, offset: u64, len: u64) -> Result<()> {
        self.journal.add(offset, len);
        self.progress.add(len);
        let due = {
            let mut noted = self.count.noted.lock().unwrap_or_else(PoisonError::into_inner);
            let due = noted.elapsed() >= JOURNAL_EVERY;
            if due {
                *noted = Instant::now();
            }
            due
        };
        if due { self.journal.flush(self.target) } else { Ok(()) }
    }

    fn count_zeroed(&self, zeroed: Zeroed) {
        let _before = self.count.zeroed.fetch_add(zeroed.bytes_zeroed, Ordering::Relaxed);
        let _before = self.count.skipped.fetch_add(zeroed.bytes_skipped, Ordering::Relaxed);
    }

    /// Makes a range zero, block by block, and only those blocks that are not.
    fn zero_what_is_not(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let run = match self.target.run_at(at)? {
                Run::Zero(run) => {
                    let run = run.min(end - at);
                    self.count_zeroed(Zeroed { bytes_skipped: run, ..Zeroed::default() });
                    run
                }
                Run::Data(run) => {
                    let run = run.min(end - at).min(PIECE);
                    let dirty = with_buffer(self.target, at, run, without_zero_runs)?;
                    let zeroed: u64 = dirty.iter().map(|range| (range.end - range.start) as u64).sum();
                    for range in dirty {
                        self.target.zero(at + range.start as u64, (range.end - range.start) as u64)?;
                    }
                    self.count_zeroed(Zeroed { bytes_zeroed: zeroed, bytes_skipped: run - zeroed });
                    run
                }
            };
            at += run;
        }
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.target.write_at(offset, bytes)?;
        let _before = self.count.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Sink for Writing<'_> {
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.options.fresh || self.target.proven_zero(offset, bytes.len() as u64)? {
            for range in without_zero_runs(bytes) {
                self.write(offset + range.start as u64, &bytes[range])?;
            }
        } else {
            self.write(offset, bytes)?;
        }
        self.done(offset, bytes.len() as u64)
    }

    fn zeros(&self, offset: u64, len: u64) -> Result<()> {
        if self.options.fresh {
            let _before = self.count.skipped.fetch_add(len, Ordering::Relaxed);
        } else if self.options.differential {
            self.zero_what_is_not(offset, len)?;
        } else {
            self.count_zeroed(self.target.make_zero(offset, len)?);
        }
        self.done(offset, len)
    }

    fn has(&self, offset: u64, len: u64, id: ChunkId) -> Result<bool> {
        if !self.options.differential || self.options.fresh || self.target.proven_zero(offset, len)? {
            return Ok(false);
        }
        let same = with_buffer(self.target, offset, len, |bytes| self.image.is_chunk(id, bytes))?;
        if same {
            let _before = self.count.skipped.fetch_add(len, Ordering::Relaxed);
            self.done(offset, len)?;
        }
        Ok(same)
    }

    fn asks(&self) -> bool {
        self.options.differential && !self.options.fresh
    }
}

/// Goes on where an earlier run stopped.
struct GoingOn<'a> {
    done: &'a Ranges,
    kept: &'a Writing<'a>,
    new: &'a Writing<'a>,
}

impl GoingOn<'_> {
    /// Hands each part of a range to whoever it is for.
    fn each(&self, range: Range<u64>, hand: impl Fn(&Writing<'_>, Range<u64>) -> Result<()>) -> Result<()> {
        let parts = self.done.parts(range);
        parts.into_iter().try_for_each(|(part, done)| hand(if done { self.kept } else { self.new }, part))
    }
}

impl Sink for GoingOn<'_> {
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.each(offset..offset + bytes.len() as u64, |writing, part| {
            let (from, to) = ((part.start - offset) as usize, (part.end - offset) as usize);
            writing.data(part.start, &bytes[from..to])
        })
    }

    fn zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.each(offset..offset + len, |writing, part| writing.zeros(part.start, part.end - part.start))
    }

    fn has(&self, offset: u64, len: u64, id: ChunkId) -> Result<bool> {
        let writing = if self.done.covers(offset, len) { self.kept } else { self.new };
        writing.has(offset, len, id)
    }

    fn asks(&self) -> bool {
        true
    }
}

/// Reads a piece of the target into this thread's buffer and looks at it.
fn with_buffer<T>(target: &dyn Target, offset: u64, len: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(len as usize, 0);
        target.read_at(offset, buffer)?;
        Ok(look(buffer))
    })
}

/// The ranges of `bytes` to write where zeros need not be: cut at blocks, and only around runs of zeros that are worth it.
fn without_zero_runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        if crate::image::is_zero(block) {
            continue;
        }
        let here = number * BLOCK..number * BLOCK + block.len();
        match ranges.last_mut() {
            Some(last) if here.start - last.end < ZERO_RUN_MIN => last.end = here.end,
            _ => ranges.push(here),
        }
    }
    ranges
}

/// Reads the target back from its medium and holds every chunk to its id and every hole to zero. Nothing is fetched for it.
pub fn verify_image(image: &Image, target: &dyn Target, progress: &Progress, cancel: &Cancel) -> Result<()> {
    target.drop_cache().context(|| "read back what was restored")?;
    let verifying = Verifying { image, target, progress };
    stream(image, 0..image.len(), cancel, &verifying).context(|| "read back what was restored")
}

struct Verifying<'a> {
    image: &'a Image,
    target: &'a dyn Target,
    progress: &'a Progress,
}

impl Verifying<'_> {
    fn differs(&self, offset: u64, len: u64) -> Error {
        let words =
            format!("the target does not hold what was written at bytes {offset} to {}", offset + len);
        Error::new(Kind::Corrupt, words).hint("the target is not reliable: restore onto another one")
    }
}

impl Sink for Verifying<'_> {
    /// Comes only for what has no id that tells whether it is right.
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if !with_buffer(self.target, offset, bytes.len() as u64, |there| there == bytes)? {
            return Err(self.differs(offset, bytes.len() as u64));
        }
        self.progress.add(bytes.len() as u64);
        Ok(())
    }

    fn zeros(&self, offset: u64, len: u64) -> Result<()> {
        let mut at = offset;
        while at < offset + len {
            let run = match self.target.run_at(at)? {
                Run::Zero(run) => run.min(offset + len - at),
                Run::Data(run) => {
                    let run = run.min(offset + len - at).min(PIECE);
                    if !with_buffer(self.target, at, run, crate::image::is_zero)? {
                        return Err(self.differs(at, run));
                    }
                    run
                }
            };
            at += run;
        }
        self.progress.add(len);
        Ok(())
    }

    fn has(&self, offset: u64, len: u64, id: ChunkId) -> Result<bool> {
        let same = with_buffer(self.target, offset, len, |bytes| self.image.is_chunk(id, bytes))?;
        if same {
            self.progress.add(len);
        }
        Ok(same)
    }

    fn asks(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_of_zeros_that_are_worth_it_are_left_out() {
        let mut bytes = vec![0u8; 128 * 1024];
        assert!(without_zero_runs(&bytes).is_empty());
        bytes[5] = 1;
        bytes[9000] = 1;
        bytes[100_000] = 1;
        assert_eq!(without_zero_runs(&bytes), [0..12_288, 98_304..102_400]);
        assert_eq!(without_zero_runs(&[1; 100]), vec![0..100]);
    }
}
