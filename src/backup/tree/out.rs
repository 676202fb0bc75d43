//! The way from a walk to the workers: tasks set out in units, large files in runs of their own.

use super::cutter::Cutter;
use super::task::{Fact, Task, Unit};
use crate::error::{Error, Kind, Result};
use crate::repo::packs::Assigned;
use crossbeam_channel::{Receiver, Sender};

/// A unit sets out when its tasks weigh so much: the bytes that are to be read for them, and something for each.
pub(super) const UNIT_WEIGHT: u64 = 1 << 20;
/// What it weighs that something is read.
pub(super) const READ_WEIGHT: u64 = 16 << 10;
const TASK_WEIGHT: u64 = 1 << 10;

/// Where a walk puts its tasks.
pub(super) struct Out<'a, E> {
    assigned: &'a Assigned,
    buffers: Receiver<Vec<u8>>,
    work: Sender<Unit<E>>,
    /// Hears of tasks when they set out.
    expect: &'a (dyn Fn(&[Task<E>]) + Sync),
    number: u64,
    tasks: Vec<Task<E>>,
    weight: u64,
    stopped: bool,
}

impl<'a, E> Out<'a, E> {
    pub(super) fn new(
        assigned: &'a Assigned,
        buffers: Receiver<Vec<u8>>,
        work: Sender<Unit<E>>,
        expect: &'a (dyn Fn(&[Task<E>]) + Sync),
    ) -> Out<'a, E> {
        Out { assigned, buffers, work, expect, number: 0, tasks: Vec::new(), weight: 0, stopped: false }
    }

    /// One more errand.
    pub(super) fn errand(&mut self, errand: E, weight: u64) {
        self.push(Task::Errand(errand), weight);
    }

    /// One more fact.
    pub(super) fn fact(&mut self, fact: Fact) {
        self.push(Task::Fact(fact), 0);
    }

    fn push(&mut self, task: Task<E>, weight: u64) {
        self.tasks.push(task);
        self.weight += weight + TASK_WEIGHT;
        if self.weight >= UNIT_WEIGHT {
            self.flush();
        }
    }

    /// Sends off what is cut of a run; `all`: what is left becomes the last chunk, because nothing follows it.
    pub(super) fn hand_on(&mut self, run: &mut Run, cutter: &Cutter, all: bool) {
        if all {
            run.cut_up(cutter, true);
        }
        let mut done = std::mem::take(run);
        run.buffer.extend_from_slice(&done.buffer[done.cut..]);
        if done.lengths.is_empty() {
            return;
        }
        done.buffer.truncate(done.cut);
        self.flush();
        if self.buffer().is_some() {
            self.send(vec![Task::Chunks(done.lengths)], done.buffer);
        }
    }

    /// What waits sets out.
    pub(super) fn flush(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let tasks = std::mem::take(&mut self.tasks);
        self.weight = 0;
        (self.expect)(&tasks);
        if let Some(buffer) = self.buffer() {
            self.send(tasks, buffer);
        }
    }

    /// Whether nobody listens any more: whoever stopped has the error, and there is nothing left to do.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn buffer(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.recv().ok();
        self.stopped |= buffer.is_none();
        buffer
    }

    fn send(&mut self, tasks: Vec<Task<E>>, buffer: Vec<u8>) {
        let unit = Unit { number: self.number, pack: self.assigned.current(), tasks, buffer };
        self.number += 1;
        self.stopped |= self.work.send(unit).is_err();
    }

    /// Hands on that something can't be read; any other failure is one of ours.
    pub(super) fn unread_or_fail(&mut self, path: Vec<u8>, error: Error) -> Result<()> {
        if error.kind() != Kind::Source {
            return Err(error);
        }
        self.fact(Fact::Unread(path, error));
        Ok(())
    }
}

/// Bytes of a large file that are not handed on yet, and the chunks that they are cut into so far.
#[derive(Default)]
pub(super) struct Run {
    pub(super) buffer: Vec<u8>,
    lengths: Vec<usize>,
    cut: usize,
}

impl Run {
    /// Cuts off every chunk whose end is certain; all of them, where the data ends.
    pub(super) fn cut_up(&mut self, cutter: &Cutter, ends: bool) {
        while self.cut < self.buffer.len() {
            let rest = &self.buffer[self.cut..];
            let first = cutter.first(rest);
            if first == rest.len() && first < cutter.most() && !ends {
                break;
            }
            self.lengths.push(first);
            self.cut += first;
        }
    }
}
