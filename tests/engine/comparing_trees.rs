//! What differs between trees, and which versions of files there were: told in full, and at the cost of what differs.

use crate::fixture::{Bench, noise, wait};
use crate::garden::{Garden, Plants, directory_plant, file, link};
use afterimage::image::tree::Tree;
use afterimage::progress::Cancel;
use afterimage::view::changes::changes;
use afterimage::view::pattern::Pattern;
use afterimage::view::versions::{Series, find, history};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Enough for all that is found here, and soon filled.
const ROOM: usize = 1 << 20;

fn told(a: &Tree, b: &Tree) -> Vec<String> {
    let text = |path: &[u8]| path.escape_ascii().to_string();
    let all = wait(changes(a, b, ROOM, &Cancel::default())).unwrap();
    let one = |change: &afterimage::view::changes::Change| match &change.how {
        afterimage::view::changes::How::Moved(from) => {
            format!("moved {} -> {}", text(from), text(&change.path))
        }
        how => format!("{} {}", how.key(), text(&change.path)),
    };
    all.iter().map(one).collect()
}

fn plants(all: &[(&str, crate::garden::Plant)]) -> Plants {
    all.iter().map(|(path, plant)| (path.as_bytes().to_vec(), plant.clone())).collect()
}

fn opened(tree: &Tree) -> u64 {
    let values = tree.engine().watch().values();
    values.iter().find(|(metric, _)| metric.name == "nodes_opened").expect("a counter").1
}

#[test]
fn every_way_to_differ_is_told_by_its_name() {
    let (bench, _) = Bench::in_memory();
    let grow = |all: &[(&str, crate::garden::Plant)]| Garden::new(&bench).plant(&bench, &plants(all));
    let large = |seed| file(&noise(seed, 5000));
    let before = grow(&[
        ("dir", directory_plant()),
        ("dir/moves", large(1)),
        ("dir/stays", large(2)),
        ("kind", file(b"x")),
        ("gone", file(b"some bytes")),
        ("linked", link("a")),
        ("mode", file(b"x")),
        ("tree", directory_plant()),
        ("tree/inner", directory_plant()),
        ("tree/inner/file", large(3)),
        ("was dir", directory_plant()),
        ("was dir/inside", large(4)),
    ]);
    let after = grow(&[
        ("", directory_plant().mode(0o700)),
        ("dir", directory_plant()),
        ("dir/new", file(b"")),
        ("dir/stays", large(2)),
        ("kind", link("x")),
        ("linked", link("b")),
        ("mode", file(b"x").mode(0o600)),
        ("moved", large(1)),
        ("new", directory_plant()),
        ("new/tree", directory_plant()),
        ("new/tree/inner", directory_plant()),
        ("new/tree/inner/file", large(3)),
        ("was dir", file(b"now a file")),
    ]);
    let wanted = [
        "metadata .",
        "added dir/new",
        "removed gone",
        "kind kind",
        "content linked",
        "metadata mode",
        "moved dir/moves -> moved",
        "added new",
        "moved tree -> new/tree",
        "kind was dir",
        "removed was dir/inside",
    ];
    assert_eq!(told(&before, &after), wanted);
    assert_eq!(told(&before, &before), Vec::<String>::new());
}

fn many(count: u32, changed: Option<u32>) -> Plants {
    let mut all = Plants::new();
    for number in 0..count {
        let dir = format!("{:03}", number / 100).into_bytes();
        let _same = all.entry(dir.clone()).or_insert_with(directory_plant);
        let bytes = format!("{number} {}", changed == Some(number));
        let _new =
            all.insert([&dir[..], b"/", format!("{number:06}").as_bytes()].concat(), file(bytes.as_bytes()));
    }
    for number in 0..count {
        let bytes = format!("flat {}", changed == Some(number));
        let _new = all.insert(format!("flat {number:06}").into_bytes(), file(bytes.as_bytes()));
    }
    all
}

#[test]
fn what_differs_costs_the_nodes_that_differ() {
    let (bench, _) = Bench::in_memory();
    let before = Garden::new(&bench).plant(&bench, &many(10_000, None));
    let after = Garden::new(&bench).plant(&bench, &many(10_000, Some(5_678)));
    let (a, b) = (Tree::new(after.engine().clone(), *before.root()), &after);
    assert_eq!(told(&a, b), ["content 056/005678", "content flat 005678"]);
    let nodes = opened(b);
    assert!(nodes <= 12, "{nodes} nodes were opened for two files");
}

