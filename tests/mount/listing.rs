//! The directories: what is in them, in which order, under which numbers, and how they keep up.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Sandbox, tool};
use crate::world::{Mounted, eventually, within};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("list");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

fn backup_at(sand: &Sandbox, name: &str, image: &str, time: &str) -> String {
    sand.backup_with(name, &[image], &["--time", time]).id().to_owned()
}

#[test]
fn backups_stand_under_their_names_and_times_and_ids_lead_to_them() {
    within(60, |sand| {
        let image = file(sand, "disk.img", &mixed(1, 300_000));
        let second = "2026-11-20T10:32:00Z";
        let first = backup_at(sand, "web01", &image, second);
        let twin = backup_at(sand, "web01", &image, second);
        let _ = backup_at(sand, "web01", &image, "2026-11-19T23:59:59.9+01:00");
        let _ = backup_at(sand, "100%.", &image, second);
        let mounted = Mounted::new(sand);
        assert_eq!(names(&mounted.at), ["ids", "sets", "shares", "volumes"]);
        assert_eq!(names(&mounted.path("volumes")), ["100%25.", "web01"]);
        let times = ["2026-11-19T22-59-59Z", "2026-11-20T10-32-00Z", "2026-11-20T10-32-00Z-2", "latest"];
        assert_eq!(names(&mounted.path("volumes/web01")), times);
        let link = |below: &str| fs::read_link(mounted.path(below)).expect("a link");
        assert_eq!(link("volumes/web01/latest"), Path::new(times[2]));
        assert_eq!(link(&format!("ids/{first}")), PathBuf::from(format!("../volumes/web01/{}", times[1])));
        assert_eq!(link(&format!("ids/{twin}")), PathBuf::from(format!("../volumes/web01/{}", times[2])));
        assert_eq!(names(&mounted.path(&format!("ids/{first}/"))), ["backup.json", "disk.img"]);
        let meta = fs::metadata(mounted.image("web01")).expect("look");
        assert_eq!((meta.mtime(), meta.mode() & 0o7777, meta.uid()), (1_795_170_720, 0o444, 0));
        assert!(!mounted.path("volumes/web02").exists() && !mounted.path("ids/00").exists());
    });
}

fn numbers(at: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let meta = fs::symlink_metadata(at.join(&below)).expect("look");
        if meta.is_dir() {
            left.extend(names(&at.join(&below)).iter().map(|name| below.join(name)));
        }
        let _ = found.insert(below, meta.ino());
    }
    // The kernel's own number of every FUSE root.
    let _ = found.remove(Path::new(""));
    found
}

#[test]
fn inode_numbers_are_the_same_after_a_remount_and_on_another_machine() {
    within(60, |sand| {
        let image = file(sand, "disk.img", &mixed(2, 300_000));
        for name in ["web01", "web01", "db"] {
            let _ = sand.backup(name, &[&image]);
        }
        let here = numbers(&Mounted::new(sand).at);
        let different: std::collections::BTreeSet<_> = here.values().collect();
        assert_eq!((different.len(), here.len()), (here.len(), 4 + 2 + 2 + 3 * 4));
        assert_eq!(numbers(&Mounted::new(sand).at), here);
        let other = sand.other_host();
        assert_eq!(numbers(&Mounted::new(&other).at), here);
    });
}

#[test]
fn d7_new_backups_appear_and_removed_ones_go_while_open_files_stay_true() {
    within(90, |sand| {
        let bytes = mixed(3, 2 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let first = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        assert_eq!(names(&mounted.path("ids")), [first.id()]);
        let open = fs::File::open(mounted.image("web01")).expect("open");
        let second = sand.backup("web01", &[&image]);
        let third = sand.backup("db", &[&image]);
        eventually("three backups are listed", || names(&mounted.path("ids")).len() == 3);
        eventually("a new name is listed", || names(&mounted.path("volumes")) == ["db", "web01"]);
        let latest = || fs::read_link(mounted.path("volumes/web01/latest")).expect("a link");
        let of_id = |id: &str| fs::read_link(mounted.path(&format!("ids/{id}"))).expect("a link");
        eventually("the latest is the new one", || of_id(second.id()).ends_with(latest()));
        for gone in [first.id(), third.id()] {
            sand.lose(format!("backups/{gone}"));
        }
        eventually("the removed ones are gone", || names(&mounted.path("ids")) == [second.id()]);
        eventually("its name is gone", || names(&mounted.path("volumes")) == ["web01"]);
        let mut read = vec![0; bytes.len()];
        std::os::unix::fs::FileExt::read_exact_at(&open, &mut read, 0).expect("what is open stays readable");
        assert!(read == bytes);
    });
}

#[test]
fn f8_backups_of_one_second_are_listed_each_once_however_they_are_read() {
    within(240, |sand| {
        let image = file(sand, "disk.img", b"small");
        for number in 0..60 {
            let _ = backup_at(sand, "web01", &image, &format!("2026-11-20T10:{:02}:00Z", number % 7));
        }
        let mounted = Mounted::new(sand);
        let dir = mounted.path("volumes/web01");
        let listed = names(&dir);
        assert_eq!(listed.len(), 61);
        assert_eq!(listed.iter().collect::<std::collections::BTreeSet<_>>().len(), 61);
        let long = tool("ls", &["-l", dir.to_str().expect("text")]);
        assert_eq!(long.lines().count(), 62, "{long}");
        let open = fs::File::open(&dir).expect("open");
        let mut room = Vec::with_capacity(32 << 10);
        let mut listed = rustix::fs::RawDir::new(&open, room.spare_capacity_mut());
        let number_of = |path: &Path| fs::metadata(path).expect("stat").ino();
        for (name, path) in [(".", &*dir), ("..", dir.parent().expect("one above"))] {
            let entry = listed.next().expect("an entry").expect("list");
            assert_eq!(entry.file_name().to_bytes(), name.as_bytes());
            assert_eq!(entry.ino(), number_of(path), "{name}");
        }
        let found = tool("find", &[mounted.at.to_str().expect("text"), "-name", "disk.img", "-size", "5c"]);
        assert_eq!(found.lines().count(), 60);
    });
}

#[test]
fn a_long_listing_asks_the_mount_for_pages_and_not_for_each_file() {
    within(60, |sand| {
        let image = file(sand, "disk.img", &mixed(1, 10_000));
        for second in 0..20 {
            let _ = backup_at(sand, "web01", &image, &format!("2026-11-20T10:32:{second:02}Z"));
        }
        let mounted = Mounted::new(sand);
        let listed = tool("ls", &["-l", mounted.path("volumes/web01").to_str().expect("text")]);
        assert_eq!(listed.lines().count(), 22, "{listed}");
        let operations = &mounted.stats()["operations"];
        let count = |op: &str| operations[op]["count"].as_u64().expect("a number");
        let asked: u64 = ["lookup", "attr", "readdir", "opendir", "readlink"].map(count).iter().sum();
        assert!(asked < 20, "{operations}");
        // Shares have extended attributes, so the kernel asks for everybody's. A backup without a tree says that it takes neither labels nor access
        // lists, and `ls` asks for no more of them.
        assert!(count("xattr") <= 8, "{operations}");
    });
}
