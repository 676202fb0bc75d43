//! What all images of a process share: the caches, the fetches under way, the threads that open chunks; within one budget.
//!
//! chunk wanted -> here? -> somebody fetches it? wait -> group with its neighbours -> one ranged get -> open each -> cache -> all who wait
//!
//! Holds: each missing chunk is fetched once, however many want it; what failed is never cached, and what could not be found anywhere is not
//! searched for again for half a minute. One chunk's damage is the answer for that chunk, not for its neighbours in the same get.
//! A store that hangs holds up who waits for what it owes, and nobody else: it is asked on the pool's threads only, which are made up for.

use super::cache::{ChunkCache, Counts, Flight, Flights, Hint, Lead, Wait};
use super::disk::Disk;
use super::foreign;
use super::node::{Loaded, load, parse};
use super::origin::Origin;
use super::pace::Pace;
use super::pool::{Pool, Urgency};
use super::stalls::Asked;
use super::watch::Watch;
use crate::error::{Error, Kind, Result};
use crate::format::node::Child;
use crate::format::{ChunkId, Corrupt, PackId, Place, RepositoryId, ids::SealKind};
use crate::repo::Repository;
use crate::seal::Verified;
use bytes::Bytes;
use lru::LruCache;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// One get fetches neighbours up to so many sealed bytes; more would leave other threads without work. Chunks that don't shrink are a little
/// longer sealed.
const GROUP_LEN_MAX: u64 = (512 + 4) * 1024;
/// What is fetched ahead from a store where each get has its price. There are as many under way at once as that store takes.
const FAR_GROUP_LEN_MAX: u64 = (1024 + 4) * 1024;
/// The same for what another program wrote, which is read in one go: whoever comes next goes on where this ends.
const FAR_LEN_MAX: u64 = 1 << 20;
/// Neighbours with no more than this between them are fetched together.
const GAP_MAX: u64 = 16 * 1024;
/// What one reader has fetched ahead of it at most, however much memory there is, unless more than that is on the way at once.
const WINDOW_MAX: u64 = 32 << 20;
/// For how long a chunk that could not be found is not searched for again.
const LOST_FOR: Duration = Duration::from_secs(30);
const LOST_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// A chunk that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: ChunkId,
    pub(super) place: Place,
    pub(super) len: u64,
}

/// A chunk of an image that another program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Far {
    /// Which one of the image's.
    pub(super) number: u64,
    pub(super) id: ChunkId,
}

type Fetched = Result<Verified>;
type ChunkLead = Lead<ChunkId, Fetched>;
type NodeLead = Lead<ChunkId, Result<Loaded>>;

/// Whose images they are.
enum Home {
    /// Those of a repository of ours.
    Ours(Arc<Repository>),
    /// Those of another program; the id stands for the place where they lie.
    Foreign(RepositoryId),
}

/// The shared engine. One for each place that is read from; those of imported backups' homes share caches, threads and budget with the first one.
/// Ids of chunks are keyed, so those of two repositories never meet in a cache.
pub struct Engine {
    home: Home,
    runtime: Handle,
    memory: u64,
    chunks: Arc<ChunkCache<ChunkId, Verified>>,
    nodes: Arc<ChunkCache<ChunkId, Loaded>>,
    chunk_flights: Flights<ChunkId, Fetched>,
    node_flights: Flights<ChunkId, Result<Loaded>>,
    lost: Mutex<LruCache<ChunkId, (Instant, Error)>>,
    pool: Arc<Pool>,
    disk: Option<Arc<Disk>>,
    /// Readers with a window.
    streams: Arc<AtomicI64>,
    pace: Pace,
    watch: Arc<Watch>,
    homes: Mutex<HashMap<RepositoryId, Arc<Engine>>>,
}

impl Engine {
    /// An engine that keeps within `memory` bytes: an eighth for nodes, five for chunks, the rest for what is under way.
    pub fn new(repository: Arc<Repository>, runtime: Handle, memory: u64) -> Result<Arc<Engine>> {
        Engine::with_disk(repository, runtime, memory, None)
    }

    /// The same with a tier on this machine's disk between memory and the store.
    pub fn with_disk(
        repository: Arc<Repository>,
        runtime: Handle,
        memory: u64,
        disk: Option<Disk>,
    ) -> Result<Arc<Engine>> {
        Engine::at(Home::Ours(repository), runtime, memory, disk)
    }

