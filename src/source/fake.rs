//! A source made of memory and a script: holes, errors and a changing size where a test wants them.
//!
//! It keeps the promises of [`Source`] exactly as a file does, so what is tested with it holds for files.

use super::{Facts, Piece, Source};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// A source that does what it was told.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    size: u64,
    data: BTreeMap<u64, Vec<u8>>,
    same: BTreeMap<u64, u64>,
    fails_at: Option<u64>,
    ends_at: Option<u64>,
    size_at_end: Option<u64>,
    changed: bool,
    piece_max: Option<usize>,
    facts: Facts,
}

impl Fake {
    /// Nothing but one hole of this size.
    pub fn empty(size: u64) -> Fake {
        let facts = Facts { kind: "fake".into(), name: "fake".into(), size: Some(size), ..Facts::default() };
        Fake { size, facts, ..Fake::default() }
    }

    /// These bytes, without a hole.
    pub fn of(bytes: impl Into<Vec<u8>>) -> Fake {
        let bytes = bytes.into();
        Fake::empty(bytes.len() as u64).with(0, bytes)
    }

    /// With data there. Pieces of data must not overlap.
    pub fn with(mut self, at: u64, bytes: impl Into<Vec<u8>>) -> Fake {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            let _ = self.data.insert(at, bytes);
        }
        self
    }

    /// With a range that is told to be as it was in the parent.
    pub fn same(mut self, at: u64, len: u64) -> Fake {
        let _ = self.same.insert(at, len);
        self
    }

    /// With a sector at this offset that can't be read.
    pub fn failing_at(mut self, at: u64) -> Fake {
        self.fails_at = Some(at);
        self
    }

    /// Shrinks to this size after it was opened.
    pub fn shrinking_to(mut self, size: u64) -> Fake {
        self.ends_at = Some(size);
        self
    }

    /// Is found to have another size when it was read.
    pub fn growing_to(mut self, size: u64) -> Fake {
        self.size_at_end = Some(size);
        self
    }

    /// Was written to while it was read.
    pub fn changing(mut self) -> Fake {
        self.changed = true;
        self
    }

    /// Hands out no more than so many bytes at a time.
    pub fn in_pieces_of(mut self, len: usize) -> Fake {
        self.piece_max = Some(len);
        self
    }

    /// With other facts; its size stays.
    pub fn told_as(mut self, facts: Facts) -> Fake {
        self.facts = Facts { size: facts.size.or(self.facts.size), ..facts };
        self
    }

    /// All its bytes, as a reader that meets no error sees them; ranges told to be the same are zero here.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(self.size).expect("a test that fits in memory")];
        for (at, bytes) in &self.data {
            all[*at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        all
    }

    fn next_event(&self, at: u64) -> u64 {
        let starts = self.data.keys().chain(self.same.keys()).chain(&self.fails_at).chain(&self.ends_at);
        starts.copied().filter(|start| *start > at).min().unwrap_or(self.size).min(self.size)
    }

    fn data_at(&self, at: u64) -> Option<&[u8]> {
        let (start, bytes) = self.data.range(..=at).next_back()?;
        bytes.get(usize::try_from(at - start).ok()?..).filter(|rest| !rest.is_empty())
    }
}

impl Source for Fake {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        if at >= self.size {
            return Ok(Piece::End);
        }
        if self.ends_at.is_some_and(|end| at >= end) {
            return Err(Error::new(Kind::Source, format!("read fake at offset {at}: it ends there")));
        }
        if self.fails_at == Some(at) {
            let cause = std::io::Error::from(rustix::io::Errno::IO);
            return Err(Error::new(Kind::Source, format!("read fake at offset {at}")).caused_by(cause));
        }
        if let Some((start, len)) = self.same.range(..=at).next_back()
            && at < start + len
        {
            return Ok(Piece::Same(start + len - at));
        }
        let until = self.next_event(at) - at;
        let Some(data) = self.data_at(at) else { return Ok(Piece::Hole(until)) };
        let wanted = usize::try_from(until).unwrap_or(usize::MAX).min(self.piece_max.unwrap_or(usize::MAX));
        let len = data.len().min(wanted).min(buf.len());
        buf[..len].copy_from_slice(&data[..len]);
        Ok(Piece::Data(len))
    }

    fn finish(&mut self) -> Result<()> {
        match self.size_at_end.filter(|size| *size != self.size) {
            Some(now) => {
                Err(Error::new(Kind::Source, format!("read fake: it grew from {} to {now} bytes", self.size)))
            }
            None => Ok(()),
        }
    }

    fn changed(&self) -> bool {
        self.changed
    }
}
