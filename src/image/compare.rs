//! What differs between two images: equal nodes have equal ids, so only what differs is walked. Images that another program wrote have
//! no nodes; there the ids of chunks are compared, and only where whoever reads them can't tell from the outset that nothing changed.

use super::engine::Engine;
use super::foreign::{STEP, range_of};
use super::map::Map;
use super::origin::Origin;
use super::{Image, Leaf, Stretch, Whence, join};
use crate::error::Result;
use crate::format::node::{Shape, span};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are compared at a time, and what is said to differ as a whole, where bytes have to be compared.
const PIECE: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// Calls `differs` for every range, in order and not touching, in which the images may differ: to the chunk where both are cut alike.
/// Beyond the end of the shorter one, all differs.
pub async fn compare(a: &Image, b: &Image, differs: &mut (dyn FnMut(Range<u64>) + Send)) -> Result<()> {
    let mut pending: Option<Range<u64>> = None;
    let mut report = |range: Range<u64>| match &mut pending {
        Some(before) if before.end == range.start => before.end = range.end,
        other => {
            if let Some(before) = other.replace(range) {
                differs(before);
            }
        }
    };
    let end = a.len().min(b.len());
    if a.id() != b.id() || a.len() != b.len() {
        match (&a.whence, &b.whence) {
            (Whence::Map(a_map), Whence::Map(b_map)) if a.engine.home() == b.engine.home() => {
                let mut at = 0;
                while at < end {
                    at = step(&a.engine, a_map, b_map, at, end, &mut report).await?;
                }
            }
            (Whence::Origin(a), Whence::Origin(b)) => compare_origins(&**a, &**b, end, &mut report).await?,
            // What one repository calls a chunk says nothing to another, or to who wrote for another program.
            _ => compare_bytes(a, b, end, &mut report).await?,
        }
    }
    if a.len() != b.len() {
        report(end..a.len().max(b.len()));
    }
    if let Some(last) = pending {
        differs(last);
    }
    Ok(())
}

/// Reads both, but for what is zero in both.
async fn compare_bytes(
    a: &Image,
    b: &Image,
    end: u64,
    report: &mut (dyn FnMut(Range<u64>) + Send),
) -> Result<()> {
    let mut at = 0;
    while at < end {
        let (left, right) = (a.extent(at, end).await?, b.extent(at, end).await?);
        let until = left.range.end.min(right.range.end);
        if !left.data && !right.data {
            at = until;
            continue;
        }
        // OK: no longer than a piece.
        let len = (until - at).min(PIECE) as usize;
        let (left, right) = (a.read_aside(at, len).await.map(join)?, b.read_aside(at, len).await.map(join)?);
        for (here, (left, right)) in (at..).step_by(BLOCK).zip(left.chunks(BLOCK).zip(right.chunks(BLOCK))) {
            if left != right {
                report(here..here + left.len() as u64);
            }
        }
        at += len as u64;
    }
    Ok(())
}

async fn compare_origins(
    a: &dyn Origin,
    b: &dyn Origin,
    end: u64,
    report: &mut (dyn FnMut(Range<u64>) + Send),
) -> Result<()> {
    let changed = match a.changed_since(b.id()).await? {
        None => b.changed_since(a.id()).await?,
        changed => changed,
    };
    let chunk = a.chunk_len();
    let all = || std::iter::once(0..end).collect();
    for range in changed.unwrap_or_else(all) {
        let range = range.start..range.end.min(end);
        if chunk != b.chunk_len() {
            // Chunks that are cut in different ways have ids that say nothing of each other.
            if !range.is_empty() {
                report(range);
            }
            continue;
        }
        let mut number = range.start / chunk;
        while number.saturating_mul(chunk) < range.end {
            let some = number..(number + STEP).min(range.end.div_ceil(chunk));
            let (left, right) = (a.chunks(some.clone()).await?, b.chunks(some.clone()).await?);
            for (number, _) in (some.start..).zip(left.iter().zip(&right)).filter(|(_, (a, b))| a != b) {
                let here = range_of(a, number);
                let here = here.start.max(range.start)..here.end.min(range.end);
                if !here.is_empty() {
                    report(here);
                }
            }
            number = some.end;
        }
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
