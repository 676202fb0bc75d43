use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// An id that looks as a hash does.
fn id(n: u64) -> [u8; 32] {
    let half = |seed| xxh3_128_with_seed(&n.to_le_bytes(), seed).to_be_bytes();
    [half(1), half(2)].concat().try_into().unwrap()
}

fn row(n: u64) -> Row {
    Row { id: id(n), pack: id(n / 200)[..16].try_into().unwrap(), offset: (n % 200) as u32 * 1000, len: 999 }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn live(names: &[&str]) -> HashSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn what_was_added_is_found_here_and_by_the_next_process() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    segments.add((0..1000).rev().map(row), &names(&["index/a"])).unwrap();
    for segments in [&segments, &Segments::open(dir.path())] {
        (0..1000).for_each(|n| assert_eq!(segments.lookup(&id(n)), [row(n)]));
        (1000..2000).for_each(|n| assert_eq!(segments.lookup(&id(n)), []));
        assert!(segments.covers("index/a") && !segments.covers("index/b"));
    }
}

#[test]
fn all_places_of_an_id_are_told_each_once() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    let elsewhere = |offset| Row { pack: [9; 16], offset, ..row(5) };
    segments.add([elsewhere(2), row(5), elsewhere(1), row(5)], &names(&["index/a"])).unwrap();
    segments.add([row(5), elsewhere(3)], &names(&["index/b"])).unwrap();
    let mut expected = vec![row(5), elsewhere(1), elsewhere(2), elsewhere(3)];
    expected.sort();
    assert_eq!(segments.lookup(&id(5)), expected);
}

#[test]
fn an_object_without_rows_is_covered_all_the_same() {
    let dir = folder();
    Segments::open(dir.path()).add([], &names(&["index/empty"])).unwrap();
    assert!(Segments::open(dir.path()).covers("index/empty"));
}

#[test]
fn adding_what_is_covered_costs_nothing() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    segments.add([row(1)], &names(&["index/a"])).unwrap();
    segments.add((0..).map(|_| -> Row { panic!("no row is asked for") }), &names(&["index/a"])).unwrap();
    assert_eq!(segments.rows(), 1);
}

#[test]
fn a_folder_that_is_not_there_or_no_folder_is_an_empty_index() {
    let dir = folder();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for place in [dir.path().join("none"), file] {
        assert_eq!(Segments::open(&place).lookup(&id(1)), []);
        assert!(!place.join("lock").exists());
    }
    let segments = Segments::open(dir.path().join("file/index"));
    let _refused = segments.add([row(1)], &names(&["index/a"])).unwrap_err();
}

#[test]
fn many_small_files_become_few_and_stay_so() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    for n in 0..100 {
        segments.add((n * 10..n * 10 + 15).map(row), &[format!("index/{n}")]).unwrap();
        assert!(folder::segments(dir.path()).len() <= TIER_FILES_MAX);
    }
    let fresh = Segments::open(dir.path());
    (0..1005).for_each(|n| assert_eq!(fresh.lookup(&id(n)), [row(n)]));
    assert_eq!(fresh.covered().len(), 100);
    assert_eq!(segments.covered(), fresh.covered());
}

#[test]
fn rows_of_an_object_that_is_gone_are_dropped_at_once_and_from_the_files_in_time() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    for n in 0..9 {
        segments.add([row(n), row(100)], &[format!("index/{n}")]).unwrap(); // the ninth makes one file of all
    }
    assert_eq!(folder::segments(dir.path()).len(), 1);
    segments.retain(&(1..9).map(|n| format!("index/{n}")).collect()).unwrap();
    assert_eq!(segments.lookup(&id(0)), []);
    assert_eq!(segments.lookup(&id(100)), [row(100)]);
    assert_eq!(segments.rows(), 18, "one of nine: not worth a rewrite");
    segments.retain(&live(&["index/3", "index/4"])).unwrap();
    assert_eq!(segments.rows(), 4);
    let fresh = Segments::open(dir.path());
    assert_eq!(fresh.covered(), ["index/3".to_owned(), "index/4".to_owned()].into());
    (0..9).for_each(|n| assert_eq!(fresh.lookup(&id(n)).is_empty(), !(3..5).contains(&n)));
    segments.retain(&live(&[])).unwrap();
    assert_eq!(folder::segments(dir.path()).len(), 0);
}

#[test]
fn a_call_that_covered_a_gone_object_is_dropped_whole_so_that_the_rest_is_added_again() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    segments.add([row(1), row(2)], &names(&["index/a", "index/b"])).unwrap();
    segments.retain(&live(&["index/a"])).unwrap();
    assert!(!segments.covers("index/a"));
    segments.add([row(1)], &names(&["index/a"])).unwrap();
    assert_eq!((segments.lookup(&id(1)), segments.lookup(&id(2))), (vec![row(1)], vec![]));
}

