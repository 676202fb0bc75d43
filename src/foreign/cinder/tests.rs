//! Containers of every layout and compression, made by the writing half of the documents, read as images: against a plain model, and with
//! everything that can be wrong with them.

use super::Container;
use super::document::hashes::{Hashes, Head};
use super::document::metadata::{Compression, Metadata, Object};
use super::document::{Uuid, names};
use super::{Options, check};
use crate::error::{Kind, Result};
use crate::format::BackupId;
use crate::format::record::{Content, Record};
use crate::image::bulk::{Ordered, stream_in_order};
use crate::image::{Image, Library, compare};
use crate::progress::{Cancel, Progress};
use crate::seal::digest;
use crate::store::fault::{Harm, When};
use crate::store::{AnyStore, Fault, MemStore, Name, ReadOnly, Store, Verb};
use md5::{Digest, Md5};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Runtime;
use zlib_rs::{Deflate, DeflateFlush};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// How a backup is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Files,
    Bare,
    Objects,
}

/// One backup to be made.
#[derive(Clone, Debug)]
struct Layer {
    id: u8,
    parent: Option<u8>,
    layout: Layout,
    compression: Compression,
    /// What the image is then.
    image: Vec<u8>,
    /// Which bytes of it lie in objects of its own.
    extents: Vec<Range<usize>>,
    block: u64,
    has_hashes: bool,
}

struct Bench {
    store: Arc<MemStore>,
    cache: tempfile::TempDir,
}

fn uuid(id: u8) -> Uuid {
    Uuid([id; 16])
}

fn stored(plain: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Zlib | Compression::Gzip => {
            let mut out = vec![0; plain.len() * 2 + 1000];
            let mut deflate = Deflate::new(6, true, 15);
            assert!(deflate.compress(plain, &mut out, DeflateFlush::Finish).is_ok());
            out.truncate(deflate.total_out() as usize);
            // What stands behind the stream is passed over.
            [&out[..], b"garbage"].concat()
        }
        Compression::Zstd => zstd::bulk::compress(plain, 3).unwrap(),
        _ => plain.to_vec(),
    }
}

impl Layer {
    fn full(id: u8, image: Vec<u8>, object: usize) -> Layer {
        let extents = (0..image.len()).step_by(object).map(|at| at..(at + object).min(image.len())).collect();
        let (layout, compression) = (Layout::Files, Compression::Zlib);
        Layer { id, parent: None, layout, compression, image, extents, block: 1024, has_hashes: true }
    }

    /// What an incremental of Cinder's would hold: runs of blocks that changed, none across a multiple of `object`.
    fn on(parent: &Layer, id: u8, image: Vec<u8>, object: usize) -> Layer {
        let block = parent.block as usize;
        let changed = |at: usize| {
            image[at..(at + block).min(image.len())]
                != *parent.image.get(at..(at + block).min(image.len())).unwrap_or_default()
        };
        let mut extents: Vec<Range<usize>> = Vec::new();
        for at in (0..image.len()).step_by(block).filter(|at| changed(*at)) {
            let end = (at + block).min(image.len());
            match extents.last_mut().filter(|last| last.end == at && !at.is_multiple_of(object)) {
                Some(last) => last.end = end,
                None => extents.push(at..end),
            }
        }
        Layer { id, parent: Some(parent.id), image, extents, ..parent.clone() }
    }

    fn path(&self) -> String {
        let (volume, time, id) = (uuid(200), "2026-01-05T05:00:00Z".parse().unwrap(), uuid(self.id));
        match self.layout {
            Layout::Files => {
                format!("{}/{}", names::container_of_files(id), names::prefix_of_files(volume, time, id))
            }
            Layout::Bare => format!("{}/backup", names::container_of_files(id)),
            Layout::Objects => {
                format!("volumebackups/{}", names::prefix_of_objects(volume, time, "az_1 B", id))
            }
        }
    }

