//! Trees through the reader: what was planted is found by name, by number and by path, with all its attributes and bytes; and what is
//! no tree is refused, in time and memory that do not depend on what it claims.

use crate::fixture::{Bench, noise, runtime, wait};
use afterimage::backup::tree::builder::{DirBuilder, top};
use afterimage::error::{Kind, Result};
use afterimage::format::ids::SealKind;
use afterimage::format::limits;
use afterimage::format::node::{Child, Entry as MapEntry, Node, Shape};
use afterimage::format::record::Root;
use afterimage::format::tree::{
    Attribute, Attributes, Content, Directory, Entry, FileContent, Owner, Sighting, Time, Totals, TreeNode,
    Value,
};
use afterimage::image::join;
use afterimage::image::tree::{Dir, Member, Tree};
use afterimage::repo::Repository;
use afterimage::repo::writer::Writer;
use afterimage::seal::{LEVEL_DEFAULT, Seal, Sealed, Under};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a test wants to lie somewhere.
#[derive(Clone, Debug)]
enum Plant {
    Dir(BTreeMap<Vec<u8>, Plant>),
    /// Its runs of bytes; `None`: so many zeros.
    File(Vec<(usize, Option<u64>)>),
    Link(Vec<u8>),
    Fifo,
}

/// Puts trees into a repository.
struct Gardener {
    repository: Arc<Repository>,
    writer: Writer,
    seal: Seal,
}

impl Gardener {
    fn new(bench: &Bench) -> Gardener {
        let repository = bench.repository().expect("open");
        let known = Arc::new(wait(repository.known()).expect("the index"));
        let writer = Writer::new(&repository, &known, runtime(), 1).expect("a writer");
        Gardener { repository, writer, seal: Seal::new(LEVEL_DEFAULT).expect("zstd") }
    }

    fn chunk(&mut self, bytes: &[u8]) -> Child {
        let (keys, pack) = (&self.repository.keys, self.writer.assigned().current());
        let id = keys.data_id(bytes);
        let what = Sealed::Chunk(SealKind::Data, id);
        let sealed = self.seal.seal(keys, Under::Pack(pack), what, bytes).expect("seal");
        let (place, _new) = self.writer.add_data(pack, id, sealed, bytes.len() as u32).expect("store");
        Child { id, place }
    }

    fn content(&mut self, runs: &[(usize, Option<u64>)]) -> FileContent {
        let len: usize = runs.iter().map(|(len, _)| len).sum();
        match runs {
            [] => FileContent::Inline(Bytes::new()),
            [(len, Some(seed))] if *len <= 512 => FileContent::Inline(noise(*seed, *len).into()),
            [(len, Some(seed))] => {
                FileContent::Chunk { len: *len as u32, child: self.chunk(&noise(*seed, *len)) }
            }
            runs if runs.iter().all(|(_, seed)| seed.is_none()) => FileContent::Zeros(len as u64),
            runs => {
                let entries = runs.iter().map(|(len, seed)| MapEntry {
                    len: *len as u64,
                    child: seed.map(|seed| self.chunk(&noise(seed, *len))),
                });
                let node = Node { shape: Shape::Cut, level: 0, entries: entries.collect() };
                let data =
                    node.entries.iter().filter(|entry| entry.child.is_some()).map(|entry| entry.len).sum();
                let child = self.writer.add_node(&node).expect("store");
                FileContent::Map { len: len as u64, data, level: 0, child }
            }
        }
    }

    fn entry(&mut self, name: &[u8], plant: &Plant) -> Entry {
        let content = match plant {
            Plant::Dir(below) => Content::Directory(self.dir(below)),
            Plant::File(runs) => Content::File(self.content(runs)),
            Plant::Link(target) => Content::Symlink(target.clone().into()),
            Plant::Fifo => Content::Fifo,
        };
        entry(name, content)
    }

    fn dir(&mut self, below: &BTreeMap<Vec<u8>, Plant>) -> Option<Directory> {
        let mut builder = DirBuilder::default();
        for (name, plant) in below {
            let entry = self.entry(name, plant);
            builder.add(&mut self.writer, entry, Sighting::default()).expect("store");
        }
        builder.finish(&mut self.writer).expect("store").map(|(directory, _)| directory)
    }

