//! Mounts come, go, die and are replaced, and nobody hangs in them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afterimage_mountd::{Ended, Mount, MountErrorKind, Options, Tree, umount};

use crate::daemon::{self, Daemon};
use crate::fixture::{Fixture, GONE, clear, errno, eventually, is_mounted, new_kind, sh, within};
use crate::tree::{Odd, SIZE, pattern};

fn start(at: &Path, kind: &str, fixture: &Fixture) -> Result<Mount, MountErrorKind> {
    let options = Options::new(kind, fixture.runtime().handle().clone());
    Mount::start(Arc::new(Odd::default()), at, options).map_err(|error| error.kind())
}

#[test]
fn f2_a_mount_that_nobody_uses_ends_cleanly() {
    within(30, || {
        // Whoever waited for the grace to be over would be too late.
        let mut mounted = Fixture::with(Odd::default(), |options| options.grace = Duration::from_secs(120));
        assert!(is_mounted(mounted.root()));
        assert!(fs::metadata(mounted.path("bytes")).is_ok());
        assert_eq!(mounted.mount.take().unwrap().unmount().unwrap(), Ended::Cleanly);
        assert!(!is_mounted(mounted.root()));
        assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 0);
    });
}

#[test]
fn f2_dropping_a_mount_unmounts_it() {
    within(30, || {
        let mut mounted = Fixture::new();
        let held = File::open(mounted.path("bytes")).unwrap();
        drop(mounted.mount.take());
        assert!(!is_mounted(mounted.root()));
        assert!(GONE.contains(&errno(held.read_at(&mut [0; 1], 0))));
    });
}

#[test]
fn f2_a_reader_may_finish_within_the_grace() {
    within(30, || {
        let mut mounted = Fixture::with(Odd::default(), |options| options.grace = Duration::from_secs(8));
        let file = File::open(mounted.path("later")).unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; SIZE as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes == pattern(0..SIZE)
        });
        assert_eq!(mounted.mount.take().unwrap().unmount().unwrap(), Ended::Cleanly);
        assert!(reader.join().unwrap());
    });
}

#[test]
fn f2_unmounting_under_readers_gives_them_data_or_an_error() {
    within(30, || {
        let mut mounted = Fixture::new();
        let over = Arc::new(AtomicBool::new(false));
        let reader = |name| {
            let (file, over) = (File::open(mounted.path(name)).unwrap(), over.clone());
            std::thread::spawn(move || {
                let (mut bytes, mut rounds) = (vec![0; 100_000], 0);
                loop {
                    let offset = rounds * 77_777 % (SIZE - 100_000);
                    rounds += 1;
                    if over.load(Ordering::Relaxed) {
                        // What the kernel has cached it may go on giving.
                        return 0;
                    }
                    match file.read_at(&mut bytes, offset) {
                        Ok(read) => assert!(bytes[..read] == pattern(offset..offset + read as u64)),
                        Err(error) => return error.raw_os_error().unwrap(),
                    }
                }
            })
        };
        let readers: Vec<_> = ["later", "bytes", "hang", "hang"].map(reader).into_iter().collect();
        eventually("one hangs", || mounted.tree.hanging.load(Ordering::Relaxed) >= 1);
        let began = Instant::now();
        assert_eq!(mounted.mount.take().unwrap().unmount().unwrap(), Ended::ByForce);
        assert!(began.elapsed() < Duration::from_secs(3));
        over.store(true, Ordering::Relaxed);
        let ends: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert!(ends.iter().all(|errno| *errno == 0 || GONE.contains(errno)), "{ends:?}");
        assert!(ends[2..].iter().all(|errno| *errno != 0), "{ends:?}");
        assert!(!is_mounted(mounted.root()));
    });
}

#[test]
fn f2_a_lazy_unmount_by_somebody_else_ends_it_when_the_last_reader_is_done() {
    within(30, || {
        let mut mounted = Fixture::new();
        let held = File::open(mounted.path("bytes")).unwrap();
        let _ = sh("umount -l \"$0\"", mounted.root());
        assert!(!is_mounted(mounted.root()));
        let mut bytes = [0; 4];
        assert_eq!(held.read_at(&mut bytes, 8).unwrap(), 4);
        assert!(!mounted.mount().has_ended());
        drop(held);
        let mount = mounted.mount.take().unwrap();
        let ended = mounted.runtime().block_on(mount.run(std::future::pending())).unwrap();
        assert_eq!(ended, Ended::Elsewhere);
    });
}

