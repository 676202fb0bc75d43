//! A live restore as an export: the volume can be used at once, while it is copied onto its target behind the scenes.
//!
//! target judged -> state begun or gone on with -> backup pinned -> a `layer` whose writes go to the target -> copier -> pin let go
//!
//! The state says which blocks the target holds: those that were copied and those that the guest wrote. It is durable in the order data, sync,
//! map, sync, answer; so after a kill at any moment the same command goes on, with every flushed write kept. A block is never both copied and
//! written: the copier puts down only what nobody has written, and nobody writes meanwhile. When all of it is there the target stands alone.

mod copier;

use super::answer::{from_repository, to_the_end};
use super::backup::{BackupExport, DEPTH};
use super::blockmap::State;
use super::blockmap::page::{Header, block_for, pages_of, place_of};
use super::house::Backups;
use super::layer::below::Below;
use super::layer::side::{self, Found, Side};
use super::layer::{Flags, Layer};
use super::pinned::{pin, unpin};
use super::watch::Traffic;
use crate::error::{Context, Error, Kind, Result};
use crate::image::Engine;
use crate::restore::target::facts::What;
use crate::restore::target::{Guarded, Held, Wish, hold};
use afterimage_nbd::export::{Answer, BlockSizes, Export, Extent, Info, Name, Parts, Peer, Zeroing};
use afterimage_nbd::server::AUDIT;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Where a device is looked at before it is believed to be unused: its beginning, its end, and so many places between.
const SAMPLES: u64 = 64;
const SAMPLE_LEN: u64 = 64 * 1024;
const EDGE_LEN: u64 = 1 << 20;

/// Which backup, onto what, and where the state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Any reference to a backup.
    pub backup: String,
    /// The file or device that becomes the volume.
    pub target: PathBuf,
    /// What is already on it.
    pub state: PathBuf,
}

/// A volume that is being restored while it is used.
pub struct LiveExport {
    live: Arc<Live>,
    copier: Mutex<Option<JoinHandle<()>>>,
}

struct Live {
    shown: String,
    info: Info,
    layer: Arc<Layer>,
    traffic: Arc<Traffic>,
    guest: Guest,
    copy: Copying,
    engine: Arc<Engine>,
    /// The id of the map and of the pin.
    pin: [u8; 16],
    /// How many pieces of a hole are settled at once: where that costs nothing, all.
    holes_at_once: u64,
}

/// How busy the guest is.
struct Guest {
    began: Instant,
    under_way: AtomicUsize,
    last: AtomicU64,
}

/// How far the copier is.
#[derive(Default)]
struct Copying {
    copied: AtomicU64,
    done: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl LiveExport {
    /// Opens target and state, begins or goes on, and sets the copier to work; `repository` must hold neither.
    pub async fn open(
        name: &Name,
        offer: &Offer,
        backups: &Backups,
        repository: Option<&Path>,
    ) -> Result<LiveExport> {
        let asked = backups.find(&offer.backup).await;
        let begun = match offer.state.try_exists().context(|| format!("look at {}", offer.state.display()))? {
            true => match side::find(&offer.state, "state", 0, repository)? {
                Found::Used(file, header) => Some((file, header)),
                Found::Blank(_) => None,
            },
            false => None,
        };
        let (backup, side, fresh) = match begun {
            None => {
                let backup = asked?;
                let (side, fresh) = begin(offer, &backup, repository)?;
                (Some(backup), side, fresh)
            }
            Some((file, header)) => {
                let backup = agreed(offer, &header, asked, backups).await;
                let side = go_on(offer, file, header, repository)?;
                let complete = is_complete(&side);
                // A target that stands alone needs its backup no more.
                let backup = if complete { backup.ok() } else { Some(backup?) };
                (backup, side, false)
            }
        };
        let (header, block) = (side.map().header().clone(), side.map().block());
        let of = backup.as_ref().map_or("a backup".to_owned(), |backup| reference_to(backup));
        let info = Info {
            block_sizes: BlockSizes { minimum: 1, preferred: u32::try_from(block).unwrap_or(4096) },
            name: Some(name.clone()),
            description: format!("live restore of {of} onto {}", offer.target.display()),
            multi_conn: true,
            trim: true,
            fast_zero: true,
            contexts: vec![DEPTH.to_owned()],
            ..Info::writable(header.size)
        };
        let layer = Layer::new(Below::new(backup.clone()), side, header.size);
        let live = Arc::new(Live {
            shown: format!("live restore {name} onto {}", offer.target.display()),
            info,
            layer: Arc::new(layer),
            traffic: Arc::default(),
            guest: Guest { began: Instant::now(), under_way: AtomicUsize::new(0), last: AtomicU64::new(0) },
            copy: Copying::default(),
            engine: Arc::clone(backups.engine()),
            pin: header.id,
            holes_at_once: if fresh { 1 << 20 } else { 1 },
        });
        let copier = match backup {
            Some(backup) if !live.is_complete() => {
                let by = format!("{}, state {}", live.shown, offer.state.display());
                pin(&live.engine, live.pin, backup.id(), by).await;
                Some(tokio::spawn(copier::copy(Arc::clone(&live), backup)))
            }
            _ => {
                live.finish().await;
                None
            }
        };
        Ok(LiveExport { live, copier: Mutex::new(copier) })
    }

    /// What clients did with it.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.live.traffic
    }

