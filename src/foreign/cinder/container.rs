//! A container: which backups lie in it, and their images.
//!
//! A list costs one listing of the store; documents are read once, and what they say is kept on this machine ([`super::index`]).

use super::catalogue::Catalogue;
use super::digests::Pages;
use super::document::Uuid;
use super::draft::{self, Draft};
use super::image::Image as Made;
use super::index;
use super::layers::Layers;
use super::scan::{Found, scan};
use super::stored::Folder;
use crate::error::{Error, Kind, Result};
use crate::format::record::{Record, Root};
use crate::format::shown::Shown;
use crate::format::{BackupId, ChunkId, RepositoryId};
use crate::image::{Engine, Image, Library};
use crate::repo::catalogue::Listing;
use crate::repo::refs::{Reference, choose};
use crate::store::{AnyStore, Fut};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::xxh3_128;

/// How many backups' documents are read at once.
const AT_ONCE: usize = 16;
/// What part of the budget pages of digests may take.
const PAGES_PART: u64 = 16;

/// Backups that Cinder wrote, in one place.
pub struct Container {
    engine: Arc<Engine>,
    layers: Arc<Layers>,
    pages: Arc<Pages>,
    cache: PathBuf,
    loaded: OnceCell<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    catalogue: Option<Arc<Catalogue>>,
    /// What is known of each prefix.
    drafts: HashMap<String, Arc<Draft>>,
}

impl Container {
    /// The container in a store, which is read and nothing else. `cache` is where this machine keeps what can be made again.
    pub fn open(store: AnyStore, cache: &Path, runtime: Handle, memory: u64) -> Result<Arc<Container>> {
        let home = RepositoryId(xxh3_128(store.place().as_bytes()).to_be_bytes());
        let cache = cache.join("cinder").join(home.to_string());
        let engine = Engine::foreign(home, runtime.clone(), memory)?;
        let pages = usize::try_from(memory / PAGES_PART).unwrap_or(usize::MAX);
        let layers = Layers::new(store, runtime, Folder::open(&cache));
        Ok(Arc::new(Container {
            engine,
            layers: Arc::new(layers),
            pages: Arc::new(Pages::new(pages)),
            cache,
            loaded: OnceCell::new(),
            state: Mutex::default(),
        }))
    }

    /// What it reads from.
    pub fn store(&self) -> &AnyStore {
        &self.layers.store
    }

    fn image(&self, catalogue: Arc<Catalogue>, backup: BackupId, id: ChunkId, len: u64, chunk: u64) -> Made {
        let (layers, pages) = (Arc::clone(&self.layers), Arc::clone(&self.pages));
        Made { layers, pages, catalogue, backup, id, len, chunk: chunk.max(1), open: OnceCell::new() }
    }

    /// The image of a backup, if it is one.
    pub(super) fn made(&self, catalogue: &Arc<Catalogue>, backup: BackupId) -> Option<Made> {
        let image = catalogue.get(backup)?.image?;
        Some(self.image(Arc::clone(catalogue), backup, image.id, image.size, image.chunk))
    }

    /// Which backups there are now.
    pub(super) async fn catalogue(&self) -> Result<Arc<Catalogue>> {
        let (found, ()) = tokio::join!(scan(&*self.layers.store), self.load());
        let found = found?;
        let (mut known, old) = {
            let state = self.state();
            (state.drafts.clone(), state.catalogue.clone())
        };
        let (mut drafts, mut unknown) = (Vec::with_capacity(found.len()), Vec::new());
        for found in found.into_values() {
            match known
                .remove(&found.path)
                .filter(|draft| !draft.is_stale() && same_documents(&draft.found, &found))
            {
                Some(draft) if draft.found == found => drafts.push(draft),
                Some(draft) => drafts.push(Arc::new(Draft { found, ..Draft::clone(&draft) })),
                None => unknown.push(found),
            }
        }
        let changed = !unknown.is_empty() || !known.is_empty();
        if let Some(old) = old.filter(|old| !changed && is_same(old, &drafts)) {
            return Ok(old);
        }
        drafts.extend(self.read(unknown).await?);
        drafts.sort_by(|a, b| a.found.path.cmp(&b.found.path));
        if changed {
            let kept = drafts.iter().map(|draft| &**draft).filter(|draft| draft.shut.is_none());
            index::keep(&self.cache, &kept.collect::<Vec<_>>());
        }
        let by_path = drafts.iter().map(|draft| (draft.found.path.clone(), Arc::clone(draft))).collect();
        let catalogue = Arc::new(Catalogue::new(drafts, self.engine.home()));
        let mut state = self.state();
        state.drafts = by_path;
        state.catalogue = Some(Arc::clone(&catalogue));
        Ok(catalogue)
    }

