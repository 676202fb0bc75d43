//! Names: directories large, odd and changing, and what the kernel remembers of them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afterimage_mountd::watch::Op;

use crate::fixture::{Fixture, errno, eventually, sh, within};
use crate::tree::{MANY, Odd, TROUBLED, odd_names};

fn names_in(path: std::path::PathBuf) -> Vec<OsString> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn f8_a_hundred_thousand_entries_are_listed_once_each() {
    within(60, || {
        let mounted = Fixture::new();
        for _ in 0..2 {
            let names = names_in(mounted.path("many"));
            assert_eq!(names.len() as u64, MANY);
            assert_eq!(names.into_iter().collect::<BTreeSet<_>>().len() as u64, MANY);
        }
        let listed = sh(
            "ls -lnU \"$0/many\" | awk 'NR > 1 { n++; s += $3 } END { printf \"%d %.0f\", n, s }'",
            mounted.root(),
        );
        assert_eq!(
            listed.trim(),
            format!("{MANY} {}", MANY * (MANY - 1) / 2),
            "attributes go with their names"
        );
    });
}

#[test]
fn f8_odd_names_are_listed_and_found_as_they_are() {
    within(30, || {
        let mounted = Fixture::new();
        let mut expected = odd_names();
        assert_eq!(expected.pop().as_deref(), Some("a/b".as_ref()));
        for name in &expected {
            assert!(fs::metadata(mounted.path("names").join(name)).is_ok(), "{name:?}");
        }
        // What cannot be a name is still seen, and spoils nothing.
        expected.push("a?b".into());
        expected.sort();
        let mut listed = names_in(mounted.path("names"));
        listed.sort();
        assert_eq!(listed, expected);
        assert!(mounted.stats().value("bad_names") > 0);
        let too_long = OsString::from_vec(vec![b'x'; 256]);
        assert_eq!(errno(fs::metadata(mounted.path("names").join(too_long))), 36);
    });
}

#[test]
fn names_that_cannot_be_looked_up_are_listed_with_the_others() {
    within(60, || {
        let mounted = Fixture::with(Odd::default(), |options| options.deadline = Duration::from_secs(5));
        for _ in 0..2 {
            let mut expected: Vec<_> = TROUBLED.map(OsString::from).into();
            let mut listed = names_in(mounted.path("troubled"));
            listed.sort();
            expected.sort();
            assert_eq!(listed, expected);
        }
        assert!(fs::metadata(mounted.path("troubled/fine")).is_ok());
        for name in &TROUBLED[1..] {
            assert_eq!(errno(fs::metadata(mounted.path("troubled").join(name))), 5, "{name}");
        }
        assert_eq!(mounted.stats().value("forgotten_too_often"), 0);
    });
}

#[test]
fn f8_dot_and_dot_dot_are_there_with_their_numbers() {
    within(30, || {
        let mounted = Fixture::new();
        let many = fs::metadata(mounted.path("many")).unwrap().ino();
        let listed = sh("ls -iaU \"$0/many\" | head -2", mounted.root());
        let fields: Vec<_> = listed.split_whitespace().collect();
        assert_eq!(fields, [&many.to_string(), ".", "1000", ".."]);
    });
}

