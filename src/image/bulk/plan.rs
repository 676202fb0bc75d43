//! What is opened, and in which order: groups of chunks, runs of what another program wrote, zeros.

use super::order::Order;
use super::told::{Emit, TOLD_LEN, Told};
use super::{GROUP_LEN, Group, RUN_LEN, Step};
use crate::error::{Error, Kind, Result};
use crate::image::map::Leaves;
use crate::image::origin::Run;
use crate::image::{Image, Map, Piece, Stretch, Whence};
use crate::progress::Cancel;
use std::ops::Range;

/// Chunks of one pack with no more than this between them are fetched together: of a local store, and of one where each get takes its while.
const GAP_MAX: u64 = 16 * 1024;
const FAR_GAP_MAX: u64 = 128 * 1024;
/// Zeros are handed over so many at a time, but in no more than so many times: what is done with them can take long.
const ZEROS_LEN: u64 = 256 << 20;
const ZEROS_STEPS: u64 = 1024;
/// Of what is fetched in one go, no more is sealed bytes, and no more are chunks: honest ones that don't shrink are a little longer sealed.
const SEALED_MAX: u64 = 2 * GROUP_LEN;
const PIECES_MAX: usize = 4096;
/// So many leaves of a map are asked for before they are come to.
const LEAVES_AHEAD: u64 = 32;

/// In which order chunks come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arranged {
    /// As they follow each other in the image.
    AsInImage,
    /// As they lie in the store, which takes the fewest gets.
    AsInStore,
}

/// Makes a plan; `emit` says whether to go on. Who cancels is heard before each step.
pub(super) fn plan(
    image: &Image,
    range: Range<u64>,
    arranged: Arranged,
    cancel: &Cancel,
    emit: &mut Emit<'_>,
) -> Result<()> {
    let emit = &mut |step: Step| match step {
        Step::Zeros(range) => in_steps(range, &mut |part| {
            cancel.check()?;
            emit(Step::Zeros(part))
        }),
        step => {
            cancel.check()?;
            emit(step)
        }
    };
    let mut told = Told::new(if image.engine().is_far() { 0 } else { TOLD_LEN });
    let mut tell = |step| {
        if let Step::Group(group) = &step
            && let Some((pack, sealed)) = group.sealed()
        {
            image.engine().repository()?.expect_sealed(pack, sealed);
        }
        told.add(step, emit)
    };
    let _goes_on = plan_all(image, range, arranged, &mut tell)? && told.end(emit)?;
    Ok(())
}

/// Plans step by step; whether it came to the end.
fn plan_all(image: &Image, range: Range<u64>, arranged: Arranged, emit: &mut Emit<'_>) -> Result<bool> {
    match &image.whence {
        Whence::Map(map) => {
            let groups = match arranged {
                Arranged::AsInImage => Groups::AsInImage(None),
                Arranged::AsInStore => Groups::AsInStore(Order::new(range.clone(), gap_max(image))),
            };
            plan_by_map(image, map, range, groups, emit)
        }
        Whence::Origin(origin) => {
            let runtime = image.engine().runtime();
            let mut at = range.start;
            while at < range.end {
                let Run { range: here, data, stream } = runtime.block_on(origin.run(at, range.end))?;
                // Zeros may go on for as long as they like; what is read at once has its bound.
                let end = if data { here.end.min(at + RUN_LEN.max(origin.chunk_len())) } else { here.end };
                let step = if data { Step::Run(at..end, stream) } else { Step::Zeros(at..end) };
                if end <= at {
                    let words = format!("it ends at byte {at}, and {} were said", range.end);
                    return Err(Error::new(Kind::Corrupt, words));
                }
                if !emit(step)? {
                    return Ok(false);
                }
                at = end;
            }
            Ok(true)
        }
    }
}

/// A long run in parts, of which there are never very many.
fn in_steps(range: Range<u64>, hand: &mut dyn FnMut(Range<u64>) -> Result<bool>) -> Result<bool> {
    let step = ((range.end - range.start) / ZEROS_STEPS).next_multiple_of(ZEROS_LEN).max(ZEROS_LEN);
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(step));
        if !hand(at..end)? {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}

fn gap_max(image: &Image) -> u64 {
    if image.engine().is_far() { FAR_GAP_MAX } else { GAP_MAX }
}

/// Walks the map.
fn plan_by_map(
    image: &Image,
    map: &Map,
    range: Range<u64>,
    mut groups: Groups,
    emit: &mut Emit<'_>,
) -> Result<bool> {
    let engine = image.engine();
    let runtime = engine.runtime().clone();
    let mut leaves = Leaves::new(range.clone(), LEAVES_AHEAD);
    let mut at = range.start;
    while at < range.end {
        match runtime.block_on(map.stretch(engine, at))? {
            Stretch::Hole(hole) => {
                let end = hole.end.min(range.end);
                if !groups.end_run(emit)? || !emit(Step::Zeros(at..end))? {
                    return Ok(false);
                }
                at = end;
            }
            Stretch::Leaf(leaf) => {
                leaves.come_to(engine, map, &leaf.range);
                for piece in leaf.pieces(at).take_while(|piece| piece.range.start < range.end) {
                    let end = piece.range.end.min(range.end);
                    let goes_on = match piece.child {
                        None => groups.end_run(emit)? && emit(Step::Zeros(at..end))?,
                        Some(_) => groups.add(piece, at..end, emit)?,
                    };
                    if !goes_on {
                        return Ok(false);
                    }
                    at = end;
                }
            }
        }
    }
    groups.end(emit)
}

