//! What things cost, counted in calls to the store: the promises of DESIGN.md about reads, lists and unchanged backups (harness V).

use crate::corruption::publish_copies;
use crate::fixture::{Bench, CHUNK, chunks, image, map, noise, runtime, wait};
use afterimage::format::record::Record;
use afterimage::image::bulk::{Sink, stream, stream_in_order};
use afterimage::image::library::Ours;
use afterimage::image::{Ahead, Image, Stretch};
use afterimage::progress::Cancel;
use afterimage::source::fake::Fake;
use afterimage::store::record::Call;
use afterimage::store::{Record as Recorder, Verb};
use afterimage::view::{Find, View};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A machine that never saw the repository, and books of what it asks.
fn counted(bench: &Bench) -> (Bench, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::with_log(Arc::clone(&bench.store)));
    (bench.elsewhere().through(recorder.clone()), recorder)
}

/// The pack in which an image's first chunk lies.
fn data_pack(bench: &Bench, record: &Record, at: u64) -> String {
    let engine = bench.engine().unwrap();
    let Stretch::Leaf(leaf) = wait(map(&record.items[0]).stretch(&engine, at)).unwrap() else {
        panic!("a hole")
    };
    let place = leaf.at(at).unwrap().child.expect("data").place;
    afterimage::repo::names::pack(place.pack).unwrap().to_string()
}

fn of_object<'a>(log: &'a [Call], object: &str) -> Vec<&'a Call> {
    log.iter().filter(|call| call.object == object).collect()
}

#[test]
fn v_a_cold_read_in_a_huge_image_costs_one_get_for_each_level_of_its_map_and_one_for_the_chunk() {
    let (bench, _) = Bench::in_memory();
    let size = 1u64 << 40;
    let at = size / 2 + 5 * CHUNK as u64;
    let record = bench.backup("huge", Fake::empty(size).with(at - 4096, noise(1, 8 * CHUNK))).unwrap();
    let (there, recorder) = counted(&bench);
    let engine = there.engine().unwrap();
    let opening = recorder.take_log();
    assert_eq!(
        opening.iter().filter(|call| call.verb == Verb::GetWhole).count(),
        2,
        "config and key: {opening:?}"
    );
    let found = wait(engine.repository().unwrap().record(record.id)).unwrap();
    assert_eq!(recorder.take_log().len(), 1, "a backup is opened by one get");
    let image = image(&engine, &found);
    assert!(wait(image.read_at(at, CHUNK)).unwrap() == noise(1, 8 * CHUNK)[CHUNK..2 * CHUNK]);
    let log = recorder.take_log();
    let levels = usize::from(found.items[0].root().level) + 1;
    assert!(log.len() <= levels + 1, "{log:?}");
    assert_eq!(of_object(&log, &data_pack(&bench, &record, at)).len(), 1);
    assert!(wait(image.read_at(at, CHUNK)).unwrap() == noise(1, 8 * CHUNK)[CHUNK..2 * CHUNK]);
    assert_eq!(recorder.take_log(), [], "a warm read costs nothing");
    assert!(wait(image.read_at(0, 1 << 20)).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(wait(image.extent(0, size / 4)).unwrap().range, 0..size / 4);
    assert_eq!(recorder.take_log(), [], "a hole costs nothing");
}

#[test]
fn v_what_is_streamed_is_announced_to_the_store_and_then_fetched_once() {
    let (bench, _) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(noise(1, 64 * CHUNK))).unwrap();
    let pack = data_pack(&bench, &record, 0);
    let (there, recorder) = counted(&bench);
    let image = image(&there.engine().unwrap(), &record);
    assert!(stream_in_order(&image, 0..64 * CHUNK as u64, &Cancel::default(), &mut |_| Ok(())).is_ok());
    let log = recorder.take_log();
    let len = |call: &&Call| call.range.as_ref().map_or(0, |range| range.end - range.start);
    let fetched: u64 = of_object(&log, &pack).iter().map(len).sum();
    assert!(fetched > 0 && recorder.expected() == fetched, "{} {log:?}", recorder.expected());
}

