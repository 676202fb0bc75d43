//! The system calls behind a file export, each finished or failed: no short reads, no interruptions.

use std::fs::{File, Metadata};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::pace::Pace;
use crate::export::Extent;
use crate::wire::state;

/// Extents looked up for one answer; clients ask on.
pub(super) const EXTENTS_MAX: usize = 4096;
/// How far apart we look whether a range is cached.
const PROBE_STEP: usize = 64 * 1024;
/// Zeroes are written in pieces of this size where nothing quicker works.
static ZEROES: [u8; 256 * 1024] = [0; 256 * 1024];

/// What came of a shortcut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is done.
    Done,
    /// This file or device can't, or not for this range. Nothing was changed.
    Unable,
}

/// Reads what is there without waiting; gives how many bytes that was. Failures are left to [`read`] to find again.
pub(super) fn read_cached(file: &File, buffer: &mut [u8], offset: u64, pace: &Pace) -> usize {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => read,
        // No file system that can't tell is a slow one by nature (tmpfs); unless it was slow lately, it is tried.
        Err(Errno::OPNOTSUPP) if !pace.is_slow() => {
            pace.timed(|| read(file, buffer, offset)).map_or(0, |()| buffer.len())
        }
        Err(_) => 0,
    }
}

/// Whether a range can probably be read without waiting: a byte here and there is asked for.
pub(super) fn seems_cached(file: &File, offset: u64, len: u64) -> bool {
    let probe = |at| {
        let byte = &mut [0];
        rustix::io::preadv2(file, &mut [IoSliceMut::new(byte)], at, ReadWriteFlags::NOWAIT) == Ok(1)
    };
    let steps = (offset..offset + len).step_by(PROBE_STEP);
    steps.chain([offset + len - 1]).all(probe)
}

pub(super) fn read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

pub(super) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

pub(super) fn sync(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Zeroes a range without being given zeroes: by giving its space back if `punch`, else by marking it as zero if `mark`. A
/// device that can't be marked writes zeroes itself, which takes its time; punching never does.
pub(super) fn zero(file: &File, offset: u64, len: u64, punch: bool, mark: bool) -> io::Result<Attempt> {
    let ways = [(punch, FallocateFlags::PUNCH_HOLE), (mark, FallocateFlags::ZERO_RANGE)];
    for (_, way) in ways.into_iter().filter(|(may, _)| *may) {
        let way = way | FallocateFlags::KEEP_SIZE;
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, way, offset, len)) {
            Ok(()) => return Ok(Attempt::Done),
            // EINVAL: a device whose blocks are larger than this range's ends
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Attempt::Unable)
}

pub(super) fn write_zeroes(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mut at = offset;
    let end = offset + len;
    while at < end {
        let piece = usize::try_from(end - at).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
        write(file, &ZEROES[..piece], at)?;
        at += u64::try_from(piece).unwrap_or(0);
    }
    Ok(())
}

/// A hint; a file that doesn't take it is none the worse.
pub(super) fn will_need(file: &File, offset: u64, len: u64) {
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), Advice::WillNeed);
}

/// Data and holes from `offset` on, at least one extent and at most `count`.
pub(super) fn extents(
    file: &File,
    offset: u64,
    len: u64,
    size: u64,
    count: usize,
) -> io::Result<Vec<Extent>> {
    let end = offset + len;
    let mut extents = Vec::new();
    let mut at = offset;
    while at < end && extents.len() < count {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,                   // no data from here on
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at, // it can't tell: all of it may be data
            Err(error) => return Err(error.into()),
        };
        if data > at {
            extents.push(Extent { len: data - at, flags: state::HOLE | state::ZERO });
            at = data;
            continue;
        }
        let hole = rustix::fs::seek(file, SeekFrom::Hole(at)).map_or(size, |hole| hole.min(size)).max(at + 1);
        extents.push(Extent { len: hole - at, flags: 0 });
        at = hole;
    }
    Ok(extents)
}

pub(super) fn device_size(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::End(0))?)
}

/// Whether a block device's seeks are slow, as the kernel believes.
pub(super) fn is_rotational(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let queue =
        |up: &str| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{up}queue/rotational"));
    // A partition has no queue of its own.
    queue("").or_else(|_| queue("../")).is_ok_and(|text| text.trim() == "1")
}
