//! A disk below the repository that hangs: it costs those who want what lies there, and nobody else.

use crate::common::images::{MIB, file};
use crate::common::random::Random;
use crate::common::{Sandbox, files_under};
use crate::far::Far;
use crate::readers::direct;
use crate::world::{Mounted, errno, eventually, within};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const IO: i32 = 5;
const CHUNK: u64 = 128 << 10;
const READERS: u64 = 100;
/// So far behind a chunk that was read, no kernel has read ahead in the pack.
const FAR_BEHIND: u64 = 100;
/// What a mount's operations may take.
const DEADLINE: Duration = Duration::from_secs(30);

fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    Random::seeded(seed).fill(&mut bytes);
    bytes
}

fn packs(sand: &Sandbox) -> Vec<PathBuf> {
    files_under(&sand.repo().join("packs"))
}

/// The error that reading a block gives, and whether its bytes were right if there was none.
fn read_block(file: &File, bytes: &[u8], at: u64) -> i32 {
    let mut buffer = vec![0; 4096];
    let errno = errno(file.read_exact_at(&mut buffer, at));
    assert!(errno != 0 || buffer == bytes[at as usize..at as usize + 4096], "wrong bytes at {at}");
    errno
}

fn threads_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

#[test]
fn b3_f5_packs_that_hang_under_100_readers_cost_them_an_error_at_the_deadline_and_nobody_else() {
    within(150, |sand| {
        let (good, bad) = (noise(31, 8 * MIB), noise(32, (READERS + FAR_BEHIND) * CHUNK));
        let _ = sand.backup("good", &[&file(sand, "good.img", &good)]);
        let before = packs(sand);
        let _ = sand.backup("bad", &[&file(sand, "bad.img", &bad)]);
        let of_bad: Vec<PathBuf> = packs(sand).into_iter().filter(|pack| !before.contains(pack)).collect();
        let far = Far::new(sand);
        let mounted = Mounted::with(sand, "mnt", &["-r", far.place()]);
        let (good_file, bad_file) = (direct(&mounted.image("good")), direct(&mounted.image("bad")));
        assert_eq!(read_block(&bad_file, &bad, 0), 0, "this chunk is in memory from here on");
        far.hang(&of_bad);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let read = |reader: u64| read_block(&bad_file, &bad, (reader + FAR_BEHIND) * CHUNK);
            let readers: Vec<_> = (0..READERS).map(|reader| scope.spawn(move || read(reader))).collect();
            eventually("all of them wait", || mounted.stats()["mount"]["waiting"] == READERS);
            for at in (0..good.len() as u64).step_by(CHUNK as usize) {
                assert_eq!(read_block(&good_file, &good, at), 0, "what does not hang is read");
            }
            assert_eq!(read_block(&bad_file, &bad, 4096), 0, "what is in memory is read");
            assert_eq!(fs::read_dir(mounted.path("volumes")).expect("list").count(), 2);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(15), "{took:?}");
            assert!(threads_of(mounted.pid) < 60, "{} threads", threads_of(mounted.pid));
            for reader in readers {
                assert_eq!(reader.join().expect("a reader"), IO);
            }
        });
        let took = began.elapsed();
        assert!(took >= DEADLINE && took < DEADLINE * 2, "{took:?}");
        far.come_back();
        for at in (0..bad.len() as u64).step_by(CHUNK as usize) {
            assert_eq!(read_block(&bad_file, &bad, at), 0, "it reads again");
        }
    });
}

#[test]
fn b3_f5_what_is_in_memory_or_in_the_cache_on_disk_is_served_while_the_whole_repository_hangs() {
    within(120, |sand| {
        let bytes = noise(33, 16 * MIB);
        let _ = sand.backup("web01", &[&file(sand, "disk.img", &bytes)]);
        let far = Far::new(sand);
        let flags = ["-r", far.place(), "--cache-dir", &sand.at("cache"), "--cache-size", "64M"];
        let filled = Mounted::with(sand, "mnt", &flags);
        assert!(fs::read(filled.image("web01")).expect("read") == bytes);
        filled.until_kept(&sand.root().join("cache"));
        drop(filled);
        let mounted = Mounted::with(sand, "mnt", &flags);
        let image = direct(&mounted.image("web01"));
        assert_eq!(read_block(&image, &bytes, 0), 0, "from here on the map is in memory");
        far.hang(&[sand.repo()]);
        let began = Instant::now();
        for at in (0..bytes.len() as u64).step_by(CHUNK as usize) {
            assert_eq!(read_block(&image, &bytes, at), 0);
        }
        assert_eq!(fs::read_dir(mounted.path("volumes/web01")).expect("what was known is listed").count(), 2);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        assert!(mounted.stats()["image"]["disk_chunks"].as_u64() >= Some(127), "{}", mounted.stats());
    });
}

/// A mount of which eight readers hang for ever, ended in some way; how long that took.
fn ended_while_hanging(sand: &Sandbox, end: impl FnOnce(&Mounted<'_>)) -> Duration {
    let bytes = noise(34, 2 * MIB);
    let _ = sand.backup("web01", &[&file(sand, "disk.img", &bytes)]);
    let far = Far::new(sand);
    let mounted = Mounted::with(sand, "mnt", &["-r", far.place()]);
    let image = direct(&mounted.image("web01"));
    far.hang(&[sand.repo()]);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (image, bytes) = (&image, &bytes);
            let _ = scope.spawn(move || assert_ne!(read_block(image, bytes, reader * 2 * CHUNK), 0));
        }
        eventually("they wait", || mounted.stats()["mount"]["waiting"] == 8);
        // Past the moment at which calls count as stuck.
        std::thread::sleep(Duration::from_millis(1500));
        let began = Instant::now();
        end(&mounted);
        eventually("its process has ended", || !mounted.lives());
        assert!(!mounted.is_there());
        began.elapsed()
    })
}

#[test]
fn f2_b3_sigterm_ends_a_mount_whose_repository_hangs_in_seconds() {
    within(60, |sand| {
        let took = ended_while_hanging(sand, |mounted| mounted.kill("TERM"));
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn f2_b3_umount_ends_a_mount_whose_repository_hangs_in_seconds() {
    within(60, |sand| {
        let took = ended_while_hanging(sand, |_| drop(sand.done(&["umount", "mnt"])));
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}
