//! Taking over from the parent what is known to be unchanged: whole nodes where they lie whole in the range, chunks at its edges.
//!
//! So a source that knows what changed costs what changed, not what is there.

use super::pipeline::ItemPlan;
use crate::error::{Error, Kind, Result};
use crate::format::limits;
use crate::format::node::{Child, span};
use crate::image::{Map, Stretch};

/// Calls `set(level, offset, child)` in the order of offsets for everything that the parent has in the range; how many bytes
/// that is, as far as it is counted without opening whole nodes (those count by what they cover).
pub(super) fn take_over(
    plan: &ItemPlan<'_>,
    parent: &Map,
    offset: u64,
    len: u64,
    set: &mut dyn FnMut(u8, u64, Child) -> Result<()>,
) -> Result<u64> {
    let chunk = plan.engine.repository()?.config.chunk_size;
    let end = offset + len;
    let mut at = offset;
    let mut taken = 0;
    while at < end {
        match whole_node(plan, parent, chunk, at, end)? {
            Some((level, child)) => {
                let covered = span(chunk, level);
                if let Some(child) = child {
                    set(level + 1, at, relied_on(plan, at, child)?)?;
                    taken += covered;
                }
                at += covered;
            }
            None => match plan.runtime.block_on(parent.stretch(plan.engine, at))? {
                Stretch::Hole(range) => at = range.end.min(end),
                Stretch::Leaf(leaf) => {
                    for piece in leaf.pieces(at).take_while(|piece| piece.range.start < end) {
                        if let Some(child) = piece.child {
                            set(0, piece.range.start, relied_on(plan, piece.range.start, child)?)?;
                            taken += piece.range.end - piece.range.start;
                        }
                    }
                    at = leaf.range.end.min(end);
                }
            },
        }
    }
    Ok(taken)
}

/// The child at a place that may be relied on: its own, or another copy's. What is known to be lost must not be handed down.
fn relied_on(plan: &ItemPlan<'_>, at: u64, child: Child) -> Result<Child> {
    if plan.known.holds(child.id, child.place) {
        return Ok(child);
    }
    if let Some(place) = plan.known.find(child.id) {
        return Ok(Child { place, ..child });
    }
    let repository = plan.engine.repository()?;
    if plan.runtime.block_on(plan.known.holds_after_all(repository, child.id, child.place))? {
        return Ok(child);
    }
    let words = format!("the parent's copy of the unchanged bytes from {at} on is damaged or gone");
    Err(Error::new(Kind::Corrupt, words)
        .hint("back up without the list of changes: what is missing is then stored afresh"))
}

/// The largest node that begins at `at` and ends before `end`.
fn whole_node(
    plan: &ItemPlan<'_>,
    parent: &Map,
    chunk: u32,
    at: u64,
    end: u64,
) -> Result<Option<(u8, Option<Child>)>> {
    // Below a whole node nothing is looked at: only where nothing is known to be damaged.
    let levels = if plan.known.is_spotless() { limits::LEVEL_MAX } else { 0 };
    for level in (0..levels).rev() {
        let covered = span(chunk, level);
        let fits = at.is_multiple_of(covered) && at.checked_add(covered).is_some_and(|behind| behind <= end);
        if fits && let Some(child) = plan.runtime.block_on(parent.node_at(plan.engine, level, at))? {
            return Ok(Some((level, child)));
        }
    }
    Ok(None)
}
