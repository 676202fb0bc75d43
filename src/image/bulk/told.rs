//! Steps that the store was told of and that nobody opens yet: so a disk is busy with what comes next while the cores open what came before.
//!
//! **Invariant:** steps leave in the order in which they came, and wait only behind groups that wait.

use super::Step;
use crate::error::Result;
use std::collections::VecDeque;

/// So many sealed bytes wait at most: enough for a disk that reads gigabytes in a second.
pub(super) const TOLD_LEN: u64 = 32 << 20;
/// However short chunks are, each takes some memory while it waits.
const PIECE_LEN: u64 = 4096;

/// What may be done with a step; it says whether to go on.
pub(super) type Emit<'a> = dyn FnMut(Step) -> Result<bool> + 'a;

/// Steps that wait.
pub(super) struct Told {
    steps: VecDeque<(Step, u64)>,
    len: u64,
    /// How much may wait: little at first, so that the first step does not wait for all others to be planned.
    room: u64,
    room_max: u64,
}

impl Told {
    /// None yet, and no more than this at a time.
    pub(super) fn new(room_max: u64) -> Told {
        Told { steps: VecDeque::new(), len: 0, room: 0, room_max }
    }

    /// Takes a step, and gives away those for which there is no room.
    pub(super) fn add(&mut self, step: Step, emit: &mut Emit<'_>) -> Result<bool> {
        let len = match &step {
            Step::Group(group) => {
                let sealed = group.sealed().map_or(0, |(_, range)| range.end - range.start);
                sealed.max(group.pieces.len() as u64 * PIECE_LEN)
            }
            Step::Run(..) | Step::Zeros(_) => 0,
        };
        self.steps.push_back((step, len));
        self.len += len;
        self.room = (self.room + len / 2).min(self.room_max);
        self.shrink_to(self.room, emit)
    }

    /// Gives away all that wait.
    pub(super) fn end(&mut self, emit: &mut Emit<'_>) -> Result<bool> {
        self.shrink_to(0, emit)
    }

    fn shrink_to(&mut self, room: u64, emit: &mut Emit<'_>) -> Result<bool> {
        // What the store was not told of waits behind what it was, and for nothing else.
        while self.steps.front().is_some_and(|(_, len)| self.len > room || *len == 0) {
            let Some((step, len)) = self.steps.pop_front() else { break };
            self.len -= len;
            if !emit(step)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Group;
    use super::*;
    use crate::format::node::Child;
    use crate::format::{ChunkId, PackId, Place};
    use crate::image::Piece;
    use proptest::prelude::*;

    /// A group, or zeros where nothing is sealed; `number` tells it from others.
    fn step(number: u64, sealed: u32) -> Step {
        let range = number..number + 1;
        if sealed == 0 {
            return Step::Zeros(range);
        }
        let place = Place { pack: PackId([1; 16]), offset: 0, len: sealed };
        let piece = Piece { range: range.clone(), child: Some(Child { id: ChunkId([1; 32]), place }) };
        Step::Group(Group { pieces: vec![piece], range })
    }

    fn number(step: &Step) -> u64 {
        let (Step::Group(Group { range, .. }) | Step::Run(range, _) | Step::Zeros(range)) = step;
        range.start
    }

    proptest! {
        #[test]
        fn steps_leave_as_they_came_and_no_more_than_there_is_room_for_wait(
            sealed in prop::collection::vec(prop_oneof![Just(0u32), 1u32..3_000_000], 0..300),
            room_max in prop_oneof![Just(0u64), Just(10_000), Just(TOLD_LEN)],
        ) {
            let mut told = Told::new(room_max);
            let mut left = Vec::new();
            let mut take = |step: Step| {
                left.push(number(&step));
                Ok(true)
            };
            for (at, &sealed) in sealed.iter().enumerate() {
                let goes_on = told.add(step(at as u64, sealed), &mut take).unwrap();
                let waits: u64 = told.steps.iter().map(|(_, len)| len).sum();
                prop_assert!(goes_on && waits == told.len && waits <= room_max);
                let first = told.steps.front().map(|(step, _)| matches!(step, Step::Group(_)));
                prop_assert!(first != Some(false), "zeros wait behind nothing");
            }
            let goes_on = told.end(&mut take).unwrap();
            prop_assert!(goes_on && told.steps.is_empty());
            prop_assert_eq!(left, (0..sealed.len() as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn whoever_takes_no_more_gets_no_more() {
        let mut told = Told::new(TOLD_LEN);
        for number in 0..3 {
            let _goes_on = told.add(step(number, 1 << 20), &mut |_| Ok(true)).unwrap();
        }
        let mut given = 0;
        let goes_on = told.end(&mut |_| {
            given += 1;
            Ok(false)
        });
        assert_eq!((goes_on.unwrap(), given), (false, 1));
    }
}
