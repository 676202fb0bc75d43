//! Trees that nobody honest made, sealed by whoever holds the key: what they can cost is an error, in bounded time and memory, and never a
//! byte outside of the target.

use crate::fixture::{Bench, CHUNK, noise, wait};
use crate::garden::{Garden, Plant, Plants, directory_plant, file, link};
use crate::seen::look;
use afterimage::error::{Kind, Result};
use afterimage::format::limits;
use afterimage::format::node::{Child, Entry as MapEntry, Node, Shape};
use afterimage::format::record::Root;
use afterimage::format::tree::{Below, Content, Directory, Entry, FileContent, Totals, TreeNode};
use afterimage::image::bulk::stream_in_order;
use afterimage::image::tree::Tree;
use afterimage::image::{Image, Map};
use afterimage::progress::{Cancel, Progress};
use afterimage::restore::target::Guarded;
use afterimage::restore::tree::{Done, Part, Request, Wish, restore_tree};
use afterimage::view::changes::changes;
use afterimage::view::pattern::Pattern;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Enough for all that is found here, and soon filled.
const ROOM: usize = 1 << 20;

fn restore(tree: &Tree, target: &Path, into: bool) -> Result<Done> {
    let request = Request {
        tree,
        part: Part::default(),
        target,
        guarded: Guarded::default(),
        source: None,
        wish: Wish { into, delete: into, lossy: true, ..Wish::default() },
        differential: into,
        verify: true,
    };
    restore_tree(&request, &Progress::default(), &Cancel::default())
}

fn named(name: &[u8], plant: Plant) -> Entry {
    Entry { name: Bytes::copy_from_slice(name), ..plant.entry }
}

fn totals(files: u64, directories: u64) -> Totals {
    Totals { files, directories, bytes: 0 }
}

/// A tree whose root directory has these entries, however they are named and ordered.
fn with_entries(bench: &Bench, mut garden: Garden, entries: Vec<Entry>) -> Tree {
    let all: Totals = entries.iter().map(Entry::totals).sum();
    let rows = entries.len() as u64;
    let child = garden.node(&TreeNode::Leaf(entries));
    with_top(bench, garden, Directory { child, level: 0, rows, totals: all })
}

fn with_top(bench: &Bench, garden: Garden, below: Directory) -> Tree {
    garden.finish(bench, Entry { content: Content::Directory(Some(below)), ..directory_plant().entry })
}