/// Makes groups of the pieces that come.
enum Groups {
    AsInImage(Option<Group>),
    AsInStore(Order),
}

impl Groups {
    /// A piece; `here` is what is wanted of it.
    fn add(&mut self, piece: Piece, here: Range<u64>, emit: &mut Emit<'_>) -> Result<bool> {
        match self {
            Groups::AsInStore(order) => order.add(piece, &mut |group| emit(Step::Group(group))),
            Groups::AsInImage(last) => {
                let goes_on = match last.take_if(|last| !goes_on(last, &piece)) {
                    Some(whole) => emit(Step::Group(whole))?,
                    None => true,
                };
                let group = last.get_or_insert(Group { pieces: Vec::new(), range: here.start..here.start });
                group.range.end = here.end;
                group.pieces.push(piece);
                Ok(goes_on)
            }
        }
    }

    /// Something that belongs into no group comes next.
    fn end_run(&mut self, emit: &mut Emit<'_>) -> Result<bool> {
        match self {
            Groups::AsInImage(last) => last.take().map_or(Ok(true), |group| emit(Step::Group(group))),
            Groups::AsInStore(_) => Ok(true),
        }
    }

    /// Nothing comes any more.
    fn end(&mut self, emit: &mut Emit<'_>) -> Result<bool> {
        match self {
            Groups::AsInImage(_) => self.end_run(emit),
            Groups::AsInStore(order) => order.flush(&mut |group| emit(Step::Group(group))),
        }
    }
}

/// Whether the piece lies behind the group in the store as it does in the image, and there is room for it.
fn goes_on(group: &Group, piece: &Piece) -> bool {
    let place = |piece: Option<&Piece>| piece.and_then(|piece| piece.child).map(|child| child.place);
    let (first, last) = (place(group.pieces.first()), place(group.pieces.last()));
    let neighbours = first.zip(last).zip(piece.child).is_some_and(|((first, last), next)| {
        last.pack == next.place.pack
            && last.end() == u64::from(next.place.offset)
            && next.place.end() - u64::from(first.offset) <= SEALED_MAX
    });
    neighbours && piece.range.end - group.range.start <= GROUP_LEN && group.pieces.len() < PIECES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::Child;
    use crate::format::{ChunkId, PackId, Place};

    fn steps(range: Range<u64>) -> Vec<Range<u64>> {
        let mut steps = Vec::new();
        let all = in_steps(range, &mut |part| {
            steps.push(part);
            Ok(true)
        });
        assert!(all.unwrap());
        steps
    }

    #[test]
    fn zeros_come_in_steps_that_are_neither_long_nor_many() {
        assert_eq!(steps(5..6), vec![5..6; 1]);
        assert_eq!(steps(5..ZEROS_LEN + 6), [5..ZEROS_LEN + 5, ZEROS_LEN + 5..ZEROS_LEN + 6]);
        assert_eq!(steps(0..100 * ZEROS_LEN).len(), 100);
        for range in [0..1 << 45, 7..u64::MAX] {
            let steps = steps(range.clone());
            assert!((100..=ZEROS_STEPS as usize + 1).contains(&steps.len()), "{}", steps.len());
            assert!(steps.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!((steps[0].start, steps[steps.len() - 1].end), (range.start, range.end));
        }
        let mut left = 3;
        let more = in_steps(0..100 * ZEROS_LEN, &mut |_| {
            left -= 1;
            Ok(left > 0)
        });
        assert_eq!((more.unwrap(), left), (false, 0));
    }

    /// How many of these chunks, which lie next to each other in the image and in their pack, are one group.
    fn fit(plain: u64, sealed: u32) -> usize {
        let piece = |number: u64| {
            let place = Place { pack: PackId([1; 16]), offset: number as u32 * sealed, len: sealed };
            Piece {
                range: number * plain..(number + 1) * plain,
                child: Some(Child { id: ChunkId([1; 32]), place }),
            }
        };
        let mut group = Group { pieces: vec![piece(0)], range: 0..plain };
        while goes_on(&group, &piece(group.pieces.len() as u64)) {
            let next = piece(group.pieces.len() as u64);
            group.range.end = next.range.end;
            group.pieces.push(next);
        }
        group.pieces.len()
    }

    #[test]
    fn a_group_is_bounded_in_plain_bytes_in_sealed_ones_and_in_chunks() {
        assert_eq!(fit(128 << 10, (128 << 10) + 60), 8, "as those that do not shrink lie there");
        assert_eq!(fit(4096, 4 << 20), 1, "each is given out as far longer than it can be");
        assert_eq!(fit(4096, 1 << 20), 2);
        assert_eq!(fit(1, 1), PIECES_MAX);
    }
}
