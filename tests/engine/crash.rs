//! A: power cuts, full disks and failed syncs, on the simulated disk; and P2, runs that are stopped in the middle.

use crate::fixture::{Bench, CHUNK, chunks, job, noise, wait};
use crate::random::Random;
use afterimage::error::{Kind, Result};
use afterimage::format::record::Record;
use afterimage::progress::Cancel;
use afterimage::source::fake::Fake;
use afterimage::source::{Facts, Piece, Source};
use afterimage::store::fault::{Harm, When};
use afterimage::store::local::sim::SimDisk;
use afterimage::store::{Fault, LocalStore, Name, Store, Verb, list_all};
use rustix::io::Errno;
use std::sync::Arc;

/// At most so many crash states are gone through in one test; of more, chance picks.
const STATES_MAX: usize = 250;

fn on(disk: &SimDisk) -> Bench {
    Bench::on(Arc::new(LocalStore::on(disk.root(), "/sim").unwrap()))
}

fn first() -> Vec<u8> {
    chunks(1, 6)
}

fn second() -> Vec<u8> {
    let mut bytes = first();
    bytes[CHUNK..2 * CHUNK].copy_from_slice(&chunks(2, 1));
    bytes
}

/// A disk on which all is durable: after `init`, and as many backups.
fn disk_with(backups: &[Vec<u8>]) -> SimDisk {
    let disk = SimDisk::new();
    on(&disk).init().unwrap();
    for bytes in backups {
        let _made = on(&disk).backup("disk", Fake::of(bytes.clone())).unwrap();
    }
    copy(&disk)
}

/// The disk after a power cut: the same, when all of it is durable.
fn copy(disk: &SimDisk) -> SimDisk {
    let mut crashes = disk.crashes();
    assert_eq!(crashes.len(), 1, "something was reported done before it was durable");
    crashes.remove(0)
}

fn some(mut states: Vec<SimDisk>) -> Vec<SimDisk> {
    let mut dice = Random::new();
    println!("{} crash states", states.len());
    while states.len() > STATES_MAX {
        drop(states.swap_remove(dice.below(states.len() as u64) as usize));
    }
    states
}

/// After a crash: what is listed is whole, at least the backups that were reported done are, and the next backup completes.
fn survives(crashed: &SimDisk, done: &[Vec<u8>], doing: &[u8]) -> usize {
    let bench = on(crashed);
    let listed = bench.list();
    assert!(listed.len() == done.len() || listed.len() == done.len() + 1);
    for (number, record) in listed.iter().enumerate() {
        let wanted = done.get(number).map_or(doing, Vec::as_slice);
        assert!(bench.read(record).unwrap() == wanted, "backup {number}");
    }
    let report = bench.check().unwrap();
    assert_eq!(report.backups_ok, listed.len() as u64, "{:#?}", report.damaged);
    assert!(report.damaged.is_empty(), "{:#?}", report.damaged);
    let next = bench.backup("disk", Fake::of(doing)).unwrap();
    assert!(bench.read(&next).unwrap() == doing);
    assert_eq!(on(crashed).list().len(), listed.len() + 1);
    listed.len()
}

#[test]
fn a1_a_power_cut_at_any_moment_of_the_first_backup_leaves_it_whole_or_unlisted() {
    crashes_during_a_backup(&[], &first());
}

#[test]
fn a2_a_power_cut_at_any_moment_of_the_second_backup_leaves_the_first_byte_equal() {
    crashes_during_a_backup(&[first()], &second());
}

fn crashes_during_a_backup(done: &[Vec<u8>], doing: &[u8]) {
    let disk = disk_with(done);
    disk.watch();
    let _made = on(&disk).backup("disk", Fake::of(doing)).unwrap();
    let before = some(disk.crashes_before_now());
    let there = before.iter().filter(|crashed| survives(crashed, done, doing) > done.len()).count();
    assert!(there < before.len(), "no state is from before the end");
    for crashed in disk.crashes() {
        assert_eq!(survives(&crashed, done, doing), done.len() + 1, "lost after it was reported done");
    }
}

