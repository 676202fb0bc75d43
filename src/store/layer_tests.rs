//! The layers over a store that misbehaves (harness M, time moved by hand): the cases B1 to B10 as far as a store can hold them.

use super::fault::{Fault, Harm, When};
use super::retry::{Patience, Retry};
use super::{
    AnyStore, Body, Deadline, Limit, Listed, MemStore, Name, Record, Stat, Store, Verb, at_once, list_all,
};
use crate::error::{Kind, Result};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const CALLS_MAX: usize = 2;
const ATTEMPT_TIME: Duration = Duration::from_secs(30);

/// The layers as a network's store wears them.
pub(super) fn layered(inner: AnyStore) -> AnyStore {
    let deadline = Arc::new(Deadline::new(inner, ATTEMPT_TIME, 256 * 1024));
    Arc::new(Retry::new(Arc::new(Limit::new(deadline, CALLS_MAX, None)), Patience::NETWORK))
}

/// A misbehaving store with two small packs, what counts its calls, and the layers over it.
struct House {
    mem: Arc<MemStore>,
    fault: Arc<Fault>,
    record: Arc<Record>,
    store: AnyStore,
}

impl House {
    async fn new() -> House {
        let mem = Arc::new(MemStore::new());
        for text in ["packs/a", "packs/b"] {
            mem.put(&name(text), body(text)).await.unwrap();
        }
        let fault = Arc::new(Fault::new(mem.clone(), 1));
        let record = Arc::new(Record::with_log(fault.clone()));
        House { mem, store: layered(record.clone()), fault, record }
    }

    fn calls(&self, verb: Verb) -> u64 {
        self.record.tally(verb).calls
    }

