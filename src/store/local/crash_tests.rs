//! Puts and deletes on the simulated disk (harness D): every crash state of every moment, and every call failing once.

use super::LocalStore;
use super::sim::SimDisk;
use crate::error::{Kind, Result};
use crate::store::{Body, Name, Store, at_once};
use bytes::Bytes;
use rustix::io::Errno;
use std::time::Duration;

const BODY: &[u8] = b"what is to survive";

/// What stands in the store before the put that is looked at.
const BEFORE: [(&str, &[&str]); 4] = [
    ("the first object of a store", &[]),
    ("the first object of a folder beside another", &["packs/00/earlier"]),
    ("the second object of a folder", &["packs/3f/earlier"]),
    ("an object in the root's sight", &["earlier", "index/earlier"]),
];

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn store(disk: &SimDisk) -> LocalStore {
    LocalStore::on(disk.root(), "/sim").unwrap()
}

fn put(store: &LocalStore, text: &str, bytes: &'static [u8]) -> Result<()> {
    at_once(store.put(&name(text), Body { parts: bytes.chunks(7).map(Bytes::from_static).collect() }))
}

fn read(store: &LocalStore, text: &str) -> Option<Bytes> {
    match at_once(store.get_whole(&name(text), 1000)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == Kind::Missing => None,
        Err(error) => panic!("{error}"),
    }
}

fn listed(store: &LocalStore) -> Vec<String> {
    let page = at_once(store.list("", None)).unwrap();
    page.into_iter().map(|listed| listed.name.to_string()).collect()
}

/// A disk on which `earlier` objects were put and reported done.
fn disk_with(earlier: &[&str]) -> SimDisk {
    let disk = SimDisk::new();
    let store = store(&disk);
    earlier.iter().for_each(|text| put(&store, text, b"earlier").unwrap());
    disk
}

/// After a crash: what was reported done is there, `text` is whole or absent, is listed when it is there, and can be put again.
/// Says whether it was there.
fn survives(crashed: &SimDisk, earlier: &[&str], text: &str, what: &str) -> bool {
    let store = store(crashed);
    for earlier in earlier {
        assert_eq!(read(&store, earlier).as_deref(), Some(&b"earlier"[..]), "{what}: {earlier}");
    }
    let found = read(&store, text);
    assert!(found.is_none() || found.as_deref() == Some(BODY), "{what}: {found:?}");
    let mut expected: Vec<&str> = earlier.iter().copied().chain(found.is_some().then_some(text)).collect();
    expected.sort_unstable();
    assert_eq!(listed(&store), expected, "{what}");
    put(&store, text, BODY).unwrap_or_else(|error| panic!("{what}: put again: {error}"));
    assert_eq!(read(&store, text).as_deref(), Some(BODY), "{what}");
    found.is_some()
}

#[test]
fn a1_a5_a_put_is_absent_or_whole_after_any_crash_and_there_once_it_was_reported_done() {
    for (what, earlier) in BEFORE {
        let disk = disk_with(earlier);
        let writer = store(&disk);
        disk.watch();
        put(&writer, "packs/3f/new", BODY).unwrap();
        let before = disk.crashes_before_now();
        let there = before.iter().filter(|crashed| survives(crashed, earlier, "packs/3f/new", what)).count();
        assert!(
            0 < there && there < before.len(),
            "{what}: {there} of {} states were looked at",
            before.len()
        );
        for crashed in disk.crashes() {
            assert!(
                survives(&crashed, earlier, "packs/3f/new", what),
                "{what}: lost after it was reported done"
            );
        }
    }
}

#[test]
fn a6_what_a_crash_left_unfinished_is_never_listed_and_is_swept() {
    let disk = disk_with(&["packs/3f/earlier"]);
    let writer = store(&disk);
    disk.watch();
    put(&writer, "packs/3f/new", BODY).unwrap();
    let mut left_behind = 0;
    for crashed in disk.crashes_before_now() {
        let store = store(&crashed);
        let temps = crashed.files().into_iter().filter(|path| path.contains(".tmp-")).count() as u64;
        assert!(listed(&store).iter().all(|name| !name.contains("tmp")));
        assert_eq!(sweep(&store, Duration::from_secs(3600)), 0, "a young file may have a writer");
        crashed.advance(Duration::from_secs(3600));
        assert_eq!(sweep(&store, Duration::from_secs(3600)), temps);
        assert_eq!(crashed.files(), listed(&store), "nothing but objects is left");
        left_behind += temps;
    }
    assert!(left_behind > 0, "no crash left anything to sweep");
}

