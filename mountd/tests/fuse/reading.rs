//! Bytes: what is read is what is there, whoever reads it and how.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{OFlags, SeekFrom as RawSeek};

use crate::fixture::{Fixture, errno, eventually, run, sh, within};
use crate::tree::{DAMAGE, MTIME, Odd, SIZE, SPARSE_SIZE, SPARSE_UNIT, access_list, pattern};

const ENODATA: i32 = 61;
const EROFS: i32 = 30;
const EIO: i32 = 5;

/// Numbers that are the same in every run of one seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % bound
    }
}

#[test]
fn attributes_are_shown_as_they_are() {
    within(30, || {
        let mounted = Fixture::new();
        let bytes = fs::metadata(mounted.path("bytes")).unwrap();
        assert_eq!((bytes.len(), bytes.blocks(), bytes.nlink()), (SIZE, SIZE.div_ceil(512), 1));
        assert_eq!((bytes.mtime(), bytes.mtime_nsec()), (MTIME.secs, i64::from(MTIME.nanos)));
        let sparse = fs::metadata(mounted.path("sparse")).unwrap();
        assert_eq!((sparse.len(), sparse.blocks()), (SPARSE_SIZE, SPARSE_SIZE / 4 / 512));
        assert_eq!(fs::read_link(mounted.path("link")).unwrap().to_str(), Some("bytes"));
        let kind = |name| fs::symlink_metadata(mounted.path(name)).unwrap().file_type();
        assert!(kind("fifo").is_fifo() && kind("socket").is_socket());
        let (null, disk) =
            (fs::metadata(mounted.path("null")).unwrap(), fs::metadata(mounted.path("disk")).unwrap());
        assert!(null.file_type().is_char_device() && disk.file_type().is_block_device());
        let numbers = |device| (rustix::fs::major(device), rustix::fs::minor(device));
        assert_eq!((numbers(null.rdev()), numbers(disk.rdev())), ((1, 3), (259, 300)));
        assert_eq!(fs::metadata(mounted.path("script")).unwrap().mode() & 0o7777, 0o6755);
        let root = fs::metadata(mounted.root()).unwrap();
        assert_eq!((root.ino(), root.mode() & 0o7777), (1000, 0o555));
    });
}

#[test]
fn inode_numbers_are_the_same_after_a_remount_and_twins_are_told_apart() {
    within(30, || {
        let numbers = || {
            let mounted = Fixture::new();
            let mut names: Vec<_> =
                fs::read_dir(mounted.root()).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            let seen: Vec<_> = names.iter().map(|path| fs::symlink_metadata(path).unwrap().ino()).collect();
            assert_eq!(fs::read(mounted.path("twin")).unwrap(), b"1");
            assert_eq!(fs::read(mounted.path("twins-double")).unwrap(), b"2");
            assert!(mounted.stats().value("collisions") > 0);
            seen
        };
        let first = numbers();
        assert_eq!(first, numbers());
        let mut distinct = first.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), first.len());
    });
}

#[test]
fn f6_reads_end_exactly_at_the_end() {
    within(60, || {
        let mounted = Fixture::new();
        for flags in [OFlags::empty(), OFlags::DIRECT] {
            for name in ["bytes", "later"] {
                let flags = flags.bits() as i32;
                let file = File::options().read(true).custom_flags(flags).open(mounted.path(name)).unwrap();
                // Offset, length: odd sizes, across the end, at it and beyond it.
                let cases = [
                    (0, 1),
                    (1, 511),
                    (4095, 4098),
                    (SIZE - 1, 1),
                    (SIZE - 7, 4096),
                    (SIZE - 300_000, 1 << 20),
                    (SIZE, 1),
                    (SIZE + 5, 4096),
                    (1 << 40, 17),
                    (131_071, 1_048_579),
                ];
                for (offset, len) in cases {
                    let mut buffer = vec![0xEE; len];
                    let read = file.read_at(&mut buffer, offset).unwrap();
                    let expected = pattern(offset.min(SIZE)..(offset + len as u64).min(SIZE));
                    assert_eq!(read, expected.len(), "{name} {flags:o} {offset}+{len}");
                    assert!(buffer[..read] == expected, "{name} {flags:o} {offset}+{len}");
                    assert!(buffer[read..].iter().all(|byte| *byte == 0xEE), "nothing beyond what was read");
                }
            }
        }
        assert_eq!(fs::read(mounted.path("empty")).unwrap(), b"");
        assert_eq!(errno(fs::read(mounted.path("many"))), 21);
    });
}

