//! Shares from one repository to another, which has another key and cuts elsewhere: they are what they were, cost what differs, and hostile ones end.

use crate::fixture::{Bench, job as image_job, noise, read_whole, runtime, share_job, wait};
use crate::garden::{Garden, Plant, Plants, directory_plant, file, runs};
use crate::shares::{
    all, assert_same, back_up, content_of, job, kept_attributes, oddities, old, tree, write,
};
use afterimage::backup::{Input, Job, Parent, TreeCopy};
use afterimage::error::{Kind, Result};
use afterimage::format::limits;
use afterimage::format::node::Child;
use afterimage::format::record::{Content as ItemContent, Item, Record, Root};
use afterimage::format::tree::{
    Attribute, Attributes, Content, Directory, Entry, FileContent, Sighting, Spot, Time, Totals, TreeNode,
    Value,
};
use afterimage::image::tree::{Cursor, Member, Seen, Tree};
use afterimage::progress::{Cancel, Progress};
use afterimage::repo::names;
use afterimage::source::Facts;
use afterimage::source::fake::Fake;
use afterimage::store::fault::{Fault, Harm, When};
use afterimage::store::record::Call;
use afterimage::store::{MemStore, Record as Recorder, Verb};
use afterimage::sync::{self, Report, Wish};
use bytes::Bytes;
use rustix::fs::XattrFlags;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// At which offsets images are cut in the other repository.
const OTHER_CHUNK: u32 = 16 << 10;

/// A repository with backups, and one that is to have them too.
pub(crate) struct Sites {
    pub(crate) from: Bench,
    pub(crate) to: Bench,
    there: Arc<MemStore>,
    pub(crate) here: Arc<MemStore>,
}

impl Sites {
    pub(crate) fn new() -> Sites {
        let ((from, there), (to, here)) = (Bench::in_memory(), Bench::in_memory_cut_at(OTHER_CHUNK));
        Sites { from, to, there, here }
    }

    pub(crate) fn sync(&self) -> Report {
        copy(&self.from, &self.to).expect("copy")
    }

    /// The only backup that is missing.
    pub(crate) fn copied(&self) -> Record {
        let report = self.sync();
        assert!(report.left.is_empty(), "{:?}", report.left);
        let [copied] = report.copied.as_slice() else { panic!("{report:?}") };
        copied.clone()
    }

    /// The same, and what was asked of both stores for it.
    fn counted(&self) -> (Record, Vec<Call>, Vec<Call>) {
        let recorders = [&self.from, &self.to].map(|bench| {
            let recorder = Arc::new(Recorder::with_log(Arc::clone(&bench.store)));
            (bench.through(recorder.clone()), recorder)
        });
        let [(from, there), (to, here)] = recorders;
        let report = copy(&from, &to).expect("copy");
        let [copied] = report.copied.as_slice() else { panic!("{report:?}") };
        (copied.clone(), there.take_log(), here.take_log())
    }
}

pub(crate) fn copy(from: &Bench, to: &Bench) -> Result<Report> {
    let (from, to) = (from.engine()?, to.engine()?);
    sync::run(&from, &to, runtime(), &Wish::default(), &Progress::default(), &Cancel::default())
}

/// How many bytes came from packs.
fn fetched(log: &[Call]) -> u64 {
    let gets = log.iter().filter(|call| call.verb == Verb::Get && call.object.starts_with("packs/"));
    gets.map(|call| call.range.as_ref().map_or(0, |range| range.end - range.start)).sum()
}