    /// An engine for images that another program wrote, all at the place that `home` stands for.
    pub fn foreign(home: RepositoryId, runtime: Handle, memory: u64) -> Result<Arc<Engine>> {
        Engine::at(Home::Foreign(home), runtime, memory, None)
    }

    fn at(home: Home, runtime: Handle, memory: u64, disk: Option<Disk>) -> Result<Arc<Engine>> {
        let part = |eighths: u64| usize::try_from(memory / 8 * eighths).unwrap_or(usize::MAX);
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        // Twice as many threads as cores: some wait for a disk while others open what came.
        let pool = Pool::new(cores * 2, runtime.clone())
            .map_err(|error| Error::io("start the threads that open chunks", error))?;
        Ok(Arc::new(Engine {
            home,
            runtime,
            memory,
            chunks: Arc::new(ChunkCache::new(part(5))),
            nodes: Arc::new(ChunkCache::new(part(1))),
            chunk_flights: Flights::new(),
            node_flights: Flights::new(),
            lost: Mutex::new(LruCache::new(LOST_MAX)),
            pool: Arc::new(pool),
            disk: disk.map(Arc::new),
            streams: Arc::default(),
            pace: Pace::default(),
            watch: Arc::default(),
            homes: Mutex::default(),
        }))
    }

    /// Whose chunks they are; an error where another program wrote them.
    pub fn repository(&self) -> Result<&Arc<Repository>> {
        match &self.home {
            Home::Ours(repository) => Ok(repository),
            Home::Foreign(_) => Err(Error::new(
                Kind::Refused,
                "these backups were written by another program, and are only read from here",
            )
            .hint("a repository of one's own is made by afterimage init")),
        }
    }

    /// What stands for the place that all images are read from.
    pub fn home(&self) -> RepositoryId {
        match &self.home {
            Home::Ours(repository) => repository.id(),
            Home::Foreign(id) => *id,
        }
    }

    /// What reads the backups that lie in a repository: this one its own, and those whose records were imported what reads from their home.
    pub fn of_home(self: &Arc<Self>, home: RepositoryId) -> Arc<Engine> {
        let ours = self.repository().ok().filter(|ours| ours.id() != home);
        let Some(there) = ours.and_then(|ours| ours.home(home)) else { return Arc::clone(self) };
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            homes.get(&home).filter(|known| matches!(&known.home, Home::Ours(of) if Arc::ptr_eq(of, &there)));
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let engine = Arc::new(self.beside(there));
        let _of_another_place = homes.insert(home, Arc::clone(&engine));
        engine
    }

    fn beside(&self, repository: Arc<Repository>) -> Engine {
        Engine {
            home: Home::Ours(repository),
            runtime: self.runtime.clone(),
            memory: self.memory,
            chunks: Arc::clone(&self.chunks),
            nodes: Arc::clone(&self.nodes),
            chunk_flights: Flights::new(),
            node_flights: Flights::new(),
            lost: Mutex::new(LruCache::new(LOST_MAX)),
            pool: Arc::clone(&self.pool),
            disk: self.disk.clone(),
            streams: Arc::clone(&self.streams),
            pace: Pace::default(),
            watch: Arc::clone(&self.watch),
            homes: Mutex::default(),
        }
    }

    /// What waits for its stores.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The budget.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// What reading has cost so far.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// How many bytes the tier on disk holds, if there is one.
    pub fn disk_bytes(&self) -> Option<u64> {
        self.disk.as_ref().map(|disk| disk.bytes())
    }

    /// How many bytes of chunks may be kept in memory.
    pub fn chunk_budget(&self) -> usize {
        self.chunks.budget()
    }

    /// So many readers in order more, or fewer.
    pub(super) fn streams(&self, more: i64) {
        let _before = self.streams.fetch_add(more, Relaxed);
    }

    /// How much one reader in order may have fetched ahead of it: an eighth of all memory, or a quarter where the way to the store holds that
    /// much, and its share of half the room that what passes through finds in the cache. More would push out what it has not come to yet.
    pub(crate) fn window_max(&self) -> u64 {
        let streams = u64::try_from(self.streams.load(Relaxed)).unwrap_or(0).max(1);
        let room = self.chunks.room_for_scans() as u64;
        // Twice: one half is on its way while the other is read.
        let far = self.on_the_way().saturating_mul(2).min(self.memory / 4);
        (self.memory / 8).min(WINDOW_MAX).max(far).min(room / 2 / streams)
    }

