//! Which backups there are, and their images: what a repository of ours knows, or whoever reads what another program wrote. Everything that
//! shows, serves, checks or restores backups asks one of these, and sees no difference.

use super::{Engine, Image, Map};
use crate::format::record::{Record, Root};
use crate::format::shown::Shown;
use crate::format::{BackupId, RepositoryId};
use crate::repo::catalogue::Listing;
use crate::repo::refs::Reference;
use crate::store::Fut;
use serde_json::{Value, json};
use std::sync::Arc;

/// Whoever knows backups.
pub trait Library: Send + Sync + 'static {
    /// What reads their images.
    fn engine(&self) -> &Arc<Engine>;

    /// All backups, oldest first, and what could not be read.
    fn list(&self) -> Fut<'_, Listing>;

    /// Their ids, which may be known sooner.
    fn ids(&self) -> Fut<'_, Vec<BackupId>>;

    /// One of them.
    fn record(&self, id: BackupId) -> Fut<'_, Record>;

    /// The one that a reference means.
    fn find<'a>(&'a self, reference: &'a Reference) -> Fut<'a, Record>;

    /// An image of a backup, by what its record says: where it lies, which it is, what its map is. Reads nothing yet.
    fn open(&self, home: RepositoryId, backup: BackupId, root: &Root, len: u64) -> Image;

    /// A backup as people and scripts see it.
    fn shown<'a>(&self, record: &'a Record) -> Shown<'a> {
        Shown::of(record)
    }

    /// The same, to be added to.
    fn json(&self, record: &Record) -> Value {
        json!(self.shown(record))
    }
}

/// What a repository of ours knows.
pub struct Ours {
    engine: Arc<Engine>,
}

impl Ours {
    /// The repository that the engine reads from.
    pub fn new(engine: Arc<Engine>) -> Ours {
        Ours { engine }
    }
}

impl Library for Ours {
    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn list(&self) -> Fut<'_, Listing> {
        Box::pin(async move { self.engine.repository()?.list().await })
    }

    fn ids(&self) -> Fut<'_, Vec<BackupId>> {
        Box::pin(async move { self.engine.repository()?.backup_ids().await })
    }

    fn record(&self, id: BackupId) -> Fut<'_, Record> {
        Box::pin(async move { self.engine.repository()?.record(id).await })
    }

    fn find<'a>(&'a self, reference: &'a Reference) -> Fut<'a, Record> {
        Box::pin(async move { self.engine.repository()?.find(reference).await })
    }

    fn open(&self, home: RepositoryId, _backup: BackupId, root: &Root, len: u64) -> Image {
        Image::new(self.engine.of_home(home), Map { root: *root, len })
    }
}
