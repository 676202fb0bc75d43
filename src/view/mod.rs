//! The tree that people browse: every backup as a read-only image file, or as the directory that it was.
//!
//! ```text
//! volumes/<name>/<time>/disk.img      the image (several: each under its item's name)
//! volumes/<name>/<time>/backup.json   the record
//! volumes/<name>/latest -> <time>
//! shares/<name>/<time>/tree/...       a share as it was: modes, owners, times, attributes, links
//! sets/<name>/<time>/<item>...        the same for backups that hold images and trees
//! ids/<id> -> ../volumes/<name>/<time>
//! ```
//!
//! library -> [`Contents`] (which backups there are, never changing) -> [`Node`] (one file) -> [`File`] (its bytes)
//!
//! [`View`] holds the contents and sees to it that they are young. Everything else here is plain: it takes contents and gives
//! an answer. **Invariant:** knows neither FUSE nor HTTP, and writes nothing.

pub mod changes;
mod contents;
mod file;
pub mod fuzz;
mod name;
mod neighbours;
mod node;
mod number;
pub mod pattern;
mod refresh;
mod share;
pub mod versions;

pub use contents::{Backup, Contents, Group, ImageItem, Kind, Shown, TreeItem, time_name};
pub use file::{File, Find};
pub use name::{escape, unescape};
pub use node::{Entry, Facts, Node, Sort};
pub use refresh::YOUNG;
pub use share::{Folder, Inside, Share};

use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::format::record::Record;
use crate::format::{BackupId, RepositoryId};
use crate::image::tree::Tree;
use crate::image::{Engine, Library};
use bytes::Bytes;
use lru::LruCache;
use refresh::Kept;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// How many `backup.json` are kept: who looks at one opens it next.
const RECORDS_KEPT: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not zero");
/// Longer ones are made anew each time.
const RECORD_LEN_KEPT: usize = 64 * 1024;
/// How many trees are kept open: each has some directories with it.
const SHARES_KEPT: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");
/// How many records are read at once; a store that hangs keeps that many threads and no more.
const RECORDS_AT_ONCE: usize = 8;

/// Trees by where their backup lies, which it is, and their number in it.
type Shares = LruCache<(RepositoryId, BackupId, usize), Arc<Share>>;

/// The tree over the backups of one place. Cheap to clone.
#[derive(Clone)]
pub struct View {
    library: Arc<dyn Library>,
    kept: Arc<Kept>,
    records: Arc<Mutex<LruCache<BackupId, Bytes>>>,
    shares: Arc<Mutex<Shares>>,
    reading: Arc<Semaphore>,
}

impl View {
    /// A view of what the library knows.
    pub fn new(library: Arc<dyn Library>) -> View {
        let kept = Kept::new(Arc::clone(&library));
        let records = Arc::new(Mutex::new(LruCache::new(RECORDS_KEPT)));
        let shares = Arc::new(Mutex::new(LruCache::new(SHARES_KEPT)));
        View { library, kept, records, shares, reading: Arc::new(Semaphore::new(RECORDS_AT_ONCE)) }
    }

    /// Which backups there are, if that was known some seconds ago. Never waits.
    pub fn now(&self) -> Option<Arc<Contents>> {
        self.kept.now()
    }

    /// Which backups there are.
    pub async fn look(&self) -> Result<Arc<Contents>> {
        self.kept.look().await
    }

    /// What reads the images.
    pub fn engine(&self) -> &Arc<Engine> {
        self.library.engine()
    }

    /// A backup's `backup.json`, if it was looked at lately.
    pub fn record_now(&self, backup: &Backup) -> Option<Bytes> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(&backup.id).cloned()
    }

    /// A backup's `backup.json`.
    pub async fn record(&self, backup: &Backup) -> Result<Bytes> {
        if let Some(json) = self.record_now(backup) {
            return Ok(json);
        }
        let record = self.read_record(backup.id).await?;
        let json = serde_json::to_string_pretty(&self.library.json(&record))
            .map_err(|error| Error::new(ErrorKind::Unsupported, "write a record as JSON").caused_by(error))?;
        let json = Bytes::from(json + "\n");
        if json.len() <= RECORD_LEN_KEPT {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let _before = records.put(backup.id, json.clone());
        }
        Ok(json)
    }

    /// A local store is read in a way that blocks.
    async fn read_record(&self, id: BackupId) -> Result<Record> {
        let gone =
            |_| Error::new(ErrorKind::Interrupted, format!("read the record of backup {id}: given up"));
        let permit = Arc::clone(&self.reading).acquire_owned().await.map_err(|_| gone(()))?;
        let (library, runtime) = (Arc::clone(&self.library), self.engine().runtime().clone());
        let reading = self.engine().runtime().spawn_blocking(move || {
            let _permit = permit;
            runtime.block_on(library.record(id))
        });
        reading.await.map_err(|_| gone(()))?
    }

    /// A tree of a backup.
    pub fn share(&self, shown: &Shown, number: usize) -> Result<Arc<Share>> {
        let tree = shown.backup.trees.get(number);
        let tree =
            tree.ok_or_else(|| Error::new(ErrorKind::Missing, "there is no such tree in the backup"))?;
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.get_or_insert((shown.backup.home, shown.backup.id, number), || {
            let engine = self.engine().of_home(shown.backup.home);
            Arc::new(Share::new(Tree::new(engine, tree.root), shown, number))
        });
        Ok(Arc::clone(share))
    }

    /// Opens an image.
    pub fn open_image(&self, shown: &Shown, number: usize) -> Result<File> {
        let image = shown.backup.images.get(number);
        let missing = || Error::new(ErrorKind::Missing, "there is no such image in the backup");
        let ImageItem { root, size, .. } = image.ok_or_else(missing)?;
        Ok(File::image(self.library.open(shown.backup.home, shown.backup.id, root, *size)))
    }

    /// Opens `backup.json`.
    pub async fn open_record(&self, shown: &Shown) -> Result<File> {
        let json = self.record(&shown.backup).await;
        json.map(File::bytes).context(|| format!("open the record of backup {}", shown.backup.id))
    }
}