#[test]
fn f6_nothing_can_be_written() {
    within(60, || {
        let mounted = Fixture::new();
        let (bytes, new) = (mounted.path("bytes"), mounted.path("new"));
        let open = |options: &mut fs::OpenOptions| errno(options.open(&bytes));
        assert_eq!(open(File::options().write(true)), EROFS);
        assert_eq!(open(File::options().append(true)), EROFS);
        assert_eq!(open(File::options().write(true).truncate(true)), EROFS);
        assert_eq!(errno(File::create(&new)), EROFS);
        assert_eq!(errno(fs::create_dir(&new)), EROFS);
        assert_eq!(errno(fs::remove_file(&bytes)), EROFS);
        assert_eq!(errno(fs::remove_dir(mounted.path("names"))), EROFS);
        assert_eq!(errno(fs::rename(&bytes, &new)), EROFS);
        assert_eq!(errno(fs::hard_link(&bytes, &new)), EROFS);
        assert_eq!(errno(std::os::unix::fs::symlink("x", &new)), EROFS);
        assert_eq!(errno(fs::set_permissions(&bytes, fs::Permissions::from_mode(0o777))), EROFS);
        assert_eq!(errno(std::os::unix::fs::chown(&bytes, Some(1), None)), EROFS);
        assert_eq!(errno(File::open(&bytes).unwrap().set_len(0)), 22, "not open for writing");
        let flags = rustix::fs::XattrFlags::empty();
        assert_eq!(rustix::fs::setxattr(&bytes, "user.a", b"1", flags), Err(rustix::io::Errno::ROFS));
        assert_eq!(rustix::fs::removexattr(&bytes, "user.a"), Err(rustix::io::Errno::ROFS));
        assert_eq!(fs::metadata(&bytes).unwrap().len(), SIZE);
        assert!(fs::read(&bytes).unwrap() == pattern(0..SIZE), "and nothing was");
    });
}

#[test]
fn f6_nothing_can_be_written_even_when_the_mount_is_made_writable() {
    within(60, || {
        let mounted = Fixture::new();
        let _ = sh("mount -i -o remount,rw \"$0\"", mounted.root());
        let (bytes, new) = (mounted.path("bytes"), mounted.path("new"));
        assert_eq!(errno(File::options().write(true).open(&bytes)), EROFS);
        assert_eq!(errno(File::create(&new)), EROFS);
        assert_eq!(errno(fs::create_dir(&new)), EROFS);
        assert_eq!(errno(fs::remove_file(&bytes)), EROFS);
        assert_eq!(errno(fs::remove_dir(mounted.path("names"))), EROFS);
        assert_eq!(errno(fs::rename(&bytes, &new)), EROFS);
        assert_eq!(errno(fs::hard_link(&bytes, &new)), EROFS);
        assert_eq!(errno(std::os::unix::fs::symlink("x", &new)), EROFS);
        assert_eq!(errno(fs::set_permissions(&bytes, fs::Permissions::from_mode(0o777))), EROFS);
        let made = rustix::fs::mknodat(rustix::fs::CWD, &new, rustix::fs::FileType::Fifo, 0o600.into(), 0);
        assert_eq!(made, Err(rustix::io::Errno::ROFS));
        let flags = rustix::fs::XattrFlags::empty();
        assert_eq!(rustix::fs::setxattr(&bytes, "user.a", b"1", flags), Err(rustix::io::Errno::ROFS));
        assert_eq!(rustix::fs::removexattr(&bytes, "user.a"), Err(rustix::io::Errno::ROFS));
        assert!(mounted.stats().op(afterimage_mountd::watch::Op::Refused).count >= 10);
        let file = File::open(&bytes).unwrap();
        file.sync_all().expect("nothing to sync is synced");
        assert!(fs::read(&bytes).unwrap() == pattern(0..SIZE));
    });
}

