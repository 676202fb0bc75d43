//! B: a store that fails, hangs, lies and forgets. What comes out is the right bytes or an error, in bounded time.
//!
//! As in production, a retrying layer stands between the engine and the store.

use crate::corruption::publish_copies;
use crate::fixture::{Bench, CHUNK, chunks, image, noise, wait};
use afterimage::backup::{Job, Parent};
use afterimage::error::{Error, Kind, Result};
use afterimage::format::record::Record;
use afterimage::repo::names;
use afterimage::seal::Password;
use afterimage::source::fake::Fake;
use afterimage::store::fault::{Harm, When};
use afterimage::store::retry::Patience;
use afterimage::store::{AnyStore, Deadline, Fault, Retry, Store, Verb};
use afterimage::upkeep::Options;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Patience = Patience {
    attempts_max: 3,
    first_pause: Duration::from_millis(1),
    pause_max: Duration::from_millis(2),
    overall_time: Duration::from_secs(20),
};

/// A repository with one backup, whose store can be made to misbehave.
struct Unlucky {
    bench: Bench,
    truth: Bench,
    fault: Arc<Fault>,
    first: Record,
}

impl Unlucky {
    fn new() -> Unlucky {
        let (truth, store) = Bench::in_memory();
        let first = truth.backup("disk", Fake::of(before())).unwrap();
        let fault = Arc::new(Fault::new(store, 1));
        let retry: AnyStore = Arc::new(Retry::new(fault.clone(), PATIENCE));
        let bench = truth.elsewhere().through(retry);
        Unlucky { bench, truth, fault, first }
    }

    /// All that the engine does with a repository: backs up, lists, reads, checks. The new backup, if it was made.
    fn work(&self) -> Result<Record> {
        let record = self.bench.backup("disk", Fake::of(after()))?;
        assert!(self.bench.read(&self.first)? == before());
        assert!(self.bench.read(&record)? == after());
        let listing = wait(self.bench.repository()?.list())?;
        if listing.records.len() < 2 {
            return Err(Error::new(Kind::Missing, "list backups/: one is missing"));
        }
        let report = self.bench.check()?;
        match report.damaged.first() {
            None => Ok(record),
            Some(damage) => {
                Err(Error::new(Kind::Corrupt, format!("check {}: {}", damage.object, damage.why)))
            }
        }
    }

    /// The store behaves again: whatever is listed is whole, and the same work goes well.
    fn is_unharmed(&self, what: &str) {
        self.fault.behave();
        let listed = self.truth.list();
        assert!(listed.len() <= 2, "{what}");
        for record in &listed {
            let bytes = self.truth.read(record).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(bytes == if record.id == self.first.id { before() } else { after() }, "{what}");
        }
        self.truth.is_sound();
        let again = self.truth.elsewhere().backup("disk", Fake::of(after())).unwrap();
        assert!(self.truth.read(&again).unwrap() == after(), "{what}");
    }
}

fn before() -> Vec<u8> {
    chunks(1, 8)
}

fn after() -> Vec<u8> {
    let mut bytes = before();
    bytes[2 * CHUNK..4 * CHUNK].copy_from_slice(&chunks(2, 2));
    bytes.extend(chunks(3, 2));
    bytes
}

/// Does the work with the first, second, ... call of a verb going wrong, until none does.
fn sweep(verb: Verb, harm: Harm, judge: impl Fn(&Unlucky, Result<Record>, &str)) {
    for nth in 1.. {
        let unlucky = Unlucky::new();
        unlucky.fault.plan(verb, When::Nth(nth), harm);
        let outcome = unlucky.work();
        let what = format!("{harm:?} of {verb:?} {nth}");
        if unlucky.fault.hits() == 0 {
            let _made = outcome.unwrap();
            assert!(nth > 1 || verb == Verb::Delete, "the work makes no call of {verb:?}");
            return;
        }
        judge(&unlucky, outcome, &what);
    }
}

fn goes_well(_: &Unlucky, outcome: Result<Record>, what: &str) {
    drop(outcome.unwrap_or_else(|error| panic!("{what}: {error}")));
}

