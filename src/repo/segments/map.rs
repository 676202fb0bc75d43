//! A segment's bytes: mapped where that is sound, read where it is not.
//!
//! The one file of the house with an `unsafe` word. Nothing else here knows whether a byte came from a map or from a read.

#![allow(unsafe_code)]

use memmap2::{Advice, Mmap};
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file that is complete and will not change.
#[derive(Debug)]
pub(super) struct Bytes {
    file: File,
    len: u64,
    map: Option<Mmap>,
}

impl Bytes {
    /// Takes a complete file.
    pub(super) fn of(file: File) -> io::Result<Bytes> {
        let len = file.metadata()?.len();
        let map = if is_remote(&file) { None } else { map(&file) };
        let map = map.filter(|map| map.len() as u64 == len);
        Ok(Bytes { file, len, map })
    }

    /// Its length.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes out of the middle, without a copy if they are mapped.
    pub(super) fn slice(&self, at: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        if let Some(map) = &self.map {
            let range = usize::try_from(at).ok().and_then(|at| Some(at..at.checked_add(len)?));
            return match range.and_then(|range| map.get(range)) {
                Some(bytes) => Ok(Cow::Borrowed(bytes)),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let mut bytes = vec![0; len];
        self.read_at(at, &mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    /// Bytes by a read, also where they are mapped: for long runs, which the map's advice would make slow, and for what is
    /// looked at before the file is trusted, because a bad sector is an error here and a signal there.
    pub(super) fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }
}

fn map(file: &File) -> Option<Mmap> {
    // SAFETY: a map must not outlive its bytes or see them change. We map only files that were renamed into place (or
    // unlinked) after their last byte was written; every process of ours that handles such a file afterwards opens it for reading and,
    // at most, unlinks it, and the map (like the descriptor, which we keep) holds an unlinked file's bytes until it is dropped.
    // Nobody truncates or rewrites one. The length was taken from this very descriptor. What is left is a stranger who writes
    // into our private cache folder, or a failing disk: bytes that changed are found by their block's check (they are plain
    // integers, any pattern of which is valid), and a page that is gone ends this process, which harms no repository.
    let map = unsafe { Mmap::map(file) }.ok()?;
    let _ = map.advise(Advice::Random); // lookups jump: reading ahead would fetch 128 KiB for each block of 4
    Some(map)
}

/// Whether the file lies on a file system whose server can take pages away under a map.
fn is_remote(file: &File) -> bool {
    const NFS: i64 = 0x6969;
    const SMB: i64 = 0xff53_4d42;
    const SMB2: i64 = 0xfe53_4d42;
    const FUSE: i64 = 0x6573_5546;
    const CEPH: i64 = 0x00c3_6400;
    const NINE_P: i64 = 0x0102_1997;
    match rustix::fs::fstatfs(file) {
        Ok(facts) => [NFS, SMB, SMB2, FUSE, CEPH, NINE_P].contains(&facts.f_type),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn mapped_or_read_the_bytes_are_the_same_and_the_end_is_an_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let mapped = Bytes::of(file).unwrap();
        assert!(mapped.map.is_some());
        let read = Bytes { file: mapped.file.try_clone().unwrap(), len: mapped.len, map: None };
        for bytes in [&mapped, &read] {
            assert_eq!(bytes.len(), 5000);
            assert_eq!(&*bytes.slice(4000, 1000).unwrap(), &[7; 1000]);
            assert!(bytes.slice(4000, 1001).is_err());
            assert!(bytes.slice(u64::MAX, 2).is_err());
        }
    }

    #[test]
    fn a_file_that_was_unlinked_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        std::fs::write(&path, [3; 8192]).unwrap();
        let bytes = Bytes::of(File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&*bytes.slice(8000, 192).unwrap(), &[3; 192]);
    }
}
