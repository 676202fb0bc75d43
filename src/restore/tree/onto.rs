//! Writing where something may be already: what is right there stays, what is not is changed or replaced, and what nobody asked about is
//! not touched.
//!
//! A file is changed in place only while it has one name: another one may lie outside of the target, and be somebody else's. So a file with
//! several is either right to the last byte and attribute, or left to its other names and made anew.

use super::clear;
use super::content::{has_content, read_all};
use super::dress::Dress;
use super::folder::{Folder, Held, Special, is_same};
use super::walk::{Found, Walk};
use super::write::{Job, Writing, failed};
use crate::error::{Context, Result};
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom, makedev};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

const PIECE: u64 = 1 << 20;

/// A file that is open to be filled.
pub(super) struct Open {
    pub(super) file: File,
    /// It was made just now: what is not written reads as zero.
    pub(super) is_new: bool,
}

impl Open {
    /// Makes a range zero that may hold anything; how many bytes had to be.
    pub(super) fn zero(&self, offset: u64, len: u64) -> rustix::io::Result<u64> {
        if self.is_new {
            return Ok(0);
        }
        let (mut at, end, mut zeroed) = (offset, offset.saturating_add(len), 0);
        while let Some(data) = self.next_data(at)?.filter(|data| *data < end) {
            let piece = (end - data).min(PIECE);
            let mut bytes = vec![0; piece as usize];
            if !read_all(&self.file, &mut bytes, data)? || !crate::image::is_zero(&bytes) {
                self.punch(data, piece, &mut bytes)?;
                zeroed += piece;
            }
            at = data + piece;
        }
        Ok(zeroed)
    }

    fn punch(&self, offset: u64, len: u64, bytes: &mut [u8]) -> rustix::io::Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, how, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                bytes.fill(0);
                let written = self.file.write_all_at(bytes, offset);
                written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
            punched => punched,
        }
    }

    fn next_data(&self, at: u64) -> rustix::io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            // Who knows no holes has data everywhere.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
            Err(error) => Err(error),
        }
    }

    /// Whether these bytes are there already.
    pub(super) fn holds(&self, offset: u64, bytes: &[u8]) -> rustix::io::Result<bool> {
        let mut there = vec![0; bytes.len()];
        Ok(!self.is_new && read_all(&self.file, &mut there, offset)? && there == bytes)
    }
}

/// The file that is to be filled: made anew, or the one that is there, cut to its size.
pub(super) fn arrive(
    folder: &Folder,
    name: &[u8],
    size: u64,
    writing: &Writing<'_>,
) -> rustix::io::Result<Open> {
    if writing.manner.onto
        && let Some(there) = folder.find(name)?
    {
        if writing.manner.differential && there.kind() == FileType::RegularFile && there.stat().stx_nlink == 1
        {
            match folder.open_file(name, OFlags::RDWR) {
                Ok(file) => {
                    has_one_name(&file, &there)?;
                    if there.stat().stx_size != size {
                        rustix::fs::ftruncate(&file, size)?;
                    }
                    return Ok(Open { file, is_new: false });
                }
                // It may be read-only for its owner, too.
                Err(Errno::ACCESS) => {}
                Err(error) => return Err(error),
            }
        }
        clear_the_way(folder, name, &there, writing)?;
    }
    let file = folder.make_file(name)?;
    rustix::fs::ftruncate(&file, size)?;
    Ok(Open { file, is_new: true })
}

/// Fails when an open file is not the one that was found, or has got another name since: what is written then would be written there, too.
fn has_one_name(file: &File, found: &Held) -> rustix::io::Result<()> {
    let now = Held::of(file)?;
    if is_same(now.stat(), found.stat()) && now.stat().stx_nlink == 1 { Ok(()) } else { Err(Errno::STALE) }
}

/// Takes away what stands where something else is to be made. A directory goes only where that was agreed to.
fn clear_the_way(
    folder: &Folder,
    name: &[u8],
    there: &Held,
    writing: &Writing<'_>,
) -> rustix::io::Result<()> {
    let removed = match there.kind() {
        FileType::Directory if !writing.manner.delete => return Err(Errno::ISDIR),
        FileType::Directory => clear::remove_all(folder, name, writing.manner.cancel)?,
        _ => folder.remove(name).map(|()| 0)?,
    };
    writing.counts.removed.add(removed);
    Ok(())
}

/// Makes something without bytes, unless it is there.
pub(super) fn make(
    folder: &Folder,
    name: &[u8],
    writing: &Writing<'_>,
    is_it: impl Fn(&Held) -> rustix::io::Result<bool>,
    make: impl Fn() -> rustix::io::Result<Held>,
) -> rustix::io::Result<Held> {
    if writing.manner.onto
        && let Some(there) = folder.find(name)?
    {
        if there.stat().stx_nlink == 1 && is_it(&there)? {
            return Ok(there);
        }
        clear_the_way(folder, name, &there, writing)?;
    }
    make()
}

