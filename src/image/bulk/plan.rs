//! What is opened, and in which order: groups of chunks, runs of what another program wrote, zeros.

use super::order::Order;
use super::{GROUP_LEN, Group, RUN_LEN, Step};
use crate::error::Result;
use crate::image::origin::Run;
use crate::image::{Engine, Image, Map, Piece, Stretch, Whence};
use crate::progress::Cancel;
use std::ops::Range;
use std::sync::Arc;

/// Chunks of one pack with no more than this between them are fetched together: of a local store, and of one where each get takes its while.
const GAP_MAX: u64 = 16 * 1024;
const FAR_GAP_MAX: u64 = 128 * 1024;
/// So many leaves of a map are asked for together, before they are come to.
const LEAVES_AHEAD: u64 = 32;

/// In which order chunks come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arranged {
    /// As they follow each other in the image.
    AsInImage,
    /// As they lie in the store, which takes the fewest gets.
    AsInStore,
}

/// Makes a plan; `emit` says whether to go on.
pub(super) fn plan(
    image: &Image,
    range: Range<u64>,
    arranged: Arranged,
    cancel: &Cancel,
    emit: &mut dyn FnMut(Step) -> Result<bool>,
) -> Result<()> {
    match &image.whence {
        Whence::Map(map) => {
            let groups = match arranged {
                Arranged::AsInImage => Groups::AsInImage(None),
                Arranged::AsInStore => Groups::AsInStore(Order::new(range.clone(), gap_max(image)?)),
            };
            plan_by_map(image, map, range, groups, cancel, emit)
        }
        Whence::Origin(origin) => {
            let runtime = image.engine().runtime();
            let mut at = range.start;
            while at < range.end {
                cancel.check()?;
                let Run { range: here, data, stream } = runtime.block_on(origin.run(at, range.end))?;
                // Zeros may go on for as long as they like; what is read at once has its bound.
                let end = if data { here.end.min(at + RUN_LEN.max(origin.chunk_len())) } else { here.end };
                let step = if data { Step::Run(at..end, stream) } else { Step::Zeros(at..end) };
                if end <= at || !emit(step)? {
                    return Ok(());
                }
                at = end;
            }
            Ok(())
        }
    }
}

fn gap_max(image: &Image) -> Result<u64> {
    let is_far = image.engine().repository()?.store.calls_at_once().is_some();
    Ok(if is_far { FAR_GAP_MAX } else { GAP_MAX })
}

/// Walks the map.
fn plan_by_map(
    image: &Image,
    map: &Map,
    range: Range<u64>,
    mut groups: Groups,
    cancel: &Cancel,
    emit: &mut dyn FnMut(Step) -> Result<bool>,
) -> Result<()> {
    let engine = image.engine();
    let runtime = engine.runtime().clone();
    let mut leaves = Leaves { expected: range.start, end: range.end };
    let mut at = range.start;
    while at < range.end {
        cancel.check()?;
        match runtime.block_on(map.stretch(engine, at))? {
            Stretch::Hole(hole) => {
                let end = hole.end.min(range.end);
                if !groups.end_run(image, emit)? || !emit(Step::Zeros(at..end))? {
                    return Ok(());
                }
                at = end;
            }
            Stretch::Leaf(leaf) => {
                leaves.come_to(engine, map, &leaf.range);
                for piece in leaf.pieces(at).take_while(|piece| piece.range.start < range.end) {
                    let end = piece.range.end.min(range.end);
                    let goes_on = match piece.child {
                        None => groups.end_run(image, emit)? && emit(Step::Zeros(at..end))?,
                        Some(_) => groups.add(image, piece, at..end, emit)?,
                    };
                    if !goes_on {
                        return Ok(());
                    }
                    at = end;
                }
            }
        }
    }
    let _goes_on = groups.end(image, emit)?;
    Ok(())
}

/// Leaves that were asked for before they are come to, so that a store far away does not have us wait for each.
struct Leaves {
    /// As far as this.
    expected: u64,
    /// None is wanted from here on.
    end: u64,
}

impl Leaves {
    fn come_to(&mut self, engine: &Arc<Engine>, map: &Map, leaf: &Range<u64>) {
        let ahead = |leaves: u64| {
            leaf.end.saturating_add((leaf.end - leaf.start).saturating_mul(leaves)).min(self.end)
        };
        // Many at once: they lie next to each other.
        if self.expected < ahead(LEAVES_AHEAD / 2) {
            let far = ahead(LEAVES_AHEAD);
            map.expect(engine, self.expected.max(leaf.end)..far);
            self.expected = far;
        }
    }
}

/// Makes groups of the pieces that come.
enum Groups {
    AsInImage(Option<Group>),
    AsInStore(Order),
}

impl Groups {
    /// A piece; `here` is what is wanted of it.
    fn add(
        &mut self,
        image: &Image,
        piece: Piece,
        here: Range<u64>,
        emit: &mut dyn FnMut(Step) -> Result<bool>,
    ) -> Result<bool> {
        match self {
            Groups::AsInStore(order) => order.add(piece, &mut |group| send(image, group, emit)),
            Groups::AsInImage(last) => {
                let goes_on = match last.take_if(|last| !goes_on(last, &piece)) {
                    Some(whole) => send(image, whole, emit)?,
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
    fn end_run(&mut self, image: &Image, emit: &mut dyn FnMut(Step) -> Result<bool>) -> Result<bool> {
        match self {
            Groups::AsInImage(last) => last.take().map_or(Ok(true), |group| send(image, group, emit)),
            Groups::AsInStore(_) => Ok(true),
        }
    }

    /// Nothing comes any more.
    fn end(&mut self, image: &Image, emit: &mut dyn FnMut(Step) -> Result<bool>) -> Result<bool> {
        match self {
            Groups::AsInImage(_) => self.end_run(image, emit),
            Groups::AsInStore(order) => order.flush(&mut |group| send(image, group, emit)),
        }
    }
}

/// Has a group opened, and tells the store before.
fn send(image: &Image, group: Group, emit: &mut dyn FnMut(Step) -> Result<bool>) -> Result<bool> {
    if let Some((pack, sealed)) = group.sealed() {
        image.engine().repository()?.expect_sealed(pack, sealed);
    }
    emit(Step::Group(group))
}

/// Whether the piece lies behind the group in the store as it does in the image.
fn goes_on(group: &Group, piece: &Piece) -> bool {
    let last = group.pieces.last().and_then(|last| last.child);
    let neighbours = last.zip(piece.child).is_some_and(|(last, next)| {
        last.place.pack == next.place.pack && last.place.end() == u64::from(next.place.offset)
    });
    neighbours && piece.range.end - group.range.start <= GROUP_LEN
}
