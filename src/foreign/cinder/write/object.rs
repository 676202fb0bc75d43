//! One data object: a range of the image, compressed, with its MD5 and the digests of its blocks.

use super::digests::{Digests, of_blocks};
use super::encode::{self, Stream};
use super::folder::{Folder, Out};
use super::pieces::{self, Piece};
use super::{Options, object};
use crate::error::{Context, Result};
use crate::foreign::cinder::document::metadata::{Compression, Object};
use crate::foreign::cinder::document::names;
use crate::image::Image;
use crate::progress::{Cancel, Progress};
use md5::{Digest, Md5};
use std::ops::Range;

/// Writes the objects of one backup.
pub(super) struct Writer<'a> {
    pub(super) folder: &'a Folder,
    pub(super) image: &'a Image,
    pub(super) options: &'a Options,
    pub(super) cancel: &'a Cancel,
    pub(super) digests: &'a mut Digests,
    /// Bytes that were written by now.
    pub(super) stored: u64,
}

impl Writer<'_> {
    /// Writes the object of that number.
    pub(super) fn write(&mut self, number: u32, range: Range<u64>, progress: &Progress) -> Result<Object> {
        let folder = self.folder;
        let name = names::data(folder.prefix(), number);
        let (object, stored) = folder
            .put(&name, |out| {
                let wanted = self.options.compression;
                let (object, stored) = self.encode(number, &range, wanted, out, Some(progress))?;
                if wanted == Compression::None || stored < object.length {
                    return Ok((object, stored));
                }
                // It would not get smaller, and is kept as it is.
                out.rewind().context(|| "begin again")?;
                self.encode(number, &range, Compression::None, out, None)
            })
            .context(|| format!("write {name}"))?;
        self.stored += stored;
        Ok(object)
    }

    fn encode(
        &mut self,
        number: u32,
        range: &Range<u64>,
        compression: Compression,
        out: &mut Out,
        progress: Option<&Progress>,
    ) -> Result<(Object, u64)> {
        let mut stream = Stream::begin(compression, range.end - range.start, out)?;
        let mut md5 = Md5::new();
        let digests = &mut *self.digests;
        let work = |piece: &Piece| {
            let encoded = encode::piece(compression, piece.bytes(), piece.is_plain_zero())?;
            Ok((encoded, of_blocks(piece.bytes(), piece.is_plain_zero())))
        };
        pieces::each(self.image, range.clone(), self.cancel, &work, &mut |piece, (encoded, blocks)| {
            let plain = piece.bytes();
            md5.update(plain);
            stream.add(plain, &encoded)?;
            digests.put(piece.offset, &blocks)?;
            if let Some(progress) = progress {
                progress.add(plain.len() as u64);
            }
            Ok(())
        })?;
        let stored = stream.end()?;
        Ok((object(number, range, compression, md5.finalize().into()), stored))
    }
}
