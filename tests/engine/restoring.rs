//! R: images onto files, by the library: fresh, over something else, by difference, interrupted and read back.

use crate::fixture::{Bench, CHUNK, MEMORY, image, noise, runtime};
use afterimage::error::{Error, Kind, Result};
use afterimage::format::record::Record;
use afterimage::format::{ChunkId, RepositoryId};
use afterimage::image::bulk::{Sink, stream};
use afterimage::image::origin::Run as Piece;
use afterimage::image::{Engine, Image, Origin};
use afterimage::progress::{Cancel, Progress};
use afterimage::restore::target::journal::{Begun, Journal};
use afterimage::restore::target::progress::Bound;
use afterimage::restore::target::{Guarded, Opened, Run, Target, Wish, open};
use afterimage::restore::{Done, Options, restore_image, verify_image};
use afterimage::seal::Verified;
use afterimage::source::fake::Fake;
use afterimage::store::Fut;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tempfile::TempDir;

/// An image of data, zeros and holes, whose size fits no chunk.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; (6 << 20) + 77];
    for (at, len) in [(0, 700 * 1024), (2 << 20, 1 << 20), ((5 << 20) + 5, CHUNK), ((6 << 20) + 70, 7)] {
        bytes[at..at + len].copy_from_slice(&noise(at as u64, len));
    }
    bytes
}

fn source() -> Fake {
    let bytes = content();
    let end = bytes.len();
    let part = |fake: Fake, range: std::ops::Range<usize>| fake.with(range.start as u64, &bytes[range]);
    let fake = part(Fake::empty(end as u64), 0..1 << 20);
    let fake = part(fake, 2 << 20..3 << 20);
    part(fake, 5 << 20..end)
}

struct Scene {
    bench: Bench,
    record: Record,
    dir: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let (bench, _) = Bench::in_memory();
        let record = bench.backup("disk", source()).unwrap();
        Scene { bench, record, dir: tempfile::tempdir().unwrap() }
    }

    fn image(&self) -> Image {
        image(&self.bench.engine().unwrap(), &self.record)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("target.img")
    }

    fn open(&self) -> (Opened, Journal, Begun) {
        self.open_for(&self.record).unwrap()
    }

    fn open_for(&self, record: &Record) -> Result<(Opened, Journal, Begun)> {
        let wish = Wish { size: content().len() as u64, sector: None, force: false };
        let opened = open(&self.path(), &wish, Guarded { source: None, repository: None })?;
        let bound = Bound {
            backup: record.id.to_string(),
            item: record.items[0].name.clone(),
            root: record.items[0].root().id.to_string(),
            size: content().len() as u64,
            target: String::new(),
        };
        let state = self.dir.path().join("state");
        let (journal, begun) = Journal::begin(&opened.facts, &opened.verdict, bound, &state)?;
        Ok((opened, journal, begun))
    }

    /// Restores as the command does.
    fn restore(&self, options: Options) -> Result<Done> {
        let (opened, journal, _) = self.open();
        let fresh = opened.verdict.create || opened.verdict.set_size;
        let done = run(&self.image(), &*opened.target, &journal, Options { fresh, ..options })?;
        journal.complete()?;
        Ok(done)
    }

    fn is_restored(&self) {
        assert!(fs::read(self.path()).unwrap() == content());
        let left: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "target.img" || name == "state"), "{left:?}");
    }
}

fn run(image: &Image, target: &dyn Target, journal: &Journal, options: Options) -> Result<Done> {
    restore_image(image, target, journal, options, &Progress::default(), &Cancel::default())
}

const PLAIN: Options = Options { fresh: false, differential: false, verify: false };

/// A target that goes wrong as planned.
struct Failing<'a> {
    inner: &'a dyn Target,
    writes: AtomicU64,
    fails_from: u64,
    forgets_at: Option<u64>,
}

impl<'a> Failing<'a> {
    fn from_write(inner: &'a dyn Target, nth: u64) -> Failing<'a> {
        Failing { inner, writes: AtomicU64::new(0), fails_from: nth, forgets_at: None }
    }
}

impl Target for Failing<'_> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.writes.fetch_add(1, Ordering::SeqCst) + 1 >= self.fails_from {
            return Err(Error::new(Kind::Target, format!("write target at offset {offset}: planned fault")));
        }
        let mut bytes = bytes.to_vec();
        if let Some(at) = self.forgets_at.filter(|at| (offset..offset + bytes.len() as u64).contains(at)) {
            bytes[(at - offset) as usize] ^= 1;
        }
        self.inner.write_at(offset, &bytes)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.inner.zero(offset, len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn run_at(&self, offset: u64) -> Result<Run> {
        self.inner.run_at(offset)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn drop_cache(&self) -> Result<()> {
        self.inner.drop_cache()
    }

    fn finish(&self) -> Result<()> {
        self.inner.finish()
    }
}

fn dirty(path: &Path) {
    fs::write(path, noise(99, content().len())).unwrap();
}

#[test]
fn r5_a_new_target_is_sparse_and_a_dirty_one_has_zeros_where_the_image_has_them() {
    let scene = Scene::new();
    let fresh = scene.restore(Options { verify: true, ..PLAIN }).unwrap();
    scene.is_restored();
    let used = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(scene.path()).unwrap()) * 512;
    assert!(fresh.verified && used < 3 << 20, "{used} bytes are used for {fresh:?}");
    dirty(&scene.path());
    let done = scene.restore(Options { verify: true, ..PLAIN }).unwrap();
    scene.is_restored();
    assert!(done.bytes_zeroed > 3 << 20, "{done:?}");
}

