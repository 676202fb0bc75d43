//! An open file: its bytes, and where its holes are.

use crate::error::Result;
use crate::image::{Ahead, Extent, GoesOn, Image, join, tree};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// For how long data or a hole is looked for: well within the time in which a mount has to answer.
const FIND_FOR: Duration = Duration::from_secs(10);

/// An open file.
pub struct File(Inner);

enum Inner {
    Image {
        image: Image,
        ahead: Ahead,
    },
    /// Of a tree, and too small for a map.
    Small(tree::File),
    Bytes(Bytes),
}

/// What to look for in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// The next byte that is stored.
    Data,
    /// The next byte that is not; the end of the file is one.
    Hole,
}

impl File {
    pub(super) fn image(image: Image) -> File {
        File(Inner::Image { image, ahead: Ahead::new() })
    }

    /// A file of a tree; a large one is read as an image is.
    pub(super) fn of_tree(file: tree::File) -> File {
        match file.image() {
            Some(image) => File::image(image.clone()),
            None => File(Inner::Small(file)),
        }
    }

    pub(super) fn bytes(bytes: Bytes) -> File {
        File(Inner::Bytes(bytes))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Inner::Image { image, .. } => image.len(),
            Inner::Small(file) => file.len(),
            Inner::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// The image, if it is one.
    pub fn as_image(&self) -> Option<&Image> {
        match &self.0 {
            Inner::Image { image, .. } => Some(image),
            Inner::Small(_) | Inner::Bytes(_) => None,
        }
    }

    /// The bytes, if they are in memory; notes the read, so that a sequential reader finds more there. Never waits.
    pub fn read_now(&self, offset: u64, len: usize) -> Option<Result<Bytes>> {
        match &self.0 {
            Inner::Image { image, ahead } => {
                let now = image.read_now(offset, len).map(|parts| parts.map(join));
                ahead.note(image, offset, len as u64);
                now
            }
            Inner::Small(file) => file.read_now(offset, len).map(|parts| parts.map(join)),
            Inner::Bytes(bytes) => Some(Ok(cut(bytes, offset, len))),
        }
    }

    /// The bytes.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        match &self.0 {
            Inner::Image { image, .. } => image.read_at(offset, len).await,
            Inner::Small(file) => file.read_at(offset, len).await,
            Inner::Bytes(bytes) => Ok(cut(bytes, offset, len)),
        }
    }

    /// The first offset at or after `offset`, which is less than the size, that is so; nothing when there is none. Where that is far away, what
    /// was not looked at in time is called data.
    pub async fn find(&self, offset: u64, what: Find) -> Result<Option<u64>> {
        let began = Instant::now();
        self.find_while(offset, what, &|| began.elapsed() < FIND_FOR).await
    }

    /// The same; what lies behind where `goes_on` says no is called data, to the end.
    pub async fn find_while(&self, offset: u64, what: Find, goes_on: GoesOn<'_>) -> Result<Option<u64>> {
        let here = self.extent(offset, offset.saturating_add(1), goes_on).await?;
        if here.data == (what == Find::Data) {
            return Ok(Some(offset));
        }
        let (end, size) = (self.extent(offset, self.size(), goes_on).await?.range.end, self.size());
        if what == Find::Data {
            return Ok((end < size).then_some(end));
        }
        // Data that goes on was cut short: that there is no hole is no lie, and one here would be.
        let cut_short = end < size && self.extent(end, end.saturating_add(1), goes_on).await?.data;
        Ok(Some(if cut_short { size } else { end }))
    }

    async fn extent(&self, offset: u64, limit: u64, goes_on: GoesOn<'_>) -> Result<Extent> {
        match &self.0 {
            Inner::Image { image, .. } => image.extent_while(offset, limit, goes_on).await,
            Inner::Small(file) => file.extent(offset, limit).await,
            Inner::Bytes(_) => Ok(Extent { range: offset..limit.min(self.size()), data: true }),
        }
    }
}

fn cut(bytes: &Bytes, offset: u64, len: usize) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(start..start.saturating_add(len).min(bytes.len()))
}
