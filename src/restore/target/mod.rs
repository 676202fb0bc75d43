//! Targets: what a restore writes, opened only after it was judged safe to write.
//!
//! [`open()`] looks (`facts`), decides (`judge`, a pure function with a table for a test) and hands out a [`Target`]. All looking and all
//! writing happen on one descriptor, held exclusively where the kernel allows it; at the end the name must still lead to it (R4).
//! `journal` keeps beside the target what is done, so that a restore that was interrupted goes on (R8); `progress` is what it writes.
//!
//! **Invariant:** nothing under here writes, creates or truncates before `judge` agreed, and no success is told before a sync.

pub mod facts;
pub mod journal;
pub mod judge;
mod local;
pub mod nbd;
pub mod open;
pub mod progress;
#[cfg(test)]
mod tests;

pub use facts::{Facts, Guarded};
pub use judge::{Refusal, Verdict, Wish};
pub use open::{Held, Opened, hold, open};

use crate::error::Result;

/// A stretch of a target, as far as is known without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// So many bytes may hold anything.
    Data(u64),
    /// So many bytes are known to be zero.
    Zero(u64),
}

/// What [`Target::make_zero`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zeroed {
    /// Bytes that had to be made zero.
    pub bytes_zeroed: u64,
    /// Bytes that were known to be zero.
    pub bytes_skipped: u64,
}

/// Something that a restore writes. Calls may come from several threads, for ranges that do not overlap.
///
/// An error names the target, the offset and the cause and has the kind `Target`. After a sync that failed, what the medium holds is
/// unknown: every later call that writes or syncs fails.
pub trait Target: Send + Sync {
    /// How much of it may be written: the size of the image, though the target may be larger.
    fn size(&self) -> u64;

    /// Writes all of `bytes` there.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Makes a range read as zero, without writing zeroes where the target can do better.
    fn zero(&self, offset: u64, len: u64) -> Result<()>;

    /// Fills `buf` with what is there.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// What is known of the bytes from `offset` on; never less than one byte, never past the size.
    fn run_at(&self, offset: u64) -> Result<Run>;

    /// Returns after everything written so far is on the medium. An error is final.
    fn sync(&self) -> Result<()>;

    /// Syncs, and forgets what memory holds of the target, so that the next reads show the medium.
    fn drop_cache(&self) -> Result<()>;

    /// The end of a restore: syncs, and fails when the target's name no longer leads to what was written.
    fn finish(&self) -> Result<()>;

    /// Whether a range is known to be zero.
    fn proven_zero(&self, offset: u64, len: u64) -> Result<bool> {
        Ok(len == 0 || matches!(self.run_at(offset)?, Run::Zero(run) if run >= len))
    }

    /// Makes a range read as zero, sparing what is known to be (R5).
    fn make_zero(&self, offset: u64, len: u64) -> Result<Zeroed> {
        let (mut sum, end) = (Zeroed::default(), offset + len);
        let mut at = offset;
        while at < end {
            match self.run_at(at)? {
                Run::Zero(run) => {
                    let run = run.min(end - at);
                    sum.bytes_skipped += run;
                    at += run;
                }
                Run::Data(run) => {
                    let run = run.min(end - at);
                    self.zero(at, run)?;
                    sum.bytes_zeroed += run;
                    at += run;
                }
            }
        }
        Ok(sum)
    }
}
