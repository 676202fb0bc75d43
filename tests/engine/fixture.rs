//! What every test here stands on: a [`Bench`] is a store with a repository in it and a cache directory of its own, with one way to
//! back up, to read, to list and to check; and images that are easy to tell apart.

use crate::random::Random;
use afterimage::backup::{self, Input, ItemSource, Job, Parent};
use afterimage::error::Result;
use afterimage::format::BackupId;
use afterimage::format::record::{Content, Item, Record};
use afterimage::image::{Engine, Image, Map};
use afterimage::progress::{Cancel, Progress};
use afterimage::repo::{InitOptions, Repository};
use afterimage::seal::LEVEL_DEFAULT;
use afterimage::source::Source;
use afterimage::source::fake::Fake;
use afterimage::store::{AnyStore, MemStore, Name, list_all};
use afterimage::upkeep::{self, Options, Report};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

/// The chunk size of all repositories here: the smallest, so that small images have maps.
pub(crate) const CHUNK: usize = 4096;
/// The budget of an engine that was not told another.
pub(crate) const MEMORY: u64 = 32 << 20;
/// A test that takes longer than this hangs.
const TEST_SECS_MAX: u64 = 600;

/// The runtime that all tests share, as all of a process do.
pub(crate) fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let start = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime")
    };
    RUNTIME.get_or_init(start).handle()
}

/// Waits for a future on this plain thread.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// Ends the whole program when a test hangs: a deadlock must not look like a slow machine.
pub(crate) struct Watch(Option<Sender<()>>);

impl Watch {
    fn over(what: String) -> Watch {
        let (done, is_done) = channel::<()>();
        drop(std::thread::spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(TEST_SECS_MAX)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{what} hangs");
                std::process::exit(101);
            }
        }));
        Watch(Some(done))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

/// A repository and a machine that uses it.
pub(crate) struct Bench {
    pub(crate) store: AnyStore,
    pub(crate) cache: Arc<TempDir>,
    pub(crate) memory: u64,
    _watch: Watch,
}

impl Bench {
    /// A new repository in this store.
    pub(crate) fn new(store: AnyStore) -> Bench {
        let bench = Bench::on(store);
        bench.init().expect("make the repository");
        bench
    }

    /// A new repository in memory, and its store.
    pub(crate) fn in_memory() -> (Bench, Arc<MemStore>) {
        let store = Arc::new(MemStore::new());
        (Bench::new(store.clone()), store)
    }

    /// The same with images cut at other offsets.
    pub(crate) fn in_memory_cut_at(chunk_size: u32) -> (Bench, Arc<MemStore>) {
        let store = Arc::new(MemStore::new());
        let bench = Bench::on(store.clone());
        bench.init_cut_at(chunk_size).expect("make the repository");
        (bench, store)
    }

    /// A machine that never saw this store.
    pub(crate) fn on(store: AnyStore) -> Bench {
        let cache = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        Bench { store, cache, memory: MEMORY, _watch: Watch::over(test) }
    }

    /// The same machine, looking at its store through another layer.
    pub(crate) fn through(&self, store: AnyStore) -> Bench {
        Bench { cache: Arc::clone(&self.cache), memory: self.memory, ..Bench::on(store) }
    }

    /// Another machine.
    pub(crate) fn elsewhere(&self) -> Bench {
        Bench { memory: self.memory, ..Bench::on(Arc::clone(&self.store)) }
    }

    pub(crate) fn init(&self) -> Result<()> {
        self.init_cut_at(CHUNK as u32)
    }

    fn init_cut_at(&self, chunk_size: u32) -> Result<()> {
        let options = InitOptions { chunk_size, separate: false, password: None };
        wait(Repository::init(&self.store, &options)).map(drop)
    }

    pub(crate) fn repository(&self) -> Result<Arc<Repository>> {
        let mut ask = || panic!("nobody set a password");
        wait(Repository::open(Arc::clone(&self.store), self.cache.path(), &mut ask)).map(Arc::new)
    }