    /// Everything becomes durable; the top of the tree.
    fn plant(mut self, below: &BTreeMap<Vec<u8>, Plant>) -> Root {
        let directory = self.dir(below);
        self.top(directory)
    }

    fn top(mut self, directory: Option<Directory>) -> Root {
        let root = entry(b"", Content::Directory(directory));
        let (root, _, _) = top(&mut self.writer, root, Sighting::default()).expect("store");
        let named = self.writer.finish().and_then(|packs| wait(self.repository.publish_index(packs)));
        drop(named.expect("publish"));
        root
    }
}

fn entry(name: &[u8], content: Content) -> Entry {
    let seed = name.len() as u32;
    let owner = Owner { uid: seed % 3, gid: 7, user: Bytes::from_static(b"root"), group: Bytes::new() };
    Entry {
        name: Bytes::copy_from_slice(name),
        mode: 0o7755,
        owner: Arc::new(owner),
        mtime: Time { secs: -i64::from(seed), nanos: seed },
        link: None,
        changed: false,
        attributes: Attributes::None,
        content,
    }
}

fn tree(bench: &Bench, root: Root) -> Tree {
    Tree::new(bench.engine().expect("open"), root)
}

fn dir_of(member: &Member) -> Dir {
    member.dir().expect("not too deep").expect("a directory")
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::collection::vec(any::<u8>(), 1..12);
    let all = prop_oneof![3 => "[a-c]{1,3}".prop_map(String::into_bytes), 1 => odd];
    all.prop_filter("a name", |name| afterimage::format::tree::is_file_name(name))
}

fn plant() -> impl Strategy<Value = Plant> {
    let run = prop_oneof![
        3 => (1usize..3000, any::<u64>().prop_map(Some)),
        1 => (1usize..100_000, Just(None)),
    ];
    let leaf = prop_oneof![
        5 => prop::collection::vec(run, 0..4).prop_map(Plant::File),
        1 => prop::collection::vec(1u8.., 1..30).prop_map(Plant::Link),
        1 => Just(Plant::Fifo),
    ];
    leaf.prop_recursive(4, 60, 12, |below| {
        prop::collection::btree_map(name(), below, 0..12).prop_map(Plant::Dir)
    })
}

fn bytes_of(runs: &[(usize, Option<u64>)]) -> Vec<u8> {
    runs.iter().flat_map(|(len, seed)| seed.map_or(vec![0; *len], |seed| noise(seed, *len))).collect()
}

/// Holds what was read to what was planted, all the way down.
fn compare(member: &Member, name: &[u8], plant: &Plant) -> Totals {
    assert_eq!(member.name(), name);
    let found = member.entry();
    let wanted = entry(name, found.content.clone());
    assert_eq!((found.mode, &found.owner, found.mtime), (wanted.mode, &wanted.owner, wanted.mtime));
    let totals = match plant {
        Plant::Dir(below) => {
            let dir = dir_of(member);
            assert_eq!(dir.len(), below.len() as u64);
            let page = wait(dir.page(0, usize::MAX)).expect("a page");
            assert_eq!(page.len(), below.len());
            let sums = page.iter().zip(below).map(|(member, (name, plant))| compare(member, name, plant));
            let own = Totals { directories: 1, ..Totals::default() };
            sums.collect::<Vec<_>>().into_iter().chain([own]).sum()
        }
        Plant::File(runs) => {
            let (file, bytes) = (member.file().expect("a file"), bytes_of(runs));
            assert_eq!(file.len(), bytes.len() as u64);
            let (from, to) = (bytes.len() / 3, bytes.len());
            for range in [0..to, from..to, from..from + (to - from) / 2] {
                let read = wait(file.read_at(range.start as u64, range.len())).expect("bytes");
                assert!(read[..] == bytes[range]);
            }
            assert!(join(wait(file.read_aside(0, to)).expect("bytes"))[..] == bytes[..]);
            assert!(wait(file.read(0, to + 1)).is_err());
            let stored = stored_bytes(&file);
            assert_eq!(
                stored,
                runs.iter().filter(|run| run.1.is_some()).map(|run| run.0 as u64).sum::<u64>()
            );
            Totals { files: 1, bytes: bytes.len() as u64, ..Totals::default() }
        }
        Plant::Link(target) => {
            assert_eq!(member.target().expect("a link"), target);
            Totals { files: 1, ..Totals::default() }
        }
        Plant::Fifo => {
            assert_eq!(found.content, Content::Fifo);
            Totals { files: 1, ..Totals::default() }
        }
    };
    assert_eq!(member.totals(), totals);
    totals
}