    fn prefix(&self) -> String {
        match self.layout {
            Layout::Objects => self.path().strip_prefix("volumebackups/").unwrap().to_owned(),
            Layout::Files | Layout::Bare => self.path().rsplit('/').next().unwrap().to_owned(),
        }
    }

    fn metadata(&self) -> Metadata {
        let object = |(number, extent): (u32, &Range<usize>)| Object {
            number,
            // As Cinder does, what does not shrink is stored as it is.
            compression: if number % 5 == 4 { Compression::None } else { self.compression },
            md5: Some(Md5::digest(&self.image[extent.clone()]).into()),
            offset: extent.start as u64,
            length: extent.len() as u64,
        };
        Metadata {
            backup_id: uuid(self.id),
            volume_id: uuid(200),
            backup_name: None,
            backup_description: None,
            created_at: jiff::Timestamp::from_second(i64::from(self.id) * 100).unwrap(),
            parent_id: self.parent.map(uuid),
            volume_meta: None,
            prefix: None,
            objects: (1u32..).zip(&self.extents).map(object).collect(),
        }
    }
}

impl Bench {
    fn new() -> Bench {
        Bench { store: Arc::new(MemStore::new()), cache: tempfile::tempdir().unwrap() }
    }

    fn with(layers: &[Layer]) -> Bench {
        let bench = Bench::new();
        layers.iter().for_each(|layer| bench.write(layer));
        bench
    }

    fn put(&self, name: &str, bytes: Vec<u8>) {
        let name = Name::foreign(name).unwrap();
        runtime().block_on(self.store.put(&name, bytes.into())).unwrap();
    }

    fn write(&self, layer: &Layer) {
        let (path, metadata) = (layer.path(), layer.metadata());
        for (object, extent) in metadata.objects.iter().zip(&layer.extents) {
            let bytes = stored(&layer.image[extent.clone()], object.compression);
            self.put(&names::data(&path, object.number), bytes);
        }
        if layer.has_hashes {
            let head = Head {
                backup_id: metadata.backup_id,
                volume_id: metadata.volume_id,
                backup_name: None,
                backup_description: None,
                created_at: metadata.created_at,
                block: layer.block,
            };
            let sha256s = layer.image.chunks(layer.block as usize).map(digest::of).collect();
            self.put(&names::hashes(&path), Hashes { head, sha256s }.write().unwrap());
        }
        self.put(&names::metadata(&path), metadata.write(&layer.prefix()).unwrap());
    }

    /// Puts other bytes in place of an object's.
    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let parsed = Name::foreign(name).unwrap();
        let mut bytes = runtime().block_on(self.store.get_whole(&parsed, u64::MAX)).unwrap().to_vec();
        runtime().block_on(self.store.delete(&parsed)).unwrap();
        change(&mut bytes);
        self.put(name, bytes);
    }

    fn open(&self) -> Arc<Container> {
        let store = Arc::new(ReadOnly::new(self.store.clone()));
        Container::open(store, self.cache.path(), runtime().handle().clone(), 64 << 20).unwrap()
    }
}

fn record(container: &Container, id: u8) -> Record {
    let _listed = runtime().block_on(container.list()).unwrap();
    runtime().block_on(container.record(BackupId([id; 16]))).unwrap()
}

fn image(container: &Container, id: u8) -> Image {
    let record = record(container, id);
    let Content::Image { size, root, .. } =
        record.items.first().unwrap_or_else(|| panic!("{:?}", record.unread)).content
    else {
        panic!("no image")
    };
    container.open(record.repository, record.id, &root, size)
}

/// All of an image, as it is streamed.
fn streamed(image: &Image) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    stream_in_order(image, 0..image.len(), &Cancel::default(), &mut |piece| {
        match piece {
            Ordered::Bytes(bytes) => all.extend(bytes),
            Ordered::Zeros(len) => all.resize(all.len() + len as usize, 0),
        }
        Ok(())
    })?;
    Ok(all)
}

