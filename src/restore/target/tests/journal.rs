//! The journal: a restore that was interrupted goes on, and no other does (R6, R8).

use super::*;
use crate::restore::target::journal::{Begun, Journal};
use crate::restore::target::progress::Bound;
use crate::source::testing::Loop;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn bound(backup: &str, size: u64) -> Bound {
    Bound { backup: backup.into(), item: "disk.img".into(), root: "77aa".into(), size, target: String::new() }
}

impl Fixture {
    fn begin(&self, opened: &Opened, backup: &str) -> Result<(Journal, Begun)> {
        Journal::begin(&opened.facts, &opened.verdict, bound(backup, self.wish.size), &self.path("state"))
    }

    /// A restore that wrote and flushed the first half of `disk.img`, wrote more, and was killed.
    fn interrupted() -> (Fixture, PathBuf) {
        let fixture = Fixture::wishing(MIB);
        let path = fixture.dirty("disk.img", MIB);
        let opened = fixture.open(&path).unwrap();
        let (journal, begun) = fixture.begin(&opened, "b1").unwrap();
        assert_eq!(begun, Begun::Fresh);
        journal.add(0, MIB / 2);
        journal.flush(&*opened.target).unwrap();
        journal.add(MIB / 2, 4096);
        (fixture, path)
    }
}

#[test]
fn r8_an_interrupted_restore_goes_on_behind_what_was_flushed() {
    let (fixture, path) = Fixture::interrupted();
    let opened = fixture.open(&path).unwrap();
    let (journal, begun) = fixture.begin(&opened, "b1").unwrap();
    assert_eq!(begun, Begun::Resumed(MIB / 2));
    assert!(journal.covers(0, MIB / 2));
    assert!(!journal.covers(MIB / 2, 1), "what was not flushed is not done");
    journal.complete().unwrap();
    assert_eq!(fixture.names(), ["disk.img"]);
}

#[test]
fn r6_the_journal_marks_an_incomplete_target_from_before_the_first_byte() {
    let fixture = Fixture::wishing(MIB);
    let opened = fixture.open(&fixture.path("disk.img")).unwrap();
    let (journal, _) = fixture.begin(&opened, "b1").unwrap();
    assert_eq!(fixture.names(), ["disk.img", "disk.img.afterimage-restore"]);
    assert_eq!(journal.path().unwrap(), fixture.path("disk.img.afterimage-restore").canonicalize().unwrap());
    drop(journal);
    assert_eq!(
        fixture.names(),
        ["disk.img", "disk.img.afterimage-restore"],
        "only completing removes the mark"
    );
}

#[test]
fn r8_the_journal_of_another_restore_is_refused_and_kept() {
    let (fixture, path) = Fixture::interrupted();
    let before = std::fs::read(fixture.path("disk.img.afterimage-restore")).unwrap();
    let opened = fixture.open(&path).unwrap();
    let error = fixture.begin(&opened, "b2").unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("of backup b1"), "{error}");
    assert_eq!(std::fs::read(fixture.path("disk.img.afterimage-restore")).unwrap(), before);
}

#[test]
fn r8_a_journal_carried_to_another_target_is_refused() {
    let (fixture, path) = Fixture::interrupted();
    let other = fixture.dirty("other.img", MIB);
    let names =
        [path, other.clone()].map(|path| PathBuf::from(format!("{}.afterimage-restore", path.display())));
    std::fs::rename(&names[0], &names[1]).unwrap();
    let opened = fixture.open(&other).unwrap();
    assert_eq!(fixture.begin(&opened, "b1").unwrap_err().kind(), Kind::Refused);
}

#[test]
fn r8_a_target_that_was_made_anew_begins_from_the_start_whatever_the_journal_says() {
    let (fixture, path) = Fixture::interrupted();
    std::fs::remove_file(&path).unwrap();
    let opened = fixture.open(&path).unwrap();
    let (journal, begun) = fixture.begin(&opened, "b1").unwrap();
    assert_eq!(begun, Begun::Fresh);
    assert!(!journal.covers(0, 1));
}

#[test]
fn r8_a_file_that_took_the_place_and_number_of_the_old_one_is_not_taken_for_it() {
    for _ in 0..50 {
        let (fixture, path) = Fixture::interrupted();
        let old = std::fs::metadata(&path).unwrap().ino();
        std::fs::remove_file(&path).unwrap();
        // The birth of a file has the grain of the kernel's tick.
        std::thread::sleep(std::time::Duration::from_millis(10));
        let _ = fixture.dirty("disk.img", MIB);
        let opened = fixture.open(&path).unwrap();
        assert_eq!(fixture.begin(&opened, "b1").unwrap_err().kind(), Kind::Refused);
        if std::fs::metadata(&path).unwrap().ino() == old {
            return;
        }
    }
    println!("SKIPPED the file system of temporary files does not use inode numbers again");
}

