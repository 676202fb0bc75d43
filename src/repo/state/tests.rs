use super::*;
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

const REPOSITORY: &str = "0123456789abcdef";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn bytes_of(n: usize) -> Vec<u8> {
    (0..n * 997).map(|at| (at * 31 + n) as u8).collect()
}

fn fill(dir: &Path, count: usize) {
    let state = State::open(dir);
    assert!(state.is_kept());
    (0..count).for_each(|n| state.put_object(REPOSITORY, &format!("backups/{n}"), &bytes_of(n)));
    assert!(state.register("mount/1", &json!({"pid": 1, "at": "/mnt"})));
}

/// Every object is what was put in or not there; returns how many are there.
fn right_or_absent(state: &State, count: usize) -> usize {
    let there = (0..count).filter(|n| match state.object(REPOSITORY, &format!("backups/{n}")) {
        Some(bytes) => {
            assert_eq!(bytes, bytes_of(*n), "object {n}");
            true
        }
        None => false,
    });
    there.count()
}

/// It may have lost all, but it works.
fn works(state: &State) {
    state.put_object(REPOSITORY, "backups/new", b"new");
    assert_eq!(state.object(REPOSITORY, "backups/new").as_deref(), Some(b"new".as_slice()));
}

/// The same of one that was damaged: a call that meets damage may lose its own write, and a `sled` that hangs is asked no more.
fn works_or_is_off(state: &State) {
    let kept = (0..3).any(|_| {
        state.put_object(REPOSITORY, "backups/new", b"new");
        let there = state.object(REPOSITORY, "backups/new");
        assert!(there.as_deref().is_none_or(|there| there == b"new"), "another object's bytes");
        there.is_some() || !state.is_kept()
    });
    assert!(kept, "it is kept but keeps nothing");
}

fn database(dir: &Path) -> PathBuf {
    dir.join("state/db")
}

#[test]
fn what_was_put_in_is_there_now_and_after_the_process() {
    let dir = folder();
    fill(dir.path(), 50);
    let state = State::open(dir.path());
    assert_eq!(right_or_absent(&state, 50), 50);
    assert_eq!(state.registered("mount/1"), Some(json!({"pid": 1, "at": "/mnt"})));
    assert_eq!(state.registry().len(), 1);
    state.unregister("mount/1");
    state.remove_object(REPOSITORY, "backups/7");
    assert_eq!((state.registered("mount/1"), state.object(REPOSITORY, "backups/7")), (None, None));
    assert_eq!(state.objects(REPOSITORY).len(), 49);
    assert_eq!(state.objects("0123456789abcde"), Vec::<String>::new());
}

#[test]
fn large_objects_come_back_whole_and_a_new_one_replaces_an_old() {
    let dir = folder();
    let state = State::open(dir.path());
    for len in [0, 1, 65_536, 65_537, 3_000_000, 10] {
        let bytes = vec![len as u8; len];
        state.put_object(REPOSITORY, "catalog/1", &bytes);
        assert!(state.object(REPOSITORY, "catalog/1") == Some(bytes), "{len} bytes");
    }
    assert_eq!(state.objects(REPOSITORY), ["catalog/1"]);
    assert_eq!(state.object("another", "catalog/1"), None);
    assert_eq!(state.object(REPOSITORY, "catalog/"), None);
}

#[test]
fn objects_beyond_the_bound_push_out_the_first_ones() {
    let dir = folder();
    let state = State::bounded(dir.path(), 100_000);
    for n in 0..50 {
        state.put_object(REPOSITORY, &format!("backups/{n:02}"), &[n; 9_000]);
        if n == 20 {
            state.put_object(REPOSITORY, "backups/15", &[99; 9_000]); // made young
        }
        if n == 30 {
            assert_eq!(state.object(REPOSITORY, "backups/15"), Some(vec![99; 9_000]));
        }
    }
    let names: Vec<String> = (39..50).map(|n| format!("backups/{n}")).collect();
    assert_eq!(state.objects(REPOSITORY), names);
    state.put_object(REPOSITORY, "backups/huge", &[1; 50_000]);
    assert_eq!(state.objects(REPOSITORY), names);
}

#[test]
fn a_state_that_another_has_open_is_done_without() {
    let dir = folder();
    let first = State::open(dir.path());
    works(&first);
    let second = State::open(dir.path());
    let began = Instant::now();
    second.put_object(REPOSITORY, "backups/1", b"1");
    assert_eq!(second.object(REPOSITORY, "backups/new"), None);
    assert!(!second.is_kept() && !second.register("mount/2", &json!(2)) && second.registry().is_empty());
    assert!(began.elapsed() < keeper::ANSWER_TIME_MAX, "nobody waited for it");
    drop(second);
    works(&first);
    drop(first);
    assert_eq!(right_or_absent(&State::open(dir.path()), 1), 0);
    works(&State::open(dir.path()));
}