    /// How many bytes the way to the store holds, as far as is known.
    pub(super) fn on_the_way(&self) -> u64 {
        self.pace.on_the_way().unwrap_or(0)
    }

    /// What the chunk cache did.
    pub fn chunk_counts(&self) -> Counts {
        self.chunks.counts()
    }

    /// A node, if it is here.
    pub(super) fn node_now(&self, id: ChunkId) -> Option<Loaded> {
        self.nodes.get(&id, Hint::Demand)
    }

    /// A node of a map (`SealKind::Node`) or of a tree (`SealKind::Tree`).
    pub(super) async fn node(self: &Arc<Self>, kind: SealKind, id: ChunkId, place: Place) -> Result<Loaded> {
        loop {
            if let Some(node) = self.node_now(id) {
                return Ok(node);
            }
            let wait = match self.node_flights.join(id) {
                Flight::Wait(wait) => wait,
                Flight::Lead(lead) => {
                    // The lead is in our hands, so joining again is waiting for it: also for an answer that comes at once.
                    let Flight::Wait(wait) = self.node_flights.join(id) else { continue };
                    let engine = Arc::clone(self);
                    self.pool.submit(Urgency::Now, Box::new(move || engine.fetch_node(kind, lead, place)));
                    wait
                }
            };
            // `None`: whoever led went away; somebody leads anew.
            if let Some(answer) = wait.done().await {
                return answer;
            }
        }
    }

    /// On a thread of the pool.
    fn fetch_node(self: Arc<Self>, kind: SealKind, lead: NodeLead, place: Place) {
        let (id, of) = (*lead.key(), Asked::Pack(place.pack));
        if let Some(answer) = self.node_now(id).map(Ok).or_else(|| self.not_lost(id).err().map(Err)) {
            return drop(lead.finish(answer));
        }
        if let Some(node) = self.node_on_disk(kind, id, place) {
            self.keep_node(id, &node);
            return drop(lead.finish(Ok(node)));
        }
        if !self.pool.admits(of) {
            let engine = Arc::clone(&self);
            let later = Box::new(move || engine.fetch_node(kind, lead, place));
            return self.pool.park(of, Urgency::Now, later);
        }
        let (repository, keeps) = (self.repository().cloned(), self.disk.is_some());
        let call = async move { load(&*repository?, kind, id, place, keeps).await };
        self.here_or_later(of, call, move |engine, answer| {
            let (answer, sealed) = match answer {
                Ok((node, sealed)) => (Ok(node), sealed),
                Err(error) => (Err(error), None),
            };
            match &answer {
                Ok(node) => engine.keep_node(id, node),
                Err(error) => engine.lose(id, error),
            }
            drop(lead.finish(answer));
            if let Some(sealed) = sealed {
                let again = Arc::clone(engine);
                let keep = move || again.put_on_disk(&[(id, place.pack, sealed)]);
                engine.pool.submit(Urgency::Soon, Box::new(keep));
            }
        });
    }

    /// Has nodes fetched that are not here and that nobody fetches yet, neighbours together. Waits for none of them, and forgets errors: who
    /// needs the node meets them again.
    pub(super) fn expect_nodes(self: &Arc<Self>, kind: SealKind, mut wanted: Vec<Child>) {
        wanted.sort_unstable_by_key(|child| child.place);
        let mut groups: Vec<Vec<(NodeLead, Place)>> = Vec::new();
        for child in wanted.into_iter().filter(|child| self.node_now(child.id).is_none()) {
            let Flight::Lead(lead) = self.node_flights.join(child.id) else { continue };
            let near = |group: &&mut Vec<(NodeLead, Place)>| match (group.first(), group.last()) {
                (Some((_, first)), Some((_, last))) => are_near(first, last, &child.place, GROUP_LEN_MAX),
                _ => true,
            };
            match groups.last_mut().filter(near) {
                Some(group) => group.push((lead, child.place)),
                None => groups.push(vec![(lead, child.place)]),
            }
        }
        for group in groups {
            let engine = Arc::clone(self);
            self.pool.submit(Urgency::Now, Box::new(move || engine.fetch_nodes(kind, group)));
        }
    }

