//! One item: reader, workers and assembler, connected by bounded channels.
//!
//! A stage that fails closes its channels and returns its error through its join; the others see the channel end and stop.

use super::builder::MapBuilder;
use super::reader::{Reader, Run, Work};
use crate::error::{Error, Kind, Result};
use crate::format::node::Child;
use crate::format::record::Root;
use crate::format::{ChunkId, PackId, Place, ids::SealKind, ids::to_hex, limits};
use crate::image::{Engine, Map, is_zero};
use crate::progress::{Cancel, Progress};
use crate::repo::known::Known;
use crate::repo::writer::Writer;
use crate::seal::{Keys, Seal, Sealed, Under};
use crate::source::{Facts, Source};
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What is read and handed on at once, unless chunks are larger.
pub(super) const RUN_LEN: usize = 1 << 20;
/// The most runs under way for each worker.
const RUNS_PER_WORKER: usize = 4;

/// What the stages of one item need.
pub(super) struct ItemPlan<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) runtime: &'a Handle,
    pub(super) known: &'a Arc<Known>,
    pub(super) parent: Option<Map>,
    pub(super) level: i32,
    pub(super) digest: bool,
    pub(super) memory: u64,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

/// What became of an item.
pub(super) struct ItemDone {
    pub(super) size: u64,
    pub(super) allocated: u64,
    pub(super) root: Root,
    pub(super) sha256: Option<String>,
    pub(super) facts: Facts,
    pub(super) changed: bool,
    pub(super) bytes_read: u64,
    pub(super) bytes_new: u64,
}

/// What a worker found out about one chunk.
pub(super) enum Outcome {
    /// It is zero.
    Zero,
    /// The repository has it.
    Here(ChunkId, Place),
    /// It is new; sealed for the pack of its run.
    New(ChunkId, Vec<u8>),
}

/// A run, after the workers.
struct Judged {
    run: Run,
    pack: PackId,
    outcomes: Vec<Outcome>,
}

enum Done {
    Judged(Judged),
    Passed(Work),
    Failed(Error),
}

/// Backs up one source.
pub(super) fn back_up_item(
    plan: &ItemPlan<'_>,
    writer: &mut Writer,
    source: Box<dyn Source>,
) -> Result<ItemDone> {
    let chunk = plan.engine.repository()?.config.chunk_size as usize;
    let run_len = RUN_LEN.max(chunk);
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let buffers = runs_under_way(workers, plan.memory, &Most { len: run_len, chunks: run_len / chunk });
    let (work_in, work_out) = bounded::<(u64, PackId, Work)>(buffers);
    let (done_in, done_out) = bounded::<(u64, Done)>(buffers);
    let (buffer_in, buffer_out) = bounded::<Vec<u8>>(buffers);
    for _ in 0..buffers {
        let _fits = buffer_in.send(Vec::with_capacity(run_len));
    }
    if let Some(size) = source.facts().size {
        plan.progress.expect(size);
    }
    let assigned = writer.assigned();
    let reader = Reader::new(source, plan, chunk, run_len);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| reader.run(&assigned, buffer_out, work_in));
        let judges: Vec<_> = (0..workers)
            .map(|_| {
                let (from, to) = (work_out.clone(), done_in.clone());
                scope.spawn(move || judge_all(plan, chunk, &from, &to))
            })
            .collect();
        drop((work_out, done_in));
        let mut assembler = Assembler::new(plan, writer, chunk);
        let assembled = assembler.run(done_out, buffer_in);
        let judged: Vec<Result<()>> = judges.into_iter().map(joined).collect();
        // The reader's error first: what it says of the source is the cause, the others only saw a channel end.
        let read = joined(read)?;
        judged.into_iter().collect::<Result<()>>()?;
        assembled?;
        assembler.finish(read)
    })
}

/// What one run, or one unit of a tree, brings into its pack at most.
pub(super) struct Most {
    /// Bytes, before they are compressed and sealed.
    pub(super) len: usize,
    /// Chunks.
    pub(super) chunks: usize,
}

/// How many runs may be under way: enough for all workers, as far as a quarter of the budget goes (the packs have the rest), and
/// no more than the pack they set out for can take when it turns out to be full.
pub(super) fn runs_under_way(workers: usize, memory: u64, run: &Most) -> usize {
    let affordable = usize::try_from(memory / 4).unwrap_or(usize::MAX) / (2 * run.len);
    let sealed_len = run.len + run.chunks * limits::SEAL_OVERHEAD as usize;
    let room = limits::PACK_LEN_MAX - limits::PACK_LEN_GOAL - limits::SEALED_LEN_MAX - limits::MIB;
    let fit = (room as usize / sealed_len).min(limits::PACK_CHUNKS_MAX as usize / 2 / run.chunks);
    (workers * RUNS_PER_WORKER).min(affordable).max(3).min(fit)
}