    /// How far it is.
    pub fn facts(&self) -> Value {
        let live = &self.live;
        let trouble = live.copy.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (size, here) = (live.info.size, live.layer.side().map().present_bytes());
        let mut facts = Map::new();
        let mut add = |key: &str, value: Value| drop(facts.insert(key.to_owned(), value));
        add("state", json!(if live.copy.done.load(Relaxed) { "done" } else { "copying" }));
        add("size", json!(size));
        add("present", json!(here.min(size)));
        add("copied", json!(live.copy.copied.load(Relaxed)));
        add("trouble", json!(trouble));
        Value::Object(facts)
    }

    /// Stops copying; what is there is flushed.
    pub async fn stop(&self) -> Result<()> {
        let copier = self.copier.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(copier) = copier {
            copier.abort();
            let _ended = copier.await;
        }
        let flushed = self.live.layer.flush().await;
        flushed.map_err(|why| Error::new(Kind::Target, format!("flush the {}: {why}", self.live.shown)))
    }
}

/// Begins on a target that nobody uses. Only then a state is made.
fn begin(offer: &Offer, backup: &BackupExport, repository: Option<&Path>) -> Result<(Side, bool)> {
    let size = backup.info().size;
    let held = hold_target(offer, size, repository)?;
    let fresh = held.facts.what != What::Block;
    let unused = match fresh {
        true if held.verdict.create => true,
        true => matches!(
            rustix::fs::seek(&held.file, rustix::fs::SeekFrom::Data(0)),
            Err(rustix::io::Errno::NXIO)
        ),
        false => looks_unused(&held.file, held.facts.size)
            .context(|| format!("look at the target {}", offer.target.display()))?,
    };
    if !unused {
        let words = format!(
            "restore onto {}: it holds data, and the state {} says nothing of it",
            offer.target.display(),
            offer.state.display()
        );
        return Err(Error::new(Kind::Refused, words)
            .hint("name the state that was begun with it, another target, or wipe this one (blkdiscard, truncate -s 0)"));
    }
    let note = json!({
        "live": reference_to(backup),
        "repository": backup.image().engine().home(),
        "target": held.facts.fingerprint,
    });
    let header = side::header_apart(size, note.to_string().into_bytes())?;
    let len = block_for(size).map_or(0, |block| place_of(pages_of(size, block), 0));
    let Found::Blank(state) = side::find(&offer.state, "state", len, repository)? else {
        let words = format!("open the state {}: somebody has just begun it", offer.state.display());
        return Err(Error::new(Kind::Busy, words));
    };
    let side = Side::begin_target(held.file, fresh, (state, &offer.state), header)?;
    Ok((side, fresh))
}

fn go_on(offer: &Offer, state: File, header: Header, repository: Option<&Path>) -> Result<Side> {
    let refused = |why: &str| {
        let words =
            format!("go on with {} by the state {}: {why}", offer.target.display(), offer.state.display());
        Error::new(Kind::Refused, words)
    };
    let exists = offer.target.try_exists();
    if !exists.context(|| format!("look at the target {}", offer.target.display()))? {
        return Err(refused("the target is gone").hint("remove the state to begin anew"));
    }
    let note = note_in(&header).ok_or_else(|| refused("it is not the state of a live restore"))?;
    let held = hold_target(offer, header.size, repository)?;
    // A restored machine may number its devices anew; what can't be told from another one is believed.
    if held.facts.fingerprint.is_some() && note["target"] != json!(held.facts.fingerprint) {
        return Err(refused("it belongs to another target").hint("name that target, or another state"));
    }
    Side::resume_target(held.file, (state, &offer.state), header)
}

fn hold_target(offer: &Offer, size: u64, repository: Option<&Path>) -> Result<Held> {
    let wish = Wish { size, sector: None, force: false };
    hold(&offer.target, &wish, Guarded { source: None, repository })
}

fn note_in(header: &Header) -> Option<Value> {
    let note: Value = serde_json::from_slice(&header.note).ok()?;
    note["live"].is_string().then_some(note)
}

