//! An overlay as an export: a backup that can be written to, with what is written kept beside it. The backup stays as it is.
//!
//! A `layer` over the backup; this room knows which file is whose. All connections of one name share one overlay.

use super::answer::{from_repository, to_the_end};
use super::backup::{BackupExport, DEPTH};
use super::blockmap::page::Header;
use super::house::Backups;
use super::layer::below::Below;
use super::layer::side::{self, Found, Side};
use super::layer::{Flags, Layer};
use super::pinned::{pin, unpin};
use super::watch::Traffic;
use crate::error::{Context, Error, Kind, Result};
use crate::repo::Repository;
use crate::repo::refs::{Reference, Which};
use afterimage_nbd::export::{Answer, BlockSizes, Export, Extent, Info, Parts, Peer, Zeroing};
use afterimage_nbd::server::AUDIT;
use bytes::Bytes;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The context that says what was written.
pub const WRITTEN: &str = "qemu:dirty-bitmap:written";

/// Which overlay, and where its writes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it lies on: any reference to a backup.
    pub backup: String,
    /// The file that outlives the server; none: one without a name.
    pub keep: Option<PathBuf>,
}

/// A backup with writes beside it.
pub struct OverlayExport {
    base: Arc<BackupExport>,
    layer: Arc<Layer>,
    info: Info,
    traffic: Arc<Traffic>,
}

impl OverlayExport {
    /// Makes one, or goes on with the one that is kept; `repository` must not hold its file.
    pub async fn open(offer: &Offer, backups: &Backups, repository: Option<&Path>) -> Result<OverlayExport> {
        let Some(path) = &offer.keep else {
            let base = backups.find(&offer.backup).await?;
            let side = Side::temporary(base.info().size, "an overlay")?;
            return Ok(OverlayExport::over(base, side, None));
        };
        // How large a new file becomes says the backup; one that is there says itself on which backup it lies.
        let asked = backups.find(&offer.backup).await;
        let size = asked.as_ref().map_or(0, |base| base.info().size);
        match side::find(path, "overlay", side::len_of_overlay(size)?, repository)? {
            Found::Blank(file) => {
                let base = asked?;
                let side = Side::begin(file, path, size, note_of(&base))?;
                Ok(OverlayExport::kept(base, side, path).await)
            }
            Found::Used(file, header) => {
                let base = backups.find(&reference_in(&header.note, path, backups)?).await?;
                agree(offer, path, asked.ok(), &base)?;
                OverlayExport::resume(base, file, header, path).await
            }
        }
    }

    /// Goes on with the one that is kept at `path`, on whichever backup it lies.
    pub async fn reopen(path: &Path, backups: &Backups, repository: Option<&Path>) -> Result<OverlayExport> {
        match side::find(path, "overlay", 0, repository)? {
            Found::Blank(_) => {
                let words = format!("open the overlay {}: nothing was ever written to it", path.display());
                Err(Error::new(Kind::Missing, words))
            }
            Found::Used(file, header) => {
                let base = backups.find(&reference_in(&header.note, path, backups)?).await?;
                OverlayExport::resume(base, file, header, path).await
            }
        }
    }

    /// Removes the one that is kept at `path` with all that was written to it; its backup is pinned no more.
    pub async fn remove(path: &Path, repository: &Repository) -> Result<()> {
        let what = || format!("remove the overlay {}", path.display());
        if !path.try_exists().context(what)? {
            return Err(Error::new(Kind::Missing, format!("{}: there is no such file", what())));
        }
        // Held until it is gone: nobody serves it meanwhile.
        let found = side::find(path, "overlay", 0, None)?;
        let Found::Used(_held, header) = found else {
            return Err(Error::new(Kind::Refused, format!("{}: it is no overlay, or an empty one", what())));
        };
        let note: Value = serde_json::from_slice(&header.note).unwrap_or_default();
        if note["repository"] != json!(repository.id()) || !note["overlay"].is_string() {
            let words = format!("{}: it is no overlay on a backup of this repository", what());
            return Err(Error::new(Kind::Refused, words));
        }
        std::fs::remove_file(path).context(what)?;
        unpin(repository, header.id, &path.display().to_string()).await;
        Ok(())
    }

    async fn resume(
        base: Arc<BackupExport>,
        file: File,
        header: Header,
        path: &Path,
    ) -> Result<OverlayExport> {
        if base.info().size != header.size {
            let words = format!("open the overlay {}: it is of another size than its backup", path.display());
            return Err(Error::new(Kind::Corrupt, words));
        }
        let side = Side::resume(file, path, header)?;
        Ok(OverlayExport::kept(base, side, path).await)
    }