    async fn get(&self, text: &str) -> Result<Bytes> {
        self.store.get(&name(text), 0..7).await
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn body(text: &str) -> Body {
    text.as_bytes().to_vec().into()
}

fn names(listed: &[Listed]) -> Vec<&str> {
    listed.iter().map(|listed| listed.name.as_str()).collect()
}

/// One call of each verb and some more, with all that they answered.
async fn some_work(store: &dyn Store) -> Result<(Bytes, Bytes, Stat, Vec<Listed>)> {
    store.put(&name("index/a"), body("index/a")).await?;
    let part = store.get(&name("packs/a"), 2..5).await?;
    store.put(&name("index/b"), body("index/b")).await?;
    let whole = store.get_whole(&name("index/a"), 100).await?;
    let stat = store.stat(&name("index/b")).await?;
    store.delete(&name("index/b")).await?;
    let listed = list_all(store, "").await?;
    Ok((part, whole, stat, listed))
}

#[tokio::test(start_paused = true)]
async fn b1_whichever_call_fails_for_once_the_result_is_the_same() {
    let expected = some_work(&*House::new().await.mem).await.unwrap();
    for verb in Verb::ALL {
        for harm in [Harm::Transient, Harm::Throttled(Duration::from_secs(7)), Harm::Hang] {
            for nth in 1.. {
                let house = House::new().await;
                house.fault.plan(verb, When::Nth(nth), harm);
                assert_eq!(some_work(&*house.store).await.unwrap(), expected, "{verb:?} {nth} {harm:?}");
                if house.fault.hits() == 0 {
                    assert!(nth > 1, "{verb:?} was never called");
                    break;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b1_attempts_and_their_time_are_bounded_and_pauses_grow() {
    let house = House::new().await;
    house.fault.plan(Verb::Get, When::From(1), Harm::Transient);
    let begin = Instant::now();
    let error = house.get("packs/a").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("gave up after 6 attempts"), "{error}");
    assert!(error.to_string().contains("packs/a"), "{error}");
    assert_eq!(house.calls(Verb::Get), 6);
    // 0.2 + 0.4 + 0.8 + 1.6 + 3.2 seconds, each between half of it and all of it.
    let waited = begin.elapsed();
    assert!(Duration::from_millis(3100) <= waited && waited <= Duration::from_millis(6300), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn b2_what_cannot_pass_is_not_tried_again_and_spares_the_rest() {
    for kind in [Kind::Denied, Kind::Missing, Kind::Full, Kind::Refused, Kind::Unsupported] {
        for verb in [Verb::Get, Verb::Put, Verb::Delete] {
            let house = House::new().await;
            house.fault.plan_under(verb, "packs/a", When::From(1), Harm::Fails(kind));
            let begin = Instant::now();
            let error = match verb {
                Verb::Get => house.get("packs/a").await.unwrap_err(),
                Verb::Put => house.store.put(&name("packs/a"), body("packs/a")).await.unwrap_err(),
                _ => house.store.delete(&name("packs/a")).await.unwrap_err(),
            };
            assert_eq!((error.kind(), house.calls(verb)), (kind, 1));
            assert!(error.to_string().contains("packs/a"), "{error}");
            assert_eq!(begin.elapsed(), Duration::ZERO);
            assert_eq!(house.get("packs/b").await.unwrap(), "packs/b");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b3_a_store_that_never_answers_costs_each_reader_an_error_and_blocks_nobody_for_ever() {
    let house = House::new().await;
    house.fault.plan_under(Verb::Get, "packs/a", When::From(1), Harm::Hang);
    let begin = Instant::now();
    let hung = (0..4 * CALLS_MAX).map(|_| {
        let store = house.store.clone();
        tokio::spawn(async move { store.get(&name("packs/a"), 0..7).await })
    });
    for hung in hung.collect::<Vec<_>>() {
        let error = hung.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
        assert!(error.to_string().contains("no answer in 30 s"), "{error}");
    }
    assert!(begin.elapsed() <= Patience::NETWORK.overall_time, "{:?}", begin.elapsed());
    let begin = Instant::now();
    assert_eq!(house.get("packs/b").await.unwrap(), "packs/b");
    assert_eq!(begin.elapsed(), Duration::ZERO, "the calls that hung gave their turns back");
}

#[tokio::test(start_paused = true)]
async fn b3_a_store_that_drips_is_no_better_than_one_that_hangs() {
    let house = House::new().await;
    house.fault.plan(Verb::Get, When::UpTo(1), Harm::Slow(Duration::from_secs(3600)));
    let begin = Instant::now();
    assert_eq!(house.get("packs/a").await.unwrap(), "packs/a");
    assert!(begin.elapsed() < ATTEMPT_TIME + Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b3_all_attempts_together_have_a_deadline_too() {
    let house = House::new().await;
    house.fault.plan(Verb::Put, When::From(1), Harm::Throttled(Duration::from_secs(400)));
    let begin = Instant::now();
    let error = house.store.put(&name("index/a"), body("x")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("gave up after 900 s"), "{error}");
    assert_eq!(begin.elapsed(), Patience::NETWORK.overall_time);
}

#[tokio::test(start_paused = true)]
async fn b3_a_large_body_has_the_time_that_its_bytes_take() {
    let house = House::new().await;
    house.fault.plan(Verb::Put, When::From(1), Harm::Slow(Duration::from_secs(60)));
    let large = Body::from(vec![0; 16 << 20]);
    house.store.put(&name("packs/large"), large).await.unwrap();
    assert_eq!(house.calls(Verb::Put), 1);
    let error = house.store.put(&name("packs/small"), body("x")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn b4_an_answer_of_the_wrong_length_is_asked_for_once_more_and_then_corrupt() {
    for harm in [Harm::Short(1), Harm::Short(100), Harm::Long(1), Harm::ErrorText] {
        let house = House::new().await;
        house.fault.plan(Verb::Get, When::Nth(1), harm);
        assert_eq!(house.get("packs/a").await.unwrap(), "packs/a", "{harm:?}");
        assert_eq!(house.calls(Verb::Get), 2);

        house.fault.plan(Verb::Get, When::From(1), harm);
        let error = house.get("packs/b").await.unwrap_err();
        assert_eq!((error.kind(), house.calls(Verb::Get)), (Kind::Corrupt, 4), "{harm:?}: {error}");
        assert!(error.to_string().contains("packs/b"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn b4_a_whole_object_that_is_too_long_is_asked_for_once_more_and_then_corrupt() {
    let house = House::new().await;
    house.fault.plan(Verb::GetWhole, When::UpTo(1), Harm::Long(1));
    assert_eq!(house.store.get_whole(&name("packs/a"), 7).await.unwrap(), "packs/a");
    let error = house.store.get_whole(&name("packs/a"), 6).await.unwrap_err();
    assert_eq!((error.kind(), house.calls(Verb::GetWhole)), (Kind::Corrupt, 4), "{error}");
}

#[tokio::test]
async fn b4_bytes_of_another_object_have_the_right_length_and_only_a_digest_can_tell() {
    let house = House::new().await;
    house.fault.plan(Verb::Get, When::Nth(1), Harm::OtherObject);
    assert_eq!(house.get("packs/a").await.unwrap(), "packs/b");
    assert_eq!(house.get("packs/a").await.unwrap(), "packs/a");
}

#[tokio::test(start_paused = true)]
async fn b5_a_put_whose_reply_was_lost_is_put_again_and_is_one_object() {
    let house = House::new().await;
    house.fault.plan(Verb::Put, When::UpTo(3), Harm::ReplyLost);
    house.store.put(&name("index/a"), body("index/a")).await.unwrap();
    assert_eq!(house.calls(Verb::Put), 4);
    assert_eq!(names(&list_all(&*house.mem, "index/").await.unwrap()), ["index/a"]);
    house.fault.plan(Verb::Put, When::Nth(1), Harm::ReplyLost);
    let error = house.store.put(&name("index/a"), body("other")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert_eq!(house.store.get_whole(&name("index/a"), 100).await.unwrap(), "index/a");
}

#[tokio::test(start_paused = true)]
async fn b5_a_delete_whose_reply_was_lost_is_done_once_and_succeeds() {
    let house = House::new().await;
    house.fault.plan(Verb::Delete, When::Nth(1), Harm::ReplyLost);
    house.store.delete(&name("packs/a")).await.unwrap();
    assert_eq!(house.get("packs/a").await.unwrap_err().kind(), Kind::Missing);
}

#[tokio::test(start_paused = true)]
async fn b6_a_name_that_is_not_listed_yet_can_be_read_and_is_listed_later() {
    let house = House::new().await;
    house.fault.plan(Verb::List, When::From(1), Harm::Stale(Duration::from_secs(60)));
    house.store.put(&name("packs/new"), body("packs/new")).await.unwrap();
    assert_eq!(names(&list_all(&*house.store, "packs/").await.unwrap()), ["packs/a", "packs/b"]);
    assert_eq!(house.store.get_whole(&name("packs/new"), 100).await.unwrap(), "packs/new");
    assert_eq!(house.store.stat(&name("packs/new")).await.unwrap().len, 9);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(names(&list_all(&*house.store, "packs/").await.unwrap()), ["packs/a", "packs/b", "packs/new"]);
}

/// A house with more objects than a page holds, and their names.
async fn many_objects() -> (House, BTreeSet<String>) {
    let house = House::new().await;
    let names: BTreeSet<String> = (0..2500).map(|number| format!("index/{number:04}")).collect();
    for text in &names {
        house.mem.put(&name(text), Body::default()).await.unwrap();
    }
    (house, names)
}

async fn listed_set(store: &dyn Store) -> BTreeSet<String> {
    let listed = list_all(store, "index/").await.unwrap();
    assert!(listed.is_sorted_by(|a, b| a.name < b.name), "by name, each once");
    listed.into_iter().map(|listed| listed.name.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn b7_pages_that_repeat_or_come_upside_down_make_the_same_set() {
    let (house, names) = many_objects().await;
    assert_eq!(listed_set(&*house.store).await, names);
    for harm in [Harm::Repeat, Harm::Reorder] {
        for nth in 1..=4 {
            house.fault.behave();
            house.fault.plan(Verb::List, When::Nth(nth), harm);
            assert_eq!(listed_set(&*house.store).await, names, "{harm:?} of page {nth}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b7_a_name_lost_between_pages_is_one_name_less_and_no_error() {
    let (house, names) = many_objects().await;
    house.fault.plan(Verb::List, When::Nth(2), Harm::Lose);
    let listed = listed_set(&*house.store).await;
    assert!(listed.is_subset(&names));
    assert_eq!(listed.len(), names.len() - 1);
}

#[tokio::test(start_paused = true)]
async fn b7_a_listing_that_goes_round_in_a_circle_ends_in_an_error() {
    let (house, _) = many_objects().await;
    house.fault.plan(Verb::List, When::From(2), Harm::Repeat);
    let error = list_all(&*house.store, "index/").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("does not get on"), "{error}");
}

#[tokio::test]
async fn b8_an_object_that_still_shows_after_it_was_deleted_is_no_error() {
    for (readable, listed) in [(true, true), (true, false), (false, true)] {
        let house = House::new().await;
        house.fault.plan(Verb::Delete, When::Nth(1), Harm::Ghost { readable, listed });
        house.store.delete(&name("packs/a")).await.unwrap();
        assert_eq!(house.get("packs/a").await.is_ok(), readable);
        let expected: &[&str] = if listed { &["packs/a", "packs/b"] } else { &["packs/b"] };
        assert_eq!(names(&list_all(&*house.store, "packs/").await.unwrap()), expected);
        house.store.delete(&name("packs/a")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn b9_a_throttled_store_is_left_alone_for_as_long_as_it_asks_by_everybody() {
    const PAUSE: Duration = Duration::from_secs(20);
    for calls_max in [1, 4] {
        let house = House::new().await;
        let limit = Arc::new(Limit::new(house.record.clone(), calls_max, None));
        let store: AnyStore = Arc::new(Retry::new(limit, Patience::NETWORK));
        house.fault.plan(Verb::Get, When::Nth(1), Harm::Throttled(PAUSE));
        let readers = (0..20).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.get(&name("packs/a"), 0..7).await.map(|_| Instant::now()) })
        });
        let begin = Instant::now();
        let mut early = 0;
        for reader in readers.collect::<Vec<_>>() {
            early += usize::from(reader.await.unwrap().unwrap() - begin < PAUSE);
        }
        assert!(early < calls_max, "{early} calls were made in spite of the pause, {calls_max} at a time");
        assert!(begin.elapsed() < PAUSE + Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!(house.calls(Verb::Get), 21, "one call was wasted");
    }
}

#[tokio::test(start_paused = true)]
async fn b9_no_more_calls_are_under_way_than_the_limit_allows() {
    let house = House::new().await;
    house.fault.plan(Verb::Get, When::From(1), Harm::Slow(Duration::from_secs(10)));
    let limit: AnyStore = Arc::new(Limit::new(house.fault.clone(), 3, None));
    let begin = Instant::now();
    let readers = (0..9).map(|_| {
        let limit = limit.clone();
        tokio::spawn(async move { limit.get(&name("packs/a"), 0..7).await })
    });
    for reader in readers.collect::<Vec<_>>() {
        drop(reader.await.unwrap().unwrap());
    }
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn no_more_bytes_move_than_the_limit_allows() {
    let limit = Limit::new(Arc::new(MemStore::new()), 8, Some(1000));
    let begin = Instant::now();
    limit.put(&name("packs/a"), Body::from(vec![0; 5000])).await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 0, "the first is not kept waiting");
    drop(limit.get(&name("packs/a"), 0..2000).await.unwrap());
    assert_eq!(begin.elapsed().as_secs(), 5);
    assert_eq!(limit.stat(&name("packs/a")).await.unwrap().len, 5000);
    drop(limit.get_whole(&name("packs/a"), 5000).await.unwrap());
    drop(limit.get(&name("packs/a"), 0..1).await.unwrap());
    assert_eq!(begin.elapsed().as_secs(), 12);
}

#[tokio::test]
async fn b10_a_store_that_lets_nobody_delete_keeps_everything_and_is_written_and_read_as_before() {
    let house = House::new().await;
    house.fault.plan(Verb::Delete, When::From(1), Harm::Fails(Kind::Denied));
    house.store.put(&name("packs/c"), body("packs/c")).await.unwrap();
    assert_eq!(house.store.delete(&name("packs/c")).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(house.get("packs/c").await.unwrap(), "packs/c");
    assert_eq!(list_all(&*house.store, "packs/").await.unwrap().len(), 3);
}

#[test]
fn a_store_that_answers_at_once_does_so_through_all_layers_and_without_a_runtime() {
    let mem = Arc::new(MemStore::new());
    let store = layered(Arc::new(Record::new(mem)));
    at_once(store.put(&name("packs/a"), body("packs/a"))).unwrap();
    assert_eq!(at_once(store.get(&name("packs/a"), 1..3)).unwrap(), "ac");
    assert_eq!(at_once(store.list("packs/", None)).unwrap().len(), 1);
}

#[test]
fn what_will_be_read_soon_is_told_through_all_layers() {
    let innermost = Arc::new(Record::new(Arc::new(MemStore::new())));
    let outer = Record::new(Arc::new(Fault::new(innermost.clone(), 1)));
    layered(Arc::new(outer)).expect(&name("packs/a"), 2..5);
    assert_eq!(innermost.expected(), 3);
}

#[tokio::test]
async fn a_record_tells_each_call_and_what_it_moved() {
    let house = House::new().await;
    drop(some_work(&*house.store).await.unwrap());
    drop(house.get("packs/none").await.unwrap_err());
    let tally = |verb| {
        let tally = house.record.tally(verb);
        (tally.calls, tally.bytes, tally.failed)
    };
    assert_eq!(tally(Verb::Get), (2, 3, 1));
    assert_eq!(tally(Verb::GetWhole), (1, 7, 0));
    assert_eq!(tally(Verb::Put), (2, 14, 0));
    assert_eq!(tally(Verb::Delete), (1, 0, 0));
    let log = house.record.take_log();
    assert_eq!(
        (log[1].verb, log[1].object.as_str(), log[1].range.clone()),
        (Verb::Get, "packs/a", Some(2..5))
    );
    assert_eq!(log.len(), 9);
    assert!(house.record.take_log().is_empty());
}

#[tokio::test]
async fn chance_comes_from_the_seed() {
    let outcomes = async |seed| {
        let fault = Fault::new(House::new().await.mem, seed);
        fault.plan(Verb::Get, When::Chance(0.5), Harm::Transient);
        let mut outcomes = Vec::new();
        for _ in 0..64 {
            outcomes.push(fault.get(&name("packs/a"), 0..1).await.is_ok());
        }
        outcomes
    };
    assert_eq!(outcomes(1).await, outcomes(1).await);
    assert_ne!(outcomes(1).await, outcomes(2).await);
}
