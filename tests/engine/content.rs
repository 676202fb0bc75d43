//! P3: what is read is what was backed up, by every way there is to read it, whatever the image and its history.

use crate::fixture::{Bench, CHUNK, allocated, image, job, map, noise, read_whole, runtime, wait};
use crate::random::Random;
use afterimage::backup::Parent;
use afterimage::error::Result;
use afterimage::format::pack::Row;
use afterimage::format::record::Record;
use afterimage::format::{ChunkId, ids::SealKind, limits};
use afterimage::image::bulk::{Ordered, Sink, stream, stream_in_order};
use afterimage::image::{Engine, Image, Part, compare};
use afterimage::progress::Cancel;
use afterimage::repo::packs::PackWriter;
use afterimage::source::fake::Fake;
use proptest::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// A stretch of a made-up image.
#[derive(Clone, Debug)]
enum Block {
    Noise(u64, usize),
    Text(u8, usize),
    Zeros(usize),
}

impl Block {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Block::Noise(seed, len) => noise(seed, len),
            Block::Text(letter, len) => [letter, b'.'].repeat(len / 2 + 1)[..len].to_vec(),
            Block::Zeros(len) => vec![0; len],
        }
    }
}

/// Lengths at chunks and leaves, and beside them.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => (0usize..20, -1i64..=1).prop_map(|(chunks, off)| (chunks * CHUNK).saturating_add_signed(off as isize)),
        4 => 1usize..60_000,
        1 => (250usize..270).prop_map(|chunks| chunks * CHUNK),
        1 => Just(1 << 20),
    ]
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        (0u64..6, len()).prop_map(|(seed, len)| Block::Noise(seed, len)),
        (1u8..=255, len()).prop_map(|(letter, len)| Block::Text(letter, len)),
        len().prop_map(Block::Zeros),
    ]
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(block(), 0..6).prop_map(|blocks| blocks.iter().flat_map(Block::bytes).collect())
}

/// What happens to an image between two backups.
#[derive(Clone, Debug)]
enum Change {
    Write(f64, Block),
    Cut(f64),
    Cut1MiB,
    Grow(Block),
    Nothing,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0.0..1.0, block()).prop_map(|(at, block)| Change::Write(at, block)),
        1 => (0.0..1.0).prop_map(Change::Cut),
        1 => Just(Change::Cut1MiB),
        2 => block().prop_map(Change::Grow),
        1 => Just(Change::Nothing),
    ]
}

impl Change {
    /// Makes the change, and says which bytes it is about.
    fn apply(&self, bytes: &mut Vec<u8>) -> Range<usize> {
        match self {
            Change::Write(at, block) => {
                let at = (bytes.len() as f64 * at) as usize;
                let new = block.bytes();
                let len = new.len().min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&new[..len]);
                at..at + len
            }
            Change::Cut(at) => {
                bytes.truncate((bytes.len() as f64 * at) as usize);
                bytes.len()..bytes.len()
            }
            Change::Cut1MiB => {
                bytes.truncate(1 << 20);
                bytes.len()..bytes.len()
            }
            Change::Grow(block) => {
                let before = bytes.len();
                bytes.extend(block.bytes());
                before..bytes.len()
            }
            Change::Nothing => 0..0,
        }
    }
}

/// How a source hands out its bytes.
#[derive(Clone, Debug)]
struct Manner {
    /// Zeros are told as holes of multiples of so many bytes; 0: they are read.
    hole: usize,
    /// No piece is longer.
    piece: usize,
    /// What did not change is told and not read.
    tells_same: bool,
}

fn manner() -> impl Strategy<Value = Manner> {
    let hole = prop_oneof![Just(0usize), Just(512), Just(1000), Just(CHUNK)];
    let piece = prop_oneof![Just(usize::MAX), Just(CHUNK), 700usize..9000];
    (hole, piece, any::<bool>()).prop_map(|(hole, piece, tells_same)| Manner { hole, piece, tells_same })
}