    /// On a thread of the pool.
    fn fetch_nodes(self: Arc<Self>, kind: SealKind, group: Vec<(NodeLead, Place)>) {
        let mut missing = Vec::with_capacity(group.len());
        for (lead, place) in group {
            let id = *lead.key();
            match self.node_on_disk(kind, id, place) {
                Some(node) => {
                    self.keep_node(id, &node);
                    drop(lead.finish(Ok(node)));
                }
                None => missing.push((lead, place)),
            }
        }
        let group = missing;
        let (Some((_, first)), Some((_, last))) = (group.first(), group.last()) else { return };
        let (pack, start, end) = (first.pack, first.offset, last.end());
        let of = Asked::Pack(pack);
        if !self.pool.admits(of) {
            let engine = Arc::clone(&self);
            let later = Box::new(move || engine.fetch_nodes(kind, group));
            return self.pool.park(of, Urgency::Now, later);
        }
        let repository = self.repository().cloned();
        let get = async move { repository?.get_sealed(pack, start.into()..end).await };
        let here = std::thread::current().id();
        self.here_or_later(of, get, move |engine, answer| {
            if std::thread::current().id() == here {
                return engine.open_nodes(kind, group, start, answer);
            }
            let again = Arc::clone(engine);
            engine.pool.submit(Urgency::Now, Box::new(move || again.open_nodes(kind, group, start, answer)));
        });
    }

    fn open_nodes(
        self: &Arc<Self>,
        kind: SealKind,
        group: Vec<(NodeLead, Place)>,
        start: u32,
        answer: Result<Bytes>,
    ) {
        let mut whole = Vec::new();
        for (lead, place) in group {
            let id = *lead.key();
            let at = (place.offset - start) as usize;
            let opened = answer.as_ref().ok().and_then(|bytes| {
                let sealed = bytes.slice(at..at + place.len as usize);
                let repository = self.repository().ok()?;
                let plain = repository.open_chunk(kind, id, place, &sealed).ok()?;
                Some((parse(repository, kind, id, plain).ok()?, sealed))
            });
            match opened {
                Some((node, sealed)) => {
                    whole.push((id, place.pack, sealed));
                    self.keep_node(id, &node);
                    drop(lead.finish(Ok(node)));
                }
                // By itself, and wherever else it may be.
                None => {
                    let engine = Arc::clone(self);
                    self.pool.submit(Urgency::Now, Box::new(move || engine.fetch_node(kind, lead, place)));
                }
            }
        }
        self.put_on_disk(&whole);
    }

    fn keep_node(&self, id: ChunkId, node: &Loaded) {
        self.watch.nodes_opened.add(1);
        self.nodes.insert(id, node.clone(), node.weight(), Hint::Demand);
    }

