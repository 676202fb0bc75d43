//! C: damage of every kind to every kind of object is an error or does not show, is named, and spares the rest.

use crate::fixture::{Bench, CHUNK, chunks, image, job, map, noise, wait};
use afterimage::error::Kind;
use afterimage::format::ids::SealKind;
use afterimage::format::index::{PackRows, write_parts, write_supersedes};
use afterimage::format::record::Record;
use afterimage::format::{BackupId, ChunkId, ObjectId, PackId, object};
use afterimage::repo::{Repository, names};
use afterimage::seal::{LEVEL_DEFAULT, Seal, Sealed, Under};
use afterimage::source::fake::Fake;
use afterimage::store::{MemStore, Name, Store};
use afterimage::upkeep::{Options, Report};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes at the beginning and the end of an object of which each is flipped; of those between every ninth.
const EDGE: usize = 64;

/// Three backups; the third shares all but one chunk with the first.
struct Three {
    bench: Bench,
    store: Arc<MemStore>,
    records: Vec<(Record, Vec<u8>)>,
}

impl Three {
    fn new() -> Three {
        let (bench, store) = Bench::in_memory();
        let (one, two) = (chunks(1, 5), chunks(2, 3));
        let mut third = one.clone();
        third[2 * CHUNK..3 * CHUNK].copy_from_slice(&chunks(3, 1));
        let contents = [("one", one), ("two", two), ("one", third)];
        let records =
            contents.map(|(name, bytes)| (bench.backup(name, Fake::of(bytes.clone())).unwrap(), bytes));
        Three { bench, store, records: records.into() }
    }

    /// Which of the backups read as they should. One that gives other bytes, or is listed twice, is the end.
    fn readable(&self) -> Vec<bool> {
        readable(&self.bench.elsewhere(), &self.records)
    }

    fn harmed<T>(&self, name: &Name, bytes: Vec<u8>, look: impl FnOnce() -> T) -> T {
        harmed(&self.store, name, bytes, look)
    }
}

/// What is seen while an object has other bytes.
fn harmed<T>(store: &MemStore, name: &Name, bytes: Vec<u8>, look: impl FnOnce() -> T) -> T {
    let mut before = bytes;
    store.harm(name, |now| std::mem::swap(now, &mut before)).expect("the object is there");
    let seen = look();
    store.harm(name, |now| *now = before).expect("the object is there");
    seen
}

fn readable(bench: &Bench, records: &[(Record, Vec<u8>)]) -> Vec<bool> {
    let Ok(engine) = bench.engine() else { return vec![false; records.len()] };
    let listing = wait(engine.repository().unwrap().list()).expect("damage is no reason not to list");
    let one = |(record, bytes): &(Record, Vec<u8>)| {
        let found: Vec<&Record> = listing.records.iter().filter(|found| found.id == record.id).collect();
        let [found] = found.as_slice() else {
            assert!(listing.damaged.iter().any(|(id, _)| *id == record.id) || found.is_empty());
            return false;
        };
        assert_eq!(map(&found.items[0]), map(&record.items[0]), "a record says something else");
        match crate::fixture::read_whole(&image(&engine, found)) {
            Ok(read) => {
                assert!(read == *bytes, "other bytes");
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt, "{error}");
                false
            }
        }
    };
    records.iter().map(one).collect()
}

fn blamed(report: &Report) -> Vec<&str> {
    let mut objects: Vec<&str> = report.damaged.iter().map(|damage| damage.object.as_str()).collect();
    objects.sort_unstable();
    objects.dedup();
    objects
}

/// Every harm that is done to an object of these bytes, with what to call it.
fn harms(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let in_edge = |at: usize| at < EDGE || at + EDGE >= bytes.len();
    for at in (0..bytes.len()).filter(|at| in_edge(*at) || at % 9 == 0) {
        let mut bad = bytes.to_vec();
        bad[at] ^= 1 << (at % 8);
        all.push((format!("bit {} of byte {at} flipped", at % 8), bad));
    }
    for len in (0..bytes.len()).filter(|len| len % 61 == 0 || len + 45 >= bytes.len()) {
        all.push((format!("cut to {len} bytes"), bytes[..len].to_vec()));
    }
    for more in [1, 40, 5000] {
        all.push((format!("{more} bytes appended"), [bytes, &vec![0; more]].concat()));
    }
    all.push(("itself appended".into(), bytes.repeat(2)));
    all.push(("all zero".into(), vec![0; bytes.len()]));
    all
}

