//! What differs between two images: equal nodes have equal ids, so only what differs is walked.

use super::engine::Engine;
use super::map::Map;
use super::{Leaf, Stretch};
use crate::error::Result;
use crate::format::node::{Shape, span};
use std::ops::Range;
use std::sync::Arc;

/// Calls `differs` for every range, in order and not touching, in which the images may differ: to the chunk where both are cut alike.
/// Beyond the end of the shorter one, all differs.
pub async fn compare(
    engine: &Arc<Engine>,
    a: &Map,
    b: &Map,
    differs: &mut (dyn FnMut(Range<u64>) + Send),
) -> Result<()> {
    let mut pending: Option<Range<u64>> = None;
    let mut report = |range: Range<u64>| match &mut pending {
        Some(before) if before.end == range.start => before.end = range.end,
        other => {
            if let Some(before) = other.replace(range) {
                differs(before);
            }
        }
    };
    let end = a.len.min(b.len);
    let mut at = 0;
    if a.root.id != b.root.id || a.len != b.len {
        while at < end {
            at = step(engine, a, b, at, end, &mut report).await?;
        }
    }
    if a.len != b.len {
        report(end..a.len.max(b.len));
    }
    if let Some(last) = pending {
        differs(last);
    }
    Ok(())
}

/// Compares from `at` on, as far as one answer goes; where to go on.
async fn step(
    engine: &Arc<Engine>,
    a: &Map,
    b: &Map,
    at: u64,
    end: u64,
    report: &mut (dyn FnMut(Range<u64>) + Send),
) -> Result<u64> {
    if let Some(same) = same_node(engine, a, b, at).await? {
        return Ok(same.min(end));
    }
    let (left, right) = (a.stretch(engine, at).await?, b.stretch(engine, at).await?);
    match (left, right) {
        (Stretch::Hole(left), Stretch::Hole(right)) => Ok(left.end.min(right.end).min(end)),
        (Stretch::Leaf(leaf), Stretch::Hole(hole)) | (Stretch::Hole(hole), Stretch::Leaf(leaf)) => {
            let until = hole.end.min(leaf.range.end).min(end);
            for piece in leaf.pieces(at).take_while(|piece| piece.range.start < until) {
                if piece.child.is_some() {
                    report(piece.range.start.max(at)..piece.range.end.min(until));
                }
            }
            Ok(until)
        }
        (Stretch::Leaf(left), Stretch::Leaf(right)) => Ok(leaves(&left, &right, at, end, report)),
    }
}

fn leaves(
    left: &Leaf,
    right: &Leaf,
    from: u64,
    end: u64,
    report: &mut (dyn FnMut(Range<u64>) + Send),
) -> u64 {
    let until = left.range.end.min(right.range.end).min(end);
    let (mut lefts, mut rights) = (left.pieces(from), right.pieces(from));
    let (mut one, mut other) = (lefts.next(), rights.next());
    let mut at = from;
    while at < until {
        let (Some(a), Some(b)) = (&one, &other) else { break };
        let stop = a.range.end.min(b.range.end).min(until);
        let ids = (a.child.map(|child| child.id), b.child.map(|child| child.id));
        // An equal chunk is equal content only at an equal place of the chunk.
        if ids.0 != ids.1 || (ids.0.is_some() && a.range.start != b.range.start) {
            report(at..stop);
        }
        at = stop;
        if a.range.end <= at {
            one = lefts.next();
        }
        if other.as_ref().is_some_and(|piece| piece.range.end <= at) {
            other = rights.next();
        }
    }
    until
}

/// The end of the largest whole node that begins at `at` and is the same in both.
async fn same_node(engine: &Arc<Engine>, a: &Map, b: &Map, at: u64) -> Result<Option<u64>> {
    let (Shape::Fixed(chunk), true) = (a.root.shape()?, a.root.chunk_size == b.root.chunk_size) else {
        return Ok(None);
    };
    for level in (0..a.root.level.min(b.root.level)).rev() {
        if !at.is_multiple_of(span(chunk, level)) {
            continue;
        }
        let (left, right) = (a.node_at(engine, level, at).await?, b.node_at(engine, level, at).await?);
        let (Some(left), Some(right)) = (left, right) else { continue };
        if left.map(|child| child.id) == right.map(|child| child.id) {
            return Ok(Some(at + span(chunk, level)));
        }
    }
    Ok(None)
}
