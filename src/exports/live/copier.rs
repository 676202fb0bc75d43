//! The copier of a live restore: brings what nobody has written yet from the backup, beside the guest and behind it.
//!
//! map -> next block that is still the backup's -> hole: settled at once · data: some fetches in flight -> settled -> now and then a flush
//!
//! While the guest is busy only one fetch is in flight, with a pause behind it. What can't be read stays the backup's and is tried again later;
//! a target that fails ends the copying, since nothing is true of it any more.

use super::Live;
use crate::exports::answer::{failed, to_the_end};
use crate::exports::backup::{BackupExport, parts_of};
use crate::exports::blockmap::State;
use afterimage_nbd::export::{Error as Refusal, Result as Served};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;

/// Bytes of one fetch, or one block.
const STEP: u64 = 1 << 20;
/// Fetches in flight while the guest is quiet.
const AT_ONCE: usize = 4;
/// How long the guest has to be quiet until nobody waits for it.
const QUIET: Duration = Duration::from_millis(50);
/// Between two fetches while it is not.
const PAUSE: Duration = Duration::from_millis(10);
/// A target's zeroes may have to be written: so many at a time, and others in between.
const ZEROES: u64 = 64 << 20;
/// So much is copied between two flushes: a restart does it again.
const FLUSH_EVERY: u64 = 256 << 20;
/// Until what could not be read is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(15);

/// Copies until all of it is there, or the target fails.
pub(super) async fn copy(live: Arc<Live>, backup: Arc<BackupExport>) {
    loop {
        match pass(&live, &backup).await {
            Err(why) => {
                tracing::error!("{}: copying ended: {why}", live.shown);
                return live.copy.fail(why.to_string());
            }
            Ok(None) if live.is_complete() => return live.finish().await,
            Ok(why) => {
                let why = why.map_or("some of it was not read".to_owned(), |why| why.to_string());
                tracing::warn!("{}: {why}; it is tried again in {} s", live.shown, AGAIN_AFTER.as_secs());
                live.copy.fail(why);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// What a fetch came to: so many bytes, or why they stay where they are.
type Fetched = Served<Result<u64, Refusal>>;

/// Goes over the map once; gives the first thing that could not be read.
async fn pass(live: &Arc<Live>, backup: &Arc<BackupExport>) -> Served<Option<Refusal>> {
    let mut under_way = JoinSet::new();
    let done = go_over(live, backup, &mut under_way).await;
    // Also where one has failed: a write that is given up half-way could land behind what the guest writes there next.
    while under_way.join_next().await.is_some() {}
    done
}

async fn go_over(
    live: &Arc<Live>,
    backup: &Arc<BackupExport>,
    under_way: &mut JoinSet<Fetched>,
) -> Served<Option<Refusal>> {
    let (mut at, mut unread, mut unflushed) = (0, None, 0);
    while let Some(run) = next(live, at) {
        let limit = if live.guest.is_busy(QUIET) { 1 } else { AT_ONCE };
        while under_way.len() >= limit {
            collect(under_way, &mut unread, &mut unflushed).await?;
        }
        if limit == 1 {
            tokio::time::sleep(PAUSE).await;
        }
        at = match step(live, backup, run.clone()).await {
            Ok(Step::Hole(hole)) => {
                live.layer.settle_hole(hole.clone()).await?;
                unflushed += hole.end - hole.start;
                hole.end
            }
            Ok(Step::Data(data)) => {
                let end = data.end;
                let _task = under_way.spawn(fetch(Arc::clone(live), Arc::clone(backup), data));
                end
            }
            Err(why) => {
                unread = unread.or(Some(why));
                run.end.min(run.start.saturating_add(STEP.max(live.block())))
            }
        };
        if unflushed >= FLUSH_EVERY {
            unflushed = 0;
            flush(live).await?;
        }
    }
    while !under_way.is_empty() {
        collect(under_way, &mut unread, &mut unflushed).await?;
    }
    flush(live).await?;
    Ok(unread)
}

/// Goes on to its end also where the copying is stopped meanwhile.
async fn flush(live: &Live) -> Served<()> {
    let layer = Arc::clone(&live.layer);
    to_the_end(async move { layer.flush().await }).wait().await
}

async fn collect(
    under_way: &mut JoinSet<Fetched>,
    unread: &mut Option<Refusal>,
    unflushed: &mut u64,
) -> Served<()> {
    match under_way.join_next().await {
        Some(Ok(fetched)) => match fetched? {
            Ok(bytes) => *unflushed += bytes,
            Err(why) => *unread = unread.take().or(Some(why)),
        },
        Some(Err(panic)) => tracing::error!("copying a block ended in a panic: {panic}"),
        None => {}
    }
    Ok(())
}

/// The next blocks from `at` on that are still the backup's.
fn next(live: &Live, at: u64) -> Option<Range<u64>> {
    let map = live.layer.side().map();
    let mut at = at;
    while at < live.info.size {
        let (state, until) = map.run(at, live.info.size);
        if state == State::Base {
            return Some(at..until);
        }
        at = until;
    }
    None
}

enum Step {
    Hole(Range<u64>),
    Data(Range<u64>),
}

/// How a run begins: whole blocks of nothing, or as much as one fetch brings.
async fn step(live: &Live, backup: &BackupExport, run: Range<u64>) -> Result<Step, Refusal> {
    let block = live.block();
    let extent = backup.image().extent(run.start, run.end).await;
    let extent = extent.map_err(|why| failed(&why).at(run.start))?;
    let step = STEP.max(block);
    let end = run.end.min((run.start / step + 1) * step);
    let hole_end = match extent.range.end {
        _ if extent.data => run.start,
        end if end >= run.end => run.end,
        end => end / block * block,
    };
    Ok(match hole_end > run.start {
        true => {
            Step::Hole(run.start..hole_end.min(run.start / ZEROES * ZEROES + ZEROES * live.holes_at_once))
        }
        false => Step::Data(run.start..end),
    })
}

async fn fetch(live: Arc<Live>, backup: Arc<BackupExport>, range: Range<u64>) -> Fetched {
    let len = range.end - range.start;
    let read = backup.image().read_aside(range.start, len as usize).await;
    let parts = match read {
        Ok(parts) => parts_of(parts),
        Err(why) => return Ok(Err(failed(&why).at(range.start))),
    };
    live.layer.settle(range, parts.as_slice()).await?;
    let _before = live.copy.copied.fetch_add(len, Relaxed);
    Ok(Ok(len))
}
