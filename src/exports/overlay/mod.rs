//! An overlay as an export: a backup that can be written to, with what is written kept beside it. The backup stays as it is.
//!
//! read  -> map -> present: the side file · zero: nothing · base: the backup
//! write -> parts of blocks completed with what lies below -> side file -> map -> (flush: data, sync, pages, sync) -> answer
//!
//! All connections of one name share one overlay. Whole blocks and parts of blocks that are present are written side by side; a block that is
//! completed from below is written alone, so that no other write gets between what was read and what is written.

mod side;

use super::answer::{failed, from_repository, to_the_end};
use super::backup::{BackupExport, DEPTH, stretches};
use super::blockmap::State;
use super::blockmap::page::Header;
use super::house::Backups;
use super::watch::Traffic;
use crate::error::{Error, Kind, Result};
use crate::repo::refs::{Reference, Which};
use afterimage_nbd::export::{
    Answer, BlockSizes, Export, Extent, Info, Part, Parts, Peer, Result as Served, Zeroing,
};
use afterimage_nbd::server::AUDIT;
use afterimage_nbd::wire::state;
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use side::{Found, Side};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::RwLock;

/// The context that says what was written.
pub const WRITTEN: &str = "qemu:dirty-bitmap:written";
/// Extents in one answer; clients ask on.
const EXTENTS_MAX: usize = 4096;

/// Which overlay, and where its writes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it lies on: any reference to a backup.
    pub backup: String,
    /// The file that outlives the server; none: one without a name.
    pub keep: Option<PathBuf>,
}

/// A backup with writes beside it.
pub struct OverlayExport(Arc<Overlay>);

struct Overlay {
    base: Arc<BackupExport>,
    side: Side,
    info: Info,
    /// Held alone by who completes a block, together by all other writers.
    order: RwLock<()>,
    traffic: Arc<Traffic>,
}

impl OverlayExport {
    /// Makes one, or goes on with the one that is kept; `repository` must not hold its file.
    pub async fn open(offer: &Offer, backups: &Backups, repository: Option<&Path>) -> Result<OverlayExport> {
        let Some(path) = &offer.keep else {
            let base = backups.find(&offer.backup).await?;
            let side = Side::temporary(base.info().size)?;
            return Ok(OverlayExport::over(base, side, None));
        };
        // How large a new file becomes says the backup; one that is there says itself on which backup it lies.
        let asked = backups.find(&offer.backup).await;
        let size = asked.as_ref().map_or(0, |base| base.info().size);
        match side::find(path, size, repository)? {
            Found::Blank(file) => {
                let base = asked?;
                let side = Side::begin(file, path, size, note_of(&base))?;
                Ok(OverlayExport::over(base, side, Some(path)))
            }
            Found::Used(file, header) => {
                let base = backups.find(&reference_in(&header.note, path, backups)?).await?;
                agree(offer, path, asked.ok(), &base)?;
                OverlayExport::resume(base, file, header, path)
            }
        }
    }

    /// Goes on with the one that is kept at `path`, on whichever backup it lies.
    pub async fn reopen(path: &Path, backups: &Backups, repository: Option<&Path>) -> Result<OverlayExport> {
        match side::find(path, 0, repository)? {
            Found::Blank(_) => {
                let words = format!("open the overlay {}: nothing was ever written to it", path.display());
                Err(Error::new(Kind::Missing, words))
            }
            Found::Used(file, header) => {
                let base = backups.find(&reference_in(&header.note, path, backups)?).await?;
                OverlayExport::resume(base, file, header, path)
            }
        }
    }

    fn resume(base: Arc<BackupExport>, file: File, header: Header, path: &Path) -> Result<OverlayExport> {
        if base.info().size != header.size {
            let words = format!("open the overlay {}: it is of another size than its backup", path.display());
            return Err(Error::new(Kind::Corrupt, words));
        }
        let side = Side::resume(file, path, header)?;
        Ok(OverlayExport::over(base, side, Some(path)))
    }

    fn over(base: Arc<BackupExport>, side: Side, path: Option<&Path>) -> OverlayExport {
        let below = base.info();
        let block = u32::try_from(side.map().block()).unwrap_or(4096);
        let place = path.map_or("thrown away at the end".to_owned(), |path| path.display().to_string());
        let info = Info {
            block_sizes: BlockSizes { minimum: 1, preferred: block },
            description: format!("overlay ({place}) on {}", below.description),
            multi_conn: true,
            trim: true,
            fast_zero: true,
            contexts: vec![DEPTH.to_owned(), WRITTEN.to_owned()],
            ..Info::writable(below.size)
        };
        let (order, traffic) = Default::default();
        OverlayExport(Arc::new(Overlay { base, side, info, order, traffic }))
    }

