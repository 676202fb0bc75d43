//! Sources: what can be backed up, as a stream of data and holes.
//!
//! A source is read once, from its beginning to its end; it knows where it has nothing. A source that errs, shrinks or grows under
//! us fails the backup, with the offset: nothing is skipped silently.

use crate::error::Result;
use serde::{Deserialize, Serialize};

/// The next piece of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes were put into the buffer.
    Data(usize),
    /// So many bytes are zero and were not read.
    Hole(u64),
    /// So many bytes are as they were in the parent and were not read.
    Same(u64),
    /// There is no more.
    End,
}

/// What a source is, as far as its record and the judges of safety need to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `file`, `block`, `stream`, `nbd`, ...
    pub kind: String,
    /// How the user named it.
    pub name: String,
    /// Its size in bytes, when it is known before it is read.
    pub size: Option<u64>,
    /// Logical sector size of a device.
    pub sector: Option<u32>,
    /// Device and inode (of a device: its number), in a form that compares.
    pub identity: Option<String>,
    /// The physical disks that it lies on, by kernel name, when they can be told.
    pub disks: Vec<String>,
    /// Model and serial number of a device, when the kernel knows them.
    pub model: Option<String>,
}

/// Something that can be backed up.
pub trait Source: Send {
    /// What it is.
    fn facts(&self) -> &Facts;

    /// What stands at `at`, which is where the last piece ended: fills `buf` from its beginning as far as data goes on,
    /// or tells how far nothing goes on. A short `Data` is no end; only `End` is.
    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece>;

    /// Called after `End`: fails when the source is no longer what it was when it was opened (size changed).
    fn finish(&mut self) -> Result<()>;
}