#[test]
fn r8_a_damaged_or_doubtful_journal_means_beginning_again_and_says_why() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("checksum", |path| {
            let text = std::fs::read_to_string(path).unwrap();
            std::fs::write(path, text.replace("[[0,524288]]", "[[0,524289]]")).unwrap();
        }),
        ("not in the form", |path| std::fs::write(path, b"").unwrap()),
        ("others than its user", |path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("a link", |path| {
            let elsewhere = path.with_extension("elsewhere");
            std::fs::rename(path, &elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, path).unwrap();
        }),
    ];
    for (words, harm) in harms {
        let (fixture, path) = Fixture::interrupted();
        harm(&fixture.path("disk.img.afterimage-restore"));
        let opened = fixture.open(&path).unwrap();
        let (journal, begun) = fixture.begin(&opened, "b1").unwrap();
        assert!(matches!(&begun, Begun::Again(why) if why.contains(words)), "{words}: {begun:?}");
        assert!(!journal.covers(0, 1));
        assert_eq!(fixture.begin(&opened, "b1").unwrap().1, Begun::Fresh, "the doubtful one was replaced");
    }
}

#[test]
fn r8_a_target_whose_name_leaves_no_room_has_its_journal_in_the_state_directory() {
    let fixture = Fixture::wishing(MIB);
    let long = fixture.dirty(&"n".repeat(250), MIB);
    let opened = fixture.open(&long).unwrap();
    let (journal, _) = fixture.begin(&opened, "b1").unwrap();
    assert!(journal.path().unwrap().starts_with(fixture.path("state/restore")), "{:?}", journal.path());
    journal.add(0, 10);
    journal.flush(&*opened.target).unwrap();
    drop((journal, opened));
    let opened = fixture.open(&long).unwrap();
    assert_eq!(fixture.begin(&opened, "b1").unwrap().1, Begun::Resumed(10));
}

#[test]
fn r8_a_device_is_known_again_while_it_is_the_same_and_not_when_another_took_its_number() {
    let fixture = Fixture::wishing(MIB);
    let first = fixture.dirty("first.img", MIB);
    let Some(device) = Loop::on(&first, 512) else { return };
    let opened = fixture.open(&device.path).unwrap();
    let (journal, _) = fixture.begin(&opened, "b1").unwrap();
    assert!(journal.path().unwrap().starts_with(fixture.path("state")));
    journal.add(0, 4096);
    journal.flush(&*opened.target).unwrap();
    let fingerprint = opened.facts.fingerprint.clone();
    drop((journal, opened));
    let opened = fixture.open(&device.path).unwrap();
    assert_eq!(fixture.begin(&opened, "b1").unwrap().1, Begun::Resumed(4096));
    drop((opened, device));
    let Some(device) = Loop::on(&first, 512) else { return };
    let opened = fixture.open(&device.path).unwrap();
    assert_ne!(opened.facts.fingerprint, fingerprint);
    assert_eq!(fixture.begin(&opened, "b1").unwrap().1, Begun::Fresh);
}

#[test]
fn r8_nothing_is_written_down_when_the_sync_before_it_failed() {
    struct Broken;
    impl Target for Broken {
        fn size(&self) -> u64 {
            MIB
        }
        fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
            unreachable!("not asked")
        }
        fn zero(&self, _: u64, _: u64) -> Result<()> {
            unreachable!("not asked")
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            unreachable!("not asked")
        }
        fn run_at(&self, _: u64) -> Result<Run> {
            unreachable!("not asked")
        }
        fn sync(&self) -> Result<()> {
            Err(Error::new(Kind::Target, "the medium is gone"))
        }
        fn drop_cache(&self) -> Result<()> {
            unreachable!("not asked")
        }
        fn finish(&self) -> Result<()> {
            unreachable!("not asked")
        }
    }
    let (fixture, path) = Fixture::interrupted();
    let opened = fixture.open(&path).unwrap();
    let (journal, _) = fixture.begin(&opened, "b1").unwrap();
    journal.add(0, MIB);
    assert_eq!(journal.flush(&Broken).unwrap_err().kind(), Kind::Target);
    drop((journal, opened));
    let opened = fixture.open(&path).unwrap();
    assert_eq!(fixture.begin(&opened, "b1").unwrap().1, Begun::Resumed(MIB / 2));
}