/// Holds two trees to each other, entry by entry: all that entries say, every byte, and what of it is stored.
fn assert_equal(one: &Tree, other: &Tree) {
    let (one, other) = (all(one), all(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (path, a) in &one {
        let (b, path) = (&other[path], path.escape_ascii());
        let said = |member: &Member| {
            let entry = member.entry();
            (entry.mode, entry.owner.clone(), entry.mtime, entry.link, entry.changed, entry.totals())
        };
        assert_eq!(said(a), said(b), "{path}");
        assert!(kept_attributes(a) == kept_attributes(b), "{path}");
        match (&a.entry().content, &b.entry().content) {
            (Content::File(_), Content::File(_)) => {
                assert!(content_of(a) == content_of(b), "{path}");
                assert_holes_kept(a, b);
            }
            (Content::Directory(a), Content::Directory(b)) => {
                assert_eq!(a.map(|a| (a.rows, a.totals)), b.map(|b| (b.rows, b.totals)), "{path}");
            }
            (a, b) => assert_eq!(a, b, "{path}"),
        }
    }
}

/// What was a hole is one.
fn assert_holes_kept(before: &Member, after: &Member) {
    let (before, after) = (before.file().expect("a file"), after.file().expect("a file"));
    let mut at = 0;
    while at < before.len() {
        let here = wait(before.extent(at, before.len())).expect("an extent");
        at = here.range.end;
        if !here.data {
            let there = wait(after.extent(here.range.start, here.range.end)).expect("an extent");
            assert!(!there.data && there.range.end == here.range.end, "{here:?} {there:?}");
        }
    }
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    let _unsupported = rustix::fs::setxattr(path, name, value, XattrFlags::empty());
}

/// More of everything than [`oddities`] has.
fn share() -> TempDir {
    let dir = oddities();
    for number in 0..5000 {
        write(dir.path().join(format!("many/{number:x}")), number.to_string().as_bytes());
    }
    fs::create_dir_all(dir.path().join("nothing in it")).expect("make a directory");
    write(dir.path().join("larger"), &noise(77, 7 << 20));
    for number in 0..60 {
        attribute(&dir.path().join("chunk"), &format!("user.number {number}"), &noise(number, 40));
    }
    attribute(&dir.path().join("larger"), "user.large", &noise(1, 3000));
    dir
}

#[test]
fn p3_a_share_with_every_oddity_is_copied_and_is_what_it_was() {
    let (sites, dir) = (Sites::new(), share());
    let original = back_up(&sites.from, dir.path(), old()).unwrap();
    let copied = sites.copied();
    assert_equal(&tree(&sites.from, &original), &tree(&sites.to, &copied));
    assert_same(&tree(&sites.to, &copied), dir.path());
    sites.to.is_sound();
    let kept = |record: &Record| {
        let Record { id, name, time, written, tags, metadata, unread, .. } = record.clone();
        (id, name, time, written, tags, metadata, unread, record.items[0].source.clone())
    };
    assert_eq!(kept(&copied), kept(&original));
    assert_eq!((copied.repository, copied.kind()), (sites.to.list()[0].repository, "share"));
    let again = sites.sync();
    assert_eq!((again.copied.len(), again.present, again.left.len()), (0, 1, 0));
}

#[test]
fn a_copy_has_the_nodes_that_a_backup_made_there_has() {
    let (sites, dir) = (Sites::new(), share());
    // Where zeros that are stored begin or end may be where one of the keys has a chunk begin or end, and that chunk is none.
    fs::remove_file(dir.path().join("holes")).unwrap();
    // A group of links is told by the key.
    for (path, _) in crate::shares::there(dir.path()) {
        let path = dir.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path));
        let stat = path.symlink_metadata().unwrap();
        if !stat.is_dir() && stat.nlink() > 1 {
            fs::remove_file(path).unwrap();
        }
    }
    let _original = back_up(&sites.from, dir.path(), old()).unwrap();
    let copied = sites.copied();
    let made = sites.to.run(Job { parent: Parent::None, ..job(dir.path(), old()).unwrap() }).unwrap();
    assert_eq!((made.items[0].root().id, made.stats.bytes_new), (copied.items[0].root().id, 0));
    let sightings = |record: &Record| match record.items[0].content {
        ItemContent::Tree { sightings, .. } => sightings.map(|root| root.id),
        ItemContent::Image { .. } => None,
    };
    assert_eq!(sightings(&made), sightings(&copied));
}

#[test]
fn p3_the_next_backup_of_the_share_itself_reads_only_what_changed_since_the_copy() {
    let (sites, dir) = (Sites::new(), share());
    let _original = back_up(&sites.from, dir.path(), old()).unwrap();
    let _copied = sites.copied();
    write(dir.path().join("deep/er/new"), &noise(8, 700));
    let next = back_up(&sites.to, dir.path(), old()).unwrap();
    assert_eq!(next.stats.bytes_read, 700);
    assert_same(&tree(&sites.to, &next), dir.path());
}

