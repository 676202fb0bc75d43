//! The note on a target that a restore into it was begun and is not done: which backup's it is, so that the same one may go on.
//!
//! It is an extended attribute of the directory itself, so that putting it there and taking it away leaves the names and the times in the
//! directory alone; where there are none it is a small file in it. It gives nobody leave to write: it only says that what lies there
//! is the beginning of this very restore, which then holds every file to the backup, byte by byte.

use super::folder::Folder;
use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// The attribute.
pub(super) const ATTRIBUTE: &str = "user.afterimage.restore";
/// The file, where there are no attributes.
pub(super) const FILE: &[u8] = b".afterimage-restore";
const LEN_MAX: u64 = 4096;

/// Which restore was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The backup.
    pub backup: String,
    /// Its item.
    pub item: String,
    /// The part of it that is restored.
    pub only: Option<String>,
}

/// What is written down.
#[derive(Serialize, Deserialize)]
struct Note<M> {
    #[serde(flatten)]
    marker: M,
    /// There was nothing when it was begun.
    #[serde(default)]
    began_empty: bool,
}

impl Marker {
    /// Writes it down, and whether there was nothing when it was begun.
    pub(super) fn write(&self, folder: &Folder, began_empty: bool) -> std::io::Result<()> {
        let words = serde_json::to_vec(&Note { marker: self, began_empty })?;
        match rustix::fs::fsetxattr(folder, ATTRIBUTE, &words, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => {}
            written => return Ok(written?),
        }
        match folder.make_file(FILE) {
            Err(Errno::EXIST) => folder.remove(FILE)?,
            made => return made?.write_all(&words),
        }
        folder.make_file(FILE)?.write_all(&words)
    }

    /// What was written down, if anything was.
    pub(super) fn read(folder: &Folder) -> Option<(Marker, bool)> {
        let mut words = vec![0; LEN_MAX as usize];
        match rustix::fs::fgetxattr(folder, ATTRIBUTE, &mut words[..]) {
            Ok(len) => words.truncate(len),
            Err(_) => {
                words.clear();
                let file = folder.open_file(FILE, OFlags::RDONLY).ok()?;
                let _len = file.take(LEN_MAX).read_to_end(&mut words).ok()?;
            }
        }
        let note: Note<Marker> = serde_json::from_slice(&words).ok()?;
        Some((note.marker, note.began_empty))
    }

    /// Takes it away.
    pub(super) fn remove(folder: &Folder) -> rustix::io::Result<()> {
        let there = rustix::fs::fremovexattr(folder, ATTRIBUTE);
        match folder.remove(FILE) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        match there {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn r8_a_marker_comes_back_and_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap());
        let marker = Marker { backup: "3fa9".into(), item: "tree".into(), only: Some("a/b".into()) };
        let before = std::fs::metadata(dir.path()).unwrap();
        assert_eq!(Marker::read(&folder), None);
        marker.write(&folder, false).unwrap();
        marker.write(&folder, true).unwrap();
        assert_eq!(Marker::read(&folder), Some((marker, true)));
        Marker::remove(&folder).unwrap();
        Marker::remove(&folder).unwrap();
        assert_eq!(Marker::read(&folder), None);
        let after = std::fs::metadata(dir.path()).unwrap();
        let times = |stat: &std::fs::Metadata| (stat.mtime(), stat.mtime_nsec());
        let has_attributes = rustix::fs::fsetxattr(&folder, "user.x", b"", XattrFlags::empty()).is_ok();
        assert!(!has_attributes || times(&before) == times(&after));
    }

    #[test]
    fn r8_what_is_no_marker_is_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".afterimage-restore")).unwrap();
        let folder = Folder::new(rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap());
        assert_eq!(Marker::read(&folder), None);
        let _unsupported = rustix::fs::fsetxattr(&folder, ATTRIBUTE, b"[]", XattrFlags::empty());
        assert_eq!(Marker::read(&folder), None);
    }

    #[test]
    fn r8_a_marker_that_does_not_say_what_there_was_says_that_there_was_something() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker { backup: "3fa9".into(), item: "tree".into(), only: None };
        std::fs::write(dir.path().join(".afterimage-restore"), serde_json::to_vec(&marker).unwrap()).unwrap();
        let folder = Folder::new(rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap());
        assert_eq!(Marker::read(&folder), Some((marker, false)));
    }
}