/// Held to the model in every way in which an image is read.
fn assert_is(container: &Container, id: u8, model: &[u8]) {
    let image = image(container, id);
    assert_eq!(image.len(), model.len() as u64, "size of {id}");
    assert!(streamed(&image).unwrap() == model, "{id}, streamed");
    let mut at = 0;
    while at < image.len() {
        let extent = runtime().block_on(image.extent(at, image.len())).unwrap();
        let (start, end) = (extent.range.start as usize, extent.range.end as usize);
        assert!(extent.range.start == at && end > start);
        assert!(extent.data || crate::image::is_zero(&model[start..end]), "{id}: {extent:?} is not zero");
        at = extent.range.end;
    }
    for (offset, len) in
        [(0, model.len()), (model.len() / 3, model.len() / 2), (model.len().saturating_sub(1), 1)]
    {
        let len = len.min(model.len() - offset);
        let bytes = runtime().block_on(image.read_at(offset as u64, len)).unwrap();
        assert!(bytes[..] == model[offset..offset + len], "{id} at {offset}");
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 60) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A change of an image: what is written where, or zeroed.
fn change() -> impl Strategy<Value = (usize, usize, Option<u64>)> {
    (0usize..200_000, 1usize..60_000, prop::option::of(any::<u64>()))
}

/// A container that is reached through a store that misbehaves.
fn through(bench: &Bench, fault: &Arc<Fault>) -> Arc<Container> {
    let store = Arc::new(ReadOnly::new(Arc::clone(fault) as AnyStore));
    Container::open(store, bench.cache.path(), runtime().handle().clone(), 64 << 20).unwrap()
}

#[test]
fn documents_that_may_not_be_read_are_no_damage_for_good() {
    let layer = Layer::full(1, (0..5000u32).map(|at| (at / 7) as u8).collect(), 1024);
    for document in [names::metadata(&layer.path()), names::hashes(&layer.path())] {
        let bench = Bench::with(std::slice::from_ref(&layer));
        let fault = Arc::new(Fault::new(bench.store.clone(), 1));
        for verb in [Verb::Get, Verb::GetWhole] {
            fault.plan_under(verb, &document, When::From(1), Harm::Fails(Kind::Denied));
        }
        assert!(record(&through(&bench, &fault), 1).items.is_empty(), "{document}");
        fault.behave();
        assert!(streamed(&image(&through(&bench, &fault), 1)).unwrap() == layer.image, "{document}");
    }
}

#[test]
fn a_digest_of_what_a_backup_has_from_an_earlier_one_is_checked_and_blames_that_backup_alone() {
    let mut bytes: Vec<u8> = (0..20_000u32).map(|at| (at / 7) as u8).collect();
    bytes[8192..12_288].fill(0);
    let full = Layer::full(1, bytes.clone(), 4096);
    bytes[2048..3072].fill(9);
    let second = Layer::on(&full, 2, bytes.clone(), 4096);
    bytes[5120..6144].fill(8);
    let third = Layer::on(&second, 3, bytes, 4096);
    let everything = Options { read_percent: 100.0, only: Vec::new() };
    for block in [0usize, 9, 19] {
        let bench = Bench::with(&[full.clone(), second.clone(), third.clone()]);
        let found = |bench: &Bench| {
            check(&bench.open(), &everything, &Progress::default(), &Cancel::default()).unwrap().findings
        };
        assert_eq!(found(&bench), []);
        let digest: String = digest::of(second.image.chunks(1024).nth(block).unwrap())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        bench.change(&names::hashes(&second.path()), |document| {
            let text = String::from_utf8(document.clone()).unwrap();
            let first = if digest.starts_with('0') { "1" } else { "0" };
            let number = text.match_indices(&digest).map(|(at, _)| at).nth(usize::from(block == 9)).unwrap();
            document[number] = first.as_bytes()[0];
        });
        let found = found(&bench);
        let [finding] = found.as_slice() else { panic!("{block}: {found:?}") };
        assert_eq!(finding.backup, BackupId([2; 16]), "{block}");
        assert_eq!(finding.range.start / 1024, block as u64, "{finding:?}");
    }
    // What the others are compared with is wrong: they are not, whatever becomes of the digest.
    for other in [b'g', b'0', b'1'] {
        let bench = Bench::with(&[full.clone(), second.clone(), third.clone()]);
        let digest: String =
            digest::of(&full.image[..1024]).iter().map(|byte| format!("{byte:02x}")).collect();
        bench.change(&names::hashes(&full.path()), |document| {
            let at = String::from_utf8(document.clone()).unwrap().find(&digest).unwrap();
            document[at + 1] = other;
        });
        let found =
            check(&bench.open(), &everything, &Progress::default(), &Cancel::default()).unwrap().findings;
        let changed = !digest[1..].starts_with(char::from(other));
        assert_eq!(found.iter().any(|finding| finding.backup == BackupId([1; 16])), changed, "{found:?}");
        assert!(found.iter().all(|finding| !finding.why.contains("not that of what is there")), "{found:?}");
    }
}

#[test]
fn an_object_that_could_not_be_proven_for_want_of_the_store_is_proven_later() {
    let layer = Layer { has_hashes: false, ..Layer::full(1, vec![5; 5000], 1024) };
    let bench = Bench::with(std::slice::from_ref(&layer));
    let fault = Arc::new(Fault::new(bench.store.clone(), 1));
    let container = through(&bench, &fault);
    let image = image(&container, 1);
    let object = names::data(&layer.path(), layer.metadata().objects[0].number);
    for verb in [Verb::Get, Verb::GetWhole] {
        fault.plan_under(verb, &object, When::From(1), Harm::Fails(Kind::Unreachable));
    }
    assert_eq!(streamed(&image).unwrap_err().kind(), Kind::Unreachable);
    fault.behave();
    assert!(streamed(&image).unwrap() == layer.image);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_tree_of_backups_of_every_kind_is_what_was_backed_up(
        len in 1usize..400_000,
        seed in any::<u64>(),
        object in prop::sample::select(vec![8192usize, 65_536, 131_072]),
        block in prop::sample::select(vec![1024u64, 4096]),
        steps in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(change(), 0..4), 0u8..3, 0u8..4, any::<bool>()), 0..6),
    ) {
        let mut first = Layer { block, ..Layer::full(1, noise(seed, len), object) };
        first.image[len / 2..len / 2 + len / 8].fill(0);
        let mut layers = vec![first];
        for (number, (parent, changes, layout, compression, shrinks)) in (2u8..).zip(steps) {
            let parent = parent.get(&layers).clone();
            let mut image = parent.image.clone();
            for (at, some, what) in changes {
                let at = at % image.len();
                let some = some.min(image.len() - at);
                match what {
                    None => image[at..at + some].fill(0),
                    Some(seed) => image[at..at + some].copy_from_slice(&noise(seed, some)),
                }
            }
            if shrinks {
                // By whole blocks, as far as can be told.
                let left = (image.len() / 2).next_multiple_of(block as usize).min(image.len());
                image.truncate(left);
            }
            let mut layer = Layer::on(&parent, number, image, object);
            layer.layout = [Layout::Files, Layout::Bare, Layout::Objects][usize::from(layout)];
            layer.compression = [Compression::None, Compression::Zlib, Compression::Gzip, Compression::Zstd][usize::from(compression)];
            layers.push(layer);
        }
        let bench = Bench::with(&layers);
        let container = bench.open();
        for layer in &layers {
            assert_is(&container, layer.id, &layer.image);
        }
        let (a, b) = (&layers[0], layers.last().unwrap());
        let mut differs = vec![false; a.image.len().max(b.image.len())];
        runtime().block_on(compare(&image(&container, a.id), &image(&container, b.id), &mut |range| {
            differs[range.start as usize..range.end as usize].fill(true);
        })).unwrap();
        for (at, said) in differs.iter().enumerate() {
            prop_assert!(*said || a.image.get(at) == b.image.get(at), "byte {} differs, and nobody says so", at);
        }
        let report = check(&container, &Options { read_percent: 100.0, only: vec![] }, &Progress::default(), &Cancel::default()).unwrap();
        prop_assert_eq!((report.findings, report.backups_ok), (vec![], layers.len() as u64));
    }
}