#[test]
fn x2_a_leaf_that_covers_less_than_its_place_is_an_error_each_time_it_is_read() {
    let (bench, _) = Bench::in_memory();
    let mut garden = Garden::new(&bench);
    let chunk = Some(garden.chunk(&noise(1, CHUNK)));
    let mut node = |level, len, child| {
        let entries = vec![MapEntry { len, child }];
        garden.writer.add_node(&Node { shape: Shape::Fixed(CHUNK as u32), level, entries }).expect("store")
    };
    let leaf = node(0, CHUNK as u64, chunk);
    let len = 8 * CHUNK as u64;
    let top = node(1, len, Some(leaf));
    let root = Root { id: top.id, place: top.place, level: 1, chunk_size: CHUNK as u32 };
    let engine = Arc::clone(garden.publish(&bench, root).engine());
    let image = Image::new(engine, Map { root, len });
    for _ in 0..3 {
        for offset in [5 * CHUNK as u64, 0] {
            assert_eq!(wait(image.read_at(offset, 100)).unwrap_err().kind(), Kind::Corrupt);
        }
    }
    let all = stream_in_order(&image, 0..len, &Cancel::default(), &mut |_| Ok(()));
    assert_eq!(all.unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn r10_names_that_are_none_are_refused_by_every_way_out() {
    let names: [&[&[u8]]; 9] = [
        &[b".."],
        &[b"."],
        &[b""],
        &[b"/etc/passwd"],
        &[b"../../x"],
        &[b"a/b"],
        &[b"a\0b"],
        &[b"a", b"a"],
        &[b"b", b"a"],
    ];
    for names in names {
        let (bench, _) = Bench::in_memory();
        let entries = names.iter().map(|name| named(name, file(b"")));
        let tree = with_entries(&bench, Garden::new(&bench), entries.collect());
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        assert_eq!(restore(&tree, &target, false).unwrap_err().kind(), Kind::Corrupt, "{names:?}");
        assert_eq!(restore(&tree, &target, true).unwrap_err().kind(), Kind::Corrupt, "{names:?}");
        assert_eq!(look(dir.path()).paths.len(), 2, "{names:?}: nothing was written");
        assert!(wait(tree.find(b"etc/passwd")).is_err());
        let honest = Garden::new(&bench).plant(&bench, &Plants::new());
        assert!(wait(changes(&tree, &honest, ROOM, &Cancel::default())).is_err());
    }
}

#[test]
fn r10_links_to_links_and_loops_are_made_as_they_are_and_followed_by_nobody() {
    let (bench, _) = Bench::in_memory();
    let plants: Plants = [
        ("a", link("b")),
        ("b", link("a")),
        ("up", link("../../../../../../etc")),
        ("root", link("/")),
        ("self", link("self/self")),
        ("chain", link("up/passwd")),
        ("z", directory_plant()),
        ("z/inside", file(b"x")),
    ]
    .map(|(path, plant)| (path.as_bytes().to_vec(), plant))
    .into();
    let tree = Garden::new(&bench).plant(&bench, &plants);
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let done = restore(&tree, &dir.path().join("target"), true).unwrap();
        assert_eq!(done.files, 7);
        assert_eq!(look(dir.path()).paths.len(), 10);
    }
    assert!(wait(tree.find(b"up/passwd")).unwrap().is_none(), "a link is no directory");
}

#[test]
fn r10_a_name_is_a_link_here_and_a_directory_there_at_most_once() {
    // A link first and a directory of the same name behind it would lead what is in the directory astray.
    let (bench, _) = Bench::in_memory();
    let mut garden = Garden::new(&bench);
    let leaf = garden.node(&TreeNode::Leaf(vec![named(b"passwd", file(b""))]));
    let inner = Directory { child: leaf, level: 0, rows: 1, totals: totals(1, 0) };
    let mut below = directory_plant();
    below.entry.content = Content::Directory(Some(inner));
    let entries = vec![named(b"etc", link("/etc")), named(b"etc", below)];
    let tree = with_entries(&bench, garden, entries);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(restore(&tree, &dir.path().join("x"), false).unwrap_err().kind(), Kind::Corrupt);
}

/// A few nodes that stand for more files than anybody could walk: each directory holds the one below it many times.
fn bomb(garden: &mut Garden, levels: u32) -> Directory {
    let leaf = garden.node(&TreeNode::Leaf(vec![named(b"file", file(b""))]));
    let mut below = Directory { child: leaf, level: 0, rows: 1, totals: totals(1, 0) };
    for _ in 0..levels {
        let entry = |number: u32| {
            let content = Content::Directory(Some(below));
            Entry { content, ..named(format!("{number:04}").as_bytes(), directory_plant()) }
        };
        let entries: Vec<Entry> = (0..1000).map(entry).collect();
        let all: Totals = entries.iter().map(Entry::totals).sum();
        let child = garden.node(&TreeNode::Leaf(entries));
        below = Directory { child, level: 0, rows: 1000, totals: all };
    }
    below
}

#[test]
fn x2_a_tree_that_refers_to_itself_again_and_again_is_found_too_large_or_walked_once() {
    let (bench, _) = Bench::in_memory();
    let mut garden = Garden::new(&bench);
    let below = bomb(&mut garden, 5);
    assert!(below.totals.files == 10u64.pow(15));
    let tree = with_top(&bench, garden, below);
    let pattern = Pattern::parse(b"nothing has this name").unwrap();
    let series = afterimage::view::versions::Series::of_trees([tree.clone()]);
    let found = wait(afterimage::view::versions::find(&series, &pattern, ROOM, &Cancel::default())).unwrap();
    assert!(found.is_empty());
    let all = Pattern::parse(b"*").unwrap();
    let found = wait(afterimage::view::versions::find(&series, &all, ROOM, &Cancel::default()));
    assert_eq!(found.unwrap_err().kind(), Kind::Usage, "too many to tell");
    let empty = Garden::new(&bench).plant(&bench, &Plants::new());
    assert!(wait(changes(&empty, &tree, ROOM, &Cancel::default())).is_err(), "too many to tell");
}

#[test]
fn x2_a_tree_deeper_than_any_path_is_refused_before_anything_is_written() {
    let (bench, _) = Bench::in_memory();
    let mut garden = Garden::new(&bench);
    let mut below: Option<Directory> = None;
    for depth in 0..=u32::from(limits::TREE_DEPTH_MAX) + 10 {
        let content = Content::Directory(below);
        let entry = Entry { content, ..named(b"d", directory_plant()) };
        let all = entry.totals();
        let child: Child = garden.node(&TreeNode::Leaf(vec![entry]));
        below = Some(Directory { child, level: 0, rows: 1, totals: all });
        assert_eq!(all.directories, u64::from(depth) + 1);
    }
    let tree = with_top(&bench, garden, below.unwrap());
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    assert_eq!(restore(&tree, &target, false).unwrap_err().kind(), Kind::Corrupt);
    assert!(!target.exists());
}

#[test]
fn x2_sums_and_lengths_that_lie_are_corrupt_wherever_they_are_met() {
    let (bench, _) = Bench::in_memory();
    let lies: [fn(&mut Garden) -> Directory; 3] = [
        |garden| {
            let child = garden.node(&TreeNode::Leaf(vec![named(b"a", file(b""))]));
            Directory { child, level: 0, rows: 10_000_000, totals: totals(10_000_000, 0) }
        },
        |garden| {
            let child = garden.node(&TreeNode::Leaf(vec![named(b"m", file(b""))]));
            let row = |first: &'static [u8]| Below {
                first: Bytes::from_static(first),
                rows: 1,
                totals: totals(1, 0),
                child,
            };
            let below = (0..4000u32)
                .map(|number| Below { first: format!("{number:05}").into_bytes().into(), ..row(b"x") });
            let child = garden.node(&TreeNode::Branch { level: 1, below: below.collect() });
            Directory { child, level: 1, rows: 4000, totals: totals(4000, 0) }
        },
        |garden| {
            let child = garden.chunk(&noise(1, 1000));
            let content = Content::File(FileContent::Chunk { len: 5000, child });
            let entry = Entry { content, ..named(b"a", file(b"")) };
            let all = entry.totals();
            let child = garden.node(&TreeNode::Leaf(vec![entry]));
            Directory { child, level: 0, rows: 1, totals: all }
        },
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut garden = Garden::new(&bench);
        let below = lie(&mut garden);
        let tree = with_top(&bench, garden, below);
        let dir = tempfile::tempdir().unwrap();
        let error = restore(&tree, &dir.path().join("x"), false).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{number}: {error}");
    }
}