#[test]
fn a3_a_power_cut_at_any_moment_of_init_leaves_a_repository_or_room_for_one() {
    let disk = SimDisk::new();
    disk.watch();
    on(&disk).init().unwrap();
    let mut made = 0;
    for crashed in some(disk.crashes_before_now()) {
        match on(&crashed).repository() {
            Ok(_) => made += 1,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Missing, "{error}");
                on(&crashed).init().unwrap();
            }
        }
        assert_eq!(on(&crashed).init().unwrap_err().kind(), Kind::Refused);
        assert_eq!(survives(&crashed, &[], &first()), 0);
    }
    println!("{made} of them were repositories");
    assert!(disk.crashes().iter().all(|crashed| on(crashed).repository().is_ok()));
}

#[test]
fn a6_what_a_crash_left_of_a_pack_is_not_listed_not_blamed_and_never_built_upon() {
    let disk = disk_with(&[]);
    let bench = on(&disk);
    let torn = noise(1, 3 * CHUNK);
    let made = bench.backup("lost", Fake::of(torn.clone())).unwrap();
    let pack = afterimage::repo::names::pack(made.items[0].root().place.pack).unwrap();
    for (what, bytes) in [("empty", Vec::new()), ("of zeros", vec![0; 9000]), ("torn", noise(9, 50))] {
        let copied = Bench::on(copy_of(&bench, &pack, &bytes));
        assert!(copied.list().is_empty());
        let report = copied.check().unwrap();
        assert!(report.damaged.iter().all(|one| one.backup.is_none()), "{what}");
        assert!(
            report.damaged.iter().any(|one| one.object == pack.as_str()),
            "{what}: {:#?}",
            report.damaged
        );
        let again = copied.backup("disk", Fake::of(torn.clone())).unwrap();
        assert!(copied.read(&again).unwrap() == torn, "a pack that is {what} was built upon");
    }
}

/// The objects of a repository that was cut off before its index and record, and with other bytes for one.
fn copy_of(bench: &Bench, other: &Name, bytes: &[u8]) -> Arc<dyn Store> {
    let store = Arc::new(afterimage::store::MemStore::new());
    for listed in wait(list_all(&*bench.store, "")).unwrap() {
        if listed.name.as_str().starts_with("backups/") || listed.name.as_str().starts_with("index/") {
            continue;
        }
        let bytes = if listed.name == *other { bytes.to_vec() } else { bench.bytes(&listed.name) };
        wait(store.put(&listed.name, bytes.into())).unwrap();
    }
    store
}

/// Backs up with the first, second, ... call to the disk failing, until none does.
fn fail_each_call(errno: Errno, judge: impl Fn(&SimDisk, &Result<Record>, &str)) {
    let base = disk_with(&[first()]);
    for nth in 1.. {
        let disk = copy(&base);
        let bench = on(&disk);
        disk.fail_at(nth, errno);
        let outcome = bench.backup("disk", Fake::of(second()));
        if disk.disarm() {
            let _made = outcome.unwrap();
            assert!(nth > 20, "a backup takes more than {nth} calls");
            return;
        }
        let what = format!("call {nth} fails with {errno}");
        judge(&disk, &outcome, &what);
        let listed = on(&disk).list();
        assert_eq!(listed.len(), if outcome.is_ok() { 2 } else { listed.len().clamp(1, 2) }, "{what}");
        let again =
            on(&disk).backup("disk", Fake::of(second())).unwrap_or_else(|error| panic!("{what}: {error}"));
        for crashed in disk.crashes().iter().take(3) {
            let bench = on(crashed);
            assert!(bench.read(&listed[0]).unwrap() == first(), "{what}");
            assert!(bench.read(&again).unwrap() == second(), "{what}");
            bench.is_sound();
        }
    }
}