#[test]
fn f6_extended_attributes_are_listed_read_and_missing() {
    within(30, || {
        let mounted = Fixture::new();
        let (has, has_none) = (mounted.path("attributed"), mounted.path("bytes"));
        let mut buffer = [0_u8; 256];
        let len = rustix::fs::listxattr(&has, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"user.colour\0user.empty\0");
        let len = rustix::fs::getxattr(&has, "user.colour", &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"blue\0\xff");
        assert_eq!(rustix::fs::getxattr(&has, "user.empty", &mut buffer), Ok(0));
        assert_eq!(rustix::fs::getxattr(&has, "user.colour", &mut [0_u8; 2]), Err(rustix::io::Errno::RANGE));
        let len =
            rustix::fs::getxattr(mounted.path("guarded"), "system.posix_acl_access", &mut buffer).unwrap();
        assert_eq!(&buffer[..len], &access_list()[..], "for those who copy it");
        let missing = rustix::fs::getxattr(&has_none, "user.colour", &mut buffer).unwrap_err();
        assert_eq!(missing.raw_os_error(), ENODATA);
        assert_eq!(rustix::fs::listxattr(&has_none, &mut buffer), Ok(0));
    });
}

#[test]
fn f6_mmap_shows_the_bytes_and_takes_none() {
    const SCRIPT: &str = r#"
import mmap, os, sys
fd = os.open(sys.argv[1] + "/bytes", os.O_RDONLY)
size = os.fstat(fd).st_size
with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as shared:
    assert shared[:] == os.pread(fd, size, 0) or shared[:] == open(sys.argv[1] + "/later", "rb").read()
    assert shared[:] == open(sys.argv[1] + "/later", "rb").read()
try:
    mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    sys.exit("a writable shared map was given")
except PermissionError:
    pass
with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as private:
    private[0:4] = b"mine"
print(os.pread(fd, 16, 0).hex())
"#;
    within(60, || {
        let mounted = Fixture::new();
        let output = run("python3", &["-c", SCRIPT, mounted.root().to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let first: String = pattern(0..16).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), first);
    });
}

#[test]
fn a_damaged_range_fails_and_spares_the_rest() {
    within(30, || {
        let mounted = Fixture::new();
        let file = File::open(mounted.path("damaged")).unwrap();
        // The kernel reads ahead across the damage; the pages before and behind it are still right.
        let mut before = vec![0; DAMAGE.start as usize];
        file.read_exact_at(&mut before, 0).unwrap();
        assert!(before == pattern(0..DAMAGE.start));
        for offset in [DAMAGE.start, DAMAGE.start + 5000, DAMAGE.end - 1] {
            assert_eq!(errno(file.read_at(&mut [0; 1], offset)), EIO, "{offset}");
        }
        let mut behind = vec![0; (SIZE - DAMAGE.end) as usize];
        file.read_exact_at(&mut behind, DAMAGE.end).unwrap();
        assert!(behind == pattern(DAMAGE.end..SIZE));
    });
}

#[test]
fn a_tree_that_gives_too_little_gives_an_error_and_no_zeroes() {
    within(30, || {
        let mounted = Fixture::new();
        assert_eq!(errno(fs::read(mounted.path("short"))), EIO);
        assert!(mounted.stats().value("short_answers") > 0);
    });
}