#[test]
fn r11_names_swapped_for_links_while_it_runs_lead_nothing_outside() {
    let (bench, _) = Bench::in_memory();
    let mut plants = Plants::new();
    for number in 0..60 {
        let path = |name: &str| format!("dir {number:02}{name}").into_bytes();
        let _new = plants.insert(path(""), directory_plant());
        let _new = plants.insert(path("/inner"), directory_plant());
        for file_number in 0..10 {
            let _new = plants.insert(path(&format!("/inner/{file_number}")), file(&noise(number, 2000)));
        }
    }
    let tree = Garden::new(&bench).plant(&bench, &plants);
    // In memory where there is some: each run ends with a sync of the whole file system.
    let memory = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
    let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
    std::fs::create_dir_all(outside.join("inner")).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0u32;
            while !over.load(Ordering::Relaxed) {
                for number in 0..60 {
                    let name = target.join(format!("dir {number:02}"));
                    let aside = dir.path().join(format!("aside {number} {swaps}"));
                    if std::fs::rename(&name, &aside).is_ok() {
                        let _raced = std::os::unix::fs::symlink(&outside, &name);
                        swaps += 1;
                    }
                }
            }
            swaps
        });
        for _ in 0..20 {
            // It may fail in many ways, and often does.
            let _done = restore(&tree, &target, true);
        }
        over.store(true, Ordering::Relaxed);
        assert!(swapper.join().unwrap() > 0, "nobody was disturbed");
    });
    assert_eq!(look(&outside).paths.len(), 2, "{:?}", look(&outside).paths.keys());
}