fn three() -> Vec<Layer> {
    let mut image = noise(3, 300_000);
    image[100_000..200_000].fill(0);
    let full = Layer::full(1, image.clone(), 65_536);
    image[50_000..60_000].fill(0);
    image[150_000..151_000].fill(9);
    let second = Layer::on(&full, 2, image.clone(), 65_536);
    image[0..10].fill(7);
    let third = Layer { compression: Compression::Zstd, ..Layer::on(&second, 3, image, 65_536) };
    vec![full, second, third]
}

/// What `check` finds, with everything read: the object's last part, the backup, where, and for how long.
fn found(container: &Container) -> Vec<(String, u8, u64, u64)> {
    let options = Options { read_percent: 100.0, only: vec![] };
    let report = check(container, &options, &Progress::default(), &Cancel::default()).unwrap();
    let last = |object: &str| object.rsplit('-').next().unwrap_or_default().to_owned();
    let finding = |finding: super::Finding| {
        (
            last(&finding.object),
            finding.backup.0[0],
            finding.range.start,
            finding.range.end - finding.range.start,
        )
    };
    report.findings.into_iter().map(finding).collect()
}

#[test]
fn a_region_that_became_zeros_in_an_incremental_is_zero() {
    let layers = three();
    let container = Bench::with(&layers).open();
    assert!(layers[1].image[50_000..60_000].iter().all(|byte| *byte == 0));
    layers.iter().for_each(|layer| assert_is(&container, layer.id, &layer.image));
}

