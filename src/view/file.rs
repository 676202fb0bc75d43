//! An open file: its bytes, and where its holes are.

use crate::error::Result;
use crate::image::{Ahead, Image, join};
use bytes::Bytes;

/// An open file.
pub struct File(Inner);

enum Inner {
    Image { image: Image, ahead: Ahead },
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

    pub(super) fn bytes(bytes: Bytes) -> File {
        File(Inner::Bytes(bytes))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Inner::Image { image, .. } => image.len(),
            Inner::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// The image, if it is one.
    pub fn as_image(&self) -> Option<&Image> {
        match &self.0 {
            Inner::Image { image, .. } => Some(image),
            Inner::Bytes(_) => None,
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
            Inner::Bytes(bytes) => Some(Ok(cut(bytes, offset, len))),
        }
    }

    /// The bytes.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        match &self.0 {
            Inner::Image { image, .. } => image.read_at(offset, len).await,
            Inner::Bytes(bytes) => Ok(cut(bytes, offset, len)),
        }
    }

    /// The first offset at or after `offset`, which is less than the size, that is so; nothing when there is none.
    pub async fn find(&self, offset: u64, what: Find) -> Result<Option<u64>> {
        let Inner::Image { image, .. } = &self.0 else {
            return Ok(match what {
                Find::Data => Some(offset),
                Find::Hole => Some(self.size()),
            });
        };
        let here = image.extent(offset, offset.saturating_add(1)).await?;
        if here.data == (what == Find::Data) {
            return Ok(Some(offset));
        }
        let end = image.extent(offset, image.len()).await?.range.end;
        Ok((what == Find::Hole || end < image.len()).then_some(end))
    }
}

fn cut(bytes: &Bytes, offset: u64, len: usize) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(start..start.saturating_add(len).min(bytes.len()))
}
