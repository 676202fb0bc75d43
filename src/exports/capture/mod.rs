//! A capture as an export: what is written to it becomes a backup of its name.
//!
//! client comes -> a session: all its connections -> writes to a `layer` over the latest backup -> the last connection leaves ->
//! whole: a backup, and a new layer over it · part: waits for `capture commit`, and says so
//!
//! Whole is what one client has written or zeroed to the last byte since it came, when each of its connections said goodbye: neither a FLUSH
//! nor the end of a connection proves that a copy is complete. Everything lies in a file without a name: an end of the server that nobody
//! committed before leaves nothing behind and lists nothing.

mod cover;
mod session;
mod source;

use super::backup::{BackupExport, DEPTH, Known, KnownImage, Shelf};
use super::house::Backups;
use super::layer::Layer;
use super::layer::below::Below;
use super::layer::side::Side;
use super::overlay::WRITTEN;
use super::seat::Seat;
use super::watch::Traffic;
use crate::backup::{ItemSource, Job, Parent, run as back_up};
use crate::error::{Context, Error, Kind, Result};
use crate::format::BackupId;
use crate::format::record::{Content, Record, is_name};
use crate::progress::{Cancel, Progress};
use crate::seal::LEVEL_DEFAULT;
use afterimage_nbd::export::{
    Answer, BlockSizes, Error as Refusal, Export, Info, Kind as RefusalKind, Name, Parts, Peer,
    Result as Served,
};
use cover::Cover;
use serde_json::{Map, Value, json};
use session::Session;
use source::LayerSource;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// What the one image of a capture is called where no earlier backup says it.
const ITEM: &str = "disk.img";

/// Which capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How large; none: as the latest backup of its name.
    pub size: Option<u64>,
}

/// Something that is written and becomes a backup.
pub struct CaptureExport(Arc<Capture>);

struct Capture {
    /// What the backups are of.
    name: String,
    info: Info,
    backups: Arc<Backups>,
    runtime: Handle,
    traffic: Arc<Traffic>,
    seat: Seat,
    now: Mutex<Now>,
    /// How many backups were begun and ended, for those who wait for one.
    ended: watch::Sender<u64>,
    progress: Mutex<Arc<Progress>>,
    /// Shared with every change that is under way, also of clients that vanished.
    changes: Arc<()>,
}

struct Now {
    layer: Arc<Layer>,
    cover: Arc<Mutex<Cover>>,
    /// Anything was written since the last backup.
    written: bool,
    connections: usize,
    /// A connection of this session ended without a goodbye.
    broken: bool,
    /// A backup of it is being made.
    busy: bool,
    begun: u64,
    last: Option<Ended>,
}

/// What became of the last backup that was begun.
#[derive(Clone)]
enum Ended {
    Made(Box<Record>),
    Failed(Error),
}

impl CaptureExport {
    /// Opens one over the latest backup of its name.
    pub async fn open(name: &Name, offer: &Offer, backups: &Arc<Backups>) -> Result<CaptureExport> {
        if !is_name(name) {
            let words = format!("--capture {name}: it becomes the name of backups, and can't be one");
            return Err(
                Error::new(Kind::Usage, words).hint("a name has no / @ , = and does not look like an id")
            );
        }
        // Where nothing can be written, nothing is taken in.
        let _ours = backups.engine().repository().context(|| format!("--capture {name}"))?;
        let below = latest(backups, name).await?;
        let size = match (offer.size, &below) {
            (Some(size), _) => size,
            (None, Some(below)) => below.image().len(),
            (None, None) => {
                let words =
                    format!("--capture {name}: there is no backup of {name} yet that says how large it is");
                return Err(Error::new(Kind::Usage, words).hint(format!("--capture {name},size=S")));
            }
        };
        let layer = fresh(below, size)?;
        let block = layer.side().map().block();
        let info = Info {
            block_sizes: BlockSizes { minimum: 1, preferred: u32::try_from(block).unwrap_or(4096) },
            name: Some(name.clone()),
            description: format!("capture: what is written becomes a backup of {name}"),
            multi_conn: true,
            trim: true,
            fast_zero: true,
            contexts: vec![DEPTH.to_owned(), WRITTEN.to_owned()],
            ..Info::writable(size)
        };
        let now = Now {
            layer: Arc::new(layer),
            cover: Arc::new(Mutex::new(Cover::new(size, block))),
            written: false,
            connections: 0,
            broken: false,
            busy: false,
            begun: 0,
            last: None,
        };
        let runtime = backups.engine().runtime().clone();
        let (seat, progress, traffic, changes) = Default::default();
        Ok(CaptureExport(Arc::new(Capture {
            name: name.to_string(),
            info,
            backups: Arc::clone(backups),
            runtime,
            traffic,
            seat,
            now: Mutex::new(now),
            ended: watch::Sender::new(0),
            progress,
            changes,
        })))
    }

