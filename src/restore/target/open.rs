//! Opens a target: look, judge, and only then make or change anything.
//!
//! A path is looked at before it is opened, because opening some devices does something; what was opened is then looked at again, and
//! only that is judged and written. Devices are opened exclusively and stay so: nobody can mount them while they are written.

use super::Target;
use super::facts::{Around, Facts, Guarded, Use, What};
use super::judge::{Refusal, Verdict, Wish, judge};
use super::local::Local;
use crate::error::{Context, Error, Kind, Result};
use crate::source::machine::{Machine, open_nonblocking, stat_fd, stat_path};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Statx};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

const BUSY_TRIES_MAX: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A target that may be written.
pub struct Opened {
    /// The target.
    pub target: Box<dyn Target>,
    /// What is known of it.
    pub facts: Facts,
    /// How it was judged.
    pub verdict: Verdict,
}

/// A file or device that was judged and is open, exclusively where the kernel allows it.
#[derive(Debug)]
pub struct Held {
    /// Open for reading and writing.
    pub file: File,
    /// What is known of it.
    pub facts: Facts,
    /// How it was judged.
    pub verdict: Verdict,
    /// The directory in which it was made just now.
    made_in: Option<File>,
}

/// Opens the target at `path` for a restore, or says why it must not be written. Before it returns `Ok`, nothing of an existing target
/// was changed; a missing one was made, empty or sparse.
pub fn open(path: &Path, wish: &Wish, guarded: Guarded<'_>) -> Result<Opened> {
    open_on(&Machine::here(), path, wish, guarded)
}

/// The same, on a machine told by others.
pub fn open_on(machine: &Machine, path: &Path, wish: &Wish, guarded: Guarded<'_>) -> Result<Opened> {
    let Held { file, facts, verdict, made_in } = hold_on(machine, path, wish, guarded)?;
    let target = Box::new(Local::new(file, path, wish.size, made_in)?);
    Ok(Opened { target, facts, verdict })
}

/// As [`open()`], for somebody who writes by other means than a [`Target`], and so knows nothing of the directory: what was made lasts from here on.
pub fn hold(path: &Path, wish: &Wish, guarded: Guarded<'_>) -> Result<Held> {
    let held = hold_on(&Machine::here(), path, wish, guarded)?;
    if let Some(directory) = &held.made_in {
        directory.sync_all().context(|| format!("sync the directory of the target {}", path.display()))?;
    }
    Ok(held)
}

fn hold_on(machine: &Machine, path: &Path, wish: &Wish, guarded: Guarded<'_>) -> Result<Held> {
    let around = Around { machine, guarded };
    match stat_path(path) {
        Ok(stat) => open_existing(path, &stat, wish, around),
        Err(Errno::NOENT) => open_missing(path, wish, around),
        Err(error) => Err(error).context(|| format!("look at the target {}", path.display())),
    }
}

fn open_existing(path: &Path, stat: &Statx, wish: &Wish, around: Around<'_>) -> Result<Held> {
    let what = || format!("open the target {}", path.display());
    let expected = What::of(stat);
    let exclusive = match expected {
        What::Block => OFlags::EXCL,
        What::Regular => OFlags::empty(),
        other => return Err(Refusal::NoTarget(other).into_error(path)),
    };
    let file = match open_patiently(path, OFlags::RDWR | exclusive) {
        Ok(fd) => File::from(fd),
        Err(error) => return Err(why_not_opened(path, stat, wish, around, error)?),
    };
    let stat = stat_fd(&file).context(what)?;
    if What::of(&stat) != expected {
        return Err(changed(path));
    }
    let mut facts = Facts::of(path, &stat, Some(&file), around)?;
    if is_locked(&file) {
        facts.uses.push(Use::Locked);
    }
    let verdict = judge(&facts, wish).map_err(|refusal| refusal.into_error(path))?;
    if verdict.set_size {
        set_size(&file, path, wish.size)?;
    }
    Ok(Held { file, facts, verdict, made_in: None })
}

/// Devices are held for moments when they appear or change (partition scans, RAID assembly): who is busy for longer is in use.
fn open_patiently(path: &Path, how: OFlags) -> rustix::io::Result<OwnedFd> {
    for _ in 0..BUSY_TRIES_MAX {
        match open_nonblocking(path, how) {
            Err(Errno::BUSY) => std::thread::sleep(BUSY_PAUSE),
            other => return other,
        }
    }
    open_nonblocking(path, how)
}

/// A target that can't be opened is judged all the same, for the judge knows better words than the kernel.
fn why_not_opened(path: &Path, stat: &Statx, wish: &Wish, around: Around<'_>, error: Errno) -> Result<Error> {
    let mut facts = Facts::of(path, stat, None, around)?;
    // Nobody told us its size, so that can't be why.
    facts.size = wish.size;
    if matches!(error, Errno::BUSY | Errno::TXTBSY) && facts.uses.is_empty() {
        facts.uses.push(Use::Held);
    }
    Ok(match judge(&facts, wish) {
        Err(refusal) => refusal.into_error(path),
        Ok(_) => Error::io(format!("open the target {}", path.display()), error.into()),
    })
}

fn open_missing(path: &Path, wish: &Wish, around: Around<'_>) -> Result<Held> {
    let what = || format!("make the target {}", path.display());
    let Some(name) = path.file_name() else {
        return Err(Error::new(
            Kind::Usage,
            format!("restore onto {}: that is no name of a file", path.display()),
        ));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::from(open_nonblocking(parent, OFlags::RDONLY | OFlags::DIRECTORY).context(what)?);
    let mut facts = Facts::of_missing(path, directory.as_fd(), around)?;
    if rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        facts.what = What::LinkToNothing;
    }
    let verdict = judge(&facts, wish).map_err(|refusal| refusal.into_error(path))?;
    // A disk image holds other people's secrets: for its owner only.
    let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(&directory, name, how, Mode::RUSR | Mode::WUSR).context(what)?);
    let filled = fill_in(path, &file, wish, around);
    if filled.is_err() {
        // It is ours and empty; the error that matters is the one we have.
        let _ = rustix::fs::unlinkat(&directory, name, AtFlags::empty());
    }
    Ok(Held { facts: filled?, file, verdict, made_in: Some(directory) })
}

fn fill_in(path: &Path, file: &File, wish: &Wish, around: Around<'_>) -> Result<Facts> {
    let what = || format!("make the target {}", path.display());
    set_size(file, path, wish.size)?;
    let stat = stat_fd(file).context(what)?;
    let facts = Facts::of(path, &stat, Some(file), around)?;
    // Locked as existing targets are, so that others see it is being written.
    let _ = is_locked(file);
    Ok(facts)
}

fn set_size(file: &File, path: &Path, size: u64) -> Result<()> {
    let sized = file.set_len(size).context(|| format!("make {} {size} bytes long", path.display()));
    sized.map_err(|error| error.as_kind(Kind::Target))
}

/// Locks the whole target for us, for as long as it is open; virtual machines and other restores look at such locks. A file system
/// that has none can't tell.
fn is_locked(file: &File) -> bool {
    let locked = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive);
    matches!(locked, Err(Errno::AGAIN | Errno::ACCESS))
}

fn changed(path: &Path) -> Error {
    let words =
        format!("open the target {}: it became something else while it was looked at", path.display());
    Error::new(Kind::Refused, words).hint("try again when nobody changes it")
}