/// Harms one object in every way.
fn harm_in_every_way(three: &Three, name: &Name) {
    let whole = three.bench.bytes(name);
    wait(three.store.delete(name)).unwrap();
    let without = three.readable();
    wait(three.store.put(name, whole.clone().into())).unwrap();
    assert_eq!(three.readable(), [true; 3], "{name}");
    for (number, (what, bytes)) in harms(&whole).into_iter().enumerate() {
        three.harmed(name, bytes, || {
            let readable = three.readable();
            for (backup, (readable, without)) in readable.iter().zip(&without).enumerate() {
                assert!(readable >= without, "{name} {what}: backup {backup} does not need it");
            }
            if number % 10 == 0 {
                check_blames(three, name, &what, &readable);
            }
        });
    }
}

/// A check either can't open the repository at all, or blames this object alone, and every backup that does not read.
fn check_blames(three: &Three, name: &Name, what: &str, readable: &[bool]) {
    let bench = three.bench.elsewhere();
    if bench.repository().is_err() {
        return;
    }
    let report = bench.check().unwrap_or_else(|error| panic!("{name} {what}: {error}"));
    let of_key = name.as_str().starts_with("keys/") || name.as_str() == "afterimage.json";
    assert!(of_key || blamed(&report) == [name.as_str()], "{name} {what}: {:#?}", report.damaged);
    for ((record, _), readable) in three.records.iter().zip(readable) {
        let hurt = |damage: &afterimage::upkeep::Damage| damage.backup == Some(record.id.to_string());
        assert!(*readable || report.damaged.iter().any(hurt), "{name} {what}: {} is not named", record.id);
    }
}

#[test]
fn c1_harm_to_a_pack_never_shows_as_other_bytes_and_is_blamed_on_it() {
    let three = Three::new();
    let packs = three.bench.names("packs/");
    assert_eq!(packs.len(), 6, "one for data and one for nodes each");
    packs.iter().for_each(|pack| harm_in_every_way(&three, pack));
}

#[test]
fn c1_harm_to_a_record_hurts_that_backup_alone() {
    let three = Three::new();
    three.bench.names("backups/").iter().for_each(|record| harm_in_every_way(&three, record));
}

#[test]
fn c1_harm_to_an_index_hurts_no_backup_and_is_blamed_on_it() {
    let three = Three::new();
    for index in three.bench.names("index/") {
        harm_in_every_way(&three, &index);
        let cut = three.bench.bytes(&index)[..50].to_vec();
        three.harmed(&index, cut, || assert_eq!(three.readable(), [true; 3]));
    }
}

#[test]
fn c1_harm_to_the_configuration_or_the_only_key_opens_nothing_or_changes_nothing() {
    let three = Three::new();
    let mut names = three.bench.names("keys/");
    names.push(Name::parse("afterimage.json").unwrap());
    names.iter().for_each(|name| harm_in_every_way(&three, name));
}

#[test]
fn c1_one_damaged_key_slot_does_not_keep_another_from_opening() {
    let (bench, store) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(chunks(1, 2))).unwrap();
    let [open] = &bench.names("keys/")[..] else { panic!("one slot") };
    let password = afterimage::seal::Password::new(b"a password".to_vec());
    let _slot = wait(bench.repository().unwrap().add_key(&password)).unwrap();
    let text = String::from_utf8(bench.bytes(open)).unwrap();
    let key = text.find("\"key\": \"").unwrap() + 8;
    for harm in ["digit", "cut"] {
        let mut bytes = text.clone().into_bytes();
        match harm {
            "digit" => bytes[key] = if bytes[key] == b'0' { b'1' } else { b'0' },
            _ => bytes.truncate(key),
        }
        harmed(&store, open, bytes, || {
            let cache = tempfile::tempdir().unwrap();
            let mut ask = || Ok(password.clone());
            let repository = wait(Repository::open(bench.store.clone(), cache.path(), &mut ask));
            let found = wait(repository.unwrap_or_else(|error| panic!("{harm}: {error}")).record(record.id));
            assert_eq!(found.unwrap().id, record.id);
        });
    }
}