fn source(bytes: &[u8], manner: &Manner, same: &[Range<usize>]) -> Fake {
    let mut fake = Fake::empty(bytes.len() as u64).in_pieces_of(manner.piece);
    let step = if manner.hole == 0 { 8192 } else { manner.hole };
    let mut at = 0;
    while at < bytes.len() {
        if let Some(range) = same.iter().find(|range| range.contains(&at)) {
            fake = fake.same(at as u64, (range.end - at) as u64);
            at = range.end;
            continue;
        }
        let next_same = same.iter().map(|range| range.start).filter(|start| *start > at).min();
        let end = (at + step).min(bytes.len()).min(next_same.unwrap_or(usize::MAX));
        let piece = &bytes[at..end];
        if manner.hole == 0 || piece.iter().any(|byte| *byte != 0) {
            fake = fake.with(at as u64, piece);
        }
        at = end;
    }
    fake
}

/// One backup of a chain, and what it should be.
struct Step {
    record: Record,
    bytes: Vec<u8>,
    exact: bool,
}

fn back_up_chain(bench: &Bench, first: Vec<u8>, changes: &[(Change, Manner)]) -> Vec<Step> {
    let manner = Manner { hole: CHUNK, piece: usize::MAX, tells_same: false };
    let record = bench.backup("disk", source(&first, &manner, &[])).unwrap();
    let mut steps = vec![Step { record, bytes: first, exact: true }];
    for (change, manner) in changes {
        let before = &steps.last().unwrap().bytes;
        let mut bytes = before.clone();
        let changed = change.apply(&mut bytes);
        let until = bytes.len().min(before.len());
        let same = [0..changed.start.min(until), changed.end.min(until)..until];
        let same: Vec<_> = same.into_iter().filter(|range| manner.tells_same && !range.is_empty()).collect();
        let record = bench.backup("disk", source(&bytes, manner, &same)).unwrap();
        steps.push(Step { record, bytes, exact: !manner.tells_same });
    }
    steps
}

/// Which chunks of an image hold anything.
fn used(bytes: &[u8]) -> u64 {
    let used = bytes.chunks(CHUNK).filter(|chunk| chunk.iter().any(|byte| *byte != 0));
    used.map(|chunk| chunk.len() as u64).sum()
}

/// Reads by every way there is.
fn reads_as(engine: &Arc<Engine>, step: &Step, dice: &mut Random) {
    let image = image(engine, &step.record);
    let bytes = &step.bytes;
    assert_eq!(image.len(), bytes.len() as u64);
    if step.exact {
        assert_eq!(allocated(&step.record), used(bytes), "what is allocated");
    }
    assert!(allocated(&step.record) >= used(bytes) && allocated(&step.record) <= image.len());
    for _ in 0..8 {
        let range = some_range(bytes.len(), dice);
        let read = wait(image.read_at(range.start as u64, range.len())).unwrap();
        assert!(read == bytes[range.clone()], "read {range:?}");
        if let Some(now) = image.read_now(range.start as u64, range.len()) {
            assert!(joined(&now.unwrap()) == bytes[range.clone()], "read at once {range:?}");
        }
        assert!(in_order(&image, &range).unwrap() == bytes[range.clone()], "streamed in order {range:?}");
        assert!(to_a_sink(&image, &range).unwrap() == bytes[range.clone()], "streamed {range:?}");
    }
    assert!(read_whole(&image).unwrap() == *bytes);
    extents_hold(&image, bytes);
    for (offset, len) in [(bytes.len() as u64, 1), (u64::MAX, 1), (0, bytes.len() + 1)] {
        assert!(wait(image.read_at(offset, len)).is_err(), "{len} bytes at {offset} are not there");
    }
}

fn some_range(len: usize, dice: &mut Random) -> Range<usize> {
    let start = dice.below(len as u64 + 1) as usize;
    let end = start + dice.below((len - start) as u64 + 1) as usize;
    match dice.below(3) {
        0 => start..end.min(start + 300),
        1 => start..end,
        _ => 0..len,
    }
}

fn joined(parts: &[Part]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(bytes) => all.extend_from_slice(bytes),
            Part::Zeros(len) => all.resize(all.len() + *len as usize, 0),
        }
    }
    all
}

