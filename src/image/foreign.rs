//! Reading an image that another program wrote, through the cache and the fetches under way that all images share.

use super::cache::Hint;
use super::engine::{Engine, Far};
use super::origin::Origin;
use super::pool::Urgency;
use super::{Extent, GoesOn, Part, cut, push_zeros};
use crate::error::{Error, Kind, Result};
use crate::format::ChunkId;
use crate::seal::Verified;
use std::ops::Range;
use std::sync::Arc;

/// Ids are asked for by so many chunks at a time where all of them are looked through.
pub(super) const STEP: u64 = 1024;

type AnyOrigin = Arc<dyn Origin>;

/// The numbers of the chunks that a range touches.
pub(super) fn numbers(origin: &dyn Origin, range: &Range<u64>) -> Range<u64> {
    let chunk = origin.chunk_len();
    range.start / chunk..range.end.div_ceil(chunk)
}

/// Which bytes of the image a chunk is.
pub(super) fn range_of(origin: &dyn Origin, number: u64) -> Range<u64> {
    let (chunk, len) = (origin.chunk_len(), origin.len());
    number.saturating_mul(chunk).min(len)..number.saturating_add(1).saturating_mul(chunk).min(len)
}

pub(super) fn read_now(engine: &Engine, origin: &AnyOrigin, range: Range<u64>) -> Option<Result<Vec<Part>>> {
    if range.is_empty() {
        return Some(Ok(Vec::new()));
    }
    let wanted = numbers(&**origin, &range);
    let ids = origin.chunks_now(wanted.clone())?;
    let mut parts = Vec::with_capacity(ids.len());
    for (number, id) in wanted.zip(ids) {
        let chunk = match id {
            None => None,
            Some(id) => Some(engine.chunk_now(id, Hint::Demand)?),
        };
        push(&mut parts, origin, number, &range, chunk.as_ref()).ok()?;
    }
    Some(Ok(parts))
}

pub(super) async fn read(
    engine: &Arc<Engine>,
    origin: &AnyOrigin,
    range: Range<u64>,
    urgency: Urgency,
    hint: Hint,
) -> Result<Vec<Part>> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = numbers(&**origin, &range);
    let ids = origin.chunks(wanted.clone()).await?;
    let far: Vec<Far> = far(wanted.clone(), &ids);
    let mut chunks = gather(engine, origin, &far, urgency, hint).await?.into_iter();
    let mut parts = Vec::with_capacity(ids.len());
    for (number, id) in wanted.zip(ids) {
        let chunk = id.and_then(|_| chunks.next());
        if id.is_some() != chunk.is_some() {
            return Err(Error::new(Kind::Corrupt, "a chunk was not answered for"));
        }
        push(&mut parts, origin, number, &range, chunk.as_ref())?;
    }
    Ok(parts)
}

/// Those of the chunks that are stored.
fn far(numbers: Range<u64>, ids: &[Option<ChunkId>]) -> Vec<Far> {
    numbers.zip(ids).filter_map(|(number, id)| Some(Far { number, id: (*id)? })).collect()
}

/// Adds what a range has of a chunk.
fn push(
    parts: &mut Vec<Part>,
    origin: &AnyOrigin,
    number: u64,
    range: &Range<u64>,
    chunk: Option<&Verified>,
) -> Result<()> {
    let whole = range_of(&**origin, number);
    let here = whole.start.max(range.start)..whole.end.min(range.end);
    match chunk {
        None => push_zeros(parts, here.end - here.start),
        Some(chunk) => {
            let bytes = cut(chunk, &whole, here);
            parts.push(Part::Bytes(bytes.ok_or_else(|| Error::new(Kind::Corrupt, "a chunk is too short"))?));
        }
    }
    Ok(())
}

async fn gather(
    engine: &Arc<Engine>,
    origin: &AnyOrigin,
    wanted: &[Far],
    urgency: Urgency,
    hint: Hint,
) -> Result<Vec<Verified>> {
    let mut chunks: Vec<Option<Verified>> = wanted.iter().map(|one| engine.chunk_now(one.id, hint)).collect();
    while chunks.iter().any(Option::is_none) {
        let empty: Vec<usize> = (0..chunks.len()).filter(|&number| chunks[number].is_none()).collect();
        let missing: Vec<Far> = empty.iter().map(|&number| wanted[number]).collect();
        let waits = engine.fetch_far(origin, &missing, urgency, hint);
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

pub(super) async fn prefetch(engine: &Arc<Engine>, origin: &AnyOrigin, range: Range<u64>) {
    let wanted = numbers(&**origin, &range);
    if let Ok(ids) = origin.chunks(wanted.clone()).await {
        let mut missing = far(wanted, &ids);
        missing.retain(|one| engine.chunk_now(one.id, Hint::Scan).is_none());
        drop(engine.fetch_far(origin, &missing, Urgency::Soon, Hint::Scan));
    }
}

pub(super) async fn extent(origin: &AnyOrigin, offset: u64, end: u64, goes_on: GoesOn<'_>) -> Result<Extent> {
    let (mut at, mut kind) = (offset, None);
    while at < end && (at == offset || goes_on()) {
        let run = origin.run(at, end).await?;
        if kind.is_some_and(|kind| kind != run.data) || run.range.end <= at {
            break;
        }
        kind = Some(run.data);
        at = run.range.end;
    }
    Ok(Extent { range: offset..at.min(end).max(offset), data: kind.unwrap_or(false) })
}