/// Whether it is a link that points there.
pub(super) fn points_to(there: &Held, target: &[u8]) -> rustix::io::Result<bool> {
    Ok(there.kind() == FileType::Symlink && Folder::read_link(there)? == target)
}

/// Whether it is this pipe, socket or device.
pub(super) fn is_special(there: &Held, special: Special) -> rustix::io::Result<bool> {
    let stat = there.stat();
    let number = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
    Ok(match special {
        Special::Fifo => there.kind() == FileType::Fifo,
        Special::Socket => there.kind() == FileType::Socket,
        Special::Character(major, minor) => {
            there.kind() == FileType::CharacterDevice && number == makedev(major, minor)
        }
        Special::Block(major, minor) => {
            there.kind() == FileType::BlockDevice && number == makedev(major, minor)
        }
    })
}

/// Enters a directory that is there, and sees to it that its owner may write in it for now; the mode that it had, if it had to be changed.
pub(super) fn enter_to_write(folder: &Folder, name: &[u8]) -> rustix::io::Result<(Folder, Option<Mode>)> {
    let held = folder.hold(name)?;
    let mode = u32::from(held.stat().stx_mode) & 0o7777;
    let is_own = held.stat().stx_uid == rustix::process::geteuid().as_raw();
    let opens = is_own && held.kind() == FileType::Directory && mode & 0o700 != 0o700;
    if opens {
        rustix::fs::chmod(held.path(), Mode::from_raw_mode(mode | 0o700))?;
    }
    Ok((folder.enter(name)?, opens.then(|| Mode::from_raw_mode(mode))))
}

/// Removes from a directory what the tree has not in it.
pub(super) fn remove_others(
    folder: &Folder,
    found: &Found<'_>,
    writing: &Writing<'_>,
    walk: &Walk<'_>,
) -> Result<()> {
    let listing = || format!("list {} on the target", found.path.escape_ascii());
    let mut others = HashSet::new();
    folder
        .list(|name, _| {
            let name = name.to_bytes();
            let is_noted = found.path.is_empty() && super::is_kept(name);
            let _new = !is_noted && others.insert(name.to_owned());
            Ok(())
        })
        .context(listing)?;
    let runtime = walk.tree.engine().runtime();
    let dir = found.member.dir()?;
    for name in others {
        let is_known = match &dir {
            Some(dir) => runtime.block_on(dir.lookup(&name))?.is_some(),
            None => false,
        };
        if !is_known {
            let path = [found.path, b"/", &name].concat();
            let removed = clear::remove_all(folder, &name, walk.cancel);
            walk.cancel.check()?;
            writing.counts.removed.add(removed.map_err(|errno| failed("remove", &path, errno))?);
        }
    }
    Ok(())
}

/// Whether the file under this name is what the tree has, to the last byte and attribute.
pub(super) fn is_right(folder: &Folder, job: &Job, writing: &Writing<'_>) -> Result<bool> {
    let looking = |errno| failed("look at", &job.path, errno);
    let name = job.member.name();
    let entry = job.member.entry();
    let Some(there) = folder.find(name).map_err(looking)? else { return Ok(false) };
    if there.kind() != FileType::RegularFile || there.stat().stx_size != entry.size() {
        return Ok(false);
    }
    let attributes = writing.values(&job.member, &job.attributes, &job.path)?;
    let dress = Dress { entry, attributes, lost: job.lost, without: writing.keep.without };
    if !dress.is_on(&there).map_err(looking)? {
        return Ok(false);
    }
    match folder.open_file(name, OFlags::RDONLY) {
        Ok(file) => {
            has_content(&file, &job.member, &job.path, writing.engine.repository()?, writing.manner.cancel)
        }
        Err(Errno::ACCESS | Errno::STALE) => Ok(false),
        Err(error) => Err(looking(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r11_a_file_that_was_swapped_or_got_another_name_meanwhile_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap());
        let path = |name: &str| dir.path().join(name);
        for name in ["file", "other"] {
            std::fs::write(path(name), name).unwrap();
        }
        let found = folder.find(b"file").unwrap().unwrap();
        let open = |name: &[u8]| folder.open_file(name, OFlags::RDWR).unwrap();
        assert_eq!(has_one_name(&open(b"file"), &found), Ok(()));
        std::fs::hard_link(path("file"), path("outside")).unwrap();
        assert_eq!(has_one_name(&open(b"file"), &found), Err(Errno::STALE));
        std::fs::remove_file(path("outside")).unwrap();
        std::fs::rename(path("other"), path("file")).unwrap();
        assert_eq!(has_one_name(&open(b"file"), &found), Err(Errno::STALE));
    }
}