#[test]
fn f2_a_mount_whose_connection_is_cut_is_taken_away() {
    within(30, || {
        let (mut mounted, control) = (Fixture::new(), tempfile::tempdir().unwrap());
        let device = sh("mountpoint -d \"$0\"", mounted.root());
        let minor = device.trim().split(':').nth(1).unwrap().to_owned();
        let cut = "mount -t fusectl none \"$0\" && { echo 1 > \"$0/$MINOR/abort\"; umount \"$0\"; }";
        let _ = sh(&cut.replace("$MINOR", &minor), control.path());
        let mount = mounted.mount.take().unwrap();
        let ended = mounted.runtime().block_on(mount.run(std::future::pending())).unwrap();
        assert_eq!(ended, Ended::WasDead);
        assert!(!is_mounted(mounted.root()));
    });
}

#[test]
fn f2_a_mount_elsewhere_in_its_place_is_left_alone() {
    within(30, || {
        let mut mounted = Fixture::new();
        let _ = sh("umount \"$0\" && mount -t tmpfs none \"$0\"", mounted.root());
        let mount = mounted.mount.take().unwrap();
        assert_eq!(mount.unmount().unwrap(), Ended::Elsewhere);
        assert!(is_mounted(mounted.root()), "what is there now is not ours");
        let _ = sh("umount \"$0\"", mounted.root());
    });
}

