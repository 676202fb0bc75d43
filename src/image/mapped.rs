//! Reading an image of ours: its map says which chunk holds which bytes.
//!
//! range -> plan: one entry a chunk or hole -> what is in memory, and for the rest one fetch for all who wait -> parts

use super::cache::Hint;
use super::engine::{Engine, Wanted};
use super::map::{Leaves, Map, Piece, Stretch};
use super::pool::Urgency;
use super::{Extent, GoesOn, Part, cut, push_zeros};
use crate::error::{Error, Kind, Result};
use crate::seal::Verified;
use std::ops::Range;
use std::sync::Arc;

/// Of a run that is longer than a leaf, so many more are asked for before they are come to: nothing else is done with them than to go on.
const LEAVES_AHEAD: u64 = 128;

/// What a read covers: one entry a chunk or hole.
struct Plan {
    pieces: Vec<Piece>,
}

pub(super) fn read_now(engine: &Arc<Engine>, map: &Map, range: Range<u64>) -> Option<Result<Vec<Part>>> {
    let mut parts = Vec::with_capacity(2);
    let mut at = range.start;
    while at < range.end {
        match map.stretch_now(engine, at)? {
            Err(error) => return Some(Err(error)),
            Ok(Stretch::Hole(hole)) => {
                let end = hole.end.min(range.end);
                push_zeros(&mut parts, end - at);
                at = end;
            }
            Ok(Stretch::Leaf(leaf)) => {
                for piece in leaf.pieces(at).take_while(|piece| piece.range.start < range.end) {
                    let end = piece.range.end.min(range.end);
                    match piece.child {
                        None => push_zeros(&mut parts, end - at),
                        Some(child) => {
                            let chunk = engine.chunk_now(child.id, Hint::Demand)?;
                            parts.push(Part::Bytes(cut(&chunk, &piece.range, at..end)?));
                        }
                    }
                    at = end;
                }
            }
        }
    }
    Some(Ok(parts))
}

pub(super) async fn read(
    engine: &Arc<Engine>,
    map: &Map,
    range: Range<u64>,
    urgency: Urgency,
    hint: Hint,
) -> Result<Vec<Part>> {
    let plan = plan(engine, map, &range).await?;
    let wanted: Vec<Wanted> = plan.wanted().collect();
    let mut chunks = gather(engine, &wanted, urgency, hint).await?.into_iter();
    let mut parts = Vec::with_capacity(plan.pieces.len());
    for piece in &plan.pieces {
        let here = piece.range.start.max(range.start)..piece.range.end.min(range.end);
        match piece.child {
            None => push_zeros(&mut parts, here.end - here.start),
            Some(_) => {
                let chunk =
                    chunks.next().ok_or_else(|| Error::new(Kind::Corrupt, "a chunk was not answered for"))?;
                let bytes = cut(&chunk, &piece.range, here);
                parts.push(Part::Bytes(
                    bytes.ok_or_else(|| Error::new(Kind::Corrupt, "a chunk is too short"))?,
                ));
            }
        }
    }
    Ok(parts)
}

pub(super) async fn prefetch(engine: &Arc<Engine>, map: &Map, range: Range<u64>) {
    // And what describes the range after this one: who reads in order comes to it while this one is on its way.
    let _far = map.expect(engine, range.start..range.end.saturating_add(range.end - range.start));
    if let Ok(plan) = plan(engine, map, &range).await {
        let missing: Vec<Wanted> =
            plan.wanted().filter(|one| engine.chunk_now(one.id, Hint::Scan).is_none()).collect();
        drop(engine.fetch(&missing, Urgency::Soon, Hint::Scan));
    }
}

pub(super) async fn extent(
    engine: &Arc<Engine>,
    map: &Map,
    offset: u64,
    end: u64,
    goes_on: GoesOn<'_>,
) -> Result<Extent> {
    let mut at = offset;
    let mut kind = None;
    let mut leaves = Leaves::new(offset..end, LEAVES_AHEAD);
    while at < end && (at == offset || goes_on()) {
        let (range, data) = match map.stretch(engine, at).await? {
            Stretch::Hole(range) => (range, false),
            Stretch::Leaf(leaf) => {
                // Most end in the leaf in which they begin.
                if at > offset {
                    leaves.come_to(engine, map, &leaf.range);
                }
                let mut pieces = leaf.pieces(at);
                let Some(first) = pieces.next() else { break };
                let data = first.child.is_some();
                let last = pieces.take_while(|piece| piece.child.is_some() == data).last();
                (first.range.start..last.unwrap_or(first).range.end, data)
            }
        };
        if kind.is_some_and(|kind| kind != data) {
            break;
        }
        kind = Some(data);
        at = range.end;
    }
    Ok(Extent { range: offset..at.min(end).max(offset), data: kind.unwrap_or(false) })
}

async fn plan(engine: &Arc<Engine>, map: &Map, range: &Range<u64>) -> Result<Plan> {
    let mut pieces = Vec::new();
    let mut at = range.start;
    while at < range.end {
        match map.stretch(engine, at).await? {
            Stretch::Hole(hole) => {
                at = hole.end;
                pieces.push(Piece { range: hole, child: None });
            }
            Stretch::Leaf(leaf) => {
                pieces.extend(leaf.pieces(at).take_while(|piece| piece.range.start < range.end));
                at = leaf.range.end;
            }
        }
    }
    Ok(Plan { pieces })
}

/// All of these chunks, in order.
pub(super) async fn gather(
    engine: &Arc<Engine>,
    wanted: &[Wanted],
    urgency: Urgency,
    hint: Hint,
) -> Result<Vec<Verified>> {
    let mut chunks: Vec<Option<Verified>> = wanted.iter().map(|one| engine.chunk_now(one.id, hint)).collect();
    while chunks.iter().any(Option::is_none) {
        let empty: Vec<usize> = (0..chunks.len()).filter(|&number| chunks[number].is_none()).collect();
        let missing: Vec<Wanted> = empty.iter().map(|&number| wanted[number]).collect();
        let waits = engine.fetch(&missing, urgency, hint);
        for (number, wait) in empty.into_iter().zip(waits) {
            // `None`: whoever fetched it went away; the next round fetches it again.
            let answer = match wait {
                Some(wait) => wait.done().await,
                None => None,
            };
            if let Some(answer) = answer {
                chunks[number] = Some(answer?);
            }
        }
    }
    Ok(chunks.into_iter().flatten().collect())
}

impl Plan {
    fn wanted(&self) -> impl Iterator<Item = Wanted> + '_ {
        self.pieces.iter().filter_map(|piece| {
            let child = piece.child?;
            Some(Wanted { id: child.id, place: child.place, len: piece.range.end - piece.range.start })
        })
    }
}
