//! Sources: what can be backed up, as a stream of data and holes.
//!
//! A source is read once, from its beginning to its end; it knows where it has nothing. A source that errs, shrinks or grows under
//! us fails the backup, with the offset: nothing is skipped silently.
//!
//! `file`, `device`, `stream` and `nbd` are what the command line can name; `fake` is scripted, for tests. `machine` and `disks` tell where on
//! this machine something lies, for the judges of safety here and in `restore`.

pub mod device;
pub mod directory;
pub mod disks;
pub mod fake;
pub mod file;
pub mod fuzz;
pub mod machine;
pub mod nbd;
mod span;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::error::{Context, Error, Kind, Result};
use machine::{Machine, open_nonblocking, stat_fd, stat_path};
use rustix::fs::{FileType, OFlags, Statx};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;

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

    /// What stands at `at`, which is where the last piece ended, or inside it when that was no data: fills `buf` from its beginning
    /// as far as data goes on, or tells how far nothing goes on. A short `Data` is no end; only `End` is.
    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece>;

    /// Before anything is read: fails when pieces will be called the same as in the parent, and what the parent has under this item
    /// (`before`) was another thing.
    fn judge_parent(&self, _before: Option<&Facts>) -> Result<()> {
        Ok(())
    }

    /// Called after `End`: fails when the source is no longer what it was when it was opened (size changed).
    fn finish(&mut self) -> Result<()>;

    /// After `finish`: whether somebody wrote to it while it was read, as far as that can be told. Such a backup is whole but may hold
    /// parts of different moments, and its record says so.
    fn changed(&self) -> bool {
        false
    }
}

/// Opens what the user named: a regular file, a block device, or `-` for standard input.
pub fn open(name: &str) -> Result<Box<dyn Source>> {
    open_on(Machine::here(), name)
}

/// The same, on a machine told by others.
pub fn open_on(machine: Machine, name: &str) -> Result<Box<dyn Source>> {
    if name == "-" {
        return Ok(Box::new(stream::Stream::stdin()?));
    }
    let what = || format!("open source {name}");
    // Opening some things does something (a tape rewinds, a watchdog arms), so we look first; what was opened then decides.
    let _ = readable(&stat_path(Path::new(name)).context(what)?).context(what)?;
    let file = File::from(open_nonblocking(Path::new(name), OFlags::RDONLY).context(what)?);
    let stat = stat_fd(&file).context(what)?;
    if machine.is_own_mount(&stat)? {
        let words =
            format!("open source {name}: it lies in a mount of afterimage, so it is a backup already");
        return Err(
            Error::new(Kind::Refused, words).hint("to copy a backup to another repository: afterimage sync")
        );
    }
    match readable(&stat).context(what)? {
        Readable::File => Ok(Box::new(file::FileSource::new(name, file, &stat, &machine)?)),
        Readable::Device => Ok(Box::new(device::DeviceSource::new(name, file, &stat, machine)?)),
    }
}

/// Fails when the source is the repository in this directory, or lies inside it.
pub fn refuse_inside(name: &str, repository: &Path) -> Result<()> {
    let within = |path| disks::lies_inside(path, repository);
    let path = Path::new(name);
    if name == "-" || !path.exists() {
        return Ok(());
    }
    let stat = stat_path(path).context(|| format!("look at source {name}"))?;
    if within(path)? || disks::has_a_name_inside(&stat, repository)? {
        let words = format!("back up {name}: it lies inside the repository {}", repository.display());
        return Err(Error::new(Kind::Refused, words).hint("name a source outside of it"));
    }
    Ok(())
}

/// The physical disks that a source shares with a repository in this directory: one broken disk takes both.
pub fn shared_disks(source: &Facts, repository: &Path) -> Result<Vec<String>> {
    let under = disks::Beneath::path(&Machine::here(), repository)?.disks;
    Ok(source.disks.iter().filter(|disk| under.contains(*disk)).cloned().collect())
}

enum Readable {
    File,
    Device,
}

fn readable(stat: &Statx) -> Result<Readable> {
    let no = |words: &str, hint: &str| Err(Error::new(Kind::Unsupported, words).hint(hint));
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Ok(Readable::File),
        FileType::BlockDevice => Ok(Readable::Device),
        FileType::Directory => {
            no("it is a directory: a share, which is read file by file", "name a file or a device")
        }
        FileType::Fifo => no(
            "it is a FIFO, which has no size and can't be read twice",
            "give its bytes on standard input: -",
        ),
        FileType::Socket => {
            no("it is a socket, and no protocol was named", "name an NBD server as nbd+unix:///?socket=PATH")
        }
        FileType::CharacterDevice => no(
            "it is a character device, which has no beginning and no end",
            "give its bytes on standard input: -",
        ),
        _ => no("it is neither a file nor a block device", "name a file or a device"),
    }
}