    /// What clients did with it.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.0.traffic
    }

    /// The backup that it lies on, as a reference that means nothing else.
    pub fn base(&self) -> String {
        reference_to(&self.0.base)
    }
}

fn reference_to(base: &BackupExport) -> String {
    format!("{}/{}", base.id(), base.item())
}

fn note_of(base: &BackupExport) -> Vec<u8> {
    let repository = base.image().engine().repository().id();
    json!({ "overlay": reference_to(base), "repository": repository }).to_string().into_bytes()
}

/// The backup that a kept overlay lies on.
fn reference_in(note: &[u8], path: &Path, backups: &Backups) -> Result<String> {
    let note: Value = serde_json::from_slice(note).unwrap_or_default();
    let refused =
        |why: &str| Error::new(Kind::Refused, format!("open the overlay {}: {why}", path.display()));
    if note["repository"] != json!(backups.engine().repository().id()) {
        return Err(refused("it lies on a backup of another repository"));
    }
    note["overlay"].as_str().map(str::to_owned).ok_or_else(|| refused("it is no overlay"))
}

/// The same call goes on with the same overlay, also when `NAME` or `NAME@latest` means a later backup by now; any other reference has to mean
/// the backup that it lies on.
fn agree(offer: &Offer, path: &Path, asked: Option<Arc<BackupExport>>, base: &BackupExport) -> Result<()> {
    let moves = matches!(Reference::parse(&offer.backup)?.backup, Which::Latest(..));
    match asked {
        Some(asked) if asked.id() == base.id() && asked.item() == base.item() => Ok(()),
        Some(asked) if moves && asked.item() == base.item() => {
            tracing::warn!("the overlay {} goes on with the backup {}", path.display(), base.id());
            Ok(())
        }
        None if moves => Ok(()),
        _ => {
            let words = format!(
                "open the overlay {}: it lies on {}, not on {}",
                path.display(),
                reference_to(base),
                offer.backup
            );
            Err(Error::new(Kind::Refused, words).hint("name that backup, or another file"))
        }
    }
}

impl Overlay {
    fn size(&self) -> u64 {
        self.info.size
    }

    /// Stretches of one state, in order.
    fn runs(&self, offset: u64, len: u64, most: usize) -> Vec<(State, Range<u64>)> {
        let (map, end) = (self.side.map(), offset + len);
        let mut runs = Vec::with_capacity(1);
        let mut at = offset;
        while at < end && runs.len() < most {
            let (state, until) = map.run(at, end);
            runs.push((state, at..until));
            at = until;
        }
        runs
    }

    fn read_run(&self, state: State, range: &Range<u64>) -> Answer<Parts> {
        // No read is longer than 32 bits.
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        match state {
            State::Base => self.base.read(range.start, len),
            State::Present => self.side.read(range.start, len),
            State::Zero => Answer::ok(Parts::One(Part::Hole(len))),
        }
    }

    async fn read_runs(&self, runs: &[(State, Range<u64>)]) -> Served<Parts> {
        let mut all = Vec::with_capacity(runs.len());
        for (state, range) in runs {
            let parts = self.read_run(*state, range).wait().await.map_err(|why| why.at(range.start))?;
            match parts {
                Parts::One(part) => all.push(part),
                Parts::Many(parts) => all.extend(parts),
            }
        }
        Ok(Parts::Many(all))
    }

    /// The block that holds an offset.
    fn block_at(&self, offset: u64) -> Range<u64> {
        let block = self.side.map().block();
        let start = offset / block * block;
        start..start.saturating_add(block).min(self.size())
    }

    /// The parts of blocks before and behind a range that have to come from below.
    fn edges(&self, range: &Range<u64>) -> [Range<u64>; 2] {
        let (first, last) = (self.block_at(range.start), self.block_at(range.end - 1));
        let map = self.side.map();
        let here = |at: u64| map.state(at / map.block()) == State::Present;
        let before = if here(range.start) { range.start } else { first.start };
        let behind = if here(range.end - 1) { range.end } else { last.end };
        [before..range.start, range.end..behind]
    }

    async fn write(&self, offset: u64, data: Bytes) -> Served<()> {
        let range = offset..offset + data.len() as u64;
        let edges = {
            let _together = self.order.read().await;
            let edges = self.edges(&range);
            if edges.iter().all(Range::is_empty) {
                return self.side.write(offset, data).await;
            }
            edges
        };
        // Fetched before anyone has to wait for it: the backup may be far away, and never changes.
        let below = [self.below(&edges[0]).await?, self.below(&edges[1]).await?];
        let _alone = self.order.write().await;
        // A block that somebody else completed meanwhile needs nothing more.
        let edges = self.edges(&range);
        let mut whole = BytesMut::with_capacity(below[0].len() + data.len() + below[1].len());
        self.complete(&mut whole, &edges[0], &below[0]);
        whole.extend_from_slice(&data);
        self.complete(&mut whole, &edges[1], &below[1]);
        self.side.write(edges[0].start, whole.freeze()).await
    }