fn sweep(store: &LocalStore, older_than: Duration) -> u64 {
    at_once(Box::pin(store.sweep(older_than))).unwrap()
}

#[test]
fn a5_a_delete_that_was_reported_done_stays_done() {
    let disk = disk_with(&["index/a", "index/b"]);
    at_once(store(&disk).delete(&name("index/a"))).unwrap();
    for crashed in disk.crashes() {
        assert_eq!(listed(&store(&crashed)), ["index/b"]);
    }
}

#[test]
fn a5_a_delete_that_a_killed_process_left_unsynced_is_made_to_stay_by_the_next() {
    let disk = disk_with(&["index/a"]);
    disk.root().folder("index").unwrap().remove("a").unwrap();
    assert!(disk.crashes().iter().any(|crashed| listed(&store(crashed)) == ["index/a"]));
    at_once(store(&disk).delete(&name("index/a"))).unwrap();
    assert!(disk.crashes().iter().all(|crashed| listed(&store(crashed)).is_empty()));
}

#[test]
fn a5_a_folder_that_somebody_removed_is_made_and_made_durable_anew() {
    let disk = disk_with(&[]);
    let writer = store(&disk);
    put(&writer, "index/a", BODY).unwrap();
    disk.take_away("index");
    put(&writer, "index/a", BODY).unwrap();
    for crashed in disk.crashes() {
        assert!(survives(&crashed, &[], "index/a", "in a folder that was gone"));
    }
}

#[test]
fn a9_the_same_bytes_again_are_success_and_are_made_durable_whoever_wrote_them() {
    let disk = SimDisk::new();
    disk.root().make_folder("index").unwrap();
    let file = disk.root().folder("index").unwrap().create("a").unwrap();
    assert_eq!(file.write(&[std::io::IoSlice::new(BODY)], 0), Ok(BODY.len()));
    assert!(disk.crashes().iter().any(|crashed| crashed.files().is_empty()));
    put(&store(&disk), "index/a", BODY).unwrap();
    for crashed in disk.crashes() {
        assert!(survives(&crashed, &[], "index/a", "copied in by somebody else"));
    }
    assert!(disk.files().iter().all(|path| path == "index/a"), "{:?}", disk.files());
}

#[test]
fn a9_other_bytes_of_the_same_name_are_refused_and_both_are_named() {
    let disk = disk_with(&["index/a"]);
    let error = put(&store(&disk), "index/a", BODY).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let words = error.to_string();
    assert!(words.contains("put index/a: /sim/index/a is there already"), "{words}");
    assert_eq!(disk.files(), ["index/a"]);
    assert_eq!(read(&store(&disk), "index/a").unwrap(), "earlier");
}

/// Makes the first, second, ... call of a put fail until one goes through untouched, and judges what each left.
fn fail_each_call(errno: Errno, judge: impl Fn(&SimDisk, &LocalStore, &Result<()>, &str)) {
    for (what, earlier) in BEFORE {
        for nth in 1.. {
            let disk = disk_with(earlier);
            let writer = store(&disk);
            disk.fail_at(nth, errno);
            let result = put(&writer, "packs/3f/new", BODY);
            if disk.disarm() {
                result.unwrap();
                assert!(nth > 5, "a put takes more than {nth} calls");
                break;
            }
            let what = format!("{what}, call {nth}");
            judge(&disk, &writer, &result, &what);
            for crashed in disk.crashes() {
                let there = survives(&crashed, earlier, "packs/3f/new", &what);
                assert!(there || result.is_err(), "{what}: lost after it was reported done");
            }
        }
    }
}