#[test]
fn b1_any_call_that_fails_once_and_may_pass_does_not_show() {
    for verb in Verb::ALL {
        sweep(verb, Harm::Transient, goes_well);
        sweep(verb, Harm::Throttled(Duration::from_millis(1)), goes_well);
    }
}

#[test]
fn b2_any_call_that_fails_for_good_ends_the_work_with_the_objects_name_or_does_not_matter() {
    for verb in Verb::ALL {
        for kind in [Kind::Denied, Kind::Missing, Kind::Corrupt, Kind::Unreachable] {
            let harm = Harm::Fails(kind);
            sweep(verb, harm, |unlucky, outcome, what| {
                if let Err(error) = outcome {
                    let words = error.to_string();
                    let named = [
                        "packs/",
                        "backups/",
                        "index/",
                        "imports/",
                        "keys/",
                        "catalog/",
                        "damaged/",
                        "afterimage.json",
                    ];
                    let not_there = kind == Kind::Missing && words.contains("is not a repository");
                    assert!(not_there || named.iter().any(|name| words.contains(name)), "{what}: {words}");
                }
                unlucky.is_unharmed(what);
            });
        }
    }
}

#[test]
fn b2_a_pack_that_is_denied_for_ever_costs_its_own_backups_only() {
    let unlucky = Unlucky::new();
    let other = unlucky.truth.backup("other", Fake::of(noise(5, 30_000))).unwrap();
    let pack = other.items[0].root().place.pack;
    let name = afterimage::repo::names::pack(pack).unwrap();
    unlucky.fault.plan_under(Verb::Get, name.as_str(), When::From(1), Harm::Fails(Kind::Denied));
    let error = unlucky.bench.read(&other).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains(name.as_str()), "{error}");
    assert!(unlucky.bench.read(&unlucky.first).unwrap() == before());
    assert_eq!(unlucky.fault.hits(), 1, "what is denied is not asked for again");
}