    /// What clients did with it.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.0.traffic
    }

    /// Begins to make a backup of what is there, and says which one that is: 1 is the first. `facts` tells what became of it.
    pub fn commit(&self) -> Result<u64> {
        let mut now = self.0.now();
        let refused =
            |words: &str| Error::new(Kind::Busy, format!("commit the capture {}: {words}", self.0.name));
        match &*now {
            Now { busy: true, .. } => Err(refused("a backup of it is being made")),
            Now { connections: 1.., .. } => {
                Err(refused("a client is attached").hint("commit it when the client has left"))
            }
            Now { written: false, .. } => {
                let words = format!("commit the capture {}: nothing was written to it", self.0.name);
                Err(Error::new(Kind::Missing, words))
            }
            _ if !self.0.is_quiet() => Err(refused("what a client wrote is still on its way")),
            _ => Ok(self.0.begin(&mut now)),
        }
    }

    /// How it stands.
    pub fn facts(&self) -> Value {
        let now = self.0.now();
        let (done, total) = lock(&self.0.progress).now();
        let state = match &*now {
            Now { busy: true, .. } => "committing",
            Now { connections: 1.., .. } => "written to",
            Now { written: true, .. } => "partial",
            _ => "empty",
        };
        let mut facts = Map::new();
        let mut add = |key: &str, value: Value| drop(facts.insert(key.to_owned(), value));
        add("state", json!(state));
        add("begun", json!(now.begun));
        add("size", json!(self.0.info.size));
        add("written", json!(now.layer.side().map().written_bytes().min(self.0.info.size)));
        add("base", json!(now.layer.below().image().map(|image| image.id())));
        if now.busy {
            add("progress", json!({ "done": done, "total": total }));
        }
        match &now.last {
            Some(Ended::Made(record)) => add("backup", crate::format::shown::to_json(record)),
            Some(Ended::Failed(error)) => add("error", json!(error.to_string())),
            None => {}
        }
        Value::Object(facts)
    }

    /// Returns when a backup that was begun is made, since its client was told that all is well; an error if it was not made. What nobody
    /// committed is given up.
    pub async fn stop(&self) -> Result<()> {
        let mut ended = self.0.ended.subscribe();
        let begun = self.0.now().begun;
        let _all = ended.wait_for(|ended| *ended >= begun).await;
        let now = self.0.now();
        if now.written {
            tracing::warn!("capture {}: what was written is given up: it was not committed", self.0.name);
        }
        match &now.last {
            Some(Ended::Failed(why)) => {
                let words = format!("capture {}: no backup was made of what was written", self.0.name);
                Err(Error::new(why.kind(), words).caused_by(why.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// The latest backup of a name, if there is one.
async fn latest(backups: &Backups, name: &str) -> Result<Option<Arc<BackupExport>>> {
    match backups.find(&format!("{name}@latest")).await {
        Ok(export) => Ok(Some(export)),
        Err(error) if error.kind() == Kind::Missing => Ok(None),
        Err(error) => Err(error),
    }
}

fn fresh(below: Option<Arc<BackupExport>>, size: u64) -> Result<Layer> {
    Ok(Layer::new(Below::new(below), side_for(size)?, size))
}

fn side_for(size: u64) -> Result<Side> {
    Side::temporary(size, "a capture")
}

fn panicked() -> Error {
    Error::new(Kind::Unsupported, "making the backup ended in a panic: this is a bug")
}

impl Capture {
    fn now(&self) -> MutexGuard<'_, Now> {
        lock(&self.now)
    }

    /// A connection comes: it waits until a backup that is being made is there, and finds what the one before it has left.
    async fn come(self: Arc<Capture>, peer: Peer) -> Served<Option<Arc<dyn Export>>> {
        let mut ended = self.ended.subscribe();
        loop {
            let refreshed = self.newer_base().await;
            let begun = {
                let mut now = self.now();
                if !now.busy {
                    self.seat.take(&peer)?;
                    let untouched = now.connections == 0 && !now.written;
                    // Somebody may have come, and left a backup, since it was looked for.
                    if let Some((seen, layer)) = refreshed
                        && untouched
                        && seen == now.layer.below().image().map(|image| image.id())
                    {
                        now.layer = Arc::new(layer);
                    }
                    let block = now.layer.side().map().block();
                    if now.connections == 0 {
                        now.broken = false;
                        now.cover = Arc::new(Mutex::new(Cover::new(self.info.size, block)));
                    }
                    now.connections += 1;
                    self.traffic.came();
                    let (layer, cover) = (Arc::clone(&now.layer), Arc::clone(&now.cover));
                    let session: Arc<dyn Export> =
                        Arc::new(Session { capture: Arc::clone(&self), layer, cover });
                    return Ok(Some(session));
                }
                now.begun
            };
            if ended.wait_for(|ended| *ended >= begun).await.is_err() {
                return Err(Refusal::new(RefusalKind::Leaving, "the server is stopping"));
            }
        }
    }

    /// Nothing is being changed.
    fn is_quiet(&self) -> bool {
        Arc::strong_count(&self.changes) == 1
    }

    /// What an untouched layer lies on, and a layer over a newer backup.
    async fn newer_base(&self) -> Option<(Option<BackupId>, Layer)> {
        let id = {
            let now = self.now();
            if now.written || now.busy || now.connections > 0 {
                return None;
            }
            now.layer.below().image().map(|image| image.id())
        };
        // Whoever does not know yet of the backup that it lies on, as just after a commit, can't say which is newer. Asked in this order: what
        // is known of the repository only grows newer.
        if let Some(id) = id {
            let _known = self.backups.find(&id.to_string()).await.ok()?;
        }
        // What it lies on is a backup of its name all the same, if a newer one can't be seen now.
        let newest = latest(&self.backups, &self.name).await.ok()??;
        if id == Some(newest.id()) {
            return None;
        }
        Some((id, fresh(Some(newest), self.info.size).ok()?))
    }

    /// A connection has left.
    fn leave(self: &Arc<Self>, clean: bool, cover: &Mutex<Cover>) {
        let mut now = self.now();
        now.connections -= 1;
        now.broken |= !clean;
        self.seat.leave();
        let _last = self.traffic.left(clean);
        if now.connections > 0 || !now.written {
            return;
        }
        let whole = lock(cover).is_whole();
        if whole && !now.broken && self.is_quiet() {
            let _number = self.begin(&mut now);
            return;
        }
        let why =
            if now.broken { "a connection ended without a goodbye" } else { "not every byte was written" };
        tracing::warn!(
            "capture {0}: no backup yet, since {why}; to make one of what is there: afterimage capture commit {0}",
            self.name
        );
    }

    /// Begins to make a backup, on a thread that may wait.
    fn begin(self: &Arc<Self>, now: &mut Now) -> u64 {
        now.busy = true;
        now.begun += 1;
        let number = now.begun;
        let layer = Arc::clone(&now.layer);
        let progress = Arc::<Progress>::default();
        *lock(&self.progress) = Arc::clone(&progress);
        let capture = Arc::clone(self);
        drop(self.runtime.spawn_blocking(move || {
            // Whatever becomes of it, somebody waits for its end.
            let made = catch_unwind(AssertUnwindSafe(|| capture.back_up(layer, &progress)));
            capture.end(number, made.unwrap_or_else(|_| Err(panicked())));
        }));
        number
    }

    fn back_up(&self, layer: Arc<Layer>, progress: &Progress) -> Result<(Record, Layer)> {
        let engine = self.backups.engine();
        // Before there is a backup: what fails behind it would deny what is listed.
        let next = side_for(self.info.size)?;
        let (parent, item) = match layer.below().image() {
            Some(image) => (Parent::Of(image.id()), image.item().to_owned()),
            None => (Parent::None, ITEM.to_owned()),
        };
        let source = LayerSource::new(layer, self.runtime.clone(), &self.name, self.info.size);
        let job = Job {
            name: self.name.clone(),
            items: vec![ItemSource { name: item, source: Box::new(source).into() }],
            parent,
            time: None,
            tags: BTreeMap::new(),
            metadata: Map::new(),
            level: LEVEL_DEFAULT,
            digest: false,
            // Beside the cache, which has the budget for itself.
            memory: engine.memory() / 4,
            copy_of: None,
        };
        let record = back_up(engine, &self.runtime, job, progress, &Cancel::default())?;
        let shelf = Arc::new(Shelf::new(vec![known(&record)]));
        let pick = shelf.find(&record.id.to_string())?;
        let below = BackupExport::new(&**self.backups.library(), &shelf, &pick, Arc::default());
        Ok((record, Layer::new(Below::new(Some(Arc::new(below))), next, self.info.size)))
    }

    fn end(&self, number: u64, made: Result<(Record, Layer)>) {
        let mut now = self.now();
        now.busy = false;
        now.last = Some(match made {
            Ok((record, layer)) => {
                tracing::info!(target: afterimage_nbd::server::AUDIT, "capture {}: made backup {}", self.name, record.id);
                now.layer = Arc::new(layer);
                now.written = false;
                Ended::Made(Box::new(record))
            }
            Err(error) => {
                tracing::error!("capture {}: {error}; what was written is still there", self.name);
                Ended::Failed(error)
            }
        });
        drop(now);
        let _before = self.ended.send_replace(number);
    }
}

/// A backup that was made just now, without asking the repository.
fn known(record: &Record) -> Known {
    let images = record.items.iter().filter_map(|item| match &item.content {
        Content::Image { size, allocated, root, .. } => {
            let (name, source) = (item.name.clone(), None);
            Some(KnownImage { name, size: *size, allocated: *allocated, root: *root, source })
        }
        _ => None,
    });
    Known {
        id: record.id,
        name: record.name.clone(),
        time: record.time,
        home: record.repository,
        images: images.collect(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Export for CaptureExport {
    fn info(&self) -> Info {
        self.0.info.clone()
    }

    fn attach(&self, peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        let (capture, peer) = (Arc::clone(&self.0), peer.clone());
        Answer::later(capture.come(peer))
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let layer = Arc::clone(&self.0.now().layer);
        layer.read(offset, len)
    }
}