    /// An engine that has nothing in its caches.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>> {
        Engine::new(self.repository()?, runtime().clone(), self.memory)
    }

    /// Backs up `source` as `name`.
    pub(crate) fn backup(&self, name: &str, source: Fake) -> Result<Record> {
        self.run(job(name, source))
    }

    pub(crate) fn run(&self, job: Job) -> Result<Record> {
        self.run_until(job, &Cancel::default())
    }

    pub(crate) fn run_until(&self, job: Job, cancel: &Cancel) -> Result<Record> {
        backup::run(&self.engine()?, runtime(), job, &Progress::default(), cancel)
    }

    /// All bytes of a backup's only image, through the cache.
    pub(crate) fn read(&self, record: &Record) -> Result<Vec<u8>> {
        read_whole(&image(&self.engine()?, record))
    }

    /// The records that are listed, oldest first; none may be damaged.
    pub(crate) fn list(&self) -> Vec<Record> {
        let listing = wait(self.repository().expect("open").list()).expect("list");
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        listing.records
    }

    pub(crate) fn ids(&self) -> Vec<BackupId> {
        self.list().iter().map(|record| record.id).collect()
    }

    /// Checks everything, content too.
    pub(crate) fn check(&self) -> Result<Report> {
        self.check_as(&Options { read_percent: 100.0, only: Vec::new(), note: false })
    }

    pub(crate) fn check_as(&self, options: &Options) -> Result<Report> {
        upkeep::check(&self.engine()?, runtime(), options, &Progress::default(), &Cancel::default())
    }

    /// Checks, and finds nothing.
    pub(crate) fn is_sound(&self) {
        let report = self.check().expect("check");
        assert!(report.damaged.is_empty(), "{:#?}", report.damaged);
        assert_eq!(report.backups_ok, self.list().len() as u64);
    }

    /// The names of the objects in a folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<Name> {
        let listed = wait(list_all(&*self.store, folder)).expect("list");
        listed.into_iter().map(|listed| listed.name).collect()
    }

    /// The bytes of an object.
    pub(crate) fn bytes(&self, name: &Name) -> Vec<u8> {
        wait(self.store.get_whole(name, u64::MAX)).expect("an object that is there").to_vec()
    }
}

/// A backup of one share.
pub(crate) fn share_job(source: Input, parent: Parent) -> Job {
    Job {
        name: "share".to_owned(),
        items: vec![ItemSource { name: "tree".to_owned(), source }],
        parent,
        time: None,
        tags: Default::default(),
        metadata: Default::default(),
        level: LEVEL_DEFAULT,
        digest: false,
        memory: MEMORY,
        copy_of: None,
    }
}

/// A backup of one image.
pub(crate) fn job(name: &str, source: impl Source + 'static) -> Job {
    Job {
        name: name.to_owned(),
        items: vec![ItemSource { name: "disk.img".to_owned(), source: Box::new(source).into() }],
        parent: Parent::Latest,
        time: None,
        tags: Default::default(),
        metadata: Default::default(),
        level: LEVEL_DEFAULT,
        digest: false,
        copy_of: None,
        memory: MEMORY,
    }
}

pub(crate) fn map(item: &Item) -> Map {
    let Content::Image { size, root, .. } = item.content else { panic!("not an image") };
    Map { root, len: size }
}

/// The only image of a backup.
pub(crate) fn image(engine: &Arc<Engine>, record: &Record) -> Image {
    Image::new(Arc::clone(engine), map(&record.items[0]))
}

pub(crate) fn allocated(record: &Record) -> u64 {
    let Content::Image { allocated, .. } = record.items[0].content else { panic!("not an image") };
    allocated
}

/// Reads an image from end to end, in steps that fit no chunk.
pub(crate) fn read_whole(image: &Image) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while (all.len() as u64) < image.len() {
        let step = (image.len() - all.len() as u64).min(100_000) as usize;
        all.extend_from_slice(&wait(image.read_at(all.len() as u64, step))?);
    }
    Ok(all)
}

/// Bytes that no compressor makes smaller, different for every seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Random::seeded(seed).fill(&mut bytes);
    bytes
}

/// So many whole chunks, all different, which compress to almost nothing.
pub(crate) fn chunks(seed: u64, count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("{seed:08} {number:06}\n").into_bytes().repeat(CHUNK / 16)).collect()
}