    /// Loads what is kept on this machine, once; whoever asks meanwhile waits for it. What can't be loaded is read again.
    async fn load(&self) {
        let load = async {
            let cache = self.cache.clone();
            let kept = tokio::task::spawn_blocking(move || index::load(&cache)).await.unwrap_or_default();
            let drafts = kept.into_iter().map(|draft| (draft.found.path.clone(), Arc::new(draft)));
            self.state().drafts = drafts.collect();
        };
        let () = *self.loaded.get_or_init(|| load).await;
    }

    /// Reads the documents of some backups.
    async fn read(&self, found: Vec<Found>) -> Result<Vec<Arc<Draft>>> {
        let mut drafts = Vec::with_capacity(found.len());
        for some in found.chunks(AT_ONCE) {
            let reads = some.iter().map(|found| draft::read(&self.layers.store, found));
            for draft in crate::repo::together(reads).await {
                drafts.push(Arc::new(draft?));
            }
        }
        Ok(drafts)
    }

    /// What was known a moment ago, or is now.
    async fn known(&self) -> Result<Arc<Catalogue>> {
        let known = self.state().catalogue.clone();
        match known {
            Some(catalogue) => Ok(catalogue),
            None => self.catalogue().await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether both documents are those that were read.
fn same_documents(a: &Found, b: &Found) -> bool {
    (a.metadata, a.hashes) == (b.metadata, b.hashes)
}

/// Whether a catalogue was made of just these.
fn is_same(catalogue: &Catalogue, drafts: &[Arc<Draft>]) -> bool {
    let mut old: Vec<&Found> = catalogue.backups.iter().map(|known| &known.draft.found).collect();
    old.sort_by(|a, b| a.path.cmp(&b.path));
    old.iter().copied().eq(drafts.iter().map(|draft| &draft.found))
}

impl Library for Container {
    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn list(&self) -> Fut<'_, Listing> {
        Box::pin(async move {
            let catalogue = self.catalogue().await?;
            let records = catalogue.backups.iter().map(|known| known.record.clone()).collect();
            Ok(Listing { records, damaged: Vec::new() })
        })
    }

    fn ids(&self) -> Fut<'_, Vec<BackupId>> {
        Box::pin(async move {
            let catalogue = self.catalogue().await?;
            Ok(catalogue.backups.iter().map(|known| known.record.id).collect())
        })
    }

    fn record(&self, id: BackupId) -> Fut<'_, Record> {
        Box::pin(async move {
            let known = self.known().await?.get(id).map(|known| known.record.clone());
            let missing = || Error::new(Kind::Missing, format!("there is no backup {}", Uuid::from(id)));
            known.ok_or_else(|| missing().hint("afterimage list shows what there is"))
        })
    }

    fn find<'a>(&'a self, reference: &'a Reference) -> Fut<'a, Record> {
        Box::pin(async move {
            let catalogue = self.catalogue().await?;
            let records: Vec<Record> = catalogue.backups.iter().map(|known| known.record.clone()).collect();
            choose(&records, &reference.backup)
        })
    }

    fn open(&self, _home: RepositoryId, backup: BackupId, root: &Root, len: u64) -> Image {
        let catalogue = self.state().catalogue.clone().unwrap_or_default();
        let made = self.image(catalogue, backup, root.id, len, root.chunk_size.into());
        Image::of(Arc::clone(&self.engine), Arc::new(made))
    }

    fn shown<'a>(&self, record: &'a Record) -> Shown<'a> {
        let mut shown = Shown::of(record);
        shown.id = Uuid::from(record.id).to_string();
        shown.parent = record.parent.map(|parent| Uuid::from(parent).to_string());
        shown.origin = "cinder";
        shown
    }
}