#[test]
fn a7_a_full_disk_at_any_call_is_a_full_store_and_leaves_no_temp() {
    fail_each_call(Errno::NOSPC, |disk, writer, result, what| {
        let error = result.as_ref().unwrap_err();
        assert_eq!(error.kind(), Kind::Full, "{what}: {error}");
        assert!(error.to_string().contains("/sim"), "{what}: {error}");
        assert!(disk.files().iter().all(|path| !path.contains(".tmp-")), "{what}: {:?}", disk.files());
        if !disk.failed_a_sync() {
            put(writer, "packs/3f/new", BODY).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    });
}

#[test]
fn a7_a_disk_with_room_for_a_part_takes_all_or_nothing() {
    for room in 0..=BODY.len() as u64 {
        let disk = disk_with(&["packs/3f/earlier"]);
        disk.leave_room(Some(room));
        let result = put(&store(&disk), "packs/3f/new", BODY);
        assert_eq!(result.is_ok(), room == BODY.len() as u64, "{room}");
        assert!(result.is_ok() || disk.files() == ["packs/3f/earlier"], "{room}: {:?}", disk.files());
        assert!(result.err().is_none_or(|error| error.kind() == Kind::Full), "{room}");
        disk.leave_room(None);
        put(&store(&disk), "packs/3f/new", BODY).unwrap();
    }
}

#[test]
fn a8_after_a_failed_sync_the_handle_writes_no_more_and_asks_for_no_sync() {
    fail_each_call(Errno::IO, |disk, writer, result, what| {
        let error = result.as_ref().unwrap_err();
        if !disk.failed_a_sync() {
            put(writer, "packs/3f/new", BODY).unwrap_or_else(|error| panic!("{what}: {error}"));
            return;
        }
        assert_eq!(error.kind(), Kind::Unsynced, "{what}: {error}");
        let (syncs, files) = (disk.syncs(), disk.files());
        for text in ["packs/3f/new", "packs/3f/other", "a"] {
            let refusal = put(writer, text, BODY).unwrap_err();
            assert_eq!(refusal.kind(), Kind::Unsynced, "{what}");
            assert!(
                refusal.to_string().contains("writing to /sim ended when it could not sync"),
                "{refusal}"
            );
        }
        assert_eq!(
            at_once(writer.delete(&name("packs/3f/new"))).unwrap_err().kind(),
            Kind::Unsynced,
            "{what}"
        );
        assert_eq!((disk.syncs(), disk.files()), (syncs, files), "{what}");
    });
}

#[test]
fn a8_an_object_whose_bytes_did_not_sync_is_never_published() {
    for nth in 1.. {
        let disk = disk_with(&["packs/3f/earlier"]);
        let writer = store(&disk);
        put(&writer, "packs/3f/known", b"known").unwrap();
        disk.fail_at(nth, Errno::IO);
        let result = put(&writer, "packs/3f/new", BODY);
        if disk.failed_a_sync() {
            // The first sync of a put into a known folder is that of the file.
            assert!(result.is_err());
            assert_eq!(disk.files(), ["packs/3f/earlier", "packs/3f/known"]);
            return;
        }
        assert!(!disk.disarm(), "no sync was asked for");
    }
}

#[test]
fn a10_interrupted_and_short_calls_do_not_show() {
    for piece_max in 1..=BODY.len() {
        let disk = disk_with(&["packs/3f/earlier"]);
        disk.stutter(piece_max);
        let store = store(&disk);
        put(&store, "packs/3f/new", BODY).unwrap();
        put(&store, "packs/3f/new", BODY).unwrap();
        assert_eq!(read(&store, "packs/3f/new").as_deref(), Some(BODY));
        assert_eq!(at_once(store.get(&name("packs/3f/new"), 3..11)).unwrap(), BODY[3..11]);
        assert_eq!(put(&store, "packs/3f/new", b"other").unwrap_err().kind(), Kind::Refused);
    }
}

#[test]
fn a12_a_store_that_became_read_only_reads_on_and_refuses_a_put_before_its_first_byte() {
    for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
        let disk = disk_with(&["packs/3f/earlier"]);
        let store = store(&disk);
        disk.refuse_changes(Some(errno));
        disk.leave_room(Some(0));
        for text in ["packs/3f/new", "index/new", "new"] {
            let error = put(&store, text, BODY).unwrap_err();
            assert_eq!(error.kind(), Kind::Denied, "{errno}: {error}");
            assert!(error.to_string().contains(&format!("/sim/{text}")), "{error}");
            let names_owner = error.to_string().contains("belongs to user 0 with mode 700");
            assert!(names_owner || errno == Errno::ROFS, "{error}");
        }
        assert_eq!(at_once(store.delete(&name("packs/3f/earlier"))).unwrap_err().kind(), Kind::Denied);
        assert_eq!(read(&store, "packs/3f/earlier").unwrap(), "earlier");
        assert_eq!(listed(&store), ["packs/3f/earlier"]);
        assert_eq!(disk.files(), ["packs/3f/earlier"]);
    }
}
