//! What lies below: an image of a backup, or nothing; zeroes behind its end.

use crate::exports::answer::failed;
use crate::exports::backup::{BackupExport, stretches};
use afterimage_nbd::export::{Answer, Export, Extent, Part, Parts, Result as Served};
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::Arc;

/// An image of a backup, as if it were as long as needed.
pub(in crate::exports) struct Below(Option<Arc<BackupExport>>);

impl Below {
    pub(in crate::exports) fn new(image: Option<Arc<BackupExport>>) -> Below {
        Below(image)
    }

    /// The image, if there is one.
    pub(in crate::exports) fn image(&self) -> Option<&Arc<BackupExport>> {
        self.0.as_ref()
    }

    /// The part of a range that the image has, and how much lies behind its end.
    fn split(&self, range: &Range<u64>) -> (Range<u64>, u64) {
        let len = self.0.as_ref().map_or(0, |image| image.image().len());
        let inside = range.start..range.end.min(len).max(range.start);
        let behind = range.end - inside.end;
        (inside, behind)
    }

    /// What it has for a range that is no longer than a request.
    pub(super) fn read(&self, range: &Range<u64>) -> Answer<Parts> {
        let (inside, behind) = self.split(range);
        let hole = Part::Hole(short(behind));
        let Some(image) = self.0.as_ref().filter(|_| !inside.is_empty()) else {
            return Answer::ok(Parts::One(hole));
        };
        let read = image.read(inside.start, short(inside.end - inside.start));
        if behind == 0 {
            return read;
        }
        Answer::later(async move {
            let mut parts = read.wait().await?.as_slice().to_vec();
            parts.push(hole);
            Ok(Parts::Many(parts))
        })
    }

    /// The same, in one piece.
    pub(super) async fn bytes(&self, range: &Range<u64>) -> Served<Bytes> {
        let (inside, behind) = self.split(range);
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        if let Some(image) = self.0.as_ref().filter(|_| !inside.is_empty()) {
            let len = (inside.end - inside.start) as usize;
            let read = image.image().read_at(inside.start, len).await;
            all.extend_from_slice(&read.map_err(|why| failed(&why).at(inside.start))?);
        }
        all.resize(all.len() + behind as usize, 0);
        Ok(all.freeze())
    }

    /// What it stores and what not, under the flags for holes and for data; may end before the range does.
    pub(super) async fn stretches(
        &self,
        range: Range<u64>,
        one: bool,
        flags: [u64; 2],
    ) -> Served<Vec<Extent>> {
        let (inside, behind) = self.split(&range);
        let mut extents = Vec::new();
        if let Some(image) = self.0.as_ref().filter(|_| !inside.is_empty()) {
            let len = inside.end - inside.start;
            let found = stretches(image.image(), inside.start, len, one, flags).await;
            extents = found.map_err(|why| failed(&why).at(inside.start))?;
            if one || extents.iter().map(|extent| extent.len).sum::<u64>() < len {
                return Ok(extents);
            }
        }
        if behind > 0 {
            extents.push(Extent { len: behind, flags: flags[0] });
        }
        Ok(extents)
    }
}

/// No request is longer than 32 bits.
fn short(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
