//! The content of a file as a tree has it, piece by piece, and whether a file of the target has the same.
//!
//! Nothing is fetched to know: what the target has is hashed, and the ids are compared.

use super::write::failed;
use crate::error::{Context, Error, Kind, Result};
use crate::format::node::Child;
use crate::format::tree::{Content, FileContent};
use crate::image::tree::Member;
use crate::image::{Image, Stretch, is_zero};
use crate::progress::Cancel;
use crate::repo::Repository;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Holes are read so much at a time.
const PIECE: u64 = 1 << 20;

/// Calls `each` for every chunk and hole of a mapped file, in order.
pub(super) fn each_piece(
    image: &Image,
    path: &[u8],
    each: &mut dyn FnMut(u64, u64, Option<Child>) -> Result<()>,
) -> Result<()> {
    let (runtime, map) = (image.engine().runtime(), image.map()?);
    let mut at = 0;
    while at < image.len() {
        let reading = || format!("read the map of {}", path.escape_ascii());
        match runtime.block_on(map.stretch(image.engine(), at)).context(reading)? {
            Stretch::Hole(hole) => {
                each(at, hole.end - at, None)?;
                at = hole.end;
            }
            Stretch::Leaf(leaf) => {
                for piece in leaf.pieces(at) {
                    each(piece.range.start, piece.range.end - piece.range.start, piece.child)?;
                }
                at = leaf.range.end;
            }
        }
    }
    Ok(())
}

/// Whether all of a range is there; then it was read.
pub(super) fn read_all(file: &File, bytes: &mut [u8], offset: u64) -> rustix::io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Whether an open file, whose size is right, has the content that the tree has.
pub(super) fn has_content(
    file: &File,
    member: &Member,
    path: &[u8],
    repository: &Repository,
    cancel: &Cancel,
) -> Result<bool> {
    let mut holding = Holding { file, path, repository, cancel, buffer: Vec::new(), is_right: true };
    match &member.entry().content {
        Content::File(FileContent::Inline(bytes)) => {
            let read = holding.read(0, bytes.len() as u64)?;
            return Ok(read && holding.buffer == *bytes);
        }
        Content::File(FileContent::Zeros(len)) => holding.zeros(0, *len)?,
        Content::File(FileContent::Chunk { len, child }) => {
            holding.chunk(0, (*len).into(), *child)?;
        }
        Content::File(FileContent::Map { .. }) => {
            let mapped = member.file();
            let image = mapped.as_ref().and_then(|file| file.image());
            let image = image.ok_or_else(|| Error::new(Kind::Corrupt, "a mapped file has no map"))?;
            each_piece(image, path, &mut |offset, len, child| match child {
                Some(child) => holding.chunk(offset, len, child),
                None => holding.zeros(offset, len),
            })?;
        }
        _ => return Ok(false),
    }
    Ok(holding.is_right)
}

/// A file that is held against a tree, as far as it is right.
struct Holding<'a> {
    file: &'a File,
    path: &'a [u8],
    repository: &'a Repository,
    cancel: &'a Cancel,
    buffer: Vec<u8>,
    is_right: bool,
}

impl Holding<'_> {
    fn read(&mut self, offset: u64, len: u64) -> Result<bool> {
        self.cancel.check()?;
        self.buffer.resize(len as usize, 0);
        read_all(self.file, &mut self.buffer, offset).map_err(|errno| failed("read", self.path, errno))
    }

    fn chunk(&mut self, offset: u64, len: u64, child: Child) -> Result<()> {
        if self.is_right {
            self.is_right = self.read(offset, len)? && self.repository.keys.data_id(&self.buffer) == child.id;
        }
        Ok(())
    }

    fn zeros(&mut self, offset: u64, len: u64) -> Result<()> {
        let (mut at, end) = (offset, offset.saturating_add(len));
        while self.is_right && at < end {
            let step = (end - at).min(PIECE);
            self.is_right = self.read(at, step)? && is_zero(&self.buffer);
            at += step;
        }
        Ok(())
    }
}
