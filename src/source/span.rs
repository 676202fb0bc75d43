//! An open file of known size, read by position: data is read, holes are told.
//!
//! Extents are asked for one at a time, where the reader stands, so a file with a million holes costs no memory. Where the file
//! system can't tell holes (and on devices) all is data. The file ending early is an error with the offset, never a short read.

use super::Piece;
use crate::error::{Error, Kind, Result};
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The file, and how far what stands at the reader's place is known to be data.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) file: File,
    pub(super) size: u64,
    name: String,
    data_until: u64,
}

impl Span {
    pub(super) fn new(name: &str, file: File, size: u64) -> Span {
        // Only advice: a file system that has no use for it may say so.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Span { file, size, name: name.to_owned(), data_until: 0 }
    }

    pub(super) fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        if at >= self.size {
            return Ok(Piece::End);
        }
        if at >= self.data_until {
            let data = self.data_from(at)?;
            if data > at {
                return Ok(Piece::Hole(data - at));
            }
            self.data_until = self.hole_from(at)?;
        }
        let len = usize::try_from(self.data_until - at).unwrap_or(usize::MAX).min(buf.len());
        self.read(at, &mut buf[..len]).map(Piece::Data)
    }

    /// Reads until `buf` is full. An error behind bytes that could be read is left for the next call, which then stands at it.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let here = at + done as u64;
            match self.file.read_at(&mut buf[done..], here) {
                Ok(0) if done == 0 => return Err(self.ended(here)),
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if done == 0 => return Err(self.failed(here, error)),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Fails when the size is not what it was at the beginning.
    pub(super) fn check_size(&self, now: u64) -> Result<()> {
        if now == self.size {
            return Ok(());
        }
        let how = if now < self.size { "shrank" } else { "grew" };
        let words =
            format!("read {}: it {how} while it was read, from {} to {now} bytes", self.name, self.size);
        Err(Error::new(Kind::Source, words).hint("back up a snapshot of it, or stop who writes to it"))
    }

    fn data_from(&self, at: u64) -> Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => Ok(data.min(self.size)),
            Err(Errno::NXIO) => Ok(self.size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at),
            Err(error) => Err(self.failed(at, error.into())),
        }
    }

    fn hole_from(&self, at: u64) -> Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => Ok(hole.min(self.size)),
            // Punched since we asked for data: a read gives its zeroes as well.
            Ok(_) => Ok(self.size.min(at + 1)),
            Err(Errno::NXIO) => Err(self.ended(at)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(self.size),
            Err(error) => Err(self.failed(at, error.into())),
        }
    }

    fn ended(&self, at: u64) -> Error {
        let words = format!(
            "read {} at offset {at}: it ends there, but had {} bytes when it was opened",
            self.name, self.size
        );
        Error::new(Kind::Source, words).hint("back up a snapshot of it, or stop who writes to it")
    }

    fn failed(&self, at: u64, cause: std::io::Error) -> Error {
        Error::new(Kind::Source, format!("read {} at offset {at}", self.name)).caused_by(cause)
    }
}