#[test]
fn holes_are_found_and_survive_a_copy() {
    within(60, || {
        let mounted = Fixture::new();
        let mut file = File::open(mounted.path("sparse")).unwrap();
        let mut at = 0;
        let mut data = Vec::new();
        while let Ok(start) = rustix::fs::seek(&file, RawSeek::Data(at)) {
            at = rustix::fs::seek(&file, RawSeek::Hole(start)).unwrap();
            data.push((start, at));
        }
        let expected: Vec<_> = (0..8).map(|i| (i * 4 * SPARSE_UNIT, (i * 4 + 1) * SPARSE_UNIT)).collect();
        assert_eq!(data, expected);
        for beyond in [SPARSE_SIZE, SPARSE_SIZE + 1, u64::MAX >> 1] {
            assert_eq!(rustix::fs::seek(&file, RawSeek::Data(beyond)), Err(rustix::io::Errno::NXIO));
            assert_eq!(rustix::fs::seek(&file, RawSeek::Hole(beyond)), Err(rustix::io::Errno::NXIO));
        }
        assert_eq!(file.seek(SeekFrom::End(-3)).unwrap(), SPARSE_SIZE - 3);
        let copies = tempfile::tempdir().unwrap();
        for how in ["always", "auto"] {
            let copy = copies.path().join(how);
            let (from, to) = (mounted.path("sparse"), copy.to_str().unwrap().to_owned());
            let output = run("cp", &[&format!("--sparse={how}"), from.to_str().unwrap(), &to]);
            assert!(output.status.success());
            assert!(fs::read(&copy).unwrap() == fs::read(&from).unwrap());
            assert!(
                fs::metadata(&copy).unwrap().blocks() <= fs::metadata(&from).unwrap().blocks() + 64,
                "{how}"
            );
        }
    });
}

#[test]
fn what_was_read_stays_cached_from_one_opening_to_the_next() {
    within(30, || {
        let mounted = Fixture::new();
        // One opening more, so that nothing is forgotten because memory is wanted elsewhere.
        let held = File::open(mounted.path("bytes")).unwrap();
        let read = || fs::read(mounted.path("bytes")).unwrap();
        assert!(read() == pattern(0..SIZE));
        let asked = mounted.tree.reads.load(Ordering::Relaxed);
        assert!(read() == pattern(0..SIZE));
        assert_eq!(mounted.tree.reads.load(Ordering::Relaxed), asked);
        drop(held);
        let stats = mounted.stats();
        assert_eq!(stats.value("read_bytes"), SIZE);
        assert!(stats.op(afterimage_mountd::watch::Op::Read).quantile(0.5).is_some());
        eventually("closed files are closed", || mounted.stats().value("open_files") == 0);
    });
}

#[test]
fn as_root_the_kernel_reads_ahead_further() {
    within(30, || {
        let mounted = Fixture::new();
        let device = sh("mountpoint -d \"$0\"", mounted.root());
        let set = fs::read_to_string(format!("/sys/class/bdi/{}/read_ahead_kb", device.trim())).unwrap();
        assert_eq!(set.trim(), "4096");
    });
}

#[test]
fn passthrough_gives_the_plain_files_bytes_without_asking_the_tree() {
    within(30, || {
        let plain = tempfile::NamedTempFile::new().unwrap();
        fs::write(plain.path(), pattern(0..SIZE)).unwrap();
        let tree = Odd { plain: Some(plain.path().into()), ..Odd::default() };
        let mounted = Fixture::with(tree, |options| options.passthrough = true);
        let first = File::open(mounted.path("plain")).unwrap();
        assert!(fs::read(mounted.path("plain")).unwrap() == pattern(0..SIZE));
        let stats = mounted.stats();
        if stats.value("passthrough_opens") == 0 {
            println!(
                "SKIPPED this kernel gives no passthrough here; the bytes came through the tree and are right"
            );
        } else {
            assert_eq!(
                (stats.value("passthrough_opens"), mounted.tree.reads.load(Ordering::Relaxed)),
                (2, 0)
            );
        }
        assert!(fs::read(mounted.path("bytes")).unwrap() == pattern(0..SIZE), "others are read as ever");
        drop(first);
    });
}

