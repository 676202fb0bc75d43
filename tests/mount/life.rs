//! Mounts come, go, die and are replaced; what is none of ours is left alone.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Running, Sandbox, run};
use crate::world::{Mounted, errno, eventually, mounts, run_tool, within};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

fn with_a_backup(sand: &Sandbox) -> Vec<u8> {
    let bytes = mixed(1, 4 * MIB);
    let image = file(sand, "disk.img", &bytes);
    let _ = sand.backup("web01", &[&image]);
    bytes
}

#[test]
fn mounting_returns_when_the_mount_answers_and_umount_ends_its_process() {
    within(60, |sand| {
        let bytes = with_a_backup(sand);
        let mounted = Mounted::new(sand);
        assert!(fs::read(mounted.image("web01")).expect("read") == bytes);
        let _ = sand.done(&["umount", "mnt"]);
        assert!(!mounted.is_there());
        eventually("its process has ended", || !mounted.lives());
        assert_eq!(fs::read_dir(&mounted.at).expect("list").count(), 0);
        let _ = sand.ends(1, &["umount", "mnt"]).saying("nothing is mounted there");
        assert!(crate::common::files_under(&sand.home().join("run")).is_empty(), "its socket is gone");
    });
}

#[test]
fn who_unmounts_and_mounts_again_at_once_finds_no_trace_of_the_one_before() {
    within(60, |sand| {
        let bytes = with_a_backup(sand);
        for _ in 0..10 {
            let mounted = Mounted::new(sand);
            assert_eq!(mounted.stats()["pid"], mounted.pid, "its own socket answers");
            assert!(fs::read(mounted.image("web01")).expect("read") == bytes);
            let _ = sand.done(&["umount", "mnt"]);
            std::mem::forget(mounted);
        }
    });
}

#[test]
fn f7_the_mount_is_read_only_without_suid_devices_or_programs() {
    within(60, |sand| {
        let _ = with_a_backup(sand);
        for (name, flags) in [("a", &[][..]), ("b", &["--allow-other"])] {
            let mounted = Mounted::with(sand, name, flags);
            let (_, line) = mounts().into_iter().find(|(at, _)| *at == mounted.at).expect("in the table");
            let words: Vec<&str> = line.split([' ', ',']).collect();
            for word in ["fuse.afterimage", "ro", "nosuid", "nodev", "noexec"] {
                assert!(words.contains(&word), "{word} in {line}");
            }
            assert_eq!(words.contains(&"allow_other"), !flags.is_empty(), "{line}");
        }
    });
}

#[test]
fn a_bad_place_is_refused_and_left_as_it_was() {
    within(60, |sand| {
        let _ = with_a_backup(sand);
        let before = sand.objects();
        fs::create_dir(sand.at("full")).expect("make a folder");
        fs::write(sand.at("full/letter"), b"dear").expect("write");
        let _ = sand.ends(4, &["mount", "full"]).saying("not empty");
        let _ = sand.ends(1, &["mount", "nowhere"]).saying("nowhere");
        let _ = sand.ends(1, &["mount", "disk.img"]);
        fs::create_dir(sand.repo().join("here")).expect("make a folder");
        let _ = sand.ends(4, &["mount", "repo/here"]).saying("inside");
        fs::remove_dir(sand.repo().join("here")).expect("drop the folder");
        assert_eq!(run_tool("mount", &["-t", "tmpfs", "none", &sand.at("full")]).code(), Some(0));
        let _ = sand.ends(4, &["mount", "full"]).saying("tmpfs");
        let _ = sand.ends(4, &["umount", "full"]).saying("none of ours");
        assert_eq!(run_tool("umount", &[&sand.at("full")]).code(), Some(0));
        assert_eq!(fs::read(sand.at("full/letter")).expect("read"), b"dear");
        assert_eq!(sand.objects(), before);
        let _ = sand.ends(1, &["-r", "no-repository", "mount", "mnt"]);
    });
}

#[test]
fn a_second_mount_at_the_same_place_is_refused_and_one_elsewhere_is_not() {
    within(60, |sand| {
        let _ = with_a_backup(sand);
        let first = Mounted::new(sand);
        let _ = sand.ends(4, &["mount", "mnt"]).saying("mounted already");
        let second = Mounted::with(sand, "other", &[]);
        let ids = |mounted: &Mounted<'_>| fs::read_dir(mounted.path("ids")).expect("list").count();
        assert_eq!((ids(&first), ids(&second)), (1, 1));
        let all = sand.done(&["stats", "--json"]).json();
        // Who runs the tests may have others.
        let ours = |one: &&Value| one["pid"] == first.pid || one["pid"] == second.pid;
        assert_eq!(all.as_array().map(|all| all.iter().filter(ours).count()), Some(2), "{all}");
    });
}

#[test]
fn f4_a_second_signal_while_a_mount_ends_leaves_no_dead_one() {
    within(60, |sand| {
        let _ = with_a_backup(sand);
        let mounted = Mounted::new(sand);
        // In use, it takes its time to end.
        let open = File::open(mounted.image("web01")).expect("open");
        for signal in ["HUP", "TERM", "INT"] {
            mounted.kill(signal);
        }
        eventually("its process has ended", || !mounted.lives());
        assert!(!mounted.is_there());
        drop(open);
    });
}