#[test]
fn c7_a_flipped_bit_hurts_those_bytes_of_those_backups_and_nobody_else() {
    for (compression, seed) in [(Compression::None, 1usize), (Compression::Zlib, 2), (Compression::Zstd, 3)] {
        let mut layers = three();
        layers[0].compression = compression;
        let bench = Bench::with(&layers);
        let victim = names::data(&layers[0].path(), 4);
        assert_eq!(layers[0].metadata().objects[3].compression, Compression::None);
        let other = names::data(&layers[0].path(), 5);
        let name = if compression == Compression::None { &victim } else { &other };
        bench.change(name, |bytes| {
            let at = bytes.len() / 2 + seed;
            bytes[at] ^= 4;
        });
        let container = bench.open();
        let start = if compression == Compression::None { 196_608 } else { 262_144 };
        for layer in &layers {
            let image = image(&container, layer.id);
            let error =
                runtime().block_on(image.read_at(start, 30_000)).and_then(|_| streamed(&image)).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert!(error.to_string().contains(name.rsplit('/').next().unwrap()), "{error}");
            // All that is not in that object.
            let before = runtime().block_on(image.read_at(0, 131_072)).unwrap();
            assert!(before[..] == layer.image[..131_072]);
        }
        let all = found(&container);
        assert!(
            all.iter().all(|(object, _, at, len)| *object == name[name.len() - 5..]
                && *at >= start
                && at + len <= 300_000),
            "{all:?}"
        );
        assert_eq!(
            all.iter().map(|(_, id, ..)| *id).collect::<std::collections::BTreeSet<_>>().len(),
            3,
            "{all:?}"
        );
        if compression == Compression::None {
            let block = (196_608 + 32_768 + 1) / 1024 * 1024;
            assert_eq!(all[0], ("00004".to_owned(), 1, block, 1024));
        }
    }
}