    /// Adds what an edge is now: zeroes, or what the backup has. No block that had a state becomes the backup's again, so what is needed
    /// now was fetched.
    fn complete(&self, whole: &mut BytesMut, edge: &Range<u64>, below: &[u8]) {
        let map = self.side.map();
        match map.state(edge.start / map.block()) {
            _ if edge.is_empty() => {}
            State::Zero => whole.resize(whole.len() + (edge.end - edge.start) as usize, 0),
            _ => whole.extend_from_slice(below),
        }
    }

    /// What the backup has for a range.
    async fn below(&self, range: &Range<u64>) -> Served<Bytes> {
        let len = (range.end - range.start) as usize;
        let read = self.base.image().read_at(range.start, len).await;
        read.map_err(|why| failed(&why).at(range.start))
    }

    async fn zero(&self, offset: u64, len: u64, provisioned: bool) -> Served<()> {
        let (block, end) = (self.side.map().block(), offset + len);
        let first = offset.div_ceil(block) * block;
        let last = if end == self.size() { end } else { end / block * block };
        if first >= last {
            return self.write(offset, Bytes::from(vec![0; len as usize])).await;
        }
        {
            let _together = self.order.read().await;
            self.side.zero(first..last, provisioned).await?;
        }
        for edge in [offset..first, last..end] {
            if !edge.is_empty() {
                self.write(edge.start, Bytes::from(vec![0; (edge.end - edge.start) as usize])).await?;
            }
        }
        Ok(())
    }

    async fn status(&self, context: usize, offset: u64, len: u64, one: bool) -> Served<Vec<Extent>> {
        let most = if one { 1 } else { EXTENTS_MAX };
        let mut extents = Vec::new();
        for (state, range) in self.runs(offset, len, most) {
            let len = range.end - range.start;
            let flags = match (context, state) {
                (0, State::Present) => 0,
                (0, State::Zero) => state::HOLE | state::ZERO,
                (1, State::Present | State::Zero) => 1,
                (2, State::Base) => 0,
                (2, _) => 1,
                (context, State::Base) => {
                    let flags = if context == 0 { [state::HOLE | state::ZERO, 0] } else { [0, 2] };
                    let below = stretches(self.base.image(), range.start, len, one, flags).await;
                    let below = below.map_err(|why| failed(&why).at(range.start))?;
                    let covered: u64 = below.iter().map(|extent| extent.len).sum();
                    extents.extend(below);
                    if covered < len {
                        break;
                    }
                    continue;
                }
                _ => 0,
            };
            extents.push(Extent { len, flags });
        }
        Ok(extents)
    }
}

impl Export for OverlayExport {
    fn info(&self) -> Info {
        self.0.info.clone()
    }

    fn attach(&self, _peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        self.0.traffic.came();
        Answer::ok(None)
    }

    fn detach(&self, _peer: &Peer, clean: bool) -> Answer<()> {
        let overlay = Arc::clone(&self.0);
        to_the_end(async move {
            let flushed = overlay.side.flush().await;
            if overlay.traffic.left(clean) && overlay.side.is_kept() {
                tracing::info!(target: AUDIT, "{}: so far {}", overlay.info.description, overlay.traffic.summary());
            }
            flushed
        })
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.0.traffic.read(len.into());
        let runs = self.0.runs(offset, len.into(), usize::MAX);
        if let [(state, range)] = runs.as_slice() {
            return self.0.read_run(*state, range);
        }
        let overlay = Arc::clone(&self.0);
        from_repository(async move { overlay.read_runs(&runs).await })
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        let overlay = Arc::clone(&self.0);
        overlay.traffic.wrote(data.len() as u64);
        to_the_end(async move {
            overlay.write(offset, data).await?;
            if fua { overlay.side.flush().await } else { Ok(()) }
        })
    }

    fn flush(&self) -> Answer<()> {
        let overlay = Arc::clone(&self.0);
        overlay.traffic.synced();
        to_the_end(async move { overlay.side.flush().await })
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.zero(offset, len, Zeroing { fua, ..Zeroing::default() })
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        let overlay = Arc::clone(&self.0);
        overlay.traffic.zeroed(len);
        to_the_end(async move {
            overlay.zero(offset, len, how.no_hole).await?;
            if how.fua { overlay.side.flush().await } else { Ok(()) }
        })
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let overlay = Arc::clone(&self.0);
        from_repository(async move { overlay.status(context, offset, len, one).await })
    }
}
