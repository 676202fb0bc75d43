//! An open file: its bytes, and where its holes are.

use crate::error::Result;
use crate::image::{Ahead, Extent, Image, join, tree};
use bytes::Bytes;

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

    /// The first offset at or after `offset`, which is less than the size, that is so; nothing when there is none.
    pub async fn find(&self, offset: u64, what: Find) -> Result<Option<u64>> {
        let here = self.extent(offset, offset.saturating_add(1)).await?;
        if here.data == (what == Find::Data) {
            return Ok(Some(offset));
        }
        let end = self.extent(offset, self.size()).await?.range.end;
        Ok((what == Find::Hole || end < self.size()).then_some(end))
    }

    async fn extent(&self, offset: u64, limit: u64) -> Result<Extent> {
        match &self.0 {
            Inner::Image { image, .. } => image.extent(offset, limit).await,
            Inner::Small(file) => file.extent(offset, limit).await,
            Inner::Bytes(_) => Ok(Extent { range: offset..limit.min(self.size()), data: true }),
        }
    }
}

fn cut(bytes: &Bytes, offset: u64, len: usize) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(start..start.saturating_add(len).min(bytes.len()))
}