#[test]
fn f8_a_directory_that_changes_while_it_is_read_neither_repeats_nor_loses() {
    within(60, || {
        let mounted = Fixture::new();
        let stays: BTreeSet<OsString> = (0..5000).map(|i| format!("stays{i:05}").into()).collect();
        let numbered = stays.iter().cloned().zip(0..).collect();
        *mounted.tree.changing.lock().unwrap() = numbered;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ = scope.spawn(|| {
                for i in (100_000..).take_while(|_| !over.load(Ordering::Relaxed)) {
                    let mut changing = mounted.tree.changing.lock().unwrap();
                    let _ = changing.insert(format!("comes{i}").into(), i);
                    let _ = changing.remove(std::ffi::OsStr::new(&format!("comes{}", i - 50)));
                }
            });
            for _ in 0..20 {
                let listed = names_in(mounted.path("changing"));
                let distinct: BTreeSet<_> = listed.iter().cloned().collect();
                assert_eq!(distinct.len(), listed.len(), "repeated");
                assert!(stays.is_subset(&distinct), "lost");
            }
            over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn f8_a_reader_that_rewinds_sees_what_is_new() {
    const SCRIPT: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
def names(handle):
    found = []
    while entry := libc.readdir(handle):
        found.append(ctypes.string_at(entry + 19).decode())
    return sorted(found)
handle = libc.opendir(sys.argv[1].encode())
print(names(handle), flush=True)
sys.stdin.readline()
libc.rewinddir(handle)
print(names(handle), flush=True)
"#;
    within(30, || {
        use std::io::{BufRead, BufReader, Write};
        let mounted = Fixture::new();
        let _ = mounted.tree.changing.lock().unwrap().insert("one".into(), 1);
        let mut python = std::process::Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(mounted.path("changing"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "['.', '..', 'one']");
        let _ = mounted.tree.changing.lock().unwrap().insert("two".into(), 2);
        python.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "['.', '..', 'one', 'two']");
        assert!(python.wait().unwrap().success());
    });
}

#[test]
fn f8_a_reader_that_makes_a_place_up_gets_something_and_breaks_nothing() {
    within(30, || {
        let mounted = Fixture::new();
        for name in ["", "many", "names", "changing"] {
            let dir = fs::File::open(mounted.path(name)).unwrap();
            for place in [1, 2, 3, 7, 100_001, 1 << 40, (1 << 62) + 1, (1 << 62) + 3, i64::MAX as u64] {
                let _ = rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(place));
                let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
                let mut entries = rustix::fs::RawDir::new(&dir, &mut buffer);
                let found = entries.next().is_some_and(|entry| entry.is_ok());
                assert!(!found || place < 200_000, "{name} {place}");
            }
        }
        assert_eq!(mounted.stats().value("panics"), 0);
    });
}

#[test]
fn notices_make_the_kernel_forget_what_it_would_keep() {
    within(30, || {
        let mounted = Fixture::new();
        let (came, dir) = (mounted.path("changing/came"), mounted.path("changing"));
        let dir_ino = fs::metadata(&dir).unwrap().ino();
        let change = |number: Option<u64>| {
            let mut changing = mounted.tree.changing.lock().unwrap();
            let _ = match number {
                Some(number) => changing.insert("came".into(), number),
                None => changing.remove(came.file_name().unwrap()),
            };
        };
        change(Some(1));
        // Open, so that it is not forgotten because memory is wanted elsewhere.
        let held = fs::File::open(&came).unwrap();
        let first = held.metadata().unwrap().ino();
        change(Some(2));
        assert_eq!(fs::metadata(&came).unwrap().ino(), first, "kept for a minute");
        drop(held);
        mounted.mount().notify().entry(dir_ino, "came");
        eventually("another node", || fs::metadata(&came).is_ok_and(|meta| meta.ino() != first));
        change(None);
        mounted.mount().notify().entry(dir_ino, "came");
        eventually("gone", || errno(fs::metadata(&came)) == 2);
        assert_eq!(names_in(dir), Vec::<OsString>::new());
        assert!(mounted.stats().value("notices") >= 4);
    });
}

#[test]
fn notices_about_the_root_and_about_nothing_do_no_harm() {
    within(30, || {
        let mounted = Fixture::new();
        assert!(fs::metadata(mounted.path("bytes")).is_ok());
        let looked_up = mounted.stats().op(Op::Lookup).count;
        let notify = mounted.mount().notify();
        notify.entry(1000, "bytes");
        notify.node(1000);
        notify.entry(424_242, "nothing");
        notify.node(424_242);
        eventually("the root's entry is asked for again", || {
            fs::metadata(mounted.path("bytes")).is_ok() && mounted.stats().op(Op::Lookup).count > looked_up
        });
        drop(mounted);
        notify.entry(1000, "bytes");
    });
}

#[test]
fn a_listing_that_never_changes_is_asked_for_once() {
    within(30, || {
        let mounted = Fixture::new();
        let list = || names_in(mounted.path("names")).len();
        // The kernel fills its cache from the second reading on, as the first also brought attributes.
        let (first, _) = (list(), list());
        eventually("a listing comes from the cache", || {
            let pages = mounted.stats().op(Op::Readdir).count;
            assert_eq!(list(), first);
            mounted.stats().op(Op::Readdir).count == pages
        });
    });
}

#[test]
fn f1_after_a_storm_of_lookups_the_table_shrinks_to_the_root() {
    within(60, || {
        let mounted = Fixture::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mounted = &mounted;
                let _ = scope.spawn(move || {
                    for i in (thread..20_000).step_by(3) {
                        assert!(fs::metadata(mounted.path(&format!("many/f{i:06}"))).is_ok());
                    }
                });
            }
            let _ = scope.spawn(|| {
                for _ in 0..5 {
                    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
                    std::thread::sleep(Duration::from_millis(30));
                }
            });
        });
        assert!(mounted.stats().op(Op::Lookup).count >= 20_000);
        let began = Instant::now();
        while mounted.stats().value("nodes") > 0 {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{} nodes stay",
                mounted.stats().value("nodes")
            );
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(mounted.stats().value("forgotten_too_often"), 0);
        assert!(fs::metadata(mounted.path("many/f000007")).is_ok(), "the root is still there");
    });
}

#[test]
fn df_shows_what_the_tree_says() {
    within(30, || {
        let mounted = Fixture::new();
        let space = rustix::fs::statvfs(mounted.root()).unwrap();
        assert_eq!((space.f_blocks * space.f_frsize, space.f_bfree, space.f_files), (10 << 30, 0, MANY));
        assert_eq!(space.f_namemax, 255);
        assert!(mounted.root().as_os_str().as_bytes().len() < 4096);
    });
}