#[test]
fn v_a_read_of_neighbours_is_one_get() {
    let (bench, _) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(noise(1, 64 * CHUNK))).unwrap();
    let pack = data_pack(&bench, &record, 0);
    let (there, recorder) = counted(&bench);
    let image = image(&there.engine().unwrap(), &record);
    assert!(wait(image.read_at(100, 60 * CHUNK)).unwrap() == noise(1, 64 * CHUNK)[100..100 + 60 * CHUNK]);
    assert_eq!(of_object(&recorder.take_log(), &pack).len(), 1);
}

/// Holds what comes to what should come.
struct Holds<'a>(&'a [u8]);

impl Sink for Holds<'_> {
    fn data(&self, offset: u64, bytes: &[u8]) -> afterimage::error::Result<()> {
        assert!(self.0[offset as usize..][..bytes.len()] == *bytes, "other bytes at {offset}");
        Ok(())
    }

    fn zeros(&self, offset: u64, len: u64) -> afterimage::error::Result<()> {
        panic!("{len} zeros at {offset}")
    }
}

#[test]
fn v_a_restore_of_what_several_backups_wrote_takes_gets_by_what_lies_together_in_the_store() {
    let (bench, _) = Bench::in_memory();
    let mut bytes = noise(1, 128 * CHUNK);
    let mut record = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
    for round in 1..4 {
        for chunk in (0..128).filter(|chunk| chunk % 4 == round) {
            bytes[chunk * CHUNK..][..CHUNK].copy_from_slice(&noise((round * 1000 + chunk) as u64, CHUNK));
        }
        record = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
    }
    let gets = |recorder: &Recorder| {
        let log = recorder.take_log();
        log.iter().filter(|call| call.verb == Verb::Get && call.object.starts_with("packs/")).count()
    };
    let (there, recorder) = counted(&bench);
    let whole = image(&there.engine().unwrap(), &record);
    stream(&whole, 0..bytes.len() as u64, &Cancel::default(), &Holds(&bytes)).unwrap();
    let by_store = gets(&recorder);
    let (there, recorder) = counted(&bench);
    let whole = image(&there.engine().unwrap(), &record);
    stream_in_order(&whole, 0..bytes.len() as u64, &Cancel::default(), &mut |_| Ok(())).unwrap();
    let by_image = gets(&recorder);
    assert!(by_store <= 8, "{by_store} gets for chunks of four packs");
    assert!(by_image >= 128, "{by_image} gets: this image is not spread over packs");
}

#[test]
fn v_who_streams_an_image_is_not_made_to_wait_for_each_leaf_of_its_map() {
    let (bench, _) = Bench::in_memory();
    let bytes = noise(3, 40 * 256 * CHUNK);
    let record = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
    let nodes = afterimage::repo::names::pack(record.items[0].root().place.pack).unwrap().to_string();
    let (there, recorder) = counted(&bench);
    let whole = image(&there.engine().unwrap(), &record);
    stream_in_order(&whole, 0..bytes.len() as u64, &Cancel::default(), &mut |_| Ok(())).unwrap();
    let log = recorder.take_log();
    let gets = of_object(&log, &nodes).len();
    assert!(gets <= 8, "{gets} gets for 40 leaves");
}

#[test]
fn v_who_asks_how_far_data_goes_is_not_made_to_wait_for_each_leaf_of_the_map() {
    let (bench, _) = Bench::in_memory();
    let leaves = 40;
    let len = (leaves * 256 * CHUNK) as u64;
    let record = bench.backup("disk", Fake::of(noise(3, len as usize))).unwrap();
    let nodes = afterimage::repo::names::pack(record.items[0].root().place.pack).unwrap().to_string();
    let (there, recorder) = counted(&bench);
    let whole = image(&there.engine().unwrap(), &record);
    let _opening = recorder.take_log();
    let extent = wait(whole.extent(0, len)).unwrap();
    assert_eq!((extent.range, extent.data), (0..len, true));
    let gets = of_object(&recorder.take_log(), &nodes).len();
    assert!(gets <= 6, "{gets} gets for {leaves} leaves");
}