#[test]
fn versions_are_told_newest_first_and_equal_ones_together() {
    let (bench, _) = Bench::in_memory();
    let grow = |text: &str, also: bool| {
        let mut all = vec![("docs", directory_plant()), ("docs/plan", file(text.as_bytes()))];
        if also {
            all.push(("docs/plan.old", file(b"old")));
        }
        Garden::new(&bench).plant(&bench, &plants(&all))
    };
    // Newest first.
    let trees = [grow("c", false), grow("b", false), grow("a", true), grow("a", true), grow("b", false)];
    let series = Series::of_trees(trees);
    let versions = wait(history(&series, b"docs/plan", &Cancel::default())).unwrap();
    let backups: Vec<_> = versions.iter().map(|version| version.backups.clone()).collect();
    assert_eq!(backups, [vec![(0, 0)], vec![(1, 1), (4, 4)], vec![(2, 3)]]);
    assert!(wait(history(&series, b"docs/nothing", &Cancel::default())).unwrap().is_empty());
    let found = wait(find(&series, &Pattern::parse(b"plan*").unwrap(), ROOM, &Cancel::default())).unwrap();
    let all: Vec<_> = found
        .iter()
        .map(|found| {
            let backups: Vec<_> = found.versions.iter().map(|version| version.backups.clone()).collect();
            (found.path.escape_ascii().to_string(), backups)
        })
        .collect();
    assert_eq!(all[0], ("docs/plan".to_owned(), backups));
    assert_eq!(all[1], ("docs/plan.old".to_owned(), vec![vec![(2, 3)]]));
}

#[test]
fn a_hundred_backups_that_share_most_of_their_nodes_cost_one_and_what_differs() {
    let (bench, _) = Bench::in_memory();
    let trees: Vec<Tree> =
        (0..100).map(|number| Garden::new(&bench).plant(&bench, &many(1000, Some(number * 7)))).collect();
    let engine = trees[0].engine().clone();
    let trees = trees.iter().map(|tree| Tree::new(engine.clone(), *tree.root()));
    let series = Series::of_trees(trees);
    let found = wait(find(&series, &Pattern::parse(b"000007").unwrap(), ROOM, &Cancel::default())).unwrap();
    assert_eq!(found.len(), 1);
    let backups: Vec<_> = found[0].versions.iter().map(|version| version.backups.clone()).collect();
    assert_eq!(backups, [vec![(0, 0), (2, 99)], vec![(1, 1)]]);
    let values = engine.watch().values();
    let nodes = values.iter().find(|(metric, _)| metric.name == "nodes_opened").expect("a counter").1;
    assert!(nodes < 100 * 8, "{nodes} nodes for a hundred backups");
}

/// Paths with what lies there: directories are made as they are needed.
fn grown(paths: &BTreeMap<String, u8>) -> Plants {
    let mut all = Plants::new();
    for (path, seed) in paths {
        let names: Vec<&str> = path.split('/').collect();
        for depth in 1..names.len() {
            let dir = names[..depth].join("/").into_bytes();
            let _before = all.insert(dir, directory_plant());
        }
        if !all.contains_key(path.as_bytes()) {
            let _new = all.insert(path.clone().into_bytes(), file(&[*seed; 3]));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn find_says_what_looking_into_every_backup_says(
        generations in prop::collection::vec(prop::collection::btree_map("[ab]{1,2}(/[ab]{1,2}){0,2}", 0u8..3, 0..12), 1..5),
        pattern in prop::sample::select(vec!["*", "a*", "**/b", "a/*", "a/**", "?", "b/a?/*"]),
    ) {
        let (bench, _) = Bench::in_memory();
        let all: Vec<Plants> = generations.iter().map(grown).collect();
        let trees: Vec<Tree> = all.iter().map(|plants| Garden::new(&bench).plant(&bench, plants)).collect();
        let series = Series::of_trees(trees);
        let pattern = Pattern::parse(pattern.as_bytes()).unwrap();
        let found = wait(find(&series, &pattern, ROOM, &Cancel::default())).unwrap();
        let is_meant = |path: &[u8]| {
            let names = path.split(|byte| *byte == b'/');
            pattern.is_meant(&names.fold(pattern.begin(), |reached, name| pattern.step(&reached, name)))
        };
        let mut wanted: Vec<Vec<u8>> = all.iter().flat_map(|plants| plants.keys().cloned()).filter(|path| is_meant(path)).collect();
        wanted.sort();
        wanted.dedup();
        prop_assert_eq!(found.iter().map(|found| found.path.clone()).collect::<Vec<_>>(), wanted);
        for found in found {
            let looked = wait(history(&series, &found.path, &Cancel::default())).unwrap();
            let backups = |versions: &[afterimage::view::versions::Version]| {
                versions.iter().map(|version| version.backups.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(backups(&found.versions), backups(&looked), "{}", found.path.escape_ascii());
        }
    }
}