#[test]
fn p3_a_second_copy_costs_what_differs() {
    let (sites, dir) = (Sites::new(), share());
    let _first = back_up(&sites.from, dir.path(), old()).unwrap();
    let _copied = sites.copied();
    write(dir.path().join("many/7ff"), &noise(1, 5000));
    write(dir.path().join("deep/er/new"), &noise(2, 6000));
    fs::remove_file(dir.path().join("over")).unwrap();
    let second = back_up(&sites.from, dir.path(), old()).unwrap();
    let (copied, there, here) = sites.counted();
    assert_eq!(copied.stats.bytes_read, 11_000);
    assert_eq!(copied.parent, second.parent);
    assert!(fetched(&there) < 250_000 && fetched(&here) < 250_000, "{} {}", fetched(&there), fetched(&here));
    assert_equal(&tree(&sites.from, &second), &tree(&sites.to, &copied));
    assert_same(&tree(&sites.to.elsewhere(), &copied), dir.path());
    sites.to.is_sound();
    // Nothing changed at all.
    let _third = back_up(&sites.from, dir.path(), old()).unwrap();
    let (copied, there, here) = sites.counted();
    assert_eq!((copied.stats.bytes_read, copied.stats.bytes_new), (0, 0));
    assert!(fetched(&there) < 20_000 && fetched(&here) < 20_000, "{} {}", fetched(&there), fetched(&here));
    sites.to.is_sound();
}

#[test]
fn v_of_a_huge_directory_the_nodes_around_a_change_are_read_and_no_others() {
    let (sites, dir) = (Sites::new(), tempfile::tempdir().unwrap());
    for number in 0..30_000 {
        write(dir.path().join(format!("{number:05}")), number.to_string().as_bytes());
    }
    let _first = back_up(&sites.from, dir.path(), old()).unwrap();
    let _copied = sites.copied();
    write(dir.path().join("15000x"), b"new");
    fs::remove_file(dir.path().join("00001")).unwrap();
    let second = back_up(&sites.from, dir.path(), old()).unwrap();
    let (copied, there, here) = sites.counted();
    let gets = |log: &[Call]| log.iter().filter(|call| call.verb == Verb::Get).count();
    assert!(gets(&there) < 40 && gets(&here) < 60, "{} {}", gets(&there), gets(&here));
    assert_same(&tree(&sites.to, &copied), dir.path());
    let made = sites.to.run(Job { parent: Parent::None, ..job(dir.path(), old()).unwrap() }).unwrap();
    assert_eq!(made.items[0].root().id, copied.items[0].root().id, "nodes end where they would have");
    assert_equal(&tree(&sites.from, &second), &tree(&sites.to, &copied));
    sites.to.is_sound();
}