#[test]
fn what_one_process_drops_does_not_come_back_through_anothers_merge() {
    let dir = folder();
    let (ours, theirs) = (Segments::open(dir.path()), Segments::open(dir.path()));
    for n in 0..8 {
        theirs.add([row(n)], &[format!("index/{n}")]).unwrap();
    }
    let _busy = folder::tidying(dir.path(), true).unwrap();
    ours.retain(&(1..8).map(|n| format!("index/{n}")).collect()).unwrap();
    drop(_busy);
    theirs.add([row(8)], &names(&["index/8"])).unwrap();
    assert_eq!(folder::segments(dir.path()).len(), 1);
    ours.refresh();
    assert_eq!((ours.lookup(&id(0)), ours.lookup(&id(8))), (vec![], vec![row(8)]));
}

#[test]
fn processes_that_add_at_once_lose_nothing_and_keep_nothing_twice() {
    let dir = folder();
    let all = || (0..30).map(|n| format!("index/{n}"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let _ = scope.spawn(|| {
                let segments = Segments::open(dir.path());
                for (n, name) in (0..).zip(all()) {
                    segments.add((n * 7..n * 7 + 9).map(row), &[name]).unwrap();
                    (0..=n * 7).for_each(|n| assert_eq!(segments.lookup(&id(n)), [row(n)]));
                }
            });
        }
    });
    let segments = Segments::open(dir.path());
    (30..39).for_each(|n| segments.add([row(n)], &[format!("index/{n}")]).unwrap());
    assert_eq!(segments.covered().len(), 39);
    (0..30 * 7).for_each(|n| assert_eq!(segments.lookup(&id(n)), [row(n)]));
}

#[test]
fn while_another_process_tidies_up_we_add_without_merging() {
    let dir = folder();
    let busy = folder::tidying(dir.path(), false).unwrap().unwrap();
    assert!(folder::tidying(dir.path(), false).unwrap().is_none());
    let segments = Segments::open(dir.path());
    (0..20).for_each(|n| segments.add([row(n)], &[format!("index/{n}")]).unwrap());
    assert_eq!(folder::segments(dir.path()).len(), 20);
    drop(busy);
    segments.add([row(20)], &names(&["index/20"])).unwrap();
    assert_eq!(folder::segments(dir.path()).len(), 1);
    (0..21).for_each(|n| assert_eq!(segments.lookup(&id(n)), [row(n)]));
}

#[test]
fn a_merge_that_was_killed_leaves_nothing_twice() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    (0..8).for_each(|n| segments.add([row(n)], &[format!("index/{n}")]).unwrap());
    let old: Vec<_> =
        folder::segments(dir.path()).into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    segments.add([row(8)], &names(&["index/8"])).unwrap();
    old.iter().for_each(|(bytes, path)| std::fs::write(path, bytes).unwrap()); // renamed, but the old not yet removed
    std::fs::write(dir.path().join("new-1-1"), "half a segment").unwrap();
    let after = Segments::open(dir.path());
    after.add([row(9)], &names(&["index/9"])).unwrap();
    assert!(!dir.path().join("new-1-1").exists());
    assert_eq!((folder::segments(dir.path()).len(), after.rows()), (2, 10));
}

#[test]
fn a_batch_larger_than_memory_is_sorted_in_runs() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    let count = merge::RUN_ROWS as u64 * 2 + 77;
    segments.add((0..count).chain(5..10).map(row), &names(&["index/a"])).unwrap();
    assert_eq!(folder::segments(dir.path()).len(), 1);
    assert_eq!(segments.rows(), count);
    (0..count).step_by(97).for_each(|n| assert_eq!(segments.lookup(&id(n)), [row(n)]));
}

#[test]
fn x2_ids_that_all_begin_alike_are_found_too() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    let alike = |n: u32| {
        let mut row = row(1);
        row.id[..20].fill(0xab);
        row.id[20..24].copy_from_slice(&n.to_be_bytes());
        row
    };
    segments.add((0..5000).map(alike), &names(&["index/a"])).unwrap();
    (0..5000).for_each(|n| assert_eq!(segments.lookup(&alike(n).id), [alike(n)]));
    let many = |offset| Row { offset, ..row(7) };
    segments.add((0..5000).map(many), &names(&["index/b"])).unwrap();
    assert_eq!(segments.lookup(&id(7)).len(), 1024, "somebody's trick, answered in bounded memory");
}