pub(super) fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(panicked()))
}

pub(super) fn panicked() -> Error {
    Error::new(Kind::Unsupported, "a thread of the backup ended in a panic: this is a bug")
}

fn judge_all(
    plan: &ItemPlan<'_>,
    chunk: usize,
    from: &Receiver<(u64, PackId, Work)>,
    to: &Sender<(u64, Done)>,
) -> Result<()> {
    let mut judge =
        Judge { keys: &plan.engine.repository()?.keys, known: plan.known, seal: Seal::new(plan.level)? };
    for (number, pack, work) in from {
        let done = match work {
            Work::Run(run) => judge.run_or_say_why(run, pack, chunk),
            other => Done::Passed(other),
        };
        if to.send((number, done)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Asks of a chunk whether it has to be stored, and seals it if so.
pub(super) struct Judge<'a> {
    pub(super) keys: &'a Keys,
    pub(super) known: &'a Known,
    pub(super) seal: Seal,
}

impl Judge<'_> {
    /// A failure, a panic too, goes the way of the runs: the assembler waits for every one of them.
    fn run_or_say_why(&mut self, run: Run, pack: PackId, chunk: usize) -> Done {
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run(run, pack, chunk)));
        match judged {
            Ok(Ok(judged)) => Done::Judged(judged),
            Ok(Err(error)) => Done::Failed(error),
            Err(_) => Done::Failed(panicked()),
        }
    }

    fn run(&mut self, run: Run, pack: PackId, chunk: usize) -> Result<Judged> {
        let chunks = run.bytes.chunks(chunk).enumerate();
        let outcomes = chunks.map(|(number, plain)| {
            let parent =
                run.parent.as_ref().and_then(|leaves| leaves.at(run.offset + (number * chunk) as u64));
            self.chunk(plain, pack, parent)
        });
        let outcomes = outcomes.collect::<Result<Vec<_>>>()?;
        Ok(Judged { run, pack, outcomes })
    }

    pub(super) fn chunk(&mut self, plain: &[u8], pack: PackId, parent: Option<Child>) -> Result<Outcome> {
        if is_zero(plain) {
            return Ok(Outcome::Zero);
        }
        let id = self.keys.data_id(plain);
        let same = parent.filter(|parent| parent.id == id && self.known.holds(id, parent.place));
        if let Some(place) = same.map(|parent| parent.place).or_else(|| self.known.find(id)) {
            return Ok(Outcome::Here(id, place));
        }
        let what = Sealed::Chunk(SealKind::Data, id);
        Ok(Outcome::New(id, self.seal.seal(self.keys, Under::Pack(pack), what, plain)?))
    }
}

struct Assembler<'a, 'b> {
    plan: &'a ItemPlan<'b>,
    writer: &'a mut Writer,
    builder: MapBuilder,
    chunk: usize,
    digest: Option<Sha256>,
    hashed: u64,
    allocated: u64,
    bytes_new: u64,
}

/// What the reader has to say at the end.
pub(super) struct ReadDone {
    pub(super) size: u64,
    pub(super) bytes_read: u64,
    pub(super) facts: Facts,
    pub(super) changed: bool,
}

impl<'a, 'b> Assembler<'a, 'b> {
    fn new(plan: &'a ItemPlan<'b>, writer: &'a mut Writer, chunk: usize) -> Assembler<'a, 'b> {
        Assembler {
            plan,
            writer,
            builder: MapBuilder::new(chunk as u32),
            chunk,
            digest: plan.digest.then(Sha256::new),
            hashed: 0,
            allocated: 0,
            bytes_new: 0,
        }
    }