fn in_order(image: &Image, range: &Range<usize>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let range = range.start as u64..range.end as u64;
    stream_in_order(image, range, &Cancel::default(), &mut |ordered| {
        match ordered {
            Ordered::Bytes(bytes) => all.extend_from_slice(bytes),
            Ordered::Zeros(len) => all.resize(all.len() + len as usize, 0),
        }
        Ok(())
    })?;
    Ok(all)
}

/// Keeps what it is given, and holds that it is given each byte once.
struct Collect(u64, Mutex<Vec<Option<u8>>>);

impl Collect {
    fn put(&self, offset: u64, bytes: impl Iterator<Item = u8>) {
        let mut all = self.1.lock().unwrap();
        for (number, byte) in bytes.enumerate() {
            let at = (offset - self.0) as usize + number;
            assert_eq!(all[at].replace(byte), None, "byte {at} came twice");
        }
    }
}

impl Sink for Collect {
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.put(offset, bytes.iter().copied());
        Ok(())
    }

    fn zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.put(offset, std::iter::repeat_n(0, len as usize));
        Ok(())
    }
}

fn to_a_sink(image: &Image, range: &Range<usize>) -> Result<Vec<u8>> {
    let sink = Collect(range.start as u64, Mutex::new(vec![None; range.len()]));
    stream(image, range.start as u64..range.end as u64, &Cancel::default(), &sink)?;
    let all = sink.1.into_inner().unwrap();
    Ok(all.into_iter().map(|byte| byte.expect("every byte comes")).collect())
}

/// Extents follow each other without a gap, take turns, and say "nothing" only of zeros.
fn extents_hold(image: &Image, bytes: &[u8]) {
    let (mut at, mut before) = (0u64, None);
    while at < image.len() {
        let extent = wait(image.extent(at, u64::MAX)).unwrap();
        assert!(extent.range.start == at && extent.range.end > at, "{extent:?}");
        assert_ne!(before, Some(extent.data), "{extent:?} goes on as the one before it");
        let here = &bytes[at as usize..extent.range.end as usize];
        assert_eq!(extent.data, used(&bytes[at as usize / CHUNK * CHUNK..extent.range.end as usize]) > 0);
        assert!(extent.data || here.iter().all(|byte| *byte == 0), "{extent:?} is not zero");
        let limit = at + (extent.range.end - at).div_ceil(2);
        assert_eq!(wait(image.extent(at, limit)).unwrap().range, at..limit);
        (at, before) = (extent.range.end, Some(extent.data));
    }
    assert!(wait(image.extent(at, u64::MAX)).unwrap().range.is_empty());
}

fn differences(engine: &Arc<Engine>, a: &Record, b: &Record) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let image = |record: &Record| Image::new(Arc::clone(engine), map(&record.items[0]));
    wait(compare(&image(a), &image(b), &mut |range| found.push(range))).unwrap();
    found
}

