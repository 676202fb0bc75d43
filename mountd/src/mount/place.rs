//! Is this a place to mount on? A path -> the same path, absolute and free to use; or a refusal with its reason.
//!
//! The one thing that is cleared away is a dead mount of our own kind. Nothing here asks a mounted file system anything without a time
//! limit, as the one that lies there may hang.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;

use super::table::{self, Entry, shown};
use super::unmount;
use super::{MountError, MountErrorKind};

/// How long a file system may take to say whether it is there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Judges a mountpoint and clears our own dead mount from it.
pub(super) fn prepare(mountpoint: &Path, kind: &str, forbidden: &[PathBuf]) -> Result<PathBuf, MountError> {
    let at = absolute(mountpoint)?;
    if let Some(entry) = mounted(&at)? {
        clear_if_dead(&at, &entry, kind)?;
    }
    is_empty_directory(&at)?;
    is_outside(&at, forbidden)?;
    Ok(at)
}

/// Absolute and without symbolic links; the last part is not touched, as a dead mount there cannot be looked at.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, MountError> {
    let missing = |error| unusable(path, &error);
    let path = std::path::absolute(path).map_err(missing)?;
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        let unlinked = fs::canonicalize(parent).map_err(missing)?.join(name);
        if table::topmost(&unlinked).is_ok_and(|entry| entry.is_some()) {
            return Ok(unlinked);
        }
    }
    fs::canonicalize(&path).map_err(missing)
}

pub(super) fn mounted(at: &Path) -> Result<Option<Entry>, MountError> {
    table::topmost(at).map_err(|error| {
        MountError::new(MountErrorKind::Failed, format!("read the table of mounts: {error}"))
    })
}

fn unusable(path: &Path, error: &io::Error) -> MountError {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::NotFound => (MountErrorKind::Missing, " (make the directory first)"),
        io::ErrorKind::NotADirectory => (MountErrorKind::Missing, ""),
        io::ErrorKind::PermissionDenied => (MountErrorKind::Denied, ""),
        _ => (MountErrorKind::Failed, ""),
    };
    MountError::new(kind, format!("use {} as a mountpoint: {error}{hint}", shown(path)))
}

/// How a mounted file system does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    Alive,
    /// Its daemon is gone.
    Dead,
    /// No answer; perhaps later.
    Silent,
}

pub(super) fn pulse(at: &Path) -> Pulse {
    let (to, from) = mpsc::channel();
    let path = at.to_owned();
    // The thread may stay with a file system that never answers; it holds nothing but this path.
    drop(std::thread::spawn(move || to.send(ask(&path))));
    match from.recv_timeout(ANSWERS_WITHIN) {
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Pulse::Dead,
        Ok(_) => Pulse::Alive,
        Err(_) => Pulse::Silent,
    }
}

/// Asks the file system itself: what the kernel remembers of a dead one still looks alive.
fn ask(at: &Path) -> Result<(), Errno> {
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(CWD, at, flags, StatxFlags::BASIC_STATS).map(drop)
}

fn clear_if_dead(at: &Path, entry: &Entry, kind: &str) -> Result<(), MountError> {
    let refused =
        |why: &str| MountError::new(MountErrorKind::Refused, format!("mount on {}: {why}", shown(at)));
    if entry.kind != format!("fuse.{kind}") {
        return Err(refused(&format!("a file system of type {} is mounted there", entry.kind)));
    }
    match pulse(at) {
        Pulse::Alive => Err(refused("it is mounted already")),
        Pulse::Silent => Err(refused("it is mounted already and does not answer; unmount it first")),
        Pulse::Dead => {
            tracing::warn!(mountpoint = %at.display(), "replacing a dead mount");
            unmount::detach(at)?;
            match mounted(at)? {
                Some(below) => clear_if_dead(at, &below, kind),
                None => Ok(()),
            }
        }
    }
}

fn is_empty_directory(at: &Path) -> Result<(), MountError> {
    match fs::read_dir(at).map_err(|error| unusable(at, &error))?.next() {
        None => Ok(()),
        Some(_) => {
            let words = format!(
                "mount on {}: the directory is not empty and a mount would hide what is in it (choose an empty one)",
                shown(at)
            );
            Err(MountError::new(MountErrorKind::Refused, words))
        }
    }
}

/// By device and inode number rather than by name, so that bind mounts and odd spellings deceive nobody.
fn is_outside(at: &Path, forbidden: &[PathBuf]) -> Result<(), MountError> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    for root in forbidden {
        let root_identity = identity(root);
        let inside = at.ancestors().any(|dir| root_identity.is_some() && identity(dir) == root_identity);
        if inside {
            let words = format!("mount on {}: it lies inside {}", shown(at), shown(root));
            return Err(MountError::new(MountErrorKind::Refused, words));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(mountpoint: &Path, forbidden: &[PathBuf]) -> MountErrorKind {
        prepare(mountpoint, "afterimage", forbidden).expect_err("a refusal").kind()
    }

    #[test]
    fn an_empty_directory_is_a_place_and_is_named_without_links() {
        let dir = tempfile::tempdir().unwrap();
        let (place, link) = (dir.path().join("place"), dir.path().join("link"));
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink("place", &link).unwrap();
        let real = fs::canonicalize(&place).unwrap();
        for path in [place, link] {
            assert_eq!(prepare(&path, "afterimage", &[]).unwrap(), real);
        }
    }

    #[test]
    fn missing_full_and_forbidden_places_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, inner) = (dir.path().join("file"), dir.path().join("a/b"));
        fs::write(&file, "x").unwrap();
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(refusal(&dir.path().join("none"), &[]), MountErrorKind::Missing);
        assert_eq!(refusal(&dir.path().join("none/none"), &[]), MountErrorKind::Missing);
        assert_eq!(refusal(&file, &[]), MountErrorKind::Missing);
        assert_eq!(refusal(dir.path(), &[]), MountErrorKind::Refused);
        assert_eq!(refusal(&inner, &[dir.path().into()]), MountErrorKind::Refused);
        assert_eq!(refusal(&inner, &["/nowhere".into(), inner.clone()]), MountErrorKind::Refused);
        assert!(prepare(&inner, "afterimage", &["/nowhere".into(), file]).is_ok());
    }

    #[test]
    fn f3_another_file_systems_mountpoint_is_refused() {
        assert_eq!(refusal(Path::new("/proc"), &[]), MountErrorKind::Refused);
        assert_eq!(pulse(Path::new("/proc")), Pulse::Alive);
    }
}