fn stored_bytes(file: &afterimage::image::tree::File) -> u64 {
    let (mut at, mut stored) = (0, 0);
    while at < file.len() {
        let extent = wait(file.extent(at, u64::MAX)).expect("an extent");
        assert!(extent.range.start == at && extent.range.end > at);
        stored += if extent.data { extent.range.end - at } else { 0 };
        at = extent.range.end;
    }
    stored
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn p3_a_tree_is_read_as_it_was_planted(below in prop::collection::btree_map(name(), plant(), 0..12)) {
        let (bench, _) = Bench::in_memory();
        let root = Gardener::new(&bench).plant(&below);
        let tree = tree(&bench, root);
        let top = wait(tree.top()).unwrap();
        let _totals = compare(&top, b"", &Plant::Dir(below.clone()));
        for (name, plant) in &below {
            let found = wait(tree.find(name)).unwrap().expect("it is there");
            let _totals = compare(&found, name, plant);
            prop_assert!(dir_of(&top).lookup_now(name).is_some(), "what was read is answered at once");
        }
    }
}

#[test]
fn f8_a_hundred_thousand_entries_are_found_by_name_and_number_through_few_nodes() {
    let (bench, _) = Bench::in_memory();
    let name = |number: u64| format!("{number:06} some file").into_bytes();
    let below: BTreeMap<_, _> = (0..100_000).map(|number| (name(number), Plant::Fifo)).collect();
    let tree = tree(&bench, Gardener::new(&bench).plant(&below));
    let dir = dir_of(&wait(tree.top()).unwrap());
    assert_eq!(dir.len(), 100_000);
    let opened = || {
        let values = tree.engine().watch().values();
        values.iter().find(|(metric, _)| metric.name == "nodes_opened").expect("a counter").1
    };
    let before = opened();
    for number in [0, 1, 49_999, 77_777, 99_999] {
        let found = wait(dir.lookup(&name(number))).unwrap().expect("it is there");
        assert_eq!(found.name(), &name(number));
        assert_eq!(wait(dir.at(number)).unwrap().expect("it is there").name(), &name(number));
    }
    assert!(opened() - before <= 5 + 3, "{} nodes", opened() - before);
    for absent in [&b"!"[..], b"050000 some fil", b"050000 some file!", b"\xff"] {
        assert!(wait(dir.lookup(absent)).unwrap().is_none());
    }
    assert!(wait(dir.at(100_000)).unwrap().is_none() && wait(dir.page(u64::MAX, 9)).unwrap().is_empty());
    // Pages of any size, begun anywhere, give every entry once.
    let (mut next, mut steps) = (0u64, [1usize, 700, 3, 4096].iter().cycle());
    while next < 100_000 {
        let page = wait(dir.page(next, *steps.next().unwrap())).unwrap();
        for member in page {
            assert_eq!(member.name(), &name(next));
            next += 1;
        }
    }
}

#[test]
fn r12_attributes_of_every_size_are_read_back() {
    let (bench, _) = Bench::in_memory();
    let mut gardener = Gardener::new(&bench);
    let large = noise(1, limits::ATTRIBUTE_LEN_MAX as usize);
    let chunk = gardener.chunk(&large);
    let attribute =
        |name: &'static str, value| Attribute { name: Bytes::from_static(name.as_bytes()), value };
    let set = vec![
        attribute("security.capability", Value::Here(Bytes::from_static(b"\x01\0\0\x02"))),
        attribute("user.large", Value::Chunk { len: limits::ATTRIBUTE_LEN_MAX, child: chunk }),
        attribute("user.none", Value::Here(Bytes::new())),
    ];
    let apart = gardener.writer.add_tree(&TreeNode::Attributes(set.clone())).unwrap();
    let mut builder = DirBuilder::default();
    for (name, attributes) in [
        ("apart", Attributes::Node(apart)),
        ("here", Attributes::Here(set.into())),
        ("none", Attributes::None),
    ] {
        let entry = Entry { attributes, ..entry(name.as_bytes(), Content::Fifo) };
        builder.add(&mut gardener.writer, entry, Sighting::default()).unwrap();
    }
    let built = builder.finish(&mut gardener.writer).unwrap();
    let tree = tree(&bench, gardener.top(built.map(|(directory, _)| directory)));
    for name in ["apart", "here"] {
        let member = wait(tree.find(name.as_bytes())).unwrap().expect("it is there");
        assert_eq!(wait(member.attributes()).unwrap().len(), 3);
        assert_eq!(wait(member.attribute(b"user.large")).unwrap().unwrap(), large);
        assert_eq!(wait(member.attribute(b"user.none")).unwrap().unwrap(), Bytes::new());
        assert_eq!(wait(member.attribute(b"user.absent")).unwrap(), None);
    }
    assert!(wait(wait(tree.find(b"none")).unwrap().unwrap().attributes()).unwrap().is_empty());
}

