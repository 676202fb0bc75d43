//! The seam `Disk`: all that a directory store asks of a file system, one system call's worth at a time.
//!
//! A call may be interrupted, may be short, may fail; what is made of that is decided above, in `publish` and `read`, so that the
//! simulated disk can lie as real ones do. Every name given here is one path component; links are never followed.

use rustix::io::Result;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::SystemTime;

/// What a directory entry is, as far as a store cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A regular file.
    File,
    /// A directory.
    Folder,
    /// A link, device, pipe or socket: nothing that a store made.
    Other,
}

/// What the file system knows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub sort: Sort,
    /// Its length in bytes.
    pub len: u64,
    /// When its bytes were last written, by the file system's clock.
    pub modified: SystemTime,
    /// The device that it is on, and its number there.
    pub identity: Identity,
    /// The user that owns it.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
}

/// What makes a file or directory the same one, however it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// An open file.
pub trait File: Send + Sync {
    /// Its facts now.
    fn facts(&self) -> Result<Facts>;

    /// Appends to `into` what stands at `at`, at most what `into` has room for; 0 is the end.
    fn read(&self, into: &mut Vec<u8>, at: u64) -> Result<usize>;

    /// Has a range come into memory, if the file system cares to, without waiting for it.
    fn expect(&self, range: std::ops::Range<u64>);

    /// Writes the beginning of `parts` at `at` and says how much of it.
    fn write(&self, parts: &[IoSlice<'_>], at: u64) -> Result<usize>;

    /// Returns when its bytes would survive a loss of power. Its name may not.
    fn sync(&self) -> Result<()>;

    /// Lets go of the memory that its bytes take, if the file system cares to: nobody will read them soon.
    fn let_go(&self);
}

/// An open directory.
pub trait Folder: Send + Sync {
    /// Its facts now.
    fn facts(&self) -> Result<Facts>;

    /// Opens a folder in it.
    fn folder(&self, name: &str) -> Result<Arc<dyn Folder>>;

    /// Makes a folder in it; `EXIST` if there is something of that name.
    fn make_folder(&self, name: &str) -> Result<()>;

    /// Opens a file for reading.
    fn open(&self, name: &str) -> Result<Box<dyn File>>;

    /// Makes a file for writing; `EXIST` if there is something of that name.
    fn create(&self, name: &str) -> Result<Box<dyn File>>;

    /// Gives the file `from` the name `to` in one step; `EXIST`, and no change, if there is something of that name.
    fn publish(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a file's name.
    fn remove(&self, name: &str) -> Result<()>;

    /// Removes an empty folder.
    fn remove_folder(&self, name: &str) -> Result<()>;

    /// What is known of an entry.
    fn stat(&self, name: &str) -> Result<Facts>;

    /// Shows every entry, in no order.
    fn each(&self, visit: &mut dyn FnMut(&str, Sort)) -> Result<()>;

    /// Returns when the names in it would survive a loss of power.
    fn sync(&self) -> Result<()>;
}