#[test]
fn c1_harm_to_a_note_of_damage_or_a_catalogue_costs_nothing_but_time_and_is_named() {
    let (bench, store) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(chunks(1, 4))).unwrap();
    let bytes = bench.read(&record).unwrap();
    publish_copies(&bench, &record, 80);
    wait(bench.repository().unwrap().merge_catalogue()).unwrap();
    let pack = PackId([9; 16]);
    let note = afterimage::repo::damaged::DamagedChunk { pack, chunk: None };
    wait(bench.repository().unwrap().note_damaged(&[note])).unwrap();
    for folder in ["catalog/", "damaged/"] {
        let [name] = &bench.names(folder)[..] else { panic!("one object in {folder}") };
        let whole = bench.bytes(name);
        for (number, (what, harm)) in
            harms(&whole).into_iter().enumerate().filter(|(number, _)| number % 17 == 0)
        {
            harmed(&store, name, harm, || {
                let there = bench.elsewhere();
                assert_eq!(there.list().len(), 81, "{name} {what}");
                assert!(there.read(&record).unwrap() == bytes);
                if number % 51 == 0 {
                    assert_eq!(blamed(&there.check().unwrap()), [name.as_str()], "{what}");
                }
            });
        }
    }
}

/// Lists the same image under so many further records.
pub(crate) fn publish_copies(bench: &Bench, record: &Record, count: u64) {
    let repository = bench.repository().unwrap();
    let known = Arc::new(wait(repository.known()).unwrap());
    let writer =
        afterimage::repo::writer::Writer::new(&repository, &known, crate::fixture::runtime(), 1).unwrap();
    let named = wait(repository.publish_index(writer.finish().unwrap())).unwrap();
    for number in 0..count {
        let mut id = [0xc0; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        let time = record.time + jiff::SignedDuration::from_secs(number as i64 + 1);
        let copy = Record { id: BackupId(id), time, ..record.clone() };
        wait(repository.publish_backup(&copy, &named)).unwrap();
    }
}

#[test]
fn c1_a_damaged_record_is_found_by_a_check_also_where_a_catalogue_or_a_copy_knows_it() {
    let (bench, store) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(chunks(1, 4))).unwrap();
    publish_copies(&bench, &record, 80);
    wait(bench.repository().unwrap().merge_catalogue()).unwrap();
    assert_eq!(bench.list().len(), 81);
    let name = names::object(SealKind::Record, record.id.into()).unwrap();
    let cut = bench.bytes(&name)[..100].to_vec();
    harmed(&store, &name, cut, || assert_eq!(blamed(&bench.check().unwrap()), [name.as_str()]));
    bench.is_sound();
}

#[test]
fn c1_two_objects_that_changed_places_are_taken_for_neither() {
    let three = Three::new();
    for folder in ["packs/", "backups/", "index/"] {
        let names = three.bench.names(folder);
        for (a, b) in names.iter().zip(names.iter().skip(1)) {
            let (of_a, of_b) = (three.bench.bytes(a), three.bench.bytes(b));
            three.harmed(a, of_b, || {
                three.harmed(b, of_a, || {
                    let readable = three.readable();
                    assert!(folder != "backups/" || readable.iter().filter(|ok| **ok).count() == 1);
                    assert!(folder != "index/" || readable == [true; 3]);
                    let report = three.bench.elsewhere().check().unwrap();
                    let mut both = [a.as_str(), b.as_str()];
                    both.sort_unstable();
                    assert_eq!(blamed(&report), both, "{folder}");
                })
            });
        }
    }
}