#[test]
fn objects_that_are_missing_or_cut_hurt_what_needs_them() {
    let layers = three();
    let bench = Bench::with(&layers);
    let name = Name::foreign(&names::data(&layers[1].path(), 1)).unwrap();
    runtime().block_on(bench.store.delete(&name)).unwrap();
    let container = bench.open();
    assert_is(&container, 1, &layers[0].image);
    for id in [2, 3] {
        let error = streamed(&image(&container, id)).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.to_string().contains("-00001"), "{error}");
    }
    assert!(record(&container, 2).unread[0].contains("missing"));
    let extent = layers[1].extents[0].clone();
    let (at, len) = (extent.start as u64, extent.len() as u64);
    assert_eq!(found(&container)[0], ("00001".to_owned(), 2, at, len));

    let bench = Bench::with(&layers);
    bench.change(&names::data(&layers[0].path(), 2), |bytes| bytes.truncate(bytes.len() / 2));
    let all = found(&bench.open());
    assert!(all.iter().all(|(object, ..)| object == "00002") && !all.is_empty(), "{all:?}");
}

#[test]
fn a_backup_from_before_there_were_digests_is_held_to_the_md5_of_its_objects() {
    let image_bytes = noise(5, 700_000);
    let old =
        Layer { has_hashes: false, layout: Layout::Bare, ..Layer::full(1, image_bytes.clone(), 300_000) };
    let bench = Bench::with(std::slice::from_ref(&old));
    assert_is(&bench.open(), 1, &image_bytes);
    assert!(found(&bench.open()).is_empty());
    let target = image(&bench.open(), 1);
    assert!(!target.is_chunk(target.id(), &image_bytes));
    let bench = Bench::with(&[Layer { compression: Compression::None, ..old }]);
    bench.change(&names::data(&format!("{}/backup", names::container_of_files(uuid(1))), 2), |bytes| {
        bytes[7] ^= 1
    });
    let container = bench.open();
    let image = image(&container, 1);
    assert!(runtime().block_on(image.read_at(0, 262_144)).unwrap()[..] == image_bytes[..262_144]);
    let error = runtime().block_on(image.read_at(500_000, 10)).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("MD5"), "{error}");
    assert_eq!(found(&container), [("00002".to_owned(), 1, 300_000, 300_000)]);
}

#[test]
fn the_documents_are_read_once_and_what_changed_again() {
    let layers = three();
    let bench = Bench::with(&layers[..2]);
    let counted = Arc::new(crate::store::Record::with_log(bench.store.clone()));
    let open = || {
        Container::open(counted.clone(), bench.cache.path(), runtime().handle().clone(), 64 << 20).unwrap()
    };
    let gets =
        || counted.tally(crate::store::Verb::Get).calls + counted.tally(crate::store::Verb::GetWhole).calls;
    let list = |container: &Container| runtime().block_on(container.list()).unwrap().records.len();
    assert_eq!(list(&open()), 2);
    let before = gets();
    let again = open();
    assert_eq!((list(&again), gets()), (2, before), "the second list reads nothing");
    bench.write(&layers[2]);
    assert_eq!((list(&again), gets() - before), (3, 2), "one index, one head of digests");
    let index = bench.cache.path().join("cinder").join(again.engine().home().to_string()).join("index");
    let mut bytes = std::fs::read(&index).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&index, bytes).unwrap();
    assert_eq!(list(&open()), 3, "damage of what was kept costs reading, and no more");
}

#[test]
fn an_empty_volume_and_a_backup_without_changes_are_images() {
    let empty = Layer::full(1, Vec::new(), 65_536);
    let full = Layer::full(2, noise(1, 5000), 65_536);
    let same = Layer::on(&full, 3, full.image.clone(), 65_536);
    assert!(same.extents.is_empty());
    let container = Bench::with(&[empty, full.clone(), same]).open();
    assert_is(&container, 1, &[]);
    assert_is(&container, 3, &full.image);
}