/// A folder with one small segment of 250 rows; its file.
fn small() -> (tempfile::TempDir, PathBuf) {
    let dir = folder();
    Segments::open(dir.path()).add((0..250).map(row), &names(&["index/a"])).unwrap();
    let path = folder::segments(dir.path()).remove(0);
    (dir, path)
}

/// Every answer is right or `unknown`; returns whether all are right.
fn right_or_unknown(segments: &Segments, ids: impl Iterator<Item = u64>) -> bool {
    let mut all = true;
    for n in ids {
        let places = segments.lookup(&id(n));
        all &= places == [row(n)];
        assert!(places.is_empty() || places == [row(n)], "a wrong place for {n}: {places:?}");
    }
    all
}

#[test]
fn a11_any_flipped_byte_makes_an_answer_unknown_but_never_wrong() {
    let (dir, path) = small();
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        let segments = Segments::open(dir.path());
        // The row at hand, if this byte is in one, and a few others.
        let ids = (0..250).filter(|n| n % 50 == at as u64 % 50);
        let known = right_or_unknown(&segments, ids);
        assert!(known || !segments.covers("index/a"), "byte {at}: damage was met and it is still covered");
        assert!(known || !path.exists(), "byte {at}: damage was met and the next process meets it again");
    }
}

#[test]
fn a11_bytes_that_change_under_a_running_process_are_noticed() {
    let (dir, path) = small();
    let segments = Segments::open(dir.path());
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let rows_at = file.metadata().unwrap().len() - 3 * 4096;
    for block in 0..3 {
        file.write_all_at(&[0; 100], rows_at + block * 4096 + 500).unwrap();
    }
    assert!(!right_or_unknown(&segments, 0..250));
    assert!(!segments.covers("index/a") && segments.covered().is_empty());
    segments.add((0..250).map(row), &names(&["index/a"])).unwrap();
    assert!(right_or_unknown(&segments, 0..250));
}

#[test]
fn a11_truncated_padded_foreign_and_exchanged_files_are_simply_not_there() {
    let (dir, path) = small();
    let good = std::fs::read(&path).unwrap();
    let (_other_dir, other_path) = {
        let dir = folder();
        Segments::open(dir.path()).add((1000..1250).map(row), &names(&["index/b"])).unwrap();
        let path = folder::segments(dir.path()).remove(0);
        (dir, path)
    };
    let other = std::fs::read(other_path).unwrap();
    let exchanged = [&good[..good.len() - 4096], &other[other.len() - 4096..]].concat();
    let mut turned = good.clone();
    turned[good.len() - 3 * 4096..].rotate_left(4096);
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        good[..100].to_vec(),
        good[..4096].to_vec(),
        good[..good.len() - 1].to_vec(),
        good[..good.len() - 4096].to_vec(),
        [good.clone(), vec![0; 4096]].concat(),
        vec![0; good.len()],
        b"#!/bin/sh\n".repeat(1000),
        exchanged,
        turned,
    ];
    for (n, case) in cases.into_iter().enumerate() {
        std::fs::write(&path, case).unwrap();
        let segments = Segments::open(dir.path());
        assert!(!right_or_unknown(&segments, 0..250), "case {n}");
        assert!(!segments.covers("index/a"), "case {n}");
        assert!(!path.exists(), "case {n}");
    }
}

#[test]
fn a_damaged_input_is_left_out_of_a_merge_and_asked_for_again() {
    let dir = folder();
    let segments = Segments::open(dir.path());
    segments.add((0..10).map(row), &names(&["index/0"])).unwrap();
    let path = folder::segments(dir.path()).remove(0);
    (1..8).for_each(|n| segments.add([row(n * 100)], &[format!("index/{n}")]).unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[1; 64], file.metadata().unwrap().len() - 4000).unwrap();
    segments.add([row(800)], &names(&["index/8"])).unwrap();
    (1..9).for_each(|n| assert_eq!(segments.lookup(&id(n * 100)), [row(n * 100)]));
    assert_eq!(segments.lookup(&id(5)), []);
    assert_eq!((segments.covered().len(), segments.covers("index/0")), (8, false));
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, Vec<(u8, u8)>),
    Retain(u16),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..16, prop::collection::vec((0u8..40, 0u8..4), 0..30)).prop_map(|(name, rows)| Step::Add(name, rows)),
        1 => any::<u16>().prop_map(Step::Retain),
        1 => Just(Step::Reopen),
    ]
}