#[test]
fn a11_a_directory_that_can_not_be_written_is_done_without() {
    let dir = folder();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [file.clone(), file.join("below")] {
        let state = State::open(&place);
        state.put_object(REPOSITORY, "backups/1", b"1");
        assert_eq!((state.is_kept(), state.object(REPOSITORY, "backups/1")), (false, None));
    }
}

/// Fills a state, lets `harm` have its files, and says how many objects are left of 200.
fn left_after(harm: impl FnOnce(&Path)) -> usize {
    let dir = folder();
    fill(dir.path(), 200);
    harm(dir.path());
    let left = {
        let state = State::open(dir.path());
        let left = right_or_absent(&state, 200);
        works_or_is_off(&state);
        left
    };
    // One that hung, if only while it was closed, still has the files: then the next process gets new ones, and this one none.
    works_or_is_off(&State::open(dir.path()));
    left
}

#[test]
fn a11_a_bad_sector_in_the_middle_costs_a_rebuild_and_nothing_else() {
    // Where in its file the database has what depends on timing: somewhere in the middle it does.
    let bad_sector = |eighth: u64| {
        left_after(|dir| {
            let db = OpenOptions::new().write(true).open(database(dir)).unwrap();
            db.write_all_at(&[0; 64 << 10], db.metadata().unwrap().len() / 8 * eighth).unwrap();
        })
    };
    let left: Vec<_> = (1..8).map(bad_sector).collect();
    assert!(left.iter().any(|left| *left < 200), "no place held anything: {left:?}");
}

#[test]
fn a11_truncated_emptied_and_foreign_files_cost_a_rebuild_and_nothing_else() {
    let truncate = |dir: &Path, part: u64| {
        let db = OpenOptions::new().write(true).open(database(dir)).unwrap();
        db.set_len(db.metadata().unwrap().len() / 4 * part).unwrap();
    };
    let every_file = |dir: &Path, bytes: &[u8]| {
        for entry in fs::read_dir(dir.join("state")).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_file() {
                fs::write(entry, bytes).unwrap();
            }
        }
    };
    for part in 0..4 {
        let left = left_after(|dir| truncate(dir, part));
        println!("{part}/4 of the file: {left} of 200 objects left");
    }
    assert_eq!(left_after(|dir| every_file(dir, b"")), 0);
    assert_eq!(left_after(|dir| every_file(dir, &[0xff; 10_000])), 0);
    assert_eq!(left_after(|dir| every_file(dir, &b"#!/bin/sh\n".repeat(500))), 0);
    let replaced_by_a_file = |dir: &Path| {
        fs::remove_dir_all(dir.join("state")).unwrap();
        fs::write(dir.join("state"), "a file").unwrap();
    };
    assert_eq!(left_after(replaced_by_a_file), 0);
    assert_eq!(left_after(|dir| fs::remove_dir_all(dir.join("state")).unwrap()), 0);
}

#[test]
fn a11_any_flipped_bytes_leave_right_answers_or_none() {
    for seed in 0..12u64 {
        let left = left_after(|dir| {
            let db = OpenOptions::new().read(true).write(true).open(database(dir)).unwrap();
            let len = db.metadata().unwrap().len();
            for n in 0..8u64 {
                let at = xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed) % len;
                let mut byte = [0];
                db.read_exact_at(&mut byte, at).unwrap();
                db.write_all_at(&[byte[0] ^ (1 << (n % 8))], at).unwrap();
            }
        });
        println!("seed {seed}: {left} of 200 objects left");
    }
}

#[test]
fn a11_a_state_that_vanishes_while_it_is_open_harms_nobody() {
    let dir = folder();
    let state = State::open(dir.path());
    works(&state);
    fs::remove_dir_all(dir.path()).unwrap();
    state.put_object(REPOSITORY, "backups/1", &[1; 100_000]);
    assert!(state.object(REPOSITORY, "backups/1").is_none_or(|bytes| bytes == [1; 100_000]));
    drop(state);
    fs::create_dir_all(dir.path()).unwrap();
}

#[test]
fn a_value_under_another_key_or_with_another_byte_is_not_there() {
    let framed = frame(b"key", b"value");
    assert_eq!(unframe(b"key", &framed), Some(b"value".as_slice()));
    assert_eq!(unframe(b"yek", &framed), None);
    for at in 0..framed.len() {
        let mut bad = framed.clone();
        bad[at] ^= 1;
        assert_eq!(unframe(b"key", &bad), None);
    }
    assert_eq!(unframe(b"key", &framed[..7]), None);
}

#[test]
fn a_panic_in_the_keeper_is_told_to_nobody_and_answered_with_a_fresh_state() {
    let dir = folder();
    let state = State::open(dir.path());
    works(&state);
    assert_eq!(state.keeper.ask(|_| -> sled::Result<()> { panic!("as sled does") }), None);
    assert_eq!(state.object(REPOSITORY, "backups/new"), None);
    works(&state);
    assert!(dir.path().join("state.damaged").exists());
}
