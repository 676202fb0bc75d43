//! One tree: walk, workers and assembler, connected by bounded channels.
//!
//! A stage that fails closes its channels and returns its error through its join; the others see the channel end and stop.

use super::super::pipeline::{Judge, Most, RUN_LEN, joined, panicked, runs_under_way};
use super::assembler::{Assembled, Assembler};
use super::cutter::Cutter;
use super::out::{Out, READ_WEIGHT, UNIT_WEIGHT};
use super::reading::{SMALL_MAX, Shop};
use super::task::{DoneUnit, Task, Unit};
use super::walk::Walk;
use super::worker::{Trade, Worker};
use crate::clock;
use crate::error::{Error, Result};
use crate::format::limits;
use crate::format::record::Root;
use crate::format::tree::{Time, Totals};
use crate::image::tree::Tree;
use crate::progress::{Cancel, Progress};
use crate::repo::Repository;
use crate::repo::known::Known;
use crate::repo::writer::Writer;
use crate::seal::Seal;
use crate::source::Facts;
use crate::source::directory::{Directory, open_many_files};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::runtime::Handle;

/// A change at the same tick of a file system's clock does not show; some clocks tick once in two seconds.
const TICK_SECS: i64 = 2;

/// What the stages of one tree need.
pub(in crate::backup) struct TreePlan<'a> {
    pub(in crate::backup) repository: &'a Repository,
    pub(in crate::backup) runtime: &'a Handle,
    pub(in crate::backup) known: &'a Arc<Known>,
    /// The tree to compare with, and what was seen beside it.
    pub(in crate::backup) parent: Option<(Tree, Option<Root>)>,
    pub(in crate::backup) level: i32,
    pub(in crate::backup) memory: u64,
    pub(in crate::backup) progress: &'a Progress,
    pub(in crate::backup) cancel: &'a Cancel,
}

/// What became of a tree.
pub(in crate::backup) struct TreeDone {
    pub(in crate::backup) root: Root,
    pub(in crate::backup) sightings: Root,
    pub(in crate::backup) totals: Totals,
    pub(in crate::backup) facts: Facts,
    pub(in crate::backup) changed: bool,
    pub(in crate::backup) bytes_read: u64,
    pub(in crate::backup) bytes_new: u64,
    /// What could not be read.
    pub(in crate::backup) unread: Vec<String>,
}

impl Assembled {
    /// The same, with what is known of the source.
    pub(super) fn done(self, facts: &Facts, bytes_read: u64) -> TreeDone {
        let Assembled { root, sightings, totals, changed, bytes_new, unread } = self;
        TreeDone { root, sightings, totals, facts: facts.clone(), changed, bytes_read, bytes_new, unread }
    }
}

enum Done {
    Unit(DoneUnit),
    Failed(Error),
}

/// Backs up one directory.
pub(in crate::backup) fn back_up_tree(
    plan: &TreePlan<'_>,
    writer: &mut Writer,
    directory: &Directory,
) -> Result<TreeDone> {
    let files_max = open_many_files();
    let cutter = cutter(plan);
    let bytes_read = AtomicU64::new(0);
    let shop = Shop {
        cutter: &cutter,
        owners: directory.owners(),
        fresh_from: fresh_from(directory),
        device: directory.top().look()?.device,
        bytes_read: &bytes_read,
    };
    let keep_going = directory.options().keep_going;
    let walk = |out: Out<'_, _>| Walk::new(plan, directory, &shop, out, files_max).run();
    let assembled = run(plan, writer, &shop, keep_going, walk)?;
    Ok(assembled.done(directory.facts(), bytes_read.into_inner()))
}

/// Has a walk and workers of a trade find out what an assembler puts together.
pub(super) fn run<T: Trade>(
    plan: &TreePlan<'_>,
    writer: &mut Writer,
    trade: &T,
    keep_going: bool,
    walk: impl FnOnce(Out<'_, T::Errand>) -> Result<()> + Send,
) -> Result<Assembled> {
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let buffers = runs_under_way(workers, plan.memory, &most(trade.cutter()));
    let (work_in, work_out) = bounded::<Unit<T::Errand>>(buffers);
    let (done_in, done_out) = bounded::<Done>(buffers);
    let (buffer_in, buffer_out) = bounded::<Vec<u8>>(buffers);
    for _ in 0..buffers {
        let _fits = buffer_in.send(Vec::new());
    }
    let assigned = writer.assigned();
    let expect = |tasks: &[Task<T::Errand>]| trade.expect(tasks);
    let out = Out::new(&assigned, buffer_out, work_in, &expect);
    std::thread::scope(|scope| {
        let walked = scope.spawn(|| walk(out));
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let (from, to) = (work_out.clone(), done_in.clone());
                scope.spawn(move || work(plan, trade, &from, &to))
            })
            .collect();
        drop((work_out, done_in));
        let mut assembler = Assembler::new(plan, writer, keep_going);
        let assembled = assemble(plan, &mut assembler, done_out, buffer_in);
        let worked: Vec<Result<()>> = threads.into_iter().map(joined).collect();
        // The walk's error first: what it says of the source is the cause, the others only saw a channel end.
        joined(walked)?;
        worked.into_iter().collect::<Result<()>>()?;
        assembled?;
        assembler.finish()
    })
}

