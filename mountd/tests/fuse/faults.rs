//! Trees that hang and panic: it costs the one operation, and nobody else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use afterimage_mountd::watch::Op;

use crate::fixture::{Fixture, GONE, errno, eventually, within};
use crate::tree::{Odd, SIZE, pattern};

const EIO: i32 = 5;

#[test]
fn f4_a_panic_costs_one_operation_and_is_counted() {
    within(30, || {
        let mounted = Fixture::new();
        for name in ["panic", "panic-later"] {
            let before = mounted.stats().value("panics");
            let file = File::open(mounted.path(name)).unwrap();
            assert_eq!(errno(file.read_at(&mut [0; 10], 0)), EIO);
            assert!(mounted.stats().value("panics") > before, "{name}");
        }
        assert!(mounted.stats().op(Op::Read).errors >= 2);
        assert!(fs::read(mounted.path("bytes")).unwrap() == pattern(0..SIZE), "the daemon lives");
    });
}

#[test]
fn f4_a_panic_while_a_file_is_closed_is_counted_and_harms_nobody() {
    within(30, || {
        let mounted = Fixture::new();
        for round in 1..=4 {
            assert!(fs::read(mounted.path("panic-on-close")).unwrap() == pattern(0..SIZE));
            eventually("it is closed", || mounted.stats().value("panics") == round);
        }
        assert!(fs::read(mounted.path("bytes")).unwrap() == pattern(0..SIZE), "the daemon lives");
        eventually("all are closed", || mounted.stats().value("open_files") == 0);
    });
}

#[test]
fn f5_a_read_that_hangs_ends_at_the_deadline_with_eio() {
    within(30, || {
        let mounted = Fixture::with(Odd::default(), |options| options.deadline = Duration::from_millis(400));
        let file = File::open(mounted.path("hang")).unwrap();
        let began = Instant::now();
        assert_eq!(errno(file.read_at(&mut [0; 10], 0)), EIO);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
        assert_eq!(errno(fs::metadata(mounted.path("never"))), EIO);
        assert!(mounted.stats().value("deadlines") >= 2);
        eventually("nothing waits", || mounted.stats().value("waiting") == 0);
    });
}

#[test]
fn f5_a_hundred_readers_that_hang_hold_up_nobody_else() {
    within(60, || {
        // So long a deadline that only the mount's end lets them go.
        let mounted = Fixture::with(Odd::default(), |options| options.deadline = Duration::from_secs(600));
        let whole = pattern(0..SIZE);
        let hang = |offset: u64| {
            let file = File::open(mounted.path("hang")).unwrap();
            std::thread::spawn(move || errno(file.read_at(&mut [0; 1], offset)))
        };
        // Far apart, so that each starts a read-ahead of its own.
        let readers: Vec<_> = (0..100).map(|i| hang(i * SIZE / 100)).collect();
        eventually("all of them wait", || mounted.stats().value("waiting") >= 40);
        assert!(fs::read(mounted.path("bytes")).unwrap() == whole);
        assert!(fs::read(mounted.path("later")).unwrap() == whole);
        assert_eq!(fs::read_dir(mounted.path("many")).unwrap().take(1000).count(), 1000);
        assert!(fs::metadata(mounted.path("attributed")).is_ok());
        assert!(mounted.stats().value("waiting") > 0, "they still hang");
        drop(mounted);
        for reader in readers {
            let errno = reader.join().unwrap();
            assert!(GONE.contains(&errno), "{errno}");
        }
    });
}

#[test]
fn f5_a_reader_that_is_killed_is_let_go_long_before_the_deadline() {
    within(30, || {
        let mounted = Fixture::new();
        // Not INT: whoever was started in the background of a script ignores that one, and so do its children.
        for signal in ["TERM", "KILL"] {
            let path = mounted.path("hang");
            let mut reader = Command::new("dd")
                .arg(format!("if={}", path.display()))
                .args(["of=/dev/null", "bs=4k", "count=1", "iflag=direct"])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            eventually("it waits", || mounted.stats().value("waiting") > 0);
            let sent = Command::new("kill")
                .args([&format!("-{signal}"), &reader.id().to_string()])
                .status()
                .unwrap();
            assert!(sent.success());
            eventually("it is gone", || reader.try_wait().unwrap().is_some());
            eventually("nothing waits any more", || mounted.stats().value("waiting") == 0);
        }
        assert_eq!(mounted.stats().value("interrupted"), 2);
        assert_eq!(mounted.stats().value("deadlines"), 0);
    });
}