#[test]
fn passthrough_is_used_only_when_asked_for() {
    within(30, || {
        let plain = tempfile::NamedTempFile::new().unwrap();
        let tree = Odd { plain: Some(plain.path().into()), ..Odd::default() };
        let mounted = Fixture::with(tree, |_| {});
        assert!(fs::read(mounted.path("plain")).unwrap() == pattern(0..SIZE));
        assert_eq!(mounted.stats().value("passthrough_opens"), 0);
    });
}

#[test]
fn f9_sixty_four_threads_at_random_read_what_is_there() {
    within(120, || {
        let mounted = Fixture::new();
        let whole = pattern(0..SIZE);
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        let until = std::time::Instant::now() + Duration::from_secs(5);
        std::thread::scope(|scope| {
            for thread in 0..64_u64 {
                let (mounted, whole) = (&mounted, &whole);
                let _ = scope.spawn(move || {
                    let mut random = Random(seed * 64 + thread);
                    let name = ["bytes", "later"][(thread % 2) as usize];
                    let direct = if thread % 4 < 2 { OFlags::DIRECT.bits() as i32 } else { 0 };
                    let file =
                        File::options().read(true).custom_flags(direct).open(mounted.path(name)).unwrap();
                    let mut buffer = vec![0; 1 << 18];
                    while std::time::Instant::now() < until {
                        let (offset, len) = (random.below(SIZE), 1 + random.below(1 << 18) as usize);
                        let read = file.read_at(&mut buffer[..len], offset).unwrap();
                        let offset = offset as usize;
                        assert_eq!(read, len.min(whole.len() - offset));
                        assert!(buffer[..read] == whole[offset..offset + read], "{name} {offset}+{len}");
                    }
                });
            }
        });
        let stats = mounted.stats();
        assert_eq!(
            (stats.value("panics"), stats.value("deadlines"), stats.value("short_answers")),
            (0, 0, 0)
        );
    });
}

#[test]
fn a_pipe_and_a_seek_backwards_read_the_same() {
    within(30, || {
        let mounted = Fixture::new();
        let mut file = File::open(mounted.path("later")).unwrap();
        let mut tail = Vec::new();
        let _ = file.seek(SeekFrom::Start(SIZE - 1000)).unwrap();
        let _ = file.read_to_end(&mut tail).unwrap();
        assert!(tail == pattern(SIZE - 1000..SIZE));
        let sums = sh("sha256sum < \"$0/bytes\"; cat \"$0/later\" | sha256sum", mounted.root());
        let sums: Vec<_> = sums.lines().collect();
        assert_eq!(sums[0], sums[1]);
    });
}

/// A loop device that is let go when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["-d", &self.0]);
    }
}

#[test]
fn a_loop_device_over_a_file_shows_its_bytes() {
    within(60, || {
        let mounted = Fixture::new();
        for direct in ["on", "off"] {
            let (direct, file) = (format!("--direct-io={direct}"), mounted.path("later"));
            let made = run("losetup", &["--read-only", "--find", "--show", &direct, file.to_str().unwrap()]);
            if !made.status.success() {
                println!("SKIPPED no loop device: {}", String::from_utf8_lossy(&made.stderr));
                return;
            }
            let device = Loop(String::from_utf8_lossy(&made.stdout).trim().into());
            let seen = fs::read(&device.0).unwrap();
            // A block device is whole sectors.
            assert_eq!(seen.len() as u64, SIZE / 512 * 512);
            assert!(seen == pattern(0..SIZE / 512 * 512));
        }
    });
}