/// The places of an image's chunks, by their number.
fn places(bench: &Bench, record: &Record) -> BTreeMap<u64, (ChunkId, afterimage::format::Place)> {
    let engine = bench.engine().unwrap();
    let map = map(&record.items[0]);
    let mut places = BTreeMap::new();
    for number in 0..map.len.div_ceil(CHUNK as u64) {
        let at = number * CHUNK as u64;
        let afterimage::image::Stretch::Leaf(leaf) = wait(map.stretch(&engine, at)).unwrap() else {
            continue;
        };
        if let Some(child) = leaf.at(at).unwrap().child {
            let _none = places.insert(number, (child.id, child.place));
        }
    }
    places
}

fn flip(store: &MemStore, place: afterimage::format::Place) {
    let name = names::pack(place.pack).unwrap();
    store.harm(&name, |bytes| bytes[place.offset as usize + 20] ^= 4).unwrap();
}

#[test]
fn c1_c7_one_damaged_chunk_costs_its_own_range_and_check_names_that_range() {
    let three = Three::new();
    let (first, bytes) = &three.records[0];
    let harmed = places(&three.bench, first)[&3];
    flip(&three.store, harmed.1);
    let engine = three.bench.elsewhere().engine().unwrap();
    let image = image(&engine, first);
    for number in 0..5 {
        let read = wait(image.read_at((number * CHUNK) as u64, CHUNK));
        assert_eq!(read.is_ok(), number != 3);
        assert!(read.is_err() || read.unwrap() == bytes[number * CHUNK..][..CHUNK]);
    }
    let report = three.bench.elsewhere().check().unwrap();
    let pack = names::pack(harmed.1.pack).unwrap().to_string();
    assert_eq!(report.backups_ok, 1);
    let found: Vec<_> =
        report.damaged.iter().map(|one| (&one.object, &one.backup, one.offset, one.length)).collect();
    let (first, third) = (Some(first.id.to_string()), Some(three.records[2].0.id.to_string()));
    let (at, len) = (3 * CHUNK as u64, CHUNK as u64);
    let mut wanted = vec![(&pack, &first, at, len), (&pack, &third, at, len)];
    wanted.sort_by_key(|one| found.iter().position(|other| other == one));
    assert_eq!(found, wanted);
}

#[test]
fn c2_a_missing_pack_costs_exactly_the_ranges_that_lie_in_it() {
    let three = Three::new();
    let of_first = places(&three.bench, &three.records[0].0);
    let of_third = places(&three.bench, &three.records[2].0);
    let own = of_third[&2].1.pack;
    assert!(of_first.values().all(|(_, place)| place.pack != own));
    wait(three.store.delete(&names::pack(own).unwrap())).unwrap();
    assert_eq!(three.readable(), [true, true, false]);
    for percent in [0.0, 100.0] {
        let options = Options { read_percent: percent, only: Vec::new(), note: false };
        let report = three.bench.elsewhere().check_as(&options).unwrap();
        assert_eq!(report.backups_ok, 2);
        let lost: Vec<_> = report.damaged.iter().filter(|one| one.backup.is_some()).collect();
        let [lost] = lost.as_slice() else { panic!("{:#?}", report.damaged) };
        assert_eq!((lost.offset, lost.length), (2 * CHUNK as u64, CHUNK as u64));
        assert_eq!(lost.object, names::pack(own).unwrap().to_string());
        assert!(lost.why.contains("missing"), "{}", lost.why);
    }
}

#[test]
fn c2_a_missing_index_costs_nothing_and_what_it_knew_is_read_from_the_packs() {
    let three = Three::new();
    for index in three.bench.names("index/") {
        wait(three.store.delete(&index)).unwrap();
    }
    assert_eq!(three.readable(), [true; 3]);
    let fresh = three.bench.elsewhere();
    fresh.is_sound();
    let again = afterimage::backup::Job {
        parent: afterimage::backup::Parent::None,
        ..job("again", Fake::of(three.records[0].1.clone()))
    };
    let record = fresh.run(again).unwrap();
    assert_eq!(
        (record.stats.bytes_new, record.stats.bytes_stored),
        (0, 0),
        "all of it was found in the packs"
    );
}