#[test]
fn a7_a_disk_that_is_full_at_any_call_fails_the_run_as_full_and_leaves_no_partial_record() {
    fail_each_call(Errno::NOSPC, |disk, outcome, what| {
        if let Err(error) = outcome {
            assert_eq!(error.kind(), Kind::Full, "{what}: {error}");
            assert!(disk.files().iter().all(|path| !path.contains(".tmp-")), "{what}: {:?}", disk.files());
        }
    });
}

#[test]
fn a8_a_sync_that_fails_once_fails_the_run_and_the_next_run_stores_what_was_lost() {
    fail_each_call(Errno::IO, |disk, outcome, what| {
        assert!(!disk.failed_a_sync() || outcome.is_err(), "{what}: done was said after a failed sync");
    });
}

#[test]
fn a7_a_disk_with_room_for_a_part_only_fails_as_full_and_keeps_what_was_there() {
    let base = disk_with(&[first()]);
    for room in (0..4000).step_by(97) {
        let disk = copy(&base);
        disk.leave_room(Some(room));
        let outcome = on(&disk).backup("disk", Fake::of(second()));
        disk.leave_room(None);
        match outcome {
            Ok(record) => assert!(on(&disk).read(&record).unwrap() == second()),
            Err(error) => assert_eq!(error.kind(), Kind::Full, "{room}: {error}"),
        }
        assert!(on(&disk).read(&on(&disk).list()[0]).unwrap() == first());
        on(&disk).is_sound();
    }
}

/// A source that has the run stopped when it is read at an offset.
struct Tripwire {
    inner: Fake,
    at: u64,
    cancel: Cancel,
}

impl Source for Tripwire {
    fn facts(&self) -> &Facts {
        self.inner.facts()
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        if at >= self.at {
            self.cancel.stop();
        }
        self.inner.next(at, buf)
    }

    fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }
}

#[test]
fn p2_a_run_that_is_stopped_anywhere_lists_nothing_and_the_next_stores_only_what_is_missing() {
    let size = 76u64 << 20;
    let bytes = noise(1, size as usize);
    let (bench, _) = Bench::in_memory();
    let mut stored_before = 0;
    for at in [0, 1 << 20, 50 << 20, 75 << 20, size] {
        let cancel = Cancel::default();
        let source = Tripwire { inner: Fake::of(bytes.clone()), at, cancel: cancel.clone() };
        let error = bench.run_until(job("disk", source), &cancel).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted, "{at}: {error}");
        assert!(bench.list().is_empty());
        let stored: u64 =
            wait(list_all(&*bench.store, "packs/")).unwrap().iter().map(|one| one.stat.len).sum();
        assert!(stored >= stored_before && stored < size + size / 50, "{at}: {stored} bytes are stored");
        stored_before = stored;
    }
    assert!(stored_before > 30 << 20, "a full pack that was sent off is kept: {stored_before}");
    let done = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
    assert!(
        done.stats.bytes_new + stored_before < size + size / 50,
        "{:?} after {stored_before}",
        done.stats
    );
    assert!(done.stats.bytes_stored < done.stats.bytes_new + size / 50, "{:?}", done.stats);
    assert!(bench.read(&done).unwrap() == bytes);
    bench.is_sound();
}

#[test]
fn p2_a_writer_that_dies_between_packs_index_and_record_loses_no_work() {
    for under in ["index/", "backups/"] {
        let (truth, store) = Bench::in_memory();
        let fault = Arc::new(Fault::new(store, 1));
        fault.plan_under(Verb::Put, under, When::From(1), Harm::Fails(Kind::Denied));
        let bytes = noise(1, 2 << 20);
        let error = truth.through(fault.clone()).backup("disk", Fake::of(bytes.clone())).unwrap_err();
        assert!(error.to_string().contains(under), "{error}");
        assert!(truth.list().is_empty());
        for bench in [truth.elsewhere(), truth.through(truth.store.clone())] {
            let record = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
            assert_eq!((record.stats.bytes_new, record.stats.bytes_stored), (0, 0), "behind {under}");
            assert!(bench.read(&record).unwrap() == bytes);
        }
        truth.is_sound();
    }
}
