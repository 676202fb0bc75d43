//! Targets as a restore meets them: real files, real loop devices, and machines that are only told.

mod devices;
mod files;
mod journal;
mod zeroes;

use super::*;
use crate::error::{Error, Kind};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// A directory with a target in it, and a wish to restore an image of this size.
struct Fixture {
    dir: tempfile::TempDir,
    wish: Wish,
}

impl Fixture {
    fn wishing(size: u64) -> Fixture {
        Fixture { dir: tempfile::tempdir().unwrap(), wish: Wish { size, ..Wish::default() } }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file full of old bytes.
    fn dirty(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, vec![0xDD; size as usize]).unwrap();
        path
    }

    fn open(&self, path: &Path) -> Result<Opened> {
        open(path, &self.wish, Guarded::default())
    }

    fn guarded(&self, path: &Path, guarded: Guarded<'_>) -> Result<Opened> {
        open(path, &self.wish, guarded)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// The refusal's words.
fn refused(result: Result<Opened>) -> String {
    let error = failed(result);
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    error.to_string()
}

fn failed(result: Result<Opened>) -> Error {
    match result {
        Ok(opened) => panic!("{} was opened", opened.facts.path.display()),
        Err(error) => error,
    }
}

fn bytes_of(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).unwrap();
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