#[test]
fn c2_a_missing_record_is_one_backup_less_and_nothing_else() {
    let three = Three::new();
    let name = names::object(SealKind::Record, three.records[0].0.id.into()).unwrap();
    wait(three.store.delete(&name)).unwrap();
    assert_eq!(three.readable(), [false, true, true]);
    three.bench.elsewhere().is_sound();
}

/// What an index lies about, and how.
type Lie = (&'static str, fn(&mut PackRows));

/// Publishes an index object that says this.
fn publish_index(bench: &Bench, store: &MemStore, id: ObjectId, says: &[PackRows]) -> Name {
    let repository = bench.repository().unwrap();
    let mut parts = vec![write_supersedes(&[])];
    parts.extend(write_parts(says));
    let (kind, count) = (SealKind::Index, parts.len() as u32);
    let mut seal = Seal::new(LEVEL_DEFAULT).unwrap();
    let sealed: Vec<Vec<u8>> = (0..)
        .zip(&parts)
        .map(|(number, part)| {
            let what = Sealed::Part { kind, object: id, number, count };
            seal.seal(&repository.keys, Under::Object(kind, id), what, part).unwrap()
        })
        .collect();
    let name = names::object(kind, id).unwrap();
    wait(store.put(&name, object::write(repository.id(), kind, id, &sealed).into())).unwrap();
    name
}

#[test]
fn c3_an_index_that_lies_is_blamed_and_never_believed_against_the_packs_table() {
    let lies: [Lie; 4] = [
        ("place", |says| says.rows.swap(0, 1)),
        ("length", |says| says.rows[0].sealed_len -= 1),
        ("chunk", |says| says.rows[0].id = ChunkId([7; 32])),
        ("pack", |says| says.pack = PackId([7; 16])),
    ];
    for (what, lie) in lies {
        let three = Three::new();
        let (record, bytes) = &three.records[1];
        let (_, place) = places(&three.bench, record)[&0];
        let repository = three.bench.repository().unwrap();
        let len = wait(three.store.stat(&names::pack(place.pack).unwrap())).unwrap().len;
        let truth = wait(repository.read_pack_table(place.pack, len)).unwrap();
        let mut says = truth.clone();
        says.rows[0].sealed_len += if what == "place" { 5 } else { 0 };
        lie(&mut says);
        for index in three.bench.names("index/") {
            wait(three.store.delete(&index)).unwrap();
        }
        let name = publish_index(&three.bench, &three.store, ObjectId([5; 16]), &[says]);
        assert_eq!(three.readable(), [true; 3], "{what}");
        assert_eq!(blamed(&three.bench.elsewhere().check().unwrap()), [name.as_str()], "{what}");
        let again = three.bench.elsewhere().backup("two", Fake::of(bytes.clone())).unwrap();
        assert!(three.bench.elsewhere().read(&again).unwrap() == *bytes, "{what}");
        let found =
            wait(repository.chunk(SealKind::Data, truth.rows[1].id, places(&three.bench, record)[&1].1));
        assert!(found.is_ok(), "{what}");
    }
}

#[test]
fn c3_a_new_backup_that_believes_a_lying_index_still_reads_or_is_not_made() {
    let three = Three::new();
    let (record, bytes) = &three.records[1];
    let (_, place) = places(&three.bench, record)[&0];
    let repository = three.bench.repository().unwrap();
    let len = wait(three.store.stat(&names::pack(place.pack).unwrap())).unwrap().len;
    let mut says = wait(repository.read_pack_table(place.pack, len)).unwrap();
    says.rows.rotate_left(1);
    for index in three.bench.names("index/") {
        wait(three.store.delete(&index)).unwrap();
    }
    let _name = publish_index(&three.bench, &three.store, ObjectId([5; 16]), &[says]);
    let without_parent = afterimage::backup::Job {
        parent: afterimage::backup::Parent::None,
        ..job("two", Fake::of(bytes.clone()))
    };
    let there = three.bench.elsewhere();
    let made = there.run(without_parent).unwrap();
    assert!(there.read(&made).unwrap() == *bytes, "the table of the pack wins");
}

#[test]
fn c4_a_damaged_chunk_that_a_check_noted_is_stored_afresh_and_old_backups_read_again() {
    let three = Three::new();
    let harmed = places(&three.bench, &three.records[0].0)[&3];
    flip(&three.store, harmed.1);
    assert_eq!(three.readable(), [false, true, false]);
    let note = Options { read_percent: 100.0, only: Vec::new(), note: true };
    assert!(!three.bench.check_as(&note).unwrap().damaged.is_empty());
    let again = three.bench.backup("one", Fake::of(three.records[2].1.clone())).unwrap();
    assert_eq!(again.stats.bytes_new, CHUNK as u64, "that chunk, and no other");
    assert!(three.bench.read(&again).unwrap() == three.records[2].1);
    assert_eq!(three.readable(), [true; 3]);
    let report = three.bench.check_as(&note).unwrap();
    assert_eq!(report.backups_ok, 4);
    assert!(report.damaged.iter().all(|one| one.backup.is_none()), "{:#?}", report.damaged);
}

#[test]
fn c4_a_damaged_map_node_or_a_lost_pack_heals_in_the_same_way() {
    for harm in ["node", "pack"] {
        let three = Three::new();
        let (third, bytes) = &three.records[2];
        let place = match harm {
            "node" => third.items[0].root().place,
            _ => places(&three.bench, third)[&2].1,
        };
        match harm {
            "node" => flip(&three.store, place),
            _ => wait(three.store.delete(&names::pack(place.pack).unwrap())).unwrap(),
        }
        assert_eq!(three.readable(), [true, true, false], "{harm}");
        let note = Options { read_percent: 100.0, only: Vec::new(), note: true };
        assert_eq!(three.bench.check_as(&note).unwrap().backups_ok, 2);
        let again = three.bench.backup("one", Fake::of(bytes.clone())).unwrap();
        assert!(three.bench.read(&again).unwrap() == *bytes, "{harm}");
        assert_eq!(three.readable(), [true; 3], "{harm}");
    }
}

#[test]
fn c4_more_damage_than_one_part_of_a_note_holds_is_noted_all_the_same() {
    let (bench, _) = Bench::in_memory();
    let pack = PackId([9; 16]);
    let chunk = |number: u32| {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        ChunkId(id)
    };
    let one = |number| afterimage::repo::damaged::DamagedChunk { pack, chunk: Some(chunk(number)) };
    let found: Vec<_> = (0..20_001).map(one).collect();
    wait(bench.repository().unwrap().note_damaged(&found)).unwrap();
    let noted = wait(bench.elsewhere().repository().unwrap().damaged()).unwrap();
    assert!((0..20_001).all(|number| noted.has(pack, chunk(number))));
    assert!(!noted.has(pack, chunk(20_001)));
}

#[test]
fn c4_one_unreadable_note_of_damage_does_not_hide_the_others() {
    let three = Three::new();
    let harmed = places(&three.bench, &three.records[0].0)[&3];
    let other = afterimage::repo::damaged::DamagedChunk { pack: PackId([9; 16]), chunk: None };
    wait(three.bench.repository().unwrap().note_damaged(&[other])).unwrap();
    let [older] = &three.bench.names("damaged/")[..] else { panic!("one note") };
    flip(&three.store, harmed.1);
    let note = Options { read_percent: 100.0, only: Vec::new(), note: true };
    let _report = three.bench.check_as(&note).unwrap();
    three.store.harm(older, |bytes| bytes.truncate(60)).unwrap();
    let again = three.bench.backup("one", Fake::of(three.records[2].1.clone())).unwrap();
    assert_eq!(again.stats.bytes_new, CHUNK as u64);
    assert_eq!(three.readable(), [true; 3]);
}

#[test]
fn c9_a_record_of_another_repository_or_another_kind_is_refused() {
    let (ours, theirs) = (Three::new(), Three::new());
    let of_theirs = theirs.bench.names("backups/");
    let bytes = theirs.bench.bytes(&of_theirs[0]);
    wait(ours.store.put(&of_theirs[0], bytes.into())).unwrap();
    let listing = wait(ours.bench.repository().unwrap().list()).unwrap();
    assert_eq!((listing.records.len(), listing.damaged.len()), (3, 1));
    assert!(listing.damaged[0].1.to_string().contains("belongs to repository"), "{:?}", listing.damaged);
    assert_eq!(blamed(&ours.bench.check().unwrap()), [of_theirs[0].as_str()]);
    wait(ours.store.delete(&of_theirs[0])).unwrap();

    let index = &ours.bench.names("index/")[0];
    let as_record = Name::parse(&format!("backups/{}", index.last())).unwrap();
    wait(ours.store.put(&as_record, ours.bench.bytes(index).into())).unwrap();
    let listing = wait(ours.bench.repository().unwrap().list()).unwrap();
    assert_eq!((listing.records.len(), listing.damaged.len()), (3, 1));
    assert!(listing.damaged[0].1.to_string().contains("of kind"), "{:?}", listing.damaged);

    let pack = &theirs.bench.names("packs/")[0];
    wait(ours.store.put(pack, theirs.bench.bytes(pack).into())).unwrap();
    wait(ours.store.delete(&as_record)).unwrap();
    assert_eq!(blamed(&ours.bench.check().unwrap()), [pack.as_str()]);
    let record = ours.bench.backup("new", Fake::of(noise(5, 10_000))).unwrap();
    assert!(ours.bench.read(&record).unwrap() == noise(5, 10_000));
}

#[test]
fn c2_what_a_killed_check_left_behind_is_no_truth_for_the_next_and_is_removed() {
    use afterimage::repo::segments::{Row, Segments};
    let three = Three::new();
    let lost = places(&three.bench, &three.records[2].0)[&2];
    let folder = three.bench.repository().unwrap().cache.clone();
    let left = [format!("check-{}", std::process::id()), format!("check-{}-0", std::process::id())];
    for name in &left {
        let row = Row { id: lost.0.0, pack: lost.1.pack.0, offset: lost.1.offset, len: lost.1.len };
        Segments::open(folder.join(name)).add([row], &[]).unwrap();
    }
    wait(three.store.delete(&names::pack(lost.1.pack).unwrap())).unwrap();
    let report = three.bench.check().unwrap();
    assert_eq!(report.backups_ok, 2, "{:#?}", report.damaged);
    assert!(left.iter().all(|name| !folder.join(name).exists()));
    let both: Vec<_> = std::thread::scope(|scope| {
        let checks = [0, 1].map(|_| scope.spawn(|| three.bench.check().unwrap()));
        checks.into_iter().map(|check| check.join().unwrap()).collect()
    });
    assert!(both.iter().all(|other| other.backups_ok == 2 && other.damaged == report.damaged));
}

#[test]
fn c4_what_healed_meanwhile_reads_in_a_process_that_was_open_all_the_time() {
    let three = Three::new();
    let (first, bytes) = &three.records[0];
    let harmed = places(&three.bench, first)[&3];
    let (there, memory) = (three.bench.elsewhere(), 8 << 20);
    let repository = there.repository().unwrap();
    let engine =
        || afterimage::image::Engine::new(repository.clone(), crate::fixture::runtime().clone(), memory);
    flip(&three.store, harmed.1);
    assert!(crate::fixture::read_whole(&image(&engine().unwrap(), first)).is_err());
    let note = Options { read_percent: 100.0, only: Vec::new(), note: true };
    let _report = three.bench.check_as(&note).unwrap();
    let _healed = three.bench.backup("one", Fake::of(three.records[2].1.clone())).unwrap();
    assert!(crate::fixture::read_whole(&image(&engine().unwrap(), first)).unwrap() == *bytes);
}