#[test]
fn f2_sigterm_ends_a_daemon_whose_tree_hangs_in_seconds() {
    within(60, || {
        for signal in ["TERM", "INT", "HUP"] {
            let mut daemon = Daemon::start();
            let readers: Vec<_> = (0..20)
                .map(|i| {
                    let file = File::open(daemon.path(if i % 2 == 0 { "hang" } else { "later" })).unwrap();
                    std::thread::spawn(move || errno(file.read_at(&mut [0; 4096], i * 4096)))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(200));
            let began = Instant::now();
            daemon.signal(signal);
            assert!(daemon.wait().success());
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            for reader in readers {
                let errno = reader.join().unwrap();
                assert!(errno == 0 || GONE.contains(&errno), "{errno}");
            }
            assert!(!is_mounted(daemon.dir.path()));
        }
    });
}

#[test]
fn f2_umount_of_anothers_hanging_mount_ends_it_in_seconds() {
    within(60, || {
        let mut daemon = Daemon::start();
        let file = File::open(daemon.path("hang")).unwrap();
        let reader = std::thread::spawn(move || errno(file.read_at(&mut [0; 4096], 0)));
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        assert_eq!(umount(daemon.dir.path(), &daemon.kind).unwrap(), Ended::ByForce);
        assert!(GONE.contains(&reader.join().unwrap()));
        assert!(daemon.wait().success() && began.elapsed() < Duration::from_secs(6));
        let again = umount(daemon.dir.path(), &daemon.kind).unwrap_err();
        assert_eq!(again.kind(), MountErrorKind::NotMounted);
    });
}

#[test]
fn f2_a_daemon_that_stands_still_is_unmounted_in_seconds() {
    within(60, || {
        let daemon = Daemon::start();
        daemon.signal("STOP");
        let began = Instant::now();
        let refused = start(daemon.dir.path(), &daemon.kind, &Fixture::new()).unwrap_err();
        assert_eq!(refused, MountErrorKind::Refused);
        assert_eq!(umount(daemon.dir.path(), &daemon.kind).unwrap(), Ended::ByForce);
        assert!(began.elapsed() < Duration::from_secs(15));
        assert!(!is_mounted(daemon.dir.path()));
    });
}

#[test]
fn f3_after_kill_9_readers_fail_at_once_and_the_next_mount_takes_the_place() {
    within(60, || {
        let mut daemon = Daemon::start();
        let held = File::open(daemon.path("later")).unwrap();
        // From here on the kernel knows the root by heart, and says so after the daemon's death, too.
        assert!(fs::metadata(daemon.dir.path()).unwrap().is_dir());
        let reader = |i: u64| {
            let path = daemon.path("hang");
            std::thread::spawn(move || {
                errno(File::open(path).and_then(|file| file.read_at(&mut [0; 1], i * SIZE / 100)))
            })
        };
        let readers: Vec<_> = (0..100).map(reader).collect();
        std::thread::sleep(Duration::from_millis(300));
        daemon.signal("KILL");
        let began = Instant::now();
        for reader in readers {
            assert!(GONE.contains(&reader.join().unwrap()));
        }
        assert!(!daemon.wait().success());
        assert_eq!(errno(held.read_at(&mut [0; 1], 0)), 107);
        assert_eq!(errno(fs::metadata(daemon.path("bytes"))), 107);
        assert!(began.elapsed() < Duration::from_secs(3));
        assert!(is_mounted(daemon.dir.path()), "dead, and still in the way");

        let other = Fixture::new();
        assert_eq!(start(daemon.dir.path(), "anotherkind", &other).unwrap_err(), MountErrorKind::Refused);
        let mount = start(daemon.dir.path(), &daemon.kind, &other).expect("takes the place");
        assert!(fs::read(daemon.path("bytes")).unwrap() == pattern(0..SIZE));
        assert_eq!(mount.unmount().unwrap(), Ended::Cleanly);
        assert!(!is_mounted(daemon.dir.path()), "the dead one went with it");
    });
}

#[test]
fn f3_umount_clears_a_dead_mount() {
    within(30, || {
        let mut daemon = Daemon::start();
        let held = File::open(daemon.path("bytes")).unwrap();
        daemon.signal("KILL");
        let _ = daemon.wait();
        let (links, link) = (tempfile::tempdir().unwrap(), "by-another-name");
        std::os::unix::fs::symlink(daemon.dir.path(), links.path().join(link)).unwrap();
        assert_eq!(umount(&links.path().join(link), &daemon.kind).unwrap(), Ended::WasDead);
        assert!(!is_mounted(daemon.dir.path()));
        drop(held);
        let gone = umount(&links.path().join("none"), &daemon.kind).unwrap_err();
        assert_eq!(gone.kind(), MountErrorKind::Missing);
    });
}

#[test]
fn f3_anothers_mount_is_neither_covered_nor_removed() {
    within(30, || {
        let (mounted, dir) = (Fixture::new(), tempfile::tempdir().unwrap());
        let _ = sh("mount -t tmpfs none \"$0\"", dir.path());
        let refused = start(dir.path(), "mdtest", &mounted);
        let kept = umount(dir.path(), "mdtest");
        let there = is_mounted(dir.path());
        let _ = sh("umount \"$0\"", dir.path());
        assert_eq!(refused.unwrap_err(), MountErrorKind::Refused);
        assert_eq!(kept.unwrap_err().kind(), MountErrorKind::Refused);
        assert!(there);
        // Nor is a live one of our own.
        assert_eq!(start(mounted.root(), &mounted.kind, &mounted).unwrap_err(), MountErrorKind::Refused);
        assert!(fs::metadata(mounted.path("bytes")).is_ok());
    });
}

#[test]
fn odd_mountpoints_are_mounted_on_and_bad_ones_are_not() {
    within(30, || {
        let (mounted, dir) = (Fixture::new(), tempfile::tempdir().unwrap());
        let odd = dir.path().join("a b\\ \n,c=\u{e9}");
        fs::create_dir(&odd).unwrap();
        let kind = new_kind();
        let mount = start(&odd, &kind, &mounted).expect("a mount");
        assert!(fs::metadata(odd.join("bytes")).is_ok());
        assert_eq!(umount(&odd, &kind).unwrap(), Ended::Cleanly);
        drop(mount);
        let cases = [("none", MountErrorKind::Missing), ("", MountErrorKind::Refused)];
        for (name, expected) in cases {
            assert_eq!(start(&dir.path().join(name), &kind, &mounted).unwrap_err(), expected, "{name:?}");
        }
        let mut options = Options::new(&kind, mounted.runtime().handle().clone());
        options.forbidden = vec![dir.path().into()];
        let error = Mount::start(Arc::new(Odd::default()), &odd, options).unwrap_err();
        assert_eq!(error.kind(), MountErrorKind::Refused);
        assert!(error.to_string().contains("lies inside"), "{error}");
    });
}

/// A tree that does not get as far as being served.
struct Stillborn;

impl Tree for Stillborn {
    type Node = ();
    type File = ();
    type Dir = ();

    fn root(&self) {
        panic!("on purpose");
    }

    fn lookup(
        &self,
        (): &(),
        _: &std::ffi::OsStr,
    ) -> afterimage_mountd::tree::Answer<afterimage_mountd::tree::Entry<()>> {
        unreachable!()
    }

    fn attr(&self, (): &()) -> afterimage_mountd::tree::Answer<afterimage_mountd::tree::Attr> {
        unreachable!()
    }

    fn opendir(&self, (): &()) -> afterimage_mountd::tree::Answer<afterimage_mountd::tree::OpenDir<()>> {
        unreachable!()
    }

    fn readdir(
        &self,
        _: &Arc<()>,
        _: u64,
        _: afterimage_mountd::tree::Page,
    ) -> afterimage_mountd::tree::Answer<Vec<afterimage_mountd::tree::DirEntry<()>>> {
        unreachable!()
    }

    fn open(&self, (): &()) -> afterimage_mountd::tree::Answer<afterimage_mountd::tree::OpenFile<()>> {
        unreachable!()
    }

    fn read(&self, _: &Arc<()>, _: u64, _: u32) -> afterimage_mountd::tree::Answer<bytes::Bytes> {
        unreachable!()
    }
}

#[test]
fn f4_a_panic_while_starting_leaves_nothing_mounted() {
    within(30, || {
        let (other, dir) = (Fixture::new(), tempfile::tempdir().unwrap());
        let options = Options::new(new_kind(), other.runtime().handle().clone());
        let at = dir.path().to_owned();
        let panicked =
            std::thread::spawn(move || Mount::start(Arc::new(Stillborn), &at, options).map(drop)).join();
        assert!(panicked.is_err());
        assert!(!is_mounted(dir.path()));
    });
}

#[test]
fn a_background_daemon_is_ready_when_its_parent_returns() {
    within(60, || {
        let (dir, kind) = (tempfile::tempdir().unwrap(), new_kind());
        let program = std::env::current_exe().unwrap();
        // The output ends: the daemon holds neither of the parent's pipes.
        let output = daemon::command(&program, dir.path(), &kind, "background").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        let line = said.lines().find_map(|line| line.split("ready: ").nth(1)).expect("a line").to_owned();
        let fields: Vec<_> = line.split(' ').collect();
        assert_eq!(Path::new(fields[0]), fs::canonicalize(dir.path()).unwrap());
        assert_eq!(fields[1], "6", "the secret arrived");
        assert!(fs::read(dir.path().join("bytes")).unwrap() == pattern(0..SIZE));
        let status = fs::read_to_string(format!("/proc/{}/stat", fields[2])).unwrap();
        let session = status.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
        assert_eq!(session, fields[2], "a session of its own");
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", fields[2])).unwrap(), Path::new("/"));
        assert_eq!(umount(dir.path(), &kind).unwrap(), Ended::Cleanly);
        eventually("it ends with its mount", || {
            let state = fs::read_to_string(format!("/proc/{}/stat", fields[2])).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        });
        clear(&kind);
    });
}

#[test]
fn a_background_daemon_that_cannot_start_says_why_with_its_exit_code() {
    within(60, || {
        let (dir, kind) = (tempfile::tempdir().unwrap(), new_kind());
        fs::write(dir.path().join("full"), "").unwrap();
        let program = std::env::current_exe().unwrap();
        let output = daemon::command(&program, dir.path(), &kind, "background").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("the directory is not empty"), "{said}");
        let output = daemon::command(&program, dir.path(), &kind, "lazy").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("not ready within 3 s and was ended"), "{said}");
    });
}

#[test]
fn systemd_hears_when_the_mount_is_ready_and_when_it_ends() {
    within(30, || {
        let (dir, kind) = (tempfile::tempdir().unwrap(), new_kind());
        let (at, socket) = (dir.path().join("at"), dir.path().join("socket"));
        fs::create_dir(&at).unwrap();
        let listener = UnixDatagram::bind(&socket).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut command: Command =
            daemon::command(&std::env::current_exe().unwrap(), &at, &kind, "foreground");
        let _ = command.env("NOTIFY_SOCKET", &socket);
        let process = Daemon::spawn(command);
        let mut daemon = Daemon { process, dir, kind };
        let hear = || {
            let mut text = [0; 100];
            let len = listener.recv(&mut text).unwrap();
            String::from_utf8_lossy(&text[..len]).into_owned()
        };
        assert_eq!(hear(), "READY=1\nSTATUS=mounted");
        daemon.signal("TERM");
        assert_eq!(hear(), "STOPPING=1");
        assert!(daemon.wait().success());
    });
}