/// What differs, to the chunk.
fn different(a: &[u8], b: &[u8]) -> Vec<Range<u64>> {
    let end = a.len().min(b.len());
    let chunk = |bytes: &[u8], at: usize| {
        let chunk = bytes[at..bytes.len().min(at + CHUNK)].to_vec();
        if chunk.iter().all(|byte| *byte == 0) { Vec::new() } else { chunk }
    };
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut push = |range: Range<usize>| match found.last_mut() {
        Some(last) if last.end == range.start as u64 => last.end = range.end as u64,
        _ => found.push(range.start as u64..range.end as u64),
    };
    for at in (0..end).step_by(CHUNK).filter(|at| chunk(a, *at) != chunk(b, *at)) {
        push(at..(at + CHUNK).min(end));
    }
    if a.len() != b.len() {
        push(end..a.len().max(b.len()));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p3_every_backup_of_a_chain_reads_as_it_was_by_every_way_there_is(
        first in content(),
        changes in prop::collection::vec((change(), manner()), 0..4),
        memory in prop_oneof![Just(0u64), Just(200_000), Just(32 << 20)],
        seed in any::<u64>(),
    ) {
        let (mut bench, _) = Bench::in_memory();
        bench.memory = memory;
        let steps = back_up_chain(&bench, first, &changes);
        let engine = bench.engine().unwrap();
        let mut dice = Random::seeded(seed);
        for step in &steps {
            reads_as(&engine, step, &mut dice);
        }
        for pair in steps.windows(2) {
            prop_assert_eq!(differences(&engine, &pair[0].record, &pair[1].record), different(&pair[0].bytes, &pair[1].bytes));
            prop_assert_eq!(differences(&engine, &pair[1].record, &pair[0].record), different(&pair[1].bytes, &pair[0].bytes));
        }
        let last = steps.last().unwrap();
        let plain = Manner { hole: 0, piece: usize::MAX, tells_same: false };
        let again = job("another", source(&last.bytes, &plain, &[]));
        let again = bench.run(afterimage::backup::Job { parent: Parent::None, ..again }).unwrap();
        prop_assert_eq!(again.items[0].root().id, last.record.items[0].root().id, "equal content has equal roots");
        prop_assert_eq!((again.stats.bytes_new, again.stats.bytes_stored), (0, 0), "nothing is stored twice");
        bench.is_sound();
    }
}

#[test]
fn p3_an_image_that_is_the_first_part_of_a_larger_parent_is_that_part_and_not_zeros() {
    let (bench, _) = Bench::in_memory();
    let bytes = noise(1, 3 << 20);
    let _whole = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
    for len in [1 << 20, 1 << 20 | 1, CHUNK, CHUNK - 1, 2 << 20] {
        let part = bench
            .run(afterimage::backup::Job {
                parent: Parent::Of(_whole.id),
                ..job("disk", Fake::empty(len as u64).same(0, len as u64))
            })
            .unwrap();
        assert!(bench.read(&part).unwrap() == bytes[..len], "{len}");
    }
}

#[test]
fn p3_a_source_that_calls_more_unchanged_than_its_parent_has_fails_the_backup() {
    let (bench, _) = Bench::in_memory();
    let _parent = bench.backup("disk", Fake::of(noise(1, 3 * CHUNK))).unwrap();
    for len in [4 * CHUNK, 4 * CHUNK + 5, 1 << 21] {
        let error = bench.backup("disk", Fake::empty(len as u64).same(0, len as u64)).unwrap_err();
        assert_eq!(error.kind(), afterimage::error::Kind::Source, "{error}");
    }
    let error = bench.backup("other", Fake::empty(CHUNK as u64).same(0, CHUNK as u64)).unwrap_err();
    assert_eq!(error.kind(), afterimage::error::Kind::Source, "{error}");
    assert_eq!(bench.list().len(), 1);
}

#[test]
fn p3_a_pack_that_no_reader_would_take_is_not_written() {
    let (bench, _) = Bench::in_memory();
    for (count, len) in [(limits::PACK_CHUNKS_MAX + 1, 10), (33, 4 << 20)] {
        let mut writer = PackWriter::new(bench.repository().unwrap(), runtime().clone(), 1).unwrap();
        let pack = writer.assigned().current();
        for number in 0..count {
            let mut id = [7; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            let row = Row { id: ChunkId(id), kind: SealKind::Data, sealed_len: len, plain_len: len };
            let _place = writer.add(pack, row, vec![0; len as usize]).unwrap();
        }
        let Err(error) = writer.finish() else { panic!("a pack that nobody would read") };
        assert_eq!(error.kind(), afterimage::error::Kind::Unsupported, "{error}");
    }
    assert!(bench.names("packs/").is_empty());
}

#[test]
fn p3_images_of_no_byte_one_byte_and_beside_every_boundary_come_back() {
    let (bench, _) = Bench::in_memory();
    let leaf = 256 * CHUNK;
    for len in [0, 1, 511, 513, CHUNK - 1, CHUNK, CHUNK + 1, leaf - 1, leaf, leaf + 1, 2 * leaf + 1] {
        let bytes = noise(len as u64, len);
        let record = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
        assert!(bench.read(&record).unwrap() == bytes, "{len}");
        assert_eq!(allocated(&record), len as u64);
    }
    bench.is_sound();
}

#[test]
fn p3_the_digest_of_an_image_is_that_of_all_its_bytes_holes_too() {
    use sha2::{Digest, Sha256};
    let (bench, _) = Bench::in_memory();
    let source = || Fake::empty(3_000_001).with(70_000, noise(3, 9000)).with(2_900_000, noise(4, 100));
    for source in [source(), source().same(0, 60_000)] {
        let job = afterimage::backup::Job { digest: true, ..job("disk", source.clone()) };
        let record = bench.run(job).unwrap();
        let afterimage::format::record::Content::Image { sha256, .. } = &record.items[0].content else {
            panic!("not an image")
        };
        let wanted: String =
            Sha256::digest(bench.read(&record).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sha256.as_deref(), Some(&wanted[..]));
    }
}

#[test]
fn p7_a_huge_image_costs_what_is_in_it_and_not_its_size() {
    let (bench, _) = Bench::in_memory();
    let size = 64u64 << 40;
    let places = [0, 5 << 30, (32 << 40) + 4096 * 77, size - CHUNK as u64];
    let with = |fake: Fake, n: usize| fake.with(places[n], noise(n as u64, CHUNK));
    let record = bench.backup("huge", (0..4).fold(Fake::empty(size), with)).unwrap();
    assert_eq!(allocated(&record), 4 * CHUNK as u64);
    let engine = bench.engine().unwrap();
    let image = image(&engine, &record);
    for (n, at) in places.into_iter().enumerate() {
        assert!(wait(image.read_at(at, CHUNK)).unwrap() == noise(n as u64, CHUNK));
        let extent = wait(image.extent(at, u64::MAX)).unwrap();
        assert_eq!((extent.range, extent.data), (at..at + CHUNK as u64, true));
    }
    let hole = wait(image.extent(CHUNK as u64, u64::MAX)).unwrap();
    assert_eq!((hole.range, hole.data), (CHUNK as u64..5 << 30, false));
    let moved =
        bench.backup("huge", (1..4).fold(Fake::empty(size).with(8192, noise(0, CHUNK)), with)).unwrap();
    assert_eq!(differences(&engine, &record, &moved), [0..4096, 8192..8192 + 4096]);
    assert_eq!(moved.stats.bytes_new, 0);
    let mut zeros = 0u64;
    let mut data = 0u64;
    stream_in_order(&image, 0..size, &Cancel::default(), &mut |ordered| {
        match ordered {
            Ordered::Bytes(bytes) => data += bytes.len() as u64,
            Ordered::Zeros(len) => zeros += len,
        }
        Ok(())
    })
    .unwrap();
    assert_eq!((data, zeros), (4 * CHUNK as u64, size - 4 * CHUNK as u64));
    bench.is_sound();
}

#[test]
fn x10_the_largest_image_is_accepted_and_one_byte_more_is_refused() {
    let (bench, _) = Bench::in_memory();
    let largest = i64::MAX as u64;
    let record = bench.backup("hole", Fake::empty(largest)).unwrap();
    let engine = bench.engine().unwrap();
    let image = image(&engine, &record);
    assert_eq!(image.len(), largest);
    assert_eq!(wait(image.extent(0, u64::MAX)).unwrap().range, 0..largest);
    assert_eq!(wait(image.read_at(largest - 10, 10)).unwrap(), [0; 10][..]);
    let end = bench.backup("end", Fake::empty(largest).with(largest - 5, *b"aeiou")).unwrap();
    let at_end = crate::fixture::image(&engine, &end);
    assert_eq!(&wait(at_end.read_at(largest - 7, 7)).unwrap()[..], b"\0\0aeiou");
    for size in [largest + 1, u64::MAX] {
        let error = bench.backup("more", Fake::empty(size)).unwrap_err();
        assert_eq!(error.kind(), afterimage::error::Kind::Source, "{error}");
    }
    bench.is_sound();
    let _runtime = runtime();
}