#[test]
fn a_mountpoint_whose_name_is_no_text_breaks_nobodys_figures() {
    within(60, |sand| {
        let bytes = with_a_backup(sand);
        let at = sand.root().join(OsStr::from_bytes(b"caf\xe9"));
        fs::create_dir(&at).expect("make a directory");
        let call = |verb: &str| {
            let mut call = sand.command(&["--json", verb]);
            let _ = call.arg(&at);
            run(call, Duration::from_secs(30)).expect_code(0).json()
        };
        let _ = call("mount");
        assert!(fs::read(at.join("volumes/web01/latest/disk.img")).expect("read") == bytes);
        let all = sand.done(&["stats", "--json"]).json();
        let is_it = |one: &Value| one["mountpoint"].as_str().is_some_and(|text| text.contains("caf"));
        assert!(all.as_array().is_some_and(|all| all.iter().any(is_it)), "{all}");
        assert_eq!(call("umount")["ended"], "cleanly");
    });
}

#[test]
fn f4_a_mount_that_nohup_has_made_outlives_the_hangup_and_no_other_signal() {
    within(60, |sand| {
        let bytes = with_a_backup(sand);
        let mounted = Mounted::by_nohup(sand);
        mounted.kill("HUP");
        // Who hears it is told of it before of the next one.
        std::thread::sleep(Duration::from_millis(300));
        assert!(fs::read(mounted.image("web01")).expect("read") == bytes && mounted.lives());
        mounted.kill("TERM");
        eventually("its process has ended", || !mounted.lives());
        assert!(!mounted.is_there());
    });
}

#[test]
fn f3_after_a_kill_readers_get_errors_and_the_next_mount_takes_its_place() {
    within(60, |sand| {
        let bytes = with_a_backup(sand);
        let first = Mounted::new(sand);
        let open = File::open(first.image("web01")).expect("open");
        first.kill("KILL");
        eventually("its process has ended", || !first.lives());
        assert_eq!(errno(open.read_at(&mut [0; 512], MIB)), 107, "not connected");
        drop(open);
        let second = Mounted::new(sand);
        assert!(fs::read(second.image("web01")).expect("read") == bytes);
        assert_eq!(mounts().iter().filter(|(at, _)| *at == second.at).count(), 1);
        assert_eq!(second.stats()["pid"], second.pid, "its socket took the place of the dead one's");
    });
}

#[test]
fn f3_a_dead_mount_is_cleared_by_umount() {
    within(60, |sand| {
        let _ = with_a_backup(sand);
        let mounted = Mounted::new(sand);
        mounted.kill("KILL");
        eventually("its process has ended", || !mounted.lives());
        assert!(mounted.is_there());
        let _ = sand.done(&["umount", "mnt"]).saying("its process had gone");
        assert!(!mounted.is_there());
    });
}

#[test]
fn in_the_foreground_it_says_where_it_is_mounted_and_ends_with_code_0() {
    within(60, |sand| {
        let _ = with_a_backup(sand);
        fs::create_dir(sand.at("mnt")).expect("make a mountpoint");
        let running = Running::start(sand.command(&["mount", "--foreground", "mnt"]));
        let at = sand.at("mnt");
        eventually("it is mounted", || Path::new(&at).join("volumes/web01").exists());
        let _ = sand.done(&["umount", "mnt"]);
        let output = running.wait(Duration::from_secs(10)).expect_code(0);
        assert!(output.text().contains(&at), "{output}");
    });
}

#[test]
fn x9_a_password_reaches_the_background_and_nobody_else() {
    within(60, |sand| {
        let sand = &Sandbox::under(sand.root());
        fs::write(sand.at("pw"), "correct horse battery\n").expect("write");
        fs::write(sand.at("wrong"), "incorrect horse\n").expect("write");
        let password = sand.at("pw");
        let _ = sand.done(&["init", "--password-file", &password]);
        let image = file(sand, "disk.img", &mixed(4, MIB));
        let _ = sand.backup_with("web01", &[&image], &["--password-file", &password]);
        fs::create_dir(sand.at("mnt")).expect("make a mountpoint");
        let _ = sand.ends(1, &["mount", "mnt", "--password-file", &sand.at("wrong")]).saying("password");
        let mounted = Mounted::with(sand, "mnt", &["--password-file", &password]);
        assert!(fs::read(mounted.image("web01")).expect("read") == mixed(4, MIB));
        for place in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{}/{place}", mounted.pid)).expect("read");
            assert!(!String::from_utf8_lossy(&bytes).contains("correct horse"), "in {place}");
        }
    });
}

#[test]
fn stats_say_what_was_read_in_words_json_and_for_prometheus() {
    within(60, |sand| {
        let _ = with_a_backup(sand);
        let mounted = Mounted::new(sand);
        let _ = fs::read(mounted.image("web01")).expect("read");
        let stats = mounted.stats();
        // A kernel that is short of memory asks for a page twice.
        let read = stats["mount"]["read_bytes"].as_u64().expect("a number");
        assert!((4 * MIB..5 * MIB).contains(&read), "{stats}");
        assert!(stats["operations"]["read"]["count"].as_u64() > Some(0), "{stats}");
        assert!(stats["image"]["ahead_used_bytes"].as_u64() > Some(0), "{stats}");
        let words = sand.done(&["stats", "mnt"]);
        assert!(words.text().contains(" MiB in") && words.text().contains("read-ahead"), "{words}");
        let text = sand.done(&["stats", "mnt", "--prometheus"]);
        let line =
            format!("afterimage_mount_read_bytes_total{{mountpoint=\"{}\"}} {read}", mounted.at.display());
        assert!(text.text().lines().any(|found| found == line), "{text}");
        let _ = sand.ends(1, &["stats", "repo"]).saying("nothing of yours is mounted");
    });
}