#[test]
fn r5_a_differential_restore_writes_only_what_differs() {
    let scene = Scene::new();
    let mut there = content();
    for at in [10, 2 << 20, (5 << 20) + 7, (4 << 20) + 1] {
        there[at] ^= 1;
    }
    fs::write(scene.path(), &there).unwrap();
    let done = scene.restore(Options { differential: true, ..PLAIN }).unwrap();
    scene.is_restored();
    assert!(done.bytes_written <= 3 * CHUNK as u64, "{done:?}");
    let done = scene.restore(Options { differential: true, verify: true, ..PLAIN }).unwrap();
    scene.is_restored();
    assert_eq!(done.bytes_written, 0, "{done:?}");
}

#[test]
fn r9_a_byte_that_the_target_did_not_keep_is_found_by_reading_back() {
    for at in [0u64, (2 << 20) + 5, (6 << 20) + 76] {
        let scene = Scene::new();
        let (opened, journal, _) = scene.open();
        let forgetful = Failing { forgets_at: Some(at), ..Failing::from_write(&*opened.target, u64::MAX) };
        let options = Options { fresh: true, verify: true, ..PLAIN };
        let error = run(&scene.image(), &forgetful, &journal, options).unwrap_err();
        assert!(error.to_string().contains("does not hold what was written"), "{error}");
    }
    let scene = Scene::new();
    let _done = scene.restore(PLAIN).unwrap();
    for at in [(1 << 20) + 70_000, 3 << 20, (6 << 20) + 60] {
        let mut bytes = content();
        bytes[at] = 1;
        fs::write(scene.path(), &bytes).unwrap();
        let (opened, _, _) = scene.open();
        let verified =
            verify_image(&scene.image(), &*opened.target, &Progress::default(), &Cancel::default());
        assert_eq!(verified.unwrap_err().kind(), Kind::Corrupt, "a byte in a hole at {at}");
    }
}

#[test]
fn r6_r8_a_restore_that_failed_goes_on_where_it_was_and_writes_the_rest_only() {
    for dirty_first in [false, true] {
        for nth in [1, 2, 3] {
            let scene = Scene::new();
            if dirty_first {
                dirty(&scene.path());
            }
            let whole = {
                let (opened, journal, begun) = scene.open();
                assert_eq!(begun, Begun::Fresh);
                let fresh = opened.verdict.create;
                let failing = Failing::from_write(&*opened.target, nth);
                let error = run(&scene.image(), &failing, &journal, Options { fresh, ..PLAIN }).unwrap_err();
                assert_eq!(error.kind(), Kind::Target);
                assert!(error.to_string().contains("goes on from there"), "{error}");
                journal.done().total()
            };
            let (opened, journal, begun) = scene.open();
            match whole {
                0 => assert_eq!(begun, Begun::Fresh),
                done => assert_eq!(begun, Begun::Resumed(done), "what the error called done is done"),
            }
            let done = run(&scene.image(), &*opened.target, &journal, PLAIN).unwrap();
            journal.complete().unwrap();
            scene.is_restored();
            let all = done.bytes_written + done.bytes_zeroed + done.bytes_skipped;
            assert_eq!(all, content().len() as u64, "{done:?}");
            assert!(done.bytes_skipped >= whole, "{done:?}, {whole} were done");
        }
    }
}

#[test]
fn r8_a_restore_that_was_cancelled_keeps_what_it_did() {
    let scene = Scene::new();
    dirty(&scene.path());
    let (opened, journal, _) = scene.open();
    let cancel = Cancel::default();
    cancel.stop();
    let error =
        restore_image(&scene.image(), &*opened.target, &journal, PLAIN, &Progress::default(), &cancel);
    assert_eq!(error.unwrap_err().kind(), Kind::Interrupted);
    drop((opened, journal));
    let _done = scene.restore(Options { verify: true, ..PLAIN }).unwrap();
    scene.is_restored();
}

/// Cancels when it gets its first bytes, and counts what it gets.
struct Cancelling {
    cancel: Cancel,
    given: AtomicU64,
}

