//! What differs from another backup, as a dirty bitmap: made from the two maps when somebody first asks, and kept as ranges.
//!
//! A bitmap may say of unchanged blocks that they changed, never the other way round. So where there are too many ranges to keep, those that
//! lie close together become one.

use crate::error::{Error, Kind, Result};
use crate::image::{Image, compare};
use afterimage_nbd::export::Extent;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// So many ranges are kept: a megabyte.
const RANGES_MAX: usize = 64 * 1024;
/// Extents in one answer; clients ask on.
const EXTENTS_MAX: usize = 4096;
const DIRTY: u64 = 1;

/// What differs from one other image.
pub(super) struct Since {
    other: Image,
    changed: Arc<OnceCell<Vec<Range<u64>>>>,
}

impl Since {
    pub(super) fn new(other: Image) -> Since {
        Since { other, changed: Arc::default() }
    }

    /// The ranges in which the image differs, found out once.
    pub(super) fn changed(&self, image: &Image) -> impl Future<Output = Result<Changed>> + use<> {
        let (image, other, changed) = (image.clone(), self.other.clone(), Arc::clone(&self.changed));
        async move {
            if changed.initialized() {
                return Ok(Changed(changed));
            }
            // Goes on when whoever asked first gives up: the next one finds more of the nodes here, or all.
            let runtime = image.engine().runtime().clone();
            let found = runtime.spawn(async move {
                let _ranges = changed.get_or_try_init(|| differences(&image, &other)).await?;
                Ok(Changed(changed))
            });
            found.await.unwrap_or_else(|_| {
                Err(Error::new(Kind::Interrupted, "compare two backups: it was given up"))
            })
        }
    }
}

async fn differences(image: &Image, other: &Image) -> Result<Vec<Range<u64>>> {
    let mut ranges = Ranges::default();
    compare(image, other, &mut |range| ranges.add(range)).await?;
    Ok(ranges.ranges)
}

/// The ranges, once they are known.
pub(super) struct Changed(Arc<OnceCell<Vec<Range<u64>>>>);

impl Changed {
    /// Dirty and clean stretches from `offset` on.
    pub(super) fn extents(&self, offset: u64, len: u64) -> Vec<Extent> {
        extents(self.0.get().map_or(&[][..], Vec::as_slice), offset, len)
    }
}

fn extents(ranges: &[Range<u64>], offset: u64, len: u64) -> Vec<Extent> {
    let end = offset + len;
    let mut at = offset;
    let mut extents = Vec::new();
    let first = ranges.partition_point(|range| range.end <= offset);
    for range in ranges.iter().skip(first).take_while(|range| range.start < end) {
        if extents.len() >= EXTENTS_MAX {
            return extents;
        }
        if range.start > at {
            extents.push(Extent { len: range.start - at, flags: 0 });
        }
        extents.push(Extent { len: range.end.min(end) - range.start.max(at), flags: DIRTY });
        at = range.end.min(end);
    }
    if at < end {
        extents.push(Extent { len: end - at, flags: 0 });
    }
    extents
}

#[derive(Default)]
struct Ranges {
    ranges: Vec<Range<u64>>,
    /// Ranges with no more than this between them become one.
    gap: u64,
}

impl Ranges {
    /// Adds a range behind all others.
    fn add(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if range.start - last.end <= self.gap => last.end = range.end,
            _ => self.ranges.push(range),
        }
        while self.ranges.len() > RANGES_MAX {
            self.gap = (self.gap * 2).max(64 * 1024);
            let gap = self.gap;
            self.ranges.dedup_by(|next, before| {
                let close = next.start - before.end <= gap;
                if close {
                    before.end = next.end;
                }
                close
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirty(start: u64, end: u64) -> Range<u64> {
        start..end
    }

    #[test]
    fn stretches_alternate_and_cover_what_was_asked() {
        let ranges = [dirty(10, 20), dirty(30, 40)];
        let flat = |offset, len| -> Vec<(u64, u64)> {
            extents(&ranges, offset, len).into_iter().map(|extent| (extent.len, extent.flags)).collect()
        };
        assert_eq!(flat(0, 50), [(10, 0), (10, 1), (10, 0), (10, 1), (10, 0)]);
        assert_eq!(flat(15, 3), [(3, 1)]);
        assert_eq!(flat(20, 10), [(10, 0)]);
        assert_eq!(flat(35, 100), [(5, 1), (95, 0)]);
        assert_eq!(extents(&[], 0, 5), [Extent { len: 5, flags: 0 }]);
    }

    #[test]
    fn too_many_ranges_grow_together_and_lose_none() {
        let mut ranges = Ranges::default();
        let all = 200_000u64;
        for number in 0..all {
            ranges.add(dirty(number * 256 * 1024, number * 256 * 1024 + 4096));
        }
        assert!(ranges.ranges.len() <= RANGES_MAX);
        let holds = |at: u64| ranges.ranges.iter().any(|range| range.contains(&at));
        assert!((0..all).step_by(997).all(|number| holds(number * 256 * 1024)));
        assert_eq!(ranges.ranges.last().unwrap().end, (all - 1) * 256 * 1024 + 4096);
    }
}