    /// On a thread of the pool. A store that answers at once (a local one does, in its own time) is answered for here and now;
    /// another one is waited for by the runtime.
    fn here_or_later<T: Send + 'static>(
        self: &Arc<Self>,
        of: Asked,
        call: impl Future<Output = T> + Send + 'static,
        done: impl FnOnce(&Arc<Engine>, T) + Send + 'static,
    ) {
        let mut call = Box::pin(call);
        let inside = self.pool.enter(of);
        let entered = self.runtime.enter();
        let now = call.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        drop((entered, inside));
        match now {
            Poll::Ready(answer) => done(self, answer),
            Poll::Pending => {
                let engine = Arc::clone(self);
                drop(self.runtime.spawn(async move {
                    let answer = call.await;
                    done(&engine, answer);
                }));
            }
        }
    }

    /// A chunk, if it is here.
    pub(super) fn chunk_now(&self, id: ChunkId, hint: Hint) -> Option<Verified> {
        self.chunks.get(&id, hint)
    }

    /// Has the chunks fetched that nobody fetches yet, neighbours together; ways to wait for each.
    pub(super) fn fetch(
        self: &Arc<Self>,
        wanted: &[Wanted],
        urgency: Urgency,
        hint: Hint,
    ) -> Vec<Option<Wait<Fetched>>> {
        let mut groups: Vec<Vec<(ChunkLead, Wanted)>> = Vec::new();
        let mut waits = Vec::with_capacity(wanted.len());
        let len_max = match urgency {
            Urgency::Soon if self.is_far() => FAR_GROUP_LEN_MAX,
            _ => GROUP_LEN_MAX,
        };
        for one in wanted {
            let wait = match self.chunk_flights.join(one.id) {
                Flight::Wait(wait) => Some(wait),
                Flight::Lead(lead) => {
                    let led = (lead, *one);
                    match groups.last_mut().filter(|group| goes_with(group, one, len_max)) {
                        Some(group) => group.push(led),
                        None => groups.push(vec![led]),
                    }
                    // The lead is in our hands, so joining again is waiting for it.
                    match self.chunk_flights.join(one.id) {
                        Flight::Wait(wait) => Some(wait),
                        Flight::Lead(_) => None,
                    }
                }
            };
            waits.push(wait);
        }
        if urgency == Urgency::Soon && self.disk.is_none() {
            self.announce(&groups);
        }
        for group in groups {
            let engine = Arc::clone(self);
            self.pool.submit(urgency, Box::new(move || engine.fetch_group(group, urgency, hint)));
        }
        waits
    }

    /// Whether each get has its price.
    pub(crate) fn is_far(&self) -> bool {
        self.repository().is_ok_and(|repository| repository.store.calls_at_once().is_some())
    }

    /// Tells the store what the groups will ask it for, so that its disk works while the cores open the first of them.
    fn announce(self: &Arc<Self>, groups: &[Vec<(ChunkLead, Wanted)>]) {
        let ends = |group: &Vec<(ChunkLead, Wanted)>| Some((group.first()?.1.place, group.last()?.1.place));
        let ranges: Vec<_> = groups.iter().filter_map(ends).collect();
        let engine = Arc::clone(self);
        let tell = move || {
            for (first, last) in ranges {
                let of = Asked::Pack(first.pack);
                if engine.pool.admits(of) {
                    let _inside = engine.pool.enter(of);
                    if let Ok(repository) = engine.repository() {
                        repository.expect_sealed(first.pack, first.offset.into()..last.end());
                    }
                }
            }
        };
        if groups.len() > 1 {
            self.pool.submit(Urgency::Soon, Box::new(tell));
        }
    }

    /// On a thread of the pool.
    fn fetch_group(self: Arc<Self>, group: Vec<(ChunkLead, Wanted)>, urgency: Urgency, hint: Hint) {
        let mut missing = Vec::with_capacity(group.len());
        for (lead, wanted) in group {
            match self.chunk_now(wanted.id, hint).map(Ok).or_else(|| self.not_lost(wanted.id).err().map(Err))
            {
                Some(answer) => drop(lead.finish(answer)),
                None => match self.kept_on_disk(SealKind::Data, wanted.id, wanted.place) {
                    Some(chunk) => {
                        self.watch.disk_chunks.add(1);
                        self.finish(lead, wanted.len, Ok(chunk), hint);
                    }
                    None => missing.push((lead, wanted)),
                },
            }
        }
        let (Some((_, first)), Some((_, last))) = (missing.first(), missing.last()) else { return };
        let (start, range) = (first.place.offset, first.place.offset.into()..last.place.end());
        let (pack, of) = (first.place.pack, Asked::Pack(first.place.pack));
        if !self.pool.admits(of) {
            let engine = Arc::clone(&self);
            let later = Box::new(move || engine.fetch_group(missing, urgency, hint));
            return self.pool.park(of, urgency, later);
        }
        self.watch.gets.add(1);
        let repository = self.repository().cloned();
        let get = async move { repository?.get_sealed(pack, range).await };
        let (here, began) = (std::thread::current().id(), Instant::now());
        self.here_or_later(of, get, move |engine, answer| {
            if std::thread::current().id() == here {
                return engine.open_group(missing, start, answer, hint);
            }
            if answer.is_ok() {
                let bytes = missing.iter().map(|(_, wanted)| wanted.len).sum();
                engine.pace.note(bytes, began, Instant::now());
            }
            let again = Arc::clone(engine);
            engine.pool.submit(urgency, Box::new(move || again.open_group(missing, start, answer, hint)));
        });
    }

    fn open_group(
        self: &Arc<Self>,
        group: Vec<(ChunkLead, Wanted)>,
        start: u32,
        answer: Result<Bytes>,
        hint: Hint,
    ) {
        self.watch.sealed_bytes.add(answer.as_ref().map_or(0, |bytes| bytes.len() as u64));
        let sealed_of = |bytes: &Bytes, wanted: &Wanted| {
            let at = (wanted.place.offset - start) as usize;
            bytes.slice(at..at + wanted.place.len as usize)
        };
        let mut whole = Vec::new();
        for (lead, wanted) in group {
            let opened = answer.clone().and_then(|bytes| {
                let sealed = sealed_of(&bytes, &wanted);
                self.repository()?.open_chunk(SealKind::Data, wanted.id, wanted.place, &sealed)
            });
            match opened {
                Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => {
                    let engine = Arc::clone(self);
                    self.pool.submit(Urgency::Now, Box::new(move || engine.search(lead, wanted, hint)));
                }
                opened => {
                    whole.extend(opened.is_ok().then_some(wanted));
                    self.finish(lead, wanted.len, opened, hint);
                }
            }
        }
        if let (Some(_), Ok(bytes)) = (&self.disk, &answer) {
            let whole = whole.iter().map(|wanted| (wanted.id, wanted.place.pack, sealed_of(bytes, wanted)));
            self.put_on_disk(&whole.collect::<Vec<_>>());
        }
    }

    /// After everyone has what he waits for: the disk of the tier may be slower than the store.
    fn put_on_disk(&self, chunks: &[(ChunkId, PackId, Bytes)]) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.pool.admits(Asked::Tier)) else { return };
        let _inside = self.pool.enter(Asked::Tier);
        for (id, pack, sealed) in chunks {
            disk.put(*id, *pack, sealed);
        }
    }

    /// On a thread of the pool: what is not where it should be is looked for elsewhere.
    fn search(self: Arc<Self>, lead: ChunkLead, wanted: Wanted, hint: Hint) {
        let repository = self.repository().cloned();
        let found = async move { repository?.chunk(SealKind::Data, wanted.id, wanted.place).await };
        self.here_or_later(Asked::Pack(wanted.place.pack), found, move |engine, found| {
            engine.finish(lead, wanted.len, found, hint);
        });
    }

    /// A node from the tier on disk, if it is there and makes sense.
    fn node_on_disk(&self, kind: SealKind, id: ChunkId, place: Place) -> Option<Loaded> {
        let plain = self.kept_on_disk(kind, id, place)?;
        parse(self.repository().ok()?, kind, id, plain).ok()
    }

    /// A chunk from the tier on disk, if it is there and proves itself.
    fn kept_on_disk(&self, kind: SealKind, id: ChunkId, place: Place) -> Option<Verified> {
        // A tier that hangs is done without.
        let disk = self.disk.as_ref().filter(|_| self.pool.admits(Asked::Tier))?;
        let inside = self.pool.enter(Asked::Tier);
        let sealed = disk.get(id, place.pack)?;
        drop(inside);
        match self.repository().ok()?.open_chunk(kind, id, place, &sealed) {
            Ok(chunk) => Some(chunk),
            Err(error) => {
                self.watch.disk_damaged.add(1);
                disk.forget(id, place.pack);
                tracing::debug!("what the cache kept is damaged and fetched again: {error}");
                None
            }
        }
    }

    fn finish(&self, lead: ChunkLead, len: u64, opened: Fetched, hint: Hint) {
        let id = *lead.key();
        let judged = opened.and_then(|chunk| match chunk.len() as u64 == len {
            true => Ok(chunk),
            false => Err(Corrupt::Length { found: chunk.len() as u64, wanted: len }.into()),
        });
        match &judged {
            Ok(chunk) => {
                self.watch.chunks_opened.add(1);
                self.watch.bytes_opened.add(chunk.len() as u64);
                self.chunks.insert(id, chunk.clone(), chunk.len(), hint);
            }
            Err(error) => {
                self.watch.chunks_failed.add(1);
                self.lose(id, error);
            }
        }
        drop(lead.finish(judged));
    }

    /// Has chunks of an image fetched that another program wrote, as far as nobody fetches them yet; ways to wait for each.
    pub(super) fn fetch_far(
        self: &Arc<Self>,
        origin: &Arc<dyn Origin>,
        wanted: &[Far],
        urgency: Urgency,
        hint: Hint,
    ) -> Vec<Option<Wait<Fetched>>> {
        let room = (FAR_LEN_MAX / origin.chunk_len()).max(1);
        let mut groups: Vec<Vec<(ChunkLead, u64)>> = Vec::new();
        let mut waits = Vec::with_capacity(wanted.len());
        for one in wanted {
            let wait = match self.chunk_flights.join(one.id) {
                Flight::Wait(wait) => Some(wait),
                Flight::Lead(lead) => {
                    let goes_on = |group: &Vec<(ChunkLead, u64)>| {
                        group.last().is_some_and(|(_, before)| before + 1 == one.number)
                            && (group.len() as u64) < room
                    };
                    match groups.last_mut().filter(|group| goes_on(group)) {
                        Some(group) => group.push((lead, one.number)),
                        None => groups.push(vec![(lead, one.number)]),
                    }
                    // The lead is in our hands, so joining again is waiting for it.
                    match self.chunk_flights.join(one.id) {
                        Flight::Wait(wait) => Some(wait),
                        Flight::Lead(_) => None,
                    }
                }
            };
            waits.push(wait);
        }
        for group in groups {
            let (engine, origin) = (Arc::clone(self), Arc::clone(origin));
            self.pool
                .submit(urgency, Box::new(move || engine.fetch_far_group(&origin, group, urgency, hint)));
        }
        waits
    }

    /// On a thread of the pool, which this may keep for as long as it takes to get at what is wanted.
    fn fetch_far_group(
        self: Arc<Self>,
        origin: &Arc<dyn Origin>,
        group: Vec<(ChunkLead, u64)>,
        urgency: Urgency,
        hint: Hint,
    ) {
        let mut missing = Vec::with_capacity(group.len());
        for (lead, number) in group {
            let id = *lead.key();
            match self.chunk_now(id, hint).map(Ok).or_else(|| self.not_lost(id).err().map(Err)) {
                Some(answer) => drop(lead.finish(answer)),
                None => missing.push((lead, number)),
            }
        }
        let (Some((_, first)), Some((_, last))) = (missing.first(), missing.last()) else { return };
        let (first, last) = (*first, *last);
        let of = Asked::Stream(self.home(), origin.stream_of(first * origin.chunk_len()).unwrap_or(u64::MAX));
        if !self.pool.admits(of) {
            let (engine, origin) = (Arc::clone(&self), Arc::clone(origin));
            let later = Box::new(move || engine.fetch_far_group(&origin, missing, urgency, hint));
            return self.pool.park(of, urgency, later);
        }
        self.watch.gets.add(1);
        let inside = self.pool.enter(of);
        let mut answers = origin.fetch(first..last + 1).into_iter();
        drop(inside);
        let mut at = first;
        for (lead, number) in missing {
            let answer = answers.by_ref().nth((number - at) as usize);
            at = number + 1;
            let lost = || Error::new(Kind::Corrupt, "a chunk was not answered for");
            let range = foreign::range_of(&**origin, number);
            self.finish(lead, range.end - range.start, answer.unwrap_or_else(|| Err(lost())), hint);
        }
    }

    /// Remembers for a while that a chunk can't be had, and says so once.
    fn lose(&self, id: ChunkId, error: &Error) {
        if error.kind() == Kind::Corrupt {
            tracing::error!("{error}");
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            let _before = lost.put(id, (Instant::now(), error.clone()));
        }
    }

    fn not_lost(&self, id: ChunkId) -> Result<()> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match lost.get(&id) {
            Some((since, error)) if since.elapsed() < LOST_FOR => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// Whether `next` can be fetched with the group.
fn goes_with(group: &[(ChunkLead, Wanted)], next: &Wanted, len_max: u64) -> bool {
    let (Some((_, first)), Some((_, last))) = (group.first(), group.last()) else { return true };
    are_near(&first.place, &last.place, &next.place, len_max)
}

/// Whether what lies at `next` can be fetched with what lies from `first` to `last`.
fn are_near(first: &Place, last: &Place, next: &Place, len_max: u64) -> bool {
    let gap = u64::from(next.offset).checked_sub(last.end());
    next.pack == first.pack
        && gap.is_some_and(|gap| gap <= GAP_MAX)
        && next.end() - u64::from(first.offset) <= len_max
}