/// The backup that was begun with, held to what the call says now. `NAME` or `NAME@latest` may mean a later one by now.
async fn agreed(
    offer: &Offer,
    header: &Header,
    asked: Result<Arc<BackupExport>>,
    backups: &Backups,
) -> Result<Arc<BackupExport>> {
    let refused = |why: String| {
        Error::new(Kind::Refused, format!("go on by the state {}: {why}", offer.state.display()))
    };
    let note = note_in(header).ok_or_else(|| refused("it is not the state of a live restore".to_owned()))?;
    if note["repository"] != json!(backups.engine().home()) {
        return Err(refused("it was begun from another repository".to_owned()));
    }
    let begun = note["live"].as_str().unwrap_or_default();
    let backup = backups.find(begun).await?;
    if super::overlay::is_other(&offer.backup, asked.ok().as_deref(), &backup)? {
        let why = format!("it was begun from {begun}, not from {}", offer.backup);
        return Err(refused(why).hint("name that backup, or another target and state"));
    }
    Ok(backup)
}

fn reference_to(backup: &BackupExport) -> String {
    format!("{}/{}", backup.id(), backup.item())
}

/// Whether a device shows nothing but zeroes at its edges and in samples between. All of it is made zero or written in any case: this is for
/// people who named the wrong one.
fn looks_unused(file: &File, size: u64) -> std::io::Result<bool> {
    let mut buffer = vec![0; EDGE_LEN as usize];
    let places = (1..SAMPLES).map(|number| (size / SAMPLES * number, SAMPLE_LEN));
    let edges = [(0, EDGE_LEN), (size.saturating_sub(EDGE_LEN), EDGE_LEN)];
    for (at, len) in edges.into_iter().chain(places) {
        let part = &mut buffer[..len.min(size - at) as usize];
        file.read_exact_at(part, at)?;
        if !crate::image::is_zero(part) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_complete(side: &Side) -> bool {
    let map = side.map();
    let size = map.header().size;
    size == 0 || map.run(0, size) == (State::Present, size)
}

impl Live {
    fn block(&self) -> u64 {
        self.layer.side().map().block()
    }

    fn is_complete(&self) -> bool {
        is_complete(self.layer.side())
    }

    /// All of it is on the target: says so, and lets the backup go.
    async fn finish(&self) {
        self.copy.done.store(true, Relaxed);
        *self.copy.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!(target: AUDIT, "{}: done, the target stands alone", self.shown);
        if let Ok(repository) = self.engine.repository() {
            unpin(repository, self.pin, &self.shown).await;
        }
    }

    /// A request of the guest, for as long as what is returned lives.
    fn guest(self: &Arc<Self>) -> AtWork {
        let _before = self.guest.under_way.fetch_add(1, Relaxed);
        AtWork(Arc::clone(self))
    }
}

impl Copying {
    fn fail(&self, why: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

impl Guest {
    fn is_busy(&self, quiet: Duration) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.last.load(Relaxed);
        self.under_way.load(Relaxed) > 0 || (last > 0 && u128::from(now - last.min(now)) < quiet.as_millis())
    }
}

struct AtWork(Arc<Live>);

impl Drop for AtWork {
    fn drop(&mut self) {
        let guest = &self.0.guest;
        guest
            .last
            .store(u64::try_from(guest.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1), Relaxed);
        let _before = guest.under_way.fetch_sub(1, Relaxed);
    }
}

impl Export for LiveExport {
    fn info(&self) -> Info {
        self.live.info.clone()
    }

    fn attach(&self, _peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        self.live.traffic.came();
        Answer::ok(None)
    }

    fn detach(&self, _peer: &Peer, clean: bool) -> Answer<()> {
        let live = Arc::clone(&self.live);
        to_the_end(async move {
            let flushed = live.layer.flush().await;
            if live.traffic.left(clean) {
                tracing::info!(target: AUDIT, "{}: so far {}", live.shown, live.traffic.summary());
            }
            flushed
        })
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let work = self.live.guest();
        self.live.traffic.read(len.into());
        match self.live.layer.read(offset, len) {
            Answer::Now(now) => Answer::Now(now),
            later => Answer::later(async move {
                let read = later.wait().await;
                drop(work);
                read
            }),
        }
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        let (live, work) = (Arc::clone(&self.live), self.live.guest());
        live.traffic.wrote(data.len() as u64);
        to_the_end(async move {
            live.layer.write(offset, data).await?;
            drop(work);
            if fua { live.layer.flush().await } else { Ok(()) }
        })
    }

    fn flush(&self) -> Answer<()> {
        let live = Arc::clone(&self.live);
        live.traffic.synced();
        to_the_end(async move { live.layer.flush().await })
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.zero(offset, len, Zeroing { fua, ..Zeroing::default() })
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        let (live, work) = (Arc::clone(&self.live), self.live.guest());
        live.traffic.zeroed(len);
        to_the_end(async move {
            live.layer.zero(offset, len, how).await?;
            drop(work);
            if how.fua { live.layer.flush().await } else { Ok(()) }
        })
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let layer = Arc::clone(&self.live.layer);
        from_repository(async move { layer.status(offset..offset + len, one, Flags::of(context)).await })
    }
}