#[test]
fn x_directories_deeper_than_any_path_are_refused_and_those_at_the_limit_are_not() {
    let (bench, _) = Bench::in_memory();
    let mut gardener = Gardener::new(&bench);
    let mut below = None;
    for _ in 0..=limits::TREE_DEPTH_MAX {
        let mut builder = DirBuilder::default();
        let entry = entry(b"d", Content::Directory(below));
        builder.add(&mut gardener.writer, entry, Sighting::default()).unwrap();
        below = builder.finish(&mut gardener.writer).unwrap().map(|(directory, _)| directory);
    }
    let tree = tree(&bench, gardener.top(below));
    let path = |depth: u16| b"d/".repeat(depth.into());
    let deepest = wait(tree.find(&path(limits::TREE_DEPTH_MAX))).unwrap().expect("it is there");
    assert_eq!(deepest.depth(), limits::TREE_DEPTH_MAX);
    let error = deepest.dir().err().expect("refused");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(wait(tree.find(&path(limits::TREE_DEPTH_MAX + 1))).is_err());
}

#[test]
fn p3_paths_go_through_directories_only_and_follow_nothing() {
    let (bench, _) = Bench::in_memory();
    let file = Plant::File(vec![(5, Some(1))]);
    let dir = Plant::Dir([(b"file".to_vec(), file.clone())].into());
    let below =
        [(b"dir".to_vec(), dir), (b"link".to_vec(), Plant::Link(b"dir".to_vec())), (b"file".to_vec(), file)];
    let tree = tree(&bench, Gardener::new(&bench).plant(&below.into()));
    let finds = |path: &str| wait(tree.find(path.as_bytes())).unwrap().is_some();
    for there in ["", "/", "dir", "/dir/", "dir//file", "link", "file"] {
        assert!(finds(there), "{there}");
    }
    for absent in ["link/file", "file/x", "dir/..", ".", "..", "dir/./file", "x"] {
        assert!(!finds(absent), "{absent}");
    }
}

#[test]
fn x2_a_directory_that_claims_more_than_it_has_is_refused() -> Result<()> {
    let (bench, _) = Bench::in_memory();
    let mut gardener = Gardener::new(&bench);
    let honest = gardener.dir(&[(b"a".to_vec(), Plant::Fifo), (b"b".to_vec(), Plant::Fifo)].into()).unwrap();
    for lie in [
        Directory { rows: 10_000_000, ..honest },
        Directory { level: 3, ..honest },
        Directory { totals: Totals { bytes: 1 << 60, ..honest.totals }, ..honest },
    ] {
        let mut gardener = Gardener::new(&bench);
        let again =
            gardener.dir(&[(b"a".to_vec(), Plant::Fifo), (b"b".to_vec(), Plant::Fifo)].into()).unwrap();
        assert_eq!(again.child.id, honest.child.id);
        let tree = tree(&bench, gardener.top(Some(Directory { child: again.child, ..lie })));
        let dir = dir_of(&wait(tree.top())?);
        assert_eq!(wait(dir.lookup(b"a")).err().expect("refused").kind(), Kind::Corrupt);
        assert_eq!(wait(dir.page(0, 10)).err().expect("refused").kind(), Kind::Corrupt);
    }
    Ok(())
}
