//! Many readers of one image at once, each of whose reads is held against what was backed up.

#![allow(dead_code)] // each test program uses its part of it

use crate::common::random::Random;
use crate::world::Mounted;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const READ_LEN_MAX: u64 = 300_000;

/// Past the page cache, so that every read is asked of the mount.
pub(crate) fn direct(path: &str) -> File {
    let flag = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().read(true).custom_flags(flag).open(path).expect("open")
}

/// `threads` read at random for a while, half of them past the page cache and a quarter in order. How many reads that were.
pub(crate) fn storm(path: &str, bytes: &[u8], threads: u64, lasts: Duration, random: &mut Random) -> u64 {
    let (until, reads) = (Instant::now() + lasts, AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (mut random, reads) = (Random::seeded(random.next()), &reads);
            let _ = scope.spawn(move || {
                let file = if thread % 2 == 0 { direct(path) } else { File::open(path).expect("open") };
                let mut buffer = vec![0; READ_LEN_MAX as usize];
                let mut at = 0;
                while Instant::now() < until {
                    let in_order = thread % 4 == 3 && at < bytes.len() as u64;
                    at = if in_order { at } else { random.below(bytes.len() as u64) };
                    let len = (1 + random.below(READ_LEN_MAX)).min(bytes.len() as u64 - at) as usize;
                    file.read_exact_at(&mut buffer[..len], at).expect("read");
                    assert!(buffer[..len] == bytes[at as usize..at as usize + len], "{len} bytes at {at}");
                    at += len as u64;
                    let _ = reads.fetch_add(1, Relaxed);
                }
            });
        }
    });
    reads.into_inner()
}

/// `readers` open and read until the mount is gone, which `end` sees to. None may get a wrong byte, or hang.
pub(crate) fn read_until_gone(
    mounted: &Mounted<'_>,
    path: &str,
    bytes: &[u8],
    readers: u64,
    end: impl FnOnce(),
) {
    let (began, reads) = (Instant::now(), AtomicU64::new(0));
    let (reads_ref, limit) = (&reads, Duration::from_secs(30));
    std::thread::scope(|scope| {
        for reader in 0..readers {
            let _ = scope.spawn(move || {
                let mut buffer = [0; 4096];
                for round in 0.. {
                    // A file anew each time, so that some of them meet the end at their opening.
                    let Ok(file) = File::open(path) else { return };
                    let at = (round * 7919 + reader * 104_729) % (bytes.len() as u64 - 4096);
                    match file.read_exact_at(&mut buffer, at) {
                        Ok(()) => assert!(buffer[..] == bytes[at as usize..at as usize + 4096], "at {at}"),
                        Err(_) => return,
                    }
                    let _ = reads_ref.fetch_add(1, Relaxed);
                    // What a mount that is gone leaves is an empty directory, where nothing can be opened.
                    assert!(began.elapsed() < limit, "still mounted");
                }
            });
        }
        crate::world::eventually("all of them read", || reads.load(Relaxed) > readers * 2);
        end();
    });
    assert!(began.elapsed() < limit);
    crate::world::eventually("its process has ended", || !mounted.lives());
}