#[test]
fn v_a_hole_that_is_far_away_is_given_up_and_never_said_to_be_where_data_is() {
    let (bench, _) = Bench::in_memory();
    let leaf = (256 * CHUNK) as u64;
    let (data, size) = (20 * leaf + CHUNK as u64, 30 * leaf);
    let record = bench.backup("disk", Fake::empty(size).with(0, noise(3, data as usize))).unwrap();
    let (there, recorder) = counted(&bench);
    let engine = there.engine().unwrap();
    let view = View::new(Arc::new(Ours::new(Arc::clone(&engine))));
    let contents = wait(view.look()).unwrap();
    let file = view.open_image(&contents.ids()[&record.id], 0).unwrap();
    let find = |offset, what, steps: usize| {
        let left = AtomicUsize::new(steps);
        let goes_on = || left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        wait(file.find_while(offset, what, &goes_on)).unwrap()
    };
    let _opening = recorder.take_log();
    for (offset, steps) in [(0, 0), (0, 3), (leaf + 7, 5), (19 * leaf, 0)] {
        assert_eq!(find(offset, Find::Hole, steps), Some(size), "{steps} steps from {offset}");
        assert_eq!(find(offset, Find::Data, steps), Some(offset));
    }
    let gets = recorder.take_log().iter().filter(|call| call.verb == Verb::Get).count();
    assert!(gets <= 10, "{gets} gets for a few steps");
    for offset in [0, 5 * leaf, data - 1] {
        assert_eq!(find(offset, Find::Hole, 1000), Some(data), "from {offset}");
    }
    assert_eq!(find(20 * leaf, Find::Hole, 0), Some(data), "it ends in the leaf in which it begins");
    assert_eq!(find(data, Find::Data, 1000), None);
    assert_eq!(wait(file.find(0, Find::Hole)).unwrap(), Some(data));
}

#[test]
fn f9_however_many_want_a_cold_chunk_it_is_fetched_once() {
    let (bench, _) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(noise(1, 16 * CHUNK))).unwrap();
    let pack = data_pack(&bench, &record, 0);
    for _ in 0..10 {
        let (there, recorder) = counted(&bench);
        let image = image(&there.engine().unwrap(), &record);
        wait(async {
            let reads: Vec<_> = (0..64)
                .map(|_| {
                    let image = image.clone();
                    runtime().spawn(async move { image.read_at(3 * CHUNK as u64, CHUNK).await })
                })
                .collect();
            for read in reads {
                assert!(read.await.unwrap().unwrap() == noise(1, 16 * CHUNK)[3 * CHUNK..4 * CHUNK]);
            }
        });
        let log = recorder.take_log();
        assert_eq!(of_object(&log, &pack).len(), 1, "{log:?}");
        assert!(log.iter().filter(|call| call.verb == Verb::Get).count() <= 2, "{log:?}");
    }
}

