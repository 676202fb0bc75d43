//! The workers of a tree: they find out what the walk left open, hash, compress and seal.
//!
//! What there is to find out depends on what is walked, a directory or the tree of another repository: that is a [`Trade`].

use super::super::pipeline::{Judge, Outcome};
use super::cutter::Cutter;
use super::task::{DoneUnit, Fact, Task, Unit};
use crate::error::Result;
use crate::format::PackId;

/// What workers do for a walk of some kind.
pub(super) trait Trade: Sync {
    /// What the walk leaves to them.
    type Errand: Send;

    /// Where files are cut.
    fn cutter(&self) -> &Cutter;

    /// These are on their way to whoever does them.
    fn expect(&self, _tasks: &[Task<Self::Errand>]) {}

    /// Does one; the buffer is there to be used.
    fn run(
        &self,
        errand: Self::Errand,
        hands: &mut Hands<'_>,
        buffer: &mut Vec<u8>,
        facts: &mut Vec<Fact>,
    ) -> Result<()>;
}

/// What a worker stores content with.
pub(super) struct Hands<'a> {
    judge: Judge<'a>,
    pack: PackId,
}

impl Hands<'_> {
    /// Judges the chunks that bytes are cut into.
    pub(super) fn chunks(
        &mut self,
        mut bytes: &[u8],
        lengths: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<(u32, Outcome)>> {
        let mut chunks = Vec::new();
        for len in lengths {
            let (chunk, rest) = bytes.split_at(len);
            chunks.push((len as u32, self.judge.chunk(chunk, self.pack, None)?));
            bytes = rest;
        }
        Ok(chunks)
    }
}

/// One worker.
pub(super) struct Worker<'a, T> {
    trade: &'a T,
    hands: Hands<'a>,
}

impl<'a, T: Trade> Worker<'a, T> {
    pub(super) fn new(trade: &'a T, judge: Judge<'a>) -> Worker<'a, T> {
        Worker { trade, hands: Hands { judge, pack: PackId([0; 16]) } }
    }

    /// Does the tasks of a unit.
    pub(super) fn unit(&mut self, unit: Unit<T::Errand>) -> Result<DoneUnit> {
        let Unit { number, pack, tasks, mut buffer } = unit;
        self.hands.pack = pack;
        let mut facts = Vec::with_capacity(tasks.len());
        for task in tasks {
            match task {
                Task::Errand(errand) => self.trade.run(errand, &mut self.hands, &mut buffer, &mut facts)?,
                Task::Chunks(lengths) => facts.push(Fact::Chunks(self.hands.chunks(&buffer, lengths)?)),
                Task::Fact(fact) => facts.push(fact),
            }
        }
        Ok(DoneUnit { number, pack, facts, buffer })
    }
}
