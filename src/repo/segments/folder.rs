//! The folder of segments: which files are there, how a new one appears whole, who may tidy up.
//!
//! A file is written as `new-*` and renamed to `<16 hex>.seg`; whoever lists the folder sees complete files only. Its writer holds a lock on
//! it meanwhile, so one that can be locked was left by a crash. `lock` is held by whoever replaces files by others.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const SUFFIX: &str = "seg";
const DRAFT_PREFIX: &str = "new-";
const DRAFT_TRIES: u32 = 1000;

/// A file that is being written. Dropped before it was published, it is gone.
pub(super) struct Draft {
    file: File,
    path: PathBuf,
    is_named: bool,
}

impl Draft {
    /// A new file in `dir`, which is made if it is not there.
    pub(super) fn begin(dir: &Path) -> io::Result<Draft> {
        Draft::begin_with(dir, File::try_lock)
    }

    fn begin_with(dir: &Path, lock: impl Fn(&File) -> Result<(), TryLockError>) -> io::Result<Draft> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for _ in 0..DRAFT_TRIES {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{DRAFT_PREFIX}{}-{n}", std::process::id()));
            let file =
                match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    opened => opened?,
                };
            let locked = lock(&file);
            let draft = Draft { file, path, is_named: true };
            match locked {
                // A sweep may have come between the two calls; then this draft is not ours any more.
                Ok(()) if draft.file.metadata()?.nlink() > 0 => return Ok(draft),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                // Not every file system has locks.
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// What to write into.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes it visible under its name. The file that comes back is open for reading only.
    pub(super) fn publish(mut self, dir: &Path, name: &str) -> io::Result<(File, PathBuf)> {
        let path = dir.join(name).with_extension(SUFFIX);
        let file = File::open(&self.path)?;
        std::fs::rename(&self.path, &path)?;
        self.is_named = false;
        Ok((file, path))
    }

    /// Makes it nobody's but ours: without a name, gone when it is closed.
    pub(super) fn hide(mut self) -> io::Result<(File, PathBuf)> {
        let file = File::open(&self.path)?;
        std::fs::remove_file(&self.path)?;
        self.is_named = false;
        Ok((file, PathBuf::new()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_named {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether we may replace files now. Held until dropped.
pub(super) struct Tidying {
    _lock: File,
}

/// The right to replace files; `None` if another process has it and we do not `wait`.
pub(super) fn tidying(dir: &Path, wait: bool) -> io::Result<Option<Tidying>> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let path = dir.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if wait {
        lock.lock()?;
    } else if lock.try_lock().is_err() {
        return Ok(None);
    }
    Ok(Some(Tidying { _lock: lock }))
}

/// Removes what crashed writers left.
pub(super) fn sweep_after_crash(dir: &Path) {
    for path in files(dir, |name| name.starts_with(DRAFT_PREFIX)) {
        if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The complete files, in no order; none if there is no such folder.
pub(super) fn segments(dir: &Path) -> Vec<PathBuf> {
    files(dir, |name| Path::new(name).extension().is_some_and(|suffix| suffix == SUFFIX))
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
    paths.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_file_system_has_no_locks_is_asked_once_and_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        let tries = AtomicU64::new(0);
        let no_locks = |_: &File| {
            let _before = tries.fetch_add(1, Ordering::Relaxed);
            Err(TryLockError::Error(io::ErrorKind::Unsupported.into()))
        };
        let error = Draft::begin_with(dir.path(), no_locks).err().unwrap();
        assert_eq!((error.kind(), tries.into_inner()), (io::ErrorKind::Unsupported, 1));
        assert!(files(dir.path(), |_| true).is_empty());
    }

    #[test]
    fn a_draft_that_a_sweep_holds_is_given_up_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tries = AtomicU64::new(0);
        let held_once = |file: &File| match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Err(TryLockError::WouldBlock),
            _ => file.try_lock(),
        };
        let draft = Draft::begin_with(dir.path(), held_once).unwrap();
        assert_eq!(files(dir.path(), |_| true), std::slice::from_ref(&draft.path));
    }
}