/// How many bytes of a large file are handed on at once.
pub(super) fn run_len(cutter: &Cutter) -> usize {
    RUN_LEN.max(cutter.most())
}

/// What a unit brings into its pack at most: a run of a large file, or small files of which the last one may come on top of a full unit.
fn most(cutter: &Cutter) -> Most {
    let small = (UNIT_WEIGHT + SMALL_MAX) as usize;
    let len = run_len(cutter).max(small);
    // Of each file the last chunk may be shorter than any other.
    let files = (UNIT_WEIGHT / READ_WEIGHT) as usize + 1;
    Most { len, chunks: len / cutter.least() + files }
}

/// Files are cut into chunks of about twice the size that images are cut at.
pub(super) fn cutter(plan: &TreePlan<'_>) -> Cutter {
    let repository = plan.repository;
    Cutter::new(repository.keys.gear(), goal(repository.config.chunk_size))
}

fn goal(chunk_size: u32) -> usize {
    (chunk_size * 2).min(limits::CHUNK_LEN_MAX / 4) as usize
}

/// What changed at this moment or later may change again and look the same.
fn fresh_from(directory: &Directory) -> Time {
    let began = directory.options().began.unwrap_or_else(clock::now);
    Time { secs: began.as_second().saturating_sub(TICK_SECS), nanos: 0 }
}

/// A failure, a panic too, goes the way of the units: the assembler waits for every one of them.
fn work<T: Trade>(
    plan: &TreePlan<'_>,
    trade: &T,
    from: &Receiver<Unit<T::Errand>>,
    to: &Sender<Done>,
) -> Result<()> {
    let keys = &plan.repository.keys;
    let judge = Judge { keys, known: plan.known, seal: Seal::new(plan.level)? };
    let mut worker = Worker::new(trade, judge);
    for unit in from {
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.unit(unit)));
        let done = match worked {
            Ok(Ok(unit)) => Done::Unit(unit),
            Ok(Err(error)) => Done::Failed(error),
            Err(_) => Done::Failed(panicked()),
        };
        if to.send(done).is_err() {
            break;
        }
    }
    Ok(())
}

/// Puts units in place in the order in which they set out.
fn assemble(
    plan: &TreePlan<'_>,
    assembler: &mut Assembler<'_, '_>,
    from: Receiver<Done>,
    buffers: Sender<Vec<u8>>,
) -> Result<()> {
    let mut early: BTreeMap<u64, DoneUnit> = BTreeMap::new();
    let mut next = 0;
    for done in from {
        let unit = match done {
            Done::Unit(unit) => unit,
            Done::Failed(error) => return Err(error),
        };
        let _none = early.insert(unit.number, unit);
        while let Some(unit) = early.remove(&next) {
            next += 1;
            plan.cancel.check()?;
            for fact in unit.facts {
                assembler.take(unit.pack, fact)?;
            }
            // The walk may have ended and let go of its side.
            let _ended = buffers.send(unit.buffer);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::pipeline::tests::assert_fits;
    use super::*;

    #[test]
    fn p3_what_is_under_way_of_a_tree_fits_into_its_pack_on_any_machine_and_with_any_budget() {
        for chunk_size in (12..=22).map(|bits| 1u32 << bits) {
            let cutter = Cutter::new(Box::new([0; 256]), goal(chunk_size));
            let most = most(&cutter);
            // Two files just below the weight of a unit set out together.
            assert!(
                most.len as u64 >= 2 * (UNIT_WEIGHT - READ_WEIGHT - 1024) - 2 && most.len >= cutter.most()
            );
            assert_fits(&most, &format!("chunk size {chunk_size}"));
        }
    }
}