#[test]
fn v_a_reader_in_order_has_each_byte_fetched_once_and_ahead_of_it() {
    let (bench, _) = Bench::in_memory();
    let len = 4 << 20;
    let record = bench.backup("disk", Fake::of(noise(1, len))).unwrap();
    let pack = data_pack(&bench, &record, 0);
    let (there, recorder) = counted(&bench);
    let image: Image = image(&there.engine().unwrap(), &record);
    let ahead = Ahead::new();
    let bytes = noise(1, len);
    for at in (0..len).step_by(32 << 10) {
        ahead.note(&image, at as u64, 32 << 10);
        assert!(wait(image.read_at(at as u64, 32 << 10)).unwrap() == bytes[at..at + (32 << 10)]);
        let began = Instant::now();
        while at == 64 << 10 && recorder.tally(Verb::Get).bytes < 1 << 20 {
            assert!(began.elapsed() < Duration::from_secs(20), "nothing is fetched ahead");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let log = recorder.take_log();
    let ranges: Vec<Range<u64>> =
        of_object(&log, &pack).iter().map(|call| call.range.clone().expect("a ranged get")).collect();
    // A get may pass over the chunk that somebody else is fetching just now.
    let fetched: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    assert!(fetched < len as u64 / 100 * 105, "{fetched} bytes for {len}: {ranges:?}");
    assert!(recorder.expected() > 0, "the store is told what a window will ask it for");
    assert!(ranges.len() < 128, "{} gets for as many reads and {len} bytes", ranges.len());
}

#[test]
fn v_an_unchanged_second_backup_reads_no_data_and_writes_one_record() {
    let (bench, _) = Bench::in_memory();
    let bytes = noise(1, 300 * CHUNK + 77);
    let first = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
    let pack = data_pack(&bench, &first, 0);
    for (there, recorder) in [counted(&bench), {
        let recorder = Arc::new(Recorder::with_log(Arc::clone(&bench.store)));
        (bench.through(recorder.clone()), recorder)
    }] {
        let second = there.backup("disk", Fake::of(bytes.clone())).unwrap();
        assert_eq!((second.stats.bytes_new, second.stats.bytes_stored), (0, 0));
        assert_eq!(second.items[0].root(), first.items[0].root());
        let log = recorder.take_log();
        assert!(of_object(&log, &pack).iter().all(|call| call.verb == Verb::Stat), "{log:?}");
        let puts: Vec<_> = log.iter().filter(|call| call.verb == Verb::Put).collect();
        assert!(puts.len() == 1 && puts[0].object.starts_with("backups/"), "{puts:?}");
    }
}

#[test]
fn v_one_changed_chunk_stores_that_chunk_and_the_nodes_above_it() {
    let (bench, _) = Bench::in_memory();
    let mut bytes = noise(1, 600 * CHUNK);
    let _first = bench.backup("disk", Fake::of(bytes.clone())).unwrap();
    bytes[400 * CHUNK] ^= 1;
    let second = bench.backup("disk", Fake::of(bytes)).unwrap();
    assert_eq!(second.stats.bytes_new, CHUNK as u64);
    let node = 256 * 48;
    assert!(second.stats.bytes_stored < (CHUNK + 2 * node + 4000) as u64, "{:?}", second.stats);
}

#[test]
fn v_p7_a_fresh_machine_lists_300_backups_in_a_few_gets_and_2000_in_hardly_more() {
    let (bench, _) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(chunks(1, 3))).unwrap();
    for (count, gets_max) in [(300u64, 6), (2000, 12)] {
        publish_copies(&bench, &record, count);
        wait(bench.repository().unwrap().merge_catalogue()).unwrap();
        let (there, recorder) = counted(&bench);
        let began = Instant::now();
        assert_eq!(there.list().len() as u64, count + 1);
        let gets = recorder.tally(Verb::GetWhole).calls;
        assert!(gets <= gets_max, "{gets} gets for {count} backups");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    let (there, recorder) = counted(&bench);
    let next = there.backup("disk", Fake::of(chunks(2, 3))).unwrap();
    let calls: u64 = Verb::ALL.iter().map(|verb| recorder.tally(*verb).calls).sum();
    assert!(calls < 60, "a backup beside 2000 makes {calls} calls");
    assert!(there.read(&next).unwrap() == chunks(2, 3));
    let found = wait(
        there
            .repository()
            .unwrap()
            .find(&afterimage::repo::refs::Reference::parse(&next.id.to_string()[..12]).unwrap()),
    );
    assert_eq!(found.unwrap().id, next.id);
    bench.is_sound();
}

#[test]
fn v_records_that_come_one_by_one_are_merged_so_that_few_lie_loose() {
    let (bench, _) = Bench::in_memory();
    let record = bench.backup("disk", Fake::of(chunks(1, 1))).unwrap();
    for round in 1..=6u64 {
        publish_copies(&bench, &record, round * 50);
        let _made = bench.backup("disk", Fake::of(chunks(1, 1))).unwrap();
    }
    let (there, recorder) = counted(&bench);
    assert_eq!(there.list().len(), 307);
    let gets = recorder.tally(Verb::GetWhole).calls;
    assert!(gets < 64 + 12, "{gets} gets");
    bench.is_sound();
}