fn small_row((n, place): (u8, u8)) -> Row {
    Row { offset: u32::from(place), pack: [place / 2; 16], ..row(n.into()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_added_and_dropped_the_answers_are_those_of_a_plain_map(steps in prop::collection::vec(step(), 1..60)) {
        let dir = folder();
        let mut segments = Segments::open(dir.path());
        let mut model: BTreeMap<String, BTreeSet<Row>> = BTreeMap::new();
        let mut prunes = 0; // part of the names, because a repository uses no name twice
        for step in steps {
            match step {
                Step::Add(name, rows) => {
                    let name = format!("index/{prunes}-{name}");
                    let rows: Vec<Row> = rows.into_iter().map(small_row).collect();
                    segments.add(rows.clone(), std::slice::from_ref(&name)).unwrap();
                    let _ = model.entry(name).or_insert_with(|| rows.into_iter().collect());
                }
                Step::Retain(mask) => {
                    let names: Vec<String> = model.keys().cloned().collect();
                    let gone = names.iter().enumerate().filter(|(n, _)| mask >> (n % 16) & 1 == 1);
                    gone.for_each(|(_, name)| drop(model.remove(name)));
                    segments.retain(&model.keys().cloned().collect()).unwrap();
                    prunes += 1;
                }
                Step::Reopen => {
                    segments = Segments::open(dir.path());
                    segments.retain(&model.keys().cloned().collect()).unwrap();
                }
            }
            prop_assert_eq!(segments.covered(), model.keys().cloned().collect::<BTreeSet<_>>());
            for n in 0..41 {
                let all: BTreeSet<&Row> = model.values().flatten().filter(|row| row.id == id(n)).collect();
                let found = segments.lookup(&id(n));
                prop_assert_eq!(found.iter().collect::<Vec<_>>(), all.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_overlay_answers_as_a_plain_map_however_often_it_spills(rows in prop::collection::vec((0u8..60, 0u8..4), 1..300), bound in 1usize..40) {
        let dir = folder();
        let overlay = Overlay::bounded(dir.path(), bound);
        let mut model: BTreeMap<[u8; 32], Row> = BTreeMap::new();
        for row in rows.into_iter().map(small_row) {
            prop_assert_eq!(overlay.insert_if_absent(row), model.get(&row.id).copied());
            let _ = model.entry(row.id).or_insert(row);
        }
        (0..61).for_each(|n| assert_eq!(overlay.get(&id(n)), model.get(&id(n)).copied()));
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its files have no names");
    }
}

#[test]
fn of_threads_that_add_the_same_id_exactly_one_is_first() {
    let dir = folder();
    let overlay = Overlay::bounded(dir.path(), 500);
    let firsts: usize = std::thread::scope(|scope| {
        let adders: Vec<_> = (0..4u32)
            .map(|thread| {
                let overlay = &overlay;
                scope.spawn(move || {
                    let rows = (0..5000).map(|n| Row { len: thread, ..row(n) });
                    rows.filter(|row| match overlay.insert_if_absent(*row) {
                        None => true,
                        Some(known) => {
                            assert_eq!(overlay.get(&row.id), Some(known));
                            false
                        }
                    })
                    .count()
                })
            })
            .collect();
        adders.into_iter().map(|adder| adder.join().unwrap()).sum()
    });
    assert_eq!(firsts, 5000);
    assert_eq!(overlay.forgotten(), 0);
}

#[test]
fn a11_an_overlay_that_can_not_spill_forgets_and_goes_on() {
    let dir = folder();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let overlay = Overlay::bounded(file, 10);
    (0..100).for_each(|n| assert_eq!(overlay.insert_if_absent(row(n)), None));
    assert!(overlay.forgotten() >= 80);
    assert_eq!(overlay.get(&id(99)).or(Some(row(99))), Some(row(99)));
}

/// Prints what two million rows cost here; what is asserted is that each of them is found.
#[test]
fn two_million_rows_are_found_each_and_nothing_else() {
    const ROWS: u64 = 2_000_000;
    let dir = folder();
    let rows: Vec<Row> = (0..ROWS).map(row).collect();
    let absent: Vec<[u8; 32]> = (ROWS..ROWS + 1_000_000).map(id).collect();
    let began = Instant::now();
    Segments::open(dir.path()).add(rows.iter().copied(), &names(&["index/a"])).unwrap();
    let load = began.elapsed();
    let began = Instant::now();
    let segments = Segments::open(dir.path());
    let open = began.elapsed();
    let asked = rows.iter().step_by(2);
    let began = Instant::now();
    assert!(asked.clone().all(|row| segments.lookup(&row.id) == [*row]));
    let hit = began.elapsed() / (ROWS / 2) as u32;
    let began = Instant::now();
    assert!(absent.iter().all(|id| segments.lookup(id).is_empty()));
    let miss = began.elapsed() / 1_000_000;
    let bytes = folder::segments(dir.path())[0].metadata().unwrap().len();
    println!("{ROWS} rows, {} MiB: load {load:?}, open {open:?}, hit {hit:?}, miss {miss:?}", bytes >> 20);
}