impl Sink for Cancelling {
    fn data(&self, _offset: u64, bytes: &[u8]) -> Result<()> {
        self.cancel.stop();
        let _before = self.given.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    fn zeros(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}

#[test]
fn r8_who_cancels_is_heard_after_what_is_under_way_however_much_is_planned() {
    // Each chunk is a step of its own, and so many are put in order together.
    let (bench, _) = Bench::in_memory_cut_at(1 << 20);
    let len = 64 << 20;
    let record = bench.backup("disk", Fake::of(noise(3, len))).unwrap();
    let image = image(&bench.engine().unwrap(), &record);
    let sink = Cancelling { cancel: Cancel::default(), given: AtomicU64::new(0) };
    let ended = stream(&image, 0..len as u64, &sink.cancel, &sink);
    assert_eq!(ended.unwrap_err().kind(), Kind::Interrupted);
    let given = sink.given.into_inner();
    assert!(given > 0 && given < len as u64 / 2, "{given} of {len}");
}

#[test]
fn r8_the_journal_of_another_restore_is_refused() {
    let scene = Scene::new();
    dirty(&scene.path());
    let other = scene.bench.backup("disk", Fake::of(noise(7, content().len()))).unwrap();
    let (opened, journal, _) = scene.open();
    let failing = Failing::from_write(&*opened.target, 2);
    let _error = run(&scene.image(), &failing, &journal, PLAIN).unwrap_err();
    drop((opened, journal));
    let error = scene.open_for(&other).err().expect("another backup's journal");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("another restore"), "{error}");
}

#[test]
fn r7_damage_in_the_repository_stops_a_restore_and_never_becomes_zeros() {
    let (bench, store) = Bench::in_memory();
    let record = bench.backup("disk", source()).unwrap();
    let scene = Scene { record, dir: tempfile::tempdir().unwrap(), bench };
    let pack =
        &scene.bench.names("packs/").into_iter().max_by_key(|name| scene.bench.bytes(name).len()).unwrap();
    let whole = scene.bench.bytes(pack);
    store.harm(pack, |bytes| bytes[whole.len() / 2] ^= 1).unwrap();
    let error = scene.restore(PLAIN).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    store.harm(pack, |bytes| *bytes = whole).unwrap();
    let _done = scene.restore(Options { verify: true, ..PLAIN }).unwrap();
    scene.is_restored();
}

#[test]
fn r1_a_target_that_is_a_byte_too_small_is_refused_and_unchanged() {
    let scene = Scene::new();
    let before = noise(1, content().len() - 1);
    fs::write(scene.path(), &before).unwrap();
    let error = scene.open_for(&scene.record).err().expect("too small");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(fs::read(scene.path()).unwrap() == before);
    let larger = noise(1, content().len() + 1000);
    fs::write(scene.path(), &larger).unwrap();
    let _done = scene.restore(PLAIN).unwrap();
    let after = fs::read(scene.path()).unwrap();
    assert!(after[..content().len()] == content() && after[content().len()..] == larger[content().len()..]);
}

/// Pieces that others wrote, each read by itself. Whoever reads waits until all of it is planned, and then wants no more.
#[derive(Default)]
struct Unwanted {
    is_planned: AtomicBool,
    fills: AtomicU64,
    cancel: Cancel,
}

const PIECES: u64 = 2000;

impl Origin for Unwanted {
    fn len(&self) -> u64 {
        PIECES * CHUNK as u64
    }

    fn id(&self) -> ChunkId {
        ChunkId([1; 32])
    }

    fn chunk_len(&self) -> u64 {
        CHUNK as u64
    }

    fn chunks_now(&self, _numbers: Range<u64>) -> Option<Vec<Option<ChunkId>>> {
        None
    }

    fn chunks<'a>(&'a self, numbers: Range<u64>) -> Fut<'a, Vec<Option<ChunkId>>> {
        Box::pin(async move { Ok(numbers.map(|_| None).collect()) })
    }

    fn run<'a>(&'a self, offset: u64, limit: u64) -> Fut<'a, Piece> {
        let end = limit.min(offset + CHUNK as u64);
        let _before = self.is_planned.fetch_or(end == self.len(), Ordering::SeqCst);
        Box::pin(async move { Ok(Piece { range: offset..end, data: true, stream: None }) })
    }

    fn fetch(&self, _numbers: Range<u64>) -> Vec<Result<Verified>> {
        unreachable!("it is streamed")
    }

    fn fill(&self, _offset: u64, into: &mut [u8], _free: &dyn Fn()) -> Result<()> {
        while !self.is_planned.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        self.cancel.stop();
        let _before = self.fills.fetch_add(1, Ordering::SeqCst);
        into.fill(1);
        Ok(())
    }

    fn is_chunk(&self, _id: ChunkId, _bytes: &[u8]) -> bool {
        false
    }

    fn changed_since<'a>(&'a self, _other: ChunkId) -> Fut<'a, Option<Vec<Range<u64>>>> {
        Box::pin(async { Ok(None) })
    }

    fn stream_of(&self, _offset: u64) -> Option<u64> {
        None
    }
}

/// Takes everything.
struct Void;

impl Sink for Void {
    fn data(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn zeros(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}

#[test]
fn r6_who_interrupts_does_not_wait_for_all_that_was_planned() {
    let origin = Arc::new(Unwanted::default());
    let engine = Engine::foreign(RepositoryId([1; 16]), runtime().clone(), MEMORY).unwrap();
    let image = Image::of(engine, origin.clone());
    let error = stream(&image, 0..image.len(), &origin.cancel, &Void).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    let fills = origin.fills.load(Ordering::SeqCst);
    assert!(fills < PIECES / 2, "{fills} of {PIECES} pieces were read");
}
