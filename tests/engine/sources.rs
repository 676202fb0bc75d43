//! D: two at once, wrong clocks, and sources that err or change.

use crate::fixture::{Bench, CHUNK, chunks, job, noise};
use afterimage::backup::{ItemSource, Job};
use afterimage::error::Kind;
use afterimage::repo::refs::{Reference, choose};
use afterimage::source::fake::Fake;

#[test]
fn d1_two_backups_of_the_same_data_at_once_both_complete_and_read() {
    for shares_cache in [false, true] {
        let (bench, _) = Bench::in_memory();
        let bytes = noise(1, 3 << 20);
        let records: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let there =
                        if shares_cache { bench.through(bench.store.clone()) } else { bench.elsewhere() };
                    let source = Fake::of(bytes.clone());
                    scope.spawn(move || there.backup(&format!("disk{}", number % 2), source).unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(bench.list().len(), 3);
        for record in &records {
            assert!(bench.read(record).unwrap() == bytes);
            assert_eq!(record.items[0].root().id, records[0].items[0].root().id);
        }
        bench.is_sound();
        bench.elsewhere().is_sound();
    }
}

#[test]
fn d5_a_clock_that_was_wrong_changes_the_order_of_times_and_nothing_else() {
    let (bench, _) = Bench::in_memory();
    let times =
        ["2036-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "1970-01-01T00:00:01Z", "2026-01-02T00:00:00Z"];
    let records: Vec<_> = (0u64..)
        .zip(times)
        .map(|(number, time)| {
            let source = Fake::of(chunks(number, 3));
            bench.run(Job { time: Some(time.parse().unwrap()), ..job("disk", source) }).unwrap()
        })
        .collect();
    let listed: Vec<_> = bench.ids();
    assert_eq!(
        listed,
        [2, 1, 3, 0].map(|number: usize| records[number].id),
        "by time, then by who wrote later"
    );
    for (number, record) in (0..).zip(&records) {
        assert!(bench.read(record).unwrap() == chunks(number, 3));
    }
    let find = |text: &str| choose(&bench.list(), &Reference::parse(text).unwrap().backup).unwrap().id;
    assert_eq!(find("disk@latest"), records[0].id);
    assert_eq!(find("disk@2026-06-01"), records[3].id);
    assert_eq!(find("disk@2000-01-01"), records[2].id);
    bench.is_sound();
}

#[test]
fn d9_a_source_that_errs_shrinks_or_grows_fails_the_backup_with_the_offset_and_lists_nothing() {
    let size = 300 * CHUNK;
    let whole = || Fake::of(noise(1, size));
    for at in [0, 1, CHUNK as u64, 100_001, size as u64 - 1] {
        for (what, source, says) in [
            ("errs", whole().failing_at(at), format!("offset {at}")),
            ("shrinks", whole().shrinking_to(at), format!("offset {at}")),
        ] {
            let (bench, _) = Bench::in_memory();
            let error = bench.backup("disk", source).unwrap_err();
            assert_eq!(error.kind(), Kind::Source, "{what} at {at}: {error}");
            assert!(error.to_string().contains(&says), "{what} at {at}: {error}");
            assert!(bench.list().is_empty());
            let good = bench.backup("disk", whole()).unwrap();
            assert!(bench.read(&good).unwrap() == noise(1, size));
            bench.is_sound();
        }
    }
    let (bench, _) = Bench::in_memory();
    let error = bench.backup("disk", whole().growing_to(size as u64 + 1)).unwrap_err();
    assert_eq!(error.kind(), Kind::Source, "{error}");
    assert!(error.to_string().contains("grew"), "{error}");
    assert!(bench.list().is_empty());
}

#[test]
fn d9_an_error_behind_a_hole_or_in_the_second_item_fails_all() {
    let (bench, _) = Bench::in_memory();
    let bad = Fake::empty(1 << 30).with(1 << 29, noise(1, 5000)).failing_at((1 << 29) + 4096);
    let error = bench.backup("disk", bad.clone()).unwrap_err();
    assert!(error.to_string().contains(&format!("offset {}", (1 << 29) + 4096)), "{error}");
    let items = [("a.img", Fake::of(noise(2, 9000))), ("b.img", bad)];
    let items = items.map(|(name, source)| ItemSource { name: name.into(), source: Box::new(source).into() });
    let error = bench.run(Job { items: items.into(), ..job("set", Fake::empty(0)) }).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("b.img"), "{error}");
    assert!(bench.list().is_empty());
}

#[test]
fn d9_a_source_that_was_written_to_is_whole_and_said_to_be_of_different_moments() {
    let (bench, _) = Bench::in_memory();
    let changing = bench.backup("disk", Fake::of(chunks(1, 2)).changing()).unwrap();
    let still = bench.backup("disk", Fake::of(chunks(1, 2))).unwrap();
    assert!(changing.items[0].changed_while_read && !still.items[0].changed_while_read);
}