    /// Puts runs in place in the order in which they were read.
    fn run(&mut self, from: Receiver<(u64, Done)>, buffers: Sender<Vec<u8>>) -> Result<()> {
        let mut early: BTreeMap<u64, Done> = BTreeMap::new();
        let mut next = 0;
        for (number, done) in from {
            if let Done::Failed(error) = done {
                return Err(error);
            }
            let _none = early.insert(number, done);
            while let Some(done) = early.remove(&next) {
                next += 1;
                self.plan.cancel.check()?;
                match done {
                    Done::Judged(judged) => {
                        let bytes = self.place(judged)?;
                        // The reader may have ended and let go of its side.
                        let _ended = buffers.send(bytes);
                    }
                    Done::Passed(Work::Same { offset, len }) => self.same(offset, len)?,
                    Done::Passed(Work::Run(_)) | Done::Failed(_) => {}
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, judged: Judged) -> Result<Vec<u8>> {
        let Judged { run, pack, outcomes } = judged;
        self.hash(run.offset, Some(&run.bytes));
        let chunks = run.bytes.chunks(self.chunk).zip(outcomes).enumerate();
        for (number, (plain, outcome)) in chunks {
            let offset = run.offset + (number * self.chunk) as u64;
            let (id, place) = match outcome {
                Outcome::Zero => continue,
                Outcome::Here(id, place) => {
                    self.writer.reuse(place);
                    (id, place)
                }
                Outcome::New(id, sealed) => {
                    let (place, new) = self.writer.add_data(pack, id, sealed, plain.len() as u32)?;
                    self.bytes_new += if new { plain.len() as u64 } else { 0 };
                    (id, place)
                }
            };
            self.allocated += plain.len() as u64;
            self.builder.set(self.writer, 0, offset, Child { id, place })?;
        }
        self.plan.progress.add(run.bytes.len() as u64);
        Ok(run.bytes)
    }

    /// Takes over from the parent what its source says is the same: whole nodes where it can.
    fn same(&mut self, offset: u64, len: u64) -> Result<()> {
        let plan = self.plan;
        let Some(parent) = plan.parent else {
            return Err(Error::new(
                Kind::Source,
                "the source says that something is unchanged, but there is no parent",
            ));
        };
        if offset + len > parent.len {
            let words = format!(
                "the source calls bytes {offset} to {} unchanged, but its parent ends at {}",
                offset + len,
                parent.len
            );
            return Err(Error::new(Kind::Source, words));
        }
        self.hash_same(&parent, offset, len)?;
        let taken = super::same::take_over(plan, &parent, offset, len, &mut |level, offset, child| {
            self.writer.reuse(child.place);
            self.builder.set(self.writer, level, offset, child)
        })?;
        self.allocated += taken;
        plan.progress.add(len);
        Ok(())
    }

    fn hash_same(&mut self, parent: &Map, offset: u64, len: u64) -> Result<()> {
        if self.digest.is_none() {
            return Ok(());
        }
        let image = crate::image::Image::new(Arc::clone(self.plan.engine), *parent);
        let mut at = offset;
        while at < offset + len {
            let step = (RUN_LEN as u64).min(offset + len - at);
            let bytes = self.plan.runtime.block_on(image.read_at(at, step as usize))?;
            self.hash(at, Some(&bytes));
            at += step;
        }
        Ok(())
    }

    /// Hashes up to `offset` as zeros, and then `bytes`.
    fn hash(&mut self, offset: u64, bytes: Option<&[u8]>) {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let Some(digest) = &mut self.digest else { return };
        while self.hashed < offset {
            let step = (offset - self.hashed).min(ZEROS.len() as u64);
            digest.update(&ZEROS[..step as usize]);
            self.hashed += step;
        }
        if let Some(bytes) = bytes {
            digest.update(bytes);
            self.hashed += bytes.len() as u64;
        }
    }

    fn finish(mut self, read: ReadDone) -> Result<ItemDone> {
        self.hash(read.size, None);
        let root = self.builder.finish(self.writer, read.size)?;
        Ok(ItemDone {
            size: read.size,
            allocated: self.allocated,
            root,
            sha256: self.digest.map(|digest| to_hex(&digest.finalize())),
            facts: read.facts,
            changed: read.changed,
            bytes_read: read.bytes_read,
            bytes_new: self.bytes_new,
        })
    }
}

#[cfg(test)]
pub(in crate::backup) mod tests {
    use super::*;

    /// What is under way fits behind what makes a pack full, on any machine and with any budget.
    pub(in crate::backup) fn assert_fits(run: &Most, what: &str) {
        for (workers, memory) in [(1, 0), (2, 256 << 20), (16, 512 << 20), (64, 4 << 30), (1024, u64::MAX)] {
            let runs = runs_under_way(workers, memory, run);
            let chunks = runs * run.chunks;
            let sealed = runs * run.len + chunks * limits::SEAL_OVERHEAD as usize;
            // The goal is reached by a last chunk, and behind the chunks come table and trailer.
            let most = sealed + (limits::PACK_LEN_GOAL + limits::SEALED_LEN_MAX) as usize + (1 << 20);
            assert!(most <= limits::PACK_LEN_MAX as usize, "{workers} workers, {what}: {most}");
            assert!(chunks + limits::PACK_CHUNKS_MAX as usize / 2 <= limits::PACK_CHUNKS_MAX as usize);
            assert!(runs >= 3, "{workers} workers, {what}: {runs}");
        }
    }

    #[test]
    fn p3_what_is_under_way_fits_into_its_pack_on_any_machine_and_with_any_budget() {
        for chunk in (12..=22).map(|bits| 1usize << bits) {
            let len = RUN_LEN.max(chunk);
            assert_fits(&Most { len, chunks: len / chunk }, &format!("chunks of {chunk}"));
        }
    }
}