#[test]
fn what_got_another_name_or_was_only_touched_is_not_read_again() {
    let (sites, dir) = (Sites::new(), oddities());
    let at = |name: &str| dir.path().join(name);
    for number in 0..20 {
        write(at(&format!("moves/{number}")), &noise(number, 3000));
    }
    let _first = back_up(&sites.from, dir.path(), old()).unwrap();
    let _copied = sites.copied();
    fs::rename(at("moves"), at("moved")).unwrap();
    fs::rename(at("large"), at("large as before")).unwrap();
    fs::set_permissions(at("over"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(at("over"), fs::Permissions::from_mode(0o6751)).unwrap();
    let second = back_up(&sites.from, dir.path(), old()).unwrap();
    let copied = sites.copied();
    assert_eq!((copied.stats.bytes_read, copied.stats.bytes_new), (0, 0));
    assert_equal(&tree(&sites.from, &second), &tree(&sites.to, &copied));
    let next = back_up(&sites.to, dir.path(), old()).unwrap();
    assert_eq!(next.stats.bytes_read, 0, "what was seen since came along");
    sites.to.is_sound();
}

#[test]
fn files_with_many_names_are_copied_once() {
    let (sites, dir) = (Sites::new(), tempfile::tempdir().unwrap());
    write(dir.path().join("a/small"), &noise(3, 100_000));
    write(dir.path().join("a/large"), &noise(4, 3 << 20));
    for number in 0..100 {
        fs::create_dir_all(dir.path().join(format!("d{number}"))).unwrap();
        for name in ["small", "large"] {
            let other = dir.path().join(format!("d{number}/{name}"));
            fs::hard_link(dir.path().join("a").join(name), other).unwrap();
        }
    }
    let original = back_up(&sites.from, dir.path(), old()).unwrap();
    let copied = sites.copied();
    assert_eq!(copied.stats.bytes_read, 100_000 + (3 << 20));
    assert_equal(&tree(&sites.from, &original), &tree(&sites.to, &copied));
    assert_same(&tree(&sites.to, &copied), dir.path());
    sites.to.is_sound();
}

#[test]
fn a_set_goes_along_with_its_disk_and_its_share() {
    let (sites, dir) = (Sites::new(), oddities());
    let make = |image: &[u8]| {
        let mut set = job(dir.path(), old()).unwrap();
        set.items.extend(image_job("set", Fake::of(image.to_vec())).items);
        set.copy_of = None;
        Job { name: "set".to_owned(), ..set }
    };
    let mut image = noise(1, 300_000);
    let _first = sites.from.run(make(&image)).unwrap();
    let _copied = sites.copied();
    image[150_000] ^= 1;
    write(dir.path().join("deep/new"), &noise(9, 900));
    let second = sites.from.run(make(&image)).unwrap();
    let copied = sites.copied();
    assert_eq!(copied.kind(), "set");
    assert!(copied.stats.bytes_read <= 900 + u64::from(OTHER_CHUNK), "{:?}", copied.stats);
    assert_equal(&tree(&sites.from, &second), &tree(&sites.to, &copied));
    let engine = sites.to.engine().unwrap();
    let map = crate::fixture::map(&copied.items[1]);
    assert!(read_whole(&afterimage::image::Image::new(engine, map)).unwrap() == image);
    sites.to.is_sound();
}

#[test]
fn p2_what_an_interrupted_copy_has_sent_is_not_stored_again() {
    let (sites, dir) = (Sites::new(), oddities());
    let original = back_up(&sites.from, dir.path(), old()).unwrap();
    let fault = Arc::new(Fault::new(Arc::clone(&sites.to.store), 1));
    fault.plan_under(Verb::Put, "backups/", When::From(1), Harm::Fails(Kind::Unreachable));
    let error = copy(&sites.from, &sites.to.through(fault)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    assert!(sites.to.list().is_empty());
    let copied = sites.copied();
    assert_eq!(copied.stats.bytes_new, 0);
    assert_equal(&tree(&sites.from, &original), &tree(&sites.to, &copied));
    sites.to.is_sound();
}

/// No file of this length is ever cut, and none is kept in its directory.
const IN_ONE_CHUNK: usize = 1500;

/// The chunk of a file that has one.
fn chunk_of(tree: &Tree, path: &str) -> Child {
    let found = wait(tree.find(path.as_bytes())).unwrap().expect("it is there");
    let Content::File(FileContent::Chunk { child, .. }) = found.entry().content else { panic!("no chunk") };
    child
}

fn harm(store: &MemStore, child: &Child) {
    let at = child.place.offset as usize + 40;
    store.harm(&names::pack(child.place.pack).unwrap(), |bytes| bytes[at] ^= 1).expect("a pack");
}

#[test]
fn c4_a_share_that_is_damaged_is_named_with_its_file_and_the_others_are_copied() {
    let (sites, dir, other) = (Sites::new(), tempfile::tempdir().unwrap(), oddities());
    for number in 0..20 {
        write(dir.path().join(format!("docs/file-{number}")), &noise(number, IN_ONE_CHUNK));
    }
    let bad = sites.from.run(Job { name: "bad".to_owned(), ..job(dir.path(), old()).unwrap() }).unwrap();
    let good = back_up(&sites.from, other.path(), old()).unwrap();
    harm(&sites.there, &chunk_of(&tree(&sites.from, &bad), "docs/file-7"));
    let report = sites.sync();
    let [(id, error)] = report.left.as_slice() else { panic!("{report:?}") };
    assert_eq!((*id, error.kind()), (bad.id, Kind::Corrupt));
    assert!(error.to_string().contains("docs/file-7"), "{error}");
    assert_eq!(sites.to.ids(), [good.id]);
    sites.to.is_sound();
}

#[test]
fn c4_what_a_check_found_damaged_in_the_copy_is_read_and_stored_again() {
    let (sites, dir) = (Sites::new(), oddities());
    for number in 0..20 {
        write(dir.path().join(format!("docs/file-{number}")), &noise(number, IN_ONE_CHUNK));
    }
    let _first = back_up(&sites.from, dir.path(), old()).unwrap();
    let copied = sites.copied();
    harm(&sites.here, &chunk_of(&tree(&sites.to, &copied), "docs/file-7"));
    let noted = afterimage::upkeep::Options { read_percent: 100.0, only: Vec::new(), note: true };
    assert_eq!(sites.to.check_as(&noted).unwrap().damaged.len(), 1);
    let second = back_up(&sites.from, dir.path(), old()).unwrap();
    let healed = sites.copied();
    assert!(healed.stats.bytes_new >= IN_ONE_CHUNK as u64, "{:?}", healed.stats);
    assert_equal(&tree(&sites.from, &second), &tree(&sites.to, &healed));
}

#[test]
fn c4_nodes_that_are_gone_from_the_copy_are_made_again() {
    let (sites, dir) = (Sites::new(), oddities());
    let _first = back_up(&sites.from, dir.path(), old()).unwrap();
    let copied = sites.copied();
    let nodes = names::pack(copied.items[0].root().place.pack).unwrap();
    wait(sites.to.store.delete(&nodes)).unwrap();
    write(dir.path().join("deep/new"), b"new");
    let second = back_up(&sites.from, dir.path(), old()).unwrap();
    let again = sites.copied();
    assert_equal(&tree(&sites.from, &second), &tree(&sites.to, &again));
    let only = vec![again.id];
    let options = afterimage::upkeep::Options { read_percent: 100.0, only, note: false };
    let report = sites.to.check_as(&options).unwrap();
    let hurt: Vec<_> = report.damaged.iter().filter(|damage| damage.backup.is_some()).collect();
    assert!(hurt.is_empty(), "{hurt:#?}");
}

fn item_of(tree: &Tree) -> Item {
    let content = ItemContent::Tree { files: 0, bytes: 0, root: *tree.root(), sightings: None };
    Item { name: "tree".to_owned(), content, source: Default::default(), changed_while_read: false }
}

/// A copy of a tree that was made by hand.
fn copy_tree(sites: &Sites, tree: &Tree, sightings: Option<Root>) -> Result<Record> {
    let copy = TreeCopy::new(tree.engine(), (*tree.root(), sightings), Facts::default(), None);
    copy_over(sites, copy, Parent::None)
}

fn copy_over(sites: &Sites, copy: TreeCopy, parent: Parent) -> Result<Record> {
    sites.to.run(share_job(Input::Copy(Box::new(copy)), parent))
}

fn named(name: &[u8], plant: Plant) -> Entry {
    Entry { name: Bytes::copy_from_slice(name), ..plant.entry }
}

fn with_top(sites: &Sites, garden: Garden, below: Directory) -> Tree {
    garden.finish(&sites.from, Entry { content: Content::Directory(Some(below)), ..directory_plant().entry })
}

fn with_entries(sites: &Sites, mut garden: Garden, entries: Vec<Entry>) -> Tree {
    let (rows, totals) = (entries.len() as u64, entries.iter().map(Entry::totals).sum());
    let child = garden.node(&TreeNode::Leaf(entries));
    with_top(sites, garden, Directory { child, level: 0, rows, totals })
}

#[test]
fn extended_attributes_of_every_size_and_number_keep_their_values() {
    let sites = Sites::new();
    let mut garden = Garden::new(&sites.from);
    let mut set = |count: usize, len: usize| -> Vec<Attribute> {
        let one = |number: usize| {
            let value = noise((count * 1000 + number) as u64, len + number);
            let name = format!("user.{number:05}").into_bytes().into();
            let value = match value.len() {
                0..=256 => Value::Here(value.into()),
                len => Value::Chunk { len: len as u32, child: garden.chunk(&value) },
            };
            Attribute { name, value }
        };
        (0..count).map(one).collect()
    };
    let (small, large, many) = (set(3, 10), set(4, 255), set(3000, 20));
    let most = vec![Attribute {
        name: Bytes::from_static(b"user.most"),
        value: Value::Chunk { len: 65_536, child: garden.chunk(&noise(9, 65_536)) },
    }];
    let many = garden.node(&TreeNode::Attributes(many));
    let sets = [
        Attributes::Here(small.into()),
        Attributes::Here(large.into()),
        Attributes::Here(most.into()),
        Attributes::Node(many),
    ];
    let dressed = |name: String, plant: Plant, attributes: &Attributes| Entry {
        attributes: attributes.clone(),
        ..named(name.as_bytes(), plant)
    };
    let mut entries = Vec::new();
    for (number, attributes) in sets.iter().enumerate() {
        entries.push(dressed(format!("a {number}"), directory_plant(), attributes));
    }
    for (number, attributes) in sets.iter().enumerate() {
        entries.push(dressed(format!("b {number}"), file(b"inline"), attributes));
    }
    for (number, attributes) in sets.iter().enumerate() {
        let child = garden.chunk(&noise(number as u64, 5000));
        let content = Content::File(FileContent::Chunk { len: 5000, child });
        entries.push(Entry { content, ..dressed(format!("c {number}"), file(b""), attributes) });
    }
    let original = with_entries(&sites, garden, entries);
    let record = copy_tree(&sites, &original, None).unwrap();
    assert_equal(&original, &tree(&sites.to, &record));
    sites.to.is_sound();
}

#[test]
fn other_attributes_are_no_reason_to_read_what_is_in_a_file_or_a_directory() {
    let sites = Sites::new();
    let grow = |seed: u64| {
        let mut garden = Garden::new(&sites.from);
        let child = garden.chunk(&noise(seed, 3000));
        let value = Value::Chunk { len: 3000, child };
        let set = vec![Attribute { name: Bytes::from_static(b"user.acl"), value }];
        let node = garden.node(&TreeNode::Attributes(set.clone()));
        let stored = |garden: &mut Garden, name: &[u8], len: usize| {
            let child = garden.chunk(&noise(len as u64, len));
            let content = Content::File(FileContent::Chunk { len: len as u32, child });
            Entry { content, attributes: Attributes::Here(set.clone().into()), ..named(name, file(b"")) }
        };
        let inside = vec![stored(&mut garden, b"a", 4000), stored(&mut garden, b"b", 5000)];
        let inside = inside.into_iter().map(|entry| Entry { attributes: Attributes::None, ..entry });
        let inside: Vec<Entry> = inside.collect();
        let (rows, totals) = (inside.len() as u64, inside.iter().map(Entry::totals).sum());
        let child = garden.node(&TreeNode::Leaf(inside));
        let content = Content::Directory(Some(Directory { child, level: 0, rows, totals }));
        let below =
            Entry { content, attributes: Attributes::Node(node), ..named(b"docs", directory_plant()) };
        let entries = vec![below, stored(&mut garden, b"file", 6000)];
        with_entries(&sites, garden, entries)
    };
    let (first, second) = (grow(1), grow(2));
    let copied = copy_tree(&sites, &first, None).unwrap();
    assert_eq!(copied.stats.bytes_read, 4000 + 5000 + 6000);
    let top = (*second.root(), None);
    let copy = TreeCopy::new(second.engine(), top, Facts::default(), Some(&item_of(&first)));
    let again = copy_over(&sites, copy, Parent::Of(copied.id)).unwrap();
    assert_eq!(again.stats.bytes_read, 0);
    assert_equal(&second, &tree(&sites.to, &again));
    assert_equal(&first, &tree(&sites.to, &copied));
    sites.to.is_sound();
}

#[test]
fn holes_of_files_of_any_size_stay_holes_and_contents_that_others_wrote_stay_contents() {
    let sites = Sites::new();
    let mut plants = Plants::new();
    let mut plant = |path: &str, plant: Plant| drop(plants.insert(path.as_bytes().to_vec(), plant));
    plant("small", runs(vec![Ok(noise(1, 700)), Err(64 << 10), Ok(noise(2, 900)), Err(5)]));
    plant("large", runs(vec![Err(1), Ok(noise(3, 40_000)), Err(3 << 20), Ok(noise(4, 4096)), Err(1 << 20)]));
    plant("huge", runs(vec![Err(1 << 60), Ok(noise(5, 10)), Err(1 << 61), Ok(noise(6, 20))]));
    plant("zeros", runs(vec![Err(3)]));
    plant("beside", runs(vec![Ok(noise(7, 30)), Ok(noise(8, 40)), Ok(noise(9, 50))]));
    plant("empty", file(b""));
    let original = Garden::new(&sites.from).plant(&sites.from, &plants);
    let record = copy_tree(&sites, &original, None).unwrap();
    let copied = tree(&sites.to, &record);
    let (before, after) = (all(&original), all(&copied));
    for (path, member) in &before {
        if member.file().is_some() {
            assert_holes_kept(member, &after[path]);
        }
    }
    let small = |tree: &BTreeMap<Vec<u8>, Member>, path: &str| content_of(&tree[path.as_bytes()]);
    for path in ["small", "large", "zeros", "beside", "empty"] {
        assert!(small(&before, path) == small(&after, path), "{path}");
    }
    let huge = after[&b"huge"[..]].file().unwrap();
    assert_eq!(huge.len(), (1 << 60) + 10 + (1 << 61) + 20);
    assert!(wait(huge.read_at(1 << 60, 10)).unwrap() == noise(5, 10));
    assert!(wait(huge.read_at(huge.len() - 20, 20)).unwrap() == noise(6, 20));
    let Content::File(content) = &after[&b"beside"[..]].entry().content else { panic!("no file") };
    assert_eq!(*content, FileContent::Inline([noise(7, 30), noise(8, 40), noise(9, 50)].concat().into()));
    sites.to.is_sound();
}

#[test]
fn what_was_seen_of_a_source_comes_along_and_what_is_lost_of_it_is_done_without() {
    let sites = Sites::new();
    let mut garden = Garden::new(&sites.from);
    let entries = vec![named(b"a", file(b"one")), named(b"b", file(b"two"))];
    let all: Totals = entries.iter().map(Entry::totals).sum();
    let leaf = garden.node(&TreeNode::Leaf(entries));
    let spot = Some(Spot { inode: 42, ctime: Time { secs: 7, nanos: 8 } });
    let rows = vec![Sighting { spot, below: None }, Sighting::default()];
    let sightings = |of, rows| TreeNode::Sightings(afterimage::format::tree::Sightings { of, rows });
    let beside = garden.node(&sightings(leaf.id, rows.clone()));
    let below = Directory { child: leaf, level: 0, rows: 2, totals: all };
    let top = Entry { content: Content::Directory(Some(below)), ..directory_plant().entry };
    let as_root = |child: Child| Root { id: child.id, place: child.place, level: 0, chunk_size: 0 };
    let root = garden.node(&TreeNode::Top(top));
    let right = garden.node(&sightings(root.id, vec![Sighting { spot, below: Some(beside) }]));
    let wrong = garden.node(&sightings(leaf.id, vec![Sighting { spot, below: Some(beside) }]));
    let original = garden.publish(&sites.from, as_root(root));
    let spots = |record: &Record| {
        let ItemContent::Tree { root, sightings, .. } = record.items[0].content else { panic!("no tree") };
        let tree = Tree::new(sites.to.engine().unwrap(), root);
        let top = wait(Seen::top(&tree, sightings.as_ref())).unwrap();
        let mut cursor = top.cursor().unwrap().unwrap();
        wait(cursor.open()).unwrap();
        let below: Vec<_> = cursor.take_leaf().iter().map(|row| row.sighting.spot).collect();
        (top.sighting.spot, below)
    };
    let copied = copy_tree(&sites, &original, Some(as_root(right))).unwrap();
    assert_eq!(spots(&copied), (spot, vec![spot, None]));
    for lost in [Some(as_root(wrong)), None] {
        let copied = copy_tree(&sites, &original, lost).unwrap();
        assert_eq!(spots(&copied), (None, vec![None, None]));
    }
    sites.to.is_sound();
}

#[test]
fn x2_a_tree_that_refers_to_itself_again_and_again_is_copied_once() {
    let sites = Sites::new();
    let mut garden = Garden::new(&sites.from);
    let leaf = garden.node(&TreeNode::Leaf(vec![named(b"file", file(b""))]));
    let totals = Totals { files: 1, directories: 0, bytes: 0 };
    let mut below = Directory { child: leaf, level: 0, rows: 1, totals };
    for _ in 0..5 {
        let entry = |number: u32| {
            let content = Content::Directory(Some(below));
            Entry { content, ..named(format!("{number:04}").as_bytes(), directory_plant()) }
        };
        let entries: Vec<Entry> = (0..1000).map(entry).collect();
        let totals = entries.iter().map(Entry::totals).sum();
        below = Directory { child: garden.node(&TreeNode::Leaf(entries)), level: 0, rows: 1000, totals };
    }
    let original = with_top(&sites, garden, below);
    let record = copy_tree(&sites, &original, None).unwrap();
    let copied = tree(&sites.to, &record);
    assert_eq!(wait(copied.top()).unwrap().totals(), wait(original.top()).unwrap().totals());
    assert_eq!(wait(copied.top()).unwrap().totals().files, 10u64.pow(15));
    assert!(wait(copied.find(b"0999/0000/0500/0001/0007/file")).unwrap().is_some());
}

#[test]
fn x2_a_tree_deeper_than_any_path_is_refused() {
    let sites = Sites::new();
    let grow = |depth: u16| {
        let mut garden = Garden::new(&sites.from);
        let mut below: Option<Directory> = None;
        for _ in 0..depth {
            let entry = Entry { content: Content::Directory(below), ..named(b"d", directory_plant()) };
            let totals = entry.totals();
            let child = garden.node(&TreeNode::Leaf(vec![entry]));
            below = Some(Directory { child, level: 0, rows: 1, totals });
        }
        with_top(&sites, garden, below.unwrap())
    };
    let deepest = copy_tree(&sites, &grow(limits::TREE_DEPTH_MAX), None).unwrap();
    assert_eq!(
        wait(tree(&sites.to, &deepest).top()).unwrap().totals().directories,
        u64::from(limits::TREE_DEPTH_MAX) + 1
    );
    let error = copy_tree(&sites, &grow(limits::TREE_DEPTH_MAX + 1), None).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert_eq!(sites.to.list().len(), 1);
}

#[test]
fn x2_names_sums_and_lengths_that_lie_are_corrupt() {
    let sites = Sites::new();
    let lies: [fn(&mut Garden) -> Vec<Entry>; 6] = [
        |_| vec![named(b"..", file(b""))],
        |_| vec![named(b"a/b", file(b""))],
        |_| vec![named(b"b", file(b"")), named(b"a", file(b""))],
        |garden| {
            let child = garden.node(&TreeNode::Leaf(vec![named(b"a", file(b""))]));
            let totals = Totals { files: 9, directories: 0, bytes: 0 };
            let below = Directory { child, level: 0, rows: 9, totals };
            vec![Entry { content: Content::Directory(Some(below)), ..named(b"d", directory_plant()) }]
        },
        |garden| {
            let child = garden.chunk(&noise(1, 1000));
            let content = Content::File(FileContent::Chunk { len: 5000, child });
            vec![Entry { content, ..named(b"a", file(b"")) }]
        },
        |garden| {
            let child = garden.chunk(&noise(1, 1000));
            let content = Content::File(FileContent::Map { len: 2 << 20, data: 1, level: 0, child });
            vec![Entry { content, ..named(b"a", file(b"")) }]
        },
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut garden = Garden::new(&sites.from);
        let entries = lie(&mut garden);
        let error = copy_tree(&sites, &with_entries(&sites, garden, entries), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{number}: {error}");
    }
    assert!(sites.to.list().is_empty());
}

#[test]
fn a_copy_that_is_not_what_its_record_says_is_not_listed() {
    let (sites, dir) = (Sites::new(), oddities());
    let mut original = back_up(&sites.from, dir.path(), old()).unwrap();
    let ItemContent::Tree { files, .. } = &mut original.items[0].content else { panic!("no tree") };
    *files += 1;
    let (from, to) = (sites.from.engine().unwrap(), sites.to.engine().unwrap());
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let sides = sync::Sides {
        from: &from,
        to: &to,
        runtime: runtime(),
        digest: false,
        progress: &progress,
        cancel: &cancel,
    };
    let error = sides.copy(&original, &[], &BTreeMap::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(sites.to.list().is_empty());
}

#[test]
fn a_cursor_finds_what_is_asked_for_in_order_and_opens_nothing_in_vain() {
    let sites = Sites::new();
    let mut plants = Plants::new();
    for number in 0..6000 {
        let _new = plants.insert(format!("{number:06}").into_bytes(), file(b"content of a file"));
    }
    let original = Garden::new(&sites.from).plant(&sites.from, &plants);
    let cursor = || -> Cursor {
        let seen = Seen { member: wait(original.top()).unwrap(), sighting: Sighting::default() };
        seen.cursor().unwrap().expect("a directory")
    };
    let mut every = cursor();
    for number in (0..6000).step_by(7) {
        let name = format!("{number:06}");
        assert_eq!(wait(every.find(name.as_bytes())).unwrap().expect("it is there").member.name(), &name);
        assert!(wait(every.find(format!("{name}x").as_bytes())).unwrap().is_none());
    }
    assert!(wait(every.find(b"zzz")).unwrap().is_none() && every.look().is_none());
    let Content::Directory(Some(top)) = wait(original.top()).unwrap().entry().content else { panic!("none") };
    assert!(top.level > 0);
    let fresh = Tree::new(sites.from.engine().unwrap(), *original.root());
    let opened = |tree: &Tree| {
        let values = tree.engine().watch().values();
        values.iter().find(|(metric, _)| metric.name == "nodes_opened").expect("a counter").1
    };
    let seen = Seen { member: wait(fresh.top()).unwrap(), sighting: Sighting::default() };
    let mut few = seen.cursor().unwrap().unwrap();
    let before = opened(&fresh);
    assert!(wait(few.find(b"003000")).unwrap().is_some() && wait(few.find(b"005999")).unwrap().is_some());
    assert_eq!(opened(&fresh) - before, u64::from(top.level) + 2, "two leaves");
    assert!(wait(few.seek(b"000000", 0)).unwrap().is_none(), "never back");
}