    async fn kept(base: Arc<BackupExport>, side: Side, path: &Path) -> OverlayExport {
        let (map, by) = (side.map().header().id, format!("overlay {}", path.display()));
        pin(base.image().engine(), map, base.id(), by).await;
        OverlayExport::over(base, side, Some(path))
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
        let layer = Layer::new(Below::new(Some(Arc::clone(&base))), side, below.size);
        OverlayExport { base, layer: Arc::new(layer), info, traffic: Arc::default() }
    }

    /// What clients did with it.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// What clients wrote is kept when this returns, if it is to be, or that is an error.
    pub async fn stop(&self) -> Result<()> {
        let flushed = self.layer.flush().await;
        flushed.map_err(|why| Error::new(Kind::Target, format!("flush the {}: {why}", self.info.description)))
    }

    /// The backup that it lies on, as a reference that means nothing else.
    pub fn base(&self) -> String {
        reference_to(&self.base)
    }
}

fn reference_to(base: &BackupExport) -> String {
    format!("{}/{}", base.id(), base.item())
}

fn note_of(base: &BackupExport) -> Vec<u8> {
    let repository = base.image().engine().home();
    json!({ "overlay": reference_to(base), "repository": repository }).to_string().into_bytes()
}

/// The backup that a kept overlay lies on.
fn reference_in(note: &[u8], path: &Path, backups: &Backups) -> Result<String> {
    let note: Value = serde_json::from_slice(note).unwrap_or_default();
    let refused =
        |why: &str| Error::new(Kind::Refused, format!("open the overlay {}: {why}", path.display()));
    if note["repository"] != json!(backups.engine().home()) {
        return Err(refused("it lies on a backup of another repository"));
    }
    note["overlay"].as_str().map(str::to_owned).ok_or_else(|| refused("it is no overlay"))
}

fn agree(offer: &Offer, path: &Path, asked: Option<Arc<BackupExport>>, base: &BackupExport) -> Result<()> {
    if !is_other(&offer.backup, asked.as_deref(), base)? {
        if asked.is_some_and(|asked| asked.id() != base.id()) {
            tracing::warn!("the overlay {} goes on with the backup {}", path.display(), base.id());
        }
        return Ok(());
    }
    let words = format!(
        "open the overlay {}: it lies on {}, not on {}",
        path.display(),
        reference_to(base),
        offer.backup
    );
    Err(Error::new(Kind::Refused, words).hint("name that backup, or another file"))
}

/// Whether a reference, and the backup that it means now, is another one than something was begun with. The same call goes on also when `NAME` or
/// `NAME@latest` means a later backup by now; any other reference has to mean the same backup.
pub(super) fn is_other(reference: &str, asked: Option<&BackupExport>, begun: &BackupExport) -> Result<bool> {
    let moves = matches!(Reference::parse(reference)?.backup, Which::Latest(..));
    Ok(match asked {
        Some(asked) if asked.item() == begun.item() => asked.id() != begun.id() && !moves,
        Some(_) => true,
        None => !moves,
    })
}

impl Export for OverlayExport {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn attach(&self, _peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        self.traffic.came();
        Answer::ok(None)
    }

    fn detach(&self, _peer: &Peer, clean: bool) -> Answer<()> {
        let (layer, traffic) = (Arc::clone(&self.layer), Arc::clone(&self.traffic));
        let shown = self.info.description.clone();
        to_the_end(async move {
            let flushed = layer.flush().await;
            if traffic.left(clean) && layer.side().is_kept() {
                tracing::info!(target: AUDIT, "{shown}: so far {}", traffic.summary());
            }
            flushed
        })
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.traffic.read(len.into());
        self.layer.read(offset, len)
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        let layer = Arc::clone(&self.layer);
        self.traffic.wrote(data.len() as u64);
        to_the_end(async move {
            layer.write(offset, data).await?;
            if fua { layer.flush().await } else { Ok(()) }
        })
    }

    fn flush(&self) -> Answer<()> {
        let layer = Arc::clone(&self.layer);
        self.traffic.synced();
        to_the_end(async move { layer.flush().await })
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.zero(offset, len, Zeroing { fua, ..Zeroing::default() })
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        let layer = Arc::clone(&self.layer);
        self.traffic.zeroed(len);
        to_the_end(async move {
            layer.zero(offset, len, how).await?;
            if how.fua { layer.flush().await } else { Ok(()) }
        })
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let layer = Arc::clone(&self.layer);
        from_repository(async move { layer.status(offset..offset + len, one, Flags::of(context)).await })
    }
}