#[test]
fn b3_a_call_that_never_returns_ends_at_its_deadline_and_holds_up_nobody_else() {
    let unlucky = Unlucky::new();
    let other = unlucky.truth.backup("other", Fake::of(noise(5, 100_000))).unwrap();
    let engine = unlucky.truth.engine().unwrap();
    let map = crate::fixture::map(&other.items[0]);
    let afterimage::image::Stretch::Leaf(leaf) = wait(map.stretch(&engine, 0)).unwrap() else {
        panic!("a leaf")
    };
    let pack = afterimage::repo::names::pack(leaf.at(0).unwrap().child.unwrap().place.pack).unwrap();
    unlucky.fault.plan_under(Verb::Get, pack.as_str(), When::From(1), Harm::Hang);
    let deadline = Arc::new(Deadline::new(unlucky.fault.clone(), Duration::from_secs(1), 1 << 30));
    let bench = unlucky.truth.elsewhere().through(deadline);
    let engine = bench.engine().unwrap();
    let (hung, fine) = (image(&engine, &other), image(&engine, &unlucky.first));
    let began = Instant::now();
    wait(async {
        let stuck: Vec<_> = (0..20)
            .map(|n| {
                let hung = hung.clone();
                tokio::spawn(async move { hung.read_at(n * CHUNK as u64, 100).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(fine.read_at(0, 2 * CHUNK).await.unwrap() == before()[..2 * CHUNK]);
        for read in stuck {
            assert_eq!(read.await.unwrap().unwrap_err().kind(), Kind::Unreachable);
        }
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    unlucky.fault.behave();
    assert!(wait(hung.read_at(0, 100_000)).unwrap() == noise(5, 100_000), "what hung is asked for again");
}

#[test]
fn b3_any_call_of_a_backup_that_never_returns_ends_it_in_time() {
    for verb in Verb::ALL {
        for nth in 1.. {
            let unlucky = Unlucky::new();
            unlucky.fault.plan(verb, When::Nth(nth), Harm::Hang);
            let deadline = Arc::new(Deadline::new(unlucky.fault.clone(), Duration::from_millis(30), 1 << 30));
            let bench = unlucky.truth.elsewhere().through(deadline);
            let outcome = bench.backup("disk", Fake::of(after()));
            if unlucky.fault.hits() == 0 {
                let _made = outcome.unwrap();
                break;
            }
            if let Err(error) = outcome {
                assert_eq!(error.kind(), Kind::Unreachable, "{verb:?} {nth}: {error}");
            }
            unlucky.is_unharmed(&format!("{verb:?} {nth} hangs"));
        }
    }
}

const LIES: [Harm; 4] = [Harm::Short(1), Harm::Long(1), Harm::OtherObject, Harm::ErrorText];

#[test]
fn b4_any_answer_that_comes_broken_once_is_asked_for_again_and_does_not_show() {
    for verb in [Verb::Get, Verb::GetWhole] {
        for harm in LIES {
            sweep(verb, harm, goes_well);
        }
    }
}

#[test]
fn b4_answers_that_stay_broken_are_corrupt_and_never_other_bytes() {
    for (verb, under) in [(Verb::Get, "packs/"), (Verb::GetWhole, "backups/"), (Verb::GetWhole, "")] {
        for harm in LIES {
            let unlucky = Unlucky::new();
            unlucky.fault.plan_under(verb, under, When::From(1), harm);
            let read = unlucky.bench.repository().and_then(|repository| {
                let record = wait(repository.record(unlucky.first.id))?;
                unlucky.bench.read(&record)
            });
            let error = read.err().unwrap_or_else(|| panic!("{harm:?} of {verb:?} {under}: it was read"));
            assert_eq!(error.kind(), Kind::Corrupt, "{harm:?} of {verb:?} {under}: {error}");
            let _ended = unlucky.bench.backup("disk", Fake::of(after()));
            unlucky.is_unharmed(&format!("{harm:?} of {verb:?} {under}"));
        }
    }
}

#[test]
fn b5_a_put_whose_reply_is_lost_is_confirmed_and_leaves_one_object() {
    let quiet = Unlucky::new();
    let _made = quiet.work().unwrap();
    let objects = quiet.truth.names("").len();
    sweep(Verb::Put, Harm::ReplyLost, |unlucky, outcome, what| {
        goes_well(unlucky, outcome, what);
        assert_eq!(unlucky.truth.names("").len(), objects, "{what}");
    });
}

#[test]
fn b6_a_listing_that_lacks_what_is_new_costs_space_and_no_backup() {
    let unlucky = Unlucky::new();
    unlucky.fault.plan(Verb::List, When::From(1), Harm::Stale(Duration::from_secs(3600)));
    let one = unlucky.bench.backup("disk", Fake::of(after())).unwrap();
    let two = unlucky.bench.backup("disk", Fake::of(after())).unwrap();
    let repository = unlucky.bench.repository().unwrap();
    for record in [&one, &two] {
        assert_eq!(wait(repository.record(record.id)).unwrap().id, record.id, "known by its id at once");
        assert!(unlucky.bench.read(record).unwrap() == after());
    }
    assert_eq!(unlucky.bench.list().len(), 1);
    unlucky.fault.behave();
    assert_eq!(unlucky.bench.list().len(), 3);
    unlucky.truth.is_sound();
    let three = unlucky.bench.backup("disk", Fake::of(after())).unwrap();
    assert_eq!(three.stats.bytes_new, 0);
}

#[test]
fn b6_what_is_called_unchanged_is_found_in_packs_that_are_not_listed_yet() {
    let (truth, store) = Bench::in_memory();
    let fault = Arc::new(Fault::new(store, 1));
    let here = truth.through(fault.clone());
    let bytes = noise(1, 40 * CHUNK);
    let first = here.backup("disk", Fake::of(bytes.clone())).unwrap();
    fault.plan_under(Verb::List, "packs/", When::From(1), Harm::Stale(Duration::from_secs(3600)));
    fault.plan_under(Verb::List, "index/", When::From(1), Harm::Stale(Duration::from_secs(3600)));
    for bench in [&here, &truth.elsewhere().through(fault.clone())] {
        let changed = chunks(7, 1);
        let source = Fake::empty(bytes.len() as u64).with(0, changed.clone());
        let source = source.same(CHUNK as u64, (bytes.len() - CHUNK) as u64);
        let record =
            bench.run(Job { parent: Parent::Of(first.id), ..crate::fixture::job("disk", source) }).unwrap();
        assert!(truth.read(&record).unwrap() == [changed, bytes[CHUNK..].to_vec()].concat());
    }
    assert!(fault.hits() >= 4);
    truth.is_sound();
}

#[test]
fn b6_a_check_asks_for_packs_that_are_not_listed_yet() {
    let (truth, store) = Bench::in_memory();
    let fault = Arc::new(Fault::new(store, 1));
    let here = truth.through(fault.clone());
    let _record = here.backup("disk", Fake::of(noise(1, 40 * CHUNK))).unwrap();
    for folder in ["packs/", "index/"] {
        fault.plan_under(Verb::List, folder, When::From(1), Harm::Stale(Duration::from_secs(3600)));
        let report = here.check_as(&Options { read_percent: 100.0, only: Vec::new(), note: true }).unwrap();
        assert!(report.damaged.is_empty() && report.backups_ok == 1, "{report:?}");
        assert_eq!((report.packs, report.packs_read), (2, 2));
    }
    fault.behave();
    assert!(truth.names("damaged/").is_empty());
    let lost = truth.names("packs/").remove(0);
    wait(truth.store.delete(&lost)).unwrap();
    let report = here.check().unwrap();
    assert!(report.damaged.iter().any(|damage| damage.object == lost.as_str()), "{report:?}");
}

#[test]
fn b6_a_key_slot_that_is_listed_and_gone_keeps_nobody_out() {
    let (truth, store) = Bench::in_memory();
    let fault = Arc::new(Fault::new(store, 1));
    let here = truth.through(fault.clone());
    let password = Password::new(b"two keys".to_vec());
    let gone = wait(here.repository().unwrap().add_key(&password)).unwrap();
    let name = names::slot(gone).unwrap();
    fault.plan_under(Verb::GetWhole, name.as_str(), When::From(1), Harm::Fails(Kind::Missing));
    let slots = wait(here.repository().unwrap().key_slots()).unwrap();
    assert_eq!(slots.len(), 1);
    assert!(fault.hits() > 1);
}

#[test]
fn b6_b7_pages_that_repeat_turn_round_or_lose_a_name_never_end_in_other_bytes() {
    for harm in [Harm::Repeat, Harm::Reorder, Harm::Lose, Harm::Stale(Duration::from_secs(3600))] {
        for nth in 1.. {
            let unlucky = Unlucky::new();
            unlucky.fault.plan(Verb::List, When::Nth(nth), harm);
            let outcome = unlucky.bench.backup("disk", Fake::of(after()));
            if unlucky.fault.hits() == 0 {
                let _made = outcome.unwrap();
                break;
            }
            if let Ok(record) = outcome {
                assert!(unlucky.bench.read(&record).unwrap() == after(), "{harm:?} {nth}");
            }
            unlucky.is_unharmed(&format!("{harm:?} {nth}"));
        }
    }
}

#[test]
fn b10_where_nothing_may_be_deleted_backups_are_made_read_and_checked() {
    let unlucky = Unlucky::new();
    unlucky.fault.plan(Verb::Delete, When::From(1), Harm::Fails(Kind::Denied));
    let record = unlucky.work().unwrap();
    publish_copies(&unlucky.bench, &record, 70);
    let _made = unlucky.bench.backup("disk", Fake::of(before())).unwrap();
    assert_eq!(unlucky.bench.list().len(), 73);
    unlucky.bench.is_sound();
}

#[test]
fn b1_chance_failures_of_all_calls_at_once_do_not_show() {
    for seed in 0..5 {
        let (truth, store) = Bench::in_memory();
        let fault = Arc::new(Fault::new(store, seed));
        for verb in Verb::ALL {
            fault.plan(verb, When::Chance(0.15), Harm::Transient);
        }
        let patience = Patience { attempts_max: 12, ..PATIENCE };
        let store: Arc<dyn Store> = Arc::new(Retry::new(fault.clone(), patience));
        let bench = truth.elsewhere().through(store);
        for number in 0..6 {
            let bytes = noise(number / 2, 40_000);
            let record = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
            assert!(bench.read(&record).unwrap() == bytes, "seed {seed}");
        }
        assert!(fault.hits() > 5, "seed {seed}");
        truth.is_sound();
    }
}
